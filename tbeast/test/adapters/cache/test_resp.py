"""Tests of L{tbeast.adapters.cache.resp}: one conversation, without a socket."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.cache.resp import (
    MOST_LINE_BYTES,
    Conversation,
    Limits,
    RefusedError,
    carried_out,
    packed,
    why_not_connected,
)
from tbeast.errors import CacheUnavailableError

PING = packed(b"PING")
TRIFLE = 0.011
LIMITS = Limits(reply_seconds=3.0, ping_seconds=2.0)


class Room:
    """A conversation with a transport of its own, and what its owner was told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        self.ends: list[str] = []
        self.heard: list[bytes] = []
        self.conversation = Conversation(self.clock, LIMITS, self)
        self.conversation.makeConnection(self.transport)

    def ended(self, conversation: Conversation, why: str) -> None:
        assert conversation is self.conversation and conversation.over == why
        self.ends.append(why)

    def pushed(self, message: bytes) -> None:
        self.heard.append(message)

    def ask(self, replies: int = 1, bulk: bool = False) -> list[Any]:
        """Ask something; the list is the outcome, once there is one."""
        outcomes: list[Any] = []
        answer: Deferred[Any] = self.conversation.ask(b"?", replies, bulk)
        answer.addCallbacks(outcomes.append, lambda failure: outcomes.append(failure.value))
        return outcomes

    def say(self, data: bytes, pieces: int = 0) -> None:
        """Let the server say something, whole or in pieces of so many bytes."""
        for start in range(0, len(data), pieces or len(data) or 1):
            self.conversation.dataReceived(data[start : start + (pieces or len(data))])

    def advance(self, seconds: float) -> None:
        """Let time pass as it does for a reactor that is not held up, and a trifle more."""
        self.clock.pump([0.01] * round(seconds / 0.01) + [TRIFLE])


