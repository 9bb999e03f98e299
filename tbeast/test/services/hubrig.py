"""A hub of which nothing is real but itself."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from tbeast.adapters.cache.adaptive import MemoryAdaptive
from tbeast.adapters.cache.memoryleases import MemoryLeases
from tbeast.codecs import hubwords
from tbeast.codecs.hubwords import LinkError, Page, State
from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.problems import Problem
from tbeast.domain.assetmap import Asset, AssetMap
from tbeast.domain.counters import Counters
from tbeast.domain.keys import KeyRecord, account_of
from tbeast.domain.usage import Ledger
from tbeast.services.hub import Desk, Hub
from tbeast.services.keyring import Keyring
from tbeast.services.workerkeys import KeyWatch
from tbeast.settings import Layer, load

NOON = 1_776_003_781.0
ASSETS = AssetMap({"BTC": Asset("BTC", "Bitcoin", "Major", "kraken", {"kraken": "XBT/USD"})}, {})


class Relay:
    """Answers BTC, and one page."""

    async def price(self, query: PriceQuery, asked_at: float) -> tuple[bytes, str, str] | Problem:
        if query.asset == "BTC":
            return b"{}", "kraken-ws", "memory"
        return Problem("unknown_asset", "why")

    def page(self, name: str, below: bytes) -> Page | Problem:
        return Page(200, below, b"application/json", name)


class Worker:
    """A worker's end of the line, without a line.

    @ivar heard: what the hub has said, word and text.
    @ivar is_deaf: whether it answers nothing.
    """

    def __init__(self, words: Any) -> None:
        self.words = words
        self.heard: list[tuple[bytes, bytes]] = []
        self.is_deaf = False
        self.is_gone = False
        self.waiting: list[Deferred[bytes]] = []

    def ask(self, word: bytes, text: bytes = b"") -> Deferred[bytes]:
        if self.is_gone:
            return maybeDeferred(_gone)
        self.heard.append((word, text))
        answer: Deferred[bytes] = Deferred()
        if self.is_deaf:
            self.waiting.append(answer)
        else:
            answer.callback(b"")
        return answer

    def says(self, word: bytes, text: bytes = b"") -> Deferred[bytes]:
        """Ask the hub."""

        async def asked() -> bytes:
            answer = self.words[word](text)
            said: bytes = answer if isinstance(answer, bytes) else await answer
            return said

        return Deferred.fromCoroutine(asked())

    def texts(self, word: bytes) -> list[bytes]:
        """What was said with that word."""
        return [text for heard, text in self.heard if heard == word]

    # As an end of a line that has a transport.

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        pass

    def connectionLost(self, reason: Any) -> None:
        self.is_gone = True
        waiting, self.waiting = self.waiting, []
        for answer in waiting:
            answer.errback(LinkError("gone"))


def _gone() -> bytes:
    raise LinkError("gone")


class Rig:
    """The hub, and what it was given."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ring = Keyring()
        self.ledger = Ledger()
        self.counters = Counters()
        self.leases = MemoryLeases(self.now)
        self.adaptive = MemoryAdaptive()
        self.state = State(True, False, 0.05, 60.0)
        self.hub = Hub(
            settings=load([Layer("test", {"CLUSTER_NODE": "n"})]), keys=KeyWatch(self.ring), assets=ASSETS,
            ledger=self.ledger, counters=self.counters, limits=self.leases, relay=Relay(),
            state=lambda: self.state, life="life", nodes=2, clock=self.clock, now=self.now, adaptive=self.adaptive,
        )  # fmt: skip

    def now(self) -> float:
        return NOON + self.clock.seconds()

    def key(self, text: str, tier: str = "free") -> None:
        """Have the store say that there is this key."""
        account = account_of(text, tier, text)
        self.ring.update([KeyRecord(account, False, 1.0, None, 0, "2026-04", 0.0)], NOON)

    def worker(self, name: str = "n/w1a") -> tuple[Desk, Worker]:
        """One that has said nothing yet."""
        desk = Desk(self.hub, name)
        worker = Worker(desk.words)
        desk.line = worker
        return desk, worker

    def serving(self, name: str = "n/w1a") -> tuple[Desk, Worker]:
        """One that serves."""
        desk, worker = self.worker(name)
        worker.says(hubwords.HELLO, hubwords.encode(1))
        self.clock.advance(0)
        return desk, worker
