"""How long answers took: counts by the binary length of their microseconds, which is little to keep and quick to note.

Bucket C{b} counts the answers whose time had C{b} binary digits: 0 us is in bucket 0, 1 us in 1, 2 and 3 us in 2, up
to bucket 30, which ends at 18 minutes; the last one, 31, has all that took longer. So times are known to a factor of
two, and so is a quantile, which is told as if those within its bucket lay evenly on a logarithmic scale.

Counts add up: over processes, over nodes, and the difference of two readings is what came between them. From process to
process they go as counters, family C{response_times}, under the service and the longest time that its bucket takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from typing import Final

from tbeast.domain.counters import Counters

BUCKETS: Final = 32
LAST: Final = BUCKETS - 1
FAMILY: Final = "response_times"
UP_TO_US: Final = tuple(str(2**bucket - 1) for bucket in range(BUCKETS))
"""The label of each bucket: the longest time in it, in microseconds; that of the last one stands for any."""

_BUCKET_OF: Final = {label: bucket for bucket, label in enumerate(UP_TO_US)}


class Latencies:
    """Counts of answers by how long they took.

    @ivar counts: a number for each bucket.
    """

    def __init__(self, counts: Iterable[int] = ()) -> None:
        """Begin with these counts; none are zeros.

        @raise ValueError: when they are not as many as there are buckets.
        """
        self.counts = list(counts) or [0] * BUCKETS
        if len(self.counts) != BUCKETS:
            raise ValueError(f"{len(self.counts)} counts for {BUCKETS} buckets")

    @property
    def total(self) -> int:
        """How many answers there were."""
        return sum(self.counts)

    def note(self, us: int) -> None:
        """An answer took so many microseconds; less than none is none."""
        self.counts[min(us.bit_length(), LAST) if us > 0 else 0] += 1

    def add(self, counts: Sequence[int]) -> None:
        """Take what another has counted."""
        self.counts = [mine + its for mine, its in zip(self.counts, counts, strict=True)]

    def difference(self, earlier: Latencies) -> Latencies:
        """What came since C{earlier} was read; where that has counted more, nothing."""
        return Latencies(max(0, now - then) for now, then in zip(self.counts, earlier.counts, strict=True))

    def quantile(self, q: float) -> int | None:
        """The time, in microseconds, that so large a part of the answers did not exceed; C{None} if there were none.

        The nearest rank's, with an error of less than a factor of two, unless it is in the last bucket.

        @param q: from 0, the least, to 1, the greatest.
        """
        total = self.total
        if not total:
            return None
        rank = min(max(ceil(q * total), 1), total)
        bucket = below = 0
        while below + self.counts[bucket] < rank:
            below += self.counts[bucket]
            bucket += 1
        if bucket == 0:
            return 0
        least = 1 << (bucket - 1)
        place = (rank - below - 0.5) / self.counts[bucket]  # within the bucket, from 0 to 1
        return min(int(least * 2.0**place), (1 << bucket) - 1)


def bring(times: Mapping[str, Sequence[int]], counters: Counters) -> None:
    """Have what is counted elsewhere, by service and bucket, brought into the counters before they are read."""
    counters.gathered.append(_bringing(times, counters.counts))


def _bringing(times: Mapping[str, Sequence[int]], counts: dict[tuple[str, ...], int]) -> Callable[[], None]:
    told: dict[str, list[int]] = {}

    def bring_more() -> None:
        for service, buckets in times.items():
            before = told.get(service)
            if buckets == before:
                continue
            now = told[service] = list(buckets)
            for label, number, known in zip(UP_TO_US, now, before or [0] * BUCKETS, strict=True):
                if number != known:
                    key = (FAMILY, service, label)
                    counts[key] = counts.get(key, 0) + number - known

    return bring_more


def read(counters: Counters) -> dict[str, Latencies]:
    """What the counters know, by service; of services that have answered nothing, nothing."""
    counters.gather()
    found: dict[str, Latencies] = {}
    for key, number in counters.counts.items():
        if key[0] == FAMILY:
            _, service, label = key
            bucket = _BUCKET_OF.get(label)
            if bucket is not None:  # else a process of another version has counted it
                found.setdefault(service, Latencies()).counts[bucket] += number
    return found
