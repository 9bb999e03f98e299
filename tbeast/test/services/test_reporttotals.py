"""Reports out of a real PostgreSQL and a real Valkey: to the request what was written, wherever it lies meanwhile."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any, cast

from twisted.internet import reactor

from tbeast.adapters.cache.counters import ValkeyUsageCounters
from tbeast.adapters.cache.keycopies import ValkeyKeyCopies
from tbeast.adapters.cache.rebuilding import ValkeyParameterCopies, ValkeyRebuilding
from tbeast.adapters.cache.reportcopy import ValkeyReports
from tbeast.adapters.store.keyrows import PostgresKeys
from tbeast.adapters.store.parameterrows import PostgresParameters
from tbeast.adapters.store.postgres import target
from tbeast.adapters.store.reportlog import PostgresReportLog
from tbeast.adapters.store.reportrows import PostgresReports
from tbeast.adapters.store.syncrows import PostgresSync
from tbeast.adapters.store.threads import StorePool
from tbeast.adapters.store.usagerows import PostgresUsage
from tbeast.codecs.reportqueries import Asked, report_query
from tbeast.domain.reports import SUMMARY, USAGE, ReportQuery
from tbeast.domain.reportsources import CopiedLines
from tbeast.domain.syncplan import Place
from tbeast.domain.usage import Kind, Row, batches_of
from tbeast.services.reportreading import ReportReading
from tbeast.services.reports import Reports
from tbeast.services.sync import CacheSide, Sync
from tbeast.test.adapters.cache.clients import SharedServerCase, sleep
from tbeast.testing.postgres import fresh_database

KEYS = ("keykeykey1", "keykeykey2", "")
DAY = 86_400.0


class CountedCopy(ValkeyReports):
    """Counts what the copy gives, and may be told to do something before it gives more."""

    given = 0
    before: Callable[[], Any] | None = None

    async def usage(self, query: ReportQuery, after: Place, limit: int) -> CopiedLines:
        if self.before is not None and self.given:
            before, self.before = self.before, None
            await before()
        found = await super().usage(query, after, limit)
        self.given += len(found.lines)
        return found


class TotalsCase(SharedServerCase):
    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        if not self.server.running:
            await self.mend()
        self.server.command("FLUSHALL")
        self.random = Random(self.id())
        self.first, self.until = (datetime.fromtimestamp(time.time() + days * DAY, UTC) for days in (-5.0, 1.0))
        self.pool = StorePool(target(fresh_database(self)), cast(Any, reactor))
        self.pool.start()
        self.addCleanup(self.pool.stop)
        self.usage = PostgresUsage(self.pool)
        self.written: list[Row] = []
        keys = PostgresKeys(self.pool, os.urandom)
        cache_side = CacheSide(
            ValkeyRebuilding(self.valkey), ValkeyKeyCopies(self.valkey), ValkeyUsageCounters(self.valkey),
            ValkeyParameterCopies(self.valkey),
        )  # fmt: skip
        self.sync = Sync(
            PostgresSync(self.pool), keys, PostgresParameters(self.pool), cache_side, cast(Any, reactor), "n1",
            lambda: os.urandom(16).hex(),
        )  # fmt: skip
        store = self.store = PostgresReports(self.pool)
        self.copy = CountedCopy(self.valkey)
        self.reports = Reports(
            reading=ReportReading(store, self.copy, 40), store=store, report_log=PostgresReportLog(self.pool, "n1"),
            clock=cast(Any, reactor), now=time.time, random_bytes=os.urandom,
        )  # fmt: skip

    def rows(self, number: int, days: tuple[float, float] = (-3.0, 0.0)) -> list[Row]:
        """So many rows of all sorts, of so many days ago."""
        random = self.random
        rows: list[Row] = []
        for _ in range(number):
            status = random.choice((200, 200, 200, 429, 404))
            kind = Kind(
                random.choice(KEYS), random.choice(("lpo", "lpo", "lrs")), random.choice(("http", "udp")),
                random.choice(("BTC", "ETH", "*", "")), random.choice(("median", "kraken-ws", "")), "shelf", status,
                status == 200,
            )  # fmt: skip
            # now and then several at the same time, down to the microsecond
            at = rows[-1].at if rows and random.random() < 0.2 else time.time() + random.uniform(*days) * DAY
            requests, longest = random.randint(1, 9), random.randint(0, 5_000)
            rows.append(Row(kind, at, requests, random.randint(longest, longest * requests + 1), longest))
        return rows

    async def write(self, rows: Sequence[Row], keep: bool = True) -> None:
        """Write rows as the daemon does, in several batches."""
        await self.usage.write(batches_of(list(rows), "n1", time.time(), os.urandom, 70))
        await self.settle_down()
        if keep:
            self.written += rows

    async def settle_down(self) -> None:
        """Wait until reports hold everything that was written up to now: the server may be writing on its own."""
        now_us = (await self.store.moment()).now_us
        while (await self.store.moment()).settled_us < now_us:
            await sleep(0.005)

    async def age(self) -> None:
        """An hour goes by: what was written is long settled."""
        await self.pool.run(
            lambda connection: connection.cursor().execute(
                "UPDATE usage_logs SET written_at = written_at - interval '1 hour'"
            )
        )

    def asked(self, report: str, query: str) -> Asked:
        text = f"from={self.first:%Y-%m-%dT%H:%M:%S}Z&to={self.until:%Y-%m-%dT%H:%M:%S}Z&{query}"
        asked = report_query(report, text.encode(), key_id=None, now_us=int(time.time() * 1e6))
        assert isinstance(asked, Asked), asked
        return asked

    async def report(self, report: str, query: str = "") -> bytes:
        """A report of everything, unless the query says less."""
        made = await self.reports.begin(None, self.asked(report, query), time.time())
        assert made.problem is None, made.problem
        try:
            return b"".join([piece async for piece in made.pieces()]) if made.body is None else made.body
        finally:
            made.close()

    def wanted(self, asset: str = "", key_id: str | None = None) -> dict[str, int]:
        """What was written adds up to."""
        rows = [
            row for row in self.written
            if asset in ("", row.kind.asset) and (key_id is None or row.kind.key_id == key_id)
        ]  # fmt: skip
        billed = sum(row.request_count for row in rows if row.kind.admitted)
        requests = sum(row.request_count for row in rows)
        return {
            "lines": len(rows), "requests": requests, "billed": billed, "refused": requests - billed,
            "response_us_sum": sum(row.response_us_sum for row in rows),
            "response_us_max": max((row.response_us_max for row in rows), default=0),
        }  # fmt: skip

    def of_table(self, table: bytes, delimiter: str) -> dict[str, int]:
        """What a csv or tsv adds up to."""
        rows = list(csv.DictReader(io.StringIO(table.decode(), newline=""), delimiter=delimiter))
        self.assertEqual(len(rows), len({row["id"] for row in rows}))
        self.assertEqual(sorted((row["at"], row["id"]) for row in rows), [(row["at"], row["id"]) for row in rows])
        requests = sum(int(row["request_count"]) for row in rows)
        billed = sum(int(row["request_count"]) for row in rows if row["admitted"] == "true")
        return {
            "lines": len(rows), "requests": requests, "billed": billed, "refused": requests - billed,
            "response_us_sum": sum(int(row["response_us_sum"]) for row in rows),
            "response_us_max": max((int(row["response_us_max"]) for row in rows), default=0),
        }  # fmt: skip

    async def of_pages(self, query: str) -> dict[str, int]:
        """What the pages of JSON add up to."""
        sums: dict[str, int] = dict.fromkeys(self.wanted(), 0)
        cursor = ""
        while True:
            page = json.loads(await self.report(USAGE, f"{query}&page_size=97{cursor and '&cursor='}{cursor}"))
            sums["lines"] += page["row_count"]
            for name in ("requests", "billed", "refused", "response_us_sum"):
                sums[name] += page["totals"][name]
            sums["response_us_max"] = max(sums["response_us_max"], page["totals"]["response_us_max"])
            cursor = page["next_cursor"]
            if not cursor:
                return sums

    async def assert_equal_to_what_was_written(self) -> None:
        for asset, key_id in (("", None), ("BTC", None), ("", KEYS[0]), ("*", KEYS[1])):
            query = f"asset={asset}" if asset else ""
            query += f"&key_id={key_id}" if key_id else ""
            wanted = self.wanted(asset, key_id)
            self.assertGreater(wanted["lines"], 0)
            self.assertEqual(wanted, self.of_table(await self.report(USAGE, f"format=csv&{query}"), ","))
            self.assertEqual(wanted, self.of_table(await self.report(USAGE, f"format=tsv&{query}"), "\t"))
            self.assertEqual(wanted, await self.of_pages(query))
            totals = json.loads(await self.report(SUMMARY, query))["totals"]
            del wanted["lines"]
            self.assertEqual(wanted, {name: totals[name] for name in wanted})


class TotalsTests(TotalsCase):
    async def test_in_the_database_alone(self) -> None:
        await self.write(self.rows(400))
        await self.assert_equal_to_what_was_written()
        self.assertEqual(0, self.copy.given)

    async def test_in_the_copy_alone(self) -> None:
        """What is long settled is read from it."""
        await self.write(self.rows(400))
        await self.age()
        await self.sync.run()
        await self.assert_equal_to_what_was_written()
        copied = self.copy.given
        self.copy.given = 0
        await self.report(USAGE, "format=csv")
        self.assertEqual((400, True), (self.copy.given, copied > 400))

    async def test_in_both_and_some_twice(self) -> None:
        """Old rows are in the copy, new ones in the database, and what was just copied is in both."""
        await self.write(self.rows(250))
        await self.age()
        await self.write(self.rows(100))
        await self.sync.run()
        await self.write(self.rows(150))
        await self.assert_equal_to_what_was_written()
        self.assertGreater(self.copy.given, 250)

    async def test_more_is_written_meanwhile(self) -> None:
        """A report is what was there when it began, wherever in its range the new rows are, and copied or not."""
        await self.write(self.rows(300))
        await self.age()
        await self.write(self.rows(50))
        await self.sync.run()

        async def write() -> None:
            await self.write(self.rows(80), keep=False)
            await self.sync.run()

        for form, delimiter in (("csv", ","), ("tsv", "\t")):
            self.copy.given, self.copy.before = 0, write
            self.assertEqual(self.wanted(), self.of_table(await self.report(USAGE, f"format={form}"), delimiter))
            self.assertIsNone(self.copy.before)
            # what is known of the new rows is that they are in the next report
            lines = self.of_table(await self.report(USAGE, "format=csv"), ",")["lines"]
            self.assertEqual(len(self.written) + 80, lines)
            await self.pool.run(lambda connection: self._forget_new(connection))
            self.server.command("FLUSHALL")
            await self.sync.run()

    def _forget_new(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM usage_logs WHERE (at, id) IN"
                " (SELECT at, id FROM usage_logs ORDER BY written_at DESC, id DESC LIMIT 80)"
            )

    async def test_pages_keep_to_the_cut_of_the_first(self) -> None:
        await self.write(self.rows(200))
        await self.age()
        await self.sync.run()
        first = json.loads(await self.report(USAGE, "page_size=50"))
        await self.write(self.rows(60), keep=False)
        count, cursor = first["row_count"], first["next_cursor"]
        while cursor:
            page = json.loads(await self.report(USAGE, f"page_size=50&cursor={cursor}"))
            count, cursor = count + page["row_count"], page["next_cursor"]
        self.assertEqual(200, count)

    async def test_the_cache_is_killed_in_the_middle(self) -> None:
        """The report goes on with the database, and nobody notices."""
        await self.write(self.rows(300))
        await self.age()
        await self.sync.run()
        self.copy.before = self.cut
        try:
            table = await self.report(USAGE, "format=csv")
            self.assertEqual(self.wanted(), self.of_table(table, ","))
            self.assertIn(self.copy.given, range(1, 41))
            await self.assert_equal_to_what_was_written()
        finally:
            await self.mend()

    async def test_something_is_missing_in_the_copy(self) -> None:
        await self.write(self.rows(300))
        await self.age()
        await self.sync.run()
        ids = await self.pool.run(self._ids)
        self.server.command("DEL", f"usage_log:{ids[200]}")
        await self.assert_equal_to_what_was_written()

    async def test_a_set_is_lost(self) -> None:
        """As a server does that has no memory left: all of it, or what stood in it before it was begun anew."""
        await self.write(self.rows(300))
        await self.age()
        await self.sync.run()
        for name in ("usage_logs:index", f"usage_logs:api_key:{KEYS[0]}"):
            self.server.command("ZREMRANGEBYRANK", name, "20", "-20")
            await self.assert_equal_to_what_was_written()
            self.server.command("DEL", name)
            await self.assert_equal_to_what_was_written()

    def _ids(self, connection: Any) -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT id::text FROM usage_logs ORDER BY at, id")
            return [row[0] for row in cursor.fetchall()]


class QuotaTests(TotalsCase):
    async def test_the_log_of_reports(self) -> None:
        """What was made is in the next report of reports, once."""
        await self.write(self.rows(120))
        for query in ("format=csv", "format=text", "page_size=50"):
            await self.report(USAGE, query)
        await self.report(SUMMARY)
        await self.settle_down()
        made = json.loads(await self.report("report-usage"))
        self.assertEqual([("usage", "csv", 120), ("usage", "text", 120), ("usage", "json", 50)],
                         [(row["report"], row["format"], row["row_count"]) for row in made["rows"][:3]])  # fmt: skip
        self.assertEqual("summary", made["rows"][3]["report"])
        await self.settle_down()
        summary = json.loads(await self.report("report-summary"))
        self.assertEqual(5, summary["totals"]["reports"])
