"""The pool of database threads, with a real server, which is also killed, hung and crowded."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg2
from attrs import evolve
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tbeast.adapters.store import threads
from tbeast.adapters.store.postgres import Connection, Target, connect, target
from tbeast.adapters.store.sessions import Session
from tbeast.adapters.store.threads import StorePool
from tbeast.errors import StoreError, StoreRefusedError, StoreUnavailableError
from tbeast.testing.logs import listen
from tbeast.testing.postgres import fresh_connection, fresh_database, own_server

T = TypeVar("T")

reactor: Any = installed_reactor


def value(query: str) -> Callable[[Connection], Any]:
    """Work that gives the first value of what a query finds."""

    def work(connection: Connection) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
        return row and row[0]

    return work


def done(statement: str) -> Callable[[Connection], None]:
    """Work that executes a statement."""

    def work(connection: Connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    return work


def held_up(begun: threading.Event, go_on: threading.Event) -> Callable[[Connection], bool]:
    """Work that waits for something else than the database."""

    def work(connection: Connection) -> bool:
        begun.set()
        return go_on.wait(30)

    return work


SET_A = "INSERT INTO application_parameters (key, value) VALUES ('a', '1')"
COUNT = "SELECT count(*) FROM application_parameters"


class PoolCase(TestCase):
    timeout = 60

    def pool(self, where: Target | str, size: int = 4, **options: Any) -> StorePool:
        pool = StorePool(target(where) if isinstance(where, str) else where, reactor, size, **options)
        pool.start()
        self.addCleanup(pool.stop, 0.0)
        return pool

    async def error(self, work: Deferred[Any]) -> Exception:
        try:
            result = await work
        except Exception as error:
            return error
        raise AssertionError(f"no error, but {result!r}")

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for other threads or processes; the case's time limit ends it."""
        while not condition():
            await deferLater(reactor, 0.01)


