"""Gemini: the fast socket's C{bookTicker} and C{trade} streams, and REST's tickers.

Two streams make one price. A book message gives bid and ask, and (undocumented, so not relied on) the last trade;
where it does not, the last trade heard on the other stream stands in, and before there was any, mid. A trade
message gives the price, with the book as last heard; before any book, and after a book that made no sense, it goes
without. Messages carry no type: C{b} and C{a} make a book, C{p} and C{q} a trade.

A symbol's C{u} rises, with holes. A book whose C{u} is lower than one heard before is old news and dropped
as a gap in the sequence; when that goes on (the exchange numbers anew), only a new connection helps.

One stream name that Gemini does not know refuses the whole subscription. The error names it: its symbol is
taken out, and the rest asked for again. After any other error it is asked for once more when symbols are still
missing and patience runs out.

A quiet book sends nothing, and so the socket is probed with Gemini's own ping. A new subscription may bring no
snapshot: the first price comes from REST.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Final
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
)
from tbeast.domain.ticks import NO_QUOTE, UNKNOWN, Tick, fault_in

NAME: Final = "gemini"

PING_AFTER_SECONDS: Final = 5.0
"""After this much silence the socket is probed, and again after as much more."""

SILENT_SECONDS: Final = 20.0
"""After this much silence, probes included, the connection is dead."""

OLD_BOOKS_IN_A_ROW: Final = 10
"""So many books of one symbol, each older than one heard before, mean that the numbering began anew."""

LONE_QUESTIONS: Final = 3
"""Up to so many symbols are asked for one by one, with bid and ask; beyond, all prices come in one answer."""

LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
"""A C{Retry-After} beyond this is taken for a mistake."""

_FEED_PATH: Final = "/v1/pricefeed"
_PING_ID: Final = "ping"
_INVALID_STREAM: Final = -1013
_LATEST_NANOSECONDS: Final = 2**63
_DETAIL_LENGTH: Final = 200
_UNREADABLE: Final = (ValueError, RecursionError)  # all of msgspec's errors are ValueErrors, and so are Unicode's

_HTTP_DATE: Final = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class _Price(msgspec.Struct, gc=False):
    """A book or a trade. Numbers are read from strings too, by JSON's grammar: no "1_0", no spaces."""

    update_id: int = msgspec.field(default=-1, name="u")
    nanoseconds: int = msgspec.field(default=0, name="E")
    symbol: str = msgspec.field(default="", name="s")
    bid: float = msgspec.field(default=UNKNOWN, name="b")
    ask: float = msgspec.field(default=UNKNOWN, name="a")
    last: float = msgspec.field(default=UNKNOWN, name="c")
    trade_price: float = msgspec.field(default=UNKNOWN, name="p")
    trade_size: float = msgspec.field(default=UNKNOWN, name="q")


