from __future__ import annotations

from copy import deepcopy
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.assetmap import STABLECOINS, Asset, AssetMap
from tbeast.domain.board import (
    DUPLICATE,
    OLDER_IN_A_ROW,
    OUT_OF_ORDER,
    REST,
    SUPERSEDED,
    UNKNOWN_SYMBOL,
    WS,
    Board,
    Source,
)
from tbeast.domain.freshness import Limits
from tbeast.domain.pricing import TRUST
from tbeast.domain.ticks import UNKNOWN, Tick
from tbeast.test.domain.boards import START, Scene, changed, without


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


class AdoptTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.board = self.scene.board
        self.btc = self.scene.assets.assets["BTC"]

    def source(self, exchange: str, asset: str = "BTC") -> Source:
        return next(source for source in self.board.sources[asset] if source.exchange == exchange)

    def adopt(self, *gone: str, **others: Asset) -> None:
        self.scene.assets = changed(self.scene.assets, *gone, **others)
        self.board.adopt(self.scene.assets)

    def test_what_stays_keeps_what_it_knows(self) -> None:
        self.scene.tick("kraken", "BTC", 100.0)
        before = self.source("kraken")
        self.adopt("ETH", BTC=without(self.btc, "okx"))
        self.assertIs(self.source("kraken"), before)
        self.assertEqual((before.raw, before.connected), (100.0, True))

    def test_what_went_is_forgotten(self) -> None:
        self.adopt("ETH", BTC=without(self.btc, "okx"))
        self.assertNotIn("ETH", self.board.sources)
        self.assertNotIn("ETH", self.board.codes())
        self.assertEqual(self.scene.board.put(Tick("kraken", "ETH/USD", 1, 1, 1, 1, START, START), WS), UNKNOWN_SYMBOL)
        self.assertNotIn("okx", {source.exchange for source in self.board.sources["BTC"]})
        self.assertEqual(self.board.late("mtgox", self.scene.now), [])

    def test_an_exchange_of_which_nothing_is_left(self) -> None:
        without_okx = {code: without(asset, "okx") for code, asset in self.scene.assets.assets.items()}
        coin = without(self.scene.assets.stablecoins["USDT"], "okx")
        self.adopt(**without_okx, USDT=coin)
        self.assertNotIn("okx", self.board.by_symbol)
        self.board.connected("okx", ("BTC-USDT",), self.scene.now)
        self.board.halted("okx", (), True)
        self.assertEqual(self.board.late("okx", self.scene.now + 100), [])

    def test_what_is_new_begins_empty(self) -> None:
        self.adopt(NEW=Asset("NEW", "New", "Major", "kraken", {"kraken": "NEW/USD"}))
        source = self.source("kraken", "NEW")
        self.assertEqual((source.heard_at, source.connected), (None, False))
        self.assertIn("NEW", self.board.codes())
        self.assertIn(source, self.board.late("kraken", self.scene.now))
        self.board.connected("kraken", ("NEW/USD",), self.scene.now)
        self.scene.tick("kraken", "NEW", 3.0)
        self.assertEqual((source.raw, source.connected), (3.0, True))

    def test_another_spelling_is_another_market(self) -> None:
        self.scene.tick("kraken", "BTC", 100.0)
        self.adopt(BTC=evolve(self.btc, symbols={**self.btc.symbols, "kraken": "XBT/USD"}))
        self.assertEqual((self.source("kraken").heard_at, self.source("kraken").connected), (None, False))

    def test_another_code_finds_the_connection_of_its_symbol(self) -> None:
        """The feed, which knows only symbols, will not tell of it again."""
        self.scene.tick("kraken", "BTC", 100.0)
        self.board.halted("kraken", ("BTC/USD",), True)
        self.adopt("BTC", XBT=evolve(self.btc, code="XBT"))
        source = self.source("kraken", "XBT")
        self.assertEqual((source.heard_at, source.connected, source.halted), (None, True, True))
        self.scene.disconnect("kraken")
        self.assertFalse(source.connected)

    def test_another_home_comes_first(self) -> None:
        self.board.dirty.clear()
        self.adopt(BTC=evolve(self.btc, home="okx"))
        self.assertEqual([source.exchange for source in self.board.sources["BTC"]][:2], ["okx", "gemini"])
        self.assertEqual([source.exchange for source in self.board.sources["BTC"] if source.home], ["okx"])
        self.assertEqual(self.board.dirty, {"BTC"})

    def test_whatever_has_changed_is_news_and_nothing_else(self) -> None:
        calls: list[int] = []
        self.scene.tick("kraken", "ETH", 100.0)
        self.scene.tick("kraken", "NOT", 100.0)
        self.board.dirty.discard("NOT")
        self.board.awaken = lambda: calls.append(1)
        self.adopt("ETH", BTC=without(self.btc, "okx"))
        self.assertEqual((self.board.dirty, calls), ({"BTC"}, [1]))
        self.board.dirty.clear()
        self.adopt()
        self.assertEqual((self.board.dirty, calls), (set(), [1]))

    def test_another_rate_concerns_everything(self) -> None:
        self.board.dirty.clear()
        self.adopt(USDT=without(self.scene.assets.stablecoins["USDT"], "okx"))
        self.assertEqual(self.board.dirty, set(self.board.codes()))

    def test_what_is_fetched_on_demand_is_never_late(self) -> None:
        self.scene.now += 100
        not_there = Asset("NOT", "", "", "okx", {"okx": "NOT-USDT", "kraken": "NOT/USD"}, frozenset({"okx"}))
        self.adopt(NOT=not_there)
        self.assertNotIn("NOT", {source.asset for source in self.board.late("okx", self.scene.now)})
        self.assertIn("NOT", {source.asset for source in self.board.late("kraken", self.scene.now)})
        self.assertEqual(self.board.on_demand, set())
        self.adopt(NOT=evolve(not_there, unsubscribed=frozenset({"okx", "kraken"})))
        self.assertEqual(self.board.on_demand, {"NOT"})

    def test_a_table_that_cannot_be_laid_out_changes_nothing(self) -> None:
        before = self.board.sources
        bad = Asset("BAD", "", "", "mtgox", {"mtgox": "BAD", "kraken": "BAD/USD"})
        self.assertRaises(
            ValueError, self.board.adopt, changed(self.scene.assets, BTC=evolve(self.btc, home="okx"), BAD=bad)
        )
        self.assertIs(self.board.sources, before)
        self.assertTrue(self.source("coinbase").home)

    def test_those_that_went_are_no_witnesses(self) -> None:
        """That a source had not moved while others did is not held against it when these others are gone."""
        for exchange in ("kraken", "coinbase", "gemini"):
            self.scene.tick(exchange, "BTC", 100.0)
        self.scene.review("BTC")
        self.scene.now += 6
        self.adopt(BTC=evolve(self.btc, symbols={**self.btc.symbols, "coinbase": "XBT-USD", "gemini": "xbtusd"}))
        for exchange in ("coinbase", "gemini"):
            self.scene.connect(exchange)
        self.scene.say("BTC", coinbase=101.0, gemini=101.0)
        for _ in range(3):
            self.scene.now += 1
            self.scene.review("BTC")
        self.assertFalse(self.source("kraken").suspect)

    def test_those_that_went_are_no_judges(self) -> None:
        """Who was expelled by sources that are gone is heard again where nobody is left but the expelled."""
        for _ in range(15):
            self.scene.now += 1
            self.scene.say("BTC", kraken=100.0, coinbase=100.0, gemini=150.0)
            self.scene.review("BTC")
        self.assertTrue(self.source("gemini").expelled)
        self.adopt(BTC=without(self.btc, "coinbase", "okx", "gateio", "cryptocom"))
        self.assertTrue(self.source("gemini").expelled)
        self.adopt(BTC=without(self.btc, "coinbase", "okx", "gateio", "cryptocom", "kraken"))
        self.assertFalse(self.source("gemini").expelled)


