"""Counters."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.counters import FAMILIES, Counters


class CountersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.counters = Counters()

    def test_counts(self) -> None:
        self.counters.count("feed_ticks", "kraken", "ws")
        self.counters.count("feed_ticks", "kraken", "ws", by=3)
        self.counters.count("feed_ticks", "kraken", "rest")
        self.assertEqual(4, self.counters.value("feed_ticks", "kraken", "ws"))
        self.assertEqual(0, self.counters.value("feed_ticks", "okx", "ws"))
        self.assertEqual(5, self.counters.total("feed_ticks"))

    def test_families_do_not_mix(self) -> None:
        """A family's name may begin another's."""
        self.counters.count("feed_connections", "okx")
        self.counters.count("feed_disconnects", "okx", by=2)
        self.counters.count("publications")
        self.assertEqual([(("okx",), 1)], list(self.counters.family("feed_connections")))
        self.assertEqual([((), 1)], list(self.counters.family("publications")))
        self.assertEqual(0, self.counters.total("feed_dials"))

    def test_family_in_order(self) -> None:
        for exchange in ("okx", "coinbase", "kraken"):
            self.counters.count("feed_dials", exchange)
        self.assertEqual(["coinbase", "kraken", "okx"], [labels[0] for labels, _ in self.counters.family("feed_dials")])

    def test_unknown_family(self) -> None:
        self.assertRaises(KeyError, self.counters.count, "nonsense")
        self.assertEqual({}, self.counters.counts)

    def test_names(self) -> None:
        """They are fit to be exported, and each is explained."""
        for family, (what, labels) in FAMILIES.items():
            for name in (family, *labels):
                self.assertTrue(re.fullmatch(r"[a-z][a-z0-9_]*", name), name)
            self.assertTrue(what)
            self.assertEqual(len(set(labels)), len(labels))
