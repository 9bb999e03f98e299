"""Tests of L{tbeast.codecs.exchanges.coinbase}: recordings, a table of messages, and garbage."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
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
    Fault,
    Reconnect,
    Refused,
    RestRequest,
    Unacknowledged,
)
from tbeast.codecs.exchanges.coinbase import EXCHANGE, CoinbaseRest, CoinbaseSocket
from tbeast.domain.ticks import CROSSED, NO_PRICE, NO_QUOTE, NOT_POSITIVE, Tick
from tbeast.test.codecs.exchanges import garbage
from tbeast.test.codecs.exchanges.garbage import NOW, check, dumped, fixture, members, of_type, reasons_in, recording

PAIR = ("BTC-USD", "ETH-USD")


def ticker(product: str = "BTC-USD", **changes: Any) -> dict[str, Any]:
    content = {
        "type": "ticker", "product_id": product, "price": "100.5", "volume_24_h": "7.5", "best_bid": "100",
        "best_ask": "101", "best_bid_quantity": "1",
    } | changes  # fmt: skip
    return {key: value for key, value in content.items() if value is not ...}


def tickers(*entries: object, number: object = 0, **changes: Any) -> bytes:
    content = {
        "channel": "ticker", "timestamp": "2026-08-09T21:05:48.5Z", "sequence_num": number,
        "events": [{"type": "update", "tickers": list(entries)}],
    } | changes  # fmt: skip
    return dumped({key: value for key, value in content.items() if value is not ...})


def heartbeat(number: int) -> bytes:
    return dumped({"channel": "heartbeats", "sequence_num": number, "events": [{"heartbeat_counter": 1}]})


def acknowledgement(number: int, *products: str) -> bytes:
    return dumped(
        {"channel": "subscriptions", "sequence_num": number, "events": [{"subscriptions": {"ticker": products}}]}
    )


def tick(symbol: str = "BTC-USD", price: float = 100.5, bid: float = 100.0, ask: float = 101.0) -> Tick:
    return Tick("coinbase", symbol, price, bid, ask, 7.5, 1786309548.5, NOW)


def dialled(symbols: Iterable[str]) -> Any:
    """A codec as the socket's owner makes it; untyped, so that events can be looked into without ado."""
    return CoinbaseSocket(symbols)


def asking() -> Any:
    """A codec for REST; untyped likewise."""
    return CoinbaseRest()


def opened(*symbols: str) -> Any:
    """A codec that has subscribed and had its symbols acknowledged without a sequence number."""
    codec = dialled(symbols or PAIR)
    codec.opened(NOW)
    codec.received(
        dumped({"type": "subscriptions", "channels": [{"name": "ticker", "product_ids": symbols or PAIR}]}), NOW
    )
    return codec


class FactsTests(SynchronousTestCase):
    def test_limits_are_kept_below_what_the_exchange_allows(self) -> None:
        facts = EXCHANGE.facts
        self.assertEqual(("coinbase", "USD", 30), (facts.name, facts.quote, facts.symbols_per_socket))
        frames_each = len(dialled(PAIR).opened(NOW))
        self.assertLess(frames_each * facts.dials.count / facts.dials.seconds, 8)
        self.assertLess(facts.rest.count / facts.rest.seconds, 10)
        self.assertFalse(facts.rest_url.endswith("/"))
        self.assertFalse(facts.seeds_from_rest)
        self.assertTrue(facts.rest_headers["User-Agent"])

    def test_the_module_makes_both_codecs(self) -> None:
        self.assertIsInstance(EXCHANGE.socket_codec(PAIR), CoinbaseSocket)
        self.assertIsInstance(EXCHANGE.rest_codec(), CoinbaseRest)


