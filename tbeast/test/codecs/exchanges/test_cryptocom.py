"""Crypto.com's codec against its recorded messages and its known habits, on the socket and over REST."""

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
    RestRequest,
    Send,
    Throttled,
    Unacknowledged,
)
from tbeast.codecs.exchanges.cryptocom import EXCHANGE, FACTS, CryptocomRest, CryptocomSocket
from tbeast.domain.ticks import NO_PRICE, NO_QUOTE, Tick
from tbeast.test.codecs.exchanges import garbage
from tbeast.test.codecs.exchanges.garbage import dumped, faults, fixture, labelled, members, recording, ticks, told

T0 = 1_790_000_000.0

ACKS, ERRORS, HEARTBEATS, REST = (
    fixture(f"cryptocom/{name}.json") for name in ("ack", "error", "heartbeat", "rest_ticker")
)
LEGACY = recording("cryptocom/ticker_v2_legacy.jsonl")
LEGACY_SYMBOLS = tuple(dict.fromkeys(json.loads(line)["result"]["instrument_name"] for line in LEGACY))
RECORDED = [
    *recording("cryptocom/ticker.jsonl"),
    *LEGACY[:10],
    *map(dumped, (*ACKS.values(), *ERRORS.values(), *HEARTBEATS["received"], HEARTBEATS["v2_legacy_received"])),
]
WANTED = ("BTC_USD", "ETH_USD", "BTCUSD-PERP", "BTC_USDT", *LEGACY_SYMBOLS)


def opened(*symbols: str) -> CryptocomSocket:
    codec = CryptocomSocket(symbols)
    codec.opened(T0)
    return codec


def frame(*rows: object, name: str = "BTC_USD", **others: object) -> bytes:
    result = {"instrument_name": name, "subscription": f"ticker.{name}", "channel": "ticker", "data": rows}
    return dumped({"id": -1, "method": "subscribe", "code": 0, "result": result, **others})


def row(**others: object) -> dict[str, object]:
    sound: dict[str, object] = {"i": "BTC_USD", "a": "100.5", "b": "100", "k": "101", "v": "7.5", "t": 1749053480565}
    return {**sound, **others}


def btc(price: float = 100.5, bid: float = 100.0, ask: float = 101.0, heard_at: float = T0 + 2) -> Tick:
    return Tick("cryptocom", "BTC_USD", price, bid, ask, 7.5, 1749053480.565, heard_at)


class FactsTests(SynchronousTestCase):
    def test_makes_its_own_codecs(self) -> None:
        self.assertIsInstance(EXCHANGE.socket_codec(iter(["BTC_USD"])), CryptocomSocket)
        self.assertIsInstance(EXCHANGE.rest_codec(), CryptocomRest)
        self.assertEqual((FACTS.name, FACTS.quote, FACTS.symbols_per_socket), ("cryptocom", "USD", 100))

    def test_stays_under_the_limits(self) -> None:
        self.assertLess(FACTS.rest.count / FACTS.rest.seconds, 100)
        self.assertLessEqual(FACTS.symbols_per_socket, 400)
        self.assertFalse(FACTS.rest_url.endswith("/"))


class OpeningTests(SynchronousTestCase):
    def test_subscribes_a_second_later_with_one_message(self) -> None:
        (send,) = CryptocomSocket(["BTC_USD", "ETH_USD"]).opened(T0)
        assert isinstance(send, Send)
        self.assertEqual(send.after_seconds, 1.0)
        shape = fixture("cryptocom/subscribe.json")["v1_shape"]
        del shape["nonce"]
        self.assertEqual(json.loads(send.text), shape)

    def test_a_message_carries_a_hundred_channels(self) -> None:
        sends = CryptocomSocket(f"A{number}_USD" for number in range(250)).opened(T0)
        messages = [json.loads(send.text) for send in sends if isinstance(send, Send)]
        self.assertEqual([len(message["params"]["channels"]) for message in messages], [100, 100, 50])
        self.assertEqual(len({message["id"] for message in messages}), 3)
        delays = [send.after_seconds for send in sends if isinstance(send, Send)]
        self.assertEqual(delays, sorted(set(delays)))
        self.assertEqual(delays[0], 1.0)
        channels = [channel for message in messages for channel in message["params"]["channels"]]
        self.assertEqual(channels, [f"ticker.A{number}_USD" for number in range(250)])

    def test_nothing_is_sent_for_nothing(self) -> None:
        self.assertEqual(CryptocomSocket([]).opened(T0), [])

    def test_what_stays_silent_is_named(self) -> None:
        codec = opened("BTC_USD", "ETH_USD")
        codec.received(frame(row()), T0 + 2)
        codec.received(dumped(HEARTBEATS["received"][0]), T0 + 10)
        self.assertEqual(codec.due(T0 + 10.9), [])
        self.assertEqual(told(codec.due(T0 + 11)), ["Unacknowledged", "Send"])
        self.assertEqual(codec.due(T0 + 12), [])


