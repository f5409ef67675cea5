"""RSI reversal for backtesting.py, with a stop: buy what fell too far too fast, sell once it has recovered."""

import talib
from backtesting import Strategy


class RsiReversal(Strategy):
    length = 3
    low = 20.0
    high = 65.0
    stop = 0.08

    def init(self):
        self.rsi = self.I(talib.RSI, self.data.Close, self.length)

    def next(self):
        price = self.data.Close[-1]
        if not self.position and self.rsi[-1] < self.low:
            self.buy(sl=price * (1 - self.stop))
        elif self.position and self.rsi[-1] > self.high:
            self.position.close()
