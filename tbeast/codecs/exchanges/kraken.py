"""Kraken, WebSocket v2 and public REST.

The rules of its socket. One subscribe frame names many symbols, and every symbol gets its own answer: a refused one
harms no other. A price frame carries a list of rows with JSON numbers; its C{timestamp} may be absent. Once
subscribed a heartbeat comes every second, so silence means a dead connection, and a pong of the WebSocket protocol
proves nothing. A C{status} frame tells how the matching engine fares: prices have a vote only while it is C{online}.

The rules of its REST half. The names differ (C{XXBTZUSD} for C{BTC/USD}) and cannot be had by cutting letters off,
so the list of pairs is asked for first, and a row is taken only under a name that it is known by. One unknown pair
fails the whole question, which is then split until the bad one stands alone. Faults come with HTTP status 200.

Numbers are read whether they come as JSON numbers or as text, but only in JSON's own spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import count
from math import inf, isqrt
from typing import Annotated, Any, Final, TypeVar
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
    Halted,
    Liveness,
    Rate,
    Refused,
    RestRequest,
    Resumed,
    Send,
    Subscriptions,
    Throttled,
)
from tbeast.domain.ticks import NO_PRICE, NO_QUOTE, UNKNOWN, Tick, fault_in

NAME: Final = "kraken"

SYMBOLS_PER_FRAME: Final = (50, 10, 1)
"""How many symbols a subscribe frame names, by time of asking: what stayed silent is asked again in smaller frames."""

SECONDS_BETWEEN_FRAMES: Final = 0.2
"""Kraken limits the rate of messages and does not say to what."""

SILENCE_BEFORE_PING_SECONDS: Final = 5.0
SILENCE_BEFORE_DEATH_SECONDS: Final = 10.0

PAIRS_PER_QUESTION: Final = 100
"""Keeps the address of a REST question within what every proxy takes."""

SINGLY: Final = 10
"""A failed question about so many pairs or fewer is repeated pair by pair, a larger one in about as many parts as each
has pairs: one bad pair among a hundred is found in two rounds and twenty questions.
"""

TRADING: Final = frozenset({"online"})
STANDING_STILL: Final = frozenset({"maintenance", "cancel_only", "post_only"})
"""In none of these is an order matched: what the book shows then has not been tried by a trade."""

PAIRS_PATH: Final = "/0/public/AssetPairs"
TICKER_PATH: Final = "/0/public/Ticker"

_OLD_CODES: Final = {"BTC": "XBT", "DOGE": "XDG"}
_NEW_CODES: Final = {old: new for new, old in _OLD_CODES.items()}
_NOT_THE_SYMBOLS_FAULT: Final = ("msg rate", "rate limit", "too many", "unavailable", "busy", "internal")
_TOO_MANY: Final = ("rate limit", "too many requests", "temporary lockout", "throttled")
_NAME_IN_AN_ADDRESS: Final = re.compile(r"[A-Za-z0-9._-]{1,40}")
_DETAIL_LENGTH: Final = 200
_UNREADABLE: Final = (ValueError, RecursionError)
"""Whatever msgspec raises: its own errors and UnicodeDecodeError are ValueErrors."""


class _Row(msgspec.Struct, gc=False):
    symbol: str = ""
    last: float = UNKNOWN
    bid: float = UNKNOWN
    ask: float = UNKNOWN
    volume: float = UNKNOWN
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class _Frame(msgspec.Struct, gc=False):
    channel: str = ""
    data: list[_Row] = msgspec.field(default_factory=list)


class _RestRow(msgspec.Struct, gc=False):
    a: list[float] = msgspec.field(default_factory=list)
    b: list[float] = msgspec.field(default_factory=list)
    c: list[float] = msgspec.field(default_factory=list)
    v: list[float] = msgspec.field(default_factory=list)


class _Pair(msgspec.Struct, gc=False):
    altname: str = ""
    wsname: str = ""


class _Answer(msgspec.Struct, gc=False):
    error: list[str] | str | None = None
    result: msgspec.Raw = msgspec.Raw(b"{}")


_Read = TypeVar("_Read")
_Otherwise = TypeVar("_Otherwise")

# strict=False: a number may come as text
_decode_frame: Final = msgspec.json.Decoder(_Frame, strict=False).decode
_TEXT: Final = msgspec.json.Decoder(str)
_TEXTS: Final = msgspec.json.Decoder(str | list[str])
_FLAG: Final = msgspec.json.Decoder(bool, strict=False)
_NUMBER: Final = msgspec.json.Decoder(float, strict=False)
_MOMENT: Final = msgspec.json.Decoder(Annotated[datetime, msgspec.Meta(tz=True)] | None, strict=False)
_ROW: Final = msgspec.json.Decoder(_Row, strict=False)
_REST_ROW: Final = msgspec.json.Decoder(_RestRow, strict=False)
_PAIR: Final = msgspec.json.Decoder(_Pair)
_ANSWER: Final = msgspec.json.Decoder(_Answer)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])


def _read(decoder: msgspec.json.Decoder[_Read], raw: Any, otherwise: _Otherwise) -> _Read | _Otherwise:
    """Read a piece of JSON that may be missing (C{None}) or of another type; never raises."""
    if raw is None:
        return otherwise
    try:
        return decoder.decode(raw)
    except _UNREADABLE:
        return otherwise


def _salvaged(raw: Any) -> _Row:
    """Read a row field by field, so that one bad field costs no more than itself."""
    fields = _read(_FIELDS, raw, {})
    return _Row(
        _read(_TEXT, fields.get("symbol"), ""),
        _read(_NUMBER, fields.get("last"), UNKNOWN),
        _read(_NUMBER, fields.get("bid"), UNKNOWN),
        _read(_NUMBER, fields.get("ask"), UNKNOWN),
        _read(_NUMBER, fields.get("volume"), UNKNOWN),
        _read(_MOMENT, fields.get("timestamp"), None),
    )


def _judged(
    symbol: str, price: float, bid: float, ask: float, volume: float, exchange_time: float, now: float
) -> Tick | Fault:
    """Make it a tick, or say why it is none. Kraken always has a book: without one there is no tick."""
    reason = fault_in(price, bid, ask)
    if reason is None and bid == bid:
        return Tick(NAME, symbol, price, bid, ask, volume if 0.0 <= volume < inf else UNKNOWN, exchange_time, now)
    return Fault(reason or NO_QUOTE, f"last {price}, bid {bid}, ask {ask}", symbol)


class KrakenSocket:
    """One connection's conversation; see L{tbeast.codecs.exchanges.base.SocketCodec}."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._subscriptions = Subscriptions(symbols)
        self._liveness = Liveness(SILENCE_BEFORE_DEATH_SECONDS)
        self._request_ids = count(1)
        self._times_asked = 0
        self._pinged_in_silence_since: float | None = None
        self._system = ""

    def opened(self, now: float) -> list[Event]:
        """Subscribe to everything."""
        self._liveness.heard(now)
        return self._asking(now)

    def received(self, frame: bytes, now: float) -> list[Event]:
        """Price frames take the short way; everything else, and every price frame with a flaw, the long one."""
        self._liveness.heard_at = now
        try:
            message = _decode_frame(frame)
        except _UNREADABLE:
            return self._taken_apart(frame, now)
        if message.channel == "ticker" and message.data:
            events: list[Event] = []
            for row in message.data:
                self._heard(row, now, events)
            return events
        return [] if message.channel == "heartbeat" else self._taken_apart(frame, now)

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
            events.append(_sending({"method": "ping", "req_id": next(self._request_ids)}))
        unanswered = self._subscriptions.due(now)
        if unanswered:
            events += unanswered
            if self._times_asked < len(SYMBOLS_PER_FRAME):
                events += self._asking(now)
        return events

    def _asking(self, now: float) -> list[Event]:
        missing = self._subscriptions.missing
        symbols = [symbol for symbol in self._subscriptions.wanted if symbol in missing]
        if not symbols:
            return []
        size = SYMBOLS_PER_FRAME[self._times_asked]
        self._times_asked += 1
        events: list[Event] = []
        delay = 0.0
        for part in _parts(symbols, size):
            delay = len(events) * SECONDS_BETWEEN_FRAMES
            parameters = {"channel": "ticker", "symbol": part, "event_trigger": "bbo", "snapshot": True}
            request = {"method": "subscribe", "params": parameters, "req_id": next(self._request_ids)}
            events.append(_sending(request, delay))
        self._subscriptions.asked(now + delay)
        return events

    def _heard(self, row: _Row, now: float, events: list[Event]) -> None:
        symbol = row.symbol
        subscriptions = self._subscriptions
        if symbol not in subscriptions.wanted:
            reason = UNKNOWN_SYMBOL if symbol else MALFORMED
            events.append(Fault(reason, "a row of the ticker channel", symbol[:_DETAIL_LENGTH]))
            return
        if symbol in subscriptions.missing:  # a price may come before its acknowledgement
            events += subscriptions.acknowledged((symbol,))
        moment = row.timestamp
        exchange_time = UNKNOWN if moment is None else moment.timestamp()
        events.append(_judged(symbol, row.last, row.bid, row.ask, row.volume, exchange_time, now))

    def _taken_apart(self, frame: bytes, now: float) -> list[Event]:
        try:
            fields = _FIELDS.decode(frame)
        except _UNREADABLE as why:
            return [Fault(MALFORMED, str(why)[:_DETAIL_LENGTH])]
        method = _read(_TEXT, fields.get("method"), "")
        if method:
            return self._answered(method, fields)
        channel = _read(_TEXT, fields.get("channel"), "")
        if channel == "heartbeat":
            return []
        if channel not in ("ticker", "status"):
            return [Fault(UNKNOWN_MESSAGE, f"channel {channel!r}"[:_DETAIL_LENGTH])]
        items = _read(_ITEMS, fields.get("data"), [])
        if not items:
            return [Fault(MALFORMED, f"{channel} without data")]
        events: list[Event] = []
        for item in items:
            if channel == "ticker":
                self._heard(_read(_ROW, item, None) or _salvaged(item), now, events)
            else:
                events += self._fares(_read(_TEXT, _read(_FIELDS, item, {}).get("system"), ""))
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
        return [Fault(UNKNOWN_MESSAGE, f"system status {system!r}"[:_DETAIL_LENGTH])]

    def _answered(self, method: str, fields: Mapping[str, msgspec.Raw]) -> list[Event]:
        success = _read(_FLAG, fields.get("success"), None)
        error = _read(_TEXT, fields.get("error"), "")[:_DETAIL_LENGTH]
        if success is False or error:
            return self._failed(method, error, _read(_TEXT, fields.get("symbol"), "")[:_DETAIL_LENGTH])
        if method == "pong":
            return []
        if method != "subscribe" or not success:
            return [Fault(UNKNOWN_MESSAGE, f"method {method!r}"[:_DETAIL_LENGTH])]
        symbols: str | list[str] = _read(_TEXTS, _read(_FIELDS, fields.get("result"), {}).get("symbol"), "")
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


