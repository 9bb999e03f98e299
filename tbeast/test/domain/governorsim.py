"""A simulated cluster for tests of L{tbeast.domain.governor}: nodes, their clients, the list and the net between them.

There is no clock but the simulation's own. Each node has another: off by up to weeks, and some go slower or faster.
Clients want so many connections on a node; they open what is missing and close what is too many, ten times a second.
Messages are lost, or late; who is cut off keeps its clients and loses only the list.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from random import Random

from tbeast.domain.governor import CUT_OFF, EXCHANGE_SECONDS, SHARING, STARTING, Governor, Report, floor_of

TICK_SECONDS = 0.1
TIMEOUT_SECONDS = 0.9


class SharedList:
    """The list: what was written last, but nothing older over something newer of the same life."""

    def __init__(self) -> None:
        self.reports: dict[str, Report] = {}

    def write(self, report: Report) -> None:
        known = self.reports.get(report.node)
        if known is None or known.life != report.life or known.sequence < report.sequence:
            self.reports[report.node] = report


class Node:
    """A node and its clients.

    @ivar wanted: how many connections its clients would like to have.
    @ivar lasting: whether connections stay although the clients' wish has sunk.
    @ivar owes: whether it may hold more than fits, from when it had no contact.
    @ivar hurried: whether an exchange of this round was one too many already.
    """

    def __init__(self, name: str, governor: Governor, ahead: float, rate: float) -> None:
        self.name, self.governor = name, governor
        self.wanted = 0
        self.lasting = False
        self.is_cut = False
        self.owes = True
        self.heard: list[Report] | None = None
        self.hurried = False
        self._ahead, self.rate = ahead, rate

    def now(self, time: float) -> float:
        return self._ahead + time * self.rate

    def turn(self) -> None:
        """The clients close what they do not want any more, and open what they miss."""
        governor = self.governor
        if not self.lasting:
            while governor.connections > self.wanted:
                governor.released()
        tries = 1 + (self.wanted - governor.connections) // 10  # who was refused tries again a second later
        while tries and governor.connections < self.wanted:
            tries -= not governor.admit()
        if governor.state != SHARING:
            self.owes = True
        elif not governor.surplus:
            self.owes = False

    def close(self, part: float) -> None:
        """So many clients go for good."""
        for _ in range(int(self.governor.connections * part)):
            self.governor.released()


class Cluster:
    """The whole.

    @ivar time: the simulation's, in seconds.
    @ivar check: called after each tick.
    """

    def __init__(
        self, total: int, random: Random, loss: float = 0.0, late_seconds: float = 0.01, prompt: bool = True
    ) -> None:
        """Set it up, without nodes.

        @param loss: how likely a question is lost, and an answer.
        @param late_seconds: each takes up to so long.
        @param prompt: whether an answer is heard when it comes, and a claim soon followed up, or all at the next round.
        """
        self.total = total
        self.time = 0.0
        self.nodes: dict[str, Node] = {}
        self.list = SharedList()
        self.loss, self.late_seconds, self.prompt = loss, late_seconds, prompt
        self.check: Callable[[], None] = self.keeps_its_promise
        self._random = random
        self._lives = count()
        self._order = count()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._call_later(TICK_SECONDS, self._tick)

    def start(self, name: str, wanted: int = 0, configured: int = 1) -> Node:
        """A process starts; the one that bore the name before is gone."""
        random = self._random
        ahead, rate = random.uniform(-1e6, 1e6), random.uniform(0.98, 1.02)
        governor = Governor(name, f"life {next(self._lives)}", ahead + self.time * rate, self.total, configured)
        self.nodes[name] = node = Node(name, governor, ahead, rate)
        node.wanted = wanted
        self._call_later(random.uniform(0.0, EXCHANGE_SECONDS), lambda: self._round(node))
        return node

    def kill(self, name: str) -> None:
        """A process dies, and its connections with it. The list does not know."""
        self.nodes.pop(name, None)

    def lose_list(self) -> None:
        """The cache has been restarted, empty."""
        self.list.reports.clear()

    def run(self, seconds: float) -> None:
        end = self.time + seconds
        while self._calls[0][0] <= end:
            self.time, _, call = heappop(self._calls)
            call()
        self.time = end

    @property
    def connections(self) -> int:
        return sum(node.governor.connections for node in self.nodes.values())

    @property
    def limits(self) -> dict[str, int]:
        return {name: node.governor.limit for name, node in self.nodes.items()}

    def most(self) -> int:
        """How many connections the promise allows now."""
        most = self.total
        for node in self.nodes.values():
            governor = node.governor
            if governor.state == SHARING:
                most += governor.surplus if node.owes else 0
            else:
                most += governor.connections
        return most

    def keeps_its_promise(self) -> None:
        """Raise L{AssertionError} if there are more connections than the promise allows."""
        if self.connections > self.most():
            raise AssertionError(f"{self.connections} connections at {self.time:.1f} s: {self.limits}")
        for node in self.nodes.values():
            governor = node.governor
            if governor.state == STARTING and governor.connections > floor_of(self.total, governor.nodes):
                raise AssertionError(f"{node.name} took {governor.connections} before it had heard")
            if governor.state == CUT_OFF and governor.limit > self.total // governor.known_nodes:
                raise AssertionError(f"{node.name} is cut off and admits up to {governor.limit}")

    def _call_later(self, seconds: float, call: Callable[[], None]) -> None:
        heappush(self._calls, (self.time + seconds, next(self._order), call))

    def _tick(self) -> None:
        for node in self.nodes.values():
            node.turn()
        self.check()
        self._call_later(TICK_SECONDS, self._tick)

    def _round(self, node: Node) -> None:
        if self.nodes.get(node.name) is not node:
            return
        heard, node.heard = node.heard, None
        node.hurried = False
        self._call_later(EXCHANGE_SECONDS / node.rate, lambda: self._round(node))
        self._say(node, heard)

    def _say(self, node: Node, heard: list[Report] | None) -> None:
        report = node.governor.round(node.now(self.time), heard)
        if not node.is_cut and self._random.random() >= self.loss:
            asked_at = self.time
            self._call_later(self._delay(), lambda: self._exchange(node, report, asked_at))

    def _exchange(self, node: Node, report: Report, asked_at: float) -> None:
        self.list.write(report)
        reports = list(self.list.reports.values())
        delay = self._delay()
        if self._random.random() >= self.loss and self.time + delay - asked_at < TIMEOUT_SECONDS:
            self._call_later(delay, lambda: self._answer(node, reports))

    def _answer(self, node: Node, reports: list[Report]) -> None:
        if node.is_cut or self.nodes.get(node.name) is not node:
            return
        if self.prompt:
            node.governor.hear(node.now(self.time), reports)
            if node.governor.claims and not node.hurried:
                node.hurried = True
                self._say(node, None)
        else:
            node.heard = reports

    def _delay(self) -> float:
        return self._random.uniform(0.0, self.late_seconds)
