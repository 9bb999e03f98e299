from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tbeast.lab.limits import Allowance, Bucket
from tbeast.lab.stamps import go_text, milliseconds, rfc3339


class BucketTests(SynchronousTestCase):
    def test_burst_then_rate(self) -> None:
        bucket = Bucket(Allowance(10, 1.0, burst=3))
        self.assertEqual([bucket.wait(100.0) for _ in range(3)], [0.0] * 3)
        self.assertAlmostEqual(bucket.wait(100.0), 0.1)
        self.assertEqual(bucket.wait(100.11), 0.0)
        self.assertGreater(bucket.wait(100.11), 0.0)

    def test_never_more_than_the_burst(self) -> None:
        bucket = Bucket(Allowance(2, 1.0))
        self.assertEqual([bool(bucket.wait(1e9)) for _ in range(3)], [False, False, True])
        self.assertEqual(bucket.left, 0)

    def test_a_clock_that_goes_back_gives_nothing(self) -> None:
        bucket = Bucket(Allowance(1, 1.0))
        self.assertEqual(bucket.wait(100.0), 0.0)
        self.assertGreater(bucket.wait(50.0), 0.0)

    def test_ban(self) -> None:
        bucket = Bucket(Allowance(1, 1.0, ban_seconds=600.0))
        self.assertEqual(bucket.wait(10.0), 0.0)
        self.assertEqual(bucket.wait(10.0), 600.0)
        self.assertEqual(bucket.wait(310.0), 300.0)
        self.assertEqual(bucket.wait(610.0), 0.0)


class StampTests(SynchronousTestCase):
    def test_rfc3339(self) -> None:
        self.assertEqual(rfc3339(1786309548.25, 6), "2026-08-09T21:05:48.250000Z")
        self.assertEqual(rfc3339(1786309548.0, 9), "2026-08-09T21:05:48.000000000Z")
        self.assertEqual(len(rfc3339(1786309548.9999999, 9)), len("2026-08-09T21:05:48.250000000Z"))

    def test_others(self) -> None:
        self.assertEqual(go_text(1786309548.5, 12.25), "2026-08-09 21:05:48.500000000 +0000 UTC m=+12.250000000")
        self.assertEqual(milliseconds(1786309548.25), 1786309548250)
