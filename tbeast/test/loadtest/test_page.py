"""The page and its plots."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest.levels import LEVELS
from tbeast.loadtest.page import page
from tbeast.loadtest.plots import (
    HEIGHT,
    WIDTH,
    Axis,
    Line,
    Point,
    latency_axis,
    milliseconds,
    plot,
    rate_axis,
    success_axis,
)
from tbeast.loadtest.report import Report, part_of
from tbeast.loadtest.tally import Tally
from tbeast.test.loadtest.samples import report, result, tally

NASTY = "<b onload='x'>&\"\u202e"


def full() -> Report:
    """Thirteen levels of each protocol, the last of them bad."""
    levels = [
        result(
            protocol, number, askers,
            closed=part_of(tally(1000 * number, busy=0.5 + number / 27)),
            open=part_of(tally(500, 0.0005 * number, lag=0.0001 * number), 500.0),
        )
        for protocol in ("tcp", "udp") for number, askers in enumerate(LEVELS, 1)
    ]  # fmt: skip
    levels[-1] = result(
        "udp", 13, 20_000, wanted=21_000, success=97.5, reached=False,
        closed=part_of(tally(900, lost=90, status_503=10)), open=part_of(tally(900, lost=100), 1000.0),
    )  # fmt: skip
    return report(*levels, notes=("Level 13 is cut.",))


def parsed(text: str) -> ElementTree.Element:
    """The page as a tree: it is XML too, but for the first line."""
    first, rest = text.split("\n", 1)
    assert first == "<!DOCTYPE html>"
    return ElementTree.fromstring(rest)


class PageTests(SynchronousTestCase):
    def test_it_is_well_formed_and_needs_nothing_else(self) -> None:
        text = page(full())
        root = parsed(text)
        self.assertEqual(len(root.findall(".//svg")), 4)
        for word in ("<script", "http-equiv", "src=", "@import", "url(", "href="):
            self.assertNotIn(word, text)
        self.assertIn("prefers-color-scheme:dark", text)
        # every class that the plots give has a colour
        for number in range(1, 7):
            self.assertIn(f"--c{number}:", text)

    def test_what_it_tells(self) -> None:
        text = " ".join(parsed(page(full())).itertext())
        for words in (
            "25 of 26 levels reached 99.9 % success", "http://127.0.0.1:8080", "falcon", "Level 13 is cut.",
            "20,000 of 21,000", "97.5 %", "goal 99.9 %", "lost 90, status 503 10",
            "the generator was busy 98 % of the time",
            "50 % of the closed loop's", "TCP 10 s, UDP 2 s",
        ):  # fmt: skip
            self.assertTrue(words in text, words)
        self.assertFalse("SIMULATED" in text)
        self.assertIn("SIMULATED", page(report(result(), simulated=True)))

    def test_a_given_rate(self) -> None:
        self.assertIn("1,234 a second", page(report(result(), load=None, rate=1234.0)))

    def test_one_protocol_and_nothing_at_all(self) -> None:
        text = page(report(result("udp"), targets={"udp": "udp://127.0.0.1:1"}, node=""))
        parsed(text)
        self.assertNotIn("TCP: ", text)
        empty = page(report(interrupted=True))
        parsed(empty)
        self.assertEqual(empty.count("Nothing was measured."), 2)
        bare = result(closed=None, open=None, success=0.0, reached=False, connecting={"connecting: refused": 10})
        root = parsed(page(report(bare)))
        self.assertIn("connecting: refused 10", "".join(root.itertext()))

    def test_nobody_elses_words_are_taken_for_markup(self) -> None:
        nasty = report(
            result(closed=part_of(Tally(asked=1, errors={NASTY: 1}, elapsed=1.0)), connecting={NASTY: 1}),
            node=NASTY, notes=(NASTY,), targets={"tcp": NASTY}, machine=NASTY, assets=(NASTY,),
        )  # fmt: skip
        text = page(nasty)
        self.assertEqual("".join(parsed(text).itertext()).count(NASTY), 7)
        self.assertNotIn("<b", text.replace("<body", ""))


class PlotTests(SynchronousTestCase):
    def axis(self, low: float = 0.0, high: float = 10.0, is_log: bool = False) -> Axis:
        return Axis("y", low, high, [(low, "low"), (high, "high")], is_log)

    @given(
        st.lists(
            st.tuples(st.integers(1, 100_000), st.floats(0.0, 1e9, allow_nan=False)), min_size=1, max_size=20,
        ),
        st.sampled_from([success_axis, rate_axis, latency_axis]),
    )  # fmt: skip
    @settings(deadline=None, max_examples=80)
    def test_every_point_is_in_the_picture(self, pairs: list[tuple[int, float]], kind: object) -> None:
        if kind is success_axis:
            pairs = [(x, min(y, 100.0)) for x, y in pairs]
        lines = [Line("a", "c1", [Point(x, y, "words") for x, y in pairs])]
        if kind is success_axis:
            axis = success_axis(lines, 99.9)
        else:
            axis = rate_axis(lines) if kind is rate_axis else latency_axis(lines)
        self.assertTrue(axis.low < axis.high)
        for _, y in pairs:
            self.assertTrue(y <= axis.high * 1.000001)
            self.assertTrue(y >= axis.low * 0.999999 or (axis.is_log and y < 0.001))
        self.assertTrue(2 <= len(axis.ticks) <= 20)
        root = ElementTree.fromstring(plot("title", lines, axis))
        circles = root.findall("circle")
        self.assertEqual(len(circles), len(pairs))
        for circle in circles:
            x, y = float(circle.get("cx", "nan")), float(circle.get("cy", "nan"))
            self.assertTrue(isfinite(x) and isfinite(y) and 0 <= x <= WIDTH and 0 <= y <= HEIGHT)

    def test_higher_is_higher_and_more_is_further_right(self) -> None:
        points = [Point(1, 1.0, "a"), Point(10, 2.0, "b"), Point(100, 4.0, "c")]
        for axis in (self.axis(), self.axis(1.0, 10.0, is_log=True)):
            circles = ElementTree.fromstring(plot("t", [Line("l", "c1", points)], axis)).findall("circle")
            across = [float(circle.get("cx", "")) for circle in circles]
            up = [-float(circle.get("cy", "")) for circle in circles]
            self.assertEqual((across, up), (sorted(across), sorted(up)))
            self.assertEqual([circle.findtext("title") for circle in circles], ["a", "b", "c"])

    def test_axes_are_named_and_numbers_do_not_touch(self) -> None:
        points = [Point(x, 1.0, "") for x in LEVELS]
        root = ElementTree.fromstring(plot("the title", [Line("l", "c1", points)], self.axis()))
        self.assertEqual(root.get("aria-label"), "the title")
        names = [text.text for text in root.findall("text[@class='name']")]
        self.assertEqual(len(names), 2)
        self.assertIn("connections", str(names[0]))
        below = [
            (float(text.get("x", "")), str(text.text))
            for text in root.findall("text[@class='tick']")
            if text.get("text-anchor") == "middle"
        ]
        self.assertGreaterEqual(len(below), 6)
        for (at, words), (after, others) in pairwise(below):
            self.assertGreater(after - at, 3.6 * (len(words) + len(others)))

    def test_hollow_and_dashed(self) -> None:
        line = Line("l", "c2", [Point(1, 1.0, "", hollow=True), Point(2, 1.0, "")], dashed=True)
        text = plot("t", [line], self.axis())
        self.assertEqual((text.count("dot c2 hollow"), text.count('dot c2"'), text.count("line c2 dashed")), (1, 1, 1))

    def test_success_begins_where_it_must(self) -> None:
        for least, low in ((100.0, 99.0), (99.2, 99.0), (98.0, 95.0), (60.0, 50.0), (3.0, 0.0)):
            axis = success_axis([Line("l", "c1", [Point(1, least, "")])], 99.9)
            self.assertEqual((axis.low, axis.high, axis.mark), (low, 100.0, 99.9))

    def test_rates_end_at_a_round_number(self) -> None:
        for most, high in ((0.0, 1.0), (9.0, 10.0), (14_233.0, 15_000.0), (121_000.0, 150_000.0)):
            self.assertEqual(rate_axis([Line("l", "c1", [Point(1, most, "")])]).high, high)

    def test_times_as_people_say_them(self) -> None:
        for value, words in ((0.0, "0 µs"), (0.25, "250 µs"), (1.0, "1 ms"), (12.345, "12.35 ms"), (1500.0, "1.5 s")):
            self.assertEqual(milliseconds(value), words)
