"""Tests of L{tbeast.services.keydesk}."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.keycopies import decode_copy
from tbeast.domain.keyorders import Denied, KeyEdit, KeyFilter, MadeKey, NewKey
from tbeast.domain.keys import CHANGED, CREATED, REVOKED, Account, KeyChange, KeyRecord, account_of
from tbeast.errors import CacheUnavailableError
from tbeast.services.keydesk import KeyDesk
from tbeast.test.servers.adminrig import Details, text_of

NOON = 1_776_003_781.0
NOBODY = Denied("unknown_key", "there is no key")


def details_of(number: int, **changes: Any) -> Details:
    return Details(KeyRecord(account_of(text_of(number), "free", "desk"), False, NOON, None, 0, "2026-04", **changes))


class Rows:
    """Gives what was laid out.

    @ivar given: the answer to every call.
    """

    def __init__(self) -> None:
        self.given: Any = NOBODY
        self.asked: list[object] = []

    async def _give(self, *asked: object) -> Any:
        self.asked.append(asked)
        return self.given

    async def listed(self, wanted: KeyFilter) -> Sequence[KeyRecord] | Denied:
        return await self._give(wanted)  # type: ignore[no-any-return]

    async def details(self, key_id: str) -> Details | Denied:
        return await self._give(key_id)  # type: ignore[no-any-return]

    async def create(self, order: NewKey) -> MadeKey | Denied:
        return await self._give(order)  # type: ignore[no-any-return]

    async def change(self, key_id: str, edit: KeyEdit) -> Details | Denied:
        return await self._give(key_id, edit)  # type: ignore[no-any-return]

    async def revoke(self, key_id: str) -> tuple[Details, bool] | Denied:
        return await self._give(key_id)  # type: ignore[no-any-return]

    async def rotate(self, key_id: str, grace_seconds: float) -> MadeKey | Denied:
        return await self._give(key_id, grace_seconds)  # type: ignore[no-any-return]

    async def touch(self, key_id: str) -> Details | Denied:
        return await self._give(key_id)  # type: ignore[no-any-return]


class Crier:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    async def announce(self, change: KeyChange) -> bool:
        self.told.append((change.what, change.key_id))
        return False


class Ring:
    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}

    def find_by_id(self, key_id: str) -> Account | None:
        return self.accounts.get(key_id)


class Copies:
    """Copies in the shared cache."""

    def __init__(self) -> None:
        self.copies: dict[str, bytes] = {}
        self.away = False

    async def put_many(self, copies: Mapping[str, bytes]) -> None:
        if self.away:
            raise CacheUnavailableError("away")
        self.copies.update(copies)

    async def remove(self, digests: Sequence[str]) -> None:
        raise AssertionError

    async def all(self) -> Mapping[str, bytes]:
        raise AssertionError


class KeyDeskTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rows, self.crier, self.ring, self.copies = Rows(), Crier(), Ring(), Copies()
        self.desk = KeyDesk(self.rows, self.crier, self.ring, self.copies, lambda: NOON)
        self.key = details_of(1)
        self.key_id = self.key.record.account.key_id

    def done(self, asked: Coroutine[Any, Any, Any]) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(asked))

    def test_every_change_is_told(self) -> None:
        self.rows.given = MadeKey(text_of(1), self.key)
        self.assertIs(self.rows.given, self.done(self.desk.create(NewKey("desk"))))
        self.rows.given = self.key
        self.done(self.desk.change(self.key_id, KeyEdit("pro")))
        self.rows.given = (self.key, True)
        self.done(self.desk.revoke(self.key_id))
        self.assertEqual([(what, self.key_id) for what in (CREATED, CHANGED, REVOKED)], self.crier.told)

    def test_a_rotation_is_two_changes(self) -> None:
        old, new = details_of(1, ends_at=NOON + 60), details_of(2)
        ids = [one.record.account.key_id for one in (new, old)]
        self.rows.given = MadeKey(text_of(2), new, old)
        self.done(self.desk.rotate(ids[1], 60.0))
        self.assertEqual([(CREATED, ids[0]), (CHANGED, ids[1])], self.crier.told)
        self.rows.given = MadeKey(text_of(2), new, evolve(old, record=evolve(old.record, revoked=True)))
        self.done(self.desk.rotate(ids[1], 0.0))
        self.assertEqual([(CREATED, ids[0]), (REVOKED, ids[1])], self.crier.told[2:])

    def test_what_was_not_done_is_not_told(self) -> None:
        for asked in (
            self.desk.create(NewKey("desk")), self.desk.change("x", KeyEdit("pro")), self.desk.revoke("x"),
            self.desk.rotate("x", 0.0), self.desk.details("x"), self.desk.invalidate("x"),
        ):  # fmt: skip
            self.assertIs(NOBODY, self.done(asked))
        self.assertEqual([], self.crier.told)

    def test_pages(self) -> None:
        """One more is asked for than is wanted, to see whether there are more."""
        records = [details_of(number).record for number in range(3)]
        self.rows.given = records
        page, cursor = self.done(self.desk.listed(KeyFilter("free", "desk", None, "x", 2)))
        self.assertEqual((records[:2], records[1].account.key_id), (page, cursor))
        self.assertEqual((KeyFilter("free", "desk", None, "x", 3),), self.rows.asked[-1])
        self.assertEqual((records, None), self.done(self.desk.listed(KeyFilter(limit=3))))
        self.rows.given = NOBODY
        self.assertEqual("bad_cursor", self.done(self.desk.listed(KeyFilter(after="gone"))).code)

    def test_invalidate(self) -> None:
        self.rows.given = self.key
        self.assertIs(self.key, self.done(self.desk.invalidate(self.key_id)))
        self.assertEqual([(CHANGED, self.key_id)], self.crier.told)
        ((digest, copy),) = self.copies.copies.items()
        self.assertEqual(self.key.record, decode_copy(digest, copy))

    def test_invalidate_while_the_cache_is_away(self) -> None:
        self.rows.given = self.key
        self.copies.away = True
        self.assertIs(self.key, self.done(self.desk.invalidate(self.key_id)))
        self.assertEqual([(CHANGED, self.key_id)], self.crier.told)

    def test_invalidate_a_revoked_one(self) -> None:
        self.rows.given = evolve(self.key, record=evolve(self.key.record, revoked=True))
        self.done(self.desk.invalidate(self.key_id))
        self.assertEqual([(REVOKED, self.key_id)], self.crier.told)
        ((digest, copy),) = self.copies.copies.items()
        self.assertIsInstance(decode_copy(digest, copy), KeyChange)

    def test_invalidate_one_that_the_database_has_lost(self) -> None:
        self.ring.accounts[self.key_id] = self.key.record.account
        self.assertIsNone(self.done(self.desk.invalidate(self.key_id)))
        self.assertEqual([(REVOKED, self.key_id)], self.crier.told)

    def test_without_a_cache(self) -> None:
        self.rows.given = self.key
        desk = KeyDesk(self.rows, self.crier, self.ring, None, lambda: NOON)
        self.assertIs(self.key, self.done(desk.invalidate(self.key_id)))
