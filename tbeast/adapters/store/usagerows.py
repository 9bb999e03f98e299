"""Usage in PostgreSQL: each batch once, whatever becomes of the connection.

The rules of L{write}, which works within one transaction:

 - A row is told by its time and its id, which never change, so one that is written again changes nothing. What a key
   has used of its month moves only by rows that were really inserted.
 - Reports (service C{lrs}) are no questions: they have a count of their own, and move the times of last use alone.
 - A counter belongs to the latest month that the key was used in: a row of a later month starts it anew, one of an
   earlier month leaves it alone. Months and days are those of UTC.
 - A row that breaks a rule of the table is set aside in C{usage_refused} with the reason, for good: it is not inserted
   later, even if it could be. The rest of its batch is written. So is set aside what lies more than
   L{LATEST_AHEAD_SECONDS} in the future or is older than what is kept, by the database's clock: the node's clock was
   wrong, and no day but a real one gets a partition.
 - Rows go in by COPY and one INSERT: of what was tried, the fastest, see C{benchmarks/metering.py}.
 - Nodes lock keys in the order of their ids, and after all rows are in, so they neither wait long for each other nor in
   a circle.

The functions take a connection and do not commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from io import BytesIO
from math import isfinite
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import psycopg2
import psycopg2.errors
from attrs import frozen
from psycopg2 import extensions
from psycopg2.extras import Json, execute_values
from twisted.internet.defer import Deferred

from tbeast.adapters.store.postgres import Connection
from tbeast.domain.usage import NOBODY, Batch, Row
from tbeast.errors import StoreRefusedError, StoreUnavailableError
from tbeast.interfaces import RefusedRow, Written

T = TypeVar("T")
Cursor: TypeAlias = extensions.cursor

KEPT_DAYS: Final = 93
LATEST_AHEAD_SECONDS: Final = 86_400.0
DAY_SECONDS: Final = 86_400

LONGEST_TEXT: Final = 200
LONGEST_NODE: Final = 255
LONGEST_SHOWN: Final = 1_000
_GREATEST: Final = 2**63 - 1

PARTITIONS_LOCK: Final = 0x7462656173740002
"""The advisory lock of whoever makes or drops partitions: "tbeast", and 2."""

_Unit = tuple[Batch, int, Row]
"""A row with its batch and its number there."""

_PREPARE: Final = """
CREATE TEMP TABLE IF NOT EXISTS usage_staging (
    at float8, id uuid, key_id text, node text, service text, protocol text, asset text, source text, cache_tier text,
    status smallint, admitted boolean, request_count bigint, response_us_sum bigint, response_us_max bigint
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS usage_moved (
    key_id text, month date, admitted bigint, last_used timestamptz, last_success timestamptz
) ON COMMIT DELETE ROWS;
DELETE FROM usage_staging;
DELETE FROM usage_moved;
SELECT extract(epoch FROM clock_timestamp())::float8
"""

_INSERT: Final = """
WITH new AS (
    INSERT INTO usage_logs (at, id, key_id, node, service, protocol, asset, source, cache_tier, status, admitted,
        request_count, response_us_sum, response_us_max)
    SELECT to_timestamp(at), id, key_id, node, service, protocol, asset, source, cache_tier, status, admitted,
        request_count, response_us_sum, response_us_max
    FROM usage_staging staged
    WHERE NOT EXISTS (SELECT FROM usage_refused refused WHERE refused.id = staged.id)
    ON CONFLICT DO NOTHING
    RETURNING key_id, at, service, status, admitted, request_count
)
INSERT INTO usage_moved
SELECT key_id, date_trunc('month', at AT TIME ZONE 'UTC')::date,
    coalesce(sum(request_count) FILTER (WHERE admitted AND service <> 'lrs'), 0), max(at),
    max(at) FILTER (WHERE status < 400)
FROM new WHERE key_id <> '' GROUP BY 1, 2
"""

_MOVE: Final = """
SELECT FROM api_keys WHERE key_id IN (SELECT key_id FROM usage_moved) ORDER BY key_id FOR NO KEY UPDATE;
UPDATE api_keys SET
    current_usage = CASE
        WHEN moved.month > usage_month THEN moved.admitted
        WHEN moved.month = usage_month THEN current_usage + moved.admitted
        ELSE current_usage END,
    usage_month = greatest(usage_month, moved.month),
    last_used = greatest(api_keys.last_used, moved.last_used),
    last_success = greatest(api_keys.last_success, moved.last_success)
FROM (
    SELECT DISTINCT ON (key_id) key_id, month, sum(admitted)::bigint AS admitted,
        max(max(last_used)) OVER key AS last_used, max(max(last_success)) OVER key AS last_success
    FROM usage_moved GROUP BY key_id, month WINDOW key AS (PARTITION BY key_id) ORDER BY key_id, month DESC
) moved
WHERE api_keys.key_id = moved.key_id;
SELECT key_id, to_char(usage_month, 'YYYY-MM'), current_usage FROM api_keys WHERE key_id = ANY(%s)
"""


class Runs(Protocol):
    """What is needed of a pool of connections."""

    def run(self, work: Callable[[Connection], T], /) -> Deferred[T]:
        """Do some work in one transaction, in a thread."""


class PostgresUsage:
    """L{tbeast.interfaces.UsageStore} in PostgreSQL."""

    def __init__(self, pool: Runs) -> None:
        self._pool = pool

    async def write(self, batches: Sequence[Batch]) -> Written:
        """See L{tbeast.interfaces.UsageStore.write}."""
        try:
            return await self._pool.run(partial(write, batches=batches))
        except StoreRefusedError as error:
            # rows that are refused were set aside: it is the schema that is not as it should be, and may be mended
            raise StoreUnavailableError(str(error)) from error


@frozen
class Dropped:
    """What was too old to be kept.

    @ivar days: the days of usage whose partitions are gone.
    @ivar refused: how many refused rows are gone, and how many rows of reports: C{reports}.
    """

    days: tuple[date, ...]
    refused: int
    reports: int


def write(connection: Connection, batches: Iterable[Batch]) -> Written:
    """Write batches, each once.

    @raise psycopg2.Error: when it cannot be done now; nothing is written then.
    """
    # whoever writes some of the same batches at the same time takes them in the same order
    units = [
        (batch, place, row)
        for batch in sorted(batches, key=lambda batch: batch.id)
        for place, row in enumerate(batch.rows)
    ]
    with connection.cursor() as cursor:
        cursor.execute(_PREPARE)
        now = _one(cursor)
        latest = now + LATEST_AHEAD_SECONDS
        earliest = (now // DAY_SECONDS - KEPT_DAYS) * DAY_SECONDS
        refused: list[tuple[_Unit, str]] = []
        if not (_in_time(units, earliest, latest) and _took(cursor, units) is None):
            sound: list[_Unit] = []
            for unit in units:
                fault = _fault(unit, earliest, latest)
                if fault:
                    refused.append((unit, fault))
                else:
                    sound.append(unit)
            units = _bisected(cursor, sound, refused)
            _set_aside(cursor, refused)
        cursor.execute(_MOVE, (sorted({row.kind.key_id for _, _, row in units} - {NOBODY}),))
        usage = {key_id: (month, used) for key_id, month, used in cursor.fetchall()}
    return Written(tuple(RefusedRow(batch.id, place, reason) for (batch, place, _), reason in refused), usage)


def drop_old(connection: Connection, before: date) -> Dropped:
    """Drop what is older than the day C{before}."""
    midnight = datetime(before.year, before.month, before.day, tzinfo=UTC)
    days = []
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (PARTITIONS_LOCK,))
        for day in partitions(connection):
            if day < before:
                cursor.execute(f"DROP TABLE {_partition(day)}")
                days.append(day)
        cursor.execute("DELETE FROM usage_refused WHERE refused_at < %s", (midnight,))
        refused = cursor.rowcount
        cursor.execute("DELETE FROM report_usage_logs WHERE at < %s", (midnight,))
        return Dropped(tuple(days), refused, cursor.rowcount)


def partitions(connection: Connection) -> list[date]:
    """The days that have a partition, in order."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_date(right(relname, 8), 'YYYYMMDD') FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
            " WHERE inhparent = 'usage_logs'::regclass AND relname ~ '^usage_logs_[0-9]{8}$' ORDER BY 1"
        )
        return [day for (day,) in cursor.fetchall()]


