"""The gate: one verdict for every question, over HTTP and over UDP.

Dictionaries and arithmetic only; nothing here waits. Who a key is, is asked anew each time, so that a key that was
taken back is out at the next question; how a key stands is kept for as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tbeast.domain.admission import (
    NOBODY,
    NOT_RECORDED_RETRY_SECONDS,
    NOT_YET_KNOWN,
    UNMETERED,
    OpenStanding,
    Standing,
    Verdict,
)
from tbeast.domain.keys import Account


class Keyring(Protocol):
    """Knows the keys that are good.

    @ivar is_complete: whether a key that it does not know is nobody's; else it may not have been loaded yet.
    """

    @property
    def is_complete(self) -> bool:
        """See above."""

    def find(self, key: bytes) -> Account | None:
        """Whose key this is; C{None} if it is nobody's."""

    def find_by_id(self, key_id: str) -> Account | None:
        """Whose key id this is, for questions that prove their key by a signature."""


class Gate:
    """Decides on questions.

    @ivar keyring: asked for every question; must answer from memory.
    @ivar is_shut: whether everything is refused, because nothing can be recorded and the operator wants it so.
    """

    def __init__(self, keyring: Keyring, open_standing: OpenStanding = Standing) -> None:
        self.keyring = keyring
        self._open_standing = open_standing
        self._standings: dict[str, Standing] = {}
        self._usage: dict[str, tuple[str, int]] = {}
        self.is_shut = False

    def admit(self, key: bytes, now: float) -> Verdict:
        """Decide on one question asked with C{key}; an admitted one is counted."""
        account = self.keyring.find(key)
        if account is not None and not self.is_shut:  # the usual case, at a lower price
            standing = self._standings.get(account.key_id)
            if standing is not None and standing.account is account:
                return standing.admit(now)
        if account is None:
            return NOBODY if self.keyring.is_complete else NOT_YET_KNOWN
        return self.admit_account(account, now)

    def admit_account(self, account: Account, now: float) -> Verdict:
        """Decide on one question of somebody whose key was verified already."""
        if self.is_shut:
            return Verdict(UNMETERED, account, 0, 0, 0, NOT_RECORDED_RETRY_SECONDS)
        standing = self._standings.get(account.key_id)
        if standing is None:
            standing = self._standings[account.key_id] = self._open_standing(account, now)
            if account.key_id in self._usage:
                standing.heard_usage(*self._usage[account.key_id])
        elif standing.account is not account and standing.account != account:
            standing = self._standings[account.key_id] = standing.moved_to(account, now)
        return standing.admit(now)

    def heard_usage(self, usage: Mapping[str, tuple[str, int]]) -> None:
        """What keys have used on all nodes: by key id the month (C{YYYY-MM}) and the questions admitted in it."""
        self._usage.update(usage)
        for key_id, (month, used) in usage.items():
            standing = self._standings.get(key_id)
            if standing is not None:
                standing.heard_usage(month, used)

    def used(self, key_id: str) -> int:
        """How many questions of a key were admitted this month, as far as this process knows."""
        standing = self._standings.get(key_id)
        return 0 if standing is None else standing.used
