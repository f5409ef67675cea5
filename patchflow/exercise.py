"""Takes one file from its source to the evidence of its run: what `sandbox run` and `sandgate.run` do.

    shape of the source -> profile -> image -> bars -> sealed run -> evaluation outside -> record

Nothing is decided here: the parts decide, this puts them in order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sandbox import engine as engines
from ..sandbox import prerequisites, reaper, runner
from ..sandbox.image import profiles, store
from ..schemas.errors import PrerequisiteError, UsageError
from ..schemas.limits import Limits, beyond
from ..schemas.run import Claim, Isolation, Run, Status
from ..schemas.settings import Settings
from ..state.runs import Runs, write_record
from ..validation.source import Shape, Source, inspect

if TYPE_CHECKING:
    from ..evaluation.bars import Bars

ARTIFACTS = "artifacts"
Say = Callable[[str], None]


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


def exercise(request: Request, settings: Settings, sink: runner.Sink, say: Say, run_id: str) -> Exercise:
    """Run a file and evaluate what it returned. `say` gets a line of progress now and then.

    Raises UsageError for what cannot be run as asked, PrerequisiteError for what is missing here, and EngineError
    or SealError when we could not find out.
    """
    if over := beyond(request.limits, settings.ceilings):
        raise UsageError(f"{'; '.join(over)}; ask for less, or raise [tool.sandbox.ceilings]")
    shape = inspect(request.source.code)
    bars = _bars(request, shape, settings)
    engine = engines.connect(settings)
    if settings.strict and (holes := prerequisites.holes(engine, strict=True)):
        raise PrerequisiteError(f"strict: {'; '.join(holes)}; update the engine, or run without strict")
    profile = profiles.profile_for(set(shape.imports), store.opted_in(engine, settings))
    image = store.ensure(engine, profile, settings, say)
    reaper.reap(engine, settings)
    runs = Runs(settings.state / "runs")
    own_folder = runs.folder(run_id)
    folder = _fresh(request.out) if request.out else own_folder
    artifacts = folder / ARTIFACTS
    artifacts.mkdir(mode=0o700)
    answer = runner.run(
        engine,
        _job(request, shape, bars, settings),
        image,
        settings,
        limits=request.limits,
        isolation=request.isolation,
        run_id=run_id,
        folder=artifacts,
        sink=sink,
    )
    run = answer.run
    if bars is not None:
        run = _evaluated(run, shape, answer.result, bars, settings)
        _draw(run, bars, folder)
    if not any(artifacts.iterdir()):
        artifacts.rmdir()
    runs.record(run)
    if folder != own_folder:
        write_record(folder, run)
    return Exercise(run, folder)


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


def _job(request: Request, shape: Shape, bars: Bars | None, settings: Settings) -> runner.Job:
    options: dict[str, Any] = {"strategy": request.strategy, "params": dict(request.params)}
    options |= {"cash": settings.costs.cash, "commission": settings.costs.commission}
    return runner.Job(
        name=request.source.name,
        code=request.source.code,
        source=request.source.sha256,
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
        returned = json.loads(result)
        name, contract = str(returned["strategy"]), returned["contract"]
    except (ValueError, TypeError, KeyError, RecursionError):
        reason = "it ended before its strategy returned anything"
        return run.model_copy(update={"status": Status.INCOMPLETE, "reason": reason})
    if contract == "signals":
        from ..evaluation.evaluate import evaluate

        evaluation = evaluate(returned.get("positions"), bars, settings.costs, name)
        return run.model_copy(update={"evaluation": evaluation})
    claim = Claim(framework=shape.contract, metrics=returned["metrics"], trades=tuple(returned["trades"]))
    return run.model_copy(update={"claim": claim})


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
