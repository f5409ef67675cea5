"""The command `sandbox`: words in, one call, words out, exit code.

Exit codes: 0 passed, 1 the candidate did not pass, 2 usage, configuration or a missing prerequisite, 3 we could
not decide, 130 interrupted. What a command needs is imported inside it: `--help` must not wait for an engine.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from .schemas.errors import GateError, UsageError

if TYPE_CHECKING:
    from .patchflow.exercise import Request
    from .schemas.limits import Limits
    from .schemas.settings import Settings

PASSED, NOT_PASSED, USAGE, NOT_DECIDED, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Run code that a model wrote in a sealed container.",
)
engine_app = typer.Typer(help="Start and stop a container engine of our own.")
image_app = typer.Typer(help="Build and check the images that runs see.")
app.add_typer(engine_app, name="engine")
app.add_typer(image_app, name="image")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        from .service import terminal

        terminal.say(f"sandgate {version('sandgate')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run code that a model wrote in a sealed container."""


Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The Python file to run; - reads standard input.")],
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Wall time, such as 2m. [30s]")] = None,
    cpu_time: Annotated[str | None, typer.Option(metavar="TIME", help="CPU time of all its processes. [30s]")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory; files it writes count. [512m]")] = None,
    cpus: Annotated[str | None, typer.Option(metavar="N", help="Processor cores, such as 1.5. [1]")] = None,
    pids: Annotated[str | None, typer.Option(metavar="N", help="Processes and threads. [64]")] = None,
    disk: Annotated[str | None, typer.Option(metavar="SIZE", help="In each of /out, /tmp, /dev/shm. [64m]")] = None,
    output_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Kept of stdout and stderr each. [1m]")
    ] = None,
    isolation: Annotated[str | None, typer.Option(metavar="KIND", help="default or gvisor.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Bars: sp500, nasdaq, a CSV or Parquet.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(metavar="NAME", help="Which strategy of the file.")] = None,
    param: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A parameter of the strategy.")] = None,
    arg: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="An argument of the program.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="A new folder for all that comes of it.")] = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live output, only the summary.")] = False,
) -> None:
    """Run one file in a sealed container and say what happened.

    Limits in square brackets hold unless the settings say otherwise.
    """
    from .patchflow.exercise import Request
    from .schemas.run import Isolation
    from .validation.source import read_source

    settings = _settings()
    asked = {
        "timeout": timeout,
        "cpu_time": cpu_time,
        "memory": memory,
        "cpus": cpus,
        "pids": pids,
        "disk": disk,
        "output": output_limit,
    }
    if isolation is not None and isolation not in list(Isolation):
        raise UsageError(f"--isolation {isolation}: does not exist; use one of {', '.join(Isolation)}")
    request = Request(
        source=read_source(file),
        limits=_limits(settings, asked),
        isolation=Isolation(isolation) if isolation is not None else settings.isolation,
        arguments=tuple(arg or ()),
        data=data,
        strategy=strategy,
        params=_params(param or []),
        out=out,
    )
    _exercise(request, settings, as_json, quiet or as_json)


def _exercise(request: Request, settings: Settings, as_json: bool, quiet: bool) -> NoReturn:
    """Run a request, show what happens unless `quiet`, say what came of it, and exit with its code."""
    from .patchflow.exercise import exercise
    from .sandbox.backend import DockerBackend
    from .sandbox.job import new_run_id
    from .service import terminal

    progress = terminal.Progress(quiet)
    live = terminal.LiveOutput(request.source.name, progress)
    try:
        progress.say(f"starting {request.source.name}")
        sink = (lambda *_: None) if quiet else live.take
        done = exercise(request, settings, DockerBackend(settings, progress.note), sink, new_run_id())
        live.finish()
    finally:
        progress.stop()
    terminal.say(_json(done.run) if as_json else terminal.summary(done.run, done.folder))
    raise typer.Exit(PASSED if done.run.passed else NOT_PASSED)


