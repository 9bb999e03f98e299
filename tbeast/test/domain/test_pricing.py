from __future__ import annotations

import random

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.assetmap import EXCHANGES, Asset
from tbeast.domain.board import REST
from tbeast.domain.pricing import rounded
from tbeast.domain.quotes import QUALITIES, VERDICTS, Quote
from tbeast.domain.ticks import UNKNOWN, Tick
from tbeast.test.domain.boards import START, Scene, changed, without


class PricingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.scene.tether(1.0)

    def quote(self, asset: str = "BTC") -> Quote:
        quote = self.scene.pricer.quote(asset, self.scene.now)
        assert quote is not None
        self.assertIn(quote.quality, QUALITIES)
        return quote

    def wait(self, seconds: float) -> None:
        self.scene.now += seconds


class QuoteTests(PricingCase):
    def test_nothing_heard(self) -> None:
        self.assertIsNone(self.scene.pricer.quote("BTC", self.scene.now))
        self.assertEqual(set(self.scene.verdicts("BTC").values()), {"silent"})

    def test_three_agree(self) -> None:
        self.scene.say("BTC", coinbase=100.0, kraken=100.01, gemini=100.02)
        quote = self.quote()
        self.assertEqual((quote.price, quote.quality, quote.source, quote.seen), (100.01, "good", "median", 3))
        self.assertEqual(quote.used, ("coinbase", "kraken", "gemini"))
        self.assertEqual(quote.spread_bp, 2.0)
        self.assertEqual(quote.volume, 30.0)
        self.assertEqual((quote.bid, quote.ask), (99.999999, 100.020001))

    def test_one_rogue_degrades_and_does_not_move(self) -> None:
        self.scene.say("BTC", coinbase=100.0, kraken=100.01, gemini=100.02, cryptocom=250.0)
        quote = self.quote()
        self.assertEqual((quote.price, quote.quality, quote.set_aside), (100.01, "degraded", ("cryptocom",)))
        self.assertEqual(self.scene.verdicts("BTC")["cryptocom"], "set_aside")

    def test_home_wins_of_two(self) -> None:
        self.scene.say("ETH", coinbase=100.0, kraken=100.5)
        quote = self.quote("ETH")
        self.assertEqual((quote.price, quote.quality, quote.source), (100.5, "degraded", "kraken-ws"))
        assert quote.bid is not None
        assert quote.ask is not None
        self.assertLess(quote.bid, 100.5)
        self.assertGreater(quote.bid, 100.4)

    def test_of_two_strangers_the_more_trusted_wins(self) -> None:
        self.scene.say("ETH", coinbase=100.0, cryptocom=100.5)
        self.assertEqual(self.quote("ETH").source, "coinbase-ws")

    def test_single_source(self) -> None:
        self.scene.say("BTC", gemini=100.0)
        quote = self.quote()
        self.assertEqual((quote.price, quote.quality, quote.source), (100.0, "single_source", "gemini-ws"))
        self.assertEqual(quote.spread_bp, 0.0)

    def test_rest_is_named(self) -> None:
        self.scene.tick("gemini", "BTC", 100.0, via=REST)
        self.assertEqual(self.quote().source, "gemini-rest")

    def test_source_without_a_book(self) -> None:
        self.scene.board.put(Tick("gemini", "btcusd", 100.0, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, START), REST)
        quote = self.quote()
        self.assertEqual((quote.price, quote.bid, quote.ask, quote.volume), (100.0, None, None, None))
        self.assertIsNone(self.scene.pricer.explain("BTC", START)[1][1].bid)

    def test_the_book_of_the_quote_encloses_its_price(self) -> None:
        chance = random.Random(5)
        for _ in range(200):
            self.wait(1)
            self.scene.say("BTC", **{name: 100 * (1 + chance.gauss(0, 3e-4)) for name in ("coinbase", "kraken", "okx")})
            quote = self.quote()
            assert quote.bid is not None
            assert quote.ask is not None
            self.assertLessEqual(quote.bid, quote.price)
            self.assertGreaterEqual(quote.ask, quote.price)

    def test_three_that_do_not_agree_are_not_good(self) -> None:
        self.scene.say("BTC", coinbase=100.0, kraken=110.0, gemini=120.0)
        self.assertEqual((self.quote().price, self.quote().quality), (110.0, "degraded"))
        self.scene.say("BTC", coinbase=100.0, kraken=100.0, gemini=50.0, cryptocom=50.0)
        self.assertEqual(self.quote().quality, "degraded")
        self.scene.say("BTC", coinbase=100.0, kraken=100.0, gemini=99.5, cryptocom=99.5)
        self.assertEqual(self.quote().quality, "degraded")
        self.scene.say("BTC", coinbase=100.0, kraken=100.0, gemini=99.7, cryptocom=99.7)
        self.assertEqual(self.quote().quality, "good")

    def test_sources_that_are_always_apart_come_to_agree(self) -> None:
        for second in range(120):
            self.wait(1)
            self.scene.say("BTC", coinbase=100.0 + second, kraken=100.3 + second, gemini=99.7 + second)
            self.assertEqual(self.quote().set_aside, ())
        self.assertEqual(self.quote().quality, "good")

    def test_volumes_without_sense_add_up_to_none(self) -> None:
        for exchange in ("coinbase", "kraken", "gemini"):
            self.scene.tick(exchange, "BTC", 100.0, volume=1e308)
        self.assertIsNone(self.quote().volume)

    def test_prices_have_no_made_up_digits(self) -> None:
        self.assertEqual(rounded(0.1 + 0.2), 0.3)
        self.assertEqual(rounded(1.2345678901234e-05), 1.23456789e-05)


