"""Turns the stream of bars that came with a job into a pandas frame. Imports nothing of ours."""

from __future__ import annotations

import json
from typing import Any


def frame(stream: bytes) -> Any:
    """Return a DataFrame with a DatetimeIndex (UTC, without a zone) and Open, High, Low, Close and Volume.

    The frame owns its memory: whoever gets it may write to it. The stream is a line of JSON with the count and the
    names of the columns, then the columns as little-endian 64-bit numbers, the times as integer nanoseconds.
    """
    import numpy as np
    import pandas as pd

    end = stream.index(b"\n")
    header = json.loads(stream[:end])
    count, columns = header["count"], header["columns"]
    offset = end + 1
    read = {}
    for name in columns:
        kind = "<i8" if name == "time" else "<f8"
        read[name] = np.frombuffer(stream, kind, count, offset).copy()
        offset += 8 * count
    index = pd.DatetimeIndex(read.pop("time").view("datetime64[ns]"), name="Date")
    return pd.DataFrame({name.capitalize(): values for name, values in read.items()}, index=index)
