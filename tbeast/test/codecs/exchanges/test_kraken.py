"""Kraken's codec against its recorded messages and its known habits, on the socket and over REST."""

from __future__ import annotations

import json
from math import isnan

from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.exchanges.base import (
    EXCHANGE_ERROR,
    HTTP_STATUS,
    MALFORMED,
    UNKNOWN_MESSAGE,
    UNKNOWN_SYMBOL,
    Acknowledged,
    Event,
    Fault,
    Halted,
    Rate,
    Reconnect,
    Refused,
    RestCodec,
    RestRequest,
    Resumed,
    Send,
    Throttled,
)
from tbeast.codecs.exchanges.kraken import EXCHANGE, KrakenSocket
from tbeast.codecs.exchanges.kraken_rest import PAIRS_PATH, TICKER_PATH, KrakenRest
from tbeast.domain.ticks import CROSSED, NO_PRICE, NO_QUOTE, NOT_POSITIVE, Tick
from tbeast.test.codecs.exchanges import garbage
from tbeast.test.codecs.exchanges.garbage import NOW, dumped, labelled, members, only_tick, recording, sent, told

BTC, ETH, DOGE, USDC = "BTC/USD", "ETH/USD", "DOGE/USD", "ETH/USDC"


def opened(*symbols: str) -> KrakenSocket:
    codec = KrakenSocket(symbols)
    codec.opened(NOW)
    return codec


def acknowledged(*symbols: str) -> KrakenSocket:
    codec = opened(*symbols)
    for symbol in symbols:
        codec.received(ack(symbol), NOW)
    return codec


def ack(symbol: str) -> bytes:
    result = {"channel": "ticker", "event_trigger": "bbo", "snapshot": True, "symbol": symbol}
    return json.dumps({"method": "subscribe", "result": result, "success": True, "req_id": 1}).encode()


def refusal(**fields: object) -> bytes:
    return json.dumps({"method": "subscribe", "success": False, **fields}).encode()


def row(symbol: str = BTC, **changed: object) -> dict[str, object]:
    return {"symbol": symbol, "bid": 99.5, "ask": 100.5, "last": 100.0, "volume": 7.0, **changed}


def ticker(*rows: object, kind: str = "update") -> bytes:
    return json.dumps({"channel": "ticker", "type": kind, "data": rows}).encode()


def with_row_text(text: str) -> bytes:
    """A frame with one row for BTC/USD, of whose fields this text stands last, so that it wins."""
    start = '{"symbol":"BTC/USD","bid":99.5,"ask":100.5,"last":100.0,"volume":7.0,'
    return f'{{"channel":"ticker","type":"update","data":[{start}{text}}}]}}'.encode()


def status(system: object) -> bytes:
    return json.dumps(
        {"channel": "status", "type": "update", "data": [{"system": system, "version": "2.0.10"}]}
    ).encode()


class FactsTests(SynchronousTestCase):
    def test_facts(self) -> None:
        facts = EXCHANGE.facts
        self.assertEqual((facts.name, facts.quote), ("kraken", "USD"))
        self.assertEqual((facts.dials, facts.rest), (Rate(10, 60.0), Rate(1, 1.0)))
        self.assertEqual((facts.websocket_url, facts.rest_url), ("wss://ws.kraken.com/v2", "https://api.kraken.com"))
        self.assertFalse(facts.seeds_from_rest)

    def test_makes_its_codecs(self) -> None:
        self.assertIsInstance(EXCHANGE.socket_codec([BTC]), KrakenSocket)
        self.assertIsInstance(EXCHANGE.rest_codec(), KrakenRest)


