"""What the operator's page is told: how the node is doing, once a second, all of it in one snapshot.

The rules:

 - Each second the states of everything are looked at, whether or not anybody watches, so that what has changed at
   night is there in the morning (L{tbeast.domain.transitions}); and the answers are counted, for the rates of the last
   five minutes. That is little work.
 - The snapshot is made only while somebody watches, once for all of them: prices from the last quotes that were
   published, percentiles of the last minute. It makes no price anew, and waits for nothing.
 - What other nodes say is asked of the shared cache every few seconds while somebody watches; until it comes, and when
   it does not, the snapshot has what was known before, and says so.
 - What somebody who comes must know beside the snapshot, and what seldom changes, is in L{Overview.whole}: names,
   assets, the rates so far and the changes so far.

What goes out is plain values that JSON can carry. Prices, feeds and changes are rows without names, since there are
many; L{PRICE_ROW}, L{FEED_ROW} and L{CHANGE_ROW} tell their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import pairwise
from math import isfinite
from typing import Any, Final, NamedTuple, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from tbeast.domain import clusterstats, latencies
from tbeast.domain.assetmap import Asset, AssetMap
from tbeast.domain.backing import Backing, PartStatus
from tbeast.domain.board import is_on_demand
from tbeast.domain.clusterstats import STATISTICS, Number
from tbeast.domain.complaints import Complaint, Facts, complaints
from tbeast.domain.counters import Counters
from tbeast.domain.feedstatus import FeedStatus
from tbeast.domain.governor import CUT_OFF
from tbeast.domain.latencies import Latencies
from tbeast.domain.quotes import HALTED, STALE, Quote
from tbeast.domain.transitions import Change, Transitions
from tbeast.domain.usage import MeteringStatus
from tbeast.interfaces import Now

LOOK_SECONDS: Final = 1.0
HISTORY: Final = 300
"""So many looks are in the rates of the past."""
WINDOW: Final = 60
"""Percentiles, and what is complained of, are of so many looks."""
CLUSTER_LOOKS: Final = 3
"""The other nodes are asked for at each third look: more often they say nothing new."""

ON_DEMAND: Final = "on_demand"
"""Instead of a quality: nobody has asked for it lately, and no feed is to carry it."""

PRICE_ROW: Final = ("asset", "quality", "price", "age", "used", "seen", "spread_bp", "set_aside", "source")
FEED_ROW: Final = (
    "exchange", "state", "age", "connections", "live_symbols", "symbols", "refused", "connected_seconds", "why",
)  # fmt: skip
CHANGE_ROW: Final = ("number", "at", "what", "before", "after", "why")
RATE_ROW: Final = ("answered", "refused", "failed")

PERCENTILES: Final = (0.5, 0.9, 0.99)

Row = list[object]


class ClusterView(Protocol):
    """What is known of all nodes."""

    @property
    def nodes(self) -> Mapping[str, Mapping[str, Number]]:
        """By node: its numbers, by the names in L{STATISTICS}."""

    @property
    def why(self) -> str:
        """Why these are not all; empty if they are."""


class Cluster(Protocol):
    """The statistics of all nodes."""

    def view(self) -> Awaitable[ClusterView]:
        """What is heard of them now."""


@frozen
class About:
    """What does not change while the process lives.

    @ivar life: names this process among those that bear the node's name.
    @ivar simulated: whether prices come from the lab.
    @ivar more: what else there is to say of the process, by what it is.
    """

    node: str
    version: str
    life: str
    simulated: bool
    more: Mapping[str, str]


@frozen
class Sources:
    """What the overview looks at; each is asked when it is wanted.

    @ivar assets: the asset map.
    @ivar quotes: the last quote of each asset that ever had one, fresh or not.
    @ivar metering: how it stands with usage.
    @ivar waiting: how many answered requests have not left the ledger.
    @ivar recorded: how many requests of this process the database has taken; C{None}: that is not counted.
    @ivar governor: what the governor of connections sees; C{None}: there is none.
    @ivar cluster: the statistics of all nodes; C{None}: there are none.
    @ivar ready: whether the node should be sent questions, and under C{reasons} why not; C{None}: nobody knows.
    """

    assets: Callable[[], AssetMap]
    quotes: Callable[[], Mapping[str, Quote]]
    feeds: Callable[[], Sequence[FeedStatus]]
    backing: Backing
    listening: Callable[[], Mapping[str, bool]]
    metering: Callable[[], MeteringStatus]
    waiting: Callable[[], int]
    recorded: Callable[[], int] | None = None
    governor: Callable[[], Mapping[str, object]] | None = None
    cluster: Cluster | None = None
    ready: Callable[[], tuple[bool, Mapping[str, Any]]] | None = None


@frozen
class _Tally:
    """The answers of the process up to a look."""

    answered: int = 0
    refused: int = 0
    failed: int = 0
    turned_away: int = 0


class _States(NamedTuple):
    """What has a state, at a look; C{view} is the governor's."""

    feeds: Sequence[FeedStatus]
    parts: Sequence[PartStatus]
    listening: Mapping[str, bool]
    view: Mapping[str, object] | None


