"""The connection governor at work, on a clock: its rounds, its exchanges, and what it hears of the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.cache.adaptive import MemoryAdaptive
from tbeast.domain.counters import Counters
from tbeast.domain.governor import CUT_OFF, SHARING, SINGLE, STARTING, Governor, Report, Tally, floor_of
from tbeast.errors import CacheUnavailableError
from tbeast.services.governor import LAST_WORDS_SECONDS, START_SECONDS, Answered, ConnectionGovernor
from tbeast.testing.logs import listen

NOON = 1_776_003_781.0


class ListInTrouble:
    """The list, and a way to it that can be cut, or take its time.

    @ivar reports: what was said.
    """

    def __init__(self, nodes: MemoryAdaptive) -> None:
        self.nodes = nodes
        self.is_cut = self.hangs = False
        self.reports: list[Report] = []
        self.tallies: list[Tally] = []
        self.waiting: list[Deferred[None]] = []

    async def exchange(self, report: Report, gone: Sequence[Report], tally: Tally) -> list[Report]:
        self.reports.append(report)
        self.tallies.append(tally)
        if self.is_cut:
            raise CacheUnavailableError("cut")
        found = await self.nodes.exchange(report, gone, tally)
        if self.hangs:
            waiting: Deferred[None] = Deferred()
            self.waiting.append(waiting)
            await waiting
        return found

    async def leave(self, node: str, life: str) -> None:
        if self.hangs:
            await Deferred()
        if self.is_cut:
            raise CacheUnavailableError("cut")
        await self.nodes.leave(node, life)


class TestDoor:
    """Holds what it is told to hold, and lets in up to the limit."""

    def __init__(self, governor: Governor) -> None:
        self.governor = governor
        self.held = self.refused = 0
        self.limits: list[int] = []
        self.is_closed = False

    def want(self, connections: int) -> None:
        """So many clients are there, or try to be."""
        self.held = min(connections, max(self.governor.limit, min(self.held, connections)))
        self.refused += connections - self.held
        self.governor.refused += connections - self.held

    def sync(self) -> None:
        self.governor.connections = self.held

    def moved(self) -> None:
        self.limits.append(self.governor.limit)

    def close(self) -> None:
        self.is_closed = True


class Node:
    """One node."""

    def __init__(self, case: GovernorCase, name: str, total: int, shared: bool = True) -> None:
        life = f"life of {name} {len(case.nodes)}"
        self.total = total
        self.law = Governor(name, life, case.now(), total, 1, shared)
        self.door = TestDoor(self.law)
        self.list = ListInTrouble(case.list)
        self.times: dict[str, list[int]] = {}
        self.counters = Counters()
        self.figures: dict[str, list[int]] = {"times": [0] * 32}
        self.service = ConnectionGovernor(
            governor=self.law, life=life, door=self.door, nodes=self.list if shared else None,
            answered=Answered(self.times, self.counters, lambda: self.figures), total=lambda: self.total,
            clock=case.clock, now=case.now, counters=self.counters,
        )  # fmt: skip


class GovernorCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.list = MemoryAdaptive()
        self.nodes: list[Node] = []

    def now(self) -> float:
        return NOON + self.clock.seconds()

    def node(self, name: str = "a", total: int = 1_000, shared: bool = True) -> Node:
        """One that has not started."""
        node = Node(self, name, total, shared)
        self.nodes.append(node)
        return node

    def start(self, node: Node) -> Node:
        self.started = ensureDeferred(node.service.startService())
        return node

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds * 4):
            self.clock.advance(0.25)


class StartTests(GovernorCase):
    def test_two_exchanges(self) -> None:
        """When the start is over the node may use its share; alone, with nobody expected, that is all."""
        node = self.start(self.node())
        self.assertIsNone(self.successResultOf(self.started))
        self.assertEqual([1, 2], [report.sequence for report in node.list.reports])
        self.assertEqual((SHARING, 1_000), (node.law.state, node.law.limit))
        self.assertEqual(1_000, node.door.limits[-1])

    def test_others_have_claimed_everything(self) -> None:
        """Who starts then waits until they let go of some: listening before, it could only refuse."""
        all_of_it = Report("b", "its life", 1, NOON, 0, 0, False, 1.0, 1_000, 1_000)
        self.successResultOf(ensureDeferred(self.list.exchange(all_of_it, (), Tally())))
        node = self.start(self.node())
        self.assertEqual((SHARING, 0), (node.law.state, node.law.limit))
        self.pass_seconds(1)
        self.assertNoResult(self.started)
        less = evolve(all_of_it, sequence=2, claim=400, limit=400)
        self.successResultOf(ensureDeferred(self.list.exchange(less, (), Tally())))
        self.clock.pump([0.1] * 20)
        self.assertGreater(node.law.limit, 0)
        self.assertIsNone(self.successResultOf(self.started))

    def test_nobody_answers(self) -> None:
        """The start waits so long and no longer, and the node has its floor."""
        node = self.node()
        node.list.hangs = True
        self.start(node)
        self.pass_seconds(1)
        self.assertNoResult(self.started)
        self.clock.advance(START_SECONDS - 1.0)
        self.assertIsNone(self.successResultOf(self.started))
        self.assertEqual((STARTING, floor_of(1_000, 1)), (node.law.state, node.law.limit))
        node.list.waiting.pop().callback(None)
        self.assertEqual(STARTING, node.law.state)  # that was the answer to another round

    def test_cut(self) -> None:
        node = self.node()
        node.list.is_cut = True
        self.start(node)
        self.assertIsNone(self.successResultOf(self.started))
        self.assertEqual([], self.flushLoggedErrors())

    def test_single(self) -> None:
        """Without a list there is nothing to exchange, and the total counts from the next round."""
        node = self.start(self.node(shared=False))
        self.successResultOf(self.started)
        self.assertEqual((SINGLE, 1_000), (node.law.state, node.law.limit))
        node.total = 70
        self.pass_seconds(1)
        self.assertEqual((70, 70), (node.law.limit, node.door.limits[-1]))
        self.assertEqual([], node.service.view()["nodes"])


class RoundTests(GovernorCase):
    def test_demand_moves(self) -> None:
        """Two nodes, all the clients on one and then on the other: together they never have more than the total."""
        a, b = self.start(self.node("a")), self.start(self.node("b"))
        for wanted_a, wanted_b in ((900, 10), (10, 900)):
            for _ in range(120):
                a.door.want(wanted_a)
                b.door.want(wanted_b)
                self.assertLessEqual(a.door.held + b.door.held, 1_000)
                self.clock.advance(0.1)
            most = max(a.law.limit, b.law.limit)
            self.assertGreater(most, 800)
        self.assertEqual(b.law.limit, most)
        self.assertGreater(b.door.held, 800)

    def test_the_total_is_hot(self) -> None:
        node = self.start(self.node())
        node.total = 300
        self.pass_seconds(2)
        self.assertEqual(300, node.law.limit)

    def test_down_to_one_and_up_again(self) -> None:
        """The one place is wherever somebody wants it; nobody keeps it out of a demand that is over."""
        nodes = {name: self.start(self.node(name)) for name in "abc"}

        def want(seconds: int, **wanted: int) -> list[int]:
            for _ in range(seconds * 10):
                for name, node in nodes.items():
                    node.door.want(wanted.get(name, 0))
                self.clock.advance(0.1)
            return [node.door.held for node in nodes.values()]

        def set_total(total: int) -> None:
            for node in nodes.values():
                node.total = total

        want(5, a=300, b=300, c=300)
        set_total(1)
        want(10)
        self.assertEqual([0, 1, 0], want(10, b=5))
        self.assertEqual([0, 0, 1], want(10, c=5))
        set_total(1_000)
        self.assertEqual([5, 850, 5], want(8, a=5, b=900, c=5))

    def test_rounds_go_on_in_silence(self) -> None:
        """The node finds out by itself that it is cut off, says so once, and comes back."""
        lines = listen(self)
        node = self.start(self.node())
        node.list.is_cut = True
        self.pass_seconds(6)
        self.assertEqual(CUT_OFF, node.law.state)
        self.assertEqual(1, len(lines.having("cannot be heard")))
        node.list.is_cut = False
        self.pass_seconds(3)
        self.assertEqual((SHARING, 1_000), (node.law.state, node.law.limit))
        self.assertEqual(1, len(lines.having("shared across nodes again")))

    def test_a_list_that_hangs(self) -> None:
        """One exchange waits at a time, and the law goes on."""
        node = self.start(self.node())
        said = len(node.list.reports)
        node.list.hangs = True
        self.pass_seconds(6)
        self.assertEqual(said + 1, len(node.list.reports))
        self.assertEqual(CUT_OFF, node.law.state)
        node.list.hangs = False
        node.list.waiting.pop().callback(None)
        self.pass_seconds(2)
        self.assertEqual(SHARING, node.law.state)

    def test_who_died_is_taken_out(self) -> None:
        """Its share comes back, and its report goes."""
        a, b = self.start(self.node("a")), self.start(self.node("b"))
        self.pass_seconds(3)
        self.assertEqual({"a", "b"}, self.list.reports.keys())
        b.service._rounds.stopService()  # it is killed
        self.pass_seconds(8)
        self.assertEqual({"a"}, self.list.reports.keys())
        self.assertEqual((1, 1_000), (a.law.known_nodes, a.law.limit))

    def test_two_of_one_name(self) -> None:
        """They cannot share, and both say so, once."""
        lines = listen(self)
        self.start(self.node("a"))
        self.pass_seconds(2)
        self.start(self.node("a"))
        self.pass_seconds(6)
        self.assertEqual(2, len(lines.having("another node is called a as well")))

    def test_one_that_comes_back(self) -> None:
        """The report of its life before is no other node's."""
        lines = listen(self)
        before = self.start(self.node("a"))
        before.service._rounds.stopService()  # it is killed
        after = self.start(self.node("a"))
        self.pass_seconds(6)
        self.assertEqual([], lines.having("another node"))
        self.assertEqual((SHARING, 1_000), (after.law.state, after.law.limit))

    def test_a_fault_of_ours(self) -> None:
        """It is logged, and the rounds go on."""
        node = self.start(self.node())
        node.list.nodes = None  # type: ignore[assignment]
        self.pass_seconds(1)
        self.assertEqual(1, len(self.flushLoggedErrors(AttributeError)))
        node.list.nodes = self.list
        self.pass_seconds(1)
        self.assertEqual(node.law.limit, 1_000)


