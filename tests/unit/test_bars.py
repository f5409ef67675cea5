"""Market data: the registered sets, the caller's files, and everything that is refused."""

import hashlib
import json
import os
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from sandgate.evaluation import bars as bars_module
from sandgate.evaluation.bars import Bars, load, registered
from sandgate.evaluation.tables import MAX_BYTES
from sandgate.schemas.errors import GateError, UsageError

HEADER = "Date,Open,High,Low,Close,Volume\n"
GOOD = "2024-01-01,10,12,9,11,100\n2024-01-02,11,13,10,12,200\n"
COLUMNS = ("open", "high", "low", "close", "volume")


@pytest.fixture
def file(tmp_path):
    def write(text, name="bars.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("name", ["sp500", "nasdaq"])
def test_registered_sets_are_what_they_say(name):
    bars, dataset = load(name), registered()[name]
    assert len(bars) == dataset.bars == 5031
    assert bars.interval == 86_400 * 10**9
    assert dataset.licence.startswith("NCSA")
    assert str(bars.times[[0, -1]].astype("datetime64[ns]").astype("datetime64[D]")) == "['1999-01-04' '2018-12-31']"


def test_a_registered_file_that_changed_is_our_fault(tmp_path, monkeypatch):
    folder = shutil.copytree(bars_module._DATASETS, tmp_path / "datasets")
    monkeypatch.setattr(bars_module, "_DATASETS", folder)
    assert len(load("sp500")) == 5031
    (folder / "sp500.csv.xz").write_bytes((folder / "nasdaq.csv.xz").read_bytes())
    with pytest.raises(GateError, match=r"sp500\.csv\.xz is not the file that was registered") as caught:
        load("sp500")
    assert caught.value.exit_code == 3


def test_csv_with_any_case_any_order_and_no_volume(file):
    bars = load(file("CLOSE,open,High,low,Adj Close,TimeStamp\n11,10,12,9,1,2024-01-01\n12,11,13,10,1,2024-01-02\n"))
    assert bars.close.tolist() == [11, 12]
    assert bars.low.tolist() == [9, 10]
    assert bars.volume.tolist() == [0, 0]


def test_the_first_column_is_the_time_when_none_is_named_so(file):
    bars = load(file(f"{HEADER}{GOOD}".replace("Date", "")))
    assert bars.times[1] - bars.times[0] == 86_400 * 10**9


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2024-01-01T00:00:00Z", "2024-01-01T02:00:00+01:00"),
        ("2024-01-01 00:00", "2024-01-01 01:00:00"),
        ("1704067200", "1704070800"),
        ("1704067200000", "1704070800000"),
        ("1704067200000000", "1704070800000000"),
        ("1704067200000000000", "1704070800000000000"),
    ],
)
def test_times_are_utc_however_they_are_written(file, first, second):
    bars = load(file(f"{HEADER}{first},10,12,9,11,1\n{second},10,12,9,11,1\n"))
    assert bars.times.tolist() == [1_704_067_200 * 10**9, 1_704_070_800 * 10**9]


def test_a_byte_order_mark_windows_lines_and_blank_lines_are_fine(file):
    text = "\ufeffClose,Date,Open,High,Low\n11,2024-01-01,10,12,9\n\n12,2024-01-02,11,13,10\n\n"
    assert load(file(text.replace("\n", "\r\n"))).close.tolist() == [11, 12]


def test_rounded_prices_may_lie_a_hair_outside(file):
    assert len(load(file(f"{HEADER}2024-01-01,10,12,9,12.000001,1\n2024-01-02,11,13,10,12,2\n"))) == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("   \n", "is empty"),
        (HEADER, "is empty"),
        (f"{HEADER}2024-01-01,10,12,9,11,1\n", "one bar"),
        ("Date,Open,High,Volume\n1,2,3,4\n", "lacks low, close; found the columns Date, Open, High, Volume"),
        ("Open,High,Low,Close\n1,2,3,4\n", "lacks a time"),
        ("Date,Close,close,Open,High,Low\n", "'close' occurs twice"),
        (f"{HEADER}{GOOD}2024-01-03,x,13,10,12,1\n", "line 4: open is no number: x"),
        (f"{HEADER}{GOOD}2024-01-03,11,,10,12,1\n", "line 4: high is empty"),
        (f"{HEADER}{GOOD}\n,11,13,10,12,1\n", "line 5: time is empty"),
        (f"{HEADER}{GOOD}2024-01-03,11,13,10\n", "line 4: has 4 cells"),
        (f"{HEADER}{GOOD}1/4/2024,11,13,10,12,1\n", "line 4: '1/4/2024' is no ISO 8601 time"),
        (f"{HEADER}{GOOD}9999-01-01,11,13,10,12,1\n", "line 4: its time lies outside"),
        (f"{HEADER}{GOOD}2024-01-03,nan,13,10,12,1\n", "row 3: open is not a price"),
        (f"{HEADER}{GOOD}2024-01-03,11,inf,10,12,1\n", "row 3: high is not a price"),
        (f"{HEADER}{GOOD}2024-01-03,11,13,0,12,1\n", "row 3: low is not a price"),
        (f"{HEADER}{GOOD}2024-01-03,11,13,10,-12,1\n", "row 3: close is not a price"),
        (f"{HEADER}{GOOD}2024-01-03,11,13,10,12,-1\n", "row 3: volume"),
        (f"{HEADER}{GOOD}2024-01-03,11,9,10,9.5,1\n", "row 3: high is below low"),
        (f"{HEADER}{GOOD}2024-01-03,14,13,10,12,1\n", "row 3: open lies outside"),
        (f"{HEADER}{GOOD}2024-01-03,11,13,10,9,1\n", "row 3: close lies outside"),
        (f"{HEADER}{GOOD}2024-01-02,11,13,10,12,1\n", "row 3: its time does not come after"),
        (f'{HEADER}2024-01-01,"10,12,9,11,1\n', "is not CSV"),
        (b"\xff\xfe\x00binary", "neither UTF-8 text nor Parquet"),
        (b"PAR1 and nothing else", "cannot be read as a Parquet table"),
    ],
)
def test_unusable_files_are_refused_in_one_line(file, text, reason):
    path = file(text)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["x:" * 500, "secret," * 500, f"{HEADER}{GOOD}{'1' * 500}x,11,13,10,12,1\n"])
