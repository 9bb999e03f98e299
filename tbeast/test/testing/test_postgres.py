"""The PostgreSQL for tests: each database stands alone, and nothing of it outlives the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import TestCase

import psycopg2
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store.keeper import inhabitants
from tbeast.adapters.store.migrations import check
from tbeast.adapters.store.postgres import connect, target
from tbeast.testing.postgres import Server, environment, fresh_connection, fresh_database, own_server

_CHILD = """
import sys
from tbeast.testing.postgres import _shared, fresh_database
fresh_database()
print(_shared()[0].data, flush=True)
sys.stdin.read()
"""


class Case(TestCase):
    def runTest(self) -> None:
        raise NotImplementedError


class DatabaseTests(SynchronousTestCase):
    def test_it_has_the_schema(self) -> None:
        self.assertIsNone(check(fresh_connection(self)))

    def test_each_is_alone(self) -> None:
        one, other = fresh_connection(self), fresh_connection(self)
        with one.cursor() as cursor:
            cursor.execute("INSERT INTO application_parameters (key, value) VALUES ('a', '1')")
        one.commit()
        with other.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM application_parameters WHERE key = 'a'")
            self.assertEqual(cursor.fetchone(), (0,))

    def test_it_is_dropped_when_its_case_ends_even_in_use(self) -> None:
        case = Case()
        url = fresh_database(case)
        connection = connect(target(url))
        self.addCleanup(connection.close)
        case.doCleanups()
        with self.assertRaises(psycopg2.Error), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        with self.assertRaises(Exception) as caught:
            connect(target(url))
        self.assertIn("does not exist", str(caught.exception))

    def test_what_a_process_leaves_is_removed_although_it_was_killed(self) -> None:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
        )
        assert child.stdin is not None
        assert child.stdout is not None
        data = Path(child.stdout.readline().decode().strip())
        self.assertNotEqual(inhabitants(data), [])
        root = data.parent.parent
        # a lock of ours on the server's folder cannot be had before its keeper has ended, so wait for the removal
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdin.close()
        child.stdout.close()
        gone = subprocess.run(
            ["sh", "-c", 'while [ -e "$0" ]; do sleep 0.05; done', str(root)], timeout=30, check=False
        )
        self.assertEqual(gone.returncode, 0)
        self.assertEqual(inhabitants(data), [])


class ServerTests(SynchronousTestCase):
    def test_killed_and_started_again_it_has_what_was_committed(self) -> None:
        server = own_server(self)
        connection = connect(target(server.url()))
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO application_parameters (key, value) VALUES ('a', '1')")
        connection.commit()
        server.kill()
        self.assertFalse(server.running)
        with self.assertRaises(psycopg2.Error), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.close()
        server.start()
        connection = connect(target(server.url()))
        self.addCleanup(connection.close)
        with connection.cursor() as cursor:
            cursor.execute("SELECT value FROM application_parameters WHERE key = 'a'")
            self.assertEqual(cursor.fetchone(), ("1",))

    def test_it_hangs_and_goes_on(self) -> None:
        server = Server()
        self.addCleanup(server.stop)
        server.start()
        server.hang()
        states = {
            (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
            for pid in inhabitants(server.data)
        }
        self.assertEqual(states, {"T"})
        server.restart()
        connection = connect(target(server.url("postgres")))
        self.addCleanup(connection.close)
        self.assertNotEqual(os.getpid(), server.pid)
        self.assertIn("database system is shut down", server.log)

    def test_one_that_does_not_start_says_why(self) -> None:
        server = Server(("shared_buffers=plenty",))
        with self.assertRaises(RuntimeError) as caught:
            server.start()
        self.assertIn('invalid value for parameter "shared_buffers": "plenty"', str(caught.exception))
        self.assertFalse(server.running)
