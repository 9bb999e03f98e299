"""The keys in a real PostgreSQL."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg2
from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store import keyrows
from tbeast.adapters.store.keyrows import KeyRowError, NoSuchKeyError, PostgresKeys
from tbeast.adapters.store.postgres import Connection, connect, target
from tbeast.domain.keys import KeyRecord, account_of, datagram_secret_of, digest_of, is_well_formed, key_id_of
from tbeast.domain.plans import PLANS
from tbeast.errors import StoreRefusedError
from tbeast.testing.postgres import fresh_database


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.url = fresh_database(self)
        self.connection = self.connect()

    def connect(self) -> Connection:
        connection = connect(target(self.url))
        self.addCleanup(connection.close)
        return connection

    def create(
        self, tier: str = "pro", name: str = "desk", email: str | None = None, **more: Any
    ) -> tuple[str, KeyRecord]:
        made = keyrows.create(self.connection, tier, name, email, random_bytes=os.urandom, **more)
        self.connection.commit()
        return made

    def rotate(self, key_id: str, grace_seconds: float = 0.0) -> keyrows.Rotation:
        rotation = keyrows.rotate(self.connection, key_id, grace_seconds, random_bytes=os.urandom)
        self.connection.commit()
        return rotation

    def do(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values)
            rows = cursor.fetchall() if cursor.description else []
        self.connection.commit()
        return rows

    def refused(self, call: Callable[..., object], *arguments: Any, **named: Any) -> str:
        """What a refusal says; the connection goes on."""
        error = self.assertRaises(KeyRowError, call, self.connection, *arguments, **named)
        self.connection.rollback()
        return str(error)

    def ids(self, records: Sequence[KeyRecord]) -> list[str]:
        return [record.account.key_id for record in records]


class CreateTests(Case):
    def test_made(self) -> None:
        text, record = self.create("pro", "désk")
        account = record.account
        self.assertTrue(is_well_formed(text))
        self.assertEqual(account_of(text, "pro", "désk"), account)
        self.assertEqual(
            (False, None, 0, None), (record.revoked, record.last_used_at, record.current_usage, record.ends_at)
        )
        self.assertEqual(record, keyrows.find_by_digest(self.connection, digest_of(text.encode())))
        self.assertLess(abs(record.created_at - record.changed_at), 0.1)  # the database looks at its clock twice
        self.assertEqual([(time.strftime("%Y-%m", time.gmtime()),)], [(record.usage_month,)])

    def test_all_that_is_kept(self) -> None:
        """Of the key itself nothing is in the table, in whatever form."""
        text, _ = self.create(email="me@example.net")
        secret = text.split("_")[2]
        tables = self.do("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        self.assertIn(("api_keys",), tables)
        for (table,) in tables:
            ((everything,),) = self.do(f"SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} t")
            self.assertNotIn(secret, everything, table)
            self.assertNotIn(secret.encode().hex(), everything, table)
        ((digest, datagram_secret),) = self.do("SELECT key_hash, datagram_secret FROM api_keys")
        self.assertEqual(digest_of(text.encode()), bytes(digest))
        self.assertEqual(datagram_secret_of(text.encode()), bytes(datagram_secret))

    def test_every_tier(self) -> None:
        """Gets what the template says, which at first is what the code says."""
        for tier, plan in PLANS.items():
            self.assertEqual(plan, self.create(tier, tier)[1].account.plan)
        self.do("UPDATE rate_limit_template SET burst_limit = 7 WHERE tier = 'pro'")
        self.assertEqual(evolve(PLANS["pro"], burst=7), self.create()[1].account.plan)
        self.do("INSERT INTO rate_limit_template VALUES ('gold', 9, 2.5, 3, 0.5, 1)")
        gold = self.create("gold")[1].account
        self.assertEqual(("gold", 9, 2.5, 3), (gold.tier, gold.plan.monthly_quota, gold.plan.qps, gold.plan.burst))

    def test_the_rest(self) -> None:
        account = self.create(lrs_addon=True, response_format="csv", preferred_lang="de")[1].account
        self.assertEqual((True, "csv", "de"), (account.lrs_addon, account.response_format, account.preferred_lang))

    def test_user(self) -> None:
        """One for all keys with one address."""
        first, second = (self.create(name=name, email=email)[1] for name, email in (
            ("one", "Me@Example.net "), ("two", "me@example.net")))  # fmt: skip
        self.assertEqual([("me@example.net", 2)], self.do(
            "SELECT email, count(*) FROM users JOIN api_keys ON user_id = users.id GROUP BY email"))  # fmt: skip
        for record in (first, second):
            self.assertEqual("me@example.net", keyrows.details(self.connection, record.account.key_id).email)

    def test_refused(self) -> None:
        """With a reason, and nothing is left behind."""
        key = "tb_aaaqeayeau_aaaqeayeaudaocajbifqydiob4ibceqt"
        for part, tier, name, email in (
            ("no tier 'gold'; there are free, pro, enterprise, lifetime, partner, unlimited", "gold", "x", None),
            ("the name must have 1 to 200 printable characters", "pro", " ", None),
            ("the name must have", "pro", "a\x00b", None),
            ("the name must have", "pro", "a\nb", None),
            ("the name must have", "pro", "x" * 201, None),
            ("the name looks like a key", "pro", key, None),
            ("this is no e-mail address", "pro", "x", "me"),
            ("this is no e-mail address", "pro", "x", "@"),
            ("this is no e-mail address", "pro", "x", ""),
        ):
            said = self.refused(keyrows.create, tier, name, email, random_bytes=os.urandom)
            self.assertIn(part, said)
            self.assertNotIn(key, said)
        self.refused(keyrows.create, key, "x", random_bytes=os.urandom)
        self.assertNotIn("qeayeaudaoc", self.refused(keyrows.create, key, "x", random_bytes=os.urandom))
        self.assertEqual([(0, 0)], self.do("SELECT (SELECT count(*) FROM api_keys), (SELECT count(*) FROM users)"))

    def test_an_id_that_is_taken(self) -> None:
        """Another is made; and where chance gives always the same, that is told."""
        given = [bytes([number]) * size for number in (1, 1, 2) for size in (7, 20)]
        keyrows.create(self.connection, "pro", "one", random_bytes=lambda size: given.pop(0))
        text, _ = keyrows.create(self.connection, "pro", "two", random_bytes=lambda size: given.pop(0))
        self.assertEqual(([], "tb_aibaeaqcai"), (given, text[:13]))
        self.assertIn("not taken yet", self.refused(
            lambda c: [keyrows.create(c, "pro", "x", random_bytes=bytes) for _ in range(2)]))  # fmt: skip


class FindTests(Case):
    def test_found(self) -> None:
        text, record = self.create(name="desk of Ann")
        self.create(name="other")
        key_id = record.account.key_id
        for which in (key_id, key_id[:8], "desk of Ann", text):
            self.assertEqual(record, keyrows.find(self.connection, which), which)

    def test_good_ones_first(self) -> None:
        """A name that a revoked key had as well means the good one."""
        _, first = self.create()
        keyrows.revoke(self.connection, first.account.key_id)
        self.assertEqual(self.ids([first]), self.ids([keyrows.find(self.connection, "desk")]))
        _, second = self.create()
        self.assertEqual(second, keyrows.find(self.connection, "desk"))

    def test_not_found(self) -> None:
        """What was asked for is in the message, unless it may be a key."""
        text, record = self.create()
        self.assertIn("there is no key 'nobody'", self.refused(keyrows.find, "nobody"))
        for which in (
            text[:-1] + ("a" if text[-1] != "a" else "b"),
            text[:-1],
            text + "x",
            " " + text,
            text[14:],
            "x" * 70,
        ):
            said = self.refused(keyrows.find, which)
            self.assertNotIn(text[14:30], said)
            self.assertNotIn("xxxx", said)
        for which in ("", "a\x00b", "%", "_"):
            self.refused(keyrows.find, which)
        self.assertIn(record.account.key_id, self.refused(keyrows.find, text[:-1] + ("a" if text[-1] != "a" else "b")))

    def test_beginnings(self) -> None:
        """Of four characters at least; and one that is another key's name as well means neither."""
        _, record = self.create(name="ann")
        _, other = self.create(name="other")
        self.do("UPDATE api_keys SET key_id = 'annabelle1' WHERE name = 'other'")
        self.assertEqual(record, keyrows.find(self.connection, "ann"))
        self.assertEqual("other", keyrows.find(self.connection, "anna").account.name)
        self.do("UPDATE api_keys SET name = 'anna' WHERE name = 'ann'")
        self.assertIn("'anna' could be any of", self.refused(keyrows.find, "anna"))
        self.assertEqual("other", keyrows.find(self.connection, "annabelle1").account.name)
        self.assertEqual(other.account.digest, keyrows.find(self.connection, "annab").account.digest)

    def test_several(self) -> None:
        ids = sorted(self.create()[1].account.key_id for _ in range(2))
        error = self.assertRaises(NoSuchKeyError, keyrows.find, self.connection, "desk")
        for key_id in ids:
            self.assertIn(key_id, str(error))

    def test_details(self) -> None:
        _, record = self.create()
        details = keyrows.details(self.connection, record.account.key_id)
        self.assertEqual((record, None, None, None, None), (
            details.record, details.email, details.revoked_at, details.replaces, details.replaced_by))  # fmt: skip
        revoked, _ = keyrows.revoke(self.connection, record.account.key_id)
        at = keyrows.details(self.connection, record.account.key_id).revoked_at
        self.assertLessEqual(abs((at or 0.0) - revoked.changed_at), 0.1)
        self.refused(keyrows.details, "nobody")


