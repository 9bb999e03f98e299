"""The report surface over UDP, in memory: the same answers and rules as for prices."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.datagrams import BAD_KEY, BAD_MAC, REPLAYED, SHORT_QUESTION, STOPPING, UNREADABLE, UNTIMELY
from tbeast.codecs.signatures import mac_of
from tbeast.servers.lrsudp import ReportDatagrams
from tbeast.test.servers.rooms import FREE, House
from tbeast.test.services.reportparts import FREE as ACCOUNT
from tbeast.test.services.reportparts import NOW, Desk, line
from tbeast.testing.logs import listen

HOME = ("127.0.0.1", 9)


class Sent:
    """Where datagrams go."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.error: OSError | None = None

    def write(self, datagram: bytes, addr: Any) -> None:
        assert addr == HOME
        if self.error is not None:
            raise self.error
        self.answers.append(datagram)


class LrsUdpCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = listen(self)
        self.house = House()
        self.house.time = NOW
        self.desk = Desk([line(number) for number in range(95)], 10, self.house.clock)
        self.port = ReportDatagrams(
            gate=self.house.gate, reports=self.desk.reports, counters=self.house.counters, now=self.house.now,
            ledger=self.house.ledger,
        )  # fmt: skip
        self.sent = Sent()
        self.port.transport = self.sent  # type: ignore[assignment]

    def ask(self, datagram: bytes) -> Any:
        """Ask, and give the answer, if there is one."""
        self.sent.answers.clear()
        self.port.datagramReceived(datagram, HOME)
        self.house.clock.advance(0)
        self.assertLessEqual(len(self.sent.answers), 1)
        return json.loads(self.sent.answers[0]) if self.sent.answers else None

    def signed(self, asked: str = "summary", at_ms: int = int(NOW * 1000), id_text: str = "7") -> bytes:
        text = f"~1|{ACCOUNT.key_id}|{at_ms}|{asked}|{id_text}".encode()
        return text + b"|" + mac_of(ACCOUNT.datagram_secret, text)

    def dropped(self, reason: str) -> int:
        return self.house.counters.value("udp_dropped", "lrs", reason)

    def recorded(self) -> list[tuple[str, str, str, int, bool, int]]:
        return [
            (
                row.kind.key_id,
                row.kind.service,
                row.kind.protocol,
                row.kind.status,
                row.kind.admitted,
                row.request_count,
            )
            for row in self.house.ledger.drain()
        ]


class AnswerTests(LrsUdpCase):
    def test_the_three_forms(self) -> None:
        in_json = json.dumps({"api_key": FREE, "report": "summary", "id": 7}).encode()
        answers = [self.ask(datagram) for datagram in (FREE.encode() + b"|summary|7", in_json, self.signed())]
        self.assertEqual([answers[0]] * 3, answers)
        wanted = sum(one.request_count for one in self.desk.reading.whole)
        self.assertEqual((7, wanted, ACCOUNT.key_id),
                         (answers[0]["id"], answers[0]["totals"]["requests"], answers[0]["key_id"]))  # fmt: skip
        self.assertEqual([(ACCOUNT.key_id, "lrs", "udp", 200, True, 3)], self.recorded())
        self.assertEqual(["datagram"] * 3, [made.format for made in self.desk.log.made])
        self.assertEqual(3, self.desk.log.counts.total())

    def test_more_than_fits(self) -> None:
        """The totals are of all, and it is said how many rows are left out."""
        for number in range(60):
            self.desk.reading.whole.append(line(200 + number, asset=f"A{number}"))
        answer = self.ask(FREE.encode() + b"|summary|7")
        self.assertLessEqual(len(self.sent.answers[0]), 1200)
        self.assertEqual(sum(one.request_count for one in self.desk.reading.whole), answer["totals"]["requests"])
        self.assertGreater(answer["left_out"], 40)
        self.assertGreater(len(answer["rows"]), 3)

    def test_the_month_is_used_up(self) -> None:
        """By HTTP and datagrams together."""
        for number in range(10):
            self.assertIn("totals", self.ask(self.signed(id_text=str(number))))
            self.house.pass_time(1.0)
        self.assertEqual({"error": "report_quota_exceeded", "id": 7},
                         self.ask(FREE.encode() + b"|summary,from=2026-11-01|7"))  # fmt: skip
        self.assertEqual((429, False), self.recorded()[-1][3:5])

    def test_refusals(self) -> None:
        for asked, code in (
            (b"nothing,and,nothing,at,all", "bad_request"),
            (b"summary,from=2026-99-01,asset=BTC", "malformed_parameter"),
            (b"summary,asset=BTC,asset=ETH", "duplicate_parameter"),
        ):  # fmt: skip
            self.assertEqual(code, self.ask(FREE.encode() + b"|" + asked + b"|7")["error"])
        self.assertEqual({400}, {row[3] for row in self.recorded()})
        self.assertEqual(0, self.desk.log.counts.total())

    def test_away(self) -> None:
        self.desk.go_away()
        self.assertEqual("store_unavailable", self.ask(FREE.encode() + b"|summary|7")["error"])
        self.assertEqual([(ACCOUNT.key_id, "lrs", "udp", 503, False, 1)], self.recorded())

    def test_a_fault_of_ours(self) -> None:
        self.desk.store.ask = lambda: 1 // 0  # type: ignore[method-assign, assignment]
        self.assertEqual("internal_error", self.ask(FREE.encode() + b"|summary|7")["error"])
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


