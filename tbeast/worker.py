"""The parts of one worker, tied together: the surface of the hub in another process.

A worker inherits the line to its hub, the ports and the shelf. It says hello, is told what it must know, and begins to
listen when the hub has told it everything. Start, in this order: its line to the shared buckets, the counts, the beat,
its share of the connections, the listeners. Stop is the reverse. When the line ends the hub is gone, and nobody may be
answered any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, cast

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater
from twisted.logger import Logger

from tbeast.adapters.hub.link import Link
from tbeast.adapters.hub.shared import InheritedPorts, mapped
from tbeast.adapters.hub.spentmacs import BYTES as MACS_BYTES
from tbeast.adapters.hub.spentmacs import SharedSpentMacs
from tbeast.codecs import hubwords
from tbeast.codecs.hubwords import LinkError, Page, State, Status, Welcome
from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.problems import Problem
from tbeast.domain import latencies
from tbeast.domain.assetmap import AssetMap
from tbeast.domain.counters import Counters
from tbeast.domain.feedstatus import FeedStatus
from tbeast.domain.governor import TOTAL, Governor, Tally
from tbeast.domain.governor import Report as GovernorReport
from tbeast.domain.hubtime import FollowedClock
from tbeast.domain.sharedbuckets import Balance, Contact, Hello, Report
from tbeast.domain.sharedshelf import BYTES, SharedShelf
from tbeast.domain.usage import Ledger
from tbeast.errors import CacheUnavailableError
from tbeast.servers.door import Door
from tbeast.servers.relayed import RelayedAnswers, relayed_pages
from tbeast.services.governor import Answered, ConnectionGovernor
from tbeast.services.lifecycle import Called, OrderedServices
from tbeast.services.limits import ClusterLimits
from tbeast.services.periodic import Periodic
from tbeast.services.reactorlag import ReactorLag
from tbeast.services.workercounts import WorkerCounts
from tbeast.services.workerkeys import MirroredKeys
from tbeast.settings import LAB, Layer, load
from tbeast.surface import Behind, Surface, gated, native_parts, settle_memory

BEAT_SECONDS: Final = 1.0
QUICK_BEATS: Final = 3
"""How many beats come at once at the start, to have the time exactly."""

LOOK_SECONDS: Final = 0.05
"""How often the retiring look whether the last connection has ended."""

IDLE_LOOKS: Final = 20
"""A connection on which so many looks in a row saw nothing is idle: whoever asks now and then may have a question under
way, and would lose it."""


class Worker:
    """One worker.

    @ivar link: the line to the hub.
    @ivar room: what was made when the hub had said who we are; C{None} before.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        uptime: Callable[[], float],
        new_id: Callable[[], str],
        pid: int,
    ) -> None:
        """Set it up.

        @param uptime: seconds that pass evenly.
        @param new_id: makes ids for requests.
        """
        self.reactor = reactor
        self.uptime = uptime
        self.new_id = new_id
        self.clock = FollowedClock()
        self.room: Room | None = None
        self.pid = pid
        self._is_over = False
        self.link = Link(
            {
                hubwords.ASSETS: self._assets,
                hubwords.STATE: self._state,
                hubwords.KEYS: self._keys,
                hubwords.USED: self._used,
                hubwords.SERVE: self._serve,
                hubwords.RETIRE: self._retire,
            },
            self._lost,
        )

    def now(self) -> float:
        """The time by the hub's clock, in seconds since the epoch."""
        return self.clock.read(self.uptime())

    def begin(self) -> None:
        """Take up the line, and say hello."""
        descriptors = {"stdin": hubwords.FROM_HUB, "stdout": hubwords.TO_HUB}
        StandardIO(self.link, reactor=self.reactor, **descriptors)  # type: ignore[no-untyped-call]
        self.reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        Deferred.fromCoroutine(self._hello()).addErrback(self._cannot_begin)

    async def _hello(self) -> None:
        asked_at = self.uptime()
        welcome = hubwords.decode_welcome(await self.link.ask(hubwords.HELLO, hubwords.encode(self.pid)))
        self.clock.heard(asked_at, welcome.time, self.uptime())
        # nothing may be waited for from here on: what the hub says next is for the room
        self.room = Room(self, welcome)

    def _cannot_begin(self, failure: Any) -> None:
        if not self._is_over:
            self.log.failure("the worker cannot begin", failure)
        self._leave()

    # What the hub says.

    def _assets(self, text: bytes) -> bytes:
        self._made().answers.adopt(hubwords.decode_assets(text))
        return b""

    def _state(self, text: bytes) -> bytes:
        self._made().take(hubwords.decode_state(text))
        return b""

    def _keys(self, text: bytes) -> bytes:
        news = hubwords.decode_keys(text)
        self._made().keys.take(news.good, news.gone)
        return b""

    def _used(self, text: bytes) -> bytes:
        self._made().gate.heard_usage(hubwords.decode_used(text))
        return b""

    async def _serve(self, text: bytes) -> bytes:
        await self._made().root.startService()
        settle_memory()
        return b""

    async def _retire(self, text: bytes) -> bytes:
        seconds = hubwords.decode_seconds(text)
        room = self.room
        if room is None:  # wanted no more before it was told anything
            self._leave()
            return b""
        if seconds:
            await room.rest(seconds)
        await self._stop()
        # once the answer to this is written
        self.reactor.callLater(0, self.link.hang_up)
        return b""

    def _made(self) -> Room:
        if self.room is None:
            raise LinkError("nobody has said hello")
        return self.room

    # The end.

    async def _stopped(self) -> None:
        if self.room is not None:
            await self.room.root.stopService()

    def _stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stopped())

    def _lost(self) -> None:
        """The hub is gone, or has let us go."""
        if self.room is not None:
            self.room.ledger.is_closed = True
            self.room.gate.is_shut = True
        self._leave()

    def _leave(self) -> None:
        if not self._is_over:
            self._is_over = True
            self.reactor.callLater(0, self._stop_reactor)

    def _stop_reactor(self) -> None:
        with suppress(ReactorNotRunning):  # a signal was quicker
            self.reactor.stop()