class ListTests(Case):
    def test_pages(self) -> None:
        made = self.ids([self.create(name=f"key {number}")[1] for number in range(7)])
        pages: list[str] = []
        after = None
        while True:
            page = self.ids(keyrows.listed(self.connection, after=after, limit=3))
            if not page:
                break
            pages += page
            after = page[-1]
        self.assertEqual(made, pages)
        self.refused(keyrows.listed, after="nobody")

    def test_made_at_the_same_moment(self) -> None:
        """No key is on two pages or on none."""
        made = {self.create()[1].account.key_id for _ in range(5)}
        self.do("UPDATE api_keys SET created_at = '2026-01-01'")
        first = self.ids(keyrows.listed(self.connection, limit=2))
        second = self.ids(keyrows.listed(self.connection, after=first[-1], limit=10))
        self.assertEqual((made, 5), (set(first + second), len(first + second)))

    def test_filters(self) -> None:
        free, pro, gone = (self.create(tier)[1].account.key_id for tier in ("free", "pro", "pro"))
        keyrows.revoke(self.connection, gone)
        for expected, tier, revoked in (
            ([free, pro, gone], None, None), ([pro, gone], "pro", None), ([free, pro], None, False),
            ([gone], None, True), ([pro], "pro", False), ([], "gold", None),
        ):  # fmt: skip
            self.assertEqual(expected, self.ids(keyrows.listed(self.connection, tier, revoked)), (tier, revoked))


