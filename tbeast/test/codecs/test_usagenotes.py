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

    def test_json_that_is_no_row(self) -> None:
        self.assertEqual(([], 0), read(encode(b"[1,2]")))


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
