"""What was logged, as lines that a test can look at."""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer


@implementer(ILogObserver)
class LogLines:
    """Keeps every line of level info and above, formatted.

    @ivar lines: the lines, oldest first.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        """Take one event."""
        level = event.get("log_level")
        if level is not None and level >= LogLevel.info and event.get("log_format"):
            self.lines.append(formatEvent(event))

    def having(self, part: str) -> list[str]:
        """The lines that contain C{part}."""
        return [line for line in self.lines if part in line]


def listen(case: SynchronousTestCase) -> LogLines:
    """Keep what is logged until the end of C{case}."""
    lines = LogLines()
    globalLogPublisher.addObserver(lines)
    case.addCleanup(globalLogPublisher.removeObserver, lines)
    return lines
