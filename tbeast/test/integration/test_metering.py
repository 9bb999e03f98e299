"""Metering with a real database and a real disk: what was counted is recorded, whatever ends or fails."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from subprocess import PIPE, Popen

import psycopg2
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tbeast.adapters.store.postgres import Connection, connect
from tbeast.test.adapters.store.usagesamples import ask, make_key, recorded
from tbeast.test.integration.metering import Metering, sleep
from tbeast.testing.logs import listen
from tbeast.testing.postgres import environment, fresh_connection, fresh_database, own_server

KILLS = 20
BURST = 7


class MeteringCase(TestCase):
    timeout = 180

    def setUp(self) -> None:
        self.log = listen(self)
        self.folder = Path(self.mktemp()).absolute() / "spool"

    def metering(self, url: str, connect: Callable[..., Connection] = connect) -> Metering:
        metering = Metering(url, self.folder, connect)
        metering.start()
        self.addCleanup(self.stopped, metering)
        return metering

    async def stopped(self, metering: Metering) -> None:
        if metering.writer.running:
            await metering.stop()

    async def assertAllRecorded(self, metering: Metering, url: str) -> None:
        """Everything is in the database, once, also in the counters; and nothing is left behind."""
        metering.end_load()
        await metering.drained()
        await metering.stop()
        connection = fresh_connection(self, url)
        self.assertEqual(metering.counted, recorded(connection))
        self.assertEqual([(metering.counted,)], ask(connection, "SELECT current_usage FROM api_keys"))
        self.assertEqual(metering.counted, metering.heard["alpha"][1])
        self.assertEqual(metering.counted, metering.cache.used["alpha"])
        self.assertEqual([], os.listdir(self.folder))


class DatabaseFaultTests(MeteringCase):
    def setUp(self) -> None:
        super().setUp()
        self.url = fresh_database(self)
        self.admin = fresh_connection(self, self.url)
        make_key(self.admin, "alpha")

    def execute(self, statement: str) -> None:
        self.admin.rollback()
        self.admin.autocommit = True
        with self.admin.cursor() as cursor:
            cursor.execute(statement)
        self.admin.autocommit = False

    async def test_all_is_well(self) -> None:
        metering = self.metering(self.url)
        metering.load(BURST)
        await metering.until(lambda: metering.counters.value("usage_batches", "settled") > 5)
        self.assertEqual(0, metering.counters.value("usage_batches", "put_back"))
        await self.assertAllRecorded(metering, self.url)

    async def test_read_only(self) -> None:
        """As a replica that was not promoted yet."""
        name = self.admin.info.dbname
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <>"
        metering = self.metering(self.url)
        metering.load(BURST)
        await metering.until(lambda: metering.heard)
        self.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        self.execute(f"{others} pg_backend_pid()")
        await metering.until(lambda: metering.writer.status.spooled_batches > 10)
        await metering.until(lambda: "read-only" in metering.writer.status.store_error)
        await metering.until(lambda: metering.writer.status.state == "behind")
        self.assertTrue(metering.writer.metered)
        self.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
        self.execute(f"{others} pg_backend_pid()")
        await self.assertAllRecorded(metering, self.url)

    async def test_slow(self) -> None:
        self.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;"
            "CREATE TRIGGER slow AFTER INSERT ON usage_logs FOR EACH STATEMENT EXECUTE FUNCTION slow()"
        )
        metering = self.metering(self.url)
        metering.load(BURST)
        await metering.until(lambda: metering.counters.value("usage_batches", "settled") > 30)
        writes = ask(self.admin, "SELECT count(DISTINCT xmin::text) FROM usage_logs")[0][0]
        self.assertLess(writes, 15)
        self.assertEqual(0, metering.counters.value("usage_batches", "put_back"))
        self.execute("DROP TRIGGER slow ON usage_logs")
        await self.assertAllRecorded(metering, self.url)

    async def test_too_slow(self) -> None:
        """A statement that never ends within its time is tried again, and counts once."""
        self.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;"
            "CREATE TRIGGER slow AFTER INSERT ON usage_logs FOR EACH STATEMENT EXECUTE FUNCTION slow()"
        )

        def hasty(target: object) -> Connection:
            connection = connect(target)  # type: ignore[arg-type]
            with connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = '300ms'")
            connection.commit()
            return connection

        metering = self.metering(self.url, hasty)
        metering.load(BURST)
        await metering.until(lambda: "timeout" in metering.writer.status.store_error)
        await metering.until(lambda: metering.writer.status.state == "behind")
        self.execute("ALTER TABLE usage_logs DISABLE TRIGGER slow")
        await self.assertAllRecorded(metering, self.url)

    async def test_a_connection_that_is_lost_at_the_commit(self) -> None:
        """The client cannot know whether it was committed: once it was, once it was not, once all is well."""
        commits: list[str] = []
        lossy = True

        class Lossy(psycopg2.extensions.connection):
            def commit(self) -> None:
                commits.append(("committed", "lost", "well")[len(commits) % 3] if lossy else "well")
                if commits[-1] != "lost":
                    super().commit()
                if commits[-1] != "well":
                    self.close()
                    raise psycopg2.OperationalError("server closed the connection unexpectedly")

        metering = self.metering(self.url, lambda _target: psycopg2.connect(self.url, connection_factory=Lossy))
        metering.load(BURST)
        await metering.until(lambda: len(commits) > 15)
        lossy = False
        self.assertGreater(metering.counters.value("usage_batches", "put_back"), 8)
        await self.assertAllRecorded(metering, self.url)

    async def test_poisoned_rows(self) -> None:
        metering = self.metering(self.url)
        metering.load(BURST)
        for asset in ("a\0b", "x" * 300, "\ud800"):
            metering.ledger.count("alpha", "lpo", "http", asset, "", "", 200, True, time.time(), 5)
        metering.ledger.count("alpha", "lpo", "http", "BTC", "", "", 70_000, True, time.time(), 5)
        await metering.until(lambda: metering.counters.value("usage_rows", "refused") == 4)
        self.assertEqual(1, len(self.log.having("and has them in usage_refused")))
        await self.assertAllRecorded(metering, self.url)
        self.assertEqual([(4,)], ask(self.admin, "SELECT count(*) FROM usage_refused"))


class ServerTests(MeteringCase):
    def setUp(self) -> None:
        super().setUp()
        self.server = own_server(self)
        self.url = self.server.url()
        connection = connect_to(self.url)
        make_key(connection, "alpha")
        connection.close()

    async def test_killed_in_the_middle(self) -> None:
        """Three times, at moments when writes are under way."""
        metering = self.metering(self.url)
        metering.load(BURST * 5)
        for _ in range(3):
            await self.killed(metering)
        await self.assertAllRecorded(metering, self.url)

    async def killed(self, metering: Metering) -> None:
        settled = metering.counters.value("usage_batches", "settled")
        await metering.until(lambda: metering.counters.value("usage_batches", "settled") > settled + 3)
        await metering.until(lambda: metering.writer._drain.flying)
        await deferToThread(self.server.kill)
        await metering.until(lambda: metering.writer._drain.away)
        await metering.until(lambda: metering.writer.status.spooled_batches > 5)
        self.assertTrue(metering.writer.metered)
        await deferToThread(self.server.start)

    async def test_down_at_the_start(self) -> None:
        await deferToThread(self.server.stop)
        metering = self.metering(self.url)
        metering.load(BURST)
        await metering.until(lambda: metering.writer.status.spooled_batches > 15)
        await metering.until(lambda: metering.writer.status.state == "behind")
        await deferToThread(self.server.start)
        await self.assertAllRecorded(metering, self.url)

    async def test_down_at_the_stop(self) -> None:
        """What could not be written is written by the next process."""
        metering = self.metering(self.url)
        metering.load(BURST)
        await metering.until(lambda: metering.heard)
        await deferToThread(self.server.stop)
        await metering.until(lambda: metering.writer.status.spooled_batches > 5)
        await metering.stop()
        self.assertNotEqual([], os.listdir(self.folder))
        await deferToThread(self.server.start)
        after = self.metering(self.url)
        after.counted = metering.counted
        await self.assertAllRecorded(after, self.url)

    async def test_hanging(self) -> None:
        """The server stops to answer, and keeps its connections open."""
        metering = self.metering(self.url)
        metering.load(BURST)
        await metering.until(lambda: metering.heard)
        await deferToThread(self.server.hang)
        await metering.until(lambda: metering.writer.status.spooled_batches > 20)
        await deferToThread(self.server.resume)
        await self.assertAllRecorded(metering, self.url)


def connect_to(url: str) -> Connection:
    return psycopg2.connect(url)


class KillTests(MeteringCase):
    async def test_killed_at_random_moments(self) -> None:
        """Of what was counted before the last round nothing is lost; what is lost was counted since."""
        url = fresh_database(self)
        admin = fresh_connection(self, url)
        chance = Random(20_261_122)
        told: dict[str, tuple[int, int]] = {}
        for number in range(KILLS):
            key_id = f"key{number}"
            make_key(admin, key_id)
            told[key_id] = await self.killed(url, key_id, chance.uniform(0.0, 0.35))
        metering = self.metering(url)
        await metering.drained()
        await metering.stop()
        self.assertEqual([], os.listdir(self.folder))
        found = dict(ask(admin, "SELECT key_id, sum(request_count)::int FROM usage_logs GROUP BY key_id"))
        self.assertEqual(found, dict(ask(admin, "SELECT key_id, current_usage::int FROM api_keys")))
        for key_id, (in_rounds, counted) in told.items():
            self.assertGreater(in_rounds, 0)
            self.assertLessEqual(in_rounds, found[key_id])
            self.assertLessEqual(found[key_id], counted + BURST)

    async def killed(self, url: str, key_id: str, seconds: float) -> tuple[int, int]:
        """Run a writer and kill it; how many requests it had said were counted before its last round, and in all."""
        command = [sys.executable, "-m", "tbeast.test.integration.metering", url, str(self.folder)]
        command += [key_id, str(BURST)]
        child = Popen(command, stdout=PIPE, env=environment())
        assert child.stdout is not None
        try:
            said = b""
            while b"r " not in said.replace(b"r 0\n", b""):
                read = await deferToThread(os.read, child.stdout.fileno(), 65_536)
                self.assertTrue(read, "the writer has ended by itself")
                said += read
            await sleep(seconds)
        finally:
            child.kill()
            rest, _ = await deferToThread(child.communicate)
        counts = {"r": 0, "c": 0}
        for line in (said + rest).decode().splitlines():
            what, number = line.split()
            counts[what] = int(number)
        return counts["r"], counts["c"]