class HearingTests(GovernorCase):
    def test_slow_answers(self) -> None:
        """Counts of answers become a median; only what has come since the last round is of interest."""
        node = self.start(self.node(shared=False))
        node.times["lpo"] = [0] * 32
        node.times["lrs"] = [0] * 31 + [1_000]
        node.times["lpo"][10] = 100  # 512 to 1,023 us
        self.pass_seconds(1)
        self.assertEqual(721.0, node.law.health.mean_us)
        node.times["lpo"][12] += 50
        self.pass_seconds(1)
        self.assertEqual(2_876.0, node.law.health.mean_us)
        self.assertEqual(1.0, node.law.health.value)

    def test_native_answers(self) -> None:
        """They count with those of Python."""
        node = self.start(self.node(shared=False))
        node.times["lpo"] = [0] * 32
        node.times["lpo"][10] = 40
        node.figures["times"][5] = 60  # 16 to 31 us
        self.pass_seconds(1)
        self.assertEqual(28.0, node.law.health.mean_us)
        self.assertEqual(100, node.law.tally().successes)

    def test_few_that_wait_for_others(self) -> None:
        """A few questions that wait for an exchange's REST say nothing of this node: its limit stays."""
        node = self.start(self.node(shared=False))
        node.times["lpo"] = [0] * 32
        for second in range(20):
            node.figures["times"][5] += 1_000
            node.times["lpo"][21] += 20 if second > 5 else 0  # one to two seconds each
            self.pass_seconds(1)
        self.assertEqual((1.0, 1_000), (node.law.health.value, node.law.limit))

    def test_it_gets_slow(self) -> None:
        node = self.start(self.node(shared=False))
        node.times["lpo"] = [0] * 32
        for bucket in (10, 10, 10, 18, 18, 18):
            node.times["lpo"][bucket] += 1_000
            self.pass_seconds(1)
        self.assertLess(node.law.limit, 800)
        self.assertIn("slow answers", node.law.health.reason)
        self.assertEqual(node.law.limit, node.door.limits[-1])

    def test_slow_and_asked_for_ever_more(self) -> None:
        """Who claims more in every round makes two of it: the second has seen nothing, and hides nothing."""
        node, _ = self.start(self.node("a", 6_000)), self.start(self.node("b", 6_000))
        node.times["lpo"] = [0] * 32
        self.pass_seconds(3)
        said = len(node.list.reports)
        for second in range(10):
            node.door.want(100 + 170 * second)
            node.times["lpo"][10 if second < 5 else 18] += 1_000
            self.pass_seconds(1)
        self.assertGreater(len(node.list.reports) - said, 15)
        self.assertLess(node.law.health.value, 0.3)
        self.assertIn("slow answers", node.law.health.reason)

    def test_lag(self) -> None:
        node = self.start(self.node(shared=False))
        for _ in range(3):
            for _ in range(5):
                node.service.note_lag(0.4)
            self.pass_seconds(1)
        self.assertIn("reactor lag", node.law.health.reason)

    def test_refusals_from_below(self) -> None:
        """Only those for want of capacity, of the services that are this process's."""
        node = self.start(self.node(shared=False))
        node.times["lpo"] = [0] * 32
        for _ in range(3):
            node.counters.count("requests", "lpo", "http", "503", by=900)
            node.counters.count("refused_connections", "lpo", by=900)
            self.pass_seconds(1)
        self.assertEqual(1.0, node.law.health.value)
        for _ in range(3):
            node.times["lpo"][8] += 100
            node.counters.count("capacity_refusals", "lrs", "reports_busy", by=60)
            self.pass_seconds(1)
        self.assertIn("refusals from below: 60%", node.law.health.reason)
        self.assertEqual(120, node.law.tally().successes)

    def test_whose_refusals(self) -> None:
        counters = Counters()
        answered = Answered({}, counters, services=("lrs",))
        counters.count("capacity_refusals", "lpo", "keys_unavailable", by=7)
        counters.count("capacity_refusals", "lrs", "reports_busy", by=2)
        self.assertEqual((0, 0.0, 2), answered.more())
        self.assertEqual((0, 0.0, 0), answered.more())

    def test_the_tally(self) -> None:
        """What the door has refused is in it, once, however many exchanges fail."""
        node = self.start(self.node(total=100))
        node.figures["times"][5] = 500
        node.door.want(130)
        node.list.is_cut = True
        self.pass_seconds(2)
        self.assertEqual(Tally(), self.list.tally)
        node.list.is_cut = False
        self.pass_seconds(3)
        self.assertEqual(Tally(500, 530, 30), self.list.tally)


