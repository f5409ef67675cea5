"""MACD: be long while the MACD line lies above its signal line and the market is in an uptrend.

The trend filter keeps it out of the many short crosses of a falling market.
"""

import pandas as pd
import talib


def generate_signals(df, fast=12, slow=26, signal=9, trend=200):
    close = df["close"]
    line, signal_line, _ = talib.MACD(close.to_numpy(), fast, slow, signal)
    is_rising = pd.Series(line > signal_line, index=df.index)
    is_uptrend = close > close.rolling(trend).mean()
    return (is_rising & is_uptrend).astype(float)
