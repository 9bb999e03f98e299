"""Datagrams in the native lane, over real sockets: many at a time, each answered to whoever asked."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
from typing import Any

from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tbeast.codecs.datagrams import LARGEST
from tbeast.domain.admission import RATE_LIMITED, Standing, Verdict
from tbeast.domain.plans import PLANS
from tbeast.test.native import parts
from tbeast.test.native.parts import DATE, KEY, NOW, PARTNER, LanesCase

REPLY = parts.REPLY._replace(observed_at=NOW + 3_600.0)
"""It lies in the future, so that its age is nothing however long a turn takes."""

BODY = b"%b0.000%b" % (REPLY.head, REPLY.tail)
SO_NO_CHECK, UDP_GRO = 11, 104  # of Linux, and not in Python's module
AT_ONCE = 60
"""How many datagrams are under way at a time: fewer than any system drops."""


def question(number: int | None = None, asset: bytes = b"BTC", key: bytes = KEY) -> bytes:
    return b"%b|%b" % (key, asset) if number is None else b"%b|%b|%d" % (key, asset, number)


def answer(number: int | None = None, body: bytes = BODY) -> bytes:
    return body if number is None else body[:-1] + b',"id":%d}' % number


class DatagramsCase(LanesCase):
    host = "127.0.0.1"

    def setUp(self) -> None:
        super().setUp()
        self.bind(self.host)
        self.put("BTC", REPLY)
        self.learn()
        self.asking = self.asker(self.host)

    def answers(self, asker: socket.socket, count: int) -> list[bytes]:
        return [asker.recv(65_536) for _ in range(count)]

    def silent(self, asker: socket.socket) -> None:
        """Nothing has come that was not received."""
        self.assertEqual([], select.select([asker], [], [], 0.0)[0])

    def serve(self, count: int) -> None:
        """Serve until so many more have been seen."""
        before = self.seen
        self.turn_until(lambda: self.seen == before + count)

    @property
    def seen(self) -> int:
        return self.figures("answers")[0] + len(self.others)


class AnswerTests(DatagramsCase):
    def test_one(self) -> None:
        for number in (None, 0, 7, -1, 10**17):
            self.asking.send(question(number))
            self.turn()
            self.assertEqual(answer(number), self.asking.recv(4_096))
        self.assertEqual(5, self.figures("answers")[0])
        self.assertEqual([], self.others)

    def test_batches(self) -> None:
        """Several rounds of them in one turn, in order, answers of equal length and of others."""
        numbers = [10 ** (number % 7) + number for number in range(4 * AT_ONCE)]
        for start in range(0, len(numbers), AT_ONCE):
            some = numbers[start : start + AT_ONCE]
            for number in some:
                self.asking.send(question(number))
            self.serve(len(some))
            self.assertEqual([answer(number) for number in some], self.answers(self.asking, len(some)))
        self.silent(self.asking)
        self.assertEqual([len(numbers)], [row[5] for row in self.drain()])

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(-1_000, 10**9)), max_size=AT_ONCE))
    def test_any_mixture(self, asked: list[tuple[int, int, int]]) -> None:
        """Several askers, several assets, ids of any length: each gets its own answers, in its own order."""
        codes = (b"BTC", b"ETH", b"SOL")
        bodies = [BODY[: -2 - 50 * number] + b"}" for number in range(len(codes))]
        for code, text in zip(codes, bodies, strict=True):
            self.put(code.decode(), REPLY._replace(head=text[:10], tail=text[15:]))
        texts = [text[:10] + b"0.000" + text[15:] for text in bodies]
        while len(self.askers) < 4:
            self.askers.append(self.asker(self.host))
        for who, what, number in asked:
            self.askers[who].send(question(number, codes[what]))
        self.serve(len(asked))
        for place, asker in enumerate(self.askers):
            mine = [(what, number) for who, what, number in asked if who == place]
            self.assertEqual([answer(number, texts[what]) for what, number in mine], self.answers(asker, len(mine)))
            self.silent(asker)

    def setUp(self) -> None:
        super().setUp()
        self.askers = [self.asking]

    def test_merged(self) -> None:
        """Equally long answers to one asker leave as one message: who can take it so gets it so."""
        self.asking.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        for number in range(10, 40):
            self.asking.send(question(number))
        self.serve(30)
        text, ancillary, _, _ = self.asking.recvmsg(65_536, 64)
        self.assertEqual(b"".join(answer(number) for number in range(10, 40)), text)
        self.assertEqual([(socket.IPPROTO_UDP, UDP_GRO)], [(level, kind) for level, kind, _ in ancillary])
        self.assertEqual(len(answer(10)), int.from_bytes(ancillary[0][2], sys.byteorder))

    def test_system_that_does_not_cut(self) -> None:
        """Where the system refuses that they go one by one, now and later, and none is lost or sent twice."""
        self.datagrams.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        other = self.asker(self.host)
        for _ in range(3):
            for number in range(30):
                self.asking.send(question(number))
                if number % 10 == 3:
                    other.send(question(number))
            self.serve(33)
            self.assertEqual([answer(number) for number in range(30)], self.answers(self.asking, 30))
            self.assertEqual([answer(number) for number in (3, 13, 23)], self.answers(other, 3))
            self.silent(self.asking)
        self.assertEqual((99, 0), self.figures("answers", "unsendable"))

    def test_longest(self) -> None:
        """The longest reply there is, with the longest id, is one datagram that may be sent."""
        self.put("BTC", REPLY._replace(head=b"h" * 900, tail=b"t" * 53 + b"}"))
        self.asking.send(question(-(10**18) + 1))
        self.turn()
        found = self.asking.recv(4_096)
        self.assertEqual(b"h" * 900 + b"0.000" + b"t" * 53 + b',"id":-%d}' % (10**18 - 1), found)
        self.assertLessEqual(len(found), LARGEST)

    def test_asker_is_gone(self) -> None:
        gone = self.asker(self.host)
        gone.send(question())
        gone.close()
        self.asking.send(question())
        self.serve(2)
        self.assertEqual(BODY, self.asking.recv(4_096))

    def test_unsendable(self) -> None:
        """What cannot be sent is counted, and was admitted all the same."""
        for number in range(5):
            self.asking.send(question(number))
        with contextlib.suppress(OSError):  # that there is no connection; it ends the sending all the same
            self.datagrams.shutdown(socket.SHUT_WR)
        self.serve(5)
        self.assertEqual((5, 5), self.figures("answers", "unsendable"))
        self.assertEqual([5], [row[5] for row in self.drain()])


class AnswerTestsIPv6(AnswerTests):
    """The same over IPv6, which every Linux has on its loopback unless somebody turned it off."""

    host = "::1"


class PassedOnTests(DatagramsCase):
    """What is not plain is given to whoever asked for the turn, as it came."""

    def sender(self) -> tuple[str, int]:
        host, port = self.asking.getsockname()[:2]
        return host, port

    def test_not_plain(self) -> None:
        texts = [
            b"", b"\n", KEY, KEY + b"|NOPE", b"nobody|BTC", KEY + b"|BTC|text", b'{"api_key":"a"}', b"~1|a|b",
            b"\xff" * 9, KEY + b"|BTC|" + b"9" * 1_200, b"x" * 2_048,
        ]  # fmt: skip
        for text in texts:
            self.asking.send(text)
        self.asking.send(question(5))
        self.serve(len(texts) + 1)
        self.assertEqual([(text, self.sender(), None) for text in texts], self.others)
        self.assertEqual(answer(5), self.asking.recv(4_096))
        self.assertEqual((1, 1), (self.figures("answers")[0], self.drain()[0][5]))

    def test_too_long(self) -> None:
        """More of it is not kept than shows that it is too long."""
        self.asking.send(b"y" * 60_000)
        self.serve(1)
        self.assertEqual(b"y" * 2_048, self.others[0][0])

    def test_refused(self) -> None:
        """With the verdict: it was asked at the gate, and is not asked again."""
        plan = evolve(PLANS["partner"], qps=1.0, burst=3, min_wait_seconds=1.0)
        standing = self.learn(evolve(PARTNER, plan=plan))
        for number in range(5):
            self.asking.send(question(number))
        self.serve(5)
        self.assertEqual([answer(number) for number in range(3)], self.answers(self.asking, 3))
        self.assertEqual([question(3), question(4)], [other[0] for other in self.others])
        self.assertEqual([RATE_LIMITED] * 2, [other[2].outcome for other in self.others])
        self.assertEqual(3, standing.used)

    def test_shut(self) -> None:
        self.lanes.shut = True
        self.asking.send(question())
        self.serve(1)
        self.assertEqual([(question(), self.sender(), None)], self.others)
        self.assertEqual([], self.drain())

    def test_failing_standing(self) -> None:
        """It is said, and the ordinary way asks it again; the others of the batch are answered."""

        class Failing:
            def admit(self, now: float) -> Verdict:
                raise RuntimeError("not today")

        said: list[Any] = []
        self.patch(sys, "unraisablehook", lambda about: said.append(str(about.exc_value)))
        self.learn(evolve(PARTNER, key_id="failing"), b"failing", Failing())
        for number in range(9):
            self.asking.send(question(number, key=b"failing" if number % 3 == 1 else KEY))
        self.serve(9)
        self.assertEqual([answer(number) for number in (0, 2, 3, 5, 6, 8)], self.answers(self.asking, 6))
        failing = [(question(number, key=b"failing"), self.sender(), None) for number in (1, 4, 7)]
        self.assertEqual(failing, self.others)
        self.assertEqual(["not today"] * 3, said)

    def test_no_more(self) -> None:
        self.lanes.end_datagrams()
        self.asking.send(question())
        self.assertFalse(self.turn(0.0))
        self.lanes.end_datagrams()
        self.lanes.answer_datagrams(self.datagrams.fileno())
        self.turn()
        self.assertEqual(BODY, self.asking.recv(4_096))


class WaitingTests(DatagramsCase):
    """While the next datagram is waited for awake, the system tells nobody of it; it does again in between."""

    linger = 0.001

    def setUp(self) -> None:
        super().setUp()
        where = str(self.datagrams.getsockname()[1])
        self.asker_process = subprocess.Popen(
            (sys.executable, "-c", _ASKER, where, question().hex()), stdout=subprocess.DEVNULL
        )
        self.addCleanup(self.asker_process.wait)
        self.addCleanup(self.asker_process.kill)
        self.turn_until(lambda: self.lanes.luck > 0)

    def test_not_watched_meanwhile(self) -> None:
        """As whoever is asked about a key within such a turn sees."""
        standing = Standing(PARTNER, self.now)
        seen: list[bool] = []

        class Looking:
            def admit(_, now: float) -> Verdict:
                seen.append(self.lanes.watched)
                return standing.admit(now)

        self.learn(standing=Looking())
        self.turn_until(lambda: False in seen)
        self.assertTrue(self.lanes.watched)

    def test_woken_afterwards(self) -> None:
        before = self.figures("answers")[0]
        self.turn_until(lambda: self.figures("answers")[0] > before + 1_000)
        self.asker_process.kill()
        self.asker_process.wait()
        while self.turn(0.0):
            pass
        self.asking.send(question(1))
        self.assertTrue(self.turn())
        self.assertEqual(answer(1), self.asking.recv(4_096))
        self.assertEqual([], self.others)

    def test_others_pass(self) -> None:
        """What is not plain reaches Python, and its asker gets the next answer as before."""
        self.asking.send(b"what is this?")
        self.turn_until(lambda: self.others)
        self.assertEqual([(b"what is this?", self.asking.getsockname(), None)], self.others)
        self.asking.send(question(2))
        self.turn_until(lambda: select.select([self.asking], [], [], 0.0)[0])
        self.assertEqual(answer(2), self.asking.recv(4_096))

    def test_connections_have_their_turn(self) -> None:
        self.listen()
        client = self.client()
        for _ in range(3):
            client.sendall(parts.head())
            self.turn_until(lambda: select.select([client], [], [], 0.0)[0])
            self.assertTrue(client.recv(65_536).startswith(b"HTTP/1.1 200 OK"))
        self.assertEqual([], self.left)

    def test_ended_meanwhile(self) -> None:
        self.lanes.end_datagrams()
        while self.turn(0.0):
            pass
        self.asking.send(question(3))
        self.assertFalse(self.turn(0.0))
        self.lanes.answer_datagrams(self.datagrams.fileno())
        self.turn_until(lambda: select.select([self.asking], [], [], 0.0)[0])
        self.assertEqual(answer(3), self.asking.recv(4_096))


_ASKER = """
import socket, sys
asking = socket.socket(type=socket.SOCK_DGRAM)
asking.connect(("127.0.0.1", int(sys.argv[1])))
asking.settimeout(0.2)
while True:
    try:
        asking.send(bytes.fromhex(sys.argv[2]))
        asking.recv(65536)
    except TimeoutError:
        pass
"""


class TurnTests(DatagramsCase):
    def test_connections_have_their_turn(self) -> None:
        """Datagrams that never end keep no connection waiting."""
        self.listen()
        client = self.client()
        client.sendall(parts.head())
        turns = 0
        while not select.select([client], [], [], 0.0)[0]:
            for _ in range(AT_ONCE):
                self.asking.send(question())
            self.lanes.turn(self.now, DATE)
            turns += 1
            self.assertLess(turns, 10)
        self.assertGreater(self.figures("answers")[0], 0)
