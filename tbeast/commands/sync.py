"""tbeast sync: bring the shared cache in line with the database, now.

It is the job that the daemons do once a day; here it may take the whole machine. On a terminal it shows how far it is,
elsewhere it prints a line now and then. Ctrl-C ends it between two steps; the next one goes on where it was.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import click
from attrs import asdict, evolve
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from tbeast.adapters.store.opening import STATEMENT_SECONDS, open_store, open_target
from tbeast.adapters.store.postgres import Target
from tbeast.commands.asking import UNANSWERED, Ending
from tbeast.commands.storedoor import ending_well, secret_of, settings_of, store_options, tell
from tbeast.domain.syncplan import Held
from tbeast.errors import CacheUnavailableError
from tbeast.services.sync import Progress, Summary, Sync, SyncLostError
from tbeast.settings import Settings

CHUNK_ROWS: Final = 10_000
SLICE_ROWS: Final = 2_000
AGAIN_SECONDS: Final = 2.0
LINE_SECONDS: Final = 10.0

Told = Callable[[Progress], object]


class NotDone(Ending):
    """It could not be done now."""

    exit_code = UNANSWERED


@click.command("sync")
@click.option("--full", is_flag=True, help="Build the copy of usage anew, whatever state it is in.")
@click.option("--wait", default=60, show_default=True, metavar="SECONDS", help="How long to wait for another node.")
@click.option("--json", "json_wanted", is_flag=True, help="Print what was done as JSON on one line.")
@store_options
def command(full: bool, wait: int, json_wanted: bool, config: str | None, state: str | None) -> None:
    """Rebuild the shared cache from the database.

    Copies keys, parameters, usage and reports to Valkey, removes what is older than 93 days there and in the database,
    and begins the month anew where that is due. Without CACHE_URL the database's part alone is done. Exit status: 0 if
    it was done; 1 if the settings are at fault; 2 for misuse; 3 if it could not be done now: the next one goes on.
    """
    with ending_well():
        settings = settings_of(config, state)
        if settings.cache_url is None:
            click.echo("There is no shared cache (CACHE_URL): the database's part alone is done.", err=True)
        secret = secret_of(settings)
        with open_target(settings, secret, tell) as target:
            with open_store(settings, secret):
                pass  # the schema is as it should be now
            limited = evolve(target, statement_seconds=STATEMENT_SECONDS)
            try:
                done = _shown(settings, limited, full, wait)
            except (CacheUnavailableError, SyncLostError) as error:
                raise NotDone(str(error)) from None
    if isinstance(done, Held):
        raise NotDone(f"{done.node} does it just now")
    click.echo(json.dumps(asdict(done)) if json_wanted else f"sync: {done.in_words()}")


def _shown(settings: Settings, target: Target, full: bool, wait: int) -> Summary | Held:
    """Do it, and show on standard error how far it is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return _done(settings, target, full, wait, _Lines())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        shown: dict[str, TaskID] = {}

        def told(progress: Progress) -> None:
            if progress.step not in shown:
                for task in shown.values():
                    bars.remove_task(task)
                shown.clear()
                shown[progress.step] = bars.add_task(progress.step, total=None)
            bars.update(shown[progress.step], completed=progress.done, total=progress.of or None)

        return _done(settings, target, full, wait, told)


class _Lines:
    """Tells each step once, and a long one every few seconds."""

    def __init__(self) -> None:
        self._step = ""
        self._told_at = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.step == self._step and now - self._told_at < LINE_SECONDS:
            return
        self._step, self._told_at = progress.step, now
        of = f" of about {progress.of:,}" if progress.of else ""
        click.echo(progress.step + (f": {progress.done:,}{of}" if progress.done else ""), err=True)


def _done(settings: Settings, target: Target, full: bool, wait: int, told: Told) -> Summary | Held:
    """Run a reactor for as long as the job lasts."""
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred, ensureDeferred
    from twisted.python.failure import Failure

    loop: Any = reactor
    outcome: list[Summary | Held | Failure] = []
    job = _Job(settings, target, loop)

    def begin() -> None:
        ended = ensureDeferred(job.run(full, wait, told)).addBoth(outcome.append)

        def interrupted() -> Deferred[None]:
            job.stop()
            return ended

        trigger = loop.addSystemEventTrigger("before", "shutdown", interrupted)

        def finish(_: None) -> None:
            if not job.stopped:
                loop.removeSystemEventTrigger(trigger)
                loop.stop()

        ended.addCallback(finish)

    loop.callWhenRunning(begin)
    loop.run()
    (found,) = outcome
    if isinstance(found, Failure):
        found.raiseException()
        raise AssertionError
    return found


class _Job:
    """The job with all that it needs, in one process.

    @ivar stopped: whether it was told to end.
    """

    def __init__(self, settings: Settings, target: Target, reactor: Any) -> None:
        # here, and not above: the driver of the cache installs a reactor when it is loaded
        from tbeast.adapters.cache.counters import ValkeyUsageCounters
        from tbeast.adapters.cache.keycopies import ValkeyKeyCopies
        from tbeast.adapters.cache.rebuilding import ValkeyParameterCopies, ValkeyRebuilding
        from tbeast.adapters.cache.valkey import ValkeyClient
        from tbeast.adapters.cache.valkeytarget import target as cache_target
        from tbeast.adapters.cache.valkeytarget import trust_root
        from tbeast.adapters.store.keyrows import PostgresKeys
        from tbeast.adapters.store.parameterrows import PostgresParameters
        from tbeast.adapters.store.syncrows import PostgresSync
        from tbeast.adapters.store.threads import StorePool
        from tbeast.services.sync import CacheSide

        self._reactor = reactor
        self._pool = StorePool(target, reactor, 2, work_seconds=STATEMENT_SECONDS)
        self._cache: ValkeyClient | None = None
        side = None
        if settings.cache_url is not None:
            trusted = trust_root(Path(settings.cache_ca).read_bytes()) if settings.cache_ca else None
            client = self._cache = ValkeyClient(
                cache_target(settings.cache_url), reactor, time.time, Random().random, trust_root=trusted
            )
            side = CacheSide(
                ValkeyRebuilding(client, SLICE_ROWS), ValkeyKeyCopies(client), ValkeyUsageCounters(client),
                ValkeyParameterCopies(client),
            )  # fmt: skip
        self._sync = Sync(
            PostgresSync(self._pool), PostgresKeys(self._pool, secrets.token_bytes), PostgresParameters(self._pool),
            side, reactor, f"{settings.cluster_node} (tbeast sync)", lambda: secrets.token_hex(16), CHUNK_ROWS,
        )  # fmt: skip
        self.stopped = False

    def stop(self) -> None:
        """End it at its next step."""
        self.stopped = True
        self._sync.stop()

    async def run(self, full: bool, wait: int, told: Told) -> Summary | Held:
        """Do it; see L{Sync.run}."""
        from twisted.internet.task import deferLater

        self._pool.start()
        try:
            if self._cache is not None:
                await self._cache.start()
            until = self._reactor.seconds() + wait
            while True:
                done = await self._sync.run(full, None, told)
                if not isinstance(done, Held) or self.stopped or self._reactor.seconds() >= until:
                    return done
                told(Progress(f"waiting for {done.node}, which does it just now"))
                await deferLater(self._reactor, AGAIN_SECONDS)
        finally:
            if self._cache is not None:
                await self._cache.stop()
            await self._pool.stop()
