"""Leases: one node's standings, without a service around them."""

from __future__ import annotations

from datetime import UTC, datetime

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.admission import ADMITTED, NO_LIMIT, QUOTA_EXCEEDED, RATE_LIMITED
from tbeast.domain.keys import Account, account_of
from tbeast.domain.leases import EXCHANGE_SECONDS, SHARE_RETRY_SECONDS, LeasedStanding, Line
from tbeast.domain.plans import PLANS
from tbeast.domain.sharedbuckets import SILENCE_SECONDS, Balance, Contact, SharedBuckets

NOON = 1_776_003_781.25
FREE, PRO, PARTNER = (account_of(f"{tier}-key", tier, tier) for tier in ("free", "pro", "partner"))
MONTH = "2026-04"


def at(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


class StandingsCase(SynchronousTestCase):
    def line(self, nodes: int = 1, contact: bool = True, now: float = NOON) -> Line:
        line = Line("n", "l", nodes, now)
        self.hurries = 0

        def hurry() -> None:
            line.hurried = True
            self.hurries += 1

        line.hurry = hurry
        if contact:
            self.answer(line, now)
        return line

    def answer(self, line: Line, now: float, nodes: int = 1) -> None:
        line.heard(Contact(now, "e", now - NOON, nodes), now)

    def admitted(self, standing: LeasedStanding, now: float) -> int:
        count = 0
        while standing.admit(now).outcome == ADMITTED:
            count += 1
        return count


class LineTests(StandingsCase):
    def test_lease(self) -> None:
        line = self.line(nodes=3)
        self.assertEqual([100 / 3, 5 / 3], [line.lease(100), line.lease(5)])
        self.answer(line, NOON, nodes=8)
        self.assertEqual((8, 1.0), (line.nodes, line.lease(5)))
        self.answer(line, NOON, nodes=1)
        self.assertEqual(3, line.nodes)

    def test_hello(self) -> None:
        """It tells of the last answer."""
        line = self.line(contact=False)
        self.assertEqual(("n", ""), (line.hello().node, line.hello().epoch))
        line.heard(Contact(7.0, "e", 0.0, 1), NOON)
        self.assertEqual((7.0, "e", NOON + SILENCE_SECONDS), (line.hello().heard_at, line.hello().epoch, line.until))

    def test_how_long_the_clock_stood_still(self) -> None:
        for clock, epoch, still in (
            (5.0, "e", 30.0), (7.0, "e", 28.0), (35.0, "e", 0.0), (99.0, "e", 0.0),
            (0.0, "other", 30.0), (4.0, "other", 26.0), (99.0, "other", 0.0),
        ):  # fmt: skip
            line = self.line(contact=False)
            line.heard(Contact(1.0, "e", 5.0, 1), NOON)
            self.assertEqual(still, line.regained(Contact(31.0, epoch, clock, 1), NOON + 30.0))
            self.assertEqual((NOON + 31.0, NOON + 1.0), (line.until, line.silent_from))
            self.assertEqual("e", line.hello().epoch)  # so that the server hears of the loss

    def test_clocks_that_are_set(self) -> None:
        """Ours forward, or the server's back: nothing is given for that."""
        for seconds, time, still in ((3_600.0, 3.0, 2.0), (2.0, -3_600.0, 0.0)):
            line = self.line(contact=False)
            line.heard(Contact(1.0, "e", 5.0, 1), NOON)
            self.assertEqual(still, line.regained(Contact(time, "e", 5.0, 1), NOON + seconds))


class ContactTests(StandingsCase):
    def standing(self, account: Account, line: Line, spent: int = 0, tokens: float | None = None) -> LeasedStanding:
        """One that has been answered."""
        standing = LeasedStanding(account, NOON, line)
        for _ in range(spent):
            standing.admit(NOON)
        standing.report()
        standing.take(Balance(tokens or 0.0, 0.0, spent, MONTH), NOON)
        return standing

    def test_without_limits(self) -> None:
        line = self.line()
        standing = LeasedStanding(PARTNER, NOON, line)
        verdicts = {id(standing.admit(NOON)) for _ in range(1000)}
        self.assertEqual((1, 1000, []), (len(verdicts), standing.used, line.wanted))

    def test_one_node_s_numbers(self) -> None:
        """They are those of the single bucket."""
        standing = LeasedStanding(FREE, NOON, self.line())
        self.assertEqual((ADMITTED, FREE, 5, 4, 1, 0.0), tuple(standing.admit(NOON)))
        for left in (3, 2, 1, 0):
            self.assertEqual((5, left, 5 - left, 0.0), tuple(standing.admit(NOON))[2:])
        self.assertEqual((RATE_LIMITED, 5, 0, 5), tuple(standing.admit(NOON))[:1] + tuple(standing.admit(NOON))[2:5])

    def test_numbers_speak_of_the_cluster(self) -> None:
        standing = self.standing(PRO, self.line(nodes=3), spent=1, tokens=12.5)
        self.assertEqual((20, 11, 1), tuple(standing.admit(NOON))[2:5])
        self.assertEqual((20, 15, 1), tuple(standing.admit(NOON + 0.5))[2:5])
        self.assertEqual((20, 19, 1), tuple(standing.admit(NOON + 0.99 + 0.01))[2:5])

    def test_the_month_s_numbers(self) -> None:
        """Once they bind first."""
        standing = self.standing(FREE, self.line(), tokens=5.0)
        standing.heard_usage(MONTH, 997)
        to_may = round(at(2026, 5, 1) - NOON + 0.5)
        self.assertEqual((1000, 2, to_may), tuple(standing.admit(NOON))[2:5])

    def test_what_is_told(self) -> None:
        line = self.line(nodes=3)
        standing = LeasedStanding(PRO, NOON, line)
        for _ in range(4):
            standing.admit(NOON)
        self.assertEqual([standing], line.wanted)
        report = standing.report()
        self.assertEqual(("l", 10.0, 20, 0.1, 50_000), (
            report.life, report.qps, report.burst, report.min_wait_seconds, report.quota))  # fmt: skip
        self.assertEqual((0, 4, MONTH, 4, 4), (
            report.settled_spent, report.spent, report.month, report.month_spent, report.known))  # fmt: skip
        self.assertAlmostEqual(-40 / 3, report.opening)

    def test_the_lease_is_renewed(self) -> None:
        """To what the bucket holds, less what was spent since the report."""
        line = self.line(nodes=2)
        standing = LeasedStanding(PRO, NOON, line)
        self.assertEqual(10, self.admitted(standing, NOON))
        standing.report()
        self.assertTrue(standing.take(Balance(4.0, 0.0, 10, MONTH), NOON))
        self.assertEqual(4, self.admitted(standing, NOON))
        standing.report()
        standing.take(Balance(4.0, 0.0, 14, MONTH), NOON)
        standing.admit(NOON)
        standing.report()
        standing.admit(NOON)
        standing.take(Balance(3.0, 0.0, 15, MONTH), NOON)
        self.assertEqual(2, self.admitted(standing, NOON))

    def test_no_more_than_the_lease(self) -> None:
        standing = self.standing(PRO, self.line(nodes=4), spent=1, tokens=19.0)
        self.assertEqual(5, self.admitted(standing, NOON))
        self.assertEqual(0, self.admitted(standing, NOON + 0.5))  # it has not told yet

    def test_it_grows_by_the_share(self) -> None:
        standing = self.standing(PRO, self.line(nodes=2), spent=1, tokens=0.0)
        self.assertEqual([0, 1, 0, 1], [self.admitted(standing, NOON + wait) for wait in (0.19, 0.2, 0.35, 0.4)])

    def test_closed(self) -> None:
        """Until the time that the answer says, and then what it said."""
        standing = LeasedStanding(PRO, NOON, self.line())
        standing.admit(NOON)
        standing.report()
        standing.take(Balance(0.75, 0.5, 1, MONTH), NOON)
        verdict = standing.admit(NOON + 0.49)
        self.assertEqual((RATE_LIMITED, 0), (verdict.outcome, verdict.remaining))
        self.assertAlmostEqual(0.01, verdict.retry_after_seconds, 3)
        self.assertEqual(5, self.admitted(standing, NOON + 0.5))

    def test_debts_are_shared(self) -> None:
        standing = self.standing(PRO, self.line(nodes=2), spent=1, tokens=-8.0)
        self.assertEqual([0, 1], [self.admitted(standing, NOON + wait) for wait in (0.99, 1.0)])

    def test_when_to_hurry(self) -> None:
        """When a lease is dry and the bucket is not; not otherwise, and once."""
        for nodes, hurries in ((1, 0), (2, 1)):
            standing = LeasedStanding(PRO, NOON, self.line(nodes))
            for _ in range(50):
                standing.admit(NOON)
            self.assertEqual(hurries, self.hurries)

    def test_when_to_ask(self) -> None:
        """As long as the lease is not whole, and not more often than it pays."""
        line = self.line(nodes=2)
        standing = LeasedStanding(PRO, NOON, line)
        for tokens, wait, then in ((0.0, 0.1, 0.1), (4.0, 0.0, 0.3), (9.5, 0.0, 0.05), (0.5, 2.0, 2.0)):
            standing.report()
            self.assertTrue(standing.take(Balance(tokens, wait, 0, MONTH), NOON))
            self.assertFalse(standing.needs(NOON + then - 0.001))
            self.assertTrue(standing.needs(NOON + then + 0.001))
        standing.report()
        self.assertFalse(standing.take(Balance(15.0, 0.0, 0, MONTH), NOON))
        self.assertFalse(standing.needs(NOON + 1e9))

    def test_fewer_tokens_when_more_nodes_have_come(self) -> None:
        line = self.line()
        standing = self.standing(PRO, line, spent=0, tokens=20.0)
        self.answer(line, NOON, nodes=4)
        self.assertLessEqual(self.admitted(standing, NOON), 6)

    def test_moved(self) -> None:
        """What was used and what was not told goes along; what is owed is not given again."""
        line = self.line()
        standing = self.standing(PRO, line, spent=4, tokens=16.0)
        for _ in range(3):
            standing.admit(NOON)
        enterprise = evolve(PRO, tier="enterprise", plan=PLANS["enterprise"])
        moved = standing.moved_to(enterprise, NOON)
        self.assertEqual((enterprise, 7, True, False), (moved.account, moved.used, standing.is_gone, moved.is_gone))
        report = moved.report()
        self.assertEqual((4, 7, 7), (report.settled_spent, report.spent, report.month_spent))
        self.assertEqual(97, self.admitted(moved, NOON))
        self.assertIn(moved, line.wanted)

    def test_moved_in_another_month(self) -> None:
        line = self.line()
        standing = self.standing(PRO, line, spent=4, tokens=16.0)
        moved = standing.moved_to(PRO, at(2026, 5, 2))
        self.assertEqual((0, 0, "2026-05"), (moved.used, moved.report().month_spent, moved.report().month))

    def test_moved_to_no_limits_and_back(self) -> None:
        standing = self.standing(PRO, self.line(), spent=4, tokens=16.0)
        free = standing.moved_to(evolve(PRO, tier="partner", plan=PLANS["partner"]), NOON)
        self.assertEqual([ADMITTED] * 300, [free.admit(NOON).outcome for _ in range(300)])
        self.assertEqual(20, self.admitted(free.moved_to(PRO, NOON), NOON))


class MonthTests(StandingsCase):
    month_alone = evolve(PRO, plan=evolve(PLANS["pro"], qps=None, burst=None, monthly_quota=3_000))

    def test_used_up(self) -> None:
        standing = LeasedStanding(FREE, NOON, self.line())
        standing.admit(NOON)
        standing.report()
        standing.take(Balance(4.0, 0.0, 1000, MONTH), NOON)
        verdict = standing.admit(NOON)
        to_may = at(2026, 5, 1) - NOON
        self.assertEqual((QUOTA_EXCEEDED, 1000, 0, round(to_may + 0.5), to_may), (verdict.outcome, *verdict[2:]))
        self.assertEqual(1000, standing.used)
        self.assertEqual(ADMITTED, standing.admit(at(2026, 5, 1)).outcome)
        self.assertEqual((1, 2, 1), (standing.used, standing.report().spent, standing.report().month_spent))

    def test_what_is_heard(self) -> None:
        """It is never less than what was used here, and nothing of another month."""
        standing = LeasedStanding(FREE, NOON, self.line())
        standing.admit(NOON)
        for month, used, known in ((MONTH, 0, 1), (MONTH, 40, 40), ("2026-03", 900, 40), (MONTH, 39, 40)):
            standing.heard_usage(month, used)
            self.assertEqual(known, standing.used)
        standing.report()
        standing.take(Balance(4.0, 0.0, 70, "2026-05"), NOON)
        self.assertEqual(40, standing.used)

    def test_what_others_have_counted(self) -> None:
        """It is told apart from what the database says, which may have heard already of what is still to be told."""
        line = self.line()
        standing = LeasedStanding(FREE, NOON, line)

        def told() -> tuple[int, int, str]:
            report = standing.report()
            return report.known, report.counted, report.counted_in

        standing.heard_usage(MONTH, 30)
        self.assertEqual((30, 30, ""), told())
        standing.admit(NOON)
        standing.heard_usage(MONTH, 50)
        self.assertEqual((50, 30, ""), told())
        standing.take(Balance(4.0, 0.0, 51, MONTH), NOON)
        standing.heard_usage(MONTH, 60)
        self.assertEqual((60, 51, line.epoch), told())
        self.assertNotEqual("", line.epoch)
        moved = standing.moved_to(PRO, NOON)
        self.assertEqual((51, line.epoch), (moved.report().counted, moved.report().counted_in))
        unlimited = moved.moved_to(evolve(PRO, plan=PLANS["partner"]), NOON)
        unlimited.admit(NOON)
        self.assertEqual(
            (61, ""),
            (unlimited.moved_to(PRO, NOON).report().counted, unlimited.moved_to(PRO, NOON).report().counted_in),
        )
        standing.admit(at(2026, 5, 1))
        self.assertEqual((1, 0, line.epoch), told())

    def test_without_a_bucket(self) -> None:
        """The lease is a hundredth of the month for all nodes together; the rest waits for an exchange."""
        standing = LeasedStanding(self.month_alone, NOON, self.line(nodes=3))
        self.assertEqual((ADMITTED, 3_000, 2_999), (lambda v: (v.outcome, *v[2:4]))(standing.admit(NOON)))
        self.assertEqual((9, 1), (self.admitted(standing, NOON), self.hurries))
        verdict = standing.admit(NOON)
        self.assertEqual((RATE_LIMITED, EXCHANGE_SECONDS), (verdict.outcome, verdict.retry_after_seconds))
        standing.report()
        self.assertFalse(standing.take(Balance(0.0, 0.0, 10, MONTH), NOON))
        self.assertEqual(10, self.admitted(standing, NOON))

    def test_a_share_in_a_silence(self) -> None:
        standing = LeasedStanding(self.month_alone, NOON, self.line(nodes=3, contact=False))
        self.assertEqual(1_000, self.admitted(standing, NOON + 0.1))
        verdict = standing.admit(NOON + 0.1)
        self.assertEqual((RATE_LIMITED, SHARE_RETRY_SECONDS), (verdict.outcome, verdict.retry_after_seconds))
        standing.heard_usage(MONTH, 2_400)  # the others took less than their shares
        self.assertEqual(200, self.admitted(standing, NOON + 0.1))

    def test_no_bucket_without_a_rate(self) -> None:
        standing = LeasedStanding(evolve(PRO, plan=evolve(PLANS["pro"], qps=None)), NOON, self.line())
        verdict = standing.admit(NOON)
        self.assertEqual(50_000, verdict.limit)
        self.assertEqual((None, None), (standing.report().qps, standing.report().burst))


class SilenceTests(StandingsCase):
    def test_the_share(self) -> None:
        standing = LeasedStanding(PRO, NOON, self.line(nodes=2, contact=False))
        self.assertEqual(10, self.admitted(standing, NOON + 0.001))
        verdict = standing.admit(NOON + 0.001)
        self.assertEqual((RATE_LIMITED, 20, 0, 2), (verdict.outcome, *verdict[2:5]))
        self.assertAlmostEqual(0.2, verdict.retry_after_seconds, 5)
        self.assertEqual(5, self.admitted(standing, NOON + 1.001))
        self.assertEqual(10, self.admitted(standing, NOON + 1e6))

    def test_the_least_wait(self) -> None:
        patient = evolve(PRO, plan=evolve(PLANS["pro"], min_wait_seconds=3.0))
        standing = LeasedStanding(patient, NOON, self.line(contact=False))
        self.assertEqual([20, 0, 20], [self.admitted(standing, NOON + wait) for wait in (0.1, 3.0, 3.2)])

    def test_what_is_our_own(self) -> None:
        """As much as the clock stood still for; the rest is owed, up to a burst."""
        for still, granted in ((600.0, 100.0), (8.0, 80.0), (0.0, 80.0)):
            line = self.line()
            standing = LeasedStanding(PRO, NOON, line)
            self.admitted(standing, NOON)  # the lease of twenty, before the silence
            for second in range(1, 12):
                self.admitted(standing, NOON + second)
            self.assertEqual(10 * 10 + 20, standing.used)
            line.regained(Contact(NOON, "e", 0.0, 1), NOON + 11.0)
            standing.settle(still, NOON + 11.0)
            # 120 spent: 100 came in the silence, and no more than 20 are owed, whatever is said
            self.assertAlmostEqual(max(granted, 100.0), standing.report().granted, 3)

    def test_what_it_held_before(self) -> None:
        """The lease has grown until the silence began, and that is not what the silence brought."""
        line = self.line()
        standing = LeasedStanding(PRO, NOON, line)
        self.admitted(standing, NOON)
        standing.report()
        standing.take(Balance(0.0, 0.1, 20, MONTH), NOON)
        line.regained(Contact(NOON, "e", 0.0, 1), NOON + 1.5)
        standing.settle(1.5, NOON + 1.5)
        self.assertAlmostEqual(5.0, standing.report().granted, 3)  # half a second of the silence itself

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.floats(0.0, 0.4), st.integers(0, 12)), max_size=60), st.sampled_from([1, 2, 3, 7]))
    def test_never_more_than_the_share(self, asking: list[tuple[float, int]], nodes: int) -> None:
        """Over the whole of a silence: one lease and C{qps / N} a second."""
        standing = LeasedStanding(PRO, NOON, self.line(nodes, contact=False))
        now = NOON + 0.001
        for wait, times in asking:
            now += wait
            for _ in range(times):
                verdict = standing.admit(now)
                self.assertTrue(0 <= verdict.remaining <= verdict.limit < NO_LIMIT)
                self.assertEqual(verdict.outcome == ADMITTED, verdict.retry_after_seconds == 0.0)
        self.assertLessEqual(standing.used, max(1.0, 20 / nodes) + 10 / nodes * (now - NOON) + 0.01)


