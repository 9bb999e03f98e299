"""What the servers put into the ledger: every answer, once, under its kind."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.usage import Kind
from tbeast.servers.site import LARGEST_READ_AWAY
from tbeast.servers.udp import PriceDatagrams
from tbeast.test.servers.rooms import FREE, PARTNER, House, Wire, question, quote_of


class _Socket:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes, addr: Any) -> None:
        self.sent.append(data)


class RecordingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House()
        self.partner_id = self.house.gate.keyring.accounts[0].key_id  # type: ignore[attr-defined]

    def recorded(self) -> dict[Kind, int]:
        return {row.kind: row.request_count for row in self.house.ledger.cut(1000)}

    def kind(
        self, key_id: str, protocol: str, asset: str, status: int, admitted: bool, source: str = "", tier: str = ""
    ) -> Kind:
        return Kind(key_id, "lpo", protocol, asset, source, tier, status, admitted)


class HttpTests(RecordingTests):
    def setUp(self) -> None:
        super().setUp()
        self.wire = Wire(self.house.site(self.house.lpo()))

    def ask(self, *targets: str, key: str | None = PARTNER) -> None:
        for target in targets:
            self.wire.ask(target, key)

    def test_prices_by_asset_source_and_tier(self) -> None:
        self.house.put(quote_of("ETH", source="kraken-ws"))
        self.ask("/price?asset=btc", "/price?asset=BTC&max_age_ms=60000", "/price?asset=eth")
        self.assertEqual(
            {
                self.kind(self.partner_id, "http", "BTC", 200, True, "median", "shelf"): 2,
                self.kind(self.partner_id, "http", "ETH", 200, True, "kraken-ws", "shelf"): 1,
            },
            self.recorded(),
        )

    def test_looked_up(self) -> None:
        self.house.lookup.outcomes["SOL"] = quote_of("SOL", source="kraken-rest")
        self.ask("/price?asset=SOL", "/price?asset=doge")
        self.assertEqual(
            {
                self.kind(self.partner_id, "http", "SOL", 200, True, "kraken-rest", "rest"): 1,
                self.kind(self.partner_id, "http", "DOGE", 503, True): 1,
            },
            self.recorded(),
        )

    def test_what_was_admitted_and_could_not_be_answered(self) -> None:
        """It counts; and an asset that nobody knows is not a kind of its own."""
        self.ask("/price?asset=NOPE", "/price?asset=WHAT", "/price", "/explain/BTC", "/stats")
        self.assertEqual(
            {
                self.kind(self.partner_id, "http", "", 404, True): 2,
                self.kind(self.partner_id, "http", "", 400, True): 1,
                self.kind(self.partner_id, "http", "BTC", 404, True): 0,
                self.kind(self.partner_id, "http", "BTC", 200, True): 1,
                self.kind(self.partner_id, "http", "", 200, True): 1,
            },
            {self.kind(self.partner_id, "http", "BTC", 404, True): 0, **self.recorded()},
        )

    def test_a_batch_is_one(self) -> None:
        self.ask("/prices?assets=BTC,ETH,NOPE")
        self.assertEqual({self.kind(self.partner_id, "http", "*", 200, True): 1}, self.recorded())

    def test_refused(self) -> None:
        """Limits with the key, the rest with nobody; none of it counts against a quota."""
        self.ask(*["/price?asset=btc"] * 7, key=FREE)
        self.ask("/price?asset=btc", key="wrong")
        self.ask("/price?asset=btc", "/exchanges", "/nowhere", key=None)
        self.assertEqual(
            {
                self.kind("freefreefr", "http", "BTC", 200, True, "median", "shelf"): 5,
                self.kind("freefreefr", "http", "", 429, False): 2,
                self.kind("", "http", "", 401, False): 2,
                self.kind("", "http", "", 200, False): 1,
                self.kind("", "http", "", 404, False): 1,
            },
            self.recorded(),
        )

    def test_bytes_that_are_no_question(self) -> None:
        """They are answered, so they count: each connection once, for it ends with that."""
        for data in (b"garbage\r\n\r\n", b"GET / HTTP/1.1\r\nbad\r\nbad\r\n\r\n", b"GET /" + b"a" * 20000,
                     b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):  # fmt: skip
            wire = Wire(self.wire.channel.site)
            wire.send(data)
            wire.channel.dataReceived(data)
        self.assertEqual({self.kind("", "http", "", 400, False): 4}, self.recorded())
        self.assertEqual(4, self.house.counters.value("requests", "lpo", "http", "400"))

    def test_a_body_that_is_cut_off(self) -> None:
        """It is refused once, though its end comes with the same bytes; and what comes behind it is no question."""
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        chunks = chunk * (LARGEST_READ_AWAY // 0x10000 + 1) + b"0\r\n\r\n"
        answers = self.wire.send(
            question("/prices", method="POST", headers=[("Transfer-Encoding", "chunked")])
            + chunks
            + question("/price?asset=btc")
        )
        self.assertEqual(1, answers.count(b"HTTP/1.1 "))
        self.assertFalse(self.wire.is_open)
        self.assertEqual({self.kind("", "http", "", 413, False): 1}, self.recorded())

    def test_a_client_that_does_not_wait(self) -> None:
        """It was admitted, so it counts, once."""
        waiting = self.house.lookup.later("SOL")
        self.wire.send(b"GET /price?asset=SOL HTTP/1.1\r\nHost: a\r\nX-API-Key: " + PARTNER.encode() + b"\r\n\r\n")
        self.wire.lose(ConnectionError())
        self.assertEqual({}, self.recorded())
        waiting.callback(quote_of("SOL"))
        self.assertEqual([1], list(self.recorded().values()))

    def test_after_the_last_round(self) -> None:
        """What cannot be recorded any more is not answered."""
        waiting = self.house.lookup.later("SOL")
        self.wire.send(question("/price?asset=SOL"))
        gone = Wire(self.wire.channel.site)
        gone.send(question("/price?asset=SOL"))
        gone.lose(ConnectionError())
        self.house.ledger.is_closed = True
        waiting.callback(quote_of("SOL"))
        self.assertEqual(b"", self.wire.transport.value())
        self.assertTrue(self.wire.transport.disconnected)
        self.assertEqual({}, self.recorded())
        self.assertEqual(0, self.house.counters.value("requests", "lpo", "http", "200"))

    def test_how_long_it_took(self) -> None:
        waiting = self.house.lookup.later("SOL")
        self.wire.send(b"GET /price?asset=SOL HTTP/1.1\r\nHost: a\r\nX-API-Key: " + PARTNER.encode() + b"\r\n\r\n")
        self.house.pass_time(1.5)
        waiting.callback(quote_of("SOL"))
        [row] = self.house.ledger.cut(10)
        self.assertEqual((1_500_000, 1_500_000), (row.response_us_sum, row.response_us_max))

    def test_keys_that_cannot_be_checked(self) -> None:
        self.house.gate.keyring.is_complete = False  # type: ignore[misc]
        answer = self.wire.ask("/price?asset=btc", "unknown")
        self.assertEqual((503, "keys_unavailable", "5"), (answer.status, answer.json()["code"],
                                                         answer.headers["Retry-After"]))  # fmt: skip
        self.assertEqual({self.kind("", "http", "", 503, False): 1}, self.recorded())

    def test_shut(self) -> None:
        self.house.gate.is_shut = True
        answer = self.wire.ask("/price?asset=btc")
        self.assertEqual((503, "metering_unavailable"), (answer.status, answer.json()["code"]))
        self.assertEqual({self.kind(self.partner_id, "http", "", 503, False): 1}, self.recorded())


class DatagramTests(RecordingTests):
    def setUp(self) -> None:
        super().setUp()
        house = self.house
        self.port = PriceDatagrams(
            gate=house.gate, answers=house.answers, counters=house.counters, now=house.now, ledger=house.ledger
        )
        self.port.transport = self.socket = _Socket()  # type: ignore[assignment]

    def ask(self, *datagrams: str) -> None:
        for datagram in datagrams:
            self.port.datagramReceived(datagram.encode(), ("127.0.0.1", 9))

    def test_answers(self) -> None:
        self.ask(f"{PARTNER}|btc", f"{PARTNER}|btc|7", f'{{"api_key":"{PARTNER}","assets":["BTC","NOPE"]}}')
        self.assertEqual(
            {
                self.kind(self.partner_id, "udp", "BTC", 200, True, "median", "shelf"): 2,
                self.kind(self.partner_id, "udp", "*", 200, True): 1,
            },
            self.recorded(),
        )

    def test_refused_and_unanswered(self) -> None:
        """Who is not known is not recorded; an admitted question that is too short to be refused is."""
        self.ask("nobody|btc", "garbage", f"{PARTNER}|NOPE")
        self.assertEqual({self.kind(self.partner_id, "udp", "", 404, True): 1}, self.recorded())
        self.ask(*[f"{FREE}|btc"] * 7)
        self.assertEqual(
            {
                self.kind("freefreefr", "udp", "BTC", 200, True, "median", "shelf"): 5,
                self.kind("freefreefr", "udp", "", 429, False): 2,
            },
            self.recorded(),
        )

    def test_without_keys_or_shut(self) -> None:
        self.house.gate.keyring.is_complete = False  # type: ignore[misc]
        self.ask("unknown|btc")
        self.assertEqual([], self.socket.sent)
        self.assertEqual(1, self.house.counters.value("udp_dropped", "lpo", "keys_unavailable"))
        self.house.gate.is_shut = True
        self.ask(f'{{"api_key":"{PARTNER}","asset":"BTC","padding":"{"x" * 60}"}}')
        self.assertEqual({self.kind(self.partner_id, "udp", "", 503, False): 1}, self.recorded())
        self.assertIn(b"metering_unavailable", self.socket.sent[0])
