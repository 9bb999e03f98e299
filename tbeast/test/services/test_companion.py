"""The companion: with children that do nothing but what the reactor's twin is told, and with real ones."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock, deferLater
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from tbeast.services.companion import (
    ANNOUNCE_WITHIN_SECONDS,
    KILL_AFTER_SECONDS,
    LAST_LOOK_SECONDS,
    LONGEST_DELAY_SECONDS,
    SETTLED_SECONDS,
    TERMINATE_AFTER_SECONDS,
    Companion,
    CompanionError,
)


class FakeTransport:
    """A child process as its protocol sees it."""

    def __init__(self, pid: int, protocol: Any) -> None:
        self.pid = pid
        self.protocol = protocol
        self.done: list[str] = []
        self.gone = False

    def closeStdin(self) -> None:
        self.done.append("stdin closed")

    def signalProcess(self, name: str) -> None:
        if self.gone:
            raise ProcessExitedAlready
        self.done.append(name)

    def closeChildFD(self, descriptor: int) -> None:
        self.done.append(f"closed {descriptor}")

    def says(self, text: str, descriptor: int = 1) -> None:
        self.protocol.childDataReceived(descriptor, text.encode())

    def ends(self, status: int = 0, by_signal: int | None = None) -> None:
        self.gone = True
        reason = ProcessTerminated(status, by_signal) if status or by_signal else ProcessDone(0)
        self.protocol.processEnded(Failure(reason))


class ProcessClock(Clock):
    """A clock that also starts processes that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[FakeTransport] = []
        self.commands: list[tuple[Any, Any]] = []
        self.refuse: OSError | None = None

    def spawnProcess(self, processProtocol: Any, executable: Any, args: Any, env: Any = None, path: Any = None) -> Any:
        if self.refuse is not None:
            raise self.refuse
        self.commands.append((executable, args))
        child = FakeTransport(100 + len(self.children), processProtocol)
        self.children.append(child)
        processProtocol.makeConnection(child)
        return child


class LogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event.get("log_namespace", "").startswith("tbeast.services.companion"):
                self.lines.append(f"{event['log_level'].name}: {formatEvent(event)}")

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)