class SubscribingTests(SynchronousTestCase):
    def test_two_frames_one_channel_each(self) -> None:
        first, second = dialled(PAIR).opened(NOW)
        recorded = fixture("coinbase/subscribe.json")
        self.assertEqual(recorded["advanced_ticker"], json.loads(first.text))
        self.assertEqual(recorded["advanced_heartbeats_minimal"], json.loads(second.text))
        self.assertEqual((0.0, 0.0), (first.after_seconds, second.after_seconds))

    def test_without_symbols_only_heartbeats_are_asked_for(self) -> None:
        (only,) = dialled(()).opened(NOW)
        self.assertEqual("heartbeats", json.loads(only.text)["channel"])

    def test_recorded_acknowledgements(self) -> None:
        codec = dialled(PAIR)
        codec.opened(NOW)
        recorded = fixture("coinbase/ack.json")
        heard = [codec.received(dumped(ack), NOW) for ack in recorded["advanced_recorded"]]
        self.assertEqual([[], [Acknowledged(PAIR)], [], []], [of_type(heard[i], Acknowledged) for i in (0, 2, 3, 4)])
        self.assertEqual([], of_type(heard[1], Acknowledged))
        self.assertEqual([], codec.due(NOW + 4))

    def test_acknowledgements_of_other_channels_acknowledge_nothing(self) -> None:
        recorded = fixture("coinbase/ack.json")
        for name in ("advanced_2026_09_07", "exchange_multi_2026_09_30"):
            codec = dialled(PAIR)
            codec.opened(NOW)
            self.assertEqual([], codec.received(dumped(recorded[name]), NOW))

    def test_exchange_acknowledgement(self) -> None:
        codec = dialled(PAIR)
        codec.opened(NOW)
        events = codec.received(dumped(fixture("coinbase/ack.json")["exchange_2026_09_04"]), NOW)
        self.assertEqual([Acknowledged(("BTC-USD",))], events)

    def test_what_the_acknowledgement_leaves_out_is_named_once_when_patience_runs_out(self) -> None:
        codec = dialled(("BTC-USD", "NOPE-USD"))
        codec.opened(NOW)
        self.assertEqual([Acknowledged(("BTC-USD",))], codec.received(acknowledgement(0, "BTC-USD"), NOW))
        codec.received(heartbeat(1), NOW + 9.9)
        self.assertEqual([], codec.due(NOW + 9.9))
        self.assertEqual(Unacknowledged(("NOPE-USD",)), codec.due(NOW + 10)[0])
        self.assertEqual([], codec.due(NOW + 11))

    def test_a_price_before_the_acknowledgement_acknowledges(self) -> None:
        codec = dialled(PAIR)
        codec.opened(NOW)
        self.assertEqual([Acknowledged(("BTC-USD",)), tick()], codec.received(tickers(ticker(), number=6), NOW))
        self.assertEqual([Acknowledged(("ETH-USD",))], codec.received(acknowledgement(7, *PAIR), NOW))

    def test_a_faulty_price_acknowledges_too(self) -> None:
        codec = dialled(PAIR)
        codec.opened(NOW)
        events = codec.received(tickers(ticker(best_bid="")), NOW)
        self.assertEqual(Acknowledged(("BTC-USD",)), events[0])
        self.assertEqual([NO_QUOTE], reasons_in(events))

    def test_an_odd_acknowledgement_is_read_as_far_as_it_goes(self) -> None:
        codec = dialled(PAIR)
        codec.opened(NOW)
        odd: dict[str, Any] = {"channel": "subscriptions"}
        odd["events"] = [{}, {"subscriptions": {"ticker": [1, "ETH-USD"], "user": None}}]
        self.assertEqual([Acknowledged(("ETH-USD",))], codec.received(dumped(odd), NOW))


