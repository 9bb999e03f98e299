"""The database for a command: the named one, the daemon's, or one that is started for it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from unittest import TestCase

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store import opening
from tbeast.adapters.store.embedded import folder_of, running
from tbeast.adapters.store.keeper import inhabitants
from tbeast.adapters.store.opening import open_store, open_target, store_target
from tbeast.adapters.store.postgres import Connection
from tbeast.errors import MigrationError, StoreError, StoreRefusedError, StoreUnavailableError
from tbeast.settings import AUTO, NEVER
from tbeast.testing.postgres import QUICK, Server, environment, fresh_connection, fresh_database, quick_folder


@frozen
class Chosen:
    """The settings that matter here."""

    state: str = "/no/such"
    aurora_url: str | None = None
    db_secret_name: str | None = None
    db_ca: str | None = None
    migrate: str = AUTO


@frozen
class Secret:
    user: str
    password: str
    database: str | None = None
    host: str | None = None
    port: int | None = None


def state_folder(case: TestCase | SynchronousTestCase) -> str:
    """A state folder with a short path that is not there yet."""
    above = Path(tempfile.mkdtemp(prefix="tb-", dir=quick_folder()))
    above.chmod(0o755)
    case.addCleanup(shutil.rmtree, above, ignore_errors=True)
    return str(above / "state")


def value(connection: Connection, query: str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(query)
        row = cursor.fetchone()
    return row and row[0]


def failed() -> None:
    """The command's own misfortune."""
    raise LookupError


INSERT = "INSERT INTO application_parameters (key, value) VALUES ('a', '1') RETURNING key"
COUNT = "SELECT count(*) FROM application_parameters"


class TargetTests(SynchronousTestCase):
    def test_nothing_set_is_the_embedded_one(self) -> None:
        self.assertIsNone(store_target(Chosen()))

    def test_a_url(self) -> None:
        found = store_target(Chosen(aurora_url="db.example.com:7", db_ca="/ca.pem"))
        assert found is not None
        self.assertEqual(found.where, "db.example.com:7/tbeast")
        self.assertEqual(found.arguments()["sslrootcert"], "/ca.pem")

    def test_a_secret_is_asked_for_when_it_is_needed(self) -> None:
        asked = []

        def secret() -> Secret:
            asked.append(1)
            return Secret("me", "x", host="127.0.0.1", port=1)

        found = store_target(Chosen(db_secret_name="tbeast/db"), secret)
        assert found is not None
        self.assertEqual(asked, [])
        with self.assertRaises(StoreUnavailableError), open_store(Chosen(db_secret_name="tbeast/db"), secret):
            pass
        self.assertEqual(asked, [1])

    def test_a_secret_that_nobody_can_read(self) -> None:
        with self.assertRaises(StoreError):
            store_target(Chosen(aurora_url="db", db_secret_name="tbeast/db"))


class NamedStoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.url = fresh_database(self)
        self.settings = Chosen(aurora_url=self.url)

    def count(self) -> object:
        return value(fresh_connection(self, self.url), COUNT)

    def test_what_was_done_is_committed(self) -> None:
        with open_store(self.settings) as connection:
            self.assertEqual(value(connection, INSERT), "a")
            self.assertEqual(value(connection, "SHOW statement_timeout"), "5min")
        self.assertTrue(connection.closed)
        self.assertEqual(self.count(), 1)

    def test_an_error_rolls_it_back_and_is_translated_if_it_is_the_drivers(self) -> None:
        with self.assertRaises(LookupError), open_store(self.settings) as connection:
            value(connection, INSERT)
            failed()
        self.assertTrue(connection.closed)
        with self.assertRaises(StoreRefusedError) as caught, open_store(self.settings) as connection:
            value(connection, INSERT)
            value(connection, INSERT)
        self.assertEqual(caught.exception.code, "23505")
        self.assertEqual(self.count(), 0)

    def test_the_schema_is_brought_up_to_date_if_it_may(self) -> None:
        connection = fresh_connection(self, self.url)
        with connection.cursor() as cursor:
            cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        connection.commit()
        with (
            self.assertRaises(MigrationError) as caught,
            open_store(Chosen(aurora_url=self.url, migrate=NEVER)),
        ):
            pass
        self.assertIn("run `tbeast migrate`", str(caught.exception))
        with open_store(self.settings, schema_as_is=True) as connection:
            self.assertEqual(value(connection, "SELECT to_regclass('users')"), None)
        with open_store(self.settings) as connection:
            self.assertEqual(value(connection, COUNT), 0)
        with open_store(Chosen(aurora_url=self.url, migrate=NEVER)) as connection:
            self.assertEqual(value(connection, COUNT), 0)


class EmbeddedStoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = state_folder(self)
        self.settings = Chosen(self.state)
        self.told: list[str] = []
        self.patch(os, "environ", environment())

    def test_one_is_started_for_the_duration(self) -> None:
        with open_store(self.settings, tell=self.told.append) as connection:
            value(connection, INSERT)
            self.assertIsNotNone(running(self.state))
        self.assertEqual(inhabitants(folder_of(self.state) / "data"), [])
        with open_store(self.settings, tell=self.told.append) as connection:
            self.assertEqual(value(connection, COUNT), 1)
        folder = folder_of(self.state)
        self.assertEqual(
            self.told,
            [
                f"there is no database in {folder} yet: making one",
                f"no daemon runs the PostgreSQL in {folder}: starting it for this command",
            ],
        )

    def test_an_error_ends_it_as_well(self) -> None:
        with self.assertRaises(LookupError), open_target(self.settings):
            failed()
        self.assertEqual(inhabitants(folder_of(self.state) / "data"), [])
        self.assertIsNone(running(self.state))

    def test_the_one_that_runs_is_used(self) -> None:
        server = Server(QUICK, folder_of(self.state))
        self.addCleanup(server.stop)
        server.start()
        with open_store(self.settings, tell=self.told.append) as connection:
            self.assertEqual(value(connection, COUNT), 0)
        self.assertEqual(self.told, [])
        self.assertIn(server.pid, inhabitants(server.data))

    def test_one_that_another_command_has_just_started_is_used(self) -> None:
        with open_store(self.settings) as first:
            value(first, INSERT)
            first.commit()
            # as if it had not answered yet when we looked
            found = iter([None])
            self.patch(opening, "running", lambda state: next(found, running(state)))
            with open_store(self.settings) as second:
                self.assertEqual(value(second, COUNT), 1)
            self.assertEqual(value(first, COUNT), 1)

    def test_one_that_does_not_start_says_why(self) -> None:
        Path(self.state).parent.joinpath("state").write_text("a file")
        with self.assertRaises(StoreError) as caught, open_target(self.settings):
            pass
        self.assertIn("cannot be used for PostgreSQL's data: ", str(caught.exception))

    def test_one_that_says_nothing_is_given_up(self) -> None:
        self.patch(opening, "START_SECONDS", 0.05)
        self.patch(opening, "LOOK_SECONDS", 0.05)
        self.patch(opening, "command", lambda state: ["cat"])
        with self.assertRaises(StoreError) as caught, open_target(self.settings):
            pass
        self.assertEqual(str(caught.exception), "the embedded PostgreSQL did not start")
