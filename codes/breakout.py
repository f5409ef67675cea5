"""Donchian breakout: buy a new high of `entry` bars, leave at a new low of `exit` bars.

Each channel ends with the bar before, so that a bar can break it. A class, to show the other form of the contract:
its attributes are the parameters.
"""

import numpy as np
import pandas as pd


class Breakout:
    entry = 100
    exit = 50

    def generate_signals(self, df):
        highest = df["high"].rolling(self.entry).max().shift(1)
        lowest = df["low"].rolling(self.exit).min().shift(1)
        decision = np.where(df["close"] > highest, 1.0, np.where(df["close"] < lowest, 0.0, np.nan))
        return pd.Series(decision, index=df.index).ffill()
