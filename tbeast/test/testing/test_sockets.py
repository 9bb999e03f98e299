"""Tests of L{tbeast.testing.sockets}: the twin keeps the real dialer's promises."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from tbeast.interfaces import Dialing, FrameListener
from tbeast.testing.contracts import SocketDialerContract, Story
from tbeast.testing.sockets import MemoryDialer, MemoryPeer


class MemoryDialerTests(SocketDialerContract, TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.dialer = MemoryDialer(self.clock)

    def dial(self, listener: FrameListener) -> Dialing:
        return self.dialer.dial("ws://kraken.invalid/", listener)

    async def far_end(self) -> MemoryPeer:
        return self.dialer.last

    async def settle(self, true: Callable[[], bool] | None) -> None:
        self.clock.advance(0)
        assert true is None or true()

    def test_what_was_sent_and_pinged_is_remembered(self) -> None:
        story = Story()
        self.dial(story)
        peer = self.dialer.last
        peer.accept()
        assert story.socket is not None
        story.socket.send("subscribe")
        story.socket.ping()
        peer.pong()
        peer.say({"a": 1})
        peer.say("text")
        self.assertEqual((peer.sent, peer.pings), (["subscribe"], 1))
        self.assertEqual(story.told, ["opened", "ponged", b'{"a": 1}', b"text"])
        self.assertEqual(self.dialer.alive(), [peer])

    def test_a_script_plays_the_exchange(self) -> None:
        self.dialer.script = lambda peer: peer.accept()
        story = Story()
        self.dial(story)
        self.assertEqual(story.told, [])
        self.clock.advance(0)
        self.assertEqual(story.told, ["opened"])
