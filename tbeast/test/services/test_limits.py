"""The service of limits across nodes: its exchanges and silences, and the promise over every span of random worlds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.admission import ADMITTED, QUOTA_EXCEEDED, RATE_LIMITED, Verdict
from tbeast.domain.counters import Counters
from tbeast.domain.keys import Account, account_of
from tbeast.domain.leases import LeasedStanding
from tbeast.domain.plans import PLANS
from tbeast.domain.ratelimits import TokenBucket
from tbeast.domain.sharedbuckets import Balance, Contact, Hello, Report, SharedBuckets
from tbeast.errors import CacheUnavailableError
from tbeast.services.limits import GREETING_SECONDS, MOST_REPORTS, ClusterLimits
from tbeast.testing.logs import listen

START = 1_776_003_781.25
STEP = 0.01
NODES = 3

FREE, PRO, ENTERPRISE = (account_of(f"{tier}-key", tier, tier) for tier in ("free", "pro", "enterprise"))


@define
class Valkey:
    """The server that several nodes share, as bad as a test wants it.

    @ivar way_seconds: how long a message takes to it, and its answer back.
    @ivar hangs: whether it does nothing of what it is asked, until it does.
    @ivar is_gone: whether nobody can connect.
    @ivar loses: whether its answers are lost on the way, all having been carried out.
    @ivar ahead_seconds: by how much its clock is fast.
    """

    clock: Clock
    buckets: SharedBuckets = field(factory=SharedBuckets)
    way_seconds: float = 0.001
    hangs: bool = False
    is_gone: bool = False
    loses: bool = False
    ahead_seconds: float = 0.0
    waiting: list[Callable[[], None]] = field(factory=list)
    exchanges: list[tuple[Hello, Sequence[Report]]] = field(factory=list)

    def now(self) -> float:
        return START + self.clock.seconds() + self.ahead_seconds

    def resume(self) -> None:
        self.hangs = False
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            work()

    def restart(self) -> None:
        """Come back, empty; what was asked is forgotten."""
        self.buckets.lose_all()
        self.waiting.clear()
        self.hangs = self.is_gone = False


class Wire:
    """One node's line to the server.

    @ivar is_cut: whether nothing gets through, for this node alone.
    """

    def __init__(self, valkey: Valkey) -> None:
        self.valkey = valkey
        self.is_cut = self.is_dead = False
        self.under_way = self.most_under_way = self.asked = 0

    def look(self, node: str) -> Deferred[Contact]:
        return self._ask(lambda: self.valkey.buckets.look(node, self.valkey.now()))

    def exchange(self, hello: Hello, reports: Sequence[Report]) -> Deferred[tuple[Contact, list[Balance]]]:
        def carry_out() -> tuple[Contact, list[Balance]]:
            now = self.valkey.now()
            self.valkey.exchanges.append((hello, reports))
            contact = self.valkey.buckets.contact(hello, now)
            return contact, [self.valkey.buckets.report(hello.node, report, now) for report in reports]

        return self._ask(carry_out)

    def leave(self, node: str) -> Deferred[None]:
        return self._ask(lambda: self.valkey.buckets.leave(node))

    def _ask(self, carry_out: Callable[[], Any]) -> Deferred[Any]:
        valkey, clock = self.valkey, self.valkey.clock
        self.asked += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        answer: Deferred[Any] = Deferred()

        def end(result: Any) -> None:
            if not answer.called and not self.is_dead:
                self.under_way -= 1
                answer.callback(result)

        def arrive() -> None:
            if valkey.hangs:
                valkey.waiting.append(arrive)
                return
            result = CacheUnavailableError("gone") if valkey.is_gone else carry_out()
            clock.callLater(valkey.way_seconds, end, CacheUnavailableError("lost") if valkey.loses else result)

        if self.is_cut or valkey.is_gone:
            clock.callLater(0.0, end, CacheUnavailableError("not connected"))
        else:
            clock.callLater(valkey.way_seconds, arrive)
            clock.callLater(3.0, end, CacheUnavailableError("no answer in time"))
        return answer.addCallback(_raised)


def _raised(result: Any) -> Any:
    if isinstance(result, Exception):
        raise result
    return result


class MortalClock:
    """A clock on which nothing is called any more once its node is dead."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def seconds(self) -> float:
        return self._node.world.clock.seconds()

    def callLater(self, delay: float, what: Callable[..., Any], *args: Any) -> Any:
        return self._node.world.clock.callLater(delay, lambda: None if self._node.wire.is_dead else what(*args))


