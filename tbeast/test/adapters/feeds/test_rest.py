"""Tests of L{tbeast.adapters.feeds.rest}, against a real server on the loopback interface."""

from __future__ import annotations

import gzip
import socket
import tracemalloc
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tbeast.adapters.feeds.rest import (
    BROKEN,
    DNS,
    MOST_HEAD_BYTES,
    REFUSED,
    TIMEOUT,
    TLS,
    TOO_LARGE,
    HttpFetcher,
    _fetch_error,
)
from tbeast.errors import FetchError
from tbeast.test.adapters.feeds.certificates import Authority

reactor: Any = the_reactor


class Exchange(Resource):
    """Answers by path."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[bytes, Any]] = []
        self.clients: set[Any] = set()
        self.hanging: list[Request] = []
        self.payload = b""

    def render_GET(self, request: Any) -> Any:
        self.requests.append((request.uri, request.requestHeaders.copy()))
        self.clients.add((request.getClientAddress().host, request.getClientAddress().port))
        answer = getattr(self, f"answer_{request.path[1:].decode()}")
        return answer(request)

    def answer_price(self, request: Any) -> bytes:
        request.setHeader(b"X-RateLimit", b"9")
        request.responseHeaders.addRawHeader(b"Set-Cookie", b"who=me")
        request.responseHeaders.addRawHeader(b"X-Two", b"a")
        request.responseHeaders.addRawHeader(b"X-Two", b"b")
        return b'{"price":"1.5"}'

    def answer_bad(self, request: Any) -> bytes:
        request.setResponseCode(429)
        request.setHeader(b"Retry-After", b"7")
        return b"slow down"

    def answer_moved(self, request: Any) -> bytes:
        request.setResponseCode(302)
        request.setHeader(b"Location", b"/price")
        return b""

    def answer_never(self, request: Any) -> int:
        self.hanging.append(request)
        return NOT_DONE_YET

    def answer_half(self, request: Any) -> int:
        request.setHeader(b"Content-Length", b"100")
        request.write(b"half")
        self.hanging.append(request)
        return NOT_DONE_YET

    def answer_cut(self, request: Any) -> int:
        request.setHeader(b"Content-Length", b"100")
        request.write(b"half")
        reactor.callLater(0, request.loseConnection)
        return NOT_DONE_YET

    def answer_payload(self, request: Any) -> bytes:
        return self.payload

    def answer_stream(self, request: Any) -> int:
        for _ in range(100):
            request.write(b"x" * 1000)
        request.finish()
        return NOT_DONE_YET

    def answer_zipped(self, request: Any) -> bytes:
        request.setHeader(b"Content-Encoding", b"gzip")
        return self.payload


class FetchCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.exchange = Exchange()
        self.site: Any = Site(self.exchange)
        self.site.noisy = False
        self.fetcher = self.make()

    def make(self, **options: Any) -> HttpFetcher:
        fetcher = HttpFetcher(reactor, "tbeast/test", **options)
        self.addCleanup(lambda: self.closed(fetcher))
        return fetcher

    def closed(self, fetcher: HttpFetcher) -> Deferred[None]:
        async def close() -> None:
            await fetcher.close()
            for _ in range(5):
                await deferLater(reactor, 0, lambda: None)

        return ensureDeferred(close())

    def listen(self, context: Any = None) -> int:
        port = (
            reactor.listenTCP(0, self.site, interface="127.0.0.1")
            if context is None
            else reactor.listenSSL(0, self.site, context, interface="127.0.0.1")
        )
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
        if not hasattr(self, "port_number"):
            self.port_number = self.listen()
        return await self.fetcher.fetch(f"http://127.0.0.1:{self.port_number}{path}", headers or {})

    async def fault(self, waited: Any) -> str:
        try:
            answer = await waited
        except FetchError as fault:
            return fault.reason
        raise AssertionError(f"got {answer!r}")


class FetchTests(FetchCase):
    async def test_status_headers_and_body(self) -> None:
        status, headers, body = await self.get("/price?a=1%2C2&b=x")
        self.assertEqual((status, body), (200, b'{"price":"1.5"}'))
        self.assertEqual((headers["x-ratelimit"], headers["x-two"]), ("9", "a, b"))
        self.assertEqual(self.exchange.requests[0][0], b"/price?a=1%2C2&b=x")

    async def test_what_it_says_of_itself(self) -> None:
        await self.get("/price", {"X-Extra": "yes"})
        headers = self.exchange.requests[0][1]
        self.assertEqual(headers.getRawHeaders("user-agent"), ["tbeast/test"])
        self.assertEqual(headers.getRawHeaders("x-extra"), ["yes"])
        self.assertEqual(headers.getRawHeaders("accept-encoding"), ["gzip"])

    async def test_a_bad_status_is_an_answer(self) -> None:
        status, headers, body = await self.get("/bad")
        self.assertEqual((status, headers["retry-after"], body), (429, "7", b"slow down"))

    async def test_redirects_are_not_followed(self) -> None:
        status, headers, _ = await self.get("/moved")
        self.assertEqual((status, headers["location"]), (302, "/price"))
        self.assertEqual(len(self.exchange.requests), 1)

    async def test_one_connection_serves_many_questions(self) -> None:
        for _ in range(4):
            await self.get("/price")
        self.assertEqual(len(self.exchange.clients), 1)

    async def test_cookies_are_not_kept(self) -> None:
        await self.get("/price")
        await self.get("/price")
        self.assertIsNone(self.exchange.requests[1][1].getRawHeaders("cookie"))

    async def test_gzip_is_unpacked(self) -> None:
        self.exchange.payload = gzip.compress(b"price " * 1000)
        status, headers, body = await self.get("/zipped")
        self.assertEqual((status, body), (200, b"price " * 1000))
        self.assertNotIn("content-encoding", headers)

    async def test_an_empty_body(self) -> None:
        self.assertEqual((await self.get("/payload"))[2], b"")


class BoundTests(FetchCase):
    def setUp(self) -> None:
        super().setUp()
        self.fetcher = self.make(most_body_bytes=50_000)

    async def test_as_large_as_it_may_be(self) -> None:
        self.exchange.payload = b"x" * 50_000
        self.assertEqual(len((await self.get("/payload"))[2]), 50_000)

    async def test_one_byte_more(self) -> None:
        self.exchange.payload = b"x" * 50_001
        self.assertEqual(await self.fault(self.get("/payload")), TOO_LARGE)

    async def test_without_an_announcement(self) -> None:
        self.assertEqual(await self.fault(self.get("/stream")), TOO_LARGE)

    async def test_unpacked_as_large_as_it_may_be(self) -> None:
        self.exchange.payload = gzip.compress(b"x" * 50_000)
        self.assertEqual(len((await self.get("/zipped"))[2]), 50_000)

    async def test_a_bomb(self) -> None:
        self.exchange.payload = gzip.compress(b"\0" * 40_000_000)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.assertEqual(await self.fault(self.get("/zipped")), TOO_LARGE)
        self.assertLess(tracemalloc.get_traced_memory()[1], 5_000_000)

    async def test_what_is_no_gzip(self) -> None:
        self.exchange.payload = b"plain text"
        self.assertEqual(await self.fault(self.get("/zipped")), BROKEN)

    async def test_half_a_gzip(self) -> None:
        self.exchange.payload = gzip.compress(bytes(range(256)) * 50)[:100]
        self.assertEqual(await self.fault(self.get("/zipped")), BROKEN)

    async def test_afterwards_it_goes_on(self) -> None:
        self.assertEqual(await self.fault(self.get("/stream")), TOO_LARGE)
        self.assertEqual((await self.get("/price"))[0], 200)


class FaultTests(FetchCase):
    async def test_no_answer(self) -> None:
        self.fetcher = self.make(timeout_seconds=0.05)
        self.assertEqual(await self.fault(self.get("/never")), TIMEOUT)

    async def test_half_an_answer(self) -> None:
        self.fetcher = self.make(timeout_seconds=0.1)
        self.assertEqual(await self.fault(self.get("/half")), TIMEOUT)
        gone = self.exchange.hanging[0].notifyFinish()
        try:
            await gone.addTimeout(10, reactor)
        except Exception:
            return  # the connection was dropped, and not left to hang
        self.fail("the request went on")

    async def test_an_answer_that_is_cut_short(self) -> None:
        self.assertEqual(await self.fault(self.get("/cut")), BROKEN)

    async def test_refused(self) -> None:
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        self.assertEqual(await self.fault(self.fetcher.fetch(url, {})), REFUSED)

    async def test_what_is_no_url(self) -> None:
        for url in ("", "nonsense", "ftp://127.0.0.1/", "http://", "http://127.0.0.1:x/"):
            self.assertEqual(await self.fault(self.fetcher.fetch(url, {})), BROKEN, url)

    async def test_what_is_no_http(self) -> None:
        class Rubbish(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(b"\x00\x01 rubbish\r\n\r\n")
                self.transport.loseConnection()

        self.site = Factory.forProtocol(Rubbish)
        self.site.noisy = False
        self.assertEqual(await self.fault(self.get("/price")), BROKEN)

    def serve_bytes(self, *pieces: bytes) -> None:
        """Answer every question with these bytes."""

        class Played(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.writeSequence(list(pieces))

        self.site = Factory.forProtocol(Played)
        self.site.noisy = False
        self.port_number = self.listen()

    async def test_a_head_without_end(self) -> None:
        lines = b"X-More: and more\r\n" * (MOST_HEAD_BYTES // 16)
        self.serve_bytes(b"HTTP/1.1 200 OK\r\n", lines)
        self.assertEqual(await self.fault(self.get("/price")), TOO_LARGE)

    async def test_interim_answers(self) -> None:
        """A few are passed over, without end they are not, and neither writes a line each."""
        told: list[Any] = []
        observer: Any = told.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
        self.serve_bytes(interim * 10, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        self.assertEqual((await self.get("/price"))[2], b"ok")
        self.serve_bytes(interim * (MOST_HEAD_BYTES // 16))
        self.assertEqual(await self.fault(self.get("/price")), TOO_LARGE)
        self.assertEqual([event for event in told if event.get("code") == 103], [])

    async def test_closing_gives_up_what_is_under_way(self) -> None:
        asked = self.get("/never")
        waiting = ensureDeferred(self.fault(asked))
        while not self.exchange.hanging:
            await deferLater(reactor, 0, lambda: None)
        await self.fetcher.close()
        self.assertEqual(await waiting, BROKEN)
        self.assertEqual(await self.fault(self.get("/price")), BROKEN)
        self.assertEqual(len(self.exchange.requests), 1)


class TlsTests(FetchCase):
    authority = Authority()

    async def ask(self, host: str, certified: str, trust_root: Any) -> Any:
        port = self.listen(self.authority.server(certified).options())
        return await self.make(trust_root=trust_root).fetch(f"https://{host}:{port}/price", {})

    async def test_a_host_that_is_vouched_for(self) -> None:
        status, _, _ = await self.ask("localhost", "localhost", self.authority.trust_root)
        self.assertEqual(status, 200)

    async def test_another_host_s_certificate(self) -> None:
        self.assertEqual(await self.fault(self.ask("localhost", "elsewhere.example", self.authority.trust_root)), TLS)

    async def test_an_authority_that_nobody_knows(self) -> None:
        self.assertEqual(await self.fault(self.ask("localhost", "localhost", Authority().trust_root)), TLS)
        self.assertEqual(self.exchange.requests, [])


class NamingTests(SynchronousTestCase):
    def test_reasons_are_found_inside_what_twisted_packs(self) -> None:
        packed = ResponseNeverReceived([Failure(ResponseFailed([Failure(DNSLookupError())]))])
        self.assertEqual(_fetch_error(Failure(packed)).reason, DNS)
        self.assertEqual(_fetch_error(Failure(Refused())).reason, REFUSED)

    def test_what_has_no_name_is_broken(self) -> None:
        self.assertEqual(_fetch_error(Failure(ZeroDivisionError("odd"))).reason, BROKEN)

    def test_no_such_host(self) -> None:
        fetcher = HttpFetcher(reactor, "tbeast/test")
        fetcher._client.get = lambda *_, **__: fail(DNSLookupError("no"))
        fault = self.failureResultOf(fetcher.fetch("http://no-such-host.invalid/", {}), FetchError)
        self.assertEqual(fault.value.reason, DNS)