class ConversionTests(PricingCase):
    def test_tether_at_97_cents_moves_what_is_quoted_in_it(self) -> None:
        self.scene.say("BTC", coinbase=100.0, gateio=100.0, okx=100.0)
        self.assertEqual(self.quote().price, 100.0)
        self.wait(1)
        self.scene.tether(0.97)
        views = {view.exchange: view for view in self.scene.pricer.explain("BTC", self.scene.now)[1]}
        for exchange in ("gateio", "okx"):
            self.assertAlmostEqual(views[exchange].value or 0.0, 97.0)
            self.assertEqual(views[exchange].raw, 100.0)
            self.assertEqual(views[exchange].rate, 0.97)
        self.assertEqual(views["coinbase"].value, 100.0)

    def test_one_exchange_cannot_depeg_tether(self) -> None:
        self.scene.tick("kraken", "USDT", 0.5)
        self.scene.pricer.quote("USDT", self.scene.now)
        self.assertEqual(self.scene.pricer.rate("USDT", self.scene.now), 1.0)

    def test_without_a_rate_there_is_no_vote(self) -> None:
        scene = Scene()
        scene.say("BTC", coinbase=100.0, okx=55.0)
        quote = scene.pricer.quote("BTC", scene.now)
        assert quote is not None
        self.assertEqual((quote.price, quote.quality), (100.0, "single_source"))
        self.assertEqual(scene.verdicts("BTC")["okx"], "no_rate")

    def test_a_rate_that_grew_too_old_is_no_rate(self) -> None:
        self.wait(61)
        self.scene.say("BTC", coinbase=100.0, okx=100.0)
        self.assertEqual(self.scene.verdicts("BTC")["okx"], "no_rate")
        self.assertIsNone(self.scene.pricer.rate("USDT", self.scene.now))
        self.assertEqual(self.scene.pricer.rate("USD", self.scene.now), 1.0)
        self.assertIsNone(self.scene.pricer.rate("EUR", self.scene.now))

    def test_a_quote_lives_no_longer_than_its_rate(self) -> None:
        self.wait(50)
        self.scene.say("NOT", gateio=100.0, okx=100.0)
        quote = self.quote("NOT")
        self.assertEqual((quote.observed_at, quote.fresh_until), (START + 50, START + 60))
        self.scene.say("NOT", kraken=100.0)
        self.assertEqual(self.scene.pricer.single("NOT", "kraken", START + 50).fresh_until, START + 110)  # type: ignore[union-attr]


