"""Work that is done again and again, whatever becomes of one round.

Twisted's own loops end for good at the first exception. This one logs it, counts it under C{service_failures} and goes
on. A round that waits for something is waited for; rounds never overlap, and those that would have fallen into a
long one are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from math import floor

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.domain.counters import Counters

NEARLY = 1e-6


class Periodic(Service):
    """Call something every so many seconds, for as long as the service runs.

    @ivar work: what the work is called in log lines and in the counter's label.
    """

    log = Logger()

    def __init__(
        self,
        work: str,
        call: Callable[[], object],
        every_seconds: float,
        clock: IReactorTime,
        counters: Counters,
        at_once: bool = False,
    ) -> None:
        """Set it up.

        @param call: may return a Deferred or a coroutine; the next round comes after it is done.
        @param every_seconds: from the beginning of one round to that of the next.
        @param at_once: whether the first round is at the start, not a period later.
        """
        self.work = work
        self._call = call
        self._every_seconds = every_seconds
        self._clock = clock
        self._counters = counters
        self._at_once = at_once
        self._began = 0.0
        self._next: IDelayedCall | None = None
        self._round: Deferred[None] | None = None
        self._failing = False

    def startService(self) -> None:
        """Begin the rounds."""
        if self.running:
            return
        super().startService()  # type: ignore[no-untyped-call]
        self._began = self._clock.seconds()
        if self._round is None:  # else the round that is still under way from before the stop plans the next
            self._plan(0.0 if self._at_once else self._every_seconds)

    def stopService(self) -> Deferred[None] | None:
        """Begin no more rounds.

        @return: fires when the round under way, if there is one, is done.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._round is None:
            return None
        done: Deferred[None] = Deferred()
        self._round.addCallback(lambda _: done.callback(None))
        return done

    def set_every(self, seconds: float) -> None:
        """Have the rounds come so many seconds apart from now on; the next one comes within that."""
        self._every_seconds = seconds
        if self._next is not None:
            self._next.cancel()
            self._plan(self._to_next_beat())

    def _to_next_beat(self) -> float:
        since = self._clock.seconds() - self._began
        # a beat that is nearly here, by the last digits of floats, is this one and not the next
        beat = (floor(since / self._every_seconds + NEARLY) + 1) * self._every_seconds
        return max(0.0, beat - since)

    def _plan(self, wait: float) -> None:
        self._next = self._clock.callLater(wait, self._begin)

    def _begin(self) -> None:
        self._next = None
        under_way = self._round = maybeDeferred(self._call).addCallbacks(self._worked, self._failed)
        under_way.addCallback(self._ended)

    def _worked(self, _result: object) -> None:
        if self._failing:
            self._failing = False
            self.log.info("{work} works again", work=self.work)

    def _failed(self, failure: Failure) -> None:
        self._counters.count("service_failures", self.work)
        if not self._failing:
            self._failing = True
            self.log.failure("{work} failed; it is taken up again", failure, work=self.work)

    def _ended(self, _result: None) -> None:
        self._round = None
        if self.running:
            self._plan(self._to_next_beat())
