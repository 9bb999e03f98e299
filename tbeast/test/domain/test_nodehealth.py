"""Tests of L{tbeast.domain.nodehealth}."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.nodehealth import HOLD_SECONDS, LEAST_HEALTH, RISE, WELL_SECONDS, Health

START = 1_790_000_000.0
USUAL_US = 20_000.0


class Windows:
    """A health and its windows, one a second."""

    def __init__(self) -> None:
        self.now = START
        self.health = Health(START)
        self.values = [1.0]

    def go(self, us: float = USUAL_US, windows: int = 1, in_demand: bool = True, has_room: bool = True) -> float:
        """Let windows pass in which answers take so long; 0 for no answers."""
        for _ in range(windows):
            if us:
                self.health.note_latency(us, 100)
            self.now += 1.0
            self.health.close_window(self.now, in_demand, has_room)
            self.values.append(self.health.value)
        return self.health.value

    @property
    def reversals(self) -> list[float]:
        """When the direction changed, in windows since the start."""
        moves = [(at, after > before) for at, (before, after) in enumerate(pairwise(self.values)) if before != after]
        return [at for (_, was), (at, rises) in pairwise(moves) if was is not rises]


class FallTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.windows = Windows()
        self.windows.go(windows=5)

    def test_usual_answers_move_nothing(self) -> None:
        self.assertEqual({1.0}, set(self.windows.values))
        self.assertEqual("", self.windows.health.reason)

    def test_one_bad_window_moves_nothing(self) -> None:
        self.assertEqual(1.0, self.windows.go(500_000.0))
        self.assertEqual(1.0, self.windows.go())
        self.assertEqual(1.0, self.windows.go(500_000.0))

    def test_the_second_one_halves(self) -> None:
        self.assertEqual(0.5, self.windows.go(500_000.0, 2))
        self.assertEqual("slow answers: 500,000 us, usually 20,000", self.windows.health.reason)

    def test_a_fall_is_as_deep_as_the_gradient(self) -> None:
        self.assertAlmostEqual(0.8, self.windows.go((1.5 * USUAL_US + 2_000.0) / 0.8, 2))

    def test_of_two_windows_the_better_one_counts(self) -> None:
        self.windows.go(500_000.0)
        self.assertAlmostEqual(0.8, self.windows.go((1.5 * USUAL_US + 2_000.0) / 0.8))

    def test_what_is_short_has_slack(self) -> None:
        windows = Windows()
        windows.go(20.0, 5)
        self.assertEqual(1.0, windows.go(2_000.0, 20))
        self.assertLess(windows.go(3_000.0, 2), 0.9)

    def test_it_falls_every_window_while_there_is_room(self) -> None:
        self.windows.go(500_000.0, 4)
        self.assertEqual([0.5, 0.25, 0.125], self.windows.values[-3:])

    def test_it_waits_for_the_connections_to_come_down(self) -> None:
        self.assertEqual(0.5, self.windows.go(500_000.0, 2, has_room=False))
        self.assertEqual(0.5, self.windows.go(500_000.0, int(HOLD_SECONDS) - 1, has_room=False))
        self.assertEqual(0.25, self.windows.go(500_000.0, 1, has_room=False))

    def test_it_has_a_least(self) -> None:
        self.assertEqual(LEAST_HEALTH, self.windows.go(1e9, 8))

    def test_reactor_lag(self) -> None:
        for _ in range(2):
            for lag in (0.3, 0.1):
                self.windows.health.note_lag(lag)
            self.windows.go()
        self.assertEqual(0.5, self.windows.health.value)
        self.assertEqual("reactor lag: 200 ms", self.windows.health.reason)

    def test_small_lag_is_none(self) -> None:
        for _ in range(10):
            self.windows.health.note_lag(0.05)
            self.windows.health.note_lag(0.0)
            self.assertEqual(1.0, self.windows.go())

    def test_refusals_from_below(self) -> None:
        for _ in range(2):
            for _ in range(8):
                self.windows.health.note_refusal()
            self.windows.go()
        self.assertAlmostEqual(0.05 * 108 / 8, self.windows.health.value)
        self.assertEqual("refusals from below: 7%", self.windows.health.reason)

    def test_few_refusals_are_none(self) -> None:
        for _ in range(10):
            for _ in range(4):
                self.windows.health.note_refusal()
            self.windows.go(0.0)
        self.assertEqual(1.0, self.windows.health.value)

    def test_few_answers_wait_for_the_next(self) -> None:
        for _ in range(2):
            self.windows.health.note_latency(500_000.0, 9)
            self.assertEqual(1.0, self.windows.go(0.0))
        self.assertEqual(500_000.0, self.windows.health.mean_us)
        self.windows.health.note_latency(500_000.0, 10)
        self.assertEqual(0.5, self.windows.go(0.0))


class RiseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.windows = Windows()
        self.windows.go(windows=5)
        self.windows.go(500_000.0, 2)

    def test_it_rises_by_steps_after_a_hold(self) -> None:
        self.assertEqual(0.5, self.windows.go(windows=int(HOLD_SECONDS) - 1))
        self.assertAlmostEqual(0.5 + RISE, self.windows.go())
        self.assertAlmostEqual(0.5 + 2 * RISE, self.windows.go())
        self.assertEqual(1.0, self.windows.go(windows=8))
        self.assertEqual("well again", self.windows.health.reason)
        self.assertEqual(1.0, self.windows.go(windows=50))
        self.assertEqual(1, len(self.windows.reversals))

    def test_who_is_not_in_demand_does_not_rise(self) -> None:
        self.assertEqual(0.5, self.windows.go(windows=int(WELL_SECONDS) - 1, in_demand=False))

    def test_but_it_is_forgotten(self) -> None:
        self.windows.go(windows=int(WELL_SECONDS) - 1, in_demand=False)
        self.assertEqual(1.0, self.windows.go(windows=10, in_demand=False))

    def test_in_between_nothing_moves(self) -> None:
        for gradient in (0.95, 1.2):
            self.assertEqual(0.5, self.windows.go((1.5 * USUAL_US + 2_000.0) / gradient, 20))

    def test_no_second_reversal_in_a_hold(self) -> None:
        self.windows.go(windows=int(HOLD_SECONDS))
        risen = self.windows.health.value
        self.assertGreater(risen, 0.5)
        self.assertEqual(risen, self.windows.go(500_000.0, int(HOLD_SECONDS) - 1))
        self.assertEqual(risen / 2, self.windows.go(500_000.0))


class UsualTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.windows = Windows()
        self.windows.go(windows=5)

    def test_a_long_overload_does_not_become_the_usual(self) -> None:
        for _ in range(300):
            self.windows.go(500_000.0)
            self.windows.health.value = 0.5  # not the least
        self.assertEqual(USUAL_US, self.windows.health.usual_us)

    def test_at_the_least_health_it_does(self) -> None:
        fallen = 1 + 5  # a bad window first, and five until the least
        self.assertEqual(LEAST_HEALTH, self.windows.go(500_000.0, fallen))
        self.windows.go(500_000.0, 4)
        self.assertEqual(USUAL_US, self.windows.health.usual_us)
        self.windows.go(500_000.0)
        self.assertEqual(500_000.0, self.windows.health.usual_us)
        self.assertEqual(1.0, self.windows.go(500_000.0, 30))

    def test_it_comes_down_quickly(self) -> None:
        self.windows.go(USUAL_US / 10, 20)
        self.assertLess(self.windows.health.usual_us, USUAL_US / 8)

    def test_it_goes_up_slowly(self) -> None:
        self.windows.go(1.25 * USUAL_US, 10)
        self.assertLess(self.windows.health.usual_us, 1.05 * USUAL_US)
        self.windows.go(1.25 * USUAL_US, 200)
        self.assertGreater(self.windows.health.usual_us, 1.2 * USUAL_US)

    def test_slower_still_if_not_all_is_well(self) -> None:
        self.windows.go(1.5 * USUAL_US, 60)
        self.assertLess(self.windows.health.usual_us, 1.06 * USUAL_US)


class ClosedLoopTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=40)
    @given(
        capacity=st.floats(0.1, 3.0),
        sharpness=st.floats(1.0, 4.0),
        noise=st.lists(st.floats(0.97, 1.03), min_size=7, max_size=7),
    )
    def test_it_comes_to_rest_where_the_node_can_bear_it(
        self, capacity: float, sharpness: float, noise: list[float]
    ) -> None:
        # what is over the capacity lengthens the answers; at first there is no load
        windows = Windows()
        windows.go(windows=5)
        for second in range(400):
            over = max(1.0, windows.health.value / capacity)
            windows.go(USUAL_US * over**sharpness * noise[second % 7])
        self.assertLessEqual(windows.health.value, max(0.1, 2.0 * capacity))
        self.assertGreaterEqual(windows.health.value, min(1.0, 0.5 * capacity))
        self.assertLessEqual(len([at for at in windows.reversals if at > 200]), 10)

    @settings(deadline=None, max_examples=60)
    @given(slow=st.lists(st.sampled_from([0.5, 1.0, 1.4, 2.0, 10.0]), min_size=10, max_size=150))
    def test_never_two_reversals_in_a_hold(self, slow: list[float]) -> None:
        windows = Windows()
        windows.go(windows=5)
        for times in slow:
            windows.go(USUAL_US * times)
        self.assertTrue(all(LEAST_HEALTH <= value <= 1.0 for value in windows.values))
        turns = windows.reversals
        for first, second in pairwise(turns):
            self.assertGreaterEqual(second - first, HOLD_SECONDS)
