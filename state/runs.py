"""The record of finished runs: one JSON file each below the state folder, written whole or not at all.

Plain files, not SQL: a record is written once, by the process that made the run, and is never changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ..schemas.run import Run

RECORD = "run.json"


@dataclass(frozen=True)
class Runs:
    """The folder in which each run has a folder of its own, named by its id."""

    root: Path

    def folder(self, run_id: str) -> Path:
        """Return the folder of a run, made if need be."""
        path = self.root / run_id
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def record(self, run: Run) -> None:
        """Write the record of a run into its folder."""
        write_record(self.folder(run.id), run)

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
        """Remove the folders of runs older than `days`; return their ids."""
        horizon = time.time() - days * 86_400
        old = [path for path in self.root.glob("*") if path.is_dir() and path.stat().st_mtime < horizon]
        for path in old:
            shutil.rmtree(path)
        return [path.name for path in old]


def write_record(folder: Path, run: Run) -> None:
    """Write `run.json` into `folder` so that a reader sees all of it or nothing."""
    draft = folder / f".{RECORD}.{os.getpid()}"
    draft.write_text(run.model_dump_json(indent=2) + "\n", encoding="utf-8")
    draft.replace(folder / RECORD)
