"""The keys that are good, in memory, and the demo key that lets a new installation be tried.

The demo key has the tier partner. It is made at the first start and written, readable by its owner alone, to
C{demo.key} in the state folder; a later start takes the key that lies there, if it is one, so that it stays the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from twisted.application.service import Service

from tbeast.domain.keys import Account, account_of, digest_of, is_well_formed, make_key
from tbeast.errors import StateFolderError

DEMO_TIER = "partner"
_LONGEST_FILE = 1024


class Keyring:
    """Finds accounts by their keys' SHA-256, or by the id."""

    def __init__(self, accounts: Iterable[Account] = ()) -> None:
        self._by_digest: dict[bytes, Account] = {}
        self._by_id: dict[str, Account] = {}
        for account in accounts:
            self.add(account)

    def __len__(self) -> int:
        return len(self._by_digest)

    def add(self, account: Account) -> None:
        """Let this account ask from now on; the same key again replaces what was known of it.

        @raise ValueError: when another key has its id, by which a signature could not tell them apart.
        """
        other = self._by_id.get(account.key_id)
        if other is not None and other.digest != account.digest:
            raise ValueError(f"two keys have the id {account.key_id}: {other.name!r} and {account.name!r}")
        self._by_digest[account.digest] = account
        self._by_id[account.key_id] = account

    def remove(self, key_id: str) -> None:
        """Let this key ask no more; nothing if it is not known."""
        account = self._by_id.pop(key_id, None)
        if account is not None:
            del self._by_digest[account.digest]

    def find(self, key: bytes) -> Account | None:
        """Whose key this is."""
        return self._by_digest.get(digest_of(key))

    def find_by_id(self, key_id: str) -> Account | None:
        """Whose key id this is."""
        return self._by_id.get(key_id)


class DemoKeyService(Service):
    """Puts the demo key onto the ring at start.

    @ivar key: the key's text; empty before the start.
    @ivar path: where it lies.
    """

    name = "demo-key"

    def __init__(self, keyring: Keyring, state: Path, random_bytes: Callable[[int], bytes]) -> None:
        self.key = ""
        self.path = state / "demo.key"
        self._keyring = keyring
        self._random_bytes = random_bytes

    def startService(self) -> None:
        """Read the key, or make it.

        @raise StateFolderError: when the state folder cannot be made, read or written.
        """
        try:
            self.key = read_key(self.path) or make_key(self._random_bytes)
            write_key(self.path, self.key)
        except OSError as error:
            why = f"the state folder {self.path.parent} (TBEAST_STATE) cannot be used: {error.strerror or error}"
            raise StateFolderError(why) from error
        self._keyring.add(account_of(self.key, DEMO_TIER, "demo"))
        super().startService()  # type: ignore[no-untyped-call]


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
