"""A back end without an engine. It never runs code: it knows a few programs and what a real run of each came to."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sandgate import Limits, Run, Status
from sandgate.sandbox.collector import Collector
from sandgate.sandbox.job import Answer, Job, Sink
from sandgate.sandbox.outcome import Facts, Record, classify
from sandgate.schemas.run import Image, Isolation, Output, Usage


@dataclass(frozen=True)
class Outcome:
    """What a captured run came to: the warden's record and what arrived with it."""

    record: Record | None
    stdout: str = ""
    stderr: str = ""
    artifacts: dict[str, bytes] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    result: bytes = b""


@dataclass
class FakeBackend:
    """Answers with the outcome that `outcomes` has for a job's code, through the real classifier and collector."""

    outcomes: dict[str, Outcome]
    jobs: list[Job] = field(default_factory=list)

    def run(self, job: Job, limits: Limits, isolation: Isolation, *, run_id: str, folder: Path, sink: Sink) -> Answer:
        self.jobs.append(job)
        outcome = self.outcomes[job.code.decode()]
        started = datetime.now(UTC)
        status, reason = classify(Facts(outcome.record))
        collector = Collector(folder, limits)
        for name, content in outcome.artifacts.items():
            collector.begin(name, len(content))
            if content:
                collector.take(content)
        for name in outcome.refused:
            collector.refuse(name, "not a regular file but a symbolic link")
        for stream, text in (("stdout", outcome.stdout), ("stderr", outcome.stderr)):
            sink(stream, text.encode())
        run = Run(
            id=run_id,
            file=job.name,
            source=job.source,
            status=status,
            reason=reason,
            exit_code=outcome.record.exit_code if outcome.record else None,
            signal=outcome.record.signal if outcome.record else None,
            usage=Usage(wall_seconds=0.01, cpu_seconds=0.01),
            limits=limits,
            stdout=Output(text=outcome.stdout, total=len(outcome.stdout)),
            stderr=Output(text=outcome.stderr, total=len(outcome.stderr)),
            artifacts=tuple(collector.artifacts),
            refused=tuple(collector.refused),
            image=Image(profile="core", id="sha256:" + "0" * 64, content="0" * 64),
            isolation=isolation,
            runtime="fake",
            started=started,
            finished=datetime.now(UTC),
        )
        return Answer(run, outcome.result)


def outcome(status: Status = Status.OK, **known: object) -> Outcome:
    """Return an outcome whose record leads to `status`."""
    records: dict[Status, Record | None] = {
        Status.OK: Record(exit_code=0, oom_events=0, pids_events=0),
        Status.TIMEOUT: Record(signal="SIGTERM", cause="timeout", oom_events=0, pids_events=0),
        Status.CPU_LIMIT: Record(signal="SIGTERM", cause="cpu", oom_events=0, pids_events=0),
        Status.OOM: Record(signal="SIGKILL", oom_events=1, pids_events=0),
        Status.DISK_LIMIT: Record(exit_code=1, disk_full=True, oom_events=0, pids_events=0),
        Status.OUTPUT_LIMIT: Record(exit_code=0, dropped=3977, oom_events=0, pids_events=0),
        Status.INCOMPLETE: None,
    }
    return Outcome(**{"record": records[status], **known})  # type: ignore[arg-type]
