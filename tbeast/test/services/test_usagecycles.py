"""What merges for a while before it leaves: noted at each round, and recorded once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.usage import MOST_ROWS
from tbeast.services.usagecycles import (
    CYCLE_SECONDS,
    LEAVE_SECONDS,
    LONG_CYCLE_SECONDS,
    MANY_KINDS,
    MOST_KINDS,
    VERY_MANY_KINDS,
)
from tbeast.services.usagewriter import ROUND_SECONDS
from tbeast.test.services.test_usagewriter import happenings
from tbeast.test.services.usagerig import Rig
from tbeast.testing.logs import listen

MANY = MANY_KINDS + 1


class CycleCase(SynchronousTestCase):
    counts_beside = True

    def setUp(self) -> None:
        self.log = listen(self)
        self.folder = Path(self.mktemp()) / "spool"
        self.rig = Rig(self.folder, self.patch, counts_beside=self.counts_beside, takes_notes=True)
        self.store = self.rig.store
        self.writer = self.rig.start()

    @property
    def notes(self) -> list[str]:
        return [name for name in os.listdir(self.folder) if name.endswith(".notes")]

    def assertAllRecorded(self) -> None:
        self.rig.settle()
        self.assertEqual(self.rig.counted, self.store.requests)
        self.assertEqual(0, len(self.rig.ledger))
        self.rig.count()  # the next sync is after this
        self.rig.advance(1.2)
        self.assertEqual([], self.notes)


class FewTests(CycleCase):
    def test_few_kinds_leave_at_each_round(self) -> None:
        self.rig.count_kinds(MANY_KINDS)
        self.rig.turn()
        self.assertEqual(self.rig.counted, self.store.requests)
        self.assertEqual([], self.notes)


class ManyTests(CycleCase):
    def test_they_merge_for_a_cycle(self) -> None:
        """A row a kind and cycle, whatever is asked meanwhile."""
        for _ in range(round(CYCLE_SECONDS / ROUND_SECONDS)):
            self.rig.count_kinds(MANY)
            self.rig.turn()
            self.assertEqual(0, self.store.requests)
        self.assertEqual(1, len(self.notes))
        self.rig.turn()
        self.assertEqual(MANY, sum(len(one.rows) for one in self.store.batches.values()))
        self.assertAllRecorded()

    def test_very_many_merge_for_longer(self) -> None:
        for _ in range(round(LONG_CYCLE_SECONDS / ROUND_SECONDS)):
            self.rig.count(7, asset="A1")
            self.rig.count_kinds(VERY_MANY_KINDS + 1 if self.rig.counted == 7 else 0)
            self.rig.turn()
            self.assertEqual(0, self.store.requests)
        self.rig.turn()
        self.assertEqual(VERY_MANY_KINDS + 1, sum(len(one.rows) for one in self.store.batches.values()))
        self.assertAllRecorded()

    def test_the_next_cycle_begins_while_one_leaves(self) -> None:
        """Its rows merge all the same."""
        self.rig.count_kinds(3 * MANY)
        self.rig.turn()
        self.rig.advance(CYCLE_SECONDS)
        self.assertEqual(1, len(self.writer._ending))
        for _ in range(4):
            self.rig.count_kinds(MANY)
            self.rig.advance(ROUND_SECONDS)
            self.assertNotEqual("", self.writer._merging[0 if self.counts_beside else -1].cycle)
        self.assertEqual(2, len(self.notes))
        self.assertEqual(3 * MANY, self.rig.settled())
        self.rig.advance(CYCLE_SECONDS)
        self.assertEqual(4 * MANY, self.rig.settled())
        self.assertAllRecorded()

    def test_it_leaves_batch_after_batch(self) -> None:
        """So that nobody waits for all of it."""
        self.rig.count_kinds(10 * MOST_ROWS)
        self.rig.turn()
        self.rig.advance(CYCLE_SECONDS)
        left = []
        for _ in range(10):
            left.append(self.writer.status.waiting_rows)
            self.rig.clock.advance(LEAVE_SECONDS)
        self.assertEqual([n * MOST_ROWS for n in range(9, -1, -1)], left)
        self.assertAllRecorded()

    def test_an_hour_ends_in_it(self) -> None:
        """Rows of the next one are others."""
        self.rig.offset += 3600 - self.rig.now() % 3600 - 1.0
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.advance(1.0)
        self.rig.count_kinds(5)
        self.rig.turn()
        self.rig.count_kinds(7)
        self.rig.advance(CYCLE_SECONDS)
        self.assertEqual(MANY + 7, self.rig.settled())
        self.assertAllRecorded()


class BesideTests(CycleCase):
    def test_what_is_counted_in_the_ledger_leaves_meanwhile(self) -> None:
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.ledger.count("beta", "lpo", "http", "BTC", "median", "shelf", 404, True, self.rig.now(), 5)
        self.rig.turn()
        self.assertEqual(1, self.store.requests)
        self.rig.counted += 1
        self.rig.advance(CYCLE_SECONDS)
        self.assertAllRecorded()

    def test_both_at_once(self) -> None:
        """Each has a cycle of its own."""
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.advance(1.0)
        self.rig.counts_beside = False
        self.rig.count_kinds(2 * MANY)
        self.rig.advance(1.0)
        self.assertEqual((2, 0), (len(self.notes), self.store.requests))
        self.rig.advance(1.5)
        self.assertEqual(MANY, self.rig.settled())
        self.rig.advance(1.0)
        self.assertEqual(3 * MANY, self.rig.settled())
        self.assertAllRecorded()

    def test_killed_with_both(self) -> None:
        self.rig.count_kinds(MANY)
        self.rig.counts_beside = False
        self.rig.count_kinds(2 * MANY)
        self.rig.turn()
        self.rig.count_kinds(7)
        self.rig.turn()
        self.rig.kill()
        self.assertEqual(2, len(self.notes))
        self.rig.start()
        self.rig.turn()
        self.assertEqual(3 * MANY, self.rig.settled())
        self.assertAllRecorded()

    def test_few_beside_come_to_the_others(self) -> None:
        """Where only the ledger's own are many, the others merge with them."""
        self.rig.counts_beside = False
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.counts_beside = True
        for _ in range(5):
            self.rig.count_kinds(20)
            self.rig.turn()
        self.assertEqual((1, 0), (len(self.notes), self.store.requests))
        self.rig.advance(CYCLE_SECONDS)
        self.assertEqual(MANY, self.rig.settled())
        self.assertAllRecorded()


