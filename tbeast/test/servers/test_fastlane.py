"""The fast lane's own manners: what it does at once, and when it stands back.

That it answers as the pages do is the matter of L{tbeast.test.servers.test_differential}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as installed
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.admission import Verdict
from tbeast.servers.fastlane import READ_BYTES, FastLane, PriceSite
from tbeast.servers.site import AT_A_TIME
from tbeast.test.servers import test_lpo, test_site, test_sockets
from tbeast.test.servers.lanes import MANY, LaneHouse, MemoryDoor
from tbeast.test.servers.rooms import FREE, PARTNER, House, Wire, problem_of, question, read

HOT = question("/price?asset=BTC")
OTHER = question("/exchanges", None)
reactor: Any = installed


class LaneCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.door = MemoryDoor(LaneHouse)
        self.house = self.door.house
        self.socket = self.door.socket
        self.asked: list[bytes] = []
        admit = self.door.site._admit

        def counted(key: bytes, now: float) -> Verdict:
            self.asked.append(key)
            verdict: Verdict = admit(key, now)
            return verdict

        self.door.site._admit = counted
        self.patch(self.house.gate, "admit", counted)

    @property
    def answers(self) -> int:
        return self.socket.sent.count(b"HTTP/1.1 200 OK")

    def turn(self, data: bytes = b"") -> int:
        """Let one turn pass, after C{data} came in; give how many answers have gone out in all."""
        self.socket.put(data)
        self.door.turns.turn()
        return self.answers


class AtOnceTests(LaneCase):
    def test_answered_in_the_same_turn(self) -> None:
        for number in range(1, 4):
            self.assertEqual(number, self.turn(HOT))
            self.assertEqual([], self.door.turns.writers)
        answer = read(bytes(self.socket.sent))
        self.assertEqual((200, "BTC", 83421.57), (answer.status, answer.json()["asset"], answer.json()["price"]))

    def test_together(self) -> None:
        """The answers of a turn are one packet."""
        sizes: list[int] = []
        send = self.socket.send

        def noted(data: bytes) -> int:
            sizes.append(len(data))
            return send(data)

        self.patch(self.socket, "send", noted)
        self.turn(HOT * 5)
        self.assertEqual((5, [len(self.socket.sent)]), (self.answers, sizes))

    def test_in_turns(self) -> None:
        """So many at a time, and meanwhile no more is read."""
        self.assertEqual(AT_A_TIME, self.turn(HOT * 30))
        self.assertFalse(self.door.is_read)
        for turns in range(2, 4):
            self.assertEqual(turns * AT_A_TIME, self.turn())
        self.assertEqual(30, self.turn())
        self.assertTrue(self.door.is_read)
        self.assertEqual(31, self.turn(HOT))

    def test_one_after_the_other(self) -> None:
        """Who waits for each answer never has to rest."""
        for number in range(1, 3 * AT_A_TIME):
            self.assertEqual(number, self.turn(HOT))

    def test_single_ones_do_not_add_up(self) -> None:
        """Who has waited for each answer may then ask for as many at a time as anybody."""
        for _ in range(AT_A_TIME + 2):
            self.turn(HOT)
        self.assertEqual(2 * AT_A_TIME + 2, self.turn(HOT * AT_A_TIME))
        self.assertTrue(self.door.is_read)
        self.assertEqual(3 * AT_A_TIME, self.turn(HOT * (AT_A_TIME - 2)))
        self.turn(HOT)
        self.assertEqual(4 * AT_A_TIME + 1, self.turn(HOT * AT_A_TIME))
        self.assertTrue(self.door.is_read)

    def test_in_parts(self) -> None:
        self.assertEqual(0, self.turn(HOT[:20]))
        self.assertEqual(0, self.turn(HOT[20:40]))
        self.turn(HOT[40:])
        self.door.turns.settle()
        self.assertEqual(1, self.answers)
        self.assertEqual(2, self.turn(HOT))

    def test_back_after_the_ordinary_way(self) -> None:
        self.door.send(OTHER)
        self.assertEqual(2, self.turn(HOT))
        self.door.send(HOT[:-1])
        self.door.send(HOT[-1:] + OTHER)
        self.assertEqual((4, []), (self.answers, self.door.turns.writers))
        self.assertEqual(5, self.turn(HOT))

    def test_timers_stand_still(self) -> None:
        """A question costs no timer: the one that there is stays where it was until it is due."""
        (before,) = self.door.turns.getDelayedCalls()
        due = before.getTime()
        self.door.turns.rightNow += 1.0
        self.turn(HOT)
        (after,) = self.door.turns.getDelayedCalls()
        self.assertIs(before, after)
        self.assertEqual(due, after.getTime())

    def test_much_at_a_time(self) -> None:
        """More than is received at a time is received the next time."""
        count = 2 * READ_BYTES // len(HOT) + 3
        self.door.send(HOT * count)
        self.assertEqual(count, self.answers)


class UnsentTests(LaneCase):
    """The client reads slowly, or not, or goes."""

    def test_a_part(self) -> None:
        self.door.take(100)
        self.turn(HOT)
        self.assertEqual(100, len(self.socket.sent))
        self.assertEqual([self.door.transport], self.door.turns.writers)
        self.turn(HOT)
        self.door.take(MANY)
        self.assertEqual(2, self.answers)
        self.assertEqual([], self.door.turns.writers)
        first, _, second = bytes(self.socket.sent)[10:].partition(b"HTTP/1.1 ")
        self.assertEqual(read(b"HTTP/1.1 2" + first).body, read(b"HTTP/1.1 " + second).body)

    def test_in_order(self) -> None:
        """Nothing overtakes what waits to be sent."""
        self.door.take(10)
        self.turn(HOT)
        self.socket.room = MANY
        self.door.channel.dataReceived(question("/price?asset=NOPE"))
        self.door.channel.dataReceived(HOT)
        self.door.turns.settle()
        statuses = [part[:3] for part in bytes(self.socket.sent).split(b"HTTP/1.1 ")[1:]]
        self.assertEqual([b"200", b"404", b"200"], statuses)

    def test_gone_while_answering(self) -> None:
        """What could not be sent was answered; the loss is told in a later turn."""
        self.socket.put(HOT)
        read_it = self.socket.recv(READ_BYTES)
        self.socket.reset()
        self.door.channel.dataReceived(read_it)
        self.assertFalse(self.socket.is_closed)
        self.door.turns.settle()
        self.assertTrue(self.socket.is_closed)
        self.assertEqual(1, self.house.ledger.requests)
        self.assertEqual([], self.door.turns.getDelayedCalls())

    def test_gone(self) -> None:
        self.door.reset()
        self.assertTrue(self.socket.is_closed)
        self.assertEqual(set(), self.door.site.connections)

    def test_nothing_there(self) -> None:
        """Word of something to read that is not there is no harm."""
        self.assertIsNone(self.door.transport.doRead())
        self.assertFalse(self.socket.is_closed)

    def test_at_the_end(self) -> None:
        """Once the end was decided, nothing is answered, though it be read."""
        self.turn(HOT)
        self.door.channel.end()
        self.socket.put(HOT)
        self.door.transport.doRead()
        self.assertEqual((1, 1), (self.answers, self.house.ledger.requests))

    def test_lets_go(self) -> None:
        """Channel and transport do not keep each other once the connection has ended."""
        self.assertIn("doRead", vars(self.door.transport))
        self.door.reset()
        self.assertNotIn("doRead", vars(self.door.transport))


class SpentTests(LaneCase):
    """The gate is asked once for each question, whichever way it goes."""

    def test_no_price(self) -> None:
        self.house.shelf.take_down("BTC")
        self.door.send(question("/price?asset=BTC", FREE) * 2)
        self.assertEqual([FREE.encode()] * 2, self.asked)
        self.assertEqual(2, self.socket.sent.count(b"HTTP/1.1 503 "))
        self.assertEqual(2, self.house.ledger.requests)

    def test_refused(self) -> None:
        for ask in (FREE, "nobody-has-this"):
            self.asked.clear()
            self.door.send(question("/price?asset=BTC", ask) * 6 + HOT)
            self.assertEqual([ask.encode()] * 6 + [PARTNER.encode()], self.asked)
        self.assertEqual(1, self.socket.sent.count(b"HTTP/1.1 429 "))
        self.assertEqual(6, self.socket.sent.count(b"HTTP/1.1 401 "))
        self.assertEqual(7, self.answers)

    def test_in_parts(self) -> None:
        """What was left lying before a refused question's last bytes came is read with them."""
        self.house.shelf.take_down("BTC")
        self.door.send(HOT[:10])
        self.door.send(HOT[10:] + HOT[:12])
        self.door.send(HOT[12:])
        self.assertEqual(2, len(self.asked))
        self.assertEqual(2, self.socket.sent.count(b"HTTP/1.1 503 "))

    def test_nothing_is_recorded(self) -> None:
        """Who cannot be recorded is not asked at the gate by the lane, nor answered."""
        self.house.ledger.is_closed = True
        self.door.send(HOT)
        self.assertEqual((b"", True), (bytes(self.socket.sent), self.socket.is_closed))
        self.assertEqual(1, len(self.asked))

    def test_verdict_of_another_lane(self) -> None:
        """A connection that comes from elsewhere brings along what the gate has said."""
        verdict = self.house.gate.admit(PARTNER.encode(), self.house.time)
        self.house.shelf.take_down("BTC")
        self.door.channel.go_on(HOT + HOT, verdict)
        self.door.turns.settle()
        self.assertEqual(2, len(self.asked))
        self.assertEqual(2, self.socket.sent.count(b"HTTP/1.1 503 "))

    def test_bytes_of_another_lane(self) -> None:
        self.door.channel.go_on(HOT + HOT[:20], None)
        self.door.send(HOT[20:])
        self.assertEqual((2, 2), (self.answers, len(self.asked)))


