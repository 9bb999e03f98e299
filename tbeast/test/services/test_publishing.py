from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.assetmap import Asset
from tbeast.domain.board import ON_DEMAND_SECONDS, REST
from tbeast.domain.counters import Counters
from tbeast.domain.quotes import Quote
from tbeast.domain.readyreplies import Shelf, body
from tbeast.services.publishing import INTERVAL_SECONDS, SLICES, Publishing
from tbeast.test.domain.boards import Scene, changed, without
from tbeast.testing.logs import listen


def render(quote: Quote) -> tuple[bytes, bytes]:
    return f"{quote.asset} {quote.price} ".encode(), f" {quote.quality}".encode()


class PublishingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.clock = Clock()
        self.shelf = Shelf()
        self.counters = Counters()
        self.render = render
        self.publishing = Publishing(
            self.scene.board, self.scene.pricer, self.shelf, lambda quote: self.render(quote), self.counters,
            self.clock, lambda: self.scene.now,
        )  # fmt: skip
        self.publishing.startService()
        self.log = listen(self)

    def shown(self, asset: str) -> str | None:
        reply = self.shelf.find(asset, self.scene.now)
        return None if reply is None else body(reply, self.scene.now).decode()

    def test_a_tick_is_on_the_shelf_in_the_next_turn(self) -> None:
        self.scene.tick("kraken", "BTC", 100.0)
        self.assertIsNone(self.shown("BTC"))
        self.clock.advance(0)
        self.assertEqual(self.shown("BTC"), "BTC 100.0 0.000 single_source")

    def test_but_not_more_often_than_the_interval_allows(self) -> None:
        self.scene.tick("kraken", "BTC", 100.0)
        self.clock.advance(0)
        self.scene.now += 0.001
        self.scene.tick("kraken", "BTC", 101.0)
        self.clock.advance(INTERVAL_SECONDS * 0.9)
        self.assertEqual(self.shown("BTC"), "BTC 100.0 0.001 single_source")
        self.clock.advance(INTERVAL_SECONDS * 0.1)
        self.assertEqual(self.shown("BTC"), "BTC 101.0 0.000 single_source")

    def test_a_burst_costs_one_quote(self) -> None:
        for step in range(50):
            self.scene.now += 0.0001
            self.scene.tick("kraken", "BTC", 100.0 + step)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual(self.counters.value("publications"), 1)
        self.assertEqual(self.shown("BTC"), "BTC 149.0 0.000 single_source")

    def test_an_interlude_after_each_asset(self) -> None:
        """What is published already can be asked for in it."""
        shown: list[tuple[str | None, str | None]] = []
        self.publishing.interlude = lambda: shown.append((self.shown("BTC"), self.shown("ETH")))
        for asset in ("BTC", "ETH"):
            self.scene.tick("kraken", asset, 100.0)
        self.publishing.publish()
        btc, eth = "BTC 100.0 0.000 single_source", "ETH 100.0 0.000 single_source"
        self.assertEqual([(btc, None), (btc, eth)], shown)
        shown.clear()
        for _ in range(SLICES):
            self.publishing.sweep_slice()
        self.assertEqual({(btc, eth)}, set(shown))
        # all are reviewed, and what has a place on the shelf is priced
        self.assertEqual(len(self.scene.board.codes()) + len(self.scene.board.assets.assets), len(shown))

    def test_rates_are_known_to_what_is_published_with_them(self) -> None:
        self.scene.tick("okx", "BTC", 100.0)
        for exchange in ("kraken", "okx", "coinbase"):
            self.scene.tick(exchange, "USDT", 0.5)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual(self.shown("BTC"), "BTC 50.0 0.000 single_source")
        self.assertIsNone(self.shown("USDT"))

    def test_the_age_grows_on_the_shelf(self) -> None:
        self.scene.tick("kraken", "BTC", 100.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.scene.now += 1.5
        self.assertEqual(self.shown("BTC"), "BTC 100.0 1.500 single_source")

    def test_what_grows_too_old_is_taken_down(self) -> None:
        self.scene.tick("kraken", "BTC", 100.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.scene.now += 60.5
        self.assertIsNone(self.shown("BTC"))  # even before anything took it down
        self.assertIn("BTC", self.shelf.replies)
        self.publishing.sweep()
        self.assertNotIn("BTC", self.shelf.replies)
        self.assertEqual(self.publishing.last["BTC"].quality, "stale")

    def test_a_lost_connection_shows_without_a_tick(self) -> None:
        for exchange in ("kraken", "coinbase", "gemini"):
            self.scene.tick(exchange, "BTC", 100.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.scene.disconnect("kraken")
        self.scene.now += 6
        self.publishing.sweep()
        self.assertEqual(self.shown("BTC"), "BTC 100.0 6.000 degraded")

    def test_a_sweep_in_slices_leaves_nobody_out(self) -> None:
        for exchange in ("kraken", "coinbase"):
            for asset in ("BTC", "ETH"):
                self.scene.tick(exchange, asset, 100.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.scene.now += 61
        for _ in range(SLICES):
            self.publishing.sweep_slice()
        self.assertEqual(self.shelf.replies, {})
        self.assertEqual({quote.quality for quote in self.publishing.last.values()}, {"stale"})

    def test_grave_turns_are_told_once(self) -> None:
        self.scene.tick("kraken", "BTC", 100.0)
        self.scene.tick("kraken", "ETH", 100.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.publishing.sweep()
        self.publishing.sweep()
        self.scene.now += 61
        self.publishing.sweep()
        self.publishing.sweep()
        self.assertEqual(
            self.log.having("prices went"),
            [
                "2 prices went from none to single_source: BTC, ETH",
                "2 prices went from single_source to stale: BTC, ETH",
            ],
        )

    def test_an_expulsion_is_told(self) -> None:
        for _ in range(15):
            self.scene.now += 1
            self.scene.say("BTC", kraken=100.0, coinbase=100.0, gemini=150.0)
            self.publishing.sweep()
        self.assertIn("BTC: gemini is expelled: +50.0% from the median of 3", self.log.lines)

    def test_what_can_no_longer_be_priced_is_taken_down(self) -> None:
        for exchange in ("kraken", "okx", "coinbase"):
            self.scene.tick(exchange, "USDT", 1.0)
        self.scene.now += 55
        self.scene.tick("okx", "BTC", 100.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertIsNotNone(self.shown("BTC"))
        self.scene.now += 6  # the price is young, the rate is not
        self.assertIsNone(self.shown("BTC"))
        self.publishing.sweep()
        self.assertNotIn("BTC", self.shelf.replies)

    def test_one_asset_that_fails_fails_alone(self) -> None:
        def broken(quote: Quote) -> tuple[bytes, bytes]:
            if quote.asset == "BTC" and quote.price > 100.0:
                raise ValueError("not to be written")
            return render(quote)

        self.render = broken
        self.scene.tick("kraken", "BTC", 100.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.scene.tick("kraken", "BTC", 200.0)
        self.scene.tick("kraken", "ETH", 100.0)
        for _ in range(3):
            self.publishing.sweep()
        self.assertIsNotNone(self.shown("ETH"))
        self.assertIsNone(self.shown("BTC"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertGreaterEqual(self.counters.value("service_failures", "publish"), 3)

    def test_it_goes_on_after_a_failure(self) -> None:
        def broken(quote: Quote) -> tuple[bytes, bytes]:
            raise RuntimeError("no ink")

        self.render = broken
        self.scene.tick("kraken", "BTC", 100.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.counters.value("service_failures", "publish"), 1)
        self.render = render
        self.scene.tick("kraken", "ETH", 100.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual(self.shown("ETH"), "ETH 100.0 0.000 single_source")
        self.publishing.sweep()
        self.assertEqual(self.shown("BTC"), "BTC 100.0 0.000 single_source")

    def test_news_from_before_the_start_is_published(self) -> None:
        self.publishing.stopService()
        self.scene.tick("kraken", "BTC", 100.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.publishing.startService()
        self.clock.advance(INTERVAL_SECONDS)
        self.assertIsNotNone(self.shown("BTC"))

    def test_the_stop_leaves_nothing_planned(self) -> None:
        self.scene.tick("kraken", "BTC", 100.0)
        self.publishing.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(1)
        self.assertEqual(self.shelf.replies, {})

    def adopt(self, *gone: str, **others: Asset) -> None:
        self.scene.assets = changed(self.scene.assets, *gone, **others)
        self.publishing.adopt(self.scene.assets)

    def test_what_is_no_asset_any_more_is_off_the_shelf_at_once(self) -> None:
        for asset in ("BTC", "ETH"):
            self.scene.tick("kraken", asset, 100.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.scene.tick("kraken", "ETH", 101.0)
        self.adopt("ETH")
        self.assertEqual(list(self.shelf.replies), ["BTC"])
        self.assertEqual(list(self.publishing.last), ["BTC"])
        self.clock.advance(INTERVAL_SECONDS)
        self.publishing.sweep()
        self.assertEqual(list(self.shelf.replies), ["BTC"])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_price_is_made_anew_without_a_source_that_went(self) -> None:
        self.scene.say("ETH", kraken=10.0, coinbase=11.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual(self.shown("ETH"), "ETH 10.0 0.000 degraded")
        self.adopt(ETH=without(self.scene.assets.assets["ETH"], "kraken"))
        self.assertEqual(self.shown("ETH"), "ETH 11.0 0.000 single_source")

    def test_one_with_no_price_left_is_taken_down(self) -> None:
        self.scene.say("ETH", kraken=10.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.adopt(ETH=without(self.scene.assets.assets["ETH"], "kraken"))
        self.assertIsNone(self.shown("ETH"))

    def test_so_is_what_was_converted_with_a_rate_that_went(self) -> None:
        for exchange in ("kraken", "okx", "coinbase"):
            self.scene.tick(exchange, "USDT", 0.5)
        self.scene.tick("okx", "NOT", 100.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual(self.shown("NOT"), "NOT 50.0 0.000 single_source")
        self.adopt("USDT")
        self.assertIsNone(self.shown("NOT"))

    def test_a_new_one_is_published(self) -> None:
        self.adopt(NEW=Asset("NEW", "New", "Major", "kraken", {"kraken": "NEW/USD"}))
        self.scene.tick("kraken", "NEW", 3.0)
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual(self.shown("NEW"), "NEW 3.0 0.000 single_source")
        self.scene.now += 61
        self.publishing.sweep()
        self.assertNotIn("NEW", self.shelf.replies)

    def test_another_map_before_the_start(self) -> None:
        self.publishing.stopService()
        self.adopt("ETH", NEW=Asset("NEW", "New", "Major", "kraken", {"kraken": "NEW/USD"}))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.scene.tick("kraken", "NEW", 3.0)
        self.publishing.startService()
        self.clock.advance(INTERVAL_SECONDS)
        self.assertEqual(self.shown("NEW"), "NEW 3.0 0.000 single_source")

    def test_what_is_fetched_on_demand_lies_there_for_a_moment(self) -> None:
        self.adopt(NEW=Asset("NEW", "New", "Major", "kraken", {"kraken": "NEW/USD"}, frozenset({"kraken"})))
        self.scene.tick("kraken", "NEW", 3.0, via=REST)
        self.clock.advance(INTERVAL_SECONDS)
        self.scene.now += ON_DEMAND_SECONDS
        self.assertIsNotNone(self.shown("NEW"))
        self.scene.now += 0.1
        self.assertIsNone(self.shown("NEW"))
