"""Our figures against those of backtesting.py for the same fills, and the figures that do not exist."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from sandgate.evaluation.bars import Bars
from sandgate.evaluation.metrics import NAMES, compute
from sandgate.schemas.evaluation import Trade

GOLDEN = json.loads((Path(__file__).parent / "golden" / "backtesting.json").read_text())
DAY = 86_400 * 10**9


def bars_of(times, close):
    close = np.array(close)
    return Bars(np.array(times, np.int64), close, close, close, close, np.zeros(len(close)))


def moment(nanoseconds):
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)


def trades_of(case):
    """The library's trades in our words; its return is a fraction, ours is in percent."""
    rows = zip(*case["trades"].values(), strict=True)
    return [
        Trade(
            size=size,
            entry_bar=int(entry),
            exit_bar=int(exit_),
            entry_time=moment(case["times"][int(entry)]),
            exit_time=moment(case["times"][int(exit_)]),
            entry_price=bought,
            exit_price=sold,
            commission=commission,
            pnl=pnl,
            return_pct=100 * fraction,
        )
        for size, entry, exit_, bought, sold, commission, pnl, fraction in rows
    ]


@pytest.mark.parametrize("name", GOLDEN)
def test_figures_equal_those_of_backtesting_py(name):
    case = GOLDEN[name]
    ours = compute(bars_of(case["times"], case["close"]), np.array(case["equity"]), trades_of(case), case["first_bar"])
    theirs = {"Commissions [$]": 0.0} | case["metrics"]
    assert set(ours) == set(theirs)
    for metric, expected in theirs.items():
        if isinstance(expected, float):
            assert ours[metric] == pytest.approx(expected, rel=1e-9, abs=1e-9), metric
        else:
            assert ours[metric] == expected, metric


def test_the_golden_cases_are_worth_comparing():
    assert {len(case["trades"]["Size"]) for case in GOLDEN.values()} >= {0, 1}
    assert any(min(case["trades"]["Size"], default=0) < 0 for case in GOLDEN.values())
    assert any(case["equity"][-1] == 0 for case in GOLDEN.values())


def test_names_come_in_the_order_people_know():
    days = DAY * np.arange(3)
    assert tuple(compute(bars_of(days, [1.0, 2.0, 3.0]), np.ones(3), [])) == NAMES


def test_what_does_not_exist_is_none_and_json_clean():
    figures = compute(bars_of([0, DAY], [1.0, 2.0]), np.array([100.0, 100.0]), [])
    assert figures["Win Rate [%]"] is figures["SQN"] is figures["Beta"] is figures["Max. Trade Duration"] is None
    assert figures["# Trades"] == 0
    assert figures["Return [%]"] == 0
    json.dumps(figures, allow_nan=False)


def test_times_and_spans_are_text():
    times = [0, 90 * 60 * 10**9, 180 * 60 * 10**9]
    figures = compute(bars_of(times, [1.0, 2.0, 3.0]), np.array([9.0, 10.0, 11.0]), [])
    assert figures["Start"] == "1970-01-01 00:00:00"
    assert figures["End"] == "1970-01-01 03:00:00"
    assert figures["Duration"] == "0 days 03:00:00"
