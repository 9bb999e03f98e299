"""Tests of L{tbeast.adapters.cache.valkeyprices}."""

from __future__ import annotations

from tbeast.adapters.cache.valkeyprices import ValkeyPriceCache
from tbeast.test.adapters.cache.clients import SharedServerCase, until
from tbeast.testing.contracts import PriceCacheContract


class ValkeyPriceCacheTests(SharedServerCase, PriceCacheContract):
    cache: ValkeyPriceCache

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.cache = ValkeyPriceCache(self.valkey)

    async def test_where_they_are_stored(self) -> None:
        await self.cache.set_many({"BTC": b"{}"}, 60)
        self.assertEqual(self.server.command("GET", "price:BTC"), b"{}")
        self.assertIn(self.server.command("TTL", "price:BTC"), (59, 60))

    async def test_away_it_has_nothing_and_says_nothing(self) -> None:
        await self.cache.set("BTC", b"1", 60)
        await self.cut()
        self.assertIsNone(await self.cache.get("BTC"))
        await self.cache.set("BTC", b"2", 60)
        await self.cache.set_many({"ETH": b"1", "SOL": b"1"}, 60)
        self.assertEqual((self.cache.unread, self.cache.lost), (1, 3))
        await self.mend()
        self.assertIsNone(await self.cache.get("BTC"))
        await self.cache.set("BTC", b"3", 60)
        self.assertEqual(await self.cache.get("BTC"), b"3")
        self.assertEqual((self.cache.unread, self.cache.lost), (1, 3))

    async def test_something_else_is_stored_there(self) -> None:
        self.server.command("LPUSH", "price:BTC", "x")
        self.assertIsNone(await self.cache.get("BTC"))
        self.assertEqual(self.cache.unread, 1)
        await self.cache.set("BTC", b"1", 60)
        self.assertEqual(await self.cache.get("BTC"), b"1")

    async def test_no_memory_left(self) -> None:
        self.server.command("CONFIG", "SET", "maxmemory", "1")
        self.addCleanup(self.server.command, "CONFIG", "SET", "maxmemory", "0")
        await self.cache.set_many({"BTC": b"1", "ETH": b"1"}, 60)
        self.assertEqual(self.cache.lost, 2)
        self.assertIsNone(await self.cache.get("BTC"))

    async def test_everything_is_flushed_away(self) -> None:
        await self.cache.set("BTC", b"1", 60)
        self.server.command("FLUSHALL")
        self.assertIsNone(await self.cache.get("BTC"))
        self.assertEqual((self.cache.unread, self.cache.lost), (0, 0))
        await until(lambda: self.valkey.status.up)
