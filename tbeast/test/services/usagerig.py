"""The usage writer on a clock, with a real journal and a store that does as it is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from msgspec.json import encode
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock

from tbeast.adapters.spool import files, notes
from tbeast.adapters.spool.journal import SEGMENT_BYTES, Journal
from tbeast.adapters.spool.notes import Notes
from tbeast.domain.counters import Counters
from tbeast.domain.usage import WINDOW_SECONDS, Batch, Kind, Ledger, Row
from tbeast.errors import CacheUnavailableError, StoreUnavailableError
from tbeast.interfaces import RefusedRow, Written
from tbeast.services.usagecycles import LEAVE_SECONDS
from tbeast.services.usagewriter import ROUND_SECONDS, UsageWriter

START = 1_795_348_800.0
A_LITTLE = 1e-9
"""What a step is longer than it says, so that sums of tenths of a second never fall short of the next beat."""
KIND = Kind("alpha", "lpo", "http", "BTC", "median", "shelf", 200, True)


class Store:
    """A store of usage.

    @ivar batches: what it has, by id, in the order of coming.
    @ivar calls: the ids of each write that was asked for.
    @ivar mode: C{up}; C{away}; C{uncertain}: it writes, and then says that it cannot; C{slow}: it answers when told;
        or an exception, which it raises.
    """

    def __init__(self, clock: Clock) -> None:
        self.batches: dict[str, Batch] = {}
        self.calls: list[list[str]] = []
        self.mode: str | Exception = "up"
        self.slow_seconds = 2.0
        self.poisoned: set[str] = set()
        self.first_holds = False  # as in a database; else a batch must be the same each time
        self.at_once = 0
        self.most_at_once = 0
        self.late: dict[IDelayedCall, list[Batch]] = {}
        self._used: dict[str, int] = {}
        self._clock = clock
        self.before: Callable[[Sequence[Batch]], None] = lambda batches: None

    def write(self, batches: Sequence[Batch]) -> Deferred[Written]:
        self.calls.append([batch.id for batch in batches])
        self.before(batches)
        if self.mode == "away":
            return fail(StoreUnavailableError("away"))
        if isinstance(self.mode, Exception):
            return fail(self.mode)
        if any(batch.id in self.poisoned for batch in batches):
            return fail(ValueError("nobody knows what this is"))
        if self.mode == "uncertain":
            self._put(batches)
            return fail(StoreUnavailableError("connection lost"))
        if self.mode == "slow":
            done: Deferred[Written] = Deferred()
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.late[self._clock.callLater(self.slow_seconds, self._late, done, list(batches))] = list(batches)
            return done
        return succeed(self._put(batches))

    def _late(self, done: Deferred[Written], batches: list[Batch]) -> None:
        self.at_once -= 1
        done.callback(self._put(batches))

    def _put(self, batches: Sequence[Batch]) -> Written:
        refused, usage = [], {}
        for batch in batches:
            new = batch.id not in self.batches
            known = self.batches.setdefault(batch.id, batch)
            assert known == batch or self.first_holds, "one id for two batches"
            for place, row in enumerate(batch.rows):
                key_id = row.kind.key_id
                if row.kind.asset == "POISON":
                    refused.append(RefusedRow(batch.id, place, "poison"))
                if new and row.kind.admitted:
                    self._used[key_id] = self._used.get(key_id, 0) + row.request_count
                if key_id:
                    usage[key_id] = ("2026-11", self._used.get(key_id, 0))
        return Written(tuple(refused), usage)

    @property
    def requests(self) -> int:
        return sum(batch.requests for batch in self.batches.values())


class Cache:
    """What the shared cache was told."""

    def __init__(self) -> None:
        self.used: dict[str, int] = {}
        self.told: list[tuple[Mapping[str, int], str, float]] = []
        self.away = False
        self.waiting: list[Deferred[None]] | None = None

    def raise_to(self, used: Mapping[str, int], month: str, expire_at: float) -> Deferred[None]:
        if self.away:
            return fail(CacheUnavailableError("away"))
        self.told.append((dict(used), month, expire_at))
        for key_id, number in used.items():
            self.used[key_id] = max(number, self.used.get(key_id, 0))
        if self.waiting is None:
            return succeed(None)
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def read(self, key_ids: Sequence[str]) -> Deferred[Mapping[str, int]]:
        return succeed(self.used)


class Disk:
    """The module C{os}, as the journal's files see it; it can be full."""

    def __init__(self) -> None:
        self.full = False

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, fd: int, data: bytes) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "no space left on device")
        return os.write(fd, data)


def done(work: Callable[[], None]) -> Deferred[None]:
    """Do what a thread is to do."""
    work()
    return succeed(None)


