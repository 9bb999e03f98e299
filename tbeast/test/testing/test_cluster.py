"""How a cluster is laid out; that it runs is tested in L{tbeast.test.integration.test_cluster}."""

from __future__ import annotations

import os
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from tbeast.settings import environment_layer, load
from tbeast.testing.cluster import CACHE, DATABASE, SAME_PORTS, Cluster, ClusterError, Options, Places


class PlacesTests(SynchronousTestCase):
    def test_from_a_base(self) -> None:
        """Valkey first, and each node on the next ten."""
        places = Places.from_base(18_000, 2)
        self.assertEqual(18_000, places.valkey)
        self.assertEqual(
            [[18_010, 18_011, 18_012, 18_013, 18_014], [18_020, 18_021, 18_022, 18_023, 18_024]], places.nodes
        )

    def test_no_room(self) -> None:
        self.assertEqual(65_529, Places.from_base(65_435, 9).nodes[-1][-1])
        for base, nodes in ((65_436, 9), (80, 3), (18_000, 0), (18_000, 10)):
            self.assertRaises(ClusterError, Places.from_base, base, nodes)

    def test_anywhere(self) -> None:
        places = Places.anywhere(3)
        ports = [places.valkey, *(port for node in places.nodes for port in node)]
        self.assertEqual(1 + 3 * len(SAME_PORTS), len(set(ports)))


class ClusterTests(SynchronousTestCase):
    def setUp(self) -> None:
        # what the operator has set for a daemon of his own is not meant for these
        set_before = {"AURORA_URL": "db.example", "TBEAST_KRAKEN_WS_URL": "wss://k.example", "PGHOST": "elsewhere"}
        self.patch(os, "environ", {**os.environ, **set_before})
        options = Options(
            Path("cluster"), Places.from_base(18_000, 3), "a-key-for-all-nodes", "an-admin-key-of-theirs",
            settings={"TBEAST_WORKERS": "2"},
        )  # fmt: skip
        self.cluster = Cluster(options, reactor, time.time)

    def test_what_it_is_made_of(self) -> None:
        self.assertEqual([DATABASE, CACHE, "node1", "node2", "node3"], list(self.cluster.parts))
        self.assertFalse(self.cluster.serving)
        self.assertIsNone(self.cluster.node(CACHE))

    def test_the_settings_of_the_daemons(self) -> None:
        """They are sound; what is shared is the same for all, and what must differ does."""
        found = [load([environment_layer(node.kept.environ)]) for node in self.cluster.nodes]
        for settings in found:
            self.assertTrue(settings.simulated)
            self.assertEqual(("redis://127.0.0.1:18000", 3, 2, "127.0.0.1"), (
                settings.cache_url, settings.cluster_nodes, settings.workers, settings.listen,
            ))  # fmt: skip
            self.assertEqual("a-key-for-all-nodes", settings.keys[0].key)
            self.assertEqual(1, settings.lab_seed)
            self.assertIsNone(settings.aurora_url)
        self.assertEqual(["node1", "node2", "node3"], [settings.cluster_node for settings in found])
        self.assertEqual(3, len({settings.state for settings in found}))
        self.assertEqual([18_010, 18_020, 18_030], [settings.tcp_port_lpo for settings in found])
        self.assertEqual([18_010, 18_020, 18_030], [settings.udp_port_lpo for settings in found])

    def test_nothing_secret_on_a_command_line(self) -> None:
        for kept in self.cluster.parts.values():
            self.assertNotIn("PGHOST", kept.environ)
            for word in kept.command:
                self.assertNotIn("a-key-for-all-nodes", word)
                self.assertNotIn("an-admin-key-of-theirs", word)
