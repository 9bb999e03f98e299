"""The tables of parameters and of their profiles.

What goes in is checked here against L{tbeast.domain.parameters}, whoever asks. What comes out is as it lies there: an
operator may have written anything by hand, and whoever reads it judges it.

The functions take a connection and do not commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen
from psycopg2.extras import Json, execute_values
from twisted.internet.defer import Deferred

from tbeast.adapters.store.postgres import Connection
from tbeast.adapters.store.threads import StorePool
from tbeast.domain.parameters import PARAMETERS, read, written

_UPSERT: Final = (
    "INSERT INTO application_parameters (key, value, description) VALUES %s ON CONFLICT (key) DO UPDATE"
    " SET value = excluded.value, description = excluded.description, changed_at = clock_timestamp()"
)


@frozen
class Profile:
    """A named set of values.

    @ivar parameters: by parameter name, as they lie in the database.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]


def read_rows(connection: Connection) -> dict[str, str]:
    """Every row, raw, by name."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT key, value FROM application_parameters ORDER BY key")
        return dict(cursor.fetchall())


def set_values(connection: Connection, values: Mapping[str, object]) -> dict[str, str]:
    """Set parameters, all of them or none.

    @param values: by name: texts, or what JSON's types give.
    @return: what was written, by name.
    @raise ValueError: when one of them is no parameter, or may not be that; with a sentence for each.
    """
    texts = checked(values)
    if texts:
        rows = [(name, text, PARAMETERS[name].description) for name, text in texts.items()]
        with connection.cursor() as cursor:
            execute_values(cursor, _UPSERT, rows)
    return texts


def unset(connection: Connection, name: str) -> bool:
    """Remove a row, be it of a parameter or not; C{False}: there was none."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM application_parameters WHERE key = %s", (name,))
        return bool(cursor.rowcount)


def profiles(connection: Connection) -> list[Profile]:
    """Every profile, by name."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT profile_name, description, parameters FROM application_parameter_profiles ORDER BY profile_name"
        )
        return [Profile(*row) for row in cursor.fetchall()]


def save_profile(connection: Connection, name: str, values: Mapping[str, object], description: str = "") -> None:
    """Make a profile, or make it anew.

    @raise ValueError: as L{set_values} does.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO application_parameter_profiles (profile_name, description, parameters) VALUES (%s, %s, %s)"
            " ON CONFLICT (profile_name) DO UPDATE SET description = excluded.description,"
            " parameters = excluded.parameters",
            (name, description, Json(checked(values))),
        )


def remove_profile(connection: Connection, name: str) -> bool:
    """Remove a profile; C{False}: there was none. What it set stays set."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM application_parameter_profiles WHERE profile_name = %s", (name,))
        return bool(cursor.rowcount)


def apply_profile(connection: Connection, name: str) -> dict[str, str]:
    """Set what a profile says, all of it or nothing; other parameters stay as they are.

    @return: what was written, by name.
    @raise ValueError: when there is no such profile, or as L{set_values} does.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT parameters FROM application_parameter_profiles WHERE profile_name = %s", (name,))
        found = cursor.fetchone()
    if found is None:
        raise ValueError(f"there is no profile {name}")
    if not isinstance(found[0], dict):
        raise ValueError(f"the profile {name} is no JSON object of values by name")
    return set_values(connection, found[0])


def checked(values: Mapping[str, object]) -> dict[str, str]:
    """The texts that stand for values, by name.

    @raise ValueError: with a sentence for each that is at fault.
    """
    texts: dict[str, str] = {}
    faults = []
    for name, raw in values.items():
        try:
            texts[name] = written(read(name, raw))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("; ".join(faults))
    return texts


@frozen
class PostgresParameters:
    """The table of parameters for the daemon: L{tbeast.services.parameters.ParameterStore}."""

    pool: StorePool

    def read(self) -> Deferred[dict[str, str]]:
        """See L{read_rows}."""
        return self.pool.run(read_rows)
