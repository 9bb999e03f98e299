"""The reactor's side of the native lanes: what is handed over, what is learned and forgotten, and the books."""

from __future__ import annotations

import errno
import os
import re
import resource
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs import usagenotes
from tbeast.codecs.datagrams import UNSENDABLE
from tbeast.domain.admission import NO_LIMIT, Verdict, month_of
from tbeast.domain.counters import Counters
from tbeast.domain.keys import account_of
from tbeast.domain.plans import PLANS
from tbeast.domain.usage import Kind, Ledger, Row, added_up
from tbeast.servers import nativelanes
from tbeast.servers.fastlane import PLAIN_IN_A_ROW
from tbeast.servers.nativelanes import EXPIRE_SECONDS, NativeLanes
from tbeast.services.keyring import Keyring
from tbeast.test.native.parts import NativeCase
from tbeast.test.servers.lanes import MANY, UNLIMITED
from tbeast.test.servers.nativedoor import HERE, NativeDesk, NativeDoor, PlayedPort
from tbeast.test.servers.rooms import FREE, PARTNER, Response, problem_of, question, quote_of, read
from tbeast.test.services.test_keyring import record_of
from tbeast.testing.logs import listen

HOT = question("/price?asset=BTC")
NEW = "a-new-partner-key"
ASKED = question("/price?asset=BTC", NEW)
AS_JSON = b'{"api_key":"%b","asset":"BTC","id":2}' % PARTNER.encode()
"""Not plain, and so answered in Python."""


class DoorCase(NativeCase):
    def setUp(self) -> None:
        self.door = NativeDoor()
        self.addCleanup(self.door.shut)
        self.house = self.door.house

    def ask(self, data: bytes) -> Response:
        """The client asks, and has one answer."""
        before = len(self.door.sent)
        self.door.send(data)
        return read(self.door.sent[before:])

    def come_anew(self, room: int | None = None) -> None:
        """The client goes, and another one comes; see L{NativeDoor.connect}."""
        self.door.client.close()
        self.door.turns.settle()
        self.door.client = self.door.connect(room)

    def figures(self, *names: str) -> list[int]:
        return [self.house.lanes.figures()[name] for name in names]

    def value(self, *key: str) -> int:
        return self.house.counters.value(*key)


def descriptors() -> list[str]:
    """All that are open, where to; but for the one that is looked with."""
    return sorted(link for name in os.listdir("/proc/self/fd") if (link := _target(name)))


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:
        return ""