_decode: Final = msgspec.json.Decoder(_Price, strict=False).decode
_decode_anything: Final = msgspec.json.Decoder(float_hook=float).decode


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
        self._subscriptions = Subscriptions(symbols)
        self._markets = {symbol: _Market() for symbol in self._subscriptions.wanted}
        self._liveness = Liveness(SILENT_SECONDS)
        self._pinged_at = -inf
        self._questions = 0
        self._met_error = False

    def opened(self, now: float) -> list[Event]:
        """Subscribe to both streams of every symbol in one frame."""
        self._liveness.heard(now)
        return self._subscribe(now)

    def received(self, frame: bytes, now: float) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.SocketCodec.received}."""
        self._liveness.heard_at = now
        try:
            price = _decode(frame)
        except _UNREADABLE:
            return self._received_other(frame, now)
        bid, ask = price.bid, price.ask
        if bid == bid and ask == ask:
            return self._hear_book(price.symbol, bid, ask, price.last, price.update_id, price.nanoseconds, now)
        traded, size = price.trade_price, price.trade_size
        if traded == traded and size == size and bid != bid and ask != ask:
            return self._hear_trade(price.symbol, traded, price.nanoseconds, now)
        return self._received_other(frame, now)

    def ponged(self, now: float) -> None:
        """The server's protocol pings, every 20 s, show that the connection lives."""
        self._liveness.heard(now)

    def due(self, now: float) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.SocketCodec.due}."""
        events = self._liveness.due(now)
        quiet_for = min(self._liveness.silence(now), now - self._pinged_at)
        if not events and quiet_for >= PING_AFTER_SECONDS:
            self._pinged_at = now
            events.append(Send('{"id":"ping","method":"ping"}'))
        silent = self._subscriptions.due(now)
        if silent and self._met_error:
            silent += self._subscribe(now)
        return events + silent

    def _subscribe(self, now: float) -> list[Event]:
        wanted = self._subscriptions.wanted
        if not wanted:
            return []
        self._subscriptions.asked(now)
        self._questions += 1
        self._met_error = False
        streams = [f"{symbol}@{stream}" for symbol in wanted for stream in ("bookTicker", "trade")]
        question = {"id": str(self._questions), "method": "subscribe", "params": streams}
        return [Send(msgspec.json.encode(question).decode())]

    def _received_other(self, frame: bytes, now: float) -> list[Event]:
        """Read what is no book and no trade, or one of another shape than usual."""
        content = _json_in(frame)
        if not isinstance(content, dict):
            return [Fault(MALFORMED, _excerpt(frame))]
        symbol, nanoseconds = _text(content.get("s")), _whole(content.get("E"), 0)
        if "b" in content or "a" in content:
            bid, ask, last = (_number(content.get(key)) for key in "bac")
            return self._hear_book(symbol, bid, ask, last, _whole(content.get("u"), -1), nanoseconds, now)
        if "p" in content and "q" in content:
            return self._hear_trade(symbol, _number(content["p"]), nanoseconds, now)
        if "status" in content:
            return self._read_answer(content, now)
        if content.get("result") == "error":
            return [Fault(EXCHANGE_ERROR, _text(content.get("reason"))[:_DETAIL_LENGTH])]
        return [Fault(UNKNOWN_MESSAGE, _excerpt(frame))]

    def _read_answer(self, content: dict[str, object], now: float) -> list[Event]:
        question = _text(content.get("id"))
        if content["status"] == 200:
            if question == str(self._questions):
                return self._subscriptions.acknowledged(self._subscriptions.wanted)
            return [] if question == _PING_ID else [Fault(UNKNOWN_MESSAGE, f"an answer to {question[:50]!r}")]
        error = content.get("error")
        code, detail = (error.get("code"), _text(error.get("msg"))) if isinstance(error, dict) else (None, "")
        detail = detail[:_DETAIL_LENGTH]
        if code == _INVALID_STREAM:
            symbol = detail.rpartition(" ")[2].partition("@")[0].lower()
            refused = self._subscriptions.refused(symbol, detail)
            if refused:  # nothing is asked again at once unless a symbol was taken out, so this ends
                del self._markets[symbol]
                return [*refused, *self._subscribe(now)]
        self._met_error = True
        return [Fault(EXCHANGE_ERROR, detail)]

    def _hear_book(
        self, symbol: str, bid: float, ask: float, last: float, update_id: int, nanoseconds: int, now: float
    ) -> list[Event]:
        market = self._markets.get(symbol)
        if market is None:
            return _strange(symbol)
        events: list[Event] = []
        if symbol in self._subscriptions.missing:
            events += self._subscriptions.acknowledged((symbol,))
        if update_id < market.update_id and update_id >= 0:
            market.old_books += 1
            events.append(Fault(SEQUENCE_GAP, "a book older than the last", symbol))
            if market.old_books >= OLD_BOOKS_IN_A_ROW:
                events.append(Reconnect(f"the books of {symbol} are numbered anew"))
            return events
        market.old_books = 0
        if update_id >= 0:
            market.update_id = update_id
        if 0.0 < last < inf:
            market.last = last
        price = market.last
        if price != price:
            price = (bid + ask) / 2.0
        if not (0.0 < bid <= ask < inf and price < inf):
            reason = NO_QUOTE if bid != bid or ask != ask else fault_in(price, bid, ask)
            if reason is not None:
                market.bid = market.ask = UNKNOWN
                events.append(Fault(reason, f"bid {bid} ask {ask}", symbol))
                return events
        market.bid = bid
        market.ask = ask
        events.append(Tick(NAME, symbol, price, bid, ask, UNKNOWN, _seconds(nanoseconds), now))
        return events

    def _hear_trade(self, symbol: str, price: float, nanoseconds: int, now: float) -> list[Event]:
        market = self._markets.get(symbol)
        if market is None:
            return _strange(symbol)
        events: list[Event] = []
        if symbol in self._subscriptions.missing:
            events += self._subscriptions.acknowledged((symbol,))
        reason = fault_in(price, market.bid, market.ask)
        if reason is not None:
            events.append(Fault(reason, f"a trade at {price}", symbol))
            return events
        market.last = price
        events.append(Tick(NAME, symbol, price, market.bid, market.ask, UNKNOWN, _seconds(nanoseconds), now))
        return events


class GeminiRest:
    """A few symbols by their tickers, many by the price feed; see L{tbeast.codecs.exchanges.base.RestCodec}."""

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """See L{tbeast.codecs.exchanges.base.RestCodec.requests}. The price feed knows neither bid nor ask."""
        if len(symbols) > LONE_QUESTIONS:
            return [RestRequest(_FEED_PATH, tuple(symbols))]
        return [RestRequest(f"/v1/pubticker/{quote(symbol, safe='')}", (symbol,)) for symbol in symbols]

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """See L{tbeast.codecs.exchanges.base.RestCodec.responded}.

        The time in a ticker is that of its volume and can be old: the answer's Date stands for the price's time.
        """
        symbols, many = request.symbols, request.path == _FEED_PATH
        if status == 429:
            return [Throttled(_retry_after(headers))]
        content = _json_in(body)
        if status == 400 and not many and isinstance(content, dict) and content.get("result") == "error":
            detail = _text(content.get("message")) or _text(content.get("reason"))
            return [Refused(symbols[0], detail[:_DETAIL_LENGTH])]
        if status != 200:
            return [Fault(HTTP_STATUS, f"{status} {_excerpt(body)}", "" if many else symbols[0])]
        exchange_time = _http_date_seconds(headers.get("date", ""))
        if many and isinstance(content, list):
            return _read_feed(symbols, content, exchange_time, now)
        if not many and isinstance(content, dict):
            return [_read_ticker(symbols[0], content, exchange_time, now)]
        return [Fault(MALFORMED, _excerpt(body), "" if many else symbols[0])]


def _read_ticker(symbol: str, content: dict[str, object], exchange_time: float, now: float) -> Event:
    price, bid, ask = (_number(content.get(key)) for key in ("last", "bid", "ask"))
    reason = NO_QUOTE if bid != bid or ask != ask else fault_in(price, bid, ask)
    if reason is not None:
        return Fault(reason, f"price {price} bid {bid} ask {ask}", symbol)
    volume = _base_volume(symbol, content.get("volume"))
    return Tick(NAME, symbol, price, bid, ask, volume, exchange_time, now)


def _base_volume(symbol: str, volumes: object) -> float:
    """Find the base currency's volume among those of C{btcusd}'s two currencies: BTC's, because BTC + USD is BTCUSD."""
    if isinstance(volumes, dict):
        pair = symbol.upper()
        for base, volume in volumes.items():
            if pair.startswith(base) and pair[len(base) :] in volumes:
                number = _number(volume)
                return number if 0.0 <= number < inf else UNKNOWN
    return UNKNOWN


