"""Tallies and what they add up to."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest.orders import Done, event_decoder, line_of
from tbeast.loadtest.tally import Tally, together


def tally(ok: int, elapsed: float, waited: float, **errors: int) -> Tally:
    made = Tally(asked=ok + sum(errors.values()), ok=ok, in_time=ok, elapsed=elapsed, waited=waited, connections=3)
    made.latency.add([0.001] * ok)
    made.lag.add([0.0001] * ok)
    for reason, count in errors.items():
        made.fail(reason, count)
    return made


class TallyTests(SynchronousTestCase):
    def test_rate_and_busy(self) -> None:
        one = tally(1000, 2.0, 0.5)
        self.assertEqual((one.rate, one.busy), (500.0, 0.75))
        self.assertEqual((Tally().rate, Tally().busy), (0.0, 0.0))

    def test_side_by_side(self) -> None:
        both = together([tally(1000, 2.0, 0.5, lost=2), tally(500, 2.0, 1.5, lost=1, reset=4)])
        self.assertEqual((both.rate, both.busy), (750.0, 0.5))
        self.assertEqual(both.errors, {"lost": 3, "reset": 4})
        self.assertEqual((both.asked, both.ok + both.failed), (1507, 1507))
        self.assertEqual((both.latency.total, both.lag.total, both.connections), (1500, 1500, 6))
        self.assertFalse(both.interrupted)
        self.assertTrue(together([tally(1, 1.0, 1.0), Tally(interrupted=True)]).interrupted)

    def test_it_goes_over_a_pipe(self) -> None:
        said = tally(10, 1.0, 0.25, **{"status 429": 3})
        line = line_of(Done(said))
        self.assertTrue(line.endswith(b"\n") and line.count(b"\n") == 1)
        heard = event_decoder.decode(line)
        assert isinstance(heard, Done)
        self.assertEqual(heard.tally, said)
