"""The statistics of a node."""

from __future__ import annotations

import re
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.clusterstats import (
    COUNTER,
    GAUGE,
    MAX,
    MIN,
    NAMES,
    OF_PRICES,
    STATISTICS,
    SUM,
    Fault,
    Gauges,
    added_up,
    own,
    read,
    requests_answered,
    write,
)
from tbeast.domain.counters import Counters
from tbeast.domain.feedstatus import DOWN, LATE, LIVE, FeedStatus
from tbeast.domain.quotes import QUALITIES


def feed(exchange: str, state: str) -> FeedStatus:
    return FeedStatus(exchange, state, 1, 10, 10, (), (), 5.0, 0.1, "")


QUIET = Gauges(
    uptime_seconds=7.9, requests_per_second=0.0, response_p50_us=0, response_p99_us=0, connections=0,
    reactor_lag_ms=0.0, feeds=(), qualities={"degraded": 1}, usage_waiting=0, usage_batches=0,
    spooled_batches=0,
)  # fmt: skip


class TableTests(SynchronousTestCase):
    def test_there_are_24(self) -> None:
        self.assertEqual(24, len(set(NAMES)))

    def test_each_is_explained(self) -> None:
        for name, statistic in STATISTICS.items():
            self.assertTrue(re.fullmatch(r"[a-z][a-z0-9_]{3,30}", name), name)
            self.assertIn(statistic.kind, (COUNTER, GAUGE))
            self.assertIn(statistic.adds, (SUM, MAX, MIN))
            self.assertTrue(re.fullmatch(r"[A-Z0-9][^|]{5,}\.", statistic.what), name)
            self.assertTrue(statistic.unit)
            if statistic.kind == COUNTER:
                self.assertEqual(SUM, statistic.adds, name)


class OwnTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.counters = Counters()

    def own(self, **changes: Any) -> dict[str, float]:
        return {name: number for name, number in own(self.counters, evolve(QUIET, **changes)).items() if number}

    def test_all_in_order(self) -> None:
        self.assertEqual(NAMES, tuple(own(self.counters, QUIET)))
        self.assertEqual({"uptime_seconds": 7}, self.own())

    def test_requests(self) -> None:
        for service, protocol, status, by in (
            ("lpo", "http", "200", 100), ("lpo", "udp", "200", 1000), ("lrs", "http", "200", 10),
            ("lrs", "udp", "429", 1),
            ("lpo", "http", "401", 2), ("lpo", "http", "429", 3), ("lpo", "udp", "503", 4), ("lpo", "http", "500", 5),
            ("lpo", "http", "404", 6), ("health", "http", "503", 7000),
        ):  # fmt: skip
            self.counters.count("requests", service, protocol, status, by=by)
        self.assertEqual(
            {
                "uptime_seconds": 7, "requests": 1131, "requests_http": 126, "requests_udp": 1005, "requests_lrs": 11,
                "unauthorized": 2, "rate_limited": 4, "errors_5xx": 9,
            },
            self.own(),
        )  # fmt: skip
        self.assertEqual(1131, requests_answered(self.counters))

    def test_counters(self) -> None:
        for family, labels, by in (
            ("udp_dropped", ("lpo", "bad_key"), 1), ("udp_dropped", ("lrs", "empty"), 2),
            ("udp_kernel_drops", ("lpo",), 4),
            ("feed_ticks", ("okx", "ws"), 10), ("feed_ticks", ("okx", "rest"), 20), ("lookups", ("rest",), 3),
            ("lookups", ("shelf",), 300), ("usage_rows", ("settled",), 50), ("usage_rows", ("refused",), 5),
            ("publications", (), 9), ("refused_connections", ("lpo",), 6), ("refused_connections", ("lrs",), 2),
        ):  # fmt: skip
            self.counters.count(family, *labels, by=by)
        self.assertEqual(
            {
                "uptime_seconds": 7, "udp_dropped": 7, "ticks": 30, "rest_fallbacks": 3, "usage_rows": 50,
                "connections_refused": 8,
            },
            self.own(),
        )  # fmt: skip

    def test_what_is_counted_elsewhere_is_brought_in_first(self) -> None:
        self.counters.gathered.append(lambda: self.counters.count("feed_ticks", "okx", "ws"))
        self.assertEqual(1, own(self.counters, QUIET)["ticks"])
        self.counters.gathered.append(lambda: self.counters.count("requests", "lpo", "udp", "200"))
        self.assertEqual(1, requests_answered(self.counters))

    def test_gauges(self) -> None:
        found = self.own(
            requests_per_second=1234.5678, response_p50_us=40, response_p99_us=900, connections=6,
            reactor_lag_ms=1.26,
            feeds=[feed("okx", LIVE), feed("kraken", LATE), feed("gemini", DOWN)],
            qualities=dict(zip(QUALITIES, (140, 5, 3, 20, 1), strict=True)), usage_waiting=8, usage_batches=9,
            spooled_batches=10,
        )  # fmt: skip
        self.assertEqual(
            {
                "uptime_seconds": 7, "requests_per_second": 1234.6, "response_p50_us": 40, "response_p99_us": 900,
                "connections": 6, "reactor_lag_ms": 1.3, "feeds_live": 1, "assets_good": 140,
                "assets_unpriced": 21, "usage_waiting": 8, "usage_batches": 9, "spooled_batches": 10,
            },
            found,
        )  # fmt: skip

    def test_a_node_of_reports_alone_is_not_the_worst_one(self) -> None:
        """It has no feeds and no prices, and misses none."""
        reports = own(self.counters, evolve(QUIET, qualities={}))
        self.assertEqual(set(NAMES) - set(OF_PRICES), set(reports))
        prices = own(self.counters, evolve(QUIET, feeds=[feed("okx", LIVE)], qualities={"good": 150}))
        total = added_up([prices, reports])
        self.assertEqual([1, 150, 0], [total[name] for name in OF_PRICES])


