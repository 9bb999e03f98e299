"""The two loops, over askers of a model: a server that takes its time, stalls, or fails, on a clock that is turned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest import phases
from tbeast.loadtest.arrivals import arrivals
from tbeast.loadtest.askers import Askers
from tbeast.loadtest.phases import closed_loop, open_loop
from tbeast.loadtest.tally import Tally

TIMEOUT = 2.0
COST = 0.000_002
"""Of asking, in seconds: time goes on while the generator works."""


class ModelAskers(Askers[int]):
    """Askers of a server that answers each question after a time of its own.

    @ivar time: what the clock says.
    @ivar takes: for the moment when a question is sent: seconds until its answer; C{None}: it fails.
    @ivar away: begin and length of times in which the generator itself is held up.
    """

    def __init__(self, askers: int, takes: Callable[[float], float | None]) -> None:
        super().__init__(self.now, TIMEOUT)
        self.time = 0.0
        self.takes = takes
        self.away: list[tuple[float, float]] = []
        self._coming: list[tuple[float, int, float]] = []
        self.idle.extend(range(askers))
        self.asked_at: list[float] = []

    def now(self) -> float:
        return self.time

    def gather(self, askers: int, sockets: int, until: float) -> None:
        raise NotImplementedError

    def connections(self) -> int:
        return 0

    def ask(self, asker: int, due: float, now: float) -> None:
        self.time += COST
        self.tally.asked += 1
        self.asked_at.append(self.time)
        takes = self.takes(self.time)
        if takes is None:
            self.tally.fail("refused")
            self.idle.append(asker)
            return
        self.under_way += 1
        heappush(self._coming, (self.time + takes, asker, due))

    def turn(self, wait: float) -> None:
        until = self.time + max(0.0, wait)
        if self._coming:
            until = max(self.time, min(until, self._coming[0][0]))
        self.tally.waited += until - self.time
        self.time = until
        for place, (begin, length) in enumerate(self.away):
            if self.time >= begin:
                self.time += length
                del self.away[place]
                break
        while self._coming and self._coming[0][0] <= self.time:
            _, asker, due = heappop(self._coming)
            self.under_way -= 1
            self.count(due, self.time)
            self.free(asker, self.time)

    def tidy(self, now: float) -> None:
        pass


def never(_: float) -> bool:
    return False


def evenly(rate: float, seconds: float) -> Iterator[float]:
    return (place / rate for place in range(int(rate * seconds)))


def stalling(at: float) -> float:
    """A millisecond, but whatever is sent from 0.5 s on is answered at 1.0 s."""
    return 1.0 - at + 0.001 if 0.5 <= at < 1.0 else 0.001


class LoopTests(SynchronousTestCase):
    def askers(self, count: int, takes: Callable[[float], float | None]) -> ModelAskers:
        made = ModelAskers(count, takes)
        self.addCleanup(made.close)
        return made

    def assertSound(self, tally: Tally) -> None:
        self.assertEqual(tally.asked, tally.ok + tally.failed)
        self.assertEqual(tally.latency.total, tally.ok)

    def test_a_closed_loop_finds_the_rate(self) -> None:
        tally = closed_loop(self.askers(10, lambda _: 0.01), 2.0, never)
        self.assertSound(tally)
        self.assertApproximates(tally.rate, 1000.0, 20.0)
        self.assertApproximates(tally.latency.at(0.5), 10_000, 30)
        self.assertEqual((tally.errors, tally.lag.total), ({}, 0))

    def test_the_first_lap_is_not_of_the_rate(self) -> None:
        """The first answer to each asker takes long, as when many ask at once."""
        tally = closed_loop(self.askers(100, lambda at: 0.5 if at < 0.4 else 0.1), 2.0, never)
        self.assertSound(tally)
        self.assertApproximates(tally.rate, 1000.0, 70.0)
        self.assertLess(tally.elapsed, 1.6)

    def test_a_lap_that_is_not_over_in_half_of_the_time(self) -> None:
        tally = closed_loop(self.askers(10, lambda _: 0.8), 1.0, never)
        self.assertSound(tally)
        self.assertEqual((tally.ok, tally.in_time), (20, 10))
        self.assertApproximates(tally.elapsed, 1.0, 0.01)

    def test_what_is_under_way_at_the_end_is_waited_for(self) -> None:
        tally = closed_loop(self.askers(3, lambda _: 0.7), 1.0, never)
        self.assertEqual((tally.asked, tally.ok, tally.failed), (6, 6, 0))

    def test_who_fails_rests(self) -> None:
        askers = self.askers(5, lambda _: None)
        tally = closed_loop(askers, 1.0, never)
        self.assertSound(tally)
        self.assertEqual(tally.ok, 0)
        # each once at every tidying
        self.assertTrue(5 <= tally.asked <= 5 * (1.0 / phases.TIDY_SECONDS + 2), tally.asked)

    def test_an_open_loop_asks_at_its_moments_whatever_comes_back(self) -> None:
        askers = self.askers(1000, stalling)
        tally = open_loop(askers, evenly(1000.0, 2.0), 2.0, never)
        self.assertSound(tally)
        self.assertEqual(tally.asked, 2000)
        self.assertEqual(tally.lag.total, 2000)
        for place, at in enumerate(askers.asked_at):
            self.assertApproximates(at, place / 1000.0, 0.001)

    def test_a_stall_costs_all_whose_questions_fell_into_it(self) -> None:
        """Half a second of two: a quarter of the askers wait. The closed loop sees one slow answer to each asker."""
        steady = open_loop(self.askers(10, stalling), evenly(1000.0, 2.0), 2.0, never)
        self.assertSound(steady)
        slow = sum(count for edge, count in steady.latency.counts.items() if edge > 50_000)
        self.assertTrue(440 <= slow <= 520, slow)
        self.assertTrue(200_000 <= steady.latency.at(0.9) <= 350_000, steady.latency.at(0.9))
        self.assertApproximates(steady.latency.greatest, 501_000, 5_000)
        closed = closed_loop(self.askers(10, stalling), 2.0, never)
        self.assertLess(closed.latency.at(0.999), 2_000)
        self.assertEqual(sum(count for edge, count in closed.latency.counts.items() if edge > 50_000), 10)

    def test_the_generators_own_lag_is_told_and_is_part_of_the_latencies(self) -> None:
        askers = self.askers(100, lambda _: 0.001)
        askers.away.append((0.5, 0.3))
        tally = open_loop(askers, evenly(1000.0, 2.0), 2.0, never)
        self.assertSound(tally)
        self.assertTrue(290_000 <= tally.lag.greatest <= 302_000, tally.lag.greatest)
        late = sum(count for edge, count in tally.lag.counts.items() if edge > 10_000)
        self.assertTrue(280 <= late <= 300, late)
        self.assertGreaterEqual(tally.latency.greatest, tally.lag.greatest)
        quiet = open_loop(self.askers(100, lambda _: 0.001), evenly(1000.0, 2.0), 2.0, never)
        self.assertLess(quiet.lag.greatest, 1_000)

    def test_waiting_for_somebody_idle_is_not_the_generators_lag(self) -> None:
        tally = open_loop(self.askers(1, lambda _: 0.1), evenly(20.0, 2.0), 2.0, never)
        self.assertSound(tally)
        self.assertLess(tally.lag.greatest, 1_000)
        self.assertGreater(tally.latency.greatest, 1_500_000)

    def test_what_nobody_had_time_for_has_failed(self) -> None:
        tally = open_loop(self.askers(1, lambda _: 1.0), evenly(20.0, 1.0), 1.0, never)
        self.assertSound(tally)
        self.assertEqual(tally.asked, 20)
        self.assertEqual(tally.errors, {"never sent": 20 - tally.ok})
        self.assertLess(tally.ok, 6)

    def test_what_waits_is_bounded(self) -> None:
        self.patch(phases, "MOST_WAITING", 5)
        tally = open_loop(self.askers(1, lambda _: 1.5), evenly(20.0, 1.0), 1.0, never)
        self.assertSound(tally)
        self.assertEqual(tally.asked, 20)
        self.assertGreaterEqual(tally.errors["never sent"], 14)

    def test_no_arrivals(self) -> None:
        tally = open_loop(self.askers(1, lambda _: 1.0), iter(()), 0.5, never)
        self.assertEqual((tally.asked, tally.rate), (0, 0.0))
        self.assertApproximates(tally.elapsed, 0.5, 0.2)

    def test_an_interruption_ends_both_and_leaves_out_what_is_under_way(self) -> None:
        for loop in (
            lambda askers, stop: closed_loop(askers, 60.0, stop),
            lambda askers, stop: open_loop(askers, evenly(100.0, 60.0), 60.0, stop),
        ):
            askers = self.askers(4, lambda at: 0.01 if at < 0.9 else 100.0)
            tally = loop(askers, lambda now: now >= 1.0)
            self.assertTrue(tally.interrupted)
            self.assertSound(tally)
            self.assertLess(askers.time, 1.5)
            self.assertGreater(tally.ok, 80)

    @given(st.integers(0, 1 << 20), st.integers(1, 8), st.floats(10.0, 2000.0), st.floats(0.0, 0.3))
    @settings(deadline=None, max_examples=40)
    def test_every_question_has_one_outcome(self, seed: int, count: int, rate: float, failing: float) -> None:
        chance = Random(seed)
        askers = ModelAskers(count, lambda _: None if chance.random() < failing else chance.random() * 0.02)
        try:
            for tally in (
                closed_loop(askers, 0.3, never),
                open_loop(askers, arrivals(rate, 0.3, Random(seed).random), 0.3, never),
            ):
                self.assertSound(tally)
                self.assertLessEqual(tally.in_time, tally.ok)
                self.assertTrue(0.0 <= tally.busy <= 1.0)
            expected = sum(1 for _ in arrivals(rate, 0.3, Random(seed).random))
            self.assertEqual(tally.lag.total, expected)
        finally:
            askers.close()
