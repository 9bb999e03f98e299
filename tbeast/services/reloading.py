"""Reads again what the operator may have changed, when the process is sent SIGHUP.

What is read again reports for itself in the log. While one reloading is under way another signal is nothing new.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

Reload = Callable[[], Awaitable[object]]


class SignalReactor(Protocol):
    """What is needed of a reactor."""

    def callFromThread(self, what: Any, /, *args: Any) -> None:
        """Call something in the reactor's turn; may be called from anywhere."""


class Reloading(Service):
    """Listens for the signal for as long as it runs.

    @param reloads: what is called, by name.
    """

    name = "reloading"
    log = Logger()

    def __init__(self, reloads: Sequence[tuple[str, Reload]], reactor: SignalReactor) -> None:
        self._reloads = reloads
        self._reactor = reactor
        self._before: Any = None
        self._under_way = False

    def startService(self) -> None:
        """Begin to listen."""
        super().startService()  # type: ignore[no-untyped-call]
        self._before = signal.signal(signal.SIGHUP, self._hung_up)

    def stopService(self) -> None:
        """Leave the signal to whoever had it before."""
        super().stopService()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGHUP, self._before)

    def _hung_up(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self.reload)

    def reload(self) -> None:
        """Read everything again."""
        if self._under_way or not self.running:
            return
        self._under_way = True
        self.log.info("reading again, as asked: {what}", what=", ".join(name for name, _ in self._reloads))
        Deferred.fromCoroutine(self._reload())

    async def _reload(self) -> None:
        try:
            for name, reload in self._reloads:
                try:
                    await reload()
                except Exception:
                    self.log.failure("{name} could not be read again", name=name)
        finally:
            self._under_way = False
