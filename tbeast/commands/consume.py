"""tbeast consume-usage: empties the usage queue into the database, and does nothing else."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import click
from twisted.logger import (
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.python.failure import Failure

from tbeast.adapters.cloud.sqs import QueueAddress, SqsQueue, queue_address
from tbeast.adapters.cloud.threads import CallThreads
from tbeast.adapters.store.opening import open_store, open_target
from tbeast.adapters.store.postgres import Credentials, Target
from tbeast.adapters.store.threads import StorePool
from tbeast.adapters.store.usagerows import PostgresUsage
from tbeast.commands.storedoor import ending_well, secret_of, settings_of, store_options, tell
from tbeast.domain.counters import Counters
from tbeast.errors import StoreUnavailableError
from tbeast.services.lifecycle import Called, OrderedServices
from tbeast.services.periodic import Periodic
from tbeast.services.usagequeue import OUTCOMES, UsageQueueReader
from tbeast.settings import Settings

REPORT_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 2.0
CONNECTIONS: Final = 2
"""One write is under way at a time; the other is there for when the first has broken."""

_log = Logger()


@click.command("consume-usage")
@store_options
def command(config: str | None, state: str | None) -> None:
    """Write the usage that arrives on the queue SQS_USAGE_LOG_QUEUE_URL to the database, until ended.

    Any number of these may run at once: what arrives twice, or at two of them, counts once. While the database is away
    the usage stays on the queue. Logs go to standard error. Exit status: 0 after SIGINT or SIGTERM; 1 if it cannot
    start.
    """
    with ending_well():
        settings = settings_of(config, state)
        if settings.sqs_usage_log_queue_url is None:
            raise click.ClickException("there is no queue to read: set SQS_USAGE_LOG_QUEUE_URL")
        address = queue_address(settings.sqs_usage_log_queue_url, settings.aws_region)
        secret = secret_of(settings)
        with open_target(settings, secret, tell) as target:
            _await_schema(settings, secret)
            started = _run(target, address)
    raise SystemExit(0 if started else 1)


def build(target: Target, address: QueueAddress, reactor: Any, count: Counter[str]) -> OrderedServices:
    """The services, in the order of their start.

    @param count: counts what becomes of the messages.
    """

    def counted(outcome: str, /, *, by: int = 1) -> None:
        count[outcome] += by

    pool = StorePool(target, reactor, CONNECTIONS)
    threads = CallThreads("usage-queue", reactor)
    reader = UsageQueueReader(
        SqsQueue(address, threads), PostgresUsage(pool), reactor, random.SystemRandom().random, counted
    )
    root = OrderedServices(reactor)
    for service in (
        Called("store", pool.start, pool.stop),
        Called("queue calls", stop=threads.stop),
        reader,
        Periodic("report", Report(count), REPORT_SECONDS, reactor, Counters()),
    ):
        service.setServiceParent(root)  # type: ignore[no-untyped-call]
    return root


class Report:
    """Tells in the log what became of messages since it last told."""

    def __init__(self, count: Counter[str]) -> None:
        self._count = count
        self._told: Counter[str] = Counter()

    def __call__(self) -> None:
        """Tell it, if there is anything to tell."""
        new = self._count - self._told
        self._told = self._count.copy()
        if new:
            _log.info(
                "messages: {words}",
                words=", ".join(f"{new[outcome]} {outcome}" for outcome in OUTCOMES if new[outcome]),
            )


def _await_schema(settings: Settings, secret: Callable[[], Credentials] | None) -> None:
    """Wait until the database is there and has its schema.

    @raise StoreError: when that will not come to be by waiting.
    """
    told = False
    while True:
        try:
            with open_store(settings, secret, tell):
                return
        except StoreUnavailableError as error:
            if not told:
                tell(f"the database is away; waiting for it: {error}")
                told = True
            time.sleep(RETRY_SECONDS)


def _run(target: Target, address: QueueAddress) -> bool:
    """Run until a signal comes; whether it had started."""
    from twisted.internet import reactor

    told = FilteringLogObserver(textFileLogObserver(sys.stderr), [LogLevelFilterPredicate(LogLevel.info)])
    globalLogBeginner.beginLoggingTo([told], redirectStandardIO=False)
    count: Counter[str] = Counter()
    root = build(target, address, reactor, count)
    faults: list[Failure] = []

    def failed(failure: Failure) -> None:
        faults.append(failure)
        _log.failure("the usage queue cannot be read", failure)
        reactor.stop()

    reactor.callWhenRunning(lambda: root.startService().addErrback(failed))
    reactor.addSystemEventTrigger("before", "shutdown", root.stopService)
    _log.info("reading the usage queue {url} into {database}", url=address.url, database=target.where)
    reactor.run()
    Report(count)()
    return not faults
