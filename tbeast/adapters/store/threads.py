"""Database work off the reactor: threads of our own, each with a connection while it works.

The rules. Work runs in one transaction: committed when it returns, rolled back when it raises. What waits is bounded;
beyond that, new work is refused at once. A connection that lay idle for long, that has something unasked to say, or
that is older than the last one that broke, is tried before it is used; one that an error broke is thrown away. When no
connection can be made the database is I{away}: all work then fails at once, with the reason, instead of standing in
line for a time-out, and the pool itself tries again until it is back. Both turns are told in the log, once each.

No answer is waited for without an end: statements and locks have their limits in the server, and for a server that
has gone silent each work has one here, after which its connection is cut. At the stop, what was accepted is finished,
up to a limit; then it is cut off, then left behind. The threads are daemons: none of them keeps the process from
ending.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Lock, Thread
from typing import Any, Final, Generic, Protocol, TypeVar

import psycopg2
from attrs import define, field, frozen
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from tbeast.adapters.store.postgres import (
    READ_ONLY,
    Connection,
    Target,
    code_of,
    connect,
    slots_taken,
    translated,
    untellable,
)
from tbeast.adapters.store.sessions import Session
from tbeast.errors import StoreError, StoreUnavailableError

T = TypeVar("T")

MOST_WAITING: Final = 2_000
WORK_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 15.0
"""After so long without use a connection is tried before it is used."""

FIRST_RETRY_SECONDS: Final = 0.25
LONGEST_RETRY_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 1.0
"""How often the pool looks whether a work has used up its time."""

STOP_SECONDS: Final = 5.0
CUT_SECONDS: Final = 1.0
"""The stop waits so long for what is under way, then for what it has cut off."""


class StoreReactor(Protocol):
    """What the pool needs of a reactor."""

    def callFromThread(self, what: Any, /, *args: Any) -> None:
        """Call something in the reactor's thread."""

    def callLater(self, delay: float, what: Any, /, *args: Any) -> IDelayedCall:
        """Call something later."""

    def seconds(self) -> float:
        """Time for the waiting; asked from any thread."""


@frozen
class StoreStatus:
    """How it stands with the database.

    @ivar up: whether the newest attempt to make a connection succeeded.
    @ivar since: when that began to hold, in the reactor's seconds.
    @ivar why: what is wrong, if it is not up.
    """

    up: bool
    since: float
    why: str = ""


@define(eq=False)
class _Job(Generic[T]):
    """One work.

    @ivar over: whether its Deferred has fired; for the reactor's thread.
    @ivar looks: how often the pool looked while it ran; for the reactor's thread.
    @ivar begun: whether a thread has taken it up.
    @ivar session: the connection that it uses now; under the pool's lock, as is the next.
    @ivar dropped: why it is not to be begun any more; empty: it is.
    """

    work: Callable[[Connection], T]
    limit_seconds: float
    done: Deferred[T] = field(factory=Deferred)
    over: bool = False
    looks: int = 0
    begun: bool = False
    session: Session | None = None
    dropped: str = ""


