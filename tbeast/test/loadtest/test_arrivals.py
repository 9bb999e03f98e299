"""The schedule of an open loop."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest.arrivals import arrivals


class ArrivalsTests(SynchronousTestCase):
    @given(st.integers(0, 1 << 30), st.floats(0.5, 5_000.0), st.floats(0.1, 3.0))
    @settings(deadline=None, max_examples=50)
    def test_they_rise_within_the_time_at_about_the_rate(self, seed: int, rate: float, seconds: float) -> None:
        moments = list(arrivals(rate, seconds, Random(seed).random))
        self.assertEqual(moments, sorted(moments))
        self.assertTrue(all(0.0 <= moment < seconds for moment in moments))
        mean = rate * seconds
        self.assertLess(abs(len(moments) - mean), 8.0 * mean**0.5 + 8.0)

    def test_waits_are_exponential(self) -> None:
        moments = list(arrivals(1000.0, 20.0, Random(7).random))
        waits = [after - before for before, after in pairwise(moments)]
        # of an exponential, e^-1 are longer than the mean and e^-3 longer than three of it
        for times, share in ((1.0, 0.3679), (3.0, 0.0498)):
            self.assertApproximates(sum(wait > times / 1000.0 for wait in waits) / len(waits), share, 0.02)

    def test_the_same_seed_gives_the_same(self) -> None:
        first, second, other = (list(arrivals(50.0, 1.0, Random(seed).random)) for seed in (1, 1, 2))
        self.assertEqual(first, second)
        self.assertNotEqual(first, other)

    def test_the_ends_of_chance(self) -> None:
        self.assertEqual(list(arrivals(1.0, 1.0, lambda: 1.0 - 2**-53)), [])
        rising = arrivals(1.0, 1.0, iter([0.0, 0.5]).__next__)
        self.assertEqual(next(rising), 0.0)