class Overview:
    """See the module. L{look} is to be called each L{LOOK_SECONDS}.

    @ivar listeners: each is called after a look when there is a new snapshot. While there are none, none is made.
    @ivar edition: another number whenever L{whole} is to be told anew.
    @ivar life: names the process.
    @ivar transitions: what has changed.
    """

    log = Logger()

    def __init__(self, about: About, sources: Sources, counters: Counters, now: Now) -> None:
        self.listeners: list[Callable[[], object]] = []
        self.edition = 0
        self.life = about.life
        self.transitions = Transitions()
        self._about = about
        self._from = sources
        self._counters = counters
        self._now = now
        self._started_at = now()
        self._assets: AssetMap | None = None
        self._tallies: deque[tuple[float, _Tally]] = deque(maxlen=HISTORY + 1)
        self._times: deque[dict[str, Latencies]] = deque(maxlen=WINDOW + 1)
        self._looks = 0
        self._seen: _States | None = None
        self._snapshot: dict[str, object] = {}
        self._stale = True
        self._nodes: Mapping[str, Mapping[str, Number]] | None = None
        self._nodes_at = 0.0
        self._nodes_why = ""
        self._asking = False

    def look(self) -> None:
        """Look at everything, and tell those who watch."""
        now = self._now()
        states = self._seen = self._states()
        self.transitions.see(now, _things(states))
        self._counters.gather()
        self._tallies.append((now, self._tally()))
        self._times.append(latencies.read(self._counters))
        assets = self._from.assets()
        if assets is not self._assets:
            self._assets = assets
            self.edition += 1
        self._stale = True
        if self.listeners:
            if self._looks % CLUSTER_LOOKS == 0:
                self._ask_the_cluster()
            self._looks += 1
            for told in list(self.listeners):
                told()

    def snapshot(self) -> Mapping[str, object]:
        """How everything is, made at most once a look; the changes in it are for the caller to add."""
        if self._stale:
            self._snapshot, self._stale = self._made(), False
        return self._snapshot

    def whole(self) -> Mapping[str, object]:
        """What somebody who comes must know beside the snapshot and the changes."""
        about = self._about
        assets = self._from.assets().assets.values()
        return {
            "node": about.node,
            "version": about.version,
            "life": about.life,
            "simulated": about.simulated,
            "started_at": self._started_at,
            "about": dict(about.more),
            "assets": [[asset.code, asset.name, asset.category, asset.home] for asset in assets],
            "statistics": [[name, each.kind, each.unit, each.what, each.adds] for name, each in STATISTICS.items()],
            "rates": self._rates(),
        }

    def changes(self, after: int = 0) -> list[Row]:
        """The changes beyond that number, as rows."""
        return [_change(change) for change in self.transitions.after(after)]

    # Each look.

    def _states(self) -> _States:
        sources = self._from
        view = None if sources.governor is None else _with_workers(sources.governor())
        return _States(sources.feeds(), sources.backing(), sources.listening(), view)

    def _tally(self) -> _Tally:
        answered = refused = failed = turned_away = 0
        for key, number in self._counters.counts.items():
            if key[0] == "requests" and key[1] in clusterstats.SERVICES:
                answered += number
                refused += number if key[3] in ("401", "429") else 0
                failed += number if key[3].startswith("5") else 0
            elif key[0] == "refused_connections":  # those of workers too, which the governor of a hub does not know
                turned_away += number
        return _Tally(answered, refused, failed, turned_away)

    def _rates(self) -> list[Row]:
        """By look, the oldest first: what came in it, a second."""
        return [_rate(*before, *after) for before, after in pairwise(self._tallies)]

    # While somebody watches.

    def _made(self) -> dict[str, object]:
        now = self._now()
        feeds, parts, listening, view = self._seen or self._states()
        prices, missing, expected = self._prices(now)
        metering = self._from.metering()
        times = self._latencies()
        minute = self._minute()
        median = times["lpo"].quantile(0.5) if "lpo" in times else None
        said = complaints(
            Facts(
                feeds, parts, listening, missing, expected, minute.answered, minute.failed, median,
                metering.under_way, minute.turned_away, _unwell(view), self._nodes_why, self._unready(),
            )
        )  # fmt: skip
        newest = list(self._tallies)[-2:]
        return {
            "at": round(now, 3),
            "complaints": [_complaint(complaint) for complaint in said],
            "priced": [expected - len(missing), expected],
            "feeds": [_feed(feed) for feed in feeds],
            "prices": prices,
            "rate": _rate(*newest[0], *newest[1]) if len(newest) == 2 else [0.0, 0.0, 0.0],
            "requests": self._requests(),
            "latency": {
                service: [found.total, *(found.quantile(part) for part in PERCENTILES)]
                for service, found in times.items()
            },
            "usage": self._usage(metering, now),
            "parts": [_part(part, now) for part in parts],
            "listeners": dict(listening),
            "governor": view and {**view, "refused": self._tallies[-1][1].turned_away if self._tallies else 0},
            "cluster": self._cluster(now),
        }

    def _unready(self) -> str:
        if self._from.ready is None:
            return ""
        is_ready, said = self._from.ready()
        return "" if is_ready else "; ".join(map(str, said["reasons"]))

    def _prices(self, now: float) -> tuple[list[Row], list[str], int]:
        """A row for each asset, those that should have a fresh price and have none, and how many should."""
        quotes = self._from.quotes()
        rows, missing, expected = [], [], 0
        for code, asset in self._from.assets().assets.items():
            quote = quotes.get(code)
            quality = _quality(asset, quote, now)
            if quality != ON_DEMAND:
                expected += 1
                if quality in (STALE, HALTED):
                    missing.append(code)
            rows.append(_price(code, quality, quote, now))
        return rows, missing, expected

    def _latencies(self) -> dict[str, Latencies]:
        """How long the answers of the last minute took, by service."""
        if not self._times:
            return {}
        first, last = self._times[0], self._times[-1]
        since = {service: found.difference(first.get(service, Latencies())) for service, found in last.items()}
        return {service: found for service, found in since.items() if found.total}

    def _minute(self) -> _Tally:
        """What came in the last minute."""
        if not self._tallies:
            return _Tally()
        told = list(self._tallies)[-(WINDOW + 1) :]
        (_, first), (_, last) = told[0], told[-1]
        return _Tally(
            last.answered - first.answered, last.refused - first.refused, last.failed - first.failed,
            last.turned_away - first.turned_away,
        )  # fmt: skip

    def _requests(self) -> list[Row]:
        """All answers since the start, by service, protocol and status."""
        return [[*labels, number] for labels, number in self._counters.family("requests") if labels[0] != "health"]

    def _usage(self, metering: MeteringStatus, now: float) -> dict[str, object]:
        recorded = self._from.recorded
        return {
            "state": metering.state,
            "for": None if metering.since is None else round(max(0.0, now - metering.since), 1),
            "why": "; ".join(filter(None, (metering.store_error, metering.journal_error))),
            "waiting_rows": metering.waiting_rows,
            "waiting_requests": self._from.waiting(),
            "under_way": metering.under_way,
            "spooled_batches": metering.spooled_batches,
            "spooled_bytes": metering.spooled_bytes,
            "served": self._tallies[-1][1].answered if self._tallies else 0,
            "recorded": None if recorded is None else recorded(),
            "rows": self._counters.value("usage_rows", "settled"),
        }

    def _cluster(self, now: float) -> dict[str, object] | None:
        if self._from.cluster is None:
            return None
        nodes = self._nodes or {}
        return {
            "nodes": {name: [numbers.get(each) for each in STATISTICS] for name, numbers in nodes.items()},
            "total": [clusterstats.added_up(nodes.values()).get(each) for each in STATISTICS],
            "age": None if self._nodes is None else round(max(0.0, now - self._nodes_at), 1),
            "why": self._nodes_why,
        }

    def _ask_the_cluster(self) -> None:
        if self._from.cluster is not None and not self._asking:
            self._asking = True
            Deferred.fromCoroutine(self._ask(self._from.cluster)).addErrback(
                lambda failure: self.log.failure("the statistics of the nodes cannot be told", failure)
            )

    async def _ask(self, cluster: Cluster) -> None:
        try:
            view = await cluster.view()
            self._nodes, self._nodes_at, self._nodes_why = view.nodes, self._now(), view.why
        except Exception as fault:
            self._nodes_why = f"the other nodes cannot be asked: {fault}"
        finally:
            self._asking = False


