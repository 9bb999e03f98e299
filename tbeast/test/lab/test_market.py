from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.lab.market import DEFAULT_STEPS_PER_SECOND, FARTHEST, PEGS, Market, moves_per_second
from tbeast.lab.starts import start_of
from tbeast.test.lab.support import TABLES


def walked(seed: int, steps: int, rate: float = DEFAULT_STEPS_PER_SECOND) -> Market:
    market = Market(Random(seed), TABLES.codes, rate)
    for _ in range(steps):
        market.step()
    return market


class MarketTests(SynchronousTestCase):
    def test_same_seed_same_walk(self) -> None:
        one, other = walked(5, 300), walked(5, 300)
        self.assertEqual(one.mids, other.mids)
        self.assertEqual(one.rate("USDT"), other.rate("USDT"))
        self.assertNotEqual(one.mids, walked(6, 300).mids)

    def test_every_asset_moves_sooner_or_later_and_only_those_named(self) -> None:
        market = Market(Random(1), TABLES.codes)
        named = set()
        for _ in range(2000):
            before = dict(market.mids)
            moved = set(market.step())
            changed = {code for code, price in market.mids.items() if price != before[code]}
            self.assertLessEqual(changed, moved)
            named |= moved
        self.assertEqual(named, {*TABLES.codes, *PEGS})

    @given(seed=st.integers(0, 10**6), rate=st.sampled_from([0.01, 1.0, 20.0, 500.0]))
    @settings(max_examples=25, deadline=None)
    def test_prices_stay_near_where_they_began(self, seed: int, rate: float) -> None:
        market = Market(Random(seed), ("BTC", "SHIB", "ZZZ"), rate)
        for _ in range(400):
            market.step()
        for code, price in market.mids.items():
            start = start_of(code)[0]
            self.assertTrue(start / FARTHEST <= price * (1 + 1e-9) and price <= start * FARTHEST * (1 + 1e-9), code)
        for coin, peg in PEGS.items():
            self.assertApproximates(market.rate(coin), peg, 0.0005)

    def test_even_a_wild_walk_is_held(self) -> None:
        # one step a week: each move would be many times the bound
        market = Market(Random(2), ("BTC",), 1 / 604800)
        highest = 0.0
        for _ in range(3000):
            market.step()
            highest = max(highest, market.mids["BTC"])
        self.assertLessEqual(highest, start_of("BTC")[0] * FARTHEST * (1 + 1e-9))

    def test_an_hour_moves_prices_by_a_plausible_amount_at_any_rate(self) -> None:
        for rate in (5.0, 40.0):
            market = walked(9, int(600 * rate), rate)
            away = [abs(price / start_of(code)[0] - 1) for code, price in market.mids.items()]
            self.assertTrue(0.0003 < sum(away) / len(away) < 0.01, rate)

    def test_liquid_assets_move_more_often(self) -> None:
        paces = [moves_per_second(rank) for rank in range(1, 151)]
        self.assertEqual(paces, sorted(paces, reverse=True))
        self.assertGreater(paces[0], 5)
        self.assertLess(paces[-1], 1)
        self.assertEqual(Market(Random(1), TABLES.codes).rank["BTC"], 1)

    def test_prices_in_other_currencies(self) -> None:
        market = walked(1, 50)
        self.assertEqual(market.price("BTC"), market.mids["BTC"])
        self.assertEqual(market.price("BTC", "USDT"), market.mids["BTC"] / market.rate("USDT"))
        self.assertEqual(market.price("USDT"), market.rate("USDT"))
        self.assertRaises(KeyError, market.price, "NOPE")
        self.assertRaises(KeyError, market.price, "BTC", "EUR")

    def test_a_rate_of_no_steps_is_refused(self) -> None:
        for rate in (0.0, -1.0, float("nan")):
            self.assertRaises(ValueError, Market, Random(1), ("BTC",), rate)


class DepegTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.market = Market(Random(4), ("BTC",), 10.0)

    def test_at_once_and_back(self) -> None:
        self.market.send_coin("USDT", 0.97)
        self.market.step()
        self.assertApproximates(self.market.rate("USDT"), 0.97, 0.0001)
        for _ in range(500):
            self.market.step()
        self.assertApproximates(self.market.rate("USDT"), 0.97, 0.0005)
        self.assertApproximates(self.market.rate("USDC"), PEGS["USDC"], 0.0005)
        self.market.send_coin("USDT", None)
        self.market.step()
        self.assertApproximates(self.market.rate("USDT"), PEGS["USDT"], 0.0001)

    def test_evenly_over_a_while(self) -> None:
        self.market.send_coin("USDT", 0.95, ramp_seconds=10.0)
        rates = []
        for _ in range(100):
            self.market.step()
            rates.append(self.market.rate("USDT"))
        self.assertEqual(rates, sorted(rates, reverse=True))
        self.assertApproximates(rates[49], (PEGS["USDT"] + 0.95) / 2, 0.001)
        self.assertApproximates(rates[-1], 0.95, 1e-6)

    def test_no_rate_and_no_coin(self) -> None:
        self.assertRaises(ValueError, self.market.send_coin, "USDT", 0.0)
        self.assertRaises(ValueError, self.market.send_coin, "USDT", float("nan"))
        self.assertRaises(KeyError, self.market.send_coin, "BTC", 1.0)
