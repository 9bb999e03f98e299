"""Tests of L{tbeast.services.periodic}."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.counters import Counters
from tbeast.services.periodic import Periodic


class PeriodicTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.counters = Counters()
        self.rounds: list[float] = []
        self.result: Any = None

    def make(self, every_seconds: float = 10.0, at_once: bool = False) -> Periodic:
        def call() -> Any:
            self.rounds.append(self.clock.seconds())
            if isinstance(self.result, Exception):
                raise self.result
            return self.result

        service = Periodic("flush", call, every_seconds, self.clock, self.counters, at_once)
        service.startService()
        self.addCleanup(service.stopService)
        return service

    def test_calls_every_so_many_seconds(self) -> None:
        self.make()
        self.clock.pump([10.0] * 3)
        self.assertEqual(self.rounds, [10.0, 20.0, 30.0])

    def test_may_begin_at_once(self) -> None:
        self.make(at_once=True)
        self.clock.pump([0.0, 10.0])
        self.assertEqual(self.rounds, [0.0, 10.0])

    def test_goes_on_after_an_exception_and_counts_it(self) -> None:
        self.make()
        self.result = ZeroDivisionError("no")
        self.clock.pump([10.0] * 3)
        self.assertEqual(len(self.rounds), 3)
        self.assertEqual(self.counters.value("service_failures", "flush"), 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)  # one line for the whole bad time

    def test_a_second_bad_time_is_logged_again(self) -> None:
        self.make()
        for result in (ZeroDivisionError(), None, ZeroDivisionError()):
            self.result = result
            self.clock.advance(10.0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_a_failed_deferred_is_a_failure(self) -> None:
        self.make()
        self.result = Deferred()
        self.clock.advance(10.0)
        self.result.errback(ZeroDivisionError())
        self.assertEqual(self.counters.value("service_failures", "flush"), 1)
        self.flushLoggedErrors(ZeroDivisionError)
        self.result = None
        self.clock.advance(10.0)
        self.assertEqual(len(self.rounds), 2)

    def test_waits_for_a_coroutine(self) -> None:
        gate: Deferred[None] = Deferred()

        async def work() -> None:
            await gate

        self.make()
        self.result = work()
        self.clock.pump([10.0, 10.0, 5.0])
        self.assertEqual(self.rounds, [10.0])
        self.result = None
        gate.callback(None)
        self.clock.pump([4.0, 1.0])
        self.assertEqual(self.rounds, [10.0, 30.0])  # back on the beat, the missed one left out

    def test_stop_leaves_nothing_behind(self) -> None:
        service = self.make()
        self.clock.advance(10.0)
        self.assertIsNone(service.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(100.0)
        self.assertEqual(self.rounds, [10.0])

    def test_stop_waits_for_the_round_under_way(self) -> None:
        service = self.make()
        self.result = Deferred()
        self.clock.advance(10.0)
        stopped = service.stopService()
        assert stopped is not None
        self.assertNoResult(stopped)
        self.result.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_starts_again_even_while_the_old_round_goes_on(self) -> None:
        service = self.make()
        first: Deferred[None] = Deferred()
        self.result = first
        self.clock.advance(10.0)
        stopped = service.stopService()
        service.startService()
        self.clock.advance(25.0)
        self.assertEqual(len(self.rounds), 1)
        self.result = None
        first.callback(None)
        assert stopped is not None
        self.successResultOf(stopped)
        self.clock.advance(5.0)
        self.assertEqual(self.rounds, [10.0, 40.0])

    def test_another_period(self) -> None:
        """Takes effect at once, in the middle of a wait too, and before the start."""
        service = self.make(every_seconds=100.0)
        self.clock.advance(15.0)
        service.set_every(10.0)
        self.clock.pump([5.0, 10.0])
        self.assertEqual(self.rounds, [20.0, 30.0])
        service.set_every(50.0)
        self.clock.pump([10.0, 10.0])
        self.assertEqual(self.rounds, [20.0, 30.0, 50.0])
        service.stopService()
        service.set_every(1.0)
        self.clock.pump([10.0] * 3)
        self.assertEqual(len(self.rounds), 3)

    def test_times_that_floats_cannot_hold(self) -> None:
        """No beat comes twice because of the last digit of a float."""
        self.make(every_seconds=0.1)
        for _ in range(1000):
            self.clock.advance(0.01)
        self.assertIn(len(self.rounds), (99, 100))
        self.assertTrue(all(later - earlier > 0.05 for earlier, later in pairwise(self.rounds)))
