"""What the exchange codecs share: how a message is read, what a row of it comes to, and how REST is asked.

What is a number: what JSON spells as one, as a JSON number or as the whole of a JSON string. C{1.5}, C{"1.5"} and
C{"-2e3"} are; C{"+1"}, C{".5"}, C{"1_0"}, C{" 1 "}, C{"0x1"} and C{true} are not, nor is C{1e999}, which no C{float}
holds. (The reader knows two words besides: C{"nan"} is as good as nothing, and C{"inf"} fails as not finite.)

What an unreadable part costs: a number or a text as much as if it were missing, a list or an object one L{MALFORMED}
for the message, and neither of them the parts and rows beside it. Only where the part decides what the message is (its
kind, its error code) is nothing of it believed.

What the same defect is called, on every exchange:

 - L{MALFORMED}: no JSON, or JSON of another shape; a row without a readable name; an answer without what was asked for.
 - L{UNKNOWN_MESSAGE}: a JSON object, and none of the messages that the codec knows.
 - L{UNKNOWN_SYMBOL}: a row under a name that was not asked for.
 - L{tbeast.domain.ticks.TICK_FAULTS}: a row under a name that was asked for, whose prices are missing, unreadable or
   without sense. An unreadable volume or time spoils no price.
 - L{EXCHANGE_ERROR}, L{HTTP_STATUS}: the exchange, or somebody on the way to it, says no, and blames no symbol.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from types import NoneType
from typing import Any, Final, Generic, Protocol, TypeVar, get_args, get_origin
from urllib.parse import quote

import msgspec

from tbeast.codecs.exchanges.base import (
    HTTP_STATUS,
    MALFORMED,
    UNKNOWN_MESSAGE,
    UNKNOWN_SYMBOL,
    Event,
    Fault,
    RestRequest,
    Send,
    Throttled,
)
from tbeast.domain.ticks import NO_PRICE, NO_QUOTE, UNKNOWN, Tick, fault_in

UNREADABLE: Final = (ValueError, RecursionError)
"""What reading JSON raises: all errors of msgspec are C{ValueError}s, and so are those of Unicode."""

DETAIL_LENGTH: Final = 200
"""So many characters of somebody else's words are passed on."""

NAME_LENGTH: Final = 50
"""The same for what stands where a symbol should."""

LATEST_SECONDS: Final = 253_402_300_800.0
"""The end of the year 9999; a time from there on, or before 1970, is none."""

LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
"""A C{Retry-After} beyond this is taken for a mistake."""

ASKED_SINGLY: Final = 3
"""Where one REST call gives every symbol, so many or fewer are still asked for one by one."""

_Raw = bytes | msgspec.Raw
_S = TypeVar("_S", bound=msgspec.Struct)
_T = TypeVar("_T")

_decode_parts: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_MISSING: Final = (b"null", b'""')
_HTTP_DATE: Final = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Reader(Generic[_S]):
    """Reads messages of one kind, as the module says.

    @ivar decode: the short way, for messages without a flaw; raises L{UNREADABLE} at any other.
    """

    def __init__(self, kind: type[_S], deciding: Iterable[str] = ()) -> None:
        """Prepare to read.

        @param kind: a struct all of whose fields have defaults.
        @param deciding: names of the parts without which nothing of the message is believed.
        """
        self.decode: Final = msgspec.json.Decoder(kind, strict=False).decode
        self._kind = kind
        self._deciding = frozenset(deciding)
        self._parts = {part.encode_name: (part.name, _part_reader(part.type)) for part in msgspec.structs.fields(kind)}

    def read(self, raw: _Raw) -> tuple[_S | None, list[str]]:
        """Read it as a whole, or else part by part.

        @return: what could be read (C{None}: nothing is to be believed), and the lists and objects that could not.
        """
        try:
            return self.decode(raw), []
        except UNREADABLE:
            pass
        try:
            parts = _decode_parts(raw)
        except UNREADABLE:
            return None, []
        found: dict[str, object] = {}
        lost: list[str] = []
        for name, part in parts.items():
            if name not in self._parts or bytes(part) in _MISSING:
                continue
            own_name, read_part = self._parts[name]
            try:
                found[own_name] = read_part(part, name, lost)
            except UNREADABLE:
                if name in self._deciding:
                    return None, []
        return self._kind(**found), lost

    def read_rows(self, raw: _Raw, name: str, lost: list[str]) -> list[_S]:
        """Read those objects of a list that are readable; whether some are not is added to C{lost}."""
        try:
            items = _decode_items(raw)
        except UNREADABLE:
            lost.append(name)
            return []
        rows: list[_S] = []
        for item in items:
            row, lost_of_row = self.read(item)
            lost += (f"{name}.{part}" for part in lost_of_row if part not in lost)
            if row is not None:
                rows.append(row)
        if len(rows) < len(items):
            lost.append(f"{len(items) - len(rows)} of {name}")
        return rows


