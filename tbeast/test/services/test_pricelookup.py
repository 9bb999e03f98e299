from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve
from twisted.internet import defer
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs import cachedprices
from tbeast.domain.assetmap import Asset
from tbeast.domain.board import ON_DEMAND_SECONDS
from tbeast.domain.counters import Counters
from tbeast.domain.quotes import Quote
from tbeast.services.pricelookup import (
    CACHE_PATIENCE_SECONDS,
    DEADLINE_SECONDS,
    NOTHING_SECONDS,
    PATIENCE_SECONDS,
    PriceLookup,
    givable,
)
from tbeast.test.domain.boards import START, Scene, changed
from tbeast.test.services.desks import Counter, PlainExchange, desk


class Cache:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.gets = 0

    def get(self, asset: str) -> Deferred[bytes | None]:
        self.gets += 1
        return succeed(self.kept.get(asset))

    def set(self, asset: str, value: bytes, seconds_to_live: int) -> Deferred[None]:
        self.kept[asset] = value
        return succeed(None)

    def set_many(self, values: Mapping[str, bytes], seconds_to_live: int) -> Deferred[None]:
        self.kept |= values
        return succeed(None)


class LookupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = Scene(connect=False)
        self.clock = Clock()
        self.counter = Counter()
        self.counters = Counters()
        self.cache = Cache()
        desks = {
            name: desk(PlainExchange(name), self.counter, self.scene.board, self.counters, self.clock, START)
            for name in ("coinbase", "gemini", "kraken", "gateio", "cryptocom", "okx")
        }
        self.lookup = PriceLookup(
            self.scene.board, self.scene.pricer, self.cache, desks, self.counters, self.clock, lambda: self.scene.now
        )

    def tearDown(self) -> None:
        while self.counter.waiting:  # let every question that a test left open come to its end
            self.counter.fail("")

    def wait(self, seconds: float) -> None:
        self.scene.now += seconds
        self.clock.advance(seconds)

    def find(self, asset: str = "ETH", exchange: str = "") -> Deferred[Quote | None]:
        async def quote() -> Quote | None:
            found, self.tier = await self.lookup.find(asset, exchange)
            return found

        return ensureDeferred(quote())

    def found(self, asset: str = "ETH") -> Quote:
        quote = self.successResultOf(self.find(asset))
        assert quote is not None
        return quote

    def stored(self, **changes: float) -> bytes:
        self.scene.say("ETH", kraken=77.0)
        quote = self.scene.pricer.quote("ETH", self.scene.now)
        assert quote is not None
        other = Scene(connect=False)
        self.scene.board, self.scene.pricer = other.board, other.pricer
        self.lookup._board, self.lookup._pricer = other.board, other.pricer
        return cachedprices.encode(evolve(quote, **changes))  # type: ignore[arg-type]

    def test_memory_first(self) -> None:
        self.scene.say("ETH", kraken=10.0)
        self.assertEqual(self.found().price, 10.0)
        self.assertEqual((self.cache.gets, self.counter.asked), (0, []))
        self.assertEqual(self.counters.value("lookups", "memory"), 1)

    def test_then_the_cache(self) -> None:
        self.cache.kept["ETH"] = self.stored()
        self.wait(30)
        quote = self.found()
        self.assertEqual((quote.price, quote.observed_at), (77.0, START))
        self.assertEqual(self.counter.asked, [])
        self.assertEqual(self.counters.value("lookups", "cache"), 1)

    def test_a_cached_price_that_is_too_old_is_none(self) -> None:
        self.cache.kept["ETH"] = self.stored()
        self.wait(61)
        self.find()
        self.assertEqual(self.counter.asked, ["http://kraken/ETH/USD"])

    def test_a_cached_price_that_claims_to_live_longer_is_none(self) -> None:
        self.cache.kept["ETH"] = self.stored(fresh_until=START + 1e6)
        self.wait(61)
        self.find()
        self.assertEqual(self.counter.asked, ["http://kraken/ETH/USD"])

    def test_a_cached_price_from_the_future_is_none(self) -> None:
        self.cache.kept["ETH"] = self.stored(observed_at=START + 3600, fresh_until=START + 3660)
        self.find()
        self.assertEqual(self.counter.asked, ["http://kraken/ETH/USD"])

    def test_a_hair_from_the_future_is_now(self) -> None:
        self.cache.kept["ETH"] = self.stored(observed_at=START + 1, fresh_until=START + 1e6)
        quote = self.found()
        self.assertEqual((quote.observed_at, quote.fresh_until), (START, START + 60))

    def test_a_cache_that_never_answers_is_not_waited_for(self) -> None:
        never: Deferred[bytes | None] = Deferred()
        self.cache.get = lambda asset: never  # type: ignore[method-assign]
        finding = self.find()
        self.assertEqual(self.counter.asked, [])
        self.wait(CACHE_PATIENCE_SECONDS)
        self.counter.answer("kraken", {"ETH/USD": 10.0})
        self.assertEqual(self.successResultOf(finding).price, 10.0)  # type: ignore[union-attr]
        self.assertEqual(len(self.flushLoggedErrors(defer.TimeoutError)), 1)

    def test_nobody_waits_for_what_is_written_to_the_cache(self) -> None:
        never: Deferred[None] = Deferred()
        self.cache.set = lambda asset, value, seconds_to_live: never  # type: ignore[method-assign]
        finding = self.find()
        self.counter.answer("kraken", {"ETH/USD": 10.0})
        self.assertEqual(self.successResultOf(finding).price, 10.0)  # type: ignore[union-attr]
        self.wait(CACHE_PATIENCE_SECONDS)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.flushLoggedErrors(defer.TimeoutError)

    def test_an_answer_that_breaks_the_codec_leads_to_the_next_exchange(self) -> None:
        finding = self.find()
        self.counter.answer("kraken", ["no", "object"])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        self.counter.answer("coinbase", {"ETH-USD": 11.0})
        self.assertEqual(self.successResultOf(finding).price, 11.0)  # type: ignore[union-attr]

    def test_all_together_have_their_deadline(self) -> None:
        finding = self.find("BTC")
        while not finding.called:
            self.wait(0.25)
        self.assertEqual(self.clock.seconds(), DEADLINE_SECONDS)
        self.assertEqual(len(self.counter.asked), 4)

    def test_garbage_in_the_cache_is_none(self) -> None:
        self.cache.kept["ETH"] = b"{}"
        self.find()
        self.assertEqual(self.counter.asked, ["http://kraken/ETH/USD"])

    def test_then_rest_at_home_written_through(self) -> None:
        finding = self.find()
        self.assertEqual(self.counter.asked, ["http://kraken/ETH/USD"])
        self.counter.answer("kraken", {"ETH/USD": 10.0})
        quote = self.successResultOf(finding)
        assert quote is not None
        self.assertEqual((quote.price, quote.source, quote.quality), (10.0, "kraken-rest", "single_source"))
        self.assertEqual(cachedprices.decode("ETH", self.cache.kept["ETH"]), quote)
        self.assertEqual(self.found(), quote)
        self.assertEqual(len(self.counter.asked), 1)
        self.assertEqual(self.counters.value("lookups", "rest"), 1)

    def test_then_the_others_in_the_order_of_trust(self) -> None:
        finding = self.find("BTC")
        for exchange in ("coinbase", "gemini", "kraken"):
            self.assertEqual(len(self.counter.pending()), 1)
            self.counter.fail(exchange)
        self.assertNoResult(finding)
        self.assertEqual(
            self.counter.asked,
            ["http://coinbase/BTC-USD", "http://gemini/btcusd", "http://kraken/BTC/USD", "http://gateio/BTC_USDT"],
        )
        self.counter.fail("gateio")
        self.counter.answer("cryptocom", {"BTC_USD": 100.0})
        quote = self.successResultOf(finding)
        assert quote is not None
        self.assertEqual(quote.source, "cryptocom-rest")

    def test_the_slow_one_is_left(self) -> None:
        finding = self.find()
        self.wait(PATIENCE_SECONDS)
        self.assertEqual(self.counter.pending(), ["http://coinbase/ETH-USD"])
        self.counter.answer("coinbase", {"ETH-USD": 11.0})
        quote = self.successResultOf(finding)
        assert quote is not None
        self.assertEqual(quote.source, "coinbase-rest")

    def test_an_answer_without_a_price_is_not_enough(self) -> None:
        finding = self.find()
        self.counter.answer("kraken", {})
        self.assertNoResult(finding)
        self.assertEqual(self.counter.pending(), ["http://coinbase/ETH-USD"])

    def test_a_price_in_a_currency_without_a_rate_is_not_enough(self) -> None:
        finding = self.find("NOT")
        self.counter.answer("okx", {"NOT-USDT": 0.5})
        self.assertNoResult(finding)
        self.counter.answer("kraken", {"NOT/USD": 0.4})
        quote = self.successResultOf(finding)
        assert quote is not None
        self.assertEqual(quote.price, 0.4)

    def test_nothing_anywhere(self) -> None:
        finding = self.find()
        for exchange in ("kraken", "coinbase", "gateio", "cryptocom"):
            self.counter.fail(exchange)
        self.assertIsNone(self.successResultOf(finding))
        self.assertEqual(self.counters.value("lookups", "nowhere"), 1)

    def test_after_nothing_there_is_a_pause(self) -> None:
        self.test_nothing_anywhere()
        asked = len(self.counter.asked)
        self.assertIsNone(self.successResultOf(self.find()))
        self.assertEqual(len(self.counter.asked), asked)
        self.wait(NOTHING_SECONDS)
        self.find()
        self.assertGreater(len(self.counter.asked), asked)

    def test_there_is_an_end_to_waiting(self) -> None:
        finding = self.find("BTC")
        self.wait(PATIENCE_SECONDS)
        self.wait(PATIENCE_SECONDS)
        self.wait(PATIENCE_SECONDS)
        self.wait(PATIENCE_SECONDS + 0.1)
        self.wait(PATIENCE_SECONDS)
        self.assertIsNone(self.successResultOf(finding))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_hundred_that_wait_make_one_fetch(self) -> None:
        waiting = [self.find() for _ in range(100)]
        self.assertEqual((len(self.counter.asked), self.cache.gets), (1, 1))
        self.counter.answer("kraken", {"ETH/USD": 10.0})
        self.assertEqual({self.successResultOf(each).price for each in waiting}, {10.0})  # type: ignore[union-attr]
        self.assertEqual(self.counters.value("lookups", "rest"), 100)

    def test_a_client_that_goes_away_spoils_nothing_for_the_others(self) -> None:
        first, second = self.find(), self.find()
        first.cancel()
        self.failureResultOf(first)
        self.counter.answer("kraken", {"ETH/USD": 10.0})
        self.assertEqual(self.successResultOf(second).price, 10.0)  # type: ignore[union-attr]

    def test_halted_exchanges_are_not_asked(self) -> None:
        self.scene.board.halted("kraken", (), True)
        self.find()
        self.assertEqual(self.counter.asked, ["http://coinbase/ETH-USD"])

    def test_last_known(self) -> None:
        self.scene.say("ETH", kraken=10.0)
        self.wait(100)
        quote = self.lookup.last_known("ETH")
        assert quote is not None
        self.assertEqual((quote.price, quote.quality), (10.0, "stale"))
        self.assertFalse(givable(quote, self.scene.now))
        self.assertIsNone(self.lookup.last_known("BTC"))

    def test_an_asset_that_went_meanwhile(self) -> None:
        finding = self.find()
        self.scene.board.adopt(changed(self.scene.assets, "ETH"))
        self.scene.pricer.adopt()
        self.counter.answer("kraken", {"ETH/USD": 10.0})
        while self.counter.waiting:
            self.counter.answer("", {})
        self.assertIsNone(self.successResultOf(finding))
        self.assertIsNone(self.lookup.last_known("ETH"))
        self.assertIsNone(self.successResultOf(self.find()))
        self.assertEqual((self.cache.kept, self.flushLoggedErrors()), ({}, []))