class WorkTests(PoolCase):
    def setUp(self) -> None:
        self.url = fresh_database(self)

    async def test_it_gives_what_the_work_returned(self) -> None:
        pool = self.pool(self.url)
        self.assertEqual(await pool.run(value("SELECT 40 + 2")), 42)
        self.assertTrue(pool.status.up)

    async def test_it_is_done_in_a_thread_of_the_pools_own_that_holds_up_no_exit(self) -> None:
        pool = self.pool(self.url)
        thread = await pool.run(lambda connection: threading.current_thread())
        self.assertIsNot(thread, threading.main_thread())
        self.assertTrue(thread.daemon)
        self.assertIn("store", thread.name)

    async def test_what_was_done_is_committed(self) -> None:
        pool = self.pool(self.url)
        await pool.run(done(SET_A))
        other = fresh_connection(self, self.url)
        self.assertEqual(value(COUNT)(other), 1)

    async def test_what_raised_is_rolled_back_and_its_connection_used_again(self) -> None:
        pool = self.pool(self.url, size=1)
        backend = await pool.run(value("SELECT pg_backend_pid()"))

        def work(connection: Connection) -> None:
            done(SET_A)(connection)
            raise LookupError("of the work's own")

        error = await self.error(pool.run(work))
        self.assertIsInstance(error, LookupError)
        self.assertEqual(await pool.run(value(COUNT)), 0)
        self.assertEqual(await pool.run(value("SELECT pg_backend_pid()")), backend)

    async def test_a_rule_of_the_schema_refuses(self) -> None:
        pool = self.pool(self.url, size=1)
        await pool.run(done(SET_A))
        error = await self.error(pool.run(done(SET_A)))
        assert isinstance(error, StoreRefusedError)
        self.assertEqual(error.code, "23505")
        self.assertNotIn("(a)", str(error))
        self.assertEqual(await pool.run(value(COUNT)), 1)

    async def test_a_text_that_cannot_be_sent_is_refused(self) -> None:
        pool = self.pool(self.url)
        for text in ("a\0b", "\ud800"):

            def work(connection: Connection, text: str = text) -> None:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT %s", (text,))

            error = await self.error(pool.run(work))
            assert isinstance(error, StoreRefusedError)
            self.assertEqual(error.code, "22021")
        self.assertIsInstance(await self.error(pool.run(lambda connection: int("x"))), ValueError)

    async def test_a_connection_left_in_another_mode_is_put_right(self) -> None:
        pool = self.pool(self.url, size=1)

        def careless(connection: Connection) -> None:
            connection.rollback()
            connection.autocommit = True

        await pool.run(careless)
        await self.error(pool.run(lambda connection: (done(SET_A)(connection), 1 / 0)))
        self.assertEqual(await pool.run(value(COUNT)), 0)

    async def test_as_many_at_once_as_it_has_threads(self) -> None:
        pool = self.pool(self.url, size=3)
        together = threading.Barrier(3, timeout=30)
        backends = await gatherResults(
            [pool.run(lambda connection: (together.wait(), connection.info.backend_pid)[1]) for _ in range(3)]
        )
        self.assertEqual(len(set(backends)), 3)
        more = await gatherResults([pool.run(lambda connection: connection.info.backend_pid) for _ in range(30)])
        self.assertLessEqual(set(more), set(backends))

    async def test_what_waits_is_bounded(self) -> None:
        pool = self.pool(self.url, size=1, most_waiting=3)
        go_on = threading.Event()
        accepted = [pool.run(lambda connection: go_on.wait(30)) for _ in range(3)]
        self.assertEqual(pool.waiting, 3)
        error = self.failureResultOf(pool.run(value(COUNT)), StoreUnavailableError)
        self.assertEqual(str(error.value), "3 works wait for the database already")
        go_on.set()
        self.assertEqual(await gatherResults(accepted), [True] * 3)
        self.assertEqual(await pool.run(value(COUNT)), 0)

    async def test_a_slow_statement_is_given_up_by_the_server(self) -> None:
        pool = self.pool(evolve(target(self.url), statement_seconds=0.05))
        error = await self.error(pool.run(value("SELECT pg_sleep(30)")))
        self.assertIsInstance(error, StoreUnavailableError)
        self.assertIn("statement timeout", str(error))
        self.assertTrue(pool.status.up)

    async def test_before_the_start_and_after_the_stop_there_is_none(self) -> None:
        pool = StorePool(target(self.url), reactor)
        self.failureResultOf(pool.run(value(COUNT)), StoreUnavailableError)
        pool.start()
        self.assertRaises(RuntimeError, pool.start)
        self.assertEqual(await pool.run(value(COUNT)), 0)
        await pool.stop()
        self.failureResultOf(pool.run(value(COUNT)), StoreUnavailableError)
        await pool.stop()
        pool.start()
        self.assertEqual(await pool.run(value(COUNT)), 0)
        await pool.stop()


class BrokenConnectionTests(PoolCase):
    def setUp(self) -> None:
        self.url = fresh_database(self)
        self.admin = fresh_connection(self, self.url)
        self.admin.autocommit = True

    def terminate(self, backend: int) -> None:
        """End a connection from the other side, and wait until it is gone."""
        self.assertTrue(value(f"SELECT pg_terminate_backend({backend}, 10000)")(self.admin))

    async def test_one_that_was_closed_while_idle_costs_no_work(self) -> None:
        lines = listen(self)
        pool = self.pool(self.url, size=1)
        backend = await pool.run(value("SELECT pg_backend_pid()"))
        self.terminate(backend)
        self.assertNotEqual(await pool.run(value("SELECT pg_backend_pid()")), backend)
        self.assertEqual(lines.having("database is"), [])

    async def test_one_that_breaks_under_the_work_fails_it_and_is_replaced(self) -> None:
        pool = self.pool(self.url, size=1)
        backend = await pool.run(value("SELECT pg_backend_pid()"))
        working = pool.run(value("SELECT pg_sleep(30)"))
        await self.until(
            lambda: value(f"SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = {backend}")(self.admin)
        )
        self.terminate(backend)
        self.assertIsInstance(await self.error(working), StoreUnavailableError)
        self.assertNotEqual(await pool.run(value("SELECT pg_backend_pid()")), backend)

    async def test_one_that_turned_read_only_is_replaced(self) -> None:
        pool = self.pool(self.url, size=1)
        backend = await pool.run(value("SELECT pg_backend_pid()"))
        error = await self.error(pool.run(done("SET TRANSACTION READ ONLY; " + SET_A)))
        self.assertIsInstance(error, StoreUnavailableError)
        self.assertIn("read-only", str(error))
        self.assertNotEqual(await pool.run(value("SELECT pg_backend_pid()")), backend)

    async def test_one_that_was_idle_for_long_is_tried_first(self) -> None:
        self.patch(threads, "IDLE_SECONDS", -1.0)
        tried: list[Session] = []
        works = Session.works

        def counted(session: Session) -> bool:
            tried.append(session)
            return works(session)

        self.patch(Session, "works", counted)
        pool = self.pool(self.url, size=1)
        self.assertEqual(await pool.run(value(COUNT)), 0)
        self.assertEqual(len(tried), 0)
        self.assertEqual(await pool.run(value(COUNT)), 0)
        self.assertEqual(len(tried), 1)

    async def test_a_server_without_a_free_place_is_not_away_for_those_who_have_one(self) -> None:
        lines = listen(self)
        made: list[Connection] = []

        def one_place(where: Target) -> Connection:
            if made:
                raise StoreUnavailableError("FATAL: sorry, too many clients already")
            made.append(connect(where))
            return made[0]

        pool = self.pool(self.url, size=2, connect=one_place)
        go_on, begun = threading.Event(), threading.Event()
        first = pool.run(held_up(begun, go_on))
        await self.until(begun.is_set)
        self.assertIn("too many clients", str(await self.error(pool.run(value(COUNT)))))
        go_on.set()
        self.assertTrue(await first)
        self.assertEqual(await pool.run(value(COUNT)), 0)
        self.assertEqual(lines.having("database is"), [])


