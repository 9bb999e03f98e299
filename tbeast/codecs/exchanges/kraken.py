"""Kraken, WebSocket v2. Its REST half is L{tbeast.codecs.exchanges.kraken_rest}.

One subscribe frame names many symbols, and every symbol gets its own answer: a refused one harms no other. A price
frame carries a list of rows with JSON numbers; its C{timestamp} may be absent. Once subscribed a heartbeat comes every
second, so silence means a dead connection, and a pong of the WebSocket protocol proves nothing. A C{status} frame tells
how the matching engine fares: prices have a vote only while it is C{online}.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec

from tbeast.codecs.exchanges.base import (
    EXCHANGE_ERROR,
    MALFORMED,
    UNKNOWN_MESSAGE,
    Event,
    ExchangeFacts,
    ExchangeModule,
    Fault,
    Halted,
    Liveness,
    Rate,
    Resumed,
)
from tbeast.codecs.exchanges.kraken_rest import NAME, KrakenRest
from tbeast.codecs.exchanges.parts import (
    DETAIL_LENGTH,
    NAME_LENGTH,
    UNREADABLE,
    Reader,
    excerpt,
    judged,
    sending,
    unasked,
    with_lost,
)
from tbeast.codecs.exchanges.subscribing import Subscriptions
from tbeast.domain.ticks import UNKNOWN

SYMBOLS_PER_FRAME: Final = 50
SECONDS_BETWEEN_FRAMES: Final = 0.2
"""Kraken limits the rate of messages and does not say to what."""

SILENCE_BEFORE_PING_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 10.0

TRADING: Final = frozenset({"online"})
STANDING_STILL: Final = frozenset({"maintenance", "cancel_only", "post_only"})
"""In none of these is an order matched: what the book shows then has not been tried by a trade."""

_NOT_THE_SYMBOLS_FAULT: Final = ("msg rate", "rate limit", "too many", "unavailable", "busy", "internal")


class _Row(msgspec.Struct, gc=False):
    symbol: str = ""
    last: float = UNKNOWN
    bid: float = UNKNOWN
    ask: float = UNKNOWN
    volume: float = UNKNOWN
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class _Frame(msgspec.Struct, gc=False):
    """As much of a message as a price needs."""

    channel: str = ""
    data: list[_Row] = []


class _AnyRow(_Row, gc=False):
    system: str = ""


class _Result(msgspec.Struct, gc=False):
    symbol: str | list[str] = ""


class _Message(msgspec.Struct, gc=False):
    channel: str = ""
    method: str = ""
    data: list[_AnyRow] = []
    success: bool | None = None
    error: str = ""
    symbol: str = ""
    result: _Result | None = None


_MESSAGES: Final = Reader(_Message, deciding=("channel", "method"))
_decode: Final = Reader(_Frame).decode


class KrakenSocket:
    """One connection's conversation; see L{tbeast.codecs.exchanges.base.SocketCodec}."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._subscriptions = Subscriptions(symbols, _question, SYMBOLS_PER_FRAME, SECONDS_BETWEEN_FRAMES)
        self._liveness = Liveness(SILENT_SECONDS)
        self._pinged_in_silence_since: float | None = None
        self._system = ""

    def opened(self, now: float) -> list[Event]:
        """Subscribe to everything."""
        self._liveness.heard(now)
        return self._subscriptions.opened(now)

    def received(self, frame: bytes, now: float) -> list[Event]:
        """Price frames take the short way; everything else, and every price frame with a flaw, the long one."""
        self._liveness.heard_at = now
        try:
            message = _decode(frame)
        except UNREADABLE:
            return self._received_other(frame, now)
        if message.channel == "ticker" and message.data:
            events: list[Event] = []
            for row in message.data:
                self._hear(row, now, events)
            return events
        return [] if message.channel == "heartbeat" else self._received_other(frame, now)

    def ponged(self, now: float) -> None:
        """Proves nothing here: a living subscription brings a frame every second."""

    def due(self, now: float) -> list[Event]:
        """Ping after some silence, once; give up after more; ask again for what was never answered."""
        events = self._liveness.due(now)
        if events:
            return events
        heard_at = self._liveness.heard_at
        if self._liveness.silence(now) >= SILENCE_BEFORE_PING_SECONDS and self._pinged_in_silence_since != heard_at:
            self._pinged_in_silence_since = heard_at
            events.append(sending({"method": "ping", "req_id": self._subscriptions.number()}))
        return events + self._subscriptions.due(now)

    def _hear(self, row: _Row, now: float, events: list[Event]) -> None:
        symbol = row.symbol
        subscriptions = self._subscriptions
        if symbol not in subscriptions.wanted:
            events.append(unasked(symbol))
            return
        if symbol in subscriptions.missing:
            events += subscriptions.acknowledged((symbol,))
        moment = row.timestamp
        exchange_time = UNKNOWN if moment is None else moment.timestamp()
        events.append(judged(NAME, symbol, row.last, row.bid, row.ask, row.volume, exchange_time, now))

    def _received_other(self, frame: bytes, now: float) -> list[Event]:
        message, lost = _MESSAGES.read(frame)
        if message is None:
            return [Fault(MALFORMED, excerpt(frame))]
        return with_lost(self._answered(message) if message.method else self._told(message, now), lost)

    def _told(self, message: _Message, now: float) -> list[Event]:
        channel = message.channel
        if channel == "heartbeat":
            return []
        if channel not in ("ticker", "status"):
            return [Fault(UNKNOWN_MESSAGE, f"channel {channel!r}"[:DETAIL_LENGTH])]
        if not message.data:
            return [Fault(MALFORMED, f"{channel} without data")]
        events: list[Event] = []
        for row in message.data:
            if channel == "ticker":
                self._hear(row, now, events)
            else:
                events += self._fares(row.system)
        return events

    def _fares(self, system: str) -> list[Event]:
        """Tell of the matching engine's state when it is another than before; the first is always news, because
        what an earlier connection told may hold no longer.
        """
        if system == self._system and system:
            return []
        if system in TRADING:
            self._system = system
            return [Resumed()]
        if system in STANDING_STILL:
            self._system = system
            return [Halted(system)]
        return [Fault(UNKNOWN_MESSAGE, f"system status {system!r}"[:DETAIL_LENGTH])]

    def _answered(self, message: _Message) -> list[Event]:
        method = message.method
        if message.success is False or message.error:
            return self._failed(method, message.error[:DETAIL_LENGTH], message.symbol[:NAME_LENGTH])
        if method == "pong":
            return []
        if method != "subscribe" or not message.success:
            return [Fault(UNKNOWN_MESSAGE, f"method {method!r}"[:DETAIL_LENGTH])]
        symbols = message.result.symbol if message.result is not None else ""
        if not symbols:
            return [Fault(MALFORMED, "an acknowledgement that names no symbol")]
        return self._subscriptions.acknowledged([symbols] if isinstance(symbols, str) else symbols)

    def _failed(self, method: str, error: str, symbol: str) -> list[Event]:
        wanted = self._subscriptions.wanted
        if not symbol:
            symbol = next((word for word in error.split() if word in wanted), "")
        if method == "subscribe" and symbol in wanted:
            complaint = error.replace(symbol, "").lower()
            if "already subscribed" in complaint:
                return self._subscriptions.acknowledged((symbol,))
            if not any(phrase in complaint for phrase in _NOT_THE_SYMBOLS_FAULT):
                return self._subscriptions.refused(symbol, error)
        return [Fault(EXCHANGE_ERROR, error, symbol)]


def _question(number: int, symbols: Sequence[str], now: float) -> Mapping[str, object]:
    parameters = {"channel": "ticker", "symbol": symbols, "event_trigger": "bbo", "snapshot": True}
    return {"method": "subscribe", "params": parameters, "req_id": number}


FACTS: Final = ExchangeFacts(
    name=NAME,
    websocket_url="wss://ws.kraken.com/v2",
    rest_url="https://api.kraken.com",
    quote="USD",
    symbols_per_socket=100,
    dials=Rate(10, 60.0),
    rest=Rate(1, 1.0),
    rest_root="/0",
)

EXCHANGE: Final = ExchangeModule(FACTS, KrakenSocket, KrakenRest)
