"""The front door for `twistd tbeast` and `twist tbeast`: options and settings in, one service out.

Here, and in the commands, the real clock, the real dice and the real reactor are named; everything below is handed
them. A fault in the settings is told on standard error before anything starts, and a start that fails (a port in use)
ends the process in good order, with one clear line and exit status 1.
"""

from __future__ import annotations

import atexit
import os
import random
import resource
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.usage import Options as UsageOptions
from zope.interface import implementer

from tbeast.adapters.logs.frontends import log_with
from tbeast.adapters.logs.jsonlines import JsonLines
from tbeast.adapters.logs.masking import Masking, secrets_of
from tbeast.adapters.settingsource import file_faults, gather
from tbeast.domain.steadyclock import ADJUST_EVERY_SECONDS, LEFT, STEPPED, Parting, SteadyClock
from tbeast.errors import SettingsError, TBeastError
from tbeast.interfaces import Now
from tbeast.settings import JSON, Settings, load

FAILED_START = 1
"""The exit status after a start that failed."""


class Options(UsageOptions):
    """The command line.

    @ivar settings: set once the options are parsed.
    """

    synopsis = "[options]"
    longdesc = (
        "Every setting can stand in the environment or in the file; tbeast check-config shows them all."
        " Options go before the environment, and the environment before the file."
    )
    optParameters = [
        ["config", "c", None, "TOML file with settings"],
        ["feeds", None, None, "live: the exchanges; lab: the bundled exchange lab (invented prices)"],
        ["state", None, None, "folder for what must outlive a restart"],
    ]
    optFlags = [["check", None, "check the settings, and do not start"]]

    settings: Settings

    def postOptions(self) -> None:
        """Read and check the settings; a fault ends the process here, with no traceback."""
        try:
            named = {"TBEAST_FEEDS": self["feeds"], "TBEAST_STATE": self["state"]}
            self.settings = load(*gather(self["config"], os.environ, named, socket.gethostname()))
            faults = [*file_faults(self.settings), *self._log_faults()]
            if faults:
                raise SettingsError(faults)
        except SettingsError as error:
            _leave(FAILED_START, ["tbeast: the settings are at fault:", *(f"  {fault}" for fault in error.faults)])
        if self["check"]:
            _leave(0, ["tbeast: the settings are sound", *(f"  {line}" for line in self.settings.unused_here())])

    def _log_faults(self) -> list[str]:
        """Have the front end log as the settings say; why it cannot."""
        settings = self.settings
        if settings.log_format != JSON or self.parent is None:
            return []
        masking = Masking(secrets_of(settings))
        why = log_with(self.parent, lambda stream: JsonLines(stream, settings.cluster_node, masking), _from_signal)
        return [f"TBEAST_LOG_FORMAT ({settings.origins['TBEAST_LOG_FORMAT']}): {why}"] if why else []


def _from_signal(call: Callable[[], object]) -> None:
    from twisted.internet import reactor

    reactor.callFromThread(call)  # type: ignore[attr-defined]


def _leave(status: int, lines: list[str]) -> NoReturn:
    print("\n".join(lines), file=sys.stderr if status else sys.stdout)
    raise SystemExit(status)


def makeService(options: Options, reactor: Any = None) -> IService:
    """The daemon, ready to start.

    @param reactor: C{None} for the one that is installed.
    """
    from tbeast.assembly import build

    if reactor is None:
        from twisted.internet import reactor

        wait_evenly(reactor)
    allow_open_files()
    try:
        service = build(
            options.settings,
            reactor=reactor,
            now=steady_now(uptime_clock(), time.time),
            random=random.SystemRandom().random,
            new_id=lambda: uuid.uuid4().hex,
        )
    except TBeastError as error:
        _leave(FAILED_START, [f"tbeast: cannot start: {error}"])
    return FrontDoor(service, options.settings, reactor)


def allow_open_files() -> int:
    """Let the process have as many open files (sockets, too) as it may give itself without anybody's leave.

    @return: how many that are.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # a system that promises more than it keeps
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def wait_evenly(reactor: Any) -> None:
    """Have the reactor wait by the seconds that pass, and not by the time of day.

    Twisted takes the wall clock for that: set back by an hour, it would hold up everything for an hour. What is waited
    for already is waited for as long as before.
    """
    before, uptime = reactor.seconds, uptime_clock()
    apart = uptime() - before()
    for call in reactor.getDelayedCalls():
        call.time += apart
        call.seconds = uptime
    reactor.seconds = uptime


def uptime_clock() -> Callable[[], float]:
    """Seconds that pass evenly, suspended time included where the system can tell."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return time.monotonic
    return partial(time.clock_gettime, boottime)