class RevokeTests(Case):
    def test_revoked(self) -> None:
        _, record = self.create()
        key_id = record.account.key_id
        revoked, was_good = keyrows.revoke(self.connection, key_id)
        self.assertEqual((True, True), (revoked.revoked, was_good))
        self.assertGreater(revoked.changed_at, record.changed_at)
        again, was_good = keyrows.revoke(self.connection, key_id)
        self.assertEqual((True, False), (again.revoked, was_good))
        self.refused(keyrows.revoke, "nobody")

    def test_for_good(self) -> None:
        """Not even who writes into the table by hand can take it back."""
        _, record = self.create()
        keyrows.revoke(self.connection, record.account.key_id)
        self.connection.commit()
        error = self.assertRaises(psycopg2.IntegrityError, self.do, "UPDATE api_keys SET revoked = false")
        self.assertIn("is revoked, and that is for good", str(error))
        self.connection.rollback()
        self.assertEqual([(True,)], self.do("SELECT revoked FROM api_keys"))
        self.do("UPDATE api_keys SET name = 'another'")

    def test_nothing_more_to_do(self) -> None:
        """A revoked key gets no tier and no successor."""
        _, record = self.create()
        key_id = record.account.key_id
        keyrows.revoke(self.connection, key_id)
        self.connection.commit()
        self.assertIn("is revoked", self.refused(keyrows.set_tier, key_id, "free"))
        self.assertIn("is revoked", self.refused(keyrows.rotate, key_id, random_bytes=os.urandom))


