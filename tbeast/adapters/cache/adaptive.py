"""What the connection governors of all nodes share: in Valkey, and the twin of it within one process.

Four keys that begin with L{PREFIX}: C{successes}, C{total} and C{throttle} are numbers to which each node adds (see
L{tbeast.domain.governor} for what they are of); C{nodes} is a Hash with the last report of each node, which everybody
reads whole. One script writes and reads, so between the two nothing else happens:

 - a report is written unless a later one of the same life of the node is there already; one of another life of the
   node that it takes the place of is read as well, before it: once after a restart, and again and again where two nodes
   have one name;
 - what a node has found to be gone is taken out, unless it has changed since;
 - the tally is added. An answer that is lost on the way has it added twice: it is for alarms, and decides nothing.

What cannot be read as a report goes out of the list. The list is forgotten when nobody has written for
L{NODES_KEPT_SECONDS}, the numbers after L{TALLY_KEPT_SECONDS}.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tbeast.adapters.cache.valkey import Reply, Script, ValkeyClient, Word
from tbeast.codecs.adaptivewords import LONGEST, decode, encode
from tbeast.domain.governor import Report, Tally
from tbeast.errors import CacheUnavailableError

PREFIX: Final = "{adaptive:lpo}:"
SUCCESSES: Final = PREFIX + "successes"
TOTAL: Final = PREFIX + "total"
THROTTLE: Final = PREFIX + "throttle"
NODES: Final = PREFIX + "nodes"

NODES_KEPT_SECONDS: Final = 60
TALLY_KEPT_SECONDS: Final = 7 * 86_400
MOST_NODES: Final = 1_000
"""More names in the list are not those of nodes: it begins anew."""

EXCHANGE: Final = Script(
    (
        f"local LONGEST, MOST, NODES_KEPT, TALLY_KEPT ="
        f" {LONGEST}, {MOST_NODES}, {NODES_KEPT_SECONDS}, {TALLY_KEPT_SECONDS}\n"
    ).encode()
    + b"""
local call = redis.call

-- KEYS: nodes, successes, total, throttle. ARGV: what to add to these three; node, its report, its life, its sequence
-- (empty: nothing is reported); and for each that is to be taken out its node, life, sequence.

-- what is of another type than it should be makes room
local function of_type(key, wanted)
  local found = call('TYPE', key).ok
  if found ~= wanted and found ~= 'none' then
    call('DEL', key)
  end
end

local function stamp(text)
  if not text or #text > LONGEST then
    return nil
  end
  local good, report = pcall(cjson.decode, text)
  if good and type(report) == 'table' and type(report.life) == 'string' and type(report.sequence) == 'number' then
    return report.life, report.sequence
  end
end

of_type(KEYS[1], 'hash')
for place = 1, 3 do
  local key, more = KEYS[place + 1], tonumber(ARGV[place])
  if more ~= 0 then
    of_type(key, 'string')
    if type(redis.pcall('INCRBY', key, more)) ~= 'number' then
      call('SET', key, more)
    end
    call('EXPIRE', key, TALLY_KEPT)
  end
end

for place = 8, #ARGV, 3 do
  local life, sequence = stamp(call('HGET', KEYS[1], ARGV[place]))
  if life == ARGV[place + 1] and sequence == tonumber(ARGV[place + 2]) then
    call('HDEL', KEYS[1], ARGV[place])
  end
end

local found = {}
if ARGV[5] ~= '' then
  local held = call('HGET', KEYS[1], ARGV[4])
  local life, sequence = stamp(held)
  if life and life ~= ARGV[6] then
    found = {ARGV[4], held}
  end
  if life ~= ARGV[6] or sequence < tonumber(ARGV[7]) then
    if not life and call('HLEN', KEYS[1]) >= MOST then
      call('DEL', KEYS[1])
    end
    call('HSET', KEYS[1], ARGV[4], ARGV[5])
  end
  call('EXPIRE', KEYS[1], NODES_KEPT)
end

local all = call('HGETALL', KEYS[1])
for place = 1, #all, 2 do
  if stamp(all[place + 1]) then
    found[#found + 1] = all[place]
    found[#found + 1] = all[place + 1]
  else
    call('HDEL', KEYS[1], all[place])
  end
end
return found
"""
)

LEAVE: Final = Script(
    b"""
-- KEYS: nodes. ARGV: node, life. Whoever bears the name now stays.
local held = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(held) ~= 'string' then
  return 0
end
local good, report = pcall(cjson.decode, held)
if good and type(report) == 'table' and report.life ~= ARGV[2] then
  return 0
end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
)


class ValkeyAdaptive:
    """L{tbeast.services.governor.NodeList} over Valkey."""

    def __init__(self, client: ValkeyClient) -> None:
        self._client = client

    async def exchange(self, report: Report, gone: Sequence[Report], tally: Tally) -> list[Report]:
        """See L{tbeast.services.governor.NodeList.exchange}."""
        words: list[Word] = [tally.successes, tally.total, tally.throttle]
        words += [report.node, encode(report), report.life, report.sequence]
        for each in gone:
            words += [each.node, each.life, each.sequence]
        return _reports(await self._client.script(EXCHANGE, (NODES, SUCCESSES, TOTAL, THROTTLE), words))

    async def leave(self, node: str, life: str) -> None:
        """See L{tbeast.services.governor.NodeList.leave}."""
        await self._client.script(LEAVE, (NODES,), (node, life))


def _reports(reply: Reply) -> list[Report]:
    if not isinstance(reply, list) or len(reply) % 2 or not all(isinstance(text, bytes) for text in reply):
        raise CacheUnavailableError(f"the script of the governor answered {reply!r}")
    texts = iter(reply)
    pairs = ((str(node, "utf-8", "replace"), text) for node, text in zip(texts, texts, strict=True))
    return [report for node, text in pairs if (report := decode(node, text)) is not None]


class MemoryAdaptive:
    """The same for nodes that are one process, or have it speak for them.

    @ivar reports: the list, by node.
    @ivar tally: what was added up.
    """

    def __init__(self) -> None:
        self.reports: dict[str, Report] = {}
        self.tally = Tally()

    async def exchange(self, report: Report, gone: Sequence[Report], tally: Tally) -> list[Report]:
        """See L{tbeast.services.governor.NodeList.exchange}."""
        sums = self.tally
        self.tally = Tally(sums.successes + tally.successes, sums.total + tally.total, sums.throttle + tally.throttle)
        self._take_out(gone)
        held = self.reports.get(report.node)
        if held is None or held.life != report.life or held.sequence < report.sequence:
            self.reports[report.node] = report
        before = [held] if held is not None and held.life != report.life else []
        return [*before, *self.reports.values()]

    async def leave(self, node: str, life: str) -> None:
        """See L{tbeast.services.governor.NodeList.leave}."""
        held = self.reports.get(node)
        if held is not None and held.life == life:
            del self.reports[node]

    def _take_out(self, gone: Iterable[Report]) -> None:
        for each in gone:
            held = self.reports.get(each.node)
            if held is not None and (held.life, held.sequence) == (each.life, each.sequence):
                del self.reports[each.node]
