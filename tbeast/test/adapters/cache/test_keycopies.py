"""Tests of L{tbeast.adapters.cache.keycopies}."""

from __future__ import annotations

from tbeast.adapters.cache.keycopies import ValkeyKeyCopies
from tbeast.adapters.cache.valkey import RefusedError
from tbeast.test.adapters.cache.clients import SharedServerCase
from tbeast.testing.contracts import KeyCopiesContract

ONE, TWO = "1" * 64, "2" * 64


class ValkeyKeyCopiesTests(SharedServerCase, KeyCopiesContract):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.copies = ValkeyKeyCopies(self.valkey)

    async def test_where_they_are_stored(self) -> None:
        await self.copies.put_many({ONE: b"{}"})
        self.assertEqual(self.server.command("GET", f"apikey:{ONE}"), b"{}")
        self.assertIn(self.server.command("TTL", f"apikey:{ONE}"), (86399, 86400))

    async def test_what_is_not_ours_is_passed_over(self) -> None:
        await self.copies.put_many({ONE: b"{}"})
        self.server.command("SET", "apikey:other", "1")
        self.server.command("SET", f"apikey:{'A' * 64}", "1")
        self.server.command("SET", f"apikey:{ONE}:more", "1")
        self.server.command("SET", f"other:apikey:{TWO}", "1")
        self.server.command("LPUSH", f"apikey:{TWO}", "1")
        self.assertEqual(await self.copies.all(), {ONE: b"{}"})

    async def test_among_many_other_keys(self) -> None:
        self.server.command("DEBUG", "POPULATE", 30_000, "usage_log")
        await self.copies.put_many({ONE: b"1", TWO: b"2"})
        self.assertEqual(await self.copies.all(), {ONE: b"1", TWO: b"2"})

    async def test_what_cannot_be_stored_is_told(self) -> None:
        self.server.command("CONFIG", "SET", "maxmemory", "1")
        self.addCleanup(self.server.command, "CONFIG", "SET", "maxmemory", "0")
        with self.assertRaisesRegex(RefusedError, "OOM"):
            await self.copies.put_many({ONE: b"{}"})
