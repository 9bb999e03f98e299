"""The sync job's SQL: who may do it, what it reads, and what it tidies up in the database.

The job is held by a lease, a row with a time, and not by an advisory lock: those belong to a connection, and this job
takes a connection of the pool for each of its steps, for as long as the step lasts and no longer. A job whose node has
died is free when its lease is over.

Rows are read in chunks by position, each chunk a statement of its own: no transaction stays open over the whole job,
and memory holds a chunk or two. They come by COPY, as text, which is what the cache wants; that is the fastest way
that psycopg2 has.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from typing import Final, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred

from tbeast.adapters.store.postgres import Connection
from tbeast.adapters.store.threads import StorePool
from tbeast.adapters.store.usagerows import Dropped, drop_old
from tbeast.domain.syncplan import (
    KEPT_SECONDS,
    SECOND,
    Building,
    CatchingUp,
    Chunk,
    Grant,
    Held,
    Place,
    ReportRow,
    Tidied,
    UsageKind,
    UsageRow,
    Walk,
    cutoff_us,
)

T = TypeVar("T")

JOB: Final = "sync"

MOST_AT_ONCE: Final = 10_000
"""How many rows one statement changes or deletes at most."""

MOST_KINDS: Final = 50_000
"""How many kinds of row are remembered for a chunk."""

DropOld = Callable[[Connection, date], Dropped]
"""Drops what is older than a day."""


def take(connection: Connection, node: str, token: str, seconds: float, not_since: float | None) -> Grant | Held:
    """Ask for the job.

    @param token: what the holder is known by; nobody else has it.
    @param not_since: it is not given if it was finished since then, in seconds since the epoch.
    """
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO sync_runs (job) VALUES (%s) ON CONFLICT DO NOTHING", (JOB,))
        cursor.execute(
            "UPDATE sync_runs SET node = %(node)s, token = %(token)s,"
            " held_until = clock_timestamp() + %(seconds)s * interval '1 second' WHERE job = %(job)s"
            " AND (held_until IS NULL OR held_until < clock_timestamp() OR token = %(token)s)"
            " AND (finished_at IS NULL OR %(not_since)s::float8 IS NULL OR finished_at < to_timestamp(%(not_since)s))"
            " RETURNING origin || ':' || (SELECT oid FROM pg_database WHERE datname = current_database()),"
            " (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
            {"node": node, "token": token, "seconds": seconds, "job": JOB, "not_since": not_since},
        )
        given = cursor.fetchone()
        if given is not None:
            return Grant(origin=given[0], now_us=given[1])
        cursor.execute(
            "SELECT node, coalesce(finished_at >= to_timestamp(%s), false) FROM sync_runs WHERE job = %s",
            (not_since, JOB),
        )
        held = cursor.fetchone()
    return Held(*held) if held is not None else Held("", False)


def keep(connection: Connection, token: str, seconds: float) -> bool:
    """Hold the job for so long from now on; C{False}: somebody else has it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE sync_runs SET held_until = clock_timestamp() + %s * interval '1 second'"
            " WHERE job = %s AND token = %s",
            (seconds, JOB, token),
        )
        return bool(cursor.rowcount)


def give_back(connection: Connection, token: str, summary: str | None) -> None:
    """Let the job go, if it is still held.

    @param summary: what it did, in JSON; C{None}: it was not finished.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE sync_runs SET held_until = NULL, token = '', summary = coalesce(%(summary)s::jsonb, summary),"
            " finished_at = CASE WHEN %(summary)s IS NULL THEN finished_at ELSE clock_timestamp() END"
            " WHERE job = %(job)s AND token = %(token)s",
            {"summary": summary, "job": JOB, "token": token},
        )


def tidy(connection: Connection, now_us: int, drop_old: DropOld = drop_old) -> Tidied:
    """Do a part of what is due in the database itself: drop what is too old, and begin the month anew.

    @return: what was done; to be called again while C{more} says so.
    """
    today = datetime.fromtimestamp(now_us // SECOND, UTC).date()
    before = today - timedelta(seconds=KEPT_SECONDS)
    month = today.replace(day=1)
    dropped = drop_old(connection, before)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM monthly_report_counts WHERE month < %s", (before.replace(day=1),))
        counts = cursor.rowcount
        cursor.execute(
            "UPDATE api_keys SET current_usage = 0, usage_month = %(month)s WHERE id IN"
            " (SELECT id FROM api_keys WHERE usage_month < %(month)s LIMIT %(most)s FOR UPDATE SKIP LOCKED)",
            {"month": month, "most": MOST_AT_ONCE},
        )
        keys = cursor.rowcount
    return Tidied(len(dropped.days), counts, dropped.reports, keys, more=keys == MOST_AT_ONCE)


def summarize(connection: Connection) -> None:
    """Have the indexes by time of writing cover the newest rows too, which are otherwise looked through one by one."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT brin_summarize_new_values(index.inhrelid) FROM pg_inherits AS index"
            " WHERE index.inhparent = 'usage_logs_written_at'::regclass"
        )


