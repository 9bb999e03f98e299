"""OKX's codec against its recorded messages and its known habits, on the socket and over REST."""

from __future__ import annotations

import json

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
    Reconnect,
    Refused,
    Replace,
    RestRequest,
    Send,
    Throttled,
    Unacknowledged,
)
from tbeast.codecs.exchanges.okx import EXCHANGE, FACTS, OkxRest, OkxSocket
from tbeast.domain.ticks import NO_PRICE, NO_QUOTE, Tick
from tbeast.test.codecs.exchanges import garbage
from tbeast.test.codecs.exchanges.garbage import dumped, faults, fixture, labelled, members, recording, ticks, told

T0 = 1_790_000_000.0

ACKS, ERRORS, HEARTBEATS, REST = (fixture(f"okx/{name}.json") for name in ("ack", "error", "heartbeat", "rest_ticker"))
RECORDED = [
    *recording("okx/ticker.jsonl")[:6],
    *recording("okx/ticker_nonspot.jsonl"),
    *map(dumped, (ACKS["2026"], *ACKS["2022"], *ERRORS.values(), HEARTBEATS["service_upgrade_notice"])),
    dumped(HEARTBEATS["status_channel_event"]),
]
WANTED = ("BTC-USDT", "ETH-USDT", "BTC-USD", "UNI-USD-SWAP", "NEAR-USDT-SWAP")


def opened(*symbols: str) -> OkxSocket:
    codec = OkxSocket(symbols)
    codec.opened(T0)
    return codec


def frame(*rows: object, name: str = "BTC-USDT", **others: object) -> bytes:
    return dumped({"arg": {"channel": "tickers", "instId": name}, "data": rows, **others})


def row(**others: object) -> dict[str, object]:
    sound: dict[str, object] = {
        "instType": "SPOT", "instId": "BTC-USDT", "last": "100.5", "lastSz": "1", "bidPx": "100", "askPx": "101",
        "vol24h": "7.5", "volCcy24h": "750", "ts": "1790358564077",
    }  # fmt: skip
    return {**sound, **others}


def btc(price: float = 100.5, bid: float = 100.0, ask: float = 101.0, heard_at: float = T0 + 2) -> Tick:
    return Tick("okx", "BTC-USDT", price, bid, ask, 7.5, 1790358564.077, heard_at)


class FactsTests(SynchronousTestCase):
    def test_makes_its_own_codecs(self) -> None:
        self.assertIsInstance(EXCHANGE.socket_codec(iter(["BTC-USDT"])), OkxSocket)
        self.assertIsInstance(EXCHANGE.rest_codec(), OkxRest)
        self.assertEqual((FACTS.name, FACTS.quote, FACTS.symbols_per_socket), ("okx", "USDT", 100))

    def test_stays_under_the_limits(self) -> None:
        self.assertLess(FACTS.rest.count / FACTS.rest.seconds, 20 / 2)
        self.assertLess(FACTS.dials.count / FACTS.dials.seconds, 3)
        self.assertFalse(FACTS.rest_url.endswith("/"))


class OpeningTests(SynchronousTestCase):
    def test_subscribes_at_once_with_one_message(self) -> None:
        (send,) = OkxSocket(["BTC-USD-220527", "UNI-USD-SWAP", "BTC-USDT"]).opened(T0)
        assert isinstance(send, Send)
        self.assertEqual(send.after_seconds, 0.0)
        self.assertEqual(json.loads(send.text), fixture("okx/subscribe.json")["recorded_2022"])

    def test_a_message_stays_under_64_kilobytes(self) -> None:
        symbols = [f"{'LONGNAME' * 7}{number:04d}-USDT" for number in range(2500)]
        sends = OkxSocket(symbols).opened(T0)
        texts = [send.text for send in sends if isinstance(send, Send)]
        self.assertEqual(len(texts), 5)
        self.assertLess(max(len(text.encode()) for text in texts), 64_000)
        args = [arg["instId"] for text in texts for arg in json.loads(text)["args"]]
        self.assertEqual(args, symbols)
        delays = [send.after_seconds for send in sends if isinstance(send, Send)]
        self.assertEqual((delays[0], delays), (0.0, sorted(set(delays))))

    def test_a_hundred_symbols_are_one_message(self) -> None:
        self.assertEqual(len(OkxSocket(f"A{number}-USDT" for number in range(100)).opened(T0)), 1)

    def test_nothing_is_sent_for_nothing(self) -> None:
        self.assertEqual(OkxSocket([]).opened(T0), [])

    def test_what_stays_silent_is_named(self) -> None:
        codec = opened("BTC-USDT", "ETH-USDT")
        codec.received(frame(row()), T0 + 2)
        self.assertEqual(codec.due(T0 + 9.9), [])
        self.assertEqual(told(codec.due(T0 + 10)), ["Unacknowledged", "Send"])
        self.assertEqual(codec.due(T0 + 11), [])