class ErrorTests(SynchronousTestCase):
    def test_recorded_errors_that_name_a_product(self) -> None:
        recorded = fixture("coinbase/error.json")
        for name, symbol in (("exchange_bad_product", "ETH-USD"), ("exchange_delisted", "LOOM-USDC")):
            codec = dialled(("BTC-USD", "ETH-USD", "LOOM-USDC"))
            codec.opened(NOW)
            refused, again = codec.received(dumped(recorded[name]), NOW)
            self.assertEqual(symbol, refused.symbol)
            self.assertIn(recorded[name]["reason"], refused.detail)
            question = json.loads(again.text)
            left = [wanted for wanted in ("BTC-USD", "ETH-USD", "LOOM-USDC") if wanted != symbol]
            self.assertEqual({"type": "subscribe", "product_ids": left, "channel": "ticker"}, question)
            # the same once more changes nothing, so asking again comes to an end
            self.assertEqual([EXCHANGE_ERROR], reasons_in(codec.received(dumped(recorded[name]), NOW)))

    def test_recorded_errors_that_name_none(self) -> None:
        recorded = fixture("coinbase/error.json")
        names = recorded.keys() - {"exchange_bad_product", "exchange_delisted"}
        self.assertEqual(4, len(names))
        for name in names:
            events = opened().received(dumped(recorded[name]), NOW)
            self.assertEqual(1, len(events), name)
            self.assertEqual([EXCHANGE_ERROR], reasons_in(events), name)
            self.assertIn(recorded[name]["message"], events[0].detail)

    def test_the_name_may_stand_in_the_message(self) -> None:
        codec = dialled(PAIR)
        codec.opened(NOW)
        events = codec.received(dumped({"type": "error", "message": "ETH-USD is not a valid product"}), NOW)
        self.assertEqual([Refused("ETH-USD", "ETH-USD is not a valid product")], events[:1])
        self.assertEqual(["BTC-USD"], json.loads(events[1].text)["product_ids"])

    def test_what_is_acknowledged_is_not_asked_for_again(self) -> None:
        codec = opened("BTC-USD", "ETH-USD")
        events = codec.received(dumped({"type": "error", "reason": "ETH-USD is delisted"}), NOW)
        self.assertEqual([Refused("ETH-USD", "ETH-USD is delisted")], events)

    def test_nothing_is_asked_again_when_nothing_is_left(self) -> None:
        codec = opened("BTC-USD")
        events = codec.received(dumped({"type": "error", "reason": "BTC-USD is delisted"}), NOW)
        self.assertEqual([Refused("BTC-USD", "BTC-USD is delisted")], events)

    def test_a_refused_symbol_is_strange_from_then_on(self) -> None:
        codec = opened()
        codec.received(dumped({"type": "error", "reason": "BTC-USD is delisted"}), NOW)
        self.assertEqual([UNKNOWN_SYMBOL], reasons_in(codec.received(tickers(ticker()), NOW)))

    def test_errors_have_no_place_in_the_sequence(self) -> None:
        codec = opened()
        codec.received(heartbeat(4), NOW)
        codec.received(dumped({"type": "error", "message": "authentication failure"}), NOW)
        self.assertEqual([], codec.received(heartbeat(5), NOW))

    def test_what_an_error_without_a_name_may_have_cost_is_asked_for_again(self) -> None:
        codec = dialled(PAIR)
        codec.opened(NOW)
        self.assertEqual([EXCHANGE_ERROR], reasons_in(codec.received(b'{"type":"error","message":"too fast"}', NOW)))
        codec.received(acknowledgement(0, "BTC-USD"), NOW + 9)
        self.assertEqual([], codec.due(NOW + 9))
        silent, again = codec.due(NOW + 10)
        self.assertEqual(Unacknowledged(("ETH-USD",)), silent)
        self.assertEqual(["ETH-USD"], json.loads(again.text)["product_ids"])

    def test_nothing_is_asked_again_after_an_error_when_all_is_acknowledged(self) -> None:
        codec = opened()
        codec.received(b'{"type":"error","message":"too fast"}', NOW + 9)
        self.assertEqual([], codec.due(NOW + 11))

    def test_patience_begins_anew_with_the_second_question(self) -> None:
        codec = dialled(("BTC-USD", "X-USD", "Y-USD"))
        codec.opened(NOW)
        codec.received(dumped({"type": "error", "reason": "X-USD is delisted"}), NOW + 8)
        codec.received(acknowledgement(0, "BTC-USD"), NOW + 16)
        self.assertEqual([], codec.due(NOW + 17))
        self.assertEqual(Unacknowledged(("Y-USD",)), codec.due(NOW + 18)[0])


