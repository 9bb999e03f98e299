"""Coinbase: the Advanced Trade socket, and the Exchange's REST ticker.

The socket's rule: every frame of a connection, acknowledgements and heartbeats included, carries the next
C{sequence_num}. A number that leaves some out means that frames were lost: what the frame says is newer than
what was lost, so its prices are taken, but the connection is given up. A number that came before is a
repetition: nothing of that frame is taken, and the connection is given up too, because a server that numbers
anew would otherwise be ignored for good. The first number heard only sets the start: a recording or a relay
may begin in the middle. Error frames have no number.

A ticker without bid or ask is no tick: around the close of a market Coinbase empties both and keeps sending the
old price. There is no time per ticker; the envelope's stands for it.

Acknowledgements list everything that is subscribed so far. Whether an unknown product spoils the whole frame is
documented nowhere, so both are prepared for: an error that names a product takes it out and asks again at once for
what is still missing, and whatever no acknowledgement lists is asked for again in smaller frames.

The older Exchange feed (flat C{type} messages) is read as well, since a relay or a recording may speak it. Its
C{sequence} counts the events of the whole book and has holes that mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final

import msgspec

from tbeast.codecs.exchanges.base import (
    EXCHANGE_ERROR,
    MALFORMED,
    SEQUENCE_GAP,
    UNKNOWN_MESSAGE,
    UNKNOWN_SYMBOL,
    Event,
    ExchangeFacts,
    ExchangeModule,
    Fault,
    Liveness,
    Rate,
    Reconnect,
    Refused,
    RestRequest,
)
from tbeast.codecs.exchanges.parts import (
    DETAIL_LENGTH,
    UNREADABLE,
    Reader,
    declined,
    excerpt,
    judged,
    questions,
    rfc3339_seconds,
    sending,
    throttled,
    unasked,
    with_lost,
)
from tbeast.codecs.exchanges.subscribing import Subscriptions
from tbeast.domain.ticks import UNKNOWN

NAME: Final = "coinbase"

SYMBOLS_PER_FRAME: Final = 30
SECONDS_BETWEEN_FRAMES: Final = 0.3
"""Eight messages a second are allowed to all connections of one address together."""

SILENT_SECONDS: Final = 5.0
"""Heartbeats come once a second, so that this long without a frame means a dead connection."""

_LARGEST_NUMBER: Final = 2**63 - 1
_BAD_PRODUCT: Final = re.compile(r"(\S+) is (?:not a valid product|delisted)")
_NOT_THE_SYMBOL: Final = re.compile(r"user-agent|route", re.IGNORECASE)


# Structs hold nothing that could form a cycle, so the garbage collector need not look at them.


class _Ticker(msgspec.Struct, gc=False):
    symbol: str = msgspec.field(default="", name="product_id")
    price: float = UNKNOWN
    volume: float = msgspec.field(default=UNKNOWN, name="volume_24_h")
    bid: float = msgspec.field(default=UNKNOWN, name="best_bid")
    ask: float = msgspec.field(default=UNKNOWN, name="best_ask")


class _Subscribed(msgspec.Struct, gc=False):
    ticker: list[str] = []


class _Batch(msgspec.Struct, gc=False):
    tickers: list[_Ticker] = []
    subscriptions: _Subscribed | None = None


class _Listing(msgspec.Struct, gc=False):
    name: str = ""
    product_ids: list[str] = []


class _Message(msgspec.Struct, gc=False):
    """Both feeds' messages: C{channel} to C{events} is Advanced Trade's envelope, the rest the flat messages."""

    channel: str = ""
    timestamp: str = ""
    sequence_num: Annotated[int, msgspec.Meta(le=_LARGEST_NUMBER)] = -1
    events: list[_Batch] = []
    type: str = ""
    product_id: str = ""
    price: float = UNKNOWN
    volume_24h: float = UNKNOWN
    best_bid: float = UNKNOWN
    best_ask: float = UNKNOWN
    time: str = ""
    channels: list[_Listing] = []
    message: str = ""
    reason: str = ""


class _Level(msgspec.Struct, gc=False):
    price: float = UNKNOWN


class _Book(msgspec.Struct, gc=False):
    product_id: str = ""
    bids: list[_Level] = []
    asks: list[_Level] = []
    time: str = ""


class _Answer(msgspec.Struct, gc=False):
    """REST's ticker; or Advanced Trade's C{product_book}, which a relay may give in the ticker's place."""

    price: float = UNKNOWN
    bid: float = UNKNOWN
    ask: float = UNKNOWN
    volume: float = UNKNOWN
    time: str = ""
    pricebook: _Book | None = None
    last: float = UNKNOWN
    message: str = ""


