"""Tests of L{tbeast.codecs.exchanges.gemini}: recordings, a table of messages, and garbage."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.exchanges.base import (
    EXCHANGE_ERROR,
    HTTP_STATUS,
    MALFORMED,
    SEQUENCE_GAP,
    UNKNOWN_MESSAGE,
    UNKNOWN_SYMBOL,
    Acknowledged,
    Event,
    Fault,
    Reconnect,
    Refused,
    RestRequest,
    Send,
    Unacknowledged,
)
from tbeast.codecs.exchanges.gemini import EXCHANGE, OLD_BOOKS_IN_A_ROW, GeminiRest, GeminiSocket
from tbeast.domain.ticks import CROSSED, NO_PRICE, NO_QUOTE, NOT_FINITE, NOT_POSITIVE, Tick
from tbeast.test.codecs.exchanges import garbage
from tbeast.test.codecs.exchanges.garbage import (
    NOW,
    check,
    dumped,
    fixture,
    members,
    of_type,
    reasons_in,
    recording,
    told,
)

PAIR = ("btcusd", "ethusd")


def book(symbol: str = "btcusd", **changes: Any) -> bytes:
    content = {
        "u": 5, "E": 1790732606500000000, "s": symbol, "b": "100", "B": "1", "a": "101", "A": "1",
        "c": "100.5", "C": "1",
    } | changes  # fmt: skip
    return dumped({key: value for key, value in content.items() if value is not ...})


def trade(symbol: str = "btcusd", **changes: Any) -> bytes:
    content = {"E": 1790732606500000000, "s": symbol, "t": 9, "p": "100.7", "q": "0.1", "m": False} | changes
    return dumped({key: value for key, value in content.items() if value is not ...})


def seen(events: list[Event]) -> list[tuple]:
    """The ticks among the events as (symbol, price, bid, ask), an unknown number as C{None}."""
    return [
        (tick.symbol, *(None if math.isnan(number) else number for number in tick[2:5]))
        for tick in of_type(events, Tick)
    ]


def dialled(symbols: Iterable[str]) -> Any:
    """A codec as the socket's owner makes it; untyped, so that events can be looked into without ado."""
    return GeminiSocket(symbols)


def asking() -> Any:
    """A codec for REST; untyped likewise."""
    return GeminiRest()


def opened(*symbols: str) -> Any:
    """A codec that has subscribed and been acknowledged."""
    codec = dialled(symbols or PAIR)
    codec.opened(NOW)
    codec.received(b'{"id":"1","status":200}', NOW)
    return codec


def bad_stream(name: str) -> bytes:
    return dumped({"id": "1", "status": 400, "error": {"code": -1013, "msg": f"Invalid stream name: {name}"}})


class FactsTests(SynchronousTestCase):
    def test_limits_are_kept_below_what_the_exchange_allows(self) -> None:
        facts = EXCHANGE.facts
        self.assertEqual(("gemini", "USD", 100), (facts.name, facts.quote, facts.symbols_per_socket))
        self.assertLess(facts.dials.count + 300 * facts.dials.count / facts.dials.seconds, 300)
        self.assertLessEqual(facts.rest.count / facts.rest.seconds, 1)
        self.assertFalse(facts.rest_url.endswith("/"))
        self.assertTrue(facts.seeds_from_rest)

    def test_the_module_makes_both_codecs(self) -> None:
        self.assertIsInstance(EXCHANGE.socket_codec(PAIR), GeminiSocket)
        self.assertIsInstance(EXCHANGE.rest_codec(), GeminiRest)