class RecordedTests(SynchronousTestCase):
    def test_the_recorded_ticker(self) -> None:
        (line,) = recording("cryptocom/ticker.jsonl")
        self.assertEqual(
            opened("BTCUSD-PERP").received(line, T0 + 2),
            [
                Acknowledged(("BTCUSD-PERP",)),
                Tick("cryptocom", "BTCUSD-PERP", 105390.6, 105395.1, 105395.2, 8195.069, 1749053480.565, T0 + 2),
            ],
        )
        self.assertEqual(faults(opened("BTC_USD").received(line, T0 + 2)), [(UNKNOWN_SYMBOL, "BTCUSD-PERP")])

    def test_the_old_recording_with_numbers_for_strings(self) -> None:
        codec = opened(*LEGACY_SYMBOLS)
        events = [event for line in LEGACY for event in codec.received(line, T0 + 2)]
        heard = ticks(events)
        self.assertEqual((len(LEGACY), len(heard), len(events)), (60, 60, 70))
        acknowledged = [event.symbols for event in events if isinstance(event, Acknowledged)]
        self.assertEqual(sorted(acknowledged), sorted((symbol,) for symbol in LEGACY_SYMBOLS))
        self.assertEqual(
            heard[0], Tick("cryptocom", "BAND_USDT", 7.5328, 7.5248, 7.5328, 35912.66, 1637709517.473, T0 + 2)
        )
        self.assertEqual(heard[5].volume, 343791661.0)
        self.assertEqual({tick.symbol for tick in heard}, set(LEGACY_SYMBOLS))

    def test_the_recorded_acknowledgements(self) -> None:
        codec = opened("BTC_USD", "ETH_USD")
        live, book, old = ACKS.values()
        self.assertEqual(codec.received(dumped(live), T0), [Acknowledged(("BTC_USD",))])
        self.assertEqual(codec.received(dumped(live), T0), [])
        self.assertEqual(faults(codec.received(dumped(book), T0)), [(UNKNOWN_MESSAGE, "")])
        self.assertEqual(codec.received(dumped(old), T0), [])

    def test_the_recorded_errors(self) -> None:
        codec = opened("BTC_USD")
        unknown, too_many = ERRORS.values()
        self.assertEqual(
            codec.received(dumped(unknown), T0), [Fault(EXCHANGE_ERROR, "40003 Unknown symbol")]
        )  # a channel that is not ours
        self.assertEqual(
            codec.received(dumped(too_many), T0), [Fault(EXCHANGE_ERROR, "40107 Maximum subscriptions exceeded")]
        )

    def test_the_recorded_heartbeats_are_answered_as_recorded(self) -> None:
        codec = opened("BTC_USD")
        first, second = HEARTBEATS["received"]
        (answer,) = codec.received(dumped(second), T0)
        assert isinstance(answer, Send)
        self.assertEqual((json.loads(answer.text), answer.after_seconds), (HEARTBEATS["reply_to_second"], 0.0))
        (answer,) = codec.received(dumped(HEARTBEATS["v2_legacy_received"]), T0)
        assert isinstance(answer, Send)
        self.assertEqual(json.loads(answer.text), HEARTBEATS["v2_legacy_sent"])
        self.assertEqual(len(codec.received(dumped(first), T0)), 1)


