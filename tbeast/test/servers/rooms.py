"""The parts of a price surface, put together in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from http.client import HTTPMessage, HTTPResponse
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from tbeast.codecs import replies
from tbeast.domain.assetmap import Asset, AssetMap, parse
from tbeast.domain.counters import Counters
from tbeast.domain.feedstatus import DOWN, LIVE, FeedStatus
from tbeast.domain.keys import account_of
from tbeast.domain.quotes import GOOD, STALE, USED, Quote, SourceView
from tbeast.domain.readyreplies import ReadyReply, Shelf
from tbeast.domain.usage import Ledger
from tbeast.servers.answers import Answers
from tbeast.servers.gate import Gate
from tbeast.servers.lpo import lpo_tree
from tbeast.servers.site import WebSite
from tbeast.test.domain.boards import changed

NOON = 1_776_003_781.123456  # 2026-04-12T14:23:01.123456Z
PARTNER = "partner-key-1"
FREE = "tb_freefreefr_abcdefghijklmnopqrstuvwxyz234567"

ASSETS = """asset,name,category,home,coinbase,gemini,kraken,gateio,cryptocom,okx
BTC,Bitcoin,Major Currencies,coinbase,BTC-USD,btcusd,BTC/USD,BTC_USDT,BTC_USD,BTC-USDT
ETH,Ethereum,Major Currencies,coinbase,ETH-USD,ethusd,ETH/USD,ETH_USDT,ETH_USD,ETH-USDT
DOGE,Dogecoin,Meme Coins,gemini,,dogeusd,,,,
SOL,Solana,Layer 2,kraken,,,SOL/USD,,,
"""
STABLECOINS = "asset,coinbase,gemini,kraken,gateio,cryptocom,okx\nUSDT,USDT-USD,,,,,\n"


def quote_of(asset: str = "BTC", price: float = 83421.57, **changes: Any) -> Quote:
    made: dict[str, Any] = {
        "asset": asset, "price": price, "bid": 83421.1, "ask": 83422.0, "volume": 12.5, "quality": GOOD,
        "source": "median", "used": ("coinbase", "kraken", "okx"), "seen": 4, "set_aside": ("gemini",),
        "spread_bp": 1.8, "observed_at": NOON, "fresh_until": NOON + 60.0,
    }  # fmt: skip
    return Quote(**{**made, **changes})


def view_of(exchange: str, **changes: Any) -> SourceView:
    made: dict[str, Any] = {
        "exchange": exchange, "symbol": "BTC-USD", "via": "ws", "home": False, "quote_currency": "USD",
        "raw": 83421.57, "bid": 83421.1, "ask": 83422.0, "rate": 1.0, "value": 83421.57, "age_seconds": 0.25,
        "late": False, "connected": True, "verdict": USED, "why": "", "deviation_bp": 0.0,
    }  # fmt: skip
    return SourceView(**{**made, **changes})


def feed_of(exchange: str, state: str = LIVE) -> FeedStatus:
    heard = None if state == DOWN else 0.2
    return FeedStatus(exchange, state, int(state == LIVE), 25, 24, ("X-USD",), (), 0.0, heard, "")


class Lookup:
    """A look-up whose outcomes are laid out beforehand: a quote, nothing, an exception, or a Deferred of these."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Quote | Exception | Deferred[Quote | None] | None] = {}
        self.last: dict[str, Quote] = {}
        self.asked: list[str] = []

    def later(self, asset: str) -> Deferred[Quote | None]:
        """Let the look-up of C{asset} wait; give what it waits for."""
        waiting: Deferred[Quote | None] = Deferred()
        self.outcomes[asset] = waiting
        return waiting

    async def find(self, asset: str, exchange: str = "") -> tuple[Quote | None, str]:
        wanted = f"{asset} on {exchange}" if exchange else asset
        self.asked.append(wanted)
        outcome = self.outcomes.get(wanted)
        if isinstance(outcome, Deferred):
            outcome = await outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome, "nowhere" if outcome is None else "rest"

    def last_known(self, asset: str) -> Quote | None:
        return self.last.get(asset)


class View:
    """A board that says what the test told it."""

    def __init__(self) -> None:
        self.singles: dict[tuple[str, str], Quote] = {}
        self.rates: dict[str, float] = {}
        self.explained: dict[str, tuple[Quote | None, list[SourceView]]] = {}

    def explain(self, asset: str, now: float) -> tuple[Quote | None, list[SourceView]]:
        return self.explained.get(asset, (None, []))

    def single(self, asset: str, exchange: str, now: float) -> Quote | None:
        return self.singles.get((asset, exchange))

    def rate(self, currency: str, now: float) -> float | None:
        return self.rates.get(currency)


