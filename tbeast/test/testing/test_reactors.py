"""Tests of L{tbeast.testing.reactors}."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorUDP
from twisted.internet.protocol import DatagramProtocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tbeast.testing.reactors import MemoryReactorClock


class Echo(DatagramProtocol):
    stopped = False

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        assert self.transport is not None
        self.transport.write(datagram, addr)

    def stopProtocol(self) -> None:
        self.stopped = True


class MemoryReactorClockTests(SynchronousTestCase):
    def test_is_a_udp_reactor_and_still_a_clock(self) -> None:
        reactor = MemoryReactorClock()
        self.assertTrue(verifyObject(IReactorUDP, reactor))
        called: list[int] = []
        reactor.callLater(2, called.append, 1)
        reactor.advance(2)
        self.assertEqual(called, [1])

    def test_a_datagram_comes_in_and_its_answer_goes_out(self) -> None:
        reactor = MemoryReactorClock()
        port = reactor.listenUDP(2679, Echo(), maxPacketSize=4)
        port.heard(b"hello", ("192.0.2.9", 5))
        self.assertEqual(port.sent, [(b"hell", ("192.0.2.9", 5))])
        self.assertEqual(port.getHost().port, 2679)

    def test_ports_that_were_not_chosen_differ(self) -> None:
        reactor = MemoryReactorClock()
        first, second = (reactor.listenUDP(0, Echo()) for _ in range(2))
        self.assertNotEqual(first.getHost().port, second.getHost().port)
        self.assertEqual(reactor.udp_ports, [first, second])

    def test_the_end_is_told_once(self) -> None:
        protocol = Echo()
        port = MemoryReactorClock().listenUDP(0, protocol)
        self.successResultOf(port.stopListening())
        self.assertTrue(protocol.stopped)
        self.assertFalse(port.listening)
        self.assertIsNone(self.successResultOf(port.stopListening()))
