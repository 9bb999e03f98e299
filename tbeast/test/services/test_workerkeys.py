"""The keys of a hub in its workers: whatever happens to the ring, the image finds the same accounts."""

from __future__ import annotations

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.keys import Account, KeyRecord, account_of
from tbeast.services.keyring import Keyring
from tbeast.services.workerkeys import KeyWatch, MirroredKeys

TEXTS = [f"key-number-{number}" for number in range(6)]
OWN = account_of(TEXTS[0], "partner", "own")


def record_of(account: Account, changed_at: float = 0.0, ends_at: float | None = None) -> KeyRecord:
    return KeyRecord(account, False, 1.0, None, 0, "2026-04", changed_at, ends_at)


class MirroredKeysTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.keys = MirroredKeys()
        self.gone: list[str] = []
        self.keys.withdrawn = lambda account: self.gone.append(account.name)

    def test_good_and_gone(self) -> None:
        one, two = (account_of(text, "free", text) for text in TEXTS[:2])
        self.keys.take([one, two], [])
        self.assertEqual((one, two, 2), (
            self.keys.find(TEXTS[0].encode()), self.keys.find_by_id(two.key_id), len(self.keys)))  # fmt: skip
        self.keys.take([], [one.digest, b"unknown"])
        self.assertEqual((None, None, 1), (
            self.keys.find(TEXTS[0].encode()), self.keys.find_by_id(one.key_id), len(self.keys)))  # fmt: skip
        self.assertEqual([TEXTS[0]], self.gone)

    def test_who_comes_takes_the_place(self) -> None:
        """Of the same key under another plan, and of another key with the same id."""
        one = account_of(TEXTS[0], "free", "one")
        better = evolve(account_of(TEXTS[0], "pro", "better"))
        other = evolve(account_of(TEXTS[1], "pro", "other"), key_id=one.key_id)
        self.keys.take([one], [])
        self.keys.take([better], [])
        self.assertEqual(better, self.keys.find(TEXTS[0].encode()))
        self.keys.take([other], [])
        self.assertEqual((None, other, 1), (
            self.keys.find(TEXTS[0].encode()), self.keys.find_by_id(one.key_id), len(self.keys)))  # fmt: skip
        self.assertEqual(["one", "better"], self.gone)

    def test_not_complete_before_it_is_said(self) -> None:
        self.assertFalse(self.keys.is_complete)


class KeyWatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ring = Keyring([OWN])
        self.watch = KeyWatch(self.ring)
        self.news: list[tuple[list[str], int]] = []
        self.watch.told = lambda good, gone: self.news.append(([account.name for account in good], len(gone)))

    def test_what_is_told(self) -> None:
        one = account_of(TEXTS[1], "free", "one")
        self.ring.update([record_of(one)], 5.0)
        self.ring.update([record_of(one)], 6.0)
        self.ring.update([record_of(evolve(one, name="renamed"), 1.0)], 7.0)
        self.ring.revoke(one.key_id, one.digest, 8.0)
        self.ring.revoke(one.key_id, one.digest, 9.0)
        self.assertEqual([(["one"], 0), (["renamed"], 0), ([], 1)], self.news)

    def test_the_end_of_a_key(self) -> None:
        one, two = (account_of(text, "free", text) for text in TEXTS[1:3])
        self.ring.update([record_of(one, 0.0, 10.0), record_of(two)], 5.0)
        self.news.clear()
        self.ring.expire(10.0)
        self.ring.keep_only(set(), 1e9)
        self.assertEqual([([], 1), ([], 1)], self.news[-2:])
        self.assertEqual([OWN.digest], self.watch.digests())

    def test_own_keys_stand(self) -> None:
        """Whatever the store says of them."""
        self.ring.update([record_of(evolve(OWN, name="the store's"))], 5.0)
        self.ring.revoke(OWN.key_id, OWN.digest, 6.0)
        self.assertEqual(OWN, self.watch.account_of(OWN.digest))
        self.assertEqual([OWN.digest], self.watch.digests())
        self.assertNotIn(1, [gone for _, gone in self.news])

    def test_added(self) -> None:
        one = account_of(TEXTS[1], "free", "one")
        self.ring.add(one)
        self.assertEqual([(["one"], 0)], self.news)
        self.assertEqual({OWN.digest, one.digest}, set(self.watch.digests()))


class _Machine(RuleBasedStateMachine):
    """A ring, and the image of one who has heard from the beginning, and of one who comes now."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = Keyring([OWN])
        self.watch = KeyWatch(self.ring)
        self.image = MirroredKeys()
        self.image.take([OWN], [])
        self.watch.told = self.image.take
        self.time = 0.0

    @rule(
        text=st.sampled_from(TEXTS), name=st.sampled_from("ab"), twin=st.none() | st.sampled_from(TEXTS),
        changed=st.floats(0, 100), ends=st.none() | st.floats(0, 100),
    )  # fmt: skip
    def update(self, text: str, name: str, twin: str | None, changed: float, ends: float | None) -> None:
        account = account_of(text, "free", name)
        if twin is not None:
            account = evolve(account, key_id=account_of(twin, "free", name).key_id)
        self.ring.update([record_of(account, changed, ends)], self.time)

    @rule(text=st.sampled_from(TEXTS))
    def revoke(self, text: str) -> None:
        account = account_of(text, "free", "")
        self.ring.revoke(account.key_id, account.digest, self.time)

    @rule(seconds=st.floats(0, 50))
    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        self.ring.expire(self.time)

    @rule(kept=st.sets(st.sampled_from(TEXTS)))
    def keep_only(self, kept: set[str]) -> None:
        self.ring.keep_only({account_of(text, "free", "").key_id for text in kept}, 1e9)

    @invariant()
    def the_same(self) -> None:
        late = MirroredKeys()
        accounts = [self.watch.account_of(digest) for digest in self.watch.digests()]
        late.take([account for account in accounts if account is not None], [])
        for image in (self.image, late):
            assert len(image) == len(self.ring)
            for text in TEXTS:
                found = self.ring.find(text.encode())
                assert image.find(text.encode()) == found
                if found is not None:
                    assert image.find_by_id(found.key_id) == self.ring.find_by_id(found.key_id)


class AsTheRing(SynchronousTestCase):
    def test_any_order(self) -> None:
        limits = settings(deadline=None, max_examples=100, stateful_step_count=20)
        run_state_machine_as_test(_Machine, settings=limits)
