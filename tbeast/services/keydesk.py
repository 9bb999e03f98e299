"""The keys, as operators change them while the daemon runs.

What was committed is told to this node at once and to the others over the shared cache; those that do not hear it find
out by their own question to the database. Either way it is in force everywhere within L{EVERYWHERE_SECONDS}.

To have every node forget what it holds of a key and read it anew, its row is touched: that reaches also those to whom
no word comes. Its copy in the shared cache is written anew beside that. A key that the database has no longer, and this
node still holds, is taken out on all nodes as if it were revoked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final, Protocol

from twisted.logger import Logger

from tbeast.codecs.keycopies import encode_copy
from tbeast.domain.keyorders import Denied, KeyDetails, KeyEdit, KeyFilter, MadeKey, NewKey
from tbeast.domain.keys import CHANGED, CREATED, REVOKED, Account, KeyChange, KeyRecord
from tbeast.errors import CacheUnavailableError
from tbeast.interfaces import KeyCopies, Now

EVERYWHERE_SECONDS: Final = 5


class KeyRows(Protocol):
    """The keys in the database.

    Each call is one transaction. Every one raises L{tbeast.errors.StoreError} when the database cannot be asked now.
    """

    def listed(self, wanted: KeyFilter) -> Awaitable[Sequence[KeyRecord] | Denied]:
        """Keys in the order of their making."""

    def details(self, key_id: str) -> Awaitable[KeyDetails | Denied]:
        """All that is known of one."""

    def create(self, order: NewKey) -> Awaitable[MadeKey | Denied]:
        """Make one."""

    def change(self, key_id: str, edit: KeyEdit) -> Awaitable[KeyDetails | Denied]:
        """Change one."""

    def revoke(self, key_id: str) -> Awaitable[tuple[KeyDetails, bool] | Denied]:
        """Revoke one for good; whether it was good until now."""

    def rotate(self, key_id: str, grace_seconds: float) -> Awaitable[MadeKey | Denied]:
        """Make one in the place of another."""

    def touch(self, key_id: str) -> Awaitable[KeyDetails | Denied]:
        """Have every node read it anew."""


class Crier(Protocol):
    """Tells nodes of changes: L{tbeast.services.keyrefresh.KeyRefresh}."""

    async def announce(self, change: KeyChange) -> bool:
        """Tell this node and all others; whether the others could be told."""


class KnownKeys(Protocol):
    """The keys that this node holds."""

    def find_by_id(self, key_id: str) -> Account | None:
        """Whose key id this is."""


class KeyDesk:
    """See the module. What is refused comes back as L{Denied}; L{tbeast.errors.StoreError} comes through."""

    log = Logger()

    def __init__(self, rows: KeyRows, crier: Crier, ring: KnownKeys, copies: KeyCopies | None, now: Now) -> None:
        """Set it up.

        @param copies: C{None} where there is no shared cache.
        """
        self._rows = rows
        self._crier = crier
        self._ring = ring
        self._copies = copies
        self._now = now

    async def listed(self, wanted: KeyFilter) -> tuple[Sequence[KeyRecord], str | None] | Denied:
        """One page of keys, and the id to go on after; C{None}: there are no more."""
        more = KeyFilter(wanted.tier, wanted.name, wanted.revoked, wanted.after, wanted.limit + 1)
        found = await self._rows.listed(more)
        if isinstance(found, Denied):
            return Denied("bad_cursor", "the cursor names no key") if found.code == "unknown_key" else found
        page = found[: wanted.limit]
        return page, page[-1].account.key_id if len(found) > wanted.limit else None

    async def details(self, key_id: str) -> KeyDetails | Denied:
        """All that is known of a key."""
        return await self._rows.details(key_id)

    async def create(self, order: NewKey) -> MadeKey | Denied:
        """Make a key."""
        made = await self._rows.create(order)
        if isinstance(made, MadeKey):
            await self._tell(CREATED, made.details.record)
        return made

    async def change(self, key_id: str, edit: KeyEdit) -> KeyDetails | Denied:
        """Change a key."""
        changed = await self._rows.change(key_id, edit)
        if not isinstance(changed, Denied):
            await self._tell(CHANGED, changed.record)
        return changed

    async def revoke(self, key_id: str) -> tuple[KeyDetails, bool] | Denied:
        """Revoke a key for good; told again also if it was revoked before."""
        revoked = await self._rows.revoke(key_id)
        if not isinstance(revoked, Denied):
            await self._tell(REVOKED, revoked[0].record)
        return revoked

    async def rotate(self, key_id: str, grace_seconds: float) -> MadeKey | Denied:
        """Put a new key in the place of another, which ends now or after a time of grace."""
        made = await self._rows.rotate(key_id, grace_seconds)
        if isinstance(made, MadeKey):
            await self._tell(CREATED, made.details.record)
            if made.replaced is not None:
                old = made.replaced.record
                await self._tell(REVOKED if old.revoked else CHANGED, old)
        return made

    async def invalidate(self, key_id: str) -> KeyDetails | Denied | None:
        """Have every node forget what it holds of a key, and read it anew.

        @return: the key; or C{None}: the database has it no longer, and every node takes it out.
        """
        held = self._ring.find_by_id(key_id)
        found = await self._rows.touch(key_id)
        if isinstance(found, Denied):
            if found.code == "unknown_key" and held is not None:
                await self._crier.announce(KeyChange(REVOKED, key_id, held.digest))
                return None
            return found
        record = found.record
        if self._copies is not None:
            try:
                await self._copies.put_many({record.account.digest.hex(): encode_copy(record)})
            except CacheUnavailableError as error:
                # when it is back, all copies are written anew
                self.log.info("the copy of {key_id} is not written: {error}", key_id=key_id, error=str(error))
        await self._tell(REVOKED if record.is_revoked(self._now()) else CHANGED, record)
        return found

    async def _tell(self, what: str, record: KeyRecord) -> None:
        await self._crier.announce(KeyChange(what, record.account.key_id, record.account.digest))
