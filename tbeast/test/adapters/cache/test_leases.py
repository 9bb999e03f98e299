"""The shared buckets in Valkey, the twin, and that the two are one law."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

from attrs import evolve
from twisted.trial.unittest import TestCase

from tbeast.adapters.cache.leases import DATA, NODES, PREFIX, ValkeyLeases
from tbeast.adapters.cache.memoryleases import MemoryLeases
from tbeast.domain.sharedbuckets import MOST_REMEMBERED, Balance, Hello, Report, SharedBuckets
from tbeast.errors import CacheUnavailableError
from tbeast.test.adapters.cache.clients import SharedServerCase
from tbeast.testing.leasecontract import PRO, SharedLimitsContract, after

START = SharedLimitsContract.START


class MemoryLeasesTests(SharedLimitsContract, TestCase):
    def setUp(self) -> None:
        self.time = START
        self.limits = self.memory = MemoryLeases(lambda: self.time)

    def move_to(self, seconds: float) -> None:
        self.time = seconds

    def test_lose_all(self) -> None:
        buckets = self.memory.buckets
        buckets.contact(Hello("a", START, ""), START)
        buckets.report("a", after(PRO, 20), START)
        buckets.lose_all()
        self.assertEqual(("", 0.0, 1), buckets.look("a", START)[1:])
        self.assertEqual(20.0, buckets.report("a", PRO, START).tokens)


class ValkeyLeasesTests(SharedLimitsContract, SharedServerCase):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.time = START
        self.limits = ValkeyLeases(self.valkey, lambda: self.time)

    def move_to(self, seconds: float) -> None:
        self.time = seconds

    async def test_the_server_s_own_time(self) -> None:
        limits = ValkeyLeases(self.valkey)
        before = self.now()
        contact = await limits.look("a")
        self.assertTrue(before - 1.0 <= contact.time <= self.now() + 1.0)
        _, (balance,) = await limits.exchange(Hello("a", contact.time, ""), [PRO])
        self.assertEqual(datetime.fromtimestamp(contact.time, UTC).strftime("%Y-%m"), balance.month)

    async def test_how_long_things_are_kept(self) -> None:
        month_alone = evolve(PRO, key_id="m", qps=None, burst=None)
        rate_alone = evolve(after(PRO, 20), key_id="r", quota=None)
        await self.say("a", 0.0, PRO, month_alone, rate_alone)
        kept = [
            self.server.command("TTL", key) for key in (NODES, DATA, *(PREFIX + k for k in ("contractkey", "m", "r")))
        ]
        self.assertEqual([2_764_800] * 4 + [3_602], kept)

    async def test_scripts_that_the_server_forgot(self) -> None:
        await self.say("a", 0.0, after(PRO, 5))
        self.server.command("SCRIPT", "FLUSH")
        _, balances = await self.say("a", 0.0, after(PRO, 6), evolve(after(PRO, 1), key_id="another"))
        self.assertEqual([14.0, 19.0], [balance.tokens for balance in balances])

    async def test_what_is_of_the_wrong_type(self) -> None:
        """Whoever wrote it, it does not stop us."""
        self.server.command("SET", PREFIX + "contractkey", "nonsense")
        self.server.command("RPUSH", DATA, "nonsense")
        _, balances = await self.say("a", 0.0, after(PRO, 5))
        self.assertEqual([15.0], [balance.tokens for balance in balances])

    async def test_what_is_no_number(self) -> None:
        await self.say("a", 0.0, after(PRO, 5))
        self.server.command("HSET", PREFIX + "contractkey", "tokens", "x", "used", "y", "@a", "first one two")
        self.server.command("HSET", DATA, "clock", "z", "heard_at", "")
        _, balances = await self.say("a", 0.0, evolve(after(PRO, 6), settled_spent=5))
        self.assertEqual([Balance(19.0, 0.0, 6, "2026-04")], balances)

    async def test_a_server_that_writes_nothing(self) -> None:
        self.server.command("CONFIG", "SET", "maxmemory", "1")
        try:
            await self.say("a", 0.0, PRO)
        except CacheUnavailableError as error:
            self.assertIn("OOM", str(error))
        else:
            self.fail("it was answered")
        finally:
            self.server.command("CONFIG", "SET", "maxmemory", "0")

    async def test_gone(self) -> None:
        await self.cut()
        for asking in (self.limits.look("a"), self.say("a", 0.0, PRO), self.limits.leave("a")):
            try:
                await asking
            except CacheUnavailableError:
                continue
            self.fail("it was answered")
        await self.mend()
        self.assertEqual("", (await self.limits.look("a")).epoch)


class OneLawTests(SharedServerCase):
    """The script against the model: the same answers to the last digit, whatever is said in whatever order."""

    async def test_random_talk(self) -> None:
        for seed in range(12):
            self.server.command("FLUSHALL")
            await self.talk(Random(seed), 60)

    async def talk(self, random: Random, messages: int) -> None:
        buckets, now = SharedBuckets(), START
        limits = ValkeyLeases(self.valkey, lambda: now)
        nodes = [f"n{number}" for number in range(random.choice((1, 2, 3, 5)))]
        lives = dict.fromkeys(nodes, "life1")
        epochs = dict.fromkeys(nodes, "")
        told: dict[tuple[str, str], Report] = {}
        keys = {
            f"k{number}": evolve(
                PRO, key_id=f"k{number}", opening=random.choice((0.0, -13.333333333333334, -1.1)), quota=quota,
                qps=qps, burst=burst, min_wait_seconds=random.choice((0.0, 0.1, 1.0 / 3.0, 2.5)),
            )
            for number, (qps, burst, quota) in enumerate(
                ((10.0, 20, 50_000), (1.0 / 3.0, 5, None), (None, None, 300), (99.9, 200, 1_000))
            )
        }  # fmt: skip
        for _ in range(messages):
            now += random.choice((0.0, 0.05, random.random(), 3.0 * random.random(), 20.0, 9e5, -2.0, -90.0))
            node = random.choice(nodes)
            chance = random.random()
            if chance < 0.05:
                self.server.command("FLUSHALL")
                buckets.lose_all()
            elif chance < 0.10:
                await limits.leave(node)
                buckets.leave(node)
            elif chance < 0.15:
                lives[node] += "x"
                epochs[node] = ""
                told = {who: what for who, what in told.items() if who[0] != node}
            self.assertEqual(buckets.look(node, now), await limits.look(node))
            hello = Hello(node, now - random.choice((0.0, 0.001, 1.5, 300.0, -5.0)), epochs[node])
            reports = []
            for key_id in random.sample(sorted(keys), random.randint(0, len(keys))):
                before = told.get((node, key_id)) or evolve(keys[key_id], life=lives[node])
                spent = before.spent + random.choice((0, 1, 3, 40))
                month = datetime.fromtimestamp(now + random.choice((0.0, 0.0, -9e5)), UTC).strftime("%Y-%m")
                report = told[node, key_id] = evolve(
                    before, spent=spent, granted=before.granted + random.choice((0.0, random.random(), 7.7)),
                    settled_spent=random.choice((before.settled_spent, before.spent)), month=month,
                    month_spent=random.randint(0, spent), known=random.randint(0, 2 * spent),
                    counted=random.randint(0, 3 * spent), counted_in=random.choice(("", "other", *epochs.values())),
                    burst=random.choice((before.burst, before.burst and 7)),
                )  # fmt: skip
                reports.append(report)
            expected = buckets.contact(hello, now), [buckets.report(node, report, now) for report in reports]
            self.assertEqual(expected, await limits.exchange(hello, reports))
            if random.random() < 0.7:
                epochs[node] = expected[0].epoch

    async def test_months(self) -> None:
        """The script's own calendar, from the epoch to beyond the leap year that is none."""
        random, now = Random(1), 0.0
        limits = ValkeyLeases(self.valkey, lambda: now)
        stamps = [
            datetime(year, month, day, hour, 59, 59, 999_999, UTC).timestamp() + 1e-3 * shift
            for year in (1970, 1999, 2000, 2026, 2028, 2099, 2100, 2101)
            for month, day, hour in ((1, 1, 0), (1, 31, 23), (2, 28, 23), (3, 1, 0), (11, 30, 23), (12, 31, 23))
            for shift in (-1.0, 1.0)
        ]
        for place, now in enumerate([*stamps, *(random.uniform(0.0, 5e9) for _ in range(200))]):
            _, (balance,) = await limits.exchange(Hello("a", now, ""), [evolve(PRO, key_id=f"key{place}")])
            self.assertEqual(datetime.fromtimestamp(now, UTC).strftime("%Y-%m"), balance.month, now)

    async def test_more_nodes_than_are_remembered(self) -> None:
        """What is forgotten only matters to a report that comes twice just then."""
        limits, buckets = ValkeyLeases(self.valkey, lambda: START), SharedBuckets()
        for number in [*range(MOST_REMEMBERED + 3), 1, 0]:
            hello, report = Hello(f"n{number}", START, ""), evolve(after(PRO, number), life=f"l{number}")
            expected = buckets.contact(hello, START), [buckets.report(hello.node, report, START)]
            self.assertEqual(expected, await limits.exchange(hello, [report]))
        fields = self.server.command("HLEN", PREFIX + "contractkey")
        self.assertEqual(7 + 5, fields)
