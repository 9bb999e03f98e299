"""WebSockets without a network: a dialer, and the exchange's end of every connection it made.

The twin keeps the real one's promises: nothing is told before C{dial} has returned, C{closed} comes exactly once and
last, on a later turn of the clock, and nothing else is heard after an abort or a close.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from tbeast.interfaces import FrameListener


class MemoryPeer:
    """One connection, seen from the exchange's side; for its owner it is the socket and the dialing in one.

    @ivar url: what was dialed.
    @ivar sent: every text that the owner sent, in order.
    @ivar pings: how many pings it sent.
    @ivar accepted: whether the handshake was answered.
    @ivar reason: why it ended; C{None} while it lives.
    @ivar asked_to_close: the reason that the owner gave to C{close}, if it did.
    @ivar aborted: whether the owner aborted it.
    """

    def __init__(self, clock: IReactorTime, url: str, listener: FrameListener) -> None:
        self.url = url
        self.sent: list[str] = []
        self.pings = 0
        self.accepted = False
        self.reason: str | None = None
        self.asked_to_close: str | None = None
        self.aborted = False
        self._clock = clock
        self._listener = listener
        self._over = False
        self._given: str | None = None  # the first reason, when the owner ended it

    # The exchange's side, for the test to play.

    def accept(self) -> None:
        """Answer the handshake."""
        if not self._over:
            self.accepted = True
            self._listener.opened(self)

    def say(self, message: object) -> None:
        """Send one message: bytes as they are, text encoded, anything else as JSON."""
        if self._over:
            return
        if isinstance(message, str):
            message = message.encode()
        self._listener.frame(message if isinstance(message, bytes) else json.dumps(message).encode())

    def pong(self) -> None:
        """Send a pong."""
        if not self._over:
            self._listener.ponged()

    def end(self, reason: str = "lost: ended without a close frame") -> None:
        """End the connection, or refuse it when it was not accepted yet."""
        if self.reason is None:
            self._over = True
            self.reason = self._given or reason
            self._listener.closed(self.reason)

    @property
    def alive(self) -> bool:
        """Whether it is open, and neither side has asked to end it."""
        return self.accepted and not self._over

    # The owner's side.

    def send(self, text: str) -> None:
        """See L{tbeast.interfaces.FrameSocket.send}."""
        if self.alive:
            self.sent.append(text)

    def ping(self) -> None:
        """See L{tbeast.interfaces.FrameSocket.ping}."""
        if self.alive:
            self.pings += 1

    def close(self, reason: str) -> None:
        """See L{tbeast.interfaces.FrameSocket.close}; the exchange answers at once."""
        if not self._over:
            self.asked_to_close = reason
            self._end_later(reason)

    def abort(self) -> None:
        """See L{tbeast.interfaces.Dialing.abort}."""
        if not self._over:
            self.aborted = True
            self._end_later("aborted")

    def _end_later(self, reason: str) -> None:
        self._over = True
        self._given = reason
        self._clock.callLater(0, self.end, reason)


class MemoryDialer:
    """L{tbeast.interfaces.SocketDialer} in memory.

    @ivar peers: the exchange's ends of all connections that were dialed, in order.
    @ivar script: called with every new peer, on the turn after it was dialed; by default nobody answers.
    """

    def __init__(self, clock: IReactorTime, script: Callable[[MemoryPeer], object] | None = None) -> None:
        self._clock = clock
        self.script = script
        self.peers: list[MemoryPeer] = []

    def dial(self, url: str, listener: FrameListener) -> MemoryPeer:
        """See L{tbeast.interfaces.SocketDialer.dial}."""
        peer = MemoryPeer(self._clock, url, listener)
        self.peers.append(peer)
        if self.script is not None:
            self._clock.callLater(0, self.script, peer)
        return peer

    @property
    def last(self) -> MemoryPeer:
        """The newest connection."""
        return self.peers[-1]

    def alive(self) -> list[MemoryPeer]:
        """The connections that are open."""
        return [peer for peer in self.peers if peer.alive]
