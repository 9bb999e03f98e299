"""The price surface over HTTP.

A keyed question passes, in this order: the key (401), the gate (429), the reading of what is asked (400), the answer.
So whoever is not admitted learns nothing, and every question that was admitted has been paid for, whatever its answer.
What the gate said goes out in the headers of every answer that came after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from types import MappingProxyType
from typing import Any, ClassVar, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request

from tbeast.codecs import problems, replies
from tbeast.codecs.pricequeries import PriceQuery, asset_query, batch_body, batch_query, price_query
from tbeast.codecs.problems import Problem
from tbeast.codecs.signatures import key_of_headers
from tbeast.domain.admission import ADMITTED, BAD_KEY, KEYS_UNAVAILABLE, RATE_LIMITED, UNMETERED, Verdict
from tbeast.domain.assetmap import QUOTES, AssetMap
from tbeast.domain.counters import FAMILIES, Counters
from tbeast.domain.feedstatus import FeedStatus
from tbeast.domain.usage import SEVERAL
from tbeast.interfaces import Now
from tbeast.servers.answers import RETRY_AFTER_SECONDS, Answer, Answers, with_nearest
from tbeast.servers.gate import Gate
from tbeast.servers.site import Page, WebRequest, tree

Feeds = Callable[[], Sequence[FeedStatus]]
"""How every exchange's feed is doing."""

SERVICE: Final = "lpo"


class NodeStatistics(Protocol):
    """Knows how this node is doing, in numbers."""

    def own(self) -> Mapping[str, float]:
        """What L{tbeast.domain.clusterstats.STATISTICS} names."""

    def percentiles(self) -> Mapping[str, Mapping[str, int]]:
        """How long the answers of the last minute took, by service."""


_WHY_NOT: Final = {
    KEYS_UNAVAILABLE: "The keys have not been loaded yet: the database is away. Try again, or ask another node.",
    UNMETERED: "Neither the database nor the spool takes what is to be recorded. Try again, or ask another node.",
}


class KeyedPage(Page):
    """A page that answers only to those whom the gate admits."""

    def __init__(self, gate: Gate, now: Now) -> None:
        super().__init__()
        self._gate = gate
        self._now = now

    def answer(self, request: WebRequest) -> None:
        """Find out who asks, and whether they may."""
        headers = request.requestHeaders
        key = key_of_headers(headers.getRawHeaders(b"authorization"), headers.getRawHeaders(b"x-api-key"))
        if isinstance(key, Problem):
            if key.status == 401:
                _challenge(request, key.code)
            request.refuse(key)
            return
        now = self._now()
        verdict = request.verdict
        if verdict is None:
            verdict = request.verdict = self._gate.admit(key, now)
        if verdict.outcome in (KEYS_UNAVAILABLE, UNMETERED):
            request.responseHeaders.setRawHeaders(b"Retry-After", [b"%d" % ceil(verdict.retry_after_seconds)])
            request.refuse(Problem(verdict.outcome, _WHY_NOT[verdict.outcome]))
            return
        if verdict.outcome == BAD_KEY:
            _challenge(request, BAD_KEY)
            request.refuse(Problem(BAD_KEY, "Nobody has this key, or it was taken back."))
            return
        _tell_limits(request, verdict)
        if verdict.outcome != ADMITTED:
            seconds = max(1, ceil(verdict.retry_after_seconds))
            request.responseHeaders.setRawHeaders(b"Retry-After", [b"%d" % seconds])
            what = "The key asks too fast" if verdict.outcome == RATE_LIMITED else "The key has used up this month"
            exact = {"retry_after_seconds": ceil(verdict.retry_after_seconds * 1000.0) / 1000.0}
            request.refuse(Problem(verdict.outcome, f"{what}; come back in {seconds} s.", exact))
            return
        self.answer_admitted(request, now)

    def answer_admitted(self, request: WebRequest, now: float) -> None:
        """Answer a question that was admitted at C{now}."""
        raise NotImplementedError


