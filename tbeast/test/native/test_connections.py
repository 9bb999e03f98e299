"""Connections in the native lane, over real sockets: they are answered in order, or leave with all that is theirs."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from tbeast.domain.admission import NO_LIMIT, RATE_LIMITED, Standing, Verdict
from tbeast.domain.plans import PLANS
from tbeast.test.native import parts
from tbeast.test.native.parts import (
    DATE,
    KEY,
    NOW,
    PARTNER,
    PATIENCE_SECONDS,
    LanesCase,
    answer_of,
    bodies,
    head,
    received,
)

FREE = (NO_LIMIT, NO_LIMIT, 0)
REPLY = parts.REPLY._replace(observed_at=NOW + 3_600.0)
"""It lies in the future, so that its age is nothing however long a turn takes."""
ANSWER = answer_of(REPLY, NOW, FREE)
ONE_A_SECOND = evolve(PARTNER, plan=evolve(PLANS["partner"], qps=1.0, burst=3, min_wait_seconds=1.0))


def rest_of(client: socket.socket) -> bytes:
    """All that still comes, to the end."""
    text = b""
    while more := client.recv(65_536):
        text += more
    return text


class ConnectionsCase(LanesCase):
    def setUp(self) -> None:
        super().setUp()
        self.listen()
        self.put("BTC", REPLY)

    def take_over(self) -> tuple[socket.socket, bytes, bytes, Any]:
        """Go on with the one connection that has left, as the ordinary way would."""
        self.turn_until(lambda: self.left)
        self.assertEqual(1, len(self.left))
        descriptor, *rest, self.returns = self.left.pop()
        taken = socket.socket(fileno=descriptor)
        self.addCleanup(taken.close)
        return (taken, *rest)


class WaitingTests(ConnectionsCase):
    """Where questions come one soon after the other, the next one is waited for awake."""

    linger = 0.001
    MOST = 8

    def setUp(self) -> None:
        super().setUp()
        self.learn()
        self.asking = self.client()

    def ask_until(self, is_so: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            self.assertLess(time.monotonic(), end, "it did not come")
            self.ask(self.asking, head())

    def test_not_at_first(self) -> None:
        self.assertEqual(-self.MOST, self.lanes.luck)

    def test_tried_and_given_up(self) -> None:
        """It is tried when turn follows turn; in vain here, where who asks does so when the turn is over."""
        for _ in range(3):
            self.ask_until(lambda: self.lanes.luck == -1)
            self.ask(self.asking, head())
            self.assertEqual(-self.MOST, self.lanes.luck)

    def test_not_after_a_pause(self) -> None:
        self.ask(self.asking, head())
        self.ask(self.asking, head())
        time.sleep(3 * self.linger)
        self.ask(self.asking, head())
        self.assertEqual(-self.MOST, self.lanes.luck)

    def test_it_pays(self) -> None:
        """Who asks again at once, in a process of its own, is awaited."""
        asker = subprocess.Popen(
            (sys.executable, "-c", _ASKER, str(self.port.getsockname()[1]), head().hex()), stdout=subprocess.DEVNULL
        )
        self.addCleanup(asker.wait)
        self.addCleanup(asker.kill)
        self.turn_until(lambda: self.lanes.luck > 0)
        self.assertEqual([], self.left)


_ASKER = """
import socket, sys
asking = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    asking.sendall(bytes.fromhex(sys.argv[2]))
    if not asking.recv(65536):
        break
