"""Turns target positions into fills, trades and an equity curve. Pure arithmetic, outside any container.

The rules
---------
A target is decided at the close of its bar and filled at the open of the next one; the last bar's target is never
filled. A target is a fraction of the account's worth: 1 is fully long, -1 fully short, 0 flat. Only a target that
differs from the one before it trades, and it trades only the difference: an unchanged target keeps its units and
lets their value drift. Units may be fractional. They are sized so that a full position is paid for with its costs:
nothing is borrowed to be long.

Buying pays the price plus slippage, selling gets the price less slippage, and each fill pays commission on its
value. Units are closed first in, first out; each closed piece is one trade. What is still open at the end is closed
at the last close, at the same costs. An account worth nothing or less at a close, or when it comes to trade, is
closed there and stays at zero.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np

from ..schemas.evaluation import Costs, Trade
from .bars import Bars, FloatArray

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DUST = 1e-12
"""A fraction of a lot too small to be left open: it is rounding, not a position."""


@dataclass(frozen=True)
class Ledger:
    """What following the targets led to. `equity` is the account's worth at each close.

    `bankrupt` is the bar on which nothing was left, absent otherwise; `closed_at_end` says that a position was
    still open after the last bar.
    """

    trades: tuple[Trade, ...]
    equity: FloatArray
    bankrupt: int | None
    closed_at_end: bool


def backtest(bars: Bars, targets: FloatArray, costs: Costs) -> Ledger:
    """Follow `targets`, one number in [-1, 1] per bar, by the rules above."""
    account = _Account(bars, costs)
    equity = np.full(len(bars), costs.cash)
    changes = np.flatnonzero(np.diff(targets, prepend=0.0)) + 1
    fills = changes[changes < len(bars)].tolist()
    for begin, end in pairwise([*fills, len(bars)]):
        if account.worth(bars.open[begin]) <= 0:
            return account.ruin(begin, bars.open[begin], equity)
        account.rebalance(float(targets[begin - 1]), begin)
        equity[begin:end] = account.worth(bars.close[begin:end])
        broke = np.flatnonzero(equity[begin:end] <= 0)
        if broke.size:
            bar = begin + int(broke[0])
            return account.ruin(bar, bars.close[bar], equity)
    last = len(bars) - 1
    is_open = bool(account.lots)
    account.close_all(last, bars.close[last])
    equity[last] = max(account.cash, 0.0)
    return Ledger(tuple(account.trades), equity, last if account.cash <= 0 else None, is_open)


@dataclass
class _Lot:
    """Units bought or sold short together. `size` is signed, `price` includes slippage."""

    size: float
    price: float
    bar: int


class _Account:
    """Cash, the lots that are open, and the trades that were closed."""

    def __init__(self, bars: Bars, costs: Costs) -> None:
        self.bars = bars
        self.costs = costs
        self.cash = costs.cash
        self.lots: deque[_Lot] = deque()
        self.trades: list[Trade] = []
        self.held = 0.0

    def worth(self, price: FloatArray) -> FloatArray:
        """Return cash plus the value of what is held at `price`, a number or an array of them."""
        return self.cash + self.held * price

    def rebalance(self, target: float, bar: int) -> None:
        """Trade at the bar's open so that `target`, as a fraction of the worth there, is held."""
        price = float(self.bars.open[bar])
        unit_cost = price * (1 + self.costs.slippage) * (1 + self.costs.commission)
        wanted = target * float(self.worth(self.bars.open[bar])) / unit_cost
        if wanted * self.held <= 0:
            self.close_all(bar, price)
        missing = wanted - self.held
        if missing * wanted > 0:
            self._open(missing, bar, price)
        elif missing:
            self._close(abs(missing), bar, price)

    def close_all(self, bar: int, price: float) -> None:
        """Close every lot at `price`, which slippage worsens."""
        while self.lots:
            self._close(abs(self.lots[0].size), bar, price)
        self.held = 0.0

    def ruin(self, bar: int, price: float, equity: FloatArray) -> Ledger:
        """Close every lot and leave the account at zero from `bar` on."""
        self.close_all(bar, price)
        equity[bar:] = 0.0
        return Ledger(tuple(self.trades), equity, bar, closed_at_end=False)

    def _open(self, size: float, bar: int, price: float) -> None:
        lot = _Lot(size, self._fill(size, price), bar)
        self.cash -= size * lot.price + self._commission(size, lot.price)
        self.held += size
        self.lots.append(lot)

    def _close(self, amount: float, bar: int, price: float) -> None:
        while self.lots and amount > 0:
            lot = self.lots[0]
            rest = abs(lot.size) - amount
            is_whole = rest <= _DUST * abs(lot.size)
            size = lot.size if is_whole else float(np.copysign(amount, lot.size))
            fill = self._fill(-size, price)
            self.cash += size * fill - self._commission(size, fill)
            self.held -= size
            self.trades.append(self._trade(lot, size, bar, fill))
            amount -= abs(size)
            if is_whole:
                self.lots.popleft()
            else:
                lot.size -= size

    def _fill(self, size: float, price: float) -> float:
        """Return the price that an order of this sign gets."""
        return float(price) * (1 + float(np.copysign(self.costs.slippage, size)))

    def _commission(self, size: float, price: float) -> float:
        return abs(size) * price * self.costs.commission

    def _trade(self, lot: _Lot, size: float, bar: int, price: float) -> Trade:
        commission = self._commission(size, lot.price) + self._commission(size, price)
        pnl = size * (price - lot.price) - commission
        return Trade(
            size=size,
            entry_bar=lot.bar,
            exit_bar=bar,
            entry_time=_moment(int(self.bars.times[lot.bar])),
            exit_time=_moment(int(self.bars.times[bar])),
            entry_price=lot.price,
            exit_price=price,
            commission=commission,
            pnl=pnl,
            return_pct=100 * pnl / (abs(size) * lot.price),
        )


def _moment(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
