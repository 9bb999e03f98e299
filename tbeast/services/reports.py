"""Reports, from the order to the line in the log: the same for HTTP and for datagrams.

A report goes through these, in this order: is there room; has the month one left; where is it cut; its rows; the log.
Who is told in time that something is wrong, before the first row went out, has used up nothing; a report that fails by
our fault, or because the node stops, is given back (L{tbeast.services.reportbook}).

The month has as many reports as the key's plan says. A further page is of a report that was made (see
L{tbeast.domain.reportorders}); if it is not, because the cursor was made up or is a day old, it is a report like any
other. So whoever makes up cursors gains nothing: the pages of one report hold the lines of one range up to one cut,
however often they are asked for.

At most L{MOST_READING} reports are read at a time, because each may hold a connection to the database, and at most
L{MOST_OF_ONE} of one key; beyond that a report is refused at once. One whose client does not take what was read waits,
and is not read meanwhile, so it is not counted among them; with such there may be L{MOST_OPEN} in all. A report is open
until its client has taken it, so what waits for slow clients is bounded. The operator, who comes when something is
wrong, has his L{MOST_OF_ONE} however many others there are. Beside that each key has a bucket, which has nothing to do
with that of its questions.

What has pages is read page by page and given whole; what has none is read while it goes out, and never more than a
chunk of it is here. It is written a few lines at a time, with a turn of the reactor between, because the prices are
answered in the same process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import date
from itertools import islice
from typing import Any, Final, Protocol

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from tbeast.codecs.problems import Problem
from tbeast.codecs.reportcolumns import Opening
from tbeast.codecs.reportformats import datagram, headers, writer
from tbeast.codecs.reportqueries import Asked, cursor_of
from tbeast.domain.keys import Account
from tbeast.domain.ratelimits import TokenBucket
from tbeast.domain.reportorders import (
    DATAGRAM,
    OPERATOR,
    Allowance,
    ReportMade,
    details_of,
    make_id,
)
from tbeast.domain.reports import (
    PAGED,
    REPORT_SUMMARY,
    SUMMARY,
    USAGE,
    Cut,
    Line,
    ReportQuery,
    UsageLine,
    place_of,
    report_summary,
    usage_summary,
)
from tbeast.errors import StoreError
from tbeast.interfaces import Now
from tbeast.services.reportbook import ReportBook, ReportLog
from tbeast.services.reportreading import CHUNK_LINES, ReportStore

MOST_READING: Final = 8
MOST_OPEN: Final = 40
MOST_OF_ONE: Final = 2

A_SECOND: Final = 2.0
"""How many reports a second a key may ask for, C{BURST} at once."""
BURST: Final = 10

BUSY_SECONDS: Final = 2.0
AWAY_SECONDS: Final = 5.0
"""When to come back."""

WRITTEN_AT_ONCE: Final = 200
"""Lines. It takes a millisecond or two."""

CLIENT: Final = "client"
DATABASE: Final = "database"
FAULT: Final = "fault"
"""Why a report was broken off. Whatever was not the client's doing is ours."""


class UsageReading(Protocol):
    """Reads usage; see L{tbeast.services.reportreading.ReportReading}."""

    async def cut(self, query: ReportQuery) -> Cut:
        """Where a report is cut."""

    def usage(self, query: ReportQuery, cut: Cut) -> AsyncIterator[list[UsageLine]]:
        """Its lines."""