class ViewTests(GovernorCase):
    def test_view(self) -> None:
        a, b = self.start(self.node("a")), self.start(self.node("b"))
        self.pass_seconds(3)
        b.door.want(33)
        self.pass_seconds(2)
        view: dict[str, Any] = a.service.view()
        self.assertEqual(
            ("a", SHARING, 1_000, 2), tuple(view[name] for name in ("node", "state", "total", "known_nodes"))
        )
        self.assertEqual([("a", 0), ("b", 33)], [(node["node"], node["connections"]) for node in view["nodes"]])
        self.assertEqual(a.law.limit, view["last_move"]["after"])
        self.assertLessEqual(sum(node["limit"] for node in view["nodes"]), 1_000)

    def test_now(self) -> None:
        """The view of this node is of this moment, not of the last round."""
        node = self.start(self.node())
        node.door.want(12)
        self.assertEqual(12, node.service.view()["connections"])


class StopTests(GovernorCase):
    def test_leaves(self) -> None:
        node = self.start(self.node())
        self.successResultOf(ensureDeferred(node.service.stopService()))
        self.assertEqual({}, self.list.reports)
        self.assertTrue(node.door.is_closed)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_after_the_last_exchange(self) -> None:
        """It would else write the report again."""
        node = self.start(self.node())
        node.list.hangs = True
        self.pass_seconds(1)
        stopped = ensureDeferred(node.service.stopService())
        self.assertNoResult(stopped)
        node.list.hangs = False
        node.list.waiting.pop().callback(None)
        self.successResultOf(stopped)
        self.assertEqual({}, self.list.reports)

    def test_nobody_answers(self) -> None:
        """Nobody is waited for without end, and none of it fails."""
        for trouble in ("hangs", "is_cut"):
            node = self.start(self.node())
            setattr(node.list, trouble, True)
            stopped = ensureDeferred(node.service.stopService())
            self.clock.advance(LAST_WORDS_SECONDS)
            self.successResultOf(stopped)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_single(self) -> None:
        node = self.start(self.node(shared=False))
        self.successResultOf(ensureDeferred(node.service.stopService()))
        self.assertTrue(node.door.is_closed)
