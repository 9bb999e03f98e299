"""What is measured, in Prometheus' text form.

Every counter family is C{tbeast_<family>_total}; beside them stand gauges that are read when somebody asks. Labels come
from closed sets: exchanges, states, reasons, statuses. No key, no key id and nothing that a client sent is ever one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tbeast.domain.backing import Backing
from tbeast.domain.counters import FAMILIES, Counters
from tbeast.domain.feedstatus import STATES
from tbeast.domain.quotes import QUALITIES
from tbeast.interfaces import Now
from tbeast.servers.answers import Answers
from tbeast.servers.lpo import Feeds

FEED_GAUGES: Final = (
    ("connections", "Open WebSockets"),
    ("symbols", "Symbols wanted"),
    ("live_symbols", "Symbols that a live connection carries"),
)


class Metrics:
    """The node's metrics.

    @ivar content_type: what L{exposition} is.
    """

    content_type: Final = CONTENT_TYPE_LATEST.encode("ascii")

    def __init__(
        self, *, counters: Counters, answers: Answers, feeds: Feeds, now: Now, backing: Backing = tuple
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_NodeCollector(counters, answers, feeds, now, backing))
        ProcessCollector(namespace="tbeast", registry=self._registry)

    def exposition(self) -> bytes:
        """Measure now, and write it down."""
        return generate_latest(self._registry)


class _NodeCollector(Collector):
    def __init__(self, counters: Counters, answers: Answers, feeds: Feeds, now: Now, backing: Backing) -> None:
        self._counters = counters
        self._answers = answers
        self._feeds = feeds
        self._now = now
        self._backing = backing
        self._started_at = now()

    def collect(self) -> Iterable[Metric]:
        yield from self._counted()
        yield from self._feeding()
        yield from self._pricing()
        yield from self._behind()

    def _counted(self) -> Iterator[Metric]:
        for family, (what, labels) in FAMILIES.items():
            metric = CounterMetricFamily(f"tbeast_{family}", what, labels=labels)
            for values, number in self._counters.family(family):
                metric.add_metric(values, number)
            yield metric

    def _feeding(self) -> Iterator[Metric]:
        feeds = self._feeds()
        state = GaugeMetricFamily("tbeast_feed_state", "1 for the state a feed is in", labels=("exchange", "state"))
        age = GaugeMetricFamily("tbeast_feed_silent_seconds", "How long nothing was heard", labels=("exchange",))
        refused = GaugeMetricFamily("tbeast_feed_refused", "Symbols refused or unacknowledged", labels=("exchange",))
        for status in feeds:
            for name in STATES:
                state.add_metric((status.exchange, name), float(status.state == name))
            if status.last_heard_seconds is not None:
                age.add_metric((status.exchange,), status.last_heard_seconds)
            refused.add_metric((status.exchange,), len(status.refused) + len(status.unacknowledged))
        yield from (state, age, refused)
        for name, what in FEED_GAUGES:
            gauge = GaugeMetricFamily(f"tbeast_feed_{name}", what, labels=("exchange",))
            for status in feeds:
                gauge.add_metric((status.exchange,), getattr(status, name))
            yield gauge

    def _behind(self) -> Iterator[Metric]:
        """The parts behind the surface."""
        state = GaugeMetricFamily("tbeast_part_state", "1 for the state a part is in", labels=("part", "state"))
        for part in self._backing():
            state.add_metric((part.name, part.state), 1.0)
            for figure, value in part.figures.items():
                what = f"{figure.replace('_', ' ').capitalize()} of the part {part.name}"
                yield GaugeMetricFamily(f"tbeast_{part.name}_{figure}", what, value=value)
        yield state

    def _pricing(self) -> Iterator[Metric]:
        now = self._now()
        qualities = dict.fromkeys(QUALITIES, 0)
        for code in self._answers.assets.assets:
            qualities[self._answers.quality_of(code, now)] += 1
        assets = GaugeMetricFamily("tbeast_assets", "Assets by the quality of their price", labels=("quality",))
        for quality, number in qualities.items():
            assets.add_metric((quality,), number)
        yield assets
        yield GaugeMetricFamily("tbeast_shelf_replies", "Replies on the shelf", value=len(self._answers.shelf.replies))
        yield GaugeMetricFamily("tbeast_start_time_seconds", "When the node started", value=self._started_at)
        yield GaugeMetricFamily("tbeast_simulated", "1 if prices come from the lab", value=self._answers.simulated)
