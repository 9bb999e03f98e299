"""Ports: what the rooms of the working floor know of each other.

A service is handed objects that fit these; adapters fit them with the real thing, L{tbeast.testing} with a twin.
Units are in the names; times are seconds since the epoch unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from tbeast.domain.ticks import Tick

Now = Callable[[], float]
"""Gives the time in seconds since the epoch; never goes back."""

Chance = Callable[[], float]
"""Gives a random number in [0, 1)."""


class TickSink(Protocol):
    """Whoever wants to know what the exchanges say: the board."""

    def put(self, tick: Tick, via: str) -> str | None:
        """Take one tick, heard C{via} C{"ws"} or C{"rest"}; return why it was not taken, or C{None}."""

    def connected(self, exchange: str, symbols: tuple[str, ...], now: float) -> None:
        """A live connection now carries these symbols."""

    def disconnected(self, exchange: str, symbols: tuple[str, ...], now: float) -> None:
        """No live connection carries these symbols any more."""

    def halted(self, exchange: str, symbols: tuple[str, ...], halted: bool) -> None:
        """The exchange has stopped (or resumed) trading in these symbols; empty: in all."""


class FrameSocket(Protocol):
    """An open WebSocket."""

    def send(self, text: str) -> None:
        """Send one text message; nothing happens if the socket is gone."""

    def ping(self) -> None:
        """Send a protocol-level ping."""

    def close(self, reason: str) -> None:
        """Close in good order, and by force if the peer does not answer within a few seconds."""


class FrameListener(Protocol):
    """Whoever owns a WebSocket: told what happens to it, C{closed} exactly once and last."""

    def opened(self, socket: FrameSocket) -> None:
        """The handshake is done."""

    def frame(self, payload: bytes) -> None:
        """One whole message, text or binary, within the size limit."""

    def ponged(self) -> None:
        """A protocol-level ping or pong came in."""

    def closed(self, reason: str) -> None:
        """It is over (or never came to be); C{reason} says why in few words."""


class Dialing(Protocol):
    """A connection attempt under way, or its open socket."""

    def abort(self) -> None:
        """End it at once, in whatever state it is; C{closed} is still told."""


class SocketDialer(Protocol):
    """Opens WebSockets."""

    def dial(self, url: str, listener: FrameListener) -> Dialing:
        """Begin to open C{url}; C{listener} is told the outcome, never before this returns."""


class RestFetcher(Protocol):
    """Asks HTTP questions."""

    def fetch(self, url: str, headers: Mapping[str, str]) -> Awaitable[tuple[int, Mapping[str, str], bytes]]:
        """GET C{url}: status, headers by lower-case name, body.

        @raise tbeast.errors.FetchError: when there is no answer in time, or it is too large.
        """


class PriceCache(Protocol):
    """The shared cache of prices by asset: Valkey's C{price:<ASSET>}, or its in-process twin."""

    def get(self, asset: str) -> Awaitable[bytes | None]:
        """The JSON text stored for C{asset}, C{None} when there is none or the cache cannot be asked."""

    def set(self, asset: str, value: bytes, seconds_to_live: int) -> Awaitable[None]:
        """Store it for so long; a cache that cannot be reached loses it, and says so in its counters."""
