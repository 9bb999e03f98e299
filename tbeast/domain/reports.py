"""Reports: what is asked of the records of usage, what a report consists of, and how it adds up.

There are four. C{usage} has a line for each row that the ledger has written, C{summary} adds them up by asset, source,
service, protocol and whether they were admitted. C{report-usage} has a line for each report that was made,
C{report-summary} adds those up by report and format.

The rules. A range has its beginning in it and its end not, so ranges that touch share no line. Lines are in the order
of their place, which is their time and, where times are equal, their id. All sums are of whole numbers, and the sums of
parts add up to the sum of the whole in any order; a mean is worked out of two sums when it is shown, and never added.
What counts against a quota is what the gate admitted: C{billed}.

A report is a cut: it holds what the database had at one time, which it names, and nothing that was written later. Its
further pages keep to the cut of the first, so that pages together are one report. What was written to the database well
before the mark of the copy (see L{tbeast.domain.syncplan}) may be read from the copy. Everything that was written later
is asked of the database, what came after the cut too, because the copy may have it already and cannot tell; and where
both have a line it counts once: L{settle}.

Days and months are those of UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from heapq import merge
from operator import attrgetter
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from attrs import Factory, frozen

from tbeast.domain.syncplan import NO_ID, OVERLAP_SECONDS, SECOND, WHOLE, Marks, Place, ReportRow, UsageRow

USAGE: Final = "usage"
SUMMARY: Final = "summary"
REPORT_USAGE: Final = "report-usage"
REPORT_SUMMARY: Final = "report-summary"
REPORTS: Final = (USAGE, SUMMARY, REPORT_USAGE, REPORT_SUMMARY)

PAGED: Final = (USAGE, REPORT_USAGE)
"""The reports that have pages; the others are short, and given whole."""
OF_QUESTIONS: Final = (USAGE, SUMMARY)
"""The reports of what was asked, which therefore have assets and sources."""

DAY_US: Final = 86_400 * SECOND
MOST_ON_A_PAGE: Final = 10_000

LATEST_US: Final = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) * SECOND
"""No range ends later: what is later still has no date."""

_EPOCH: Final = datetime(1970, 1, 1)  # naive, because it is written with a Z behind it
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


class UsageLine(NamedTuple):
    """One row of usage. A NamedTuple because there are millions.

    @ivar at_us: when the first of its requests was answered, in microseconds since the epoch.
    @ivar admitted: whether its requests count against the key's quota.
    """

    at_us: int
    id: str
    key_id: str
    node: str
    service: str
    protocol: str
    asset: str
    source: str
    cache_tier: str
    status: int
    admitted: bool
    request_count: int
    response_us_sum: int
    response_us_max: int


class ReportLine(NamedTuple):
    """One report that was made.

    @ivar report: one of L{REPORTS}, C{format} that in which it was given.
    @ivar status: of the answer, as in HTTP.
    @ivar row_count: how many lines it had.
    @ivar details: what else was noted, in JSON.
    """

    at_us: int
    id: str
    key_id: str
    node: str
    report: str
    format: str
    status: int
    row_count: int
    response_us: int
    details: str


Line = UsageLine | ReportLine


def usage_line(row: UsageRow) -> UsageLine:
    """Read a row, as the stores hand it over.

    @raise ValueError: when a number is none.
    """
    kind = row.kind
    key_id, node, service, protocol, asset, source, cache_tier = (
        text.decode("utf-8", "replace") for text in kind[:_WORDS]
    )
    return UsageLine(
        int(row.at), row.id.decode("ascii", "replace"), key_id, node, service, protocol, asset, source, cache_tier,
        int(kind.status), kind.admitted == b"1",
        int(row.request_count), int(row.response_us_sum), int(row.response_us_max),
    )  # fmt: skip


_WORDS: Final = 7
"""How many of a kind's values are words; a status and a truth value come after them."""


def report_line(row: ReportRow) -> ReportLine:
    """Read a row, as the stores hand it over.

    @raise ValueError: when a number is none, or there are not as many values as there should be.
    """
    at, key_id, node, report, form, status, row_count, response_us, details = (
        value.decode("utf-8", "replace") for value in row.values
    )
    return ReportLine(
        int(at), row.id.decode("ascii", "replace"), key_id, node, report, form, int(status), int(row_count),
        int(response_us), details,
    )  # fmt: skip


