"""The front door: settings in, service out, and a start that fails in good order."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.application.service import IServiceMaker, Service
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

import tbeast
from tbeast.domain.steadyclock import PATIENCE_SECONDS
from tbeast.errors import TBeastError
from tbeast.settings import Layer, load
from tbeast.tap import (
    FAILED_START,
    FrontDoor,
    Options,
    allow_open_files,
    makeService,
    steady_now,
    uptime_clock,
    wait_evenly,
)

ROOT = str(Path(tbeast.__file__).parent.parent)


class LogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if str(event.get("log_namespace", "")).startswith("tbeast.tap"):
                self.lines.append(f"{event['log_level'].name}: {formatEvent(event)}")

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)


class PluginTests(SynchronousTestCase):
    def test_the_plugin_is_found(self) -> None:
        (plugin,) = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "tbeast"]
        self.assertIs(plugin.options, Options)
        self.assertIn("crypto prices", plugin.description)


class OptionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.environ: dict[str, str] = {}
        self.patch(os, "environ", self.environ)
        self.out, self.err = Words(), Words()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)

    def parse(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def test_layers(self) -> None:
        path = self.mktemp()
        Path(path).write_text('tbeast_feeds = "lab"\ntcp_port_lpo = 1\nudp_port_lpo = 2\ncluster_node = "x"\n')
        self.environ.update(TCP_PORT_LPO="3", TBEAST_FEEDS="live")
        settings = self.parse("--config", path, "--feeds=lab", "--state=there").settings
        self.assertEqual((settings.feeds, settings.state, settings.cluster_node), ("lab", "there", "x"))
        self.assertEqual((settings.tcp_port_lpo, settings.udp_port_lpo), (3, 2))
        self.assertEqual(settings.origins["TBEAST_STATE"], "option --state")

    def test_a_daemon_that_cannot_be_put_together(self) -> None:
        """One clear line, and no traceback; the password stays out of it."""
        self.environ["AURORA_URL"] = "postgresql://me:hunter2@db/x?nonsense=1"
        options = self.parse("--state", self.mktemp())
        leaving = self.assertRaises(SystemExit, makeService, options, Clock())
        self.assertEqual(leaving.code, FAILED_START)
        self.assertIn("tbeast: cannot start: ", self.err.text)
        self.assertNotIn("hunter2", self.err.text)

    def test_the_node_is_called_as_the_host(self) -> None:
        self.patch(socket, "gethostname", lambda: "café's box")
        self.assertEqual(self.parse().settings.cluster_node, "caf--s-box")

    def test_faults_end_the_process_with_lines_and_no_traceback(self) -> None:
        path = self.mktemp()
        Path(path).write_text("tcp_port_lpo = -1\n")
        self.environ["TBEAST_NONSENSE"] = "1"
        leaving = self.assertRaises(SystemExit, self.parse, "--config", path, "--feeds=lob")
        self.assertEqual(leaving.code, 1)
        lines = self.err.text.splitlines()
        self.assertEqual(lines[0], "tbeast: the settings are at fault:")
        self.assertEqual(len(lines), 4)
        self.assertIn(f"{path}, line 1: TCP_PORT_LPO = -1", lines[1])

    def test_a_file_that_is_not_there_is_told_with_the_rest(self) -> None:
        missing = self.mktemp()
        self.assertRaises(SystemExit, self.parse, "--config", missing, "--feeds=lob")
        self.assertIn(f"  {missing}: cannot be read: no such file or directory\n", self.err.text)
        self.assertIn("option --feeds: TBEAST_FEEDS = 'lob': must be one of live, lab\n", self.err.text)

    def test_a_file_that_is_no_text(self) -> None:
        path = self.mktemp()
        Path(path).write_bytes(b"\xff\xfe\x00")
        self.assertRaises(SystemExit, self.parse, "--config", path)
        self.assertIn("cannot be read: it is not UTF-8 text", self.err.text)

    def test_files_that_the_settings_name(self) -> None:
        folder, file = self.mktemp(), self.mktemp()
        Path(file).write_text("no folder")
        self.environ.update(TBEAST_TLS_CERT=folder, TBEAST_TLS_KEY=file, TBEAST_STATE=file)
        self.assertRaises(SystemExit, self.parse)
        lines = self.err.text.splitlines()
        self.assertEqual(len(lines), 3)
        self.assertIn(f"TBEAST_TLS_CERT = {folder!r}: cannot be read: no such file", lines[1])
        self.assertIn(f"TBEAST_STATE = {file!r}: is not a folder", lines[2])

    def test_check_alone(self) -> None:
        self.environ["HEALTH_PORT_WEBHOOK"] = "9999"
        leaving = self.assertRaises(SystemExit, self.parse, "--check")
        self.assertEqual(leaving.code, 0)
        self.assertIn("the settings are sound", self.out.text)
        self.assertIn("HEALTH_PORT_WEBHOOK is set and has no effect", self.out.text)


class Words:
    """As much of a text stream as C{print} needs."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


