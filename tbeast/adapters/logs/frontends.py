"""Have twistd or twist log as we wish, in the place of what they would write themselves.

Both read their options before they open their log, and both let an option say who makes its observer. So nothing is
logged twice, nothing that comes early is lost, and where the log goes is still said on their command line. What
twistd's own file can do, ours does: it is cut into pieces as it grows, and by SIGUSR1.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Final, TextIO, cast

from twisted.logger import ILogObserver
from twisted.python.logfile import LogFile
from twisted.python.usage import Options

MakeObserver = Callable[[TextIO], ILogObserver]
"""Makes the observer that writes to this stream."""
FromSignal = Callable[[Callable[[], object]], object]
"""Has the reactor call something soon; may be used where a signal is heeded."""

TWIST: Final = "fileLogObserverFactory"
TWISTD: Final = "logger"
DEFAULT_FILE: Final = "twistd.log"
STDOUT: Final = "-"


def log_with(options: Options, make: MakeObserver, from_signal: FromSignal) -> str:
    """Have the front end whose options these are log with what C{make} makes; to be called while they are read.

    @return: why that cannot be, in one line; empty if it can.
    """
    if TWIST in options:
        options[TWIST] = make
        return ""
    if options.get("syslog"):
        return "--syslog takes plain lines"
    if options.get(TWISTD):
        return "--logger names another log"
    name = options.get("logfile") or ""
    to_stdout = name == STDOUT or (not name and bool(options.get("nodaemon")))
    if to_stdout and not options.get("nodaemon"):
        return "a daemon in the background has no standard output"
    read: Callable[[], None] = options.postOptions

    def read_to_the_end() -> None:
        read()
        # only now: twistd takes what stands there before for the name of something
        options[TWISTD] = lambda: make(sys.stdout if to_stdout else _file(name or DEFAULT_FILE, from_signal))

    options.postOptions = read_to_the_end  # type: ignore[method-assign]
    return ""


def _file(path: str, from_signal: FromSignal) -> TextIO:
    file = LogFile.fromFullPath(path)  # type: ignore[no-untyped-call]
    if signal.getsignal(signal.SIGUSR1) in (None, signal.SIG_DFL):
        signal.signal(signal.SIGUSR1, lambda number, frame: from_signal(file.rotate))
    return cast("TextIO", file)
