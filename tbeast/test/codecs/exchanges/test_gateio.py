"""Gate.io's codec against its recorded messages and its known habits, on the socket and over REST."""

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
    Rate,
    Reconnect,
    Refused,
    RestRequest,
    Send,
    Throttled,
)
from tbeast.codecs.exchanges.gateio import EXCHANGE, TICKERS_PATH, GateioRest, GateioSocket
from tbeast.domain.ticks import NO_PRICE, NO_QUOTE, NOT_POSITIVE, Tick
from tbeast.test.codecs.exchanges import garbage
from tbeast.test.codecs.exchanges.garbage import NOW, labelled, members, only_tick, recording, sent, told

BTC, ETH, NOPE, LEVERAGED = "BTC_USDT", "ETH_USDT", "NOPE_USD", "BTC3L_USDT"


def opened(*symbols: str) -> GateioSocket:
    codec = GateioSocket(symbols)
    codec.opened(NOW)
    return codec


def acknowledged(*symbols: str) -> GateioSocket:
    codec = opened(*symbols)
    codec.received(ack(id=1), NOW)
    return codec


def ack(**fields: object) -> bytes:
    message = {"channel": "spot.tickers", "event": "subscribe", "result": {"status": "success"}, **fields}
    return json.dumps({"time": 1790000000, **message}).encode()


def failure(code: object, message: object, **fields: object) -> bytes:
    return ack(error={"code": code, "message": message}, result={"status": "fail"}, **fields)


def unknown(*symbols: str, **fields: object) -> bytes:
    return failure(2, f"unknown currency pair: {','.join(symbols)}", **fields)


def row(symbol: str = BTC, **changed: object) -> dict[str, object]:
    quote = {"last": "100", "highest_bid": "99.5", "lowest_ask": "100.5", "base_volume": "7"}
    return {"currency_pair": symbol, **quote, "change_percentage": "-1.5", **changed}


def update(result: object, **fields: object) -> bytes:
    envelope = {"time": 1790000000, "channel": "spot.tickers", "event": "update"}
    return json.dumps({**envelope, "result": result, **fields}).encode()


class FactsTests(SynchronousTestCase):
    def test_facts(self) -> None:
        facts = EXCHANGE.facts
        self.assertEqual((facts.name, facts.quote, facts.symbols_per_socket), ("gateio", "USDT", 100))
        self.assertEqual((facts.dials, facts.rest), (Rate(2, 1.0), Rate(10, 1.0)))
        self.assertEqual(facts.websocket_url, "wss://api.gateio.ws/ws/v4/")
        self.assertEqual(facts.rest_url, "https://api.gateio.ws")
        self.assertTrue(facts.seeds_from_rest)

    def test_makes_its_codecs(self) -> None:
        self.assertIsInstance(EXCHANGE.socket_codec([BTC]), GateioSocket)
        self.assertIsInstance(EXCHANGE.rest_codec(), GateioRest)


