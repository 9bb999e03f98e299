"""Levels: how they are read, cut to the room of a machine, and shared out."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest.levels import (
    CONNECTIONS_A_SOURCE,
    HIGHEST,
    LEVELS,
    MOST,
    MOST_SOURCES,
    Level,
    LevelsError,
    Room,
    cut,
    generators_for,
    loopback_sources,
    read_levels,
    shares,
    sources_of,
    uncut,
    usual_generators,
)

WIDE = Room(files=1 << 20, ports=28_232, sources=200)


class ReadingTests(SynchronousTestCase):
    def test_the_levels_are_thirteen_and_rise_to_the_published_one(self) -> None:
        self.assertEqual((len(LEVELS), LEVELS[-1]), (13, 21_000))
        self.assertEqual(read_levels(",".join(map(str, LEVELS))), LEVELS)

    def test_spaces_and_underscores(self) -> None:
        self.assertEqual(read_levels("1, 64,2_000"), (1, 64, 2000))

    def test_what_is_no_list_of_rising_numbers(self) -> None:
        for text in ("", "0", "-1", "1,,2", "a", "5,5", "9,3", "1.5", "\u0661", str(HIGHEST + 1)):
            self.assertRaises(LevelsError, read_levels, text)
        self.assertRaises(LevelsError, read_levels, ",".join(map(str, range(1, MOST + 2))))


class CuttingTests(SynchronousTestCase):
    def test_nothing_is_cut_where_there_is_room(self) -> None:
        self.assertEqual(cut(LEVELS, WIDE, 1), (uncut(LEVELS), []))

    def test_too_few_files(self) -> None:
        levels, words = cut((100, 1000, 2000), Room(files=564, ports=28_232, sources=1), 1)
        self.assertEqual(levels, [Level(1, 100, 100), Level(2, 1000, 500)])
        self.assertEqual(len(words), 2)
        self.assertIn("Level 2, 1,000 connections, is cut to 500: one process may open 564 files", words[0])
        self.assertIn("Level 3, 2,000 connections, is left out", words[1])

    def test_more_processes_may_open_more(self) -> None:
        room = Room(files=564, ports=28_232, sources=1)
        levels, words = cut((100, 1000), room, 2)
        self.assertEqual((levels, words), (uncut((100, 1000)), []))
        self.assertIn("2 processes may open 564 files each", cut((1001,), room, 2)[1][0])

    def test_too_few_ports(self) -> None:
        levels, words = cut((21_000,), Room(files=1 << 20, ports=10_000, sources=2), 1)
        self.assertEqual(levels, [Level(1, 21_000, 16_000)])
        self.assertIn("10,000 local ports at 2 addresses", words[0])

    def test_a_machine_without_room_for_anything_has_one_connection(self) -> None:
        levels, _ = cut((10, 20), Room(files=1, ports=0, sources=1), 1)
        self.assertEqual(levels, [Level(1, 10, 1)])

    @given(
        st.lists(st.integers(1, HIGHEST), min_size=1, max_size=MOST, unique=True).map(sorted),
        st.integers(1, 100_000), st.integers(1, 60_000), st.integers(1, 200), st.integers(1, 64),
    )  # fmt: skip
    @settings(deadline=None, max_examples=100)
    def test_levels_rise_and_fit_and_every_cut_is_told(
        self, wanted: list[int], files: int, ports: int, sources: int, generators: int
    ) -> None:
        room = Room(files, ports, sources)
        levels, words = cut(wanted, room, generators)
        askers = [level.askers for level in levels]
        self.assertEqual(askers, sorted(set(askers)))
        self.assertTrue(0 < askers[-1] <= min(room.in_a_process * generators, room.by_ports))
        whole = sum(level.askers == level.wanted for level in levels)
        self.assertEqual(len(words), len(wanted) - whole)


class SharingTests(SynchronousTestCase):
    def test_few_askers_are_held_by_few_generators(self) -> None:
        self.assertEqual(shares(1, 4, 4, 1000), [1, 0, 0, 0])
        self.assertEqual(shares(500, 2, 1, 19_936), [500, 0])
        self.assertEqual(shares(21_000, 2, 1, 19_936), [10_500, 10_500])
        self.assertEqual(shares(10, 4, 4, 1000), [3, 3, 2, 2])

    @given(st.integers(1, HIGHEST), st.integers(1, 64), st.integers(1, 64), st.integers(1, 30_000))
    @settings(deadline=None, max_examples=100)
    def test_shares_add_up(self, askers: int, generators: int, usual: int, each: int) -> None:
        held = shares(askers, generators, usual, each)
        self.assertEqual((sum(held), len(held)), (askers, generators))
        used = [count for count in held if count]
        self.assertLessEqual(max(used) - min(used), 1)
        if generators * each >= askers:
            self.assertLessEqual(max(held), each)

    def test_generators(self) -> None:
        self.assertEqual(generators_for(21_000, Room(20_000, 28_232, 200), 1), 2)
        self.assertEqual(generators_for(21_000, WIDE, 1), 1)
        self.assertEqual(generators_for(1, WIDE, 8), 8)
        self.assertEqual(list(map(usual_generators, (1, 2, 3, 16, 1000))), [1, 1, 1, 8, 64])

    def test_sources(self) -> None:
        self.assertEqual(sources_of(1), 1)
        self.assertEqual(sources_of(CONNECTIONS_A_SOURCE + 1), 2)
        self.assertEqual(loopback_sources(3), ["127.0.0.1", "127.0.0.2", "127.0.0.3"])
        self.assertLessEqual(sources_of(10**9), MOST_SOURCES)