def _things(states: _States) -> dict[str, tuple[str, str]]:
    """Everything that has a state, by its name."""
    feeds, parts, listening, view = states
    things = {f"feed {feed.exchange}": (feed.state, feed.why) for feed in feeds}
    things |= {f"part {part.name}": (part.state, part.why) for part in parts}
    things |= {f"listener {name}": ("up" if is_up else "down", "") for name, is_up in listening.items()}
    if view is not None:
        move = view.get("last_move")
        things["governor"] = (str(view.get("state")), "")
        things["connection limit"] = (str(view.get("limit")), str(move.get("reason")) if isinstance(move, dict) else "")
    return things


def _with_workers(view: Mapping[str, Any]) -> Mapping[str, Any]:
    """A hub's view of the connections, with those of its workers, each of which has a governor of its own."""
    workers = [each for each in view.get("nodes", ()) if each["node"].startswith(f"{view['node']}/")]
    if not workers:
        return view
    told = {**view, "share": view["share"] + sum(each["claim"] for each in workers)}
    for name in ("connections", "limit"):
        told[name] = view[name] + sum(each[name] for each in workers)
    worst = min(workers, key=lambda each: float(each["health"]))
    if worst["health"] < view["health"]:
        told |= {"health": worst["health"], "health_reason": f"the worker {worst['node']} is not well"}
    return told


