"""What the rows of each report consist of, whatever the format.

A row has whole numbers, words, truth values and times; times are RFC 3339 in UTC with microseconds. What has C{_us} in
its name is in microseconds. Summaries and totals have the mean beside the sums that it is worked out of, to the
microsecond; it is the only value that does not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from attrs import frozen

from tbeast.domain.reports import (
    REPORT_SUMMARY,
    REPORT_USAGE,
    SUMMARY,
    USAGE,
    ReportKey,
    ReportLine,
    ReportQuery,
    ReportSums,
    Sums,
    UsageKey,
    UsageLine,
    moment,
    sums_of_reports,
    sums_of_usage,
)  # fmt: skip

Value = str | int | bool | None

Row = UsageLine | ReportLine | tuple[UsageKey, Sums] | tuple[ReportKey, ReportSums]
"""A row of a report: a line, or a key with its sums."""


@frozen
class Opening:
    """What is known of a report before its first row.

    @ivar complete_to_us: everything is in it that was recorded until then.
    """

    query: ReportQuery
    complete_to_us: int


@frozen
class Shape:
    """What the rows of a report look like.

    @ivar names: of the values of a row.
    @ivar values: gives them.
    @ivar sums: adds rows up.
    @ivar total_names: of the values of sums, C{totals} gives them.
    """

    names: tuple[str, ...]
    values: Callable[[Any], Sequence[Value]]
    sums: Callable[[Iterable[Any]], Any]
    total_names: tuple[str, ...]
    totals: Callable[[Any], Sequence[Value]]


def _usage_values(line: UsageLine) -> Sequence[Value]:
    return (moment(line[0]), *line[1:])


def _report_values(line: ReportLine) -> Sequence[Value]:
    return (moment(line[0]), *line[1:])


def _moment_or_none(us: int | None) -> str | None:
    return None if us is None else moment(us)


def _usage_totals(sums: Sums) -> Sequence[Value]:
    return (
        sums.requests, sums.billed, sums.refused, sums.mean_us, sums.response_us_sum, sums.response_us_max,
        _moment_or_none(sums.first_us), _moment_or_none(sums.last_us),
    )  # fmt: skip


def _report_totals(sums: ReportSums) -> Sequence[Value]:
    return (
        sums.reports, sums.refused, sums.row_count, sums.mean_us, sums.response_us_sum, sums.response_us_max,
        _moment_or_none(sums.first_us), _moment_or_none(sums.last_us),
    )  # fmt: skip


def _summary_values(row: tuple[UsageKey, Sums]) -> Sequence[Value]:
    return (*row[0], *_usage_totals(row[1]))


def _report_summary_values(row: tuple[ReportKey, ReportSums]) -> Sequence[Value]:
    return (*row[0], *_report_totals(row[1]))


def _added(rows: Iterable[tuple[UsageKey, Sums]]) -> Sums:
    return sum((sums for _, sums in rows), Sums())


def _reports_added(rows: Iterable[tuple[ReportKey, ReportSums]]) -> ReportSums:
    return sum((sums for _, sums in rows), ReportSums())


_LAST: Final = ("response_us_mean", "response_us_sum", "response_us_max", "first", "last")
_TOTALS: Final = ("requests", "billed", "refused", *_LAST)
_REPORT_TOTALS: Final = ("reports", "refused", "row_count", *_LAST)

SHAPES: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        USAGE: Shape(("at", *UsageLine._fields[1:]), _usage_values, sums_of_usage, _TOTALS, _usage_totals),
        SUMMARY: Shape((*UsageKey._fields, *_TOTALS), _summary_values, _added, _TOTALS, _usage_totals),
        REPORT_USAGE: Shape(
            ("at", *ReportLine._fields[1:]), _report_values, sums_of_reports, _REPORT_TOTALS, _report_totals
        ),
        REPORT_SUMMARY: Shape(
            (*ReportKey._fields, *_REPORT_TOTALS), _report_summary_values, _reports_added, _REPORT_TOTALS,
            _report_totals,
        ),
    }
)  # fmt: skip
"""By report."""