"""


class BriefTests(ConnectionsCase):
    """A turn in the midst of other work."""

    linger = 0.001

    def setUp(self) -> None:
        super().setUp()
        self.learn()
        self.asking = self.client()

    def turn_briefly(self) -> Any:
        return self.lanes.turn(self.now, DATE, True)

    def test_answers(self) -> None:
        """It answers what is there, and is none of the turns that tell whether to wait awake."""
        luck = self.lanes.luck
        for _ in range(20):
            self.asking.sendall(head())
            while not select.select([self.asking], [], [], 0.0)[0]:
                self.assertIsNone(self.turn_briefly())
            self.assertEqual(ANSWER, self.asking.recv(65_536))
        self.assertEqual(luck, self.lanes.luck)
        self.assertEqual([20], list(self.figures("requests")))

    def test_hands_over(self) -> None:
        self.asking.sendall(head()[:10])
        found = None
        while found is None:
            found = self.turn_briefly()
        self.left += found[0]
        self.assertEqual([(head()[:10], b"", None, 0)], [left[1:] for left in self.left])

    def test_rested(self) -> None:
        """Since a turn of either kind, by a clock that goes on meanwhile."""
        for brief in (False, True):
            before = time.monotonic()
            self.lanes.turn(self.now, DATE, brief)
            turned = time.monotonic()
            time.sleep(0.002)
            asked = time.monotonic()
            rested = self.lanes.rested
            self.assertGreaterEqual(rested, asked - turned)
            self.assertLessEqual(rested, time.monotonic() - before)

    def test_the_work_in_between_goes_first(self) -> None:
        """Brief turns have a part of the time: when they have had it, whoever asks waits for one that is not brief."""
        slow = Standing(PARTNER, self.now)

        class Slow:
            def admit(_, now: float) -> Verdict:
                time.sleep(1.0)  # of which three quarters are too much, for three seconds
                return slow.admit(now)

        self.learn(evolve(PARTNER, key_id="slow"), b"a-slow-key", Slow())
        self.asking.sendall(head(key=b"a-slow-key"))
        while not select.select([self.asking], [], [], 0.0)[0]:
            self.turn_briefly()
        self.assertEqual(ANSWER, self.asking.recv(65_536))
        self.asking.sendall(head())
        self.assertTrue(select.select([self.lanes.fileno()], [], [], PATIENCE_SECONDS)[0])
        self.assertIsNone(self.turn_briefly())
        self.assertEqual([], select.select([self.asking], [], [], 0.0)[0])
        self.turn_until(lambda: select.select([self.asking], [], [], 0.0)[0])
        self.assertEqual(ANSWER, self.asking.recv(65_536))

    def test_not_within_another(self) -> None:
        """Who is asked about a key during a turn cannot begin one."""
        found: list[Any] = []
        there = self.client()

        class Asking:
            def admit(_, now: float) -> Verdict:
                there.sendall(head())
                found.append((select.select([self.lanes.fileno()], [], [], PATIENCE_SECONDS)[0] != [], *turned()))
                return Verdict("admitted", PARTNER, NO_LIMIT, NO_LIMIT, 0, 0.0)

        def turned() -> tuple[Any, int, int]:
            before = self.figures("requests")[0]
            return self.turn_briefly(), before, self.figures("requests")[0]

        self.learn(evolve(PARTNER, key_id="other"), b"an-other-key", Asking())
        self.asking.sendall(head(key=b"an-other-key"))
        self.turn_until(lambda: self.figures("requests")[0] == 2)
        self.assertEqual([(True, None, 0, 0)], found)
        self.assertEqual([ANSWER] * 2, [client.recv(65_536) for client in (self.asking, there)])


class AnswerTests(ConnectionsCase):
    def setUp(self) -> None:
        super().setUp()
        self.learn()

    def test_keep_alive(self) -> None:
        client = self.client()
        for _ in range(20):
            self.assertEqual(ANSWER, self.ask(client, head()))
        self.assertEqual((1, 1, 20, 0), self.figures("connections", "accepted", "requests", "left"))

    def test_pipelined(self) -> None:
        """Many at once, answered in order."""
        codes = [f"A{number}" for number in range(300)]
        for code in codes:
            self.put(code, REPLY._replace(head=code.encode() + b" "))
        answers = self.answered(self.client(), *(head(code.lower().encode()) for code in codes))
        self.assertEqual(codes, [answer.split()[0].decode() for answer in answers])

    def test_too_many_at_once(self) -> None:
        """Who asks more in a row than others should wait for leaves with the rest, which is untouched and in order."""
        client = self.client()
        client.sendall(head() * 400)
        _, rest, unsent, verdict = self.take_over()
        self.assertEqual((head() * 80, b"", None), (rest, unsent, verdict))
        self.assertEqual(ANSWER * 320, received(client, 320))
        self.assertEqual(320, self.figures("requests")[0])

    def test_some_descriptors_are_kept(self) -> None:
        """For whoever else needs them: the rest of the clients wait until some have ended."""
        clients = [self.connect() for _ in range(6)]
        free = os.dup(0)
        os.close(free)
        self.lanes.highest = free + 2
        for _ in range(3):
            self.turn(0.05)
        self.assertEqual((3, 3, 1), self.figures("connections", "accepted", "exhausted"))
        self.lanes.expire(1e6)  # looks again, and there is no room
        self.turn(0.05)
        self.assertEqual((3, 3), self.figures("connections", "accepted"))
        clients[0].close()
        self.turn_until(lambda: self.figures("accepted")[0] >= 4)  # its own descriptor is free as well
        self.assertEqual(ANSWER, self.ask(clients[1], head()))
        self.assertEqual(ANSWER, self.ask(clients[3], head()))

    def test_terms(self) -> None:
        standing = self.learn(ONE_A_SECOND)
        client = self.client()
        self.assertEqual(answer_of(REPLY, NOW, (3, 2, 1)), self.ask(client, head()))
        self.assertEqual(answer_of(REPLY, NOW, (3, 1, 2)), self.ask(client, head()))
        self.assertEqual(2, standing.used)

    def test_what_is_not_whole_leaves(self) -> None:
        """With the bytes that were received, and the connection as it is."""
        for length in (1, 20, len(head()) - 1):
            client = self.client()
            client.sendall(head()[:length])
            taken, begun, unsent, verdict = self.take_over()
            self.assertEqual((head()[:length], b"", None), (begun, unsent, verdict))
            client.sendall(head()[length:])
            self.assertEqual(head()[length:], taken.recv(65_536))
            taken.sendall(b"answer")
            taken.close()
            self.assertEqual(b"answer", rest_of(client))
        self.assertEqual((0, 3), self.figures("connections", "left"))

    def test_what_is_not_plain_leaves(self) -> None:
        for request in (
            b"\r\n", b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", head(b"NOPE"), head(key=b"nobody's"),
            head(more=b"Connection: close\r\n"), head(more=b"Content-Length: 0\r\n"), b"\0" * 5,
        ):  # fmt: skip
            client = self.client()
            client.sendall(head() + request + head())
            _, begun, unsent, verdict = self.take_over()
            self.assertEqual((request + head(), b"", None), (begun, unsent, verdict))
            self.assertEqual(ANSWER, received(client, 1))

    def test_refused(self) -> None:
        """What the gate refused leaves with the verdict, and was asked once; what came before it is answered."""
        standing = self.learn(ONE_A_SECOND)
        client = self.client()
        client.sendall(head() * 5)
        _, begun, unsent, verdict = self.take_over()
        self.assertEqual((head() * 2, b"", RATE_LIMITED), (begun, unsent, verdict.outcome))
        self.assertEqual(3, len(bodies(received(client, 3))))
        self.assertEqual(3, standing.used)

    def test_shut(self) -> None:
        """Everything is handed over, and nothing counted, until it is open again."""
        standing = self.lanes.learn(KEY, PARTNER.key_id, Standing(PARTNER, NOW))
        staying, client = self.client(), self.client()
        self.lanes.shut = True
        client.sendall(head())
        self.assertEqual((head(), b"", None), self.take_over()[1:])
        self.lanes.shut = False
        self.assertEqual(ANSWER, self.ask(staying, head()))
        self.assertIsNone(standing)
        self.assertEqual([1], [row[5] for row in self.drain()])

    def test_large(self) -> None:
        """A head that takes more than one reading leaves in the middle, and nothing of it is lost."""
        long = head(more=b"A: " + b"b" * 14_000 + b"\r\n")
        client = self.client()
        sending = long * 8
        client.sendall(sending)
        taken, begun, unsent, _ = self.take_over()
        taken.settimeout(PATIENCE_SECONDS)
        answered = self.figures("requests")[0]
        self.assertEqual(b"", unsent)
        rest = begun
        while len(rest) < len(sending) - answered * len(long):
            rest += taken.recv(65_536)
        self.assertEqual(sending[answered * len(long) :], rest)
        self.assertEqual(ANSWER * answered, received(client, answered))


class UnreadTests(ConnectionsCase):
    def test_nothing_is_lost(self) -> None:
        """A client that asks and does not read leaves with what was not sent; together it is every answer, in order."""
        self.learn()
        codes = [b"A%d" % number for number in range(50)]
        for code in codes:
            self.put(code.decode(), REPLY._replace(head=code + b" " + b"." * 800))
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.settimeout(PATIENCE_SECONDS)
        self.addCleanup(client.close)
        client.connect(self.port.getsockname())
        asked: list[bytes] = []
        while not self.left:
            for code in codes:
                asked.append(code)
                client.send(head(code))
            self.turn(0.1)
        taken, begun, unsent, verdict = self.take_over()
        self.assertIsNone(verdict)
        self.assertTrue(0 < len(unsent) <= 131_072)
        taken.settimeout(PATIENCE_SECONDS)
        answered = self.figures("requests")[0]
        wanted = b"".join(
            answer_of(REPLY._replace(head=code + b" " + b"." * 800), NOW, FREE) for code in asked[:answered]
        )
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(b"".join(map(head, asked[answered:])), begun + rest_of(taken))
        sent = len(wanted) - len(unsent)
        found = b""
        while len(found) < sent:
            found += client.recv(65_536)
        self.assertEqual(wanted, found + unsent)
        self.assertEqual(answered, sum(row[5] for row in self.drain()))

    def test_only_that_one(self) -> None:
        """The others go on as if nothing were."""
        self.learn()
        unread, other = self.client(), self.client()
        unread.setblocking(False)
        while not self.left:
            with contextlib.suppress(BlockingIOError):
                unread.send(head() * 50)
            self.turn(0.01)
            other.sendall(head())
            self.turn()
        before = self.figures("requests")
        other.sendall(head())
        self.turn_until(lambda: self.figures("requests") > before)
        self.assertEqual((1, 1), self.figures("connections", "left"))


class EndTests(ConnectionsCase):
    def setUp(self) -> None:
        super().setUp()
        self.learn()

    def ended(self, count: int = 0) -> None:
        self.turn_until(lambda: self.figures("connections") == (count,))
        self.assertEqual([], self.left)

    def test_closed(self) -> None:
        for asked in (b"", head()):
            client = self.client()
            if asked:
                self.ask(client, asked)
            client.close()
            self.ended()

    def test_reset(self) -> None:
        client = self.client()
        self.ask(client, head())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        self.ended()

    def test_reset_with_questions(self) -> None:
        """What a client asked that is gone already costs nobody anything."""
        for _ in range(20):
            client = self.client()
            client.sendall(head() * 3)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            self.turn_until(lambda: self.figures("connections") == (0,))

    def test_half_closed(self) -> None:
        """Who has said all still gets his answers."""
        client = self.client()
        client.sendall(head() * 2)
        client.shutdown(socket.SHUT_WR)
        self.ended()
        self.assertEqual(ANSWER * 2, rest_of(client))

    def test_idle(self) -> None:
        asking, silent = self.client(), self.client()
        self.ask(asking, head())
        self.assertEqual(0, self.lanes.expire(3_600.0))
        self.assertEqual(2, self.lanes.expire(-1.0))
        self.assertEqual((b"", b""), (rest_of(asking), rest_of(silent)))
        self.assertEqual((0, 2), self.figures("connections", "idled"))
        self.assertEqual(0, self.lanes.expire(0.0))

    def test_longest_idle_first(self) -> None:
        """Only those end that have asked nothing for so long."""
        clients = [self.client() for _ in range(5)]
        for client in clients:
            self.ask(client, head())
        between = time.monotonic()
        self.turn(0.5)
        for client in (clients[3], clients[0], clients[4]):
            self.ask(client, head())
        self.assertEqual(2, self.lanes.expire(time.monotonic() - between))
        self.assertEqual((b"", b""), (rest_of(clients[1]), rest_of(clients[2])))
        for client in (clients[0], clients[3], clients[4]):
            self.assertEqual(ANSWER, self.ask(client, head()))

    def test_parting(self) -> None:
        """The next answer on each connection is its last, and says so."""
        client, other = self.client(), self.client()
        self.ask(client, head())
        self.lanes.parting = True
        client.sendall(head() * 3)
        self.turn_until(lambda: self.figures("requests") == (2,))
        self.assertEqual(answer_of(REPLY, NOW, FREE, last=True), rest_of(client))
        self.assertEqual((1, 0), self.figures("connections", "left"))
        other.sendall(head()[:9])
        self.assertEqual(head()[:9], self.take_over()[1])

    def test_taking_no_more(self) -> None:
        """Those that there are go on; new ones wait until somebody takes them."""
        client = self.client()
        self.lanes.end_accepting()
        late = self.connect()
        self.assertFalse(self.turn(0.0))
        self.assertEqual(ANSWER, self.ask(client, head()))
        self.assertEqual((1,), self.figures("accepted"))
        self.lanes.listen(self.port.fileno())
        self.assertEqual(ANSWER, self.ask(late, head()))

    def test_end(self) -> None:
        client, other = self.client(), self.client()
        self.lanes.end_listening()
        self.assertEqual((b"", b""), (rest_of(client), rest_of(other)))
        self.assertEqual((0,), self.figures("connections"))
        self.lanes.end_listening()
        self.lanes.end_accepting()

    def test_closed_lanes(self) -> None:
        client = self.client()
        for _ in range(2):
            self.lanes.close()
        self.assertEqual(b"", rest_of(client))
        for name in ("end_listening", "end_accepting", "end_datagrams", "drain", "figures"):
            getattr(self.lanes, name)()
        self.assertEqual((-1, 0), (self.lanes.fileno(), self.lanes.expire(0.0)))
        self.assertRaises(ValueError, self.lanes.turn, NOW, DATE)
        self.assertRaises(ValueError, self.lanes.listen, self.port.fileno())
        self.assertRaises(ValueError, self.lanes.answer_datagrams, self.port.fileno())


class FailureTests(ConnectionsCase):
    """A standing that raises."""

    def setUp(self) -> None:
        super().setUp()
        self.said: list[Any] = []
        self.patch(sys, "unraisablehook", lambda about: self.said.append(about.exc_value))

    def test_ordinary_way_answers_for_it(self) -> None:
        """It is said, and the request leaves as it came; what was asked before it is answered."""

        class Failing:
            asked = 0

            def admit(self, now: float) -> Verdict:
                self.asked += 1
                if self.asked > 2:
                    raise RuntimeError("not today")
                return Verdict("admitted", None, *FREE, 0.0)

        self.learn(standing=Failing())
        client, other = self.client(), self.client()
        client.sendall(head() * 4)
        _, begun, unsent, verdict = self.take_over()
        self.assertEqual((head() * 2, b"", None), (begun, unsent, verdict))
        self.assertEqual(["not today"], [str(error) for error in self.said])
        self.assertEqual(ANSWER * 2, received(client, 2))
        self.assertEqual([2], [row[5] for row in self.drain()])
        self.learn()
        self.assertEqual(ANSWER, self.ask(other, head()))


class ArgumentTests(ConnectionsCase):
    def test_listening(self) -> None:
        self.assertRaises(ValueError, self.lanes.listen, self.port.fileno())
        other = socket.create_server(("127.0.0.1", 0))
        descriptor = other.fileno()
        other.close()
        self.lanes.end_accepting()
        for wrong, error in ((descriptor, OSError), (-1, OSError), ("text", TypeError), (None, TypeError)):
            self.assertRaises(error, self.lanes.listen, wrong)
            self.assertRaises(error, self.lanes.answer_datagrams, wrong)

    def test_turn(self) -> None:
        turns: tuple[tuple[object, ...], ...] = ((), (NOW,), (NOW, DATE, 1, 1), ("now", DATE), (NOW, DATE.decode()))
        for arguments in turns:
            self.assertRaises((TypeError, ValueError), self.lanes.turn, *arguments)
        self.assertRaises(ValueError, self.lanes.turn, NOW, DATE[1:])
        self.assertIsNone(self.lanes.turn(int(NOW), DATE))
        self.assertRaises(TypeError, self.lanes.expire, "long")

    def test_times_that_are_none(self) -> None:
        """Nothing is answered at a time that is no number."""
        self.learn()
        for self.now in (float("nan"), float("inf")):
            client = self.client()
            client.sendall(head())
            self.assertEqual(head(), self.take_over()[1])


@contextlib.contextmanager
def descriptors(most: Callable[[int, int], int]) -> Iterator[int]:
    """Let this process open that many files for a while.

    @param most: gets the limits that there are, the soft and the hard.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = most(soft, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class CrowdTests(ConnectionsCase):
    def accepted(self, count: int) -> None:
        self.turn_until(lambda: self.figures("accepted")[0] == count)

    def test_thousands(self) -> None:
        """As many as may be opened here, up to 2,000: all are answered, in any order, and all end."""
        self.learn()
        with descriptors(lambda soft, hard: max(soft, min(hard, 4_500))) as limit:
            crowd = min(2_000, (limit - 300) // 2)
            self.assertGreater(crowd, 300)
            clients = []
            for start in range(0, crowd, 200):
                clients += [self.connect() for _ in range(min(200, crowd - start))]
                self.accepted(len(clients))
            for client in clients:
                client.sendall(head())
            self.turn_until(lambda: self.figures("requests")[0] == crowd)
            self.assertEqual({ANSWER}, {received(client, 1) for client in clients[::-1]})
            self.assertEqual((crowd, 0), self.figures("connections", "left"))
            for client in clients:
                client.close()
            self.turn_until(lambda: self.figures("connections") == (0,))
        self.assertEqual([crowd], [row[5] for row in self.drain()])

    def test_no_descriptors(self) -> None:
        """Those that cannot be taken wait; the others are served, and make room when they end."""
        self.learn()
        clients = [self.connect() for _ in range(60)]
        first = clients[0].dup()
        free = first.fileno()
        first.close()
        with descriptors(lambda soft, hard: free + 20):
            self.turn_until(lambda: self.figures("exhausted")[0] > 0)
            taken = self.figures("connections")[0]
            self.assertTrue(0 < taken <= 20, taken)
            self.assertFalse(self.turn(0.0), "it turns in circles")
            for client in clients[:taken]:
                self.assertEqual(ANSWER, self.ask(client, head()))
            for client in clients[:5]:
                client.close()
            self.turn_until(lambda: self.figures("accepted")[0] >= taken + 5)
            self.assertGreaterEqual(self.figures("connections")[0], taken)
        # an idle second, at the latest
        self.lanes.expire(3_600.0)
        self.turn_until(lambda: self.figures("accepted")[0] == 60)
        for client in clients[5:]:
            self.assertEqual(ANSWER, self.ask(client, head()))


LIVES = st.lists(
    st.tuples(
        st.integers(0, 5), st.sampled_from(("ask", "ask", "ask", "three", "part", "close", "reset", "half", "turn"))
    ),
    max_size=60,
)


class LifeTests(ConnectionsCase):
    @settings(max_examples=60, deadline=None)
    @given(LIVES)
    def test_any(self, acts: list[tuple[int, str]]) -> None:
        """Clients come, ask, stop in the middle and go in any order: who waits for an answer has it in the end."""
        standing = self.learn()
        before = self.figures("requests", "connections")
        clients: dict[int, tuple[socket.socket, int]] = {}
        for which, act in acts:
            if which not in clients:
                clients[which] = self.connect(), 0
            client, waiting = clients[which]
            if act == "turn":
                self.turn(0.0)
            elif act in ("ask", "three"):
                count = 1 if act == "ask" else 3
                client.sendall(head() * count)
                clients[which] = client, waiting + count
            else:
                del clients[which]
                if act == "part":
                    client.sendall(head()[:30])
                elif act == "half":
                    client.shutdown(socket.SHUT_WR)
                elif act == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if act != "half":
                    client.close()
        for client, waiting in clients.values():
            if waiting:
                self.turn_until(partial(self.has, client, waiting * len(ANSWER)))
                self.assertEqual(ANSWER * waiting, received(client, waiting))
            client.close()
        self.turn_until(lambda: not self.turn(0.0) and self.figures("connections")[0] == before[1])
        self.assertEqual(standing.used, self.figures("requests")[0] - before[0])
        self.assertEqual(standing.used, sum(row[5] for row in self.drain()))
        self.close_left()

    def has(self, client: socket.socket, length: int) -> bool:
        """Whether so much has come."""
        client.setblocking(False)
        try:
            return len(client.recv(1 << 20, socket.MSG_PEEK)) >= length
        except BlockingIOError:
            return False
        finally:
            client.settimeout(PATIENCE_SECONDS)
