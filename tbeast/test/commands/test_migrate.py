"""tbeast migrate: what it does, and what it says."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from attrs import frozen
from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store.migrations import bundled
from tbeast.commands import storedoor
from tbeast.commands.migrate import command
from tbeast.settings import SETTINGS
from tbeast.testing.postgres import environment, fresh_connection, fresh_database, quick_folder


@frozen
class Secret:
    user: str
    password: str
    database: str | None
    host: str | None
    port: int | None


NEWEST = bundled()[-1].title


class MigrateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="tb-", dir=quick_folder()))
        self.state.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.state, ignore_errors=True)
        self.patch(os, "environ", environment())

    def migrate(self, *arguments: str, **environ: str) -> Result:
        clean: dict[str, str | None] = dict.fromkeys(SETTINGS)
        return CliRunner().invoke(command, [*arguments, f"--state={self.state}"], env={**clean, **environ})

    def empty(self) -> str:
        url = fresh_database(self)
        connection = fresh_connection(self, url)
        with connection.cursor() as cursor:
            cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        connection.commit()
        return url

    def test_an_empty_database(self) -> None:
        url = self.empty()
        checked = self.migrate("--check", AURORA_URL=url)
        self.assertEqual(checked.exit_code, 1)
        self.assertIn("the database lacks", checked.stderr)
        self.assertEqual(checked.stdout, "")
        done = self.migrate(AURORA_URL=url)
        self.assertEqual(done.exit_code, 0, done.output)
        lines = [*(f"applied {step.title}" for step in bundled()), f"The schema is up to date: {NEWEST}."]
        self.assertEqual(done.stdout.splitlines(), lines)
        for arguments in ((), ("--check",)):
            again = self.migrate(*arguments, AURORA_URL=url)
            self.assertEqual((again.exit_code, again.stdout), (0, f"The schema is up to date: {NEWEST}.\n"))

    def test_the_embedded_one_is_made_and_by_a_check_it_is_not(self) -> None:
        checked = self.migrate("--check")
        self.assertEqual(checked.exit_code, 1)
        self.assertIn(f"there is no database in {self.state}/postgres yet", checked.stderr)
        self.assertEqual(list(self.state.iterdir()), [])
        done = self.migrate()
        self.assertEqual(done.exit_code, 0, done.output)
        self.assertIn("making one", done.stderr)
        self.assertEqual(self.migrate("--check").exit_code, 0)

    def test_a_secret_says_where_it_is(self) -> None:
        asked: list[tuple] = []
        url = urlsplit(self.empty())

        def fetch(*where: str | None) -> Secret:
            asked.append(where)
            return Secret("tbeast", "x", url.path[1:], unquote(url.netloc.partition("@")[2].rpartition(":")[0]), 5432)

        self.patch(storedoor, "fetch", fetch)
        done = self.migrate(DB_SECRET_NAME="prod/db", AWS_REGION="us-east-2")
        self.assertEqual(done.exit_code, 0, done.output)
        self.assertIn(f"up to date: {NEWEST}", done.output)
        self.assertEqual(asked, [("prod/db", "us-east-2", None)])

    def test_a_database_that_is_not_there(self) -> None:
        done = self.migrate(AURORA_URL="postgresql://me:hunter2@127.0.0.1:1/x")
        self.assertEqual(done.exit_code, 3)
        self.assertIn("Connection refused", done.stderr)
        self.assertNotIn("hunter2", done.output)
        self.assertNotIn("Traceback", done.output)

    def test_settings_at_fault(self) -> None:
        done = self.migrate(TCP_PORT_LPO="x")
        self.assertEqual(done.exit_code, 1)
        self.assertIn("TCP_PORT_LPO", done.stderr)
