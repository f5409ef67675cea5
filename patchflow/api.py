"""The Python API: one file, one call, one `Run`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from ..sandbox import engine, reaper
from ..sandbox.backend import DockerBackend
from ..sandbox.job import new_run_id
from ..schemas.errors import GateError, UsageError
from ..schemas.limits import Limits
from ..schemas.run import Isolation, Run
from ..schemas.settings import Settings, load_settings
from ..validation.source import Source, from_bytes, read_source
from .exercise import Request, exercise


class Options(TypedDict, total=False):
    """How to run a file. What is left out, or None, is what the settings say.

    `settings` itself left out means those of the working folder and the environment. `code` stands in for a
    file. `data`, `strategy` and `params` are for strategies; `out` is a new or empty folder for what comes of it.
    """

    code: str | bytes | None
    limits: Limits | None
    isolation: Isolation | str | None
    arguments: Sequence[str]
    data: str | os.PathLike[str] | None
    strategy: str | None
    params: Mapping[str, str | float] | None
    out: str | os.PathLike[str] | None
    settings: Settings | None


def run(file: str | os.PathLike[str] | None = None, **options: Unpack[Options]) -> Run:
    """Run a file (or `code`) in a sealed container and return the evidence.

    Raises UsageError, PrerequisiteError, EngineError or SealError, all of them GateError, when there is none.
    """
    settings = options.get("settings") or load_settings(Path.cwd(), os.environ)
    return _run(file, options, settings, new_run_id())


async def arun(file: str | os.PathLike[str] | None = None, **options: Unpack[Options]) -> Run:
    """Do what `run` does without blocking the event loop. Cancelled, it returns once the container is gone."""
    settings = options.get("settings") or load_settings(Path.cwd(), os.environ)
    run_id = new_run_id()
    work = asyncio.create_task(asyncio.to_thread(_run, file, options, settings, run_id))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            await asyncio.to_thread(_kill, settings, run_id)
            await asyncio.wait([work], timeout=0.2)
        work.exception()
        raise


def _run(file: str | os.PathLike[str] | None, options: Options, settings: Settings, run_id: str) -> Run:
    data, out = options.get("data"), options.get("out")
    request = Request(
        source=_source(file, options.get("code")),
        limits=options.get("limits") or settings.limits,
        isolation=_isolation(options.get("isolation")) or settings.isolation,
        arguments=tuple(options.get("arguments", ())),
        data=None if data is None else os.fspath(data),
        strategy=options.get("strategy"),
        params=options.get("params") or {},
        out=None if out is None else Path(out),
    )
    backend = DockerBackend(settings, say=lambda _: None)
    return exercise(request, settings, backend, lambda *_: None, run_id).run


def _source(file: str | os.PathLike[str] | None, code: str | bytes | None) -> Source:
    if code is not None and file is None:
        return from_bytes("candidate.py", code.encode() if isinstance(code, str) else code)
    if file is not None and code is None:
        return read_source(os.fspath(file))
    raise UsageError("run takes either a file or code, exactly one of the two")


def _isolation(value: Isolation | str | None) -> Isolation | None:
    try:
        return None if value is None else Isolation(value)
    except ValueError:
        raise UsageError(f"isolation {value!r} does not exist; use one of {', '.join(Isolation)}") from None


def _kill(settings: Settings, run_id: str) -> None:
    with contextlib.suppress(GateError):
        reaper.kill_run(engine.connect(settings), settings, run_id)
