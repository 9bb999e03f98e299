"""Tests of L{tbeast.domain.pacing}."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.pacing import Pace


class PaceTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=200)
    @given(
        count=st.integers(1, 6),
        seconds=st.integers(1, 20),
        gaps=st.lists(st.integers(0, 15), min_size=1, max_size=60),
    )
    def test_no_window_ever_holds_more(self, count: int, seconds: int, gaps: list[int]) -> None:
        # Whole numbers, so that the test's own arithmetic is exact.
        pace = Pace(count, seconds)
        now = 1_700_000_000.0
        taken: list[Fraction] = []
        for gap in gaps:
            now += gap
            now += pace.wait_seconds(now)
            self.assertEqual(pace.wait_seconds(now), 0.0)
            pace.took(now)
            taken.append(Fraction(now))
        for begin in taken:
            self.assertLessEqual(sum(1 for moment in taken if begin <= moment < begin + seconds), count)

    def test_the_first_ones_go_at_once(self) -> None:
        pace = Pace(3, 1.0)
        for _ in range(3):
            self.assertEqual(pace.wait_seconds(100.0), 0.0)
            pace.took(100.0)
        self.assertEqual(pace.wait_seconds(100.25), 0.75)
        self.assertEqual(pace.wait_seconds(101.0), 0.0)

    def test_what_is_no_rate_is_refused(self) -> None:
        for count, seconds in ((0, 1.0), (1, -1.0), (1, float("nan"))):
            with self.assertRaises(ValueError):
                Pace(count, seconds)