class PriceTests(SynchronousTestCase):
    def only(self, *rows: object) -> Event:
        codec = opened("BTC_USD")
        codec.received(frame(row()), T0 + 1)
        (event,) = codec.received(frame(*rows), T0 + 2)
        return event

    def test_what_is_a_price(self) -> None:
        for changes, tick in (
            ({}, btc()),
            ({"a": 100.5, "b": 100, "k": 101.0}, btc()),
            ({"a": "1.005e2"}, btc()),
            ({"t": "1749053480565"}, btc()),
            ({"v": 7.5, "zz": [{}]}, btc()),
            ({"a": "102"}, btc(102.0)),
            ({"b": "101.2"}, btc(bid=101.2)),
            ({"i": None}, btc()),
            ({"i": ""}, btc()),
            ({"i": 7}, btc()),
        ):
            self.assertEqual(self.only(row(**changes)), tick, changes)

    def test_one_bad_row_does_not_take_the_others_with_it(self) -> None:
        codec = opened("BTC_USD")
        for bad, reason in (
            (row(a={}), NO_PRICE), (5, MALFORMED), (None, MALFORMED), (row(b={}), NO_QUOTE), (row(b=None), NO_QUOTE),
            (row(i="ETH_USD"), MALFORMED),
        ):  # fmt: skip
            events = codec.received(frame(row(), bad, row(a="100.7")), T0 + 2)
            self.assertEqual(ticks(events), [btc(), btc(100.7)], bad)
            self.assertEqual([reason for reason, _ in faults(events)], [reason], bad)

    def test_a_number_beyond_range_costs_only_its_row(self) -> None:
        raw = frame(row(), row(a="@"), row(a="100.7")).replace(b'"@"', b"1e999")
        events = opened("BTC_USD").received(raw, T0 + 2)
        self.assertEqual((ticks(events), faults(events)), ([btc(), btc(100.7)], [(NO_PRICE, "BTC_USD")]))

    def test_a_row_under_another_name_is_no_price_of_either(self) -> None:
        codec = opened("BTC_USD", "ETH_USD")
        events = codec.received(frame(row(i="ETH_USD")), T0 + 2)
        self.assertEqual((ticks(events), [reason for reason, _ in faults(events)]), ([], [MALFORMED]))

    def test_an_unreadable_row_of_what_was_not_asked_for(self) -> None:
        events = opened("BTC_USD").received(frame(row(i="X_USD", a={}), name="X_USD"), T0 + 2)
        self.assertEqual(faults(events), [(UNKNOWN_SYMBOL, "X_USD")])

    def test_the_route_is_the_channel_or_else_the_subscription(self) -> None:
        codec = opened("BTC_USD")
        codec.received(frame(row()), T0 + 2)
        for result, reason in (
            ({"subscription": "ticker.BTC_USD", "data": [row()]}, None),
            ({"channel": "ticker", "data": [row()]}, None),
            ({"subscription": "ticker.BTC_USD", "data": [{**row(), "i": None}]}, None),
            ({"channel": None, "subscription": "ticker.BTC_USD", "data": [row()]}, None),
            ({"channel": "book", "subscription": "book.BTC_USD.10", "data": [row()]}, UNKNOWN_MESSAGE),
            ({"subscription": "book.BTC_USD.10", "data": [row()]}, UNKNOWN_MESSAGE),
            ({"data": [row()]}, UNKNOWN_MESSAGE),
            ({}, UNKNOWN_MESSAGE),
        ):
            events = codec.received(dumped({"id": -1, "code": 0, "method": "subscribe", "result": result}), T0 + 2)
            if reason is None:
                self.assertEqual(events, [btc()], result)
            else:
                self.assertEqual([told for told, _ in faults(events)], [reason], result)

    def test_hearing_acknowledges_once_even_without_a_price(self) -> None:
        codec = opened("BTC_USD")
        events = codec.received(frame(row(b=None)), T0 + 2)
        self.assertEqual(events[0], Acknowledged(("BTC_USD",)))
        self.assertEqual(faults(events), [(NO_QUOTE, "BTC_USD")])
        self.assertEqual(codec.received(frame(row()), T0 + 2), [btc()])
        self.assertEqual(codec.due(T0 + 15), [])