class KrakenRest:
    """Questions and answers over REST; see L{tbeast.codecs.exchanges.base.RestCodec}. Remembers the list of pairs."""

    def __init__(self) -> None:
        self._pairs: dict[str, tuple[str, str]] | None = None  # symbol to (key, altname); None: to be asked for
        self._listed_names: set[str] = set()
        self._doubtful: set[str] = set()  # refused before: asked alone, so that they fail no other

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """Ask for the list of pairs as long as it is not known, else for the tickers."""
        wanted = tuple(dict.fromkeys(symbols))
        if not wanted:
            return []
        return [RestRequest(PAIRS_PATH, wanted)] if self._pairs is None else self._questions(wanted)

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """Read a list of pairs, and ask for the tickers; or read tickers."""
        answer = _read(_ANSWER, body, None)
        complaints = _complaints(answer)
        if status == 429 or any(phrase in complaints.lower() for phrase in _TOO_MANY):
            return [Throttled(_seconds(headers.get("retry-after", "")))]
        about_pairs = request.path.startswith(PAIRS_PATH)
        result = None if answer is None or complaints or status != 200 else _read(_FIELDS, answer.result, None)
        if result is not None:
            return self._learned(request, result) if about_pairs else self._priced(request.symbols, result, now)
        fault: Fault
        if complaints:
            fault = Fault(EXCHANGE_ERROR, complaints[:_DETAIL_LENGTH])
        elif status != 200:
            fault = Fault(HTTP_STATUS, str(status))
        else:
            fault = Fault(MALFORMED, "no answer of Kraken's shape")
        if about_pairs:
            if status == 404:  # there is no such list here, and none to come
                self._pairs = {}
            return [fault, *self._questions(request.symbols)]
        if "asset pair" in complaints.lower():
            return self._narrowed(request.symbols, complaints[:_DETAIL_LENGTH])
        return [fault]

    def _questions(self, symbols: Sequence[str]) -> list[RestRequest]:
        """Many pairs to a question; alone those that may not exist, because one such fails the question."""
        pairs = self._pairs or {}
        together = [name for name in symbols if name in pairs or not (pairs or name in self._doubtful)]
        shared = frozenset(together)
        alone = [[name] for name in symbols if name not in shared]
        return [self._question(part) for part in (*_parts(together, PAIRS_PER_QUESTION), *alone)]

    def _question(self, symbols: Sequence[str]) -> RestRequest:
        pairs = self._pairs or {}
        names = [pairs[symbol][1] if symbol in pairs else quote(_guesses(symbol)[0], safe="") for symbol in symbols]
        return RestRequest(f"{TICKER_PATH}?pair={','.join(names)}", tuple(symbols))

    def _learned(self, request: RestRequest, result: Mapping[str, msgspec.Raw]) -> list[Event]:
        renamed: dict[str, tuple[str, str]] = {}
        plain: dict[str, tuple[str, str]] = {}
        for key, raw in result.items():
            pair = _read(_PAIR, raw, None)
            if pair is None or not (pair.wsname and _NAME_IN_AN_ADDRESS.fullmatch(pair.altname)):
                continue  # a dark pool has no wsname
            base, slash, other = pair.wsname.partition("/")
            plain[pair.wsname] = (key, pair.altname)
            renamed[f"{_NEW_CODES.get(base, base)}{slash}{_NEW_CODES.get(other, other)}"] = (key, pair.altname)
        events: list[Event] = []
        if plain:
            self._pairs = renamed | plain
            self._listed_names = {name for names in self._pairs.values() for name in names}
        else:
            events.append(Fault(MALFORMED, "a list of pairs without pairs"))
        return [*events, *self._questions(request.symbols)]

    def _narrowed(self, symbols: Sequence[str], detail: str) -> list[Event]:
        if len(symbols) > 1:
            size = 1 if len(symbols) <= SINGLY else isqrt(len(symbols) - 1) + 1
            return [self._question(part) for part in _parts(symbols, size)]
        if self._pairs and symbols[0] in self._pairs:  # the list is older than what was just said
            self._listed_names.difference_update(self._pairs.pop(symbols[0]))
        self._doubtful.add(symbols[0])
        return [Refused(symbols[0], detail)]

    def _priced(self, symbols: Sequence[str], result: Mapping[str, msgspec.Raw], now: float) -> list[Event]:
        symbol_of = self._names(symbols)
        unanswered = dict.fromkeys(symbols)
        events: list[Event] = []
        for key, raw in result.items():
            symbol = symbol_of.get(key)
            if symbol is None:
                events.append(Fault(UNKNOWN_SYMBOL, "a row of Ticker", key[:_DETAIL_LENGTH]))
            elif symbol in unanswered:
                del unanswered[symbol]
                self._doubtful.discard(symbol)
                row = _read(_REST_ROW, raw, None) or _salvaged_rest_row(raw)
                price, bid, ask, volume = _at(row.c, 0), _at(row.b, 0), _at(row.a, 0), _at(row.v, 1)
                events.append(_judged(symbol, price, bid, ask, volume, UNKNOWN, now))
        return [*events, *(Fault(NO_PRICE, "no row in the answer", symbol) for symbol in unanswered)]

    def _names(self, symbols: Sequence[str]) -> dict[str, str]:
        """Which symbol a row belongs to, by the row's key. A surer name goes before a guessed one, and a name that
        another pair is listed under is nobody's guess.
        """
        pairs = self._pairs or {}
        listed = {name: symbol for symbol in symbols if symbol in pairs for name in pairs[symbol]}
        as_asked: dict[str, str] = {}
        as_headed: dict[str, str] = {}
        for symbol in symbols:
            if symbol not in pairs:
                asked, *headings = _guesses(symbol)
                as_asked[asked] = symbol
                as_headed.update(dict.fromkeys(headings, symbol))
        guessed = {name: symbol for name, symbol in (as_headed | as_asked).items() if name not in self._listed_names}
        return guessed | listed


