"""What the sync job writes, as it lies in a real server."""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.cache import rebuilding
from tbeast.adapters.cache.rebuilding import Layout, ValkeyParameterCopies, ValkeyRebuilding, laid_out_reports
from tbeast.adapters.cache.resp import RefusedError, packed
from tbeast.domain.syncplan import (
    KEPT_SECONDS,
    REPORT_FIELDS,
    SECOND,
    USAGE_FIELDS,
    Marks,
    ReportRow,
    Survey,
    Trimmed,
    UsageKind,
    UsageRow,
    read_marks,
)
from tbeast.errors import CacheUnavailableError
from tbeast.test.adapters.cache.clients import SharedServerCase

DAY = 86_400 * SECOND


def kind(key_id: bytes = b"abc", asset: bytes = b"BTC", source: bytes = b"median") -> UsageKind:
    return UsageKind(key_id, b"n1", b"lpo", b"http", asset, source, b"shelf", b"200", b"1")


def row(number: int, at_us: int, of: UsageKind | None = None) -> UsageRow:
    return UsageRow(b"00000000-0000-0000-0000-%012d" % number, b"%d" % at_us, b"3", b"70", b"40", of or kind())


def report(number: int, at_us: int) -> ReportRow:
    values = (b"%d" % at_us, b"abc", b"n1", b"usage", b"json", b"200", b"7", b"900", b'{"a": "\r\n"}')
    return ReportRow(b"11111111-0000-0000-0000-%012d" % number, values)


def commands_in(data: bytes) -> int:
    """How many commands a server would find."""
    count = at = 0
    while at < len(data):
        end = data.index(b"\r\n", at)
        words, at = int(data[at + 1 : end]), end + 2
        for _ in range(words):
            end = data.index(b"\r\n", at)
            at = end + 2 + int(data[at + 1 : end]) + 2
        count += 1
    return count


