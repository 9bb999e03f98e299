"""Keys, limits and metering of whole daemons, while what stands behind them goes away and comes back.

Everywhere the same is asked: what the client was answered is what the database has in the end.
"""

from __future__ import annotations

from typing import Any

from tbeast.domain.keys import key_id_of
from tbeast.test.integration.accounts import AccountsCase, Asking
from tbeast.test.integration.daemons import WORKERS, Daemon, sleep
from tbeast.testing.logs import listen


def part(ready: Any, name: str) -> Any:
    return next(each for each in ready["backing"] if each["part"] == name)


class EverydayTests(AccountsCase):
    async def test_a_key_from_its_making_to_its_end(self) -> None:
        """Made while the daemon runs, limited, recorded row by row, counted for the month, revoked."""
        cache = self.valkey()
        daemon = await self.daemon(CACHE_URL=cache.url)
        key = self.key("free")
        await self.accepted(daemon, key)
        answers = [await self.asked(daemon, key) for _ in range(9)]
        statuses = [status for status, _ in answers]
        self.assertEqual([200] * 5, statuses[:5])
        self.assertEqual({429}, set(statuses[5:]))
        self.assertEqual("rate_limited", answers[8][1]["code"])
        await self.until(lambda: self.recorded(key, 429) == 4, 5, "everything is recorded")
        rows = self.sql(
            "SELECT service, protocol, asset, source, cache_tier, status, admitted, sum(request_count)::int"
            " FROM usage_logs WHERE key_id = %s GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 6", key_id_of(key),
        )  # fmt: skip
        self.assertEqual([("http", "BTC", 200, True, 5), ("http", "", 429, False, 4)],
                         [(row[1], row[2], row[5], row[6], row[7]) for row in rows])  # fmt: skip
        used = self.sql("SELECT current_usage, last_used IS NOT NULL FROM api_keys WHERE key_id = %s", key_id_of(key))
        self.assertEqual([(5, True)], used)
        await self.until(
            lambda: cache.command("GET", f"usage:counter:{key_id_of(key)}") == b"5", 5, "the cache knows the use"
        )
        self.sql("UPDATE api_keys SET revoked = true WHERE key_id = %s", key_id_of(key))
        await self.until(lambda: daemon.parts.accounting.keyring.find(key.encode()) is None, 5, "a revoked key is out")
        self.assertEqual(401, (await daemon.get("/price?asset=btc", key))[0])

    async def asked(self, daemon: Daemon, key: str) -> tuple[int, Any]:
        """Ask; of several workers each has a part of the burst, and hears after a moment that there is more."""
        if WORKERS != "1":
            await sleep(0.1)
        return await daemon.get("/price?asset=btc", key)

    async def test_the_quota_goes_on_after_a_restart(self) -> None:
        """What was used of the month is known from the database."""
        state = self.mktemp()
        daemon = await self.daemon(state)
        key = self.key("pro")
        self.sql("UPDATE api_keys SET query_limit = 7 WHERE key_id = %s", key_id_of(key))
        await self.accepted(daemon, key)
        self.assertEqual([200] * 4, [(await daemon.get("/price?asset=btc", key))[0] for _ in range(4)])
        await daemon.end()  # type: ignore[attr-defined]
        self.assertEqual(4, self.recorded(key))
        daemon = await self.daemon(state)
        await self.accepted(daemon, key)
        answers = [await daemon.get("/price?asset=btc", key) for _ in range(4)]
        self.assertEqual([200, 200, 200, 429], [status for status, _ in answers])
        self.assertEqual("quota_exceeded", answers[3][1]["code"])

    async def test_unknown_keys_ask_nobody(self) -> None:
        """However many there are, the database is asked as often as without them."""
        daemon = await self.daemon()
        asking = self.asking(daemon, "tb_aaaaaaaaaa_" + "b" * 32, 2000)
        jobs: list[int] = []
        run = daemon.parts.accounting.pool.run

        def counted(*args: Any, **kwargs: Any) -> Any:
            jobs.append(1)
            return run(*args, **kwargs)

        self.patch(daemon.parts.accounting.pool, "run", counted)
        await sleep(3.0)
        self.assertEqual(0, await asking.stop())
        self.assertGreater(asking.asked, 2000)
        self.assertLess(len(jobs), 10)


