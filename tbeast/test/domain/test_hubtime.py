"""The clock that follows another's: near to it whatever the answers take, and never back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.hubtime import FollowedClock

waits = st.lists(
    st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 2.0), st.floats(0.0, 2.0)), min_size=1, max_size=20
)  # fmt: skip


class FollowedClockTests(SynchronousTestCase):
    def test_before_the_first_answer(self) -> None:
        clock = FollowedClock()
        self.assertFalse(clock.is_set)
        clock.heard(10.0, 1000.0, 10.0)
        self.assertTrue(clock.is_set)
        self.assertEqual(1005.0, clock.read(15.0))

    def test_a_first_answer_is_placed_in_the_middle(self) -> None:
        clock = FollowedClock()
        clock.heard(10.0, 1000.0, 12.0)
        self.assertEqual(1001.0, clock.read(12.0))

    def test_a_slow_answer_changes_nothing(self) -> None:
        clock = FollowedClock()
        clock.heard(10.0, 1000.0, 10.0)
        clock.heard(20.0, 1010.5, 21.0)
        self.assertEqual(1011.0, clock.read(21.0))

    def test_a_step_forward_is_followed(self) -> None:
        clock = FollowedClock()
        clock.heard(10.0, 1000.0, 10.0)
        clock.heard(20.0, 4610.0, 20.0)
        self.assertEqual(4610.0, clock.read(20.0))

    def test_it_stands_still_rather_than_go_back(self) -> None:
        clock = FollowedClock()
        clock.heard(10.0, 1000.0, 10.0)
        self.assertEqual(1010.0, clock.read(20.0))
        clock.heard(20.0, 1009.0, 20.0)
        self.assertEqual(1010.0, clock.read(20.5))
        self.assertEqual(1011.0, clock.read(22.0))

    @settings(deadline=None, max_examples=200)
    @given(st.floats(-1e6, 1e6), waits)
    def test_the_error_is_below_what_the_quickest_answer_took(
        self, ahead: float, rounds: list[tuple[float, ...]]
    ) -> None:
        """However long each way takes: with an even clock on the other side."""
        clock, uptime, least, last = FollowedClock(), 100.0, float("inf"), float("-inf")
        for rest, out, back in rounds:
            asked_at = uptime + rest
            heard_at = asked_at + out + back
            clock.heard(asked_at, asked_at + out + ahead, heard_at)
            least = min(least, out + back)
            now = clock.read(heard_at)
            self.assertGreaterEqual(now, last)
            last, uptime = now, heard_at
        # a clock that once ran ahead may stand still for so long, and then is right
        self.assertLessEqual(abs(clock.read(uptime + 10.0) - (uptime + 10.0 + ahead)), least + 1e-6)