def _part_reader(kind: Any) -> Callable[[msgspec.Raw, str, list[str]], object]:
    """Make the reader of one part, which notes by name what it had to lose, and raises what is L{UNREADABLE}."""
    given = [each for each in get_args(kind) if each is not NoneType]
    inner = given[0] if len(given) == 1 and get_origin(kind) is not list else kind
    if get_origin(inner) is list:
        (item,) = get_args(inner)
        if issubclass(item, msgspec.Struct):
            return Reader(item).read_rows
        return lambda raw, name, lost: _items(item, raw, name, lost)
    if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
        reader: Reader[Any] = Reader(inner)
        return lambda raw, name, lost: _object(reader, raw, name, lost)
    decode = msgspec.json.Decoder(kind, strict=False).decode
    return lambda raw, name, lost: decode(raw)


def _items(kind: Any, raw: msgspec.Raw, name: str, lost: list[str]) -> list[object]:
    """Read a list of numbers, in which the unreadable keep their place, or of texts, in which they do not."""
    try:
        items = _decode_items(raw)
    except UNREADABLE:
        lost.append(name)
        return []
    if kind is float:
        return [number(item) for item in items]
    return [text for text in map(text_in, items) if text]


def _object(reader: Reader[Any], raw: msgspec.Raw, name: str, lost: list[str]) -> object:
    found, inner_lost = reader.read(raw)
    lost += [name] if found is None else [f"{name}.{part}" for part in inner_lost]
    return found


_decode_number: Final = msgspec.json.Decoder(float, strict=False).decode
_decode_text: Final = msgspec.json.Decoder(str).decode


def number(raw: _Raw | None) -> float:
    """Read a number, as the module says; C{NaN} for anything else, and for C{None}."""
    try:
        return UNKNOWN if raw is None else _decode_number(raw)
    except UNREADABLE:
        return UNKNOWN


def text_in(raw: _Raw | None) -> str:
    """Read a JSON string; empty for anything else, and for C{None}."""
    try:
        return "" if raw is None else _decode_text(raw)
    except UNREADABLE:
        return ""


def parts_of(raw: _Raw | None) -> dict[str, msgspec.Raw] | None:
    """Take an object apart without reading its parts; C{None} for anything else, and for C{None}."""
    try:
        return None if raw is None else _decode_parts(raw)
    except UNREADABLE:
        return None


def sending(message: Mapping[str, object], after_seconds: float = 0.0) -> Send:
    """Ask for this message to be sent, as JSON."""
    return Send(msgspec.json.encode(message).decode(), after_seconds)


def with_lost(events: list[Event], lost: Sequence[str]) -> list[Event]:
    """Add to what came of a message that parts of it could not be read, unless the events tell that already. That it
    is not known then says no more.
    """
    if not lost:
        return events
    told = [event for event in events if not (type(event) is Fault and event.reason == UNKNOWN_MESSAGE)]
    if not any(type(event) is Fault and event.reason == MALFORMED for event in told):
        told.append(Fault(MALFORMED, f"unreadable: {', '.join(lost)}"[:DETAIL_LENGTH]))
    return told


def excerpt(raw: bytes) -> str:
    """The beginning of something unreadable, for people."""
    return raw[:DETAIL_LENGTH].decode("utf-8", "replace")


