"""The doctor: what this machine has, what it lacks, and what to do about it. It looks, and changes nothing."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..schemas.errors import GateError, PrerequisiteError
from ..schemas.limits import GIB, MIB
from ..schemas.settings import Settings
from . import control_group, daemon, gvisor
from .engine import Engine, connect
from .versions import Level, Verdict, fixed_in, judge, no_package, packaged, runtimes

PYTHON_FLOOR = (3, 11)
API_FLOOR = (1, 41)
DISK_FAIL = 200 * MIB
DISK_WARN = 2 * GIB

_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_VERSION = 1


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, and what to do where it is not `ok`.

    `warn` leaves something to be desired and runs go on; with a `fail` no run can start, or none should.
    """

    name: str
    level: Level
    finding: str
    advice: str = ""


def examine(settings: Settings) -> tuple[Check, ...]:
    """Look at everything that a run needs. No engine is one failed check; the others are made all the same."""
    engine, answers = _engine(settings)
    looks: list[tuple[str, Callable[[], Iterable[Check]]]] = []
    if engine is not None:
        looks = [
            ("engine version", lambda: _versions(engine, settings.strict)),
            ("limits", lambda: capabilities(engine.info())),
            ("images", lambda: _images(engine, settings)),
        ]
    looks += [
        ("own engine", lambda: [_own_engine(settings)]),
        ("cgroup", lambda: [_control_groups()]),
        ("seccomp", lambda: [_seccomp()]),
        ("landlock", lambda: [_landlock()]),
        ("overlayfs", lambda: [_overlay(settings)]),
        ("disk", lambda: [_disk(settings)]),
        ("git", lambda: [_git()]),
    ]
    return _python(), answers, *(check for name, look in looks for check in _looked(name, look))


def holes(engine: Engine, strict: bool) -> list[str]:
    """Return why no run may start on this engine: one line for each runtime with a hole; empty when it may.

    With `strict` a hole that the distribution may have closed counts as well. Takes some 20 ms.
    """
    return [
        f"{verdict.reason}; {_advice_on(verdict)}" for verdict in _judged(engine, strict) if verdict.level == "fail"
    ]


def _judged(engine: Engine, strict: bool) -> list[Verdict]:
    return judge(runtimes(engine.version(), packaged if engine.is_local else no_package), strict)