class AnswerTests(SynchronousTestCase):
    def test_what_answers_mean(self) -> None:
        ack = Acknowledged(("BTC_USD",))
        result = {"instrument_name": "BTC_USD", "subscription": "ticker.BTC_USD", "channel": "ticker"}
        for message, expected in (
            ({"id": 1, "method": "subscribe", "code": 0, "channel": "ticker.BTC_USD"}, [ack]),
            ({"id": 1, "method": "subscribe", "code": 0, "result": result}, [ack]),
            ({"id": 1, "method": "subscribe", "code": 0, "result": {**result, "data": []}}, [ack]),
            ({"id": 1, "method": "subscribe", "code": 0, "result": {**result, "data": None}}, [ack]),
            ({"id": 1, "method": "subscribe", "code": 0}, []),
            ({"id": 1, "method": "subscribe", "code": None, "result": None}, []),
        ):
            self.assertEqual(opened("BTC_USD").received(dumped(message), T0), expected, message)

    def test_what_is_a_fault(self) -> None:
        for message, reason in (
            ({"id": 1, "method": "subscribe", "code": 0, "channel": "ticker.ETH_USD"}, UNKNOWN_SYMBOL),
            ({"id": 1, "method": "unsubscribe", "code": 0}, UNKNOWN_MESSAGE),
            ({}, UNKNOWN_MESSAGE),
            ({"method": "public/heartbeat", "code": 0}, MALFORMED),
            ({"id": "x", "method": "public/heartbeat", "code": 0}, MALFORMED),
            ({"id": 5, "code": "x", "method": "subscribe"}, MALFORMED),
            ({"id": 5, "code": 0, "method": {}}, MALFORMED),
            ({"id": 5, "code": 0, "method": "subscribe", "result": 5}, MALFORMED),
            ({"id": 5, "code": 0, "method": "subscribe", "result": {"channel": "ticker", "data": 5}}, MALFORMED),
            ({"id": 5, "code": 50001, "method": "subscribe", "message": "ERR_INTERNAL"}, EXCHANGE_ERROR),
            ({"code": 42901, "channel": "ticker.BTC_USD"}, EXCHANGE_ERROR),
            ({"code": 40003, "channel": "ticker.ETH_USD"}, EXCHANGE_ERROR),
            ([], MALFORMED), (5, MALFORMED), (None, MALFORMED), ("pong", MALFORMED),
        ):  # fmt: skip
            events = opened("BTC_USD").received(dumped(message), T0)
            self.assertEqual({reason for reason, _ in faults(events)}, {reason}, message)
            self.assertEqual(ticks(events), [])

    def test_a_price_with_an_unreadable_code_is_not_believed(self) -> None:
        events = opened("BTC_USD").received(frame(row(), code=[]), T0)
        self.assertEqual((len(events), faults(events)), (1, [(MALFORMED, "")]))

    def test_a_price_with_an_unreadable_id_is(self) -> None:
        events = opened("BTC_USD").received(frame(row(), id={}), T0 + 2)
        self.assertEqual(ticks(events), [btc()])

    def test_heartbeat_ids_of_any_size_come_back_unchanged(self) -> None:
        for number in (0, -1, 2**53 + 1, 2**63, 2**64 + 3, 10**40):
            (answer,) = opened("BTC_USD").received(dumped({"id": number, "method": "public/heartbeat", "code": 0}), T0)
            assert isinstance(answer, Send)
            self.assertEqual(json.loads(answer.text), {"id": number, "method": "public/respond-heartbeat"})

    def test_a_heartbeat_is_answered_even_when_it_complains(self) -> None:
        (answer,) = opened("BTC_USD").received(b'{"id":7,"method":"public/heartbeat","code":10001}', T0)
        self.assertIsInstance(answer, Send)

    def test_what_the_exchange_says_is_passed_on_short(self) -> None:
        raw = dumped({"id": 1, "code": 50001, "message": "x" * 10_000})
        (fault,) = opened("BTC_USD").received(raw, T0)
        assert isinstance(fault, Fault)
        self.assertEqual(len(fault.detail), 200)
        (fault,) = opened("BTC_USD").received(frame(row(i="Y" * 9999), name="Y" * 9999), T0)
        assert isinstance(fault, Fault)
        self.assertLessEqual(len(fault.symbol), 200)


