"""A clock that follows another process's: what workers tell the time by.

A worker must not have a time of its own: were the wall clock set back before it started, prices that are stale by the
hub's clock would be fresh by the worker's. So it asks the hub, again and again, and has between the answers an even
uptime of its own. An answer was given at some moment between the question and its arrival; so the hub's clock stands
ahead of our uptime by no less than what it said less the moment of arrival, and by no more than what it said less the
moment of asking. What was believed before is moved into these bounds and no farther: a slow answer, whose bounds are
wide, changes nothing, and quick ones hold the error below the time that they took.

The time never goes back, as the hub's own does not: L{tbeast.domain.steadyclock}.
"""

from __future__ import annotations

from math import inf


class FollowedClock:
    """The clock; it tells nothing before it has heard for the first time."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._is_set = False
        self._last = -inf

    @property
    def is_set(self) -> bool:
        """Whether it has heard."""
        return self._is_set

    def heard(self, asked_at: float, said: float, heard_at: float) -> None:
        """There was an answer.

        @param asked_at: when the question went out, by our uptime in seconds.
        @param said: what the other's clock showed, in seconds since the epoch.
        @param heard_at: when the answer came, by our uptime in seconds.
        """
        least, most = said - heard_at, said - asked_at
        if not self._is_set:
            self._is_set = True
            self._ahead = (least + most) / 2.0
        else:
            self._ahead = min(max(self._ahead, least), most)

    def read(self, uptime: float) -> float:
        """The time in seconds since the epoch, when our uptime is C{uptime}; never less than it was before."""
        now = uptime + self._ahead
        if now > self._last:
            self._last = now
        return self._last
