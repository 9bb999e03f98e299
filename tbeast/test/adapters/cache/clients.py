"""Clients of a real server, for tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tbeast.adapters.cache.resp import Limits
from tbeast.adapters.cache.valkey import ValkeyClient
from tbeast.adapters.cache.valkeytarget import target
from tbeast.errors import CacheUnavailableError
from tbeast.testing.logs import LogLines, listen
from tbeast.testing.valkey import Server, shared_server

SHORT = Limits(
    connect_seconds=1.0,
    reply_seconds=0.6,
    slow_seconds=0.2,
    ping_seconds=0.2,
    first_wait_seconds=0.01,
    longest_wait_seconds=0.05,
    settled_seconds=0.3,
)
"""As in production, only sooner: so that a test of faults takes a second and not a minute."""


async def sleep(seconds: float) -> None:
    await deferLater(reactor, seconds)


async def until(true: Callable[[], object]) -> None:
    """Wait for it; the test's own limit ends a wait in vain."""
    while not true():
        await sleep(0.005)


def outcome(asking: Deferred[Any]) -> Deferred[object]:
    """The answer, or the name and message of the only error that there may be."""

    def said(failure: Failure) -> str:
        failure.trap(CacheUnavailableError)
        return f"{type(failure.value).__name__}: {failure.value}"

    return asking.addErrback(said)


class ServerCase(TestCase):
    """One that has clients, all stopped at its end."""

    timeout = 60

    def setUp(self) -> None:
        self.log: LogLines = listen(self)

    def own_server(self, password: str = "") -> Server:
        """A server that the test may treat as it likes; not started."""
        server = Server(password)
        self.addCleanup(server.stop)
        return server

    def client(self, url: str, **limits: Any) -> ValkeyClient:
        """A client, not started."""
        made = ValkeyClient(target(url), reactor, time.time, Random(1).random, evolve(SHORT, **limits))
        self.addCleanup(made.stop)
        return made


class SharedServerCase(ServerCase):
    """One with a client of the server that all tests share, and a way to break their line and to mend it."""

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.server = shared_server()
        self.valkey = self.client(self.server.url, reply_seconds=3.0, slow_seconds=2.0)
        await self.valkey.start()

    async def cut(self) -> None:
        self.server.kill()
        await until(lambda: not self.valkey.status.up)

    async def mend(self) -> None:
        self.server.start()
        await until(lambda: self.valkey.status.up)

    async def settle(self, true: Callable[[], bool]) -> None:
        await until(true)

    async def pass_seconds(self, seconds: int) -> None:
        await sleep(seconds)

    def now(self) -> float:
        return time.time()

    def failures(self) -> int:
        return len(self.flushLoggedErrors(RuntimeError))