class SubscribingTests(SynchronousTestCase):
    def test_one_frame_asks_for_both_streams_of_every_symbol(self) -> None:
        (send,) = dialled(PAIR).opened(NOW)
        question = json.loads(send.text)
        self.assertEqual(fixture("gemini/subscribe.json")["shape_for_spot"].keys(), question.keys())
        self.assertEqual(("1", "subscribe"), (question["id"], question["method"]))
        streams = ["btcusd@bookTicker", "btcusd@trade", "ethusd@bookTicker", "ethusd@trade"]
        self.assertEqual(streams, sorted(question["params"]))

    def test_without_symbols_nothing_is_asked_for(self) -> None:
        self.assertEqual([], dialled(()).opened(NOW))

    def test_the_recorded_acknowledgement_with_our_id(self) -> None:
        codec = dialled(PAIR)
        codec.opened(NOW)
        recorded = fixture("gemini/ack.json")["subscribe"]
        self.assertEqual([Acknowledged(PAIR)], codec.received(dumped(recorded | {"id": "1"}), NOW))
        self.assertEqual([UNKNOWN_MESSAGE], reasons_in(codec.received(dumped(recorded | {"id": "1"}), NOW)))
        self.assertEqual([], of_type(codec.due(NOW + 12), Unacknowledged))

    def test_an_answer_to_somebody_elses_question_acknowledges_nothing(self) -> None:
        codec = dialled(PAIR)
        codec.opened(NOW)
        for recorded in fixture("gemini/ack.json").values():
            self.assertEqual([UNKNOWN_MESSAGE], reasons_in(codec.received(dumped(recorded), NOW)))
        odd_ids: tuple[Any, ...] = (None, 1, [], "2", "x" * 9000)
        for odd in odd_ids:
            events = codec.received(dumped({"id": odd, "status": 200}), NOW)
            self.assertEqual([UNKNOWN_MESSAGE], reasons_in(events))
            check(events, "gemini", PAIR, bookless=True)

    def test_a_price_acknowledges(self) -> None:
        for frame in (book(), trade(), book(b="")):
            codec = dialled(PAIR)
            codec.opened(NOW)
            self.assertEqual(Acknowledged(("btcusd",)), codec.received(frame, NOW)[0])
            self.assertEqual([Acknowledged(("ethusd",))], codec.received(b'{"id":"1","status":200}', NOW))

    def test_silent_symbols_are_named_once(self) -> None:
        codec = dialled(PAIR)
        codec.opened(NOW)
        codec.received(book(), NOW + 9)
        self.assertEqual([], codec.due(NOW + 9))
        self.assertEqual(["Unacknowledged", "Send"], told(codec.due(NOW + 10)))
        self.assertEqual([], codec.due(NOW + 11))


