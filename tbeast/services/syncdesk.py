"""The sync job, begun by an operator's word.

It is begun once at a time: while it runs, on this node or on any other that shares the database, another word changes
nothing. Who asked is told when the job is ours, and need not wait for its end; how it goes on can be looked at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from attrs import evolve, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.domain.counters import Counters
from tbeast.domain.syncplan import Held
from tbeast.errors import TBeastError
from tbeast.interfaces import Now
from tbeast.services.sync import Progress, Summary

WORK: Final = "sync"

NEVER: Final = "never"
RUNNING: Final = "running"
DONE: Final = "done"
FAILED: Final = "failed"
STATES: Final = (NEVER, RUNNING, DONE, FAILED)


class Job(Protocol):
    """The job: L{tbeast.services.sync.Sync}."""

    def run(
        self, full: bool = False, not_since: float | None = None, told: Callable[[Progress], object] = ...
    ) -> Awaitable[Summary | Held]:
        """Do it once; C{told} is called when it is ours, and again from time to time."""

    def stop(self) -> None:
        """End what is under way at its next step."""


@frozen
class SyncState:
    """How the job is doing that was begun here last.

    @ivar state: one of L{STATES}.
    @ivar began_at: in seconds since the epoch, as is C{ended_at}; C{None}: not yet.
    @ivar step: what it does now, C{done} and C{of} how far that is, in rows; C{of} is 0 where that is not known.
    @ivar outcome: what it did, or why it failed; empty until then.
    """

    state: str
    began_at: float | None = None
    ended_at: float | None = None
    step: str = ""
    done: int = 0
    of: int = 0
    outcome: str = ""


class SyncDesk(Service):
    """See the module.

    @ivar state: how the job is doing that was begun here last.
    """

    name = "sync on command"
    log = Logger()

    def __init__(self, job: Job, node: str, now: Now, counters: Counters) -> None:
        self.state = SyncState(NEVER)
        self._job = job
        self._node = node
        self._now = now
        self._counters = counters
        self._under_way: Deferred[None] | None = None

    def stopService(self) -> Deferred[None] | None:
        """End what is under way at its next step.

        @return: fires when it has ended.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        if self._under_way is None:
            return None
        ended: Deferred[None] = Deferred()
        self._under_way.addCallback(ended.callback)
        self._job.stop()
        return ended

    def begin(self, full: bool = False) -> Deferred[SyncState | Held]:
        """Begin the job.

        @param full: build the copy of usage anew in any case.
        @return: fires when the job is ours, or has failed before it was; with L{Held} when somebody else does it.
        """
        known: Deferred[SyncState | Held] = Deferred()
        if self._under_way is not None:
            known.callback(Held(self._node, False))
            return known
        before, self.state = self.state, SyncState(RUNNING, began_at=self._now())

        def tell(what: SyncState | Held) -> None:
            if not known.called:
                known.callback(what)

        def told(progress: Progress) -> None:
            self.state = evolve(self.state, step=progress.step, done=progress.done, of=progress.of)
            tell(self.state)

        def ended(result: Summary | Held | Failure) -> None:
            self._under_way = None
            if isinstance(result, Held):
                self.state = before
                tell(result)
                return
            worked = isinstance(result, Summary)
            outcome = result.in_words() if isinstance(result, Summary) else self._why(result)
            self.state = SyncState(DONE if worked else FAILED, self.state.began_at, self._now(), outcome=outcome)
            self.log.info("sync on command is {state}: {outcome}", state=self.state.state, outcome=outcome)
            tell(self.state)

        running: Deferred[None] = ensureDeferred(self._run(full, told)).addBoth(ended)
        if not running.called:
            self._under_way = running
        return known

    async def _run(self, full: bool, told: Callable[[Progress], object]) -> Summary | Held:
        return await self._job.run(full, None, told)

    def _why(self, failure: Failure) -> str:
        self._counters.count("service_failures", WORK)
        if isinstance(failure.value, TBeastError):
            return str(failure.value)
        self.log.failure("the sync job failed", failure)
        return "the fault is ours, and stands in the log"
