"""What is measured, in Prometheus' text form.

Every counter family is C{tbeast_<family>_total}; beside them stand the gauges of L{GAUGES}, read when somebody asks,
the figures of the parts behind the surface, C{tbeast_<part>_<figure>}, and the times of answers as a histogram. Labels
come from closed sets: exchanges, states, reasons, statuses. No key, no key id and nothing that a client sent is ever
one. A state is exported as 1 for the one that holds and 0 for the others of its set, so that an alarm on one ends when
it is over. What a process has not got (a governor, workers) has no samples, and its family is there all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import median_low
from typing import Any, Final, Protocol

from attrs import frozen
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tbeast.domain.backing import Backing
from tbeast.domain.board import REST, Board
from tbeast.domain.counters import FAMILIES, Counters
from tbeast.domain.feedstatus import STATES
from tbeast.domain.governor import STATES as GOVERNOR_STATES
from tbeast.domain.governor import Report
from tbeast.domain.nodehealth import Health as NodeHealth
from tbeast.domain.quotes import QUALITIES
from tbeast.domain.usage import BEHIND, OK, UNMETERED, MeteringStatus
from tbeast.interfaces import Now
from tbeast.servers.answers import Answers
from tbeast.servers.lpo import Feeds

PREFIX: Final = "tbeast_"

GAUGES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "info": ("1; its labels say what runs here", ("version", "native", "node")),
    "start_time_seconds": ("When the node started, in seconds since the epoch", ()),
    "simulated": ("1 if prices come from the lab", ()),
    "healthy": ("1 if it can serve, as /health says", ()),
    "ready": ("1 if it should be sent questions, as /ready says", ()),
    "feed_state": ("1 for the state a feed is in", ("exchange", "state")),
    "feed_silent_seconds": ("How long nothing was heard", ("exchange",)),
    "feed_refused": ("Symbols refused or unacknowledged", ("exchange",)),
    "feed_connections": ("Open WebSockets", ("exchange",)),
    "feed_symbols": ("Symbols wanted", ("exchange",)),
    "feed_live_symbols": ("Symbols that a live connection carries", ("exchange",)),
    "feed_oldest_seconds": ("How long nothing was heard of the symbol that is quiet the longest", ("exchange",)),
    "feed_lag_seconds": ("From the exchange's own time to when it was heard, of the newest ticks", ("exchange", "of")),
    "feed_delay_seconds": ("By how much the slowest connection is behind its own best", ("exchange",)),
    "rest_late_symbols": ("Symbols that are late, for which REST is asked", ("exchange",)),
    "rest_fed_symbols": ("Symbols whose newest price came over REST", ("exchange",)),
    "assets": ("Assets by the quality of their price", ("quality",)),
    "shelf_replies": ("Replies on the shelf", ()),
    "part_state": ("1 for the state a part behind the surface is in", ("part", "state")),
    "part_blocks": ("1 if nothing can be answered as promised until the part is otherwise", ("part",)),
    "usage_batches_under_way": ("Batches of usage in memory, on their way to the database", ()),
    "usage_behind_seconds": ("For how long the database has not taken all usage; 0 if it has", ()),
    "usage_spool_limit_bytes": ("How much room the journal of usage may take", ()),
    "reactor_lag_mean_seconds": ("How late the reactor calls, on average in the last window", ()),
    "reactor_lag_max_seconds": ("How late the reactor called at the worst in the last window", ()),
    "governor_state": ("1 for the state of the governor of connections", ("state",)),
    "governor_connections": ("TCP connections of this node", ()),
    "governor_limit": ("How many TCP connections this node takes", ()),
    "governor_share": ("How many it would take if it were well", ()),
    "governor_health": ("From 0 to 1, the part of its share that it can bear", ()),
    "governor_nodes": ("How many nodes share the connections, as far as is known", ()),
    "governor_cluster_limit": ("How many TCP connections all nodes take together", ()),
    "worker_memory_bytes": ("Resident memory of a worker, what it shares with others included", ("worker",)),
    "worker_open_fds": ("Open descriptors of a worker", ("worker",)),
    "memory_limit_bytes": ("How much memory the control group, or the machine, allows", ()),
}
"""Gauge: what it says, and the names of its labels. Exported as C{tbeast_<gauge>}."""

MORE_COUNTERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "worker_cpu_seconds": ("Processor time of a worker", ("worker",)),
}
"""Like L{FAMILIES}, of what is counted elsewhere."""

FROM_ZERO: Final = (
    *(("requests", service, protocol, "500") for service in ("lpo", "lrs") for protocol in ("http", "udp")),
    *((family, service) for family in ("udp_kernel_drops", "refused_connections") for service in ("lpo", "lrs")),
    ("usage_batches", "set_aside"),
)
"""Counters that are exported before anything is counted: else the first of what is alarming would show no increase."""

TIMES: Final = "response_times"
"""The counter family that becomes a histogram: its labels are the service, and up to how many microseconds."""
HISTOGRAM: Final = "response_seconds"
HISTOGRAM_WHAT: Final = "How long answers took"
SERVICES: Final = ("lpo", "lrs")
BUCKET_BITS: Final = range(5, 25)
"""The buckets: each ends at so many bits of microseconds, the first at 32 us, the last but one at 16.8 s."""

MEDIAN: Final = "median"
WORST: Final = "worst"
LAG_OF: Final = (MEDIAN, WORST)
LAG_SECONDS: Final = 60.0
"""What was heard longer ago says nothing of how ticks come now."""

PART_STATES: Final[Mapping[str, tuple[str, ...]]] = {
    "database": ("up", "away", "schema"),
    "cache": ("up", "away"),
    "keys": ("loading", "store", "cache"),
    "usage": (OK, BEHIND, UNMETERED),
    "limits": ("shared", "alone"),
    "workers": ("up", "fewer", "down"),
}
"""Part: the states that it may be in."""


class Verdicts(Protocol):
    """Says how the node is, and why."""

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether it can serve."""

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether it should be sent questions."""


class Lag(Protocol):
    """How late the reactor calls."""

    @property
    def mean_ms(self) -> float:
        """On average in the last window, in milliseconds."""

    @property
    def max_ms(self) -> float:
        """At the worst in the last window."""


class GovernorFigures(Protocol):
    """As much of L{tbeast.domain.governor.Governor} as is told here; its attributes say the same there."""

    connections: int
    limit: int
    known_nodes: int

    @property
    def total(self) -> int:
        """See above."""

    @property
    def share(self) -> int:
        """See above."""

    @property
    def state(self) -> str:
        """See above."""

    @property
    def health(self) -> NodeHealth:
        """See above."""


@frozen
class NodeInfo:
    """What runs here.

    @ivar version: of the package.
    @ivar native: C{yes} or C{no}.
    @ivar node: its name.
    """

    version: str
    native: str
    node: str


@frozen(kw_only=True)
class Sources:
    """What is measured beside counters, prices and feeds; whatever is missing has no samples.

    @ivar health: for whether it is healthy and ready.
    @ivar board: for lag, oldest symbols, and REST.
    @ivar metering: how it stands with usage.
    @ivar spool_limit_bytes: how much room its journal may take.
    @ivar lag: of the reactor.
    @ivar governor: of the connections of this process; C{reports} are those that its workers have made last.
    @ivar workers: the process ids of the workers, by their numbers.
    @ivar memory_limit_bytes: what all processes together may use.
    """

    info: NodeInfo | None = None
    health: Verdicts | None = None
    board: Board | None = None
    metering: Callable[[], MeteringStatus] | None = None
    spool_limit_bytes: int | None = None
    lag: Lag | None = None
    governor: GovernorFigures | None = None
    reports: Callable[[], Iterable[Report]] = tuple
    workers: Callable[[], Mapping[str, int]] = dict
    memory_limit_bytes: int | None = None


NOTHING_MORE: Final = Sources()


class Metrics:
    """The node's metrics.

    @ivar content_type: what L{exposition} is.
    """

    content_type: Final = CONTENT_TYPE_LATEST.encode("ascii")

    def __init__(
        self, *, counters: Counters, answers: Answers, feeds: Feeds, now: Now, backing: Backing = tuple,
        sources: Sources = NOTHING_MORE,
    ) -> None:  # fmt: skip
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_NodeCollector(counters, answers, feeds, now, backing, sources))
        ProcessCollector(namespace="tbeast", registry=self._registry)

    def exposition(self) -> bytes:
        """Measure now, and write it down."""
        return generate_latest(self._registry)


_Sample = tuple[tuple[str, ...], float]


class _NodeCollector(Collector):
    def __init__(
        self, counters: Counters, answers: Answers, feeds: Feeds, now: Now, backing: Backing, sources: Sources
    ) -> None:
        self._counters = counters
        self._answers = answers
        self._feeds = feeds
        self._now = now
        self._backing = backing
        self._sources = sources
        self._started_at = now()

    def collect(self) -> Iterable[Metric]:
        samples: dict[str, list[_Sample]] = {name: [] for name in (*GAUGES, *MORE_COUNTERS)}
        for name, labels, value in self._measured():
            samples[name].append((labels, value))
        yield from self._counted()
        yield self._times()
        for name, (what, labels) in GAUGES.items():
            yield _family(GaugeMetricFamily(PREFIX + name, what, labels=labels), samples[name])
        for name, (what, labels) in MORE_COUNTERS.items():
            yield _family(CounterMetricFamily(PREFIX + name, what, labels=labels), samples[name])
        yield from self._figures()

    def _counted(self) -> Iterator[Metric]:
        for family, (what, labels) in FAMILIES.items():
            if family != TIMES:
                counted = {key[1:]: 0 for key in FROM_ZERO if key[0] == family}
                counted.update(self._counters.family(family))
                yield _family(CounterMetricFamily(PREFIX + family, what, labels=labels), counted.items())

    def _times(self) -> Metric:
        """The histogram; there is no sum in it, for what is counted are buckets."""
        metric = HistogramMetricFamily(PREFIX + HISTOGRAM, HISTOGRAM_WHAT, labels=("service",))
        counts = {service: [0] * (len(BUCKET_BITS) + 1) for service in SERVICES}
        for (service, up_to_us), number in self._counters.family(TIMES):
            # the first bucket holds what is faster, the last one what is slower
            bits = max(int(up_to_us).bit_length(), BUCKET_BITS[0])
            counts[service][min(bits - BUCKET_BITS[0], len(BUCKET_BITS))] += number
        ends = [*(str(2**bits / 1e6) for bits in BUCKET_BITS), "+Inf"]
        for service, numbers in counts.items():
            total, buckets = 0, []
            for end, number in zip(ends, numbers, strict=True):
                total += number
                buckets.append((end, float(total)))
            metric.add_metric((service,), buckets, None)
            metric.add_sample(f"{PREFIX}{HISTOGRAM}_count", {"service": service}, total)
        return metric

    def _figures(self) -> Iterator[Metric]:
        for part in self._backing():
            for figure, value in part.figures.items():
                what = f"{figure.replace('_', ' ').capitalize()} of the part {part.name}"
                yield GaugeMetricFamily(f"{PREFIX}{part.name}_{figure}", what, value=value)

    def _measured(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """Every sample: the name of its gauge, its labels, its value."""
        now = self._now()
        yield from self._about()
        yield from self._feeding()
        yield from self._lagging(now)
        yield from self._pricing(now)
        yield from self._behind(now)
        yield from self._governed()
        yield from self._working()

    def _about(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        sources = self._sources
        if sources.info is not None:
            yield "info", (sources.info.version, sources.info.native, sources.info.node), 1.0
        yield "start_time_seconds", (), self._started_at
        yield "simulated", (), self._answers.simulated
        if sources.health is not None:
            yield "healthy", (), sources.health.health()[0]
            yield "ready", (), sources.health.ready()[0]
        if sources.lag is not None:
            yield "reactor_lag_mean_seconds", (), sources.lag.mean_ms / 1000.0
            yield "reactor_lag_max_seconds", (), sources.lag.max_ms / 1000.0

    def _feeding(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        for status in self._feeds():
            for name in STATES:
                yield "feed_state", (status.exchange, name), status.state == name
            exchange = (status.exchange,)
            if status.last_heard_seconds is not None:
                yield "feed_silent_seconds", exchange, status.last_heard_seconds
            yield "feed_refused", exchange, len(status.refused) + len(status.unacknowledged)
            yield "feed_connections", exchange, status.connections
            yield "feed_symbols", exchange, status.symbols
            yield "feed_live_symbols", exchange, status.live_symbols

    def _lagging(self, now: float) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """What the board knows of the ticks' ways."""
        board = self._sources.board
        if board is None:
            return
        for name, by_symbol in board.by_symbol.items():
            exchange, sources = (name,), [source for source in by_symbol.values() if source.subscribed]
            heard = [source.heard_at for source in sources if source.heard_at is not None]
            if heard:
                yield "feed_oldest_seconds", exchange, max(now - min(heard), 0.0)
            lags = [
                source.ws_heard_at - source.exchange_time
                for source in sources
                # an exchange that tells no time has none that is equal to itself
                if source.ws_heard_at is not None
                and now - source.ws_heard_at <= LAG_SECONDS
                and source.exchange_time == source.exchange_time
            ]
            if lags:
                yield "feed_lag_seconds", (name, MEDIAN), median_low(lags)
                yield "feed_lag_seconds", (name, WORST), max(lags)
            delays = [source.delay.seconds for source in sources if source.connected]
            if delays:
                yield "feed_delay_seconds", exchange, max(delays)
            yield "rest_late_symbols", exchange, len(board.late(name, now))
            yield "rest_fed_symbols", exchange, sum(source.via == REST for source in sources)

    def _pricing(self, now: float) -> Iterator[tuple[str, tuple[str, ...], float]]:
        qualities = dict.fromkeys(QUALITIES, 0)
        for code in self._answers.assets.assets:
            qualities[self._answers.quality_of(code, now)] += 1
        if any(qualities.values()):  # a node that serves reports alone knows no assets, and nobody misses their prices
            for quality, number in qualities.items():
                yield "assets", (quality,), number
        yield "shelf_replies", (), len(self._answers.shelf.replies)

    def _behind(self, now: float) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """The parts behind the surface, and usage on its way."""
        for part in self._backing():
            for state in dict.fromkeys((*PART_STATES.get(part.name, ()), part.state)):
                yield "part_state", (part.name, state), part.state == state
            yield "part_blocks", (part.name,), part.blocks
        sources = self._sources
        if sources.metering is not None:
            usage = sources.metering()
            yield "usage_batches_under_way", (), usage.under_way
            yield "usage_behind_seconds", (), 0.0 if usage.since is None else max(now - usage.since, 0.0)
        if sources.spool_limit_bytes is not None:
            yield "usage_spool_limit_bytes", (), sources.spool_limit_bytes

    def _governed(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        governor = self._sources.governor
        if governor is None:
            return
        reports = list(self._sources.reports())
        for state in GOVERNOR_STATES:
            yield "governor_state", (state,), governor.state == state
        yield "governor_connections", (), governor.connections + sum(report.connections for report in reports)
        yield "governor_limit", (), governor.limit + sum(report.limit for report in reports)
        yield "governor_share", (), governor.share
        yield "governor_health", (), min([governor.health.value, *(report.health for report in reports)])
        yield "governor_nodes", (), governor.known_nodes
        yield "governor_cluster_limit", (), governor.total

    def _working(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """The processes of the workers; one that has just ended has no samples."""
        for number, pid in self._sources.workers().items():
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                if metric.name in _OF_PROCESSES:
                    yield _OF_PROCESSES[metric.name], (number,), metric.samples[0].value
        if self._sources.memory_limit_bytes is not None:
            yield "memory_limit_bytes", (), self._sources.memory_limit_bytes


_OF_PROCESSES: Final = {
    "process_resident_memory_bytes": "worker_memory_bytes",
    "process_cpu_seconds": "worker_cpu_seconds",
    "process_open_fds": "worker_open_fds",
}


def _family(metric: GaugeMetricFamily | CounterMetricFamily, samples: Iterable[_Sample]) -> Metric:
    for labels, value in samples:
        metric.add_metric(labels, float(value))
    return metric