class ErrorTests(SynchronousTestCase):
    def test_one_bad_stream_is_taken_out_and_the_rest_asked_for_again(self) -> None:
        codec = dialled(("btcusd", "nosuchperp", "ethusd"))
        codec.opened(NOW)
        recorded = fixture("gemini/error.json")["bad_stream_whole_frame_rejected"]
        refused, again = codec.received(dumped(recorded), NOW)
        self.assertEqual(Refused("nosuchperp", recorded["error"]["msg"]), refused)
        question = json.loads(again.text)
        self.assertEqual("2", question["id"])
        self.assertEqual({"btcusd", "ethusd"}, {stream.partition("@")[0] for stream in question["params"]})
        self.assertEqual(4, len(question["params"]))
        self.assertEqual([Acknowledged(PAIR)], codec.received(b'{"id":"2","status":200}', NOW))

    def test_asking_again_comes_to_an_end(self) -> None:
        codec = dialled(PAIR)
        frames = [event.text for event in of_type(codec.opened(NOW), Send)]
        for _ in range(10):  # an exchange that knows no stream at all
            if not frames:
                break
            name = json.loads(frames.pop())["params"][0]
            frames += [event.text for event in of_type(codec.received(bad_stream(name), NOW), Send)]
        self.assertEqual([], frames)
        self.assertEqual([EXCHANGE_ERROR], reasons_in(codec.received(bad_stream("btcusd@trade"), NOW)))

    def test_a_refusal_without_a_name_is_isolated_one_by_one(self) -> None:
        codec = dialled(PAIR)
        codec.opened(NOW)
        fault, *sends = codec.received(bad_stream("?"), NOW)
        self.assertEqual(EXCHANGE_ERROR, fault.reason)
        questions = [json.loads(send.text) for send in sends]
        self.assertEqual(["2", "3"], [question["id"] for question in questions])
        self.assertEqual(["btcusd@bookTicker", "btcusd@trade"], questions[0]["params"])
        no = dumped({"id": "2", "status": 400, "error": {"code": -1013, "msg": "no"}})
        self.assertEqual([Refused("btcusd", "no")], codec.received(no, NOW))
        self.assertEqual([Acknowledged(("ethusd",))], codec.received(b'{"id":"3","status":200}', NOW))
        self.assertEqual([UNKNOWN_SYMBOL], reasons_in(codec.received(book(), NOW)))

    def test_a_stream_that_was_not_asked_for(self) -> None:
        codec = opened()
        for name in ("nosuchperp@depth@100ms", "", "@", "btcusd2@trade", "x" * 9000):
            events = codec.received(bad_stream(name), NOW)
            self.assertEqual([EXCHANGE_ERROR], reasons_in(events))
            self.assertEqual(1, len(events))
            check(events, "gemini", PAIR, bookless=True)

    def test_a_refused_symbol_is_strange_from_then_on(self) -> None:
        codec = opened()
        codec.received(bad_stream("BTCUSD@trade"), NOW)
        self.assertEqual([UNKNOWN_SYMBOL], reasons_in(codec.received(book(), NOW)))
        self.assertEqual(1, len(seen(codec.received(book("ethusd"), NOW))))

    def test_other_recorded_errors(self) -> None:
        recorded = fixture("gemini/error.json")
        for name, words in (
            ("unsupported", "Unsupported operation"),
            ("auth", "Authentication required"),
            ("archived_v2_bad_symbol", "NoValidTradingPairs"),
        ):
            (fault,) = opened().received(dumped(recorded[name]), NOW)
            self.assertEqual(Fault(EXCHANGE_ERROR, words), fault)

    def test_only_a_bad_stream_name_refuses_a_symbol(self) -> None:
        codec = opened()
        error = {"code": -1003, "msg": "Too many streams, and none for btcusd@trade"}
        (fault,) = codec.received(dumped({"id": "1", "status": 400, "error": error}), NOW)
        self.assertEqual(EXCHANGE_ERROR, fault.reason)
        self.assertEqual(1, len(seen(codec.received(book(), NOW))))

    def test_a_subscription_that_met_an_error_is_asked_for_once_more_when_patience_runs_out(self) -> None:
        codec = dialled(PAIR)
        (question,) = codec.opened(NOW)
        busy = {"id": "1", "status": 429, "error": {"code": -1003, "msg": "Too many requests"}}
        self.assertEqual([EXCHANGE_ERROR], reasons_in(codec.received(dumped(busy), NOW + 8)))
        self.assertEqual([], codec.due(NOW + 9))
        silent, again = codec.due(NOW + 10)
        self.assertEqual(Unacknowledged(PAIR), silent)
        self.assertEqual(json.loads(question.text) | {"id": "2"}, json.loads(again.text))
        self.assertEqual([Acknowledged(PAIR)], codec.received(b'{"id":"2","status":200}', NOW + 10))

    def test_odd_errors(self) -> None:
        known = {"code": -1013}
        errors: tuple[Any, ...] = (
            None,
            [],
            "no",
            {},
            {"code": "-1013"},
            known,
            known | {"msg": None},
            {"code": 10**400},
        )
        statuses: tuple[Any, ...] = (None, "", True, 500, {})
        for error in errors:
            fault, *others = opened().received(dumped({"id": "1", "status": 400, "error": error}), NOW)
            self.assertEqual(EXCHANGE_ERROR, fault.reason)
            self.assertLessEqual(told(others), [MALFORMED])
        for status in statuses:
            (fault,) = opened().received(dumped({"id": "1", "status": status}), NOW)
            self.assertEqual(EXCHANGE_ERROR, fault.reason)


class RecordingTests(SynchronousTestCase):
    def test_books(self) -> None:
        lines = recording("gemini/ticker.jsonl")
        codec = opened()
        heard = [event for line in lines for event in codec.received(line, NOW)]
        self.assertEqual(16, len(lines))
        self.assertEqual({Tick: 16}, Counter(type(event) for event in heard))
        self.assertEqual(("btcusd", 83355.92, 83361.25, 83364.9), seen(heard)[0])
        self.assertEqual(("btcusd", 83355.92, 83364.89, 83364.9), seen(heard)[-1])
        first = of_type(heard, Tick)[0]
        self.assertAlmostEqual(1790732606.255488, first.exchange_time, places=5)
        self.assertTrue(math.isnan(first.volume))

    def test_trades(self) -> None:
        lines = recording("gemini/trade.jsonl")
        codec = opened()
        self.assertEqual([("btcusd", 83371.08, None, None)], seen(codec.received(lines[0], NOW)))
        for line in recording("gemini/ticker.jsonl"):
            codec.received(line, NOW)
        (heard,) = codec.received(lines[1], NOW)
        self.assertEqual([("btcusd", 83371.09, 83364.89, 83364.9)], seen([heard]))
        self.assertAlmostEqual(1790732618.782524, heard.exchange_time, places=5)

    def test_the_archived_feed_is_not_taken_for_prices(self) -> None:
        lines = recording("gemini/archived_v2_marketdata.jsonl")
        lines += [dumped(content) for content in fixture("gemini/heartbeat.json")["archived_v2_heartbeats"]]
        for line in lines:
            self.assertEqual([UNKNOWN_MESSAGE], reasons_in(opened("btcusd", "BTCUSD", "ETHUSD").received(line, NOW)))

    def test_subscribing_to_perpetuals_does_not_mix_them_with_spot(self) -> None:
        self.assertEqual([UNKNOWN_SYMBOL], reasons_in(opened().received(book("btcgusdperp"), NOW)))


