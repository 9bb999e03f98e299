"""The connection governor at work: its rounds, the exchange with the other nodes, and what it hears of this one.

The law stands in L{tbeast.domain.governor}; here it is given a clock, a list and ears. The rules:

 - A round comes every L{EXCHANGE_SECONDS}, whatever becomes of an exchange: the law reckons with silence. One exchange
   is under way at a time. Its answer is heard at once, and does not count if the next round has begun meanwhile.
 - When the answer shows that there is room to claim, one more exchange follows at once, and no third.
 - The start waits for two exchanges: after the first the node shares, after the second it may use its share. Nobody is
   waited for longer than L{START_SECONDS}; the node begins with its floor then. Where several start together one may
   find that the others have claimed everything; it is waited for until they let go of some, or as long.
 - At the stop the node takes its report out of the list, so that its share is free at once.

How well the node is comes from three sources, none of which costs anything while a question is answered: the counts of
answers by the time they took, the counters of refusals for want of capacity, and whoever watches the reactor, which
calls L{ConnectionGovernor.note_lag}. What answers took is the median of a round, known to less than a factor of two: a
mean would be that of the few that wait for an exchange's REST, which a node with fewer connections answers no sooner.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.domain.counters import Counters
from tbeast.domain.governor import (
    CUT_OFF,
    EXCHANGE_SECONDS,
    SHARING,
    SILENCE_SECONDS,
    SINGLE,
    STARTING,
    Governor,
    Report,
    Tally,
)
from tbeast.domain.latencies import Latencies
from tbeast.domain.nodehealth import Health
from tbeast.errors import CacheUnavailableError
from tbeast.interfaces import Now
from tbeast.services.periodic import Periodic

OTHERS_OF_OUR_NAME: Final = 3
"""After a restart one report, or two, may be of the life before; more are of somebody who has the same name."""

START_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.1
LAST_WORDS_SECONDS: Final = 2.0

REFUSALS: Final = "capacity_refusals"
"""The family of refusals from below. Those of the governor itself are none of them."""


class NodeList(Protocol):
    """The list of all nodes' reports: in Valkey, or the twin in memory, or the hub's.

    Everything may fail with L{CacheUnavailableError}; then it may have been carried out or not.
    """

    def exchange(self, report: Report, gone: Sequence[Report], tally: Tally) -> Awaitable[list[Report]]:
        """Write our report, unless a later one of this life is there; take out those that are gone, where they have not
        changed; add the tally; and then read them all. A report of another life of ours that was there is read before
        these.
        """

    def leave(self, node: str, life: str) -> Awaitable[None]:
        """Take out the report of a node, unless it is another life's."""


class Door(Protocol):
    """Lets connections in.

    @ivar refused: how many it did not let in, since the start.
    """

    @property
    def refused(self) -> int:
        """See above."""

    def sync(self) -> None:
        """Tell the governor what is there and what was refused, as of now."""

    def moved(self) -> None:
        """The limit may be another."""

    def close(self) -> None:
        """Let go of everything; nobody comes any more."""


class Answered:
    """What the answers of this process took, since it was asked last.

    @param times: how many answers there were, by service and bucket of their time; see
        L{tbeast.domain.usage.Ledger.times}.
    @param figures: gives the native part's; C{None}: there is none.
    @param services: whose refusals for want of capacity count; the times are those of prices alone, for what a report
        takes says nothing of the node.
    """

    def __init__(
        self,
        times: Mapping[str, Sequence[int]],
        counters: Counters,
        figures: Callable[[], Mapping[str, Any]] | None = None,
        services: Iterable[str] = ("lpo", "lrs"),
    ) -> None:
        self._times = times
        self._counters = counters
        self._figures = figures
        self._services = frozenset(services)
        self._known = Latencies()
        self._known_refused = 0

    def more(self) -> tuple[int, float, int]:
        """How many were answered without trouble, how long half of them took at most, in microseconds, and how many
        were refused.
        """
        times = Latencies(self._times.get("lpo", ()))
        if self._figures is not None:
            times.add(self._figures()["times"])
        more = times.difference(self._known)
        refused = sum(
            number for key, number in self._counters.counts.items() if key[0] == REFUSALS and key[1] in self._services
        )
        refusals = refused - self._known_refused
        self._known, self._known_refused = times, refused
        return max(0, more.total - refusals), float(more.quantile(0.5) or 0), refusals


