"""The lab as a process: announcement, refusals, and its end."""

from __future__ import annotations

import json
import sys
from io import StringIO
from typing import Any
from unittest.mock import patch

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.lab.main import Options, OptionsError, announcement, make_lab, read_habits, read_options, run
from tbeast.lab.tables import EXCHANGES


class OptionsTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        self.assertEqual(read_options([]), Options())

    def test_all(self) -> None:
        given = ["--seed", "7", "--host", "::1", "--port-base", "9000", "--rate", "5", "--script", "s.json", "--parent",
                 "--announce", "text", "--no-limits", "--habit", "okx.idle_seconds=3", "--habit",
                 "kraken.heartbeat_seconds=0.5"]  # fmt: skip
        habits = {"okx": {"idle_seconds": 3.0}, "kraken": {"heartbeat_seconds": 0.5}}
        wanted = Options(7, "::1", 9000, 5.0, "s.json", "text", True, False, habits)
        self.assertEqual(read_options(given), wanted)

    def test_habits(self) -> None:
        for item in ("", "okx", "okx=3", "okx.idle_seconds", "okx.idle_seconds=x", "okx.idle_seconds=0"):
            self.assertRaises(OptionsError, read_habits, [item])

    def test_what_cannot_be_followed(self) -> None:
        for options in (
            Options(host="0.0.0.0"),
            Options(port_base=-1),
            Options(port_base=65530),
            Options(rate=0),
            Options(script="/there/is/no/such.json"),
            Options(habits={"okx": {"nonsense": 1.0}}),
            Options(habits={"mtgox": {}}),
        ):
            self.assertRaises(OptionsError, make_lab, options, Clock())

    def test_script_file(self) -> None:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write('[{"at_seconds": 1, "fault": {"kind": "earthquake"}}]')
        error = self.assertRaises(OptionsError, make_lab, Options(script=path), Clock())
        self.assertIn("earthquake", str(error))
        with open(path, "w") as file:
            file.write('[{"at_seconds": 1, "fault": {"kind": "silence"}}]')
        make_lab(Options(script=path), Clock())

    def test_refusals_are_exit_status_2(self) -> None:
        for argv in (["--host", "0.0.0.0"], ["--habit", "nonsense"]):
            with patch("sys.stderr", StringIO()) as stderr:
                self.assertEqual(run(argv), 2)
            self.assertIn("tbeast lab: ", stderr.getvalue())

    def test_text_says_that_prices_are_invented(self) -> None:
        text = announcement(make_lab(Options(), Clock()), "text")
        self.assertIn("invented", text)


class _Watched(ProcessProtocol):
    transport: Any

    def __init__(self) -> None:
        self.line: Deferred[bytes] = Deferred()
        self.ended: Deferred[Any] = Deferred()
        self.out = b""
        self.errors = b""

    def outReceived(self, data: bytes) -> None:
        self.out += data
        if b"\n" in self.out and not self.line.called:
            self.line.callback(self.out.partition(b"\n")[0])

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        if not self.line.called:
            self.line.errback(RuntimeError(self.errors.decode()))
        self.ended.callback(reason.value)


class ProcessTests(TestCase):
    timeout = 60

    def spawn(self, *argv: str) -> _Watched:
        watched = _Watched()
        command = [sys.executable, "-m", "tbeast.lab", *argv]
        process = reactor.spawnProcess(watched, sys.executable, command, env=None)

        def clean() -> Deferred[Any] | None:
            if watched.ended.called:
                return None
            process.signalProcess("KILL")
            return watched.ended

        self.addCleanup(clean)
        return watched

    async def test_announces_and_ends_when_standard_input_closes(self) -> None:
        watched = self.spawn("--parent", "--announce", "json")
        places = json.loads(await watched.line)
        self.assertEqual(set(places), {"control", "exchanges"})
        self.assertEqual(tuple(places["exchanges"]), EXCHANGES)
        for urls in places["exchanges"].values():
            self.assertTrue(urls["ws_url"].startswith("ws://127.0.0.1:"))
            self.assertTrue(urls["rest_url"].startswith("http://127.0.0.1:"))
        paths = {name: urls["ws_url"].split("/", 3)[3] for name, urls in places["exchanges"].items()}
        self.assertEqual(paths, {"coinbase": "", "gemini": "", "kraken": "v2", "gateio": "ws/v4/",
                                 "cryptocom": "exchange/v1/market", "okx": "ws/v5/public"})  # fmt: skip
        watched.transport.closeStdin()
        self.assertIsInstance(await watched.ended, ProcessDone)
        self.assertEqual(watched.out.count(b"\n"), 1)

    async def test_ends_in_good_order_when_asked_to(self) -> None:
        watched = self.spawn()
        await watched.line
        watched.transport.signalProcess("TERM")
        self.assertIsInstance(await watched.ended, ProcessDone)

    async def test_without_parent_it_outlives_its_standard_input(self) -> None:
        watched = self.spawn()
        await watched.line
        watched.transport.closeStdin()
        other = self.spawn("--parent")
        await other.line
        other.transport.closeStdin()
        await other.ended
        self.assertFalse(watched.ended.called)

    async def test_refuses_other_addresses(self) -> None:
        watched = self.spawn("--host", "0.0.0.0")
        await self.assertFailure(watched.line, RuntimeError)
        reason = await watched.ended
        self.assertEqual(reason.exitCode, 2)
        self.assertIn(b"loopback", watched.errors)
