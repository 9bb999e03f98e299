"""What reports read of the database: lines of usage in the order of their time, sums of them, and the reports made.

A report is a cut (see L{tbeast.domain.reports}): what was written up to one time, and nothing later. A row has its time
of writing from within the transaction that writes it, and is seen by others a moment later, when that ends; so the cut
is not the present, but where the oldest transaction that writes began. What the time is, is asked before it is looked
who writes: whoever begins in between then writes after the cut.

Lines are read in chunks by position, each a statement of its own, so that a report of a million lines keeps neither a
transaction open nor more than a chunk in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred

from tbeast.adapters.store.postgres import Connection
from tbeast.adapters.store.syncrows import JOB
from tbeast.adapters.store.threads import StorePool
from tbeast.domain.reports import ReportKey, ReportLine, ReportQuery, ReportSums, Sums, UsageKey, UsageLine
from tbeast.domain.reportsources import Moment, WrittenLines
from tbeast.domain.syncplan import Place

T = TypeVar("T")

_US: Final = "(extract(epoch FROM {}) * 1000000)::bigint"
_TIME: Final = "(timestamptz 'epoch' + %({})s * interval '1 microsecond')"

_RANGE: Final = f"at >= {_TIME.format('from_us')} AND at < {_TIME.format('to_us')}"
_PLACE: Final = f"(at, id) > ({_TIME.format('after_us')}, %(after_id)s::uuid)"
_WRITTEN: Final = f"written_at > {_TIME.format('since_us')}"

_NOW: Final = f"SELECT {_US.format('clock_timestamp()')}"
_MOMENT: Final = (
    "SELECT origin || ':' || (SELECT oid FROM pg_database WHERE datname = current_database()),"
    f" {_US.format('began')} FROM sync_runs, (SELECT min(xact_start) AS began FROM"
    " pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = current_database() AND pid <> pg_backend_pid())"
    " AS writing WHERE job = %s"
)
_USAGE: Final = (
    f"SELECT {_US.format('at')}, id::text, key_id, node, service, protocol, asset, source, cache_tier, status,"
    f" admitted, request_count, response_us_sum, response_us_max, written_at > {_TIME.format('cut_us')} FROM usage_logs"
    " WHERE {which} ORDER BY usage_logs.at, usage_logs.id LIMIT %(limit)s"
)
_WRITTEN_BEFORE: Final = "SELECT count(*) FROM (SELECT FROM usage_logs WHERE {which} LIMIT %(limit)s) AS counted"
_SUMS: Final = (
    "SELECT asset, source, service, protocol, admitted, sum(request_count)::bigint, sum(response_us_sum)::bigint,"
    f" max(response_us_max), {_US.format('min(at)')}, {_US.format('max(at)')} FROM usage_logs"
    f" WHERE {{which}} AND written_at <= {_TIME.format('cut_us')} GROUP BY 1, 2, 3, 4, 5"
)
_MADE: Final = (
    f"SELECT {_US.format('at')}, id::text, key_id, node, report, format, status, row_count, response_us, details::text"
    " FROM report_usage_logs WHERE {which} ORDER BY report_usage_logs.at, report_usage_logs.id LIMIT %(limit)s"
)
_SUMS_MADE: Final = (
    "SELECT report, format, count(*), count(*) FILTER (WHERE status >= 400), sum(row_count)::bigint,"
    f" sum(response_us)::bigint, max(response_us), {_US.format('min(at)')}, {_US.format('max(at)')}"
    " FROM report_usage_logs WHERE {which} GROUP BY 1, 2"
)


def moment(connection: Connection) -> Moment:
    """See where the database stands."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO sync_runs (job) VALUES (%s) ON CONFLICT DO NOTHING", (JOB,))
        cursor.execute(_NOW)
        now = cursor.fetchone()
        cursor.execute(_MOMENT, (JOB,))
        found = cursor.fetchone()
    assert now is not None
    assert found is not None
    (now_us,), (origin, began_us) = now, found
    return Moment(origin, now_us, now_us if began_us is None else min(now_us, began_us))


