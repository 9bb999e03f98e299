"""How late the reactor is."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.counters import Counters
from tbeast.services.reactorlag import BEAT_SECONDS, WINDOW_SECONDS, ReactorLag


class ReactorLagTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.counters = Counters()
        self.lag = ReactorLag(self.clock, self.counters)
        self.heard: list[float] = []
        self.lag.listeners.append(self.heard.append)
        self.lag.startService()
        self.addCleanup(self.lag.stopService)

    def beats(self, seconds: float = WINDOW_SECONDS, late: float = 0.0) -> None:
        """Have beats come for so long, each so late."""
        began = self.clock.seconds()
        while self.clock.seconds() < began + seconds - 1e-9:
            self.clock.advance(BEAT_SECONDS + late)

    def test_in_time(self) -> None:
        self.beats()
        self.assertEqual(30, len(self.heard))
        self.assertTrue(all(abs(lag) < 1e-9 for lag in self.heard))
        self.assertAlmostEqual(0.0, self.lag.mean_ms)
        self.assertAlmostEqual(0.0, self.lag.max_ms)

    def test_late(self) -> None:
        self.beats(late=0.02)
        self.assertAlmostEqual(0.02, self.heard[-1])
        self.assertAlmostEqual(20.0, self.lag.mean_ms)

    def test_a_reactor_that_stands_still(self) -> None:
        """One beat comes late, and shows at once; the next one is in time again."""
        self.beats()
        self.clock.advance(BEAT_SECONDS + 5.0)
        self.clock.advance(BEAT_SECONDS)
        self.assertAlmostEqual(5.0, self.heard[-2])
        self.assertAlmostEqual(0.0, self.heard[-1])
        self.assertAlmostEqual(5000.0, self.lag.max_ms)

    def test_it_is_forgotten_with_its_window(self) -> None:
        self.beats()
        self.clock.advance(BEAT_SECONDS + 0.3)
        self.beats()
        self.assertAlmostEqual(300.0, self.lag.max_ms)  # the last whole window has it
        self.assertTrue(9.0 < self.lag.mean_ms < 11.0, self.lag.mean_ms)
        self.beats(2 * WINDOW_SECONDS + 2 * BEAT_SECONDS)
        self.assertAlmostEqual(0.0, self.lag.max_ms)
        self.assertAlmostEqual(0.0, self.lag.mean_ms)

    def test_nothing_is_known_before_the_first_beat(self) -> None:
        self.assertEqual((0.0, 0.0), (self.lag.mean_ms, self.lag.max_ms))

    def test_it_ends_and_begins_anew(self) -> None:
        self.clock.advance(BEAT_SECONDS + 1.0)
        self.lag.stopService()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.clock.advance(60.0)
        self.lag.startService()
        self.lag.startService()
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.clock.advance(BEAT_SECONDS)
        self.assertAlmostEqual(0.0, self.heard[-1])
        self.assertAlmostEqual(0.0, self.lag.max_ms)

    def test_a_listener_that_fails(self) -> None:
        """The others hear it, it is logged once, and counted each time."""
        self.lag.listeners.insert(0, lambda _: [][1])
        self.beats(3 * BEAT_SECONDS)
        self.assertEqual(3, len(self.heard))
        self.assertEqual(1, len(self.flushLoggedErrors(IndexError)))
        self.assertEqual(3, self.counters.value("service_failures", "reactor lag"))

    def test_a_listener_that_ends_it(self) -> None:
        self.lag.listeners.append(lambda _: self.lag.stopService())
        self.clock.advance(BEAT_SECONDS)
        self.assertEqual([], self.clock.getDelayedCalls())