class AwayTests(PoolCase):
    """The connections are real, and whether they come to be is the test's choice."""

    def setUp(self) -> None:
        self.patch(threads, "FIRST_RETRY_SECONDS", 0.01)
        self.patch(threads, "LONGEST_RETRY_SECONDS", 0.02)
        self.url = fresh_database(self)
        self.lines = listen(self)
        self.refusal: Exception | None = StoreUnavailableError("nobody is there")
        self.asked = 0

    def connect(self, where: Target) -> Connection:
        self.asked += 1
        if self.refusal is not None:
            raise self.refusal
        return connect(where)

    async def test_it_is_told_once_and_work_fails_at_once_until_it_is_back(self) -> None:
        pool = self.pool(self.url, connect=self.connect)
        self.assertFalse(pool.status.up)
        errors = [await self.error(pool.run(value(COUNT))) for _ in range(3)]
        self.assertEqual([str(error) for error in errors], ["nobody is there"] * 3)
        self.assertEqual((pool.status.up, pool.status.why), (False, "nobody is there"))
        self.failureResultOf(pool.run(value(COUNT)), StoreUnavailableError)
        since = pool.status.since
        self.refusal = StoreUnavailableError("it is starting up")
        await self.until(lambda: pool.status.why == "it is starting up")
        self.assertEqual(pool.status.since, since)
        self.assertEqual(self.lines.having("the database is"), ["the database is away: nobody is there"])
        self.refusal = None
        await self.until(lambda: pool.status.up)
        self.assertEqual(await pool.run(value(COUNT)), 0)
        self.assertEqual(pool.status.why, "")
        self.assertGreater(pool.status.since, since)
        _, back = self.lines.having("the database is")
        self.assertTrue(back.startswith("the database is back after "), back)

    async def test_while_it_is_away_only_one_asks(self) -> None:
        pool = self.pool(self.url, size=8, connect=self.connect)
        works = [pool.run(value(COUNT)) for _ in range(200)]
        for work in works:
            await self.error(work)
        self.assertLessEqual(self.asked, 8 + 2)

    async def test_the_stop_ends_the_trying(self) -> None:
        pool = self.pool(self.url, connect=self.connect)
        await self.error(pool.run(value(COUNT)))
        await pool.stop()
        asked = self.asked
        await deferLater(reactor, 0.05)
        self.assertLessEqual(self.asked, asked + 1)

    async def test_a_secret_that_is_of_no_use_is_an_absence_too(self) -> None:
        self.refusal = StoreError("the secret is not there")
        pool = self.pool(self.url, connect=self.connect)
        self.assertEqual(type(await self.error(pool.run(value(COUNT)))), StoreError)
        self.refusal = None
        await self.until(lambda: pool.status.up)
        self.assertEqual(await pool.run(value(COUNT)), 0)

    async def test_one_who_cannot_connect_for_a_reason_of_its_own_is_told_it(self) -> None:
        self.refusal = ZeroDivisionError("a mistake")
        pool = self.pool(self.url, connect=self.connect)
        self.assertIsInstance(await self.error(pool.run(value(COUNT))), ZeroDivisionError)
        self.refusal = None
        self.assertEqual(await pool.run(value(COUNT)), 0)


