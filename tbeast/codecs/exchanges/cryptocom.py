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
    RestRequest,
)
from tbeast.codecs.exchanges.parts import (
    DETAIL_LENGTH,
    NAME_LENGTH,
    UNREADABLE,
    Reader,
    declined,
    excerpt,
    judged,
    lone,
    picked,
    questions,
    sending,
    throttled,
    unasked,
    with_lost,
)
from tbeast.codecs.exchanges.subscribing import Subscriptions
from tbeast.domain.ticks import UNKNOWN, Tick

NAME: Final = "cryptocom"

SYMBOLS_PER_FRAME: Final = 100
SECONDS_BETWEEN_FRAMES: Final = 0.1
SETTLING_SECONDS: Final = 1.0
"""Between opening and the first subscribe."""

SILENT_SECONDS: Final = 20.0
"""Without so much as a ping of the protocol for this long, a connection is dead."""

UNSPOKEN_SECONDS: Final = 95.0
"""Without a message for this long, three heartbeats and a little, it has nobody behind it."""

SYMBOL_CODES: Final = frozenset({40003, 40004})
"""The request is refused for what it names."""

RATE_LIMITED: Final = 42901
WRONG_NAME: Final = 40004

TICKERS_PATH: Final = "/exchange/v1/public/get-tickers"
ONE_PATH: Final = f"{TICKERS_PATH}?instrument_name={{}}"

_TICKER: Final = "ticker"


class _Row(msgspec.Struct, gc=False):
    """One ticker."""

    symbol: str = msgspec.field(name="i", default="")
    price: float = msgspec.field(name="a", default=UNKNOWN)
    bid: float = msgspec.field(name="b", default=UNKNOWN)
    ask: float = msgspec.field(name="k", default=UNKNOWN)
    volume: float = msgspec.field(name="v", default=UNKNOWN)
    milliseconds: float = msgspec.field(name="t", default=UNKNOWN)


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


_MESSAGES: Final = Reader(_Message, deciding=("code", "method"))
_decode: Final = _MESSAGES.decode


class CryptocomSocket:
    """One connection to the market socket; see L{tbeast.codecs.exchanges.base.SocketCodec}."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._subscriptions = Subscriptions(
            symbols, _question, SYMBOLS_PER_FRAME, SECONDS_BETWEEN_FRAMES, SETTLING_SECONDS
        )
        self._liveness = Liveness(SILENT_SECONDS)
        self._speech = Liveness(UNSPOKEN_SECONDS)

    def opened(self, now: float) -> list[Event]:
        """Subscribe to everything, a second from now."""
        self._liveness.heard(now)
        self._speech.heard(now)
        return self._subscriptions.opened(now)

    def received(self, frame: bytes, now: float) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.SocketCodec.received}."""
        self._liveness.heard_at = self._speech.heard_at = now
        try:
            message = _decode(frame)
        except UNREADABLE:
            found, lost = _MESSAGES.read(frame)
            if found is None:
                return [Fault(MALFORMED, excerpt(frame))]
            return with_lost(self._hear(found, now), lost)
        return self._hear(message, now)

    def ponged(self, now: float) -> None:
        """A protocol-level ping or pong: the connection lives."""
        self._liveness.heard(now)

    def due(self, now: float) -> list[Event]:
        """A connection that is dead, or has nobody behind it; and symbols that were asked for in vain."""
        return self._liveness.due(now) or self._speech.due(now) or self._subscriptions.due(now)

    def _hear(self, message: _Message, now: float) -> list[Event]:
        result = message.result
        if message.code or result is None:
            return self._answered(message, now)
        if result.channel != _TICKER and not (_ticker_of(result.subscription) and not result.channel):
            return [Fault(UNKNOWN_MESSAGE, f"channel {result.channel or result.subscription}"[:DETAIL_LENGTH])]
        name = result.instrument_name or _ticker_of(result.subscription)
        if not result.data:
            return self._acknowledged(name)
        wanted, missing = self._subscriptions.wanted, self._subscriptions.missing
        events: list[Event] = []
        for row in result.data:
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

    def _answered(self, message: _Message, now: float) -> list[Event]:
        if message.method == "public/heartbeat":
            if message.id is None:
                return [Fault(MALFORMED, "a heartbeat without an id")]
            return [sending({"id": message.id, "method": "public/respond-heartbeat"})]
        if message.code:
            return self._failed(message, now)
        symbol = _ticker_of(message.channel)
        if message.method != "subscribe" or (message.channel and not symbol):
            return [Fault(UNKNOWN_MESSAGE, f"method {message.method!r} {message.channel}"[:DETAIL_LENGTH].rstrip())]
        # An answer that names no channel tells nothing of the symbols: their first prices will.
        return self._acknowledged(symbol) if symbol else []

    def _acknowledged(self, symbol: str) -> list[Event]:
        if symbol not in self._subscriptions.wanted:
            return [unasked(symbol)]
        return self._subscriptions.acknowledged((symbol,))

    def _failed(self, message: _Message, now: float) -> list[Event]:
        detail = _said(message)
        channel = message.channel or (message.result.subscription if message.result is not None else "")
        symbol = _ticker_of(channel)
        if message.code in SYMBOL_CODES:
            if symbol in self._subscriptions.wanted:
                return self._subscriptions.refused(symbol, detail)
            if not channel and message.id is not None:
                return self._subscriptions.spoiled(self._subscriptions.answered(message.id), (), detail, now)
        return [Fault(EXCHANGE_ERROR, detail, symbol[:NAME_LENGTH])]