class PriceTests(SynchronousTestCase):
    def test_last_then_trade_then_mid(self) -> None:
        codec = opened()
        self.assertEqual([("btcusd", 100.5, 100, 101)], seen(codec.received(book(c=...), NOW)))  # mid
        self.assertEqual([("btcusd", 100.5, 100, 102)], seen(codec.received(book(c="100.5", a="102"), NOW)))
        self.assertEqual([("btcusd", 100.7, 100, 102)], seen(codec.received(trade(), NOW)))
        self.assertEqual([("btcusd", 100.7, 100, 103)], seen(codec.received(book(c=..., a="103"), NOW)))
        self.assertEqual([("btcusd", 100.9, 100, 103)], seen(codec.received(book(c="100.9", a="103"), NOW)))
        self.assertEqual([("ethusd", 101.5, 100, 103)], seen(codec.received(book("ethusd", c=..., a="103"), NOW)))

    def test_a_trade_before_any_book_has_none(self) -> None:
        codec = opened()
        self.assertEqual([("btcusd", 100.7, None, None)], seen(codec.received(trade(), NOW)))
        codec.received(book("ethusd"), NOW)
        self.assertEqual([("btcusd", 100.7, None, None)], seen(codec.received(trade(), NOW)))

    def test_after_a_book_without_sense_the_one_before_is_forgotten(self) -> None:
        for changes in ({"b": ""}, {"a": "0"}, {"b": "300"}):
            codec = opened()
            codec.received(book(), NOW)
            self.assertEqual([], seen(codec.received(book(**changes), NOW)))
            self.assertEqual([("btcusd", 100.7, None, None)], seen(codec.received(trade(), NOW)))

    def test_an_unusable_last_is_as_good_as_none(self) -> None:
        for last in ("0", "-1", "", None, "NaN", "inf", "1_0", [1], "1e999"):
            codec = opened()
            self.assertEqual([("btcusd", 100.5, 100, 101)], seen(codec.received(book(c=last), NOW)), last)
            codec.received(trade(), NOW)
            self.assertEqual([("btcusd", 100.7, 100, 101)], seen(codec.received(book(c=last), NOW)), last)

    def test_books(self) -> None:
        """A book's changed members, and what comes of it."""
        for changes, expected in (
            ({}, (100.5, 100, 101)),
            ({"b": 100, "a": 101.0, "c": 100.5}, (100.5, 100, 101)),
            ({"b": "101"}, (100.5, 101, 101)),
            ({"b": "101.2"}, (100.5, 101.2, 101)),  # crossed by a hair
            ({"c": "500"}, (500, 100, 101)),
            ({"p": "7", "q": "7"}, (100.5, 100, 101)),
            ({"b": "150"}, CROSSED),
            ({"b": ""}, NO_QUOTE),
            ({"a": None}, NO_QUOTE),
            ({"a": ...}, NO_QUOTE),
            ({"b": ...}, NO_QUOTE),
            ({"b": ..., "p": "7", "q": "7"}, NO_QUOTE),
            ({"b": "", "a": ""}, NO_QUOTE),
            ({"b": "NaN", "a": "NaN"}, NO_QUOTE),
            ({"b": [["100", "1"]], "a": [["101", "1"]]}, NO_QUOTE),
            ({"b": "1_0"}, NO_QUOTE),
            ({"a": " 101 "}, NO_QUOTE),
            ({"b": "1e999"}, NO_QUOTE),
            ({"b": True}, NO_QUOTE),
            ({"b": "0"}, NOT_POSITIVE),
            ({"b": "0", "a": "0", "c": ...}, NOT_POSITIVE),
            ({"b": "-5", "a": "5", "c": ...}, NOT_POSITIVE),
            ({"b": "-5"}, NOT_POSITIVE),
            ({"a": "inf"}, NOT_FINITE),
            ({"a": "inf", "c": ...}, NOT_FINITE),
            ({"a": "1.7e308", "b": "1.7e308", "c": ...}, NOT_FINITE),
            ({"a": "inf", "b": "-inf", "c": ...}, NO_PRICE),
            ({"s": "dogeusd"}, UNKNOWN_SYMBOL),
            ({"s": "BTCUSD"}, UNKNOWN_SYMBOL),
            ({"s": "x" * 9000}, UNKNOWN_SYMBOL),
            ({"s": ""}, MALFORMED),
            ({"s": ...}, MALFORMED),
            ({"s": 7}, MALFORMED),
            ({"s": ..., "b": ""}, MALFORMED),
        ):  # fmt: skip
            events = opened().received(book(**changes), NOW)
            self.assertEqual(1, len(events), changes)
            check(events, "gemini", PAIR, bookless=True)
            if isinstance(expected, tuple):
                self.assertEqual([("btcusd", *expected)], seen(events), changes)
            else:
                self.assertEqual([expected], reasons_in(events), changes)

    def test_trades(self) -> None:
        """A trade's changed members, and what comes of it."""
        for changes, expected in (
            ({}, 100.7),
            ({"p": 100.7}, 100.7),
            ({"q": "0"}, 100.7),
            ({"q": "some"}, 100.7),
            ({"p": "0"}, NOT_POSITIVE),
            ({"p": "-5"}, NOT_POSITIVE),
            ({"p": "inf"}, NOT_FINITE),
            ({"p": "NaN"}, NO_PRICE),
            ({"p": ""}, NO_PRICE),
            ({"p": None}, NO_PRICE),
            ({"p": "1_0"}, NO_PRICE),
            ({"p": ...}, UNKNOWN_MESSAGE),
            ({"q": ...}, UNKNOWN_MESSAGE),
            ({"s": "dogeusd"}, UNKNOWN_SYMBOL),
            ({"s": ...}, MALFORMED),
        ):  # fmt: skip
            codec = opened()
            codec.received(book(), NOW)
            events = codec.received(trade(**changes), NOW)
            self.assertEqual(1, len(events), changes)
            if isinstance(expected, float):
                self.assertEqual([("btcusd", expected, 100, 101)], seen(events), changes)
            else:
                self.assertEqual([expected], reasons_in(events), changes)
                # and it is not remembered for the next book either
                self.assertEqual([("btcusd", 100.5, 100, 101)], seen(codec.received(book(c=...), NOW)), changes)

    def test_odd_times_spoil_no_price(self) -> None:
        event_times: tuple[Any, ...] = (..., None, 0, -5, "soon", 10**22, 10**400, [], True)
        for event_time in event_times:
            for frame in (book(E=event_time), trade(E=event_time)):
                codec = opened()
                events = codec.received(frame, NOW)
                self.assertEqual(1, len(seen(events)), event_time)
                self.assertTrue(math.isnan(events[0].exchange_time), event_time)
        (heard,) = opened().received(book(E="1790732606500000000"), NOW)
        self.assertEqual(1790732606.5, heard.exchange_time)

    def test_strange_messages(self) -> None:
        for frame, reason in (
            (b'"btcusd"', MALFORMED),
            (book()[:-1], MALFORMED),
            (b'{"b":NaN,"a":1,"s":"btcusd"}', MALFORMED),
            (b'{"s":"btcusd","z":' + b"[" * 200_000 + b"]" * 200_000 + b"}", MALFORMED),
            (b'{"u":' + b"9" * 5000 + b"}", UNKNOWN_MESSAGE),
            (b'{"s":"btcusd"}', UNKNOWN_MESSAGE),
            (b'{"result":"ok"}', UNKNOWN_MESSAGE),
            (b'{"note":"%s"}' % (b"x" * 9000), UNKNOWN_MESSAGE),
            (b'{"result":"error","reason":5}', EXCHANGE_ERROR),
        ):  # fmt: skip
            events = opened().received(frame, NOW)
            self.assertEqual([reason], reasons_in(events), frame[:80])
            self.assertEqual(1, len(events))
            check(events, "gemini", PAIR, bookless=True)


