"""A child process that lives as long as we do.

The rules. The child announces itself by one line of JSON on its standard output; until then it has not started, and
after a time limit it has failed. It ends when its standard input closes, so that it goes even when we are killed;
one that does not is asked by SIGTERM and then ended by SIGKILL, by its process id alone. SIGINT is kept from it. A
child that dies while it is wanted is told in the log, with its last words, and started again, at once the first time
and then ever more slowly; whoever asked for it is handed each new announcement.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from signal import SIG_BLOCK, SIG_SETMASK, SIGINT, pthread_sigmask
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.errors import TBeastError

Announcement = Mapping[str, Any]

ANNOUNCE_WITHIN_SECONDS: Final = 15.0
LAST_LOOK_SECONDS: Final = 0.5
"""After the time limit: a reactor that was held up hears its timers before it reads what has been lying there."""

TERMINATE_AFTER_SECONDS: Final = 3.0
KILL_AFTER_SECONDS: Final = 6.0

FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_DELAY_SECONDS: Final = 30.0
SETTLED_SECONDS: Final = 60.0
"""A child that has lived for so long after its announcement starts the delays anew."""

LAST_LINES: Final = 8
LONGEST_LINE: Final = 65_536


class ProcessReactor(Protocol):
    """What the companion needs of a reactor."""

    def spawnProcess(self, processProtocol: Any, executable: Any, args: Any, env: Any = ..., path: Any = ...) -> Any:
        """Start a process."""

    def callLater(self, delay: float, what: Any, /, *args: Any) -> IDelayedCall:
        """Call something later."""

    def seconds(self) -> float:
        """Time for the waiting."""


class CompanionError(TBeastError):
    """The child did not start: it died, said something else than its announcement, or said nothing in time."""


class Companion:
    """One child process.

    @param name: what the log calls it.
    @param command: program and arguments.
    @param again: told the announcement of every child after the first.
    @param environ: the child's environment; C{None}: ours.
    """

    _log = Logger()

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        reactor: ProcessReactor,
        again: Callable[[Announcement], None],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._command = list(command)
        self._reactor = reactor
        self._again = again
        self._environ = None if environ is None else dict(environ)
        self._child: _Child | None = None
        self._wanted = False
        self._first: Deferred[Announcement] | None = None
        self._stopped: Deferred[None] | None = None
        self._restart: IDelayedCall | None = None
        self._delay = 0.0

    @property
    def pid(self) -> int | None:
        """The child's process id; C{None} when there is none."""
        return None if self._child is None else self._child.pid

    def start(self) -> Deferred[Announcement]:
        """Start the child.

        @return: fires with what it announced, or fails with L{CompanionError}; then no child is left.
        """
        if self._wanted:
            raise RuntimeError(f"{self.name} was started already")
        self._wanted = True
        self._delay = 0.0
        first: Deferred[Announcement] = Deferred()
        self._first = first
        self._spawn()
        return first

    def stop(self) -> Deferred[None]:
        """End the child.

        @return: fires when it is gone; never fails.
        """
        self._wanted = False
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if self._child is None:
            return succeed(None)
        if self._stopped is None:
            self._stopped = Deferred()
            self._child.end()
        waiting: Deferred[None] = Deferred()
        self._stopped.addCallback(lambda _: waiting.callback(None))
        return waiting

    def _spawn(self) -> None:
        self._restart = None
        child = self._child = _Child(self, self._reactor)
        # Ctrl-C in a terminal reaches every process there; the child is to hear of the end from us alone
        before = pthread_sigmask(SIG_BLOCK, {SIGINT})
        try:
            self._reactor.spawnProcess(child, self._command[0], self._command, env=self._environ)
        except OSError as error:
            self.child_ended(child, f"cannot be run: {error}")
        finally:
            pthread_sigmask(SIG_SETMASK, before)

    def child_announced(self, announcement: Announcement) -> None:
        """The child has said what it had to say. This and the next are for the child's protocol alone."""
        self._log.info("{name} has started as process {pid}", name=self.name, pid=self.pid)
        first, self._first = self._first, None
        if first is not None:
            first.callback(announcement)
        elif self._wanted:
            try:
                self._again(announcement)
            except Exception:
                self._log.failure("{name} is back, but its announcement was not taken", name=self.name)

    def child_wrote(self, line: str) -> None:
        """The child has written a line."""
        self._log.info("{name}: {line}", name=self.name, line=line)

    def child_ended(self, child: _Child, how: str) -> None:
        """The child is gone; C{how} continues a sentence that begins with its name."""
        self._child = None
        stopped, self._stopped = self._stopped, None
        first, self._first = self._first, None
        last = f"; last words: {' / '.join(child.last_lines)}" if child.last_lines else ""
        if first is not None:
            wanted, self._wanted = self._wanted, False
            why = f"{self.name} {how}{last}" if wanted else f"{self.name} was stopped before it had started"
            first.errback(CompanionError(why))
        elif self._wanted:
            if child.announced_at is not None and self._reactor.seconds() - child.announced_at >= SETTLED_SECONDS:
                self._delay = 0.0
            self._log.error(
                "{name} {how}{last}; starting it again in {delay:g} s",
                name=self.name, how=how, last=last, delay=self._delay,
            )  # fmt: skip
            self._restart = self._reactor.callLater(self._delay, self._spawn)
            self._delay = min(LONGEST_DELAY_SECONDS, max(FIRST_DELAY_SECONDS, self._delay * 2))
        else:
            self._log.info("{name} {how}", name=self.name, how=how)
        if stopped is not None:
            stopped.callback(None)


