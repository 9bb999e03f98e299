"""Reports from the order to the log: what is used up, what is given back, and that nothing is read for nobody."""

from __future__ import annotations

import csv
import io
import json
from datetime import date
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.problems import Problem
from tbeast.codecs.reportqueries import Asked, report_query
from tbeast.domain.admission import NO_LIMIT
from tbeast.domain.keys import Account
from tbeast.domain.reportorders import DATAGRAM, OPERATOR
from tbeast.domain.reports import REPORT_SUMMARY, REPORT_USAGE, SUMMARY, USAGE, ReportLine
from tbeast.errors import StoreRefusedError, StoreUnavailableError
from tbeast.services.reports import BURST, MOST_OF_ONE, MOST_READING, Report
from tbeast.test.services.reportparts import FREE, NOW, NOW_US, PARTNER, Desk, line
from tbeast.testing.logs import listen

NOVEMBER = date(2026, 11, 1)


class ReportsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = listen(self)
        self.desk = Desk([line(number) for number in range(95)])

    def asked(self, report: str, query: str = "", account: Account | None = FREE) -> Asked:
        key_id = None if account is None else account.key_id
        asked = report_query(report, query.encode(), key_id=key_id, now_us=int(self.desk.time * 1e6))
        assert isinstance(asked, Asked), asked
        return asked

    def begun(self, report: str, query: str = "", account: Account | None = FREE) -> Deferred[Report]:
        asked = self.asked(report, query, account)
        return Deferred.fromCoroutine(self.desk.reports.begin(account, asked, self.desk.time))

    def begin(self, report: str, query: str = "", account: Account | None = FREE) -> Report:
        """Begin a report; one that is given whole is taken at once."""
        made: Report = self.successResultOf(self.desk.turns(self.begun(report, query, account)))
        if made.body is not None:
            made.close()
        return made

    def page(self, query: str, account: Account | None = FREE) -> Any:
        report = self.begin(USAGE, query, account)
        assert report.body is not None, report.problem
        return json.loads(report.body)

    def whole(self, report: Report) -> bytes:
        async def read() -> bytes:
            return b"".join([piece async for piece in report.pieces()])

        body: bytes = self.successResultOf(self.desk.turns(Deferred.fromCoroutine(read())))
        report.close()
        return body

    def used(self, account: Account = FREE) -> int:
        return self.desk.log.counts[account.key_id, NOVEMBER]

    def statuses(self) -> list[tuple[str, int, object]]:
        return [(made.report, made.status, made.details.get("broken_off")) for made in self.desk.log.made]

    def assert_over(self) -> None:
        """Nothing is open or read any more."""
        self.assertEqual((0, {}), (self.desk.reports.reading, dict(self.desk.reports.open)))


class QuotaTests(ReportsCase):
    def test_ten_and_no_more(self) -> None:
        lefts = [self.begin(SUMMARY).allowance for _ in range(10)]
        self.assertEqual([(10, 9 - number) for number in range(10)],
                         [(left.limit, left.remaining) for left in lefts if left is not None])  # fmt: skip
        refused = self.begin(SUMMARY)
        assert refused.problem is not None
        assert refused.allowance is not None
        self.assertEqual("report_quota_exceeded", refused.problem.code)
        self.assertEqual((10, 0, 1_083_200), (
            refused.allowance.limit, refused.allowance.remaining, refused.allowance.reset_seconds
        ))  # fmt: skip
        self.assertEqual(1_796_083_200 - NOW, refused.retry_after_seconds)
        self.assertEqual([200] * 10 + [429], [made.status for made in self.desk.log.made])
        self.assert_over()

    def test_the_next_month(self) -> None:
        """It begins by itself, on the first."""
        self.desk.log.counts[FREE.key_id, NOVEMBER] = 10
        self.assertIsNotNone(self.begin(SUMMARY).problem)
        self.desk.time += 1_083_200
        self.assertIsNone(self.begin(SUMMARY).problem)
        self.assertEqual(1, self.desk.log.counts[FREE.key_id, date(2026, 12, 1)])

    def test_who_has_no_limit(self) -> None:
        """The add-on lifts it, some plans have none; all is counted. The operator is not."""
        for account in (evolve(FREE, lrs_addon=True), PARTNER):
            for _ in range(12):
                report = self.begin(SUMMARY, account=account)
                assert report.allowance is not None
                self.assertEqual((None, NO_LIMIT), (report.problem, report.allowance.remaining))
            self.assertEqual(12, self.used(account))
        self.begin(SUMMARY, account=None)
        self.assertEqual(0, self.desk.log.counts[OPERATOR, NOVEMBER])
        self.assertEqual(OPERATOR, self.desk.log.made[-1].key_id)

    def test_a_plan_without_reports(self) -> None:
        account = evolve(FREE, plan=evolve(FREE.plan, monthly_reports=0))
        refused = self.begin(SUMMARY, account=account)
        assert refused.problem is not None
        self.assertEqual("report_quota_exceeded", refused.problem.code)

    def test_further_pages_are_free(self) -> None:
        """Of a report that was made, with its cut; everything that differs is another report."""
        first = self.page("page_size=40")
        pages = [first]
        while pages[-1]["next_cursor"]:
            pages.append(self.page(f"page_size=40&cursor={pages[-1]['next_cursor']}"))
        self.assertEqual([40, 40, 15], [page["row_count"] for page in pages])
        self.assertEqual([one.id for one in self.desk.reading.whole],
                         [row["id"] for page in pages for row in page["rows"]])  # fmt: skip
        self.assertEqual(1, self.used())
        self.assertEqual([False, True, True], [made.details["further_page"] for made in self.desk.log.made])
        self.page(f"page_size=7&cursor={first['next_cursor']}")
        self.assertEqual(1, self.used())

    def test_a_made_up_cursor_is_a_report(self) -> None:
        """Of another cut, or a filter that was not asked for, or another key."""
        cursor = self.page("page_size=40")["next_cursor"]
        self.desk.log.made.clear()
        self.page(f"page_size=40&cursor={cursor}")
        self.assertEqual(2, self.used())
        self.page(f"page_size=40&cursor={cursor}")
        self.assertEqual(2, self.used())  # which that was
        self.desk.log.made = [evolve(made, key_id="somebody") for made in self.desk.log.made]
        self.page(f"page_size=40&cursor={cursor}")
        self.assertEqual(3, self.used())

    def test_without_the_last_page_of_the_month(self) -> None:
        """Who has used up the month still gets the pages of his last report."""
        self.desk.log.counts[FREE.key_id, NOVEMBER] = 9
        cursor = self.page("page_size=40")["next_cursor"]
        self.assertIsNotNone(self.begin(SUMMARY).problem)
        self.assertEqual(40, self.page(f"page_size=40&cursor={cursor}")["row_count"])


