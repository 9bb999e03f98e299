"""What came of a part of a run, as numbers that add up over generators.

C{asked == ok + the sum of errors}, always: whatever was asked has exactly one outcome, and an answer that came too late
to be one is counted beside, never again. A connection that could not be made counts as a question that failed, since
somebody wanted to ask one.
"""

from __future__ import annotations

from attrs import define, field

from tbeast.loadtest.histogram import Histogram


@define
class Tally:
    """Counts of one part of a run.

    @ivar asked: questions that were due, and connections that failed.
    @ivar ok: prices that came, of the asset that was asked for.
    @ivar in_time: those of them that came in the measured time, and so make the rate.
    @ivar errors: what failed, by the reason.
    @ivar latency: of what is C{ok}; in an open loop from the moment when the question was due.
    @ivar lag: how late the generator was to see that a question was due; of open loops only.
    @ivar late: UDP answers that came after their question was given up, or twice.
    @ivar unasked: bytes or datagrams that answer nothing.
    @ivar reopened: connections made anew, because the server had ended the one before.
    @ivar connections: open at the end.
    @ivar elapsed: seconds that were measured, of all generators together.
    @ivar waited: seconds of these in which the generator had nothing to do.
    @ivar generators: how many took part.
    @ivar interrupted: whether it was ended before its time.
    """

    asked: int = 0
    ok: int = 0
    in_time: int = 0
    errors: dict[str, int] = field(factory=dict)
    latency: Histogram = field(factory=Histogram)
    lag: Histogram = field(factory=Histogram)
    late: int = 0
    unasked: int = 0
    reopened: int = 0
    connections: int = 0
    elapsed: float = 0.0
    waited: float = 0.0
    generators: int = 1
    interrupted: bool = False

    def fail(self, reason: str, count: int = 1) -> None:
        """Count failures."""
        self.errors[reason] = self.errors.get(reason, 0) + count

    @property
    def failed(self) -> int:
        """All errors together."""
        return sum(self.errors.values())

    @property
    def rate(self) -> float:
        """Prices a second."""
        return self.in_time * self.generators / self.elapsed if self.elapsed else 0.0

    @property
    def busy(self) -> float:
        """The share of the time in which the generators had something to do, from 0 to 1."""
        return 1.0 - min(1.0, self.waited / self.elapsed) if self.elapsed else 0.0


def together(tallies: list[Tally]) -> Tally:
    """Add up the tallies of the generators that worked side by side."""
    total = Tally(generators=len(tallies))
    for tally in tallies:
        for name in ("asked", "ok", "in_time", "late", "unasked", "reopened", "connections", "elapsed", "waited"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
        for reason, count in tally.errors.items():
            total.fail(reason, count)
        total.latency.merge(tally.latency)
        total.lag.merge(tally.lag)
        total.interrupted = total.interrupted or tally.interrupted
    return total