class SubscribingTests(SynchronousTestCase):
    def test_as_documented(self) -> None:
        events = KrakenSocket([BTC, ETH]).opened(NOW)
        self.assertEqual(sent(events), [json.loads(labelled("kraken/subscribe.json")["ticker_many"])])
        self.assertEqual([event.after_seconds for event in events if isinstance(event, Send)], [0.0])

    def test_fifty_to_a_frame_each_with_its_own_id_and_moment(self) -> None:
        symbols = [f"A{number}/USD" for number in range(120)]
        events = KrakenSocket(symbols).opened(NOW)
        frames = sent(events)
        self.assertEqual([len(frame["params"]["symbol"]) for frame in frames], [50, 50, 20])
        self.assertEqual([symbol for frame in frames for symbol in frame["params"]["symbol"]], symbols)
        self.assertEqual(len({frame["req_id"] for frame in frames}), 3)
        delays = [event.after_seconds for event in events if isinstance(event, Send)]
        self.assertEqual(delays, sorted(set(delays)))
        self.assertEqual(delays[0], 0.0)

    def test_nothing_to_subscribe_to(self) -> None:
        codec = KrakenSocket([])
        self.assertEqual(codec.opened(NOW), [])
        self.assertEqual(codec.due(NOW + 1), [])

    def test_acknowledged_symbol_by_symbol_and_once(self) -> None:
        codec = opened(BTC, USDC)
        self.assertEqual(codec.received(labelled("kraken/ack.json")["one_per_symbol"], NOW), [Acknowledged((USDC,))])
        self.assertEqual(codec.received(ack(BTC), NOW), [Acknowledged((BTC,))])
        self.assertEqual(codec.received(ack(BTC), NOW), [])
        self.assertEqual(codec.received(ack("XYZ/USD"), NOW), [])

    def test_acknowledgement_of_a_list(self) -> None:
        frame = b'{"method":"subscribe","success":true,"result":{"channel":"ticker","symbol":["BTC/USD","ETH/USD"]}}'
        self.assertEqual(opened(BTC, ETH).received(frame, NOW), [Acknowledged((BTC, ETH))])

    def test_acknowledgement_that_names_nothing(self) -> None:
        for result in (b"", b',"result":{}', b',"result":null', b',"result":{"symbol":5}', b',"result":[]'):
            events = opened(BTC).received(b'{"method":"subscribe","success":true' + result + b"}", NOW)
            self.assertEqual(told(events), [MALFORMED], result)

    def test_recorded_refusal_takes_out_that_symbol_alone(self) -> None:
        codec = opened("XBT/USD", ETH)
        frame = labelled("kraken/error.json")["bad_symbol"]
        self.assertEqual(codec.received(frame, NOW), [Refused("XBT/USD", "Currency pair not supported XBT/USD")])
        self.assertEqual(told(codec.received(ticker(row(ETH)), NOW)), ["Acknowledged", "Tick"])
        self.assertEqual(told(codec.received(ticker(row("XBT/USD")), NOW)), [UNKNOWN_SYMBOL])
        # said twice, or of something never asked for, it is just an error
        self.assertEqual(told(codec.received(frame, NOW)), [EXCHANGE_ERROR])

    def test_refusal_that_names_the_symbol_in_its_text_only(self) -> None:
        frame = refusal(error=f"Currency pair not supported {ETH}")
        self.assertEqual(told(opened(BTC, ETH).received(frame, NOW)), ["Refused"])

    def test_recorded_malformed_request_is_no_symbols_fault(self) -> None:
        codec = opened(BTC)
        events = codec.received(labelled("kraken/error.json")["malformed"], NOW)
        self.assertEqual(events, [Fault(EXCHANGE_ERROR, "Malformed request")])
        self.assertEqual(told(codec.received(ticker(row()), NOW)), ["Acknowledged", "Tick"])

    def test_message_rate_costs_no_symbol(self) -> None:
        codec = opened(BTC)
        self.assertEqual(told(codec.received(refusal(error="Exceeded msg rate"), NOW)), [EXCHANGE_ERROR])
        self.assertEqual(told(codec.received(refusal(error="Exceeded msg rate", symbol=BTC), NOW)), [EXCHANGE_ERROR])
        self.assertEqual(codec.received(ack(BTC), NOW), [Acknowledged((BTC,))])

    def test_a_symbols_own_name_is_no_excuse(self) -> None:
        frame = refusal(error="Currency pair not supported BUSY/USD", symbol="BUSY/USD")
        self.assertEqual(told(opened("BUSY/USD").received(frame, NOW)), ["Refused"])

    def test_already_subscribed_is_as_good_as_an_acknowledgement(self) -> None:
        codec = opened(BTC)
        frame = refusal(error="Already subscribed to ticker", symbol=BTC)
        self.assertEqual(codec.received(frame, NOW), [Acknowledged((BTC,))])
        self.assertEqual(codec.received(frame, NOW), [])

    def test_error_text_is_kept_short(self) -> None:
        (event,) = opened(BTC).received(refusal(error="e" * 5000, symbol="s" * 5000), NOW)
        assert isinstance(event, Fault)
        self.assertLess(len(event.detail) + len(event.symbol), 500)


