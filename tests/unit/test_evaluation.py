"""Positions in, fills, trades and equity out; what is refused; and what the reader is shown."""

import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandgate.evaluation.backtest import backtest
from sandgate.evaluation.bars import Bars, load
from sandgate.evaluation.evaluate import evaluate
from sandgate.evaluation.picture import equity_svg
from sandgate.evaluation.report import html
from sandgate.schemas.evaluation import Costs

DAY = 86_400 * 10**9
FREE = Costs(commission=0, slippage=0, cash=1000)


def bars_of(opens, closes):
    opens, closes = np.array(opens, float), np.array(closes, float)
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    return Bars(DAY * np.arange(len(opens)), opens, high, low, closes, np.ones(len(opens)))


RISING = bars_of([10, 20, 30, 40, 50], [15, 25, 35, 45, 55])


def targets(*values):
    return np.array(values, float)


def test_a_target_is_filled_at_the_next_open():
    ledger = backtest(RISING, targets(0, 1, 1, 0, 0), FREE)
    (trade,) = ledger.trades
    assert (trade.entry_bar, trade.entry_price, trade.exit_bar, trade.exit_price) == (2, 30, 4, 50)
    assert ledger.equity == pytest.approx([1000, 1000, 1000 * 35 / 30, 1000 * 45 / 30, 1000 * 50 / 30])
    assert (trade.entry_time.day, trade.exit_time.day) == (3, 5)


def test_the_last_target_is_never_filled():
    assert backtest(RISING, targets(0, 0, 0, 0, 1), FREE).trades == ()


def test_what_is_open_at_the_end_is_closed_at_the_last_close():
    ledger = backtest(RISING, targets(1, 1, 1, 1, 1), FREE)
    assert (ledger.trades[0].exit_bar, ledger.trades[0].exit_price) == (4, 55)
    assert ledger.closed_at_end
    assert ledger.equity[-1] == pytest.approx(1000 * 55 / 20)


def test_costs_are_paid_on_both_sides():
    costs = Costs(commission=0.01, slippage=0.02, cash=1000)
    ledger = backtest(RISING, targets(1, 0, 0, 0, 0), costs)
    (trade,) = ledger.trades
    assert trade.entry_price == pytest.approx(20 * 1.02)
    assert trade.exit_price == pytest.approx(30 * 0.98)
    assert trade.size * trade.entry_price * 1.01 == pytest.approx(1000)
    assert trade.commission == pytest.approx(0.01 * trade.size * (20 * 1.02 + 30 * 0.98))
    assert ledger.equity[-1] == pytest.approx(trade.size * 30 * 0.98 * 0.99) == pytest.approx(1000 + trade.pnl)
    assert trade.return_pct == pytest.approx(100 * trade.pnl / (trade.size * trade.entry_price))


def test_short_positions_gain_when_the_market_falls():
    ledger = backtest(bars_of([40, 40, 30, 30], [40, 40, 30, 30]), targets(-0.5, 0, 0, 0), FREE)
    assert ledger.trades[0].size == -12.5
    assert ledger.equity[-1] == 1125


def test_an_unchanged_target_does_not_trade():
    ledger = backtest(RISING, targets(0.5, 0.5, 0.5, 0.5, 0.5), Costs())
    assert len(ledger.trades) == 1


def test_only_the_difference_is_traded_first_in_first_out():
    flat = bars_of([10] * 5, [10] * 5)
    ledger = backtest(flat, targets(0.3, 1, 0.5, -0.2, -0.2), FREE)
    assert [(t.size, t.entry_bar, t.exit_bar) for t in ledger.trades] == [
        (pytest.approx(30), 1, 3),
        (pytest.approx(20), 2, 3),
        (pytest.approx(50), 2, 4),
        (pytest.approx(-20), 4, 4),
    ]