class RecordingTests(SynchronousTestCase):
    def test_the_whole_recording_with_its_missing_frames_put_back(self) -> None:
        known = {content["sequence_num"]: content for content in fixture("coinbase/ack.json")["advanced_recorded"]}
        known |= {content["sequence_num"]: content for content in fixture("coinbase/heartbeat.json")}
        frames = {number: dumped(content) for number, content in known.items()}
        lines = recording("coinbase/ticker.jsonl")
        frames |= {json.loads(line)["sequence_num"]: line for line in lines}
        codec = dialled(PAIR)
        codec.opened(NOW)
        heard = [
            event
            for number in range(max(frames) + 1)
            for event in codec.received(frames.get(number) or heartbeat(number), NOW)
        ]
        self.assertEqual(96, len(lines))
        self.assertEqual({Tick: 96, Acknowledged: 2}, Counter(type(event) for event in heard))
        ticks = of_type(heard, Tick)
        self.assertEqual({"BTC-USD", "ETH-USD"}, {tick.symbol for tick in ticks})
        self.assertEqual(("coinbase", "BTC-USD", 65086.18, 65083.66, 65083.67, 2867.54532609), ticks[0][:6])
        self.assertAlmostEqual(1786309548.229198, ticks[0].exchange_time, places=5)
        for line, heard_tick in zip(lines, ticks, strict=True):
            (entry,) = json.loads(line)["events"][0]["tickers"]
            expected = [entry[key] for key in ("price", "best_bid", "best_ask", "volume_24_h")]
            self.assertEqual([entry["product_id"], *map(float, expected)], list(heard_tick[1:6]))

    def test_the_holes_of_the_recording_by_itself_are_found(self) -> None:
        lines = recording("coinbase/ticker.jsonl")
        numbers = [json.loads(line)["sequence_num"] for line in lines]
        holes = sum(later != earlier + 1 for earlier, later in pairwise(numbers))
        codec = opened()
        heard = [event for line in lines for event in codec.received(line, NOW)]
        self.assertEqual(85, holes)
        self.assertEqual({Tick: 96, Fault: 85, Reconnect: 85}, Counter(type(event) for event in heard))
        self.assertEqual({SEQUENCE_GAP}, set(reasons_in(heard)))

    def test_recorded_heartbeats(self) -> None:
        contents = fixture("coinbase/heartbeat.json")
        self.assertEqual(25, len(contents))
        for content in contents:
            self.assertEqual([], opened().received(dumped(content), NOW))

    def test_the_exchange_recording(self) -> None:
        lines = recording("coinbase/ticker_exchange.jsonl")
        codec = dialled({json.loads(line)["product_id"] for line in lines})
        codec.opened(NOW)
        heard = [event for line in lines for event in codec.received(line, NOW)]
        self.assertEqual({Tick: 65, Acknowledged: 11}, Counter(type(event) for event in heard))
        first = of_type(heard, Tick)[0]
        self.assertEqual(
            Tick("coinbase", "BTC-USD", 81228.94, 81222.5, 81228.97, 10973.39542777, 1788481262.90527, NOW), first
        )


class SequenceTests(SynchronousTestCase):
    def test_any_first_number_is_taken_as_the_start(self) -> None:
        for start in (0, 1, 1000):
            codec = opened()
            for number in range(start, start + 3):
                self.assertEqual([tick()], codec.received(tickers(ticker(), number=number), NOW))

    def test_every_kind_of_frame_counts(self) -> None:
        codec = opened()
        for frame in (acknowledgement(0, "BTC-USD"), heartbeat(1), tickers(ticker(), number=2), heartbeat(3)):
            self.assertEqual([], reasons_in(codec.received(frame, NOW)))
        self.assertEqual([UNKNOWN_MESSAGE], reasons_in(codec.received(b'{"channel":"status","sequence_num":4}', NOW)))
        self.assertEqual([], codec.received(heartbeat(5), NOW))

    def test_a_hole_gives_the_newer_prices_and_then_gives_up_the_connection(self) -> None:
        codec = opened()
        codec.received(heartbeat(3), NOW)
        fault, heard, reconnect = codec.received(tickers(ticker(), number=5), NOW)
        self.assertEqual(Fault(SEQUENCE_GAP, "5 where 4 was due"), fault)
        self.assertEqual(tick(), heard)
        self.assertEqual(Reconnect("frames were lost"), reconnect)
        self.assertEqual([tick()], codec.received(tickers(ticker(), number=6), NOW))

    def test_a_hole_found_by_a_heartbeat(self) -> None:
        codec = opened()
        codec.received(heartbeat(3), NOW)
        events = codec.received(heartbeat(5), NOW)
        self.assertEqual([Fault, Reconnect], [type(event) for event in events])

    def test_a_repetition_is_not_taken(self) -> None:
        codec = opened()
        frame = tickers(ticker(), number=3)
        self.assertEqual([tick()], codec.received(frame, NOW))
        events = codec.received(frame, NOW)
        self.assertEqual([Fault(SEQUENCE_GAP, "3 where 4 was due"), Reconnect("a sequence number came again")], events)
        self.assertEqual([tick()], codec.received(tickers(ticker(), number=4), NOW))

    def test_going_back_is_never_taken(self) -> None:
        codec = opened()
        codec.received(heartbeat(9), NOW)
        for number in (0, 1, 2):
            events = codec.received(tickers(ticker(), number=number), NOW)
            self.assertEqual([Fault, Reconnect], [type(event) for event in events])

    def test_a_frame_without_a_usable_number_is_read_and_leaves_the_sequence_alone(self) -> None:
        for number in (..., -7, None, "many", True, 2**63, 10**30, 10**400, [1]):
            codec = opened()
            codec.received(heartbeat(3), NOW)
            self.assertEqual([tick()], codec.received(tickers(ticker(), number=number), NOW), number)
            self.assertEqual([], codec.received(heartbeat(4), NOW), number)

    def test_a_frame_with_odd_parts_keeps_its_place(self) -> None:
        codec = opened()
        codec.received(heartbeat(3), NOW)
        self.assertEqual([NO_QUOTE], reasons_in(codec.received(tickers(ticker(best_ask=""), number=4), NOW)))
        self.assertEqual([], codec.received(heartbeat(5), NOW))

    def test_an_unreadable_frame_shows_as_a_hole(self) -> None:
        codec = opened()
        codec.received(heartbeat(3), NOW)
        self.assertEqual([MALFORMED], reasons_in(codec.received(heartbeat(4)[:-1], NOW)))
        self.assertEqual([SEQUENCE_GAP], reasons_in(codec.received(heartbeat(5), NOW)))

    def test_the_numbers_of_the_exchange_feed_mean_nothing(self) -> None:
        codec = opened()
        for number in (9, 5, 5, 700):
            flat = ticker(sequence=number, volume_24h="7.5", time="2026-08-09T21:05:48.5Z")
            self.assertEqual([tick()], codec.received(dumped(flat), NOW))


