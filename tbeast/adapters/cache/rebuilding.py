"""Writes to Valkey what the sync job has read, in bulk; and the copy of the parameters, C{app:config}.

What there is and how it lies is told in L{tbeast.domain.syncplan}. A million rows are five million changes, so the
commands are laid out by hand, as bytes ready for the wire: what rows have in common is laid out once, and one command
adds many entries to a set. A row's Hash is written before its entries, so whoever finds an entry finds the row.

Nothing here keeps the server busy for long: what is removed is removed in slices, and looking for names is done with
SCAN. Every command names one key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred

from tbeast.adapters.cache.valkey import ValkeyClient, Word, carried_out
from tbeast.domain.syncplan import (
    ASSET_INDEX,
    INDEX,
    KEPT_SECONDS,
    KEY_INDEX,
    MARKS,
    REPORT,
    REPORT_FIELDS,
    SECOND,
    USAGE_FIELDS,
    USAGE_LOG,
    ReportRow,
    Survey,
    Trimmed,
    UsageKind,
    UsageRow,
    entries_of,
)

CONFIG: Final = "app:config"

SLICE: Final = 250
"""How many rows go out in one write. Laying them out takes the process a millisecond or two, in which it does nothing
else."""
IN_FLIGHT: Final = 3
"""How many writes are under way at once."""

SCANNED_AT_ONCE: Final = 5000
ASKED_AT_ONCE: Final = 1000
TRIMMED_AT_ONCE: Final = 5000
LOOKED_FOR: Final = 30
"""Of how many rows the survey looks whether they are there."""
MARGIN_SECONDS: Final = 86_400
"""Rows that come so near to the end of their time are not looked for: clocks differ."""

MOST_KINDS: Final = 50_000

_ALL_INDEXES: Final = b"usage_logs:*"


def bulk(text: bytes) -> bytes:
    """One word of a command, as it goes over the wire."""
    return b"$%d\r\n%b\r\n" % (len(text), text)


_WORDS: Final = 2 + 2 * len(USAGE_FIELDS)
_ID_BYTES: Final = 36
_HEAD: Final = b"*%d\r\n$4\r\nHSET\r\n$%d\r\n%b" % (_WORDS, len(USAGE_LOG) + _ID_BYTES, USAGE_LOG.encode())
_NAMES: Final = tuple(bulk(name.encode()) for name in USAGE_FIELDS)
_OWN: Final = 4
"""How many of the fields are each row's own."""
_ROW: Final = b"%%b%%b\r\n%b$%%d\r\n%%b\r\n%b$%%d\r\n%%b\r\n%b$%%d\r\n%%b\r\n%b$%%d\r\n%%b\r\n%%b" % _NAMES[:_OWN]
_EXPIRE: Final = b"*3\r\n$8\r\nEXPIREAT\r\n$%d\r\n%b%%b\r\n$%%d\r\n%%b\r\n" % (
    len(USAGE_LOG) + _ID_BYTES,
    USAGE_LOG.encode(),
)
_RECORD: Final = _ROW + _EXPIRE
_KEPT: Final = b"%d" % KEPT_SECONDS


