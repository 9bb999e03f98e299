"""C{python -m tbeast.commands.worker}: one worker process, which only a hub starts (see L{tbeast.services.workers}).

Everything it needs it inherits or is told over the line; there is nothing to say on the command line.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from signal import SIGKILL
from typing import Any, Final, TextIO

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    globalLogBeginner,
)
from zope.interface import provider

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Work until the hub ends it, or is gone."""
    from twisted.internet import reactor

    from tbeast.worker import Worker

    _die_with_the_hub()
    _log_to(sys.stderr)
    uptime = _uptime()
    real: Any = reactor
    real.seconds = uptime  # as the hub does: Twisted would wait by the time of day
    worker = Worker(real, uptime, lambda: uuid.uuid4().hex, os.getpid())
    real.callWhenRunning(worker.begin)
    real.run()


def _die_with_the_hub() -> None:
    """Have the system end us when the hub is gone, even if we are stopped or hang: else we would keep its ports.

    Otherwise the line's end tells us. Where the system knows no such thing (prctl(2), PR_SET_PDEATHSIG), that is all.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(SIGKILL))


def _uptime() -> Callable[[], float]:
    """Seconds that pass evenly, suspended time included where the system can tell."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return lambda: time.clock_gettime(clock)


def _log_to(stream: TextIO) -> None:
    """Write what is worth a line for the hub, which puts a time to it."""

    @provider(ILogObserver)
    def write(event: LogEvent) -> None:
        text = formatEvent(event)
        if "log_failure" in event:
            text += "\n" + event["log_failure"].getTraceback()
        print(text, file=stream, flush=True)

    least = LogLevelFilterPredicate(LogLevel.warn)
    globalLogBeginner.beginLoggingTo([FilteringLogObserver(write, [least])], redirectStandardIO=False)


if __name__ == "__main__":
    main()
