"""What a worker has counted, on its way to the hub: rows of the ledger, and what was added to the counters.

The rules. Every so often all that was counted leaves for the hub, in one message, and the next one leaves when that is
answered: it is in the hub's own ledger then. What is counted meanwhile merges with its like and waits. So a worker that
is killed takes with it what was counted since the last message, and nothing else: what it has written to the line is
read to the end. At the stop all of it leaves, and then the ledger is closed: what could not be told any more is not
answered.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Protocol

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime

from tbeast.codecs import hubwords
from tbeast.domain.counters import Counters
from tbeast.domain.usage import Ledger
from tbeast.services.periodic import Periodic

ROWS_A_MESSAGE: Final = 3_000


class Line(Protocol):
    """The line to the hub."""

    def ask(self, word: bytes, text: bytes = b"") -> Awaitable[bytes]:
        """Say something that is answered.

        @raise tbeast.codecs.hubwords.LinkError: when there is no answer.
        """


class WorkerCounts(Service):
    """See the module."""

    name = "counts"

    def __init__(self, line: Line, ledger: Ledger, counters: Counters, clock: IReactorTime, seconds: float) -> None:
        """Set it up.

        @param seconds: from one message to the next.
        """
        self._line = line
        self._ledger = ledger
        self._counters = counters
        self._told: dict[tuple[str, ...], int] = {}
        self._rounds = Periodic("counts", self.tell, seconds, clock, counters)

    def set_every(self, seconds: float) -> None:
        """Have a message every so many seconds from now on."""
        self._rounds.set_every(seconds)

    def startService(self) -> None:
        """Begin."""
        super().startService()  # type: ignore[no-untyped-call]
        self._rounds.startService()

    async def stopService(self) -> None:
        """Tell all that is left, and close the ledger.

        @raise tbeast.codecs.hubwords.LinkError: when the hub is gone.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        try:
            under_way = self._rounds.stopService()
            if under_way is not None:
                await under_way
            while len(self._ledger):
                await self.tell()
            await self.tell()
        finally:
            self._ledger.is_closed = True

    async def tell(self) -> None:
        """Tell what was counted since the last time.

        @raise tbeast.codecs.hubwords.LinkError: when the hub has not taken it; it is told the next time.
        """
        while True:
            rows = self._ledger.cut(ROWS_A_MESSAGE)
            self._counters.gather()
            counts = dict(self._counters.counts)
            differences = {key: number - self._told.get(key, 0) for key, number in counts.items()}
            differences = {key: number for key, number in differences.items() if number}
            if not rows and not differences:
                return
            try:
                await self._line.ask(hubwords.COUNT, hubwords.encode_count(rows, differences))
            except BaseException:
                self._ledger.put_back(rows)
                raise
            self._told = counts
            if len(rows) < ROWS_A_MESSAGE:
                return