class SubscribingTests(SynchronousTestCase):
    def test_as_recorded(self) -> None:
        (frame,) = sent(GateioSocket([BTC, ETH]).opened(1726121320.9))
        self.assertEqual(frame, json.loads(labelled("gateio/subscribe.json")["with_id"]))

    def test_all_symbols_in_one_frame(self) -> None:
        symbols = [f"A{number}_USDT" for number in range(100)]
        (frame,) = sent(GateioSocket(symbols).opened(NOW))
        self.assertEqual((frame["payload"], frame["time"]), (symbols, 1790000000))

    def test_nothing_to_subscribe_to(self) -> None:
        codec = GateioSocket([])
        self.assertEqual(codec.opened(NOW), [])
        self.assertEqual(codec.due(NOW + 1), [])

    def test_acknowledged_by_the_echoed_payload(self) -> None:
        codec = opened("BRETT_USDT", BTC)
        frame = labelled("gateio/ack.json")["2024"]
        self.assertEqual(codec.received(frame, NOW), [Acknowledged(("BRETT_USDT",))])
        self.assertEqual(codec.received(frame, NOW), [])

    def test_acknowledged_by_turn_where_there_is_neither_id_nor_payload(self) -> None:
        codec = opened(BTC, ETH)
        frame = labelled("gateio/ack.json")["2021"]
        self.assertEqual(codec.received(frame, NOW), [Acknowledged((BTC, ETH))])
        self.assertEqual(codec.received(frame, NOW), [])

    def test_acknowledged_by_id(self) -> None:
        self.assertEqual(opened(BTC, ETH).received(ack(id=1), NOW), [Acknowledged((BTC, ETH))])
        self.assertEqual(opened(BTC, ETH).received(ack(id="1"), NOW), [Acknowledged((BTC, ETH))])
        self.assertEqual(opened(BTC, ETH).received(ack(id=2), NOW), [])

    def test_an_answer_that_says_nothing(self) -> None:
        results: tuple[object, ...] = (None, {}, {"status": 5}, {"status": "maybe"}, [])
        for result in results:
            self.assertEqual(told(opened(BTC).received(ack(id=1, result=result), NOW)), [MALFORMED], result)

    def test_the_named_pair_is_taken_out_and_the_rest_asked_for_again(self) -> None:
        codec = opened(BTC, NOPE, ETH)
        events = codec.received(unknown(NOPE, id=1), NOW)
        self.assertEqual(events[0], Refused(NOPE, f"2 unknown currency pair: {NOPE}"))
        (again,) = sent(events[1:])
        self.assertEqual((again["payload"], again["id"], again["event"]), ([BTC, ETH], 2, "subscribe"))
        self.assertEqual(codec.received(ack(id=2), NOW), [Acknowledged((BTC, ETH))])
        self.assertEqual(codec.due(NOW + 9), [])

    def test_failure_without_id_is_placed_by_payload_or_turn(self) -> None:
        for fields in ({"payload": [BTC, NOPE]}, {}):
            events = opened(BTC, NOPE).received(unknown(NOPE, **fields), NOW)
            self.assertEqual(told(events), ["Refused", "Send"])
            self.assertEqual(sent(events)[0]["payload"], [BTC])

    def test_many_bad_pairs_one_after_another(self) -> None:
        symbols = [f"A{number}_USDT" for number in range(20)]
        bad = set(symbols[5:15])
        codec = GateioSocket(symbols)
        waiting, refused, frames = sent(codec.opened(NOW)), [], 0
        while waiting:
            frame = waiting.pop(0)
            frames += 1
            culprit = next((symbol for symbol in frame["payload"] if symbol in bad), None)
            said = ack(id=frame["id"]) if culprit is None else unknown(culprit, id=frame["id"])
            events = codec.received(said, NOW)
            refused += [event.symbol for event in events if isinstance(event, Refused)]
            waiting += sent(events)
        self.assertEqual(set(refused), bad)
        self.assertEqual((len(refused), frames), (10, 11))

    def test_several_named_at_once(self) -> None:
        events = opened(BTC, NOPE, ETH).received(unknown(NOPE, ETH, id=1), NOW)
        self.assertEqual(told(events), ["Refused", "Refused", "Send"])

    def test_only_whole_names_count(self) -> None:
        events = opened("BTC_USD", BTC, LEVERAGED).received(unknown(LEVERAGED, id=1), NOW)
        self.assertEqual([event.symbol for event in events if isinstance(event, Refused)], [LEVERAGED])
        self.assertEqual(sent(events)[0]["payload"], ["BTC_USD", BTC])

    def test_spelling_in_lower_case(self) -> None:
        self.assertEqual(told(opened(BTC, NOPE).received(unknown("nope_usd", id=1), NOW)), ["Refused", "Send"])

    def test_everything_refused(self) -> None:
        codec = opened(NOPE)
        self.assertEqual(told(codec.received(unknown(NOPE, id=1), NOW)), ["Refused"])
        self.assertEqual(told(codec.received(unknown(NOPE, id=1), NOW)), [EXCHANGE_ERROR])

    def test_one_by_one_when_no_name_can_be_recognised(self) -> None:
        codec = opened(BTC, NOPE, ETH)
        events = codec.received(failure("2", "invalid argument", id=1), NOW)
        self.assertEqual(told(events), [EXCHANGE_ERROR, "Send", "Send", "Send"])
        frames = sent(events)
        self.assertEqual([frame["payload"] for frame in frames], [[BTC], [NOPE], [ETH]])
        delays = [event.after_seconds for event in events if isinstance(event, Send)]
        self.assertEqual(delays, sorted(set(delays)))
        self.assertEqual(codec.received(ack(id=frames[0]["id"]), NOW), [Acknowledged((BTC,))])
        said = failure(2, "invalid argument", id=frames[1]["id"])
        self.assertEqual(codec.received(said, NOW), [Refused(NOPE, "2 invalid argument")])
        self.assertEqual(codec.received(ack(id=frames[2]["id"]), NOW), [Acknowledged((ETH,))])

    def test_an_exchange_that_refuses_for_ever_is_not_asked_for_ever(self) -> None:
        symbols = [f"A{number}_USDT" for number in range(50)]
        for message in ("invalid argument", "unknown currency pair: A1_USDT", "unknown currency pair: OTHER_USDT"):
            codec = GateioSocket(symbols)
            waiting, frames = sent(codec.opened(NOW)), 0
            while waiting:
                frames += 1
                number = waiting.pop(0)["id"]
                for fields in ({"id": number}, {"id": number}, {"payload": symbols}, {}):
                    waiting += sent(codec.received(failure(2, message, **fields), NOW))
                self.assertLess(frames, 300)
            self.assertEqual(told(codec.received(failure(2, message), NOW)), [EXCHANGE_ERROR])

    def test_other_failures_cost_no_symbol(self) -> None:
        for code, message in (
            (1, "request payload does not follow json schema"),
            (3, f"server error at {BTC}"),
            (None, ""),
        ):
            codec = opened(BTC, ETH)
            self.assertEqual(told(codec.received(failure(code, message, id=1), NOW)), [EXCHANGE_ERROR])
            self.assertEqual(told(codec.received(update(row()), NOW)), ["Acknowledged", "Tick"])

    def test_failures_of_odd_shape(self) -> None:
        errors: tuple[object, ...] = (5, "bad", [], {"code": [], "message": 5}, None)
        for error in errors:
            frame = ack(id=1, error=error, result={"status": "fail"})
            self.assertEqual(told(opened(BTC, ETH).received(frame, NOW)), [EXCHANGE_ERROR], error)
        (fault,) = opened(BTC).received(failure(3, "no", id=1), NOW)
        self.assertEqual(fault, Fault(EXCHANGE_ERROR, "3 no", BTC))

    def test_recorded_errors_of_other_channels(self) -> None:
        for label, detail in (
            ("unknown_pair_gate_us", "spot.order_book_update: 2 unknown currency pair: NOPE_USD"),
            ("bad_payload_futures", "futures.candlesticks: 1 request payload does not follow json schema"),
        ):
            frame = labelled("gateio/error.json")[label]
            self.assertEqual(opened(BTC, NOPE).received(frame, NOW), [Fault(EXCHANGE_ERROR, detail)])

    def test_recorded_error_as_it_would_be_on_this_channel(self) -> None:
        frame = labelled("gateio/error.json")["unknown_pair_gate_us"]
        frame = frame.replace(b"spot.order_book_update", b"spot.tickers").replace(b',"100ms"', b"")
        events = opened(NOPE).received(frame, NOW)
        self.assertEqual(events, [Refused(NOPE, "2 unknown currency pair: NOPE_USD")])

    def test_error_text_is_kept_short(self) -> None:
        (event,) = opened(BTC).received(failure(3, "e" * 5000, id=1), NOW)
        assert isinstance(event, Fault)
        self.assertLess(len(event.detail), 300)