class Room:
    """What a worker has, once it knows who it is."""

    def __init__(self, worker: Worker, welcome: Welcome) -> None:
        reactor, now = worker.reactor, worker.now
        self._worker = worker
        self._reactor = reactor
        self.settings = load([Layer("hub", welcome.settings)])
        self.counters = Counters()
        self.ledger = Ledger()
        latencies.bring(self.ledger.times, self.counters)
        self.keys = MirroredKeys()
        self.idle_seconds = 60.0
        self.max_connections = TOTAL
        line = HubLine(worker.link)
        self.limits = ClusterLimits(line, welcome.name, welcome.life, welcome.nodes, reactor, now, self.counters)
        self.memory = mapped(hubwords.SHELF, BYTES, writable=False)
        parts, _ = native_parts(self.settings)
        self.gate, self.native = gated(
            parts, self.memory, self.keys, self.limits.open_standing, reactor, now, self.ledger, self.counters
        )
        self.answers = RelayedAnswers(
            assets=AssetMap({}, {}), shelf=SharedShelf(self.memory), hub=line, clock=reactor, now=now,
            counters=self.counters, simulated=self.settings.feeds == LAB,
        )  # fmt: skip
        self.counts = WorkerCounts(worker.link, self.ledger, self.counters, reactor, 0.05)
        # workers bear few names in turn, so the hub's life alone does not tell them apart
        life = f"{welcome.life}.{worker.pid}"
        # hubs that serve reports have a share, too
        hubs = self.settings.cluster_nodes if "lrs" in self.settings.parts else 0
        law = Governor(welcome.name, life, now(), self.max_connections, welcome.nodes + hubs)
        self.door = Door(law, reactor, now, worker.new_id, self.counters)
        figures = None if self.native is None else self.native.figures
        self.governing = ConnectionGovernor(
            governor=law, life=life, door=self.door, nodes=HubNodes(worker.link),
            answered=Answered(self.ledger.times, self.counters, figures, ("lpo",)),
            total=lambda: self.max_connections, clock=reactor, now=now, counters=self.counters,
        )  # fmt: skip
        self.lag = ReactorLag(reactor, self.counters)
        self.lag.listeners.append(self.governing.note_lag)
        self.beat = Periodic("beat", self._beat, BEAT_SECONDS, reactor, self.counters)
        behind = Behind(
            gate=self.gate, answers=self.answers, ledger=self.ledger, feeds=_no_feeds, counters=self.counters, now=now,
            new_id=worker.new_id, idle_seconds=lambda: self.idle_seconds,
            instead=relayed_pages(self.gate, self.answers, line, reactor, now),
            native=self.native,
            spent=SharedSpentMacs(mapped(hubwords.MACS, MACS_BYTES, writable=True), hubwords.MACS, worker.pid),
            door=self.door,
        )  # fmt: skip
        self.ports = InheritedPorts(reactor, self.settings.listen, hubwords.TCP_PORT, hubwords.UDP_PORT)
        self.surface = Surface(self.settings, reactor, behind, self.ports)
        self.root = OrderedServices(reactor)
        for child in self._children():
            child.setServiceParent(self.root)

    def take(self, state: State) -> None:
        """The hub has said how things are."""
        self.keys.is_complete = state.has_all_keys
        self.gate.is_shut = state.is_shut
        self.idle_seconds = state.idle_seconds
        self.counts.set_every(state.count_seconds)
        self.max_connections = state.max_connections

    async def rest(self, seconds: float) -> None:
        """Take nothing new, and wait until the connections have ended and the datagrams are answered, but no longer
        than that.

        Each is told with its next answer that it is the last one. One that was idle for a while is ended: whoever is
        about to ask anew would else lose the question.
        """
        self.ports.rest()
        sites = self._sites()
        if self.native is not None:
            self.native.part()
            self.native.end_datagrams()
            for site in sites:
                site.timeOut = IDLE_LOOKS * LOOK_SECONDS
        until = self._reactor.seconds() + seconds
        quiet: dict[Any, int] = {}
        while self._reactor.seconds() < until:
            channels = [channel for site in sites for channel in site.connections]
            waiting = any(cast("Any", protocol).waiting for protocol in self.ports.protocols)
            if not channels and not waiting and not (self.native is not None and self.native.connections):
                break
            for channel in channels:
                channel.part()
                if channel.requests:
                    quiet[channel] = 0
                else:
                    quiet[channel] = quiet.get(channel, 0) + 1
                    if quiet[channel] > IDLE_LOOKS:
                        channel.end()
            await deferLater(self._reactor, LOOK_SECONDS)

    def _children(self) -> Iterable[IService | Any]:
        yield self.limits
        yield self.counts
        yield Called("time", self._first_beats)
        yield self.beat
        yield self.lag
        yield self.governing
        yield from self.surface.prices()

    def _sites(self) -> list[Any]:
        return [getattr(factory, "wrappedFactory", factory) for factory in self.ports.factories]

    async def _first_beats(self) -> None:
        for _ in range(QUICK_BEATS):
            await self._beat()

    async def _beat(self) -> None:
        """Say how we are doing, and hear the time."""
        worker, limits = self._worker, self.limits.status
        status = hubwords.encode(Status(limits.shared, limits.since, limits.nodes))
        asked_at = worker.uptime()
        said = hubwords.decode_time(await worker.link.ask(hubwords.TIME, status))
        worker.clock.heard(asked_at, said, worker.uptime())


