"""What each node tells of itself, in Valkey: a Hash C{cluster:stats:<node>} that lives for ten seconds.

Beside them lies C{cluster:stats}, a Sorted set of the nodes by the server's time of their last word, so that nobody
has to search among millions of keys for a handful. Who was silent for as long as a Hash lives is taken out of it by
whoever speaks next. It has no name that a node's Hash could have.

The whole Hash is written anew each time: what a node does not tell any more is not left standing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tbeast.adapters.cache.valkey import RefusedError, Script, ValkeyClient, carried_out

PREFIX: Final = "cluster:stats:"
NODES: Final = "cluster:stats"
SECONDS_TO_LIVE: Final = 10
MOST_NODES: Final = 1_000
"""So many are read at most: those that have spoken last."""

# KEYS: the node's Hash, nodes. ARGV: seconds to live, node, then names and values.
WRITE: Final = Script(b"""
local call, seconds = redis.call, tonumber(ARGV[1])
local time = call('TIME')[1]
if call('TYPE', KEYS[2]).ok ~= 'zset' then
  call('DEL', KEYS[2])
end
call('DEL', KEYS[1])
call('HSET', KEYS[1], unpack(ARGV, 3))
call('EXPIRE', KEYS[1], seconds)
call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. (time - seconds))
call('ZREMRANGEBYSCORE', KEYS[2], '(' .. (time + seconds), '+inf')
call('ZADD', KEYS[2], time, ARGV[2])
call('EXPIRE', KEYS[2], seconds)
return time
""")


class ValkeyClusterStats:
    """L{tbeast.services.clusterstats.SharedStatistics} over Valkey."""

    def __init__(self, client: ValkeyClient) -> None:
        self._client = client

    async def put(self, node: str, texts: Mapping[str, str]) -> None:
        """See L{tbeast.services.clusterstats.SharedStatistics.put}."""
        words = [word for item in texts.items() for word in item]
        await self._client.script(WRITE, (PREFIX + node, NODES), (SECONDS_TO_LIVE, node, *words))

    async def all(self, names: Iterable[str]) -> dict[str, dict[str, bytes]]:
        """See L{tbeast.services.clusterstats.SharedStatistics.all}."""
        wanted = tuple(names)
        try:
            nodes = await self._client.command(b"ZRANGE", NODES, 0, MOST_NODES - 1, b"REV")
        except RefusedError as error:
            if error.wrong_type:  # nobody has spoken since somebody else left it there
                return {}
            raise
        hashes = await self._client.pipeline([(b"HMGET", PREFIX.encode() + node, *wanted) for node in nodes])
        found: dict[str, dict[str, bytes]] = {}
        for node, values in zip(nodes, hashes, strict=True):
            if isinstance(values, RefusedError):
                if not values.wrong_type:
                    raise values
                continue
            told = {name: value for name, value in zip(wanted, values, strict=True) if value is not None}
            if told:  # else it has fallen silent, or left, between the two questions
                found[node.decode("utf-8", "replace")] = told
        return found

    async def remove(self, node: str) -> None:
        """See L{tbeast.services.clusterstats.SharedStatistics.remove}."""
        carried_out(await self._client.pipeline([(b"DEL", PREFIX + node), (b"ZREM", NODES, node)]))
