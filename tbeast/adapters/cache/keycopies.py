"""Copies of the keys in Valkey: C{apikey:<hexadecimal SHA-256 of the key>}, a String that lives for a day.

Each is asked for by a command of its own, many in one write: a command that names several keys is refused by a
clustered server when they do not happen to lie in the same slot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from tbeast.adapters.cache.valkey import RefusedError, ValkeyClient, carried_out

PREFIX: Final = b"apikey:"
SECONDS_TO_LIVE: Final = 24 * 3600
BATCH: Final = 1000
SCANNED_AT_ONCE: Final = 5000
"""How many keys of any sort the server looks at for one answer; it does nothing else meanwhile."""

_DIGEST: Final = re.compile(rb"[0-9a-f]{64}")


class ValkeyKeyCopies:
    """L{tbeast.interfaces.KeyCopies} over Valkey."""

    def __init__(self, client: ValkeyClient) -> None:
        self._client = client

    async def put_many(self, copies: Mapping[str, bytes]) -> None:
        """See L{tbeast.interfaces.KeyCopies.put_many}. Those before one that is refused are stored."""
        items = list(copies.items())
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            carried_out(
                await self._client.pipeline(
                    [(b"SET", PREFIX + digest.encode(), copy, b"EX", SECONDS_TO_LIVE) for digest, copy in batch]
                )
            )

    async def remove(self, digests: Sequence[str]) -> None:
        """See L{tbeast.interfaces.KeyCopies.remove}."""
        for start in range(0, len(digests), BATCH):
            batch = digests[start : start + BATCH]
            carried_out(await self._client.pipeline([(b"DEL", PREFIX + digest.encode()) for digest in batch]))

    async def all(self) -> dict[str, bytes]:
        """See L{tbeast.interfaces.KeyCopies.all}. What is there from the first to the last is surely found."""
        found: dict[str, bytes] = {}
        cursor: bytes = b"0"
        while True:
            cursor, names = await self._client.command(
                b"SCAN", cursor, b"MATCH", PREFIX + b"*", b"COUNT", SCANNED_AT_ONCE
            )
            digests = [name[len(PREFIX) :] for name in names if _DIGEST.fullmatch(name, len(PREFIX))]
            copies = await self._client.pipeline([(b"GET", PREFIX + digest) for digest in digests])
            for digest, copy in zip(digests, copies, strict=True):
                if isinstance(copy, RefusedError):
                    if not copy.wrong_type:
                        raise copy
                elif copy is not None:  # it may have run out just now
                    found[digest.decode()] = copy
            if cursor == b"0":
                return found