class AddedUpTests(SynchronousTestCase):
    def test_each_in_its_way(self) -> None:
        one = {"requests": 5, "requests_per_second": 0.1, "response_p99_us": 30, "feeds_live": 6}
        other = {"requests": 7, "requests_per_second": 0.2, "response_p99_us": 20, "feeds_live": 2}
        self.assertEqual(
            {"requests": 12, "requests_per_second": 0.3, "response_p99_us": 30, "feeds_live": 2}, added_up([one, other])
        )

    def test_what_nobody_tells_is_absent(self) -> None:
        self.assertEqual({"requests": 5, "ticks": 1}, added_up([{"requests": 5}, {"ticks": 1}]))
        self.assertEqual({}, added_up([]))

    @given(st.lists(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 10**12)), max_size=5))
    @settings(deadline=None, max_examples=100)
    def test_in_any_order(self, nodes: list[dict[str, int | float]]) -> None:
        self.assertEqual(added_up(nodes), added_up(nodes[::-1]))
        for name, number in added_up(nodes).items():
            told = [node[name] for node in nodes if name in node]
            self.assertLessEqual(min(told), number)
            adds = STATISTICS[name].adds
            self.assertEqual(number, sum(told) if adds == SUM else max(told) if adds == MAX else min(told))


class WrittenTests(SynchronousTestCase):
    @given(
        st.dictionaries(
            st.sampled_from(NAMES),
            st.integers(0, 10**18 - 1) | st.integers(0, 10**9).map(lambda tenths: tenths / 10),
            min_size=1,
        )
    )
    @settings(deadline=None, max_examples=200)
    def test_what_is_written_is_read(self, statistics: dict[str, int | float]) -> None:
        texts = {name: text.encode() for name, text in write(statistics).items()}
        found = read(texts)
        self.assertEqual(statistics, found)

    def test_another_version(self) -> None:
        """What it does not know is absent, what we do not know is passed over, be it what it may."""
        self.assertEqual({"ticks": 4}, read({"ticks": b"4", "apples": b"many"}))

    def test_faults(self) -> None:
        for text in (
            b"", b"-1", b"+1", b"1e9", b"nan", b"inf", b" 1", b"1\n", b"1.", b".5", b"0x1", b"9" * 19, b"1.1234567",
            "٣".encode(), b"\xff", b"{}", b"1_0",
        ):  # fmt: skip
            found = read({"requests": b"1", "ticks": text})
            self.assertIsInstance(found, Fault, text)
            assert isinstance(found, Fault)
            self.assertTrue(found.why.startswith("ticks is no number: "), found.why)

    def test_a_fault_is_told_in_few_words(self) -> None:
        found = read({"ticks": b"x" * 100_000})
        assert isinstance(found, Fault)
        self.assertLess(len(found.why), 100)

    def test_nothing_that_is_known(self) -> None:
        self.assertIsInstance(read({}), Fault)
        self.assertIsInstance(read({"apples": b"7"}), Fault)

    @given(st.dictionaries(st.sampled_from((*NAMES, "apples")), st.binary(max_size=30)))
    @settings(deadline=None, max_examples=200)
    def test_anything(self, texts: dict[str, bytes]) -> None:
        found = read(texts)
        if not isinstance(found, Fault):
            self.assertLessEqual(set(found), set(texts) & set(NAMES))
            self.assertTrue(all(number >= 0 for number in found.values()))