def _unwell(view: Mapping[str, object] | None) -> str:
    if view is None:
        return ""
    if view.get("state") == CUT_OFF:
        return "cut off from the other nodes"
    health = view.get("health")
    if isinstance(health, int | float) and health < 1.0:
        return str(view.get("health_reason") or "the node is not well")
    return ""


def _quality(asset: Asset, quote: Quote | None, now: float) -> str:
    """What would be answered now, without a look-up."""
    unfit = quote is None or quote.quality in (STALE, HALTED) or now > quote.fresh_until or not isfinite(quote.price)
    if quote is not None and not unfit:
        return quote.quality
    if is_on_demand(asset):
        return ON_DEMAND
    return HALTED if quote is not None and quote.quality == HALTED else STALE


def _price(code: str, quality: str, quote: Quote | None, now: float) -> Row:
    if quote is None:
        return [code, quality, None, None, 0, 0, None, 0, ""]
    age = round(max(0.0, now - quote.observed_at), 1)
    return [
        code, quality, _finite(quote.price), age, len(quote.used), quote.seen, _finite(quote.spread_bp),
        len(quote.set_aside), quote.source,
    ]  # fmt: skip


def _finite(value: float) -> float | None:
    """The value, unless JSON has no such number; the page is wanted most when something has gone wrong."""
    return value if isfinite(value) else None


def _feed(feed: FeedStatus) -> Row:
    heard = feed.last_heard_seconds
    return [
        feed.exchange, feed.state, None if heard is None else round(heard, 1), feed.connections, feed.live_symbols,
        feed.symbols, len(feed.refused) + len(feed.unacknowledged), round(feed.connected_seconds), feed.why,
    ]  # fmt: skip


def _part(part: PartStatus, now: float) -> Row:
    return [part.name, part.state, part.why, None if part.since is None else round(max(0.0, now - part.since))]


def _complaint(complaint: Complaint) -> Row:
    return [int(complaint.is_grave), complaint.text]


def _change(change: Change) -> Row:
    return [change.number, round(change.at, 1), change.what, change.before, change.after, change.why]


def _rate(at_before: float, before: _Tally, at: float, after: _Tally) -> Row:
    seconds = max(at - at_before, 0.001)
    return [
        round(max(0, now - then) / seconds, 1)
        for now, then in (
            (after.answered, before.answered),
            (after.refused, before.refused),
            (after.failed, before.failed),
        )
    ]
