"""What LPO and health port have in common: twisted.web, held to our own manners.

Every refusal is problem JSON with a request id, errors of ours included; no page of HTML and no traceback leaves the
house. A request must arrive whole within the idle timeout of its first byte, not only in drips; its head is at most
16 KiB and 100 headers, its body at most L{LARGEST_BODY}. A larger body is read away up to L{LARGEST_READ_AWAY} so that
the client can see the 413; what is larger still is answered at once and cut off. Bytes that are no HTTP get an empty
400 and an end. HTTP/1.1 only.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from email.utils import formatdate
from http import HTTPStatus
from io import BytesIO
from typing import Any, ClassVar, Final
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tbeast.codecs import problems
from tbeast.codecs.problems import Problem
from tbeast.domain.counters import Counters
from tbeast.interfaces import Now

IDLE_SECONDS: Final = 60
LARGEST_BODY: Final = 16 * 1024
LARGEST_READ_AWAY: Final = 1024 * 1024

_TOO_LARGE: Final = Problem("body_too_large", f"A body has at most {LARGEST_BODY} bytes.")


class WebChannel(HTTPChannel):
    """One client's connection."""

    site: WebSite
    maxHeaders = 100

    def resetTimeout(self) -> None:
        """Bytes came in: they put the timeout off if a new request begins with them, and not if one goes on."""
        if not self._buffer and not self.requests:
            super().resetTimeout()  # type: ignore[no-untyped-call]

    def allHeadersReceived(self) -> None:
        """Refuse a body that announces itself as far too large before any of it is read (or asked for)."""
        if self.length is not None and self.length > LARGEST_READ_AWAY:
            self.cut_off()
            # what still comes in is not read
            self.length = None
            for name in ("dataReceived", "lineReceived", "rawDataReceived"):
                setattr(self, name, _not_read)
            return
        super().allHeadersReceived()  # type: ignore[no-untyped-call]

    def cut_off(self) -> None:
        """Refuse a body that is being sent, and end the connection."""
        body = problems.render(_TOO_LARGE, self.site.new_id())
        self.site.count(413)
        transport = self.transport
        assert transport is not None
        transport.write(
            b"HTTP/1.1 413 Request Entity Too Large\r\nServer: tbeast\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%b" % (problems.CONTENT_TYPE, len(body), body)
        )
        self.loseConnection()  # type: ignore[no-untyped-call]

    def timeoutConnection(self) -> None:
        """End a connection that was idle or too slow; no news, so no log."""
        self._abortingCall = self.site.reactor.callLater(self.abortTimeout, self.forceAbortClient)
        self.loseConnection()  # type: ignore[no-untyped-call]


class WebRequest(Request):
    """One request.

    @ivar query: what stands after the C{?}, as it came.
    @ivar is_too_large: whether its body was larger than L{LARGEST_BODY}, and was not kept.
    @ivar is_gone: whether the client went away.
    """

    channel: WebChannel
    site: WebSite
    content: BytesIO
    query = b""
    is_too_large = False
    is_gone = False
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
        self.content.seek(0, 0)
        self.args = {}
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, self.query = path.partition(b"?")
        if self.path.startswith((b"http://", b"https://")):
            # the form that proxies are asked with, which every server must take
            self.path = b"/" + self.path.split(b"/", 3)[3] if self.path.count(b"/") > 2 else b"/"
        self.process()

    def process(self) -> None:
        """Find the resource and let it answer."""
        self.site = site = self.channel.site
        self.responseHeaders.setRawHeaders(b"Server", [b"tbeast"])
        self.responseHeaders.setRawHeaders(b"Date", [site.date()])
        self.prepath = []
        self.postpath = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
        try:
            if self.is_too_large:
                self.refuse(_TOO_LARGE)
            else:
                site.getResourceFor(self).render(self)  # type: ignore[no-untyped-call]
        except Exception:
            self.processingFailed(Failure())  # type: ignore[no-untyped-call]

    def respond(self, status: int, body: bytes, content_type: bytes) -> None:
        """Send the whole answer, and count it; nothing happens if the client is gone. HEAD gets no body."""
        if self.is_gone:
            return
        headers = self.responseHeaders
        headers.setRawHeaders(b"Content-Type", [content_type])
        headers.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        headers.setRawHeaders(b"Cache-Control", [b"no-store"])
        self.setResponseCode(status, HTTPStatus(status).phrase.encode("ascii"))
        self.site.count(status)
        self.write(body)  # type: ignore[no-untyped-call]
        self.finish()  # type: ignore[no-untyped-call]

    def refuse(self, problem: Problem, request_id: str = "") -> None:
        """Send a refusal."""
        request_id = request_id or self.site.new_id()
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
                self.channel.loseConnection()  # type: ignore[no-untyped-call]
        else:
            self.refuse(Problem("internal_error", "The fault is ours, and was noted under this id."), request_id)

    def connectionLost(self, reason: Failure) -> None:
        """The client went away."""
        self.is_gone = True
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class WebSite(Site):
    """A tree of resources and what its requests need.

    @ivar new_id: makes request ids.
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
    ) -> None:
        super().__init__(root, timeout=IDLE_SECONDS, reactor=reactor, parsePOSTFormSubmission=False)  # type: ignore[no-untyped-call]
        self.new_id = new_id
        self._now = now
        self._counters = counters
        self._service = service
        self._date = (0, b"")

    def date(self) -> bytes:
        """The time for the Date header, written once a second."""
        second = int(self._now())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode("ascii"))
        return self._date[1]

    def count(self, status: int) -> None:
        """Count one answer."""
        if self._counters is not None:
            self._counters.count("requests", self._service, "http", str(status))

    def startFactory(self) -> None:
        """Unlike twisted.web, keep no access log, and so no clock for it."""

    def stopFactory(self) -> None:
        """See L{startFactory}."""

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


def _not_read(_: bytes) -> None:
    """What comes in after the end."""
