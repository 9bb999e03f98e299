"""The shared buckets in Valkey: a Hash C{ratelimit:<key id>} for each key, and one Lua script that knows the law.

The law is told in L{tbeast.domain.sharedbuckets}, and the script does what is done there, step by step.
C{cluster:nodes} is a Sorted set of the nodes by the time they were heard; C{cluster:limits} a Hash with the clock of
the buckets. Numbers are written with 17 digits, so nothing is lost on the way.

A bucket with a monthly quota is kept for 32 days after its last use, one without until an hour after it is full again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tbeast.adapters.cache.valkey import Reply, Script, ValkeyClient, Word, carried_out
from tbeast.domain.ratelimits import NEARLY
from tbeast.domain.sharedbuckets import (
    MOST_REMEMBERED,
    PRESENT_SECONDS,
    SILENCE_SECONDS,
    Balance,
    Contact,
    Hello,
    Report,
)
from tbeast.errors import CacheUnavailableError

PREFIX: Final = "ratelimit:"
NODES: Final = "cluster:nodes"
DATA: Final = "cluster:limits"

MONTH_KEPT_SECONDS: Final = 32 * 86_400
FULL_KEPT_SECONDS: Final = 3_600
BUCKET_FIELDS: Final = 7

LAW: Final = Script(
    (
        f"local SILENCE, PRESENT, NEARLY = {SILENCE_SECONDS!r}, {PRESENT_SECONDS!r}, {NEARLY!r}\n"
        f"local MOST_FIELDS, MONTH_KEPT, FULL_KEPT ="
        f" {MOST_REMEMBERED + BUCKET_FIELDS}, {MONTH_KEPT_SECONDS}, {FULL_KEPT_SECONDS}\n"
    ).encode()
    + b"""
local call, max, min = redis.call, math.max, math.min

local function text(number)
  return string.format('%.17g', number)
end

-- what is of another type than it should be is nothing, and makes room
local function read(key, ...)
  local held = redis.pcall('HMGET', key, ...)
  if held.err then
    call('DEL', key)
    held = call('HMGET', key, ...)
  end
  return held
end

local now = tonumber(ARGV[2])
if not now then
  local time = call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

-- the civil calendar, counted in years that begin in March (proleptic Gregorian, from 0000-03-01)
local function month_of(seconds)
  local days = math.floor(seconds / 86400) + 719468
  local era = math.floor(days / 146097)
  local day = days - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  local of_year = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153)
  month = month < 10 and month + 3 or month - 9
  return string.format('%04d-%02d', year + era * 400 + (month <= 2 and 1 or 0), month)
end

local verbs = {}

local function clock_at(clock, before, heard_at)
  local step = heard_at - before
  if step > 0 and (step <= SILENCE or call('EXISTS', KEYS[1]) == 0) then
    return clock + step
  end
  return clock
end

-- KEYS: nodes, data. ARGV: node.
function verbs.look()
  local held = read(KEYS[2], 'epoch', 'clock', 'heard_at')
  local clock, heard_at = tonumber(held[2] or '') or 0, tonumber(held[3] or '')
  if held[1] and heard_at then
    clock = clock_at(clock, heard_at, now)
  end
  local others = 0
  for _, name in ipairs(call('ZRANGEBYSCORE', KEYS[1], text(now - PRESENT), '+inf')) do
    if name ~= ARGV[3] then
      others = others + 1
    end
  end
  return {text(now), held[1] or '', text(clock), others + 1}
end

-- KEYS: nodes, data. ARGV: node, heard at, epoch known.
function verbs.contact()
  local held = read(KEYS[2], 'epoch', 'clock', 'heard_at', 'lost')
  local heard_at = min(tonumber(ARGV[4]), now)
  local epoch, clock, lost = held[1], tonumber(held[2] or '') or 0, held[4] or '0'
  local before = tonumber(held[3] or '') or heard_at
  if not epoch then
    epoch, clock, before = string.format('%.6f', now), 0, heard_at
    lost = ARGV[5] ~= '' and '1' or '0'
  else
    if ARGV[5] ~= '' and ARGV[5] ~= epoch then
      lost = '1'
    end
    clock = clock_at(clock, before, heard_at)
    if heard_at > before or before > now + SILENCE then
      before = heard_at
    end
  end
  call('HSET', KEYS[2], 'epoch', epoch, 'clock', text(clock), 'heard_at', text(before), 'lost', lost)
  call('EXPIRE', KEYS[2], MONTH_KEPT)
  call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. text(now - PRESENT))
  call('ZADD', KEYS[1], text(now), ARGV[3])
  call('EXPIRE', KEYS[1], MONTH_KEPT)
  return {text(now), epoch, text(clock_at(clock, before, now)), call('ZCARD', KEYS[1])}
end

-- KEYS: nodes. ARGV: node.
function verbs.leave()
  return call('ZREM', KEYS[1], ARGV[3])
end

