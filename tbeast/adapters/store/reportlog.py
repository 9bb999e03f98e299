"""The reports of a month, counted, and the reports that were made, in PostgreSQL.

A report is claimed before it is made, by one statement, so that no two nodes give out the same last one. What was
claimed and not given, by our own fault, is given back.

A report has the database's time of the statement that writes it down. So whoever reads up to where the database is
settled (see L{tbeast.adapters.store.reportrows.moment}) misses none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final

from attrs import frozen
from psycopg2.extras import Json, execute_values
from twisted.internet.defer import Deferred

from tbeast.adapters.store.postgres import Connection
from tbeast.adapters.store.threads import StorePool
from tbeast.domain.reportorders import PAID_SECONDS, ReportMade

_CLAIM: Final = (
    "INSERT INTO monthly_report_counts AS counted (key_id, month, report_count)"
    " SELECT %(key_id)s, %(month)s, 1 WHERE %(quota)s::int IS NULL OR %(quota)s::int > 0"
    " ON CONFLICT (key_id, month) DO UPDATE SET report_count = counted.report_count + 1"
    " WHERE %(quota)s::int IS NULL OR counted.report_count < %(quota)s::int RETURNING report_count"
)
_GIVE_BACK: Final = (
    "UPDATE monthly_report_counts SET report_count = greatest(report_count - %s, 0) WHERE key_id = %s AND month = %s"
)
_MADE: Final = "SELECT report_count FROM monthly_report_counts WHERE key_id = %s AND month = %s"
_IS_PAID: Final = (
    "SELECT EXISTS (SELECT FROM report_usage_logs WHERE key_id = %s AND report = %s AND status < 400"
    " AND at > clock_timestamp() - %s * interval '1 second' AND details @> %s)"
)
_LOG: Final = (
    "INSERT INTO report_usage_logs (id, at, key_id, node, report, format, status, row_count, response_us, details)"
    " VALUES %s ON CONFLICT DO NOTHING"
)
_ROW: Final = "(%s::uuid, clock_timestamp(), %s, %s, %s, %s, %s, %s, %s, %s)"


def claim(connection: Connection, key_id: str, month: date, quota: int | None) -> int | None:
    """Use up a report of the month.

    @param month: its first day.
    @param quota: how many there are; C{None}: as many as one likes.
    @return: how many were used with this one; C{None}: there was none left.
    """
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"key_id": key_id, "month": month, "quota": quota})
        row = cursor.fetchone()
    return None if row is None else int(row[0])


def give_back(connection: Connection, key_id: str, month: date, count: int = 1) -> None:
    """Undo so many claims."""
    with connection.cursor() as cursor:
        cursor.execute(_GIVE_BACK, (count, key_id, month))


def made_in(connection: Connection, key_id: str, month: date) -> int:
    """How many reports of the month were used."""
    with connection.cursor() as cursor:
        cursor.execute(_MADE, (key_id, month))
        row = cursor.fetchone()
    return 0 if row is None else int(row[0])


def is_paid(connection: Connection, key_id: str, report: str, identity: Mapping[str, object]) -> bool:
    """Whether a report of which this is a page was made lately; see L{tbeast.domain.reportorders.identity_of}."""
    with connection.cursor() as cursor:
        cursor.execute(_IS_PAID, (key_id, report, PAID_SECONDS, Json(identity)))
        row = cursor.fetchone()
    return row is not None and bool(row[0])


def log(connection: Connection, node: str, reports: Sequence[ReportMade]) -> None:
    """Write down reports that were made, each once."""
    rows = [
        (
            made.id, made.key_id, node, made.report, made.format, made.status, made.row_count, made.response_us,
            Json(made.details),
        )
        for made in reports
    ]  # fmt: skip
    with connection.cursor() as cursor:
        execute_values(cursor, _LOG, rows, template=_ROW)


@frozen
class PostgresReportLog:
    """What is asked of the database before and after a report. All of it fails with L{tbeast.errors.StoreError}.

    @ivar node: where the reports are made.
    """

    pool: StorePool
    node: str

    def claim(self, key_id: str, month: date, quota: int | None) -> Deferred[int | None]:
        """See L{claim}."""
        return self.pool.run(lambda connection: claim(connection, key_id, month, quota))

    def give_back(self, key_id: str, month: date, count: int) -> Deferred[None]:
        """See L{give_back}."""
        return self.pool.run(lambda connection: give_back(connection, key_id, month, count))

    def made_in(self, key_id: str, month: date) -> Deferred[int]:
        """See L{made_in}."""
        return self.pool.run(lambda connection: made_in(connection, key_id, month))

    def is_paid(self, key_id: str, report: str, identity: Mapping[str, object]) -> Deferred[bool]:
        """See L{is_paid}."""
        return self.pool.run(lambda connection: is_paid(connection, key_id, report, identity))

    def log(self, reports: Sequence[ReportMade]) -> Deferred[None]:
        """See L{log}."""
        return self.pool.run(lambda connection: log(connection, self.node, reports))