class OrderTests(SynchronousTestCase):
    def test_a_book_older_than_the_last_is_dropped(self) -> None:
        old, new = recording("gemini/ticker.jsonl")[:2]
        codec = opened()
        codec.received(new, NOW)
        (fault,) = codec.received(old, NOW)
        self.assertEqual((SEQUENCE_GAP, "btcusd"), (fault.reason, fault.symbol))
        self.assertEqual([("btcusd", 100.7, 83364.89, 83364.9)], [seen(codec.received(trade(p="100.7"), NOW))[0]])

    def test_the_same_number_again_and_holes_are_fine(self) -> None:
        codec = opened()
        for number in (5, 5, 6, 900, 10**30):
            self.assertEqual(1, len(seen(codec.received(book(u=number), NOW))), number)

    def test_each_symbol_counts_for_itself(self) -> None:
        codec = opened()
        codec.received(book(u=900), NOW)
        self.assertEqual([("ethusd", 100.5, 100, 101)], seen(codec.received(book("ethusd", u=3), NOW)))

    def test_a_book_without_a_number_is_taken(self) -> None:
        codec = opened()
        codec.received(book(), NOW)
        numbers: tuple[Any, ...] = (..., None, -3, "x", [])
        for number in numbers:
            self.assertEqual([("btcusd", 100.5, 100, 109)], seen(codec.received(book(u=number, a="109"), NOW)), number)
        self.assertEqual([SEQUENCE_GAP], reasons_in(codec.received(book(u=4), NOW)))

    def test_many_old_books_in_a_row_end_the_connection(self) -> None:
        codec = opened()
        codec.received(book(u=900), NOW)
        for _ in range(OLD_BOOKS_IN_A_ROW - 1):
            self.assertEqual([Fault], [type(event) for event in codec.received(book(), NOW)])
        self.assertEqual([Fault, Reconnect], [type(event) for event in codec.received(book(), NOW)])

    def test_a_good_book_among_the_old_ones_starts_the_count_anew(self) -> None:
        codec = opened()
        codec.received(book(u=900), NOW)
        for _ in range(3):
            for _ in range(OLD_BOOKS_IN_A_ROW - 1):
                self.assertEqual([Fault], [type(event) for event in codec.received(book(), NOW)])
            self.assertEqual([Tick], [type(event) for event in codec.received(book(u=901), NOW)])

    def test_a_new_connection_remembers_nothing(self) -> None:
        opened().received(book(u=900), NOW)
        self.assertEqual(1, len(seen(opened().received(book(u=3), NOW))))