@frozen
class ReportQuery:
    """What is asked for.

    @ivar report: one of L{REPORTS}.
    @ivar key_id: whose lines; C{None}: everybody's; L{tbeast.domain.usage.NOBODY}: those without a known key.
    @ivar from_us: the first time in the range, in microseconds since the epoch; C{to_us} the first that is no more.
    @ivar asset: this asset alone, as the ledger names it; empty: any. So C{source}.
    @ivar page_size: no more lines than this; C{None}: all.
    @ivar after: only lines that come after this place; C{None}: from the beginning of the range on.
    @ivar cut_us: the cut of the pages before; C{None}: the first page makes its own.
    @ivar asked_from_us: the beginning that was asked for; earlier than C{from_us} if lines of that time are not kept.
    """

    report: str
    key_id: str | None
    from_us: int
    to_us: int
    asset: str = ""
    source: str = ""
    page_size: int | None = None
    after: Place | None = None
    cut_us: int | None = None
    asked_from_us: int = Factory(lambda self: self.from_us, takes_self=True)

    @property
    def is_clipped(self) -> bool:
        """Whether the beginning of what was asked for is not kept any more."""
        return self.asked_from_us < self.from_us

    @property
    def begins_after(self) -> Place:
        """The place after which to read: that of the page before, or the one before every line of the range."""
        first = (self.from_us, NO_ID)
        return first if self.after is None else max(self.after, first)

    def takes(self, line: Line) -> bool:
        """Whether a line is of this report, on this page or a later one."""
        if not self.from_us <= line.at_us < self.to_us or (self.key_id is not None and line.key_id != self.key_id):
            return False
        if self.after is not None and place_of(line) <= self.after:
            return False
        if isinstance(line, ReportLine):
            return True
        return self.asset in ("", line.asset) and self.source in ("", line.source)


place_of: Final[Callable[[Line], Place]] = attrgetter("at_us", "id")
"""Where a line stands in the order of lines."""


@frozen
class Cut:
    """What one report holds.

    @ivar at_us: what was written to the database until then, and nothing later; so far the report is complete.
    @ivar copied_us: what was written before this may be read from the copy; 0: nothing. What was written later is asked
        of the database, and where that is after the cut, L{settle} is told to leave it out.
    """

    at_us: int
    copied_us: int


def cut_of(marks: Marks, origin: str, now_us: int, cut_us: int | None = None) -> Cut:
    """Make the cut of a report.

    @param marks: how far the copy has come.
    @param origin: which database this is.
    @param now_us: what the database says the time is.
    @param cut_us: the cut of the pages before, if this is a further page.
    """
    at_us = now_us if cut_us is None else min(cut_us, now_us)
    is_good = marks.state == WHOLE and marks.origin == origin and marks.written_us <= now_us + OVERLAP_SECONDS * SECOND
    copied_us = marks.written_us - OVERLAP_SECONDS * SECOND if is_good else 0
    return Cut(at_us, min(max(copied_us, 0), at_us))


L = TypeVar("L", UsageLine, ReportLine)


def settle(
    copied: Sequence[L],
    written: Sequence[L],
    copied_goes_on: bool,
    written_goes_on: bool,
    later: Container[str] = (),
) -> tuple[list[L], list[L], list[L]]:
    """Merge what was read of the copy and of the database, as far as nothing can come in between any more.

    Both come in the order of places. If one that goes on has nothing left, more of it must be read first.

    @param copied_goes_on: whether there is more to be read of the copy, C{written_goes_on} of the database.
    @param later: the ids of lines that were written after the cut.
    @return: the lines that are settled, each once; and what is left of the copy, and of the database, to be handed in
        again with what is read next.
    """
    bounds = [
        place_of(lines[-1]) if lines else (-1, "")
        for lines, goes_on in ((copied, copied_goes_on), (written, written_goes_on))
        if goes_on
    ]
    bound = min(bounds) if bounds else None
    taken = [
        [line for line in lines if bound is None or place_of(line) <= bound] for lines in (copied, written)
    ]  # fmt: skip
    settled: list[L] = []
    before: Place | None = None
    for line in merge(*taken, key=place_of):
        place = place_of(line)
        if place != before and line.id not in later:
            settled.append(line)
        before = place
    return settled, list(copied[len(taken[0]) :]), list(written[len(taken[1]) :])


def _earliest(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _latest(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)


def mean_us(total: int, count: int) -> int:
    """What each of so many has in the mean, to the next whole number; 0 if there are none."""
    return (2 * total + count) // (2 * count) if count else 0


@frozen
class Sums:
    """What lines of usage add up to.

    @ivar billed: how many of the requests count against a quota.
    @ivar response_us_sum: the time that they took, in microseconds; C{response_us_max} the longest.
    @ivar first_us: the time of the first line; C{None}: there is none. C{last_us} that of the last.
    """

    requests: int = 0
    billed: int = 0
    response_us_sum: int = 0
    response_us_max: int = 0
    first_us: int | None = None
    last_us: int | None = None

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.requests + other.requests,
            self.billed + other.billed,
            self.response_us_sum + other.response_us_sum,
            max(self.response_us_max, other.response_us_max),
            _earliest(self.first_us, other.first_us),
            _latest(self.last_us, other.last_us),
        )

    @property
    def refused(self) -> int:
        """How many of the requests do not count."""
        return self.requests - self.billed

    @property
    def mean_us(self) -> int:
        """How long one took in the mean, to the microsecond."""
        return mean_us(self.response_us_sum, self.requests)


