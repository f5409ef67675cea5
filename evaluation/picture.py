"""Draws an equity curve and its drawdown as SVG, by hand: no library, no script, nothing loaded from outside.

The colours are mid-tones on a transparent ground, so that the picture reads on a light page and on a dark one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from ..schemas.evaluation import Evaluation
from .bars import Bars, FloatArray, TimeArray

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT = 64, 884
INK, GRID = "#7b7b7b", "#8886"
EQUITY, MARKET, DRAWDOWN = "#2f81d6", "#a98f58", "#d0505a"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 10**9
_DAY = 86_400 * _SECOND
_CLOCK_STEPS = tuple(_SECOND * seconds for seconds in (1, 10, 60, 300, 900, 1800, 3600, 10_800, 21_600, 43_200))
_DAY_STEPS = tuple(_DAY * days for days in (1, 2, 5, 10, 20))
_MONTH_STEPS = (1, 2, 3, 6, 12, 24, 60, 120, 240, 600)
_TICKS = 10


@dataclass(frozen=True)
class _Panel:
    """A rectangle of the picture, and the values at its bottom and its top."""

    top: float
    bottom: float
    low: float
    high: float

    def y(self, values: FloatArray) -> FloatArray:
        share = (values - self.low) / (self.high - self.low)
        placed: FloatArray = self.bottom - share * (self.bottom - self.top)
        return placed


def equity_svg(bars: Bars, evaluation: Evaluation) -> str:
    """Return the account's worth against buy and hold, above its drawdown, both over time, as an SVG document.

    `evaluation` must have an equity curve of one value per bar.
    """
    equity = np.array(evaluation.equity)
    market = evaluation.costs.cash * bars.close / bars.close[0]
    depth = 100 * (equity / np.maximum.accumulate(equity) - 1)
    worth = _panel(34, 274, np.append(equity, market))
    fall = _panel(302, 390, np.append(depth, [0.0, -1.0]))
    parts = [
        *_legend(),
        *_rows(worth, 7, "{:,.10g}"),
        *_rows(fall, 4, "{:g}%"),
        *_dates(bars.times, (worth, fall)),
        _line(bars.times, market, worth, f'stroke="{MARKET}" stroke-width="1.2" stroke-dasharray="5 3"'),
        _line(bars.times, equity, worth, f'stroke="{EQUITY}" stroke-width="1.6"'),
        _area(bars.times, depth, fall),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="11" fill="{INK}">'
    )
    return "\n".join([head, "<title>Equity and drawdown</title>", *parts, "</svg>"]) + "\n"


def _panel(top: float, bottom: float, values: FloatArray) -> _Panel:
    """Return a panel that holds all finite `values`, with some air above and below."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    air = 0.04 * (high - low) or abs(high) or 1.0
    return _Panel(top, bottom, low - air, high + (air if high else 0.0))


def _legend() -> list[str]:
    entries = ((LEFT, EQUITY, "", "Equity [$]"), (LEFT + 110, MARKET, "5 3", "Buy & hold [$]"))
    lines = []
    for x, colour, dashes, label in entries:
        style = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
        lines.append(f'<line x1="{x}" y1="16" x2="{x + 24}" y2="16" {style}/>')
        lines.append(f'<text x="{x + 30}" y="20">{label.replace("&", "&amp;")}</text>')
    return [*lines, f'<text x="{LEFT}" y="296">Drawdown [%]</text>']


def _rows(panel: _Panel, count: int, form: str) -> list[str]:
    """Draw a horizontal line at each round value, with the value beside it."""
    step = _round_step((panel.high - panel.low) / count)
    values = step * np.arange(math.ceil(panel.low / step), math.floor(panel.high / step) + 1, dtype=np.float64)
    rows = []
    for value, y in zip(values, panel.y(values), strict=True):
        rows.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}" stroke="{GRID}" stroke-width="0.6"/>')
        rows.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{form.format(value)}</text>')
    return rows


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, ... that is no less than `least`, at any power of ten."""
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _dates(times: TimeArray, panels: Iterable[_Panel]) -> list[str]:
    """Draw a vertical line through the panels at each round date, with the date below them."""
    moments, form = _date_ticks(int(times[0]), int(times[-1]))
    marks = []
    for moment, x in zip(moments, _x(times, np.array(moments, np.int64)), strict=True):
        for panel in panels:
            ends = f'x1="{x:.1f}" y1="{panel.top}" x2="{x:.1f}" y2="{panel.bottom}"'
            marks.append(f'<line {ends} stroke="{GRID}" stroke-width="0.6"/>')
        label = (_EPOCH + timedelta(microseconds=moment // 1000)).strftime(form)
        marks.append(f'<text x="{min(x, WIDTH - 38):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{label}</text>')
    return marks


def _date_ticks(first: int, last: int) -> tuple[list[int], str]:
    """Return at most ten round moments between two, in nanoseconds, and the form that tells them apart."""
    span = last - first
    for steps, form in ((_CLOCK_STEPS, "%d %b %H:%M"), (_DAY_STEPS, "%d %b %Y")):
        for step in steps:
            if span / step <= _TICKS - 3:
                return list(range(-(-first // step) * step, last + 1, step)), form
    begin, end = (_EPOCH + timedelta(microseconds=moment // 1000) for moment in (first, last))
    first_month, last_month = (12 * moment.year + moment.month - 1 for moment in (begin, end))
    step = next(step for step in _MONTH_STEPS if (last_month - first_month) / step <= _TICKS)
    months = range(-(-(first_month + 1) // step) * step, last_month + 1, step)
    starts = (datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC) for month in months)
    return [(start - _EPOCH).days * _DAY for start in starts], "%Y" if step % 12 == 0 else "%b %Y"


def _x(times: TimeArray, moments: TimeArray) -> FloatArray:
    share = (moments - times[0]) / float(times[-1] - times[0])
    placed: FloatArray = LEFT + share * (RIGHT - LEFT)
    return placed


def _line(times: TimeArray, values: FloatArray, panel: _Panel, style: str) -> str:
    points = _points(times, values, panel)
    return f'<polyline points="{points}" fill="none" stroke-linejoin="round" {style}/>'


def _area(times: TimeArray, values: FloatArray, panel: _Panel) -> str:
    """Draw `values`, which are at most 0, as an area that hangs from 0."""
    zero = float(panel.y(np.zeros(1))[0])
    points = f"{LEFT},{zero:.1f} {_points(times, values, panel)} {RIGHT},{zero:.1f}"
    return f'<polygon points="{points}" fill="{DRAWDOWN}" fill-opacity="0.35" stroke="{DRAWDOWN}" stroke-width="1"/>'


def _points(times: TimeArray, values: FloatArray, panel: _Panel) -> str:
    kept = _extremes(values)
    kept = kept[np.isfinite(values[kept])]
    placed = zip(_x(times, times[kept]), panel.y(values[kept]), strict=True)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)


def _extremes(values: FloatArray) -> NDArray[np.int64]:
    """Return the places worth drawing: all, or of more than fit, the lowest and highest of each pixel's share."""
    if len(values) <= 2 * (RIGHT - LEFT):
        return np.arange(len(values))
    shares = np.array_split(np.arange(len(values)), RIGHT - LEFT)
    ends = [0, len(values) - 1]
    return np.unique([*ends, *(share[pick(values[share])] for share in shares for pick in (np.argmin, np.argmax))])