class Node:
    """One node: its service, and its standings as the gate would keep them."""

    def __init__(self, world: World, name: str, life: str, ahead_seconds: float, nodes: int) -> None:
        self.world, self.name, self.ahead_seconds = world, name, ahead_seconds
        self.wire = Wire(world.valkey)
        self.counters = Counters()
        clock: Any = MortalClock(self)
        self.limits = ClusterLimits(self.wire, name, life, nodes, clock, self.now, self.counters)
        self.standings: dict[str, LeasedStanding] = {}
        self.started = self.limits.startService()

    def now(self) -> float:
        return START + self.world.clock.seconds() + self.ahead_seconds

    def ask(self, account: Account) -> Verdict:
        standing = self.standings.get(account.key_id)
        if standing is None:
            standing = self.standings[account.key_id] = self.limits.open_standing(account, self.now())
        verdict = standing.admit(self.now())
        self.world.note(account, verdict)
        return verdict

    def ask_all(self, account: Account) -> int:
        """Ask until refused; how many were admitted."""
        admitted = 0
        while self.ask(account).outcome == ADMITTED:
            admitted += 1
        return admitted


class World:
    """Some nodes around one server, and the account of all that was admitted.

    @ivar admitted: how many questions, by key id.
    @ivar excess: by key id, the most that was admitted in any span beyond the rate times its length.
    """

    def __init__(
        self, nodes: int, nodes_set: int | None = None, aheads: Sequence[float] = (0.0,), **valkey: Any
    ) -> None:
        self.clock = Clock()
        self.valkey = Valkey(self.clock, **valkey)
        self.admitted: dict[str, int] = {}
        self.excess: dict[str, float] = {}
        self._lows: dict[str, float] = {}
        self.nodes = [
            Node(self, f"n{place}", f"l{place}", aheads[place % len(aheads)], nodes_set or nodes)
            for place in range(nodes)
        ]

    def note(self, account: Account, verdict: Verdict) -> None:
        if verdict.outcome != ADMITTED:
            return
        # the greatest of a difference over all spans: keep the least that was, and compare
        key_id, count = account.key_id, self.admitted.get(account.key_id, 0)
        height = count - (account.plan.qps or 0.0) * self.clock.seconds()
        self._lows[key_id] = low = min(self._lows.get(key_id, height), height)
        self.excess[key_id] = max(self.excess.get(key_id, 0.0), height + 1 - low)
        self.admitted[key_id] = count + 1

    def pass_seconds(self, seconds: float, each: Callable[[], object] = lambda: None) -> None:
        for _ in range(round(seconds / STEP)):
            self.clock.advance(STEP)
            each()

    def promise(self, account: Account, nodes: int, deaths: int = 0) -> float:
        burst = account.plan.burst or 0
        return burst + (nodes + deaths) * max(1.0, burst / nodes)


class LimitsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = listen(self)


