"""An engine of our own, for machines where `dockerd` is installed and none runs (no systemd is needed).

Theory of operation. `dockerd` and all that it starts live in a control group of our own (see control_group.py) and
in a mount namespace of their own. In that namespace, and nowhere else:

- our folders appear under one neutral path, the same on every machine. A container reads the engine's paths in
  its /proc/self/mountinfo, and must not learn who its user is or where the repository lies. What the engine binds
  into a container by file (`containers`, `volumes`) would still show its path on the disk behind the bind, so these
  two are overlays: a file system whose root they are themselves. Where the disk carries no overlays (it is one
  itself: a container) the engine keeps all in memory instead;
- a system containerd is hidden, so that dockerd starts a private one; all run-time files lie in memory;
- the `unified` tree of a hybrid control group hierarchy is hidden: crun refuses such a hierarchy.

Nothing is ever mounted where others see it, and when the last process of the group is gone so are the mounts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..schemas.errors import PrerequisiteError, UsageError
from ..schemas.limits import MIB
from ..schemas.settings import Settings
from . import control_group, gvisor
from .control_group import ControlGroup
from .engine import connect, own_socket

Say = Callable[[str], None]

PING_SECONDS = 5
START_SECONDS = 30
STOP_SECONDS = 20
LOG_BYTES = 8 * MIB
"""Where the log is cut: the shims report every container to it, whatever `log-level` says."""

SOCKET_BYTES = 107
"""The longest address that the kernel takes for a unix socket."""

NEUTRAL = Path("/run/sandgate")
"""Where the engine sees its folders. Each engine sees its own: the path may be the same for all of them."""

INSTALL = "apt-get install docker.io crun"

_PATH = ":/usr/local/sbin:/usr/sbin:/sbin"

_DETACHED = ("setsid", "--fork", "unshare", "--mount", "--propagation", "private", "sh", "-c")

_INSIDE = """
set -e
mkdir -p "$NEUTRAL" /run/containerd
mount -t tmpfs -o mode=0711 sandgate "$NEUTRAL"
mount -t tmpfs -o mode=0711 sandgate /run/containerd
cd "$NEUTRAL"
mkdir data exec empty
mount --bind "$DATA" data
overlay() {
    mkdir -p "data/$1" "data/$1.work" &&
    mount -t overlay -o "lowerdir=$NEUTRAL/empty,upperdir=data/$1,workdir=data/$1.work" overlay "data/$1"
}
if ! { overlay containers && overlay volumes; }; then
    umount --recursive data
    mount -t tmpfs -o mode=0711 sandgate data
fi
if [ -n "$HIDDEN" ]; then umount "$HIDDEN"; fi
exec "$DOCKERD" --config-file="$CONFIG"
"""


@dataclass(frozen=True)
class EngineStatus:
    """Which engine answers. `host` is absent when none does, `pid` when our own does not run."""

    host: str | None
    ours: bool
    version: str | None
    runtimes: tuple[str, ...]
    pid: int | None


@dataclass(frozen=True)
class _Place:
    """Where one engine of ours keeps what it has."""

    folder: Path

    @classmethod
    def of(cls, settings: Settings) -> _Place:
        return cls(own_socket(settings).parent.absolute())

    @property
    def socket(self) -> Path:
        return self.folder / "docker.sock"

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid_file(self) -> Path:
        return self.folder / "docker.pid"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "dockerd.log"

    @property
    def config(self) -> Path:
        return self.folder / "daemon.json"

    @property
    def group(self) -> ControlGroup:
        """The engine's control group, named so that the name tells a container nothing: by file number."""
        entry = self.folder.stat()
        return ControlGroup(f"sandgate-{entry.st_dev:x}-{entry.st_ino:x}", control_group.mounted())


