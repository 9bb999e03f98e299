"""The fast lane: a connection of the price surface that answers plain questions before a request of twisted.web exists.

Whole plain questions (see L{tbeast.codecs.hotrequests}) at the beginning of what came in are answered from the shelf,
and the answers are sent at once if none wait to be sent. Everything else goes the ordinary way, with its bytes as they
came: what is not recognised, what the gate refuses, what the shelf does not have, and whatever follows these in the
same bytes. Nobody can tell from an answer, a count or a timeout which way a question took.

The lane is open while nothing of the ordinary way is under way: no part of a request was read, none is being answered,
and the connection is neither resting, nor held up by a client that does not read, nor coming to its end.

A connection that asks nothing but plain questions for a while may be of more use elsewhere: L{PriceSite.take} is then
asked whether it wants the socket, and what it wants leaves the reactor as it is, in the middle of the connection.

The gate is asked once for each question. When the lane has asked it, and yet does not answer, the verdict goes with the
bytes: the request that is made of them, before anything else happens, takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Server
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from tbeast.codecs.hotrequests import HotRequest, RememberedHeads
from tbeast.codecs.replies import CONTENT_TYPE
from tbeast.domain.admission import ADMITTED, Verdict
from tbeast.domain.assetmap import AssetMap
from tbeast.domain.counters import Counters
from tbeast.domain.usage import Ledger
from tbeast.servers.answers import SHELF
from tbeast.servers.gate import Gate
from tbeast.servers.nestedpoll import nested_in
from tbeast.servers.site import AT_A_TIME, WebChannel, WebSite

READ_BYTES: Final = 16_384
"""How much is received at a time: a head as long as it may be, or a good many short ones."""


PLAIN_IN_A_ROW: Final = 16
"""After so many answers of the lane a connection is offered; after twice as many each time that it was of no use."""

RETURNS_MOST: Final = 10
NEVER: Final = 1 << 62


class Reply(Protocol):
    """What the lane reads of a ready reply; see L{tbeast.domain.readyreplies.ReadyReply}."""

    @property
    def head(self) -> bytes:
        """What stands before the age."""

    @property
    def tail(self) -> bytes:
        """What stands behind it."""

    @property
    def observed_at(self) -> float:
        """From when the age is counted."""

    @property
    def source(self) -> str:
        """Who gave the price."""


class Shelf(Protocol):
    """Where replies lie."""

    def find(self, asset: str, now: float) -> Reply | None:
        """The reply for C{asset} (upper case), if there is one that may still be given out."""


class Shelved(Protocol):
    """What the lane needs of whoever answers, commonly L{tbeast.servers.answers.Answers}.

    @ivar assets: which there are at present.
    @ivar shelf: what is given out.
    """

    @property
    def assets(self) -> AssetMap:
        """See above."""

    @property
    def shelf(self) -> Shelf:
        """See above."""


class FastLane(WebChannel):
    """One client's connection."""

    site: PriceSite
    _is_open = True  # if not, _opens knows
    _spoke_at = 0.0  # when the lane has answered last, by the reactor's clock
    _skipped_a_line = False
    _plain = 0  # how many answers of the lane there were since anything else was
    _enough = NEVER  # after how many it is offered
    _returns = 0  # how often it was offered and came back unused
    _socket: Any = None  # of a plain TCP connection: there, bytes can be sent at once

    def connectionMade(self) -> None:
        """A client has come."""
        super().connectionMade()
        transport: Any = self.transport
        if _is_plain(transport):
            self._socket = transport.socket
            self._enough = PLAIN_IN_A_ROW if self.site.take is not None else NEVER
            transport.doRead = self._read
            if self.site.poll is not None:
                transport.stopReading()
                transport.reactor = self.site.poll
                transport.startReading()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client, or we, ended it."""
        self._is_open = False
        if self._socket is not None:
            self._socket = None
            vars(self.transport).pop("doRead", None)  # it keeps us, and we it
        super().connectionLost(reason)

    def _read(self) -> Exception | None:
        """What the transport does when there is something to read: a shorter way for what was asked before."""
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        if self._is_open:
            site = self.site
            question = site.known.get(data)
            if question is not None:
                answer = site.answer(question)
                if isinstance(answer, bytes):
                    self._spoke_at = site.spoke_at
                    self._send(answer)
                    self._plain += 1
                    if self._plain >= self._enough:
                        self._offer()
                else:
                    self._go_ordinary(data, answer)
                return None
        self.dataReceived(data)
        if self._plain >= self._enough:
            self._offer()
        return None

    def dataReceived(self, data: bytes) -> None:
        """Bytes came in, or it is time to look again at those that had come in."""
        if not (self._is_open or self._opens()):
            super().dataReceived(data)  # type: ignore[no-untyped-call]
            return
        self._is_open = True
        whole = self._buffer + data
        rest, verdict = self._answer_some(whole)
        if len(rest) == len(whole):
            self._go_ordinary(data, verdict)
        elif self.paused:
            self._is_open = False
            self._buffer = rest
        else:
            self._buffer = b""
            if rest:
                self._go_ordinary(rest, verdict)

    def _offer(self) -> None:
        """Let somebody else go on with the connection, if nothing is under way on it."""
        self._plain = 0
        transport: Any = self.transport
        take = self.site.take
        if take is None or self._buffer or not self._nothing_waits() or not self._opens():
            return
        number = transport.fileno()
        transport.stopReading()
        if not take(number, self._returns + 1):
            transport.startReading()
            return
        transport.socket.detach()  # so the socket lives on when the transport is told that it was lost
        transport.connectionLost(Failure(CONNECTION_DONE))  # type: ignore[no-untyped-call]

    def _opens(self) -> bool:
        """Whether the lane may be taken now."""
        transport: Any = self.transport
        return not (
            self.requests or self.paused or self._busyReceiving or self._skipped_a_line or self._is_half_closed
            or self._is_parting or self._waitingForTransport or transport.disconnecting or not self.persistent
        )  # fmt: skip

    def go_on(self, data: bytes, verdict: Verdict | None, returns: int = 0) -> None:
        """Go on where another lane has left a connection.

        @param data: what was received and not answered; it begins with a request.
        @param verdict: on that request, if the gate was asked already; it is then wholly there.
        @param returns: how often the connection was offered since the other lane has answered anything on it.
        """
        self._returns = min(returns, RETURNS_MOST)
        self._enough = PLAIN_IN_A_ROW << self._returns if self.site.take is not None else NEVER
        if not data:
            return
        if verdict is None:
            self.dataReceived(data)
        else:
            self._go_ordinary(data, verdict)

    def _go_ordinary(self, data: bytes, verdict: Verdict | None) -> None:
        """Leave this, and what stands before it in the buffer, to twisted.web.

        @param verdict: on the first question in it, if the gate was asked already.
        """
        self._is_open = False
        self._plain = 0
        self.spent = verdict
        super().dataReceived(data)  # type: ignore[no-untyped-call]
        self.spent = None

    def _answer_some(self, data: bytes) -> tuple[bytes, Verdict | None]:
        """Answer the plain questions at the beginning of C{data}, and rest if there were too many.

        @return: what is left of it, and the verdict on its first question, if the gate was asked already.
        """
        site = self.site
        recognise = site.heads.recognise
        verdict = None
        answers: list[bytes] = []
        together = self._nothing_waits()
        while (question := recognise(data)) is not None:
            answer = site.answer(question)
            if not isinstance(answer, bytes):
                verdict = answer
                break
            self._spoke_at = site.spoke_at
            self._plain += 1
            data = data[question.length :]
            self._in_a_row = self._in_a_row + 1 if data else 0
            if together:
                answers.append(answer)
            else:
                self._send(answer)  # whereupon the transport may have too much
            if data and (self._in_a_row >= AT_A_TIME or self._waitingForTransport):
                self._in_a_row = 0
                self.paused = True
                self._networkProducer.pauseProducing()
                self._plan()
                break
        if answers:
            self._send(b"".join(answers))
        return data, verdict

    def _nothing_waits(self) -> bool:
        """Whether bytes can be sent at once, because none that were written before wait to be sent."""
        transport: Any = self.transport
        return self._socket is not None and not transport.dataBuffer and not transport._tempDataBuffer

    def _send(self, data: bytes) -> None:
        """Send, or write what cannot be sent now."""
        transport: Any = self.transport
        if self._socket is not None and not transport.dataBuffer and not transport._tempDataBuffer:
            try:
                sent = self._socket.send(data)
            except OSError:
                sent = 0  # if it was more than a full buffer, the transport will find out
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)

    def lineReceived(self, line: bytes) -> None:
        """Take note of an empty line before a request: twisted.web lets one pass, and knows that it has."""
        self._skipped_a_line = not line and not self.requests
        super().lineReceived(line)  # type: ignore[no-untyped-call]

    def pauseProducing(self) -> None:
        """The client does not read."""
        self._is_open = False
        super().pauseProducing()

    def readConnectionLost(self) -> None:
        """The client sends no more."""
        self._is_open = False
        super().readConnectionLost()

    def loseConnection(self) -> None:
        """End the connection when all is written."""
        self._is_open = False
        super().loseConnection()

    def part(self) -> None:
        """Have the next answer be the last on this connection: the lane gives no last answers."""
        self._is_open = False
        super().part()

    def _read_no_more(self) -> None:
        self._is_open = False
        super()._read_no_more()

    def timeoutConnection(self) -> None:
        """End the connection, if it was idle for the lane too: there, an answer does not put the timer off."""
        idle = self.timeOut or 0.0
        left = self._spoke_at + idle - self.site.seconds()
        if left > 0.0:
            self.setTimeout(left)  # type: ignore[no-untyped-call]
            self.timeOut = idle  # type: ignore[assignment]
        else:
            super().timeoutConnection()


class PriceSite(WebSite):
    """The price surface: pages, and the lane in front of them.

    @ivar heads: recognises questions.
    @ivar known: what it has seen before, for the hot path.
    @ivar seconds: the reactor's clock.
    @ivar spoke_at: what it said when the last answer was made.
    @ivar poll: watches the connections; C{None} where the reactor does.
    @ivar take: asked, with the descriptor of a connection and how often it was offered in vain, whether it is wanted
        elsewhere; then it is gone from here. C{None}: it is not.
    """

    protocol = FastLane
    _log = Logger()

    def __init__(
        self, root: Resource, *, gate: Gate, answers: Shelved, counters: Counters, ledger: Ledger, service: str,
        **others: Any,
    ) -> None:  # fmt: skip
        """Make it; C{others} is what else L{WebSite} takes."""
        super().__init__(root, counters=counters, ledger=ledger, service=service, **others)
        self.heads = RememberedHeads()
        self.known = self.heads.known
        self.seconds = self.reactor.seconds
        self.spoke_at = 0.0
        self.poll = nested_in(self.reactor)
        self.take: Callable[[int, int], bool] | None = None
        self._admit = gate.admit
        self._answers = answers
        self._ledger = ledger
        self._counts = counters.counts
        self._counted_as = ("requests", service, "http", "200")
        self._answered = 0
        counters.gathered.append(self._count)
        self._second = 0
        self._beginning = b""

    def answer(self, question: HotRequest) -> bytes | Verdict | None:
        """Answer a plain question, and record it, as the pages would.

        @return: the answer; or, with nothing recorded, the verdict, when that is no admission or nothing lies on the
            shelf; or C{None} when the gate was not even asked.
        """
        verdict = None
        try:
            if self._ledger.is_closed:
                return None
            key, asset, _ = question
            now = self.now()
            began = self.seconds()
            verdict = self._admit(key, now)
            outcome, account, limit, remaining, reset, _ = verdict
            if outcome != ADMITTED or account is None:
                return verdict
            answers = self._answers
            reply = answers.shelf.find(asset, now)
            if reply is None:
                return verdict
            if int(now) != self._second:
                self._begin(now)
            age = now - reply.observed_at
            head, tail, shown = reply.head, reply.tail, b"%.3f" % (age if age > 0.0 else 0.0)
            answer = _ANSWER % (
                self._beginning, limit, remaining, reset, len(head) + len(shown) + len(tail), head, shown, tail,
            )  # fmt: skip
            known = asset if asset in answers.assets.assets else ""
            self.spoke_at = ended = self.seconds()
            took = int((ended - began) * 1e6)
            self._ledger.count(account.key_id, self.service, "http", known, reply.source, SHELF, 200, True, now, took)
        except Exception:
            self._log.failure("The fast lane failed, and leaves the question to the pages")
            return verdict
        self._answered += 1
        return answer

    def _count(self) -> None:
        """Bring what the lane has answered into the counters."""
        if self._answered:
            for counted in (_FOUND, self._counted_as):
                self._counts[counted] = self._counts.get(counted, 0) + self._answered
            self._answered = 0

    def _begin(self, now: float) -> None:
        """Write the beginning of answers, once a second."""
        self._second = int(now)
        self._beginning = b"HTTP/1.1 200 OK\r\nServer: tbeast\r\nDate: %b\r\nRatelimit-Limit: " % self.date(now)


def _is_plain(transport: object) -> bool:
    """Whether what is written there goes to a socket as it is, and one can see whether some of it waits."""
    return isinstance(transport, Server) and not transport.TLS and hasattr(transport, "_tempDataBuffer")


_FOUND: Final = ("lookups", SHELF)
_ANSWER: Final = (
    b"%%b%%d\r\nRatelimit-Remaining: %%d\r\nRatelimit-Reset: %%d\r\nContent-Type: %b\r\nContent-Length: %%d\r\n"
    b"Cache-Control: no-store\r\n\r\n%%b%%b%%b" % CONTENT_TYPE
)
