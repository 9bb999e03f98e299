"""A feed over real sockets: it comes up, survives its exchange's moods, and leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor as the_reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tbeast.adapters.feeds.websocket import WebSocketDialer
from tbeast.domain.counters import Counters
from tbeast.domain.feedstatus import LIVE
from tbeast.domain.ticks import Tick
from tbeast.services.feeds import ExchangeFeed
from tbeast.testing.exchanges import PlainExchange

reactor: Any = the_reactor


class ExchangeProtocol(WebSocketServerProtocol):  # type: ignore[misc]
    """Answers every subscription with one price a symbol."""

    def onOpen(self) -> None:
        self.factory.open.append(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        for symbol in payload.decode().split()[1:]:
            self.sendMessage(b'{"tick": ["%s", %d]}' % (symbol.encode(), len(self.factory.open)))

    def onClose(self, wasClean: bool, code: object, reason: object) -> None:
        if self in self.factory.open:
            self.factory.open.remove(self)


class Sink:
    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.told: list[str] = []

    def put(self, tick: Tick, via: str) -> str | None:
        self.ticks.append(tick)
        return None

    def connected(self, exchange: str, symbols: tuple[str, ...], now: float) -> None:
        self.told.append("connected")

    def disconnected(self, exchange: str, symbols: tuple[str, ...], now: float) -> None:
        self.told.append("disconnected")

    def halted(self, exchange: str, symbols: tuple[str, ...], halted: bool) -> None:
        raise AssertionError("nothing was halted")


class FeedOverSocketsTests(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.server: Any = WebSocketServerFactory(reactor=reactor)
        self.server.noisy = False
        self.server.protocol = ExchangeProtocol
        self.server.open = []
        self.server.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
        port = reactor.listenTCP(0, self.server, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.sink = Sink()
        self.feed = ExchangeFeed(
            PlainExchange(websocket_url=f"ws://127.0.0.1:{port.getHost().port}/", symbols_per_socket=2),
            "ABC",
            WebSocketDialer(reactor, "tbeast/test"),
            self.sink,
            Counters(),
            reactor,
            time.time,
            lambda: 0.0,
        )
        self.feed.startService()
        self.addCleanup(self.feed.stopService)

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            await deferLater(reactor, 0.005, lambda: None)

    async def test_comes_up_comes_back_and_goes(self) -> None:
        await self.until(lambda: len(self.sink.ticks) == 3)
        self.assertEqual(self.feed.status().state, LIVE)
        self.assertEqual(sorted(tick.symbol for tick in self.sink.ticks), ["A", "B", "C"])
        self.server.open[0].transport.abortConnection()
        await self.until(lambda: self.sink.told.count("connected") == 3)
        self.assertEqual(self.sink.told.count("disconnected"), 1)
        self.server.open[0].sendMessage(b'{"replace": 30}')
        await self.until(lambda: len(self.server.open) == 3)
        await self.until(lambda: len(self.server.open) == 2)
        self.assertEqual(self.sink.told.count("disconnected"), 1)
        self.assertEqual(self.feed.status().connections, 2)
        await self.feed.stopService()
        await self.until(lambda: not self.server.open)
        self.assertEqual(self.sink.told.count("disconnected"), 3)
