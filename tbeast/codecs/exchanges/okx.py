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
from math import inf
from typing import Final

import msgspec

from tbeast.codecs.exchanges.base import (
    EXCHANGE_ERROR,
    MALFORMED,
    UNKNOWN_MESSAGE,
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
)
from tbeast.codecs.exchanges.parts import (
    DETAIL_LENGTH,
    UNREADABLE,
    Reader,
    declined,
    excerpt,
    judged,
    lone,
    picked,
    questions,
    throttled,
    unasked,
    with_lost,
)
from tbeast.codecs.exchanges.subscribing import Subscriptions
from tbeast.domain.ticks import UNKNOWN, Tick

NAME: Final = "okx"

SYMBOLS_PER_FRAME: Final = 500
"""Even with names twice as long as the longest today, less than the 64 KB that the exchange takes."""

SECONDS_BETWEEN_FRAMES: Final = 0.5

PING_AFTER_SECONDS: Final = 10.0
"""Of silence, until asking whether anybody is there."""

SILENT_SECONDS: Final = 25.0
UPGRADE_SECONDS: Final = 30.0
"""From the notice to the end of the connection."""

WRONG_SYMBOL: Final = 60018
UPGRADE: Final = 64008
REST_WRONG_SYMBOL: Final = 51001
REST_RATE_LIMITED: Final = 50011

CHANNEL: Final = "tickers"
ONE_PATH: Final = "/api/v5/market/ticker?instId={}"
ALL_PATH: Final = "/api/v5/market/tickers?instType=SPOT"

_NAMED: Final = re.compile(r"instId:\s*([^\s,]+)")


class _Row(msgspec.Struct, gc=False):
    """One ticker."""

    symbol: str = msgspec.field(name="instId", default="")
    price: float = msgspec.field(name="last", default=UNKNOWN)
    bid: float = msgspec.field(name="bidPx", default=UNKNOWN)
    ask: float = msgspec.field(name="askPx", default=UNKNOWN)
    volume: float = msgspec.field(name="vol24h", default=UNKNOWN)
    milliseconds: float = msgspec.field(name="ts", default=UNKNOWN)


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


_MESSAGES: Final = Reader(_Message, deciding=("code", "event"))
_decode: Final = _MESSAGES.decode


