"""Gemini: the fast socket's C{bookTicker} and C{trade} streams, and REST's tickers.

Two streams make one price. A book message gives bid and ask, and (undocumented, so not relied on) the last trade;
where it does not, the last trade heard on the other stream stands in, and before there was any, mid. A trade
message gives the price, with the book as last heard; before any book, and after a book that made no sense, it goes
without. Messages carry no type: C{b} and C{a} make a book, C{p} and C{q} a trade.

A symbol's C{u} rises, with holes. A book whose C{u} is lower than one heard before is old news and dropped
as a gap in the sequence; when that goes on (the exchange numbers anew), only a new connection helps.

One stream name that Gemini does not know refuses the whole subscription. The error names it: its symbol is taken out,
and the rest asked for again. Where it names none, the symbols of that frame are asked for one by one.

A quiet book sends nothing, and so the socket is probed with Gemini's own ping, which Gemini answers with a message.
Pings and pongs of the WebSocket protocol, which a proxy may answer too, keep up a connection for a while, but not one
on which no message has come in spite of the probes. A new subscription may bring no snapshot: the first price comes
from REST.
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
    SEQUENCE_GAP,
    UNKNOWN_MESSAGE,
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
    LATEST_SECONDS,
    NAME_LENGTH,
    UNREADABLE,
    Reader,
    declined,
    excerpt,
    http_date_seconds,
    judged,
    lone,
    number,
    parts_of,
    picked,
    questions,
    sending,
    throttled,
    unasked,
    with_lost,
)
from tbeast.codecs.exchanges.subscribing import Subscriptions
from tbeast.domain.ticks import GREATEST, SMALLEST, UNKNOWN, Tick, fault_in

NAME: Final = "gemini"

SYMBOLS_PER_FRAME: Final = 100
SECONDS_BETWEEN_FRAMES: Final = 0.2

PING_AFTER_SECONDS: Final = 5.0
"""After this long without a message the socket is probed, and again after as long."""

SILENT_SECONDS: Final = 20.0
"""Without so much as a ping of the protocol for this long, a connection is dead."""

UNSPOKEN_SECONDS: Final = 40.0
"""Without a message for this long, and so many probes unanswered, it has nobody behind it."""

OLD_BOOKS_IN_A_ROW: Final = 10
"""So many books of one symbol, each older than one heard before, mean that the numbering began anew."""

ONE_PATH: Final = "/v1/pubticker/{}"
FEED_PATH: Final = "/v1/pricefeed"

_PING_ID: Final = "ping"
_OUR_ID: Final = re.compile(r"[0-9]{1,9}")
_INVALID_STREAM: Final = -1013


class _Price(msgspec.Struct, gc=False):
    """A book or a trade."""

    update_id: int = msgspec.field(default=-1, name="u")
    nanoseconds: float = msgspec.field(default=UNKNOWN, name="E")
    symbol: str = msgspec.field(default="", name="s")
    bid: float = msgspec.field(default=UNKNOWN, name="b")
    ask: float = msgspec.field(default=UNKNOWN, name="a")
    last: float = msgspec.field(default=UNKNOWN, name="c")
    trade_price: float = msgspec.field(default=UNKNOWN, name="p")
    trade_size: float = msgspec.field(default=UNKNOWN, name="q")


class _Error(msgspec.Struct, gc=False):
    code: int = 0
    msg: str = ""


class _Answer(msgspec.Struct, gc=False):
    """An answer to a question of ours; or the error of an older feed."""

    id: str = ""
    status: int = 0
    error: _Error | None = None
    result: str = ""
    reason: str = ""


class _Ticker(msgspec.Struct, gc=False):
    """REST's C{pubticker}, or its error."""

    bid: float = UNKNOWN
    ask: float = UNKNOWN
    last: float = UNKNOWN
    volume: msgspec.Raw = msgspec.Raw(b"{}")
    result: str = ""
    reason: str = ""
    message: str = ""


class _Entry(msgspec.Struct, gc=False):
    """An entry of REST's C{pricefeed}."""

    symbol: str = msgspec.field(default="", name="pair")
    price: float = UNKNOWN


_PRICES: Final = Reader(_Price)
_ANSWERS: Final = Reader(_Answer)
_TICKERS: Final = Reader(_Ticker)
_ENTRIES: Final = Reader(_Entry)
_decode: Final = _PRICES.decode