class ThinRateTests(PricingCase):
    """A rate of one or two sources must not make a rogue of all that is quoted in it."""

    def setUp(self) -> None:
        self.scene = Scene()

    def rate(self, **rates: float) -> None:
        self.scene.say("USDT", **rates)
        self.scene.pricer.quote("USDT", self.scene.now)

    def test_one_of_three_cannot_speak_for_two_by_the_rate(self) -> None:
        self.rate(kraken=2.0, okx=1.0)
        self.scene.say("NOT", kraken=200.0, gateio=100.0, okx=100.0)
        quote = self.quote("NOT")
        self.assertEqual((quote.quality, quote.used), ("single_source", ("kraken",)))
        self.assertEqual(self.scene.verdicts("NOT"), {"kraken": "used", "gateio": "no_rate", "okx": "no_rate"})

    def test_where_there_is_nothing_else_it_serves_but_never_as_good(self) -> None:
        self.rate(okx=0.99)
        self.scene.say("BTC", gateio=100.0, okx=100.0)
        quote = self.quote()
        self.assertEqual((quote.price, quote.quality), (99.0, "degraded"))
        self.assertEqual(self.scene.pricer.single("BTC", "okx", self.scene.now).price, 99.0)  # type: ignore[union-attr]
        why = {view.why for view in self.scene.pricer.explain("BTC", self.scene.now)[1]}
        self.assertIn("the dollar rate of USDT rests on too few sources", why)

    def test_a_well_founded_rate_is_not_replaced_while_it_is_fresh(self) -> None:
        self.scene.tether(1.0)
        for exchange in ("coinbase", "gemini", "cryptocom", "okx"):
            self.scene.board.disconnected(exchange, (self.scene.symbol(exchange, "USDT"),), self.scene.now)
        self.wait(20)
        self.rate(kraken=0.5)
        self.assertEqual(self.scene.pricer.rate("USDT", self.scene.now), 1.0)
        self.wait(41)
        self.rate(kraken=0.5)
        self.assertEqual(self.scene.pricer.rate("USDT", self.scene.now), 0.5)


class AgeTests(PricingCase):
    def test_the_age_is_that_of_the_value_that_is_the_price(self) -> None:
        self.scene.say("BTC", kraken=100.01)
        self.wait(20)
        self.scene.say("BTC", coinbase=100.0, gemini=100.02)
        quote = self.quote()
        self.assertEqual((quote.price, quote.observed_at, quote.fresh_until), (100.01, START, START + 60))

    def test_of_two_averaged_the_older(self) -> None:
        self.scene.say("BTC", kraken=100.01)
        self.wait(20)
        self.scene.say("BTC", coinbase=100.0, gemini=100.02, cryptocom=100.015)
        self.assertEqual(self.quote().observed_at, START)

    def test_stale_values_do_not_vote(self) -> None:
        self.scene.say("BTC", kraken=100.0, gemini=100.0, coinbase=100.0)
        self.wait(61)
        self.scene.say("BTC", gemini=101.0)
        quote = self.quote()
        self.assertEqual((quote.price, quote.quality), (101.0, "single_source"))
        self.assertEqual(self.scene.verdicts("BTC")["kraken"], "stale")

    def test_when_all_are_stale_the_last_is_labelled_so(self) -> None:
        self.scene.say("BTC", kraken=100.0)
        self.wait(3)
        self.scene.say("BTC", gemini=101.0)
        self.wait(100)
        quote = self.quote()
        self.assertEqual((quote.price, quote.quality, quote.observed_at), (101.0, "stale", START + 3))
        self.assertLess(quote.fresh_until, self.scene.now)

    def test_a_quiet_symbol_on_a_live_connection_is_fresh(self) -> None:
        self.scene.say("BTC", kraken=100.0, gemini=100.0, coinbase=100.0)
        self.wait(59)
        self.assertEqual(self.quote().quality, "good")

    def test_the_operators_limit_holds(self) -> None:
        scene = Scene(max_age_seconds=10.0)
        scene.say("BTC", kraken=100.0)
        scene.now += 11
        quote = scene.pricer.quote("BTC", scene.now)
        assert quote is not None
        self.assertEqual(quote.quality, "stale")

    def test_a_connection_that_falls_behind_ages_its_values(self) -> None:
        for second in range(80):
            self.wait(1)
            self.scene.tick("kraken", "BTC", 100.0 + second, lag=0.1 if second < 10 else second - 10)
            self.scene.board.turn(self.scene.now)
        self.assertEqual(self.scene.verdicts("BTC")["kraken"], "stale")

    def test_rest_answers_are_not_aged_by_the_sockets_delay(self) -> None:
        self.test_a_connection_that_falls_behind_ages_its_values()
        self.wait(6)
        self.scene.tick("kraken", "BTC", 100.0, via=REST)
        self.assertEqual(self.scene.verdicts("BTC")["kraken"], "used")


