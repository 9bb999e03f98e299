"""Usage on a queue: batches of rows, as the bodies of messages and back.

The rules. Every message is one JSON object with C{type}, C{timestamp}, C{node} and C{payload}. There are two types:

C{usage_log} tells of the requests of one row. Its payload has C{api_key_id}, C{asset}, C{source},
C{response_time_us} and C{cache_tier}; a message that has no more than these comes from another writer, and is one
request that was admitted. Ours add C{batch_id} and C{row} (the row's number in that batch), C{service}, C{protocol},
C{status}, C{admitted}, C{request_count}, C{at} (the exact time), C{response_time_us_sum} and C{response_time_us_max};
C{response_time_us} is then the mean.

C{usage_batch} tells of a whole batch: its payload has C{batch_id}, C{columns}, which are the names above, and C{rows},
each a list of values in the order of the columns.

Ours sends whole batches, because a message costs the same whatever is in it: 300 rows are about 31 KB so, which is one
message that is charged as one request, and 125 KB in 300 messages, which are 30 requests that each take a trip.
A batch of one row goes as C{usage_log}, and so do the rows of a batch that is too large for one message, or that the
queue would not take whole.

What is read must give the same batch, however often and however it was sent, since the batch's id and the row's number
are what makes a row count once. A row that came alone is a batch by itself: row 0 under the id of its batch, any other
under an id drawn from the batch's id and its number. A C{usage_log} without a batch id is known by the id that the
queue has given to the message.

Bodies are ASCII, with everything else escaped: a queue refuses some characters, counts bytes, and Unicode may be
written in more ways than one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from math import isfinite
from operator import mul
from typing import Any, Final

import ujson
from attrs import frozen

from tbeast.domain.usage import Batch, Kind, Row

USAGE_LOG: Final = "usage_log"
USAGE_BATCH: Final = "usage_batch"

MOST_BYTES: Final = 256 * 1024
"""Of one message, and of all that are sent in one call. SQS has come to take four times as much; other queues have not,
and more would save nothing."""

UNKNOWN_TYPE: Final = "unknown_type"
UNREADABLE: Final = "unreadable"

_COLUMNS: Final = (
    "api_key_id", "service", "protocol", "asset", "source", "cache_tier", "status", "admitted", "at", "request_count",
    "response_time_us_sum", "response_time_us_max",
)  # fmt: skip
_BATCH_ID: Final = re.compile("[0-9a-f]{24}")
_EPOCH: Final = "1970-01-01T00:00:00.000Z"


class EnvelopeError(ValueError):
    """A body that tells of no usage.

    @ivar reason: L{UNKNOWN_TYPE} or L{UNREADABLE}.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@frozen
class Message:
    """One message to be sent.

    @ivar batch: what it tells of.
    @ivar places: the numbers of the rows in it.
    """

    body: str
    batch: Batch
    places: range


@frozen
class Delivery:
    """One message as a queue hands it out.

    @ivar receipt: what to name it by for deleting it, this time.
    @ivar message_id: what the queue calls it, every time.
    @ivar times: how often it has been handed out by now.
    """

    receipt: str
    message_id: str
    body: str
    times: int = 1


@frozen
class Unsendable:
    """A row that fits into no message.

    @ivar place: its number in the batch.
    """

    batch: Batch
    place: int
    reason: str


def encode(batch: Batch, most_bytes: int = MOST_BYTES) -> tuple[list[Message], list[Unsendable]]:
    """Lay a batch into as few messages as will hold it, and give what cannot be laid into any."""
    rows = batch.rows
    if len(rows) > 1 and all(isfinite(row.at) for row in rows):
        payload = {"batch_id": batch.id, "columns": _COLUMNS, "rows": [_values(row) for row in rows]}
        body = _envelope(USAGE_BATCH, batch.node, rows[0].at, payload)
        if len(body) <= most_bytes:
            return [Message(body, batch, range(len(rows)))], []
    return encode_apart(batch, range(len(rows)), most_bytes)