def test_little_of_a_file_that_is_no_table_is_told(file, text):
    """Whoever names a file by mistake, or names one that another may read only, must not have it printed."""
    path = file(text)
    with pytest.raises(UsageError) as caught:
        load(path)
    message = str(caught.value).removeprefix(str(path))
    assert len(message) < 180
    assert message.count("secret") <= 8


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge.csv").open("wb") as huge:
        huge.truncate(MAX_BYTES + 1)
    for name, reason in (
        (".", "not a regular file"),
        ("pipe", "not a regular file"),
        ("none.csv", "No such file"),
        ("huge.csv", "larger than 256 MB"),
    ):
        with pytest.raises(UsageError, match=reason):
            load(tmp_path / name)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match="neither a registered data set nor a file; use one of sp500, nasdaq"):
        load("dax")


@pytest.mark.parametrize("time", ["date", "timestamp", "zoned", "text", "seconds"])
def test_parquet_reads_like_csv(file, tmp_path, time):
    expected = load(file(HEADER + GOOD))
    moments = pyarrow.array(expected.times, pyarrow.timestamp("ns"))
    times = {
        "date": moments.cast(pyarrow.date32()),
        "timestamp": moments.cast(pyarrow.timestamp("ms")),
        "zoned": moments.cast(pyarrow.timestamp("us", "Europe/Berlin")),
        "text": pyarrow.array(["2024-01-01", "2024-01-02"]),
        "seconds": pyarrow.array(expected.times // 10**9),
    }[time]
    columns = {name.title(): getattr(expected, name) for name in COLUMNS}
    pyarrow.parquet.write_table(pyarrow.table({**columns, "Date": times}), tmp_path / "bars.parquet")
    assert load(tmp_path / "bars.parquet").digest == expected.digest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Close": ["a", "b"]}, "cannot be read as a Parquet table"),
        ({"Close": [11.0, None]}, "row 2: close is not a price"),
        ({"Date": ["2024-01-01", None]}, "some times are missing"),
        ({"Low": None}, "lacks low"),
    ],
)
def test_unusable_parquet_is_refused(tmp_path, change, reason):
    columns = {"Date": ["2024-01-01", "2024-01-02"], "Open": [10.0, 11.0], "High": [12.0, 13.0], "Low": [9.0, 10.0]}
    columns |= {"Close": [11.0, 12.0]} | change
    table = pyarrow.table({name: values for name, values in columns.items() if values is not None})
    pyarrow.parquet.write_table(table, tmp_path / "bars.parquet")
    with pytest.raises(UsageError, match=reason):
        load(tmp_path / "bars.parquet")


def test_the_stream_holds_every_number_exactly():
    bars = load("nasdaq")
    stream = bars.to_bytes()
    line, _, rest = stream.partition(b"\n")
    assert json.loads(line) == {"count": 5031, "columns": ["time", *COLUMNS]}
    assert len(rest) == 6 * 8 * 5031
    read = [np.frombuffer(rest, "<i8" if place == 0 else "<f8", 5031, 8 * 5031 * place) for place in range(6)]
    assert all(
        np.array_equal(a, b) for a, b in zip(read, [bars.times, *(getattr(bars, c) for c in COLUMNS)], strict=True)
    )
    assert bars.digest == hashlib.sha256(stream).hexdigest() != load("sp500").digest


def test_digest_changes_with_any_number(file):
    one, other = file(HEADER + GOOD, "a.csv"), file(HEADER + GOOD.replace("200", "201"), "b.csv")
    assert isinstance(load(one), Bars)
    assert load(one).digest == load(str(one)).digest != load(other).digest
