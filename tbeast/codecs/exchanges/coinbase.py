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
documented nowhere, so both are prepared for: an error that names a product takes it out and asks again for the
rest, and a product that no acknowledgement lists is named once patience has run out. An error that names none may
have cost the subscription: if symbols are still missing when patience runs out, it is asked for once more.

The older Exchange feed (flat C{type} messages) is read as well, since a relay or a recording may speak it. Its
C{sequence} counts the events of the whole book and has holes that mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Annotated, Final
from urllib.parse import quote

import msgspec

from tbeast.codecs.exchanges.base import (
    EXCHANGE_ERROR,
    HTTP_STATUS,
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
    Send,
    Subscriptions,
    Throttled,
    rfc3339_seconds,
)
from tbeast.domain.ticks import NO_QUOTE, UNKNOWN, Tick, fault_in

NAME: Final = "coinbase"

SILENT_SECONDS: Final = 5.0
"""Heartbeats come once a second, so that this long without a frame means a dead connection."""

LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
"""A C{Retry-After} beyond this is taken for a mistake."""

_DETAIL_LENGTH: Final = 200
_LARGEST_NUMBER: Final = 2**63 - 1
_BAD_PRODUCT: Final = re.compile(r"(\S+) is (?:not a valid product|delisted)")
_NOT_THE_SYMBOL: Final = re.compile(r"user-agent|route", re.IGNORECASE)
_UNREADABLE: Final = (ValueError, RecursionError)  # all of msgspec's errors are ValueErrors, and so are Unicode's


# The decoders read numbers from strings as well as from JSON numbers, by JSON's own grammar for both: no "1_0", no
# spaces. Structs hold nothing that could form a cycle, so the garbage collector need not look at them.


class _Ticker(msgspec.Struct, gc=False):
    product_id: str = ""
    price: float = UNKNOWN
    volume_24_h: float = UNKNOWN
    best_bid: float = UNKNOWN
    best_ask: float = UNKNOWN


class _Batch(msgspec.Struct, gc=False):
    tickers: list[_Ticker] = []
    subscriptions: dict[str, list[str]] = {}


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


_decode: Final = msgspec.json.Decoder(_Message, strict=False).decode
_decode_anything: Final = msgspec.json.Decoder(float_hook=float).decode