class LivenessTests(SynchronousTestCase):
    def test_a_quiet_socket_is_probed_every_five_seconds(self) -> None:
        codec = opened()
        sent = fixture("gemini/heartbeat.json")["app_ping_sent"]
        pings = [(second, event) for second in range(20) for event in codec.due(NOW + second)]
        self.assertEqual([5, 10, 15], [second for second, _ in pings])
        for _, ping in pings:
            self.assertEqual(sent, json.loads(ping.text))

    def test_an_answered_probe_keeps_it_alive(self) -> None:
        codec = opened()
        answer = dumped(fixture("gemini/heartbeat.json")["app_pong_received"])
        for second in range(100):
            events = codec.due(NOW + second)
            self.assertEqual([], of_type(events, Reconnect))
            if of_type(events, Send):
                self.assertEqual([], codec.received(answer, NOW + second))

    def test_messages_make_probes_needless_and_pongs_do_not(self) -> None:
        codec = opened()
        codec.received(book(), NOW + 4)
        self.assertEqual([], codec.due(NOW + 8))
        codec.ponged(NOW + 8)
        self.assertEqual(["Send"], told(codec.due(NOW + 9)))
        codec.ponged(NOW + 9)
        self.assertEqual([], codec.due(NOW + 13))

    def test_pongs_keep_it_alive_only_for_a_while(self) -> None:
        """A proxy answers, and nobody behind it."""
        codec = opened()
        for second in range(41):
            codec.ponged(NOW + second)
            self.assertEqual([], of_type(codec.due(NOW + second), Reconnect), second)
        self.assertEqual([Reconnect("silent for 41 s")], codec.due(NOW + 41))

    def test_silence_in_spite_of_probes_ends_the_connection(self) -> None:
        codec = opened()
        codec.due(NOW + 18)
        self.assertEqual([], codec.due(NOW + 20))
        self.assertEqual([Reconnect], [type(event) for event in codec.due(NOW + 20.5)])
        self.assertEqual([Reconnect], [type(event) for event in codec.due(NOW + 40)])


DATE = {"date": "Tue, 08 Sep 2026 08:00:01 GMT"}
DATE_SECONDS = 1788854401.0


