"""A usage writer on a real database, in this process or in one that counts until it is killed.

As a program: the database's URL, the spool's folder, the key's id, and how many requests there are in a burst. It
counts such a burst every five milliseconds, and says C{c <requests>} after each, and C{r <requests>} after each round:
so many had been counted when the round began.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread

from tbeast.adapters.spool.journal import Journal
from tbeast.adapters.store.postgres import Connection, connect, target
from tbeast.adapters.store.threads import StorePool
from tbeast.adapters.store.usagerows import PostgresUsage
from tbeast.domain.counters import Counters
from tbeast.domain.usage import Ledger
from tbeast.services.usagewriter import UsageWriter

reactor: Any = installed_reactor

BURST_SECONDS = 0.005


class NoCache:
    """A shared cache that remembers."""

    def __init__(self) -> None:
        self.used: dict[str, int] = {}

    def raise_to(self, used: Mapping[str, int], month: str, expire_at: float) -> Deferred[None]:
        for key_id, number in used.items():
            self.used[key_id] = max(number, self.used.get(key_id, 0))
        return succeed(None)

    def read(self, key_ids: object) -> Deferred[Mapping[str, int]]:
        return succeed(self.used)


class Metering:
    """Everything from the ledger to the database.

    @ivar counted: how many requests were counted.
    """

    def __init__(self, url: str, folder: Path, connect: Callable[..., Connection] = connect) -> None:
        self.counted = 0
        self.counters = Counters()
        self.ledger = Ledger()
        self.cache = NoCache()
        self.heard: dict[str, tuple[str, int]] = {}
        self.pool = StorePool(target(url), reactor, size=4, connect=connect)
        self.journal = Journal(folder, 10**9, self.counters)
        self.writer = UsageWriter(
            ledger=self.ledger, journal=self.journal, store=PostgresUsage(self.pool), usage_counters=self.cache,
            heard_usage=self.heard.update, counters=self.counters, node="node", clock=reactor, now=time.time,
            chance=Random(1).random, random_bytes=os.urandom, in_thread=deferToThread,
        )  # fmt: skip
        self._load = LoopingCall(self._burst)
        self._burst_size = 0
        self._key_id = "alpha"
        self._after: Callable[[], None] = lambda: None

    def start(self) -> None:
        self.pool.start()
        self.writer.startService()

    async def stop(self) -> None:
        self.end_load()
        await self.writer.stopService()
        await self.pool.stop()

    def load(self, burst: int, key_id: str = "alpha", after: Callable[[], None] = lambda: None) -> None:
        """Count so many requests, of changing kinds, every five milliseconds from now on."""
        self._burst_size, self._key_id, self._after = burst, key_id, after
        self._load.start(BURST_SECONDS, now=False)

    def end_load(self) -> None:
        if self._load.running:
            self._load.stop()

    def _burst(self) -> None:
        now = time.time()
        for _ in range(self._burst_size):
            self.counted += 1
            asset = f"A{self.counted % 40}"
            self.ledger.count(self._key_id, "lpo", "http", asset, "median", "shelf", 200, True, now, 12)
        self._after()

    async def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait until something holds.

        @raise AssertionError: when it does not come to hold in time.
        """
        for _ in range(round(seconds / 0.02)):
            if condition():
                return
            await sleep(0.02)
        raise AssertionError(f"not within {seconds} s; {self.writer.status}; {self.pool.status}")

    async def drained(self) -> None:
        """Wait until everything is in the database."""
        await self.until(lambda: not self.journal.batches and not len(self.ledger) and not self.writer.status.under_way)


def sleep(seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds)


def main(arguments: list[str]) -> None:
    url, folder, key_id, burst = arguments
    metering = Metering(url, Path(folder))
    metering.start()
    writer = metering.writer
    leave = writer._leave

    def left(to_the_end: bool = False) -> bool:
        counted = metering.counted
        done = leave(to_the_end)
        if not len(metering.ledger) and not writer.status.journal_error:
            os.write(1, b"r %d\n" % counted)
        return done

    writer._leave = left  # type: ignore[method-assign]

    def say() -> None:
        os.write(1, b"c %d\n" % metering.counted)

    metering.load(int(burst), key_id, say)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