def up(settings: Settings, say: Say) -> str:
    """Start our engine unless some engine answers already, and return the address of the one that answers.

    Only root may open its socket, or the user who called us through sudo: who may do that is root here anyway.
    Raises PrerequisiteError where it cannot start, with the reason that the daemon gave.
    """
    place = _Place.of(settings)
    if asked := _answering(settings):
        return _taken(asked, place, say)
    dockerd = _check_machine(place)
    _make_folders(place)
    with _locked(place):
        if asked := _answering(settings):
            return _taken(asked, place, say)
        group = place.group
        _sweep(place, group)
        group.create()
        try:
            place.config.write_text(json.dumps(_configuration(place, group, say), indent=1) + "\n")
            _launch(place, group, dockerd)
            _wait_until_it_answers(place, group)
            _hand_over(place)
        except BaseException:
            _sweep(place, group)
            raise
    say(f"started an engine at {place.host}; `sandbox engine down` stops it")
    return place.host


def down(settings: Settings) -> bool:
    """Stop our engine with every container in it and remove what it left; return whether there was anything."""
    place = _Place.of(settings)
    if not place.folder.exists():
        return False
    group = place.group
    running = bool(group.pids())
    if not running and (os.geteuid() != 0 or not place.socket.exists()):
        return False
    _check_root("stop the engine")
    with _locked(place):
        for inmate in group.contained():  # nothing that ran has a right to end in its own time
            group.send(signal.SIGKILL, inmate)
        if pid := _daemon(group):
            group.send(signal.SIGTERM, pid)
            _wait_for_the_end_of(pid, group)
        _sweep(place, group)
    return running


def status(settings: Settings) -> EngineStatus:
    """Return which engine answers, and whether it is ours."""
    place = _Place.of(settings)
    pid = _daemon(place.group) if place.folder.exists() else None
    try:
        engine = connect(settings)
    except PrerequisiteError:
        return EngineStatus(None, False, None, (), pid)
    info = engine.info()
    ours = engine.host == f"unix://{own_socket(settings)}"
    return EngineStatus(engine.host, ours, info.get("ServerVersion"), tuple(sorted(info.get("Runtimes") or ())), pid)


def _taken(host: str, place: _Place, say: Say) -> str:
    """Take the engine that answers. Root sees to it that ours is open to who asks, and that its log ends somewhere."""
    if host == place.host and os.geteuid() == 0:
        _hand_over(place)
        if place.log.exists() and place.log.stat().st_size > LOG_BYTES:
            os.truncate(place.log, 0)
    say(f"an engine answers at {host}")
    return host


def _answering(settings: Settings) -> str | None:
    """Return the address of an engine that answers. Raises UsageError when one was asked for and does not."""
    try:
        return connect(settings).host
    except PrerequisiteError:
        asked = os.environ.get("DOCKER_HOST")
        if asked and asked != f"unix://{own_socket(settings)}":
            raise UsageError(
                f"DOCKER_HOST asks for the engine at {asked}, which does not answer; start it, or unset DOCKER_HOST"
                " to have an engine of our own"
            ) from None
        return None


def _check_machine(place: _Place) -> str:
    """Return the path of dockerd. Raises PrerequisiteError for what this machine lacks."""
    _check_root("start an engine")
    dockerd = _found("dockerd")
    if dockerd is None:
        raise PrerequisiteError(f"no engine answers and dockerd is not installed; run `{INSTALL}`")
    if (size := len(os.fsencode(place.socket))) > SOCKET_BYTES:
        raise PrerequisiteError(
            f"{place.socket} has {size} bytes, and the path of a socket has at most {SOCKET_BYTES}; "
            "set SANDBOX_STATE to a folder with a shorter path"
        )
    return dockerd


def _check_root(action: str) -> None:
    if os.geteuid() != 0:
        raise PrerequisiteError(f"only root may {action} here; run the same command with sudo")


