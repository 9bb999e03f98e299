"""A few threads for calls that block.

The rules. Threads are started when there is work for them, never more than so many, and none is the reactor's. What a
call gives or raises comes back on the reactor's thread. After a stop no call is taken; those that were are made. A
call that hangs holds up neither the reactor nor the end of the process: its threads are daemons.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from tbeast.errors import StoreUnavailableError

T = TypeVar("T")

THREADS: Final = 8
"""How many calls are under way at most; botocore keeps ten connections for them."""


class Threads(Protocol):
    """Runs what blocks where it blocks nobody."""

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """Call C{work}; fires with what it returns or raises."""


class CallThreads:
    """L{Threads} that are threads."""

    def __init__(self, name: str, reactor: Any, most: int = THREADS) -> None:
        """Set it up, with no thread yet.

        @param reactor: whose thread is told the outcomes.
        """
        self._name = name
        self._reactor = reactor
        self._most = most
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = 0
        self._open = 0
        self._stopped: list[Deferred[None]] | None = None

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """See L{Threads.run}.

        @raise StoreUnavailableError: (through the Deferred) after the stop.
        """
        if self._stopped is not None:
            return fail(StoreUnavailableError(f"{self._name}: stopped"))
        told: Deferred[T] = Deferred()

        def call() -> None:
            outcome: Any
            try:
                outcome = work()
            except BaseException:
                outcome = Failure()  # type: ignore[no-untyped-call]
            self._reactor.callFromThread(self._done, told, outcome)

        self._open += 1
        if self._threads < min(self._open, self._most):
            self._threads += 1
            Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()
        self._calls.put(call)
        return told

    def stop(self) -> Deferred[None]:
        """Take no more calls.

        @return: fires when those that were taken have been made.
        """
        if self._stopped is None:
            self._stopped = []
            for _ in range(self._threads):
                self._calls.put(None)
        if not self._open:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._stopped.append(done)
        return done

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def _done(self, told: Deferred[Any], outcome: Any) -> None:
        self._open -= 1
        told.callback(outcome)
        if not self._open and self._stopped:
            waiting, self._stopped = self._stopped, []
            for done in waiting:
                done.callback(None)
