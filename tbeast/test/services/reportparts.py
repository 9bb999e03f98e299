"""What reports are made of, in memory: lines, the month's counts, the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import date
from itertools import count
from typing import Any
from uuid import UUID

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tbeast.domain.keys import account_of
from tbeast.domain.reportorders import ReportMade
from tbeast.domain.reports import (
    Cut,
    ReportKey,
    ReportLine,
    ReportQuery,
    ReportSums,
    Sums,
    UsageKey,
    UsageLine,
    place_of,
    report_summary,
    usage_summary,
)
from tbeast.domain.reportsources import Moment, WrittenLines
from tbeast.domain.syncplan import SECOND, Place
from tbeast.errors import StoreUnavailableError
from tbeast.services.reports import Reports

NOW = 1_795_000_000.0  # 2026-11-18T11:06:40Z
NOW_US = int(NOW) * SECOND
FREE = account_of("tb_freefreefr_abcdefghijklmnopqrstuvwxyz234567", "free", "f")
PARTNER = account_of("partner-key-1", "partner", "p")


def line(number: int, key_id: str = FREE.key_id, **changes: Any) -> UsageLine:
    """One of many, a millisecond after the one before; every seventh was refused."""
    made = UsageLine(
        NOW_US - 3_600 * SECOND + number * 1_000, str(UUID(int=number + 1)), key_id, "n", "lpo", "udp",
        ("BTC", "ETH")[number % 2], "median", "shelf", 429 if number % 7 == 0 else 200, number % 7 != 0, number % 5 + 1,
        number % 90, number % 40,
    )  # fmt: skip
    return made._replace(**changes)


class Away:
    """What can be away.

    @ivar is_away: whether it is.
    @ivar away_after: how many questions are still answered; C{None}: any number.
    """

    is_away = False
    away_after: int | None = None

    def ask(self) -> None:
        if self.away_after is not None:
            self.away_after -= 1
            self.is_away = self.is_away or self.away_after < 0
        if self.is_away:
            raise StoreUnavailableError("away")


class MemoryReading(Away):
    """Usage, in chunks.

    @ivar read: how many chunks were read.
    @ivar closed: how many readings were closed before their end.
    @ivar pausing: what the next chunk waits for.
    """

    def __init__(self, lines: Sequence[UsageLine] = (), chunk: int = 10) -> None:
        self.whole = list(lines)
        self.chunk = chunk
        self.read = 0
        self.closed = 0
        self.cut_us = NOW_US
        self.pausing: list[Deferred[None]] = []

    async def cut(self, query: ReportQuery) -> Cut:
        self.ask()
        return Cut(self.cut_us if query.cut_us is None else min(query.cut_us, self.cut_us), 0)

    async def usage(self, query: ReportQuery, cut: Cut) -> AsyncIterator[list[UsageLine]]:
        found = [one for one in self.whole if query.takes(one)]
        is_done = False
        try:
            for start in range(0, len(found), self.chunk):
                self.ask()
                if self.pausing:
                    await self.pausing.pop()
                self.read += 1
                yield found[start : start + self.chunk]
            is_done = True
        finally:
            self.closed += not is_done


class MemoryStore(Away):
    """The rest of what reports ask of the database."""

    def __init__(self, reading: MemoryReading, made: list[ReportLine]) -> None:
        self.reading = reading
        self.lines = made

    async def moment(self) -> Moment:
        raise AssertionError("the reading is asked for it")

    async def usage(self, query: ReportQuery, since_us: int, cut_us: int, after: Place, limit: int) -> WrittenLines:
        raise AssertionError("the reading is asked for it")

    async def written_before(self, query: ReportQuery, since_us: int, after: Place, most: int) -> int:
        raise AssertionError("the reading is asked for it")

    async def usage_sums(self, query: ReportQuery, since_us: int, cut_us: int) -> list[tuple[UsageKey, Sums]]:
        self.ask()
        summary = usage_summary()
        summary.add(one for one in self.reading.whole if query.takes(one))
        return summary.rows()[::-1]

    async def made(self, query: ReportQuery, after: Place, limit: int) -> list[ReportLine]:
        self.ask()
        found = sorted((one for one in self.lines if query.takes(one)), key=place_of)
        return [one for one in found if place_of(one) > after][:limit]

    async def made_sums(self, query: ReportQuery) -> list[tuple[ReportKey, ReportSums]]:
        self.ask()
        summary = report_summary()
        summary.add(one for one in self.lines if query.takes(one))
        return summary.rows()


class MemoryLog(Away):
    """The month's counts and the log, as the database keeps them."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, date]] = Counter()
        self.made: list[ReportMade] = []

    async def claim(self, key_id: str, month: date, quota: int | None) -> int | None:
        self.ask()
        if quota is not None and self.counts[key_id, month] >= quota:
            return None
        self.counts[key_id, month] += 1
        return self.counts[key_id, month]

    async def give_back(self, key_id: str, month: date, count: int) -> None:
        self.ask()
        self.counts[key_id, month] -= count

    async def made_in(self, key_id: str, month: date) -> int:
        self.ask()
        return self.counts[key_id, month]

    async def is_paid(self, key_id: str, report: str, identity: Mapping[str, object]) -> bool:
        self.ask()
        return any(
            made.key_id == key_id and made.report == report and made.status < 400
            and identity.items() <= made.details.items()
            for made in self.made
        )  # fmt: skip

    async def log(self, reports: Sequence[ReportMade]) -> None:
        self.ask()
        self.made += reports


class Desk:
    """Reports over parts in memory.

    @ivar time: what C{now} says.
    """

    def __init__(self, lines: Sequence[UsageLine] = (), chunk: int = 10, clock: Any = None, **limits: int) -> None:
        self.time = NOW
        self.clock = Clock() if clock is None else clock
        self.reading = MemoryReading(lines, chunk)
        self.store = MemoryStore(self.reading, [])
        self.log = MemoryLog()
        numbers = count()
        random_bytes: Callable[[int], bytes] = lambda length: next(numbers).to_bytes(length, "big")  # noqa: E731
        self.reports = Reports(
            reading=self.reading, store=self.store, report_log=self.log, clock=self.clock, now=lambda: self.time,
            random_bytes=random_bytes, **limits,
        )  # fmt: skip

    def go_away(self, is_away: bool = True) -> None:
        """The database, in all its parts, is away, or is back."""
        for part in (self.reading, self.store, self.log):
            part.is_away, part.away_after = is_away, None

    def turns(self, deferred: Deferred[Any]) -> Deferred[Any]:
        """Let the clock have as many turns as it takes, unless something else is waited for."""
        while not deferred.called and any(call.getTime() <= self.clock.seconds() for call in self.clock.calls):
            self.clock.advance(0)
        return deferred