class AdoptionTests(DoorCase):
    def test_begun(self) -> None:
        """What has come in of a question goes with the connection, and its rest comes there."""
        self.door.send(HOT[:30])
        self.assertEqual((False, 1), (self.door.is_native, len(self.door.site.connections)))
        self.assertEqual(200, self.ask(HOT[30:] + HOT[:1]).status)
        self.assertEqual(200, self.ask(HOT[1:]).status)
        self.assertEqual([0, 1, 1, 0], self.figures("requests", "accepted", "left", "connections"))

    def test_not_delayed(self) -> None:
        """Small answers are sent without waiting for others, in the lane and after it."""
        for data in (HOT, HOT[:30]):
            self.door.send(data)
            self.assertEqual(1, self.door.server_option(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def test_asked_once(self) -> None:
        """A question that the gate refused natively is refused from that, and the ones behind it are asked about."""
        asked: list[bytes] = []
        admit = self.house.gate.admit

        def counted(key: bytes, now: float) -> Verdict:
            asked.append(key)
            return admit(key, now)

        self.patch(self.house.gate, "admit", counted)
        self.patch(self.door.site, "_admit", counted)
        self.door.send(question("/price?asset=BTC", FREE) * 6 + HOT)
        sent = self.door.sent
        self.assertEqual([6, 2, 1], [sent.count(b) for b in (b"Limit: 5", b" 429 ", b"Limit: %d\r\n" % NO_LIMIT)])
        self.assertEqual([FREE.encode(), PARTNER.encode()], asked)

    def test_not_read(self) -> None:
        """A client that does not read for a while has all answers in the end, in their order."""
        assets = [f"A{number}" for number in range(20)]
        for code in assets:
            self.house.put(quote_of(code))
        self.door.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        self.come_anew(4_096)
        asked: list[str] = []
        while self.door.is_native:
            for code in assets:
                self.door.put(question(f"/price?asset={code}"))
                self.door.turns.settle()
                asked.append(code)
        more = [*assets, *assets]
        self.door.put(b"".join(question(f"/price?asset={code}") for code in more))
        self.door.turns.settle()
        self.assertLess(len(self.door.sent), 100)
        wanted = [code.encode() for code in asked + more]
        self.door.read_until(lambda sent: sent.count(b'{"asset"') == len(wanted))
        self.assertEqual(wanted, re.findall(rb'{"asset":"(\w+)"', self.door.sent))
        self.assertEqual(len(wanted), self.house.ledger.requests)

    def test_client_is_gone(self) -> None:
        """Nothing is left behind of a client that goes before it is taken over, and nobody is told of it."""
        before = descriptors()
        left = self.figures("left")[0]
        for data in (HOT[:20], question("/exchanges"), question("/price?asset=BTC", FREE) * 9, HOT * 9):
            client = socket.create_connection(self.door.listening.getsockname())
            self.door.wait_for(lambda: self.figures("connections") == [2])
            client.send(data)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            self.door.wait_for(lambda: self.figures("connections") == [1])
            self.door.turns.settle()
            self.assertEqual(set(), self.door.site.connections)
        self.assertEqual(before, descriptors())
        self.assertEqual(left + 4, self.figures("left")[0])
        self.assertEqual(200, self.ask(HOT).status)

    def test_no_descriptor_is_left(self) -> None:
        """Whoever was accepted already is served all the same, the ordinary way too."""
        self.door.send(HOT[:1])  # from then on there is a poll for such connections
        clients = [self.door.connect() for _ in range(3)]
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        least = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, limits[1]))
        try:
            while True:
                try:
                    taken.append(os.dup(0))
                except OSError as error:
                    self.assertEqual(errno.EMFILE, error.errno)
                    break
            for client in clients:
                client.send(question("/exchanges"))
                self.door.turns.wait()
                self.door.turns.settle()
            served = len(self.door.site.connections) - 1
        finally:
            for number in taken:
                os.close(number)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        self.assertEqual(len(clients), served)
        for client in clients:
            client.setblocking(True)
            self.assertIn(b" 200 OK", client.recv(65_536))
            client.close()

    def test_cannot_be_made(self) -> None:
        """A mistake of ours with one connection is logged, and the others go on."""
        build = self.door.site.buildProtocol

        def broken(addr: Any) -> Any:
            self.patch(self.door.site, "buildProtocol", build)
            raise ValueError("broken")

        self.patch(self.door.site, "buildProtocol", broken)
        other = self.door.client
        self.door.client = self.door.connect()
        other.send(question("/exchanges"))
        self.door.wait_for(lambda: self.figures("left") == [1])
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.assertEqual(200, self.ask(question("/exchanges")).status)
        self.assertEqual(b"", other.recv(10))
        other.close()


