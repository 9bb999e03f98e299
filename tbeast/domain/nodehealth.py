"""How well a node is: from its answers, its reactor and its refusals to a factor for its limit.

Within its share a node's limit is C{share * health} (L{tbeast.domain.governor}). Three signals give a gradient for each
window, which goes from one round to the next; 1 and more is well:

  - answers: C{(1.5 * usual + 2 ms) / mean}, where C{usual} is the slow mean of the windows that were well;
  - the reactor's lag: C{0.1 s / mean lag};
  - refusals for want of capacity: C{5 % / their part of the questions}.

The least of them is the window's. If even the better one of the last two windows is below 0.9 (the short-time minimum:
one bad window moves nothing), the health is multiplied with it, by a half at the least, once a window; and not again
before the connections have come down to the limit or L{HOLD_SECONDS} have passed. If even the worse one is above 1.25,
and the node is in demand (or has been well for a minute), the health rises by a twentieth, where it is low by a fifth
of itself. In between nothing moves. What fell rises no sooner than L{HOLD_SECONDS} after the last fall, what rose falls
no sooner than that after the rise began: so there are never two reversals in L{HOLD_SECONDS}.

B{The usual} follows down within seconds. It follows up within a minute, ten times slower unless all is well (full
health, gradient above 1.25), and not at all in windows that are too slow: a long overload must not become the usual.
Only where five windows at the least health were too slow it is what they show: then the slowness is not of our making.

The form is that of the gradient limiters. Netflix' concurrency-limits (C{Gradient2Limit}): C{limit * gradient + queue}
with C{gradient = long / short} held within 0.5 and 1, a mean instead of a minimum since minima are too good to be
usual, no growth while less than half of the limit is in use, and a long mean that comes down quickly when it is twice
the short one. Envoy's adaptive concurrency filter: C{gradient = (minRTT + B) / sampleRTT}, B a part of minRTT, and
minRTT measured anew after five windows at the minimum. Ours adds no queue in every window but rises by steps, as AIMD
does, and has a band where nothing moves, so that it comes to rest.
"""

from __future__ import annotations

from math import inf
from typing import Final

LEAST_HEALTH: Final = 0.05
HOLD_SECONDS: Final = 5.0
WELL_SECONDS: Final = 60.0
"""Health rises without demand, too, when it was well for so long."""

TOLERANCE: Final = 1.5
SLACK_US: Final = 2_000.0
LAG_SECONDS: Final = 0.1
REFUSED_PART: Final = 0.05
LEAST_REFUSALS: Final = 5
LEAST_ANSWERS: Final = 10
"""Fewer answers say nothing; they wait for those of the next window."""

FALL_BELOW: Final = 0.9
RISE_ABOVE: Final = 1.25
LARGEST_FALL: Final = 0.5
RISE: Final = 0.05
LARGEST_RISE: Final = 0.2
"""A step is no larger than this part of the health itself."""

WINDOWS_AT_LEAST: Final = 5


class Health:
    """How well a node is; the head of the module says by which law.

    @ivar value: from L{LEAST_HEALTH} to 1.
    @ivar usual_us: how long answers usually take, in microseconds; 0 before there were any.
    @ivar mean_us: the mean of the last window that had enough answers.
    @ivar reason: why it moved last, for the operator; empty if it never did.
    """

    def __init__(self, now: float) -> None:
        self.value = 1.0
        self.usual_us = self.mean_us = 0.0
        self.reason = ""
        self._latency_us = self._lag = 0.0
        self._answers = self._answered = self._lags = self._refusals = 0
        self._last_gradient = inf
        self._direction = 0
        self._turned_at = self._moved_at = -inf
        self._unwell_at = now
        self._windows_at_least = 0

    def note_latency(self, us: float, count: int) -> None:
        """C{count} questions were answered, in C{us} microseconds each."""
        self._latency_us += us * count
        self._answers += count
        self._answered += count

    def note_lag(self, seconds: float) -> None:
        """The reactor came later than it should have."""
        self._lag += seconds
        self._lags += 1

    def note_refusal(self) -> None:
        """A question was refused for want of capacity."""
        self._refusals += 1

    def close_window(self, now: float, in_demand: bool, has_room: bool) -> bool:
        """Draw the conclusion of a window, and begin the next.

        @param in_demand: whether more connections would come.
        @param has_room: whether the connections are within the limit.
        @return: whether the health has moved.
        """
        gradient, why = self._gradient()
        short, worst = max(gradient, self._last_gradient), min(gradient, self._last_gradient)
        self._last_gradient = gradient
        if gradient < FALL_BELOW:
            self._unwell_at = now
        if short < FALL_BELOW:
            return self._fall(now, max(LARGEST_FALL, short), why, has_room)
        self._windows_at_least = 0
        if worst > RISE_ABOVE and (in_demand or now - self._unwell_at >= WELL_SECONDS):
            return self._rise(now)
        return False

    def _gradient(self) -> tuple[float, str]:
        """The window's gradient, and the signal that it comes from."""
        gradients = [(inf, "")]
        if self._answers >= LEAST_ANSWERS:
            mean = self.mean_us = max(1.0, self._latency_us / self._answers)
            usual = self.usual_us = self.usual_us or mean
            gradient = (TOLERANCE * usual + SLACK_US) / mean
            gradients.append((gradient, f"slow answers: {mean:,.0f} us, usually {usual:,.0f}"))
            if mean < usual:
                self.usual_us += (mean - usual) * 0.2
            elif gradient >= FALL_BELOW:
                all_well = self.value == 1.0 and gradient > RISE_ABOVE
                self.usual_us += (mean - usual) / (60.0 if all_well else 600.0)
            self._latency_us, self._answers = 0.0, 0
        if self._lags and self._lag > 0.0:
            lag = self._lag / self._lags
            gradients.append((LAG_SECONDS / lag, f"reactor lag: {lag * 1_000:,.0f} ms"))
        if self._refusals >= LEAST_REFUSALS:
            part = self._refusals / (self._refusals + self._answered)
            gradients.append((REFUSED_PART / part, f"refusals from below: {part:.0%}"))
        self._lag, self._lags, self._refusals, self._answered = 0.0, 0, 0, 0
        return min(gradients)

    def _fall(self, now: float, factor: float, why: str, has_room: bool) -> bool:
        if self.value <= LEAST_HEALTH:
            self._windows_at_least += 1
            if self._windows_at_least >= WINDOWS_AT_LEAST:
                self.usual_us = max(self.usual_us, self.mean_us)
            return False
        if self._direction > 0 and now - self._turned_at < HOLD_SECONDS:
            return False
        if self._direction < 0 and not has_room and now - self._moved_at < HOLD_SECONDS:
            return False  # the last fall could not show its effect yet
        self._move(now, -1, max(LEAST_HEALTH, self.value * factor), why)
        return True

    def _rise(self, now: float) -> bool:
        if self.value >= 1.0 or (self._direction < 0 and now - self._moved_at < HOLD_SECONDS):
            return False
        self._move(now, 1, min(1.0, self.value + min(RISE, self.value * LARGEST_RISE)), "well again")
        return True

    def _move(self, now: float, direction: int, value: float, why: str) -> None:
        if direction != self._direction:
            self._direction, self._turned_at = direction, now
        self._moved_at = now
        self.value = value if value < 0.999 else 1.0
        self.reason = why
