"""Whether a question may be asked: the key's monthly quota, then its bucket.

A question of a known key is admitted, or refused because the month's quota is used up, because the bucket has no token,
or because it could not be recorded and the operator wants none unrecorded. Only admitted questions count against the
quota, each as one, a batch too, whatever their answer turns out to be. Months are calendar months in UTC. A clock that
goes back into the month before starts no new month.

The three numbers that every answer carries speak of the limit that binds first: the bucket as a rule (its capacity,
the tokens left, the seconds until it is full), and the month (the quota, what is left of it, the seconds until the
next month) once less is left of the month than there are tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from math import ceil
from typing import Final, NamedTuple

from tbeast.domain.keys import Account
from tbeast.domain.ratelimits import NEARLY, TokenBucket

ADMITTED: Final = "admitted"
RATE_LIMITED: Final = "rate_limited"
QUOTA_EXCEEDED: Final = "quota_exceeded"
BAD_KEY: Final = "bad_key"
KEYS_UNAVAILABLE: Final = "keys_unavailable"
UNMETERED: Final = "metering_unavailable"

OUTCOMES: Final = (ADMITTED, RATE_LIMITED, QUOTA_EXCEEDED, BAD_KEY, KEYS_UNAVAILABLE, UNMETERED)
"""Every word that L{Verdict.outcome} can have."""

NO_LIMIT: Final = 2_147_483_647
"""What stands for C{limit} and C{remaining} where a tier has no limit: the greatest 32-bit number, so that no reader
of the header overflows."""


class Verdict(NamedTuple):
    """What the gate says of one question. A NamedTuple because one is made for each.

    @ivar outcome: one of L{OUTCOMES}.
    @ivar account: who asks; C{None} with L{BAD_KEY} and L{KEYS_UNAVAILABLE}.
    @ivar limit: see the module's beginning, as are C{remaining} and C{reset_seconds}.
    @ivar retry_after_seconds: when to come back; 0 unless refused for a limit.
    """

    outcome: str
    account: Account | None
    limit: int
    remaining: int
    reset_seconds: int
    retry_after_seconds: float


_verdict: Final = tuple.__new__
"""Makes a L{Verdict} of a tuple, without the detour that naming its fields takes."""

NOBODY: Final = Verdict(BAD_KEY, None, 0, 0, 0, 0.0)
"""The verdict on a key that nobody has."""

NOT_YET_KNOWN: Final = Verdict(KEYS_UNAVAILABLE, None, 0, 0, 0, 5.0)
"""The verdict on a key that is not known, while not all keys are."""

NOT_RECORDED_RETRY_SECONDS: Final = 5.0


class Standing:
    """How one account stands on this node: its bucket, and what it has used of the month.

    This is the seam for limits that hold across a cluster: whoever makes the standings decides what fills them.

    @ivar account: whose it is.
    @ivar used: questions admitted in the current month: here, or if that is more, on all nodes as far as we have heard.
    """

    __slots__ = ("_bucket", "_free", "_month", "_month_ends_at", "_quota", "account", "used")

    def __init__(self, account: Account, now: float) -> None:
        plan = account.plan
        self.account = account
        self.used = 0
        self._quota = plan.monthly_quota
        self._bucket = (
            TokenBucket(plan.qps, plan.burst, plan.min_wait_seconds, now)
            if plan.qps is not None and plan.burst is not None
            else None
        )
        self._month = month_of(now)
        self._month_ends_at = month_end(now)
        self._free = (
            Verdict(ADMITTED, account, NO_LIMIT, NO_LIMIT, 0, 0.0)
            if self._bucket is None and self._quota is None
            else None
        )

    def admit(self, now: float) -> Verdict:
        """Decide on one question."""
        if now >= self._month_ends_at:
            self._month = month_of(now)
            self._month_ends_at = month_end(now)
            self.used = 0
        if self._free is not None:
            self.used += 1
            return self._free
        quota, used, bucket = self._quota, self.used, self._bucket
        if quota is not None and used >= quota:
            wait = self._month_ends_at - now
            return Verdict(QUOTA_EXCEEDED, self.account, quota, 0, ceil(wait), wait)
        if bucket is None:
            limit = tokens = NO_LIMIT
            reset = 0
        else:
            wait = bucket.take(now)
            limit = bucket.burst
            if wait > 0.0:
                return Verdict(RATE_LIMITED, self.account, limit, 0, bucket.seconds_to_full, wait)
            # as bucket.remaining and bucket.seconds_to_full, at half the price
            held = bucket.tokens
            tokens = int(held + NEARLY)
            reset = -int((held - limit) / bucket.qps // 1.0)
        self.used = used = used + 1
        if quota is not None and quota - used < tokens:
            limit, tokens, reset = quota, quota - used, ceil(self._month_ends_at - now)
        return _verdict(Verdict, (ADMITTED, self.account, limit, tokens, reset, 0.0))

    def heard_usage(self, month: str, used: int) -> None:
        """All nodes together have admitted at least C{used} questions in C{month} (C{YYYY-MM})."""
        if month == self._month and used > self.used:
            self.used = used

    def moved_to(self, account: Account, now: float) -> Standing:
        """The standing of the same key under another tier: what was used of the month stays used."""
        standing = Standing(account, now)
        if now < self._month_ends_at:
            standing.used = self.used
            standing._month = self._month
            standing._month_ends_at = self._month_ends_at
        return standing


OpenStanding = Callable[[Account, float], Standing]
"""Makes the standing of an account that asks for the first time, at the time given."""


def month_of(now: float) -> str:
    """The calendar month (UTC) that C{now} lies in, as C{YYYY-MM}."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m")


def month_end(now: float) -> float:
    """When the calendar month (UTC) that C{now} lies in is over, in seconds since the epoch."""
    moment = datetime.fromtimestamp(now, UTC)
    year, month = (moment.year, moment.month + 1) if moment.month < 12 else (moment.year + 1, 1)
    return datetime(year, month, 1, tzinfo=UTC).timestamp()
