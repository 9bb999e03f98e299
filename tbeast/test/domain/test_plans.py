"""The tiers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.plans import PLANS
from tbeast.settingkinds import TIERS


class PlanTests(SynchronousTestCase):
    def test_table(self) -> None:
        rows = {
            tier: (plan.monthly_quota, plan.qps, plan.burst, plan.min_wait_seconds, plan.monthly_reports)
            for tier, plan in PLANS.items()
        }
        self.assertEqual(
            {
                "free": (1_000, 1.0, 5, 1.0, 10),
                "pro": (50_000, 10.0, 20, 0.1, 10),
                "enterprise": (500_000, 50.0, 100, 0.02, 10),
                "unlimited": (None, 100.0, 200, 0.01, None),
                "lifetime": (None, 100.0, 200, 0.01, None),
                "partner": (None, None, None, 0.0, None),
            },
            rows,
        )
        self.assertEqual(list(PLANS), [plan.tier for plan in PLANS.values()])

    def test_settings_know_the_same_tiers(self) -> None:
        self.assertEqual(tuple(PLANS), TIERS)
