"""What all exchange codecs are tested with: recorded messages, garbage, and what must hold of every codec.

A codec's test module makes a case of L{CodecProperties} by saying how its exchange writes a price. The module is to be
imported as a whole, not by names: trial would run the bare case as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.exchanges.base import (
    FAULTS,
    HTTP_STATUS,
    MALFORMED,
    UNKNOWN_MESSAGE,
    UNKNOWN_SYMBOL,
    Acknowledged,
    Event,
    Exchange,
    Fault,
    Halted,
    Reconnect,
    Refused,
    Replace,
    RestCodec,
    RestRequest,
    Resumed,
    Send,
    SocketCodec,
    Throttled,
    Unacknowledged,
)
from tbeast.domain.ticks import NO_PRICE, NO_QUOTE, NOT_FINITE, NOT_POSITIVE, Tick, fault_in

FIXTURES = Path(__file__).with_name("fixtures")
NOW = 1_790_000_000.25


# Recorded messages.


def fixture(path: str) -> Any:
    """The content of a fixture, usually messages under labels."""
    return json.loads((FIXTURES / path).read_text("utf-8"))


def labelled(path: str) -> dict[str, bytes]:
    """The labelled messages of a fixture, each as bytes again."""
    return {label: dumped(message) for label, message in fixture(path).items()}


def recording(path: str) -> list[bytes]:
    """The messages of a fixture that holds one a line."""
    return (FIXTURES / path).read_bytes().splitlines()


def dumped(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# Events.


def of_type(events: Iterable[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def ticks(events: Iterable[Event]) -> list[Tick]:
    return of_type(events, Tick)


def faults(events: Iterable[Event]) -> list[tuple[str, str]]:
    """Reason and symbol of every fault."""
    return [(event.reason, event.symbol) for event in of_type(events, Fault)]


def reasons_in(events: Iterable[Event]) -> list[str]:
    """The reason of every fault."""
    return [event.reason for event in of_type(events, Fault)]


def told(events: Iterable[Event]) -> list[str]:
    """A word for each event: a fault's reason, and every other's kind."""
    return [event.reason if isinstance(event, Fault) else type(event).__name__ for event in events]


def sent(events: Iterable[Event]) -> list[Any]:
    """The messages that are to be sent."""
    return [json.loads(event.text) for event in of_type(events, Send)]


def only_tick(events: list[Event]) -> Tick:
    (event,) = events
    assert isinstance(event, Tick), event
    return event


def check(events: Iterable[Event], exchange: str, wanted: Iterable[str], bookless: bool = False) -> None:
    """What must hold of any events, whatever was sent.

    @param bookless: whether this exchange may give a price without bid and ask.
    """
    wanted = set(wanted)
    for event in events:
        if isinstance(event, Tick):
            assert event.exchange == exchange, event
            assert event.symbol in wanted, event
            assert fault_in(event.price, event.bid, event.ask) is None, event
            assert bookless or event.bid == event.bid, event
            assert math.isnan(event.volume) or 0 <= event.volume < math.inf, event
            assert math.isnan(event.exchange_time) or 0 < event.exchange_time < 253_402_300_800, event
            assert event.heard_at >= NOW, event
        elif isinstance(event, Fault):
            assert event.reason in FAULTS, event
            assert len(event.detail) <= 500, event
            assert len(event.symbol) <= 50, event
            (event.detail + event.symbol).encode()
        elif isinstance(event, Refused):
            assert event.symbol in wanted, event
            assert len(event.detail) <= 500, event
        elif isinstance(event, Acknowledged | Unacknowledged):
            assert event.symbols, event
            assert set(event.symbols) <= wanted, event
        elif isinstance(event, Throttled):
            assert event.retry_after_seconds is None or 0 <= event.retry_after_seconds <= 3600, event
        elif isinstance(event, Send):
            assert event.after_seconds >= 0, event
            assert event.text == "ping" or json.loads(event.text), event
        elif isinstance(event, RestRequest):
            assert event.symbols, event
            assert set(event.symbols) <= wanted, event
            assert event.path.isascii() and event.path.isprintable() and " " not in event.path, event
        else:
            assert isinstance(event, Reconnect | Replace | Halted | Resumed), event


# Garbage.

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 7, 10**19, 2**63, 10**30, 10**400, 1.5, -0.0, 1e308, 5e-324, math.nan, math.inf,
    -math.inf, "", " ", "0", "-5", "1.5", "1_0", " 1 ", "nan", "NaN", "infinity", "1e999", "1e-400", "0x10",
    "\u0661", "\ud800", "null", "9" * 400, "x" * 300, "BTC-USD is not a valid product", [], {}, [[]], [{}], {"": ""},
)  # fmt: skip
"""What an exchange should not put where a number, a name or a list is expected. Written by json.dumps, NaN and
infinity among them become words that are no JSON.
"""

PIECES = (
    b"", b"null", b'""', b"-", b"0", b"9" * 30, b"1e999", b"[", b"[" * 9, b"{", b'"', b",", b"\xff", b"true", b"NaN",
    b"Infinity",
)  # fmt: skip
"""What may stand in a message in the place of a few of its bytes."""


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON, and the words that some writers take for JSON."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(ODD_VALUES)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=8,
    )


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every value inside a JSON value: what holds it, and where."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in inner for place in ((value, key), *_places(child))]


@st.composite
def damaged(draw: st.DrawFn, recorded: Sequence[bytes]) -> bytes:
    """A recorded message with a few values or names exchanged, left out or doubled, and then perhaps a few bytes."""
    message = json.loads(draw(st.sampled_from(recorded)))
    for _ in range(draw(st.integers(0, 3))):
        places = _places(message)
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        deed = draw(st.sampled_from(("exchange", "leave out", "double", "rename")))
        if deed == "leave out":
            del holder[key]
        elif deed == "exchange":
            # a copy: the next round may damage it further
            holder[key] = deepcopy(draw(st.sampled_from(ODD_VALUES) | json_values()))
        elif isinstance(holder, list):
            holder.insert(key, deepcopy(holder[key]))
        else:
            other = draw(st.sampled_from(sorted(holder)) if deed == "double" else st.text(max_size=5))
            holder[other] = deepcopy(holder[key])
    raw = dumped(message)
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(raw)))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=3))
        raw = raw[:start] + piece + raw[start + draw(st.integers(0, 6)) :]
    return raw


def garbage(recorded: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes of every degree of wrongness, from noise to almost right."""
    return st.binary(max_size=80) | json_values().map(dumped) | damaged(recorded) | damaged(recorded)


