"""The small shared parts of the codecs; and the garbage that every codec has to stand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.exchanges.base import (
    FAULTS,
    Acknowledged,
    ExchangeFacts,
    ExchangeModule,
    Liveness,
    Rate,
    Reconnect,
    Refused,
    Subscriptions,
    Unacknowledged,
    rfc3339_seconds,
)
from tbeast.domain.ticks import TICK_FAULTS

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 7, 10**30, 1.5, -0.0, 1e308, math.nan, math.inf, "", " ", "0", "-5", "1.5", "1_0", " 1 ",
    "nan", "NaN", "infinity", "1e999", "0x10", "\u0661", "\ud800", "x" * 300, [], {}, [[]], [{}], {"": ""},
)  # fmt: skip
"""What an exchange should not put where a number, a name or a list is expected. Written by json.dumps, NaN and
infinity among them become words that are no JSON.
"""


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON, and the words that some writers take for JSON."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(ODD_VALUES)
    return st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=8
    )


@st.composite
def damaged(draw: st.DrawFn, recorded: Sequence[bytes]) -> bytes:
    """A recorded message, with a few values or names exchanged, left out or doubled, and then perhaps a few bytes."""
    message = json.loads(draw(st.sampled_from(recorded)))
    for _ in range(draw(st.integers(0, 3))):
        node = message
        while isinstance(node, dict | list) and node:
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if node[key] and isinstance(node[key], dict | list) and draw(st.integers(0, 3)):
                node = node[key]
                continue
            deed = draw(st.sampled_from(("exchange", "leave out", "double", "rename")))
            if deed == "leave out":
                del node[key]
            elif deed == "exchange":
                # a copy: the next round may damage it further
                node[key] = deepcopy(draw(st.sampled_from(ODD_VALUES) | json_values()))
            elif isinstance(node, list):
                node.append(deepcopy(node[key]))
            else:
                other = draw(st.sampled_from(sorted(node)))
                node[other if deed == "double" else draw(st.text(max_size=5))] = deepcopy(node[key])
            break
    raw = bytearray(json.dumps(message, separators=(",", ":")).encode())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw)


def garbage(recorded: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes of every degree of wrongness, from noise to almost right."""
    dumped = json_values().map(lambda value: json.dumps(value).encode())
    return st.binary(max_size=80) | dumped | damaged(recorded) | damaged(recorded)


class SubscriptionsTests(SynchronousTestCase):
    def test_order_is_kept_and_doubles_are_dropped(self) -> None:
        self.assertEqual(list(Subscriptions(["B", "A", "B", "C"]).wanted), ["B", "A", "C"])

    def test_an_acknowledgement_is_news_once(self) -> None:
        symbols = Subscriptions("ABC")
        self.assertEqual(symbols.acknowledged("BA"), [Acknowledged(("B", "A"))])
        self.assertEqual(symbols.acknowledged("AC"), [Acknowledged(("C",))])
        self.assertEqual(symbols.acknowledged("ABC"), [])
        self.assertEqual((symbols.missing, list(symbols.wanted)), (set(), ["A", "B", "C"]))

    def test_what_was_not_asked_for_is_not_acknowledged(self) -> None:
        self.assertEqual(Subscriptions("A").acknowledged("Z"), [])

    def test_a_refused_symbol_is_taken_out_once(self) -> None:
        symbols = Subscriptions("AB")
        self.assertEqual(symbols.refused("A", "no such thing"), [Refused("A", "no such thing")])
        self.assertEqual((list(symbols.wanted), symbols.missing), (["B"], {"B"}))
        self.assertEqual(symbols.refused("A", "again"), [])
        self.assertEqual(symbols.refused("Z", "never asked for"), [])
        self.assertEqual(symbols.acknowledged("A"), [])

    def test_nobody_is_silent_before_the_asking(self) -> None:
        self.assertEqual(Subscriptions("A").due(1e9), [])

    def test_the_silent_are_named_once_for_each_asking(self) -> None:
        symbols = Subscriptions("DCBA", patience_seconds=10.0)
        symbols.asked(100.0)
        symbols.acknowledged("B")
        symbols.refused("C", "gone")
        self.assertEqual(symbols.due(109.9), [])
        self.assertEqual(symbols.due(110.0), [Unacknowledged(("A", "D"))])
        self.assertEqual(symbols.due(200.0), [])
        symbols.asked(200.0)
        symbols.acknowledged("A")
        self.assertEqual(symbols.due(210.0), [Unacknowledged(("D",))])

    def test_the_last_asking_counts(self) -> None:
        symbols = Subscriptions("A", patience_seconds=10.0)
        symbols.asked(100.0)
        symbols.asked(105.0)
        self.assertEqual(symbols.due(114.0), [])
        self.assertEqual(symbols.due(115.0), [Unacknowledged(("A",))])

    def test_nothing_is_named_when_all_have_answered(self) -> None:
        symbols = Subscriptions("A")
        symbols.asked(100.0)
        symbols.acknowledged("A")
        self.assertEqual(symbols.due(1e9), [])


class LivenessTests(SynchronousTestCase):
    def test_silence_counts_from_the_first_sound(self) -> None:
        alive = Liveness(5.0)
        self.assertEqual((alive.silence(1e9), alive.due(1e9)), (0.0, []))
        alive.heard(100.0)
        self.assertEqual(alive.silence(103.5), 3.5)

    def test_dead_only_beyond_the_limit(self) -> None:
        alive = Liveness(5.0)
        alive.heard(100.0)
        self.assertEqual(alive.due(105.0), [])
        self.assertEqual(alive.due(105.6), [Reconnect("silent for 6 s")])
        alive.heard(106.0)
        self.assertEqual(alive.due(107.0), [])


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


class SomeSocket:
    def __init__(self, symbols: tuple[str, ...]) -> None:
        self.symbols = symbols


class SomeRest:
    pass


class ExchangeModuleTests(SynchronousTestCase):
    def test_each_connection_gets_its_own_codec(self) -> None:
        facts = ExchangeFacts("some", "wss://x", "https://x", "USD", 10, Rate(1, 1.0), Rate(1, 1.0))
        module = ExchangeModule(facts, SomeSocket, SomeRest)
        one, two = module.socket_codec(iter("AB")), module.socket_codec(["C"])
        assert isinstance(one, SomeSocket)
        assert isinstance(two, SomeSocket)
        self.assertEqual((one.symbols, two.symbols), (("A", "B"), ("C",)))
        self.assertIsInstance(module.rest_codec(), SomeRest)
        self.assertIs(module.facts, facts)


class FaultTests(SynchronousTestCase):
    def test_reasons_are_distinct_and_hold_those_of_ticks(self) -> None:
        self.assertEqual(len(set(FAULTS)), len(FAULTS))
        self.assertLessEqual(set(TICK_FAULTS), set(FAULTS))