class DatabaseTests(AccountsCase):
    async def balanced(self, daemon: Daemon, key: str, asking: Asking, seconds: float = 60.0) -> None:
        """Stop asking; in the end the database has what was answered."""
        answered = await asking.stop()
        self.assertGreater(answered, 0)
        await self.until(lambda: self.recorded(key) >= answered, seconds, f"{answered} answers are recorded")
        self.assertEqual(answered, self.recorded(key))
        self.assertEqual(
            [(answered,)], self.sql("SELECT current_usage FROM api_keys WHERE key_id = %s", key_id_of(key))
        )

    def switch(self, statement: str) -> None:
        """Change the database, from outside of it, and have everybody connect anew."""
        self.sql(statement, database="postgres")
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tbeast'", database="postgres")

    async def test_killed_under_load(self) -> None:
        """kill -9 of PostgreSQL, three times: nothing is lost and nothing counts twice."""
        lines = listen(self)
        key = self.key()
        daemon = await self.daemon()
        await self.accepted(daemon, key)
        asking = self.asking(daemon, key)
        for _ in range(3):
            await sleep(1.0)
            self.database.kill()
            await sleep(1.0)
            self.database.start()
        await sleep(1.0)
        await self.balanced(daemon, key, asking)
        self.assertTrue(lines.having("database"))

    async def test_away_for_long_under_load(self) -> None:
        """Everybody is served; /ready says what is wrong and for how long; then it all drains."""
        key = self.key()
        daemon = await self.daemon()
        await self.accepted(daemon, key)
        asking = self.asking(daemon, key)
        await sleep(0.5)
        self.database.stop()
        before = asking.answered
        await sleep(12.0)
        self.assertGreater(asking.answered, before + 300)
        status, ready = await daemon.ready()
        self.assertEqual(200, status)
        self.assertEqual("away", part(ready, "database")["state"])
        self.assertEqual("behind", part(ready, "usage")["state"])
        self.assertGreater(part(ready, "usage")["for_seconds"], 5)
        self.database.start()
        await self.balanced(daemon, key, asking)
        await self.until(lambda: daemon.parts.accounting.writer.status.state == "ok", 20, "usage is up to date")

    async def test_read_only(self) -> None:
        key = self.key()
        daemon = await self.daemon()
        await self.accepted(daemon, key)
        self.switch("ALTER DATABASE tbeast SET default_transaction_read_only = on")
        asking = self.asking(daemon, key)
        await sleep(3.0)
        self.assertEqual(0, self.recorded(key))
        self.assertIn("read-only", daemon.parts.accounting.writer.status.store_error)
        self.switch("ALTER DATABASE tbeast RESET default_transaction_read_only")
        await self.balanced(daemon, key, asking)

    async def test_slow(self) -> None:
        """Two seconds a statement: nothing is lost, nobody waits, and what is under way stays bounded."""
        key = self.key()
        daemon = await self.daemon()
        await self.accepted(daemon, key)
        self.sql(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;"
            " CREATE TRIGGER dawdle AFTER INSERT ON usage_logs FOR EACH STATEMENT EXECUTE FUNCTION dawdle()"
        )
        asking = self.asking(daemon, key)
        for _ in range(12):
            await sleep(0.5)
            self.assertLessEqual(daemon.parts.accounting.writer.status.under_way, 999)
        self.sql("DROP TRIGGER dawdle ON usage_logs")
        await self.balanced(daemon, key, asking)

    async def test_away_at_the_start(self) -> None:
        """No key can be checked: 503, and /ready says why; it comes by itself when the database does."""
        key = self.key()
        self.database.stop()
        daemon = await self.daemon()
        status, problem = await daemon.get("/price?asset=btc", key)
        self.assertEqual((503, "keys_unavailable"), (status, problem["code"]))
        status, ready = await daemon.ready()
        self.assertEqual(503, status)
        self.assertTrue(any(reason.startswith("keys: ") for reason in ready["reasons"]), ready["reasons"])
        self.database.start()
        await self.accepted(daemon, key, 20)
        self.assertEqual(200, (await daemon.get("/price?asset=btc", key))[0])

    async def test_away_at_the_start_with_copies_in_the_cache(self) -> None:
        """A node that ran before has left copies of the keys: the next one serves with them, and loses no count."""
        cache = self.valkey()
        key = self.key()
        first = await self.daemon(CACHE_URL=cache.url)
        await self.until(lambda: cache.command("KEYS", "apikey:*"), 10, "the copies are there")
        await first.end()  # type: ignore[attr-defined]
        self.database.stop()
        second = await self.daemon(CACHE_URL=cache.url)
        await self.accepted(second, key)
        asking = self.asking(second, key)
        await sleep(1.5)
        self.assertGreater(asking.answered, 50)
        self.database.start()
        await self.balanced(second, key, asking)


