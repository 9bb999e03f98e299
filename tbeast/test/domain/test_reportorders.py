"""What is left of a month's reports, and what makes pages be of one report."""

from __future__ import annotations

from datetime import date
from unittest import TestCase
from uuid import UUID

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from tbeast.domain.keys import account_of
from tbeast.domain.reportorders import (
    UNLIMITED,
    Allowance,
    allowance,
    details_of,
    identity_of,
    make_id,
    month_day,
    quota_of,
)
from tbeast.domain.reports import USAGE, ReportQuery
from tbeast.domain.syncplan import NO_ID

NEW_YEAR = 1_798_761_600.0  # 2027-01-01T00:00:00Z
FREE = account_of("some-free-key", "free", "f")


class AllowanceTests(TestCase):
    def test_whose_quota(self) -> None:
        self.assertEqual(10, quota_of(FREE))
        self.assertIsNone(quota_of(evolve(FREE, lrs_addon=True)))
        self.assertIsNone(quota_of(account_of("some-partner", "partner", "p")))
        self.assertIsNone(quota_of(None))

    def test_months(self) -> None:
        """Those of UTC."""
        self.assertEqual((date(2026, 12, 1), date(2027, 1, 1)), (month_day(NEW_YEAR - 0.001), month_day(NEW_YEAR)))

    def test_what_is_left(self) -> None:
        self.assertEqual(Allowance(10, 7, 2), allowance(10, 3, NEW_YEAR - 1.5))
        self.assertEqual(Allowance(10, 0, 1), allowance(10, 13, NEW_YEAR - 0.001))
        self.assertEqual(Allowance(10, 10, 31 * 86_400), allowance(10, 0, NEW_YEAR))
        self.assertEqual(UNLIMITED, allowance(None, 3, NEW_YEAR))


class IdentityTests(TestCase):
    def test_pages_of_one_report(self) -> None:
        """Their size and place are no part of what they are of; everything else is, and is noted."""
        query = ReportQuery(USAGE, "abc", 1_000, 9_000, "BTC", "median", 7)
        identity = identity_of(query, 5_000)
        further = evolve(query, page_size=9, after=(2_000, NO_ID), cut_us=5_000, from_us=1_500)
        self.assertEqual(identity, identity_of(further, 5_000))
        for change in ({"key_id": None}, {"key_id": "any."}, {"asked_from_us": 999}, {"to_us": 8_999}, {"asset": ""},
                       {"source": ""}):  # fmt: skip
            self.assertNotEqual(identity, identity_of(evolve(query, **change), 5_000), change)
        self.assertNotEqual(identity, identity_of(query, 5_001))
        self.assertLessEqual(identity.items(), details_of(further, 5_000).items())
        self.assertEqual(
            (True, 9), (details_of(further, 5_000)["further_page"], details_of(further, 5_000)["page_size"])
        )

    def test_what_did_not_come_to_a_cut(self) -> None:
        details = details_of(ReportQuery(USAGE, None, 1_000, 9_000), None, "database")
        self.assertNotIn("cut", details)
        self.assertEqual("database", details["broken_off"])


class IdTests(TestCase):
    @settings(deadline=None, max_examples=100)
    @given(st.floats(0.0, 4e9), st.floats(0.0, 4e9), st.binary(min_size=10, max_size=10))
    def test_ids(self, one: float, other: float, chance: bytes) -> None:
        """They are uuids of version 7, in the order of their time."""
        first, second = (UUID(make_id(at, lambda length: chance[:length])) for at in (one, other))
        self.assertEqual((7, "specified in RFC 4122"), (first.version, first.variant))
        if int(one * 1000.0) < int(other * 1000.0):
            self.assertLess(str(first), str(second))
