from __future__ import annotations

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.exchanges.base import Rate
from tbeast.domain.assetmap import Asset
from tbeast.domain.counters import Counters
from tbeast.errors import FetchError
from tbeast.services.fallback import REFUSED_SECONDS, Fallback, RestDesk
from tbeast.test.domain.boards import START, Scene, changed, without
from tbeast.test.services.desks import QUICK, Counter, PlainExchange, desk
from tbeast.testing.logs import listen


class DeskTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = Scene(connect=False)
        self.clock = Clock()
        self.counter = Counter()
        self.counters = Counters()
        self.desk = self.make()

    def make(self, rate: Rate = QUICK, bulk: int = 3) -> RestDesk:
        exchange = PlainExchange("kraken", rate, bulk)
        return desk(exchange, self.counter, self.scene.board, self.counters, self.clock, START)

    def ask(self, *symbols: str, at_most: int | None = None) -> Deferred[set[str]]:
        return ensureDeferred(self.desk.ask(symbols, at_most))

    def raw(self, asset: str) -> float:
        return next(source.raw for source in self.scene.board.sources[asset] if source.exchange == "kraken")

    def test_an_answer_goes_to_the_board(self) -> None:
        asking = self.ask("BTC/USD")
        self.assertEqual(self.counter.asked, ["http://kraken/BTC/USD"])
        self.assertEqual(self.counter.headers, [{"x-who": "us"}])
        self.counter.answer("BTC", {"BTC/USD": 100.0})
        self.assertEqual(self.successResultOf(asking), {"BTC/USD"})
        self.assertEqual(self.raw("BTC"), 100.0)
        self.assertEqual(self.counters.value("feed_ticks", "kraken", "rest"), 1)
        self.assertEqual(self.counters.value("rest_requests", "kraken", "answered"), 1)

    def test_what_a_cache_has_held_is_as_old_as_that(self) -> None:
        for asset, age, seconds in (("BTC", "30", 30.0), ("ETH", "-5", 0.0), ("NOT", "9" * 400, 0.0)):
            self.ask(f"{asset}/USD")
            self.counter.answer(asset, {f"{asset}/USD": 100.0}, age=age)
            source = next(source for source in self.scene.board.sources[asset] if source.exchange == "kraken")
            self.assertEqual(source.heard_at, START - seconds)

    def test_what_the_board_does_not_take_is_counted(self) -> None:
        asking = self.ask("BTC/USD")
        self.counter.answer("BTC", {"LUNA/USD": 1.0})
        self.assertEqual(self.successResultOf(asking), {"LUNA/USD"})
        self.assertEqual(self.counters.value("feed_dropped_ticks", "kraken", "unknown_symbol"), 1)

    def test_a_question_may_lead_to_others(self) -> None:
        asking = self.ask("BTC/USD", "ETH/USD", "NOT/USD", "USDT/USD")
        self.counter.answer("all", {"next": ["BTC/USD", "ETH/USD"]})
        self.assertEqual(self.counter.pending(), ["http://kraken/BTC/USD", "http://kraken/ETH/USD"])
        self.counter.answer("BTC", {"BTC/USD": 100.0})
        self.assertNoResult(asking)
        self.counter.answer("ETH", {"ETH/USD": 10.0})
        self.assertEqual(self.successResultOf(asking), {"BTC/USD", "ETH/USD"})

    def test_it_does_not_go_round_in_circles(self) -> None:
        asking = self.ask("BTC/USD")
        for _ in range(20):
            if self.counter.waiting:
                self.counter.answer("BTC", {"next": ["BTC/USD"]})
        self.successResultOf(asking)
        self.assertLess(len(self.counter.asked), 10)

    def test_it_keeps_to_the_rate(self) -> None:
        self.desk = self.make(Rate(2, 1.0), bulk=100)
        self.ask("a", "b", "c", "d", "e").addErrback(lambda failure: None)
        self.assertEqual(len(self.counter.asked), 2)
        for url in self.counter.pending():
            self.counter.answer(url, {})
        self.assertEqual(len(self.counter.asked), 2)
        self.clock.advance(1.0)
        self.assertEqual(len(self.counter.asked), 4)

    def test_few_at_once(self) -> None:
        self.desk = self.make(Rate(100, 1.0), bulk=100)
        self.ask(*"abcdefgh").addErrback(lambda failure: None)
        self.assertEqual(len(self.counter.waiting), 4)
        self.counter.answer("/a", {})
        self.assertEqual(len(self.counter.waiting), 4)
        self.assertEqual(self.counter.asked[-1], "http://kraken/e")

    def test_some_answers_are_an_answer(self) -> None:
        asking = self.ask("BTC/USD", "ETH/USD")
        self.counter.fail("ETH")
        self.counter.answer("BTC", {"BTC/USD": 100.0})
        self.assertEqual(self.successResultOf(asking), {"BTC/USD"})

    def test_no_answer_shuts_the_desk_for_longer_and_longer(self) -> None:
        waits = []
        for _ in range(8):
            asking = self.ask("BTC/USD")
            self.counter.fail("BTC", "timeout")
            self.failureResultOf(asking, FetchError)
            began = self.clock.seconds()
            while self.desk.shut():
                self.clock.advance(0.5)
            waits.append(self.clock.seconds() - began)
        self.assertEqual(waits, [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0])
        self.assertEqual(self.counters.value("rest_requests", "kraken", "timeout"), 8)
        asking = self.ask("BTC/USD")
        self.counter.answer("BTC", {"BTC/USD": 100.0})
        self.successResultOf(asking)
        self.ask("BTC/USD").addErrback(lambda failure: None)
        self.counter.fail("BTC")
        self.clock.advance(1.0)
        self.assertFalse(self.desk.shut())

    def test_a_shut_desk_asks_nothing(self) -> None:
        self.ask("BTC/USD").addErrback(lambda failure: None)
        self.counter.fail("BTC")
        error = self.failureResultOf(self.ask("BTC/USD"), FetchError).value
        self.assertEqual(error.reason, "shut")
        self.assertEqual(len(self.counter.asked), 1)

    def test_those_in_line_when_it_shuts_are_not_asked(self) -> None:
        self.desk = self.make(Rate(1, 1.0), bulk=100)
        asking = self.ask("a", "b", "c")
        self.counter.answer("/a", status=429, retry_after="20")
        self.clock.advance(1.0)
        self.clock.advance(1.0)
        self.assertEqual(self.counter.asked, ["http://kraken/a"])
        self.assertEqual(self.successResultOf(asking.addErrback(lambda failure: set())), set())

    def test_too_many_questions(self) -> None:
        self.ask("BTC/USD")
        self.counter.answer("BTC", status=429, retry_after="20")
        self.clock.advance(19.5)
        self.assertTrue(self.desk.shut())
        self.clock.advance(1.0)
        self.assertFalse(self.desk.shut())
        self.ask("BTC/USD")
        self.counter.answer("BTC", status=429)
        self.clock.advance(9.5)
        self.assertTrue(self.desk.shut())
        self.ask("BTC/USD").addErrback(lambda failure: None)
        self.clock.advance(1.0)
        self.ask("BTC/USD")
        self.counter.answer("BTC", status=429, retry_after="86400")
        self.clock.advance(301)
        self.assertFalse(self.desk.shut())

    def test_server_errors_are_failures_and_others_are_faults(self) -> None:
        asking = self.ask("BTC/USD")
        self.counter.answer("BTC", status=502)
        self.failureResultOf(asking, FetchError)
        self.assertTrue(self.desk.shut())
        self.clock.advance(5.0)
        asking = self.ask("BTC/USD")
        self.counter.answer("BTC", status=404)
        self.assertEqual(self.successResultOf(asking), set())
        self.assertEqual(self.counters.value("feed_faults", "kraken", "http_status"), 1)

    def test_refused_symbols_rest_for_a_while(self) -> None:
        self.ask("NOT/USD")
        self.counter.answer("NOT", {"NOT/USD": None})
        self.clock.advance(REFUSED_SECONDS - 1)
        self.assertFalse(self.desk.may_ask("NOT/USD"))
        self.assertTrue(self.desk.may_ask("BTC/USD"))
        self.clock.advance(2)
        self.assertTrue(self.desk.may_ask("NOT/USD"))

    def test_nothing_is_asked_again_at_once(self) -> None:
        self.ask("BTC/USD")
        self.assertFalse(self.desk.may_ask("BTC/USD"))
        self.clock.advance(5.0)
        self.assertTrue(self.desk.may_ask("BTC/USD"))

    def test_at_most(self) -> None:
        self.desk = self.make(bulk=100)
        self.ask("a", "b", "c", at_most=2).addErrback(lambda failure: None)
        self.assertEqual(self.counter.asked, ["http://kraken/a", "http://kraken/b"])
        self.assertTrue(self.desk.may_ask("c"))

    def test_a_broken_codec_is_no_silence(self) -> None:
        asking = self.ask("BTC/USD")
        self.counter.answer("BTC", [1, 2])
        self.failureResultOf(asking, AttributeError)


class FallbackTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.clock = Clock()
        self.counter = Counter()
        self.counters = Counters()
        exchanges = [PlainExchange("kraken"), PlainExchange("okx", bulk=100)]
        self.desks = [
            desk(exchange, self.counter, self.scene.board, self.counters, self.clock, START) for exchange in exchanges
        ]
        self.fallback = Fallback(self.scene.board, self.desks, lambda: self.scene.now)
        self.log = listen(self)

    def tearDown(self) -> None:
        self.fallback.stop()

    def wait(self, seconds: float) -> None:
        self.scene.now += seconds
        self.clock.advance(seconds)

    def test_nothing_before_anything_is_late(self) -> None:
        self.wait(4.5)
        self.fallback.look()
        self.assertEqual(self.counter.asked, [])

    def test_those_that_never_answer_keep_nobody_from_being_asked(self) -> None:
        slow = desk(
            PlainExchange("kraken", Rate(1, 2.0), bulk=100), self.counter, self.scene.board, self.counters, self.clock,
            START,
        )  # fmt: skip
        fallback = Fallback(self.scene.board, [slow], lambda: self.scene.now)
        self.scene.say("ETH", kraken=10.0)  # heard once, and therefore the last of the late
        self.wait(50)
        for _ in range(6):
            fallback.look()
            self.wait(2.1)
            for url in self.counter.pending():
                self.counter.answer(url, {})
        self.assertIn("http://kraken/ETH/USD", self.counter.asked)
        fallback.stop()

    def test_the_late_are_asked_for_and_no_longer_when_the_feed_is_back(self) -> None:
        self.wait(6)
        self.scene.say("BTC", kraken=100.0, okx=100.0)
        self.scene.say("NOT", okx=1.0, kraken=1.0)
        self.scene.tick("okx", "USDT", 1.0)
        self.fallback.look()
        self.assertEqual(
            self.counter.asked, ["http://kraken/USDT/USD", "http://kraken/USDC/USD", "http://kraken/ETH/USD"]
        )
        for url in self.counter.pending():
            self.counter.answer(url, {})
        self.scene.say("ETH", kraken=10.0)
        for code in ("USDT", "USDC"):
            self.scene.tick("kraken", code, 1.0)
        self.wait(5)
        self.fallback.look()
        self.assertEqual(len(self.counter.asked), 3)
        self.assertEqual(
            self.log.having("REST"),
            ["kraken: REST is asked for 3 late symbols", "kraken: REST is needed no more"],
        )

    def test_a_late_symbol_or_two_are_no_news(self) -> None:
        self.wait(6)
        for code in ("USDT", "USDC", "BTC", "ETH"):
            self.scene.tick("kraken", code, 1.0)
        for code in ("USDT", "BTC", "NOT"):
            self.scene.tick("okx", code, 1.0)
        self.fallback.look()
        self.assertEqual(self.counter.asked, ["http://kraken/NOT/USD"])
        self.assertEqual(self.log.having("REST"), [])

    def test_they_are_asked_for_again_while_they_stay_late(self) -> None:
        self.wait(6)
        self.fallback.look()
        asked = len(self.counter.asked)
        for url in self.counter.pending():
            self.counter.answer(url, {})
        self.wait(1)
        self.fallback.look()
        self.assertEqual(len(self.counter.asked), asked)
        self.wait(4.5)
        self.fallback.look()
        self.assertEqual(len(self.counter.asked), 2 * asked)

    def test_at_the_start_feeds_have_a_moment(self) -> None:
        scene = Scene(connect=False)
        fallback = Fallback(scene.board, self.desks, lambda: scene.now)
        fallback.look()
        self.assertEqual(self.counter.asked, [])
        scene.now += 5
        fallback.look()
        self.assertNotEqual(self.counter.asked, [])

    def test_a_dead_exchange_does_not_spoil_the_others(self) -> None:
        self.wait(6)
        self.fallback.look()
        for url in [url for url in self.counter.pending() if "kraken" in url]:
            self.counter.fail(url)
        for url in self.counter.pending():
            self.counter.answer(url, {url.rpartition("/")[2]: 100.0})
        okx = next(source for source in self.scene.board.sources["BTC"] if source.exchange == "okx")
        self.assertEqual((okx.raw, okx.via), (100.0, "rest"))
        self.assertEqual(self.log.having("failed"), [])

    def test_what_is_fetched_on_demand_is_left_alone(self) -> None:
        for each in self.desks:  # the bulk question would hide it
            each._codec.bulk = 100  # type: ignore[attr-defined]
        sol = Asset("SOL", "", "", "kraken", {"kraken": "SOL/USD", "okx": "SOL-USDT"}, frozenset({"kraken"}))
        self.scene.board.adopt(changed(self.scene.assets, SOL=sol))
        for _ in range(100):
            self.wait(1)
            self.fallback.look()
            for url in self.counter.pending():
                self.counter.answer(url, {})
        self.assertIn("http://okx/SOL-USDT", self.counter.asked)
        self.assertNotIn("http://kraken/SOL/USD", self.counter.asked)

    def test_nor_does_it_make_an_outage_look_small(self) -> None:
        quiet = {
            code: Asset(code, "", "", "okx", {"okx": f"{code}-USDT"}, frozenset({"okx"}))
            for code in (f"N{number}" for number in range(20))
        }
        self.scene.board.adopt(changed(self.scene.assets, **quiet))
        self.wait(6)
        for code in ("USDT", "BTC"):
            self.scene.tick("okx", code, 1.0)
        self.fallback.look()
        self.assertEqual(self.log.having("okx: REST"), ["okx: REST is asked for 1 late symbols"])

    def test_an_exchange_that_was_switched_off_is_not_asked(self) -> None:
        self.wait(6)
        self.fallback.look()
        for url in self.counter.pending():
            self.counter.answer(url, {})
        assets = self.scene.assets
        rest = {code: without(asset, "okx") for code, asset in {**assets.assets, **assets.stablecoins}.items()}
        self.scene.board.adopt(changed(assets, **rest))
        before = len([url for url in self.counter.asked if "okx" in url])
        self.wait(6)
        self.fallback.look()
        self.wait(6)
        self.fallback.look()
        self.assertEqual(len([url for url in self.counter.asked if "okx" in url]), before)
        self.assertEqual(len(self.log.having("okx: REST is needed no more")), 1)
        self.assertEqual(len(self.log.having("okx: REST is asked")), 1)

    def test_seeding(self) -> None:
        self.fallback.seed("okx", ("BTC-USDT", "NOT-USDT"))
        self.assertEqual(self.counter.asked, ["http://okx/BTC-USDT", "http://okx/NOT-USDT"])

    def test_seeding_of_a_shut_desk_waits_for_lateness(self) -> None:
        self.fallback.seed("okx", ("BTC-USDT",))
        self.counter.fail("BTC")
        self.fallback.seed("okx", ("BTC-USDT",))
        self.assertEqual(len(self.counter.asked), 1)

    def test_a_broken_codec_is_logged(self) -> None:
        self.fallback.seed("okx", ("BTC-USDT",))
        self.counter.answer("BTC", 5)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_the_stop_breaks_off_what_is_under_way(self) -> None:
        self.wait(6)
        self.fallback.look()
        self.assertNotEqual(self.counter.waiting, [])
        self.successResultOf(self.fallback.stop())
        self.assertEqual(self.counter.waiting, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