class Ring:
    """A keyring of two: a partner and a free one."""

    is_complete = True

    def __init__(self) -> None:
        self.accounts = [account_of(PARTNER, "partner", "p"), account_of(FREE, "free", "f")]

    def find(self, key: bytes) -> Any:
        return {PARTNER.encode(): self.accounts[0], FREE.encode(): self.accounts[1]}.get(key)

    def find_by_id(self, key_id: str) -> Any:
        return {account.key_id: account for account in self.accounts}.get(key_id)


class House:
    """Everything that servers are handed, with BTC on the shelf.

    @ivar time: what C{now} says; move it with L{pass_time}.
    """

    def __init__(self, simulated: bool = False) -> None:
        self.time = NOON + 0.412
        self.clock = Clock()
        self.ids = 0
        self.counters = Counters()
        self.shelf = Shelf()
        self.lookup = Lookup()
        self.view = View()
        self.assets: AssetMap = parse(ASSETS, STABLECOINS)
        self.gate = Gate(Ring())
        self.ledger = Ledger()
        self.feeds: list[FeedStatus] = [feed_of("coinbase"), feed_of("kraken", DOWN)]
        self.answers = Answers(
            assets=self.assets, shelf=self.shelf, lookup=self.lookup, view=self.view, now=self.now,
            counters=self.counters, simulated=simulated,
        )  # fmt: skip
        self.put(quote_of())

    def now(self) -> float:
        return self.time

    def new_id(self) -> str:
        self.ids += 1
        return f"id-{self.ids}"

    def adopt(self, *gone: str, **others: Asset) -> None:
        """Have other assets than before, and nothing on the shelf of those that went."""
        self.assets = changed(self.assets, *gone, **others)
        self.answers.adopt(self.assets)
        for code in gone:
            self.shelf.take_down(code)

    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        self.clock.advance(seconds)

    def put(self, quote: Quote) -> None:
        head, tail = replies.render(quote, self.answers.simulated)
        reply = ReadyReply(head, tail, quote.observed_at, quote.fresh_until, quote.source, quote)
        self.shelf.put(quote.asset, reply)

    def lpo(self) -> Resource:
        return lpo_tree(
            gate=self.gate, answers=self.answers, counters=self.counters, feeds=lambda: self.feeds, now=self.now,
            node="node-1",
        )  # fmt: skip

    def site(self, root: Resource) -> WebSite:
        return WebSite(
            root, reactor=self.clock, now=self.now, new_id=self.new_id, counters=self.counters, service="lpo",
            ledger=self.ledger,
        )  # fmt: skip


def stale_quote(asset: str = "ETH", **changes: Any) -> Quote:
    return quote_of(
        asset, 1800.5, **{"quality": STALE, "observed_at": NOON - 90.0, "fresh_until": NOON - 30, **changes}
    )


@frozen
class Response:
    """One answer as a client reads it."""

    status: int
    headers: HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection to a site, in memory. As with a socket, the loss of it is told after whatever caused it.

    @ivar transport: what the server writes to.
    """

    def __init__(self, site: WebSite) -> None:
        address = IPv4Address("TCP", "192.0.2.7", 5000)
        self.transport = StringTransport(peerAddress=address)
        self.channel: Any = site.buildProtocol(address)
        self.channel.makeConnection(self.transport)
        self._is_told = False

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed it; told of the loss if it has."""
        if self.transport.disconnecting and not self._is_told:
            self.lose(ConnectionDone())
        return not self._is_told

    def send(self, data: bytes) -> bytes:
        """Send bytes; give what comes back at once."""
        assert self.is_open
        self.transport.clear()
        self.channel.dataReceived(data)
        sent: bytes = self.transport.value()
        return sent

    def lose(self, reason: Exception) -> None:
        """The client goes away."""
        self._is_told = True
        self.channel.connectionLost(Failure(reason))

    def ask(
        self, target: str, key: str | None = PARTNER, method: str = "GET", body: bytes | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Response:  # fmt: skip
        """Ask one whole question, and read its one answer."""
        return read(self.send(question(target, key, method, body, headers)), method)

    def answer(self, method: str = "GET") -> Response:
        """Read what came since the last question."""
        return read(self.transport.value(), method)


def question(
    target: str, key: str | None = PARTNER, method: str = "GET", body: bytes | None = None,
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:  # fmt: skip
    lines = [f"{method} {target} HTTP/1.1", "Host: test"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._data)


def read(data: bytes, method: str = "GET") -> Response:
    """Read one answer with the standard library's client."""
    response = HTTPResponse(_Bytes(data), method=method)  # type: ignore[arg-type]
    response.begin()
    return Response(response.status, response.headers, response.read())


def problem_of(response: Response) -> Mapping[str, Any]:
    """The members of a problem answer, its form checked."""
    members: dict[str, Any] = response.json()
    assert response.headers["Content-Type"] == "application/problem+json", response
    assert members["status"] == response.status, response
    assert members["type"] == f"urn:tbeast:problem:{members['code']}", response
    assert members["title"] and members["detail"], response
    assert members["request_id"] == response.headers["X-Request-Id"], response
    return members
