"""tbeast psql: PostgreSQL's shell gets the right database, and what it is asked."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.cloud.secrets import Credentials
from tbeast.adapters.store.embedded import folder_of
from tbeast.commands import psql, storedoor
from tbeast.settings import SETTINGS
from tbeast.testing.postgres import QUICK, Server, environment, fresh_database, quick_folder

_RUN = "from tbeast.commands.psql import command; command(prog_name='psql')"


class PsqlTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="tb-", dir=quick_folder()))
        self.state.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.state, ignore_errors=True)

    def psql(self, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """As from a shell: psql writes to the process's own output."""
        clean = {name: text for name, text in environment().items() if name not in SETTINGS}
        return subprocess.run(
            [sys.executable, "-c", _RUN, f"--state={self.state}", *arguments], input=stdin, env={**clean, **environ},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def invoke(self, *arguments: str, **environ: str) -> Result:
        clean: dict[str, str | None] = dict.fromkeys(SETTINGS)
        return CliRunner().invoke(psql.command, [f"--state={self.state}", *arguments], env={**clean, **environ})

    def test_everything_after_our_options_is_psqls(self) -> None:
        url = fresh_database(self)
        done = self.psql("-At", "-c", "SELECT count(*) FROM users", "-c", "SELECT 'a b'", AURORA_URL=url)
        self.assertEqual((done.returncode, done.stdout), (0, "0\na b\n"), done.stderr)
        done = self.psql("-At", stdin="SELECT current_database();\n", AURORA_URL=url)
        self.assertEqual(done.stdout.strip(), url.rpartition("/")[2])

    def test_its_status_is_ours(self) -> None:
        done = self.psql("-c", "SELECT 1/0", AURORA_URL=fresh_database(self))
        self.assertEqual(done.returncode, 1)
        self.assertIn("division by zero", done.stderr)

    def test_the_embedded_one_that_runs(self) -> None:
        server = Server(QUICK, folder_of(self.state))
        self.addCleanup(server.stop)
        server.start()
        done = self.psql("-Atc", "SELECT current_user")
        self.assertEqual((done.stdout, done.stderr), ("tbeast\n", ""))
        self.assertEqual(self.psql("--url").stdout.strip(), f"{server.url()}?sslmode=prefer")

    def test_the_embedded_one_that_does_not_run(self) -> None:
        done = self.psql("--url")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no daemon runs the embedded PostgreSQL now", done.stderr)
        done = self.psql("-Atc", "SELECT 1")
        self.assertEqual((done.returncode, done.stdout), (0, "1\n"))
        self.assertIn("making one", done.stderr)

    def test_the_password_stands_in_no_argument(self) -> None:
        seen: list[tuple[list[str], dict[str, str]]] = []

        def run(arguments: list[str], env: dict[str, str], check: bool) -> subprocess.CompletedProcess[str]:
            seen.append((arguments, env))
            self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_IGN)
            return subprocess.CompletedProcess(arguments, 3)

        self.patch(subprocess, "run", run)
        before = signal.getsignal(signal.SIGINT)
        done = self.invoke("-c", "SELECT 1", AURORA_URL="postgresql://me:hunter2@db/x")
        self.assertEqual(done.exit_code, 3, done.output)
        ((arguments, environ),) = seen
        self.assertNotIn("hunter2", " ".join(arguments))
        self.assertEqual(environ["PGPASSWORD"], "hunter2")
        self.assertEqual(arguments[-2:], ["-c", "SELECT 1"])
        self.assertIs(signal.getsignal(signal.SIGINT), before)
        done = self.invoke("--url", AURORA_URL="postgresql://me:hunter2@127.0.0.1/x")
        self.assertEqual(done.output, "postgresql://me@127.0.0.1/x?sslmode=prefer\n")

    def test_a_secret_is_asked_for_before_the_place_is_told(self) -> None:
        self.patch(storedoor, "fetch", lambda *where: Credentials("me", "hunter2", "prices", "db.example.com", 7))
        done = self.invoke("--url", DB_SECRET_NAME="prod/db")
        self.assertTrue(
            done.output.startswith("postgresql://me@db.example.com:7/prices?sslmode=verify-full"), done.output
        )

    def test_where_psql_comes_from(self) -> None:
        self.assertTrue(os.access(psql._program(), os.X_OK))
        self.patch(psql, "binaries", lambda: Path("/no/such"))
        self.patch(shutil, "which", lambda name: f"/somewhere/{name}")
        self.assertEqual(psql._program(), "/somewhere/psql")
        self.patch(shutil, "which", lambda name: None)
        done = self.invoke(AURORA_URL="db")
        self.assertEqual(done.exit_code, 1)
        self.assertIn("there is no psql", done.output)
