"""The health port."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.assetmap import Asset
from tbeast.domain.backing import PartStatus
from tbeast.domain.counters import FAMILIES
from tbeast.domain.feedstatus import DOWN
from tbeast.domain.quotes import HALTED, QUALITIES
from tbeast.servers.health import WARM_UP_SECONDS, Health, health_tree
from tbeast.servers.metrics import TIMES, Metrics
from tbeast.test.servers.rooms import PARTNER, House, Wire, feed_of, problem_of, quote_of, stale_quote


class HealthCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.build(House())

    def build(self, house: House) -> None:
        self.house = house
        self.listening = {"lpo http": True, "lpo udp": True}
        self.backing: list[PartStatus] = []
        self.health = Health(
            answers=house.answers, feeds=lambda: house.feeds, listening=lambda: self.listening, now=house.now,
            node="n1", backing=lambda: self.backing,
        )  # fmt: skip
        metrics = Metrics(
            counters=house.counters, answers=house.answers, feeds=lambda: house.feeds, now=house.now,
            backing=lambda: self.backing,
        )  # fmt: skip
        self.site = house.site(health_tree(self.health, metrics))

    def ask(self, path: str) -> tuple[int, Any]:
        answer = Wire(self.site).ask(path, key=None)
        return answer.status, answer.json()

    def price_all(self) -> None:
        for code in self.house.assets.assets:
            self.house.put(quote_of(code))


class HealthTests(HealthCase):
    def test_well(self) -> None:
        status, members = self.ask("/health")
        self.assertEqual((200, "ok", []), (status, members["status"], members["reasons"]))
        self.assertEqual({"total": 4, "priced": 1}, members["assets"])
        self.assertNotIn("simulated", members)

    def test_nothing_priced(self) -> None:
        self.house.time += 60.0
        status, members = self.ask("/health")
        self.assertEqual((503, ["no asset has a fresh price"]), (status, members["reasons"]))

    def test_without_prices(self) -> None:
        """Who serves reports alone needs no price, but his database."""
        house = self.house
        health = Health(
            answers=house.answers, feeds=tuple, listening=lambda: self.listening, now=house.now, node="n1",
            backing=lambda: self.backing, has_prices=False,
        )  # fmt: skip
        house.time += 60.0
        self.assertEqual((True, []), (health.ready()[0], health.ready()[1]["reasons"]))
        self.backing = [PartStatus("database", "away", "refused", house.time)]
        self.assertEqual((False, ["database: refused"]), (health.ready()[0], health.health()[1]["reasons"]))
        self.backing = [PartStatus("cache", "away", "refused", house.time)]
        self.assertTrue(health.health()[0])

    def test_listener_down(self) -> None:
        self.listening["lpo udp"] = False
        status, members = self.ask("/health")
        self.assertEqual((503, ["the listener lpo udp is not up"]), (status, members["reasons"]))
        self.assertEqual(503, self.ask("/ready")[0])

    def test_parts_behind_it(self) -> None:
        """One that is away is named; only one that blocks makes it not ready."""
        self.price_all()
        self.backing = [
            PartStatus("usage", "behind", "connection refused", self.house.time - 2.5, figures={"spooled_bytes": 7})
        ]
        self.assertEqual(200, self.ask("/health")[0])
        status, members = self.ask("/ready")
        away = {
            "part": "usage", "state": "behind", "why": "connection refused", "for_seconds": 2.5, "spooled_bytes": 7,
        }  # fmt: skip
        self.assertEqual((200, [], [away]), (status, members["reasons"], members["backing"]))
        self.backing.append(PartStatus("keys", "loading", "the database was not there yet", None, True))
        reasons = ["keys: the database was not there yet"]
        for path in ("/health", "/ready"):
            status, members = self.ask(path)
            self.assertEqual((503, reasons), (status, members["reasons"]))
        self.assertIsNone(members["backing"][1]["for_seconds"])

    def test_without_feeds(self) -> None:
        """While there are prices it can serve, but should not be sent more questions than it must."""
        self.price_all()
        self.house.feeds = [feed_of("coinbase", DOWN)]
        self.assertEqual(200, self.ask("/health")[0])
        status, members = self.ask("/ready")
        self.assertEqual((503, ["no feed is live"]), (status, members["reasons"]))

    def test_live(self) -> None:
        self.house.shelf.replies.clear()
        self.assertEqual((200, {"live": True, "node": "n1"}), self.ask("/live"))

    def test_simulated(self) -> None:
        self.build(House(simulated=True))
        for path in ("/health", "/ready"):
            self.assertIs(True, self.ask(path)[1]["simulated"])

    def test_refusals(self) -> None:
        answer = Wire(self.site).ask("/price", key=None)
        self.assertEqual((404, "not_found"), (answer.status, problem_of(answer)["code"]))
        self.assertEqual(405, Wire(self.site).ask("/health", key=None, method="POST").status)
        self.assertEqual(200, Wire(self.site).ask("/health", key=None, method="HEAD").status)


class ReadyTests(HealthCase):
    def test_names_feeds(self) -> None:
        self.price_all()
        status, members = self.ask("/ready")
        self.assertEqual((200, True), (status, members["ready"]))
        self.assertEqual(
            [("coinbase", "live"), ("kraken", "down")], [(feed["exchange"], feed["state"]) for feed in members["feeds"]]
        )
        self.assertEqual(["X-USD"], members["feeds"][0]["refused"])
        self.assertEqual((0.2, None), tuple(feed["last_heard_seconds"] for feed in members["feeds"]))

    def test_warms_up(self) -> None:
        """After the start it waits for nearly all prices, and does not fall back for want of some later."""
        status, members = self.ask("/ready")
        self.assertEqual((503, ["warming up: 1 of 4 assets have a fresh price"]), (status, members["reasons"]))
        self.price_all()
        self.assertEqual(200, self.ask("/ready")[0])
        for code in ("ETH", "SOL", "DOGE"):
            self.house.shelf.take_down(code)
        self.assertEqual(200, self.ask("/ready")[0])
        self.house.shelf.take_down("BTC")
        status, members = self.ask("/ready")
        self.assertEqual((503, ["no asset has a fresh price"]), (status, members["reasons"]))

    def test_warms_up_no_longer_than_a_minute(self) -> None:
        self.house.time += WARM_UP_SECONDS
        self.house.put(quote_of(fresh_until=self.house.time + 1))
        self.assertEqual(200, self.ask("/ready")[0])


class OtherMapTests(HealthCase):
    def on_demand(self, code: str) -> Asset:
        return evolve(self.house.assets.assets[code], unsubscribed=frozenset(self.house.assets.assets[code].symbols))

    def test_counts_what_there_is_now(self) -> None:
        self.house.adopt("SOL", "DOGE", "BTC")
        status, members = self.ask("/health")
        self.assertEqual((503, {"total": 1, "priced": 0}), (status, members["assets"]))

    def test_a_feed_that_is_off_is_no_reason(self) -> None:
        self.price_all()
        self.house.feeds = [feed_of("coinbase"), evolve(feed_of("kraken", "off"), symbols=0)]
        status, members = self.ask("/ready")
        self.assertEqual((200, "off"), (status, members["feeds"][1]["state"]))

    def test_nobody_waits_for_what_is_fetched_on_demand(self) -> None:
        self.house.adopt("SOL", ETH=self.on_demand("ETH"), DOGE=self.on_demand("DOGE"))
        status, members = self.ask("/ready")
        self.assertEqual((200, {"total": 3, "priced": 1}), (status, members["assets"]))

    def test_not_even_where_that_is_all(self) -> None:
        self.house.shelf.replies.clear()
        self.house.adopt(**{code: self.on_demand(code) for code in self.house.assets.assets})
        self.house.feeds = [evolve(feed_of(name, "off"), symbols=0) for name in ("coinbase", "kraken")]
        self.assertEqual((200, 200), (self.ask("/health")[0], self.ask("/ready")[0]))


class MetricsTests(HealthCase):
    def samples(self) -> dict[tuple[str, ...], float]:
        answer = Wire(self.site).ask("/metrics", key=None)
        self.assertEqual(200, answer.status)
        self.assertTrue(answer.headers["Content-Type"].startswith("text/plain; version="))
        self.text = answer.body.decode()
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        }

    def test_counters(self) -> None:
        """Every family is described, and its numbers stand under its labels."""
        self.house.counters.count("udp_dropped", "lpo", "bad_key", by=3)
        samples = self.samples()
        self.assertEqual(3.0, samples["tbeast_udp_dropped_total", "bad_key", "lpo"])
        for family in FAMILIES.keys() - {TIMES}:
            self.assertIn(f"# TYPE tbeast_{family}_total counter\n", self.text)

    def test_feeds(self) -> None:
        samples = self.samples()
        self.assertEqual(
            [1.0, 0.0, 0.0, 1.0, 24.0, 0.2, 1.0],
            [samples[key] for key in (
                ("tbeast_feed_state", "coinbase", "live"), ("tbeast_feed_state", "coinbase", "down"),
                ("tbeast_feed_state", "kraken", "live"), ("tbeast_feed_state", "kraken", "down"),
                ("tbeast_feed_live_symbols", "coinbase"), ("tbeast_feed_silent_seconds", "coinbase"),
                ("tbeast_feed_refused", "coinbase"),
            )],
        )  # fmt: skip
        self.assertNotIn(("tbeast_feed_silent_seconds", "kraken"), samples)

    def test_assets(self) -> None:
        """Each asset is counted once, under the quality of what would be answered."""
        self.house.lookup.last["ETH"] = stale_quote(quality=HALTED)
        samples = self.samples()
        self.assertEqual([1.0, 0.0, 0.0, 2.0, 1.0], [samples["tbeast_assets", quality] for quality in QUALITIES])
        self.assertEqual((1.0, 0.0), (samples["tbeast_shelf_replies",], samples["tbeast_simulated",]))

    def test_parts_behind_it(self) -> None:
        self.backing = [PartStatus("usage", "behind", figures={"spooled_bytes": 7}), PartStatus("cache", "up")]
        samples = self.samples()
        self.assertEqual(7.0, samples["tbeast_usage_spooled_bytes",])
        self.assertEqual(1.0, samples["tbeast_part_state", "usage", "behind"])
        self.assertEqual(1.0, samples["tbeast_part_state", "cache", "up"])

    def test_process(self) -> None:
        samples = self.samples()
        self.assertGreater(samples["tbeast_process_resident_memory_bytes",], 1_000_000)
        self.assertEqual(self.health.started_at, samples["tbeast_start_time_seconds",])

    def test_labels_are_bounded(self) -> None:
        """Nothing that a client sends becomes a label, and there are no more samples for it."""
        lpo = Wire(self.house.site(self.house.lpo()))
        lpo.ask("/price?asset=BTC")
        lpo.ask("/price?asset=FIRST")
        before = len(self.samples())
        for number in range(20):
            lpo.ask(f"/price?asset=EVIL{number}", headers=[("X-Evil", "evil")])
        self.assertEqual(before, len(self.samples()))
        for text in ("EVIL", "evil", PARTNER):
            self.assertNotIn(text, self.text)
