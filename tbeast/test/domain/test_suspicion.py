from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.board import WS
from tbeast.domain.ticks import UNKNOWN, Tick
from tbeast.test.domain.boards import Scene


class FrozenTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.scene.tether(1.0)

    def watch(self, seconds: int, **steps: float) -> list[str]:
        """Move each named exchange's BTC by so many bp a second, and review once a second."""
        changes: list[str] = []
        for _ in range(seconds):
            self.scene.now += 1
            for exchange, bp in steps.items():
                self.prices[exchange] *= 1 + bp * 1e-4
                self.scene.tick(exchange, "BTC", self.prices[exchange])
            changes += self.scene.review("BTC")
        return changes

    def begin(self, *exchanges: str) -> None:
        self.prices = dict.fromkeys(exchanges, 100.0)
        self.scene.say("BTC", **self.prices)
        self.scene.review("BTC")

    def test_frozen_while_the_others_move(self) -> None:
        self.begin("coinbase", "kraken", "gemini")
        self.assertEqual(self.watch(20, coinbase=0.0, kraken=2.0, gemini=2.0), ["coinbase suspect"])
        self.assertEqual(self.scene.verdicts("BTC")["coinbase"], "suspect")
        quote = self.scene.pricer.quote("BTC", self.scene.now)
        assert quote is not None
        self.assertEqual((quote.quality, quote.set_aside, quote.seen), ("degraded", ("coinbase",), 3))
        self.assertGreater(quote.price, 100.3)

    def test_it_is_trusted_again_when_it_moves(self) -> None:
        self.begin("coinbase", "kraken", "gemini")
        self.watch(20, coinbase=0.0, kraken=2.0, gemini=2.0)
        self.scene.say("BTC", coinbase=self.prices["kraken"])
        self.assertEqual(self.scene.verdicts("BTC")["coinbase"], "used")
        self.assertEqual(self.watch(10, coinbase=2.0, kraken=2.0, gemini=2.0), [])

    def test_suspicion_outlives_the_others_return(self) -> None:
        self.begin("coinbase", "kraken", "gemini")
        self.watch(10, coinbase=0.0, kraken=2.0, gemini=2.0)
        self.watch(10, coinbase=0.0, kraken=-2.0, gemini=-2.0)
        self.assertEqual(self.scene.verdicts("BTC")["coinbase"], "suspect")

    def test_quiet_together_is_not_frozen(self) -> None:
        self.begin("coinbase", "kraken", "gemini")
        self.assertEqual(self.watch(50, coinbase=0.0, kraken=0.0, gemini=0.0), [])

    def test_one_runaway_silences_nobody(self) -> None:
        self.begin("coinbase", "kraken", "gemini")
        self.assertEqual(self.watch(9, coinbase=0.0, kraken=0.0, gemini=100.0), [])
        quote = self.scene.pricer.quote("BTC", self.scene.now)
        assert quote is not None
        self.assertEqual(quote.price, 100.0)

    def test_two_runaways_among_five_silence_nobody(self) -> None:
        self.begin("coinbase", "kraken", "cryptocom", "gemini", "okx")
        self.watch(9, coinbase=0.0, kraken=0.0, cryptocom=0.0, gemini=100.0, okx=100.0)
        quote = self.scene.pricer.quote("BTC", self.scene.now)
        assert quote is not None
        self.assertEqual(quote.price, 100.0)

    def test_a_wide_book_that_encloses_the_others_is_quiet(self) -> None:
        self.begin("coinbase", "kraken", "gemini")
        self.scene.tick("coinbase", "BTC", 100.001, spread_bp=200.0)
        self.assertEqual(self.watch(20, kraken=2.0, gemini=2.0), [])

    def test_a_single_peer_is_no_witness(self) -> None:
        self.begin("coinbase", "kraken")
        self.assertEqual(self.watch(30, coinbase=0.0, kraken=2.0), [])

    def test_it_takes_some_seconds(self) -> None:
        self.begin("coinbase", "kraken", "gemini")
        self.assertEqual(self.watch(4, coinbase=0.0, kraken=20.0, gemini=20.0), [])
        self.assertEqual(self.watch(2, coinbase=0.0, kraken=20.0, gemini=20.0), ["coinbase suspect"])


class ExpelledTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.scene.tether(1.0)

    def watch(self, seconds: int, **prices: float) -> list[str]:
        changes: list[str] = []
        for second in range(seconds):
            self.scene.now += 1
            for exchange, price in prices.items():
                self.scene.tick(exchange, "BTC", price * (1 + second * 1e-6))
            changes += self.scene.review("BTC")
        return changes

    def test_another_coin_of_the_same_code(self) -> None:
        self.assertEqual(self.watch(15, coinbase=100.0, kraken=100.0, gateio=60.0), ["gateio expelled"])
        self.assertEqual(self.scene.verdicts("BTC")["gateio"], "expelled")
        quote = self.scene.pricer.quote("BTC", self.scene.now)
        assert quote is not None
        self.assertEqual((quote.seen, quote.set_aside), (2, ()))

    def test_with_three_others_the_quality_is_good_again(self) -> None:
        self.watch(15, coinbase=100.0, kraken=100.0, gemini=100.0, gateio=60.0)
        quote = self.scene.pricer.quote("BTC", self.scene.now)
        assert quote is not None
        self.assertEqual(quote.quality, "good")

    def test_a_short_trip_is_forgiven(self) -> None:
        self.watch(8, coinbase=100.0, kraken=100.0, gateio=60.0)
        self.watch(3, coinbase=100.0, kraken=100.0, gateio=100.0)
        self.assertEqual(self.watch(8, coinbase=100.0, kraken=100.0, gateio=60.0), [])

    def test_ten_per_cent_is_allowed(self) -> None:
        self.assertEqual(self.watch(60, coinbase=100.0, kraken=100.0, gateio=109.0), [])

    def test_it_comes_back_when_it_agrees(self) -> None:
        self.watch(15, coinbase=100.0, kraken=100.0, gateio=160.0)
        self.assertEqual(self.watch(9, coinbase=100.0, kraken=100.0, gateio=100.0), [])
        self.assertEqual(self.watch(3, coinbase=100.0, kraken=100.0, gateio=100.0), ["gateio readmitted"])
        self.assertEqual(self.scene.verdicts("BTC")["gateio"], "used")

    def test_agreeing_for_a_moment_is_not_enough(self) -> None:
        self.watch(15, coinbase=100.0, kraken=100.0, gateio=160.0)
        self.watch(5, coinbase=100.0, kraken=100.0, gateio=100.0)
        self.watch(1, coinbase=100.0, kraken=100.0, gateio=160.0)
        self.assertEqual(self.watch(8, coinbase=100.0, kraken=100.0, gateio=100.0), [])

    def test_two_that_disagree_expel_nobody(self) -> None:
        self.assertEqual(self.watch(60, coinbase=100.0, kraken=60.0), [])
        quote = self.scene.pricer.quote("BTC", self.scene.now)
        assert quote is not None
        self.assertEqual((quote.quality, quote.source, round(quote.price)), ("degraded", "coinbase-ws", 100))

    def test_a_minority_never_expels_the_honest(self) -> None:
        changes = self.watch(60, coinbase=100.0, kraken=100.0, gemini=100.0, gateio=10.0, okx=10.0)
        self.assertEqual(sorted(changes), ["gateio expelled", "okx expelled"])

    def test_the_last_one_left_does_not_vote_if_it_was_expelled(self) -> None:
        self.watch(15, coinbase=100.0, kraken=100.0, gateio=60.0)
        self.watch(70, gateio=60.0)
        quote = self.scene.pricer.quote("BTC", self.scene.now)
        assert quote is not None
        self.assertEqual((quote.quality, round(quote.price)), ("stale", 100))

    def test_two_camps_expel_nobody(self) -> None:
        self.assertEqual(self.watch(60, coinbase=100.0, kraken=100.0, gemini=130.0, cryptocom=130.0), [])

    def test_no_majority_no_expulsion(self) -> None:
        self.assertEqual(self.watch(60, coinbase=100.0, kraken=150.0, gemini=200.0), [])

    def test_who_was_expelled_by_a_passing_majority_comes_back(self) -> None:
        self.assertEqual(self.watch(15, coinbase=100.0, okx=200.0, gateio=200.0), ["coinbase expelled"])
        changes = self.watch(30, coinbase=100.0, kraken=100.0, gemini=100.0, okx=200.0, gateio=200.0)
        self.assertEqual(sorted(changes), ["coinbase readmitted", "gateio expelled", "okx expelled"])

    def test_until_then_it_holds_the_price(self) -> None:
        self.watch(15, coinbase=100.0, okx=200.0, gateio=200.0)
        self.watch(1, coinbase=100.0, kraken=100.1, gemini=100.1, okx=200.0, gateio=200.0)
        quote = self.scene.pricer.quote("BTC", self.scene.now)
        assert quote is not None
        self.assertAlmostEqual(quote.price, 100.1)

    def test_on_end_means_without_an_absence(self) -> None:
        self.watch(2, coinbase=100.0, kraken=100.0, gemini=150.0)
        self.scene.disconnect("gemini")
        self.watch(30, coinbase=100.0, kraken=100.0)
        self.scene.connect("gemini")
        self.assertEqual(self.watch(5, coinbase=100.0, kraken=100.0, gemini=150.0), [])


