"""The token bucket of one key.

A full bucket holds C{burst} tokens and gets C{qps} tokens a second back, never above full. A question takes one
token; where there is no whole token it is refused and takes nothing, so refusals cost nothing and put nothing off.
A question that empties the bucket (leaves less than one token) also closes it for C{min_wait_seconds}: until then
nothing is admitted, even if a token has come back meanwhile. Hence in any span of t seconds at most
C{burst + qps * t} questions are admitted, and whoever comes back after the time that a refusal names is admitted if
nobody asked with the same key in between.

A clock that goes back takes nothing away and gives nothing: the bucket goes on from the earlier time with what it held.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Final

NEARLY: Final = 1e-4
"""How much may be missing from a whole token. Seconds since the epoch, as floats, are no finer than a quarter of a
microsecond, and whoever asks at the exact rate must find its token. What was missing stays missing, so it is lent once
and not given."""

MICROSECOND: Final = 1e-6
_WHOLE: Final = 1.0 - NEARLY


class TokenBucket:
    """How much one key may ask just now.

    @ivar tokens: what it holds, as of the last time of asking.
    """

    __slots__ = ("_closed_until", "_read_at", "burst", "min_wait_seconds", "qps", "tokens")

    def __init__(self, qps: float, burst: int, min_wait_seconds: float, now: float) -> None:
        self.qps = qps
        self.burst = burst
        self.min_wait_seconds = min_wait_seconds
        self.tokens = float(burst)
        self._read_at = now
        self._closed_until = now

    def take(self, now: float) -> float:
        """Take one token.

        @return: 0 if it was there; else how many seconds from now to come back.
        """
        elapsed = now - self._read_at
        tokens = self.tokens
        if elapsed > 0.0:
            tokens += elapsed * self.qps
            if tokens > self.burst:
                tokens = float(self.burst)
        elif elapsed < 0.0:
            self._closed_until += elapsed
        self._read_at = now
        if tokens < _WHOLE or now < self._closed_until - MICROSECOND:
            self.tokens = tokens
            return max((1.0 - tokens) / self.qps, self._closed_until - now) + MICROSECOND
        self.tokens = tokens = tokens - 1.0
        if tokens < _WHOLE:
            self._closed_until = now + self.min_wait_seconds
        return 0.0

    @property
    def remaining(self) -> int:
        """How many questions it would still admit at once."""
        return max(0, floor(self.tokens + NEARLY))

    @property
    def seconds_to_full(self) -> int:
        """In how many whole seconds it is full again, if nobody asks."""
        return ceil((self.burst - self.tokens) / self.qps)