class ReturnTests(DoorCase):
    """A connection that asks nothing but plain questions for a while is taken back."""

    def ask_plainly(self, times: int) -> None:
        for _ in range(times):
            self.assertEqual(200, self.ask(HOT).status)

    def test_taken_back(self) -> None:
        self.door.send(question("/exchanges"))
        self.ask_plainly(PLAIN_IN_A_ROW - 1)
        self.assertEqual((False, 1), (self.door.is_native, len(self.door.site.connections)))
        self.ask_plainly(1)
        self.assertEqual((True, set()), (self.door.is_native, self.door.site.connections))
        self.assertEqual([0, 1, 1], self.figures("requests", "left", "returned"))
        self.ask_plainly(3)
        self.assertEqual([3, 1, 1, 1], self.figures("requests", "accepted", "left", "returned"))
        self.assertEqual(1, self.value("lane_connections", "returned"))
        self.assertEqual(3 + PLAIN_IN_A_ROW, self.value("requests", "lpo", "http", "200") - 1)

    def test_the_first_of_a_key(self) -> None:
        """It is not known natively, and so its connection leaves; but not for long."""
        accounts: Any = self.house.gate.keyring
        accounts.accounts.append(account := account_of(NEW, "partner", "n"))
        accounts.keys[NEW] = account
        for _ in range(PLAIN_IN_A_ROW):
            self.assertFalse(self.ask(ASKED).status != 200)
        self.assertTrue(self.door.is_native)
        self.ask(ASKED)
        self.assertEqual([1], self.figures("requests"))

    def test_nothing_else_between(self) -> None:
        """They are counted from the last question on that was not plain."""
        for _ in range(3):
            self.door.send(question("/exchanges"))
            self.ask_plainly(PLAIN_IN_A_ROW - 1)
        self.assertEqual([0], self.figures("returned"))
        self.ask_plainly(1)
        self.assertEqual([1], self.figures("returned"))

    def test_together(self) -> None:
        """Questions that come in the same bytes, and those whose ends come later, count as well."""
        self.door.send(question("/exchanges"))
        self.door.send(HOT * (PLAIN_IN_A_ROW - 1))
        self.door.send(HOT[:20])
        self.door.send(HOT[20:])
        self.assertFalse(self.door.is_native)  # what was split is the ordinary way's
        self.door.send(HOT * PLAIN_IN_A_ROW)
        self.ask_plainly(1)  # at the end of the others the connection rested for a moment
        self.assertTrue(self.door.is_native)

    def test_not_in_the_middle(self) -> None:
        """What has come in of the next question keeps the connection where it is."""
        self.door.send(question("/exchanges"))
        self.door.send(HOT * PLAIN_IN_A_ROW + HOT[:20])
        self.assertFalse(self.door.is_native)
        self.assertEqual(200, self.ask(HOT[20:]).status)

    def test_unread(self) -> None:
        """While something waits to be sent it stays."""
        self.door.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        self.come_anew(4_096)
        self.door.put(question("/exchanges"))
        for _ in range(12):
            self.door.put(HOT * PLAIN_IN_A_ROW)
            self.door.turns.settle()
        self.assertFalse(self.door.is_native)
        self.door.read_until(lambda sent: sent.count(b" 200 OK") == 12 * PLAIN_IN_A_ROW + 1)

    def test_of_no_use(self) -> None:
        """Where it left again and again with nothing answered, it is offered less and less often; else as at first."""
        self.house.lanes.shut = True  # but the gate is not
        self.door.send(question("/exchanges"))
        for returns in range(4):
            self.ask_plainly((PLAIN_IN_A_ROW << returns) - 1)
            self.assertEqual([returns], self.figures("returned"))
            self.ask_plainly(1)
            self.assertEqual([returns + 1], self.figures("returned"))
        self.house.lanes.shut = False
        self.ask_plainly(1)
        self.door.send(question("/exchanges"))
        self.ask_plainly(PLAIN_IN_A_ROW)
        self.assertEqual([5], self.figures("returned"))

    def test_never_too_seldom(self) -> None:
        self.house.lanes.shut = True
        self.door.send(HOT)
        (channel,) = self.door.site.connections
        channel.go_on(b"", None, 255)
        self.assertEqual(PLAIN_IN_A_ROW << 10, channel._enough)

    def test_no_room(self) -> None:
        self.house.lanes.highest = 0
        self.door.send(question("/exchanges"))
        self.ask_plainly(2 * PLAIN_IN_A_ROW + 1)
        self.assertEqual((False, [0]), (self.door.is_native, self.figures("returned")))

    def test_while_parting(self) -> None:
        self.door.send(question("/exchanges"))
        self.ask_plainly(PLAIN_IN_A_ROW - 1)
        self.door.native.part()
        self.ask_plainly(1)
        self.assertFalse(self.door.is_native)

    def test_the_timer_goes_with_it(self) -> None:
        """Natively there is another one; nothing is left in the reactor."""
        calls = len(self.door.turns.getDelayedCalls())
        readers = list(self.door.turns.readers)
        self.door.send(question("/exchanges"))
        self.ask_plainly(PLAIN_IN_A_ROW)
        self.assertEqual((calls, readers), (len(self.door.turns.getDelayedCalls()), self.door.turns.readers))
        self.door.site.timeOut = 0.0
        self.door.pass_time(EXPIRE_SECONDS)
        self.assertTrue(self.door.is_closed)
        self.assertEqual([1], self.figures("idled"))

    def test_descriptors(self) -> None:
        before = descriptors()
        for _ in range(3):
            self.door.send(question("/exchanges"))
            self.ask_plainly(PLAIN_IN_A_ROW + 1)
            self.assertTrue(self.door.is_native)
        self.assertEqual(before, descriptors())


