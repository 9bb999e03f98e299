"""Tests of L{tbeast.services.syncdesk}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.counters import Counters
from tbeast.domain.syncplan import Held
from tbeast.errors import StoreUnavailableError
from tbeast.services.sync import Progress, Summary, SyncLostError
from tbeast.services.syncdesk import DONE, FAILED, NEVER, RUNNING, SyncDesk, SyncState


class Job:
    """A job that goes on as the test says.

    @ivar ends: what ends it.
    """

    def __init__(self) -> None:
        self.ends: Deferred[Any] = Deferred()
        self.told: Callable[[Progress], object] = lambda progress: None
        self.full: list[bool] = []
        self.is_stopped = False

    async def run(
        self, full: bool = False, not_since: float | None = None, told: Callable[[Progress], object] = lambda _: None
    ) -> Summary | Held:
        assert not_since is None
        self.full.append(full)
        self.told = told
        found = await self.ends
        assert isinstance(found, Summary | Held)
        return found

    def stop(self) -> None:
        self.is_stopped = True
        self.ends.errback(SyncLostError("the sync job was told to stop"))


class SyncDeskTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.job = Job()
        self.time = 1000.0
        self.counters = Counters()
        self.desk = SyncDesk(self.job, "n1", lambda: self.time, self.counters)
        self.desk.startService()

    def test_before_anything(self) -> None:
        self.assertEqual(SyncState(NEVER), self.desk.state)
        self.assertIsNone(self.desk.stopService())

    def test_from_beginning_to_end(self) -> None:
        begun = self.desk.begin(full=True)
        self.assertNoResult(begun)
        self.job.told(Progress("tidying the database"))
        state = self.successResultOf(begun)
        self.assertEqual(SyncState(RUNNING, 1000.0, None, "tidying the database"), state)
        self.job.told(Progress("copying new usage", 500, 900))
        self.assertEqual((500, 900), (self.desk.state.done, self.desk.state.of))
        self.time += 7.0
        self.job.ends.callback(Summary(keys=3))
        self.assertEqual(
            (DONE, 1000.0, 1007.0, ""),
            (self.desk.state.state, self.desk.state.began_at, self.desk.state.ended_at, self.desk.state.step),
        )
        self.assertIn("keys 3", self.desk.state.outcome)
        self.assertEqual([True], self.job.full)

    def test_twice_at_once(self) -> None:
        self.desk.begin()
        self.job.told(Progress("copying keys"))
        self.assertEqual(Held("n1", False), self.successResultOf(self.desk.begin()))
        self.assertEqual([False], self.job.full)
        ends, self.job.ends = self.job.ends, Deferred()
        ends.callback(Summary())
        self.desk.begin()
        self.assertEqual(2, len(self.job.full))

    def test_another_node_does_it(self) -> None:
        begun = self.desk.begin()
        self.job.ends.callback(Held("n2", False))
        self.assertEqual(Held("n2", False), self.successResultOf(begun))
        self.assertEqual(SyncState(NEVER), self.desk.state)

    def test_the_database_is_away(self) -> None:
        begun = self.desk.begin()
        self.job.ends.errback(StoreUnavailableError("connection refused"))
        state = self.successResultOf(begun)
        assert isinstance(state, SyncState)
        self.assertEqual((FAILED, "connection refused"), (state.state, state.outcome))
        self.assertEqual(1, self.counters.value("service_failures", "sync"))

    def test_a_fault_of_ours(self) -> None:
        self.desk.begin()
        self.job.told(Progress("copying keys"))
        self.job.ends.errback(ZeroDivisionError("secret words"))
        self.assertEqual(FAILED, self.desk.state.state)
        self.assertNotIn("secret", self.desk.state.outcome)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_a_stop_waits_for_it(self) -> None:
        self.desk.begin()
        self.job.told(Progress("copying keys"))
        stopped = self.desk.stopService()
        assert stopped is not None
        self.successResultOf(stopped)
        self.assertTrue(self.job.is_stopped)
        self.assertEqual((FAILED, "the sync job was told to stop"), (self.desk.state.state, self.desk.state.outcome))
