"""What is measured beside the counters: each sample says what the thing says that it was read from."""

from __future__ import annotations

import os
from typing import Any

from attrs import evolve
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.assetmap import AssetMap
from tbeast.domain.backing import PartStatus
from tbeast.domain.board import REST, WS, Board
from tbeast.domain.counters import FAMILIES
from tbeast.domain.freshness import Limits
from tbeast.domain.governor import SHARING, Governor, Report
from tbeast.domain.governor import STATES as GOVERNOR_STATES
from tbeast.domain.ticks import UNKNOWN, Tick
from tbeast.domain.usage import BEHIND, OK, MeteringStatus
from tbeast.servers.metrics import (
    BUCKET_BITS,
    FROM_ZERO,
    GAUGES,
    HISTOGRAM,
    MORE_COUNTERS,
    TIMES,
    Metrics,
    NodeInfo,
    Sources,
)
from tbeast.test.servers.rooms import House


class Lag:
    mean_ms = 2.5
    max_ms = 40.0


class Verdicts:
    healthy = True
    is_ready = False

    def health(self) -> tuple[bool, dict[str, Any]]:
        return self.healthy, {}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        return self.is_ready, {}


class MetricsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House()
        self.backing: list[PartStatus] = []

    def text(self, **sources: Any) -> str:
        house = self.house
        metrics = Metrics(
            counters=house.counters, answers=house.answers, feeds=lambda: house.feeds, now=house.now,
            backing=lambda: self.backing, sources=Sources(**sources),
        )  # fmt: skip
        return metrics.exposition().decode()

    def samples(self, **sources: Any) -> dict[tuple[str, ...], float]:
        """By name and label values, the labels in the order of their names."""
        return {
            (sample.name.removeprefix("tbeast_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.text(**sources))
            for sample in family.samples
        }


class EveryFamilyTests(MetricsCase):
    def test_each_is_there_whatever_the_process_has(self) -> None:
        """So a rule that names one can be checked against any daemon."""
        lines = self.text().splitlines()
        for name, (what, _) in GAUGES.items():
            self.assertIn(f"# TYPE tbeast_{name} gauge", lines)
            self.assertTrue(any(line.startswith(f"# HELP tbeast_{name} {what[:10]}") for line in lines), name)
        for name in MORE_COUNTERS:
            self.assertIn(f"# TYPE tbeast_{name}_total counter", lines)
        self.assertIn(f"# TYPE tbeast_{HISTOGRAM} histogram", lines)

    def test_nothing_has_no_samples(self) -> None:
        names = {key[0] for key in self.samples()}
        self.assertEqual(set(), names & {"healthy", "governor_limit", "usage_batches_under_way", "feed_lag_seconds"})

    def test_none_is_told_twice(self) -> None:
        lines = [line for line in self.text().splitlines() if line.startswith("# TYPE")]
        self.assertEqual(len(lines), len(set(lines)))
        self.assertFalse({*GAUGES} & {f"{name}_total" for name in (*FAMILIES, *MORE_COUNTERS)})


class FromZeroTests(MetricsCase):
    def test_what_is_alarming_is_there_before_it_happens(self) -> None:
        self.assertEqual(0.0, self.samples()["requests_total", "http", "lpo", "500"])
        self.house.counters.count("requests", "lpo", "http", "500", by=2)
        self.assertEqual(2.0, self.samples()["requests_total", "http", "lpo", "500"])

    def test_by_names_that_there_are(self) -> None:
        for family, *labels in FROM_ZERO:
            self.assertEqual(len(FAMILIES[family][1]), len(labels))


class NodeTests(MetricsCase):
    def test_info(self) -> None:
        samples = self.samples(info=NodeInfo("1.2.3", "yes", "node-7"))
        self.assertEqual(1.0, samples["info", "yes", "node-7", "1.2.3"])

    def test_verdicts(self) -> None:
        verdicts = Verdicts()
        samples = self.samples(health=verdicts)
        self.assertEqual((1.0, 0.0), (samples["healthy",], samples["ready",]))
        verdicts.healthy = False
        self.assertEqual(0.0, self.samples(health=verdicts)["healthy",])

    def test_reactor_lag_is_in_seconds(self) -> None:
        samples = self.samples(lag=Lag())
        self.assertEqual((0.0025, 0.04), (samples["reactor_lag_mean_seconds",], samples["reactor_lag_max_seconds",]))

    def test_workers(self) -> None:
        """Each is measured as a process; one that is gone is left out."""
        samples = self.samples(workers=lambda: {"1": os.getpid(), "2": 2**22 + 1}, memory_limit_bytes=7)
        self.assertGreater(samples["worker_memory_bytes", "1"], 1_000_000)
        self.assertGreater(samples["worker_cpu_seconds_total", "1"], 0.0)
        self.assertGreater(samples["worker_open_fds", "1"], 0.0)
        self.assertNotIn(("worker_memory_bytes", "2"), samples)
        self.assertEqual(7.0, samples["memory_limit_bytes",])


class TimesTests(MetricsCase):
    def buckets(self, *counted: tuple[int, int]) -> dict[str, float]:
        for bits, number in counted:
            self.house.counters.count(TIMES, "lpo", str(2**bits - 1), by=number)
        samples = self.samples()
        self.assertEqual(samples["response_seconds_bucket", "+Inf", "lpo"], samples["response_seconds_count", "lpo"])
        self.assertEqual(0.0, samples["response_seconds_count", "lrs"])
        return {key[1]: value for key, value in samples.items() if key[0] == "response_seconds_bucket" and "lpo" in key}

    def test_each_bucket_holds_those_below_it(self) -> None:
        buckets = self.buckets((7, 3), (14, 2))  # up to 127 us, up to 16,383 us
        self.assertEqual(
            [0.0, 3.0, 3.0, 5.0, 5.0],
            [buckets[le] for le in ("6.4e-05", "0.000128", "0.008192", "0.016384", "+Inf")],
        )

    def test_the_ends(self) -> None:
        """What is faster than the first bucket is in it; what is slower than the last but one, in the last."""
        buckets = self.buckets((0, 1), (5, 1), (24, 1), (25, 1), (31, 1))
        self.assertEqual(len(BUCKET_BITS) + 1, len(buckets))
        self.assertEqual([2.0, 2.0, 3.0, 5.0], [buckets[le] for le in ("3.2e-05", "8.388608", "16.777216", "+Inf")])

    def test_it_is_no_plain_counter_as_well(self) -> None:
        self.assertNotIn("tbeast_response_times", self.text())


class FeedTests(MetricsCase):
    def setUp(self) -> None:
        super().setUp()
        self.board = Board(
            self.house.assets, Limits(60.0), ("coinbase", "gemini", "kraken", "gateio", "cryptocom", "okx")
        )

    def put(self, symbol: str, ago: float, lag: float, via: str = WS) -> None:
        heard_at = self.house.now() - ago
        tick = Tick("coinbase", symbol, 10.0, 9.0, 11.0, UNKNOWN, heard_at - lag, heard_at)
        self.assertIsNone(self.board.put(tick, via))

    def coinbase(self) -> dict[tuple[str, ...], float]:
        samples = self.samples(board=self.board)
        return {(key[0], *key[2:]): value for key, value in samples.items() if key[1:2] == ("coinbase",)}

    def test_lag_and_age(self) -> None:
        self.put("BTC-USD", 0.5, 0.25)
        self.put("ETH-USD", 3.0, 2.0)
        found = self.coinbase()
        self.assertAlmostEqual(0.25, found["feed_lag_seconds", "median"], places=3)
        self.assertAlmostEqual(2.0, found["feed_lag_seconds", "worst"], places=3)
        self.assertAlmostEqual(3.0, found["feed_oldest_seconds",], places=3)

    def test_an_old_tick_says_nothing_of_the_lag_now(self) -> None:
        self.put("BTC-USD", 61.0, 30.0)
        self.put("ETH-USD", 1.0, UNKNOWN)  # and neither does one without a time
        found = self.coinbase()
        self.assertNotIn(("feed_lag_seconds", "median"), found)
        self.assertAlmostEqual(61.0, found["feed_oldest_seconds",], places=3)

    def test_delay_of_the_slowest_connection(self) -> None:
        now = self.house.now()
        self.board.connected("coinbase", ("BTC-USD",), now)
        self.put("BTC-USD", 1.0, 0.1)
        self.assertEqual(0.0, self.coinbase()["feed_delay_seconds",])
        self.board.turn(now)
        self.board.turn(now + 6.0)
        self.board.turn(now + 12.0)
        tick = Tick("coinbase", "BTC-USD", 12.0, 9.0, 13.0, UNKNOWN, now, now + 13.0)
        self.board.put(tick, WS)
        self.board.turn(now + 13.0)
        self.assertGreater(self.coinbase()["feed_delay_seconds",], 5.0)

    def test_rest(self) -> None:
        """What is late, and what the last word of which came over REST."""
        self.board.connected("coinbase", ("BTC-USD", "ETH-USD"), self.house.now())
        self.put("BTC-USD", 0.0, 0.1)
        self.put("ETH-USD", 0.0, 0.1, REST)
        found = self.coinbase()
        self.assertEqual(1.0, found["rest_fed_symbols",])
        late = len(self.board.late("coinbase", self.house.now()))
        self.assertEqual(late, found["rest_late_symbols",])
        self.house.time += 59.0
        self.assertEqual(late + 2, self.coinbase()["rest_late_symbols",])

    def test_nothing_heard_yet(self) -> None:
        found = self.coinbase()
        self.assertNotIn(("feed_oldest_seconds",), found)
        self.assertEqual(0.0, found["rest_fed_symbols",])


class PartTests(MetricsCase):
    def test_states(self) -> None:
        """All states of a part are there, the one that holds is 1; one that is not foreseen is shown all the same."""
        self.backing = [PartStatus("cache", "away", blocks=True), PartStatus("keys", "elsewhere")]
        samples = self.samples()
        self.assertEqual((1.0, 0.0), (samples["part_state", "cache", "away"], samples["part_state", "cache", "up"]))
        self.assertEqual(
            (1.0, 0.0), (samples["part_state", "keys", "elsewhere"], samples["part_state", "keys", "store"])
        )
        self.assertEqual((1.0, 0.0), (samples["part_blocks", "cache"], samples["part_blocks", "keys"]))

    def test_metering(self) -> None:
        status = MeteringStatus(OK, None, 5, 401, 7, 8, "", "")
        samples = self.samples(metering=lambda: status, spool_limit_bytes=2**30)
        self.assertEqual(401.0, samples["usage_batches_under_way",])
        self.assertEqual((0.0, 2.0**30), (samples["usage_behind_seconds",], samples["usage_spool_limit_bytes",]))
        status = evolve(status, state=BEHIND, since=self.house.now() - 90.0)
        self.assertAlmostEqual(90.0, self.samples(metering=lambda: status)["usage_behind_seconds",], places=3)


class GovernorTests(MetricsCase):
    def setUp(self) -> None:
        super().setUp()
        self.governor = Governor("n", "life", self.house.now(), total=6_000)

    def test_one_process(self) -> None:
        governor = self.governor
        self.assertTrue(governor.admit())
        governor.limit = 1
        samples = self.samples(governor=governor)
        self.assertEqual(
            [1.0, 1.0, governor.share, 1.0, 1.0, 6_000.0],
            [samples[f"governor_{name}",] for name in
             ("connections", "limit", "share", "health", "nodes", "cluster_limit")],
        )  # fmt: skip
        states = {state: samples["governor_state", state] for state in GOVERNOR_STATES}
        self.assertEqual({state: float(state == governor.state) for state in GOVERNOR_STATES}, states)

    def test_with_workers(self) -> None:
        """Connections and limits are added up; health is that of the least well."""
        reports = [
            Report(f"n/{number}", "life", 3, 0.0, 10 * number, 20, False, health, 100, 90)
            for number, health in ((1, 0.5), (2, 1.0))
        ]
        self.governor.state, self.governor.limit = SHARING, 50
        samples = self.samples(governor=self.governor, reports=lambda: reports)
        self.assertEqual(
            (30.0, 230.0, 0.5),
            tuple(samples[f"governor_{name}",] for name in ("connections", "limit", "health")),
        )
        self.assertEqual(1.0, samples["governor_state", SHARING])


class WithoutPricesTests(MetricsCase):
    def test_a_node_of_reports_alone_misses_no_price(self) -> None:
        """What stands at 0 there would be an alarm."""
        self.assertIn(("assets", "good"), self.samples())
        self.house.answers.adopt(AssetMap({}, {}))
        self.assertNotIn("assets", {key[0] for key in self.samples()})