HEADERS = st.dictionaries(
    st.sampled_from(("retry-after", "date", "content-type", "x-gate-ratelimit-reset-timestamp")),
    st.text(max_size=12)
    | st.sampled_from(
        ("2", "0.5", "-1", "1e9", "nan", "Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 99 Xxx 0000 99:28:00 GMT")
    ),
)

NO_MESSAGES = (
    b"", b" ", b"null", b"[]", b"7", b'"pong"', b"nan", b"{", b'{"a":1', b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"a":NaN}',
    b'{"a":"\\ud800"}', b"[" * 100_000, b'{"a":' * 100_000,
    b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"1e999",
)  # fmt: skip
"""Bytes that are no JSON object."""

SPELLINGS_OF_A_HUNDRED = ("100", "100.0", "1e2", "1.0E+2", '"100"', '"100.000"', '"1e2"')

NO_NUMBERS: tuple[str | None, ...] = (
    None, "null", "true", '""', '" 100 "', '"+100"', '".5"', '"100."', '"0100"', '"1_0"', '"1,000"', '"0x64"',
    '"\u0661"', '"nan"', '"abc"', '"1e999"', "1e999", "1" + "0" * 400, "1" + "0" * 6000, "[100]", '["100"]', '{"x":1}',
)  # fmt: skip
"""What may stand where a number should, in JSON; C{None} for nothing at all."""

