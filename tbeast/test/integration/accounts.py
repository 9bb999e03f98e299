"""Whole daemons with a real database and a real shared cache, and somebody who asks and counts the answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import TestCase

from tbeast.adapters.store import keyrows
from tbeast.adapters.store.postgres import connect, target
from tbeast.domain.keys import key_id_of
from tbeast.test.integration.daemons import Daemon, sleep
from tbeast.testing.postgres import Server, own_server
from tbeast.testing.valkey import Server as ValkeyServer

SECRET = iter(range(1, 10**6))


def made_up_bytes(length: int) -> bytes:
    """So many bytes that no other call gives."""
    return (next(SECRET) << 6).to_bytes(length, "big")


class Asking(DatagramProtocol):
    """Asks over UDP, so many questions a second, and counts the answers.

    @ivar answered: answers without an error.
    @ivar refused: answers with one, by its code.
    """

    def __init__(self, port: int, key: str, rate: float = 300.0) -> None:
        self.answered = 0
        self.refused: dict[str, int] = {}
        self.asked = 0
        self._port = port
        self._key = key
        self._loop = LoopingCall(self._ask)
        self._every = 0.02
        self._rate = rate
        self._due = 0.0
        self._listening: Any = None

    def start(self) -> Asking:
        self._listening = reactor.listenUDP(0, self, interface="127.0.0.1")  # type: ignore[attr-defined]
        self._loop.start(self._every)
        return self

    def startProtocol(self) -> None:
        assert self.transport is not None
        self.transport.connect("127.0.0.1", self._port)

    def _ask(self) -> None:
        self._due += self._rate * self._every
        while self._due >= 1.0:
            self._due -= 1.0
            self.asked += 1
            asset = ("BTC", "ETH", "SOL")[self.asked % 3]
            assert self.transport is not None
            self.transport.write(f"{self._key}|{asset}|{self.asked:040d}".encode(), None)

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        if datagram.startswith(b'{"error":"'):
            code = datagram[10:].split(b'"')[0].decode()
            self.refused[code] = self.refused.get(code, 0) + 1
        else:
            self.answered += 1

    async def stop(self) -> int:
        """Ask no more, hear what is still to come, and give the number of answers without an error."""
        if self._loop.running:
            self._loop.stop()
        heard = -1
        while heard != self.answered + sum(self.refused.values()):
            heard = self.answered + sum(self.refused.values())
            await sleep(0.3)
        if self._listening is not None:
            listening, self._listening = self._listening, None
            await listening.stopListening()
        return self.answered


class AccountsCase(TestCase):
    """Makes daemons, databases and caches, and ends them.

    @ivar database: the database server, for a test to break.
    """

    timeout = 240

    def setUp(self) -> None:
        self.database: Server = own_server(self)

    def valkey(self) -> ValkeyServer:
        """A shared cache of one's own."""
        server = ValkeyServer().start()
        self.addCleanup(server.stop)
        return server

    async def daemon(self, state: str | None = None, **said: object) -> Daemon:
        """A daemon that has started, on the test's database unless C{said} names another; it stops with the test."""
        values: dict[str, object] = {"AURORA_URL": self.database.url(), "SERVER_TYPE": "APP_SERVER", **said}
        daemon = Daemon(state or self.mktemp(), **values)
        stopped: list[bool] = []

        async def stop() -> None:
            if not stopped:
                stopped.append(True)
                await daemon.stop()

        daemon.end = stop  # type: ignore[attr-defined]
        self.addCleanup(lambda: Deferred.fromCoroutine(stop()))
        await daemon.start()
        return daemon

    def sql(self, statement: str, *values: object, database: str = "tbeast") -> list[tuple[Any, ...]]:
        """Ask a database of the server."""
        connection = connect(target(self.database.url(database)))
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                rows = cursor.fetchall() if cursor.description else []
            connection.commit()
            return rows
        finally:
            connection.close()

    def key(self, tier: str = "unlimited", name: str = "test") -> str:
        """Make a key as the command does."""
        connection = connect(target(self.database.url()))
        try:
            text, _ = keyrows.create(connection, tier, name, random_bytes=made_up_bytes)
            connection.commit()
            return text
        finally:
            connection.close()

    def recorded(self, key: str, status: int = 200) -> int:
        """How many requests of a key with that status the database knows."""
        where = "WHERE key_id = %s AND status = %s"
        try:
            return int(self.sql(f"SELECT coalesce(sum(request_count), 0) FROM usage_logs {where}",
                                key_id_of(key), status)[0][0])  # fmt: skip
        except psycopg2.Error:
            return -1

    async def until(self, holds: Callable[[], object], seconds: float, what: str) -> None:
        """Wait until something holds.

        @raise AssertionError: when it does not within so long.
        """
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds:g} s: {what}")
            await sleep(0.05)

    def asking(self, daemon: Daemon, key: str, rate: float = 80.0) -> Asking:
        """Begin to ask a daemon; it ends with the test at the latest."""
        asking = Asking(daemon.settings.udp_port_lpo, key, rate).start()
        self.addCleanup(lambda: Deferred.fromCoroutine(asking.stop()))
        return asking

    async def accepted(self, daemon: Daemon, key: str, seconds: float = 10.0) -> None:
        """Wait until a key is good on a daemon."""
        await self.until(
            lambda: daemon.parts.accounting.keyring.find(key.encode()) is not None, seconds, "the key is known"
        )
