"""From a question to the bytes of its answer, or to why there is none: the same for HTTP and UDP.

First the shelf, then what the board can say of one venue or in another currency, all at once and without waiting. Only
an asset with nothing on the shelf may wait, for the look-up. Whatever comes back from there is judged again by
C{fresh_until}: an old price is refused with its age, and never given as an answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Final, NamedTuple, Protocol

from tbeast.codecs import replies
from tbeast.codecs.pricequeries import PriceQuery, nearest
from tbeast.codecs.problems import Problem
from tbeast.domain.assetmap import Asset, AssetMap
from tbeast.domain.counters import Counters
from tbeast.domain.quotes import HALTED, STALE, Quote, SourceView
from tbeast.domain.readyreplies import Shelf, body
from tbeast.interfaces import Now

RETRY_AFTER_SECONDS: Final = 5
"""When to come back for a price that is not there: what a look-up and a feed's reconnection take."""


SHELF: Final = "shelf"
MEMORY: Final = "memory"


class Answer(NamedTuple):
    """A price as it goes out. A NamedTuple because one is made for each question.

    @ivar body: its JSON.
    @ivar source: who gave the price, for the ledger.
    @ivar tier: where it was found: L{SHELF}, L{MEMORY}, C{cache} or C{rest}.
    """

    body: bytes
    source: str
    tier: str


class PriceLookup(Protocol):
    """Finds what is not on the shelf."""

    def find(self, asset: str, exchange: str = "") -> Awaitable[tuple[Quote | None, str]]:
        """The freshest price in memory, cache or REST, and where it was found; C{None} if nothing is fresh anywhere.

        Ends within a few seconds, whatever the network does, and is shared by all who wait for the same.

        @param exchange: by that exchange alone, which must be one that no feed is asked at; empty: by all.
        """

    def last_known(self, asset: str) -> Quote | None:
        """The last price known, with quality C{stale} or C{halted}; C{None} if there never was one."""


class BoardView(Protocol):
    """What the board can say beside the price of all sources."""

    def explain(self, asset: str, now: float) -> tuple[Quote | None, list[SourceView]]:
        """The price, and what each source contributed to it."""

    def single(self, asset: str, exchange: str, now: float) -> Quote | None:
        """That venue's price alone, in dollars; C{None} if it is not fresh."""

    def rate(self, currency: str, now: float) -> float | None:
        """Dollars for one unit of USDT or USDC; C{None} if not known."""


