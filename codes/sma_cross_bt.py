"""Moving-average cross for backtesting.py: long after the fast average crosses above the slow one, flat after."""

import talib
from backtesting import Strategy
from backtesting.lib import crossover


class SmaCross(Strategy):
    fast = 50
    slow = 200

    def init(self):
        self.fast_mean = self.I(talib.SMA, self.data.Close, self.fast)
        self.slow_mean = self.I(talib.SMA, self.data.Close, self.slow)

    def next(self):
        if crossover(self.fast_mean, self.slow_mean):
            self.buy()
        elif crossover(self.slow_mean, self.fast_mean):
            self.position.close()
