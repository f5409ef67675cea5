"""The road of a file, on the fake back end; and the fake against the conformance suite."""

import itertools
import json

import pytest

from sandgate import Isolation, Limits, Settings, Status, UsageError
from sandgate.patchflow.exercise import Request, exercise
from sandgate.sandbox.outcome import Record
from sandgate.state.runs import Runs
from sandgate.validation.source import from_bytes

from ..conformance import PROGRAMS, check
from ..fakes import FakeBackend, Outcome, outcome

CAPTURED = {
    "success": outcome(stdout="hello\n"),
    "nothing": outcome(),
    "exit code": Outcome(Record(exit_code=3, oom_events=0, pids_events=0)),
    "exit code 137": Outcome(Record(exit_code=137, oom_events=0, pids_events=0)),
    "signal": Outcome(Record(signal="SIGKILL", oom_events=0, pids_events=0)),
    "both streams": outcome(stdout="a\n", stderr="b\n"),
    "arguments": outcome(stdout="['x', '-y']\n"),
    "artifacts": outcome(artifacts={"a.txt": b"A", "b.txt": b"B"}),
    "a link is refused": outcome(refused=("link",)),
    "timeout": outcome(Status.TIMEOUT),
    "CPU time": outcome(Status.CPU_LIMIT),
    "memory": outcome(Status.OOM),
    "disk": outcome(Status.DISK_LIMIT),
    "output": outcome(Status.OUTPUT_LIMIT),
    "signals": outcome(result=json.dumps(PROGRAMS["signals"].result).encode()),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_conformance(name, tmp_path):
    backend = FakeBackend({PROGRAMS[name].code: CAPTURED[name]})
    check(backend, PROGRAMS[name], Isolation.DEFAULT, tmp_path)


SIGNALS = "def generate_signals(df): return [1] * len(df)"
BACKTESTING = """
from backtesting import Strategy
class Cross(Strategy):
    def init(self): pass
    def next(self): pass
"""


@pytest.fixture
def go(tmp_path):
    """Exercise code whose run comes to a given outcome."""

    numbers = itertools.count()

    def go(code, came_to, **asked):
        settings = Settings(state=tmp_path / "state")
        request = Request(source=from_bytes("x.py", code.encode()), limits=Limits(), **asked)
        go.backend = FakeBackend({code: came_to})
        return exercise(request, settings, go.backend, lambda *_: None, f"run-{next(numbers)}")

    go.runs = Runs(tmp_path / "state/runs")
    return go


def test_a_plain_file_is_recorded_with_its_artifacts(go):
    done = go("print(1)", outcome(stdout="1\n", artifacts={"x": b"y"}))

    assert done.run.passed
    assert (done.folder / "artifacts/x").read_bytes() == b"y"
    assert go.runs.recent(1) == [done.run]


def test_a_strategy_is_evaluated_from_its_positions_alone(go):
    answer = {"strategy": "generate_signals", "positions": [1.0] * 5031, "metrics": {"Return [%]": 1e9}}
    done = go(SIGNALS, outcome(result=json.dumps(answer).encode()))

    assert done.run.passed
    assert done.run.evaluation.strategy == "x"
    assert 90 < done.run.evaluation.metrics["Return [%]"] < 120
    assert done.run.claim is None
    assert (done.folder / "report.html").exists()


def test_a_framework_s_figures_are_a_claim(go):
    answer = {"strategy": "Cross", "metrics": {"Return [%]": 5.0, "Start": "x", "SQN": None}, "trades": []}
    done = go(BACKTESTING, outcome(result=json.dumps(answer).encode()))

    assert done.run.passed
    assert done.run.claim.metrics == answer["metrics"]
    assert done.run.evaluation is None


WORTHLESS = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[1]",
    "no strategy": b"{}",
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "huge number": b'{"strategy": "x", "metrics": {"a": 1' + b"0" * 5000 + b'}, "trades": []}',
    "bytes that are no text": b'{"strategy": "\xff"}',
}


@pytest.mark.parametrize("code", [SIGNALS, BACKTESTING], ids=["signals", "backtesting"])
@pytest.mark.parametrize("name", WORTHLESS)
def test_a_worthless_result_is_no_pass(go, name, code):
    done = go(code, outcome(result=WORTHLESS[name]))

    assert not done.run.passed
    assert done.run.claim is None


MALFORMED = [
    {"metrics": [1], "trades": []},
    {"metrics": {"a": [1]}, "trades": []},
    {"metrics": {"a": float("inf")}, "trades": []},
    {"metrics": {"a": float("nan")}, "trades": []},
    {"metrics": {}, "trades": {}},
    {"metrics": {}, "trades": [1]},
    {"metrics": {}, "trades": [{"a": {}}]},
    {"metrics": {}},
    {"trades": []},
]


