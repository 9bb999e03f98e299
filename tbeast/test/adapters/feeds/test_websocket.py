"""Tests of L{tbeast.adapters.feeds.websocket}, over real sockets on the loopback interface."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.types import ConnectionDeny
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tbeast.adapters.feeds.websocket import (
    FRAMES_A_TURN,
    MOST_HANDSHAKE_BYTES,
    DialedSocket,
    SocketLimits,
    WebSocketDialer,
)
from tbeast.interfaces import FrameSocket
from tbeast.test.adapters.feeds.certificates import Authority
from tbeast.testing.contracts import SocketDialerContract

reactor: Any = the_reactor

ACCEPT_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Listener:
    """Remembers what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.pongs = 0
        self.ends: list[str] = []
        self.socket: FrameSocket | None = None
        self.after_end = 0
        self.on_opened: Callable[[FrameSocket], object] = lambda socket: None
        self.on_frame: Callable[[bytes], object] = lambda payload: None
        self.on_closed: Callable[[str], object] = lambda reason: None
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def opened(self, socket: FrameSocket) -> None:
        self.after_end += bool(self.ends)
        self.socket = socket
        self._look()
        self.on_opened(socket)

    def frame(self, payload: bytes) -> None:
        self.after_end += bool(self.ends)
        self.frames.append(payload)
        self._look()
        self.on_frame(payload)

    def ponged(self) -> None:
        self.after_end += bool(self.ends)
        self.pongs += 1
        self._look()

    def closed(self, reason: str) -> None:
        self.ends.append(reason)
        self._look()
        self.on_closed(reason)

    def until(self, true: Callable[[], bool]) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self._waiting.append((true, waiting))
        waiting.addTimeout(20, reactor)
        self._look()
        return waiting

    def opening(self) -> Deferred[None]:
        return self.until(lambda: self.socket is not None)

    async def ending(self) -> str:
        await self.until(lambda: bool(self.ends))
        await turns()  # whatever might still come after the end
        assert len(self.ends) == 1, self.ends
        assert self.after_end == 0
        return self.ends[0]

    def _look(self) -> None:
        for true, waiting in list(self._waiting):
            if true():
                self._waiting.remove((true, waiting))
                waiting.callback(None)


async def turns(count: int = 5) -> None:
    """Let the reactor turn a few times."""
    for _ in range(count):
        await deferLater(reactor, 0, lambda: None)


class ExchangeProtocol(WebSocketServerProtocol):  # type: ignore[misc]
    """An exchange made of Autobahn's server; its factory says what it does."""

    def onConnect(self, request: Any) -> None:
        self.factory.requests.append(request)
        if self.factory.deny is not None:
            raise ConnectionDeny(self.factory.deny, "no")

    def onOpen(self) -> None:
        self.factory.open.append(self)
        self.factory.on_open(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.messages.append(payload)
        self.factory.on_message(self, payload)

    def onPing(self, payload: bytes) -> None:
        self.factory.pings += 1
        super().onPing(payload)


class RawProtocol(Protocol):
    """An exchange that a test plays byte by byte: its factory's C{answer} is called when the request is whole."""

    def connectionMade(self) -> None:
        self.heard = b""
        self.answered = False
        self.factory.connections.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if not self.answered and b"\r\n\r\n" in self.heard:
            self.answered = True
            self.factory.answer(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections.remove(self)

    def shake_hands(self, extension: bytes = b"") -> None:
        key = self.heard.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + ACCEPT_SALT).digest())
        self.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n" + extension + b"\r\n"
        )

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


def frame(payload: bytes, opcode: int = 1, fin: bool = True, compressed: bool = False) -> bytes:
    """One frame as a server sends it."""
    first = (0x80 if fin else 0) | (0x40 if compressed else 0) | opcode
    if len(payload) < 126:
        return struct.pack("!BB", first, len(payload)) + payload
    if len(payload) < 65536:
        return struct.pack("!BBH", first, 126, len(payload)) + payload
    return struct.pack("!BBQ", first, 127, len(payload)) + payload


class SocketCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.listener = Listener()
        self.trust_root: Any = None
        self.interlude: Callable[[], object] = lambda: None
        self.limits = SocketLimits(connect_seconds=10, handshake_seconds=10, close_seconds=10)
        self.dialed: DialedSocket | None = None

    def serve(self, context: Any = None, **options: Any) -> Any:
        """Start an exchange of Autobahn's."""
        factory: Any = WebSocketServerFactory(reactor=reactor)
        factory.noisy = False
        factory.protocol = ExchangeProtocol
        factory.requests, factory.open, factory.messages, factory.pings = [], [], [], 0
        factory.deny = None
        factory.on_open = lambda protocol: None
        factory.on_message = lambda protocol, payload: None
        factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0, autoFragmentSize=0, **options)
        return self.listen(factory, context)

    def serve_raw(self, answer: Callable[[RawProtocol], object]) -> Any:
        """Start an exchange that is played byte by byte."""
        factory: Any = Factory.forProtocol(RawProtocol)
        factory.noisy = False
        factory.connections = []
        factory.answer = answer
        return self.listen(factory)

    def listen(self, factory: Any, context: Any = None) -> Any:
        if context is None:
            port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        else:
            port = reactor.listenSSL(0, factory, context, interface="127.0.0.1")
        factory.port_number = port.getHost().port
        self.addCleanup(port.stopListening)
        return factory

    def dial(self, factory: Any = None, url: str = "") -> DialedSocket:
        """Dial, and see to it that nothing is left of it at the end."""
        dialer = WebSocketDialer(reactor, "tbeast/test", self.limits, self.trust_root)
        dialer.interlude = self.interlude
        dialed = dialer.dial(url or f"ws://127.0.0.1:{factory.port_number}/feed?x=1", self.listener)

        async def end() -> None:
            dialed.abort()
            await self.listener.until(lambda: bool(self.listener.ends))
            await turns()

        self.addCleanup(lambda: Deferred.fromCoroutine(end()))
        return dialed


class FarEnd:
    """The other side of one connection, for the contract to play."""

    def __init__(self, raw: RawProtocol) -> None:
        self.raw = raw

    def accept(self) -> None:
        self.raw.shake_hands()

    def say(self, message: bytes) -> None:
        self.raw.write(frame(message))

    def end(self) -> None:
        self.raw.transport.loseConnection()  # type: ignore[union-attr]


class WebSocketDialerContractTests(SocketDialerContract, SocketCase):
    def setUp(self) -> None:
        super().setUp()
        self.asked: Deferred[RawProtocol] = Deferred()
        self.raw = self.serve_raw(self.asked.callback)

    def dial(self, listener: Any) -> DialedSocket:  # type: ignore[override]
        dialed = WebSocketDialer(reactor, "tbeast/test", self.limits).dial(
            f"ws://127.0.0.1:{self.raw.port_number}/", listener
        )
        self.addCleanup(dialed.abort)
        return dialed

    async def far_end(self) -> FarEnd:
        return FarEnd(await self.asked)

    async def settle(self, true: Callable[[], bool] | None) -> None:
        await turns()
        while true is not None and not true():
            await turns(1)