class PriceTests(SynchronousTestCase):
    def test_every_recorded_frame(self) -> None:
        lines = recording("kraken/ticker.jsonl")
        codec = acknowledged(BTC, ETH, USDC)
        events = [event for line in lines for event in codec.received(line, NOW)]
        self.assertEqual(len(events), 5)
        ticks = [event for event in events if isinstance(event, Tick)]
        self.assertEqual([tick.symbol for tick in ticks], [USDC, ETH, BTC, BTC, BTC])
        self.assertEqual(
            ticks[0],
            Tick("kraken", USDC, 3208.47, 3207.04, 3207.71, 2173.29284504, 1768833924.534338, NOW),
        )
        self.assertEqual(
            ticks[4],
            Tick("kraken", BTC, 81205.1, 81205.0, 81205.1, 4696.17832496, 1788481280.217476, NOW),
        )

    def test_recorded_frames_of_the_first_version_are_faults_and_no_more(self) -> None:
        codec = acknowledged(BTC, "XMR/USD", "WAVES/EUR")
        events = [event for line in recording("kraken/ticker_v1_legacy.jsonl") for event in codec.received(line, NOW)]
        self.assertEqual(told(events), [MALFORMED] * 18)

    def test_time_may_be_missing_or_bad(self) -> None:
        for timestamp in ({}, {"timestamp": None}, {"timestamp": ""}, {"timestamp": "soon"}, {"timestamp": [1]},
                          {"timestamp": "2026-01-19T14:45:24"}, {"timestamp": 1e300}):  # fmt: skip
            tick = only_tick(acknowledged(BTC).received(ticker(row(**timestamp)), NOW))
            self.assertTrue(isnan(tick.exchange_time), timestamp)
            self.assertEqual((tick.price, tick.heard_at), (100.0, NOW))

    def test_fine_fractions_of_a_second(self) -> None:
        frame = ticker(row(timestamp="2026-01-19T14:45:24.534338999Z"))
        self.assertAlmostEqual(only_tick(acknowledged(BTC).received(frame, NOW)).exchange_time, 1768833924.534338, 5)

    def test_crossed_by_a_hair_and_beyond_sense(self) -> None:
        codec = acknowledged(BTC)
        self.assertEqual(told(codec.received(ticker(row(bid=100.6)), NOW)), ["Tick"])
        (fault,) = codec.received(ticker(row(bid=110)), NOW)
        self.assertEqual(fault, Fault(CROSSED, "last 100.0, bid 110.0, ask 100.5", BTC))

    def test_a_symbol_not_asked_for(self) -> None:
        (fault,) = acknowledged(BTC).received(ticker(row("XBT/USD")), NOW)
        assert isinstance(fault, Fault)
        self.assertEqual((fault.reason, fault.symbol), (UNKNOWN_SYMBOL, "XBT/USD"))

    def test_bad_rows_cost_no_good_ones(self) -> None:
        rows = [
            row(),
            5,
            row(ETH, bid=""),
            {"symbol": 7},
            [],
            row("NOT/USD"),
            None,
            row(DOGE, last=2, bid=1.99, ask=2.01),
        ]
        events = acknowledged(BTC, ETH, DOGE).received(ticker(*rows), NOW)
        want = ["Tick", NO_QUOTE, MALFORMED, UNKNOWN_SYMBOL, "Tick"]
        self.assertEqual(told(events), want)
        self.assertEqual([event.symbol for event in events if isinstance(event, Tick)], [BTC, DOGE])

    def test_an_unreadable_number_costs_no_other_row(self) -> None:
        good = json.dumps(row())
        frame = f'{{"channel":"ticker","data":[{{"symbol":"ETH/USD","bid":1{"0" * 500}}},{good}]}}'.encode()
        self.assertEqual(told(acknowledged(BTC, ETH).received(frame, NOW)), [NO_PRICE, "Tick"])