-- KEYS: bucket, data. ARGV: node, life, qps, burst, least wait, quota, opening, spent that is settled, spent,
-- granted that is settled, granted, month, spent in it, known to be used, counted, the data in which that was.
function verbs.report()
  local key, node = KEYS[1], '@' .. ARGV[3]
  local qps, burst, quota = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[8])
  local opening = tonumber(ARGV[9])
  local held = read(key, 'tokens', 'time', 'closed_until', 'month', 'used', node, 'before', 'known')
  local tokens, time, closed_until = tonumber(held[1] or ''), tonumber(held[2] or ''), tonumber(held[3] or '')
  local month_held, used = held[4] or '', tonumber(held[5] or '') or 0
  local before, known = tonumber(held[7] or '') or 0, tonumber(held[8] or '') or 0
  local data = read(KEYS[2], 'clock', 'lost', 'epoch')

  local spent_before, granted_before = tonumber(ARGV[10]), tonumber(ARGV[12])
  local life, spent_heard, granted_heard = string.match(held[6] or '', '^(%S+) (%S+) (%S+)$')
  if life == ARGV[4] then
    spent_before = tonumber(spent_heard) or spent_before
    granted_before = tonumber(granted_heard) or granted_before
  end
  local spent = max(0, tonumber(ARGV[11]) - spent_before)
  local granted = max(0, tonumber(ARGV[13]) - granted_before)

  local balance, wait, kept = 0, 0, FULL_KEPT
  if qps and burst then
    local clock = tonumber(data[1] or '') or 0
    if not (tokens and time and closed_until) then
      tokens = data[2] == '1' and opening + clock * qps or burst
      time, closed_until = clock, 0
    end
    local elapsed = clock - time
    if elapsed > 0 then
      tokens = tokens + elapsed * qps
    else
      closed_until = closed_until + elapsed
    end
    tokens = min(burst, min(burst, tokens) - spent + granted)
    tokens = max(tokens, opening - burst)
    if spent > 0 and tokens < 1 - NEARLY then
      closed_until = clock + tonumber(ARGV[7])
    end
    wait = closed_until - clock
    if tokens < 1 - NEARLY then
      wait = max(wait, (1 - tokens) / qps)
    end
    wait = max(0, wait)
    kept = kept + math.ceil((burst - tokens) / qps)
    balance = tokens
    tokens, time, closed_until = text(tokens), text(clock), text(closed_until)
  end

  local month, count = month_of(now), 0
  if quota then
    local begins = month > month_held
    if begins then
      month_held, before, used, known = month, 0, 0, 0
    end
    month = month_held
    if ARGV[14] == month then
      if begins or (ARGV[18] ~= '' and ARGV[18] ~= data[3]) then
        before = max(before, tonumber(ARGV[17]))
      end
      used = used + min(spent, tonumber(ARGV[15]))
      known = max(known, tonumber(ARGV[16]))
    else
      used = used + spent
    end
    count = max(before + used, known)
    kept = max(kept, MONTH_KEPT)
  end

  if not held[6] and call('HLEN', key) >= MOST_FIELDS then
    for _, name in ipairs(call('HKEYS', key)) do
      if string.sub(name, 1, 1) == '@' then
        call('HDEL', key, name)
      end
    end
  end
  call('HSET', key, 'tokens', tokens or '', 'time', time or '', 'closed_until', closed_until or '',
    'month', month_held, 'before', text(before), 'used', text(used), 'known', text(known),
    node, ARGV[4] .. ' ' .. ARGV[11] .. ' ' .. ARGV[13])
  call('EXPIRE', key, kept)
  return {text(balance), text(wait), text(count), month}
end

return verbs[ARGV[1]]()
"""
)


class ValkeyLeases:
    """L{tbeast.services.limits.SharedLimits} over Valkey."""

    def __init__(self, client: ValkeyClient, server_time: Callable[[], float] | None = None) -> None:
        """Set it up.

        @param server_time: used in place of the server's own time, in seconds since the epoch; for tests.
        """
        self._client = client
        self._server_time = server_time

    async def look(self, node: str) -> Contact:
        """See L{tbeast.services.limits.SharedLimits.look}."""
        (reply,) = await self._ask([((NODES, DATA), ("look", self._time(), node))])
        return _contact(reply)

    async def exchange(self, hello: Hello, reports: Sequence[Report]) -> tuple[Contact, list[Balance]]:
        """See L{tbeast.services.limits.SharedLimits.exchange}."""
        time, node = self._time(), hello.node
        calls: list[tuple[tuple[Word, ...], tuple[Word, ...]]] = [
            ((NODES, DATA), ("contact", time, node, repr(hello.heard_at), hello.epoch))
        ]
        calls += [((PREFIX + report.key_id, DATA), ("report", time, node, *_words(report))) for report in reports]
        first, *others = await self._ask(calls)
        return _contact(first), [_balance(reply) for reply in others]

    async def leave(self, node: str) -> None:
        """See L{tbeast.services.limits.SharedLimits.leave}."""
        await self._ask([((NODES,), ("leave", self._time(), node))])

    def _time(self) -> str:
        return "" if self._server_time is None else repr(self._server_time())

    async def _ask(self, calls: Sequence[tuple[Sequence[Word], Sequence[Word]]]) -> list[Reply]:
        replies = await self._client.scripts(LAW, calls)
        carried_out(replies)
        return replies


def _words(report: Report) -> tuple[Word, ...]:
    return (
        report.life, _optional(report.qps), _optional(report.burst), repr(report.min_wait_seconds),
        _optional(report.quota), repr(report.opening), report.settled_spent, report.spent,
        repr(report.settled_granted), repr(report.granted), report.month, report.month_spent, report.known,
        report.counted, report.counted_in,
    )  # fmt: skip


def _optional(number: float | None) -> str:
    return "" if number is None else repr(number)


def _contact(reply: Reply) -> Contact:
    match reply:
        case [bytes(time), bytes(epoch), bytes(clock), int(nodes)]:
            return Contact(float(time), epoch.decode(), float(clock), nodes)
    raise CacheUnavailableError(f"the script for limits answered {reply!r}")


def _balance(reply: Reply) -> Balance:
    match reply:
        case [bytes(tokens), bytes(wait), bytes(used), bytes(month)]:
            return Balance(float(tokens), float(wait), int(float(used)), month.decode())
    raise CacheUnavailableError(f"the script for limits answered {reply!r}")