class StorePool:
    """Threads and connections to one database.

    @ivar status: how it stands with the database; to be read from any thread.
    """

    log = Logger()

    def __init__(
        self,
        target: Target,
        reactor: StoreReactor,
        size: int = 8,
        *,
        most_waiting: int = MOST_WAITING,
        work_seconds: float = WORK_SECONDS,
        connect: Callable[[Target], Connection] = connect,
    ) -> None:
        """Set it up; nothing is begun before L{start}.

        @param size: how many works run at once, and how many connections there are at most.
        @param most_waiting: how many works may be accepted and not done.
        @param work_seconds: how long a work may take, unless L{run} is told otherwise.
        @param connect: makes a connection, in a thread.
        """
        self.target = target
        self.status = StoreStatus(False, reactor.seconds(), "no connection was needed yet")
        self._reactor = reactor
        self._size = size
        self._most_waiting = most_waiting
        self._work_seconds = work_seconds
        self._connect = connect
        self._lock = Lock()
        # under the lock
        self._asked = False
        self._away = False
        self._open = False
        self._idle: list[Session] = []
        self._sessions: set[Session] = set()
        self._broke_at = float("-inf")
        # in the reactor's thread
        self._jobs: set[_Job[Any]] = set()
        self._retry: IDelayedCall | None = None
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._look: IDelayedCall | None = None
        self._limit: IDelayedCall | None = None
        self._stopped: Deferred[None] | None = None
        self._threads: ThreadPool | None = None

    @property
    def waiting(self) -> int:
        """How many works were accepted and are not done."""
        return len(self._jobs)

    def start(self) -> None:
        """Begin to take work. A connection is made when the first work needs one.

        @raise RuntimeError: when it runs, or has not ended yet.
        """
        if self._threads is not None:
            raise RuntimeError("the connections to the database are open already")
        threads = self._threads = ThreadPool(0, self._size, "store")
        threads.threadFactory = _DaemonThread
        threads.start()
        self._asked = self._away = False
        self._open = True
        self.status = StoreStatus(False, self._reactor.seconds(), "no connection was needed yet")

    def run(self, work: Callable[[Connection], T], limit_seconds: float | None = None) -> Deferred[T]:
        """Do some work in a thread.

        @param work: given a connection. What it did there is committed when it returns, rolled back when it raises.
        @param limit_seconds: how long it may take, from when a thread takes it up.
        @return: fires with what it returned, or fails with what it raised; an error of the driver is translated to
            L{StoreUnavailableError} (what was done may be committed or not, if the connection broke at the very end)
            or L{tbeast.errors.StoreRefusedError} (nothing was done).
        """
        threads = self._threads
        if threads is None or not self._open:
            return fail(StoreUnavailableError("the connections to the database are closed"))
        if self._away:
            return fail(StoreUnavailableError(self.status.why))
        if len(self._jobs) >= self._most_waiting:
            return fail(StoreUnavailableError(f"{len(self._jobs)} works wait for the database already"))
        job: _Job[T] = _Job(work, self._work_seconds if limit_seconds is None else limit_seconds)
        self._jobs.add(job)
        if self._look is None:
            self._look = self._reactor.callLater(LOOK_SECONDS, self._look_at_jobs)
        threads.callInThread(self._do, job)
        return job.done

    def stop(self, limit_seconds: float = STOP_SECONDS) -> Deferred[None]:
        """Take no more work, finish what was accepted, and close the connections.

        @param limit_seconds: how long to wait before what is under way is cut off.
        @return: fires when all is closed, at most C{CANCEL_SECONDS + CUT_SECONDS} after that limit; never fails.
        """
        done: Deferred[None] = Deferred()
        if self._stopped is not None:
            self._stopped.addCallback(lambda _: done.callback(None))
            return done
        if self._threads is None:
            done.callback(None)
            return done
        self._open = False
        self._stopped = Deferred()
        self._stopped.addCallback(lambda _: done.callback(None))
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._jobs:
            self._limit = self._reactor.callLater(limit_seconds, self._cut_jobs)
        else:
            self._close()
        return done

    # In a thread of the pool.

    def _do(self, job: _Job[T]) -> None:
        try:
            result = self._worked(job)
        except BaseException:
            failure = Failure()  # type: ignore[no-untyped-call]
            self._reactor.callFromThread(self._failed, job, failure)
        else:
            self._reactor.callFromThread(self._did, job, result)

    def _worked(self, job: _Job[T]) -> T:
        job.begun = True
        session = self._taken(job)
        connection = session.connection
        try:
            result = job.work(connection)
            connection.commit()
        except BaseException as error:
            self._leave_after(error, job, session)
            if session.cut_why:
                raise StoreUnavailableError(session.cut_why) from None
            if isinstance(error, psycopg2.Error) or (isinstance(error, ValueError) and untellable(error)):
                raise translated(error) from error
            raise
        with self._lock:
            job.session = None
        self._put_back(session)
        return result

    def _taken(self, job: _Job[Any]) -> Session:
        """A connection that works, for this job.

        @raise StoreUnavailableError: when there is none.
        """
        while True:
            with self._lock:
                if job.dropped:
                    raise StoreUnavailableError(job.dropped)
                if self._away:
                    raise StoreUnavailableError(self.status.why)
                session = job.session = self._idle.pop() if self._idle else None
            if session is None:
                session = self._connected()
                why_not = self._dropped_else_uses(job, session)
                if why_not:
                    self._put_back(session)
                    raise StoreUnavailableError(why_not)
                return session
            fresh = abs(self._reactor.seconds() - session.used_at) < IDLE_SECONDS and session.used_at > self._broke_at
            if (fresh and not session.speaks()) or session.works():
                return session
            with self._lock:
                job.session = None
            self._throw_away(session)
            if session.cut_why:
                raise StoreUnavailableError(session.cut_why)

    def _dropped_else_uses(self, job: _Job[Any], session: Session) -> str:
        """Note which connection a job uses from now on, unless it was dropped while that was made: then, why."""
        with self._lock:
            job.session = None if job.dropped else session
            return job.dropped

    def _connected(self) -> Session:
        """A new connection; whether it came to be decides whether the database is away."""
        try:
            connection = self._connect(self.target)
        except StoreError as error:
            # a server that has no place for one connection more still serves those that we have
            if not (slots_taken(error) and self._sessions):
                self._turn(False, str(error))
            raise
        session = Session(connection, self._reactor.seconds())
        with self._lock:
            self._sessions.add(session)
        self._turn(True, "")
        return session

    def _leave_after(self, error: BaseException, job: _Job[Any], session: Session) -> None:
        """See what an error has left of a connection."""
        with suppress(psycopg2.Error):
            session.connection.rollback()
        with self._lock:
            job.session = None
        if session.connection.closed or session.cut_why:
            # the others may have gone the same way
            self._broke_at = self._reactor.seconds()
            self._throw_away(session)
        elif isinstance(error, psycopg2.Error) and code_of(error) == READ_ONLY:
            # after a failover the name may lead to another server, which only a new connection finds
            self._throw_away(session)
        else:
            self._put_back(session)

    def _put_back(self, session: Session) -> None:
        keep = not session.cut_why
        if keep and session.connection.autocommit:
            try:
                session.connection.autocommit = False
            except psycopg2.Error:  # it is in the middle of something, or gone
                keep = False
        session.used_at = self._reactor.seconds()
        with self._lock:
            keep = keep and (self._open or bool(self._jobs))
            if keep:
                self._idle.append(session)
        if not keep:
            self._throw_away(session)

    def _throw_away(self, session: Session) -> None:
        with self._lock:
            self._sessions.discard(session)
        session.close()

    def _turn(self, up: bool, why: str) -> None:
        with self._lock:
            before, asked = self.status, self._asked
            turned = before.up != up or not asked
            since = self._reactor.seconds() if turned else before.since
            after = self.status = StoreStatus(up, since, why)
            self._asked, self._away = True, not up
            gone: list[Session] = []
            if not up:
                gone, self._idle = self._idle, gone
            if turned:
                # within the lock, so that the turns are told in their order
                self._reactor.callFromThread(self._turned, after, since - before.since if asked else None)
        for session in gone:
            self._throw_away(session)

    def _probe(self) -> None:
        try:
            self._put_back(self._connected())
        except Exception:
            # the reason stands in the status
            self._reactor.callFromThread(self._plan_retry)

    # In the reactor's thread.

    def _turned(self, status: StoreStatus, after_seconds: float | None) -> None:
        if not status.up:
            self.log.error("the database is away: {why}", why=status.why)
            self._retry_seconds = FIRST_RETRY_SECONDS
            self._plan_retry()
        elif after_seconds is not None:
            self.log.info("the database is back after {seconds:.1f} s", seconds=after_seconds)

    def _plan_retry(self) -> None:
        if self._open and self._retry is None:
            self._retry = self._reactor.callLater(self._retry_seconds, self._try_again)
            self._retry_seconds = min(LONGEST_RETRY_SECONDS, self._retry_seconds * 2)

    def _try_again(self) -> None:
        self._retry = None
        if self._threads is not None and self._away:
            self._threads.callInThread(self._probe)

    def _did(self, job: _Job[T], result: T) -> None:
        if not job.over:
            self._forget(job)
            job.done.callback(result)
            self._close_if_done()

    def _failed(self, job: _Job[Any], failure: Failure) -> None:
        if not job.over:
            self._forget(job)
            job.done.errback(failure)
            self._close_if_done()

    def _forget(self, job: _Job[Any]) -> None:
        job.over = True
        self._jobs.discard(job)
        if not self._jobs and self._look is not None:
            self._look.cancel()
            self._look = None

    def _close_if_done(self) -> None:
        if not self._jobs and self._stopped is not None:
            self._close()

    def _look_at_jobs(self) -> None:
        """Cut what has used up its time. It is counted in looks, not read from a clock that may be set."""
        self._look = self._reactor.callLater(LOOK_SECONDS, self._look_at_jobs)
        for job in [job for job in self._jobs if job.begun]:
            job.looks += 1
            late_seconds = (job.looks - 1) * LOOK_SECONDS - job.limit_seconds
            if late_seconds < 0.0:
                continue
            why = f"the database gave no answer within {job.limit_seconds:g} s"
            with self._lock:
                if job.session is not None:
                    job.session.cut(why)
            if late_seconds >= LOOK_SECONDS:
                # the thread is held up by something else, such as looking up a name
                self._failed(job, Failure(StoreUnavailableError(why)))  # type: ignore[no-untyped-call]

    def _cut_jobs(self) -> None:
        # the driver could ask the server to give up, but a server that hangs would hold up the whole process by that
        with self._lock:
            for job in self._jobs:
                job.dropped = "the connections to the database are closed"
                if job.session is not None:
                    job.session.cut("cut off, because the connections to the database are closed")
        self._limit = self._reactor.callLater(CUT_SECONDS, self._abandon_jobs)

    def _abandon_jobs(self) -> None:
        self._limit = None
        self.log.warn("{count} works on the database did not end, and are left behind", count=len(self._jobs))
        for job in list(self._jobs):
            why = StoreUnavailableError("given up, because the connections to the database are closed")
            self._failed(job, Failure(why))  # type: ignore[no-untyped-call]

    def _close(self) -> None:
        for call in (self._limit, self._retry):
            if call is not None:
                call.cancel()
        self._limit = self._retry = None
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            self._throw_away(session)
        threads, self._threads = self._threads, None
        stopped, self._stopped = self._stopped, None
        assert threads is not None
        assert stopped is not None
        # it joins the threads, of which one may be held up in connecting
        Thread(target=threads.stop, daemon=True).start()
        stopped.callback(None)


class _DaemonThread(Thread):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)