class CoinbaseSocket:
    """One connection to Advanced Trade; see L{tbeast.codecs.exchanges.base.SocketCodec}."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._subscriptions = Subscriptions(symbols)
        self._liveness = Liveness(SILENT_SECONDS)
        self._next_number = -1
        self._met_error = False

    def opened(self, now: float) -> list[Event]:
        """Subscribe at once: who says nothing for 5 s is dropped. One channel a frame."""
        self._liveness.heard(now)
        return [*self._subscribe(now), Send('{"type":"subscribe","channel":"heartbeats"}')]

    def received(self, frame: bytes, now: float) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.SocketCodec.received}."""
        self._liveness.heard_at = now
        try:
            message = _decode(frame)
        except _UNREADABLE:
            return self._received_odd(frame, now)
        if message.channel:
            return self._read_envelope(message, now)
        return self._read_flat(message, now)

    def ponged(self, now: float) -> None:
        """A pong proves nothing here: a connection that lives sends heartbeats."""

    def due(self, now: float) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.SocketCodec.due}."""
        silent = self._subscriptions.due(now)
        if silent and self._met_error:
            silent += self._subscribe(now)
        return self._liveness.due(now) + silent

    def _subscribe(self, now: float) -> list[Event]:
        wanted = list(self._subscriptions.wanted)
        if not wanted:
            return []
        self._subscriptions.asked(now)
        self._met_error = False
        question = {"type": "subscribe", "product_ids": wanted, "channel": "ticker"}
        return [Send(msgspec.json.encode(question).decode())]

    def _received_odd(self, frame: bytes, now: float) -> list[Event]:
        """Read, part by part, what is not of the expected shape: one bad part must not cost the others."""
        faults: list[Event] = []
        content = _json_in(frame)
        if not isinstance(content, dict):
            return [Fault(MALFORMED, _excerpt(frame))]
        message = _salvage(content, faults)
        if message.channel:
            return faults + self._read_envelope(message, now, odd=bool(faults))
        return faults + self._read_flat(message, now)

    def _read_envelope(self, message: _Message, now: float, odd: bool = False) -> list[Event]:
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
            found = odd
            for batch in message.events:
                for ticker in batch.tickers:
                    found = True
                    self._hear(
                        ticker.product_id, ticker.price, ticker.best_bid, ticker.best_ask, ticker.volume_24_h,
                        exchange_time, now, events,
                    )  # fmt: skip
            if not found:
                events.append(Fault(MALFORMED, "a ticker message without tickers"))
        elif channel == "subscriptions":
            for batch in message.events:
                events += self._subscriptions.acknowledged(batch.subscriptions.get("ticker", ()))
        elif channel != "heartbeats":
            events.append(Fault(UNKNOWN_MESSAGE, channel[:_DETAIL_LENGTH]))
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
            case "":
                events.append(Fault(MALFORMED, "neither channel nor type"))
            case other:
                events.append(Fault(UNKNOWN_MESSAGE, other[:_DETAIL_LENGTH]))
        return events

    def _read_error(self, message: _Message, now: float) -> list[Event]:
        detail = f"{message.message[:_DETAIL_LENGTH]}: {message.reason[:_DETAIL_LENGTH]}".strip(": ")
        events: list[Event] = []
        for product in _BAD_PRODUCT.findall(detail):
            events += self._subscriptions.refused(product, detail)
        if events:  # nothing is asked again at once unless a symbol was taken out, so this ends
            return [*events, *self._subscribe(now)]
        self._met_error = True
        return [Fault(EXCHANGE_ERROR, detail)]

    def _hear(
        self, symbol: str, price: float, bid: float, ask: float, volume: float, exchange_time: float, now: float,
        events: list[Event],
    ) -> None:  # fmt: skip
        """Add what one ticker comes to. Even a faulty one shows that the exchange sends this symbol."""
        subscriptions = self._subscriptions
        if symbol not in subscriptions.wanted:
            reason = UNKNOWN_SYMBOL if symbol else MALFORMED
            events.append(Fault(reason, "not asked for" if symbol else "a ticker without a product", symbol[:50]))
            return
        if symbol in subscriptions.missing:
            events += subscriptions.acknowledged((symbol,))
        events.append(_judged(symbol, price, bid, ask, volume, exchange_time, now))


class CoinbaseRest:
    """One question a symbol; see L{tbeast.codecs.exchanges.base.RestCodec}."""

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """See L{tbeast.codecs.exchanges.base.RestCodec.requests}. The call that gives all has neither bid nor ask."""
        return [RestRequest(f"/products/{quote(symbol, safe='')}/ticker", (symbol,)) for symbol in symbols]

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.RestCodec.responded}.

        400 (delisted) and 404 (never listed) refuse the symbol only when Coinbase itself says so, in JSON. A proxy's
        error page, a missing User-Agent (a 400 too) and a path unknown to a relay (a 404) are not the symbol's fault.
        """
        symbol = request.symbols[0]
        if status == 429:
            return [Throttled(_retry_after(headers))]
        content = _json_in(body)
        if status in (400, 404) and isinstance(content, dict):
            message = content.get("message")
            if isinstance(message, str) and not _NOT_THE_SYMBOL.search(message):
                return [Refused(symbol, message[:_DETAIL_LENGTH])]
        if status != 200:
            return [Fault(HTTP_STATUS, f"{status} {_excerpt(body)}", symbol)]
        if not isinstance(content, dict):
            return [Fault(MALFORMED, _excerpt(body), symbol)]
        book = content.get("pricebook")
        return [_read_ticker(symbol, content, now) if book is None else _read_book(symbol, content, book, now)]


def _read_ticker(symbol: str, content: dict[str, object], now: float) -> Event:
    return _judged(
        symbol,
        _number(content.get("price")),
        _number(content.get("bid")),
        _number(content.get("ask")),
        _number(content.get("volume")),
        rfc3339_seconds(_text(content.get("time"))),
        now,
    )


def _read_book(symbol: str, content: dict[str, object], book: object, now: float) -> Event:
    """Read Advanced Trade's C{product_book}, which a relay may give in the ticker's place."""
    if not isinstance(book, dict):
        return Fault(MALFORMED, "a price book of another shape", symbol)
    if book.get("product_id") != symbol:
        return Fault(UNKNOWN_SYMBOL, "the book of another product", symbol)
    exchange_time = rfc3339_seconds(_text(book.get("time")))
    bid, ask = _best(book.get("bids")), _best(book.get("asks"))
    return _judged(symbol, _number(content.get("last")), bid, ask, UNKNOWN, exchange_time, now)


