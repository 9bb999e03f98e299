"""What every implementation of a port must do, as tests to be mixed into a test case that makes one.

A port's real adapter and its twin in memory are held to the same tests, so that what is tried with the twin is true.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from tbeast.interfaces import Dialing, FrameListener, FrameSocket, PriceCache


class Story:
    """A L{FrameListener} that writes down what it is told, in order.

    @ivar told: C{"opened"}, each frame's bytes, C{"ponged"}, and each end as C{("closed", reason)}.
    @ivar socket: the socket, once there is one.
    """

    def __init__(self) -> None:
        self.told: list[object] = []
        self.socket: FrameSocket | None = None
        self.at_frame: Callable[[], object] = lambda: None

    def opened(self, socket: FrameSocket) -> None:
        """See L{FrameListener.opened}."""
        self.told.append("opened")
        self.socket = socket

    def frame(self, payload: bytes) -> None:
        """See L{FrameListener.frame}."""
        self.told.append(payload)
        self.at_frame()

    def ponged(self) -> None:
        """See L{FrameListener.ponged}."""
        self.told.append("ponged")

    def closed(self, reason: str) -> None:
        """See L{FrameListener.closed}."""
        self.told.append(("closed", reason))

    def ends(self) -> list[str]:
        """The reasons of every C{closed}."""
        return [told[1] for told in self.told if isinstance(told, tuple)]


class FarEnd(Protocol):
    """The other side of the newest connection, as a dialer's test case plays it."""

    def accept(self) -> None:
        """Answer the handshake."""

    def say(self, message: bytes) -> None:
        """Send one text message."""

    def end(self) -> None:
        """Hang up."""


class SocketDialerContract:
    """Tests of L{tbeast.interfaces.SocketDialer}.

    The test case gives: C{dial(listener)}, which begins a connection; C{far_end()}, which waits until the handshake has
    come in there; C{settle(true)}, which lets time pass until C{true()} (or for a while, with C{None}).
    """

    dial: Callable[[FrameListener], Dialing]
    far_end: Callable[[], Awaitable[FarEnd]]
    settle: Callable[[Callable[[], bool] | None], Awaitable[None]]
    assertEqual: Callable[..., Any]
    assertIn: Callable[..., Any]

    async def test_contract_a_whole_life(self) -> None:
        """Opened, frames in order, closed once and last."""
        story = Story()
        self.dial(story)
        self.assertEqual(story.told, [])
        far = await self.far_end()
        far.accept()
        far.say(b"1")
        far.say(b"2")
        await self.settle(lambda: len(story.told) == 3)
        far.end()
        await self.settle(lambda: bool(story.ends()))
        await self.settle(None)
        self.assertEqual(story.told[:3], ["opened", b"1", b"2"])
        self.assertEqual(len(story.told), 4)

    async def test_contract_a_refusal(self) -> None:
        """One that is hung up on before the handshake is only ever closed."""
        story = Story()
        self.dial(story)
        (await self.far_end()).end()
        await self.settle(lambda: bool(story.ends()))
        await self.settle(None)
        self.assertEqual(len(story.told), 1)

    async def test_contract_abort_before_anything(self) -> None:
        """An abort at once is told later, as the one thing that ever is."""
        story = Story()
        self.dial(story).abort()
        self.assertEqual(story.told, [])
        await self.settle(lambda: bool(story.ends()))
        await self.settle(None)
        self.assertEqual(story.told, [("closed", "aborted")])

    async def test_contract_abort_in_the_middle(self) -> None:
        """After an abort nothing is heard but the end, and a second abort is nothing."""
        story = Story()
        dialing = self.dial(story)

        def stop() -> None:
            dialing.abort()
            dialing.abort()

        story.at_frame = stop
        far = await self.far_end()
        far.accept()
        for message in (b"1", b"2", b"3"):
            far.say(message)
        await self.settle(lambda: bool(story.ends()))
        await self.settle(None)
        self.assertEqual(story.told, ["opened", b"1", ("closed", "aborted")])

    async def test_contract_close(self) -> None:
        """A close has our reason; the socket is deaf and dumb from then on."""
        story = Story()
        self.dial(story)
        far = await self.far_end()
        far.accept()
        await self.settle(lambda: story.socket is not None)
        assert story.socket is not None
        story.socket.close("enough")
        story.socket.close("more than enough")
        story.socket.send("too late")
        story.socket.ping()
        far.say(b"1")
        far.end()
        await self.settle(lambda: bool(story.ends()))
        await self.settle(None)
        self.assertEqual(story.told, ["opened", ("closed", "enough")])


class PriceCacheContract:
    """Tests of L{PriceCache}. The test case gives C{cache} and C{pass_seconds(n)}, which lets so much time go by."""

    cache: PriceCache
    pass_seconds: Callable[[int], Awaitable[None]]
    assertEqual: Callable[..., Any]

    async def test_contract_gives_back_what_was_set(self) -> None:
        """Byte by byte, the newest, and nothing for what was never set."""
        value = '{"asset":"BTC","é":1}\x00'.encode()
        await self.cache.set("ETH", b"old", 60)
        await self.cache.set("BTC", value, 60)
        await self.cache.set("ETH", b"new", 60)
        self.assertEqual(await self.cache.get("BTC"), value)
        self.assertEqual(await self.cache.get("ETH"), b"new")
        self.assertEqual(await self.cache.get("SOL"), None)

    async def test_contract_a_value_has_its_time(self) -> None:
        """It is there before its time is over and gone after it; setting it again begins a new time."""
        await self.cache.set("BTC", b"1", 3)
        await self.cache.set("ETH", b"1", 3)
        await self.pass_seconds(1)
        self.assertEqual(await self.cache.get("BTC"), b"1")
        await self.cache.set("ETH", b"2", 30)
        await self.pass_seconds(3)
        self.assertEqual(await self.cache.get("BTC"), None)
        self.assertEqual(await self.cache.get("ETH"), b"2")
