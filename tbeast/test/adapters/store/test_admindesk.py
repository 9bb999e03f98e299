"""The desk of operators on a real PostgreSQL: L{tbeast.adapters.store.admindesk}, and what it needs of keyrows."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store import keyrows
from tbeast.adapters.store.admindesk import PostgresKeyDesk, PostgresParameterDesk
from tbeast.adapters.store.postgres import Connection, connect, target
from tbeast.domain.keyorders import Denied, KeyEdit, KeyFilter, MadeKey, NewKey
from tbeast.domain.keys import is_well_formed
from tbeast.domain.plans import PLANS
from tbeast.testing.postgres import fresh_database


class Pool:
    """A pool without threads: one transaction for each work, taken back when it fails."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def run(self, work: Callable[[Connection], Any], limit_seconds: float | None = None) -> Deferred[Any]:
        try:
            result = work(self.connection)
        except Exception:
            self.connection.rollback()
            return fail(Failure())
        self.connection.commit()
        return succeed(result)


class DeskCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = connect(target(fresh_database(self)))
        self.addCleanup(self.connection.close)
        self.keys = PostgresKeyDesk(Pool(self.connection), os.urandom)

    def done(self, asked: Coroutine[Any, Any, Any]) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(asked))

    def make(self, name: str = "desk", tier: str = "free", **more: Any) -> MadeKey:
        made = self.done(self.keys.create(NewKey(name, tier, **more)))
        assert isinstance(made, MadeKey), made
        return made

    def denied(self, code: str, asked: Coroutine[Any, Any, Any], *words: str) -> None:
        found = self.done(asked)
        assert isinstance(found, Denied), found
        self.assertEqual(code, found.code, found.why)
        for word in words:
            self.assertIn(word, found.why)

    def count(self) -> int:
        return len(self.done(self.keys.listed(KeyFilter(revoked=None))))


def id_of(made: MadeKey) -> str:
    return made.details.record.account.key_id


