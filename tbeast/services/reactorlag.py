"""How late the reactor is: what was to be called at a moment is called as much later as others have held it up.

Ten times a second something is called that does nothing but look at the clock. A reactor that stands still for five
seconds is found out by one call that comes five seconds late; those that would have fallen into that time are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from tbeast.domain.counters import Counters

BEAT_SECONDS: Final = 0.1
WINDOW_SECONDS: Final = 3.0

WORK: Final = "reactor lag"


class ReactorLag(Service):
    """See the module.

    @ivar listeners: called with the lag in seconds at each beat.
    """

    log = Logger()
    name = WORK

    def __init__(
        self,
        clock: IReactorTime,
        counters: Counters,
        beat_seconds: float = BEAT_SECONDS,
        window_seconds: float = WINDOW_SECONDS,
    ) -> None:
        """Set it up.

        @param clock: the reactor that is measured.
        @param window_seconds: over how long the numbers are taken.
        """
        self.listeners: list[Callable[[float], object]] = []
        self._clock = clock
        self._counters = counters
        self._beat_seconds = beat_seconds
        self._window_seconds = window_seconds
        self._due = self._window_began = 0.0
        self._next: IDelayedCall | None = None
        self._lags: list[float] = []
        self._last: _Found | None = None
        self._failing = False

    @property
    def mean_ms(self) -> float:
        """The mean lag over the last whole window, in milliseconds; before its end, over what there is of the first."""
        return (self._last or _found(self._lags)).mean * 1000.0

    @property
    def max_ms(self) -> float:
        """The longest lag since the last whole window began, in milliseconds."""
        longest = _found(self._lags).longest
        return max(longest, self._last.longest if self._last else 0.0) * 1000.0

    def startService(self) -> None:
        """Begin to measure."""
        if self.running:
            return
        super().startService()  # type: ignore[no-untyped-call]
        self._lags = []
        self._last = None
        self._window_began = self._clock.seconds()
        self._plan()

    def stopService(self) -> None:
        """Measure no more."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _plan(self) -> None:
        self._due = self._clock.seconds() + self._beat_seconds
        self._next = self._clock.callLater(self._beat_seconds, self._beat)

    def _beat(self) -> None:
        now = self._clock.seconds()
        lag = max(0.0, now - self._due)
        if now - self._window_began >= self._window_seconds and self._lags:
            self._last = _found(self._lags)
            self._lags = []
            self._window_began = now
        self._lags.append(lag)
        self._plan()
        for listener in self.listeners:
            try:
                listener(lag)
            except Exception:
                self._counters.count("service_failures", WORK)
                if not self._failing:
                    self._failing = True
                    self.log.failure("whoever listens to the reactor's lag failed")


class _Found(NamedTuple):
    mean: float
    longest: float


def _found(lags: Sequence[float]) -> _Found:
    return _Found(sum(lags) / len(lags), max(lags)) if lags else _Found(0.0, 0.0)
