"""What is a tick, and what a tick is worth."""

from __future__ import annotations

from math import inf, isnan, nan
from statistics import median

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.ticks import (
    CROSSED,
    CROSSED_BEYOND_SENSE,
    GREATEST,
    NO_PRICE,
    NO_QUOTE,
    NOT_FINITE,
    NOT_POSITIVE,
    SMALLEST,
    TICK_FAULTS,
    UNKNOWN,
    fault_in,
    value_of,
)

numbers = st.floats() | st.floats(min_value=1e-9, max_value=1e9) | st.sampled_from([0.0, -0.0, nan, inf, -inf, 5e-324])


class FaultInTests(SynchronousTestCase):
    def test_what_is_a_tick(self) -> None:
        for price, bid, ask in (
            (100.0, 99.0, 101.0),
            (100.0, 100.0, 100.0),  # a locked book
            (150.0, 99.0, 101.0),  # the last trade may lie outside the book
            (1.0, 99.0, 101.0),
            (100.0, nan, nan),  # a source without a book
            (100.0, 100.4, 100.0),  # crossed by a hair
            (100.0, 100.49, 100.0),  # and just below the limit
            (1e-9, 9e-10, 1.1e-9),
            (SMALLEST, SMALLEST, GREATEST),
        ):
            self.assertIsNone(fault_in(price, bid, ask), (price, bid, ask))

    def test_what_is_none_and_why(self) -> None:
        for price, bid, ask, reason in (
            (nan, 99.0, 101.0, NO_PRICE),
            (nan, nan, nan, NO_PRICE),
            (0.0, 99.0, 101.0, NOT_POSITIVE),
            (-0.0, 99.0, 101.0, NOT_POSITIVE),
            (-5.0, nan, nan, NOT_POSITIVE),
            (-inf, 99.0, 101.0, NOT_POSITIVE),
            (100.0, 0.0, 101.0, NOT_POSITIVE),
            (100.0, -1.0, 101.0, NOT_POSITIVE),
            (100.0, 99.0, 0.0, NOT_POSITIVE),
            (100.0, 0.0, 0.0, NOT_POSITIVE),
            (100.0, nan, 101.0, NO_QUOTE),
            (100.0, 99.0, nan, NO_QUOTE),
            (100.0, 0.0, nan, NO_QUOTE),
            (inf, 99.0, 101.0, NOT_FINITE),
            (inf, nan, nan, NOT_FINITE),
            (100.0, 99.0, inf, NOT_FINITE),
            (100.0, inf, 101.0, NOT_FINITE),
            (100.0, inf, inf, NOT_FINITE),
            (100.0, inf, nan, NOT_FINITE),
            (100.0, -inf, 101.0, NOT_POSITIVE),
            (5e-324, nan, nan, NOT_POSITIVE),  # a product with it can be zero
            (100.0, 1e-300, 101.0, NOT_POSITIVE),
            (1e308, nan, nan, NOT_FINITE),  # a sum with it can be infinite
            (100.0, 99.0, 1e300, NOT_FINITE),
            (100.0, 100.51, 100.0, CROSSED),
            (100.0, 101.0, 1.0, CROSSED),
        ):
            self.assertEqual(fault_in(price, bid, ask), reason, (price, bid, ask))

    @given(numbers, numbers, numbers)
    @settings(deadline=None, max_examples=1000)
    def test_a_reason_is_always_a_known_one(self, price: float, bid: float, ask: float) -> None:
        self.assertIn(fault_in(price, bid, ask), (None, *TICK_FAULTS))

    @given(numbers, numbers, numbers)
    @settings(deadline=None, max_examples=1000)
    def test_a_tick_holds_no_number_that_is_none(self, price: float, bid: float, ask: float) -> None:
        if fault_in(price, bid, ask) is not None:
            return
        self.assertTrue(0.0 < price < inf)
        self.assertEqual(isnan(bid), isnan(ask))
        if not isnan(bid):
            self.assertTrue(0.0 < bid < inf and 0.0 < ask < inf)
            self.assertLessEqual(bid, ask * (1.0 + CROSSED_BEYOND_SENSE))

    @given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
    @settings(deadline=None, max_examples=300)
    def test_an_uncrossed_book_of_sound_numbers_is_never_faulted(self, price: float, one: float, other: float) -> None:
        self.assertIsNone(fault_in(price, min(one, other), max(one, other)))


class ValueOfTests(SynchronousTestCase):
    def test_the_last_trade_inside_the_book_and_the_nearer_edge_outside(self) -> None:
        for price, bid, ask, value in (
            (100.0, 99.0, 101.0, 100.0),
            (98.0, 99.0, 101.0, 99.0),
            (105.0, 99.0, 101.0, 101.0),
            (99.0, 99.0, 101.0, 99.0),
            (101.0, 99.0, 101.0, 101.0),
            (100.0, UNKNOWN, UNKNOWN, 100.0),
            (100.0, 100.4, 100.2, 100.2),  # crossed by a hair: the edges change places
            (100.5, 100.4, 100.2, 100.4),
            (100.3, 100.4, 100.2, 100.3),
        ):
            self.assertEqual(value_of(price, bid, ask), value, (price, bid, ask))

    @given(numbers, numbers, numbers)
    @example(100.0, 100.5, 100.0)
    @example(1.0, nan, nan)
    @settings(deadline=None, max_examples=1000)
    def test_the_value_of_a_tick_lies_between_its_numbers(self, price: float, bid: float, ask: float) -> None:
        if fault_in(price, bid, ask) is not None:
            return
        known = [number for number in (price, bid, ask) if not isnan(number)]
        value = value_of(price, bid, ask)
        self.assertTrue(0.0 < value < inf)
        self.assertTrue(min(known) <= value <= max(known))
        self.assertEqual(value, median(known))
