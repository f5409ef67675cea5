"""Runs one job in one container, from create to removal: the main path of this package.

    create -> read back and compare -> attach -> start -> hello and compare -> job in -> frames out -> remove

Whatever happens on the way, the container is killed and removed at the end. What the candidate does is in the
answer; what goes wrong on our side is raised.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..schemas.errors import EngineError, PrerequisiteError, SealError
from ..schemas.limits import Limits
from ..schemas.run import Image, Isolation, Output, Run, Usage
from ..schemas.settings import Settings
from ..schemas.text import decoded, one_line
from . import reaper, seal
from .collector import Collector
from .engine import Engine, calling
from .job import Answer, Job, Sink
from .outcome import Facts, Record, classify
from .protocol import RECORD, ChannelBroken, ConnectionLost, DeadlinePassed, Frames, encoded_job

START_SECONDS = 60.0
"""How long a container may take to say hello before the engine is to blame."""
GRACE_SECONDS = 20.0
"""How long after its own deadline a warden may take to bury, collect and report before we stop waiting."""
_STARTING, _SEALING, _RUNNING = "H", "SF", "OoEeRABX" + RECORD
"""The kinds of frame that may come while a container starts, while its child is sealed, and from then on."""
_KILLED = (128 + 9, 128 + 15)
"""How an engine reports a PID 1 that SIGKILL or SIGTERM ended."""


def run(
    engine: Engine,
    job: Job,
    image: Image,
    settings: Settings,
    *,
    limits: Limits,
    isolation: Isolation,
    run_id: str,
    folder: Path,
    sink: Sink,
) -> Answer:
    """Run `job` sealed and return what happened; artifacts go into `folder`.

    Raises EngineError when the engine fails or vanishes, SealError when the container is not what was asked for,
    PrerequisiteError when the isolation is not there.
    """
    started = datetime.now(UTC)
    labels = reaper.labels(settings, run_id, one_line(job.name))
    asked = seal.arguments(image.id, limits, _runtime(engine, isolation), labels, seal.new_uid())
    with _container(engine, asked) as container:
        runtime = _compare(engine, container, asked)
        exchange = _Exchange(job, limits, isolation, asked["User"], Collector(folder, limits), sink)
        exchange.begun = time.monotonic()
        with _attached(engine, container) as connection:
            with calling("start a container"):
                engine.api.start(container)
            exchange.hold(connection)
        facts = _facts(engine, container, exchange)
    status, reason = classify(facts)
    record = exchange.record
    run = Run(
        id=run_id,
        file=one_line(job.name),
        source=job.source,
        status=status,
        reason=reason,
        exit_code=record.get("exit_code"),
        signal=record.get("signal"),
        usage=exchange.usage(),
        limits=limits,
        stdout=exchange.output("stdout"),
        stderr=exchange.output("stderr"),
        artifacts=tuple(exchange.collector.artifacts),
        refused=tuple(exchange.collector.refused),
        image=image,
        isolation=isolation,
        runtime=runtime,
        started=started,
        finished=datetime.now(UTC),
    )
    return Answer(run, bytes(exchange.result))


class _Exchange:
    """The conversation with one warden, and what came of it."""

    def __init__(
        self, job: Job, limits: Limits, isolation: Isolation, user: str, collector: Collector, sink: Sink
    ) -> None:
        self.job = job
        self.limits = limits
        self.isolation = isolation
        self.user = user
        self.collector = collector
        self.sink = sink
        self.record: dict[str, Any] = {}
        self.result = bytearray()
        self.has_begun = False
        self.begun = 0.0
        self.ended = 0.0
        self.deadline_passed = False
        self.broken: str | None = None
        self._expected = _STARTING
        self._kept = {kind: bytearray() for kind in "OoEe"}

    def hold(self, connection: socket.socket) -> None:
        """Talk until the completion record, the end of the stream or our deadline."""
        frames = Frames(connection, time.monotonic() + START_SECONDS)
        try:
            for kind, payload in frames:
                self._take(frames, kind, payload)
                if self.record:
                    break
        except DeadlinePassed:
            if not self.has_begun:
                raise EngineError(f"the container did not start within {START_SECONDS:g} s") from None
            self.deadline_passed = True
        except ChannelBroken as error:
            self.broken = str(error)
        except ConnectionLost as error:
            raise EngineError("the connection to the engine broke; run `sandbox cleanup` when it is back") from error
        finally:
            self.ended = time.monotonic()
            self.collector.close()
        if not self.has_begun:
            complaint = one_line(decoded(bytes(frames.complaint)))[-300:] or self.broken or "it said nothing"
            raise EngineError(f"the container ended before the candidate could begin: {complaint}")

    def output(self, stream: str) -> Output:
        """Return what was kept of a stream, with a mark where something is missing."""
        head, tail = (self._kept[kind] for kind in ("Oo" if stream == "stdout" else "Ee"))
        counted = self.record.get(stream) or {"total": len(head) + len(tail), "dropped": 0}
        text = decoded(bytes(head))
        if counted["dropped"]:
            text += f"\n[... {counted['dropped']} bytes dropped ...]\n"
        return Output(text=text + decoded(bytes(tail)), total=counted["total"], dropped=counted["dropped"])

    def usage(self) -> Usage:
        """Return the warden's measurements, or only our own clock when there is no record."""
        if not self.record:
            return Usage(wall_seconds=self.ended - self.begun)
        return Usage.model_validate({name: self.record.get(name) for name in Usage.model_fields})

    def facts_record(self) -> Record | None:
        """Return the part of the completion record that decides."""
        if not self.record:
            return None
        record = self.record
        return Record(
            exit_code=record["exit_code"],
            signal=record["signal"],
            cause=record["cause"],
            oom_events=record["oom_events"],
            pids_events=record["pids_events"],
            disk_full=record["disk_full"],
            dropped=record["stdout"]["dropped"] + record["stderr"]["dropped"],
        )

    def _greet(self, hello: dict[str, Any]) -> None:
        if wrong := seal.differences_inside(hello, self.user, self.isolation is Isolation.GVISOR):
            raise SealError(f"the container is not sealed: {'; '.join(wrong)}; nothing was run in it")

    def _job(self) -> bytes:
        header = {
            "name": self.job.name,
            "contract": self.job.contract,
            "arguments": self.job.arguments,
            "options": self.job.options,
            "environment": seal.environment(self.limits),
            "limits": {**self.limits.model_dump(), "result": self.job.result_limit},
        }
        return encoded_job(header, self.job.code, self.job.bars)

    def _begin(self, frames: Frames) -> None:
        self._expected = _RUNNING
        frames.prove()
        self.has_begun = True
        self.begun = time.monotonic()
        frames.deadline = self.begun + self.limits.timeout + GRACE_SECONDS
        self.sink("started", b"")

    def _take(self, frames: Frames, kind: str, payload: bytes) -> None:
        # Each kind has its time. Under gVisor a candidate can write here too: it must not get a second key, a second
        # deadline, or a refusal of ours, by playing the warden's first lines again.
        if kind not in self._expected:
            raise ChannelBroken(f"a frame of kind {kind!r} out of its turn")
        if kind in self._kept:
            self._keep(kind, payload)
        elif kind == "H":
            self._greet(_entry(payload))
            self._expected = _SEALING
            frames.send(self._job())
        elif kind == "S":
            self._begin(frames)
        elif kind == "R":
            self._add_result(payload)
        elif kind == "A":
            self.collector.begin(*_fields(payload, name=str, size=int))
        elif kind == "B":
            self.collector.take(payload)
        elif kind == "X":
            self.collector.refuse(*_fields(payload, name=str, reason=str))
        elif kind == "F":
            raise SealError(f"the candidate could not be sealed: {one_line(decoded(payload))}; nothing was run")
        else:
            self.record = _entry(payload)

    def _add_result(self, payload: bytes) -> None:
        self.result += payload
        if len(self.result) > self.job.result_limit:
            raise ChannelBroken("a longer result than the limit lets through")

    def _keep(self, kind: str, payload: bytes) -> None:
        kept = self._kept[kind]
        kept += payload
        if len(kept) > self.limits.output:
            raise ChannelBroken("more output than the limit lets through")
        self.sink("stdout" if kind in "Oo" else "stderr", payload)