class CompanionTests(LogCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = ProcessClock()
        self.again: list[Any] = []
        self.companion = Companion("the lab", ["lab", "--parent"], self.clock, self.again.append)

    def started(self) -> FakeTransport:
        starting = self.companion.start()
        child = self.clock.children[-1]
        child.says('{"port": 1}\n')
        self.assertEqual(self.successResultOf(starting), {"port": 1})
        return child

    def test_it_has_started_when_it_has_announced_itself(self) -> None:
        starting = self.companion.start()
        self.assertEqual(self.clock.commands, [("lab", ["lab", "--parent"])])
        child = self.clock.children[0]
        child.says('{"port": ')
        self.assertNoResult(starting)
        child.says("9001}\nand more\n")
        self.assertEqual(self.successResultOf(starting), {"port": 9001})
        self.assertEqual(self.companion.pid, 100)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertIn("info: the lab: and more", self.lines)

    def test_it_is_started_once(self) -> None:
        self.started()
        self.assertRaises(RuntimeError, self.companion.start)

    def test_silence_is_a_failed_start(self) -> None:
        starting = self.companion.start()
        child = self.clock.children[0]
        self.clock.advance(ANNOUNCE_WITHIN_SECONDS)
        self.clock.advance(LAST_LOOK_SECONDS)
        self.assertEqual(child.done, ["stdin closed"])
        self.assertNoResult(starting)
        child.ends(status=0)
        error = self.failureResultOf(starting, CompanionError).value
        self.assertEqual(str(error), "the lab announced nothing within 15 s, and ended with status 0")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_announcement_that_lay_there_while_we_were_held_up(self) -> None:
        starting = self.companion.start()
        self.clock.advance(ANNOUNCE_WITHIN_SECONDS * 3)
        self.clock.children[0].says('{"port": 1}\n')
        self.assertEqual(self.successResultOf(starting), {"port": 1})
        self.clock.advance(LAST_LOOK_SECONDS)
        self.assertEqual(self.clock.children[0].done, [])

    def test_anything_else_than_an_announcement_is_a_failed_start(self) -> None:
        for words in ("Hello\n", "[1]\n", "\n", "\xff\n"):
            clock = ProcessClock()
            starting = Companion("the lab", ["lab"], clock, self.again.append).start()
            clock.children[0].says(words)
            clock.children[0].says('{"too": "late"}\n')
            clock.children[0].ends(status=0)
            self.assertIn("announced itself by something else", str(self.failureResultOf(starting).value))

    def test_death_before_the_announcement_tells_the_last_words(self) -> None:
        starting = self.companion.start()
        child = self.clock.children[0]
        child.says("Traceback\nImportError: no module named x", 2)
        child.ends(status=3)
        error = self.failureResultOf(starting, CompanionError).value
        self.assertEqual(
            str(error), "the lab ended with status 3; last words: Traceback / ImportError: no module named x"
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertIsNone(self.companion.pid)

    def test_a_program_that_cannot_be_run(self) -> None:
        self.clock.refuse = OSError(11, "no more processes")
        error = self.failureResultOf(self.companion.start(), CompanionError).value
        self.assertIn("the lab cannot be run: ", str(error))

    def test_what_it_writes_on_standard_error_is_logged(self) -> None:
        child = self.started()
        child.says("one\r\ntw", 2)
        child.says("o\n\nüber\n", 2)
        self.assertEqual(self.lines[-3:], ["info: the lab: one", "info: the lab: two", "info: the lab: über"])

    def test_a_line_without_end_does_not_fill_the_memory(self) -> None:
        child = self.started()
        for _ in range(100):
            child.says("x" * 10_000, 2)
        self.assertLess(len(child.protocol._partial[2]), 100_000)
        self.assertTrue(all(len(line) < 2_100 for line in self.lines))

    def test_unexpected_death_starts_it_again(self) -> None:
        child = self.started()
        child.says("bye\n", 2)
        child.ends(by_signal=9)
        self.assertIn("error: the lab was ended by signal 9; last words: bye; starting it again in 0 s", self.lines)
        self.clock.advance(0)
        self.clock.children[1].says('{"port": 2}\n')
        self.assertEqual(self.again, [{"port": 2}])
        self.assertEqual(self.companion.pid, 101)

    def test_it_is_started_ever_more_slowly(self) -> None:
        self.started().ends(status=1)
        delays = []
        for _ in range(10):
            (call,) = self.clock.getDelayedCalls()
            delays.append(call.getTime() - self.clock.seconds())
            self.clock.advance(delays[-1])
            self.clock.children[-1].says("{}\n")
            self.clock.children[-1].ends(status=1)
        self.assertEqual(delays, [0, 0.5, 1, 2, 4, 8, 16, LONGEST_DELAY_SECONDS, 30, 30])

    def test_a_child_that_lived_long_starts_the_delays_anew(self) -> None:
        self.started().ends(status=1)
        self.clock.advance(0)
        self.clock.children[-1].says("{}\n")
        self.clock.advance(SETTLED_SECONDS)
        self.clock.children[-1].ends(status=1)
        self.clock.advance(0)
        self.assertEqual(len(self.clock.children), 3)

    def test_a_child_that_does_not_announce_itself_again_is_replaced(self) -> None:
        self.started().ends(status=1)
        self.clock.advance(0)
        self.clock.advance(ANNOUNCE_WITHIN_SECONDS)
        self.clock.advance(LAST_LOOK_SECONDS)
        self.clock.children[-1].ends(status=0)
        self.clock.advance(0.5)
        self.clock.children[-1].says('{"port": 3}\n')
        self.assertEqual(self.again, [{"port": 3}])

    def test_an_announcement_that_nobody_can_use_does_not_end_the_care(self) -> None:
        def take(announcement: object) -> None:
            raise LookupError("no such field")

        companion = Companion("the lab", ["lab"], self.clock, take)
        companion.start()
        self.clock.children[-1].says("{}\n")
        self.clock.children[-1].ends(status=1)
        self.clock.advance(0)
        self.clock.children[-1].says("{}\n")
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        self.clock.children[-1].ends(status=1)
        self.clock.advance(0.5)
        self.assertEqual(len(self.clock.children), 3)

    def test_stopping_is_polite_first(self) -> None:
        child = self.started()
        stopping = self.companion.stop()
        self.assertEqual(child.done, ["stdin closed"])
        self.clock.advance(TERMINATE_AFTER_SECONDS)
        self.assertEqual(child.done, ["stdin closed", "TERM"])
        self.clock.advance(KILL_AFTER_SECONDS - TERMINATE_AFTER_SECONDS)
        self.assertEqual(child.done, ["stdin closed", "TERM", "KILL", "closed 0", "closed 1", "closed 2"])
        self.assertNoResult(stopping)
        child.ends(by_signal=9)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.clock.children), 1)

    def test_stopping_twice_waits_twice(self) -> None:
        child = self.started()
        both = [self.companion.stop(), self.companion.stop()]
        self.assertEqual(child.done, ["stdin closed"])
        child.ends()
        for stopping in both:
            self.successResultOf(stopping)
        self.successResultOf(self.companion.stop())

    def test_stopping_while_it_starts(self) -> None:
        starting = self.companion.start()
        stopping = self.companion.stop()
        self.clock.children[0].ends()
        self.successResultOf(stopping)
        self.assertIn("was stopped before it had started", str(self.failureResultOf(starting, CompanionError).value))

    def test_stopping_while_it_waits_to_start_again(self) -> None:
        self.started().ends(status=1)
        self.successResultOf(self.companion.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_it_can_be_started_after_a_stop(self) -> None:
        child = self.started()
        self.companion.stop()
        child.ends()
        self.started()
        self.assertEqual(len(self.clock.children), 2)


CHILD = """
import json, os, signal, sys
{before}
print(json.dumps({{"pid": os.getpid(), "lives": {lives}}}), flush=True)
print("listening", file=sys.stderr, flush=True)
{after}
sys.stdin.read()
"""


class RealChildTests(TestCase):
    timeout = 60

    def companion(self, again: Callable[[Any], None], before: str = "", after: str = "", lives: str = "1") -> Companion:
        program = CHILD.format(before=before, after=after, lives=lives)
        return Companion("child", [sys.executable, "-c", program], real_reactor, again)

    def assertGone(self, pid: int) -> None:
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    async def test_it_lives_and_goes_when_its_input_closes(self) -> None:
        companion = self.companion(self.fail)
        announcement = await companion.start()
        self.assertEqual(announcement, {"pid": companion.pid, "lives": 1})
        await companion.stop()
        self.assertGone(announcement["pid"])

    async def test_one_that_is_killed_comes_back(self) -> None:
        back: Deferred[Any] = Deferred()
        companion = self.companion(back.callback)
        first = await companion.start()
        os.kill(first["pid"], signal.SIGKILL)
        second = await back
        self.assertNotEqual(first["pid"], second["pid"])
        self.assertGone(first["pid"])
        await companion.stop()
        self.assertGone(second["pid"])

    async def test_an_interrupt_from_the_terminal_is_kept_from_it(self) -> None:
        companion = self.companion(self.fail, lives="signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])")
        announcement = await companion.start()
        self.assertTrue(announcement["lives"])
        self.assertNotIn(signal.SIGINT, signal.pthread_sigmask(signal.SIG_BLOCK, []))
        await companion.stop()

    async def test_one_that_cannot_be_run(self) -> None:
        companion = Companion("child", [sys.executable, "-c", "raise SystemExit(7)"], real_reactor, self.fail)
        error = await self.assertFailure(companion.start(), CompanionError)
        self.assertIn("ended with status 7", str(error))

    async def test_one_that_does_not_listen_is_ended_by_signal(self) -> None:
        """Ours waits three seconds for the closed input to do, and then asks by SIGTERM."""
        companion = self.companion(self.fail, after="signal.pause()")
        announcement = await companion.start()
        await companion.stop()
        await deferLater(real_reactor, 0, lambda: None)
        self.assertGone(announcement["pid"])
