"""The month's reports and the log of them in a real PostgreSQL."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any
from uuid import UUID

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store import reportlog, reportrows
from tbeast.adapters.store.postgres import connect, target
from tbeast.domain.reportorders import ReportMade, details_of, identity_of, make_id
from tbeast.domain.reports import REPORT_USAGE, USAGE, ReportQuery
from tbeast.domain.syncplan import NO_ID, SECOND
from tbeast.testing.postgres import fresh_connection, fresh_database

NOVEMBER = date(2026, 11, 1)
QUERY = ReportQuery(USAGE, "abc", 1_795_000_000 * SECOND, 1_795_000_100 * SECOND, asset="BTC", page_size=7)
CUT_US = 1_795_000_200 * SECOND + 123_456


def made(number: int = 0, **changes: Any) -> ReportMade:
    row_id = make_id(1_795_000_000.0 + number, lambda length: number.to_bytes(length, "big"))
    return evolve(ReportMade(row_id, "abc", USAGE, "csv", 200, 30, 1_500, details_of(QUERY, CUT_US)), **changes)


class ReportLogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.url = fresh_database(self)
        self.connection = fresh_connection(self, self.url)

    def claim(self, quota: int | None, key_id: str = "abc", month: date = NOVEMBER) -> int | None:
        return reportlog.claim(self.connection, key_id, month, quota)


class ClaimTests(ReportLogCase):
    def test_so_many_a_month(self) -> None:
        self.assertEqual([1, 2, 3, None, None], [self.claim(3) for _ in range(5)])
        self.assertEqual((1, 1), (self.claim(3, "xyz"), self.claim(3, month=date(2026, 12, 1))))
        self.assertEqual([4, 5], [self.claim(None), self.claim(None)])
        self.assertEqual(5, reportlog.made_in(self.connection, "abc", NOVEMBER))
        self.assertEqual(0, reportlog.made_in(self.connection, "nobody", NOVEMBER))

    def test_none(self) -> None:
        self.assertIsNone(self.claim(0))
        self.assertEqual(0, reportlog.made_in(self.connection, "abc", NOVEMBER))

    def test_giving_back(self) -> None:
        for _ in range(3):
            self.claim(3)
        reportlog.give_back(self.connection, "abc", NOVEMBER, 2)
        self.assertEqual([2, 3, None], [self.claim(3) for _ in range(3)])
        reportlog.give_back(self.connection, "abc", NOVEMBER, 99)
        reportlog.give_back(self.connection, "nobody", NOVEMBER)
        self.assertEqual(1, self.claim(3))

    def test_many_at_once(self) -> None:
        """However many ask at the same time, no more get one than there are."""

        def ask(_: int) -> list[int | None]:
            connection = connect(target(self.url))
            try:
                found = []
                for _ in range(10):
                    found.append(reportlog.claim(connection, "abc", NOVEMBER, 25))
                    connection.commit()
                return found
            finally:
                connection.close()

        with ThreadPoolExecutor(4) as threads:
            claimed = [number for found in threads.map(ask, range(4)) for number in found if number is not None]
        self.assertEqual(list(range(1, 26)), sorted(claimed))


class LogTests(ReportLogCase):
    def test_what_is_written(self) -> None:
        """Once, however often; with the database's time."""
        report = made(1)
        for reports in ([report], [report, made(2, status=429)]):
            reportlog.log(self.connection, "n1", reports)
        self.connection.commit()
        now_us = reportrows.moment(self.connection).now_us
        query = ReportQuery(REPORT_USAGE, "abc", now_us - 60 * SECOND, now_us)
        lines = reportrows.made(self.connection, query, (0, NO_ID), 10)
        self.assertEqual([200, 429], [line.status for line in lines])
        self.assertEqual((report.id, "abc", "n1", USAGE, "csv", 30, 1_500),
                         (lines[0].id, *lines[0][2:6], *lines[0][7:9]))  # fmt: skip
        self.assertEqual(dict(report.details), json.loads(lines[0].details))

    def test_ids(self) -> None:
        """Of version 7, in the order of their making."""
        ids = [made(number).id for number in range(20)]
        self.assertEqual(sorted(ids), ids)
        self.assertEqual({7}, {UUID(one).version for one in ids})

    def test_what_is_paid(self) -> None:
        """The same report, by the same key, that was given, and not long ago."""
        identity = identity_of(QUERY, CUT_US)

        def is_paid(key_id: str = "abc", report: str = USAGE, identity: Any = identity) -> bool:
            return reportlog.is_paid(self.connection, key_id, report, identity)

        self.assertFalse(is_paid())
        reportlog.log(self.connection, "n1", [made(1, status=503)])
        self.assertFalse(is_paid())
        reportlog.log(self.connection, "n1", [made(2)])
        self.assertTrue(is_paid())
        self.assertFalse(is_paid(key_id="xyz"))
        self.assertFalse(is_paid(report=REPORT_USAGE))
        for change in ({"asset": ""}, {"source": "median"}, {"to_us": QUERY.to_us + 1}, {"asked_from_us": 0}):
            self.assertFalse(is_paid(identity=identity_of(evolve(QUERY, **change), CUT_US)), change)
        self.assertFalse(is_paid(identity=identity_of(QUERY, CUT_US + 1)))
        self.assertTrue(is_paid(identity=identity_of(evolve(QUERY, page_size=99, after=(7, NO_ID)), CUT_US)))
        with self.connection.cursor() as cursor:
            cursor.execute("UPDATE report_usage_logs SET at = at - interval '25 hours'")
        self.assertFalse(is_paid())
