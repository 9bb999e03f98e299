"""What reports are asked for."""

from __future__ import annotations

import base64
import struct
from binascii import crc32
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.problems import CODES, Problem, render
from tbeast.codecs.reportqueries import FIRST_PAGE, MOST_FAULTS, SOURCES, Asked, cursor_of, report_query
from tbeast.domain.reports import (
    DAY_US,
    LATEST_US,
    PAGED,
    REPORT_SUMMARY,
    REPORT_USAGE,
    REPORTS,
    SUMMARY,
    USAGE,
    ReportQuery,
    day_of,
)
from tbeast.domain.syncplan import KEPT_SECONDS, SECOND
from tbeast.domain.usage import NOBODY

NOW = int(datetime(2026, 11, 22, 21, 40, tzinfo=UTC).timestamp()) * SECOND
KEPT = NOW - KEPT_SECONDS * SECOND
NOVEMBER = day_of(2026, 11, 1)
ID = "00112233-4455-6677-8899-aabbccddeeff"
KEY = "abcdefghij"

uuids = st.integers(0, 2**128 - 1).map(lambda number: str(UUID(int=number)))


def read(query: str | bytes, report: str = USAGE, key_id: str | None = KEY, now_us: int = NOW) -> Asked | Problem:
    return report_query(report, query.encode() if isinstance(query, str) else query, key_id=key_id, now_us=now_us)


def asked(query: str | bytes, report: str = USAGE, key_id: str | None = KEY, now_us: int = NOW) -> ReportQuery:
    answer = read(query, report, key_id, now_us)
    assert isinstance(answer, Asked), answer
    return answer.query


def faults(query: str | bytes, report: str = USAGE, key_id: str | None = KEY, now_us: int = NOW) -> list[tuple]:
    problem = read(query, report, key_id, now_us)
    assert isinstance(problem, Problem), problem
    assert problem.status == 400, problem
    told = problem.members["faults"]
    assert isinstance(told, list)
    for fault in told:
        assert f"{fault['parameter']}: {fault['detail']}" in problem.detail
    return [(fault["parameter"], fault["reason"]) for fault in told]


class DefaultsTests(SynchronousTestCase):
    def test_the_month_so_far(self) -> None:
        self.assertEqual(read(""), Asked(ReportQuery(USAGE, KEY, NOVEMBER, NOW, page_size=FIRST_PAGE), "json"))

    def test_formats_that_are_streamed_have_everything(self) -> None:
        for form in ("csv", "tsv", "text"):
            answer = read(f"format={form.upper()}")
            self.assertEqual(answer, Asked(ReportQuery(USAGE, KEY, NOVEMBER, NOW), form))
        self.assertEqual(asked("format=csv&page_size=7").page_size, 7)

    def test_summaries_have_no_pages(self) -> None:
        for report in (SUMMARY, REPORT_SUMMARY):
            self.assertIsNone(asked("", report).page_size)
            self.assertEqual(
                faults("page_size=5&cursor=x", report), [("page_size", "not_here"), ("cursor", "not_here")]
            )

    def test_the_first_moment_of_a_month(self) -> None:
        """There is nothing of this month yet, so it is the last one."""
        self.assertEqual(asked("", now_us=NOVEMBER).from_us, day_of(2026, 10, 1))


