"""The schema's migrations: numbered files of SQL, each applied once.

The rule. Each migration runs in one transaction, under a lock that all nodes share and together with the row that
says that it was applied; so ten nodes that start together apply each once, and one that is killed half-way has done
nothing. What was applied is never changed afterwards: a file that differs from what was applied, a gap, or a database
that is ahead of this version stops the start, with what to do about it.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Sequence
from importlib import metadata
from importlib.resources import files
from typing import Final

import psycopg2
from attrs import frozen

from tbeast.adapters.store.postgres import Connection, translated
from tbeast.errors import MigrationError, StoreUnavailableError

LOCK: Final = 0x7462656173740001
"""The number of the advisory lock: "tbeast" and a one."""

WAIT_SECONDS: Final = 120
"""How long one node waits for another that migrates, or for a table that somebody uses."""

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_version (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by text NOT NULL
)
"""


@frozen
class Migration:
    """One step of the schema."""

    version: int
    name: str
    sql: str

    @property
    def title(self) -> str:
        """Number and name, as the file has them."""
        return f"{self.version:04}_{self.name}"

    @property
    def checksum(self) -> str:
        """SHA-256 of the text in hexadecimal; how its lines end does not count."""
        return hashlib.sha256("\n".join(self.sql.splitlines()).encode()).hexdigest()


def bundled() -> list[Migration]:
    """The migrations of this version, in order."""
    found = []
    for file in files("tbeast.adapters.store").joinpath("schema").iterdir():
        parts = re.fullmatch(r"([0-9]{4})_([a-z0-9_]+)\.sql", file.name)
        if parts:
            found.append(Migration(int(parts[1]), parts[2], file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.version)


def migrate(connection: Connection, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is not applied yet, and commit it.

    @param connection: one that is outside of any transaction; so it is left.
    @param migrations: C{None}: those of this version.
    @return: the titles of what was applied here and now, in order.
    @raise MigrationError: when the database is not one that this version can work with, or a migration failed.
    @raise StoreUnavailableError: when the database cannot be asked.
    """
    known = bundled() if migrations is None else migrations
    done: list[str] = []
    try:
        # first without the lock: a database that is up to date need not be writable
        if not _pending(known, _applied(connection)):
            return done
        while (step := _apply_next(connection, known)) is not None:
            done.append(step.title)
    except psycopg2.Error as error:
        raise _told(error, "the schema of the database cannot be brought up to date") from error
    finally:
        if not connection.closed:
            connection.rollback()
    return done


def check(connection: Connection, migrations: Sequence[Migration] | None = None) -> str | None:
    """Whether the schema is the one that this version works with.

    @return: what is wrong and what to do about it; C{None}: nothing.
    @raise StoreUnavailableError: when the database cannot be asked.
    """
    known = bundled() if migrations is None else migrations
    try:
        pending = _pending(known, _applied(connection))
    except MigrationError as error:
        return str(error)
    except psycopg2.Error as error:
        raise translated(error) from error
    finally:
        if not connection.closed:
            connection.rollback()
    if not pending:
        return None
    titles = ", ".join(step.title for step in pending)
    return f"the database lacks {len(pending)} of {len(known)} migrations ({titles}): run `tbeast migrate`"


def _applied(connection: Connection) -> dict[int, tuple[str, str]]:
    """By version, the name and the checksum of what was applied."""
    with connection.cursor() as cursor:
        # not by to_regclass, which may answer from a cache that is older than the lock
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_tables WHERE tablename = 'schema_version'"
            " AND schemaname = ANY (current_schemas(false)))"
        )
        row = cursor.fetchone()
        if row is None or not row[0]:
            return {}
        cursor.execute("SELECT version, name, checksum FROM schema_version")
        return {version: (name, checksum) for version, name, checksum in cursor.fetchall()}


def _pending(known: Sequence[Migration], applied: dict[int, tuple[str, str]]) -> list[Migration]:
    """What is left to apply.

    @raise MigrationError: when what was applied is not the beginning of what is known.
    """
    newest = max(applied, default=0)
    ours = max((step.version for step in known), default=0)
    if newest > ours:
        name, _ = applied[newest]
        raise MigrationError(
            f"the database is at migration {newest:04}_{name}, and this version of tbeast knows none after {ours:04}:"
            " run a version at least as new as the newest that has used this database"
        )
    for step in known:
        if step.version in applied and applied[step.version][1] != step.checksum:
            raise MigrationError(
                f"migration {step.title} is not the one that was applied to the database: a migration is never"
                " changed afterwards; install the release unaltered, and put changes into a new migration"
            )
        if step.version not in applied and step.version < newest:
            raise MigrationError(
                f"the database is at migration {newest:04} and never had {step.title}, which comes before it:"
                " it was migrated by a version that is not in line with this one; restore a backup, or ask for help"
            )
    return [step for step in known if step.version not in applied]


def _apply_next(connection: Connection, known: Sequence[Migration]) -> Migration | None:
    with connection.cursor() as cursor:
        # of this transaction alone; an index over a large table takes its time
        cursor.execute(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{WAIT_SECONDS}s'")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        # another node may have been here while we waited
        pending = _pending(known, _applied(connection))
        if not pending:
            connection.rollback()
            return None
        step = pending[0]
        try:
            cursor.execute(_TABLE)
            cursor.execute(step.sql)
            cursor.execute(
                "INSERT INTO schema_version (version, name, checksum, applied_by) VALUES (%s, %s, %s, %s)",
                (step.version, step.name, step.checksum, _ourselves()),
            )
            connection.commit()
        except psycopg2.Error as error:
            raise _told(error, f"migration {step.title} failed, and nothing of it was applied") from error
    return step


def _ourselves() -> str:
    return f"tbeast {metadata.version('tbeast')} on {socket.gethostname()}"


def _told(error: psycopg2.Error, what: str) -> MigrationError | StoreUnavailableError:
    why = translated(error)
    if error.pgcode in ("42501", "3F000"):
        return MigrationError(f"{what}: {why}; the user of the database needs the right to create tables in it")
    if isinstance(why, StoreUnavailableError) and error.pgcode != "42P01":
        return StoreUnavailableError(f"{what}: {why}")
    return MigrationError(f"{what}: {why}")
