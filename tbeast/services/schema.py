"""Sees to it at the start that the database has the schema that this version works with.

If the database cannot be asked the start goes on without it, and it is asked again until it can: a node whose database
is away may still serve. A schema that will not do ends the start when it is found at the start; found later, it is told
in the log and in the status, and looked at again, for somebody may bring it up to date meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tbeast.domain.counters import Counters
from tbeast.errors import MigrationError, StoreError, StoreUnavailableError
from tbeast.services.periodic import Periodic

AGAIN_SECONDS: Final = 2.0

BringUp = Callable[[], Awaitable[Sequence[str]]]
"""Brings the schema up to date, or only checks it; gives the names of the migrations that were applied.

@raise MigrationError: when the schema will not do.
@raise StoreUnavailableError: when the database cannot be asked now.
"""


class Schema(Service):
    """See the module.

    @ivar is_good: whether the database has been seen to have the schema that we want.
    @ivar why: why not, or that it could not be asked yet.
    """

    name = "schema"
    log = Logger()

    def __init__(self, bring_up: BringUp, clock: IReactorTime, counters: Counters) -> None:
        self.is_good = False
        self.why = "the database has not been asked yet"
        self._bring_up = bring_up
        self._again = Periodic("schema", self._try_again, AGAIN_SECONDS, clock, counters)
        self._waiting: list[Callable[[], object]] = []
        self._trouble = ""

    def when_good(self, call: Callable[[], object]) -> None:
        """Call something once the schema is good: at once if it is."""
        if self.is_good:
            call()
        else:
            self._waiting.append(call)

    def startService(self) -> Deferred[None]:
        """Look at the schema.

        @return: fires when that was done, or could not be done; fails with L{MigrationError}.
        """
        super().startService()  # type: ignore[no-untyped-call]
        return ensureDeferred(self._start())

    def stopService(self) -> Deferred[None] | None:
        """Look no more.

        @return: fires when no look is under way any more.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        return self._again.stopService()

    async def _start(self) -> None:
        try:
            await self._look()
        except StoreUnavailableError as error:
            self._not_now(error)

    async def _try_again(self) -> None:
        try:
            await self._look()
        except (MigrationError, StoreUnavailableError) as error:
            self._not_now(error)

    async def _look(self) -> None:
        applied = await self._bring_up()
        self.is_good, self.why = True, ""
        for name in applied:
            self.log.info("the database's schema has taken {name}", name=name)
        if self._again.running:
            self._again.stopService()
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            try:
                call()
            except Exception:
                self.log.failure("something that waited for the schema failed")

    def _not_now(self, error: StoreError) -> None:
        self.why = str(error)
        if self.why != self._trouble:
            self._trouble = self.why
            self.log.warn("the database's schema could not be looked at: {why}; trying again", why=self.why)
        if self.running and not self._again.running:
            self._again.startService()
