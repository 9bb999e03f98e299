"""Reports of a whole daemon: what was asked is what they say, in every format, and to nobody else."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol

from tbeast.adapters.feeds.rest import HttpFetcher
from tbeast.codecs.signatures import mac_of
from tbeast.domain.keys import Account, account_of, key_id_of
from tbeast.test.integration.accounts import AccountsCase
from tbeast.test.integration.daemons import Daemon, sleep

reactor: Any = installed_reactor

ADMIN = "an-operator-of-this-test"


class ReportsCase(AccountsCase):
    async def reporting(self, **said: Any) -> Daemon:
        """A daemon with both surfaces, and the shared cache."""
        cache = self.valkey()
        return await self.daemon(SERVER_TYPE="APP_REPORT_SERVER", ADMIN_KEY=ADMIN, CACHE_URL=cache.url, **said)

    async def report(
        self, daemon: Daemon, target: str, key: str | None, admin: str | None = None
    ) -> tuple[int, Any, bytes]:  # fmt: skip
        """Ask for a report: the status, the header fields, and the body."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        if admin is not None:
            headers["x-admin-key"] = admin
        fetcher: HttpFetcher = daemon.fetcher
        url = f"http://127.0.0.1:{daemon.settings.tcp_port_lrs}/reports/{target}"
        status, fields, body = await fetcher.fetch(url, headers)
        return status, {name.lower(): value for name, value in fields.items()}, body

    async def totals(self, daemon: Daemon, key: str | None, target: str = "summary?", admin: str | None = None) -> Any:
        status, _, body = await self.report(daemon, target, key, admin)
        self.assertEqual(200, status, body)
        return json.loads(body)["totals"]

    def account(self, daemon: Daemon, key: str) -> Account:
        """What the daemon knows of a key."""
        account = daemon.parts.accounting.keyring.find(key.encode())
        assert account is not None
        return account

    async def noted(self, daemon: Daemon, key: str, number: int) -> None:
        """Wait until so many of a key's reports are in the report of reports, which ends where all is settled."""
        for _ in range(20):
            totals = await self.totals(daemon, None, f"report-summary?key_id={key_id_of(key)}", ADMIN)
            if totals["reports"] >= number:
                return
            await sleep(0.6)
        raise AssertionError(f"{totals} is not {number} reports")

    def of_lpo(self, rows: list[dict[str, str]]) -> int:
        """How many questions for prices there are in a table."""
        return sum(int(row["request_count"]) for row in rows if row["service"] == "lpo")

    def ask_udp(self, daemon: Daemon, datagram: bytes, seconds: float = 5.0) -> Deferred[bytes | None]:
        """Ask the report port over UDP; the answer, or C{None} if there is none in time."""
        client = _Client(daemon.settings.udp_port_lrs, datagram)
        port = reactor.listenUDP(0, client, interface="127.0.0.1")
        timeout = reactor.callLater(seconds, client.end, None)

        def over(answer: bytes | None) -> Deferred[bytes | None]:
            if timeout.active():
                timeout.cancel()
            closed: Deferred[None] = port.stopListening()
            return closed.addCallback(lambda _: answer)

        return client.answered.addCallback(over)

    async def asked_udp(self, daemon: Daemon, datagram: bytes) -> Any:
        """Ask what must be answered."""
        answer = await self.ask_udp(daemon, datagram)
        assert answer is not None
        return json.loads(answer)

    async def ask_for_prices(self, daemon: Daemon, key: str, number: int = 12) -> int:
        """Ask over both protocols; how many questions these were."""
        for place in range(number):
            status, _ = await daemon.get(f"/price?asset={('btc', 'eth', 'sol')[place % 3]}", key)
            self.assertEqual(200, status)
            self.assertIsNotNone(await daemon.udp(f"{key}|BTC|{place}".encode()))
        await self.until(lambda: self.recorded(key) == 2 * number, 10, "all questions are recorded")
        return 2 * number


