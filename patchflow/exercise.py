"""Takes one file from its source to the evidence of its run: what `sandbox run` and `sandgate.run` do.

    shape of the source -> bars -> sealed run -> evaluation outside -> record

Nothing is decided here: the parts decide, this puts them in order.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ..sandbox.job import Backend, Job, Sink
from ..schemas.errors import UsageError
from ..schemas.limits import Limits, beyond
from ..schemas.run import Claim, Data, Isolation, Run, Status
from ..schemas.settings import Settings
from ..schemas.text import one_line
from ..state.runs import Runs, write_record
from ..validation.source import Shape, Source, inspect

if TYPE_CHECKING:
    from ..evaluation.bars import Bars

ARTIFACTS = "artifacts"
LONGEST_NAME = 100
MOST_TRADES, MOST_COLUMNS = 100_000, 100
"""What is taken of a claim."""


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
    params: Mapping[str, bool | int | float | str] = field(default_factory=dict)
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
    if too_much := beyond(request.limits, settings.ceilings):
        raise UsageError(f"{'; '.join(too_much)}; ask for less")
    shape = inspect(request.source.code)
    bars = _bars(request, shape, settings)
    runs = Runs(settings.state / "runs")
    with runs.claim(run_id) as own, _folders(request.out or own) as (folder, artifacts):
        job = _job(request, shape, bars, settings)
        answer = backend.run(job, request.limits, request.isolation, run_id=run_id, folder=artifacts, sink=sink)
        run = answer.run.model_copy(update=_asked(request))
        if bars is not None:
            data = Data(name=_data_name(request, settings), sha256=bars.digest)
            run = _evaluated(run.model_copy(update={"data": data}), shape, answer.result, bars, settings)
            _draw(run, bars, folder)
        runs.record(run)
        if folder != own:
            write_record(folder, run)
    return Exercise(run, folder)


@contextlib.contextmanager
def _folders(out: Path) -> Iterator[tuple[Path, Path]]:
    """Make the folder of a run and the one in it for artifacts; leave neither where there is nothing to keep."""
    was_there = out.exists()
    folder = _fresh(out)
    artifacts = folder / ARTIFACTS
    artifacts.mkdir(mode=0o700)
    try:
        yield folder, artifacts
    finally:
        for path in (artifacts,) if was_there else (artifacts, folder):
            with contextlib.suppress(OSError):  # Not empty: then it is kept.
                path.rmdir()


def _asked(request: Request) -> dict[str, Any]:
    """Return what the evidence keeps of the request, so that the run can be repeated from it."""
    return {"arguments": request.arguments, "strategy": request.strategy, "params": dict(request.params)}


def _data_name(request: Request, settings: Settings) -> str:
    return settings.data if request.data is None else request.data


def _bars(request: Request, shape: Shape, settings: Settings) -> Bars | None:
    """Load what the strategy trades on. A plain script gets nothing, and asking for it is a mistake."""
    if shape.contract == "script":
        for option, value in (("data", request.data), ("strategy", request.strategy), ("param", request.params)):
            if value not in (None, {}):
                raise UsageError(
                    f"{request.source.name} defines no strategy, so --{option} has no meaning; "
                    "define generate_signals(df) or a backtesting.Strategy, or leave the option out"
                )
        return None
    _check_choice(request, shape)
    if request.data == "":
        raise UsageError("--data is empty; give a registered name or a CSV or Parquet file, or leave it out")
    from ..evaluation import bars

    return bars.load(_data_name(request, settings))


def _check_choice(request: Request, shape: Shape) -> None:
    """Refuse a strategy or a parameter that the file does not have: the caller's mistake, not the candidate's."""
    name, there_are = request.strategy, ", ".join(shape.strategies)
    if name is None and len(shape.strategies) > 1:
        raise UsageError(f"{request.source.name} has several strategies; choose one with --strategy: {there_are}")
    if name is not None and name not in shape.strategies:
        raise UsageError(f"{request.source.name} has no strategy {one_line(name)!r}; it has {there_are}")
    known = shape.strategies[name or next(iter(shape.strategies))]
    for param in request.params:
        if known is not None and param not in known:
            has = ", ".join(known) or "none"
            raise UsageError(f"the strategy has no parameter {one_line(param)!r}; it has {has}")


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
    if run.status is not Status.OK:
        return run
    try:
        returned = _parsed(result)
        name = one_line(str(returned["strategy"]))[:LONGEST_NAME]
        if shape.contract == "backtesting":
            return run.model_copy(update={"claim": _claim(shape.contract, returned)})
    except (ValueError, KeyError, RecursionError):
        # The harness runs in the candidate's process: without its answer, or with another, there is no result.
        reason = "it ended without the result that its strategy owes"
        return run.model_copy(update={"status": Status.INCOMPLETE, "reason": reason})
    from ..evaluation.evaluate import evaluate

    name = PurePath(run.file).stem if name == "generate_signals" else name
    evaluation = evaluate(returned.get("positions"), bars, settings.costs, name)
    if evaluation.findings:
        found = evaluation.findings[0]
        run = run.model_copy(update={"reason": f"what it returned was refused: {found.rule} {found.message}"})
    return run.model_copy(update={"evaluation": evaluation})


def _parsed(result: bytes) -> dict[str, Any]:
    """Parse what came out of the container. Raises ValueError or RecursionError for anything but a JSON object."""
    parsed = json.loads(result)
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    return parsed


def _claim(framework: str, returned: dict[str, Any]) -> Claim:
    """Take over a claim in bounds: few enough rows, plain values, harmless text. Raises ValueError or KeyError."""
    metrics, trades = returned["metrics"], returned["trades"]
    if not isinstance(metrics, dict) or not isinstance(trades, list) or len(trades) > MOST_TRADES:
        raise ValueError("not a table of metrics and a list of trades")
    return Claim(framework=framework, metrics=_row(metrics), trades=tuple(map(_row, trades)))


def _row(values: Any) -> dict[str, float | str | None]:
    if not isinstance(values, dict) or len(values) > MOST_COLUMNS:
        raise ValueError("not a row of values")
    return {one_line(name)[:LONGEST_NAME]: _value(value) for name, value in values.items()}


def _value(value: Any) -> float | str | None:
    if isinstance(value, str):
        return one_line(value)[:LONGEST_NAME]
    if value is None or (isinstance(value, int | float) and abs(value) < sys.float_info.max):
        return value
    raise ValueError("not a plain value")


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
        "Data": f"{run.data.name}, sha256 {run.data.sha256}" if run.data else "",
        "Parameters": ", ".join(f"{name}={value}" for name, value in run.params.items()) or "the file's own",
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
