"""What reports read of the copy in the shared cache: lines of usage, out of sets by time and the Hashes behind them.

How the copy lies is told in L{tbeast.domain.syncplan}. Its sets know times to the millisecond alone, so what is read of
them is read by whole milliseconds, and put in order by what the Hashes say.

A set that has an entry without its Hash cannot be relied upon: then nothing is given, and the database must be asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tbeast.adapters.cache.rebuilding import ValkeyRebuilding
from tbeast.adapters.cache.valkey import ValkeyClient, carried_out
from tbeast.domain.reports import ReportQuery, UsageLine, place_of, usage_line
from tbeast.domain.reportsources import CopiedLines
from tbeast.domain.syncplan import (
    ASSET_INDEX,
    INDEX,
    KEY_INDEX,
    NO_ID,
    USAGE_FIELDS,
    USAGE_LOG,
    Place,
    UsageKind,
    UsageRow,
)
from tbeast.errors import CopyIncompleteError

READ_AT_ONCE: Final = 200
"""How many Hashes are asked for at once. To read their replies takes milliseconds, in which no price goes out."""

_MS: Final = 1000


class ValkeyReports:
    """The copy, as reports read it."""

    def __init__(self, client: ValkeyClient) -> None:
        self._client = client
        self._rebuilding = ValkeyRebuilding(client)

    async def marks(self) -> Mapping[str, str]:
        """How far it has come.

        @raise tbeast.errors.CacheUnavailableError: when the cache cannot be asked.
        """
        return await self._rebuilding.marks()

    async def usage(self, query: ReportQuery, after: Place, limit: int) -> CopiedLines:
        """Read lines of a report that come after a place, in their order, out of at least so many entries.

        @raise CopyIncompleteError: when something is missing.
        @raise tbeast.errors.CacheUnavailableError: when the cache cannot be asked.
        """
        entries, end_ms = await self._entries(query, max(after[0], query.from_us) // _MS, limit)
        lines = []
        for start in range(0, len(entries), READ_AT_ONCE):
            lines += await self._lines(entries[start : start + READ_AT_ONCE])
        lines = [line for line in lines if place_of(line) > after and query.takes(line)]
        lines.sort(key=place_of)
        return CopiedLines(lines, after if end_ms is None else (end_ms * _MS, NO_ID), end_ms is not None)

    async def _entries(self, query: ReportQuery, from_ms: int, limit: int) -> tuple[list[bytes], int | None]:
        """The ids of all entries from one millisecond on up to another, which is given; C{None}: to the end."""
        to_ms = -(-query.to_us // _MS)
        while True:
            words = await self._client.command(
                b"ZRANGE", _set_of(query), from_ms, f"({to_ms}", b"BYSCORE", b"LIMIT", 0, limit, b"WITHSCORES"
            )
            ids, scores = words[::2], [int(float(score)) for score in words[1::2]]
            if len(ids) < limit:
                return ids, None
            if scores[0] < scores[-1]:  # of the last one there may be more
                return ids[: scores.index(scores[-1])], scores[-1]
            limit *= 2

    async def _lines(self, ids: Sequence[bytes]) -> list[UsageLine]:
        commands = [(b"HMGET", USAGE_LOG.encode() + row_id, *USAGE_FIELDS) for row_id in ids]
        replies: list[list[Any]] = await self._client.pipeline(commands)
        carried_out(replies)
        lines = []
        for row_id, values in zip(ids, replies, strict=True):
            if None in values:
                raise CopyIncompleteError(f"{USAGE_LOG}{row_id.decode('ascii', 'replace')} is missing in the copy")
            try:
                at, count, us_sum, us_max, *kind = values
                lines.append(usage_line(UsageRow(row_id, at, count, us_sum, us_max, UsageKind(*kind))))
            except ValueError as error:
                raise CopyIncompleteError(
                    f"{USAGE_LOG}{row_id.decode('ascii', 'replace')} cannot be read: {error}"
                ) from error
        return lines


def _set_of(query: ReportQuery) -> str:
    """The smallest set that has all lines of a report."""
    if query.key_id:
        return f"{KEY_INDEX}{query.key_id}"
    return f"{ASSET_INDEX}{query.asset}" if query.asset else INDEX
