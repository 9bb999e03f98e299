"""Limits that hold across nodes: what a node may admit on its own, and what it tells the others.

Each key has one bucket that all nodes share (L{tbeast.domain.sharedbuckets}). Nobody asks it before admitting a
question. A node has a B{lease} on it instead: the right to admit L = C{burst} / N questions, at least one, before it
has to have told; N is the number of nodes. What was admitted is reported every 50 ms, and at once when the lease runs
dry while the bucket should have more. The answer says what the bucket holds, and with that the lease is renewed: up to
L, never more than the bucket holds, and not at all while it is closed. Until the next answer it grows by C{qps} / N a
second, as the bucket does by C{qps}. A lease takes nothing out of the bucket, only what was spent does. So a lease is
returned by telling what was spent of it, which is done at the stop; and of a node that dies at most L is never told.

A node that opens a key, for the first time or under another plan, begins with L.

B{Silence.} When no answer has come for a second the node lives on its share: its lease fills by itself with C{qps} / N
tokens a second, never above L. When there is contact again, as much of that is its own as the clock of the buckets
stood still meanwhile, for so long nobody else got it. The rest is owed like everything else that was spent, but never
more than one C{burst}.

B{The promise.} In any span of t seconds all nodes together admit at most C{burst + qps * t + N * L} questions of a key,
and L more for each node that died in it: with Valkey there, slow, gone, back and restarted empty, and with clocks that
disagree. For, let the free sum be what the bucket holds, less all that may still be taken out of it: what was spent and
not told, and the leases. A lease is renewed to no more than the bucket holds, so the free sum never goes below the
leases of all other nodes, C{-(N - 1) * L}; while they grow, the bucket grows as much. Each second's tokens are given
out once, by the bucket or by the shares, and those of a silence's first second not at all. And after a loss the bucket
begins at C{-(N - 1) * L}, the least that it can have held.

This asks that nodes which lost contact together find it again within about a second of each other. A node that is cut
off alone adds its share, C{qps} / N, for as long as that lasts, and owes it afterwards.

B{The other side of it.} On one node alone a key gets all that its plan allows; only what comes all at once comes in
portions of L, an exchange apart. With N = 1 that is the single bucket itself, but for the time that a report takes, in
which a full bucket gets nothing back.

B{The month.} What all nodes have used comes with each answer, and from the database (L{LeasedStanding.heard_usage}). A
key whose quota is used up is refused, so all nodes together admit at most the quota and one L a node. During a silence
each node may use an Nth of what was left. A plan with a quota and no bucket has a lease of a hundredth of the quota,
which all nodes share.

Plans without limits ask nothing and tell nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf
from typing import Final

from tbeast.domain.admission import (
    ADMITTED,
    NO_LIMIT,
    QUOTA_EXCEEDED,
    RATE_LIMITED,
    Standing,
    Verdict,
    month_end,
    month_of,
)
from tbeast.domain.keys import Account
from tbeast.domain.ratelimits import MICROSECOND, NEARLY
from tbeast.domain.sharedbuckets import SILENCE_SECONDS, Balance, Contact, Hello, Report

EXCHANGE_SECONDS: Final = 0.05
"""From one exchange to the next."""

SHARE_RETRY_SECONDS: Final = 5.0
"""When to come back if a share of the month is used up during a silence."""

QUOTA_PORTIONS: Final = 100
MOST_OF_A_QUOTA: Final = 1_000
"""How much of a month a lease may be, where there is no bucket: so many portions of it, and no larger than this."""

_WHOLE: Final = 1.0 - NEARLY
_NO_ROOM_NEEDED: Final = 1 << 62

_verdict: Final = tuple.__new__  # spares the naming of the fields, as in the module admission


class Line:
    """A node's line to the shared buckets: what all of its standings have in common.

    @ivar node: the node's name.
    @ivar life: names this process among those that bore the name.
    @ivar epoch: names the data that the last answer came from; empty if there was none.
    @ivar nodes: how many share; as it was last known, or set, whichever is more.
    @ivar until: when the silence begins, if no answer comes before; in seconds since the epoch by our own time.
    @ivar silent_from: when the last silence began.
    @ivar wanted: the standings that have something to tell or to ask. Each is in it at most once.
    @ivar hurried: whether an exchange is on its way already; see L{hurry}.
    @ivar hurry: called when a lease has run dry although the bucket should have more.
    """

    __slots__ = (
        "_clock", "_heard_at", "_least_nodes", "_server_time", "epoch", "hurried", "hurry", "life", "node", "nodes",
        "silent_from", "until", "wanted",
    )  # fmt: skip

    def __init__(self, node: str, life: str, nodes: int, now: float) -> None:
        """Set it up, without contact.

        @param nodes: how many share at least.
        """
        self.node = node
        self.life = life
        self.nodes = self._least_nodes = nodes
        self.until = self.silent_from = now
        self.wanted: list[LeasedStanding] = []
        self.hurried = False
        self.hurry: Callable[[], object] = lambda: None
        self.epoch = ""
        self._clock = 0.0
        self._heard_at = now
        self._server_time = 0.0

    def lease(self, burst: int) -> float:
        """How much a node may admit before it has to have told."""
        return max(1.0, burst / self.nodes)

    def hello(self) -> Hello:
        """What to say first."""
        return Hello(self.node, self._server_time, self.epoch)

    def heard(self, contact: Contact, now: float) -> None:
        """There was an answer to a hello."""
        self.epoch, self._clock = contact.epoch, contact.clock
        self._note(contact, now)

    def regained(self, contact: Contact, now: float) -> float:
        """There was an answer to a look, and with it contact.

        @return: for how many seconds of the time without contact the clock of the buckets stood still.
        """
        known = contact.epoch == self.epoch
        advanced = contact.clock - self._clock if known else contact.clock
        quiet = now - self._heard_at
        if self.epoch:  # our own clock may have been set meanwhile, or the server's
            quiet = min(quiet, contact.time - self._server_time)
        if known:
            self._clock = contact.clock
        self.silent_from = self.until
        self._note(contact, now)
        return max(0.0, min(quiet, quiet - advanced))

    def _note(self, contact: Contact, now: float) -> None:
        self._server_time, self._heard_at = contact.time, now
        self.nodes = max(self._least_nodes, contact.nodes)
        self.until = now + SILENCE_SECONDS


class LeasedStanding(Standing):
    """How one account stands on this node, where its limits hold across nodes.

    Besides what every standing has, it has what the owner of the L{Line} asks of it: in each exchange L{report} of
    those that need it, then L{take} with the answer; and L{settle} for all when contact is back.

    @ivar is_gone: whether another standing has taken its place.
    """

    __slots__ = (
        "_alone", "_ask_at", "_burst", "_closed_until", "_counted", "_counted_in", "_filled_at", "_granted",
        "_grown_at", "_line", "_listed", "_min_wait", "_next_at", "_qps", "_refilled", "_room", "_sent_granted",
        "_sent_spent", "_settled_granted", "_settled_spent", "_shared", "_shared_at", "_spent", "_spent_before_month",
        "_tokens", "_withheld", "is_gone",
    )  # fmt: skip

    def __init__(self, account: Account, now: float, line: Line) -> None:
        plan = account.plan
        self.account = account
        self.used = 0
        self.is_gone = False
        self._bucket = None  # the one of a single node, which has no part in this
        self._line = line
        self._quota = plan.monthly_quota
        limited = plan.qps is not None and plan.burst is not None
        self._qps: float | None = plan.qps if limited else None
        self._burst: int | None = plan.burst if limited else None
        self._min_wait = plan.min_wait_seconds
        self._free = (
            Verdict(ADMITTED, account, NO_LIMIT, NO_LIMIT, 0, 0.0)
            if self._burst is None and self._quota is None
            else None
        )
        self._month = month_of(now)
        self._month_ends_at = month_end(now)
        self._counted, self._counted_in = 0, ""  # of the month by all nodes, and which data say so
        self._tokens = inf if self._burst is None else line.lease(self._burst)  # of the lease
        self._room = self._month_lease()  # how many questions of the month until the next answer
        self._shared = 0.0 if self._burst is None else float(self._burst)  # the bucket, at _shared_at
        self._withheld = 0.0  # of the lease, until _next_at
        self._shared_at = self._next_at = self._filled_at = self._grown_at = now
        self._closed_until = 0.0  # of the lease, in a silence
        self._alone = False  # whether the share of this silence was reckoned
        self._listed = False
        self._ask_at = inf
        self._spent = self._sent_spent = self._settled_spent = self._spent_before_month = 0
        self._granted = self._sent_granted = self._settled_granted = 0.0
        self._refilled = 0.0  # what the silence has brought, not yet settled

    def admit(self, now: float) -> Verdict:
        """Decide on one question."""
        if now >= self._month_ends_at:
            self._turn_month(now)
        if self._free is not None:
            self.used += 1
            return self._free
        line = self._line
        if now > line.until:
            return self._admit_alone(now, line)
        quota, used = self._quota, self.used
        if quota is not None and (used >= quota or self._room <= 0):
            return self._none_of_month(now, line, quota)
        tokens = self._tokens - 1.0
        if tokens < -NEARLY:
            tokens = self._grow(now, line) - 1.0
            if tokens < -NEARLY:
                return self._no_token(now, line)
        self._tokens = tokens
        self.used = used = used + 1
        self._spent += 1
        if not self._listed:
            self._want(now, line)
        burst, qps = self._burst, self._qps
        if burst is None or qps is None:
            limit = left = NO_LIMIT
            reset = 0
        else:
            limit = burst
            self._shared = shared = self._shared - 1.0
            held = shared + (now - self._shared_at) * qps
            if held > burst - 1.0:
                held = burst - 1.0
            left = int(held + NEARLY) if held > 0.0 else 0
            reset = -int((held - burst) / qps // 1.0)
            if tokens < _WHOLE <= held and not line.hurried:
                line.hurry()
        if quota is not None:
            self._room = room = self._room - 1
            if not room and not line.hurried:
                line.hurry()
            if quota - used < left:
                limit, left, reset = quota, quota - used, ceil(self._month_ends_at - now)
        return _verdict(Verdict, (ADMITTED, self.account, limit, left, reset, 0.0))

    def heard_usage(self, month: str, used: int) -> None:
        """All nodes together have admitted at least C{used} questions in C{month} (C{YYYY-MM})."""
        if month == self._month and used > self.used:
            self.used = used
            if not self._counted_in and not self._spent:
                self._counted = used
            if self._alone and self._quota is not None:
                self._room = self._month_share(self._quota)

    def moved_to(self, account: Account, now: float) -> LeasedStanding:
        """The standing of the same key under another plan: what was used of the month stays used, and what was not told
        yet will be.
        """
        standing = LeasedStanding(account, now, self._line)
        self.is_gone = True
        standing._spent_before_month = self._spent
        if now < self._month_ends_at:
            standing.used = self.used
            standing._month = self._month
            standing._month_ends_at = self._month_ends_at
            standing._spent_before_month = self._spent_before_month
            standing._counted, standing._counted_in = self._counted, self._counted_in
            if self._quota is None:  # nobody has counted for us
                standing._counted, standing._counted_in = self.used - (self._spent - self._settled_spent), ""
        standing._spent, standing._settled_spent = self._spent, self._settled_spent
        standing._granted, standing._settled_granted = self._granted, self._settled_granted
        standing._refilled = self._refilled
        if standing._free is None:
            standing._tokens = max(0.0, standing._tokens - max(0.0, self._owed() - self._refilled))
            standing._room -= self._spent - self._settled_spent
            standing._want(now, self._line)
        return standing

    # For the owner of the line.

    def needs(self, now: float) -> bool:
        """Whether it has something to tell, or to ask by now."""
        return self.has_to_tell or now >= self._ask_at

    @property
    def has_to_tell(self) -> bool:
        """Whether anything was spent, or came from the share, that no answer has confirmed."""
        return self._spent != self._settled_spent or self._granted != self._settled_granted

    def report(self) -> Report:
        """What it has to tell."""
        line = self._line
        self._sent_spent, self._sent_granted = self._spent, self._granted
        burst = self._burst
        opening = 0.0 if burst is None else (1 - line.nodes) * line.lease(burst)
        return Report(
            self.account.key_id, line.life, self._qps, burst, self._min_wait, self._quota, opening,
            self._settled_spent, self._spent, self._settled_granted, self._granted,
            self._month, self._spent - self._spent_before_month, self.used, self._counted, self._counted_in,
        )  # fmt: skip

    def take(self, balance: Balance, now: float) -> bool:
        """Take the answer to the last report, and the new lease with it.

        @return: whether it has anything more to ask or to tell; if not, it has left the list of the wanted.
        """
        tokens, wait, used, month = balance
        self._settled_spent, self._settled_granted = self._sent_spent, self._sent_granted
        since = self._spent - self._sent_spent
        self._alone = False
        self._ask_at = inf
        if self._burst is not None and self._qps is not None:
            lease = self._line.lease(self._burst)
            # what the bucket is in debt the shares of all nodes pay back
            renewed = min(lease, tokens) if tokens > 0.0 else tokens / self._line.nodes
            self._tokens, self._withheld = (0.0, renewed - since) if wait > 0.0 else (renewed - since, 0.0)
            self._grown_at = self._shared_at = now
            self._shared = tokens - since
            self._next_at = now + wait
            missing = lease - renewed
            if missing > NEARLY:
                if self._line.nodes > 1:
                    # ahead of need: with the next token, then with half of what is missing; a small rest at once
                    if wait > 0.0:
                        missing = wait * self._qps
                    elif missing > lease / 8.0:
                        missing /= 2.0
                # else it grows as fast as the bucket does, so ask when it is whole
                self._ask_at = now + max(EXCHANGE_SECONDS, missing / self._qps)
        if self._quota is not None:
            self._room = self._month_lease() - since
            if month == self._month:
                self._counted, self._counted_in = used, self._line.epoch
                if used + since > self.used:
                    self.used = used + since
        self._listed = bool(since) or self._ask_at != inf or self._granted != self._settled_granted
        return self._listed

    def settle(self, stood_still_seconds: float, now: float) -> None:
        """Contact is back, before anything is told: what of the silence's tokens is our own?

        @param stood_still_seconds: for how long nobody else got them.
        """
        if self._burst is None or self._qps is None:
            return
        self._fill(now, self._line.silent_from)
        own = self._qps / self._line.nodes * stood_still_seconds
        self._granted += min(self._refilled, own)
        self._refilled = 0.0
        self._grown_at = now
        self._granted += max(0.0, self._owed() - self._burst)

    # Its own affairs.

    def _owed(self) -> float:
        """What the next report will take out of the bucket."""
        return (self._spent - self._settled_spent) - (self._granted - self._settled_granted)

    def _want(self, now: float, line: Line) -> None:
        """Something is to be told or asked."""
        if self._burst is not None:
            # the lease may have been given when fewer nodes shared
            self._tokens = min(self._tokens, line.lease(self._burst))
        self._listed = True
        self._ask_at = now
        line.wanted.append(self)

    def _turn_month(self, now: float) -> None:
        self._month = month_of(now)
        self._month_ends_at = month_end(now)
        self.used = self._counted = 0
        self._spent_before_month = self._spent
        self._room = self._month_lease()
        self._alone = False

    def _month_lease(self) -> int:
        if self._quota is None or self._burst is not None:
            return _NO_ROOM_NEEDED
        return max(1, min(MOST_OF_A_QUOTA, self._quota // (QUOTA_PORTIONS * self._line.nodes)))

    def _month_share(self, quota: int) -> int:
        return max(0, quota - self.used) // self._line.nodes

    def _grow(self, now: float, line: Line) -> float:
        """Let the lease grow by the share, which the bucket gets meanwhile, and give what it is then."""
        burst, qps = self._burst, self._qps
        if burst is None or qps is None or now < self._next_at - MICROSECOND:
            return self._tokens
        self._tokens += self._withheld
        self._withheld = 0.0
        most = line.lease(burst) - (self._spent - self._settled_spent)
        grown = min(most, self._tokens + (now - self._grown_at) * qps / line.nodes)
        self._grown_at = now
        if grown > self._tokens:
            self._tokens = grown
        return self._tokens

    def _fill(self, now: float, silent_from: float) -> None:
        """Let the share of a silence come in."""
        burst, qps, line = self._burst, self._qps, self._line
        if burst is None or qps is None:
            return
        if self._grown_at < silent_from:
            self._grow(silent_from, line)
        self._tokens += self._withheld
        self._withheld = 0.0
        elapsed = now - max(self._filled_at, silent_from)
        if elapsed > 0.0:
            self._filled_at = now
            gain = min(line.lease(burst) - self._tokens, elapsed * qps / line.nodes)
            if gain > 0.0:
                self._tokens += gain
                self._refilled += gain

    def _admit_alone(self, now: float, line: Line) -> Verdict:
        """Decide on one question in a silence."""
        if not self._alone:
            self._alone = True
            if self._quota is not None:
                self._room = self._month_share(self._quota)
            if not self._listed:
                self._want(now, line)
        self._fill(now, line.until)
        quota, burst, qps = self._quota, self._burst, self._qps
        if quota is not None and (self.used >= quota or self._room <= 0):
            return self._none_of_month(now, line, quota)
        limit, left, reset = NO_LIMIT, NO_LIMIT, 0
        if burst is not None and qps is not None:
            share = qps / line.nodes
            wait = max((1.0 - self._tokens) / share if self._tokens < _WHOLE else 0.0, self._closed_until - now)
            if wait > 0.0:
                return Verdict(RATE_LIMITED, self.account, burst, 0, _seconds((burst - self._tokens) / qps), wait)
            self._tokens -= 1.0
            if self._tokens < _WHOLE:
                self._closed_until = now + self._min_wait
            self._shared, self._shared_at = self._tokens, now
            limit, left, reset = burst, int(self._tokens + NEARLY), _seconds((burst - self._tokens) / qps)
        self.used += 1
        self._spent += 1
        self._room -= 1
        if quota is not None and quota - self.used < left:
            limit, left, reset = quota, quota - self.used, ceil(self._month_ends_at - now)
        return Verdict(ADMITTED, self.account, limit, left, reset, 0.0)

    def _none_of_month(self, now: float, line: Line, quota: int) -> Verdict:
        wait = self._month_ends_at - now
        if self.used >= quota:
            return Verdict(QUOTA_EXCEEDED, self.account, quota, 0, ceil(wait), wait)
        # there is more of the month, only not for us before we have told
        if not self._listed:
            self._want(now, line)
        if now > line.until:
            retry = min(wait, SHARE_RETRY_SECONDS)
        else:
            retry = EXCHANGE_SECONDS
            if not line.hurried:
                line.hurry()
        return Verdict(RATE_LIMITED, self.account, quota, quota - self.used, ceil(wait), retry)

    def _no_token(self, now: float, line: Line) -> Verdict:
        burst, qps = self._burst, self._qps
        assert burst is not None and qps is not None  # without a bucket there are tokens without end
        held = min(float(burst), self._shared + (now - self._shared_at) * qps)
        untold = self._spent - self._settled_spent
        wait = max(0.0, self._next_at - now)
        if held < _WHOLE:
            wait = max(wait, (1.0 - held) / qps, self._min_wait if untold else 0.0)
        elif untold and not line.hurried:
            line.hurry()
        if untold and wait:
            wait += 2.0 * EXCHANGE_SECONDS  # the bucket closes when it is told
        retry = wait + (2.0 if wait else 1.0) * EXCHANGE_SECONDS  # by then the next exchange has renewed the lease
        if line.lease(burst) - untold >= 1.0:
            missing = 1.0 - self._tokens - self._withheld - max(0.0, now - self._grown_at) * qps / line.nodes
            retry = min(retry, max(wait, missing * line.nodes / qps) + MICROSECOND)
        return Verdict(RATE_LIMITED, self.account, burst, 0, _seconds((burst - max(held, 0.0)) / qps), retry)


def _seconds(exact: float) -> int:
    return max(0, ceil(exact))
