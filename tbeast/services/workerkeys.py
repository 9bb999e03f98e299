"""The keys of a hub in its workers: who hears of every change of the ring, and the ring's image in a worker.

The rules. A worker holds every account that may ask, and nothing else of the keys: what is revoked, ended or gone it
does not know, so that its answer to such a key is that of an unknown one. It hears of each change in the turn of the
reactor in which the hub's ring has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from tbeast.domain.keys import Account, KeyRecord, digest_of


class Ring(Protocol):
    """What is needed of L{tbeast.services.keyring.Keyring}.

    @ivar withdrawn: told at once of every account that its key does not lead to any more.
    """

    withdrawn: Callable[[Account], object]

    def records(self) -> list[KeyRecord]:
        """What is known of every key of the store here."""

    def record_of(self, digest: bytes) -> KeyRecord | None:
        """What is known of a key of the store."""


Told = Callable[[Sequence[Account], Sequence[bytes]], object]
"""Told the accounts that may ask now, as they are now, and the SHA-256s of keys that may not any more."""


class KeyWatch:
    """Hears of every change of a ring: of accounts that go by its word, and of those that come by standing before the
    methods that bring them.

    @ivar told: told of each change; see L{Told}.
    """

    def __init__(self, ring: Ring, own: Iterable[Account]) -> None:
        """Begin to listen.

        @param own: the keys from the settings, which win over those of the store and never change.
        """
        self.told: Told = lambda good, gone: None
        self._ring = ring
        self._own: dict[bytes, Account] = {}
        self._own_ids: set[str] = set()
        self._changing = 0
        self._changed: dict[bytes, None] = {}
        for account in own:
            self._take_own(account)
        ring.withdrawn = self._withdrawn
        self._stand_before("add", lambda result, account: [self._take_own(account)])
        self._stand_before("update", lambda result, *_: result)

    def digests(self) -> list[bytes]:
        """The SHA-256 of every key that may ask."""
        stored = (record.account for record in self._ring.records())
        return [*self._own, *(account.digest for account in stored if not self._is_hidden(account))]

    def account_of(self, digest: bytes) -> Account | None:
        """Who may ask with this key."""
        own = self._own.get(digest)
        if own is not None:
            return own
        record = self._ring.record_of(digest)
        return None if record is None or self._is_hidden(record.account) else record.account

    def _stand_before(self, name: str, changed: Callable[..., Iterable[bytes]]) -> None:
        """Tell what a method has changed when it is through, so that no account is gone for a moment and comes back."""
        method = getattr(self._ring, name)

        def called(*arguments: Any) -> Any:
            self._changing += 1
            try:
                result = method(*arguments)
                self._changed.update(dict.fromkeys(changed(result, *arguments)))
            finally:
                self._changing -= 1
                self._tell()
            return result

        setattr(self._ring, name, called)

    def _take_own(self, account: Account) -> bytes:
        self._own[account.digest] = account
        self._own_ids.add(account.key_id)
        return account.digest

    def _is_hidden(self, account: Account) -> bool:
        return account.digest in self._own or account.key_id in self._own_ids

    def _withdrawn(self, account: Account) -> None:
        self._changed[account.digest] = None
        self._tell()

    def _tell(self) -> None:
        if self._changing or not self._changed:
            return
        digests, self._changed = self._changed, {}
        good, gone = [], []
        for digest in digests:
            account = self.account_of(digest)
            if account is not None:
                good.append(account)
            else:
                gone.append(digest)
        self.told(good, gone)


class MirroredKeys:
    """The ring's image: L{tbeast.servers.gate.Keyring} of a worker.

    @ivar is_complete: see there; as the hub has said.
    @ivar withdrawn: as of L{tbeast.services.keyring.Keyring}: told at once of every account that its key does not lead
        to any more.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self.withdrawn: Callable[[Account], object] = lambda account: None
        self._by_digest: dict[bytes, Account] = {}
        self._by_id: dict[str, Account] = {}

    def __len__(self) -> int:
        """How many keys may ask."""
        return len(self._by_digest)

    def find(self, key: bytes) -> Account | None:
        """Whose key this is."""
        return self._by_digest.get(digest_of(key))

    def find_by_id(self, key_id: str) -> Account | None:
        """Whose key id this is."""
        return self._by_id.get(key_id)

    def take(self, good: Iterable[Account], gone: Iterable[bytes]) -> None:
        """The hub has said that these may ask, and those not any more.

        A key has one id and an id one key: who comes takes the place of whoever had either.
        """
        for digest in gone:
            self._drop(self._by_digest.get(digest))
        for account in good:
            self._drop(self._by_digest.get(account.digest))
            self._drop(self._by_id.get(account.key_id))
            self._by_digest[account.digest] = account
            self._by_id[account.key_id] = account

    def _drop(self, account: Account | None) -> None:
        if account is not None:
            del self._by_digest[account.digest]
            del self._by_id[account.key_id]
            self.withdrawn(account)
