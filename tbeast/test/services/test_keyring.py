"""The keyring, and the demo key."""

from __future__ import annotations

import os
import stat
import tracemalloc
from pathlib import Path

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.keys import (
    REVOKED,
    Account,
    KeyChange,
    KeyRecord,
    account_of,
    digest_of,
    is_well_formed,
    make_key,
)
from tbeast.domain.plans import PLANS
from tbeast.errors import StateFolderError, StoreUnavailableError
from tbeast.services.keyring import OVERLAP_SECONDS, DemoKeyService, Keyring
from tbeast.testing.logs import listen

ONE = account_of("first-key", "free", "one")
TWO = account_of("second-key", "pro", "two")
THREE = account_of("third-key", "pro", "three")


def record_of(
    account: Account, changed_at: float = 0.0, revoked: bool = False, ends_at: float | None = None
) -> KeyRecord:
    return KeyRecord(account, revoked, 1.0, None, 0, "2026-04", changed_at, ends_at)


class OwnKeyTests(SynchronousTestCase):
    def test_find(self) -> None:
        ring = Keyring([ONE, TWO])
        self.assertEqual([ONE, TWO, None, None], [
            ring.find(key) for key in (b"first-key", b"second-key", b"third-key", ONE.digest)])  # fmt: skip
        self.assertEqual([TWO, None], [ring.find_by_id(TWO.key_id), ring.find_by_id("first-key")])
        self.assertEqual((2, 0, True), (len(ring), ring.stored, ring.is_complete))

    def test_replace(self) -> None:
        ring = Keyring([ONE])
        better = account_of("first-key", "pro", "one")
        ring.add(better)
        self.assertEqual((better, better, 1), (ring.find(b"first-key"), ring.find_by_id(ONE.key_id), len(ring)))

    def test_same_id(self) -> None:
        """Two keys that a signature could not tell apart are refused, and the first stays."""
        secret = "abcdefghijklmnopqrstuvwxyz23456"
        first, second = (account_of(f"tb_sameidsame_{secret}{last}", "free", last) for last in "xy")
        ring = Keyring([first])
        error = self.assertRaises(ValueError, ring.add, second)
        self.assertNotIn(secret, str(error))
        self.assertEqual((first, None), (ring.find_by_id("sameidsame"), ring.find(f"tb_sameidsame_{secret}y".encode())))

    def test_they_stay(self) -> None:
        """Whatever the store says, and does not say."""
        ring = Keyring([ONE])
        ring.update([record_of(TWO)], 0.0)
        ring.keep_only(set(), 1e9)
        ring.update([record_of(ONE, revoked=True)], 0.0)
        ring.revoke(ONE.key_id, ONE.digest, 0.0)
        self.assertEqual(
            (ONE, ONE, None), (ring.find(b"first-key"), ring.find_by_id(ONE.key_id), ring.find(b"second-key"))
        )

    def test_they_win(self) -> None:
        """Over the same key in the store, and over one with the same id; and that is said once."""
        secrets = "abcdefghijklmnopqrstuvwxyz234567", "765432zyxwvutsrqponmlkjihgfedcba"
        own, twin = (account_of(f"tb_sameidsame_{secret}", "free", "x") for secret in secrets)
        stored = evolve(ONE, tier="pro", plan=PLANS["pro"])
        log = listen(self)
        ring = Keyring([ONE, own])
        for changed_at in (1.0, 2.0, 3.0):
            ring.update([record_of(stored, changed_at), record_of(twin, changed_at)], 0.0)
        self.assertEqual(
            [ONE, ONE, own, own, None],
            [
                ring.find(b"first-key"), ring.find_by_id(ONE.key_id), ring.find(f"tb_sameidsame_{secrets[0]}".encode()),
                ring.find_by_id("sameidsame"), ring.find(f"tb_sameidsame_{secrets[1]}".encode()),
            ],
        )  # fmt: skip
        self.assertEqual((2, 2), (len(ring), ring.stored))
        self.assertEqual(2, len(log.having("is also among the keys of the settings")))
        ring.keep_only(set(), 1e9)
        self.assertEqual((2, 0, ONE), (len(ring), ring.stored, ring.find(b"first-key")))

    def test_they_win_late(self) -> None:
        """Also over what the store has said before."""
        stored = evolve(ONE, tier="pro", plan=PLANS["pro"])
        ring = Keyring()
        ring.update([record_of(stored, 1.0)], 0.0)
        self.assertEqual(stored, ring.find(b"first-key"))
        ring.add(ONE)
        ring.revoke(ONE.key_id, ONE.digest, 0.0)
        self.assertEqual(
            (ONE, ONE, 1, 0), (ring.find(b"first-key"), ring.find_by_id(ONE.key_id), len(ring), ring.stored)
        )


class StoredKeyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ring = Keyring()

    def good(self) -> list[str]:
        """The names of the keys that may ask; by key and by id it must be the same."""
        keys = {b"first-key": ONE, b"second-key": TWO, b"third-key": THREE}
        found = {key: self.ring.find(key) for key in keys}
        self.assertEqual(list(found.values()), [self.ring.find_by_id(account.key_id) for account in keys.values()])
        return [account.name for account in found.values() if account is not None]

    def test_news(self) -> None:
        update = self.ring.update
        self.assertEqual([ONE.digest, TWO.digest], update([record_of(ONE, 1.0), record_of(TWO, 1.0)], 0.0))
        self.assertEqual([], update([record_of(ONE, 1.0), record_of(TWO, 2.0)], 0.0))
        changed = evolve(ONE, tier="pro", plan=PLANS["pro"])
        self.assertEqual([ONE.digest], update([record_of(changed, 2.0)], 0.0))
        self.assertEqual(changed, self.ring.find(b"first-key"))
        self.assertEqual([ONE.digest], update([record_of(changed, 3.0, revoked=True)], 0.0))
        self.assertEqual([], update([record_of(changed, 3.0, revoked=True)], 0.0))
        self.assertEqual([], update([record_of(THREE, revoked=True)], 0.0)[1:])
        self.assertEqual(["two"], self.good())

    def test_the_same_again_is_the_same_object(self) -> None:
        """So that whoever compares accounts by identity sees no change; but its use is told anew."""
        self.ring.update([record_of(ONE, 1.0)], 0.0)
        first = self.ring.find(b"first-key")
        again = evolve(record_of(account_of("first-key", "free", "one"), 1.0), current_usage=9)
        self.assertEqual([], self.ring.update([again], 0.0))
        self.assertIs(first, self.ring.find(b"first-key"))
        kept = self.ring.record_of(ONE.digest)
        assert kept is not None
        self.assertEqual(9, kept.current_usage)
        self.assertIs(first, kept.account)

    def test_a_late_answer(self) -> None:
        """What was changed later holds, in whatever order it comes."""
        changed = evolve(ONE, tier="pro", plan=PLANS["pro"])
        self.ring.update([record_of(changed, 2.0)], 0.0)
        self.assertEqual([], self.ring.update([record_of(ONE, 1.0)], 0.0))
        self.assertEqual(changed, self.ring.find(b"first-key"))

    def test_a_database_that_was_set_back(self) -> None:
        """All of its keys, asked for well after, hold against what it said before; a late answer does not."""
        changed = evolve(ONE, tier="pro", plan=PLANS["pro"])
        self.ring.update([record_of(changed, 100.0)], 0.0)
        self.ring.update([record_of(ONE, 1.0)], 0.0, 100.0 + OVERLAP_SECONDS)
        self.assertEqual(changed, self.ring.find(b"first-key"))
        self.ring.update([record_of(ONE, 1.0)], 0.0, 100.1 + OVERLAP_SECONDS)
        self.assertEqual(ONE, self.ring.find(b"first-key"))

    def test_revoked_before_it_was_known(self) -> None:
        """And an answer that was read before the revocation changes nothing, nor does a copy."""
        self.assertTrue(self.ring.revoke(ONE.key_id, ONE.digest, 5.0))
        self.assertFalse(self.ring.revoke(ONE.key_id, ONE.digest, 6.0))
        self.assertEqual([], self.ring.update([record_of(ONE, 99.0)], 7.0))
        self.assertEqual([], self.good())
        self.assertEqual([KeyChange(REVOKED, ONE.key_id, ONE.digest)], self.ring.revocations())
        self.assertEqual(self.ring.revocations()[0], self.ring.revocation_of(ONE.digest))
        self.assertIs(None, self.ring.revocation_of(TWO.digest))

    def test_forgotten(self) -> None:
        """Revocations are forgotten when no old answer can come any more."""
        self.ring.revoke(ONE.key_id, ONE.digest, 5.0)
        self.ring.revoke(TWO.key_id, TWO.digest, 6.0)
        self.ring.forget_revocations(6.0)
        self.assertEqual([TWO.key_id], [change.key_id for change in self.ring.revocations()])

    def test_an_end_that_comes(self) -> None:
        self.ring.update([record_of(ONE, ends_at=10.0), record_of(TWO, ends_at=20.0), record_of(THREE)], 9.0)
        self.assertEqual(([], ["one", "two", "three"]), (self.ring.expire(9.9), self.good()))
        self.assertEqual(([ONE.digest], ["two", "three"]), (self.ring.expire(10.0), self.good()))
        self.ring.update([record_of(ONE, ends_at=10.0)], 9.0)
        self.assertEqual(["two", "three"], self.good())
        self.ring.update([record_of(TWO, 1.0, ends_at=12.0)], 9.0)
        self.assertEqual(([TWO.digest], ["three"]), (self.ring.expire(12.0), self.good()))

    def test_an_end_that_is_past(self) -> None:
        self.assertEqual([ONE.digest], self.ring.update([record_of(ONE, ends_at=10.0)], 10.0))
        self.assertEqual([], self.good())

    def test_vanished(self) -> None:
        """Keys that are not among all go, unless they are so young that they may be missing."""
        self.ring.update([record_of(ONE, 1.0), record_of(TWO, 100.0), record_of(THREE, 1.0)], 0.0)
        self.assertEqual([ONE.digest], self.ring.keep_only({THREE.key_id}, 100.0 + OVERLAP_SECONDS))
        self.assertEqual(["two", "three"], self.good())
        self.assertEqual([TWO.digest], self.ring.keep_only({THREE.key_id}, 101.0 + OVERLAP_SECONDS))

    def test_come_back_after_vanishing(self) -> None:
        """To vanish is not to be revoked: a transaction may have been seen late."""
        self.ring.update([record_of(ONE, 1.0)], 0.0)
        self.ring.keep_only(set(), 1e9)
        self.ring.update([record_of(ONE, 1.0)], 0.0)
        self.assertEqual(["one"], self.good())

    def test_another_key_under_the_same_id(self) -> None:
        """And the same key under another id: the one before is gone."""
        secrets = "abcdefghijklmnopqrstuvwxyz234567", "765432zyxwvutsrqponmlkjihgfedcba"
        first, second = (account_of(f"tb_sameidsame_{secret}", "free", "x") for secret in secrets)
        self.ring.update([record_of(first, 1.0), record_of(second, 2.0)], 0.0)
        self.assertEqual(
            [None, second, second],
            [
                *(self.ring.find(f"tb_sameidsame_{secret}".encode()) for secret in secrets),
                self.ring.find_by_id("sameidsame"),
            ],
        )
        moved = evolve(second, key_id="elsewhere1")
        self.ring.update([record_of(moved, 3.0)], 0.0)
        self.assertEqual(
            (None, moved, 1), (self.ring.find_by_id("sameidsame"), self.ring.find_by_id("elsewhere1"), len(self.ring))
        )
        self.assertEqual([], self.ring.update([record_of(second, 2.0)], 0.0))

    def test_the_sum(self) -> None:
        """What the list of copies is made of follows every change."""
        self.ring.update([record_of(ONE), record_of(TWO), record_of(THREE)], 0.0)
        self.ring.update([record_of(TWO, 1.0, revoked=True)], 0.0)
        self.ring.keep_only({ONE.key_id}, 1e9)
        self.assertEqual((1, int.from_bytes(ONE.digest, "big")), (self.ring.stored, self.ring.digests_xor))

    def test_memory(self) -> None:
        """What a key takes is bounded as the module says; so is a revoked one."""
        count = 5_000
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            numbers = [f"{number:020}" for number in range(count)]
            records = []
            for number in numbers:
                digest, secret = digest_of(number.encode()), digest_of(b"x" + number.encode())
                account = Account(number[-10:], digest, "pro", number, secret, PLANS["pro"])
                made_at = float(number)
                records.append(
                    KeyRecord(account, False, made_at, made_at + 1.0, 1_000 + int(number), "2026-04", made_at + 2.0)
                )
            del account, digest, secret
            ring = Keyring()
            ring.update(records, 0.0)
            del numbers
            a_key = (tracemalloc.get_traced_memory()[0] - before) / count
            for record in records:
                ring.revoke(record.account.key_id, record.account.digest, 1.0)
            del records, record
            a_revoked_key = (tracemalloc.get_traced_memory()[0] - before) / count
        finally:
            tracemalloc.stop()
        self.assertLess(a_key, 900)
        self.assertLess(a_revoked_key, 400)
        self.assertEqual((0, 0), (len(ring), ring.stored))


