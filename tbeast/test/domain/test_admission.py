"""Admission: the month, then the bucket."""

from __future__ import annotations

from datetime import UTC, datetime

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.admission import ADMITTED, NO_LIMIT, QUOTA_EXCEEDED, RATE_LIMITED, Standing, month_end
from tbeast.domain.keys import account_of
from tbeast.domain.plans import PLANS


def at(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


NOON = at(2026, 4, 12, 12)
FREE = account_of("free-key", "free", "f")


class MonthTests(SynchronousTestCase):
    def test_ends(self) -> None:
        for moment, end in (
            (at(2026, 4, 12, 12), at(2026, 5, 1)), (at(2026, 12, 31, 23, 59, 59), at(2027, 1, 1)),
            (at(2026, 1, 1), at(2026, 2, 1)), (at(2028, 2, 29), at(2028, 3, 1)),
        ):  # fmt: skip
            self.assertEqual(end, month_end(moment))

    @settings(max_examples=100, deadline=None)
    @given(st.floats(0.0, 4e9))
    def test_any(self, now: float) -> None:
        self.assertTrue(0.0 < month_end(now) - now <= 31 * 86_400)
        self.assertEqual(1, datetime.fromtimestamp(month_end(now), UTC).day)


class StandingTests(SynchronousTestCase):
    def test_without_limits(self) -> None:
        """A partner's verdict is one object, made once."""
        account = account_of("partner-key", "partner", "p")
        standing = Standing(account, NOON)
        verdicts = {id(standing.admit(NOON)) for _ in range(1000)}
        self.assertEqual((1, 1000), (len(verdicts), standing.used))
        self.assertEqual((ADMITTED, account, NO_LIMIT, NO_LIMIT, 0, 0.0), tuple(standing.admit(NOON)))

    def test_bucket(self) -> None:
        standing = Standing(FREE, NOON)
        self.assertEqual((ADMITTED, FREE, 5, 4, 1, 0.0), tuple(standing.admit(NOON)))
        for _ in range(4):
            standing.admit(NOON)
        verdict = standing.admit(NOON)
        self.assertEqual((RATE_LIMITED, 5, 0, 5), (verdict.outcome, *verdict[2:5]))
        self.assertAlmostEqual(1.0, verdict.retry_after_seconds, 5)
        self.assertEqual(5, standing.used)

    def test_without_a_quota(self) -> None:
        standing = Standing(account_of("some-key", "unlimited", "u"), NOON)
        self.assertEqual((ADMITTED, 200, 199, 1), (lambda v: (v.outcome, *v[2:5]))(standing.admit(NOON)))

    def test_quota(self) -> None:
        """The month's numbers are told once they bind first, and refusals are not counted."""
        standing = Standing(FREE, NOON)
        now = NOON
        for _ in range(996):
            now += 1.0
            self.assertEqual(5, standing.admit(now).limit)
        to_may = round(at(2026, 5, 1) - now)
        told = [standing.admit(now + wait)[:5] for wait in (1, 2, 3, 4)]
        self.assertEqual(
            [(ADMITTED, FREE, 1000, left, to_may - wait) for left, wait in ((3, 1), (2, 2), (1, 3), (0, 4))], told
        )
        for _ in range(3):
            verdict = standing.admit(now + 10.0)
            self.assertEqual((QUOTA_EXCEEDED, FREE, 1000, 0, to_may - 10, to_may - 10.0), tuple(verdict))
        self.assertEqual(1000, standing.used)
        verdict = standing.admit(at(2026, 5, 1))
        self.assertEqual((ADMITTED, 5, 1), (verdict.outcome, verdict.limit, standing.used))

    def test_clock_that_goes_back(self) -> None:
        """The month before is not a new one."""
        standing = Standing(FREE, at(2026, 5, 1))
        standing.used = 1000
        self.assertEqual(QUOTA_EXCEEDED, standing.admit(at(2026, 4, 30)).outcome)

    def test_moved(self) -> None:
        standing = Standing(FREE, NOON)
        for _ in range(3):
            standing.admit(NOON)
        pro = evolve(FREE, tier="pro", plan=PLANS["pro"])
        moved = standing.moved_to(pro, NOON)
        self.assertEqual((pro, 3), (moved.account, moved.used))
        self.assertEqual((20, 19), (lambda v: (v.limit, v.remaining))(moved.admit(NOON)))
        self.assertEqual(0, standing.moved_to(pro, at(2026, 6, 1)).used)

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(["free", "pro", "unlimited", "partner"]), st.lists(st.floats(0.0, 400_000.0), max_size=60))
    def test_numbers_make_sense(self, tier: str, spans: list[float]) -> None:
        standing = Standing(account_of("some-key", tier, "x"), NOON)
        now = NOON
        for span in spans:
            now += span
            verdict = standing.admit(now)
            self.assertTrue(0 <= verdict.remaining <= verdict.limit)
            self.assertGreaterEqual(verdict.reset_seconds, 0)
            self.assertEqual(verdict.outcome == ADMITTED, verdict.retry_after_seconds == 0.0)


class HeardTests(SynchronousTestCase):
    def test_what_all_nodes_have_used(self) -> None:
        """Of this month, and only ever more; another month's is not this one's."""
        standing = Standing(FREE, NOON)
        standing.admit(NOON)
        standing.heard_usage("2026-03", 999)
        standing.heard_usage("2026-04", 0)
        self.assertEqual(1, standing.used)
        standing.heard_usage("2026-04", 999)
        self.assertEqual([ADMITTED, QUOTA_EXCEEDED], [standing.admit(NOON).outcome for _ in range(2)])
        may = at(2026, 5, 1)
        self.assertEqual(ADMITTED, standing.admit(may).outcome)
        standing.heard_usage("2026-04", 1000)
        self.assertEqual(1, standing.used)
        standing.heard_usage("2026-05", 7)
        self.assertEqual(7, standing.used)

    def test_moved_in_the_middle_of_the_month(self) -> None:
        """What is heard of the month counts for the new standing too."""
        standing = Standing(FREE, NOON).moved_to(evolve(FREE, name="other"), NOON)
        standing.heard_usage("2026-04", 12)
        self.assertEqual(12, standing.used)