class Overheard:
    """What is told of the governor in a hub that has no ports of its own, and so none: what it hears of its workers'.
    What each of these holds is in its report, and is none of this.

    @ivar heard_at: when a worker was last answered with the list of all, C{None} before the first time.
    @ivar known_nodes: how many were in it.
    @ivar total: for the cluster.
    """

    connections = limit = 0

    def __init__(self, reports: Callable[[], Iterable[Report]], total: Callable[[], int], now: Now) -> None:
        """Set it up.

        @param reports: gives what the workers have reported last.
        @param total: asked whenever somebody asks.
        """
        self.health = Health(now())
        self.known_nodes = 1
        self.heard_at: float | None = None
        self._reports = reports
        self._total = total
        self._now = now

    def heard(self, reports: Sequence[Report]) -> None:
        """A worker was answered with the list."""
        self.heard_at = self._now()
        self.known_nodes = len(reports)

    @property
    def total(self) -> int:
        """See above."""
        return self._total()

    @property
    def share(self) -> int:
        """How many they might hold if they were well."""
        return sum(round(report.limit / report.health) for report in self._reports())

    @property
    def state(self) -> str:
        """As of a governor."""
        if self.heard_at is None:
            return STARTING
        return SHARING if self._now() - self.heard_at < SILENCE_SECONDS else CUT_OFF