class ServerFaultTests(PoolCase):
    def setUp(self) -> None:
        self.server = own_server(self)
        self.patch(threads, "LOOK_SECONDS", 0.05)

    async def test_killed_under_load_it_is_unavailable_and_then_works_again_by_itself(self) -> None:
        lines = listen(self)
        pool = self.pool(self.server.url(), size=4)
        answered: list[Any] = []
        failed: list[Failure] = []
        loading = True

        def load() -> None:
            if loading:
                work = pool.run(lambda connection: (value("SELECT pg_sleep(0.005)")(connection), True)[1])
                work.addCallbacks(answered.append, failed.append)
                work.addBoth(lambda _: reactor.callLater(0.001, load))

        for _ in range(8):
            load()
        await self.until(lambda: len(answered) > 50)
        self.server.kill()
        await self.until(lambda: len(failed) > 8)
        self.server.start()
        before = len(answered)
        await self.until(lambda: len(answered) > before + 50)
        loading = False
        self.assertEqual({failure.type for failure in failed}, {StoreUnavailableError})
        self.assertTrue(pool.status.up)
        away, back = lines.having("the database is")
        self.assertTrue(away.startswith("the database is away: "), away)
        self.assertTrue(back.startswith("the database is back after "), back)
        await self.until(lambda: not pool.waiting)
        await deferLater(reactor, 0.01)

    async def test_one_that_hangs_is_cut_off_and_works_again(self) -> None:
        pool = self.pool(self.server.url(), size=2, work_seconds=0.1)
        await gatherResults([pool.run(value("SELECT pg_sleep(0.01)")) for _ in range(2)])
        self.server.hang()
        errors = [await self.error(pool.run(value(COUNT))) for _ in range(2)]
        for error in errors:
            self.assertIsInstance(error, StoreUnavailableError)
            self.assertIn("gave no answer within 0.1 s", str(error))
        self.server.resume()
        self.assertEqual(await pool.run(value(COUNT), limit_seconds=30.0), 0)

    async def test_its_crash_is_survived_without_a_new_start_of_ours(self) -> None:
        pool = self.pool(self.server.url(), size=1)
        backend = await pool.run(value("SELECT pg_backend_pid()"))
        # a backend that is killed takes the others with it, and the server starts itself anew
        os.kill(backend, signal.SIGKILL)
        while True:
            try:
                self.assertEqual(await pool.run(value(COUNT)), 0)
                break
            except StoreUnavailableError:
                await deferLater(reactor, 0.02)

    async def test_a_work_that_is_held_up_elsewhere_is_answered_all_the_same(self) -> None:
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def name_server_is_slow(where: Target) -> Connection:
            go_on.wait(30)
            raise StoreUnavailableError("no such host")

        pool = self.pool(self.server.url(), work_seconds=0.05, connect=name_server_is_slow)
        error = await self.error(pool.run(value(COUNT)))
        self.assertIn("gave no answer within 0.05 s", str(error))
        self.assertEqual(pool.waiting, 0)


