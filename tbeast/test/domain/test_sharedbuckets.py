"""The shared buckets: their clock, what a report takes out, and what a loss does."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.sharedbuckets import PRESENT_SECONDS, SILENCE_SECONDS, Hello, SharedBuckets
from tbeast.testing.leasecontract import PRO, after

NOON = 1_776_003_781.25


class BucketsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.buckets = SharedBuckets()

    def clock(self, heard: float, now: float | None = None, node: str = "a", epoch: str = "") -> float:
        """Where the clock stands after a hello that tells of an answer at C{heard}."""
        now = heard if now is None else now
        self.buckets.contact(Hello(node, NOON + heard, epoch), NOON + now)
        return round(self.buckets.contact(Hello(node, NOON - 1e6, epoch), NOON + heard).clock, 6)


class ClockTests(BucketsCase):
    def test_moves_by_the_answers_that_were_had(self) -> None:
        self.assertEqual([0.0, 0.25, 1.25, 1.25], [self.clock(heard) for heard in (0.0, 0.25, 1.25, 1.25)])

    def test_stands_still_in_a_silence(self) -> None:
        self.assertEqual([0.0, 0.5, 0.5, 0.75], [self.clock(heard) for heard in (0.0, 0.5, 600.0, 600.25)])

    def test_what_was_sent_long_ago(self) -> None:
        """A server that goes through it late learns nothing from it."""
        self.clock(0.0)
        self.buckets.contact(Hello("a", NOON + 0.5, ""), NOON + 100.0)
        self.assertEqual(0.5, self.buckets.contact(Hello("a", NOON + 0.5, ""), NOON + 101.6).clock)

    def test_one_of_several_is_enough(self) -> None:
        """While one node is answered the clock goes, and another that comes back late does not stop it."""
        for step in range(9):
            self.clock(step / 2, node="a")
        self.assertEqual(4.0, self.clock(1.0, now=4.0, node="b"))

    def test_nobody_lives_in_the_future(self) -> None:
        self.clock(0.0)
        self.buckets.contact(Hello("a", NOON + 0.9, ""), NOON + 0.25)
        self.assertEqual(0.5, self.buckets.look("a", NOON + 0.5).clock)

    def test_the_server_s_time_is_set_back(self) -> None:
        self.assertEqual([0.0, 0.5, 0.5, 0.75], [self.clock(heard) for heard in (0.0, 0.5, -3_600.0, -3_599.75)])

    def test_after_goodbyes(self) -> None:
        """A cluster that was stopped in good order had no silence."""
        self.clock(0.0)
        self.buckets.leave("a")
        self.assertEqual(600.0, self.buckets.look("a", NOON + 600.0).clock)
        self.assertEqual(600.0, self.clock(600.0))

    def test_an_answer_tells_where_it_will_stand(self) -> None:
        first = self.buckets.contact(Hello("a", NOON, ""), NOON + 0.3)
        second = self.buckets.contact(Hello("a", first.time, first.epoch), NOON + 0.6)
        self.assertEqual([0.3, 0.6], [round(contact.clock, 6) for contact in (first, second)])
        self.assertEqual(0.3, round(self.buckets.look("b", NOON + 0.3 + SILENCE_SECONDS + 0.1).clock, 6))

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(-2.0, 10.0), st.sampled_from("abc")), max_size=40))
    def test_never_faster_than_time(self, talk: list[tuple[float, float, str]]) -> None:
        """Whatever is said, in any span the clock moves on by no more than the span, and never back."""
        buckets, now, before = SharedBuckets(), NOON, 0.0
        buckets.contact(Hello("a", NOON, ""), NOON)
        for wait, late, node in talk:
            now += wait
            told = buckets.contact(Hello(node, now - late, ""), now).clock
            clock = buckets.look(node, now + 60.0).clock  # where it stands if nobody is heard any more
            self.assertTrue(before <= clock <= told <= now - NOON + 1e-6, (before, clock, told, now - NOON))
            before = clock


class PresenceTests(BucketsCase):
    def test_counts(self) -> None:
        self.clock(0.0, node="a")
        self.clock(5.0, node="b")
        self.assertEqual(3, self.buckets.look("c", NOON + PRESENT_SECONDS).nodes)
        self.assertEqual(2, self.buckets.look("c", NOON + PRESENT_SECONDS + 0.1).nodes)


class ReportTests(BucketsCase):
    def test_refills_by_the_clock(self) -> None:
        """Not by the time of day: what passes in a silence is no token."""
        self.clock(0.0)
        self.buckets.report("a", after(PRO, 20), NOON)
        self.assertEqual(0.0, self.buckets.report("a", after(PRO, 20), NOON + 9.0).tokens)
        self.clock(0.5)
        self.assertEqual(5.0, self.buckets.report("a", after(PRO, 20), NOON + 9.0).tokens)

    def test_closed_for_the_least_wait(self) -> None:
        patient = evolve(PRO, min_wait_seconds=2.0)
        self.clock(0.0)
        self.assertEqual(2.0, self.buckets.report("a", after(patient, 20), NOON).wait_seconds)
        self.clock(0.5)
        balance = self.buckets.report("a", after(patient, 20), NOON)
        self.assertEqual((5.0, 1.5), (round(balance.tokens, 6), round(balance.wait_seconds, 6)))

    def test_what_a_silence_has_paid(self) -> None:
        """It does not come out of the bucket, nor above its rim."""
        self.clock(0.0)
        report = evolve(after(PRO, 30), granted=25.0)
        self.assertEqual((15.0, 30), self.buckets.report("a", report, NOON)[::2])
        self.assertEqual(20.0, self.buckets.report("a", evolve(report, granted=45.0), NOON).tokens)

    def test_the_deepest_debt(self) -> None:
        self.clock(0.0)
        report = evolve(after(PRO, 10_000), opening=-13.0)
        self.assertEqual(-33.0, self.buckets.report("a", report, NOON).tokens)

    def test_a_smaller_plan(self) -> None:
        self.clock(0.0)
        self.buckets.report("a", PRO, NOON)
        self.assertEqual(5.0, self.buckets.report("b", evolve(PRO, burst=5), NOON).tokens)

    def test_a_month_before_is_no_new_one(self) -> None:
        self.buckets.report("a", evolve(after(PRO, 9), month="2026-04"), NOON)
        balance = self.buckets.report("a", evolve(after(PRO, 11), month="2026-03"), NOON - 31 * 86_400)
        self.assertEqual((11, "2026-04"), balance[2:])

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.booleans(), st.floats(0.0, 0.9)), max_size=50)
    )
    def test_everything_is_taken_out_once(self, talk: list[tuple[str, int, bool, float]]) -> None:
        """Whichever answers get through, the bucket is that of one node which spends it all."""
        one, shared, time = SharedBuckets(), SharedBuckets(), NOON
        spent = dict.fromkeys("abc", 0)
        settled = dict.fromkeys("abc", 0)
        for node, more, heard, wait in talk:
            time += wait
            spent[node] += more
            for buckets in (one, shared):
                buckets.contact(Hello("a", time, ""), time)
            report = evolve(after(PRO, spent[node]), life=node, settled_spent=settled[node], opening=-1e9, known=0)
            balance = shared.report(node, report, time)
            total = evolve(after(PRO, sum(spent.values())), opening=-1e9, known=0)
            self.assertEqual(one.report("a", total, time), balance)
            if heard:
                settled[node] = spent[node]


class LossTests(BucketsCase):
    def test_who_is_new_knows_of_none(self) -> None:
        self.clock(0.0)
        self.assertEqual(20.0, self.buckets.report("a", evolve(PRO, opening=-13.0), NOON).tokens)

    def test_whoever_tells_of_it(self) -> None:
        """It need not be the node that comes first."""
        self.clock(0.0, node="new")
        self.buckets.contact(Hello("old", NOON, "other data"), NOON)
        self.assertEqual(-13.0, self.buckets.report("old", evolve(PRO, opening=-13.0), NOON).tokens)
