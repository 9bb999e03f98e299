"""The keys that are good, in memory, and the demo key that lets a new installation be tried.

The rules of the ring. It holds every key of the store, so that a question costs one SHA-256 and one look into a
dictionary, and nobody is asked. An unknown key costs the same and no more, however many are tried: nothing needs to be
remembered of a bad key to be spared a question to the database, for there is none. (That is why there is no negative
cache.) Only while the ring is not complete may an unknown key be a good one that was not loaded yet.

Keys from the settings lie beside those of the store and are never taken out; where both have a key or an id, the
settings win. A key whose revocation was heard, from whomever, stays out, whatever an older answer or copy says of it:
nothing makes a revoked key good again. Of two answers about one key the one changed later holds, in whatever order
they come.

Nothing is compared secret by secret. What decides is whether the SHA-256 of what was sent is there; who does not know
the key cannot choose that SHA-256, so the time that the look takes tells nothing that helps to guess. A revoked key and
one that never was are both simply not there, and take the same way.

Memory: a key takes about 0.7 kB (Python 3.11, names of 20 characters), a revoked one 0.3 kB for a day.

The demo key has the tier partner. It is made at the first start and written, readable by its owner alone, to
C{demo.key} in the state folder; a later start takes the key that lies there, if the store knows it. Once it was revoked
there is no demo key any more, until somebody deletes the file.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Final, Protocol

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger

from tbeast.domain.keys import (
    REVOKED,
    Account,
    KeyChange,
    KeyRecord,
    RememberedDigests,
    account_of,
    digest_of,
    is_well_formed,
    make_key,
)
from tbeast.errors import StateFolderError, StoreError

DEMO_TIER: Final = "partner"
DEMO_NAME: Final = "demo"
_LONGEST_FILE: Final = 1024

OVERLAP_SECONDS: Final = 60.0
"""A key that was changed so shortly before an answer was given may be missing in it: its change was not committed."""


class Keyring:
    """Finds accounts by their keys' SHA-256, or by the id.

    @ivar is_complete: whether a key that is not here is a bad key. False from when somebody has undertaken to load
        keys until they are loaded.
    @ivar digests_xor: the exclusive or of the SHA-256s of all of the store's keys here, as a number.
    @ivar withdrawn: told at once of every account that its key does not lead to any more, be it revoked or changed.
    @ivar turned: told, when a change is through, the SHA-256s of the keys that may lead to another account than before
        it, or to none.
    """

    log = Logger()

    def __init__(self, own: Iterable[Account] = ()) -> None:
        """Make it.

        @param own: the keys from the settings.
        @raise ValueError: as L{add} does.
        """
        self.is_complete = True
        self.digests_xor = 0
        self.withdrawn: Callable[[Account], object] = lambda account: None
        self.turned: Callable[[Collection[bytes]], object] = lambda digests: None
        self._changes = 0
        self._turned: dict[bytes, None] = {}
        self._digests = RememberedDigests()
        self._by_digest: dict[bytes, Account] = {}
        self._by_id: dict[str, Account] = {}
        self._own: dict[str, Account] = {}
        self._own_digests: set[bytes] = set()
        self._records: dict[str, KeyRecord] = {}
        self._id_of: dict[bytes, str] = {}
        self._ending: dict[str, float] = {}
        self._revoked: dict[bytes, tuple[str, float]] = {}
        self._told: set[str] = set()
        for account in own:
            self.add(account)

    def __len__(self) -> int:
        """How many keys may ask."""
        return len(self._by_digest)

    def find(self, key: bytes) -> Account | None:
        """Whose key this is."""
        return self._by_digest.get(self._digests[key])

    def find_by_id(self, key_id: str) -> Account | None:
        """Whose key id this is."""
        return self._by_id.get(key_id)

    def with_digest(self, digest: bytes) -> Account | None:
        """Who may ask with the key of this SHA-256."""
        return self._by_digest.get(digest)

    def digests(self) -> list[bytes]:
        """The SHA-256 of every key that may ask."""
        return list(self._by_digest)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """What happens within is one change."""
        self._changes += 1
        try:
            yield
        finally:
            self._changes -= 1
            if not self._changes and self._turned:
                turned, self._turned = self._turned, {}
                self.turned(turned)

    # The keys from the settings.

    def add(self, account: Account) -> None:
        """Let this account ask from now on, whatever the store says; the same key again replaces what was known.

        @raise ValueError: when another key of this sort has its id, by which a signature could not tell them apart.
        """
        other = self._own.get(account.key_id)
        if other is not None and other.digest != account.digest:
            raise ValueError(f"two keys have the id {account.key_id}: {other.name!r} and {account.name!r}")
        with self._changing():
            for key_id in (account.key_id, self._id_of.get(account.digest, "")):
                if key_id in self._records:
                    self._hide(self._records[key_id].account)
            self._own[account.key_id] = account
            self._own_digests.add(account.digest)
            replaced = self._by_digest.get(account.digest)
            self._by_digest[account.digest] = account
            self._turned[account.digest] = None
            self._by_id[account.key_id] = account
            if replaced is not None:
                self.withdrawn(replaced)

    # The store's keys.

    @property
    def stored(self) -> int:
        """How many of the store's keys are here."""
        return len(self._records)

    def records(self) -> list[KeyRecord]:
        """What is known of every key of the store here."""
        return list(self._records.values())

    def record_of(self, digest: bytes) -> KeyRecord | None:
        """What is known of a key of the store."""
        key_id = self._id_of.get(digest)
        return None if key_id is None else self._records[key_id]

    def revocation_of(self, digest: bytes) -> KeyChange | None:
        """Word of a key's revocation, if it was heard within the last day or so."""
        known = self._revoked.get(digest)
        return None if known is None else KeyChange(REVOKED, known[0], digest)

    def revocations(self) -> list[KeyChange]:
        """Word of every revocation that was heard within the last day or so."""
        return [KeyChange(REVOKED, key_id, digest) for digest, (key_id, _) in self._revoked.items()]

    def update(self, records: Iterable[KeyRecord], now: float, as_of: float = -inf) -> list[bytes]:
        """Take what the store, or a copy, says of some keys.

        @param as_of: with an answer that has all keys, when it was given, by the database's clock. Where a key was
            changed well before that, the answer holds, though it be of an older change: the database was set back.
        @return: the SHA-256s of the keys of which this was news.
        """
        news = []
        with self._changing():
            for record in records:
                digest = record.account.digest
                if record.is_revoked(now):
                    if self.revoke(record.account.key_id, digest, now):
                        news.append(digest)
                elif digest not in self._revoked and self._take(record, as_of):
                    news.append(digest)
        return news

    def revoke(self, key_id: str, digest: bytes, now: float) -> bool:
        """Take a key out for good.

        @return: whether that was news.
        """
        if digest in self._revoked:
            return False
        self._revoked[digest] = (key_id, now)
        held = self._id_of.get(digest)
        if held is not None:
            with self._changing():
                self._drop(held)
        return True

    def expire(self, now: float) -> list[bytes]:
        """Take out the keys whose end has come; give their SHA-256s."""
        over = [key_id for key_id, ends_at in self._ending.items() if ends_at <= now]
        digests = [self._records[key_id].account.digest for key_id in over]
        with self._changing():
            for key_id, digest in zip(over, digests, strict=True):
                self.revoke(key_id, digest, now)
        return digests

    def keep_only(self, key_ids: Collection[str], as_of: float) -> list[bytes]:
        """Take out the store's keys that an answer with all of them does not have.

        @param key_ids: the ids in the answer; a set.
        @param as_of: when it was given, by the database's clock; keys younger than that stay.
        @return: the SHA-256s of those that were taken out.
        """
        vanished = [
            record
            for key_id, record in self._records.items()
            if key_id not in key_ids and record.changed_at < as_of - OVERLAP_SECONDS
        ]
        with self._changing():
            for record in vanished:
                self._drop(record.account.key_id)
        return [record.account.digest for record in vanished]

    def forget_revocations(self, before: float) -> None:
        """Forget the revocations that were heard before this time; no answer from then can come any more."""
        for digest in [digest for digest, (_, heard_at) in self._revoked.items() if heard_at < before]:
            del self._revoked[digest]

    def _take(self, record: KeyRecord, as_of: float) -> bool:
        account = record.account
        key_id = account.key_id
        held = self._records.get(key_id)
        if held is not None and record.changed_at < held.changed_at >= as_of - OVERLAP_SECONDS:
            return False
        if held is not None and held.account == account and held.ends_at == record.ends_at:
            if (held.current_usage, held.usage_month) != (record.current_usage, record.usage_month):
                # the account that is held, so that whoever compares by identity sees no change, and it is kept once
                self._records[key_id] = evolve(record, account=held.account)
            return False
        if held is not None:
            self._drop(key_id)
        other = self._id_of.get(account.digest)
        if other is not None:
            if record.changed_at < self._records[other].changed_at >= as_of - OVERLAP_SECONDS:
                return False
            self._drop(other)
        self._records[key_id] = record
        self._id_of[account.digest] = key_id
        self.digests_xor ^= int.from_bytes(account.digest, "big")
        if record.ends_at is not None:
            self._ending[key_id] = record.ends_at
        if account.digest in self._own_digests or key_id in self._own:
            self._tell_of(account)
        else:
            self._by_digest[account.digest] = account
            self._by_id[key_id] = account
            self._turned[account.digest] = None
        return True

    def _drop(self, key_id: str) -> None:
        account = self._records.pop(key_id).account
        del self._id_of[account.digest]
        self._ending.pop(key_id, None)
        self.digests_xor ^= int.from_bytes(account.digest, "big")
        self._hide(account)

    def _hide(self, account: Account) -> None:
        if self._by_digest.get(account.digest) is account:
            del self._by_digest[account.digest]
            del self._by_id[account.key_id]
            self._turned[account.digest] = None
            self.withdrawn(account)

    def _tell_of(self, account: Account) -> None:
        if account.key_id not in self._told:
            self._told.add(account.key_id)
            self.log.warn(
                "the key {key_id} ({name}) of the database is also among the keys of the settings, which win",
                key_id=account.key_id, name=account.name,
            )  # fmt: skip


