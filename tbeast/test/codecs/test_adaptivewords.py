"""Reports of the connection governor as texts."""

from __future__ import annotations

import json
from typing import Any

from attrs import asdict, evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.adaptivewords import LONGEST, MOST, decode, encode
from tbeast.domain.governor import Report
from tbeast.domain.nodehealth import LEAST_HEALTH

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=40)
COUNTS = st.integers(0, MOST)
REPORTS = st.builds(
    Report,
    node=NAMES,
    life=NAMES,
    sequence=st.integers(1, 2**53 - 1),
    at=st.floats(0.0, 1e11),
    connections=COUNTS,
    demand=COUNTS,
    is_pressed=st.booleans(),
    health=st.floats(LEAST_HEALTH, 1.0),
    claim=COUNTS,
    limit=COUNTS,
)
ONE = Report("a", "first", 3, 1_776_003_781.25, 7, 9, True, 0.5, 60, 50)


def changed(**members: Any) -> bytes:
    return json.dumps({**asdict(ONE), **members}).encode()


class AdaptiveWordsTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=200)
    @given(REPORTS)
    def test_there_and_back(self, report: Report) -> None:
        text = encode(report)
        self.assertEqual(report, decode(report.node, text))
        self.assertEqual(asdict(report), json.loads(text))

    def test_of_another_version(self) -> None:
        """A member that nobody knows is passed over, and one that is missing makes it no report."""
        self.assertEqual(ONE, decode("a", changed(news=[1, 2])))
        for name in asdict(ONE):
            members = {other: value for other, value in asdict(ONE).items() if other != name}
            self.assertIsNone(decode("a", json.dumps(members).encode()), name)

    def test_the_longest_name(self) -> None:
        """A name of a node may have 253 characters, and its workers' a few more."""
        name = "n" * 253 + "/w128d"
        report = evolve(ONE, node=name, life="f" * 32 + ".4194304")
        self.assertEqual(report, decode(name, encode(report)))

    def test_under_another_name(self) -> None:
        self.assertIsNone(decode("b", encode(ONE)))

    def test_what_cannot_be(self) -> None:
        for members in (
            {"node": ""}, {"life": "x" * 301}, {"sequence": 0}, {"sequence": 2**53}, {"sequence": 1.5},
            {"connections": -1}, {"demand": MOST + 1}, {"claim": "7"}, {"limit": None}, {"is_pressed": 1},
            {"health": 0.0}, {"health": 1.01}, {"at": "now"},
        ):  # fmt: skip
            self.assertIsNone(decode(str(members.get("node", "a")), changed(**members)), members)
        self.assertIsNone(decode("a", encode(ONE).replace(b"1776003781.25", b"1e999")))
        self.assertIsNone(decode("a", changed().replace(b"1776003781.25", b"NaN")))

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda text: encode(ONE)[:60] + text))
    def test_anything(self, text: bytes) -> None:
        self.assertIsNone(decode("a", text))

    def test_too_long(self) -> None:
        self.assertIsNotNone(decode("a", changed() + b" " * (LONGEST - len(changed()))))
        self.assertIsNone(decode("a", changed() + b" " * (LONGEST - len(changed()) + 1)))
        self.assertIsNone(decode("a", b"[" * LONGEST))