class LostTests(PricingCase):
    def setUp(self) -> None:
        super().setUp()
        self.scene.say("BTC", coinbase=100.0, kraken=100.0, gemini=100.0, cryptocom=100.0)

    def test_a_short_reconnect_does_not_show(self) -> None:
        self.scene.disconnect("kraken")
        self.wait(3)
        self.assertEqual(self.scene.verdicts("BTC")["kraken"], "used")

    def test_a_dead_venue_loses_its_vote(self) -> None:
        self.scene.disconnect("kraken")
        self.wait(6)
        self.assertEqual(self.scene.verdicts("BTC")["kraken"], "lost")
        self.assertEqual(self.quote().quality, "good")
        self.assertNotIn("kraken", self.quote().used)

    def test_the_dead_that_were_suspect_are_not_asked_again(self) -> None:
        self.scene.board.sources["BTC"][0].suspect = True
        for exchange in EXCHANGES:
            self.scene.disconnect(exchange)
        self.wait(30)
        self.assertNotIn("coinbase", self.quote().used)

    def test_all_dead_is_served_for_a_while_but_never_as_good(self) -> None:
        for exchange in EXCHANGES:
            self.scene.disconnect(exchange)
        self.wait(30)
        quote = self.quote()
        self.assertEqual((quote.price, quote.quality), (100.0, "degraded"))
        self.wait(31)
        self.assertEqual(self.quote().quality, "stale")

    def test_rest_gives_the_vote_back(self) -> None:
        self.scene.disconnect("kraken")
        self.wait(6)
        self.scene.tick("kraken", "BTC", 100.0, via=REST)
        self.assertEqual(self.scene.verdicts("BTC")["kraken"], "used")
        self.wait(61)
        self.assertEqual(self.scene.verdicts("BTC")["kraken"], "stale")


class HaltedTests(PricingCase):
    def test_halted_there(self) -> None:
        self.scene.say("ETH", coinbase=100.0, kraken=90.0)
        self.scene.board.halted("kraken", (), True)
        quote = self.quote("ETH")
        self.assertEqual((quote.price, quote.quality), (100.0, "single_source"))
        self.assertEqual(self.scene.verdicts("ETH")["kraken"], "halted")
        self.scene.board.halted("kraken", (), False)
        self.assertEqual(self.quote("ETH").source, "kraken-ws")

    def test_halted_everywhere(self) -> None:
        self.scene.say("ETH", coinbase=100.0, kraken=90.0)
        for exchange in EXCHANGES:
            self.scene.board.halted(exchange, (), True)
        self.assertEqual(self.quote("ETH").quality, "halted")


class SingleTests(PricingCase):
    def test_one_venue(self) -> None:
        self.scene.tether(0.99)
        self.scene.say("BTC", coinbase=100.0, okx=200.0)
        quote = self.scene.pricer.single("BTC", "okx", self.scene.now)
        assert quote is not None
        self.assertEqual((quote.price, quote.quality, quote.source), (198.0, "single_source", "okx-ws"))

    def test_only_while_it_is_fresh(self) -> None:
        self.scene.say("BTC", okx=200.0)
        self.wait(61)
        self.assertIsNone(self.scene.pricer.single("BTC", "okx", self.scene.now))

    def test_not_listed_there(self) -> None:
        self.assertIsNone(self.scene.pricer.single("NOT", "coinbase", self.scene.now))