def _read_feed(symbols: Sequence[str], content: list[object], exchange_time: float, now: float) -> list[Event]:
    """Pick the symbols asked for; names are compared whole, since C{btcgusdperp} is not C{btcusd}."""
    prices: dict[str, object] = {}
    for entry in content:
        if isinstance(entry, dict):
            prices[_text(entry.get("pair")).lower()] = entry.get("price")
    events: list[Event] = []
    for symbol in symbols:
        price = _number(prices.get(symbol.lower()))
        reason = fault_in(price, UNKNOWN, UNKNOWN)
        if reason is None:
            events.append(Tick(NAME, symbol, price, UNKNOWN, UNKNOWN, UNKNOWN, exchange_time, now))
        else:
            events.append(Fault(reason, f"price {price} in the price feed", symbol))
    return events


def _strange(symbol: str) -> list[Event]:
    if not symbol:
        return [Fault(MALFORMED, "a price without a symbol")]
    return [Fault(UNKNOWN_SYMBOL, "not asked for", symbol[:50])]


def _seconds(nanoseconds: int) -> float:
    return nanoseconds / 1e9 if 0 < nanoseconds < _LATEST_NANOSECONDS else UNKNOWN


def _http_date_seconds(text: str) -> float:
    """Read C{Tue, 08 Sep 2026 08:00:01 GMT} as seconds since the epoch; NaN for anything else."""
    found = _HTTP_DATE.fullmatch(text)
    if found is None:
        return UNKNOWN
    day, year, hour, minute, second = (int(found[group]) for group in (1, 3, 4, 5, 6))
    try:
        return datetime(year, _MONTHS.index(found[2]) + 1, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        return UNKNOWN


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: object, otherwise: int) -> int:
    try:
        return msgspec.convert(value, int, strict=False)
    except _UNREADABLE:
        return otherwise


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
        websocket_url="wss://ws.gemini.com",
        rest_url="https://api.gemini.com",
        quote="USD",
        symbols_per_socket=100,
        dials=Rate(5, 6.0),  # 300 in 5 minutes
        rest=Rate(1, 1.0),
        seeds_from_rest=True,
    ),
    GeminiSocket,
    GeminiRest,
)