class CacheTests(AccountsCase):
    async def test_away_hanging_and_back(self) -> None:
        """Valkey is killed, hangs and flaps: /price goes on, and the daemon comes back to it by itself."""
        cache = self.valkey()
        key = self.key()
        daemon = await self.daemon(CACHE_URL=cache.url)
        await self.accepted(daemon, key)
        await self.until(daemon.shares_limits, 10, "limits are shared")
        # of several nodes each is alone with its share, and a bucket that was lost begins as empty as it may have been
        rate = 80.0 if WORKERS == "1" else 20.0
        asking = self.asking(daemon, key, rate)
        await sleep(0.5)
        cache.kill()
        await self.until(lambda: not daemon.shares_limits(), 10, "that the cache is gone is noticed")
        before = asking.answered
        await sleep(2.0)
        self.assertGreater(asking.answered, before + 1.25 * rate)
        self.assertEqual(200, (await daemon.ready())[0])
        cache.restart()
        await self.until(daemon.shares_limits, 20, "limits are shared again")
        cache.hang()
        before = asking.answered
        await sleep(4.0)
        self.assertGreater(asking.answered, before + 2.5 * rate)
        cache.resume()
        await self.until(daemon.shares_limits, 20, "limits are shared once more")
        answered = await asking.stop()
        self.assertGreater(answered, 0.8 * asking.asked)
        await self.until(lambda: self.recorded(key) >= answered, 10, "all is recorded")
        self.assertEqual(answered, self.recorded(key))
        await self.until(
            lambda: cache.command("GET", f"usage:counter:{key_id_of(key)}") == str(answered).encode(), 10,
            "the cache knows the use",
        )  # fmt: skip


class SpoolTests(AccountsCase):
    async def test_full_and_the_database_away(self) -> None:
        """With TBEAST_WHEN_UNMETERED=refuse all is refused until it can be recorded; nothing answered is lost."""
        lines = listen(self)
        key = self.key()
        daemon = await self.daemon(TBEAST_WHEN_UNMETERED="refuse")
        await self.accepted(daemon, key)
        asking = self.asking(daemon, key)
        await sleep(0.5)
        journal = daemon.parts.accounting.writer._journal
        self.patch(journal, "_limit_bytes", 1)
        self.database.stop()
        gate = daemon.parts.gate
        await self.until(lambda: gate.is_shut, 20, "the gate is shut")
        status, ready = await daemon.ready()
        self.assertEqual((503, "unmetered"), (status, part(ready, "usage")["state"]))
        status, problem = await daemon.get("/price?asset=btc", key)
        self.assertEqual((503, "metering_unavailable"), (status, problem["code"]))
        await sleep(0.5)
        self.assertGreater(asking.refused["metering_unavailable"], 0)
        self.assertTrue(lines.having("UNMETERED"))
        self.database.start()
        await self.until(lambda: not gate.is_shut, 30, "the gate is open")
        answered = await asking.stop()
        await self.until(lambda: self.recorded(key) >= answered, 20, "all is recorded")
        self.assertEqual(answered, self.recorded(key))
