"""The steady clock: even, forward, and near the wall clock."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.steadyclock import (
    APART_SECONDS,
    GREATEST_SLEW,
    LEFT,
    PATIENCE_SECONDS,
    RETURNED,
    STEPPED,
    Parting,
    SteadyClock,
)

EPOCH = 1_770_000_000.0


def run(clock: SteadyClock, start: int, seconds: int, error: float) -> list[Parting]:
    """Adjust once a second against a wall clock that is off from EPOCH + uptime by C{error}."""
    heard = [clock.adjust(float(at), EPOCH + at + error) for at in range(start, start + seconds)]
    return [parting for parting in heard if parting is not None]


class SteadyClockTests(SynchronousTestCase):
    def test_it_starts_at_the_wall_clock(self) -> None:
        clock = SteadyClock(100.0, EPOCH)
        self.assertEqual(clock.read(100.0), EPOCH)
        self.assertEqual(clock.read(107.5), EPOCH + 7.5)

    def test_suspended_time_counts(self) -> None:
        """The uptime counts a night in sleep, and so does the clock, without a step."""
        clock = SteadyClock(0.0, EPOCH)
        self.assertEqual(run(clock, 0, 5, 0.0), [])
        self.assertIsNone(clock.adjust(30_000.0, EPOCH + 30_000.0))
        self.assertAlmostEqual(clock.read(30_000.0), EPOCH + 30_000.0, places=3)

    def test_a_small_difference_is_slewed_away(self) -> None:
        clock = SteadyClock(0.0, EPOCH)
        self.assertEqual(run(clock, 0, 1_500, 0.5), [])
        self.assertAlmostEqual(clock.read(1_500.0), EPOCH + 1_500.5, places=3)

    def test_slewing_is_never_faster_than_allowed(self) -> None:
        clock = SteadyClock(0.0, EPOCH)
        clock.adjust(0.0, EPOCH + 0.9)
        self.assertAlmostEqual(clock.read(1.0) - EPOCH, 1.0 + GREATEST_SLEW, places=6)
        slow = SteadyClock(0.0, EPOCH)
        slow.adjust(0.0, EPOCH - 9_000.0)
        self.assertAlmostEqual(slow.read(1.0) - EPOCH, 1.0 - GREATEST_SLEW, places=6)

    def test_a_slew_ends_when_nobody_looks(self) -> None:
        """An idle hour must not turn a millisecond of slew into seconds."""
        clock = SteadyClock(0.0, EPOCH)
        clock.adjust(0.0, EPOCH + 0.001)
        self.assertAlmostEqual(clock.read(3_600.0) - EPOCH, 3_600.0005, places=5)

    def test_a_wall_clock_set_forward_is_followed_once_it_has_stood(self) -> None:
        clock = SteadyClock(0.0, EPOCH)
        partings = run(clock, 0, int(PATIENCE_SECONDS) + 1, 3_600.0)
        self.assertEqual([parting.what for parting in partings], [LEFT, STEPPED])
        self.assertAlmostEqual(partings[1].ahead_seconds, 3_600.0, places=1)
        self.assertEqual(clock.read(PATIENCE_SECONDS), EPOCH + PATIENCE_SECONDS + 3_600.0)
        self.assertEqual(run(clock, 31, 100, 3_600.0), [])

    def test_a_wall_clock_that_leaps_and_returns_is_not_followed(self) -> None:
        clock = SteadyClock(0.0, EPOCH)
        there = run(clock, 0, int(PATIENCE_SECONDS) - 1, 3_600.0)
        back = run(clock, int(PATIENCE_SECONDS) - 1, 60, 0.0)
        self.assertEqual([parting.what for parting in there + back], [LEFT, RETURNED])
        self.assertAlmostEqual(clock.read(90.0), EPOCH + 90.0, places=1)

    def test_patience_begins_anew_after_every_break(self) -> None:
        clock = SteadyClock(0.0, EPOCH)
        heard = run(clock, 0, 25, 10.0) + run(clock, 25, 1, 0.0) + run(clock, 26, 25, 10.0)
        self.assertNotIn(STEPPED, [parting.what for parting in heard])

    def test_a_wall_clock_set_back_is_approached_and_not_followed(self) -> None:
        clock = SteadyClock(0.0, EPOCH)
        partings = run(clock, 0, 600, -2.0)
        self.assertEqual([parting.what for parting in partings], [LEFT])
        self.assertAlmostEqual(clock.read(600.0), EPOCH + 600.0 * (1 - GREATEST_SLEW), places=2)
        later = run(clock, 600, 3_000, -2.0)
        self.assertEqual([parting.what for parting in later], [RETURNED])

    def test_the_log_does_not_flutter(self) -> None:
        """A difference that trembles about the limit is told once."""
        clock = SteadyClock(0.0, EPOCH)
        tremble = [-APART_SECONDS - 0.05 * (at % 2) for at in range(100)]
        heard = [clock.adjust(float(at), EPOCH + at + error) for at, error in enumerate(tremble)]
        self.assertEqual(len([parting for parting in heard if parting]), 1)

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(
            st.tuples(st.floats(0.0, 100.0), st.floats(-1e6, 1e6)),
            min_size=1,
            max_size=40,
        )
    )
    def test_it_never_goes_back(self, steps: list[tuple[float, float]]) -> None:
        """Whatever the wall clock does, and however rarely anybody looks at it."""
        clock = SteadyClock(0.0, EPOCH)
        uptime, last = 0.0, clock.read(0.0)
        for passed, error in steps:
            uptime += passed
            before = clock.read(uptime)
            clock.adjust(uptime, EPOCH + uptime + error)
            after = clock.read(uptime)
            self.assertLessEqual(last, before)
            self.assertLessEqual(before, after)
            last = after
