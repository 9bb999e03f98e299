"""The shelf that processes share: what was put is found, by whoever maps the memory, and never in pieces."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.quotes import GOOD, Quote
from tbeast.domain.readyreplies import ReadyReply
from tbeast.domain.sharedshelf import (
    BYTES,
    LONGEST_CODE,
    LONGEST_TEXT,
    NUMBER_BYTES,
    SLOT_BYTES,
    SLOTS,
    TEXT_AT,
    SharedReply,
    SharedShelf,
    TwinShelf,
    hash_of,
)

codes = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=LONGEST_CODE)
texts = st.binary(max_size=LONGEST_TEXT // 2)
sources = st.text("abcdefghijklmnopqrstuvwxyz-", max_size=20)
times = st.floats(-1e12, 1e12)


def memory() -> memoryview:
    return memoryview(bytearray(BYTES))


def colliding(count: int) -> list[str]:
    """So many codes that begin their search at the same slot."""
    found: dict[int, list[str]] = {}
    number = 0
    while True:
        number += 1
        code = f"C{number}"
        alike = found.setdefault(hash_of(code.encode()) % SLOTS, [])
        alike.append(code)
        if len(alike) == count:
            return alike


class SharedShelfTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.memory = memory()
        self.writer = SharedShelf(self.memory)
        self.reader = SharedShelf(self.memory.toreadonly())

    def put(self, asset: str, head: bytes = b"head", fresh_until: float = 10.0) -> bool:
        return self.writer.put(asset, head, b"tail", 5.0, fresh_until, "median")

    def test_the_wrong_amount_of_memory(self) -> None:
        self.assertRaises(ValueError, SharedShelf, memoryview(bytearray(BYTES - 1)))

    def test_what_was_put_is_found(self) -> None:
        self.assertIsNone(self.reader.find("BTC", 7.0))
        self.assertTrue(self.put("BTC"))
        self.assertEqual(SharedReply(b"head", b"tail", 5.0, 10.0, "median"), self.reader.find("BTC", 7.0))
        self.assertIsNone(self.reader.find("ETH", 7.0))

    def test_freshness(self) -> None:
        self.put("BTC")
        self.assertIsNotNone(self.reader.find("BTC", 10.0))
        self.assertIsNone(self.reader.find("BTC", 10.001))
        self.put("BTC", fresh_until=float("nan"))
        self.assertIsNone(self.reader.find("BTC", 7.0))

    def test_a_later_one_takes_its_place(self) -> None:
        """Also where the earlier one was kept by the reader."""
        for number in range(5):
            self.put("BTC", b"%d" % number)
            for _ in range(2):
                found = self.reader.find("BTC", 7.0)
                assert found is not None
                self.assertEqual(b"%d" % number, found.head)

    def test_taken_down(self) -> None:
        self.put("BTC")
        self.reader.find("BTC", 7.0)
        self.writer.take_down("BTC")
        self.assertIsNone(self.reader.find("BTC", 7.0))
        self.writer.take_down("NOPE")
        self.put("BTC")
        self.assertIsNotNone(self.reader.find("BTC", 7.0))

    def test_too_long(self) -> None:
        """Then the earlier one is gone too: it is not what is current."""
        self.assertTrue(self.put("BTC", b"x" * (LONGEST_TEXT - 10)))
        self.assertIsNotNone(self.reader.find("BTC", 7.0))
        self.assertFalse(self.put("BTC", b"x" * (LONGEST_TEXT - 9)))
        self.assertIsNone(self.reader.find("BTC", 7.0))

    def test_what_is_no_code(self) -> None:
        for asset in ("", "X" * (LONGEST_CODE + 1), "A\0"):
            self.assertFalse(self.put(asset), asset)
            self.assertIsNone(self.reader.find(asset, 7.0), asset)
        self.assertIsNone(self.reader.find("\u20bf", 7.0))
        self.assertTrue(self.put("X" * LONGEST_CODE))
        self.assertIsNotNone(self.reader.find("X" * LONGEST_CODE, 7.0))

    def test_codes_with_one_beginning(self) -> None:
        alike = colliding(3)
        for code in alike:
            self.put(code, code.encode())
        for code in alike:
            found = self.reader.find(code, 7.0)
            assert found is not None
            self.assertEqual(code.encode(), found.head)
        self.writer.take_down(alike[0])
        self.assertIsNotNone(self.reader.find(alike[2], 7.0))

    def test_full(self) -> None:
        """Who comes later has no place, and whoever has one keeps it."""
        taken = [self.put(f"A{number}") for number in range(SLOTS + 5)]
        self.assertEqual([True] * (SLOTS - 1), taken[: SLOTS - 1])
        self.assertLessEqual(sum(taken), SLOTS)
        for number, is_taken in enumerate(taken):
            self.assertEqual(is_taken, self.reader.find(f"A{number}", 7.0) is not None)
        self.assertTrue(self.put("A7", b"again"))

    def test_a_writer_that_died(self) -> None:
        """In the middle: nobody gets that price, until it is written anew."""
        self.put("BTC", b"before")
        self.reader.find("BTC", 7.0)
        at = hash_of(b"BTC") % SLOTS * SLOT_BYTES
        self.memory[at] |= 1
        self.memory[at + TEXT_AT : at + TEXT_AT + 3] = b"aft"
        self.assertIsNone(self.reader.find("BTC", 7.0))
        self.assertIsNone(SharedShelf(self.memory).find("BTC", 7.0))
        SharedShelf(self.memory).put("BTC", b"after", b"", 5.0, 10.0, "median")
        found = self.reader.find("BTC", 7.0)
        assert found is not None
        self.assertEqual(b"after", found.head)

    def test_bytes_that_do_not_belong_together(self) -> None:
        """Though the number says that nobody writes: the sum does not agree."""
        self.put("BTC", b"before")
        at = hash_of(b"BTC") % SLOTS * SLOT_BYTES
        whole = self.memory[at : at + SLOT_BYTES].tobytes()
        for place in (*range(NUMBER_BYTES + 16, NUMBER_BYTES + 32), TEXT_AT, TEXT_AT + 15):
            self.memory[at : at + SLOT_BYTES] = whole
            self.memory[at + place] ^= 0x10
            self.assertIsNone(SharedShelf(self.memory).get("BTC"), place)

    def test_lengths_beyond_the_slot(self) -> None:
        self.put("BTC")
        at = hash_of(b"BTC") % SLOTS * SLOT_BYTES
        self.memory[at + NUMBER_BYTES + 32 : at + NUMBER_BYTES + 34] = b"\xff\xff"
        self.assertIsNone(self.reader.get("BTC"))

    @settings(deadline=None, max_examples=100)
    @given(st.binary(min_size=SLOT_BYTES, max_size=SLOT_BYTES), st.booleans())
    def test_memory_of_any_content(self, slot: bytes, has_the_code: bool) -> None:
        """Whatever lies there, a reader finds a whole reply or none."""
        if has_the_code:
            slot = slot[:NUMBER_BYTES] + b"BTC".ljust(LONGEST_CODE, b"\0") + slot[NUMBER_BYTES + LONGEST_CODE :]
        shelf = memory()
        at = hash_of(b"BTC") % SLOTS * SLOT_BYTES
        shelf[at : at + SLOT_BYTES] = slot
        self.assertIsNone(SharedShelf(shelf).get("BTC"))  # a sum that agrees by chance takes four thousand million

    @settings(deadline=None, max_examples=100)
    @given(codes, texts, st.binary(max_size=LONGEST_TEXT // 2 - 20), times, times, sources)
    def test_any_reply(
        self, asset: str, head: bytes, tail: bytes, observed_at: float, fresh_until: float, source: str
    ) -> None:
        self.assertTrue(self.writer.put(asset, head, tail, observed_at, fresh_until, source))
        reply = SharedReply(head, tail, observed_at, fresh_until, source)
        self.assertEqual(reply, self.reader.find(asset, fresh_until))
        self.assertEqual(reply, SharedShelf(self.memory).get(asset))


class _Machine(RuleBasedStateMachine):
    """A shelf against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = memory()
        self.writer = SharedShelf(self.memory)
        self.reader = SharedShelf(self.memory)
        self.lying: dict[str, bytes] = {}

    @rule(asset=st.sampled_from([*colliding(4), "BTC", "ETH"]), head=texts)
    def put(self, asset: str, head: bytes) -> None:
        self.writer.put(asset, head, b"", 0.0, 10.0, "x")
        self.lying[asset] = head

    @rule(asset=st.sampled_from(["BTC", "ETH"]))
    def take_down(self, asset: str) -> None:
        self.writer.take_down(asset)
        self.lying.pop(asset, None)

    @rule()
    def another_writer(self) -> None:
        self.writer = SharedShelf(self.memory)

    @invariant()
    def as_it_should_be(self) -> None:
        for asset in ("BTC", "ETH", *self.lying):
            found = self.reader.find(asset, 5.0)
            assert (None if found is None else found.head) == self.lying.get(asset)