class RotateTests(Case):
    def test_at_once(self) -> None:
        text, record = self.create("enterprise", email="me@example.net", lrs_addon=True, preferred_lang="de")
        key_id = record.account.key_id
        self.do("UPDATE api_keys SET current_usage = 400, burst_limit = 77, last_used = clock_timestamp()")
        self.do("INSERT INTO monthly_report_counts VALUES (%s, '2026-11-01', 6)", key_id)
        rotation = self.rotate(key_id)
        new, old = rotation.new, rotation.old
        self.assertTrue(is_well_formed(rotation.text))
        self.assertEqual(
            (digest_of(rotation.text.encode()), key_id_of(rotation.text)), (new.account.digest, new.account.key_id)
        )
        self.assertNotEqual((text, key_id), (rotation.text, new.account.key_id))
        self.assertEqual(
            evolve(
                record.account, key_id=new.account.key_id, digest=new.account.digest,
                datagram_secret=datagram_secret_of(rotation.text.encode()), plan=evolve(PLANS["enterprise"], burst=77),
            ),
            new.account,
        )  # fmt: skip
        self.assertEqual(
            (400, record.usage_month, False, None), (new.current_usage, new.usage_month, new.revoked, new.ends_at)
        )
        self.assertIsNot(None, new.last_used_at)
        self.assertTrue(old.revoked)
        self.assertEqual([(6,), (6,)], self.do("SELECT report_count FROM monthly_report_counts"))
        of_new, of_old = (keyrows.details(self.connection, one.account.key_id) for one in (new, old))
        self.assertEqual(("me@example.net", key_id, None), (of_new.email, of_new.replaces, of_new.replaced_by))
        self.assertEqual(
            ("me@example.net", None, new.account.key_id), (of_old.email, of_old.replaces, of_old.replaced_by)
        )
        self.assertNotIn(rotation.text, repr(rotation))

    def test_with_grace(self) -> None:
        """Both are good until the time is over; then the old one is revoked in every respect."""
        _, record = self.create()
        key_id = record.account.key_id
        rotation = self.rotate(key_id, 3600.0)
        old = rotation.old
        self.assertFalse(old.revoked)
        assert old.ends_at is not None
        self.assertTrue(3590.0 < old.ends_at - old.changed_at <= 3600.0)
        self.assertGreater(old.changed_at, record.changed_at)
        self.assertEqual(2, len(keyrows.listed(self.connection, revoked=False)))
        self.assertIn("was rotated already", self.refused(keyrows.rotate, key_id, random_bytes=os.urandom))
        _, mark = keyrows.changed_since(self.connection, None)
        self.do("UPDATE api_keys SET ends_at = clock_timestamp() - interval '1 second' WHERE key_id = %s", key_id)
        self.do("UPDATE api_keys SET changed_at = '2026-01-01'")
        records, _ = keyrows.changed_since(self.connection, mark)
        self.assertEqual([(key_id, True)], [(one.account.key_id, one.revoked) for one in records])
        self.assertEqual([key_id], self.ids(keyrows.listed(self.connection, revoked=True)))
        self.assertIsNot(None, keyrows.details(self.connection, key_id).revoked_at)
        self.assertIn("is revoked", self.refused(keyrows.set_tier, key_id, "free"))
        self.assertEqual(False, keyrows.revoke(self.connection, key_id)[1])

    def test_refused(self) -> None:
        key_id = self.create()[1].account.key_id
        for grace in (-1.0, 1e9, float("nan"), float("inf")):
            self.assertIn("between 0 and 30 days", self.refused(keyrows.rotate, key_id, grace, random_bytes=os.urandom))
        self.refused(keyrows.rotate, "nobody", random_bytes=os.urandom)
        self.assertEqual([(1,)], self.do("SELECT count(*) FROM api_keys"))

    def test_two_at_once(self) -> None:
        """The second waits for the first, and is refused: one key has one successor."""
        key_id = self.create()[1].account.key_id
        keyrows.rotate(self.connection, key_id, random_bytes=os.urandom)
        other = self.connect()
        with other.cursor() as cursor:
            cursor.execute("SET lock_timeout = '100ms'")
        self.assertRaises(psycopg2.OperationalError, keyrows.rotate, other, key_id, random_bytes=os.urandom)
        other.rollback()
        self.connection.commit()
        error = self.assertRaises(KeyRowError, keyrows.rotate, other, key_id, random_bytes=os.urandom)
        self.assertIn("is revoked", str(error))

    def test_rolled_back(self) -> None:
        """Nothing is half done."""
        key_id = self.create()[1].account.key_id
        keyrows.rotate(self.connection, key_id, random_bytes=os.urandom)
        self.connection.rollback()
        self.assertEqual([(key_id, False)], self.do("SELECT key_id, revoked FROM api_keys"))


