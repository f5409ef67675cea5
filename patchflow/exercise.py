"""Takes one file from its source to the evidence of its run: what `sandbox run` and `sandgate.run` do.

    shape of the source -> bars -> sealed run -> evaluation outside -> record

Nothing is decided here: the parts decide, this puts them in order.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ..sandbox.job import Backend, Job, Sink
from ..schemas.errors import UsageError
from ..schemas.limits import Limits, beyond
from ..schemas.run import Claim, Isolation, Run, Status
from ..schemas.settings import Settings
from ..schemas.text import one_line
from ..state.runs import Runs, write_record
from ..validation.source import Shape, Source, inspect

if TYPE_CHECKING:
    from ..evaluation.bars import Bars

ARTIFACTS = "artifacts"
LONGEST_NAME = 100


@dataclass(frozen=True)
class Request:
    """One file to run, and how. `data`, `strategy` and `params` are for strategies only.

    `out` is a folder for everything that comes of the run; absent, it goes below the state folder.
    """

    source: Source
    limits: Limits
    isolation: Isolation = Isolation.DEFAULT
    arguments: tuple[str, ...] = ()
    data: str | None = None
    strategy: str | None = None
    params: Mapping[str, str | float] = field(default_factory=dict)
    out: Path | None = None


@dataclass(frozen=True)
class Exercise:
    """What came of a request: the evidence, and the folder that holds record, artifacts, pictures and report."""

    run: Run
    folder: Path


def exercise(request: Request, settings: Settings, backend: Backend, sink: Sink, run_id: str) -> Exercise:
    """Run a file on `backend` and evaluate what it returned.

    Raises UsageError for what cannot be run as asked, PrerequisiteError for what is missing here, and EngineError
    or SealError when we could not find out.
    """
    if over := beyond(request.limits, settings.ceilings):
        raise UsageError(f"{'; '.join(over)}; ask for less, or raise [tool.sandbox.ceilings]")
    shape = inspect(request.source.code)
    bars = _bars(request, shape, settings)
    runs = Runs(settings.state / "runs")
    with runs.claim(run_id) as own, _folders(request.out or own) as (folder, artifacts):
        job = _job(request, shape, bars, settings)
        answer = backend.run(job, request.limits, request.isolation, run_id=run_id, folder=artifacts, sink=sink)
        run = answer.run
        if bars is not None:
            run = _evaluated(run, shape, answer.result, bars, settings)
            _draw(run, bars, folder)
        runs.record(run)
        if folder != own:
            write_record(folder, run)
    return Exercise(run, folder)


@contextlib.contextmanager
def _folders(out: Path) -> Iterator[tuple[Path, Path]]:
    """Make the folder of a run and the one in it for artifacts; leave neither where there is nothing to keep."""
    folder = _fresh(out)
    artifacts = folder / ARTIFACTS
    artifacts.mkdir(mode=0o700)
    try:
        yield folder, artifacts
    finally:
        for path in (artifacts, folder):
            with contextlib.suppress(OSError):  # Not empty: then it is kept.
                path.rmdir()


def _bars(request: Request, shape: Shape, settings: Settings) -> Bars | None:
    """Load what the strategy trades on. A plain script gets nothing, and asking for it is a mistake."""
    if shape.contract == "script":
        for option, value in (("data", request.data), ("strategy", request.strategy), ("param", request.params)):
            if value:
                raise UsageError(
                    f"{request.source.name} defines no strategy, so --{option} has no meaning; "
                    "define generate_signals(df) or a backtesting.Strategy, or leave the option out"
                )
        return None
    from ..evaluation import bars

    return bars.load(request.data or settings.data)


def _job(request: Request, shape: Shape, bars: Bars | None, settings: Settings) -> Job:
    options: dict[str, Any] = {"strategy": request.strategy, "params": dict(request.params)}
    options |= settings.costs.model_dump()
    return Job(
        name=request.source.name,
        code=request.source.code,
        source=request.source.sha256,
        imports=shape.imports,
        contract=shape.contract,
        arguments=request.arguments,
        bars=bars.to_bytes() if bars is not None else b"",
        options=options,
    )


def _evaluated(run: Run, shape: Shape, result: bytes, bars: Bars, settings: Settings) -> Run:
    """Add what the harness returned: positions are evaluated here, a framework's own figures are only a claim."""
    run = run.model_copy(update={"data": bars.digest})
    if run.status is not Status.OK:
        return run
    try:
        returned = _parsed(result)
        name = one_line(str(returned["strategy"]))[:LONGEST_NAME]
        if name == "generate_signals":
            name = PurePath(run.file).stem
        if shape.contract == "backtesting":
            claim = Claim(framework=shape.contract, metrics=returned["metrics"], trades=returned["trades"])
            return run.model_copy(update={"claim": claim})
    except (ValueError, KeyError, RecursionError):
        # The harness runs in the candidate's process: without its answer, or with another, there is no result.
        reason = "it ended without the result that its strategy owes"
        return run.model_copy(update={"status": Status.INCOMPLETE, "reason": reason})
    from ..evaluation.evaluate import evaluate

    evaluation = evaluate(returned.get("positions"), bars, settings.costs, name)
    return run.model_copy(update={"evaluation": evaluation})


def _parsed(result: bytes) -> dict[str, Any]:
    """Parse what came out of the container. Raises ValueError or RecursionError for anything but a JSON object."""
    parsed = json.loads(result)
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    return parsed


def _draw(run: Run, bars: Bars, folder: Path) -> None:
    """Write the pictures and the report of an evaluated strategy."""
    if run.evaluation is None or not run.evaluation.equity:
        return
    from ..evaluation import picture, report

    drawing = picture.equity_svg(bars, run.evaluation)
    (folder / "equity.svg").write_text(drawing, encoding="utf-8")
    (folder / "report.html").write_text(report.html(run.evaluation, bars, _header(run), drawing), encoding="utf-8")


def _header(run: Run) -> dict[str, str]:
    return {
        "File": run.file,
        "Status": f"{run.status}: {run.reason}",
        "Run": run.id,
        "Source (sha256)": run.source,
        "Data (sha256)": run.data or "",
        "Image": f"{run.image.profile} {run.image.id}",
        "Isolation": f"{run.isolation} on {run.runtime}",
    }


def _fresh(out: Path) -> Path:
    """Make the folder that was asked for, or take an empty one: nothing of the user's is written over."""
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(out.iterdir()):
            raise UsageError(f"--out {out}: the folder is not empty; name a new one")
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be used as a folder: {error.strerror}; name another one") from error
    return out
