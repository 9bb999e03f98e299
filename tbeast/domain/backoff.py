"""How long to wait before trying again.

The rule: after the n-th failure in a row the wait is drawn between one half and the whole of C{first * 2**n}, never
more than the cap. The half that is always waited keeps a broken peer from being hammered; the half that is drawn keeps
many clients from coming back in one wave. Who was told that it asks too often waits by a longer measure of its own.
Nothing here ever gives up: only L{Backoff.reset}, after a time of health, makes the waits short again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_SECONDS: Final = 1.0
CAP_SECONDS: Final = 60.0

THROTTLED_FIRST_SECONDS: Final = 60.0
THROTTLED_CAP_SECONDS: Final = 900.0
"""Longer than the longest ban known of an exchange (Kraken's, ten minutes)."""

MOST_DOUBLINGS: Final = 32


def wait_seconds(failures: int, chance: float, first_seconds: float, cap_seconds: float) -> float:
    """Give the wait after C{failures} earlier failures in a row.

    @param chance: a random number in [0, 1).
    @return: seconds, between one half and the whole of the measure for that many failures.
    """
    whole = min(cap_seconds, first_seconds * 2.0 ** min(failures, MOST_DOUBLINGS))
    return whole * (0.5 + 0.5 * chance)


class Backoff:
    """The failures in a row of one thing that is tried again and again.

    @ivar failures: how many there were since the last reset.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self.failures = 0
        self._throttled = 0

    def failed(self) -> float:
        """Count one failure; give the seconds to wait before the next try."""
        self.failures += 1
        return wait_seconds(self.failures - 1, self._chance(), FIRST_SECONDS, CAP_SECONDS)

    def throttled(self, least_seconds: float = 0.0) -> float:
        """Count one failure that was a plea to ask less often; give the seconds to wait, at least as many as said."""
        self.failures += 1
        self._throttled += 1
        wait = wait_seconds(self._throttled - 1, self._chance(), THROTTLED_FIRST_SECONDS, THROTTLED_CAP_SECONDS)
        return max(wait, least_seconds)

    def reset(self) -> None:
        """All has been well for long enough: forget the failures."""
        self.failures = self._throttled = 0