@app.command("list")
def list_runs(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many finished runs.")] = 10,
    as_json: Json = False,
) -> None:
    """List the runs in flight and the most recent ones."""
    from .sandbox import engine, reaper
    from .schemas.errors import PrerequisiteError
    from .service import terminal
    from .state.runs import Runs

    settings = _settings()
    try:
        in_flight = reaper.ours(engine.connect(settings), settings)
    except PrerequisiteError:
        in_flight = []
    recent = Runs(settings.state / "runs").recent(count)
    if as_json:
        flying = [{"run": one.run, "file": one.file, "owner_is_alive": one.owner_is_alive} for one in in_flight]
        bulk = {"stdout": {"text"}, "stderr": {"text"}, "evaluation": {"trades", "equity"}}
        finished = [run.model_dump(mode="json", exclude=bulk) for run in recent]
        terminal.say(json.dumps({"in_flight": flying, "recent": finished}, indent=2))
        return
    rows = [(one.run, "RUNNING" if one.owner_is_alive else "ORPHAN", "", one.file) for one in in_flight]
    rows += [(run.id, run.verdict, f"{run.usage.wall_seconds:.2f} s", run.file) for run in recent]
    terminal.say(terminal.table([("RUN", "STATUS", "WALL", "FILE"), *rows]) if rows else "no runs yet")


@app.command()
def cleanup(
    days: Annotated[float, typer.Option(min=0, max=36_500, help="Also remove what is older than this.")] = 30,
    as_json: Json = False,
) -> None:
    """Remove what dead owners left, and what is old; only ever ours."""
    from .sandbox import engine, reaper
    from .sandbox.image import store
    from .service import terminal
    from .state.runs import Runs

    settings = _settings()
    connected = engine.connect(settings)
    removed = reaper.reap(connected, settings)
    images = store.prune(connected, settings, days)
    pruned = Runs(settings.state / "runs").prune(days)
    if as_json:
        containers = [one.run for one in removed]
        terminal.say(json.dumps({"containers": containers, "images": images, "runs": pruned}))
        return
    terminal.say(f"removed {len(removed)} containers, {len(images)} images and the records of {len(pruned)} runs")


@app.command()
def doctor(
    strict: Annotated[bool, typer.Option("--strict", help="Fail on a known hole that may have been patched.")] = False,
    as_json: Json = False,
) -> None:
    """Check what a run needs, and say what to do."""
    from .sandbox import prerequisites
    from .service import terminal

    settings = _settings()
    checks = prerequisites.examine(settings.model_copy(update={"strict": settings.strict or strict}))
    if as_json:
        terminal.say(json.dumps([vars(check) for check in checks], indent=2))
    else:
        for check in checks:
            terminal.say(
                f"{check.level:<4}  {check.name}: {check.finding}" + (f"; {check.advice}" if check.advice else "")
            )
    raise typer.Exit(USAGE if any(check.level == "fail" for check in checks) else PASSED)


@engine_app.command("up")
def engine_up() -> None:
    """Start an engine of our own where none answers."""
    from .sandbox import daemon
    from .service import terminal

    terminal.say(daemon.up(_settings(), terminal.complain))


@engine_app.command("down")
def engine_down() -> None:
    """Stop our own engine."""
    from .sandbox import daemon
    from .service import terminal

    stopped = daemon.down(_settings())
    terminal.say("our engine is down" if stopped else "our engine was not running")


@engine_app.command("status")
def engine_status(as_json: Json = False) -> None:
    """Say which engine answers."""
    from .sandbox import daemon
    from .service import terminal

    status = daemon.status(_settings())
    if as_json:
        terminal.say(json.dumps(vars(status)))
    elif status.host is None:
        terminal.say("no engine answers; run `sandbox engine up`")
    else:
        owner = f"ours, process {status.pid}" if status.ours else "not ours"
        runtimes = ", ".join(status.runtimes)
        terminal.say(f"engine {status.version} answers at {status.host} ({owner}); runtimes {runtimes}")
    raise typer.Exit(PASSED if status.host else USAGE)


@image_app.command("build")
def image_build(
    profile: Annotated[str, typer.Argument(help="core, backtesting or backtrader.")] = "core",
) -> None:
    """Build the image of a profile."""
    from .sandbox import engine
    from .sandbox.image import profiles, store
    from .service import terminal

    settings = _settings()
    image = store.build(engine.connect(settings), profiles.named(profile), settings, terminal.complain)
    terminal.say(f"{image.profile}  {image.id}")


