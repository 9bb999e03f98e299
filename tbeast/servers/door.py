"""The door: which TCP connections are let in, of all price and report ports of a process.

The governor says how many there may be (L{tbeast.domain.governor}); the door knows how many there are, in the native
lane and in every site, and a connection that moves from the one to the other stays one. The health port has no door,
and neither have datagrams.

Who finds no room is told so by a 503 with C{Retry-After}, before a byte of the question was read, and the connection
ends. The text is written once in a round, with the date and one request id for all who are refused within it; to give
it takes an accept and a few calls of the kernel, no protocol, no transport. The socket is then held for a moment with
our half closed: to close it over bytes that were not read, or that still come, would reset the connection, and the
client might lose what it was told. At most L{HELD_MOST} are held, each for L{HELD_SECONDS}; in a flood the oldest goes
as the next one comes, and where descriptors are short all go.

Under TLS nothing can be told without a handshake, which costs more than many answers: there the connection is closed
before it.

The port of the report surface has L{RESERVED} seats of its own, also where the node is full: operators come in there,
and it is then that they must. These are the only ones by which a node may hold more than its limit.

In one turn of the reactor only L{ACCEPTS_A_TURN} are let in, and only L{REFUSALS_A_TURN} refused: those inside have
their turn. In the native lane (see C{tbeast/native/lanes.c}) the same holds between two looks at the connections there.
The others wait in the queue of the kernel, and when that is full, at the door of the machine.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.tcp import Port

from tbeast.codecs import problems
from tbeast.codecs.problems import Problem
from tbeast.domain.counters import Counters
from tbeast.interfaces import Now

RESERVED: Final = 8
ACCEPTS_A_TURN: Final = 64
REFUSALS_A_TURN: Final = 16
HELD_MOST: Final = 256
HELD_SECONDS: Final = 1.0
READ_AWAY_BYTES: Final = 65_536

RETRY_SECONDS: Final = 2
"""What C{Retry-After} says: a round of the governor, and the next, in which room may have come from another node."""

FAMILY: Final = "refused_connections"

_PROBLEM: Final = Problem(
    "too_many_connections",
    f"This node holds as many connections as it may; come back in {RETRY_SECONDS} s, or ask another node.",
    {"retry_after_seconds": float(RETRY_SECONDS)},
)


_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)

_TOGETHER: Final = getattr(socket, "MSG_MORE", 0)
"""What is sent so leaves with our end of the connection, in one segment."""


class Governor(Protocol):
    """What the door needs of L{tbeast.domain.governor.Governor}.

    @ivar limit: how many connections there may be.
    @ivar connections: how many there are; told by the door.
    @ivar refused: how many were refused; told by the door.
    """

    limit: int
    connections: int
    refused: int


class Lanes(Protocol):
    """What the door needs of the native lane.

    @ivar room: for how many connections there is room in it.
    @ivar refusal: what others are told.
    @ivar connections: how many it holds.
    @ivar refused: how many it has refused.
    """

    room: int
    refusal: bytes

    @property
    def connections(self) -> int:
        """See above."""

    @property
    def refused(self) -> int:
        """See above."""


class Site(Protocol):
    """Whose connections count.

    @ivar connections: those that there are.
    """

    @property
    def connections(self) -> set[Any]:
        """See above."""

    def stand_behind(self, door: Door) -> None:
        """Tell the door when one has come or gone."""


class Door:
    """The door of one process.

    @ivar on_the_way: how many connections have left the native lane, and are counted by no site yet.
    @ivar refusal: what is told to those for whom there is no room.
    @ivar refused: how many were not let in, as far as L{sync} knows.
    """

    def __init__(
        self, governor: Governor, clock: IReactorTime, now: Now, new_id: Callable[[], str], counters: Counters
    ) -> None:
        """Make it, with nothing behind it.

        @param new_id: makes request ids.
        """
        self.refused = 0
        self.refusal = b""
        self.on_the_way = 0
        self._governor = governor
        self._clock = clock
        self._now = now
        self._new_id = new_id
        self._counters = counters
        self._sites: list[Site] = []
        self._lanes: Lanes | None = None
        self._refused_natively = 0
        self._held: deque[tuple[socket.socket, float]] = deque()
        self._next: IDelayedCall | None = None
        self._prepare()

    @property
    def connections(self) -> int:
        """How many there are."""
        return self._outside_lanes() + (self._lanes.connections if self._lanes is not None else 0)

    @property
    def room(self) -> int:
        """How many more may come; below 0 if the limit has sunk below those that there are."""
        return self._governor.limit - self.connections

    # Who stands behind it.

    def join(self, site: Site) -> None:
        """Count a site's connections from now on."""
        site.stand_behind(self)
        self._sites.append(site)

    def take_lanes(self, lanes: Lanes) -> None:
        """Count the connections of the native lane, and have it refuse for itself; there is one."""
        self._lanes = lanes
        lanes.refusal = self.refusal
        self.moved()

    def keep(self, port: object, site: Site, service: str, secured: bool = False, reserved: int = 0) -> None:
        """Decide on the connections of a port that the reactor watches.

        @param site: whose they are.
        @param secured: whether they begin with a handshake of TLS.
        @param reserved: so many are let in whether or not there is room.
        """
        if isinstance(port, Port):
            doorway = _Doorway(self, port, site, service, secured, reserved)
            port.doRead = doorway.read  # type: ignore[method-assign]

    # What changes.

    def moved(self) -> None:
        """Connections have come or gone outside of the lane, or the limit is another."""
        if self._lanes is not None:
            self._lanes.room = max(0, self._governor.limit - self._outside_lanes())

    def sync(self) -> None:
        """Tell the governor what is there and what was refused, as of now, and date the refusal."""
        if self._lanes is not None:
            more = self._lanes.refused - self._refused_natively
            self._refused_natively += more
            self._note_refused(more)
        self._governor.connections = self.connections
        self._prepare()

    def close(self) -> None:
        """Let go of those that were refused."""
        self._sweep(everybody=True)

    def refuse_some(self, listening: socket.socket, service: str, secured: bool) -> None:
        """Take a few connections off the queue and refuse them."""
        refused = 0
        while refused < REFUSALS_A_TURN:
            try:
                connection, _ = listening.accept()
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS and self._held:
                    self._sweep(everybody=True)  # there are some again
                    continue
                break  # nobody waits any more; or there is no descriptor, and they wait
            self._refuse(connection, secured)
            refused += 1
        if refused:
            self._note_refused(refused)
            self._counters.count(FAMILY, service, by=refused)

    def _refuse(self, connection: socket.socket, secured: bool) -> None:
        connection.setblocking(False)
        if not secured:
            with suppress(OSError):  # the client is gone already
                connection.send(self.refusal, _TOGETHER)
                connection.shutdown(socket.SHUT_WR)
                if len(self._held) >= HELD_MOST:
                    _close(self._held.popleft()[0])
                self._held.append((connection, self._clock.seconds() + HELD_SECONDS))
                if self._next is None:
                    self._next = self._clock.callLater(HELD_SECONDS, self._sweep)
                return
        connection.close()

    def _sweep(self, everybody: bool = False) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None
        now = self._clock.seconds()
        while self._held and (everybody or self._held[0][1] <= now):
            _close(self._held.popleft()[0])
        if self._held:
            self._next = self._clock.callLater(self._held[0][1] - now, self._sweep)

    def _note_refused(self, count: int) -> None:
        self.refused += count
        self._governor.refused += count

    def _outside_lanes(self) -> int:
        return self.on_the_way + sum(len(site.connections) for site in self._sites)

    def _prepare(self) -> None:
        request_id = self._new_id()
        body = problems.render(_PROBLEM, request_id)
        self.refusal = (
            b"HTTP/1.1 503 Service Unavailable\r\nServer: tbeast\r\nDate: %b\r\nContent-Type: %b\r\n"
            b"Content-Length: %d\r\nCache-Control: no-store\r\nRetry-After: %d\r\nX-Request-Id: %b\r\n"
            b"Connection: close\r\n\r\n%b"
            % (
                formatdate(int(self._now()), usegmt=True).encode("ascii"), problems.CONTENT_TYPE, len(body),
                RETRY_SECONDS, request_id.encode("ascii"), body,
            )
        )  # fmt: skip
        if self._lanes is not None:
            self._lanes.refusal = self.refusal


class _Doorway:
    """What the reactor calls in the place of a port's own reading."""

    def __init__(self, door: Door, port: Port, site: Site, service: str, secured: bool, reserved: int) -> None:
        self._door = door
        self._port = port
        self._site = site
        self._reserved = reserved
        self._service = service
        self._secured = secured

    def read(self) -> None:
        """There are connections: let in as many as there is room for, in this turn."""
        room = max(self._door.room, self._reserved - len(self._site.connections))
        if room > 0:
            # Twisted lets this grow without end while more come than it takes
            self._port.numberAccepts = min(room, ACCEPTS_A_TURN)
            Port.doRead(self._port)  # type: ignore[no-untyped-call]
        else:
            self._door.refuse_some(self._port.socket, self._service, self._secured)


def _close(connection: socket.socket) -> None:
    """End a connection that was refused a moment ago; what has come on it is read away before."""
    with suppress(OSError):
        connection.recv(READ_AWAY_BYTES)
    connection.close()
