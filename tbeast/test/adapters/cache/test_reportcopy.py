"""What reports read of the copy in a real server: what the sync job has put there, each line once and in order."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from attrs import evolve

from tbeast.adapters.cache.rebuilding import ValkeyRebuilding
from tbeast.adapters.cache.reportcopy import ValkeyReports
from tbeast.domain.reports import USAGE, ReportQuery, UsageLine, place_of, usage_line
from tbeast.domain.syncplan import SECOND, UsageKind, UsageRow
from tbeast.errors import CopyIncompleteError
from tbeast.test.adapters.cache.clients import SharedServerCase

START_US = 1_795_000_000 * SECOND
ALL = ReportQuery(USAGE, None, START_US, START_US + 100 * SECOND)


def row(number: int, at_us: int) -> UsageRow:
    """Of two keys and nobody, of two assets and none, each in its turn."""
    kind = UsageKind(
        (b"abc", b"xyz", b"")[number % 3], b"n1", b"lpo", b"udp", (b"BTC", b"ETH", b"", b"BTC")[number % 4],
        (b"median", b"kraken-ws")[number % 2], b"shelf", (b"200", b"429")[number % 2], b"%d" % (1 - number % 2),
    )  # fmt: skip
    row_id = str(UUID(int=(number * 7919) % 1000 + 1)).encode()
    return UsageRow(row_id, b"%d" % at_us, b"%d" % (number + 1), b"%d" % (number * 10), b"%d" % number, kind)


class ReportCopyTests(SharedServerCase):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.copy = ValkeyReports(self.valkey)
        # several in a millisecond, several at the same time
        self.rows = [row(number, START_US + number // 3 * 400) for number in range(200)]
        await ValkeyRebuilding(self.valkey).write_usage(self.rows)
        self.whole = sorted(map(usage_line, self.rows), key=place_of)

    async def lines(self, query: ReportQuery, limit: int) -> list[UsageLine]:
        found: list[UsageLine] = []
        after, goes_on = query.begins_after, True
        while goes_on:
            chunk = await self.copy.usage(query, after, limit)
            self.assertEqual(sorted(chunk.lines, key=place_of), chunk.lines)
            if chunk.goes_on:
                self.assertGreater(chunk.after, after)
                self.assertTrue(all(place_of(line) < chunk.after for line in chunk.lines))
            found += chunk.lines
            after, goes_on = chunk.after, chunk.goes_on
        return found

    async def test_every_line_once_and_in_order(self) -> None:
        for limit in (1, 2, 7, 30, 199, 200, 201, 1000):
            self.assertEqual(self.whole, await self.lines(ALL, limit), limit)

    async def test_marks(self) -> None:
        """They are those that the sync job has set."""
        await ValkeyRebuilding(self.valkey).set_marks({"state": "whole", "written_us": "7"})
        marks = await self.copy.marks()
        self.assertEqual(("whole", "7"), (marks["state"], marks["written_us"]))
        self.server.command("DEL", "sync:marks")
        self.assertEqual({}, await self.copy.marks())

    async def test_filters(self) -> None:
        for chosen in (
            {"key_id": "abc"}, {"key_id": ""}, {"key_id": "nobody"}, {"asset": "ETH"}, {"asset": "NONE"},
            {"source": "median"}, {"key_id": "xyz", "asset": "BTC", "source": "kraken-ws"},
            {"key_id": "", "asset": "BTC"},
        ):  # fmt: skip
            query = evolve(ALL, **chosen)  # type: ignore[arg-type]
            wanted = [line for line in self.whole if query.takes(line)]
            for limit in (3, 50, 1000):
                self.assertEqual(wanted, await self.lines(query, limit), chosen)

    async def test_the_range(self) -> None:
        """Its ends lie within milliseconds."""
        for at in (self.whole[50].at_us, self.whole[51].at_us + 1, START_US + 7_001):
            first, second = evolve(ALL, to_us=at), evolve(ALL, from_us=at, asked_from_us=at)
            self.assertEqual(self.whole, await self.lines(first, 9) + await self.lines(second, 9))
        self.assertEqual([], await self.lines(evolve(ALL, to_us=START_US), 9))

    async def test_going_on_in_the_middle(self) -> None:
        for place in (0, 1, 2, 77, 198, 199):
            after = place_of(self.whole[place])
            found = await self.lines(evolve(ALL, after=after), 11)
            self.assertEqual(self.whole[place + 1 :], found)

    async def test_what_is_missing(self) -> None:
        """Then nothing is given."""
        for change in (
            ("DEL",), ("HDEL", "source"), ("HSET", "request_count", "many"),
        ):  # fmt: skip
            name = b"usage_log:" + self.rows[100].id
            command, *rest = change
            self.server.command(command, name, *rest)
            await self.assert_incomplete()
            await ValkeyRebuilding(self.valkey).write_usage([self.rows[100]])
            self.assertEqual(self.whole, await self.lines(ALL, 1000))

    async def assert_incomplete(self) -> None:
        try:
            found: Any = await self.lines(ALL, 50)
        except CopyIncompleteError as error:
            self.assertIn(self.rows[100].id.decode(), str(error))
        else:
            self.fail(f"{len(found)} lines were given")