def sums_of_usage(lines: Iterable[UsageLine]) -> Sums:
    """Add lines up."""
    requests = billed = total = longest = 0
    first: int | None = None
    last: int | None = None
    for line in lines:
        requests += line.request_count
        if line.admitted:
            billed += line.request_count
        total += line.response_us_sum
        longest = max(longest, line.response_us_max)
        first = line.at_us if first is None or line.at_us < first else first
        last = line.at_us if last is None or line.at_us > last else last
    return Sums(requests, billed, total, longest, first, last)


@frozen
class ReportSums:
    """What reports add up to.

    @ivar refused: how many of them were not given.
    @ivar row_count: how many lines they had.
    @ivar response_us_sum: the time that they took, in microseconds; C{response_us_max} the longest.
    @ivar first_us: the time of the first; C{None}: there is none. C{last_us} that of the last.
    """

    reports: int = 0
    refused: int = 0
    row_count: int = 0
    response_us_sum: int = 0
    response_us_max: int = 0
    first_us: int | None = None
    last_us: int | None = None

    def __add__(self, other: ReportSums) -> ReportSums:
        return ReportSums(
            self.reports + other.reports,
            self.refused + other.refused,
            self.row_count + other.row_count,
            self.response_us_sum + other.response_us_sum,
            max(self.response_us_max, other.response_us_max),
            _earliest(self.first_us, other.first_us),
            _latest(self.last_us, other.last_us),
        )

    @property
    def mean_us(self) -> int:
        """How long one took in the mean, to the microsecond."""
        return mean_us(self.response_us_sum, self.reports)


def sums_of_reports(lines: Iterable[ReportLine]) -> ReportSums:
    """Add lines up."""
    made = list(lines)
    if not made:
        return ReportSums()
    return ReportSums(
        len(made),
        sum(line.status >= 400 for line in made),
        sum(line.row_count for line in made),
        sum(line.response_us for line in made),
        max(line.response_us for line in made),
        min(line.at_us for line in made),
        max(line.at_us for line in made),
    )


class UsageKey(NamedTuple):
    """What lines of usage are added up by."""

    asset: str
    source: str
    service: str
    protocol: str
    admitted: bool


class ReportKey(NamedTuple):
    """What reports are added up by."""

    report: str
    format: str


S = TypeVar("S", bound="Addable")


class Addable(Protocol):
    """Sums."""

    def __add__(self: S, other: S) -> S:
        """Both together."""


K = TypeVar("K", bound="UsageKey | ReportKey")
M = TypeVar("M", bound=Line)


class Summary(Generic[K, M, S]):
    """Lines added up by what they have in common; made by L{usage_summary} or L{report_summary}."""

    def __init__(self, key_of: Callable[[M], K], sums_of: Callable[[Iterable[M]], S]) -> None:
        self._key_of = key_of
        self._sums_of = sums_of
        self._sums: dict[K, S] = {}

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._sums)

    def add(self, lines: Iterable[M]) -> None:
        """Take in lines."""
        groups: dict[K, list[M]] = {}
        for line in lines:
            groups.setdefault(self._key_of(line), []).append(line)
        for key, group in groups.items():
            self.add_sums(key, self._sums_of(group))

    def add_sums(self, key: K, sums: S) -> None:
        """Take in what others have added up."""
        before = self._sums.get(key)
        self._sums[key] = sums if before is None else before + sums

    def rows(self) -> list[tuple[K, S]]:
        """Every key, in order, with its sums."""
        return sorted(self._sums.items(), key=lambda row: row[0])

    @property
    def totals(self) -> S:
        """What everything adds up to."""
        total: S = self._sums_of(())
        for sums in self._sums.values():
            total += sums
        return total


def usage_summary() -> Summary[UsageKey, UsageLine, Sums]:
    """Make an empty summary of usage."""
    return Summary(
        lambda line: UsageKey(line.asset, line.source, line.service, line.protocol, line.admitted), sums_of_usage
    )


def report_summary() -> Summary[ReportKey, ReportLine, ReportSums]:
    """Make an empty summary of reports."""
    return Summary(lambda line: ReportKey(line.report, line.format), sums_of_reports)


def moment(us: int) -> str:
    """Write a time, given in microseconds since the epoch: C{2026-04-12T14:23:01.123456Z}.

    @raise OverflowError: beyond the years 1 to 9999.
    """
    return (_EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds") + "Z"


def day_of(year: int, month: int, day: int) -> int:
    """When a day begins, in microseconds since the epoch.

    @raise ValueError: when there is no such day.
    """
    return (date(year, month, day).toordinal() - _EPOCH_DAY) * DAY_US


def month_start(us: int) -> int:
    """When the month begins that a time lies in."""
    day = date.fromordinal(us // DAY_US + _EPOCH_DAY)
    return day_of(day.year, day.month, 1)


def month_end(us: int) -> int:
    """When the month after it begins."""
    day = date.fromordinal(us // DAY_US + _EPOCH_DAY)
    return day_of(day.year + day.month // 12, day.month % 12 + 1, 1)


def default_from(to_us: int) -> int:
    """Where a range begins that names its end alone: with the month that it ends in."""
    return month_start(to_us - 1)
