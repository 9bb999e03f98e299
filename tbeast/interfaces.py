"""Ports: what the rooms of the working floor know of each other.

A service is handed objects that fit these; adapters fit them with the real thing, L{tbeast.testing} with a twin.
Units are in the names; times are seconds since the epoch unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from attrs import frozen

from tbeast.domain.keys import KeyRecord
from tbeast.domain.ticks import Tick
from tbeast.domain.usage import Batch

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

    def set_many(self, values: Mapping[str, bytes], seconds_to_live: int) -> Awaitable[None]:
        """Store several by asset, as L{set} does, in one go."""


@frozen
class RefusedRow:
    """One row that the database would not take; it was set aside.

    @ivar place: its number within the batch.
    """

    batch_id: str
    place: int
    reason: str


@frozen
class Written:
    """What became of batches that were written.

    @ivar refused: rows that were set aside; all others are in the database.
    @ivar usage: by key id, the month (C{YYYY-MM}) and the questions admitted in it on all nodes, after this writing.
    """

    refused: tuple[RefusedRow, ...]
    usage: Mapping[str, tuple[str, int]]


class UsageStore(Protocol):
    """Where usage goes in the end: PostgreSQL, or a queue whose reader writes to it."""

    def write(self, batches: Sequence[Batch]) -> Awaitable[Written]:
        """Write all of them, each batch once however often it is asked for.

        @raise tbeast.errors.StoreUnavailableError: nothing is known to be written; to be tried again with the same ids.
        """


class KeyStore(Protocol):
    """The keys, as the database has them."""

    def changed_since(self, mark: float | None) -> Awaitable[tuple[Sequence[KeyRecord], float]]:
        """The keys that were made, changed or revoked since C{mark} (C{None}: all), and the mark to ask with next.

        @raise tbeast.errors.StoreUnavailableError: when it cannot be asked now.
        """


class KeyCopies(Protocol):
    """Copies of the keys in the shared cache, for a node that starts while the database is away."""

    def put_many(self, copies: Mapping[str, bytes]) -> Awaitable[None]:
        """Store copies by the hexadecimal SHA-256 of their keys, for a day.

        @raise tbeast.errors.CacheUnavailableError: when it cannot be asked now; so do the others.
        """

    def remove(self, digests: Sequence[str]) -> Awaitable[None]:
        """Forget them."""

    def all(self) -> Awaitable[Mapping[str, bytes]]:
        """Every copy that there is."""


class KeyEvents(Protocol):
    """Word of changed keys between nodes."""

    def publish(self, message: bytes) -> Awaitable[None]:
        """Tell every node.

        @raise tbeast.errors.CacheUnavailableError: when nobody could be told.
        """

    def subscribe(self, heard: Callable[[bytes], None], lost: Callable[[], None], regained: Callable[[], None]) -> None:
        """Be told every message; C{regained} whenever the line is up (again): what was said before was not heard."""


class UsageCounters(Protocol):
    """C{usage:counter:<key id>}: what each key has used of its month, for all who look at the shared cache."""

    def raise_to(self, used: Mapping[str, int], month: str, expire_at: float) -> Awaitable[None]:
        """Set counters, and lower none.

        @param expire_at: the end of the month, in seconds since the epoch.
        @raise tbeast.errors.CacheUnavailableError: when it cannot be asked now.
        """

    def read(self, key_ids: Sequence[str]) -> Awaitable[Mapping[str, int]]:
        """The counters that there are."""
