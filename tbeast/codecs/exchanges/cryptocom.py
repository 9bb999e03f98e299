"""Crypto.com Exchange, v1: the market socket and C{get-tickers}.

What this exchange wants of its callers:

 - Limits are counted in calendar seconds, so the first subscribe waits one second after the socket is open. A frame
   carries up to 100 channels; a socket carries 400, and then answers 40107.
 - C{method} is C{subscribe} for acknowledgements and for prices alike; what a message is about stands in C{result}.
   The first price of a channel may come with the id of our request, the later ones with -1.
 - An unknown symbol is answered with code 40003 and names its channel. Where it does not, the symbols of that request
   are asked for again one by one, so that the bad one costs nothing but itself.
 - The server's C{public/heartbeat} (every 30 s) must be answered at once with the same id. It also sends
   protocol-level pings about every 5 s: these are what shows soonest that a connection is dead.
 - A missing side of the book is null, and then there is no tick.

Spot, perpetuals and futures share one list of names, so a name is matched whole. REST gives no sizes and the same
letters: C{a} last, C{b} bid, C{k} ask, C{v} 24 h base volume, C{t} milliseconds. Whoever opens the socket must not
send a C{Host} header with C{:443} in it: the exchange answers that with HTTP 400.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, nan
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from tbeast.codecs.exchanges.base import (
    EXCHANGE_ERROR,
    HTTP_STATUS,
    MALFORMED,
    UNKNOWN_MESSAGE,
    UNKNOWN_SYMBOL,
    Event,
    ExchangeFacts,
    ExchangeModule,
    Fault,
    Liveness,
    Rate,
    Refused,
    RestRequest,
    Send,
    Subscriptions,
    Throttled,
)
from tbeast.domain.ticks import NO_PRICE, NO_QUOTE, UNKNOWN, Tick, fault_in

NAME: Final = "cryptocom"

CHANNELS_PER_FRAME: Final = 100
SETTLING_SECONDS: Final = 1.0  # between opening and the first subscribe
FRAME_SPACING_SECONDS: Final = 0.2
RETRY_SECONDS: Final = 0.05  # between the requests that look for a bad symbol

SILENT_SECONDS: Final = 20.0  # without so much as a protocol ping
UNSPOKEN_SECONDS: Final = 95.0  # without a message: three heartbeats and a little

ASKED_SINGLY: Final = 3  # more symbols than this are learned from the whole list

SYMBOL_CODES: Final = frozenset({40003, 40004})  # the request is refused for what it names
RATE_LIMITED: Final = 42901

_TICKER: Final = "ticker"
_TICKERS_PATH: Final = "/exchange/v1/public/get-tickers"
_LATEST_MS: Final = 253_402_300_800_000.0  # the end of the year 9999: no time that can be told lies beyond
_DETAIL: Final = 200  # characters of the exchange's own words that are passed on

FACTS: Final = ExchangeFacts(
    name=NAME,
    websocket_url="wss://stream.crypto.com/exchange/v1/market",
    rest_url="https://api.crypto.com",
    quote="USD",
    symbols_per_socket=100,
    dials=Rate(2, 1.0),
    rest=Rate(20, 1.0),
)


class _Row(msgspec.Struct, gc=False):
    """One ticker. What is missing stays empty or NaN; numbers may come as JSON numbers or as strings."""

    symbol: str = msgspec.field(name="i", default="")
    price: float = msgspec.field(name="a", default=nan)
    bid: float = msgspec.field(name="b", default=nan)
    ask: float = msgspec.field(name="k", default=nan)
    volume: float = msgspec.field(name="v", default=nan)
    time_ms: float = msgspec.field(name="t", default=nan)


class _Result(msgspec.Struct, gc=False):
    channel: str = ""
    subscription: str = ""
    instrument_name: str = ""
    data: list[_Row] = []


class _Message(msgspec.Struct, gc=False):
    """Any message of the socket, and any answer of REST."""

    id: int | None = None
    method: str = ""
    code: int = 0
    channel: str = ""
    message: str = ""
    result: _Result | None = None


_S = TypeVar("_S", bound=msgspec.Struct)

# Not strict: "1.5" is read as a number, while "1_0", " 1 " and "" are not.
_MESSAGES: Final = msgspec.json.Decoder(_Message, strict=False)
_RESULTS: Final = msgspec.json.Decoder(_Result, strict=False)
_ROWS: Final = msgspec.json.Decoder(_Row, strict=False)
_PARTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NOTHING: Final = (b"null", b'""')
_NEEDED: Final = frozenset({"i", "a", "b", "k"})


class CryptocomSocket:
    """One connection to the market socket; see L{tbeast.codecs.exchanges.base.SocketCodec}."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._symbols = Subscriptions(symbols)
        self._alive = Liveness(SILENT_SECONDS)
        self._speaking = Liveness(UNSPOKEN_SECONDS)
        self._asked: dict[int, tuple[str, ...]] = {}
        self._last_id = 0

    def opened(self, now: float) -> list[Event]:
        """Subscribe to everything, a second from now."""
        self._alive.heard(now)
        self._speaking.heard(now)
        wanted = tuple(self._symbols.wanted)
        groups = [wanted[at : at + CHANNELS_PER_FRAME] for at in range(0, len(wanted), CHANNELS_PER_FRAME)]
        return self._subscribe(groups, SETTLING_SECONDS, FRAME_SPACING_SECONDS, now)

    def received(self, frame: bytes, now: float) -> list[Event]:
        """Take one message."""
        self._alive.heard_at = self._speaking.heard_at = now
        try:
            message = _MESSAGES.decode(frame)
        except _UNREADABLE:
            salvaged = _salvaged(frame)
            if salvaged is None:
                return [Fault(MALFORMED, "not a message")]
            message, faults = salvaged
            return [*map(self._own, faults), *self._heard(message, now, bool(faults))]
        return self._heard(message, now, False)

    def ponged(self, now: float) -> None:
        """A protocol-level ping or pong: the connection lives."""
        self._alive.heard(now)

    def due(self, now: float) -> list[Event]:
        """Name the silent symbols, and a connection that is dead or has nobody behind it."""
        return [*self._symbols.due(now), *(self._alive.due(now) or self._speaking.due(now))]

    def _heard(self, message: _Message, now: float, damaged: bool) -> list[Event]:
        result = message.result
        if message.code or result is None:
            return self._answered(message, now, damaged)
        if result.channel != _TICKER and not (_ticker_of(result.subscription) and not result.channel):
            return [Fault(UNKNOWN_MESSAGE, f"channel {result.channel or result.subscription}"[:_DETAIL])]
        name = result.instrument_name or _ticker_of(result.subscription)
        if not result.data:
            return [] if damaged else self._acknowledged(name)
        wanted, missing = self._symbols.wanted, self._symbols.missing
        events: list[Event] = []
        for row in result.data:
            symbol = row.symbol
            if symbol != name and name:
                if symbol:
                    events.append(Fault(MALFORMED, f"a row of {symbol} in a message of {name}"[:_DETAIL]))
                    continue
                row.symbol = symbol = name
            if symbol not in wanted:
                events.append(_unasked(symbol))
                continue
            if symbol in missing:
                events += self._symbols.acknowledged((symbol,))
            events.append(_judged(row, now))
        return events

    def _answered(self, message: _Message, now: float, damaged: bool) -> list[Event]:
        if message.method == "public/heartbeat":
            if message.id is None:
                return [Fault(MALFORMED, "a heartbeat without an id")]
            return [Send(_text({"id": message.id, "method": "public/respond-heartbeat"}))]
        if message.code:
            return self._failed(message, now)
        if message.method != "subscribe":
            return [] if damaged else [Fault(UNKNOWN_MESSAGE, f"method {message.method}"[:_DETAIL])]
        # An answer that names no channel tells nothing of the symbols: their first prices will.
        return self._acknowledged(_ticker_of(message.channel)) if message.channel else []

    def _acknowledged(self, symbol: str) -> list[Event]:
        return self._symbols.acknowledged((symbol,)) if symbol in self._symbols.wanted else [_unasked(symbol)]

    def _failed(self, message: _Message, now: float) -> list[Event]:
        detail = _detail(message)
        channel = message.channel or (message.result.subscription if message.result is not None else "")
        symbol = _ticker_of(channel)
        retried: list[Event] = []
        if message.code in SYMBOL_CODES:
            if symbol in self._symbols.wanted:
                return self._symbols.refused(symbol, detail)
            if not channel and message.id is not None:
                asked = self._asked.pop(message.id, ())
                left = [symbol for symbol in asked if symbol in self._symbols.missing]
                if left and len(asked) == 1:
                    return self._symbols.refused(left[0], detail)
                retried = self._subscribe([(symbol,) for symbol in left], RETRY_SECONDS, RETRY_SECONDS, now)
        return [Fault(EXCHANGE_ERROR, detail, symbol[:_DETAIL]), *retried]

    def _subscribe(self, groups: Iterable[tuple[str, ...]], first: float, spacing: float, now: float) -> list[Event]:
        sends: list[Event] = []
        for group in groups:
            self._last_id += 1
            self._asked[self._last_id] = group
            channels = [f"{_TICKER}.{symbol}" for symbol in group]
            text = _text({"id": self._last_id, "method": "subscribe", "params": {"channels": channels}})
            after = first + spacing * len(sends)
            sends.append(Send(text, after))
            self._symbols.asked(now + after)
        return sends

    def _own(self, fault: Fault) -> Fault:
        return _unasked(fault.symbol) if fault.symbol and fault.symbol not in self._symbols.wanted else fault


