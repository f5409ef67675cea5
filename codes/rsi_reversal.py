"""RSI reversal: buy what fell too far too fast, sell once it has recovered.

The position is held between the two levels: in at `low`, out at `high`.
"""

import numpy as np
import pandas as pd
import talib


def generate_signals(df, length=3, low=20.0, high=65.0):
    rsi = talib.RSI(df["close"].to_numpy(), timeperiod=length)
    decision = np.where(rsi < low, 1.0, np.where(rsi > high, 0.0, np.nan))
    return pd.Series(decision, index=df.index).ffill()