def ensure_partitions(connection: Connection, days: Iterable[date]) -> None:
    """Make the partitions of these days, where there are none."""
    by_name = {_partition(day): day for day in days}
    with connection.cursor() as cursor:
        missing = _missing(cursor, by_name)
        if not missing:
            return
        # one node at a time: the others then find them made
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (PARTITIONS_LOCK,))
        for name in _missing(cursor, missing):
            day = by_name[name]
            # made apart and attached: who reads and writes other days need not wait
            cursor.execute(f"CREATE TABLE {name} (LIKE usage_logs INCLUDING ALL)")
            cursor.execute(
                f"ALTER TABLE usage_logs ATTACH PARTITION {name} FOR VALUES FROM (%s) TO (%s)",
                (f"{day}T00:00:00Z", f"{day + timedelta(days=1)}T00:00:00Z"),
            )


def _partition(day: date) -> str:
    return f"usage_logs_{day:%Y%m%d}"


def _missing(cursor: Cursor, names: Iterable[str]) -> list[str]:
    # to_regclass would be shorter, and may not see what another node has made since our transaction began
    cursor.execute(
        "SELECT name FROM unnest(%s::text[]) name WHERE name NOT IN (SELECT relname FROM pg_inherits"
        " JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'usage_logs'::regclass)",
        (sorted(names),),
    )
    return [name for (name,) in cursor.fetchall()]


def _one(cursor: Cursor) -> Any:
    row = cursor.fetchone()
    assert row is not None
    return row[0]


def _in_time(units: Sequence[_Unit], earliest: float, latest: float) -> bool:
    return all(earliest <= unit[2].at <= latest for unit in units)


