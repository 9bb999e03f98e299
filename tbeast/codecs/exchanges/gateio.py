"""Gate.io, spot WebSocket v4 and REST v4.

The rules of its socket. A subscribe frame is taken or refused as a whole: the refusal (code 2) names the pair that is
unknown, the frame goes out again without it, and when no name can be recognised every pair is asked for by itself.
There is no snapshot: a quiet pair sends nothing until something changes, so REST gives the first price. A price frame
carries one object, its numbers are text, and its time stands beside it (C{time_ms}; older servers send only C{time},
in seconds). The client keeps the connection up with C{spot.ping}; only whole messages count as life, because a pong
of the WebSocket protocol says nothing of the application behind it.

The rules of its REST half. One call gives one pair or all of them, without a time. Leveraged tokens (C{BTC3L_USDT})
share the name space, so a row counts only under the very name that was asked for.

Numbers are read whether they come as JSON numbers or as text, but only in JSON's own spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from math import inf
from typing import Any, Final, TypeVar
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

NAME: Final = "gateio"

CHANNEL: Final = "spot.tickers"

SYMBOLS_PER_FRAME: Final = (1000, 10, 1)
"""How many symbols a subscribe frame names, by time of asking: what stayed silent is asked again in smaller frames."""

SECONDS_BETWEEN_FRAMES: Final = 0.05

SECONDS_BETWEEN_PINGS: Final = 10.0
SILENCE_BEFORE_DEATH_SECONDS: Final = 25.0

UNKNOWN_PAIR: Final = 2
"""The code of a refusal for a pair's sake."""

SINGLY: Final = 3
"""So many symbols or fewer are asked for one by one over REST, more with one call for all that there are."""

TICKERS_PATH: Final = "/api/v4/spot/tickers"

LONGEST_THROTTLE_SECONDS: Final = 60.0
"""The limit counts by ten seconds: a reset time later than this is none to believe."""

_NO_FAULT_OF_THE_PAIR: Final = frozenset({"SERVER_ERROR", "INTERNAL", "TOO_BUSY"})
_MILLISECONDS_FROM: Final = 1e11  # a number of seconds that large lies in the year 5138
_DETAIL_LENGTH: Final = 200
_UNREADABLE: Final = (ValueError, RecursionError)
"""Whatever msgspec raises: its own errors and UnicodeDecodeError are ValueErrors."""


class _Row(msgspec.Struct, gc=False):
    currency_pair: str = ""
    last: float = UNKNOWN
    highest_bid: float = UNKNOWN
    lowest_ask: float = UNKNOWN
    base_volume: float = UNKNOWN


class _Frame(msgspec.Struct, gc=False):
    channel: str = ""
    event: str = ""
    time: float = UNKNOWN
    time_ms: float = UNKNOWN
    result: _Row | None = None


class _Error(msgspec.Struct, gc=False):
    code: int | None = None
    message: str = ""


class _Refusal(msgspec.Struct, gc=False):
    label: str = ""
    message: str = ""


_Read = TypeVar("_Read")
_Otherwise = TypeVar("_Otherwise")

# strict=False: a number may come as text
_decode_frame: Final = msgspec.json.Decoder(_Frame, strict=False).decode
_TEXT: Final = msgspec.json.Decoder(str)
_TEXTS: Final = msgspec.json.Decoder(list[str])
_NUMBER: Final = msgspec.json.Decoder(float, strict=False)
_ID: Final = msgspec.json.Decoder(int, strict=False)
_ROW: Final = msgspec.json.Decoder(_Row, strict=False)
_ERROR: Final = msgspec.json.Decoder(_Error | None, strict=False)
_REFUSAL: Final = msgspec.json.Decoder(_Refusal)
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