class ExchangeTests(LimitsCase):
    def test_start(self) -> None:
        """The start waits for the first answer, and for nothing else."""
        world = World(1)
        self.assertNoResult(world.nodes[0].started)
        world.pass_seconds(0.05)
        self.successResultOf(world.nodes[0].started)
        self.assertTrue(world.nodes[0].limits.status.shared)

    def test_start_without_a_server(self) -> None:
        for fault, seconds in (("is_gone", 0.0), ("hangs", 1.0)):
            world = World(1)
            setattr(world.valkey, fault, True)
            if seconds:
                world.pass_seconds(seconds - 0.02)
                self.assertNoResult(world.nodes[0].started)
            world.pass_seconds(0.03)
            self.successResultOf(world.nodes[0].started)
            self.assertFalse(world.nodes[0].limits.status.shared)
            self.assertEqual(5, world.nodes[0].ask_all(FREE))

    def test_nodes_are_counted(self) -> None:
        """N is what was set or what was seen, whichever is more, and a node that leaves is no longer seen."""
        world = World(3, nodes_set=2)
        world.pass_seconds(1.0)
        self.assertEqual([3, 3, 3], [node.limits.status.nodes for node in world.nodes])
        for node in world.nodes[1:]:
            ensureDeferred(node.limits.stopService())
        world.pass_seconds(1.0)
        self.assertEqual(2, world.nodes[0].limits.status.nodes)

    def test_an_idle_node_greets(self) -> None:
        world = World(1)
        world.pass_seconds(0.1)
        before = len(world.valkey.exchanges)
        world.pass_seconds(10.0)
        greetings = world.valkey.exchanges[before:]
        self.assertTrue(30 <= len(greetings) <= 10.0 / GREETING_SECONDS, len(greetings))
        self.assertEqual({()}, {tuple(reports) for _, reports in greetings})

    def test_what_was_spent_is_told_soon_and_once(self) -> None:
        world = World(1)
        world.pass_seconds(0.5)
        node = world.nodes[0]
        for _ in range(3):
            node.ask(PRO)
        self.assertEqual(1, node.limits.status.waiting)
        world.pass_seconds(0.1)
        told = [report for _, reports in world.valkey.exchanges for report in reports]
        self.assertEqual([(0, 3)], [(report.settled_spent, report.spent) for report in told])
        world.pass_seconds(1.0)  # meanwhile it has asked once whether the lease is whole again
        self.assertEqual((0, 2), (node.limits.status.waiting, node.counters.value("limit_reports")))

    def test_a_lease_that_runs_dry(self) -> None:
        """It is renewed in the next turn of the reactor, and not only with the next beat."""
        world = World(NODES)
        world.pass_seconds(0.5)
        node = world.nodes[0]
        self.assertEqual(6, node.ask_all(PRO))
        for _ in range(3):  # the turn, the way there, and the way back
            world.clock.advance(0.001)
        self.assertEqual(6, node.ask_all(PRO))

    def test_an_empty_bucket_is_not_hammered(self) -> None:
        world = World(1)
        node = world.nodes[0]
        world.pass_seconds(5.0, lambda: node.ask_all(FREE))
        self.assertLess(len(world.valkey.exchanges), 5.0 / 0.05 + 10)
        reports = sum(len(reports) for _, reports in world.valkey.exchanges)
        self.assertLess(reports, 30)
        self.assertTrue(9 <= world.admitted[FREE.key_id] <= 10)

    def test_many_keys_take_turns(self) -> None:
        world = World(1)
        world.pass_seconds(0.5)
        accounts = [evolve(PRO, key_id=f"key{number}") for number in range(MOST_REPORTS + 100)]
        for account in accounts:
            world.nodes[0].ask(account)
        world.valkey.exchanges.clear()
        world.pass_seconds(0.15)
        sizes = [len(reports) for _, reports in world.valkey.exchanges if reports]
        self.assertEqual([MOST_REPORTS, 100], sizes[:2])
        world.pass_seconds(1.0)
        self.assertEqual(0, world.nodes[0].limits.status.waiting)

    def test_plans_without_limits_ask_nothing(self) -> None:
        world = World(1)
        partner = account_of("partner-key", "partner", "p")
        for _ in range(1000):
            self.assertEqual(ADMITTED, world.nodes[0].ask(partner).outcome)
        world.pass_seconds(1.0)
        self.assertEqual({()}, {tuple(reports) for _, reports in world.valkey.exchanges})

    def test_an_answer_that_cannot_be_used(self) -> None:
        """It is logged, and the exchanges go on."""
        world = World(1)
        world.pass_seconds(0.5)
        node = world.nodes[0]
        right = world.valkey.buckets.report
        self.patch(SharedBuckets, "report", lambda *_: "nonsense")
        node.ask(PRO)
        world.pass_seconds(0.2)
        self.patch(SharedBuckets, "report", lambda _, *words: right(*words))
        world.pass_seconds(2.0)
        self.assertNotEqual([], self.flushLoggedErrors(ValueError))
        self.assertEqual(0, node.limits.status.waiting)


