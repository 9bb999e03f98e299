"""Clients that take their time: each is ended by a deadline, whichever lane it is in, and counted by what it did.

Real sockets, and a clock that the test moves.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.tcp import Port
from twisted.trial.unittest import SynchronousTestCase

from tbeast.servers.site import IDLE, SLOW_HEAD, SLOW_READ, Page, WebRequest, WebSite
from tbeast.test.native.parts import PATIENCE_SECONDS, NativeCase
from tbeast.test.servers.lanes import UNLIMITED, LaneHouse
from tbeast.test.servers.nativedoor import HERE, NativeDoor, SocketTurns
from tbeast.test.servers.rooms import House, question

DEADLINE = 60
HOT = question("/price?asset=BTC", UNLIMITED)
LARGE = 8 * 2**20


class LargePage(Page):
    """Answers with more than the kernel takes from us."""

    def answer(self, request: WebRequest) -> None:
        request.respond(200, bytes(LARGE), b"application/octet-stream")


class SlowCase(SynchronousTestCase):
    """Tests of the ordinary way; those of the lanes are made of them.

    @cvar make_house: what stands behind the port.
    """

    make_house: Any = House

    def setUp(self) -> None:
        self.turns = SocketTurns()
        self.house = self.make_house()
        self.house.clock = self.turns
        self.site: WebSite = self.house.site(self.house.lpo())
        self.site.resource.putChild(b"large", LargePage())
        self.site.timeOut = DEADLINE
        self.port = Port(0, self.site, 50, HERE, self.turns)
        self.port.startListening()
        self.client = socket.create_connection(self.port.socket.getsockname(), PATIENCE_SECONDS)
        self.turns.settle()
        self.addCleanup(self.shut)

    def shut(self) -> None:
        self.client.close()
        self.port.stopListening()
        for channel in list(self.site.connections):
            channel.cut()
        self.turns.settle()
        self.assertEqual([], self.turns.getDelayedCalls())

    def says(self, data: bytes) -> None:
        self.client.sendall(data)
        self.turns.wait()
        self.turns.settle()

    def passes(self, seconds: float) -> None:
        """Time passes, and who could read or write does."""
        self.house.time += seconds
        self.turns.advance(seconds)
        self.turns.settle()

    def assert_there(self) -> None:
        self.assertEqual(1, len(self.site.connections))

    def assert_ended(self, reason: str) -> None:
        self.assertEqual(0, len(self.site.connections))
        self.assertEqual([((self.site.service, reason), 1)], list(self.house.counters.family("slow_clients")))


class OrdinaryTests(SlowCase):
    def test_silence(self) -> None:
        self.passes(DEADLINE - 1)
        self.assert_there()
        self.passes(1)
        self.assert_ended(IDLE)

    def test_silence_after_an_answer(self) -> None:
        self.passes(DEADLINE - 1)
        self.says(HOT)
        self.passes(DEADLINE - 1)
        self.assert_there()
        self.passes(1)
        self.assert_ended(IDLE)

    def test_a_head_in_drips(self) -> None:
        """Drips put nothing off: the whole of it counts from the first byte."""
        for byte in HOT[:4]:
            self.says(bytes((byte,)))
            self.passes(DEADLINE / 5)
        self.assert_there()
        self.says(HOT[4:30])
        self.passes(DEADLINE / 5)
        self.assert_ended(SLOW_HEAD)

    def test_a_line_without_end(self) -> None:
        self.says(b"G")
        self.passes(DEADLINE)
        self.assert_ended(SLOW_HEAD)

    def test_a_body_in_drips(self) -> None:
        self.says(b"POST /price HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(3):
            self.passes(DEADLINE / 4)
            self.says(b"x")
        self.assert_there()
        self.passes(DEADLINE / 4)
        self.assert_ended(SLOW_HEAD)

    def test_a_large_answer_unread(self) -> None:
        self.says(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        self.passes(DEADLINE - 1)
        self.assert_there()
        self.passes(1)
        self.assert_ended(SLOW_READ)

    def test_another_timeout_meanwhile(self) -> None:
        """Whoever came under a longer one has it: a worker that is replaced sets a short one for the idle."""
        self.site.timeOut = 1
        self.says(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        self.passes(DEADLINE - 1)
        self.assert_there()
        self.passes(1)
        self.assert_ended(SLOW_READ)

    def test_a_large_answer_read_in_drips(self) -> None:
        """A byte now and then puts nothing off either."""
        self.says(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        for _ in range(6):
            self.client.recv(1)
            self.passes(DEADLINE / 6)
        self.assert_ended(SLOW_READ)

    def test_a_large_answer_read_in_time(self) -> None:
        self.says(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        self.passes(DEADLINE - 1)
        got = 0
        while got < LARGE:
            got += len(self.client.recv(2**20))
            self.turns.settle()
        self.assert_there()
        self.passes(1)
        self.assert_ended(IDLE)

    def test_answers_unread(self) -> None:
        """Questions without end, of which the client reads no answer: no more are answered, and it is ended."""
        self.client.setblocking(False)
        self.flood()
        self.passes(DEADLINE)
        self.assert_ended(SLOW_READ)

    def flood(self) -> None:
        """Ask until nothing more is taken."""
        idle = 0
        while idle < 20:
            try:
                self.client.send(HOT * 200)
                idle = 0
            except BlockingIOError:
                idle += 1
            self.turns.settle()


class LaneTests(OrdinaryTests):
    """The same with the fast lane in front."""

    make_house = LaneHouse


class NativeTests(NativeCase):
    """In the native lane nobody is who has sent half a question, or not read an answer: they leave with it."""

    def setUp(self) -> None:
        self.door = NativeDoor()
        self.addCleanup(self.door.shut)
        self.door.site.timeOut = DEADLINE

    def counted(self) -> list[tuple[tuple[str, ...], int]]:
        return list(self.door.house.counters.family("slow_clients"))

    def test_a_head_in_drips(self) -> None:
        for byte in HOT[:4]:
            self.door.send(bytes((byte,)))
            self.door.pass_time(DEADLINE / 5)
        self.assertEqual([], self.counted())
        self.door.send(HOT[4:30])
        self.door.pass_time(DEADLINE / 5)
        self.assertTrue(self.door.is_closed)
        self.assertEqual([(("lpo", SLOW_HEAD), 1)], self.counted())

    def test_silence(self) -> None:
        """The lane goes by the machine's clock, so here it is the deadline that comes to the client."""
        self.door.site.timeOut = 0.0
        self.door.pass_time(1.0)
        self.assertTrue(self.door.is_closed)
        self.assertEqual([(("lpo", IDLE), 1)], self.counted())

    def test_answers_unread(self) -> None:
        door = self.door
        door.client.close()
        door.turns.settle()
        door.client = client = door.connect(4_096)
        idle = 0
        while idle < 20:
            try:
                client.send(HOT * 200)
                idle = 0
            except BlockingIOError:
                idle += 1
            door.turns.settle()
        self.assertEqual(1, len(door.site.connections))
        door.house.time += DEADLINE
        door.turns.advance(DEADLINE)
        door.turns.settle()
        self.assertEqual(0, len(door.site.connections))
        self.assertEqual([(("lpo", SLOW_READ), 1)], self.counted())
