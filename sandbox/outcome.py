"""Turns the facts of an ended run into a status and one sentence. Pure; table-tested with captured cases.

The order is the rule: a limit that the kernel counted decides before anything the candidate can arrange (an exit
code, a signal sent to itself), and without a completion record nothing can be OK.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..schemas.run import Status


@dataclass(frozen=True)
class Record:
    """The warden's completion record, as far as it decides. `cause` is what the warden ended the run for."""

    exit_code: int | None = None
    signal: str | None = None
    cause: str | None = None
    oom_events: int | None = None
    pids_events: int | None = None
    disk_full: bool = False
    dropped: int = 0


@dataclass(frozen=True)
class Facts:
    """Everything known about an ended run.

    `deadline_passed`: our own timer, not the warden's, ended it. `broken`: why what came through the channel cannot
    be trusted; then there is no record.
    """

    record: Record | None
    engine_saw_oom: bool = False
    deadline_passed: bool = False
    broken: str | None = None


def classify(facts: Facts) -> tuple[Status, str]:
    """Return the status, and why in one sentence."""
    record = facts.record
    if record is None:
        return _without_record(facts)
    if record.pids_events or record.cause == "pids":
        return Status.PIDS_LIMIT, "it asked for more processes or threads than it may have"
    if record.oom_events or record.cause == "memory" or facts.engine_saw_oom:
        return Status.OOM, "the kernel killed a process of it for using more memory than it may"
    if record.disk_full:
        return Status.DISK_LIMIT, "it filled a folder that it may write to"
    if record.cause == "timeout":
        return Status.TIMEOUT, "it did not end in time"
    if record.cause == "cpu":
        return Status.CPU_LIMIT, "it used more CPU time than it may"
    if record.cause == "output":
        return Status.OUTPUT_LIMIT, "it wrote far more output than is kept and was stopped"
    if record.signal is not None:
        return Status.CRASHED, f"it was ended by {record.signal}"
    if record.exit_code is None:
        return Status.INCOMPLETE, "its completion record names neither an exit nor a signal"
    if record.exit_code != 0:
        return Status.CRASHED, f"it exited with {record.exit_code}"
    if record.dropped:
        return Status.OUTPUT_LIMIT, f"it wrote more output than is kept: {record.dropped} bytes were dropped"
    return Status.OK, "it ended by itself with 0"


def _without_record(facts: Facts) -> tuple[Status, str]:
    if facts.engine_saw_oom:
        return Status.OOM, "the kernel killed the whole container for using more memory than it may"
    if facts.deadline_passed:
        return Status.TIMEOUT, "it did not end in time, and neither did its container"
    if facts.broken:
        return Status.INCOMPLETE, f"what came out of its container cannot be trusted: {facts.broken}"
    return Status.INCOMPLETE, "it ended without a completion record, so nothing it did counts"