@pytest.mark.parametrize("answer", MALFORMED, ids=str)
def test_a_malformed_claim_is_no_pass(go, answer):
    done = go(BACKTESTING, outcome(result=json.dumps({"strategy": "x", **answer}).encode()))

    assert done.run.status is Status.INCOMPLETE
    assert done.run.claim is None


def test_a_claim_is_taken_over_in_bounds_and_harmless(go):
    metrics = {"\x1b[31m" + "n" * 500: "\ud800\x1b" + "v" * 500}
    done = go(BACKTESTING, outcome(result=json.dumps({"strategy": "x", "metrics": metrics, "trades": []}).encode()))

    ((name, value),) = done.run.claim.metrics.items()
    assert name.isprintable()
    assert value.isprintable()
    assert max(len(name), len(value)) <= 100
    many = json.dumps({"strategy": "x", "metrics": {}, "trades": [1] * 200_000}).encode()
    assert go(BACKTESTING, outcome(result=many)).run.status is Status.INCOMPLETE


def test_a_refused_strategy_says_so_everywhere(go):
    done = go(SIGNALS, outcome(result=b'{"strategy": "generate_signals", "positions": [9]}'))

    assert done.run.verdict == "REFUSED"
    assert "EV" in done.run.reason
    kept = json.loads((done.folder / "run.json").read_text())
    assert kept["passed"] is False
    assert go.runs.recent(1) == [done.run]


def test_the_record_says_what_was_asked(go):
    code = "def generate_signals(df, fast=1): return [1] * len(df)"
    answer = json.dumps({"strategy": "generate_signals", "positions": [1.0] * 5031}).encode()
    run = go(code, outcome(result=answer), params={"fast": "3"}, arguments=("x",), data="nasdaq").run

    assert (run.params, run.arguments, run.data.name) == ({"fast": "3"}, ("x",), "nasdaq")


def test_a_choice_that_the_file_does_not_have_is_the_callers_mistake(go):
    two = "class A:\n    def generate_signals(self, df): ...\nclass B:\n    def generate_signals(self, df): ...\n"
    for code, asked, named in (
        (two, {}, "A, B"),
        (two, {"strategy": "C"}, "A, B"),
        ("def generate_signals(df, fast=1): ...", {"params": {"fst": "1"}}, "fast"),
        (SIGNALS, {"data": ""}, "data"),
    ):
        with pytest.raises(UsageError, match=named):
            go(code, outcome(), **asked)
        assert go.backend.jobs == []


def test_o01_o10_a_hostile_strategy_name_is_made_harmless_and_short(go):
    answer = {"strategy": "\x1b[2J\n" + "x" * 10_000, "positions": [1.0] * 5031}
    done = go(SIGNALS, outcome(result=json.dumps(answer).encode()))

    assert done.run.evaluation.strategy.isprintable()
    assert len(done.run.evaluation.strategy) <= 100


def test_a_run_that_failed_is_not_evaluated(go):
    answer = json.dumps({"strategy": "x", "positions": [1.0] * 5031}).encode()
    for status in (Status.TIMEOUT, Status.OOM, Status.INCOMPLETE):
        done = go(SIGNALS, outcome(status, result=answer))
        assert done.run.status is status
        assert done.run.evaluation is None
        assert not done.run.passed


@pytest.mark.parametrize("asked", [{"data": "sp500"}, {"data": ""}, {"strategy": "X"}, {"params": {"a": "1"}}])
def test_options_of_strategies_are_refused_for_a_script(go, asked):
    with pytest.raises(UsageError, match="no strategy"):
        go("print(1)", outcome(), **asked)
    assert go.backend.jobs == []


def test_nothing_is_left_when_there_is_no_answer(tmp_path):
    settings = Settings(state=tmp_path / "state")
    request = Request(source=from_bytes("x.py", b"print(1)"), limits=Limits(), out=tmp_path / "out")
    with pytest.raises(KeyError):
        exercise(request, settings, FakeBackend({}), lambda *_: None, "run-1")

    assert not (tmp_path / "out").exists()
    assert Runs(settings.state / "runs").recent(5) == []


def test_out_must_be_new_or_empty(go, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(UsageError, match="not empty"):
        go("print(1)", outcome(), out=tmp_path / "full")
    with pytest.raises(UsageError, match="cannot be used"):
        go("print(1)", outcome(), out=tmp_path / "full/file")
    done = go("print(1)", outcome(artifacts={"x": b""}), out=tmp_path / "new")
    assert sorted(path.name for path in done.folder.iterdir()) == ["artifacts", "run.json"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyError):
        exercise(
            Request(source=from_bytes("x.py", b"1"), limits=Limits(), out=tmp_path / "mine"),
            Settings(state=tmp_path / "state"),
            FakeBackend({}),
            lambda *_: None,
            "failing",
        )
    assert (tmp_path / "mine").is_dir(), "the user's own folder stays"
