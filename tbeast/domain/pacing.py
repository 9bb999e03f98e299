"""Keeping to a rate: never more than so many in any stretch of so many seconds.

The moments of the last ones are remembered, so the limit holds in every window, wherever it begins, and not only on
average: a token bucket would let twice as many through in the worst one.
"""

from __future__ import annotations

from collections import deque


class Pace:
    """At most C{count} in any C{seconds}.

    @ivar count: how many.
    @ivar seconds: in how long.
    """

    def __init__(self, count: int, seconds: float) -> None:
        if count < 1 or not seconds >= 0.0:
            raise ValueError(f"{count} in {seconds} s is no rate")
        self.count = count
        self.seconds = seconds
        self._taken: deque[float] = deque(maxlen=count)

    def wait_seconds(self, now: float) -> float:
        """Give the seconds until the next one may be taken; 0 for at once."""
        if len(self._taken) < self.count:
            return 0.0
        return max(0.0, self._taken[0] + self.seconds - now)

    def took(self, now: float) -> None:
        """One has been taken."""
        self._taken.append(now)
