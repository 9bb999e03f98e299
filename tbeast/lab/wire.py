"""The sockets of one emulated exchange: WebSocket and REST on one port, and the faults that act on bytes.

The rule: what a conversation says goes out in the order in which it was said, in as few writes as possible. A client
that does not read is dropped when too much waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import pack
from typing import Any, Final

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.types import ConnectionDeny
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tbeast.lab.conversation import Close, Conversation, Ping, Sent
from tbeast.lab.venue import Answer, Ask, Venue

LONGEST_BACKLOG: Final = 16 * 1024 * 1024
"""How many bytes may wait for a client that does not read."""

LONGEST_REASON: Final = 123
"""How many bytes of a reason fit a close frame (RFC 6455, section 5.5)."""

_DRIP_SECONDS: Final = 0.1
_TEXT: Final = 1
_BINARY: Final = 2


def frame(payload: bytes, opcode: int = _TEXT) -> bytes:
    """One whole unmasked WebSocket frame (RFC 6455, section 5.2)."""
    length = len(payload)
    if length < 126:
        return bytes((0x80 | opcode, length)) + payload
    if length < 65536:
        return pack(">BBH", 0x80 | opcode, 126, length) + payload
    return pack(">BBQ", 0x80 | opcode, 127, length) + payload


class VenueSocket(WebSocketServerProtocol):  # type: ignore[misc]
    """One client's WebSocket."""

    conversation: Conversation | None = None

    def __init__(self) -> None:
        super().__init__()
        self._dripping = bytearray()
        self._drop_call: IDelayedCall | None = None
        self._full = False
        self._backlog = 0

    @property
    def _venue(self) -> Venue:
        venue: Venue = self.factory.venue
        return venue

    def onConnect(self, request: Any) -> None:
        """The client asks to be let in.

        @raise ConnectionDeny: when it is not.
        """
        venue, now = self._venue, self.factory.now()
        denied: tuple[int, str] | None = None
        if request.path.rstrip("/") != venue.ws_path.rstrip("/"):
            denied = 404, "Not Found"
        else:
            denied = venue.refuses_dial(request.headers.get("host", ""), now)
        if denied is not None:
            venue.counts["refused_connects"] += 1
            raise ConnectionDeny(*denied)

    def onOpen(self) -> None:
        """The handshake is done."""
        # the HTTP channel that the connection began as still listens for a full buffer
        self.transport.unregisterProducer()
        self.transport.registerProducer(self, True)
        now = self.factory.now()
        self.conversation = self._venue.open(now)
        self.factory.sockets.add(self)
        self.deliver(self.conversation.opened(now))

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A whole message came in."""
        if self.conversation is not None:
            text = payload.decode("utf-8", "replace")
            self.deliver(self.conversation.received(text, self.factory.now()))

    def onPing(self, payload: bytes) -> None:
        """A protocol ping came in: Autobahn answers it."""
        if self.conversation is not None:
            self.conversation.pinged(self.factory.now())
        super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        """A protocol pong came in."""
        if self.conversation is not None:
            self.conversation.pinged(self.factory.now())

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection is gone."""
        self.factory.sockets.discard(self)
        if self._drop_call is not None:
            self._drop_call.cancel()
            self._drop_call = None
        if self.conversation is not None:
            self.conversation.ended()
            self.conversation = None

    # Writing

    def deliver(self, sent: Sequence[Sent]) -> None:
        """Send what the conversation said."""
        if not sent or self.state != self.STATE_OPEN:
            return
        compressed = bool(self.websocket_extensions_in_use)
        waiting: list[bytes] = []
        for item in sent:
            if isinstance(item, str) and not compressed:
                waiting.append(frame(item.encode("utf-8")))
            elif isinstance(item, bytes) and not compressed:
                waiting.append(frame(item, _BINARY))
            elif isinstance(item, str | bytes):
                self.sendMessage(item if isinstance(item, bytes) else item.encode("utf-8"), isinstance(item, bytes))
            else:
                self._flush(waiting)
                if isinstance(item, Ping):
                    self.sendPing()
                else:
                    self.end(item)
                    return
        self._flush(waiting)

    def _flush(self, waiting: list[bytes]) -> None:
        if waiting:
            self.sendData(b"".join(waiting))
            waiting.clear()

    def end(self, close: Close) -> None:
        """End the connection with a close frame, or by dropping it."""
        if close.code:
            # sendClose knows the codes that an application may use; a server's own (1001, 1013) are not among them
            reason = close.reason.encode("utf-8")[:LONGEST_REASON].decode("utf-8", "ignore").encode("utf-8")
            self.sendCloseFrame(close.code, reason)
        else:
            self.dropConnection(abort=True)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """All bytes go through here, Autobahn's own as well; a slow drip holds them back."""
        if self._full:
            self._backlog += len(data)
            if self._backlog > LONGEST_BACKLOG:
                self.dropConnection(abort=True)
                return
        if self.conversation is not None and (self._dripping or self._drip_rate()):
            self._dripping += data
            if self._drop_call is None:
                self._drip()
        else:
            super().sendData(data, sync, chopsize)

    def _drip_rate(self) -> float:
        fault = self._venue.faults.find("slow_drip", self._venue.name)
        return 0.0 if fault is None else max(1.0, fault.params["bytes_per_second"])

    def _drip(self) -> None:
        self._drop_call = None
        rate = self._drip_rate()
        many = max(1, int(rate * _DRIP_SECONDS)) if rate else len(self._dripping)
        drop, self._dripping = bytes(self._dripping[:many]), self._dripping[many:]
        if drop:
            self.transport.write(drop)
        if self._dripping:
            self._drop_call = self.factory.clock.callLater(_DRIP_SECONDS, self._drip)
            if len(self._dripping) > LONGEST_BACKLOG:
                self.dropConnection(abort=True)

    # The transport's buffer (IPushProducer)

    def pauseProducing(self) -> None:
        """The client reads too slowly; told again with every write until it has caught up."""
        if not self._full:
            self._full = True
            self._backlog = 0

    def resumeProducing(self) -> None:
        """The client has caught up."""
        self._full = False

    def stopProducing(self) -> None:
        """The connection is gone."""


