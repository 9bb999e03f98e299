"""How the feed of one exchange is doing, as /admin, /exchanges and the operator's eyes get to see it.

States: L{LIVE}, every connection is open and prices came within the last half minute; L{LATE}, open but quieter;
L{CONNECTING}, on the way up, or lost a moment ago; L{OFF}, nothing is wanted of it; L{PAUSED}, an operator wants none
of its prices for now; L{DOWN}, everything else.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

LIVE: Final = "live"
CONNECTING: Final = "connecting"
LATE: Final = "late"
DOWN: Final = "down"

OFF: Final = "off"
PAUSED: Final = "paused"

STATES: Final = (LIVE, CONNECTING, LATE, DOWN, OFF, PAUSED)


@frozen
class FeedStatus:
    """One exchange's feed at one moment.

    @ivar exchange: its name.
    @ivar state: one of L{STATES}.
    @ivar connections: how many connections are open.
    @ivar symbols: how many symbols it should carry.
    @ivar live_symbols: how many of them were heard over the connections that are open now.
    @ivar refused: the symbols that the exchange will not send.
    @ivar unacknowledged: those that it neither acknowledged nor refused nor sent.
    @ivar connected_seconds: for how long all that are open have been so; 0 if none is.
    @ivar last_heard_seconds: how long ago the last price came; C{None} if none ever did.
    @ivar why: the last reason for which a connection ended or could not be made; empty if none did.
    """

    exchange: str
    state: str
    connections: int
    symbols: int
    live_symbols: int
    refused: tuple[str, ...]
    unacknowledged: tuple[str, ...]
    connected_seconds: float
    last_heard_seconds: float | None
    why: str