def _took(cursor: Cursor, units: Sequence[_Unit]) -> str | None:
    """Insert rows, all of them or, if the database will not take one, none; return then why.

    @raise psycopg2.Error: when it is no fault of the rows.
    """
    try:
        content = _copy_text(units)
    except ValueError as error:
        return str(error)
    days = {int(unit[2].at // DAY_SECONDS) for unit in units}
    ensure_partitions(cursor.connection, (date(1970, 1, 1) + timedelta(days=day) for day in days))
    cursor.execute("SAVEPOINT usage_rows")
    try:
        cursor.copy_expert("COPY usage_staging FROM STDIN", BytesIO(content), 1 << 20)
        cursor.execute(_INSERT)
    except (psycopg2.DataError, psycopg2.IntegrityError, psycopg2.errors.ProgramLimitExceeded) as error:
        if error.pgcode == "23514" and not error.diag.constraint_name:
            raise  # a partition went away meanwhile
        reason = error.diag.message_primary or str(error)
        cursor.execute("ROLLBACK TO usage_rows")
        return reason
    return None


def _bisected(cursor: Cursor, units: list[_Unit], refused: list[tuple[_Unit, str]]) -> list[_Unit]:
    """Insert all rows that the database takes; return them, and add the others to C{refused}."""
    if not units:
        return []
    reason = _took(cursor, units)
    if reason is None:
        cursor.execute("DELETE FROM usage_staging")
        return units
    if len(units) == 1:
        refused.append((units[0], reason))
        return []
    half = len(units) // 2
    return _bisected(cursor, units[:half], refused) + _bisected(cursor, units[half:], refused)


def _fault(unit: _Unit, earliest: float, latest: float) -> str | None:
    """Why the database would not take a row, so far as can be told beforehand.

    Nothing is refused here that the table would take, but for the times: they say whether it has a place for it.
    """
    batch, _, (kind, at, requests, total, longest) = unit
    for name, text in (*zip(kind._fields[:6], kind[:6], strict=True), ("node", batch.node)):
        if "\0" in text:
            return f"its {name} holds a NUL character"
        try:
            length = len(text.encode())
        except UnicodeEncodeError:
            return f"its {name} is no text"
        if length > (LONGEST_NODE if name == "node" else LONGEST_TEXT):
            return f"its {name} is {length} bytes long"
    if not 100 <= kind.status <= 599:
        return "its status is out of range"
    for name, number, least in (
        ("request_count", requests, 1), ("response_us_sum", total, 0), ("response_us_max", longest, 0)
    ):  # fmt: skip
        if not least <= number <= _GREATEST:
            return f"its {name} is out of range"
    if at > latest:
        return f"its time lies in the future: {_moment(at)}"
    if not at >= earliest:
        return f"its time is too long ago: {_moment(at)}"
    return None


def _moment(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{at} s since 1970"


def _copy_text(units: Sequence[_Unit]) -> bytes:
    """Rows in the text format of COPY.

    @raise ValueError: when a text is no Unicode.
    """
    content = "".join(
        [
            f"{at!r}\t{batch.id}{place:08x}\t{key_id}\t{batch.node}\t{service}\t{protocol}\t{asset}\t{source}\t{tier}"
            f"\t{status}\t{admitted}\t{requests}\t{total}\t{longest}\n"
            for batch, place, (
                (key_id, service, protocol, asset, source, tier, status, admitted),
                at,
                requests,
                total,
                longest,
            ) in units
        ]
    )
    # all but never is there anything to escape, and counting is quicker than looking at each text
    plain = content.count("\t") == 13 * len(units) and content.count("\n") == len(units)
    if not plain or "\\" in content or "\r" in content:
        content = "".join("\t".join(map(_escaped, _values(unit))) + "\n" for unit in units)
    return content.encode()


def _values(unit: _Unit) -> Iterable[object]:
    batch, place, (kind, at, *numbers) = unit
    return (repr(at), f"{batch.id}{place:08x}", kind.key_id, batch.node, *kind[1:], *numbers)


_ESCAPES: Final[Mapping[int, str]] = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def _escaped(value: object) -> str:
    return str(value).translate(_ESCAPES)


def _set_aside(cursor: Cursor, refused: Sequence[tuple[_Unit, str]]) -> None:
    """Keep refused rows, in a form that the database takes whatever is in them."""
    execute_values(
        cursor,
        "INSERT INTO usage_refused (id, node, reason, row) VALUES %s ON CONFLICT DO NOTHING",
        [
            (str(batch.row_id(place)), _storable(batch.node), _storable(reason), Json(_shown(row)))
            for (batch, place, row), reason in refused
        ],
        template="(%s::uuid, %s, %s, %s)",
    )


def _shown(row: Row) -> dict[str, object]:
    names = (*row.kind._fields, *row._fields[1:])
    return dict(zip(names, map(_jsonable, (*row.kind, *row[1:])), strict=True))


def _jsonable(value: object) -> object:
    if isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return value
    return _storable(str(value))


def _storable(text: str) -> str:
    shown = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}..."
