"""Questions to the exchanges over HTTP, carried by treq.

One deadline holds for the whole answer, body included. Its head is bounded, and its body after decompression as well as
before, so that a small compressed answer cannot become a large one here. Redirects are not followed and cookies not
kept: an exchange's REST address answers itself or not at all. Connections are kept and used again.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

from OpenSSL import SSL
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger, LogPublisher
from twisted.python.components import proxyForInterface
from twisted.python.failure import Failure
from twisted.web._newclient import HEADER, STATUS, HTTP11ClientProtocol
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IResponse
from zope.interface import implementer

from tbeast.errors import FetchError

TIMEOUT_SECONDS: Final = 5.0
MOST_BODY_BYTES: Final = 4 * 1024 * 1024
MOST_HEAD_BYTES: Final = 128 * 1024
MOST_CONNECTIONS_PER_HOST: Final = 4
IDLE_SECONDS: Final = 55  # below the minute after which front ends like to hang up

TIMEOUT: Final = "timeout"
REFUSED: Final = "refused"
TLS: Final = "tls"
DNS: Final = "dns"
TOO_LARGE: Final = "too_large"
BROKEN: Final = "broken"

FETCH_FAULTS: Final = (TIMEOUT, REFUSED, TLS, DNS, TOO_LARGE, BROKEN)
"""Every reason that L{FetchError} has from here."""


_UNHEARD: Final = Logger(namespace=__name__, observer=LogPublisher())
"""For Twisted's parser, which writes a line for every interim answer."""


class _BoundedHead(HTTP11ClientProtocol):
    """Twisted's client, which by itself would take headers, or interim answers, without end."""

    _head_bytes = 0

    def request(self, request: Any) -> Deferred[Any]:
        asking: Deferred[Any] = super().request(request)
        if self._parser is not None:
            self._parser._log = _UNHEARD
        return asking

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)  # type: ignore[no-untyped-call]
        if self._parser is None or self._parser.state not in (STATUS, HEADER):
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MOST_HEAD_BYTES:
            transport: Any = self.transport
            transport.abortConnection()


class _QuietFactory(HTTPConnectionPool._factory):  # type: ignore[misc, valid-type]
    noisy = False

    def buildProtocol(self, addr: object) -> _BoundedHead:
        return _BoundedHead(self._quiescentCallback)  # type: ignore[no-untyped-call]


class _QuietPool(HTTPConnectionPool):
    """Writes no line for every connection."""

    _factory = _QuietFactory


class HttpFetcher:
    """L{tbeast.interfaces.RestFetcher} over a pool of persistent connections."""

    def __init__(
        self,
        reactor: Any,
        user_agent: str,
        timeout_seconds: float = TIMEOUT_SECONDS,
        most_body_bytes: int = MOST_BODY_BYTES,
        trust_root: Any = None,
    ) -> None:
        """Set it up; nothing is connected before the first question.

        @param reactor: gives connections, name look-ups and time.
        @param user_agent: how we name ourselves (Coinbase answers nobody without a name).
        @param timeout_seconds: for one question and its whole answer.
        @param most_body_bytes: the largest body, as it comes and decompressed.
        @param trust_root: an C{IOpenSSLTrustRoot} to check certificates against instead of the platform's.
        """
        self._reactor = reactor
        self._user_agent = user_agent
        self._timeout_seconds = timeout_seconds
        self._most_body_bytes = most_body_bytes
        self._pool = _QuietPool(reactor, persistent=True)  # type: ignore[no-untyped-call]
        self._pool.maxPersistentPerHost = MOST_CONNECTIONS_PER_HOST
        self._pool.cachedConnectionTimeout = IDLE_SECONDS
        policy = BrowserLikePolicyForHTTPS(trustRoot=trust_root)  # type: ignore[no-untyped-call]
        agent = Agent(reactor, policy, connectTimeout=timeout_seconds, pool=self._pool)  # type: ignore[no-untyped-call]
        self._client = HTTPClient(
            _BoundedGzipAgent(agent, most_body_bytes),
            cookiejar=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        )
        self._asking: set[Deferred[Any]] = set()
        self._closed = False

    def fetch(self, url: str, headers: Mapping[str, str]) -> Deferred[tuple[int, Mapping[str, str], bytes]]:
        """See L{tbeast.interfaces.RestFetcher.fetch}.

        @raise FetchError: (through the Deferred) with one of L{FETCH_FAULTS}.
        """
        asking = ensureDeferred(self._fetch(url, headers))
        self._asking.add(asking)
        late = self._reactor.callLater(self._timeout_seconds, asking.cancel)

        def done(result: Any) -> Any:
            self._asking.discard(asking)
            in_time = late.active()
            if in_time:
                late.cancel()
            if not isinstance(result, Failure):
                return result
            if self._closed:
                raise FetchError(BROKEN, "closed")
            if not in_time:  # whatever the cancelling has made of it
                raise FetchError(TIMEOUT, f"no whole answer in {self._timeout_seconds:g} s")
            raise _fetch_error(result)

        return asking.addBoth(done)

    async def close(self) -> None:
        """Give up every question under way and close every connection."""
        self._closed = True
        for asking in list(self._asking):
            asking.cancel()
        await self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]

    async def _fetch(self, url: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        if self._closed:
            raise FetchError(BROKEN, "closed")
        response = await self._client.get(
            url,
            headers={"User-Agent": self._user_agent, **headers},
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )
        body = await _body_of(response.original, self._most_body_bytes)
        told = {
            name.decode("latin-1").lower(): ", ".join(value.decode("latin-1") for value in values)
            for name, values in response.headers.getAllRawHeaders()
            if any(values)  # treq's decoder leaves an empty Content-Encoding behind
        }
        return response.code, told, body


def _body_of(response: Any, most_bytes: int) -> Deferred[bytes]:
    """Read a body to its end.

    @raise FetchError: (through the Deferred) when it is larger than C{most_bytes}.
    """
    collector = _Collector(most_bytes)
    if response.length is not UNKNOWN_LENGTH and response.length > most_bytes:
        collector.refuse(f"{response.length} bytes announced")
    response.deliverBody(collector)
    return collector.done


class _Collector(Protocol):
    """Gathers a body within its bound. Ending the wait ends the connection that brings it."""

    def __init__(self, most_bytes: int) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._hang_up())
        self._most_bytes = most_bytes
        self._pieces: list[bytes] = []
        self._length = 0
        self._fault: FetchError | None = None

    def refuse(self, detail: str) -> None:
        """Take no more of it."""
        self._give_up(FetchError(TOO_LARGE, detail))

    def corrupt(self, detail: str) -> None:
        """It cannot be decompressed."""
        self._give_up(FetchError(BROKEN, detail))

    def _give_up(self, fault: FetchError) -> None:
        if self._fault is None:
            self._fault = fault
            self._pieces.clear()
            self._hang_up()

    def connectionMade(self) -> None:
        if self._fault is not None:
            self._hang_up()

    def dataReceived(self, data: bytes) -> None:
        self._length += len(data)
        if self._length > self._most_bytes:
            self.refuse(f"more than {self._most_bytes} bytes")
        elif self._fault is None:
            self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if self._fault is not None:
            self.done.errback(self._fault)
        elif reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            self.done.callback(b"".join(self._pieces))
        else:
            self.done.errback(reason)

    def _hang_up(self) -> None:
        transport = self.transport
        if transport is not None:
            # The proxy that Twisted hands out only closes in good order, which a stuck TLS peer can hold up.
            beneath = getattr(transport, "_producer", None)
            getattr(beneath, "abortConnection", transport.loseConnection)()