class KeysTests(DeskCase):
    def test_create(self) -> None:
        made = self.make(email="a@b.example", lrs_addon=True)
        self.assertTrue(is_well_formed(made.text))
        account = made.details.record.account
        self.assertEqual((PLANS["free"], True, "a@b.example"), (account.plan, account.lrs_addon, made.details.email))

    def test_create_with_limits_of_its_own(self) -> None:
        made = self.make(tier="pro", limits={"monthly_quota": None, "burst": 7})
        self.assertEqual(evolve(PLANS["pro"], monthly_quota=None, burst=7), made.details.record.account.plan)

    def test_nothing_is_made_that_was_refused(self) -> None:
        self.denied("malformed_parameter", self.keys.create(NewKey("desk", "none")), "tier", "free")
        self.denied("malformed_parameter", self.keys.create(NewKey("")), "name")
        self.denied("malformed_parameter", self.keys.create(NewKey("x\x00")), "name")
        self.denied("malformed_parameter", self.keys.create(NewKey("desk", email="nobody")), "e-mail")
        self.denied("malformed_parameter", self.keys.create(NewKey("desk", limits={"qps": None})), "burst")
        self.assertEqual(0, self.count())

    def test_change(self) -> None:
        key_id = id_of(self.make())
        changed = self.done(self.keys.change(key_id, KeyEdit(limits={"monthly_reports": None, "qps": 2.5})))
        expected = evolve(PLANS["free"], monthly_reports=None, qps=2.5)
        self.assertEqual((expected, False), (changed.record.account.plan, changed.record.account.lrs_addon))
        changed = self.done(self.keys.change(key_id, KeyEdit(lrs_addon=True)))
        self.assertEqual((expected, True), (changed.record.account.plan, changed.record.account.lrs_addon))
        changed = self.done(self.keys.change(key_id, KeyEdit("pro", limits={"monthly_quota": 5})))
        self.assertEqual(evolve(PLANS["pro"], monthly_quota=5), changed.record.account.plan)
        self.assertEqual(("pro", True), (changed.record.account.tier, changed.record.account.lrs_addon))
        changed = self.done(self.keys.change(key_id, KeyEdit("partner", False)))
        self.assertEqual((PLANS["partner"], False), (changed.record.account.plan, changed.record.account.lrs_addon))

    def test_a_change_is_seen_by_who_asks_for_changes(self) -> None:
        key_id = id_of(self.make())
        self.connection.cursor().execute("UPDATE api_keys SET changed_at = changed_at - interval '1 day'")
        self.connection.commit()
        _, mark = keyrows.changed_since(self.connection, None)
        self.assertEqual([], keyrows.changed_since(self.connection, mark)[0])
        self.done(self.keys.change(key_id, KeyEdit("pro")))
        (record,) = keyrows.changed_since(self.connection, mark)[0]
        self.assertEqual("pro", record.account.tier)

    def test_a_touch_is_too(self) -> None:
        key_id = id_of(self.make())
        self.connection.cursor().execute("UPDATE api_keys SET changed_at = changed_at - interval '1 day'")
        self.connection.commit()
        _, mark = keyrows.changed_since(self.connection, None)
        touched = self.done(self.keys.touch(key_id))
        (record,) = keyrows.changed_since(self.connection, mark)[0]
        self.assertEqual(touched.record, record)

    def test_changes_that_cannot_be(self) -> None:
        key_id = id_of(self.make())
        self.denied("malformed_parameter", self.keys.change(key_id, KeyEdit("none")), "tier")
        self.denied("conflict", self.keys.change(key_id, KeyEdit(limits={"burst": None})), "go together")
        self.done(self.keys.revoke(key_id))
        self.denied("conflict", self.keys.change(key_id, KeyEdit("pro")), "revoked")
        self.assertEqual("free", self.done(self.keys.details(key_id)).record.account.tier)

    def test_revoke_and_rotate(self) -> None:
        first = self.make()
        second = self.done(self.keys.rotate(id_of(first), 60.0))
        self.assertEqual((id_of(first), id_of(first)), (second.details.replaces, id_of_details(second.replaced)))
        self.assertIsNotNone(second.replaced.record.ends_at)
        self.denied("conflict", self.keys.rotate(id_of(first), 0.0), "rotated already")
        details, was_good = self.done(self.keys.revoke(id_of(second)))
        self.assertEqual((True, True), (details.record.revoked, was_good))
        self.assertIsNotNone(details.revoked_at)
        self.assertFalse(self.done(self.keys.revoke(id_of(second)))[1])
        self.denied("conflict", self.keys.rotate(id_of(second), 0.0), "revoked")

    def test_nobody_s(self) -> None:
        for asked in (
            self.keys.details("nobody"), self.keys.change("nobody", KeyEdit("pro")), self.keys.revoke("nobody"),
            self.keys.rotate("nobody", 0.0), self.keys.touch("nobody"), self.keys.listed(KeyFilter(after="nobody")),
        ):  # fmt: skip
            self.denied("unknown_key", asked)

    def test_pages(self) -> None:
        made = [id_of(self.make(name, tier)) for name, tier in (("a", "free"), ("b", "pro"), ("a", "pro"))]
        self.done(self.keys.revoke(made[0]))

        def listed(**wanted: Any) -> list[str]:
            return [record.account.key_id for record in self.done(self.keys.listed(KeyFilter(**wanted)))]

        self.assertEqual(made, listed())
        self.assertEqual(made[1:], listed(revoked=False))
        self.assertEqual(made[:1], listed(revoked=True))
        self.assertEqual([made[0], made[2]], listed(name="a"))
        self.assertEqual([made[2]], listed(name="a", tier="pro"))
        self.assertEqual(made[:2], listed(limit=2))
        self.assertEqual(made[2:], listed(after=made[1]))


def id_of_details(details: Any) -> str:
    return str(details.record.account.key_id)


class ParametersTests(DeskCase):
    def test_put_and_remove(self) -> None:
        desk = PostgresParameterDesk(Pool(self.connection))
        self.assertEqual("7", self.done(desk.put("sync_hour_utc", 7)))
        self.assertEqual({"sync_hour_utc": "7"}, self.done(desk.read()))
        self.failureResultOf(Deferred.fromCoroutine(desk.put("sync_hour_utc", 24)), ValueError)
        self.failureResultOf(Deferred.fromCoroutine(desk.put("sync_hour", 5)), ValueError)
        self.assertEqual([True, False], [self.done(desk.remove("sync_hour_utc")) for _ in range(2)])
        self.assertEqual({}, self.done(desk.read()))
