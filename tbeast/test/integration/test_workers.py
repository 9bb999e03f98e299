"""A hub and two workers: they answer as one, and whoever of them ends, the others serve and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.signatures import mac_of
from tbeast.domain.keys import datagram_secret_of, key_id_of
from tbeast.domain.plans import PLANS
from tbeast.test.integration.accounts import AccountsCase, Asking
from tbeast.test.integration.crashes import lab, start, whole_answers
from tbeast.test.integration.daemons import Daemon, sleep
from tbeast.testing.logs import listen
from tbeast.testing.postgres import own_server

LOST_AT_MOST_MS = 400.0
"""Counts leave a worker every 50 ms; on a machine that has no time for it, later."""

real_reactor: Any = reactor


class Client(Protocol):
    """One connection that asks anew with each answer, and comes back when it was told that the answer was the last one.

    @ivar came: when each answer came.
    @ivar statuses: how many answers there were of each status.
    @ivar broken: how often it was ended while it waited for an answer, or refused.
    @ivar pause: how long it waits between answer and question, in seconds.
    """

    def __init__(self, port: int, key: str, pause: float = 0.0) -> None:
        self.came: list[float] = []
        self.statuses: dict[int, int] = {}
        self.broken = 0
        self.closed = 0
        self.pause = pause
        self._port = port
        self._question = f"GET /price?asset=BTC HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n".encode()
        self._data = b""
        self._waits = self._is_last = self._is_over = False
        self._gone: Deferred[None] | None = None
        self._next: Any = None

    def connect(self) -> Client:
        real_reactor.connectTCP("127.0.0.1", self._port, _Again(self))
        return self

    def connectionMade(self) -> None:
        self._data, self._is_last = b"", False
        self._ask()

    def _ask(self) -> None:
        if self._is_over:
            self.transport.loseConnection()  # type: ignore[union-attr]
        elif self.connected:
            self._waits = True
            self.transport.write(self._question)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        count, rest = whole_answers(self._data)
        if not count:
            return
        assert count == 1 and not rest
        head, self._data = self._data.partition(b"\r\n\r\n")[0].lower(), b""
        self._is_last = b"connection: close" in head
        self._waits = False
        status = int(head.split()[1])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.came.append(time.monotonic())
        if not self._is_last:
            self._next = real_reactor.callLater(self.pause, self._ask)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected = 0
        if self._next is not None and self._next.active():
            self._next.cancel()
        self.broken += self._waits
        self.closed += self._is_last
        self._waits = False
        if self._is_over:
            if self._gone is not None:
                self._gone.callback(None)
        else:
            self.connect()

    async def stop(self) -> None:
        """Ask no more, and wait for what was asked."""
        self._is_over = True
        if self.connected:
            self._gone = Deferred()
            if not self._waits:
                self.transport.loseConnection()  # type: ignore[union-attr]
            await self._gone


class _Again(Factory):
    noisy = False

    def __init__(self, client: Client) -> None:
        self.client = client

    def buildProtocol(self, addr: object) -> Client:
        return self.client

    def startedConnecting(self, connector: object) -> None:
        """As of a client factory, as is the next."""

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self.client.broken += 1
        real_reactor.callLater(0.05, self.client.connect)

    def clientConnectionLost(self, connector: object, reason: Failure) -> None:
        reason.trap(ConnectionDone, Exception)


class WorkersCase(AccountsCase):
    async def two(self) -> Daemon:
        """A daemon with two workers, and a key that has no limits."""
        self.key_text = self.key("partner")
        daemon = await self.daemon(TBEAST_WORKERS="2")
        await self.accepted(daemon, self.key_text)
        return daemon

    def clients(self, daemon: Daemon, count: int, pause: float = 0.0) -> list[Client]:
        clients = [Client(daemon.settings.tcp_port_lpo, self.key_text, pause).connect() for _ in range(count)]
        self.addCleanup(self.stopped, clients)
        return clients

    async def stopped(self, clients: list[Client]) -> int:
        """Have them stop; how many answers they had."""
        for client in clients:
            if not client._is_over:
                await client.stop()
        return sum(len(client.came) for client in clients)

    def pids(self, daemon: Daemon) -> list[int]:
        assert daemon.parts.workers is not None
        return daemon.parts.workers.pids()

    def serving(self, daemon: Daemon) -> int:
        assert daemon.parts.workers is not None
        return daemon.parts.workers.serving

    async def all_recorded(self, answered: int) -> None:
        await self.until(lambda: self.recorded(self.key_text) >= answered, 20, f"{answered} answers are recorded")
        self.assertEqual(answered, self.recorded(self.key_text))


class WorkersTests(WorkersCase):
    async def test_as_one(self) -> None:
        """Over HTTP and UDP; the parts are named, and counts and rows add up whoever has answered."""
        daemon = await self.two()
        self.assertEqual(2, len(set(self.pids(daemon)) - {os.getpid()}))
        clients = self.clients(daemon, 8, 0.01)
        asking = [Asking(daemon.settings.udp_port_lpo, self.key_text, 50).start() for _ in range(4)]
        await sleep(2.0)
        answered = await self.stopped(clients)
        datagrams = sum([await each.stop() for each in asking])
        self.assertEqual([], [each.refused for each in asking if each.refused])
        self.assertEqual({200}, {status for client in clients for status in client.statuses})
        for path, status in (
            ("/price?asset=BTC&exchange=kraken", 200), ("/explain/BTC", 200), ("/prices?assets=BTC,NOPE", 200),
            ("/price?asset=NOPE", 404), ("/stats", 200),
        ):  # fmt: skip
            found, body = await daemon.get(path, self.key_text)
            self.assertEqual(status, found, body)
            if status == 200:
                self.assertIs(True, body["simulated"])
        self.assertEqual(401, (await daemon.get("/explain/BTC", "tb_nobody"))[0])
        await self.all_recorded(answered + datagrams + 4)
        self.assertEqual(answered + 4, daemon.count("requests", "lpo", "http", "200"))
        self.assertEqual(datagrams, daemon.count("requests", "lpo", "udp", "200"))
        _, stats = await daemon.get("/stats", self.key_text)
        counted = {(each["protocol"], each["status"]): each["count"] for each in stats["counters"]["requests"]
                   if each["service"] == "lpo"}  # fmt: skip
        self.assertEqual((datagrams, 1), (counted["udp", "200"], counted["http", "404"]))
        status, ready = await daemon.ready()
        self.assertEqual(200, status)
        self.assertEqual({"health": True, "lpo": True, "udp": True}, ready["listeners"])
        part = next(part for part in ready["backing"] if part["part"] == "workers")
        self.assertEqual(("up", 2, 2), (part["state"], part["wanted"], part["serving"]))
        _, _, metrics = await daemon.fetcher.fetch(
            f"http://127.0.0.1:{daemon.settings.health_port_lpo}/metrics", {}
        )  # fmt: skip
        self.assertIn(b"tbeast_workers_serving 2.0", metrics)

    async def test_a_worker_killed_under_load(self) -> None:
        """Connections of the other one live on, another one takes the place, and only the last moment is lost."""
        daemon = await self.two()
        clients = self.clients(daemon, 16)
        await sleep(1.5)
        victim, other = self.pids(daemon)
        os.kill(victim, signal.SIGKILL)
        killed_at = time.monotonic()
        await self.until(lambda: self.serving(daemon) == 1 or victim not in self.pids(daemon), 5, "it is missed")
        await self.until(lambda: self.serving(daemon) == 2, 20, "another one serves")
        self.assertIn(other, self.pids(daemon))
        await sleep(0.5)
        answered = await self.stopped(clients)
        broken = [client for client in clients if client.broken]
        self.assertGreater(len(broken), 0)
        self.assertGreater(len(clients) - len(broken), 0)
        self.assertEqual({1}, {client.broken for client in broken})
        self.assertEqual({200}, {status for client in clients for status in client.statuses})
        recorded = -1
        while recorded != self.recorded(self.key_text):
            recorded = self.recorded(self.key_text)
            await sleep(0.5)
        lost = max(answered - recorded, 0)
        before = sorted(killed_at - at for client in broken for at in client.came if at <= killed_at)
        lost_ms = 1e3 * before[lost - 1] if lost else 0.0
        self.assertLessEqual(lost_ms, LOST_AT_MOST_MS)
        # what was recorded and did not come was under way
        self.assertLessEqual(recorded - answered, len(broken))

    async def test_replaced_under_load(self) -> None:
        """Not one question is refused or broken off, and what was answered is what is recorded."""
        daemon = await self.two()
        before = self.pids(daemon)
        clients = [*self.clients(daemon, 12), *self.clients(daemon, 6, 0.2)]
        asking = [Asking(daemon.settings.udp_port_lpo, self.key_text, 50).start() for _ in range(4)]
        await sleep(0.5)
        os.kill(os.getpid(), signal.SIGUSR2)
        await self.until(lambda: not set(before) & set(self.pids(daemon)), 40, "both were replaced")
        await self.until(lambda: self.serving(daemon) == 2, 20, "both serve")
        await sleep(1.0)
        answered = await self.stopped(clients)
        datagrams = sum([await each.stop() for each in asking])
        self.assertEqual(0, sum(client.broken for client in clients))
        self.assertGreater(sum(client.closed for client in clients), 0)
        self.assertEqual({200}, {status for client in clients for status in client.statuses})
        self.assertEqual(sum(each.asked for each in asking), datagrams)
        await self.all_recorded(answered + datagrams)

    async def test_limits_across_workers(self) -> None:
        """Whoever is asked, all together admit no more than the plan and one lease each."""
        daemon = await self.two()
        plan = PLANS["pro"]
        assert plan.qps is not None and plan.burst is not None
        key = self.key("pro")
        await self.accepted(daemon, key)
        began = time.monotonic()
        asking = [Asking(daemon.settings.udp_port_lpo, key, 60).start() for _ in range(8)]
        await sleep(4.0)
        answered = sum([await each.stop() for each in asking])
        seconds = time.monotonic() - began
        self.assertLessEqual(answered, 2 * plan.burst + plan.qps * seconds)
        self.assertGreater(answered, plan.qps * 4.0 * 0.7)
        await self.until(lambda: self.recorded(key) == answered, 10, "all is recorded")

    async def test_a_quota_across_workers(self) -> None:
        daemon = await self.two()
        key = self.key("enterprise")
        self.sql("UPDATE api_keys SET query_limit = 60 WHERE key_id = %s", key_id_of(key))
        await self.until(lambda: self.quota(daemon, key) == 60, 10, "the quota is known")
        asking = [Asking(daemon.settings.udp_port_lpo, key, 40).start() for _ in range(6)]
        await sleep(3.0)
        answered = sum([await each.stop() for each in asking])
        self.assertGreaterEqual(answered, 60)
        self.assertLessEqual(answered, 60 + 100)  # and one lease each
        self.assertEqual({"quota_exceeded"}, {code for each in asking for code in each.refused} - {"rate_limited"})

    def quota(self, daemon: Daemon, key: str) -> int | None:
        account = daemon.parts.accounting.keyring.find(key.encode())
        return None if account is None else account.plan.monthly_quota

    async def test_a_revocation(self) -> None:
        """Is in force in all workers when it is in the hub."""
        daemon = await self.two()
        other = self.key("partner")
        await self.accepted(daemon, other)
        asking = [Asking(daemon.settings.udp_port_lpo, other, 50).start() for _ in range(6)]
        await sleep(1.0)
        self.sql("UPDATE api_keys SET revoked = true WHERE key_id = %s", key_id_of(other))
        ring = daemon.parts.accounting.keyring
        await self.until(lambda: ring.find(other.encode()) is None, 5, "the hub knows")
        await sleep(0.2)
        answered = [each.answered for each in asking]
        await sleep(1.0)
        self.assertEqual(answered, [each.answered for each in asking])
        for each in asking:
            self.assertGreater(await each.stop(), 0)
        self.assertEqual(200, (await daemon.get("/price?asset=BTC", self.key_text))[0])

    async def test_a_signed_datagram(self) -> None:
        """Is answered once, from whichever port it comes, and so by whichever worker."""
        daemon = await self.two()
        key_id, at_ms = key_id_of(self.key_text), int(time.time() * 1000)
        for number in range(3):
            signed = f"~1|{key_id}|{at_ms}|BTC|{number}".encode()
            datagram = signed + b"|" + mac_of(datagram_secret_of(self.key_text.encode()), signed)
            answers = [await daemon.udp(datagram, 0.3) for _ in range(6)]
            self.assertEqual(1, sum(answer is not None for answer in answers), answers)
            self.assertIsNotNone(answers[0])
        await self.until(lambda: daemon.count("udp_dropped", "lpo", "replayed") == 15, 5, "the others are counted")

    async def test_one_that_hangs(self) -> None:
        """Is ended, and another one takes its place."""
        lines = listen(self)
        daemon = await self.two()
        victim = self.pids(daemon)[0]
        os.kill(victim, signal.SIGSTOP)
        await self.until(lambda: victim not in self.pids(daemon), 30, "it is ended")
        await self.until(lambda: self.serving(daemon) == 2, 20, "another one serves")
        self.assertEqual(1, len(lines.having("has said nothing for")))


class HubKilledTests(SynchronousTestCase):
    def test_workers_go(self) -> None:
        """And leave the port to the next daemon, which a second one is refused meanwhile."""
        server = own_server(self)
        folder = Path(self.mktemp())
        folder.mkdir()
        with lab() as addresses:
            settings = {**addresses, "AURORA_URL": server.url(), "TBEAST_WORKERS": "2", "TBEAST_KEYS": "some-key"}
            daemon = start(folder, settings)
            try:
                daemon.wait_until_ready()
                children = worker_pids(daemon.process.pid)
                self.assertEqual(2, len(children))
                self.assertIn(b"in use", self.second(folder, settings, daemon.ports))
            finally:
                daemon.kill()
            deadline = time.monotonic() + 10.0
            while any(is_there(pid) for pid in children) and time.monotonic() < deadline:
                time.sleep(0.05)
            self.assertEqual([], [pid for pid in children if is_there(pid)])
            again = start(folder, {**settings, **{name: str(port) for name, port in daemon.ports.items()}})
            again.ports = daemon.ports
            try:
                again.wait_until_ready()
            finally:
                again.stop()

    def second(self, folder: Path, settings: dict[str, str], ports: Any) -> bytes:
        """What a second daemon says that is started on the same ports, but for the health port."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith("TBEAST_")}
        numbers = {name: "0" if name.startswith("HEALTH") else str(port) for name, port in ports.items()}
        environ = {**kept, **settings, **numbers, "SERVER_TYPE": "APP_SERVER", "TBEAST_LISTEN": "127.0.0.1",
                   "TBEAST_STATE": str(folder / "other"), "CLUSTER_NODE": "other"}  # fmt: skip
        ran = subprocess.run(
            [sys.executable, "-m", "twisted", "tbeast"], env=environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
        )  # fmt: skip
        self.assertEqual(1, ran.returncode)
        return ran.stdout.splitlines()[-1]


def is_there(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def worker_pids(parent: int) -> list[int]:
    """The worker processes of a hub."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"tbeast.commands.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
