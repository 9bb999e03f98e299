"""The statistics of this node, told to the others; and theirs, as far as they are heard.

Every L{EVERY_SECONDS} this node writes what L{tbeast.domain.clusterstats} names into the shared cache, where it lives
for ten seconds: so a node that is gone is soon heard of no more, and one that goes in good order at once. Nobody waits
for it, and a cache that is away is told the next time.

Who asks for all nodes gets this one's own as it is now, and of the others what they told last. When not all were heard
that there should be, it is said, and why; nothing fails for it.

Rates are over the time between two rounds, percentiles over the last minute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tbeast.domain import clusterstats, latencies
from tbeast.domain.clusterstats import NAMES, Fault, Gauges, Number, requests_answered
from tbeast.domain.counters import Counters
from tbeast.domain.feedstatus import FeedStatus
from tbeast.domain.latencies import Latencies
from tbeast.domain.usage import MeteringStatus
from tbeast.errors import CacheUnavailableError
from tbeast.services.periodic import Periodic

EVERY_SECONDS: Final = 3.0
PERCENTILES_SECONDS: Final = 60.0
PERCENTILES: Final = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99}

WORK: Final = "cluster statistics"


class SharedStatistics(Protocol):
    """Where nodes tell each other. Everything may fail with L{CacheUnavailableError}."""

    def put(self, node: str, texts: Mapping[str, str]) -> Awaitable[None]:
        """Tell what this node says now, in place of what it said before; it is forgotten soon if not told again."""

    def all(self, names: Iterable[str]) -> Awaitable[Mapping[str, Mapping[str, bytes]]]:
        """What each node has told last under these names, where it has told anything."""

    def remove(self, node: str) -> Awaitable[None]:
        """Forget a node."""


class Lag(Protocol):
    """How late the reactor is."""

    @property
    def max_ms(self) -> float:
        """At most, of late."""


@frozen
class Sources:
    """Where the numbers come from.

    @ivar qualities: counts assets by the quality of their price.
    @ivar connections: counts the connections of clients that are open.
    """

    counters: Counters
    feeds: Callable[[], Sequence[FeedStatus]]
    qualities: Callable[[], Mapping[str, int]]
    metering: Callable[[], MeteringStatus]
    lag: Lag
    connections: Callable[[], int]


@frozen
class View:
    """What is known of all nodes.

    @ivar nodes: by node its statistics; never without this node's.
    @ivar complete: whether all were heard that there should be.
    @ivar why: why not; empty if so.
    """

    nodes: Mapping[str, Mapping[str, Number]]
    complete: bool
    why: str


@frozen
class _Sample:
    at: float
    requests: int
    times: Mapping[str, Latencies]


class ClusterStats(Service):
    """See the module.

    @ivar node: this node's name.
    """

    log = Logger()
    name = WORK

    def __init__(
        self, *, node: str, nodes: int, shared: SharedStatistics | None, sources: Sources, clock: IReactorTime
    ) -> None:
        """Set it up.

        @param nodes: how many there should be, this one included.
        @param shared: C{None} if nothing is shared.
        """
        self.node = node
        self._nodes = nodes
        self._shared = shared
        self._sources = sources
        self._clock = clock
        self._began = clock.seconds()
        self._samples = deque([self._sample()], maxlen=int(PERCENTILES_SECONDS / EVERY_SECONDS) + 1)
        self._rate = 0.0
        self._is_told = True
        self._rounds = Periodic(WORK, self._round, EVERY_SECONDS, clock, sources.counters, at_once=True)

    def startService(self) -> None:
        """Begin to tell."""
        super().startService()  # type: ignore[no-untyped-call]
        self._rounds.startService()

    async def stopService(self) -> None:
        """Tell no more, and be forgotten."""
        super().stopService()  # type: ignore[no-untyped-call]
        under_way = self._rounds.stopService()
        if under_way is not None:
            await under_way
        if self._shared is not None:
            try:
                await self._shared.remove(self.node)
            except CacheUnavailableError as error:
                self.log.debug("the others are not told that this node goes: {why}", why=error)

    # This node.

    def own(self) -> Mapping[str, Number]:
        """This node's statistics as they are now."""
        sources = self._sources
        metering = sources.metering()
        prices = self._last_minute().get("lpo", Latencies())
        gauges = Gauges(
            uptime_seconds=max(0.0, self._clock.seconds() - self._began),
            requests_per_second=self._rate,
            response_p50_us=prices.quantile(0.5) or 0,
            response_p99_us=prices.quantile(0.99) or 0,
            connections=sources.connections(),
            reactor_lag_ms=sources.lag.max_ms,
            feeds=sources.feeds(),
            qualities=sources.qualities(),
            usage_waiting=metering.waiting_rows,
            usage_batches=metering.under_way,
            spooled_batches=metering.spooled_batches,
        )
        return clusterstats.own(sources.counters, gauges)

    def percentiles(self) -> Mapping[str, Mapping[str, int]]:
        """How long the answers of the last minute took, by service: L{PERCENTILES}, and how many C{answers}.

        Of a service that has answered nothing, nothing.
        """
        return {
            service: {
                "answers": times.total,
                **{name: us for name, q in PERCENTILES.items() if (us := times.quantile(q)) is not None},
            }
            for service, times in sorted(self._last_minute().items())
            if times.total
        }

    def _last_minute(self) -> Mapping[str, Latencies]:
        then = self._samples[0].times
        now = latencies.read(self._sources.counters)
        return {service: times.difference(then.get(service, Latencies())) for service, times in now.items()}

    def _sample(self) -> _Sample:
        counters = self._sources.counters
        return _Sample(self._clock.seconds(), requests_answered(counters), latencies.read(counters))

    # All nodes.

    async def nodes(self) -> Mapping[str, Mapping[str, Number]]:
        """The statistics of every node that is heard, by its name."""
        return (await self.view()).nodes

    async def view(self) -> View:
        """The same, and whether it is all; does not fail."""
        nodes: dict[str, Mapping[str, Number]] = {}
        whys: list[str] = []
        if self._shared is not None:
            try:
                for node, texts in (await self._shared.all(NAMES)).items():
                    found = clusterstats.read(texts)
                    if isinstance(found, Fault):
                        whys.append(f"what {node} tells cannot be read: {found.why}")
                    else:
                        nodes[node] = found
            except CacheUnavailableError as error:
                whys.append(f"the shared cache cannot be asked: {error}")
        elif self._nodes > 1:
            whys.append("there is no shared cache (CACHE_URL)")
        nodes[self.node] = self.own()
        if len(nodes) < self._nodes:
            whys.append(f"{len(nodes)} of {self._nodes} nodes are heard")
        return View(dict(sorted(nodes.items())), not whys, "; ".join(whys))

    async def _round(self) -> None:
        before, now = self._samples[-1], self._sample()
        seconds = now.at - before.at
        if seconds > 0.0:
            self._rate = (now.requests - before.requests) / seconds
            self._samples.append(now)
        if self._shared is None:
            return
        try:
            await self._shared.put(self.node, clusterstats.write(self.own()))
        except CacheUnavailableError as error:
            if self._is_told:
                self._is_told = False
                self.log.warn("the other nodes are not told of this one: {why}", why=error)
        else:
            if not self._is_told:
                self._is_told = True
                self.log.info("the other nodes are told of this one again")
