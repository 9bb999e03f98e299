"""tbeast loadtest, against a real surface on loopback, with levels and times made small."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
from click.testing import CliRunner, Result
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from tbeast.commands.loadtargets import Site, sites_of
from tbeast.commands.main import main
from tbeast.loadtest import machine
from tbeast.loadtest.levels import LEVELS, Room
from tbeast.loadtest.report import Report, read_report
from tbeast.settings import SETTINGS
from tbeast.test.commands.opendoors import STRANGER, OpenDoors
from tbeast.test.loadtest.peers import dead_port
from tbeast.test.servers.rooms import FREE, PARTNER

SHORT = ("--seconds", "0.3", "--assets", "BTC,ETH", "--udp-timeout", "1")


class LoadTests(OpenDoors):
    timeout = 120

    def setUp(self) -> None:
        super().setUp()
        self.name = str(Path(self.mktemp()).absolute())

    async def load(self, *arguments: str, key: str = PARTNER) -> Result:
        result: Result = await self.ask("loadtest", "--out", self.name, *arguments, key=key)
        return result

    def report(self) -> Report:
        """What was written; the page must be there too."""
        ElementTree.fromstring(Path(f"{self.name}.html").read_text("utf-8").split("\n", 1)[1])
        return read_report(Path(f"{self.name}.json").read_bytes())

    async def test_both_protocols(self) -> None:
        result = await self.load("--levels", "1,4,16", *SHORT)
        self.assertEqual(result.exit_code, 0, result.output)
        report = self.report()
        self.assertEqual(
            [(level.protocol, level.askers) for level in report.levels],
            [("tcp", 1), ("tcp", 4), ("tcp", 16), ("udp", 1), ("udp", 4), ("udp", 16)],
        )
        answered = 0
        for level in report.levels:
            self.assertEqual((level.success, level.reached, level.connecting), (100.0, True, {}))
            assert level.closed is not None and level.open is not None
            self.assertEqual((level.closed.errors, level.open.errors), ({}, {}))
            self.assertAlmostEqual(level.open.rate_asked or 0.0, level.closed.rate / 2.0, places=1)
            self.assertGreater(level.open.latency.count, 0)
            answered += level.closed.ok + level.open.ok
        self.assertEqual((report.reached, report.interrupted, report.notes), (True, False, ()))
        self.assertEqual((report.node, report.simulated, report.assets), ("node-1", True, ("BTC", "ETH")))
        self.assertEqual(
            report.targets, {"tcp": f"http://127.0.0.1:{self.port}", "udp": f"udp://127.0.0.1:{self.udp_port}"}
        )
        # the daemon has counted as many, and the two questions that looked first
        counts = self.house.counters.counts
        counted = sum(counts.get(("requests", "lpo", protocol, "200"), 0) for protocol in ("http", "udp"))
        self.assertEqual(counted, answered + 2)
        self.assertEqual(set(self.site.asked), {b"/prices?assets=BTC%2CETH", b"/price?asset=BTC", b"/price?asset=ETH"})
        for words in ("6 of 6 levels reached 99.9 % success.", f"{self.name}.json and"):
            self.assertIn(words, result.stdout)
        self.assertEqual(len(re.findall(r"^(TCP|UDP) level \d, [\d,]+ at once: 100 %", result.stderr, re.M)), 6)

    async def test_the_key_is_in_no_report(self) -> None:
        await self.load("--levels", "2", *SHORT)
        for name in (f"{self.name}.json", f"{self.name}.html"):
            self.assertNotIn(PARTNER, Path(name).read_text("utf-8"))

    async def test_a_key_with_a_limit_does_not_reach_the_goal(self) -> None:
        result = await self.load("--levels", "2", "--protocol", "tcp", "--rate", "200", *SHORT, key=FREE)
        self.assertEqual(result.exit_code, 1, result.output)
        report = self.report()
        (level,) = report.levels
        assert level.closed is not None and level.open is not None
        self.assertEqual(set(level.closed.errors), {"status 429"})
        self.assertEqual(level.closed.asked, level.closed.ok + level.closed.errors["status 429"])
        self.assertEqual((level.open.rate_asked, report.load, report.rate), (200.0, None, 200.0))
        self.assertFalse(report.reached)
        self.assertIn("0 of 1 levels reached", result.stdout)

    async def test_udp_refusals_and_losses_are_told_apart(self) -> None:
        result = await self.load("--levels", "2", "--protocol", "udp", *SHORT, key=FREE)
        self.assertEqual(result.exit_code, 1, result.output)
        (level,) = self.report().levels
        assert level.closed is not None
        self.assertEqual(set(level.closed.errors), {"rate_limited"})
        self.datagrams.losing = 10**9
        result = await self.load("--levels", "2,3", "--protocol", "udp", *SHORT)
        self.assertEqual(result.exit_code, 3, "nobody answers")

    async def test_every_asset_that_has_a_price(self) -> None:
        result = await self.load("--levels", "3", "--protocol", "tcp", "--seconds", "0.3")
        self.assertEqual(result.exit_code, 0, result.output)
        report = self.report()
        self.assertEqual(report.assets, ("BTC", "ETH"))
        (note,) = report.notes
        self.assertIn("148 of the bundled table's assets have no price there now", note)
        self.assertIn(note, result.stderr)

    async def test_a_level_that_the_machine_has_no_room_for(self) -> None:
        self.patch(machine, "room_for", lambda host: Room(files=72, ports=1000, sources=1))
        result = await self.load("--levels", "2,20,30", "--protocol", "tcp", "--generators", "1", *SHORT)
        self.assertEqual(result.exit_code, 0, result.output)
        report = self.report()
        self.assertEqual([(level.wanted, level.askers) for level in report.levels], [(2, 2), (20, 8)])
        self.assertEqual(len(report.notes), 2)
        self.assertIn("cut to 8: one process may open 72 files", result.stderr)

    async def test_several_generators(self) -> None:
        self.patch(machine, "room_for", lambda host: Room(files=72, ports=1000, sources=1))
        result = await self.load("--levels", "20", "--protocol", "tcp", *SHORT)
        self.assertEqual(result.exit_code, 0, result.output)
        report = self.report()
        self.assertEqual(report.generators, 3)
        self.assertEqual([(level.askers, level.sockets) for level in report.levels], [(20, 20)])

    async def test_what_is_refused_is_not_loaded(self) -> None:
        for arguments, key, words in (
            (["--assets", "BTC,NOPE"], PARTNER, "unknown_asset"),
            (["--assets", "SOL"], PARTNER, "no_fresh_price"),
            (["--assets", "BTC"], STRANGER, "bad_key"),
        ):
            result = await self.load("--levels", "1", *arguments, key=key)
            self.assertEqual((result.exit_code, result.stdout), (1, ""), result.output)
            self.assertIn(words, result.stderr)
            self.assertFalse(Path(f"{self.name}.json").exists())

    async def test_nobody_is_there(self) -> None:
        for protocol, option, kind in (
            ("tcp", "--url=http://127.0.0.1:{}", socket.SOCK_STREAM),
            ("udp", "--udp=127.0.0.1:{}", socket.SOCK_DGRAM),
        ):
            result = await self.load("--protocol", protocol, option.format(dead_port(kind)))
            self.assertEqual((result.exit_code, result.stdout), (3, ""))
            self.assertIn("no answer from", result.stderr)

    async def test_ctrl_c_in_a_terminal(self) -> None:
        screen, status = await deferToThread(self.load_in_terminal, rb"closed loop: [\d,]+ answered")
        self.assertEqual(status, 1)
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
        for words in ("UDP 1: 3 under way", "Interrupted on UDP level 1", "0 of 1 levels reached", "hold the whole"):
            self.assertIn(words, plain)
        self.assertNotIn("Traceback", plain)
        self.assertGreater(screen.rfind("\x1b[?25h"), screen.rfind("\x1b[?25l"), "the cursor is given back")
        report = self.report()
        self.assertEqual((report.interrupted, report.reached), (True, False))
        (level,) = report.levels
        assert level.closed is not None
        self.assertTrue(level.interrupted)
        self.assertGreater(level.closed.ok, 0)
        self.assertIsNone(level.open)

    def load_in_terminal(self, until: bytes) -> tuple[str, int]:
        """Run it in a terminal of its own; interrupt it as Ctrl-C does, once this was shown."""
        ours, theirs = pty.openpty()
        environment = {name: text for name, text in self.environment(COLUMNS="110", LINES="30").items() if text}
        running = subprocess.Popen(
            [sys.executable, "-c", "from tbeast.commands.main import main; main()", "loadtest", "--key", PARTNER,
                "--levels", "3,5", "--seconds", "60", "--assets", "BTC", "--out", self.name],
            env={**environment, "PYTHONPATH": ":".join(sys.path), "TERM": "xterm-256color",
                "PYTHONIOENCODING": "utf-8"},
            stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        interrupted = False
        try:
            while select.select([ours], [], [], 60.0)[0]:
                try:
                    part = os.read(ours, 65536)
                except OSError:  # Linux's end of a terminal
                    break
                if not part:
                    break
                shown += part
                if not interrupted and re.search(until, shown):
                    interrupted = True
                    running.send_signal(signal.SIGINT)
            return shown.decode("utf-8"), running.wait(30.0)
        finally:
            os.close(ours)
            if running.poll() is None:
                running.kill()
                running.wait()


class MisuseTests(SynchronousTestCase):
    def run_command(self, *arguments: str) -> Result:
        environment: dict[str, str | None] = dict.fromkeys(SETTINGS)
        return CliRunner().invoke(main, ["loadtest", "--key", PARTNER, *arguments], env=environment)

    def test_misuse(self) -> None:
        name = str(Path(self.mktemp()).absolute())
        for arguments, words in (
            (["--levels", "5,1"], "each level must be higher"),
            (["--levels", "many"], "is no number"),
            (["--levels", "100001"], "is no number from 1 to 100,000"),
            (["--seconds", "601"], "is not in the range"),
            (["--seconds", "0"], "is not in the range"),
            (["--load", "0.5", "--rate", "5"], "--load and --rate: give one"),
            (["--rate", "2000000"], "is not in the range"),
            (["--url", "https://127.0.0.1:1"], "TLS is not loaded"),
            (["--url", "127.0.0.1:1"], "is not of the form http://HOST:PORT"),
            (["--url", "http://127.0.0.1:1/price"], "is not of the form"),
            (["--url", "http://me@127.0.0.1:1"], "is not of the form"),
            (["--url", "http://127.0.0.1:99999"], "out of range"),
            (["--udp", "127.0.0.1"], "names no port"),
            (["--udp", "127.0.0.1:x"], "--udp"),
            (["--assets", "BTC-USDT", "--url", "http://127.0.0.1:1"], "name assets, not pairs"),
            (["--assets", "BTC;"], "is no asset"),
            (["--generators", "0"], "is not in the range"),
        ):
            result = self.run_command("--out", name, *arguments)
            self.assertEqual((result.exit_code, result.stdout), (2, ""), (arguments, result.output))
            self.assertIn(words, " ".join(result.stderr.split()))
            self.assertFalse(Path(f"{name}.json").exists())

    def test_a_report_that_could_not_be_written_is_told_before_the_load(self) -> None:
        result = self.run_command("--out", str(Path(self.mktemp()).absolute() / "no" / "folder"))
        self.assertEqual(result.exit_code, 2)
        self.assertIn("no such file or directory", result.stderr)

    def test_a_report_that_is_there_is_not_lost_by_a_run_that_does_not_begin(self) -> None:
        name = Path(self.mktemp()).absolute()
        kept = Path(f"{name}.json")
        kept.write_text("{}")
        self.run_command("--out", str(name), "--levels", "x")
        self.run_command("--out", str(name), "--url", f"http://127.0.0.1:{dead_port(socket.SOCK_STREAM)}")
        self.assertEqual(kept.read_text(), "{}")

    def test_another_machine(self) -> None:
        for arguments in (["--url", "http://192.0.2.1:80"], ["--udp", "192.0.2.1:80", "--protocol", "udp"]):
            result = self.run_command("--out", self.mktemp(), *arguments)
            self.assertEqual((result.exit_code, result.stdout), (2, ""))
            self.assertIn("--allow-remote", result.stderr)

    def test_the_help_names_the_levels(self) -> None:
        result = self.run_command("--help")
        self.assertEqual(result.exit_code, 0)
        self.assertIn(f"{LEVELS[-1]:,}", result.stdout)


class SitesTests(SynchronousTestCase):
    def sites(self, url: str | None = None, udp: str | None = None, **changes: Any) -> list[Site]:
        parts: dict[str, Any] = {
            "protocols": ("tcp", "udp"),
            "key": PARTNER,
            "key_file": None,
            "remote": False,
            **changes,
        }
        return sites_of(url, udp, **parts)

    def test_where_nothing_is_said(self) -> None:
        for name in ("TCP_PORT_LPO", "UDP_PORT_LPO"):
            self.patch(os, "environ", {key: text for key, text in os.environ.items() if key != name})
        self.assertEqual([site.url for site in self.sites()], ["http://127.0.0.1:8080", "udp://127.0.0.1:2679"])

    def test_the_host_of_the_url_is_that_of_the_datagrams(self) -> None:
        tcp, udp = self.sites("http://127.0.0.2:81/")
        self.assertEqual((tcp.url, tcp.place.host, tcp.place.port), ("http://127.0.0.2:81", "127.0.0.2", 81))
        self.assertEqual(udp.place.host, "127.0.0.2")
        _, udp = self.sites("http://127.0.0.2:81", "127.0.0.3:9")
        self.assertEqual(udp.url, "udp://127.0.0.3:9")
        (tcp,) = self.sites("http://localhost", protocols=("tcp",))
        self.assertEqual((tcp.url, tcp.place.port), ("http://localhost:80", 80))
        self.assertTrue(machine.is_loopback(tcp.place.host))

    def test_many_connections_come_from_several_addresses(self) -> None:
        tcp, udp = self.sites("http://127.0.0.1:81", "127.0.0.1:9")
        self.assertEqual(tcp.setup(("BTC",), 1.0, 21_000).sources, ("127.0.0.1", "127.0.0.2", "127.0.0.3"))
        self.assertEqual((tcp.setup(("BTC",), 1.0, 1_000).sources, udp.setup(("BTC",), 1.0, 21_000).sources), ((), ()))
        (six,) = self.sites("http://[::1]:81", protocols=("tcp",))
        setup = six.setup(("BTC",), 1.0, 21_000)
        self.assertEqual((setup.host, setup.authority, setup.sources), ("::1", "[::1]:81", ()))

    def test_another_machine_that_was_allowed(self) -> None:
        said: list[str] = []
        self.patch(click, "echo", lambda words, err: said.append(words))
        (site,) = self.sites("http://192.0.2.1:80", protocols=("tcp",), remote=True)
        self.assertEqual(site.place.host, "192.0.2.1")
        (words,) = said
        self.assertIn("WARNING: this loads 192.0.2.1:80", words)