class StopTests(PoolCase):
    def setUp(self) -> None:
        self.url = fresh_database(self)
        self.patch(threads, "CUT_SECONDS", 0.2)

        self.admin = fresh_connection(self, self.url)
        self.admin.autocommit = True

    def backends(self) -> int:
        """How many connections to the database there are, ours not counted."""
        return int(value("SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()")(self.admin))

    async def test_what_was_accepted_is_finished(self) -> None:
        pool = self.pool(self.url, size=1)
        works = [pool.run(done(SET_A.replace("'a'", f"'{place}'"))) for place in range(20)]
        await pool.stop()
        self.assertTrue(all(work.called for work in works))
        await gatherResults(works)
        self.assertEqual(value(COUNT)(fresh_connection(self, self.url)), 20)

    async def test_its_connections_are_closed(self) -> None:
        pool = self.pool(self.url, size=2)
        await gatherResults([pool.run(value("SELECT pg_sleep(0.05)")) for _ in range(2)])
        self.assertEqual(self.backends(), 2)
        await pool.stop()
        await self.until(lambda: self.backends() == 0)
        self.assertEqual([thread for thread in threading.enumerate() if not thread.daemon], [threading.main_thread()])

    async def test_past_the_limit_what_runs_is_cut_and_what_waits_is_dropped(self) -> None:
        pool = self.pool(self.url, size=1)
        running = self.error(pool.run(value("SELECT pg_sleep(30)")))
        waiting = self.error(pool.run(done(SET_A)))
        running_error, waiting_error = map(Deferred.fromCoroutine, (running, waiting))
        await self.until(lambda: self.backends() == 1)
        await pool.stop(0.05)
        self.assertIn("cut off", str(await running_error))
        self.assertIsInstance(await waiting_error, StoreUnavailableError)
        self.assertEqual(value(COUNT)(fresh_connection(self, self.url)), 0)

    async def test_a_server_that_hangs_holds_up_nobody(self) -> None:
        """Neither the stop nor, while that waits, anything else in the process."""
        server = own_server(self)
        pool = self.pool(server.url(), size=2)
        running = Deferred.fromCoroutine(self.error(pool.run(value("SELECT pg_sleep(30)"))))
        await self.until(lambda: pool.status.up)
        server.hang()
        self.addCleanup(server.resume)
        turns: list[int] = []
        turning = LoopingCall(turns.append, 1)
        turning.start(0.01)
        await pool.stop(0.2)
        turning.stop()
        self.assertIn("cut off", str(await running))
        self.assertGreater(len(turns), 5)

    async def test_one_that_was_still_connecting_past_the_limit_does_not_begin(self) -> None:
        go_on, begun = threading.Event(), threading.Event()

        def slow(where: Target) -> Connection:
            begun.set()
            go_on.wait(30)
            return connect(where)

        pool = self.pool(self.url, size=1, connect=slow)
        work = Deferred.fromCoroutine(self.error(pool.run(done(SET_A))))
        await self.until(begun.is_set)
        stopped = pool.stop(0.0)
        await deferLater(reactor, 0.05)
        go_on.set()
        self.assertEqual(str(await work), "the connections to the database are closed")
        await stopped
        self.assertEqual(value(COUNT)(self.admin), 0)
        await self.until(lambda: self.backends() == 0)

    async def test_one_that_nothing_ends_is_left_behind(self) -> None:
        lines = listen(self)
        go_on, begun = threading.Event(), threading.Event()
        self.addCleanup(go_on.set)
        pool = self.pool(self.url, size=1)
        running = Deferred.fromCoroutine(self.error(pool.run(held_up(begun, go_on))))
        await self.until(begun.is_set)
        await pool.stop(0.05)
        self.assertIsInstance(await running, StoreUnavailableError)
        self.assertEqual(len(lines.having("1 works on the database did not end")), 1)
        go_on.set()
        await self.until(lambda: not [thread for thread in threading.enumerate() if "store" in thread.name])

    async def test_two_who_ask_for_it_are_both_told(self) -> None:
        pool = self.pool(self.url, size=1)
        work = pool.run(value("SELECT pg_sleep(0.05)"))
        await gatherResults([pool.stop(), pool.stop()])
        self.assertTrue(work.called)
        await work


class DriverErrorTests(PoolCase):
    async def test_an_error_when_connecting_reaches_the_log_without_a_password(self) -> None:
        lines = listen(self)
        pool = self.pool("postgresql://me:hunter2@127.0.0.1:1/x")
        error = await self.error(pool.run(value(COUNT)))
        self.assertIsInstance(error, StoreUnavailableError)
        self.assertIn("Connection refused", str(error))
        self.assertNotIn("hunter2", " ".join([str(error), repr(pool.target), *lines.lines]))
        self.assertNotIsInstance(error, psycopg2.Error)