class RecordedTests(SynchronousTestCase):
    def test_the_recorded_tickers(self) -> None:
        codec = opened("BTC-USDT", "BTC-USD")
        events = [event for line in recording("okx/ticker.jsonl") for event in codec.received(line, T0 + 2)]
        heard = ticks(events)
        self.assertEqual((len(heard), len(events)), (16, 18))
        self.assertEqual(events[0], Acknowledged(("BTC-USDT",)))
        self.assertEqual(
            heard[0], Tick("okx", "BTC-USDT", 83766.8, 83774.1, 83774.2, 5449.95415651, 1790358564.077, T0 + 2)
        )
        self.assertEqual(
            heard[1], Tick("okx", "BTC-USD", 91517.2, 91527.2, 91527.3, 338.86622649, 1765201256.914, T0 + 2)
        )
        self.assertEqual(
            heard[-1], Tick("okx", "BTC-USDT", 30250.7, 30247.3, 30247.4, 17602.17600512, 1652459229.410, T0 + 2)
        )
        self.assertEqual([tick.symbol for tick in heard].count("BTC-USD"), 1)

    def test_futures_and_swaps_are_not_their_coin(self) -> None:
        codec = opened("BTC-USDT", "BTC-USD", "UNI-USD")
        events = [event for line in recording("okx/ticker_nonspot.jsonl") for event in codec.received(line, T0)]
        self.assertEqual(events, [
            Fault(UNKNOWN_SYMBOL, "not asked for", "BTC-USD-220527"),
            Fault(UNKNOWN_SYMBOL, "not asked for", "UNI-USD-SWAP"),
        ])  # fmt: skip

    def test_the_recorded_acknowledgements(self) -> None:
        codec = opened("BTC-USDT", "UNI-USD-SWAP", "ETH-USDT")
        self.assertEqual(codec.received(dumped(ACKS["2026"]), T0), [Acknowledged(("BTC-USDT",))])
        self.assertEqual(faults(codec.received(dumped(ACKS["2026_with_id"]), T0)), [(UNKNOWN_MESSAGE, "")])
        future, swap, again = ACKS["2022"]
        self.assertEqual(faults(codec.received(dumped(future), T0)), [(UNKNOWN_SYMBOL, "BTC-USD-220527")])
        self.assertEqual(codec.received(dumped(swap), T0), [Acknowledged(("UNI-USD-SWAP",))])
        self.assertEqual(codec.received(dumped(again), T0), [])
        self.assertIn(Unacknowledged(("ETH-USDT",)), codec.due(T0 + 10))

    def test_the_recorded_errors_name_their_instrument_in_prose(self) -> None:
        codec = opened("BTC-USDT", "NEAR-USDT-SWAP", "ETH-USDT")
        candle, index = ERRORS.values()
        for message, symbol in ((candle, "BTC-USDT"), (index, "NEAR-USDT-SWAP")):
            (event,) = codec.received(dumped(message), T0)
            assert isinstance(event, Refused)
            self.assertEqual(event.symbol, symbol)
            self.assertTrue(event.detail.startswith("60018 "), event.detail)
            self.assertEqual(faults(codec.received(dumped(message), T0)), [(EXCHANGE_ERROR, "")])
        self.assertEqual(faults(codec.received(frame(row()), T0)), [(UNKNOWN_SYMBOL, "BTC-USDT")])
        self.assertIn(Unacknowledged(("ETH-USDT",)), codec.due(T0 + 10))

    def test_the_recorded_notice_asks_for_a_successor(self) -> None:
        (event,) = opened("BTC-USDT").received(dumped(HEARTBEATS["service_upgrade_notice"]), T0)
        assert isinstance(event, Replace)
        self.assertEqual(event.within_seconds, 30.0)
        self.assertTrue(event.reason.startswith("64008 The connection will soon be closed"), event.reason)

    def test_the_status_channel_is_not_taken(self) -> None:
        events = opened("BTC-USDT").received(dumped(HEARTBEATS["status_channel_event"]), T0)
        self.assertEqual(faults(events), [(UNKNOWN_MESSAGE, "")])
        self.assertEqual(len(events), 1)

    def test_the_bare_pong_is_no_message(self) -> None:
        self.assertEqual(opened("BTC-USDT").received(HEARTBEATS["text_received"].encode(), T0), [])


