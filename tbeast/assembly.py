"""The one place where concrete classes meet: settings in, the daemon out.

Start, in this order: what stands behind the surface (see L{tbeast.accounting}), the lab (when it feeds us), publishing,
the feeds, the fallback, the listeners; where there are workers (see L{tbeast.worker}), they listen, and this process is
their hub.
Stop is the reverse, one after the other, each waited for with a limit: listeners close first.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import metadata
from importlib.resources import files
from mmap import mmap
from typing import Any

from attrs import evolve
from twisted.application.service import IService
from twisted.logger import Logger

from tbeast.accounting import Accounting
from tbeast.adapters.cache.adaptive import MemoryAdaptive, ValkeyAdaptive
from tbeast.adapters.cache.clusterstats import ValkeyClusterStats
from tbeast.adapters.cache.leases import ValkeyLeases
from tbeast.adapters.cache.memoryleases import MemoryLeases
from tbeast.adapters.feeds.rest import HttpFetcher
from tbeast.adapters.feeds.websocket import WebSocketDialer
from tbeast.adapters.hub.link import Link
from tbeast.adapters.hub.shared import WorkerPorts, make_memory, mapped
from tbeast.adapters.hub.spentmacs import BYTES as MACS_BYTES
from tbeast.adapters.memorylimit import memory_limit
from tbeast.codecs import replies
from tbeast.codecs.exchanges.base import Exchange, RestCodec, SocketCodec
from tbeast.codecs.exchanges.registry import EXCHANGES
from tbeast.codecs.hubwords import MACS, SHELF, State
from tbeast.domain.assetmap import AssetMap, parse
from tbeast.domain.backing import PartStatus
from tbeast.domain.board import Board
from tbeast.domain.counters import Counters
from tbeast.domain.freshness import Limits
from tbeast.domain.governor import Governor, Report
from tbeast.domain.pricing import TRUST, Pricer
from tbeast.domain.readyreplies import Shelf
from tbeast.domain.sharedshelf import BYTES, SharedShelf, TwinShelf
from tbeast.interfaces import Chance, Now
from tbeast.operating import Operating
from tbeast.servers.answers import Answers
from tbeast.servers.door import Door
from tbeast.servers.health import Health, health_tree
from tbeast.servers.lpo import lpo_pages
from tbeast.servers.metrics import GovernorFigures, Metrics, NodeInfo, Sources
from tbeast.servers.relay import RELAYED, AnswerRelay
from tbeast.services.assetmaps import AssetMaps
from tbeast.services.clusterstats import ClusterStats
from tbeast.services.clusterstats import Sources as StatisticsSources
from tbeast.services.companion import Companion
from tbeast.services.fallback import Fallback, RestDesk
from tbeast.services.feeds import ExchangeFeed, Feeds
from tbeast.services.governor import Answered, ConnectionGovernor, NodeList
from tbeast.services.hub import Hub
from tbeast.services.lifecycle import Called, OrderedServices
from tbeast.services.overview import About
from tbeast.services.overview import Sources as OverviewSources
from tbeast.services.periodic import Periodic
from tbeast.services.priceflush import FLUSH_SECONDS, PriceFlush
from tbeast.services.pricelookup import PriceLookup
from tbeast.services.publishing import SLICES, Publishing
from tbeast.services.reactorlag import ReactorLag
from tbeast.services.reloading import Reload, Reloading
from tbeast.services.workerkeys import KeyWatch
from tbeast.services.workerprocess import Means
from tbeast.services.workers import Rolling, Workers, cores
from tbeast.settings import AUTO, LAB, REFUSE, SERVER_TYPES, SETTINGS, ExchangeAddress, Settings
from tbeast.surface import BACKLOG, Behind, BoundPorts, Surface, gated, native_parts, release_memory, settle_memory

METERING_WATCH_SECONDS = 0.1
LAB_COMMAND = (sys.executable, "-m", "tbeast.lab", "--parent")
WORKER_COMMAND = (sys.executable, "-m", "tbeast.commands.worker")


class PlacedExchange:
    """An exchange where this daemon is to reach it: where the operator says, else where the lab is, else at home."""

    def __init__(self, exchange: Exchange, said: ExchangeAddress | None) -> None:
        self._exchange = exchange
        self._said = said or ExchangeAddress()
        self.facts = exchange.facts
        self.place(None, None)

    def place(self, websocket_url: str | None, rest_url: str | None) -> None:
        """The lab has said where it is."""
        own = self._exchange.facts
        self.facts = evolve(
            own,
            websocket_url=self._said.websocket_url or websocket_url or own.websocket_url,
            rest_url=(self._said.rest_url or rest_url or own.rest_url).rstrip("/"),
        )

    def socket_codec(self, symbols: Iterable[str]) -> SocketCodec:
        """See L{Exchange.socket_codec}."""
        return self._exchange.socket_codec(symbols)

    def rest_codec(self) -> RestCodec:
        """See L{Exchange.rest_codec}."""
        return self._exchange.rest_codec()


def load_assets() -> AssetMap:
    """The asset tables that the package carries.

    @raise tbeast.errors.AssetMapError: when they are at fault.
    """
    data = files("tbeast") / "data"
    return parse((data / "assets.csv").read_text("utf-8"), (data / "stablecoins.csv").read_text("utf-8"))


def build(settings: Settings, *, reactor: Any, now: Now, random: Chance, new_id: Callable[[], str]) -> IService:
    """Tie the daemon together.

    @param reactor: for waiting, connecting, listening and child processes.
    @param new_id: makes ids for requests.
    @raise tbeast.errors.AssetMapError: when the asset tables are at fault.
    """
    return Assembly(settings, reactor, now, random, new_id).root()


class Assembly:
    """The parts of one daemon. Made by L{build}; tests look into it."""

    log = Logger()

    def __init__(self, settings: Settings, reactor: Any, now: Now, random: Chance, new_id: Callable[[], str]) -> None:
        self.settings = settings
        self.reactor = reactor
        self.now = now
        self.new_id = new_id
        self.simulated = settings.feeds == LAB
        user_agent = f"tbeast/{metadata.version('tbeast')}"

        # who serves reports alone has nothing to price
        self.assets = load_assets() if self._has("lpo") else AssetMap({}, {})
        self.counters = Counters()
        life = new_id()
        self.accounting = Accounting(settings, reactor, now, random, self.counters, life)
        self.board = Board(self.assets, Limits(settings.max_price_age_seconds), TRUST)
        self.pricer = Pricer(self.board)
        count = worker_count(settings)
        self.memory = make_memory(BYTES) if count > 1 else None
        self.shelf = Shelf()
        found, why_not = native_parts(settings)
        self.about = {"native": "in use" if found is not None else f"not in use: {why_not}", "workers": str(count)}
        parts = found if count == 1 else None  # else the workers have them
        shared = mmap(-1, BYTES) if parts is not None else None
        if self.memory is not None:
            self.shelf = TwinShelf(SharedShelf(mapped(self.memory, BYTES, writable=True)))
        elif shared is not None:
            self.shelf = TwinShelf(SharedShelf(memoryview(shared)))
        self.publishing = Publishing(
            self.board, self.pricer, self.shelf, partial(replies.render, simulated=self.simulated), self.counters,
            reactor, now,
        )  # fmt: skip

        self.exchanges = {
            name: PlacedExchange(EXCHANGES[name], settings.exchange_addresses.get(name)) for name in EXCHANGES
        }
        self.fetcher = HttpFetcher(reactor, user_agent)
        desks = [
            RestDesk(exchange, self.fetcher, self.board, self.counters, reactor, now)
            for exchange in self.exchanges.values()
        ]
        self.fallback = Fallback(self.board, desks, now)
        self.lookup = PriceLookup(
            self.board, self.pricer, self.accounting.prices, self.fallback.desks, self.counters, reactor, now
        )
        dialer = WebSocketDialer(reactor, user_agent)
        self.feeds = Feeds(
            ExchangeFeed(
                exchange, self.assets.subscriptions(name), dialer, self.board, self.counters, reactor, now, random,
                self.fallback.seed,
            )
            for name, exchange in self.exchanges.items()
            if self._has("lpo")
        )  # fmt: skip

        self.demo_key = self.accounting.demo_key
        self.gate, self.native = gated(
            parts, shared, self.accounting.keyring, self.accounting.open_standing, reactor, now,
            self.accounting.ledger, self.counters,
        )  # fmt: skip
        if self.native is not None:
            self.publishing.interlude = dialer.interlude = self.native.interlude
        self.accounting.heard_usage = self.gate.heard_usage
        self.flush = PriceFlush(self.shelf, self.accounting.prices, now)
        self.flushing = Periodic("price flush", self.flush.flush, FLUSH_SECONDS, reactor, self.counters)
        parameters = self.accounting.parameters
        parameters.on_change("max_price_age_seconds", self._set_max_price_age)
        parameters.on_change("price_flush_seconds", self._set_flush)
        self.answers = Answers(
            assets=self.assets, shelf=self.shelf, lookup=self.lookup, view=self.pricer, now=now,
            counters=self.counters, simulated=self.simulated,
        )  # fmt: skip
        self.maps = AssetMaps(
            self.accounting.asset_reader(self.assets), self.assets,
            [self.publishing.adopt, self.answers.adopt, self.feeds.adopt, self._workers_adopt], reactor, self.counters,
            lambda: float(self.accounting.parameters.value("application_parameter_interval_minutes")),
        )  # fmt: skip

        self.lag = ReactorLag(reactor, self.counters)
        self.cluster_stats = ClusterStats(
            node=settings.cluster_node, nodes=settings.cluster_nodes,
            shared=None if self.accounting.cache is None else ValkeyClusterStats(self.accounting.cache),
            sources=StatisticsSources(
                counters=self.counters, feeds=self.feeds.status, qualities=self._qualities,
                metering=lambda: self.accounting.writer.status, lag=self.lag, connections=self._connections,
            ),
            clock=reactor,
        )  # fmt: skip
        self.adaptive: NodeList | None = None
        if self.accounting.cache is not None:
            self.adaptive = ValkeyAdaptive(self.accounting.cache)
        elif count > 1:
            self.adaptive = MemoryAdaptive()
        self.governing, self.door = self._with_door(count, life)
        self.lag.listeners.append(self.governing.note_lag)

        behind = Behind(
            gate=self.gate, answers=self.answers, ledger=self.accounting.ledger, feeds=self.feeds.status,
            counters=self.counters, now=now, new_id=new_id,
            idle_seconds=lambda: float(self.accounting.parameters.value("http_idle_timeout_seconds")),
            native=self.native, about=self.about, statistics=self.cluster_stats, door=self.door,
        )  # fmt: skip
        self.surface = Surface(settings, reactor, behind, BoundPorts(reactor, settings.listen))
        self.workers = None if self.memory is None else self._with_workers(count, self.memory, life)
        self.health = Health(
            answers=self.answers, feeds=self.feeds.status, listening=self._listening, now=now,
            node=settings.cluster_node, backing=self._backing, has_prices=self._has("lpo"),
        )  # fmt: skip
        self.metrics = Metrics(
            counters=self.counters, answers=self.answers, feeds=self.feeds.status, now=now, backing=self._backing,
            sources=Sources(
                info=NodeInfo(metadata.version("tbeast"), "no" if found is None else "yes", settings.cluster_node),
                health=self.health, board=self.board, metering=lambda: self.accounting.writer.status,
                spool_limit_bytes=settings.spool_limit_mb * 2**20,
                workers=lambda: {} if self.workers is None else self.workers.processes(),
                memory_limit_bytes=memory_limit(), lag=self.lag,
                governor=self._governor_told(), reports=self._worker_reports,
            ),
        )  # fmt: skip

        self.operating = Operating(
            settings, reactor, now, self.counters,
            About(settings.cluster_node, metadata.version("tbeast"), life, self.simulated, self.about),
            OverviewSources(
                assets=lambda: self.answers.assets, quotes=lambda: self.publishing.last, feeds=self.feeds.status,
                backing=self._backing, listening=self._listening,
                metering=lambda: self.accounting.writer.status,
                waiting=lambda: self.accounting.ledger.requests,
                recorded=lambda: self.counters.value("usage_requests", "settled"),
                governor=self.governing.view, cluster=self.cluster_stats, ready=self.health.ready,
            ),
            accounting=self.accounting, feeds=self.feeds, cluster=self.cluster_stats, governing=self.governing,
            explainer=self.answers,
        )  # fmt: skip

    def _with_door(self, count: int, life: str) -> tuple[ConnectionGovernor, Door]:
        """The door of this process, and who governs it; where there are workers, each has its own."""
        settings, accounting, reactor, now = self.settings, self.accounting, self.reactor, self.now
        processes = count + (count > 1 and self._has("lrs"))  # a hub that serves reports has a share, too
        law = Governor(
            settings.cluster_node, life, now(), self._max_connections(), settings.cluster_nodes * processes,
            shared=self.adaptive is not None,
        )  # fmt: skip
        door = Door(law, reactor, now, self.new_id, self.counters)
        figures = None if self.native is None else self.native.figures
        answered = Answered(accounting.ledger.times, self.counters, figures)
        if count > 1:  # the hub's counters have those of its workers, whose affair they are
            answered = Answered({}, self.counters, services=("lrs",))
        governing = ConnectionGovernor(
            governor=law, life=life, door=door, nodes=self.adaptive, answered=answered, total=self._max_connections,
            clock=reactor, now=now, counters=self.counters,
        )  # fmt: skip
        return governing, door

    def _max_connections(self) -> int:
        """How many connections there may be of all who share the list; SINGLE takes its part of it by itself."""
        total = int(self.accounting.parameters.value("max_connections"))
        # without a shared cache the list of a hub is that of one node
        is_alone = self.accounting.cache is None and self.adaptive is not None
        return total // self.settings.cluster_nodes if is_alone else total

    def _with_workers(self, count: int, memory: int, life: str) -> Workers:
        """Have workers serve, and this process be their hub: none of the nodes that share limits itself."""
        settings, accounting, reactor, now = self.settings, self.accounting, self.reactor, self.now
        accounting.limits = None
        pages = lpo_pages(
            gate=self.gate, answers=self.answers, counters=self.counters, feeds=self.feeds.status, now=now,
            node=settings.cluster_node, about=self.about, statistics=self.cluster_stats,
        )  # fmt: skip
        hub = Hub(
            settings=settings,
            keys=KeyWatch(accounting.keyring),
            assets=self.assets,
            ledger=accounting.ledger,
            counters=self.counters,
            limits=MemoryLeases(now) if accounting.cache is None else ValkeyLeases(accounting.cache),
            relay=AnswerRelay(self.answers, {name: pages[name] for name in RELAYED}, now),
            state=self._state,
            life=life,
            nodes=settings.cluster_nodes * count,
            clock=reactor,
            now=now,
            adaptive=self.adaptive,
        )

        def heard_usage(usage: Mapping[str, tuple[str, int]]) -> None:
            self.gate.heard_usage(usage)
            hub.heard_usage(usage)

        accounting.heard_usage = heard_usage
        # what waits in a worker and what waits here are together no older than what the parameter says
        accounting.parameters.on_change(
            "usage_log_flush_ms", lambda _: accounting.writer.set_round(self._count_seconds())
        )
        accounting.writer.set_round(self._count_seconds())
        environ = {name: text for name, text in os.environ.items() if name not in SETTINGS}
        shared = {SHELF: memory, MACS: make_memory(MACS_BYTES)}
        return Workers(
            hub=hub, count=count, node=settings.cluster_node,
            means=Means(reactor, WORKER_COMMAND, environ, shared, Link),
            ports=WorkerPorts(
                settings.listen, settings.tcp_port_lpo, settings.udp_port_lpo, count, BACKLOG, reactor
            ),
            counters=self.counters, now=now,
        )  # fmt: skip

    def _state(self) -> State:
        parameters = self.accounting.parameters
        return State(
            self.accounting.keyring.is_complete, self.gate.is_shut, self._count_seconds(),
            float(parameters.value("http_idle_timeout_seconds")), self._max_connections(),
        )  # fmt: skip

    def _count_seconds(self) -> float:
        """How long a count waits in a worker at most, and how long in the hub."""
        return float(self.accounting.parameters.value("usage_log_flush_ms")) / 2000.0

    def _workers_adopt(self, assets: AssetMap) -> None:
        if self.workers is not None:
            self.workers.hub.adopt(assets)

    def _has(self, part: str) -> bool:
        return part in SERVER_TYPES[self.settings.server_type]

    def _qualities(self) -> Mapping[str, int]:
        now = self.now()
        return Counter(self.answers.quality_of(code, now) for code in self.answers.assets.assets)

    def _connections(self) -> int:
        """How many connections this node has, its workers' among them as far as they were heard of."""
        return self.door.connections + sum(report.connections for report in self._worker_reports())

    def _worker_reports(self) -> Iterable[Report]:
        """What the governors of our workers have told last."""
        if self.workers is None:
            return []
        return self.workers.hub.governed

    def _governor_told(self) -> GovernorFigures:
        """Whom metrics tell of: where the workers alone have ports, what is heard of theirs."""
        if self.workers is None or self._has("lrs"):
            return self.governing.governor
        return self.workers.hub.overheard

    def _backing(self) -> Sequence[PartStatus]:
        workers = [] if self.workers is None else self.workers.status()
        return [*self.accounting.status(), *workers]

    def _listening(self) -> Mapping[str, bool]:
        return self.surface.listening | ({} if self.workers is None else self.workers.listening())

    def root(self) -> IService:
        """The service whose children are everything, in the order of their start."""
        root = OrderedServices(self.reactor)
        root.setName("tbeast")  # type: ignore[no-untyped-call]
        for child in self._children():
            child.setServiceParent(root)
        return root

    def _children(self) -> Iterable[Any]:
        counters, reactor = self.counters, self.reactor
        parameters = self.accounting.parameters
        yield from self.accounting.services()
        if self._has("lpo"):
            yield from self._prices()
        yield from self.accounting.late_services()
        yield self.lag
        yield self.cluster_stats
        yield Periodic("metering watch", self._watch_metering, METERING_WATCH_SECONDS, reactor, counters)
        if self.workers is None or self._has("lrs"):
            yield self.governing
        if self._has("lpo"):
            yield from self._lpo()
        if self._has("lrs"):
            yield from self._lrs()
        reloads: list[tuple[str, Reload]] = [("parameters", parameters.reload)]
        if self._has("lpo"):
            reloads.append(("asset map", self.maps.reload))
        yield Reloading(reloads, reactor)
        yield Called("memory", settle_memory, release_memory)
        yield Called("banner", self._banner)

    def _prices(self) -> Iterable[Any]:
        """What prices are made of; a node that serves reports alone needs none."""
        reactor, counters = self.reactor, self.counters
        yield self.maps
        if self.simulated:
            yield self._lab()
        yield self.publishing
        yield Periodic("sweep", self.publishing.sweep_slice, 1.0 / SLICES, reactor, counters)
        yield Called("rest", stop=self._stop_rest)
        yield self.feeds
        yield Periodic("fallback", self.fallback.look, 1.0, reactor, counters)
        if self.accounting.cache is not None:
            yield self.flushing

    def _lpo(self) -> Iterable[Any]:
        yield self.surface.health(health_tree(self.health, self.metrics))
        if self.workers is None:
            yield from self.surface.prices()
        else:
            yield self.workers
            yield Rolling(self.workers, self.reactor)

    def _lrs(self) -> Iterable[Any]:
        operating = self.operating
        yield self.surface.health(health_tree(self.health, self.metrics), "lrs health")
        yield from operating.services()
        yield from self.surface.reports(self.accounting.reports, operating.operator, operating.pages)
        yield from operating.late_services()

    def _lab(self) -> IService:
        companion = Companion(
            "lab", (*LAB_COMMAND, "--seed", str(self.settings.lab_seed)), self.reactor, self._lab_is_there
        )

        async def start() -> None:
            self._lab_is_there(await companion.start())

        return Called("lab", start, companion.stop)

    def _lab_is_there(self, announcement: Mapping[str, Any]) -> None:
        for name, exchange in self.exchanges.items():
            address = announcement["exchanges"][name]
            exchange.place(address["ws_url"], address["rest_url"])
        self.log.info("lab: control at {url}", url=announcement["control"])

    def _set_max_price_age(self, seconds: float) -> None:
        self.board.limits = Limits(seconds)

    def _set_flush(self, seconds: float) -> None:
        self.flush.set_every(seconds)
        self.flushing.set_every(seconds)

    def _watch_metering(self) -> None:
        refuses = self.accounting.parameters.value("when_unmetered") == REFUSE
        self.gate.is_shut = refuses and not self.accounting.writer.metered
        if self.workers is not None:
            self.workers.hub.look()

    async def _stop_rest(self) -> None:
        await self.fallback.stop()
        await self.fetcher.close()

    def _banner(self) -> None:
        settings = self.settings
        host = "127.0.0.1" if settings.listen in ("0.0.0.0", "::") else settings.listen
        scheme = "https" if settings.tls_cert else "http"
        if self._has("lrs"):
            self.log.info(
                "reports: {scheme}://{host}:{port}/docs", scheme=scheme, host=host, port=settings.tcp_port_lrs
            )
            if settings.admin_key is not None:
                self.log.info(
                    "the operator's page: {scheme}://{host}:{port}/admin/ui",
                    scheme=scheme, host=host, port=settings.tcp_port_lrs,
                )  # fmt: skip
        if not self._has("lpo"):
            self.log.info("{node} is up, for reports alone", node=settings.cluster_node)
            return
        if self.simulated:
            self.log.warn("SIMULATED: prices come from the exchange lab and are invented; every answer says so")
        self.log.info(
            "{node} is up: {assets} assets on {exchanges} exchanges",
            node=settings.cluster_node, assets=len(self.maps.current.assets), exchanges=len(self.exchanges),
        )  # fmt: skip
        self.log.info("native parts: {native}; workers: {workers}", **self.about)
        if not self.demo_key.key:
            return
        self.log.info("demo key {key} (in {path})", key=self.demo_key.key, path=str(self.demo_key.path))
        self.log.info(
            'try: curl -H "Authorization: Bearer $(cat {path})" "{scheme}://{host}:{port}/price?asset=btc"',
            path=str(self.demo_key.path), scheme=scheme, host=host, port=settings.tcp_port_lpo,
        )  # fmt: skip


def worker_count(settings: Settings) -> int:
    """How many processes are to answer questions; 1: the daemon itself."""
    if "lpo" not in SERVER_TYPES[settings.server_type]:
        return 1
    return cores() if settings.workers == AUTO else int(settings.workers)
