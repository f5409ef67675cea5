"""The record of finished runs: one JSON file each below the state folder, written whole or not at all.

Plain files, not SQL: a record is written once, by the process that made the run, and is never changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ..schemas.errors import UsageError
from ..schemas.run import Run

RECORD = "run.json"


@dataclass(frozen=True)
class Runs:
    """The folder in which each run has a folder of its own, named by its id."""

    root: Path

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[Path]:
        """Make the folder of a run and hold it while the run lasts; it goes again when nothing came of it.

        The claim is a lock that the kernel takes back when this process dies, so the folder of a run without a
        record and without a claim is nobody's.
        """
        path = self.root / run_id
        try:
            path.mkdir(parents=True, mode=0o700)
        except OSError as error:
            reason = f"{self.root} cannot be written: {error.strerror}"
            raise UsageError(f"{reason}; set SANDBOX_STATE to a folder of yours") from error
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path
        finally:
            with contextlib.suppress(OSError):  # Not empty: then it is kept.
                path.rmdir()
            os.close(lock)

    def record(self, run: Run) -> None:
        """Write the record of a run into its folder."""
        write_record(self.root / run.id, run)

    def recent(self, count: int) -> list[Run]:
        """Return the newest runs, newest first. A record that cannot be read is left out."""
        found: list[Run] = []
        for path in sorted(self.root.glob(f"*/{RECORD}"), reverse=True):
            if len(found) == count:
                break
            with contextlib.suppress(ValidationError, OSError):
                found.append(Run.model_validate_json(path.read_bytes()))
        return found

    def prune(self, days: float) -> list[str]:
        """Remove the folders of runs older than `days`, and those that dead owners left; return their ids."""
        horizon = time.time() - days * 86_400
        folders = [path for path in self.root.glob("*") if path.is_dir()]
        old = [path for path in folders if path.stat().st_mtime < horizon or not (path / RECORD).exists()]
        gone = [path for path in old if _is_nobodys(path)]
        for path in gone:
            shutil.rmtree(path)
        return [path.name for path in gone]


def _is_nobodys(folder: Path) -> bool:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def write_record(folder: Path, run: Run) -> None:
    """Write `run.json` into `folder` so that a reader sees all of it or nothing."""
    draft = folder / f".{RECORD}.{os.getpid()}"
    draft.write_text(run.model_dump_json(indent=2) + "\n", encoding="utf-8")
    draft.replace(folder / RECORD)