_MESSAGES: Final = Reader(_Message, deciding=("channel", "type"))
_ANSWERS: Final = Reader(_Answer)
_decode: Final = _MESSAGES.decode


class CoinbaseSocket:
    """One connection to Advanced Trade; see L{tbeast.codecs.exchanges.base.SocketCodec}."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._subscriptions = Subscriptions(symbols, _question, SYMBOLS_PER_FRAME, SECONDS_BETWEEN_FRAMES)
        self._liveness = Liveness(SILENT_SECONDS)
        self._next_number = -1

    def opened(self, now: float) -> list[Event]:
        """Subscribe at once: who says nothing for 5 s is dropped. One channel a frame."""
        self._liveness.heard(now)
        return [*self._subscriptions.opened(now), sending({"type": "subscribe", "channel": "heartbeats"})]

    def received(self, frame: bytes, now: float) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.SocketCodec.received}."""
        self._liveness.heard_at = now
        try:
            message = _decode(frame)
        except UNREADABLE:
            found, lost = _MESSAGES.read(frame)
            if found is None:
                return [Fault(MALFORMED, excerpt(frame))]
            read = self._read_envelope if found.channel else self._read_flat
            return with_lost(read(found, now), lost)
        if message.channel:
            return self._read_envelope(message, now)
        return self._read_flat(message, now)

    def ponged(self, now: float) -> None:
        """A pong proves nothing here: a connection that lives sends heartbeats."""

    def due(self, now: float) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.SocketCodec.due}."""
        return self._liveness.due(now) or self._subscriptions.due(now)

    def _read_envelope(self, message: _Message, now: float) -> list[Event]:
        events: list[Event] = []
        number = message.sequence_num
        expected = self._next_number
        lost = False
        if number >= 0:
            if number != expected and expected >= 0:
                events.append(Fault(SEQUENCE_GAP, f"{number} where {expected} was due"))
                if number < expected:
                    return [*events, Reconnect("a sequence number came again")]
                lost = True
            self._next_number = number + 1
        channel = message.channel
        if channel == "ticker":
            exchange_time = rfc3339_seconds(message.timestamp)
            found = False
            for batch in message.events:
                for ticker in batch.tickers:
                    found = True
                    self._hear(
                        ticker.symbol, ticker.price, ticker.bid, ticker.ask, ticker.volume, exchange_time, now, events
                    )
            if not found:
                events.append(Fault(MALFORMED, "a ticker message without tickers"))
        elif channel == "subscriptions":
            for batch in message.events:
                if batch.subscriptions is not None:
                    events += self._subscriptions.acknowledged(batch.subscriptions.ticker)
        elif channel != "heartbeats":
            events.append(Fault(UNKNOWN_MESSAGE, channel[:DETAIL_LENGTH]))
        if lost:
            events.append(Reconnect("frames were lost"))
        return events

    def _read_flat(self, message: _Message, now: float) -> list[Event]:
        events: list[Event] = []
        match message.type:
            case "ticker":
                self._hear(
                    message.product_id, message.price, message.best_bid, message.best_ask, message.volume_24h,
                    rfc3339_seconds(message.time), now, events,
                )  # fmt: skip
            case "subscriptions":
                for listing in message.channels:
                    if listing.name == "ticker":
                        events += self._subscriptions.acknowledged(listing.product_ids)
            case "error":
                events += self._read_error(message, now)
            case "heartbeat":
                pass
            case other:
                events.append(Fault(UNKNOWN_MESSAGE, f"type {other!r}"[:DETAIL_LENGTH]))
        return events

    def _read_error(self, message: _Message, now: float) -> list[Event]:
        detail = f"{message.message[:DETAIL_LENGTH]}: {message.reason[:DETAIL_LENGTH]}".strip(": ")
        named = [product for product in _BAD_PRODUCT.findall(detail) if product in self._subscriptions.wanted]
        if named:
            return self._subscriptions.spoiled((), named, detail, now)
        return [Fault(EXCHANGE_ERROR, detail)]

    def _hear(
        self, symbol: str, price: float, bid: float, ask: float, volume: float, exchange_time: float, now: float,
        events: list[Event],
    ) -> None:  # fmt: skip
        """Add what one ticker comes to. Even a faulty one shows that the exchange sends this symbol."""
        subscriptions = self._subscriptions
        if symbol not in subscriptions.wanted:
            events.append(unasked(symbol))
            return
        if symbol in subscriptions.missing:
            events += subscriptions.acknowledged((symbol,))
        events.append(judged(NAME, symbol, price, bid, ask, volume, exchange_time, now))


def _question(number: int, symbols: Sequence[str], now: float) -> Mapping[str, object]:
    return {"type": "subscribe", "product_ids": symbols, "channel": "ticker"}


class CoinbaseRest:
    """One question a symbol; see L{tbeast.codecs.exchanges.base.RestCodec}."""

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """See L{tbeast.codecs.exchanges.base.RestCodec.requests}. The call that gives all has neither bid nor ask."""
        return questions(symbols, "/products/{}/ticker")

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.RestCodec.responded}.

        400 (delisted) and 404 (never listed) refuse the symbol only when Coinbase itself says so, in JSON. A proxy's
        error page, a missing User-Agent (a 400 too) and a path unknown to a relay (a 404) are not the symbol's fault.
        """
        symbol = request.symbols[0]
        if status == 429:
            return throttled(headers, now)
        answer, lost = _ANSWERS.read(body)
        said = "" if answer is None else answer.message[:DETAIL_LENGTH]
        if status in (400, 404) and said and not _NOT_THE_SYMBOL.search(said):
            return [Refused(symbol, said)]
        if status != 200:
            return declined(request, status, said or excerpt(body))
        if answer is None or lost:
            return [Fault(MALFORMED, excerpt(body), symbol)]
        book = answer.pricebook
        if book is None:
            price, bid, ask = answer.price, answer.bid, answer.ask
            return [judged(NAME, symbol, price, bid, ask, answer.volume, rfc3339_seconds(answer.time), now)]
        if book.product_id != symbol:
            return [Fault(UNKNOWN_SYMBOL, "the book of another product", symbol)]
        exchange_time = rfc3339_seconds(book.time)
        bid, ask = (levels[0].price if levels else UNKNOWN for levels in (book.bids, book.asks))
        return [judged(NAME, symbol, answer.last, bid, ask, UNKNOWN, exchange_time, now)]


FACTS: Final = ExchangeFacts(
    name=NAME,
    websocket_url="wss://advanced-trade-ws.coinbase.com",
    rest_url="https://api.exchange.coinbase.com",
    quote="USD",
    symbols_per_socket=30,
    dials=Rate(3, 1.0),  # 8/s from one address, and 8 messages/s, of which each connection begins with two
    rest=Rate(8, 1.0),  # 10/s from one address
    rest_headers={"User-Agent": "tbeast"},
)

EXCHANGE: Final = ExchangeModule(FACTS, CoinbaseSocket, CoinbaseRest)
