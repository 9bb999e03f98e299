"""The ledger: what was answered, counted by kind, until it leaves for the journal and the database.

Every answered request is one count under its kind: whose key, over which service and protocol, which asset, from which
source and cache tier, with which status, and whether the gate admitted it (only those count against a quota). Requests
of the same kind share one entry for as long as they wait, so what waits is bounded by how many kinds there are, and not
by how many requests; entries of different clock hours are kept apart, so that no count moves into another day.

A kind has asset C{*} if it asked for several, and an empty asset, source or tier where there is none. Beyond
C{most_kinds} entries, new kinds give up their detail (asset C{*}, no source, no tier): there are then at most so many
more entries as keys times services, protocols and statuses, for each hour that waits. No count is ever given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

from attrs import frozen

from tbeast.domain.latencies import BUCKETS, LAST

NOBODY: Final = ""
"""The key id of a question without a known key."""
SEVERAL: Final = "*"
"""The asset of a question for several, and of an entry that has given up its detail."""

MOST_KINDS: Final = 100_000
MOST_ROWS: Final = 300
"""How many rows one batch has at most."""
WINDOW_SECONDS: Final = 3600

BATCH_ID_BYTES: Final = 12


class Kind(NamedTuple):
    """What requests that share a row have in common. A NamedTuple because one is made for each request.

    @ivar key_id: L{NOBODY} or the id of a known key.
    @ivar service: C{lpo} or C{lrs}.
    @ivar protocol: C{http} or C{udp}.
    @ivar source: as the answer names it: C{median}, C{kraken-ws}...
    @ivar cache_tier: where the answer was found: C{shelf}, C{memory}, C{cache}, C{rest}.
    @ivar status: of the answer, as in HTTP.
    @ivar admitted: whether it counts against the key's quota.
    """

    key_id: str
    service: str
    protocol: str
    asset: str
    source: str
    cache_tier: str
    status: int
    admitted: bool


class Row(NamedTuple):
    """So many requests of one kind.

    @ivar at: when the first of them was answered, in seconds since the epoch.
    @ivar response_us_sum: the time they took, added up, in microseconds; C{response_us_max} the longest.
    """

    kind: Kind
    at: float
    request_count: int
    response_us_sum: int
    response_us_max: int


_Plain = tuple[str, str, str, str, str, str, int, bool]
"""A L{Kind} without its name: quicker to make, and equal to it."""
_Entry = list[float | int]
"""What L{Row} has after the kind; and for one that was told of its number, and how many requests and microseconds."""


@frozen
class Batch:
    """Rows that are written together, or not at all.

    @ivar id: 24 hexadecimal digits, which sort by the time of making; the same batch written twice counts once.
    @ivar node: where the requests were answered.
    """

    id: str
    node: str
    rows: tuple[Row, ...]

    def row_id(self, place: int) -> UUID:
        """The id of the row at C{place}: the batch's id and its number."""
        return UUID(hex=f"{self.id}{place:08x}")

    @property
    def requests(self) -> int:
        """How many requests it tells of."""
        return sum(row.request_count for row in self.rows)


def make_batch_id(now: float, random_bytes: Callable[[int], bytes]) -> str:
    """Make an id: 6 bytes of milliseconds since the epoch, 6 bytes that nobody else has."""
    return f"{int(now * 1000.0):012x}{random_bytes(6).hex()}"


class Tallies(Protocol):
    """Counts of answered requests that are kept outside of the ledger, until somebody asks for them."""

    @property
    def kinds(self) -> int:
        """How many rows L{drain} would give."""

    @property
    def requests(self) -> int:
        """How many requests they are of."""

    def drain(self) -> Sequence[Row]:
        """Take out what was counted; rows of one hour differ in their kinds. They may be made only when asked for."""

    def tell(self) -> bytes:
        """What was counted since this was asked last and not drained yet, which drain gives all the same.

        As in L{tbeast.codecs.usagenotes.encode}. What is told of a row adds up to the row that L{drain} gives, and rows
        are told of first in the order of L{drain}. C{at} is that of the first request.
        """