class GivingTests(ReportsCase):
    def test_formats_agree(self) -> None:
        """Streamed csv, paged csv and JSON have the same rows, and the summary their sums."""
        streamed = self.whole(self.begin(USAGE, "format=csv"))
        rows = list(csv.DictReader(io.StringIO(streamed.decode())))
        self.assertEqual([str(one.request_count) for one in self.desk.reading.whole],
                         [row["request_count"] for row in rows])  # fmt: skip
        paged = self.begin(USAGE, "format=csv&page_size=1000")
        self.assertEqual(streamed, paged.body)
        page, summary = self.page(""), self.begin(SUMMARY)
        assert summary.body is not None
        self.assertEqual(page["totals"], json.loads(summary.body)["totals"])
        self.assertEqual(sum(one.request_count for one in self.desk.reading.whole), page["totals"]["requests"])
        self.assert_over()

    def test_the_cursor_in_the_header(self) -> None:
        report = self.begin(USAGE, "format=tsv&page_size=94")
        self.assertIn(b"Report-Next-Cursor", dict(report.headers))
        self.assertNotIn(b"Report-Next-Cursor", dict(self.begin(USAGE, "format=tsv&page_size=95").headers))

    def test_no_rows(self) -> None:
        self.desk.reading.whole = []
        self.assertEqual(1, self.whole(self.begin(USAGE, "format=csv")).count(b"\r\n"))
        self.assertEqual(0, self.page("")["row_count"])

    def test_reports_that_were_made(self) -> None:
        """Those up to the cut."""
        for number in range(5):
            made = ReportLine(NOW_US - 2 + number, line(number).id, FREE.key_id, "n", USAGE, "csv", 200, 7, 9, "{}")
            self.desk.store.lines.append(made)
        self.desk.time += 60.0
        report = self.begin(REPORT_USAGE)
        assert report.body is not None
        self.assertEqual(3, json.loads(report.body)["row_count"])
        summary = self.begin(REPORT_SUMMARY)
        assert summary.body is not None
        self.assertEqual((3, 21), tuple(json.loads(summary.body)["totals"][name] for name in ("reports", "row_count")))

    def test_a_datagram(self) -> None:
        asked = evolve(self.asked(SUMMARY), format=DATAGRAM)
        begun = Deferred.fromCoroutine(self.desk.reports.begin(FREE, asked, NOW, b"17"))
        report: Report = self.successResultOf(self.desk.turns(begun))
        assert report.body is not None
        answer = json.loads(report.body)
        self.assertEqual(17, answer["id"])
        self.assertEqual(sum(one.request_count for one in self.desk.reading.whole), answer["totals"]["requests"])
        self.assertEqual([("summary", DATAGRAM)], [(made.report, made.format) for made in self.desk.log.made])

    def test_the_log(self) -> None:
        asked = self.begun(USAGE, "format=csv&asset=BTC")
        self.desk.time += 0.25
        self.whole(self.successResultOf(self.desk.turns(asked)))
        (made,) = self.desk.log.made
        self.assertEqual((FREE.key_id, "usage", "csv"), (made.key_id, made.report, made.format))
        self.assertEqual((200, 48, 250_000), (made.status, made.row_count, made.response_us))
        self.assertEqual(
            {"from": "2026-11-01T00:00:00.000000Z", "to": "2026-11-18T11:06:40.000000Z", "of": FREE.key_id,
             "asset": "BTC", "source": "", "cut": "2026-11-18T11:06:40.000000Z", "page_size": None,
             "further_page": False},
            made.details,
        )  # fmt: skip

    def test_a_piece_is_made_when_it_is_asked_for(self) -> None:
        report = self.begin(USAGE, "format=csv")
        self.assertEqual(1, self.desk.reading.read)
        pieces = report.pieces()
        for _ in range(3):  # names, and two chunks of ten
            self.successResultOf(self.desk.turns(Deferred.fromCoroutine(_next(pieces))))
        self.assertEqual(2, self.desk.reading.read)
        report.break_off("client")
        self.successResultOf(Deferred.fromCoroutine(pieces.aclose()))  # type: ignore[attr-defined]
        self.assertEqual(1, self.desk.reading.closed)
        self.assertEqual([("usage", 200, "client")], self.statuses())
        self.assertEqual(20, self.desk.log.made[0].row_count)
        self.assertEqual(1, self.used())
        self.assert_over()

    @settings(deadline=None, max_examples=60)
    @given(st.integers(0, 60), st.integers(1, 25), st.integers(1, 25))
    def test_pages_are_the_whole(self, lines: int, chunk: int, size: int) -> None:
        """However large pages and chunks are, together they have each line once."""
        self.desk = Desk([line(number) for number in range(lines)], chunk)
        found, cursor = [], ""
        while True:
            page = self.page(f"page_size={size}{cursor and '&cursor='}{cursor}", None)
            found += [row["id"] for row in page["rows"]]
            cursor = page["next_cursor"]
            if not cursor:
                break
            self.assertEqual(size, page["row_count"])
        self.assertEqual([one.id for one in self.desk.reading.whole], found)
        self.assert_over()