class StopTests(LimitsCase):
    def test_all_is_told(self) -> None:
        """Another node finds in the bucket what was not spent, and sees nobody else."""
        world = World(2, nodes_set=1)
        world.pass_seconds(0.5)
        self.assertEqual(10, world.nodes[0].ask_all(PRO))
        stopped = ensureDeferred(world.nodes[0].limits.stopService())
        world.pass_seconds(0.1)
        self.successResultOf(stopped)
        report = world.nodes[1].limits.open_standing(PRO, world.nodes[1].now()).report()
        self.assertAlmostEqual(10.0, world.valkey.buckets.report("n1", report, world.valkey.now()).tokens, -1)
        self.assertEqual(1, world.valkey.buckets.look("n1", world.valkey.now()).nodes)
        asked = world.nodes[0].wire.asked
        world.pass_seconds(1.0)
        self.assertEqual(asked, world.nodes[0].wire.asked)

    def test_behind_one_under_way(self) -> None:
        """What is spent while a message is on its way is told after it."""
        world = World(1, way_seconds=0.1)
        world.pass_seconds(1.0)
        node = world.nodes[0]
        node.ask(PRO)
        world.pass_seconds(0.07)
        self.assertEqual(1, node.wire.under_way)
        node.ask(PRO)
        stopped = ensureDeferred(node.limits.stopService())
        world.pass_seconds(1.0)
        self.successResultOf(stopped)
        self.assertEqual(2, world.valkey.exchanges[-1][1][0].spent)
        self.assertEqual(1, node.wire.most_under_way)

    def test_with_nobody_there(self) -> None:
        for fault, limit in (("is_gone", 0.1), ("hangs", 2.1)):
            world = World(1)
            world.pass_seconds(0.5)
            world.nodes[0].ask(PRO)
            setattr(world.valkey, fault, True)
            world.pass_seconds(0.1)
            stopped = ensureDeferred(world.nodes[0].limits.stopService())
            world.pass_seconds(limit)
            self.successResultOf(stopped)
            self.assertEqual(1, len(self.log.having("could not be told")))
            self.log.lines.clear()


class SilenceTests(LimitsCase):
    def test_a_hanging_server(self) -> None:
        """One message is under way, whatever happens; each node gives its share; and all comes back by itself."""
        world = World(NODES)
        world.pass_seconds(1.0)
        world.valkey.hangs = True
        for node in world.nodes:
            node.ask_all(ENTERPRISE)
        world.pass_seconds(1.5)
        self.assertEqual([False] * NODES, [node.limits.status.shared for node in world.nodes])
        before = world.admitted[ENTERPRISE.key_id]
        world.pass_seconds(10.0, lambda: [node.ask_all(ENTERPRISE) for node in world.nodes])
        admitted = world.admitted[ENTERPRISE.key_id] - before
        self.assertTrue(500 - NODES <= admitted <= 500 + 33 * NODES, admitted)
        self.assertEqual([1] * NODES, [node.wire.most_under_way for node in world.nodes])
        world.valkey.resume()
        world.pass_seconds(0.5)
        self.assertEqual([True] * NODES, [node.limits.status.shared for node in world.nodes])
        self.assertEqual(NODES, len(self.log.having("does not answer")))
        self.assertEqual(NODES, len(self.log.having("hold across")))
        self.assertLessEqual(world.excess[ENTERPRISE.key_id], world.promise(ENTERPRISE, NODES))

    def test_answers_that_come_too_late(self) -> None:
        """They are counted and not used; what they have taken out stays out, once."""
        world = World(1)
        world.pass_seconds(1.0)
        node = world.nodes[0]
        node.ask(PRO)
        world.valkey.way_seconds = 0.7
        world.pass_seconds(5.0)
        self.assertGreater(node.counters.value("limit_exchanges", "late"), 0)
        self.assertFalse(node.limits.status.shared)
        for _ in range(4):
            node.ask(PRO)
        world.valkey.way_seconds = 0.001
        world.pass_seconds(2.0)
        self.assertTrue(node.limits.status.shared)
        report = node.standings[PRO.key_id].report()
        self.assertEqual(5, world.valkey.buckets.report("n0", report, world.valkey.now()).used)

    def test_no_line_for_a_short_one(self) -> None:
        world = World(1)
        world.pass_seconds(1.0)
        world.valkey.is_gone = True
        world.pass_seconds(1.5)
        world.valkey.is_gone = False
        world.pass_seconds(1.0)
        self.assertTrue(world.nodes[0].limits.status.shared)
        self.assertEqual([], self.log.having("shared cache") + self.log.having("hold across"))

    def test_idle_keys_are_full_after_it(self) -> None:
        """A key that is empty when the server goes has the tokens of the whole time when it is back."""
        world = World(1)
        world.pass_seconds(1.0)
        node = world.nodes[0]
        node.ask_all(FREE)
        world.pass_seconds(0.2)
        world.valkey.is_gone = True
        world.pass_seconds(20.0)
        world.valkey.is_gone = False
        world.pass_seconds(1.0)
        self.assertEqual(5, node.ask_all(FREE))

    def test_restarted_empty(self) -> None:
        """What was spent before the loss is not given again."""
        world = World(NODES)
        world.pass_seconds(3.0, lambda: [node.ask_all(PRO) for node in world.nodes])
        before = world.admitted[PRO.key_id]
        world.valkey.restart()
        world.pass_seconds(1.0, lambda: [node.ask_all(PRO) for node in world.nodes])
        self.assertLessEqual(world.admitted[PRO.key_id] - before, 10 + NODES)
        world.pass_seconds(10.0)
        self.assertEqual(6, world.nodes[0].ask_all(PRO))

    def test_only_one_node_cut_off(self) -> None:
        """It lives on its share, and owes it afterwards, but no more than a burst."""
        world = World(NODES)
        world.pass_seconds(3.0, lambda: [node.ask_all(PRO) for node in world.nodes])
        world.nodes[0].wire.is_cut = True
        world.pass_seconds(1.0, lambda: [node.ask_all(PRO) for node in world.nodes])
        before = dict(world.admitted)
        world.pass_seconds(30.0, lambda: [node.ask_all(PRO) for node in world.nodes])
        self.assertTrue(390 <= world.admitted[PRO.key_id] - before[PRO.key_id] <= 410)
        world.nodes[0].wire.is_cut = False
        before = dict(world.admitted)
        world.pass_seconds(10.0, lambda: [node.ask_all(PRO) for node in world.nodes])
        self.assertTrue(80 <= world.admitted[PRO.key_id] - before[PRO.key_id] <= 90)