class PricePage(KeyedPage):
    """C{GET /price}: one price."""

    def __init__(self, gate: Gate, now: Now, answers: Answers) -> None:
        super().__init__(gate, now)
        self._answers = answers

    def answer_admitted(self, request: WebRequest, now: float) -> None:
        """Answer from the shelf, or begin to look up."""
        query = price_query(request.query)
        if isinstance(query, Problem):
            request.refuse(query)
            return
        answer = self._answers.at_once(query, now)
        if answer is None:
            request.wait_for(self._look_up(request, query, now))
        else:
            self._send(request, query, answer)

    async def _look_up(self, request: WebRequest, query: PriceQuery, asked_at: float) -> None:
        self._send(request, query, await self._answers.after_looking(query, asked_at))

    def _send(self, request: WebRequest, query: PriceQuery, answer: Answer | Problem) -> None:
        if query.asset in self._answers.assets.assets:
            request.asset = query.asset
        if isinstance(answer, Answer):
            request.source, request.tier = answer.source, answer.tier
            request.respond(200, answer.body, replies.CONTENT_TYPE)
            return
        if answer.status == 503:
            request.responseHeaders.setRawHeaders(b"Retry-After", [b"%d" % RETRY_AFTER_SECONDS])
        elif answer.code == "unknown_asset":
            answer = with_nearest(answer, query.asset, self._answers.assets.assets)
        request.refuse(answer)


class PricesPage(KeyedPage):
    """C{GET} and C{POST /prices}: a batch, which is one question."""

    methods: ClassVar[tuple[bytes, ...]] = (b"GET", b"HEAD", b"POST")
    _log = Logger()

    def __init__(self, gate: Gate, now: Now, answers: Answers, node: str) -> None:
        super().__init__(gate, now)
        self._answers = answers
        self._node = node

    def answer_admitted(self, request: WebRequest, now: float) -> None:
        """Answer what is at hand, and begin to look up the rest."""
        asked = batch_body(request.content.read()) if request.method == b"POST" else batch_query(request.query)
        if isinstance(asked, Problem):
            request.refuse(asked)
            return
        request.asset = SEVERAL
        entries = [self._entry(query, now) for query in asked]
        if all(isinstance(entry, bytes) for entry in entries):
            self._send(request, [entry for entry in entries if isinstance(entry, bytes)])
        else:
            request.wait_for(self._gather(request, entries))

    def _entry(self, query: PriceQuery | str, now: float) -> bytes | Deferred[bytes]:
        if isinstance(query, str):
            return problems.render_entry(query, Problem("malformed_asset", ""))
        answer = self._answers.at_once(query, now)
        if answer is None:
            # all of them begin now, and are waited for together
            return Deferred.fromCoroutine(self._look_up(query, now))
        return answer.body if isinstance(answer, Answer) else problems.render_entry(query.asset, answer)

    async def _look_up(self, query: PriceQuery, asked_at: float) -> bytes:
        try:
            answer = await self._answers.after_looking(query, asked_at)
        except Exception:
            self._log.failure("The look-up of {asset} failed", asset=query.asset)
            answer = Problem("internal_error", "")
        return answer.body if isinstance(answer, Answer) else problems.render_entry(query.asset, answer)

    async def _gather(self, request: WebRequest, entries: Sequence[bytes | Deferred[bytes]]) -> None:
        self._send(request, [entry if isinstance(entry, bytes) else await entry for entry in entries])

    def _send(self, request: WebRequest, entries: list[bytes]) -> None:
        request.respond(200, replies.batch(self._node, entries, self._answers.simulated), replies.CONTENT_TYPE)


class ExplainPage(Page):
    """C{/explain}, which is nothing by itself; below it is C{/explain/<ASSET>}."""

    def __init__(self, gate: Gate, now: Now, answers: Answers) -> None:
        super().__init__()
        self._parts = (gate, now, answers)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Whatever stands there is taken as an asset."""
        return _ExplainAssetPage(*self._parts, path)

    def answer(self, request: WebRequest) -> None:
        """Say how to ask."""
        request.refuse(Problem("not_found", "Name an asset: /explain/BTC."))


class _ExplainAssetPage(KeyedPage):
    def __init__(self, gate: Gate, now: Now, answers: Answers, asset: bytes) -> None:
        super().__init__(gate, now)
        self._answers = answers
        self._asset = asset

    def answer_admitted(self, request: WebRequest, now: float) -> None:
        asked = asset_query(self._asset.decode("utf-8", "replace"))
        if isinstance(asked, Problem):
            request.refuse(asked)
            return
        if asked.currency != "USD":
            request.refuse(Problem("unsupported_quote", "Prices are explained in USD."))
            return
        answer = self._answers.explain(asked.asset, now)
        if isinstance(answer, bytes):
            request.asset = asked.asset
            request.respond(200, answer, replies.CONTENT_TYPE)
        else:
            request.refuse(answer)


class ExchangesPage(Page):
    """C{GET /exchanges}: public."""

    def __init__(self, answers: Answers, feeds: Feeds) -> None:
        super().__init__()
        self._answers = answers
        self._feeds = feeds

    def answer(self, request: WebRequest) -> None:
        """Name every exchange, and how its feed is doing."""
        states = {status.exchange: status.state for status in self._feeds()}
        assets = self._answers.assets.assets.values()
        listed = [
            {
                "exchange": exchange,
                "quote": quote,
                "home_assets": sum(asset.home == exchange for asset in assets),
                "assets": sum(exchange in asset.symbols for asset in assets),
                "state": states.get(exchange, "down"),
            }
            for exchange, quote in QUOTES.items()
        ]
        body = problems.encode({"count": len(listed), "exchanges": listed})
        request.respond(200, body, replies.CONTENT_TYPE)


class CategoriesPage(Page):
    """C{GET /asset-categories}: public. Written once for each asset map."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers
        self._written: tuple[AssetMap, bytes] | None = None

    def answer(self, request: WebRequest) -> None:
        """Name every asset by its category."""
        assets = self._answers.assets
        if self._written is None or self._written[0] is not assets:
            self._written = (assets, _categories(assets))
        request.respond(200, self._written[1], replies.CONTENT_TYPE)


