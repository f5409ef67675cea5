"""The harnesses that run in the container, with strategies that the test itself defines; pandas is not needed."""

import array
import importlib
import json
import sys
from fractions import Fraction
from pathlib import Path

import pytest

import sandgate.sandbox

INSIDE = str(Path(sandgate.sandbox.__file__).parent / "inside")
FRAME = {"close": [1.0, 2.0, 3.0]}


@pytest.fixture(scope="module")
def signals():
    """The module as the container imports it: by its bare name, with its neighbours."""
    before = set(sys.modules)
    sys.path.insert(0, INSIDE)
    yield importlib.import_module("signals")
    sys.path.remove(INSIDE)
    for name in {"signals", "bars"} - before:
        del sys.modules[name]


def module(*members, **more):
    """The namespace that executing a file with these members leaves."""
    for member in members:
        member.__module__ = "__main__"
    return {"__name__": "__main__", "list": list, **{member.__name__: member for member in members}, **more}


def generate_signals(df, fast=10, share=0.5, both=False, kind="sma", extra=None):
    """A strategy that answers with nothing but its length."""
    return [0] * len(df["close"])


class Momentum:
    """A strategy with two attributes and one argument."""

    length = 20
    name = "m"

    def generate_signals(self, df, limit=1.0):
        return [self.length / 100 * limit] * len(df["close"])


class Slow(Momentum):
    """A strategy that inherits."""

    length = 50


def run(signals, namespace, strategy=None, **params):
    answer = signals.positions_of(namespace, FRAME, {"strategy": strategy, "params": params})
    return json.loads(json.dumps(answer, allow_nan=False))


def test_a_function_is_called_with_its_defaults(signals):
    answer = run(signals, module(generate_signals))
    assert answer == {"contract": "signals", "strategy": "generate_signals", "positions": [0, 0, 0], "params": {}}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("fast", "20", 20),
        ("fast", 20.0, 20),
        ("share", "1", 1.0),
        ("both", "True", True),
        ("both", "no", False),
        ("kind", "5", "5"),
        ("extra", "5", 5),
        ("extra", "0.5", 0.5),
        ("extra", "x", "x"),
    ],
)
def test_parameters_take_the_type_of_their_default(signals, name, text, value):
    converted = run(signals, module(generate_signals), **{name: text})["params"][name]
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"slow": "1"}, "no parameter 'slow'; this strategy has fast, share, both, kind, extra"),
        ({"df": "1"}, "no parameter 'df'"),
        ({"fast": "1.5"}, "'fast' takes a whole number, not '1.5'"),
        ({"fast": "inf"}, "'fast' takes a whole number"),
        ({"fast": "x"}, "'fast' takes a whole number"),
        ({"share": "x"}, "'share' takes a number"),
        ({"both": "perhaps"}, "'both' takes true or false"),
    ],
)
def test_unusable_parameters_break_the_contract(signals, params, message):
    with pytest.raises(signals.ContractError, match=message):
        run(signals, module(generate_signals), **params)


def test_any_name_goes_where_the_strategy_takes_any(signals):
    def generate_signals(df, **params):
        return [params["share"]] * 3

    assert run(signals, module(generate_signals), share="0.25")["positions"] == [0.25] * 3


def test_a_parameter_without_default_must_be_given(signals):
    def generate_signals(df, share):
        return [share] * 3

    assert run(signals, module(generate_signals), share="1")["positions"] == [1, 1, 1]
    with pytest.raises(signals.ContractError, match="'share' has no default: pass --param share=VALUE"):
        run(signals, module(generate_signals))


def test_attributes_and_arguments_of_a_class_are_parameters(signals):
    assert run(signals, module(Momentum))["positions"] == [0.2] * 3
    answer = run(signals, module(Momentum), length="40", limit="0.5")
    assert answer["positions"] == [0.2] * 3
    assert Momentum.length == 20
    with pytest.raises(signals.ContractError, match="this strategy has length, name, limit"):
        run(signals, module(Momentum), generate_signals="1")


def test_the_name_picks_among_several(signals):
    several = module(Momentum, Slow, generate_signals, _Hidden=Momentum)
    assert run(signals, several, "Slow")["positions"] == [0.5] * 3
    assert run(signals, several, "generate_signals")["strategy"] == "generate_signals"
    with pytest.raises(signals.ContractError, match="pick one of Momentum, Slow, generate_signals with --strategy"):
        run(signals, several)
    with pytest.raises(signals.ContractError, match="no strategy 'Fast' in this file; it has Momentum, Slow"):
        run(signals, several, "Fast")


def test_imported_classes_are_not_the_files_strategies(signals):
    foreign = type("Foreign", (Momentum,), {"__module__": "somewhere.else"})
    assert list(signals.strategies({"__name__": "__main__", "Foreign": foreign})) == []
    with pytest.raises(signals.ContractError, match="no strategy in this file"):
        run(signals, module())


@pytest.mark.parametrize("column", ["Close", "Volume"])
def test_asking_for_a_capital_column_is_explained(signals, column):
    def by_key(df):
        return {}[column]

    def by_attribute(df):
        return getattr(df, column)

    for function in (by_key, by_attribute):
        with pytest.raises(signals.ContractError, match=rf"write df\['{column.lower()}'\]"):
            run(signals, module(generate_signals=function))


def test_what_the_candidate_raises_passes_through(signals):
    def generate_signals(df):
        return {}["price"]

    with pytest.raises(KeyError, match="price"):
        run(signals, module(generate_signals))


class NAType:
    """Stands for the missing value of pandas, which is recognised by the name of its type."""


@pytest.mark.parametrize(
    ("answer", "positions"),
    [
        ([1, 0.5, True], [1, 0.5, 1]),
        ((Fraction(1, 2), -1, 0), [0.5, -1, 0]),
        (array.array("d", [1, 0, float("nan")]), [1, 0, None]),
        (iter([None, NAType(), 1]), [None, None, 1]),
        ([float("inf"), float("-inf"), 10**400], ["inf", "-inf", "inf"]),
        (["1", b"1", [1]], ["str", "bytes", "list"]),
        ([1j, object(), {}], ["complex", "object", "dict"]),
    ],
)
def test_answers_become_what_json_holds(signals, answer, positions):
    assert run(signals, module(generate_signals=lambda df: answer))["positions"] == positions


@pytest.mark.parametrize("answer", [None, 1, "111", {0: 1}, {1}, type("Frame", (), {"columns": []})()])
def test_answers_that_are_not_one_value_per_bar_break_the_contract(signals, answer):
    with pytest.raises(signals.ContractError, match="generate_signals returned"):
        run(signals, module(generate_signals=lambda df: answer))
