"""The statistics of a node: 24 numbers that say how it is doing, what each means, and how they add up over nodes.

L{STATISTICS} is the only place where they are named and explained; the hash in the shared cache, /stats, the operator's
pages, the metrics and the documentation all read it there. Counters begin at 0 with the process, so they fall when a
node starts anew; gauges are as things are just now. Questions to the health port are not among any of them.

Over nodes each statistic adds up in one of three ways: L{SUM}; or the worst node's stands for all, which is the
greatest (L{MAX}) or the least (L{MIN}). The greatest of the nodes' percentiles is never below that of all answers.

In the cache they are decimal texts by name. What another node has written is judged before it is used: it may be of
another version, so what is not known here is passed over, and what is missing is absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from attrs import frozen

from tbeast.domain.counters import Counters
from tbeast.domain.feedstatus import LIVE, FeedStatus
from tbeast.domain.quotes import GOOD, HALTED, STALE

SUM: Final = "sum"
MAX: Final = "max"
MIN: Final = "min"

COUNTER: Final = "counter"
GAUGE: Final = "gauge"

SERVICES: Final = ("lpo", "lrs")
"""Whose questions are counted."""

Number = int | float


@frozen
class Statistic:
    """What one of them is.

    @ivar kind: L{COUNTER} or L{GAUGE}.
    @ivar unit: what it is a number of.
    @ivar what: a sentence on it.
    @ivar adds: L{SUM}, L{MAX} or L{MIN}: how it adds up over nodes.
    """

    kind: str
    unit: str
    what: str
    adds: str


STATISTICS: Final[Mapping[str, Statistic]] = {
    "uptime_seconds": Statistic(GAUGE, "seconds", "How long the node has been up.", MIN),
    "requests": Statistic(COUNTER, "requests", "Questions answered, for prices and for reports.", SUM),
    "requests_http": Statistic(COUNTER, "requests", "Questions answered over HTTP.", SUM),
    "requests_udp": Statistic(COUNTER, "requests", "Questions answered over UDP.", SUM),
    "requests_lrs": Statistic(COUNTER, "requests", "Questions for reports answered, over HTTP and UDP.", SUM),
    "requests_per_second": Statistic(GAUGE, "requests/s", "The rate of answers over the last few seconds.", SUM),
    "unauthorized": Statistic(COUNTER, "requests", "Answers 401: nobody has that key, or it was taken back.", SUM),
    "rate_limited": Statistic(COUNTER, "requests", "Answers 429: too fast, or the month is used up.", SUM),
    "errors_5xx": Statistic(COUNTER, "requests", "Answers 500 to 599: no fresh price, or a fault of ours.", SUM),
    "udp_dropped": Statistic(COUNTER, "datagrams", "Datagrams without an answer, those lost in the kernel too.", SUM),
    "response_p50_us": Statistic(
        GAUGE, "microseconds", "Half of the last minute's price answers took no longer; 0 if there were none.", MAX
    ),
    "response_p99_us": Statistic(
        GAUGE, "microseconds", "99 of 100 of the last minute's price answers took no longer; 0 if there were none.", MAX
    ),
    "connections": Statistic(GAUGE, "connections", "Open TCP connections of clients.", SUM),
    "connections_refused": Statistic(COUNTER, "connections", "Connections that the governor has refused.", SUM),
    "reactor_lag_ms": Statistic(
        GAUGE, "milliseconds", "How late the event loop was, at the worst, in the last seconds.", MAX
    ),
    "ticks": Statistic(COUNTER, "ticks", "Prices of exchanges taken onto the board.", SUM),
    "feeds_live": Statistic(GAUGE, "exchanges", "Exchanges whose feed is live.", MIN),
    "assets_good": Statistic(GAUGE, "assets", "Assets with a price of quality good: three or more sources agree.", MIN),
    "assets_unpriced": Statistic(
        GAUGE, "assets", "Assets without a price to give out: nothing is fresh, or trading is halted.", MAX
    ),
    "rest_fallbacks": Statistic(COUNTER, "prices", "Prices given out that had to be asked of an exchange.", SUM),
    "usage_waiting": Statistic(GAUGE, "rows", "Rows of usage that are counted and not in a batch yet.", SUM),
    "usage_rows": Statistic(COUNTER, "rows", "Rows of usage that the database has taken.", SUM),
    "usage_batches": Statistic(GAUGE, "batches", "Batches of usage in memory, on their way to the database.", SUM),
    "spooled_batches": Statistic(GAUGE, "batches", "Batches of usage in the journal that the database lacks.", SUM),
}
"""Every statistic by its name, in the order in which people like to read them."""

NAMES: Final = tuple(STATISTICS)

OF_PRICES: Final = ("feeds_live", "assets_good", "assets_unpriced")
"""A node that serves reports alone tells none of these: else it would be the worst node, and stand for all."""


@frozen
class Gauges:
    """What stands in no counter.

    @ivar qualities: how many assets have a price of each quality; none at all where the node serves reports alone.
    """

    uptime_seconds: float
    requests_per_second: float
    response_p50_us: int
    response_p99_us: int
    connections: int
    reactor_lag_ms: float
    feeds: Iterable[FeedStatus]
    qualities: Mapping[str, int]
    usage_waiting: int
    usage_batches: int
    spooled_batches: int


@frozen
class Fault:
    """What a node has written is no statistics.

    @ivar why: for people.
    """

    why: str


def own(counters: Counters, gauges: Gauges) -> dict[str, Number]:
    """This node's statistics: all of L{NAMES}, in order, but for L{OF_PRICES} where it serves reports alone."""
    counters.gather()
    counted = dict.fromkeys((name for name, statistic in STATISTICS.items() if statistic.kind == COUNTER), 0)
    for (family, *labels), number in counters.counts.items():
        if family == "requests":
            for name in _requests_named(*labels):
                counted[name] += number
        elif family in _COUNTED and (_COUNTED[family][1] is None or labels[-1] == _COUNTED[family][1]):
            counted[_COUNTED[family][0]] += number
    found: dict[str, Number] = {
        **counted,
        "uptime_seconds": int(gauges.uptime_seconds),
        "requests_per_second": round(gauges.requests_per_second, 1),
        "response_p50_us": gauges.response_p50_us,
        "response_p99_us": gauges.response_p99_us,
        "connections": gauges.connections,
        "reactor_lag_ms": round(gauges.reactor_lag_ms, 1),
        "usage_waiting": gauges.usage_waiting,
        "usage_batches": gauges.usage_batches,
        "spooled_batches": gauges.spooled_batches,
    }
    qualities = gauges.qualities
    if any(qualities.values()):
        found["feeds_live"] = sum(feed.state == LIVE for feed in gauges.feeds)
        found["assets_good"] = qualities.get(GOOD, 0)
        found["assets_unpriced"] = qualities.get(STALE, 0) + qualities.get(HALTED, 0)
    return {name: found[name] for name in NAMES if name in found}


