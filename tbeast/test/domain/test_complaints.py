"""What is said to be wrong."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.backing import PartStatus
from tbeast.domain.complaints import FEW_ANSWERS, MANY_BATCHES, SLOW_US, Complaint, Facts, complaints
from tbeast.domain.feedstatus import DOWN, LATE, LIVE, OFF, PAUSED, FeedStatus


def feed(exchange: str, state: str, heard: float | None = 0.5, why: str = "") -> FeedStatus:
    return FeedStatus(exchange, state, 1, 10, 10, (), (), 60.0, heard, why)


WELL = Facts(
    feeds=[feed("okx", LIVE), feed("gemini", OFF, None)],
    parts=[PartStatus("database", "up"), PartStatus("usage", "ok"), PartStatus("keys", "store")],
    listening={"lpo": True, "udp": True},
    expected=150,
    answered=1_000,
    median_us=300,
)


class ComplaintTests(SynchronousTestCase):
    def said(self, **changes: Any) -> list[Complaint]:
        return complaints(evolve(WELL, **changes))

    def test_all_is_well(self) -> None:
        self.assertEqual([], complaints(WELL))
        self.assertEqual([], complaints(Facts()))

    def test_listener(self) -> None:
        self.assertEqual([(True, "The listener udp is not up")], self.said(listening={"lpo": True, "udp": False}))

    def test_parts(self) -> None:
        away = PartStatus("database", "away", "connection refused")
        self.assertEqual([(False, "The database is away: connection refused")], self.said(parts=[away]))
        loading = PartStatus("keys", "loading", "not asked yet", blocks=True)
        self.assertEqual([(True, "The keys are loading: not asked yet")], self.said(parts=[loading]))
        self.assertEqual([(True, "The usage is unmetered")], self.said(parts=[PartStatus("usage", "unmetered")]))
        self.assertEqual([(False, "The usage is behind")], self.said(parts=[PartStatus("usage", "behind")]))
        self.assertTrue(self.said(parts=[evolve(away, state="up", blocks=True)])[0].is_grave)

    def test_a_feed(self) -> None:
        said = self.said(feeds=[feed("okx", LIVE), feed("kraken", DOWN, 400.0, "refused")])
        self.assertEqual([(False, "The feed of kraken is down, last heard 7 min ago: refused")], said)

    def test_a_feed_that_never_spoke(self) -> None:
        said = self.said(feeds=[feed("okx", LIVE), feed("kraken", "connecting", None)])
        self.assertEqual([(False, "The feed of kraken is connecting, nothing heard yet")], said)

    def test_a_feed_that_was_paused(self) -> None:
        said = self.said(feeds=[feed("okx", LIVE), feed("kraken", PAUSED, None, "paused by the operator")])
        self.assertEqual([(False, "The feed of kraken is paused by the operator")], said)

    def test_not_ready(self) -> None:
        """Balancers send nothing, whatever else is well."""
        said = self.said(unready="warming up: 3 of 150 assets have a fresh price", failed=1)
        self.assertEqual((True, "The node is not ready: warming up: 3 of 150 assets have a fresh price"), said[0])
        self.assertEqual(2, len(said))

    def test_no_feed_is_live(self) -> None:
        said = self.said(feeds=[feed("okx", LATE, 40.0), feed("kraken", DOWN, 9_000.0), feed("gemini", OFF)])
        self.assertEqual((True, "No feed is live"), said[0])
        self.assertIn("last heard 40 s ago", said[1].text)
        self.assertIn("last heard 2 h ago", said[2].text)
        self.assertEqual(3, len(said))

    def test_missing_prices(self) -> None:
        self.assertEqual([(False, "2 of 150 assets have no fresh price: BTC, ETH")], self.said(missing=["BTC", "ETH"]))
        (many,) = self.said(missing=[f"A{number}" for number in range(16)])
        self.assertEqual((True, "16 of 150 assets have no fresh price: A0, A1, A2, A3, A4 and 11 more"), many)

    def test_answers(self) -> None:
        self.assertEqual([(False, "3 of 1,000 answers of the last minute were 5xx")], self.said(failed=3))
        self.assertEqual([], self.said(median_us=SLOW_US))
        self.assertEqual([(False, "Half of the answers take more than 25 ms")], self.said(median_us=25_000))
        self.assertEqual([], self.said(median_us=25_000, answered=FEW_ANSWERS - 1))
        self.assertEqual([(False, "7 connections were turned away in the last minute")], self.said(turned_away=7))
        self.assertEqual([(False, "Fewer connections are taken: slow answers")], self.said(unwell="slow answers"))
        self.assertEqual([(False, "Not all nodes of the cluster are heard: x")], self.said(unheard="x"))

    def test_batches(self) -> None:
        self.assertEqual([], self.said(under_way=MANY_BATCHES))
        self.assertEqual(1, len(self.said(under_way=MANY_BATCHES + 1)))

    def test_the_worst_comes_first(self) -> None:
        said = self.said(failed=1, listening={"lrs": False}, feeds=[feed("okx", LATE)])
        self.assertEqual([True, True, False, False], [complaint.is_grave for complaint in said])
