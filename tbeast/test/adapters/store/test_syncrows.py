"""The sync job's SQL against a real PostgreSQL: every row once, in chunks, from wherever it is asked to go on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store import syncrows
from tbeast.adapters.store.postgres import connect, target
from tbeast.adapters.store.usagerows import ensure_partitions
from tbeast.domain.syncplan import (
    KEPT_SECONDS,
    NO_ID,
    REPORT_FIELDS,
    SECOND,
    USAGE_FIELDS,
    Building,
    CatchingUp,
    Grant,
    Held,
    Tidied,
    UsageRow,
    Walk,
    cutoff_us,
    next_building,
    next_catching_up,
)
from tbeast.testing.postgres import fresh_connection, fresh_database

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * SECOND

ROW = (
    "INSERT INTO usage_logs (at, id, key_id, node, service, protocol, asset, source, cache_tier, status, admitted,"
    " request_count, response_us_sum, response_us_max, written_at) VALUES"
)


class SyncRowsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh_connection(self)
        ensure_partitions(self.connection, [NOW.date() - timedelta(days=days) for days in (-1, 0, 1, 2, 93, 94)])

    def run_sql(self, query: str, *parameters: object) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall() if cursor.description else None

    def row(self, number: int, at: datetime, written: datetime = NOW, **values: object) -> str:
        """Write a row of usage; its id."""
        row_id = str(UUID(int=number + 1))
        fields = {
            "key_id": "abc", "node": "n1", "service": "lpo", "protocol": "http", "asset": "BTC", "source": "median",
            "cache_tier": "shelf", "status": 200, "admitted": True, "request_count": 3, "response_us_sum": 70,
            "response_us_max": 40, **values,
        }  # fmt: skip
        everything = (at, row_id, *fields.values(), written)
        self.run_sql(f"{ROW} ({', '.join(['%s'] * len(everything))})", *everything)
        return row_id

    def everything(self, walk: Walk | None, limit: int) -> list[UsageRow]:
        found: list[UsageRow] = []
        while walk is not None:
            chunk = syncrows.usage(self.connection, walk, NOW_US, limit)
            self.assertLessEqual(len(chunk.rows), limit)
            found += chunk.rows
            if isinstance(walk, Building):
                walk = next_building(walk, chunk, limit)
            else:
                walk = next_catching_up(walk, chunk, limit)
        return found

    def ids(self, rows: list[UsageRow]) -> list[str]:
        return [row.id.decode() for row in rows]


class ReadingTests(SyncRowsCase):
    def test_a_row_as_it_goes_to_the_cache(self) -> None:
        at = NOW - timedelta(seconds=1, microseconds=-123_456)
        row_id = self.row(0, at, admitted=False, status=429)
        (row,) = self.everything(Building((0, NO_ID), NOW_US + 1), 10)
        self.assertEqual(row.id.decode(), row_id)
        values = dict(zip(USAGE_FIELDS, (*row[1:5], *row.kind), strict=True))
        self.assertEqual(values, {
            "at": b"%d" % (NOW_US - SECOND + 123_456), "request_count": b"3", "response_us_sum": b"70",
            "response_us_max": b"40", "key_id": b"abc", "node": b"n1", "service": b"lpo", "protocol": b"http",
            "asset": b"BTC", "source": b"median", "cache_tier": b"shelf", "status": b"429", "admitted": b"0",
        })  # fmt: skip

    def test_texts_come_as_they_are_whatever_is_in_them(self) -> None:
        odd = ("a\tb", "a\\b\\", "a\nb", "a\r\n\\t", "\x08\x0b\x0c", "\\N", "ü€😀", "", " ")
        for number, text in enumerate(odd):
            self.row(number, NOW, source=text, node=text)
        found = self.everything(Building((0, NO_ID), NOW_US + 1), 4)
        self.assertEqual([row.kind.source.decode() for row in found], list(odd))
        self.assertEqual([row.kind.node.decode() for row in found], list(odd))

    def test_rows_of_one_kind_share_it(self) -> None:
        self.row(0, NOW)
        self.row(1, NOW)
        one, two = self.everything(Building((0, NO_ID), NOW_US + 1), 10)
        self.assertIs(one.kind, two.kind)

    def test_building_goes_by_time_and_gives_each_row_once(self) -> None:
        moments = [NOW - timedelta(hours=hours) for hours in (30, 5, 5, 5, 5, 5, 40, 0)]
        ids = [self.row(number, at) for number, at in enumerate(moments)]
        wanted = [ids[place] for place in (6, 0, 1, 2, 3, 4, 5, 7)]
        for limit in (1, 2, 3, 7, 8, 100):
            self.assertEqual(self.ids(self.everything(Building((0, NO_ID), NOW_US + 1), limit)), wanted, limit)

    def test_building_leaves_out_what_was_written_since_and_what_lies_before(self) -> None:
        self.row(0, NOW - timedelta(hours=3))
        here = self.row(1, NOW - timedelta(hours=1))
        self.row(2, NOW - timedelta(hours=1), written=NOW + timedelta(seconds=1))
        after = NOW_US - 2 * 3600 * SECOND
        self.assertEqual(self.ids(self.everything(Building((after, NO_ID), NOW_US + 1), 10)), [here])
        self.assertEqual(self.everything(Building((NOW_US - 3600 * SECOND, here), NOW_US + 1), 10), [])

    def test_catching_up_goes_by_writing_and_gives_each_row_once(self) -> None:
        written = [NOW - timedelta(seconds=seconds) for seconds in (500, 3, 3, 3, 900, 200, 0)]
        ids = [self.row(number, NOW - timedelta(hours=30), at) for number, at in enumerate(written)]
        wanted = [ids[place] for place in (4, 0, 5, 1, 2, 3)]  # the last was written when the job began
        walk = CatchingUp((NOW_US - 1000 * SECOND, NO_ID), NOW_US)
        for limit in (1, 2, 3, 6, 100):
            self.assertEqual(self.ids(self.everything(walk, limit)), wanted, limit)
        later = CatchingUp((NOW_US - 500 * SECOND, NO_ID), NOW_US)
        self.assertEqual(self.ids(self.everything(later, 4)), wanted[1:])

    def test_catching_up_leaves_out_what_is_too_old(self) -> None:
        old = datetime.fromtimestamp(cutoff_us(NOW_US) / SECOND, UTC)
        self.row(0, old - timedelta(microseconds=1))
        here = self.row(1, old)
        walk = CatchingUp((NOW_US - SECOND, NO_ID), NOW_US + SECOND)
        self.assertEqual(self.ids(self.everything(walk, 10)), [here])

    def test_nothing_to_read(self) -> None:
        self.assertEqual(self.everything(Building((0, NO_ID), NOW_US), 10), [])
        self.assertEqual(self.everything(CatchingUp((NOW_US - SECOND, NO_ID), NOW_US), 10), [])

    def test_reports(self) -> None:
        for number in range(5):
            self.run_sql(
                "INSERT INTO report_usage_logs (id, at, key_id, node, report, format, status, row_count, response_us,"
                " details) VALUES (%s, %s, 'abc', 'n1', 'usage', 'json', 200, 7, 900, '{\"a\": \"\\\\t\"}')",
                str(UUID(int=number + 1)), NOW + timedelta(microseconds=number // 2),
            )  # fmt: skip
        first = syncrows.reports(self.connection, (NOW_US, NO_ID), 2)
        self.assertEqual(len(first.rows), 2)
        assert first.last is not None
        rest = syncrows.reports(self.connection, first.last, 10)
        found = [row.id.decode() for row in (*first.rows, *rest.rows)]
        self.assertEqual(found, [str(UUID(int=number + 1)) for number in range(5)])
        self.assertEqual(dict(zip(REPORT_FIELDS, first.rows[0].values, strict=True)), {
            "at": b"%d" % NOW_US, "key_id": b"abc", "node": b"n1", "report": b"usage", "format": b"json",
            "status": b"200", "row_count": b"7", "response_us": b"900", "details": b'{"a": "\\\\t"}',
        })  # fmt: skip
        self.assertEqual(syncrows.reports(self.connection, (NOW_US + 10, NO_ID), 10).rows, [])

    def test_what_the_statistics_know(self) -> None:
        self.assertEqual(syncrows.estimate(self.connection), 0)
        for number in range(20):
            self.row(number, NOW)
        self.run_sql("ANALYZE usage_logs")
        self.assertEqual(syncrows.estimate(self.connection), 20)

    def test_the_newest_rows_are_found_by_the_index_too(self) -> None:
        self.row(0, NOW)
        syncrows.summarize(self.connection)
        self.assertEqual(len(self.everything(CatchingUp((NOW_US - SECOND, NO_ID), NOW_US + SECOND), 10)), 1)


class LeaseTests(SynchronousTestCase):
    def setUp(self) -> None:
        url = fresh_database(self)
        self.one, self.other = (connect(target(url)) for _ in range(2))
        for connection in (self.one, self.other):
            connection.autocommit = True
            self.addCleanup(connection.close)

    def take(self, connection: Any, token: str, seconds: float = 60.0, not_since: float | None = None) -> Grant | Held:
        return syncrows.take(connection, f"node-{token}", token, seconds, not_since)

    def test_one_at_a_time(self) -> None:
        grant = self.take(self.one, "a")
        assert isinstance(grant, Grant)
        self.assertEqual(self.take(self.other, "b"), Held("node-a", False))
        self.assertTrue(syncrows.keep(self.one, "a", 60))
        self.assertFalse(syncrows.keep(self.other, "b", 60))
        syncrows.give_back(self.other, "b", '{"not": "his"}')
        self.assertIsInstance(self.take(self.other, "b"), Held)
        syncrows.give_back(self.one, "a", "{}")
        again = self.take(self.other, "b")
        assert isinstance(again, Grant)
        self.assertEqual(again.origin, grant.origin)
        self.assertGreaterEqual(again.now_us, grant.now_us)

    def test_whoever_died_holds_it_no_longer_than_its_lease(self) -> None:
        self.assertIsInstance(self.take(self.one, "a", seconds=-1), Grant)
        self.assertIsInstance(self.take(self.other, "b"), Grant)
        self.assertFalse(syncrows.keep(self.one, "a", 60))

    def test_what_was_done_since_is_not_done_again(self) -> None:
        grant = self.take(self.one, "a")
        assert isinstance(grant, Grant)
        now = grant.now_us / SECOND
        syncrows.give_back(self.one, "a", '{"usage": 5}')
        self.assertEqual(self.take(self.other, "b", not_since=now - 1), Held("node-a", True))
        self.assertIsInstance(self.take(self.other, "b", not_since=now + 3600), Grant)
        with self.one.cursor() as cursor:
            cursor.execute("SELECT summary FROM sync_runs")
            self.assertEqual(cursor.fetchall(), [({"usage": 5},)])

    def test_what_was_given_up_is_not_done(self) -> None:
        grant = self.take(self.one, "a")
        assert isinstance(grant, Grant)
        syncrows.give_back(self.one, "a", None)
        self.assertIsInstance(self.take(self.other, "b", not_since=grant.now_us / SECOND - 1), Grant)

    def test_another_database_has_another_origin(self) -> None:
        here = self.take(self.one, "a")
        there = self.take(fresh_connection(self), "a")
        assert isinstance(here, Grant) and isinstance(there, Grant)
        self.assertNotEqual(here.origin, there.origin)


class TidyingTests(SyncRowsCase):
    def key(self, key_id: str, month: str, used: int) -> None:
        self.run_sql(
            "INSERT INTO api_keys (key_id, key_hash, datagram_secret, minimum_wait_seconds, current_usage, usage_month)"
            " VALUES (%s, sha256(%s), sha256(%s), 0, %s, %s)",
            key_id, key_id.encode(), key_id.encode(), used, f"{month}-01",
        )  # fmt: skip

    def test_what_is_too_old_goes_and_the_rest_stays(self) -> None:
        self.row(0, NOW - timedelta(days=94))
        kept = [self.row(1, NOW - timedelta(seconds=KEPT_SECONDS)), self.row(2, NOW)]
        for month in ("2026-07", "2026-08", "2026-11"):
            self.run_sql("INSERT INTO monthly_report_counts VALUES ('abc', %s, 4)", f"{month}-01")
        done = syncrows.tidy(self.connection, NOW_US)
        self.assertEqual(done, Tidied(partitions=1, report_counts=1))
        self.assertEqual([row[0] for row in self.run_sql("SELECT id FROM usage_logs ORDER BY at")], kept)
        self.assertEqual(
            [str(row[0]) for row in self.run_sql("SELECT month FROM monthly_report_counts ORDER BY 1")],
            ["2026-08-01", "2026-11-01"],
        )
        self.assertEqual(syncrows.tidy(self.connection, NOW_US), Tidied())

    def test_a_new_month_begins_at_zero(self) -> None:
        self.key("old", "2026-10", 500)
        self.key("new", "2026-11", 7)
        changed = self.run_sql("SELECT max(changed_at) FROM api_keys")
        self.assertEqual(syncrows.tidy(self.connection, NOW_US), Tidied(partitions=1, keys=1))
        self.assertEqual(
            self.run_sql("SELECT key_id, current_usage, to_char(usage_month, 'YYYY-MM') FROM api_keys ORDER BY 1"),
            [("new", 7, "2026-11"), ("old", 0, "2026-11")],
        )
        self.assertEqual(self.run_sql("SELECT max(changed_at) FROM api_keys"), changed)  # to count is no change

    def test_a_clock_that_is_behind_takes_nothing_from_a_key(self) -> None:
        self.key("new", "2026-11", 7)
        october = int(datetime(2026, 10, 31, tzinfo=UTC).timestamp()) * SECOND
        self.assertEqual(syncrows.tidy(self.connection, october), Tidied())
        self.assertEqual(self.run_sql("SELECT current_usage FROM api_keys"), [(7,)])

    def test_many_keys_are_begun_anew_a_part_at_a_time(self) -> None:
        self.patch(syncrows, "MOST_AT_ONCE", 2)
        for number in range(5):
            self.key(f"k{number}", "2026-10", 1)
        done = [syncrows.tidy(self.connection, NOW_US) for _ in range(3)]
        self.assertEqual([(one.keys, one.more) for one in done], [(2, True), (2, True), (1, False)])
        self.assertEqual(sum(done, Tidied()), Tidied(partitions=1, keys=5))
