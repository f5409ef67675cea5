"""Judges the positions that came out of a container: refused with findings, or worth what the ledger says."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..schemas.evaluation import Costs, Evaluation, Finding
from .backtest import Ledger, backtest
from .bars import Bars, FloatArray
from .metrics import compute

INFINITE = {"inf": math.inf, "-inf": -math.inf}
"""How an infinite number is spelt in the JSON that leaves the container, which has no word for it."""

_ROUNDING = 1e-9
_NAME_LENGTH = 200


def evaluate(positions: object, bars: Bars, costs: Costs, strategy_name: str) -> Evaluation:
    """Follow `positions`, parsed JSON from a container, through `bars` at `costs`.

    A usable answer is a list of one number in [-1, 1] per bar, with null for "not yet" before the first. Everything
    else is a finding, and so is an account that was lost. Raises nothing for anything that a candidate can answer.
    """
    name = strategy_name.encode("utf-8", "backslashreplace").decode()[:_NAME_LENGTH]
    targets = _targets(positions, len(bars))
    if isinstance(targets, Finding):
        return Evaluation(strategy=name, costs=costs, findings=(targets,))
    with np.errstate(all="ignore"):
        ledger = backtest(bars, targets, costs)
    return Evaluation(
        strategy=name,
        costs=costs,
        metrics=compute(bars, ledger.equity, ledger.trades),
        trades=ledger.trades,
        equity=tuple(ledger.equity.tolist()),
        findings=_ruin(ledger),
        notes=_notes(ledger),
    )


def _targets(positions: object, count: int) -> FloatArray | Finding:
    """Return the positions as numbers, or the first reason why they are none."""
    if not isinstance(positions, list):
        return Finding(
            rule="EV001",
            message=f"the positions are a {type(positions).__name__}, not a list",
            hint="return one number per bar: a list, an array or a Series",
        )
    if len(positions) != count:
        return Finding(
            rule="EV002",
            message=f"{len(positions)} positions for {count} bars",
            hint="return one number per row of the frame; do not drop rows, put 0 or NaN where there is no signal",
        )
    numbers = [_number(value) for value in positions]
    if None in numbers:
        bar = numbers.index(None)
        return Finding(
            rule="EV003",
            message=f"the position of bar {bar} is no number but {_shown(positions[bar])}",
            hint="return numbers only: 1 long, -1 short, 0 flat, or a fraction between",
        )
    targets = np.array(numbers, np.float64)
    return _unusable(targets) or np.clip(np.nan_to_num(targets), -1, 1)


def _number(value: object) -> float | None:
    """Return what JSON holds as a float, NaN for null, None for what is no number."""
    if value is None:
        return math.nan
    if isinstance(value, str):
        return INFINITE.get(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: object) -> str:
    return f"{value[:40]!r}" if isinstance(value, str) else f"a {type(value).__name__}"


def _unusable(targets: FloatArray) -> Finding | None:
    """Return the first rule that the numbers break."""
    is_missing = np.isnan(targets)
    return (
        _first(
            np.isinf(targets),
            "EV004",
            "is infinite",
            "a division by zero? guard it, or use .replace([np.inf, -np.inf], 0)",
        )
        or _first(
            np.abs(targets) > 1 + _ROUNDING,
            "EV005",
            "lies outside [-1, 1]",
            "a position is a fraction of the account, and there is no leverage; use .clip(-1, 1)",
        )
        or _first(
            is_missing & (np.cumsum(~is_missing) > 0),
            "EV006",
            "is missing (NaN), although an earlier bar has one",
            "decide it: .ffill() keeps the position, .fillna(0) means flat; only the first bars may be NaN",
        )
    )


def _first(is_bad: NDArray[np.bool_], rule: str, what: str, hint: str) -> Finding | None:
    """Return a finding for the first bad bar that says how many there are, none when there is none."""
    count = int(np.count_nonzero(is_bad))
    if not count:
        return None
    others = f" (and {count - 1} more)" if count > 1 else ""
    return Finding(rule=rule, message=f"the position of bar {int(is_bad.argmax())} {what}{others}", hint=hint)


def _ruin(ledger: Ledger) -> tuple[Finding, ...]:
    if ledger.bankrupt is None:
        return ()
    return (
        Finding(
            rule="EV007",
            message=f"the account was lost on bar {ledger.bankrupt}",
            hint="hold smaller positions, or get out of short ones earlier",
        ),
    )


def _notes(ledger: Ledger) -> tuple[str, ...]:
    notes = []
    if not ledger.trades:
        notes.append("it never trades: every position that could have been filled is 0")
    if ledger.closed_at_end:
        notes.append("a position was still open after the last bar and was closed at its close")
    return tuple(notes)
