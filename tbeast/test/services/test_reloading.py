"""Reading again at a signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tbeast.services.reloading import Reloading


class Turns:
    """A reactor that calls when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def callFromThread(self, what: Any, /, *args: Any) -> None:
        self.calls.append(what)

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class ReloadingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.told: list[str] = []
        self.waiting: Deferred[None] = Deferred()
        self.turns = Turns()
        self.reloading = Reloading([("first", self.first), ("second", self.second)], self.turns)
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))

    async def first(self) -> None:
        self.told.append("first")
        await self.waiting

    async def second(self) -> None:
        self.told.append("second")

    def test_at_the_signal(self) -> None:
        """Each after the other, in a turn of the reactor; a signal meanwhile adds nothing, a later one does."""
        self.reloading.startService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual([], self.told)
        self.turns.turn()
        os.kill(os.getpid(), signal.SIGHUP)
        self.turns.turn()
        self.assertEqual(["first"], self.told)
        self.waiting.callback(None)
        self.assertEqual(["first", "second"], self.told)
        os.kill(os.getpid(), signal.SIGHUP)
        self.turns.turn()
        self.assertEqual(["first", "second"] * 2, self.told)

    def test_one_that_fails(self) -> None:
        """Keeps nothing from the others."""
        self.reloading.startService()
        self.reloading.reload()
        self.waiting.errback(ZeroDivisionError())
        self.assertEqual(["first", "second"], self.told)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_the_signal_is_given_back(self) -> None:
        heard: list[int] = []
        signal.signal(signal.SIGHUP, lambda number, frame: heard.append(number))
        self.reloading.startService()
        self.reloading.stopService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual([signal.SIGHUP], heard)
        self.reloading.reload()
        self.assertEqual([], self.told)
