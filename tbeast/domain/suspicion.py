"""Two long memories of a source: that it froze, and that it is another coin.

I{Frozen}: a source whose price, bid and ask have not changed for L{FROZEN_SECONDS}, while most of its peers have moved
the same way by more than L{MOVED_BP} (or the asset's usual noise five times over), is suspect and has no vote until
its value changes. "Most" is more than half of all its peers of now, and two at the least, so that one venue that runs
away can never silence those that stand still. A peer has moved if it did so in dollars and in its own currency: a
change of the dollar rate alone moves nothing. A source whose own bid and ask still enclose its peers' median is not
frozen but quiet.

I{Expelled}: the same code can be another coin on another exchange. A source farther than L{APART} from the median for
L{EXPEL_SECONDS} on end is expelled; it comes back when it has been within that for L{READMIT_SECONDS} on end. The
median is that of all fresh values, the expelled among them, of which there must be three or more, and more than half
must lie within L{APART} of it. So two camps expel nobody, who was expelled by a passing majority is heard again
under the next, and no state is for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from tbeast.domain.aggregation import BP, K
from tbeast.domain.board import Source

FROZEN_SECONDS: Final = 5.0
MOVED_BP: Final = 10.0
APART: Final = 0.10
EXPEL_SECONDS: Final = 10.0
READMIT_SECONDS: Final = 10.0


class Standing(NamedTuple):
    """A source with a fresh value.

    @ivar value: in dollars; C{low} and C{high} are its bid and ask in dollars, or C{value} where it has no book.
    """

    source: Source
    value: float
    low: float
    high: float


class Change(NamedTuple):
    """Something that is worth a line in the log: C{what} is C{suspect}, C{expelled} or C{readmitted}."""

    source: Source
    what: str
    detail: str


def forget(source: Source) -> None:
    """The source has no fresh value: what it was about to be, it was not "on end"."""
    source.apart_since = source.agrees_since = None


def review(standings: Sequence[Standing], noise: float, now: float) -> list[Change]:
    """Bring every source's standing up to date; asked about once a second for each asset.

    @param standings: the asset's sources that have a fresh value, the suspect and the expelled among them.
    @param noise: the asset's usual noise as a fraction (L{tbeast.domain.aggregation.Noise.level}).
    """
    changes = _expel(standings, now)
    changes += _freeze([standing for standing in standings if not standing.source.expelled], noise, now)
    return changes


def _expel(standings: Sequence[Standing], now: float) -> list[Change]:
    count = len(standings)
    middle = median([standing.value for standing in standings]) if count else 0.0
    near = [abs(standing.value / middle - 1.0) <= APART for standing in standings]
    changes = []
    for (source, value, _, _), within in zip(standings, near, strict=True):
        if count < 3 or 2 * sum(near) <= count or within is not source.expelled:
            forget(source)
        elif within:
            if source.agrees_since is None:
                source.agrees_since = now
            elif now - source.agrees_since >= READMIT_SECONDS:
                source.expelled, source.agrees_since = False, None
                changes.append(Change(source, "readmitted", f"agrees with the median of {count}"))
        elif source.apart_since is None:
            source.apart_since = now
        elif now - source.apart_since >= EXPEL_SECONDS:
            source.expelled, source.apart_since = True, None
            changes.append(Change(source, "expelled", f"{value / middle - 1.0:+.1%} from the median of {count}"))
    return changes


def _freeze(members: Sequence[Standing], noise: float, now: float) -> list[Change]:
    changes = []
    values = {member.source.exchange: (member.value, member.source.raw) for member in members}
    threshold = max(MOVED_BP * BP, K * noise)
    for source, value, low, high in members:
        anchor = source.anchor
        if anchor is None or anchor[0] != source.changed_at:
            source.anchor = (source.changed_at, values)
            continue
        if source.suspect or now - source.changed_at < FROZEN_SECONDS:
            continue
        before = anchor[1]
        peers = [name for name in values if name != source.exchange]
        if len(peers) < 2:
            continue
        now_median = median([values[name][0] for name in peers])
        if low <= now_median <= high:
            continue
        moves = [
            (values[name][0] / before[name][0] - 1.0, values[name][1] / before[name][1] - 1.0)
            for name in peers
            if name in before
        ]
        up = sum(min(move) > threshold for move in moves)
        down = sum(max(move) < -threshold for move in moves)
        if max(up, down) >= 2 and 2 * max(up, down) > len(peers):
            source.suspect = True
            detail = f"unchanged for {now - source.changed_at:.0f} s at {value:.10g} while {max(up, down)} others moved"
            changes.append(Change(source, "suspect", detail))
    return changes
