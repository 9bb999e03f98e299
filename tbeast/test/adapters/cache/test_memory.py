"""Tests of L{tbeast.adapters.cache.memory}."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.adapters.cache.memory import MemoryPriceCache
from tbeast.testing.contracts import PriceCacheContract


class MemoryPriceCacheContractTests(PriceCacheContract, TestCase):
    def setUp(self) -> None:
        self.time = 1000.0
        self.cache = MemoryPriceCache(lambda: self.time)

    async def pass_seconds(self, seconds: int) -> None:
        self.time += seconds


class MemoryPriceCacheTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = 1000.0
        self.cache = MemoryPriceCache(lambda: self.time, most_entries=3)

    def done(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.successResultOf(ensureDeferred(work))

    def get(self, asset: str) -> bytes | None:
        found: bytes | None = self.done(self.cache.get(asset))
        return found

    def set(self, asset: str, value: bytes, seconds: int) -> None:
        self.done(self.cache.set(asset, value, seconds))

    def test_gives_back_what_was_set(self) -> None:
        self.set("BTC", b"1", 60)
        self.set("ETH", b"2", 60)
        self.set("BTC", b"3", 60)
        self.assertEqual((self.get("BTC"), self.get("ETH"), self.get("SOL")), (b"3", b"2", None))

    def test_a_value_lives_exactly_as_long_as_was_said(self) -> None:
        self.set("BTC", b"1", 60)
        self.time += 59.9
        self.assertEqual(self.get("BTC"), b"1")
        self.time += 0.1
        self.assertIsNone(self.get("BTC"))
        self.assertEqual(len(self.cache), 0)

    def test_no_time_to_live_leaves_nothing(self) -> None:
        self.set("BTC", b"1", 60)
        self.set("BTC", b"2", 0)
        self.assertIsNone(self.get("BTC"))

    def test_when_full_the_one_set_longest_ago_leaves(self) -> None:
        for asset in ("A", "B", "C"):
            self.set(asset, b"1", 60)
        self.set("A", b"2", 60)
        self.set("D", b"1", 60)
        self.assertEqual(len(self.cache), 3)
        self.assertIsNone(self.get("B"))
        self.assertEqual(self.get("A"), b"2")

    def test_when_full_the_dead_leave_before_the_living(self) -> None:
        self.set("A", b"1", 600)
        self.set("B", b"1", 5)
        self.set("C", b"1", 600)
        self.time += 10
        self.set("D", b"1", 600)
        self.assertEqual([self.get(asset) for asset in "ABCD"], [b"1", None, b"1", b"1"])

    def test_setting_again_what_is_there_drives_nothing_out(self) -> None:
        for asset in ("A", "B", "C", "B", "C"):
            self.set(asset, b"1", 60)
        self.assertEqual([self.get(asset) for asset in "ABC"], [b"1", b"1", b"1"])