def usage(
    connection: Connection, query: ReportQuery, since_us: int, cut_us: int, after: Place, limit: int
) -> WrittenLines:
    """Read the lines of a report that come after a place, in their order.

    @param since_us: only what was written after this, in microseconds since the epoch; 0: everything.
    """
    which = [_RANGE, _PLACE, *_filters(query), *([_WRITTEN] if since_us else [])]
    rows = _selected(
        connection, _USAGE, which, query, since_us=since_us, cut_us=cut_us, limit=limit, after_us=after[0],
        after_id=after[1],
    )  # fmt: skip
    lines = [UsageLine(*row[:-1]) for row in rows]
    return WrittenLines(lines, frozenset(row[1] for row in rows if row[-1]), len(rows) == limit)


def written_before(connection: Connection, query: ReportQuery, since_us: int, after: Place, most: int) -> int:
    """Count the lines of a report that come after a place and were written up to a time.

    @param since_us: that time, in microseconds since the epoch.
    @param most: where to stop counting.
    """
    which = [_RANGE, _PLACE, *_filters(query), f"NOT {_WRITTEN}"]
    ((count,),) = _selected(
        connection, _WRITTEN_BEFORE, which, query, since_us=since_us, limit=most, after_us=after[0], after_id=after[1]
    )
    return int(count)


def usage_sums(connection: Connection, query: ReportQuery, since_us: int, cut_us: int) -> list[tuple[UsageKey, Sums]]:
    """Add up the lines of a report; see L{usage}."""
    which = [_RANGE, *_filters(query), *([_WRITTEN] if since_us else [])]
    rows = _selected(connection, _SUMS, which, query, since_us=since_us, cut_us=cut_us)
    return [
        (UsageKey(*row[:5]), Sums(row[5], row[5] if row[4] else 0, *row[6:]))
        for row in rows
    ]  # fmt: skip


def made(connection: Connection, query: ReportQuery, after: Place, limit: int) -> list[ReportLine]:
    """Read the reports that were made and come after a place, in their order."""
    which = [_RANGE, _PLACE, *_filters(query)]
    rows = _selected(connection, _MADE, which, query, limit=limit, after_us=after[0], after_id=after[1])
    return [ReportLine(*row) for row in rows]


def made_sums(connection: Connection, query: ReportQuery) -> list[tuple[ReportKey, ReportSums]]:
    """Add up the reports that were made."""
    rows = _selected(connection, _SUMS_MADE, [_RANGE, *_filters(query)], query)
    return [(ReportKey(*row[:2]), ReportSums(*row[2:])) for row in rows]


def _filters(query: ReportQuery) -> list[str]:
    chosen = {"key_id": query.key_id is not None, "asset": bool(query.asset), "source": bool(query.source)}
    return [f"{name} = %({name})s" for name, is_chosen in chosen.items() if is_chosen]


def _selected(
    connection: Connection, statement: str, which: Sequence[str], query: ReportQuery, **others: object
) -> list[Any]:
    parameters = {
        "from_us": query.from_us, "to_us": query.to_us, "key_id": query.key_id, "asset": query.asset,
        "source": query.source, **others,
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(statement.format(which=" AND ".join(which)), parameters)
        return cursor.fetchall()


@frozen
class PostgresReports:
    """What reports ask of the database. All of it fails with L{tbeast.errors.StoreError} when it cannot be done."""

    pool: StorePool

    def moment(self) -> Deferred[Moment]:
        """See L{moment}."""
        return self._run(moment)

    def usage(self, query: ReportQuery, since_us: int, cut_us: int, after: Place, limit: int) -> Deferred[WrittenLines]:
        """See L{usage}."""
        return self._run(lambda connection: usage(connection, query, since_us, cut_us, after, limit))

    def written_before(self, query: ReportQuery, since_us: int, after: Place, most: int) -> Deferred[int]:
        """See L{written_before}."""
        return self._run(lambda connection: written_before(connection, query, since_us, after, most))

    def usage_sums(self, query: ReportQuery, since_us: int, cut_us: int) -> Deferred[list[tuple[UsageKey, Sums]]]:
        """See L{usage_sums}."""
        return self._run(lambda connection: usage_sums(connection, query, since_us, cut_us))

    def made(self, query: ReportQuery, after: Place, limit: int) -> Deferred[list[ReportLine]]:
        """See L{made}."""
        return self._run(lambda connection: made(connection, query, after, limit))

    def made_sums(self, query: ReportQuery) -> Deferred[list[tuple[ReportKey, ReportSums]]]:
        """See L{made_sums}."""
        return self._run(lambda connection: made_sums(connection, query))

    def _run(self, work: Callable[[Connection], T]) -> Deferred[T]:
        return self.pool.run(work)
