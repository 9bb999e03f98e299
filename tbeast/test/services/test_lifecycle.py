"""Tests of L{tbeast.services.lifecycle}."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.services.lifecycle import OrderedServices, StopTimeoutError


class Child(Service):
    """Writes down what is asked of it, and answers what the test has laid ready."""

    def __init__(self, name: str, story: list[str], starts: Any = None, stops: Any = None) -> None:
        self.setName(name)
        self.story = story
        self.starts = starts
        self.stops = stops

    def startService(self) -> Any:
        super().startService()
        self.story.append(f"start {self.name}")
        return answer(self.starts)

    def stopService(self) -> Any:
        super().stopService()
        self.story.append(f"stop {self.name}")
        return answer(self.stops)


def answer(laid_ready: Any) -> Any:
    if isinstance(laid_ready, Exception):
        raise laid_ready
    return laid_ready


class OrderedServicesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.story: list[str] = []
        self.parent = OrderedServices(self.clock, stop_limit_seconds=10.0)

    def add(self, name: str, starts: Any = None, stops: Any = None) -> Child:
        child = Child(name, self.story, starts, stops)
        child.setServiceParent(self.parent)
        return child

    def test_starts_in_order_and_stops_in_reverse(self) -> None:
        for name in "abc":
            self.add(name)
        self.successResultOf(self.parent.startService())
        self.successResultOf(self.parent.stopService())
        self.assertEqual(self.story, ["start a", "start b", "start c", "stop c", "stop b", "stop a"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_each_waits_for_the_one_before_it(self) -> None:
        gate: Deferred[None] = Deferred()
        another: Deferred[None] = Deferred()

        async def slowly() -> None:
            await another

        self.add("a", starts=gate)
        self.add("b", starts=slowly())
        self.add("c")
        started = self.parent.startService()
        self.assertEqual(self.story, ["start a"])
        gate.callback(None)
        self.assertEqual(self.story, ["start a", "start b"])
        self.assertNoResult(started)
        another.callback(None)
        self.assertEqual(self.story, ["start a", "start b", "start c"])
        self.successResultOf(started)

    def test_each_stop_waits_for_the_one_after_it(self) -> None:
        gate: Deferred[None] = Deferred()
        self.add("a")
        self.add("b", stops=gate)
        self.parent.startService()
        stopped = self.parent.stopService()
        self.assertNotIn("stop a", self.story)
        self.assertNoResult(stopped)
        gate.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.story[-1], "stop a")

    def test_a_child_that_cannot_start_ends_the_start(self) -> None:
        self.add("a")
        self.add("b")
        self.add("c", starts=ZeroDivisionError("no"))
        self.add("d")
        self.failureResultOf(self.parent.startService(), ZeroDivisionError)
        self.assertEqual(
            self.story, ["start a", "start b", "start c", "stop c", "stop b", "stop a"], "c had begun to run"
        )
        self.assertFalse(self.parent.running)
        self.assertEqual(self.flushLoggedErrors(), [], "no traceback: who is told the error decides on that")

    def test_one_that_fails_later_ends_the_start_too(self) -> None:
        gate: Deferred[None] = Deferred()
        self.add("a")
        self.add("b", starts=gate)
        started = self.parent.startService()
        gate.errback(ZeroDivisionError())
        self.failureResultOf(started, ZeroDivisionError)
        self.assertEqual(self.story[-1], "stop a")
        self.flushLoggedErrors(ZeroDivisionError)

    def test_one_that_never_ran_is_not_stopped(self) -> None:
        class Stillborn(Child):
            def startService(self) -> Any:
                raise ZeroDivisionError

        self.add("a")
        Stillborn("b", self.story).setServiceParent(self.parent)
        self.failureResultOf(self.parent.startService(), ZeroDivisionError)
        self.assertEqual(self.story, ["start a", "stop a"])
        self.flushLoggedErrors(ZeroDivisionError)

    def test_the_failure_of_one_stop_does_not_keep_the_others(self) -> None:
        self.add("a")
        self.add("b", stops=ZeroDivisionError())
        self.add("c")
        self.parent.startService()
        self.successResultOf(self.parent.stopService())
        self.assertEqual(self.story[-3:], ["stop c", "stop b", "stop a"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_no_stop_is_waited_for_longer_than_the_limit(self) -> None:
        endless: Deferred[None] = Deferred()
        self.add("a")
        self.add("b", stops=endless)
        self.parent.startService()
        stopped = self.parent.stopService()
        self.clock.advance(9.9)
        self.assertNoResult(stopped)
        self.clock.advance(0.1)
        self.successResultOf(stopped)
        self.assertEqual(self.story[-1], "stop a")
        self.assertEqual(len(self.flushLoggedErrors(StopTimeoutError)), 1)
        endless.errback(ZeroDivisionError())  # too late for anything but the log
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_stop_in_the_middle_of_the_start(self) -> None:
        cancelled: list[object] = []
        self.add("a")
        self.add("b", starts=Deferred(cancelled.append))
        self.add("c")
        started = self.parent.startService()
        self.successResultOf(self.parent.stopService())
        self.failureResultOf(started, CancelledError)
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.story, ["start a", "start b", "stop b", "stop a"])

    def test_a_stop_while_a_failed_start_is_being_undone(self) -> None:
        gate: Deferred[None] = Deferred()
        self.add("a", stops=gate)
        self.add("b", starts=ZeroDivisionError())
        started = self.parent.startService()
        stopped = self.parent.stopService()
        self.assertNoResult(started)
        self.assertNoResult(stopped)
        gate.callback(None)
        self.successResultOf(stopped)
        self.failureResultOf(started, ZeroDivisionError)
        self.assertEqual(self.story.count("stop a"), 1)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_two_stops_are_one(self) -> None:
        gate: Deferred[None] = Deferred()
        self.add("a", stops=gate)
        self.parent.startService()
        first, second = self.parent.stopService(), self.parent.stopService()
        gate.callback(None)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(self.story, ["start a", "stop a"])

    def test_cannot_start_twice_nor_while_stopping(self) -> None:
        gate: Deferred[None] = Deferred()
        self.add("a", stops=gate)
        self.parent.startService()
        self.assertRaises(RuntimeError, self.parent.startService)
        stopped = self.parent.stopService()
        self.assertRaises(RuntimeError, self.parent.startService)
        gate.callback(None)
        self.successResultOf(stopped)
        self.successResultOf(self.parent.startService())
        self.assertEqual(self.story, ["start a", "stop a", "start a"])

    def test_nested_parents_keep_the_order(self) -> None:
        inner = OrderedServices(self.clock)
        for name in "bc":
            Child(name, self.story).setServiceParent(inner)
        self.add("a")
        inner.setServiceParent(self.parent)
        self.add("d")
        self.successResultOf(self.parent.startService())
        self.successResultOf(self.parent.stopService())
        self.assertEqual([line for line in self.story if line.startswith("start")], [f"start {n}" for n in "abcd"])
        self.assertEqual([line for line in self.story if line.startswith("stop")], [f"stop {n}" for n in "dcba"])

    def test_the_privileged_half_is_each_child_s_own_turn(self) -> None:
        class Privileged(Child):
            def privilegedStartService(self) -> None:
                self.story.append(f"privileged {self.name}")

        self.add("a")
        Privileged("b", self.story).setServiceParent(self.parent)
        self.parent.privilegedStartService()
        self.assertEqual(self.story, [])
        self.successResultOf(self.parent.startService())
        self.assertEqual(self.story, ["start a", "privileged b", "start b"])

    def test_children_come_and_go_while_it_runs(self) -> None:
        a = self.add("a")
        self.parent.startService()
        self.add("b")
        a.disownServiceParent()
        self.successResultOf(self.parent.stopService())
        self.assertEqual(self.story, ["start a", "start b", "stop a", "stop b"])
