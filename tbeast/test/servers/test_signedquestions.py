"""Who has signed a question, and why it is dropped if nobody has."""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs import datagrams
from tbeast.codecs.signatures import SpentMacs, mac_of
from tbeast.domain.admission import KEYS_UNAVAILABLE
from tbeast.domain.keys import Account, account_of
from tbeast.servers.signedquestions import signer

NOW = 1_776_003_781.0
ACCOUNT = account_of("a-key-of-somebody", "pro", "somebody")


@frozen
class Asked:
    key: bytes
    at_ms: int
    signed: bytes
    mac: bytes


class Ring:
    def __init__(self, is_complete: bool = True) -> None:
        self.is_complete = is_complete

    def find(self, key: bytes) -> Account | None:
        return None

    def find_by_id(self, key_id: str) -> Account | None:
        return ACCOUNT if key_id == ACCOUNT.key_id else None


class SignerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.spent = SpentMacs(capacity=2)
        signed = b"~1|somebody|BTC"
        self.asked = Asked(ACCOUNT.key_id.encode(), int(NOW * 1000), signed, mac_of(ACCOUNT.datagram_secret, signed))

    def judge(self, now: float = NOW, ring: Ring | None = None, **other: Any) -> Account | str:
        return signer(evolve(self.asked, **other), ring or Ring(), self.spent, now)

    def test_genuine(self) -> None:
        self.assertIs(ACCOUNT, self.judge())
        self.assertIs(ACCOUNT, self.judge())  # to look at it is not to answer it

    def test_why_not(self) -> None:
        self.assertEqual(datagrams.BAD_KEY, self.judge(key=b"nobody"))
        self.assertEqual(KEYS_UNAVAILABLE, self.judge(key=b"nobody", ring=Ring(is_complete=False)))
        self.assertEqual(datagrams.UNTIMELY, self.judge(NOW + 31.0))
        self.spent = SpentMacs(capacity=2)  # whose clock does not go back
        self.assertEqual(datagrams.BAD_MAC, self.judge(mac=bytes(16)))
        self.assertEqual(datagrams.BAD_MAC, self.judge(signed=b"~1|somebody|ETH"))
        self.spent.remember(self.asked.at_ms, self.asked.mac)
        self.assertEqual(datagrams.REPLAYED, self.judge())
        self.spent.remember(self.asked.at_ms, b"another")
        signed = b"~1|somebody|SOL"
        mac = mac_of(ACCOUNT.datagram_secret, signed)
        self.assertEqual(datagrams.MEMORY_FULL, self.judge(signed=signed, mac=mac))
