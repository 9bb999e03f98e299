"""A parent of services that starts them one after the other, and stops them one after the other in reverse.

The rule: a child is started when those before it have come up, and stopped when those after it have ended, because each
may lean on those before it. A child that cannot start ends the start: those that are up are stopped in reverse, and
the error is told. At the stop nobody holds up the rest: each child is waited for so long and no longer, and the failure
of one is logged and passed over. (Twisted's MultiService asks all of its children at once.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

STOP_LIMIT_SECONDS: Final = 10.0


class StopTimeoutError(Exception):
    """A child did not end in time."""


class OrderedServices(MultiService):
    """A parent whose children start in the order in which they were added, and stop in reverse."""

    log = Logger()

    def __init__(self, clock: IReactorTime, stop_limit_seconds: float = STOP_LIMIT_SECONDS) -> None:
        """Make it, without children.

        @param stop_limit_seconds: how long each child may take to stop.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._clock = clock
        self._stop_limit_seconds = stop_limit_seconds
        self._up: list[IService] = []
        self._starting: Deferred[None] | None = None
        self._stopping: Deferred[None] | None = None

    def privilegedStartService(self) -> None:
        """Do nothing yet: a child opens its ports when its turn has come."""

    def addService(self, service: IService) -> None:
        """Take a child; one that comes while we run is started at once, without waiting for it."""
        super().addService(service)  # type: ignore[no-untyped-call]
        if self.running:
            self._up.append(service)

    def removeService(self, service: IService) -> Deferred[None] | None:
        """Let a child go, and stop it if we run."""
        if service in self._up:
            self._up.remove(service)
        stopped: Deferred[None] | None = super().removeService(service)  # type: ignore[no-untyped-call]
        return stopped

    def startService(self) -> Deferred[None]:
        """Start the children; each may return a Deferred or a coroutine from its own C{startService}.

        @return: fires when all are up, and fails with the error of the child that could not start, after those
            before it have been stopped. A stop in the meantime makes it fail with C{CancelledError}.
        @raise RuntimeError: when it is running, or has not ended yet.
        """
        if self.running or self._stopping is not None:
            raise RuntimeError("a parent that runs, or is still stopping, cannot start")
        Service.startService(self)  # type: ignore[no-untyped-call]
        started = ensureDeferred(self._start())
        if not started.called and self._stopping is None:
            self._starting = started
        return _told_of(started)

    def stopService(self) -> Deferred[None]:
        """Stop the children.

        @return: fires when all have ended or used up their time; never fails.
        """
        Service.stopService(self)  # type: ignore[no-untyped-call]
        if self._starting is not None:
            starting, self._starting = self._starting, None
            starting.cancel()
        if self._stopping is None:
            stopping = ensureDeferred(self._stop())
            if stopping.called:
                return stopping
            self._stopping = stopping
        return _told_of(self._stopping)

    async def _start(self) -> None:
        for child in list(self):
            self._up.append(child)
            try:
                await maybeDeferred(child.privilegedStartService)
                await maybeDeferred(cast("Any", child.startService))
            except Exception as fault:
                if child in self._up and not child.running:
                    self._up.remove(child)
                if not self.running:  # it was our own stop that ended the wait
                    raise
                # in one line: a port in use is no defect, and whoever is told the error can show where it came from
                self.log.error("{service} could not start: {fault}", service=_name(child), fault=fault)
                self._starting = None
                await self.stopService()
                raise
            if not self.running:
                raise CancelledError
            self.log.debug("{service} has started", service=_name(child))
        self._starting = None

    async def _stop(self) -> None:
        while self._up:
            child = self._up.pop()
            try:
                await self._in_time(maybeDeferred(child.stopService))
            except Exception:
                self.log.failure("{service} did not stop well; going on without it", service=_name(child))
            else:
                self.log.debug("{service} has stopped", service=_name(child))
        self._stopping = None

    def _in_time(self, stopped: Deferred[None]) -> Deferred[None]:
        """Wait for it, but no longer than the limit; not cancelled then, for what it does late may still matter."""
        done: Deferred[None] = Deferred()
        limit = self._clock.callLater(
            self._stop_limit_seconds,
            lambda: done.errback(StopTimeoutError(f"not stopped after {self._stop_limit_seconds:g} s")),
        )

        def ended(result: object) -> None:
            if limit.active():
                limit.cancel()
                if isinstance(result, Failure):
                    done.errback(result)
                else:
                    done.callback(None)
            elif isinstance(result, Failure):
                self.log.failure("a service failed after the time it had for its stop", result)

        stopped.addBoth(ended)
        return done


class Called(Service):
    """A service made of two functions, one for its start and one for its stop; both may return what to wait for."""

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[object] | None] = lambda: None,
        stop: Callable[[], Awaitable[object] | None] = lambda: None,
    ) -> None:
        self.setName(name)  # type: ignore[no-untyped-call]
        self._start = start
        self._stop = stop

    def startService(self) -> Awaitable[object] | None:
        """Start it."""
        super().startService()  # type: ignore[no-untyped-call]
        return self._start()

    def stopService(self) -> Awaitable[object] | None:
        """Stop it."""
        super().stopService()  # type: ignore[no-untyped-call]
        return self._stop()


def _name(child: IService) -> str:
    return child.name or type(child).__name__


def _told_of(work: Deferred[None]) -> Deferred[None]:
    """Another Deferred that fires as C{work} does; cancelling it, or what is added to it, leaves C{work} alone."""
    told: Deferred[None] = Deferred()

    def passed_on(result: object) -> None:
        if isinstance(result, Failure):
            told.errback(result)
        else:
            told.callback(None)

    work.addBoth(passed_on)
    return told