class MonthTests(LimitsCase):
    small = evolve(PRO, plan=evolve(PLANS["pro"], monthly_quota=200))
    month_alone = evolve(PRO, plan=evolve(PLANS["pro"], monthly_quota=2_000, qps=None, burst=None))
    rate_alone = evolve(PRO, plan=evolve(PLANS["pro"], monthly_quota=None))
    ample = evolve(PRO, plan=evolve(PLANS["pro"], monthly_quota=50_000))

    def ask_everywhere(self, world: World, account: Account, seconds: float) -> int:
        before = world.admitted.get(account.key_id, 0)
        world.pass_seconds(seconds, lambda: [node.ask_all(account) for node in world.nodes])
        return world.admitted.get(account.key_id, 0) - before

    def test_the_quota_of_all_nodes(self) -> None:
        world = World(NODES)
        admitted = self.ask_everywhere(world, self.small, 60.0)
        self.assertTrue(200 <= admitted <= 200 + 20, admitted)
        self.assertEqual({QUOTA_EXCEEDED}, {node.ask(self.small).outcome for node in world.nodes})
        self.assertEqual(0, self.ask_everywhere(world, self.small, 10.0))

    def test_without_a_bucket(self) -> None:
        """The lease is a hundredth of the month, and is renewed as fast as it is spent."""
        world = World(NODES)
        world.pass_seconds(0.5)
        admitted = self.ask_everywhere(world, self.month_alone, 5.0)
        self.assertTrue(2_000 <= admitted <= 2_000 + 20, admitted)
        self.assertEqual({QUOTA_EXCEEDED}, {node.ask(self.month_alone).outcome for node in world.nodes})

    def test_without_a_quota(self) -> None:
        world = World(1)
        admitted = self.ask_everywhere(world, self.rate_alone, 30.0)
        self.assertTrue(316 <= admitted <= 320, admitted)

    def test_in_a_silence(self) -> None:
        """Each node has its share of what was left, bucket or none."""
        for account in (self.small, self.month_alone):
            world = World(NODES)
            world.pass_seconds(0.5)
            first = self.ask_everywhere(world, account, 0.1)
            world.valkey.is_gone = True
            quota = account.plan.monthly_quota or 0
            admitted = first + self.ask_everywhere(world, account, 100.0)
            self.assertTrue(quota - NODES - 20 <= admitted <= quota + 20, (admitted, quota))
            verdict = world.nodes[0].ask(account)
            self.assertIn(verdict.outcome, (RATE_LIMITED, QUOTA_EXCEEDED))

    def test_the_database_knows(self) -> None:
        """A count that was lost with the server's data goes on from what the nodes have heard."""
        world = World(NODES)
        self.ask_everywhere(world, self.small, 10.0)
        used = world.admitted[self.small.key_id]
        world.valkey.restart()
        for node in world.nodes:
            node.standings.clear()  # as if they had just started
            node.standings[self.small.key_id] = node.limits.open_standing(self.small, node.now())
            node.standings[self.small.key_id].heard_usage("2026-04", used)
        self.ask_everywhere(world, self.small, 60.0)
        self.assertLessEqual(world.admitted[self.small.key_id], 200 + 20)

    def test_nothing_is_counted_twice(self) -> None:
        """However long a silence is, and though the database hears of each question before the server does. Each loss
        of the data may count twice what was under way just then.
        """
        for outage, losses in (("slow", 0), ("gone", 0), ("restarted", 1), ("restarted again", 2)):
            world = World(NODES)
            key_id = self.ample.key_id

            def ask(world: World = world, key_id: str = key_id) -> None:
                for node in world.nodes:
                    node.ask(self.ample)
                for node in world.nodes:
                    node.standings[key_id].heard_usage("2026-04", world.admitted[key_id])

            world.pass_seconds(5.0, ask)
            if outage == "slow":
                world.valkey.way_seconds = 0.2
            else:
                world.valkey.is_gone = True
            world.pass_seconds(30.0, ask)
            if losses:
                world.valkey.restart()
            world.valkey.is_gone, world.valkey.way_seconds = False, 0.001
            world.pass_seconds(5.0, ask)
            if losses == 2:
                world.valkey.restart()
            world.pass_seconds(5.0, ask)
            world.pass_seconds(3.0)
            admitted = world.admitted[key_id]
            self.assertGreater(admitted, 300)
            report = world.nodes[0].standings[key_id].report()
            balance = world.valkey.buckets.report(world.nodes[0].name, report, world.valkey.now())
            for used in (balance.used, *(node.standings[key_id].used for node in world.nodes)):
                self.assertTrue(admitted <= used <= admitted + losses * NODES, (outage, admitted, used))

    def test_over_the_end_of_the_month(self) -> None:
        """With clocks that disagree by some seconds the new month begins for all, with its own quota."""
        world = World(NODES, aheads=(0.0, 2.0, -2.0), ahead_seconds=1.0)
        self.ask_everywhere(world, self.small, 30.0)
        to_may = 1_777_593_600.0 - START - world.clock.seconds()
        world.clock.advance(to_may - 5.0)
        admitted = self.ask_everywhere(world, self.small, 50.0)
        self.assertTrue(190 <= admitted <= 200 + 40, admitted)
        self.assertEqual({QUOTA_EXCEEDED}, {node.ask(self.small).outcome for node in world.nodes})