class OpenFilesTests(SynchronousTestCase):
    def test_as_many_as_it_may(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        self.assertEqual(allow_open_files(), hard)
        self.assertEqual(allow_open_files(), hard)


class NowTests(LogCase):
    def setUp(self) -> None:
        super().setUp()
        self.uptime, self.error, self.wall_looks = 500.0, 0.0, 0
        self.now = steady_now(lambda: self.uptime, self.wall)

    def wall(self) -> float:
        self.wall_looks += 1
        return 1e9 + self.uptime + self.error

    def test_the_wall_clock_is_looked_at_once_a_second(self) -> None:
        looks = self.wall_looks
        for _ in range(100):
            self.now()
        self.assertEqual(self.wall_looks, looks + 1)
        self.uptime += 1.0
        self.assertAlmostEqual(self.now(), 1e9 + 501.0, places=3)
        self.assertEqual(self.wall_looks, looks + 2)

    def test_a_clock_that_is_set_is_told_in_the_log(self) -> None:
        self.now()
        self.error = 7.0
        for _ in range(int(PATIENCE_SECONDS) + 2):
            self.uptime += 1.0
            self.now()
        self.assertEqual(len(self.lines), 2, self.lines)
        self.assertIn("warn: the wall clock and ours have come apart by 7.000 s", self.lines[0])
        self.assertIn("warn: our clock has stepped forward by 6.9", self.lines[1])

    def test_a_clock_that_was_set_for_a_moment(self) -> None:
        self.now()
        for error in (-100.0, 0.0, 0.0):
            self.error = error
            self.uptime += 1.0
            self.now()
        self.assertEqual(len(self.lines), 2, self.lines)
        self.assertEqual(self.lines[1], "info: the wall clock and ours agree again")

    def test_the_real_clocks(self) -> None:
        now = steady_now(uptime_clock(), time.time)
        first, wall, second = now(), time.time(), now()
        self.assertLessEqual(first, second)
        self.assertLess(abs(wall - first), 5.0)

    def test_a_system_without_boot_time(self) -> None:
        if hasattr(time, "CLOCK_BOOTTIME"):
            self.patch(time, "CLOCK_BOOTTIME", None)
        self.assertIs(uptime_clock(), time.monotonic)


class FakeReactor(Clock):
    def __init__(self) -> None:
        super().__init__()
        self.stops = 0

    def callWhenRunning(self, what: Any, *args: Any) -> None:
        what(*args)

    def stop(self) -> None:
        self.stops += 1


class Part(Service):
    """A daemon whose starting and stopping come out as told."""

    def __init__(self, outcome: Any = None, privileged_outcome: Any = None) -> None:
        self.outcome = outcome
        self.privileged_outcome = privileged_outcome
        self.calls: list[str] = []

    def privilegedStartService(self) -> Any:
        self.calls.append("privileged")
        return self._come_out(self.privileged_outcome)

    def startService(self) -> Any:
        self.calls.append("start")
        return self._come_out(self.outcome)

    def stopService(self) -> Any:
        self.calls.append("stop")
        return Deferred()

    def _come_out(self, outcome: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class FrontDoorTests(LogCase):
    def setUp(self) -> None:
        super().setUp()
        self.reactor = FakeReactor()
        self.left: list[tuple[int, str]] = []

    def door(self, part: Part, **environ: str) -> FrontDoor:
        settings = load([Layer("environment", {"SERVER_TYPE": "APP_SERVER", **environ})])
        return FrontDoor(part, settings, self.reactor, lambda status, line: self.left.append((status, line)))

    def assertLeft(self, words: str) -> None:
        self.assertEqual(self.left, [(FAILED_START, f"tbeast: cannot start: {words}")])
        self.assertEqual(self.lines[-1], f"critical: tbeast cannot start: {words}")
        self.reactor.advance(0)
        self.assertEqual(self.reactor.stops, 1)

    def test_a_good_start_and_stop(self) -> None:
        part = Part()
        door = self.door(part)
        door.privilegedStartService()
        door.startService()
        stopping = door.stopService()
        self.assertNoResult(stopping)
        self.assertEqual(part.calls, ["privileged", "start", "stop"])
        self.assertEqual((self.left, self.lines), ([], []))

    def test_signals_that_nobody_heeds_yet(self) -> None:
        """They would end the process; whoever has taken one up keeps it."""
        kept = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR2)}
        self.addCleanup(lambda: [signal.signal(number, handler) for number, handler in kept.items()])
        heeded: list[int] = []
        signal.signal(signal.SIGHUP, lambda number, frame: heeded.append(number))
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        self.door(Part()).startService()
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGUSR2)
        self.assertEqual(([signal.SIGHUP], signal.SIG_IGN), (heeded, signal.getsignal(signal.SIGUSR2)))

    def test_what_has_no_effect_is_told_at_the_start(self) -> None:
        self.door(Part(), HEALTH_PORT_WEBHOOK="9999").startService()
        self.assertEqual(len(self.lines), 1)
        self.assertIn("warn: HEALTH_PORT_WEBHOOK is set and has no effect", self.lines[0])

    def test_a_port_in_use(self) -> None:
        in_use = OSError(98, "Address already in use")
        self.door(Part(CannotListenError("127.0.0.1", 8080, in_use))).startService()
        self.assertLeft("cannot listen on 127.0.0.1, port 8080 (TCP_PORT_LPO): Address already in use")

    def test_a_port_that_several_settings_name(self) -> None:
        in_use = OSError(13, "Permission denied")
        self.door(Part(CannotListenError("", 8080, in_use)), UDP_PORT_LPO="8080").startService()
        self.assertLeft("cannot listen on any address, port 8080 (TCP_PORT_LPO or UDP_PORT_LPO): Permission denied")

    def test_a_start_that_fails_before_the_start(self) -> None:
        part = Part(privileged_outcome=TBeastError("the table is at fault"))
        door = self.door(part)
        door.privilegedStartService()
        door.startService()
        self.assertEqual(part.calls, ["privileged"])
        self.assertLeft("the table is at fault")

    def test_a_start_that_fails_later(self) -> None:
        outcome: Deferred[None] = Deferred()
        self.door(Part(outcome)).startService()
        self.assertEqual(self.left, [])
        outcome.errback(PermissionError(13, "Permission denied", "var"))
        self.assertLeft("[Errno 13] Permission denied: 'var'")

    def test_a_start_that_fails_twice_is_told_once(self) -> None:
        outcome: Deferred[None] = Deferred()
        door = self.door(Part(outcome, fail(TBeastError("first"))))
        door.privilegedStartService()
        self.assertLeft("first")

    def test_a_mistake_of_ours_is_told_with_its_traceback(self) -> None:
        self.door(Part(ZeroDivisionError("oh"))).startService()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertLeft("ZeroDivisionError: oh")

    def test_a_start_that_is_broken_off_by_a_stop_has_not_failed(self) -> None:
        outcome: Deferred[None] = Deferred()
        door = self.door(Part(outcome))
        door.startService()
        door.stopService()
        outcome.cancel()
        self.assertEqual((self.left, self.lines), ([], []))