class PriceTests(SynchronousTestCase):
    def test_every_recorded_frame(self) -> None:
        codec = acknowledged(BTC, "NEO_BTC", "OMG_USDT", "DIS_USDT")
        events = [event for line in recording("gateio/ticker.jsonl") for event in codec.received(line, NOW)]
        ticks = [event for event in events if isinstance(event, Tick)]
        self.assertEqual((len(events), len(ticks)), (15, 15))
        self.assertEqual(ticks[0], Tick("gateio", BTC, 116762.0, 116761.9, 116762.0, 8059.288476, 1754676198.909, NOW))
        # the last trade above the book is a tick as it stands: what votes is the nearer edge
        self.assertEqual(ticks[1], Tick("gateio", BTC, 86695.3, 86690.0, 86691.6, 0.211442, 1790134390.863, NOW))
        self.assertEqual(ticks[2].exchange_time, 1654161931.0)
        self.assertEqual(
            ticks[14], Tick("gateio", "NEO_BTC", 0.0018753, 0.0018716, 0.0018748, 1139.58640718, 1619093549.0, NOW)
        )

    def test_recorded_prices_of_a_channel_not_asked_for(self) -> None:
        (line,) = recording("gateio/book_ticker.jsonl")
        self.assertEqual(told(acknowledged(BTC).received(line, NOW)), [UNKNOWN_MESSAGE])

    def test_time(self) -> None:
        codec = acknowledged(BTC)
        for fields, want in (
            ({"time_ms": 1790000000123}, 1790000000.123),
            ({"time_ms": "1790000000123"}, 1790000000.123),
            ({"time_ms": None}, 1790000000.0),
            ({"time_ms": 0}, 1790000000.0),
            ({"time_ms": "soon"}, 1790000000.0),
            ({"time_ms": "inf"}, 1790000000.0),
            ({"time_ms": [], "time": "1790000005"}, 1790000005.0),
        ):
            self.assertEqual(only_tick(codec.received(update(row(), **fields), NOW)).exchange_time, want, fields)
        times: tuple[object, ...] = (None, -5, 0, "x", "infinity", {})
        for time in times:
            tick = only_tick(codec.received(update(row(), time=time), NOW))
            self.assertTrue(isnan(tick.exchange_time), time)

    def test_no_quote_tells_the_symbol(self) -> None:
        (fault,) = acknowledged(BTC).received(update(row(highest_bid="")), NOW)
        self.assertEqual(fault, Fault(NO_QUOTE, "last 100.0, bid nan, ask 100.5", BTC))

    def test_a_symbol_not_asked_for(self) -> None:
        (fault,) = acknowledged(BTC).received(update(row(LEVERAGED)), NOW)
        assert isinstance(fault, Fault)
        self.assertEqual((fault.reason, fault.symbol), (UNKNOWN_SYMBOL, LEVERAGED))

    def test_a_refused_symbol_has_no_price(self) -> None:
        codec = opened(BTC, NOPE)
        codec.received(unknown(NOPE, id=1), NOW)
        self.assertEqual(told(codec.received(update(row(NOPE)), NOW)), [UNKNOWN_SYMBOL])


