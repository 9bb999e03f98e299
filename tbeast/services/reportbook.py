"""The book of reports: what a key has used up of its month, what it is owed, and what is still to be noted.

A report is used up before it is made. What was used up and not given is given back, and what was made is noted; if the
database is away just then, that is remembered here, and done before the next report of this node is made. It is lost
with the process: then a report that failed stays used up, or one that was made is missing in the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from datetime import date
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.domain.keys import Account
from tbeast.domain.reportorders import UNLIMITED, Allowance, ReportMade, allowance, identity_of, month_day, quota_of
from tbeast.domain.reports import ReportQuery
from tbeast.errors import StoreError, StoreRefusedError
from tbeast.interfaces import Now

MOST_BEHIND: Final = 1_000
"""How many lines of the log are kept for a database that is away."""


class ReportLog(Protocol):
    """The month's counts and the log. Everything here raises L{StoreError} when it cannot be done."""

    def claim(self, key_id: str, month: date, quota: int | None) -> Awaitable[int | None]:
        """Use up a report of the month: how many were used with it; C{None}: none is left."""

    def give_back(self, key_id: str, month: date, count: int) -> Awaitable[None]:
        """Undo so many claims."""

    def made_in(self, key_id: str, month: date) -> Awaitable[int]:
        """How many were used."""

    def is_paid(self, key_id: str, report: str, identity: Mapping[str, object]) -> Awaitable[bool]:
        """Whether a report was made lately of which this is a page."""

    def log(self, reports: Sequence[ReportMade]) -> Awaitable[None]:
        """Write down reports, each once."""


@frozen
class Payment:
    """Whether a report may be given.

    @ivar allowance: how it stands with the month now.
    @ivar claimed: the month of which one was used up for it; C{None}: none was.
    @ivar is_refused: whether there was none left.
    """

    allowance: Allowance
    claimed: date | None = None
    is_refused: bool = False


class ReportBook:
    """See the module.

    @ivar behind: what could not be noted yet.
    """

    log = Logger()

    def __init__(self, report_log: ReportLog, now: Now) -> None:
        self.behind: list[ReportMade] = []
        self._log = report_log
        self._now = now
        self._owed: Counter[tuple[str, date]] = Counter()

    async def pay(self, account: Account | None, query: ReportQuery) -> Payment:
        """Use up a report of the month, unless it is the operator's, or part of one that was.

        @raise StoreError: when the database cannot be asked; so do the next.
        """
        if account is None:
            return Payment(UNLIMITED)
        now, key_id, quota = self._now(), account.key_id, quota_of(account)
        month = month_day(now)
        if query.after is not None and query.cut_us is not None:
            if quota is None:
                return Payment(UNLIMITED)
            if await self._log.is_paid(key_id, query.report, identity_of(query, query.cut_us)):
                return Payment(allowance(quota, await self._log.made_in(key_id, month), now))
        claimed = await self._log.claim(key_id, month, quota)
        if claimed is None:
            assert quota is not None
            return Payment(allowance(quota, quota, now), is_refused=True)
        return Payment(allowance(quota, claimed, now), month)

    async def catch_up(self, key_id: str) -> None:
        """Do what could not be done before: what is owed to a key, and what is to be noted of all."""
        await self._give_back(key_id)
        if self.behind:
            await self._write_down([])

    def owe(self, key_id: str, month: date) -> None:
        """Give a report back: now, or before the key's next one."""
        self._owed[key_id, month] += 1
        self.note_soon(self._repay(key_id))

    async def note(self, made: ReportMade) -> None:
        """Note a report; later, if that cannot be done now. Raises nothing for the database."""
        try:
            await self._write_down([made])
        except StoreError as error:
            self.log.warn("reports that were made will be noted later: {error}", error=str(error))

    def note_soon(self, noting: Coroutine[Deferred[Any], Any, None]) -> None:
        """Let something be noted that nobody waits for."""
        Deferred.fromCoroutine(noting).addErrback(self._failed)

    def _failed(self, reason: Failure) -> None:
        self.log.failure("A report could not be noted", reason)

    async def _repay(self, key_id: str) -> None:
        try:
            await self._give_back(key_id)
        except StoreError as error:
            self.log.info("reports will be given back later: {error}", error=str(error))

    async def _give_back(self, key_id: str) -> None:
        for owed in [owed for owed in self._owed if owed[0] == key_id]:
            count = self._owed.pop(owed, 0)
            try:
                await self._log.give_back(*owed, count)
            except StoreError:
                self._owed[owed] += count
                raise

    async def _write_down(self, new: list[ReportMade]) -> None:
        behind, self.behind = [*self.behind, *new], []
        try:
            await self._log.log(behind)
        except StoreRefusedError as error:
            # it would be refused again, and hold up every report to come
            self.log.error("{count} reports are not noted: {error}", count=len(behind), error=str(error))
        except StoreError:
            self.behind = [*behind, *self.behind][-MOST_BEHIND:]
            raise
