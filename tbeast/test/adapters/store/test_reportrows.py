"""What reports read of a real PostgreSQL: every line once and in order, sums that are those of the lines, the cut."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from attrs import evolve
from psycopg2 import extensions

from tbeast.adapters.store import reportrows
from tbeast.adapters.store.postgres import connect, target
from tbeast.domain.reports import (
    REPORT_SUMMARY,
    REPORT_USAGE,
    SUMMARY,
    USAGE,
    ReportLine,
    ReportQuery,
    UsageLine,
    place_of,
    report_summary,
    usage_summary,
)
from tbeast.domain.reportsources import Moment
from tbeast.domain.syncplan import SECOND
from tbeast.test.adapters.store.test_syncrows import NOW, NOW_US, SyncRowsCase
from tbeast.testing.postgres import fresh_database

DAY = 86_400 * SECOND
ALL = ReportQuery(USAGE, None, NOW_US - 2 * DAY, NOW_US + DAY)
FOREVER = NOW_US + 10 * DAY

_WATCHED = """
CREATE TEMP TABLE looked (us bigint);
CREATE FUNCTION pg_temp.look() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN
    INSERT INTO looked VALUES ((extract(epoch FROM clock_timestamp()) * 1000000)::bigint); RETURN true;
END $$;
CREATE TEMP VIEW pg_stat_activity AS SELECT * FROM pg_catalog.pg_stat_activity WHERE pg_temp.look() OFFSET 0;
"""
"""Stands before the view of that name, and notes when it is looked at."""


class ReportRowsCase(SyncRowsCase):
    def fill(self) -> None:
        """Rows of two days: of two keys and nobody, several assets and sources, some at the same time."""
        for number in range(60):
            self.row(
                (number * 37) % 60, NOW - timedelta(hours=36 - number // 2), NOW + timedelta(seconds=number),
                key_id=("abc", "xyz", "")[number % 3], asset=("BTC", "ETH")[number % 2], status=(200, 429)[number % 2],
                admitted=number % 2 == 0, source=("median", "kraken-ws", "")[number // 3 % 3], request_count=number + 1,
                response_us_sum=number * 10, response_us_max=number,
            )  # fmt: skip

    def lines(self, query: ReportQuery, since_us: int = 0, cut_us: int = FOREVER, limit: int = 7) -> list[UsageLine]:
        """All lines of a report, read in chunks, but for those after the cut."""
        found: list[UsageLine] = []
        after, goes_on = query.begins_after, True
        while goes_on:
            chunk = reportrows.usage(self.connection, query, since_us, cut_us, after, limit)
            self.assertLessEqual(len(chunk.lines), limit)
            found += [line for line in chunk.lines if line.id not in chunk.later]
            goes_on = chunk.goes_on
            if chunk.lines:
                after = place_of(chunk.lines[-1])
        return found


class UsageTests(ReportRowsCase):
    def setUp(self) -> None:
        super().setUp()
        self.fill()

    def test_every_line_once_and_in_order(self) -> None:
        whole = self.lines(ALL, limit=1000)
        self.assertEqual(60, len(whole))
        self.assertEqual(sorted(whole, key=place_of), whole)
        for limit in (1, 2, 7, 59, 60, 61):
            self.assertEqual(whole, self.lines(ALL, limit=limit))

    def test_a_line(self) -> None:
        row_id = str(UUID(int=1))
        (line,) = [line for line in self.lines(ALL) if line.id == row_id]
        self.assertEqual(
            UsageLine(
                NOW_US - 36 * 3600 * SECOND,
                row_id,
                "abc",
                "n1",
                "lpo",
                "http",
                "BTC",
                "median",
                "shelf",
                200,
                True,
                1,
                0,
                0,
            ),
            line,
        )

    def test_the_range(self) -> None:
        """Its beginning is in it and its end not."""
        whole = self.lines(ALL)
        at = whole[20].at_us
        first, second = evolve(ALL, to_us=at), evolve(ALL, from_us=at, asked_from_us=at)
        self.assertEqual(whole, self.lines(first) + self.lines(second))
        self.assertEqual(at, self.lines(second)[0].at_us)
        self.assertEqual([], self.lines(evolve(ALL, to_us=ALL.from_us)))

    def test_filters(self) -> None:
        whole = self.lines(ALL)
        for chosen in (
            {"key_id": "abc"}, {"key_id": ""}, {"key_id": "nobody"}, {"asset": "ETH"}, {"source": "median"},
            {"key_id": "xyz", "asset": "BTC", "source": "kraken-ws"},
        ):  # fmt: skip
            query = evolve(ALL, **chosen)  # type: ignore[arg-type]
            self.assertEqual([line for line in whole if query.takes(line)], self.lines(query), chosen)
        self.assertEqual(20, len(self.lines(evolve(ALL, key_id=""))))

    def test_the_cut(self) -> None:
        """What was written after it is told, and what before a time may be left out."""
        whole = self.lines(ALL)
        cut = NOW_US + 29 * SECOND
        self.assertEqual(30, len(self.lines(ALL, cut_us=cut)))
        self.assertEqual(59 - 9, len(self.lines(ALL, since_us=NOW_US + 9 * SECOND)))
        self.assertEqual(20, len(self.lines(ALL, NOW_US + 9 * SECOND, cut)))
        chunk = reportrows.usage(self.connection, ALL, 0, cut, ALL.begins_after, 1000)
        self.assertEqual((60, 30, False), (len(chunk.lines), len(chunk.later), chunk.goes_on))
        self.assertEqual(whole, chunk.lines)

    def test_how_many_were_written_before(self) -> None:
        whole = self.lines(ALL)
        after, since_us = place_of(whole[10]), NOW_US + 29 * SECOND
        for query in (ALL, evolve(ALL, key_id="abc"), evolve(ALL, asset="ETH", source="median")):
            later = {line.id for line in self.lines(query, since_us=since_us)}
            wanted = [line for line in self.lines(query) if place_of(line) > after and line.id not in later]
            self.assertGreater(len(wanted), 2)
            for most in (1, len(wanted), 1000):
                counted = reportrows.written_before(self.connection, query, since_us, after, most)
                self.assertEqual(min(most, len(wanted)), counted)

    def test_sums(self) -> None:
        """They are those of the lines, whatever is chosen, and add up over parts."""
        for query in (ALL, evolve(ALL, key_id="abc"), evolve(ALL, asset="ETH", source="")):
            query = evolve(query, report=SUMMARY)
            for since_us, cut_us in ((0, FOREVER), (0, NOW_US + 29 * SECOND), (NOW_US + 9 * SECOND, FOREVER)):
                wanted, found = usage_summary(), usage_summary()
                wanted.add(self.lines(query, since_us, cut_us))
                for key, sums in reportrows.usage_sums(self.connection, query, since_us, cut_us):
                    self.assertEqual([int] * 6, [type(value) for value in (
                        sums.requests, sums.billed, sums.response_us_sum, sums.response_us_max, sums.first_us,
                        sums.last_us,
                    )])  # fmt: skip
                    found.add_sums(key, sums)
                self.assertEqual(wanted.rows(), found.rows())
                self.assertEqual(wanted.totals, found.totals)

    def test_no_lines(self) -> None:
        nobody = evolve(ALL, key_id="nobody", report=SUMMARY)
        self.assertEqual([], reportrows.usage_sums(self.connection, nobody, 0, FOREVER))


class MadeTests(ReportRowsCase):
    def test_reports_that_were_made(self) -> None:
        query = evolve(ALL, report=REPORT_USAGE)
        for number in range(12):
            self.run_sql(
                "INSERT INTO report_usage_logs (id, at, key_id, node, report, format, status, row_count, response_us,"
                " details) VALUES (%s, %s, %s, 'n1', %s, 'csv', %s, %s, %s, %s)",
                str(UUID(int=(number * 5) % 12 + 1)), NOW - timedelta(hours=6 - number // 2),
                ("abc", "xyz")[number % 2], (USAGE, SUMMARY)[number % 2], (200, 403)[number // 6], number,
                number * 100, '{"asset": "BTC"}',
            )  # fmt: skip
        whole = reportrows.made(self.connection, query, query.begins_after, 100)
        self.assertEqual(12, len(whole))
        self.assertEqual(sorted(whole, key=place_of), whole)
        found: list[ReportLine] = []
        while more := reportrows.made(self.connection, query, place_of(found[-1]) if found else query.begins_after, 5):
            found += more
        self.assertEqual(whole, found)
        self.assertEqual("abc n1 usage csv 200", " ".join(map(str, whole[0][2:7])))
        for chosen in (query, evolve(query, key_id="xyz")):
            chosen = evolve(chosen, report=REPORT_SUMMARY)
            wanted, sums = report_summary(), report_summary()
            wanted.add(line for line in whole if chosen.takes(line))
            for key, part in reportrows.made_sums(self.connection, chosen):
                sums.add_sums(key, part)
            self.assertEqual((wanted.rows(), wanted.totals), (sums.rows(), sums.totals))


class OrderTests(ReportRowsCase):
    def test_in_the_order_of_the_index(self) -> None:
        """Lines come in the order that places are compared in, which is not that of words in every language."""
        said: list[str] = []

        class Recording(extensions.cursor):
            def execute(self, query: Any, values: Any = None) -> None:
                said.append(self.mogrify(query, values).decode())
                super().execute(query, values)

        self.fill()
        self.connection.cursor_factory = Recording
        reportrows.usage(self.connection, ALL, 0, FOREVER, ALL.begins_after, 7)
        reportrows.made(self.connection, evolve(ALL, report=REPORT_USAGE), ALL.begins_after, 7)
        self.assertEqual(2, len(said))
        for statement in said:
            with self.connection.cursor(cursor_factory=extensions.cursor) as cursor:
                cursor.execute(f"EXPLAIN (VERBOSE) {statement}")
                keys = [row[0] for row in cursor.fetchall() if "Sort Key" in row[0]]
            self.assertEqual([], [key for key in keys if "::text" in key])


class MomentTests(ReportRowsCase):
    def test_what_is_being_written_is_not_settled(self) -> None:
        url = fresh_database(self)
        one, other = connect(target(url)), connect(target(url))
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        before = reportrows.moment(one)
        one.commit()
        self.assertEqual(before.now_us, before.settled_us)
        self.assertTrue(before.origin)
        with other.cursor() as cursor:
            cursor.execute("INSERT INTO sync_runs (job) VALUES ('another')")
        during = self.moment(one)
        self.assertLess(during.settled_us, during.now_us)
        self.assertGreater(during.settled_us, before.now_us)
        with other.cursor() as cursor:
            cursor.execute("SELECT (extract(epoch FROM now()) * 1000000)::bigint")
            (began,) = cursor.fetchone() or (0,)
        self.assertEqual(began, during.settled_us)
        other.commit()
        after = self.moment(one)
        self.assertEqual((after.now_us, before.origin), (after.settled_us, after.origin))

    def test_the_time_is_that_before_it_is_looked_who_writes(self) -> None:
        """Else whoever begins and writes in between would be missing in a report that says it is complete."""
        connection = connect(target(fresh_database(self)))
        self.addCleanup(connection.close)
        with connection.cursor() as cursor:
            cursor.execute(_WATCHED)
            found = reportrows.moment(connection)
            cursor.execute("SELECT min(us) FROM looked")
            (looked_us,) = cursor.fetchone() or (0,)
        self.assertLessEqual(found.settled_us, looked_us)

    def moment(self, connection: Any) -> Moment:
        found = reportrows.moment(connection)
        connection.commit()
        return found

    def test_who_reads_alone_holds_nothing_up(self) -> None:
        url = fresh_database(self)
        one, other = connect(target(url)), connect(target(url))
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        self.moment(one)
        with other.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM usage_logs")
        found = self.moment(one)
        self.assertEqual(found.now_us, found.settled_us)
