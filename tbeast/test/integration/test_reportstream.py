"""A report of a million lines over a real socket: it is never here as a whole, and nobody reads ahead of its client."""

from __future__ import annotations

import resource
import socket
from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import UUID

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import TestCase

from tbeast.domain.counters import Counters
from tbeast.domain.reports import Cut, ReportQuery, UsageLine
from tbeast.domain.usage import Ledger
from tbeast.servers.gate import Gate
from tbeast.servers.lrs import LrsSite, lrs_pages
from tbeast.servers.site import tree
from tbeast.test.adapters.cache.clients import until
from tbeast.test.servers.rooms import PARTNER, Ring
from tbeast.test.services.reportparts import NOW, NOW_US, Desk
from tbeast.testing.logs import listen

reactor: Any = installed_reactor

LINES = 1_000_000
CHUNK = 2_000


class Counted(UsageLine):
    """A line that is counted for as long as it is there."""

    alive = 0
    most = 0

    def __del__(self) -> None:
        Counted.alive -= 1


def counted(number: int) -> UsageLine:
    Counted.alive += 1
    Counted.most = max(Counted.most, Counted.alive)
    return Counted(
        NOW_US - 10_000_000_000 + number, str(UUID(int=number + 1)), "partnerpar", "n", "lpo", "http", "BTC", "median",
        "shelf", 200, True, 3, 40, 20,
    )  # fmt: skip


class Endless:
    """Gives lines when they are asked for.

    @ivar chunks: how many chunks were asked for.
    @ivar closed: whether it was told that no more are wanted.
    """

    def __init__(self, lines: int) -> None:
        self.chunks = 0
        self.closed = False
        self._lines = lines

    async def cut(self, query: ReportQuery) -> Cut:
        return Cut(NOW_US, 0)

    async def usage(self, query: ReportQuery, cut: Cut) -> AsyncIterator[list[UsageLine]]:
        try:
            for start in range(0, self._lines, CHUNK):
                self.chunks += 1
                yield [counted(number) for number in range(start, min(start + CHUNK, self._lines))]
        finally:
            self.closed = True


class Reader(Protocol):
    """Asks for a report, and counts what comes."""

    def __init__(self) -> None:
        self.lines = 0
        self.size = 0
        self.last = b""
        self.ended: Deferred[None] = Deferred()
        self._head = b""
        self._is_past_head = False

    def connectionMade(self) -> None:
        assert self.transport is not None
        asked = f"GET /reports/usage?format=csv HTTP/1.0\r\nAuthorization: Bearer {PARTNER}\r\n\r\n"
        self.transport.write(asked.encode())

    def dataReceived(self, data: bytes) -> None:
        if not self._is_past_head:
            self._head += data
            _, end, data = self._head.partition(b"\r\n\r\n")
            self._is_past_head = bool(end)
        self.lines += data.count(b"\n")
        self.size += len(data)
        self.last = (self.last + data)[-200:]

    def connectionLost(self, reason: Any = None) -> None:
        self.ended.callback(None)


class StreamTests(TestCase):
    timeout = 300

    async def begin(self, lines: int) -> Reader:
        listen(self)
        Counted.alive = Counted.most = 0
        self.desk = Desk(clock=reactor)
        self.reading = self.desk.reports.reading_of = Endless(lines)
        counters, self.ledger = Counters(), Ledger()
        pages = lrs_pages(gate=Gate(Ring()), reports=self.desk.reports, now=lambda: NOW)
        site = LrsSite(
            tree(pages), reactor=reactor, now=lambda: NOW, new_id=lambda: "id", counters=counters, ledger=self.ledger
        )
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # which its connections inherit
        reader = Reader()
        await connectProtocol(HostnameEndpoint(reactor, "127.0.0.1", port.getHost().port), reader)
        self.addCleanup(lambda: reader.transport.abortConnection())  # type: ignore[union-attr]
        return reader

    async def test_a_million_lines(self) -> None:
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        reader = await self.begin(LINES)
        await reader.ended
        grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
        self.assertIn(str(UUID(int=LINES)).encode(), reader.last.splitlines()[-1])
        self.assertGreater(reader.size, 100 * LINES)
        self.assertEqual(LINES, reader.lines - 1)  # and one of names
        self.assertLessEqual(Counted.most, 3 * CHUNK)
        self.assertLess(grown_kb, 64 * 1024)
        (made,) = self.desk.log.made
        self.assertEqual((LINES, 200, None), (made.row_count, made.status, made.details.get("broken_off")))
        self.assertEqual(1, self.ledger.requests)

    async def test_a_client_that_does_not_read(self) -> None:
        """The reading stops, takes no one's place, and goes on when the client does."""
        reader = await self.begin(200_000)
        await until(lambda: reader.lines > 100)
        assert reader.transport is not None
        reader.transport.pauseProducing()  # type: ignore[attr-defined]
        await until(lambda: not self.desk.reports.reading)
        chunks = self.reading.chunks
        self.assertLess(chunks, 100)
        for _ in range(200):
            await self.desk.reports.turn()
        self.assertEqual((chunks, 0), (self.reading.chunks, self.desk.reports.reading))
        self.assertLessEqual(Counted.alive, 2 * CHUNK)
        reader.transport.resumeProducing()  # type: ignore[attr-defined]
        await reader.ended
        self.assertEqual(200_000, self.desk.log.made[0].row_count)

    async def test_a_client_that_goes_away(self) -> None:
        reader = await self.begin(LINES)
        await until(lambda: reader.lines > 100)
        cast(Any, reader.transport).abortConnection()
        await until(lambda: self.desk.log.made)
        self.assertTrue(self.reading.closed)
        self.assertEqual("client", self.desk.log.made[0].details["broken_off"])
        self.assertLess(self.reading.chunks, LINES // CHUNK)
        self.assertEqual((0, {}), (self.desk.reports.reading, dict(self.desk.reports.open)))
