"""How long answers took."""

from __future__ import annotations

from math import ceil

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.counters import FAMILIES, Counters
from tbeast.domain.latencies import BUCKETS, FAMILY, LAST, UP_TO_US, Latencies, bring, read

times = st.lists(st.integers(0, 2**30 - 1), min_size=1, max_size=200)
parts = st.floats(0.0, 1.0)


def latencies_of(noted: list[int]) -> Latencies:
    made = Latencies()
    for us in noted:
        made.note(us)
    return made


def true_quantile(noted: list[int], q: float) -> int:
    """The nearest rank's."""
    return sorted(noted)[max(ceil(q * len(noted)), 1) - 1]


class LatenciesTests(SynchronousTestCase):
    def test_buckets(self) -> None:
        for us, bucket in (
            (-5, 0), (0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11), (2**30 - 1, 30), (2**30, LAST),
            (2**31 - 1, LAST), (2**80, LAST),
        ):  # fmt: skip
            counts = latencies_of([us]).counts
            self.assertEqual((1, 1), (counts[bucket], sum(counts)), us)

    def test_nothing_was_noted(self) -> None:
        self.assertEqual((0, None), (Latencies().total, Latencies().quantile(0.5)))

    def test_not_as_many_as_there_are_buckets(self) -> None:
        self.assertRaises(ValueError, Latencies, [1] * (BUCKETS - 1))
        self.assertRaises(ValueError, Latencies().add, [1] * (BUCKETS + 1))

    def test_counts_are_its_own(self) -> None:
        given_counts = [1] * BUCKETS
        Latencies(given_counts).note(1)
        self.assertEqual([1] * BUCKETS, given_counts)

    def test_within_a_bucket(self) -> None:
        """As if the times in it lay evenly on a logarithmic scale."""
        made = latencies_of([600] * 4)
        self.assertEqual([558, 663, 789, 939], [made.quantile(q) for q in (0.25, 0.5, 0.75, 1.0)])

    @given(times, parts)
    @example([1], 0.0)
    @example([0, 1], 0.5)
    @example([2**30 - 1], 1.0)
    @example([3] * 10_000, 1.0)
    @settings(deadline=None, max_examples=300)
    def test_within_a_factor_of_two_of_the_true_one(self, noted: list[int], q: float) -> None:
        found, true = latencies_of(noted).quantile(q), true_quantile(noted, q)
        assert found is not None
        self.assertEqual(true.bit_length(), found.bit_length())
        self.assertTrue(found == true == 0 or true / 2 < found < true * 2)

    @given(times, parts, parts)
    @settings(deadline=None, max_examples=200)
    def test_a_greater_part_takes_no_less(self, noted: list[int], one: float, other: float) -> None:
        made = latencies_of(noted)
        low, high = made.quantile(min(one, other)), made.quantile(max(one, other))
        assert low is not None and high is not None
        self.assertLessEqual(low, high)

    @given(times, times)
    @settings(deadline=None, max_examples=100)
    def test_added_up_they_are_those_of_all(self, one: list[int], other: list[int]) -> None:
        merged = latencies_of(one)
        merged.add(latencies_of(other).counts)
        self.assertEqual(latencies_of(one + other).counts, merged.counts)
        self.assertEqual(latencies_of(other).counts, merged.difference(latencies_of(one)).counts)

    @given(times, times, parts)
    @settings(deadline=None, max_examples=200)
    def test_the_worst_nodes_quantile_is_never_below_that_of_all(
        self, one: list[int], other: list[int], q: float
    ) -> None:
        """To the bucket: on that rests that percentiles add up to the greatest of them."""
        found = [latencies_of(noted).quantile(q) for noted in (one, other, one + other)]
        mine, its, of_all = (us.bit_length() for us in found if us is not None)
        self.assertLessEqual(of_all, max(mine, its))

    def test_a_difference_is_never_below_zero(self) -> None:
        self.assertEqual(0, Latencies().difference(latencies_of([7])).total)


class CountersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.counters = Counters()
        self.times = {"lpo": [0] * BUCKETS}
        bring(self.times, self.counters)

    def test_they_go_through_the_counters(self) -> None:
        self.times["lpo"][6] = 2
        self.assertEqual(2, self.counters.value(FAMILY, "lpo", "63"))
        self.times["lpo"][6] += 1
        self.times["lrs"] = [0] * LAST + [5]
        self.assertEqual([(("lpo", "63"), 3), (("lrs", UP_TO_US[LAST]), 5)], list(self.counters.family(FAMILY)))

    def test_each_is_brought_once(self) -> None:
        self.times["lpo"][6] = 2
        for _ in range(3):
            self.assertEqual(2, self.counters.total(FAMILY))

    def test_read(self) -> None:
        self.times["lpo"][6] = 2
        self.counters.count(FAMILY, "lpo", "7", by=9)  # by another process
        self.counters.count(FAMILY, "lpo", "5")  # of another version
        self.counters.count("publications")
        found = read(self.counters)
        self.assertEqual(["lpo"], list(found))
        self.assertEqual({3: 9, 6: 2}, {place: each for place, each in enumerate(found["lpo"].counts) if each})

    def test_the_family(self) -> None:
        """A label for each bucket: the longest time that is in it."""
        self.assertEqual(("service", "up_to_us"), FAMILIES[FAMILY][1])
        self.assertEqual(list(range(BUCKETS)), [int(label).bit_length() for label in UP_TO_US])
        self.assertEqual(
            [1] * LAST, [latencies_of([int(label)]).counts[place] for place, label in enumerate(UP_TO_US[:LAST])]
        )
