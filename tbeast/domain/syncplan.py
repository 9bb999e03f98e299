"""The sync job's decisions: how far the copy of usage in the shared cache can be trusted, and what is to be read next.

What lies in the shared cache, all of it copied from the database and none of it the only copy:

  - C{usage_log:<uuid>}, a Hash of L{USAGE_FIELDS}, for each row of usage; C{at} is in microseconds since the epoch.
  - C{usage_logs:index}, C{usage_logs:api_key:<key id>} and C{usage_logs:asset:<ASSET>}: Sorted Sets of those uuids by
    time in milliseconds. A row without a key, or without an asset, is not in the sets of keys, or of assets.
  - C{report_usage:<id>}, a Hash of L{REPORT_FIELDS}, for each report that was made.
  - C{sync:marks}, a Hash: how far all this has come (L{Marks}).

Nothing is kept for longer than L{KEPT_SECONDS}.

The rules. The copy is built anew from the oldest row on when there are no marks, when it has fewer entries than the
marks say, when hashes are missing behind the entries, when the marks are of another database, lie in the future or
are too old, and when that is asked for; whoever reads the copy must not do so while the marks say that it is being
built. Otherwise the rows that were written since the mark are read, from L{OVERLAP_SECONDS} before it on, because rows
may have been under way when it was set. Everything is read in chunks, by position and not by number, and the marks move
after a chunk was written: whoever is interrupted goes on where he was, and writing a row twice leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import floor
from typing import Final, Generic, NamedTuple, TypeVar

from attrs import evolve, frozen

from tbeast.domain.keys import KeyRecord

KEPT_SECONDS: Final = 93 * 86_400
OVERLAP_SECONDS: Final = 300
REPORTS_OVERLAP_SECONDS: Final = 86_400
OLDEST_MARK_SECONDS: Final = 3 * 86_400
"""A mark older than this is not caught up with from; building anew is the shorter way."""
SECOND: Final = 1_000_000
"""In microseconds."""

FIRST_WINDOW: Final = 60 * SECOND
LEAST_WINDOW: Final = SECOND // 10
MOST_WINDOW: Final = 3600 * SECOND

NO_ID: Final = "00000000-0000-0000-0000-000000000000"
"""Comes before every id."""

VERSION: Final = "1"
"""Of what is written; marks of another version are no marks."""

NONE: Final = "none"
BUILDING: Final = "building"
WHOLE: Final = "whole"

USAGE_FIELDS: Final = (
    "at", "request_count", "response_us_sum", "response_us_max",
    "key_id", "node", "service", "protocol", "asset", "source", "cache_tier", "status", "admitted",
)  # fmt: skip
REPORT_FIELDS: Final = ("at", "key_id", "node", "report", "format", "status", "row_count", "response_us", "details")

INDEX: Final = "usage_logs:index"
KEY_INDEX: Final = "usage_logs:api_key:"
ASSET_INDEX: Final = "usage_logs:asset:"
USAGE_LOG: Final = "usage_log:"
REPORT: Final = "report_usage:"
MARKS: Final = "sync:marks"


class UsageKind(NamedTuple):
    """What rows have in common, as bytes ready for the cache; one object for many rows. See L{USAGE_FIELDS}."""

    key_id: bytes
    node: bytes
    service: bytes
    protocol: bytes
    asset: bytes
    source: bytes
    cache_tier: bytes
    status: bytes
    admitted: bytes


class UsageRow(NamedTuple):
    """One row of usage, as bytes ready for the cache. A NamedTuple because there are millions.

    @ivar id: a uuid, 36 characters.
    @ivar at: in microseconds since the epoch, in digits.
    """

    id: bytes
    at: bytes
    request_count: bytes
    response_us_sum: bytes
    response_us_max: bytes
    kind: UsageKind


class ReportRow(NamedTuple):
    """One report that was made.

    @ivar values: in the order of L{REPORT_FIELDS}.
    """

    id: bytes
    values: tuple[bytes, ...]

    @property
    def at(self) -> bytes:
        """When, in microseconds since the epoch, in digits."""
        return self.values[0]


@frozen
class Grant:
    """The job is ours.

    @ivar origin: which database this is.
    @ivar now_us: what it says the time is.
    """

    origin: str
    now_us: int


@frozen
class Held:
    """The job is not ours.

    @ivar node: who has it, or had it last.
    @ivar finished: whether it was finished already, as late as was asked for.
    """

    node: str
    finished: bool


@frozen
class Tidied:
    """What was done in the database itself.

    @ivar partitions: how many partitions of usage were dropped.
    @ivar report_counts: how many monthly counts of reports were deleted, C{reports} how many reports.
    @ivar keys: how many keys began the month anew.
    @ivar more: whether there is more to do.
    """

    partitions: int = 0
    report_counts: int = 0
    reports: int = 0
    keys: int = 0
    more: bool = False

    def __add__(self, other: Tidied) -> Tidied:
        return Tidied(
            self.partitions + other.partitions, self.report_counts + other.report_counts,
            self.reports + other.reports, self.keys + other.keys, other.more,
        )  # fmt: skip


Place = tuple[int, str]
"""A time in microseconds since the epoch, and an id: where in their order a walk over rows is."""


R = TypeVar("R")


@frozen
class Chunk(Generic[R]):
    """Some rows.

    @ivar last: the place of the last of them; C{None} if there are none.
    """

    rows: Sequence[R]
    last: Place | None


@frozen
class Marks:
    """How far the copy has come.

    @ivar state: L{NONE}; L{BUILDING}: it is being built, and tells nothing for sure; L{WHOLE}: every row is in it that
        was written before C{written_us}.
    @ivar origin: which database it is a copy of.
    @ivar began_us: when the building began.
    @ivar at: how far the building is.
    @ivar reports_us: reports made before this are in the copy.
    @ivar index: how many rows it has at least; 0 while it is trimmed, as are the next.
    @ivar by_key: how many entries all sets of keys have at least, C{by_asset} those of assets.
    """

    state: str = NONE
    origin: str = ""
    began_us: int = 0
    at: Place = (0, NO_ID)
    written_us: int = 0
    reports_us: int = 0
    index: int = 0
    by_key: int = 0
    by_asset: int = 0

    def fields(self) -> dict[str, str]:
        """How they lie in the cache."""
        return {
            "version": VERSION,
            "state": self.state,
            "origin": self.origin,
            "began_us": str(self.began_us),
            "at_us": str(self.at[0]),
            "at_id": self.at[1],
            "written_us": str(self.written_us),
            "reports_us": str(self.reports_us),
            "index": str(self.index),
            "by_key": str(self.by_key),
            "by_asset": str(self.by_asset),
        }


def read_marks(fields: Mapping[str, str]) -> Marks:
    """Read what lies in the cache; what cannot be read is no mark."""
    try:
        if (
            fields["version"] != VERSION
            or fields["state"] not in (BUILDING, WHOLE)
            or len(fields["at_id"]) != len(NO_ID)
        ):
            return Marks()
        return Marks(
            fields["state"], fields["origin"], int(fields["began_us"]), (int(fields["at_us"]), fields["at_id"]),
            *(int(fields[name]) for name in ("written_us", "reports_us", "index", "by_key", "by_asset")),
        )  # fmt: skip
    except (KeyError, ValueError):
        return Marks()


@frozen
class Survey:
    """What the cache has of the copy.

    @ivar index: how many rows are in the index.
    @ivar by_key: how many entries all sets of keys have, C{by_asset} those of assets.
    @ivar looked_for: how many hashes were looked for, of rows in the index, and how many of them were not there.
    """

    index: int
    by_key: int
    by_asset: int
    looked_for: int = 0
    missing: int = 0


@frozen
class Trimmed:
    """What the cache has after what was too old is gone.

    @ivar removed: how many rows left the index; for the others see L{Survey}.
    """

    removed: int
    index: int
    by_key: int
    by_asset: int


@frozen
class Building:
    """A walk over all rows in the order of their time.

    @ivar after: it goes on after this place.
    @ivar until_us: rows that were written at this time or later are left out.
    """

    after: Place
    until_us: int


@frozen
class CatchingUp:
    """A walk over rows in the order in which they were written, within windows of time.

    The database finds what was written within a window of time quickly, and sorts what it finds; so a window is made
    narrower while chunks are full, and wider while they are not.

    @ivar after: it goes on after this place.
    @ivar until_us: and ends before this time.
    """

    after: Place
    until_us: int
    window_us: int = FIRST_WINDOW

    @property
    def bound_us(self) -> int:
        """The end of the window."""
        return min(self.after[0] + self.window_us, self.until_us)


Walk = Building | CatchingUp


@frozen
class Plan:
    """What is to be done about the copy of usage.

    @ivar why: in a few words, for the log.
    @ivar marks: what is to be noted before anything else.
    @ivar forget: whether the sets are to be dropped first.
    @ivar building: the walk that builds the copy; C{None}: there is no need.
    """

    why: str
    marks: Marks
    forget: bool
    building: Building | None


def plan(marks: Marks, survey: Survey, origin: str, now_us: int, full: bool = False) -> Plan:
    """Decide what is to be done.

    @param origin: which database this is.
    @param now_us: what the database says the time is.
    @param full: whether to build anew in any case.
    """
    why = "it was asked for" if full else _doubt(marks, survey, origin, now_us)
    if why is None and marks.state == WHOLE:
        return Plan("", marks, False, None)
    if why is None and marks.at != (0, NO_ID):
        return Plan(
            "the building that was interrupted goes on", marks, False,
            Building(_not_before(marks.at, now_us), marks.began_us),
        )  # fmt: skip
    fresh = Marks(BUILDING, origin, began_us=now_us)
    return Plan(
        why or "the building that was interrupted begins again", fresh, True,
        Building(_not_before((0, NO_ID), now_us), now_us),
    )  # fmt: skip


def _doubt(marks: Marks, survey: Survey, origin: str, now_us: int) -> str | None:
    """Why what the marks say does not hold; C{None}: it does."""
    if marks.state == NONE:
        return "there are no marks"
    if marks.origin != origin:
        return "the marks are of another database"
    since = marks.written_us if marks.state == WHOLE else marks.began_us
    if since > now_us + OVERLAP_SECONDS * SECOND:
        return "the marks lie in the future"
    if since < now_us - OLDEST_MARK_SECONDS * SECOND:
        return "the marks are too old"
    for what, there, said in (
        ("the index", survey.index, marks.index),
        ("the sets of keys", survey.by_key, marks.by_key),
        ("the sets of assets", survey.by_asset, marks.by_asset),
    ):
        if there < said:
            return f"entries are missing in {what}: {there:,} of {said:,}"
    if survey.missing:
        return f"rows are missing: {survey.missing} of {survey.looked_for} that were looked for"
    return None


def _not_before(place: Place, now_us: int) -> Place:
    return max(place, (cutoff_us(now_us), NO_ID))


def cutoff_us(now_us: int) -> int:
    """What is older than this is not kept."""
    return now_us - KEPT_SECONDS * SECOND


def caught_up_from(marks: Marks, now_us: int) -> CatchingUp:
    """The walk that brings a copy up to date once it was built."""
    since = marks.written_us if marks.state == WHOLE else marks.began_us
    return CatchingUp((since - OVERLAP_SECONDS * SECOND, NO_ID), now_us)


def next_building(walk: Building, chunk: Chunk[R], limit: int) -> Building | None:
    """Where a walk goes on after a chunk for which C{limit} rows were asked; C{None}: it is over."""
    if chunk.last is None or len(chunk.rows) < limit:
        return None
    return evolve(walk, after=chunk.last)


def next_catching_up(walk: CatchingUp, chunk: Chunk[R], limit: int) -> CatchingUp | None:
    """See L{next_building}."""
    if chunk.last is not None and len(chunk.rows) >= limit:
        return evolve(walk, after=chunk.last, window_us=max(LEAST_WINDOW, walk.window_us // 2))
    if walk.bound_us >= walk.until_us:
        return None
    window = walk.window_us if 2 * len(chunk.rows) >= limit else min(MOST_WINDOW, walk.window_us * 2)
    return evolve(walk, after=(walk.bound_us, NO_ID), window_us=window)


@frozen
class Entries:
    """Rows laid out by the sets that they belong to: each a list of score and id, in turns.

    @ivar by_key: by key id, C{by_asset} by asset; rows without one are left out.
    """

    index: list[bytes]
    by_key: Mapping[bytes, list[bytes]]
    by_asset: Mapping[bytes, list[bytes]]


def entries_of(rows: Iterable[UsageRow]) -> Entries:
    """Lay rows out."""
    index: list[bytes] = []
    by_key: dict[bytes, list[bytes]] = {}
    by_asset: dict[bytes, list[bytes]] = {}
    for row in rows:
        kind = row.kind
        entry = (row.at[:-3], row.id)
        index += entry
        if kind.key_id:
            try:
                by_key[kind.key_id] += entry
            except KeyError:
                by_key[kind.key_id] = [*entry]
        if kind.asset:
            try:
                by_asset[kind.asset] += entry
            except KeyError:
                by_asset[kind.asset] = [*entry]
    return Entries(index, by_key, by_asset)


def reports_from(marks: Marks, now_us: int) -> Place:
    """After which place the reports are to be read, in the order of their time."""
    return max(cutoff_us(now_us), marks.reports_us - REPORTS_OVERLAP_SECONDS * SECOND), NO_ID


def used_of(records: Iterable[KeyRecord], month: str) -> dict[str, int]:
    """What each good key has used of a month, by key id; those that have used nothing are left out."""
    return {
        record.account.key_id: record.current_usage
        for record in records
        if record.usage_month == month and record.current_usage and not record.revoked
    }


def latest_due(now: float, hour: int) -> float:
    """When the job was to be done last.

    @param hour: of the day, in UTC.
    @return: seconds since the epoch.
    """
    due = floor(now / 86_400) * 86_400 + hour * 3600
    return float(due if due <= now else due - 86_400)


def month_of(now_us: int) -> str:
    """The calendar month in UTC, C{YYYY-MM}."""
    moment = datetime.fromtimestamp(now_us // SECOND, UTC)
    return f"{moment.year:04}-{moment.month:02}"