class RestTests(SynchronousTestCase):
    def ask_one(self, status: int, body: object, headers: dict[str, str] = DATE, symbol: str = "btcusd") -> Any:
        content = body if isinstance(body, bytes) else dumped(body)
        return asking().responded(RestRequest(f"/v1/pubticker/{symbol}", (symbol,)), status, headers, content, NOW)

    def ask_all(self, body: object, *symbols: str, status: int = 200) -> Any:
        content = body if isinstance(body, bytes) else dumped(body)
        return asking().responded(RestRequest("/v1/pricefeed", symbols), status, DATE, content, NOW)

    def test_a_few_symbols_one_by_one(self) -> None:
        codec = asking()
        three = ("btcusd", "ethusd", "solusd")
        self.assertEqual([RestRequest(f"/v1/pubticker/{name}", (name,)) for name in three], codec.requests(three))
        self.assertEqual([], codec.requests(()))
        self.assertEqual("/v1/pubticker/a%2F..%3Fb", codec.requests(["a/..?b"])[0].path)

    def test_many_symbols_in_one_question(self) -> None:
        four = ("btcusd", "ethusd", "solusd", "rndrusd")
        self.assertEqual([RestRequest("/v1/pricefeed", four)], asking().requests(four))

    def test_recorded_tickers(self) -> None:
        recorded = fixture("gemini/rest_ticker.json")
        self.assertEqual(
            [Tick("gemini", "btcusd", 78531.37, 78506.7, 78506.71, 76.83286898, DATE_SECONDS, NOW)],
            self.ask_one(200, recorded["GET_/v1/pubticker/btcusd_2026_09_08"]),
        )
        self.assertEqual(
            [Tick("gemini", "usdcusd", 1.00026, 1.00001, 1.00026, 2444794.70237, DATE_SECONDS, NOW)],
            self.ask_one(200, recorded["GET_/v1/pubticker_usdcusd_2024_04_11"], symbol="usdcusd"),
        )

    def test_the_other_recorded_ticker_has_no_last(self) -> None:
        body = fixture("gemini/rest_ticker.json")["GET_/v2/ticker/BTCUSD_2020"]
        self.assertEqual([NO_PRICE], reasons_in(self.ask_one(200, body)))

    def test_table(self) -> None:
        whole = {"bid": "100", "ask": "101", "last": "100.5"}
        for body, expected in (
            (whole, (100.5, 100, 101)),
            ({"bid": 100, "ask": 101, "last": 100.5}, (100.5, 100, 101)),
            (whole | {"bid": ""}, NO_QUOTE),
            (whole | {"ask": None, "bid": None}, NO_QUOTE),
            (whole | {"last": "0"}, NOT_POSITIVE),
            (whole | {"bid": "0.00"}, NOT_POSITIVE),
            (whole | {"last": "inf"}, NOT_FINITE),
            (whole | {"last": ""}, NO_PRICE),
            (whole | {"bid": "102"}, CROSSED),
            ({}, NO_PRICE),
            ([], MALFORMED),
            (b"<html>", MALFORMED),
            (b"", MALFORMED),
            (b"[" * 200_000, MALFORMED),
        ):  # fmt: skip
            events = self.ask_one(200, body)
            if isinstance(expected, tuple):
                self.assertEqual([("btcusd", *expected)], seen(events), body)
            else:
                self.assertEqual(
                    [(expected, "btcusd")], [(fault.reason, fault.symbol) for fault in of_type(events, Fault)]
                )

    def test_volume_is_that_of_the_base_currency_or_unknown(self) -> None:
        whole = {"bid": "100", "ask": "101", "last": "100.5"}
        for volume, expected in (
            ({"USD": "9", "timestamp": 1, "BTC": "7.5"}, 7.5),
            ({"BTC": 0, "USD": "9"}, 0.0),
            ({"BTC": "-1", "USD": "9"}, None),
            ({"BTC": "inf", "USD": "9"}, None),
            ({"BTC": None, "USD": "9"}, None),
            ({"BTC": "7.5"}, None),
            ({"USD": "9", "timestamp": 1}, None),
            ({}, None),
            (None, None),
            ("7.5", None),
        ):
            (heard,) = self.ask_one(200, whole | {"volume": volume})
            self.assertEqual(expected, None if math.isnan(heard.volume) else heard.volume, volume)

    def test_the_time_is_the_answers_date(self) -> None:
        whole = {"bid": "100", "ask": "101", "last": "100.5", "volume": {"timestamp": 1788856560000}}
        (heard,) = self.ask_one(200, whole, DATE)
        self.assertEqual(DATE_SECONDS, heard.exchange_time)
        for headers in ({}, {"date": "soon"}):
            (heard,) = self.ask_one(200, whole, headers)
            self.assertTrue(math.isnan(heard.exchange_time))

    def test_the_recorded_price_feed(self) -> None:
        feed = fixture("gemini/rest_ticker.json")["GET_/v1/pricefeed_head_2021"]
        events = self.ask_all(feed, "paxgusd", "enjusd", "btcusd")
        self.assertEqual([("enjusd", 3.1012, None, None), ("paxgusd", 1786.18, None, None)], seen(events))
        self.assertEqual([(NO_PRICE, "btcusd")], [(fault.reason, fault.symbol) for fault in of_type(events, Fault)])
        self.assertEqual({DATE_SECONDS}, {tick.exchange_time for tick in of_type(events, Tick)})
        self.assertTrue(math.isnan(events[0].volume))

    def test_the_price_feed_is_matched_whole_and_without_regard_to_case(self) -> None:
        feed = [
            {"pair": "BTCGUSDPERP", "price": "1"}, {"pair": "WBTCUSD", "price": "2"}, {"pair": "btcusd", "price": "3"},
            {"pair": "BTCUSDCPERP", "price": "4"}, {"pair": "BTCUSDT", "price": "5"},
        ]  # fmt: skip
        self.assertEqual([("btcusd", 3.0, None, None)], seen(self.ask_all(feed, "btcusd")))

    def test_bad_entries_do_not_cost_the_others(self) -> None:
        feed: list[Any] = [
            None, [], "BTCUSD", {}, {"pair": 5, "price": "5"}, {"pair": "ETHUSD"}, {"pair": "SOLUSD", "price": "0"},
            {"pair": "LTCUSD", "price": "inf"}, {"pair": "BTCUSD", "price": 7},
        ]  # fmt: skip
        events = self.ask_all(feed, "ethusd", "solusd", "ltcusd", "btcusd")
        self.assertEqual([("btcusd", 7.0, None, None)], seen(events))
        self.assertEqual({NOT_POSITIVE, NOT_FINITE, MALFORMED, NO_PRICE}, set(reasons_in(events)))
        self.assertEqual(5, len(events))

    def test_a_feed_that_is_none(self) -> None:
        for body in ({}, b"", b"[", b"null", {"result": "error"}):
            self.assertEqual([MALFORMED], reasons_in(self.ask_all(body, "btcusd", "ethusd")))
        (fault,) = self.ask_all({"result": "error", "reason": "Bad Request"}, "btcusd", "ethusd", status=400)
        self.assertEqual((HTTP_STATUS, ""), (fault.reason, fault.symbol))

    def test_a_bad_symbol_is_refused(self) -> None:
        body = fixture("gemini/rest_ticker.json")["bad_symbol_HTTP_400"]
        (event,) = self.ask_one(400, body, symbol="bla")
        self.assertEqual("bla", event.symbol)
        self.assertIsInstance(event, Refused)
        self.assertTrue(event.detail.startswith("Supplied value 'bla' is not a valid symbol"))
        self.assertEqual([Refused("btcusd", "why")], self.ask_one(400, {"result": "error", "reason": "why"}))

    def test_what_is_not_the_symbols_fault_does_not_refuse_it(self) -> None:
        for status, body in (
            (400, b"<html>"),
            (400, {}),
            (400, []),
            (404, {"result": "error"}),
            (500, b""),
            (302, b""),
        ):
            (fault,) = self.ask_one(status, body)
            self.assertEqual((HTTP_STATUS, "btcusd"), (fault.reason, fault.symbol))