NO_PRICES = (
    ("0", NOT_POSITIVE), ("-0", NOT_POSITIVE), ("-5", NOT_POSITIVE), ('"0"', NOT_POSITIVE), ('"0.000"', NOT_POSITIVE),
    ('"-5"', NOT_POSITIVE), ("1e-999", NOT_POSITIVE), ('"-infinity"', NOT_POSITIVE),
    ('"infinity"', NOT_FINITE), ('"inf"', NOT_FINITE),
)  # fmt: skip
"""Numbers that are no price, bid or ask."""

RETRY_AFTER = (
    ("", None), ("0", 0.0), ("2", 2.0), ("0.5", 0.5), (" 10 ", 10.0), ("3600", 3600.0), ("3601", None), ("-1", None),
    ("soon", None), ("NaN", None), ("Infinity", None), ("1_0", None), ("9" * 30, None), ("\u0663", None),
    ("Mon, 21 Sep 2026 14:13:27 GMT", 6.75), ("Mon, 21 Sep 2026 14:13:13 GMT", None), ("Mon, 99 Sep 2026 14", None),
)  # fmt: skip
"""What C{Retry-After} may say at L{NOW}, and how long that is."""


def members(**raw: str | None) -> str:
    """An object of these members, each given as JSON text; those that are C{None} are left out."""
    return "{" + ",".join(f'"{name}":{text}' for name, text in raw.items() if text is not None) + "}"


