"""Volatility targeting: hold as much of the market as brings the account to a chosen volatility, never more than 1.

The position is rounded to steps, so that small changes of the estimate do not cost commission every day.
"""

import numpy as np


def generate_signals(df, target=0.10, length=20, days=252, step=0.1):
    returns = np.log(df["close"]).diff()
    volatility = returns.rolling(length).std() * np.sqrt(days)
    position = (target / volatility).clip(upper=1.0)
    return (position / step).round() * step
