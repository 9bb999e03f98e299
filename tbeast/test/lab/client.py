"""A plain WebSocket client and a running lab, for the tests over real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateResponseAccept
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool, readBody
from twisted.web.http_headers import Headers

from tbeast.lab.exchangelab import ExchangeLab
from tbeast.test.lab.support import small_tables, subscribe_text

CLOSED = "closed"


class Listener(WebSocketClientProtocol):  # type: ignore[misc]
    """Keeps what it hears, and tells who waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[bytes] = []
        self.closed: tuple[bool, int | None, str | None] | None = None
        self._waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def onOpen(self) -> None:
        self.factory.opened.callback(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.heard.append(payload)
        self._tell()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.closed = (wasClean, code, reason)
        if not self.factory.opened.called:
            self.factory.opened.errback(ConnectionError(reason))
        self._tell()

    def _tell(self) -> None:
        for item in list(self._waiting):
            found = item[0]()
            if found:
                self._waiting.remove(item)
                item[1].callback(found)

    def until(self, condition: Callable[[], Any]) -> Deferred[Any]:
        """Fires with what C{condition} gives, as soon as that is anything."""
        found = condition()
        waiting: Deferred[Any] = Deferred()
        if found:
            waiting.callback(found)
        else:
            self._waiting.append((condition, waiting))
        return waiting

    def until_closed(self) -> Deferred[Any]:
        return self.until(lambda: self.closed)

    def until_heard(self, text: str, since: int = 0) -> Deferred[Any]:
        """Fires with the first message (after so many) that holds C{text}."""
        return self.until(lambda: next((item for item in self.heard[since:] if text.encode() in item), None))

    def say(self, message: Any) -> None:
        self.sendMessage((message if isinstance(message, str) else json.dumps(message)).encode("utf-8"))


class LabCase(TestCase):
    """Has a lab running, with two assets and a quick market."""

    timeout = 30

    def setUp(self) -> None:
        self.lab = self.make_lab()
        self.pool = HTTPConnectionPool(reactor, persistent=False)
        self.agent = Agent(reactor, pool=self.pool)

    def make_lab(self, **options: Any) -> ExchangeLab:
        settled: dict[str, Any] = {"tables": small_tables(), "steps_per_second": 50.0, "limited": False, **options}
        lab = ExchangeLab(reactor, time.time, **settled)
        self.addCleanup(lab.stop)
        lab.start()
        return lab

    async def dial(self, url: str, deflate: bool = False) -> Listener:
        """A L{Listener} whose handshake is done."""
        factory = WebSocketClientFactory(url, reactor=reactor)
        factory.protocol = Listener
        factory.opened = Deferred()
        factory.noisy = False
        factory.setProtocolOptions(openHandshakeTimeout=10, closeHandshakeTimeout=1)
        if deflate:
            factory.setProtocolOptions(
                perMessageCompressionOffers=[PerMessageDeflateOffer()],
                perMessageCompressionAccept=PerMessageDeflateResponseAccept,
            )
        endpoint: Any = HostnameEndpoint(reactor, factory.host, factory.port)
        listener: Listener = await endpoint.connect(factory)
        self.addCleanup(self.hang_up, listener)
        await factory.opened
        return listener

    def dialling(self, url: str) -> Deferred[Any]:
        """The same, for those who expect that it fails."""
        return Deferred.fromCoroutine(self.dial(url))

    @staticmethod
    def hang_up(protocol: Listener) -> Deferred[Any]:
        protocol.transport.abortConnection()
        return protocol.until_closed()

    async def joined(self, name: str, deflate: bool = False) -> Listener:
        """A client that hears the prices of an exchange."""
        listener = await self.dial(self.lab.announcement()["exchanges"][name]["ws_url"], deflate)
        listener.say(subscribe_text(name))
        return listener

    async def ask(self, method: str, url: str, body: Any = None) -> tuple[int, Any, Headers]:
        """An HTTP question: status, JSON, headers."""
        producer = None if body is None else FileBodyProducer(BytesIO(json.dumps(body).encode("utf-8")))
        headers = Headers({"User-Agent": ["test"]})
        response = await self.agent.request(method.encode(), url.encode(), headers, producer)
        return response.code, json.loads(await readBody(response)), response.headers

    async def control(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, value, _ = await self.ask(method, self.lab.announcement()["control"] + path, body)
        return status, value

    async def begin(self, kind: str, exchange: str, **described: Any) -> int:
        """Begin a fault through the control door; its number."""
        status, value = await self.control("POST", "/faults", {"kind": kind, "exchange": exchange, **described})
        self.assertEqual(status, 201, value)
        number: int = value["id"]
        return number

    async def end(self, number: int) -> None:
        status, value = await self.control("DELETE", f"/faults/{number}")
        self.assertEqual((status, value), (200, {"ended": 1}))

    async def steps(self, more: int) -> None:
        """Wait until the market has gone so many steps further."""
        goal = (await self.control("GET", "/state"))[1]["steps"] + more
        while (await self.control("GET", "/state"))[1]["steps"] < goal:
            pass
