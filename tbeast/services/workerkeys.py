"""The keys of a hub in its workers: who hears of every change of the ring, and the ring's image in a worker.

The rules. A worker holds every account that may ask, and nothing else of the keys: what is revoked, ended or gone it
does not know, so that its answer to such a key is that of an unknown one. It hears of each change in the turn of the
reactor in which the hub's ring has it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from tbeast.domain.keys import Account, RememberedDigests


class Ring(Protocol):
    """What is needed of L{tbeast.services.keyring.Keyring}.

    @ivar turned: told the SHA-256s of keys that may lead to another account now, or to none.
    """

    turned: Callable[[Collection[bytes]], object]

    def with_digest(self, digest: bytes) -> Account | None:
        """Who may ask with the key of this SHA-256."""

    def digests(self) -> list[bytes]:
        """The SHA-256 of every key that may ask."""


Told = Callable[[Sequence[Account], Sequence[bytes]], object]
"""Told the accounts that may ask now, as they are now, and the SHA-256s of keys that may not any more."""


class KeyWatch:
    """Hears of every change of a ring.

    @ivar told: told of each change; see L{Told}.
    """

    def __init__(self, ring: Ring) -> None:
        """Begin to listen."""
        self.told: Told = lambda good, gone: None
        self.account_of = ring.with_digest
        self.digests = ring.digests
        ring.turned = self._turned

    def _turned(self, digests: Collection[bytes]) -> None:
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
        self._digests = RememberedDigests()
        self._by_digest: dict[bytes, Account] = {}
        self._by_id: dict[str, Account] = {}

    def __len__(self) -> int:
        """How many keys may ask."""
        return len(self._by_digest)

    def find(self, key: bytes) -> Account | None:
        """Whose key this is."""
        return self._by_digest.get(self._digests[key])

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
