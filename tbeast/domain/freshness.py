"""How old is too old: two ages, and a rhythm that each symbol teaches us.

A connection has an age of its own, any frame or heartbeat resets it, and the exchange's codec judges it; here it is
only known whether a live connection carries a symbol. A symbol's age runs from its last tick. A quiet symbol on a
live connection is still fresh, until L{Limits.max_age_seconds}: then it is stale whatever else is true.

Long before that it may be I{late}: quieter than its own rhythm explains. The rhythm is the running mean of the gaps
between its ticks plus four mean deviations (the estimator of TCP's retransmission timer, RFC 6298, on gaps instead of
round trips), held between L{LATE_FLOOR_SECONDS} and L{LATE_CEILING_SECONDS}. Lateness condemns no price; it is what
makes REST be asked, so it comes at the latest at three quarters of the age that may be given out. A symbol is late as
well while its connection's messages come more than L{LATE_FLOOR_SECONDS} late (L{Delay}).

When a connection is lost its values keep their vote for L{GRACE_SECONDS}, so that a reconnect does not show, and then
lose it to any source that still lives. What REST says in the meantime votes for L{REST_GRACE_SECONDS}, time for three
more answers: where they do not come, the exchange is not there.
"""

from __future__ import annotations

from math import inf
from typing import Final

from attrs import frozen

LATE_FLOOR_SECONDS: Final = 5.0
LATE_CEILING_SECONDS: Final = 120.0
UNLEARNED_LATE_SECONDS: Final = 30.0
"""When a symbol with fewer than L{GAPS_TO_LEARN} gaps is late."""
GAPS_TO_LEARN: Final = 4
GRACE_SECONDS: Final = 5.0
REST_GRACE_SECONDS: Final = 15.0
DEFAULT_MAX_AGE_SECONDS: Final = 60.0

_MEAN_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4


@frozen
class Limits:
    """What the operator sets.

    @ivar max_age_seconds: a price older than this is never given out as a current one.
    """

    max_age_seconds: float = DEFAULT_MAX_AGE_SECONDS

    @property
    def late_ceiling_seconds(self) -> float:
        """No symbol is given longer than this before REST is asked."""
        return min(LATE_CEILING_SECONDS, 0.75 * self.max_age_seconds)


class Rhythm:
    """The gaps between one symbol's ticks, as learned so far.

    @ivar mean: running mean of the gaps, in seconds.
    @ivar deviation: running mean of their absolute deviation from it.
    @ivar gaps: how many gaps were heard.
    """

    __slots__ = ("deviation", "gaps", "mean")

    def __init__(self) -> None:
        self.mean = 0.0
        self.deviation = 0.0
        self.gaps = 0

    def heard(self, gap: float) -> None:
        """Learn from one more gap, in seconds."""
        if self.gaps:
            off = gap - self.mean
            self.mean += off * _MEAN_GAIN
            self.deviation += ((off if off >= 0.0 else -off) - self.deviation) * _DEVIATION_GAIN
        else:
            self.mean = gap
            self.deviation = gap / 2
        self.gaps += 1

    def late_after(self, limits: Limits) -> float:
        """After how many seconds of quiet the symbol is late."""
        if self.gaps < GAPS_TO_LEARN:
            return min(UNLEARNED_LATE_SECONDS, limits.late_ceiling_seconds)
        learned = self.mean + 4.0 * self.deviation
        return min(max(learned, LATE_FLOOR_SECONDS), limits.late_ceiling_seconds)


class Delay:
    """By how much the messages of one connection come later than they used to.

    The difference between our clock and the exchange's is unknown, but it is the same for every message; what a
    message shows above the smallest difference that this connection ever showed is delay on the way. A single message
    may carry an old time (the snapshot of a quiet symbol does), so the delay of the connection is that of its
    promptest message of the last L{WINDOW_SECONDS}. It is never believed to be more than the plain difference of the
    clocks: where that is small, both clocks are right, and one odd message from the future spoils nothing. An old
    price that arrives now is old: ages have the delay added.
    """

    WINDOW_SECONDS: Final = 5.0

    __slots__ = ("_current", "_floor", "_previous", "_turned_at", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.reset()

    def reset(self) -> None:
        """Forget what was learned: a new connection, or an exchange that set its clock."""
        self._floor = self._current = self._previous = inf
        self._turned_at = -inf
        self.seconds = 0.0

    def heard(self, difference: float) -> None:
        """Take the difference between our clock and a message's own time, in seconds; NaN or infinity do nothing."""
        if -inf < difference < self._current:
            self._current = difference
            if difference < self._floor:
                self._floor = difference

    def turn(self, now: float) -> None:
        """Bring L{seconds} up to date; asked about once a second."""
        best = min(self._current, self._previous)
        if best < inf:
            self.seconds = min(best - self._floor, max(best, 0.0))
        if now - self._turned_at >= self.WINDOW_SECONDS:
            self._previous, self._current, self._turned_at = self._current, inf, now