class ProcessTests(SynchronousTestCase):
    """The front door in real processes, under both front ends."""

    fronts: Mapping[str, Sequence[str]] = {
        "twistd": ("twistd", "-n", "--pidfile=", "tbeast"),
        "twist": ("twist", "--log-format=text", "tbeast"),
    }

    @contextmanager
    def process(self, behaviour: str, front: str, port: int = 1) -> Iterator[subprocess.Popen[str]]:
        environ = {name: text for name, text in os.environ.items() if not name.startswith("TBEAST_")}
        environ |= {"PYTHONPATH": ROOT, "TCP_PORT_LPO": str(port), "SERVER_TYPE": "APP_SERVER"}
        process = subprocess.Popen(
            [sys.executable, "-m", "tbeast.test.stubassembly", behaviour, *self.fronts[front]],
            env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=60)

    def outcome(self, behaviour: str, front: str, port: int = 1) -> tuple[int, str, str]:
        with self.process(behaviour, front, port) as process:
            out, err = process.communicate(timeout=60)
            return process.returncode, out, err

    def test_a_port_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for front in self.fronts:
                status, out, err = self.outcome("listen", front, port)
                words = f"cannot listen on 127.0.0.1, port {port} (TCP_PORT_LPO): Address already in use"
                self.assertEqual((status, err), (1, f"tbeast: cannot start: {words}\n"), front)
                self.assertIn(f"tbeast cannot start: {words}\n", out)
                self.assertIn("stub stopped", out)  # and what had started was stopped first
                self.assertNotIn("Traceback", out)

    def test_a_start_that_fails_once_it_runs(self) -> None:
        for front in self.fronts:
            status, out, err = self.outcome("late", front)
            self.assertEqual(status, 1, front)
            self.assertIn("port 1 (TCP_PORT_LPO): Address in use", err)
            self.assertIn("stub stopped", out)
            self.assertNotIn("Traceback", out)

    def test_a_mistake_of_ours(self) -> None:
        status, out, err = self.outcome("bug", "twistd")
        self.assertEqual((status, err), (1, "tbeast: cannot start: ZeroDivisionError: division by zero\n"))
        self.assertIn("Traceback", out)

    def test_signals_stop_it_in_good_order(self) -> None:
        """Twisted ends a process by the very signal that stopped it, once everything has stopped."""
        for front, number in (("twistd", signal.SIGTERM), ("twist", signal.SIGINT)):
            with self.process("listen", front, port=0) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    if "stub started" in line:
                        break
                else:
                    self.fail("it did not start")
                process.send_signal(number)
                out, err = process.communicate(timeout=60)
                self.assertEqual(process.returncode, -number)
                self.assertIn("stub stopped", out)
                self.assertNotIn("Traceback", out + err)

    def test_faulty_settings(self) -> None:
        for front in self.fronts:
            status, out, err = self.outcome("listen", front, port=70_000)
            self.assertEqual((status, out), (1, ""), front)
            self.assertEqual(len(err.splitlines()), 2, err)
            self.assertIn("environment: TCP_PORT_LPO = '70000': must be a whole number from 0 to 65535", err)


