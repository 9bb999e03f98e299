"""Reports as tables in plain text."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.reportformats import whole, writer
from tbeast.codecs.reportqueries import TEXT
from tbeast.domain.reports import (
    DAY_US,
    REPORT_SUMMARY,
    REPORT_USAGE,
    SUMMARY,
    USAGE,
    UsageLine,
)
from tbeast.domain.usage import NOBODY
from tbeast.test.codecs.reportrows import (
    KEY,
    LINE,
    NOVEMBER,
    REFUSED,
    ROWS,
    any_lines,
    in_pieces,
    opening,
    ours,
)


class TextTests(SynchronousTestCase):
    def test_usage(self) -> None:
        self.assertEqual(
            whole(TEXT, opening(asset="BTC", source="median"), [LINE, REFUSED], "abc").decode().splitlines(),
            [
                "Usage, key abcdefghij, asset BTC, source median",
                "from 2026-11-01 00:00:00 to 2026-12-01 00:00:00 UTC",
                "complete to 2026-11-22 21:40:01 UTC",
                "",
                "time                 asset   source          over      tier    status  billed   requests    mean ms"
                "      max ms",
                "-------------------  ------  --------------  --------  ------  ------  ------  ---------  ---------"
                "  ----------",
                "2026-11-22 21:40:01  BTC     coinbase-ws     lpo/http  shelf   200     yes         1,234      0.002"
                "       1.500",
                "2026-11-22 21:40:02  -       -               lpo/http  -       429     no             66      0.002"
                "       0.009",
                "-------------------  ------  --------------  --------  ------  ------  ------  ---------  ---------"
                "  ----------",
                "total                                                                              1,300      0.002"
                "       1.500",
                "",
                "1,300 requests: 1,234 billed, 66 refused; 0.002 ms in the mean, 1.500 ms at most.",
                "There is more: cursor=abc",
            ],
        )

    def test_summary(self) -> None:
        self.assertEqual(
            whole(TEXT, opening(SUMMARY), ROWS[SUMMARY]).decode().splitlines()[4:],
            [
                "asset  source       over      requests  billed  refused    mean ms      max ms  first           "
                "  last",
                "-----  -----------  --------  --------  ------  -------  ---------  ----------  ----------------"
                "  ----------------",
                "BTC    coinbase-ws  lpo/http     1,234   1,234        0      0.002       1.500  2026-11-22 21:40"
                "  2026-11-22 21:40",
                "-      -            lpo/http        66       0       66      0.002       0.009  2026-11-22 21:40"
                "  2026-11-22 21:40",
                "-----  -----------  --------  --------  ------  -------  ---------  ----------  ----------------"
                "  ----------------",
                "total                            1,300   1,234       66      0.002       1.500  2026-11-22 21:40"
                "  2026-11-22 21:40",
                "",
                "1,300 requests: 1,234 billed, 66 refused; 0.002 ms in the mean, 1.500 ms at most.",
            ],
        )

    def test_reports(self) -> None:
        self.assertEqual(
            whole(TEXT, opening(REPORT_USAGE, key_id=None), ROWS[REPORT_USAGE]).decode().splitlines()[4:],
            [
                "time                 key         report          format  status       rows          ms",
                "-------------------  ----------  --------------  ------  ------  ---------  ----------",
                "2026-11-22 21:40:01  abcdefghij  usage           csv     200     1,000,000  12,345.678",
                "-------------------  ----------  --------------  ------  ------  ---------  ----------",
                "total                                                            1,000,000",
                "",
                "1 report: 1 given, 0 refused; 12,345.678 ms in the mean, 12,345.678 ms at most.",
            ],
        )

    def test_reports_added_up(self) -> None:
        rule = "------  ------  -------  -------  ---------  ---------  ----------  ----------------  " + "-" * 16
        sums = "3        1  2,000,000    333.333     500.000  2026-11-01 00:00  2026-11-22 21:40"
        self.assertEqual(
            whole(TEXT, opening(REPORT_SUMMARY), ROWS[REPORT_SUMMARY]).decode().splitlines()[4:],
            [
                "report  format  reports  refused       rows    mean ms      max ms  first             last",
                rule,
                f"usage   csv           {sums}",
                rule,
                f"total                 {sums}",
                "",
                "3 reports: 2 given, 1 refused; 333.333 ms in the mean, 500.000 ms at most.",
            ],
        )

    def test_whose_is_said_once_or_in_every_row(self) -> None:
        for report in (USAGE, REPORT_USAGE):
            one = whole(TEXT, opening(report), ROWS[report]).decode()
            every = whole(TEXT, opening(report, key_id=None), ROWS[report]).decode()
            self.assertEqual((one.count(KEY), every.count(KEY)), (1, len(ROWS[report])))
            self.assertIn("all keys", every)
        self.assertIn("requests without a known key", whole(TEXT, opening(key_id=NOBODY), []).decode())

    def test_nothing(self) -> None:
        for report, said in ((SUMMARY, "Nothing was asked."), (REPORT_USAGE, "No report was made.")):
            self.assertEqual(whole(TEXT, opening(report), []).decode().splitlines()[-1], said)

    def test_a_range_that_was_cut_short(self) -> None:
        said = whole(TEXT, opening(asked_from_us=NOVEMBER - DAY_US), []).decode()
        self.assertIn("asked for from 2026-10-31 00:00:00, but only 93 days are kept\n", said)

    def test_wider_than_the_first_rows(self) -> None:
        """It is written in full, and the rows before stay as they are."""
        writes = writer(TEXT, opening())
        first = writes.rows([LINE])
        wide = LINE._replace(asset="A" * 16, request_count=10**15)
        later = writes.rows([wide])
        self.assertIn(b"A" * 16, later)
        self.assertIn(b"1,000,000,000,000,000", later)
        self.assertEqual(first, writer(TEXT, opening()).rows([LINE]))

    @given(st.lists(any_lines, min_size=1, max_size=5), st.integers(1, 3))
    @settings(max_examples=100, deadline=None)
    def test_a_row_is_a_line_whatever_its_words(self, lines: list[UsageLine], size: int) -> None:
        said = in_pieces(TEXT, opening(), lines, size).decode()
        self.assertEqual(len(said.splitlines()), 4 + 2 + len(lines) + 4)
        self.assertTrue(said.replace("\n", "").isprintable())

    @given(st.lists(ours, min_size=1, max_size=20))
    @settings(max_examples=100, deadline=None)
    def test_columns_stand_under_each_other(self, lines: list[UsageLine]) -> None:
        said = whole(TEXT, opening(key_id=None), lines).decode().splitlines()[4:]
        rule = said[1]
        gaps = [place for place, letter in enumerate(rule) if letter == " "]
        for row in (*said[: len(lines) + 2], said[len(lines) + 3]):
            self.assertLessEqual(len(row), len(rule))
            for gap in gaps:
                self.assertEqual(row.ljust(len(rule))[gap], " ", row)
