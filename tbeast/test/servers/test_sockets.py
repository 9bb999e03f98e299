"""Both doors over real sockets of the loopback."""

from __future__ import annotations

import contextlib  # trial takes a module's own name C{suppress} for warnings to hide
import json
import socket
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tbeast.servers.health import Health, health_tree
from tbeast.servers.metrics import Metrics
from tbeast.servers.site import WebSite
from tbeast.servers.udp import AT_A_TIME, PriceDatagrams
from tbeast.test.servers.rooms import FREE, PARTNER, House, Response, problem_of, question, quote_of

TIMEOUT_SECONDS = 20.0
reactor: Any = installed


def ask(connection: HTTPConnection, target: str, method: str = "GET", body: bytes | None = None) -> Response:
    connection.request(method, target, body, {"Authorization": f"Bearer {PARTNER}"})
    response = connection.getresponse()
    return Response(response.status, response.headers, response.read())


class SocketCase(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.house = House()

    def listen(self, site: WebSite) -> int:
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def site(self, root: Any) -> WebSite:
        house = self.house
        return WebSite(
            root, reactor=reactor, now=house.now, new_id=house.new_id, counters=house.counters, service="lpo"
        )

    def in_thread(self, client: Callable[[], None]) -> Any:
        """Run a blocking client beside the reactor."""
        return deferToThread(client)


class HttpTests(SocketCase):
    def test_conversation(self) -> Any:
        """One connection for many questions, a refusal and a large body among them."""
        self.house.lookup.outcomes["ETH"] = quote_of("ETH", 1800.5)
        number = self.listen(self.site(self.house.lpo()))

        def client() -> None:
            connection = HTTPConnection("127.0.0.1", number, timeout=TIMEOUT_SECONDS)
            connection.connect()
            first = connection.sock
            for _ in range(3):
                self.assertEqual("BTC", ask(connection, "/price?asset=btc").json()["asset"])
                self.assertEqual(404, ask(connection, "/price?asset=NOPE").status)
                answer = ask(connection, "/prices", "POST", b'{"assets":["BTC","ETH"]}')
                self.assertEqual([83421.57, 1800.5], [price["price"] for price in answer.json()["prices"]])
                self.assertEqual(b"", ask(connection, "/price?asset=btc", "HEAD").body)
                self.assertEqual(
                    "body_too_large", problem_of(ask(connection, "/prices", "POST", b" " * 300_000))["code"]
                )
            self.assertIs(first, connection.sock)
            connection.close()

        return self.in_thread(client)

    def test_hostile_bytes(self) -> Any:
        """A connection that speaks something else is closed; the door stays open."""
        number = self.listen(self.site(self.house.lpo()))

        def client() -> None:
            for data in (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\x00" * 150 + b"\r\n\r\n",
                         b"\r\n\r\n\x00" * 9000,
                         b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000):  # fmt: skip
                with socket.create_connection(("127.0.0.1", number), TIMEOUT_SECONDS) as raw:
                    try:
                        raw.sendall(data)
                        while raw.recv(65536):
                            pass
                    except ConnectionError:
                        pass  # it was closed while we were still sending
            connection = HTTPConnection("127.0.0.1", number, timeout=TIMEOUT_SECONDS)
            self.assertEqual(200, ask(connection, "/price?asset=BTC").status)
            connection.close()

        return self.in_thread(client)

    def test_pipelined(self) -> Any:
        """A hundred questions in one write are a hundred answers."""
        number = self.listen(self.site(self.house.lpo()))

        def client() -> None:
            with socket.create_connection(("127.0.0.1", number), TIMEOUT_SECONDS) as raw:
                last = question("/price?asset=BTC", headers=[("Connection", "close")])
                raw.sendall(question("/price?asset=BTC") * 99 + last)
                received = b""
                while data := raw.recv(65536):
                    received += data
            self.assertEqual(100, received.count(b"HTTP/1.1 200 OK\r\n"))

        return self.in_thread(client)

    def test_half_closed(self) -> Any:
        """Who says that it has no more to ask still gets all its answers, and then the end."""
        number = self.listen(self.site(self.house.lpo()))
        self.house.lookup.outcomes["ETH"] = deferLater(reactor, 0.05, lambda: quote_of("ETH", 1800.5))

        def asked(data: bytes) -> int:
            with socket.create_connection(("127.0.0.1", number), TIMEOUT_SECONDS) as raw:
                raw.sendall(data)
                raw.shutdown(socket.SHUT_WR)
                received = b""
                while data := raw.recv(65536):
                    received += data
            return received.count(b"HTTP/1.1 200 OK\r\n")

        def client() -> None:
            one = question("/asset-categories")
            self.assertEqual(1, asked(one))
            self.assertEqual(1, asked(question("/price?asset=ETH")))
            self.assertEqual(100, asked(one * 100))
            self.assertEqual(21, asked(one * 21 + b"GET /exchanges HT"))
            self.assertEqual(0, asked(b"GET /exchanges HT"))
            self.assertEqual(0, asked(b""))

        return self.in_thread(client)

    async def test_the_port_is_closed(self) -> None:
        """Whoever asks without a pause is answered no more, and what it was answered is in the ledger."""
        site = self.house.site(self.house.lpo())
        site.reactor = reactor
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
        answered: list[int] = []

        def client() -> None:
            connection = HTTPConnection("127.0.0.1", port.getHost().port, timeout=TIMEOUT_SECONDS)
            connection.connect()
            connection.auto_open = 0  # it comes only once
            with contextlib.suppress(HTTPException, OSError):
                while True:
                    answered.append(ask(connection, "/price?asset=BTC").status)
            connection.close()

        asking = self.in_thread(client)
        while len(answered) < 20:
            await deferLater(reactor, 0.01)
        await port.stopListening()
        recorded = self.house.ledger.requests
        await asking
        self.assertIn(recorded - len(answered), (0, 1))  # the last may have been on its way to a client that was cut
        self.assertEqual(recorded, self.house.ledger.requests)

    def test_health_port(self) -> Any:
        house = self.house
        for code in house.assets.assets:
            house.put(quote_of(code))
        health = Health(
            answers=house.answers, feeds=lambda: house.feeds, listening=lambda: {"lpo": True}, now=house.now, node="n"
        )
        metrics = Metrics(counters=house.counters, answers=house.answers, feeds=lambda: house.feeds, now=house.now)
        number = self.listen(self.site(health_tree(health, metrics)))

        def client() -> None:
            connection = HTTPConnection("127.0.0.1", number, timeout=TIMEOUT_SECONDS)
            for path in ("/health", "/live", "/ready"):
                answer = ask(connection, path)
                self.assertEqual((200, "application/json"), (answer.status, answer.headers["Content-Type"]), path)
            self.assertIn(b"\ntbeast_requests_total{", ask(connection, "/metrics").body)
            connection.close()

        return self.in_thread(client)


class UdpTests(SocketCase):
    def test_questions(self) -> Any:
        """A price, a refusal, and silence: what comes after the silence is the next answer."""
        house = self.house
        protocol = PriceDatagrams(gate=house.gate, answers=house.answers, counters=house.counters, now=house.now)
        port = reactor.listenUDP(0, protocol, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        address = ("127.0.0.1", port.getHost().port)

        def client() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
                raw.settimeout(TIMEOUT_SECONDS)
                for number in range(20):
                    raw.sendto(b"nobody-has-this-key|BTC|%d" % number, address)
                    raw.sendto(b"", address)
                    raw.sendto(f"{PARTNER}|BTC|{number}".encode(), address)
                    members = json.loads(raw.recv(2000))
                    self.assertEqual(("BTC", number), (members["asset"], members["id"]))
                raw.sendto(f"{FREE}|NOPE|x".encode(), address)
                self.assertEqual(b'{"error":"unknown_asset","id":"x"}', raw.recv(2000))

        def checked(_: object) -> None:
            self.assertEqual(20, house.counters.value("udp_dropped", "lpo", "bad_key"))
            self.assertEqual(20, house.counters.value("requests", "lpo", "udp", "200"))

        return self.in_thread(client).addCallback(checked)

    async def test_in_turns(self) -> None:
        """What came in all at once, empty datagrams too, does not keep the others waiting until all is done."""
        house = self.house
        protocol = PriceDatagrams(gate=house.gate, answers=house.answers, counters=house.counters, now=house.now)
        port = reactor.listenUDP(0, protocol, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        most = port.maxThroughput
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
            for data in (b"", b"x|BTC") * 110:
                raw.sendto(data, ("127.0.0.1", port.getHost().port))

        def dropped() -> int:
            return sum(count for key, count in house.counters.counts.items() if key[0] == "udp_dropped")

        seen = [0]
        while seen[-1] < 220 and len(seen) < 1000:
            await deferLater(reactor, 0, lambda: None)
            seen.append(dropped())
        self.assertEqual(220, seen[-1])
        self.assertLessEqual(max(after - before for before, after in pairwise(seen)), AT_A_TIME)
        await deferLater(reactor, 0, lambda: None)
        self.assertEqual(most, port.maxThroughput)
