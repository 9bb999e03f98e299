"""Ports that are bound for workers, and memory that they share, with real sockets on loopback."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.adapters.hub.shared import TRY_SECONDS, InheritedPorts, WorkerPorts, make_memory, mapped


class MemoryTests(SynchronousTestCase):
    def test_what_one_writes_the_other_reads(self) -> None:
        descriptor = make_memory(4096)
        self.addCleanup(os.close, descriptor)
        ours, theirs = mapped(descriptor, 4096, True), mapped(descriptor, 4096, False)
        self.assertEqual(bytes(4096), theirs.tobytes())
        ours[7:10] = b"abc"
        self.assertEqual(b"abc", theirs[7:10].tobytes())

    def test_a_reader_cannot_write(self) -> None:
        descriptor = make_memory(4096)
        self.addCleanup(os.close, descriptor)
        with self.assertRaises(TypeError):
            mapped(descriptor, 4096, False)[0] = 1

    def test_without_memfd(self) -> None:
        self.patch(os, "memfd_create", None)
        del os.memfd_create
        self.test_what_one_writes_the_other_reads()


class WorkerPortsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def ports(self, tcp: int = 0, udp: int = 0, count: int = 3, interface: str = "127.0.0.1") -> WorkerPorts:
        ports = WorkerPorts(interface, tcp, udp, count, 64, self.clock)
        self.addCleanup(ports.close)
        return ports

    def opened(self, ports: WorkerPorts) -> Deferred[None]:
        return Deferred.fromCoroutine(ports.open())

    def test_all_on_one_number(self) -> None:
        ports = self.ports()
        self.successResultOf(self.opened(ports))
        self.assertEqual(3, len(ports.pairs))
        for kind in ("tcp", "udp"):
            numbers = {getattr(pair, kind).getsockname()[1] for pair in ports.pairs}
            self.assertEqual(1, len(numbers), kind)
            self.assertNotEqual({0}, numbers)

    def test_connections_wait_for_who_takes_them(self) -> None:
        """They are dealt out among all, and refused by none."""
        ports = self.ports()
        self.successResultOf(self.opened(ports))
        with ExitStack() as opened:
            for _ in range(30):
                opened.enter_context(socket.create_connection(ports.pairs[0].tcp.getsockname(), 5))
            waiting = 0
            for pair in ports.pairs:
                while True:
                    try:
                        accepted, _ = pair.tcp.accept()
                    except BlockingIOError:
                        break
                    opened.enter_context(accepted)
                    waiting += 1
        self.assertEqual(30, waiting)

    def test_over_ipv6(self) -> None:
        ports = self.ports(interface="::1")
        self.successResultOf(self.opened(ports))
        self.assertEqual(socket.AF_INET6, ports.pairs[0].tcp.family)

    def test_a_port_in_use(self) -> None:
        """Also by somebody who would share it."""
        for kind, name in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
            with socket.socket(socket.AF_INET, kind) as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                other.bind(("127.0.0.1", 0))
                if kind == socket.SOCK_STREAM:
                    other.listen()
                ports = self.ports(**{name: other.getsockname()[1]})
                opened = self.opened(ports)
                self.assertNoResult(opened)
                for _ in range(int(TRY_SECONDS * 10) + 1):
                    self.clock.advance(0.1)
                error = self.failureResultOf(opened, CannotListenError).value
                self.assertEqual(other.getsockname()[1], error.port)
                self.assertEqual([], ports.pairs)

    def test_a_port_that_becomes_free(self) -> None:
        """As when the workers of a daemon that was killed need a moment to go."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            opened = self.opened(self.ports(tcp=other.getsockname()[1]))
            self.clock.advance(0.1)
            self.assertNoResult(opened)
        self.clock.advance(0.1)
        self.successResultOf(opened)

    def test_an_address_that_is_not_ours(self) -> None:
        """Is nothing to wait for."""
        self.failureResultOf(self.opened(self.ports(interface="192.0.2.1")), CannotListenError)


class InheritedPortsTests(TestCase):
    async def test_listening_and_resting(self) -> None:
        """Two share what was bound for one; while the first rests all comes to the second."""
        bound = WorkerPorts("127.0.0.1", 0, 0, 1, 16, Clock())
        self.addCleanup(bound.close)
        await bound.open()
        (pair,) = bound.pairs
        came: list[tuple[str, str]] = []
        both: list[Deferred[None]] = [Deferred(), Deferred()]

        def noted(name: str, what: str) -> None:
            came.append((name, what))
            both[0 if what == "tcp" else 1].callback(None)

        def worker(name: str) -> InheritedPorts:
            class Once(Protocol):
                def connectionMade(self) -> None:
                    noted(name, "tcp")
                    assert self.transport is not None
                    self.transport.loseConnection()

            class Datagrams(DatagramProtocol):
                def datagramReceived(self, datagram: bytes, addr: object) -> None:
                    noted(name, "udp")

            ports = InheritedPorts(reactor, "127.0.0.1", pair.tcp.fileno(), pair.udp.fileno())
            for port in (ports.tcp("lpo", 0, Factory.forProtocol(Once)), ports.udp("lpo", 0, Datagrams())):
                self.addCleanup(port.stopListening)
            return ports

        first = worker("first")
        self.assertEqual(1, len(first.factories))
        first.rest()
        worker("second")
        with socket.create_connection(pair.tcp.getsockname(), 5), socket.socket(type=socket.SOCK_DGRAM) as asking:
            asking.sendto(b"x", pair.udp.getsockname())
            for one in both:
                await one
        self.assertEqual([("second", "tcp"), ("second", "udp")], sorted(came))
