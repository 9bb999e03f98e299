"""Clients of a whole daemon that take their time: they are ended, counted, and nobody else is kept waiting."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from tbeast.adapters.store import parameterrows
from tbeast.adapters.store.migrations import migrate
from tbeast.adapters.store.postgres import connect, target
from tbeast.servers.site import IDLE, SLOW_HEAD, SLOW_READ
from tbeast.test.integration.accounts import AccountsCase

DEADLINE_SECONDS = 5
SECONDS = 30.0


class Client(Protocol):
    """Says one thing after the other, and reads or does not.

    @ivar heard: what it has read.
    @ivar ended: fires when the connection is over.
    """

    def __init__(self, reads: bool = True) -> None:
        self.heard = b""
        self.ended: Deferred[None] = Deferred()
        self.is_over = False
        self._reads = reads
        self._loop: LoopingCall | None = None

    def connectionMade(self) -> None:
        if not self._reads:
            self.transport.pauseProducing()  # type: ignore[union-attr]

    def say(self, text: bytes, again_seconds: float | None = None) -> None:
        """Say it, and say it again and again."""
        if again_seconds is None:
            self.transport.write(text)  # type: ignore[union-attr]
            return
        self._loop = LoopingCall(self.say, text)
        self._loop.start(again_seconds)

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_over = True
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        self.ended.callback(None)


class SlowClientsTests(AccountsCase):
    async def client(self, port: int, reads: bool = True) -> Client:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        client: Client = await connectProtocol(endpoint, Client(reads))
        self.addCleanup(self.gone, client)
        return client

    def gone(self, client: Client) -> Deferred[None] | None:
        if client.is_over:
            return None
        client.transport.abortConnection()  # type: ignore[union-attr]
        return client.ended

    async def test_slow_clients(self) -> None:
        """Idle, head in drips, body in drips, nothing read: all at a time, and somebody is served all the while."""
        connection = connect(target(self.database.url()))
        migrate(connection)
        parameterrows.set_values(connection, {"http_idle_timeout_seconds": DEADLINE_SECONDS})
        connection.commit()
        connection.close()
        key, other = self.key(), self.key("partner")
        daemon = await self.daemon()
        await self.accepted(daemon, key)
        await self.accepted(daemon, other)
        await daemon.until(lambda: "BTC" in daemon.quotes(), SECONDS, "there is a price")
        port = daemon.settings.tcp_port_lpo
        question = f"GET /price?asset=BTC HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n\r\n".encode()

        idle = [await self.client(port) for _ in range(4)]
        idle[0].say(question)
        heads = [await self.client(port) for _ in range(3)]
        for client in heads:
            client.say(b"G", 0.5)
        bodies = [await self.client(port) for _ in range(2)]
        for client in bodies:
            client.say(b"POST /price HTTP/1.1\r\nHost: h\r\nContent-Length: 16000\r\n\r\n")
            client.say(b"x", 0.5)
        deaf = [await self.client(port, reads=False) for _ in range(2)]
        for client in deaf:
            client.say(question * 100, 0.02)

        served = await self.client(port)
        served.say(question.replace(key.encode(), other.encode()), 0.5)
        slow = {IDLE: len(idle), SLOW_HEAD: len(heads) + len(bodies), SLOW_READ: len(deaf)}
        for reason, count in slow.items():
            await self.until(
                lambda reason=reason, count=count: daemon.count("slow_clients", "lpo", reason) == count,  # type: ignore[misc]
                SECONDS, f"{count} are ended as {reason}",
            )  # fmt: skip
        for client in (*idle, *heads, *bodies):
            await client.ended
        self.assertIn(b"200 OK", idle[0].heard)
        self.assertEqual({b""}, {client.heard for client in (*idle[1:], *heads, *bodies)})
        self.assertFalse(served.is_over)
        self.assertEqual(
            {b"200"}, {line[9:12] for line in served.heard.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")}
        )
        self.assertGreater(served.heard.count(b"HTTP/1.1 200 OK"), DEADLINE_SECONDS)
