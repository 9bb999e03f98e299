"""A worker's part in its answers: the shared shelf, and the hub for all that does not lie there.

A plain question is answered from the shared shelf at once, and an unknown asset is refused at once. Everything else
(one venue alone, another currency, an age, an asset that must be looked up) waits for the hub, as do the pages that
tell how the feeds, the prices and the whole node are doing. The gate is the worker's own, and so is what is recorded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Final, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Request

from tbeast.codecs.hubwords import LinkError, Page
from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.problems import Problem
from tbeast.domain.assetmap import AssetMap
from tbeast.domain.counters import Counters
from tbeast.domain.quotes import STALE
from tbeast.domain.readyreplies import Shelf
from tbeast.domain.sharedshelf import SharedShelf
from tbeast.interfaces import Now
from tbeast.servers.answers import RETRY_AFTER_SECONDS, SHELF, Answer, Answers, unknown
from tbeast.servers.gate import Gate
from tbeast.servers.lpo import ExplainPage, KeyedPage
from tbeast.servers.site import WebRequest

PATIENCE_SECONDS: Final = 10.0
"""How long the hub is waited for. Its own look-ups end sooner."""

_NO_ANSWER: Final = Problem("no_fresh_price", "The process that holds the prices does not answer.")


class HubAnswers(Protocol):
    """The hub, as far as answers are concerned. Both raise L{LinkError} when it cannot answer."""

    def price(self, query: PriceQuery, asked_at: float) -> Awaitable[tuple[bytes, str, str] | Problem]:
        """The price as JSON, its source and tier; or why there is none."""

    def page(self, name: str, below: bytes) -> Awaitable[Page | Problem]:
        """The page of that name; C{below} is what stands after it in the path."""


class RelayedAnswers(Answers):
    """The answers of a worker."""

    def __init__(
        self,
        *,
        assets: AssetMap,
        shelf: SharedShelf,
        hub: HubAnswers,
        clock: IReactorTime,
        now: Now,
        counters: Counters,
        simulated: bool,
    ) -> None:
        nobody = cast("Any", None)  # neither board nor look-up is here
        super().__init__(
            assets=assets, shelf=cast("Shelf", shelf), lookup=nobody, view=nobody, now=now, counters=counters,
            simulated=simulated,
        )  # fmt: skip
        self._shared = shelf
        self._hub = hub
        self._clock = clock

    def at_once(self, query: PriceQuery, now: float) -> Answer | Problem | None:
        """Answer a plain question from the shared shelf; C{None}: the hub must be asked, see L{after_looking}."""
        if query.is_plain:
            reply = self._shared.find(query.asset, now)
            if reply is not None:
                self._counts["lookups", "shelf"] = self._counts.get(("lookups", "shelf"), 0) + 1
                age = now - reply.observed_at
                text = b"%b%.3f%b" % (reply.head, age if age > 0.0 else 0.0, reply.tail)
                return Answer(text, reply.source, SHELF)
        return None if query.asset in self.assets.assets else unknown(query.asset)

    async def after_looking(self, query: PriceQuery, asked_at: float) -> Answer | Problem:
        """Have the hub answer."""
        try:
            found = await _in_time(self._hub.price(query, asked_at), self._clock)
        except (LinkError, DeferredTimeoutError):
            return _NO_ANSWER
        return found if isinstance(found, Problem) else Answer(*found)

    def explain(self, code: str, now: float) -> bytes | Problem:
        """Not here: the page is the hub's."""
        raise NotImplementedError

    def quality_of(self, code: str, now: float) -> str:
        """Not known here: only the hub tells of it."""
        return STALE


class RelayedPage(KeyedPage):
    """A page that the hub writes.

    @param is_public: whether no key is wanted.
    """

    def __init__(
        self, gate: Gate, now: Now, hub: HubAnswers, clock: IReactorTime, name: str, below: bytes = b"",
        is_public: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(gate, now)
        self._hub = hub
        self._clock = clock
        self._name = name
        self._below = below
        self._is_public = is_public

    def answer(self, request: WebRequest) -> None:
        """Ask for the key, unless the page is for everybody."""
        if self._is_public:
            request.wait_for(self._relay(request))
        else:
            super().answer(request)

    def answer_admitted(self, request: WebRequest, now: float) -> None:
        """Have the hub write it."""
        request.wait_for(self._relay(request))

    async def _relay(self, request: WebRequest) -> None:
        try:
            page = await _in_time(self._hub.page(self._name, self._below), self._clock)
        except (LinkError, DeferredTimeoutError):
            page = _NO_ANSWER
        if isinstance(page, Page):
            request.asset = page.asset
            request.respond(page.status, page.body, page.content_type)
            return
        if page.status == 503:
            request.responseHeaders.setRawHeaders(b"Retry-After", [b"%d" % RETRY_AFTER_SECONDS])
        request.refuse(page)


class RelayedExplainPage(ExplainPage):
    """C{/explain}; what lies below it the hub writes."""

    def __init__(self, gate: Gate, now: Now, answers: Answers, hub: HubAnswers, clock: IReactorTime) -> None:
        super().__init__(gate, now, answers)
        self._relayed = (gate, now, hub, clock)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Whatever stands there is taken as an asset."""
        return RelayedPage(*self._relayed, "explain", path)


def relayed_pages(
    gate: Gate, answers: Answers, hub: HubAnswers, clock: IReactorTime, now: Now
) -> Mapping[bytes, Resource]:
    """The pages that stand in for those of L{tbeast.servers.lpo.lpo_pages} in a worker."""
    return {
        b"exchanges": RelayedPage(gate, now, hub, clock, "exchanges", is_public=True),
        b"explain": RelayedExplainPage(gate, now, answers, hub, clock),
        b"stats": RelayedPage(gate, now, hub, clock, "stats"),
    }


def _in_time(awaited: Awaitable[Any], clock: IReactorTime) -> Deferred[Any]:
    async def wait() -> Any:
        return await awaited

    return Deferred.fromCoroutine(wait()).addTimeout(PATIENCE_SECONDS, clock)
