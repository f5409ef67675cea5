"""Bollinger reversion: buy below the lower band, leave at the middle; short above the upper band on request.

Both sides are states that last until the middle is crossed, so each is filled forward on its own.
"""

import numpy as np
import pandas as pd


def generate_signals(df, length=20, width=2.0, both_sides=False):
    close = df["close"]
    middle = close.rolling(length).mean()
    spread = width * close.rolling(length).std()

    entry = np.where(close < middle - spread, 1.0, np.where(close >= middle, 0.0, np.nan))
    position = pd.Series(entry, index=df.index).ffill()
    if both_sides:
        entry = np.where(close > middle + spread, -1.0, np.where(close <= middle, 0.0, np.nan))
        position = position + pd.Series(entry, index=df.index).ffill()
    return position.where(middle.notna()).ffill()
