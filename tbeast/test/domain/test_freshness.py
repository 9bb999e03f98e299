from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.freshness import (
    GAPS_TO_LEARN,
    LATE_FLOOR_SECONDS,
    UNLEARNED_LATE_SECONDS,
    Delay,
    Limits,
    Rhythm,
)

GAPS = st.lists(st.floats(0.0, 1000.0), max_size=50)


class RhythmTests(SynchronousTestCase):
    def learned(self, *gaps: float) -> Rhythm:
        rhythm = Rhythm()
        for gap in gaps:
            rhythm.heard(gap)
        return rhythm

    def test_unlearned(self) -> None:
        self.assertEqual(self.learned().late_after(Limits()), UNLEARNED_LATE_SECONDS)
        self.assertEqual(self.learned(*[0.1] * (GAPS_TO_LEARN - 1)).late_after(Limits()), UNLEARNED_LATE_SECONDS)

    def test_quick_symbol_is_late_at_the_floor(self) -> None:
        self.assertEqual(self.learned(*[0.1] * 20).late_after(Limits()), LATE_FLOOR_SECONDS)

    def test_slow_symbol_is_given_its_own_time(self) -> None:
        late = self.learned(*[10.0] * 100).late_after(Limits())
        self.assertGreater(late, 10.0)
        self.assertLess(late, 15.0)

    def test_irregular_symbol_is_given_more(self) -> None:
        regular = self.learned(*[10.0] * 40).late_after(Limits())
        irregular = self.learned(*[2.0, 18.0] * 20).late_after(Limits())
        self.assertGreater(irregular, regular + 5.0)

    def test_never_later_than_rest_needs(self) -> None:
        rhythm = self.learned(*[500.0] * 10)
        self.assertEqual(rhythm.late_after(Limits(60.0)), 45.0)
        self.assertEqual(rhythm.late_after(Limits(20.0)), 15.0)
        self.assertEqual(rhythm.late_after(Limits(1000.0)), 120.0)

    @settings(deadline=None, max_examples=100)
    @given(GAPS, st.floats(10.0, 600.0))
    def test_between_floor_and_ceiling(self, gaps: list[float], max_age: float) -> None:
        limits = Limits(max_age)
        late = self.learned(*gaps).late_after(limits)
        self.assertGreaterEqual(late, min(LATE_FLOOR_SECONDS, limits.late_ceiling_seconds))
        self.assertLessEqual(late, limits.late_ceiling_seconds)
        self.assertLess(late, max_age)


class DelayTests(SynchronousTestCase):
    def test_foreign_clock_is_no_delay(self) -> None:
        delay = Delay()
        for second in range(30):
            delay.heard(3600.0 + 0.01 * (second % 3))
            delay.turn(float(second))
        self.assertLess(delay.seconds, 0.03)

    def test_growing_lag_is(self) -> None:
        delay = Delay()
        for second in range(60):
            delay.heard(0.2 + (second - 30 if second > 30 else 0))
            delay.turn(float(second))
        self.assertGreater(delay.seconds, 15.0)

    def test_one_old_message_among_prompt_ones_is_not(self) -> None:
        delay = Delay()
        for second in range(30):
            delay.heard(0.2)
            delay.heard(900.0)
            delay.turn(float(second))
        self.assertEqual(delay.seconds, 0.0)

    def test_a_message_from_the_future_spoils_nothing(self) -> None:
        delay = Delay()
        delay.heard(-1e9)
        for second in range(30):
            delay.heard(0.2)
            delay.turn(float(second))
        self.assertEqual(delay.seconds, 0.2)

    def test_a_server_with_another_clock_is_no_delay_while_it_is_right(self) -> None:
        delay = Delay()
        for second in range(60):
            delay.heard(0.1 if second > 30 else -2.9)
            delay.turn(float(second))
        self.assertEqual(delay.seconds, 0.1)

    def test_silence_keeps_what_was_known(self) -> None:
        delay = Delay()
        delay.heard(0.1)
        for second in range(30):
            delay.turn(float(second))
        self.assertEqual(delay.seconds, 0.0)

    def test_unknown_times_do_nothing(self) -> None:
        delay = Delay()
        delay.heard(float("nan"))
        delay.turn(1.0)
        self.assertEqual(delay.seconds, 0.0)

    def test_reset(self) -> None:
        delay = Delay()
        delay.heard(0.0)
        delay.turn(0.0)
        for second in range(20):
            delay.heard(50.0)
            delay.turn(float(second))
        self.assertEqual(delay.seconds, 50.0)
        delay.reset()
        delay.heard(50.0)
        delay.turn(21.0)
        self.assertEqual(delay.seconds, 0.0)
