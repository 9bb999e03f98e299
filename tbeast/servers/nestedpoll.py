"""Many connections that the reactor sees as one: they are watched by an epoll of their own.

The reactor's way to each ready connection, with its logging context and its checks, costs more than a fast answer
itself. A L{NestedPoll} is one descriptor in the reactor, readable when any of its connections is. Then it lets all read
that can, and looks again until there are none; but only up to L{AT_A_TURN} reads in a turn of the reactor, so that
others have theirs. Who is left out comes first in the next turn: epoll sees to that.

Only reading goes this way. What cannot be sent at once is written by the reactor itself, as ever.

It is also the reactor that a connection's transport is given: so every stop and start of reading, whoever asks for it,
comes here, and everything else goes on to the real one. The epoll is there while there is a connection to watch.
"""

from __future__ import annotations

import select
from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

AT_A_TURN: Final = 256
"""How many reads there are before others have their turn: two or three milliseconds."""

_LOST: Final = Failure(CONNECTION_LOST)  # type: ignore[no-untyped-call]


@implementer(IReadDescriptor)
class NestedPoll:
    """The descriptor, and the reactor of its transports."""

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll: Any = None
        self._reading: dict[int, Any] = {}
        self._outside: set[Any] = set()  # whom the reactor itself watches

    def __getattr__(self, name: str) -> Any:
        """What a transport asks of its reactor beside reading, the reactor gives."""
        return getattr(self._reactor, name)

    def __len__(self) -> int:
        """How many are watched."""
        return len(self._reading)

    def addReader(self, transport: Any) -> None:
        """Watch a transport, and call its C{doRead} when there is something to read."""
        number = transport.fileno()
        if number in self._reading or transport in self._outside:
            return
        if self._epoll is None:
            try:
                self._epoll = select.epoll()
            except OSError:  # no descriptor is left for it
                self._outside.add(transport)
                self._reactor.addReader(transport)
                return
            self._reactor.addReader(self)
        self._epoll.register(number, select.EPOLLIN)
        self._reading[number] = transport

    def removeReader(self, transport: Any) -> None:
        """Watch it no more."""
        number = transport.fileno()
        if transport in self._outside:
            self._outside.discard(transport)
            self._reactor.removeReader(transport)
        if self._reading.pop(number, None) is None:
            return
        self._epoll.unregister(number)
        if not self._reading:
            self._reactor.removeReader(self)
            self._epoll.close()
            self._epoll = None

    def fileno(self) -> int:
        """Of the epoll."""
        return -1 if self._epoll is None else int(self._epoll.fileno())

    def logPrefix(self) -> str:
        """How the reactor calls it in the log."""
        return type(self).__name__

    def doRead(self) -> None:
        """Let those read that can."""
        reading = self._reading
        left = AT_A_TURN
        while self._epoll is not None:
            ready = self._epoll.poll(0, left)
            for number, _ in ready:
                transport = reading.get(number)
                if transport is None:
                    continue
                try:
                    why = transport.doRead()
                except Exception as error:
                    self._log.failure("A connection failed, and is ended")
                    why = error
                if why is not None:
                    self._end(transport, why)
            left -= len(ready)
            if left <= 0 or not ready:
                return

    def _end(self, transport: Any, why: Exception) -> None:
        """As the reactor does: who sends no more may still read; every other reason is the end."""
        self.removeReader(transport)
        reason = Failure(why)  # type: ignore[no-untyped-call]
        if isinstance(why, ConnectionDone):
            transport.readConnectionLost(reason)
        else:
            self._reactor.removeWriter(transport)
            transport.connectionLost(reason)

    def connectionLost(self, reason: Failure = _LOST) -> None:
        """The reactor lets go of all its descriptors: so must those go that it does not see."""
        for transport in list(self._reading.values()):
            transport.connectionLost(reason)


def nested_in(reactor: Any) -> NestedPoll | None:
    """A poll within this reactor; C{None} where that is not possible, and transports stay with the reactor."""
    return NestedPoll(reactor) if hasattr(select, "epoll") and IReactorFDSet.providedBy(reactor) else None
