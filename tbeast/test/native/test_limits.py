"""C{Lanes.decide}: the limits of a key, kept in Python, counted in C.

A twin of each standing goes the way of Python alone. After every question both have been told the same, and every
field of both is the same, so the next question finds them alike whoever decides on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from tbeast.domain.admission import ADMITTED, NO_LIMIT, RATE_LIMITED, Standing, Verdict, month_end
from tbeast.domain.keys import Account
from tbeast.domain.leases import LeasedStanding, Line
from tbeast.domain.plans import PLANS, Plan
from tbeast.domain.ratelimits import TokenBucket
from tbeast.domain.sharedbuckets import Balance, Contact
from tbeast.domain.sharedshelf import BYTES
from tbeast.test.native.parts import KEY, NOW, PARTNER, NativeCase, open_lanes

NO_PLAN = PLANS["partner"]
BUCKET = evolve(NO_PLAN, qps=10.0, burst=20, min_wait_seconds=0.1)
QUOTAS = st.one_of(st.none(), st.integers(1, 40))
PLAN_STRATEGY = st.builds(
    lambda quota, bucket: evolve(NO_PLAN, monthly_quota=quota, **(bucket or {})),
    QUOTAS,
    st.one_of(
        st.none(),
        st.fixed_dictionaries({
            "qps": st.one_of(st.sampled_from((1.0, 10.0, 100.0, 7)), st.floats(0.01, 1e6)),
            "burst": st.one_of(st.integers(1, 8), st.integers(1, 1_000_000)),
            "min_wait_seconds": st.one_of(st.just(0.0), st.floats(0.0, 3.0)),
        }),
    ),
)  # fmt: skip
STEPS = st.one_of(
    st.just(0.0), st.sampled_from((1e-6, 0.05, 0.1, 1.0, -1e-6, -0.5)), st.floats(-2.0, 5.0), st.just(86_400.0 * 7)
)
STARTS = st.sampled_from((NOW, month_end(NOW) - 3.0, 12.5, datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()))


def slots_of(value: object) -> Iterable[str]:
    for kind in type(value).__mro__:
        yield from getattr(kind, "__slots__", ())


def state_of(value: object) -> object:
    """All that a standing holds, down to the types of its numbers, so that C's objects are as Python's."""
    if isinstance(value, Standing | TokenBucket):
        return {name: state_of(getattr(value, name)) for name in slots_of(value) if hasattr(value, name)}
    if isinstance(value, Line):
        return value.hurried, value.until
    return type(value), value


class Twins(NativeCase):
    """Asks the lanes and a twin in Python, and compares."""

    def setUp(self) -> None:
        self.lanes = open_lanes(memoryview(bytearray(BYTES)))
        self.addCleanup(self.lanes.close)

    def twins(self, make: Callable[[], Any]) -> None:
        self.native, self.twin = make(), make()
        self.lanes.learn(KEY, "id", self.native)

    def change(self, fields: Mapping[str, float]) -> None:
        """Set fields of both."""
        for one in (self.native, self.twin):
            for name, value in fields.items():
                where, _, last = name.rpartition(".")
                setattr(getattr(one, where) if where else one, last, value)

    def decide(self, now: float) -> Verdict:
        """One question to each."""
        wanted = self.twin.admit(now)
        found = self.lanes.decide(KEY, now)
        self.assertEqual(wanted if wanted.outcome != ADMITTED else wanted[2:5], found)
        self.assertEqual(state_of(self.twin), state_of(self.native))
        return wanted  # type: ignore[no-any-return]


def account(plan: Plan) -> Account:
    return evolve(PARTNER, plan=plan)


class StandingTests(Twins):
    def test_unknown(self) -> None:
        self.assertIsNone(self.lanes.decide(b"nobody", NOW))
        self.assertIsNone(self.lanes.decide(b"", NOW))

    def test_without_limits(self) -> None:
        self.twins(lambda: Standing(account(NO_PLAN), NOW))
        for _ in range(3):
            self.assertEqual((NO_LIMIT, NO_LIMIT, 0), self.lanes.decide(KEY, NOW))
        self.assertEqual(3, self.native.used)

    def test_to_the_last_token(self) -> None:
        self.twins(lambda: Standing(account(BUCKET), NOW))
        outcomes = [self.decide(NOW).outcome for _ in range(22)]
        self.assertEqual([ADMITTED] * 20 + [RATE_LIMITED] * 2, outcomes)
        self.assertEqual(RATE_LIMITED, self.decide(NOW + 0.099).outcome)
        self.assertEqual(ADMITTED, self.decide(NOW + 0.2).outcome)

    def test_exact_rate(self) -> None:
        """Whoever asks at the exact rate finds its token, though the floats of time are coarse."""
        self.twins(lambda: Standing(account(evolve(BUCKET, burst=1, qps=7.0, min_wait_seconds=0.0)), NOW))
        for number in range(500):
            self.assertEqual(ADMITTED, self.decide(NOW + number / 7.0).outcome)

    def test_month_ends(self) -> None:
        end = month_end(NOW)
        self.twins(lambda: Standing(account(evolve(BUCKET, monthly_quota=3)), end - 1.0))
        for seconds in (1.0, 1.0, 0.75, 0.5, 1e-6, 0.0, 0.0, 0.0, 0.0, 5.0, -3.0):
            self.decide(end - seconds)

    def test_bucket_fills(self) -> None:
        self.twins(lambda: Standing(account(BUCKET), NOW))
        for seconds in (0.0, 1e9 * 0.0, 0.01, 3_000.0, 2_999.0, 3_000.0):
            self.decide(NOW + seconds)

    @settings(max_examples=250, deadline=None)
    @given(PLAN_STRATEGY, STARTS, st.lists(STEPS, max_size=60))
    def test_any(self, plan: Plan, now: float, steps: list[float]) -> None:
        self.twins(lambda: Standing(account(plan), now))
        for step in steps:
            now += step
            self.decide(now)

    @settings(max_examples=100, deadline=None)
    @given(PLAN_STRATEGY, st.lists(st.tuples(STEPS, st.booleans()), max_size=40))
    def test_turns(self, plan: Plan, steps: list[tuple[float, bool]]) -> None:
        """Some questions go the ordinary way in between: what either counts the other finds."""
        self.twins(lambda: Standing(account(plan), NOW))
        now = NOW
        for step, in_python in steps:
            now += step
            if in_python:
                self.assertEqual(self.twin.admit(now), self.native.admit(now))
            self.decide(now)

    def test_heard_usage(self) -> None:
        self.twins(lambda: Standing(account(evolve(BUCKET, monthly_quota=10)), NOW))
        self.decide(NOW)
        for standing in (self.native, self.twin):
            standing.heard_usage("2026-04", 9)
        self.assertEqual((10, 0), self.decide(NOW)[2:4])
        self.assertEqual("quota_exceeded", self.decide(NOW).outcome)


class OddStandings(Twins):
    """What the C does not expect it leaves to Python."""

    def test_odd_fields(self) -> None:
        huge, limited = 1 << 70, account(evolve(BUCKET, monthly_quota=50))
        for change in (
            {"used": huge}, {"used": True}, {"_quota": huge}, {"_month_ends_at": int(month_end(NOW))},
            {"_bucket.tokens": 3}, {"_bucket.qps": 10}, {"_bucket._read_at": int(NOW)}, {"_bucket._closed_until": 0},
        ):  # fmt: skip
            self.twins(lambda: Standing(limited, NOW))
            self.change(change)
            for _ in range(3):
                self.decide(NOW)

    def test_missing_fields(self) -> None:
        """A standing that is not whole is not read; Python says what is wrong with it."""
        for name in ("used", "_quota", "_bucket", "_month_ends_at", "_free"):
            standing = Standing(account(BUCKET), NOW)
            delattr(standing, name)
            self.lanes.learn(KEY, "id", standing)
            self.assertRaises(AttributeError, self.lanes.decide, KEY, NOW)

    def test_other_bucket(self) -> None:
        class Bucket(TokenBucket):
            def take(self, now: float) -> float:
                return 5.0

        def make() -> Standing:
            standing = Standing(account(BUCKET), NOW)
            standing._bucket = Bucket(10.0, 20, 0.1, NOW)
            return standing

        self.twins(make)
        self.assertEqual(RATE_LIMITED, self.decide(NOW).outcome)

    def test_other_standing(self) -> None:
        """One of a class that is not known is asked itself, each time."""

        class Closed(Standing):
            def admit(self, now: float) -> Verdict:
                asked.append(now)
                return Verdict(ADMITTED, self.account, 7, 6, 5, 0.0)

        asked: list[float] = []
        self.lanes.learn(KEY, "id", Closed(account(NO_PLAN), NOW))
        self.assertEqual([(7, 6, 5)] * 2, [self.lanes.decide(KEY, NOW + second) for second in range(2)])
        self.assertEqual([NOW, NOW + 1.0], asked)

    def test_no_verdicts(self) -> None:
        for answer, error in (
            (None, TypeError), (("admitted",), TypeError), (("admitted", None, "1", 2, 3, 0.0), TypeError),
            (("admitted", None, 1 << 80, 2, 3, 0.0), OverflowError), ([1, 2, 3, 4, 5, 6], TypeError),
        ):  # fmt: skip

            class Odd:
                def admit(self, now: float, answer: Any = answer) -> Any:
                    return answer

            self.lanes.learn(KEY, "id", Odd())
            self.assertRaises(error, self.lanes.decide, KEY, NOW)
        self.lanes.learn(KEY, "id", object())
        self.assertRaises(AttributeError, self.lanes.decide, KEY, NOW)

    def test_refusal_is_what_python_said(self) -> None:
        refusal = Verdict("anything", None, 1, 2, 3, 4.0)

        class Refusing:
            def admit(self, now: float) -> Verdict:
                return refusal

        self.lanes.learn(KEY, "id", Refusing())
        self.assertIs(refusal, self.lanes.decide(KEY, NOW))

    def test_forgetting_itself(self) -> None:
        """A standing may have its key forgotten while it is asked."""
        lanes = self.lanes

        class Forgetting:
            def admit(self, now: float) -> Verdict:
                lanes.forget("id")
                return Verdict(ADMITTED, None, 1, 1, 1, 0.0)

        lanes.learn(KEY, "id", Forgetting())
        self.assertEqual((1, 1, 1), lanes.decide(KEY, NOW))
        self.assertIsNone(lanes.decide(KEY, NOW))


class LeasedTests(Twins):
    def leased(self, plan: Plan, nodes: int = 2, now: float = NOW) -> None:
        """Twins on a line each, with contact."""
        self.lines: list[Line] = []

        def make() -> LeasedStanding:
            line = Line("n", "l", nodes, now)
            line.hurry = lambda: setattr(line, "hurried", True)
            line.heard(Contact(now, "e", 0.0, nodes), now)
            self.lines.append(line)
            return LeasedStanding(account(plan), now, line)

        self.twins(make)

    def each(self, name: str, *arguments: object) -> None:
        """Call the same on both."""
        self.assertEqual(getattr(self.native, name)(*arguments), getattr(self.twin, name)(*arguments))
        self.assertEqual(state_of(self.native), state_of(self.twin))

    def test_whole_life(self) -> None:
        """A lease runs dry, is renewed, the month runs out, contact is lost."""
        self.leased(evolve(BUCKET, monthly_quota=30))
        outcomes = [self.decide(NOW).outcome for _ in range(12)]
        self.assertEqual([ADMITTED] * 10 + [RATE_LIMITED] * 2, outcomes)
        self.each("report")
        self.each("take", Balance(10.0, 0.0, 10, "2026-04"), NOW + 0.05)
        for line in self.lines:
            line.hurried = False
        for step in range(30):
            self.decide(NOW + 0.05 + step / 100.0)
        for step in range(30):
            self.decide(NOW + 2.0 + step / 3.0)

    def test_no_limits_and_single_limits(self) -> None:
        for plan in (NO_PLAN, evolve(NO_PLAN, monthly_quota=5), BUCKET):
            self.leased(plan)
            for number in range(25):
                self.decide(NOW + number / 100.0)

    def test_hurries_at_the_same_question(self) -> None:
        self.leased(evolve(NO_PLAN, monthly_quota=1_000))
        while not self.lines[1].hurried:
            self.decide(NOW)
        self.assertTrue(self.lines[0].hurried)
        self.assertEqual(5, self.native.used)

    @settings(max_examples=250, deadline=None)
    @given(PLAN_STRATEGY, st.integers(1, 5), STARTS, st.data())
    def test_any(self, plan: Plan, nodes: int, now: float, data: st.DataObject) -> None:
        """Questions, reports, answers with more or less in the bucket, silences and their ends, in any order."""
        self.leased(plan, nodes, now)
        for _ in range(data.draw(st.integers(0, 25))):
            act = data.draw(st.sampled_from(("ask", "ask", "ask", "exchange", "contact", "heard", "settle", "calm")))
            now += data.draw(STEPS)
            if act == "ask":
                for _ in range(data.draw(st.integers(1, 15))):
                    self.decide(now)
            elif act == "exchange":
                tokens = data.draw(st.floats(-50.0, float(plan.burst or 1)))
                balance = Balance(
                    tokens, data.draw(st.sampled_from((0.0, 0.0, 0.3))), data.draw(st.integers(0, 40)), "2026-04"
                )
                self.each("report")
                self.each("take", balance, now)
            elif act == "contact":
                for line in self.lines:
                    line.heard(Contact(now, "e", 0.0, nodes), now)
            elif act == "heard":
                used = data.draw(st.integers(0, 60))
                self.each("heard_usage", "2026-04", used)
            elif act == "settle":
                self.each("settle", 0.5, now)
            else:
                for line in self.lines:
                    line.hurried = False

    def test_odd_lines(self) -> None:
        """Where something is not as it always is, Python decides."""
        for change in (
            {"_listed": 1}, {"_room": 1 << 70}, {"_spent": 2.5}, {"_tokens": 7}, {"_shared": 9}, {"_shared_at": 0},
        ):  # fmt: skip
            self.leased(evolve(BUCKET, monthly_quota=500))
            self.decide(NOW)
            self.change(change)
            for _ in range(3):
                self.decide(NOW)


class ArgumentTests(Twins):
    def test_wrong(self) -> None:
        decisions: list[Any] = [(), (KEY,), (KEY, "now"), ("text", None), (7, NOW)]
        for arguments in decisions:
            self.assertRaises(TypeError, self.lanes.decide, *arguments)
        lessons: list[Any] = [(), (KEY, "id"), ("text", 7, object()), (KEY, b"id", object())]
        for arguments in lessons:
            self.assertRaises(TypeError, self.lanes.learn, *arguments)
        self.assertRaises(TypeError, self.lanes.forget, [])
        self.assertIsNone(self.lanes.forget("nobody"))
        self.assertIsNone(self.lanes.forget(None))
        self.assertEqual(0, self.lanes.figures()["keys"])