class KeyTests(DoorCase):
    def setUp(self) -> None:
        super().setUp()
        self.gate = self.house.gate
        self.keyring = Keyring()
        self.gate.keyring = self.keyring
        self.keyring.withdrawn = self.gate.forget
        self.account = account_of(NEW, "partner", "n")
        self.keyring.update([record_of(self.account)], self.house.time)
        self.others = self.figures("keys")[0]

    @property
    def known(self) -> int:
        """How many keys the native part has learned here."""
        return self.figures("keys")[0] - self.others

    def test_learned_by_the_first_question(self) -> None:
        self.assertEqual(200, self.ask(ASKED).status)
        self.assertFalse(self.door.is_native)
        self.come_anew()
        self.assertEqual(200, self.ask(ASKED).status)
        self.assertTrue(self.door.is_native)
        self.assertEqual(([1], 1), (self.figures("requests"), self.known))

    def test_only_the_admitted_are_learned(self) -> None:
        self.keyring.add(account_of(FREE, "free", "f"))
        self.house.gate.is_shut = True
        for key, status in ((NEW, 503), (FREE, 503), ("nobody-has-this", 401)):
            self.assertEqual(status, self.ask(question("/price?asset=BTC", key)).status)
        self.assertEqual(0, self.known)

    def test_withdrawn(self) -> None:
        """The next question is refused, on a connection of the lane too."""
        self.ask(ASKED)
        self.come_anew()
        self.ask(ASKED)
        self.assertTrue(self.keyring.revoke(self.account.key_id, self.account.digest, self.house.time))
        self.assertEqual(0, self.known)
        answer = self.ask(ASKED)
        self.assertEqual((401, "bad_key"), (answer.status, problem_of(answer)["code"]))
        self.assertFalse(self.door.is_native)
        self.assertEqual([1], self.figures("requests"))

    def test_changed(self) -> None:
        """Another tier holds from the next question on; what was used stays used."""
        self.ask(ASKED)
        self.come_anew()
        self.assertEqual(str(NO_LIMIT), self.ask(ASKED).headers["Ratelimit-Limit"])
        changed = evolve(self.account, plan=PLANS["free"])
        self.keyring.update([record_of(changed, changed_at=1.0)], self.house.time)
        self.assertEqual("5", self.ask(ASKED).headers["Ratelimit-Limit"])
        self.assertFalse(self.door.is_native)
        self.come_anew()
        self.assertEqual("5", self.ask(ASKED).headers["Ratelimit-Limit"])
        self.assertTrue(self.door.is_native)
        self.assertEqual(4, self.gate.used(changed.key_id))

    def test_used_elsewhere(self) -> None:
        """What other nodes have counted binds here at once."""
        free = account_of("a-new-free-key", "free", "f")
        self.keyring.add(free)
        asked = question("/price?asset=BTC", "a-new-free-key")
        self.ask(asked)
        self.come_anew()
        self.assertEqual("3", self.ask(asked).headers["Ratelimit-Remaining"])
        self.house.gate.heard_usage({free.key_id: (month_of(self.house.time), 998)})
        headers = self.ask(asked).headers
        self.assertEqual(("1000", "1"), (headers["Ratelimit-Limit"], headers["Ratelimit-Remaining"]))
        self.assertTrue(self.door.is_native)
        self.assertEqual("0", self.ask(asked).headers["Ratelimit-Remaining"])
        answer = self.ask(asked)
        self.assertEqual((429, "quota_exceeded"), (answer.status, problem_of(answer)["code"]))

    def test_shut(self) -> None:
        """Everything goes the ordinary way, which refuses it; and it is as it was when the gate opens."""
        self.ask(ASKED)
        self.come_anew()
        self.ask(ASKED)
        self.house.gate.is_shut = True
        answer = self.ask(ASKED)
        self.assertEqual((503, "metering_unavailable"), (answer.status, problem_of(answer)["code"]))
        self.assertEqual((True, True), (self.house.gate.is_shut, self.house.lanes.shut))
        self.house.gate.is_shut = False
        self.come_anew()
        self.assertEqual(200, self.ask(ASKED).status)
        self.assertTrue(self.door.is_native)

    def test_closed_ledger(self) -> None:
        """Nobody is answered, and nothing is counted that nobody would take."""
        self.ask(ASKED)
        self.come_anew()
        self.ask(ASKED)
        before = self.door.sent
        self.house.ledger.is_closed = True
        self.door.send(ASKED)
        self.assertEqual((before, True), (self.door.sent, self.door.is_closed))
        self.assertEqual(2, self.house.ledger.requests)

    def test_unknown_is_forgotten(self) -> None:
        """Nothing happens."""
        self.ask(ASKED)
        self.gate.forget(account_of("some-other-key", "free", "o"))
        self.assertEqual(1, self.known)