class KeyMaking(Protocol):
    """Makes keys in the store, and knows them again."""

    def create(self, tier: str, name: str) -> Awaitable[tuple[str, KeyRecord]]:
        """Make a key: its text, and what is kept of it.

        @raise tbeast.errors.StoreError: when that does not work.
        """

    def find(self, digest: bytes) -> Awaitable[KeyRecord | None]:
        """The key with this SHA-256, revoked or not; C{None} if there is none.

        @raise tbeast.errors.StoreError: when that does not work.
        """


class DemoKeyService(Service):
    """Puts the demo key onto the ring at start.

    With a store the key is made in it, as every key is. Without one it lives in its file and on the ring alone.

    @ivar key: the key's text; empty before the start, and when there is no demo key.
    @ivar path: where it lies.
    """

    name = "demo-key"
    log = Logger()

    def __init__(
        self,
        keyring: Keyring,
        state: Path,
        random_bytes: Callable[[int], bytes],
        keys: KeyMaking | None = None,
        now: Callable[[], float] = lambda: 0.0,
        wanted: bool = True,
    ) -> None:
        """Set it up.

        @param keys: the store's keys; C{None} where there is no store.
        @param now: gives the time in seconds since the epoch.
        @param wanted: whether there is to be a demo key at all. Not where the database is the operator's own.
        """
        self.key = ""
        self.path = state / "demo.key"
        self._keyring = keyring
        self._random_bytes = random_bytes
        self._keys = keys
        self._now = now
        self._wanted = wanted

    def startService(self) -> Deferred[None] | None:
        """Read the key, or make it.

        @return: with a store, what fires when that is done, and may fail with L{StateFolderError}.
        @raise StateFolderError: when the state folder cannot be made, read or written.
        """
        started: Deferred[None] | None = None
        if self._wanted and self._keys is not None:
            started = ensureDeferred(self._stored(self._keys))
        elif self._wanted:
            self._alone()
        super().startService()  # type: ignore[no-untyped-call]
        return started

    def _alone(self) -> None:
        try:
            self.key = read_key(self.path) or make_key(self._random_bytes)
            write_key(self.path, self.key)
        except OSError as error:
            raise self._unusable(error) from error
        self._keyring.add(account_of(self.key, DEMO_TIER, DEMO_NAME))

    async def _stored(self, keys: KeyMaking) -> None:
        try:
            text = read_key(self.path)
            # found out before a key is made that nobody would ever see
            write_key(self.path, text)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            record = await keys.find(digest_of(text.encode("ascii"))) if text else None
            if record is None:
                text, record = await keys.create(DEMO_TIER, DEMO_NAME)
                write_key(self.path, text)
        except StoreError as error:
            # if it is in the database it will be loaded from there
            self.key = text
            self.log.warn("the database cannot be asked about the demo key: {error}", error=error)
            return
        except OSError as error:
            raise self._unusable(error) from error
        if record.is_revoked(self._now()):
            self.log.info(
                "the demo key {key_id} is revoked; for another one delete {path} and start again",
                key_id=record.account.key_id, path=str(self.path),
            )  # fmt: skip
            return
        self.key = text
        self._keyring.update([record], self._now())

    def _unusable(self, error: OSError) -> StateFolderError:
        return StateFolderError(
            f"the state folder {self.path.parent} (TBEAST_STATE) cannot be used: {error.strerror or error}"
        )


def read_key(path: Path) -> str:
    """Read the key in a file; empty if there is no file, or no well-formed key in it."""
    try:
        with open(path, "rb") as file:
            text = file.read(_LONGEST_FILE).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
    return text if is_well_formed(text) else ""


def write_key(path: Path, key: str) -> None:
    """Write a key for its owner alone, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(key + "\n")
    new.replace(path)
