"""What each key has used of its month, in Valkey: C{usage:counter:<key id>}, a String with the number.

The rule: within a month a counter only rises, so nodes may report in any order and twice. A later month replaces an
earlier one at once, an earlier one never a later, whatever the clocks of the nodes say at midnight. The counter is gone
at the end of its month, and by that end it is known which month it is of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Final

from tbeast.adapters.cache.valkey import RefusedError, Script, ValkeyClient, carried_out

PREFIX: Final = "usage:counter:"
BATCH: Final = 500

RAISE: Final = Script(b"""
local key, count, expire_at = KEYS[1], ARGV[1], tonumber(ARGV[2])
local sort = redis.call('TYPE', key).ok
if sort == 'string' then
  local held, left = tonumber(redis.call('GET', key)), redis.call('PTTL', key)
  if held and left >= 0 then
    local ends = redis.call('TIME')[1] + left / 1000
    if ends > expire_at + 30 or (ends >= expire_at - 30 and held >= tonumber(count)) then
      return 0
    end
  end
elseif sort ~= 'none' then
  redis.call('DEL', key)
end
redis.call('SET', key, count)
redis.call('EXPIREAT', key, expire_at)
return 1
""")


class ValkeyUsageCounters:
    """L{tbeast.interfaces.UsageCounters} over Valkey."""

    def __init__(self, client: ValkeyClient) -> None:
        self._client = client

    async def raise_to(self, used: Mapping[str, int], month: str, expire_at: float) -> None:
        """See L{tbeast.interfaces.UsageCounters.raise_to}."""
        items = list(used.items())
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            calls = [((PREFIX + key_id,), (count, ceil(expire_at))) for key_id, count in batch]
            carried_out(await self._client.scripts(RAISE, calls))

    async def read(self, key_ids: Sequence[str]) -> dict[str, int]:
        """See L{tbeast.interfaces.UsageCounters.read}."""
        found: dict[str, int] = {}
        for start in range(0, len(key_ids), BATCH):
            batch = key_ids[start : start + BATCH]
            counts = await self._client.pipeline([(b"GET", PREFIX + key_id) for key_id in batch])
            for key_id, count in zip(batch, counts, strict=True):
                if isinstance(count, RefusedError) and not count.wrong_type:
                    raise count
                if isinstance(count, bytes) and count.isdigit():
                    found[key_id] = int(count)
        return found
