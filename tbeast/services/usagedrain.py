"""The way of usage from memory and journal to the database.

The rules. What is under way is bounded in batches and in rows; the rest lies in the journal and is read back, in the
order in which it was written, as there is room. Many batches that wait go in one transaction, so many at a time as the
database has shown to bear, and a few transactions at a time. Each batch ends in one of three ways:

 - I{settled}: the database has it; rows that it refused were set aside there.
 - I{put back}: nothing is known to be written. It is tried again with the same id, before what came after it. While the
   database takes nothing it is asked ever less often, by one transaction at a time.
 - I{set aside}, in a file beside the journal: nobody knows what to do with it, even when it is written alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from attrs import define
from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from tbeast.domain.backoff import wait_seconds
from tbeast.domain.counters import Counters
from tbeast.domain.usage import Batch, NotSpooled
from tbeast.errors import StoreUnavailableError
from tbeast.interfaces import Chance, UsageStore, Written

MOST_BATCHES: Final = 999
MOST_ROWS: Final = 60_000
"""How much may be under way."""
MOST_ROWS_A_WRITE: Final = 12_000
LEAST_ROWS_A_WRITE: Final = 300
MOST_WRITES: Final = 3

READ_BATCHES: Final = 10
"""How many are read back at a time; then others have their turn."""
READ_AHEAD_ROWS: Final = 2 * MOST_ROWS_A_WRITE

FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_DELAY_SECONDS: Final = 10.0
TELL_EVERY_SECONDS: Final = 60.0
"""Refused rows are told in the log no more often; the counters have them all."""


class UsageJournal(Protocol):
    """What is needed of the journal; its methods do not wait, and raise nothing but L{open}.

    @ivar size_bytes: how large it is.
    """

    size_bytes: int

    @property
    def batches(self) -> int:
        """How many batches are in it and not settled."""

    @property
    def caught_up(self) -> bool:
        """Whether every batch in it that is not settled is held by whoever reads it."""

    def open(self) -> None:
        """Take the folder.

        @raise tbeast.errors.StateFolderError: when it cannot be had.
        """

    def append(self, batches: Sequence[Batch], hold: bool) -> NotSpooled | None:
        """Write batches at the end; those that are held are not read back."""

    def read(self, most: int) -> list[Batch]:
        """The next batches, which are held from then on."""

    def settled(self, batch_ids: Sequence[str]) -> None:
        """They need not be kept."""

    def set_aside(self, batch: Batch, reason: str) -> bool:
        """Keep one for a person to look at; whether that worked."""

    def unsynced(self) -> Callable[[], None] | None:
        """What has to be done, in a thread, so that a loss of power takes nothing; it may raise C{OSError}."""

    def not_synced(self) -> None:
        """That has failed."""

    def close(self) -> None:
        """Give the folder up."""


@define(eq=False)
class _UnderWay:
    """A batch in memory.

    @ivar order: its place in the order of writing.
    @ivar spooled: whether the journal has it too.
    @ivar alone: whether it is to be written by itself, because a write that it was part of has failed in an odd way.
    """

    order: int
    batch: Batch
    spooled: bool
    alone: bool = False


class UsageDrain:
    """What is under way to the database.

    @ivar store_error: why the last write did not work; empty when it did.
    """

    log = Logger()

    def __init__(
        self,
        store: UsageStore,
        journal: UsageJournal,
        counters: Counters,
        clock: IReactorTime,
        chance: Chance,
        settled: Callable[[Written], None],
        most_writes: int = MOST_WRITES,
    ) -> None:
        """Set it up.

        @param settled: told of every write that has worked; raises nothing.
        @param most_writes: how many transactions there may be at a time.
        """
        self._store = store
        self._journal = journal
        self._counters = counters
        self._clock = clock
        self._chance = chance
        self._settled = settled
        self._most_writes = most_writes
        self._order = 0
        self._waiting: deque[_UnderWay] = deque()
        self._waiting_rows = 0
        self._flying: set[tuple[_UnderWay, ...]] = set()
        self._flying_rows = 0
        self._rows_a_write = MOST_ROWS_A_WRITE
        self._failures = 0
        self._retry: IDelayedCall | None = None
        self._reading: IDelayedCall | None = None
        self._pumping = False
        self._ended = False
        self._away_since = 0.0
        self._told_refused_at: float | None = None
        self.store_error = ""

    @property
    def under_way(self) -> int:
        """How many batches are in memory."""
        return len(self._waiting) + sum(map(len, self._flying))

    @property
    def flying(self) -> bool:
        """Whether a write is being waited for."""
        return bool(self._flying)

    @property
    def away(self) -> bool:
        """Whether the database did not take the last batch that it was given."""
        return self._failures > 0

    @property
    def idle(self) -> bool:
        """Whether nothing is under way and nothing is left in the journal."""
        return not self._waiting and not self._flying and self._journal.caught_up

    def has_room(self, batches: Sequence[Batch]) -> bool:
        """Whether these may be under way as well."""
        rows = self._waiting_rows + self._flying_rows + sum(len(batch.rows) for batch in batches)
        return self.under_way + len(batches) <= MOST_BATCHES and rows <= MOST_ROWS

    def take(self, batches: Iterable[Batch], spooled: bool) -> None:
        """Have them written.

        @param spooled: whether the journal has them, as held.
        """
        for batch in batches:
            self._order += 1
            self._waiting.append(_UnderWay(self._order, batch, spooled))
            self._waiting_rows += len(batch.rows)

    @property
    def unspooled(self) -> list[Batch]:
        """What is in memory alone."""
        flying = [entry for group in self._flying for entry in group]
        return [entry.batch for entry in (*flying, *self._waiting) if not entry.spooled]

    def respool(self, append: Callable[[list[Batch], bool], NotSpooled | None]) -> None:
        """Put into the journal what waits and is in memory alone.

        @param append: as the journal's own; asked only if there is something.
        """
        entries = [entry for entry in self._waiting if not entry.spooled]
        if not entries:
            return
        hold = self._journal.caught_up
        if append([entry.batch for entry in entries], hold) is not None:
            return
        if hold:
            for entry in entries:
                entry.spooled = True
        else:  # they are read back in their turn
            self._wait_again(entry for entry in self._waiting if entry.spooled)

    def pump(self, at_once: bool = False) -> None:
        """Send what waits, as far as there is leave to.

        @param at_once: even if the database is to be left alone for a while yet.
        """
        if self._pumping or self._ended:
            return
        if self._retry is not None:
            if not at_once:
                return
            self._retry.cancel()
            self._retry = None
        self._pumping = True
        try:
            self._read_back()
            while self._waiting and self._retry is None and len(self._flying) < (1 if self.away else self._most_writes):
                ensureDeferred(self._write(self._next_group()))
        finally:
            self._pumping = False

    def end(self) -> None:
        """Send no more. What comes back of what was sent is taken notice of."""
        self._ended = True
        for call in (self._retry, self._reading):
            if call is not None:
                call.cancel()
        self._retry = self._reading = None

    def _read_back(self) -> None:
        """Fill up from the journal."""
        if self._reading is None and self._wants_more():
            self.take(self._journal.read(READ_BATCHES), spooled=True)
            if self._wants_more():
                self._reading = self._clock.callLater(0, self._read_on)

    def _read_on(self) -> None:
        self._reading = None
        self.pump()

    def _wants_more(self) -> bool:
        few = self._waiting_rows < READ_AHEAD_ROWS and self.under_way <= MOST_BATCHES - READ_BATCHES
        return few and not self._journal.caught_up

    def _next_group(self) -> tuple[_UnderWay, ...]:
        group = [self._waiting.popleft()]
        rows = len(group[0].batch.rows)
        while self._waiting and not group[0].alone and not self._waiting[0].alone:
            rows += len(self._waiting[0].batch.rows)
            if rows > self._rows_a_write:
                break
            group.append(self._waiting.popleft())
        taken = tuple(group)
        self._flying.add(taken)
        self._waiting_rows -= _rows(taken)
        self._flying_rows += _rows(taken)
        return taken

    async def _write(self, group: tuple[_UnderWay, ...]) -> None:
        try:
            written = await self._store.write([entry.batch for entry in group])
        except StoreUnavailableError as error:
            self._landed(group)
            self._put_back(group, str(error))
        except Exception as error:
            self._landed(group)
            if len(group) > 1:
                self.log.failure("a write of {batches} batches failed; each is tried alone", batches=len(group))
                for entry in group:
                    entry.alone = True
                self._wait_again((*group, *self._waiting))
            else:
                self._set_aside(group, f"{type(error).__name__}: {error}")
        else:
            self._landed(group)
            self._settle(group, written)
        self.pump()

    def _landed(self, group: tuple[_UnderWay, ...]) -> None:
        self._flying.discard(group)
        self._flying_rows -= _rows(group)

    def _wait_again(self, entries: Iterable[_UnderWay]) -> None:
        """Let exactly these wait, in the order of writing."""
        self._waiting = deque(sorted(entries, key=lambda entry: entry.order))
        self._waiting_rows = _rows(self._waiting)

    def _settle(self, group: tuple[_UnderWay, ...], written: Written) -> None:
        self._journal.settled([entry.batch.id for entry in group if entry.spooled])
        refused = len(written.refused)
        self._counters.count("usage_batches", "settled", by=len(group))
        batches = {entry.batch.id: entry.batch for entry in group}
        lost = sum(batches[row.batch_id].rows[row.place].request_count for row in written.refused)
        self._counters.count("usage_rows", "settled", by=_rows(group) - refused)
        self._counters.count("usage_requests", "settled", by=sum(batch.requests for batch in batches.values()) - lost)
        if refused:
            self._counters.count("usage_rows", "refused", by=refused)
            self._counters.count("usage_requests", "refused", by=lost)
            self._tell_refused(written)
        if self.away:
            self.log.info(
                "the database takes usage again after {seconds:.1f} s; {batches} batches wait in the journal",
                seconds=self._clock.seconds() - self._away_since, batches=self._journal.batches,
            )  # fmt: skip
        self._failures = 0
        self.store_error = ""
        self._rows_a_write = min(MOST_ROWS_A_WRITE, self._rows_a_write * 2)
        self._settled(written)

    def _tell_refused(self, written: Written) -> None:
        now = self._clock.seconds()
        if self._told_refused_at is None or now - self._told_refused_at >= TELL_EVERY_SECONDS:
            self._told_refused_at = now
            first = written.refused[0]
            self.log.error(
                "the database refused {rows} rows of usage and has them in usage_refused; row {place} of batch {id}:"
                " {reason}",
                rows=len(written.refused), place=first.place, id=first.batch_id, reason=first.reason,
            )  # fmt: skip

    def _put_back(self, group: tuple[_UnderWay, ...], why: str) -> None:
        self._counters.count("usage_batches", "put_back", by=len(group))
        self._wait_again((*group, *self._waiting))
        if not self.away:
            self._away_since = self._clock.seconds()
            self.log.error("the database does not take usage, which waits in the journal: {why}", why=why)
        self.store_error = why
        if self._retry is None and not self._ended:  # else another that was sent with it has seen to that
            # what was too much at a time may pass in parts
            self._rows_a_write = max(LEAST_ROWS_A_WRITE, self._rows_a_write // 2)
            wait = wait_seconds(self._failures, self._chance(), FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
            self._failures += 1
            self._retry = self._clock.callLater(wait, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.pump()

    def _set_aside(self, group: tuple[_UnderWay, ...], reason: str) -> None:
        if self._journal.set_aside(group[0].batch, reason):
            self._counters.count("usage_batches", "set_aside")
            self._journal.settled([group[0].batch.id])
        else:
            self._put_back(group, reason)


def _rows(entries: Iterable[_UnderWay]) -> int:
    return sum(len(entry.batch.rows) for entry in entries)