class Report:
    """One report that was asked for; made by L{Reports.begin}.

    @ivar problem: why it is not given; C{None}: it is.
    @ivar retry_after_seconds: when to come back, with a problem that passes; else 0.
    @ivar allowance: how it stands with the month; C{None}: that was not asked.
    @ivar headers: the header fields of the answer.
    @ivar body: all of it; C{None}: it comes out of L{pieces}.
    """

    def __init__(
        self, reports: Reports, account: Account | None, asked: Asked, began_at: float, id_json: bytes
    ) -> None:  # fmt: skip
        self.key_id = OPERATOR if account is None else account.key_id
        self.problem: Problem | None = None
        self.retry_after_seconds = 0.0
        self.allowance: Allowance | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: bytes | None = None
        self._reports = reports
        self._account = account
        self._query = asked.query
        self._format = asked.format
        self._began_at = began_at
        self._id_json = id_json
        self._claimed: date | None = None
        self._opening: Opening | None = None
        self._first: list[Any] = []
        self._rest: AsyncIterator[list[Any]] | None = None
        self._row_count = 0
        self._is_over = False
        self._is_open = False
        self._is_reading = False

    # For whoever gives it out.

    async def pieces(self) -> AsyncIterator[bytes]:
        """The report, in pieces; each is made when it is asked for. It must be closed if it is not read to the end.

        @raise StoreError: when the database went away in the middle; what was given is no report.
        """
        assert self._opening is not None
        assert self._rest is not None
        writes = writer(self._format, self._opening)
        try:
            yield writes.begin()
            async with aclosing(self._rest):  # type: ignore[type-var]  # it is a generator
                lines, self._first = self._first, []
                while lines:
                    for start in range(0, len(lines), WRITTEN_AT_ONCE):
                        some = lines[start : start + WRITTEN_AT_ONCE]
                        piece = writes.rows(some)
                        self._row_count += len(some)
                        yield piece
                        await self._reports.turn()
                    lines = await _next(self._rest)
            await self._end(200)
            yield writes.end()
        except StoreError:
            self.break_off(DATABASE)
            raise
        except Exception:
            self.break_off(FAULT)
            raise

    def wait(self) -> None:
        """The client does not take it just now: nothing is read."""
        if self._is_reading and not self._is_over:
            self._is_reading = False
            self._reports.reading -= 1

    def go_on(self) -> None:
        """The client takes it again."""
        if not self._is_reading and not self._is_over:
            self._is_reading = True
            self._reports.reading += 1

    def break_off(self, why: str) -> None:
        """It ends before its end, or was made whole and does not go out; noted if it has not ended.

        @param why: unless this is L{CLIENT}, what was used up for it is given back.
        """
        self.close()
        is_ours = why != CLIENT
        if not self._is_over:
            self._reports.book.note_soon(self._end(200, why, is_ours))
        elif is_ours:
            self._give_back()

    def close(self) -> None:
        """It was taken, or will not be: there is room for another. To be called once nothing of it is left here."""
        if self._is_open:
            self._is_open = False
            still_open = self._reports.open
            still_open[self.key_id] -= 1
            if not still_open[self.key_id]:
                del still_open[self.key_id]

    # Making it.

    async def prepare(self) -> Report:
        """Do everything up to the first row that goes out, and all if it is given whole."""
        self._is_open = True
        self._reports.open[self.key_id] += 1
        self.go_on()
        try:
            await self._reports.book.catch_up(self.key_id)
            if await self._pay():
                await self._read()
        except StoreError as error:
            self._reports.log.warn("a report was not given: {error}", error=str(error))
            detail = "Reports are of what the database has, and it is away. Try again, or ask another node."
            self.problem, self.retry_after_seconds = Problem("store_unavailable", detail), AWAY_SECONDS
            # it is not noted: the place for what cannot be noted now is for reports that were given
            self._leave(is_ours=True)
            self.close()
        except Exception:
            self.close()
            await self._end(500, FAULT, is_ours=True)
            raise
        return self

    async def _pay(self) -> bool:
        """See that it may be given."""
        paid = await self._reports.book.pay(self._account, self._query)
        self.allowance, self._claimed = paid.allowance, paid.claimed
        if paid.is_refused:
            seconds = paid.allowance.reset_seconds
            detail = f"All {paid.allowance.limit} reports of this month are used up; the next begins in {seconds} s."
            self.problem, self.retry_after_seconds = Problem("report_quota_exceeded", detail), float(seconds)
            self.close()
            await self._end(self.problem.status)
        return not paid.is_refused

    async def _read(self) -> None:
        query = self._query
        cut = await self._reports.reading_of.cut(query)
        opening = self._opening = Opening(query, cut.at_us)
        if query.report not in PAGED:
            await self._give(opening, await self._reports.sums(query, cut))
            return
        chunks = self._reports.lines(query, cut)
        if query.page_size is None:
            self._rest = chunks
            self._first = await _next(chunks)
            self.headers = headers(self._format, opening)
            return
        page: list[Any] = []
        async with aclosing(chunks):  # type: ignore[type-var]  # it is a generator
            async for lines in chunks:
                page += islice(lines, query.page_size + 1 - len(page))
                if len(page) > query.page_size:
                    break
        cursor = ""
        if len(page) > query.page_size:
            page.pop()
            cursor = cursor_of(query, cut.at_us, place_of(page[-1]))
        await self._give(opening, page, cursor)

    async def _give(self, opening: Opening, rows: Sequence[Any], cursor: str = "") -> None:
        """Have it whole."""
        self._row_count = len(rows)
        if self._format == DATAGRAM:
            body = datagram(opening, rows, self._id_json)
        else:
            writes = writer(self._format, opening)
            pieces = [writes.begin()]
            for start in range(0, len(rows), WRITTEN_AT_ONCE):
                pieces.append(writes.rows(rows[start : start + WRITTEN_AT_ONCE]))
                await self._reports.turn()
            pieces.append(writes.end(cursor))
            body = b"".join(pieces)
            self.headers = headers(self._format, opening, cursor)
        # whoever has a cursor finds that the report was made
        await self._end(200)
        self.body = body

    def _leave(self, is_ours: bool) -> None:
        """It is over: nothing is read any more, and if it was our fault it is given back."""
        self.wait()
        self._is_over = True
        if is_ours:
            self._give_back()

    def _give_back(self) -> None:
        """What was used up for it, once."""
        claimed, self._claimed = self._claimed, None
        if claimed is not None:
            self._reports.book.owe(self.key_id, claimed)

    async def _end(self, status: int, broken_off: str = "", is_ours: bool = False) -> None:
        """Note what became of it; once."""
        if self._is_over:
            return
        self._leave(is_ours)
        reports = self._reports
        now = reports.now()
        cut_us = None if self._opening is None else self._opening.complete_to_us
        made = ReportMade(
            make_id(now, reports.random_bytes), self.key_id, self._query.report, self._format, status, self._row_count,
            max(int((now - self._began_at) * 1e6), 0), details_of(self._query, cut_us, broken_off),
        )  # fmt: skip
        await reports.book.note(made)