class HubLine:
    """What the hub is to a worker: L{tbeast.services.limits.SharedLimits} and L{tbeast.servers.relayed.HubAnswers}."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def look(self, node: str) -> Contact:
        """See L{tbeast.services.limits.SharedLimits.look}."""
        return hubwords.decode_contact(await self._asked(hubwords.LOOK, hubwords.encode(node)))

    async def exchange(self, hello: Hello, reports: Sequence[Report]) -> tuple[Contact, list[Balance]]:
        """See L{tbeast.services.limits.SharedLimits.exchange}."""
        text = await self._asked(hubwords.EXCHANGE, hubwords.encode_exchange(hello, reports))
        return hubwords.decode_exchanged(text)

    async def leave(self, node: str) -> None:
        """See L{tbeast.services.limits.SharedLimits.leave}."""
        await self._asked(hubwords.LEAVE, hubwords.encode(node))

    async def price(self, query: PriceQuery, asked_at: float) -> tuple[bytes, str, str] | Problem:
        """See L{tbeast.servers.relayed.HubAnswers.price}."""
        return hubwords.decode_found(await self._link.ask(hubwords.PRICE, hubwords.encode_query(query, asked_at)))

    async def page(self, name: str, below: bytes) -> Page | Problem:
        """See L{tbeast.servers.relayed.HubAnswers.page}."""
        return hubwords.decode_page(await self._link.ask(hubwords.PAGE, hubwords.encode((name, below))))

    async def _asked(self, word: bytes, text: bytes) -> bytes:
        try:
            return await self._link.ask(word, text)
        except LinkError as error:
            raise CacheUnavailableError(str(error)) from None


class HubNodes:
    """What the hub is to a worker's governor: L{tbeast.services.governor.NodeList}."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def exchange(
        self, report: GovernorReport, gone: Sequence[GovernorReport], tally: Tally
    ) -> list[GovernorReport]:
        """See L{tbeast.services.governor.NodeList.exchange}."""
        try:
            text = await self._link.ask(hubwords.ADAPTIVE, hubwords.encode_adaptive(report, gone, tally))
        except LinkError as error:
            raise CacheUnavailableError(str(error)) from None
        return hubwords.decode_governor_reports(text)

    async def leave(self, node: str, life: str) -> None:
        """Do nothing: the hub takes the report out when the process has gone."""


def _no_feeds() -> Sequence[FeedStatus]:
    """A worker has none; the page that tells of them is the hub's."""
    return ()
