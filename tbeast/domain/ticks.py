"""What one exchange says of one symbol at one moment, and what is not worth the name.

The rule: a tick has a price above zero. Where bid and ask are given they are above zero too,
and they may cross by a hair (an exchange's last trade and its book are not one snapshot) but not
by more than L{CROSSED_BEYOND_SENSE}. No coin is worth less than L{SMALLEST} or more than L{GREATEST}: such
numbers are as good as zero and infinity, and the sums and quotients of what lies between stay finite.
Everything else is no tick, and has a reason for the counters.

The I{value} of a tick, which is what votes, is the median of bid, last and ask: the last trade while
it lies inside the book, and the nearer edge of the book when the last trade is older than the book.
"""

from __future__ import annotations

from math import nan
from typing import Final, NamedTuple

CROSSED_BEYOND_SENSE: Final = 0.005
"""How far, as a fraction of the ask, a bid may stand above the ask."""

SMALLEST: Final = 1e-18
GREATEST: Final = 1e18

UNKNOWN: Final = nan
"""Stands for a bid, an ask, a volume or a time that the message does not carry."""

NO_PRICE: Final = "no_price"
NO_QUOTE: Final = "no_quote"
NOT_POSITIVE: Final = "not_positive"
NOT_FINITE: Final = "not_finite"
CROSSED: Final = "crossed"

TICK_FAULTS: Final = (NO_PRICE, NO_QUOTE, NOT_POSITIVE, NOT_FINITE, CROSSED)
"""Every reason that L{fault_in} gives."""


class Tick(NamedTuple):
    """One exchange's newest word on one symbol. A NamedTuple because tens of thousands are made a second.

    @ivar exchange: the exchange's name in lower case, C{kraken}.
    @ivar symbol: the exchange's own spelling, C{BTC/USD}.
    @ivar price: the last trade, in the symbol's quote currency; where the exchange gives none, mid.
    @ivar bid: best bid, or L{UNKNOWN} (NaN) from a source that has no book.
    @ivar ask: best ask, or L{UNKNOWN}.
    @ivar volume: volume of the last 24 h in the base currency, or L{UNKNOWN}.
    @ivar exchange_time: the exchange's own time, in seconds since the epoch, or L{UNKNOWN}.
    @ivar heard_at: when it reached us, in seconds since the epoch.
    """

    exchange: str
    symbol: str
    price: float
    bid: float
    ask: float
    volume: float
    exchange_time: float
    heard_at: float


def fault_in(price: float, bid: float, ask: float) -> str | None:
    """Say why these are no tick, or C{None} if they are one.

    NaN for both bid and ask means that the source has no book; NaN for one of them is L{NO_QUOTE}.
    """
    if not price >= SMALLEST:
        return NO_PRICE if price != price else NOT_POSITIVE
    if bid <= ask and bid >= SMALLEST and price <= GREATEST and ask <= GREATEST:
        return None
    if price > GREATEST or bid > GREATEST or ask > GREATEST:
        return NOT_FINITE
    if bid != bid or ask != ask:
        return None if bid != bid and ask != ask else NO_QUOTE
    if not (bid >= SMALLEST and ask >= SMALLEST):
        return NOT_POSITIVE
    return CROSSED if bid > ask * (1.0 + CROSSED_BEYOND_SENSE) else None


def value_of(price: float, bid: float, ask: float) -> float:
    """Give the median of bid, last and ask; the last where there is no book."""
    if bid != bid or ask != ask:
        return price
    low, high = (bid, ask) if bid <= ask else (ask, bid)
    if price < low:
        return low
    return high if price > high else price