class _Client(DatagramProtocol):
    """Asks one question."""

    def __init__(self, port: int, datagram: bytes) -> None:
        self.answered: Deferred[bytes | None] = Deferred()
        self._port = port
        self._datagram = datagram

    def startProtocol(self) -> None:
        assert self.transport is not None
        self.transport.connect("127.0.0.1", self._port)
        self.transport.write(self._datagram, None)

    def datagramReceived(self, answer: bytes, addr: object) -> None:
        self.end(answer)

    def end(self, answer: bytes | None) -> None:
        if not self.answered.called:
            self.answered.callback(answer)


class AskedTests(ReportsCase):
    async def test_every_format_tells_what_was_asked(self) -> None:
        daemon = await self.reporting()
        key = self.key()
        await self.accepted(daemon, key)
        await self.until(lambda: {"BTC", "ETH", "SOL"} <= daemon.quotes().keys(), 60, "there are prices")
        asked = await self.ask_for_prices(daemon, key)
        totals = await self.totals(daemon, key, "usage?page_size=1000")
        self.assertEqual((asked, asked, 0), (totals["requests"], totals["billed"], totals["refused"]))
        _, fields, table = await self.report(daemon, "usage?format=csv", key)
        rows = list(csv.DictReader(io.StringIO(table.decode(), newline="")))
        self.assertEqual(asked, self.of_lpo(rows))
        self.assertEqual({key_id_of(key)}, {row["key_id"] for row in rows})
        self.assertEqual({"http", "udp"}, {row["protocol"] for row in rows})
        self.assertTrue(fields["content-type"].startswith("text/csv"))
        _, _, table = await self.report(daemon, "usage?format=tsv", key)
        self.assertEqual(asked, self.of_lpo(list(csv.DictReader(io.StringIO(table.decode()), delimiter="\t"))))
        _, _, text = await self.report(daemon, "summary?format=text", key)
        self.assertIn("lpo/http", text.decode())
        summary = json.loads((await self.report(daemon, "summary", key))[2])
        self.assertEqual(asked, sum(row["billed"] for row in summary["rows"] if row["service"] == "lpo"))
        used = self.sql("SELECT current_usage FROM api_keys WHERE key_id = %s", key_id_of(key))
        self.assertEqual([(asked,)], used)  # reports are no questions

    async def test_a_key_sees_its_own_and_the_operator_all(self) -> None:
        daemon = await self.reporting()
        one, other = self.key(), self.key()
        for key in (one, other):
            await self.accepted(daemon, key)
        await self.until(lambda: {"BTC", "ETH", "SOL"} <= daemon.quotes().keys(), 60, "there are prices")
        asked = [await self.ask_for_prices(daemon, one, 4), await self.ask_for_prices(daemon, other, 7)]
        found = [await self.totals(daemon, key, "summary?asset=BTC") for key in (one, other)]
        both = await self.totals(daemon, None, "summary?asset=BTC", ADMIN)
        self.assertEqual(both["requests"], sum(each["requests"] for each in found))
        named = await self.totals(daemon, None, f"usage?key_id={key_id_of(one)}&page_size=10000", ADMIN)
        self.assertGreaterEqual(named["requests"], asked[0])
        status, _, _ = await self.report(daemon, f"usage?key_id={key_id_of(one)}", other)
        self.assertEqual(400, status)
        for admin, code in (("wrong-key-of-an-operator", "bad_admin_key"), ("", "missing_key")):
            status, _, body = await self.report(daemon, "usage", None, admin)
            self.assertEqual((401, code), (status, json.loads(body)["code"]))