async def _next(pieces: Any) -> bytes:
    piece: bytes = await anext(pieces)
    return piece


class FailingTests(ReportsCase):
    def test_away_from_the_beginning(self) -> None:
        """Nothing is used up, nothing waits to be noted."""
        self.desk.go_away()
        refused = self.begin(USAGE)
        assert refused.problem is not None
        self.assertEqual(("store_unavailable", 503, 5.0),
                         (refused.problem.code, refused.problem.status, refused.retry_after_seconds))  # fmt: skip
        self.assertEqual(([], []), (self.desk.log.made, self.desk.reports.book.behind))
        self.desk.go_away(False)
        self.page("")
        self.assertEqual([200], [made.status for made in self.desk.log.made])
        self.assertEqual(1, self.used())
        self.assert_over()

    def test_away_after_it_was_claimed(self) -> None:
        """It is given back, now or later."""
        for part, after in ((self.desk.reading, 0), (self.desk.reading, 1)):
            part.away_after = after
            refused = self.begin(USAGE)
            assert refused.problem is not None
            self.assertEqual(("store_unavailable", 0), (refused.problem.code, self.used()))
            self.desk.go_away(False)
        self.desk.reading.away_after, self.desk.log.away_after = 0, 1
        self.begin(USAGE)
        self.assertEqual(1, self.used())
        self.desk.go_away(False)
        self.page("")
        self.assertEqual(1, self.used())
        self.assert_over()

    def test_away_in_the_middle(self) -> None:
        """What was given is no report, and is given back."""
        self.desk.reading.away_after = 3
        report = self.begin(USAGE, "format=csv")

        async def read() -> None:
            async for _ in report.pieces():
                pass

        self.failureResultOf(self.desk.turns(Deferred.fromCoroutine(read())), StoreUnavailableError)
        self.assertEqual([("usage", 200, "database")], self.statuses())
        self.assertEqual(0, self.used())
        self.assert_over()

    def test_a_fault_of_ours(self) -> None:
        self.desk.store.ask = lambda: 1 // 0  # type: ignore[method-assign, assignment]
        self.failureResultOf(self.begun(SUMMARY), ZeroDivisionError)
        self.assertEqual(([("summary", 500, "fault")], 0), (self.statuses(), self.used()))
        self.assert_over()

    def test_the_node_stops(self) -> None:
        """That is no doing of the client, whether the report was going out or waited to; it is given back once."""
        streamed, paged, left = self.begin(USAGE, "format=csv"), self.begin(USAGE), self.begin(USAGE, "format=csv")
        self.assertEqual(3, self.used())
        for report in (streamed, paged, paged):
            report.break_off("stopping")
        self.assertEqual(1, self.used())
        left.break_off("client")
        self.assertEqual(1, self.used())
        whys = [("usage", 200, None), ("usage", 200, "stopping"), ("usage", 200, "client")]
        self.assertEqual(whys, self.statuses())
        self.assert_over()

    def test_the_log_alone_is_away(self) -> None:
        """A report that was read is given; it is noted later, once."""
        self.desk.log.away_after = 1
        self.assertEqual(95, self.page("")["row_count"])
        self.assertEqual(1, len(self.desk.reports.book.behind))
        self.desk.go_away(False)
        self.page("")
        self.assertEqual((2, 0), (len(self.desk.log.made), len(self.desk.reports.book.behind)))

    def test_what_the_database_will_never_take(self) -> None:
        """It is given up, and told, and holds up nothing."""
        take = self.desk.log.log
        self.desk.log.log = self._refused  # type: ignore[method-assign, assignment]
        self.assertEqual(95, self.page("")["row_count"])
        self.assertEqual([], self.desk.reports.book.behind)
        self.assertEqual(1, len(self.log.having("1 reports are not noted")))
        self.desk.log.log = take  # type: ignore[method-assign]
        self.page("")
        self.assertEqual(1, len(self.desk.log.made))

    async def _refused(self, _: object) -> None:
        raise StoreRefusedError("no such table")


