"""What a hub hands to its workers besides the line: the ports, and the memory of the shelf. All are file descriptors.

B{Ports.} For each worker there is a TCP socket and a UDP socket of its own, bound to the same address and port
(SO_REUSEPORT): the kernel deals connections and datagrams out among them by the addresses of both ends. The hub binds
them and keeps them open, and a worker inherits its two. So when a worker dies its sockets stay: what has come in waits
there for the next one, and nothing is refused.

With SO_REUSEPORT the kernel would let a second daemon of the same user onto the same port without a word. So the port
is first bound without it, which fails if anybody listens there; and as the workers of a daemon that was killed may need
a moment to go, that is tried for a while.

B{Memory.} A file without a name, which the hub maps to write and a worker to read.
"""

from __future__ import annotations

import mmap
import os
import socket
import tempfile
from errno import EADDRINUSE
from typing import Any, Final

from attrs import frozen
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater

TRY_SECONDS: Final = 3.0
TRY_EVERY_SECONDS: Final = 0.1


@frozen
class PortPair:
    """What one worker listens on."""

    tcp: socket.socket
    udp: socket.socket

    def close(self) -> None:
        """Close both."""
        self.tcp.close()
        self.udp.close()


class WorkerPorts:
    """The ports of all workers.

    @ivar pairs: one for each worker, once they are bound.
    """

    def __init__(self, interface: str, tcp: int, udp: int, count: int, backlog: int, clock: IReactorTime) -> None:
        """Set it up.

        @param interface: the address to listen on.
        @param tcp: the port's number; 0: any free one, as for C{udp}.
        """
        self.pairs: list[PortPair] = []
        self._family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        self._interface = interface
        self._numbers = {socket.SOCK_STREAM: tcp, socket.SOCK_DGRAM: udp}
        self._count = count
        self._backlog = backlog
        self._clock = clock

    async def open(self) -> None:
        """Bind them all.

        @raise CannotListenError: when somebody else listens on one of the ports.
        """
        for kind in self._numbers:
            await self._probe(kind)
        try:
            for _ in range(self._count):
                tcp = self._bound(socket.SOCK_STREAM)
                try:
                    tcp.listen(self._backlog)
                    self.pairs.append(PortPair(tcp, self._bound(socket.SOCK_DGRAM)))
                except BaseException:
                    tcp.close()
                    raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close them all."""
        for pair in self.pairs:
            pair.close()
        self.pairs.clear()

    async def _probe(self, kind: socket.SocketKind) -> None:
        """See that the port is nobody's."""
        until = self._clock.seconds() + TRY_SECONDS
        while True:
            try:
                self._bind(kind, shared=False).close()
                return
            except CannotListenError as error:
                if error.socketError.errno != EADDRINUSE or self._clock.seconds() >= until:
                    raise
            await deferLater(self._clock, TRY_EVERY_SECONDS)

    def _bound(self, kind: socket.SocketKind) -> socket.socket:
        sock = self._bind(kind, shared=True)
        self._numbers[kind] = sock.getsockname()[1]
        return sock

    def _bind(self, kind: socket.SocketKind, shared: bool) -> socket.socket:
        sock = socket.socket(self._family, kind)
        try:
            sock.setblocking(False)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((self._interface, self._numbers[kind]))
            if not shared and kind == socket.SOCK_STREAM:
                sock.listen(1)  # with SO_REUSEADDR only this tells whether somebody else does
        except OSError as error:
            sock.close()
            number = self._numbers[kind]
            raise CannotListenError(self._interface, number, error) from None  # type: ignore[no-untyped-call]
        return sock


class InheritedPorts:
    """L{tbeast.surface.Ports} of a worker: those that the hub has bound for it.

    @ivar open: the ports that are listened on.
    @ivar factories: what connections are made by.
    @ivar protocols: what answers datagrams.
    """

    def __init__(self, reactor: Any, interface: str, tcp: int, udp: int) -> None:
        """Set it up.

        @param interface: the address that they are bound to.
        @param tcp: the file descriptor, as is C{udp}.
        """
        self.open: list[Any] = []
        self.factories: list[IProtocolFactory] = []
        self.protocols: list[DatagramProtocol] = []
        self._reactor = reactor
        self._family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        self._tcp = tcp
        self._udp = udp

    def tcp(self, name: str, number: int, factory: IProtocolFactory) -> IListeningPort:
        """See L{tbeast.surface.Ports.tcp}."""
        port: IListeningPort = self._reactor.adoptStreamPort(self._tcp, self._family, factory)
        self.open.append(port)
        self.factories.append(factory)
        return port

    def udp(self, name: str, number: int, protocol: DatagramProtocol) -> IListeningPort:
        """See L{tbeast.surface.Ports.udp}."""
        port: IListeningPort = self._reactor.adoptDatagramPort(self._udp, self._family, protocol)
        self.open.append(port)
        self.protocols.append(protocol)
        return port

    def rest(self) -> None:
        """Take no more connections and datagrams: they wait for whoever has inherited the same ports."""
        for port in self.open:
            port.stopReading()


def make_memory(size: int) -> int:
    """Make memory that processes can share, zeros at the beginning; give its file descriptor."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("tbeast", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def mapped(descriptor: int, size: int, writable: bool) -> memoryview:
    """Map that memory; a reader's cannot be written, not even by mistake."""
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return memoryview(mmap.mmap(descriptor, size, mmap.MAP_SHARED, access))
