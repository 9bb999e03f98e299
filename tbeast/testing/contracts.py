"""What every implementation of a port must do, as tests to be mixed into a test case that makes one.

A port's real adapter and its twin in memory are held to the same tests, so that what is tried with the twin is true.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from tbeast.errors import CacheUnavailableError
from tbeast.interfaces import (
    Dialing,
    FrameListener,
    FrameSocket,
    KeyCopies,
    KeyEvents,
    PriceCache,
    UsageCounters,
)


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

    async def test_contract_many_at_once(self) -> None:
        """As if each had been set; none is no question."""
        await self.cache.set("ETH", b"old", 60)
        await self.cache.set_many({"BTC": b"1", "ETH": b"2", "SOL": b"\r\n\x00"}, 3)
        await self.cache.set_many({}, 3)
        found = [await self.cache.get(asset) for asset in ("BTC", "ETH", "SOL")]
        self.assertEqual(found, [b"1", b"2", b"\r\n\x00"])
        await self.pass_seconds(4)
        self.assertEqual([await self.cache.get(asset) for asset in ("BTC", "ETH", "SOL")], [None] * 3)

    async def test_contract_no_time_to_live_leaves_nothing(self) -> None:
        """Not even what was there."""
        await self.cache.set_many({"BTC": b"1", "ETH": b"1", "SOL": b"1"}, 60)
        await self.cache.set("BTC", b"2", 0)
        await self.cache.set_many({"ETH": b"2"}, -1)
        self.assertEqual([await self.cache.get(asset) for asset in ("BTC", "ETH", "SOL")], [None, None, b"1"])


class KeyCopiesContract:
    """Tests of L{KeyCopies}. The test case gives C{copies}, and C{cut()}, after which the cache cannot be asked."""

    copies: KeyCopies
    cut: Callable[[], Awaitable[None]]
    assertEqual: Callable[..., Any]
    assertTrue: Callable[..., Any]

    async def test_contract_gives_back_what_was_put(self) -> None:
        """Byte by byte, the newest of each."""
        one, two, three = ("1" * 64, "2" * 64, "f" * 64)
        self.assertEqual(await self.copies.all(), {})
        await self.copies.put_many({one: b"old", two: b"\x00\r\n"})
        await self.copies.put_many({one: b"new", three: b""})
        self.assertEqual(await self.copies.all(), {one: b"new", two: b"\x00\r\n", three: b""})

    async def test_contract_forgets_what_is_removed(self) -> None:
        """And only that; what is not there may be removed as well."""
        one, two = "1" * 64, "2" * 64
        await self.copies.put_many({one: b"1", two: b"2"})
        await self.copies.remove([one, "3" * 64])
        self.assertEqual(await self.copies.all(), {two: b"2"})

    async def test_contract_nothing_is_no_question(self) -> None:
        """An empty list of either sort changes nothing."""
        await self.copies.put_many({})
        await self.copies.remove([])
        self.assertEqual(await self.copies.all(), {})

    async def test_contract_many(self) -> None:
        """More than fit one write of any implementation."""
        many = {f"{number:064x}": str(number).encode() for number in range(2500)}
        await self.copies.put_many(many)
        self.assertEqual(await self.copies.all(), many)
        await self.copies.remove(list(many)[1:])
        self.assertEqual(await self.copies.all(), {f"{0:064x}": b"0"})

    async def test_contract_away(self) -> None:
        """Who asks is told."""
        await self.cut()
        for asking in (self.copies.put_many({"1" * 64: b""}), self.copies.remove(["1" * 64]), self.copies.all()):
            self.assertTrue(await _fails(asking))


class KeyEventsContract:
    """Tests of L{KeyEvents}.

    The test case gives: C{events}; C{settle(true)}, which lets time pass until C{true()}; C{cut()}, after which the
    line is broken, and C{mend()}, after which it is not; C{failures()}, how many errors have been logged, and forgotten
    with that.
    """

    events: KeyEvents
    settle: Callable[[Callable[[], bool]], Awaitable[None]]
    cut: Callable[[], Awaitable[None]]
    mend: Callable[[], Awaitable[None]]
    failures: Callable[[], int]
    assertEqual: Callable[..., Any]
    assertTrue: Callable[..., Any]

    def listen(self) -> list[object]:
        """Subscribe; the list is what was told."""
        told: list[object] = []
        self.events.subscribe(told.append, lambda: told.append("lost"), lambda: told.append("regained"))
        self.assertEqual(told, [])
        return told

    async def test_contract_every_subscriber_hears_everything_in_order(self) -> None:
        """After it was told that the line is up; byte by byte."""
        one, two = self.listen(), self.listen()
        await self.settle(lambda: bool(one) and bool(two))
        messages = [b"1", b"\x00\r\n", b"", "é".encode(), b"x" * 100_000]
        for message in messages:
            await self.events.publish(message)
        await self.settle(lambda: len(one) == len(two) == 6)
        self.assertEqual(one, ["regained", *messages])
        self.assertEqual(two, ["regained", *messages])

    async def test_contract_nobody_listens(self) -> None:
        """That is no fault; who comes later does not hear of it."""
        await self.events.publish(b"1")
        told = self.listen()
        await self.settle(lambda: bool(told))
        self.assertEqual(told, ["regained"])

    async def test_contract_a_line_that_breaks(self) -> None:
        """Lost and regained are told once each, in order; who publishes meanwhile is told; all goes on by itself."""
        told = self.listen()
        await self.settle(lambda: told == ["regained"])
        for _ in range(2):
            told.clear()
            await self.cut()
            await self.settle(lambda: bool(told))
            self.assertEqual(told, ["lost"])
            self.assertTrue(await _fails(self.events.publish(b"unheard")))
            await self.mend()
            await self.settle(lambda: told == ["lost", "regained"])
            await self.events.publish(b"heard")
            await self.settle(lambda: len(told) == 3)
            self.assertEqual(told, ["lost", "regained", b"heard"])

    async def test_contract_a_listener_that_fails(self) -> None:
        """It costs a line in the log, and nothing else: it and the others hear the next message."""

        def fail(*_: object) -> None:
            tries.append(1)
            raise RuntimeError("of the test")

        tries: list[int] = []
        self.events.subscribe(fail, fail, fail)
        told = self.listen()
        await self.settle(lambda: len(told) == 1 and len(tries) == 1)
        await self.events.publish(b"1")
        await self.events.publish(b"2")
        await self.settle(lambda: len(told) == 3 and len(tries) == 3)
        self.assertEqual(self.failures(), 3)


class UsageCountersContract:
    """Tests of L{UsageCounters}.

    The test case gives C{counters}; C{now()}, in seconds since the epoch; C{pass_seconds(n)}, which lets so much time
    go by; C{cut()}, after which the cache cannot be asked.
    """

    counters: UsageCounters
    now: Callable[[], float]
    pass_seconds: Callable[[int], Awaitable[None]]
    cut: Callable[[], Awaitable[None]]
    assertEqual: Callable[..., Any]
    assertTrue: Callable[..., Any]

    async def test_contract_raised_and_never_lowered(self) -> None:
        """Each by itself; what was never counted is not there."""
        end = self.now() + 3600
        await self.counters.raise_to({"a": 10, "b": 5, "c": 0}, "2026-11", end)
        await self.counters.raise_to({"a": 7, "b": 6}, "2026-11", end)
        await self.counters.raise_to({"a": 10}, "2026-11", end)
        self.assertEqual(await self.counters.read(["a", "b", "c", "d"]), {"a": 10, "b": 6, "c": 0})
        self.assertEqual(await self.counters.read([]), {})

    async def test_contract_large_counts(self) -> None:
        """Exact up to 2**53."""
        await self.counters.raise_to({"a": 2**53 - 1}, "2026-11", self.now() + 3600)
        await self.counters.raise_to({"a": 2**53}, "2026-11", self.now() + 3600)
        await self.counters.raise_to({"a": 999}, "2026-11", self.now() + 3600)
        self.assertEqual(await self.counters.read(["a"]), {"a": 2**53})

    async def test_contract_a_new_month_begins_anew(self) -> None:
        """Also while the last month's counter is still there; a late word of the last month changes nothing."""
        await self.counters.raise_to({"a": 900}, "2026-12", self.now() + 3600)
        await self.counters.raise_to({"a": 3}, "2027-01", self.now() + 7200)
        self.assertEqual(await self.counters.read(["a"]), {"a": 3})
        await self.counters.raise_to({"a": 901, "b": 1}, "2026-12", self.now() + 3600)
        self.assertEqual(await self.counters.read(["a", "b"]), {"a": 3, "b": 1})

    async def test_contract_gone_at_the_end_of_the_month(self) -> None:
        """One whose month is over already is not kept at all."""
        await self.counters.raise_to({"a": 900}, "2026-11", self.now() + 1)
        await self.counters.raise_to({"b": 5}, "2026-12", self.now() + 3600)
        await self.counters.raise_to({"c": 5}, "2026-10", self.now() - 3600)
        await self.pass_seconds(3)
        self.assertEqual(await self.counters.read(["a", "b", "c"]), {"b": 5})

    async def test_contract_many(self) -> None:
        """More than fit one write of any implementation."""
        many = {f"key{number}": number for number in range(1200)}
        await self.counters.raise_to(many, "2026-11", self.now() + 3600)
        self.assertEqual(await self.counters.read(list(many)), many)

    async def test_contract_away(self) -> None:
        """Who asks is told."""
        await self.cut()
        self.assertTrue(await _fails(self.counters.raise_to({"a": 1}, "2026-11", self.now() + 3600)))
        self.assertTrue(await _fails(self.counters.read(["a"])))


async def _fails(asking: Awaitable[object]) -> bool:
    """Whether it fails as a cache does that cannot be asked."""
    try:
        await asking
    except CacheUnavailableError:
        return True
    return False
