"""The statistics of whole daemons on one shared cache."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from tbeast.domain.clusterstats import NAMES, added_up
from tbeast.services.clusterstats import View
from tbeast.test.integration.accounts import AccountsCase
from tbeast.test.integration.daemons import Daemon, sleep
from tbeast.testing.valkey import Server


class ClusterStatsTests(AccountsCase):
    async def view(self, daemon: Daemon) -> View:
        return await daemon.parts.cluster_stats.view()

    def told(self, cache: Server, node: str) -> dict[str, str]:
        """What a node has told in the shared cache."""
        words = cache.command("HGETALL", f"cluster:stats:{node}")
        assert isinstance(words, list)
        texts = [word.decode() for word in words if isinstance(word, bytes)]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    async def until_told(self, holds: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
        """As L{until}, where one has to ask."""
        end = time.monotonic() + seconds
        while not await holds():
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds:g} s: {what}")
            await sleep(0.05)

    async def test_stats_of_one_node(self) -> None:
        """What was asked is in them, however it was asked."""
        daemon = await self.daemon(CACHE_URL=self.valkey().url)
        key = self.key()
        await self.accepted(daemon, key)
        before = (await daemon.get("/stats", key))[1]["statistics"]
        for _ in range(20):
            self.assertEqual(200, (await daemon.get("/price?asset=btc", key))[0])
        for _ in range(5):
            self.assertIsNotNone(await daemon.udp(f"{key}|BTC|{1:040d}".encode()))
        self.assertEqual(401, (await daemon.get("/price?asset=btc", "tb_aaaaaaaaaa_" + "b" * 32))[0])
        grown: dict[str, int] = {}

        async def counted() -> bool:
            stats = (await daemon.get("/stats", key))[1]
            grown.update({name: stats["statistics"][name] - before[name] for name in NAMES})
            self.assertGreater(stats["response_times"]["lpo"]["answers"], 0)
            self.assertGreater(stats["response_times"]["lpo"]["p99_us"], 0)
            return grown["requests_udp"] == 5 and grown["unauthorized"] == 1 and grown["requests_http"] >= 22

        await self.until_told(counted, 10, "everything is counted")  # workers tell it after a moment
        self.assertEqual(grown["requests"], grown["requests_http"] + grown["requests_udp"])
        self.assertEqual((0, 0), (grown["errors_5xx"], grown["requests_lrs"]))

    async def test_answers_are_counted_by_how_long_they_took(self) -> None:
        """Each once, whichever way it went."""
        daemon = await self.daemon()
        key = self.key()
        await self.accepted(daemon, key)
        answered = daemon.count("response_times", "lpo")
        for _ in range(20):
            await daemon.get("/price?asset=btc", key)
        for _ in range(7):
            await daemon.udp(f"{key}|BTC|{1:040d}".encode())
        await daemon.get("/explain/BTC", key)
        await self.until(lambda: daemon.count("response_times", "lpo") - answered >= 28, 10, "all are counted")
        self.assertEqual(28, daemon.count("response_times", "lpo") - answered)

    async def test_two_nodes_and_the_end_of_one(self) -> None:
        cache = self.valkey()
        one = await self.daemon(CACHE_URL=cache.url, CLUSTER_NODE="one", TBEAST_CLUSTER_NODES=2)
        self.assertEqual("1 of 2 nodes are heard", (await self.view(one)).why)
        other = await self.daemon(CACHE_URL=cache.url, CLUSTER_NODE="other", TBEAST_CLUSTER_NODES=2)

        async def both() -> bool:
            return (await self.view(one)).complete and (await self.view(other)).complete

        await self.until_told(both, 10, "they hear each other")
        for node in ("one", "other"):
            self.assertEqual(set(NAMES), set(self.told(cache, node)))
        nodes = (await self.view(one)).nodes
        self.assertEqual(["one", "other"], list(nodes))
        total = added_up(nodes.values())
        self.assertEqual(total["ticks"], nodes["one"]["ticks"] + nodes["other"]["ticks"])
        await other.end()  # type: ignore[attr-defined]
        self.assertEqual({}, self.told(cache, "other"))
        self.assertEqual(["one"], list((await self.view(one)).nodes))

    async def test_the_cache_goes_away_and_comes_back(self) -> None:
        """The node knows itself meanwhile, and says that this is all."""
        cache = self.valkey()
        daemon = await self.daemon(CACHE_URL=cache.url)
        await self.until(lambda: self.told(cache, "test"), 10, "it has told something")
        cache.kill()

        async def alone() -> bool:
            return not (await self.view(daemon)).complete

        await self.until_told(alone, 10, "it says so")
        view = await self.view(daemon)
        self.assertEqual(["test"], list(view.nodes))
        self.assertEqual(set(NAMES), set(view.nodes["test"]))
        self.assertIn("cannot be asked", view.why)
        cache.start()
        await self.until(lambda: self.told(cache, "test"), 30, "it tells again")
        self.assertTrue((await self.view(daemon)).complete)

    async def test_the_reactor_is_measured(self) -> None:
        daemon = await self.daemon()
        heard: list[float] = []
        daemon.parts.lag.listeners.append(heard.append)
        await self.until(lambda: len(heard) >= 5, 10, "it has been")
        self.assertTrue(all(lag >= 0.0 for lag in heard))
        self.assertGreater(daemon.parts.cluster_stats.own()["reactor_lag_ms"] + sum(heard), 0.0)
