"""API keys."""

from __future__ import annotations

import base64
import hashlib
import hmac

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.keys import (
    MOST_REMEMBERED,
    REVOKED,
    KeyChange,
    KeyRecord,
    RememberedDigests,
    account_of,
    digest_of,
    is_allowed,
    is_well_formed,
    key_id_of,
    make_key,
)
from tbeast.domain.plans import PLANS


class KeyTests(SynchronousTestCase):
    def test_made(self) -> None:
        """All randomness that was given is in the key."""
        asked: list[int] = []

        def random_bytes(size: int) -> bytes:
            asked.append(size)
            return bytes(range(size))

        key = make_key(random_bytes)
        self.assertEqual("tb_aaaqeayeau_aaaqeayeaudaocajbifqydiob4ibceqt", key)
        self.assertEqual([7, 20], asked)
        self.assertEqual("aaaqeayeau", key_id_of(key))

    @settings(max_examples=50, deadline=None)
    @given(st.binary(min_size=7, max_size=7), st.binary(min_size=20, max_size=20))
    def test_any_made(self, first: bytes, second: bytes) -> None:
        key = make_key(lambda size: first if size == 7 else second)
        self.assertTrue(is_well_formed(key) and is_allowed(key))
        self.assertEqual(key[3:13], key_id_of(key))

    def test_not_well_formed(self) -> None:
        good = "tb_aaaqeayeau_aaaqeayeaudaocajbifqydiob4ibceqt"
        for bad in (
            "",
            good[:-1],
            good + "a",
            good + "\n",
            good.replace("tb_", "tc_"),
            good.replace("_a", "-a"),
            " " + good,
        ):
            self.assertFalse(is_well_formed(bad), bad)

    def test_allowed(self) -> None:
        for text in ("k_test", "abcd", "a" * 128, "a{~}", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`"):
            self.assertTrue(is_allowed(text), text)
        for text in (
            "",
            "abc",
            "a" * 129,
            "with space",
            "a|bc",
            "~abcd",
            "{abcd",
            "abc\n",
            "k\u00e4se",
            "abc\x7f",
            "abcd\x00",
        ):
            self.assertFalse(is_allowed(text), text)

    def test_chosen(self) -> None:
        """A chosen key has a derived id, and the same one every time."""
        digest = base64.b32encode(hashlib.sha256(b"k_test").digest()).decode()
        self.assertEqual(digest[:10].lower(), key_id_of("k_test"))
        self.assertNotEqual(key_id_of("k_test"), key_id_of("k_test2"))


class AccountTests(SynchronousTestCase):
    def test_account(self) -> None:
        account = account_of("k_test", "free", "bench")
        self.assertEqual((key_id_of("k_test"), "free", "bench"), (account.key_id, account.tier, account.name))
        self.assertEqual(hashlib.sha256(b"k_test").digest(), account.digest)
        self.assertEqual(account.digest, digest_of(b"k_test"))
        self.assertEqual(hmac.new(b"k_test", b"datagram", hashlib.sha256).digest(), account.datagram_secret)

    def test_no_secret_in_its_repr(self) -> None:
        account = account_of("k_test", "free", "bench")
        for secret in ("k_test", repr(account.digest), repr(account.datagram_secret)):
            self.assertNotIn(secret, repr(account))

    def test_refused(self) -> None:
        """Without a word of the key."""
        for text, tier in (("my secret", "free"), ("secret-key", "gold"), ("sec", "free"), ("secr\u00e9t", "free")):
            error = self.assertRaises(ValueError, account_of, text, tier, "bench")
            self.assertIn("bench", str(error))
            self.assertNotIn("sec", str(error))

    def test_limits(self) -> None:
        """Those of the tier, unless it has its own."""
        account = account_of("k_test", "free", "bench")
        self.assertEqual(PLANS["free"], account.plan)
        own = evolve(PLANS["free"], burst=7)
        self.assertEqual((own, "free"), (evolve(account, plan=own).plan, account.tier))


class RecordTests(SynchronousTestCase):
    record = KeyRecord(account_of("k_test", "free", "bench"), False, 1.0, None, 7, "2026-04")

    def test_revoked(self) -> None:
        """At once, or from its end on."""
        self.assertEqual([False, True], [record.is_revoked(1e12) for record in (
            self.record, evolve(self.record, revoked=True))])  # fmt: skip
        ending = evolve(self.record, ends_at=100.0)
        self.assertEqual([False, True, True], [ending.is_revoked(now) for now in (99.9, 100.0, 100.1)])

    def test_used(self) -> None:
        """What was used of one month says nothing of another."""
        self.assertEqual([7, 0, 0], [self.record.used_in(month) for month in ("2026-04", "2026-05", "2026-03")])

    def test_no_secret_in_the_repr_of_a_change(self) -> None:
        change = KeyChange(REVOKED, self.record.account.key_id, self.record.account.digest)
        self.assertNotIn(repr(change.digest), repr(change))
        self.assertIn(change.key_id, repr(change))


class RememberedDigestsTests(SynchronousTestCase):
    def test_each_is_that_of_its_key(self) -> None:
        digests = RememberedDigests()
        for key in (b"a", b"b", b"a", b""):
            self.assertEqual(digest_of(key), digests[key])
        self.assertEqual(3, len(digests))

    def test_too_many_are_forgotten(self) -> None:
        digests = RememberedDigests()
        for number in range(MOST_REMEMBERED):
            digests[b"%d" % number]
        self.assertEqual(MOST_REMEMBERED, len(digests))
        self.assertEqual(digest_of(b"one more"), digests[b"one more"])
        self.assertEqual(1, len(digests))
        self.assertEqual(digest_of(b"7"), digests[b"7"])
