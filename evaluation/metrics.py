"""The figures of merit of a ledger, under the names that backtesting.py prints and by the same definitions.

Written from the definitions; `tests/unit/golden` holds figures of backtesting.py 0.6.6 for the same fills, which
these equal to 1e-9. Nothing here needs pandas, which takes longer to import than a run takes.

Returns are compounded: the mean daily return is geometric, annual figures raise it to the number of trading days,
and the risk-free rate is zero. A day is a UTC calendar day; bars a week, a month or a year apart count as such. A
figure that does not exist (the win rate of no trades, a ratio over nothing) is None, never NaN or infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from ..schemas.evaluation import Trade
from .bars import Bars, FloatArray, TimeArray

Metrics = dict[str, float | str | None]

NAMES = (
    *("Start", "End", "Duration", "Exposure Time [%]"),
    *("Equity Final [$]", "Equity Peak [$]", "Commissions [$]"),
    *("Return [%]", "Buy & Hold Return [%]", "Return (Ann.) [%]", "Volatility (Ann.) [%]", "CAGR [%]"),
    *("Sharpe Ratio", "Sortino Ratio", "Calmar Ratio", "Alpha [%]", "Beta"),
    *("Max. Drawdown [%]", "Avg. Drawdown [%]", "Max. Drawdown Duration", "Avg. Drawdown Duration"),
    *("# Trades", "Win Rate [%]", "Best Trade [%]", "Worst Trade [%]", "Avg. Trade [%]"),
    *("Max. Trade Duration", "Avg. Trade Duration"),
    *("Profit Factor", "Expectancy [%]", "SQN", "Kelly Criterion"),
)
"""Every metric, in the order in which people know them."""

_MICROSECOND = 1000
_SECOND = 10**9
_DAY = 86_400 * _SECOND
_WEEK, _MONTH, _YEAR = 7, 31, 365
_PERIODS_PER_YEAR = {_WEEK: 52, _MONTH: 12, _YEAR: 1}
_UNITS = (_DAY, 3600 * _SECOND, 60 * _SECOND, _SECOND, 10**6, _MICROSECOND)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def compute(bars: Bars, equity: FloatArray, trades: Sequence[Trade], first_bar: int = 0) -> Metrics:
    """Return every metric of an equity curve (worth at each close) and the trades that made it.

    Buy and hold is measured from `first_bar`. Percentages are in percent, money in cash, times and spans as text.
    """
    with np.errstate(all="ignore"):
        market = _percent_change(bars.close[first_bar], bars.close[-1])
        deepest = float(np.nan_to_num(_depth(equity).max()))
        annual = _annual(bars.times, equity)
        figures = {
            **_account(bars, equity, trades),
            "Buy & Hold Return [%]": market,
            **annual,
            "Calmar Ratio": _ratio(annual["Return (Ann.) [%]"], 100 * deepest),
            **_market_risk(bars.close, equity, market),
            "Max. Drawdown [%]": -100 * deepest,
            **_drawdowns(bars.times, equity),
            **_trading(bars.times, trades),
        }
    return {name: _plain(figures[name]) for name in NAMES}


def _account(bars: Bars, equity: FloatArray, trades: Sequence[Trade]) -> dict[str, float | str]:
    return {
        "Start": _moment(int(bars.times[0])),
        "End": _moment(int(bars.times[-1])),
        "Duration": _span(int(bars.times[-1] - bars.times[0])),
        "Exposure Time [%]": 100 * _exposed(len(bars), trades) / len(bars),
        "Equity Final [$]": equity[-1],
        "Equity Peak [$]": equity.max(),
        "Commissions [$]": math.fsum(trade.commission for trade in trades),
        "Return [%]": _percent_change(equity[0], equity[-1]),
    }


def _exposed(count: int, trades: Sequence[Trade]) -> int:
    """Count the bars on which a trade was open, those of entry and exit included."""
    steps = np.zeros(count + 1, np.int64)
    np.add.at(steps, [trade.entry_bar for trade in trades], 1)
    np.add.at(steps, [trade.exit_bar + 1 for trade in trades], -1)
    return int(np.count_nonzero(np.cumsum(steps)[:count]))


def _annual(times: TimeArray, equity: FloatArray) -> dict[str, float]:
    """Annualise the returns of whole periods: days, or the bars' own period where it is longer."""
    period = int(np.median(np.diff(times[-100:]))) // _DAY
    per_year = _periods_per_year(times, period)
    worth = equity[_period_ends(times, period)]
    returns = worth[1:] / worth[:-1] - 1
    returns = returns[~np.isnan(returns)]
    growth = 1 + _geometric_mean(returns)
    gain = growth**per_year - 1
    spread = _variance(returns) + growth**2
    volatility = np.sqrt(spread**per_year - growth ** (2 * per_year))
    downside = np.sqrt(np.mean(np.minimum(returns, 0) ** 2)) if returns.size else math.nan
    years = int(times[-1] - times[0]) // _SECOND / 86_400 / 365.25
    return {
        "Return (Ann.) [%]": 100 * gain,
        "Volatility (Ann.) [%]": 100 * volatility,
        "CAGR [%]": 100 * ((equity[-1] / equity[0]) ** (1 / years) - 1) if years else math.nan,
        "Sharpe Ratio": _ratio(gain, volatility),
        "Sortino Ratio": _ratio(gain, downside * math.sqrt(per_year)),
    }


