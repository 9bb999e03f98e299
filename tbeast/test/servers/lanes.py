"""What it takes to hold two lanes to the same answers: the same house twice, and a client at the door of each.

A L{Door} is a price surface with one client in front of it. L{MemoryDoor} is one in memory, with the transport of real
connections on a socket that the test plays; whoever has another kind of lane writes another door. A story is a list of
L{Step}s, told to each door in turn; what came of it is compared by L{Outcome}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from attrs import field, frozen, mutable
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.task import Clock
from twisted.internet.tcp import Server
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from tbeast.domain.keys import account_of
from tbeast.domain.usage import Row
from tbeast.servers.fastlane import PriceSite
from tbeast.servers.site import WebSite
from tbeast.test.servers.rooms import FREE, PARTNER, House, Ring, quote_of

UNLIMITED = "unlimited-key-1"
MANY = 200_000


class LaneHouse(House):
    """A house whose price surface has the lane in front."""

    def site(self, root: Resource) -> WebSite:
        return PriceSite(
            root, gate=self.gate, answers=self.answers, reactor=self.clock, now=self.now, new_id=self.new_id,
            counters=self.counters, service="lpo", ledger=self.ledger,
        )  # fmt: skip


class Turns(Clock):
    """A reactor whose turns the test makes: first what is due, then who can read, then who can write."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []
        self.writers: list[Any] = []

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

    def turn(self) -> bool:
        """Make one turn; say whether anything happened."""
        due = [call for call in self.calls if call.getTime() <= self.seconds()]
        for call in due:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
        readable = [reader for reader in self.readers if reader.socket.can_read]
        for reader in readable:
            if reader in self.readers:
                self._end(reader, reader.doRead(), True)
        writable = [writer for writer in self.writers if writer.socket.can_write]
        for writer in writable:
            if writer in self.writers:
                self._end(writer, writer.doWrite(), False)
        return bool(due or readable or writable)

    def settle(self) -> None:
        """Make turns until nothing happens any more."""
        for _ in range(MANY):
            if not self.turn():
                return
        raise AssertionError("it does not come to rest")

    def _end(self, transport: Any, why: Any, was_reading: bool) -> None:
        if not why:
            return
        self.removeReader(transport)
        if was_reading and isinstance(why, ConnectionDone) and IHalfCloseableDescriptor.providedBy(transport):
            transport.readConnectionLost(Failure(why))
        else:
            self.removeWriter(transport)
            transport.connectionLost(Failure(why))


@mutable(eq=False, slots=False)
class PlayedSocket:
    """The server's end of a connection whose client is the test.

    @ivar sent: what the server has sent.
    @ivar room: how many bytes the client still takes.
    @ivar is_closed: whether the server has ended it.
    """

    sent: bytearray = field(factory=bytearray)
    room: int = MANY * 1000
    is_closed: bool = False
    _incoming: bytearray = field(factory=bytearray)
    _is_ended: bool = False
    _is_reset: bool = False

    def put(self, data: bytes) -> None:
        self._incoming += data

    def end(self) -> None:
        self._is_ended = True

    def reset(self) -> None:
        self._is_reset = True

    @property
    def waiting(self) -> int:
        """How many bytes the server has not read."""
        return len(self._incoming)

    @property
    def can_read(self) -> bool:
        return bool(self._incoming) or self._is_ended or self._is_reset

    @property
    def can_write(self) -> bool:
        return self.room > 0 or self._is_reset

    # What a transport needs.

    def recv(self, most: int) -> bytes:
        if self._is_reset:
            raise ConnectionResetError(104, "reset")
        data = bytes(self._incoming[:most])
        if not data and not self._is_ended:
            raise BlockingIOError(11, "nothing there")
        del self._incoming[:most]
        return data

    def send(self, data: bytes) -> int:
        if self._is_reset:
            raise BrokenPipeError(32, "gone")
        if self.room <= 0:
            raise BlockingIOError(11, "no room")
        part = bytes(data[: self.room])
        self.room -= len(part)
        self.sent += part
        return len(part)

    def fileno(self) -> int:
        return id(self)

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def getsockname(self) -> tuple[str, int]:
        return "192.0.2.1", 8080

    def setsockopt(self, *_: Any) -> None:
        pass

    def shutdown(self, _: int) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


