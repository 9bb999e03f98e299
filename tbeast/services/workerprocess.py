"""One worker process, from its start to its end: its line, its log, and how it is ended.

It is started with the ports of its place and the shared memory, and with a line to us. It has come up when it listens;
one that does not within L{START_SECONDS}, or says nothing for L{SILENT_SECONDS}, is ended by SIGKILL, by its process id
alone. All that it has said before its end is read.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.codecs.hubwords import FROM_HUB, TCP_PORT, TO_HUB, UDP_PORT, LinkError
from tbeast.errors import TBeastError
from tbeast.services.hub import Desk

START_SECONDS: Final = 60.0
"""How long a worker may take until it listens."""

SILENT_SECONDS: Final = 10
END_SECONDS: Final = 8.0
"""How long a worker may take for its end beyond what it was given for its connections."""

KEPT_FROM_WORKERS: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
"""Ctrl-C in a terminal reaches every process there, and what is meant for the daemon may be sent to all that belong to
it; a worker hears of these from us alone."""

LAST_LINES: Final = 8
LONGEST_LINE: Final = 65_536


class WorkerError(TBeastError):
    """A worker did not come up."""


class FileLike(Protocol):
    """Something with a file descriptor."""

    def fileno(self) -> int:
        """It."""


class Pair(Protocol):
    """The ports of one place."""

    @property
    def tcp(self) -> FileLike:
        """For connections."""

    @property
    def udp(self) -> FileLike:
        """For datagrams."""


class LinkEnd(Protocol):
    """Our end of the line to a worker."""

    def ask(self, word: bytes, text: bytes = b"") -> Deferred[bytes]:
        """Say something that is answered."""

    def makeConnection(self, transport: Any) -> None:
        """The line is up."""

    def dataReceived(self, data: bytes) -> None:
        """Bytes came."""

    def connectionLost(self, reason: Failure) -> None:
        """The line has ended."""


class Owner(Protocol):
    """Who holds a worker process: its place."""

    @property
    def name(self) -> str:
        """What the log calls it."""

    @property
    def pair(self) -> Pair:
        """Its ports."""

    def ended(self, child: Child, how: str) -> None:
        """It is gone; C{how} continues a sentence that begins with its name."""


@frozen
class Means:
    """With what workers are started.

    @ivar command: program and arguments.
    @ivar shared: the file descriptors of shared memory, by those that they are to be in a worker.
    @ivar make_link: makes our end of a line, of the words that are answered.
    """

    reactor: Any
    command: Sequence[str]
    environ: Mapping[str, str]
    shared: Mapping[int, int]
    make_link: Callable[[Any], LinkEnd]


class Child(ProcessProtocol):
    """One worker process.

    @ivar up: fires when it listens; fails with L{WorkerError}.
    @ivar up_at: when it did, in the reactor's seconds; C{None}: not yet.
    @ivar up_error: why it never did.
    @ivar is_first: whether nobody held the place before it.
    @ivar last_lines: the last that it wrote on standard error.
    """

    log = Logger()
    transport: IProcessTransport

    def __init__(self, place: Owner, means: Means, desk: Desk, is_first: bool) -> None:
        self.desk = desk
        self.is_first = is_first
        self.name = place.name
        self.pid: int | None = None
        self.up: Deferred[None] = Deferred()
        self.up_at: float | None = None
        self.up_error: WorkerError | None = None
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._place = place
        self._means = means
        self._link = desk.line = means.make_link(desk.words)
        self._partial = {1: b"", 2: b""}
        self._killed = ""
        self._gone: Deferred[None] = Deferred()
        self._is_gone = False
        self._limit: IDelayedCall | None = None

    def spawn(self) -> None:
        """Start the process."""
        means, pair = self._means, self._place.pair
        descriptors = {
            0: "w", 1: "r", 2: "r", FROM_HUB: "w", TO_HUB: "r",
            TCP_PORT: pair.tcp.fileno(), UDP_PORT: pair.udp.fileno(), **means.shared,
        }  # fmt: skip
        self.desk.serving.addCallbacks(self._serves, self._does_not_serve)
        self._limit = means.reactor.callLater(START_SECONDS, self._too_slow)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, KEPT_FROM_WORKERS)
        try:
            means.reactor.spawnProcess(
                self, means.command[0], list(means.command), env=dict(means.environ), childFDs=descriptors
            )
        except OSError as error:
            self._ended(f"cannot be run: {error}")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def look(self) -> None:
        """A second has passed: end it if it has been silent for too long."""
        if self.up_at is None or self._killed:
            return
        self.desk.unheard += 1
        if self.desk.unheard > SILENT_SECONDS:
            self._kill(f"has said nothing for {SILENT_SECONDS} s")

    async def end(self, seconds: float) -> None:
        """End it in good order, with so long for its connections; by SIGKILL if that takes too long. Does not fail."""
        if self._is_gone:
            return
        limit = self._means.reactor.callLater(seconds + END_SECONDS, self._kill, "does not end")
        with suppress(LinkError):  # it has gone, or is to be killed
            await self.desk.retire(seconds)
        if not self._is_gone:
            await self._when_gone()
        if limit.active():
            limit.cancel()

    def _when_gone(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self._gone.addCallback(lambda _: waiting.callback(None))
        return waiting

    def _serves(self, _: None) -> None:
        self._cancel_limit()
        self.up_at = self._means.reactor.seconds()
        self.log.info("{name} serves, as process {pid}", name=self.name, pid=self.pid)
        self.up.callback(None)

    def _does_not_serve(self, failure: Failure) -> None:
        if not self._is_gone:
            self._kill(f"could not begin: {failure.getErrorMessage()}")

    def _too_slow(self) -> None:
        self._kill(f"does not serve after {START_SECONDS:g} s")

    def _cancel_limit(self) -> None:
        if self._limit is not None and self._limit.active():
            self._limit.cancel()

    def _kill(self, why: str) -> None:
        self._killed = self._killed or why
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    # The process.

    def connectionMade(self) -> None:
        """It has been started."""
        self.pid = self.transport.pid
        self._link.makeConnection(_Pipe(self.transport))

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """It has said or written something."""
        if childFD == TO_HUB:
            self._link.dataReceived(data)
            return
        *lines, rest = (self._partial[childFD] + data).split(b"\n")
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._partial[childFD] = rest
        for line in lines:
            self._line(line.decode("utf-8", "replace").rstrip())

    def _line(self, line: str) -> None:
        if line:
            self.last_lines.append(line[:400])
            self.log.info("{name}: {line}", name=self.name, line=line[:2_000])

    def processEnded(self, reason: Failure) -> None:
        """It is gone, and all that it has said was read."""
        for rest in self._partial.values():
            self._line(rest.decode("utf-8", "replace").rstrip())
        self._link.connectionLost(Failure(ConnectionDone()))  # type: ignore[no-untyped-call]
        status: Any = reason.value
        if getattr(status, "signal", None):
            how = f"was ended by signal {status.signal}"
        else:
            how = f"ended with status {getattr(status, 'exitCode', '?')}"
        self._ended(f"{self._killed}, and {how}" if self._killed else how)

    def _ended(self, how: str) -> None:
        self._is_gone = True
        self._cancel_limit()
        Deferred.fromCoroutine(self.desk.gone()).addErrback(self._surprised)
        self._place.ended(self, how)
        if self.up_at is None:
            self.up_error = WorkerError(f"{self.name} {how}")
            self.up.errback(self.up_error)
        self._gone.callback(None)

    def _surprised(self, failure: Failure) -> None:
        self.log.failure("the end of {name} was not foreseen so", failure, name=self.name)


class _Pipe:
    """What our end of a line writes to."""

    def __init__(self, transport: IProcessTransport) -> None:
        self._transport: Any = transport

    def write(self, data: bytes) -> None:
        """Write to the worker; nothing happens when it is gone."""
        with suppress(KeyError):
            self._transport.writeToChild(FROM_HUB, data)

    def loseConnection(self) -> None:
        """End the line, and with it the worker."""
        self._transport.closeChildFD(FROM_HUB)