def _question(number: int, symbols: Sequence[str], now: float) -> Mapping[str, object]:
    channels = [f"{_TICKER}.{symbol}" for symbol in symbols]
    return {"id": number, "method": "subscribe", "params": {"channels": channels}}


def _ticker_of(channel: str) -> str:
    about, _, symbol = channel.partition(".")
    return symbol if about == _TICKER else ""


def _said(message: _Message) -> str:
    return f"{message.code} {message.message}"[:DETAIL_LENGTH].rstrip()


class CryptocomRest:
    """C{get-tickers}, for one instrument or for all; see L{tbeast.codecs.exchanges.base.RestCodec}."""

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """Ask for a few one by one, and for many with the whole list (about 260 KB)."""
        return questions(symbols, ONE_PATH, TICKERS_PATH)

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """Pick the asked symbols out of the answer; what was asked for and is not in it is a fault."""
        message, lost = _MESSAGES.read(body)
        code = 0 if message is None else message.code
        if status == 429 or code == RATE_LIMITED:
            return throttled(headers, now)
        symbol = lone(request)
        if message is not None and code == WRONG_NAME and symbol:
            return [Refused(symbol, _said(message))]
        if status != 200:
            return declined(request, status, _said(message) if message is not None and code else excerpt(body))
        if message is not None and code:
            return [Fault(EXCHANGE_ERROR, _said(message), symbol)]
        if message is None or message.result is None or "result.data" in lost:
            return [Fault(MALFORMED, excerpt(body), symbol)]

        def judge(row: _Row) -> Tick | Fault:
            seconds = row.milliseconds / 1000.0
            return judged(NAME, row.symbol, row.price, row.bid, row.ask, row.volume, seconds, now)

        return with_lost(picked(request, message.result.data, judge), lost)


FACTS: Final = ExchangeFacts(
    name=NAME,
    websocket_url="wss://stream.crypto.com/exchange/v1/market",
    rest_url="https://api.crypto.com",
    quote="USD",
    symbols_per_socket=100,
    dials=Rate(2, 1.0),
    rest=Rate(20, 1.0),
    rest_root="/exchange/v1",
)

EXCHANGE: Final = ExchangeModule(FACTS, CryptocomSocket, CryptocomRest)
