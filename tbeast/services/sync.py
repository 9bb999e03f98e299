"""The sync job: brings the shared cache in line with the database, and does what is due in the database once a day.

It gathers (from the database, in chunks), plans (L{tbeast.domain.syncplan}) and applies (to the cache, a chunk at a
time, the next one being read meanwhile). One node does it at a time, by a lease in the database that is renewed while
the job goes on; a node that lost it stops. Whatever ends a job in the middle, the next one goes on where it was, and
what was written twice is as if it had been written once. Without a shared cache only the database's part is done.

A key that is revoked while its copy is on its way must not stay good in the cache, so after the copies were written the
store is asked once more what has changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
from attrs import asdict, evolve, field, frozen
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tbeast.codecs.keycopies import LIST_AT, decode_copy, encode_copy, encode_list
from tbeast.domain.admission import month_end
from tbeast.domain.keys import KeyChange, KeyRecord
from tbeast.domain.syncplan import (
    SECOND,
    WHOLE,
    Building,
    CatchingUp,
    Chunk,
    Grant,
    Held,
    Marks,
    Place,
    ReportRow,
    Survey,
    Tidied,
    Trimmed,
    UsageRow,
    Walk,
    caught_up_from,
    cutoff_us,
    month_of,
    next_building,
    next_catching_up,
    plan,
    read_marks,
    reports_from,
    used_of,
)
from tbeast.errors import StoreError, TBeastError
from tbeast.interfaces import KeyCopies, KeyStore, UsageCounters
from tbeast.services.parameters import ParameterCopies, ParameterStore

LEASE_SECONDS: Final = 45.0
RENEW_SECONDS: Final = 10.0

CHUNK_ROWS: Final = 2_000

KEYS_AT_ONCE: Final = 500
"""How many keys are written before others have their turn."""


class SyncStore(Protocol):
    """The database, as the job needs it. Everything here raises L{StoreError} when it cannot be done."""

    def take(self, node: str, token: str, seconds: float, not_since: float | None) -> Awaitable[Grant | Held]:
        """Ask for the job; it is not given if it was finished since C{not_since}, in seconds since the epoch."""

    def keep(self, token: str, seconds: float) -> Awaitable[bool]:
        """Hold it for so long from now on; C{False}: somebody else has it."""

    def give_back(self, token: str, summary: str | None) -> Awaitable[None]:
        """Let it go; C{summary} is C{None} if it was not finished."""

    def tidy(self, now_us: int) -> Awaitable[Tidied]:
        """Do a part of what is due in the database itself."""

    def summarize(self) -> Awaitable[None]:
        """Make ready for reading."""

    def estimate(self) -> Awaitable[int]:
        """About how many rows of usage there are; 0 if that is not known."""

    def usage(self, walk: Walk, now_us: int, limit: int) -> Awaitable[Chunk[UsageRow]]:
        """Read the next rows of a walk."""

    def reports(self, after: Place, limit: int) -> Awaitable[Chunk[ReportRow]]:
        """Read the reports after a place."""


class SyncCache(Protocol):
    """The shared cache, as the job needs it. Everything here raises L{CacheUnavailableError} when it cannot be done."""

    def marks(self) -> Awaitable[Mapping[str, str]]:
        """What was noted; empty if nothing was."""

    def set_marks(self, fields: Mapping[str, str]) -> Awaitable[None]:
        """Note how far the copy has come."""

    def index_size(self) -> Awaitable[int]:
        """How many rows are in the index."""

    def survey(self, cutoff_us: int) -> Awaitable[Survey]:
        """Count what there is, and look whether rows are there."""

    def forget(self) -> Awaitable[None]:
        """Drop every set of the copy."""

    def write_usage(self, rows: Sequence[UsageRow]) -> Awaitable[None]:
        """Write rows and their entries."""

    def write_reports(self, rows: Sequence[ReportRow]) -> Awaitable[None]:
        """Write reports."""

    def trim(self, cutoff_us: int) -> Awaitable[Trimmed]:
        """Remove the entries of rows that are too old."""


@frozen
class CacheSide:
    """Everything in the shared cache that the job writes."""

    usage: SyncCache
    keys: KeyCopies
    counters: UsageCounters
    parameters: ParameterCopies


@frozen
class Summary:
    """What a job did.

    @ivar why: why the copy of usage was built anew; empty if it was brought up to date.
    @ivar keys: how many copies of keys were written, C{keys_removed} how many were taken away.
    @ivar counters: how many usage counters were looked after.
    @ivar usage: how many rows of usage were written, C{reports} how many reports.
    @ivar trimmed: how many rows of usage were too old.
    @ivar index: how many rows are in the copy now.
    """

    why: str = ""
    keys: int = 0
    keys_removed: int = 0
    counters: int = 0
    parameters: int = 0
    usage: int = 0
    reports: int = 0
    trimmed: int = 0
    index: int = 0
    tidied: Tidied = field(factory=Tidied)
    seconds: float = 0.0

    def in_words(self) -> str:
        """It in one line, for people."""
        tidied = self.tidied
        counts = {
            "usage rows": self.usage, "reports": self.reports, "keys": self.keys,
            "copies of keys removed": self.keys_removed, "counters": self.counters, "parameters": self.parameters,
            "usage rows trimmed": self.trimmed, "partitions dropped": tidied.partitions,
            "report counts dropped": tidied.report_counts, "reports dropped": tidied.reports,
            "keys begun anew": tidied.keys,
        }  # fmt: skip
        told = ", ".join(f"{what} {count:,}" for what, count in counts.items() if count) or "nothing to do"
        return f"{told}; in the copy {self.index:,}; {self.seconds:.1f} s" + (f" ({self.why})" if self.why else "")


@frozen
class Progress:
    """How far a job is.

    @ivar step: what it does now.
    @ivar done: how many rows it has written in this step.
    @ivar of: about how many there are; 0: not known.
    """

    step: str
    done: int = 0
    of: int = 0


class SyncLostError(TBeastError):
    """The job was taken over by another node, or this one was told to stop; the next job goes on where it was."""


class Sync:
    """Does the job when told to."""

    log = Logger()

    def __init__(
        self,
        store: SyncStore,
        keys: KeyStore,
        parameters: ParameterStore,
        cache: CacheSide | None,
        clock: IReactorTime,
        node: str,
        new_token: Callable[[], str],
        chunk_rows: int = CHUNK_ROWS,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """Set it up.

        @param cache: C{None}: there is no shared cache.
        @param new_token: makes what a holder of the lease is known by.
        @param chunk_rows: how many rows are read at once.
        """
        self._store = store
        self._keys = keys
        self._parameters = parameters
        self._cache = cache
        self._clock = clock
        self._node = node
        self._new_token = new_token
        self._chunk_rows = chunk_rows
        self._lease_seconds = lease_seconds
        self._stopped = False

    def start(self) -> None:
        """Allow jobs again after a L{stop}."""
        self._stopped = False

    def stop(self) -> None:
        """End what is under way at its next step, and let nothing come to its end any more."""
        self._stopped = True

    async def run(
        self,
        full: bool = False,
        not_since: float | None = None,
        told: Callable[[Progress], object] = lambda progress: None,
    ) -> Summary | Held:
        """Do it once.

        @param full: build the copy of usage anew in any case.
        @param not_since: leave it if it was done since then, in seconds since the epoch.
        @param told: told of how far it is, from time to time.
        @return: what was done; or who has the job, and nothing was done.
        @raise StoreError: when the database cannot be asked; what was done stays, and the next job goes on from there.
        @raise CacheUnavailableError: so it is with the cache.
        @raise SyncLostError: when it could not be finished.
        """
        token = self._new_token()
        grant = await self._store.take(self._node, token, self._lease_seconds, not_since)
        if isinstance(grant, Held):
            return grant
        began = self._clock.seconds()
        job = _Job(self, grant, token, told)
        finished = None
        try:
            done = await job.done(full)
            done = evolve(done, seconds=self._clock.seconds() - began)
            finished = msgspec.json.encode(asdict(done)).decode()
            return done
        finally:
            try:
                await self._store.give_back(token, finished)
            except StoreError as error:
                self.log.warn("the sync job could not be given back and is free in a while: {error}", error=str(error))


class _Job:
    """One run of it."""

    def __init__(self, sync: Sync, grant: Grant, token: str, told: Callable[[Progress], object]) -> None:
        self._sync = sync
        self._store = sync._store
        self._now_us = grant.now_us
        self._origin = grant.origin
        self._token = token
        self._told = told
        self._renewed_at = sync._clock.seconds()

    async def done(self, full: bool) -> Summary:
        """Do all of it. What cannot be tidied keeps nothing from being copied, and a cache that is away nothing from
        being tidied.
        """
        cache = self._sync._cache
        trouble: StoreError | None = None
        summary = Summary()
        try:
            summary = Summary(tidied=await self._tidied())
        except StoreError as error:
            trouble = error
        if cache is not None:
            summary = await self._copy_keys(cache, summary)
            rows = await self._sync._parameters.read()
            await cache.parameters.put(rows)
            summary = await self._copy_usage(cache.usage, evolve(summary, parameters=len(rows)), full)
        if trouble is not None:
            raise trouble
        return summary

    async def _tidied(self) -> Tidied:
        self._told(Progress("tidying the database"))
        tidied = await self._store.tidy(self._now_us)
        while tidied.more:
            await self._go_on()
            tidied += await self._store.tidy(self._now_us)
        return tidied

    async def _copy_keys(self, cache: CacheSide, summary: Summary) -> Summary:
        self._told(Progress("copying keys"))
        # before the keys are read: what is there now and is no key then has vanished, and is not just newer
        there = await cache.keys.all()
        loaded, mark = await self._sync._keys.changed_since(None)
        records = {record.account.digest: record for record in loaded}
        await self._put_keys(cache.keys, loaded)
        changed, _ = await self._sync._keys.changed_since(mark)
        news = [record for record in changed if records.get(record.account.digest) != record]
        await self._put_keys(cache.keys, news)
        records |= {record.account.digest: record for record in news}
        good = [digest for digest, record in records.items() if not record.revoked]
        xor = 0
        for digest in good:
            xor ^= int.from_bytes(digest, "big")
        await cache.keys.put_many({LIST_AT: encode_list(len(good), xor)})
        # a mark in the place of a revoked key stays for its day: it guards against a copy that comes late
        places = {digest.hex() for digest in records} | {LIST_AT}
        vanished = [
            place for place in there.keys() - places if not isinstance(decode_copy(place, there[place]), KeyChange)
        ]
        await cache.keys.remove(vanished)
        month = month_of(self._now_us)
        used = used_of(records.values(), month)
        await cache.counters.raise_to(used, month, month_end(self._now_us / SECOND))
        return evolve(summary, keys=len(good), keys_removed=len(vanished), counters=len(used))

    async def _put_keys(self, copies: KeyCopies, records: Sequence[KeyRecord]) -> None:
        for start in range(0, len(records), KEYS_AT_ONCE):
            some = records[start : start + KEYS_AT_ONCE]
            await copies.put_many({record.account.digest.hex(): encode_copy(record) for record in some})
            await self._go_on()

    async def _copy_usage(self, cache: SyncCache, summary: Summary, full: bool) -> Summary:
        await self._go_on()
        cutoff = cutoff_us(self._now_us)
        planned = plan(read_marks(await cache.marks()), await cache.survey(cutoff), self._origin, self._now_us, full)
        marks = planned.marks
        if planned.why:
            self._sync.log.info("the copy of usage is built anew: {why}", why=planned.why)
        if planned.forget:
            await cache.set_marks(marks.fields())
            await cache.forget()
        rows = 0
        if planned.building is not None:
            marks, rows = await self._build(cache, marks, planned.building)
        marks, more = await self._catch_up(cache, marks)
        marks, reports = await self._copy_reports(cache, marks)
        self._told(Progress("trimming"))
        await cache.set_marks(evolve(marks, index=0, by_key=0, by_asset=0).fields())
        left = await cache.trim(cutoff)
        await cache.set_marks(evolve(marks, index=left.index, by_key=left.by_key, by_asset=left.by_asset).fields())
        return evolve(
            summary, why=planned.why, usage=rows + more, reports=reports, trimmed=left.removed, index=left.index
        )

    async def _build(self, cache: SyncCache, marks: Marks, walk: Building | None) -> tuple[Marks, int]:
        of = await self._store.estimate()
        rows = 0
        reading = self._reading(walk)
        try:
            while walk is not None:
                chunk = await reading
                after = next_building(walk, chunk, self._sync._chunk_rows)
                reading = self._reading(after)
                if chunk.last is not None:
                    await cache.write_usage(chunk.rows)
                    rows += len(chunk.rows)
                    marks = evolve(marks, at=chunk.last, index=await cache.index_size())
                    await cache.set_marks(marks.fields())
                self._told(Progress("building the copy of usage", rows, max(rows, of) if of else 0))
                await self._go_on()
                walk = after
        finally:
            reading.addErrback(lambda _: None)
        return marks, rows

    async def _catch_up(self, cache: SyncCache, marks: Marks) -> tuple[Marks, int]:
        try:
            await self._store.summarize()
        except StoreError as error:
            self._sync.log.info("reading new usage may take longer: {error}", error=str(error))
        rows = 0
        walk: CatchingUp | None = caught_up_from(marks, self._now_us)
        reading = self._reading(walk)
        try:
            while walk is not None:
                chunk = await reading
                after = next_catching_up(walk, chunk, self._sync._chunk_rows)
                reading = self._reading(after)
                if chunk.rows:
                    await cache.write_usage(chunk.rows)
                    rows += len(chunk.rows)
                reached = self._now_us if after is None else after.after[0]
                if chunk.rows or after is None:
                    reached = max(marks.written_us, reached)
                    marks = evolve(marks, state=WHOLE, written_us=reached, index=await cache.index_size())
                    await cache.set_marks(marks.fields())
                    self._told(Progress("copying new usage", rows))
                await self._go_on()
                walk = after
        finally:
            reading.addErrback(lambda _: None)
        return marks, rows

    def _reading(self, walk: Walk | None) -> Deferred[Chunk[UsageRow]]:
        """Begin to read the next chunk."""

        async def read() -> Chunk[UsageRow]:
            if walk is None:
                return Chunk((), None)
            return await self._store.usage(walk, self._now_us, self._sync._chunk_rows)

        return ensureDeferred(read())

    async def _copy_reports(self, cache: SyncCache, marks: Marks) -> tuple[Marks, int]:
        count = 0
        after: Place | None = reports_from(marks, self._now_us)
        while after is not None:
            chunk = await self._store.reports(after, self._sync._chunk_rows)
            await cache.write_reports(chunk.rows)
            count += len(chunk.rows)
            after = chunk.last if len(chunk.rows) >= self._sync._chunk_rows else None
            await self._go_on()
        marks = evolve(marks, reports_us=self._now_us)
        await cache.set_marks(marks.fields())
        return marks, count

    async def _go_on(self) -> None:
        """See that we still may.

        @raise SyncLostError: we may not.
        """
        if self._sync._stopped:
            raise SyncLostError("the sync job was told to stop")
        now = self._sync._clock.seconds()
        if now - self._renewed_at >= RENEW_SECONDS:
            if not await self._store.keep(self._token, self._sync._lease_seconds):
                raise SyncLostError("the sync job was taken over by another node")
            self._renewed_at = self._sync._clock.seconds()