class RoomTests(ReportsCase):
    def streams(self, number: int) -> list[Report]:
        """So many reports that go out, of as many keys."""
        accounts = [evolve(PARTNER, key_id=f"key{place}") for place in range(number)]
        return [self.begin(USAGE, "format=csv", account) for account in accounts]

    def problem(self, account: Account | None = FREE) -> Problem | None:
        return self.begin(SUMMARY, account=account).problem

    def test_so_many_at_a_time(self) -> None:
        streams = self.streams(MOST_READING)
        refused = self.begin(SUMMARY)
        assert refused.problem is not None
        self.assertEqual(("reports_busy", 2.0), (refused.problem.code, refused.retry_after_seconds))
        self.assertEqual(0, self.used())
        streams[0].break_off("client")
        self.assertIsNone(self.problem())

    def test_who_waits_is_not_read(self) -> None:
        """A client that does not take its report keeps nobody from his."""
        streams = self.streams(MOST_READING)
        streams[0].wait()
        streams[0].wait()
        self.assertIsNone(self.problem())
        streams[0].go_on()
        streams[0].go_on()
        self.assertIsNotNone(self.problem())
        for stream in streams:
            stream.wait()
            stream.break_off("client")
            stream.go_on()
        self.assert_over()

    def test_open_until_it_is_taken(self) -> None:
        """A page that waits for its client is read no more, but stands in the way of a third."""
        pages = [self.successResultOf(self.desk.turns(self.begun(USAGE))) for _ in range(MOST_OF_ONE)]
        self.assertEqual((0, MOST_OF_ONE), (self.desk.reports.reading, self.desk.reports.open.total()))
        self.assertIsNotNone(self.problem())
        for page in pages:
            page.close()
            page.close()
        self.assert_over()
        self.assertIsNone(self.problem())

    def test_so_many_open(self) -> None:
        self.desk = Desk([line(1)], most_open=3)
        streams = self.streams(3)
        for stream in streams:
            stream.wait()
        self.assertIsNotNone(self.problem())

    def test_others_keep_nothing_from_the_operator(self) -> None:
        """However many are read, or wait for slow clients; his own are as few as anybody's."""
        self.streams(MOST_READING)
        self.assertIsNotNone(self.problem())
        self.assertIsNone(self.problem(None))
        for _ in range(MOST_OF_ONE):
            self.begin(USAGE, "format=csv", None)
        self.assertIsNotNone(self.problem(None))

    def test_so_many_of_one_key(self) -> None:
        for _ in range(MOST_OF_ONE):
            self.begin(USAGE, "format=csv")
        refused = self.problem()
        assert refused is not None
        self.assertEqual("rate_limited", refused.code)
        self.assertIn("The key has 2 reports", refused.detail)
        self.assertIsNone(self.problem(PARTNER))

    def test_the_bucket(self) -> None:
        """Each key has its own."""
        waits = [self.desk.reports.wait_seconds("abc", NOW) for _ in range(BURST + 1)]
        self.assertEqual([0.0] * BURST, waits[:-1])
        self.assertGreater(waits[-1], 0.0)
        self.assertEqual(0.0, self.desk.reports.wait_seconds("xyz", NOW))
        self.assertEqual(0.0, self.desk.reports.wait_seconds("abc", NOW + waits[-1]))
