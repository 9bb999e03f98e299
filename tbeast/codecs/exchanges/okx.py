"""OKX, v5: the public socket's C{tickers} channel, and C{market/ticker(s)}.

What this exchange wants of its callers:

 - One subscribe names every instrument, as long as its text stays under 64 KB. Each is acknowledged by itself.
 - An instrument that does not exist is answered with code 60018, and named only in the middle of the message's prose;
   the others go on.
 - It ends a connection on which nothing went for 30 s. Whoever hears nothing sends the bare text C{ping} before that
   and is answered with the bare text C{pong}. Neither is JSON, and a protocol-level pong does not stand in for it.
 - Code 64008 announces that this connection will be closed for an upgrade of the service, half a minute before.
 - REST tells its errors in C{code}, with HTTP 200 as like as not.

A subscription begins with a snapshot. Times are strings of milliseconds; C{vol24h} counts base currency on spot.

The C{status} channel is not taken: it announces maintenance of copy trading and bots in the same words as that of the
spot market, and names no instruments. What it would tell of a connection, code 64008 and silence tell too.
"""

from __future__ import annotations

import re
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
    Replace,
    RestRequest,
    Send,
    Subscriptions,
    Throttled,
)
from tbeast.domain.ticks import NO_PRICE, NO_QUOTE, UNKNOWN, Tick, fault_in

NAME: Final = "okx"

FRAME_BYTES: Final = 60_000  # for one subscribe; the exchange takes 64 KB
FRAME_SPACING_SECONDS: Final = 0.5

PING_SECONDS: Final = 10.0  # of silence, until asking whether anybody is there
SILENT_SECONDS: Final = 25.0
UPGRADE_SECONDS: Final = 30.0  # from the notice to the end of the connection

ASKED_SINGLY: Final = 3  # more symbols than this are learned from the whole list

WRONG_SYMBOL: Final = 60018
UPGRADE: Final = 64008
REST_WRONG_SYMBOL: Final = 51001
REST_RATE_LIMITED: Final = 50011

_TICKERS: Final = "tickers"
_ONE_PATH: Final = "/api/v5/market/ticker?instId="
_ALL_PATH: Final = "/api/v5/market/tickers?instType=SPOT"
_NAMED: Final = re.compile(r"instId:\s*([^\s,]+)")
_LATEST_MS: Final = 253_402_300_800_000.0  # the end of the year 9999: no time that can be told lies beyond
_DETAIL: Final = 200  # characters of the exchange's own words that are passed on

FACTS: Final = ExchangeFacts(
    name=NAME,
    websocket_url="wss://ws.okx.com:8443/ws/v5/public",
    rest_url="https://www.okx.com",
    quote="USDT",
    symbols_per_socket=100,
    dials=Rate(2, 1.0),
    rest=Rate(8, 1.0),
)


class _Row(msgspec.Struct, gc=False):
    """One ticker. What is missing stays empty or NaN; numbers may come as strings or as JSON numbers."""

    symbol: str = msgspec.field(name="instId", default="")
    price: float = msgspec.field(name="last", default=nan)
    bid: float = msgspec.field(name="bidPx", default=nan)
    ask: float = msgspec.field(name="askPx", default=nan)
    volume: float = msgspec.field(name="vol24h", default=nan)
    time_ms: float = msgspec.field(name="ts", default=nan)


class _Arg(msgspec.Struct, gc=False):
    channel: str = ""
    symbol: str = msgspec.field(name="instId", default="")


class _Message(msgspec.Struct, gc=False):
    """Any message of the socket, and any answer of REST."""

    event: str = ""
    code: int = 0
    msg: str = ""
    arg: _Arg | None = None
    data: list[_Row] | None = None


_S = TypeVar("_S", bound=msgspec.Struct)

# Not strict: "1.5" is read as a number, while "1_0", " 1 " and "" are not.
_MESSAGES: Final = msgspec.json.Decoder(_Message, strict=False)
_ROWS: Final = msgspec.json.Decoder(_Row, strict=False)
_PARTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NOTHING: Final = (b"null", b'""')
_NEEDED: Final = frozenset({"instId", "last", "bidPx", "askPx"})