@image_app.command("list")
def image_list(as_json: Json = False) -> None:
    """List the images that runs may see."""
    from .sandbox import engine
    from .sandbox.image import store
    from .service import terminal

    settings = _settings()
    images = store.listed(engine.connect(settings), settings)
    if as_json:
        terminal.say(json.dumps([image.model_dump(mode="json") for image in images], indent=2))
        return
    rows = [("PROFILE", "SIZE", "BUILT", "STATE", "ID")]
    for image in images:
        built = f"{image.built:%Y-%m-%d %H:%M}Z"
        state = "current" if image.current else "outdated"
        rows.append((image.profile, terminal.size(image.size), built, state, image.id))
    terminal.say(terminal.table(rows) if images else "no image yet; run `sandbox image build`")


@image_app.command("verify")
def image_verify(as_json: Json = False) -> None:
    """Hold the engine's images against our record of them."""
    from .sandbox import engine
    from .sandbox.image import store
    from .service import terminal

    settings = _settings()
    connected = engine.connect(settings)
    images = [image for image in store.listed(connected, settings) if image.current]
    if not images:
        raise UsageError("there is no image to verify; run `sandbox image build`")
    wrong = {image.tag: store.verify(connected, image, settings) for image in images}
    if as_json:
        terminal.say(json.dumps(wrong))
    else:
        for tag, differences in wrong.items():
            terminal.say(f"{tag}  {'; '.join(differences) or 'as it was built'}")
    raise typer.Exit(NOT_DECIDED if any(wrong.values()) else PASSED)


def main() -> NoReturn:
    """Run the command line and exit with its code; every failure is one line on standard error."""
    from .service import terminal

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    terminal.prepare()
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = int(app(standalone_mode=False) or PASSED)
        if code == INTERRUPTED:  # typer's answer to Ctrl-C
            terminal.complain("sandbox: interrupted; what was running was stopped and its container removed")
    except typer.TyperException as error:
        code = _refuse(f"{error.format_message().rstrip('.')}; see `{_command(error)} --help`", USAGE)
    except GateError as error:
        code = _refuse(str(error), error.exit_code, error.retryable)
    except Exception as error:
        # Whatever we did not foresee says nothing of the candidate: that is exit 3, never 1.
        if os.environ.get("SANDBOX_DEBUG"):
            raise
        reason = f"{type(error).__name__}: {error}"
        code = _refuse(f"unexpected {reason}; this is a fault of ours: please report it", NOT_DECIDED)
    sys.exit(code)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _command(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "sandbox"


def _refuse(reason: str, code: int, retryable: bool = False) -> int:
    """Say in one line why there is no answer, as JSON too where that was asked for; return the exit code."""
    from .schemas.text import one_line
    from .service import terminal

    terminal.complain(f"sandbox: {one_line(reason)}")
    if "--json" in sys.argv:
        error = {"kind": "error", "exit_code": code, "retryable": retryable, "message": reason}
        terminal.say(json.dumps(error))
    return code


def _settings() -> Settings:
    from .schemas.settings import load_settings

    return load_settings(Path.cwd(), os.environ)


def _limits(settings: Settings, asked: dict[str, str | None]) -> Limits:
    """Return the settings' limits with what was asked for on top. Raises UsageError naming the flag."""
    from pydantic import ValidationError

    from .schemas.limits import Limits, beyond, over
    from .schemas.settings import describe

    given = {name: value for name, value in asked.items() if value is not None}
    try:
        limits = Limits.model_validate(over(settings.limits, given))
    except ValidationError as error:
        name, _, reason = describe(error).rpartition(": ")
        raise UsageError(f"{_flag(name)}: {reason}" if name else reason) from error
    if too_much := beyond(limits, settings.ceilings):
        name, _, reason = too_much[0].partition(" ")
        raise UsageError(f"{_flag(name)} {reason}; ask for less")
    return limits


def _flag(limit: str) -> str:
    """Return the option that sets a limit."""
    return "--output-limit" if limit == "output" else f"--{limit.replace('_', '-')}"


def _params(pairs: list[str]) -> dict[str, str]:
    params: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier() or name in params:
            raise UsageError(f"--param {pair}: must be NAME=VALUE, each name once")
        params[name] = value
    return params


def _json(model: Any) -> str:
    return json.dumps(model.model_dump(mode="json"), indent=2)