class TalkingTests(SocketCase):
    async def test_text_and_binary_come_as_bytes(self) -> None:
        exchange = self.serve()
        exchange.on_open = lambda protocol: (
            protocol.sendMessage('{"a":"é"}'.encode()),
            protocol.sendMessage(b"\x00\xff", isBinary=True),
        )
        self.dial(exchange)
        await self.listener.until(lambda: len(self.listener.frames) == 2)
        self.assertEqual(self.listener.frames, ['{"a":"é"}'.encode(), b"\x00\xff"])

    async def test_what_is_sent_arrives_as_text(self) -> None:
        exchange = self.serve()
        exchange.on_message = lambda protocol, payload: protocol.sendMessage(payload)
        self.dial(exchange)
        await self.listener.opening()
        assert self.listener.socket is not None
        self.listener.socket.send('{"method":"subscribe"}')
        await self.listener.until(lambda: bool(self.listener.frames))
        self.assertEqual(exchange.messages, [b'{"method":"subscribe"}'])

    async def test_the_request_names_us_and_the_path(self) -> None:
        exchange = self.serve()
        self.dial(exchange)
        await self.listener.opening()
        request = exchange.requests[0]
        self.assertEqual((request.path, request.params), ("/feed", {"x": ["1"]}))
        self.assertEqual(request.headers["user-agent"], "tbeast/test")

    async def test_compression_is_offered_and_used(self) -> None:
        def accept(offers: list[Any]) -> Any:
            for offer in offers:
                if isinstance(offer, PerMessageDeflateOffer):
                    return PerMessageDeflateOfferAccept(offer)
            return None

        exchange = self.serve(perMessageCompressionAccept=accept)
        message = b'{"bid":1,"ask":2}' * 1000
        exchange.on_open = lambda protocol: [protocol.sendMessage(message) for _ in range(3)]
        exchange.on_message = lambda protocol, payload: protocol.sendMessage(payload)
        self.dial(exchange)
        await self.listener.opening()
        assert self.listener.socket is not None
        self.listener.socket.send("x" * 5000)
        await self.listener.until(lambda: len(self.listener.frames) == 4)
        self.assertEqual(self.listener.frames, [message] * 3 + [b"x" * 5000])
        self.assertIn("permessage-deflate", exchange.requests[0].headers["sec-websocket-extensions"])
        self.assertLess(exchange.open[0].trafficStats.outgoingOctetsWireLevel, len(message))

    async def test_pings_are_answered_and_told(self) -> None:
        exchange = self.serve()
        ponged: list[bytes] = []

        def ping(protocol: Any) -> None:
            protocol.onPong = ponged.append
            protocol.sendPing(b"are you there")

        exchange.on_open = ping
        self.dial(exchange)
        await self.listener.until(lambda: self.listener.pongs == 1)
        assert self.listener.socket is not None
        self.listener.socket.ping()
        await self.listener.until(lambda: self.listener.pongs == 2)
        self.assertEqual(ponged, [b"are you there"])

    async def test_a_message_in_pieces_is_one_message(self) -> None:
        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write(frame(b"one ", fin=False) + frame(b"", 0, fin=False) * 4000 + frame(b"message", 0))

        self.dial(self.serve_raw(answer))
        await self.listener.until(lambda: bool(self.listener.frames))
        self.assertEqual(self.listener.frames, [b"one message"])

    async def test_frames_that_come_with_the_handshake_are_not_lost(self) -> None:
        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write(frame(b"1") + frame(b"2"))

        self.dial(self.serve_raw(answer))
        await self.listener.until(lambda: len(self.listener.frames) == 2)
        self.assertEqual(self.listener.frames, [b"1", b"2"])

    async def test_bad_utf8_costs_a_message_and_not_the_connection(self) -> None:
        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write(frame(b"\xff\xfe") + frame(b"well"))

        self.dial(self.serve_raw(answer))
        await self.listener.until(lambda: len(self.listener.frames) == 2)
        self.assertEqual(self.listener.frames, [b"\xff\xfe", b"well"])

    async def test_nagle_is_off(self) -> None:
        exchange = self.serve()
        dialed = self.dial(exchange)
        await self.listener.opening()
        self.assertTrue(dialed._protocol.transport.getTcpNoDelay())


class HostHeaderTests(SocketCase):
    async def host_line(self, url: str, raw: Any) -> bytes:
        self.dial(raw, url)
        await self.listener.ending()
        lines = [line for line in raw.requests[0].split(b"\r\n") if line.lower().startswith(b"host:")]
        self.assertEqual(len(lines), 1)
        line: bytes = lines[0]
        return line

    def serve_closing(self) -> Any:
        def answer(raw: RawProtocol) -> None:
            factory.requests.append(raw.heard)
            raw.transport.loseConnection()  # type: ignore[union-attr]

        factory = self.serve_raw(answer)
        factory.requests = []
        return factory

    async def test_a_port_of_its_own_is_named(self) -> None:
        raw = self.serve_closing()
        line = await self.host_line(f"ws://127.0.0.1:{raw.port_number}/", raw)
        self.assertEqual(line, f"Host: 127.0.0.1:{raw.port_number}".encode())

    async def check_default_port(self, url: str, expected: bytes, port: int) -> None:
        # The endpoint is led to our own port; the URL, and with it the request, keep the scheme's.
        raw = self.serve_closing()
        asked: list[tuple[str, int, bool]] = []
        endpoint = WebSocketDialer.endpoint

        def led_here(dialer: WebSocketDialer, host: str, port: int, secure: bool) -> Any:
            asked.append((host, port, secure))
            return endpoint(dialer, "127.0.0.1", raw.port_number, False)

        self.patch(WebSocketDialer, "endpoint", led_here)
        self.assertEqual(await self.host_line(url, raw), expected)
        self.assertEqual([each[1] for each in asked], [port])

    async def test_the_default_port_of_wss_is_not(self) -> None:
        await self.check_default_port("wss://stream.crypto.com/exchange/v1/market", b"Host: stream.crypto.com", 443)

    async def test_nor_when_it_is_written_out(self) -> None:
        await self.check_default_port("wss://stream.crypto.com:443/", b"Host: stream.crypto.com", 443)

    async def test_nor_that_of_ws(self) -> None:
        await self.check_default_port("ws://relay.example/", b"Host: relay.example", 80)

    async def test_an_ipv6_address_keeps_its_brackets(self) -> None:
        await self.check_default_port("ws://[::1]:8080/", b"Host: [::1]:8080", 8080)

    async def test_a_port_other_than_the_scheme_s_stays(self) -> None:
        await self.check_default_port("wss://ws.okx.com:8443/ws", b"Host: ws.okx.com:8443", 8443)