@frozen
class Outcome:
    """What a client and an operator can see of what happened.

    @ivar sent: every byte that the client got.
    @ivar is_closed: whether the connection was ended.
    @ivar recorded: the ledger's rows.
    @ivar counted: the counters.
    @ivar used: what each key has used of its month.
    """

    sent: bytes
    is_closed: bool
    recorded: tuple[Row, ...]
    counted: dict[tuple[str, ...], int]
    used: dict[str, int]


class Door(Protocol):
    """A price surface with one client before it.

    @ivar house: what stands behind it.
    """

    @property
    def house(self) -> House:
        """See above."""

    def send(self, data: bytes) -> None:
        """The client sends, and everything that comes of it happens."""

    def end(self) -> None:
        """The client has no more to say, but still listens."""

    def send_and_end(self, data: bytes) -> None:
        """It sends, and has no more to say; the server hears both at the same time."""

    def take(self, room: int) -> None:
        """The client reads so many bytes more and then no others; see L{PlayedSocket.room}."""

    def pass_time(self, seconds: float) -> None:
        """Time goes by."""

    def close(self) -> None:
        """The port is closed."""

    def outcome(self) -> Outcome:
        """What has come of it until now."""


Step = Callable[[Door], object]


class MemoryDoor:
    """A L{Door} in memory.

    @param kind: the house, with a lane or without.
    """

    def __init__(self, kind: type[House]) -> None:
        self.turns = Turns()
        self.house = furnished(kind)
        self.house.clock = self.turns
        self.site: Any = self.house.site(self.house.lpo())
        self.socket = PlayedSocket()
        self.channel = self.site.buildProtocol(None)
        played: Any = self.socket
        self.transport = Server(played, self.channel, ("192.0.2.7", 5000), None, 1, self.turns)  # type: ignore[arg-type]
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.socket.put(data)
        self.turns.settle()

    def end(self) -> None:
        self.socket.end()
        self.turns.settle()

    def send_and_end(self, data: bytes) -> None:
        self.socket.put(data)
        self.end()

    @property
    def is_read(self) -> bool:
        """Whether the server would read what the client sends."""
        return self.transport in self.turns.readers

    def reset(self) -> None:
        """The client is gone."""
        self.socket.reset()
        self.turns.settle()

    def take(self, room: int) -> None:
        self.socket.room = room
        self.turns.settle()

    def pass_time(self, seconds: float) -> None:
        self.house.time += seconds
        self.turns.rightNow += seconds
        self.turns.settle()

    def close(self) -> None:
        self.site.stopFactory()
        self.turns.settle()

    def outcome(self) -> Outcome:
        return seen(self.house, bytes(self.socket.sent), self.socket.is_closed)


class _LargerRing(Ring):
    def __init__(self) -> None:
        super().__init__()
        self.keys = {
            PARTNER: self.accounts[0],
            FREE: self.accounts[1],
            UNLIMITED: account_of(UNLIMITED, "unlimited", "u"),
        }
        self.accounts = list(self.keys.values())

    def find(self, key: bytes) -> Any:
        return self.keys.get(key.decode("latin-1"))


def furnished(kind: type[House]) -> House:
    """A house in which something of everything can happen.

    BTC lies on the shelf, ETH has to be looked up and waits, DOGE and SOL have no price; a key without limits, one with
    few and one with many.
    """
    house = kind()
    house.gate.keyring = _LargerRing()
    house.lookup.later("ETH")
    return house


def answer_lookup(door: Door) -> None:
    """The look-up of ETH comes to its end, and the next will wait again."""
    waiting: Any = door.house.lookup.outcomes["ETH"]
    door.house.lookup.later("ETH")
    waiting.callback(quote_of("ETH", 1800.5, observed_at=door.house.time, fresh_until=door.house.time + 60.0))


def seen(house: House, sent: bytes, is_closed: bool) -> Outcome:
    """Put an outcome together from what the client got and what the house has noted."""
    rows = house.ledger.cut(MANY)
    house.ledger.put_back(rows)
    house.counters.gather()
    accounts: Any = house.gate.keyring
    return Outcome(
        sent, is_closed, tuple(sorted(rows)), dict(house.counters.counts),
        {account.key_id: house.gate.used(account.key_id) for account in accounts.accounts},
    )  # fmt: skip
