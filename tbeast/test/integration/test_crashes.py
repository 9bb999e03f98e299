"""kill -9 of the daemon at random moments under load: at most the last round of counting is lost."""

from __future__ import annotations

from pathlib import Path
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tbeast.test.integration.crashes import trial
from tbeast.testing.postgres import own_server

KILLS = 5
LOST_AT_MOST_MS = 400.0
"""The round comes every 100 ms; on a machine that has no time for it, it comes later."""


class CrashTests(SynchronousTestCase):
    def test_killed_under_load(self) -> None:
        """What is not recorded was answered just before the end; nothing is recorded that was not asked."""
        server = own_server(self)
        folder = Path(self.mktemp())
        folder.mkdir()
        lives = trial(folder, server.url(), KILLS, Random(7))
        self.assertEqual(KILLS, len(lives))
        for life in lives:
            self.assertGreater(len(life.answered), 10)
            self.assertGreater(life.recorded, 0)
            self.assertLessEqual(life.lost_ms, LOST_AT_MOST_MS)
            # answers under way at the end were recorded and never came
            self.assertLessEqual(life.recorded, len(life.answered) + 200)
