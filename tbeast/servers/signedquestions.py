"""Who has signed a question that came as a datagram: the same rules on every port that takes them."""

from __future__ import annotations

from typing import Protocol

from tbeast.codecs import datagrams
from tbeast.codecs.signatures import SpentMacs, is_genuine
from tbeast.domain.admission import KEYS_UNAVAILABLE
from tbeast.domain.keys import Account
from tbeast.servers.gate import Keyring


class Signed(Protocol):
    """A signed question.

    @ivar key: the id of the key that it is signed with.
    @ivar at_ms: when it was signed, as it says, in milliseconds since the epoch.
    @ivar signed: what was signed.
    @ivar mac: the signature.
    """

    @property
    def key(self) -> bytes:
        """See above."""

    @property
    def at_ms(self) -> int:
        """See above."""

    @property
    def signed(self) -> bytes:
        """See above."""

    @property
    def mac(self) -> bytes:
        """See above."""


def signer(question: Signed, keyring: Keyring, spent: SpentMacs, now: float) -> Account | str:
    """Whose question it is, or why it is dropped; looked at in the order of cost.

    @param spent: the macs that were answered. This one is not put among them; that is for who answers.
    """
    account = keyring.find_by_id(question.key.decode("latin-1"))
    if account is None:
        return datagrams.BAD_KEY if keyring.is_complete else KEYS_UNAVAILABLE
    if not spent.is_timely(question.at_ms, now):
        return datagrams.UNTIMELY
    if not is_genuine(account.datagram_secret, question.signed, question.mac):
        return datagrams.BAD_MAC
    if spent.is_spent(question.at_ms, question.mac):
        return datagrams.REPLAYED
    if spent.is_full:
        return datagrams.MEMORY_FULL
    return account