class LayoutTests(SynchronousTestCase):
    """The bytes are those that the plain way to write commands would give."""

    def commands(self, rows: list[UsageRow]) -> bytes:
        pieces = []
        every: list[bytes] = []
        by_key: dict[bytes, list[bytes]] = {}
        by_asset: dict[bytes, list[bytes]] = {}
        for one in rows:
            values = (*one[1:5], *one.kind)
            fields = [word for pair in zip(USAGE_FIELDS, values, strict=True) for word in pair]
            pieces.append(packed("HSET", b"usage_log:" + one.id, *fields))
            pieces.append(packed("EXPIREAT", b"usage_log:" + one.id, int(one.at) // SECOND + KEPT_SECONDS))
            member = [b"%d" % (int(one.at) // 1000), one.id]
            every += member
            if one.kind.key_id:
                by_key.setdefault(one.kind.key_id, []).extend(member)
            if one.kind.asset:
                by_asset.setdefault(one.kind.asset, []).extend(member)
        sets = [(b"usage_logs:index", every)] if rows else []
        sets += [(b"usage_logs:api_key:" + name, members) for name, members in by_key.items()]
        sets += [(b"usage_logs:asset:" + name, members) for name, members in by_asset.items()]
        for name, members in sets:
            pieces += [packed("ZADD", name, *members), packed("EXPIRE", name, KEPT_SECONDS)]
        return b"".join(pieces)

    @given(
        st.lists(
            st.tuples(
                st.integers(10**15, 10**16 - 1), st.sampled_from([b"", b"abc", b"d\r\n"]),
                st.sampled_from([b"", b"BTC", b"*"]), st.binary(max_size=4),
            ),
            max_size=12,
        )
    )  # fmt: skip
    @settings(deadline=None, max_examples=100)
    def test_rows(self, drawn: list[tuple[int, bytes, bytes, bytes]]) -> None:
        rows = [row(number, at, kind(*of)) for number, (at, *of) in enumerate(drawn)]
        layout = Layout()
        for _ in range(2):  # what it remembers makes no difference
            data, replies = layout.usage(rows)
            self.assertEqual(data, self.commands(rows))
            self.assertEqual(replies, commands_in(data))

    def test_it_remembers_no_more_than_its_limit(self) -> None:
        layout = Layout()
        rows = [row(number, 10**15, kind(source=b"%d" % number)) for number in range(10)]
        with mock.patch.object(rebuilding, "MOST_KINDS", 4):
            data, _ = layout.usage(rows)
        self.assertEqual(data, self.commands(rows))
        self.assertLessEqual(len(layout._kinds), 4)

    def test_reports(self) -> None:
        one = report(1, 10**15)
        fields = [word for pair in zip(REPORT_FIELDS, one.values, strict=True) for word in pair]
        wanted = packed("HSET", b"report_usage:" + one.id, *fields)
        wanted += packed("EXPIREAT", b"report_usage:" + one.id, 10**9 + KEPT_SECONDS)
        self.assertEqual(laid_out_reports([one]), (wanted, 2))
        self.assertEqual(laid_out_reports([]), (b"", 0))


class RebuildingTests(SharedServerCase):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.cache = ValkeyRebuilding(self.valkey, slice_rows=3)
        self.now_us = int(time.time()) * SECOND
        self.cutoff = self.now_us - KEPT_SECONDS * SECOND

    def ask(self, *words: bytes | str | int) -> Any:
        return self.server.command(*words)

    def everything(self) -> dict[bytes, Any]:
        found = {}
        for name in self.ask("KEYS", "*"):
            sort = self.ask("TYPE", name)
            found[name] = (
                self.ask("ZRANGE", name, 0, -1, "WITHSCORES") if sort == b"zset" else self.ask("HGETALL", name)
            )
        return found

    async def test_a_row_and_its_entries(self) -> None:
        one = row(1, self.now_us - DAY + 999_999)
        await self.cache.write_usage([one])
        words = self.ask("HGETALL", b"usage_log:" + one.id)
        self.assertEqual(words[::2], [name.encode() for name in USAGE_FIELDS])
        self.assertEqual(words[1::2], [*one[1:5], *one.kind])
        left = self.ask("TTL", b"usage_log:" + one.id)
        self.assertTrue(KEPT_SECONDS - 86_400 - 60 <= left <= KEPT_SECONDS - 86_400, left)
        entry = [one.id, b"%d" % ((self.now_us - DAY) // 1000 + 999)]
        for name in ("usage_logs:index", "usage_logs:api_key:abc", "usage_logs:asset:BTC"):
            self.assertEqual(self.ask("ZRANGE", name, 0, -1, "WITHSCORES"), entry, name)
            self.assertTrue(KEPT_SECONDS - 60 <= self.ask("TTL", name) <= KEPT_SECONDS)
        self.assertEqual(len(self.everything()), 4)

    async def test_nobodys_rows_and_those_without_an_asset_are_in_the_index_alone(self) -> None:
        await self.cache.write_usage([row(1, self.now_us, kind(b"", b""))])
        self.assertEqual(set(self.everything()), {b"usage_logs:index", b"usage_log:" + row(1, 0).id})

    async def test_writing_again_changes_nothing(self) -> None:
        rows = [row(number, self.now_us - number, kind(b"k%d" % (number % 2))) for number in range(10)]
        await self.cache.write_usage(rows)
        before = self.everything()
        await self.cache.write_usage(rows[4:])
        await self.cache.write_usage(rows)
        self.assertEqual(self.everything(), before)
        self.assertEqual(await self.cache.index_size(), 10)
        self.assertEqual(len(before), 10 + 1 + 2 + 1)

    async def test_nothing_to_write(self) -> None:
        await self.cache.write_usage([])
        await self.cache.write_reports([])
        self.assertEqual(self.everything(), {})

    async def test_reports(self) -> None:
        await self.cache.write_reports([report(number, self.now_us - number * DAY) for number in range(5)])
        words = self.ask("HGETALL", b"report_usage:" + report(3, 0).id)
        self.assertEqual(words[1::2], list(report(3, self.now_us - 3 * DAY).values))
        left = self.ask("TTL", b"report_usage:" + report(3, 0).id)
        self.assertTrue(KEPT_SECONDS - 3 * 86_400 - 60 <= left <= KEPT_SECONDS - 3 * 86_400)

    async def test_marks(self) -> None:
        self.assertEqual(await self.cache.marks(), {})
        marks = Marks("whole", "here", 1, (2, "00000000-0000-0000-0000-000000000003"), 4, 5, 6, 7, 8)
        await self.cache.set_marks(marks.fields())
        self.assertEqual(read_marks(await self.cache.marks()), marks)

    async def test_a_survey_of_nothing(self) -> None:
        self.assertEqual(await self.cache.survey(self.cutoff), Survey(0, 0, 0))

    async def test_a_survey(self) -> None:
        old = [row(number, self.cutoff - DAY + 3_600 * SECOND, kind(b"k", b"ETH")) for number in range(4)]
        rows = [row(10 + number, self.now_us - number * 1000, kind(b"k%d" % (number % 3))) for number in range(50)]
        await self.cache.write_usage([*old, *rows, row(99, self.now_us, kind(b"", b""))])
        for one in old:
            self.ask("DEL", b"usage_log:" + one.id)  # their time is over
        self.assertEqual(await self.cache.survey(self.cutoff), Survey(55, 54, 54, looked_for=30, missing=0))
        for one in rows[:40]:
            self.ask("DEL", b"usage_log:" + one.id)
        found = await self.cache.survey(self.cutoff)
        self.assertTrue(15 <= found.missing <= 30, found)
        self.ask("DEL", "usage_logs:api_key:k1")
        self.assertEqual((await self.cache.survey(self.cutoff)).by_key, 54 - 17)

    async def test_forgetting_drops_the_sets_and_nothing_else(self) -> None:
        await self.cache.write_usage([row(number, self.now_us, kind(b"k%d" % number)) for number in range(5)])
        await self.cache.set_marks({"state": "whole"})
        self.ask("SET", "usage_logs", "other")
        self.ask("SET", "apikey:abc", "other")
        await self.cache.forget()
        self.assertEqual(self.ask("KEYS", "usage_logs:*"), [])
        self.assertEqual(len(self.ask("KEYS", "*")), 5 + 3)

    async def test_trimming_removes_what_is_too_old_from_every_set(self) -> None:
        rows = [row(number, self.cutoff + (number - 10) * 1000, kind(b"k%d" % (number % 2))) for number in range(20)]
        await self.cache.write_usage(rows)
        await self.cache.write_usage([row(99, self.cutoff - DAY, kind(b"gone", b"GONE"))])
        with mock.patch.object(rebuilding, "TRIMMED_AT_ONCE", 3):
            self.assertEqual(await self.cache.trim(self.cutoff), Trimmed(11, 10, 10, 10))
        kept = {one.id for one in rows[10:]}
        self.assertEqual(set(self.ask("ZRANGE", "usage_logs:index", 0, -1)), kept)
        self.assertEqual(set(self.ask("ZRANGE", "usage_logs:asset:BTC", 0, -1)), kept)
        self.assertEqual(set(self.ask("ZRANGE", "usage_logs:api_key:k0", 0, -1)), {one.id for one in rows[10::2]})
        self.assertEqual(self.ask("EXISTS", "usage_logs:api_key:gone", "usage_logs:asset:GONE"), 0)
        self.assertEqual(await self.cache.trim(self.cutoff), Trimmed(0, 10, 10, 10))

    async def test_trimming_many_of_one_moment(self) -> None:
        await self.cache.write_usage([row(number, self.cutoff - 1000) for number in range(10)])
        with mock.patch.object(rebuilding, "TRIMMED_AT_ONCE", 3):
            self.assertEqual(await self.cache.trim(self.cutoff), Trimmed(10, 0, 0, 0))

    async def test_a_name_that_is_taken_by_something_else_is_told(self) -> None:
        self.ask("SET", "usage_logs:asset:BTC", "what is this")
        with self.assertRaises(RefusedError):
            await self.cache.write_usage([row(1, self.now_us)])
        with self.assertRaises(RefusedError):
            await self.cache.survey(self.cutoff)
        await self.cache.forget()
        await self.cache.write_usage([row(1, self.now_us)])
        self.assertEqual(await self.cache.survey(self.cutoff), Survey(1, 1, 1, looked_for=1))

    async def test_a_server_that_is_away_is_told(self) -> None:
        rows = [row(number, self.now_us) for number in range(20)]
        await self.cut()
        for asking in (
            self.cache.write_usage(rows), self.cache.survey(self.cutoff), self.cache.trim(self.cutoff),
            self.cache.marks(), self.cache.set_marks({"a": "b"}), self.cache.forget(), self.cache.index_size(),
        ):  # fmt: skip
            with self.assertRaises(CacheUnavailableError):
                await asking
        await self.mend()
        self.assertEqual(await self.cache.index_size(), 0)


class ParameterCopiesTests(SharedServerCase):
    async def test_the_copy(self) -> None:
        copies = ValkeyParameterCopies(self.valkey)
        self.assertEqual(await copies.read(), {})
        await copies.put({"a": "1", "b": "ü"})
        self.assertEqual(await copies.read(), {"a": "1", "b": "ü"})
        self.assertEqual(self.server.command("HGET", "app:config", "a"), b"1")
        await copies.put({"b": "2"})
        self.assertEqual(await copies.read(), {"b": "2"})
        await copies.put({})
        self.assertEqual(await copies.read(), {})

    async def test_what_lies_there_of_another_sort_is_replaced(self) -> None:
        self.server.command("SET", "app:config", "x")
        copies = ValkeyParameterCopies(self.valkey)
        with self.assertRaises(CacheUnavailableError):
            await copies.read()
        await copies.put({"a": "1"})
        self.assertEqual(await copies.read(), {"a": "1"})

    async def test_a_server_that_is_away(self) -> None:
        copies = ValkeyParameterCopies(self.valkey)
        await self.cut()
        with self.assertRaises(CacheUnavailableError):
            await copies.put({"a": "1"})
        with self.assertRaises(CacheUnavailableError):
            await copies.read()