@pytest.mark.parametrize("gap", [False, True], ids=["at a close", "at an open"])
def test_a_lost_account_stays_at_nothing(gap):
    bars = bars_of([10, 10, 90 if gap else 10, 5, 5], [10, 10, 10 if gap else 90, 5, 5])
    result = evaluate([-1, -0.9, 0, 0, 1], bars, FREE, "short")
    assert result.equity[2:] == (0, 0, 0)
    assert [finding.rule for finding in result.findings] == ["EV007"]
    assert "bar 2" in result.findings[0].message
    assert result.metrics["Return [%]"] == -100
    closed = [(-100, 90)] if gap else [(-10, 10), (-90, 90)]
    assert [(round(trade.size, 9), trade.exit_price) for trade in result.trades] == closed


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100), st.floats(-1, 1)), min_size=2, max_size=40),
    st.floats(0, 0.05),
    st.floats(0, 0.05),
)
def test_the_books_always_balance(rows, commission, slippage):
    opens, closes, wanted = zip(*rows, strict=True)
    costs = Costs(commission=commission, slippage=slippage)
    ledger = backtest(bars_of(opens, closes), targets(*wanted), costs)
    gained = math.fsum(trade.pnl for trade in ledger.trades)
    if ledger.bankrupt is None:
        assert ledger.equity[-1] == pytest.approx(costs.cash + gained, abs=1e-6)
    else:
        assert ledger.equity[-1] == 0
    assert np.all(ledger.equity >= 0)
    assert all(trade.entry_bar <= trade.exit_bar for trade in ledger.trades)


def test_long_only_never_borrows():
    bars = load("sp500")
    wanted = np.round(np.random.default_rng(7).uniform(0, 1, len(bars)), 2)
    ledger = backtest(bars, wanted, Costs())
    held = np.zeros(len(bars))
    for trade in ledger.trades:
        held[trade.entry_bar : trade.exit_bar] += trade.size
    assert np.all(held[:-1] * bars.close[:-1] <= ledger.equity[:-1] * (1 + 1e-9))


NAN = float("nan")


@pytest.mark.parametrize(
    ("positions", "rule", "part"),
    [
        (None, "EV001", "NoneType"),
        ({"0": 1}, "EV001", "dict"),
        ("11111", "EV001", "str"),
        ([], "EV002", "0 positions for 5 bars"),
        ([0] * 6, "EV002", "6 positions for 5 bars"),
        ([0, "long", 0, 0, 0], "EV003", "bar 1 is no number but 'long'"),
        ([0, "\x1b[31m\u202e\ud800", 0, 0, 0], "EV003", r"'\x1b[31m\u202e\ud800'"),
        ([0, 0, [[[[]]]], 0, 0], "EV003", "a list"),
        ([0, 0, {}, 0, 0], "EV003", "a dict"),
        ([True] * 5, "EV003", "a bool"),
        ([0, 0, 0, math.inf, 0], "EV004", "bar 3"),
        ([0, "-inf", 0, "inf", 0], "EV004", "bar 1 is infinite (and 1 more)"),
        ([10**400, 0, 0, 0, 0], "EV004", "bar 0"),
        ([0, 1.01, -2, 0, 0], "EV005", "bar 1 lies outside [-1, 1] (and 1 more)"),
        ([None, 0, NAN, None, 0], "EV006", "bar 2 is missing (NaN), although an earlier bar has one (and 1 more)"),
    ],
)
def test_unusable_positions_are_findings(positions, rule, part):
    result = evaluate(positions, RISING, Costs(), "s")
    (finding,) = result.findings
    assert finding.rule == rule
    assert part in finding.message
    assert finding.message.isprintable()
    assert finding.hint
    assert result.metrics == {}
    result.model_dump_json()


def test_leading_gaps_mean_flat_and_rounding_is_forgiven():
    result = evaluate([None, NAN, 1 + 1e-12, 1, 1], RISING, FREE, "s")
    assert result.findings == ()
    assert result.trades[0].entry_bar == 3


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=3),
    )
    | st.lists(st.floats(-1, 1) | st.none(), min_size=5, max_size=5)
)
def test_nothing_a_candidate_answers_raises(positions):
    result = evaluate(positions, RISING, Costs(), "s")
    assert result.findings or len(result.equity) == 5
    json.dumps(result.metrics, allow_nan=False)


