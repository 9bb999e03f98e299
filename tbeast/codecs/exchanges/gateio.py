"""Gate.io, spot WebSocket v4 and REST v4.

The rules of its socket. A subscribe frame is taken or refused as a whole: the refusal (code 2) names the pair that is
unknown, the frame goes out again without it, and when no name can be recognised every pair is asked for by itself.
There is no snapshot: a quiet pair sends nothing until something changes, so REST gives the first price. A price frame
carries one object, its numbers are text, and its time stands beside it (C{time_ms}; older servers send only C{time},
in seconds). The client keeps the connection up with C{spot.ping}; only whole messages count as life, because a pong
of the WebSocket protocol says nothing of the application behind it.

The rules of its REST half. One call gives one pair or all of them, without a time. Leveraged tokens (C{BTC3L_USDT})
share the name space, so a row counts only under the very name that was asked for.
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
    RestRequest,
    Throttled,
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
    retry_after,
    sending,
    unasked,
    with_lost,
)
from tbeast.codecs.exchanges.subscribing import Subscriptions
from tbeast.domain.ticks import UNKNOWN, Tick

NAME: Final = "gateio"

CHANNEL: Final = "spot.tickers"

SYMBOLS_PER_FRAME: Final = 1000
SECONDS_BETWEEN_FRAMES: Final = 0.05

SECONDS_BETWEEN_PINGS: Final = 10.0
SILENT_SECONDS: Final = 25.0

UNKNOWN_PAIR: Final = 2
"""The code of a refusal for a pair's sake."""

TICKERS_PATH: Final = "/api/v4/spot/tickers"
ONE_PATH: Final = f"{TICKERS_PATH}?currency_pair={{}}"

LONGEST_THROTTLE_SECONDS: Final = 60.0
"""The limit counts by ten seconds: a reset time later than this is none to believe."""

_NO_FAULT_OF_THE_PAIR: Final = frozenset({"SERVER_ERROR", "INTERNAL", "TOO_BUSY"})
_MILLISECONDS_FROM: Final = 1e11  # a number of seconds that large lies in the year 5138
_RESET_TIME: Final = re.compile(r"[0-9]{1,15}")


class _Row(msgspec.Struct, gc=False):
    symbol: str = msgspec.field(default="", name="currency_pair")
    last: float = UNKNOWN
    bid: float = msgspec.field(default=UNKNOWN, name="highest_bid")
    ask: float = msgspec.field(default=UNKNOWN, name="lowest_ask")
    volume: float = msgspec.field(default=UNKNOWN, name="base_volume")


class _Frame(msgspec.Struct, gc=False):
    """As much of a message as a price needs."""

    channel: str = ""
    event: str = ""
    time: float = UNKNOWN
    time_ms: float = UNKNOWN
    result: _Row | None = None


class _Result(_Row, gc=False):
    status: str = ""


class _Error(msgspec.Struct, gc=False):
    code: int | None = None
    message: str = ""


class _Message(msgspec.Struct, gc=False):
    channel: str = ""
    event: str = ""
    time: float = UNKNOWN
    time_ms: float = UNKNOWN
    result: _Result | None = None
    error: _Error | None = None
    id: int | None = None
    payload: list[str] = []


class _Refusal(msgspec.Struct, gc=False):
    label: str = ""
    message: str = ""


_MESSAGES: Final = Reader(_Message, deciding=("channel", "event"))
_ROWS: Final = Reader(_Row)
_REFUSALS: Final = Reader(_Refusal)
_decode: Final = Reader(_Frame).decode


