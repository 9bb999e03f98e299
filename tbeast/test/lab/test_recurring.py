from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.lab.recurring import Recurring


class RecurringTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.times: list[float] = []

    def test_even_rhythm(self) -> None:
        Recurring(self.clock, 0.5, lambda: self.times.append(self.clock.seconds())).start()
        self.clock.pump([0.25] * 8)
        self.assertEqual(self.times, [0.5, 1.0, 1.5, 2.0])

    def test_delay_is_not_made_up_for(self) -> None:
        Recurring(self.clock, 0.5, lambda: self.times.append(self.clock.seconds())).start()
        self.clock.advance(10.0)
        self.clock.advance(0.0)
        self.clock.advance(0.5)
        self.assertEqual(self.times, [10.0, 10.0, 10.5])

    def test_failure_is_logged_and_the_rhythm_goes_on(self) -> None:
        def stumble() -> None:
            self.times.append(self.clock.seconds())
            raise RuntimeError("stumbled")

        Recurring(self.clock, 1.0, stumble).start()
        self.clock.pump([1.0] * 3)
        self.assertEqual(len(self.times), 3)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 3)

    def test_stop(self) -> None:
        recurring = Recurring(self.clock, 1.0, lambda: self.times.append(0.0))
        recurring.start()
        recurring.stop()
        recurring.stop()
        self.clock.advance(5.0)
        self.assertEqual(self.times, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