class OtherFrameTests(SynchronousTestCase):
    def test_table(self) -> None:
        for frame, want in (
            (labelled("gateio/heartbeat.json")["pong"], []),
            (b'{"channel":"spot.pong","error":{"code":3,"message":"x"}}', [EXCHANGE_ERROR]),
            (b'{"time":1,"channel":"","error":{"code":1,"message":"bad json"}}', [EXCHANGE_ERROR]),
            (b'{"error":"bad"}', [EXCHANGE_ERROR]),
            (b'{"channel":"spot.tickers","event":"unsubscribe","result":{"status":"success"}}', [UNKNOWN_MESSAGE]),
            (b'{"channel":"spot.tickers","event":5,"result":{"currency_pair":"BTC_USDT"}}', [MALFORMED]),
            (b'{"channel":"spot.tickers","event":"update"}', [MALFORMED]),
            (b'{"channel":"spot.tickers","event":"update","result":null}', [MALFORMED]),
            (b'{"channel":"spot.tickers","event":"update","result":[5]}', [MALFORMED]),
            (b'{"channel":"spot.tickers","event":"update","result":{}}', [MALFORMED]),
            (b'{"channel":"spot.tickers","event":"update","result":{"currency_pair":5}}', [MALFORMED]),
            (b'{"channel":"spot.tickers","event":"update","result":{"currency_pair":"\xff"}}', [MALFORMED]),
            (b'{"result":' * 100_000, [MALFORMED]),
            (b'{"id":' + b"9" * 6000 + b"}", [UNKNOWN_MESSAGE]),
        ):
            codec = acknowledged(BTC)
            self.assertEqual(told(codec.received(frame, NOW)), want, frame[:60])
            self.assertEqual(told(codec.received(update(row()), NOW)), ["Tick"])