class RefusalTests(SocketCase):
    async def test_nothing_is_told_before_dial_returns(self) -> None:
        self.dial(url="no url at all")
        self.assertEqual(self.listener.ends, [])
        self.assertIn("bad address", await self.listener.ending())

    async def test_refused(self) -> None:
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        self.addCleanup(taken.close)
        self.dial(url=f"ws://127.0.0.1:{taken.getsockname()[1]}/")
        self.assertEqual(await self.listener.ending(), "refused")

    async def test_no_such_host(self) -> None:
        class Nowhere:
            def connect(self, factory: object) -> Deferred[None]:
                return fail(DNSLookupError())

        self.patch(WebSocketDialer, "endpoint", lambda *_: Nowhere())
        self.dial(url="ws://no-such-host.invalid/")
        self.assertEqual(await self.listener.ending(), "dns: no such host")

    async def test_no_answer_to_the_connection(self) -> None:
        cancelled: list[object] = []

        class Blackhole:
            def connect(self, factory: object) -> Deferred[None]:
                return Deferred(cancelled.append)

        self.patch(WebSocketDialer, "endpoint", lambda *_: Blackhole())
        self.limits = SocketLimits(connect_seconds=0.05)
        self.dial(url="ws://192.0.2.1/")
        self.assertEqual(await self.listener.ending(), "timeout: not connected after 0.05 s")
        self.assertEqual(len(cancelled), 1)

    async def test_http_status_instead_of_an_upgrade(self) -> None:
        exchange = self.serve()
        exchange.deny = 503
        self.dial(exchange)
        self.assertEqual(await self.listener.ending(), "handshake: HTTP 503")
        self.assertIsNone(self.listener.socket)

    async def test_how_long_to_wait_is_passed_on(self) -> None:
        self.dial(
            self.serve_raw(
                lambda raw: raw.write(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n")
            )
        )
        self.assertEqual(await self.listener.ending(), "handshake: HTTP 429, retry after 30 s")

    async def test_no_answer_to_the_handshake(self) -> None:
        self.limits = SocketLimits(handshake_seconds=0.05)
        self.dial(self.serve_raw(lambda raw: None))
        self.assertEqual(await self.listener.ending(), "timeout: no handshake after 0.05 s")

    async def test_an_answer_that_never_ends(self) -> None:
        self.dial(self.serve_raw(lambda raw: raw.write(b"HTTP/1.1 101 x\r\nA: " + b"x" * 2 * MOST_HANDSHAKE_BYTES)))
        self.assertEqual(await self.listener.ending(), "handshake: an answer without end")

    async def test_an_answer_that_is_no_http(self) -> None:
        for rubbish in (b"\xff\xfe\r\n\r\n", b"\r\n\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 101 x\r\nno colon\r\n\r\n"):
            self.listener = Listener()
            self.dial(self.serve_raw(lambda raw, rubbish=rubbish: raw.write(rubbish)))  # type: ignore[misc]
            self.assertIn("handshake: ", await self.listener.ending())

    async def test_the_wrong_key(self) -> None:
        self.dial(
            self.serve_raw(
                lambda raw: raw.write(
                    b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n"
                )
            )
        )
        self.assertIn("Sec-WebSocket-Accept", await self.listener.ending())

    async def test_hung_up_on(self) -> None:
        self.dial(self.serve_raw(lambda raw: raw.transport.loseConnection()))  # type: ignore[union-attr]
        self.assertEqual(await self.listener.ending(), "handshake: hung up on")


class EndingTests(SocketCase):
    async def test_a_clean_close_gives_code_and_words(self) -> None:
        exchange = self.serve()
        exchange.on_open = lambda protocol: protocol.sendClose(3013, "restarting\nnow")
        self.dial(exchange)
        self.assertEqual(await self.listener.ending(), "closed by the exchange: 3013 restarting?now")

    async def test_a_connection_that_is_cut(self) -> None:
        exchange = self.serve()
        exchange.on_message = lambda protocol, payload: protocol.transport.abortConnection()
        self.listener.on_opened = lambda socket: socket.send("hello")
        self.dial(exchange)
        self.assertIn("lost: ", await self.listener.ending())

    async def test_one_that_ends_without_a_close_frame(self) -> None:
        exchange = self.serve()
        exchange.on_open = lambda protocol: protocol.transport.loseConnection()
        self.dial(exchange)
        self.assertEqual(await self.listener.ending(), "lost: ended without a close frame")

    async def test_a_close_of_ours(self) -> None:
        exchange = self.serve()
        self.listener.on_opened = lambda socket: socket.close("replaced")
        exchange.on_open = lambda protocol: protocol.sendMessage(b"too late")
        self.dial(exchange)
        self.assertEqual(await self.listener.ending(), "replaced")
        self.assertEqual(self.listener.frames, [])
        self.assertEqual(exchange.open[0].remoteCloseCode, 1000)

    async def test_a_close_that_is_not_answered_ends_by_force(self) -> None:
        self.limits = SocketLimits(close_seconds=0.05)
        self.listener.on_opened = lambda socket: socket.close("replaced")
        raw = self.serve_raw(lambda raw: raw.shake_hands())
        self.dial(raw)
        self.assertEqual(await self.listener.ending(), "replaced")

    async def test_a_close_of_theirs_that_is_not_finished_ends_by_force(self) -> None:
        self.limits = SocketLimits(close_seconds=0.05)

        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write(frame(struct.pack("!H", 1001) + b"going", 8))

        self.dial(self.serve_raw(answer))
        self.assertEqual(await self.listener.ending(), "closed by the exchange: 1001 going")

    async def test_abort_before_the_first_turn(self) -> None:
        exchange = self.serve()
        self.dial(exchange).abort()
        self.assertEqual(self.listener.ends, [])
        self.assertEqual(await self.listener.ending(), "aborted")
        self.assertEqual(exchange.requests, [])

    async def test_abort_while_connecting(self) -> None:
        exchange = self.serve()
        dialed = self.dial(exchange)
        await deferLater(reactor, 0, lambda: None)
        dialed.abort()
        self.assertEqual(await self.listener.ending(), "aborted")

    async def test_abort_in_the_handshake(self) -> None:
        shaking: Deferred[None] = Deferred()
        dialed = self.dial(self.serve_raw(lambda raw: shaking.callback(None)))
        await shaking
        dialed.abort()
        dialed.abort()
        self.assertEqual(await self.listener.ending(), "aborted")

    async def test_close_in_the_handshake(self) -> None:
        shaking: Deferred[None] = Deferred()
        dialed = self.dial(self.serve_raw(lambda raw: shaking.callback(None)))
        await shaking
        dialed.close("not wanted")
        self.assertEqual(await self.listener.ending(), "not wanted")

    async def test_nothing_comes_after_an_abort_in_the_middle_of_a_burst(self) -> None:
        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write(b"".join(frame(str(number).encode()) for number in range(100)))

        def stop(payload: bytes) -> None:
            if payload == b"2":
                dialed.abort()

        self.listener.on_frame = stop
        dialed = self.dial(self.serve_raw(answer))
        self.assertEqual(await self.listener.ending(), "aborted")
        self.assertEqual(self.listener.frames, [b"0", b"1", b"2"])

    async def test_afterwards_the_socket_is_deaf_and_dumb(self) -> None:
        exchange = self.serve()
        dialed = self.dial(exchange)
        await self.listener.opening()
        dialed.abort()
        await self.listener.ending()
        dialed.send("hello")
        dialed.ping()
        dialed.close("again")
        dialed.abort()
        await turns()
        self.assertEqual(self.listener.ends, ["aborted"])
        self.assertEqual(exchange.messages, [])


class GuardTests(SocketCase):
    def fail(self, *_: object) -> None:  # type: ignore[override]
        raise ZeroDivisionError

    async def check(self, exchange: Any) -> None:
        self.dial(exchange)
        reason = await self.listener.ending()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(reason, "listener failed")

    async def test_a_listener_that_fails_at_a_frame_loses_that_connection_only(self) -> None:
        exchange = self.serve()
        exchange.on_open = lambda protocol: protocol.sendMessage(b"x")
        well = Listener()
        other = WebSocketDialer(reactor, "x").dial(f"ws://127.0.0.1:{exchange.port_number}/", well)
        await well.opening()
        self.listener.on_frame = self.fail
        await self.check(exchange)
        self.assertEqual(well.ends, [])
        other.abort()
        await well.ending()

    async def test_at_the_opening(self) -> None:
        self.listener.on_opened = self.fail
        await self.check(self.serve())

    async def test_at_the_end(self) -> None:
        self.listener.on_closed = self.fail
        exchange = self.serve()
        exchange.on_open = lambda protocol: protocol.sendClose(1000)
        self.dial(exchange)
        self.assertEqual(await self.listener.ending(), "closed by the exchange: 1000")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class BoundTests(SocketCase):
    async def test_the_largest_message_comes_and_a_larger_one_ends_it(self) -> None:
        self.limits = SocketLimits(most_message_bytes=100_000)
        exchange = self.serve()
        exchange.on_open = lambda protocol: (
            protocol.sendMessage(b"x" * 100_000),
            protocol.sendMessage(b"y" * 100_001),
        )
        self.dial(exchange)
        self.assertIn("broken rules: 1009", await self.listener.ending())
        self.assertEqual([len(payload) for payload in self.listener.frames], [100_000])

    async def test_a_length_is_not_waited_for(self) -> None:
        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write(struct.pack("!BBQ", 0x81, 127, 1 << 40))  # a header, and never a byte of it

        self.dial(self.serve_raw(answer))
        self.assertIn("1009", await self.listener.ending())

    async def test_pieces_count_together(self) -> None:
        self.limits = SocketLimits(most_message_bytes=1000)

        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write(frame(b"x" * 600, fin=False) + frame(b"x" * 600, 0))

        self.dial(self.serve_raw(answer))
        self.assertIn("1009", await self.listener.ending())
        self.assertEqual(self.listener.frames, [])

    async def test_empty_pieces_do_not_pile_up(self) -> None:
        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write(frame(b"x", fin=False) + frame(b"", 0, fin=False) * 4000 + frame(b"", 9))

        dialed = self.dial(self.serve_raw(answer))
        await self.listener.until(lambda: self.listener.pongs == 1)
        self.assertEqual(dialed._protocol.message_data, [b"x"])

    async def check_turns(self, context: Any = None) -> None:
        exchange = self.serve(context)
        exchange.on_open = lambda protocol: [protocol.sendMessage(b"%d" % number) for number in range(3000)]
        frames = self.listener.frames
        most = before = 0

        def turn() -> None:
            nonlocal most, before
            most, before = max(most, len(frames) - before), len(frames)
            if len(frames) < 3000 and not self.listener.ends:
                reactor.callLater(0, turn)

        turn()
        self.dial(exchange, f"wss://127.0.0.1:{exchange.port_number}/" if context else "")
        await self.listener.until(lambda: len(frames) == 3000)
        turn()
        self.assertEqual(frames, [b"%d" % number for number in range(3000)])
        self.assertLessEqual(most, FRAMES_A_TURN)
        # and it goes on as if nothing had been
        exchange.open[0].sendMessage(b"more")
        await self.listener.until(lambda: len(frames) == 3001)

    async def test_a_burst_is_taken_in_turns(self) -> None:
        await self.check_turns()

    async def test_others_have_a_turn_after_each_message(self) -> None:
        heard: list[int] = []
        self.interlude = lambda: heard.append(len(self.listener.frames))
        await self.check_turns()
        self.assertEqual(list(range(1, 3001)), heard[:3000])  # we are told of the last one before that is over

    async def test_so_is_one_over_tls(self) -> None:
        authority = Authority()
        self.trust_root = authority.trust_root
        await self.check_turns(authority.server("127.0.0.1").options())

    async def test_an_end_while_frames_still_wait(self) -> None:
        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write(frame(b"x") * 1000 + frame(struct.pack("!H", 1000), 8))

        self.dial(self.serve_raw(answer))
        self.assertEqual(await self.listener.ending(), "closed by the exchange: 1000")
        self.assertEqual(len(self.listener.frames), 1000)

    async def test_an_abort_while_frames_still_wait(self) -> None:
        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write(frame(b"x") * 1000)

        self.listener.on_frame = lambda _: (
            reactor.callLater(0, dialed.abort) if len(self.listener.frames) == 1 else None
        )
        dialed = self.dial(self.serve_raw(answer))
        self.assertEqual(await self.listener.ending(), "aborted")
        self.assertLess(len(self.listener.frames), 1000)

    async def test_pieces_without_end_end_it(self) -> None:
        """Empty ones never make a message too large, but they take the process for themselves."""
        self.limits = SocketLimits(most_fragments=10)
        pieces = frame(b"x", fin=False) + frame(b"", 0, fin=False) * 8

        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write((pieces + frame(b"y", 0)) * 3 + pieces + frame(b"", 0, fin=False) * 2 + frame(b"z", 0))

        self.dial(self.serve_raw(answer))
        self.assertEqual(await self.listener.ending(), "broken rules: a message in more than 10 pieces")
        self.assertEqual(self.listener.frames, [b"xy"] * 3)

    async def test_a_flood_of_pings_ends_it(self) -> None:
        self.limits = SocketLimits(most_pings=10)

        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write(frame(b"", 9) * 5 + frame(b"", 10) * 5 + frame(b"x") + frame(b"", 9) + frame(b"y"))

        self.dial(self.serve_raw(answer))
        self.assertEqual(await self.listener.ending(), "flood: 11 pings within 10 s")
        self.assertEqual((self.listener.frames, self.listener.pongs), ([b"x"], 10))

    async def test_pings_over_a_long_time_are_no_flood(self) -> None:
        self.limits = SocketLimits(most_pings=10, ping_seconds=0.02)
        exchange = self.serve()
        self.dial(exchange)
        # every ping of ours brings a pong
        await self.listener.until(lambda: self.listener.pongs > 15)
        self.assertEqual(self.listener.ends, [])

    async def check_deflated(self, *pieces: bytes) -> str:
        def answer(raw: RawProtocol) -> None:
            raw.shake_hands(b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
            last = len(pieces) - 1
            for number, piece in enumerate(pieces):
                raw.write(frame(piece, 0 if number else 1, number == last, compressed=not number))

        self.dial(self.serve_raw(answer))
        return await self.listener.ending()

    @staticmethod
    def deflated(payload: bytes) -> bytes:
        squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return (squeezer.compress(payload) + squeezer.flush(zlib.Z_SYNC_FLUSH))[:-4]

    async def test_a_deflate_bomb_ends_it_before_it_is_unpacked(self) -> None:
        bomb = self.deflated(b"\0" * 200_000_000)
        self.assertLess(len(bomb), 300_000)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        reason = await self.check_deflated(bomb)
        self.assertIn("1009", reason)
        self.assertEqual(self.listener.frames, [])
        self.assertLess(tracemalloc.get_traced_memory()[1], 20_000_000)

    async def test_so_does_one_in_pieces(self) -> None:
        bomb = self.deflated(b"\0" * 20_000_000)
        half = len(bomb) // 2
        self.assertIn("1009", await self.check_deflated(bomb[:half], bomb[half:]))
        self.assertEqual(self.listener.frames, [])

    async def test_what_is_no_deflate_at_all(self) -> None:
        self.assertIn("1007", await self.check_deflated(b"\xff" * 100))

    async def test_broken_rules(self) -> None:
        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.write(frame(b"", 3))

        self.dial(self.serve_raw(answer))
        self.assertIn("broken rules: 1002", await self.listener.ending())

    async def test_a_peer_that_does_not_read_is_dropped(self) -> None:
        self.limits = SocketLimits(most_unsent_bytes=100_000)

        def answer(raw: RawProtocol) -> None:
            raw.shake_hands()
            raw.transport.pauseProducing()  # type: ignore[union-attr]

        dialed = self.dial(self.serve_raw(answer))
        await self.listener.opening()
        sent = 0
        while not self.listener.ends and sent < 100_000_000:
            dialed.send("x" * 50_000)
            sent += 50_000
            await deferLater(reactor, 0, lambda: None)
        self.assertEqual(await self.listener.ending(), "slow: the exchange does not read")

    async def test_one_that_reads_may_be_sent_any_amount(self) -> None:
        self.limits = SocketLimits(most_unsent_bytes=100_000)
        exchange = self.serve()
        dialed = self.dial(exchange)
        await self.listener.opening()
        for number in range(100):
            dialed.send("x" * 50_000)
            while len(exchange.messages) <= number:
                await deferLater(reactor, 0, lambda: None)
        self.assertEqual(self.listener.ends, [])

    async def test_a_half_open_connection_is_found_out(self) -> None:
        self.limits = SocketLimits(ping_seconds=0.02, silent_seconds=0.06)
        self.dial(self.serve_raw(lambda raw: raw.shake_hands()))
        self.assertIn("silent: ", await self.listener.ending())

    async def test_pongs_alone_keep_it(self) -> None:
        self.limits = SocketLimits(ping_seconds=0.02, silent_seconds=0.5)
        self.dial(self.serve())
        await self.listener.until(lambda: self.listener.pongs >= 6)
        self.assertEqual(self.listener.ends, [])


class TlsTests(SocketCase):
    authority = Authority()

    async def talk(self, host: str, certified: str) -> str | None:
        exchange = self.serve(self.authority.server(certified).options())
        exchange.on_open = lambda protocol: protocol.sendMessage(b"hello")
        self.dial(url=f"wss://{host}:{exchange.port_number}/")
        await self.listener.until(lambda: bool(self.listener.frames or self.listener.ends))
        return self.listener.ends[0] if self.listener.ends else None

    async def test_a_host_that_is_vouched_for(self) -> None:
        self.trust_root = self.authority.trust_root
        self.assertIsNone(await self.talk("localhost", "localhost"))
        self.assertEqual(self.listener.frames, [b"hello"])

    async def test_an_address_that_is_vouched_for(self) -> None:
        self.trust_root = self.authority.trust_root
        self.assertIsNone(await self.talk("127.0.0.1", "127.0.0.1"))

    async def test_another_host_s_certificate(self) -> None:
        self.trust_root = self.authority.trust_root
        self.assertEqual(await self.talk("localhost", "stream.crypto.com"), "tls: the certificate is another host's")
        self.assertEqual(self.listener.frames, [])

    async def test_an_authority_that_nobody_knows(self) -> None:
        self.trust_root = Authority().trust_root
        reason = await self.talk("localhost", "localhost")
        self.assertIn("tls: certificate verify failed", str(reason))

    async def test_the_platform_does_not_know_it_either(self) -> None:
        reason = await self.talk("localhost", "localhost")
        self.assertIn("tls: certificate verify failed", str(reason))

    async def test_no_tls_on_the_other_side(self) -> None:
        raw = self.serve_raw(lambda raw: None)
        raw.protocol = lambda: _Plain()
        self.dial(url=f"wss://127.0.0.1:{raw.port_number}/")
        self.assertIn("tls: ", await self.listener.ending())

    async def test_a_peer_that_does_not_read_is_dropped_over_tls_as_well(self) -> None:
        self.trust_root = self.authority.trust_root
        self.limits = SocketLimits(most_unsent_bytes=100_000)
        exchange = self.serve(self.authority.server("localhost").options())
        exchange.on_open = lambda protocol: protocol.transport.transport.pauseProducing()
        dialed = self.dial(url=f"wss://localhost:{exchange.port_number}/")
        await self.listener.opening()
        sent = 0
        while not self.listener.ends and sent < 100_000_000:
            dialed.send("x" * 50_000)
            sent += 50_000
            await deferLater(reactor, 0, lambda: None)
        self.assertEqual(await self.listener.ending(), "slow: the exchange does not read")


class _Plain(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
