from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.lab.lines import Line, decimals_for, half_spread_for


def line_at(price: float, rank: int = 10) -> Line:
    return Line("X-USD", "X", decimals_for(price, 6), half_spread_for(rank), volume=1e6 / price)


class LineTests(SynchronousTestCase):
    @given(price=st.floats(1e-7, 1e6), seed=st.integers(0, 1000), rank=st.integers(1, 150))
    @settings(max_examples=60, deadline=None)
    def test_a_quote_is_sound_and_near_the_truth(self, price: float, seed: int, rank: int) -> None:
        line, random = line_at(price, rank), Random(seed)
        for turn in range(30):
            line.requote(price, random, traded=turn % 3 == 0)
            last, bid, ask = line.quote
            self.assertTrue(0 < bid < ask)
            self.assertLess(abs(last / price - 1), 8e-4)
            self.assertLess(abs(bid / price - 1), 8e-4)
            self.assertLess(abs(ask / price - 1), 8e-4)
            for value in line.quote:
                self.assertEqual(value, float(line.format % value))
            self.assertTrue(line.low <= last <= line.high)
            self.assertTrue(line.low <= line.open <= line.high)
            self.assertTrue(min(line.bid_size, line.ask_size, line.last_size, line.volume) > 0)

    def test_first_quote_is_a_trade_and_the_book_alone_leaves_last(self) -> None:
        line, random = line_at(100.0), Random(1)
        line.requote(100.0, random, traded=False)
        self.assertTrue(line.traded)
        self.assertIn(line.quote.last, (line.quote.bid, line.quote.ask))
        last, trades = line.quote.last, line.trades
        line.requote(101.0, random, traded=False)
        self.assertEqual((line.quote.last, line.trades, line.traded), (last, trades, False))
        self.assertGreater(line.quote.bid, 100.5)
        line.requote(101.0, random, traded=True)
        self.assertGreater(line.quote.last, 100.5)
        self.assertEqual(line.trades, trades + 1)

    def test_volume_neither_runs_away_nor_dries_up(self) -> None:
        line, random = line_at(100.0), Random(1)
        for _ in range(20000):
            line.requote(100.0, random, traded=True)
        self.assertTrue(0.8e4 < line.volume < 1.2e4, line.volume)

    def test_decimals_grow_as_prices_shrink(self) -> None:
        self.assertEqual([decimals_for(price, 6) for price in (83420.0, 1.0, 0.5, 8.6e-6)], [1, 5, 6, 11])
        self.assertEqual(decimals_for(5e6, 6), 1)

    def test_half_spread_grows_with_rank_to_an_end(self) -> None:
        spreads = [half_spread_for(rank) for rank in range(1, 500)]
        self.assertEqual(spreads, sorted(spreads))
        self.assertEqual(spreads[-1], 1.6e-4)
