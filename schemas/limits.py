"""What a run may use: the limits a caller asks for and the ceilings they stay under."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

KIB, MIB, GIB = 1024, 1024**2, 1024**3

_UNITS = {"": 1, "b": 1, "k": KIB, "m": MIB, "g": GIB}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s?([bkmg]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s?(ms|s|m|h)?", re.ASCII | re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_size(value: Any) -> Any:
    """Turn `512m`, `1.5g` or a number of bytes into bytes (binary units); leave other types to pydantic.

    Raises ValueError for text that is no size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("not a size such as 64m, 1.5g or 1048576")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def parse_seconds(value: Any) -> Any:
    """Turn `30`, `1.5s`, `500ms`, `2m` or `1h` into seconds; leave other types to pydantic.

    Raises ValueError for text that is no duration.
    """
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError("not a duration such as 30s, 500ms or 2m")
    return float(match[1]) * _SECONDS[(match[2] or "s").lower()]


def _finite(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("must be a finite number; there is no unlimited")
    return value


Size = Annotated[int, BeforeValidator(parse_size), BeforeValidator(_finite), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), BeforeValidator(_finite), Field(gt=0)]
Count = Annotated[int, BeforeValidator(_finite), Field(gt=0)]
Cores = Annotated[float, BeforeValidator(_finite), Field(ge=0.1)]


class Limits(BaseModel):
    """What one run may use. An absent field means the default below; nothing here can mean unlimited.

    `timeout` and `cpu_time` are seconds; `memory`, `disk`, `output` and `artifacts` are bytes. `disk` holds for
    each writable folder (`/out`, `/tmp`, `/dev/shm`), which live in memory and so count as memory too. `output` is
    what is kept of standard output and of standard error, each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout: Seconds = 30.0
    cpu_time: Seconds = 30.0
    memory: Annotated[Size, Field(ge=32 * MIB)] = 512 * MIB
    cpus: Cores = 1.0
    pids: Annotated[Count, Field(ge=8)] = 64
    disk: Annotated[Size, Field(ge=64 * KIB)] = 64 * MIB
    output: Annotated[Size, Field(ge=KIB)] = MIB
    artifacts: Size = 64 * MIB
    artifact_count: Count = 256

    @model_validator(mode="after")
    def _disk_fits_in_memory(self) -> Limits:
        if self.disk > self.memory:
            raise ValueError("disk must not be larger than memory: files of a run live in memory; lower disk")
        return self


CEILINGS = Limits(
    timeout=3600.0,
    cpu_time=4 * 3600.0,
    memory=8 * GIB,
    cpus=16.0,
    pids=4096,
    disk=2 * GIB,
    output=64 * MIB,
    artifacts=GIB,
    artifact_count=4096,
)
"""The most that any caller may ask for, unless the settings lower it further."""


def over(defaults: Limits, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` laid over `defaults`, unchecked. Disk that was not given shrinks to a smaller memory."""
    values = {**defaults.model_dump(), **given}
    with contextlib.suppress(ValueError):  # No size: validation will say so.
        memory = parse_size(values["memory"])
        if "disk" not in given and isinstance(memory, int):
            values["disk"] = min(values["disk"], memory)
    return values


def beyond(asked: Limits, ceilings: Limits) -> list[str]:
    """Return one phrase for each limit in `asked` that lies beyond `ceilings`; empty when all are within."""
    return [
        f"{name} {shown(name, getattr(asked, name))} is beyond the ceiling of {shown(name, getattr(ceilings, name))}"
        for name in Limits.model_fields
        if getattr(asked, name) > getattr(ceilings, name)
    ]


_SIZES = ("memory", "disk", "output", "artifacts")
_TIMES = ("timeout", "cpu_time")


def shown(name: str, value: float) -> str:
    """Return a limit's value as one would write it: `512m`, `30s`, `1.5`."""
    if name in _TIMES:
        return f"{value:g}s"
    if name in _SIZES:
        for unit, factor in (("g", GIB), ("m", MIB), ("k", KIB)):
            if value % factor == 0:
                return f"{value // factor:g}{unit}"
    return f"{value:g}"