class PriceTests(SynchronousTestCase):
    def only(self, *rows: object) -> Event:
        codec = opened("BTC-USDT")
        codec.received(frame(row()), T0 + 1)
        (event,) = codec.received(frame(*rows), T0 + 2)
        return event

    def test_what_is_a_price(self) -> None:
        for changes, tick in (
            ({}, btc()),
            ({"last": 100.5, "bidPx": 100, "askPx": 101.0, "vol24h": 7.5, "ts": 1790358564077}, btc()),
            ({"last": "1.005e2"}, btc()),
            ({"lastSz": "", "volCcy24h": None, "zz": {"a": []}}, btc()),
            ({"last": "102"}, btc(102.0)),
            ({"bidPx": "101.2"}, btc(bid=101.2)),
            ({"instId": None}, btc()),
            ({"instId": 7}, btc()),
        ):
            self.assertEqual(self.only(row(**changes)), tick, changes)

    def test_one_bad_row_does_not_take_the_others_with_it(self) -> None:
        codec = opened("BTC-USDT")
        for bad, reason in (
            (row(last={}), NO_PRICE), (5, MALFORMED), (None, MALFORMED), (row(bidPx={}), NO_QUOTE),
            (row(bidPx=""), NO_QUOTE), (row(instId="ETH-USDT"), MALFORMED),
        ):  # fmt: skip
            events = codec.received(frame(row(), bad, row(last="100.7")), T0 + 2)
            self.assertEqual(ticks(events), [btc(), btc(100.7)], bad)
            self.assertEqual([reason for reason, _ in faults(events)], [reason], bad)

    def test_a_number_beyond_range_costs_only_its_row(self) -> None:
        raw = frame(row(), row(last="@"), row(last="100.7")).replace(b'"@"', b"1e999")
        events = opened("BTC-USDT").received(raw, T0 + 2)
        self.assertEqual((ticks(events), faults(events)), ([btc(), btc(100.7)], [(NO_PRICE, "BTC-USDT")]))

    def test_an_unreadable_row_of_what_was_not_asked_for(self) -> None:
        events = opened("BTC-USDT").received(frame(row(instId="X-USDT", last={}), name="X-USDT"), T0)
        self.assertEqual(faults(events), [(UNKNOWN_SYMBOL, "X-USDT")])

    def test_only_the_tickers_channel_is_read(self) -> None:
        for arg in ({"channel": "bbo-tbt", "instId": "BTC-USDT"}, {"instId": "BTC-USDT"}, {}):
            events = opened("BTC-USDT").received(dumped({"arg": arg, "data": [row()]}), T0)
            self.assertEqual(faults(events), [(UNKNOWN_MESSAGE, "")], arg)
            self.assertEqual(len(events), 1)

    def test_the_row_may_name_what_the_message_does_not(self) -> None:
        events = opened("BTC-USDT").received(dumped({"arg": {"channel": "tickers"}, "data": [row()]}), T0 + 2)
        self.assertEqual(ticks(events), [btc()])

    def test_hearing_acknowledges_once_even_without_a_price(self) -> None:
        codec = opened("BTC-USDT")
        events = codec.received(frame(row(bidPx="")), T0 + 2)
        self.assertEqual(events[0], Acknowledged(("BTC-USDT",)))
        self.assertEqual(faults(events), [(NO_QUOTE, "BTC-USDT")])
        self.assertEqual(codec.received(frame(row()), T0 + 2), [btc()])


