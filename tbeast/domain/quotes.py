"""The price of an asset, as it is given out: a quote, and what every source contributed to it.

Qualities, from best to worst: L{GOOD}, three or more sources agree and none was set aside; L{DEGRADED}, two sources
are left, or one was set aside, or what votes comes from lost connections; L{SINGLE_SOURCE}; L{STALE}, nothing is
fresh, so the price and its age are the last that was known and no answer may pass it off as current; L{HALTED}, the
same because every source says that its trading stands still.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

GOOD: Final = "good"
DEGRADED: Final = "degraded"
SINGLE_SOURCE: Final = "single_source"
STALE: Final = "stale"
HALTED: Final = "halted"

QUALITIES: Final = (GOOD, DEGRADED, SINGLE_SOURCE, STALE, HALTED)

USED: Final = "used"
SET_ASIDE: Final = "set_aside"  # too far from the others just now
SUSPECT: Final = "suspect"  # frozen while the others move
EXPELLED: Final = "expelled"  # so far off for so long that it must be another coin
NO_RATE: Final = "no_rate"  # quoted in a currency whose dollar rate is not known
LOST: Final = "lost"  # its connection is gone
HALTED_THERE: Final = "halted"  # the exchange says that trading stands still
TOO_OLD: Final = "stale"  # older than the greatest age that may vote
SILENT: Final = "silent"  # nothing heard yet

VERDICTS: Final = (USED, SET_ASIDE, SUSPECT, EXPELLED, NO_RATE, LOST, HALTED_THERE, TOO_OLD, SILENT)
"""Every word that L{SourceView.verdict} can have."""


@frozen
class SourceView:
    """One source's part in a quote, for /explain.

    @ivar exchange: the exchange's name; C{via} is C{ws}, C{rest} or, before anything was heard, empty.
    @ivar symbol: the exchange's own spelling.
    @ivar raw: the value heard, in C{quote_currency} (see L{tbeast.domain.ticks.value_of}); C{None} if none.
    @ivar rate: dollars for one unit of C{quote_currency}: 1 for USD, C{None} when it is not known.
    @ivar value: C{raw} in dollars.
    @ivar age_seconds: how old the value is; C{None} if there is none.
    @ivar late: whether the source has been quiet for longer than its own rhythm explains.
    @ivar verdict: one of L{VERDICTS}; C{why} says more, for people.
    @ivar deviation_bp: how far C{value} lies from the quote, in basis points.
    """

    exchange: str
    symbol: str
    via: str
    home: bool
    quote_currency: str
    raw: float | None
    bid: float | None
    ask: float | None
    rate: float | None
    value: float | None
    age_seconds: float | None
    late: bool
    connected: bool
    verdict: str
    why: str
    deviation_bp: float | None


@frozen
class Quote:
    """One asset's price at one moment.

    @ivar price: in US dollars. In a quote of quality L{STALE} or L{HALTED}: the last one known.
    @ivar bid: median of the best bids of those that voted, in dollars; C{None} where none has a book.
    @ivar ask: likewise.
    @ivar volume: 24 h volume in the base currency, summed over those that voted and tell it.
    @ivar quality: one of L{QUALITIES}.
    @ivar source: C{kraken-ws}, C{okx-rest}, or C{median} where several made the price.
    @ivar used: the exchanges that voted; C{seen}: how many sources had a fresh value to judge.
    @ivar set_aside: the exchanges whose fresh value was judged and did not count.
    @ivar spread_bp: distance between the lowest and the highest vote, in basis points of the price.
    @ivar observed_at: when the value that is the price was heard; of two averaged, the older one.
    @ivar fresh_until: after this moment the quote may not be given out, unless something new was heard.
    """

    asset: str
    price: float
    bid: float | None
    ask: float | None
    volume: float | None
    quality: str
    source: str
    used: tuple[str, ...]
    seen: int
    set_aside: tuple[str, ...]
    spread_bp: float
    observed_at: float
    fresh_until: float
