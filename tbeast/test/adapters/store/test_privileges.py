"""Who the embedded PostgreSQL runs as, and what it may then reach.

Where the machine lets us be another user we are, and where we are root the server is not; run as an ordinary user, the
same tests show what holds for one.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store import keeper, privileges
from tbeast.adapters.store.embedded import binaries, folder_of, running
from tbeast.adapters.store.keeper import Keeper, inhabitants
from tbeast.adapters.store.privileges import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, Identity, identity, lowering, run_as
from tbeast.errors import StoreError
from tbeast.test.adapters.store.embeddedservers import (
    Wish,
    execute,
    life_folder,
    open_folder,
)
from tbeast.testing.postgres import QUICK, Server

ROOT = os.geteuid() == 0
OTHER = next(user.pw_uid for user in pwd.getpwall() if 0 < user.pw_uid < 60_000) if ROOT else os.geteuid()
"""A user who is neither root nor nobody: another than we, if we can be one."""


def status_of(pid: int) -> dict[str, str]:
    """What the system says of a process; nothing, if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


@define
class Child:
    """A process of ours that has become the other user; it has not loaded anything that this one may not read."""

    pid: int
    said: IO[str]
    wanted: IO[str]

    def end(self) -> tuple[str, int]:
        """Let it end: the rest of what it said, and its status."""
        self.wanted.close()
        rest = self.said.read()
        self.said.close()
        _, status = os.waitpid(self.pid, 0)
        return rest, os.waitstatus_to_exitcode(status)


def as_other(work: Callable[[], int]) -> Child:
    """Do something as the other user, with its standard input and output for us to use."""
    child_in, ours_out = os.pipe()
    ours_in, child_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            for descriptor, place in ((child_in, 0), (child_out, 1), (child_out, 2)):
                os.dup2(descriptor, place)
            os.close(ours_out)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            if ROOT:
                os.setgroups([])
                os.setgid(OTHER)
                os.setuid(OTHER)
            status = work()
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(child_in)
    os.close(child_out)
    return Child(pid, os.fdopen(ours_in), os.fdopen(ours_out, "w"))