def _categories(assets: AssetMap) -> bytes:
    categories = [
        {
            "category": category,
            "count": len(codes),
            "assets": [
                {"asset": code, "name": assets.assets[code].name, "home": assets.assets[code].home} for code in codes
            ],
        }
        for category, codes in assets.categories().items()
    ]
    return problems.encode({"count": len(categories), "categories": categories})


class StatsPage(KeyedPage):
    """C{GET /stats}: this node's statistics and counters."""

    def __init__(
        self, gate: Gate, now: Now, answers: Answers, counters: Counters, feeds: Feeds, node: str,
        about: Mapping[str, str], statistics: NodeStatistics | None = None,
    ) -> None:  # fmt: skip
        super().__init__(gate, now)
        self._answers = answers
        self._counters = counters
        self._feeds = feeds
        self._node = node
        self._about = about
        self._statistics = statistics
        self._started_at = now()

    def answer_admitted(self, request: WebRequest, now: float) -> None:
        """Give every counter under its family, with its labels."""
        qualities: dict[str, int] = {}
        for code in self._answers.assets.assets:
            quality = self._answers.quality_of(code, now)
            qualities[quality] = qualities.get(quality, 0) + 1
        stats: dict[str, Any] = {
            "node": self._node,
            "timestamp": replies.timestamp(now),
            "uptime_seconds": round(max(now - self._started_at, 0.0), 3),
            **self._about,
            "assets": qualities,
            "feeds": {status.exchange: status.state for status in self._feeds()},
            **self._measured(),
            "counters": {
                family: [{**dict(zip(labels, values, strict=True)), "count": number} for values, number in found]
                for family, (_, labels) in FAMILIES.items()
                if (found := list(self._counters.family(family)))
            },
        }
        if self._answers.simulated:
            stats["simulated"] = True
        request.respond(200, problems.encode(stats), replies.CONTENT_TYPE)

    def _measured(self) -> Mapping[str, Any]:
        found = self._statistics
        return {} if found is None else {"statistics": found.own(), "response_times": found.percentiles()}


def lpo_pages(
    *,
    gate: Gate,
    answers: Answers,
    counters: Counters,
    feeds: Feeds,
    now: Now,
    node: str,
    about: Mapping[str, str] = MappingProxyType({}),
    statistics: NodeStatistics | None = None,
) -> Mapping[bytes, Resource]:
    """Make every page of the price surface, by the name it stands under.

    @param about: what /stats says of the process beside its counters.
    @param statistics: what it says of the node in numbers, if anything.
    """
    return {
        b"price": PricePage(gate, now, answers),
        b"prices": PricesPage(gate, now, answers, node),
        b"exchanges": ExchangesPage(answers, feeds),
        b"asset-categories": CategoriesPage(answers),
        b"explain": ExplainPage(gate, now, answers),
        b"stats": StatsPage(gate, now, answers, counters, feeds, node, about, statistics),
    }


def lpo_tree(**parts: Any) -> Resource:
    """Make the whole surface; takes what L{lpo_pages} takes."""
    return tree(lpo_pages(**parts))


def _challenge(request: WebRequest, code: str) -> None:
    said = b'Bearer realm="tbeast", error="invalid_token"' if code == BAD_KEY else b'Bearer realm="tbeast"'
    request.responseHeaders.setRawHeaders(b"WWW-Authenticate", [said])


def _tell_limits(request: WebRequest, verdict: Verdict) -> None:
    headers = request.responseHeaders
    headers.setRawHeaders(b"RateLimit-Limit", [b"%d" % verdict.limit])
    headers.setRawHeaders(b"RateLimit-Remaining", [b"%d" % verdict.remaining])
    headers.setRawHeaders(b"RateLimit-Reset", [b"%d" % verdict.reset_seconds])
