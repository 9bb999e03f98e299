"""Many connections behind one descriptor, over real sockets."""

from __future__ import annotations

import select
import socket
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tbeast.servers.nestedpoll import AT_A_TURN, NestedPoll, nested_in


@implementer(IReactorFDSet)
class Descriptors:
    """A reactor that only keeps a list."""

    def __init__(self) -> None:
        self.readers: list[Any] = []
        self.writers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        assert reader not in self.readers
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)

    def addWriter(self, writer: Any) -> None:
        self.writers.append(writer)

    def removeWriter(self, writer: Any) -> None:
        if writer in self.writers:
            self.writers.remove(writer)

    def removeAll(self) -> list[Any]:
        return [*self.readers, *self.writers]

    def getReaders(self) -> list[Any]:
        return self.readers

    def getWriters(self) -> list[Any]:
        return self.writers

    def callLater(self, seconds: float) -> str:
        return f"in {seconds} s"


class Line:
    """A transport that reads a byte at a time, and does with it what the test says."""

    def __init__(self, poll: NestedPoll) -> None:
        self.poll = poll
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.read = b""
        self.does: Any = lambda: None
        self.ends: list[Any] = []

    def fileno(self) -> int:
        return self.near.fileno()

    def doRead(self) -> Any:
        self.read += self.near.recv(1)
        return self.does()

    def readConnectionLost(self, reason: Failure) -> None:
        self.ends.append(reason.type)

    def connectionLost(self, reason: Failure) -> None:
        self.poll.removeReader(self)
        self.ends.append(reason.type)


class NestedPollTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Descriptors()
        self.poll = NestedPoll(self.reactor)

    def line(self, data: bytes = b"") -> Line:
        line = Line(self.poll)
        self.addCleanup(line.near.close)
        self.addCleanup(line.far.close)
        line.far.send(data)
        self.poll.addReader(line)
        return line

    def drop(self, line: Line) -> None:
        if line.fileno() in self.poll._reading:
            self.poll.removeReader(line)

    def is_ready(self) -> bool:
        """Whether the reactor would find it readable."""
        return bool(select.select([self.poll], [], [], 0)[0])

    def test_no_descriptor_is_left(self) -> None:
        """Then the reactor itself watches, and lets go when it is told."""

        def none_left() -> None:
            raise OSError(24, "too many open files")

        self.patch(select, "epoll", none_left)
        line = self.line()
        self.poll.addReader(line)
        self.assertEqual([line], self.reactor.readers)
        self.poll.removeReader(line)
        self.poll.removeReader(line)
        self.assertEqual([], self.reactor.readers)

    def test_there_as_long_as_it_is_needed(self) -> None:
        self.assertEqual((-1, []), (self.poll.fileno(), self.reactor.readers))
        first, second = self.line(), self.line()
        self.poll.addReader(first)
        self.assertEqual(([self.poll], 2), (self.reactor.readers, len(self.poll)))
        self.poll.removeReader(first)
        self.assertEqual([self.poll], self.reactor.readers)
        self.poll.removeReader(second)
        self.poll.removeReader(second)
        self.assertEqual((-1, [], 0), (self.poll.fileno(), self.reactor.readers, len(self.poll)))
        third = self.line(b"x")
        self.poll.doRead()
        self.assertEqual((b"x", [self.poll]), (third.read, self.reactor.readers))
        self.drop(third)

    def test_reads_what_is_there(self) -> None:
        lines = [self.line(data) for data in (b"ab", b"", b"c")]
        self.assertTrue(self.is_ready())
        self.poll.doRead()  # a line reads a byte at a time
        self.assertEqual([b"ab", b"", b"c"], [line.read for line in lines])
        self.assertFalse(self.is_ready())
        lines[1].far.send(b"d")
        self.assertTrue(self.is_ready())
        self.poll.removeReader(lines[1])
        self.assertFalse(self.is_ready())
        for line in lines:
            self.drop(line)

    def test_others_have_their_turn(self) -> None:
        """However much there is to read, it is only so much at a time, and nobody is forgotten."""
        lines = [self.line(b"x" * 20) for _ in range(AT_A_TURN // 2 + 10)]
        total = 0
        for turns in range(1, 6):
            self.poll.doRead()
            total = sum(len(line.read) for line in lines)
            self.assertEqual(turns * AT_A_TURN, total)
        self.assertGreaterEqual(min(len(line.read) for line in lines), total // len(lines) - 2)
        for line in lines:
            self.drop(line)

    def test_many(self) -> None:
        lines = [self.line(b"x") for _ in range(AT_A_TURN + 50)]
        self.poll.doRead()
        self.assertEqual(AT_A_TURN, sum(len(line.read) for line in lines))
        self.poll.doRead()
        self.assertEqual({b"x"}, {line.read for line in lines})
        for line in lines:
            self.drop(line)

    def test_ends(self) -> None:
        """Who sends no more may still read; who is lost is lost, and watched no more."""
        done, lost = self.line(b"x"), self.line(b"x")
        done.does = lambda: CONNECTION_DONE
        lost.does = lambda: CONNECTION_LOST
        self.reactor.addWriter(done)
        self.reactor.addWriter(lost)
        self.poll.doRead()
        self.assertEqual(([ConnectionDone], [ConnectionLost]), (done.ends, lost.ends))
        self.assertEqual(([done], 0), (self.reactor.writers, len(self.poll)))

    def test_mistake(self) -> None:
        """It ends the connection that made it, and no other."""
        broken, sound = self.line(b"x"), self.line(b"x")

        def fail() -> None:
            raise ZeroDivisionError

        broken.does = fail
        self.poll.doRead()
        self.assertEqual(([ZeroDivisionError], b"x", []), (broken.ends, sound.read, sound.ends))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.drop(sound)

    def test_gone_in_the_meantime(self) -> None:
        """Who is dropped by another's reading does not read any more."""
        lines = [self.line(b"x") for _ in range(10)]

        def drop_all() -> None:
            for line in lines:
                self.drop(line)

        for line in lines:
            line.does = drop_all
        self.poll.doRead()
        self.assertEqual(1, sum(len(line.read) for line in lines))
        self.assertEqual([], self.reactor.readers)
        self.poll.doRead()

    def test_the_reactor_ends(self) -> None:
        """It lets go of the one descriptor that it knows; all behind it end too."""
        lines = [self.line() for _ in range(3)]
        self.poll.connectionLost()
        self.assertEqual([[ConnectionLost]] * 3, [line.ends for line in lines])
        self.assertEqual([], self.reactor.readers)

    def test_all_else_is_the_reactors(self) -> None:
        line = self.line()
        reactor: Any = self.poll
        reactor.addWriter(line)
        self.assertEqual(([line], "in 5 s"), (self.reactor.writers, reactor.callLater(5)))
        self.assertRaises(AttributeError, lambda: reactor.whatever)
        self.drop(line)


class NestedInTests(SynchronousTestCase):
    def test_only_where_it_can_be(self) -> None:
        self.assertIsInstance(nested_in(Descriptors()), NestedPoll)
        self.assertIsNone(nested_in(Clock()))
        self.patch(select, "epoll", None)
        del select.epoll
        self.assertIsNone(nested_in(Descriptors()))
