"""What reports are made of: how lines add up, and how two sources become one."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.reports import (
    DAY_US,
    LATEST_US,
    REPORT_USAGE,
    SUMMARY,
    USAGE,
    Cut,
    ReportKey,
    ReportLine,
    ReportQuery,
    ReportSums,
    Sums,
    UsageKey,
    UsageLine,
    cut_of,
    day_of,
    default_from,
    mean_us,
    moment,
    month_end,
    month_start,
    place_of,
    report_line,
    report_summary,
    settle,
    sums_of_reports,
    sums_of_usage,
    usage_line,
    usage_summary,
)
from tbeast.domain.syncplan import (
    BUILDING,
    NO_ID,
    NONE,
    OVERLAP_SECONDS,
    SECOND,
    WHOLE,
    Marks,
    ReportRow,
    UsageKind,
    UsageRow,
)
from tbeast.domain.usage import NOBODY

NOW = int(datetime(2026, 11, 22, 21, 40, tzinfo=UTC).timestamp()) * SECOND
OVERLAP = OVERLAP_SECONDS * SECOND
ID = "00112233-4455-6677-8899-aabbccddeeff"
LINE = UsageLine(
    NOW, ID, "abcdefghij", "node-1", "lpo", "http", "BTC", "coinbase-ws", "shelf", 200, True, 3, 30, 20
)  # fmt: skip
MADE = ReportLine(NOW, ID, "abcdefghij", "node-1", USAGE, "csv", 200, 5, 900, "{}")

uuids = st.integers(0, 2**128 - 1).map(lambda number: str(UUID(int=number)))
lines = st.builds(
    UsageLine,
    at_us=st.integers(0, LATEST_US),
    id=uuids,
    key_id=st.sampled_from(["abcdefghij", "klmnopqrst", NOBODY]),
    node=st.sampled_from(["node-1", "node-2"]),
    service=st.sampled_from(["lpo", "lrs"]),
    protocol=st.sampled_from(["http", "udp"]),
    asset=st.sampled_from(["BTC", "ETH", "*", ""]),
    source=st.sampled_from(["median", "kraken-ws", ""]),
    cache_tier=st.sampled_from(["shelf", ""]),
    status=st.sampled_from([200, 404, 429]),
    admitted=st.booleans(),
    request_count=st.integers(1, 10**12),
    response_us_sum=st.integers(0, 10**18),
    response_us_max=st.integers(0, 10**12),
)
made = st.builds(
    ReportLine,
    at_us=st.integers(0, LATEST_US),
    id=uuids,
    key_id=st.sampled_from(["abcdefghij", "klmnopqrst"]),
    node=st.just("node-1"),
    report=st.sampled_from([USAGE, SUMMARY]),
    format=st.sampled_from(["json", "csv"]),
    status=st.sampled_from([200, 399, 400, 503]),
    row_count=st.integers(0, 10**9),
    response_us=st.integers(0, 10**12),
    details=st.just("{}"),
)


class SumsTests(SynchronousTestCase):
    def test_what_is_added_up(self) -> None:
        other = LINE._replace(
            at_us=NOW - 5, admitted=False, request_count=2, response_us_sum=25, response_us_max=24
        )  # fmt: skip
        sums = sums_of_usage([LINE, other])
        self.assertEqual(sums, Sums(5, 3, 55, 24, NOW - 5, NOW))
        self.assertEqual((sums.refused, sums.mean_us), (2, 11))

    def test_nothing(self) -> None:
        self.assertEqual(sums_of_usage([]), Sums())
        self.assertEqual((Sums().mean_us, Sums().refused), (0, 0))
        self.assertEqual(sums_of_reports([]), ReportSums())
        self.assertEqual(ReportSums().mean_us, 0)

    def test_reports(self) -> None:
        refused = MADE._replace(at_us=NOW + 1, status=429, row_count=0, response_us=101)
        sums = sums_of_reports([MADE, refused])
        self.assertEqual(sums, ReportSums(2, 1, 5, 1001, 900, NOW, NOW + 1))
        self.assertEqual(sums.mean_us, 501)

    def test_a_report_was_refused_from_400_on(self) -> None:
        statuses = (200, 304, 399, 400, 503)
        self.assertEqual(sums_of_reports(MADE._replace(status=status) for status in statuses).refused, 2)

    @given(st.integers(0, 10**30), st.integers(1, 10**15))
    @settings(max_examples=200, deadline=None)
    def test_the_mean_is_the_nearest_whole_number(self, total: int, count: int) -> None:
        mean = mean_us(total, count)
        self.assertLessEqual(2 * abs(mean * count - total), count)

    @given(st.lists(lines, max_size=12), st.lists(lines, max_size=12), st.lists(lines, max_size=12))
    @settings(max_examples=100, deadline=None)
    def test_parts_add_up_in_any_order(
        self, one: list[UsageLine], two: list[UsageLine], three: list[UsageLine]
    ) -> None:
        a, b, c = sums_of_usage(one), sums_of_usage(two), sums_of_usage(three)
        whole = sums_of_usage([*one, *two, *three])
        self.assertEqual((a + b) + c, whole)
        self.assertEqual(a + (b + c), whole)
        self.assertEqual(c + a + b, whole)
        self.assertEqual(whole + Sums(), whole)

    @given(st.lists(made, max_size=12), st.lists(made, max_size=12), st.lists(made, max_size=12))
    @settings(max_examples=100, deadline=None)
    def test_so_do_reports(self, one: list[ReportLine], two: list[ReportLine], three: list[ReportLine]) -> None:
        a, b, c = sums_of_reports(one), sums_of_reports(two), sums_of_reports(three)
        whole = sums_of_reports([*one, *two, *three])
        self.assertEqual((a + b) + c, whole)
        self.assertEqual(a + (b + c), whole)
        self.assertEqual(c + b + a, whole)


class SummaryTests(SynchronousTestCase):
    def test_a_row_for_each_kind(self) -> None:
        summary = usage_summary()
        summary.add(
            [LINE, LINE._replace(admitted=False), LINE._replace(key_id="klmnopqrst", node="node-2", status=404)]
        )
        summary.add([LINE._replace(asset="*", source="")])
        self.assertEqual(
            summary.rows(),
            [
                (UsageKey("*", "", "lpo", "http", True), Sums(3, 3, 30, 20, NOW, NOW)),
                (UsageKey("BTC", "coinbase-ws", "lpo", "http", False), Sums(3, 0, 30, 20, NOW, NOW)),
                (UsageKey("BTC", "coinbase-ws", "lpo", "http", True), Sums(6, 6, 60, 20, NOW, NOW)),
            ],
        )
        self.assertEqual(summary.totals, Sums(12, 9, 120, 20, NOW, NOW))
        self.assertEqual(len(summary), 3)

    def test_reports_by_report_and_format(self) -> None:
        summary = report_summary()
        self.assertEqual((summary.rows(), summary.totals), ([], ReportSums()))
        summary.add([MADE, MADE._replace(format="json"), MADE])
        self.assertEqual([key for key, _ in summary.rows()], [ReportKey(USAGE, "csv"), ReportKey(USAGE, "json")])
        self.assertEqual([sums.reports for _, sums in summary.rows()], [2, 1])

    @given(st.lists(st.lists(lines, max_size=8), max_size=6), st.randoms(use_true_random=False))
    @settings(max_examples=100, deadline=None)
    def test_it_matters_not_in_which_parts_lines_come(self, parts: list[list[UsageLine]], chance: Any) -> None:
        whole = usage_summary()
        whole.add(line for part in parts for line in part)
        chance.shuffle(parts)
        in_parts = usage_summary()
        for number, part in enumerate(parts):
            if number % 2:  # as a database gives them that has added them up
                inner = usage_summary()
                inner.add(part)
                for key, sums in inner.rows():
                    in_parts.add_sums(key, sums)
            else:
                in_parts.add(part)
        self.assertEqual(in_parts.rows(), whole.rows())
        self.assertEqual(in_parts.totals, sums_of_usage([line for part in parts for line in part]))


class CutTests(SynchronousTestCase):
    marks = Marks(WHOLE, "here", written_us=NOW - SECOND)

    def test_what_was_under_way_at_the_mark_is_not_read_from_the_copy(self) -> None:
        self.assertEqual(cut_of(self.marks, "here", NOW), Cut(NOW, NOW - SECOND - OVERLAP))

    def test_a_copy_that_tells_nothing(self) -> None:
        for marks in (
            evolve(self.marks, state=BUILDING), evolve(self.marks, state=NONE), evolve(self.marks, origin="there"),
            evolve(self.marks, written_us=NOW + OVERLAP + 1), evolve(self.marks, written_us=OVERLAP - 1), Marks(),
        ):  # fmt: skip
            self.assertEqual(cut_of(marks, "here", NOW), Cut(NOW, 0), marks)

    def test_further_pages_keep_the_cut(self) -> None:
        hour = 3600 * SECOND
        self.assertEqual(cut_of(self.marks, "here", NOW, NOW - hour), Cut(NOW - hour, NOW - hour))
        self.assertEqual(cut_of(self.marks, "here", NOW, NOW - SECOND), Cut(NOW - SECOND, NOW - SECOND - OVERLAP))

    def test_no_cut_lies_in_the_future(self) -> None:
        self.assertEqual(cut_of(self.marks, "here", NOW, NOW + 1).at_us, NOW)


@st.composite
def sources(draw: st.DrawFn) -> tuple[list[UsageLine], list[UsageLine], set[str], list[int]]:
    """Lines of the copy and of the database, some of them in both, and some written after the cut."""
    places = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), unique=True, max_size=25))
    # the id names the place, so that no two lines have the same
    every = sorted(
        (LINE._replace(at_us=at, id=str(UUID(int=number * 6 + at))) for at, number in places), key=place_of
    )  # fmt: skip
    where = draw(st.lists(st.sampled_from("cdb"), min_size=len(every), max_size=len(every)))
    later = set(draw(st.lists(st.sampled_from([line.id for line in every]), max_size=5))) if every else set()
    copied = [line for line, kept in zip(every, where, strict=True) if kept in "cb"]
    written = [line for line, kept in zip(every, where, strict=True) if kept in "db"]
    return copied, written, later, draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))


class SettleTests(SynchronousTestCase):
    @given(sources())
    @settings(max_examples=300, deadline=None)
    def test_read_in_pieces_two_sources_are_one(
        self, given: tuple[list[UsageLine], list[UsageLine], set[str], list[int]]
    ) -> None:
        copied, written, later, sizes = given
        settled: list[UsageLine] = []
        held: tuple[list[UsageLine], list[UsageLine]] = ([], [])
        ahead = [list(copied), list(written)]
        turns = 0
        while ahead[0] or ahead[1] or held[0] or held[1]:
            for number in (0, 1):
                if not held[number]:
                    size = sizes[(turns + number) % len(sizes)]
                    held[number].extend(ahead[number][:size])
                    del ahead[number][:size]
            done, *left = settle(held[0], held[1], bool(ahead[0]), bool(ahead[1]), later)
            self.assertLess(len(left[0]) + len(left[1]), len(held[0]) + len(held[1]))
            settled += done
            held = (left[0], left[1])
            turns += 1
        wanted = sorted({place_of(line): line for line in [*copied, *written]}.values(), key=place_of)
        self.assertEqual(settled, [line for line in wanted if line.id not in later])

    def test_without_anything_read_nothing_is_settled(self) -> None:
        self.assertEqual(settle([], [LINE], True, False), ([], [], [LINE]))
        self.assertEqual(settle([], [LINE], False, True), ([LINE], [], []))
        self.assertEqual(settle([], [], False, False), ([], [], []))


class QueryTests(SynchronousTestCase):
    query = ReportQuery(USAGE, "abcdefghij", NOW - DAY_US, NOW + 1)

    def takes(self, line: UsageLine | ReportLine = LINE, **changes: Any) -> bool:
        return evolve(self.query, **changes).takes(line)

    def test_the_range_has_its_beginning_in_it_and_its_end_not(self) -> None:
        self.assertTrue(self.takes(from_us=NOW))
        self.assertFalse(self.takes(from_us=NOW + 1))
        self.assertFalse(self.takes(to_us=NOW))

    def test_whose(self) -> None:
        self.assertFalse(self.takes(LINE._replace(key_id=NOBODY)))
        self.assertFalse(self.takes(key_id=NOBODY))
        self.assertTrue(self.takes(LINE._replace(key_id=NOBODY), key_id=NOBODY))
        self.assertTrue(self.takes(key_id=None))

    def test_filters(self) -> None:
        self.assertTrue(self.takes(asset="BTC", source="coinbase-ws"))
        self.assertFalse(self.takes(asset="BTCX"))
        self.assertFalse(self.takes(source="coinbase-rest"))
        self.assertTrue(self.takes(MADE))

    def test_after_a_place(self) -> None:
        self.assertFalse(self.takes(after=(NOW, ID)))
        self.assertTrue(self.takes(after=(NOW, NO_ID)))
        self.assertTrue(self.takes(after=(NOW - 1, "ffffffff-ffff-ffff-ffff-ffffffffffff")))
        self.assertFalse(self.takes(MADE, after=(NOW, ID)))

    def test_where_to_begin(self) -> None:
        self.assertEqual(self.query.begins_after, (NOW - DAY_US, NO_ID))
        self.assertEqual(evolve(self.query, after=(NOW, ID)).begins_after, (NOW, ID))
        # the page before has ended with what is not kept any more
        self.assertEqual(evolve(self.query, after=(NOW - 2 * DAY_US, ID)).begins_after, (NOW - DAY_US, NO_ID))

    def test_cut_short(self) -> None:
        self.assertFalse(ReportQuery(REPORT_USAGE, None, 5, 6).is_clipped)
        self.assertTrue(ReportQuery(REPORT_USAGE, None, 5, 6, asked_from_us=4).is_clipped)


class RowTests(SynchronousTestCase):
    def test_usage(self) -> None:
        kind = UsageKind(
            b"abcdefghij", b"node-1", b"lpo", b"http", b"BTC", b"coinbase-ws", b"shelf", b"200", b"1"
        )  # fmt: skip
        row = UsageRow(ID.encode(), b"%d" % NOW, b"3", b"30", b"20", kind)
        self.assertEqual(usage_line(row), LINE)
        refused = usage_line(row._replace(kind=kind._replace(admitted=b"0", node=b"\xff")))
        self.assertEqual((refused.admitted, refused.node), (False, "\ufffd"))
        self.assertRaises(ValueError, usage_line, row._replace(at=b""))

    def test_reports(self) -> None:
        values = (b"%d" % NOW, b"abcdefghij", b"node-1", b"usage", b"csv", b"200", b"5", b"900", b"{}")
        self.assertEqual(report_line(ReportRow(ID.encode(), values)), MADE)
        self.assertRaises(ValueError, report_line, ReportRow(ID.encode(), values[:-1]))


class CalendarTests(SynchronousTestCase):
    @given(st.datetimes(datetime(1970, 1, 1), datetime(9998, 12, 31)))
    @settings(max_examples=300, deadline=None)
    def test_months(self, at: datetime) -> None:
        us = (at - datetime(1970, 1, 1)) // timedelta(microseconds=1)
        start = day_of(at.year, at.month, 1)
        self.assertEqual(month_start(us), start)
        self.assertEqual(month_end(us), start + monthrange(at.year, at.month)[1] * DAY_US)
        self.assertEqual(month_start(month_end(us)), month_end(us))
        self.assertEqual(default_from(month_end(us)), start)
        self.assertEqual(moment(us), at.isoformat(timespec="microseconds") + "Z")

    def test_edges(self) -> None:
        self.assertEqual(moment(0), "1970-01-01T00:00:00.000000Z")
        self.assertEqual(moment(LATEST_US), "9999-01-01T00:00:00.000000Z")
        self.assertEqual(day_of(2024, 2, 29) + DAY_US, day_of(2024, 3, 1))
        self.assertRaises(ValueError, day_of, 2026, 2, 29)
        self.assertEqual(default_from(day_of(2026, 11, 1)), day_of(2026, 10, 1))
        self.assertEqual(default_from(day_of(2026, 11, 1) + 1), day_of(2026, 11, 1))
