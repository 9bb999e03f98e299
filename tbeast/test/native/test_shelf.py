"""The shared shelf, read in C: what Python writes there is what is answered, whole, or nothing."""

from __future__ import annotations

import mmap
import subprocess
import sys
import time
from math import inf
from pathlib import Path
from struct import pack_into, unpack_from

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tbeast.domain.admission import NO_LIMIT
from tbeast.domain.readyreplies import body
from tbeast.domain.sharedshelf import (
    BYTES,
    LONGEST_TEXT,
    SLOT_BYTES,
    SLOTS,
    TEXT_AT,
    SharedReply,
    SharedShelf,
    hash_of,
)
from tbeast.test.native.parts import (
    KEY,
    NOW,
    PATIENCE_SECONDS,
    REPLY,
    LanesCase,
    answer_of,
    bodies,
    head,
    open_lanes,
    received,
)  # fmt: skip
from tbeast.test.native.shelfwriter import ASSETS, whole_of

FREE = (NO_LIMIT, NO_LIMIT, 0)
TEXTS = st.binary(max_size=LONGEST_TEXT // 2 - 16)
SOURCES = st.sampled_from(("kraken-ws", "median", "", "s" * 32))
AGES = st.one_of(
    st.floats(-10.0, 1e7),
    st.integers(0, 1 << 40).map(lambda parts: parts / (1 << 22)),
    st.integers(0, 1 << 20).map(lambda parts: parts / 16.0),
    st.integers(0, 10**7).map(lambda halves: (halves + 0.5) / 1000.0),
)
"""As they come from subtracting times of today, and with those that lie between two milliseconds, or seem to."""


class ShelfCase(LanesCase):
    def setUp(self) -> None:
        super().setUp()
        self.listen()
        self.learn()
        self.asking = self.client()

    def leaves(self, asset: bytes) -> None:
        """The shelf has no answer to this question, which is handed over."""
        client = self.client()
        client.sendall(head(asset))
        self.turn_until(lambda: self.left)
        self.assertEqual([(head(asset), b"", None, 0)], [left[1:] for left in self.left])
        self.close_left()


class AnswerTests(ShelfCase):
    @settings(max_examples=400, deadline=None)
    @given(TEXTS, TEXTS, SOURCES, AGES)
    @example(b"", b"", "", 0.0625)
    @example(b"{", b"}", "median", 1.0005)
    @example(b"{", b"}", "median", 0.1875)
    @example(b"{", b"}", "median", 2.5e-4)
    @example(b"{", b"}", "median", 0.9995)
    @example(b"h" * (LONGEST_TEXT - 32), b"", "s" * 32, 86_400.0)
    def test_http(self, first: bytes, last: bytes, source: str, age: float) -> None:
        """Byte for byte, with the age rounded as Python rounds."""
        reply = SharedReply(first, last, self.now - age, self.now, source)
        self.put("BTC", reply)
        self.assertEqual(answer_of(reply, self.now, FREE), self.ask(self.asking, head()))
        row = self.drain()[0]
        self.assertEqual(("BTC", source), row[2:4])

    def test_udp(self) -> None:
        """Byte for byte; the reply lies in the future, so that the time of answering is not in it."""
        self.bind()
        asker = self.asker()

        @settings(max_examples=300, deadline=None)
        @given(TEXTS, TEXTS.map(lambda text: text + b"}"), st.sampled_from((b"", b"7", b"-" + b"9" * 18, b"0")))
        def check(first: bytes, last: bytes, id_json: bytes) -> None:
            reply = SharedReply(first, last, NOW + 3_600.0, NOW + 3_600.0, "median")
            self.put("BTC", reply)
            asker.send(b"%b|btc|%b" % (KEY, id_json))
            self.turn()
            wanted = body(reply, NOW)  # type: ignore[arg-type]
            if id_json:
                wanted = wanted[:-1] + b',"id":' + id_json + b"}"
            self.assertEqual(wanted, asker.recv(4_096))

        check()

    def test_age_in_datagrams(self) -> None:
        self.bind()
        asker = self.asker()
        self.put()
        asker.send(KEY + b"|BTC")
        self.turn()
        first, last = REPLY.head, REPLY.tail
        answer = asker.recv(4_096)
        self.assertEqual((first, last), (answer[: len(first)], answer[-len(last) :]))
        self.assertRegex(answer[len(first) : -len(last)], rb"^[0-9]+\.[0-9]{3}$")
        age = float(answer[len(first) : -len(last)])
        self.assertTrue(0.412 <= age < 0.412 + 20.0, age)

    def test_every_slot(self) -> None:
        """As many assets as there is room for, and each is answered."""
        assets = []
        for number in range(2 * SLOTS):
            asset = f"A{number}"
            if self.shelf.put(asset, *REPLY._replace(head=b'{"asset":"%b",' % asset.encode())):
                assets.append(asset)
        self.assertTrue(SLOTS - 1 <= len(assets) <= SLOTS, len(assets))
        for start in range(0, len(assets), 93):
            some = assets[start : start + 93]
            answers = self.answered(self.asking, *(head(asset.encode()) for asset in some))
            self.assertEqual(
                [b'{"asset":"%b",' % asset.encode() for asset in some], [a.partition(b"0.4")[0] for a in answers]
            )
        self.leaves(b"ONEMORE")

    def test_assets_that_meet(self) -> None:
        """Two whose search begins at the same slot, and one that has the longest code there is."""
        first, *others = (
            asset for asset in (f"M{n}" for n in range(20_000)) if hash_of(asset.encode()) % SLOTS == 1_023
        )
        for asset in (first, others[0], "ABCDEFGHIJKLMNOP"):
            self.put(asset, REPLY._replace(head=asset.encode()))
        for asset in (others[0], first, "ABCDEFGHIJKLMNOP"):
            self.assertTrue(self.answered(self.asking, head(asset.encode()))[0].startswith(asset.encode()))
        self.leaves(others[1].encode())


class NoAnswerTests(ShelfCase):
    def test_nothing_there(self) -> None:
        self.leaves(b"BTC")
        self.put()
        self.leaves(b"BT")
        self.leaves(b"BTCC")

    def test_old(self) -> None:
        """To the last moment, and not after it."""
        self.put("BTC", REPLY._replace(fresh_until=NOW))
        self.ask(self.asking, head())
        self.now = NOW + 1e-6
        self.leaves(b"BTC")
        self.put("BTC", REPLY._replace(fresh_until=inf))
        self.now = NOW + 1e9
        self.ask(self.client(), head())

    def test_taken_down(self) -> None:
        self.put()
        self.ask(self.asking, head())
        self.shelf.take_down("BTC")
        self.leaves(b"BTC")
        self.put()
        self.ask(self.client(), head())

    def test_too_long(self) -> None:
        """What does not fit takes the last one down."""
        self.put()
        self.assertFalse(self.shelf.put("BTC", b"h" * LONGEST_TEXT, b"t", NOW, NOW, "s"))
        self.leaves(b"BTC")

    def test_source_too_long_to_count(self) -> None:
        self.put("BTC", REPLY._replace(source="s" * 33))
        self.leaves(b"BTC")


class HalfWrittenTests(ShelfCase):
    def slot(self) -> int:
        """Where BTC lies."""
        return hash_of(b"BTC") % SLOTS * SLOT_BYTES

    def number(self) -> int:
        number: int = unpack_from("=Q", self.memory, self.slot())[0]
        return number

    def test_never_seen(self) -> None:
        """A slot that is being written, or is no slot, gives nothing to whoever has not read it before."""
        self.put()
        slot = self.slot()
        whole = bytes(self.memory[slot : slot + SLOT_BYTES])
        for at, value in (
            (0, self.number() + 1),
            (40, 1),
            (42, 0xFFFF),
            (44, 7),
            (48, 0),
            (TEXT_AT, 0),
            (24, 1),
            (32, 1),
        ):
            self.memory[slot : slot + SLOT_BYTES] = whole
            pack_into("=H" if at else "=Q", self.memory, slot + at, value)
            self.lanes.close()
            self.lanes = open_lanes(self.memory)
            self.addCleanup(self.lanes.close)
            self.lanes.listen(self.port.fileno())
            self.learn()
            self.leaves(b"BTC")

    def test_seen(self) -> None:
        """While a slot is written its last reply is given, and when it is written the new one."""
        self.put()
        self.ask(self.asking, head())
        pack_into("=Q", self.memory, self.slot(), self.number() + 1)
        self.memory[self.slot() + TEXT_AT] = 0
        self.assertEqual(answer_of(REPLY, NOW, FREE), self.ask(self.asking, head()))
        other = REPLY._replace(head=b"other")
        self.put("BTC", other)
        self.assertEqual(answer_of(other, NOW, FREE), self.ask(self.asking, head()))

    def test_seen_until_it_is_old(self) -> None:
        """A writer that died in the middle leaves nothing for longer than it was good for."""
        self.put()
        self.ask(self.asking, head())
        pack_into("=Q", self.memory, self.slot(), self.number() + 1)
        self.now = REPLY.fresh_until + 1e-6
        self.leaves(b"BTC")

    @settings(max_examples=150, deadline=None)
    @given(st.binary(min_size=SLOT_BYTES - 32, max_size=SLOT_BYTES - 32))
    def test_any_memory(self, garbage: bytes) -> None:
        """Whatever lies there, it is answered with nothing that was not written whole."""
        slot = self.slot()
        self.memory[slot + 24 : slot + 24 + len(garbage)] = garbage[: SLOT_BYTES - 24]
        pack_into("=Q16s", self.memory, slot, 2, b"BTC")
        self.leaves(b"BTC")


class WriterTests(LanesCase):
    """Another process writes all the time."""

    QUESTIONS = 4_000
    WRITINGS = 100

    def setUp(self) -> None:
        super().setUp()
        self.lanes.close()
        self.path = Path(self.mktemp())
        self.path.write_bytes(bytes(BYTES))
        with self.path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), BYTES)
        self.lanes = open_lanes(memoryview(self.map))
        self.addCleanup(self.lanes.close)

    def test_never_torn(self) -> None:
        reader = SharedShelf(memoryview(self.map))
        writer = subprocess.Popen(
            (sys.executable, "-m", "tbeast.test.native.shelfwriter", str(self.path)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert writer.stdin is not None and writer.stdout is not None
        self.addCleanup(writer.stdout.close)
        self.addCleanup(writer.wait)
        self.addCleanup(writer.stdin.close)  # ends it
        self.assertEqual(b"writing\n", writer.stdout.readline())
        self.listen()
        self.learn()
        client = self.client()
        numbers: set[int] = set()
        start, end = 0, time.monotonic() + PATIENCE_SECONDS
        while start < self.QUESTIONS or len(numbers) < self.WRITINGS:
            self.assertLess(time.monotonic(), end, f"{start} questions, {len(numbers)} writings seen")
            asked = [ASSETS[number % len(ASSETS)] for number in range(start, start + 50)]
            client.sendall(b"".join(head(asset.encode()) for asset in asked))
            answered = self.answered_of(50)
            for asset, answer in zip(asked, bodies(received(client, answered)), strict=False):
                numbers.add(self.check(asset, answer))
            if self.left:  # the writer was in the middle of it for long: then nothing can be said of it here
                self.close_left()
                client = self.client()
            reply = reader.get(asked[0])
            if reply is not None:
                self.check(asked[0], body(reply, self.now))  # type: ignore[arg-type]
            start += answered
        self.assertEqual(start, sum(row[5] for row in self.drain()))

    def answered_of(self, asked: int) -> int:
        """Serve until all that was asked is answered, or the connection has left: how many were."""
        before = self.figures("requests")[0]
        self.turn_until(lambda: self.left or self.figures("requests")[0] == before + asked)
        return self.figures("requests")[0] - before

    def check(self, asset: str, answer: bytes) -> int:
        """The answer is one of the writer's, whole; which."""
        number = int(answer.partition(b":")[0])
        first, last = whole_of(asset, number)
        self.assertEqual((first, last), (answer[: len(first)], answer[len(first) + 5 :]))
        return number
