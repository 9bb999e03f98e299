"""What each tier may ask: questions a month, questions a second, and reports a month."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import frozen


@frozen
class Plan:
    """One tier's limits; C{None} is no limit.

    @ivar monthly_quota: questions a calendar month (UTC).
    @ivar qps: how many questions a second the bucket gets back.
    @ivar burst: how many questions a full bucket holds.
    @ivar min_wait_seconds: the least time between two questions of a key whose bucket is empty.
    @ivar monthly_reports: reports a calendar month, without the add-on.
    """

    tier: str
    monthly_quota: int | None
    qps: float | None
    burst: int | None
    min_wait_seconds: float
    monthly_reports: int | None


PLANS: Final[Mapping[str, Plan]] = MappingProxyType(
    {
        plan.tier: plan
        for plan in (
            Plan("free", 1_000, 1.0, 5, 1.0, 10),
            Plan("pro", 50_000, 10.0, 20, 0.1, 10),
            Plan("enterprise", 500_000, 50.0, 100, 0.02, 10),
            Plan("unlimited", None, 100.0, 200, 0.01, None),
            Plan("lifetime", None, 100.0, 200, 0.01, None),
            Plan("partner", None, None, None, 0.0, None),
        )
    }
)
"""The plans by tier, from the smallest to the largest."""
