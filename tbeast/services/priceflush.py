"""Writes what this node gives out into the shared cache, every so often, for nodes that know less.

Whatever may be given out now goes there, in one go, and lives a little longer than the time to the next writing. Nobody
waits for it, and a cache that is away is written to the next time.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from tbeast.codecs import cachedprices
from tbeast.domain.readyreplies import Shelf
from tbeast.interfaces import Now, PriceCache

FLUSH_SECONDS: Final = 30.0
LIVES_FOR: Final = 3.0
"""How many periods a price stays in the cache; how old it may be when it is read is judged by whoever reads it."""


class PriceFlush:
    """What is called every L{FLUSH_SECONDS}."""

    def __init__(self, shelf: Shelf, cache: PriceCache, now: Now, every_seconds: float = FLUSH_SECONDS) -> None:
        self._shelf = shelf
        self._cache = cache
        self._now = now
        self._seconds_to_live = 0
        self.set_every(every_seconds)

    def set_every(self, seconds: float) -> None:
        """It is called so many seconds apart from now on."""
        self._seconds_to_live = ceil(seconds * LIVES_FOR)

    async def flush(self) -> int:
        """Write every price that may be given out now; return how many that were."""
        now = self._now()
        fresh = {
            asset: cachedprices.encode(reply.quote)
            for asset, reply in self._shelf.replies.items()
            if now <= reply.fresh_until
        }
        if fresh:
            await self._cache.set_many(fresh, self._seconds_to_live)
        return len(fresh)