class Interleavings(RuleBasedStateMachine):
    """A store whose keys are made, changed and revoked while its answers, early and late, and messages reach a ring.

    Once a ring has heard of a revocation, from whichever side, the key is out for good. And when everything was heard,
    the ring has what the store has.
    """

    texts = tuple(f"key-{number}" for number in range(4))

    @initialize()
    def begin(self) -> None:
        self.ring = Keyring()
        self.time = 1_000.0
        self.rows: dict[str, KeyRecord] = {}
        self.answers: list[tuple[list[KeyRecord], float, bool]] = []
        self.heard: set[str] = set()

    def _tick(self) -> float:
        self.time += 1.0
        return self.time

    @rule(text=st.sampled_from(texts), tier=st.sampled_from(sorted(PLANS)), ends=st.booleans())
    def write(self, text: str, tier: str, ends: bool) -> None:
        row = self.rows.get(text)
        if row is None or not row.is_revoked(self.time):
            now = self._tick()
            self.rows[text] = record_of(account_of(text, tier, text), now, ends_at=now + 3.0 if ends else None)

    @rule(text=st.sampled_from(texts))
    def revoke(self, text: str) -> None:
        if text in self.rows:
            self.rows[text] = evolve(self.rows[text], revoked=True, changed_at=self._tick())

    @rule(text=st.sampled_from(texts))
    def vanish(self, text: str) -> None:
        if text in self.rows and not self.rows[text].is_revoked(self.time):
            del self.rows[text]

    @rule(whole=st.booleans())
    def ask(self, whole: bool) -> None:
        """The answer is as of now, and comes at any time."""
        now = self._tick()
        rows = [
            evolve(row, revoked=row.is_revoked(now))
            for row in self.rows.values()
            if whole or row.changed_at > now - OVERLAP_SECONDS or row.is_revoked(now)
        ]
        self.answers.append((rows, now, whole))

    @rule(data=st.data())
    def hear_an_answer(self, data: st.DataObject) -> None:
        if not self.answers:
            return
        place = data.draw(st.integers(0, len(self.answers) - 1))
        rows, as_of, whole = self.answers.pop(place)
        self.ring.update(rows, self.time, as_of if whole else float("-inf"))
        if whole:
            self.ring.keep_only({row.account.key_id for row in rows}, as_of)
        self.heard |= {row.account.name for row in rows if row.revoked}

    @rule(text=st.sampled_from(texts))
    def hear_a_message(self, text: str) -> None:
        row = self.rows.get(text)
        if row is not None and row.is_revoked(self.time):
            self.ring.revoke(row.account.key_id, row.account.digest, self.time)
            self.heard.add(text)

    @rule(text=st.sampled_from(texts), tier=st.sampled_from(sorted(PLANS)))
    def read_a_stale_copy(self, text: str, tier: str) -> None:
        self.ring.update([record_of(account_of(text, tier, text), self.time - 100.0)], self.time)

    @rule()
    def let_time_pass(self) -> None:
        self._tick()
        for digest in self.ring.expire(self.time):
            change = self.ring.revocation_of(digest)
            assert change is not None
            self.heard |= {text for text in self.texts if digest_of(text.encode()) == digest}

    @rule()
    def hear_everything(self) -> None:
        """All answers that are under way, and then one of now, long after every change."""
        self.answers.clear()
        self.time += 2 * OVERLAP_SECONDS
        self.let_time_pass()
        self.ask(True)
        rows, as_of, _ = self.answers.pop()
        self.ring.update(rows, self.time, as_of)
        self.ring.keep_only({row.account.key_id for row in rows}, as_of)
        self.heard |= {row.account.name for row in rows if row.revoked}
        good = {text: row.account for text, row in self.rows.items() if text not in self.heard}
        assert {text: self.ring.find(text.encode()) for text in good} == good
        assert len(self.ring) == self.ring.stored == len(good)

    @invariant()
    def no_revoked_key_is_accepted(self) -> None:
        for text in getattr(self, "heard", ()):
            assert self.ring.find(text.encode()) is None
            assert self.ring.find_by_id(account_of(text, "free", "x").key_id) is None

    @invariant()
    def both_ways_lead_to_the_same(self) -> None:
        ring: Keyring | None = getattr(self, "ring", None)
        if ring is None:
            return
        for text in self.texts:
            assert ring.find(text.encode()) is ring.find_by_id(account_of(text, "free", "x").key_id)
        xor = 0
        for record in ring.records():
            xor ^= int.from_bytes(record.account.digest, "big")
        assert xor == ring.digests_xor


