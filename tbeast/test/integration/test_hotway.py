"""What breaks in between the parts of the hot way: notes, journal and database after a sudden end."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbeast.services.usagecycles import CYCLE_SECONDS, MANY_KINDS
from tbeast.test.services.usagerig import Rig

MANY = MANY_KINDS + 1


class NotedAndSpooledTests(SynchronousTestCase):
    """Rows that an earlier process has both noted and laid down in its journal when it ended."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()) / "spool"
        self.rig = Rig(self.folder, self.patch, counts_beside=True)
        self.rig.start()

    def end_after_a_cycle(self) -> None:
        """The process ends when a cycle's rows are in the journal, not yet in the database, and still noted."""
        self.rig.store.mode = "away"
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.count_kinds(MANY)
        noted: dict[str, bytes] = {}
        for _ in range(round(CYCLE_SECONDS / 0.1) + 1):
            noted |= {name: (self.folder / name).read_bytes() for name in self.rig.spooled if name.endswith(".notes")}
            self.rig.turn()
        self.rig.kill()
        self.assertTrue(self.rig.spooled)
        for name, content in noted.items():  # as if the disk had not confirmed the journal yet
            (self.folder / name).write_bytes(content)

    def test_nothing_stays_in_the_journal(self) -> None:
        self.end_after_a_cycle()
        self.rig.store.mode = "slow"
        self.rig.start()
        for _ in range(10):
            self.rig.advance(1.0)
            self.rig.settle()
        self.assertEqual(self.rig.counted, self.rig.store.requests)
        self.assertEqual(0, self.rig.journal.batches)
        self.rig.count()
        self.rig.advance(5.0)
        self.successResultOf(self.rig.stop())
        self.assertEqual(self.rig.counted, self.rig.store.requests)
        self.assertEqual([], os.listdir(self.folder))
