"""What the operator's page is told."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from math import inf, nan
from typing import Any

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs import problems
from tbeast.domain.assetmap import parse
from tbeast.domain.backing import PartStatus
from tbeast.domain.clusterstats import NAMES, Number
from tbeast.domain.counters import Counters
from tbeast.domain.feedstatus import DOWN, LIVE
from tbeast.domain.governor import CUT_OFF
from tbeast.domain.latencies import FAMILY, UP_TO_US
from tbeast.domain.quotes import GOOD, HALTED, STALE
from tbeast.domain.usage import BEHIND, OK, MeteringStatus
from tbeast.services.overview import (
    CHANGE_ROW,
    FEED_ROW,
    HISTORY,
    ON_DEMAND,
    PRICE_ROW,
    RATE_ROW,
    WINDOW,
    About,
    Overview,
    Sources,
)
from tbeast.test.servers.rooms import ASSETS, NOON, STABLECOINS, feed_of, quote_of

LARGEST_EVENT = 60_000


@frozen
class View:
    nodes: Mapping[str, Mapping[str, Number]]
    why: str = ""


class Cluster:
    """Answers when it is told to.

    @ivar asked: what those who asked wait for.
    """

    def __init__(self) -> None:
        self.asked: list[Deferred[View]] = []

    def view(self) -> Awaitable[View]:
        self.asked.append(Deferred())
        return self.asked[-1]


class OverviewCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = NOON
        self.assets = parse(ASSETS, STABLECOINS)
        self.quotes = {"BTC": quote_of("BTC")}
        self.feeds = [feed_of("coinbase"), feed_of("kraken")]
        self.parts = [PartStatus("database", "up", since=NOON - 10.0)]
        self.listening = {"lpo": True}
        self.metering = MeteringStatus(OK, None, 3, 1, 2, 700, "", "")
        self.counters = Counters()
        self.view: dict[str, Any] = {
            "state": "sharing", "limit": 100, "refused": 0, "health": 1.0, "health_reason": "", "last_move": None,
        }  # fmt: skip
        self.cluster = Cluster()
        self.ready: tuple[bool, Mapping[str, Any]] = (True, {"reasons": []})
        self.overview = Overview(
            About("n1", "1.2.3", "life", False, {"workers": "1"}),
            Sources(
                assets=lambda: self.assets, quotes=lambda: self.quotes, feeds=lambda: self.feeds,
                backing=lambda: self.parts, listening=lambda: self.listening, metering=lambda: self.metering,
                waiting=lambda: 17, recorded=lambda: 40, governor=lambda: self.view, cluster=self.cluster,
                ready=lambda: self.ready,
            ),
            self.counters, lambda: self.time,
        )  # fmt: skip
        self.told: list[Mapping[str, Any]] = []

    def watch(self) -> None:
        self.overview.listeners.append(lambda: self.told.append(self.overview.snapshot()))

    def look(self, seconds: float = 1.0) -> None:
        self.time += seconds
        self.overview.look()

    def answer(self, status: str, number: int, us: int = 300, service: str = "lpo") -> None:
        self.counters.count("requests", service, "http", status, by=number)
        self.counters.count(FAMILY, service, UP_TO_US[us.bit_length()], by=number)

    def row(self, asset: str) -> dict[str, Any]:
        rows: Any = self.overview.snapshot()["prices"]
        return next(dict(zip(PRICE_ROW, row, strict=True)) for row in rows if row[0] == asset)


class SnapshotTests(OverviewCase):
    def test_none_is_made_while_nobody_watches(self) -> None:
        self.patch(self.overview, "_made", lambda: self.fail("it was made"))
        for _ in range(5):
            self.look()
        self.assertEqual([], self.cluster.asked)

    def test_one_a_look_for_all(self) -> None:
        self.watch()
        self.watch()
        self.look()
        self.assertEqual(2, len(self.told))
        self.assertIs(self.told[0], self.told[1])
        self.look()
        self.assertIsNot(self.told[0], self.told[2])

    def test_one_before_the_first_look(self) -> None:
        self.assertEqual([0.0] * len(RATE_ROW), self.overview.snapshot()["rate"])

    def test_all_is_well(self) -> None:
        self.quotes = {code: quote_of(code) for code in self.assets.assets}
        self.look()
        snapshot = self.overview.snapshot()
        self.assertEqual([], snapshot["complaints"])
        self.assertEqual([4, 4], snapshot["priced"])

    def test_a_price(self) -> None:
        self.look(2.0)
        row = self.row("BTC")
        self.assertEqual(
            {"asset": "BTC", "quality": GOOD, "price": 83421.57, "age": 2.0, "used": 3, "seen": 4, "spread_bp": 1.8,
             "set_aside": 1, "source": "median"},
            row,
        )  # fmt: skip

    def test_no_price(self) -> None:
        """None was ever heard, the last is too old, or its own quality says so."""
        self.quotes = {
            "BTC": quote_of("BTC"),
            "DOGE": quote_of("DOGE", fresh_until=NOON),
            "SOL": quote_of("SOL", quality=HALTED),
        }
        self.look()
        qualities = {code: self.row(code)["quality"] for code in self.assets.assets}
        self.assertEqual({"BTC": GOOD, "ETH": STALE, "DOGE": STALE, "SOL": HALTED}, qualities)
        self.assertEqual((None, None), (self.row("ETH")["price"], self.row("ETH")["age"]))
        snapshot = self.overview.snapshot()
        self.assertEqual([1, 4], snapshot["priced"])
        self.assertEqual([[1, "3 of 4 assets have no fresh price: ETH, DOGE, SOL"]], snapshot["complaints"])

    def test_what_is_no_number(self) -> None:
        """It is told as none, and breaks nothing."""
        self.quotes["BTC"] = quote_of("BTC", price=inf, spread_bp=nan)
        self.look()
        row = self.row("BTC")
        self.assertEqual((STALE, None, None), (row["quality"], row["price"], row["spread_bp"]))
        problems.encode(self.overview.snapshot())

    def test_nobody_misses_what_is_on_demand(self) -> None:
        sol = self.assets.assets["SOL"]
        self.assets = evolve(
            self.assets,
            assets={"SOL": evolve(sol, unsubscribed=frozenset(sol.symbols)), "BTC": self.assets.assets["BTC"]},
        )
        self.look()
        self.assertEqual(ON_DEMAND, self.row("SOL")["quality"])
        self.assertEqual([1, 1], self.overview.snapshot()["priced"])
        self.quotes["SOL"] = quote_of("SOL")
        self.look()
        self.assertEqual(GOOD, self.row("SOL")["quality"])

    def test_a_feed(self) -> None:
        self.feeds = [evolve(feed_of("okx", DOWN), why="refused", unacknowledged=("Y",))]
        self.look()
        rows: Any = self.overview.snapshot()["feeds"]
        self.assertEqual(
            {"exchange": "okx", "state": DOWN, "age": None, "connections": 0, "live_symbols": 24, "symbols": 25,
             "refused": 2, "connected_seconds": 0, "why": "refused"},
            dict(zip(FEED_ROW, rows[0], strict=True)),
        )  # fmt: skip

    def test_usage(self) -> None:
        self.metering = MeteringStatus(BEHIND, NOON - 4.0, 3, 1, 2, 700, "refused", "")
        self.answer("200", 5)
        self.counters.count("usage_rows", "settled", by=9)
        self.look()
        self.assertEqual(
            {"state": BEHIND, "for": 5.0, "why": "refused", "waiting_rows": 3, "waiting_requests": 17, "under_way": 1,
             "spooled_batches": 2, "spooled_bytes": 700, "served": 5, "recorded": 40, "rows": 9},
            self.overview.snapshot()["usage"],
        )  # fmt: skip

    def test_unwell(self) -> None:
        self.quotes = {code: quote_of(code) for code in self.assets.assets}
        self.view["health"], self.view["health_reason"] = 0.5, "slow answers"
        self.look()
        self.assertEqual([[0, "Fewer connections are taken: slow answers"]], self.overview.snapshot()["complaints"])
        self.view["state"] = CUT_OFF
        self.look()
        said: Any = self.overview.snapshot()["complaints"]
        self.assertEqual(["Fewer connections are taken: cut off from the other nodes"], [text for _, text in said])

    def test_not_ready(self) -> None:
        """What a balancer is told stands first."""
        self.ready = (False, {"reasons": ["the database: away", "warming up"]})
        self.look()
        said: Any = self.overview.snapshot()["complaints"]
        self.assertEqual([1, "The node is not ready: the database: away; warming up"], said[0])

    def test_the_governor_of_a_node_with_workers(self) -> None:
        """Each worker has one of its own; the node is all of them."""
        self.view |= {
            "node": "n1", "connections": 1, "limit": 100, "share": 110,
            "nodes": [
                {"node": name, "connections": 20, "limit": 200, "claim": 220, "health": health}
                for name, health in (("n1", 1.0), ("n1/w1a", 0.4), ("n1/w2a", 1.0), ("n10/w1a", 0.1))
            ],
        }  # fmt: skip
        self.counters.count("refused_connections", "lpo", by=7)
        self.look()
        told: Any = self.overview.snapshot()["governor"]
        names = ("connections", "limit", "share", "refused", "health")
        self.assertEqual((41, 500, 550, 7, 0.4), tuple(told[name] for name in names))
        said: Any = self.overview.snapshot()["complaints"]
        self.assertIn("Fewer connections are taken: the worker n1/w1a is not well", [text for _, text in said])

    def test_turned_away(self) -> None:
        self.quotes = {code: quote_of(code) for code in self.assets.assets}
        self.look()
        self.counters.count("refused_connections", "lpo", by=11)  # those of workers, whom this governor does not know
        self.counters.count("refused_connections", "lrs")
        self.look()
        said: Any = self.overview.snapshot()["complaints"]
        self.assertEqual(["12 connections were turned away in the last minute"], [text for _, text in said])


class RateTests(OverviewCase):
    def test_a_second(self) -> None:
        self.look()
        self.answer("200", 30)
        self.answer("429", 6)
        self.answer("503", 4)
        self.answer("200", 1_000, service="health")
        self.look(2.0)
        self.assertEqual([20.0, 3.0, 2.0], self.overview.snapshot()["rate"])
        self.assertNotIn("health", json.dumps(self.overview.snapshot()["requests"]))

    def test_of_five_minutes(self) -> None:
        for second in range(HISTORY + 50):
            self.answer("200", second)
            self.look()
        rates: Any = self.overview.whole()["rates"]
        self.assertEqual(HISTORY, len(rates))
        self.assertEqual([float(HISTORY + 49), 0.0, 0.0], rates[-1])
        self.assertEqual([50.0, 0.0, 0.0], rates[0])

    def test_percentiles_are_of_the_last_minute(self) -> None:
        self.look()
        self.answer("200", 100, us=900_000)
        self.look()
        for _ in range(WINDOW - 1):
            self.look()
        latency: Any = self.overview.snapshot()["latency"]
        self.assertEqual(100, latency["lpo"][0])
        self.assertGreater(latency["lpo"][1], 500_000)
        said: Any = self.overview.snapshot()["complaints"]
        self.assertIn("Half of the answers take more than", json.dumps(said))
        self.answer("200", 10, us=300)
        self.look()
        latency = self.overview.snapshot()["latency"]
        self.assertEqual(10, latency["lpo"][0])
        self.assertLess(latency["lpo"][3], 600)

    def test_failures_are_told_for_a_minute(self) -> None:
        self.quotes = {code: quote_of(code, fresh_until=NOON + 900.0) for code in self.assets.assets}
        self.look()
        self.answer("500", 2)
        self.look()
        said = [[0, "2 of 2 answers of the last minute were 5xx"]]
        self.assertEqual(said, self.overview.snapshot()["complaints"])
        for _ in range(WINDOW):
            self.look()
        self.assertEqual([], self.overview.snapshot()["complaints"])


class ChangeTests(OverviewCase):
    def test_whether_or_not_anybody_watches(self) -> None:
        self.look()
        self.feeds[1] = evolve(feed_of("kraken", DOWN), why="refused")
        self.listening["lpo"] = False
        self.parts = [PartStatus("database", "away", "gone")]
        self.view |= {"limit": 90, "last_move": {"at": NOON, "before": 100, "after": 90, "reason": "slow answers"}}
        self.look()
        told = [dict(zip(CHANGE_ROW, row, strict=True)) for row in self.overview.changes()]
        self.assertEqual(
            [("feed kraken", LIVE, DOWN, "refused"), ("part database", "up", "away", "gone"),
             ("listener lpo", "up", "down", ""), ("connection limit", "100", "90", "slow answers")],
            [(change["what"], change["before"], change["after"], change["why"]) for change in told],
        )  # fmt: skip
        self.assertEqual([round(NOON + 2.0, 1)], list({change["at"] for change in told}))
        self.assertEqual([4], [row[0] for row in self.overview.changes(3)])


class ClusterTests(OverviewCase):
    def cluster_told(self) -> Any:
        return self.overview.snapshot()["cluster"]

    def test_asked_now_and_then_and_never_twice_at_a_time(self) -> None:
        self.watch()
        for _ in range(7):
            self.look()
        self.assertEqual(1, len(self.cluster.asked))
        self.assertEqual({"nodes": {}, "total": [None] * len(NAMES), "age": None, "why": ""}, self.cluster_told())
        self.cluster.asked[0].callback(View({"n1": {"requests": 5}, "n2": {"requests": 6, "feeds_live": 4}}))
        self.look()
        told = self.cluster_told()
        self.assertEqual(11, told["total"][NAMES.index("requests")])
        self.assertEqual([None, 4], [told["nodes"][node][NAMES.index("feeds_live")] for node in ("n1", "n2")])
        self.assertEqual(1.0, told["age"])
        self.look()
        self.look()
        self.assertEqual(2, len(self.cluster.asked))

    def test_not_all_are_heard(self) -> None:
        self.quotes = {code: quote_of(code) for code in self.assets.assets}
        self.watch()
        self.look()
        self.cluster.asked[0].callback(View({"n1": {"requests": 5}}, "1 of 3 nodes are heard"))
        self.look()
        self.assertEqual("1 of 3 nodes are heard", self.cluster_told()["why"])
        self.assertIn("1 of 3 nodes are heard", json.dumps(self.overview.snapshot()["complaints"]))

    def test_a_failure_leaves_what_was_known(self) -> None:
        self.watch()
        self.look()
        self.cluster.asked[0].callback(View({"n1": {"requests": 5}}))
        for _ in range(3):
            self.look()
        self.cluster.asked[1].errback(ZeroDivisionError("broken"))
        self.look()
        told = self.cluster_told()
        self.assertEqual("the other nodes cannot be asked: broken", told["why"])
        self.assertEqual(["n1"], list(told["nodes"]))
        self.assertEqual(4.0, told["age"])


class WholeTests(OverviewCase):
    def test_what_it_tells(self) -> None:
        whole = self.overview.whole()
        self.assertEqual(
            ("n1", "1.2.3", "life", False), tuple(whole[each] for each in ("node", "version", "life", "simulated"))
        )
        self.assertEqual(["BTC", "Bitcoin", "Major Currencies", "coinbase"], whole["assets"][0])  # type: ignore[index]
        self.assertEqual(NAMES, tuple(row[0] for row in whole["statistics"]))  # type: ignore[attr-defined]

    def test_other_assets_are_another_edition(self) -> None:
        self.look()
        edition = self.overview.edition
        self.look()
        self.assertEqual(edition, self.overview.edition)
        self.assets = evolve(self.assets, assets={"BTC": self.assets.assets["BTC"]})
        self.look()
        self.assertNotEqual(edition, self.overview.edition)
        self.assertEqual(1, len(self.overview.whole()["assets"]))  # type: ignore[arg-type]

    def test_size(self) -> None:
        """A snapshot with 150 assets, six feeds in trouble and 8 nodes, and everything that is told at first."""
        btc = self.assets.assets["BTC"]
        codes = [f"LONG{number}" for number in range(150)]
        self.assets = evolve(self.assets, assets={code: evolve(btc, code=code) for code in codes})
        self.quotes = {code: quote_of(code, price=0.000012345678) for code in codes}
        self.feeds = [evolve(feed_of(f"exchange{number}", DOWN), why="w" * 150) for number in range(6)]
        self.watch()
        for second in range(HISTORY):
            self.answer("200", 20_000 + second)
            self.listening["lpo"] = bool(second % 2)
            self.look()
        self.cluster.asked[0].callback(View({f"node-{number}": dict.fromkeys(NAMES, 10**9) for number in range(8)}))
        self.look()
        changes = self.overview.changes()
        self.assertLess(len(problems.encode({**self.overview.snapshot(), "changes": changes})), LARGEST_EVENT)
        whole = {**self.overview.whole(), "now": self.overview.snapshot(), "changes": changes}
        self.assertLess(len(problems.encode(whole)), LARGEST_EVENT)