def _found(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", os.defpath) + _PATH)


def _make_folders(place: _Place) -> None:
    """Make the engine's folders, closed to all but root; those above it that are new belong to who asked."""
    missing = [folder for folder in place.folder.parents if not folder.exists()]
    try:
        place.data.mkdir(parents=True, exist_ok=True)
        place.folder.chmod(0o700)
        _give(*missing)
    except OSError as error:
        raise PrerequisiteError(
            f"cannot make {place.data}: {error.strerror}; set SANDBOX_STATE to a folder that can be written"
        ) from error


def _hand_over(place: _Place) -> None:
    """Let the user behind sudo pass to the socket, and nobody else: dockerd made it for a group."""
    place.socket.chmod(0o600)
    _give(place.socket, place.folder)


def _give(*paths: Path) -> None:
    """Give paths to the user who called us through sudo, if it was so."""
    if user := os.environ.get("SUDO_UID"):
        for path in paths:
            os.chown(path, int(user), -1)


@contextlib.contextmanager
def _locked(place: _Place) -> Iterator[None]:
    """Let one `up` or `down` at a time see to this engine; the kernel lets go of the lock of whoever dies."""
    with (place.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _configuration(place: _Place, group: ControlGroup, say: Say) -> dict[str, Any]:
    """The daemon's configuration: no network of any kind, and the runtimes of this machine, crun first."""
    runtimes: dict[str, Any] = {}
    if crun := _found("crun"):
        runtimes["crun"] = {"path": crun}
    if runsc := _found("runsc"):
        if arguments := gvisor.working_arguments(runsc, place.folder / "gvisor", group):
            runtimes["runsc"] = {"path": runsc, "runtimeArgs": arguments}
        else:
            say("gVisor is installed but does not work on this machine: --isolation gvisor will be refused")
    return {
        "hosts": [place.host],
        "group": "root",  # docker.io makes a group of people who would be root here too
        "pidfile": str(place.pid_file),
        "data-root": str(NEUTRAL / "data"),
        "exec-root": str(NEUTRAL / "exec"),
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "ip-forward": False,
        "ip-masq": False,
        "log-level": "warn",
        "shutdown-timeout": 5,
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "cgroup-parent": f"/{group.name}",
        "runtimes": runtimes,
        "default-runtime": "crun" if crun else "runc",
    }


def _environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + _PATH, **variables}


def _launch(place: _Place, group: ControlGroup, dockerd: str) -> None:
    """Start dockerd detached: own session, own mount namespace, no standard input, output to the log."""
    hybrid = len({tree.type for tree in group.trees}) == 2
    hidden = [str(tree.path) for tree in group.trees if hybrid and tree.type == "cgroup2"]
    variables = _environment(
        NEUTRAL=str(NEUTRAL),
        DATA=str(place.data),
        HIDDEN="".join(hidden[:1]),
        DOCKERD=dockerd,
        CONFIG=str(place.config),
    )
    place.log.unlink(missing_ok=True)
    with place.log.open("a") as output:  # appended to, so that cutting it frees its space
        subprocess.run(
            [*group.entering, *_DETACHED, _INSIDE],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )


def _wait_until_it_answers(place: _Place, group: ControlGroup) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _pings(place.socket):
        ended, late = not group.pids(), time.monotonic() > deadline
        if ended or late:
            what = "ended" if ended else f"did not answer within {START_SECONDS} s"
            raise PrerequisiteError(f"dockerd {what}: {last_complaint(place.log.read_text(errors='replace'))}")
        time.sleep(0.05)


def _pings(socket_path: Path) -> bool:
    """Ask the daemon for a sign of life, plainly: the SDK leaves a socket open when nobody answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PING_SECONDS)
        try:
            connection.connect(str(socket_path))
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(64)
        except OSError:
            return False


def last_complaint(log: str) -> str:
    """Return the line of a daemon's log that says why it ended: its last error, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if any(word in line for word in ("failed to start", "level=fatal", "level=error")):
            return line
    return lines[-1] if lines else "it wrote nothing to its log"


def _daemon(group: ControlGroup) -> int | None:
    """Return the pid of dockerd itself among the processes of the group."""
    for pid in group.pids():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "dockerd":
                return pid
    return None


def _wait_for_the_end_of(pid: int, group: ControlGroup) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while pid in group.pids() and time.monotonic() < deadline:
        time.sleep(0.05)


def _sweep(place: _Place, group: ControlGroup) -> None:
    """Kill what is left of the engine and remove its group, socket and pid file: nothing to do is fine."""
    group.kill()
    group.remove()
    place.socket.unlink(missing_ok=True)
    place.pid_file.unlink(missing_ok=True)