class InterleavingTests(SynchronousTestCase):
    def test_any_order(self) -> None:
        run_state_machine_as_test(
            Interleavings, settings=settings(max_examples=150, stateful_step_count=40, deadline=None, database=None)
        )


class Store:
    """A store of keys that a demo key can be made in."""

    def __init__(self) -> None:
        self.keys: dict[bytes, KeyRecord] = {}
        self.away = False

    async def create(self, tier: str, name: str) -> tuple[str, KeyRecord]:
        self.look()
        text = make_key(os.urandom)
        record = record_of(account_of(text, tier, name), 1.0)
        self.keys[record.account.digest] = record
        return text, record

    async def find(self, digest: bytes) -> KeyRecord | None:
        self.look()
        return self.keys.get(digest)

    def look(self) -> None:
        if self.away:
            raise StoreUnavailableError("away")


class DemoKeyTests(SynchronousTestCase):
    """Without a store."""

    def setUp(self) -> None:
        self.state = Path(self.mktemp()) / "deep" / "var"
        self.ring = Keyring()

    def start(self) -> DemoKeyService:
        service = DemoKeyService(self.ring, self.state, os.urandom)
        self.started(service.startService())
        self.addCleanup(service.stopService)
        return service

    def started(self, waiting: Deferred[None] | None) -> None:
        self.assertIs(None, waiting)

    def test_made(self) -> None:
        service = self.start()
        self.assertTrue(is_well_formed(service.key))
        self.assertEqual(service.key + "\n", service.path.read_text())
        self.assertEqual(self.state / "demo.key", service.path)
        account = self.ring.find(service.key.encode())
        self.assertEqual(("partner", "demo"), (account.tier, account.name) if account else None)

    def test_for_its_owner_alone(self) -> None:
        """Whatever the umask, and whatever it was before."""
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        path = self.start().path
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
        path.chmod(0o644)
        self.start()
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
        self.assertEqual(["demo.key"], os.listdir(self.state))

    def test_kept(self) -> None:
        self.assertEqual(self.start().key, self.start().key)
        self.assertEqual(1, len(self.ring))

    def test_nonsense_is_replaced(self) -> None:
        first = self.start()
        for nonsense in (b"", b"\xff\x00", b"tb_short_key\n", b"x" * 5000):
            first.path.write_bytes(nonsense)
            self.ring = Keyring()
            again = self.start()
            self.assertTrue(is_well_formed(again.key))
            self.assertNotEqual(first.key, again.key)
            self.assertEqual(again.key + "\n", again.path.read_text())

    def test_left_over(self) -> None:
        """A start that died while it wrote does not stop the next one."""
        self.state.mkdir(parents=True)
        (self.state / "demo.key.new").write_text("half")
        self.assertTrue(is_well_formed(self.start().key))
        self.assertEqual(["demo.key"], os.listdir(self.state))

    def test_cannot_be_written(self) -> None:
        """A state folder that cannot be had stops the start."""
        self.state.parent.mkdir(parents=True)
        self.state.write_text("a file")
        service = DemoKeyService(self.ring, self.state, os.urandom)
        error = self.assertRaises(StateFolderError, service.startService)
        self.assertIn(f"the state folder {self.state} (TBEAST_STATE) cannot be used", str(error))
        self.assertEqual((0, 0), (service.running, len(self.ring)))

    def test_not_wanted(self) -> None:
        service = DemoKeyService(self.ring, self.state, os.urandom, wanted=False)
        self.assertIs(None, service.startService())
        self.assertEqual(("", False, 0), (service.key, self.state.exists(), len(self.ring)))


