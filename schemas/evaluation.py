"""The evidence computed outside the container from a run's positions and the pinned data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class _Evidence(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(_Evidence):
    """Something that counts against a candidate: a stable rule id, what is wrong, and what would mend it."""

    rule: str
    message: str
    hint: str


class Costs(_Evidence):
    """What trading costs, as fractions: `commission` of the traded value, `slippage` of the price, each side."""

    commission: Annotated[float, Field(ge=0, lt=1)] = 0.001
    slippage: Annotated[float, Field(ge=0, lt=1)] = 0.0005
    cash: Annotated[float, Field(gt=0)] = 10_000.0


class Trade(_Evidence):
    """One closed trade: size is signed (short is negative) and may be a fraction; prices include slippage.

    `commission` is what entry and exit cost in cash, `pnl` is after it. `return_pct` is pnl in percent of the value
    at entry.
    """

    size: float
    entry_bar: int
    exit_bar: int
    entry_time: AwareDatetime
    exit_time: AwareDatetime
    entry_price: float
    exit_price: float
    commission: float
    pnl: float
    return_pct: float


class Evaluation(_Evidence):
    """What a strategy's positions are worth. Empty `metrics` with findings means the positions were unusable.

    `equity` is the account's worth at each bar's close. `notes` tell a reader something that counts for nothing.
    """

    kind: Literal["evaluation"] = "evaluation"
    strategy: str
    costs: Costs
    metrics: dict[str, float | str | None] = {}
    trades: tuple[Trade, ...] = ()
    equity: tuple[float, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
