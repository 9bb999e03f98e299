"""The worker processes: with processes that do nothing but what the reactor's twin is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs import hubwords
from tbeast.codecs.hubwords import FROM_HUB, TCP_PORT, TO_HUB, UDP_PORT, Status
from tbeast.services.workerprocess import END_SECONDS, SILENT_SECONDS, START_SECONDS, Means, WorkerError
from tbeast.services.workers import (
    FIRST_DELAY_SECONDS,
    LONGEST_DELAY_SECONDS,
    PATIENCE_SECONDS,
    SETTLED_SECONDS,
    Rolling,
    Workers,
    cores,
)
from tbeast.test.services.hubrig import NOON, Rig, Worker
from tbeast.testing.logs import listen


class Process:
    """A worker process as its protocol sees it.

    @ivar end: the worker's end of the line.
    """

    def __init__(self, pid: int, protocol: Any, descriptors: dict[int, Any]) -> None:
        self.pid = pid
        self.protocol = protocol
        self.descriptors = descriptors
        self.signals: list[str] = []
        self.is_gone = False
        self.end: Worker = protocol._link

    def signalProcess(self, name: str) -> None:
        if self.is_gone:
            raise ProcessExitedAlready
        self.signals.append(name)
        if name == "KILL":
            self.ends(by_signal=9)

    def ends(self, status: int = 0, by_signal: int | None = None) -> None:
        self.is_gone = True
        reason = ProcessTerminated(status, by_signal) if status or by_signal else ProcessDone(0)
        self.protocol.processEnded(Failure(reason))

    def comes_up(self, clock: Clock) -> None:
        self.end.says(hubwords.HELLO, hubwords.encode(self.pid))
        clock.advance(0)

    @property
    def retired(self) -> list[float]:
        """With how much patience it was asked to end."""
        return [hubwords.decode_seconds(text) for text in self.end.texts(hubwords.RETIRE)]


class Sock:
    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number


class Pair:
    def __init__(self, place: int) -> None:
        self.tcp, self.udp = Sock(100 + place), Sock(200 + place)


class Ports:
    def __init__(self, count: int) -> None:
        self.pairs: list[Any] = []
        self.count = count
        self.error: Exception | None = None

    async def open(self) -> None:
        if self.error is not None:
            raise self.error
        self.pairs = [Pair(place) for place in range(self.count)]

    def close(self) -> None:
        self.pairs = []


class WorkersCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines = listen(self)
        self.rig = Rig()
        clock: Any = self.rig.clock
        self.clock = clock
        self.clock.spawnProcess = self.spawn
        self.clock.callFromThread = lambda call: call()
        self.processes: list[Process] = []
        self.refuse: OSError | None = None
        self.ports = Ports(2)
        self.workers = Workers(
            hub=self.rig.hub, count=2, node="n", ports=self.ports, counters=self.rig.counters, now=self.rig.now,
            means=Means(self.clock, ["python", "-m", "x"], {"A": "b"}, {7: 70}, Worker),
        )  # fmt: skip

    def spawn(self, protocol: Any, executable: str, args: list[str], env: Any, childFDs: Any) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.assertEqual(("python", ["python", "-m", "x"], {"A": "b"}), (executable, args, env))
        process = Process(1000 + len(self.processes), protocol, childFDs)
        self.processes.append(process)
        protocol.makeConnection(process)

    def started(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.workers.startService())

    def serve(self) -> None:
        """Have both serve."""
        started = self.started()
        for process in self.processes:
            process.comes_up(self.clock)
        self.successResultOf(started)

    def beat(self, *processes: Process) -> None:
        for process in processes:
            process.end.says(hubwords.TIME, hubwords.encode(Status(True, NOON, 2)))

    def part(self, name: str) -> Any:
        return next(part for part in self.workers.status() if part.name == name)

    def pass_seconds(self, seconds: int, each: Callable[[], object] = lambda: None) -> None:
        for _ in range(seconds):
            self.clock.advance(1.0)
            each()


class StartTests(WorkersCase):
    def test_each_has_its_ports(self) -> None:
        started = self.started()
        self.assertEqual(2, len(self.processes))
        for place, process in enumerate(self.processes):
            ports = {TCP_PORT: 100 + place, UDP_PORT: 200 + place}
            pipes = {0: "w", 1: "r", 2: "r", FROM_HUB: "w", TO_HUB: "r"}
            self.assertEqual({**pipes, **ports, 7: 70}, process.descriptors)
        self.processes[0].comes_up(self.clock)
        self.assertNoResult(started)
        self.assertEqual({"lpo": True, "udp": True}, self.workers.listening())
        self.processes[1].comes_up(self.clock)
        self.successResultOf(started)
        self.assertEqual([1000, 1001], self.workers.pids())
        self.assertEqual(2, len({desk.name for desk in self.rig.hub.desks}))

    def test_ports_in_use(self) -> None:
        self.ports.error = CannotListenError("127.0.0.1", 80, OSError())
        self.failureResultOf(self.started(), CannotListenError)
        self.assertEqual([], self.processes)

    def test_one_that_does_not_come_up(self) -> None:
        """Ends the start, and the others with it."""
        started = self.started()
        self.processes[0].comes_up(self.clock)
        self.processes[1].protocol.childDataReceived(2, b"no module\nnamed x")
        self.processes[1].ends(1)
        self.assertEqual([[0.0], []], [process.retired for process in self.processes])
        self.processes[0].ends()
        error = self.failureResultOf(started, WorkerError).value
        self.assertEqual("worker 2 ended with status 1", str(error))
        self.assertIn("last words: no module / named x", self.lines.having("last words")[0])
        self.clock.advance(100.0)
        self.assertEqual((2, []), (len(self.processes), self.ports.pairs))

    def test_one_that_cannot_be_run(self) -> None:
        self.refuse = OSError(2, "no such file")
        self.assertIn("cannot be run", str(self.failureResultOf(self.started(), WorkerError).value))

    def test_one_that_takes_for_ever(self) -> None:
        started = self.started()
        self.processes[0].comes_up(self.clock)
        self.clock.advance(START_SECONDS)
        self.assertEqual(["KILL"], self.processes[1].signals)
        self.processes[0].ends()
        self.assertIn("does not serve after", str(self.failureResultOf(started, WorkerError).value))


class WatchTests(WorkersCase):
    def setUp(self) -> None:
        super().setUp()
        self.serve()

    def test_one_that_dies(self) -> None:
        """Another one takes its place and its ports; what is left serves on."""
        self.processes[0].ends(by_signal=9)
        part = self.part("workers")
        self.assertEqual(("fewer", "1 of 2 serve", False), (part.state, part.why, part.blocks))
        self.clock.advance(0)
        self.assertEqual(3, len(self.processes))
        self.assertEqual(100, self.processes[2].descriptors[TCP_PORT])
        self.processes[2].comes_up(self.clock)
        part = self.part("workers")
        self.assertEqual(("up", {"wanted": 2, "serving": 2, "restarts": 1}), (part.state, part.figures))
        self.assertEqual(1, len(self.lines.having("worker 1 was ended by signal 9")))

    def test_ever_more_slowly(self) -> None:
        """And from the beginning when one has lived for long."""
        waits = []
        for _ in range(9):
            before = self.clock.seconds()
            self.processes[-1].ends(1)
            died = len(self.processes)
            while len(self.processes) == died:
                self.clock.advance(FIRST_DELAY_SECONDS / 2)
                self.beat(self.processes[0])
            waits.append(self.clock.seconds() - before - FIRST_DELAY_SECONDS / 2)
            self.processes[-1].comes_up(self.clock)
        self.assertEqual([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_DELAY_SECONDS], [
            round(wait + 0.25 if wait else wait, 1) for wait in waits[:8]])  # fmt: skip
        self.pass_seconds(int(SETTLED_SECONDS), lambda: self.beat(self.processes[0], self.processes[-1]))
        died = len(self.processes)
        self.processes[-1].ends(1)
        self.clock.advance(0)
        self.assertEqual(died + 1, len(self.processes))

    def test_all_gone(self) -> None:
        for process in self.processes:
            process.ends(1)
        part = self.part("workers")
        self.assertEqual(("down", True), (part.state, part.blocks))
        self.assertEqual({"lpo": False, "udp": False}, self.workers.listening())

    def test_one_that_says_nothing(self) -> None:
        """Is killed; one that speaks is not."""
        self.pass_seconds(SILENT_SECONDS + 1, lambda: self.beat(self.processes[0]))
        self.assertEqual([[], ["KILL"]], [process.signals for process in self.processes[:2]])
        self.assertEqual(1, len(self.lines.having("has said nothing for")))

    def test_a_hub_that_stood_still(self) -> None:
        """Does not hold it against its workers."""
        self.clock.advance(SILENT_SECONDS * 10.0)
        self.assertEqual([[], []], [process.signals for process in self.processes])

    def test_how_limits_stand(self) -> None:
        self.beat(*self.processes)
        self.assertEqual("shared", self.part("limits").state)
        self.processes[1].end.says(hubwords.TIME, hubwords.encode(Status(False, NOON + 3.0, 4)))
        part = self.part("limits")
        self.assertEqual(("alone", NOON + 3.0), (part.state, part.since))
        self.assertIn("4", part.why)

    def test_what_it_writes(self) -> None:
        self.processes[0].protocol.childDataReceived(2, b"a warn")
        self.processes[0].protocol.childDataReceived(2, b"ing\n" + b"x" * 70_000)
        self.assertEqual(1, len(self.lines.having("worker 1: a warning")))
        self.assertEqual(1, len(self.lines.having("xxxx")))


class StopTests(WorkersCase):
    def setUp(self) -> None:
        super().setUp()
        self.serve()

    def test_in_good_order(self) -> None:
        stopped = Deferred.fromCoroutine(self.workers.stopService())
        self.assertEqual([[0.0], [0.0]], [process.retired for process in self.processes])
        self.processes[0].ends()
        self.assertNoResult(stopped)
        self.assertEqual(2, len(self.ports.pairs))
        self.processes[1].ends()
        self.successResultOf(stopped)
        self.assertEqual([], self.ports.pairs)
        self.clock.advance(100.0)
        self.assertEqual(2, len(self.processes))

    def test_one_that_does_not_end(self) -> None:
        stopped = Deferred.fromCoroutine(self.workers.stopService())
        self.processes[0].ends()
        self.clock.advance(END_SECONDS)
        self.assertEqual(["KILL"], self.processes[1].signals)
        self.successResultOf(stopped)

    def test_while_another_one_is_on_its_way(self) -> None:
        self.processes[0].ends(1)
        self.clock.advance(0)
        self.processes[2].ends(1)
        stopped = Deferred.fromCoroutine(self.workers.stopService())
        self.processes[1].ends()
        self.successResultOf(stopped)
        self.clock.advance(100.0)
        self.assertEqual(3, len(self.processes))


class RollTests(WorkersCase):
    def setUp(self) -> None:
        super().setUp()
        self.serve()

    def roll(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.workers.roll())

    def test_one_after_the_other(self) -> None:
        rolled = self.roll()
        self.assertEqual(3, len(self.processes))
        self.assertEqual([], self.processes[0].retired)
        self.processes[2].comes_up(self.clock)
        self.assertEqual([PATIENCE_SECONDS], self.processes[0].retired)
        self.assertEqual(3, len(self.processes))
        self.assertEqual(2, self.part("workers").figures["serving"])
        self.processes[0].ends()
        self.assertEqual(4, len(self.processes))
        self.assertEqual(101, self.processes[3].descriptors[TCP_PORT])
        self.processes[3].comes_up(self.clock)
        self.processes[1].ends()
        self.successResultOf(rolled)
        self.assertEqual([1002, 1003], self.workers.pids())
        self.assertEqual(0, self.workers.restarts)
        self.assertEqual(4, len({process.protocol.desk.name for process in self.processes}))

    def test_only_one_roll_at_a_time(self) -> None:
        self.roll()
        self.successResultOf(self.roll())
        self.assertEqual(3, len(self.processes))

    def test_a_successor_that_does_not_come_up(self) -> None:
        rolled = self.roll()
        self.processes[2].ends(1)
        self.successResultOf(rolled)
        self.assertEqual([1000, 1001], self.workers.pids())
        self.assertEqual([[], []], [process.retired for process in self.processes[:2]])
        self.assertEqual(1, len(self.lines.having("are not replaced any further")))
        self.assertEqual(2, self.part("workers").figures["serving"])

    def test_an_old_one_that_does_not_end(self) -> None:
        self.roll()
        self.processes[2].comes_up(self.clock)
        self.pass_seconds(int(PATIENCE_SECONDS + END_SECONDS), lambda: self.beat(*self.processes[1:]))
        self.assertEqual(["KILL"], self.processes[0].signals)
        self.assertEqual(4, len(self.processes))

    def test_the_old_one_dies_before(self) -> None:
        """Two come for its place; one stays."""
        rolled = self.roll()
        self.processes[0].ends(by_signal=9)
        self.clock.advance(0)
        self.assertEqual(4, len(self.processes))
        self.processes[2].comes_up(self.clock)
        self.processes[3].comes_up(self.clock)
        self.assertEqual([PATIENCE_SECONDS], self.processes[3].retired)
        self.processes[3].ends()
        self.processes[4].comes_up(self.clock)
        self.processes[1].ends()
        self.successResultOf(rolled)
        self.assertEqual([1002, 1004], self.workers.pids())

    def test_a_stop_in_the_middle(self) -> None:
        rolled = self.roll()
        stopped = Deferred.fromCoroutine(self.workers.stopService())
        for process in self.processes:
            process.ends()
        self.successResultOf(stopped)
        self.successResultOf(rolled)
        self.clock.advance(100.0)
        self.assertEqual(3, len(self.processes))

    def test_by_signal(self) -> None:
        before = signal.getsignal(signal.SIGUSR2)
        rolling = Rolling(self.workers, self.clock)
        rolling.startService()
        try:
            os.kill(os.getpid(), signal.SIGUSR2)
            self.assertEqual(3, len(self.processes))
        finally:
            rolling.stopService()
        self.assertEqual(before, signal.getsignal(signal.SIGUSR2))


class CoresTests(SynchronousTestCase):
    def test_at_least_one(self) -> None:
        self.assertGreaterEqual(cores(), 1)
        if hasattr(os, "sched_getaffinity"):
            self.patch(os, "sched_getaffinity", lambda pid: {0, 3, 5})
            self.assertEqual(3, cores())
