"""How many connections the native lane takes, what those are told for whom there is no room, and how long it took."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from typing import Final

from tbeast.domain.admission import Standing
from tbeast.test.native.parts import DATE, KEY, PARTNER, PATIENCE_SECONDS, head, open_lanes, received
from tbeast.test.native.test_connections import ConnectionsCase

REFUSAL: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
AT_ONCE: Final = 4
HELD: Final = 256
ANSWERS_A_REFUSAL: Final = 32


class RoomCase(ConnectionsCase):
    def setUp(self) -> None:
        super().setUp()
        self.learn()
        self.lanes.refusal = REFUSAL

    def crowd(self, count: int) -> list[socket.socket]:
        """So many connections, all of them taken or refused."""
        before = sum(self.figures("accepted", "refused"))
        crowd = [self.connect() for _ in range(count)]
        self.turn_until(lambda: sum(self.figures("accepted", "refused")) == before + count)
        return crowd

    def told(self, client: socket.socket) -> bytes:
        """All that a client hears to the end."""
        text = b""
        with contextlib.suppress(ConnectionResetError):
            while more := client.recv(65_536):
                text += more
        return text


class RoomTests(RoomCase):
    def test_any(self) -> None:
        """Nothing is refused before anybody has said how many there may be."""
        self.assertEqual(-1, self.lanes.room)
        self.crowd(40)
        self.assertEqual((40, 0), self.figures("connections", "refused"))

    def test_so_many(self) -> None:
        """And whoever is in is served as ever, while others are told, and read the end of it."""
        self.lanes.room = 3
        crowd = self.crowd(20)
        self.assertEqual((3, 3, 17), self.figures("connections", "accepted", "refused"))
        self.assertEqual((3, 17), (self.lanes.connections, self.lanes.refused))
        self.assertEqual([REFUSAL] * 17, [self.told(client) for client in crowd[3:]])
        for client in crowd[:3]:
            self.assertIn(b"200 OK", self.ask(client, head()))

    def test_none(self) -> None:
        self.lanes.room = 0
        (client,) = self.crowd(1)
        self.assertEqual(REFUSAL, self.told(client))

    def test_a_question_on_its_way(self) -> None:
        """What the client has sent, and still sends, does not take its answer away."""
        self.lanes.room = 0
        client = self.connect()
        client.sendall(head() * 50)
        self.turn_until(lambda: self.figures("refused") == (1,))
        client.sendall(head() * 50)
        self.assertEqual(REFUSAL, self.told(client))

    def test_room_again(self) -> None:
        """When one ends, or there is more room, the next one is let in."""
        self.lanes.room = 2
        crowd = self.crowd(3)
        crowd[0].close()
        self.turn_until(lambda: self.lanes.connections == 1)
        self.crowd(2)
        self.assertEqual((3, 2), self.figures("accepted", "refused"))
        self.lanes.room = 3
        self.crowd(1)
        self.assertEqual((4, 2), self.figures("accepted", "refused"))

    def test_less_room(self) -> None:
        """Nobody is sent away who is in."""
        clients = self.crowd(4)
        self.lanes.room = 1
        self.assertIn(b"200 OK", self.ask(clients[3], head()))
        self.crowd(1)
        self.assertEqual((4, 1), self.figures("connections", "refused"))

    def test_who_leaves_keeps_the_place(self) -> None:
        """A connection that is handed over is still there: its place is not free until somebody says so."""
        self.lanes.room = 2
        client, _ = self.crowd(2)
        client.sendall(b"GET /stats HTTP/1.1\r\n\r\n")
        self.turn_until(lambda: self.left)
        self.assertEqual((1, 1), (self.lanes.room, self.lanes.connections))
        self.crowd(1)
        self.assertEqual((1,), self.figures("refused"))
        taken, *_ = self.take_over()
        self.assertTrue(self.lanes.take(os.dup(taken.fileno()), 0))
        self.assertEqual(2, self.lanes.connections)

    def test_few_between_two_looks(self) -> None:
        """Those inside have their turn although others wait to be refused."""
        lanes = open_lanes(self.memory, budget=0.0)  # so each turn is one look
        self.addCleanup(lanes.close)
        lanes.room = 0
        lanes.listen(self.port.fileno())
        waiting = [self.connect() for _ in range(2 * AT_ONCE + 3)]
        refused = []
        for _ in range(4):
            lanes.turn(self.now, DATE)
            refused.append(lanes.refused)
        self.assertEqual([AT_ONCE, 2 * AT_ONCE, len(waiting), len(waiting)], refused)

    def test_few_while_others_ask(self) -> None:
        """One for so many answers, so that a flood takes little from those inside."""
        lanes = open_lanes(self.memory, budget=0.0)
        self.addCleanup(lanes.close)
        lanes.learn(KEY, PARTNER.key_id, Standing(PARTNER, self.now))
        lanes.room = 1
        lanes.listen(self.port.fileno())
        inside = self.connect()
        while not lanes.connections:
            lanes.turn(self.now, DATE)
        waiting = [self.connect() for _ in range(60)]
        for _ in range(10):
            inside.sendall(head() * 16)
            before = lanes.figures()["requests"]
            while lanes.figures()["requests"] == before:
                lanes.turn(self.now, DATE)
            received(inside, 16)
        # and some looks may have come when nobody else wanted anything
        self.assertLessEqual(lanes.refused, 10 * 16 // ANSWERS_A_REFUSAL + 3 * AT_ONCE)
        while lanes.refused < len(waiting):
            lanes.turn(self.now, DATE)

    def test_arguments(self) -> None:
        for wrong in (None, "text", 7, bytearray(b"x")):
            with self.assertRaises(TypeError):
                self.lanes.refusal = wrong
        with self.assertRaises(TypeError):
            del self.lanes.refusal
        self.assertEqual(REFUSAL, self.lanes.refusal)


class HeldTests(RoomCase):
    """Those that were told are held for a moment, but not too many of them."""

    def setUp(self) -> None:
        super().setUp()
        self.lanes.room = 0
        self.descriptors = len(os.listdir("/proc/self/fd"))

    def held(self, clients: int) -> int:
        return len(os.listdir("/proc/self/fd")) - self.descriptors - clients

    def test_not_too_many(self) -> None:
        crowd = self.crowd(HELD + 40)
        self.assertEqual(HELD, self.held(len(crowd)))
        self.assertEqual([REFUSAL] * len(crowd), [self.told(client) for client in crowd])

    def test_for_a_moment(self) -> None:
        crowd = self.crowd(5)
        self.lanes.expire(60.0)
        self.assertEqual(5, self.held(5))
        self.until_closed(5)
        self.assertEqual([REFUSAL] * 5, [self.told(client) for client in crowd])

    def until_closed(self, clients: int) -> None:
        """The lanes' own clock says when; it is asked as the reactor asks it."""
        poll = select.poll()
        for _ in range(int(PATIENCE_SECONDS * 20)):
            self.lanes.expire(60.0)
            if not self.held(clients):
                return
            poll.poll(50)
        self.fail("they are held for ever")

    def test_the_end(self) -> None:
        """Nobody is held when the port is closed."""
        self.crowd(5)
        self.lanes.end_listening()
        self.assertEqual(0, self.held(5))

    def test_closed(self) -> None:
        self.crowd(5)
        self.lanes.close()
        self.assertEqual(-1, self.held(5))  # the epoll is closed as well

    def test_no_descriptors_for_them(self) -> None:
        """Where these are short nobody is held."""
        self.lanes.highest = 0
        crowd = self.crowd(3)
        self.assertEqual(0, self.held(3))
        self.assertEqual([REFUSAL] * 3, [self.told(client) for client in crowd])

    def test_clients_that_are_gone(self) -> None:
        """Whoever has reset the connection before it was taken is refused like the others."""
        for _ in range(4):
            client = self.connect()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        self.turn_until(lambda: self.figures("refused") == (4,))
        (after,) = self.crowd(1)
        self.assertEqual(REFUSAL, self.told(after))

    def test_nothing_to_say(self) -> None:
        self.lanes.refusal = b""
        (client,) = self.crowd(1)
        self.assertEqual(b"", self.told(client))
        self.assertEqual(0, self.held(1))


class TimesTests(RoomCase):
    def test_times(self) -> None:
        """Each answer is counted under the binary length of its microseconds, and these are added up."""
        self.bind()
        asker = self.asker()
        self.ask(self.client(), *[head()] * 30)
        for number in range(5):
            asker.send(KEY + b"|BTC|%d" % number)
        self.turn_until(lambda: self.figures("answers") == (5,))
        times, microseconds = self.lanes.figures()["times"], self.figures("microseconds")[0]
        rows = self.drain()
        self.assertEqual((32, 35), (len(times), sum(times)))
        self.assertEqual(sum(row[6] for row in rows), microseconds)
        least = sum(count << (bits - 1) for bits, count in enumerate(times) if bits)
        most = sum(count * ((1 << bits) - 1) for bits, count in enumerate(times))
        self.assertTrue(least <= microseconds <= most, (least, microseconds, most))
        self.assertEqual(max(row[7] for row in rows).bit_length(), max(bits for bits in range(32) if times[bits]))
