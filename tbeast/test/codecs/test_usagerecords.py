"""Records of the journal."""

from __future__ import annotations

from itertools import pairwise
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.usagerecords import Damage, encode, records
from tbeast.domain.usage import Batch, Kind, Row

KIND = Kind("key", "lpo", "http", "BTC", "median", "shelf", 200, True)


def batch(number: int, *rows: Row) -> Batch:
    return Batch(f"{number:024x}", "node-1", rows or (Row(KIND, 1_795_348_800.123457, 3, 100, 50),))


def read(data: bytes) -> list[Batch]:
    return [found for found, _ in records(data) if isinstance(found, Batch)]


def damages(data: bytes) -> list[Damage]:
    return [found for found, _ in records(data) if isinstance(found, Damage)]


texts = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(["null", "\ud800", "\0", "u1 0 0 [\n"])
numbers = st.integers() | st.integers(-3, 3)
rows = st.builds(
    Row,
    st.builds(Kind, texts, texts, texts, texts, texts, texts, numbers, st.booleans()),
    st.floats(allow_nan=False),
    numbers, numbers, numbers,
)  # fmt: skip
batches = st.builds(
    lambda number, node, rows: Batch(f"{number:024x}", node, tuple(rows)),
    st.integers(0, 2**96 - 1), texts, st.lists(rows, max_size=4),
)  # fmt: skip


class RoundTripTests(SynchronousTestCase):
    def test_as_it_is_written(self) -> None:
        """The form of version 1, which every later version has to read."""
        line = (
            b'u1 ca4f8ccf 121 ["000000000000000000000007","node-1",'
            b'[[["key","lpo","http","BTC","median","shelf",200,true],1795348800.123457,3,100,50]]]\n'
        )
        self.assertEqual(line, encode(batch(7)))
        self.assertEqual([batch(7)], read(line))

    @settings(deadline=None, max_examples=300)
    @given(st.lists(batches, max_size=4))
    def test_whatever_is_in_them(self, batches: list[Batch]) -> None:
        data = b"".join(map(encode, batches))
        self.assertEqual(data.count(b"\n"), len(batches))
        self.assertEqual(batches, read(data))

    def test_what_is_no_number(self) -> None:
        found = read(encode(batch(1, Row(KIND, float("nan"), 1, 1, 1), Row(KIND, float("-inf"), 1, 1, 1))))
        self.assertEqual(["nan", "-inf"], [str(row.at) for row in found[0].rows])


class BrokenTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=200)
    @given(st.data())
    def test_cut_off_anywhere(self, data: st.DataObject) -> None:
        """What was whole before the cut is read; the rest is neither read nor called damaged."""
        pieces = [encode(batch(number)) for number in range(3)]
        whole = b"".join(pieces)
        cut = data.draw(st.integers(0, len(whole)))
        found = list(records(whole[:cut]))
        kept = [batch(number) for number in range(3) if sum(map(len, pieces[: number + 1])) <= cut]
        self.assertEqual(kept, [what for what, _ in found])
        self.assertLessEqual(found[-1][1] if found else 0, cut)

    @settings(deadline=None, max_examples=500)
    @given(st.data())
    def test_any_byte_changed(self, data: st.DataObject) -> None:
        """One record is lost, or two where the change hit what parts them; nothing false is read."""
        whole = b"".join(encode(batch(number)) for number in range(4))
        place = data.draw(st.integers(0, len(whole) - 1))
        value = data.draw(st.integers(0, 255).filter(lambda value: value != whole[place]))
        broken = whole[:place] + bytes([value]) + whole[place + 1 :]
        found = read(broken)
        self.assertEqual([one for one in map(batch, range(4)) if one in found], found)
        self.assertEqual(3, len(found))
        last = place >= len(whole) - 1
        self.assertEqual(not last, bool(damages(broken)))

    @settings(deadline=None, max_examples=300)
    @given(st.lists(st.binary(max_size=60) | st.just(encode(batch(5))) | st.just(b"\n"), max_size=12))
    def test_garbage_between(self, pieces: list[bytes]) -> None:
        """All of it is accounted for, in order, up to the last line feed."""
        data = b"".join(pieces)
        found = list(records(data))
        ends = [end for _, end in found]
        self.assertEqual(ends, sorted(set(ends)))
        self.assertEqual(data.rfind(b"\n") + 1, ends[-1] if ends else 0)
        for (_, before), (what, _) in pairwise([(None, 0), *found]):
            if isinstance(what, Damage):
                self.assertEqual(before, what.start)

    def test_two_in_one_line(self) -> None:
        """As after a write that failed half way and could not be taken back."""
        data = encode(batch(1))[:40] + encode(batch(2)) + encode(batch(3))
        self.assertEqual([batch(2), batch(3)], read(data))
        self.assertEqual([0], [damage.start for damage in damages(data)])

    def test_each_fault_is_named(self) -> None:
        def forged(body: bytes) -> bytes:
            return b"u1 %08x %d %b\n" % (crc32(body), len(body), body)

        for line, why in (
            (b"hello\n", "it does not begin as a record does"),
            (b"u1 00000000 " + b"9" * 5000 + b" []\n", "it does not begin as a record does"),
            (b"u2 00000000 2 []\n", "this version cannot read records of version 2"),
            (b"u1 00000000 3 []\n", "it has 2 bytes and says 3"),
            (b"u1 00000000 2 []\n", "its checksum does not agree"),
            (forged(b"[]"), "its content cannot be read"),
            (forged(b'["x","n",[]]'), "its id is none"),
            (forged(b"[" * 100_000), "its content cannot be read"),
            (forged(b'["' + b"0" * 24 + b'","n",[[["a","b","c","d","e","f","200",true],1.5,1,1,1]]]'),
             "its content cannot be read"),
        ):  # fmt: skip
            self.assertEqual([(Damage(0, why), len(line))], list(records(line)))
