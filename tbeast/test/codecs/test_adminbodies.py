"""Tests of L{tbeast.codecs.adminbodies}."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs import adminbodies
from tbeast.codecs.adminbodies import key_edit, key_filter, new_key, options
from tbeast.codecs.problems import Problem
from tbeast.domain.keyorders import KeyEdit, KeyFilter, NewKey

READERS: tuple[Callable[[bytes], object], ...] = (
    new_key, key_edit, adminbodies.grace_seconds, adminbodies.key_id, adminbodies.parameter_value,
    adminbodies.wants_drop, adminbodies.wants_full, adminbodies.most_connections, adminbodies.nothing,
)  # fmt: skip


class BodyTests(SynchronousTestCase):
    def refused(self, found: object, *words: str, code: str = "malformed_body") -> None:
        assert isinstance(found, Problem), found
        self.assertEqual(code, found.code)
        for word in words:
            self.assertIn(word, found.detail)

    def test_a_new_key(self) -> None:
        self.assertEqual(NewKey("desk"), new_key(b'{"name":"desk"}'))
        whole = {
            "name": "desk", "tier": "pro", "email": "a@b.c", "lrs_addon": True, "response_format": "json",
            "preferred_lang": "de", "limits": {"queries_per_month": None, "queries_per_second": 2, "burst": 4},
        }  # fmt: skip
        expected = NewKey("desk", "pro", "a@b.c", True, "json", "de", {"monthly_quota": None, "qps": 2, "burst": 4})
        self.assertEqual(expected, new_key(json.dumps(whole).encode()))

    def test_unknown_members_are_named(self) -> None:
        self.refused(new_key(b'{"name":"desk","teir":"pro"}'), "teir")
        self.refused(key_edit(b'{"limits":{"qps":5}}'), "qps", "limits")
        for read in READERS:
            self.refused(read(b'{"surprise":1}'))

    def test_limits_that_make_no_sense(self) -> None:
        for limits in (
            b'{"burst":0}', b'{"burst":1.5}', b'{"burst":true}', b'{"queries_per_second":0}',
            b'{"queries_per_second":1e999}', b'{"queries_per_second":NaN}', b'{"queries_per_month":-1}',
            b'{"min_wait_seconds":null}', b'{"reports_per_month":"10"}', b'{"burst":4294967296}',
        ):  # fmt: skip
            self.refused(key_edit(b'{"limits":' + limits + b"}"))

    def test_an_edit(self) -> None:
        self.assertEqual(KeyEdit("pro"), key_edit(b'{"tier":"pro"}'))
        self.assertEqual(KeyEdit(lrs_addon=False), key_edit(b'{"lrs_addon":false}'))
        self.assertEqual(KeyEdit(limits={"monthly_reports": None}), key_edit(b'{"limits":{"reports_per_month":null}}'))
        self.refused(key_edit(b"{}"), "tier")
        self.refused(key_edit(b'{"limits":{}}'), "tier")
        self.refused(key_edit(b'{"tier":null}'), "tier")

    def test_no_body_where_none_is_needed(self) -> None:
        self.assertEqual(0.0, adminbodies.grace_seconds(b""))
        self.assertIs(False, adminbodies.wants_drop(b""))
        self.assertIs(False, adminbodies.wants_full(b"{}"))
        self.assertIsNone(adminbodies.nothing(b""))
        for read in (new_key, key_edit, adminbodies.key_id, adminbodies.parameter_value, adminbodies.most_connections):
            self.refused(read(b""))

    def test_what_no_database_takes(self) -> None:
        self.refused(new_key(b'{"name":"desk","email":"a@b.c\\u0000"}'), "email")

    def test_grace(self) -> None:
        self.assertEqual(90.0, adminbodies.grace_seconds(b'{"grace_seconds":90}'))
        self.refused(adminbodies.grace_seconds(b'{"grace_seconds":-1}'))
        self.refused(adminbodies.grace_seconds(b'{"grace_seconds":2592001}'))

    def test_values(self) -> None:
        for text, value in ((b'"serve"', "serve"), (b"5", 5), (b"2.5", 2.5), (b"true", True)):
            self.assertEqual(value, adminbodies.parameter_value(b'{"value":' + text + b"}"))
        for text in (b"null", b"[1]", b"{}"):
            self.refused(adminbodies.parameter_value(b'{"value":' + text + b"}"))

    def test_others(self) -> None:
        self.assertEqual("abc", adminbodies.key_id(b'{"key_id":"abc"}'))
        self.assertEqual(7, adminbodies.most_connections(b'{"max_connections":7}'))
        self.assertIs(True, adminbodies.wants_full(b'{"full":true}'))
        self.refused(adminbodies.wants_full(b'{"full":1}'), "full")

    def test_no_json(self) -> None:
        for body in (b"{", b"[]", b'"x"', b"\xff", b'{"name":"\xff"}', b"[" * 9000):
            for read in READERS:
                self.refused(read(body))

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=60))
    def test_reads_anything(self, body: bytes) -> None:
        for read in READERS:
            found = read(body)
            self.assertTrue(body == b"" or isinstance(found, Problem) or body.lstrip().startswith(b"{"))


class QueryTests(SynchronousTestCase):
    def code(self, query: bytes) -> str:
        found = key_filter(query)
        assert isinstance(found, Problem), found
        return found.code

    def test_filters(self) -> None:
        self.assertEqual(KeyFilter(revoked=False, limit=100), key_filter(b""))
        found = key_filter(b"tier=pro&name=a%20desk&revoked=all&cursor=abc&page_size=7")
        self.assertEqual(KeyFilter("pro", "a desk", None, "abc", 7), found)
        self.assertEqual(KeyFilter(revoked=True), key_filter(b"revoked=true"))

    def test_refusals(self) -> None:
        for query, code in (
            (b"page_size=0", "malformed_parameter"), (b"page_size=1001", "malformed_parameter"),
            (b"page_size=", "malformed_parameter"), (b"page_size=%C2%B2", "malformed_parameter"),
            (b"revoked=maybe", "malformed_parameter"), (b"teir=pro", "unknown_parameter"),
            (b"tier=pro&tier=free", "duplicate_parameter"), (b"name=%ff", "malformed_parameter"),
            (b"name=\xff", "malformed_parameter"), (b"name=a%00", "malformed_parameter"),
            (b"cursor=%00", "malformed_parameter"),
        ):  # fmt: skip
            self.assertEqual(code, self.code(query), query)

    def test_options(self) -> None:
        self.assertEqual({}, options(b"", ()))
        found = options(b"x=1", ())
        assert isinstance(found, Problem)
        self.assertIn("none here", found.detail)
