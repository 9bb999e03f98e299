"""Finding a price that does not lie on the shelf: memory, then the shared cache, then REST.

REST is asked at the asset's home first, then at L{tbeast.domain.pricing.TRUST} in order; each has
L{PATIENCE_SECONDS}, and all together have L{DEADLINE_SECONDS}. However many wait for one asset, it is fetched once;
and after a fetch that found nothing, nothing is fetched for L{NOTHING_SECONDS}.

What no feed is asked for is fetched when someone wants it and what is known of it is older than
L{tbeast.domain.board.ON_DEMAND_SECONDS}. If that brings nothing, the older price stands for as long as any may be
given out.

The cache has L{CACHE_PATIENCE_SECONDS}, and nobody waits for what is written to it. What it says of ages is believed
only as far as this node's own clock and limits allow: an observation from the future is a clock that goes wrong.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Final, TypeVar

from attrs import evolve
from twisted.internet import defer
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.codecs import cachedprices
from tbeast.domain import quotes
from tbeast.domain.board import ON_DEMAND_SECONDS, Board
from tbeast.domain.counters import Counters
from tbeast.domain.pricing import Pricer
from tbeast.domain.quotes import Quote
from tbeast.errors import FetchError
from tbeast.interfaces import Now, PriceCache
from tbeast.services.fallback import RestDesk

PATIENCE_SECONDS: Final = 1.5
DEADLINE_SECONDS: Final = 6.0
CACHE_PATIENCE_SECONDS: Final = 0.5
CLOCKS_APART_SECONDS: Final = 2.0
"""How far the clocks of two nodes may differ; a price seen later than this from now is not believed."""
NOTHING_SECONDS: Final = 1.0
MEMORY: Final = "memory"
CACHE: Final = "cache"
REST: Final = "rest"
NOWHERE: Final = "nowhere"

_T = TypeVar("_T")


def givable(quote: Quote | None, now: float) -> bool:
    """Whether C{quote} may be given out at C{now} as a current price."""
    return quote is not None and quote.quality not in (quotes.STALE, quotes.HALTED) and now <= quote.fresh_until


class PriceLookup:
    """Finds prices, in the order of how long it takes."""

    log = Logger()

    def __init__(
        self,
        board: Board,
        pricer: Pricer,
        cache: PriceCache,
        desks: Mapping[str, RestDesk],
        counters: Counters,
        clock: IReactorTime,
        now: Now,
    ) -> None:
        self._board = board
        self._pricer = pricer
        self._cache = cache
        self._desks = desks
        self._counters = counters
        self._clock = clock
        self._now = now
        self._waiting: dict[tuple[str, str], list[Deferred[tuple[Quote | None, str]]]] = {}
        self._nothing_at: dict[tuple[str, str], float] = {}

    async def find(self, asset: str, exchange: str = "") -> tuple[Quote | None, str]:
        """The price of C{asset} (a code of the board), from wherever it is fresh, and where that was.

        @param exchange: by that exchange alone, whose feed is not asked for it; empty: by all.
        @return: the quote, and L{MEMORY}, L{CACHE} or L{REST}; C{None} and L{NOWHERE} if it is fresh nowhere.
        """
        wanted = (asset, exchange)
        quote = self._remembered(wanted)
        if quote is not None and self._suffices(quote, wanted):
            self._counters.count("lookups", MEMORY)
            return quote, MEMORY
        waiting: Deferred[tuple[Quote | None, str]] = Deferred()
        if wanted in self._waiting:
            self._waiting[wanted].append(waiting)
        else:
            self._waiting[wanted] = [waiting]
            ensureDeferred(self._fetch(wanted)).addErrback(self._broken, asset)
        return await waiting

    def last_known(self, asset: str) -> Quote | None:
        """The newest quote of C{asset}, however old; its quality says so."""
        return self._pricer.quote(asset, self._now())

    def _remembered(self, wanted: tuple[str, str]) -> Quote | None:
        now = self._now()
        asset, exchange = wanted
        quote = self._pricer.single(asset, exchange, now) if exchange else self._pricer.quote(asset, now)
        return quote if givable(quote, now) else None

    def _suffices(self, quote: Quote, wanted: tuple[str, str]) -> bool:
        """Whether nobody needs to be asked for a younger one."""
        asset, exchange = wanted
        if not exchange and asset not in self._board.on_demand:
            return True
        return self._now() - quote.observed_at < ON_DEMAND_SECONDS

    async def _fetch(self, wanted: tuple[str, str]) -> None:
        asset, exchange = wanted
        quote, tier = None, NOWHERE
        try:
            quote, tier = await self._search(wanted)
        finally:
            for waiting in self._waiting.pop(wanted):
                self._counters.count("lookups", tier)
                waiting.callback((quote, tier))
        if quote is not None and tier == REST and not exchange:
            stored = self._cache.set(asset, cachedprices.encode(quote), int(self._max_age()))
            await self._in_time(stored, CACHE_PATIENCE_SECONDS)

    async def _search(self, wanted: tuple[str, str]) -> tuple[Quote | None, str]:
        asset, exchange = wanted
        cached = None if exchange else await self._cached(asset)
        if cached is not None and self._suffices(cached, wanted):
            return cached, CACHE
        asked = await self._ask(wanted)
        if asked is not None:
            return asked, REST
        remembered = self._remembered(wanted)
        if remembered is not None and (cached is None or remembered.observed_at > cached.observed_at):
            return remembered, MEMORY
        return (cached, CACHE) if cached is not None else (None, NOWHERE)

    async def _cached(self, asset: str) -> Quote | None:
        """What another node has stored, if it may still be given out by this node's clock and this node's limits."""
        try:
            text = await self._in_time(self._cache.get(asset), CACHE_PATIENCE_SECONDS)
        except Exception:
            self.log.failure("the cache cannot be asked for {asset}", asset=asset)
            return None
        quote = None if text is None else cachedprices.decode(asset, text)
        now = self._now()
        if quote is None or quote.observed_at - now > CLOCKS_APART_SECONDS:
            return None
        observed_at = min(quote.observed_at, now)
        fresh_until = min(quote.fresh_until, observed_at + self._max_age())
        quote = evolve(quote, observed_at=observed_at, fresh_until=fresh_until)
        return quote if givable(quote, now) else None

    def _in_time(self, awaited: Awaitable[_T], seconds: float) -> Deferred[_T]:
        """C{awaited}, broken off after C{seconds} with a L{defer.TimeoutError}."""

        async def wait() -> _T:
            return await awaited

        return ensureDeferred(wait()).addTimeout(seconds, self._clock)

    def _max_age(self) -> float:
        return self._board.limits.max_age_seconds

    async def _ask(self, wanted: tuple[str, str]) -> Quote | None:
        """Ask one exchange after the other, until the board knows a price that may be given out."""
        asset, exchange = wanted
        began = self._now()
        if began - self._nothing_at.get(wanted, float("-inf")) < NOTHING_SECONDS:
            return None
        for source in self._board.sources.get(asset, ()):
            desk = self._desks.get(source.exchange)
            if desk is None or desk.shut() or source.halted or (exchange and source.exchange != exchange):
                continue
            left = DEADLINE_SECONDS - (self._now() - began)
            if left < PATIENCE_SECONDS / 10:
                break
            try:
                await self._in_time(desk.ask([source.symbol]), min(PATIENCE_SECONDS, left))
            except (FetchError, defer.TimeoutError):
                continue
            except Exception:
                self.log.failure("asking {exchange} for {asset} failed", exchange=source.exchange, asset=asset)
                continue
            quote = self._remembered(wanted)
            if quote is not None and self._suffices(quote, wanted):
                self._nothing_at.pop(wanted, None)
                return quote
        self._nothing_at[wanted] = self._now()
        return None

    def _broken(self, failure: Failure, asset: str) -> None:
        self.log.failure("looking up {asset} failed", failure, asset=asset)