def _row(raw: Any) -> _Row:
    """Read a row, field by field if need be, so that one bad field costs no more than itself."""
    whole = _read(_ROW, raw, None)
    if whole is not None:
        return whole
    fields = _read(_FIELDS, raw, {})
    return _Row(
        _read(_TEXT, fields.get("currency_pair"), ""),
        _read(_NUMBER, fields.get("last"), UNKNOWN),
        _read(_NUMBER, fields.get("highest_bid"), UNKNOWN),
        _read(_NUMBER, fields.get("lowest_ask"), UNKNOWN),
        _read(_NUMBER, fields.get("base_volume"), UNKNOWN),
    )


def _judged(row: _Row, exchange_time: float, now: float) -> Tick | Fault:
    """Make it a tick, or say why it is none. Gate.io always has a book: without one there is no tick."""
    price, bid, ask, volume = row.last, row.highest_bid, row.lowest_ask, row.base_volume
    reason = fault_in(price, bid, ask)
    if reason is None and bid == bid:
        volume = volume if 0.0 <= volume < inf else UNKNOWN
        return Tick(NAME, row.currency_pair, price, bid, ask, volume, exchange_time, now)
    return Fault(reason or NO_QUOTE, f"last {price}, bid {bid}, ask {ask}", row.currency_pair)


def _moment(seconds: float, milliseconds: float) -> float:
    """The finer of the two times that a frame may carry, in seconds."""
    if 0.0 < milliseconds < inf:
        return milliseconds / 1000.0
    return seconds if 0.0 < seconds < inf else UNKNOWN


