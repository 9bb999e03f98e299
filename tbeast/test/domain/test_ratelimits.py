"""The token bucket."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.plans import PLANS
from tbeast.domain.ratelimits import NEARLY, TokenBucket

NOON = 1_776_003_781.123456
LIMITED = [plan for plan in PLANS.values() if plan.qps is not None]


def bucket_of(tier: str, now: float = NOON) -> TokenBucket:
    plan = PLANS[tier]
    assert plan.qps is not None and plan.burst is not None
    return TokenBucket(plan.qps, plan.burst, plan.min_wait_seconds, now)


tiers = st.sampled_from([plan.tier for plan in LIMITED])
gaps = st.lists(st.floats(0.0, 3.0) | st.floats(0.0, 0.05) | st.just(0.0), max_size=150)


class BucketTests(SynchronousTestCase):
    def test_burst(self) -> None:
        bucket = bucket_of("free")
        self.assertEqual([0.0] * 5, [bucket.take(NOON) for _ in range(5)])
        self.assertEqual((0, 5), (bucket.remaining, bucket.seconds_to_full))
        self.assertAlmostEqual(1.0, bucket.take(NOON), 5)

    def test_refill(self) -> None:
        bucket = bucket_of("pro")
        for _ in range(20):
            bucket.take(NOON)
        self.assertEqual([0.0] * 10, [bucket.take(NOON + 1.0) for _ in range(10)])
        self.assertGreater(bucket.take(NOON + 1.0), 0.0)
        bucket.take(NOON + 1e6)
        self.assertEqual(19, bucket.remaining)

    def test_refusals_cost_nothing(self) -> None:
        """Whoever hammers an empty bucket is admitted at the same moment as one who waits."""
        bucket = bucket_of("free")
        for _ in range(5):
            bucket.take(NOON)
        for step in range(1, 100):
            self.assertGreater(bucket.take(NOON + step / 101.0), 0.0)
        self.assertEqual(0.0, bucket.take(NOON + 1.0))

    def test_minimum_wait(self) -> None:
        """Emptied with most of a token left over, the bucket is closed although a token comes back sooner."""
        bucket = TokenBucket(1.0, 2, 1.0, NOON)
        bucket.take(NOON)
        self.assertEqual(0.0, bucket.take(NOON + 0.9))  # leaves 0.9
        self.assertAlmostEqual(0.8, bucket.take(NOON + 1.1), 5)
        self.assertEqual(0.0, bucket.take(NOON + 1.9))

    def test_no_wait_while_there_are_tokens(self) -> None:
        bucket = bucket_of("free")
        self.assertEqual([0.0, 0.0], [bucket.take(NOON), bucket.take(NOON + 0.001)])

    def test_exact_rate(self) -> None:
        """Whoever asks at exactly the rate is never refused."""
        for plan in LIMITED:
            bucket = bucket_of(plan.tier)
            while bucket.remaining:
                bucket.take(NOON)
            refused = [n for n in range(1, 2000) if bucket.take(NOON + n / (plan.qps or 1.0))]
            self.assertEqual([], refused, plan.tier)

    def test_clock_that_goes_back(self) -> None:
        """It gives nothing and takes nothing; the bucket goes on from there."""
        bucket = bucket_of("free")
        for _ in range(3):
            bucket.take(NOON)
        self.assertEqual([0.0, 0.0], [bucket.take(NOON - 3600.0) for _ in range(2)])
        self.assertAlmostEqual(1.0, bucket.take(NOON - 3600.0), 5)
        self.assertEqual(0.0, bucket.take(NOON - 3598.9))

    @settings(max_examples=150, deadline=None)
    @given(tiers, gaps)
    def test_never_more_than_the_contract(self, tier: str, spans: list[float]) -> None:
        """In every window of every length: at most burst + qps * t."""
        bucket, now, admitted = bucket_of(tier), NOON, []
        for span in spans:
            now += span
            if bucket.take(now) == 0.0:
                admitted.append(now)
        for first, begin in enumerate(admitted):
            for last in range(first, len(admitted)):
                allowed = bucket.burst + bucket.qps * (admitted[last] - begin)
                self.assertLessEqual(last - first + 1, allowed + 0.001)

    @settings(max_examples=150, deadline=None)
    @given(tiers, gaps)
    def test_a_promise_is_kept(self, tier: str, spans: list[float]) -> None:
        """Whoever comes back when told is admitted; who comes clearly before is not."""
        bucket, now = bucket_of(tier), NOON
        for span in spans:
            now += span
            wait = bucket.take(now)
            if wait > 0.0:
                if wait * 0.1 * bucket.qps > NEARLY:  # else what is missing then is lent
                    self.assertGreater(bucket.take(now + wait * 0.9), 0.0)
                now += wait
                self.assertEqual(0.0, bucket.take(now))

    @settings(max_examples=150, deadline=None)
    @given(tiers, gaps)
    def test_minimum_gap_when_empty(self, tier: str, spans: list[float]) -> None:
        """After a question that emptied the bucket, none is admitted within the minimum wait."""
        bucket, now, closed_until = bucket_of(tier), NOON, 0.0
        for span in spans:
            now += span
            if bucket.take(now) == 0.0:
                self.assertGreaterEqual(now, closed_until - 1e-5)
                closed_until = now + bucket.min_wait_seconds if bucket.remaining == 0 else 0.0

    @settings(max_examples=100, deadline=None)
    @given(tiers, st.lists(st.floats(-1000.0, 1000.0), max_size=60))
    def test_any_clock(self, tier: str, steps: list[float]) -> None:
        """What it holds stays within its bounds, and a refusal always names a time."""
        bucket, now = bucket_of(tier), NOON
        for step in steps:
            now += step
            wait = bucket.take(now)
            self.assertTrue(0.0 <= wait <= bucket.burst / bucket.qps + bucket.min_wait_seconds)
            self.assertTrue(0 <= bucket.remaining <= bucket.burst)
