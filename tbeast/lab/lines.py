"""One symbol at one exchange: its own bid, ask, last trade and day, a little off the common truth.

The rule: the exchange's fair price is the market's mid times (1 + noise), the noise wandering within about one basis
point; bid and ask stand around it by a half spread that grows as turnover falls; the last trade lies on one of
the two, and stays where it was while only the book moves. Every number is rounded to the symbol's own decimals.
"""

from __future__ import annotations

from math import floor, log10
from random import Random
from typing import NamedTuple

from attrs import define, field

_NOISE_KEEPS = 0.9  # of the noise, from one quote to the next
_NOISE_NEWS = 0.3e-4  # added each time: the standard deviation settles at 0.7 bp
_STABLE_NOISE = 0.25  # a stablecoin pair's share of that


def decimals_for(price: float, significant: int) -> int:
    """How many decimals give a price of this magnitude so many significant digits; at least one decimal."""
    return max(1, significant - 1 - floor(log10(price)))


def half_spread_for(rank: int) -> float:
    """The half spread, as a fraction of the price, of the asset with this rank by turnover."""
    return min(1.6e-4, 0.12e-4 * (1.0 + rank / 6.0))


class Quote(NamedTuple):
    """The three numbers that make a price, before an exchange writes them in its own manner."""

    last: float
    bid: float
    ask: float


_NOTHING = Quote(0.0, 0.0, 0.0)


@define(eq=False)
class Line:
    """The state of one symbol at one exchange.

    @ivar symbol: the exchange's spelling.
    @ivar asset: the asset code.
    @ivar decimals: of its prices.
    @ivar half_spread: as a fraction.
    @ivar factor: what the market's price is multiplied with: 1, but for the decoys of the REST lists.
    @ivar quote: newest bid, ask and last.
    @ivar bid_size, ask_size, last_size: in the base currency.
    @ivar volume: of the last 24 h, in the base currency.
    @ivar open, high, low: of the last 24 h.
    @ivar trades: how many trades there were in all; a trade's number.
    @ivar traded: whether the newest change was a trade, not the book alone.
    @ivar ready_at: no frame about it before that; how an exchange keeps its rhythm.
    @ivar wanted: how many connections are subscribed to it.
    """

    symbol: str
    asset: str
    decimals: int
    half_spread: float
    volume: float
    factor: float = 1.0
    stable: bool = False
    quote: Quote = _NOTHING
    bid_size: float = 0.0
    ask_size: float = 0.0
    last_size: float = 0.0
    open: float = 0.0
    high: float = 0.0
    low: float = 0.0
    trades: int = 0
    traded: bool = False
    ready_at: float = 0.0
    wanted: int = 0
    update: int = 0
    format: str = field(init=False)
    _noise: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.format = f"%.{self.decimals}f"

    @property
    def tick(self) -> float:
        """The smallest step of its price."""
        return 10.0**-self.decimals

    @property
    def quote_volume(self) -> float:
        """The day's volume in the quote currency, near enough."""
        return self.volume * (self.open + self.quote.last) / 2.0

    @property
    def change(self) -> float:
        """The last price's change over the day, as a fraction."""
        return self.quote.last / self.open - 1.0

    def requote(self, market_price: float, random: Random, traded: bool) -> None:
        """Take the market's price (in this symbol's quote currency) and make new bid, ask and perhaps last of it."""
        roll = random.random
        news = random.gauss(0.0, _NOISE_NEWS) * (_STABLE_NOISE if self.stable else 1.0)
        self._noise = self._noise * _NOISE_KEEPS + news
        fair = market_price * self.factor * (1.0 + self._noise)
        half = fair * self.half_spread * (0.7 + 0.6 * roll())
        bid, ask = round(fair - half, self.decimals), round(fair + half, self.decimals)
        if ask <= bid:
            ask = round(bid + self.tick, self.decimals)
        scale = self.volume / 20000.0
        self.bid_size, self.ask_size = scale * (0.05 + roll()), scale * (0.05 + roll())
        last = self.quote.last
        first = not self.update
        self.update += 1
        if first:
            self.trades = random.randrange(10**6, 10**8)
            away = random.gauss(0.0, 0.008) * (0.02 if self.stable else 1.0)
            self.open = round(fair * (1.0 + away), self.decimals)
            self.high = self.low = self.open
        self.traded = traded or first
        if self.traded:
            last = bid if roll() < 0.5 else ask
            self.last_size = scale * 0.3 * (0.01 + roll())
            self.trades += 1
            # the day's window gains this trade and loses one of a day ago
            self.volume += self.last_size - scale * 0.153 * (0.9 + 0.2 * roll())
            self.high, self.low = max(self.high, last), min(self.low, last)
        self.quote = Quote(last, bid, ask)