class RefusalTests(SynchronousTestCase):
    def error(self, **others: object) -> bytes:
        return dumped({"id": 1, "method": "subscribe", "code": 40003, "message": "Unknown symbol", **others})

    def test_the_named_symbol_is_refused_and_the_others_go_on(self) -> None:
        codec = opened("NOPE_USD", "BTC_USD")
        self.assertEqual(
            codec.received(self.error(channel="ticker.NOPE_USD"), T0), [Refused("NOPE_USD", "40003 Unknown symbol")]
        )
        self.assertEqual(codec.received(frame(row()), T0 + 2), [Acknowledged(("BTC_USD",)), btc()])
        self.assertEqual(codec.due(T0 + 15), [])
        again = codec.received(self.error(channel="ticker.NOPE_USD"), T0)
        self.assertEqual(faults(again), [(EXCHANGE_ERROR, "NOPE_USD")])
        late = codec.received(frame(row(i="NOPE_USD"), name="NOPE_USD"), T0)
        self.assertEqual(faults(late), [(UNKNOWN_SYMBOL, "NOPE_USD")])

    def test_the_name_may_stand_in_the_result(self) -> None:
        raw = self.error(result={"subscription": "ticker.NOPE_USD"})
        self.assertEqual(opened("NOPE_USD").received(raw, T0), [Refused("NOPE_USD", "40003 Unknown symbol")])

    def test_those_that_fall_silent_beside_it_are_named(self) -> None:
        codec = opened("NOPE_USD", "BTC_USD", "ETH_USD")
        codec.received(self.error(channel="ticker.NOPE_USD"), T0 + 1)
        self.assertEqual(codec.due(T0 + 11)[0], Unacknowledged(("BTC_USD", "ETH_USD")))

    def test_a_nameless_refusal_is_isolated_one_by_one(self) -> None:
        codec = opened("BTC_USD", "NOPE_USD", "ETH_USD")
        codec.received(frame(row()), T0 + 2)
        fault, *sends = codec.received(self.error(), T0 + 2)
        self.assertEqual(fault, Fault(EXCHANGE_ERROR, "40003 Unknown symbol"))
        asked = {}
        for send in sends:
            assert isinstance(send, Send)
            message = json.loads(send.text)
            (asked[message["id"]],) = message["params"]["channels"]
        self.assertEqual(list(asked.values()), ["ticker.NOPE_USD", "ticker.ETH_USD"])
        self.assertNotIn(1, asked)
        delays = [send.after_seconds for send in sends if isinstance(send, Send)]
        self.assertEqual(delays, sorted(set(delays)))
        bad, good = asked
        self.assertEqual(codec.received(self.error(id=bad), T0 + 3), [Refused("NOPE_USD", "40003 Unknown symbol")])
        self.assertEqual(
            codec.received(frame(row(i="ETH_USD"), name="ETH_USD", id=good), T0 + 3)[0], Acknowledged(("ETH_USD",))
        )
        self.assertEqual(codec.due(T0 + 15), [])

    def test_a_late_refusal_of_what_is_heard_by_now_refuses_nothing(self) -> None:
        codec = opened("BTC_USD")
        codec.received(frame(row()), T0 + 2)
        self.assertEqual(codec.received(self.error(), T0 + 3), [Fault(EXCHANGE_ERROR, "40003 Unknown symbol")])
        self.assertEqual(codec.received(frame(row()), T0 + 2), [btc()])

    def test_isolating_ends(self) -> None:
        """An exchange that refuses whatever is asked gets each symbol asked once more, and then no more."""
        codec = opened(*(f"A{number}_USD" for number in range(100)))
        waiting, rounds = [self.error()], 0
        refused = []
        while waiting:
            rounds += 1
            for event in codec.received(waiting.pop(), T0 + 2):
                if isinstance(event, Send):
                    waiting.append(self.error(id=json.loads(event.text)["id"]))
                elif isinstance(event, Refused):
                    refused.append(event.symbol)
        self.assertEqual((rounds, len(set(refused)), len(refused)), (101, 100, 100))
        for number in range(1, 102):
            self.assertEqual(faults(codec.received(self.error(id=number), T0 + 2)), [(EXCHANGE_ERROR, "")])

    def test_the_patience_begins_anew_with_the_isolating(self) -> None:
        codec = opened("BTC_USD", "ETH_USD")
        codec.received(self.error(), T0 + 10)
        self.assertEqual(codec.due(T0 + 15), [])
        self.assertEqual(codec.due(T0 + 20.2)[0], Unacknowledged(("BTC_USD", "ETH_USD")))

    def test_a_nameless_error_of_no_request_of_ours_isolates_nothing(self) -> None:
        for number in (99, -1, None):
            self.assertEqual(
                opened("BTC_USD", "ETH_USD").received(self.error(id=number), T0),
                [Fault(EXCHANGE_ERROR, "40003 Unknown symbol")],
            )

    def test_an_error_that_blames_no_symbol_refuses_none(self) -> None:
        codec = opened("BTC_USD")
        for code in (42901, 40107, 50001, 10001):
            events = codec.received(self.error(code=code, channel="ticker.BTC_USD"), T0)
            self.assertEqual(faults(events), [(EXCHANGE_ERROR, "BTC_USD")])
            self.assertEqual(faults(codec.received(self.error(code=code), T0)), [(EXCHANGE_ERROR, "")])
        self.assertEqual(ticks(codec.received(frame(row()), T0 + 2)), [btc()])


