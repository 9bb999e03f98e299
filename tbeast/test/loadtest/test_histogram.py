"""Histograms against sorted lists."""

from __future__ import annotations

from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest.histogram import Histogram, upper_edge

TIMES = st.lists(st.integers(0, 60_000_000), min_size=1, max_size=200)


def counted(micros: list[int]) -> Histogram:
    histogram = Histogram()
    # a half on top, so that no rounding of seconds takes one away
    histogram.add([(value + 0.5) / 1e6 for value in micros])
    return histogram


class HistogramTests(SynchronousTestCase):
    def test_empty(self) -> None:
        histogram = Histogram()
        histogram.add([])
        self.assertEqual((histogram.at(0.5), histogram.greatest, histogram.mean_us), (0, 0, 0.0))
        histogram.merge(Histogram())
        self.assertEqual(histogram, Histogram())

    def test_small_times_are_exact(self) -> None:
        histogram = counted([5, 1, 3, 2, 4])
        self.assertEqual([histogram.at(share) for share in (0.0, 0.2, 0.5, 0.9, 1.0)], [1, 1, 3, 5, 5])
        self.assertEqual((histogram.least, histogram.greatest, histogram.mean_us), (1, 5, 3.0))

    def test_a_time_below_zero_is_none(self) -> None:
        histogram = Histogram()
        histogram.add([-0.001, 0.001])
        self.assertEqual((histogram.least, histogram.at(0.5), histogram.greatest), (0, 0, 1000))

    def test_a_thousandth_is_not_lost_in_binary(self) -> None:
        histogram = counted([1] * 999 + [900])
        self.assertEqual(histogram.at(0.999), 1)

    @given(TIMES, st.floats(0.0, 1.0))
    @settings(deadline=None, max_examples=150)
    def test_percentiles_are_the_nearest_ranks_and_never_too_low(self, micros: list[int], share: float) -> None:
        true = sorted(micros)[max(1, ceil(share * len(micros) - 1e-6)) - 1]
        told = counted(micros).at(share)
        self.assertTrue(true <= told <= true * 1.002, (true, told))

    @given(TIMES, TIMES)
    @settings(deadline=None, max_examples=50)
    def test_merging_is_counting_together(self, these: list[int], those: list[int]) -> None:
        merged = counted(these)
        merged.merge(counted(those))
        self.assertEqual(merged, counted(these + those))

    @given(TIMES)
    @settings(deadline=None, max_examples=50)
    def test_coarse_buckets_hold_as_many(self, micros: list[int]) -> None:
        histogram = counted(micros)
        coarse = histogram.coarse()
        self.assertEqual(sum(coarse.values()), len(micros))
        self.assertEqual(list(coarse), sorted(coarse))
        self.assertTrue(histogram.greatest <= max(coarse) <= histogram.greatest * 1.035 + 1)

    @given(st.integers(0, 1 << 40))
    @settings(deadline=None, max_examples=100)
    def test_an_edge_is_its_own(self, value: int) -> None:
        edge = upper_edge(value)
        self.assertGreaterEqual(edge, value)
        self.assertEqual(upper_edge(edge), edge)