class OkxSocket:
    """One connection to the public socket; see L{tbeast.codecs.exchanges.base.SocketCodec}."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._symbols = Subscriptions(symbols)
        self._alive = Liveness(SILENT_SECONDS)
        self._pinged_at = -inf

    def opened(self, now: float) -> list[Event]:
        """Subscribe to everything, with one message if it will hold it."""
        self._alive.heard(now)
        sends: list[Event] = []
        for args in _frames(self._symbols.wanted):
            after = FRAME_SPACING_SECONDS * len(sends)
            sends.append(Send(f'{{"op":"subscribe","args":[{",".join(args)}]}}', after))
            self._symbols.asked(now + after)
        return sends

    def received(self, frame: bytes, now: float) -> list[Event]:
        """Take one message."""
        self._alive.heard_at = now
        if frame == b"pong":
            return []
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
        """A protocol-level ping or pong: the exchange does not count these, and neither do we."""

    def due(self, now: float) -> list[Event]:
        """Ask a silent exchange whether it is there; name the silent symbols, and a dead connection."""
        events: list[Event] = []
        if self._alive.silence(now) >= PING_SECONDS and now - self._pinged_at >= PING_SECONDS:
            self._pinged_at = now
            events.append(Send("ping"))
        return [*events, *self._symbols.due(now), *self._alive.due(now)]

    def _heard(self, message: _Message, now: float, damaged: bool) -> list[Event]:
        arg, rows = message.arg, message.data
        if message.event or arg is None or rows is None:
            return self._answered(message, damaged)
        if arg.channel != _TICKERS:
            return [Fault(UNKNOWN_MESSAGE, f"channel {arg.channel}"[:_DETAIL])]
        name = arg.symbol
        wanted, missing = self._symbols.wanted, self._symbols.missing
        events: list[Event] = []
        for row in rows:
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

    def _answered(self, message: _Message, damaged: bool) -> list[Event]:
        arg, event = message.arg, message.event
        if event == "subscribe" and arg is not None and arg.channel == _TICKERS:
            if arg.symbol in self._symbols.wanted:
                return self._symbols.acknowledged((arg.symbol,))
            return [_unasked(arg.symbol)]
        if message.code == UPGRADE:
            return [Replace(_detail(message), UPGRADE_SECONDS)]
        if event == "error":
            return self._failed(message)
        return [] if damaged else [Fault(UNKNOWN_MESSAGE, f"event {event} {_detail(message)}"[:_DETAIL])]

    def _failed(self, message: _Message) -> list[Event]:
        detail = _detail(message)
        refused: list[Event] = []
        if message.code == WRONG_SYMBOL:
            for symbol in _NAMED.findall(message.msg):
                refused += self._symbols.refused(symbol, detail)
        return refused or [Fault(EXCHANGE_ERROR, detail)]

    def _own(self, fault: Fault) -> Fault:
        return _unasked(fault.symbol) if fault.symbol and fault.symbol not in self._symbols.wanted else fault


class OkxRest:
    """C{market/ticker} for one instrument, C{market/tickers} for all of spot; see
    L{tbeast.codecs.exchanges.base.RestCodec}.
    """

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """Ask for a few one by one, and for many with the whole list."""
        wanted = tuple(dict.fromkeys(symbols))
        if len(wanted) > ASKED_SINGLY:
            return [RestRequest(_ALL_PATH, wanted)]
        return [RestRequest(f"{_ONE_PATH}{quote(symbol, safe='')}", (symbol,)) for symbol in wanted]

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
        if message is not None and message.code == REST_RATE_LIMITED:
            return [Throttled(_retry_after(headers))]
        if message is not None and message.code == REST_WRONG_SYMBOL and len(request.symbols) == 1:
            return [Refused(request.symbols[0], _detail(message))]
        if status != 200:
            return [Fault(HTTP_STATUS, f"{status} {_detail(message)}" if message is not None else str(status))]
        if message is None:
            return [*faults]
        if message.code:
            return [Fault(EXCHANGE_ERROR, _detail(message))]
        if message.data is None:
            return [*(faults or [Fault(MALFORMED, "no data")])]
        return _picked(request.symbols, message.data, faults, now)


def _frames(symbols: Iterable[str]) -> list[list[str]]:
    """Each symbol's C{arg} as JSON text, in as many groups as the limit of a message asks for."""
    frames: list[list[str]] = []
    size = FRAME_BYTES
    for symbol in symbols:
        arg = msgspec.json.encode({"channel": _TICKERS, "instId": symbol})
        size += len(arg) + 1
        if size > FRAME_BYTES:
            frames.append([])
            size = len(arg) + 1
        frames[-1].append(arg.decode())
    return frames


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
        message, unsound, parts = _sound(_MESSAGES, text, without="data")
    except _UNREADABLE:
        return None
    if "code" in unsound or "event" in unsound:
        return None
    faults = [Fault(MALFORMED, f"unreadable {name}") for name in unsound]
    if "data" in parts:
        try:
            read = [_salvaged_row(item) for item in _ITEMS.decode(parts["data"])]
        except _UNREADABLE:
            return message, [*faults, Fault(MALFORMED, "unreadable data")]
        message.data = [row for row in read if isinstance(row, _Row)]
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


def _unasked(symbol: str) -> Fault:
    return Fault(UNKNOWN_SYMBOL, "not asked for", symbol[:_DETAIL])


def _detail(message: _Message) -> str:
    return f"{message.code} {message.msg}"[:_DETAIL].rstrip()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    seconds = headers.get("retry-after", "").strip()
    return float(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 7 else None


EXCHANGE: Final = ExchangeModule(FACTS, OkxSocket, OkxRest)
