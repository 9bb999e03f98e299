"""A whole daemon for integration tests: real sockets on loopback, the real lab in a process of its own."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tbeast.adapters.feeds.rest import HttpFetcher
from tbeast.assembly import Assembly
from tbeast.domain.quotes import Quote, SourceView
from tbeast.settings import Layer, load
from tbeast.testing.daemonports import free_ports

WORKERS = os.environ.get("TEST_WORKERS", "1")
"""How many workers the daemons of a test run have: C{TEST_WORKERS=2 python -m twisted.trial ...}."""
NATIVE = os.environ.get("TEST_NATIVE", "auto")
"""Whether they use the native parts: C{TEST_NATIVE=off} likewise."""

PORTS = ("TCP_PORT_LPO", "HEALTH_PORT_LPO", "TCP_PORT_LRS", "HEALTH_PORT_LRS", "UDP_PORT_LPO", "UDP_PORT_LRS")


def sleep(seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds)


class Daemon:
    """One daemon in this process.

    @ivar parts: its assembly, to look into.
    @ivar control: the address of its lab's control port, once it has started.
    """

    def __init__(self, state: str, **said: object) -> None:
        ports = free_ports(len(PORTS))
        values: dict[str, object] = {
            **dict(zip(PORTS, ports, strict=True)), "TBEAST_STATE": state, "TBEAST_LISTEN": "127.0.0.1",
            "TBEAST_FEEDS": "lab", "SERVER_TYPE": "APP_SERVER", "CLUSTER_NODE": "test",
            "TBEAST_WORKERS": WORKERS, "TBEAST_NATIVE": NATIVE, **said,
        }  # fmt: skip
        self.settings = load([Layer("test", values)])
        self.parts = Assembly(self.settings, reactor, time.time, Random(1).random, lambda: uuid.uuid4().hex)
        self.control = ""
        self.fetcher = HttpFetcher(reactor, "tbeast-test")
        self._root: IService | None = None
        place = self.parts._lab_is_there

        def note(announcement: Mapping[str, Any]) -> None:
            self.control = announcement["control"]
            place(announcement)

        self.parts._lab_is_there = note  # type: ignore[method-assign]

    async def start(self) -> Daemon:
        root = self._root = self.parts.root()
        await root.startService()
        return self

    async def stop(self) -> None:
        if self._root is not None:
            await self._root.stopService()
        await self.fetcher.close()

    async def until(self, condition: Callable[[], object], seconds: float, what: str) -> float:
        """Wait until something holds; how long it took.

        @raise AssertionError: when it did not come to hold in time; for tests, C{what} says what was waited for.
        """
        began = time.monotonic()
        while not condition():
            waited = time.monotonic() - began
            if waited > seconds:
                raise AssertionError(f"not within {seconds} s: {what}; {self.summary()}")
            await sleep(0.1)
        return time.monotonic() - began

    def summary(self) -> str:
        states = {status.exchange: f"{status.state} {status.why}".strip() for status in self.parts.feeds.status()}
        return f"feeds {states}, qualities {self.qualities()}"

    async def lab(self, method: str, path: str, body: object = None) -> Any:
        """Speak to the lab's control port."""
        import treq

        data = None if body is None else json.dumps(body).encode()
        response = await treq.request(method, self.control + path, data=data, persistent=False, timeout=30)
        text = await response.text()
        if response.code >= 400:
            raise AssertionError(f"the lab answered {response.code}: {text}")
        return json.loads(text)

    async def fault(self, exchange: str, kind: str, **params: object) -> None:
        await self.lab("POST", "/faults", {"exchange": exchange, "kind": kind, **params})

    async def heal(self) -> None:
        await self.lab("DELETE", "/faults")

    async def get(self, path: str, key: str | None = None, port: int | None = None) -> tuple[int, Any]:
        """Ask the daemon over HTTP: the status and the JSON body."""
        headers = {} if key == "" else {"authorization": f"Bearer {key or self.parts.demo_key.key}"}
        url = f"http://127.0.0.1:{port or self.settings.tcp_port_lpo}{path}"
        status, _, body = await self.fetcher.fetch(url, headers)
        return status, json.loads(body)

    async def ready(self) -> tuple[int, Any]:
        return await self.get("/ready", port=self.settings.health_port_lpo)

    def udp(self, datagram: bytes, seconds: float = 1.0) -> Deferred[bytes | None]:
        """Send one datagram; the answer, or C{None} if there is none in time."""
        from twisted.internet.protocol import DatagramProtocol

        answered: Deferred[bytes | None] = Deferred()

        class Client(DatagramProtocol):
            def startProtocol(self) -> None:
                assert self.transport is not None
                self.transport.connect("127.0.0.1", port)
                self.transport.write(datagram, None)

            def datagramReceived(self, answer: bytes, addr: object) -> None:
                if not answered.called:
                    answered.callback(answer)

        port = self.settings.udp_port_lpo
        listening = reactor.listenUDP(0, Client(), interface="127.0.0.1")  # type: ignore[attr-defined]
        timeout = reactor.callLater(seconds, answered.callback, None)

        def over(answer: bytes | None) -> Deferred[bytes | None]:
            if timeout.active():
                timeout.cancel()
            closed: Deferred[None] = listening.stopListening()
            return closed.addCallback(lambda _: answer)

        return answered.addCallback(over)

    # What can be seen inside.

    def shares_limits(self) -> bool:
        """Whether limits hold across nodes just now."""
        return any(part.name == "limits" and part.state == "shared" for part in self.parts._backing())

    def feed(self, exchange: str) -> Any:
        return next(status for status in self.parts.feeds.status() if status.exchange == exchange)

    def quotes(self) -> dict[str, Quote]:
        """What lies on the shelf and may be given out."""
        now = self.parts.now()
        return {asset: reply.quote for asset, reply in self.parts.shelf.replies.items() if now <= reply.fresh_until}

    def qualities(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for quote in self.quotes().values():
            counts[quote.quality] = counts.get(quote.quality, 0) + 1
        return counts

    def all_good(self) -> bool:
        return self.qualities().get("good", 0) == len(self.parts.assets.assets)

    def all_live(self) -> bool:
        return all(status.state == "live" for status in self.parts.feeds.status())

    def views(self, exchange: str, assets: Iterable[str] | None = None) -> list[SourceView]:
        now = self.parts.now()
        return [
            view
            for asset in assets or self.parts.assets.assets
            for view in self.parts.pricer.explain(asset, now)[1]
            if view.exchange == exchange
        ]

    def verdicts(self, exchange: str, *verdicts: str) -> int:
        """How many of the exchange's sources have one of these verdicts."""
        return sum(view.verdict in verdicts for view in self.views(exchange))

    def count(self, family: str, *labels: str) -> int:
        """A family's counters added up, for as far as the labels are given."""
        self.parts.counters.gather()
        return sum(
            number for key, number in self.parts.counters.counts.items() if key[: 1 + len(labels)] == (family, *labels)
        )