SOCKET_RECORDINGS = [
    *recording("gemini/ticker.jsonl")[:6],
    *recording("gemini/trade.jsonl"),
    *recording("gemini/archived_v2_marketdata.jsonl")[:3],
    *(dumped(content) for content in fixture("gemini/error.json").values()),
    *(dumped(content) for content in fixture("gemini/ack.json").values()),
    dumped(fixture("gemini/heartbeat.json")["app_pong_received"]),
    b'{"id":"1","status":200}',
    bad_stream("ethusd@trade"),
    book("ethusd"),
    trade("ethusd"),
]
REST_RECORDINGS = [dumped(content) for content in fixture("gemini/rest_ticker.json").values()]


class GeminiProperties(garbage.CodecProperties):
    exchange = EXCHANGE
    symbols = PAIR
    spelling = "a{:02d}usd"
    recorded_frames = SOCKET_RECORDINGS
    recorded_bodies = REST_RECORDINGS
    mid_stands_in = True
    bookless = True

    def frame(
        self, name: str | None, price: str | None, bid: str | None, ask: str | None, volume: str | None,
        time: str | None, more: str | None,
    ) -> bytes:  # fmt: skip
        return members(s=name, c=price, b=bid, a=ask, E=time, zz=more).encode()

    def body(
        self, symbol: str, price: str | None, bid: str | None, ask: str | None, volume: str | None, time: str | None
    ) -> bytes:
        volumes = members(BTC=volume, USD='"1"', timestamp=time)
        return members(last=price, bid=bid, ask=ask, volume=volumes).encode()
