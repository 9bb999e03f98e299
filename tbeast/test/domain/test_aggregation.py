from __future__ import annotations

import random
from statistics import mean, median, pstdev

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.aggregation import BP, Noise, combine

PRICES = st.floats(1e-9, 1e9)


@st.composite
def elections(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """Honest values, and at most floor((n - 1) / 2) arbitrary ones, n >= 3, in any order of trust."""
    count = draw(st.integers(3, 12))
    rogues = draw(st.integers(0, (count - 1) // 2))
    center = draw(PRICES)
    width = draw(st.sampled_from([0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.5]))
    honest = [center * (1.0 + width * draw(st.floats(-1.0, 1.0))) for _ in range(count - rogues)]
    near = st.floats(-3 * width - 1e-6, 3 * width + 1e-6).map(lambda off: max(center * (1.0 + off), 1e-12))
    arbitrary = [draw(st.one_of(PRICES, near, st.sampled_from(honest))) for _ in range(rogues)]
    return honest, draw(st.permutations(honest + arbitrary))


class CombineTests(SynchronousTestCase):
    def test_nothing(self) -> None:
        self.assertRaises(ValueError, combine, [])

    def test_one(self) -> None:
        got = combine([5.0])
        self.assertEqual((got.price, got.used, got.set_aside), (5.0, (0,), ()))

    def test_the_first_of_two_wins(self) -> None:
        self.assertEqual(combine([100.0, 7.0]).price, 100.0)
        self.assertEqual(combine([7.0, 100.0]).price, 7.0)

    def test_median_of_three(self) -> None:
        got = combine([100.02, 100.0, 100.01])
        self.assertEqual((got.price, got.used, got.set_aside, got.middle), (100.01, (1, 2, 0), (), (2,)))

    def test_even_number_averages_the_middle_two(self) -> None:
        got = combine([100.0, 100.03, 100.01, 100.02])
        self.assertAlmostEqual(got.price, 100.015)
        self.assertEqual(set(got.middle), {2, 3})

    def test_rogue_among_four_is_set_aside(self) -> None:
        values = [100.0, 100.01, 100.02, 150.0]
        got = combine(values)
        self.assertEqual(got.set_aside, (3,))
        self.assertAlmostEqual(got.price, 100.01)
        # what mean and sigma would have said: the rogue is well within 3 sigma of a mean that it has pulled along
        self.assertLess(abs(150.0 - mean(values)), 3 * pstdev(values))

    def test_nothing_within_the_floor_is_set_aside(self) -> None:
        self.assertEqual(combine([100.0, 100.0, 100.0, 100.0, 100.049]).set_aside, ())
        self.assertEqual(combine([100.0, 100.0, 100.0, 100.0, 100.051]).set_aside, (4,))

    def test_noisy_sources_widen_the_gate(self) -> None:
        values = [100.0, 100.0, 100.0, 100.0, 100.09]
        self.assertEqual(combine(values).set_aside, (4,))
        self.assertEqual(combine(values, noise=2 * BP).set_aside, ())

    def test_subset_median_is_held_within_the_middle(self) -> None:
        # Without the hold the two low values would pull the median of what remains below every honest value.
        got = combine([100.0, 100.0, 104.0, 99.9, 99.9])
        self.assertEqual(got.set_aside, (2,))
        self.assertEqual(got.price, 100.0)

    @settings(deadline=None, max_examples=1500)
    @given(elections(), st.sampled_from([0.0, BP, 20 * BP]))
    def test_a_minority_cannot_leave_the_honest_range(
        self, election: tuple[list[float], list[float]], noise: float
    ) -> None:
        honest, values = election
        got = combine(values, noise)
        slack = 1e-12 * max(honest)
        self.assertGreaterEqual(got.price, min(honest) - slack)
        self.assertLessEqual(got.price, max(honest) + slack)

    @settings(deadline=None, max_examples=500)
    @given(st.lists(PRICES, min_size=1, max_size=9), st.floats(0.0, 0.002))
    def test_every_value_is_judged_once(self, values: list[float], noise: float) -> None:
        got = combine(values, noise)
        self.assertEqual(sorted(got.used + got.set_aside), list(range(len(values))))
        self.assertTrue(set(got.middle) <= set(got.used))
        self.assertTrue(got.used)
        if len(values) >= 3:
            middle = median(values)
            for position in got.set_aside:
                self.assertGreater(abs(values[position] - middle), got.limit)
            self.assertGreaterEqual(2 * len(got.used), len(values))

    @settings(deadline=None, max_examples=300)
    @given(st.lists(PRICES, min_size=3, max_size=8), st.randoms(use_true_random=False))
    def test_order_of_trust_matters_only_to_two(self, values: list[float], chance: random.Random) -> None:
        shuffled = values[:]
        chance.shuffle(shuffled)
        self.assertAlmostEqual(combine(values).price / combine(shuffled).price, 1.0, places=9)

    def test_the_mute_hold_the_price(self) -> None:
        got = combine([200.0, 100.1], mute=[100.0])  # the first of two would win
        self.assertEqual((got.price, got.middle, got.used), (100.1, (1,), (0, 1)))
        got = combine([300.0, 300.0, 100.1], mute=[100.0, 100.0])
        self.assertEqual((got.price, got.middle, got.set_aside), (100.1, (2,), (2,)))
        self.assertEqual(combine([7.0], mute=[100.0, 101.0])[:4], (100.0, (0,), (), (1,)))

    def test_the_mute_do_not_vote(self) -> None:
        self.assertEqual(combine([100.0, 101.0, 102.0], mute=[90.0]).price, 101.0)
        self.assertEqual(combine([100.0], mute=[90.0]).price, 100.0)  # of two none holds the other

    @settings(deadline=None, max_examples=500)
    @given(elections(), st.integers(0, 12))
    def test_whoever_is_mute_a_minority_cannot_leave_the_honest_range(
        self, election: tuple[list[float], list[float]], voters: int
    ) -> None:
        honest, values = election
        voters = max(1, min(voters, len(values)))
        got = combine(values[:voters], 0.0, values[voters:])
        self.assertGreaterEqual(got.price, min(honest) * (1 - 1e-12))
        self.assertLessEqual(got.price, max(honest) * (1 + 1e-12))


class NoiseTests(SynchronousTestCase):
    def judged(self, count: int, sigma_bp: float, seconds: int = 4000) -> tuple[int, int, float]:
        """How many honest values of normal noise were set aside, of how many, and the noise learned."""
        chance, noise = random.Random(count), Noise()
        aside = judged = 0
        for second in range(seconds):
            values = [100.0 * (1.0 + chance.gauss(0.0, sigma_bp * BP)) for _ in range(count)]
            got = combine(values, noise.level)
            noise.heard(got.dispersion, float(second))
            aside += len(got.set_aside)
            judged += count
        return aside, judged, noise.level / BP

    def test_honest_sources_are_set_aside_less_than_once_in_a_thousand(self) -> None:
        for count in (3, 4, 5, 6):
            aside, judged, level = self.judged(count, 2.0)
            self.assertLess(aside / judged, 1 / 1000, f"{aside} of {judged} with {count} sources")
            self.assertGreater(level, 1.0)
            self.assertLess(level, 3.5)

    def test_a_bare_mad_would_not_hold_that(self) -> None:
        chance, aside = random.Random(3), 0
        for _ in range(2000):
            aside += len(combine([100.0 * (1.0 + chance.gauss(0.0, 2.0 * BP)) for _ in range(3)]).set_aside)
        self.assertGreater(aside / 6000, 5 / 1000)

    def test_quiet_sources_bring_the_gate_down_to_the_floor(self) -> None:
        noise = Noise()
        for second in range(600):
            noise.heard(0.0, float(second))
        self.assertEqual(combine([100.0, 100.0, 100.0, 100.051], noise.level).set_aside, (3,))

    def test_a_poisoner_cannot_widen_the_gate_without_end(self) -> None:
        noise = Noise()
        for second in range(6000):
            noise.heard(0.5, float(second))
        self.assertLessEqual(noise.level, Noise.CEILING)

    def test_a_rogue_alone_teaches_nothing(self) -> None:
        noise, chance = Noise(), random.Random(1)
        for second in range(600):
            values = [100.0 * (1.0 + chance.gauss(0.0, BP)) for _ in range(4)] + [160.0]
            noise.heard(combine(values, noise.level).dispersion, float(second))
        self.assertLess(noise.level, 4 * BP)

    def test_time_that_stands_still_or_goes_back_teaches_nothing(self) -> None:
        noise = Noise()
        noise.heard(0.001, 100.0)
        noise.heard(0.001, 100.0)
        noise.heard(0.001, 50.0)
        self.assertEqual(noise.level, Noise.PRIOR)
