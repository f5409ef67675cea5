"""Runs a `backtesting.Strategy` subclass with the library's own engine. What it says is the candidate's claim.

The engine, the strategy and the figures share one interpreter with the candidate, so nothing here is checked.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from bars import frame
from signals import attributes, convert, pick

TRADE_COLUMNS = (
    *("Size", "EntryBar", "ExitBar", "EntryPrice", "ExitPrice", "SL", "TP"),
    *("PnL", "Commission", "ReturnPct", "EntryTime", "ExitTime", "Duration"),
)


def run(namespace: dict[str, Any], bars: bytes, options: Mapping[str, Any]) -> dict[str, Any]:
    """Backtest the strategy that `options` name and return what the library says, as JSON can hold it.

    `options` hold strategy, params, cash, commission and slippage (absent: none). The library charges its spread
    once, at entry, so the slippage of both sides goes there. Positions still open at the end are closed. Raises
    ContractError for a strategy or a parameter that is not there; what the candidate raises passes through.
    """
    import backtesting.backtesting
    from backtesting import Backtest

    # With tqdm installed the library draws a progress bar on standard error.
    backtesting.backtesting._tqdm = lambda bars, **_: bars
    name, strategy = pick(strategies(namespace), options["strategy"])
    params = convert(options["params"], attributes(strategy))
    engine = Backtest(
        frame(bars),
        strategy,
        cash=options["cash"],
        commission=options["commission"],
        spread=2 * options.get("slippage", 0.0),
        finalize_trades=True,
    )
    stats = engine.run(**params)
    return {
        "contract": "backtesting",
        "strategy": name,
        "metrics": {key: plain(value) for key, value in stats.items() if not key.startswith("_")},
        "trades": trades_of(stats["_trades"]),
        "params": params,
    }


def strategies(namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the strategy classes that the file itself defines, by name: public ones, with `init` and `next`."""
    from backtesting import Strategy

    return {
        name: value
        for name, value in namespace.items()
        if isinstance(value, type)
        and issubclass(value, Strategy)
        and not name.startswith("_")
        and not inspect.isabstract(value)
        and value.__module__ == namespace.get("__name__", "builtins")
    }


def trades_of(table: Any) -> list[dict[str, Any]]:
    """Return the library's table of trades, one mapping each, without the indicators it adds."""
    names = [name for name in TRADE_COLUMNS if name in table]
    return [dict(zip(names, map(plain, row), strict=True)) for row in table[names].itertuples(index=False, name=None)]


def plain(value: Any) -> float | str | None:
    """Return a number as a float, None for one that does not exist, and text for times and spans."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None if value is None or str(value) in ("NaT", "<NA>") else str(value)
    return number if math.isfinite(number) else None
