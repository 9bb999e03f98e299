"""Three daemons, one Valkey and one PostgreSQL, each killed under load: everybody is served, and the books balance."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine
from os import urandom
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tbeast.adapters.store import keyrows
from tbeast.adapters.store.postgres import connect, target
from tbeast.domain.keys import key_id_of
from tbeast.errors import TBeastError
from tbeast.test.integration.daemons import NATIVE, WORKERS, sleep
from tbeast.testing.books import RECORDED_SQL, Asking, entries
from tbeast.testing.cluster import CACHE, DATABASE, Cluster, Options, Places
from tbeast.testing.postgres import QUICK, quick_folder

NODES = 3
RATE = 60.0
LIMITED_RATE = 45.0
"""Of the key with limits: more than twice what it may ask."""
QPS, BURST = 6.0, 60
STARTS_WITHIN_SECONDS = 90.0
SERVES_AGAIN_WITHIN_SECONDS = 60.0
MEANWHILE = 20
"""So many answers must come while one of the five is not there."""


class Excess:
    """The most that was admitted in any span beyond the rate times its length."""

    def __init__(self) -> None:
        self.admitted = 0
        self.most = 0.0
        self._low = float("inf")

    def add(self, node: str) -> None:
        height = self.admitted - QPS * time.monotonic()
        self._low = min(self._low, height)
        self.admitted += 1
        self.most = max(self.most, height + 1 - self._low)


def ended(asking: Asking) -> Deferred[None]:
    return Deferred.fromCoroutine(asking.stop())


class ClusterTests(TestCase):
    timeout = 400

    async def setUp(self) -> None:  # type: ignore[override]
        folder = Path(tempfile.mkdtemp(prefix="tbeast-cluster-", dir=quick_folder()))
        folder.chmod(0o711)  # PostgreSQL may run as another user
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        self.said: list[str] = []
        self.wrote: list[str] = []
        self.own_key = "tests-own-" + urandom(12).hex()
        options = Options(
            folder, Places.anywhere(NODES), self.own_key, postgres=QUICK,
            settings={"TBEAST_WORKERS": WORKERS, "TBEAST_NATIVE": NATIVE},
        )  # fmt: skip
        self.cluster = Cluster(
            options, reactor, time.time, self.said.append, lambda *line: self.wrote.append(repr(line))
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(self.cluster.stop()))
        await self.within(STARTS_WITHIN_SECONDS, self.cluster.start())

    async def within(self, seconds: float, doing: Coroutine[Any, Any, None]) -> None:
        """Wait for something, and show what was going on when it does not come."""
        waiting = Deferred.fromCoroutine(doing)
        waiting.addTimeout(seconds, reactor)
        try:
            await waiting
        except Exception as error:
            raise AssertionError("\n".join([repr(error), *self.said, *self.wrote[-60:]])) from None

    async def until(self, holds: Callable[[], object], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise AssertionError("\n".join([f"not within {seconds:g} s: {what}", *self.said, *self.wrote[-60:]]))
            await sleep(0.05)

    def key(self, name: str, qps: float | None = None, burst: int | None = None) -> str:
        """Make a key in the database; without limits unless they are given."""
        connection = connect(target(self.cluster.url))
        try:
            text, _ = keyrows.create(connection, "partner", name, random_bytes=urandom)
            with connection.cursor() as cursor:
                cursor.execute(
                    "UPDATE api_keys SET rate_limit_qps = %s, burst_limit = %s WHERE key_id = %s",
                    (qps, burst, key_id_of(text)),
                )
            connection.commit()
            return text
        finally:
            connection.close()

    async def status(self, name: str, key: str) -> int:
        """What a node says to a question with a key; 0: nothing."""
        node = self.cluster.node(name)
        assert node is not None
        with contextlib.suppress(TBeastError):
            return (await self.cluster.get(f"http://127.0.0.1:{node.ports['TCP_PORT_LPO']}/price?asset=btc", key))[0]
        return 0

    async def until_all_say(self, status: int, key: str) -> None:
        for node in self.cluster.nodes:
            for _ in range(200):
                found = await self.status(node.name, key)
                if found == status:
                    break
                await sleep(0.1)
            self.assertEqual(status, found, node.name)

    async def test_each_of_the_five_is_killed(self) -> None:
        """The others go on answering, it comes back, and all that was answered is recorded once."""
        cluster = self.cluster
        key, limited = self.key("load"), self.key("limited", QPS, BURST)
        witness = self.key("witness")
        await self.until_all_say(200, witness)  # then the two that were made before it are known as well
        await self.until_all_say(200, self.own_key)
        excess = Excess()
        asking = Asking(cluster, key, RATE, reactor, time.time)
        other = Asking(cluster, limited, LIMITED_RATE, reactor, time.time, excess.add)
        for each in (asking, other):
            self.addCleanup(ended, each)
            each.start()
        nodes = [node.name for node in cluster.nodes]
        await self.until(lambda: all(asking.answered_by(name) > MEANWHILE for name in nodes), 30, "all nodes are asked")
        # the second life of the first node sees database and cache go, and must have lost nothing
        for victim in (nodes[0], DATABASE, CACHE, nodes[1], nodes[2]):
            await self.killed(victim, asking)
        await asking.stop()
        await other.stop()
        self.assertEqual({}, dict(asking.refused))
        self.assertEqual(set(), set(other.refused) - {"rate_limited", "429"})
        self.assertGreater(other.refused["rate_limited"], excess.admitted / 2)
        self.assertGreater(excess.admitted, BURST)
        # the contract, and a lease for each node and for each that died
        self.assertLessEqual(excess.most, BURST + (NODES + 3) * BURST / NODES)

        statement = "UPDATE api_keys SET revoked = true WHERE key_id = %s"
        await cluster.in_thread(cluster.sql, statement, key_id_of(witness))
        await self.until_all_say(401, witness)
        await self.until_all_say(200, self.own_key)
        await self.balanced(key, asking)
        await self.balanced(limited, other)

    async def killed(self, victim: str, asking: Asking) -> None:
        """Kill one of them; while it is away the others answer, and then it is back."""
        kept = self.cluster.parts[victim]
        before = len(kept.lives)
        others = [node.name for node in self.cluster.nodes if node.name != victim]
        answered = {name: asking.answered_by(name) for name in others}
        self.cluster.kill(victim)
        await self.until(lambda: not kept.serving, 10, f"{victim} is gone")
        meanwhile = {name: asking.answered_by(name) for name in others}
        await self.until(
            lambda: all(asking.answered_by(name) >= meanwhile[name] + MEANWHILE for name in others), 30,
            f"the others answer without {victim}",
        )  # fmt: skip
        await self.within(SERVES_AGAIN_WITHIN_SECONDS, self.cluster.until_serving())
        self.assertEqual(before + 1, len(kept.lives))
        self.assertTrue(kept.lives[before - 1].killed)
        self.assertTrue(all(asking.answered_by(name) > answered[name] for name in others))
        again = {node.name: asking.answered_by(node.name) for node in self.cluster.nodes}
        await self.until(
            lambda: all(asking.answered_by(name) >= count + MEANWHILE for name, count in again.items()), 30,
            f"all answer after the end of {victim}",
        )  # fmt: skip

    async def balanced(self, key: str, asking: Asking) -> None:
        """Stop the daemons, so that everything is written, and look into the books."""
        cluster = self.cluster
        await cluster.stop_nodes()
        rows = await cluster.in_thread(cluster.sql, RECORDED_SQL, key_id_of(key))
        lives = {node.name: node.kept.lives for node in cluster.nodes}
        book = entries(lives, asking.answers, rows)
        self.assertEqual([], [f"{entry.node}: {entry.fault}" for entry in book if entry.fault])
        # the first life of each was killed, the second was not: there nothing may be missing
        self.assertEqual([(name, number) for name in lives for number in (1, 2)], [(e.node, e.number) for e in book])
        self.assertEqual([True, False] * NODES, [entry.killed for entry in book])
        for entry in book:
            self.assertGreater(entry.recorded, 0)
            if not entry.killed:
                self.assertEqual((entry.answered, 0), (entry.recorded, entry.unanswered))
        used = await cluster.in_thread(
            cluster.sql, "SELECT current_usage FROM api_keys WHERE key_id = %s", key_id_of(key)
        )
        self.assertEqual([(sum(entry.recorded for entry in book),)], used)
