"""Reactors without an operating system beneath them."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IReactorUDP, IUDPTransport
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.testing import MemoryReactorClock as _MemoryReactorClock
from zope.interface import implementer

FIRST_EPHEMERAL_PORT = 49152


@implementer(IListeningPort, IUDPTransport)
@define(eq=False)
class MemoryDatagramPort:
    """A UDP port without a socket: what is sent through it is remembered, what comes in is said by the test.

    @ivar sent: each datagram with the address that it was for, in order.
    @ivar listening: whether the port is still open.
    """

    port: int
    protocol: DatagramProtocol
    interface: str = ""
    max_packet_size: int = 8192
    sent: list[tuple[bytes, tuple[str, int] | None]] = field(factory=list)
    listening: bool = False

    def startListening(self) -> None:
        """Open the port; see L{IListeningPort}."""
        self.listening = True
        self.protocol.makeConnection(self)

    def stopListening(self) -> Deferred[None]:
        """Close the port, and tell the protocol so."""
        if self.listening:
            self.listening = False
            self.protocol.doStop()  # type: ignore[no-untyped-call]
        return succeed(None)

    def getHost(self) -> IPv4Address:
        """Where it listens."""
        return IPv4Address("UDP", self.interface or "127.0.0.1", self.port)

    def write(self, packet: bytes, addr: tuple[str, int] | None = None) -> None:
        """Remember one datagram as sent."""
        self.sent.append((bytes(packet), addr))

    def connect(self, host: str, port: int) -> None:
        """Nothing of ours connects a datagram port."""
        raise NotImplementedError("no connected datagram ports in memory")

    def setBroadcastAllowed(self, enabled: bool) -> None:
        """Nothing of ours broadcasts."""
        raise NotImplementedError("no broadcast in memory")

    def getBroadcastAllowed(self) -> bool:
        """Nothing of ours broadcasts."""
        return False

    def heard(self, datagram: bytes, address: tuple[str, int] = ("192.0.2.1", 40000)) -> None:
        """Let one datagram come in, cut to the size that the port reads."""
        self.protocol.datagramReceived(datagram[: self.max_packet_size], address)


@implementer(IReactorUDP)
class MemoryReactorClock(_MemoryReactorClock):
    """Twisted's reactor in memory, with the UDP half that it lacks.

    @ivar udp_ports: every port that was opened, in order.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.udp_ports: list[MemoryDatagramPort] = []

    def listenUDP(
        self, port: int, protocol: DatagramProtocol, interface: str = "", maxPacketSize: int = 8192
    ) -> MemoryDatagramPort:
        """Open a port in memory; 0 takes the next free one; see L{IReactorUDP}."""
        opened = MemoryDatagramPort(
            port or FIRST_EPHEMERAL_PORT + len(self.udp_ports), protocol, interface, maxPacketSize
        )
        self.udp_ports.append(opened)
        opened.startListening()
        return opened
