"""What the codecs share: reading, judging, picking."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.exchanges.base import (
    EXCHANGE_ERROR,
    HTTP_STATUS,
    MALFORMED,
    UNKNOWN_MESSAGE,
    UNKNOWN_SYMBOL,
    Event,
    Fault,
    RestRequest,
    Send,
)
from tbeast.codecs.exchanges.parts import (
    DETAIL_LENGTH,
    Reader,
    declined,
    excerpt,
    http_date_seconds,
    judged,
    lone,
    number,
    parts_of,
    picked,
    questions,
    retry_after,
    rfc3339_seconds,
    sending,
    text_in,
    unasked,
    with_lost,
)
from tbeast.domain.ticks import CROSSED, NO_PRICE, NO_QUOTE, UNKNOWN, Tick
from tbeast.test.codecs.exchanges.garbage import (
    NO_MESSAGES,
    NO_NUMBERS,
    NOW,
    RETRY_AFTER,
    SPELLINGS_OF_A_HUNDRED,
    dumped,
    faults,
    garbage,
    told,
)


class Leaf(msgspec.Struct):
    symbol: str = ""
    size: float = -1.0


class Message(msgspec.Struct):
    kind: str = ""
    count: int = -1
    leaf: Leaf | None = None
    leaves: list[Leaf] = []
    sizes: list[float] = []
    names: list[str] = msgspec.field(default_factory=list, name="Names")
    either: str | list[str] = ""
    raw: msgspec.Raw = msgspec.Raw(b"null")


class ReaderTests(SynchronousTestCase):
    reader = Reader(Message, deciding=("kind",))

    def read(self, **content: Any) -> tuple[Message | None, list[str]]:
        return self.reader.read(dumped(content))

    def test_a_message_without_a_flaw(self) -> None:
        message, lost = self.read(kind="a", count="7", leaf={"size": "1.5"}, Names=["x"], either=["y"], other={"z": 1})
        assert message is not None
        self.assertEqual((message.kind, message.count, message.leaf), ("a", 7, Leaf(size=1.5)))
        self.assertEqual((message.names, message.either, lost), (["x"], ["y"], []))

    def test_an_unreadable_number_or_text_is_as_good_as_missing(self) -> None:
        changes: tuple[dict[str, Any], ...] = (
            {"count": "x"}, {"count": None}, {"count": ""}, {"count": []}, {"either": {}}, {"either": 7},
        )  # fmt: skip
        for changed in changes:
            message, lost = self.read(kind="a", **{"leaf": {"symbol": "s"}, **changed})
            self.assertEqual((message, lost), (Message(kind="a", leaf=Leaf("s")), []), changed)

    def test_an_unreadable_part_of_a_part(self) -> None:
        message, lost = self.read(leaf={"symbol": "s", "size": "x"}, leaves=[{"size": 1}, {"symbol": 7, "size": 2}])
        assert message is not None
        self.assertEqual((message.leaf, message.leaves, lost), (Leaf("s"), [Leaf(size=1.0), Leaf(size=2.0)], []))

    def test_an_unreadable_object_or_list_is_lost_and_told(self) -> None:
        for changed, wanted in (
            ({"leaf": 5}, ["leaf"]),
            ({"leaf": []}, ["leaf"]),
            ({"leaves": {}}, ["leaves"]),
            ({"leaves": [{}, 7, None, {"symbol": "s"}]}, ["2 of leaves"]),
            ({"sizes": 5, "Names": {}}, ["sizes", "Names"]),
            ({"leaf": None, "leaves": None, "count": "x"}, []),
        ):
            message, lost = self.read(kind="a", **changed)
            assert message is not None
            self.assertEqual((message.kind, lost), ("a", wanted), changed)

    def test_rows_beside_an_unreadable_one_are_read(self) -> None:
        message, _ = self.read(leaves=[{"symbol": "a"}, 5, {"symbol": "b"}])
        assert message is not None
        self.assertEqual([leaf.symbol for leaf in message.leaves], ["a", "b"])

    def test_numbers_keep_their_place_in_a_list_and_texts_do_not(self) -> None:
        message, lost = self.read(count="x", sizes=["1", None, "x", 4], Names=["a", 7, None, "", "b"])
        assert message is not None
        self.assertEqual([None if math.isnan(size) else size for size in message.sizes], [1.0, None, None, 4.0])
        self.assertEqual((message.names, lost), (["a", "b"], []))

    def test_without_a_part_that_decides_nothing_is_believed(self) -> None:
        unreadable: tuple[Any, ...] = (7, [], True, {})
        for kind in unreadable:
            self.assertEqual(self.read(kind=kind, count=1), (None, []), kind)
        for missing in (None, ""):
            self.assertEqual(self.read(kind=missing, count=1), (Message(count=1), []), missing)

    def test_what_is_no_object(self) -> None:
        for raw in NO_MESSAGES:
            self.assertEqual(self.reader.read(raw), (None, []), raw[:20])

    def test_what_an_object_within_loses(self) -> None:
        outer = Reader(msgspec.defstruct("Outer", [("inner", Message | None, None), ("more", list[Message], [])]))
        _, lost = outer.read(dumped({"inner": {"leaf": 7, "sizes": 5}, "more": [{"leaf": 1}, {"leaf": 2}]}))
        self.assertEqual(lost, ["inner.leaf", "inner.sizes", "more.leaf", "more.leaf"])

    def test_the_deep_and_the_long_cost_no_more_than_themselves(self) -> None:
        message, lost = self.reader.read(b'{"kind":"a","count":' + b"9" * 6000 + b',"leaves":[1e999]}')
        self.assertEqual((message, lost), (Message("a"), ["1 of leaves"]))

    @given(garbage([dumped({"kind": "a", "count": 1, "leaf": {"size": 1}, "leaves": [{"symbol": "s"}], "sizes": [1]})]))
    @settings(deadline=None, max_examples=300)
    def test_never_raises(self, raw: bytes) -> None:
        message, lost = self.reader.read(raw)
        self.assertTrue(message is None or isinstance(message, Message))
        self.assertTrue(message is not None or not lost)
        rows_lost: list[str] = []
        rows = self.reader.read_rows(raw, "rows", rows_lost)
        self.assertTrue(all(isinstance(row, Message) for row in rows))


class SmallReadersTests(SynchronousTestCase):
    def test_number(self) -> None:
        for text in SPELLINGS_OF_A_HUNDRED:
            self.assertEqual(number(text.encode()), 100.0)
        for nothing in NO_NUMBERS:
            self.assertTrue(math.isnan(number(None if nothing is None else nothing.encode())), nothing)

    def test_text(self) -> None:
        self.assertEqual([text_in(raw) for raw in (b'"a"', b"7", b"null", b"[]", b"a", b'"\xff"', None)],
                         ["a", "", "", "", "", "", ""])  # fmt: skip

    def test_parts(self) -> None:
        parts = parts_of(b'{"a":1,"b":[1e999]}')
        assert parts is not None
        self.assertEqual({name: bytes(raw) for name, raw in parts.items()}, {"a": b"1", "b": b"[1e999]"})
        for raw in (None, *NO_MESSAGES):
            self.assertIsNone(parts_of(raw))

    def test_sending(self) -> None:
        self.assertEqual(sending({"a": 2**70}, 0.5), Send('{"a":1180591620717411303424}', 0.5))

    def test_excerpt(self) -> None:
        self.assertEqual(excerpt(b"a\xff" + b"b" * 999), "a\ufffd" + "b" * (DETAIL_LENGTH - 2))


class WithLostTests(SynchronousTestCase):
    tick = Tick("some", "A", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)

    def test_nothing_lost(self) -> None:
        events: list[Event] = [self.tick, Fault(UNKNOWN_MESSAGE)]
        self.assertEqual(with_lost(events, []), events)

    def test_one_fault_for_all_that_is_lost(self) -> None:
        self.assertEqual(with_lost([self.tick], ["a", "b"]), [self.tick, Fault(MALFORMED, "unreadable: a, b")])
        (fault,) = with_lost([], ["x" * 999])
        assert isinstance(fault, Fault)
        self.assertEqual(len(fault.detail), DETAIL_LENGTH)

    def test_not_said_twice(self) -> None:
        events: list[Event] = [Fault(MALFORMED, "so"), self.tick]
        self.assertEqual(with_lost(events, ["a"]), events)

    def test_takes_the_place_of_not_being_known(self) -> None:
        events = with_lost([Fault(UNKNOWN_MESSAGE, "a"), Fault(EXCHANGE_ERROR, "b")], ["c"])
        self.assertEqual(told(events), [EXCHANGE_ERROR, MALFORMED])


class JudgedTests(SynchronousTestCase):
    def judge(self, price: float = 100.0, bid: float = 99.0, ask: float = 101.0, volume: float = 7.0,
              time: float = 5.0) -> Tick | Fault:  # fmt: skip
        return judged("some", "A", price, bid, ask, volume, time, NOW)

    def test_a_tick(self) -> None:
        self.assertEqual(self.judge(), Tick("some", "A", 100.0, 99.0, 101.0, 7.0, 5.0, NOW))
        self.assertIs(type(self.judge()), Tick)

    def test_an_exchange_with_a_book_gives_no_price_without_one(self) -> None:
        self.assertEqual(self.judge(bid=UNKNOWN, ask=UNKNOWN), Fault(NO_QUOTE, "last 100.0, bid nan, ask nan", "A"))
        self.assertEqual(told([self.judge(UNKNOWN, UNKNOWN, UNKNOWN)]), [NO_PRICE])

    def test_crossed(self) -> None:
        self.assertEqual(told([self.judge(bid=101.2), self.judge(bid=150.0)]), ["Tick", CROSSED])

    def test_what_is_no_time_and_no_volume_is_unknown(self) -> None:
        for time in (0.0, -1.0, math.inf, math.nan, 253_402_300_800.0):
            tick = self.judge(time=time)
            assert isinstance(tick, Tick)
            self.assertTrue(math.isnan(tick.exchange_time), time)
        for volume in (-1.0, math.inf, math.nan):
            tick = self.judge(volume=volume)
            assert isinstance(tick, Tick)
            self.assertTrue(math.isnan(tick.volume), volume)
        tick = self.judge(volume=0.0)
        assert isinstance(tick, Tick)
        self.assertEqual(tick.volume, 0.0)

    def test_unasked(self) -> None:
        self.assertEqual(unasked(""), Fault(MALFORMED, "a row without a name"))
        self.assertEqual(unasked("x" * 99), Fault(UNKNOWN_SYMBOL, "not asked for", "x" * 50))


class Rfc3339Tests(SynchronousTestCase):
    def test_known_times(self) -> None:
        for text, seconds in (
            ("1970-01-01T00:00:00Z", 0.0),
            ("2026-08-09T21:05:48.228846629Z", 1786309548.228846),
            ("2026-08-09T21:05:48.2Z", 1786309548.2),
            ("2026-08-09T23:05:48+02:00", 1786309548.0),
        ):
            self.assertAlmostEqual(rfc3339_seconds(text), seconds, places=5, msg=text)

    def test_everything_else_is_unknown(self) -> None:
        for text in ("", "soon", "2026-08-09T21:05:48", "2026-13-09T21:05:48Z", "2026-08-09", "1786309548", "\ud800"):
            self.assertTrue(math.isnan(rfc3339_seconds(text)), text)
        self.assertTrue(math.isnan(rfc3339_seconds(None)))  # type: ignore[arg-type]

    @given(st.text())
    @settings(deadline=None, max_examples=200)
    def test_never_raises(self, text: str) -> None:
        self.assertIsInstance(rfc3339_seconds(text), float)

    @given(
        st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1)),
        st.integers(-12 * 60, 14 * 60),
        st.integers(0, 999),
    )
    @settings(deadline=None, max_examples=200)
    def test_reads_what_a_clock_writes(self, moment: datetime, minutes_east: int, nanoseconds: int) -> None:
        sign, minutes = "-" if minutes_east < 0 else "+", abs(minutes_east)
        local = (moment + timedelta(minutes=minutes_east)).strftime("%Y-%m-%dT%H:%M:%S.%f")
        text = f"{local}{nanoseconds:03d}{sign}{minutes // 60:02d}:{minutes % 60:02d}"
        self.assertAlmostEqual(rfc3339_seconds(text), moment.replace(tzinfo=UTC).timestamp(), places=5)


class RetryAfterTests(SynchronousTestCase):
    def test_seconds_and_dates(self) -> None:
        for said, seconds in RETRY_AFTER:
            self.assertEqual(retry_after({"retry-after": said}, NOW), seconds, said)
        self.assertIsNone(retry_after({}, NOW))

    def test_dates(self) -> None:
        for date, expected in (
            ("Tue, 08 Sep 2026 08:00:01 GMT", 1788854401.0),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1709251199.0),
            ("Fri, 29 Feb 2025 00:00:00 GMT", None),
            ("Tue, 08 Sep 2026 08:00:60 GMT", None),
            ("Tue, 08 Xyz 2026 08:00:01 GMT", None),
            ("Tue, 08 Sep 0000 08:00:01 GMT", None),
            ("Tue, 08 Sep 2026 08:00:01 CEST", None),
            ("2026-09-08T08:00:01Z", None),
            ("", None),
        ):
            seconds = http_date_seconds(date)
            self.assertEqual(expected, None if math.isnan(seconds) else seconds, date)


class RestTests(SynchronousTestCase):
    request = RestRequest("/one", ("A",))
    several = RestRequest("/all", ("A", "B", "C"))

    def test_a_few_singly_and_more_at_once(self) -> None:
        self.assertEqual(
            questions("ABA", "/one/{}", "/all"), [RestRequest("/one/A", ("A",)), RestRequest("/one/B", ("B",))]
        )
        self.assertEqual(questions("ABCD", "/one/{}", "/all"), [RestRequest("/all", ("A", "B", "C", "D"))])
        self.assertEqual(len(questions("ABCD", "/one/{}")), 4)
        self.assertEqual(questions(["a/{}?"], "/one/{}")[0].path, "/one/a%2F%7B%7D%3F")

    def test_declined(self) -> None:
        self.assertEqual(declined(self.request, 503, ""), [Fault(HTTP_STATUS, "503", "A")])
        self.assertEqual(declined(self.several, 400, "no"), [Fault(HTTP_STATUS, "400 no", "")])
        self.assertEqual((lone(self.request), lone(self.several)), ("A", ""))

    def pick(self, request: RestRequest, *symbols: str) -> list[Event]:
        rows = [Leaf(symbol, float(place)) for place, symbol in enumerate(symbols)]
        return picked(request, rows, lambda row: judged("some", row.symbol, 1.0, 1.0, 1.0, row.size, 1.0, NOW))

    def test_picked(self) -> None:
        events = self.pick(self.several, "Z", "B", "", "A", "B", "", "Y")
        self.assertEqual(told(events), ["Tick", "Tick", MALFORMED, NO_PRICE])
        self.assertEqual(
            [(tick.symbol, tick.volume) for tick in events if isinstance(tick, Tick)], [("B", 1.0), ("A", 3.0)]
        )
        self.assertEqual(events[2:], [
            Fault(MALFORMED, "2 rows without a name"), Fault(NO_PRICE, "no row in the answer", "C"),
        ])  # fmt: skip

    def test_others_mean_something_only_where_one_was_asked_for(self) -> None:
        self.assertEqual(faults(self.pick(self.request, *"ZY")), [(UNKNOWN_SYMBOL, "Z"), (NO_PRICE, "A")])
        self.assertEqual(told(self.pick(self.request, *"AA")), ["Tick"])
        self.assertEqual(json.dumps(told(self.pick(self.several, *"ABCZ"))), '["Tick", "Tick", "Tick"]')
