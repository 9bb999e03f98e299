"""What stands behind the surface, tied together: database, shared cache, keys, limits, usage, parameters.

Start, in this order: the embedded database (where it is ours), the pool and the schema, the shared cache, the
parameters, the keys and the demo key, the usage writer, the limits. None of it waits for long for what is away; only
what can never work ends the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from os import urandom
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger

from tbeast.adapters.cache.counters import ValkeyUsageCounters
from tbeast.adapters.cache.keycopies import ValkeyKeyCopies
from tbeast.adapters.cache.keyevents import ValkeyKeyEvents
from tbeast.adapters.cache.leases import ValkeyLeases
from tbeast.adapters.cache.memory import MemoryPriceCache
from tbeast.adapters.cache.memorykeys import MemoryUsageCounters
from tbeast.adapters.cache.rebuilding import ValkeyParameterCopies, ValkeyRebuilding
from tbeast.adapters.cache.reportcopy import ValkeyReports
from tbeast.adapters.cache.valkey import Limits, ValkeyClient
from tbeast.adapters.cache.valkeyprices import ValkeyPriceCache
from tbeast.adapters.cache.valkeytarget import target as cache_target
from tbeast.adapters.cache.valkeytarget import trust_root
from tbeast.adapters.cloud.secrets import fetch
from tbeast.adapters.cloud.sqs import SqsQueue, SqsUsageStore, queue_address
from tbeast.adapters.cloud.threads import CallThreads
from tbeast.adapters.spool.journal import Journal
from tbeast.adapters.spool.notes import Notes
from tbeast.adapters.store import embedded
from tbeast.adapters.store.admindesk import PostgresKeyDesk, PostgresParameterDesk
from tbeast.adapters.store.assetrows import PostgresAssets
from tbeast.adapters.store.keyrows import PostgresKeys
from tbeast.adapters.store.migrations import check, migrate
from tbeast.adapters.store.opening import store_target
from tbeast.adapters.store.parameterrows import PostgresParameters
from tbeast.adapters.store.postgres import Connection, Credentials, target
from tbeast.adapters.store.reportlog import PostgresReportLog
from tbeast.adapters.store.reportrows import PostgresReports
from tbeast.adapters.store.syncrows import PostgresSync
from tbeast.adapters.store.threads import StorePool
from tbeast.adapters.store.usagerows import PostgresUsage
from tbeast.domain import latencies
from tbeast.domain.admission import OpenStanding, Standing
from tbeast.domain.assetmap import AssetMap
from tbeast.domain.backing import PartStatus
from tbeast.domain.counters import Counters
from tbeast.domain.keys import account_of
from tbeast.domain.parameters import defaults
from tbeast.domain.usage import OK, UNMETERED, Ledger
from tbeast.errors import MigrationError, StoreError
from tbeast.interfaces import Chance, Now, PriceCache, UsageCounters, UsageStore
from tbeast.services.companion import Companion
from tbeast.services.keydesk import KeyDesk
from tbeast.services.keyrefresh import NOTHING, KeyRefresh
from tbeast.services.keyring import DemoKeyService, Keyring
from tbeast.services.lifecycle import Called
from tbeast.services.limits import ClusterLimits
from tbeast.services.nightlysync import NightlySync
from tbeast.services.parameterdesk import ParameterDesk
from tbeast.services.parameters import Parameters
from tbeast.services.reportreading import ReportReading
from tbeast.services.reports import Reports
from tbeast.services.schema import Schema
from tbeast.services.sync import CacheSide, Sync
from tbeast.services.syncdesk import SyncDesk
from tbeast.services.usagewriter import UsageWriter
from tbeast.settings import NEVER, REFUSE, Settings

CACHE_LIMITS = Limits(longest_wait_seconds=1.0)
"""Nodes that lost the shared cache together shall find it again within about a second of one another, for that is what
the promise of L{tbeast.domain.leases} asks."""
REPORT_CONNECTIONS = 4
"""A pool of their own keeps reports from holding up what is to be recorded."""
MIGRATION_SECONDS = 600.0
"""A migration may rewrite a table; nothing else in the daemon may take so long."""


class EmbeddedDatabase(Service):
    """The PostgreSQL that we bring along, as a child process.

    @param found: told where it is, each time that it has started.
    """

    name = "embedded database"

    def __init__(self, state: str, reactor: Any, found: Callable[[Mapping[str, Any]], None]) -> None:
        self._state = state
        self._reactor = reactor
        self._found = found
        self._companion: Companion | None = None

    async def startService(self) -> None:
        """Start it; the first start makes its data.

        @raise tbeast.errors.StoreError: when there is no PostgreSQL to start.
        """
        super().startService()  # type: ignore[no-untyped-call]
        embedded.binaries()
        self._companion = Companion("database", embedded.command(self._state), self._reactor, self._found)
        self._found(await self._companion.start())

    async def stopService(self) -> None:
        """Stop it in good order."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._companion is not None:
            await self._companion.stop()


