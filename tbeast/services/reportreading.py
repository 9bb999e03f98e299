"""Reads reports: out of the copy what lies in it for sure, out of the database what came later, each line once.

The rules of a cut and of merging are told in L{tbeast.domain.reports}. Here is added what happens when one of the two
cannot be relied upon: a copy that is away, or that lacks something, is left at once, also in the middle of a report,
which goes on where it was with the database alone; without the database there is no report.

A set of the copy may lose what it had without a word, because a server that has no memory left throws away what it
likes; the sync job finds that at its next run. So before lines of the copy go out, the database counts how many it must
have at least. That is not done for one asset of everybody, which the database has no index for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Final, Protocol

from attrs import evolve
from twisted.logger import Logger

from tbeast.domain.reports import (
    Cut,
    ReportKey,
    ReportLine,
    ReportQuery,
    ReportSums,
    Sums,
    UsageKey,
    UsageLine,
    cut_of,
    place_of,
    settle,
)
from tbeast.domain.reportsources import CopiedLines, Moment, WrittenLines
from tbeast.domain.syncplan import Marks, Place, read_marks
from tbeast.errors import CacheUnavailableError, CopyIncompleteError

CHUNK_LINES: Final = 2_000


class ReportStore(Protocol):
    """The database, as reports need it. Everything here raises L{tbeast.errors.StoreError} when it cannot be done."""

    def moment(self) -> Awaitable[Moment]:
        """Where it stands."""

    def usage(
        self, query: ReportQuery, since_us: int, cut_us: int, after: Place, limit: int
    ) -> Awaitable[WrittenLines]:
        """Lines behind a place; only such as were written after C{since_us}, if that is not 0."""

    def written_before(self, query: ReportQuery, since_us: int, after: Place, most: int) -> Awaitable[int]:
        """How many lines behind a place were written up to C{since_us}; it is not counted beyond C{most}."""

    def usage_sums(self, query: ReportQuery, since_us: int, cut_us: int) -> Awaitable[list[tuple[UsageKey, Sums]]]:
        """What the lines up to the cut add up to."""

    def made(self, query: ReportQuery, after: Place, limit: int) -> Awaitable[list[ReportLine]]:
        """Reports that were made, behind a place."""

    def made_sums(self, query: ReportQuery) -> Awaitable[list[tuple[ReportKey, ReportSums]]]:
        """What those add up to."""


class ReportCopy(Protocol):
    """The copy, as reports need it. Everything here raises L{CacheUnavailableError} when it cannot be done."""

    def marks(self) -> Awaitable[Mapping[str, str]]:
        """How far it has come."""

    def usage(self, query: ReportQuery, after: Place, limit: int) -> Awaitable[CopiedLines]:
        """Lines behind a place.

        @raise CopyIncompleteError: when something is missing.
        """


class ReportReading:
    """See the module."""

    log = Logger()

    def __init__(self, store: ReportStore, copy: ReportCopy | None, chunk_lines: int = CHUNK_LINES) -> None:
        """Set it up.

        @param copy: C{None}: there is none.
        @param chunk_lines: how many lines are read at once, and so how many are in memory.
        """
        self._store = store
        self._copy = copy
        self._chunk_lines = chunk_lines

    async def cut(self, query: ReportQuery) -> Cut:
        """Where a report is cut.

        @raise tbeast.errors.StoreError: when the database cannot be asked.
        """
        moment = await self._store.moment()
        marks = Marks()
        if self._copy is not None:
            try:
                marks = read_marks(await self._copy.marks())
            except CacheUnavailableError as error:
                self.log.info("a report is read from the database alone: {error}", error=str(error))
        return cut_of(marks, moment.origin, moment.settled_us, query.cut_us)

    async def usage(self, query: ReportQuery, cut: Cut) -> AsyncIterator[list[UsageLine]]:
        """The lines of usage of a report, in their order, some at a time.

        @raise tbeast.errors.StoreError: when the database cannot be asked; what was given stands.
        """
        after = query.begins_after
        if self._copy is not None and cut.copied_us:
            try:
                async for lines in self._merged(self._copy, query, cut):
                    yield lines
                    after = place_of(lines[-1])
                return
            except (CacheUnavailableError, CopyIncompleteError) as error:
                self.log.warn("a report goes on with the database alone: {error}", error=str(error))
        goes_on = True
        while goes_on:
            chunk = await self._store.usage(query, 0, cut.at_us, after, self._chunk_lines)
            goes_on = chunk.goes_on
            if chunk.lines:
                after = place_of(chunk.lines[-1])
            lines = [line for line in chunk.lines if line.id not in chunk.later]
            if lines:
                yield lines

    async def _merged(self, copy: ReportCopy, query: ReportQuery, cut: Cut) -> AsyncIterator[list[UsageLine]]:
        after, goes_on = query.begins_after, True
        while goes_on:
            found = await copy.usage(query, after, self._chunk_lines)
            goes_on = found.goes_on
            # the database is asked after the copy, so it knows of whatever may have been added there meanwhile
            window = evolve(query, to_us=min(query.to_us, found.after[0])) if goes_on else query
            await self._check(window, cut, after, len(found.lines))
            async for lines in self._with_written(window, cut, after, found.lines):
                yield lines
            after = found.after

    async def _check(self, window: ReportQuery, cut: Cut, after: Place, copied: int) -> None:
        """See that a part of the copy has as many lines as it must have at least."""
        if window.asset and not window.key_id:
            return
        written = await self._store.written_before(window, cut.copied_us, after, copied + 1)
        if written > copied:
            raise CopyIncompleteError(f"there are no more than {copied} lines where more were copied")

    async def _with_written(
        self, window: ReportQuery, cut: Cut, after: Place, copied: list[UsageLine]
    ) -> AsyncIterator[list[UsageLine]]:
        written: list[UsageLine] = []
        later: set[str] = set()
        goes_on = True
        while goes_on or copied or written:
            if goes_on and not written:
                found = await self._store.usage(window, cut.copied_us, cut.at_us, after, self._chunk_lines)
                written, goes_on = found.lines, found.goes_on
                later |= found.later
                if written:
                    after = place_of(written[-1])
            settled, copied, written = settle(copied, written, False, goes_on, later)
            if settled:
                yield settled