class LivenessTests(SynchronousTestCase):
    def test_protocol_pings_keep_it_alive(self) -> None:
        codec = opened()
        for seconds in range(0, 90, 5):
            codec.ponged(T0 + seconds)
            self.assertEqual(codec.due(T0 + seconds + 4), [])

    def test_dead_after_twenty_silent_seconds(self) -> None:
        codec = opened()
        codec.received(b"garbage is life too", T0 + 7)
        self.assertEqual(codec.due(T0 + 27), [])
        self.assertEqual(codec.due(T0 + 28), [Reconnect("silent for 21 s")])

    def test_pings_without_a_word_are_not_enough_for_ever(self) -> None:
        """The far end's proxy answers, its heartbeats have stopped: three missed are enough."""
        codec = opened()
        codec.ponged(T0 + 94)
        self.assertEqual(codec.due(T0 + 95), [])
        codec.ponged(T0 + 96)
        self.assertEqual(codec.due(T0 + 96), [Reconnect("silent for 96 s")])

    def test_heartbeats_alone_keep_a_quiet_market_connected(self) -> None:
        codec = opened("BTC_USD")
        codec.received(frame(row()), T0 + 1)
        for seconds in range(0, 3600, 5):
            codec.ponged(T0 + seconds)
            if seconds % 30 == 0:
                codec.received(dumped(HEARTBEATS["received"][0]), T0 + seconds)
            self.assertEqual(codec.due(T0 + seconds), [])


