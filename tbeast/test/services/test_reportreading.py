"""Reports out of a copy and a database: the lines up to the cut, each once and in order, whatever is where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.reports import (
    USAGE,
    Cut,
    ReportKey,
    ReportLine,
    ReportQuery,
    ReportSums,
    Sums,
    UsageKey,
    UsageLine,
    place_of,
)
from tbeast.domain.reportsources import CopiedLines, Moment, WrittenLines
from tbeast.domain.syncplan import NO_ID, OVERLAP_SECONDS, SECOND, WHOLE, Marks, Place
from tbeast.errors import CacheUnavailableError, CopyIncompleteError, StoreUnavailableError
from tbeast.services.reportreading import ReportReading
from tbeast.testing.logs import listen

ORIGIN = "here:1"
ALL = ReportQuery(USAGE, None, 0, 10**9)


def line(number: int, at_us: int, key_id: str = "abc") -> UsageLine:
    row_id = str(UUID(int=number * 7919 % 9973 + 1))
    return UsageLine(at_us, row_id, key_id, "n", "lpo", "udp", "BTC", "median", "shelf", 200, True, 1, 2, 3)


class Store:
    """A database, with when each line was written; more may be written at any question."""

    def __init__(self, rows: list[tuple[UsageLine, int]], now_us: int) -> None:
        self.rows = rows
        self.now_us = now_us
        self.asked: list[int] = []
        self.coming: list[tuple[UsageLine, int]] = []
        self.is_away = False

    async def moment(self) -> Moment:
        return Moment(ORIGIN, self.now_us, self.now_us)

    async def usage(self, query: ReportQuery, since_us: int, cut_us: int, after: Place, limit: int) -> WrittenLines:
        if self.is_away:
            raise StoreUnavailableError("away")
        self.asked.append(since_us)
        found = sorted(
            (line, written) for line, written in self.rows
            if written > since_us and evolve(query, after=after).takes(line)
        )[:limit]  # fmt: skip
        later = frozenset(line.id for line, written in found if written > cut_us)
        return WrittenLines([line for line, _ in found], later, len(found) == limit)

    async def written_before(self, query: ReportQuery, since_us: int, after: Place, most: int) -> int:
        found = [line for line, written in self.rows if written <= since_us and evolve(query, after=after).takes(line)]
        return len(found[:most])

    async def usage_sums(self, query: ReportQuery, since_us: int, cut_us: int) -> list[tuple[UsageKey, Sums]]:
        raise AssertionError("nobody asks for it here")

    async def made(self, query: ReportQuery, after: Place, limit: int) -> list[ReportLine]:
        raise AssertionError("nobody asks for it here")

    async def made_sums(self, query: ReportQuery) -> list[tuple[ReportKey, ReportSums]]:
        raise AssertionError("nobody asks for it here")


class Copy:
    """A copy, in which whole milliseconds are read; it may take in new lines at any question, and break."""

    def __init__(self, lines: list[UsageLine], store: Store, written_us: int) -> None:
        self.lines = lines
        self.store = store
        self.marked = evolve(Marks(), state=WHOLE, origin=ORIGIN, written_us=written_us)
        self.breaks_after = -1
        self.error: Exception = CopyIncompleteError("missing")

    async def marks(self) -> Mapping[str, str]:
        if self.breaks_after == 0 and isinstance(self.error, CacheUnavailableError):
            raise self.error
        return self.marked.fields()

    async def usage(self, query: ReportQuery, after: Place, limit: int) -> CopiedLines:
        if self.breaks_after == 0:
            raise self.error
        self.breaks_after -= 1
        if self.store.coming:  # somebody writes, and the sync job copies it at once
            new = self.store.coming.pop()
            self.store.rows.append(new)
            self.lines.append(new[0])
        entries = sorted(
            (line for line in self.lines if query.from_us <= line.at_us < query.to_us and line.at_us >= after[0]),
            key=place_of,
        )
        kept, last = entries[:limit], 0
        if len(entries) > limit:
            last = entries[limit].at_us // 1000
            kept = [line for line in entries if line.at_us // 1000 < last]
            if not kept:
                return await self.usage(query, after, 2 * limit)
        found = [line for line in kept if place_of(line) > after and query.takes(line)]
        return CopiedLines(found, (last * 1000, NO_ID) if last else after, bool(last))


class ReadingCase(SynchronousTestCase):
    def read(self, reading: ReportReading, query: ReportQuery, cut: Cut) -> list[UsageLine]:
        async def all_of_it() -> list[UsageLine]:
            found: list[UsageLine] = []
            async for lines in reading.usage(query, cut):
                self.assertTrue(lines)
                found += lines
            return found

        return self.successResultOf(ensureDeferred(all_of_it()))

    def cut(self, reading: ReportReading, query: ReportQuery = ALL) -> Cut:
        return self.successResultOf(ensureDeferred(reading.cut(query)))


written = st.integers(1, 60).map(lambda number: number * 10)
times = st.one_of(st.integers(0, 9_999), st.sampled_from([1_000, 1_001, 2_000]))
placed = st.lists(st.tuples(times, written, st.sampled_from(["abc", "xyz"]), st.booleans()), max_size=40)


class MergingTests(ReadingCase):
    @settings(deadline=None, max_examples=400)
    @given(
        placed, st.lists(times, max_size=5), st.integers(0, 600), st.integers(1, 600), st.integers(1, 7),
        st.sampled_from([None, "abc"]), st.integers(-1, 5), st.tuples(times, st.integers(0, 40)) | st.none(),
    )  # fmt: skip
    def test_whatever_is_where(
        self, rows: list[tuple[int, int, str, bool]], coming: list[int], copied_us: int, cut_us: int, chunk: int,
        key_id: str | None, breaks_after: int, after: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        lines = [(line(number, at, key), when) for number, (at, when, key, _) in enumerate(rows)]
        store = Store(lines, 1_000)
        store.coming = [(line(100 + number, at), 900 + number) for number, at in enumerate(coming)]
        everywhere = [one for (one, when), (_, _, _, is_early) in zip(lines, rows, strict=True)
                      if when <= copied_us or is_early]  # fmt: skip
        copy = Copy(everywhere, store, 0)
        copy.breaks_after = breaks_after
        query = evolve(ALL, key_id=key_id, after=None if after is None else (after[0], str(UUID(int=after[1]))))
        wanted = sorted((one for one, when in lines if when <= cut_us and query.takes(one)), key=place_of)
        cut = Cut(cut_us, min(copied_us, cut_us))
        self.assertEqual(wanted, self.read(ReportReading(store, copy, chunk), query, cut))
        self.assertEqual(wanted, self.read(ReportReading(store, None, chunk), query, cut))


class BreakingTests(ReadingCase):
    def setUp(self) -> None:
        self.log = listen(self)
        self.now_us = 10_000 * SECOND
        self.lines = [line(number, number * 1_000) for number in range(1, 60)]
        self.store = Store([(one, 5) for one in self.lines], self.now_us)
        self.copy = Copy(list(self.lines), self.store, self.now_us - SECOND)
        self.reading = ReportReading(self.store, self.copy, 10)

    def test_the_copy_is_used(self) -> None:
        """Of the database only what came later is asked."""
        cut = self.cut(self.reading)
        self.assertEqual(Cut(self.now_us, self.now_us - (1 + OVERLAP_SECONDS) * SECOND), cut)
        self.assertEqual(self.lines, self.read(self.reading, ALL, cut))
        self.assertEqual({cut.copied_us}, set(self.store.asked))
        self.assertEqual([], self.log.having("alone"))

    def test_it_breaks_in_the_middle(self) -> None:
        cut = self.cut(self.reading)
        for error in (CopyIncompleteError("missing"), CacheUnavailableError("away")):
            self.copy.breaks_after, self.copy.error = 2, error
            self.assertEqual(self.lines, self.read(self.reading, ALL, cut))
        self.assertIn(0, self.store.asked)
        self.assertEqual(2, len(self.log.having("a report goes on with the database alone")))

    def test_it_has_lost_lines(self) -> None:
        """Whichever, and however many: it is left where the first is missing."""
        cut = self.cut(self.reading)
        for lost in (slice(0, 1), slice(30, 31), slice(-1, None), slice(0, None), slice(7, 50)):
            self.copy.lines = list(self.lines)
            del self.copy.lines[lost]
            self.assertEqual(self.lines, self.read(self.reading, ALL, cut))
        self.assertEqual(5, len(self.log.having("a report goes on with the database alone")))

    def test_it_is_away(self) -> None:
        self.copy.breaks_after, self.copy.error = 0, CacheUnavailableError("away")
        cut = self.cut(self.reading)
        self.assertEqual(Cut(self.now_us, 0), cut)
        self.assertEqual(self.lines, self.read(self.reading, ALL, cut))
        self.assertEqual({0}, set(self.store.asked))

    def test_of_another_database(self) -> None:
        self.copy.marked = evolve(self.copy.marked, origin="there:1")
        self.assertEqual(0, self.cut(self.reading).copied_us)

    def test_a_further_page_keeps_its_cut(self) -> None:
        self.assertEqual(77, self.cut(self.reading, evolve(ALL, cut_us=77)).at_us)

    def test_without_the_database(self) -> None:
        """There is no report, and nothing is passed over."""
        self.store.is_away = True
        cut = Cut(self.now_us, 7)

        async def first() -> Any:
            return [lines async for lines in self.reading.usage(ALL, cut)]

        self.failureResultOf(ensureDeferred(first()), StoreUnavailableError)
