"""Writes backtesting.json: fills, equity and figures of backtesting.py 0.6.6, which ours are compared with.

backtesting.py is AGPL and no dependency of ours, so this is run by hand, in an environment of its own:

    python -m venv /tmp/golden && /tmp/golden/bin/pip install backtesting==0.6.6 'numpy<2.5'
    PYTHONPATH=src /tmp/golden/bin/python tests/unit/golden/capture.py

Each case has its bars (times and closes: all that a metric looks at), what the library's broker did, and what the
library said of it.
"""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from backtesting import Backtest, Strategy

from sandgate.evaluation.bars import load

TARGET = Path(__file__).parent / "backtesting.json"


def mean(values, length):
    """A moving average that is not yet a number for its first bars."""
    return pd.Series(values).rolling(length).mean().to_numpy()


class Cross(Strategy):
    """Long above the slow average, out below; its indicators delay the first bar."""

    def init(self):
        self.fast = self.I(mean, self.data.Close, 5)
        self.slow = self.I(mean, self.data.Close, 20)

    def next(self):
        if self.fast[-1] > self.slow[-1] and not self.position:
            self.buy()
        elif self.fast[-1] < self.slow[-1] and self.position:
            self.position.close()


class Reverse(Strategy):
    """Always in the market, long and short in turn, closing a part on the way."""

    def init(self):
        pass

    def next(self):
        turn = len(self.data) % 14
        if turn == 0:
            self.buy(size=0.9)
        elif turn == 7:
            self.position.close()
            self.sell(size=0.5)
        elif turn in (4, 11):
            self.position.close(0.5)


class Nothing(Strategy):
    """Never trades."""

    def init(self):
        pass

    def next(self):
        pass


class Once(Strategy):
    """Buys once, early, and keeps it to the end."""

    def init(self):
        pass

    def next(self):
        if len(self.data) == 3:
            self.buy(size=0.7)


class Short(Strategy):
    """Is short of a market that doubles, beyond its means."""

    def init(self):
        pass

    def next(self):
        if not self.position:
            self.sell(size=0.99)


def daily(name, begin, count):
    """A stretch of a registered set."""
    bars = load(name)
    window = slice(begin, begin + count)
    columns = {"Open": bars.open, "High": bars.high, "Low": bars.low, "Close": bars.close, "Volume": bars.volume}
    index = pd.to_datetime(bars.times[window], unit="ns")
    return pd.DataFrame({name: values[window] for name, values in columns.items()}, index=index)


def walk(seed, index, drift=0.0):
    """A random walk over `index`."""
    steps = np.random.default_rng(seed).normal(drift, 0.01, len(index))
    close = np.round(100 * np.exp(np.cumsum(steps)), 4)
    open_ = np.round(np.append(100.0, close[:-1]), 4)
    high, low = np.maximum(open_, close), np.minimum(open_, close)
    return pd.DataFrame({"Open": open_, "High": high, "Low": low, "Close": close, "Volume": 1.0}, index=index)


def dates(freq, count):
    """The times of `count` bars."""
    return pd.date_range("2021-01-01", periods=count, freq=freq)


CASES = {
    "cross_daily": (Cross, daily("sp500", 2300, 260), 0.001),
    "reverse_daily": (Reverse, daily("nasdaq", 700, 260), 0.002),
    "reverse_free": (Reverse, daily("sp500", 100, 120), 0.0),
    "cross_hourly_all_week": (Cross, walk(1, dates("h", 300)), 0.0005),
    "reverse_five_minutes": (Reverse, walk(2, dates("5min", 700)[::2]), 0.0001),
    "cross_weekly": (Cross, walk(3, dates("W", 200).union(dates("5W-TUE", 30))), 0.001),
    "reverse_monthly": (Reverse, walk(4, dates("ME", 150)), 0.001),
    "reverse_yearly": (Reverse, walk(5, dates("YE", 40)), 0.001),
    "nothing": (Nothing, daily("sp500", 0, 60), 0.001),
    "once": (Once, daily("sp500", 500, 90), 0.001),
    "ruined": (Short, walk(6, dates("D", 120), drift=0.02), 0.001),
}


def plain(value):
    """What JSON can hold."""
    if isinstance(value, pd.Timestamp | pd.Timedelta):
        return str(value)
    return float(value) if math.isfinite(value) else None


def capture(strategy, frame, commission):
    """Run the library once and write down everything it did and said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        test = Backtest(frame, strategy, cash=1_000_000, commission=commission, finalize_trades=True)
        stats = test.run()
    trades = stats["_trades"]
    first = 19 if strategy is Cross else 0
    columns = ("Size", "EntryBar", "ExitBar", "EntryPrice", "ExitPrice", "Commission", "PnL", "ReturnPct")
    return {
        "times": frame.index.as_unit("ns").asi8.tolist(),
        "close": frame["Close"].tolist(),
        "first_bar": first,
        "equity": stats["_equity_curve"]["Equity"].tolist(),
        "trades": {name: trades[name].astype(float).tolist() for name in columns},
        "metrics": {name: plain(stats[name]) for name in stats.index if not name.startswith("_")},
    }


if __name__ == "__main__":
    golden = {name: capture(*case) for name, case in CASES.items()}
    TARGET.write_text("{" + ",\n".join(f'"{name}": {json.dumps(case)}' for name, case in golden.items()) + "}\n")