def steady_now(uptime: Callable[[], float], wall: Callable[[], float]) -> Now:
    """C{now} for the daemon: the time of day, but never backwards; see L{tbeast.domain.steadyclock}."""
    log = Logger()
    clock = SteadyClock(uptime(), wall())
    next_adjustment = 0.0

    def now() -> float:
        nonlocal next_adjustment
        at = uptime()
        if at >= next_adjustment:
            next_adjustment = at + ADJUST_EVERY_SECONDS
            parting = clock.adjust(at, wall())
            if parting is not None:
                _tell(log, parting)
        return clock.read(at)

    return now


def _tell(log: Logger, parting: Parting) -> None:
    if parting.what == LEFT:
        log.warn(
            "the wall clock and ours have come apart by {seconds:.3f} s: ours goes on, and slowly follows",
            seconds=parting.ahead_seconds,
        )
    elif parting.what == STEPPED:
        log.warn("our clock has stepped forward by {seconds:.3f} s to the wall clock", seconds=parting.ahead_seconds)
    else:
        log.info("the wall clock and ours agree again")


@implementer(IService)
class FrontDoor(Service):
    """The daemon's root, and what happens when it cannot start.

    Neither twistd nor twist takes notice of a Deferred that a start returns, and what a start raises they print as a
    traceback and forget to stop the parts that had started. So here a failed start, at once or later, stops the
    reactor, which stops the service in good order, and the process leaves with L{FAILED_START}.

    @param service: the daemon.
    @param leave: told the exit status and the last line when the process must not end well.
    """

    _log = Logger()

    def __init__(
        self, service: IService, settings: Settings, reactor: Any, leave: Callable[[int, str], None] | None = None
    ) -> None:
        self.service = service
        self._settings = settings
        self._reactor = reactor
        self._leave = leave_at_exit if leave is None else leave
        self._failed = False
        self._stopping = False

    def privilegedStartService(self) -> None:
        """Start what needs privileges."""
        maybeDeferred(self.service.privilegedStartService).addErrback(self._start_failed)

    def startService(self) -> None:
        """Start the daemon, and name what is set and has no effect yet."""
        super().startService()  # type: ignore[no-untyped-call]
        if self._failed:
            return
        ignore_signals()
        for line in self._settings.unused_here():
            self._log.warn("{line}", line=line)
        maybeDeferred(self.service.startService).addErrback(self._start_failed)

    def stopService(self) -> Deferred[Any]:
        """Stop the daemon.

        @return: fires when it has stopped.
        """
        self._stopping = True
        super().stopService()  # type: ignore[no-untyped-call]
        return maybeDeferred(self.service.stopService)

    def _start_failed(self, failure: Failure) -> None:
        if self._stopping or self._failed:
            return  # a start that was broken off, or the second of two faults
        self._failed = True
        # once the reactor runs: the log is open then, and what has started is stopped by the reactor's shutdown
        self._reactor.callWhenRunning(self._give_up, failure)

    def _give_up(self, failure: Failure) -> None:
        reason = self._words(failure)
        self._log.critical("tbeast cannot start: {reason}", reason=reason)
        self._leave(FAILED_START, f"tbeast: cannot start: {reason}")
        self._reactor.callLater(0, self._stop_reactor)

    def _stop_reactor(self) -> None:
        with suppress(ReactorNotRunning):  # a signal was quicker
            self._reactor.stop()

    def _words(self, failure: Failure) -> str:
        error = failure.value
        if isinstance(error, CannotListenError):
            names = _port_names(self._settings, error.port)
            where = f"{error.interface or 'any address'}, port {error.port}"
            why = getattr(error.socketError, "strerror", None) or str(error.socketError)
            return f"cannot listen on {where}{' (' + ' or '.join(names) + ')' if names else ''}: {why}"
        if isinstance(error, TBeastError | OSError):
            return str(error)
        self._log.failure("the start failed in a way that was not foreseen", failure)
        return f"{type(error).__name__}: {error}"


def ignore_signals() -> None:
    """Take no notice of the signals that ask a running daemon for something, where nobody has taken them up.

    Unheeded, each of them ends a process at once. They may well come before whoever heeds them is there, or while the
    daemon stops, when its last counts are on their way.
    """
    for number in (signal.SIGHUP, signal.SIGUSR2):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)


def _port_names(settings: Settings, port: int) -> list[str]:
    names = [name for name in settings.origins if "_PORT" in name]
    return [name for name in names if getattr(settings, name.lower()) == port]


def leave_at_exit(status: int, line: str) -> None:
    """Have the process end with this status and this last line on standard error.

    The front ends that run us return 0 whatever happened, so the status is set when the interpreter is done with
    everything else.
    """

    def leave() -> None:
        for stream in (sys.stdout, sys.__stdout__, sys.stderr):
            if stream is not None:
                stream.flush()
        if sys.__stderr__ is not None:
            print(line, file=sys.__stderr__, flush=True)
        os._exit(status)

    atexit.register(leave)
