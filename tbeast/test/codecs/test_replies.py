"""The JSON of answers."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.replies import answer, batch, converted, explanation, number, render, timestamp, with_id
from tbeast.domain.quotes import GOOD, QUALITIES, Quote, SourceView

NOON = 1_776_003_781.123456
QUOTE = Quote(
    "BTC", 83421.57, 83421.1, 83422.0, 9.5, GOOD, "coinbase-ws", ("coinbase",) * 5, 6, ("okx",), 1.8, NOON, NOON + 60
)

prices = st.floats(1e-12, 1e9, allow_nan=False)
optional = st.none() | prices
quotes = st.builds(
    Quote, st.sampled_from(["BTC", "1INCH"]), prices, optional, optional, optional, st.sampled_from(QUALITIES),
    st.sampled_from(["median", "okx-rest"]), st.sampled_from([(), ("a",), ("a", "b")]), st.integers(0, 6), st.just(()),
    st.floats(0, 1e4), st.floats(1e9, 4e9), st.floats(1e9, 4e9),
)  # fmt: skip


def ten_digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.10g}")


class NumberTests(SynchronousTestCase):
    def test_numbers(self) -> None:
        for value, text in (
            (83421.57, "83421.57"), (83422.0, "83422.0"), (0.1 + 0.2, "0.3"), (1.234e-05, "0.00001234"),
            (1e-18, "0.000000000000000001"), (1.5e-19, "1.5e-19"), (1e16, "10000000000000000"), (1e18, "1e+18"),
            (123456789012.345, "123456789000.0"), (1 / 3, "0.3333333333"), (0.0, "0.0"), (-1.5e-6, "-0.0000015"),
        ):  # fmt: skip
            self.assertEqual(text, number(value))

    def test_no_numbers(self) -> None:
        for value in (math.nan, math.inf, -math.inf):
            self.assertRaises(ValueError, number, value)

    @settings(max_examples=300, deadline=None)
    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_any(self, value: float) -> None:
        """It reads back as the number rounded to ten digits, with no exponent where it need not have one."""
        try:
            expected = float(f"{value:.10g}")
            text = number(value)
        except OverflowError:
            return
        if math.isinf(expected):
            return
        self.assertEqual(expected, json.loads(text))
        if 1e-18 <= abs(value) < 9.9e17:
            self.assertNotIn("e", text)


class TimestampTests(SynchronousTestCase):
    def test_timestamps(self) -> None:
        self.assertEqual("2026-04-12T14:23:01.123456Z", timestamp(NOON))
        self.assertEqual("2026-04-12T14:23:01.000000Z", timestamp(1_776_003_781))

    @settings(max_examples=100, deadline=None)
    @given(st.floats(0, 4e9))
    def test_any(self, seconds: float) -> None:
        read = datetime.strptime(timestamp(seconds), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        self.assertLessEqual(abs(read.timestamp() - seconds), 1e-6)


class PriceTests(SynchronousTestCase):
    def test_render(self) -> None:
        head, tail = render(QUOTE, False)
        self.assertEqual(
            b'{"asset":"BTC","price":83421.57,"timestamp":"2026-04-12T14:23:01.123456Z","source":"coinbase-ws",'
            b'"cached":true,"cache_age_seconds":',
            head,
        )
        self.assertEqual(
            b',"latency_ms":0,"duration_ms":0,"quote":"USD","quality":"good","sources_used":5,"sources_seen":6,'
            b'"spread_bp":1.8,"bid":83421.1,"ask":83422.0}',
            tail,
        )

    def test_simulated(self) -> None:
        self.assertTrue(render(QUOTE, True)[1].endswith(b',"ask":83422.0,"simulated":true}'))

    def test_no_book(self) -> None:
        for nothing in (None, math.nan, math.inf):
            tail = render(evolve(QUOTE, bid=nothing, ask=nothing), False)[1]
            self.assertTrue(tail.endswith(b'"bid":null,"ask":null}'), tail)

    def test_no_price(self) -> None:
        """A price that is no number is not passed off as one."""
        self.assertRaises(ValueError, render, evolve(QUOTE, price=math.nan), False)

    def test_looked_up(self) -> None:
        members = json.loads(answer(QUOTE, NOON + 1.5, cached=False, waited_seconds=0.2506, currency="USDT"))
        self.assertEqual(
            (False, 1.5, 251, 251, "USDT"),
            tuple(members[name] for name in ("cached", "cache_age_seconds", "latency_ms", "duration_ms", "quote")),
        )

    def test_clock_that_went_back(self) -> None:
        members = json.loads(answer(QUOTE, NOON - 5.0, cached=True, waited_seconds=-5.0))
        self.assertEqual((0.0, 0), (members["cache_age_seconds"], members["latency_ms"]))

    @settings(max_examples=200, deadline=None)
    @given(quotes, st.booleans())
    def test_any(self, quote: Quote, simulated: bool) -> None:
        """What is read back is what was rendered, and a ready reply is the looked-up one with nothing waited."""
        head, tail = render(quote, simulated)
        age = max(quote.observed_at, 2e9) - quote.observed_at
        ready = head + b"%.3f" % age + tail
        members = json.loads(ready)
        for name in ("price", "bid", "ask"):
            self.assertEqual(ten_digits(getattr(quote, name)), members[name])
        self.assertEqual((quote.asset, quote.source, quote.quality), tuple(
            members[name] for name in ("asset", "source", "quality")))  # fmt: skip
        self.assertEqual((len(quote.used), quote.seen), (members["sources_used"], members["sources_seen"]))
        self.assertEqual(simulated, members.get("simulated", False))
        looked_up = answer(
            quote, max(quote.observed_at, 2e9), cached=True, waited_seconds=0.0, simulated=simulated
        )  # fmt: skip
        self.assertEqual(looked_up, ready)


class OtherTests(SynchronousTestCase):
    def test_converted(self) -> None:
        there = converted(QUOTE, 0.5)
        self.assertEqual((166843.14, 166842.2, 166844.0), (there.price, there.bid, there.ask))
        self.assertEqual((QUOTE.spread_bp, QUOTE.observed_at), (there.spread_bp, there.observed_at))
        self.assertIsNone(converted(evolve(QUOTE, bid=None), 0.5).bid)

    def test_with_id(self) -> None:
        self.assertEqual(b'{"a":1}', with_id(b'{"a":1}', b""))
        self.assertEqual(b'{"a":1,"id":"x"}', with_id(b'{"a":1}', b'"x"'))

    def test_batch(self) -> None:
        self.assertEqual(
            b'{"status_code":200,"endpoint":"/prices","node":"n\\"1","count":2,"prices":[{"a":1},{"b":2}]}',
            batch('n"1', [b'{"a":1}', b'{"b":2}'], False),
        )
        self.assertIs(True, json.loads(batch("n", [], True))["simulated"])

    def test_explanation(self) -> None:
        numbers: dict[str, Any] = dict.fromkeys(("raw", "bid", "ask", "rate", "value", "age_seconds", "deviation_bp"))
        source = SourceView(
            exchange="okx", symbol="BTC-USDT", via="", home=False, quote_currency="USDT", late=True, connected=False,
            verdict="silent", why="nothing heard", **numbers,
        )  # fmt: skip
        members = json.loads(explanation({"asset": "BTC"}, QUOTE, [source], NOON + 61.0, True))
        self.assertEqual(["asset", "timestamp", "result", "sources", "simulated"], list(members))
        self.assertEqual(
            (False, 61.0, 9.5), tuple(members["result"][n] for n in ("fresh", "age_seconds", "volume_24h"))
        )
        self.assertEqual(("USDT", None, "silent"), tuple(members["sources"][0][n] for n in ("quote", "via", "verdict")))

    def test_explanation_with_no_numbers(self) -> None:
        """NaN and infinity become null, not a fault."""
        odd = evolve(QUOTE, price=math.nan, volume=math.inf, spread_bp=math.nan)
        result = json.loads(explanation({}, odd, [], NOON, False))["result"]
        self.assertEqual((None, None, None), (result["price"], result["volume_24h"], result["spread_bp"]))
