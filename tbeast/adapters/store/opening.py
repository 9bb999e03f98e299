"""The database for a command: the one that the settings name, or the embedded one.

Of the embedded one a command uses the server that the daemon runs; if nobody runs it, one is started and lives as long
as the command. A daemon that starts in the meantime waits its turn.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from select import select
from typing import IO, Final, Protocol

import psycopg2
from attrs import evolve

from tbeast.adapters.store.embedded import command, folder_of, running, target_of
from tbeast.adapters.store.migrations import check, migrate
from tbeast.adapters.store.postgres import Connection, Credentials, Target, connect, target, translated
from tbeast.errors import MigrationError, StoreError
from tbeast.settings import NEVER

STATEMENT_SECONDS: Final = 300.0
"""A command may have more to do at once than the daemon ever has."""

START_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.5
END_SECONDS: Final = 30.0


class StoreSettings(Protocol):
    """What is read of L{tbeast.settings.Settings}."""

    @property
    def aurora_url(self) -> str | None:
        """Where the database is, if it is not in the secret."""

    @property
    def db_secret_name(self) -> str | None:
        """The secret with the credentials."""

    @property
    def db_ca(self) -> str | None:
        """PEM file of the certificate authorities to trust."""

    @property
    def migrate(self) -> str:
        """Whether the schema may be changed."""

    @property
    def state(self) -> str:
        """The state folder."""


def store_target(settings: StoreSettings, secret: Callable[[], Credentials] | None = None) -> Target | None:
    """The database that the settings name; C{None}: the embedded one. Asks nobody anything yet.

    @param secret: reads the secret that the settings name; asked when a connection needs it, and again when a login is
        refused.
    @raise StoreError: when the settings will not do.
    """
    if settings.db_secret_name is not None:
        if secret is None:
            raise StoreError("DB_SECRET_NAME is set, and there is nothing here that reads secrets")
        return target(settings.aurora_url, None, secret, settings.db_ca)
    if settings.aurora_url is not None:
        return target(settings.aurora_url, authorities=settings.db_ca)
    return None


@contextmanager
def open_target(
    settings: StoreSettings,
    secret: Callable[[], Credentials] | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Iterator[Target]:
    """See to it that there is a database for as long as the context lasts.

    @param secret: as in L{store_target}.
    @param tell: told in a line when a server is started, or its data made.
    @return: what to connect to.
    @raise StoreError: when there is none.
    """
    found = store_target(settings, secret) or running(settings.state)
    if found is not None:
        yield found
    else:
        with _started(settings.state, tell) as found:
            yield found


@contextmanager
def open_store(
    settings: StoreSettings,
    secret: Callable[[], Credentials] | None = None,
    tell: Callable[[str], object] = lambda line: None,
    schema_as_is: bool = False,
) -> Iterator[Connection]:
    """Connect to the database, for as long as the context lasts.

    What was done is committed at the end, and rolled back if an error ends it. The schema is brought up to date first,
    if the settings allow it, and checked if not.

    @param secret: as in L{store_target}.
    @param tell: as in L{open_target}.
    @param schema_as_is: leave the schema alone, whatever it is.
    @raise StoreError: when the database cannot be used, or refused something; an error of the driver is translated.
    """
    with open_target(settings, secret, tell) as found:
        connection = connect(evolve(found, statement_seconds=STATEMENT_SECONDS))
        try:
            if schema_as_is:
                pass
            elif settings.migrate != NEVER:
                migrate(connection)
            elif problem := check(connection):
                raise MigrationError(problem)
            yield connection
            connection.commit()
        except psycopg2.Error as error:
            raise translated(error) from error
        finally:
            # what was not committed is rolled back with it
            connection.close()


@contextmanager
def _started(state: str, tell: Callable[[str], object]) -> Iterator[Target]:
    folder = folder_of(state)
    if (folder / "data").exists():
        tell(f"no daemon runs the PostgreSQL in {folder}: starting it for this command")
    else:
        tell(f"there is no database in {folder} yet: making one")
    with tempfile.TemporaryFile() as errors:
        keeper = subprocess.Popen(
            # a session of its own: a Ctrl-C ends the command, and the command ends the server
            command(state), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
        )  # fmt: skip
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            found = _announced(keeper.stdout, state)
            if found is None:
                keeper.stdin.close()
                keeper.wait(END_SECONDS)
                errors.seek(0)
                words = errors.read().decode("utf-8", "replace").strip().splitlines()
                raise StoreError(words[-1] if words else "the embedded PostgreSQL did not start")
            yield found
        finally:
            keeper.stdin.close()
            keeper.wait(END_SECONDS)
            keeper.stdout.close()


def _announced(said: IO[bytes], state: str) -> Target | None:
    """What the keeper says; or where the server is that somebody else has started in the meantime."""
    for _ in range(round(START_SECONDS / LOOK_SECONDS)):
        heard, _, _ = select([said], [], [], LOOK_SECONDS)
        if heard:
            line = said.readline()
            return target_of(json.loads(line)) if line else None
        # our keeper waits for its turn, which may be long in coming
        found = running(state)
        if found is not None:
            return found
    return None