class RangeTests(SynchronousTestCase):
    def test_dates(self) -> None:
        query = asked("from=2026-11-03&to=2026-11-03")
        self.assertEqual((query.from_us, query.to_us), (day_of(2026, 11, 3), day_of(2026, 11, 4)))

    def test_an_end_alone(self) -> None:
        query = asked("to=2026-09-30")
        self.assertEqual((query.from_us, query.to_us), (day_of(2026, 9, 1), day_of(2026, 10, 1)))

    def test_times(self) -> None:
        noon = day_of(2026, 11, 3) + DAY_US // 2
        for text, us in (
            ("2026-11-03T12:00:00Z", noon), ("2026-11-03t12:00:00z", noon), ("2026-11-03 12:00:00Z", noon),
            ("2026-11-03T14:00:00+02:00", noon), ("2026-11-03T06:30:00-05:30", noon),
            ("2026-11-03T12:00:00-00:00", noon),
            ("2026-11-03T12:00:00.5Z", noon + 500_000), ("2026-11-03T12:00:00.000001Z", noon + 1),
            ("2026-11-03T12:00:00.0000001Z", noon + 1), ("2026-11-03T12:00:00.999999999Z", noon + SECOND),
            ("2026-11-04T01:00:00+23:59", noon - 12 * 3600 * SECOND + 3660 * SECOND),
            ("2026-11-02T23:59:60Z", noon - DAY_US // 2), ("2026-11-03T01:59:60+02:00", noon - DAY_US // 2),
        ):  # fmt: skip
            self.assertEqual(asked(urlencode({"from": text})).from_us, us, text)

    def test_a_plus_that_was_not_encoded(self) -> None:
        self.assertEqual(
            asked("from=2026-11-03T14:00:00+02:00").from_us, asked("from=2026-11-03T14:00:00%2B02:00").from_us
        )

    @given(
        st.datetimes(datetime(2026, 9, 1), datetime(2026, 11, 20)),
        st.integers(-1439, 1439),
        st.sampled_from(["seconds", "milliseconds", "microseconds"]),
    )
    @settings(max_examples=200, deadline=None)
    def test_any_time(self, at: datetime, offset: int, precision: str) -> None:
        local = at.replace(tzinfo=timezone(timedelta(minutes=offset)))
        text = local.isoformat(timespec=precision)
        wanted = (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        self.assertEqual(asked(f"from={quote(text)}").from_us, wanted)

    def test_no_times(self) -> None:
        for text in (
            "", "now", "2026-11", "2026-11-31", "2026-13-01", "2026-02-29", "20261103", "2026-11-03T12:00:00",
            "2026-11-03T12:00Z", "2026-11-03T24:00:00Z", "2026-11-03T12:60:00Z", "2026-11-03T12:00:61Z",
            "2026-11-03T12:00:60Z", "2026-11-03T12:00:00.Z", "2026-11-03T12:00:00+24:00", "2026-11-03T12:00:00+0200",
            "2026-11-03T12:00:00+02:60", " 2026-11-03", "2026-11-03\n", "0000-01-01", "-2026-11-03",
            "\u0662\u0660\u0662\u0666-11-03", "1762128000",
        ):  # fmt: skip
            for name in ("from", "to"):
                self.assertEqual(faults(urlencode({name: text})), [(name, "malformed")], text)

    def test_times_without_a_date(self) -> None:
        for text in ("0001-01-01", "1969-12-31T23:59:59Z", "9999-01-02", "9999-12-31"):
            self.assertEqual(faults(f"from={text}"), [("from", "malformed")], text)

    def test_ranges_without_anything_in_them(self) -> None:
        self.assertEqual(faults("from=2026-11-04&to=2026-11-03"), [("from", "empty_range")])
        self.assertEqual(faults("from=2026-11-04T00:00:00Z&to=2026-11-04T00:00:00Z"), [("from", "empty_range")])
        self.assertEqual(faults("from=2026-11-23"), [("from", "empty_range")])
        self.assertEqual(faults("to=1970-01-01T00:00:00Z"), [("to", "empty_range")])

    def test_an_end_in_the_future(self) -> None:
        self.assertEqual(asked("to=2027-01-01").to_us, day_of(2027, 1, 2))
        self.assertEqual(asked("to=9998-12-31").to_us, LATEST_US)
        self.assertEqual(asked("to=9999-01-01T00:00:00Z").to_us, LATEST_US)
        self.assertEqual(faults("to=9999-01-01T00:00:00.000001Z"), [("to", "malformed")])

    def test_what_is_not_kept(self) -> None:
        query = asked("from=2026-01-01")
        self.assertEqual((query.from_us, query.asked_from_us), (KEPT, day_of(2026, 1, 1)))
        self.assertTrue(query.is_clipped)
        self.assertEqual(faults("from=2026-01-01&to=2026-02-01"), [("to", "not_kept")])
        self.assertEqual(faults("to=2026-02-01"), [("to", "not_kept")])


class FilterTests(SynchronousTestCase):
    def test_assets_and_sources(self) -> None:
        query = asked("asset=btc&source=Kraken-WS", SUMMARY)
        self.assertEqual((query.asset, query.source), ("BTC", "kraken-ws"))
        self.assertEqual(asked("asset=*").asset, "*")
        self.assertEqual(asked("asset=%2a").asset, "*")
        self.assertEqual({asked(f"source={source}").source for source in SOURCES}, set(SOURCES))

    def test_no_assets_and_no_sources(self) -> None:
        for text in ("", "BTC-USD", "**", "B C", "A" * 17, "\u00df", "BTC\n", "%"):
            self.assertEqual(faults(urlencode({"asset": text})), [("asset", "malformed")], text)
        for text in ("", "kraken", "kraken-", "binance-ws", "median ", "\u212araken-ws"):
            self.assertEqual(faults(urlencode({"source": text})), [("source", "malformed")], text)

    def test_reports_have_neither(self) -> None:
        for report in (REPORT_USAGE, REPORT_SUMMARY):
            self.assertEqual(faults("asset=BTC&source=median", report), [("asset", "not_here"), ("source", "not_here")])

    def test_whose(self) -> None:
        self.assertEqual(asked("").key_id, KEY)
        self.assertEqual(asked(f"key_id={KEY}").key_id, KEY)
        self.assertEqual(faults("key_id=klmnopqrst"), [("key_id", "not_yours")])
        self.assertEqual(faults("key_id=nobody"), [("key_id", "not_yours")])
        self.assertEqual(faults("key_id="), [("key_id", "not_yours")])

    def test_the_operator_sees_all(self) -> None:
        self.assertIsNone(asked("", key_id=None).key_id)
        self.assertEqual(asked("key_id=klmnopqrst", key_id=None).key_id, "klmnopqrst")
        self.assertEqual(asked("key_id=nobody", key_id=None).key_id, NOBODY)
        for text in ("", "any", "klmnopqrstu", "klmnopqrs-"):
            self.assertEqual(faults(f"key_id={text}", key_id=None), [("key_id", "malformed")], text)

    def test_page_sizes(self) -> None:
        for size in (1, 1_000, 10_000):
            self.assertEqual(asked(f"page_size={size}").page_size, size)
        for text in ("0", "10001", "-1", "+5", "1e3", "", "5.0", "\u0665", "999999999999999999999"):
            self.assertEqual(faults(urlencode({"page_size": text})), [("page_size", "malformed")], text)

    def test_formats(self) -> None:
        for text in ("", "xml", "json,csv"):
            self.assertEqual(faults(f"format={text}"), [("format", "malformed")], text)


class FaultsTests(SynchronousTestCase):
    def test_all_at_once(self) -> None:
        self.assertEqual(
            faults("form=csv&asset=B-&asset=C&asset=D&from=x&to=y&page_size=0&source=z&format=q&cursor=u&key_id=v"),
            [
                ("form", "unknown"), ("asset", "duplicate"), ("format", "malformed"), ("key_id", "not_yours"),
                ("asset", "malformed"), ("source", "malformed"), ("page_size", "malformed"), ("from", "malformed"),
                ("to", "malformed"), ("cursor", "bad_cursor"),
            ],
        )  # fmt: skip

    def test_the_code(self) -> None:
        for query, code in (
            ("from=x", "malformed_parameter"), ("asset=A&asset=A", "duplicate_parameter"),
            ("x=1", "unknown_parameter"), ("cursor=x", "bad_cursor"), ("x=1&cursor=x", "malformed_parameter"),
            ("asset=A&asset=A&x", "malformed_parameter"),
        ):  # fmt: skip
            problem = read(query)
            assert isinstance(problem, Problem)
            self.assertEqual(problem.code, code)

    def test_very_many(self) -> None:
        problem = read("&".join(f"x{number}=1" for number in range(MOST_FAULTS + 5)))
        assert isinstance(problem, Problem)
        told = problem.members["faults"]
        assert isinstance(told, list)
        self.assertEqual(len(told), MOST_FAULTS)
        self.assertTrue(problem.detail.endswith("And 5 more."), problem.detail)

    def test_an_unknown_argument_is_told_of_once(self) -> None:
        self.assertEqual(faults("x=1&x=2&x=3"), [("x", "unknown")])
        self.assertEqual(faults("=1"), [("", "unknown")])

    def test_empty_parts_are_nothing(self) -> None:
        self.assertEqual(read("&&format=csv&"), read("format=csv"))

    @given(
        st.one_of(
            st.binary(max_size=60),
            st.lists(
                st.tuples(
                    st.sampled_from(["from", "to", "asset", "source", "page_size", "cursor", "format", "key_id"]),
                    st.one_of(st.text(max_size=30), st.sampled_from(["2026-11-01", "9999-12-31", "BTC", "5", "csv"])),
                ),
                max_size=5,
            ).map(lambda pairs: urlencode(pairs).encode()),
        ),
        st.sampled_from(REPORTS),
        st.sampled_from([None, KEY]),
    )
    @settings(max_examples=500, deadline=None)
    def test_nothing_raises(self, query: bytes, report: str, key_id: str | None) -> None:
        answer = read(query, report, key_id)
        if isinstance(answer, Problem):
            self.assertEqual(CODES[answer.code][0], 400)
            self.assertTrue(answer.detail.isprintable(), answer.detail)
            self.assertIn(b'"faults"', render(answer, "id"))
        else:
            self.assertLess(answer.query.from_us, answer.query.to_us)
            self.assertGreaterEqual(answer.query.from_us, KEPT)
            if key_id is not None:
                self.assertEqual(answer.query.key_id, key_id)


def forged(*values: object, check: int | None = None) -> str:
    body = struct.pack(">BqqqqQ16s8s", *values)
    return (
        base64.urlsafe_b64encode(body + struct.pack(">I", crc32(body) if check is None else check)).decode().rstrip("=")
    )


@st.composite
def pages(draw: st.DrawFn) -> tuple[ReportQuery, int, tuple[int, str]]:
    """A page, its cut and the place of its last line."""
    report = draw(st.sampled_from(PAGED))
    from_us = draw(st.integers(KEPT, NOW - 2))
    to_us = draw(st.integers(from_us + 1, LATEST_US))
    page = ReportQuery(
        report,
        draw(st.sampled_from([None, KEY, NOBODY])),
        from_us,
        to_us,
        draw(st.sampled_from(["", "BTC", "*"])) if report == USAGE else "",
        draw(st.sampled_from(["", *SOURCES])) if report == USAGE else "",
        draw(st.integers(1, 10_000)),
        asked_from_us=draw(st.sampled_from([from_us, from_us - 1, 0])),
    )
    return page, draw(st.integers(0, NOW)), (draw(st.integers(from_us, to_us - 1)), draw(uuids))


def text_of(page: ReportQuery, **more: object) -> str:
    given = {"page_size": page.page_size, **more}
    if page.asset:
        given["asset"] = page.asset
    if page.source:
        given["source"] = page.source
    if page.key_id == NOBODY:
        given["key_id"] = "nobody"
    return urlencode(given)


class CursorTests(SynchronousTestCase):
    page = ReportQuery(USAGE, KEY, NOVEMBER, NOW, page_size=10)
    last = (NOW - DAY_US, ID)

    def cursor(self, **changes: Any) -> str:
        return cursor_of(evolve(self.page, **changes), NOW - 5, self.last)

    @given(pages())
    @settings(max_examples=300, deadline=None)
    def test_the_next_page_goes_on_where_the_last_ended(self, given: tuple[ReportQuery, int, tuple[int, str]]) -> None:
        page, cut_us, last = given
        cursor = cursor_of(page, cut_us, last)
        key_id = KEY if page.key_id == KEY else None
        again = asked(text_of(page, cursor=cursor), page.report, key_id)
        self.assertEqual(again, evolve(page, after=last, cut_us=cut_us))
        self.assertEqual(cursor_of(again, cut_us, last), cursor)
        self.assertLess(len(cursor), 120)

    def test_the_range_stays_though_the_time_goes_on(self) -> None:
        later = NOW + 40 * DAY_US
        query = asked(f"cursor={self.cursor()}", now_us=later)
        self.assertEqual((query.from_us, query.to_us, query.cut_us), (NOVEMBER, NOW, NOW - 5))
        self.assertEqual(query.after, self.last)
        self.assertEqual(query.page_size, FIRST_PAGE)

    def test_the_size_of_the_page_and_the_format_may_change(self) -> None:
        answer = read(f"cursor={self.cursor()}&page_size=3&format=csv")
        assert isinstance(answer, Asked)
        self.assertEqual((answer.format, answer.query.page_size), ("csv", 3))
        self.assertEqual(asked(f"cursor={self.cursor()}&format=csv").page_size, FIRST_PAGE)

    def test_the_range_may_be_said_again(self) -> None:
        cursor = self.cursor(to_us=day_of(2026, 11, 23))
        self.assertEqual(
            asked(f"cursor={cursor}&from=2026-11-01&to=2026-11-22"), asked(f"cursor={cursor}")
        )  # fmt: skip
        self.assertEqual(faults(f"cursor={cursor}&from=2026-11-02"), [("cursor", "cursor_of_another_query")])
        self.assertEqual(faults(f"cursor={cursor}&to=2026-11-21"), [("cursor", "cursor_of_another_query")])

    def test_a_range_that_was_cut_short(self) -> None:
        """Said again an hour later it is shorter still, and yet the same question."""
        first = asked("from=2026-01-01")
        cursor = cursor_of(first, NOW, self.last)
        again = asked(f"from=2026-01-01&cursor={cursor}", now_us=NOW + 3600 * SECOND)
        self.assertEqual((again.from_us, again.asked_from_us), (first.from_us, first.asked_from_us))

    def test_pages_that_are_not_kept_any_more(self) -> None:
        cursor = self.cursor()
        later = self.last[0] + KEPT_SECONDS * SECOND + 1
        query = asked(f"cursor={cursor}", now_us=later)
        self.assertEqual((query.from_us, query.is_clipped), (self.last[0] + 1, True))
        self.assertEqual(faults(f"cursor={cursor}", now_us=NOW + KEPT_SECONDS * SECOND), [("cursor", "not_kept")])

    def test_of_another_question(self) -> None:
        other = [("cursor", "cursor_of_another_query")]
        cursor = self.cursor()
        self.assertEqual(faults(f"cursor={cursor}&asset=BTC"), other)
        self.assertEqual(faults(f"cursor={cursor}&source=median"), other)
        self.assertEqual(faults(f"cursor={cursor}", REPORT_USAGE), other)
        self.assertEqual(faults(f"cursor={cursor}", key_id="klmnopqrst"), other)
        self.assertEqual(faults(f"cursor={cursor}", key_id=None), other)
        self.assertEqual(faults(f"cursor={cursor}&key_id=nobody", key_id=None), other)
        self.assertEqual(asked(f"cursor={cursor}&key_id={KEY}", key_id=None), asked(f"cursor={cursor}"))
        self.assertEqual(faults(f"cursor={self.cursor(asset='BTC')}"), other)

    @given(st.integers(0, 91), st.characters(codec="ascii"))
    @settings(max_examples=300, deadline=None)
    def test_one_letter_changed(self, place: int, letter: str) -> None:
        cursor = self.cursor()
        changed = cursor[:place] + letter + cursor[place + 1 :]
        if changed != cursor:
            self.assertEqual(faults(urlencode({"cursor": changed})), [("cursor", "bad_cursor")])

    @given(st.one_of(st.text(max_size=120), st.binary(max_size=90).map(lambda b: base64.urlsafe_b64encode(b).decode())))
    @settings(max_examples=300, deadline=None)
    def test_anything(self, text: str) -> None:
        self.assertEqual(faults(urlencode({"cursor": text})), [("cursor", "bad_cursor")])

    def test_too_long_or_too_short(self) -> None:
        cursor = self.cursor()
        for text in (cursor[:-1], cursor + "A", cursor + "=", " " + cursor, cursor + "A" * 10_000):
            self.assertEqual(faults(urlencode({"cursor": text})), [("cursor", "bad_cursor")])

    numbers = st.one_of(
        st.sampled_from([0, KEPT, NOW - 2, NOW - 1, NOW, LATEST_US, LATEST_US + 1]), st.integers(-(2**63), 2**63 - 1)
    )

    @given(
        st.sampled_from([1, 1, 1, 0, 2, 255]),
        numbers,
        numbers,
        numbers,
        numbers,
        st.integers(0, 2**64 - 1),
        st.booleans(),
    )
    @settings(max_examples=500, deadline=None)
    def test_made_up(
        self, version: int, asked_from_us: int, from_us: int, to_us: int, cut_us: int, at_us: int, is_near: bool
    ) -> None:
        """Whoever makes one up sees nothing that was not there for him to see, and breaks nothing."""
        mark = base64.urlsafe_b64decode(self.cursor() + "==")[57:65]
        place = NOW - 1 if is_near else at_us
        answer = read(f"cursor={forged(version, asked_from_us, from_us, to_us, cut_us, place, bytes(16), mark)}")
        if isinstance(answer, Asked):
            query = answer.query
            self.assertEqual((version, query.key_id, query.report), (1, KEY, USAGE))
            self.assertTrue(0 <= query.asked_from_us <= query.from_us < query.to_us <= LATEST_US)
            self.assertTrue(query.after is not None and query.after[0] < query.to_us)

    def test_a_made_up_one_that_is_right_is_taken(self) -> None:
        mark = base64.urlsafe_b64decode(self.cursor() + "==")[57:65]
        values = (1, NOVEMBER, NOVEMBER, NOW, NOW - 5, self.last[0], UUID(ID).bytes, mark)
        self.assertEqual(forged(*values), self.cursor())
        self.assertEqual(faults(f"cursor={forged(*values, check=7)}"), [("cursor", "bad_cursor")])
        for place, value in (
            (0, 2), (1, -1), (1, NOVEMBER + 1), (2, NOVEMBER - 1), (3, self.last[0]), (3, LATEST_US + 1), (4, -1),
            (4, LATEST_US + 1), (5, NOVEMBER - 1), (5, NOW), (5, 2**63 + NOVEMBER),
        ):  # fmt: skip
            changed = [*values[:place], value, *values[place + 1 :]]
            self.assertEqual(faults(f"cursor={forged(*changed)}"), [("cursor", "bad_cursor")], (place, value))

    def test_what_is_no_place(self) -> None:
        self.assertRaises(ValueError, cursor_of, self.page, NOW, (NOW, "7"))
        self.assertRaises(ValueError, cursor_of, self.page, NOW, (-1, ID))