class PlanChangeTests(LimitsCase):
    def test_what_was_not_told_is_told(self) -> None:
        world = World(1)
        world.pass_seconds(0.5)
        node = world.nodes[0]
        for _ in range(3):
            node.ask(PRO)
        bigger = evolve(PRO, tier="enterprise", plan=PLANS["enterprise"])
        moved = node.standings[PRO.key_id] = node.standings[PRO.key_id].moved_to(bigger, node.now())
        self.assertEqual((97, 3), (node.ask_all(bigger), moved.used - 97))
        world.pass_seconds(0.2)
        report = moved.report()
        self.assertEqual(100, world.valkey.buckets.report("n0", report, world.valkey.now()).used)
        self.assertEqual(1, node.limits.status.waiting)


class OneNodeTests(LimitsCase):
    """With one node it is the single bucket."""

    def test_the_burst_at_once(self) -> None:
        for account in (FREE, PRO, ENTERPRISE):
            world = World(1)
            world.pass_seconds(0.5)
            self.assertEqual(account.plan.burst, world.nodes[0].ask_all(account))
            world.pass_seconds(0.1)
            self.assertLessEqual(world.nodes[0].ask_all(account), 0.6 * (account.plan.qps or 0.0) * 0.1 + 1)

    def test_the_burst_again(self) -> None:
        """After idle time it is the burst once, not that and a lease."""
        world = World(1)
        world.pass_seconds(0.5)
        node = world.nodes[0]
        node.ask_all(PRO)
        world.pass_seconds(10.0)
        before = world.admitted[PRO.key_id]
        world.pass_seconds(0.1, lambda: node.ask_all(PRO))
        self.assertLessEqual(world.admitted[PRO.key_id] - before, 21)

    def test_against_the_single_bucket(self) -> None:
        """Over any span it admits no more, and hammered it admits as much."""
        for account in (FREE, PRO, ENTERPRISE):
            plan = account.plan
            assert plan.qps is not None and plan.burst is not None
            world = World(1)
            world.pass_seconds(0.5)
            bucket = TokenBucket(plan.qps, plan.burst, plan.min_wait_seconds, world.nodes[0].now())
            single = [0]

            def ask(
                node: Node = world.nodes[0],
                account: Account = account,
                bucket: TokenBucket = bucket,
                single: list[int] = single,
            ) -> None:
                node.ask_all(account)
                while bucket.take(node.now()) == 0.0:
                    single[0] += 1

            world.pass_seconds(20.0, ask)
            # the clock of the buckets may be a greeting behind when it all begins
            self.assertLessEqual(world.excess[account.key_id], plan.burst + GREETING_SECONDS * plan.qps)
            self.assertGreaterEqual(world.admitted[account.key_id], single[0] - 0.2 * plan.qps - 1)

    def test_a_refusal_names_the_time(self) -> None:
        """Whoever comes back then is admitted."""
        for account in (FREE, PRO, ENTERPRISE):
            world = World(1)
            world.pass_seconds(0.5)
            node = world.nodes[0]
            for _ in range(5):
                node.ask_all(account)
                verdict = node.ask(account)
                self.assertEqual(RATE_LIMITED, verdict.outcome)
                world.pass_seconds(verdict.retry_after_seconds + STEP)
                self.assertEqual(ADMITTED, node.ask(account).outcome, account.tier)