def estimate(connection: Connection) -> int:
    """About how many rows of usage there are, as the database's statistics have it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(greatest(part.reltuples, 0)), 0)::bigint FROM pg_inherits AS tree"
            " JOIN pg_class AS part ON part.oid = tree.inhrelid WHERE tree.inhparent = 'usage_logs'::regclass"
        )
        found = cursor.fetchone()
    return int(found[0]) if found is not None else 0


_MICROSECONDS: Final = "(extract(epoch FROM {}) * 1000000)::bigint"
_AT: Final = _MICROSECONDS.format("at")
_WRITTEN: Final = _MICROSECONDS.format("written_at")
_TIME: Final = "(timestamptz 'epoch' + %s * interval '1 microsecond')"

_USAGE: Final = (
    f"SELECT id, {_AT}, {{place}}, request_count, response_us_sum, response_us_max, key_id, node, service, protocol,"
    " asset, source, cache_tier, status, admitted::int FROM usage_logs WHERE {which} ORDER BY {order} LIMIT %s"
)
_BUILDING: Final = _USAGE.format(
    place="NULL", which=f"at >= {_TIME} AND (at, id) > ({_TIME}, %s::uuid) AND written_at < {_TIME}", order="at, id"
)
_CATCHING_UP: Final = _USAGE.format(
    place=_WRITTEN,
    which=f"written_at >= {_TIME} AND (written_at, id) > ({_TIME}, %s::uuid) AND written_at < {_TIME}"
    f" AND at >= {_TIME}",
    order="written_at, id",
)
_REPORTS: Final = (
    f"SELECT id, {_AT}, key_id, node, report, format, status, row_count, response_us, details FROM report_usage_logs"
    f" WHERE at >= {_TIME} AND (at, id) > ({_TIME}, %s::uuid) ORDER BY at, id LIMIT %s"
)


def usage(connection: Connection, walk: Walk, now_us: int, limit: int) -> Chunk[UsageRow]:
    """Read the next rows of a walk."""
    time_us, row_id = walk.after
    if isinstance(walk, Building):
        lines = _copied(connection, _BUILDING, (time_us, time_us, row_id, walk.until_us, limit))
    else:
        lines = _copied(connection, _CATCHING_UP, (time_us, time_us, row_id, walk.bound_us, cutoff_us(now_us), limit))
    kinds: dict[bytes, UsageKind] = {}
    rows = []
    written = b""
    for line in lines:
        row_uuid, at, written, count, us_sum, us_max, rest = line.split(b"\t", 6)
        kind = kinds.get(rest)
        if kind is None:
            if len(kinds) >= MOST_KINDS:
                kinds.clear()
            kind = kinds[rest] = UsageKind(*_fields(rest))
        rows.append(UsageRow(row_uuid, at, count, us_sum, us_max, kind))
    if not rows:
        return Chunk((), None)
    last = rows[-1]
    place = int(written if isinstance(walk, CatchingUp) else last.at)
    return Chunk(rows, (place, last.id.decode()))


def reports(connection: Connection, after: Place, limit: int) -> Chunk[ReportRow]:
    """Read the reports that come after a place, in the order of their time."""
    time_us, row_id = after
    lines = _copied(connection, _REPORTS, (time_us, time_us, row_id, limit))
    rows = []
    for line in lines:
        row_uuid, rest = line.split(b"\t", 1)
        rows.append(ReportRow(row_uuid, tuple(_fields(rest))))
    last: Place | None = (int(rows[-1].at), rows[-1].id.decode()) if rows else None
    return Chunk(rows, last)


_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _copied(connection: Connection, query: str, parameters: tuple[object, ...]) -> list[bytes]:
    into = BytesIO()
    with connection.cursor() as cursor:
        text = cursor.mogrify(query, parameters).decode()
        cursor.copy_expert(f"COPY ({text}) TO STDOUT", into)
    return into.getvalue().split(b"\n")[:-1]


def _fields(line: bytes) -> list[bytes]:
    fields = line.split(b"\t")
    if b"\\" in line:
        return [_ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), field) for field in fields]
    return fields


@frozen
class PostgresSync:
    """What the sync job asks of the database: L{tbeast.services.sync.SyncStore}."""

    pool: StorePool

    def take(self, node: str, token: str, seconds: float, not_since: float | None) -> Deferred[Grant | Held]:
        """See L{take}."""
        return self._run(lambda connection: take(connection, node, token, seconds, not_since))

    def keep(self, token: str, seconds: float) -> Deferred[bool]:
        """See L{keep}."""
        return self._run(lambda connection: keep(connection, token, seconds))

    def give_back(self, token: str, summary: str | None) -> Deferred[None]:
        """See L{give_back}."""
        return self._run(lambda connection: give_back(connection, token, summary))

    def tidy(self, now_us: int) -> Deferred[Tidied]:
        """See L{tidy}."""
        return self._run(lambda connection: tidy(connection, now_us))

    def summarize(self) -> Deferred[None]:
        """See L{summarize}."""
        return self._run(summarize)

    def estimate(self) -> Deferred[int]:
        """See L{estimate}."""
        return self._run(estimate)

    def usage(self, walk: Walk, now_us: int, limit: int) -> Deferred[Chunk[UsageRow]]:
        """See L{usage}."""
        return self._run(lambda connection: usage(connection, walk, now_us, limit))

    def reports(self, after: Place, limit: int) -> Deferred[Chunk[ReportRow]]:
        """See L{reports}."""
        return self._run(lambda connection: reports(connection, after, limit))

    def _run(self, work: Callable[[Connection], T]) -> Deferred[T]:
        return self.pool.run(work)
