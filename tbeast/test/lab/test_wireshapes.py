"""Every kind of message has the keys and kinds of values of one that the real exchange was heard to send."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbeast.lab.conversation import Conversation
from tbeast.lab.kraken import KrakenConversation
from tbeast.lab.okx import OkxConversation
from tbeast.lab.venue import Venue
from tbeast.test.lab.support import NOW, RECORDED, get, make_venue, shape, spoken, subscribe_text


class ShapeCase(SynchronousTestCase):
    name = ""

    def setUp(self) -> None:
        self.venue: Venue = make_venue(self.name, limited=False)
        self.talk: Conversation = self.venue.open(NOW)
        self.greeting = [json.loads(str(text)) for text in self.talk.opened(NOW)]

    def say(self, message: Any) -> list[Any]:
        text = message if isinstance(message, str) else json.dumps(message)
        sent = [*self.talk.received(text, NOW + 1), *self.talk.due(NOW + 1)]
        return [json.loads(item) for item in sent if isinstance(item, str)]

    def assertShape(self, sample: str, message: Any) -> None:
        self.assertEqual(shape(message), shape(RECORDED[self.name][sample]))

    def prices(self) -> list[Any]:
        return [json.loads(str(text)) for text in spoken(self.venue, self.talk, NOW + 2)]


class CoinbaseShapes(ShapeCase):
    name = "coinbase"

    def test_frames(self) -> None:
        *snapshots, ack = self.say(subscribe_text(self.name))
        self.assertEqual(len(snapshots), 2)
        for message in (*snapshots, *self.prices()):
            self.assertShape("ticker", message)
        self.assertEqual(ack.keys(), RECORDED[self.name]["ack"].keys())
        beat_ack, beat = self.say({"type": "subscribe", "channel": "heartbeats"})
        self.assertEqual(beat_ack["events"][0]["subscriptions"]["heartbeats"], ["heartbeats"])
        self.assertShape("heartbeat", beat)

    def test_errors_are_the_recorded_ones(self) -> None:
        unknown = self.say({"type": "subscribe", "product_ids": ["BTC-USD"], "channel": "nonsense"})
        self.assertEqual([*unknown, *self.say("{}")], RECORDED[self.name]["errors"])

    def test_rest(self) -> None:
        self.assertShape("rest_one", get(self.venue, "/products/BTC-USD/ticker")[1])
        self.assertShape("rest_all", get(self.venue, "/products/stats")[1]["NEAR-USD"])
        self.assertShape("rest_book", get(self.venue, "/market/product_book", product_id="BTC-USD", limit="1")[1])


class GeminiShapes(ShapeCase):
    name = "gemini"

    def test_frames(self) -> None:
        self.assertEqual(self.say(subscribe_text(self.name)), [{"id": "1", "status": 200}])
        self.say({"id": "2", "method": "subscribe", "params": ["btcusd@trade"]})
        book, trade, other = self.prices()
        self.assertShape("ticker", book)
        self.assertShape("ticker", other)
        self.assertShape("trade", trade)
        self.assertIsInstance(book["E"], int)
        self.assertEqual(len(str(book["E"])), 19)

    def test_answers(self) -> None:
        self.assertEqual(self.say({"id": "ping", "method": "ping"}), [RECORDED[self.name]["pong"]])
        self.assertShape("time", self.say({"id": "time", "method": "time"})[0])
        bad = {"id": 4, "method": "subscribe", "params": ["btcusd@bookTicker", "nosuchperp@depth@100ms"]}
        self.assertEqual(self.say(bad), [RECORDED[self.name]["error"]])
        self.assertEqual(self.say({"id": 11, "method": "dance"}), [RECORDED[self.name]["unsupported"]])

    def test_rest(self) -> None:
        self.assertShape("rest_one", get(self.venue, "/v1/pubticker/btcusd")[1])
        self.assertShape("rest_v2", get(self.venue, "/v2/ticker/BTCUSD")[1])
        self.assertShape("rest_all", get(self.venue, "/v1/pricefeed")[1][0])
        answer, body = get(self.venue, "/v1/pubticker/bla")
        self.assertEqual(answer.status, 400)
        self.assertShape("rest_error", body)


class KrakenShapes(ShapeCase):
    name = "kraken"

    def test_frames(self) -> None:
        self.assertShape("status", self.greeting[0])
        first, second, *snapshots, beat = self.say(subscribe_text(self.name))
        for ack in (first, second):
            self.assertEqual(ack.pop("req_id"), 7)
            self.assertShape("ack", ack)
        self.assertEqual(beat, RECORDED[self.name]["heartbeat"])
        for message in (*snapshots, *self.prices()):
            self.assertShape("ticker", message)

    def test_answers(self) -> None:
        pong = self.say({"method": "ping", "req_id": 694480169830934})[0]
        self.assertShape("pong", pong)
        self.assertEqual(pong["req_id"], 694480169830934)
        self.assertShape("malformed", self.say("{}")[0])
        refusal = {"method": "subscribe", "params": {"channel": "ticker", "symbol": ["XBT/USD"]}}
        message = self.say(refusal)[0]
        self.assertShape("error", message)
        self.assertEqual(message["error"], RECORDED[self.name]["error"]["error"])

    def test_connection_id_needs_more_than_a_double(self) -> None:
        assert isinstance(self.talk, KrakenConversation)
        number = json.loads(self.talk.status())["data"][0]["connection_id"]
        self.assertGreater(number, 2**63)
        self.assertLess(number, 2**64)

    def test_rest(self) -> None:
        self.assertShape("rest_one", get(self.venue, "/0/public/Ticker", pair="XBTUSD")[1])
        answer, body = get(self.venue, "/0/public/Ticker", pair="XBTUSD,NOPEUSD")
        self.assertEqual((answer.status, body), (200, RECORDED[self.name]["rest_error"]))


class GateioShapes(ShapeCase):
    name = "gateio"

    def test_frames(self) -> None:
        (ack,) = self.say({**json.loads(subscribe_text(self.name)), "id": 1})
        self.assertShape("ack", ack)
        for message in self.prices():
            self.assertShape("ticker", message)

    def test_answers(self) -> None:
        self.assertShape("pong", self.say({"time": 1, "channel": "spot.ping"})[0])
        (error,) = self.say(subscribe_text(self.name, ("BTC_USDT", "NOPE_USD")))
        self.assertEqual(error["error"], RECORDED[self.name]["error"]["error"])
        self.assertShape("error", error)

    def test_rest(self) -> None:
        _, rows = get(self.venue, "/api/v4/spot/tickers", currency_pair="BTC_USDT")
        self.assertEqual(len(rows), 1)
        self.assertShape("rest_one", rows[0])


class CryptocomShapes(ShapeCase):
    name = "cryptocom"

    def test_frames(self) -> None:
        for message in (*self.say(subscribe_text(self.name)), *self.prices()):
            self.assertShape("ticker", message)
        beat = self.talk.due(NOW + 31)[-1]
        self.assertShape("heartbeat", json.loads(str(beat)))

    def test_answers(self) -> None:
        (error,) = self.say({"id": 11, "method": "subscribe", "params": {"channels": ["book.NOPEUSD-PERP.50"]}})
        self.assertEqual(error, RECORDED[self.name]["error"])

    def test_rest(self) -> None:
        _, body = get(self.venue, "/exchange/v1/public/get-tickers", instrument_name="BTC_USD")
        self.assertShape("rest_one", body)
        answer, body = get(self.venue, "/public/get-tickers", instrument_name="NOPE")
        self.assertEqual((answer.status, body), (400, RECORDED[self.name]["rest_error"]))


class OkxShapes(ShapeCase):
    name = "okx"

    def test_frames(self) -> None:
        first, second, *snapshots = self.say(subscribe_text(self.name))
        for ack in (first, second):
            self.assertEqual(ack.keys(), RECORDED[self.name]["ack"].keys())
        self.assertEqual(len(snapshots), 2)
        for message in (*snapshots, *self.prices()):
            self.assertShape("ticker", message)

    def test_answers(self) -> None:
        (error,) = self.say(subscribe_text(self.name, ("NOPE-USDT",)))
        self.assertEqual(error.keys(), RECORDED[self.name]["error"].keys())
        self.assertEqual((error["code"], error["event"]), ("60018", "error"))
        assert isinstance(self.talk, OkxConversation)
        notice = json.loads(self.talk.give_notice(NOW, 30))
        self.assertEqual(notice.keys(), RECORDED[self.name]["notice"].keys())
        self.assertEqual(notice["code"], "64008")

    def test_rest(self) -> None:
        self.assertShape("rest_one", get(self.venue, "/api/v5/market/ticker", instId="BTC-USDT")[1])
        answer, body = get(self.venue, "/api/v5/market/ticker", instId="NOPE-USDT")
        self.assertEqual(answer.status, 200)
        self.assertEqual(body.keys(), RECORDED[self.name]["rest_error"].keys())
        self.assertEqual(body["code"], "51001")


del ShapeCase