def _periods_per_year(times: TimeArray, period: int) -> int:
    """Return how many periods of `period` days a year of trading has; a market open at weekends has 365 days."""
    weekday = (times // _DAY + 3) % 7
    is_open_at_weekends = np.mean(weekday >= 5) > 0.6 * 2 / 7
    return _PERIODS_PER_YEAR.get(period, 365 if is_open_at_weekends else 252)


def _period_ends(times: TimeArray, period: int) -> TimeArray:
    """Return the place of the last bar of each day, or of each week, month or year for bars that far apart."""
    if period in (_MONTH, _YEAR):
        moments = times.astype("datetime64[ns]")
        label = moments.astype("datetime64[M]" if period == _MONTH else "datetime64[Y]").astype(np.int64)
    else:
        day = times // _DAY
        label = (day + 3) // 7 if period == _WEEK else day
    return np.append(np.flatnonzero(np.diff(label)), len(times) - 1)


def _market_risk(close: FloatArray, equity: FloatArray, market: float) -> dict[str, float]:
    """Compare with holding the market, which made `market` percent, by log returns from bar to bar."""
    beta = math.nan
    if len(close) > 2:
        covariance = np.cov(np.diff(np.log(equity)), np.diff(np.log(close)))
        beta = covariance[0, 1] / covariance[1, 1]
    return {"Beta": beta, "Alpha [%]": _percent_change(equity[0], equity[-1]) - beta * market}


def _depth(equity: FloatArray) -> FloatArray:
    """Return how far below its highest so far the account is at each bar, as a fraction."""
    depth: FloatArray = 1 - equity / np.maximum.accumulate(equity)
    return depth


def _drawdowns(times: TimeArray, equity: FloatArray) -> dict[str, float | str]:
    """Average the drawdowns and measure their length, each from one peak of equity to the next, or to the end."""
    depth = _depth(equity)
    peaks = np.union1d(np.flatnonzero(depth == 0), [len(depth) - 1])
    begins, ends = peaks[:-1], peaks[1:]
    is_drawdown = ends > begins + 1
    begins, ends = begins[is_drawdown], ends[is_drawdown]
    deepest = [depth[begin : end + 1].max() for begin, end in zip(begins, ends, strict=True)]
    return {
        "Avg. Drawdown [%]": -100 * _mean(np.array(deepest)),
        **_spans("Drawdown", times, times[ends] - times[begins]),
    }


def _trading(times: TimeArray, trades: Sequence[Trade]) -> dict[str, float | str]:
    gains = np.array([trade.pnl for trade in trades])
    returns = np.array([trade.return_pct for trade in trades])
    entries = np.array([trade.entry_bar for trade in trades], np.int64)
    exits = np.array([trade.exit_bar for trade in trades], np.int64)
    win_rate = _mean(gains > 0)
    win_to_loss = _ratio(_mean(gains[gains > 0]), -_mean(gains[gains < 0]))
    return {
        "# Trades": len(trades),
        "Win Rate [%]": 100 * win_rate,
        "Best Trade [%]": returns.max(initial=-math.inf),
        "Worst Trade [%]": returns.min(initial=math.inf),
        "Avg. Trade [%]": 100 * _geometric_mean(returns / 100),
        **_spans("Trade", times, times[exits] - times[entries]),
        "Profit Factor": _ratio(returns[returns > 0].sum(), -returns[returns < 0].sum()),
        "Expectancy [%]": _mean(returns),
        "SQN": math.sqrt(len(trades)) * _ratio(_mean(gains), math.sqrt(_variance(gains))),
        "Kelly Criterion": win_rate - _ratio(1 - win_rate, win_to_loss),
    }


def _spans(of: str, times: TimeArray, lengths: TimeArray) -> dict[str, float | str]:
    """Return the longest and the mean of `lengths`, rounded up to the unit in which the bars are spaced."""
    if not lengths.size:
        return {f"Max. {of} Duration": math.nan, f"Avg. {of} Duration": math.nan}
    period = int(np.median(np.diff(times[-100:])))
    unit = next((unit for unit in _UNITS if period % unit == 0), 1)
    mean = sum(lengths.tolist()) // lengths.size
    return {
        f"Max. {of} Duration": _span(-(-int(lengths.max()) // unit) * unit),
        f"Avg. {of} Duration": _span(-(-mean // unit) * unit),
    }


def _percent_change(before: float, after: float) -> float:
    return 100 * (after - before) / before


def _geometric_mean(returns: FloatArray) -> float:
    """Return the return that, made every time, leads to the same; 0 when one of them lost everything."""
    if not returns.size:
        return math.nan
    if np.any(returns <= -1):
        return 0.0
    return float(np.expm1(np.mean(np.log1p(returns))))


def _mean(values: FloatArray | np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    return float(np.mean(values)) if values.size else math.nan


def _variance(values: FloatArray) -> float:
    """Return the sample variance; one value has none."""
    return float(np.var(values, ddof=1)) if values.size > 1 else math.nan


def _ratio(above: float, below: float) -> float:
    """Divide; a ratio over nothing does not exist."""
    return above / below if below else math.nan


def _moment(nanoseconds: int) -> str:
    moment = _EPOCH + timedelta(microseconds=nanoseconds // _MICROSECOND)
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _span(nanoseconds: int) -> str:
    """Return a length of time as days and a clock, with as many decimals as it needs."""
    days, rest = divmod(nanoseconds, _DAY)
    seconds, fraction = divmod(rest, _SECOND)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    decimals = f".{fraction:09}".removesuffix("000") if fraction else ""
    return f"{days} days {clock}{decimals}"


def _plain(value: float | str) -> float | str | None:
    """Return text as it is and a number as a float that JSON can hold, None for one that does not exist."""
    if isinstance(value, str):
        return value
    return float(value) if math.isfinite(value) else None
