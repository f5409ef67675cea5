"""A control group of our own, as the list of an engine's processes that the kernel keeps.

Everything a daemon forks stays in the group it was started in, and containers go into groups below it, so "what
belongs to this engine" is read from the kernel instead of being guessed from names or from a pid in a file. That
list cannot be stale, cannot name a stranger after a pid was used again, and survives any `kill -9`.

Control groups of version 1 have one tree per controller, and a process has a place in each: the tree with `pids`
is the one we list by. Version 2 has a single tree.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..schemas.errors import PrerequisiteError

END_SECONDS = 10
"""How long the kernel may take to end what was killed."""

MOUNT_GROUPS = "apt-get install cgroupfs-mount && cgroupfs-mount"


@dataclass(frozen=True)
class Mount:
    """A mounted control group tree: where, its type (`cgroup` or `cgroup2`) and its options."""

    path: Path
    type: str
    options: tuple[str, ...]


def mounted() -> tuple[Mount, ...]:
    """Return the control group trees of this machine, in the order in which they were mounted."""
    fields = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return tuple(
        Mount(Path(path), kind, tuple(options.split(",")))
        for _, path, kind, options, *_ in fields
        if kind in ("cgroup", "cgroup2")
    )


@dataclass(frozen=True)
class ControlGroup:
    """One group by its name at the top of every tree; it need not exist yet."""

    name: str
    trees: tuple[Mount, ...]

    @property
    def entrance(self) -> Path:
        """The file that takes the pid of the process to start in this group.

        Version 2 allows processes in leaves only, hence a leaf beside those of the containers. Raises
        PrerequisiteError on a machine without control groups.
        """
        if self._listing is None:
            raise PrerequisiteError(f"no control groups with the pids controller are mounted; {MOUNT_GROUPS}")
        return self._listing / "engine" / "cgroup.procs"

    @property
    def entering(self) -> list[str]:
        """The start of a command line: what follows it runs in this group. Raises as `entrance` does."""
        return ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.entrance)]

    @property
    def _listing(self) -> Path | None:
        """The folder whose tree is complete: that of `pids` in version 1, else that of version 2."""
        with_pids = [tree for tree in self.trees if "pids" in tree.options]
        unified = [tree for tree in self.trees if tree.type == "cgroup2"]
        return next((tree.path / self.name for tree in with_pids + unified), None)

    def create(self) -> None:
        """Make the group. Raises PrerequisiteError where control groups are not mounted or may not be made."""
        leaf = self.entrance.parent
        try:
            leaf.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PrerequisiteError(
                f"cannot make the control group {leaf}: {error.strerror}; run on a machine or in a container "
                "whose control groups are writable"
            ) from error

    def pids(self) -> tuple[int, ...]:
        """Return every process of the group and of the groups below it."""
        return self._in(_folders(self._listing)) if self._listing else ()

    def contained(self) -> tuple[int, ...]:
        """Return the processes of the group that are in containers: all but the engine and what serves it."""
        return tuple(set(self.pids()) - set(self._in([self.entrance.parent])))

    @staticmethod
    def _in(folders: Iterable[Path]) -> tuple[int, ...]:
        found: list[int] = []
        for folder in folders:
            with contextlib.suppress(OSError):  # gone since it was listed
                found += [int(line) for line in (folder / "cgroup.procs").read_text().split()]
        return tuple(found)

    def send(self, number: signal.Signals, pid: int) -> None:
        """Send a signal to a process of the group; a pid that has left it, or is someone else's now, is let be."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                if pid in self.pids():
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    def kill(self) -> None:
        """Kill every process of the group. Raises PrerequisiteError when some survive that."""
        deadline = time.monotonic() + END_SECONDS
        while pids := self.pids():
            if time.monotonic() > deadline:
                raise PrerequisiteError(f"processes {pids} cannot be killed; look at them with ps, then try again")
            for pid in pids:
                self.send(signal.SIGKILL, pid)
            time.sleep(0.05)

    def remove(self) -> None:
        """Remove the group from every tree. It must be empty; absent is fine."""
        for tree in self.trees:
            for folder in reversed(_folders(tree.path / self.name)):
                _remove(folder)


def _folders(top: Path) -> list[Path]:
    """Return a group's folder and all below it, parents first: as many as are there, for containers end meanwhile.

    Hence no `rglob`, which raises when a folder goes away between being found and being listed.
    """
    return [Path(folder) for folder, _, _ in os.walk(top)]


def _remove(folder: Path) -> None:
    """Remove a group's folder, which the kernel calls busy until the last process in it has gone for good."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise PrerequisiteError(
                    f"the control group {folder} cannot be removed: {error.strerror}; see the processes that its "
                    "cgroup.procs names"
                ) from error
            time.sleep(0.05)
