"""C{TBEAST_LOG_FORMAT=json} under the real front ends: every line of the log is JSON, and nothing is logged twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import tbeast

ROOT = str(Path(tbeast.__file__).parent.parent)
SECRET = "an-operators-own-key"
FRONTS = {"twistd": ("twistd", "-n", "--pidfile="), "twist": ("twist", "--log-format=text")}


class JsonLogTests(SynchronousTestCase):
    def run_front(self, behaviour: str, *front: str, **said: str) -> tuple[int, str, str]:
        environ = {name: text for name, text in os.environ.items() if not name.startswith("TBEAST_")}
        environ |= {
            "PYTHONPATH": ROOT, "TCP_PORT_LPO": "1", "SERVER_TYPE": "APP_SERVER", "CLUSTER_NODE": "node-7",
            "TBEAST_KEYS": SECRET, "TBEAST_LOG_FORMAT": "json", **said,
        }  # fmt: skip
        command = [sys.executable, "-m", "tbeast.test.stubassembly", behaviour, *front]
        command += ["tbeast", "--state", self.mktemp()]
        ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        return ran.returncode, ran.stdout, ran.stderr

    def check(self, lines: list[Any]) -> None:
        messages = [line["message"] for line in lines]
        for message in ("stub started", "stub stopped"):  # printed by the stub
            self.assertEqual(1, messages.count(message), messages)
        self.assertEqual({"node-7"}, {line["node"] for line in lines})
        (failure,) = [line for line in lines if "failure" in line]
        self.assertEqual("critical", failure["level"])
        self.assertIn("ZeroDivisionError: division by zero", failure["failure"])

    def test_a_daemon_that_fails(self) -> None:
        """Its last line on standard error stays as it is, for people and for systemd."""
        for name, front in FRONTS.items():
            status, out, err = self.run_front("bug", *front)
            self.assertEqual(1, status, name)
            self.assertEqual("tbeast: cannot start: ZeroDivisionError: division by zero\n", err)
            self.check([json.loads(line) for line in out.splitlines()])

    def test_into_a_file(self) -> None:
        path = Path(self.mktemp()).absolute()
        status, out, _ = self.run_front("bug", *FRONTS["twistd"], f"--logfile={path}")
        self.assertEqual((1, ""), (status, out))
        self.check([json.loads(line) for line in path.read_text().splitlines()])

    def test_what_cannot_be(self) -> None:
        """It is told as every fault in the settings is."""
        status, out, err = self.run_front("bug", *FRONTS["twistd"], "--syslog")
        self.assertEqual((1, ""), (status, out))
        self.assertIn("TBEAST_LOG_FORMAT (environment): --syslog takes plain lines", err)

    def test_text_stays_as_it_was(self) -> None:
        status, out, _ = self.run_front("bug", *FRONTS["twistd"], TBEAST_LOG_FORMAT="text")
        self.assertEqual(1, status)
        self.assertIn("[-] stub started", out.replace("[stdout#info]", "[-]"))