class CodecProperties(SynchronousTestCase):
    """What holds of every codec, whatever its exchange.

    @cvar symbols: two symbols.
    @cvar spelling: makes a symbol of a number.
    @cvar recorded_frames, recorded_bodies: messages to make garbage of.
    @cvar mid_stands_in: whether the middle of the book stands in where the last trade is missing or no price.
    @cvar bookless: whether a price may come without a book.
    """

    exchange: ClassVar[Exchange]
    symbols: ClassVar[tuple[str, str]]
    spelling: ClassVar[str]
    recorded_frames: ClassVar[Sequence[bytes]]
    recorded_bodies: ClassVar[Sequence[bytes]]
    mid_stands_in: ClassVar[bool] = False
    bookless: ClassVar[bool] = False

    def frame(
        self, name: str | None, price: str | None, bid: str | None, ask: str | None, volume: str | None,
        time: str | None, more: str | None,
    ) -> bytes:  # fmt: skip
        """Write a price as the socket does. All are JSON texts, and what is C{None} is left out; C{more} is a member
        that nobody knows.
        """
        raise NotImplementedError

    def body(
        self, symbol: str, price: str | None, bid: str | None, ask: str | None, volume: str | None, time: str | None
    ) -> bytes:
        """Write a price as REST does."""
        raise NotImplementedError

    def asked(self, *symbols: str) -> tuple[RestCodec, RestRequest]:
        """A codec, and its one question about these."""
        codec = self.exchange.rest_codec()
        (request,) = codec.requests(symbols)
        return codec, request

    # In short.

    def price(self, **changed: str | None) -> bytes:
        sound: dict[str, str | None] = {
            "name": json.dumps(self.symbols[0]), "price": '"100"', "bid": '"99.5"', "ask": '"100.5"', "volume": '"7"',
            "time": None, "more": None,
        }  # fmt: skip
        return self.frame(**{**sound, **changed})

    def answer(self, **changed: str | None) -> bytes:
        sound: dict[str, str | None] = {
            "price": '"100"', "bid": '"99.5"', "ask": '"100.5"', "volume": '"7"', "time": None,
        }  # fmt: skip
        return self.body(self.symbols[0], **{**sound, **changed})

    def opened(self, *symbols: str) -> SocketCodec:
        codec = self.exchange.socket_codec(symbols or self.symbols)
        codec.opened(NOW)
        return codec

    def heard(self, frame: bytes) -> list[Event]:
        """What a frame comes to on a connection whose symbols have all been heard."""
        codec = self.opened()
        for symbol in self.symbols:
            codec.received(self.price(name=json.dumps(symbol)), NOW)
        events = codec.received(frame, NOW)
        check(events, self.exchange.facts.name, self.symbols, self.bookless)
        return events

    def responded(self, body: bytes, status: int = 200, **headers: str) -> list[Event]:
        codec, request = self.asked(self.symbols[0])
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        events = codec.responded(request, status, named, body, NOW)
        check(events, self.exchange.facts.name, self.symbols[:1], self.bookless)
        return events

    # Numbers.

    def test_what_is_a_number(self) -> None:
        for text in SPELLINGS_OF_A_HUNDRED:
            for name in ("price", "bid", "ask"):
                for events in (self.heard(self.price(**{name: text})), self.responded(self.answer(**{name: text}))):
                    self.assertEqual(getattr(only_tick(events), name), 100.0, (name, text))

    def test_what_is_no_number_is_as_good_as_missing(self) -> None:
        for text in NO_NUMBERS:
            for name, reason in (("price", NO_PRICE), ("bid", NO_QUOTE), ("ask", NO_QUOTE)):
                wanted = ["Tick"] if name == "price" and self.mid_stands_in else [reason]
                self.assertEqual(told(self.heard(self.price(**{name: text}))), wanted, (name, text))
                self.assertEqual(told(self.responded(self.answer(**{name: text}))), [reason], (name, text))

    def test_without_a_book_there_is_no_price(self) -> None:
        for text in ('""', "null", '"nan"'):
            self.assertEqual(told(self.heard(self.price(bid=text, ask=text))), [NO_QUOTE], text)
            self.assertEqual(told(self.responded(self.answer(bid=text, ask=text))), [NO_QUOTE], text)

    def test_numbers_that_are_no_price(self) -> None:
        for text, reason in NO_PRICES:
            for name in ("price", "bid", "ask"):
                wanted = ["Tick"] if name == "price" and self.mid_stands_in else [reason]
                self.assertEqual(told(self.heard(self.price(**{name: text}))), wanted, (name, text))
                self.assertEqual(told(self.responded(self.answer(**{name: text}))), [reason], (name, text))

    def test_a_book_crossed_by_a_hair_and_beyond_sense(self) -> None:
        for bid, wanted in (('"100.7"', ["Tick"]), ('"110"', ["crossed"])):
            self.assertEqual(told(self.heard(self.price(bid=bid))), wanted)
            self.assertEqual(told(self.responded(self.answer(bid=bid))), wanted)

    def test_a_bad_volume_or_time_spoils_no_price(self) -> None:
        for text in (*NO_NUMBERS, '"-1"', "-1", '"inf"', "[]", "{}"):
            for name in ("volume", "time"):
                changed = {name: text}
                for events in (self.heard(self.price(**changed)), self.responded(self.answer(**changed))):
                    tick = only_tick(events)
                    self.assertTrue(math.isnan(tick.volume if name == "volume" else tick.exchange_time), (name, text))
                    self.assertEqual(tick[2:5], (100.0, 99.5, 100.5))

    def test_members_that_nobody_knows_cost_nothing(self) -> None:
        for text in ("null", "1e999", "9" * 6000, '"x"', "[[[{}]]]", '{"a":[]}'):
            self.assertEqual(only_tick(self.heard(self.price(more=text)))[2:5], (100.0, 99.5, 100.5), text[:9])

    # Names.

    def test_a_price_of_what_was_not_asked_for(self) -> None:
        symbol = self.symbols[0]
        for name in (f"{symbol}X", f" {symbol}", f"{symbol} ", symbol.swapcase(), symbol[:-1], "x" * 9000):
            events = self.heard(self.price(name=json.dumps(name)))
            self.assertEqual(faults(events), [(UNKNOWN_SYMBOL, name[:50])])
            self.assertEqual(len(events), 1)

    def test_a_price_of_nothing(self) -> None:
        for name in (None, "null", '""', "7", "[]", "{}", "true"):
            events = self.heard(self.price(name=name))
            self.assertEqual((faults(events), len(events)), ([(MALFORMED, "")], 1), name)

    # Messages.

    def test_bytes_that_are_no_message(self) -> None:
        for frame in NO_MESSAGES:
            events = self.heard(frame)
            self.assertEqual((faults(events), len(events)), ([(MALFORMED, "")], 1), frame[:30])

    def test_objects_that_are_no_message(self) -> None:
        for frame in (b"{}", b'{"zz":1}', b'{"zz":"%s"}' % (b"x" * 9000), b'{"zz":%s}' % (b"9" * 6000)):
            events = self.heard(frame)
            self.assertEqual((faults(events), len(events)), ([(UNKNOWN_MESSAGE, "")], 1), frame[:30])

    @given(st.data())
    @settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.differing_executors])
    def test_nothing_that_is_sent_raises_or_passes_for_a_price(self, data: st.DataObject) -> None:
        codec = self.opened()
        for number, frame in enumerate(data.draw(st.lists(garbage(self.recorded_frames), min_size=1, max_size=6))):
            for events in (codec.received(frame, NOW + number), codec.due(NOW + number * 10)):
                check(events, self.exchange.facts.name, self.symbols, self.bookless)

    # The subscription.

    def test_nothing_is_asked_for_without_symbols(self) -> None:
        codec = self.exchange.socket_codec(())
        self.assertNotIn("Unacknowledged", told([*codec.opened(NOW), *codec.due(NOW + 3), *codec.due(NOW + 11)]))

    def test_a_price_may_come_before_its_acknowledgement(self) -> None:
        for frame, words in ((self.price(), "Tick"), (self.price(bid="null"), NO_QUOTE)):
            codec = self.opened()
            events = codec.received(frame, NOW)
            self.assertEqual(events[0], Acknowledged(self.symbols[:1]))
            self.assertEqual(told(events), ["Acknowledged", words])
            self.assertEqual(told(codec.received(frame, NOW)), [words])

    def test_silent_symbols_are_named_and_asked_for_again_in_smaller_frames(self) -> None:
        symbols = [self.spelling.format(number) for number in range(1, 14)]
        codec = self.exchange.socket_codec(symbols)

        def asked_in(events: list[Event]) -> list[list[str]]:
            texts = [event.text for event in of_type(events, Send)]
            found = [[symbol for symbol in symbols if symbol in text] for text in texts]
            return [names for names in found if names]

        self.assertEqual(asked_in(codec.opened(NOW)), [symbols])
        codec.received(self.price(name=json.dumps(symbols[3])), NOW + 5)
        left = [symbol for symbol in symbols if symbol != symbols[3]]
        named, rounds = [], []
        for second in range(6, 120):
            codec.received(b"any frame is a sign of life", NOW + second)
            events = codec.due(NOW + second)
            named += of_type(events, Unacknowledged)
            rounds += [again for again in [asked_in(events)] if again]
            delays = [event.after_seconds for event in of_type(events, Send) if len(rounds) > 1]
            self.assertEqual(delays, sorted(delays))
        self.assertEqual(named, [Unacknowledged(tuple(sorted(left)))] * 3)
        self.assertEqual(rounds, [[left[:10], left[10:]], [[symbol] for symbol in left]])

    # The connection.

    def test_silence_ends_it(self) -> None:
        codec = self.opened()
        told_in_time = [told(codec.due(NOW + second)) for second in range(100)]
        self.assertEqual(told_in_time[0], [])
        self.assertEqual(told_in_time[-1], ["Reconnect"])

    def test_pongs_alone_do_not_keep_it_for_ever(self) -> None:
        codec = self.opened()
        for second in range(100):
            codec.ponged(NOW + second)
            last = told(codec.due(NOW + second))
        self.assertEqual(last, ["Reconnect"])

    def test_before_it_is_opened_nothing_is_dead_and_nothing_is_missing(self) -> None:
        self.assertLessEqual(set(told(self.exchange.socket_codec(self.symbols).due(NOW))), {"Send"})

    # REST.

    def test_each_symbol_is_asked_for_once(self) -> None:
        codec = self.exchange.rest_codec()
        self.assertEqual(codec.requests(()), [])
        one, two = self.symbols
        requests = codec.requests((one, two, one))
        self.assertEqual([symbol for request in requests for symbol in request.symbols], [one, two])

    def test_nothing_of_a_symbol_escapes_into_the_address(self) -> None:
        _, request = self.asked("A&B=?#%U D\u0661")
        _, clean = self.asked("A")
        for sign in "&=?#/ ":
            self.assertEqual(request.path.count(sign), clean.path.count(sign), request.path)
        self.assertTrue(request.path.isascii())

    def test_too_many_questions(self) -> None:
        for said, seconds in RETRY_AFTER:
            for body in (b"", b"<html>", self.answer()):
                self.assertEqual(self.responded(body, 429, retry_after=said), [Throttled(seconds)], said)
        self.assertEqual(self.responded(b"", 429), [Throttled(None)])

    def test_a_status_that_is_no_answer(self) -> None:
        for status in (204, 302, 400, 401, 403, 404, 418, 451, 500, 503):
            for body in (b"", b"<html>" * 999, b"\xff", b"[" * 100_000):
                (fault,) = self.responded(body, status)
                assert isinstance(fault, Fault)
                self.assertEqual((fault.reason, fault.symbol), (HTTP_STATUS, self.symbols[0]))
                self.assertTrue(fault.detail.startswith(str(status)))

    def test_bodies_that_are_no_answer(self) -> None:
        for body in (b"", b" ", b"<html>", b"null", b"7", b'"x"', b"[[[", b"[" * 100_000, b"\xff", b'{"a":1'):
            self.assertEqual(faults(self.responded(body)), [(MALFORMED, self.symbols[0])], body[:20])

    @given(st.data())
    @settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.differing_executors])
    def test_nothing_that_rest_answers_raises_or_passes_for_a_price(self, data: st.DataObject) -> None:
        many = [*self.symbols, *(self.spelling.format(number) for number in range(1, 4))]
        wanted = data.draw(st.sampled_from((self.symbols[:1], many)))
        codec = self.exchange.rest_codec()
        waiting = codec.requests(wanted)
        statuses = st.sampled_from((200, 200, 200, 400, 404, 429, 500))
        for _ in range(data.draw(st.integers(1, 4))):
            request = waiting.pop(0) if waiting else codec.requests(wanted)[0]
            body = data.draw(garbage(self.recorded_bodies))
            events = codec.responded(request, data.draw(statuses), data.draw(HEADERS), body, NOW)
            self.assertTrue(events)
            check(events, self.exchange.facts.name, wanted, self.bookless)
            waiting += of_type(events, RestRequest)

    # Facts.

    def test_the_address_of_rest_may_be_given_with_and_without_its_root(self) -> None:
        facts = self.exchange.facts
        _, request = self.asked(self.symbols[0])
        root = facts.rest_root
        self.assertTrue(request.path.startswith(f"{root}/"))
        for address in ("https://relay.example", "https://relay.example/", f"https://relay.example{root}",
                        f"https://relay.example{root}/"):  # fmt: skip
            self.assertEqual(evolve(facts, rest_url=address).rest_url, "https://relay.example")
        self.assertEqual(evolve(facts, rest_url=f"http://h/x{root}/").rest_url, "http://h/x")
        self.assertFalse(facts.rest_url.endswith("/"))