class TickerTests(SynchronousTestCase):
    def test_table(self) -> None:
        """One ticker's changed members, and what comes of it."""
        for changes, expected in (
            ({}, tick()),
            ({"price": 100.5, "best_bid": 100, "best_ask": 101}, tick()),
            ({"unheard_of": [[{}]]}, tick()),
            ({"best_bid": "101", "best_ask": "101"}, tick(bid=101)),
            ({"best_bid": "101.2"}, tick(bid=101.2)),  # crossed by a hair
            ({"price": "250"}, tick(price=250)),
            ({"price": "0.004", "best_bid": "3.7e-3", "best_ask": "5E-3"}, tick(price=0.004, bid=0.0037, ask=0.005)),
            ({"best_bid": "150"}, CROSSED),
            ({"best_bid": ""}, NO_QUOTE),
            ({"best_ask": ""}, NO_QUOTE),
            ({"best_bid": "", "best_ask": ""}, NO_QUOTE),
            ({"best_bid": ..., "best_ask": ...}, NO_QUOTE),
            ({"best_bid": None}, NO_QUOTE),
            ({"best_bid": "0"}, NOT_POSITIVE),
            ({"best_ask": "-5", "best_bid": "-6"}, NOT_POSITIVE),
            ({"best_bid": 0, "best_ask": 0}, NOT_POSITIVE),
            ({"price": "0"}, NOT_POSITIVE),
            ({"product_id": "DOGE-USD"}, UNKNOWN_SYMBOL),
            ({"product_id": "btc-usd"}, UNKNOWN_SYMBOL),
            ({"product_id": ""}, MALFORMED),
            ({"product_id": ...}, MALFORMED),
            ({"product_id": 5}, MALFORMED),
        ):  # fmt: skip
            for frame in (
                tickers(ticker(**changes)),
                dumped(ticker(**changes) | {"time": "2026-08-09T21:05:48.5Z", "volume_24h": "7.5"}),
            ):
                events = opened().received(frame, NOW)
                self.assertEqual(1, len(events), changes)
                found = events[0]
                self.assertEqual(expected, found if isinstance(expected, Tick) else found.reason, changes)

    def test_a_number_too_large_for_json_costs_only_its_ticker(self) -> None:
        frame = tickers(ticker(price="PRICE"), ticker("ETH-USD")).replace(b'"PRICE"', b"1e999")
        fault, heard = opened().received(frame, NOW)
        self.assertEqual((NO_PRICE, "BTC-USD"), (fault.reason, fault.symbol))
        self.assertEqual(tick("ETH-USD"), heard)

    def test_one_bad_ticker_does_not_cost_the_others(self) -> None:
        good: Any = ticker("ETH-USD")
        entries: tuple[Any, ...]
        for bad, reason in (
            (ticker(price="x"), NO_PRICE),
            (ticker(best_bid=None), NO_QUOTE),
            (ticker(product_id=None), MALFORMED),
            (None, MALFORMED),
            ("ticker", MALFORMED),
            ([], MALFORMED),
            ({}, MALFORMED),
        ):
            for entries in ((bad, good), (good, bad), (good, bad, good)):
                events = opened().received(tickers(*entries), NOW)
                self.assertEqual([tick("ETH-USD")] * entries.count(good), of_type(events, Tick), bad)
                self.assertEqual([reason], reasons_in(events), bad)

    def test_one_bad_batch_does_not_cost_the_others(self) -> None:
        for bad in (None, 7, {"tickers": "none"}, {"tickers": {"BTC-USD": 1}}):
            events = opened().received(tickers(events=[bad, {"tickers": [ticker()]}]), NOW)
            self.assertEqual([tick()], of_type(events, Tick))
            self.assertEqual([MALFORMED], reasons_in(events))

    def test_an_alias_that_answers_with_another_product_gives_no_price(self) -> None:
        codec = dialled(("BTC-USDC",))
        codec.opened(NOW)
        self.assertEqual([UNKNOWN_SYMBOL], reasons_in(codec.received(tickers(ticker("BTC-USD")), NOW)))
        codec.received(heartbeat(1), NOW + 10)
        self.assertEqual([Unacknowledged(("BTC-USDC",))], of_type(codec.due(NOW + 10), Unacknowledged))

    def test_all_events_and_all_tickers_are_read(self) -> None:
        batches = [{"tickers": [ticker(), ticker("ETH-USD")]}, {"type": "snapshot", "tickers": [ticker(price="100.7")]}]
        events = opened().received(tickers(events=batches), NOW)
        self.assertEqual([tick(), tick("ETH-USD"), tick(price=100.7)], events)

    def test_a_ticker_message_without_tickers_is_malformed(self) -> None:
        shapes: tuple[Any, ...] = (..., [], [{}], [{"tickers": []}], [{"tickers": None}], None, 5, "x")
        for events in shapes:
            self.assertEqual([MALFORMED], reasons_in(opened().received(tickers(events=events), NOW)), events)

    def test_an_unreadable_time_or_volume_spoils_no_price(self) -> None:
        for timestamp in (
            ...,
            None,
            "",
            "soon",
            5,
            "2026-08-09T21:05:48.5",
            "2026-08-09 21:05:49 +0000 UTC m=+41691.2",
        ):
            (heard,) = opened().received(tickers(ticker(), timestamp=timestamp), NOW)
            self.assertTrue(math.isnan(heard.exchange_time), timestamp)
            self.assertEqual(tick()[:6], heard[:6])
        for volume in (..., None, "", "much", "-1", "Infinity", [7]):
            (heard,) = opened().received(tickers(ticker(volume_24_h=volume)), NOW)
            self.assertTrue(math.isnan(heard.volume), volume)
            self.assertEqual(tick()[:5], heard[:5])
        (heard,) = opened().received(tickers(ticker(volume_24_h="0")), NOW)
        self.assertEqual(0.0, heard.volume)

    def test_strange_messages(self) -> None:
        for frame, reason in (
            (b'{"channel":7}', MALFORMED),
            (b'{"type":7}', MALFORMED),
            (b'{"channel":"\xff"}', MALFORMED),
            (b'{"channel":"ticker"', MALFORMED),
            (b'{"channel":null}', UNKNOWN_MESSAGE),
            (b'{"channel":"heartbeats","events":' + b"[" * 200_000 + b"]" * 200_000 + b"}", MALFORMED),
            (b'{"sequence_num":' + b"9" * 5000 + b"}", UNKNOWN_MESSAGE),
            (b'{"channel":"ticker_batch","sequence_num":0}', UNKNOWN_MESSAGE),
            (b'{"channel":"%s"}' % (b"x" * 9000), UNKNOWN_MESSAGE),
            (b'{"type":"last_match"}', UNKNOWN_MESSAGE),
            (b'{"type":"error"}', EXCHANGE_ERROR),
            (b'{"type":"error","reason":"%s"}' % (b"x" * 300_000), EXCHANGE_ERROR),
            (b'{"type":"error","message":{},"reason":[]}', EXCHANGE_ERROR),
        ):  # fmt: skip
            events = opened().received(frame, NOW)
            self.assertEqual([reason], reasons_in(events), frame[:80])
            self.assertEqual(1, len(events))
            check(events, "coinbase", PAIR)

    def test_odd_flat_messages(self) -> None:
        codec = dialled(PAIR)
        codec.opened(NOW)
        self.assertEqual([], codec.received(b'{"type":"heartbeat","sequence":90,"product_id":"BTC-USD"}', NOW))
        odd = {"type": "subscriptions", "channels": ["full", {"name": "ticker", "product_ids": ["BTC-USD", None]}]}
        events = codec.received(dumped(odd), NOW)
        self.assertEqual([MALFORMED], reasons_in(events))
        self.assertEqual([Acknowledged(("BTC-USD",))], of_type(events, Acknowledged))


