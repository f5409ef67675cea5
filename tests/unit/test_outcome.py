"""The classifier, against cases captured from real runs and against what a candidate could arrange."""

import pytest

from sandgate import Status
from sandgate.sandbox.outcome import Facts, Record, classify

DONE = {"oom_events": 0, "pids_events": 0}

CASES = {
    "exit 0": (Facts(Record(exit_code=0, **DONE)), Status.OK),
    "exit 1": (Facts(Record(exit_code=1, **DONE)), Status.CRASHED),
    "exit 137 is no kill": (Facts(Record(exit_code=137, **DONE)), Status.CRASHED),
    "killed by itself": (Facts(Record(signal="SIGKILL", **DONE)), Status.CRASHED),
    "SIGXCPU by itself": (Facts(Record(signal="SIGXCPU", **DONE)), Status.CRASHED),
    "segfault": (Facts(Record(signal="SIGSEGV", **DONE)), Status.CRASHED),
    "main was killed for memory": (Facts(Record(signal="SIGKILL", oom_events=1, pids_events=0)), Status.OOM),
    "only a child was, exit 0": (Facts(Record(exit_code=0, oom_events=1, pids_events=0)), Status.OOM),
    "memory, then killed by us": (Facts(Record(signal="SIGKILL", cause="memory", **DONE)), Status.OOM),
    "fork bomb until we killed it": (
        Facts(Record(signal="SIGKILL", cause="pids", oom_events=0, pids_events=2098)),
        Status.PIDS_LIMIT,
    ),
    "a refused fork, exit 0": (Facts(Record(exit_code=0, oom_events=0, pids_events=1)), Status.PIDS_LIMIT),
    "fork bomb that also met memory": (
        Facts(Record(signal="SIGKILL", cause="pids", oom_events=3, pids_events=90)),
        Status.PIDS_LIMIT,
    ),
    "timeout": (Facts(Record(signal="SIGTERM", cause="timeout", **DONE)), Status.TIMEOUT),
    "timeout, it exited 0 in its handler": (Facts(Record(exit_code=0, cause="timeout", **DONE)), Status.TIMEOUT),
    "CPU time": (Facts(Record(signal="SIGTERM", cause="cpu", **DONE)), Status.CPU_LIMIT),
    "CPU time, exit 0 in its handler": (Facts(Record(exit_code=0, cause="cpu", **DONE)), Status.CPU_LIMIT),
    "flood": (Facts(Record(signal="SIGKILL", cause="output", dropped=9, **DONE)), Status.OUTPUT_LIMIT),
    "more output than is kept": (Facts(Record(exit_code=0, dropped=1, **DONE)), Status.OUTPUT_LIMIT),
    "crashed with long output": (Facts(Record(exit_code=1, dropped=1, **DONE)), Status.CRASHED),
    "disk full": (Facts(Record(exit_code=1, disk_full=True, **DONE)), Status.DISK_LIMIT),
    "disk full, error swallowed": (Facts(Record(exit_code=0, disk_full=True, **DONE)), Status.DISK_LIMIT),
    "no counters (gVisor), engine saw it": (Facts(Record(exit_code=0), engine_saw_oom=True), Status.OOM),
    "no counters (gVisor), fine": (Facts(Record(exit_code=0)), Status.OK),
    "neither exit nor signal": (Facts(Record(**DONE)), Status.INCOMPLETE),
    "no record": (Facts(None), Status.INCOMPLETE),
    "no record that can be trusted": (Facts(None, broken="somebody else wrote"), Status.INCOMPLETE),
    "no record, the warden was killed for memory": (Facts(None, engine_saw_oom=True), Status.OOM),
    "no record, our timer": (Facts(None, deadline_passed=True), Status.TIMEOUT),
}


@pytest.mark.parametrize("name", CASES)
def test_classify(name):
    facts, status = CASES[name]

    found, reason = classify(facts)

    assert found is status
    assert reason


def test_nothing_but_a_clean_record_is_ok():
    """Every fact that speaks against a run, alone, is enough."""
    for change in (
        {"exit_code": 1},
        {"exit_code": None},
        {"signal": "SIGTERM"},
        {"cause": "timeout"},
        {"oom_events": 1},
        {"pids_events": 1},
        {"disk_full": True},
        {"dropped": 1},
    ):
        record = Record(**{"exit_code": 0, **DONE, **change})
        assert classify(Facts(record))[0] is not Status.OK, change