class WithinTheContractTests(LimitsCase):
    """Who stays within the plan is admitted in full, but for the time that an exchange takes."""

    def shaped(self, account: Account, nodes: int, seed: int) -> tuple[int, int]:
        plan, random = account.plan, Random(seed)
        assert plan.qps is not None and plan.burst is not None
        world = World(nodes)
        world.pass_seconds(0.5)
        # one token less, for a bucket that is emptied is closed for a while
        at_once = max(1.0, plan.burst / nodes) - 1.0 - 0.2 * plan.qps
        tokens, refused, asked = at_once, [0], [0]
        wish = [0.0]

        def ask() -> None:
            nonlocal tokens
            tokens = min(at_once, tokens + plan.qps * STEP)  # type: ignore[operator]
            if random.random() < 0.02:
                wish[0] = random.choice((0.0, 0.3, 1.0, 5.0, 1e9))
            for _ in range(int(wish[0] * plan.qps * STEP + random.random())):  # type: ignore[operator]
                if tokens < 1.0:
                    return
                tokens -= 1.0
                asked[0] += 1
                refused[0] += world.nodes[0].ask(account).outcome != ADMITTED

        world.pass_seconds(30.0, ask)
        return asked[0], refused[0]

    def test_on_one_node_alone(self) -> None:
        for account, nodes in ((FREE, 1), (PRO, 1), (ENTERPRISE, 1), (PRO, 3), (ENTERPRISE, 3), (ENTERPRISE, 5)):
            for seed in range(3):
                asked, refused = self.shaped(account, nodes, seed)
                self.assertGreater(asked, 5, (account.tier, nodes, seed))
                self.assertEqual(0, refused, (account.tier, nodes, seed, asked))


