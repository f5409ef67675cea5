"""What the kernel counted for this container: CPU, memory, out-of-memory kills, refused forks, full file systems.

Read from inside, from the container's own cgroup, which is mounted read-only (version 1 or 2). What a machine or
runtime does not offer is None, never zero.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import Any

from child import WRITABLE

ROOT = "/sys/fs/cgroup"


@dataclass(frozen=True)
class Counters:
    """One reading. `memory_peak` is bytes; the others count from the container's birth."""

    cpu_seconds: float | None
    memory_peak: int | None
    oom_events: int | None
    pids_events: int | None

    def since(self, before: Counters) -> Counters:
        """Return what was added since `before`; the memory peak stays what it is."""
        return Counters(
            _minus(self.cpu_seconds, before.cpu_seconds),
            self.memory_peak,
            _minus(self.oom_events, before.oom_events),
            _minus(self.pids_events, before.pids_events),
        )


def cpu_seconds_of_the_dead() -> float:
    """Return the CPU time of all children that were waited for: what is left to count where there is no cgroup."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _minus(now: Any, then: Any) -> Any:
    return None if now is None or then is None else now - then


def read() -> Counters:
    """Read the counters that are there."""
    if os.path.exists(f"{ROOT}/cgroup.controllers"):
        return Counters(
            _scaled(_keyed("cpu.stat", "usage_usec"), 1e-6),
            _number("memory.peak"),
            _keyed("memory.events", "oom_kill"),
            _keyed("pids.events", "max"),
        )
    return Counters(
        _scaled(_number("cpuacct/cpuacct.usage"), 1e-9),
        _number("memory/memory.max_usage_in_bytes"),
        _keyed("memory/memory.oom_control", "oom_kill"),
        _keyed("pids/pids.events", "max"),
    )


@dataclass
class Disk:
    """The most that the writable folders held at any look, in bytes. `full` says that one had nothing left."""

    peak: int = 0
    full: bool = False

    def look(self) -> None:
        """Take another look."""
        used = 0
        for path in WRITABLE:
            at = os.statvfs(path)
            used += (at.f_blocks - at.f_bfree) * at.f_frsize
            # A file system that does not count (inodes under gVisor) reports zero of zero.
            self.full |= at.f_bfree == 0 < at.f_blocks or at.f_ffree == 0 < at.f_files
        self.peak = max(self.peak, used)


def _text(name: str) -> str | None:
    try:
        with open(f"{ROOT}/{name}") as file:
            return file.read()
    except OSError:
        return None


def _number(name: str) -> int | None:
    text = _text(name)
    return int(text) if text is not None and text.strip().isdigit() else None


def _keyed(name: str, key: str) -> int | None:
    for line in (_text(name) or "").splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == key:
            return int(words[1])
    return None


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor
