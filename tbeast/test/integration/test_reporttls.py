"""Reports behind TLS, over real sockets: whole ones, one that nobody reads, and one that is broken off."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from http.client import HTTPResponse, HTTPSConnection, IncompleteRead
from pathlib import Path
from threading import Event
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tbeast.domain.adminaccess import AdminAccess
from tbeast.servers.admin import AdminRoot
from tbeast.servers.admindoor import AdminDoor
from tbeast.settings import Layer, load
from tbeast.surface import Behind, Surface
from tbeast.test.adapters.cache.clients import until
from tbeast.test.integration.test_reportstream import CHUNK, Endless
from tbeast.test.servers.rooms import PARTNER, House
from tbeast.test.services.reportparts import NOW, Desk, line
from tbeast.test.services.reportparts import PARTNER as ACCOUNT
from tbeast.test.test_surface import HERE, Authority, FreePorts, pem
from tbeast.testing.logs import listen

reactor: Any = installed_reactor

ADMIN = "operator-of-this-house"
KEY = {"Authorization": f"Bearer {PARTNER}"}
TIMEOUT_SECONDS = 60.0
MANY = 200_000


class TlsCase(TestCase):
    """A report surface with a certificate, over reports in memory."""

    timeout = 120
    idle_seconds = 60.0

    async def setUp(self) -> None:  # type: ignore[override]
        listen(self)
        house = self.house = House()
        house.time = NOW
        self.desk = Desk([line(number, ACCOUNT.key_id) for number in range(95)], clock=reactor)
        self.ports = FreePorts()
        authority = Authority("root")
        key = ec.generate_private_key(ec.SECP256R1())
        own = authority.sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), key)
        folder = Path(self.mktemp())
        folder.mkdir()
        chain, private = folder / "chain.pem", folder / "key.pem"
        chain.write_bytes(pem(own))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.trusting = ssl.create_default_context(cadata=pem(authority.certificate).decode())
        behind = Behind(
            gate=house.gate, answers=house.answers, ledger=house.ledger, feeds=lambda: house.feeds,
            counters=house.counters, now=house.now, new_id=house.new_id, idle_seconds=lambda: self.idle_seconds,
        )  # fmt: skip
        settings = load([Layer("test", {"TBEAST_TLS_CERT": str(chain), "TBEAST_TLS_KEY": str(private)})])
        surface = Surface(settings, reactor, behind, self.ports)
        door = AdminDoor(AdminAccess(ADMIN, house.now()), (), house.now, house.counters)
        pages = {b"admin": AdminRoot(door, "n", house.now)}
        self.services = list(surface.reports(self.desk.reports, door.entrance("reports"), pages))
        self.addCleanup(self.stop)
        for service in self.services:
            await maybeDeferred(service.startService)

    async def stop(self) -> None:
        while self.services:
            await maybeDeferred(self.services.pop().stopService)

    def ask(self, target: str, headers: dict[str, str] = KEY) -> HTTPResponse:
        """Ask over a connection of one's own, in a thread."""
        connection = HTTPSConnection(
            "localhost", self.ports.taken["lrs"], timeout=TIMEOUT_SECONDS, context=self.trusting
        )
        connection.request("GET", target, headers=headers)
        return connection.getresponse()

    def in_thread(self, client: Callable[[], Any]) -> Any:
        return deferToThread(client)

    def ends(self) -> list[object]:
        """How the reports ended that were made."""
        return [made.details.get("broken_off") for made in self.desk.log.made]


class WholeTests(TlsCase):
    async def test_every_way_of_asking(self) -> None:
        """In one piece and in many, by a key and by the operator, who has his other pages here as well."""

        def client() -> None:
            found = json.loads(self.ask("/reports/usage?page_size=90").read())
            self.assertEqual(90, found["row_count"])
            table = self.ask("/reports/usage?format=csv").read()
            self.assertEqual(96, table.count(b"\r\n"))
            summary = self.ask("/reports/summary", {"X-Admin-Key": ADMIN})
            self.assertEqual((200, 95 * 3), (summary.status, json.loads(summary.read())["totals"]["requests"]))
            self.assertEqual(200, self.ask("/admin", {"X-Admin-Key": ADMIN}).status)
            self.assertEqual(401, self.ask("/admin").status)
            self.assertEqual(200, self.ask("/openapi.json", {}).status)

        await self.in_thread(client)
        self.assertEqual([None] * 3, self.ends())

    async def test_only_tls(self) -> None:
        """Whoever does not speak it is answered nothing."""

        def client() -> None:
            with socket.create_connection((HERE, self.ports.taken["lrs"]), TIMEOUT_SECONDS) as raw:
                raw.sendall(f"GET /reports/summary HTTP/1.0\r\nAuthorization: Bearer {PARTNER}\r\n\r\n".encode())
                self.assertNotIn(b"HTTP", raw.recv(65_536))

        await self.in_thread(client)
        self.assertEqual(([], 0), (self.desk.log.made, self.house.ledger.requests))


class EndlessCase(TlsCase):
    async def begin(self) -> tuple[Any, Event, Endless]:
        """Have a client that reads a little, and goes on when the event is set; what it found at the end."""
        reading = self.desk.reports.reading_of = Endless(MANY)
        going_on = Event()
        self.addCleanup(going_on.set)

        def client() -> bytes | IncompleteRead | OSError:
            response = self.ask("/reports/usage?format=csv")
            first = response.read(1_000)
            going_on.wait(TIMEOUT_SECONDS)
            try:
                return first + response.read()
            except (IncompleteRead, OSError) as error:
                return error

        ended = self.in_thread(client)
        await until(lambda: reading.chunks and not self.desk.reports.reading)
        return ended, going_on, reading


class EndlessTests(EndlessCase):
    async def test_who_does_not_read(self) -> None:
        """Nothing is read ahead of him, and all is there when he goes on."""
        ended, going_on, reading = await self.begin()
        chunks = reading.chunks
        self.assertLess(chunks, MANY // CHUNK)
        for _ in range(200):
            await self.desk.reports.turn()
        self.assertEqual((chunks, 0), (reading.chunks, self.desk.reports.reading))
        going_on.set()
        self.assertEqual(MANY + 1, (await ended).count(b"\r\n"))
        self.assertEqual([None], self.ends())

    async def test_the_node_stops(self) -> None:
        """Nobody takes what came for the whole, and nothing was used up."""
        ended, going_on, _ = await self.begin()
        await self.stop()
        going_on.set()
        self.assertIsInstance(await ended, (IncompleteRead, OSError))
        await until(lambda: self.desk.log.made)
        self.assertEqual((["stopping"], 0), (self.ends(), self.desk.log.counts.total()))
        self.assertEqual((0, {}), (self.desk.reports.reading, dict(self.desk.reports.open)))


class SlowTests(EndlessCase):
    idle_seconds = 1.0

    async def test_too_slow(self) -> None:
        """He is cut off after the idle timeout, and counted."""
        ended, going_on, _ = await self.begin()
        await until(lambda: self.desk.log.made)
        going_on.set()
        self.assertIsInstance(await ended, (IncompleteRead, OSError))
        self.assertEqual(["client"], self.ends())
        self.assertEqual(1, self.house.counters.value("slow_clients", "lrs", "slow_read"))
        self.assertEqual((0, {}), (self.desk.reports.reading, dict(self.desk.reports.open)))
