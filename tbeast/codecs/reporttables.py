"""Reports as a table in plain text, for a person in a terminal.

It is written row by row, so the width of a column is that of the widest value among the first rows, and no less than
what is usual; a later value that is wider pushes its own row to the right, and nothing is ever cut off. Words stand on
the left, numbers on the right with commas between thousands. Times are UTC to the second, durations milliseconds to the
microsecond. Ids of rows and names of nodes are left out: who wants them takes another format. Where there is no asset,
source, tier or key stands a C{-}. What cannot be printed is a C{?}, so no value can move the terminal's cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from attrs import frozen

from tbeast.codecs.reportcolumns import SHAPES, Opening
from tbeast.domain.reports import (
    REPORT_SUMMARY,
    REPORT_USAGE,
    SUMMARY,
    USAGE,
    ReportKey,
    ReportLine,
    ReportSums,
    Sums,
    UsageKey,
    UsageLine,
    moment,
)
from tbeast.domain.syncplan import KEPT_SECONDS
from tbeast.domain.usage import NOBODY

GAP: Final = "  "


@frozen
class Column:
    """One column.

    @ivar usual: how wide it is at least, beside its heading.
    @ivar is_number: whether values stand on the right.
    """

    heading: str
    usual: int = 0
    is_number: bool = False


@frozen
class _Table:
    title: str
    nothing: str
    columns: tuple[Column, ...]
    cells: Callable[[Any], Sequence[str]]
    total_cells: Callable[[Any], Sequence[str]]
    sentence: Callable[[Any], str]


class TextWriter:
    """Writes a report as text, in pieces: L{begin} once, L{rows} as often as there are some, and L{end} once."""

    def __init__(self, opening: Opening) -> None:
        query = opening.query
        self._opening = opening
        self._table = _TABLES[query.report]
        self._shape = SHAPES[query.report]
        # whose a line is goes without saying where all are the same key's
        self._drops = 1 if query.report in (USAGE, REPORT_USAGE) and query.key_id is not None else 0
        self._columns = self._kept(self._table.columns)
        self._widths: list[int] = []
        self._sums = self._shape.sums(())

    def begin(self) -> bytes:
        """What the report is of."""
        query = self._opening.query
        if query.key_id is None:
            whose = "all keys"
        else:
            whose = "requests without a known key" if query.key_id == NOBODY else f"key {query.key_id}"
        said = [f"{self._table.title}, {whose}"]
        if query.asset:
            said.append(f"asset {query.asset}")
        if query.source:
            said.append(f"source {query.source}")
        lines = [", ".join(said), f"from {_second(query.from_us)} to {_second(query.to_us)} UTC"]
        if query.is_clipped:
            asked = _second(query.asked_from_us)
            lines.append(f"asked for from {asked}, but only {KEPT_SECONDS // 86_400} days are kept")
        lines.append(f"complete to {_second(self._opening.complete_to_us)} UTC")
        return _encoded([*lines, ""])

    def rows(self, rows: Sequence[Any]) -> bytes:
        """Write rows."""
        if not rows:
            return b""
        self._sums = self._sums + self._shape.sums(rows)
        cells = [self._kept(tuple(map(_printable, self._table.cells(row)))) for row in rows]
        lines = [] if self._widths else self._head(cells)
        lines += [self._line(row) for row in cells]
        return _encoded(lines)

    def end(self, next_cursor: str = "") -> bytes:
        """Write what everything adds up to.

        @param next_cursor: leads to the next page; empty: there is none.
        """
        if not self._widths:
            lines = [self._table.nothing]
        else:
            lines = [
                self._rule(),
                self._line(self._kept(tuple(self._table.total_cells(self._sums)))),
                "",
                self._table.sentence(self._sums),
            ]
        if next_cursor:
            lines.append(f"There is more: cursor={next_cursor}")
        return _encoded(lines)

    def _kept(self, cells: tuple[Any, ...]) -> tuple[Any, ...]:
        return (cells[0], *cells[1 + self._drops :])

    def _head(self, cells: Sequence[Sequence[str]]) -> list[str]:
        """Settle the widths by the first rows, and write the headings."""
        totals = self._kept(tuple(self._table.total_cells(self._sums)))
        self._widths = [
            max(column.usual, len(column.heading), *(len(row[place]) for row in (totals, *cells)))
            for place, column in enumerate(self._columns)
        ]
        return [self._line([column.heading for column in self._columns]), self._rule()]

    def _rule(self) -> str:
        return GAP.join("-" * width for width in self._widths)

    def _line(self, cells: Sequence[str]) -> str:
        return GAP.join(
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for cell, width, column in zip(cells, self._widths, self._columns, strict=True)
        ).rstrip()


def _encoded(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def _second(us: int) -> str:
    return moment(us)[:19].replace("T", " ")


def _minute(us: int | None) -> str:
    return "" if us is None else _second(us)[:16]


def _ms(us: int) -> str:
    return f"{us // 1000:,}.{us % 1000:03}"


def _word(text: str) -> str:
    return text or "-"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _usage_cells(line: UsageLine) -> Sequence[str]:
    mean = (
        _ms((2 * line.response_us_sum + line.request_count) // (2 * line.request_count)) if line.request_count else ""
    )
    return (
        _second(line.at_us), _word(line.key_id), _word(line.asset), _word(line.source),
        f"{line.service}/{line.protocol}", _word(line.cache_tier), str(line.status),
        "yes" if line.admitted else "no", f"{line.request_count:,}", mean, _ms(line.response_us_max),
    )  # fmt: skip


def _usage_total_cells(sums: Sums) -> Sequence[str]:
    return (
        "total", "", "", "", "", "", "", "", f"{sums.requests:,}", _ms(sums.mean_us), _ms(sums.response_us_max),
    )  # fmt: skip


def _usage_sentence(sums: Sums) -> str:
    return (
        f"{_counted(sums.requests, 'request')}: {sums.billed:,} billed, {sums.refused:,} refused;"
        f" {_ms(sums.mean_us)} ms in the mean, {_ms(sums.response_us_max)} ms at most."
    )


def _summary_cells(row: tuple[UsageKey, Sums]) -> Sequence[str]:
    key, sums = row
    return (
        _word(key.asset), _word(key.source), f"{key.service}/{key.protocol}", f"{sums.requests:,}", f"{sums.billed:,}",
        f"{sums.refused:,}", _ms(sums.mean_us), _ms(sums.response_us_max), _minute(sums.first_us),
        _minute(sums.last_us),
    )  # fmt: skip


def _summary_total_cells(sums: Sums) -> Sequence[str]:
    return (
        "total", "", "", f"{sums.requests:,}", f"{sums.billed:,}", f"{sums.refused:,}", _ms(sums.mean_us),
        _ms(sums.response_us_max), _minute(sums.first_us), _minute(sums.last_us),
    )  # fmt: skip


def _report_cells(line: ReportLine) -> Sequence[str]:
    return (
        _second(line.at_us), _word(line.key_id), line.report, line.format, str(line.status), f"{line.row_count:,}",
        _ms(line.response_us),
    )  # fmt: skip


def _report_total_cells(sums: ReportSums) -> Sequence[str]:
    return ("total", "", "", "", "", f"{sums.row_count:,}", "")


def _report_sentence(sums: ReportSums) -> str:
    return (
        f"{_counted(sums.reports, 'report')}: {sums.reports - sums.refused:,} given, {sums.refused:,} refused;"
        f" {_ms(sums.mean_us)} ms in the mean, {_ms(sums.response_us_max)} ms at most."
    )


def _report_summary_cells(row: tuple[ReportKey, ReportSums]) -> Sequence[str]:
    return (row[0].report, row[0].format, *_report_sum_cells(row[1]))


def _report_summary_total_cells(sums: ReportSums) -> Sequence[str]:
    return ("total", "", *_report_sum_cells(sums))


def _report_sum_cells(sums: ReportSums) -> Sequence[str]:
    return (
        f"{sums.reports:,}", f"{sums.refused:,}", f"{sums.row_count:,}", _ms(sums.mean_us), _ms(sums.response_us_max),
        _minute(sums.first_us), _minute(sums.last_us),
    )  # fmt: skip


def _number(heading: str, usual: int = 0) -> Column:
    return Column(heading, usual, is_number=True)


_SPAN: Final = (_number("mean ms", 9), _number("max ms", 10))
_TIMES: Final = (Column("first"), Column("last"))

_TABLES: Final[Mapping[str, _Table]] = MappingProxyType(
    {
        USAGE: _Table(
            "Usage", "Nothing was asked.",
            (
                Column("time"), Column("key"), Column("asset", 6), Column("source", 14), Column("over", 8),
                Column("tier", 6), Column("status"), Column("billed"), _number("requests", 9), *_SPAN,
            ),
            _usage_cells, _usage_total_cells, _usage_sentence,
        ),
        SUMMARY: _Table(
            "Summary of usage", "Nothing was asked.",
            (
                Column("asset"), Column("source"), Column("over"), _number("requests"), _number("billed"),
                _number("refused"), *_SPAN, *_TIMES,
            ),
            _summary_cells, _summary_total_cells, _usage_sentence,
        ),
        REPORT_USAGE: _Table(
            "Reports", "No report was made.",
            (
                Column("time"), Column("key"), Column("report", 14), Column("format"), Column("status"),
                _number("rows", 9), _number("ms", 10),
            ),
            _report_cells, _report_total_cells, _report_sentence,
        ),
        REPORT_SUMMARY: _Table(
            "Summary of reports", "No report was made.",
            (
                Column("report"), Column("format"), _number("reports"), _number("refused"), _number("rows"), *_SPAN,
                *_TIMES,
            ),
            _report_summary_cells, _report_summary_total_cells, _report_sentence,
        ),
    }
)  # fmt: skip
