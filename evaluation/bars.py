"""Market data as numpy columns: what a strategy is shown, and what its positions are judged by.

A set is either registered (`datasets/registry.toml`: it ships with us, with source, licence and checksum) or a CSV
or Parquet file of the caller's. Both end as the same `Bars`, checked once, here.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import GateError, UsageError
from .tables import MAX_BYTES, Columns, parse_csv, read_table

FloatArray = NDArray[np.float64]
TimeArray = NDArray[np.int64]

ROUNDING = 1e-6
"""How far, as a fraction, an open or a close may lie outside its bar's range: prices come rounded."""

_DATASETS = Path(__file__).parent / "datasets"
_PRICES = ("open", "high", "low", "close")
_COLUMNS = ("time", *_PRICES, "volume")


@dataclass(frozen=True)
class DataSet:
    """A registered set: where it comes from and what its file must hash to. `interval` is for people to read."""

    name: str
    title: str
    file: str
    source: str
    licence: str
    sha256: str
    bars: int
    interval: str


@dataclass(frozen=True)
class Bars:
    """Open, high, low, close and volume of consecutive intervals; `times` are nanoseconds since 1970 in UTC.

    Made by `load`, or by `checked` from columns in memory; both refuse what could not be judged.
    """

    times: TimeArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray

    def __len__(self) -> int:
        return len(self.times)

    @property
    def interval(self) -> int:
        """The median distance between bars, in nanoseconds: a guess, since markets close at night."""
        return int(np.median(np.diff(self.times)))

    @cached_property
    def digest(self) -> str:
        """The sha256 of `to_bytes`: the same for the same bars, whatever file they came from."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Return what goes into a container: one line of JSON, then each column as little-endian 64-bit numbers.

        Times are integers, the others floats. `sandbox/inside/bars.py` reads it back.
        """
        header = json.dumps({"count": len(self), "columns": _COLUMNS}, separators=(",", ":")).encode()
        columns = [getattr(self, name).astype("<f8").tobytes() for name in (*_PRICES, "volume")]
        return b"".join([header, b"\n", self.times.astype("<i8").tobytes(), *columns])


def registered() -> dict[str, DataSet]:
    """Return the registered sets by name."""
    tables = tomllib.loads((_DATASETS / "registry.toml").read_text(encoding="utf-8"))
    return {name: DataSet(name=name, **table) for name, table in tables.items()}


def load(name_or_path: str | Path) -> Bars:
    """Return the bars of a registered set, or of a CSV or Parquet file of OHLCV.

    Raises UsageError for an unknown name and for a file that cannot be judged by, PrerequisiteError when Parquet
    cannot be read here, and GateError when a registered set is not the one that was registered.
    """
    known = registered()
    if isinstance(name_or_path, str) and name_or_path in known:
        return _load_registered(known[name_or_path])
    path = Path(name_or_path)
    if not path.exists() and not path.suffix and len(path.parts) < 2:
        raise UsageError(
            f"{name_or_path}: neither a registered data set nor a file; use one of {', '.join(known)}, "
            "or the path of a CSV or Parquet file"
        )
    return checked(read_table(path), str(path))


def _load_registered(dataset: DataSet) -> Bars:
    try:
        packed = (_DATASETS / dataset.file).read_bytes()
    except OSError as error:
        raise GateError(f"{dataset.name}: its file is missing ({error}); reinstall sandgate") from error
    if hashlib.sha256(packed).hexdigest() != dataset.sha256:
        raise GateError(f"{dataset.name}: {dataset.file} is not the file that was registered; reinstall sandgate")
    text = lzma.decompress(packed).decode("utf-8")
    return checked(parse_csv(text, dataset.name), dataset.name)


def checked(columns: Columns, name: str) -> Bars:
    """Return `columns` as Bars once they make sense as a market; `name` is what messages call them.

    Raises UsageError with the row, counted from 1 and without a header, of the first bar that does not.
    """
    if not len(columns.times):
        raise UsageError(f"{name}: is empty; a data set needs at least two bars")
    if len(columns.times) < 2:
        raise UsageError(f"{name}: has one bar; a data set needs at least two")
    if 8 * len(_COLUMNS) * len(columns.times) > MAX_BYTES:
        raise UsageError(f"{name}: has more bars than {MAX_BYTES // 2**20} MB hold; shorten it")
    bars = Bars(columns.times, columns.open, columns.high, columns.low, columns.close, columns.volume)
    for price in _PRICES:
        values = getattr(bars, price)
        _refuse(name, ~(np.isfinite(values) & (values > 0)), f"{price} is not a price above zero", "drop or fill it")
    volume_is_odd = ~(np.isfinite(bars.volume) & (bars.volume >= 0))
    _refuse(name, volume_is_odd, "volume is not a number from zero up", "drop or fill it")
    _refuse(name, bars.high < bars.low, "high is below low", "correct the row")
    slack = ROUNDING * bars.high
    for price in ("open", "close"):
        values = getattr(bars, price)
        outside = (values > bars.high + slack) | (values < bars.low - slack)
        _refuse(name, outside, f"{price} lies outside the bar's low and high", "correct the row")
    late = np.diff(bars.times, prepend=bars.times[0] - 1) <= 0
    _refuse(name, late, "its time does not come after the row before", "sort by time and drop duplicates")
    return bars


def _refuse(name: str, is_bad: NDArray[np.bool_], reason: str, mend: str) -> None:
    if is_bad.any():
        raise UsageError(f"{name}: row {int(is_bad.argmax()) + 1}: {reason}; {mend}")
