"""Writes the report of an evaluated strategy: one HTML file that loads nothing and runs nothing.

Text of the candidate is escaped twice over: as HTML, and with characters that reorder or hide text made visible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from ..schemas.evaluation import Evaluation, Trade
from ..schemas.text import one_line
from .bars import Bars

SHOWN_TRADES = 10
"""How many trades are shown from the beginning, and how many from the end."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
svg { width: 100%; height: auto; margin-top: 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid #8883; vertical-align: top; }
th { font-weight: 500; opacity: .75; white-space: nowrap; }
td { overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; padding-right: 0; padding-left: .6rem; }
.metrics { columns: 2; column-gap: 3rem; }
.metrics div { display: flex; justify-content: space-between; border-bottom: 1px solid #8883; break-inside: avoid; }
.metrics dt { opacity: .75; }
.metrics dd { margin: 0; font-variant-numeric: tabular-nums; }
.finding { border-left: 4px solid #d0505a; padding-left: .8rem; }
.note { border-left: 4px solid #a98f58; padding-left: .8rem; }
.scroll { overflow-x: auto; font-size: .85rem; }
footer { margin-top: 2rem; opacity: .75; font-size: .85rem; }
@media (max-width: 640px) { .metrics { columns: 1; } }
""".strip()


def html(evaluation: Evaluation, bars: Bars, header: Mapping[str, str], drawing: str) -> str:
    """Return the report as a document. `header` says what was run and how it ended, in the order to be shown.

    `drawing` is the SVG of `picture.equity_svg`, taken as it is; everything else is escaped.
    """
    title = _text(evaluation.strategy)
    body = [
        f"<h1>{title}</h1>",
        f"<p>{len(bars):,} bars, {_metric(evaluation, 'Start')} to {_metric(evaluation, 'End')}</p>",
        *(_callout("finding", f"{item.rule}: {item.message}. {item.hint}") for item in evaluation.findings),
        *(_callout("note", note) for note in evaluation.notes),
        drawing,
        "<h2>Metrics</h2>",
        _metrics(evaluation),
        "<h2>Trades</h2>",
        _trades(evaluation.trades),
        "<h2>Run</h2>",
        _facts(header),
        f"<footer>{_text(_method(evaluation))}</footer>",
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style>"
    )
    return "\n".join(["<!doctype html>", '<html lang="en"><head>', head, "</head><body>", *body, "</body></html>", ""])


def _method(evaluation: Evaluation) -> str:
    costs = evaluation.costs
    return (
        f"Computed outside the container from the strategy's positions: filled at the next bar's open, commission "
        f"{costs.commission:.4%} of the value, slippage {costs.slippage:.4%} of the price, cash {costs.cash:,.2f}. "
        "The picture's buy & hold pays no costs."
    )


def _metric(evaluation: Evaluation, name: str) -> str:
    return _text(_figure(name, evaluation.metrics.get(name)))


def _metrics(evaluation: Evaluation) -> str:
    rows = (
        f"<div><dt>{_text(name)}</dt><dd>{_text(_figure(name, value))}</dd></div>"
        for name, value in evaluation.metrics.items()
    )
    return f'<dl class="metrics">{"".join(rows)}</dl>'


def _figure(name: str, value: float | str | None) -> str:
    """Return a metric as people read it; a dash stands for one that does not exist."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value.removesuffix(" 00:00:00")
    if name.startswith("#"):
        return f"{value:,.0f}"
    return f"{value:,.2f}" if name.endswith("]") else f"{value:,.3f}"


def _trades(trades: tuple[Trade, ...]) -> str:
    if not trades:
        return "<p>None.</p>"
    titles = ("#", "Entry", "Exit", "Size", "Entry price", "Exit price", "Commission", "PnL", "Return")
    numbered = list(enumerate(trades, start=1))
    hidden = len(trades) - 2 * SHOWN_TRADES
    if hidden > 0:
        gap = f'<tr><td colspan="{len(titles)}">… {hidden:,} more …</td></tr>'
        rows = [*_rows(numbered[:SHOWN_TRADES]), gap, *_rows(numbered[-SHOWN_TRADES:])]
    else:
        rows = _rows(numbered)
    head = "".join(f"<th{_alignment(place)}>{title}</th>" for place, title in enumerate(titles))
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _rows(numbered: Iterable[tuple[int, Trade]]) -> list[str]:
    return [_row(number, trade) for number, trade in numbered]


def _row(number: int, trade: Trade) -> str:
    cells = (
        str(number),
        f"{trade.entry_time:%Y-%m-%d %H:%M}".removesuffix(" 00:00"),
        f"{trade.exit_time:%Y-%m-%d %H:%M}".removesuffix(" 00:00"),
        f"{trade.size:,.4f}",
        f"{trade.entry_price:,.2f}",
        f"{trade.exit_price:,.2f}",
        f"{trade.commission:,.2f}",
        f"{trade.pnl:,.2f}",
        f"{trade.return_pct:,.2f}%",
    )
    return f"<tr>{''.join(f'<td{_alignment(place)}>{cell}</td>' for place, cell in enumerate(cells))}</tr>"


def _alignment(place: int) -> str:
    return ' class="number"' if place > 2 else ""


def _callout(kind: str, text: str) -> str:
    return f'<p class="{kind}">{_text(text)}</p>'


def _facts(header: Mapping[str, str]) -> str:
    return f"<table>{''.join(_fact(*item) for item in header.items())}</table>"


def _fact(name: str, value: str) -> str:
    return f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>"


def _text(text: str) -> str:
    """Return text for HTML, with what cannot be seen written as its escape."""
    return escape(one_line(text))