class Layout:
    """Lays rows out as commands. It remembers what kinds look like, up to a limit."""

    def __init__(self) -> None:
        self._kinds: dict[UsageKind, bytes] = {}

    def usage(self, rows: Sequence[UsageRow]) -> tuple[bytes, int]:
        """The commands that write rows and their entries, and how many those are."""
        kinds = self._kinds
        pieces = []
        for row_id, at, count, us_sum, us_max, kind in rows:
            common = kinds.get(kind)
            if common is None:
                common = self._learn(kind)
            until = b"%d" % (int(at) // SECOND + KEPT_SECONDS)
            pieces.append(
                _RECORD
                % (
                    _HEAD, row_id, len(at), at, len(count), count, len(us_sum), us_sum, len(us_max), us_max, common,
                    row_id, len(until), until,
                )
            )  # fmt: skip
        entries = entries_of(rows)
        sets = [(INDEX.encode(), entries.index)] if entries.index else []
        sets += [(KEY_INDEX.encode() + key_id, members) for key_id, members in entries.by_key.items()]
        sets += [(ASSET_INDEX.encode() + asset, members) for asset, members in entries.by_asset.items()]
        for name, members in sets:
            pieces.append(_added(name, members))
        return b"".join(pieces), 2 * len(rows) + 2 * len(sets)

    def _learn(self, kind: UsageKind) -> bytes:
        if len(self._kinds) >= MOST_KINDS:
            self._kinds.clear()
        common = b"".join(name + bulk(value) for name, value in zip(_NAMES[_OWN:], kind, strict=True))
        self._kinds[kind] = common
        return common


def _added(name: bytes, members: Sequence[bytes]) -> bytes:
    """The commands that add members, each with its score before it, to a set, and have it live on."""
    key = bulk(name)
    words = [b"*%d\r\n$4\r\nZADD\r\n%b" % (2 + len(members), key)]
    words += [b"$%d\r\n%b\r\n" % (len(word), word) for word in members]
    words.append(b"*3\r\n$6\r\nEXPIRE\r\n%b%b" % (key, bulk(_KEPT)))
    return b"".join(words)


def laid_out_reports(rows: Iterable[ReportRow]) -> tuple[bytes, int]:
    """The commands that write reports, and how many those are."""
    names = [bulk(name.encode()) for name in REPORT_FIELDS]
    pieces = []
    replies = 0
    for row in rows:
        key = bulk(REPORT.encode() + row.id)
        pieces.append(b"*%d\r\n%b%b" % (2 + 2 * len(names), bulk(b"HSET"), key))
        pieces += [name + bulk(value) for name, value in zip(names, row.values, strict=True)]
        pieces.append(b"*3\r\n%b%b%b" % (bulk(b"EXPIREAT"), key, bulk(b"%d" % (int(row.at) // SECOND + KEPT_SECONDS))))
        replies += 2
    return b"".join(pieces), replies


@frozen
class _Sets:
    """The names of the sets that there are."""

    by_key: tuple[bytes, ...]
    by_asset: tuple[bytes, ...]


async def _asked(client: ValkeyClient, commands: Sequence[Sequence[Word]]) -> list[Any]:
    """Ask many things.

    @raise RefusedError: when one of them was refused.
    """
    replies = await client.pipeline(commands)
    carried_out(replies)
    return replies


class ValkeyRebuilding:
    """What the sync job asks of the cache: L{tbeast.services.sync.SyncCache}."""

    def __init__(self, client: ValkeyClient, slice_rows: int = SLICE) -> None:
        """Set it up.

        @param slice_rows: how many rows go out in one write.
        """
        self._client = client
        self._slice_rows = slice_rows
        self._layout = Layout()

    async def marks(self) -> dict[str, str]:
        """What lies under C{sync:marks}; empty if nothing does."""
        words = await self._client.command(b"HGETALL", MARKS)
        texts = [word.decode("utf-8", "replace") for word in words]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    async def set_marks(self, fields: Mapping[str, str]) -> None:
        """Note how far the copy has come."""
        await self._client.command(b"HSET", MARKS, *(word for item in fields.items() for word in item))

    async def index_size(self) -> int:
        """How many rows are in the index."""
        return int(await self._client.command(b"ZCARD", INDEX))

    async def survey(self, cutoff_us: int) -> Survey:
        """Count what there is, and look whether rows are there that should be.

        @param cutoff_us: what is older may be gone already.
        """
        sets = await self._sets()
        by_key, by_asset = await self._sizes(sets.by_key), await self._sizes(sets.by_asset)
        near = cutoff_us // 1000 + MARGIN_SECONDS * 1000
        index, old = await _asked(self._client, [(b"ZCARD", INDEX), (b"ZCOUNT", INDEX, b"-inf", near)])
        spread = min(LOOKED_FOR, index - old)
        ranks = [old + (index - old) * place // spread for place in range(spread)]
        found = await _asked(self._client, [(b"ZRANGE", INDEX, rank, rank) for rank in ranks])
        ids = [members[0] for members in found if members]
        there = await _asked(self._client, [(b"EXISTS", USAGE_LOG.encode() + row_id) for row_id in ids])
        return Survey(index, by_key, by_asset, len(ids), len(ids) - sum(there))

    async def forget(self) -> None:
        """Drop every set of the copy. The rows go when their time is over."""
        sets = await self._sets()
        names = (INDEX.encode(), *sets.by_key, *sets.by_asset)
        for start in range(0, len(names), ASKED_AT_ONCE):
            batch = names[start : start + ASKED_AT_ONCE]
            await _asked(self._client, [(b"UNLINK", name) for name in batch])

    async def write_usage(self, rows: Sequence[UsageRow]) -> None:
        """Write rows and their entries; what is there already is left as it is.

        @raise tbeast.errors.CacheUnavailableError: some may be written and some not.
        """
        slices = (rows[start : start + self._slice_rows] for start in range(0, len(rows), self._slice_rows))
        await self._send(self._layout.usage(part) for part in slices)

    async def write_reports(self, rows: Sequence[ReportRow]) -> None:
        """Write reports; see L{write_usage}."""
        slices = (rows[start : start + self._slice_rows] for start in range(0, len(rows), self._slice_rows))
        await self._send(laid_out_reports(part) for part in slices)

    async def trim(self, cutoff_us: int) -> Trimmed:
        """Remove the entries of rows that are too old."""
        sets = await self._sets()
        removed = await self._trim(INDEX.encode(), cutoff_us // 1000)
        for name in await self._with_older((*sets.by_key, *sets.by_asset), cutoff_us // 1000):
            await self._trim(name, cutoff_us // 1000)
        by_key, by_asset = await self._sizes(sets.by_key), await self._sizes(sets.by_asset)
        return Trimmed(removed, await self.index_size(), by_key, by_asset)

    async def _send(self, parts: Iterable[tuple[bytes, int]]) -> None:
        """Send what is laid out, a few writes at a time, the next one laid out while they are under way."""
        under_way: deque[Deferred[None]] = deque()
        try:
            for data, replies in parts:
                under_way.append(self._client.send_packed(data, replies))
                if len(under_way) >= IN_FLIGHT:
                    await under_way.popleft()
            while under_way:
                await under_way.popleft()
        finally:
            for left in under_way:
                left.addErrback(lambda _: None)

    async def _sets(self) -> _Sets:
        by_key, by_asset = set(), set()
        cursor: bytes = b"0"
        while True:
            cursor, names = await self._client.command(
                b"SCAN", cursor, b"MATCH", _ALL_INDEXES, b"COUNT", SCANNED_AT_ONCE
            )
            by_key |= {name for name in names if name.startswith(KEY_INDEX.encode())}
            by_asset |= {name for name in names if name.startswith(ASSET_INDEX.encode())}
            if cursor == b"0":
                return _Sets(tuple(sorted(by_key)), tuple(sorted(by_asset)))

    async def _sizes(self, names: Sequence[bytes]) -> int:
        total = 0
        for start in range(0, len(names), ASKED_AT_ONCE):
            batch = names[start : start + ASKED_AT_ONCE]
            total += sum(await _asked(self._client, [(b"ZCARD", name) for name in batch]))
        return total

    async def _with_older(self, names: Sequence[bytes], cutoff_ms: int) -> list[bytes]:
        """Those sets that have something older than that."""
        older: list[bytes] = []
        for start in range(0, len(names), ASKED_AT_ONCE):
            batch = names[start : start + ASKED_AT_ONCE]
            counts = await _asked(self._client, [(b"ZCOUNT", name, b"-inf", b"(%d" % cutoff_ms) for name in batch])
            older += [name for name, count in zip(batch, counts, strict=True) if count]
        return older

    async def _trim(self, name: bytes, cutoff_ms: int) -> int:
        removed: int = 0
        while True:
            found = await self._client.command(b"ZRANGE", name, TRIMMED_AT_ONCE - 1, TRIMMED_AT_ONCE - 1, b"WITHSCORES")
            # by score, and not by rank: whoever does it twice removes nothing more
            upto = cutoff_ms if not found else min(cutoff_ms, int(float(found[1])) + 1)
            removed += int(await self._client.command(b"ZREMRANGEBYSCORE", name, b"-inf", b"(%d" % upto))
            if upto >= cutoff_ms:
                return removed


class ValkeyParameterCopies:
    """The copy of the parameters: L{tbeast.services.parameters.ParameterCopies}."""

    def __init__(self, client: ValkeyClient) -> None:
        self._client = client

    async def put(self, rows: Mapping[str, str]) -> None:
        """Make these the copy, all at once."""
        words = [word for item in rows.items() for word in item]
        fill: list[Sequence[bytes | str]] = [(b"HSET", CONFIG, *words)] if words else []
        await _asked(self._client, [(b"MULTI",), (b"DEL", CONFIG), *fill, (b"EXEC",)])

    async def read(self) -> dict[str, str]:
        """The copy; empty if there is none."""
        words = await self._client.command(b"HGETALL", CONFIG)
        texts = [word.decode("utf-8", "replace") for word in words]
        return dict(zip(texts[::2], texts[1::2], strict=True))
