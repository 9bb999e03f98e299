"""What LPO and health port have in common: twisted.web, held to our own manners.

Every refusal is problem JSON with a request id, errors of ours included; no page of HTML and no traceback leaves the
house. A request must arrive whole within the idle timeout of its first byte, not only in drips; its head is at most
16 KiB and 100 headers, its body at most L{LARGEST_BODY}. A larger body is read away up to L{LARGEST_READ_AWAY} so that
the client can see the 413; what is larger still is answered at once and cut off. Bytes that are no HTTP get an empty
400 and an end. HTTP/1.1 only.

Requests may be sent ahead of their answers, but only L{AT_A_TIME} of one client are answered in a turn of the reactor,
and none while it leaves earlier answers unread: no client keeps the others waiting, nor fills our memory with answers.
Answers that fill its buffer must be read within the idle timeout, and smaller ones must have been sent when the
connection has been idle for so long: else it is cut off. Who was ended for such a reason is counted by it
(L{SLOW_HEAD}, also for a body; L{SLOW_READ}; L{IDLE}).

When the port closes, its connections end with it: at once, or after the answer that one waits for. An answer that
comes when the ledger is closed already is not given: the connection is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from email.utils import formatdate
from http import HTTPStatus
from io import BytesIO
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from tbeast.codecs import problems
from tbeast.codecs.problems import Problem
from tbeast.domain.admission import ADMITTED, Verdict
from tbeast.domain.counters import Counters
from tbeast.domain.usage import NOBODY, Ledger
from tbeast.interfaces import Now
from tbeast.servers.faultlog import FaultLog

IDLE_SECONDS: Final = 60
LARGEST_BODY: Final = 16 * 1024
LARGEST_READ_AWAY: Final = 1024 * 1024
MOST_LENGTH_DIGITS: Final = 18
"""Of a Content-Length. More are far too large in any case, and from 4,300 on Python reads no number in them."""
AT_A_TIME: Final = 8

CAPACITY_CODES: Final = ("keys_unavailable", "metering_unavailable", "reports_busy")
"""Refusals that fewer connections might spare. A price that nobody has is none of them."""

SLOW_HEAD: Final = "slow_head"
SLOW_READ: Final = "slow_read"
IDLE: Final = "idle"

_NO_HOST: Final = Problem("bad_request", "A question over HTTP/1.1 names one Host (RFC 9112, section 3.2).")
_TOO_LARGE: Final = Problem("body_too_large", f"A body has at most {LARGEST_BODY} bytes.")


@implementer(IHalfCloseableProtocol)
class WebChannel(HTTPChannel):
    """One client's connection.

    @ivar spent: what the gate has said already of the request that will be read next.
    """

    site: WebSite
    maxHeaders = 100
    spent: Verdict | None = None
    _is_parting = False
    _in_a_row = 0
    _is_half_closed = False
    _going_on: IDelayedCall | None = None
    _unread: IDelayedCall | None = None
    _reading_seconds: float | None = None  # within which what fills its buffer must be read

    def connectionMade(self) -> None:
        """A client has come."""
        self._reading_seconds = self.timeOut
        self.site.came(self)
        super().connectionMade()  # type: ignore[no-untyped-call]

    def requestDone(self, request: Request) -> None:
        """A request was answered: rest before the next, if that is here already and others must have their turn."""
        more = bool(self._buffer) or any(self._dataBuffer)
        self._in_a_row = self._in_a_row + 1 if more else 0
        rests = more and (self._in_a_row >= AT_A_TIME or self._waitingForTransport)
        if rests:
            self._in_a_row = 0
        self.paused = rests
        super().requestDone(request)  # type: ignore[no-untyped-call]
        if rests and self.persistent:
            self._networkProducer.pauseProducing()
            self._plan()
        elif self._is_half_closed and not more:
            self.loseConnection()
        elif self._waitingForTransport and self.persistent:
            self._networkProducer.pauseProducing()  # which twisted.web leaves out while a request is under way

    def readConnectionLost(self) -> None:
        """The client sends no more, but may wait for answers: what it has asked is answered before the end."""
        self._is_half_closed = True
        if not self.paused and not self._handlingRequest:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """Our half was closed; we never close it alone."""

    def pauseProducing(self) -> None:
        """The client has not read what was written, and there is much of it."""
        if self._unread is None and self._reading_seconds:
            self._unread = self.site.reactor.callLater(self._reading_seconds, self._read_too_slowly)
        super().pauseProducing()  # type: ignore[no-untyped-call]

    def resumeProducing(self) -> None:
        """The client has read what was written."""
        self._forget_unread()
        super().resumeProducing()  # type: ignore[no-untyped-call]
        if self.paused:
            self._networkProducer.pauseProducing()
            self._plan()

    def _plan(self) -> None:
        """Go on in another turn, or when L{resumeProducing} is called."""
        if self._going_on is None and not self._waitingForTransport:
            self._going_on = self.site.reactor.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._going_on = None
        transport: Any = self.transport
        if self._waitingForTransport or transport.disconnecting:
            return
        self.paused = False
        self._networkProducer.resumeProducing()
        self.dataReceived(b"")  # type: ignore[no-untyped-call]
        if self._is_half_closed and not self.paused and not self._handlingRequest:
            self.loseConnection()  # what is left is no whole request

    def part(self) -> None:
        """Have the next answer be the last on this connection, and say so."""
        self._is_parting = True
        if self.requests:
            self.persistent = 0

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether the connection goes on after this request."""
        goes_on: bool = super().checkPersistence(request, version)  # type: ignore[no-untyped-call]
        wishes = request.requestHeaders.getRawHeaders(b"connection", ())
        # one field may have several wishes, with commas between them (RFC 9110, section 7.6.1)
        is_last = any(wish.strip().lower() == b"close" for field in wishes for wish in field.split(b","))
        return goes_on and not is_last and not self._is_parting

    def end(self) -> None:
        """Take no more requests: answer the one that is under way, if there is one, and end the connection."""
        self._read_no_more()
        if self._handlingRequest:
            self.persistent = 0
        else:
            self.loseConnection()

    def _read_no_more(self) -> None:
        """What still comes in is not read; a TLS transport hands it on even at the end."""
        for name in ("dataReceived", "lineReceived", "rawDataReceived"):
            setattr(self, name, _not_read)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client, or we, ended it."""
        self.site.went(self)
        self._forget_unread()
        if self._going_on is not None:
            self._going_on.cancel()
            self._going_on = None
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line of the head is longer than a head may be."""
        self._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Answer to what is no HTTP. Twisted has no public place where this could be counted."""
        transport: Any = self.transport
        if not transport.disconnecting:  # else it has had its last answer
            self.site.count(400)
            self.site.record_nobody(400)
            super()._respondToBadRequestAndDisconnect()  # type: ignore[no-untyped-call]
            self._read_no_more()

    def headerReceived(self, line: bytes) -> bool:
        """Take a header; a length with more digits than Python would read is as good as any that is too large."""
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if name.lower() == b"transfer-encoding" and value.lower() != b"chunked":
            # identity, which Twisted would pass over, is none any more (RFC 9112, section 7); who thinks so may see
            # another end of the body than we do
            self._respondToBadRequestAndDisconnect()
            return False
        if len(value) > MOST_LENGTH_DIGITS and name.lower() == b"content-length" and value.isdigit():
            line = name + colon + b"9" * MOST_LENGTH_DIGITS
        taken: bool = super().headerReceived(line)  # type: ignore[no-untyped-call]
        return taken

    def resetTimeout(self) -> None:
        """Bytes came in: they put the timeout off if a new request begins with them, and not if one goes on."""
        if not self._buffer and not self.requests:
            super().resetTimeout()  # type: ignore[no-untyped-call]

    def allHeadersReceived(self) -> None:
        """Refuse a body that announces itself as far too large before any of it is read (or asked for)."""
        if self.length is not None and self.length > LARGEST_READ_AWAY:
            self.cut_off()
            self.length = None
            self._read_no_more()
            return
        super().allHeadersReceived()  # type: ignore[no-untyped-call]

    def cut_off(self) -> None:
        """Refuse a body that is being sent, and end the connection."""
        body = problems.render(_TOO_LARGE, self.site.new_id())
        self.site.count(413)
        self.site.record_nobody(413)
        transport = self.transport
        assert transport is not None
        transport.write(
            b"HTTP/1.1 413 Request Entity Too Large\r\nServer: tbeast\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%b" % (problems.CONTENT_TYPE, len(body), body)
        )
        self.loseConnection()

    def timeoutConnection(self) -> None:
        """End a connection that was idle or too slow; no news, so no log."""
        if self._waitingForTransport or _waits_to_be_sent(self.transport):
            self._read_too_slowly()
            return
        self.site.count_slow(SLOW_HEAD if self.requests or self._buffer else IDLE)
        self.loseConnection()

    def _read_too_slowly(self) -> None:
        """Cut off a client that does not read its answers."""
        self._forget_unread()
        self.setTimeout(None)  # type: ignore[no-untyped-call]
        self.site.count_slow(SLOW_READ)
        self.cut()

    def _forget_unread(self) -> None:
        unread, self._unread = self._unread, None
        if unread is not None and unread.active():
            unread.cancel()

    def loseConnection(self) -> None:
        """End the connection when all is written; who does not read the last of it is cut off after a while."""
        if self._abortingCall is None:
            self._abortingCall = self.site.reactor.callLater(self.abortTimeout, self.forceAbortClient)
        super().loseConnection()  # type: ignore[no-untyped-call]

    def forceAbortClient(self) -> None:
        """Cut off who has not read the last of it, with no line in the log."""
        self._abortingCall = None
        self.cut()

    def cut(self) -> None:
        """End the connection, whatever was not sent yet."""
        transport: Any = self.transport
        transport.abortConnection()


class WebRequest(Request):
    """One request.

    @ivar query: what stands after the C{?}, as it came.
    @ivar is_too_large: whether its body was larger than L{LARGEST_BODY}, and was not kept.
    @ivar is_gone: whether the client went away, or was cut off.
    @ivar verdict: what the gate said of it, if it was asked; it is not asked again.
    @ivar asset: the known asset that it asks for, for the ledger, as are C{source} and C{tier} of the answer.
    @ivar began_at: when it was read.
    """

    channel: WebChannel
    site: WebSite
    content: BytesIO
    query = b""
    is_too_large = False
    is_gone = False
    verdict: Verdict | None = None
    asset = ""
    source = ""
    tier = ""
    began_at = 0.0
    _is_recorded = False
    _body_size = 0
    _log = Logger()

    def gotLength(self, length: int | None) -> None:
        """Keep the body in memory: it is small, or it is not kept."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Keep a part of the body, unless it becomes too large."""
        self._body_size += len(data)
        if self._body_size > LARGEST_READ_AWAY:
            if not self.is_gone:
                self.is_gone = True
                self.channel.cut_off()
        elif self._body_size > LARGEST_BODY:
            self.is_too_large = True
        else:
            self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Take the request as it came; unlike twisted.web, decode nothing that nobody asked for."""
        if self.is_gone:  # its body was refused, and yet came to its end with the same bytes
            return
        self.content.seek(0, 0)
        self.args = {}
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, self.query = path.partition(b"?")
        if not self.path.startswith(b"/"):
            if self.path[:8].lower().startswith((b"http://", b"https://")):
                # the form that proxies are asked with, which every server must take
                self.path = b"/" + self.path.split(b"/", 3)[3] if self.path.count(b"/") > 2 else b"/"
            else:
                # no path: nothing may be found by it
                self.path = b"//" + self.path
        self.process()

    def process(self) -> None:
        """Find the resource and let it answer."""
        self.site = site = self.channel.site
        self.began_at = site.now()
        self.verdict, self.channel.spent = self.channel.spent, None
        self.responseHeaders.setRawHeaders(b"Server", [b"tbeast"])
        self.responseHeaders.setRawHeaders(b"Date", [site.date(self.began_at)])
        self.prepath = []
        self.postpath = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
        try:
            if self.is_too_large:
                self.refuse(_TOO_LARGE)
            elif self.clientproto != b"HTTP/1.0" and len(self.requestHeaders.getRawHeaders(b"host", ())) != 1:
                self.refuse(_NO_HOST)
            else:
                site.getResourceFor(self).render(self)  # type: ignore[no-untyped-call]
        except Exception:
            self.processingFailed(Failure())  # type: ignore[no-untyped-call]

    def respond(self, status: int, body: bytes, content_type: bytes) -> None:
        """Send the whole answer, and count it; if the client is gone it is only recorded. HEAD gets no body."""
        ledger = self.site.ledger
        if ledger is not None and ledger.is_closed:
            if not self.is_gone:
                self.channel.cut()
            return
        self._record(status)
        if self.is_gone:
            return
        headers = self.responseHeaders
        headers.setRawHeaders(b"Content-Type", [content_type])
        headers.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        headers.setRawHeaders(b"Cache-Control", [b"no-store"])
        if not self.channel.persistent:
            headers.setRawHeaders(b"Connection", [b"close"])
        self.setResponseCode(status, HTTPStatus(status).phrase.encode("ascii"))
        self.site.count(status)
        self.write(body)  # type: ignore[no-untyped-call]
        self.finish()  # type: ignore[no-untyped-call]

    def _record(self, status: int) -> None:
        """Put the request into the ledger, once: what was admitted counts, whether or not the client waited for it."""
        ledger, verdict = self.site.ledger, self.verdict
        if ledger is None or self._is_recorded:
            return
        self._is_recorded = True
        if verdict is None or verdict.account is None:
            key_id, is_admitted = NOBODY, False
        else:
            key_id, is_admitted = verdict.account.key_id, verdict.outcome == ADMITTED
        now = self.site.now()
        took = max(int((now - self.began_at) * 1e6), 0)
        ledger.count(
            key_id, self.site.service, "http", self.asset, self.source, self.tier, status, is_admitted, now, took
        )

    def refuse(self, problem: Problem, request_id: str = "") -> None:
        """Send a refusal."""
        request_id = request_id or self.site.new_id()
        if problem.status == 503:
            self.site.count_capacity(problem.code)
            self.site.faults.note(problem, self.path, request_id)
        self.responseHeaders.setRawHeaders(b"X-Request-Id", [request_id.encode("ascii")])
        self.respond(problem.status, problems.render(problem, request_id), problems.CONTENT_TYPE)

    def wait_for(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        """Run what will answer this request later."""
        Deferred.fromCoroutine(coroutine).addErrback(self.processingFailed)

    def processingFailed(self, reason: Failure) -> None:
        """Log a mistake of ours, and say no more of it than that it happened."""
        request_id = self.site.new_id()
        self._log.failure("Request {request_id} to {path} failed", reason, request_id=request_id, path=self.path)
        if self.startedWriting:
            if not self.is_gone:
                self.channel.loseConnection()
        else:
            self.refuse(Problem("internal_error", "The fault is ours, and was noted under this id."), request_id)

    def connectionLost(self, reason: Failure) -> None:
        """The client went away."""
        self.is_gone = True
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class Doorkeeper(Protocol):
    """What a site needs of L{tbeast.servers.door.Door}."""

    def moved(self) -> None:
        """Connections have come or gone."""


class WebSite(Site):
    """A tree of resources and what its requests need.

    @ivar new_id: makes request ids.
    @ivar service: what it is called in counters and in the ledger.
    @ivar ledger: where every answer is recorded; C{None}: nowhere.
    @ivar connections: those that there are.
    @ivar faults: writes down what was refused by no fault of the client.
    """

    protocol = WebChannel  # type: ignore[assignment]
    requestFactory = WebRequest
    noisy = False

    def __init__(
        self,
        root: Resource,
        *,
        reactor: IReactorTime,
        now: Now,
        new_id: Callable[[], str],
        counters: Counters | None = None,
        service: str = "",
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(root, timeout=IDLE_SECONDS, reactor=reactor, parsePOSTFormSubmission=False)  # type: ignore[no-untyped-call]
        self.new_id = new_id
        self.now = now
        self.service = service
        self.ledger = ledger
        self.connections: set[WebChannel] = set()
        self._counters = counters
        self.faults = FaultLog(service, now)
        self._door: Doorkeeper | None = None
        self._date = (0, b"")

    def date(self, now: float | None = None) -> bytes:
        """The time for the Date header, written once a second; C{now} if it is known already."""
        second = int(self.now() if now is None else now)
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode("ascii"))
        return self._date[1]

    def count(self, status: int) -> None:
        """Count one answer."""
        if self._counters is not None:
            self._counters.count("requests", self.service, "http", str(status))

    def record_nobody(self, status: int) -> None:
        """Put an answer into the ledger that no request came to: it was refused while it was read."""
        if self.ledger is not None:
            self.ledger.count(NOBODY, self.service, "http", "", "", "", status, False, self.now(), 0)

    def count_slow(self, reason: str) -> None:
        """Count a client that was ended because it was too slow."""
        if self._counters is not None:
            self._counters.count("slow_clients", self.service, reason)

    def count_capacity(self, code: str) -> None:
        """Count a refusal, if it is one for want of capacity."""
        if self._counters is not None and code in CAPACITY_CODES:
            self._counters.count("capacity_refusals", self.service, code)

    def stand_behind(self, door: Doorkeeper) -> None:
        """Tell this door from now on when a connection has come or gone."""
        self._door = door

    def came(self, channel: WebChannel) -> None:
        """A connection has come to be."""
        self.connections.add(channel)
        if self._door is not None:
            self._door.moved()

    def went(self, channel: WebChannel) -> None:
        """A connection has ended, or has gone elsewhere."""
        self.connections.discard(channel)
        if self._door is not None:
            self._door.moved()

    def startFactory(self) -> None:
        """Unlike twisted.web, keep no access log, and so no clock for it."""

    def stopFactory(self) -> None:
        """The port is closed: so are its connections."""
        for channel in list(self.connections):
            channel.end()

    def log(self, request: object) -> None:
        """Counters tell events, the log does not."""

    def acceptableProtocols(self) -> list[bytes]:
        """What is offered in a TLS handshake."""
        return [b"http/1.1"]


class Page(Resource):
    """A resource of ours: it answers by L{WebRequest.respond} or L{WebRequest.refuse}, and has no children.

    @cvar methods: the methods that it knows; HEAD is answered as GET without the body.
    """

    methods: ClassVar[tuple[bytes, ...]] = (b"GET", b"HEAD")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def getChild(self, path: bytes, request: Request) -> Resource:
        """There is nothing below."""
        return NotFound()

    def render(self, request: WebRequest) -> int:
        """Answer, or refuse the method."""
        if request.method in self.methods:
            self.answer(request)
        else:
            allowed = b", ".join(self.methods)
            request.responseHeaders.setRawHeaders(b"Allow", [allowed])
            request.refuse(Problem("method_not_allowed", f"Here one can only {allowed.decode('ascii')}."))
        return NOT_DONE_YET

    def answer(self, request: WebRequest) -> None:
        """Answer a request with one of L{methods}."""
        raise NotImplementedError


class NotFound(Page):
    """Where nothing is."""

    def render(self, request: WebRequest) -> int:
        """Say so, whatever the method."""
        request.refuse(Problem("not_found", "There is nothing at this path."))
        return NOT_DONE_YET


def tree(pages: Mapping[bytes, Resource]) -> Resource:
    """Put pages under their names."""
    root = NotFound()
    for name, page in pages.items():
        root.putChild(name, page)
    return root


def _waits_to_be_sent(transport: Any) -> bool:
    """Whether some of what was written is still here; under TLS, what is encrypted already."""
    below = getattr(transport, "transport", transport)
    return bool(getattr(below, "dataBuffer", b"") or getattr(below, "_tempDataBuffer", ()))


def _not_read(_: bytes) -> None:
    """What comes in after the end."""