def judged(
    exchange: str, symbol: str, price: float, bid: float, ask: float, volume: float, exchange_time: float, now: float
) -> Tick | Fault:
    """Make it a tick of an exchange that always has a book, or say why it is none.

    @param exchange_time: in seconds; NaN, and any moment that can be none, for unknown.
    """
    reason = fault_in(price, bid, ask)
    if reason is not None or bid != bid:
        return Fault(reason or NO_QUOTE, f"last {price}, bid {bid}, ask {ask}", symbol)
    volume = volume if 0.0 <= volume < inf else UNKNOWN
    exchange_time = exchange_time if 0.0 < exchange_time < LATEST_SECONDS else UNKNOWN
    # Tick(...) does the same by way of a Python function, a twentieth of all that a frame costs.
    return tuple.__new__(Tick, (exchange, symbol, price, bid, ask, volume, exchange_time, now))


def unasked(symbol: str) -> Fault:
    """What a row comes to that is of nothing asked for, or of nothing that can be told."""
    if not symbol:
        return Fault(MALFORMED, "a row without a name")
    return Fault(UNKNOWN_SYMBOL, "not asked for", symbol[:NAME_LENGTH])


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Read C{Retry-After}, a number of seconds or a date; C{None} if it says nothing credible."""
    said = headers.get("retry-after", "").strip()
    try:
        seconds = msgspec.convert(said, float, strict=False)
    except UNREADABLE:
        seconds = http_date_seconds(said) - now
    return seconds if 0.0 <= seconds <= LONGEST_RETRY_AFTER_SECONDS else None


def rfc3339_seconds(text: str) -> float:
    """Read C{2026-08-09T21:05:48.228846629Z} (any number of fractional digits) as seconds since the epoch.

    @return: NaN for anything else, a time without its zone included: a bad time spoils no price.
    """
    try:
        moment = datetime.fromisoformat(text)
        return moment.timestamp() if moment.tzinfo is not None else UNKNOWN
    except (ValueError, TypeError, OverflowError):
        return UNKNOWN


def http_date_seconds(text: str) -> float:
    """Read C{Tue, 08 Sep 2026 08:00:01 GMT} as seconds since the epoch; NaN for anything else."""
    found = _HTTP_DATE.fullmatch(text)
    if found is None:
        return UNKNOWN
    day, year, hour, minute, second = (int(found[group]) for group in (1, 3, 4, 5, 6))
    try:
        return datetime(year, _MONTHS.index(found[2]) + 1, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        return UNKNOWN


def throttled(headers: Mapping[str, str], now: float) -> list[Event]:
    """REST says: too many questions."""
    return [Throttled(retry_after(headers, now))]


def questions(symbols: Iterable[str], one_path: str, all_path: str | None = None) -> list[RestRequest]:
    """Ask for each symbol by itself, or for everything at once where that is possible and pays.

    @param one_path: with C{{}} where the symbol goes.
    @param all_path: the call that gives every symbol, if there is one that serves.
    """
    wanted = tuple(dict.fromkeys(symbols))
    if all_path is not None and len(wanted) > ASKED_SINGLY:
        return [RestRequest(all_path, wanted)]
    return [RestRequest(one_path.format(quote(symbol, safe="")), (symbol,)) for symbol in wanted]


def lone(request: RestRequest) -> str:
    """The symbol that was asked for, if it was one alone."""
    return request.symbols[0] if len(request.symbols) == 1 else ""


def declined(request: RestRequest, status: int, said: str) -> list[Event]:
    """REST answered with a status that is no answer."""
    return [Fault(HTTP_STATUS, f"{status} {said}"[:DETAIL_LENGTH].rstrip(), lone(request))]


class Named(Protocol):
    """A row of an answer that holds many."""

    symbol: str


_R = TypeVar("_R", bound=Named)


def picked(request: RestRequest, rows: Iterable[_R], judge: Callable[[_R], Event]) -> list[Event]:
    """Pick out of an answer the rows that were asked for, by their whole names, the first of each.

    Other rows mean nothing in an answer that holds everything, and something is wrong in one that should hold one.
    """
    left = dict.fromkeys(request.symbols)
    nameless = 0
    others: list[str] = []
    events: list[Event] = []
    for row in rows:
        symbol = row.symbol
        if symbol in left:
            del left[symbol]
            events.append(judge(row))
        elif not symbol:
            nameless += 1
        elif symbol not in request.symbols:
            others.append(symbol)
    if others and lone(request):
        events.append(unasked(others[0]))
    if nameless:
        events.append(Fault(MALFORMED, f"{nameless} rows without a name"))
    return [*events, *(Fault(NO_PRICE, "no row in the answer", symbol) for symbol in left)]
