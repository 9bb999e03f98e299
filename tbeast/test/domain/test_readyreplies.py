"""The shelf."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.quotes import GOOD, Quote
from tbeast.domain.readyreplies import ReadyReply, Shelf, body

NOON = 1_776_003_781.125
QUOTE = Quote("BTC", 1.0, None, None, None, GOOD, "median", ("a", "b", "c"), 3, (), 0.0, NOON, NOON + 60.0)


def reply_of(observed_at: float = NOON, fresh_until: float = NOON + 60.0) -> ReadyReply:
    return ReadyReply(b'{"age":', b',"x":1}', observed_at, fresh_until, "median", QUOTE)


class ShelfTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.shelf = Shelf()

    def test_put_and_take_down(self) -> None:
        self.assertIsNone(self.shelf.find("BTC", NOON))
        first, second = reply_of(), reply_of(NOON + 1.0)
        self.shelf.put("BTC", first)
        self.shelf.put("BTC", second)
        self.assertIs(second, self.shelf.find("BTC", NOON))
        self.assertIsNone(self.shelf.find("btc", NOON))
        for _ in range(2):
            self.shelf.take_down("BTC")
        self.assertIsNone(self.shelf.find("BTC", NOON))

    def test_not_past_its_time(self) -> None:
        self.shelf.put("BTC", reply_of())
        self.assertIsNotNone(self.shelf.find("BTC", NOON + 60.0))
        self.assertIsNone(self.shelf.find("BTC", NOON + 60.001))


class BodyTests(SynchronousTestCase):
    def test_age(self) -> None:
        self.assertEqual(b'{"age":1.500,"x":1}', body(reply_of(), NOON + 1.5))

    def test_clock_that_went_back(self) -> None:
        self.assertEqual(b'{"age":0.000,"x":1}', body(reply_of(), NOON - 1.5))

    @settings(max_examples=100, deadline=None)
    @given(st.floats(0.0, 1e6))
    def test_any_age(self, age: float) -> None:
        """It is right to the millisecond, and never in a form that JSON does not have."""
        text = body(reply_of(), NOON + age)[len(b'{"age":') : -len(b',"x":1}')]
        self.assertRegex(text.decode(), r"^[0-9]+\.[0-9]{3}$")
        self.assertLessEqual(abs(float(text) - age), 0.000501)
