"""A process that is kept running, whatever ends it, for clusters of real processes on one machine.

The rules. A process has started when it runs, and serves when it says so to whoever asks it; it is asked ten times a
second until then. One that ends while it is wanted is started again by the same command: half a second later if it had
served, ever more slowly if it had not, and not at all any more after so many failures in a row; that is told, and
whoever waits for it hears it. It stops by SIGTERM, and by SIGKILL if it takes too long.

Each process leads a session of its own, so a Ctrl-C in the terminal is not meant for it, and where the kernel can be
asked (Linux) it gets a SIGTERM when we are gone, however we went.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tbeast.errors import TBeastError
from tbeast.interfaces import Now

ASK_EVERY_SECONDS: Final = 0.1
FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_DELAY_SECONDS: Final = 8.0
MOST_FAILURES: Final = 5
"""So many lives in a row that never served are the last."""
KILL_AFTER_SECONDS: Final = 40.0
LONGEST_LINE: Final = 65_536
LAST_LINES: Final = 4

# PR_SET_PDEATHSIG is 1, SIGTERM is 15. Who was orphaned before the call is told by its parent's number.
_LAUNCHER: Final = """
import ctypes, os, sys
parent, program = int(sys.argv[1]), sys.argv[2]
os.setsid()
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
os.execv(program, sys.argv[2:])
"""


class UpkeepError(TBeastError):
    """A process does not come to serve; the message names it and says how it ended."""


@define
class Life:
    """One process, from its start to its end.

    @ivar started_at: in seconds since the epoch.
    @ivar serving_at: when it first said that it serves; C{None}: it has not yet.
    @ivar ended_at: C{None} while it runs.
    @ivar how: how it ended, to follow its name.
    @ivar killed: whether that was not in good order.
    """

    started_at: float
    serving_at: float | None = None
    ended_at: float | None = None
    how: str = ""
    killed: bool = False


@define(eq=False)
class Kept:
    """One process that is kept running.

    @ivar name: what it is called.
    @ivar command: program, with its whole path, and arguments.
    @ivar is_serving: asks whether it serves; whatever it raises is a no.
    @ivar tell: told of each turn of its fate, in a sentence that begins with its name.
    @ivar heard: told each line that it writes.
    @ivar lives: what became of each of its processes, in order.
    @ivar failures: how many of the last have never served.
    @ivar last_lines: the last that it wrote.
    """

    name: str
    command: Sequence[str]
    reactor: Any
    now: Now
    is_serving: Callable[[], Awaitable[bool]]
    environ: Mapping[str, str]
    folder: Path
    tell: Callable[[str], object] = lambda sentence: None
    heard: Callable[[str], object] = lambda line: None
    lives: list[Life] = field(factory=list)
    failures: int = 0
    last_lines: deque[str] = field(factory=lambda: deque(maxlen=LAST_LINES))
    _wanted: bool = False
    _child: _Child | None = None
    _later: IDelayedCall | None = None
    _waiting: list[Deferred[None]] = field(factory=list)
    _stopped: Deferred[None] | None = None

    @property
    def serving(self) -> bool:
        """Whether it runs, and has said that it serves."""
        return self._child is not None and self.lives[-1].serving_at is not None

    @property
    def pid(self) -> int | None:
        """Its process id; C{None} when there is none."""
        return None if self._child is None else self._child.transport.pid

    @property
    def given_up(self) -> bool:
        """Whether it is not started again any more."""
        return self.failures >= MOST_FAILURES

    def start(self) -> Deferred[None]:
        """Start it.

        @return: as L{until_serving}.
        """
        self._wanted, self.failures = True, 0
        self._spawn()
        return self.until_serving()

    def until_serving(self) -> Deferred[None]:
        """Wait for it.

        @return: fires when it serves, or fails with L{UpkeepError} when it was given up or stopped.
        """
        if self.serving:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        if self.given_up or not self._wanted:
            self._give_up()
        return waiting

    def kill(self, pid: int | None = None) -> None:
        """End it at once by SIGKILL, as a crash would.

        @param pid: of a process beneath it, whose end is its own; C{None}: it itself.
        """
        victim = self.pid if pid is None else pid
        if victim is not None:
            if victim == self.pid:
                # we may hear of the end only some time after it
                self.lives[-1].ended_at = self.now()
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)

    def stop(self) -> Deferred[None]:
        """End it in good order.

        @return: fires when it is gone; never fails.
        """
        self._wanted = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._give_up()
        if self._child is None:
            return succeed(None)
        self._stopped = Deferred()
        self._child.signal("TERM")
        self._later = self.reactor.callLater(KILL_AFTER_SECONDS, self._child.end_by_force)
        return self._stopped

    def _spawn_soon(self) -> None:
        # a reactor that was held up first reads what the last one had sent, so that nobody takes it for the next one's
        self._later = self.reactor.callLater(0, self._spawn)

    def _spawn(self) -> None:
        self._later = None
        child = self._child = _Child(self)
        self.last_lines.clear()
        self.lives.append(Life(self.now()))
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *self.command]
        self.reactor.spawnProcess(child, launcher[0], launcher, env=dict(self.environ), path=str(self.folder))
        self._ask(child)

    def _ask(self, child: _Child) -> None:
        def answered(serves: object) -> None:
            if child is not self._child:
                return
            if serves is True:
                self._serves()
            else:
                child.asking = self.reactor.callLater(ASK_EVERY_SECONDS, self._ask, child)

        async def ask() -> bool:
            return await self.is_serving()

        ensureDeferred(ask()).addErrback(lambda failure: False).addCallback(answered)

    def _serves(self) -> None:
        life = self.lives[-1]
        life.serving_at, self.failures = self.now(), 0
        before = self.lives[-2].ended_at if len(self.lives) > 1 else None
        since = life.started_at if before is None else before
        what = "serves" if before is None else "serves again"
        self.tell(
            f"{self.name} {what}, {life.serving_at - since:.1f} s after {'its start' if before is None else 'its end'}"
        )
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def child_wrote(self, line: str) -> None:
        """It has written a line. This and the next two are for the child's protocol alone."""
        self.last_lines.append(line[:400])
        self.heard(line)

    def child_exited(self, child: _Child, how: str, killed: bool) -> None:
        """The process is gone."""
        life = self.lives[-1]
        life.how, life.killed = how, killed
        if life.ended_at is None:
            life.ended_at = self.now()
        self._child = None
        if not self._wanted:
            return
        self.failures = 0 if life.serving_at is not None else self.failures + 1
        if self.failures and self.last_lines:
            how = life.how = f"{how}; last words: {' / '.join(self.last_lines)}"
        if self.given_up:
            self.tell(f"{self.name} {how}; it has not served {self.failures} times in a row, and is given up")
            self._give_up()
            return
        delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**self.failures)
        self.tell(f"{self.name} {how}; starting it again in {delay:g} s")
        self._later = self.reactor.callLater(delay, self._spawn_soon)

    def child_ended(self) -> None:
        """All that it wrote was read, too."""
        if self._stopped is not None and self._child is None:
            stopped, self._stopped = self._stopped, None
            if self._later is not None:
                self._later.cancel()
                self._later = None
            stopped.callback(None)

    def _give_up(self) -> None:
        waiting, self._waiting = self._waiting, []
        how = f"it {self.lives[-1].how}" if self.lives and self.lives[-1].how else "it is not wanted"
        for each in waiting:
            each.errback(UpkeepError(f"{self.name} does not serve: {how}"))


class _Child(ProcessProtocol):
    """One life of a process.

    @ivar asking: when it is asked next whether it serves.
    """

    transport: IProcessTransport

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._partial = {1: b"", 2: b""}
        self.asking: IDelayedCall | None = None

    def signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)

    def end_by_force(self) -> None:
        self._kept._later = None
        self.signal("KILL")
        # a grandchild may hold the pipes open, and the end is told only when they are closed
        for descriptor in (0, 1, 2):
            self.transport.closeChildFD(descriptor)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._partial[childFD] + data).split(b"\n")
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._partial[childFD] = rest
        for line in lines:
            self._kept.child_wrote(line.decode("utf-8", "replace").rstrip())

    def processExited(self, reason: Failure) -> None:
        if self.asking is not None and self.asking.active():
            self.asking.cancel()
        status: Any = reason.value
        by, code = getattr(status, "signal", None), getattr(status, "exitCode", None)
        how = f"was ended by signal {by}" if by else f"ended with status {code}"
        # Twisted's front ends end by the signal that asked for it
        self._kept.child_exited(self, how, killed=by not in (None, signal.SIGTERM) or code not in (None, 0))

    def processEnded(self, reason: Failure) -> None:
        self._kept.child_ended()
