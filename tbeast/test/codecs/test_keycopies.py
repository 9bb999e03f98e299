"""Copies of keys, and messages about them."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.keycopies import (
    LIST_AT,
    copies_of,
    decode_change,
    decode_copy,
    encode_change,
    encode_copy,
    read_copies,
)
from tbeast.domain.keys import CHANGES, REVOKED, KeyChange, KeyRecord, account_of, digest_of, is_allowed
from tbeast.domain.plans import PLANS, Plan

RECORD = KeyRecord(account_of("first-key", "pro", "désk"), False, 1.5, 2.5, 7, "2026-04", 3.25, None)
HEX = RECORD.account.digest.hex()

finite = st.floats(0.0, 1e12)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
rates: st.SearchStrategy[tuple[float | None, int | None]] = st.just((None, None)) | st.tuples(
    st.floats(0.001, 1e6), st.integers(1, 2**31)
)
plans = st.builds(
    lambda tier, quota, rate, wait, reports: Plan(tier, quota, rate[0], rate[1], wait, reports),
    texts,
    st.none() | st.integers(0, 2**62),
    rates,
    st.floats(0.0, 1e6),
    st.none() | st.integers(0, 2**31),
)


@st.composite
def records(draw: Any) -> KeyRecord:
    key = draw(st.text("abcdefghijk_:-", min_size=4, max_size=12))
    plan = draw(plans)
    account = evolve(
        account_of(key, "free", "x"), name=draw(texts), tier=plan.tier, plan=plan, lrs_addon=draw(st.booleans()),
        response_format=draw(texts), preferred_lang=draw(texts),
    )  # fmt: skip
    return KeyRecord(
        account, False, draw(finite), draw(st.none() | finite), draw(st.integers(0, 2**62)), "2026-04", draw(finite),
        draw(st.none() | finite),
    )  # fmt: skip


class CopyTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(records())
    def test_there_and_back(self, record: KeyRecord) -> None:
        self.assertEqual(record, decode_copy(record.account.digest.hex(), encode_copy(record)))

    def test_the_key_is_not_in_it(self) -> None:
        self.assertNotIn(b"first-key", encode_copy(RECORD))

    def test_revoked(self) -> None:
        """A mark, with nothing in it that would serve anybody."""
        mark = encode_copy(evolve(RECORD, revoked=True))
        self.assertNotIn(RECORD.account.datagram_secret.hex().encode(), mark)
        self.assertEqual(KeyChange(REVOKED, RECORD.account.key_id, RECORD.account.digest), decode_copy(HEX, mark))

    def test_nonsense(self) -> None:
        good = json.loads(encode_copy(RECORD))
        bad: list[dict[str, object]] = [
            {"kind": "note"}, {"key_id": ""}, {"key_id": 5}, {"datagram_secret": "ff"}, {"datagram_secret": "zz" * 32},
            {"current_usage": -1}, {"created_at": None}, {"tier": None}, {"lrs_addon": "yes"}, {"limits": None},
        ]  # fmt: skip
        limits: list[dict[str, object]] = [
            {"qps": 0}, {"qps": -1}, {"qps": None}, {"burst": None}, {"burst": 0}, {"min_wait_seconds": -1},
            {"monthly_quota": -1}, {"monthly_reports": -1}, {"burst": 1.5},
        ]  # fmt: skip
        bad += [{"limits": {**good["limits"], **change}} for change in limits]
        self.assertEqual(RECORD, decode_copy(HEX, json.dumps(good).encode()))
        for change in bad:
            self.assertIs(None, decode_copy(HEX, json.dumps({**good, **change}).encode()), change)
        for text in (b"", b"{}", b"[]", b"\xff", b"[" * 100_000, encode_copy(RECORD)[:-1], b'{"kind":"revoked"}'):
            self.assertIs(None, decode_copy(HEX, text), text[:50])
        infinite = encode_copy(RECORD).replace(b'"qps":10.0', b'"qps":1e999')
        self.assertNotEqual(infinite, encode_copy(RECORD))
        self.assertIs(None, decode_copy(HEX, infinite))

    def test_under_nonsense(self) -> None:
        """Under anything but a SHA-256 in its one spelling there is no copy."""
        for place in ("", "ff", HEX.upper(), HEX[:-1], HEX + "00", " " + HEX, f"{HEX[:32]} {HEX[32:]}", "é" * 64):
            self.assertIs(None, decode_copy(place, encode_copy(RECORD)), place)

    def test_another_version_may_say_more(self) -> None:
        more = {**json.loads(encode_copy(RECORD)), "colour": "red"}
        self.assertEqual(RECORD, decode_copy(HEX, json.dumps(more).encode()))


class CopiesTests(SynchronousTestCase):
    @settings(max_examples=50, deadline=None)
    @given(st.lists(records(), max_size=6, unique_by=lambda record: record.account.digest), st.data())
    def test_whole_or_not(self, some: list[KeyRecord], data: st.DataObject) -> None:
        """All that was written comes back; and if one is gone, that is seen."""
        some = [evolve(record, revoked=data.draw(st.booleans())) for record in some]
        entries = copies_of(some)
        copies = read_copies(entries)
        good = {record.account.digest: record for record in some if not record.revoked}
        self.assertEqual(good, {record.account.digest: record for record in copies.records})
        self.assertEqual(
            {record.account.digest for record in some if record.revoked}, {change.digest for change in copies.revoked}
        )
        self.assertEqual((True, 0), (copies.whole, copies.unread))
        if good:
            del entries[data.draw(st.sampled_from(sorted(digest.hex() for digest in good)))]
            self.assertFalse(read_copies(entries).whole)

    def test_no_list(self) -> None:
        entries = copies_of([RECORD])
        del entries[LIST_AT]
        copies = read_copies(entries)
        self.assertEqual(((RECORD,), False), (copies.records, copies.whole))
        self.assertFalse(read_copies({}).whole)
        self.assertTrue(read_copies(copies_of([])).whole)
        for text in (b"", b"5", encode_copy(RECORD)):
            self.assertFalse(read_copies({**entries, LIST_AT: text}).whole, text)

    def test_unread(self) -> None:
        """One that cannot be read spoils no other, but then they are not all."""
        other = evolve(RECORD, account=account_of("second-key", "free", "two"))
        entries = copies_of([RECORD, other])
        entries[HEX] = b"?"
        copies = read_copies(entries)
        self.assertEqual(((other,), False, 1), (copies.records, copies.whole, copies.unread))

    def test_the_list_lies_where_no_key_can(self) -> None:
        self.assertFalse(is_allowed("all keys"))
        self.assertEqual(digest_of(b"all keys").hex(), LIST_AT)


class ChangeTests(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        for what in CHANGES:
            change = KeyChange(what, "abc", digest_of(what.encode()))
            self.assertEqual(change, decode_change(encode_change(change)))

    def test_nonsense(self) -> None:
        good = {"what": REVOKED, "key_id": "abc", "digest": HEX}
        self.assertIsNot(None, decode_change(json.dumps(good).encode()))
        for change in (
            {"what": "praised"},
            {"key_id": ""},
            {"digest": "ff"},
            {"digest": HEX.upper()},
            {"digest": None},
        ):
            self.assertIs(None, decode_change(json.dumps({**good, **change}).encode()), change)
        for text in (b"", b"\xff\xfe", b"[]", b"revoked", b"{" * 100_000):
            self.assertIs(None, decode_change(text))

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=60))
    def test_anything(self, message: bytes) -> None:
        self.assertIs(None, decode_change(message))
        self.assertIs(None, decode_copy(HEX, message))

    def test_plans_of_the_code_are_sound(self) -> None:
        for tier in PLANS:
            record = evolve(RECORD, account=account_of("first-key", tier, "x"))
            self.assertEqual(record, decode_copy(HEX, encode_copy(record)))
