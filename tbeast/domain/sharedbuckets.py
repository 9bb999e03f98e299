"""The bucket and the month of each key as the cluster shares them: what Valkey keeps, and by which law.

This is the law as a model in memory; L{tbeast.adapters.cache.leases} writes the same in Lua, and a test holds the two
to the same answers, digit by digit. What the nodes do with the answers stands in L{tbeast.domain.leases}.

B{The bucket} holds C{burst} tokens and gets C{qps} a second back. A node reports what it has admitted, and it is taken
out, below zero if it must be: it has happened. A report that leaves less than one token closes the bucket for the
plan's least wait. Reports are running totals and the bucket remembers the last one of each node, so a report that
comes twice, late, or in several pieces is taken out once.

B{The clock} of the buckets is one for all keys, and it is not the time of day. The nodes move it on: each message says
when, by the server's time, the last answer was given that the node has had. If the latest such answer before was at
most L{SILENCE_SECONDS} earlier, the clock moves on by the time between. If nobody had an answer for longer it stood
still, for then the nodes lived on their own shares, and no second is to be given out twice. So a server that was
stopped and goes through what was sent to it long ago makes no tokens, nor does one whose answers are lost, nor do nodes
whose clocks disagree. After all nodes have said goodbye, the time until the next one comes counts in full.

B{When the data are lost} (restarted empty, flushed) the next node that knew them says so. From then on a bucket that is
not there counts as one that was as empty as it can be when the data began anew; without a loss, as full.

B{The month's count} is what the nodes report, on top of what was counted before the data began: the most that any
node had been told by then, or, if nobody had been told anything, what the first one has from the database. It is never
less than what any node knows, for the database may hear of a question before it is reported here; but that is not
added to, or the report would count it again. Only what is under way while data are lost may count twice.

B{Months} are calendar months in UTC by the server's time; an earlier month never replaces a later one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from attrs import define, field, frozen

from tbeast.domain.admission import month_of
from tbeast.domain.ratelimits import NEARLY

SILENCE_SECONDS: Final = 1.0
"""Without an answer for so long, a node lives on its own share."""

PRESENT_SECONDS: Final = 10.0
"""A node that was heard within so many seconds is one of those that share."""

MOST_REMEMBERED: Final = 64
"""Of how many nodes a bucket remembers the last report; with more, all are forgotten, which only matters to a report
whose answer was lost just then."""


@frozen
class Hello:
    """What a node says first in every message.

    @ivar node: its name.
    @ivar heard_at: when the last answer was given that the node has had, in seconds since the epoch by the server.
    @ivar epoch: the data that it knew last; empty: it is new.
    """

    node: str
    heard_at: float
    epoch: str


class Contact(NamedTuple):
    """What a node hears first.

    @ivar time: seconds since the epoch, by the server.
    @ivar epoch: names the data: another one after they were lost. Empty if nobody has begun any.
    @ivar clock: where the clock of the buckets will stand once it is known that this answer was had, in seconds.
    @ivar nodes: how many share, the one that asks included.
    """

    time: float
    epoch: str
    clock: float
    nodes: int


@frozen
class Report:
    """What a node has admitted of one key. Totals run from the opening of the standing.

    @ivar life: names the process; another one begins other totals.
    @ivar qps: C{None} where the plan has no bucket.
    @ivar quota: C{None} where the month has none.
    @ivar opening: the least that the bucket can hold: the leases of all nodes but one, below zero.
    @ivar spent: how many questions were admitted, and C{settled_spent} how many of them an answer has confirmed.
    @ivar granted: how many tokens the node's own share has paid for, and C{settled_granted} likewise.
    @ivar month: the node's month, C{YYYY-MM}.
    @ivar month_spent: how much of C{spent} lies in that month.
    @ivar known: how many questions all nodes have admitted in that month, as far as the node knows.
    @ivar counted: how many there were by the last answer that the node has had on this key; if it has had none, by
        what it had heard before it admitted any.
    @ivar counted_in: the data that gave that answer; empty if there was none.
    """

    key_id: str
    life: str
    qps: float | None
    burst: int | None
    min_wait_seconds: float
    quota: int | None
    opening: float
    settled_spent: int
    spent: int
    settled_granted: float
    granted: float
    month: str
    month_spent: int
    known: int
    counted: int
    counted_in: str


class Balance(NamedTuple):
    """What a key has after a report.

    @ivar tokens: what the bucket holds; 0 without one.
    @ivar wait_seconds: until it gives a token; 0 if it does now.
    @ivar used: questions admitted in the month on all nodes, as far as they were reported; 0 without a quota.
    @ivar month: which month that is, C{YYYY-MM}.
    """

    tokens: float
    wait_seconds: float
    used: int
    month: str


@define
class _Bucket:
    tokens: float | None = None
    time: float = 0.0
    closed_until: float = 0.0
    month: str = ""
    before: int = 0
    used: int = 0
    known: int = 0
    reports: dict[str, tuple[str, int, float]] = field(factory=dict)


@define
class _Data:
    epoch: str = ""
    clock: float = 0.0
    heard_at: float = 0.0
    lost: bool = False


class SharedBuckets:
    """All of it. C{now} is the server's time, in seconds since the epoch."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._nodes: dict[str, float] = {}
        self._data = _Data()

    def lose_all(self) -> None:
        """Forget everything, as a server does that comes back empty."""
        self._buckets.clear()
        self._nodes.clear()
        self._data = _Data()

    def look(self, node: str, now: float) -> Contact:
        """Answer a node that has no contact yet, or none any more; changes nothing."""
        present = [name for name, seen in self._nodes.items() if seen >= now - PRESENT_SECONDS and name != node]
        return Contact(now, self._data.epoch, self._clock_at(now), len(present) + 1)

    def contact(self, hello: Hello, now: float) -> Contact:
        """Hear a node that has contact, and move the clock on."""
        data = self._data
        heard_at = min(hello.heard_at, now)
        if not data.epoch:
            self._data = data = _Data(f"{now:.6f}", 0.0, heard_at, bool(hello.epoch))
        else:
            if hello.epoch and hello.epoch != data.epoch:
                data.lost = True
            data.clock = self._clock_at(heard_at)
            # the second: the server's time was set back
            if heard_at > data.heard_at or data.heard_at > now + SILENCE_SECONDS:
                data.heard_at = heard_at
        for name in [name for name, seen in self._nodes.items() if seen < now - PRESENT_SECONDS]:
            del self._nodes[name]
        self._nodes[hello.node] = now
        return Contact(now, data.epoch, self._clock_at(now), len(self._nodes))

    def _clock_at(self, heard_at: float) -> float:
        step = heard_at - self._data.heard_at
        if self._data.epoch and step > 0.0 and (step <= SILENCE_SECONDS or not self._nodes):
            return self._data.clock + step
        return self._data.clock

    def leave(self, node: str) -> None:
        """A node says goodbye."""
        self._nodes.pop(node, None)

    def report(self, node: str, report: Report, now: float) -> Balance:
        """Take a report; the node has said hello just before."""
        bucket = self._buckets.get(report.key_id)
        if bucket is None:
            bucket = self._buckets[report.key_id] = _Bucket()
        life, spent_before, granted_before = bucket.reports.get(node, ("", 0, 0.0))
        if life != report.life:
            spent_before, granted_before = report.settled_spent, report.settled_granted
        spent = max(0, report.spent - spent_before)
        granted = max(0.0, report.granted - granted_before)
        tokens, wait = self._take(bucket, report, spent, granted)
        used = 0
        month = month_of(now)
        if report.quota is not None:
            begins = month > bucket.month
            if begins:
                bucket.month, bucket.before, bucket.used, bucket.known = month, 0, 0, 0
            month = bucket.month
            if report.month == month:
                if begins or report.counted_in not in ("", self._data.epoch):
                    bucket.before = max(bucket.before, report.counted)
                bucket.used += min(spent, report.month_spent)
                bucket.known = max(bucket.known, report.known)
            else:
                bucket.used += spent
            used = max(bucket.before + bucket.used, bucket.known)
        if node not in bucket.reports and len(bucket.reports) >= MOST_REMEMBERED:
            bucket.reports.clear()
        bucket.reports[node] = (report.life, report.spent, report.granted)
        return Balance(tokens, wait, used, month)

    def _take(self, bucket: _Bucket, report: Report, spent: int, granted: float) -> tuple[float, float]:
        if report.qps is None or report.burst is None:
            return 0.0, 0.0
        qps, burst, clock = report.qps, float(report.burst), self._data.clock
        tokens = bucket.tokens
        if tokens is None:
            tokens = report.opening + clock * qps if self._data.lost else burst
            bucket.time, bucket.closed_until = clock, 0.0
        elapsed = clock - bucket.time
        if elapsed > 0.0:
            tokens += elapsed * qps
        else:
            bucket.closed_until += elapsed
        tokens = min(burst, min(burst, tokens) - spent + granted)
        # below this only several nodes come that were cut off while others were not; let it not be for long
        tokens = max(tokens, report.opening - burst)
        if spent > 0 and tokens < 1.0 - NEARLY:
            bucket.closed_until = clock + report.min_wait_seconds
        bucket.tokens, bucket.time = tokens, clock
        wait = bucket.closed_until - clock
        if tokens < 1.0 - NEARLY:
            wait = max(wait, (1.0 - tokens) / qps)
        return tokens, max(0.0, wait)
