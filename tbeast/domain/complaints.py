"""What is wrong with a node just now, in words that can be read at three in the morning.

A complaint is one sentence. It is grave when questions go unanswered or unrecorded because of it: a node that is not
ready, a listener that is not up, a part that blocks, no live feed, prices that should be there and are not, usage that
nothing takes. Otherwise
the node serves, but something is as it should not stay: a feed that is down, a database that is away, slow answers.
Grave ones come first; without any, all is well.

Nobody misses what is not wanted: a feed that is off, a part that is only told of, an asset that is priced on demand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from attrs import frozen

from tbeast.domain.backing import PartStatus
from tbeast.domain.feedstatus import LIVE, OFF, PAUSED, FeedStatus
from tbeast.domain.usage import UNMETERED

WELL: Final = frozenset(("up", "ok", "shared", "store", "cache"))
"""The states in which a part has nothing to complain of."""

MANY_MISSING: Final = 0.1
"""It is grave when so large a part of the prices is missing."""
NAMED: Final = 5
"""So many missing assets are named."""

SLOW_US: Final = 10_000
MANY_BATCHES: Final = 400
FEW_ANSWERS: Final = 20
"""Of fewer answers no percentile is complained of."""


class Complaint(NamedTuple):
    """One thing that is wrong.

    @ivar is_grave: see the module.
    @ivar text: a sentence, without the full stop.
    """

    is_grave: bool
    text: str


@frozen
class Facts:
    """What is looked at.

    @ivar unready: why the node should be sent no questions; empty if it should.
    @ivar listening: every listener by name, and whether it is up.
    @ivar missing: the assets that should have a fresh price and have none.
    @ivar expected: how many should have one.
    @ivar answered: questions of the last minute.
    @ivar failed: those of them that were answered with a 5xx.
    @ivar median_us: how long half of them took at most, in microseconds; C{None} if there were none.
    @ivar under_way: batches of usage on their way to the database.
    @ivar turned_away: connections that were refused in the last minute.
    @ivar unwell: why fewer connections are taken than could be; empty if that is not so.
    @ivar unheard: why not all nodes of the cluster are heard; empty if they are.
    """

    feeds: Sequence[FeedStatus] = ()
    parts: Sequence[PartStatus] = ()
    listening: Mapping[str, bool] = MappingProxyType({})
    missing: Sequence[str] = ()
    expected: int = 0
    answered: int = 0
    failed: int = 0
    median_us: int | None = None
    under_way: int = 0
    turned_away: int = 0
    unwell: str = ""
    unheard: str = ""
    unready: str = ""


def complaints(facts: Facts) -> list[Complaint]:
    """Say what is wrong, the worst first."""
    said = [Complaint(True, f"The node is not ready: {facts.unready}")] if facts.unready else []
    said += [*_of_listeners(facts), *_of_parts(facts), *_of_feeds(facts), *_of_prices(facts), *_of_answers(facts)]
    return sorted(said, key=lambda complaint: not complaint.is_grave)


def _of_listeners(facts: Facts) -> Iterable[Complaint]:
    for name, is_up in facts.listening.items():
        if not is_up:
            yield Complaint(True, f"The listener {name} is not up")


def _of_parts(facts: Facts) -> Iterable[Complaint]:
    for part in facts.parts:
        if part.blocks or part.state not in WELL:
            why = f": {part.why}" if part.why else ""
            verb = "are" if part.name.endswith("s") else "is"
            yield Complaint(part.blocks or part.state == UNMETERED, f"The {part.name} {verb} {part.state}{why}")
    if facts.under_way > MANY_BATCHES:
        yield Complaint(False, f"{facts.under_way:,} batches of usage are on their way to the database")


def _of_feeds(facts: Facts) -> Iterable[Complaint]:
    wanted = [feed for feed in facts.feeds if feed.state != OFF]
    if wanted and all(feed.state != LIVE for feed in wanted):
        yield Complaint(True, "No feed is live")
    for feed in wanted:
        if feed.state == PAUSED:  # it has forgotten when it was heard, and nobody waits for it
            yield Complaint(False, f"The feed of {feed.exchange} is {feed.why or PAUSED}")
        elif feed.state != LIVE:
            heard = feed.last_heard_seconds
            since = "nothing heard yet" if heard is None else f"last heard {_ago(heard)} ago"
            why = f": {feed.why}" if feed.why else ""
            yield Complaint(False, f"The feed of {feed.exchange} is {feed.state}, {since}{why}")


def _of_prices(facts: Facts) -> Iterable[Complaint]:
    missing = facts.missing
    if missing:
        names = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        is_grave = len(missing) > MANY_MISSING * facts.expected
        yield Complaint(is_grave, f"{len(missing)} of {facts.expected} assets have no fresh price: {names}")


def _of_answers(facts: Facts) -> Iterable[Complaint]:
    if facts.failed:
        yield Complaint(False, f"{facts.failed:,} of {facts.answered:,} answers of the last minute were 5xx")
    if facts.median_us is not None and facts.median_us > SLOW_US and facts.answered >= FEW_ANSWERS:
        yield Complaint(False, f"Half of the answers take more than {facts.median_us / 1000.0:.0f} ms")
    if facts.turned_away:
        yield Complaint(False, f"{facts.turned_away:,} connections were turned away in the last minute")
    if facts.unwell:
        yield Complaint(False, f"Fewer connections are taken: {facts.unwell}")
    if facts.unheard:
        yield Complaint(False, f"Not all nodes of the cluster are heard: {facts.unheard}")


def _ago(seconds: float) -> str:
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 7_200.0 else f"{seconds / 3_600.0:.0f} h"