def test_notes_say_what_a_reader_should_know():
    assert "never trades" in evaluate([0] * 5, RISING, Costs(), "s").notes[0]
    assert "still open" in evaluate([1] * 5, RISING, Costs(), "s").notes[0]
    assert evaluate([1, 0, 0, 0, 0], RISING, Costs(), "s").notes == ()


def test_a_hostile_name_is_kept_short_and_storable():
    result = evaluate([0] * 5, RISING, Costs(), "a\ud800" + "b" * 10_000)
    assert result.strategy.startswith(r"a\ud800b")
    assert len(result.strategy) == 200


def average(values, length):
    sums = np.convolve(values, np.ones(length), "valid") / length
    return np.append(np.full(length - 1, np.nan), sums)


@pytest.fixture(scope="module")
def crossed():
    """A moving-average cross on the whole of a registered set."""
    bars = load("sp500")
    positions = np.where(average(bars.close, 50) > average(bars.close, 200), 1.0, 0.0)
    return bars, evaluate(positions.tolist(), bars, Costs(), "<script>alert(1)</script>\u202e")


def test_a_cross_on_twenty_years_makes_sense(crossed):
    bars, result = crossed
    assert result.metrics["# Trades"] == len(result.trades) == 10
    assert result.metrics["Return [%]"] == pytest.approx(215.154, abs=1e-3)
    assert result.metrics["Buy & Hold Return [%]"] == pytest.approx(100 * (bars.close[-1] / bars.close[0] - 1))
    assert len(result.equity) == 5031


def test_the_picture_is_well_formed_and_thinned(crossed):
    drawing = equity_svg(*crossed)
    root = ET.fromstring(drawing)
    assert root.get("viewBox") == "0 0 900 420"
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"2000", "2018", "20,000", "-20%", "Buy & hold [$]"} <= set(texts)
    assert len(drawing) < 100_000
    assert "nan" not in drawing
    assert "script" not in drawing


@pytest.mark.parametrize("step", [1, 10**9, 60 * 10**9, 3600 * 10**9, DAY, 30 * DAY, 365 * DAY])
@pytest.mark.parametrize("count", [2, 9, 90])
def test_every_span_of_time_gets_a_few_dates(step, count):
    bars = load("sp500")
    stretch = Bars(
        step * np.arange(count), *(getattr(bars, n)[:count] for n in ("open", "high", "low", "close", "volume"))
    )
    root = ET.fromstring(equity_svg(stretch, evaluate([1] * count, stretch, Costs(), "s")))
    dates = [e for e in root.iter("{http://www.w3.org/2000/svg}text") if e.get("y") == "408"]
    assert len(dates) <= 11
    places = [float(e.get(side)) for e in root.iter() for side in ("x", "x1", "x2") if e.get(side)]
    assert all(0 <= place <= 900 for place in places)


def test_the_report_escapes_everything_and_loads_nothing(crossed):
    bars, result = crossed
    attack = "</td><img src=x onerror=alert(1)>\u202e\x1b]0;x\x07"
    page = html(result, bars, {"File": attack, attack: "x"}, equity_svg(bars, result))
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;\\u202e\\x1b]0;x\\x07") == 2
    assert "\u202e" not in page
    assert not re.search(r'(?:src|href)="|url\(|@import', page)
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src &#x27;none&#x27;" in page
    for name in result.metrics:
        assert name.replace("&", "&amp;") in page


def test_the_report_shows_the_first_and_the_last_trades():
    bars = load("sp500")
    result = evaluate([1, 0] * 2515 + [0], bars, Costs(), "s")
    page = html(result, bars, {}, "")
    assert f"{len(result.trades) - 20:,} more" in page
    assert page.count("<tr>") == 1 + 10 + 1 + 10
