"""The cache of prices within this process: what is used where no Valkey is set up, and its twin in tests.

It keeps to what Valkey would do: a value is gone when its time is over. It is bounded: when full, values whose time is
over leave first, then the one that was set longest ago.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tbeast.interfaces import Now

MOST_ENTRIES: Final = 4096


class MemoryPriceCache:
    """L{tbeast.interfaces.PriceCache} over one dictionary, in the order of setting."""

    def __init__(self, now: Now, most_entries: int = MOST_ENTRIES) -> None:
        """Make it empty.

        @param now: seconds since the epoch.
        @param most_entries: how many values are kept at most.
        """
        self._now = now
        self._most_entries = most_entries
        self._kept: dict[str, tuple[bytes, float]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, asset: str) -> bytes | None:
        """See L{tbeast.interfaces.PriceCache.get}."""
        kept = self._kept.get(asset)
        if kept is None:
            return None
        value, until = kept
        if self._now() >= until:
            del self._kept[asset]
            return None
        return value

    async def set(self, asset: str, value: bytes, seconds_to_live: int) -> None:
        """See L{tbeast.interfaces.PriceCache.set}; a time to live of zero or less leaves nothing stored."""
        self._kept.pop(asset, None)
        if seconds_to_live <= 0:
            return
        now = self._now()
        if len(self._kept) >= self._most_entries:
            self._make_room(now)
        self._kept[asset] = (bytes(value), now + seconds_to_live)

    async def set_many(self, values: Mapping[str, bytes], seconds_to_live: int) -> None:
        """See L{tbeast.interfaces.PriceCache.set_many}."""
        for asset, value in values.items():
            await self.set(asset, value, seconds_to_live)

    def _make_room(self, now: float) -> None:
        for asset in [asset for asset, (_value, until) in self._kept.items() if now >= until]:
            del self._kept[asset]
        while len(self._kept) >= self._most_entries:
            del self._kept[next(iter(self._kept))]