class AnswerTests(SynchronousTestCase):
    def test_what_is_a_fault(self) -> None:
        arg = {"channel": "tickers", "instId": "BTC-USDT"}
        for message, reason in (
            ({"event": "subscribe", "arg": {**arg, "instId": "X"}}, UNKNOWN_SYMBOL),
            ({"event": "subscribe"}, UNKNOWN_MESSAGE),
            ({"event": "subscribe", "arg": {**arg, "channel": "books"}}, UNKNOWN_MESSAGE),
            ({"event": "unsubscribe", "arg": arg}, UNKNOWN_MESSAGE),
            ({"event": "notice", "code": "64007", "msg": "x"}, UNKNOWN_MESSAGE),
            ({"event": "channel-conn-count", "connCount": "1"}, UNKNOWN_MESSAGE),
            ({"event": "error", "code": "60012", "msg": "Invalid request"}, EXCHANGE_ERROR),
            ({"event": "error", "code": "60018", "msg": "Wrong URL or channel"}, EXCHANGE_ERROR),
            ({"event": "error", "code": "60018", "msg": "instId:X-USDT doesn't exist"}, EXCHANGE_ERROR),
            ({"event": "error", "code": "60012", "msg": "instId:BTC-USDT is too often asked for"}, EXCHANGE_ERROR),
            ({"event": "error"}, EXCHANGE_ERROR),
            ({"event": "error", "code": "", "msg": None}, EXCHANGE_ERROR),
            ({"event": "error", "code": "x", "msg": "y"}, MALFORMED),
            ({"event": {}, "arg": arg, "data": [row()]}, MALFORMED),
            ({"event": "subscribe", "arg": 5}, MALFORMED),
            ({"arg": arg, "data": 5}, MALFORMED),
            ({"arg": arg, "data": None}, UNKNOWN_MESSAGE),
            ({"data": [row()]}, UNKNOWN_MESSAGE),
            ({}, UNKNOWN_MESSAGE),
            ([], MALFORMED), (5, MALFORMED), (None, MALFORMED), ("pong", MALFORMED),
        ):  # fmt: skip
            events = opened("BTC-USDT").received(dumped(message), T0)
            self.assertEqual([told for told, _ in faults(events)], [reason], message)
            self.assertEqual(len(events), 1)

    def test_codes_may_be_numbers(self) -> None:
        codec = opened("BTC-USDT")
        self.assertEqual(
            codec.received(dumped({"event": "error", "code": 60018, "msg": "instId: BTC-USDT doesn't exist"}), T0),
            [Refused("BTC-USDT", "60018 instId: BTC-USDT doesn't exist")],
        )
        self.assertEqual(codec.received(b'{"event":"notice","code":64008}', T0), [Replace("64008", 30.0)])

    def test_one_error_may_name_several(self) -> None:
        text = "channel:tickers,instId:A-USDT, channel:tickers,instId:B-USDT doesn't exist"
        events = opened("A-USDT", "B-USDT").received(dumped({"event": "error", "code": "60018", "msg": text}), T0)
        self.assertEqual([event.symbol for event in events if isinstance(event, Refused)], ["A-USDT", "B-USDT"])

    def test_an_empty_push_says_nothing(self) -> None:
        self.assertEqual(opened("BTC-USDT").received(frame(), T0), [])

    def test_an_error_with_an_unreadable_part_is_still_an_error(self) -> None:
        events = opened("BTC-USDT").received(b'{"event":"error","code":"60012","msg":{},"arg":7}', T0)
        self.assertEqual([reason for reason, _ in faults(events)], [EXCHANGE_ERROR, MALFORMED])

    def test_what_the_exchange_says_is_passed_on_short(self) -> None:
        for message in ({"event": "error", "code": "1", "msg": "x" * 10_000}, {"event": "y" * 10_000}):
            (fault,) = opened("BTC-USDT").received(dumped(message), T0)
            assert isinstance(fault, Fault)
            self.assertEqual(len(fault.detail), 200)