def _entry(payload: bytes) -> dict[str, Any]:
    """Parse a frame of JSON. Raises ChannelBroken for anything but an object."""
    try:
        entry = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ChannelBroken("a frame that is no JSON") from error
    if not isinstance(entry, dict):
        raise ChannelBroken("a frame that is no object")
    return entry


def _fields(payload: bytes, **kinds: type) -> list[Any]:
    """Return the named fields of a frame of JSON. Raises ChannelBroken where one is missing or of another type."""
    entry = _entry(payload)
    if not all(isinstance(entry.get(name), kind) for name, kind in kinds.items()):
        raise ChannelBroken("a frame that lacks a field")
    return [entry[name] for name in kinds]


@contextlib.contextmanager
def _container(engine: Engine, asked: dict[str, Any]) -> Iterator[str]:
    with calling("create a container"):
        container = str(engine.api.create_container_from_config(asked)["Id"])
    try:
        yield container
    except BaseException:
        # What went wrong first is what the caller must hear; `sandbox cleanup` removes what an engine lost.
        with contextlib.suppress(EngineError):
            reaper.remove(engine, container)
        raise
    reaper.remove(engine, container)


@contextlib.contextmanager
def _attached(engine: Engine, container: str) -> Iterator[socket.socket]:
    """Attach before the start, so that nothing is lost, and detach before the removal, which waits for readers."""
    with calling("attach to a container"):
        stream = engine.api.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    connection: socket.socket = getattr(stream, "_sock", stream)
    try:
        yield connection
    finally:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        stream._response.close()


