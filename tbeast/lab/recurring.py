"""The loops of the lab: something is done again and again, whatever happens to it once."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger


class Recurring:
    """Calls something at an even rhythm; a failure is logged and the rhythm goes on, a delay is not made up for."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, seconds: float, action: Callable[[], None]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._action = action
        self._next = 0.0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Call for the first time one interval from now."""
        self._next = self._clock.seconds() + self._seconds
        self._call = self._clock.callLater(self._seconds, self._run)

    def stop(self) -> None:
        """Call no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _run(self) -> None:
        now = self._clock.seconds()
        self._next = max(self._next + self._seconds, now)
        self._call = self._clock.callLater(self._next - now, self._run)
        try:
            self._action()
        except Exception:
            self._log.failure("The lab stumbled, and goes on")
