from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.board import (
    DUPLICATE,
    OLDER_IN_A_ROW,
    OUT_OF_ORDER,
    REST,
    SUPERSEDED,
    UNKNOWN_SYMBOL,
    WS,
    Source,
)
from tbeast.domain.ticks import UNKNOWN, Tick
from tbeast.test.domain.boards import START, Scene


class PutTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.board = self.scene.board

    def source(self, exchange: str = "kraken", asset: str = "BTC") -> Source:
        return next(source for source in self.board.sources[asset] if source.exchange == exchange)

    def put(self, price: float, said: float, via: str = WS, heard: float | None = None) -> str | None:
        heard_at = self.scene.now if heard is None else heard
        return self.board.put(Tick("kraken", "BTC/USD", price, price - 1, price + 1, 7.0, said, heard_at), via)

    def test_a_tick_lies_where_it_belongs(self) -> None:
        self.assertIsNone(self.put(100.0, START))
        source = self.source()
        self.assertEqual((source.raw, source.bid, source.ask, source.volume), (100.0, 99.0, 101.0, 7.0))
        self.assertEqual((source.heard_at, source.via), (START, WS))
        self.assertIsNone(self.source("coinbase").heard_at)
        self.assertIsNone(self.source("kraken", "ETH").heard_at)

    def test_unknown_symbols_are_dropped(self) -> None:
        tick = Tick("kraken", "LUNA/USD", 1.0, 1.0, 1.0, 1.0, START, START)
        self.assertEqual(self.board.put(tick, WS), UNKNOWN_SYMBOL)
        self.assertEqual(self.board.put(tick._replace(exchange="mtgox"), WS), UNKNOWN_SYMBOL)
        self.assertEqual(self.board.put(tick._replace(symbol="BTC-USD"), WS), UNKNOWN_SYMBOL)

    def test_older_by_the_exchanges_clock_is_dropped(self) -> None:
        self.put(100.0, START)
        self.assertEqual(self.put(90.0, START - 0.001), OUT_OF_ORDER)
        self.assertEqual(self.source().raw, 100.0)

    def test_same_time_with_another_price_counts(self) -> None:
        # Gate.io's older servers tell whole seconds
        self.put(100.0, START)
        self.assertIsNone(self.put(101.0, START))
        self.assertEqual(self.source().raw, 101.0)

    def test_the_same_message_again_does_not_make_it_younger(self) -> None:
        self.put(100.0, START)
        self.scene.now += 30
        self.assertEqual(self.put(100.0, START), DUPLICATE)
        self.assertEqual(self.source().heard_at, START)

    def test_nor_does_it_after_a_rest_answer(self) -> None:
        self.put(100.0, START)
        self.scene.now += 6
        self.assertIsNone(self.put(105.0, UNKNOWN, REST))
        self.scene.now += 1
        self.assertEqual(self.put(100.0, START), DUPLICATE)
        self.assertEqual((self.source().raw, self.source().via), (105.0, REST))
        self.assertIsNone(self.put(106.0, START))

    def test_without_a_book_the_same_is_the_same(self) -> None:
        tick = Tick("gemini", "btcusd", 100.0, UNKNOWN, UNKNOWN, UNKNOWN, START, START)
        self.assertIsNone(self.board.put(tick, WS))
        self.assertEqual(self.board.put(tick, WS), DUPLICATE)
        self.assertIsNone(self.board.put(tick._replace(exchange_time=START + 9, heard_at=START + 9), WS))
        self.assertEqual(self.source("gemini").changed_at, START)
        self.assertIsNone(
            self.board.put(tick._replace(bid=99.0, ask=101.0, exchange_time=UNKNOWN, heard_at=START + 10), WS)
        )
        self.assertEqual(self.source("gemini").changed_at, START + 10)
        self.assertIsNone(self.board.put(tick._replace(exchange_time=UNKNOWN, heard_at=START + 11), WS))
        self.assertEqual(self.source("gemini").changed_at, START + 11)

    def test_the_same_price_at_a_later_time_does(self) -> None:
        self.put(100.0, START)
        self.scene.now += 30
        self.assertIsNone(self.put(100.0, START + 30))
        self.assertEqual(self.source().heard_at, START + 30)
        self.assertEqual(self.source().changed_at, START)

    def test_a_clock_that_went_back_is_believed_in_the_end(self) -> None:
        self.put(100.0, START)
        answers = [self.put(50.0 + step, START - 1000 + step) for step in range(OLDER_IN_A_ROW + 1)]
        self.assertEqual(answers, [OUT_OF_ORDER] * (OLDER_IN_A_ROW - 1) + [None, None])

    def test_stragglers_between_newer_ticks_are_never_believed(self) -> None:
        for step in range(40):
            self.assertIsNone(self.put(100.0, START + step))
            self.assertEqual(self.put(50.0, START - 100 + step), OUT_OF_ORDER)

    def test_stragglers_in_disorder_are_not_a_clock(self) -> None:
        self.put(100.0, START)
        for step in range(40):
            self.assertEqual(self.put(50.0, START - 100 - step), OUT_OF_ORDER)

    def test_no_time_is_no_obstacle(self) -> None:
        self.put(100.0, START)
        self.assertIsNone(self.put(101.0, UNKNOWN))
        self.assertIsNone(self.put(101.0, UNKNOWN))
        self.assertIsNone(self.put(102.0, START - 5))

    def test_rest_does_not_replace_a_living_feed(self) -> None:
        self.put(100.0, START)
        self.scene.now += 1
        self.assertEqual(self.put(99.0, START - 60, REST), SUPERSEDED)
        self.scene.now += 10
        self.assertIsNone(self.put(99.0, START - 60, REST))
        self.assertEqual(self.source().via, REST)
        self.assertIsNone(self.put(98.0, START - 60, REST))

    def test_rest_replaces_what_a_lost_connection_left(self) -> None:
        self.put(100.0, START)
        self.scene.disconnect("kraken")
        self.assertIsNone(self.put(99.0, UNKNOWN, REST))

    def test_a_feed_that_lags_does_not_replace_what_rest_said_since(self) -> None:
        for second in range(1, 60):
            self.scene.now += 1
            self.put(100.0 + second, START + min(second, 10 + second / 10))
            self.board.turn(self.scene.now)
        self.assertGreater(self.source().delay.seconds, 20.0)
        self.assertIn(self.source(), self.board.late("kraken", self.scene.now))
        self.assertIsNone(self.put(200.0, UNKNOWN, REST))
        self.scene.now += 1
        self.assertEqual(self.put(150.0, START + 16), SUPERSEDED)
        self.assertEqual(self.source().raw, 200.0)

    def test_a_reconnect_forgets_the_order_of_the_old_connection(self) -> None:
        self.put(100.0, START)
        self.scene.connect("kraken")
        self.assertIsNone(self.put(101.0, START - 3600))

    def test_one_call_wakes_for_many_ticks(self) -> None:
        calls: list[int] = []
        self.board.dirty.clear()
        self.board.awaken = lambda: calls.append(1)
        self.scene.tick("kraken", "BTC", 1.0)
        self.scene.tick("kraken", "ETH", 1.0)
        self.assertEqual((len(calls), self.board.dirty), (1, {"BTC", "ETH"}))
        self.board.dirty.clear()
        self.scene.tick("kraken", "ETH", 2.0)
        self.assertEqual(len(calls), 2)

    def test_home_comes_first_in_the_order_of_trust(self) -> None:
        for asset in self.scene.assets.assets.values():
            self.assertEqual(self.board.sources[asset.code][0].exchange, asset.home)
        order = [source.exchange for source in self.board.sources["BTC"]]
        self.assertEqual(order, ["coinbase", "gemini", "kraken", "gateio", "cryptocom", "okx"])

    def test_stablecoins_are_quoted_in_dollars_everywhere(self) -> None:
        self.assertEqual({source.quote_currency for source in self.board.sources["USDT"]}, {"USD"})
        self.assertEqual(self.source("okx").quote_currency, "USDT")
        self.assertEqual(self.source("kraken").quote_currency, "USD")


class LateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.board = self.scene.board

    def late(self, exchange: str = "okx") -> list[str]:
        return sorted(source.asset for source in self.board.late(exchange, self.scene.now))

    def test_what_was_never_heard_is_late_soon_after_the_connection(self) -> None:
        self.assertEqual(self.late(), [])
        self.scene.now += 6
        self.assertEqual(self.late(), ["BTC", "NOT", "USDT"])

    def test_each_by_its_own_rhythm(self) -> None:
        for second in range(60):
            self.scene.now += 1
            self.scene.tick("okx", "BTC", 100.0 + second)
            if second % 10 == 0:
                self.scene.tick("okx", "NOT", 1.0 + second)
                self.scene.tick("okx", "USDT", 1.0 + second / 1e6)
        self.scene.now += 7
        self.assertEqual(self.late(), ["BTC"])
        self.scene.now += 30
        self.assertEqual(self.late(), ["BTC", "NOT", "USDT"])
        self.scene.tick("okx", "BTC", 99.0)
        self.assertEqual(self.late(), ["NOT", "USDT"])

    def test_rest_does_not_end_lateness(self) -> None:
        self.scene.now += 6
        self.scene.tick("okx", "BTC", 100.0, via=REST)
        self.assertIn("BTC", self.late())

    def test_a_lost_connection_makes_all_late_after_the_grace(self) -> None:
        self.scene.tick("okx", "BTC", 100.0)
        self.scene.disconnect("okx")
        self.assertEqual(self.late(), [])
        self.scene.now += 5.1
        self.assertEqual(self.late(), ["BTC", "NOT", "USDT"])

    def test_never_connected_is_late_at_once(self) -> None:
        scene = Scene(connect=False)
        self.assertEqual(len(scene.board.late("okx", scene.now)), 3)

    def test_halted_is_not_asked_for(self) -> None:
        self.scene.now += 6
        self.board.halted("okx", ("NOT-USDT",), True)
        self.assertEqual(self.late(), ["BTC", "USDT"])
        self.board.halted("okx", (), True)
        self.assertEqual(self.late(), [])
        self.board.halted("okx", (), False)
        self.assertEqual(self.late(), ["BTC", "NOT", "USDT"])

    def test_the_longest_unheard_comes_first(self) -> None:
        self.scene.tick("okx", "NOT", 1.0)
        self.scene.now += 1
        self.scene.tick("okx", "BTC", 1.0)
        self.scene.disconnect("okx")
        self.scene.now += 10
        self.assertEqual([source.asset for source in self.board.late("okx", self.scene.now)], ["USDT", "NOT", "BTC"])

    def test_codes_name_the_stablecoins_first(self) -> None:
        self.assertEqual(self.board.codes(), ("USDT", "USDC", "BTC", "ETH", "SKL", "NOT"))


