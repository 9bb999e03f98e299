"""The cache of prices in Valkey: C{price:<ASSET>}, a String that is gone when its time is over.

Nobody waits for it in vain and nothing fails because of it: what cannot be read is not there, what cannot be written is
lost, and both are counted.
"""

from __future__ import annotations

from collections.abc import Mapping

from tbeast.adapters.cache.valkey import RefusedError, ValkeyClient
from tbeast.errors import CacheUnavailableError


class ValkeyPriceCache:
    """L{tbeast.interfaces.PriceCache} over Valkey.

    @ivar unread: how many questions got no answer.
    @ivar lost: how many values could not be stored.
    """

    def __init__(self, client: ValkeyClient) -> None:
        self._client = client
        self.unread = 0
        self.lost = 0

    async def get(self, asset: str) -> bytes | None:
        """See L{tbeast.interfaces.PriceCache.get}."""
        try:
            value: bytes | None = await self._client.command(b"GET", _key(asset))
        except CacheUnavailableError:
            self.unread += 1
            return None
        return value

    async def set(self, asset: str, value: bytes, seconds_to_live: int) -> None:
        """See L{tbeast.interfaces.PriceCache.set}; a time to live of zero or less leaves nothing stored."""
        await self.set_many({asset: value}, seconds_to_live)

    async def set_many(self, values: Mapping[str, bytes], seconds_to_live: int) -> None:
        """See L{tbeast.interfaces.PriceCache.set_many}; one write for all of them."""
        if seconds_to_live > 0:
            commands = [(b"SET", _key(asset), value, b"EX", seconds_to_live) for asset, value in values.items()]
        else:
            commands = [(b"DEL", _key(asset)) for asset in values]  # type: ignore[misc]
        try:
            replies = await self._client.pipeline(commands)
        except CacheUnavailableError:
            self.lost += len(values)
        else:
            self.lost += sum(isinstance(reply, RefusedError) for reply in replies)


def _key(asset: str) -> str:
    return f"price:{asset}"