class LivenessTests(SynchronousTestCase):
    def test_pings_every_ten_seconds_as_recorded(self) -> None:
        codec = acknowledged(BTC)
        pings = []
        for second in range(31):
            codec.received(update(row()), NOW + second)
            pings += [(second, frame) for frame in sent(codec.due(NOW + second))]
        self.assertEqual([second for second, _ in pings], [10, 20, 30])
        self.assertEqual(pings[0][1], {"time": 1790000010, "channel": "spot.ping"})
        self.assertEqual(set(pings[0][1]), set(json.loads(labelled("gateio/heartbeat.json")["ping_sent_shape"])))

    def test_dead_after_twenty_five_seconds_without_a_frame(self) -> None:
        codec = acknowledged(BTC)
        for second in range(26):
            self.assertNotIn("Reconnect", told(codec.due(NOW + second)))
        self.assertEqual(codec.due(NOW + 26), [Reconnect("silent for 26 s")])

    def test_answers_to_pings_keep_a_quiet_market_alive(self) -> None:
        codec = acknowledged(BTC)
        for second in range(200):
            events = codec.due(NOW + second)
            self.assertNotIn("Reconnect", told(events))
            for _ in sent(events):
                codec.received(labelled("gateio/heartbeat.json")["pong"], NOW + second)

    def test_a_pong_of_the_protocol_is_no_sign_of_life(self) -> None:
        codec = acknowledged(BTC)
        codec.ponged(NOW + 25)
        self.assertEqual(codec.due(NOW + 26), [Reconnect("silent for 26 s")])


def answer(request: RestRequest, body: object, status: int = 200, **headers: str) -> list[Event]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return GateioRest().responded(request, status, named, text, NOW)


def one(symbol: str = BTC) -> RestRequest:
    (request,) = GateioRest().requests([symbol])
    return request


def every(*symbols: str) -> RestRequest:
    return RestRequest(TICKERS_PATH, symbols)


class RestTests(SynchronousTestCase):
    def test_a_few_by_name(self) -> None:
        wanted = [BTC, ETH, LEVERAGED, BTC]
        paths = [(request.path, request.symbols) for request in GateioRest().requests(wanted)]
        self.assertEqual(
            paths, [(f"/api/v4/spot/tickers?currency_pair={symbol}", (symbol,)) for symbol in (BTC, ETH, LEVERAGED)]
        )

    def test_more_with_one_call(self) -> None:
        symbols = tuple(f"A{number}_USDT" for number in range(4))
        self.assertEqual(GateioRest().requests(symbols), [RestRequest("/api/v4/spot/tickers", symbols)])

    def test_nothing_to_ask(self) -> None:
        self.assertEqual(GateioRest().requests([]), [])

    def test_nothing_of_a_symbol_escapes_into_the_address(self) -> None:
        self.assertEqual(one("A&B=?#/U D").path, f"{TICKERS_PATH}?currency_pair=A%26B%3D%3F%23%2FU%20D")

    def test_every_recorded_answer(self) -> None:
        bodies = labelled("gateio/rest_ticker.json")
        tick = only_tick(answer(one(), bodies["GET_/api/v4/spot/tickers?currency_pair=BTC_USDT_2026"]))
        self.assertEqual(tick[:6], ("gateio", BTC, 61446.8, 61456.9, 61457.0, 14576.78))
        self.assertTrue(isnan(tick.exchange_time))
        self.assertEqual(tick.heard_at, NOW)
        self.assertEqual(only_tick(answer(one(), bodies["2023_01"]))[2:5], (16618.2, 16618.1, 16618.2))
        ticks = answer(every("NEAR_USDT", ETH), bodies["GET_all_trimmed_2026_07_27"])
        self.assertEqual([event.price for event in ticks if isinstance(event, Tick)], [1.838, 1958.48])
        refused = answer(one(), bodies["error_shape_futures_HTTP_400"], 400)
        self.assertEqual(refused, [Refused(BTC, "CONTRACT_NOT_FOUND")])

    def test_all_tickers_only_those_asked_for(self) -> None:
        body = [row(LEVERAGED), row("BTC_USD"), row(), row("OTHER_USDT", highest_bid=""), row("btc_usdt")]
        self.assertEqual(only_tick(answer(every(BTC, ETH), [*body, row(ETH, last=0)])[:1]).symbol, BTC)

    def test_another_pair_than_asked_for(self) -> None:
        self.assertEqual(told(answer(one(), [row(LEVERAGED)])), [UNKNOWN_SYMBOL, NO_PRICE])

    def test_rows_that_are_missing_bad_or_double(self) -> None:
        body = [5, row(ETH, lowest_ask=None), {"currency_pair": 7}, row(NOPE, last="0"), row(), row(last="7")]
        events = answer(every(BTC, ETH, NOPE, LEVERAGED), body)
        self.assertEqual(told(events), [NO_QUOTE, NOT_POSITIVE, "Tick", MALFORMED, NO_PRICE])
        tick = next(event for event in events if isinstance(event, Tick))
        self.assertEqual(tick.price, 100.0)
        self.assertEqual(events[-1], Fault(NO_PRICE, "no row in the answer", LEVERAGED))
        self.assertEqual(events[-2], Fault(MALFORMED, "1 rows without a name"))

    def test_a_double_row_of_a_single_question_is_read_once(self) -> None:
        self.assertEqual(only_tick(answer(one(), [row(), row(last="7")])).price, 100.0)

    def test_refused_for_a_single_pair_only(self) -> None:
        body = {"label": "INVALID_CURRENCY_PAIR", "message": "Invalid currency pair"}
        self.assertEqual(answer(one(), body, 400), [Refused(BTC, "INVALID_CURRENCY_PAIR Invalid currency pair")])
        self.assertEqual(told(answer(every(BTC, ETH), body, 400)), [HTTP_STATUS])

    def test_other_errors_refuse_nothing(self) -> None:
        for status, body in (
            (400, b"<html>"),
            (400, {}),
            (400, {"label": 5}),
            (400, {"label": "SERVER_ERROR"}),
            (404, {"label": "NOT_FOUND"}),
            (500, {"label": "SERVER_ERROR", "message": "m" * 5000}),
            (302, b""),
        ):
            (fault,) = answer(one(), body, status)
            assert isinstance(fault, Fault)
            self.assertEqual(fault.reason, HTTP_STATUS, body)
            self.assertTrue(fault.detail.startswith(str(status)))
            self.assertLess(len(fault.detail), 300)

    def test_throttled(self) -> None:
        reset = {"x_gate_ratelimit_reset_timestamp": "1790000007"}
        self.assertEqual(answer(one(), b"", 429, **reset), [Throttled(6.75)])
        self.assertEqual(answer(one(), {"label": "TOO_MANY_REQUESTS"}, 403, **reset), [Throttled(6.75)])
        milliseconds = {"x_gate_ratelimit_reset_timestamp": "1790000007250"}
        self.assertEqual(answer(one(), b"", 429, **milliseconds), [Throttled(7.0)])
        self.assertEqual(answer(one(), b"", 429, retry_after="90"), [Throttled(90.0)])

    def test_throttled_without_a_believable_time(self) -> None:
        for text in ("", "soon", "1789999999", "1790000999", "-7", "1e3", "\u0661", "9" * 40):
            events = answer(one(), b"", 429, x_gate_ratelimit_reset_timestamp=text, retry_after=text[:1])
            self.assertEqual(told(events), ["Throttled"])
        self.assertEqual(answer(one(), b"", 429, x_gate_ratelimit_reset_timestamp="1790000999"), [Throttled(None)])
        self.assertEqual(answer(one(), b"", 429), [Throttled(None)])