def _compare(engine: Engine, container: str, asked: dict[str, Any]) -> str:
    """Refuse a container that did not come out as asked; return the runtime that it has."""
    with calling("inspect a container"):
        inspected = engine.api.inspect_container(container)
    if wrong := seal.differences(asked, inspected):
        raise SealError(f"the engine made a container that is not sealed: {'; '.join(wrong)}; it was not started")
    return str(inspected["HostConfig"]["Runtime"])


def _runtime(engine: Engine, isolation: Isolation) -> str | None:
    if isolation is Isolation.DEFAULT:
        return None
    if seal.GVISOR_RUNTIME not in engine.info().get("Runtimes", {}):
        raise PrerequisiteError(
            "isolation gvisor was asked for and this engine has no runtime `runsc`; install runsc and restart the "
            "engine, or leave --isolation out"
        )
    return seal.GVISOR_RUNTIME


def _facts(engine: Engine, container: str, exchange: _Exchange) -> Facts:
    record = exchange.facts_record() if exchange.broken is None else None
    if record is not None and record.oom_events is not None:
        return Facts(record)
    with calling("inspect a container after its run"):
        state = engine.api.inspect_container(container)["State"]
    if record is None and not exchange.deadline_passed and exchange.broken is None:
        if state["Running"]:
            raise EngineError("the engine closed the connection to a running container")
        if state["ExitCode"] in _KILLED and not state["OOMKilled"] and exchange.isolation is Isolation.DEFAULT:
            # Under the host's own kernel nothing inside can send PID 1 a signal that ends it.
            raise EngineError("something outside the sandbox killed the container; run it again")
    return Facts(
        record,
        engine_saw_oom=bool(state["OOMKilled"]),
        deadline_passed=exchange.deadline_passed,
        broken=exchange.broken,
    )