def encode_apart(
    batch: Batch, places: Iterable[int], most_bytes: int = MOST_BYTES
) -> tuple[list[Message], list[Unsendable]]:
    """Lay rows of a batch into a message each, and give what cannot be laid into any."""
    messages: list[Message] = []
    unsendable: list[Unsendable] = []
    for place in places:
        row = batch.rows[place]
        if not isfinite(row.at):
            unsendable.append(Unsendable(batch, place, f"its time is {row.at}"))
            continue
        payload = dict(zip(_COLUMNS, _values(row), strict=True))
        mean = row.response_us_sum // row.request_count if row.request_count > 0 else 0
        payload |= {"response_time_us": mean, "batch_id": batch.id, "row": place}
        body = _envelope(USAGE_LOG, batch.node, row.at, payload)
        if len(body) > most_bytes:
            unsendable.append(Unsendable(batch, place, f"it is {len(body)} bytes; a message holds {most_bytes}"))
        else:
            messages.append(Message(body, batch, range(place, place + 1)))
    return messages, unsendable


def decode(body: str, message_id: str) -> Batch:
    """Read a message's body.

    Only shapes and types are checked: whether a number is possible, the store says row by row.

    @param message_id: what the queue calls the message; the same when it is handed out again.
    @raise EnvelopeError: when it tells of no usage.
    """
    try:
        envelope = ujson.loads(body)
    except (ValueError, RecursionError) as error:
        raise EnvelopeError(UNREADABLE, f"not JSON: {str(error)[:100]}") from None
    if not isinstance(envelope, dict):
        raise EnvelopeError(UNREADABLE, "not a JSON object")
    read = _READERS.get(envelope["type"]) if isinstance(envelope.get("type"), str) else None
    if read is None:
        raise EnvelopeError(UNKNOWN_TYPE, f"type {str(envelope.get('type'))[:40]!r}")
    try:
        return read(_field(envelope, "node", str, ""), envelope, _field(envelope, "payload", dict), message_id)
    except _FieldError as error:
        raise EnvelopeError(UNREADABLE, str(error)) from None


def _values(row: Row) -> list[Any]:
    """The row's values in the order of the columns."""
    kind = row.kind
    return [
        kind.key_id, kind.service, kind.protocol, kind.asset, kind.source, kind.cache_tier, kind.status, kind.admitted,
        row.at, row.request_count, row.response_us_sum, row.response_us_max,
    ]  # fmt: skip


def _envelope(message_type: str, node: str, at: float, payload: Mapping[str, Any]) -> str:
    envelope = {"type": message_type, "timestamp": _stamp(at), "node": node, "payload": payload}
    return ujson.dumps(envelope, ensure_ascii=True, escape_forward_slashes=False)


def _stamp(at: float) -> str:
    """Seconds since the epoch as UTC, in milliseconds; a time beyond all calendars stands in C{at} alone."""
    try:
        return f"{datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
    except (ValueError, OverflowError, OSError):
        return _EPOCH


def _read_log(node: str, envelope: Mapping[str, Any], payload: Mapping[str, Any], message_id: str) -> Batch:
    columns = {name: (value,) for name, value in payload.items()}
    if "at" not in columns:
        columns["at"] = (_time(_field(envelope, "timestamp", str)),)
    (row,) = _rows(columns, 1)
    if "batch_id" not in payload:
        made = min(max(int(row.at * 1000.0), 0), 2**48 - 1)
        return Batch(f"{made:012x}{_six_bytes(message_id)}", node, (row,))
    batch_id = _batch_id(payload)
    (place,) = _column(columns, "row", 1, _WHOLE, 0)
    return Batch(f"{batch_id[:12]}{_six_bytes(f'{batch_id}/{place}')}" if place else batch_id, node, (row,))