class BookTests(DoorCase):
    def rows(self) -> list[Row]:
        return self.house.ledger.cut(MANY)

    def test_rows(self) -> None:
        """What was answered natively is in the ledger as if the pages had recorded it."""
        for data in (HOT, HOT * 3, question("/price?asset=btc", UNLIMITED)):
            self.door.send(data)
        self.assertEqual([4 + 1], self.figures("requests"))
        self.assertEqual((2, 0, 5), (len(self.house.ledger), self.house.ledger.own, self.house.ledger.requests))
        partner, _, unlimited = self.house.gate.keyring.accounts  # type: ignore[attr-defined]
        wanted = {
            Kind(account.key_id, "lpo", "http", "BTC", "median", "shelf", 200, True): count
            for account, count in ((partner, 4), (unlimited, 1))
        }
        rows = self.rows()
        self.assertEqual(wanted, {row.kind: row.request_count for row in rows})
        for row in rows:
            self.assertLessEqual(row.response_us_max, row.response_us_sum)
            self.assertLessEqual(abs(row.at - self.house.time), self.door.tolerance)
        self.assertEqual(([], 0), (self.rows(), len(self.house.ledger)))

    def test_left_where_they_are(self) -> None:
        """Whoever cuts the ledger's own rows alone leaves the others."""
        self.door.send(HOT)
        self.house.ledger.count("k", "lpo", "http", "", "", "", 404, False, self.house.time, 1)
        self.assertEqual(["k"], [row.kind.key_id for row in self.house.ledger.cut(MANY, gathers=False)])
        self.assertEqual([1], [row.request_count for row in self.rows()])

    def test_told(self) -> None:
        """What was told adds up to what is drained, row by row and in the same order."""
        self.house.put(quote_of("ETH", 1800.5, source="kraken-ws"))
        notes = b""
        for data in (
            HOT * 2, question("/price?asset=ETH"), question("/price?asset=BTC", UNLIMITED) + HOT, b"", HOT,
            question("/price?asset=ETH", FREE), question("/price?asset=ETH") * 3, HOT,
        ):  # fmt: skip
            if data:
                self.door.send(data)
            told = self.door.native.tell()
            self.assertEqual(bool(data), bool(told))
            if told:
                notes += usagenotes.encode(told)
        rows, end = usagenotes.read(notes)
        self.assertEqual(len(notes), end)
        self.assertEqual(4, self.door.native.kinds)
        drained = self.door.native.drain()
        self.assertEqual(list(drained), added_up(rows))
        self.assertEqual([5, 4, 1, 1], [row.request_count for row in drained])
        self.assertEqual((0, 0, b""), (len(self.door.native.drain()), self.door.native.kinds, self.door.native.tell()))

    def test_rows_when_they_are_wanted(self) -> None:
        for code in ("AA", "BB", "CC"):
            self.house.put(quote_of(code))
            self.door.send(question(f"/price?asset={code}"))
        drained = self.door.native.drain()
        whole = list(drained)
        self.assertEqual(["AA", "BB", "CC"], [row.kind.asset for row in whole])
        self.assertEqual(3, len(drained))
        for place in (slice(None), slice(1, 2), slice(1, 9), slice(7, 9), slice(2, 1), slice(-1, None)):
            self.assertEqual(whole[place], drained[place])
        self.assertEqual((whole[0], whole[2]), (drained[0], drained[2]))
        self.assertRaises(IndexError, lambda: drained[3])

    def test_counters(self) -> None:
        """They are brought in when they are read, each event once."""
        self.door.send(HOT * 3)
        for _ in range(2):
            self.assertEqual(3, self.value("requests", "lpo", "http", "200"))
            self.assertEqual(3, self.value("lookups", "shelf"))
            self.assertEqual([1, 0], [self.value("lane_connections", what) for what in ("accepted", "left")])
        self.door.send(question("/price?asset=BTC&quote=USD") + HOT)
        self.assertEqual(5, self.value("requests", "lpo", "http", "200"))
        self.assertEqual([1, 1], [self.value("lane_connections", what) for what in ("accepted", "left")])


