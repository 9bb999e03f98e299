"""The surface over real sockets, with TLS and without."""

from __future__ import annotations

import datetime
import gc
import json
import socket
import ssl
from collections.abc import Callable
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as installed
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.servers.health import Health, health_tree
from tbeast.servers.metrics import Metrics
from tbeast.settings import Layer, load
from tbeast.surface import Behind, BoundPorts, Surface, release_memory, settle_memory
from tbeast.test.servers.rooms import PARTNER, House, question

TIMEOUT_SECONDS = 20.0
HERE = "127.0.0.1"
HOT = question("/price?asset=BTC")
LAST = question("/price?asset=BTC", headers=[("Connection", "close")])
KEY = {"Authorization": f"Bearer {PARTNER}"}
reactor: Any = installed


class Authority:
    """Somebody who signs certificates.

    @ivar certificate: its own, signed by another or by itself.
    """

    def __init__(self, name: str, by: Authority | None = None) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = (by or self).sign(self.name, self.key, signs=True)

    def sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, signs: bool = False) -> x509.Certificate:
        """Sign a certificate of localhost, good for a day either way."""
        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        made = x509.CertificateBuilder(
            self.name, name, key.public_key(), x509.random_serial_number(), now - day, now + day
        )
        made = made.add_extension(x509.BasicConstraints(signs, None), critical=True)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        return made.sign(self.key, SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


class FreePorts(BoundPorts):
    """Whatever ports are free.

    @ivar taken: by name.
    """

    def __init__(self) -> None:
        super().__init__(reactor, HERE)
        self.taken: dict[str, int] = {}

    def tcp(self, name: str, number: int, factory: IProtocolFactory) -> IListeningPort:
        port: Any = super().tcp(name, 0, factory)
        self.taken[name] = port.getHost().port
        return port  # type: ignore[no-any-return]

    def udp(self, name: str, number: int, protocol: DatagramProtocol) -> IListeningPort:
        port: Any = super().udp(name, 0, protocol)
        self.taken["udp"] = port.getHost().port
        return port  # type: ignore[no-any-return]


class SurfaceCase(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.house = House()
        self.ports = FreePorts()

    async def start(self, **values: str) -> Surface:
        """Start health and prices."""
        house = self.house
        behind = Behind(
            gate=house.gate, answers=house.answers, ledger=house.ledger, feeds=lambda: house.feeds,
            counters=house.counters, now=house.now, new_id=house.new_id, idle_seconds=lambda: 60.0,
        )  # fmt: skip
        surface = Surface(load([Layer("test", values)]), reactor, behind, self.ports)
        health = Health(
            answers=house.answers, feeds=lambda: house.feeds, listening=lambda: surface.listening, now=house.now,
            node="n",
        )  # fmt: skip
        metrics = Metrics(counters=house.counters, answers=house.answers, feeds=lambda: house.feeds, now=house.now)
        self.services = [surface.health(health_tree(health, metrics)), *surface.prices()]
        self.addCleanup(self.stop)
        for service in self.services:
            await maybeDeferred(service.startService)
        return surface

    async def stop(self) -> None:
        while self.services:
            await maybeDeferred(self.services.pop().stopService)

    def in_thread(self, client: Callable[[], None]) -> Any:
        """Run a blocking client beside the reactor."""
        return deferToThread(client)

    def prices(self, connection: HTTPConnection, times: int) -> list[float]:
        """Ask for one price so many times over one connection."""
        found = []
        for _ in range(times):
            connection.request("GET", "/price?asset=BTC", headers=KEY)
            found.append(json.loads(connection.getresponse().read())["price"])
        connection.close()
        return found


class PlainTests(SurfaceCase):
    async def test_all_of_it(self) -> None:
        surface = await self.start()
        self.assertEqual({"health": True, "lpo": True, "udp": True}, surface.listening)
        ports = self.ports.taken

        def client() -> None:
            self.assertEqual([83421.57] * 5, self.prices(HTTPConnection(HERE, ports["lpo"], TIMEOUT_SECONDS), 5))
            health = HTTPConnection(HERE, ports["health"], timeout=TIMEOUT_SECONDS)
            health.request("GET", "/live")
            self.assertEqual(200, health.getresponse().status)
            health.close()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
                raw.settimeout(TIMEOUT_SECONDS)
                raw.sendto(f"{PARTNER}|BTC|1".encode(), (HERE, ports["udp"]))
                self.assertEqual(83421.57, json.loads(raw.recv(2000))["price"])

        await self.in_thread(client)
        self.assertEqual(6, self.house.ledger.requests)
        self.assertEqual(5, self.house.counters.value("requests", "lpo", "http", "200"))
        await self.stop()
        self.assertEqual({"health": False, "lpo": False, "udp": False}, surface.listening)

    async def test_a_mixture(self) -> None:
        """Plain questions and others, in one piece and in many, each way and back, on one connection."""
        await self.start()
        others = [question("/exchanges", None), question("/price?asset=NOPE"), question("/price?asset=BTC", "x-key-x")]
        data = b"".join(HOT * 9 + other for other in others) + question(
            "/price?asset=BTC", headers=[("Connection", "close")]
        )

        def asked(size: int) -> list[bytes]:
            received = b""
            with socket.create_connection((HERE, self.ports.taken["lpo"]), TIMEOUT_SECONDS) as raw:
                for start in range(0, len(data), size):
                    raw.sendall(data[start : start + size])
                while some := raw.recv(65536):
                    received += some
            return [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]

        def client() -> None:
            expected = [*[b"200"] * 10, *[b"200"] * 9, b"404", *[b"200"] * 9, b"401", b"200"]
            for size in (len(data), 1500, 100, 7):
                self.assertEqual(expected, asked(size), size)

        await self.in_thread(client)
        self.assertEqual(4 * 31, self.house.ledger.requests)


class TlsTests(SurfaceCase):
    """The certificate is one that somebody signed whom the client does not know, but for whom it knows somebody."""

    def setUp(self) -> None:
        super().setUp()
        self.root = Authority("root")
        self.between = Authority("between", self.root)
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        self.own = self.between.sign(name, self.key)
        self.trusting = ssl.create_default_context(cadata=pem(self.root.certificate).decode())

    async def serve(self, *certificates: x509.Certificate) -> None:
        """Start with these in the file of the certificate."""
        chain, key = self.folder / "chain.pem", self.folder / "key.pem"
        chain.write_bytes(b"# ours, and those between\n" + pem(*certificates))
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        await self.start(TBEAST_TLS_CERT=str(chain), TBEAST_TLS_KEY=str(key))

    def connection(self) -> HTTPSConnection:
        return HTTPSConnection("localhost", self.ports.taken["lpo"], timeout=TIMEOUT_SECONDS, context=self.trusting)

    async def test_chain(self) -> None:
        """A client that knows the root alone trusts us, and is answered as ever, also much at a time."""
        await self.serve(self.own, self.between.certificate)

        def client() -> None:
            self.assertEqual([83421.57] * 5, self.prices(self.connection(), 5))
            connection = self.connection()
            connection.connect()
            connection.sock.sendall(HOT * 100 + LAST)
            received = b""
            while data := connection.sock.recv(65536):
                received += data
            connection.sock.close()
            self.assertEqual(101, received.count(b"HTTP/1.1 200 OK\r\n"))

        await self.in_thread(client)
        self.assertEqual(106, self.house.ledger.requests)

    async def test_without_the_chain(self) -> None:
        """What stands between is needed: so the test above tests it."""
        await self.serve(self.own)

        def client() -> None:
            self.assertRaises(ssl.SSLCertVerificationError, self.connection().connect)

        await self.in_thread(client)

    async def test_only_tls(self) -> None:
        """Whoever does not speak it is answered nothing, and health goes without."""
        await self.serve(self.own, self.between.certificate)

        def client() -> None:
            with socket.create_connection((HERE, self.ports.taken["lpo"]), TIMEOUT_SECONDS) as raw:
                raw.sendall(HOT)
                self.assertNotIn(b"HTTP", raw.recv(65536))
            health = HTTPConnection(HERE, self.ports.taken["health"], timeout=TIMEOUT_SECONDS)
            health.request("GET", "/live")
            self.assertEqual(200, health.getresponse().status)
            health.close()

        await self.in_thread(client)
        self.assertEqual(0, self.house.ledger.requests)


class MemoryTests(SynchronousTestCase):
    def test_settled_and_released(self) -> None:
        """What there is is passed over until it is released, and the collector is as it was then."""
        before = gc.get_threshold(), gc.get_freeze_count()
        settle_memory()
        self.addCleanup(release_memory)
        self.assertGreater(gc.get_freeze_count(), before[1])
        self.assertGreater(gc.get_threshold()[0], before[0][0])
        release_memory()
        self.assertEqual((before[0], 0), (gc.get_threshold(), gc.get_freeze_count()))
