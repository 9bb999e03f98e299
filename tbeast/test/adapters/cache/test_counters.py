"""Tests of L{tbeast.adapters.cache.counters}."""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from tbeast.adapters.cache.counters import ValkeyUsageCounters
from tbeast.adapters.cache.valkey import RefusedError
from tbeast.test.adapters.cache.clients import SharedServerCase
from tbeast.testing.contracts import UsageCountersContract


class ValkeyUsageCountersTests(SharedServerCase, UsageCountersContract):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.counters = ValkeyUsageCounters(self.valkey)

    async def test_where_they_are_stored(self) -> None:
        await self.counters.raise_to({"k": 7}, "2026-11", self.now() + 100.2)
        self.assertEqual(self.server.command("GET", "usage:counter:k"), b"7")
        self.assertIn(self.server.command("TTL", "usage:counter:k"), (100, 101))

    async def test_a_new_month_has_a_new_end(self) -> None:
        await self.counters.raise_to({"k": 7}, "2026-11", self.now() + 100)
        await self.counters.raise_to({"k": 1}, "2026-12", self.now() + 5000)
        self.assertIn(self.server.command("TTL", "usage:counter:k"), (4999, 5000, 5001))

    async def test_what_is_not_ours_gives_way(self) -> None:
        self.server.command("SET", "usage:counter:a", "many")
        self.server.command("HSET", "usage:counter:b", "month", "2026-11", "count", "many")
        self.server.command("SET", "usage:counter:c", "77")
        self.assertEqual(await self.counters.read(["a", "b"]), {})
        await self.counters.raise_to({"a": 1, "b": 2, "c": 3}, "2026-11", self.now() + 100)
        self.assertEqual(await self.counters.read(["a", "b", "c"]), {"a": 1, "b": 2, "c": 3})

    async def test_the_server_has_forgotten_the_script(self) -> None:
        await self.counters.raise_to({"a": 1, "b": 1}, "2026-11", self.now() + 100)
        self.server.command("SCRIPT", "FLUSH")
        await self.counters.raise_to({"a": 2, "b": 3}, "2026-11", self.now() + 100)
        self.assertEqual(await self.counters.read(["a", "b"]), {"a": 2, "b": 3})

    async def test_nodes_that_report_all_at_once(self) -> None:
        nodes = [self.client(self.server.url) for _ in range(3)]
        await gatherResults([node.start() for node in nodes])
        for round_ in range(20):
            for place, node in enumerate(nodes):
                await ValkeyUsageCounters(node).raise_to(
                    {"k": (round_ * 7 + place * 5) % 23}, "2026-11", self.now() + 9
                )
        self.assertEqual(await self.counters.read(["k"]), {"k": 22})

    async def test_what_cannot_be_stored_is_told(self) -> None:
        self.server.command("CONFIG", "SET", "maxmemory", "1")
        self.addCleanup(self.server.command, "CONFIG", "SET", "maxmemory", "0")
        with self.assertRaisesRegex(RefusedError, "OOM"):
            await self.counters.raise_to({"a": 1}, "2026-11", self.now() + 100)