class GateioProperties(garbage.CodecProperties):
    exchange = EXCHANGE
    symbols = (BTC, ETH)
    spelling = "A{:02d}_USDT"
    recorded_frames = [
        *recording("gateio/ticker.jsonl")[:4],
        *recording("gateio/book_ticker.jsonl"),
        *(text for name in ("ack", "error", "heartbeat") for text in labelled(f"gateio/{name}.json").values()),
        ack(id=1),
        unknown(ETH, id=1),
        failure(2, "invalid argument", id=1),
    ]
    recorded_bodies = list(labelled("gateio/rest_ticker.json").values())

    def row(
        self, name: str | None, price: str | None, bid: str | None, ask: str | None, volume: str | None,
        more: str | None = None,
    ) -> str:  # fmt: skip
        return members(currency_pair=name, last=price, highest_bid=bid, lowest_ask=ask, base_volume=volume, zz=more)

    def frame(
        self, name: str | None, price: str | None, bid: str | None, ask: str | None, volume: str | None,
        time: str | None, more: str | None,
    ) -> bytes:  # fmt: skip
        row = self.row(name, price, bid, ask, volume, more)
        return members(time_ms=time, channel='"spot.tickers"', event='"update"', result=row).encode()

    def body(
        self, symbol: str, price: str | None, bid: str | None, ask: str | None, volume: str | None, time: str | None
    ) -> bytes:
        return f"[{self.row(json.dumps(symbol), price, bid, ask, volume)}]".encode()
