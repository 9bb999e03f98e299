"""WebSockets to the exchanges, carried by Autobahn.

What is promised to whoever dials: C{closed} comes exactly once and last, in every case, with a reason in few words;
nothing is heard after an C{abort} or a C{close}; no message is larger, decompressed, than the limit; and neither a
silent peer nor one that does not read keeps a connection for ever. There is no queue: a frame is passed on as it is
parsed, and after so many of them nothing is read before the next turn of the reactor, so that TCP itself slows down who
sends too fast, and nobody else has to wait for it.

Every wait runs on the reactor that was handed in. Autobahn's own timers take the global one, and leave a close that the
peer began but did not finish open for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import txaio
from attrs import frozen
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error, ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tbeast.interfaces import FrameListener

MOST_HANDSHAKE_BYTES: Final = 128 * 1024
DEFAULT_PORTS: Final = {False: 80, True: 443}
MOST_REASON_CHARACTERS: Final = 120
FRAMES_A_TURN: Final = 64
"""How many frames of one connection are taken in a turn of the reactor."""


@frozen
class SocketLimits:
    """How long and how much a connection may take.

    @ivar connect_seconds: for the name and the TCP connection.
    @ivar handshake_seconds: for TLS and the upgrade, after that.
    @ivar close_seconds: for the other end to answer a close.
    @ivar ping_seconds: from one protocol-level ping of ours to the next.
    @ivar silent_seconds: a connection on which nothing at all, not even a pong, came in for so long is dropped.
    @ivar most_message_bytes: the largest message, after decompression.
    @ivar most_unsent_bytes: how much may wait for a peer that does not read.
    @ivar most_fragments: in how many pieces one message may come; empty ones cost time too.
    @ivar most_pings: how many pings and pongs may come in from one ping of ours to the next.
    """

    connect_seconds: float = 10.0
    handshake_seconds: float = 10.0
    close_seconds: float = 3.0
    ping_seconds: float = 10.0
    silent_seconds: float = 30.0
    most_message_bytes: int = 1024 * 1024
    most_unsent_bytes: int = 1024 * 1024
    most_fragments: int = 4096
    most_pings: int = 1000


class WebSocketDialer:
    """L{tbeast.interfaces.SocketDialer} over TCP and TLS.

    @ivar interlude: called after each message, of which many may come together, so that others have a turn; raises
        nothing.
    """

    def __init__(
        self, reactor: Any, user_agent: str, limits: SocketLimits | None = None, trust_root: Any = None
    ) -> None:
        """Set it up.

        @param reactor: gives connections, name look-ups and time.
        @param user_agent: how we name ourselves in the handshake.
        @param trust_root: an C{IOpenSSLTrustRoot} to check certificates against instead of the platform's.
        """
        self.reactor = reactor
        self.limits = limits or SocketLimits()
        self._user_agent = user_agent
        self._trust_root = trust_root
        self._tls: dict[str, Any] = {}
        self.interlude: Callable[[], object] = lambda: None

    def dial(self, url: str, listener: FrameListener) -> DialedSocket:
        """See L{tbeast.interfaces.SocketDialer.dial}. A URL that is none is told through C{closed} as well."""
        return DialedSocket(self, url, listener)

    def factory(self, url: str) -> Any:
        """Make Autobahn's factory for one connection.

        @raise ValueError: when C{url} is no C{ws://} or C{wss://} address.
        """
        factory = WebSocketClientFactory(url, useragent=self._user_agent, reactor=self.reactor)
        factory.noisy = False
        most = self.limits.most_message_bytes

        def accept(response: object) -> object:
            if isinstance(response, PerMessageDeflateResponse):
                return PerMessageDeflateResponseAccept(response, max_message_size=most)
            return None

        factory.setProtocolOptions(
            utf8validateIncoming=False,  # the codec's JSON reader finds it, and then it costs a message only
            maxFramePayloadSize=most,
            maxMessagePayloadSize=most,
            failByDrop=True,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            serverConnectionDropTimeout=0,
            autoPingInterval=0,
            perMessageCompressionOffers=[PerMessageDeflateOffer()],
            perMessageCompressionAccept=accept,
        )
        return factory

    def endpoint(self, host: str, port: int, secure: bool) -> IStreamClientEndpoint:
        """Where to connect: every address of the host, IPv6 and IPv4; with TLS the certificate must be the host's."""
        endpoint = HostnameEndpoint(self.reactor, host, port, timeout=self.limits.connect_seconds)
        if not secure:
            return endpoint
        if host not in self._tls:
            self._tls[host] = ssl.optionsForClientTLS(host, trustRoot=self._trust_root)
        wrapped: IStreamClientEndpoint = wrapClientTLS(self._tls[host], endpoint)
        return wrapped


class DialedSocket:
    """One connection from the first attempt to its end: L{tbeast.interfaces.Dialing} and C{FrameSocket} in one.

    @ivar over: nothing but C{closed} is told any more.
    @ivar heard: something came in since the last look.
    """

    log = Logger()

    def __init__(self, dialer: WebSocketDialer, url: str, listener: FrameListener) -> None:
        self.over = False
        self.heard = False
        self.listener = listener
        self._dialer = dialer
        self._limits = dialer.limits
        self._url = url
        self._why: str | None = None
        self._ended = False
        self._protocol: Any = None
        self._connecting: Deferred[Any] | None = None
        self._silent_seconds = 0.0
        self._pings = 0
        self._pinging: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = dialer.reactor.callLater(0, self._begin)

    # What the owner may do.

    def send(self, text: str) -> None:
        """See L{tbeast.interfaces.FrameSocket.send}."""
        if not self.over and self._protocol is not None:
            self._protocol.sendMessage(text.encode())

    def ping(self) -> None:
        """See L{tbeast.interfaces.FrameSocket.ping}."""
        if not self.over and self._protocol is not None:
            self._protocol.sendPing()

    def close(self, reason: str) -> None:
        """See L{tbeast.interfaces.FrameSocket.close}."""
        if self.over:
            return
        if self._protocol is None or not self._protocol.is_open_now:
            self.drop(reason)
            return
        self._over_because(reason)
        self._protocol.sendClose(1000)
        self._wait(self._limits.close_seconds, self._protocol.cut)

    def abort(self) -> None:
        """See L{tbeast.interfaces.Dialing.abort}."""
        self.drop("aborted")

    # What the protocol tells.

    def made(self, protocol: Any) -> None:
        """TCP is connected; the handshake begins."""
        self._protocol = protocol
        if self.over:
            protocol.cut()
            return
        seconds = self._limits.handshake_seconds
        self._wait(seconds, lambda: self.drop(f"timeout: no handshake after {seconds:g} s"))

    def opened(self) -> None:
        """The handshake is done."""
        if self.over:
            return
        self._wait(None)
        self._pinging = self._dialer.reactor.callLater(self._limits.ping_seconds, self._beat)
        self.guarded(self.listener.opened, self)

    def ponged(self) -> None:
        """A ping or pong came in."""
        if self.over:
            return
        self._pings += 1
        if self._pings > self._limits.most_pings:
            self.drop(f"flood: {self._pings} pings within {self._limits.ping_seconds:g} s")
            return
        self.guarded(self.listener.ponged)

    def closing(self, code: int | None, text: str) -> None:
        """The other end has sent a close frame; it should now drop the connection."""
        said = " ".join(part for part in (str(code or ""), _plain(text)) if part)
        self._over_because(f"closed by the exchange: {said or 'no code'}")
        self._wait(self._limits.close_seconds, self._protocol.cut)

    def lost(self, reason: Failure, was_open: bool) -> None:
        """The connection is gone."""
        if self._why is None:
            self._why = _why_lost(reason.value, was_open)
        self._end()

    def drop(self, why: str) -> None:
        """End it at once; C{closed} follows on a later turn of the reactor."""
        if self._ended:
            return
        self._over_because(why)
        if self._protocol is not None:
            self._protocol.cut()
            return
        connecting, self._connecting = self._connecting, None
        self._wait(0, self._end)
        if connecting is not None:
            connecting.cancel()

    def guarded(self, call: Callable[..., object], *arguments: object) -> None:
        """Call the listener; what it raises ends this connection and nothing else."""
        try:
            call(*arguments)
        except Exception:
            self.log.failure("whoever listens to {url} failed; dropping the connection", url=self._url)
            self.drop("listener failed")

    # Within.

    def _begin(self) -> None:
        self._deadline = None
        try:
            factory = self._dialer.factory(self._url)
            endpoint = self._dialer.endpoint(factory.host, factory.port, factory.isSecure)
        except Exception as fault:
            self.drop(f"bad address: {_plain(str(fault))}")
            return
        factory.protocol = lambda: _FrameProtocol(self)
        seconds = self._limits.connect_seconds
        self._wait(seconds, lambda: self.drop(f"timeout: not connected after {seconds:g} s"))
        connecting = self._connecting = endpoint.connect(factory)
        connecting.addCallbacks(self._connected, self._not_connected)
        connecting.addErrback(lambda failure: self.log.failure("connecting to {url}", failure, url=self._url))

    def _connected(self, _protocol: object) -> None:
        self._connecting = None

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        if self._protocol is None and not self.over:
            self.drop(_why_not_connected(failure.value))

    def _beat(self) -> None:
        limits = self._limits
        self._pinging = self._dialer.reactor.callLater(limits.ping_seconds, self._beat)
        self._silent_seconds = 0.0 if self.heard else self._silent_seconds + limits.ping_seconds
        self.heard = False
        self._pings = 0
        if self._silent_seconds >= limits.silent_seconds:
            self.drop(f"silent: not even a pong for {self._silent_seconds:g} s")
        else:
            self._protocol.sendPing()

    def _over_because(self, why: str) -> None:
        self.over = True
        if self._why is None:
            self._why = why
        if self._pinging is not None:
            self._pinging.cancel()
            self._pinging = None

    def _wait(self, seconds: float | None, then: Callable[[], object] | None = None) -> None:
        """Set the one deadline that is running, or none."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None if seconds is None else self._dialer.reactor.callLater(seconds, then)

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._over_because("closed")
        self._wait(None)
        try:
            self.listener.closed(self._why or "closed")
        except Exception:
            self.log.failure("whoever listened to {url} failed at its end", url=self._url)


@implementer(IPushProducer)
class _Unsent:
    """Counts what is written while the transport says that it has enough."""

    def __init__(self) -> None:
        self.waiting = False
        self.unsent_bytes = 0

    def pauseProducing(self) -> None:
        self.waiting = True

    def resumeProducing(self) -> None:
        self.waiting = False
        self.unsent_bytes = 0

    def stopProducing(self) -> None:
        self.waiting = False


class _FrameProtocol(WebSocketClientProtocol):  # type: ignore[misc]
    """Autobahn's client, with its callbacks led to a L{DialedSocket} and its gaps closed."""

    message_data: Any
    wasNotCleanReason: Any
    log = txaio.make_logger(level="critical")  # what it would say is said by the feed, once a transition

    def __init__(self, dialed: DialedSocket) -> None:
        super().__init__()
        self._dialed = dialed
        self._unsent = _Unsent()
        self._lost = False
        self._fragments = 0
        self._resting: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self.transport.registerProducer(self._unsent, True)
        self.transport.setTcpNoDelay(True)  # Autobahn's own option is read before it is there, and passed over
        self._dialed.made(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = error.ConnectionDone) -> None:  # type: ignore[assignment]
        self._lost = True
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        was_open = self.state not in (self.STATE_CONNECTING, self.STATE_PROXY_CONNECTING)
        self.wasNotCleanReason = self.wasNotCleanReason or "lost"
        try:
            self._connectionLost(reason)
        finally:
            self._dialed.lost(reason, was_open)

    @property
    def is_open_now(self) -> bool:
        return bool(self.state == self.STATE_OPEN)

    def cut(self) -> None:
        """Drop the connection at once, whatever state it is in."""
        if self._lost:
            return
        self.state = self.STATE_CLOSED  # so that no byte that is already here is parsed any more
        self.transport.unregisterProducer()
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        dialed = self._dialed
        dialed.heard = True
        connecting = self.state == self.STATE_CONNECTING
        if connecting and len(self.data) + len(data) > MOST_HANDSHAKE_BYTES:
            dialed.drop("handshake: an answer without end")
            return
        if self._resting is not None:
            self.data += data  # TLS hands over all that had been read, paused or not
            return
        self._guarded(self._dataReceived, data)

    def _guarded(self, read: Callable[..., object], *data: bytes) -> None:
        dialed = self._dialed
        connecting = self.state == self.STATE_CONNECTING
        try:
            read(*data)
        except Exception:
            if not connecting:
                dialed.log.failure("reading a frame failed; dropping the connection")
            dialed.drop("handshake: an answer that cannot be read" if connecting else "unreadable frame")

    def consumeData(self) -> None:
        if self.state not in (self.STATE_OPEN, self.STATE_CLOSING):
            super().consumeData()
            return
        for _ in range(2 * FRAMES_A_TURN):  # a frame is its head and its payload
            if not self.processData() or self.state == self.STATE_CLOSED:
                return
        self.transport.pauseProducing()
        self._resting = self._dialed._dialer.reactor.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._resting = None
        self._guarded(self.consumeData)
        if self._resting is None and self.state != self.STATE_CLOSED:
            self.transport.resumeProducing()

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        if self.state == self.STATE_CONNECTING:
            data = self._with_plain_host(data)
        super().sendData(data, sync, chopsize)
        unsent = self._unsent
        if unsent.waiting:
            unsent.unsent_bytes += len(data)
            if unsent.unsent_bytes > self._dialed._limits.most_unsent_bytes:
                self._dialed.drop("slow: the exchange does not read")

    def failHandshake(self, reason: str) -> None:
        words = str(getattr(self, "http_status_line", "")).split()
        if len(words) > 1 and words[1].isdigit() and words[1] != "101":
            wait = str(self.http_headers.get("retry-after", "")).strip()
            why = f"HTTP {words[1][:3]}" + (f", retry after {wait[:6]} s" if wait.isdecimal() else "")
        else:
            why = _plain(reason)
        self._dialed.drop(f"handshake: {why}")

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        self.failedByMe = True
        self._dialed.drop(f"broken rules: {code} {_plain(reason)}")

    def _onOpen(self) -> None:
        self._dialed.opened()

    def onMessageFrame(self, payload: list[bytes]) -> None:
        # Empty fragments count nothing towards the size limit, and must not pile up either.
        self.message_data.extend(piece for piece in payload if piece)
        self._fragments += 1
        if self._fragments > self._dialed._limits.most_fragments:
            self._dialed.drop(f"broken rules: a message in more than {self._fragments - 1} pieces")

    def onMessageEnd(self) -> None:
        pieces, self.message_data = self.message_data, None
        self._fragments = 0
        dialed = self._dialed
        if dialed.over:
            return
        try:
            dialed.listener.frame(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        except Exception:
            dialed.log.failure("whoever listens failed at a frame; dropping the connection")
            dialed.drop("listener failed")
        dialed._dialer.interlude()

    def onPing(self, payload: bytes) -> None:
        super().onPing(payload)
        self._dialed.ponged()

    def onPong(self, payload: bytes) -> None:
        self._dialed.ponged()

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        failed: bool | None = super().onCloseFrame(code, reasonRaw)
        if not self._dialed.over:
            self._dialed.closing(code, (reasonRaw or b"").decode("utf-8", "replace"))
        return failed

    def _with_plain_host(self, request: bytes) -> bytes:
        """Autobahn always names the port in the Host header; Crypto.com refuses it where it is the scheme's own."""
        factory = self.factory
        host = f"[{factory.host}]" if ":" in factory.host else factory.host
        if factory.port != DEFAULT_PORTS[factory.isSecure]:
            host = f"{host}:{factory.port}"
        before = f"\r\nHost: {factory.host}:{factory.port}\r\n".encode()
        return request.replace(before, f"\r\nHost: {host}\r\n".encode(), 1)


def _plain(text: str) -> str:
    """Words from elsewhere, fit for one log line."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:MOST_REASON_CHARACTERS])


def _why_not_connected(fault: BaseException | None) -> str:
    if isinstance(fault, error.DNSLookupError):
        return "dns: no such host"
    if isinstance(fault, error.ConnectionRefusedError):
        return "refused"
    if isinstance(fault, error.TimeoutError):
        return "timeout: not connected"
    return f"not connected: {_plain(str(fault) or type(fault).__name__)}"


def _why_lost(fault: BaseException | None, was_open: bool) -> str:
    if isinstance(fault, SSL.Error | VerificationError):
        return f"tls: {_tls_fault(fault)}"
    if isinstance(fault, error.ConnectionDone):
        return "lost: ended without a close frame" if was_open else "handshake: hung up on"
    words = _plain(str(fault) or type(fault).__name__)
    return f"lost: {words}" if was_open else f"handshake: {words}"


def _tls_fault(fault: BaseException) -> str:
    if isinstance(fault, VerificationError):
        return "the certificate is another host's"
    details = fault.args[0] if fault.args else None
    if isinstance(details, list) and details:
        return _plain(str(details[-1][-1]))  # the last one names what failed, those before it how
    return _plain(str(fault) or type(fault).__name__)