class RuleTests(LrsUdpCase):
    def test_nothing_for_strangers(self) -> None:
        for datagram in (b"wrong-key|summary|" + b"9" * 18, b'{"api_key":"wrong-key","report":"summary","id":123456}',
                         b"~1|keykeykey1|1795000000000|summary||" + b"m" * 22):  # fmt: skip
            self.assertIsNone(self.ask(datagram))
        self.assertIsNone(self.ask(b"garbage"))
        self.assertEqual((3, 1), (self.dropped(BAD_KEY), self.dropped(UNREADABLE)))
        self.assertEqual(([], []), (self.recorded(), self.desk.log.made))

    def test_a_refusal_is_no_longer_than_the_question(self) -> None:
        refusal = len(b'{"error":"bad_request","id":12345}')
        for length, is_sent in ((refusal - 1, False), (refusal, True)):
            question = b"partner-key-1|" + b"x" * (length - 20) + b"|12345"
            self.assertEqual(length, len(question))
            self.assertEqual(is_sent, self.ask(question) is not None)
        self.assertEqual(1, self.dropped(SHORT_QUESTION))
        self.assertEqual(2, self.recorded()[0][5])

    def test_a_mac_is_good_once(self) -> None:
        datagram = self.signed()
        self.assertIn("totals", self.ask(datagram))
        self.assertIsNone(self.ask(datagram))
        self.assertIsNone(self.ask(datagram[:-1] + b"A"))
        self.assertIsNone(self.ask(self.signed(at_ms=int(NOW * 1000) - 31_000)))
        self.assertEqual((1, 1, 1), (self.dropped(REPLAYED), self.dropped(BAD_MAC), self.dropped(UNTIMELY)))
        self.assertEqual(1, self.desk.log.counts.total())

    def test_too_fast(self) -> None:
        """What was not admitted spends no mac."""
        for _ in range(10):
            self.ask(FREE.encode() + b"|x|7")
        datagram = self.signed()
        self.assertEqual("rate_limited", self.ask(datagram)["error"])
        self.house.pass_time(1.0)
        self.assertIn("totals", self.ask(datagram))

    def test_busy(self) -> None:
        waiting: Deferred[None] = Deferred()
        self.desk.store.usage_sums = self._waits(waiting)  # type: ignore[method-assign]
        for number in range(2):
            self.assertIsNone(self.ask(FREE.encode() + b"|summary|%d" % number))
        self.assertEqual("rate_limited", self.ask(FREE.encode() + b"|summary|7")["error"])
        waiting.callback(None)
        self.house.clock.advance(0)
        self.assertEqual(3, len(self.sent.answers))

    def _waits(self, waiting: Deferred[None]) -> Any:
        async def sums(*_: object) -> list[object]:
            gate: Deferred[None] = Deferred()
            waiting.addCallback(lambda _: gate.callback(None))
            await gate
            return []

        return sums

    def test_the_ledger_is_closed(self) -> None:
        """Nobody is answered whose answer is not recorded."""
        self.house.ledger.is_closed = True
        self.assertIsNone(self.ask(FREE.encode() + b"|summary|7"))
        self.assertEqual((1, 0), (self.dropped(STOPPING), self.desk.log.counts.total()))

    def test_what_cannot_be_sent(self) -> None:
        self.sent.error = OSError("no room")
        self.assertIsNone(self.ask(FREE.encode() + b"|summary|7"))
        self.assertEqual(1, self.dropped("unsendable"))
        self.assertEqual(1, self.recorded()[0][5])
