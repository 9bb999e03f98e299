"""Has the sync job done once a day, by one node of those that share the database.

A day that was missed, because no node ran or nothing could be asked, is made up for as soon as that is possible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tbeast.domain.counters import Counters
from tbeast.domain.syncplan import Held, latest_due
from tbeast.errors import CacheUnavailableError, StoreError
from tbeast.interfaces import Now
from tbeast.services.periodic import Periodic
from tbeast.services.sync import Sync, SyncLostError

WORK: Final = "sync"
LOOK_SECONDS: Final = 60.0
"""How often a node looks whether the job is due."""


class NightlySync(Service):
    """See the module."""

    log = Logger()

    def __init__(self, sync: Sync, hour: Callable[[], int], clock: IReactorTime, now: Now, counters: Counters) -> None:
        """Set it up.

        @param hour: gives the hour of the day, in UTC, at which it is due.
        """
        self.setName(WORK)  # type: ignore[no-untyped-call]
        self._sync = sync
        self._hour = hour
        self._now = now
        self._done_for = float("-inf")
        self._counters = counters
        self._told = ""
        self._rounds = Periodic(WORK, self.look, LOOK_SECONDS, clock, counters)

    def startService(self) -> None:
        """Begin to look."""
        super().startService()  # type: ignore[no-untyped-call]
        self._sync.start()
        self._rounds.startService()

    def stopService(self) -> Deferred[None] | None:
        """Look no more.

        @return: fires when a job under way has come to a point where it can be left.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self._sync.stop()
        return self._rounds.stopService()

    async def look(self) -> None:
        """Do the job if it is due and nobody else does it."""
        due = latest_due(self._now(), self._hour())
        if due <= self._done_for:
            return
        try:
            done = await self._sync.run(not_since=due)
        except SyncLostError as error:
            self.log.info("{error}", error=str(error))
            return
        except (StoreError, CacheUnavailableError) as error:
            self._counters.count("service_failures", WORK)
            if str(error) != self._told:
                self._told = str(error)
                self.log.warn("the sync job is not done, and tried again: {error}", error=self._told)
            return
        self._told = ""
        if isinstance(done, Held):
            if done.finished:
                self._done_for = due
            return
        self._done_for = due
        self.log.info("sync: {summary}", summary=done.in_words())
