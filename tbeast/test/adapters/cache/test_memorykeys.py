"""Tests of L{tbeast.adapters.cache.memorykeys}: the twins are held to what Valkey does."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from tbeast.adapters.cache.memorykeys import MemoryKeyCopies, MemoryKeyEvents, MemoryUsageCounters
from tbeast.testing.contracts import KeyCopiesContract, KeyEventsContract, UsageCountersContract


class MemoryKeyEventsTests(KeyEventsContract, TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.events: MemoryKeyEvents = MemoryKeyEvents(self.clock)

    async def settle(self, true: Callable[[], bool]) -> None:
        self.clock.advance(0)
        assert true()

    async def cut(self) -> None:
        self.events.cut()

    async def mend(self) -> None:
        self.events.mend()

    def failures(self) -> int:
        return len(self.flushLoggedErrors(RuntimeError))

    async def test_a_line_that_is_cut_at_first(self) -> None:
        self.events.cut()
        told = self.listen()
        self.clock.advance(1)
        self.assertEqual(told, [])
        self.events.mend()
        self.events.mend()
        self.clock.advance(0)
        self.assertEqual(told, ["regained"])


class MemoryKeyCopiesTests(KeyCopiesContract, TestCase):
    def setUp(self) -> None:
        self.time = 1000.0
        self.copies: MemoryKeyCopies = MemoryKeyCopies(lambda: self.time)

    async def cut(self) -> None:
        self.copies.away = "of the test"

    async def test_a_copy_lives_for_a_day_after_it_was_put_last(self) -> None:
        await self.copies.put_many({"1" * 64: b"1", "2" * 64: b"2"})
        self.time += 3600
        await self.copies.put_many({"2" * 64: b"2"})
        self.time += 23 * 3600 - 1
        self.assertEqual(set(await self.copies.all()), {"1" * 64, "2" * 64})
        self.time += 1
        self.assertEqual(set(await self.copies.all()), {"2" * 64})


class MemoryUsageCountersTests(UsageCountersContract, TestCase):
    def setUp(self) -> None:
        self.time = 1000.0
        self.counters: MemoryUsageCounters = MemoryUsageCounters(lambda: self.time)

    def now(self) -> float:
        return self.time

    async def pass_seconds(self, seconds: int) -> None:
        self.time += seconds

    async def cut(self) -> None:
        self.counters.away = "of the test"
