"""How symbols are asked for, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.exchanges.base import EXCHANGE_ERROR, Acknowledged, Event, Fault, Refused, Send, Unacknowledged
from tbeast.codecs.exchanges.subscribing import Subscriptions
from tbeast.test.codecs.exchanges.garbage import of_type, sent, told


def write(number: int, symbols: Sequence[str], now: float) -> dict[str, object]:
    return {"number": number, "symbols": symbols, "now": now}


def subscriptions(symbols: Iterable[str], most: int = 100, settling_seconds: float = 0.0) -> Subscriptions:
    return Subscriptions(symbols, write, most, 0.5, settling_seconds)


def asked_in(events: Iterable[Event]) -> list[str]:
    return ["".join(message["symbols"]) for message in sent(events)]


class SubscriptionsTests(SynchronousTestCase):
    def test_order_is_kept_and_doubles_are_dropped(self) -> None:
        self.assertEqual(list(subscriptions(["B", "A", "B", "C"]).wanted), ["B", "A", "C"])

    def test_an_acknowledgement_is_news_once(self) -> None:
        symbols = subscriptions("ABC")
        self.assertEqual(symbols.acknowledged("BA"), [Acknowledged(("B", "A"))])
        self.assertEqual(symbols.acknowledged("AC"), [Acknowledged(("C",))])
        self.assertEqual(symbols.acknowledged("ABC"), [])
        self.assertEqual((symbols.missing, list(symbols.wanted)), (set(), ["A", "B", "C"]))

    def test_what_was_not_asked_for_is_not_acknowledged(self) -> None:
        self.assertEqual(subscriptions("A").acknowledged("Z"), [])

    def test_a_refused_symbol_is_taken_out_once(self) -> None:
        symbols = subscriptions("AB")
        self.assertEqual(symbols.refused("A", "no such thing"), [Refused("A", "no such thing")])
        self.assertEqual((list(symbols.wanted), symbols.missing), (["B"], {"B"}))
        self.assertEqual(symbols.refused("A", "again"), [])
        self.assertEqual(symbols.refused("Z", "never asked for"), [])
        self.assertEqual(symbols.acknowledged("A"), [])


class AskingTests(SynchronousTestCase):
    def test_so_many_to_a_frame_each_with_its_number_and_its_moment(self) -> None:
        events = subscriptions("ABCDE", 2, settling_seconds=1.0).opened(7.0)
        self.assertEqual(asked_in(events), ["AB", "CD", "E"])
        self.assertEqual([message["number"] for message in sent(events)], [1, 2, 3])
        self.assertEqual([event.after_seconds for event in of_type(events, Send)], [1.0, 1.5, 2.0])
        self.assertEqual({message["now"] for message in sent(events)}, {7.0})

    def test_nothing_to_ask_for(self) -> None:
        symbols = subscriptions("")
        self.assertEqual((symbols.opened(7.0), symbols.due(1e9)), ([], []))

    def test_nobody_is_silent_before_the_asking(self) -> None:
        self.assertEqual(subscriptions("A").due(1e9), [])

    def test_the_silent_are_named_and_asked_for_again_and_then_there_is_peace(self) -> None:
        symbols = subscriptions("DCBA")
        symbols.opened(100.0)
        symbols.acknowledged("B")
        symbols.refused("C", "gone")
        self.assertEqual(symbols.due(109.9), [])
        silent, *frames = symbols.due(110.0)
        self.assertEqual((silent, asked_in(frames)), (Unacknowledged(("A", "D")), ["DA"]))
        self.assertEqual(symbols.due(119.0), [])
        symbols.acknowledged("A")
        silent, *frames = symbols.due(120.0)
        self.assertEqual((silent, asked_in(frames)), (Unacknowledged(("D",)), ["D"]))
        self.assertEqual(symbols.due(130.0), [Unacknowledged(("D",))])
        self.assertEqual(symbols.due(1e9), [])

    def test_patience_begins_with_the_last_frame(self) -> None:
        symbols = subscriptions("ABC", 1, settling_seconds=1.0)
        symbols.opened(100.0)
        self.assertEqual(symbols.due(111.9), [])
        self.assertEqual(told(symbols.due(112.0)), ["Unacknowledged", "Send"])

    def test_nothing_is_named_when_all_have_answered(self) -> None:
        symbols = subscriptions("A")
        symbols.opened(100.0)
        symbols.acknowledged("A")
        self.assertEqual(symbols.due(1e9), [])


class AnsweredTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.symbols = subscriptions("ABCDE", 2)
        self.symbols.opened(100.0)

    def test_by_number_once(self) -> None:
        self.assertEqual(self.symbols.answered(2), ("C", "D"))
        self.assertEqual((self.symbols.answered(2), self.symbols.answered(99)), ((), ()))

    def test_by_what_it_echoes(self) -> None:
        self.assertEqual(self.symbols.answered(None, ["E"]), ("E",))
        self.assertEqual(self.symbols.answered(None, ["E"]), ())
        self.assertEqual(self.symbols.answered(None, ["A"]), ())

    def test_by_turn(self) -> None:
        self.assertEqual([self.symbols.answered(None) for _ in range(4)], [("A", "B"), ("C", "D"), ("E",), ()])


class SpoiledTests(SynchronousTestCase):
    def test_the_named_is_taken_out_and_the_rest_of_the_frame_asked_for_again(self) -> None:
        symbols = subscriptions("ABCDE", 3)
        symbols.opened(100.0)
        symbols.acknowledged("A")
        events = symbols.spoiled(symbols.answered(1), ["B"], "no", 101.0)
        self.assertEqual((events[0], asked_in(events)), (Refused("B", "no"), ["C"]))

    def test_of_an_unknown_frame_everything_missing_is_asked_for_again(self) -> None:
        symbols = subscriptions("ABCDE", 3)
        symbols.opened(100.0)
        symbols.acknowledged("D")
        events = symbols.spoiled((), ["B"], "no", 101.0)
        self.assertEqual((events[0], asked_in(events)), (Refused("B", "no"), ["ACE"]))

    def test_one_by_one_where_nothing_wanted_is_named(self) -> None:
        for named in ((), ("Z",), ("",)):
            symbols = subscriptions("ABC")
            symbols.opened(100.0)
            events = symbols.spoiled(symbols.answered(1), named, "no", 101.0)
            self.assertEqual((events[0], asked_in(events)), (Fault(EXCHANGE_ERROR, "no"), ["A", "B", "C"]))
            self.assertEqual(symbols.spoiled(symbols.answered(3), named, "no", 102.0), [Refused("B", "no")])

    def test_one_alone_that_is_heard_by_now_is_not_refused(self) -> None:
        symbols = subscriptions("A")
        symbols.opened(100.0)
        symbols.acknowledged("A")
        self.assertEqual(symbols.spoiled(symbols.answered(1), (), "no", 101.0), [Fault(EXCHANGE_ERROR, "no")])

    def test_several_named_at_once(self) -> None:
        symbols = subscriptions("ABC")
        symbols.opened(100.0)
        events = symbols.spoiled(symbols.answered(1), "AC", "no", 101.0)
        self.assertEqual((told(events), asked_in(events)), (["Refused", "Refused", "Send"], ["B"]))

    def test_an_unknown_frame_and_an_unknown_name(self) -> None:
        symbols = subscriptions("AB")
        symbols.opened(100.0)
        self.assertEqual(symbols.spoiled((), "Z", "no", 101.0), [Fault(EXCHANGE_ERROR, "no")])

    @given(st.sets(st.integers(0, 39)), st.sampled_from(("names it", "names nothing", "refuses everything")))
    @settings(deadline=None, max_examples=60)
    def test_bad_symbols_are_found_in_bounded_time(self, bad_numbers: set[int], habit: str) -> None:
        names = [f"S{number:02d}" for number in range(40)]
        bad = {names[number] for number in bad_numbers}
        symbols = subscriptions(names)
        waiting, frames, refused = sent(symbols.opened(100.0)), 0, set()
        while waiting:
            message = waiting.pop(0)
            frames += 1
            culprit = next((name for name in message["symbols"] if name in bad or habit == "refuses everything"), None)
            asked = symbols.answered(message["number"])
            if culprit is None:
                symbols.acknowledged(asked)
                continue
            events = symbols.spoiled(asked, (culprit,) if habit == "names it" else (), "no", 101.0)
            refused |= {event.symbol for event in of_type(events, Refused)}
            waiting += sent(events)
        self.assertLessEqual(frames, 41)
        self.assertEqual(refused, set(names) if habit == "refuses everything" else bad)
        self.assertEqual(symbols.missing, set())