class PromiseTests(LimitsCase):
    """In any span no more than the burst, the rate, and one lease a node; and one more for each that died."""

    FAULTS = ("up", "slow", "hang", "gone", "empty", "lose", "crash", "join", "other load", "other load")

    def live(self, seed: int, account: Account, seconds: float) -> tuple[World, int, int]:
        """One world's life.

        @return: the world, the most nodes that it had, and how many died.
        """
        random, plan = Random(seed), account.plan
        assert plan.qps is not None and plan.burst is not None
        nodes = random.choice((1, 2, 3, 3, 5))
        world = World(
            nodes, aheads=[random.uniform(-3.0, 3.0) for _ in range(5)], ahead_seconds=random.uniform(-5.0, 5.0)
        )
        valkey, deaths, next_fault = world.valkey, 0, random.uniform(0.5, 4.0)
        load, weights = 1.0, [1.0] * 9
        for _ in range(round(seconds / STEP)):
            world.clock.advance(STEP)
            if world.clock.seconds() >= next_fault:
                next_fault += random.uniform(0.2, random.choice((1.5, 6.0)))
                self.mend(world, random)
                fault = random.choice(self.FAULTS)
                if fault == "slow":
                    valkey.way_seconds = random.choice((0.1, 0.4, 0.6, 2.0))
                elif fault == "hang":
                    valkey.hangs = True
                elif fault == "gone":
                    valkey.is_gone = True
                elif fault == "empty":
                    valkey.restart()
                elif fault == "lose":
                    valkey.loses = True
                elif fault == "crash" and deaths < 2:
                    deaths += 1
                    place = random.randrange(len(world.nodes))
                    old = world.nodes[place]
                    old.wire.is_dead = True
                    world.nodes[place] = Node(world, old.name, f"d{deaths}", old.ahead_seconds, nodes)
                elif fault == "join" and len(world.nodes) < nodes + 1 and nodes > 1:
                    world.nodes.append(Node(world, "joined", "j", random.uniform(-3.0, 3.0), nodes))
                else:
                    load = random.choice((0.0, 0.3, 1.0, 3.0, -1.0, -1.0))
                    weights = [random.random() ** 3 for _ in range(9)]
            if load < 0.0:
                for node in random.sample(world.nodes, len(world.nodes)):
                    node.ask_all(account)
            else:
                count = int(load * plan.qps * STEP + random.random())
                count += 2 * plan.burst if random.random() < 0.002 else 0
                for node in random.choices(world.nodes, weights[: len(world.nodes)], k=count):
                    node.ask(account)
        return world, len(world.nodes), deaths

    def mend(self, world: World, random: Random) -> None:
        valkey = world.valkey
        valkey.loses = False
        valkey.way_seconds = random.choice((0.0005, 0.002, 0.02))
        if valkey.hangs:
            valkey.resume()
        elif valkey.is_gone:
            valkey.is_gone = False
            for node in world.nodes:  # they do not find it again at the same moment
                node.wire.is_cut = True
                world.clock.callLater(random.uniform(0.0, 0.9), setattr, node.wire, "is_cut", False)

    def test_random_worlds(self) -> None:
        for seed in range(18):
            account = (FREE, PRO, ENTERPRISE)[seed % 3]
            world, nodes, deaths = self.live(seed, account, 25.0)
            case = (seed, account.tier, nodes, deaths)
            self.assertGreater(world.admitted[account.key_id], 0, case)
            # the lease was that of as many nodes as were set; one more may have joined
            burst = account.plan.burst or 0
            limit = burst + (nodes + deaths) * max(1.0, burst / nodes, burst / (nodes - 1) if nodes > 2 else 0.0)
            self.assertLessEqual(world.excess[account.key_id], limit, case)
            self.assertEqual(1, max(node.wire.most_under_way for node in world.nodes), case)
            # and it comes back by itself
            self.mend(world, Random(seed))
            world.pass_seconds(8.0)
            self.assertTrue(all(node.limits.status.shared for node in world.nodes), case)
            self.assertEqual(0, sum(node.limits.status.waiting for node in world.nodes), case)

    def test_more_nodes_than_the_burst_has_tokens(self) -> None:
        """A lease is one question at least."""
        world = World(8)
        world.pass_seconds(20.0, lambda: [node.ask_all(FREE) for node in world.nodes])
        self.assertLessEqual(world.excess[FREE.key_id], world.promise(FREE, 8))
        self.assertGreaterEqual(world.admitted[FREE.key_id], 20)
