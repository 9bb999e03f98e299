"""Three nodes and one real Valkey, with skewed load: the promise holds with it there, slow, hung, gone, and back."""

from __future__ import annotations

import time

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import LoopingCall

from tbeast.adapters.cache.leases import NODES, PREFIX, ValkeyLeases
from tbeast.domain.admission import ADMITTED
from tbeast.domain.counters import Counters
from tbeast.domain.keys import Account, account_of
from tbeast.domain.leases import LeasedStanding
from tbeast.services.limits import ClusterLimits
from tbeast.test.adapters.cache.clients import ServerCase, sleep, until

COUNT = 3
SKEWS = (0.0, 1.5, -2.0)
"""How far the nodes' clocks are off, in seconds."""

KEY = account_of("enterprise-key", "enterprise", "skewed load")
BURST, QPS = 100, 50.0
PROMISE = BURST + COUNT * BURST / COUNT


class Tally:
    """The most that was admitted in any span beyond the rate times its length."""

    def __init__(self) -> None:
        self.admitted = 0
        self.excess = 0.0
        self._low = float("inf")

    def add(self) -> None:
        height = self.admitted - QPS * time.monotonic()
        self._low = min(self._low, height)
        self.admitted += 1
        self.excess = max(self.excess, height + 1 - self._low)


class ClusterLimitsTests(ServerCase):
    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.server = self.own_server()
        self.server.start()
        self.tally = Tally()
        self.nodes: list[ClusterLimits] = []
        self.standings: list[dict[str, LeasedStanding]] = []
        for place in range(COUNT):
            await self.add_node(f"n{place}", SKEWS[place])
        self.round = 0
        self.load = LoopingCall(self.ask_skewed)

    async def tearDown(self) -> None:  # type: ignore[override]
        if self.load.running:
            self.load.stop()
        self.server.resume() if self.server.running else self.server.start()
        for node in self.nodes:
            if node.running:
                await ensureDeferred(node.stopService())

    async def add_node(self, name: str, skew: float) -> None:
        valkey = self.client(self.server.url)
        await valkey.start()
        node = ClusterLimits(
            ValkeyLeases(valkey), name, f"life-of-{name}", COUNT, reactor, lambda: time.time() + skew, Counters()
        )  # fmt: skip
        self.nodes.append(node)
        self.standings.append({})
        await node.startService()

    def ask(self, place: int, account: Account = KEY) -> bool:
        now = time.time() + SKEWS[place]
        standing = self.standings[place].get(account.key_id)
        if standing is None:
            standing = self.standings[place][account.key_id] = self.nodes[place].open_standing(account, now)
        admitted = standing.admit(now).outcome == ADMITTED
        if admitted and account is KEY:
            self.tally.add()
        return admitted

    def ask_skewed(self) -> None:
        """The first node all it gets; the second now and then; the third in rare bursts."""
        self.round += 1
        while self.ask(0):
            pass
        if self.round % 4 == 0:
            self.ask(1)
        if self.round % 150 == 0:
            for _ in range(40):
                self.ask(2)

    def all_shared(self) -> bool:
        return all(node.status.shared for node in self.nodes)

    def none_shared(self) -> bool:
        return not any(node.status.shared for node in self.nodes)

    async def more(self, count: int) -> None:
        """Wait until so many more are admitted."""
        enough = self.tally.admitted + count
        await until(lambda: self.tally.admitted >= enough)

    async def test_through_faults(self) -> None:
        await until(self.all_shared)
        self.load.start(0.005)
        await self.more(BURST + 20)

        self.server.command("CLIENT", "PAUSE", 1_500)  # each answer takes so long
        await until(self.none_shared)
        await self.more(5)
        await until(self.all_shared)

        self.server.hang()
        await until(self.none_shared)
        await self.more(20)
        self.server.resume()
        await until(self.all_shared)

        self.server.kill()
        await until(self.none_shared)
        await self.more(20)
        self.server.start()
        await until(self.all_shared)

        self.server.command("FLUSHALL")
        self.server.command("SCRIPT", "FLUSH")
        await sleep(0.5)
        self.server.restart()
        await until(self.all_shared)
        await self.more(10)  # a lost bucket begins as empty as it may have been, so this takes a while
        await until(self.all_shared)
        self.assertLessEqual(self.tally.excess, PROMISE)

    async def test_a_stop_tells_and_leaves(self) -> None:
        """What a stopped node has admitted is in the bucket, and it is no longer counted."""
        await until(lambda: all(node.status.nodes == COUNT for node in self.nodes))
        for _ in range(10):
            self.assertTrue(self.ask(1))
        await ensureDeferred(self.nodes[1].stopService())
        self.assertEqual(b"10", self.server.command("HGET", PREFIX + KEY.key_id, "used"))
        self.assertEqual(COUNT - 1, self.server.command("ZCARD", NODES))

    async def test_all_nodes_share_the_month(self) -> None:
        small = evolve(KEY, key_id="small", plan=evolve(KEY.plan, monthly_quota=60))
        await until(self.all_shared)
        before = [0, 0, 0]

        def ask() -> None:
            for place in range(COUNT):
                before[place] += self.ask(place, small)

        asking = LoopingCall(ask)
        asking.start(0.002)
        try:
            await until(lambda: sum(before) >= 60 and not any(self.ask(place, small) for place in range(COUNT)))
            await sleep(0.3)
        finally:
            asking.stop()
        self.assertLessEqual(sum(before), 60 + BURST)
        used = self.server.command("HGET", PREFIX + "small", "used")
        assert isinstance(used, bytes)
        self.assertGreaterEqual(int(used), 60)