class _Child(ProcessProtocol):
    """One life of the child.

    @ivar announced_at: when it announced itself, in the reactor's seconds.
    @ivar last_lines: the last that it wrote on standard error.
    """

    transport: IProcessTransport

    def __init__(self, companion: Companion, reactor: ProcessReactor) -> None:
        self._companion = companion
        self._reactor = reactor
        self._partial = {1: b"", 2: b""}
        self._calls: list[IDelayedCall] = []
        self._failed = ""
        self.pid: int | None = None
        self.announced_at: float | None = None
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)

    def connectionMade(self) -> None:
        self.pid = self.transport.pid
        self._call(ANNOUNCE_WITHIN_SECONDS, lambda: self._call(LAST_LOOK_SECONDS, self._too_slow))

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._partial[childFD] + data).split(b"\n")
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._partial[childFD] = rest
        for line in lines:
            self._line(childFD, line.decode("utf-8", "replace").rstrip())

    def _line(self, fd: int, line: str) -> None:
        if fd == 1 and self.announced_at is None and not self._failed:
            try:
                announcement = json.loads(line)
                if not isinstance(announcement, dict):
                    raise ValueError
            except ValueError:
                self._give_up(f"announced itself by something else than a JSON object: {line[:200]!r}")
                return
            self.announced_at = self._reactor.seconds()
            self._cancel_calls()
            self._companion.child_announced(announcement)
        elif line:
            if fd == 2:
                self.last_lines.append(line[:400])
            self._companion.child_wrote(line[:2_000])

    def _too_slow(self) -> None:
        self._give_up(f"announced nothing within {ANNOUNCE_WITHIN_SECONDS:g} s")

    def _give_up(self, why: str) -> None:
        self._failed = why
        self.end()

    def end(self) -> None:
        """Close standard input, and be ever less polite."""
        self._cancel_calls()
        self.transport.closeStdin()
        self._call(TERMINATE_AFTER_SECONDS, lambda: self._signal("TERM"))
        self._call(KILL_AFTER_SECONDS, lambda: self._signal("KILL"))

    def _signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)
        if name == "KILL":
            # a grandchild may hold the pipes open, and the end is told only when they are closed
            for descriptor in (0, 1, 2):
                self.transport.closeChildFD(descriptor)

    def _call(self, seconds: float, what: Callable[[], None]) -> None:
        self._calls.append(self._reactor.callLater(seconds, what))

    def _cancel_calls(self) -> None:
        for call in self._calls:
            if call.active():
                call.cancel()
        self._calls.clear()

    def processEnded(self, reason: Failure) -> None:
        self._cancel_calls()
        for descriptor, rest in self._partial.items():
            if rest and (descriptor == 2 or self.announced_at is not None):
                self._line(descriptor, rest.decode("utf-8", "replace").rstrip())
        status: Any = reason.value
        if getattr(status, "signal", None):
            how = f"was ended by signal {status.signal}"
        else:
            how = f"ended with status {getattr(status, 'exitCode', '?')}"
        self._companion.child_ended(self, f"{self._failed}, and {how}" if self._failed else how)
