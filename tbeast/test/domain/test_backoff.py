"""Tests of L{tbeast.domain.backoff}."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.backoff import (
    CAP_SECONDS,
    FIRST_SECONDS,
    THROTTLED_CAP_SECONDS,
    THROTTLED_FIRST_SECONDS,
    Backoff,
    wait_seconds,
)

chances = st.floats(min_value=0.0, max_value=1.0, exclude_max=True)


class WaitTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=200)
    @given(failures=st.integers(0, 10_000), chance=chances)
    def test_is_between_half_and_whole_of_its_measure(self, failures: int, chance: float) -> None:
        whole = min(CAP_SECONDS, FIRST_SECONDS * 2 ** min(failures, 100))
        wait = wait_seconds(failures, chance, FIRST_SECONDS, CAP_SECONDS)
        self.assertTrue(whole / 2 <= wait <= whole, wait)

    @settings(deadline=None, max_examples=100)
    @given(chance=chances, failures=st.integers(0, 200))
    def test_never_shrinks_with_more_failures(self, chance: float, failures: int) -> None:
        first = wait_seconds(failures, chance, FIRST_SECONDS, CAP_SECONDS)
        self.assertLessEqual(first, wait_seconds(failures + 1, chance, FIRST_SECONDS, CAP_SECONDS))


class BackoffTests(SynchronousTestCase):
    def test_doubles_up_to_the_cap(self) -> None:
        backoff = Backoff(lambda: 0.0)
        self.assertEqual([backoff.failed() for _ in range(8)], [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0])

    def test_goes_on_for_ever(self) -> None:
        backoff = Backoff(lambda: 0.999)
        waits = [backoff.failed() for _ in range(5000)]
        self.assertLessEqual(max(waits), CAP_SECONDS)
        self.assertEqual(backoff.failures, 5000)

    def test_reset_makes_it_short_again(self) -> None:
        backoff = Backoff(lambda: 0.0)
        for _ in range(7):
            backoff.failed()
        backoff.throttled()
        backoff.reset()
        self.assertEqual(backoff.failures, 0)
        self.assertEqual(backoff.failed(), 0.5)
        self.assertEqual(backoff.throttled(), THROTTLED_FIRST_SECONDS / 2)

    def test_throttled_waits_longer_and_has_its_own_cap(self) -> None:
        backoff = Backoff(lambda: 0.5)
        waits = [backoff.throttled() for _ in range(10)]
        self.assertEqual(waits[0], 45.0)
        self.assertEqual(waits[1], 90.0)
        self.assertEqual(waits[-1], THROTTLED_CAP_SECONDS * 0.75)

    def test_throttled_waits_at_least_as_long_as_was_said(self) -> None:
        self.assertEqual(Backoff(lambda: 0.0).throttled(100.0), 100.0)