class MoreTests(CycleCase):
    def test_as_many_as_there_is_room_for_end_the_cycle(self) -> None:
        self.rig.count_kinds(MOST_KINDS)
        self.rig.turn()
        self.assertAllRecorded()

    def test_the_stop_ends_it(self) -> None:
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.count_kinds(5)
        self.successResultOf(self.rig.stop())
        self.assertEqual(self.rig.counted, self.store.requests)
        self.assertEqual([], os.listdir(self.folder))

    def test_status(self) -> None:
        """Noted is recorded, as far as anybody can say."""
        for _ in range(20):
            self.rig.count_kinds(MANY)
            self.rig.turn()
        self.assertTrue(self.writer.metered)
        self.assertEqual("ok", self.writer.status.state)
        self.assertEqual(MANY, self.writer.status.waiting_rows)


class OwnManyTests(ManyTests):
    counts_beside = False


class OwnMoreTests(MoreTests):
    counts_beside = False


class KillTests(CycleCase):
    def test_what_was_noted_comes_back(self) -> None:
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.count_kinds(MANY + 50)
        self.rig.turn()
        self.rig.kill()
        self.rig.start()
        self.rig.turn()
        self.assertEqual(MANY + 50, sum(len(one.rows) for one in self.store.batches.values()))
        self.assertAllRecorded()

    def test_what_was_not_noted_is_lost_and_no_more(self) -> None:
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.count_kinds(20)
        self.rig.kill()
        self.rig.counted -= 20
        self.rig.start()
        self.rig.turn()
        self.assertAllRecorded()

    def test_what_had_left_already_counts_once(self) -> None:
        """The file is kept until the disk has confirmed the journal: so it is found, and its batches are the same."""
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.count_kinds(MANY + 700)
        self.rig.advance(CYCLE_SECONDS)
        self.rig.settle()
        kept = {name: (self.folder / name).read_bytes() for name in self.notes}
        self.assertEqual(1, len(kept))
        self.assertEqual(self.rig.counted, self.store.requests)
        batches = dict(self.store.batches)
        self.rig.advance(1.2)
        self.rig.kill()
        for name, content in kept.items():
            (self.folder / name).write_bytes(content)
        self.rig.start()  # the store refuses an id with other rows
        self.rig.turn()
        self.assertEqual(batches, self.store.batches)
        self.assertAllRecorded()

    def test_a_note_that_was_cut_off(self) -> None:
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.count_kinds(7)
        self.rig.turn()
        self.rig.kill()
        [name] = self.notes
        path = self.folder / name
        path.write_bytes(path.read_bytes()[:-10])
        self.rig.start()
        self.rig.turn()
        self.rig.counted -= 7
        self.assertEqual(1, len(self.log.having("at its end are no note")))
        self.assertAllRecorded()

    def test_a_file_that_cannot_be_read(self) -> None:
        self.rig.kill()
        (self.folder / f"usage-{'0' * 24}.notes").mkdir()
        self.rig.start()
        self.rig.count()
        self.rig.turn()
        self.assertEqual(1, len(self.log.having("cannot be read, and is passed over")))
        self.assertEqual(1, self.store.requests)


