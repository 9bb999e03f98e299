"""A L{Door} before a surface with the native lane in front, over real sockets.

Everything is the daemon's own but the reactor, whose turns the test makes, and the clock of the house. Nothing is
waited for by the clock: what one end has sent has come to the other when the kernel says so (TCP_INFO).

The native part goes on with the machine's clock within a turn, so a moment there is not quite the same as in a house in
which time stands still: see L{tbeast.test.servers.levels}.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from attrs import evolve
from twisted.internet.interfaces import IHalfCloseableDescriptor, IReactorFDSet
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.task import Clock
from twisted.internet.tcp import Server
from twisted.python.failure import Failure
from zope.interface import implementer

from tbeast.domain.plans import Plan
from tbeast.domain.sharedshelf import BYTES, SharedShelf, TwinShelf
from tbeast.servers.nativelanes import LearningGate, NativeLanes
from tbeast.servers.udp import PriceDatagrams
from tbeast.test.native.parts import PATIENCE_SECONDS, open_lanes
from tbeast.test.servers.lanes import LaneHouse, Outcome, furnished, seen
from tbeast.test.servers.levels import without_lanes
from tbeast.test.servers.rooms import House, Ring, quote_of

HERE: Final = "127.0.0.1"
MOST_TURNS: Final = 100_000

SLOW: Final = Plan("free", None, 1.0 / 1_000_000.3, 5, 1_000_000.3, None)
"""Five questions and no more for as long as a test lasts. Whole seconds of it change nowhere near a whole second, so
it does not matter to a few milliseconds when one asks."""
FEW: Final = Plan("unlimited", 40, None, None, 0.0, None)


class NativeHouse(LaneHouse):
    """A house with the native lane in front of its price surface, and its shelf in shared memory.

    @ivar lanes: the native part.
    """

    gate: LearningGate

    def __init__(self) -> None:
        super().__init__()
        memory = memoryview(bytearray(BYTES))
        self.lanes = open_lanes(memory)
        self.shelf = self.answers.shelf = TwinShelf(SharedShelf(memory))
        self.gate = LearningGate(Ring(), self.lanes)
        self.put(quote_of())


def furnish(house: House) -> None:
    """Give the keys such limits that it does not matter to a moment when they ask, and let each ask once.

    After the first question of a key the native part knows it.
    """
    ring: Any = house.gate.keyring
    partner, free, unlimited = ring.accounts
    ring.accounts = [partner, evolve(free, plan=SLOW), evolve(unlimited, plan=FEW)]
    ring.keys = dict(zip(ring.keys, ring.accounts, strict=True))
    for key in ring.keys:
        house.gate.admit(key.encode(), house.time)


@implementer(IReactorFDSet)
class SocketTurns(Clock):
    """A reactor of real descriptors whose turns the test makes.

    @ivar spent: how long all turns have taken, by the machine's clock, in seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []
        self.writers: list[Any] = []
        self.spent = 0.0

    def addReader(self, reader: Any) -> None:
        if reader not in self.readers:
            self.readers.append(reader)

    def addWriter(self, writer: Any) -> None:
        if writer not in self.writers:
            self.writers.append(writer)

    def removeReader(self, reader: Any) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def removeWriter(self, writer: Any) -> None:
        if writer in self.writers:
            self.writers.remove(writer)

    def removeAll(self) -> list[Any]:
        raise NotImplementedError

    def getReaders(self) -> list[Any]:
        return self.readers

    def getWriters(self) -> list[Any]:
        return self.writers

    def adoptStreamConnection(self, descriptor: int, family: socket.AddressFamily, factory: Any) -> None:
        """As the reactors of Twisted do."""
        Server._fromConnectedSocket(descriptor, family, factory, self)

    def turn(self) -> bool:
        """Make one turn; say whether anything happened."""
        began = time.monotonic()
        try:
            return self._turn()
        finally:
            self.spent += time.monotonic() - began

    def _turn(self) -> bool:
        due = any(call.getTime() <= self.seconds() for call in self.calls)
        self.advance(0.0)
        happened = due
        for those, event, what in (
            (self.readers, select.POLLIN, "doRead"), (self.writers, select.POLLOUT, "doWrite"),
        ):  # fmt: skip
            for one in _ready(those, event):
                if one in those:
                    happened = True
                    self._end(one, getattr(one, what)(), what == "doRead")
        return happened

    def wait(self) -> None:
        """Wait until somebody can read."""
        poll = select.poll()
        for reader in self.readers:
            poll.register(reader.fileno(), select.POLLIN)
        assert poll.poll(PATIENCE_SECONDS * 1e3), "it did not come"

    def settle(self) -> None:
        """Make turns until nothing happens any more."""
        for _ in range(MOST_TURNS):
            if not self.turn():
                return
        raise AssertionError("it does not come to rest")

    def _end(self, one: Any, why: Any, was_reading: bool) -> None:
        if not why:
            return
        self.removeReader(one)
        if was_reading and why is CONNECTION_DONE and IHalfCloseableDescriptor.providedBy(one):
            one.readConnectionLost(Failure(why))
        else:
            self.removeWriter(one)
            one.connectionLost(Failure(why))


