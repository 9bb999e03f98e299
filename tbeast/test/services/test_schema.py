"""The look at the database's schema."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.counters import Counters
from tbeast.errors import MigrationError, StoreUnavailableError
from tbeast.services.schema import AGAIN_SECONDS, Schema
from tbeast.testing.logs import listen


class SchemaTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.outcomes: list[Exception | Sequence[str]] = []
        self.asked = 0
        self.schema = Schema(self.bring_up, self.clock, Counters())
        self.called: list[str] = []
        self.schema.when_good(lambda: self.called.append("early"))

    async def bring_up(self) -> Sequence[str]:
        self.asked += 1
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def start(self, *outcomes: Exception | Sequence[str]) -> None:
        self.outcomes.extend(outcomes)
        self.assertIsNone(self.successResultOf(self.schema.startService()))

    def test_good(self) -> None:
        self.start(["0001_ground"])
        self.schema.when_good(lambda: self.called.append("late"))
        self.assertEqual((True, "", ["early", "late"]), (self.schema.is_good, self.schema.why, self.called))
        self.clock.advance(60)
        self.assertEqual(1, self.asked)

    def test_away_at_the_start(self) -> None:
        """The start goes on; it is asked until it answers, and then no more; the log says it once."""
        lines = listen(self)
        self.start(StoreUnavailableError("refused"))
        self.assertEqual((False, "refused", []), (self.schema.is_good, self.schema.why, self.called))
        self.outcomes += [StoreUnavailableError("refused"), MigrationError("too new"), []]
        self.clock.advance(AGAIN_SECONDS)
        self.clock.advance(AGAIN_SECONDS)
        self.assertEqual("too new", self.schema.why)
        self.clock.advance(AGAIN_SECONDS)
        self.assertEqual((True, "", ["early"]), (self.schema.is_good, self.schema.why, self.called))
        self.assertEqual(2, len(lines.having("could not be looked at")))
        self.clock.advance(60)
        self.assertEqual(4, self.asked)

    def test_one_that_will_not_do(self) -> None:
        """Ends the start."""
        self.outcomes.append(MigrationError("too new"))
        self.failureResultOf(self.schema.startService(), MigrationError)

    def test_stop(self) -> None:
        self.start(StoreUnavailableError("refused"))
        self.schema.stopService()
        self.clock.advance(60)
        self.assertEqual(1, self.asked)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_what_waited_and_failed(self) -> None:
        """Holds up nobody else."""
        self.schema.when_good(lambda: 1 / 0)
        self.schema.when_good(lambda: self.called.append("after"))
        self.start([])
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(["early", "after"], self.called)