def _best(levels: object) -> float:
    best = levels[0] if isinstance(levels, list) and levels else None
    return _number(best.get("price")) if isinstance(best, dict) else UNKNOWN


def _judged(
    symbol: str, price: float, bid: float, ask: float, volume: float, exchange_time: float, now: float
) -> Tick | Fault:
    if not (0.0 < bid <= ask < inf and 0.0 < price < inf):
        reason = fault_in(price, bid, ask) or (NO_QUOTE if bid != bid else None)
        if reason is not None:
            return Fault(reason, f"price {price} bid {bid} ask {ask}", symbol)
    return Tick(NAME, symbol, price, bid, ask, volume if 0.0 <= volume < inf else UNKNOWN, exchange_time, now)


def _salvage(content: dict[str, object], faults: list[Event]) -> _Message:
    """Read a message of which some part has another shape; unreadable texts become empty and numbers NaN."""
    return _Message(
        channel=_text(content.get("channel")),
        timestamp=_text(content.get("timestamp")),
        sequence_num=_sequence_number(content.get("sequence_num")),
        events=[
            _Batch(
                tickers=[
                    _Ticker(
                        product_id=_text(ticker.get("product_id")),
                        price=_number(ticker.get("price")),
                        volume_24_h=_number(ticker.get("volume_24_h")),
                        best_bid=_number(ticker.get("best_bid")),
                        best_ask=_number(ticker.get("best_ask")),
                    )
                    for ticker in _objects(batch.get("tickers"), "tickers", faults)
                ],
                subscriptions={"ticker": _texts(_member(batch.get("subscriptions"), "ticker"))},
            )
            for batch in _objects(content.get("events"), "events", faults)
        ],
        type=_text(content.get("type")),
        product_id=_text(content.get("product_id")),
        price=_number(content.get("price")),
        volume_24h=_number(content.get("volume_24h")),
        best_bid=_number(content.get("best_bid")),
        best_ask=_number(content.get("best_ask")),
        time=_text(content.get("time")),
        channels=[
            _Listing(_text(listing.get("name")), _texts(listing.get("product_ids")))
            for listing in _objects(content.get("channels"), "channels", faults)
        ],
        message=_text(content.get("message")),
        reason=_text(content.get("reason")),
    )


def _objects(value: object, what: str, faults: list[Event]) -> list[dict[str, object]]:
    """Give the objects in a list that should hold nothing else, and a fault if it holds more, or is no list."""
    if value is None:
        return []
    if not isinstance(value, list):
        faults.append(Fault(MALFORMED, f"{what} of another shape"))
        return []
    objects = [item for item in value if isinstance(item, dict)]
    if len(objects) < len(value):
        faults.append(Fault(MALFORMED, f"{what} with something else among them"))
    return objects


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _sequence_number(value: object) -> int:
    return value if type(value) is int and value <= _LARGEST_NUMBER else -1


def _number(value: object) -> float:
    """Read a number as the price decoder does; NaN if it is none."""
    try:
        return msgspec.convert(value, float, strict=False)
    except _UNREADABLE:
        return UNKNOWN


def _json_in(text: bytes) -> object:
    """Give the JSON value, or C{None} if it is none (a bare C{null} is of no use either)."""
    try:
        return _decode_anything(text)
    except _UNREADABLE:
        return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    seconds = _number(headers.get("retry-after"))
    return seconds if 0.0 <= seconds <= LONGEST_RETRY_AFTER_SECONDS else None


def _excerpt(text: bytes) -> str:
    return text[:_DETAIL_LENGTH].decode("utf-8", "replace")


EXCHANGE: Final = ExchangeModule(
    ExchangeFacts(
        name=NAME,
        websocket_url="wss://advanced-trade-ws.coinbase.com",
        rest_url="https://api.exchange.coinbase.com",
        quote="USD",
        symbols_per_socket=30,
        dials=Rate(4, 1.0),  # 8/s from one address
        rest=Rate(8, 1.0),  # 10/s from one address
        rest_headers={"User-Agent": "tbeast"},
    ),
    CoinbaseSocket,
    CoinbaseRest,
)
