"""The common tongue of the exchange codecs: what a codec hears, what it asks for, and what it must know.

A codec does no I/O and reads no clock. Bytes and C{now} go in; a list of events comes out: past tense
for what was heard (L{Tick}, L{Acknowledged}, L{Refused}, L{Fault}...), imperative for what is asked of whoever
owns the socket (L{Send}, L{Reconnect}, L{Replace}, L{RestRequest}).

Whatever an exchange sends, nothing is raised: what cannot be read is a L{Fault} with a reason from L{FAULTS}
or from L{tbeast.domain.ticks.TICK_FAULTS}, so that reasons can be counted under bounded labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from attrs import field, frozen

from tbeast.domain.ticks import TICK_FAULTS, Tick

MALFORMED: Final = "malformed"  # not JSON, or JSON of another shape than any known message
UNKNOWN_SYMBOL: Final = "unknown_symbol"  # a price for something that was not asked for
UNKNOWN_MESSAGE: Final = "unknown_message"  # well-formed, but no message that the codec knows
SEQUENCE_GAP: Final = "sequence_gap"  # frames were lost on the way
EXCHANGE_ERROR: Final = "exchange_error"  # the exchange says that something is wrong, and no symbol's fault
HTTP_STATUS: Final = "http_status"  # a REST answer with a status that is no answer

FAULTS: Final = (
    MALFORMED, UNKNOWN_SYMBOL, UNKNOWN_MESSAGE, SEQUENCE_GAP, EXCHANGE_ERROR, HTTP_STATUS, *TICK_FAULTS,
)  # fmt: skip
"""Every reason that a L{Fault} can have."""


@frozen
class Send:
    """Send this text frame, after so many seconds (0: at once). Dropped if the socket is gone by then."""

    text: str
    after_seconds: float = 0.0


@frozen
class Acknowledged:
    """The exchange has said that it will send these symbols (in its own spelling)."""

    symbols: tuple[str, ...]


@frozen
class Refused:
    """The exchange will not send this symbol; the others go on."""

    symbol: str
    detail: str


@frozen
class Unacknowledged:
    """These symbols were asked for long enough ago, and neither acknowledged nor refused nor heard."""

    symbols: tuple[str, ...]


@frozen
class Fault:
    """Something heard that is no tick and no answer. C{reason} is one of L{FAULTS}; C{detail} is for people."""

    reason: str
    detail: str = ""
    symbol: str = ""


@frozen
class Reconnect:
    """This connection is of no more use: drop it, and dial again."""

    reason: str


@frozen
class Replace:
    """This connection will end soon: make its successor first, then drop it."""

    reason: str
    within_seconds: float


@frozen
class Halted:
    """Trading stands still on the exchange (empty C{symbols}: all of it): its prices have no vote until L{Resumed}."""

    reason: str
    symbols: tuple[str, ...] = ()


@frozen
class Resumed:
    """Trading goes on (empty C{symbols}: everything)."""

    symbols: tuple[str, ...] = ()


@frozen
class RestRequest:
    """GET this path (with its query, from the exchange's REST address on), to learn of these symbols."""

    path: str
    symbols: tuple[str, ...]


@frozen
class Throttled:
    """The exchange says: too many questions. Ask nothing for so many seconds (C{None}: it did not say)."""

    retry_after_seconds: float | None = None


Event = (
    Tick | Send | Acknowledged | Refused | Unacknowledged | Fault | Reconnect | Replace | Halted | Resumed
    | RestRequest | Throttled
)  # fmt: skip


@frozen
class Rate:
    """So many in so many seconds."""

    count: int
    seconds: float


@frozen
class ExchangeFacts:
    """What must be known of an exchange before the first byte.

    @ivar name: lower case, as in C{source} and in the asset table's columns.
    @ivar websocket_url: its public market data socket.
    @ivar rest_url: what the paths of L{RestRequest} are appended to. A slash at its end is dropped, and so is
        C{rest_root}: people write an address with it as well as without, and the paths have it already.
    @ivar quote: the currency that its symbols in the asset table are quoted in, C{USD} or C{USDT}.
    @ivar symbols_per_socket: how many symbols one connection should carry.
    @ivar dials: how often a new connection may be opened.
    @ivar rest: how often REST may be asked, kept a little under what the exchange allows.
    @ivar seeds_from_rest: whether a new subscription brings no snapshot, so that REST must give the first price.
    @ivar lifetime_seconds: after how long the exchange is known to end a connection, if it is.
    @ivar rest_headers: headers that REST wants beside the usual.
    @ivar rest_root: what every path of L{RestRequest} begins with, if they have that much in common.
    """

    name: str
    websocket_url: str
    rest_url: str
    quote: str
    symbols_per_socket: int
    dials: Rate
    rest: Rate
    seeds_from_rest: bool = False
    lifetime_seconds: float | None = None
    rest_headers: Mapping[str, str] = field(factory=dict)
    rest_root: str = ""

    def __attrs_post_init__(self) -> None:
        address = self.rest_url.rstrip("/")
        if self.rest_root:
            address = address.removesuffix(self.rest_root).rstrip("/")
        object.__setattr__(self, "rest_url", address)


class SocketCodec(Protocol):
    """One connection's conversation. A new connection takes a new one."""

    def opened(self, now: float) -> list[Event]:
        """The socket is open: what to send first."""

    def received(self, frame: bytes, now: float) -> list[Event]:
        """One whole message came in."""

    def ponged(self, now: float) -> None:
        """A protocol-level ping or pong came in: the connection lives, the symbols may not."""

    def due(self, now: float) -> list[Event]:
        """Time has passed (asked about once a second): keep-alives to send, deadlines that ran out."""


class RestCodec(Protocol):
    """Questions and answers over REST; holds what must be remembered from one to the next."""

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """What to ask in order to learn the price of these symbols, in as few questions as make sense."""

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """The answer to one of them. C{headers} has lower-case names. A L{RestRequest} among the events is to be
        asked next (a retry symbol by symbol, or the question proper after a preliminary one).
        """


class Exchange(Protocol):
    """An exchange as the registry gives it: facts, and makers of its two codecs."""

    @property
    def facts(self) -> ExchangeFacts:
        """What must be known of it."""

    def socket_codec(self, symbols: Iterable[str]) -> SocketCodec:
        """A codec for one new connection that is to carry these symbols."""

    def rest_codec(self) -> RestCodec:
        """A codec for this exchange's REST half; one for the daemon's whole life."""


@frozen
class ExchangeModule:
    """L{Exchange} made of a module's facts and its two codec classes."""

    facts: ExchangeFacts
    _socket_codec: type
    _rest_codec: type

    def socket_codec(self, symbols: Iterable[str]) -> SocketCodec:
        """See L{Exchange.socket_codec}."""
        codec: SocketCodec = self._socket_codec(tuple(symbols))
        return codec

    def rest_codec(self) -> RestCodec:
        """See L{Exchange.rest_codec}."""
        codec: RestCodec = self._rest_codec()
        return codec


class Liveness:
    """Whether a connection still lives: when it was last heard, and for how long it may be silent."""

    def __init__(self, silent_seconds: float) -> None:
        self.silent_seconds = silent_seconds
        self.heard_at: float | None = None

    def heard(self, now: float) -> None:
        """Something came in."""
        self.heard_at = now

    def silence(self, now: float) -> float:
        """For how many seconds nothing came in; 0 before the start."""
        return 0.0 if self.heard_at is None else now - self.heard_at

    def due(self, now: float) -> list[Event]:
        """Ask for another connection when this one was silent too long."""
        silence = self.silence(now)
        return [Reconnect(f"silent for {silence:.0f} s")] if silence > self.silent_seconds else []
