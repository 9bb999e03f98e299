"""A clock that tells the time of day and yet never goes back.

Two readings come in: the machine's uptime, suspended time included, which runs evenly and says nothing of the date,
and the wall clock, which knows the date and may be set at any moment. The rules:

 - Time passes as the uptime does, faster or slower by at most L{GREATEST_SLEW}, whichever brings it to the wall clock.
 - A wall clock that stands ahead by more than L{APART_SECONDS} for L{PATIENCE_SECONDS} without a break has been set
   right: the clock steps forward to it. Whatever is measured across that step looks older than it is, which
   withholds a price for a moment, but passes none off as new.
 - A wall clock that stands behind is only approached by slewing: what was heard already must not come to lie in the
   future.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

GREATEST_SLEW: Final = 500e-6
"""Seconds gained or lost a second; what NTP allows itself."""

APART_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 30.0

ADJUST_EVERY_SECONDS: Final = 1.0
"""How often L{SteadyClock.adjust} wants to be called. A slew ends after this long, whoever forgets to."""

LEFT: Final = "left"  # the two clocks have come apart
STEPPED: Final = "stepped"  # ours has stepped forward onto the wall clock
RETURNED: Final = "returned"  # they agree again


@frozen
class Parting:
    """A change worth a line in the log.

    @ivar what: L{LEFT}, L{STEPPED} or L{RETURNED}.
    @ivar ahead_seconds: how far the wall clock stands, or in the case of a step stood, ahead of ours.
    """

    what: str
    ahead_seconds: float


class SteadyClock:
    """The clock.

    @param uptime: the machine's uptime now, in seconds.
    @param wall: seconds since the epoch now, from where the clock starts.
    """

    def __init__(self, uptime: float, wall: float) -> None:
        self._uptime = uptime
        self._time = wall
        self._slew = 0.0
        self._ahead_since: float | None = None
        self._apart = False

    def read(self, uptime: float) -> float:
        """The time, in seconds since the epoch, when the uptime is C{uptime}; never less than it was before."""
        elapsed = uptime - self._uptime
        slewed = elapsed if elapsed < ADJUST_EVERY_SECONDS else ADJUST_EVERY_SECONDS
        return self._time + (elapsed + slewed * self._slew)

    def adjust(self, uptime: float, wall: float) -> Parting | None:
        """Compare with the wall clock, and choose the slew for the next while.

        @return: what has changed, if the log should hear of it.
        """
        self._time = self.read(uptime)
        self._uptime = uptime
        ahead = wall - self._time
        if ahead <= APART_SECONDS:
            self._ahead_since = None
        elif self._ahead_since is None:
            self._ahead_since = uptime
        elif uptime - self._ahead_since >= PATIENCE_SECONDS:
            self._time, self._slew = wall, 0.0
            self._ahead_since, self._apart = None, False
            return Parting(STEPPED, ahead)
        self._slew = max(-GREATEST_SLEW, min(GREATEST_SLEW, ahead / ADJUST_EVERY_SECONDS))
        # half the distance for the way back, so that the log does not flutter
        if not self._apart and abs(ahead) > APART_SECONDS:
            self._apart = True
            return Parting(LEFT, ahead)
        if self._apart and abs(ahead) <= APART_SECONDS / 2:
            self._apart = False
            return Parting(RETURNED, ahead)
        return None
