"""What each exchange alone does: its habits, as texts in and texts out."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbeast.lab.coinbase import CoinbaseConversation
from tbeast.lab.conversation import Close, Conversation, Ping
from tbeast.lab.kraken import pair_names
from tbeast.lab.venue import Venue
from tbeast.test.lab.support import NOW, begin, get, joined, make_venue, prices_in, spoken, subscribe_text


class DialogueCase(SynchronousTestCase):
    name = ""

    def setUp(self) -> None:
        self.venue: Venue = make_venue(self.name)
        self.talk: Conversation = self.venue.open(NOW)
        self.talk.opened(NOW)

    def say(self, message: Any, now: float = NOW + 1) -> list[Any]:
        text = message if isinstance(message, str) else json.dumps(message)
        return [json.loads(item) for item in self.talk.received(text, now) if isinstance(item, str)]

    def heard(self, now: float) -> list[Any]:
        return [json.loads(item) for item in self.talk.due(now) if isinstance(item, str)]

    def update(self, now: float = NOW + 2) -> list[Any]:
        return [json.loads(str(text)) for text in spoken(self.venue, self.talk, now)]


class CoinbaseDialogue(DialogueCase):
    name = "coinbase"

    def test_who_says_nothing_is_dropped(self) -> None:
        self.assertEqual(self.talk.due(NOW + 4.9), [])
        self.assertEqual(self.talk.due(NOW + 5), [Close()])

    def test_numbers_have_no_gap_over_all_frames(self) -> None:
        frames = self.say(subscribe_text(self.name))
        frames += self.say({"type": "subscribe", "channel": "heartbeats"})
        for second in range(2, 6):
            frames += self.heard(NOW + second) + self.update(NOW + second)
        numbers = [frame["sequence_num"] for frame in frames]
        self.assertEqual(numbers, list(range(len(frames))))
        self.assertEqual({frame["channel"] for frame in frames}, {"ticker", "subscriptions", "heartbeats"})

    def test_errors_have_no_number(self) -> None:
        (error,) = self.say({"type": "subscribe", "product_ids": [], "channel": "level9"})
        self.assertNotIn("sequence_num", error)
        self.assertEqual(self.say(subscribe_text(self.name))[0]["sequence_num"], 0)

    def test_snapshots_come_first_and_acks_add_up(self) -> None:
        first, ack = self.say(subscribe_text(self.name, ("ETH-USD",)))
        self.assertEqual(first["events"][0]["type"], "snapshot")
        self.assertEqual(ack["events"][0]["subscriptions"], {"ticker": ["ETH-USD"]})
        self.say({"type": "subscribe", "channel": "heartbeats"})
        _, ack = self.say(subscribe_text(self.name, ("BTC-USD",)))
        subscriptions = ack["events"][0]["subscriptions"]
        self.assertEqual(list(subscriptions), ["heartbeats", "ticker"])
        self.assertEqual(sorted(subscriptions["ticker"]), ["BTC-USD", "ETH-USD"])

    def test_unknown_product_is_left_out_of_the_ack(self) -> None:
        *tickers, ack = self.say(subscribe_text(self.name, ("NOPE-USD", "BTC-USD")))
        self.assertEqual(len(tickers), 1)
        self.assertEqual(ack["events"][0]["subscriptions"], {"ticker": ["BTC-USD"]})

    def test_usdc_is_another_name_for_usd(self) -> None:
        ticker, _ = self.say(subscribe_text(self.name, ("BTC-USDC",)))
        self.assertEqual(ticker["events"][0]["tickers"][0]["product_id"], "BTC-USD")

    def test_ticker_speaks_of_trades_alone(self) -> None:
        self.say(subscribe_text(self.name))
        lines = list(self.talk.subscribed.values())
        for line in lines:
            self.venue.requote(line, traded=False)
        self.assertEqual(self.talk.prices(lines, NOW + 2), [])
        self.assertEqual(len(self.update()), 2)

    def test_heartbeats_only_when_asked_for(self) -> None:
        self.say(subscribe_text(self.name))
        self.assertEqual(self.heard(NOW + 10), [])
        self.say({"type": "subscribe", "channel": "heartbeats"})
        beats = [self.heard(NOW + second)[0]["events"][0] for second in (10, 11, 12)]
        counts = [beat["heartbeat_counter"] for beat in beats]
        self.assertEqual(counts, [counts[0], counts[0] + 1, counts[0] + 2])
        self.assertIn(" UTC m=+", beats[0]["current_time"])
        self.assertEqual(self.heard(NOW + 12.5), [])

    def test_batch_has_no_book(self) -> None:
        self.say({"type": "subscribe", "product_ids": ["BTC-USD"], "channel": "ticker_batch"})
        (frame,) = self.heard(NOW + 6)
        self.assertNotIn("best_bid", frame["events"][0]["tickers"][0])
        self.assertEqual(self.update(), [])

    def test_silent_socket_is_dropped(self) -> None:
        self.say(subscribe_text(self.name))
        self.assertEqual(self.talk.due(NOW + 90), [])
        self.assertEqual(self.talk.due(NOW + 91), [Close()])

    def test_unsubscribe(self) -> None:
        self.say(subscribe_text(self.name))
        (ack,) = self.say({"type": "unsubscribe", "product_ids": ["BTC-USD"], "channel": "ticker"})
        self.assertEqual(ack["events"][0]["subscriptions"], {"ticker": ["ETH-USD"]})
        self.assertEqual(len(self.update()), 1)
        (ack,) = self.say({"type": "unsubscribe", "channel": "ticker"})
        self.assertEqual(ack["events"][0]["subscriptions"], {})

    def test_too_many_messages(self) -> None:
        answers = [self.say(subscribe_text(self.name, ("BTC-USD",)))[-1] for _ in range(9)]
        self.assertEqual(answers[-1]["type"], "error")
        self.assertEqual([answer["channel"] for answer in answers[:-1]], ["subscriptions"] * 8)

    def test_sequence_gap(self) -> None:
        self.say(subscribe_text(self.name))
        assert isinstance(self.talk, CoinbaseConversation)
        self.talk.skip(2)
        self.assertEqual([frame["sequence_num"] for frame in self.update()], [5, 6])

    def test_rest_wants_a_user_agent_and_a_product(self) -> None:
        self.assertEqual(get(self.venue, "/products/NOPE-USD/ticker")[0].status, 404)
        self.assertEqual(get(self.venue, "/market/product_book", product_id="NOPE-USD")[0].status, 404)
        self.assertEqual(get(self.venue, "/products/BTC-EUR")[0].status, 404)
        self.assertEqual(get(self.venue, "/api/v3/brokerage/market/product_book", product_id="BTC-USD")[0].status, 200)
        _, everything = get(self.venue, "/products/stats")
        self.assertLessEqual({*self.venue.lines, "BTC-EUR"}, set(everything))


class GeminiDialogue(DialogueCase):
    name = "gemini"

    def test_one_bad_name_refuses_the_whole_frame(self) -> None:
        (error,) = self.say(subscribe_text(self.name, ("btcusd", "nopeusd")))
        self.assertEqual(error["error"], {"code": -1013, "msg": "Invalid stream name: nopeusd@bookTicker"})
        self.assertEqual(self.update(), [])
        self.assertEqual(self.heard(NOW + 2), [])

    def test_upper_case_is_no_name(self) -> None:
        (error,) = self.say(subscribe_text(self.name, ("BTCUSD",)))
        self.assertEqual(error["error"]["code"], -1013)

    def test_no_snapshot_and_prices_before_the_ack(self) -> None:
        self.assertEqual(self.say(subscribe_text(self.name)), [])
        first, second, ack = self.update()
        self.assertEqual((first["s"], second["s"]), ("btcusd", "ethusd"))
        self.assertEqual(ack, {"id": "1", "status": 200})
        self.assertEqual(len(self.update()), 2)

    def test_quiet_book_is_acked_soon(self) -> None:
        self.say(subscribe_text(self.name))
        self.assertEqual(self.heard(NOW + 1.25), [{"id": "1", "status": 200}])

    def test_update_numbers_rise(self) -> None:
        self.say(subscribe_text(self.name))
        numbers = [frame["u"] for _ in range(20) for frame in self.update() if "u" in frame]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertGreater(max(after - before for before, after in pairwise(numbers)), 1)

    def test_pings_at_protocol_level(self) -> None:
        self.assertEqual(self.talk.due(NOW + 19), [])
        self.assertEqual(self.talk.due(NOW + 20), [Ping()])
        self.assertEqual(self.talk.due(NOW + 21), [])
        self.assertEqual(self.talk.due(NOW + 130), [Ping()])

    def test_unsubscribe(self) -> None:
        self.say(subscribe_text(self.name))
        self.update()
        self.say({"id": "2", "method": "unsubscribe", "params": ["btcusd@bookTicker"]})
        self.assertEqual([frame.get("s") for frame in self.update()], ["ethusd", None])

    def test_odd_messages(self) -> None:
        for message in ("", "[]", {"method": 3}, {"id": 1, "method": "subscribe", "params": "btcusd@bookTicker"}):
            (error,) = self.say(message)
            self.assertEqual(error["status"], 400)

    def test_volume_window_is_older_than_now(self) -> None:
        _, body = get(self.venue, "/v1/pubticker/RNDRUSD")
        self.assertIn("RNDR", body["volume"])
        self.assertLess(body["volume"]["timestamp"], NOW * 1000)
        pairs = {row["pair"] for row in get(self.venue, "/v1/pricefeed")[1]}
        self.assertLessEqual({"BTCUSD", "BTCGUSDPERP"}, pairs)


class KrakenDialogue(DialogueCase):
    name = "kraken"

    def test_acks_one_by_one_then_snapshots(self) -> None:
        frames = self.say(subscribe_text(self.name, ("BTC/USD", "XDG/USD", "ETH/USD")))
        self.assertEqual([frame.get("success") for frame in frames], [True, False, True, None, None])
        self.assertEqual(frames[1]["symbol"], "XDG/USD")
        self.assertEqual([frame["type"] for frame in frames[3:]], ["snapshot", "snapshot"])

    def test_without_snapshot(self) -> None:
        message = json.loads(subscribe_text(self.name))
        message["params"]["snapshot"] = False
        self.assertEqual(len(self.say(message)), 2)

    def test_trigger(self) -> None:
        message = json.loads(subscribe_text(self.name, ("BTC/USD",)))
        self.say(message)
        message["params"].update(symbol=["ETH/USD"])
        del message["params"]["event_trigger"]
        self.say(message)
        lines = list(self.talk.subscribed.values())
        for line in lines:
            self.venue.requote(line, traded=False)
        frames = self.talk.prices(lines, NOW + 2)
        self.assertEqual([price["symbol"] for price in prices_in(self.name, frames)], ["BTC/USD"])
        self.assertEqual(len(self.update()), 2)

    def test_heartbeat_once_subscribed(self) -> None:
        self.assertEqual(self.heard(NOW + 5), [])
        self.say(subscribe_text(self.name, ("NOPE/USD",)))
        self.assertEqual(self.heard(NOW + 6), [])
        self.say(subscribe_text(self.name))
        self.assertEqual(self.heard(NOW + 7), [{"channel": "heartbeat"}])
        self.assertEqual(self.heard(NOW + 7.5), [])
        self.assertEqual(self.heard(NOW + 8), [{"channel": "heartbeat"}])

    def test_closed_without_a_subscription(self) -> None:
        self.assertEqual(self.talk.due(NOW + 59), [])
        self.assertEqual(self.talk.due(NOW + 60), [Close(1000, "idle")])

    def test_unsubscribe_starts_the_idle_time(self) -> None:
        self.say(subscribe_text(self.name, ("BTC/USD",)))
        message = {"method": "unsubscribe", "params": {"channel": "ticker", "symbol": ["BTC/USD", "ETH/USD"]}}
        self.assertEqual([frame["success"] for frame in self.say(message, NOW + 100)], [True, False])
        self.assertEqual(self.talk.due(NOW + 159), [])
        self.assertEqual(self.talk.due(NOW + 160), [Close(1000, "idle")])

    def test_prices_are_plain_decimals(self) -> None:
        self.say(subscribe_text(self.name, ("SHIB/USD", "BTC/USD")))
        for text in spoken(self.venue, self.talk, NOW + 2):
            self.assertNotIn("e-", str(text).partition('"bid"')[2])

    def test_odd_messages(self) -> None:
        for message in ("", "3", {"method": "dance"}):
            self.assertEqual(self.say(message)[0]["method"], "error")
        for params in (None, {}, {"channel": "ticker"}, {"channel": "ticker", "symbol": "BTC/USD"},
                       {"channel": "book", "symbol": ["BTC/USD"]},
                       {"channel": "ticker", "symbol": ["BTC/USD"], "event_trigger": "moon"}):  # fmt: skip
            (answer,) = self.say({"method": "subscribe", "params": params})
            self.assertEqual(answer["success"], False)

    def test_status_fault(self) -> None:
        self.say(subscribe_text(self.name))
        number = begin(self.venue, "status")
        greeting = json.loads(str(self.venue.open(NOW).opened(NOW)[0]))
        self.assertEqual(greeting["data"][0]["system"], "maintenance")
        self.assertEqual(self.update(), [])
        self.assertEqual(self.heard(NOW + 3), [{"channel": "heartbeat"}])
        self.assertEqual(get(self.venue, "/0/public/SystemStatus")[1]["result"]["status"], "maintenance")
        self.venue.faults.remove(number)
        self.assertEqual(len(self.update()), 2)

    def test_rest_names(self) -> None:
        for symbol, key, altname in (
            ("BTC/USD", "XXBTZUSD", "XBTUSD"), ("ETH/USD", "XETHZUSD", "ETHUSD"), ("DOGE/USD", "XDGUSD", "XDGUSD"),
            ("NEAR/USD", "NEARUSD", "NEARUSD"), ("USDT/USD", "USDTZUSD", "USDTUSD"), ("USDC/USD", "USDCUSD", "USDCUSD"),
        ):  # fmt: skip
            pair = pair_names(symbol)
            self.assertEqual((pair.key, pair.altname), (key, altname))
        _, body = get(self.venue, "/0/public/Ticker", pair="BTCUSD,XDGUSD")
        self.assertEqual(list(body["result"]), ["XXBTZUSD", "XDGUSD"])
        _, pairs = get(self.venue, "/0/public/AssetPairs")
        self.assertEqual(pairs["result"]["XDGUSD"]["wsname"], "XDG/USD")
        self.assertEqual(pairs["result"]["XXBTZUSD"]["altname"], "XBTUSD")
        _, everything = get(self.venue, "/0/public/Ticker")
        self.assertEqual(everything["result"].keys(), pairs["result"].keys())
        self.assertLessEqual({"AIOUSD", "AIOZUSD", "XXBTZEUR"}, everything["result"].keys())

    def test_rest_prices_are_texts_and_nulls_are_nulls(self) -> None:
        for value, told in (("null", None), ("empty", ""), ("zero", "0")):
            number = begin(self.venue, "garbage", value=value, fields="last")
            _, body = get(self.venue, "/0/public/Ticker", pair="XBTUSD")
            row = body["result"]["XXBTZUSD"]
            self.assertEqual(row["c"][0], told)
            self.assertRegex(row["a"][0], r"^\d+\.\d{5}$")
            self.venue.faults.remove(number)

    def test_rest_asked_too_often_says_so_with_status_200(self) -> None:
        answers = [get(self.venue, "/0/public/Ticker", pair="XBTUSD") for _ in range(16)]
        self.assertEqual(answers[14][1]["error"], [])
        self.assertEqual((answers[15][0].status, answers[15][1]), (200, {"error": ["EGeneral:Too many requests"]}))


class GateioDialogue(DialogueCase):
    name = "gateio"

    def test_one_unknown_pair_fails_the_frame(self) -> None:
        (error,) = self.say(subscribe_text(self.name, ("BTC_USDT", "NOPE_USDT")))
        self.assertEqual(error["error"], {"code": 2, "message": "unknown currency pair: NOPE_USDT"})
        self.assertEqual(error["result"], {"status": "fail"})
        self.assertEqual(self.update(), [])

    def test_no_snapshot(self) -> None:
        (ack,) = self.say(subscribe_text(self.name))
        self.assertEqual(ack["result"], {"status": "success"})
        self.assertEqual(self.heard(NOW + 1), [])

    def test_at_most_once_a_second(self) -> None:
        self.say(subscribe_text(self.name, ("BTC_USDT",)))
        times = [NOW + step / 20 for step in range(200) if self.venue.moved(["BTC"], NOW + step / 20)]
        self.assertEqual(len(times), 10)
        self.assertGreaterEqual(min(b - a for a, b in pairwise(times)), 1.0)

    def test_nothing_without_a_change(self) -> None:
        self.say(subscribe_text(self.name, ("BTC_USDT",)))
        self.assertEqual(self.venue.moved(["ETH", "SOL"], NOW + 5), [])

    def test_dropped_without_subscription_or_sign_of_life(self) -> None:
        self.assertEqual(self.talk.due(NOW + 29), [])
        self.assertEqual(self.talk.due(NOW + 30), [Close()])
        other = joined(self.venue)
        self.assertEqual(other.due(NOW + 60), [])
        self.assertEqual(other.due(NOW + 61), [Close()])
        other.pinged(NOW + 50)
        self.assertEqual(other.due(NOW + 100), [])
        other.received('{"time":1,"channel":"spot.ping"}', NOW + 109)
        self.assertEqual(other.due(NOW + 168), [])

    def test_bad_json_is_code_1_and_odd_requests_code_2(self) -> None:
        self.assertEqual(self.say("nonsense")[0]["error"]["code"], 1)
        good = json.loads(subscribe_text(self.name))
        changes: tuple[dict[str, Any], ...] = (
            {"channel": "spot.magic"},
            {"event": "dance"},
            {"payload": []},
            {"payload": "BTC_USDT"},
            {"time": "now"},
        )
        for change in changes:
            self.assertEqual(self.say({**good, **change})[0]["error"]["code"], 2, change)

    def test_unsubscribe(self) -> None:
        self.say(subscribe_text(self.name))
        self.say({**json.loads(subscribe_text(self.name, ("BTC_USDT",))), "event": "unsubscribe"})
        self.assertEqual(list(self.talk.subscribed), ["ETH_USDT"])

    def test_rest(self) -> None:
        answer, body = get(self.venue, "/api/v4/spot/tickers", currency_pair="NOPE_USDT")
        self.assertEqual((answer.status, body["label"]), (400, "INVALID_CURRENCY_PAIR"))
        answer, rows = get(self.venue, "/api/v4/spot/tickers")
        self.assertEqual(len(rows), 150 + 3)
        self.assertEqual(answer.headers["X-Gate-RateLimit-Limit"], "200")

    def test_prices_are_in_usdt(self) -> None:
        self.venue.market.send_coin("USDT", 0.5)
        self.venue.market.step()
        _, rows = get(self.venue, "/api/v4/spot/tickers", currency_pair="BTC_USDT")
        self.assertApproximates(float(rows[0]["last"]) / self.venue.market.mids["BTC"], 2.0, 0.01)


class CryptocomDialogue(DialogueCase):
    name = "cryptocom"

    def test_too_early_a_subscription(self) -> None:
        (error,) = self.say(subscribe_text(self.name), NOW + 0.5)
        self.assertEqual((error["id"], error["code"]), (1, 42901))
        self.assertEqual(self.update(), [])
        self.assertEqual(len(self.say(subscribe_text(self.name), NOW + 0.9)), 2)

    def test_first_frame_carries_the_id(self) -> None:
        first = self.say({"id": 17, "method": "subscribe", "params": {"channels": ["ticker.BTC_USD"]}})
        self.assertEqual([frame["id"] for frame in first], [17])
        self.assertEqual([frame["id"] for frame in self.update()], [-1])

    def test_unknown_symbol_leaves_the_others(self) -> None:
        error, good = self.say(subscribe_text(self.name, ("BTC_USD", "NOPE_USD")))
        self.assertEqual((error["code"], error["channel"]), (40003, "ticker.NOPE_USD"))
        self.assertEqual(good["result"]["instrument_name"], "BTC_USD")

    def test_third_unanswered_heartbeat_ends_it(self) -> None:
        self.say(subscribe_text(self.name))
        beats = []
        for second in range(2, 95):
            for item in self.talk.due(NOW + second):
                self.assertNotIsInstance(item, Close)
                if isinstance(item, str):
                    beats.append(second)
        self.assertEqual(beats, [30, 60, 90])
        self.assertIn(Close(1000, ""), self.talk.due(NOW + 95))

    def test_answered_heartbeats_keep_it(self) -> None:
        beats = 0
        for second in range(2, 400):
            for item in self.talk.due(NOW + second):
                self.assertNotIsInstance(item, Close)
                if isinstance(item, str):
                    beats += 1
                    number = json.loads(item)["id"]
                    self.say({"id": number, "method": "public/respond-heartbeat"}, NOW + second)
        self.assertEqual(beats, 13)

    def test_answer_with_another_id_is_none(self) -> None:
        ended = False
        for second in range(2, 100):
            for item in self.talk.due(NOW + second):
                if isinstance(item, str):
                    self.say({"id": json.loads(item)["id"] + 1, "method": "public/respond-heartbeat"}, NOW + second)
                ended = ended or isinstance(item, Close)
        self.assertTrue(ended)

    def test_protocol_pings(self) -> None:
        pings = [second for second in range(1, 21) if Ping() in self.talk.due(NOW + second)]
        self.assertEqual(pings, [5, 10, 15, 20])

    def test_host_with_port_443_is_refused(self) -> None:
        self.assertEqual(self.venue.refuses_dial("stream.crypto.com:443", NOW), (400, "Bad Request"))
        self.assertIsNone(self.venue.refuses_dial("stream.crypto.com", NOW))
        self.assertIsNone(self.venue.refuses_dial("127.0.0.1:14430", NOW))

    def test_most_channels(self) -> None:
        venue = make_venue(self.name, channels=1)
        talk = venue.open(NOW)
        sent = [json.loads(str(item)) for item in talk.received(subscribe_text(self.name), NOW + 1)]
        self.assertEqual([message["code"] for message in sent], [40107, 0])

    def test_odd_messages(self) -> None:
        for message in ("", "[]", {"method": "subscribe"}, {"method": "subscribe", "params": {"channels": [1]}}):
            self.assertEqual(self.say(message)[0]["code"], 40001)
        self.assertEqual(self.say({"method": "public/respond-heartbeat"}), [])

    def test_rest_mixes_markets(self) -> None:
        _, body = get(self.venue, "/public/get-tickers")
        names = [row["i"] for row in body["result"]["data"]]
        self.assertLessEqual({"BTC_USD", "BTC_USDT", "BTCUSD-PERP", "BTCUSD-260925"}, set(names))
        self.assertEqual(len(names), len(set(names)))


class OkxDialogue(DialogueCase):
    name = "okx"

    def test_bare_text_ping(self) -> None:
        self.assertEqual(self.talk.received("ping", NOW + 1), ["pong"])

    def test_unknown_instrument_is_named_in_the_words_alone(self) -> None:
        error, ack, snapshot = self.say(subscribe_text(self.name, ("NOPE-USDT", "BTC-USDT")))
        self.assertEqual(error["code"], "60018")
        self.assertIn("instId:NOPE-USDT doesn't exist", error["msg"])
        self.assertNotIn("arg", error)
        self.assertEqual(ack["arg"], {"channel": "tickers", "instId": "BTC-USDT"})
        self.assertEqual(ack["connId"], error["connId"])
        self.assertEqual(snapshot["data"][0]["instId"], "BTC-USDT")

    def test_id_comes_back(self) -> None:
        message = {**json.loads(subscribe_text(self.name, ("BTC-USDT",))), "id": "md"}
        self.assertEqual(self.say(message)[0]["id"], "md")

    def test_at_most_every_tenth_of_a_second(self) -> None:
        self.say(subscribe_text(self.name, ("BTC-USDT",)))
        times = [NOW + step / 50 for step in range(500) if self.venue.moved(["BTC"], NOW + step / 50)]
        self.assertGreaterEqual(min(b - a for a, b in pairwise(times)), 0.0999)
        self.assertGreater(len(times), 50)

    def test_closed_when_idle_and_kept_by_pings(self) -> None:
        self.assertEqual(self.talk.due(NOW + 29), [])
        self.assertIsInstance(self.talk.due(NOW + 30)[0], Close)
        other = joined(self.venue)
        self.assertEqual(other.due(NOW + 30.9), [])
        other.received("ping", NOW + 30.9)
        self.assertEqual(other.due(NOW + 60), [])
        self.assertIsInstance(other.due(NOW + 61)[0], Close)

    def test_notice_is_kept(self) -> None:
        self.say(subscribe_text(self.name))
        self.talk.give_notice(NOW + 2, 5.0)  # type: ignore[attr-defined]
        self.assertEqual(self.talk.due(NOW + 6.9), [])
        self.assertEqual(self.talk.due(NOW + 7), [Close(1001, "service upgrade")])

    def test_odd_messages(self) -> None:
        for message in ("", "[]", {"op": "dance"}, {"op": "subscribe", "args": "BTC-USDT"}, "x" * 70000):
            self.assertEqual(self.say(message)[0]["event"], "error")
        (error,) = self.say({"op": "subscribe", "args": ["BTC-USDT"]})
        self.assertEqual(error["code"], "60018")
        self.assertEqual(self.say({"op": "subscribe", "args": [{"channel": "books", "instId": "BTC-USDT"}]})[0]["code"],
                         "60018")  # fmt: skip

    def test_unsubscribe(self) -> None:
        self.say(subscribe_text(self.name))
        (ack,) = self.say({**json.loads(subscribe_text(self.name, ("BTC-USDT",))), "op": "unsubscribe"})
        self.assertEqual(ack["event"], "unsubscribe")
        self.assertEqual(list(self.talk.subscribed), ["ETH-USDT"])

    def test_rest_errors_have_status_200(self) -> None:
        for path, query, code in (
            ("ticker", {"instId": "NOPE"}, "51001"), ("tickers", {}, "51000"), ("tickers", {"instType": "SWAP"}, "0"),
        ):  # fmt: skip
            answer, body = get(self.venue, f"/api/v5/market/{path}", **query)
            self.assertEqual((answer.status, body["code"], body["data"]), (200, code, []))
        _, body = get(self.venue, "/api/v5/market/tickers", instType="SPOT")
        self.assertLessEqual({"BTC-USDT", "BTC-USD", "BTC-USDC"}, {row["instId"] for row in body["data"]})

    def test_rest_asked_too_often(self) -> None:
        answers = [get(self.venue, "/api/v5/market/ticker", instId="BTC-USDT") for _ in range(21)]
        self.assertEqual(answers[19][1]["code"], "0")
        self.assertEqual((answers[20][0].status, answers[20][1]["code"]), (200, "50011"))


del DialogueCase
