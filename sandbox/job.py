"""What every runner back end takes and gives: a job in, an answer out."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ..schemas.limits import Limits
from ..schemas.run import Isolation, Run

BYTES_PER_BAR = 48
BYTES_PER_POSITION = 32
RESULT_ALLOWANCE = 1024 * 1024

Sink = Callable[[str, bytes], None]
"""Called with `stdout` or `stderr` and bytes as they arrive; with `started` and none when the candidate begins."""


@dataclass(frozen=True)
class Job:
    """What goes into a container: a file, how to treat it, and the bars it may compute on.

    `source` is the digest of the code, `imports` the top-level names that it imports, which choose the image;
    `contract` is `script`, or names the harness that calls a strategy with `options`.
    """

    name: str
    code: bytes
    source: str
    imports: frozenset[str] = frozenset()
    contract: str = "script"
    arguments: tuple[str, ...] = ()
    bars: bytes = b""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def result_limit(self) -> int:
        """How many bytes a harness may return: positions need room for each bar, a claim for its trades."""
        if self.contract == "script":
            return 0
        return BYTES_PER_POSITION * len(self.bars) // BYTES_PER_BAR + RESULT_ALLOWANCE


@dataclass(frozen=True)
class Answer:
    """The evidence of a run, and what its harness returned: unchecked JSON text, empty without a harness."""

    run: Run
    result: bytes


class Backend(Protocol):
    """Something that runs jobs sealed. `tests/conformance.py` says what each must do."""

    def run(self, job: Job, limits: Limits, isolation: Isolation, *, run_id: str, folder: Path, sink: Sink) -> Answer:
        """Run `job` and put its artifacts into `folder`. Raises GateError when there is no answer."""
        ...


def new_run_id() -> str:
    """Return an id that sorts by time and that no two runs share."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