class CryptocomRest:
    """C{get-tickers}, for one instrument or for all; see L{tbeast.codecs.exchanges.base.RestCodec}."""

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """Ask for a few one by one, and for many with the whole list (about 260 KB)."""
        wanted = tuple(dict.fromkeys(symbols))
        if len(wanted) > ASKED_SINGLY:
            return [RestRequest(_TICKERS_PATH, wanted)]
        return [
            RestRequest(f"{_TICKERS_PATH}?instrument_name={quote(symbol, safe='')}", (symbol,)) for symbol in wanted
        ]

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """Pick the asked symbols out of the answer; what was asked for and is not in it is a fault."""
        if status == 429:
            return [Throttled(_retry_after(headers))]
        faults: list[Fault] = []
        message: _Message | None
        try:
            message = _MESSAGES.decode(body)
        except _UNREADABLE:
            message, faults = _salvaged(body) or (None, [Fault(MALFORMED, "not a message")])
        if message is not None and message.code == RATE_LIMITED:
            return [Throttled(_retry_after(headers))]
        if message is not None and message.code == 40004 and len(request.symbols) == 1:
            return [Refused(request.symbols[0], _detail(message))]
        if status != 200:
            return [Fault(HTTP_STATUS, f"{status} {_detail(message)}" if message is not None else str(status))]
        if message is None:
            return [*faults]
        if message.code:
            return [Fault(EXCHANGE_ERROR, _detail(message))]
        if message.result is None:
            return [*(faults or [Fault(MALFORMED, "no result")])]
        return _picked(request.symbols, message.result.data, faults, now)