class _Gunzip(proxyForInterface(IProtocol)):  # type: ignore[misc]
    """Decompresses what comes, and stops at the bound instead of making all of it."""

    def __init__(self, collector: Any, most_bytes: int) -> None:
        super().__init__(collector)
        self._left = most_bytes
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def dataReceived(self, data: bytes) -> None:
        # One byte beyond the bound is let through: the collector then knows that there is too much.
        if self._left < 0:
            return
        try:
            plain = self._zlib.decompress(data, self._left + 1)
        except zlib.error as fault:
            self._left = -1
            self.original.corrupt(str(fault))
            return
        self._left -= len(plain)
        self.original.dataReceived(plain)

    def connectionLost(self, reason: Failure) -> None:
        if self._left >= 0 and not self._zlib.eof:
            self.original.corrupt("compressed body cut short")
        self.original.connectionLost(reason)


class _Gunzipped(proxyForInterface(IResponse)):  # type: ignore[misc]
    """A response whose body comes decompressed."""

    def __init__(self, response: Any, most_bytes: int) -> None:
        super().__init__(response)
        self._most_bytes = most_bytes

    def deliverBody(self, protocol: Any) -> None:
        self.original.deliverBody(_Gunzip(protocol, self._most_bytes))


@implementer(IAgent)
class _BoundedGzipAgent:
    """Takes the decompressing from treq's own decoder, which makes whatever size comes out of it.

    treq asks for gzip; what comes is unpacked here, and the header that says so is taken off.
    """

    def __init__(self, agent: Agent, most_bytes: int) -> None:
        self._agent = agent
        self._most_bytes = most_bytes

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: Any = None
    ) -> Deferred[Any]:
        """See L{IAgent.request}."""
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(self._unpacked)

    def _unpacked(self, response: Any) -> Any:
        encodings = b",".join(response.headers.getRawHeaders(b"content-encoding", []))
        response.headers.removeHeader(b"content-encoding")
        encodings = encodings.strip().lower()
        if encodings in (b"", b"identity"):
            return response
        return _Gunzipped(response, self._most_bytes)


def _fetch_error(failure: Failure) -> FetchError:
    """Name what went wrong, in a word for the counters."""
    for fault in _faults(failure):
        if isinstance(fault, FetchError):
            return fault
        for kinds, reason in _REASONS:
            if isinstance(fault, kinds):
                return FetchError(reason, str(fault)[:200])
    return FetchError(BROKEN, f"{type(failure.value).__name__} {failure.value}"[:200])


_REASONS: Final = (
    ((error.TimeoutError, CancelledError), TIMEOUT),
    ((error.DNSLookupError,), DNS),
    ((error.ConnectionAborted,), TOO_LARGE),  # by us, for a head without end
    ((error.ConnectionRefusedError,), REFUSED),
    ((SSL.Error, VerificationError), TLS),
)


def _faults(failure: Failure) -> list[BaseException]:
    """What failed, and the reasons that Twisted has packed into it, the innermost first."""
    found: list[BaseException] = []
    for reason in getattr(failure.value, "reasons", ()):
        found.extend(_faults(reason))
    if failure.value is not None:
        found.append(failure.value)
    return found
