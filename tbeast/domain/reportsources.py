"""What those give who read reports: the database, which has every line, and the copy, which has most."""

from __future__ import annotations

from attrs import frozen

from tbeast.domain.reports import UsageLine
from tbeast.domain.syncplan import Place


@frozen
class Moment:
    """Where the database stands.

    @ivar origin: which database it is, as in the marks of the copy.
    @ivar now_us: what it says the time is, in microseconds since the epoch.
    @ivar settled_us: everything that was written up to then is there to be seen.
    """

    origin: str
    now_us: int
    settled_us: int


@frozen
class WrittenLines:
    """Lines of usage out of the database, in their order.

    @ivar later: the ids of those that were written after the cut.
    @ivar goes_on: whether there may be more behind them.
    """

    lines: list[UsageLine]
    later: frozenset[str]
    goes_on: bool


@frozen
class CopiedLines:
    """Lines of usage out of the copy, in their order.

    @ivar after: behind which place to go on.
    @ivar goes_on: whether there may be more.
    """

    lines: list[UsageLine]
    after: Place
    goes_on: bool
