"""The shared buckets within this process: the twin of L{tbeast.adapters.cache.leases}.

Several nodes of one process may be handed the same one, as they would share one Valkey.
"""

from __future__ import annotations

from collections.abc import Sequence

from tbeast.domain.sharedbuckets import Balance, Contact, Hello, Report, SharedBuckets
from tbeast.interfaces import Now


class MemoryLeases:
    """L{tbeast.services.limits.SharedLimits} over one model of the law.

    @ivar buckets: the model.
    """

    def __init__(self, now: Now) -> None:
        """Make it empty; C{now} is the time of the server that it stands for, in seconds since the epoch."""
        self.buckets = SharedBuckets()
        self._now = now

    async def look(self, node: str) -> Contact:
        """See L{tbeast.services.limits.SharedLimits.look}."""
        return self.buckets.look(node, self._now())

    async def exchange(self, hello: Hello, reports: Sequence[Report]) -> tuple[Contact, list[Balance]]:
        """See L{tbeast.services.limits.SharedLimits.exchange}."""
        now = self._now()
        contact = self.buckets.contact(hello, now)
        return contact, [self.buckets.report(hello.node, report, now) for report in reports]

    async def leave(self, node: str) -> None:
        """See L{tbeast.services.limits.SharedLimits.leave}."""
        self.buckets.leave(node)
