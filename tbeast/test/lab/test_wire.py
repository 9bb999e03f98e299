from __future__ import annotations

from random import Random
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tbeast.lab.wire import frame


class FrameTests(SynchronousTestCase):
    """A frame of ours is read by a WebSocket implementation that is not ours."""

    def read(self, data: bytes) -> list[tuple[bytes, bool]]:
        heard: list[tuple[bytes, bool]] = []

        class Reading(WebSocketClientProtocol):  # type: ignore[misc]
            def onMessage(self, payload: bytes, isBinary: bool) -> None:
                heard.append((payload, isBinary))

        factory = WebSocketClientFactory("ws://127.0.0.1:1", reactor=Clock())
        factory.protocol = Reading
        # Autobahn's timers run on the global reactor whatever it is handed, and would be left behind there
        factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0, serverConnectionDropTimeout=0)
        protocol: Any = factory.buildProtocol(None)
        protocol.makeConnection(StringTransport())
        # past the handshake, which is not what is looked at here
        protocol.state = protocol.STATE_OPEN
        protocol.websocket_version = 13
        protocol.inside_message = False
        protocol.current_frame = None
        protocol.dataReceived(data)
        return heard

    def test_every_form_of_length(self) -> None:
        for length in (0, 1, 125, 126, 127, 65535, 65536, 200_000):
            payload = Random(length).randbytes(length).hex()[:length].encode()
            self.assertEqual(self.read(frame(payload)), [(payload, False)], length)

    def test_frames_one_after_the_other(self) -> None:
        data = frame(b"one") + frame(b"\x00\xff", 2) + frame(b"x" * 300)
        self.assertEqual(self.read(data), [(b"one", False), (b"\x00\xff", True), (b"x" * 300, False)])