def _read_batch(node: str, envelope: Mapping[str, Any], payload: Mapping[str, Any], message_id: str) -> Batch:
    names = _field(payload, "columns", list)
    rows = _field(payload, "rows", list)
    if not rows:
        raise _FieldError("there are no rows")
    if not _TEXT.issuperset(map(type, names)):
        raise _FieldError("a column's name is no text")
    if not {list}.issuperset(map(type, rows)) or {len(names)} != set(map(len, rows)):
        raise _FieldError("a row is no list of as many values as there are columns")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return Batch(_batch_id(payload), node, tuple(_rows(columns, len(rows))))


_READERS: Final = {USAGE_LOG: _read_log, USAGE_BATCH: _read_batch}


class _FieldError(Exception):
    """A field is missing, or is not what it must be."""


# exact types: a bool is an int to isinstance
_TEXT: Final = frozenset({str})
_WHOLE: Final = frozenset({int})
_NUMBER: Final = frozenset({int, float})
_TRUTH: Final = frozenset({bool})


def _rows(columns: Mapping[str, Sequence[Any]], number: int) -> Iterable[Row]:
    """Rows from their values by column; by column, because that is several times quicker than by row."""
    times = _column(columns, "at", number, _NUMBER)
    try:
        times = tuple(map(float, times))
    except OverflowError:
        raise _FieldError("at is no time") from None
    if not all(map(isfinite, times)):
        raise _FieldError("at is no time")
    requests = _column(columns, "request_count", number, _WHOLE, 1)
    means = _column(columns, "response_time_us", number, _WHOLE, 0)
    if "response_time_us_sum" in columns:
        sums = _column(columns, "response_time_us_sum", number, _WHOLE)
    else:
        sums = tuple(map(mul, requests, means))
    longest = _column(columns, "response_time_us_max", number, _WHOLE) if "response_time_us_max" in columns else means
    kinds = map(
        Kind,
        _column(columns, "api_key_id", number, _TEXT),
        _column(columns, "service", number, _TEXT, "lpo"),
        _column(columns, "protocol", number, _TEXT, ""),
        _column(columns, "asset", number, _TEXT, ""),
        _column(columns, "source", number, _TEXT, ""),
        _column(columns, "cache_tier", number, _TEXT, ""),
        _column(columns, "status", number, _WHOLE, 200),
        _column(columns, "admitted", number, _TRUTH, True),
    )
    return map(Row, kinds, times, requests, sums, longest)


def _column(
    columns: Mapping[str, Sequence[Any]], name: str, number: int, types: frozenset[type], default: Any = None
) -> Sequence[Any]:
    if name not in columns:
        if default is None:
            raise _FieldError(f"{name} is not there")
        return (default,) * number
    if not types.issuperset(map(type, columns[name])):
        raise _FieldError(f"{name} is of another type")
    return columns[name]


def _field(fields: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = fields.get(name, default)
    if not isinstance(value, kind):
        raise _FieldError(f"{name} is {'of another type' if name in fields else 'not there'}")
    return value


def _batch_id(payload: Mapping[str, Any]) -> str:
    batch_id: str = _field(payload, "batch_id", str)
    if not _BATCH_ID.fullmatch(batch_id):
        raise _FieldError("batch_id is not 24 hexadecimal digits")
    return batch_id


def _time(text: str) -> float:
    try:
        stamp = datetime.fromisoformat(text)
        return (stamp if stamp.tzinfo is not None else stamp.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise _FieldError("timestamp is no time") from None


def _six_bytes(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def in_calls(messages: Sequence[Message], most: int, most_bytes: int = MOST_BYTES) -> list[list[Message]]:
    """Lay messages together, in order, so that each lot has at most so many messages and bytes."""
    lots: list[list[Message]] = []
    room = 0
    for message in messages:
        if not lots or len(lots[-1]) >= most or len(message.body) > room:
            lots.append([])
            room = most_bytes
        lots[-1].append(message)
        room -= len(message.body)
    return lots