class UserTests(SynchronousTestCase):
    def test_the_servers_environment_holds_nothing_of_ours(self) -> None:
        self.patch(os, "environ", {"PATH": "/bin", "ADMIN_KEY": "secret", "PGPORT": "1", "AURORA_URL": "x"})
        self.assertEqual(privileges.environment(), {"PATH": "/bin", "LC_ALL": "C"})

    def test_root_is_nobody_and_everyone_else_is_who_they_are(self) -> None:
        folder = open_folder(self) / "postgres"
        server = Server(QUICK, folder)
        self.addCleanup(server.stop)
        server.start()
        users = status_of(server.pid)["Uid"].split()
        self.assertEqual(len(set(users)), 1)
        self.assertEqual(int(users[0]) == os.geteuid(), not ROOT)
        self.assertEqual({path.stat().st_uid for path in (folder, folder / "data")}, {int(users[0])})
        if ROOT:
            self.assertEqual(status_of(server.pid)["Groups"], "")
            self.assertEqual(int(status_of(server.pid)["CapPrm"], 16), 0)

    def test_the_owner_of_the_folder_is_who_it_runs_as(self) -> None:
        folder = open_folder(self) / "postgres"
        folder.mkdir()
        os.chown(folder, OTHER, -1)
        server = Server(QUICK, folder)
        self.addCleanup(server.stop)
        server.start()
        self.assertEqual(set(status_of(server.pid)["Uid"].split()), {str(OTHER)})

    def test_a_folder_that_root_makes_is_the_state_folders_owners(self) -> None:
        """So that a command by root, before the first start, does not keep the daemon's own user out."""
        state = open_folder(self)
        os.chown(state, OTHER, -1)
        server = Server(QUICK, folder_of(state))
        self.addCleanup(server.stop)
        server.start()
        self.assertEqual(set(status_of(server.pid)["Uid"].split()), {str(OTHER)})
        self.assertEqual(server.folder.stat().st_uid, OTHER)

    def test_an_owner_of_the_state_folder_who_has_no_name_is_passed_over(self) -> None:
        state = open_folder(self)
        if ROOT:
            os.chown(state, next(user for user in range(54_321, 60_000) if not privileges.has_name(user)), -1)
        server = Server(QUICK, folder_of(state))
        self.addCleanup(server.stop)
        server.start()
        self.assertEqual(execute(server.url(), "SELECT 1"), 1)

    def test_another_user_runs_one_too(self) -> None:
        state = open_folder(self)
        os.chown(state, OTHER, -1)
        child = as_other(lambda: keeper.main([str(folder_of(state)), *QUICK]))
        said = [child.said.readline()]
        while said[-1] and not said[-1].startswith("{"):
            said.append(child.said.readline())
        self.assertTrue(said[-1], said)
        announced = json.loads(said[-1])
        self.assertEqual(set(status_of(announced["pid"])["Uid"].split()), {str(OTHER)})
        self.assertEqual(execute(announced["url"], "SELECT 1"), 1)
        rest, status = child.end()
        self.assertEqual(status, 0)
        self.assertIn("database system is shut down", rest)

    def test_folders_above_that_are_closed_stay_so_and_are_no_obstacle(self) -> None:
        closed = open_folder(self)
        closed.chmod(0o700)
        state = closed / "state"
        server = Server(QUICK, folder_of(state))
        self.addCleanup(server.stop)
        server.start()
        self.assertEqual(execute(server.url(), "SELECT count(*) FROM pg_ls_dir('.') WHERE pg_ls_dir = 'base'"), 1)
        self.assertEqual(closed.stat().st_mode & 0o777, 0o700)
        held = int(status_of(server.pid)["CapEff"], 16)
        ours = int(status_of(os.getpid())["CapEff"], 16)
        self.assertIn(held, (1 << CAP_DAC_READ_SEARCH, 1 << CAP_DAC_OVERRIDE) if ROOT else (ours,))
        # its children are no less able than itself
        children = [status_of(pid) for pid in inhabitants(server.data)]
        self.assertEqual({int(child["CapEff"], 16) for child in children if child}, {held})
        server.kill()
        server.restart()
        self.assertEqual(execute(server.url(), "SELECT 1"), 1)

    def test_programs_below_a_closed_folder_run_with_their_libraries(self) -> None:
        # not in memory, from where nothing may be run on some systems
        closed = Path(tempfile.mkdtemp(prefix="tb-"))
        self.addCleanup(shutil.rmtree, closed)
        package = binaries().parent.parent
        shutil.copytree(package / "pginstall" / "bin", closed / package.name / "pginstall" / "bin")
        shutil.copytree(package / "pginstall" / "share", closed / package.name / "pginstall" / "share")
        shutil.copytree(package / "pginstall" / "lib", closed / package.name / "pginstall" / "lib")
        libraries = package.with_name(package.name + ".libs")
        if libraries.exists():
            shutil.copytree(libraries, closed / libraries.name)
        closed.chmod(0o700)
        folder = open_folder(self) / "postgres"
        folder.mkdir(mode=0o700)
        programs = closed / package.name / "pginstall" / "bin"
        who = identity(folder, programs / "postgres")
        self.assertEqual(who.capability is None, not ROOT)
        run_as(who, folder, [str(programs / "initdb"), "-D", str(folder / "data"), "--no-sync"], "initdb")
        said = run_as(
            who, folder, [str(programs / "postgres"), "--single", "-D", str(folder / "data"), "postgres"], "postgres",
            b"SELECT 'from ' || 'below'\n",
        )  # fmt: skip
        self.assertIn('"from below"', said)

    def test_who_cannot_reach_it_by_any_means_is_told_what_to_do(self) -> None:
        self.patch(os, "geteuid", lambda: 0)
        self.patch(os, "chown", lambda *args: None)
        self.patch(privileges, "_works", lambda *args: False)
        folder = open_folder(self)
        with self.assertRaises(StoreError) as caught:
            identity(folder, binaries() / "postgres")
        self.assertIn("PostgreSQL does not run as root, and user ", str(caught.exception))
        self.assertIn("start tbeast as a user other than root", str(caught.exception))

    def test_who_may_not_give_the_folder_away_is_told_so_too(self) -> None:
        def forbidden(*args: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        folder = open_folder(self)
        of_root = folder.stat()
        self.patch(os, "geteuid", lambda: 0)
        self.patch(os, "chown", forbidden)
        self.patch(Path, "stat", lambda path: os.stat_result([*of_root[:4], 0, 0, *of_root[6:]]))
        with self.assertRaises(StoreError) as caught:
            identity(folder, binaries() / "postgres")
        self.assertIn(f"{folder} cannot be given to user ", str(caught.exception))
        self.assertIn("start tbeast as a user other than root", str(caught.exception))

    def test_data_of_another_user_are_left_alone(self) -> None:
        server = Server(QUICK, life_folder())
        self.addCleanup(server.stop)
        server.start()
        server.stop()
        # as root we can give them away; as somebody else we can at least claim to be another
        with self.assertRaises(StoreError) as caught:
            Keeper(server.folder, {}, Wish())._check(Identity(user=4242))
        self.assertIn(f"{server.data} belongs to user ", str(caught.exception))
        self.assertIn(f"chown -R 4242 {server.folder}", str(caught.exception))

    def test_a_folder_of_another_user_is_not_looked_into(self) -> None:
        state = life_folder().parent
        server = Server(QUICK, life_folder())
        self.addCleanup(server.stop)
        server.start()

        def look() -> int:
            try:
                sys.stdout.write(repr(running(state)))
            except StoreError as error:
                sys.stdout.write(str(error))
            return 0

        said, _ = as_other(look).end()
        self.assertIn(f"{folder_of(state)} belongs to another user" if ROOT else "Target(", said)

    def test_its_environment_holds_no_secret_of_ours(self) -> None:
        self.patch(os, "environ", {**os.environ, "ADMIN_KEY": "correct-horse-battery"})
        server = Server(QUICK, life_folder())
        self.addCleanup(server.stop)
        server.start()
        self.assertIn(b"ADMIN_KEY", Path(f"/proc/{server.keeper.pid}/environ").read_bytes())
        self.assertNotIn(b"ADMIN_KEY", Path(f"/proc/{server.pid}/environ").read_bytes())

    def test_a_user_without_a_name_is_told_to_get_one(self) -> None:
        words = "echo 'initdb: could not look up effective user ID 5: user does not exist'; exit 1"
        with self.assertRaises(StoreError) as caught:
            run_as(Identity(), Path("/"), ["sh", "-c", words], "it failed")
        self.assertIn("start tbeast as a user who has an entry in /etc/passwd", str(caught.exception))

    def test_a_program_that_fails_is_told_with_its_last_words(self) -> None:
        with self.assertRaises(StoreError) as caught:
            run_as(Identity(), Path("/"), ["sh", "-c", "echo one; echo two >&2; exit 3"], "it failed")
        self.assertEqual(str(caught.exception), "it failed: one / two")
        # as initdb does on a full disk
        words = "FATAL:  could not write: No space left on device\nSTATEMENT:  CREATE DATABASE template0;\n\t\nremoving"
        with self.assertRaises(StoreError) as caught:
            run_as(Identity(), Path("/"), ["sh", "-c", 'printf "$0"; exit 1', words], "it failed")
        self.assertEqual(str(caught.exception), "it failed: FATAL:  could not write: No space left on device")
        with self.assertRaises(StoreError) as caught:
            run_as(Identity(), Path("/"), ["/no/such/program"], "it failed")
        self.assertIn("it failed: ", str(caught.exception))

    def test_a_child_whose_parent_is_gone_does_not_begin(self) -> None:
        self.patch(os, "getppid", lambda: -1)
        done = subprocess.run(["true"], preexec_fn=lowering(Identity(), Path("/"), signal.SIGTERM), check=False)
        self.assertEqual(done.returncode, 1)
