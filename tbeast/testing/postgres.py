"""A real PostgreSQL for tests: one server a process, and a database of its own for each test.

The server is the embedded one, kept by the same keeper as in production, with nothing waiting for the disk. It starts
with the first test that wants a database, and goes when the process ends, however it ends; what it leaves on the disk
is then removed by a small program that waits for just that. A test that breaks its server makes a L{Server} of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final
from unittest import TestCase

import tbeast
from tbeast.adapters.store.embedded import url
from tbeast.adapters.store.keeper import inhabitants
from tbeast.adapters.store.migrations import migrate
from tbeast.adapters.store.postgres import Connection, connect, target

QUICK: Final = (
    "fsync=off",
    "shared_buffers=32MB",
    "max_connections=100",
    "dynamic_shared_memory_type=mmap",
    "wal_level=minimal",
    "max_wal_senders=0",
)
"""Nothing waits for the disk: what was committed survives that the server is killed, though not that the machine is."""

START_SECONDS: Final = 60.0
END_SECONDS: Final = 40.0


class Server:
    """A server.

    @ivar folder: where its data and its socket are.
    @ivar pid: the process id of its first process, when it was last started.
    @ivar announced: what its keeper said then.
    """

    def __init__(self, settings: Sequence[str] = QUICK, folder: Path | None = None) -> None:
        """Choose a place for it; it does not run yet.

        @param settings: of PostgreSQL, as C{name=value}; those of production, if there are none.
        @param folder: C{None}: one that is removed when the process ends.
        """
        self._place = _root() / f"server{next(_numbers)}"
        self.folder = folder or self._place
        self.pid = 0
        self.announced: dict[str, Any] = {}
        self._settings = settings
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The folder of the data."""
        return self.folder / "data"

    @property
    def running(self) -> bool:
        """Whether it was started, and not stopped or killed since."""
        return self._keeper is not None

    @property
    def keeper(self) -> subprocess.Popen[bytes]:
        """Its keeper, while it runs."""
        assert self._keeper is not None
        return self._keeper

    @property
    def log(self) -> str:
        """What it and its keeper have written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return self._place.with_suffix(".log")

    def start(self) -> None:
        """Start it: on new data the first time, then on what is there.

        @raise RuntimeError: when that does not work, with what it wrote.
        """
        with self._log.open("ab") as log:
            keeper = self._keeper = subprocess.Popen(
                [sys.executable, "-m", "tbeast.adapters.store.keeper", str(self.folder), *self._settings],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True, env=environment(),
            )  # fmt: skip
        assert keeper.stdout is not None
        heard, _, _ = select.select([keeper.stdout], [], [], START_SECONDS)
        line = keeper.stdout.readline() if heard else b""
        if not line:
            self.stop()
            raise RuntimeError(f"PostgreSQL did not start:\n{self.log}")
        self.announced = json.loads(line)
        self.pid = self.announced["pid"]

    def stop(self) -> None:
        """Stop it in good order; nothing happens if it does not run."""
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self.resume()
            self._keeper.stdin.close()
            self._ended()

    def kill(self) -> None:
        """End it at once, by SIGKILL, as a crash would: first the first process, then what it leaves."""
        os.kill(self.pid, signal.SIGKILL)
        self._signal(signal.SIGKILL)
        self._ended()

    def restart(self) -> None:
        """Stop it in good order and start it again."""
        self.stop()
        self.start()

    def hang(self) -> None:
        """Let it hang: its connections stay open, and nothing is answered, until L{resume} or L{stop}."""
        self._signal(signal.SIGSTOP)
        for pid in inhabitants(self.data):
            with suppress(FileNotFoundError, ProcessLookupError):
                while "\tT (stopped)" not in Path(f"/proc/{pid}/status").read_text():
                    select.select([], [], [], 0.001)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def url(self, database: str = "tbeast") -> str:
        """Where one of its databases is."""
        return url(self.folder, database)

    def _signal(self, number: signal.Signals) -> None:
        for pid in inhabitants(self.data):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _ended(self) -> None:
        assert self._keeper is not None
        keeper, self._keeper = self._keeper, None
        keeper.wait(END_SECONDS)
        for pipe in (keeper.stdin, keeper.stdout):
            assert pipe is not None
            pipe.close()


_TEMPLATE: Final = "template_tbeast"
_MEMORY: Final = "/dev/shm"
_MUCH_BYTES: Final = 2 << 30

_numbers = count(1)
_roots: list[tuple[Path, Any]] = []
_servers: list[tuple[Server, Connection]] = []


def fresh_database(case: TestCase | None = None) -> str:
    """Make a database with the schema, and nothing else, in it.

    @param case: when it ends, the database is dropped; without one, when the process ends.
    @return: its URL.
    """
    server, admin = _shared()
    name = f"test_{next(_numbers)}"
    _execute(admin, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY file_copy")
    if case is not None:
        case.addCleanup(_execute, admin, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    return server.url(name)


def fresh_connection(case: TestCase, database_url: str | None = None) -> Connection:
    """Connect to a database until the end of C{case}.

    @param database_url: C{None}: a fresh one.
    """
    connection = connect(target(database_url or fresh_database(case)))
    case.addCleanup(connection.close)
    return connection


def own_server(case: TestCase, settings: Sequence[str] = QUICK) -> Server:
    """A server that runs until the end of C{case}, with the schema in its database, for the test to break."""
    server = Server(settings)
    case.addCleanup(server.stop)
    server.start()
    connection = connect(target(server.url()))
    migrate(connection)
    connection.close()
    return server


def _shared() -> tuple[Server, Connection]:
    if not _servers:
        server = Server()
        server.start()
        admin = connect(target(server.url("postgres")))
        admin.autocommit = True
        _execute(admin, "SET statement_timeout = '60s'")
        _execute(admin, f"CREATE DATABASE {_TEMPLATE}")
        first = connect(target(server.url(_TEMPLATE)))
        migrate(first)
        first.close()
        _servers.append((server, admin))
    return _servers[0]


def _execute(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def quick_folder() -> str:
    """Where to put data that need not last: in memory if there is much of it, for a database is a thousand files."""
    try:
        free = shutil.disk_usage(_MEMORY).free
    except OSError:
        free = 0
    return _MEMORY if free >= _MUCH_BYTES and os.access(_MEMORY, os.W_OK | os.X_OK) else tempfile.gettempdir()


def _root() -> Path:
    """The folder of all servers of this process, which goes when the process has gone."""
    if not _roots:
        root = Path(tempfile.mkdtemp(prefix="tbeast-test-", dir=quick_folder()))
        root.chmod(0o711)  # the server may be another user's
        sweeper = subprocess.Popen(
            [sys.executable, "-m", "tbeast.testing.postgres", str(root)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, env=environment(),
        )  # fmt: skip
        _roots.append((root, sweeper))
    return _roots[0][0]


def environment() -> dict[str, str]:
    """Our environment, for a child that imports what we do: trial has its own idea of the current folder."""
    folders = [str(Path(tbeast.__file__).parent.parent), *filter(None, sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}


def main(arguments: Sequence[str]) -> int:
    """Wait until whoever started us is gone, and his servers are; then remove the folder.

    @param arguments: the folder.
    @return: the exit status.
    """
    root = Path(arguments[0])
    os.chdir("/")
    sys.stdin.buffer.read()
    for folder in [*root.glob("*"), *root.glob("*/postgres")]:
        if folder.is_dir():
            # a keeper holds its lock until its server has ended
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.close(lock)
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