class Beside:
    """Counts beside a ledger, as a native part keeps them.

    @ivar untold: how many requests nobody has been told of.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[Kind, int], list[Any]] = {}
        self._told: dict[tuple[Kind, int], list[int]] = {}

    def count(self, kind: Kind, now: float, took: int) -> None:
        row = self._rows.setdefault((kind, int(now // WINDOW_SECONDS)), [now, 0, 0, 0])
        row[1] += 1
        row[2] += took
        row[3] = max(row[3], took)

    @property
    def untold(self) -> int:
        told = sum(requests for requests, _ in self._told.values())
        return int(sum(row[1] for row in self._rows.values())) - told

    @property
    def kinds(self) -> int:
        return len(self._rows)

    @property
    def requests(self) -> int:
        return int(sum(row[1] for row in self._rows.values()))

    def drain(self) -> list[Row]:
        rows = [Row(kind, *row) for (kind, _), row in self._rows.items()]
        self._rows, self._told = {}, {}
        return rows

    def tell(self) -> bytes:
        told = []
        for number, (place, (at, requests, total, longest)) in enumerate(self._rows.items()):
            known = self._told.get(place)
            if known is None:
                told.append(encode([place[0], at, requests, total, longest]))
            elif requests > known[0]:
                told.append(encode([number, requests - known[0], total - known[1], longest]))
            self._told[place] = [requests, total]
        return b",".join(told)


class Rig:
    """One daemon's metering after the other, with one folder, one store and one clock.

    @ivar counted: how many requests were counted so far.
    """

    def __init__(
        self, folder: Path, patch: Callable[[Any, str, Any], object], limit: int = 10**8, most_kinds: int = 100_000,
        segment: int = SEGMENT_BYTES, counts_beside: bool = False,
        takes_notes: bool = False,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.counts_beside = counts_beside
        self.takes_notes = takes_notes or counts_beside
        self.limit = limit
        self.segment = segment
        self.most_kinds = most_kinds
        self.clock = Clock()
        self.offset = START
        self.counters = Counters()
        self.store = Store(self.clock)
        self.cache = Cache()
        self.disk = Disk()
        patch(files, "os", self.disk)
        patch(notes, "os", self.disk)
        self.heard: list[Mapping[str, tuple[str, int]]] = []
        self.in_thread: Callable[[Callable[[], None]], Deferred[None]] = done
        self.counted = 0
        self._ids = 0

    def now(self) -> float:
        return self.offset + self.clock.seconds()

    def start(self) -> UsageWriter:
        self.ledger = Ledger(self.most_kinds)
        self.beside = Beside()
        self.notes = Notes(self.folder)
        if self.counts_beside:
            self.ledger.beside = self.beside
        self.journal = Journal(self.folder, self.limit, self.counters, self.segment)
        self.writer = UsageWriter(
            ledger=self.ledger, journal=self.journal, store=self.store, usage_counters=self.cache,
            heard_usage=lambda usage: self.heard.append(usage), counters=self.counters, node="node", clock=self.clock,
            now=self.now, chance=lambda: 0.999, random_bytes=self._random_bytes,
            in_thread=lambda work: self.in_thread(work), notes=self.notes if self.takes_notes else None,
        )  # fmt: skip
        self.writer.startService()
        return self.writer

    def _random_bytes(self, length: int) -> bytes:
        self._ids += 1
        return self._ids.to_bytes(length, "little")

    def count(self, requests: int = 1, **kind: object) -> None:
        for _ in range(requests):
            full = KIND._replace(**kind)  # type: ignore[arg-type]
            if self.counts_beside:
                self.beside.count(full, self.now(), 10)
            else:
                self.ledger.count(*full, self.now(), 10)
        self.counted += requests

    def count_kinds(self, number: int) -> None:
        for place in range(number):
            self.count(asset=f"A{place}")

    def advance(self, seconds: float) -> None:
        """Let time pass, in steps that are no longer than a round, or what leaves in steps of its own."""
        longest = LEAVE_SECONDS if self.writer._ending else ROUND_SECONDS
        steps = max(1, ceil(seconds / longest - 1e-6))
        for _ in range(steps):
            self.clock.advance(seconds / steps + A_LITTLE)

    def turn(self) -> None:
        """One round, and what it leaves to do at once."""
        self.advance(ROUND_SECONDS)
        self.settle()

    def settle(self) -> None:
        """Do all that is to be done at once, or what was noted leaves one after the other."""
        for _ in range(400):
            step = LEAVE_SECONDS + A_LITTLE if self.writer._end_next is not None else 0.0
            if not step and not any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
                break
            self.clock.advance(step)

    def settled(self) -> int:
        """How many rows the store has, once all that leaves has."""
        self.settle()
        return sum(len(one.rows) for one in self.store.batches.values())

    @property
    def untold(self) -> int:
        """How many requests were counted that are not noted."""
        windows = self.ledger._windows.values()
        own = sum(entry[1] - (entry[5] if len(entry) > 4 else 0) for window in windows for entry in window.values())
        return int(own) + self.beside.untold

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.writer.stopService()

    def kill(self) -> None:
        """The process ends here: nothing of it is left but what is on the disk, and what the store does late."""
        for call in self.clock.getDelayedCalls():
            if call not in self.store.late:
                call.cancel()
        # the store's answers still come to what is left of it in this test
        self.writer._drain._ended = True
        self.journal._held.clear()
        for cycle in list(self.notes._files):
            self.notes._close(cycle)
        for fd in (self.journal._fd, self.journal._lock, *self.journal._left_unsynced):
            if fd is not None and fd >= 0:
                os.close(fd)

    @property
    def spooled(self) -> list[str]:
        return sorted(name for name in os.listdir(self.folder) if name != "lock")
