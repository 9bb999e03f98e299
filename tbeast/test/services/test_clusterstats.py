"""The statistics of this node and of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import evolve
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.clusterstats import NAMES, write
from tbeast.domain.counters import Counters
from tbeast.domain.latencies import FAMILY
from tbeast.domain.usage import OK, MeteringStatus
from tbeast.errors import CacheUnavailableError
from tbeast.services.clusterstats import EVERY_SECONDS, ClusterStats, Sources, View
from tbeast.testing.logs import listen


class Shared:
    """A cache that forgets nothing.

    @ivar told: what nodes have told.
    @ivar is_away: whether nothing can be asked of it.
    @ivar waits: what an answer waits for, if it is to.
    """

    def __init__(self) -> None:
        self.told: dict[str, dict[str, bytes]] = {}
        self.puts = 0
        self.is_away = False
        self.waits: Deferred[None] | None = None

    async def put(self, node: str, texts: Mapping[str, str]) -> None:
        self._asked()
        if self.waits is not None:
            await self.waits
        self.puts += 1
        self.told[node] = {name: text.encode() for name, text in texts.items()}

    async def all(self, names: Iterable[str]) -> dict[str, dict[str, bytes]]:
        self._asked()
        wanted = set(names)
        return {node: {name: text for name, text in told.items() if name in wanted} for node, told in self.told.items()}

    async def remove(self, node: str) -> None:
        self._asked()
        self.told.pop(node, None)

    def _asked(self) -> None:
        if self.is_away:
            raise CacheUnavailableError("gone")


class Lag:
    max_ms = 2.5


class ClusterStatsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.counters = Counters()
        self.shared = Shared()
        self.sources = Sources(
            counters=self.counters, feeds=tuple, qualities=lambda: {"good": 149, "stale": 1},
            metering=lambda: MeteringStatus(OK, None, 11, 12, 13, 0, "", ""), lag=Lag(), connections=lambda: 21,
        )  # fmt: skip
        self.stats = self.made(self.shared)

    def made(self, shared: Shared | None, nodes: int = 1) -> ClusterStats:
        return ClusterStats(node="here", nodes=nodes, shared=shared, sources=self.sources, clock=self.clock)

    def start(self) -> None:
        self.stats.startService()
        self.clock.advance(0.0)
        self.addCleanup(self.stop)

    def stop(self) -> None:
        self.successResultOf(ensureDeferred(self.stats.stopService()))

    def view(self) -> View:
        return self.successResultOf(ensureDeferred(self.stats.view()))

    def answer(self, us: int, by: int = 1) -> None:
        self.counters.count("requests", "lpo", "http", "200", by=by)
        self.counters.count(FAMILY, "lpo", str((1 << us.bit_length()) - 1), by=by)

    # This node.

    def test_own(self) -> None:
        self.clock.advance(5.0)
        self.answer(40, by=3)
        found = self.stats.own()
        self.assertEqual(NAMES, tuple(found))
        for name, number in (
            ("uptime_seconds", 5), ("requests", 3), ("assets_good", 149), ("assets_unpriced", 1), ("usage_waiting", 11),
            ("usage_batches", 12), ("spooled_batches", 13), ("connections", 21),
            ("reactor_lag_ms", 2.5), ("response_p50_us", 45),
        ):  # fmt: skip
            self.assertEqual(number, found[name], name)

    def test_the_rate_is_that_between_two_rounds(self) -> None:
        self.start()
        self.answer(40, by=600)
        self.assertEqual(0.0, self.stats.own()["requests_per_second"])
        self.clock.advance(EVERY_SECONDS)
        self.assertEqual(200.0, self.stats.own()["requests_per_second"])
        self.clock.advance(EVERY_SECONDS)
        self.assertEqual(0.0, self.stats.own()["requests_per_second"])

    def test_percentiles_are_of_the_last_minute(self) -> None:
        self.start()
        self.answer(40_000, by=100)
        for _ in range(19):
            self.clock.advance(EVERY_SECONDS)
        self.answer(40)
        self.assertEqual((101, True), (self.answers("lpo"), self.stats.own()["response_p50_us"] > 30_000))
        self.clock.advance(EVERY_SECONDS)
        self.clock.advance(EVERY_SECONDS)
        self.assertEqual((1, True), (self.answers("lpo"), 32 <= self.stats.own()["response_p99_us"] < 64))
        for _ in range(25):
            self.clock.advance(EVERY_SECONDS)
        self.assertEqual(0, self.stats.own()["response_p99_us"])
        self.assertEqual({}, self.stats.percentiles())

    def answers(self, service: str) -> int:
        return self.stats.percentiles()[service]["answers"]

    def test_reports_have_percentiles_of_their_own(self) -> None:
        self.answer(40, by=10)
        self.counters.count(FAMILY, "lrs", str((1 << 20) - 1), by=90)
        self.assertEqual(["lpo", "lrs"], list(self.stats.percentiles()))
        self.assertEqual(["answers", "p50_us", "p90_us", "p99_us"], list(self.stats.percentiles()["lrs"]))
        self.assertLess(self.stats.own()["response_p99_us"], 64)

    # Telling.

    def test_it_is_told_at_once_and_every_three_seconds(self) -> None:
        self.start()
        self.assertEqual(1, self.shared.puts)
        self.assertEqual(set(NAMES), set(self.shared.told["here"]))
        self.clock.pump([1.0] * 9)
        self.assertEqual(4, self.shared.puts)

    def test_goodbye(self) -> None:
        self.start()
        self.stop()
        self.assertEqual({}, self.shared.told)
        self.clock.advance(60.0)
        self.assertEqual((1, []), (self.shared.puts, self.clock.getDelayedCalls()))

    def test_goodbye_comes_last(self) -> None:
        """What is on its way is waited for: it would bring the node back."""
        self.shared.waits = Deferred()
        self.start()
        ended = ensureDeferred(self.stats.stopService())
        self.assertNoResult(ended)
        self.shared.waits.callback(None)
        self.successResultOf(ended)
        self.assertEqual((1, {}), (self.shared.puts, self.shared.told))

    def test_the_cache_is_away(self) -> None:
        """That is told once, is no failure, and is over when it is."""
        lines = listen(self)
        self.shared.is_away = True
        self.start()
        self.clock.pump([EVERY_SECONDS] * 3)
        self.assertEqual(1, len(lines.having("are not told of this one: gone")))
        self.assertEqual(0, self.counters.total("service_failures"))
        self.shared.is_away = False
        self.clock.advance(EVERY_SECONDS)
        self.assertEqual(1, len(lines.having("are told of this one again")))
        self.assertEqual(1, self.shared.puts)
        self.shared.is_away = True
        self.stop()

    # All nodes.

    def test_all_nodes(self) -> None:
        """This one's are fresh, whatever it has told."""
        self.shared.told = {
            "there": {"requests": b"5", "requests_per_second": b"1.5", "apples": b"x"},
            "here": {"requests": b"99"},
        }
        view = self.view()
        self.assertEqual(["here", "there"], list(view.nodes))
        self.assertEqual({"requests": 5, "requests_per_second": 1.5}, view.nodes["there"])
        self.assertEqual(self.stats.own(), view.nodes["here"])
        self.assertEqual((True, ""), (view.complete, view.why))
        self.assertEqual(view.nodes, self.successResultOf(ensureDeferred(self.stats.nodes())))

    def test_somebody_tells_nonsense(self) -> None:
        self.shared.told = {"there": {"requests": b"-5"}, "yonder": {"requests": b"1"}}
        view = self.view()
        self.assertEqual({"yonder", "here"}, set(view.nodes))
        self.assertFalse(view.complete)
        self.assertEqual("what there tells cannot be read: requests is no number: b'-5'", view.why)

    def test_some_are_not_heard(self) -> None:
        self.stats = self.made(self.shared, nodes=3)
        self.shared.told = {"there": {"requests": b"5"}}
        view = self.view()
        self.assertEqual((False, "2 of 3 nodes are heard"), (view.complete, view.why))
        self.shared.told["yonder"] = {"requests": b"5"}
        self.assertTrue(self.view().complete)

    def test_own_alone_when_the_cache_is_away(self) -> None:
        self.shared.told = {"there": {"requests": b"5"}}
        self.shared.is_away = True
        view = self.view()
        self.assertEqual({"here": self.stats.own()}, view.nodes)
        self.assertEqual((False, "the shared cache cannot be asked: gone"), (view.complete, view.why))

    def test_without_a_cache(self) -> None:
        """One node is all there is; of several the others are not heard."""
        self.stats = self.made(None)
        self.start()
        self.clock.advance(EVERY_SECONDS)
        self.assertEqual((["here"], True, ""), (list(self.view().nodes), self.view().complete, self.view().why))
        self.stop()
        self.stats = self.made(None, nodes=2)
        self.assertEqual(["here"], list(self.view().nodes))
        self.assertFalse(self.view().complete)
        self.assertIn("no shared cache", self.view().why)

    def test_two_nodes_hear_each_other(self) -> None:
        self.start()
        other = ClusterStats(
            node="there", nodes=2, shared=self.shared, sources=evolve(self.sources, connections=lambda: 5),
            clock=self.clock,
        )  # fmt: skip
        view = self.successResultOf(ensureDeferred(other.view()))
        self.assertTrue(view.complete)
        self.assertEqual([21, 5], [view.nodes[node]["connections"] for node in ("here", "there")])
        self.assertEqual(
            {name: text.encode() for name, text in write(self.stats.own()).items()}, self.shared.told["here"]
        )
