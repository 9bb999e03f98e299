"""Tests of L{tbeast.domain.shards}."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.shards import shards


class ShardsTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=200)
    @given(symbols=st.lists(st.text(max_size=3), max_size=80), most=st.integers(1, 30))
    def test_each_symbol_is_on_exactly_one_and_none_is_too_full(self, symbols: list[str], most: int) -> None:
        parts = shards(symbols, most)
        dealt = [symbol for part in parts for symbol in part]
        self.assertEqual(sorted(dealt), sorted(set(symbols)))
        sizes = [len(part) for part in parts]
        self.assertTrue(all(0 < size <= most for size in sizes), sizes)
        self.assertLessEqual(max(sizes, default=0) - min(sizes, default=0), 1)
        self.assertEqual(len(parts), -(-len(set(symbols)) // most))

    def test_the_important_ones_are_spread(self) -> None:
        self.assertEqual(shards("ABCDE", 2), [("A", "D"), ("B", "E"), ("C",)])

    def test_one_is_enough_when_all_fit(self) -> None:
        self.assertEqual(shards(["A", "B", "A"], 2), [("A", "B")])

    def test_a_connection_must_carry_something(self) -> None:
        with self.assertRaises(ValueError):
            shards(["A"], 0)