class OnDemandTests(LookupTests):
    """What no feed is asked for; beside it all that holds for others holds as well."""

    def setUp(self) -> None:
        super().setUp()
        symbols = {"kraken": "SOL/USD", "gemini": "solusd"}
        self.sol = Asset("SOL", "Solana", "", "kraken", symbols, frozenset(symbols))
        self.adopt(self.sol)

    def adopt(self, sol: Asset) -> None:
        self.scene.assets = changed(self.scene.assets, SOL=sol)
        self.scene.board.adopt(self.scene.assets)
        self.scene.pricer.adopt()

    def fetch(self, price: float = 9.0) -> None:
        finding = self.find("SOL")
        self.counter.answer("kraken", {"SOL/USD": price})
        quote = self.successResultOf(finding)
        assert quote is not None
        self.assertEqual((quote.price, self.tier), (price, "rest"))

    def test_fetched_when_somebody_asks(self) -> None:
        self.fetch()
        self.assertEqual((self.found("SOL").price, self.tier), (9.0, "memory"))
        self.assertEqual(self.counter.asked, ["http://kraken/SOL/USD"])

    def test_and_again_when_that_is_old(self) -> None:
        self.fetch()
        self.wait(ON_DEMAND_SECONDS)
        self.fetch(8.0)
        self.assertEqual(len(self.counter.asked), 2)

    def test_what_another_node_fetched_will_do_while_it_is_young(self) -> None:
        self.fetch()
        text = self.cache.kept["SOL"]
        self.setUp()
        self.cache.kept["SOL"] = text
        self.wait(ON_DEMAND_SECONDS - 1)
        self.assertEqual((self.found("SOL").price, self.tier), (9.0, "cache"))
        self.assertEqual(self.counter.asked, [])
        self.wait(1)
        self.fetch(8.0)

    def test_when_nobody_answers_the_older_one_stands(self) -> None:
        self.fetch()
        self.cache.kept.clear()
        for seconds, price in ((30, 9.0), (31, None)):
            self.wait(seconds)
            finding = self.find("SOL")
            while self.counter.waiting:
                self.counter.fail("")
            quote = self.successResultOf(finding)
            self.assertEqual(None if quote is None else quote.price, price)
            self.assertEqual(self.tier, "memory" if price else "nowhere")

    def test_of_the_older_ones_the_youngest(self) -> None:
        self.fetch()
        text = self.cache.kept["SOL"]
        self.wait(10)
        self.fetch(8.0)
        self.wait(10)
        self.cache.kept["SOL"] = text
        finding = self.find("SOL")
        while self.counter.waiting:
            self.counter.answer("", {})  # an answer that says nothing of it
        quote = self.successResultOf(finding)
        assert quote is not None
        self.assertEqual((quote.price, self.tier), (8.0, "memory"))

    def test_one_with_a_feed_is_left_to_its_feed(self) -> None:
        self.fetch()
        self.adopt(evolve(self.sol, unsubscribed=frozenset({"kraken"})))
        self.wait(ON_DEMAND_SECONDS + 1)
        self.assertEqual((self.found("SOL").price, self.tier), (9.0, "memory"))

    def test_one_exchange_alone(self) -> None:
        finding = self.find("SOL", "gemini")
        others = self.find("SOL", "gemini")
        self.assertEqual(self.counter.asked, ["http://gemini/solusd"])
        self.counter.answer("gemini", {"solusd": 7.0})
        for each in (finding, others):
            quote = self.successResultOf(each)
            assert quote is not None
            self.assertEqual((quote.price, quote.source, self.tier), (7.0, "gemini-rest", "rest"))
        self.assertEqual(self.cache.kept, {})
        self.assertEqual(self.successResultOf(self.find("SOL", "gemini")), quote)
        self.assertEqual(self.tier, "memory")
        self.wait(ON_DEMAND_SECONDS)
        finding = self.find("SOL", "gemini")
        self.counter.fail("gemini")
        self.assertEqual(self.counter.pending(), [])
        quote = self.successResultOf(finding)
        assert quote is not None
        self.assertEqual((quote.price, self.tier), (7.0, "memory"))