class Reports:
    """See the module.

    @ivar reading: how many reports are read just now.
    @ivar open: how many there are, by who has asked.
    @ivar book: what was used up, and what was made.
    """

    log = Logger()

    def __init__(
        self,
        *,
        reading: UsageReading,
        store: ReportStore,
        report_log: ReportLog,
        clock: IReactorTime,
        now: Now,
        random_bytes: Callable[[int], bytes],
        most_reading: int = MOST_READING,
        most_of_one: int = MOST_OF_ONE,
        most_open: int = MOST_OPEN,
    ) -> None:
        self.reading_of = reading
        self.book = ReportBook(report_log, now)
        self.now = now
        self.random_bytes = random_bytes
        self.reading = 0
        self.open: Counter[str] = Counter()
        self._store = store
        self._clock = clock
        self._most_reading = most_reading
        self._most_of_one = most_of_one
        self._most_open = most_open
        self._buckets: dict[str, TokenBucket] = {}

    def wait_seconds(self, key_id: str, now: float) -> float:
        """Take a token of a key's bucket: 0, or when to come back.

        @param key_id: of a known key, or L{OPERATOR}; there are no more buckets than keys.
        """
        bucket = self._buckets.get(key_id)
        if bucket is None:
            bucket = self._buckets[key_id] = TokenBucket(A_SECOND, BURST, 0.0, now)
        return bucket.take(now)

    async def begin(self, account: Account | None, asked: Asked, began_at: float, id_json: bytes = b"") -> Report:
        """Make a report, or as much of it as is needed to give it out.

        @param account: who asks; C{None}: the operator.
        @param asked: the report and its format, or L{DATAGRAM}, which only a summary can have.
        @param began_at: when it was asked for.
        @param id_json: with a datagram, what the question is known by.
        @return: to be given out, or with a problem.
        """
        report = Report(self, account, asked, began_at, id_json)
        of_one = self.open[report.key_id] >= self._most_of_one
        is_full = self.reading >= self._most_reading or self.open.total() >= self._most_open
        if of_one or (is_full and account is not None):
            whose = (
                f"The key has {self._most_of_one} reports being made" if of_one else "Too many reports are being made"
            )
            # what one key has too many of says nothing of how the node is
            code = "rate_limited" if of_one else "reports_busy"
            report.problem = Problem(code, f"{whose}; come back in {BUSY_SECONDS:g} s.")
            report.retry_after_seconds = BUSY_SECONDS
            if not self.open[report.key_id]:
                del self.open[report.key_id]
            return report
        return await report.prepare()

    # For the reports.

    def turn(self) -> Deferred[None]:
        """Let others have a turn of the reactor."""
        return deferLater(self._clock, 0.0)

    async def sums(self, query: ReportQuery, cut: Cut) -> Sequence[Any]:
        """What the lines up to the cut add up to: the database does that, which has them all, and is asked anyway."""
        if query.report == SUMMARY:
            usage = usage_summary()
            for usage_key, sums in await self._store.usage_sums(query, 0, cut.at_us):
                usage.add_sums(usage_key, sums)
            return usage.rows()
        assert query.report == REPORT_SUMMARY
        made = report_summary()
        for report_key, report_sums in await self._store.made_sums(_up_to(query, cut)):
            made.add_sums(report_key, report_sums)
        return made.rows()

    async def lines(self, query: ReportQuery, cut: Cut) -> AsyncIterator[list[Any]]:
        """The lines up to the cut, some at a time."""
        if query.report == USAGE:
            async with aclosing(self.reading_of.usage(query, cut)) as chunks:  # type: ignore[type-var]
                async for lines in chunks:
                    yield lines
            return
        window, after, goes_on = _up_to(query, cut), query.begins_after, True
        while goes_on:
            made: Sequence[Line] = await self._store.made(window, after, CHUNK_LINES)
            goes_on = len(made) == CHUNK_LINES
            if made:
                after = place_of(made[-1])
                yield list(made)


async def _next(chunks: AsyncIterator[list[Any]]) -> list[Any]:
    """The next chunk, empty if there is none. C{anext} with a default loses what is thrown into it (Python 3.11)."""
    try:
        return await chunks.__anext__()
    except StopAsyncIteration:
        return []


def _up_to(query: ReportQuery, cut: Cut) -> ReportQuery:
    """Reports that were made have the time of their being written down, so that of the cut is their end."""
    return evolve(query, to_us=min(query.to_us, cut.at_us + 1))
