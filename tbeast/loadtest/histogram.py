"""Times in whole microseconds, counted in buckets that are never wider than a five-hundredth of what they hold.

Up to 1,023 us each value has a bucket of its own; above, each doubling is divided into 512. A percentile is the
nearest rank's, told as the upper edge of its bucket, so it is never told too low, nor more than 0.2 per cent too high;
the least and the greatest are exact. Histograms add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import ceil
from typing import Final

from attrs import define, field

_EXACT_BITS: Final = 10
_COARSE_BITS: Final = 6


@define
class Histogram:
    """Counted times.

    @ivar counts: how many, by the upper edge of their bucket.
    @ivar total: how many in all; C{sum_us} their sum.
    @ivar least: 0, as C{greatest}, while there is none.
    """

    counts: dict[int, int] = field(factory=dict)
    total: int = 0
    sum_us: int = 0
    least: int = 0
    greatest: int = 0

    def add(self, seconds: Iterable[float]) -> None:
        """Count times given in seconds; one below zero is zero."""
        found = Counter([int(value * 1e6) for value in seconds])
        if not found:
            return
        least, greatest = max(0, min(found)), max(0, max(found))
        self.least = least if not self.total else min(self.least, least)
        self.greatest = max(self.greatest, greatest)
        for value, count in found.items():
            edge = upper_edge(max(0, value))
            self.counts[edge] = self.counts.get(edge, 0) + count
            self.total += count
            self.sum_us += max(0, value) * count

    def merge(self, other: Histogram) -> None:
        """Take what another has counted."""
        if not other.total:
            return
        self.least = other.least if not self.total else min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)
        self.total += other.total
        self.sum_us += other.sum_us
        for edge, count in other.counts.items():
            self.counts[edge] = self.counts.get(edge, 0) + count

    def at(self, share: float) -> int:
        """The time within which this share of them, from 0 to 1, was done; 0 if there are none."""
        # a share like 0.999 is no whole number of thousandths in binary
        rank = max(1, ceil(share * self.total - 1e-6))
        seen = 0
        for edge in sorted(self.counts):
            seen += self.counts[edge]
            if seen >= rank:
                return min(edge, self.greatest)
        return self.greatest

    def coarse(self) -> dict[int, int]:
        """The counts in buckets sixteen times as wide, in order."""
        wide: dict[int, int] = {}
        for edge, count in sorted(self.counts.items()):
            wide_edge = upper_edge(edge, _COARSE_BITS)
            wide[wide_edge] = wide.get(wide_edge, 0) + count
        return wide

    @property
    def mean_us(self) -> float:
        """The mean; 0 if there are none."""
        return self.sum_us / self.total if self.total else 0.0


def upper_edge(value: int, bits: int = _EXACT_BITS) -> int:
    """The greatest value in the bucket of this one, when values are told apart by so many leading bits."""
    shift = max(0, value.bit_length() - bits)
    return ((value >> shift) + 1 << shift) - 1
