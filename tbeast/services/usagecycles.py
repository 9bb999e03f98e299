"""Cycles of usage: what is counted of very many kinds merges for a while before it leaves, and is noted meanwhile.

Where there are more than L{MANY_KINDS} kinds of requests at a time, they do not leave at each round, in almost as many
rows as there were requests: they stay and merge for a I{cycle} of L{CYCLE_SECONDS} (with more than L{VERY_MANY_KINDS}
of L{LONG_CYCLE_SECONDS}), and each round's share of them is noted on disk. Then they leave, batch after batch. To the
end of the process this is the same as leaving at once; to the database it is a row a kind and cycle.

The batches of a cycle have ids made of the cycle's: so a process that finds the notes of another one that has ended can
send what they say, and what that one had sent already counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from attrs import define
from twisted.internet.interfaces import IReactorTime

from tbeast.codecs import usagenotes
from tbeast.domain.usage import MOST_ROWS, Batch, Ledger, NotSpooled, Row, Tallies, batch_of_cycle, make_cycle_id
from tbeast.interfaces import Now

MANY_KINDS: Final = 600
CYCLE_SECONDS: Final = 3.0
VERY_MANY_KINDS: Final = 6_000
LONG_CYCLE_SECONDS: Final = 10.0
MOST_KINDS: Final = 48_000
"""So many end a cycle at once."""
LEAVE_SECONDS: Final = 0.02
"""From one batch of a cycle to the next: nothing hurries them, they are noted; unless the next cycle waits as well."""


class UsageNotes(Protocol):
    """What is needed of the notes; nothing of it waits, or raises."""

    def left(self) -> list[tuple[str, list[Row]]]:
        """The cycles that an earlier process has not ended, and their rows."""

    def append(self, cycle: str, noted: bytes) -> NotSpooled | None:
        """Note something of a cycle."""

    def end(self, cycle: str) -> None:
        """Its rows are kept elsewhere now."""

    def unsynced(self) -> Callable[[], None] | None:
        """What has to be done, in a thread, so that a loss of power takes nothing; it may raise C{OSError}."""

    def synced(self) -> None:
        """That has worked, for the journal too."""

    def close(self) -> None:
        """Write no more."""


@define(eq=False)
class Cycle:
    """A cycle whose rows leave.

    @ivar rows: all of them.
    @ivar found: whether an earlier process has noted them, whose journal may have batches of the same ids.
    @ivar is_noted: whether all of them are; else they leave at once.
    @ivar gone: how many batches of them have left.
    """

    id: str
    rows: Sequence[Row]
    found: bool = False
    is_noted: bool = True
    gone: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether all have left."""
        return self.gone * MOST_ROWS >= len(self.rows)

    @property
    def left(self) -> int:
        """How many rows have not left."""
        return max(0, len(self.rows) - self.gone * MOST_ROWS)

    @property
    def waiting(self) -> Sequence[Row]:
        """What has not left."""
        return self.rows[self.gone * MOST_ROWS :]

    def next(self, node: str) -> list[Batch]:
        """What leaves next: one batch, or none if there are no rows."""
        return [] if self.is_gone else [batch_of_cycle(self.id, self.gone, node, self.rows)]


class OwnTallies:
    """The ledger's own entries."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def kinds(self) -> int:
        """See L{Tallies.kinds}."""
        return self._ledger.own

    @property
    def requests(self) -> int:
        """See L{Tallies.requests}."""
        return self._ledger.own_requests

    def drain(self) -> list[Row]:
        """See L{Tallies.drain}."""
        return self._ledger.drain()

    def tell(self) -> bytes:
        """See L{Tallies.tell}."""
        return usagenotes.encode_parts(self._ledger.tell())


class Merging:
    """Counts of one place, which merge while they are many."""

    def __init__(
        self, tallies: Tallies, notes: UsageNotes, clock: IReactorTime, now: Now, random_bytes: Callable[[int], bytes]
    ) -> None:
        """Set it up.

        @param now: the time of day, for ids; C{clock} is for how long it takes.
        """
        self._tallies = tallies
        self._notes = notes
        self._clock = clock
        self._now = now
        self._random_bytes = random_bytes
        self._began = 0.0
        self.cycle = ""

    def note(self, may_begin: bool, must_end: bool) -> Cycle | NotSpooled | None:
        """Note what there is, if it is much.

        @param may_begin: whether a cycle may begin.
        @return: C{None}: all of it stays, and is noted, or there is no cycle (and L{cycle} is empty). A cycle: it is
            over, and its rows leave. Else why it could not be noted; L{end} gives the cycle then.
        """
        if not self.cycle:
            if must_end or not may_begin or self._tallies.kinds <= MANY_KINDS:
                return None
            self.cycle = make_cycle_id(self._now(), self._random_bytes)
            self._began = self._clock.seconds()
        told = self._tallies.tell()
        refusal = self._notes.append(self.cycle, told) if told else None
        if refusal is not None:
            return refusal
        return self.end() if must_end or self._is_over() else None

    def end(self, is_noted: bool = True) -> Cycle:
        """Take out what there is."""
        cycle, self.cycle = self.cycle, ""
        return Cycle(cycle, self._tallies.drain(), is_noted=is_noted)

    def _is_over(self) -> bool:
        kinds, took = self._tallies.kinds, self._clock.seconds() - self._began
        return kinds >= MOST_KINDS or took >= (LONG_CYCLE_SECONDS if kinds > VERY_MANY_KINDS else CYCLE_SECONDS)