class LivenessTests(SynchronousTestCase):
    def test_asks_in_a_bare_word_after_ten_silent_seconds(self) -> None:
        codec = opened()
        self.assertEqual(codec.due(T0 + 9.9), [])
        self.assertEqual(codec.due(T0 + 10), [Send(HEARTBEATS["text_sent"])])
        self.assertEqual(codec.due(T0 + 11), [])
        codec.received(b"pong", T0 + 11)
        self.assertEqual(codec.due(T0 + 20.9), [])
        self.assertEqual(codec.due(T0 + 21), [Send("ping")])

    def test_prices_make_asking_needless(self) -> None:
        codec = opened("BTC-USDT")
        for seconds in range(60):
            codec.received(frame(row()), T0 + seconds)
            self.assertEqual(codec.due(T0 + seconds + 0.5), [])

    def test_asks_twice_and_then_gives_up(self) -> None:
        codec = opened()
        told = {seconds: codec.due(T0 + seconds) for seconds in range(27)}
        self.assertEqual(
            {seconds: events for seconds, events in told.items() if events},
            {10: [Send("ping")], 20: [Send("ping")], 26: [Reconnect("silent for 26 s")]},
        )

    def test_a_pong_of_the_protocol_is_no_pong_of_the_exchange(self) -> None:
        codec = opened()
        for seconds in range(0, 26, 5):
            codec.ponged(T0 + seconds)
        self.assertEqual(codec.due(T0 + 26), [Reconnect("silent for 26 s")])

    def test_pongs_alone_keep_a_quiet_market_connected(self) -> None:
        codec = opened()
        for seconds in range(3600):
            for event in codec.due(T0 + seconds):
                self.assertEqual(event, Send("ping"))
                codec.received(b"pong", T0 + seconds + 0.2)