class Answers:
    """Answers questions about prices.

    @ivar assets: which there are; see L{adopt}.
    @ivar shelf: the ready replies.
    @ivar view: what the board can say.
    @ivar simulated: whether prices come from the lab, which every answer must say.
    """

    def __init__(
        self,
        *,
        assets: AssetMap,
        shelf: Shelf,
        lookup: PriceLookup,
        view: BoardView,
        now: Now,
        counters: Counters,
        simulated: bool,
    ) -> None:
        self.assets = assets
        self.shelf = shelf
        self.view = view
        self.simulated = simulated
        self._lookup = lookup
        self._now = now
        self._counts = counters.counts

    def adopt(self, assets: AssetMap) -> None:
        """Know these assets from now on, and no others."""
        self.assets = assets

    def at_once(self, query: PriceQuery, now: float) -> Answer | Problem | None:
        """Answer without waiting; C{None}: it must be looked up, see L{after_looking}."""
        if not query.exchange:
            reply = self.shelf.find(query.asset, now)
            if reply is not None:
                self._counts["lookups", "shelf"] = self._counts.get(("lookups", "shelf"), 0) + 1
                if query.is_plain:
                    return Answer(body(reply, now), reply.source, SHELF)
                return self._answer(query, reply.quote, now, now, SHELF)
        asset = self.assets.assets.get(query.asset)
        if asset is None:
            return unknown(query.asset)
        return self._of_one_venue(query, asset, now) if query.exchange else None

    async def after_looking(self, query: PriceQuery, asked_at: float) -> Answer | Problem:
        """Answer what L{at_once} could not."""
        quote, tier = await self._lookup.find(query.asset, query.exchange)
        now = self._now()
        asset = self.assets.assets.get(query.asset)
        if asset is None:  # no longer
            return unknown(query.asset)
        if query.exchange and query.exchange not in asset.symbols:
            return _not_listed(query, asset)
        if quote is None or now > quote.fresh_until or quote.quality in (STALE, HALTED):
            return _silent(query) if query.exchange else self._nothing_fresh(query.asset, now)
        return self._answer(query, quote, asked_at, now, tier)

    def explain(self, code: str, now: float) -> bytes | Problem:
        """Say how the price of C{code} (upper case) comes about."""
        asset = self.assets.assets.get(code)
        if asset is None:
            return with_nearest(unknown(code), code, self.assets.assets)
        quote, sources = self.view.explain(code, now)
        about = {"asset": code, "name": asset.name, "category": asset.category, "home": asset.home}
        return replies.explanation(about, quote, sources, now, self.simulated)

    def quality_of(self, code: str, now: float) -> str:
        """The quality of what would be answered now, without a look-up."""
        reply = self.shelf.find(code, now)
        if reply is not None:
            return reply.quote.quality
        last = self._lookup.last_known(code)
        return HALTED if last is not None and last.quality == HALTED else STALE

    def _answer(self, query: PriceQuery, quote: Quote, asked_at: float, now: float, tier: str) -> Answer | Problem:
        age_ms = (now - quote.observed_at) * 1000.0
        if query.max_age_ms is not None and age_ms > query.max_age_ms:
            detail = (
                f"The newest price of {query.asset} is {age_ms:.0f} ms old, more than the {query.max_age_ms} asked."
            )
            return Problem("no_fresh_price", detail, _last(quote, now))
        if query.currency != "USD":
            rate = self.view.rate(query.currency, now)
            if rate is None or not rate > 0.0:
                return Problem("no_fresh_price", f"There is no fresh dollar rate of {query.currency}.")
            quote = replies.converted(quote, rate)
        # fetched for this very question, or known before
        fetched = quote.source.endswith("-rest") and quote.observed_at >= asked_at
        text = replies.answer(
            quote, now, cached=not fetched, waited_seconds=now - asked_at, currency=query.currency,
            simulated=self.simulated,
        )  # fmt: skip
        return Answer(text, quote.source, tier)

    def _of_one_venue(self, query: PriceQuery, asset: Asset, now: float) -> Answer | Problem | None:
        if query.exchange not in asset.symbols:
            return _not_listed(query, asset)
        if query.exchange in asset.unsubscribed:
            return None  # nobody has asked it unless somebody wanted to know
        quote = self.view.single(asset.code, query.exchange, now)
        if quote is None or now > quote.fresh_until:
            return _silent(query)
        return self._answer(query, quote, now, now, MEMORY)

    def _nothing_fresh(self, asset: str, now: float) -> Problem:
        last = self._lookup.last_known(asset)
        if last is None:
            return Problem("no_fresh_price", f"No source has given a price of {asset} yet.", {"quality": STALE})
        quality = last.quality if last.quality in (STALE, HALTED) else STALE
        why = "trading stands still at every source" if quality == HALTED else "no source has a fresh price"
        return Problem("no_fresh_price", f"{asset}: {why}.", {"quality": quality, **_last(last, now)})


def unknown(asset: str) -> Problem:
    """The refusal for an asset that is in no table."""
    return Problem("unknown_asset", f"{asset} is not among the assets.")


def with_nearest(problem: Problem, asset: str, assets: Mapping[str, Asset]) -> Problem:
    """Add what may have been meant to an L{unknown}."""
    meant = nearest(asset, assets)
    listed = ", ".join(f"{code} ({assets[code].name})" for code in meant)
    detail = f"{problem.detail} Near to it: {listed}." if meant else problem.detail
    return Problem(problem.code, detail, {"nearest": meant})


def _not_listed(query: PriceQuery, asset: Asset) -> Problem:
    listed = list(asset.symbols)
    detail = f"{asset.code} is not compared on {query.exchange}, but on {', '.join(listed)}."
    return Problem("not_listed", detail, {"listed_on": listed})


def _silent(query: PriceQuery) -> Problem:
    return Problem("no_fresh_price", f"{query.exchange} has no fresh price of {query.asset}.")


def _last(quote: Quote, now: float) -> dict[str, object]:
    return {"last_price": quote.price, "last_price_age_seconds": round(max(now - quote.observed_at, 0.0), 3)}
