"""What nodes tell of themselves, in a real server."""

from __future__ import annotations

from twisted.internet.defer import ensureDeferred, gatherResults

from tbeast.adapters.cache.clusterstats import MOST_NODES, NODES, PREFIX, SECONDS_TO_LIVE, ValkeyClusterStats
from tbeast.adapters.cache.valkey import RefusedError
from tbeast.domain.clusterstats import NAMES
from tbeast.errors import CacheUnavailableError
from tbeast.test.adapters.cache.clients import SharedServerCase

TEXTS = {name: str(place) for place, name in enumerate(NAMES)}
TOLD = {name: text.encode() for name, text in TEXTS.items()}


class ValkeyClusterStatsTests(SharedServerCase):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.stats = ValkeyClusterStats(self.valkey)

    def time(self) -> int:
        """The server's, in whole seconds."""
        found = self.server.command("TIME")
        assert isinstance(found, list) and isinstance(found[0], bytes)
        return int(found[0])

    def members(self) -> object:
        return self.server.command("ZRANGE", NODES, "0", "-1")

    async def test_where_it_lies(self) -> None:
        await self.stats.put("eu-1", TEXTS)
        self.assertEqual(self.server.command("HLEN", "cluster:stats:eu-1"), 24)
        self.assertEqual(self.server.command("HGET", "cluster:stats:eu-1", NAMES[7]), b"7")
        for key in ("cluster:stats:eu-1", NODES):
            self.assertIn(self.server.command("TTL", key), (SECONDS_TO_LIVE - 1, SECONDS_TO_LIVE))

    async def test_all_nodes_are_read(self) -> None:
        for node in ("eu-1", "nodes", "knoten-ä", "a b:c", ""):
            await self.stats.put(node, {**TEXTS, "requests": node})
        found = await self.stats.all(NAMES)
        self.assertEqual({"eu-1", "nodes", "knoten-ä", "a b:c", ""}, set(found))
        for node, told in found.items():
            self.assertEqual({**TOLD, "requests": node.encode()}, told)

    async def test_nobody_has_told_anything(self) -> None:
        self.assertEqual(await self.stats.all(NAMES), {})

    async def test_what_is_not_told_any_more_is_not_left_standing(self) -> None:
        await self.stats.put("eu-1", TEXTS)
        await self.stats.put("eu-1", {"ticks": "5"})
        self.assertEqual(await self.stats.all(NAMES), {"eu-1": {"ticks": b"5"}})

    async def test_names_that_are_not_asked_for(self) -> None:
        """Another version's may be many, and long."""
        await self.stats.put("eu-1", {"ticks": "5", **{f"apples_{number}": "x" * 1000 for number in range(100)}})
        await self.stats.put("eu-2", {"apples": "7"})
        self.assertEqual(await self.stats.all(NAMES), {"eu-1": {"ticks": b"5"}})

    async def test_who_fell_silent(self) -> None:
        """Its hash is gone by itself; whoever speaks next takes its name out."""
        await self.stats.put("eu-1", TEXTS)
        self.server.command("DEL", PREFIX + "eu-1")
        self.server.command("ZADD", NODES, str(self.time() - SECONDS_TO_LIVE - 1), "eu-1")
        self.assertEqual(await self.stats.all(NAMES), {})
        await self.stats.put("eu-2", TEXTS)
        self.assertEqual(self.members(), [b"eu-2"])

    async def test_who_spoke_lately_stays(self) -> None:
        self.server.command("ZADD", NODES, str(self.time() - SECONDS_TO_LIVE + 4), "eu-1")
        await self.stats.put("eu-2", TEXTS)
        self.assertEqual(self.members(), [b"eu-1", b"eu-2"])

    async def test_a_clock_that_was_put_back(self) -> None:
        """Whoever spoke in what is the future now would otherwise never go."""
        self.server.command("ZADD", NODES, str(self.time() + 3600), "eu-1")
        await self.stats.put("eu-2", TEXTS)
        self.assertEqual(self.members(), [b"eu-2"])

    async def test_goodbye(self) -> None:
        await self.stats.put("eu-1", TEXTS)
        await self.stats.put("eu-2", TEXTS)
        await self.stats.remove("eu-1")
        await self.stats.remove("eu-7")
        self.assertEqual(set(await self.stats.all(NAMES)), {"eu-2"})
        self.assertEqual((self.members(), self.server.command("EXISTS", PREFIX + "eu-1")), ([b"eu-2"], 0))

    async def test_what_is_not_ours_gives_way(self) -> None:
        self.server.command("SET", NODES, "many")
        self.server.command("SET", PREFIX + "eu-1", "many")
        self.assertEqual(await self.stats.all(NAMES), {})
        await self.stats.put("eu-1", TEXTS)
        self.assertEqual(await self.stats.all(NAMES), {"eu-1": TOLD})
        self.server.command("SET", PREFIX + "eu-2", "many")
        self.server.command("ZADD", NODES, str(self.time()), "eu-2")
        self.assertEqual(await self.stats.all(NAMES), {"eu-1": TOLD})

    async def test_nobody_searches_the_whole_cache(self) -> None:
        self.server.command("CONFIG", "RESETSTAT")
        await self.stats.put("eu-1", TEXTS)
        await self.stats.all(NAMES)
        text = self.server.command("INFO", "commandstats")
        assert isinstance(text, bytes)
        self.assertIn(b"cmdstat_hmget", text)
        for word in (b"cmdstat_scan", b"cmdstat_keys"):
            self.assertNotIn(word, text)

    async def test_too_many_nodes(self) -> None:
        """Those that have spoken last are read."""
        now = self.time()
        for start in range(0, MOST_NODES + 500, 500):
            words = [word for number in range(start, start + 500) for word in (str(now + number / 1000), f"n{number}")]
            self.server.command("ZADD", NODES, *words)
        for node in ("n0", f"n{MOST_NODES}"):
            self.server.command("HSET", PREFIX + node, "ticks", "1")
        self.assertEqual(set(await self.stats.all(NAMES)), {f"n{MOST_NODES}"})

    async def test_nodes_that_tell_all_at_once(self) -> None:
        nodes = [self.client(self.server.url) for _ in range(5)]
        await gatherResults([node.start() for node in nodes])
        await gatherResults(
            [
                ensureDeferred(ValkeyClusterStats(node).put(f"n{place}", {"ticks": str(place)}))
                for place, node in enumerate(nodes)
            ]
        )
        self.assertEqual(
            await self.stats.all(NAMES), {f"n{place}": {"ticks": str(place).encode()} for place in range(5)}
        )

    async def test_the_server_has_forgotten_the_script(self) -> None:
        await self.stats.put("eu-1", TEXTS)
        self.server.command("SCRIPT", "FLUSH")
        await self.stats.put("eu-1", {"ticks": "2"})
        self.assertEqual(await self.stats.all(NAMES), {"eu-1": {"ticks": b"2"}})

    async def test_what_cannot_be_stored_is_told(self) -> None:
        self.server.command("CONFIG", "SET", "min-replicas-to-write", "1")
        self.addCleanup(self.server.command, "CONFIG", "SET", "min-replicas-to-write", "0")
        with self.assertRaisesRegex(RefusedError, "NOREPLICAS"):
            await self.stats.put("eu-1", TEXTS)
        with self.assertRaisesRegex(RefusedError, "NOREPLICAS"):
            await self.stats.remove("eu-1")

    async def test_away(self) -> None:
        await self.cut()
        self.addCleanup(self.mend)
        for asking in (self.stats.put("eu-1", TEXTS), self.stats.all(NAMES), self.stats.remove("eu-1")):
            with self.assertRaises(CacheUnavailableError):
                await asking
        await self.mend()
        await self.stats.put("eu-1", TEXTS)
        self.assertEqual(await self.stats.all(NAMES), {"eu-1": TOLD})