class ConspiracyTests(SynchronousTestCase):
    """Rogues that go along with an honest mover, so that the quiet ones look frozen, and then run away alone."""

    def setUp(self) -> None:
        self.scene = Scene()

    def follow(self, asset: str, quiet: tuple[str, ...], moving: tuple[str, ...], seconds: int = 8) -> list[str]:
        self.scene.tether(1.0)
        self.scene.say(asset, **dict.fromkeys(quiet + moving, 100.0))
        changes = self.scene.review(asset)
        for step in range(seconds):
            self.scene.now += 1
            self.scene.tether(1.0)
            self.scene.say(asset, **dict.fromkeys(moving, 100.02 + 0.02 * step))
            changes += self.scene.review(asset)
        return changes

    def test_a_rogue_home_gains_nothing_by_making_the_third_suspect(self) -> None:
        self.assertEqual(self.follow("SKL", ("gateio",), ("gemini", "coinbase")), ["gateio suspect"])
        self.scene.say("SKL", gemini=200.0)
        quote = self.scene.pricer.quote("SKL", self.scene.now)
        assert quote is not None
        self.assertEqual((quote.price, quote.quality, quote.source), (100.16, "degraded", "coinbase-ws"))
        assert quote.ask is not None
        self.assertLess(quote.ask, 101.0)

    def test_nor_do_two_of_five(self) -> None:
        moving = ("kraken", "gemini", "gateio")
        self.assertEqual(len(self.follow("BTC", ("coinbase", "cryptocom"), moving)), 2)
        self.scene.say("BTC", kraken=300.0, gemini=300.0)
        quote = self.scene.pricer.quote("BTC", self.scene.now)
        assert quote is not None
        self.assertEqual((quote.price, quote.quality), (100.16, "degraded"))
        assert quote.ask is not None
        self.assertLess(quote.ask, 101.0)

    def test_witnesses_must_be_most_of_those_who_are_there_now(self) -> None:
        self.scene.say("BTC", coinbase=100.0, kraken=100.0, gemini=100.0)
        self.scene.review("BTC")
        self.scene.say("BTC", cryptocom=100.0, okx=100.0)  # later than what coinbase is measured from
        self.scene.tether(1.0)
        changes = []
        for step in range(9):
            self.scene.now += 1
            self.scene.say("BTC", kraken=100.1 + step, gemini=100.1 + step)
            changes += self.scene.review("BTC")
        self.assertEqual(changes, [])

    def test_a_move_of_the_dollar_rate_is_no_move(self) -> None:
        self.scene.tether(1.0)
        self.scene.say("NOT", kraken=100.0, gateio=100.0, okx=100.0)
        changes = self.scene.review("NOT")
        for step in range(12):
            self.scene.now += 1
            self.scene.tether(1.0012)
            self.scene.say("NOT", gateio=100.0 + step * 1e-6, okx=100.0 + step * 1e-6)
            changes += self.scene.review("NOT")
        self.assertEqual(changes, [])

    def test_to_have_no_book_hides_nobody(self) -> None:
        changes = []
        for step in range(20):
            self.scene.now += 1
            self.scene.say("BTC", coinbase=100.0 + step * 0.02, kraken=100.0 + step * 0.02)
            tick = Tick("gemini", "btcusd", 100.0, UNKNOWN, UNKNOWN, UNKNOWN, self.scene.now, self.scene.now)
            self.assertIsNone(self.scene.board.put(tick, WS))
            changes += self.scene.review("BTC")
        self.assertEqual(changes, ["gemini suspect"])