class OtherFrameTests(SynchronousTestCase):
    def test_table(self) -> None:
        for frame, want in (
            (labelled("kraken/heartbeat.json")["heartbeat"], []),
            (labelled("kraken/heartbeat.json")["pong"], []),
            (b'{"channel":"heartbeat","data":5}', [MALFORMED]),
            (b'{"method":"pong","error":"Malformed request","success":false}', [EXCHANGE_ERROR]),
            (b'{"method":"unsubscribe","success":true,"result":{"symbol":"BTC/USD"}}', [UNKNOWN_MESSAGE]),
            (b'{"method":"subscribe"}', [UNKNOWN_MESSAGE]),
            (b'{"channel":"book","data":[{"symbol":"BTC/USD"}]}', [UNKNOWN_MESSAGE]),
            (b'{"event":"systemStatus","status":"online"}', [UNKNOWN_MESSAGE]),
            (b'{"channel":7}', [MALFORMED]),
            (b'{"channel":"ticker"}', [MALFORMED]),
            (b'{"channel":"ticker","data":[]}', [MALFORMED]),
            (b'{"channel":"ticker","data":{"symbol":"BTC/USD"}}', [MALFORMED]),
            (b'{"channel":"status","data":null}', [MALFORMED]),
            (b'{"channel":"ticker","data":[{"symbol":"\xff"}]}', [MALFORMED]),
            (b'{"channel":"\xff"}', [MALFORMED]),
            (b'{"data":' * 100_000, [MALFORMED]),
            (b'{"channel":"ticker","data":[' + b"[" * 100_000, [MALFORMED]),
        ):
            codec = acknowledged(BTC)
            self.assertEqual(told(codec.received(frame, NOW)), want, frame[:60])
            self.assertEqual(told(codec.received(ticker(row()), NOW)), ["Tick"])

    def test_recorded_status_with_a_number_beyond_63_bits(self) -> None:
        codec = opened(BTC)
        frame = labelled("kraken/heartbeat.json")["status"]
        # the first word is news: an earlier connection may have told of a halt
        self.assertEqual(codec.received(frame, NOW), [Resumed()])
        self.assertEqual(codec.received(frame, NOW), [])
        huge = frame.replace(b"18125794168470749634", b"18125794168470749634" * 300)
        self.assertEqual(codec.received(huge, NOW), [])

    def test_halts_and_resumes_on_a_change_only(self) -> None:
        codec = opened(BTC)
        for system, want in (
            ("online", [Resumed()]),
            ("maintenance", [Halted("maintenance")]),
            ("maintenance", []),
            ("cancel_only", [Halted("cancel_only")]),
            ("post_only", [Halted("post_only")]),
            ("post_only", []),
            ("online", [Resumed()]),
            ("online", []),
        ):
            self.assertEqual(codec.received(status(system), NOW), want, system)

    def test_a_status_not_known_changes_nothing(self) -> None:
        codec = opened(BTC)
        codec.received(status("maintenance"), NOW)
        for system in ("asleep", "", None, 5):
            self.assertEqual(told(codec.received(status(system), NOW)), [UNKNOWN_MESSAGE], system)
        self.assertEqual(codec.received(status("maintenance"), NOW), [])
        self.assertEqual(codec.received(status("online"), NOW), [Resumed()])


class LivenessTests(SynchronousTestCase):
    def test_one_ping_in_a_silence_and_then_the_end(self) -> None:
        codec = acknowledged(BTC)
        self.assertEqual(codec.due(NOW + 4.9), [])
        (ping,) = sent(codec.due(NOW + 5.0))
        self.assertEqual(set(ping), {"method", "req_id"})
        self.assertEqual(ping["method"], "ping")
        for seconds in (6, 8, 10):
            self.assertEqual(codec.due(NOW + seconds), [])
        self.assertEqual(codec.due(NOW + 10.5), [Reconnect("silent for 10 s")])

    def test_a_pong_saves_it_and_the_next_silence_has_its_own_ping(self) -> None:
        codec = acknowledged(BTC)
        (first,) = sent(codec.due(NOW + 5))
        codec.received(json.dumps({"method": "pong", "req_id": first["req_id"]}).encode(), NOW + 6)
        self.assertEqual(codec.due(NOW + 10.5), [])
        (second,) = sent(codec.due(NOW + 11))
        self.assertNotEqual(first["req_id"], second["req_id"])

    def test_heartbeats_keep_a_quiet_market_alive_without_a_ping(self) -> None:
        codec = acknowledged(BTC)
        for second in range(100):
            codec.received(labelled("kraken/heartbeat.json")["heartbeat"], NOW + second)
            self.assertEqual(codec.due(NOW + second), [])

    def test_a_pong_of_the_protocol_is_no_sign_of_life(self) -> None:
        codec = acknowledged(BTC)
        codec.ponged(NOW + 10)
        self.assertEqual(codec.due(NOW + 11), [Reconnect("silent for 11 s")])