class RestTests(SynchronousTestCase):
    one = RestRequest("/exchange/v1/public/get-tickers?instrument_name=BTC_USD", ("BTC_USD",))
    every = RestRequest("/exchange/v1/public/get-tickers", ("BTC_USD", "ETH_USD", "ETH_USDT", "NEAR_USDT"))

    def answer(self, *rows: object, **others: object) -> bytes:
        return dumped({"id": -1, "method": "public/get-tickers", "code": 0, "result": {"data": rows}, **others})

    def responded(
        self, request: RestRequest, body: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> list[Event]:
        return CryptocomRest().responded(request, status, headers or {}, body, T0 + 2)

    def test_a_few_are_asked_for_singly_and_many_at_once(self) -> None:
        rest = CryptocomRest()
        self.assertEqual(rest.requests([]), [])
        self.assertEqual(rest.requests(["BTC_USD"]), [self.one])
        self.assertEqual([request.symbols for request in rest.requests(["A", "B", "A", "C"])], [("A",), ("B",), ("C",)])
        self.assertEqual(rest.requests(self.every.symbols), [self.every])
        self.assertEqual(rest.requests(["A&b=1"])[0].path, f"{self.every.path}?instrument_name=A%26b%3D1")

    def test_the_recorded_answers(self) -> None:
        single, trimmed, bad = REST.values()
        self.assertEqual(
            self.responded(self.one, dumped(single)),
            [Tick("cryptocom", "BTC_USD", 63778.90, 63778.69, 63778.70, 3025.0123, 1781981527.085, T0 + 2)],
        )
        events = self.responded(self.every, dumped(trimmed))
        self.assertEqual(
            [(tick.symbol, tick.price, tick.bid, tick.ask) for tick in ticks(events)],
            [("NEAR_USDT", 1.8365, 1.8367, 1.8382), ("ETH_USDT", 1958.43, 1958.61, 1958.62)],
        )
        self.assertEqual(faults(events), [(NO_PRICE, "BTC_USD"), (NO_PRICE, "ETH_USD")])
        self.assertEqual(
            self.responded(self.one, dumped(bad), 400), [Refused("BTC_USD", "40004 Invalid instrument_name")]
        )
        self.assertEqual(faults(self.responded(self.every, dumped(bad), 400)), [(HTTP_STATUS, "")])
        self.assertEqual(faults(self.responded(self.every, dumped(bad))), [(EXCHANGE_ERROR, "")])

    def test_only_what_was_asked_for_is_picked(self) -> None:
        body = self.answer(
            row(i="BTCUSD-PERP"), row(i="BTC_USDT"), row(), row(a="7"), row(i="BTCUSD-260925", a=None, b=None, k=None),
            row(i="X_USD", a={}), row(i="ETH_USD", b=None), row(i="NEAR_USDT", k=[]),
        )  # fmt: skip
        events = self.responded(self.every, body)
        self.assertEqual(ticks(events), [btc()])
        self.assertEqual(
            sorted(faults(events)), [(NO_PRICE, "ETH_USDT"), (NO_QUOTE, "ETH_USD"), (NO_QUOTE, "NEAR_USDT")]
        )

    def test_one_bad_row_does_not_take_the_others_with_it(self) -> None:
        bad_rows: tuple[object, ...] = (None, 5, [], {"i": 7})
        for bad in bad_rows:
            events = self.responded(self.one, self.answer(bad, row()))
            self.assertEqual(ticks(events), [btc()], bad)
            self.assertEqual([reason for reason, _ in faults(events)], [MALFORMED], bad)

    def test_another_symbol_than_the_asked_one_is_no_answer(self) -> None:
        self.assertEqual(
            faults(self.responded(self.one, self.answer(row(i="BTC_USDT")))),
            [(UNKNOWN_SYMBOL, "BTC_USDT"), (NO_PRICE, "BTC_USD")],
        )

    def test_too_many_questions(self) -> None:
        for headers, seconds in (
            ({}, None), ({"retry-after": "3"}, 3.0), ({"retry-after": " 10 "}, 10.0), ({"retry-after": "soon"}, None),
            ({"retry-after": "-1"}, None), ({"retry-after": "9" * 30}, None), ({"retry-after": "\u0663"}, None),
        ):  # fmt: skip
            self.assertEqual(self.responded(self.one, b"", 429, headers), [Throttled(seconds)], headers)
            body = dumped({"code": 42901, "message": "Too many requests"})
            self.assertEqual(self.responded(self.one, body, 200, headers), [Throttled(seconds)])
            self.assertEqual(self.responded(self.one, body, 400, headers), [Throttled(seconds)])

    def test_what_is_no_answer(self) -> None:
        for status, body, reason in (
            (500, b"<html>", HTTP_STATUS),
            (503, b"", HTTP_STATUS),
            (302, b"{}", HTTP_STATUS),
            (400, b'{"code":40001,"message":"Bad request"}', HTTP_STATUS),
            (200, b"<html>", MALFORMED),
            (200, b"", MALFORMED),
            (200, b"{}", MALFORMED),
            (200, b"[]", MALFORMED),
            (200, b'{"code":0,"result":{"data":7}}', MALFORMED),
            (200, b'{"code":0,"result":7}', MALFORMED),
            (200, b'{"code":[],"result":{"data":[]}}', MALFORMED),
            (200, b'{"code":50001,"message":"x"}', EXCHANGE_ERROR),
            (200, b"[" * 100_000, MALFORMED),
            (200, b'{"code":0,"result":{"data":[]}}', NO_PRICE),
        ):
            events = self.responded(self.one, body, status)
            self.assertIn(reason, [told for told, _ in faults(events)], body[:40])
            self.assertEqual(len(faults(events)), len(events))
            self.assertLessEqual({told for told, _ in faults(events)}, {reason, NO_PRICE})


class CryptocomProperties(garbage.CodecProperties):
    exchange = EXCHANGE
    symbols = ("BTC_USD", "ETH_USD")
    spelling = "A{:02d}_USD"
    recorded_frames = RECORDED
    recorded_bodies = list(labelled("cryptocom/rest_ticker.json").values())

    def frame(
        self, name: str | None, price: str | None, bid: str | None, ask: str | None, volume: str | None,
        time: str | None, more: str | None,
    ) -> bytes:  # fmt: skip
        row = members(i=name, a=price, b=bid, k=ask, v=volume, t=time, zz=more)
        result = members(instrument_name=name, channel='"ticker"', data=f"[{row}]")
        return members(id="-1", method='"subscribe"', code="0", result=result).encode()

    def body(
        self, symbol: str, price: str | None, bid: str | None, ask: str | None, volume: str | None, time: str | None
    ) -> bytes:
        row = members(i=json.dumps(symbol), a=price, b=bid, k=ask, v=volume, t=time)
        return members(code="0", result=members(data=f"[{row}]")).encode()