class FullTests(CycleCase):
    def test_a_disk_that_is_full(self) -> None:
        """What cannot be noted goes straight to the database."""
        self.rig.disk.full = True
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.assertEqual(self.rig.counted, self.store.requests)
        self.assertEqual(1, len(self.log.having("the journal does not take usage")))

    def test_it_gets_full_within_a_cycle(self) -> None:
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.disk.full = True
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.assertEqual(self.rig.counted, self.store.requests)
        self.rig.disk.full = False
        self.rig.count()
        self.rig.advance(3)
        self.assertAllRecorded()

    def test_notes_are_kept_while_the_database_has_not_said_yes(self) -> None:
        """What the journal did not take is in memory alone but for them."""
        self.store.mode, self.store.slow_seconds = "slow", 1e6
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.disk.full = True
        self.rig.advance(CYCLE_SECONDS + 2.5)
        self.assertEqual(1, len(self.notes))
        self.store.late.clear()  # and it never will
        self.rig.disk.full = False
        self.rig.kill()
        self.store.mode = "up"
        self.rig.start()
        self.rig.turn()
        self.assertAllRecorded()

    def test_nothing_takes_it(self) -> None:
        """Neither disk nor database: it stays in memory, and is told when it is lost."""
        self.store.mode = "away"
        self.rig.count_kinds(MANY)
        self.rig.turn()
        self.rig.disk.full = True
        for _ in range(70):
            self.rig.count_kinds(MANY)
            self.rig.turn()
        self.assertFalse(self.writer.metered)
        self.store.mode, self.rig.disk.full = "up", False
        self.rig.advance(20)
        self.assertTrue(self.writer.metered)
        self.assertAllRecorded()


class OwnKillTests(KillTests):
    counts_beside = False


class OwnFullTests(FullTests):
    counts_beside = False


class ConservationTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=240)
    @given(happenings, st.sampled_from([60_000, 10**8]), st.sampled_from([3, 40, 900]), st.booleans())
    def test_whatever_happens(self, happenings: list[tuple], limit: int, many: int, beside: bool) -> None:
        """Nothing is recorded twice, and nothing is lost but what was in memory alone when a process was killed."""
        self.patch(__import__("tbeast.services.usagecycles", fromlist=["x"]), "MANY_KINDS", many)
        with tempfile.TemporaryDirectory() as folder:
            rig = Rig(Path(folder), self.patch, limit, segment=20_000, counts_beside=beside, takes_notes=True)
            rig.store.first_holds = True
            rig.start()
            lost = 0
            for what, value in happenings:
                if what == "count":
                    rig.count_kinds(value)
                elif what == "pass":
                    rig.advance(value)
                    rig.settle()
                elif what == "store":
                    rig.store.mode = value
                elif what == "disk":
                    rig.disk.full = value
                elif what == "clock":
                    rig.offset -= 7_200
                elif what == "kill":
                    alone = rig.writer._drain.unspooled
                    noted = rig.writer.status.journal_error == ""
                    if noted:
                        self.assertEqual([], alone)
                    waiting = sum(row.request_count for cycle in rig.writer._ending for row in cycle.waiting)
                    untold = rig.untold
                    own = rig.ledger.requests
                    lost += untold if noted else own + waiting + sum(one.requests for one in alone)
                    rig.kill()
                    rig.start()
                else:
                    stopped = rig.stop()
                    rig.advance(9.5)
                    self.successResultOf(stopped)
                    rig.start()
            lost += rig.counters.value("usage_lost_requests")
            rig.store.mode, rig.disk.full = "up", False
            rig.advance(30)
            rig.settle()
            rig.advance(2)
            self.assertLessEqual(rig.store.requests, rig.counted)
            self.assertGreaterEqual(rig.store.requests, rig.counted - lost, f"{happenings}, {limit}, {many}, {beside}")
            self.successResultOf(rig.stop())
            self.assertEqual([], os.listdir(folder))