def _guesses(symbol: str) -> tuple[str, ...]:
    """How a pair that no list names may be called: as asked for, and then as rows of old pairs are headed."""
    base, _, other = symbol.partition("/")
    base, other = _OLD_CODES.get(base, base), _OLD_CODES.get(other, other)
    return (base + other, f"X{base}Z{other}", *(("USDTZUSD",) if symbol == "USDT/USD" else ()))


def _parts(symbols: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (symbols[start : start + size] for start in range(0, len(symbols), size))


def _sending(request: Mapping[str, Any], after_seconds: float = 0.0) -> Send:
    return Send(msgspec.json.encode(request).decode(), after_seconds)


def _complaints(answer: _Answer | None) -> str:
    """The errors of an answer as one text; a W before the kind marks a mere warning."""
    errors = answer.error if answer is not None and answer.error else []
    return "; ".join(text for text in ([errors] if isinstance(errors, str) else errors) if not text.startswith("W"))


def _salvaged_rest_row(raw: Any) -> _RestRow:
    fields = _read(_FIELDS, raw, {})
    return _RestRow(
        *([_read(_NUMBER, item, UNKNOWN) for item in _read(_ITEMS, fields.get(name), [])] for name in "abcv")
    )


def _at(numbers: Sequence[float], index: int) -> float:
    return numbers[index] if len(numbers) > index else UNKNOWN


def _seconds(header: str) -> float | None:
    """Read a Retry-After that is a plain number of seconds."""
    return float(header) if header.isascii() and header.isdigit() and len(header) < 6 else None


FACTS: Final = ExchangeFacts(
    name=NAME,
    websocket_url="wss://ws.kraken.com/v2",
    rest_url="https://api.kraken.com",
    quote="USD",
    symbols_per_socket=100,
    dials=Rate(10, 60.0),
    rest=Rate(1, 1.0),
)

EXCHANGE: Final = ExchangeModule(FACTS, KrakenSocket, KrakenRest)