class LivenessTests(SynchronousTestCase):
    def test_silence_ends_the_connection_whatever_the_pongs_say(self) -> None:
        codec = opened()
        codec.ponged(NOW + 4)
        self.assertEqual([], codec.due(NOW + 5))
        codec.ponged(NOW + 5)
        (event,) = codec.due(NOW + 5.1)
        self.assertIsInstance(event, Reconnect)

    def test_any_frame_shows_life(self) -> None:
        for frame in (heartbeat(0), b"nonsense", tickers(ticker()), b'{"type":"error"}'):
            codec = opened()
            codec.received(frame, NOW + 4)
            self.assertEqual([], codec.due(NOW + 9))
            self.assertEqual(1, len(codec.due(NOW + 9.1)))


class RestTests(SynchronousTestCase):
    def ask(self, status: int, body: object, headers: dict[str, str] | None = None) -> Any:
        content = body if isinstance(body, bytes) else dumped(body)
        request = RestRequest("/products/BTC-USD/ticker", ("BTC-USD",))
        return asking().responded(request, status, headers or {}, content, NOW)

    def test_one_question_a_symbol(self) -> None:
        self.assertEqual(
            [RestRequest(f"/products/{symbol}/ticker", (symbol,)) for symbol in PAIR], asking().requests(PAIR)
        )
        self.assertEqual([], asking().requests(()))

    def test_a_path_cannot_be_broken_out_of(self) -> None:
        (request,) = asking().requests(["../a?b"])
        self.assertEqual("/products/..%2Fa%3Fb/ticker", request.path)

    def test_recorded_tickers(self) -> None:
        recorded = fixture("coinbase/rest_ticker.json")
        (first,) = self.ask(200, recorded["exchange_GET_/products/BTC-USD/ticker_2026_09_07"])
        self.assertEqual(("coinbase", "BTC-USD", 79540.05, 79540.04, 79540.05, 2425.48311563), first[:6])
        self.assertAlmostEqual(1788765973.72178, first.exchange_time, places=4)
        self.assertEqual(NOW, first.heard_at)
        (second,) = self.ask(200, recorded["exchange_GET_/products/BTC-USD/ticker_2026_06_19"])
        self.assertEqual((63212.97, 63212.97, 63212.98, 4916.94797396), second[2:6])

    def test_recorded_product_book(self) -> None:
        body = fixture("coinbase/rest_ticker.json")["advanced_GET_/market/product_book_limit1_2026_09_07"]
        (heard,) = self.ask(200, body)
        self.assertEqual(("BTC-USD", 79540.045, 79540.04, 79540.05), heard[1:5])
        self.assertTrue(math.isnan(heard.volume))
        self.assertAlmostEqual(1788765973.546843, heard.exchange_time, places=4)

    def test_recorded_lists_are_no_ticker(self) -> None:
        recorded = fixture("coinbase/rest_ticker.json")
        lists = [name for name in recorded if "/products/stats" in name or "/market/products_" in name]
        self.assertEqual(2, len(lists))
        for name in lists:
            self.assertEqual([NO_PRICE], reasons_in(self.ask(200, recorded[name])))

    def test_table(self) -> None:
        whole = {"price": "100.5", "bid": "100", "ask": "101", "volume": "7.5", "time": "2026-08-09T21:05:48.5Z"}
        book = {"product_id": "BTC-USD", "bids": [{"price": "1"}], "asks": [{"price": "2"}]}
        for body, expected in (
            (whole, tick()),
            (whole | {"price": 100.5, "bid": 100, "ask": 101}, tick()),
            (whole | {"bid": ""}, NO_QUOTE),
            (whole | {"bid": None, "ask": None}, NO_QUOTE),
            (whole | {"ask": "0"}, NOT_POSITIVE),
            (whole | {"price": "0"}, NOT_POSITIVE),
            (whole | {"price": 0}, NOT_POSITIVE),
            (whole | {"bid": "300"}, CROSSED),
            ({}, NO_PRICE),
            ({"pricebook": book}, NO_PRICE),
            ({"pricebook": book | {"bids": []}, "last": "1"}, NO_QUOTE),
            ({"pricebook": book | {"asks": [7, {"price": "2"}]}, "last": "1"}, MALFORMED),
            ({"pricebook": book | {"asks": {}}, "last": "1"}, MALFORMED),
            ({"pricebook": book | {"product_id": "ETH-USD"}, "last": "1"}, UNKNOWN_SYMBOL),
            ({"pricebook": [], "last": "1"}, MALFORMED),
            ([], MALFORMED),
            (b"", MALFORMED),
        ):  # fmt: skip
            (found,) = self.ask(200, body)
            self.assertEqual(expected, found if isinstance(expected, Tick) else found.reason, body)
            self.assertEqual("BTC-USD", found.symbol)

    def test_a_product_that_the_exchange_does_not_give_is_refused(self) -> None:
        self.assertEqual([Refused("BTC-USD", "NotFound")], self.ask(404, {"message": "NotFound"}))
        self.assertEqual([Refused("BTC-USD", "delisted")], self.ask(400, {"message": "delisted"}))

    def test_what_is_not_the_symbols_fault_does_not_refuse_it(self) -> None:
        for status, body in (
            (400, {"message": "User-Agent header is required."}),
            (404, {"message": "Route not found"}),
            (400, b"<html>"),
            (404, b""),
            (404, {"message": 5}),
            (403, {"message": "Forbidden"}),
            (500, {"message": "Internal server error"}),
            (503, b""),
            (302, b""),
            (204, b""),
        ):
            (found,) = self.ask(status, body)
            self.assertEqual((HTTP_STATUS, "BTC-USD"), (found.reason, found.symbol))
            self.assertTrue(found.detail.startswith(str(status)))