def _ready(those: list[Any], event: int) -> list[Any]:
    poll = select.poll()
    by_number = {one.fileno(): one for one in those}
    for number in by_number:
        poll.register(number, event)
    return [by_number[number] for number, _ in poll.poll(0)]


class PlayedPort:
    """A listening port as Twisted has it, on a real socket."""

    addressFamily = socket.AF_INET

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.is_reading = True
        sock.setblocking(False)

    def fileno(self) -> int:
        return self.socket.fileno()

    def stopReading(self) -> None:
        self.is_reading = False


class NativeDoor:
    """A L{Door} over real sockets. Whoever opens one closes it with L{shut}.

    @ivar native: the lanes.
    """

    def __init__(self) -> None:
        self.turns = SocketTurns()
        self.house: NativeHouse = furnished(NativeHouse)  # type: ignore[assignment]
        self.house.clock = self.turns
        furnish(self.house)
        house = self.house
        site: Any = house.site(house.lpo())
        self.site = site
        self.native = NativeLanes(house.lanes, self.turns, house.now, house.ledger, house.counters)
        self.listening = socket.create_server((HERE, 0))
        self.port = PlayedPort(self.listening)
        self.native.take_connections(self.port, self.site)
        self.client = self.connect()

    def connect(self, room: int | None = None) -> socket.socket:
        """Another client, taken by the lane.

        @param room: how much it is sent before it reads, about.
        """
        before = self.house.lanes.figures()["accepted"]
        client = socket.socket()
        if room is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        client.settimeout(PATIENCE_SECONDS)
        client.connect(self.listening.getsockname())
        client.setblocking(False)
        self.wait_for(lambda: self.house.lanes.figures()["accepted"] > before)
        self._sent = 0
        self._taken = bytearray()
        self._is_closed = False
        self._number = -1
        return client

    @property
    def tolerance(self) -> float:
        """How far moments here may be from those in a house in which time stands still, in seconds."""
        return self.turns.spent + 0.0011

    @property
    def sent(self) -> bytes:
        """What the client has got."""
        return bytes(self._taken)

    @property
    def is_closed(self) -> bool:
        """Whether the server has ended the connection."""
        return self._is_closed

    @property
    def is_native(self) -> bool:
        """Whether the client is in the lane."""
        return self.native.connections == 1

    @property
    def is_read(self) -> bool:
        """Whether the server would read what the client sends."""
        readers = [*self.turns.readers, *self.site.poll._reading.values()]
        return self.is_native or any(isinstance(reader, Server) for reader in readers)

    # What the client does.

    def send(self, data: bytes) -> None:
        self.put(data)
        self._settle()

    def end(self) -> None:
        self._finish()
        self._settle()

    def send_and_end(self, data: bytes) -> None:
        self.put(data)
        self._finish()
        self._settle()

    def take(self, room: int) -> None:
        raise NotImplementedError

    # What happens meanwhile.

    def pass_time(self, seconds: float) -> None:
        self.house.time += seconds
        self.turns.rightNow += seconds
        self._settle()

    def close(self) -> None:
        """As the surface closes its port."""
        self.native.end_connections()
        self.site.stopFactory()
        self._settle()

    def outcome(self) -> Outcome:
        self.house.counters.gather()
        return without_lanes(seen(self.house, bytes(self._taken), self._is_closed))

    def shut(self) -> None:
        """Leave nothing behind."""
        self.client.close()
        self.native.end_connections()
        self.house.lanes.close()
        for channel in list(self.site.connections):
            channel.transport.abortConnection()
        self.turns.settle()
        assert not self.site.connections
        self.listening.close()

    def put(self, data: bytes) -> None:
        """The client sends, and no more than that happens."""
        left = memoryview(data)
        end = time.monotonic() + PATIENCE_SECONDS
        while left and self._server_end() is not None:
            try:
                sent = self.client.send(left)
            except BlockingIOError:
                self.turns.turn()
                assert time.monotonic() < end, "the server does not read"
                continue
            except ConnectionError:
                return
            left = left[sent:]
            self._sent += sent

    def _finish(self) -> None:
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_WR)
            self._sent += 1  # as the kernel counts it

    def _settle(self) -> None:
        """What was sent arrives, everything that comes of it happens, and comes back."""
        self.wait_for(lambda: (there := self._server_end()) is None or there.received >= self._sent, turning=False)
        self.turns.settle()
        if not self._is_closed:
            self.wait_for(self._has_all, turning=False)

    def _has_all(self) -> bool:
        there = self._server_end()
        with contextlib.suppress(BlockingIOError):
            try:
                while data := self.client.recv(65_536):
                    self._taken += data
            except ConnectionError:
                data = b""
            self._is_closed = not data
        return self._is_closed or (there is not None and len(self._taken) >= there.sent)

    def _server_end(self) -> TcpInfo | None:
        """What the kernel knows of the server's end of the client's connection; C{None}: the server has closed it."""
        ours = self.client.getsockname()
        for number in (self._number, *_descriptors()):
            found = None if number < 0 else _info_of(number, ours)
            if found is not None:
                self._number = number
                return found
        self._number = -1
        return None

    def read_until(self, is_so: Callable[[bytes], object]) -> None:
        """The client reads until it has what it wants."""

        def has_it() -> object:
            with contextlib.suppress(BlockingIOError):
                self._taken += self.client.recv(65_536)
            return is_so(bytes(self._taken))

        self.wait_for(has_it)

    def server_option(self, level: int, option: int) -> int:
        """How an option of the server's end of the connection is set."""
        assert self._server_end() is not None
        sock = socket.socket(fileno=self._number)
        try:
            return sock.getsockopt(level, option)
        finally:
            sock.detach()

    def wait_for(self, is_so: Callable[[], object], turning: bool = True) -> None:
        """Wait for something that must come; let the server go on meanwhile, unless it is not to."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert time.monotonic() < end, "it did not come"
            if not (turning and self.turns.turn()):
                time.sleep(0.0001)


class _Sending:
    """What the ordinary protocol of datagrams writes to."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def write(self, datagram: bytes, addr: Any) -> None:
        self._socket.sendto(datagram, addr)


