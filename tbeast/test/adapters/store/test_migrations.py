"""Migrations: each once, whole or not at all, and nothing that is not in line."""

from __future__ import annotations

from threading import Barrier, Thread
from unittest import TestCase

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store import migrations
from tbeast.adapters.store.migrations import Migration, bundled, check, migrate
from tbeast.adapters.store.postgres import Connection, connect, target
from tbeast.errors import MigrationError, StoreUnavailableError
from tbeast.testing.postgres import fresh_connection, fresh_database

FIRST = Migration(1, "first", "CREATE TABLE one (a integer);\nINSERT INTO one VALUES (1);\n")
SECOND = Migration(2, "second", "ALTER TABLE one ADD COLUMN b text; -- 100 %\n")


def empty_database(case: TestCase) -> str:
    """A database with nothing in it, as an operator makes it."""
    url = fresh_database(case)
    connection = connect(target(url))
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    connection.commit()
    connection.close()
    return url


def rows(connection: Connection, query: str) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        found = cursor.fetchall()
    connection.rollback()
    return found


class BundledTests(SynchronousTestCase):
    def test_they_are_numbered_without_a_gap(self) -> None:
        steps = bundled()
        self.assertEqual([step.version for step in steps], list(range(1, len(steps) + 1)))
        self.assertEqual(steps[0].title, "0001_ground")

    def test_none_ends_the_transaction_that_it_runs_in(self) -> None:
        for step in bundled():
            words = {line.strip().rstrip(";").upper() for line in step.sql.splitlines()}
            self.assertEqual(words & {"COMMIT", "ROLLBACK", "BEGIN TRANSACTION", "BEGIN WORK"}, set(), step.title)

    def test_the_checksum_is_that_of_the_text_and_not_of_its_line_ends(self) -> None:
        self.assertEqual(evolve(FIRST, sql=FIRST.sql.replace("\n", "\r\n")).checksum, FIRST.checksum)
        self.assertNotEqual(evolve(FIRST, sql=FIRST.sql + "-- more").checksum, FIRST.checksum)


class MigrateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.url = empty_database(self)
        self.connection = fresh_connection(self, self.url)

    def test_an_empty_database_gets_everything_once(self) -> None:
        titles = [step.title for step in bundled()]
        self.assertIn(f"lacks {len(titles)} of {len(titles)} migrations (0001_ground", check(self.connection) or "")
        self.assertEqual(migrate(self.connection), titles)
        self.assertEqual(migrate(self.connection), [])
        self.assertIsNone(check(self.connection))
        said = rows(self.connection, "SELECT version, name, checksum, applied_by FROM schema_version ORDER BY version")
        self.assertEqual([row[:3] for row in said], [(step.version, step.name, step.checksum) for step in bundled()])
        self.assertTrue(all(row[3].startswith("tbeast ") for row in said), said)

    def test_only_what_is_missing_is_applied(self) -> None:
        self.assertEqual(migrate(self.connection, [FIRST]), ["0001_first"])
        self.assertIn("lacks 1 of 2 migrations (0002_second)", check(self.connection, [FIRST, SECOND]) or "")
        self.assertEqual(migrate(self.connection, [FIRST, SECOND]), ["0002_second"])
        self.assertEqual(rows(self.connection, "SELECT a, b FROM one"), [(1, None)])

    def test_one_that_fails_leaves_nothing_and_what_was_before_it_stays(self) -> None:
        broken = Migration(2, "broken", "CREATE TABLE two (a integer); SELECT 1 / 0")
        with self.assertRaises(MigrationError) as caught:
            migrate(self.connection, [FIRST, broken])
        self.assertEqual(
            str(caught.exception), "migration 0002_broken failed, and nothing of it was applied: division by zero"
        )
        self.assertEqual(rows(self.connection, "SELECT to_regclass('two') IS NULL"), [(True,)])
        self.assertEqual(rows(self.connection, "SELECT version FROM schema_version"), [(1,)])
        self.assertEqual(migrate(self.connection, [FIRST, SECOND]), ["0002_second"])

    def test_what_was_applied_is_not_changed_afterwards(self) -> None:
        migrate(self.connection, [FIRST])
        changed = evolve(FIRST, sql="CREATE TABLE one (a bigint)")
        with self.assertRaises(MigrationError) as caught:
            migrate(self.connection, [changed, SECOND])
        self.assertIn("migration 0001_first is not the one that was applied", str(caught.exception))
        self.assertEqual(check(self.connection, [changed, SECOND]), str(caught.exception))
        self.assertEqual(rows(self.connection, "SELECT version FROM schema_version"), [(1,)])

    def test_a_database_that_is_ahead_is_left_alone(self) -> None:
        migrate(self.connection, [FIRST, SECOND])
        with self.assertRaises(MigrationError) as caught:
            migrate(self.connection, [FIRST])
        self.assertIn(
            "is at migration 0002_second, and this version of tbeast knows none after 0001", str(caught.exception)
        )

    def test_a_gap_is_not_filled_behind_what_came_after_it(self) -> None:
        migrate(self.connection, [FIRST, evolve(SECOND, version=3)])
        with self.assertRaises(MigrationError) as caught:
            migrate(self.connection, [FIRST, SECOND, evolve(SECOND, version=3)])
        self.assertIn("never had 0002_second", str(caught.exception))

    def test_ten_at_once_apply_each_once(self) -> None:
        together = Barrier(10)
        slow = evolve(FIRST, sql=FIRST.sql + "SELECT pg_sleep(0.2)")
        applied: list[str] = []
        errors: list[Exception] = []

        def node() -> None:
            connection = connect(target(self.url))
            together.wait()
            try:
                applied.extend(migrate(connection, [slow, SECOND]))
            except Exception as error:
                errors.append(error)
            finally:
                connection.close()

        threads = [Thread(target=node) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        self.assertEqual(sorted(applied), ["0001_first", "0002_second"])
        self.assertEqual(rows(self.connection, "SELECT count(*) FROM one"), [(1,)])

    def test_who_has_to_wait_too_long_says_so(self) -> None:
        self.patch(migrations, "WAIT_SECONDS", 0.05)
        other = fresh_connection(self, self.url)
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (migrations.LOCK,))
        with self.assertRaises(StoreUnavailableError) as caught:
            migrate(self.connection, [FIRST])
        self.assertIn("lock timeout", str(caught.exception))
        other.close()
        self.assertEqual(migrate(self.connection, [FIRST]), ["0001_first"])

    def test_a_user_without_the_right_is_told_which(self) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("CREATE ROLE reader; SET ROLE reader")
        self.connection.commit()
        with self.assertRaises(MigrationError) as caught:
            migrate(self.connection, [FIRST])
        self.assertIn("the user of the database needs the right to create tables", str(caught.exception))
        with self.connection.cursor() as cursor:
            cursor.execute("RESET ROLE; DROP ROLE reader")
        self.connection.commit()

    def test_a_database_that_is_up_to_date_need_not_be_writable(self) -> None:
        migrate(self.connection, [FIRST])
        self.connection.set_session(readonly=True)
        self.assertEqual(migrate(self.connection, [FIRST]), [])
        with self.assertRaises(StoreUnavailableError):
            migrate(self.connection, [FIRST, SECOND])

    def test_the_limits_of_the_connection_hold_again_afterwards(self) -> None:
        migrate(self.connection, [FIRST])
        self.assertEqual(rows(self.connection, "SHOW statement_timeout"), [("10s",)])

    def test_a_connection_that_is_gone(self) -> None:
        with fresh_connection(self, self.url).cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", (self.connection.info.backend_pid,))
        with self.assertRaises(StoreUnavailableError):
            migrate(self.connection, [FIRST])
        with self.assertRaises(StoreUnavailableError):
            check(self.connection)
