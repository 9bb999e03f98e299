"""Notes of usage that waits."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.usagenotes import encode, read
from tbeast.domain.usage import Kind, Row, added_up

words = st.text(st.characters(codec="utf-8"), max_size=8)
kinds = st.builds(
    Kind, words, st.just("lpo"), st.sampled_from(["http", "udp"]), words, words, words, st.integers(100, 599),
    st.booleans(),
)  # fmt: skip
numbers = st.integers(0, 2**53)
rows = st.builds(Row, kinds, st.floats(0, 4e9), numbers, numbers, numbers)
notes = st.lists(st.lists(rows, min_size=1, max_size=4), max_size=4)


def json(some: list[Row]) -> bytes:
    return b",".join(map(msgspec.json.encode, some))


class NotesTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(notes)
    def test_there_and_back(self, notes: list[list[Row]]) -> None:
        data = b"".join(encode(json(note)) for note in notes)
        self.assertEqual(([row for note in notes for row in note], len(data)), read(data))

    @settings(deadline=None)
    @given(notes.filter(bool), st.data())
    def test_cut_off_anywhere(self, notes: list[list[Row]], data: st.DataObject) -> None:
        """What is whole is there, and what is not is left out."""
        whole = [encode(json(note)) for note in notes]
        text = b"".join(whole)
        end = data.draw(st.integers(0, len(text) - 1))
        found, read_to = read(text[:end])
        kept = 0
        while sum(map(len, whole[: kept + 1])) <= end:
            kept += 1
        self.assertEqual([row for note in notes[:kept] for row in note], found)
        self.assertEqual(sum(map(len, whole[:kept])), read_to)

    @settings(deadline=None)
    @given(notes.filter(bool), st.data())
    def test_a_byte_that_is_another(self, notes: list[list[Row]], data: st.DataObject) -> None:
        """Nothing wrong is ever read."""
        text = bytearray(b"".join(encode(json(note)) for note in notes))
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] ^= 1 << data.draw(st.integers(0, 7))
        found, _ = read(bytes(text))
        self.assertEqual([row for note in notes for row in note][: len(found)], found)

    @settings(deadline=None)
    @given(st.lists(rows, min_size=1, max_size=5), st.lists(st.tuples(st.integers(0, 4), numbers, numbers, numbers)))
    def test_what_comes_to_a_row(self, some: list[Row], more: list[tuple[int, int, int, int]]) -> None:
        """It is told by the row's number in its file, in the same note and in later ones."""
        more = [(number % len(some), *counts) for number, *counts in more]  # type: ignore[misc]
        wanted = [*some, *(Row(some[number].kind, some[number].at, *counts) for number, *counts in more)]
        parts = [*map(msgspec.json.encode, some), *map(msgspec.json.encode, more)]
        for cut in range(len(parts) + 1):
            data = b"".join(encode(b",".join(part)) for part in (parts[:cut], parts[cut:]) if part)
            self.assertEqual((wanted, len(data)), read(data))

    def test_json_that_is_no_row(self) -> None:
        """A note with anything wrong in it is none, and nothing behind it is one."""
        kind = ["a", "lpo", "udp", "BTC", "median", "shelf", 200, True]
        good = encode(msgspec.json.encode([kind, 7.0, 2, 30, 20]))
        row = Row(Kind._make(kind), 7.0, 2, 30, 20)
        for bad in (
            b"[1,2]", b"[]", b"7", b'"row"', b"[0]", b"[0,1,2]", b"[0,1,2,3,4]", b"[1,1,2,3]", b"[-1,1,2,3]",
            b"[0,-1,2,3]", b"[0,1.5,2,3]", b"[0.0,1,2,3]", b"[true,1,2,3]", b"[[],1,2,3,4]",
        ):  # fmt: skip
            self.assertEqual(([row], len(good)), read(good + encode(bad) + good), bad)


class AddedUpTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(st.lists(rows, max_size=20))
    def test_sums_and_order(self, some: list[Row]) -> None:
        added = added_up([*some, *some])
        self.assertEqual(2 * sum(row.request_count for row in some), sum(row.request_count for row in added))
        self.assertEqual(2 * sum(row.response_us_sum for row in some), sum(row.response_us_sum for row in added))
        first = list(dict.fromkeys((row.kind, int(row.at // 3600)) for row in some))
        self.assertEqual(first, [(row.kind, int(row.at // 3600)) for row in added])

    def test_one_kind(self) -> None:
        kind = Kind("a", "lpo", "udp", "BTC", "median", "shelf", 200, True)
        rows = [Row(kind, 7201.5, 2, 30, 20), Row(kind, 7200.5, 3, 10, 5), Row(kind, 7199.0, 1, 1, 1)]
        self.assertEqual([Row(kind, 7200.5, 5, 40, 20), Row(kind, 7199.0, 1, 1, 1)], added_up(rows))