class SetTierTests(Case):
    def test_set(self) -> None:
        """The limits of the new tier; what was used stays."""
        _, record = self.create("free")
        self.do("UPDATE api_keys SET current_usage = 900")
        changed = keyrows.set_tier(self.connection, record.account.key_id, "partner")
        self.assertEqual(
            (PLANS["partner"], "partner", 900), (changed.account.plan, changed.account.tier, changed.current_usage)
        )
        self.assertGreater(changed.changed_at, record.changed_at)
        self.assertIn("no tier 'gold'", self.refused(keyrows.set_tier, record.account.key_id, "gold"))
        self.refused(keyrows.set_tier, "nobody", "free")

    def test_tiers(self) -> None:
        self.assertEqual(
            {plan.tier: plan for plan in PLANS.values()}, {plan.tier: plan for plan in keyrows.tiers(self.connection)}
        )


class ChangedSinceTests(Case):
    def changed(self, mark: float | None) -> tuple[set[str], float]:
        records, mark = keyrows.changed_since(self.connection, mark)
        self.connection.commit()
        return {record.account.name for record in records}, mark

    def test_all(self) -> None:
        """All good ones, and those revoked within the last day."""
        for name in ("good", "gone", "long gone", "ended", "long ended"):
            self.create(name=name)
        self.do("UPDATE api_keys SET revoked = true WHERE name IN ('gone', 'long gone')")
        self.do("UPDATE api_keys SET revoked_at = clock_timestamp() - interval '26 hours' WHERE name = 'long gone'")
        self.do("UPDATE api_keys SET ends_at = clock_timestamp() - interval '1 hour' WHERE name = 'ended'")
        self.do("UPDATE api_keys SET ends_at = clock_timestamp() - interval '26 hours' WHERE name = 'long ended'")
        records, _ = keyrows.changed_since(self.connection, None)
        self.assertEqual(
            {"good": False, "gone": True, "ended": True}, {record.account.name: record.revoked for record in records}
        )

    def test_none_at_all(self) -> None:
        names, mark = self.changed(None)
        self.assertEqual(set(), names)
        self.assertLess(abs(mark - time.time()), 60.0)
        names, later = self.changed(mark)
        self.assertEqual((set(), True), (names, later > mark))

    def test_since(self) -> None:
        """What is made, changed and revoked; a minute is looked back."""
        for name in ("old", "changed", "revoked", "used"):
            self.create(name=name)
        _, mark = self.changed(None)
        old = "UPDATE api_keys SET changed_at = to_timestamp(%s)"
        self.do(old, mark - 61.0)
        self.assertEqual(set(), self.changed(mark)[0])
        self.create(name="new")
        self.do("UPDATE api_keys SET tier = 'free' WHERE name = 'changed'")
        self.do("UPDATE api_keys SET revoked = true WHERE name = 'revoked'")
        self.do("UPDATE api_keys SET current_usage = 5, last_used = clock_timestamp() WHERE name = 'used'")
        self.assertEqual({"new", "changed", "revoked"}, self.changed(mark)[0])
        self.do(old, mark - 59.0)
        self.assertEqual({"old", "new", "changed", "revoked", "used"}, self.changed(mark)[0])

    def test_committed_late(self) -> None:
        """A change that was made before the mark, and committed after it, is not missed."""
        self.create()
        other = self.connect()
        with other.cursor() as cursor:
            cursor.execute("UPDATE api_keys SET revoked = true")
        self.do("SELECT 1")
        records, mark = keyrows.changed_since(self.connection, time.time())
        self.connection.commit()
        self.assertEqual([False], [record.revoked for record in records])
        other.commit()
        self.assertEqual([True], [record.revoked for record in keyrows.changed_since(self.connection, mark)[0]])

    def test_what_many_have_in_common_is_kept_once(self) -> None:
        """In memory there will be a hundred thousand of them."""
        for name in ("one", "two"):
            self.create(name=name)
        one, two = keyrows.changed_since(self.connection, None)[0]
        self.assertIs(one.account.plan, two.account.plan)
        self.assertIs(one.account.tier, two.account.tier)
        self.assertIs(one.usage_month, two.usage_month)

    def test_it_does_not_look_at_every_row(self) -> None:
        """The question that every node asks every two seconds goes by the indexes."""
        self.do(
            "INSERT INTO api_keys (key_id, key_hash, datagram_secret, tier, minimum_wait_seconds, changed_at)"
            " SELECT 'k' || n, sha256(n::text::bytea), sha256(n::text::bytea), 'partner', 0,"
            " clock_timestamp() - interval '1 day' FROM generate_series(1, 20000) n"
        )
        self.connection.autocommit = True
        self.do("VACUUM ANALYZE api_keys")
        self.do("SELECT pg_stat_force_next_flush()")
        before = self.do("SELECT idx_tup_fetch, seq_tup_read FROM pg_stat_user_tables WHERE relname = 'api_keys'")
        self.assertEqual([], keyrows.changed_since(self.connection, time.time())[0])
        self.do("SELECT pg_stat_force_next_flush()")
        after = self.do("SELECT idx_tup_fetch, seq_tup_read FROM pg_stat_user_tables WHERE relname = 'api_keys'")
        self.assertEqual(before, after)
        keyrows.listed(self.connection, "partner", after="k7")
        self.do("SELECT pg_stat_force_next_flush()")
        (looked,) = self.do("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'api_keys'")
        self.assertGreater(looked[0], sum(after[0]))