CODES = ("USDT", "AAA", "BBB", "CCC")
PLACES = ("kraken", "okx", "gemini")

Listings = dict[tuple[str, str], tuple[int, bool]]
"""By code and exchange, which of two spellings holds, and whether the feed is asked for it."""

listings = st.dictionaries(
    st.tuples(st.sampled_from(CODES), st.sampled_from(PLACES)), st.tuples(st.integers(0, 1), st.booleans())
)
steps = st.lists(
    st.tuples(
        st.sampled_from(("tick", "tick", "tick", "rest", "connect", "disconnect", "halt", "resume", "turn", "wait")),
        st.sampled_from(CODES),
        st.sampled_from(PLACES),
        st.integers(1, 4),
    ),
    max_size=12,
)


def map_of(found: Listings) -> AssetMap:
    tables: tuple[dict[str, Asset], dict[str, Asset]] = ({}, {})
    for code in CODES:
        there = {exchange: said for (named, exchange), said in found.items() if named == code}
        if not there:
            continue
        is_coin = code in STABLECOINS
        symbols = {exchange: f"{code}{spelling}" for exchange, (spelling, _) in there.items()}
        on_demand = frozenset(exchange for exchange, (_, is_subscribed) in there.items() if not is_subscribed)
        home = "" if is_coin else max(symbols)
        tables[is_coin][code] = Asset(code, code, "", home, symbols, on_demand)
    return AssetMap(*tables)


