"""Reads OHLCV tables, CSV or Parquet, into columns. What the columns are worth is for `bars.py` to check."""

from __future__ import annotations

import csv
import os
import stat
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import PrerequisiteError, UsageError

MAX_BYTES = 256 * 1024 * 1024
"""The largest file, and the largest set of columns in memory, that is taken."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_NAMES = ("datetime", "timestamp", "date", "time", "__index_level_0__")
_NUMBERS = ("open", "high", "low", "close", "volume")
_SHOWN_CHARACTERS = 20
_LAST_NANOSECOND = 2**63 - 1


@dataclass(frozen=True)
class Columns:
    """Unchecked columns of equal length; `times` are nanoseconds since 1970 in UTC."""

    times: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]


def read_table(path: Path) -> Columns:
    """Read a CSV or Parquet file, told apart by its first bytes.

    Raises UsageError for a file that is no such table, PrerequisiteError when pyarrow is needed and missing.
    """
    content = _read(path)
    if content.startswith(b"PAR1"):
        return _parse_parquet(content, str(path))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: neither UTF-8 text nor Parquet; save it as CSV or Parquet") from error
    return parse_csv(text, str(path))


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path}: cannot be opened: {error.strerror}; give a CSV or Parquet file") from error
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise UsageError(f"{path}: is not a regular file; give a CSV or Parquet file")
    with open(descriptor, "rb") as file:
        if about.st_size > MAX_BYTES:
            raise UsageError(f"{path}: is larger than {MAX_BYTES // 2**20} MB; shorten it")
        return file.read(MAX_BYTES)


def parse_csv(text: str, name: str) -> Columns:
    """Read a CSV with a header line. Raises UsageError with the line of the file."""
    rows = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        header = next(rows, None)
        if header is None or not any(cell.strip() for cell in header):
            raise UsageError(f"{name}: is empty; give a table with a header line and OHLCV columns")
        places = _places(header, name)
        numbered = ((rows.line_num, cells) for cells in rows if cells)
        return _parse_rows(numbered, places, name)
    except csv.Error as error:
        raise UsageError(f"{name}: line {rows.line_num} is not CSV: {error}") from error


def _places(header: list[str], name: str) -> dict[str, int]:
    """Return where each column stands; names are taken without regard to case. Absent volume has no place."""
    names = [cell.strip().lower() for cell in header]
    if twice := [column for column in (*_TIME_NAMES, *_NUMBERS) if names.count(column) > 1]:
        raise UsageError(f"{name}: column {twice[0]!r} occurs twice; keep one")
    places = {column: names.index(column) for column in _NUMBERS if column in names}
    missing = [column for column in _NUMBERS[:4] if column not in places]
    if not missing:
        time = next((column for column in _TIME_NAMES if column in names), None)
        places["time"] = names.index(time) if time else 0
        if places["time"] in (places[column] for column in places if column != "time"):
            missing = ["a time (Date, Datetime, Timestamp or the first column)"]
    if missing and len(header) == 1 and ";" in header[0]:
        raise UsageError(f"{name}: is separated by semicolons; write it with commas and decimal points")
    if missing:
        found = ", ".join(_shown(cell) for cell in header[:8])
        raise UsageError(f"{name}: lacks {', '.join(missing)}; found the columns {found}")
    return places


def _parse_rows(rows: Iterable[tuple[int, list[str]]], places: dict[str, int], name: str) -> Columns:
    times = array("q")
    numbers = {column: array("d") for column in _NUMBERS if column in places}
    time_place = places["time"]
    for line, cells in rows:
        try:
            times.append(parse_time(cells[time_place]))
            for column, values in numbers.items():
                values.append(float(cells[places[column]]))
        except IndexError as error:
            raise UsageError(
                f"{name}: line {line}: has {len(cells)} cells, too few for its header; complete or drop it"
            ) from error
        except ValueError as error:
            reason = _unusable(cells, places) or str(error)
            raise UsageError(f"{name}: line {line}: {reason}; correct or drop it") from error
    numbers.setdefault("volume", array("d", bytes(8 * len(times))))
    arrays = {column: np.frombuffer(values, np.float64) for column, values in numbers.items()}
    return Columns(times=np.frombuffer(times, np.int64), **arrays)


def _unusable(cells: list[str], places: dict[str, int]) -> str | None:
    """Return what is the matter with a row: its first cell that is empty or no number, None if there is none."""
    for column, place in places.items():
        text = cells[place].strip() if place < len(cells) else ""
        if not text:
            return f"{column} is empty"
        if column != "time" and not _is_number(text):
            return f"{column} is no number: {_shown(text)}"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(cell: str) -> str:
    """Return the start of a cell, in which nothing is a control character: the file may be no table at all."""
    return repr(cell.strip()[:_SHOWN_CHARACTERS])[1:-1]


def parse_time(text: str) -> int:
    """Return an ISO 8601 time, or a whole number since 1970, as nanoseconds; without an offset it is UTC.

    A whole number is taken as seconds, milli-, micro- or nanoseconds by its size. Raises ValueError.
    """
    text = text.strip()
    if text.isdecimal() and len(text) > 8:
        return scale_epoch(int(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text[:_SHOWN_CHARACTERS]!r} is no ISO 8601 time (such as 2024-01-31 or 2024-01-31 15:30)"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - _EPOCH
    return _representable(((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000)


def scale_epoch(number: int) -> int:
    """Return a time since 1970 in nanoseconds; its unit is the one that puts it before the year 5138."""
    for limit, nanoseconds in ((10**11, 10**9), (10**14, 10**6), (10**17, 10**3)):
        if abs(number) < limit:
            return _representable(number * nanoseconds)
    return _representable(number)


def _representable(nanoseconds: int) -> int:
    if abs(nanoseconds) > _LAST_NANOSECOND:
        raise ValueError("its time lies outside the years 1678 to 2261")
    return nanoseconds


def _parse_parquet(content: bytes, name: str) -> Columns:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise PrerequisiteError(f"{name}: Parquet needs pyarrow; pip install 'sandgate[parquet]'") from error
    try:
        file = pyarrow.parquet.ParquetFile(BytesIO(content))
        places = _places(file.schema_arrow.names, name)
        if file.metadata.num_rows * 8 * (len(_NUMBERS) + 1) > MAX_BYTES:
            raise UsageError(f"{name}: has more bars than {MAX_BYTES // 2**20} MB hold; shorten it")
        names = {column: file.schema_arrow.names[place] for column, place in places.items()}
        table = file.read(columns=list(names.values()))
        times = _arrow_times(table.column(names.pop("time")))
        numbers = {
            column: table.column(own).cast(pyarrow.float64()).to_numpy().astype(np.float64)
            for column, own in names.items()
        }
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise UsageError(f"{name}: cannot be read as a Parquet table of OHLCV: {_one_line(str(error))}") from error
    numbers.setdefault("volume", np.zeros(len(times)))
    return Columns(times=times, **numbers)


def _arrow_times(column: Any) -> NDArray[np.int64]:
    """Turn timestamps, dates, text or whole numbers into nanoseconds. Raises ValueError and arrow's errors."""
    import pyarrow

    if column.null_count:
        raise ValueError("some times are missing; drop those rows")
    kind = column.type
    if pyarrow.types.is_timestamp(kind) or pyarrow.types.is_date(kind):
        nanoseconds = column.cast(pyarrow.timestamp("ns", tz=getattr(kind, "tz", None))).cast(pyarrow.int64())
        return np.asarray(nanoseconds.to_numpy(), np.int64)
    if pyarrow.types.is_integer(kind):
        return np.array([scale_epoch(number) for number in column.to_pylist()], np.int64)
    return np.array([parse_time(str(text)) for text in column.to_pylist()], np.int64)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