class _Market:
    """What is remembered of one symbol during a connection."""

    __slots__ = ("ask", "bid", "last", "old_books", "update_id")

    def __init__(self) -> None:
        self.bid = self.ask = self.last = UNKNOWN
        self.update_id = -1
        self.old_books = 0


class GeminiSocket:
    """One connection; see L{tbeast.codecs.exchanges.base.SocketCodec}."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._subscriptions = Subscriptions(symbols, _question, SYMBOLS_PER_FRAME, SECONDS_BETWEEN_FRAMES)
        self._markets = {symbol: _Market() for symbol in self._subscriptions.wanted}
        self._liveness = Liveness(SILENT_SECONDS)
        self._speech = Liveness(UNSPOKEN_SECONDS)
        self._pinged_at = -inf

    def opened(self, now: float) -> list[Event]:
        """Subscribe to both streams of every symbol."""
        self._liveness.heard(now)
        self._speech.heard(now)
        return self._subscriptions.opened(now)

    def received(self, frame: bytes, now: float) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.SocketCodec.received}."""
        self._liveness.heard_at = self._speech.heard_at = now
        try:
            price = _decode(frame)
        except UNREADABLE:
            return self._received_other(frame, now)
        bid, ask = price.bid, price.ask
        if bid == bid and ask == ask:
            return self._hear_book(price, now)
        traded, size = price.trade_price, price.trade_size
        if traded == traded and size == size and bid != bid and ask != ask:
            return self._hear_trade(price, now)
        return self._received_other(frame, now)

    def ponged(self, now: float) -> None:
        """The server's protocol pings, every 20 s, show that the connection lives."""
        self._liveness.heard(now)

    def due(self, now: float) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.SocketCodec.due}."""
        events = self._liveness.due(now) or self._speech.due(now)
        if events:
            return events
        if min(self._speech.silence(now), now - self._pinged_at) >= PING_AFTER_SECONDS:
            self._pinged_at = now
            events.append(sending({"id": _PING_ID, "method": "ping"}))
        return events + self._subscriptions.due(now)

    def _received_other(self, frame: bytes, now: float) -> list[Event]:
        """Read what is no book and no trade, or one of another shape than usual."""
        parts = parts_of(frame)
        if parts is None:
            return [Fault(MALFORMED, excerpt(frame))]
        if "b" in parts or "a" in parts or ("p" in parts and "q" in parts):
            price = _PRICES.read(frame)[0] or _Price()
            return self._hear_book(price, now) if "b" in parts or "a" in parts else self._hear_trade(price, now)
        answer, lost = _ANSWERS.read(frame)
        if answer is None or not ("status" in parts or answer.result == "error"):
            return [Fault(UNKNOWN_MESSAGE, excerpt(frame))]
        return with_lost(self._read_answer(answer, now), lost)

    def _read_answer(self, answer: _Answer, now: float) -> list[Event]:
        if answer.id == _PING_ID and answer.status == 200:
            return []
        asked = self._subscriptions.answered(int(answer.id) if _OUR_ID.fullmatch(answer.id) else 0)
        if answer.status == 200:
            if asked:
                return self._subscriptions.acknowledged(asked)
            return [Fault(UNKNOWN_MESSAGE, f"an answer to {answer.id[:NAME_LENGTH]!r}")]
        error = answer.error or _Error(msg=answer.reason)
        detail = error.msg[:DETAIL_LENGTH]
        if error.code != _INVALID_STREAM:
            return [Fault(EXCHANGE_ERROR, detail)]
        named = detail.rpartition(" ")[2].partition("@")[0].lower()
        events = self._subscriptions.spoiled(asked, (named,), detail, now)
        for event in events:
            if isinstance(event, Refused):
                del self._markets[event.symbol]
        return events

    def _hear_book(self, book: _Price, now: float) -> list[Event]:
        symbol = book.symbol
        market = self._markets.get(symbol)
        if market is None:
            return [unasked(symbol)]
        events: list[Event] = []
        if symbol in self._subscriptions.missing:
            events += self._subscriptions.acknowledged((symbol,))
        update_id = book.update_id
        if update_id < market.update_id and update_id >= 0:
            market.old_books += 1
            events.append(Fault(SEQUENCE_GAP, "a book older than the last", symbol))
            if market.old_books >= OLD_BOOKS_IN_A_ROW:
                events.append(Reconnect(f"the books of {symbol} are numbered anew"))
            return events
        market.old_books = 0
        if update_id >= 0:
            market.update_id = update_id
        bid, ask, price = book.bid, book.ask, book.last
        if SMALLEST <= price <= GREATEST:
            market.last = price
        else:
            price = market.last
            if price != price:
                price = (bid + ask) / 2.0
        heard = judged(NAME, symbol, price, bid, ask, UNKNOWN, book.nanoseconds / 1e9, now)
        if type(heard) is Fault:
            bid = ask = UNKNOWN
        market.bid = bid
        market.ask = ask
        events.append(heard)
        return events

    def _hear_trade(self, trade: _Price, now: float) -> list[Event]:
        symbol = trade.symbol
        market = self._markets.get(symbol)
        if market is None:
            return [unasked(symbol)]
        events: list[Event] = []
        if symbol in self._subscriptions.missing:
            events += self._subscriptions.acknowledged((symbol,))
        heard = _bookless(symbol, trade.trade_price, market.bid, market.ask, trade.nanoseconds / 1e9, now)
        if type(heard) is Tick:
            market.last = trade.trade_price
        events.append(heard)
        return events


def _question(number: int, symbols: Sequence[str], now: float) -> Mapping[str, object]:
    streams = [f"{symbol}@{stream}" for symbol in symbols for stream in ("bookTicker", "trade")]
    return {"id": str(number), "method": "subscribe", "params": streams}


def _bookless(symbol: str, price: float, bid: float, ask: float, exchange_time: float, now: float) -> Tick | Fault:
    """Make it a tick, which may be one without a book."""
    reason = fault_in(price, bid, ask)
    if reason is not None:
        return Fault(reason, f"last {price}, bid {bid}, ask {ask}", symbol)
    exchange_time = exchange_time if 0.0 < exchange_time < LATEST_SECONDS else UNKNOWN
    return Tick(NAME, symbol, price, bid, ask, UNKNOWN, exchange_time, now)


class GeminiRest:
    """A few symbols by their tickers, many by the price feed; see L{tbeast.codecs.exchanges.base.RestCodec}."""

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """See L{tbeast.codecs.exchanges.base.RestCodec.requests}. The price feed knows neither bid nor ask."""
        return questions(symbols, ONE_PATH, FEED_PATH)

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.RestCodec.responded}.

        The time in a ticker is that of its volume and can be old: the answer's Date stands for the price's time.
        """
        if status == 429:
            return throttled(headers, now)
        exchange_time = http_date_seconds(headers.get("date", ""))
        if request.path == FEED_PATH and status == 200:
            lost: list[str] = []
            entries = _ENTRIES.read_rows(body, "the price feed", lost)
            if not entries and lost:
                return [Fault(MALFORMED, excerpt(body))]
            for entry in entries:
                entry.symbol = entry.symbol.lower()

            def judge(entry: _Entry) -> Tick | Fault:
                return _bookless(entry.symbol, entry.price, UNKNOWN, UNKNOWN, exchange_time, now)

            return with_lost(picked(request, entries, judge), lost)
        ticker, _ = _TICKERS.read(body)
        said = "" if ticker is None else (ticker.message or ticker.reason)[:DETAIL_LENGTH]
        symbol = lone(request)
        if status == 400 and symbol and ticker is not None and ticker.result == "error":
            return [Refused(symbol, said)]
        if status != 200:
            return declined(request, status, said or excerpt(body))
        if ticker is None:
            return [Fault(MALFORMED, excerpt(body), symbol)]
        volume = _base_volume(symbol, ticker.volume)
        return [judged(NAME, symbol, ticker.last, ticker.bid, ticker.ask, volume, exchange_time, now)]


def _base_volume(symbol: str, raw: msgspec.Raw) -> float:
    """Find the base currency's volume among those of C{btcusd}'s two currencies: BTC's, because BTC + USD is BTCUSD."""
    volumes = parts_of(raw) or {}
    pair = symbol.upper()
    for base, volume in volumes.items():
        if pair.startswith(base) and pair[len(base) :] in volumes:
            return number(volume)
    return UNKNOWN


FACTS: Final = ExchangeFacts(
    name=NAME,
    websocket_url="wss://ws.gemini.com",
    rest_url="https://api.gemini.com",
    quote="USD",
    symbols_per_socket=100,
    dials=Rate(5, 6.0),  # 300 in 5 minutes
    rest=Rate(1, 1.0),
    seeds_from_rest=True,
    rest_root="/v1",
)

EXCHANGE: Final = ExchangeModule(FACTS, GeminiSocket, GeminiRest)