class NativeDesk:
    """A house that answers datagrams natively, and somebody who asks. Whoever opens one closes it with L{shut}.

    @ivar native: the lanes.
    @ivar asking: the socket of who asks.
    """

    def __init__(self) -> None:
        self.turns = SocketTurns()
        self.house: NativeHouse = furnished(NativeHouse)  # type: ignore[assignment]
        house = self.house
        furnish(house)
        self.native = NativeLanes(house.lanes, self.turns, house.now, house.ledger, house.counters)
        self.protocol = PriceDatagrams(
            gate=house.gate, answers=house.answers, counters=house.counters, now=house.now, ledger=house.ledger
        )
        self.answering = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.answering.bind((HERE, 0))
        self.protocol.transport = _Sending(self.answering)  # type: ignore[assignment]
        self.port = PlayedPort(self.answering)
        self.native.take_datagrams(self.port, self.protocol)
        self.asking = self.asker()

    def asker(self) -> socket.socket:
        """Somebody else who asks."""
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asking.bind((HERE, 0))
        asking.connect(self.answering.getsockname())
        asking.settimeout(PATIENCE_SECONDS)
        return asking

    @property
    def tolerance(self) -> float:
        """As L{NativeDoor.tolerance}."""
        return self.turns.spent + 0.0011

    def ask(self, datagram: bytes, answers: int) -> list[bytes]:
        """Ask, and receive so many answers."""
        self.asking.send(datagram)
        self.turns.wait()
        self.turns.settle()
        return [self.asking.recv(65_536) for _ in range(answers)]

    def shut(self) -> None:
        """Leave nothing behind."""
        self.native.end_datagrams()
        self.house.lanes.close()
        self.answering.close()
        self.asking.close()


class TcpInfo(NamedTuple):
    """What the kernel says of one end of a connection.

    @ivar received: bytes that have come in; the end counts as one.
    @ivar sent: bytes that have gone out.
    """

    received: int
    sent: int


_RECEIVED_AT, _SENT_AT, _SENT_AGAIN_AT = 128, 200, 208


def _info_of(number: int, peer: Any) -> TcpInfo | None:
    """Of the connection with C{peer} behind a descriptor; C{None} if it is none."""
    try:
        sock = socket.socket(fileno=number)
    except OSError:
        return None
    try:
        if sock.getpeername() != peer:
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:
        return None
    finally:
        sock.detach()
    (received,), (sent,), (again,) = (
        struct.unpack_from("Q", info, at) for at in (_RECEIVED_AT, _SENT_AT, _SENT_AGAIN_AT)
    )
    return TcpInfo(received, sent - again)


def _descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]
