"""The Python API: one file, one call, one `Run`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..sandbox import engine, reaper
from ..sandbox.backend import DockerBackend
from ..sandbox.job import new_run_id
from ..schemas.errors import GateError, UsageError
from ..schemas.limits import Limits
from ..schemas.run import Isolation, Run
from ..schemas.settings import Settings, load_settings
from ..validation.source import Source, from_bytes, read_source
from .exercise import Request, exercise

StrPath = str | os.PathLike[str]
Param = bool | int | float | str


def run(
    file: StrPath | None = None,
    *,
    code: str | bytes | None = None,
    limits: Limits | None = None,
    isolation: Isolation | str | None = None,
    arguments: Sequence[str] = (),
    data: StrPath | None = None,
    strategy: str | None = None,
    params: Mapping[str, Param] | None = None,
    out: StrPath | None = None,
    settings: Settings | None = None,
) -> Run:
    """Run a file (or `code`) in a sealed container and return the evidence.

    What is left out is what the settings say; `settings` left out means those of the working folder and the
    environment. `data` is a registered name or a file of bars, `out` a new or empty folder for all that comes of
    the run. Raises UsageError, PrerequisiteError, EngineError or SealError, all of them GateError, when there is no
    evidence.
    """
    settings = settings or load_settings(Path.cwd(), os.environ)
    request = _request(file, code, limits, isolation, arguments, data, strategy, params, out, settings)
    return _run(request, settings, new_run_id())


async def arun(
    file: StrPath | None = None,
    *,
    code: str | bytes | None = None,
    limits: Limits | None = None,
    isolation: Isolation | str | None = None,
    arguments: Sequence[str] = (),
    data: StrPath | None = None,
    strategy: str | None = None,
    params: Mapping[str, Param] | None = None,
    out: StrPath | None = None,
    settings: Settings | None = None,
) -> Run:
    """Do what `run` does without blocking the event loop. Cancelled, it returns once the container is gone."""
    settings = settings or load_settings(Path.cwd(), os.environ)
    request = _request(file, code, limits, isolation, arguments, data, strategy, params, out, settings)
    run_id = new_run_id()
    work = asyncio.create_task(asyncio.to_thread(_run, request, settings, run_id))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await _gone(work, settings, run_id)
        raise


async def _gone(work: asyncio.Task[Run], settings: Settings, run_id: str) -> None:
    """Kill the run's container until its thread has ended, however often we are cancelled meanwhile."""
    killing = asyncio.create_task(_kill_until_done(work, settings, run_id))
    while not killing.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(killing)


async def _kill_until_done(work: asyncio.Task[Run], settings: Settings, run_id: str) -> None:
    while not work.done():
        await asyncio.to_thread(_kill, settings, run_id)
        await asyncio.wait([work], timeout=0.2)
    work.exception()  # Seen: it is the cancelling that the caller asked for.


def _request(
    file: StrPath | None,
    code: str | bytes | None,
    limits: Limits | None,
    isolation: Isolation | str | None,
    arguments: Sequence[str],
    data: StrPath | None,
    strategy: str | None,
    params: Mapping[str, Param] | None,
    out: StrPath | None,
    settings: Settings,
) -> Request:
    if not isinstance(limits, Limits | None):
        raise UsageError(f"limits must be a Limits, not {type(limits).__name__}: Limits(timeout=10)")
    return Request(
        source=_source(file, code),
        limits=limits or settings.limits,
        isolation=_isolation(isolation) or settings.isolation,
        arguments=tuple(arguments),
        data=None if data is None else os.fspath(data),
        strategy=strategy,
        params={name: _plain(name, value) for name, value in (params or {}).items()},
        out=None if out is None else Path(out),
    )


def _run(request: Request, settings: Settings, run_id: str) -> Run:
    backend = DockerBackend(settings, say=lambda _: None)
    return exercise(request, settings, backend, lambda *_: None, run_id).run


def _source(file: StrPath | None, code: str | bytes | None) -> Source:
    if isinstance(code, str | bytes) and file is None:
        return from_bytes("candidate.py", code.encode() if isinstance(code, str) else code)
    if isinstance(file, str | os.PathLike) and code is None:
        return read_source(os.fspath(file))
    raise UsageError("run takes either the path of a file or code=, exactly one of the two")


def _isolation(value: Isolation | str | None) -> Isolation | None:
    try:
        return None if value is None else Isolation(value)
    except ValueError:
        raise UsageError(f"isolation {value!r} does not exist; use one of {', '.join(Isolation)}") from None


def _plain(name: str, value: Any) -> Param:
    """Return a parameter as a plain value: numbers of numpy have an `item` that is one."""
    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, bool | int | float | str):
        raise UsageError(f"parameter {name!r} must be a number or a text, not {type(value).__name__}")
    return plain


def _kill(settings: Settings, run_id: str) -> None:
    with contextlib.suppress(GateError):
        reaper.kill_run(engine.connect(settings), settings, run_id)