class GateioSocket:
    """One connection's conversation; see L{tbeast.codecs.exchanges.base.SocketCodec}."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._subscriptions = Subscriptions(symbols)
        self._liveness = Liveness(SILENCE_BEFORE_DEATH_SECONDS)
        self._ids = count(1)
        self._unanswered: dict[int, tuple[str, ...]] = {}  # subscribe frames by id, oldest first
        self._times_asked = 0
        self._pinged_at = -inf

    def opened(self, now: float) -> list[Event]:
        """Subscribe to everything."""
        self._liveness.heard(now)
        self._pinged_at = now
        return self._asking_for_missing(now)

    def received(self, frame: bytes, now: float) -> list[Event]:
        """Price frames take the short way; everything else, and every price frame with a flaw, the long one."""
        self._liveness.heard_at = now
        try:
            message = _decode_frame(frame)
        except _UNREADABLE:
            return self._taken_apart(frame, now)
        row = message.result
        if row is not None and message.channel == CHANNEL and message.event == "update":
            return self._heard(row, _moment(message.time, message.time_ms), now)
        return self._taken_apart(frame, now)

    def ponged(self, now: float) -> None:
        """Proves nothing here: the application answers C{spot.ping} in a message of its own."""

    def due(self, now: float) -> list[Event]:
        """Ping by the clock; give up after too long a silence; ask again for what was never answered."""
        events = self._liveness.due(now)
        if events:
            return events
        if now - self._pinged_at >= SECONDS_BETWEEN_PINGS:
            self._pinged_at = now
            events.append(_sending({"time": int(now), "channel": "spot.ping"}))
        silent = self._subscriptions.due(now)
        if silent:
            events += silent
            if self._times_asked < len(SYMBOLS_PER_FRAME):
                events += self._asking_for_missing(now)
        return events

    def _asking_for_missing(self, now: float) -> list[Event]:
        missing = self._subscriptions.missing
        size = SYMBOLS_PER_FRAME[self._times_asked]
        self._times_asked += 1
        return self._asking([symbol for symbol in self._subscriptions.wanted if symbol in missing], size, now)

    def _asking(self, symbols: Sequence[str], size: int, now: float) -> list[Event]:
        events: list[Event] = []
        delay = 0.0
        for start in range(0, len(symbols), size):
            part = tuple(symbols[start : start + size])
            number = next(self._ids)
            self._unanswered[number] = part
            delay = len(events) * SECONDS_BETWEEN_FRAMES
            request = {"time": int(now), "id": number, "channel": CHANNEL, "event": "subscribe", "payload": part}
            events.append(_sending(request, delay))
        if events:
            self._subscriptions.asked(now + delay)
        return events

    def _heard(self, row: _Row, exchange_time: float, now: float) -> list[Event]:
        symbol = row.currency_pair
        subscriptions = self._subscriptions
        if symbol not in subscriptions.wanted:
            reason = UNKNOWN_SYMBOL if symbol else MALFORMED
            return [Fault(reason, f"a row of {CHANNEL}", symbol[:_DETAIL_LENGTH])]
        tick = _judged(row, exchange_time, now)
        if symbol in subscriptions.missing:  # a price may come before its acknowledgement
            return [*subscriptions.acknowledged((symbol,)), tick]
        return [tick]

    def _taken_apart(self, frame: bytes, now: float) -> list[Event]:
        try:
            fields = _FIELDS.decode(frame)
        except _UNREADABLE as why:
            return [Fault(MALFORMED, str(why)[:_DETAIL_LENGTH])]
        channel = _read(_TEXT, fields.get("channel"), "")
        event = _read(_TEXT, fields.get("event"), "")
        error = _read(_ERROR, fields.get("error", b"null"), _Error())
        if channel == CHANNEL and event == "subscribe":
            return self._answered(fields, error, now)
        if error is not None:
            return [Fault(EXCHANGE_ERROR, f"{channel}: {_said(error)}"[:_DETAIL_LENGTH])]
        if channel == "spot.pong":
            return []
        if channel != CHANNEL or event != "update":
            return [Fault(UNKNOWN_MESSAGE, f"channel {channel!r}, event {event!r}"[:_DETAIL_LENGTH])]
        seconds = _read(_NUMBER, fields.get("time"), UNKNOWN)
        exchange_time = _moment(seconds, _read(_NUMBER, fields.get("time_ms"), UNKNOWN))
        return self._heard(_row(fields.get("result")), exchange_time, now)

    def _answered(self, fields: Mapping[str, msgspec.Raw], error: _Error | None, now: float) -> list[Event]:
        """Take an answer to a subscribe frame. The payload that it echoes says best what it is about."""
        asked = self._frame_answered(fields)
        status = _read(_TEXT, _read(_FIELDS, fields.get("result"), {}).get("status"), "")
        if error is None and status == "success":
            echoed: list[str] = _read(_TEXTS, fields.get("payload"), [])
            return self._subscriptions.acknowledged(echoed or asked)
        if error is None and status != "fail":
            return [Fault(MALFORMED, "an answer that says neither success nor failure")]
        return self._failed(asked, error or _Error(), now)

    def _frame_answered(self, fields: Mapping[str, msgspec.Raw]) -> tuple[str, ...]:
        """Find the subscribe frame by its id; by what it asked for, and then by its turn, where the id is missing."""
        number = _read(_ID, fields.get("id"), None)
        if number is None:
            echoed: list[str] = _read(_TEXTS, fields.get("payload"), [])
            payload = tuple(echoed)
            turns = [each for each, symbols in self._unanswered.items() if symbols == payload or not payload]
            number = turns[0] if turns else 0
        return self._unanswered.pop(number, ())

    def _failed(self, asked: Sequence[str], error: _Error, now: float) -> list[Event]:
        """Take out the pair that spoiled the frame, and ask again for the rest. Every failure that leads to new
        frames has used up one, and the new ones name fewer pairs each, so this ends.
        """
        detail = _said(error)[:_DETAIL_LENGTH]
        wanted = self._subscriptions.wanted
        left = [symbol for symbol in asked if symbol in wanted]
        if error.code == UNKNOWN_PAIR:
            words = re.split(r"[^A-Z0-9_]+", error.message.upper())
            named = [symbol for symbol in left or wanted if symbol in words]
            if not named and len(left) == 1:
                named = left
            if named:
                events = [event for symbol in named for event in self._subscriptions.refused(symbol, detail)]
                rest = [symbol for symbol in left if symbol in wanted]
                return events + self._asking(rest, len(rest) or 1, now)
            if left:
                return [Fault(EXCHANGE_ERROR, detail), *self._asking(left, 1, now)]
        return [Fault(EXCHANGE_ERROR, detail, left[0] if len(left) == 1 else "")]


class GateioRest:
    """Questions and answers over REST; see L{tbeast.codecs.exchanges.base.RestCodec}."""

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """Ask for a few by name, for more with the one call that gives all."""
        wanted = tuple(dict.fromkeys(symbols))
        if len(wanted) > SINGLY:
            return [RestRequest(TICKERS_PATH, wanted)]
        return [RestRequest(f"{TICKERS_PATH}?currency_pair={quote(symbol, safe='')}", (symbol,)) for symbol in wanted]

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """Read the tickers that were asked for; in the answer of the call for all, the others mean nothing."""
        if status != 200:
            return self._declined(request, status, headers, body, now)
        items = _read(_ITEMS, body, None)
        if items is None:
            return [Fault(MALFORMED, "no list of tickers")]
        for_all = "?" not in request.path
        unanswered = dict.fromkeys(request.symbols)
        events: list[Event] = []
        unreadable = 0
        for item in items:
            row = _row(item)
            symbol = row.currency_pair
            if symbol in unanswered:
                del unanswered[symbol]
                events.append(_judged(row, UNKNOWN, now))
            elif not symbol:
                unreadable += 1
            elif not for_all and symbol not in request.symbols:
                events.append(Fault(UNKNOWN_SYMBOL, "a row of the tickers", symbol[:_DETAIL_LENGTH]))
        if unreadable:
            events.append(Fault(MALFORMED, f"{unreadable} rows without a name"))
        return [*events, *(Fault(NO_PRICE, "no row in the answer", symbol) for symbol in unanswered)]

    def _declined(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        refusal = _read(_REFUSAL, body, _Refusal())
        detail = f"{refusal.label} {refusal.message}".strip()[:_DETAIL_LENGTH]
        if status == 429 or refusal.label == "TOO_MANY_REQUESTS":
            return [Throttled(_seconds_until_reset(headers, now))]
        if status == 400 and refusal.label and refusal.label not in _NO_FAULT_OF_THE_PAIR and len(request.symbols) == 1:
            return [Refused(request.symbols[0], detail)]
        return [Fault(HTTP_STATUS, f"{status} {detail}".strip())]


def _seconds_until_reset(headers: Mapping[str, str], now: float) -> float | None:
    """How long the limit lasts, if the answer says so in a believable way."""
    reset_at = _whole(headers.get("x-gate-ratelimit-reset-timestamp", ""), 15)
    if reset_at is not None:
        seconds = (reset_at / 1000.0 if reset_at >= _MILLISECONDS_FROM else reset_at) - now
        if 0.0 <= seconds <= LONGEST_THROTTLE_SECONDS:
            return seconds
    return _whole(headers.get("retry-after", ""), 5)


def _whole(text: str, digits: int) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) <= digits else None


def _said(error: _Error) -> str:
    return error.message if error.code is None else f"{error.code} {error.message}"


def _sending(request: Mapping[str, Any], after_seconds: float = 0.0) -> Send:
    return Send(msgspec.json.encode(request).decode(), after_seconds)


FACTS: Final = ExchangeFacts(
    name=NAME,
    websocket_url="wss://api.gateio.ws/ws/v4/",
    rest_url="https://api.gateio.ws",
    quote="USDT",
    symbols_per_socket=100,
    dials=Rate(2, 1.0),
    rest=Rate(10, 1.0),
    seeds_from_rest=True,
)

EXCHANGE: Final = ExchangeModule(FACTS, GateioSocket, GateioRest)
