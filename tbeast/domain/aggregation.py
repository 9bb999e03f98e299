"""From several values one price that no minority of them can move far.

The rule, for values that are fresh and in one currency:

 1. Their median is taken, and the median of their distances from it (MAD). Values farther than L{K} times the MAD are
    set aside, but nothing is set aside within L{FLOOR_BP} basis points of the median, nor within L{K} times the
    noise that the sources of this asset usually show (L{Noise}): the MAD of three values is a poor witness, which by
    chance is near zero every few moments.
 2. What remains gives the median.
 3. That median is held between the two middle ones of I{all} values (with an odd number: the middle one). With n
    values of which at most floor((n - 1) / 2) are arbitrary, the middle ones lie within the range of the honest ones;
    the median of a chosen subset need not. The values of sources that lost their vote to a longer memory
    (L{tbeast.domain.suspicion}) hold the price like the others: who can make an honest source suspect has won nothing.

Two values cannot outvote each other: the first in the order of trust wins. One is taken as it is.

The MAD and its use against outliers: F. R. Hampel, "The Influence Curve and its Role in Robust Estimation", JASA 69
(1974). Mean and standard deviation would not do: among four values none can lie 5 sigma from a mean that it pulls.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import Final, NamedTuple

K: Final = 5.0
FLOOR_BP: Final = 5.0
BP: Final = 1e-4
"""One basis point, as a fraction."""


class Combination(NamedTuple):
    """What came of some values. A NamedTuple because one is made for every tick that moves a price.

    @ivar price: the answer.
    @ivar used: the positions of the values that voted, lowest value first.
    @ivar set_aside: the positions of the others.
    @ivar middle: the positions of the one or two values that made the price; one that has no vote, but held the
        price, is counted on from the last of the voters.
    @ivar limit: how far from the median a value could lie without being set aside.
    @ivar dispersion: the MAD as a fraction of the median, corrected for the number of values; 0 below three.
    """

    price: float
    used: tuple[int, ...]
    set_aside: tuple[int, ...]
    middle: tuple[int, ...]
    limit: float
    dispersion: float


# The expected MAD of n normal values is smaller than that of many: divide 0.6745 by these to get sigma, see
# C. Croux and P. J. Rousseeuw, "Time-efficient algorithms for two highly robust estimators of scale" (1992).
_SMALL_SAMPLE: Final = {3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}
_NORMAL: Final = 1.4826


def combine(values: Sequence[float], noise: float = 0.0, mute: Sequence[float] = ()) -> Combination:
    """Combine C{values}, given in the order of trust.

    @param values: one or more, above zero, all in one currency.
    @param noise: what L{Noise.level} says of this asset, as a fraction.
    @param mute: values without a vote; they only hold the price.
    @raise ValueError: for no values at all.
    """
    combination = _elect(values, noise)
    return _held(combination, [*values, *mute]) if mute else combination


def _held(combination: Combination, values: Sequence[float]) -> Combination:
    """Hold the price between the two middle ones of C{values}, where there are three or more."""
    count = len(values)
    if count < 3:
        return combination
    order = sorted(range(count), key=values.__getitem__)
    for position, beyond in ((order[(count - 1) // 2], 1.0), (order[count // 2], -1.0)):
        if (values[position] - combination.price) * beyond > 0.0:
            return combination._replace(price=values[position], middle=(position,))
    return combination


def _elect(values: Sequence[float], noise: float) -> Combination:
    count = len(values)
    if count < 3:
        if not count:
            raise ValueError("no values to combine")
        return Combination(values[0], tuple(range(count)), (), (0,), 0.0, 0.0)
    order = sorted(range(count), key=values.__getitem__)
    half = count // 2
    low_middle, high_middle = (order[half], order[half]) if count % 2 else (order[half - 1], order[half])
    low, high = values[low_middle], values[high_middle]
    median = (low + high) / 2
    distances = sorted([abs(value - median) for value in values])
    mad = distances[half] if count % 2 else (distances[half - 1] + distances[half]) / 2
    limit = max(K * mad, median * max(FLOOR_BP * BP, K * noise))
    dispersion = mad / median * _NORMAL * _SMALL_SAMPLE.get(count, 1.0)
    if distances[-1] <= limit:
        middle = (low_middle,) if count % 2 else (low_middle, high_middle)
        return Combination(median, tuple(order), (), middle, limit, dispersion)
    used = tuple(position for position in order if abs(values[position] - median) <= limit)
    aside = tuple(position for position in order if abs(values[position] - median) > limit)
    kept = len(used)
    middle = (used[kept // 2],) if kept % 2 else (used[kept // 2 - 1], used[kept // 2])
    price = sum(values[position] for position in middle) / len(middle)
    if price < low:
        price, middle = low, (low_middle,)
    elif price > high:
        price, middle = high, (high_middle,)
    return Combination(price, used, aside, middle, limit, dispersion)


class Noise:
    """How far the sources of one asset usually lie from each other: a slow mean of the dispersion.

    @ivar level: as a fraction; starts at L{PRIOR} and is learned within minutes.
    """

    PRIOR: Final = 2.0 * BP
    SECONDS: Final = 60.0
    CEILING: Final = 20.0 * BP
    """However noisy the sources, no more than this is believed: a slow poisoner shall not widen the gate."""

    __slots__ = ("_at", "level")

    def __init__(self) -> None:
        self.level = self.PRIOR
        self._at: float | None = None

    def heard(self, dispersion: float, now: float) -> None:
        """Learn from one combination of three or more values."""
        if self._at is not None and now > self._at:
            gain = 1.0 - exp((self._at - now) / self.SECONDS)
            self.level += (min(dispersion, self.CEILING) - self.level) * gain
        self._at = now