class QuotaTests(ReportsCase):
    async def test_ten_a_month_and_the_add_on(self) -> None:
        """Over HTTP and datagrams together; who buys the add-on may go on."""
        daemon = await self.reporting()
        key = self.key("free")
        await self.accepted(daemon, key)
        for number in range(5):
            status, fields, _ = await self.report(daemon, "summary", key)
            self.assertEqual((200, "10", str(9 - number)),
                             (status, fields["ratelimit-limit"], fields["ratelimit-remaining"]))  # fmt: skip
        for number in range(5):
            answer = await self.asked_udp(daemon, f"{key}|summary|{number}".encode())
            self.assertEqual((number, "summary"), (answer["id"], answer["report"]))
        await sleep(2.0)  # for the bucket
        status, fields, body = await self.report(daemon, "usage", key)
        self.assertEqual((429, "report_quota_exceeded", "0"),
                         (status, json.loads(body)["code"], fields["ratelimit-remaining"]))  # fmt: skip
        refused = await self.asked_udp(daemon, f"{key}|summary,source=kraken-ws|12".encode())
        self.assertEqual({"error": "report_quota_exceeded", "id": 12}, refused)
        self.sql("UPDATE api_keys SET lrs_enabled = true WHERE key_id = %s", key_id_of(key))
        await self.until(lambda: self.account(daemon, key).lrs_addon, 10, "the add-on is known")
        await sleep(2.0)
        for _ in range(3):
            self.assertEqual(200, (await self.report(daemon, "summary", key))[0])
        await self.noted(daemon, key, 15)
        made = json.loads((await self.report(daemon, "report-usage", key))[2])
        self.assertEqual([200] * 10 + [429] * 2 + [200] * 3, [row["status"] for row in made["rows"]])
        self.assertEqual({"summary/json": 8, "summary/datagram": 6, "usage/json": 1}, _counted(made["rows"]))
        counted = self.sql("SELECT report_count FROM monthly_report_counts WHERE key_id = %s", key_id_of(key))
        self.assertEqual([(14,)], counted)

    async def test_pages_of_one_report(self) -> None:
        daemon = await self.reporting()
        key = self.key("unlimited")
        self.sql("UPDATE api_keys SET monthly_reports = 1 WHERE key_id = %s", key_id_of(key))
        await self.accepted(daemon, key)
        await self.until(lambda: self.account(daemon, key).plan.monthly_reports == 1, 10, "the limit is known")
        await self.until(lambda: {"BTC", "ETH", "SOL"} <= daemon.quotes().keys(), 60, "there are prices")
        asked = await self.ask_for_prices(daemon, key, 5)
        requests, cursor, pages = 0, "", 0
        while pages == 0 or cursor:
            status, _, body = await self.report(daemon, f"usage?page_size=2{cursor and '&cursor='}{cursor}", key)
            self.assertEqual(200, status, body)
            page = json.loads(body)
            requests, cursor, pages = requests + page["totals"]["requests"], page["next_cursor"], pages + 1
            await sleep(0.5)  # for the bucket
        self.assertEqual(asked, requests)
        self.assertGreater(pages, 1)
        self.assertEqual(429, (await self.report(daemon, "summary", key))[0])

    async def test_without_the_database(self) -> None:
        """There are no reports, and they say so; with it there are again, and nothing was used up."""
        daemon = await self.reporting()
        key = self.key("free")
        await self.accepted(daemon, key)
        self.database.stop()
        status, fields, body = await self.report(daemon, "summary", key)
        self.assertEqual((503, "store_unavailable", "5"),
                         (status, json.loads(body)["code"], fields["retry-after"]))  # fmt: skip
        self.database.start()
        for _ in range(40):
            status, fields, _ = await self.report(daemon, "summary", key)
            if status == 200:
                break
            await sleep(0.5)
        self.assertEqual((200, "9"), (status, fields.get("ratelimit-remaining")))


class DatagramTests(ReportsCase):
    async def test_signed(self) -> None:
        """Answered once, with the sums of what was asked."""
        daemon = await self.reporting()
        key = self.key()
        await self.accepted(daemon, key)
        await self.until(lambda: {"BTC", "ETH", "SOL"} <= daemon.quotes().keys(), 60, "there are prices")
        asked = await self.ask_for_prices(daemon, key, 3)
        account = account_of(key, "unlimited", "test")
        text = f"~1|{account.key_id}|{int(daemon.parts.now() * 1000)}|summary,asset=BTC|7".encode()
        datagram = text + b"|" + mac_of(account.datagram_secret, text)
        answer = await self.asked_udp(daemon, datagram)
        self.assertEqual((7, "BTC"), (answer["id"], answer["asset"]))
        self.assertEqual(asked // 2 + 1, answer["totals"]["requests"])
        self.assertIsNone(await self.ask_udp(daemon, datagram, 1.0))
        self.assertEqual(1, daemon.count("udp_dropped", "lrs", "replayed"))


def _counted(rows: list[dict[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        name = f"{row['report']}/{row['format']}"
        counts[name] = counts.get(name, 0) + 1
    return counts
