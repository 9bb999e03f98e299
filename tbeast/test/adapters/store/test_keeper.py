"""The keeper of the embedded PostgreSQL: its lives and deaths, and what lies in its way."""

from __future__ import annotations

import contextlib  # trial takes a name "suppress" in a test module for its own
import json
import os
import signal
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store import keeper, privileges
from tbeast.adapters.store.embedded import binaries, command, read_pid_file, running, target_of
from tbeast.adapters.store.keeper import Keeper, end_left_behind, inhabitants, remove_if_stale
from tbeast.adapters.store.postgres import connect, target
from tbeast.adapters.store.privileges import identity, lowering
from tbeast.errors import StoreError
from tbeast.test.adapters.store.embeddedservers import (
    Wish,
    execute,
    life_folder,
    open_folder,
    wait_until,
)
from tbeast.testing.postgres import QUICK, Server, environment


class StaleFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.file = Path(self.mktemp())

    def test_one_of_a_process_that_is_another_program_is_taken_away(self) -> None:
        self.file.write_text(f"{os.getpid()}\n/data\n")
        remove_if_stale(self.file)
        self.assertFalse(self.file.exists())

    def test_one_of_a_process_that_is_gone_is_left_to_postgresql(self) -> None:
        child = subprocess.Popen(["true"])
        child.wait()
        self.file.write_text(f"{child.pid}\n")
        remove_if_stale(self.file)
        self.assertTrue(self.file.exists())

    def test_one_that_names_no_process_is_taken_away(self) -> None:
        for text in ("", "\n", "x\n", f"{10**30}\n"):
            self.file.write_text(text)
            remove_if_stale(self.file)
            self.assertFalse(self.file.exists(), text)

    def test_none_is_none(self) -> None:
        remove_if_stale(self.file)
        self.assertFalse(self.file.exists())


class LifeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = life_folder()
        self.server = Server(QUICK, self.folder)
        self.addCleanup(self.server.stop)

    def keeps(self, write: bool = True) -> None:
        if write:
            execute(self.server.url(), "DROP TABLE IF EXISTS kept; CREATE TABLE kept (a integer)")
        else:
            self.assertEqual(execute(self.server.url(), "SELECT count(*) FROM kept"), 0)

    def kill_all(self) -> None:
        """Kill the keeper and every process of the server, the first of them first: it has no time to put in order."""
        pids = [self.server.pid, self.server.keeper.pid, *inhabitants(self.folder / "data")]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.server.stop()

    def test_it_announces_itself_when_it_answers(self) -> None:
        self.server.start()
        said = self.server.announced
        self.assertEqual(target_of(said).where, f"{self.folder}/tbeast")
        self.assertEqual(execute(said["url"], "SELECT current_user"), "tbeast")
        self.assertEqual(execute(said["url"], "SHOW server_version"), said["version"])
        self.assertEqual((said["socket"], said["data"], said["ready"]), (str(self.folder), f"{self.folder}/data", True))
        self.assertIn(said["pid"], inhabitants(self.folder / "data"))
        for name, text in (
            ("server_encoding", "UTF8"),
            ("data_checksums", "on"),
            ("listen_addresses", ""),
            ("max_connections", "100"),
            ("log_timezone", "UTC"),
        ):
            self.assertEqual(execute(said["url"], f"SHOW {name}"), text)

    def test_what_is_written_is_written_to_the_disk_unless_it_is_a_test(self) -> None:
        server = Server((), self.folder)
        self.addCleanup(server.stop)
        server.start()
        for name, text in (
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("full_page_writes", "on"),
            ("max_connections", "60"),
            ("shared_buffers", "64MB"),
        ):
            self.assertEqual(execute(server.url(), f"SHOW {name}"), text)

    def test_nobody_else_may_enter(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self.server.start()
        for path in (self.folder, self.folder / "data"):
            self.assertEqual(path.stat().st_mode & 0o777, 0o700, path)
        self.assertEqual(self.folder.parent.stat().st_mode & 0o055, 0o055)

    def test_when_it_is_not_wanted_any_more_it_is_stopped_in_good_order(self) -> None:
        self.server.start()
        connection = connect(target(self.server.url()))
        self.addCleanup(connection.close)
        process = self.server.keeper
        self.keeps()
        self.server.stop()
        self.assertEqual(process.returncode, 0)
        self.assertIn("database system is shut down", self.server.log)
        self.assertEqual(inhabitants(self.folder / "data"), [])
        self.server.start()
        self.keeps(write=False)
        self.assertNotIn("was not properly shut down", self.server.log.rpartition("database system is shut down")[2])

    def test_a_signal_asks_for_the_end_as_well(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self.server.start()
            process = self.server.keeper
            process.send_signal(signal.SIGHUP)
            process.send_signal(number)
            self.assertEqual(process.wait(30), 0)
            self.assertEqual(inhabitants(self.folder / "data"), [])
            self.server.stop()

    def test_when_the_keeper_is_killed_the_server_stops_by_itself_in_good_order(self) -> None:
        self.server.start()
        self.keeps()
        self.server.keeper.kill()
        self.server.keeper.wait()
        wait_until(lambda: not inhabitants(self.folder / "data"))
        self.assertIn("database system is shut down", self.server.log)
        self.server.stop()
        self.server.start()
        self.keeps(write=False)

    def test_the_next_keeper_waits_for_the_server_of_one_that_was_killed(self) -> None:
        self.server.start()
        self.keeps()
        self.server.keeper.kill()
        self.server.stop()
        self.server.start()
        self.keeps(write=False)

    def test_when_the_server_dies_the_keeper_ends_and_says_how(self) -> None:
        self.server.start()
        self.keeps()
        os.kill(self.server.pid, signal.SIGKILL)
        self.assertEqual(self.server.keeper.wait(30), 1)
        self.assertTrue(self.server.log.rstrip().endswith("PostgreSQL was ended by signal 9"), self.server.log)
        self.server.stop()
        self.server.start()
        self.keeps(write=False)

    def test_when_everything_was_killed_the_next_start_has_what_was_committed(self) -> None:
        self.server.start()
        self.keeps()
        self.kill_all()
        self.assertTrue((self.folder / "data" / "postmaster.pid").exists())
        self.server.start()
        self.keeps(write=False)

    def test_a_process_number_that_was_given_out_again_is_no_obstacle(self) -> None:
        self.server.start()
        self.kill_all()
        # of a process of the server's own user, which is the one that PostgreSQL would take for its elder
        who = identity(self.folder, binaries() / "postgres")
        other = subprocess.Popen(["cat"], stdin=subprocess.PIPE, preexec_fn=lowering(who, Path("/")))
        self.addCleanup(other.wait)
        assert other.stdin is not None
        self.addCleanup(other.stdin.close)
        for file in (self.folder / "data" / "postmaster.pid", self.folder / ".s.PGSQL.5432.lock"):
            lines = file.read_text().split("\n")
            file.write_text("\n".join([str(other.pid), *lines[1:]]))
        self.server.start()
        self.assertEqual(execute(self.server.url(), "SELECT 1"), 1)
        self.assertIsNone(other.poll())

    def test_lock_files_that_a_loss_of_power_left_empty_are_no_obstacle(self) -> None:
        self.server.start()
        self.kill_all()
        for file in (self.folder / "data" / "postmaster.pid", self.folder / ".s.PGSQL.5432.lock"):
            file.write_bytes(b"")
        self.server.start()
        self.assertEqual(execute(self.server.url(), "SELECT 1"), 1)

    def test_a_server_that_was_left_behind_is_ended_first_even_if_it_hangs(self) -> None:
        self.server.start()
        self.keeps()
        self.server.stop()
        # a process that is stopped hears SIGKILL alone
        steps = ((signal.SIGINT, 1.0), (signal.SIGQUIT, 0.2), (signal.SIGKILL, 5.0))
        self.patch(keeper, "LEFT_BEHIND_STEPS", steps)
        for hang in (False, True):
            who = identity(self.folder, binaries() / "postgres")
            orphan = subprocess.Popen(
                [str(binaries() / "postgres"), "-D", str(self.folder / "data"), "-c", "listen_addresses=", "-k",
                 str(self.folder)],
                env=privileges.environment(), preexec_fn=lowering(who, self.folder), stderr=subprocess.DEVNULL,
            )  # fmt: skip
            wait_until(lambda: getattr(read_pid_file(self.folder / "data"), "status", "") == "ready")
            if hang:
                orphan.send_signal(signal.SIGSTOP)
            end_left_behind(self.folder / "data", Wish())
            orphan.wait(30)
            self.assertEqual(inhabitants(self.folder / "data"), [])
        self.server.start()
        self.keeps(write=False)

    def test_only_the_server_of_this_folder_is_taken_for_one_left_behind(self) -> None:
        self.server.start()
        visitor = subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=self.folder / "data")
        self.addCleanup(visitor.wait)
        assert visitor.stdin is not None
        self.addCleanup(visitor.stdin.close)
        self.assertNotIn(visitor.pid, inhabitants(self.folder / "data"))
        self.assertIn(self.server.pid, inhabitants(self.folder / "data"))
        self.assertEqual(inhabitants(self.folder), [])
        self.assertEqual(inhabitants(self.folder / "nothing"), [])
        self.assertTrue(keeper._is_server(self.server.pid, self.folder / "data"))
        self.assertFalse(keeper._is_server(visitor.pid, self.folder / "data"))

    def test_a_second_keeper_waits_its_turn(self) -> None:
        self.server.start()
        self.keeps()
        second = Server(QUICK, self.folder)
        self.addCleanup(second.stop)
        reader, writer = os.pipe()
        waiting = subprocess.Popen(
            [*command(self.folder.parent), *QUICK], stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=environment(),
        )  # fmt: skip
        os.close(reader)
        assert waiting.stdout is not None
        self.addCleanup(waiting.stdout.close)
        self.assertEqual(execute(self.server.url(), "SELECT count(*) FROM kept"), 0)
        self.server.stop()
        said = json.loads(waiting.stdout.readline())
        self.assertEqual(execute(said["url"], "SELECT count(*) FROM kept"), 0)
        os.close(writer)
        self.assertEqual(waiting.wait(30), 0)

    def test_one_that_waits_for_too_long_gives_up(self) -> None:
        self.patch(keeper, "LOCK_SECONDS", 0.1)
        self.server.start()
        with self.assertRaises(StoreError) as caught:
            Keeper(self.folder, {}, Wish()).keep()
        self.assertIn(
            f"another tbeast, a daemon or a command, runs the PostgreSQL in {self.folder}", str(caught.exception)
        )
        self.assertEqual(Keeper(self.folder, {}, Wish(False)).keep(), 0)
        self.assertEqual(execute(self.server.url(), "SELECT 1"), 1)

    def test_data_that_were_not_made_to_the_end_are_made_anew(self) -> None:
        folder = open_folder(self) / "postgres"
        (folder / "data.new" / "base").mkdir(parents=True)
        server = Server(QUICK, folder)
        self.addCleanup(server.stop)
        server.start()
        self.assertFalse((folder / "data.new").exists())
        self.assertEqual(execute(server.url(), "SELECT current_database()"), "tbeast")

    def test_data_of_another_version_are_left_alone(self) -> None:
        self.server.start()
        self.server.stop()
        version = self.folder / "data" / "PG_VERSION"
        self.addCleanup(version.write_text, version.read_text())
        version.write_text("9\n")
        with self.assertRaises(RuntimeError) as caught:
            self.server.start()
        self.assertIn("was made by PostgreSQL 9, and the one installed is 1", str(caught.exception))
        version.unlink()
        with self.assertRaises(RuntimeError) as caught:
            self.server.start()
        self.assertIn("is not the data of a PostgreSQL", str(caught.exception))

    def test_a_folder_that_cannot_be_made(self) -> None:
        folder = open_folder(self) / "state" / "postgres"
        folder.parent.write_text("a file")
        with self.assertRaises(RuntimeError) as caught:
            Server(QUICK, folder).start()
        self.assertIn(f"{folder} cannot be used for PostgreSQL's data: ", str(caught.exception))

    def test_a_path_that_no_socket_can_have(self) -> None:
        for name in ("x" * 120, "a,b c"):
            folder = open_folder(self) / name / "postgres"
            server = Server(QUICK, folder)
            self.addCleanup(server.stop)
            server.start()
            sockets = Path(server.announced["socket"])
            self.assertEqual(sockets.parent, Path(tempfile.gettempdir()))
            self.assertEqual(sockets.stat().st_mode & 0o777, 0o700)
            self.assertEqual(execute(server.announced["url"], "SHOW data_directory"), str(folder / "data"))
            found = running(folder.parent)
            assert found is not None
            self.assertEqual(execute(found.url, "SHOW data_directory"), str(folder / "data"))
            server.restart()
            self.assertEqual(server.announced["socket"], str(sockets))
            server.stop()
            self.assertFalse(sockets.exists())

    def test_a_temporary_folder_that_is_somebody_elses_is_not_used(self) -> None:
        folder = open_folder(self) / ("x" * 120)
        server = Server(QUICK, folder)
        self.addCleanup(server.stop)
        server.start()
        sockets = Path(server.announced["socket"])
        server.stop()
        sockets.mkdir(mode=0o755)
        self.addCleanup(sockets.rmdir)
        sockets.chmod(0o755)
        server.start()
        self.assertNotEqual(server.announced["socket"], str(sockets))


class PatienceTests(SynchronousTestCase):
    """The keeper with a server that takes its time, played by another program."""

    def setUp(self) -> None:
        self.keeper = Keeper(Path(self.mktemp()), {}, Wish())

    def server(self, script: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        self.addCleanup(process.stdout.close)
        self.assertEqual(process.stdout.readline(), b"here\n")
        return process

    def test_one_that_still_recovers_is_announced_as_it_is(self) -> None:
        self.patch(keeper, "READY_SECONDS", 0.05)
        said = StringIO()
        self.patch(sys, "stdout", said)
        server = self.server("echo here; exec sleep 60")
        self.keeper._announce(server, Path("/sock"))
        announced = json.loads(said.getvalue())
        self.assertEqual((announced["ready"], announced["pid"]), (False, server.pid))

    def test_one_that_died_before_it_was_ready_is_not_announced(self) -> None:
        said = StringIO()
        self.patch(sys, "stdout", said)
        server = self.server("echo here")
        server.wait()
        self.keeper._announce(server, Path("/sock"))
        self.assertEqual(said.getvalue(), "")

    def test_one_that_does_not_stop_is_made_to(self) -> None:
        steps = ((signal.SIGINT, 0.1), (signal.SIGQUIT, 0.1), (signal.SIGKILL, 10.0))
        self.patch(keeper, "STOP_STEPS", steps)
        for ignored, ended_by in (("", signal.SIGINT), ("INT", signal.SIGQUIT), ("INT QUIT", signal.SIGKILL)):
            # wait is cut short by a signal, and a sleep in the background hears none of the two
            server = self.server(f"{f'trap : {ignored};' if ignored else ''} echo here; while :; do sleep 0.01; done")
            self.keeper._stop(server)
            self.assertEqual(server.returncode, -ended_by)
