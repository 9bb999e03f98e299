"""Reports: their figures, when the generator was the limit, and that they can be read again."""

from __future__ import annotations

import json

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest.report import limit_of, part_of, read_report, success_of
from tbeast.loadtest.tally import Tally
from tbeast.test.loadtest.samples import report, result, tally


class PartTests(SynchronousTestCase):
    def test_figures(self) -> None:
        made = tally(990, 0.002, lost=10)
        made.latency.add([0.05])
        part = part_of(made, 1000.0)
        self.assertEqual(
            (part.asked, part.ok, part.errors, part.rate, part.seconds), (1000, 990, {"lost": 10}, 990.0, 1.0)
        )
        self.assertEqual((part.latency.count, part.latency.greatest), (991, 50.0))
        self.assertTrue(2.0 <= part.latency.p50 <= part.latency.p99 <= 2.004 < part.latency.p999)
        self.assertEqual(sum(part.histogram.values()), 991)
        assert part.lag is not None
        self.assertTrue(0.049 <= part.lag.p99 <= 0.051)

    def test_a_closed_loop_has_no_lag(self) -> None:
        part = part_of(tally())
        self.assertEqual((part.lag, part.rate_asked, part.generator_limited), (None, None, ""))

    def test_success_is_never_rounded_up(self) -> None:
        self.assertEqual(success_of([tally(1000), tally(1000)]), 100.0)
        self.assertLess(success_of([Tally(asked=100_000_000, ok=100_000_000), Tally(asked=1)]), 100.0)
        self.assertEqual(success_of([tally(1, lost=2)]), 33.33333)
        self.assertEqual(success_of([]), 0.0)


class LimitTests(SynchronousTestCase):
    def test_no_limit(self) -> None:
        self.assertEqual(limit_of(tally(), None), "")
        self.assertEqual(limit_of(tally(), 1000.0), "")

    def test_no_time_left(self) -> None:
        self.assertIn("busy 97 % of the time", limit_of(tally(busy=0.97), None))

    def test_late_by_itself(self) -> None:
        words = limit_of(tally(latency=0.002, lag=0.0006), 1000.0)
        self.assertIn("late by 0.6", words)
        self.assertEqual(limit_of(tally(latency=0.002, lag=0.0004), 1000.0), "")

    def test_less_than_was_due(self) -> None:
        self.assertIn("it saw 1,000 of 2,000 questions a second become due", limit_of(tally(), 2000.0))
        # chance makes a few fewer or more
        self.assertEqual(limit_of(tally(), 1050.0), "")
        # so does an interruption
        made = tally()
        made.interrupted = True
        self.assertEqual(limit_of(made, 2000.0), "")


class JsonTests(SynchronousTestCase):
    def test_it_is_read_again(self) -> None:
        said = report(
            result("tcp", 1, 1),
            result("tcp", 2, 50, wanted=100, reached=False, success=99.5, connecting={"refused": 1}),
            result("udp", 1, 1, open=None, closed=None, interrupted=True),
            notes=("One was cut.",), interrupted=True,
        )  # fmt: skip
        self.assertEqual(read_report(said.json()), said)

    def test_what_others_find_in_it(self) -> None:
        read = json.loads(report(result()).json())
        self.assertEqual((read["version"], read["reached"], read["goal"]), (1, True, 99.9))
        (level,) = read["levels"]
        self.assertEqual(
            sorted(level),
            ["askers", "closed", "connecting", "interrupted", "number", "open", "protocol", "reached", "sockets",
                "success", "wanted"],
        )  # fmt: skip
        self.assertEqual(sorted(level["open"]["latency"]), ["count", "greatest", "mean", "p50", "p90", "p99", "p999"])
        self.assertEqual(level["open"]["rate_asked"], 1000.0)
        self.assertIsNone(level["closed"]["rate_asked"])

    def test_what_is_none(self) -> None:
        for data in (b"{}", b"[]", b"", report().json().replace(b'"levels": []', b'"levels": [1]')):
            self.assertRaises((msgspec.ValidationError, msgspec.DecodeError), read_report, data)
