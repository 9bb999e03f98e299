"""The line: questions find their answers in both directions, of any length, and what fails is told."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.hub.link import Link
from tbeast.codecs.hubwords import LinkError
from tbeast.errors import CacheUnavailableError
from tbeast.testing.logs import listen


class Ends:
    """Both ends, and what lies between them.

    @ivar lost: which ends were told that the line has ended.
    """

    def __init__(self, there: dict[bytes, Any], here: dict[bytes, Any] | None = None) -> None:
        self.lost: list[str] = []
        self.here = Link(here or {}, lambda: self.lost.append("here"))
        self.there = Link(there, lambda: self.lost.append("there"))
        self.transports = {end: StringTransport() for end in (self.here, self.there)}
        for end, transport in self.transports.items():
            end.makeConnection(transport)

    def carry(self, piece: int = 1 << 20) -> None:
        """Carry everything over, in pieces of so many bytes, until nothing is left."""
        while any(transport.value() for transport in self.transports.values()):
            for end, other in ((self.here, self.there), (self.there, self.here)):
                data = self.transports[end].value()
                self.transports[end].clear()
                for start in range(0, len(data), piece):
                    other.dataReceived(data[start : start + piece])

    def end(self) -> None:
        for link in (self.here, self.there):
            link.connectionLost(Failure(ConnectionDone()))


class LinkTests(SynchronousTestCase):
    def test_both_ask(self) -> None:
        ends = Ends({b"double": lambda text: text * 2}, {b"half": lambda text: text[: len(text) // 2]})
        doubled, halved = ends.here.ask(b"double", b"ab"), ends.there.ask(b"half", b"abcd")
        ends.carry(1)
        self.assertEqual(b"abab", self.successResultOf(doubled))
        self.assertEqual(b"ab", self.successResultOf(halved))

    def test_without_a_text(self) -> None:
        ends = Ends({b"say": lambda text: text})
        asked = ends.here.ask(b"say")
        ends.carry()
        self.assertEqual(b"", self.successResultOf(asked))

    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 300_000), st.integers(1, 70_000))
    def test_of_any_length(self, length: int, piece: int) -> None:
        text = bytes(range(256)) * (length // 256) + bytes(length % 256)
        ends = Ends({b"say": lambda text: text})
        asked = ends.here.ask(b"say", text)
        ends.carry(piece)
        self.assertEqual(text, self.successResultOf(asked))

    def test_answers_in_any_order(self) -> None:
        waiting: dict[bytes, Deferred[bytes]] = {}

        def later(text: bytes) -> Deferred[bytes]:
            waiting[text] = Deferred()
            return waiting[text]

        ends = Ends({b"later": later})
        first, second = ends.here.ask(b"later", b"1"), ends.here.ask(b"later", b"2")
        ends.carry()
        waiting[b"2"].callback(b"two")
        ends.carry()
        self.assertNoResult(first)
        self.assertEqual(b"two", self.successResultOf(second))
        waiting[b"1"].callback(b"one")
        ends.carry()
        self.assertEqual(b"one", self.successResultOf(first))

    def test_what_is_told_after_an_answer_comes_after_it(self) -> None:
        heard: list[bytes] = []

        def news(text: bytes) -> bytes:
            heard.append(text)
            return b""

        def hello(text: bytes) -> bytes:
            return b"welcome"

        ends = Ends({b"hello": hello}, {b"news": news})
        ends.here.ask(b"hello").addCallback(heard.append)
        ends.there.dataReceived(ends.transports[ends.here].value())
        ends.transports[ends.here].clear()
        ends.there.ask(b"news", b"1")
        ends.carry()
        self.assertEqual([b"welcome", b"1"], heard)

    def test_a_mistake_is_told_and_ends_nothing(self) -> None:
        lines = listen(self)
        ends = Ends({b"bad": lambda text: 1 / 0, b"good": lambda text: b"yes"})
        for word in (b"bad", b"unknown"):
            asked = ends.here.ask(word)
            ends.carry()
            self.failureResultOf(asked, LinkError)
        asked = ends.here.ask(b"good")
        ends.carry()
        self.assertEqual(b"yes", self.successResultOf(asked))
        self.assertEqual(2, len(lines.having("could not be answered")))
        self.assertEqual(2, len(self.flushLoggedErrors(ZeroDivisionError, KeyError)))

    def test_the_cache_is_away(self) -> None:
        """Which is no mistake, and told as what it is."""

        async def away(text: bytes) -> bytes:
            raise CacheUnavailableError("it hangs")

        ends = Ends({b"look": away})
        asked = ends.here.ask(b"look")
        ends.carry()
        self.assertIn("it hangs", str(self.failureResultOf(asked, CacheUnavailableError).value))

    def test_the_end_of_the_line(self) -> None:
        answer: Deferred[bytes] = Deferred()
        ends = Ends({b"later": lambda text: answer})
        asked = ends.here.ask(b"later")
        ends.carry()
        ends.end()
        self.failureResultOf(asked, LinkError)
        self.assertEqual(["here", "there"], ends.lost)
        answer.callback(b"too late")
        self.failureResultOf(ends.here.ask(b"later"), LinkError)
        ends.here.hang_up()

    def test_hanging_up(self) -> None:
        ends = Ends({})
        ends.here.hang_up()
        self.assertTrue(ends.transports[ends.here].disconnecting)
