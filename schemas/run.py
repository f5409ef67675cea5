"""The evidence of one execution: what happened, what it used, what it left behind and what it ran in."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, computed_field, model_validator

from .evaluation import Evaluation
from .limits import Limits

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Status(StrEnum):
    """How a run ended. Only OK is a pass; a run that met a limit is never OK, whatever it returned."""

    OK = "OK"
    CRASHED = "CRASHED"
    TIMEOUT = "TIMEOUT"
    CPU_LIMIT = "CPU_LIMIT"
    OOM = "OOM"
    PIDS_LIMIT = "PIDS_LIMIT"
    DISK_LIMIT = "DISK_LIMIT"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    INCOMPLETE = "INCOMPLETE"


class Isolation(StrEnum):
    """What stands between the run and the host kernel: a container, or a container on gVisor's own kernel."""

    DEFAULT = "default"
    GVISOR = "gvisor"


class _Evidence(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Usage(_Evidence):
    """What a run used. `None` means that this machine or runtime cannot measure it, never that it was zero."""

    wall_seconds: float
    cpu_seconds: float | None = None
    memory_peak: int | None = None
    disk_peak: int | None = None
    oom_events: int | None = None
    pids_events: int | None = None
    network_attempts: int | None = None


class Output(_Evidence):
    """One stream of a run: its head and tail as text with undecodable bytes escaped, and what was left out.

    `total` counts the bytes written; `dropped` of them are missing between head and tail.
    """

    text: str = ""
    total: int = 0
    dropped: int = 0


class Artifact(_Evidence):
    """A regular file out of a run. `name` is the candidate's, escaped; `path` is where we put the bytes.

    `note` says why the two differ, where that matters: a name that would have met another one's.
    """

    name: str
    path: str
    size: int
    sha256: Sha256
    note: str = ""


class Refused(_Evidence):
    """Something under `/out` that was not taken, and why."""

    name: str
    reason: str


class Image(_Evidence):
    """The image that a run saw: the engine's id, and the digest of what we put into it."""

    profile: str
    id: str
    content: Sha256


class Data(_Evidence):
    """The bars that a strategy saw: under which name they were asked for, and the digest of the bars themselves."""

    name: str
    sha256: Sha256


class Claim(_Evidence):
    """What a strategy's own framework says of it, from inside the container. Nothing of it is checked."""

    model_config = ConfigDict(allow_inf_nan=False)

    framework: str
    metrics: dict[str, float | str | None]
    trades: tuple[dict[str, float | str | None], ...] = ()


class Run(_Evidence):
    """One execution of one file. `exit_code` is absent when a signal ended it, `signal` when it exited.

    `arguments`, `strategy`, `params` and `data` are what was asked for. `passed` is what counts: a run that ended
    well can still have returned what the evaluation refuses.
    """

    kind: Literal["run"] = "run"
    id: str
    file: str
    source: Sha256
    status: Status
    reason: str
    exit_code: int | None = None
    signal: str | None = None
    usage: Usage
    limits: Limits
    stdout: Output = Output()
    stderr: Output = Output()
    artifacts: tuple[Artifact, ...] = ()
    refused: tuple[Refused, ...] = ()
    image: Image
    isolation: Isolation
    runtime: str
    arguments: tuple[str, ...] = ()
    strategy: str | None = None
    params: dict[str, bool | int | float | str] = {}
    data: Data | None = None
    started: AwareDatetime
    finished: AwareDatetime
    claim: Claim | None = None
    evaluation: Evaluation | None = None

    @model_validator(mode="before")
    @classmethod
    def _derive_passed(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if name != "passed"}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """Whether the run ended well and nothing that was computed from it was refused."""
        return self.status is Status.OK and (self.evaluation is None or not self.evaluation.findings)

    @property
    def verdict(self) -> str:
        """One word for people: the status, or REFUSED for a run that ended well and did not pass."""
        return "REFUSED" if self.status is Status.OK and not self.passed else self.status.value
