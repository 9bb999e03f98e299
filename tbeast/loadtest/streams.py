"""Askers over HTTP/1.1: connections that stay open, each with one C{GET /price} under way at most.

A connection is opened anew when the server ends it, or when an answer to it can no longer be told from the next. Few
are opened at a time, so that no server's queue of new connections runs over; one that cannot be opened is tried again
after a second.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any, Final

from tbeast.loadtest.askers import MALFORMED, TIMED_OUT, WRONG_ANSWER, Askers
from tbeast.loadtest.httpanswers import MalformedAnswerError, is_price_of, read_answer
from tbeast.loadtest.orders import SetUp

CONNECTING_AT_A_TIME: Final = 64
TRY_AGAIN_SECONDS: Final = 1.0
RECEIVED: Final = 8_192

_BIND_ADDRESS_NO_PORT: Final = 24  # of Linux: the port is chosen when it is known whom it connects to
_REASONS: Final = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: TIMED_OUT,
    errno.EADDRNOTAVAIL: "no local port left",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
}


class Stream:
    """One connection.

    @ivar sock: C{None} while it is not open, nor being opened.
    @ivar source: the local address; C{None}: whichever the system takes.
    @ivar wanted: the place of the asset asked for; below zero while nothing is under way.
    @ivar due: when the question was due; C{since} when it was sent, or when connecting began.
    @ivar pending: the beginning of an answer.
    """

    __slots__ = ("due", "is_open", "pending", "recv", "send", "since", "sock", "source", "wanted")

    def __init__(self, source: str | None) -> None:
        self.source = source
        self.sock: socket.socket | None = None
        self.is_open = False
        self.recv: Callable[[int], bytes] = _nothing
        self.send: Callable[[bytes], int] = len
        self.wanted = -1
        self.due = self.since = 0.0
        self.pending = b""


class Streams(Askers[Stream]):
    """All connections of one generator."""

    def __init__(self, setup: SetUp, clock: Callable[[], float]) -> None:
        super().__init__(clock, setup.timeout_seconds)
        self._address = (setup.host, setup.port)
        self._family = socket.AF_INET6 if ":" in setup.host else socket.AF_INET
        self._assets = setup.assets
        self._asks = [_question(setup, asset) for asset in setup.assets]
        self._beginnings = [b'{"asset":"%b",' % asset.encode("ascii") for asset in setup.assets]
        self._sources = cycle(_sources(setup.sources))
        self._next = 0
        self._all: list[Stream] = []
        self._by_fd: dict[int, Stream] = {}
        self._to_open: deque[Stream] = deque()
        self._later: deque[tuple[float, Stream]] = deque()
        self._connecting = 0

    def gather(self, askers: int, sockets: int, until: float) -> None:
        """See L{Askers.gather}."""
        while len(self._all) > askers:
            stream = self._all.pop()
            self._connecting -= stream.sock is not None and not stream.is_open
            self._close(stream)
        kept = set(map(id, self._all))
        self.idle = deque(stream for stream in self.idle if id(stream) in kept)
        self._to_open = deque(stream for stream in self._to_open if id(stream) in kept)
        # those that could not be opened before are tried now
        self._to_open.extend(stream for _, stream in self._later if id(stream) in kept)
        self._later.clear()
        for _ in range(askers - len(self._all)):
            stream = Stream(next(self._sources))
            self._all.append(stream)
            self._to_open.append(stream)
        self._open_some()
        while (self._connecting or self._to_open) and (now := self.clock()) < until:
            self.tidy(now)
            self.turn(0.05)

    def connections(self) -> int:
        """See L{Askers.connections}."""
        return sum(stream.is_open for stream in self._all)

    def ask(self, asker: Stream, due: float, now: float) -> None:
        """See L{Askers.ask}."""
        if asker.wanted >= 0 or not asker.is_open:
            # it has ended since it was put onto the list of the idle, and may stand there twice
            if not self.again:
                self.backlog.appendleft(due)
            return
        place = self._next
        self._next = place + 1 if place + 1 < len(self._asks) else 0
        asker.wanted = place
        asker.due = due
        asker.since = now
        self.under_way += 1
        self.tally.asked += 1
        question = self._asks[place]
        try:
            sent = asker.send(question)
        except OSError as error:
            self._broke(asker, _reason(error))
        else:
            if sent != len(question):
                # nothing else is in the buffer: a peer that takes not even this much is no peer
                self._broke(asker, "not sent")

    def turn(self, wait: float) -> None:
        """See L{Askers.turn}."""
        by_fd = self._by_fd
        for fd, _ in self.events(wait):
            stream = by_fd.get(fd)
            if stream is None:
                continue
            if not stream.is_open:
                self._connected(stream)
                continue
            try:
                data = stream.recv(RECEIVED)
            except BlockingIOError:
                continue
            except OSError as error:
                self._broke(stream, _reason(error))
                continue
            if not data:
                self._broke(stream, "hung up")
                continue
            self._received(stream, stream.pending + data if stream.pending else data)
        if self._to_open:
            self._open_some()

    def tidy(self, now: float) -> None:
        """See L{Askers.tidy}."""
        oldest = now - self.timeout_seconds
        for stream in self._all:
            if stream.since < oldest:
                if stream.wanted >= 0:
                    self._broke(stream, TIMED_OUT)
                elif stream.sock is not None and not stream.is_open:
                    self._not_connected(stream, TIMED_OUT)
        while self._later and self._later[0][0] <= now:
            self._to_open.append(self._later.popleft()[1])
        if self._to_open:
            self._open_some()

    def close(self) -> None:
        """See L{Askers.close}."""
        for stream in self._all:
            self._close(stream)
        self._all.clear()
        self.idle.clear()
        super().close()

    def _received(self, stream: Stream, data: bytes) -> None:
        place = stream.wanted
        if place < 0:
            self.tally.unasked += 1
            self._broke(stream, "")
            return
        try:
            answer = read_answer(data)
        except MalformedAnswerError as error:
            self._broke(stream, f"{MALFORMED}: {error}")
            return
        if answer is None:
            stream.pending = data
            return
        status, body, keeps = answer
        now = self.clock()
        if status != 200:
            self.tally.fail(f"status {status}")
        elif data.startswith(self._beginnings[place], body) or is_price_of(self._assets[place], data[body:]):
            self.count(stream.due, now)
        else:
            self.tally.fail(WRONG_ANSWER)
        stream.wanted = -1
        stream.pending = b""
        self.under_way -= 1
        if keeps:
            self.free(stream, now)
        else:
            self._reopen(stream)

    def _broke(self, stream: Stream, reason: str) -> None:
        """The connection has ended or is of no use; what was asked on it has failed for this reason."""
        if stream.wanted >= 0:
            self.under_way -= 1
            stream.wanted = -1
            self.tally.fail(reason)
        self._reopen(stream)

    def _reopen(self, stream: Stream) -> None:
        self._close(stream)
        self.tally.reopened += 1
        self._to_open.append(stream)

    def _open_some(self) -> None:
        while self._to_open and self._connecting < CONNECTING_AT_A_TIME:
            stream = self._to_open.popleft()
            stream.since = self.clock()
            self._connecting += 1
            try:
                sock = stream.sock = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if stream.source is not None:
                    sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                    sock.bind((stream.source, 0))
                error = sock.connect_ex(self._address)
                if error not in (0, errno.EINPROGRESS):
                    raise OSError(error, "")
                stream.recv, stream.send = sock.recv, sock.send
                self._by_fd[sock.fileno()] = stream
                self._epoll.register(sock.fileno(), select.EPOLLOUT)
            except OSError as error:
                self._not_connected(stream, _reason(error))

    def _connected(self, stream: Stream) -> None:
        sock: Any = stream.sock
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._not_connected(stream, _reason(OSError(error, "")))
            return
        self._connecting -= 1
        stream.is_open = True
        self._epoll.modify(sock.fileno(), select.EPOLLIN)
        self.free(stream, self.clock())

    def _not_connected(self, stream: Stream, reason: str) -> None:
        self._connecting -= 1
        self._close(stream)
        self.tally.asked += 1
        self.tally.fail(f"connecting: {reason}")
        self._later.append((self.clock() + TRY_AGAIN_SECONDS, stream))

    def _close(self, stream: Stream) -> None:
        sock, stream.sock = stream.sock, None
        stream.is_open = False
        stream.pending = b""
        stream.recv, stream.send = _nothing, len
        if sock is not None:
            self._by_fd.pop(sock.fileno(), None)
            # closing takes it out of the epoll
            sock.close()


def _question(setup: SetUp, asset: str) -> bytes:
    return (
        f"GET /price?asset={asset} HTTP/1.1\r\nHost: {setup.authority}\r\nAuthorization: Bearer {setup.key}\r\n\r\n"
    ).encode("ascii")


def _sources(sources: Sequence[str]) -> Sequence[str | None]:
    return sources or (None,)


def _reason(error: OSError) -> str:
    return _REASONS.get(error.errno or 0) or errno.errorcode.get(error.errno or 0, type(error).__name__)


def _nothing(_: int) -> bytes:
    return b""