class WaitingReactor:
    """As much of a reactor as there is to waiting, on a clock that can be set."""

    def __init__(self) -> None:
        self.wall = 1_790_000_000.0
        self.calls: list[DelayedCall] = []

    def seconds(self) -> float:
        return self.wall

    def getDelayedCalls(self) -> list[DelayedCall]:
        return self.calls

    def callLater(self, delay: float) -> DelayedCall:
        call = DelayedCall(self.seconds() + delay, lambda: None, (), {}, lambda _: None, lambda _: None, self.seconds)
        self.calls.append(call)
        return call


class WaitEvenlyTests(SynchronousTestCase):
    def test_a_clock_that_is_set_back(self) -> None:
        """Neither what was waited for before nor what comes after is held up."""
        reactor = WaitingReactor()
        before = reactor.callLater(10.0)
        wait_evenly(reactor)
        after = reactor.callLater(10.0)
        reactor.wall -= 3600.0
        for call in (before, after, reactor.callLater(10.0)):
            left = call.getTime() - reactor.seconds()
            self.assertTrue(5.0 < left <= 10.1, left)

    def test_put_off(self) -> None:
        """A call from before that is put off waits by the new clock too."""
        reactor = WaitingReactor()
        call = reactor.callLater(10.0)
        wait_evenly(reactor)
        reactor.wall -= 3600.0
        call.reset(20.0)
        left = call.getTime() - reactor.seconds()
        self.assertTrue(15.0 < left <= 20.1, left)
