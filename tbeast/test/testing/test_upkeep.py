"""Processes that are kept running: with some that are none, on a clock, and with a real one."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.testing.upkeep import (
    ASK_EVERY_SECONDS,
    FIRST_DELAY_SECONDS,
    KILL_AFTER_SECONDS,
    LONGEST_DELAY_SECONDS,
    MOST_FAILURES,
    Kept,
    UpkeepError,
)


class FakeChild:
    """A process as its protocol sees it."""

    def __init__(self, pid: int, protocol: Any) -> None:
        self.pid = pid
        self.protocol = protocol
        self.signals: list[str] = []
        self.closed: list[int] = []
        self.gone = False

    def signalProcess(self, name: str) -> None:
        if self.gone:
            raise ProcessExitedAlready
        self.signals.append(name)

    def closeChildFD(self, descriptor: int) -> None:
        self.closed.append(descriptor)

    def says(self, text: str) -> None:
        self.protocol.childDataReceived(1, text.encode())

    def ends(self, status: int = 0, by_signal: int | None = None) -> None:
        self.gone = True
        reason = Failure(ProcessTerminated(status, by_signal) if status or by_signal else ProcessDone(0))
        self.protocol.processExited(reason)
        self.protocol.processEnded(reason)


class ProcessClock(Clock):
    """A clock that also starts processes that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[FakeChild] = []
        self.commands: list[list[str]] = []

    def spawnProcess(self, protocol: Any, executable: str, args: list[str], env: Any = None, path: Any = None) -> None:
        self.commands.append(args)
        child = FakeChild(1000 + len(self.children), protocol)
        self.children.append(child)
        protocol.makeConnection(child)


class KeptTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = ProcessClock()
        self.serves: Any = False
        self.asked = 0
        self.said: list[str] = []
        self.wrote: list[str] = []
        self.kept = Kept(
            "the one", ["program", "--port", "1"], self.clock, self.clock.seconds, self.is_serving, {}, Path("."),
            self.said.append, self.wrote.append,
        )  # fmt: skip

    async def is_serving(self) -> bool:
        self.asked += 1
        if isinstance(self.serves, Exception):
            raise self.serves
        answer: bool = await self.serves if isinstance(self.serves, Deferred) else self.serves
        return answer

    @property
    def child(self) -> FakeChild:
        return self.clock.children[-1]

    def started(self) -> None:
        self.serves = True
        self.successResultOf(self.kept.start())

    def test_it_is_asked_until_it_serves(self) -> None:
        """Whatever it raises is a no; whoever waits hears of the yes."""
        started = self.kept.start()
        self.serves = OSError("refused")
        self.clock.advance(ASK_EVERY_SECONDS)
        self.assertFalse(self.kept.serving)
        self.assertNoResult(started)
        self.serves = True
        self.clock.advance(ASK_EVERY_SECONDS)
        self.assertTrue(self.kept.serving)
        self.successResultOf(started)
        self.successResultOf(self.kept.until_serving())
        self.assertEqual(3, self.asked)
        self.clock.advance(10.0)
        self.assertEqual(3, self.asked)
        self.assertEqual(["the one serves, 0.2 s after its start"], self.said)
        self.assertEqual(["program", "--port", "1"], self.clock.commands[0][-3:])

    def test_it_comes_back(self) -> None:
        """By the same command, half a second after its end; it serves when it says so itself."""
        self.started()
        self.clock.advance(5.0)
        self.serves = False
        self.child.ends(by_signal=9)
        self.assertFalse(self.kept.serving)
        self.assertIsNone(self.kept.pid)
        again = self.kept.until_serving()
        self.clock.advance(FIRST_DELAY_SECONDS - 0.01)
        self.assertEqual(1, len(self.clock.children))
        self.clock.advance(0.01)
        self.assertEqual(1001, self.kept.pid)
        self.assertEqual(self.clock.commands[0], self.clock.commands[1])
        self.assertNoResult(again)
        self.serves = True
        self.clock.advance(ASK_EVERY_SECONDS)
        self.successResultOf(again)
        first, second = self.kept.lives
        self.assertEqual((True, 5.0), (first.killed, first.ended_at))
        self.assertEqual((False, 5.5, None), (second.killed, second.started_at, second.ended_at))
        told = [
            "the one was ended by signal 9; starting it again in 0.5 s",
            "the one serves again, 0.6 s after its end",
        ]
        self.assertEqual(told, self.said[1:])

    def test_it_is_given_up(self) -> None:
        """When it never serves: ever more slowly, and with its last words; whoever waits hears it, now and later."""
        waiting = self.kept.start()
        delays = []
        for _ in range(MOST_FAILURES - 1):
            self.child.says("no such file\n")
            self.child.ends(status=1)
            before, count = self.clock.seconds(), len(self.clock.children)
            while len(self.clock.children) == count:
                self.clock.advance(0.5)
            delays.append(self.clock.seconds() - before)
        self.assertEqual([1.0, 2.0, 4.0, LONGEST_DELAY_SECONDS], delays)
        self.assertNoResult(waiting)
        self.child.says("the port is taken\n")
        self.child.ends(status=1)
        self.assertTrue(self.kept.given_up)
        for each in (waiting, self.kept.until_serving()):
            self.assertIn("the port is taken", str(self.failureResultOf(each, UpkeepError).value))
        self.assertTrue(self.said[-1].endswith("is given up"))
        self.clock.advance(1000.0)
        self.assertEqual(MOST_FAILURES, len(self.clock.children))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_serving_makes_up_for_failures(self) -> None:
        self.kept.start()
        self.child.ends(status=1)
        self.clock.advance(1.0)
        self.serves = True
        self.clock.advance(ASK_EVERY_SECONDS)
        for _ in range(3 * MOST_FAILURES):
            self.child.ends(status=1)
            self.clock.advance(FIRST_DELAY_SECONDS)
            self.assertTrue(self.kept.serving)

    def test_a_late_yes_of_the_last_one(self) -> None:
        """It was asked, died, and another one runs: the answer is not that one's."""
        late: Deferred[bool] = Deferred()
        self.serves = late
        self.kept.start()
        self.child.ends(by_signal=9)
        self.serves = False
        self.clock.advance(1.0)
        late.callback(True)
        self.assertFalse(self.kept.serving)

    def test_it_stops_by_a_signal(self) -> None:
        """And is not started again; an end by the signal that asked for it is in good order."""
        self.started()
        stopped = self.kept.stop()
        self.assertEqual(["TERM"], self.child.signals)
        self.assertNoResult(stopped)
        self.child.ends(by_signal=15)
        self.successResultOf(stopped)
        self.assertFalse(self.kept.lives[0].killed)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.successResultOf(self.kept.stop())
        self.failureResultOf(self.kept.until_serving(), UpkeepError)

    def test_one_that_will_not_stop_is_made_to(self) -> None:
        self.started()
        stopped = self.kept.stop()
        self.clock.advance(KILL_AFTER_SECONDS)
        self.assertEqual(["TERM", "KILL"], self.child.signals)
        self.assertEqual([0, 1, 2], self.child.closed)
        self.child.ends(by_signal=9)
        self.successResultOf(stopped)
        self.assertTrue(self.kept.lives[0].killed)

    def test_a_stop_while_it_is_away(self) -> None:
        self.started()
        self.child.ends(status=3)
        waiting = self.kept.until_serving()
        self.successResultOf(self.kept.stop())
        self.failureResultOf(waiting, UpkeepError)
        self.clock.advance(100.0)
        self.assertEqual(1, len(self.clock.children))

    def test_lines(self) -> None:
        """They come whole, however they were written."""
        self.started()
        self.child.says("one\ntw")
        self.child.says("o\r\nthree")
        self.assertEqual(["one", "two"], self.wrote)


class RealTests(TestCase):
    async def test_killed(self) -> None:
        """A real process leads a session of its own, is killed, and is back as another one."""
        wrote: list[str] = []

        async def serves() -> bool:
            return kept.pid is not None and os.getsid(kept.pid) == kept.pid and len(wrote) == len(kept.lives)

        program = [sys.executable, "-c", "import sys; print('here', flush=True); sys.stdin.read()"]
        kept = Kept(
            "real", program, reactor, time.time, serves, dict(os.environ), Path(tempfile.gettempdir()),
            heard=wrote.append,
        )  # fmt: skip
        self.addCleanup(kept.stop)
        await kept.start()
        first = kept.pid
        kept.kill()
        while kept.serving:
            await deferLater(reactor, 0.01)
        await kept.until_serving()
        self.assertNotEqual(first, kept.pid)
        self.assertEqual(["here", "here"], wrote)
        self.assertEqual([True, False], [life.killed for life in kept.lives])
        await kept.stop()
        self.assertIsNone(kept.pid)
