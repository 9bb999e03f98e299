"""Counters of everything that happens often: ticks, questions, refusals, faults.

One dictionary and one addition an event. The names, their labels and what they mean stand in L{FAMILIES}, which
/metrics, /stats and the documentation all read; labels come from closed sets, never from a key or a client's words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

FAMILIES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "feed_frames": ("WebSocket messages heard", ("exchange",)),
    "feed_ticks": ("Ticks taken onto the board", ("exchange", "via")),
    "feed_dropped_ticks": ("Ticks heard and not taken, by reason", ("exchange", "reason")),
    "feed_faults": ("Messages that were no tick and no answer, by reason", ("exchange", "reason")),
    "feed_dials": ("Connections begun", ("exchange",)),
    "feed_connections": ("Connections that came to be", ("exchange",)),
    "feed_disconnects": ("Connections that ended", ("exchange",)),
    "feed_refused_symbols": ("Symbols that an exchange would not send", ("exchange",)),
    "rest_requests": ("REST questions asked of exchanges, by outcome", ("exchange", "outcome")),
    "requests": ("Questions answered", ("service", "protocol", "status")),
    "response_times": ("Answers by how long they took, to a power of two of microseconds", ("service", "up_to_us")),
    "udp_dropped": ("Datagrams dropped without an answer, by reason", ("service", "reason")),
    "udp_kernel_drops": ("Datagrams that the kernel dropped because the port's receive buffer was full", ("service",)),
    "lane_connections": ("Connections of the native lane, by what became of them", ("outcome",)),
    "lookups": ("Prices given out, by where they were found", ("tier",)),
    "publications": ("Quotes rendered onto the shelf", ()),
    "cache_questions": ("Questions to Valkey, by what became of them", ("outcome",)),
    "limit_exchanges": ("Messages to the shared limits, by what became of them", ("outcome",)),
    "limit_reports": ("Keys whose limits were told to the shared limits", ()),
    "usage_batches": ("Batches of usage, by what became of them", ("outcome",)),
    "usage_rows": ("Rows of usage that the database has taken, or set aside", ("outcome",)),
    "usage_requests": ("Requests whose rows the database has taken, or set aside", ("outcome",)),
    "usage_journal_refusals": ("Batches that the journal did not take, by reason", ("reason",)),
    "usage_journal_damaged": ("Records of the journal that could not be read, and were kept aside", ()),
    "usage_journal_cut_off": ("Records that a crash had cut off at the end of a journal", ()),
    "usage_journal_sync_failures": ("Journals that the disk did not take for good", ()),
    "usage_counter_failures": ("Failures to tell the shared cache what keys have used", ()),
    "usage_unmetered": ("Times that neither journal nor database took usage", ()),
    "usage_lost_requests": ("Requests that were not recorded anywhere before a stop", ()),
    "usage_queue": ("Messages of the usage queue, by what became of them", ("outcome",)),
    "admin_requests": ("Calls of /admin, by what was asked and how it was answered", ("action", "status")),
    "refused_connections": ("Connections refused because the node holds as many as it may", ("service",)),
    "capacity_refusals": ("Questions refused for want of capacity, by the problem's code", ("service", "code")),
    "slow_clients": ("Connections ended because the client was idle or too slow, by reason", ("service", "reason")),
    "service_failures": ("Periodic work that failed and was taken up again", ("work",)),
}
"""Family name: what it counts, and the names of its labels. Exported as C{tbeast_<family>_total}."""


class Counters:
    """The process's counters.

    @ivar counts: (family, label values...) to a number; for the hot paths, which add to it directly.
    @ivar gathered: what is called before anything is read: whoever counts somewhere else meanwhile brings it in then.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], int] = {}
        self.gathered: list[Callable[[], object]] = []

    def gather(self) -> None:
        """Bring in what was counted somewhere else; for who reads C{counts} itself."""
        for bring in self.gathered:
            bring()

    def count(self, family: str, *labels: str, by: int = 1) -> None:
        """Add to one counter.

        @raise KeyError: when C{family} is not in L{FAMILIES}: a name that nothing explains is a mistake.
        """
        FAMILIES[family]
        key = (family, *labels)
        self.counts[key] = self.counts.get(key, 0) + by

    def value(self, family: str, *labels: str) -> int:
        """Read one counter; 0 if nothing was counted."""
        self.gather()
        return self.counts.get((family, *labels), 0)

    def total(self, family: str) -> int:
        """Read one family's counters, added up over its labels."""
        self.gather()
        return sum(number for key, number in self.counts.items() if key[0] == family)

    def family(self, family: str) -> Iterator[tuple[tuple[str, ...], int]]:
        """Each label tuple of one family with its number, in order."""
        self.gather()
        for key in sorted(key for key in self.counts if key[0] == family):
            yield key[1:], self.counts[key]