class OnePlusOneTests(StandingsCase):
    """Nodes and buckets together, without a wire: any order of asking and telling."""

    @settings(max_examples=150, deadline=None)
    @given(
        st.integers(1, 4),
        st.sampled_from(["free", "pro", "enterprise"]),
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 150), st.booleans(), st.floats(0.0, 0.3)), max_size=50),
    )
    def test_the_promise(self, nodes: int, tier: str, steps: list[tuple[int, int, bool, float]]) -> None:
        account = account_of("some-key", tier, "x")
        qps, burst = account.plan.qps or 0.0, account.plan.burst or 0
        buckets, now = SharedBuckets(), NOON
        lines = [Line(f"n{place}", "l", nodes, now) for place in range(nodes)]
        for line in lines:
            line.regained(buckets.look(line.node, now), now)
        standings = [LeasedStanding(account, now, line) for line in lines]
        admitted, low, excess = 0, 0.0, 0.0
        for place, times, tells, wait in steps:
            now += wait
            standing, line = standings[place % nodes], lines[place % nodes]
            for other in lines:  # all are in contact
                other.heard(buckets.contact(other.hello(), now), now)
            for _ in range(times):
                if standing.admit(now).outcome == ADMITTED:
                    low = min(low, admitted - qps * (now - NOON))
                    admitted += 1
                    excess = max(excess, admitted - qps * (now - NOON) - low)
            if tells:
                standing.take(buckets.report(line.node, standing.report(), now), now)
        self.assertLessEqual(excess, burst + nodes * max(1.0, burst / nodes) + 1e-3)
