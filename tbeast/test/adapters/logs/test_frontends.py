"""twistd and twist log with our observer, and with nothing beside it: real front ends, in processes of their own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

from twisted.application.app import AppLogger
from twisted.application.twist._options import TwistOptions
from twisted.logger import FileLogObserver, ILogObserver
from twisted.scripts._twistd_unix import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

import tbeast
from tbeast.adapters.logs.frontends import log_with

ROOT = str(Path(tbeast.__file__).parent.parent)


class LogWithTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.addCleanup(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))
        self.streams: list[TextIO] = []
        self.soon: list[Any] = []

    def make(self, stream: TextIO) -> ILogObserver:
        self.streams.append(stream)
        return FileLogObserver(stream, lambda event: "seen\n")

    def twistd(self, *arguments: str) -> tuple[str, ServerOptions]:
        options = ServerOptions()
        options.parseOptions(list(arguments))
        why = log_with(options, self.make, self.soon.append)
        options.postOptions()
        return why, options

    def test_twist(self) -> None:
        """Where it writes to is twist's affair."""
        options = TwistOptions()
        options.selectDefaultLogObserver()
        self.assertEqual("", log_with(options, self.make, self.soon.append))
        stream = io.StringIO()
        options["fileLogObserverFactory"](stream)
        self.assertEqual([stream], self.streams)

    def test_twistd_in_the_foreground(self) -> None:
        for arguments in (("-n",), ("-n", "--logfile=-")):
            why, options = self.twistd(*arguments)
            self.assertEqual("", why)
            AppLogger(options)._observerFactory()  # type: ignore[misc]
            self.assertIs(sys.stdout, self.streams.pop())

    def test_twistd_into_a_file(self) -> None:
        """Which is cut by SIGUSR1, when the reactor has its turn."""
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        path = Path(self.mktemp()).absolute()
        why, options = self.twistd("-n", f"--logfile={path}")
        self.assertEqual("", why)
        observer = AppLogger(options)._observerFactory()  # type: ignore[misc]
        observer({})
        self.assertEqual("seen\n", path.read_text())
        os.kill(os.getpid(), signal.SIGUSR1)
        (rotate,) = self.soon
        rotate()
        observer({})
        self.streams[0].close()
        self.assertEqual(("seen\n", "seen\n"), (path.read_text(), Path(f"{path}.1").read_text()))

    def test_what_cannot_be(self) -> None:
        self.assertIn("--syslog", self.twistd("-n", "--syslog")[0])
        options = ServerOptions()
        options["logger"] = "some.logger"
        self.assertIn("--logger", log_with(options, self.make, self.soon.append))
        self.assertIn("background", self.twistd("--logfile=-")[0])


FRONT = """
import sys
from twisted.application.service import IServiceMaker, MultiService
from twisted.internet import reactor
from twisted.logger import Logger
from twisted.plugin import IPlugin
from twisted.python.usage import Options
from zope.interface import implementer
from tbeast.adapters.logs.frontends import log_with
from tbeast.adapters.logs.jsonlines import JsonLines
from tbeast.adapters.logs.masking import Masking

class Ours(Options):
    def postOptions(self):
        make = lambda stream: JsonLines(stream, "n", Masking())
        assert not log_with(self.parent, make, reactor.callFromThread)
        Logger("early").info("said early")

@implementer(IServiceMaker, IPlugin)
class Maker:
    tapname, description, options = "ours", "", Ours
    def makeService(self, options):
        def end():
            Logger("ours").info("said once", request_id="0f")
            print("printed")
            reactor.stop()
        reactor.callWhenRunning(end)
        return MultiService()

import twisted.plugin, twisted.application.twist._options
found = lambda interface: [Maker()]
twisted.plugin.getPlugins = twisted.application.twist._options.getPlugins = found
front, *sys.argv[1:] = sys.argv[1:]
if front == "twistd":
    from twisted.scripts.twistd import run
    run()
else:
    from twisted.application.twist._twist import Twist
    Twist.main(sys.argv)
"""


class RealFrontEndTests(SynchronousTestCase):
    def lines(self, *arguments: str) -> list[Any]:
        environ = {**os.environ, "PYTHONPATH": ROOT}
        command = [sys.executable, "-c", FRONT, *arguments]
        ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(("", 0), (ran.stderr, ran.returncode), ran.stdout)
        return [json.loads(line) for line in ran.stdout.splitlines()]

    def check(self, lines: list[Any]) -> None:
        """Each thing is said once, from the first on, and every line is ours."""
        messages = [line["message"] for line in lines]
        for message in ("said early", "said once", "printed"):
            self.assertEqual(1, messages.count(message), messages)
        self.assertEqual({"n"}, {line["node"] for line in lines})
        (once,) = [line for line in lines if line["message"] == "said once"]
        self.assertEqual(("0f", "ours"), (once["request_id"], once["namespace"]))

    def test_twistd(self) -> None:
        self.check(self.lines("twistd", "-n", "--pidfile=", "ours"))

    def test_twist(self) -> None:
        for log_format in ("--log-format=text", "--log-format=json"):
            self.check(self.lines("twist", log_format, "ours"))