class ConnectionGovernor(Service):
    """See the module.

    @ivar governor: the law.
    """

    name = "connection governor"
    log = Logger()

    def __init__(
        self,
        *,
        governor: Governor,
        life: str,
        door: Door,
        nodes: NodeList | None,
        answered: Answered,
        total: Callable[[], int],
        clock: IReactorTime,
        now: Now,
        counters: Counters,
    ) -> None:
        """Set it up.

        @param life: the governor's.
        @param nodes: the list; C{None}: the governor is L{SINGLE}.
        @param total: asked in each round: how many connections the cluster may have.
        """
        self.governor = governor
        self._life = life
        self._door = door
        self._nodes = nodes
        self._answered = answered
        self._total = total
        self._clock = clock
        self._now = now
        self._heard: list[Report] = []
        self._told_refused = 0
        self._under_way: Deferred[None] | None = None
        self._told_cut_off = False
        self._others_of_our_name = 0
        self._rounds = Periodic(self.name, self._round, EXCHANGE_SECONDS, clock, counters)

    @property
    def heard(self) -> Sequence[Report]:
        """The list of all nodes, as it was heard last."""
        return self._heard

    def note_lag(self, seconds: float) -> None:
        """The reactor came so much later than it should have; to be told several times a second, 0 too."""
        self.governor.note_lag(seconds)

    def view(self) -> dict[str, Any]:
        """How it stands, for operators: this node, and every one of the list as it was heard last."""
        governor = self.governor
        self._door.sync()
        move = governor.last_move
        return {
            "node": governor.node,
            "state": governor.state,
            "total": self._total(),
            "known_nodes": governor.known_nodes,
            "connections": governor.connections,
            "limit": governor.limit,
            "share": governor.share,
            "refused": governor.refused,
            "health": round(governor.health.value, 3),
            "health_reason": governor.health.reason,
            "usual_us": round(governor.health.usual_us),
            "mean_us": round(governor.health.mean_us),
            "last_move": None if move is None else {
                "at": move.at, "before": move.before, "after": move.after, "reason": move.reason,
            },
            "nodes": [
                {
                    "node": report.node,
                    "connections": report.connections,
                    "limit": report.limit,
                    "claim": report.claim,
                    "demand": report.demand,
                    "is_pressed": report.is_pressed,
                    "health": round(report.health, 3),
                    "reported_at": report.at,
                }
                for report in sorted(self._heard, key=lambda report: report.node)
            ],
        }  # fmt: skip

    # Start and stop.

    async def startService(self) -> None:
        """Begin, with two exchanges."""
        super().startService()  # type: ignore[no-untyped-call]
        self._rounds.startService()
        self._round()
        end = self._clock.seconds() + START_SECONDS
        if self._under_way is not None:
            await self._begun(self._under_way)
        while not self.governor.limit and self._nodes is not None and self.running and self._clock.seconds() < end:
            await deferLater(self._clock, LOOK_SECONDS)

    async def _begun(self, under_way: Deferred[None]) -> None:
        begun: Deferred[None] = Deferred()
        limit = self._clock.callLater(START_SECONDS, begun.callback, None)
        under_way.addCallback(lambda _: begun.callback(None) if limit.active() else None)
        try:
            await begun
        finally:
            if limit.active():
                limit.cancel()

    async def stopService(self) -> None:
        """End the rounds, and take our report out of the list; does not fail."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._rounds.stopService()
        self._door.close()
        if self._nodes is None:
            return
        last = ensureDeferred(self._last_words(self._nodes))
        limit = self._clock.callLater(LAST_WORDS_SECONDS, last.cancel)
        try:
            await last
        except Exception:
            self.log.debug("the share of this node is free when the others have not heard of it for a while")
        finally:
            if limit.active():
                limit.cancel()

    async def _last_words(self, nodes: NodeList) -> None:
        if self._under_way is not None:  # it would write the report again
            ended: Deferred[None] = Deferred()
            self._under_way.addCallback(ended.callback)
            await ended
        await nodes.leave(self.governor.node, self._life)

    # The rounds.

    def _round(self) -> None:
        report = self._close_round()
        if self._nodes is not None and self._under_way is None:
            under_way = self._under_way = ensureDeferred(self._exchange(self._nodes, report))
            under_way.addErrback(self._failed)
            under_way.addCallback(self._ended)
        self._tell_state()

    def _close_round(self) -> Report:
        """Draw the conclusions, and let the door know."""
        governor, door = self.governor, self._door
        answers, us, refusals = self._answered.more()
        if answers:
            governor.note_latency(us, answers)
        for _ in range(refusals):
            governor.note_refusal()
        governor.total = self._total()
        door.sync()
        report = governor.round(self._now())
        door.moved()
        return report

    async def _exchange(self, nodes: NodeList, report: Report) -> None:
        if await self._exchanged(nodes, report) and self.governor.claims and self.running:
            await self._exchanged(nodes, self._close_round())

    async def _exchanged(self, nodes: NodeList, report: Report) -> bool:
        """Exchange once; whether the answer counts."""
        governor, door = self.governor, self._door
        # the door has decided, so it knows how many the governor would have refused
        tally, refused = governor.tally(), door.refused
        more = refused - self._told_refused
        told = Tally(tally.successes, tally.total + more, tally.throttle + more)
        reports = await nodes.exchange(report, governor.gone, told)
        governor.told(tally)
        self._told_refused = refused
        door.sync()
        ours = [each for each in reports if each.node != report.node or each.life == self._life]
        if len(ours) < len(reports):
            self._see_another()
        counts = governor.hear(self._now(), ours)
        if counts:
            self._heard = ours
        door.moved()
        return counts

    def _see_another(self) -> None:
        self._others_of_our_name += 1
        if self._others_of_our_name == OTHERS_OF_OUR_NAME:
            self.log.error(
                "another node is called {node} as well: they do not see each other, and each takes the share of one;"
                " give each a CLUSTER_NODE of its own",
                node=self.governor.node,
            )

    def _failed(self, failure: Failure) -> None:
        if not isinstance(failure.value, CacheUnavailableError):
            self.log.failure("an exchange of the connection governor failed in an unforeseen way", failure)

    def _ended(self, _: None) -> None:
        self._under_way = None

    def _tell_state(self) -> None:
        governor = self.governor
        is_cut_off = governor.state == CUT_OFF
        if is_cut_off == self._told_cut_off or governor.state == SINGLE:
            return
        self._told_cut_off = is_cut_off
        if is_cut_off:
            self.log.warn(
                "the other nodes cannot be heard: this node takes at most {limit} connections", limit=governor.limit
            )
        else:
            self.log.info("connections are shared across nodes again, this node takes {limit}", limit=governor.limit)
