"""Moving-average cross: be long while the fast average of the close lies above the slow one, else flat."""


def generate_signals(df, fast=50, slow=200):
    close = df["close"]
    fast_mean = close.rolling(fast).mean()
    slow_mean = close.rolling(slow).mean()
    position = (fast_mean > slow_mean).astype(float)
    return position.where(slow_mean.notna())  # not yet a position while the slow average fills
