"""The lab over real sockets on loopback: every exchange's feed and REST, and the faults that act on connections."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import CannotListenError, ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.web._newclient import ResponseFailed, ResponseNeverReceived

from tbeast.lab.exchangelab import ExchangeLab, NotLoopbackError, check_loopback
from tbeast.lab.script import Step
from tbeast.lab.tables import EXCHANGES
from tbeast.test.lab.client import LabCase, Listener
from tbeast.test.lab.support import SYMBOLS, read_price


class FeedTests(LabCase):
    async def check_feed(self, name: str) -> None:
        listener = await self.joined(name)
        for symbol in SYMBOLS[name]:
            # a snapshot, where there is one, and updates after it
            def told(symbol: str = symbol) -> Any:
                prices = [read_price(name, item.decode()) or {} for item in listener.heard]
                return sum(price.get("symbol") == symbol for price in prices) >= 3

            await listener.until(told)
        venue = self.lab.venues[name]
        for item in listener.heard:
            price = read_price(name, item.decode())
            if price is not None:
                line = venue.lines[price["symbol"]]
                truth = venue.market.price(line.asset, venue.quote)
                self.assertApproximates(float(price["last"]) / truth, 1.0, 0.01)
        self.assertIsNone(listener.closed)

    async def test_coinbase(self) -> None:
        await self.check_feed("coinbase")

    async def test_gemini(self) -> None:
        await self.check_feed("gemini")

    async def test_kraken(self) -> None:
        await self.check_feed("kraken")

    async def test_gateio(self) -> None:
        await self.check_feed("gateio")

    async def test_cryptocom(self) -> None:
        await self.check_feed("cryptocom")

    async def test_okx(self) -> None:
        await self.check_feed("okx")

    async def test_deflate_is_coinbases_alone(self) -> None:
        squeezed = await self.joined("coinbase", deflate=True)
        self.assertTrue(squeezed.websocket_extensions_in_use)
        await squeezed.until_heard('"update"')
        plain = await self.joined("kraken", deflate=True)
        self.assertFalse(plain.websocket_extensions_in_use)
        await plain.until_heard('"update"')

    async def test_another_path_is_not_found(self) -> None:
        url = self.lab.announcement()["exchanges"]["kraken"]["ws_url"]
        error = await self.assertFailure(self.dialling(url.replace("/v2", "/v3")), ConnectionError)
        self.assertIn("404", str(error))

    async def test_frames_of_two_clients_are_counted_and_forgotten(self) -> None:
        one, _ = await self.joined("okx"), await self.joined("okx")
        await one.until_heard('"data"')
        _, state = await self.control("GET", "/state")
        okx = state["exchanges"]["okx"]
        self.assertEqual((okx["connections"], okx["connects"]), (2, 2))
        self.assertGreaterEqual(okx["frames_received"], 1)
        await self.hang_up(one)
        while (await self.control("GET", "/state"))[1]["exchanges"]["okx"]["connections"] != 1:
            pass
        _, state = await self.control("GET", "/state")
        self.assertEqual(state["exchanges"]["okx"]["subscriptions"], 2)


class RestTests(LabCase):
    async def test_every_exchange_answers(self) -> None:
        paths = {
            "coinbase": "/products/BTC-USD/ticker",
            "gemini": "/v1/pubticker/btcusd",
            "kraken": "/0/public/Ticker?pair=XBTUSD,ETHUSD",
            "gateio": "/api/v4/spot/tickers?currency_pair=BTC_USDT",
            "cryptocom": "/exchange/v1/public/get-tickers?instrument_name=BTC_USD",
            "okx": "/api/v5/market/ticker?instId=BTC-USDT",
        }
        for name, path in paths.items():
            status, body, headers = await self.ask("GET", self.lab.announcement()["exchanges"][name]["rest_url"] + path)
            self.assertEqual(status, 200, name)
            self.assertTrue(body)
            self.assertEqual(headers.getRawHeaders("content-type"), ["application/json"])
            self.assertTrue(headers.hasHeader("date"))

    async def test_what_is_not_a_get(self) -> None:
        url = self.lab.announcement()["exchanges"]["okx"]["rest_url"]
        self.assertEqual((await self.ask("POST", url + "/api/v5/market/ticker", {}))[0], 405)

    async def test_host_with_port_443(self) -> None:
        port = int(self.lab.announcement()["exchanges"]["cryptocom"]["rest_url"].rpartition(":")[2])
        lines = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]  # fmt: skip
        for host, status in (("stream.crypto.com:443", b"400"), ("stream.crypto.com", b"101")):
            head = "\r\n".join(["GET /exchange/v1/market HTTP/1.1", f"Host: {host}", *lines, "", ""])
            self.assertEqual(await _first_status(port, head.encode()), status)


async def _first_status(port: int, request: bytes) -> bytes:
    class Asking(Protocol):
        transport: Any

        def connectionMade(self) -> None:
            self.transport.write(request)

        def dataReceived(self, data: bytes) -> None:
            if not answered.called:
                answered.callback(data.split(b" ")[1])
                self.transport.abortConnection()

        def connectionLost(self, reason: Any = None) -> None:
            gone.callback(None)

    answered: Deferred[bytes] = Deferred()
    gone: Deferred[None] = Deferred()
    await HostnameEndpoint(reactor, "127.0.0.1", port).connect(Factory.forProtocol(Asking))
    status = await answered
    await gone
    return status


class ConnectionFaultTests(LabCase):
    def url(self, name: str, half: str = "ws_url") -> str:
        url: str = self.lab.announcement()["exchanges"][name][half]
        return url

    async def test_silence_and_its_end(self) -> None:
        listener = await self.joined("kraken")
        await listener.until_heard('"update"')
        number = await self.begin("silence", "kraken")
        # what was under way has arrived when the answer to a later question has
        await self.steps(5)
        many = len(listener.heard)
        await self.steps(20)
        self.assertEqual(len(listener.heard), many)
        self.assertIsNone(listener.closed)
        await self.end(number)
        await listener.until_heard('"update"', many)

    async def test_fault_ends_by_itself(self) -> None:
        listener = await self.joined("okx")
        await self.begin("silence", "*", for_seconds=0.3)
        await self.steps(3)
        many = len(listener.heard)
        await listener.until_heard('"data"', many)
        self.assertEqual((await self.control("GET", "/faults"))[1], {"faults": []})

    async def test_disconnect(self) -> None:
        first, second = await self.joined("gateio"), await self.joined("cryptocom")
        await self.begin("disconnect", "gateio")
        self.assertFalse((await first.until_closed())[0])
        self.assertIsNone(second.closed)
        await self.begin("disconnect", "cryptocom", code=1013, reason="restart")
        self.assertEqual(await second.until_closed(), (True, 1013, "restart"))
        await (await self.joined("gateio")).until_heard('"success"')

    async def test_huge_frame(self) -> None:
        listener = await self.joined("gemini")
        await self.begin("huge_frame", "gemini", megabytes=3)
        huge = await listener.until(lambda: next((item for item in listener.heard if len(item) > 3e6), None))
        json.loads(huge)
        many = len(listener.heard)
        await listener.until(lambda: len(listener.heard) > many)

    async def test_slow_drip(self) -> None:
        listener = await self.joined("kraken")
        await listener.until_heard('"update"')
        number = await self.begin("slow_drip", "kraken", bytes_per_second=10)
        await self.steps(5)
        many = len(listener.heard)
        listener.say({"method": "ping", "req_id": 77})
        await self.steps(25)
        self.assertLessEqual(len(listener.heard) - many, 1)
        await self.end(number)
        await listener.until_heard('"pong"')
        for item in listener.heard:
            json.loads(item)

    async def test_refuse_connect(self) -> None:
        for how, error in (("reset", ConnectionError), ("http503", ConnectionError), ("unlisten", ConnectError)):
            staying = await self.joined("kraken")
            number = await self.begin("refuse_connect", "kraken", how=how)
            failure = await self.assertFailure(self.dialling(self.url("kraken")), error)
            if how == "http503":
                self.assertIn("503", str(failure))
            self.assertIsNone(staying.closed)
            await self.end(number)
            await (await self.joined("kraken")).until_heard('"update"')

    async def test_unlisten_ends_with_the_last_of_two(self) -> None:
        one = await self.begin("refuse_connect", "okx", how="unlisten")
        other = await self.begin("refuse_connect", "*", how="unlisten")
        await self.end(one)
        _, state = await self.control("GET", "/state")
        self.assertEqual({row["listening"] for row in state["exchanges"].values()}, {False})
        await self.end(other)
        _, state = await self.control("GET", "/state")
        self.assertEqual({row["listening"] for row in state["exchanges"].values()}, {True})

    async def test_rest_down(self) -> None:
        path = self.url("okx", "rest_url") + "/api/v5/market/ticker?instId=BTC-USDT"
        number = await self.begin("rest_down", "okx")
        self.assertEqual((await self.ask("GET", path))[0], 503)
        await self.end(number)
        number = await self.begin("rest_down", "okx", how="reset")
        asking = Deferred.fromCoroutine(self.ask("GET", path))
        await self.assertFailure(asking, ResponseNeverReceived, ResponseFailed)
        await self.end(number)
        number = await self.begin("rest_down", "okx", how="hang")
        answered: list[Any] = []
        asking = Deferred.fromCoroutine(self.ask("GET", path)).addBoth(answered.append)
        await self.steps(10)
        self.assertEqual(answered, [])
        asking.cancel()
        await self.end(number)
        self.assertEqual((await self.ask("GET", path))[0], 200)

    async def test_throttle(self) -> None:
        number = await self.begin("throttle", "coinbase")
        error = await self.assertFailure(self.dialling(self.url("coinbase")), ConnectionError)
        self.assertIn("429", str(error))
        status, _, headers = await self.ask("GET", self.url("coinbase", "rest_url") + "/products/BTC-USD/ticker")
        self.assertEqual((status, headers.getRawHeaders("retry-after")), (429, ["5"]))
        await self.end(number)
        await self.dial(self.url("coinbase"))

    async def test_upgrade_notice(self) -> None:
        listener = await self.joined("okx")
        await self.begin("upgrade_notice", "okx", close_after_seconds=0.2)
        await listener.until_heard('"64008"')
        self.assertEqual((await listener.until_closed())[1], 1001)

    async def test_status(self) -> None:
        listener = await self.joined("kraken")
        number = await self.begin("status", "kraken", system="cancel_only")
        await listener.until_heard('"system":"cancel_only"')
        many = len(listener.heard)
        await self.end(number)
        await listener.until_heard('"system":"online"', many)

    async def test_sequence_gap(self) -> None:
        listener = await self.joined("coinbase")
        await listener.until_heard('"update"')
        await self.begin("sequence_gap", "coinbase", skip=3)
        many = len(listener.heard)
        await listener.until(lambda: len(listener.heard) > many + 3)
        numbers = [json.loads(item)["sequence_num"] for item in listener.heard]
        self.assertEqual(numbers[-1], len(numbers) - 1 + 3)

    async def test_depeg_moves_what_is_quoted_in_usdt(self) -> None:
        listener = await self.joined("gateio")
        first = await listener.until_heard('"update"')
        status, fault = await self.control("POST", "/depeg", {"rate": 0.5, "for_seconds": 60})
        self.assertEqual((status, fault["kind"], fault["coin"]), (201, "depeg", "USDT"))
        price = read_price("gateio", first.decode())
        assert price is not None

        def doubled() -> bool:
            newest = [read_price("gateio", item.decode()) for item in listener.heard]
            found = [row for row in newest if row is not None and row["symbol"] == price["symbol"]]
            return float(found[-1]["last"]) > 1.9 * float(price["last"])

        await listener.until(doubled)
        _, truth = await self.control("GET", "/prices")
        self.assertApproximates(truth["rates"]["USDT"], 0.5, 0.01)
        self.assertEqual((await self.control("DELETE", "/faults"))[1], {"ended": 1})
        await listener.until(lambda: not doubled())

    async def test_who_does_not_read_is_dropped(self) -> None:
        listener: Listener = await self.joined("okx")
        await listener.until_heard('"data"')
        listener.transport.pauseProducing()
        for _ in range(4):
            await self.begin("huge_frame", "okx", megabytes=10)
        while (await self.control("GET", "/state"))[1]["exchanges"]["okx"]["connections"]:
            pass
        listener.transport.resumeProducing()
        self.assertFalse((await listener.until_closed())[0])


class ControlTests(LabCase):
    async def test_state_of_all(self) -> None:
        status, state = await self.control("GET", "/state")
        self.assertEqual(status, 200)
        self.assertEqual(tuple(state["exchanges"]), EXCHANGES)
        self.assertEqual(state["exchanges"]["okx"]["listed"], 3)

    async def test_faults_come_and_go(self) -> None:
        number = await self.begin("silence", "kraken", asset="BTC", for_seconds=60)
        await self.begin("drift", "*")
        _, value = await self.control("GET", "/faults")
        self.assertEqual([fault["kind"] for fault in value["faults"]], ["silence", "drift"])
        self.assertEqual(value["faults"][0]["asset"], "BTC")
        await self.end(number)
        self.assertEqual((await self.control("DELETE", f"/faults/{number}"))[0], 404)
        self.assertEqual((await self.control("DELETE", "/faults/x"))[0], 404)
        self.assertEqual((await self.control("DELETE", "/faults"))[1], {"ended": 1})

    async def test_what_is_wrong_is_said(self) -> None:
        for body, word in (
            ({"kind": "earthquake"}, "earthquake"),
            ([], "object"),
            ({"kind": "depeg", "rate": 0}, "rate"),
            ({"kind": "silence", "asset": "SOL"}, "SOL"),
        ):
            status, value = await self.control("POST", "/faults", body)
            self.assertEqual(status, 400)
            self.assertIn(word, value["error"])
        self.assertEqual((await self.control("GET", "/faults"))[1], {"faults": []})

    async def test_prices(self) -> None:
        _, truth = await self.control("GET", "/prices")
        self.assertEqual(set(truth["mids"]), {"BTC", "ETH"})
        self.assertEqual(set(truth["rates"]), {"USDT", "USDC"})
        _, quotes = await self.control("GET", "/prices?exchange=okx")
        self.assertEqual(set(quotes["quotes"]), {"BTC-USDT", "ETH-USDT", "USDT-USD"})
        self.assertEqual(set(quotes["quotes"]["BTC-USDT"]), {"last", "bid", "ask"})
        self.assertEqual((await self.control("GET", "/prices?exchange=mtgox"))[0], 404)

    async def test_help(self) -> None:
        self.assertIn("routes", (await self.control("GET", "/"))[1])
        self.assertEqual((await self.control("GET", "/nowhere"))[0], 404)
        self.assertEqual((await self.control("PUT", "/faults", {}))[0], 405)
        self.assertEqual((await self.control("GET", "/kinds"))[1]["status"]["exchanges"], ["kraken"])


class StartTests(LabCase):
    async def test_script_is_followed(self) -> None:
        steps = [Step(0.0, {"kind": "silence", "exchange": "okx"}), Step(0.0, {"kind": "freeze", "exchange": "okx"})]
        self.lab = self.make_lab(script=steps)
        await self.steps(20)
        _, value = await self.control("GET", "/faults")
        self.assertEqual([fault["kind"] for fault in value["faults"]], ["silence", "freeze"])
        self.lab = self.make_lab(script=[*steps, Step(0.01, None)])
        await self.steps(20)
        self.assertEqual((await self.control("GET", "/faults"))[1], {"faults": []})

    async def test_taken_port_stops_the_start(self) -> None:
        port = int(self.lab.announcement()["exchanges"]["gemini"]["rest_url"].rpartition(":")[2])
        # gemini's port is the base and two
        other = ExchangeLab(reactor, lambda: 0.0, port_base=port - 2)
        self.assertRaises(CannotListenError, other.start)
        await other.stop()

    async def test_port_base(self) -> None:
        for base in range(23100, 60000, 97):
            lab = ExchangeLab(reactor, lambda: 0.0, port_base=base)
            try:
                lab.start()
            except CannotListenError:
                await lab.stop()
                continue
            urls = lab.announcement()
            await lab.stop()
            self.assertTrue(urls["control"].endswith(f":{base}"))
            ports = [int(row["rest_url"].rpartition(":")[2]) for row in urls["exchanges"].values()]
            self.assertEqual(ports, list(range(base + 1, base + 7)))
            return
        self.fail("no seven ports in a row are free")

    def test_loopback_alone(self) -> None:
        for host in ("127.0.0.1", "127.1.2.3", "::1"):
            self.assertEqual(check_loopback(host), host)
        self.assertEqual(check_loopback("localhost"), "127.0.0.1")
        for host in ("0.0.0.0", "::", "", "10.0.0.1", "example.com", "127.0.0.1.example.com"):
            self.assertRaises(NotLoopbackError, check_loopback, host)
            self.assertRaises(NotLoopbackError, ExchangeLab, reactor, lambda: 0.0, host=host)

    def test_unknown_exchange_in_habits(self) -> None:
        self.assertRaises(ValueError, ExchangeLab, reactor, lambda: 0.0, habits={"mtgox": {"x": 1.0}})
