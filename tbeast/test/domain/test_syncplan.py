"""The sync job's decisions, and a whole job made of them against tables in memory, interrupted at will."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.keys import KeyRecord, account_of
from tbeast.domain.syncplan import (
    BUILDING,
    FIRST_WINDOW,
    KEPT_SECONDS,
    LEAST_WINDOW,
    MOST_WINDOW,
    NO_ID,
    NONE,
    OLDEST_MARK_SECONDS,
    OVERLAP_SECONDS,
    SECOND,
    WHOLE,
    Building,
    CatchingUp,
    Chunk,
    Marks,
    Place,
    Plan,
    Survey,
    UsageKind,
    UsageRow,
    caught_up_from,
    cutoff_us,
    entries_of,
    latest_due,
    month_of,
    next_building,
    next_catching_up,
    plan,
    read_marks,
    reports_from,
    used_of,
)

NOW = 1_790_000_000 * SECOND
DAY = 86_400 * SECOND
ID = "00112233-4455-6677-8899-aabbccddeeff"
SOME = Survey(index=10, by_key=8, by_asset=9, looked_for=5)
WHOLE_MARKS = Marks(
    WHOLE, "here", began_us=NOW - 2 * DAY, at=(NOW - 2 * DAY, ID), written_us=NOW - DAY, index=10, by_key=8, by_asset=9
)
HALF_WAY = Marks(BUILDING, "here", began_us=NOW - SECOND, at=(NOW - DAY, ID), index=10)


class PlanTests(SynchronousTestCase):
    def plan(self, marks: Marks, survey: Survey = SOME, full: bool = False) -> Plan:
        return plan(marks, survey, "here", NOW, full)

    def anew(self, found: Plan, why: str) -> None:
        self.assertEqual(found.why, why)
        self.assertTrue(found.forget)
        self.assertEqual(found.marks, Marks(BUILDING, "here", began_us=NOW))
        self.assertEqual(found.building, Building((NOW - KEPT_SECONDS * SECOND, NO_ID), NOW))

    def test_a_copy_that_is_sound_is_left_as_it_is(self) -> None:
        self.assertEqual(self.plan(WHOLE_MARKS), Plan("", WHOLE_MARKS, False, None))

    def test_an_empty_cache_is_built_from_nothing(self) -> None:
        self.anew(self.plan(Marks(), Survey(0, 0, 0)), "there are no marks")

    def test_whoever_asks_for_all_is_given_all(self) -> None:
        self.anew(self.plan(WHOLE_MARKS, full=True), "it was asked for")
        self.anew(self.plan(HALF_WAY, full=True), "it was asked for")

    def test_each_doubt(self) -> None:
        for marks, survey, why in (
            (evolve(WHOLE_MARKS, origin="there"), SOME, "the marks are of another database"),
            (evolve(WHOLE_MARKS, written_us=NOW + DAY), SOME, "the marks lie in the future"),
            (evolve(WHOLE_MARKS, written_us=NOW - OLDEST_MARK_SECONDS * SECOND - 1), SOME, "the marks are too old"),
            (evolve(HALF_WAY, began_us=NOW - OLDEST_MARK_SECONDS * SECOND - 1), SOME, "the marks are too old"),
            (WHOLE_MARKS, evolve(SOME, index=9), "entries are missing in the index: 9 of 10"),
            (HALF_WAY, evolve(SOME, index=9), "entries are missing in the index: 9 of 10"),
            (WHOLE_MARKS, evolve(SOME, by_key=7), "entries are missing in the sets of keys: 7 of 8"),
            (WHOLE_MARKS, evolve(SOME, by_asset=0), "entries are missing in the sets of assets: 0 of 9"),
            (WHOLE_MARKS, evolve(SOME, missing=1), "rows are missing: 1 of 5 that were looked for"),
        ):
            self.anew(self.plan(marks, survey), why)

    def test_more_entries_than_were_noted_are_no_doubt(self) -> None:
        self.assertIsNone(self.plan(WHOLE_MARKS, Survey(11, 11, 11)).building)

    def test_a_mark_a_little_ahead_is_no_doubt(self) -> None:
        self.assertIsNone(self.plan(evolve(WHOLE_MARKS, written_us=NOW + SECOND)).building)

    def test_a_building_that_was_interrupted_goes_on(self) -> None:
        found = self.plan(HALF_WAY)
        self.assertEqual(found.marks, HALF_WAY)
        self.assertFalse(found.forget)
        self.assertEqual(found.building, Building((NOW - DAY, ID), NOW - SECOND))

    def test_a_building_that_had_not_begun_yet_begins_again(self) -> None:
        self.anew(
            self.plan(Marks(BUILDING, "here", began_us=NOW - SECOND), Survey(3, 3, 3)),
            "the building that was interrupted begins again",
        )

    def test_catching_up_begins_before_the_mark(self) -> None:
        overlap = OVERLAP_SECONDS * SECOND
        self.assertEqual(caught_up_from(WHOLE_MARKS, NOW), CatchingUp((NOW - DAY - overlap, NO_ID), NOW))
        self.assertEqual(caught_up_from(HALF_WAY, NOW), CatchingUp((NOW - SECOND - overlap, NO_ID), NOW))

    def test_reports_are_read_from_a_day_before_the_mark(self) -> None:
        self.assertEqual(reports_from(Marks(), NOW), (cutoff_us(NOW), NO_ID))
        self.assertEqual(reports_from(evolve(WHOLE_MARKS, reports_us=NOW - 5), NOW), (NOW - DAY - 5, NO_ID))


class MarksTests(SynchronousTestCase):
    def test_marks_are_read_as_they_were_written(self) -> None:
        for marks in (WHOLE_MARKS, HALF_WAY):
            self.assertEqual(read_marks(marks.fields()), marks)

    def test_what_is_no_mark(self) -> None:
        fields = WHOLE_MARKS.fields()
        self.assertEqual(read_marks({}).state, NONE)
        for name, value in (
            ("version", "0"), ("state", "none"), ("at_id", "x"), ("began_us", ""), ("index", "many"),
        ):  # fmt: skip
            self.assertEqual(read_marks({**fields, name: value}), Marks(), name)
        for name in fields:
            self.assertEqual(read_marks({key: value for key, value in fields.items() if key != name}), Marks(), name)


class WalkTests(SynchronousTestCase):
    def test_a_full_chunk_is_gone_on_after(self) -> None:
        walk = Building((1, NO_ID), 100)
        self.assertEqual(next_building(walk, Chunk((1, 2), (50, ID)), 2), Building((50, ID), 100))
        self.assertIsNone(next_building(walk, Chunk((1,), (50, ID)), 2))
        self.assertIsNone(next_building(walk, Chunk((), None), 2))

    def test_windows_grow_while_little_is_found_and_shrink_while_much_is(self) -> None:
        walk = CatchingUp((0, NO_ID), NOW)
        wider = next_catching_up(walk, Chunk((), None), 10)
        self.assertEqual(wider, CatchingUp((FIRST_WINDOW, NO_ID), NOW, 2 * FIRST_WINDOW))
        same = next_catching_up(walk, Chunk(range(5), (7, ID)), 10)
        self.assertEqual(same, CatchingUp((FIRST_WINDOW, NO_ID), NOW, FIRST_WINDOW))
        narrower = next_catching_up(walk, Chunk(range(10), (7, ID)), 10)
        self.assertEqual(narrower, CatchingUp((7, ID), NOW, FIRST_WINDOW // 2))

    def test_windows_have_bounds(self) -> None:
        walk: CatchingUp | None = CatchingUp((0, NO_ID), NOW)
        for _ in range(30):
            assert walk is not None
            walk = next_catching_up(walk, Chunk((), None), 10)
        assert walk is not None
        self.assertEqual(walk.window_us, MOST_WINDOW)
        for _ in range(30):
            assert walk is not None
            walk = next_catching_up(walk, Chunk(range(10), walk.after), 10)
        assert walk is not None
        self.assertEqual(walk.window_us, LEAST_WINDOW)

    def test_it_is_over_at_the_end_of_the_time_and_not_while_chunks_are_full(self) -> None:
        walk = CatchingUp((NOW - 5, NO_ID), NOW)
        self.assertIsNone(next_catching_up(walk, Chunk(range(9), (NOW - 1, ID)), 10))
        more = next_catching_up(walk, Chunk(range(10), (NOW - 1, ID)), 10)
        self.assertEqual(more, CatchingUp((NOW - 1, ID), NOW, FIRST_WINDOW // 2))


def row(number: int, key_id: str = "k", asset: str = "BTC", at: int = NOW) -> UsageRow:
    kind = UsageKind(key_id.encode(), b"n", b"lpo", b"http", asset.encode(), b"", b"", b"200", b"1")
    return UsageRow(b"%036d" % number, b"%d" % at, b"1", b"2", b"2", kind)


class EntriesTests(SynchronousTestCase):
    def test_each_row_is_in_the_sets_that_it_belongs_to(self) -> None:
        rows = [row(1), row(2, asset="ETH", at=NOW + 1_999), row(3, key_id=""), row(4, asset="")]
        found = entries_of(rows)
        ms = b"%d" % (NOW // 1000)
        one, three, four = ((ms, rows[place].id) for place in (0, 2, 3))
        two = (b"%d" % (NOW // 1000 + 1), rows[1].id)
        self.assertEqual(found.index, [*one, *two, *three, *four])
        self.assertEqual(found.by_key, {b"k": [*one, *two, *four]})
        self.assertEqual(found.by_asset, {b"BTC": [*one, *three], b"ETH": [*two]})

    def test_no_rows(self) -> None:
        self.assertEqual(entries_of([]).index, [])


class CalendarTests(SynchronousTestCase):
    def test_the_latest_time_at_which_it_was_due(self) -> None:
        midnight = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
        self.assertEqual(latest_due(midnight + 6 * 3600, 6), midnight + 6 * 3600)
        self.assertEqual(latest_due(midnight + 6 * 3600 - 1, 6), midnight - 18 * 3600)
        self.assertEqual(latest_due(midnight + 86_399, 0), midnight)

    def test_months(self) -> None:
        for moment, month in (
            (datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), "2026-11"), (datetime(2026, 12, 1, tzinfo=UTC), "2026-12"),
        ):  # fmt: skip
            self.assertEqual(month_of(int(moment.timestamp()) * SECOND), month)

    def test_what_good_keys_have_used_of_the_month(self) -> None:
        def record(name: str, used: int, month: str, revoked: bool = False) -> KeyRecord:
            return KeyRecord(account_of(f"key-{name}", "free", name), revoked, 0.0, None, used, month)

        records = [
            record("a", 5, "2026-11"), record("b", 7, "2026-10"), record("c", 0, "2026-11"),
            record("d", 9, "2026-11", revoked=True),
        ]  # fmt: skip
        self.assertEqual(used_of(records, "2026-11"), {records[0].account.key_id: 5})


Written = tuple[int, int, int]
"""When a row was written, its own time, and its number."""


class World:
    """A table in memory, a copy of it, and the job.

    @ivar fuel: how many chunks it may still write before it is killed.
    """

    def __init__(self, rows: list[Written]) -> None:
        self.rows = rows
        self.copy: set[int] = set()
        self.fields: dict[str, str] = {}
        self.fuel = 0

    def id(self, number: int) -> str:
        return f"00000000-0000-0000-0000-{number + 1:012x}"

    def chunk(self, walk: Building | CatchingUp, limit: int) -> Chunk[int]:
        cutoff = cutoff_us(NOW)
        if isinstance(walk, Building):
            found = sorted((at, self.id(n), n) for w, at, n in self.rows if w < walk.until_us)
        else:
            found = sorted((w, self.id(n), n) for w, at, n in self.rows if w < walk.bound_us and at >= cutoff)
        found = [one for one in found if one[:2] > walk.after][:limit]
        last: Place | None = found[-1][:2] if found else None
        return Chunk([one[2] for one in found], last)

    def note(self, marks: Marks) -> Marks:
        marks = evolve(marks, index=len(self.copy))
        self.fields = marks.fields()
        return marks

    def write(self, chunk: Chunk[int]) -> None:
        if not self.fuel:
            self.copy |= set(chunk.rows[::2])  # killed in the middle
            raise InterruptedError
        self.fuel -= 1
        self.copy |= set(chunk.rows)

    def run(self, limit: int, fuel: int, now_us: int = NOW) -> str:
        self.fuel = fuel
        found = plan(read_marks(self.fields), Survey(len(self.copy), 0, 0), "here", now_us)
        if found.forget:
            self.fields = found.marks.fields()
            self.copy.clear()
        marks = found.marks
        building = found.building
        while building is not None:
            chunk = self.chunk(building, limit)
            self.write(chunk)
            if chunk.last is not None:
                marks = self.note(evolve(marks, at=chunk.last))
            building = next_building(building, chunk, limit)
        catching: CatchingUp | None = caught_up_from(marks, now_us)
        while catching is not None:
            chunk = self.chunk(catching, limit)
            self.write(chunk)
            catching = next_catching_up(catching, chunk, limit)
            reached = now_us if catching is None else catching.after[0]
            marks = self.note(evolve(marks, state=WHOLE, written_us=max(marks.written_us, reached)))
        return found.why


moments = st.integers(0, 600).map(lambda seconds: NOW - seconds * SECOND)
tables = st.lists(st.tuples(moments, st.integers(0, 100 * 86_400).map(lambda s: NOW - s * SECOND)), max_size=30)


class WholeJobTests(SynchronousTestCase):
    def wanted(self, world: World) -> set[int]:
        return {number for _written, at, number in world.rows if at >= cutoff_us(NOW)}

    @given(tables, st.integers(1, 7), st.lists(st.integers(0, 4), max_size=6))
    @settings(deadline=None, max_examples=150)
    def test_however_often_it_is_killed_the_last_run_has_everything(
        self, table: list[tuple[int, int]], limit: int, kills: list[int]
    ) -> None:
        world = World([(written, at, number) for number, (written, at) in enumerate(table)])
        for fuel in kills:
            with contextlib.suppress(InterruptedError):
                world.run(limit, fuel)
        world.run(limit, 10**6)
        self.assertLessEqual(self.wanted(world) - {n for w, _, n in world.rows if w >= NOW}, world.copy)
        self.assertLessEqual(world.copy, set(range(len(table))))
        self.assertEqual(read_marks(world.fields).state, WHOLE)

    @given(tables, st.integers(1, 7), st.sets(st.integers(0, 29), min_size=1))
    @settings(deadline=None, max_examples=100)
    def test_what_is_lost_of_the_copy_comes_back(
        self, table: list[tuple[int, int]], limit: int, lost: set[int]
    ) -> None:
        world = World([(written, at, number) for number, (written, at) in enumerate(table)])
        world.run(limit, 10**6)
        before = set(world.copy)
        world.copy -= lost
        why = world.run(limit, 10**6)
        self.assertEqual(world.copy, before)
        self.assertEqual(why.startswith("entries are missing"), bool(before & lost))

    def test_rows_that_come_late_are_found(self) -> None:
        world = World([(NOW - 700 * SECOND, NOW - 700 * SECOND, 0)])
        world.run(5, 100, NOW - 400 * SECOND)
        world.rows.append((NOW - 500 * SECOND, NOW - 600 * SECOND, 1))  # was under way, and committed late
        world.rows.append((NOW - 100 * SECOND, NOW - 92 * DAY, 2))  # lay in a journal for very long
        self.assertEqual(world.run(5, 100), "")
        self.assertEqual(world.copy, {0, 1, 2})

    def test_equal_times_in_plenty_are_no_obstacle(self) -> None:
        world = World([(NOW - SECOND, NOW - SECOND, number) for number in range(50)])
        world.run(3, 100)
        world.fields = evolve(read_marks(world.fields), written_us=NOW - 2 * SECOND, index=0).fields()
        world.copy.clear()
        self.assertEqual(world.run(3, 100), "")
        self.assertEqual(len(world.copy), 50)