SOCKET_RECORDINGS = [
    *recording("coinbase/ticker.jsonl")[:8],
    *recording("coinbase/ticker_exchange.jsonl")[:4],
    *(dumped(content) for content in fixture("coinbase/heartbeat.json")[:2]),
    *(dumped(content) for content in fixture("coinbase/error.json").values()),
    *(dumped(content) for content in fixture("coinbase/ack.json")["advanced_recorded"]),
    dumped(fixture("coinbase/ack.json")["exchange_multi_2026_09_30"]),
    tickers(ticker(), ticker("ETH-USD"), ticker()),
]


class CoinbaseProperties(garbage.CodecProperties):
    exchange = EXCHANGE
    symbols = PAIR
    spelling = "A{:02d}-USD"
    recorded_frames = SOCKET_RECORDINGS
    recorded_bodies = list(garbage.labelled("coinbase/rest_ticker.json").values())

    def frame(
        self, name: str | None, price: str | None, bid: str | None, ask: str | None, volume: str | None,
        time: str | None, more: str | None,
    ) -> bytes:  # fmt: skip
        row = members(product_id=name, price=price, best_bid=bid, best_ask=ask, volume_24_h=volume, zz=more)
        return members(channel='"ticker"', timestamp=time, events=f'[{{"tickers":[{row}]}}]').encode()

    def body(
        self, symbol: str, price: str | None, bid: str | None, ask: str | None, volume: str | None, time: str | None
    ) -> bytes:
        return members(price=price, bid=bid, ask=ask, volume=volume, time=time).encode()


class CoinbaseFlatProperties(CoinbaseProperties):
    """The same in the messages of the older feed."""

    def frame(
        self, name: str | None, price: str | None, bid: str | None, ask: str | None, volume: str | None,
        time: str | None, more: str | None,
    ) -> bytes:  # fmt: skip
        fields = members(product_id=name, price=price, best_bid=bid, best_ask=ask, volume_24h=volume, time=time, z=more)
        return b'{"type":"ticker",' + fields[1:].encode()