class DelayTests(SynchronousTestCase):
    """Every connection has its own delay: most exchanges need several connections."""

    def setUp(self) -> None:
        self.scene = Scene(connect=False)
        self.board = self.scene.board
        self.behind = dict.fromkeys(("BTC", "ETH"), 0.0)

    def delay(self, asset: str) -> float:
        return next(source for source in self.board.sources[asset] if source.exchange == "coinbase").delay.seconds

    def play(self, seconds: int, behind: str = "") -> None:
        for _ in range(seconds):
            self.scene.now += 1
            for asset in self.behind:
                self.behind[asset] += 0.9 * (asset == behind)
                self.scene.tick("coinbase", asset, 100.0 + self.scene.now % 7, lag=0.1 + self.behind[asset])
            self.board.turn(self.scene.now)

    def test_a_prompt_connection_hides_no_slow_one(self) -> None:
        for symbol in ("BTC-USD", "ETH-USD"):
            self.board.connected("coinbase", (symbol,), self.scene.now)
        self.play(10)
        self.play(50, behind="BTC")
        self.assertGreater(self.delay("BTC"), 35.0)
        self.assertLess(self.delay("ETH"), 0.1)

    def test_a_symbol_that_joins_a_connection_makes_nobody_forget(self) -> None:
        self.board.connected("coinbase", ("BTC-USD", "ETH-USD"), self.scene.now)
        self.play(10)
        self.behind = {"BTC": 0.0}
        self.play(50, behind="BTC")
        self.board.disconnected("coinbase", ("ETH-USD",), self.scene.now)
        self.board.connected("coinbase", ("ETH-USD",), self.scene.now)
        self.play(1)
        self.assertGreater(self.delay("BTC"), 35.0)
        self.assertEqual(self.delay("ETH"), self.delay("BTC"))

    def test_a_new_connection_begins_anew(self) -> None:
        self.test_a_prompt_connection_hides_no_slow_one()
        self.board.disconnected("coinbase", ("BTC-USD",), self.scene.now)
        self.board.connected("coinbase", ("BTC-USD",), self.scene.now)
        self.assertEqual(self.delay("BTC"), 0.0)

    def test_an_infinite_time_teaches_nothing(self) -> None:
        self.board.connected("coinbase", ("BTC-USD",), self.scene.now)
        self.scene.tick("coinbase", "BTC", 100.0, lag=float("-inf"))
        self.board.turn(self.scene.now)
        self.assertEqual(self.delay("BTC"), 0.0)
