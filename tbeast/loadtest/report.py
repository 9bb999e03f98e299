"""What a run found, as values: one result for each protocol and level, the notes, and whether the goal was reached.

A level has reached its goal when the share of good answers among all that was asked is at least the goal's, with no
connection missing. Percentiles are of the open loop, and of good answers alone: what failed stands beside them.

The generator says when it was itself the limit. In the closed loop: when it had nearly no time left to wait. In the
open loop: then too, or when it was late by itself for more than a quarter of the latency at the 99th percentile, or
when it sent less than was due.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from attrs import frozen

from tbeast.loadtest.histogram import Histogram
from tbeast.loadtest.tally import Tally

VERSION: Final = 1
BUSY: Final = 0.95
LAG_SHARE: Final = 0.25
LEAST_SENT: Final = 0.98
NAMES: Final = {"tcp": "TCP", "udp": "UDP"}


@frozen
class Latency:
    """Milliseconds.

    @ivar count: of how many answers.
    """

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    greatest: float


@frozen
class Part:
    """One loop of a level.

    @ivar rate_asked: questions a second that were due; C{None} in a closed loop.
    @ivar rate: good answers a second.
    @ivar seconds: how long it was measured.
    @ivar errors: failures by their reason.
    @ivar late: UDP answers that came after their question was given up.
    @ivar reopened: connections that had to be made anew.
    @ivar latency: from the moment when a question was due; in the closed loop from when it was sent.
    @ivar lag: how late the generator saw that a question was due; C{None} in a closed loop.
    @ivar generator_busy: the share of the time in which the generators had something to do.
    @ivar generator_limited: why the generator was the limit; empty if it was not.
    @ivar histogram: the latencies: upper edge of a bucket in microseconds, no wider than 3 per cent, and how many.
    """

    rate_asked: float | None
    rate: float
    seconds: float
    asked: int
    ok: int
    errors: dict[str, int]
    late: int
    reopened: int
    latency: Latency
    lag: Latency | None
    generator_busy: float
    generator_limited: str
    histogram: dict[int, int]


@frozen
class LevelResult:
    """One level.

    @ivar wanted: the askers that were asked for; C{askers} those that the machine had room for.
    @ivar sockets: open when the load began.
    @ivar success: good answers of all that was asked, in per cent, rounded down.
    @ivar connecting: failures while the connections were opened.
    @ivar closed: the closed loop; C{None} if the run ended before, as with C{open}.
    """

    protocol: Literal["tcp", "udp"]
    number: int
    wanted: int
    askers: int
    sockets: int
    success: float
    reached: bool
    connecting: dict[str, int]
    closed: Part | None
    open: Part | None
    interrupted: bool = False


@frozen
class Report:
    """A whole run.

    @ivar tbeast: the version of what asked.
    @ivar began_at: seconds since the epoch.
    @ivar targets: protocol and address, such as C{http://127.0.0.1:8080}.
    @ivar node: who answered; empty if only UDP was asked.
    @ivar simulated: whether its prices are invented.
    @ivar machine: of the generators.
    @ivar seconds: of each loop.
    @ivar load: the open loop's rate as a share of the closed loop's; C{None} if C{rate} was given.
    @ivar goal: the success that each level must reach, in per cent.
    @ivar notes: what else is to be known: levels that were cut, assets left out, an early end.
    @ivar reached: whether every level that the machine had room for was measured, and reached the goal.
    """

    version: int
    tbeast: str
    began_at: float
    took_seconds: float
    targets: dict[str, str]
    node: str
    simulated: bool
    machine: str
    generators: int
    assets: tuple[str, ...]
    seconds: float
    load: float | None
    rate: float | None
    timeouts: dict[str, float]
    goal: float
    levels: tuple[LevelResult, ...]
    notes: tuple[str, ...]
    interrupted: bool
    reached: bool

    def json(self) -> bytes:
        """Write it down."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def read_report(data: bytes) -> Report:
    """Read what was written down.

    @raise msgspec.ValidationError: when it is something else.
    """
    return msgspec.json.decode(data, type=Report)


def latency_of(histogram: Histogram) -> Latency:
    """The figures of a histogram."""
    return Latency(
        count=histogram.total,
        mean=round(histogram.mean_us / 1e3, 4),
        p50=histogram.at(0.5) / 1e3,
        p90=histogram.at(0.9) / 1e3,
        p99=histogram.at(0.99) / 1e3,
        p999=histogram.at(0.999) / 1e3,
        greatest=histogram.greatest / 1e3,
    )


def part_of(tally: Tally, rate_asked: float | None = None) -> Part:
    """What a loop found."""
    return Part(
        rate_asked=None if rate_asked is None else round(rate_asked, 3),
        rate=round(tally.rate, 3),
        seconds=round(tally.elapsed / tally.generators, 3),
        asked=tally.asked,
        ok=tally.ok,
        errors=dict(sorted(tally.errors.items())),
        late=tally.late,
        reopened=tally.reopened,
        latency=latency_of(tally.latency),
        lag=None if rate_asked is None else latency_of(tally.lag),
        generator_busy=round(tally.busy, 4),
        generator_limited=limit_of(tally, rate_asked),
        histogram=tally.latency.coarse(),
    )


def limit_of(tally: Tally, rate_asked: float | None) -> str:
    """Why the generator was the limit, in words; empty if it was not, as far as it can tell."""
    words = []
    if tally.busy >= BUSY:
        words.append(f"the generator was busy {tally.busy * 100:.0f} % of the time")
    if rate_asked is not None and tally.elapsed and not tally.interrupted:
        seconds = tally.elapsed / tally.generators
        due = rate_asked * seconds
        # a Poisson process varies by the root of its mean
        if tally.lag.total < LEAST_SENT * due - 4.0 * due**0.5:
            words.append(f"it saw {tally.lag.total / seconds:,.0f} of {rate_asked:,.0f} questions a second become due")
        lag, latency = tally.lag.at(0.99), tally.latency.at(0.99)
        if latency and lag > LAG_SHARE * latency:
            words.append(f"it was late by {lag / 1e3:.3g} ms itself, of a latency of {latency / 1e3:.3g} ms (p99)")
    return "; ".join(words)


def success_of(tallies: list[Tally]) -> float:
    """Good answers of all that was asked, in per cent; never rounded up, so that 100 means all of them."""
    asked = sum(tally.asked for tally in tallies)
    ok = sum(tally.ok for tally in tallies)
    return ok * 10_000_000 // asked / 100_000 if asked else 0.0