def _looked(name: str, look: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Yield what a look found; one that cannot be finished (an engine that went away) is itself a finding."""
    try:
        yield from look()
    except (GateError, OSError) as error:
        yield Check(name, "fail", str(error), "mend that, then run `sandbox doctor` again")


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON_FLOOR:
        return Check("python", "fail", f"Python {version}", "use Python 3.11 or later")
    return Check("python", "ok", f"Python {version}")


def _engine(settings: Settings) -> tuple[Engine | None, Check]:
    try:
        engine = connect(settings)
    except PrerequisiteError as error:
        finding, _, advice = str(error).partition("; ")
        return None, Check("engine", "fail", finding, f"{advice}; where it is not installed: {daemon.INSTALL}")
    return engine, Check("engine", "ok", f"answers at {engine.host}")


def _versions(engine: Engine, strict: bool) -> Iterator[Check]:
    version = engine.version()
    yield _api(str(version.get("Version")), str(version.get("ApiVersion")))
    for verdict in _judged(engine, strict):
        yield Check(f"runtime {verdict.runtime}", verdict.level, verdict.reason, _advice_on(verdict))


def _advice_on(verdict: Verdict) -> str:
    if verdict.level == "ok":
        return ""
    advice = f"upgrade {verdict.runtime} to {fixed_in(verdict.runtime)}"
    if verdict.level == "warn":
        advice += ", or see the distribution's security tracker; `--strict` refuses to run on this"
    return advice


def _api(version: str, api: str) -> Check:
    finding = f"engine {version}, API {api}"
    try:
        parsed = tuple(int(part) for part in api.split("."))
    except ValueError:
        parsed = ()
    if parsed < API_FLOOR:
        return Check("engine version", "fail", finding, "install Docker 20.10 or later: we need API 1.41")
    return Check("engine version", "ok", finding)


def capabilities(info: dict[str, Any]) -> Iterator[Check]:
    """Yield what an engine, by its own description, can hold a container to, and whether gVisor can be used."""
    named = {"memory": "MemoryLimit", "swap": "SwapLimit", "pids": "PidsLimit", "cpu": "CpuCfsQuota"}
    missing = [name for name, key in named.items() if not info.get(key)]
    if missing:
        yield Check(
            "limits",
            "fail",
            f"the engine cannot limit {', '.join(missing)}",
            "enable the controllers in the kernel (boot with cgroup_enable=memory swapaccount=1)",
        )
    else:
        yield Check("limits", "ok", f"the engine limits {', '.join(named)}")
    if "seccomp" not in str(info.get("SecurityOptions")):
        yield Check("engine seccomp", "fail", "the engine has no seccomp", "install an engine built with seccomp")
    yield _gvisor((info.get("Runtimes") or {}).get("runsc"))


def _gvisor(runsc: dict[str, Any] | None) -> Check:
    if runsc is None:
        return Check(
            "gvisor",
            "warn",
            "runsc is not registered: --isolation gvisor will be refused",
            "where it is wanted: apt-get install runsc, then restart the engine (`sandbox engine down` and `up`)",
        )
    if lacking := gvisor.lacking(runsc):
        return Check(
            "gvisor",
            "warn",
            f"runsc is registered without {' and '.join(f'{name} ({gvisor.NEEDED[name]})' for name in lacking)}",
            f"set its runtimeArgs in /etc/docker/daemon.json to {json.dumps(list(gvisor.NEEDED))} and restart Docker; "
            "`sandbox engine up` sets them itself",
        )
    return Check("gvisor", "ok", "runsc is registered: --isolation gvisor can be used")


def _images(engine: Engine, settings: Settings) -> Iterator[Check]:
    from .image import store

    images = store.listed(engine, settings)
    if not images:
        yield Check("images", "warn", "no runtime image yet", "the first run builds it; `sandbox image build` does now")
    for image in images:
        name, again = f"image {image.profile}", f"`sandbox image build {image.profile}`"
        if wrong := store.verify(engine, image, settings):
            yield Check(name, "fail", "; ".join(wrong), f"build it again: {again}")
        elif not image.current:
            yield Check(name, "ok", f"{image.tag} is what we built, for an older lock or code", again)
        else:
            yield Check(name, "ok", f"{image.tag} is what we built")


def _own_engine(settings: Settings) -> Check:
    """Our own engine is one of several ways to have one: that it is down is a finding, not a fault."""
    state = daemon.status(settings)
    if state.pid is None:
        return Check("own engine", "ok", "is not running")
    if state.ours:
        return Check("own engine", "ok", f"runs as process {state.pid}")
    if state.host is None:
        return Check(
            "own engine",
            "fail",
            f"process {state.pid} runs and does not answer",
            "restart it: `sandbox engine down`, then `sandbox engine up`",
        )
    return Check(
        "own engine",
        "warn",
        f"process {state.pid} runs, and {state.host} is used instead",
        "stop it with `sandbox engine down`, or unset DOCKER_HOST to use it",
    )


def _control_groups() -> Check:
    trees = control_group.mounted()
    kinds = {tree.type for tree in trees}
    if not kinds:
        return Check("cgroup", "fail", "no control groups are mounted", control_group.MOUNT_GROUPS)
    if kinds == {"cgroup2"}:
        controllers = set((trees[0].path / "cgroup.controllers").read_text().split())
        version = "version 2"
    else:
        controllers = {option for tree in trees if tree.type == "cgroup" for option in tree.options}
        version = "version 1" if kinds == {"cgroup"} else "version 1 with a unified tree (hybrid)"
    missing = [name for name in ("memory", "pids", "cpu") if name not in controllers]
    if missing:
        return Check(
            "cgroup",
            "fail",
            f"{version}, without {', '.join(missing)}",
            "enable these controllers in the kernel: without them a run cannot be limited",
        )
    return Check("cgroup", "ok", f"{version}, with memory, pids and cpu")


def _seccomp() -> Check:
    try:
        actions = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    except OSError:
        return Check("seccomp", "fail", "the kernel has no seccomp filters", "use a kernel with CONFIG_SECCOMP_FILTER")
    if "user_notif" not in actions:
        return Check(
            "seccomp",
            "warn",
            "seccomp without user notification",
            "use Linux 5.0 or later to have attempts to use the network counted",
        )
    return Check("seccomp", "ok", "seccomp filters with user notification")


def landlock_abi() -> int:
    """Return the version of Landlock that the kernel offers, 0 where there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)))


def _landlock() -> Check:
    if abi := landlock_abi():
        return Check("landlock", "ok", f"ABI {abi}")
    return Check(
        "landlock",
        "warn",
        "the kernel has no Landlock",
        "boot with lsm=landlock,… on Linux 5.13 or later for a second lock on the file system",
    )


def _overlay(settings: Settings) -> Check:
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        return Check("overlayfs", "warn", "the kernel has not loaded overlayfs", "modprobe overlay")
    if _type_of_file_system(_existing(settings.state)) == "overlay":
        return Check(
            "overlayfs",
            "warn",
            f"{settings.state} lies on an overlay, so an engine of ours keeps its images in memory",
            "set SANDBOX_STATE to a folder on a disk",
        )
    return Check("overlayfs", "ok", "available")


def _type_of_file_system(path: Path) -> str:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = {Path(point): kind for point, kind in mounts if path.is_relative_to(point)}
    return above[max(above, key=lambda point: len(point.parts))]


def _existing(path: Path) -> Path:
    """Return the nearest folder at or above `path` that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path.resolve()


def _disk(settings: Settings) -> Check:
    free = shutil.disk_usage(_existing(settings.state)).free
    finding = f"{free / GIB:.1f} GiB free for {settings.state}"
    advice = "make room, or set SANDBOX_STATE to a folder on another disk"
    if free < DISK_FAIL:
        return Check("disk", "fail", finding, advice)
    return Check("disk", "warn", finding, advice) if free < DISK_WARN else Check("disk", "ok", finding)


def _git() -> Check:
    try:
        answer = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return Check("git", "fail", "git does not answer", "install git: apt-get install git")
    return Check("git", "ok", answer.stdout.strip())