def _accept_deflate(offers: Sequence[Any]) -> Any:
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)
    return None


class _SocketFactory(WebSocketServerFactory):  # type: ignore[misc]
    protocol = VenueSocket

    def __init__(self, venue: Venue, clock: IReactorTime, now: Callable[[], float]) -> None:
        super().__init__(None, server="", reactor=clock)
        self.noisy = False
        self.venue = venue
        self.clock = clock
        self.now = now
        self.sockets: set[VenueSocket] = set()
        self.setProtocolOptions(
            webStatus=False,
            maxMessagePayloadSize=1 << 20,
            openHandshakeTimeout=10,
            closeHandshakeTimeout=2,
            tcpNoDelay=True,
        )
        if venue.compresses:
            self.setProtocolOptions(perMessageCompressionAccept=_accept_deflate)


class _Refusing(Protocol):
    def connectionMade(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]


class _Door(Resource):
    isLeaf = True

    def __init__(self, venue: Venue, sockets: _SocketFactory, now: Callable[[], float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._venue = venue
        self._now = now
        self._sockets = WebSocketResource(sockets)

    def render(self, request: Request) -> int | bytes:
        faults, name = self._venue.faults, self._venue.name
        refused = faults.find("refuse_connect", name)
        if refused is not None and refused.params["how"] == "http503":
            self._venue.counts["refused_connects"] += 1
            return _write(request, Answer(503, '{"message":"Service Unavailable"}'))
        if (request.getHeader("upgrade") or "").lower() == "websocket":
            rendered: int | bytes = self._sockets.render(request)
            return rendered
        if request.method not in (b"GET", b"HEAD"):
            return _write(request, Answer(405, '{"message":"Method Not Allowed"}', {"Allow": "GET, HEAD"}))
        down = faults.find("rest_down", name)
        if down is not None and down.params["how"] != "http503":
            if down.params["how"] == "reset":
                channel: Any = request.channel
                channel.transport.abortConnection()
            return NOT_DONE_YET
        if down is not None:
            return _write(request, Answer(503, '{"message":"Service Unavailable"}'))
        return _write(request, self._venue.answer(_ask(request), self._now()))


def _ask(request: Request) -> Ask:
    query = {key.decode("latin-1"): values[-1].decode("latin-1") for key, values in (request.args or {}).items()}
    headers = {
        key.decode("latin-1").lower(): values[-1].decode("latin-1")
        for key, values in request.requestHeaders.getAllRawHeaders()
    }
    return Ask((request.path or b"").decode("latin-1"), query, headers)


def _write(request: Request, answer: Answer) -> bytes:
    request.setResponseCode(answer.status)
    request.setHeader("Content-Type", "application/json")  # type: ignore[no-untyped-call]
    for name, value in answer.headers.items():
        request.setHeader(name, value)  # type: ignore[no-untyped-call]
    return answer.body.encode("utf-8")


class QuietSite(Site):
    """A site without an access log, and without a word when it starts."""

    noisy = False

    def log(self, request: Any) -> None:
        """Write nothing."""


class VenueSite(QuietSite):
    """A venue's factory: REST and WebSocket on one port."""

    def __init__(self, venue: Venue, clock: Any, now: Callable[[], float]) -> None:
        self._venue = venue
        self._sockets = _SocketFactory(venue, clock, now)
        super().__init__(_Door(venue, self._sockets, now), reactor=clock)  # type: ignore[no-untyped-call]
        self.displayTracebacks = False

    @property
    def sockets(self) -> list[VenueSocket]:
        """The open WebSockets, as they are now."""
        return list(self._sockets.sockets)

    def startFactory(self) -> None:
        """The port listens."""
        super().startFactory()
        self._sockets.startFactory()

    def stopFactory(self) -> None:
        """The port has stopped listening."""
        self._sockets.stopFactory()
        super().stopFactory()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A client came in."""
        refused = self._venue.faults.find("refuse_connect", self._venue.name)
        if refused is not None and refused.params["how"] == "reset":
            self._venue.counts["refused_connects"] += 1
            return _Refusing()
        return super().buildProtocol(addr)  # type: ignore[no-untyped-call]


class VenuePort:
    """Where a venue listens; can stop and come back at the same port."""

    def __init__(self, reactor: Any, site: Site, host: str, port: int) -> None:
        self._reactor = reactor
        self._site = site
        self._host = host
        self._port: IListeningPort | None = reactor.listenTCP(port, site, interface=host)
        self.number: int = self._port.getHost().port

    @property
    def listening(self) -> bool:
        """Whether a client could come in."""
        return self._port is not None

    def listen(self) -> None:
        """Listen again, at the port that it has always had."""
        if self._port is None:
            self._port = self._reactor.listenTCP(self.number, self._site, interface=self._host)

    def stop(self) -> Any:
        """Listen no more; what is open stays open. Gives a Deferred, or C{None} when it did not listen."""
        port, self._port = self._port, None
        return None if port is None else port.stopListening()
