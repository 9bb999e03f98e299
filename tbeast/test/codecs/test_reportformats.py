"""Reports as they leave the house."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.datagrams import LARGEST
from tbeast.codecs.reportcolumns import SHAPES, Opening
from tbeast.codecs.reportformats import NEXT_CURSOR, datagram, described, file_name, headers, whole, writer
from tbeast.codecs.reportqueries import CSV, FORMATS, JSON, SOURCES, TEXT, TSV, Asked, report_query
from tbeast.domain.reports import (
    DAY_US,
    REPORT_SUMMARY,
    REPORT_USAGE,
    REPORTS,
    SUMMARY,
    USAGE,
    ReportLine,
    Sums,
    UsageKey,
    UsageLine,
    moment,
    sums_of_usage,
    usage_summary,
)
from tbeast.domain.usage import NOBODY
from tbeast.test.codecs.reportrows import (
    ID,
    KEY,
    LINE,
    MADE,
    NOVEMBER,
    NOW,
    REFUSED,
    ROWS,
    any_lines,
    any_reports,
    assets,
    counts,
    in_pieces,
    opening,
    ours,
)


def us_of(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution)


def line_of(named: dict[str, Any]) -> UsageLine:
    """A row of usage out of what a CSV or TSV says, by name."""
    numbers = ("status", "request_count", "response_us_sum", "response_us_max")
    read: dict[str, Any] = {name: int(value) if name in numbers else value for name, value in named.items()}
    return UsageLine(us_of(read.pop("at")), **{**read, "admitted": {"true": True, "false": False}[read["admitted"]]})


def csv_rows(written: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(written.decode(), newline=""), strict=True))


def tsv_rows(written: bytes) -> list[dict[str, str]]:
    head, *lines = written.decode().removesuffix("\n").split("\n")
    return [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]


class JsonTests(SynchronousTestCase):
    def test_usage(self) -> None:
        written = whole(JSON, opening(page_size=2, asset="BTC", source="median"), [LINE, REFUSED], "abc")
        self.assertEqual(
            list(json.loads(written).items()),
            [
                ("report", "usage"),
                (
                    "query",
                    {
                        "from": "2026-11-01T00:00:00.000000Z", "to": "2026-12-01T00:00:00.000000Z", "key_id": KEY,
                        "asset": "BTC", "source": "median", "page_size": 2,
                    },
                ),
                ("complete_to", "2026-11-22T21:40:01.250000Z"),
                (
                    "rows",
                    [
                        {
                            "at": "2026-11-22T21:40:01.250000Z", "id": ID, "key_id": KEY, "node": "node-1",
                            "service": "lpo", "protocol": "http", "asset": "BTC", "source": "coinbase-ws",
                            "cache_tier": "shelf", "status": 200, "admitted": True, "request_count": 1234,
                            "response_us_sum": 2468, "response_us_max": 1500,
                        },
                        {
                            "at": "2026-11-22T21:40:02.250000Z", "id": ID[:-1] + "0", "key_id": KEY, "node": "node-1",
                            "service": "lpo", "protocol": "http", "asset": "", "source": "", "cache_tier": "",
                            "status": 429, "admitted": False, "request_count": 66, "response_us_sum": 132,
                            "response_us_max": 9,
                        },
                    ],
                ),
                ("row_count", 2),
                (
                    "totals",
                    {
                        "requests": 1300, "billed": 1234, "refused": 66, "response_us_mean": 2,
                        "response_us_sum": 2600, "response_us_max": 1500, "first": "2026-11-22T21:40:01.250000Z",
                        "last": "2026-11-22T21:40:02.250000Z",
                    },
                ),
                ("next_cursor", "abc"),
            ],
        )  # fmt: skip

    def test_nothing(self) -> None:
        for report in REPORTS:
            read = json.loads(whole(JSON, opening(report), []))
            self.assertEqual((read["rows"], read["row_count"], read["next_cursor"]), ([], 0, None))
            self.assertEqual(read["totals"]["first"], None)
            self.assertEqual(read["totals"]["response_us_mean"], 0)

    def test_a_row_is_a_line(self) -> None:
        lines = whole(JSON, opening(), [LINE, REFUSED]).splitlines()
        self.assertEqual([json.loads(line.rstrip(b","))["status"] for line in lines[1:3]], [200, 429])

    def test_a_report_that_was_broken_off_is_no_json(self) -> None:
        writes = writer(JSON, opening())
        self.assertRaises(ValueError, json.loads, writes.begin() + writes.rows([LINE]))

    def test_whose(self) -> None:
        self.assertEqual(described(opening(key_id=None).query)["key_id"], None)
        self.assertEqual(described(opening(key_id=NOBODY).query)["key_id"], "nobody")

    def test_a_range_that_was_cut_short(self) -> None:
        read = json.loads(whole(JSON, opening(asked_from_us=NOVEMBER - DAY_US), []))
        self.assertEqual(read["query"]["asked_from"], "2026-10-31T00:00:00.000000Z")
        self.assertIn("93 days", read["notice"])
        self.assertNotIn("notice", json.loads(whole(JSON, opening(), [])))

    def test_details_are_json_in_json(self) -> None:
        written = whole(JSON, opening(REPORT_USAGE), [MADE, MADE._replace(details="{")])
        self.assertIn(b'"details":{"from": "2026-11-01", "n": 1.50}', written)
        self.assertEqual(json.loads(written)["rows"][1]["details"], "{")
        spread = whole(JSON, opening(REPORT_USAGE), [MADE._replace(details='{\r\n"a": 1}')])
        self.assertEqual(json.loads(spread.splitlines()[1])["details"], {"a": 1})

    @given(st.lists(ours, max_size=12), st.integers(1, 5))
    @settings(max_examples=100, deadline=None)
    def test_it_says_what_it_was_given(self, lines: list[UsageLine], size: int) -> None:
        read = json.loads(in_pieces(JSON, opening(), lines, size))
        self.assertEqual([UsageLine(us_of(row.pop("at")), **row) for row in read["rows"]], lines)
        sums = sums_of_usage(lines)
        totals = read["totals"]
        self.assertEqual(
            Sums(
                *(totals[name] for name in ("requests", "billed", "response_us_sum", "response_us_max")),
                *(None if totals[name] is None else us_of(totals[name]) for name in ("first", "last")),
            ),
            sums,
        )
        self.assertEqual((totals["refused"], totals["response_us_mean"]), (sums.refused, sums.mean_us))

    @given(st.lists(any_reports, max_size=4))
    @settings(max_examples=100, deadline=None)
    def test_it_is_json_whatever_was_noted(self, made: list[ReportLine]) -> None:
        read = json.loads(whole(JSON, opening(REPORT_USAGE), made))
        for row, line in zip(read["rows"], made, strict=True):
            try:
                self.assertIn(row["details"], (json.loads(line.details), line.details))
            except (ValueError, RecursionError):
                self.assertEqual(row["details"], line.details)

    @given(st.lists(ours, max_size=30))
    @settings(max_examples=50, deadline=None)
    def test_a_summary_has_the_totals_of_its_lines(self, lines: list[UsageLine]) -> None:
        summary = usage_summary()
        summary.add(lines)
        read = json.loads(whole(JSON, opening(SUMMARY), summary.rows()))
        detail = json.loads(whole(JSON, opening(USAGE), lines))
        self.assertEqual(read["totals"], detail["totals"])
        for name in ("requests", "billed", "refused", "response_us_sum"):
            self.assertEqual(sum(row[name] for row in read["rows"]), read["totals"][name])


class CsvTests(SynchronousTestCase):
    def test_usage(self) -> None:
        self.assertEqual(
            whole(CSV, opening(), [LINE, REFUSED], "abc"),
            b"at,id,key_id,node,service,protocol,asset,source,cache_tier,status,admitted,request_count,"
            b"response_us_sum,response_us_max\r\n"
            b"2026-11-22T21:40:01.250000Z,00112233-4455-6677-8899-aabbccddeeff,abcdefghij,node-1,lpo,http,BTC,"
            b"coinbase-ws,shelf,200,true,1234,2468,1500\r\n"
            b"2026-11-22T21:40:02.250000Z,00112233-4455-6677-8899-aabbccddeef0,abcdefghij,node-1,lpo,http,,,,429,"
            b"false,66,132,9\r\n",
        )

    def test_quotes(self) -> None:
        written = whole(CSV, opening(REPORT_USAGE), [MADE])
        self.assertIn(b'"{""from"": ""2026-11-01"", ""n"": 1.50}"\r\n', written)
        self.assertEqual(csv_rows(written)[0]["details"], MADE.details)

    def test_no_value_is_empty(self) -> None:
        key = UsageKey("BTC", "", "lpo", "udp", True)
        (row,) = csv_rows(whole(CSV, opening(SUMMARY), [(key, Sums())]))
        self.assertEqual((row["first"], row["last"], row["admitted"]), ("", "", "true"))

    def test_no_cell_is_a_formula(self) -> None:
        for word in ("=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1"):
            (row,) = csv_rows(whole(CSV, opening(), [LINE._replace(node=word)]))
            self.assertEqual(row["node"], "'" + word)
            (row,) = tsv_rows(whole(TSV, opening(), [LINE._replace(node=word)]))
            self.assertTrue(row["node"].startswith("'"), row)

    @given(st.lists(ours, max_size=12), st.integers(1, 5))
    @settings(max_examples=100, deadline=None)
    def test_it_says_what_it_was_given(self, lines: list[UsageLine], size: int) -> None:
        for form, read in ((CSV, csv_rows), (TSV, tsv_rows)):
            rows = [line_of(row) for row in read(in_pieces(form, opening(), lines, size))]
            self.assertEqual(rows, lines)
            self.assertEqual(sums_of_usage(rows), sums_of_usage(lines))

    @given(st.lists(any_lines, min_size=1, max_size=5))
    @settings(max_examples=200, deadline=None)
    def test_any_words(self, lines: list[UsageLine]) -> None:
        """CSV keeps every word, but for the apostrophe; TSV keeps the cells apart."""
        rows = csv_rows(whole(CSV, opening(), lines))
        for row, line in zip(rows, lines, strict=True):
            for name in ("id", "key_id", "node", "service", "protocol", "asset", "source", "cache_tier"):
                word = getattr(line, name)
                self.assertEqual(row[name], "'" + word if word[:1] in tuple("=+-@\t\r") else word)
        self.assertEqual(len(tsv_rows(whole(TSV, opening(), lines))), len(lines))
        self.assertEqual(len(whole(TSV, opening(), lines).decode().splitlines()), len(lines) + 1)

    def test_tsv(self) -> None:
        self.assertEqual(
            whole(TSV, opening(REPORT_SUMMARY), ROWS[REPORT_SUMMARY]),
            b"report\tformat\treports\trefused\trow_count\tresponse_us_mean\tresponse_us_sum\tresponse_us_max\tfirst\t"
            b"last\nusage\tcsv\t3\t1\t2000000\t333333\t999999\t500000\t2026-11-01T00:00:00.000000Z\t"
            b"2026-11-22T21:40:01.250000Z\n",
        )

    def test_a_tab_within_a_word_is_a_space(self) -> None:
        (row,) = tsv_rows(whole(TSV, opening(), [LINE._replace(node="a\tb\r\nc\x85d\u2028e")]))
        self.assertEqual(row["node"], "a b  c d e")


class PiecesTests(SynchronousTestCase):
    def test_written_in_pieces_it_is_the_same(self) -> None:
        """But for text, whose columns follow the first piece."""
        for report, rows in ROWS.items():
            for form in (JSON, CSV, TSV):
                for size in (1, 2):
                    self.assertEqual(
                        in_pieces(form, opening(report), rows, size, "abc"), whole(form, opening(report), rows, "abc")
                    )

    def test_names_and_values_belong_together(self) -> None:
        for report, shape in SHAPES.items():
            for row in ROWS[report]:
                self.assertEqual(len(shape.values(row)), len(shape.names))
            sums = shape.sums(ROWS[report])
            self.assertEqual(len(shape.totals(sums)), len(shape.total_names))
            self.assertEqual(len(set(shape.names)), len(shape.names))


class HeadersTests(SynchronousTestCase):
    def test_csv(self) -> None:
        self.assertEqual(
            headers(CSV, opening(asked_from_us=NOVEMBER - DAY_US), "abc"),
            [
                (b"Content-Type", b"text/csv; charset=utf-8; header=present"),
                (b"Content-Disposition", b'attachment; filename="tbeast_usage_2026-11-01_2026-11-30.csv"'),
                (b"Report-From", b"2026-11-01T00:00:00.000000Z"),
                (b"Report-To", b"2026-12-01T00:00:00.000000Z"),
                (b"Report-Complete-To", b"2026-11-22T21:40:01.250000Z"),
                (b"Report-Asked-From", b"2026-10-31T00:00:00.000000Z"),
                (NEXT_CURSOR, b"abc"),
            ],
        )

    def test_shown_or_kept(self) -> None:
        shown = {form: dict(headers(form, opening()))[b"Content-Disposition"].split(b";")[0] for form in FORMATS}
        self.assertEqual(shown, {JSON: b"inline", CSV: b"attachment", TSV: b"attachment", TEXT: b"inline"})
        self.assertEqual(
            {form: dict(headers(form, opening()))[b"Content-Type"].split(b";")[0] for form in FORMATS},
            {
                JSON: b"application/json", CSV: b"text/csv", TSV: b"text/tab-separated-values", TEXT: b"text/plain",
            },
        )  # fmt: skip
        self.assertNotIn(NEXT_CURSOR, dict(headers(CSV, opening())))

    def test_names_of_files(self) -> None:
        day = opening(to_us=NOVEMBER + DAY_US).query
        self.assertEqual(file_name(TEXT, day), "tbeast_usage_2026-11-01.txt")
        self.assertEqual(file_name(JSON, evolve(day, after=(5, ID))), f"tbeast_usage_2026-11-01_after-{ID}.json")

    def test_the_longest_range(self) -> None:
        answer = report_query(SUMMARY, b"to=9998-12-31&from=2026-11-01", key_id=None, now_us=NOW)
        assert isinstance(answer, Asked)
        for form in FORMATS:
            self.assertIn(b"9998-12-31", dict(headers(form, Opening(answer.query, NOW)))[b"Content-Disposition"])
            whole(form, Opening(answer.query, NOW), ROWS[SUMMARY])


class DatagramTests(SynchronousTestCase):
    def test_all_of_it(self) -> None:
        self.assertEqual(
            json.loads(datagram(opening(SUMMARY), ROWS[SUMMARY], b"7")),
            {
                "report": "summary", "from": moment(NOVEMBER), "to": "2026-12-01T00:00:00.000000Z", "key_id": KEY,
                "complete_to": moment(NOW),
                "totals": {
                    "requests": 1300, "billed": 1234, "refused": 66, "response_us_mean": 2, "response_us_max": 1500,
                },
                "rows": [
                    {"asset": "BTC", "source": "coinbase-ws", "over": "lpo/http", "billed": 1234},
                    {"asset": "", "source": "", "over": "lpo/http", "refused": 66},
                ],
                "id": 7,
            },
        )  # fmt: skip

    def test_nothing(self) -> None:
        read = json.loads(datagram(opening(SUMMARY), []))
        self.assertEqual((read["rows"], read["totals"]["requests"]), ([], 0))
        self.assertNotIn("left_out", read)
        self.assertNotIn("id", read)

    @given(
        st.dictionaries(
            st.builds(UsageKey, assets, st.sampled_from(SOURCES), st.just("lpo"), st.just("http"), st.booleans()),
            counts,
            max_size=60,
        ),
        st.one_of(st.just(b""), st.text(max_size=64).map(lambda text: json.dumps(text).encode()), st.just(b"9" * 1200)),
    )
    @settings(max_examples=150, deadline=None)
    def test_as_many_as_fit(self, requests: dict[UsageKey, int], id_json: bytes) -> None:
        rows = [(key, Sums(count, count if key.admitted else 0)) for key, count in requests.items()]
        written = datagram(opening(SUMMARY, key_id=None, asked_from_us=0, asset="A" * 16), rows, id_json)
        self.assertLessEqual(len(written), LARGEST)
        read = json.loads(written)
        self.assertEqual(read["totals"]["requests"], sum(requests.values()))
        self.assertEqual(len(read["rows"]) + read.get("left_out", 0), len(rows))
        given = [row.get("billed", 0) + row.get("refused", 0) for row in read["rows"]]
        self.assertEqual(given, sorted(requests.values(), reverse=True)[: len(given)])
        if len(id_json) < 500:
            self.assertEqual(read.get("id"), json.loads(id_json) if id_json else None)
        if read.get("left_out"):
            self.assertGreater(len(written), LARGEST - 150)  # no room for another