class TimeTests(DoorCase):
    def test_response_times(self) -> None:
        """How long native answers took is brought into the counters, each once."""
        for asked in (3, 4):
            for _ in range(asked):
                self.ask(HOT)
            self.house.counters.gather()
            self.house.counters.gather()
            times = self.house.lanes.figures()["times"]
            counted = {key: count for key, count in self.house.counters.counts.items() if key[0] == "response_times"}
            self.assertEqual(
                {("response_times", "lpo", str(2**bits - 1)): count for bits, count in enumerate(times) if count},
                counted,
            )
        self.assertEqual(7, sum(counted.values()))


class _Counting:
    """A door that notes how many connections it is told to be on the way."""

    def __init__(self) -> None:
        self.told: list[int] = []

    @property
    def on_the_way(self) -> int:
        return self.told[-1] if self.told else 0

    @on_the_way.setter
    def on_the_way(self, count: int) -> None:
        self.told.append(count)

    def take_lanes(self, lanes: Any) -> None:
        raise NotImplementedError

    def moved(self) -> None:
        raise NotImplementedError


class InterludeTests(DoorCase):
    """In the midst of other work, before the reactor has its next turn."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(nativelanes, "INTERLUDE_SECONDS", 0.0)

    def put(self, data: bytes) -> None:
        """What the client sends is there to be read, and nothing has been done about it."""
        self.door.put(data)
        self.door.wait_for(self.is_there, turning=False)

    def is_there(self) -> bool:
        return bool(select.select([self.house.lanes.fileno()], [], [], 0.0)[0])

    def test_answered(self) -> None:
        self.put(HOT)
        self.door.native.interlude()
        self.assertEqual(200, read(self.door.client.recv(65_536)).status)
        self.assertEqual([1, 0], self.figures("requests", "left"))
        self.assertFalse(self.is_there())

    def test_not_yet(self) -> None:
        """There was a turn just now."""
        self.patch(nativelanes, "INTERLUDE_SECONDS", 3_600.0)
        self.put(HOT)
        self.door.native.interlude()
        self.assertTrue(self.is_there())

    def test_the_rest_waits(self) -> None:
        """What is not plain is seen to when the work is done, which may be the very work that it asks for."""
        self.put(HOT[:30])
        self.door.native.interlude()
        self.assertEqual(([1, 0], 0), (self.figures("left", "connections"), len(self.door.site.connections)))
        self.assertEqual(200, self.ask(HOT[30:]).status)
        self.assertEqual(1, len(self.door.site.connections))

    def test_no_more_of_it_than_of_one_turn(self) -> None:
        """Until what had to wait was seen to there is no other interlude, and the door counts what it waits with."""
        door = _Counting()
        self.door.native.door = door
        self.put(HOT[:30])
        self.door.native.interlude()
        self.assertEqual([1], door.told)
        other = socket.create_connection(self.door.listening.getsockname())
        self.addCleanup(other.close)
        self.door.wait_for(self.is_there, turning=False)
        self.door.native.interlude()
        self.assertTrue(self.is_there())
        self.door.turns.settle()
        self.assertEqual([1, 0], door.told)
        self.assertEqual([2], self.figures("accepted"))

    def test_failing(self) -> None:
        """Who calls it is spared."""

        def turn(now: float, date: bytes, brief: bool) -> None:
            raise ValueError("broken")

        lanes: Any = self.door.native._lanes
        failing: Any = type("Failing", (), {"rested": 1.0, "shut": False, "turn": staticmethod(turn)})
        self.door.native._lanes = failing
        self.door.native.interlude()
        self.door.native._lanes = lanes
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_ended_meanwhile(self) -> None:
        """A connection that was still to be seen to ends with the others."""
        self.put(HOT[:30])
        self.door.native.interlude()
        self.door.close()
        self.assertTrue(self.door.is_closed)
        self.assertEqual(0, len(self.door.site.connections))
        self.door.native.interlude()

    def test_closed_ledger(self) -> None:
        self.house.ledger.is_closed = True
        self.put(HOT)
        self.door.native.interlude()
        self.door.turns.settle()
        self.assertEqual((b"", 0), (self.door.sent, self.house.ledger.requests))

    def test_datagrams(self) -> None:
        desk = NativeDesk()
        self.addCleanup(desk.shut)
        desk.ask(f"{PARTNER}|BTC".encode(), 1)
        for datagram in (AS_JSON, f"{PARTNER}|BTC|1".encode()):
            desk.asking.send(datagram)
        desk.turns.wait()
        desk.native.interlude()
        self.assertIn(b'"id":1}', desk.asking.recv(65_536))
        desk.turns.settle()
        self.assertIn(b'"id":2}', desk.asking.recv(65_536))

    def test_datagrams_ended_meanwhile(self) -> None:
        """Nobody is left who would answer."""
        desk = NativeDesk()
        self.addCleanup(desk.shut)
        desk.asking.send(AS_JSON)
        desk.turns.wait()
        desk.native.interlude()
        desk.native.end_datagrams()
        desk.turns.settle()
        self.assertEqual([], select.select([desk.asking], [], [], 0.0)[0])


class EndTests(DoorCase):
    def expire(self, seconds: float) -> None:
        """The look for idle connections comes, and so many seconds of idleness are allowed."""
        self.door.site.timeOut = seconds
        self.door.pass_time(EXPIRE_SECONDS)

    def test_idle(self) -> None:
        self.door.send(HOT)
        self.expire(1e6)
        self.assertFalse(self.door.is_closed)
        self.expire(0.0)
        self.assertTrue(self.door.is_closed)
        self.assertEqual([0, 1], self.figures("connections", "idled"))
        self.assertEqual(1, self.value("lane_connections", "idle"))

    def test_part(self) -> None:
        """The next answer on each connection is its last, and nobody new is taken."""
        self.door.send(HOT)
        self.door.native.part()
        late = socket.create_connection(self.door.listening.getsockname())
        self.addCleanup(late.close)
        self.door.turns.settle()
        self.assertFalse(self.door.is_closed)
        answer = self.ask(HOT + HOT)
        self.assertEqual((200, "close"), (answer.status, answer.headers["Connection"]))
        self.assertEqual((2, True), (self.door.sent.count(b" 200 OK"), self.door.is_closed))
        self.assertEqual([0, 1, 2], self.figures("connections", "accepted", "requests"))

    def test_part_unread(self) -> None:
        """A last answer that could not be sent whole is sent by the ordinary way, and then the connection ends."""
        self.door.native.part()
        client, ours = _pair()
        self.addCleanup(client.close)
        self.door.native._adopt(ours.detach(), b"", b"the last answer", None, 0)
        self.door.turns.settle()
        client.settimeout(10.0)
        self.assertEqual(b"the last answer", client.recv(100))
        self.assertEqual(b"", client.recv(100))
        client.close()
        self.door.pass_time(60.0)
        self.assertEqual(set(), self.door.site.connections)

    def test_end(self) -> None:
        """Connections and the watch for them end; a second time nothing happens."""
        before = len(descriptors())
        self.door.send(HOT)
        self.door.close()
        self.assertTrue(self.door.is_closed)
        self.assertEqual(
            ([], [], 0), (self.door.turns.readers, self.door.turns.getDelayedCalls(), self.door.native.connections)
        )
        self.door.native.end_connections()
        # the connection, and the spare one
        self.assertEqual(before - 2, len(descriptors()))
        self.assertEqual(1, self.house.ledger.requests)

    def test_the_port_is_read_natively(self) -> None:
        self.assertFalse(self.door.port.is_reading)


def _pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection."""
    with socket.create_server((HERE, 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        return client, listening.accept()[0]


class DatagramTests(NativeCase):
    def setUp(self) -> None:
        self.desk = NativeDesk()
        self.addCleanup(self.desk.shut)
        self.house = self.desk.house

    def test_with_a_verdict(self) -> None:
        """A datagram that the gate refused natively is refused from that."""
        asked: list[bytes] = []
        self.patch(self.house.gate, "admit", lambda key, now: asked.append(key))
        question = f"{FREE}|BTC|{'1' * 18}".encode()
        answers = [*(self.desk.ask(question, 1)[0] for _ in range(5))]
        self.assertEqual([True] * 4 + [False], [b'"price"' in answer for answer in answers])
        self.assertIn(b"rate_limited", answers[-1])
        self.assertEqual([], asked)
        self.assertEqual(1, self.house.counters.value("requests", "lpo", "udp", "429"))
        self.assertEqual(4, self.house.counters.value("requests", "lpo", "udp", "200"))

    def test_one_that_fails(self) -> None:
        """It is logged, and those behind it are answered."""
        handed: list[bytes] = []

        def received(datagram: bytes, addr: Any) -> None:
            handed.append(datagram)
            if len(handed) == 1:
                raise ValueError("broken")

        self.patch(self.desk.protocol, "datagramReceived", received)
        for datagram in (b"one", b"two", f"{PARTNER}|BTC".encode()):
            self.desk.asking.send(datagram)
        self.desk.turns.wait()
        self.assertIn(b'"price"', self.desk.ask(f"{PARTNER}|BTC".encode(), 2)[1])
        self.assertEqual([b"one", b"two"], handed)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_unsendable(self) -> None:
        """A question counts though its answer could not be sent: a price was looked up for it, and nothing answered."""
        self.desk.ask(f"{PARTNER}|BTC".encode(), 1)
        # whoever asks from port 0 cannot be answered; the kernel's own sockets never do
        figures = self.house.lanes.figures
        lanes: Any = self.desk.native._lanes
        self.assertIs(self.house.lanes, lanes)
        told: Any = _Figured(lambda: {**figures(), "answers": 5, "unsendable": 2})
        self.desk.native._lanes = told
        for _ in range(2):
            self.assertEqual(3, self.house.counters.value("requests", "lpo", "udp", "200"))
            self.assertEqual(2, self.house.counters.value("udp_dropped", "lpo", UNSENDABLE))
            self.assertEqual(5, self.house.counters.value("lookups", "shelf"))
        self.desk.native._lanes = lanes

    def test_end(self) -> None:
        """What comes then is nobody's; a second time nothing happens."""
        self.assertFalse(self.desk.port.is_reading)
        self.desk.ask(f"{PARTNER}|BTC".encode(), 1)
        self.desk.native.end_datagrams()
        self.desk.native.end_datagrams()
        self.assertEqual([], self.desk.turns.readers)
        self.desk.asking.send(f"{PARTNER}|BTC".encode())
        self.assertEqual([f"{PARTNER}|BTC".encode()], [self.desk.answering.recv(100)])
        self.assertEqual(1, self.house.ledger.requests)


class BothTests(NativeCase):
    def test_watched_while_either_is(self) -> None:
        door = NativeDoor()
        self.addCleanup(door.shut)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.bind((HERE, 0))
        door.native.take_datagrams(PlayedPort(sock), None)
        self.assertEqual([door.native], door.turns.readers)
        door.native.end_connections()
        self.assertEqual([door.native], door.turns.readers)
        door.native._protocol = object()
        door.native.end_datagrams()
        self.assertEqual([], door.turns.readers)


class _Figured:
    """A native part that says what it is told to."""

    def __init__(self, figures: Callable[[], dict[str, Any]]) -> None:
        self.figures = figures

    def expire(self, seconds: float) -> int:
        return 0


class ExhaustionTests(SynchronousTestCase):
    def test_log(self) -> None:
        """One line when there are no descriptors any more, and one when there are again."""
        clock = Clock()
        names = (
            "requests", "answers", "unsendable", "accepted", "left", "returned", "idled", "exhausted", "refused",
        )  # fmt: skip
        figures: dict[str, Any] = {**dict.fromkeys(names, 0), "times": [0] * 32}
        counters = Counters()
        lanes: Any = _Figured(lambda: dict(figures))
        native = NativeLanes(lanes, clock, clock.seconds, Ledger(), counters)
        native._site = type("Site", (), {"timeOut": 60})
        native._plan_expiry()
        logged = listen(self)
        for exhausted in (0, 0, 3, 4, 9, 9, 9, 12):
            figures["exhausted"] = exhausted
            clock.advance(EXPIRE_SECONDS)
        self.assertEqual([True, False, True], ["no descriptors" in line for line in logged.lines])
        self.assertEqual(12, counters.value("lane_connections", "no_descriptor"))
