"""Tests of L{tbeast.domain.keyorders}."""

from __future__ import annotations

from attrs import evolve, fields
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.keyorders import LIMITS, MadeKey, limited
from tbeast.domain.plans import PLANS, Plan


class LimitedTests(SynchronousTestCase):
    def test_every_limit_has_a_name(self) -> None:
        self.assertEqual({field.name for field in fields(Plan)} - {"tier"}, set(LIMITS.values()))

    def test_sets_what_is_given(self) -> None:
        free = PLANS["free"]
        self.assertEqual(free, limited(free, {}))
        self.assertEqual(evolve(free, monthly_quota=None, qps=2.5), limited(free, {"monthly_quota": None, "qps": 2.5}))

    def test_rate_and_burst_go_together(self) -> None:
        free = PLANS["free"]
        self.assertIn("go together", str(self.assertRaises(ValueError, limited, free, {"qps": None})))
        self.assertRaises(ValueError, limited, PLANS["partner"], {"burst": 5})
        plan = limited(free, {"qps": None, "burst": None})
        self.assertEqual((None, None), (plan.qps, plan.burst))


class MadeKeyTests(SynchronousTestCase):
    def test_its_text_is_not_shown(self) -> None:
        self.assertNotIn("secret", repr(MadeKey("tb_secret", None)))  # type: ignore[arg-type]