class Ledger:
    """What was answered and has not left yet.

    @ivar is_closed: whether nothing leaves any more, so that nobody may be answered whose answer is to be counted.
    @ivar beside: what is counted outside of it meanwhile; C{None}: nothing.
    @ivar times: how many answers were counted here, by service and L{bucket<tbeast.domain.latencies>} of the time they
        took. It only grows: what was counted elsewhere, or is put back, is not in it.
    """

    def __init__(self, most_kinds: int = MOST_KINDS) -> None:
        self.is_closed = False
        self.beside: Tallies | None = None
        self.times: dict[str, list[int]] = {}
        self._most_kinds = most_kinds
        self._size = 0
        # by the number of the clock hour; the open one is where the present falls
        self._windows: dict[int, dict[_Plain, _Entry]] = {}
        self._open: dict[_Plain, _Entry] = {}
        self._opened_at = 0.0
        self._closes_at = 0.0
        self._numbers = 0  # how many entries were told of

    def __len__(self) -> int:
        """How many entries wait."""
        return self._size if self.beside is None else self._size + self.beside.kinds

    @property
    def requests(self) -> int:
        """How many requests wait."""
        return self.own_requests if self.beside is None else self.own_requests + self.beside.requests

    def count(
        self,
        key_id: str,
        service: str,
        protocol: str,
        asset: str,
        source: str,
        cache_tier: str,
        status: int,
        admitted: bool,
        now: float,
        response_us: int,
    ) -> None:
        """Count one request that was answered at C{now}, after so many microseconds."""
        try:
            self.times[service][response_us.bit_length()] += 1
        except (KeyError, IndexError):
            self.times.setdefault(service, [0] * BUCKETS)[min(response_us.bit_length(), LAST)] += 1
        if not self._opened_at <= now < self._closes_at:
            self._open_at(now)
        kind = (key_id, service, protocol, asset, source, cache_tier, status, admitted)
        entry = self._open.get(kind)
        if entry is None:
            if self._size >= self._most_kinds:
                kind = (key_id, service, protocol, SEVERAL, "", "", status, admitted)
                entry = self._open.get(kind)
            if entry is None:
                self._open[kind] = [now, 1, response_us, response_us]
                self._size += 1
                return
        entry[1] += 1
        entry[2] += response_us
        if response_us > entry[3]:
            entry[3] = response_us

    @property
    def own(self) -> int:
        """How many entries wait that were not counted beside it."""
        return self._size

    @property
    def own_requests(self) -> int:
        """How many requests they are of."""
        return sum(int(entry[1]) for window in self._windows.values() for entry in window.values())

    def tell(self) -> list[Any]:
        """What was counted in it since this was asked last, and is not drained yet: see L{Tallies.tell}.

        @return: for each entry that is told of the first time its L{Row}; for every other [the number of that row since
            L{drain}, requests, microseconds, longest], where anything has come to it.
        """
        told: list[Any] = []
        for window in self._windows.values():
            for kind, entry in window.items():
                if len(entry) == _UNTOLD:
                    told.append((kind, *entry))
                    entry += (self._numbers, entry[1], entry[2])
                    self._numbers += 1
                elif entry[1] != entry[5]:
                    told.append((entry[4], entry[1] - entry[5], entry[2] - entry[6], entry[3]))
                    entry[5], entry[6] = entry[1], entry[2]
        return told

    def drain(self) -> list[Row]:
        """Take out all entries of its own; those that were told of come first, in that order."""
        entries = [item for window in self._windows.values() for item in window.items()]
        entries.sort(key=lambda item: item[1][4] if len(item[1]) > _UNTOLD else self._numbers)
        self._windows, self._open, self._size, self._numbers = {}, {}, 0, 0
        self._opened_at = self._closes_at = 0.0
        return [_row(kind, entry) for kind, entry in entries]

    def gather(self) -> None:
        """Take in what was counted beside it."""
        if self.beside is not None:
            self.put_back(self.beside.drain())

    def cut(self, most_rows: int, gathers: bool = True) -> list[Row]:
        """Take out the rows that have waited longest, up to so many.

        @param gathers: whether what was counted beside it is among them.
        """
        if gathers:
            self.gather()
        rows: list[Row] = []
        for hour in sorted(self._windows):
            window = self._windows[hour]
            room = most_rows - len(rows)
            if len(window) <= room:
                taken = window
                if window is self._open:
                    self._open = self._windows[hour] = {}
                else:
                    del self._windows[hour]
            else:
                taken = {kind: window.pop(kind) for kind in list(islice(window, room))}
            rows += [_row(kind, entry) for kind, entry in taken.items()]
        self._size -= len(rows)
        return rows

    def put_back(self, rows: Iterable[Row]) -> None:
        """Take in rows that were counted elsewhere, or could not go anywhere; they merge with what waits."""
        for kind, at, requests, total, longest in rows:
            window = self._windows.setdefault(int(at // WINDOW_SECONDS), {})
            place: _Plain = kind
            if self._size >= self._most_kinds and place not in window:
                place = kind._replace(asset=SEVERAL, source="", cache_tier="")
            entry = window.get(place)
            if entry is None:
                window[place] = [at, requests, total, longest]
                self._size += 1
            else:
                if len(entry) == _UNTOLD:
                    entry[0] = min(entry[0], at)
                entry[1] += requests
                entry[2] += total
                entry[3] = max(entry[3], longest)

    def _open_at(self, now: float) -> None:
        """Another clock hour has begun: what was counted in the last one waits beside it."""
        hour = int(now // WINDOW_SECONDS)
        self._open = self._windows.setdefault(hour, {})
        self._opened_at = float(hour * WINDOW_SECONDS)
        self._closes_at = self._opened_at + WINDOW_SECONDS


_UNTOLD: Final = 4
"""How long an entry is that was not told of."""


def _row(kind: _Plain, entry: _Entry) -> Row:
    at, requests, total, longest = entry[:_UNTOLD]
    return Row(Kind._make(kind), at, requests, total, longest)  # type: ignore[arg-type]  # the last three are whole


def batches_of(
    rows: list[Row], node: str, now: float, random_bytes: Callable[[int], bytes], most_rows: int = MOST_ROWS
) -> list[Batch]:
    """Lay rows into batches of at most so many."""
    return [
        Batch(make_batch_id(now, random_bytes), node, tuple(rows[start : start + most_rows]))
        for start in range(0, len(rows), most_rows)
    ]


CYCLE_DIGITS: Final = 20
"""How much of a batch's id is that of its cycle, if it has one."""


def make_cycle_id(now: float, random_bytes: Callable[[int], bytes]) -> str:
    """Make an id for rows that wait to leave together, in batches whose ids are made of it."""
    return make_batch_id(now, random_bytes)[:CYCLE_DIGITS].ljust(2 * BATCH_ID_BYTES, "0")


def batch_of_cycle(cycle: str, number: int, node: str, rows: Sequence[Row]) -> Batch:
    """The batch with the C{number}th L{MOST_ROWS} of a cycle's rows: the same for the same rows."""
    start = number * MOST_ROWS
    return Batch(f"{cycle[:CYCLE_DIGITS]}{number:04x}", node, tuple(rows[start : start + MOST_ROWS]))


def added_up(rows: Iterable[Row]) -> list[Row]:
    """One row for each kind and hour, in the order in which they first appear."""
    entries: dict[tuple[Kind, int], _Entry] = {}
    for kind, at, requests, total, longest in rows:
        entry = entries.setdefault((kind, int(at // WINDOW_SECONDS)), [at, 0, 0, 0])
        entry[0] = min(entry[0], at)
        entry[1] += requests
        entry[2] += total
        entry[3] = max(entry[3], longest)
    return [_row(kind, entry) for (kind, _), entry in entries.items()]


OK: Final = "ok"
BEHIND: Final = "behind"
UNMETERED: Final = "unmetered"


@frozen
class MeteringStatus:
    """How it stands with the way of usage to the database.

    @ivar state: L{OK}; L{BEHIND}: the database does not take it, or not as fast as it comes, and the journal keeps it;
        L{UNMETERED}: nothing takes it, it is in memory alone.
    @ivar since: when that began, in seconds since the epoch; C{None} with L{OK}.
    @ivar waiting_rows: in the ledger, and such as merged there and are about to leave.
    @ivar under_way: batches in memory.
    @ivar spooled_batches: batches in the journal, those under way included.
    @ivar spooled_bytes: how much room the journal takes.
    @ivar store_error: why the database did not take the last batch; empty if it did.
    @ivar journal_error: why the journal did not take the last batch; empty if it did.
    """

    state: str
    since: float | None
    waiting_rows: int
    under_way: int
    spooled_batches: int
    spooled_bytes: int
    store_error: str
    journal_error: str


@frozen
class NotSpooled:
    """The journal has not taken a batch.

    @ivar reason: L{FULL} or L{UNWRITABLE}.
    @ivar detail: for people.
    """

    reason: str
    detail: str


FULL: Final = "full"
UNWRITABLE: Final = "unwritable"