class Accounting:
    """The parts behind one daemon's surface.

    @ivar ledger: where the servers record.
    @ivar keyring: the keys.
    @ivar reports: makes reports of what was recorded.
    @ivar open_standing: what the gate opens standings with.
    @ivar prices: the cache of prices.
    @ivar heard_usage: to be set to whoever wants to know what keys have used on all nodes.
    """

    log = Logger()

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        now: Now,
        random: Chance,
        counters: Counters,
        life: str,
        random_bytes: Callable[[int], bytes] = urandom,
    ) -> None:
        """Tie them together.

        @param life: names this process among all that bear the node's name.
        @raise StoreError: when the settings name no database that could be one.
        @raise SettingsError: the same of the shared cache.
        """
        self.settings = settings
        self.reactor = reactor
        self.now = now
        self.counters = counters
        self.heard_usage: Callable[[Mapping[str, tuple[str, int]]], None] = lambda usage: None

        where = store_target(settings, self._secret())
        self.is_embedded = where is None
        self.pool = StorePool(where or target(embedded.url(embedded.folder_of(settings.state))), reactor)
        self.schema = Schema(self._bring_up, reactor, counters)

        self.cache: ValkeyClient | None = None
        self.prices: PriceCache = MemoryPriceCache(now)
        self.open_standing: OpenStanding = Standing
        self.limits: ClusterLimits | None = None
        usage_counters: UsageCounters = MemoryUsageCounters(now)
        copies = events = parameter_copies = cache_side = None
        if settings.cache_url is not None:
            trusted = trust_root(Path(settings.cache_ca).read_bytes()) if settings.cache_ca else None
            self.cache = ValkeyClient(
                cache_target(settings.cache_url), reactor, now, random, CACHE_LIMITS, trusted, counters
            )
            self.prices = ValkeyPriceCache(self.cache)
            copies, events = ValkeyKeyCopies(self.cache), ValkeyKeyEvents(self.cache)
            parameter_copies = ValkeyParameterCopies(self.cache)
            usage_counters = ValkeyUsageCounters(self.cache)
            cache_side = CacheSide(ValkeyRebuilding(self.cache), copies, usage_counters, parameter_copies)
            self.limits = ClusterLimits(
                ValkeyLeases(self.cache), settings.cluster_node, life, settings.cluster_nodes, reactor, now, counters
            )
            self.open_standing = self.limits.open_standing

        given = {"max_price_age_seconds": settings.max_price_age_seconds, "when_unmetered": settings.when_unmetered}
        self.parameters = Parameters(PostgresParameters(self.pool), parameter_copies, reactor, counters, given)
        self.keyring = Keyring(account_of(key.key, key.tier, key.name) for key in settings.keys)
        keys = PostgresKeys(self.pool, random_bytes)
        self.key_refresh = KeyRefresh(
            self.keyring, keys, reactor, now, random, counters, copies, events, lambda usage: self.heard_usage(usage)
        )
        self.key_desk = KeyDesk(PostgresKeyDesk(self.pool, random_bytes), self.key_refresh, self.keyring, copies, now)
        self.parameter_desk = ParameterDesk(PostgresParameterDesk(self.pool), self.parameters, defaults(given))
        self.demo_key = DemoKeyService(
            self.keyring, Path(settings.state), random_bytes, keys, now, wanted=self.is_embedded
        )
        self.ledger = Ledger()
        latencies.bring(self.ledger.times, counters)
        self.threads = CallThreads("tbeast-calls", reactor)
        self.writer = UsageWriter(
            ledger=self.ledger,
            journal=Journal(Path(settings.state) / "spool", settings.spool_limit_mb * 2**20, counters),
            store=self._usage_store(random),
            usage_counters=usage_counters,
            heard_usage=lambda usage: self.heard_usage(usage),
            counters=counters,
            node=settings.cluster_node,
            clock=reactor,
            now=now,
            chance=random,
            random_bytes=random_bytes,
            in_thread=self.threads.run,
            notes=Notes(Path(settings.state) / "spool"),
        )
        self.parameters.on_change("usage_log_flush_ms", lambda ms: self.writer.set_round(ms / 1000.0))
        self.parameters.on_change("usage_log_batch_rows", self.writer.set_batch_rows)
        self.sync = Sync(
            PostgresSync(self.pool), keys, PostgresParameters(self.pool), cache_side, reactor, settings.cluster_node,
            lambda: random_bytes(16).hex(),
        )  # fmt: skip
        self.sync_desk = SyncDesk(self.sync, settings.cluster_node, now, counters)
        self.report_pool = StorePool(self.pool.target, reactor, REPORT_CONNECTIONS)
        rows = PostgresReports(self.report_pool)
        self.reports = Reports(
            reading=ReportReading(rows, None if self.cache is None else ValkeyReports(self.cache)),
            store=rows,
            report_log=PostgresReportLog(self.report_pool, settings.cluster_node),
            clock=reactor,
            now=now,
            random_bytes=random_bytes,
        )

    def _usage_store(self, random: Chance) -> UsageStore:
        url = self.settings.sqs_usage_log_queue_url
        if url is None:
            return PostgresUsage(self.pool)
        address = queue_address(url, self.settings.aws_region)
        return SqsUsageStore(SqsQueue(address, self.threads), self.threads, self.reactor, random)

    def asset_reader(self, package: AssetMap) -> SeededAssets:
        """Where the asset map is read; C{package} is what it begins as."""
        return SeededAssets(PostgresAssets(self.pool), package)

    def services(self) -> Iterable[Any]:
        """Every part that starts and stops, in the order of its start."""
        if self.is_embedded:
            yield EmbeddedDatabase(self.settings.state, self.reactor, self._database_found)
        yield Called("database pool", self.pool.start, self.pool.stop)
        yield Called("report pool", self.report_pool.start, self.report_pool.stop)
        yield self.schema
        if self.cache is not None:
            yield Called("shared cache", self.cache.start, self.cache.stop)
        yield self.parameters
        yield self.key_refresh
        yield self.demo_key
        yield Called("calls", stop=self.threads.stop)
        yield self.writer
        if self.limits is not None:
            yield self.limits

    def late_services(self) -> Iterable[Any]:
        """The parts that start when the prices flow."""
        yield self.sync_desk
        yield NightlySync(
            self.sync, lambda: int(self.parameters.value("sync_hour_utc")), self.reactor, self.now, self.counters
        )

    def status(self) -> Sequence[PartStatus]:
        """How each part is doing; see L{tbeast.domain.backing}."""
        return list(self._status())

    def _status(self) -> Iterable[PartStatus]:
        now, seconds = self.now(), self.reactor.seconds()
        pool = self.pool.status
        why = pool.why or self.schema.why
        state = "away" if not pool.up else "up" if self.schema.is_good else "schema"
        yield PartStatus("database", state, why, now - (seconds - pool.since))
        if self.cache is not None:
            cache = self.cache.status
            yield PartStatus("cache", "up" if cache.up else "away", cache.why, cache.since)
        keys = self.key_refresh.status
        is_loaded = keys.source != NOTHING
        why = keys.why if is_loaded else f"the keys have not been loaded: {keys.why or 'not asked yet'}"
        yield PartStatus("keys", keys.source if is_loaded else "loading", why, keys.since, blocks=not is_loaded)
        usage = self.writer.status
        why = "; ".join(
            text
            for text in (
                f"{usage.spooled_batches} batches wait in the journal" if usage.state != OK else "",
                usage.store_error,
                f"journal: {usage.journal_error}" if usage.journal_error else "",
            )
            if text
        )
        is_shut = usage.state == UNMETERED and self.parameters.value("when_unmetered") == REFUSE
        figures = {
            "waiting_rows": usage.waiting_rows,
            "spooled_batches": usage.spooled_batches,
            "spooled_bytes": usage.spooled_bytes,
        }
        yield PartStatus("usage", usage.state, why, usage.since, is_shut, figures)
        if self.limits is not None:
            limits = self.limits.status
            state = "shared" if limits.shared else "alone"
            why = "" if limits.shared else f"each of {limits.nodes} nodes admits its share"
            yield PartStatus("limits", state, why, limits.since)

    def _secret(self) -> Callable[[], Credentials] | None:
        """What asks for the database's credentials; C{None}: the settings name no secret."""
        name = self.settings.db_secret_name
        if name is None:
            return None
        return partial(fetch, name, self.settings.aws_region, self.settings.aurora_url)

    async def _bring_up(self) -> Sequence[str]:
        return await self.pool.run(look_at_schema if self.settings.migrate == NEVER else migrate, MIGRATION_SECONDS)

    def _database_found(self, announcement: Mapping[str, Any]) -> None:
        self.pool.target = self.report_pool.target = embedded.target_of(announcement)


class SeededAssets:
    """The asset map in the database, which begins as the one of the package.

    @param package: what is written into the tables while they are empty.
    """

    def __init__(self, rows: PostgresAssets, package: AssetMap) -> None:
        self._rows = rows
        self._package = package

    async def read(self) -> AssetMap:
        """See L{tbeast.services.assetmaps.AssetReader.read}."""
        with suppress(StoreError):  # a database that cannot be written may still be read
            await self._rows.seed(self._package)
        return await self._rows.read()


def look_at_schema(connection: Connection) -> Sequence[str]:
    """Change nothing.

    @raise MigrationError: when the schema is not as it must be.
    """
    problem = check(connection)
    if problem:
        raise MigrationError(problem)
    return ()