class OkxSocket:
    """One connection to the public socket; see L{tbeast.codecs.exchanges.base.SocketCodec}."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._subscriptions = Subscriptions(symbols, _question, SYMBOLS_PER_FRAME, SECONDS_BETWEEN_FRAMES)
        self._liveness = Liveness(SILENT_SECONDS)
        self._pinged_at = -inf

    def opened(self, now: float) -> list[Event]:
        """Subscribe to everything."""
        self._liveness.heard(now)
        return self._subscriptions.opened(now)

    def received(self, frame: bytes, now: float) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.SocketCodec.received}."""
        self._liveness.heard_at = now
        if frame == b"pong":
            return []
        try:
            message = _decode(frame)
        except UNREADABLE:
            found, lost = _MESSAGES.read(frame)
            if found is None:
                return [Fault(MALFORMED, excerpt(frame))]
            return with_lost(self._hear(found, now), lost)
        return self._hear(message, now)

    def ponged(self, now: float) -> None:
        """A protocol-level ping or pong: the exchange does not count these, and neither do we."""

    def due(self, now: float) -> list[Event]:
        """Ask a silent exchange whether it is there; name a dead connection, and symbols asked for in vain."""
        events = self._liveness.due(now)
        if events:
            return events
        if self._liveness.silence(now) >= PING_AFTER_SECONDS and now - self._pinged_at >= PING_AFTER_SECONDS:
            self._pinged_at = now
            events.append(Send("ping"))
        return events + self._subscriptions.due(now)

    def _hear(self, message: _Message, now: float) -> list[Event]:
        arg, rows = message.arg, message.data
        if message.event or arg is None or rows is None:
            return self._answered(message)
        if arg.channel != CHANNEL:
            return [Fault(UNKNOWN_MESSAGE, f"channel {arg.channel}"[:DETAIL_LENGTH])]
        name = arg.symbol
        wanted, missing = self._subscriptions.wanted, self._subscriptions.missing
        events: list[Event] = []
        for row in rows:
            symbol = row.symbol
            if symbol != name and name:
                if symbol:
                    events.append(Fault(MALFORMED, f"a row of {symbol} in a message of {name}"[:DETAIL_LENGTH]))
                    continue
                symbol = name
            if symbol not in wanted:
                events.append(unasked(symbol))
                continue
            if symbol in missing:
                events += self._subscriptions.acknowledged((symbol,))
            events.append(judged(NAME, symbol, row.price, row.bid, row.ask, row.volume, row.milliseconds / 1000.0, now))
        return events

    def _answered(self, message: _Message) -> list[Event]:
        arg, event = message.arg, message.event
        if event == "subscribe" and arg is not None and arg.channel == CHANNEL:
            if arg.symbol in self._subscriptions.wanted:
                return self._subscriptions.acknowledged((arg.symbol,))
            return [unasked(arg.symbol)]
        if message.code == UPGRADE:
            return [Replace(_said(message), UPGRADE_SECONDS)]
        if event == "error":
            return self._failed(message)
        return [Fault(UNKNOWN_MESSAGE, f"event {event!r} {_said(message)}"[:DETAIL_LENGTH])]

    def _failed(self, message: _Message) -> list[Event]:
        detail = _said(message)
        refused: list[Event] = []
        if message.code == WRONG_SYMBOL:
            for symbol in _NAMED.findall(message.msg):
                refused += self._subscriptions.refused(symbol, detail)
        return refused or [Fault(EXCHANGE_ERROR, detail)]


def _question(number: int, symbols: Sequence[str], now: float) -> Mapping[str, object]:
    return {"op": "subscribe", "args": [{"channel": CHANNEL, "instId": symbol} for symbol in symbols]}


def _said(message: _Message) -> str:
    return f"{message.code} {message.msg}"[:DETAIL_LENGTH].rstrip()


class OkxRest:
    """C{market/ticker} for one instrument, C{market/tickers} for all of spot; see
    L{tbeast.codecs.exchanges.base.RestCodec}.
    """

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """Ask for a few one by one, and for many with the whole list."""
        return questions(symbols, ONE_PATH, ALL_PATH)

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """Pick the asked symbols out of the answer; what was asked for and is not in it is a fault."""
        message, lost = _MESSAGES.read(body)
        code = 0 if message is None else message.code
        if status == 429 or code == REST_RATE_LIMITED:
            return throttled(headers, now)
        symbol = lone(request)
        if message is not None and code == REST_WRONG_SYMBOL and symbol:
            return [Refused(symbol, _said(message))]
        if status != 200:
            return declined(request, status, _said(message) if message is not None and code else excerpt(body))
        if message is not None and code:
            return [Fault(EXCHANGE_ERROR, _said(message), symbol)]
        if message is None or message.data is None or "data" in lost:
            return [Fault(MALFORMED, excerpt(body), symbol)]

        def judge(row: _Row) -> Tick | Fault:
            seconds = row.milliseconds / 1000.0
            return judged(NAME, row.symbol, row.price, row.bid, row.ask, row.volume, seconds, now)

        return with_lost(picked(request, message.data, judge), lost)


FACTS: Final = ExchangeFacts(
    name=NAME,
    websocket_url="wss://ws.okx.com:8443/ws/v5/public",
    rest_url="https://www.okx.com",
    quote="USDT",
    symbols_per_socket=100,
    dials=Rate(2, 1.0),
    rest=Rate(8, 1.0),
    rest_root="/api/v5",
)

EXCHANGE: Final = ExchangeModule(FACTS, OkxSocket, OkxRest)
