"""Limits and an image become the engine's arguments, and the engine's answer is held against them. Pure.

`arguments` says what is asked for; `differences` reads the engine's own description of the created container and
lists what came out otherwise; `differences_inside` does the same with what the warden saw. Any difference means
that the container is not started, or that its answer is not used.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import Any

from ..schemas.limits import MIB, Limits
from . import seccomp

COMMAND = ["/usr/bin/python3", "-I", "-B", "/usr/lib/sandgate/warden.py"]
FIRST_UID, UIDS = 10_000, 50_000
"""Below 65,536, which is all that an engine in a user namespace has."""
WRITABLE = ("/out", "/tmp", "/dev/shm")
JOB_FOLDER_SIZE = 8 * MIB
INODES = 8192
CPU_PERIOD = 100_000
"""Microseconds over which the share of processor time is counted: the kernel's usual."""
GVISOR_RUNTIME = "runsc"
GVISOR_TASKS, GVISOR_TASKS_EACH = 256, 8
"""Host threads that gVisor's kernel takes for itself, and for each process of the run (58 idle ones took over 250)."""


def new_uid() -> int:
    """Return a user id for one run.

    The kernel counts some things per user and not per container (descriptors in flight, inotify instances): with one
    id for all, one run could use up what the others need.
    """
    return FIRST_UID + secrets.randbelow(UIDS)


def environment(limits: Limits) -> dict[str, str]:
    """Return the whole environment of a run. Nothing of the host's is in it.

    Numeric libraries would start a thread for each of the host's cores: they get as many as the run may use.
    """
    threads = str(math.ceil(limits.cpus))
    return {
        "PATH": "/usr/bin",
        "HOME": "/tmp",
        "USER": "sandbox",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }


def arguments(image: str, limits: Limits, runtime: str | None, labels: Mapping[str, str], uid: int) -> dict[str, Any]:
    """Return the body of the engine's create call. `runtime` None leaves the choice to the engine.

    gVisor's own kernel is a process of the container and needs threads beside those of the run.
    """
    pids = GVISOR_TASKS + GVISOR_TASKS_EACH * limits.pids if runtime == GVISOR_RUNTIME else limits.pids
    size = f"rw,nosuid,nodev,noexec,mode=0700,uid={uid},gid={uid},nr_inodes={INODES}"
    tmpfs = dict.fromkeys(WRITABLE, f"{size},size={limits.disk}")
    tmpfs["/job"] = f"{size},size={JOB_FOLDER_SIZE}"
    return {
        "Image": image,
        "Entrypoint": [],
        "Cmd": COMMAND,
        "User": f"{uid}:{uid}",
        "WorkingDir": "/",
        "Hostname": "sandbox",
        "Env": [f"{name}={value}" for name, value in environment(limits).items()],
        "Labels": dict(labels),
        "NetworkDisabled": True,
        # The job comes in here. And without an input of its own, gVisor would give the machine's /dev/null away.
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "HostConfig": {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true", f"seccomp={seccomp.profile_json()}"],
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "Memory": limits.memory,
            "MemorySwap": limits.memory,
            "CpuPeriod": CPU_PERIOD,
            "CpuQuota": round(limits.cpus * CPU_PERIOD),
            "PidsLimit": pids,
            "Ulimits": [{"Name": name, "Soft": hard, "Hard": hard} for name, hard in _ULIMITS],
            "Tmpfs": tmpfs,
            "LogConfig": {"Type": "none", "Config": {}},
            **({"Runtime": runtime} if runtime else {}),
            "RestartPolicy": {"Name": "no"},
            "AutoRemove": False,
            "Privileged": False,
        },
    }


_ULIMITS = (("nofile", 1024), ("core", 0))