class AdoptTests(PricingCase):
    """What becomes of prices when the board has taken another map."""

    def adopt(self, *gone: str, **others: Asset) -> None:
        self.scene.assets = changed(self.scene.assets, *gone, **others)
        self.scene.board.adopt(self.scene.assets)
        self.scene.pricer.adopt()

    def test_what_is_not_on_the_board_has_no_price(self) -> None:
        self.scene.say("ETH", kraken=10.0, coinbase=10.0, cryptocom=10.0)
        self.quote("ETH")
        self.adopt("ETH")
        pricer, now = self.scene.pricer, self.scene.now
        self.assertIsNone(pricer.quote("ETH", now))
        self.assertIsNone(pricer.single("ETH", "kraken", now))
        self.assertEqual(pricer.explain("ETH", now), (None, []))
        self.assertEqual(pricer.review("ETH", now), [])
        self.assertNotIn("ETH", pricer.noises)

    def test_what_comes_back_has_learned_nothing(self) -> None:
        eth = self.scene.assets.assets["ETH"]
        self.scene.pricer.noises["ETH"].level = 9.0
        self.scene.pricer.noises["BTC"].level = 8.0
        self.adopt("ETH")
        self.adopt(ETH=eth)
        noises = self.scene.pricer.noises
        self.assertEqual((noises["ETH"].level, noises["BTC"].level), (noises["ETH"].PRIOR, 8.0))

    def test_a_price_is_made_of_what_is_left(self) -> None:
        self.scene.say("ETH", kraken=10.0, coinbase=11.0)
        self.assertEqual(self.quote("ETH").price, 10.0)
        self.adopt(ETH=without(self.scene.assets.assets["ETH"], "kraken"))
        self.assertEqual((self.quote("ETH").price, self.quote("ETH").source), (11.0, "coinbase-ws"))

    def test_a_rate_stays_while_its_sources_do(self) -> None:
        self.scene.tether(0.5)
        self.adopt("ETH")
        self.assertEqual(self.scene.pricer.rate("USDT", self.scene.now), 0.5)

    def test_a_rate_goes_with_one_of_its_sources(self) -> None:
        self.adopt(USDT=without(self.scene.assets.stablecoins["USDT"], "okx"))
        self.assertIsNone(self.scene.pricer.rate("USDT", self.scene.now))
        self.quote("USDT")
        self.assertEqual(self.scene.pricer.rate("USDT", self.scene.now), 1.0)

    def test_a_rate_goes_with_its_stablecoin(self) -> None:
        self.scene.say("NOT", okx=3.0)
        self.quote("NOT")
        self.adopt("USDT")
        self.assertIsNone(self.scene.pricer.rate("USDT", self.scene.now))
        self.assertIsNone(self.scene.pricer.quote("NOT", self.scene.now))

    def test_what_was_fetched_on_demand_votes_as_long_as_any_rest_answer(self) -> None:
        sol = Asset("SOL", "", "", "kraken", {"kraken": "SOL/USD"}, frozenset({"kraken"}))
        self.adopt(SOL=evolve(sol, symbols={"kraken": "SOL/USD", "gemini": "solusd"}))
        self.scene.tick("kraken", "SOL", 9.0, via=REST)
        self.assertEqual((self.quote("SOL").price, self.quote("SOL").quality), (9.0, "single_source"))
        self.wait(16)
        _, views = self.scene.pricer.explain("SOL", self.scene.now)
        self.assertEqual(
            (views[0].verdict, views[0].why, views[0].late), ("lost", "only fetched when somebody asks", False)
        )
        self.scene.board.connected("gemini", ("solusd",), self.scene.now)
        self.scene.tick("gemini", "SOL", 8.0)
        self.assertEqual(self.quote("SOL").price, 8.0)


class ExplainTests(PricingCase):
    def test_every_verdict_is_reachable_and_explained(self) -> None:
        scene = self.scene
        seen: dict[str, str] = {}

        def note(asset: str = "BTC") -> None:
            for view in scene.pricer.explain(asset, scene.now)[1]:
                seen[view.verdict] = view.why

        note()
        scene.say("BTC", coinbase=100.0, kraken=100.0, gemini=100.0, cryptocom=120.0)
        note()
        scene.board.halted("cryptocom", (), True)
        scene.disconnect("gemini")
        scene.now += 6
        scene.say("BTC", coinbase=100.0)
        note()
        scene.board.sources["BTC"][0].suspect = True
        next(source for source in scene.board.sources["BTC"] if source.exchange == "kraken").expelled = True
        note()
        scene.now += 70
        scene.say("BTC", okx=100.0)
        note()
        self.assertEqual(set(seen), set(VERDICTS))
        for verdict, why in seen.items():
            self.assertEqual(bool(why), verdict != "used", verdict)

    def test_figures(self) -> None:
        self.scene.say("BTC", coinbase=100.0, kraken=100.1, gemini=100.0)
        quote, views = self.scene.pricer.explain("BTC", self.scene.now)
        assert quote is not None
        view = next(view for view in views if view.exchange == "kraken")
        self.assertEqual((view.symbol, view.home, view.via, view.connected), ("BTC/USD", False, "ws", True))
        self.assertEqual((view.raw, view.value, view.age_seconds, view.deviation_bp), (100.1, 100.1, 0.0, 10.0))
