"""The lane and the ordinary way are one and the same to everybody outside.

Stories of what a client can do, and of what can happen meanwhile, are told to a surface with the lane and to one
without; after each step both have sent the same bytes, recorded and counted the same, and are as open as the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.keys import account_of
from tbeast.servers.site import AT_A_TIME, IDLE_SECONDS
from tbeast.test.servers.lanes import MANY, UNLIMITED, Door, LaneHouse, MemoryDoor, Outcome, Step, answer_lookup
from tbeast.test.servers.rooms import FREE, PARTNER, House, question, quote_of

HOT = question("/price?asset=BTC")
LINE = b"GET /price?asset=BTC HTTP/1.1\r\n"
HOST = b"Host: test\r\n"
KEY = f"Authorization: Bearer {PARTNER}\r\n".encode()

WHOLE = (
    HOT,
    question("/price?asset=btc"),
    question("/price?asset=bTc", UNLIMITED),
    question("/price?asset=BTC", FREE),
    question("/price?asset=BTC", "nobody-has-this"),
    question("/price?asset=BTC", None),
    question("/price?asset=ETH"),
    question("/price?asset=SOL"),
    question("/price?asset=NOPE", FREE),
    question("/price?asset=BTC-USD"),
    question("/price?asset=BTC&quote=USDT"),
    question("/price?asset=%42TC"),
    question("/price?asset="),
    question("/%70rice?asset=BTC"),
    question("http://test/price?asset=BTC"),
    question("/price?asset=BTC", method="HEAD"),
    question("/price?asset=BTC", method="POST", body=b"x"),
    question("/price?asset=BTC", body=b"GET /price?asset=BTC HTTP/1.1\r\n\r\n"),
    question("/prices", method="POST", body=b'{"assets":["BTC"]}'),
    question("/exchanges", None),
    question("/stats", UNLIMITED),
    question("/price?asset=BTC", headers=[("Connection", "close")]),
    question("/price?asset=BTC", headers=[("Connection", "Keep-Alive")]),
    question("/price?asset=BTC", headers=[("X-API-Key", PARTNER)]),
    question("/price?asset=BTC", None, headers=[("X-API-Key", PARTNER)]),
    question("/price?asset=BTC", headers=[("X-API-Key", FREE)]),
    question("/price?asset=BTC", headers=[("Accept", "*/*"), ("Cookie", "a=b; c"), ("User-Agent", "x")]),
    LINE + HOST + KEY + b"Transfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n",
    LINE + HOST + KEY + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    LINE + HOST + KEY + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    LINE.replace(b"1.1", b"1.0") + HOST + KEY + b"\r\n",
    b"\r\n" + HOT,
)
"""Requests that leave the connection as it was, or end it."""

BROKEN = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\x00", b"GET", b"\xff\xfe",
    HOT.replace(b"\r\n", b"\n"),
    HOT.replace(b"HTTP/1.1", b"HTTP/1.2"),
    LINE + HOST + HOST + KEY + b"\r\n",
    LINE + KEY + b"\r\n",
    LINE + HOST + KEY + KEY + b"\r\n",
    LINE + HOST + KEY + b" folded\r\n\r\n",
    LINE + HOST + KEY + b"\tfolded\r\n\r\n",
    LINE + b" Host: test\r\n" + KEY + b"\r\n",
    LINE + HOST + KEY + b"A : b\r\n\r\n",
    LINE + HOST + KEY + b"no colon\r\n\r\n",
    LINE + HOST + KEY + b": none\r\n\r\n",
    LINE + HOST + KEY + b"A: b\nC: d\r\n\r\n",
    LINE + HOST + KEY + b"A: b\rC: d\r\n\r\n",
    LINE + HOST + KEY + b"A: \x00\r\n\r\n",
    LINE + HOST + KEY + b"A: \x80\r\n\r\n",
    LINE + HOST + KEY + b"Content-Length: 0\r\n\r\n",
    LINE + HOST + KEY + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    LINE + HOST + KEY + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    LINE + HOST + KEY + b"Content-Length: +1\r\n\r\nx",
    LINE + HOST + KEY + b"Content-Length: 2000000\r\n\r\n",
    LINE + HOST + KEY + b"A: " + b"b" * 17_000 + b"\r\n\r\n",
    LINE + HOST + KEY + b"A: b\r\n" * 98 + b"\r\n",
    LINE + HOST + KEY + b"A: b\r\n" * 99 + b"\r\n",
    LINE + HOST + b"Authorization: Basic eDp5\r\n\r\n",
    LINE + HOST + b"Authorization: bEARER \t " + PARTNER.encode() + b" \t\r\n\r\n",
    LINE + HOST + b"Authorization: Bearer\t" + PARTNER.encode() + b"\r\n\r\n",
    LINE + HOST + b"Authorization: Bearer " + PARTNER.encode() + b" more\r\n\r\n",
    LINE + HOST + b"Authorization:Bearer abc\r\n\r\n",
    LINE + HOST + KEY + b"Connection: keep-alive\r\nConnection: close\r\n\r\n",
    LINE + HOST + KEY + b"Connection: keep-alive, close\r\n\r\n",
    LINE + HOST + KEY + b"Connection: close keep-alive\r\n\r\n",
    b"GET /price?asset=BTC  HTTP/1.1\r\n" + HOST + KEY + b"\r\n",
    b"GET  /price?asset=BTC HTTP/1.1\r\n" + HOST + KEY + b"\r\n",
    b"get /price?asset=BTC HTTP/1.1\r\n" + HOST + KEY + b"\r\n",
    b"GET /price?asset=BTC http/1.1\r\n" + HOST + KEY + b"\r\n",
    b"GET /price?asset=ABCDEFGHIJKLMNOP HTTP/1.1\r\n" + HOST + KEY + b"\r\n",
    b"GET /price?asset=ABCDEFGHIJKLMNOPQ HTTP/1.1\r\n" + HOST + KEY + b"\r\n",
    b"GET /price?asset=BTC#x HTTP/1.1\r\n" + HOST + KEY + b"\r\n",
    b"GET /price?asset=B\xc3\x9f HTTP/1.1\r\n" + HOST + KEY + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)  # fmt: skip
"""Bytes that are no request, or no plain one."""


def pieces_of(whole: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """What clients send, plain questions first of all; of the requests these."""
    return st.one_of(
        st.just(HOT), st.sampled_from(whole), st.sampled_from(whole), st.sampled_from(BROKEN), st.binary(max_size=3),
        st.tuples(st.sampled_from([HOT, *WHOLE[:10]]), st.integers(1, 3 * AT_A_TIME)).map(lambda it: it[0] * it[1]),
    )  # fmt: skip


pieces = pieces_of(WHOLE)


def sends(data: bytes) -> Step:
    return lambda door: door.send(data)


def sends_and_ends(data: bytes) -> Step:
    return lambda door: door.send_and_end(data)


def passes(seconds: float) -> Step:
    return lambda door: door.pass_time(seconds)


def takes(room: int) -> Step:
    return lambda door: door.take(room)


def ends(door: Door) -> None:
    door.end()


def closes(door: Door) -> None:
    door.close()


def put_on_the_shelf(door: Door) -> None:
    house = door.house
    house.put(quote_of(price=house.time, observed_at=house.time, fresh_until=house.time + 5.0))


def put_there_from_the_future(door: Door) -> None:
    """As after a clock was set back."""
    house = door.house
    house.put(quote_of(observed_at=house.time + 2.0, fresh_until=house.time + 60.0))


def taken_from_the_shelf(door: Door) -> None:
    door.house.shelf.take_down("BTC")


def asset_goes(door: Door) -> None:
    """It is in no table any more, but lies on the shelf for another moment."""
    reply = door.house.shelf.replies.get("BTC")
    door.house.adopt("BTC")
    if reply is not None:
        door.house.shelf.put("BTC", reply)


def gate_shuts_or_opens(door: Door) -> None:
    door.house.gate.is_shut = not door.house.gate.is_shut


def keys_go_or_come(door: Door) -> None:
    ring: Any = door.house.gate.keyring
    ring.is_complete = not ring.is_complete


def ledger_closes(door: Door) -> None:
    door.house.ledger.is_closed = True


happenings = st.one_of(
    st.sampled_from([0.3, 1.0, 7.0, 59.0, 60.0]).map(passes),
    st.sampled_from([
        answer_lookup, put_on_the_shelf, put_there_from_the_future, taken_from_the_shelf, asset_goes,
        gate_shuts_or_opens, keys_go_or_come, ledger_closes, ends, closes,
    ]),
)  # fmt: skip


@st.composite
def stories(
    draw: Any, between: st.SearchStrategy[Step] = happenings, pieces: st.SearchStrategy[bytes] = pieces
) -> list[Step]:
    """Bytes in any split, and between two parts of them whatever may happen."""
    data = b"".join(draw(st.lists(pieces, min_size=1, max_size=6)))
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=6).map(sorted))
    story: list[Step] = []
    for start, end in pairwise([0, *cuts, len(data)]):
        if start < end:
            story.append(sends(data[start:end]))
        story += draw(st.lists(between, max_size=1))
    return story


class DifferentialCase(SynchronousTestCase):
    def doors(self) -> tuple[MemoryDoor, MemoryDoor]:
        return MemoryDoor(LaneHouse), MemoryDoor(House)

    def assert_same(self, story: Sequence[Step]) -> Outcome:
        """Each step has the same outcome before both doors; give the last."""
        lane, ordinary = self.doors()
        for number, step in enumerate(story):
            step(lane)
            step(ordinary)
            self.assertEqual(ordinary.outcome(), lane.outcome(), f"after step {number}")
            self.assertEqual(ordinary.is_read, lane.is_read, f"after step {number}")
        self.assertEqual([], self.flushLoggedErrors(), "nothing that a client does is a mistake of ours")
        return lane.outcome()


class DifferentialTests(DifferentialCase):
    @settings(max_examples=400, deadline=None)
    @given(stories())
    def test_any_story(self, story: list[Step]) -> None:
        self.assert_same(story)

    def test_each_piece(self) -> None:
        """Before it, behind it and in the same bytes stand plain questions."""
        for piece in (*WHOLE, *BROKEN):
            self.assert_same([sends(HOT), sends(piece), sends(HOT), sends(HOT * 3)])
            self.assert_same([sends(HOT + piece + HOT), sends(HOT)])
            self.assert_same([sends(HOT * AT_A_TIME + piece + HOT * AT_A_TIME)])
            self.assert_same([sends(piece * 3), sends(b"\r\n"), sends(HOT)])

    def test_a_byte_at_a_time(self) -> None:
        for piece in (*WHOLE, *BROKEN):
            if len(piece) < 1000:
                self.assert_same([sends(bytes([byte])) for byte in piece + HOT])

    def test_every_cut(self) -> None:
        for data in (HOT + HOT, WHOLE[4] + HOT, b"\r\n" + HOT, b"\r\n\r\n" + HOT, WHOLE[6] + HOT):
            for cut in range(len(data) + 1):
                self.assert_same([sends(data[:cut]), passes(59.0), sends(data[cut:]), passes(59.0), answer_lookup])

    def test_half_closed_at_every_cut(self) -> None:
        for data in (HOT + HOT, HOT * (2 * AT_A_TIME + 1), WHOLE[6] + HOT):
            for cut in range(0, len(data) + 1, max(1, len(data) // 200)):
                self.assert_same([sends_and_ends(data[:cut]), answer_lookup])

    def test_idle(self) -> None:
        """A connection ends when it was idle for as long as it may, and not before."""
        limit = float(IDLE_SECONDS)
        for data in (HOT, WHOLE[1], b"", b"G", HOT[:20], HOT + b"G", HOT[:-2], HOT * 20, HOT + HOT[:-1]):
            for waits in ([limit], [limit - 1, 1.0], [limit - 1, limit - 1], [limit / 2] * 3):
                for more in (b"", b"E", HOT):
                    story = [step for seconds in waits for step in (passes(seconds), sends(more))]
                    self.assert_same([sends(HOT), sends(data), *story])

    def test_timers(self) -> None:
        """In the lane, too, an answer puts the end off, by the whole timeout."""
        door = self.doors()[0]
        for _ in range(5):
            door.send(HOT)
            door.pass_time(IDLE_SECONDS - 0.5)
            self.assertFalse(door.outcome().is_closed)
        door.pass_time(0.5)
        self.assertTrue(door.outcome().is_closed)
        self.assertEqual([], door.turns.getDelayedCalls())

    def test_happenings(self) -> None:
        for happening in (
            put_on_the_shelf, put_there_from_the_future, taken_from_the_shelf, asset_goes, gate_shuts_or_opens,
            keys_go_or_come, ledger_closes, ends, closes, passes(0.3), passes(1.0), passes(61.0),
        ):  # fmt: skip
            self.assert_same([sends(HOT), happening, sends(HOT), sends(HOT * 2)])
            self.assert_same([sends(HOT), sends(HOT[:-1]), happening, sends(HOT[-1:])])

    def test_limits(self) -> None:
        """Nobody is asked twice whether a question may be asked."""
        free = question("/price?asset=BTC", FREE)
        outcome = self.assert_same([sends(free) for _ in range(8)])
        self.assertEqual((5, 3), (outcome.sent.count(b" 200 OK"), outcome.sent.count(b" 429 ")))
        outcome = self.assert_same([taken_from_the_shelf, sends(free * 3), put_on_the_shelf, sends(free * 4)])
        self.assertEqual([3, 2, 2], [outcome.sent.count(code) for code in (b" 503 ", b" 200 OK", b" 429 ")])
        self.assertEqual(5, outcome.used[account_of(FREE, "free", "f").key_id])


class UnreadTests(DifferentialCase):
    """The client does not read."""

    @settings(max_examples=150, deadline=None)
    @given(stories(st.integers(0, 3000).map(takes)), st.integers(0, 3000))
    def test_read_at_last(self, story: list[Step], room: int) -> None:
        """In the end both have said the same. (Meanwhile they may be a few answers apart.)"""
        lane, ordinary = self.doors()
        for step in [takes(room), *story, takes(MANY * 1000)]:
            step(lane)
            step(ordinary)
        self.assertEqual(ordinary.outcome(), lane.outcome())
        self.assertEqual(ordinary.is_read, lane.is_read)

    def test_never(self) -> None:
        """It is not answered without end, nor read from, and in time it is cut off."""
        for parts in ([HOT] * 1000, [HOT * 40] * 25, [HOT * 1000]):
            for door in self.doors():
                door.take(0)
                for part in parts:
                    door.socket.put(part)
                    door.turns.settle()
                answered = door.outcome().recorded[0].request_count
                self.assertLess(answered, 250)
                self.assertFalse(door.is_read)
                self.assertGreater(door.socket.waiting, 10_000)
                door.take(MANY * 1000)
                self.assertEqual(1000, door.outcome().sent.count(b" 200 OK"))
                self.assertTrue(door.is_read)

    def test_gone(self) -> None:
        """Whoever goes without reading leaves nothing behind."""
        for room in (0, 100, 2000):
            for door in self.doors():
                door.take(room)
                door.send(HOT * 300)
                door.reset()
                self.assertTrue(door.outcome().is_closed)
                self.assertEqual([], door.turns.getDelayedCalls())
                self.assertEqual(([], []), (door.turns.readers, door.turns.writers))