class StoredDemoKeyTests(DemoKeyTests):
    """With one: all of the above, and what it knows counts."""

    def setUp(self) -> None:
        super().setUp()
        self.store = Store()

    def start(self) -> DemoKeyService:
        service = DemoKeyService(self.ring, self.state, os.urandom, self.store, lambda: 5.0)
        self.started(service.startService())
        self.addCleanup(service.stopService)
        return service

    def started(self, waiting: Deferred[None] | None) -> None:
        assert waiting is not None
        self.assertIs(None, self.successResultOf(waiting))

    def test_it_is_the_stores(self) -> None:
        """Made once, and loaded like any other; not one that a reload could not take out."""
        key = self.start().key
        self.start()
        self.assertEqual([digest_of(key.encode())], list(self.store.keys))
        self.assertEqual(1, self.ring.stored)

    def test_unknown_to_the_store(self) -> None:
        """A key in the file from another database is no key."""
        first = self.start().key
        self.store.keys.clear()
        self.ring = Keyring()
        second = self.start().key
        self.assertNotEqual(first, second)
        self.assertEqual((None, 1), (self.ring.find(first.encode()), len(self.store.keys)))

    def test_revoked(self) -> None:
        """Then there is none, until the file is deleted."""
        first = self.start()
        ((digest, record),) = self.store.keys.items()
        self.store.keys[digest] = evolve(record, revoked=True)
        self.ring = Keyring()
        log = listen(self)
        second = self.start()
        self.assertEqual(("", 0, 1), (second.key, len(self.ring), len(self.store.keys)))
        (line,) = log.having("is revoked; for another one delete")
        self.assertNotIn(first.key, line)
        second.path.unlink()
        self.assertTrue(is_well_formed(self.start().key))
        self.assertEqual(2, len(self.store.keys))

    def test_ended(self) -> None:
        """One that was rotated is as good as revoked when its end has come."""
        self.start()
        ((digest, record),) = self.store.keys.items()
        self.store.keys[digest] = evolve(record, ends_at=5.0)
        self.assertEqual("", self.start().key)

    def test_the_store_is_away(self) -> None:
        """The start goes on; a key in the file is told of, and the ring is left to whoever loads it."""
        self.store.away = True
        log = listen(self)
        self.assertEqual("", self.start().key)
        self.assertEqual(1, len(log.having("cannot be asked about the demo key: away")))
        self.store.away = False
        key = self.start().key
        self.store.away = True
        self.ring = Keyring()
        self.assertEqual((key, 0), (self.start().key, len(self.ring)))

    def test_cannot_be_written(self) -> None:
        """Found out before a key is made that nobody would ever see."""
        self.state.parent.mkdir(parents=True)
        self.state.write_text("a file")
        service = DemoKeyService(self.ring, self.state, os.urandom, self.store, lambda: 5.0)
        waiting = service.startService()
        assert waiting is not None
        error = self.failureResultOf(waiting, StateFolderError)
        self.assertIn("(TBEAST_STATE) cannot be used", str(error.value))
        self.assertEqual(({}, 0), (self.store.keys, len(self.ring)))