def differences(asked: Mapping[str, Any], inspected: Mapping[str, Any]) -> list[str]:
    """Return where the engine's description of the container is not what `asked` for; empty when sealed as asked.

    Fails closed: a field that the engine does not report counts as different.
    """
    config, host = inspected.get("Config") or {}, inspected.get("HostConfig") or {}
    expected = asked["HostConfig"]
    found = [
        f"{name} is {host.get(name)!r}, not {expected[name]!r}"
        for name in (
            "NetworkMode",
            "ReadonlyRootfs",
            "CapDrop",
            "SecurityOpt",
            "IpcMode",
            "CgroupnsMode",
            "Memory",
            "MemorySwap",
            "CpuPeriod",
            "CpuQuota",
            "PidsLimit",
            "Tmpfs",
            "Ulimits",
            "Runtime",
            "Privileged",
        )
        if name in expected and host.get(name, _MISSING) != expected[name]
    ]
    found += [
        f"{name} is {config.get(name)!r}, not {asked[name]!r}"
        for name in ("User", "Env", "Cmd", "Labels", "NetworkDisabled", "Hostname", "WorkingDir", "OpenStdin", "Tty")
        if not _same(name, config.get(name, _MISSING), asked[name])
    ]
    found += [f"{name} is {host[name]!r}, not empty" for name in _MUST_BE_EMPTY if host.get(name)]
    if config.get("Entrypoint"):
        found.append(f"Entrypoint is {config['Entrypoint']!r}, not empty")
    if inspected.get("Mounts", _MISSING) != []:
        found.append(f"Mounts is {inspected.get('Mounts')!r}, not empty")
    if inspected.get("Image") != asked["Image"]:
        found.append(f"Image is {inspected.get('Image')!r}, not {asked['Image']!r}")
    if (host.get("LogConfig") or {}).get("Type") != "none":
        found.append("the engine keeps a log of the run")
    if (host.get("RestartPolicy") or {}).get("Name") not in ("no", ""):
        found.append(f"RestartPolicy is {host.get('RestartPolicy')!r}")
    if not set(host.get("MaskedPaths") or ()) >= _MASKED:
        found.append(f"MaskedPaths is {host.get('MaskedPaths')!r}, which leaves out some of {sorted(_MASKED)}")
    if not set(host.get("ReadonlyPaths") or ()) >= _READ_ONLY:
        found.append(f"ReadonlyPaths is {host.get('ReadonlyPaths')!r}, which leaves out some of {sorted(_READ_ONLY)}")
    return found


_MISSING = object()
_MASKED = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}
_READ_ONLY = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
_MUST_BE_EMPTY = (
    "Binds",
    "Mounts",
    "VolumesFrom",
    "CapAdd",
    "Devices",
    "DeviceRequests",
    "DeviceCgroupRules",
    "ExtraHosts",
    "PortBindings",
    "Links",
    "GroupAdd",
    "PidMode",
    "UTSMode",
    "UsernsMode",
    "CgroupParent",
    "Sysctls",
    "OomKillDisable",
)


def _same(name: str, found: Any, asked: Any) -> bool:
    if name == "Env":
        return isinstance(found, list) and sorted(found) == sorted(asked)
    if name == "Labels":
        # The image's own labels are added to ours by the engine.
        return isinstance(found, dict) and asked.items() <= found.items()
    return bool(found == asked)


def differences_inside(hello: Mapping[str, Any], user: str, isolation_has_own_kernel: bool) -> list[str]:
    """Return what the warden saw from inside that a sealed container must not show; empty when sealed."""
    expected = {
        "pid": 1,
        "uid": int(user.split(":")[0]),
        "gid": int(user.split(":")[1]),
        "capabilities": ["0"],
        "interfaces": ["lo"],
        "root_read_only": True,
        "no_new_privs": "1",
        "seccomp": "2",
    }
    if isolation_has_own_kernel:
        # gVisor is the filter there: its kernel does not report these two of its own processes.
        expected = {name: value for name, value in expected.items() if name not in ("no_new_privs", "seccomp")}
    return [
        f"{name} is {hello.get(name)!r} inside, not {value!r}"
        for name, value in expected.items()
        if hello.get(name, _MISSING) != value
    ]