PAIRS = {
    "error": [],
    "result": {
        "XXBTZUSD": {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD", "fees": [[0, 0.26]]},
        "XETHZUSD": {"altname": "ETHUSD", "wsname": "ETH/USD", "base": "XETH", "quote": "ZUSD"},
        "XDGUSD": {"altname": "XDGUSD", "wsname": "XDG/USD", "base": "XXDG", "quote": "ZUSD"},
        "NEARUSD": {"altname": "NEARUSD", "wsname": "NEAR/USD", "base": "NEAR", "quote": "ZUSD"},
        "AIOUSD": {"altname": "AIOUSD", "wsname": "AIO/USD"},
        "AIOZUSD": {"altname": "AIOZUSD", "wsname": "AIOZ/USD"},
        "USDTZUSD": {"altname": "USDTUSD", "wsname": "USDT/USD"},
        "RHEAUSD": {"altname": "RHEAUSD", "wsname": "RHEA/USD"},
        "XBTUSD.d": {"altname": "XBTUSD.d", "base": "XXBT", "quote": "ZUSD"},
        "BROKEN": 5,
        "EVIL": {"altname": "X&pair=Y", "wsname": "EVIL/USD"},
    },
}


def rest_row(price: float = 100.0) -> dict[str, object]:
    around = {"a": str(price + 1), "b": str(price - 1), "c": str(price)}
    return {**{name: [number, "1", "1.000"] for name, number in around.items()}, "v": ["3.5", "12.5"], "o": "1"}


def answer(codec: KrakenRest, request: RestRequest, body: object, status: int = 200, **headers: str) -> list[Event]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return codec.responded(request, status, {name.replace("_", "-"): text for name, text in headers.items()}, text, NOW)


def learned() -> KrakenRest:
    codec = KrakenRest()
    (request,) = codec.requests([ETH])
    answer(codec, request, PAIRS)
    return codec


def guessing() -> KrakenRest:
    codec = KrakenRest()
    (request,) = codec.requests([ETH])
    answer(codec, request, b"no such page", 404)
    return codec


def pairs_of(request: RestRequest) -> list[str]:
    path, _, names = request.path.partition("?pair=")
    assert path == TICKER_PATH, path
    return names.split(",")


def requests_in(events: list[Event]) -> list[RestRequest]:
    return [event for event in events if isinstance(event, RestRequest)]


class RestQuestionTests(SynchronousTestCase):
    def test_the_list_of_pairs_comes_first_and_the_tickers_follow(self) -> None:
        codec = KrakenRest()
        (first,) = codec.requests([BTC, DOGE, ETH, BTC])
        self.assertEqual(first, RestRequest(PAIRS_PATH, (BTC, DOGE, ETH)))
        events = answer(codec, first, PAIRS)
        self.assertEqual(events, [RestRequest(f"{TICKER_PATH}?pair=XBTUSD,XDGUSD,ETHUSD", (BTC, DOGE, ETH))])
        self.assertEqual(codec.requests([BTC]), [RestRequest(f"{TICKER_PATH}?pair=XBTUSD", (BTC,))])

    def test_nothing_to_ask(self) -> None:
        self.assertEqual(KrakenRest().requests([]), [])
        self.assertEqual(learned().requests([]), [])

    def test_a_plain_name_goes_before_a_renamed_one(self) -> None:
        codec = KrakenRest()
        (request,) = codec.requests([BTC])
        both = {
            "NEW": {"altname": "BTCUSD", "wsname": "BTC/USD"},
            "OLD": {"altname": "XBTUSD", "wsname": "XBT/USD"},
        }
        for result in (both, dict(reversed(both.items()))):
            (question,) = answer(codec, request, {"error": [], "result": result})
            assert isinstance(question, RestRequest)
            self.assertEqual(pairs_of(question), ["BTCUSD"])

    def test_a_hundred_to_a_question(self) -> None:
        symbols = [f"A{number}/USD" for number in range(230)]
        result = {f"A{number}USD": {"altname": f"A{number}USD", "wsname": f"A{number}/USD"} for number in range(230)}
        codec = KrakenRest()
        (request,) = codec.requests(symbols)
        questions = requests_in(answer(codec, request, {"error": [], "result": result}))
        self.assertEqual([len(question.symbols) for question in questions], [100, 100, 30])
        self.assertEqual([len(pairs_of(question)) for question in questions], [100, 100, 30])

    def test_a_pair_not_listed_is_asked_for_alone(self) -> None:
        questions = learned().requests([BTC, "NEW/USD", ETH, "EVIL/USD"])
        self.assertEqual(
            [pairs_of(question) for question in questions], [["XBTUSD", "ETHUSD"], ["NEWUSD"], ["EVILUSD"]]
        )

    def test_nothing_of_a_symbol_escapes_into_the_address(self) -> None:
        (question,) = guessing().requests(["A&B=?#/U D"])
        self.assertEqual(question.path, f"{TICKER_PATH}?pair=A%26B%3D%3F%23U%20D")

    def test_without_a_list_names_are_guessed(self) -> None:
        for status, body, reason, again in (
            (404, b"not found", HTTP_STATUS, TICKER_PATH),
            (503, b"<html>", HTTP_STATUS, PAIRS_PATH),
            (200, b"<html>", MALFORMED, PAIRS_PATH),
            (200, b'{"error":[],"result":[]}', MALFORMED, PAIRS_PATH),
            (200, b'{"error":[],"result":{}}', MALFORMED, PAIRS_PATH),
            (200, b'{"error":["EGeneral:Unknown method"]}', EXCHANGE_ERROR, PAIRS_PATH),
            (200, b'{"error":"EGeneral:Internal error"}', EXCHANGE_ERROR, PAIRS_PATH),
        ):
            codec = KrakenRest()
            (request,) = codec.requests([BTC, DOGE, ETH])
            fault, question = answer(codec, request, body, status)
            assert isinstance(fault, Fault)
            assert isinstance(question, RestRequest)
            self.assertEqual(fault.reason, reason, body)
            self.assertEqual(pairs_of(question), ["XBTUSD", "XDGUSD", "ETHUSD"])
            (later,) = codec.requests([BTC])
            self.assertEqual(later.path.partition("?")[0], again)

    def test_a_throttled_list_is_not_followed_up(self) -> None:
        codec = KrakenRest()
        (request,) = codec.requests([BTC])
        self.assertEqual(answer(codec, request, b"", 429, retry_after="7"), [Throttled(7.0)])
        self.assertEqual(codec.requests([BTC]), [request])


class RestAnswerTests(SynchronousTestCase):
    def test_every_recorded_answer(self) -> None:
        bodies = labelled("kraken/rest_ticker.json")
        codec = learned()
        (one,) = codec.requests([BTC])
        tick = only_tick(answer(codec, one, bodies["GET_/0/public/Ticker?pair=XBTUSD_2026_09"]))
        self.assertEqual(tick[:6], ("kraken", BTC, 82998.9, 82998.9, 82999.0, 2862.86180275))
        self.assertTrue(isnan(tick.exchange_time))
        self.assertEqual(tick.heard_at, NOW)
        (two,) = codec.requests([BTC, "NEAR/USD"])
        near, btc = answer(codec, two, bodies["multi_trimmed_2026_07_27"])
        assert isinstance(near, Tick)
        assert isinstance(btc, Tick)
        self.assertEqual(near[:5], ("kraken", "NEAR/USD", 1.8455, 1.8458, 1.8464))
        self.assertTrue(isnan(near.volume))
        self.assertEqual(btc[:5], ("kraken", BTC, 65231.8, 65231.9, 65232.0))
        (dead,) = codec.requests(["RHEA/USD"])
        (fault,) = answer(codec, dead, bodies["dead_market_last_zero"])
        assert isinstance(fault, Fault)
        self.assertEqual((fault.reason, fault.symbol), (NOT_POSITIVE, "RHEA/USD"))
        (refused,) = answer(codec, dead, bodies["unknown_pair_HTTP_200"])
        self.assertEqual(refused, Refused("RHEA/USD", "EQuery:Unknown asset pair"))

    def test_no_letters_are_cut_off(self) -> None:
        for codec in (learned(), guessing()):
            (request,) = codec.requests(["AIO/USD", "AIOZ/USD"])
            body = {"error": [], "result": {"AIOZUSD": rest_row(3.0), "AIOUSD": rest_row(200.0)}}
            prices = {event.symbol: event.price for event in answer(codec, request, body) if isinstance(event, Tick)}
            self.assertEqual(prices, {"AIO/USD": 200.0, "AIOZ/USD": 3.0})

    def test_one_is_never_taken_for_the_other(self) -> None:
        for codec in (learned(), guessing()):
            (request,) = codec.requests(["AIO/USD"])
            events = answer(codec, request, {"error": [], "result": {"AIOZUSD": rest_row()}})
            self.assertEqual(told(events), [UNKNOWN_SYMBOL, NO_PRICE])

    def test_a_listed_name_is_nobodys_guess(self) -> None:
        codec = learned()
        (request,) = codec.requests(["AI/OZUSD"])
        self.assertEqual(pairs_of(request), ["AIOZUSD"])
        events = answer(codec, request, {"error": [], "result": {"AIOZUSD": rest_row()}})
        self.assertEqual(told(events), [UNKNOWN_SYMBOL, NO_PRICE])

    def test_guessed_headings(self) -> None:
        codec = guessing()
        symbols = [BTC, ETH, DOGE, "USDT/USD", "NEAR/USD"]
        (request,) = codec.requests(symbols)
        for keys in (
            ("XXBTZUSD", "XETHZUSD", "XDGUSD", "USDTZUSD", "NEARUSD"),
            ("XBTUSD", "ETHUSD", "XXDGZUSD", "USDTUSD", "NEARUSD"),
        ):
            events = answer(codec, request, {"error": [], "result": {key: rest_row() for key in keys}})
            self.assertEqual([event.symbol for event in events if isinstance(event, Tick)], symbols)

    def test_one_row_a_symbol(self) -> None:
        codec = learned()
        (request,) = codec.requests([ETH])
        events = answer(codec, request, {"error": [], "result": {"XETHZUSD": rest_row(), "ETHUSD": rest_row(7.0)}})
        self.assertEqual(only_tick(events).price, 100.0)

    def test_a_row_that_is_missing(self) -> None:
        codec = learned()
        (request,) = codec.requests([BTC, ETH])
        events = answer(codec, request, {"error": [], "result": {"XXBTZUSD": rest_row()}})
        self.assertEqual(told(events), ["Tick", NO_PRICE])

    def test_bad_rows_cost_no_good_ones(self) -> None:
        codec = learned()
        (request,) = codec.requests([BTC, ETH, DOGE, "NEAR/USD", "AIO/USD"])
        result = {
            "XXBTZUSD": 5,
            "XETHZUSD": {**rest_row(), "b": [""]},
            "XDGUSD": {**rest_row(), "c": []},
            "NEARUSD": {**rest_row(), "v": None},
            "AIOUSD": {**rest_row(), "c": [100, 1], "a": 5},
        }
        events = answer(codec, request, {"error": [], "result": result})
        self.assertEqual(told(events), [NO_PRICE, NO_QUOTE, NO_PRICE, "Tick", NO_QUOTE])
        self.assertEqual([event.symbol for event in events if isinstance(event, Tick)], ["NEAR/USD"])

    def test_an_unknown_pair_is_found_by_asking_singly(self) -> None:
        codec = guessing()
        (request,) = codec.requests([BTC, "BAD/USD", ETH])
        failed = labelled("kraken/rest_ticker.json")["unknown_pair_HTTP_200"]
        singles = requests_in(answer(codec, request, failed))
        self.assertEqual([pairs_of(single) for single in singles], [["XBTUSD"], ["BADUSD"], ["ETHUSD"]])
        self.assertEqual(told(answer(codec, singles[1], failed)), ["Refused"])
        # from now on it is asked for apart from the others, until it is answered
        again = codec.requests([BTC, "BAD/USD", ETH])
        self.assertEqual([pairs_of(each) for each in again], [["XBTUSD", "ETHUSD"], ["BADUSD"]])
        self.assertEqual(told(answer(codec, again[1], {"error": [], "result": {"BADUSD": rest_row()}})), ["Tick"])
        self.assertEqual(len(codec.requests([BTC, "BAD/USD", ETH])), 1)

    def test_one_bad_pair_among_many_is_found_in_few_questions(self) -> None:
        symbols = [f"A{number}/USD" for number in range(100)]
        codec = guessing()
        waiting = [(request, 1) for request in codec.requests(symbols)]
        asked, deepest, priced, refused = 0, 0, set(), []
        while waiting:
            request, depth = waiting.pop()
            asked, deepest = asked + 1, max(deepest, depth)
            if "A37/USD" in request.symbols:
                body: object = {"error": ["EQuery:Unknown asset pair"]}
            else:
                body = {"error": [], "result": {name: rest_row() for name in pairs_of(request)}}
            for event in answer(codec, request, body):
                if isinstance(event, RestRequest):
                    waiting.append((event, depth + 1))
                elif isinstance(event, Tick):
                    priced.add(event.symbol)
                else:
                    refused.append(event)
        self.assertEqual(refused, [Refused("A37/USD", "EQuery:Unknown asset pair")])
        self.assertEqual(priced, set(symbols) - {"A37/USD"})
        self.assertEqual((asked, deepest), (21, 3))

    def test_a_pair_that_is_no_longer_listed_is_forgotten(self) -> None:
        codec = learned()
        (request,) = codec.requests([DOGE])
        self.assertEqual(told(answer(codec, request, {"error": ["EQuery:Unknown asset pair"]})), ["Refused"])
        eth, doge = codec.requests([DOGE, ETH])
        self.assertEqual((pairs_of(eth), pairs_of(doge)), (["ETHUSD"], ["XDGUSD"]))
        # should it come back, it is known by its name again
        self.assertEqual(told(answer(codec, doge, {"error": [], "result": {"XDGUSD": rest_row()}})), ["Tick"])

    def test_too_many_questions(self) -> None:
        codec = learned()
        (request,) = codec.requests([BTC])
        for text in ("EAPI:Rate limit exceeded", "EGeneral:Too many requests", "EGeneral:Temporary lockout"):
            self.assertEqual(answer(codec, request, {"error": [text]}), [Throttled(None)], text)
        self.assertEqual(answer(codec, request, b"<html>", 429), [Throttled(None)])

    def test_other_errors(self) -> None:
        codec = learned()
        (request,) = codec.requests([BTC])
        for status, body, want in (
            (200, {"error": ["EService:Unavailable"]}, Fault(EXCHANGE_ERROR, "EService:Unavailable", BTC)),
            (
                200,
                {"error": ["EService:Busy", "EX:y"], "result": {}},
                Fault(EXCHANGE_ERROR, "EService:Busy; EX:y", BTC),
            ),
            (520, {"error": ["EService:Busy"]}, Fault(HTTP_STATUS, "520 EService:Busy", BTC)),
            (200, {"error": 5, "result": {"XXBTZUSD": rest_row()}}, Fault(MALFORMED, '{"error": 5, "result"', BTC)),
            (200, {"error": [], "result": None}, Fault(MALFORMED, '{"error": [], "result": null}', BTC)),
            (500, {"error": [], "result": {"XXBTZUSD": rest_row()}}, Fault(HTTP_STATUS, '500 {"error": []', BTC)),
        ):
            (fault,) = answer(codec, request, body, status)
            assert isinstance(fault, Fault)
            self.assertEqual((fault.reason, fault.symbol), (want.reason, want.symbol), body)
            self.assertTrue(fault.detail.startswith(want.detail), fault)

    def test_a_warning_is_no_error(self) -> None:
        codec = learned()
        (request,) = codec.requests([BTC])
        body = {"error": ["WGeneral:Something"], "result": {"XXBTZUSD": rest_row()}}
        self.assertEqual(told(answer(codec, request, body)), ["Tick"])


class KrakenProperties(garbage.CodecProperties):
    exchange = EXCHANGE
    symbols = (BTC, ETH)
    spelling = "A{:02d}/USD"
    recorded_frames = [
        *recording("kraken/ticker.jsonl"),
        recording("kraken/ticker_v1_legacy.jsonl")[0],
        *(text for name in ("ack", "error", "heartbeat") for text in labelled(f"kraken/{name}.json").values()),
        ack(BTC),
        refusal(error=f"Currency pair not supported {ETH}"),
    ]
    recorded_bodies = [*labelled("kraken/rest_ticker.json").values(), dumped(PAIRS)]

    def frame(
        self, name: str | None, price: str | None, bid: str | None, ask: str | None, volume: str | None,
        time: str | None, more: str | None,
    ) -> bytes:  # fmt: skip
        row = members(symbol=name, last=price, bid=bid, ask=ask, volume=volume, timestamp=time, zz=more)
        return members(channel='"ticker"', type='"update"', data=f"[{row}]").encode()

    def body(
        self, symbol: str, price: str | None, bid: str | None, ask: str | None, volume: str | None, time: str | None
    ) -> bytes:
        lists = {"c": price, "b": bid, "a": ask}
        raw = {name: None if text is None else f"[{text},1]" for name, text in lists.items()}
        row = members(**raw, v=None if volume is None else f"[1,{volume}]")
        return members(error="[]", result=f'{{"{symbol.replace("BTC/", "XXBTZ")}":{row}}}').encode()

    def asked(self, *symbols: str) -> tuple[RestCodec, RestRequest]:
        codec = guessing()
        (request,) = codec.requests(symbols)
        return codec, request


class KrakenListProperties(KrakenProperties):
    """The same with a list of pairs at hand."""

    def asked(self, *symbols: str) -> tuple[RestCodec, RestRequest]:
        codec = learned()
        (request,) = codec.requests(symbols)
        return codec, request