class RestTests(SynchronousTestCase):
    one = RestRequest("/api/v5/market/ticker?instId=BTC-USDT", ("BTC-USDT",))
    every = RestRequest("/api/v5/market/tickers?instType=SPOT", ("BTC-USDT", "ETH-USDT", "NEAR-USDT", "SOL-USDT"))

    def answer(self, *rows: object, **others: object) -> bytes:
        return dumped({"code": "0", "msg": "", "data": rows, **others})

    def responded(
        self, request: RestRequest, body: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> list[Event]:
        return OkxRest().responded(request, status, headers or {}, body, T0 + 2)

    def test_a_few_are_asked_for_singly_and_many_at_once(self) -> None:
        rest = OkxRest()
        self.assertEqual(rest.requests([]), [])
        self.assertEqual(rest.requests(["BTC-USDT"]), [self.one])
        self.assertEqual([request.symbols for request in rest.requests(["A", "B", "A", "C"])], [("A",), ("B",), ("C",)])
        self.assertEqual(rest.requests(self.every.symbols), [self.every])
        self.assertEqual(rest.requests(["A&b=1"])[0].path, "/api/v5/market/ticker?instId=A%26b%3D1")

    def test_the_recorded_answers(self) -> None:
        single, trimmed, limited, bad = REST.values()
        self.assertEqual(
            self.responded(self.one, dumped(single)),
            [Tick("okx", "BTC-USDT", 16839.1, 16839.0, 16839.1, 5150.98223027, 1672863560.203, T0 + 2)],
        )
        events = self.responded(self.every, dumped(trimmed))
        self.assertEqual(
            ticks(events),
            [Tick("okx", "NEAR-USDT", 1.848, 1.848, 1.849, 1398101.93602604, 1785145938.266, T0 + 2)],
        )
        self.assertEqual(faults(events), [(NO_PRICE, "BTC-USDT"), (NO_PRICE, "ETH-USDT"), (NO_PRICE, "SOL-USDT")])
        for status in (200, 400, 429):
            self.assertEqual(self.responded(self.one, dumped(limited), status), [Throttled(None)])
        refused = [Refused("BTC-USDT", "51001 instrument does not exist")]
        self.assertEqual(self.responded(self.one, dumped(bad)), refused)
        self.assertEqual(self.responded(self.one, dumped(bad), 400), refused)
        self.assertEqual(faults(self.responded(self.every, dumped(bad))), [(EXCHANGE_ERROR, "")])

    def test_only_what_was_asked_for_is_picked(self) -> None:
        body = self.answer(
            row(instId="BTC-USD"), row(), row(last="7"), row(instId="X-USDT", last="", bidPx=""),
            row(instId="Y-USDT", last={}), row(instId="ETH-USDT", bidPx=""), row(instId="NEAR-USDT", askPx=[]),
        )  # fmt: skip
        events = self.responded(self.every, body)
        self.assertEqual(ticks(events), [btc()])
        self.assertEqual(
            sorted(faults(events)), [(NO_PRICE, "SOL-USDT"), (NO_QUOTE, "ETH-USDT"), (NO_QUOTE, "NEAR-USDT")]
        )

    def test_one_bad_row_does_not_take_the_others_with_it(self) -> None:
        bad_rows: tuple[object, ...] = (None, 5, [], {"instId": 7})
        for bad in bad_rows:
            events = self.responded(self.one, self.answer(bad, row()))
            self.assertEqual(ticks(events), [btc()], bad)
            self.assertEqual([reason for reason, _ in faults(events)], [MALFORMED], bad)

    def test_another_symbol_than_the_asked_one_is_no_answer(self) -> None:
        self.assertEqual(
            faults(self.responded(self.one, self.answer(row(instId="BTC-USD")))),
            [(UNKNOWN_SYMBOL, "BTC-USD"), (NO_PRICE, "BTC-USDT")],
        )

    def test_too_many_questions(self) -> None:
        for headers, seconds in (
            ({}, None), ({"retry-after": "3"}, 3.0), ({"retry-after": " 10 "}, 10.0), ({"retry-after": "soon"}, None),
            ({"retry-after": "-1"}, None), ({"retry-after": "9" * 30}, None), ({"retry-after": "\u0663"}, None),
        ):  # fmt: skip
            self.assertEqual(self.responded(self.one, b"", 429, headers), [Throttled(seconds)], headers)
            self.assertEqual(self.responded(self.one, b'{"code":"50011"}', 200, headers), [Throttled(seconds)])

    def test_what_is_no_answer(self) -> None:
        for status, body, reason in (
            (500, b"<html>", HTTP_STATUS),
            (503, b"", HTTP_STATUS),
            (403, b'{"code":"0","data":[]}', HTTP_STATUS),
            (200, b"<html>", MALFORMED),
            (200, b"", MALFORMED),
            (200, b"{}", MALFORMED),
            (200, b"[]", MALFORMED),
            (200, b'{"code":"0","data":7}', MALFORMED),
            (200, b'{"code":[],"data":[]}', MALFORMED),
            (200, b'{"code":"50026","msg":"System error","data":[]}', EXCHANGE_ERROR),
            (200, b"[" * 100_000, MALFORMED),
            (200, b'{"code":"0","data":[]}', NO_PRICE),
        ):
            events = self.responded(self.one, body, status)
            self.assertEqual([told for told, _ in faults(events)], [reason], body[:40])
            self.assertEqual(len(events), 1)


class OkxProperties(garbage.CodecProperties):
    exchange = EXCHANGE
    symbols = ("BTC-USDT", "ETH-USDT")
    spelling = "A{:02d}-USDT"
    recorded_frames = RECORDED
    recorded_bodies = list(labelled("okx/rest_ticker.json").values())

    def frame(
        self, name: str | None, price: str | None, bid: str | None, ask: str | None, volume: str | None,
        time: str | None, more: str | None,
    ) -> bytes:  # fmt: skip
        row = members(instId=name, last=price, bidPx=bid, askPx=ask, vol24h=volume, ts=time, zz=more)
        return members(arg=members(channel='"tickers"', instId=name), data=f"[{row}]").encode()

    def body(
        self, symbol: str, price: str | None, bid: str | None, ask: str | None, volume: str | None, time: str | None
    ) -> bytes:
        row = members(instId=json.dumps(symbol), last=price, bidPx=bid, askPx=ask, vol24h=volume, ts=time)
        return members(code='"0"', data=f"[{row}]").encode()
