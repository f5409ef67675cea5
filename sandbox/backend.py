"""The back end that users get: a fresh container on a docker engine for each job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..schemas.errors import PrerequisiteError
from ..schemas.limits import Limits
from ..schemas.run import Isolation
from ..schemas.settings import Settings
from . import engine, prerequisites, reaper, runner
from .image import profiles, store
from .job import Answer, Job, Sink


@dataclass(frozen=True)
class DockerBackend:
    """Finds the engine and the image, sweeps up after dead owners, and runs. `say` gets lines of progress."""

    settings: Settings
    say: Callable[[str], None]

    def run(self, job: Job, limits: Limits, isolation: Isolation, *, run_id: str, folder: Path, sink: Sink) -> Answer:
        """Run `job` in a container of its own; see `Backend`."""
        connected = engine.connect(self.settings)
        if self.settings.strict and (holes := prerequisites.holes(connected, strict=True)):
            raise PrerequisiteError(f"strict: {'; '.join(holes)}; update the engine, or run without strict")
        profile = profiles.profile_for(set(job.imports), store.opted_in(self.settings))
        image = store.ensure(connected, profile, self.settings, self.say)
        reaper.sweep(connected, self.settings)
        return runner.run(
            connected,
            job,
            image,
            self.settings,
            limits=limits,
            isolation=isolation,
            run_id=run_id,
            folder=folder,
            sink=sink,
        )
