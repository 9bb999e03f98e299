"""One connection's conversation with Valkey, in its own protocol (RESP, version 2).

Questions are answered in the order in which they were asked, so a connection on which one answer is overdue is dropped:
what comes later on it could be taken for the answer to something else. What was waiting then fails, all of it, with
L{CacheUnavailableError}. One question may be many commands; its answer is the list of their replies.

Replies are read by txredisapi's protocol, as bytes. How it cuts what comes in into lines is not used: it splits the
whole buffer anew for each line, and takes one value a turn of the reactor. Neither are its time-outs, which keep a
timer a command, nor its pool, in which a question waits for as long as the server is away.

A bulk question (L{Conversation.ask} with C{bulk}) only counts its replies; runs of numbers and OKs are counted without
being looked at one by one. It may take long, as long as something keeps coming in.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

from attrs import define, field, frozen
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error
from twisted.internet import protocol as twisted_protocol
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.errors import CacheUnavailableError

Word = bytes | str | int | float
Reply = Any
"""bytes, int, None, a list of these, or a L{RefusedError}."""

MOST_LINE_BYTES: Final = 64 * 1024
MOST_VALUE_BYTES: Final = 64 * 1024 * 1024
MOST_REASON_CHARACTERS: Final = 160
LAST_LOOK_SECONDS: Final = 0.05
"""Kept back of a time limit: a reactor that was held up hears its timers before it reads what has been lying there."""

_SORTS: Final = frozenset(b"+-:$*")
_COUNTABLE: Final = b":+0123456789OK\r\n"


class RefusedError(CacheUnavailableError):
    """The server answered with an error; the message is its own text, such as C{WRONGTYPE Operation against...}."""

    @property
    def wrong_type(self) -> bool:
        """Whether it was because something else than expected is stored there."""
        return str(self).startswith("WRONGTYPE")


@frozen
class Limits:
    """How long things may take, and how many may wait.

    @ivar connect_seconds: for the name and the connection.
    @ivar reply_seconds: for the answer to a question; for a bulk question, from one piece of it to the next.
    @ivar slow_seconds: a connection whose answers are late by so much gets no more questions until they come.
    @ivar ping_seconds: after so long without a word the server is asked whether it is there.
    @ivar first_wait_seconds: before the first new attempt; doubled with each failure.
    @ivar longest_wait_seconds: between attempts.
    @ivar settled_seconds: a connection that held for so long makes the waits short again.
    @ivar most_waiting: how many questions may wait on a connection.
    """

    connect_seconds: float = 3.0
    reply_seconds: float = 3.0
    slow_seconds: float = 0.5
    ping_seconds: float = 2.0
    first_wait_seconds: float = 0.1
    longest_wait_seconds: float = 2.0
    settled_seconds: float = 5.0
    most_waiting: int = 256


def carried_out(replies: list[Reply]) -> None:
    """Look for a refusal among the replies to a pipeline.

    @raise RefusedError: the first one.
    """
    for reply in replies:
        if isinstance(reply, RefusedError):
            raise reply


def packed(*words: Word) -> bytes:
    """One command as it goes over the wire."""
    pieces = [b"*%d\r\n" % len(words)]
    for word in words:
        if not isinstance(word, bytes):
            word = (word if isinstance(word, str) else repr(word)).encode()
        pieces.append(b"$%d\r\n%b\r\n" % (len(word), word))
    return b"".join(pieces)


@define(eq=False)
class _Question:
    """What waits for its replies.

    @ivar left: how many replies are still to come.
    @ivar replies: those that came; of a bulk question the first refusal alone.
    """

    answer: Deferred[list[Reply]]
    asked_at: float
    left: int
    bulk: bool
    replies: list[Reply] = field(factory=list)
    refused: int = 0


class Owner(Protocol):
    """Whoever has a conversation."""

    def ended(self, conversation: Conversation, why: str) -> None:
        """It is over: told once, also when it was dropped by its owner; nothing else is told after it."""

    def pushed(self, message: bytes) -> None:
        """A message came on the channel that is subscribed to."""


class Conversation(twisted_protocol.Protocol):
    """One connection, once it is made.

    @ivar over: why it ended; C{None} while it lives.
    @ivar subscribed: whether messages may come in that answer nothing.
    @ivar gone: fires when the transport is closed as well.
    """

    transport: Any
    _log = Logger()

    def __init__(self, clock: IReactorTime, limits: Limits, owner: Owner) -> None:
        # Here, and not above: whoever imports txredisapi has chosen a reactor with it.
        from txredisapi import BaseRedisProtocol

        self._clock = clock
        self._limits = limits
        self._owner = owner
        self._driver: Any = BaseRedisProtocol(charset=None, convertNumbers=False)
        self._driver.replyReceived = self._replied
        self._unread = b""
        self._waiting: deque[_Question] = deque()
        self._heard_at = clock.seconds()
        self._call: IDelayedCall | None = None
        self._connected = False
        self.over: str | None = None
        self.subscribed = False
        self.gone: Deferred[None] = Deferred()

    # What the owner asks.

    @property
    def waiting(self) -> int:
        """How many questions wait for their answers."""
        return len(self._waiting)

    @property
    def late_seconds(self) -> float:
        """For how long it has owed the next answer without a word; 0 when it owes none."""
        if not self._waiting:
            return 0.0
        return max(0.0, self._clock.seconds() - max(self._heard_at, self._waiting[0].asked_at))

    def ask(self, data: bytes, replies: int, bulk: bool = False) -> Deferred[list[Reply]]:
        """Send commands that are ready for the wire.

        @param replies: how many replies they have; at least one.
        @return: fires with the replies, refusals among them as values; of a bulk question only with its refusals, as
            one L{RefusedError} or nothing. Fails with L{CacheUnavailableError} when the conversation ends before that.
        """
        if self.over is not None:
            return fail(CacheUnavailableError(self.over))
        answer: Deferred[list[Reply]] = Deferred()
        self._waiting.append(_Question(answer, self._clock.seconds(), replies, bulk))
        self.transport.write(data)
        self._watch()
        return answer

    def drop(self, why: str) -> None:
        """End it at once; what waits fails."""
        if self.over is None:
            self._end(why)
            if self._connected:
                self.transport.abortConnection()

    # What the connection tells.

    def connectionMade(self) -> None:
        """See L{twisted.internet.interfaces.IProtocol}."""
        self._connected = True
        if self.over is not None:
            self.transport.abortConnection()
            return
        self._heard_at = self._clock.seconds()
        for switch in ("setTcpNoDelay", "setTcpKeepAlive"):  # a socket in the file system has none
            getattr(self.transport, switch, lambda _on: None)(True)
        self._watch()

    def connectionLost(self, reason: Failure = twisted_protocol.connectionDone) -> None:
        """See L{twisted.internet.interfaces.IProtocol}."""
        self._connected = False
        self._end(_why_lost(reason.value))
        self.gone.callback(None)

    def dataReceived(self, data: bytes) -> None:
        """See L{twisted.internet.interfaces.IProtocol}."""
        if self.over is not None:
            return
        self._heard_at = self._clock.seconds()
        if self._unread:
            data, self._unread = self._unread + data, b""
        if self._waiting and self._waiting[0].bulk and self._counted(data):
            return
        try:
            self._read(data)
        except Exception as fault:
            if not isinstance(fault, ValueError):
                self._log.failure("an answer of the cache could not be read")
            self.drop(f"it does not speak the Redis protocol: {fault}")

    # Reading.

    def _counted(self, data: bytes) -> bool:
        """Take all of it as replies to the bulk question, if they are numbers and OKs and no more than it waits for."""
        driver = self._driver
        if not driver.line_mode or driver.multi_bulk.pending or data.translate(None, _COUNTABLE):
            return False
        end = data.rfind(b"\r\n") + 2
        lines = data.count(b"\r\n")
        question = self._waiting[0]
        if not lines or lines > question.left or data.count(b":", 0, end) + data.count(b"+", 0, end) != lines:
            return False
        self._unread = data[end:]
        question.left -= lines
        self._finish_if_all()
        return True

    def _read(self, data: bytes) -> None:
        driver = self._driver
        at = 0
        while self.over is None:
            if driver.line_mode:
                end = data.find(b"\r\n", at)
                if end < 0:
                    break
                self._line(data[at:end])
                at = end + 2
            else:
                piece = data[at : at + driver.bulk_length]
                if not piece:
                    break
                at += len(piece)
                driver.rawDataReceived(piece)
        self._unread = data[at:]
        if len(self._unread) > MOST_LINE_BYTES:
            raise ValueError("a line without end")

    def _line(self, line: bytes) -> None:
        if not line or line[0] not in _SORTS:
            raise ValueError(f"it said {_plain(line)!r}")
        driver = self._driver
        if line.startswith(b"+"):  # the driver would make text of it
            if driver.multi_bulk.pending:
                driver.handleMultiBulkElement(line[1:])
            else:
                self._replied(line[1:])
            return
        driver.lineReceived(line.decode("utf-8", "replace"))
        if not driver.line_mode and not 2 <= driver.bulk_length <= MOST_VALUE_BYTES + 2:
            raise ValueError(f"it announced a value of {_plain(line)} bytes")

    def _replied(self, reply: Reply) -> None:
        """Take one whole reply. The driver hands them over in order."""
        if self.over is not None:
            return
        if isinstance(reply, Exception):
            reply = _refusal(reply)
        elif isinstance(reply, list):
            if self.subscribed and len(reply) == 3 and reply[0] == b"message":
                self._owner.pushed(reply[2])
                return
            reply = [_refusal(item) if isinstance(item, Exception) else item for item in reply]
        if not self._waiting:
            raise ValueError("it answered what was not asked")
        question = self._waiting[0]
        question.left -= 1
        if not question.bulk:
            question.replies.append(reply)
        elif isinstance(reply, RefusedError):
            question.refused += 1
            if not question.replies:
                question.replies.append(reply)
        self._finish_if_all()

    def _finish_if_all(self) -> None:
        question = self._waiting[0]
        if question.left:
            return
        self._waiting.popleft()
        self._watch()
        if question.bulk and question.refused:
            question.replies = [RefusedError(f"{question.refused} refused; the first: {question.replies[0]}")]
        question.answer.callback(question.replies)

    # Watching the time.

    def _due(self) -> float:
        """When something must be done if nothing is heard until then."""
        if not self._waiting:
            return self._heard_at + self._limits.ping_seconds
        question = self._waiting[0]
        since = max(question.asked_at, self._heard_at) if question.bulk else question.asked_at
        return since + self._limits.reply_seconds - LAST_LOOK_SECONDS

    def _watch(self) -> None:
        if self.over is not None:
            return
        due = self._due()
        if self._call is None:
            self._call = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._look)
        elif self._call.getTime() > due:
            self._call.reset(max(0.0, due - self._clock.seconds()))

    def _look(self, last: bool = False) -> None:
        self._call = None
        if self._clock.seconds() < self._due():
            self._watch()
        elif not self._waiting:
            self.ask(packed(b"PING"), 1).addCallbacks(self._ponged, lambda _: None)
        elif not last:
            self._call = self._clock.callLater(LAST_LOOK_SECONDS, self._look, True)
        else:
            self.drop(f"no answer within {self._limits.reply_seconds:g} s")

    def _ponged(self, replies: list[Reply]) -> None:
        if isinstance(replies[0], RefusedError):
            self.drop(str(replies[0]))

    def _end(self, why: str) -> None:
        if self.over is not None:
            return
        self.over = why
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._unread = b""
        waiting, self._waiting = self._waiting, deque()
        self._owner.ended(self, why)
        for question in waiting:
            question.answer.errback(CacheUnavailableError(why))


def why_not_connected(fault: BaseException | None) -> str:
    """In few words, why a connection did not come to be."""
    if isinstance(fault, error.DNSLookupError):
        return "no such host"
    if isinstance(fault, error.ConnectionRefusedError):
        return "connection refused"
    if isinstance(fault, error.TimeoutError):
        return "not connected in time"
    return f"not connected: {_words(fault)}"


def _why_lost(fault: BaseException | None) -> str:
    if isinstance(fault, VerificationError):
        return "TLS: the certificate is another host's"
    if isinstance(fault, SSL.Error):
        details = fault.args[0] if fault.args else None
        if isinstance(details, list) and details:
            return f"TLS: {_plain(str(details[-1][-1]).encode())}"  # the last one names what failed
        return "TLS: the connection ended"
    if fault is None or isinstance(fault, error.ConnectionDone):
        return "it hung up"
    return f"connection lost: {_words(fault)}"


def _refusal(fault: Exception) -> RefusedError:
    from txredisapi import ResponseError

    if not isinstance(fault, ResponseError):
        raise ValueError(_words(fault))
    return RefusedError(_words(fault))


def _words(fault: BaseException | None) -> str:
    return _plain((str(fault) or type(fault).__name__).encode())


def _plain(said: bytes) -> str:
    """Words from elsewhere, fit for one log line."""
    text = said[: 4 * MOST_REASON_CHARACTERS].decode("utf-8", "replace")[:MOST_REASON_CHARACTERS]
    return "".join(sign if sign.isprintable() else "?" for sign in text)