class MistakeTests(LaneCase):
    def test_ours(self) -> None:
        """What fails in the lane is left to the pages, which say so if it fails there too."""

        def broken(*_: Any) -> None:
            raise ZeroDivisionError

        self.patch(self.house.shelf, "find", broken)
        self.door.send(question("/price?asset=BTC", FREE))
        answer = read(bytes(self.socket.sent))
        self.assertEqual((500, "internal_error"), (answer.status, problem_of(answer)["code"]))
        self.assertEqual(2, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual((1, 1), (len(self.asked), self.house.ledger.requests))
        self.assertFalse(self.socket.is_closed)

    def test_the_lanes_own(self) -> None:
        self.patch(self.door.site, "_begin", None)
        self.door.site._second = 0
        self.door.send(HOT)
        self.assertEqual(1, self.answers)
        self.assertEqual(1, len(self.flushLoggedErrors(TypeError)))


class OtherTransportTests(SynchronousTestCase):
    """Where bytes are not sent as they are, they are written as ever; and more may come in than was asked for."""

    def setUp(self) -> None:
        self.house = LaneHouse()
        self.wire = Wire(self.house.site(self.house.lpo()))

    def sent(self) -> int:
        sent: bytes = self.wire.transport.value()
        return sent.count(b" 200 OK")

    def test_written(self) -> None:
        self.assertIsInstance(self.wire.channel, FastLane)
        self.assertIsNone(self.wire.channel._socket)
        self.assertEqual(200, self.wire.ask("/price?asset=BTC").status)
        self.assertEqual(3, self.wire.send(HOT * 3).count(b" 200 OK"))

    def test_while_it_rests(self) -> None:
        self.wire.channel.dataReceived(HOT * (AT_A_TIME + 2))
        self.wire.channel.dataReceived(HOT)
        self.assertEqual(AT_A_TIME, self.sent())
        self.house.clock.advance(0)
        self.assertEqual(AT_A_TIME + 3, self.sent())

    def test_too_much_for_the_transport(self) -> None:
        """It says so while an answer is written: that answer is the last until it says otherwise."""
        write = self.wire.transport.write

        def full(data: bytes) -> None:
            write(data)
            self.wire.channel.pauseProducing()

        self.patch(self.wire.transport, "write", full)
        self.wire.channel.dataReceived(HOT * 3)
        for answered in (1, 2, 3):
            self.house.clock.advance(0)
            self.assertEqual((answered, "paused"), (self.sent(), self.wire.transport.producerState))
            self.wire.channel.resumeProducing()

    def test_after_the_end(self) -> None:
        self.wire.ask("/price?asset=BTC")
        self.wire.transport.clear()
        self.wire.channel.loseConnection()
        self.wire.channel.dataReceived(HOT)
        self.assertEqual((0, 1), (self.sent(), self.house.ledger.requests))

    def test_after_the_last_of_the_ordinary_way(self) -> None:
        self.wire.send(question("/exchanges", None, headers=[("Connection", "close")]))
        self.wire.transport.clear()
        self.wire.channel.dataReceived(HOT)
        self.assertEqual((b"", 1), (self.wire.transport.value(), self.house.ledger.requests))


class _WithTheLane(SynchronousTestCase):
    """All that holds without the lane holds with it: the same tests, in a house that has one."""

    def setUp(self) -> None:
        for module in (test_site, test_lpo):
            self.patch(module, "House", LaneHouse)
        super().setUp()


class PathTests(_WithTheLane, test_site.PathTests):
    pass


class BodyTests(_WithTheLane, test_site.BodyTests):
    pass


class HostTests(_WithTheLane, test_site.HostTests):
    pass


class PipelineTests(_WithTheLane, test_site.PipelineTests):
    pass


class TimeoutTests(_WithTheLane, test_site.TimeoutTests):
    pass


class EndTests(_WithTheLane, test_site.EndTests):
    pass


class PriceTests(_WithTheLane, test_lpo.PriceTests):
    pass


class KeyTests(_WithTheLane, test_lpo.KeyTests):
    pass


del _WithTheLane


class SocketTests(test_sockets.HttpTests):
    """The conversations over real sockets, with the lane."""

    def site(self, root: Any) -> PriceSite:
        house = self.house
        return PriceSite(
            root, gate=house.gate, answers=house.answers, reactor=reactor, now=house.now, new_id=house.new_id,
            counters=house.counters, service="lpo", ledger=house.ledger,
        )  # fmt: skip


class PartingTests(SynchronousTestCase):
    """A channel that is told to part gives one more answer, and says so in it."""

    def test_with_the_lane_and_without(self) -> None:
        for kind in (House, LaneHouse):
            door = MemoryDoor(kind)
            door.send(question("/price?asset=BTC"))
            self.assertNotIn(b"Connection: close", bytes(door.socket.sent))
            door.channel.part()
            del door.socket.sent[:]
            door.send(question("/price?asset=BTC") * 2)
            answer = bytes(door.socket.sent)
            self.assertEqual((1, 1), (answer.count(b"HTTP/1.1 200 OK"), answer.count(b"Connection: close\r\n")))
            self.assertTrue(door.socket.is_closed)