def _picked(symbols: tuple[str, ...], rows: Iterable[_Row], faults: Iterable[Fault], now: float) -> list[Event]:
    events: list[Event] = []
    left = dict.fromkeys(symbols)
    for fault in faults:
        if fault.symbol in left or not fault.symbol:
            left.pop(fault.symbol, None)
            events.append(fault)
    for row in rows:
        if row.symbol in left:
            del left[row.symbol]
            events.append(_judged(row, now))
        elif len(symbols) == 1 and row.symbol not in symbols:
            events.append(_unasked(row.symbol))
    events += [Fault(NO_PRICE, "not in the answer", symbol) for symbol in left]
    return events


def _judged(row: _Row, now: float) -> Tick | Fault:
    price, bid, ask = row.price, row.bid, row.ask
    reason = fault_in(price, bid, ask)
    if reason is None and bid == bid:
        volume, time_ms = row.volume, row.time_ms
        return Tick(
            NAME,
            row.symbol,
            price,
            bid,
            ask,
            volume if 0.0 <= volume < inf else UNKNOWN,
            time_ms / 1000.0 if 0.0 < time_ms < _LATEST_MS else UNKNOWN,
            now,
        )
    return Fault(reason or NO_QUOTE, f"last {price}, bid {bid}, ask {ask}", row.symbol)