def state_of(source: Source) -> dict[str, Any]:
    """All that a source knows, comparable; what it is at home and what is wanted of it belongs to the map."""
    kept = {name: getattr(source, name) for name in Source.__slots__ if name not in ("home", "subscribed")}
    for name in ("delay", "rhythm"):
        kept[name] = [getattr(kept[name], slot) for slot in type(kept[name]).__slots__]
    return {name: str(value) for name, value in kept.items()}  # as text, in which NaN equals itself


def act(board: Board, step: tuple[str, str, str, int], now: float) -> None:
    word, code, exchange, number = step
    every = tuple(f"{each}{spelling}" for each in CODES for spelling in (0, 1))
    if word in ("tick", "rest"):
        for spelling in (0, 1):
            via = WS if word == "tick" else REST
            said = UNKNOWN if via == REST else now - 0.1 * number
            board.put(Tick(exchange, f"{code}{spelling}", number, number, number, 1.0, said, now), via)
    elif word == "connect":
        board.connected(exchange, every, now)
    elif word == "disconnect":
        board.disconnected(exchange, every, now)
    elif word in ("halt", "resume"):
        board.halted(exchange, (f"{code}0",), word == "halt")
    elif word == "turn":
        board.turn(now)


class AdoptionProperties(SynchronousTestCase):
    @settings(deadline=None, max_examples=150)
    @given(listings, st.lists(st.tuples(steps, listings, steps), min_size=1, max_size=4))
    def test_what_stays_is_as_if_nothing_had_happened(
        self, first: Listings, turns: list[tuple[list[Any], Listings, list[Any]]]
    ) -> None:
        now = START
        board = Board(map_of(first), Limits(60.0), TRUST)
        for before, adopted, after in turns:
            for step in before:
                now += step[3] * (10 if step[0] == "wait" else 0.2)
                act(board, step, now)
            twin = deepcopy(board)
            assets = map_of(adopted)
            held = {id(source) for sources in board.sources.values() for source in sources}
            board.adopt(assets)
            fresh = Board(assets, Limits(60.0), TRUST)
            self.check_laid_out_like(board, fresh)
            stayed = [
                (source, twin.by_symbol[source.exchange][source.symbol])
                for sources in board.sources.values()
                for source in sources
                if id(source) in held
            ]
            expected = {
                (source.asset, source.exchange, source.symbol) for found in twin.sources.values() for source in found
            } & {(source.asset, source.exchange, source.symbol) for found in fresh.sources.values() for source in found}
            self.assertEqual({(one.asset, one.exchange, one.symbol) for one, _ in stayed}, expected)
            for sources in board.sources.values():
                for source in sources:
                    self.assertTrue(id(source) in held or source.heard_at is None)
            self.assertLessEqual(board.dirty, set(board.sources))
            both = {(source.asset, source.exchange) for source, _ in stayed}
            for step in [("turn", "", "", 1), *after]:
                now += step[3] * (10 if step[0] == "wait" else 0.2)
                if step[0] not in ("tick", "rest") or (step[1], step[2]) in both:
                    act(board, step, now)
                    act(twin, step, now)
                for source, other in stayed:
                    self.assertEqual(state_of(source), state_of(other))

    def check_laid_out_like(self, board: Board, fresh: Board) -> None:
        def layout(one: Board) -> Any:
            return (
                {
                    code: [
                        (each.exchange, each.symbol, each.home, each.subscribed, each.quote_currency) for each in found
                    ]
                    for code, found in one.sources.items()
                },
                {name: {symbol: each.asset for symbol, each in known.items()} for name, known in one.by_symbol.items()},
                one.codes(),
                one.on_demand,
            )

        self.assertEqual(layout(board), layout(fresh))
        for known in board.by_symbol.values():
            for source in known.values():
                self.assertIn(source, board.sources[source.asset])