class AgainstADictionary(SynchronousTestCase):
    def test_any_order(self) -> None:
        run_state_machine_as_test(_Machine, settings=settings(deadline=None, max_examples=30, stateful_step_count=30))


ENOUGH = 1_000
WRITER = """
import mmap, sys
from itertools import count
from tbeast.domain.sharedshelf import BYTES, SharedShelf
shelf = SharedShelf(memoryview(mmap.mmap(int(sys.argv[1]), BYTES)))
for number in count(1):
    text = b"%d," % number * (1 + number % 60)
    shelf.put("BTC", text, text, float(number), float(number), str(number))
"""


class TwoProcesses(SynchronousTestCase):
    def test_never_in_pieces(self) -> None:
        """While another process writes as fast as it can, all parts of what is found are of one writing."""
        with tempfile.TemporaryFile() as file:
            os.ftruncate(file.fileno(), BYTES)
            shelf = SharedShelf(memoryview(mmap.mmap(file.fileno(), BYTES, access=mmap.ACCESS_READ)))
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(file.fileno())], pass_fds=[file.fileno()], stdin=subprocess.DEVNULL
            )
            try:
                seen, last = 0, 0
                while seen < ENOUGH:
                    found = shelf.get("BTC")
                    if found is None:
                        self.assertIsNone(writer.poll())
                        continue
                    number = int(found.source)
                    text = b"%d," % number * (1 + number % 60)
                    self.assertEqual(SharedReply(text, text, number, number, str(number)), found)
                    self.assertGreaterEqual(number, last)
                    seen += number > last
                    last = number
            finally:
                writer.kill()
                writer.wait()


class TwinShelfTests(SynchronousTestCase):
    def test_both(self) -> None:
        shared = SharedShelf(memory())
        shelf = TwinShelf(shared)
        quote: Any = Quote("BTC", 1.0, None, None, None, GOOD, "median", (), 1, (), 0.0, 5.0, 10.0)
        reply = ReadyReply(b"head", b"tail", 5.0, 10.0, "median", quote)
        shelf.put("BTC", reply)
        self.assertIs(reply, shelf.find("BTC", 7.0))
        self.assertEqual(SharedReply(*reply[:5]), shared.find("BTC", 7.0))
        shelf.put("BTC", reply._replace(head=b"x" * LONGEST_TEXT))
        self.assertIsNotNone(shelf.find("BTC", 7.0))
        self.assertIsNone(shared.find("BTC", 7.0))
        shelf.put("BTC", reply)
        shelf.take_down("BTC")
        self.assertIsNone(shelf.find("BTC", 7.0))
        self.assertIsNone(shared.find("BTC", 7.0))
