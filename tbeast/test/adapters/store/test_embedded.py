"""The embedded PostgreSQL: where it is, how it is found, and the daemon's companion that keeps it alive."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.adapters.store import embedded, privileges
from tbeast.adapters.store.embedded import PidFile, binaries, command, folder_of, read_pid_file, running, target_of
from tbeast.adapters.store.keeper import inhabitants
from tbeast.adapters.store.postgres import connect
from tbeast.errors import StoreError
from tbeast.services.companion import Announcement, Companion
from tbeast.test.adapters.store.embeddedservers import (
    execute,
    life_folder,
    open_folder,
)
from tbeast.testing.postgres import QUICK, Server, environment

reactor: Any = installed_reactor


class FactTests(SynchronousTestCase):
    def test_the_programs_are_those_of_the_wheel(self) -> None:
        for name in ("postgres", "initdb", "psql"):
            self.assertTrue(os.access(binaries() / name, os.X_OK), name)

    def test_without_the_extra_the_advice_is_to_install_it(self) -> None:
        self.patch(embedded, "find_spec", lambda name: None)
        with self.assertRaises(StoreError) as caught:
            binaries()
        self.assertIn("pip install 'tbeast[embedded]'), or set AURORA_URL", str(caught.exception))

    def test_the_command_names_the_folder_whatever_the_current_one_is(self) -> None:
        self.assertEqual(
            command("var"), [sys.executable, "-m", "tbeast.adapters.store.keeper", os.path.abspath("var/postgres")]
        )

    def test_what_the_keeper_said_is_a_place_to_connect_to(self) -> None:
        place = target_of({"url": embedded.url("/var/lib/a b/postgres"), "pid": 1})
        self.assertEqual(place.where, "/var/lib/a b/postgres/tbeast")
        self.assertEqual(place.arguments()["user"], "tbeast")
        with self.assertRaises(StoreError):
            target_of({"pid": 1})

    def test_a_path_in_another_encoding_than_ours_has_a_url_too(self) -> None:
        path = os.fsdecode("/var/lib/preis-straße".encode())
        self.assertEqual(target_of({"url": embedded.url(path)}).arguments()["host"], "/var/lib/preis-straße")
        # as an ASCII system reads that ß, and a path that is no UTF-8 at all
        for path in ("/var/lib/stra\udcc3\udc9fe", "/var/lib/stra\udcdfe"):
            self.assertIn("/var/lib/stra", target_of({"url": embedded.url(path)}).where)

    def test_a_pid_file(self) -> None:
        data = Path(self.mktemp())
        self.assertIsNone(read_pid_file(data))
        data.mkdir()
        file = data / "postmaster.pid"
        for text, read in (
            ("", None),
            ("x\n", None),
            ("12", PidFile(12)),
            ("-12\n/data\n", PidFile(12)),
            ("12\n/data\n1700000000\n5432\n/sock\n\n 1 2\nready   \n", PidFile(12, "/sock", "ready")),
        ):
            file.write_text(text)
            self.assertEqual(read_pid_file(data), read, text)


class RunningTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = life_folder().parent
        self.server = Server(QUICK, life_folder())
        self.addCleanup(self.server.stop)

    def test_it_is_found_while_it_runs(self) -> None:
        self.assertIsNone(running(self.state))
        self.server.start()
        found = running(self.state)
        assert found is not None
        self.assertEqual(execute(found.url, "SELECT 1"), 1)
        self.server.stop()
        self.assertIsNone(running(self.state))

    def test_libpqs_environment_leads_nobody_astray(self) -> None:
        """Variables that are meant for a server of the operator's own, of which each alone would do it."""
        self.server.start()
        for name, text in (
            ("PGHOSTADDR", "127.0.0.1"), ("PGSERVICE", "nowhere"), ("PGTZ", "nowhere"), ("PGOPTIONS", "-c no=way"),
            ("PGTARGETSESSIONATTRS", "standby"), ("PGREQUIREPEER", "somebody"), ("PGREQUIREAUTH", "scram-sha-256"),
        ):  # fmt: skip
            for found in (lambda: running(self.state), lambda: target_of(self.server.announced)):
                os.environ[name] = text
                self.addCleanup(os.environ.pop, name, None)
                place = found()
                assert place is not None, name
                connection = connect(place)
                self.addCleanup(connection.close)
                self.assertEqual(connection.info.host, str(self.server.folder))

    def test_what_a_killed_one_leaves_is_not_taken_for_one_that_runs(self) -> None:
        self.server.start()
        self.server.kill()
        self.assertTrue((self.server.data / "postmaster.pid").exists())
        self.assertIsNone(running(self.state))

    def test_another_server_on_the_socket_is_not_taken_for_ours(self) -> None:
        self.server.start()
        other = open_folder(self)
        data = folder_of(other) / "data"
        data.mkdir(parents=True)
        shutil.copy(self.server.data / "postmaster.pid", data)
        self.assertIsNone(running(other))


class CompanionTests(TestCase):
    timeout = 60

    async def test_the_daemons_companion_starts_it_again_when_it_dies(self) -> None:
        state = open_folder(self)
        again: Deferred[Announcement] = Deferred()
        companion = Companion("PostgreSQL", [*command(state), *QUICK], reactor, again.callback, environment())
        first = await companion.start()
        self.addCleanup(companion.stop)
        execute(first["url"], "CREATE TABLE kept (a integer)")
        os.kill(first["pid"], signal.SIGKILL)
        second = await again
        self.assertEqual(second["url"], first["url"])
        self.assertNotEqual(second["pid"], first["pid"])
        self.assertEqual(execute(second["url"], "SELECT count(*) FROM kept"), 0)
        await companion.stop()
        self.assertEqual(inhabitants(folder_of(state) / "data"), [])
        control = subprocess.run(
            [str(binaries() / "pg_controldata"), str(folder_of(state) / "data")],
            capture_output=True, text=True, check=True, env=privileges.environment(),
        )  # fmt: skip
        self.assertRegex(control.stdout, r"cluster state: +shut down\n")
