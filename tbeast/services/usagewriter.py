"""The usage writer: every 100 ms what was counted leaves the ledger, first for the journal, then for the database.

The rules:

 - What leaves the ledger is on disk before anything else is done with it. So the end of the process at any moment takes
   with it what was counted since the last round, and nothing else; the next process writes what this one could not.
 - When the journal takes nothing, because it has reached its limit or the disk is full or gone, what leaves goes
   straight to the database, and into the journal later if it still waits by then. If the database takes nothing either,
   it stays in the ledger, where it merges; both are tried again all the time.
 - After L{GRACE_SECONDS} of that, usage is I{unmetered}: an alarm in the log, a counter, and L{UsageWriter.metered},
   by which the gate may refuse to serve.
 - Where very many kinds are counted they stay and merge for a while, noted on disk: see
   L{tbeast.services.usagecycles}.
 - The stop is a last round, and a time in which all that can be written is. Then the ledger is closed: what could not
   be recorded any more is not answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from tbeast.domain.counters import Counters
from tbeast.domain.usage import (
    BEHIND,
    MOST_ROWS,
    OK,
    UNMETERED,
    UNWRITABLE,
    Batch,
    Ledger,
    MeteringStatus,
    NotSpooled,
    added_up,
    batches_of,
)
from tbeast.interfaces import Chance, Now, UsageCounters, UsageStore, Written
from tbeast.services.periodic import Periodic
from tbeast.services.usagecounters import HeardUsage, UsageTelling
from tbeast.services.usagecycles import LEAVE_SECONDS, Cycle, Merging, OwnTallies, UsageNotes
from tbeast.services.usagedrain import MOST_WRITES, UsageDrain, UsageJournal

ROUND_SECONDS: Final = 0.1
ROWS_A_TURN: Final = 3_000
"""How many rows leave before others have their turn; the rest follow at once."""
SYNC_SECONDS: Final = 1.0
JOURNAL_RETRY_SECONDS: Final = 1.0
GRACE_SECONDS: Final = 5.0

STOP_SECONDS: Final = 8.0
STOP_LOOK_SECONDS: Final = 0.05
LAST_SYNC_SECONDS: Final = 1.0


InThread = Callable[[Callable[[], None]], Awaitable[None]]
"""Calls something in a thread."""


class UsageWriter(Service):
    """The service.

    @ivar metered: whether what is counted now will be recorded, as far as is known.
    """

    log = Logger()
    name = "usage writer"

    def __init__(
        self,
        *,
        ledger: Ledger,
        journal: UsageJournal,
        store: UsageStore,
        usage_counters: UsageCounters,
        heard_usage: HeardUsage,
        counters: Counters,
        node: str,
        clock: IReactorTime,
        now: Now,
        chance: Chance,
        random_bytes: Callable[[int], bytes],
        in_thread: InThread,
        notes: UsageNotes | None = None,
        most_writes: int = MOST_WRITES,
    ) -> None:
        """Set it up.

        @param heard_usage: told what keys have used on all nodes, whenever the database has said so.
        @param node: the name of this node.
        @param random_bytes: gives so many bytes that nobody else has, for ids.
        @param in_thread: calls what waits for the disk.
        @param notes: where what merges for a while is noted; without, everything leaves at each round.
        @param most_writes: how many transactions there may be at a time.
        """
        self._ledger = ledger
        self._journal = journal
        self._counters = counters
        self._node = node
        self._clock = clock
        self._now = now
        self._random_bytes = random_bytes
        self._in_thread = in_thread
        self._notes = notes
        self._ending: deque[Cycle] = deque()
        self._ending_stuck = False
        self._end_next: IDelayedCall | None = None
        self._gone: list[str] = []
        self._merging: list[Merging] = []
        self._telling = UsageTelling(heard_usage, usage_counters, counters, now)
        self._drain = UsageDrain(store, journal, counters, clock, chance, self._written, most_writes)
        self._rounds = Periodic("usage writer", self._round, ROUND_SECONDS, clock, counters)
        self._syncs = Periodic("usage journal sync", self._sync, SYNC_SECONDS, clock, counters)
        self._more: IDelayedCall | None = None
        self._journal_error = ""
        self._journal_retry_at = 0.0
        self._syncing_fails = False
        self._stuck_since: float | None = None
        self._behind_since: float | None = None
        self._batch_rows = MOST_ROWS
        self.metered = True

    def set_round(self, seconds: float) -> None:
        """Have a round every so many seconds from now on."""
        self._rounds.set_every(seconds)

    def set_batch_rows(self, rows: int) -> None:
        """Put at most so many rows, and never more than L{MOST_ROWS}, into a batch from now on."""
        self._batch_rows = min(rows, MOST_ROWS)

    @property
    def status(self) -> MeteringStatus:
        """How it stands."""
        state = UNMETERED if not self.metered else OK if self._behind_since is None else BEHIND
        return MeteringStatus(
            state,
            self._behind_since,
            len(self._ledger) + sum(cycle.left for cycle in self._ending),
            self._drain.under_way,
            self._journal.batches,
            self._journal.size_bytes,
            self._drain.store_error,
            self._journal_error,
        )

    def startService(self) -> None:
        """Take the journal's folder, and begin the rounds.

        @raise tbeast.errors.StateFolderError: when the folder cannot be had.
        """
        self._journal.open()
        if self._notes is not None:
            self._ending.extend(Cycle(cycle, added_up(rows), found=True) for cycle, rows in self._notes.left())
            self._merging = [
                Merging(tallies, self._notes, self._clock, self._now, self._random_bytes)
                for tallies in (self._ledger.beside, OwnTallies(self._ledger))
                if tallies is not None
            ]
        self._ledger.is_closed = False
        super().startService()  # type: ignore[no-untyped-call]
        self._rounds.startService()
        self._syncs.startService()
        self._drain.pump()

    async def _stop(self) -> None:
        for periodic in (self._rounds, self._syncs):
            periodic.stopService()  # neither is waited for: a disk that hangs may hold up a sync for ever
        for call in (self._more, self._end_next):
            if call is not None:
                call.cancel()
        self._more = self._end_next = None
        until = self._clock.seconds() + STOP_SECONDS
        self._journal_retry_at = 0.0
        self._leave(to_the_end=True)
        self._drain.pump(at_once=True)
        while not self._all_done() and self._clock.seconds() < until:
            await deferLater(self._clock, STOP_LOOK_SECONDS)
            self._leave(to_the_end=True)
            self._drain.pump()
        self._ledger.is_closed = True
        self._drain.end()
        await self._sync_last()
        lost = self._in_memory
        if lost:
            self._counters.count("usage_lost_requests", by=lost)
            self.log.error(
                "{requests} requests are not recorded: neither database nor journal took them before the stop;"
                " database: {store}; journal: {journal}",
                requests=lost, store=self._drain.store_error, journal=self._journal_error,
            )  # fmt: skip
        if self._journal.batches:
            self.log.warn(
                "{batches} batches of usage stay in the journal, for the next start", batches=self._journal.batches
            )
        self._journal.close()
        if self._notes is not None:
            self._notes.close()

    @property
    def _in_memory(self) -> int:
        """How many requests are nowhere else."""
        leaving = sum(row.request_count for cycle in self._ending for row in cycle.waiting)
        return self._ledger.requests + leaving + sum(batch.requests for batch in self._drain.unspooled)

    def stopService(self) -> Awaitable[None]:
        """Write what there is.

        @return: fires when all is written, or kept in the journal while the database takes nothing, or the time is
            over.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        return ensureDeferred(self._stop())

    def _all_done(self) -> bool:
        if len(self._ledger) or self._ending or self._drain.flying:
            return False
        # what the journal has is safe, and whoever stops us need not wait for a database that is away
        return self._drain.idle or (self._drain.away and not self._drain.unspooled)

    # From the ledger to the journal.

    def _round(self) -> None:
        left = self._more is not None or self._leave()
        if self._ending and self._end_next is None:
            self._end_more()
        self._drain.pump()
        self._look(left or bool(self._ending and not self._ending_stuck))

    def _leave(self, to_the_end: bool = False) -> bool:
        """Let what has been counted leave the ledger.

        @param to_the_end: all of it now, else a part of it now and the rest in turns of its own.
        @return: whether anything has left.
        """
        if self._may_try_journal():
            self._drain.respool(self._appended)
        left = self._note(to_the_end)
        while to_the_end and self._ending and self._end_some():
            left = True
        while self._leaves and (self._may_try_journal() or self._may_skip_journal()):
            rows = self._ledger.cut(ROWS_A_TURN, gathers=False)
            batches = batches_of(rows, self._node, self._now(), self._random_bytes, self._batch_rows)
            if not self._taken(batches):
                self._ledger.put_back(rows)
                break
            left = True
            if self._leaves and not to_the_end:
                self._more = self._more or self._clock.callLater(0, self._leave_more)
                break
        return left

    @property
    def _leaves(self) -> bool:
        """Whether there is anything in the ledger that is not in a cycle."""
        return self._ledger.own > 0 and not (self._merging and self._merging[-1].cycle)

    def _note(self, to_the_end: bool) -> bool:
        """Note what is counted, where there is much of it, instead of having it leave.

        @return: whether anything was noted, or leaves now that was.
        """
        noted = False
        for merging in self._merging:
            if merging is self._merging[-1]:  # the ledger's own; what lies beside it without a cycle comes to it
                self._gather()
            may_begin = not self._ending_stuck and self._may_try_journal()
            found = merging.note(may_begin, to_the_end)
            if isinstance(found, NotSpooled):
                self._refused(found)
                found = merging.end(is_noted=False)
            if found is not None:
                self._ending.append(found)
            noted |= found is not None or bool(merging.cycle)
        if not self._merging:
            self._ledger.gather()
        return noted

    def _gather(self) -> None:
        if not any(merging.cycle for merging in self._merging[:-1]):
            self._ledger.gather()

    def _end_more(self) -> None:
        """Let a batch of what was noted leave, and the next one in a moment. The rounds write them, many at a time."""
        self._end_next = None
        while self._end_some():
            if not self._ending:
                self._drain.pump()
                return
            if self._ending[0].is_noted:
                delay = LEAVE_SECONDS if len(self._ending) == 1 else 0.0
                self._end_next = self._clock.callLater(delay, self._end_more)
                return

    def _end_some(self) -> bool:
        """Let a batch of what was noted leave; whether it has."""
        cycle = self._ending[0]
        batches = cycle.next(self._node)
        # what the journal may hold already is not held twice: it is read back, which passes over what is held
        self._ending_stuck = bool(batches) and not self._taken(batches, hold=not cycle.found)
        if self._ending_stuck:
            return False
        cycle.gone += 1
        if cycle.is_gone:
            self._ending.popleft()
            self._gone.append(cycle.id)
        return True

    def _end_notes(self) -> None:
        """What cycles have noted need not be kept when nothing of them is in memory alone any more."""
        if self._notes is not None and self._gone and not self._drain.unspooled:
            for cycle in self._gone:
                self._notes.end(cycle)
            self._gone = []

    def _leave_more(self) -> None:
        self._more = None
        self._leave()
        self._drain.pump()

    def _may_try_journal(self) -> bool:
        return self._clock.seconds() >= self._journal_retry_at

    def _may_skip_journal(self) -> bool:
        return not self._drain.away and self._drain.has_room(())

    def _taken(self, batches: list[Batch], hold: bool = True) -> bool:
        """Give batches to the journal, else straight to the database; whether either took them.

        @param hold: whether the journal may hold them, if it is caught up and there is room.
        """
        room = self._drain.has_room(batches)
        if self._may_try_journal():
            hold = hold and room and self._journal.caught_up
            if self._appended(batches, hold) is None:
                if hold:
                    self._drain.take(batches, spooled=True)
                return True
        if room and not self._drain.away:
            self._drain.take(batches, spooled=False)
            return True
        return False

    def _appended(self, batches: list[Batch], hold: bool) -> NotSpooled | None:
        try:
            refusal = self._journal.append(batches, hold)
        except Exception as error:  # what cannot be laid down as it is may still go to the database
            self.log.failure("usage could not be laid down in the journal")
            refusal = NotSpooled(UNWRITABLE, f"{type(error).__name__}: {error}")
        if refusal is not None:
            self._refused(refusal)
        elif self._journal_error:
            self._journal_error = ""
            self.log.info("the journal takes usage again")
        return refusal

    def _refused(self, refusal: NotSpooled) -> None:
        self._counters.count("usage_journal_refusals", refusal.reason)
        self._journal_retry_at = self._clock.seconds() + JOURNAL_RETRY_SECONDS
        if not self._journal_error:
            self.log.error(
                "the journal does not take usage, which goes straight to the database: {why}", why=refusal.detail
            )
        self._journal_error = refusal.detail

    def _look(self, left: bool) -> None:
        """See how it stands.

        @param left: whether anything has left the ledger in it.
        """
        now = self._clock.seconds()
        stuck = (len(self._ledger) > 0 and not left) or (self._drain.away and bool(self._drain.unspooled))
        if not stuck:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        metered = self._stuck_since is None or now - self._stuck_since < GRACE_SECONDS
        if self.metered and not metered:
            self._counters.count("usage_unmetered")
            self.log.critical(
                "UNMETERED: neither journal nor database takes usage; {requests} requests are in memory alone;"
                " database: {store}; journal: {journal}",
                requests=self._in_memory,
                store=self._drain.store_error, journal=self._journal_error,
            )  # fmt: skip
        elif metered and not self.metered:
            self.log.info("usage is metered again")
        self.metered = metered
        if metered and not self._drain.away and self._journal.caught_up:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._now()

    # From the database.

    def _written(self, written: Written) -> None:
        self._telling.heard(written.usage)

    # To the disk.

    async def _sync(self) -> None:
        self._telling.tell()
        self._end_notes()
        works = [work for part in (self._notes, self._journal) if part is not None and (work := part.unsynced())]
        try:
            for work in works:
                await self._in_thread(work)
        except OSError as error:
            self._counters.count("usage_journal_sync_failures")
            self._journal.not_synced()
            if not self._syncing_fails:
                self._syncing_fails = True
                self.log.error("the disk does not confirm what the journal has written: {why}", why=error)
        else:
            if self._notes is not None:
                self._notes.synced()
            if self._syncing_fails:
                self._syncing_fails = False
                self.log.info("the disk confirms again what the journal has written")

    async def _sync_last(self) -> None:
        last = ensureDeferred(self._sync())
        limit = self._clock.callLater(LAST_SYNC_SECONDS, last.cancel)
        try:
            await last
        except Exception:
            self.log.failure("the journal is closed although the disk has not confirmed it")
        if limit.active():
            limit.cancel()