class NoSecretTests(Case):
    def test_a_row_that_breaks_a_rule(self) -> None:
        """PostgreSQL quotes the row, with the datagram secret in it; we do not."""
        self.do("ALTER TABLE api_keys ADD CHECK (name <> 'forbidden')")
        error = self.assertRaises(StoreRefusedError, self.create, "pro", "forbidden")
        self.connection.rollback()
        self.assertEqual("23514", error.code)
        self.assertNotIn("\\x", str(error))
        self.assertIs(None, error.__cause__)


class Pool:
    """A pool without threads."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.limits: list[float | None] = []

    def run(self, work: Callable[[Connection], Any], limit_seconds: float | None = None) -> Deferred[Any]:
        self.limits.append(limit_seconds)
        result = work(self.connection)
        self.connection.commit()
        return succeed(result)


class PostgresKeysTests(Case):
    def test_the_port(self) -> None:
        pool = Pool(self.connection)
        keys = PostgresKeys(pool, os.urandom)

        def done(asked: Any) -> Any:
            return self.successResultOf(Deferred.fromCoroutine(asked))

        text, record = done(keys.create("partner", "demo"))
        self.assertEqual(record, done(keys.find(digest_of(text.encode()))))
        self.assertIs(None, done(keys.find(digest_of(b"no key"))))
        records, mark = done(keys.changed_since(None))
        self.assertEqual([record], records)
        self.assertEqual(
            (True, True), (done(keys.revoke("demo"))[0].revoked, done(keys.changed_since(mark))[0][0].revoked)
        )
        self.assertTrue(all(pool.limits[place] for place in (3, 5)), pool.limits)