class GateioSocket:
    """One connection's conversation; see L{tbeast.codecs.exchanges.base.SocketCodec}."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._subscriptions = Subscriptions(symbols, _question, SYMBOLS_PER_FRAME, SECONDS_BETWEEN_FRAMES)
        self._liveness = Liveness(SILENT_SECONDS)
        self._pinged_at = -inf

    def opened(self, now: float) -> list[Event]:
        """Subscribe to everything."""
        self._liveness.heard(now)
        self._pinged_at = now
        return self._subscriptions.opened(now)

    def received(self, frame: bytes, now: float) -> list[Event]:
        """Price frames take the short way; everything else, and every price frame with a flaw, the long one."""
        self._liveness.heard_at = now
        try:
            message = _decode(frame)
        except UNREADABLE:
            return self._received_other(frame, now)
        row = message.result
        if row is not None and message.channel == CHANNEL and message.event == "update":
            return self._hear(row, message.time, message.time_ms, now)
        return self._received_other(frame, now)

    def ponged(self, now: float) -> None:
        """Proves nothing here: the application answers C{spot.ping} in a message of its own."""

    def due(self, now: float) -> list[Event]:
        """Ping by the clock; give up after too long a silence; ask again for what was never answered."""
        events = self._liveness.due(now)
        if events:
            return events
        if now - self._pinged_at >= SECONDS_BETWEEN_PINGS:
            self._pinged_at = now
            events.append(sending({"time": int(now), "channel": "spot.ping"}))
        return events + self._subscriptions.due(now)

    def _hear(self, row: _Row, seconds: float, milliseconds: float, now: float) -> list[Event]:
        symbol = row.symbol
        subscriptions = self._subscriptions
        if symbol not in subscriptions.wanted:
            return [unasked(symbol)]
        exchange_time = milliseconds / 1000.0 if 0.0 < milliseconds < inf else seconds
        heard = judged(NAME, symbol, row.last, row.bid, row.ask, row.volume, exchange_time, now)
        if symbol in subscriptions.missing:
            return [*subscriptions.acknowledged((symbol,)), heard]
        return [heard]

    def _received_other(self, frame: bytes, now: float) -> list[Event]:
        message, lost = _MESSAGES.read(frame)
        if message is None:
            return [Fault(MALFORMED, excerpt(frame))]
        return with_lost(self._told(message, "error" in lost, now), [part for part in lost if part != "error"])

    def _told(self, message: _Message, odd_error: bool, now: float) -> list[Event]:
        channel, event = message.channel, message.event
        error = message.error or (_Error() if odd_error else None)
        if channel == CHANNEL and event == "subscribe":
            return self._answered(message, error, now)
        if error is not None:
            return [Fault(EXCHANGE_ERROR, f"{channel}: {_said(error)}"[:DETAIL_LENGTH])]
        if channel == "spot.pong":
            return []
        if channel != CHANNEL or event != "update":
            return [Fault(UNKNOWN_MESSAGE, f"channel {channel!r}, event {event!r}"[:DETAIL_LENGTH])]
        return self._hear(message.result or _Row(), message.time, message.time_ms, now)

    def _answered(self, message: _Message, error: _Error | None, now: float) -> list[Event]:
        """Take an answer to a subscribe frame. The payload that it echoes says best what it is about."""
        asked = self._subscriptions.answered(message.id, message.payload)
        status = "" if message.result is None else message.result.status
        if error is None and status == "success":
            return self._subscriptions.acknowledged(message.payload or asked)
        if error is None and status != "fail":
            return [Fault(MALFORMED, "an answer that says neither success nor failure")]
        error = error or _Error()
        detail = _said(error)[:DETAIL_LENGTH]
        if error.code != UNKNOWN_PAIR:
            return [Fault(EXCHANGE_ERROR, detail, asked[0] if len(asked) == 1 else "")]
        words = re.split(r"[^A-Z0-9_]+", error.message.upper())
        named = [symbol for symbol in asked or self._subscriptions.wanted if symbol in words]
        return self._subscriptions.spoiled(asked, named, detail, now)


def _question(number: int, symbols: Sequence[str], now: float) -> Mapping[str, object]:
    return {"time": int(now), "id": number, "channel": CHANNEL, "event": "subscribe", "payload": symbols}


def _said(error: _Error) -> str:
    return error.message if error.code is None else f"{error.code} {error.message}"


class GateioRest:
    """Questions and answers over REST; see L{tbeast.codecs.exchanges.base.RestCodec}."""

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """Ask for a few by name, for more with the one call that gives all."""
        return questions(symbols, ONE_PATH, TICKERS_PATH)

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """Read the tickers that were asked for; in the answer of the call for all, the others mean nothing."""
        if status != 200:
            return self._declined(request, status, headers, body, now)
        lost: list[str] = []
        rows = _ROWS.read_rows(body, "the list of tickers", lost)
        if not rows and lost:
            return [Fault(MALFORMED, excerpt(body), lone(request))]

        def judge(row: _Row) -> Tick | Fault:
            return judged(NAME, row.symbol, row.last, row.bid, row.ask, row.volume, UNKNOWN, now)

        return with_lost(picked(request, rows, judge), lost)

    def _declined(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        refusal = _REFUSALS.read(body)[0] or _Refusal()
        said = f"{refusal.label} {refusal.message}".strip()[:DETAIL_LENGTH]
        if status == 429 or refusal.label == "TOO_MANY_REQUESTS":
            return [Throttled(_seconds_until_reset(headers, now))]
        symbol = lone(request)
        if status == 400 and refusal.label and refusal.label not in _NO_FAULT_OF_THE_PAIR and symbol:
            return [Refused(symbol, said)]
        return declined(request, status, said or excerpt(body))


def _seconds_until_reset(headers: Mapping[str, str], now: float) -> float | None:
    """How long the limit lasts, if the answer says so in a believable way."""
    said = headers.get("x-gate-ratelimit-reset-timestamp", "")
    if _RESET_TIME.fullmatch(said):
        reset_at = float(said)
        seconds = (reset_at / 1000.0 if reset_at >= _MILLISECONDS_FROM else reset_at) - now
        if 0.0 <= seconds <= LONGEST_THROTTLE_SECONDS:
            return seconds
    return retry_after(headers, now)


FACTS: Final = ExchangeFacts(
    name=NAME,
    websocket_url="wss://api.gateio.ws/ws/v4/",
    rest_url="https://api.gateio.ws",
    quote="USDT",
    symbols_per_socket=100,
    dials=Rate(2, 1.0),
    rest=Rate(10, 1.0),
    seeds_from_rest=True,
    rest_root="/api/v4",
)

EXCHANGE: Final = ExchangeModule(FACTS, GateioSocket, GateioRest)
