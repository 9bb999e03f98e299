"""A venue that an operator has paused, on a real board: what becomes of prices, of REST, and of /ready."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.counters import Counters
from tbeast.domain.feedstatus import DOWN, PAUSED
from tbeast.domain.quotes import GOOD, HALTED, HALTED_THERE, USED
from tbeast.services.feeds import ExchangeFeed
from tbeast.test.domain.boards import Scene, changed
from tbeast.test.servers.rooms import feed_of
from tbeast.test.servers.test_health import HealthCase
from tbeast.testing.exchanges import PlainExchange
from tbeast.testing.sockets import MemoryDialer


class PausedVenueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = scene = Scene()
        clock = Clock()
        self.feed = ExchangeFeed(
            PlainExchange(), scene.assets.subscriptions("kraken"), MemoryDialer(clock), scene.board, Counters(), clock,
            lambda: scene.now, lambda: 0.0,
        )  # fmt: skip
        self.scene.say("BTC", coinbase=100.0, kraken=100.1, gemini=100.0, cryptocom=100.0)

    def test_it_loses_its_vote_at_once(self) -> None:
        self.assertEqual(USED, self.scene.verdicts("BTC")["kraken"])
        self.feed.pause()
        self.assertEqual(HALTED_THERE, self.scene.verdicts("BTC")["kraken"])
        quote = self.scene.pricer.quote("BTC", self.scene.now)
        assert quote is not None
        self.assertEqual((GOOD, 3), (quote.quality, quote.seen))
        self.assertIn("BTC", self.scene.board.dirty)
        self.assertIsNone(self.scene.pricer.single("BTC", "kraken", self.scene.now))

    def test_what_only_it_prices_has_no_price(self) -> None:
        scene = self.scene
        scene.say("NOT", kraken=1.0)
        self.feed.pause()
        quote = scene.pricer.quote("NOT", scene.now)
        assert quote is not None
        self.assertEqual(HALTED, quote.quality)

    def test_rest_is_not_asked_in_its_place(self) -> None:
        self.scene.disconnect("kraken")
        self.scene.now += 120.0
        self.assertTrue(self.scene.board.late("kraken", self.scene.now))
        self.feed.pause()
        self.assertEqual([], self.scene.board.late("kraken", self.scene.now))
        self.feed.resume()
        self.assertTrue(self.scene.board.late("kraken", self.scene.now))

    def test_nor_does_a_rest_answer_on_its_way_count(self) -> None:
        self.feed.pause()
        self.scene.now += 1.0
        self.scene.tick("kraken", "BTC", 200.0, via="rest")
        self.assertEqual(HALTED_THERE, self.scene.verdicts("BTC")["kraken"])

    def test_another_asset_map_does_not_bring_it_back(self) -> None:
        scene = self.scene
        self.feed.pause()
        ethereum = scene.assets.assets["ETH"]
        other = changed(scene.assets, ETH=evolve(ethereum, symbols={**ethereum.symbols, "kraken": "XETH/USD"}))
        scene.board.adopt(other)
        self.feed.adopt(other.subscriptions("kraken"))
        self.assertTrue(all(source.halted for source in scene.board.by_symbol["kraken"].values()))
        self.assertIn("XETH/USD", scene.board.by_symbol["kraken"])

    def test_after_it_the_venue_counts_again(self) -> None:
        self.feed.pause()
        self.feed.resume()
        self.assertEqual(USED, self.scene.verdicts("BTC")["kraken"])


class ReadyTests(HealthCase):
    def setUp(self) -> None:
        super().setUp()
        self.price_all()

    def test_a_paused_feed_is_said_and_no_fault(self) -> None:
        self.house.feeds = [feed_of("coinbase"), feed_of("kraken", PAUSED)]
        status, members = self.ask("/ready")
        self.assertEqual((200, [], "paused"), (status, members["reasons"], members["feeds"][1]["state"]))

    def test_the_others_must_live_all_the_same(self) -> None:
        self.house.feeds = [feed_of("coinbase", DOWN), feed_of("kraken", PAUSED)]
        status, members = self.ask("/ready")
        self.assertEqual((503, ["no feed is live"]), (status, members["reasons"]))

    def test_all_of_them(self) -> None:
        """For as long as there are prices, from whatever was heard before."""
        self.house.feeds = [feed_of("coinbase", PAUSED), feed_of("kraken", PAUSED)]
        self.assertEqual(200, self.ask("/ready")[0])
        self.house.shelf.replies.clear()
        status, members = self.ask("/ready")
        self.assertEqual((503, ["no asset has a fresh price"]), (status, members["reasons"]))