def requests_answered(counters: Counters) -> int:
    """How many questions were answered since the process began."""
    counters.gather()
    return sum(number for key, number in counters.counts.items() if key[0] == "requests" and key[1] in SERVICES)


def _requests_named(service: str, protocol: str, status: str) -> Iterable[str]:
    """The names under which an answer counts."""
    if service not in SERVICES:
        return
    yield "requests"
    yield "requests_udp" if protocol == "udp" else "requests_http"
    if service == "lrs":
        yield "requests_lrs"
    if status == "401":
        yield "unauthorized"
    elif status == "429":
        yield "rate_limited"
    elif status.startswith("5"):
        yield "errors_5xx"


_COUNTED: Final[Mapping[str, tuple[str, str | None]]] = {
    "udp_dropped": ("udp_dropped", None),
    "udp_kernel_drops": ("udp_dropped", None),
    "feed_ticks": ("ticks", None),
    "refused_connections": ("connections_refused", None),
    "lookups": ("rest_fallbacks", "rest"),
    "usage_rows": ("usage_rows", "settled"),
}
"""By family: the counter that it adds to, and which last label does alone, if not all."""


def added_up(nodes: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
    """The statistics of several nodes together; what no node tells of is absent."""
    told: dict[str, list[Number]] = {}
    for node in nodes:
        for name, number in node.items():
            told.setdefault(name, []).append(number)
    return {name: _ADDING[STATISTICS[name].adds](told[name]) for name in NAMES if name in told}


def _sum(numbers: list[Number]) -> Number:
    total = sum(numbers)
    return round(total, 1) if isinstance(total, float) else total


_ADDING: Final[Mapping[str, Callable[[list[Number]], Number]]] = {SUM: _sum, MAX: max, MIN: min}


def write(statistics: Mapping[str, Number]) -> dict[str, str]:
    """As decimal texts, for the cache."""
    return {name: f"{number:.1f}" if isinstance(number, float) else str(number) for name, number in statistics.items()}


def read(texts: Mapping[str, bytes]) -> dict[str, Number] | Fault:
    """Read what a node has written; what is not known here is passed over."""
    found: dict[str, Number] = {}
    for name in NAMES:
        text = texts.get(name)
        if text is None:
            continue
        if not _DECIMAL.fullmatch(text):
            return Fault(f"{name} is no number: {text[:40]!r}")
        found[name] = float(text) if b"." in text else int(text)
    return found if found else Fault("nothing is known of what it says")


_DECIMAL: Final = re.compile(rb"[0-9]{1,18}(\.[0-9]{1,6})?")
