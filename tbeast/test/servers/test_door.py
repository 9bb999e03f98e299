"""The door before sites and native lane, over real sockets of the loopback; the test makes the reactor's turns."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import struct
from email.utils import parsedate_to_datetime

from twisted.internet.tcp import Port
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.governor import Governor
from tbeast.servers import nativelanes
from tbeast.servers.door import ACCEPTS_A_TURN, HELD_MOST, HELD_SECONDS, REFUSALS_A_TURN, RETRY_SECONDS, Door
from tbeast.test.native.parts import PATIENCE_SECONDS, NativeCase
from tbeast.test.servers.lanes import LaneHouse
from tbeast.test.servers.nativedoor import HERE, NativeDoor, SocketTurns
from tbeast.test.servers.rooms import Response, question, read

HOT = question("/price?asset=BTC")
SLOW = question("/explain/BTC")


def heard(client: socket.socket) -> bytes:
    """All that a client hears to the end."""
    text = b""
    while more := client.recv(65_536):
        text += more
    return text


class DoorCase(SynchronousTestCase):
    limit = 2

    def setUp(self) -> None:
        self.turns = SocketTurns()
        self.house = LaneHouse()
        self.house.clock = self.turns
        self.law = Governor("a", "life", self.house.time, self.limit, 1, shared=False)
        self.ids = iter(range(10**6))
        self.door = Door(self.law, self.turns, self.house.now, lambda: f"id{next(self.ids)}", self.house.counters)
        self.addCleanup(self.door.close)

    def port(self, service: str = "lpo", secured: bool = False, backlog: int = 1024, reserved: int = 0) -> Port:
        """A port that the door keeps, and a site behind it."""
        site = self.house.site(self.house.lpo())
        self.door.join(site)
        port = Port(0, site, backlog, HERE, self.turns)
        port.startListening()
        self.door.keep(port, site, service, secured, reserved)

        def close() -> None:
            port.stopListening()
            self.turns.settle()
            for channel in list(site.connections):
                channel.cut()
            self.turns.settle()

        self.addCleanup(close)
        return port

    def connect(self, port: Port) -> socket.socket:
        client = socket.create_connection(port.socket.getsockname(), PATIENCE_SECONDS)
        self.addCleanup(client.close)
        return client

    def come(self, port: Port, count: int = 1) -> list[socket.socket]:
        """Connect, and have it all happen."""
        clients = [self.connect(port) for _ in range(count)]
        self.turns.settle()
        return clients

    def ask(self, client: socket.socket, asked: bytes = HOT) -> Response:
        client.sendall(asked)
        self.turns.wait()
        self.turns.settle()
        return read(client.recv(65_536))


class ReactorPortTests(DoorCase):
    """Where the reactor watches the port: the Python lane, TLS, reports."""

    def test_so_many(self) -> None:
        """Those inside are served, and the others read why they are not, and the end of it."""
        port = self.port()
        clients = self.come(port, 6)
        self.assertEqual([200, 200], [self.ask(client).status for client in clients[:2]])
        answers = [heard(client) for client in clients[2:]]
        self.assertEqual([self.door.refusal] * 4, answers)
        self.door.sync()
        self.assertEqual((2, 4), (self.law.connections, self.law.refused))
        self.assertEqual(4, self.house.counters.value("refused_connections", "lpo"))
        self.assertEqual(0, self.house.counters.value("requests", "lpo", "http", "503"))

    def test_reserved_seats(self) -> None:
        """Operators come in where nobody else does, so many of them; they are counted with all the others."""
        port, operators = self.port(), self.port("lrs", reserved=3)
        self.come(port, 2)
        clients = self.come(operators, 5)
        self.assertEqual([200] * 3, [self.ask(client).status for client in clients[:3]])
        self.assertEqual([self.door.refusal] * 2, [heard(client) for client in clients[3:]])
        self.assertEqual(5, self.door.connections)
        (client,) = self.come(port)
        self.assertEqual(self.door.refusal, heard(client))
        clients[0].close()
        self.turns.wait()
        self.turns.settle()
        (client,) = self.come(operators)
        self.assertEqual(200, self.ask(client).status)

    def test_the_refusal(self) -> None:
        """It is a problem as any other of ours, whole, and says when to come back."""
        port = self.port()
        *_, client = self.come(port, 3)
        answer = read(heard(client))
        self.assertEqual(503, answer.status)
        headers = answer.headers
        self.assertEqual(
            ("application/problem+json", "close", str(RETRY_SECONDS), "no-store", "tbeast"),
            tuple(headers[name] for name in ("Content-Type", "Connection", "Retry-After", "Cache-Control", "Server")),
        )
        problem = json.loads(answer.body)
        self.assertEqual(("too_many_connections", 503), (problem["code"], problem["status"]))
        self.assertEqual(headers["X-Request-Id"], problem["request_id"])
        self.assertEqual(int(self.house.time), parsedate_to_datetime(headers["Date"]).timestamp())

    def test_dated_anew(self) -> None:
        """Each round of the governor writes it anew, with its own request id."""
        before = self.door.refusal
        self.house.time += 5.0
        self.door.sync()
        self.assertNotEqual(before, self.door.refusal)
        answer = read(self.door.refusal)
        self.assertEqual(int(self.house.time), parsedate_to_datetime(answer.headers["Date"]).timestamp())
        self.assertEqual("id1", answer.headers["X-Request-Id"])

    def test_a_question_on_its_way(self) -> None:
        """It was sent before the refusal came, and goes on after it; and yet the refusal arrives."""
        self.limit = self.law.limit = 0
        port = self.port()
        client = self.connect(port)
        client.sendall(HOT * 20)
        self.turns.settle()
        client.sendall(HOT * 20)
        self.turns.advance(HELD_SECONDS)
        self.assertEqual(self.door.refusal, heard(client))

    def test_room_again(self) -> None:
        port = self.port()
        first, _, third = self.come(port, 3)
        first.close()
        self.turns.wait()
        self.turns.settle()
        fourth, fifth = self.come(port, 2)
        self.assertEqual(200, self.ask(fourth).status)
        self.assertEqual([self.door.refusal] * 2, [heard(client) for client in (third, fifth)])
        self.law.limit = 3
        self.door.moved()
        (sixth,) = self.come(port)
        self.assertEqual(200, self.ask(sixth).status)

    def test_all_ports_are_one(self) -> None:
        """What one site holds another cannot."""
        one, other = self.port(), self.port("lrs")
        self.come(one, 2)
        (client,) = self.come(other)
        self.assertEqual(self.door.refusal, heard(client))
        self.assertEqual(1, self.house.counters.value("refused_connections", "lrs"))

    def test_less_room(self) -> None:
        """Nobody who is in is sent away."""
        port = self.port()
        clients = self.come(port, 2)
        self.law.limit = 0
        self.door.moved()
        self.assertEqual([200, 200], [self.ask(client).status for client in clients])
        self.assertEqual(-2, self.door.room)

    def test_under_tls(self) -> None:
        """Nothing can be told before the handshake, which is spared: the connection just ends."""
        self.law.limit = 0
        port = self.port(secured=True)
        client = self.connect(port)
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        self.turns.settle()
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(b"", heard(client))
        self.assertEqual(0, len(self.door._held))
        self.assertEqual(1, self.house.counters.value("refused_connections", "lpo"))

    def test_few_in_a_turn(self) -> None:
        """Of whom is let in and of whom is refused, however many wait, and however often it was so before."""
        self.law.limit = 10**6
        port = self.port()
        [self.connect(port) for _ in range(3 * ACCEPTS_A_TURN)]
        for turn in (1, 2, 3):
            self.turns.turn()
            self.assertEqual(turn * ACCEPTS_A_TURN, self.door.connections)
        self.law.limit = 0
        [self.connect(port) for _ in range(2 * REFUSALS_A_TURN)]
        for turn in (1, 2):
            self.turns.turn()
            self.assertEqual(turn * REFUSALS_A_TURN, self.door.refused)

    def test_no_descriptors(self) -> None:
        """Those that are held for a moment give theirs, so that the next ones are told as well."""
        self.law.limit = 0
        port = self.port()
        held = self.come(port, 3)
        clients = [self.connect(port) for _ in range(2)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        lowest = os.dup(0)  # no number below it is free
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        for _ in range(3):
            self.turns.turn()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual([self.door.refusal] * 5, [heard(client) for client in (*held, *clients)])
        self.assertEqual(5, self.door.refused)

    def test_clients_that_are_gone(self) -> None:
        """Whoever has reset the connection before it was taken is no trouble."""
        self.law.limit = 0
        port = self.port()
        for _ in range(3):
            client = self.connect(port)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        (client,) = self.come(port)
        self.assertEqual(self.door.refusal, heard(client))
        self.assertEqual(4, self.door.refused)


class CapacityTests(DoorCase):
    def test_refusals_from_below(self) -> None:
        """A question refused for want of capacity is counted by its code; one that has no price is not."""
        port = self.port()
        (client,) = self.come(port)
        self.assertEqual(503, self.ask(client, question("/price?asset=DOGE")).status)
        self.assertEqual([], list(self.house.counters.family("capacity_refusals")))
        self.house.gate.keyring.is_complete = False  # type: ignore[misc]
        asked = question("/price?asset=BTC", "tb_nobody")
        self.assertEqual([503, 503], [self.ask(client, asked).status for _ in range(2)])
        self.assertEqual([(("lpo", "keys_unavailable"), 2)], list(self.house.counters.family("capacity_refusals")))


class HeldTests(DoorCase):
    limit = 0

    def setUp(self) -> None:
        super().setUp()
        self.kept = self.port()
        self.before = len(os.listdir("/proc/self/fd"))

    def held(self, clients: int) -> int:
        return len(os.listdir("/proc/self/fd")) - self.before - clients

    def test_for_a_moment(self) -> None:
        self.come(self.kept, 3)
        self.turns.advance(HELD_SECONDS / 2)
        self.come(self.kept, 2)
        self.assertEqual(5, self.held(5))
        self.turns.advance(HELD_SECONDS / 2)
        self.assertEqual(2, self.held(5))
        self.turns.advance(HELD_SECONDS / 2)
        self.assertEqual(0, self.held(5))
        self.assertEqual([], self.turns.getDelayedCalls())

    def test_not_too_many(self) -> None:
        clients = self.come(self.kept, HELD_MOST + 20)
        self.assertEqual(HELD_MOST, self.held(len(clients)))
        self.assertEqual({self.door.refusal}, {heard(client) for client in clients})

    def test_the_end(self) -> None:
        self.come(self.kept, 3)
        self.door.close()
        self.assertEqual(0, self.held(3))
        self.assertEqual([], self.turns.getDelayedCalls())


class LaneTests(NativeCase):
    """Where the native lane takes the connections, and hands some of them over."""

    def setUp(self) -> None:
        self.native = NativeDoor()
        self.addCleanup(self.native.shut)
        house = self.native.house
        self.lanes = house.lanes
        self.law = Governor("a", "life", house.time, 3, 1, shared=False)
        self.door = Door(self.law, self.native.turns, house.now, house.new_id, house.counters)
        self.door.join(self.native.site)
        self.native.native.door = self.door
        self.door.take_lanes(self.lanes)

    def another(self) -> socket.socket:
        before = sum(self.native.native.figures()[name] for name in ("accepted", "refused"))
        client = socket.create_connection(self.native.listening.getsockname(), PATIENCE_SECONDS)
        self.addCleanup(client.close)
        self.native.wait_for(
            lambda: sum(self.native.native.figures()[name] for name in ("accepted", "refused")) > before
        )
        return client

    def test_room(self) -> None:
        """The lane has room for what the limit leaves, and refuses by itself with the door's words."""
        self.assertEqual((3, 1), (self.lanes.room, self.door.connections))
        self.another()
        self.another()
        refused = self.another()
        self.assertEqual(self.door.refusal, heard(refused))
        self.door.sync()
        self.assertEqual((3, 1, 1), (self.law.connections, self.law.refused, self.door.refused))
        self.assertEqual(1, self.native.house.counters.value("refused_connections", "lpo"))

    def test_a_connection_that_moves(self) -> None:
        """It stays one connection, in the lane, outside of it, and back."""
        self.native.send(SLOW)
        self.assertEqual((0, 1), (self.lanes.connections, self.door.connections))
        self.assertEqual(2, self.lanes.room)
        self.another()
        self.another()
        self.another()
        self.assertEqual(3, self.door.connections)
        self.native._sent = 0
        client = self.native.client
        for _ in range(40):
            client.sendall(HOT)
            self.native.turns.wait()
            self.native.turns.settle()
        self.assertEqual((3, 3), (self.lanes.connections, self.lanes.room))
        self.assertEqual(3, self.door.connections)

    def test_one_on_the_way(self) -> None:
        """It left the lane in the midst of other work, and is counted before anybody has taken it."""
        self.patch(nativelanes, "INTERLUDE_SECONDS", 0.0)
        self.native.put(HOT[:30])
        self.native.wait_for(lambda: select.select([self.lanes.fileno()], [], [], 0.0)[0], turning=False)
        self.native.native.interlude()
        self.assertEqual((0, 1, 1), (self.lanes.connections, self.door.on_the_way, self.door.connections))
        self.door.moved()
        self.assertEqual(2, self.lanes.room)
        self.native.turns.settle()
        self.assertEqual((0, 1, 2), (self.door.on_the_way, self.door.connections, self.lanes.room))

    def test_one_that_ends_outside(self) -> None:
        """Its place is free at once."""
        self.native.send(SLOW)
        self.native.client.close()
        self.native.wait_for(lambda: not self.native.site.connections)
        self.assertEqual((0, 3), (self.door.connections, self.lanes.room))

    def test_another_limit(self) -> None:
        self.law.limit = 1
        self.door.moved()
        self.assertEqual(1, self.lanes.room)
        self.assertEqual(self.door.refusal, heard(self.another()))
        self.native.send(SLOW)  # it leaves, and its place is still its own
        self.assertEqual(0, self.lanes.room)
        self.assertEqual(self.door.refusal, heard(self.another()))

    def test_refused_once(self) -> None:
        """Each round brings in what is new."""
        self.law.limit = 1
        self.door.moved()
        for refused in (1, 2):
            self.another()
            self.door.sync()
            self.door.sync()
            self.assertEqual(refused, self.law.refused)

    def test_dated_anew(self) -> None:
        self.native.house.time += 9.0
        self.door.sync()
        self.assertEqual(self.door.refusal, self.lanes.refusal)

    def test_who_could_not_be_taken_over(self) -> None:
        """The place of a connection that is gone before it goes on is free again."""

        def fail(*_: object) -> None:
            raise OSError("no descriptor")

        self.patch(self.native.turns, "adoptStreamConnection", fail)
        self.native.client.sendall(SLOW)
        self.native.wait_for(lambda: not self.lanes.connections)
        self.assertEqual((0, 3), (self.door.connections, self.lanes.room))