def _salvaged(text: bytes) -> tuple[_Message, list[Fault]] | None:
    """Read a message that is not sound as a whole: its sound parts and rows, and a fault for each of the others.

    @return: C{None} when it is no JSON object, or does not tell whether it is an error.
    """
    try:
        message, unsound, parts = _sound(_MESSAGES, text, without="result")
    except _UNREADABLE:
        return None
    if "code" in unsound:
        return None
    faults = [Fault(MALFORMED, f"unreadable {name}") for name in unsound]
    if "result" in parts:
        try:
            message.result, unsound, parts = _sound(_RESULTS, parts["result"], without="data")
            faults += [Fault(MALFORMED, f"unreadable {name}") for name in unsound]
            items = _ITEMS.decode(parts.get("data", b"[]"))
        except _UNREADABLE:
            return message, [*faults, Fault(MALFORMED, "unreadable result")]
        read = [_salvaged_row(item) for item in items]
        message.result.data = [row for row in read if isinstance(row, _Row)]
        faults += [row for row in read if isinstance(row, Fault)]
    return message, faults


def _salvaged_row(item: msgspec.Raw) -> _Row | Fault:
    try:
        row, unsound, _ = _sound(_ROWS, item)
    except _UNREADABLE:
        return Fault(MALFORMED, "unreadable row")
    needed = [name for name in unsound if name in _NEEDED]
    return Fault(MALFORMED, f"unreadable {', '.join(needed)}", row.symbol) if needed else row


def _sound(
    decoder: msgspec.json.Decoder[_S], text: bytes | msgspec.Raw, without: str = ""
) -> tuple[_S, list[str], dict[str, msgspec.Raw]]:
    """Read what can be read of an object; null and empty text count as missing.

    @param without: a part to leave alone.
    @return: the struct, the names of the parts that cannot be read, and all parts that are not empty.
    @raise Exception: one of C{_UNREADABLE}, when it is no object.
    """
    parts = {name: part for name, part in _PARTS.decode(text).items() if bytes(part) not in _NOTHING}
    sound: dict[str, msgspec.Raw] = {}
    unsound: list[str] = []
    for name in decoder.type.__struct_encode_fields__:
        if name in parts and name != without:
            try:
                decoder.decode(msgspec.json.encode({name: parts[name]}))
            except _UNREADABLE:
                unsound.append(name)
            else:
                sound[name] = parts[name]
    return decoder.decode(msgspec.json.encode(sound)), unsound, parts


def _ticker_of(channel: str) -> str:
    about, _, symbol = channel.partition(".")
    return symbol if about == _TICKER else ""


def _unasked(symbol: str) -> Fault:
    return Fault(UNKNOWN_SYMBOL, "not asked for", symbol[:_DETAIL])


def _detail(message: _Message) -> str:
    return f"{message.code} {message.message}"[:_DETAIL].rstrip()


def _text(value: Mapping[str, object]) -> str:
    return msgspec.json.encode(value).decode()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    seconds = headers.get("retry-after", "").strip()
    return float(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 7 else None


EXCHANGE: Final = ExchangeModule(FACTS, CryptocomSocket, CryptocomRest)