def wire(reply: object) -> bytes:
    """A reply as the server writes it: text is a status, an error an error."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, str):
        return b"+%b\r\n" % reply.encode()
    if isinstance(reply, RefusedError):
        return b"-%b\r\n" % str(reply).encode()
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    assert isinstance(reply, list)
    return b"*%d\r\n" % len(reply) + b"".join(map(wire, reply))


def read(reply: object) -> object:
    """What the reply is to be read as."""
    if isinstance(reply, list):
        return list(map(read, reply))
    return reply.encode() if isinstance(reply, str) else reply


words = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), max_size=20)
leaves = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), words, st.binary(max_size=60))
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
replies_said = st.lists(st.one_of(trees, words.map(lambda said: RefusedError(f"ERR {said}"))), min_size=1, max_size=12)


def same(one: object, other: object) -> bool:
    if isinstance(one, RefusedError) and isinstance(other, RefusedError):
        return str(one) == str(other)
    return one == other and type(one) is type(other)


class PackedTests(SynchronousTestCase):
    def test_words(self) -> None:
        self.assertEqual(
            packed(b"SET", "é", b"\r\n", 5, -1.5),
            b"*5\r\n$3\r\nSET\r\n$2\r\n\xc3\xa9\r\n$2\r\n\r\n\r\n$1\r\n5\r\n$4\r\n-1.5\r\n",
        )

    def test_a_float_keeps_its_whole_value(self) -> None:
        self.assertIn(b"\r\n1795354068.5853543\r\n", packed("ZADD", "z", 1795354068.5853543, "a"))

    def test_the_first_refusal_is_raised(self) -> None:
        carried_out([1, None, b"x"])
        with self.assertRaisesRegex(RefusedError, "^one$"):
            carried_out([1, RefusedError("one"), RefusedError("two")])


class ReadingTests(SynchronousTestCase):
    @given(replies_said, st.integers(0, 7), st.data())
    @settings(deadline=None, max_examples=150)
    def test_every_answer_in_any_pieces(self, said: list[object], pieces: int, data: st.DataObject) -> None:
        """Asked one by one or many in one, each gets its own replies, as bytes."""
        cuts = data.draw(st.lists(st.integers(1, 4), min_size=len(said), max_size=len(said)))
        room = Room()
        asked: list[tuple[list[Any], list[object]]] = []
        left = list(said)
        for size in cuts:
            if left:
                mine, left = left[:size], left[size:]
                asked.append((room.ask(len(mine)), mine))
        room.say(b"".join(map(wire, said)), pieces)
        for outcomes, mine in asked:
            self.assertEqual(len(outcomes), 1)
            self.assertEqual(len(outcomes[0]), len(mine))
            for got, expected in zip(outcomes[0], map(read, mine), strict=True):
                self.assertTrue(same(got, expected), (got, expected))
        self.assertEqual((room.conversation.waiting, room.ends), (0, []))

    @given(st.binary(max_size=300), st.integers(0, 5), st.booleans())
    @settings(deadline=None, max_examples=200)
    def test_garbage_ends_it_or_leaves_it_waiting(self, garbage: bytes, pieces: int, bulk: bool) -> None:
        room = Room()
        first, second = room.ask(3, bulk), room.ask()
        room.say(garbage, pieces)
        room.advance(6)
        self.assertEqual(room.conversation.over is not None, bool(room.ends))
        if room.ends:
            self.assertEqual((len(room.ends), room.transport.disconnecting), (1, True))
            self.assertEqual((len(first), len(second)), (1, 1))
        self.assertEqual(room.conversation.waiting, 0)

    def test_who_speaks_another_protocol_is_dropped(self) -> None:
        for said in (
            b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"\r\n", b"$x\r\n", b"$-5\r\n", b"*x\r\n",
            b":x\r\n", b"$999999999999\r\n", b"x" * (MOST_LINE_BYTES + 1),
        ):  # fmt: skip
            room = Room()
            outcomes = room.ask()
            room.say(said)
            self.assertIn("it does not speak the Redis protocol", str(outcomes[0]), said)
            self.assertIsInstance(outcomes[0], CacheUnavailableError)
            self.assertTrue(room.transport.disconnecting)

    def test_what_was_not_asked_for_ends_it(self) -> None:
        room = Room()
        room.say(b"+OK\r\n")
        self.assertIn("answered what was not asked", room.ends[0])

    def test_a_list_that_looks_like_a_message_is_an_answer(self) -> None:
        room = Room()
        outcomes = room.ask()
        room.say(wire([b"message", b"channel", b"1"]))
        self.assertEqual((outcomes, room.heard), ([[[b"message", b"channel", b"1"]]], []))

    def test_messages_come_between_answers(self) -> None:
        room = Room()
        room.conversation.subscribed = True
        outcomes = room.ask()
        room.say(wire([b"message", b"c", b"1"]) + wire([b"pong", b""]) + wire([b"message", b"c", b"2"]))
        self.assertEqual((outcomes, room.heard), ([[[b"pong", b""]]], [b"1", b"2"]))

    def test_errors_within_a_list(self) -> None:
        room = Room()
        outcomes = room.ask()
        room.say(b"*2\r\n:1\r\n-WRONGTYPE no\r\n")
        self.assertTrue(outcomes[0][0][1].wrong_type)

    def test_an_answer_that_asks_again(self) -> None:
        """Whoever is answered may ask at once, or end it all, also while more lies there to be read."""
        room = Room()
        later: list[Any] = []
        room.conversation.ask(b"?", 1).addCallback(lambda _: later.append(room.ask()))
        second = room.ask()
        room.say(b":1\r\n:2\r\n:3\r\n")
        self.assertEqual((second, later), ([[2]], [[[3]]]))
        room.conversation.ask(b"?", 1).addCallback(lambda _: room.conversation.drop("enough"))
        last = room.ask()
        room.say(b":1\r\n:2\r\n")
        self.assertEqual([str(outcome) for outcome in last], ["enough"])
        self.assertIsInstance(last[0], CacheUnavailableError)

    def test_an_answer_that_nobody_wants_any_more_is_not_given_to_another(self) -> None:
        room = Room()
        room.conversation.ask(b"?", 1).addErrback(lambda _: None).cancel()
        second = room.ask()
        room.say(b":1\r\n:2\r\n")
        self.assertEqual(second, [[2]])

    def test_a_fault_of_ours_is_logged_and_ends_it(self) -> None:
        room = Room()

        def fail(message: bytes) -> None:
            raise RuntimeError("of the test")

        room.pushed = fail  # type: ignore[method-assign]
        room.conversation.subscribed = True
        room.say(wire([b"message", b"c", b"1"]))
        self.assertEqual(len(room.ends), 1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


bulk_said = st.one_of(st.integers(0, 10**6), st.just("OK"), st.just(b"x"), st.just(RefusedError("ERR no")))


class BulkTests(SynchronousTestCase):
    @given(st.lists(st.lists(bulk_said, min_size=1, max_size=8), min_size=1, max_size=4), st.integers(0, 9))
    @settings(deadline=None, max_examples=150)
    def test_replies_are_counted_in_any_pieces(self, said: list[list[object]], pieces: int) -> None:
        """Each question ends with its own last reply, and tells how many of its own were refused."""
        room = Room()
        asked = [(room.ask(len(mine), bulk=True), mine) for mine in said]
        plain = room.ask()
        room.say(b"".join(wire(reply) for mine in said for reply in mine) + b"+END\r\n", pieces)
        self.assertEqual(plain, [[b"END"]])
        for outcomes, mine in asked:
            refused = sum(isinstance(reply, RefusedError) for reply in mine)
            told = [f"{refused} refused; the first: ERR no"] if refused else []
            self.assertEqual([str(refusal) for refusal in outcomes[0]], told)

    def test_one_too_many_is_not_counted_in(self) -> None:
        room = Room()
        outcomes = room.ask(2, bulk=True)
        room.say(b":1\r\n:1\r\n:1\r\n")
        self.assertEqual(outcomes, [[]])
        self.assertIn("answered what was not asked", room.ends[0])

    def test_it_may_take_long_while_something_comes(self) -> None:
        room = Room()
        outcomes = room.ask(5, bulk=True)
        for _ in range(4):
            room.advance(2.9)
            room.say(b":1\r\n")
        self.assertEqual((outcomes, room.ends), ([], []))
        room.advance(3)
        self.assertEqual([str(outcome) for outcome in outcomes], ["no answer within 3 s"])


class TimeTests(SynchronousTestCase):
    def test_an_answer_in_time(self) -> None:
        room = Room()
        outcomes = room.ask()
        room.advance(2.9)
        room.say(b":1\r\n")
        room.advance(1)
        self.assertEqual((outcomes, room.ends), ([[1]], []))

    def test_one_overdue_answer_ends_it_for_all(self) -> None:
        """Nobody has waited longer than the limit, and a late answer is given to no one."""
        room = Room()
        first = room.ask()
        room.advance(2)
        second = room.ask()
        room.advance(0.9)
        self.assertEqual((first, second), ([], []))
        room.advance(0.1)
        for outcomes in (first, second):
            self.assertEqual([str(outcome) for outcome in outcomes], ["no answer within 3 s"])
            self.assertIsInstance(outcomes[0], CacheUnavailableError)
        self.assertTrue(room.transport.disconnecting)
        third = room.ask()
        room.say(b":1\r\n:2\r\n:3\r\n")
        self.assertIsInstance(third[0], CacheUnavailableError)
        self.assertEqual((len(first), len(second), len(third), len(room.ends)), (1, 1, 1, 1))
        self.assertEqual(room.clock.getDelayedCalls(), [])

    def test_answers_to_others_do_not_prolong_the_wait(self) -> None:
        room = Room()
        first, second = room.ask(), room.ask()
        room.advance(2.5)
        room.say(b":1\r\n")
        room.advance(0.5)
        self.assertEqual(first, [[1]])
        self.assertEqual([str(outcome) for outcome in second], ["no answer within 3 s"])

    def test_a_reactor_that_was_held_up_reads_before_it_judges(self) -> None:
        room = Room()
        outcomes = room.ask()
        room.clock.advance(10)
        room.say(b":1\r\n")
        room.advance(0.1)
        self.assertEqual((outcomes, room.ends), ([[1]], []))

    def test_silence_is_broken_by_a_ping(self) -> None:
        room = Room()
        room.transport.clear()
        room.advance(1.9)
        self.assertEqual(room.transport.value(), b"")
        room.advance(0.1)
        self.assertEqual(room.transport.value(), PING)
        room.say(b"+PONG\r\n")
        room.advance(1.9)
        self.assertEqual(room.transport.value(), PING)
        room.advance(0.1)
        self.assertEqual(room.transport.value(), PING * 2)
        room.advance(3)
        self.assertEqual(room.ends, ["no answer within 3 s"])

    def test_no_ping_on_a_busy_line(self) -> None:
        room = Room()
        for _ in range(20):
            room.ask()
            room.advance(0.5)
            room.say(b":1\r\n")
        self.assertNotIn(PING, room.transport.value())
        self.assertEqual(room.ends, [])

    def test_a_ping_that_is_refused_ends_it(self) -> None:
        room = Room()
        room.advance(2)
        room.say(b"-LOADING not now\r\n")
        self.assertEqual(room.ends, ["LOADING not now"])

    def test_how_late_it_is(self) -> None:
        room = Room()
        room.advance(1)
        self.assertEqual(room.conversation.late_seconds, 0)
        room.ask(2)
        room.advance(1)
        self.assertEqual(round(room.conversation.late_seconds, 1), 1)
        room.say(b":1\r\n")
        self.assertEqual(room.conversation.late_seconds, 0)
        room.say(b":1\r\n")
        room.advance(1)
        self.assertEqual(room.conversation.late_seconds, 0)


class EndTests(SynchronousTestCase):
    def lost(self, fault: Exception) -> str:
        room = Room()
        outcomes = room.ask()
        room.conversation.connectionLost(Failure(fault))
        room.conversation.drop("later")
        self.successResultOf(room.conversation.gone)
        self.assertEqual((len(outcomes), len(room.ends)), (1, 1))
        self.assertEqual(room.clock.getDelayedCalls(), [])
        return room.ends[0]

    def test_why_it_was_lost(self) -> None:
        self.assertEqual(self.lost(error.ConnectionDone()), "it hung up")
        self.assertIn("connection lost: ", self.lost(error.ConnectionLost()))
        self.assertEqual(self.lost(VerificationError([])), "TLS: the certificate is another host's")
        self.assertEqual(
            self.lost(SSL.Error([("a", "b", "certificate verify failed")])), "TLS: certificate verify failed"
        )
        self.assertEqual(self.lost(SSL.Error()), "TLS: the connection ended")

    def test_why_it_never_was(self) -> None:
        self.assertEqual(why_not_connected(error.ConnectionRefusedError()), "connection refused")
        self.assertEqual(why_not_connected(error.DNSLookupError()), "no such host")
        self.assertEqual(why_not_connected(error.TimeoutError()), "not connected in time")
        self.assertEqual(why_not_connected(OSError("no\x1bway")), "not connected: no?way")

    def test_dropped_before_it_was_made(self) -> None:
        room = Room()
        late = Conversation(room.clock, LIMITS, room)
        room.conversation = late
        late.drop("stopped")
        transport = StringTransport()
        late.makeConnection(transport)
        self.assertTrue(transport.disconnecting)
        late.connectionLost(Failure(error.ConnectionDone()))
        self.assertEqual(room.ends, ["stopped"])
