"""The usage writer: what was counted is recorded, whatever fails."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from attrs import astuple
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.usagerecords import records
from tbeast.domain.usage import BEHIND, OK, UNMETERED, Batch, Kind, Row
from tbeast.errors import StateFolderError, StoreRefusedError
from tbeast.services.usagedrain import MOST_BATCHES, MOST_ROWS
from tbeast.services.usagewriter import ROUND_SECONDS
from tbeast.test.services.usagerig import START, Rig
from tbeast.testing.logs import listen


class WriterCase(SynchronousTestCase):
    limit = 10**8
    most_kinds = 100_000
    segment = 4 * 1024 * 1024

    def setUp(self) -> None:
        self.log = listen(self)
        self.folder = Path(self.mktemp()) / "spool"
        self.rig = Rig(self.folder, self.patch, self.limit, self.most_kinds, self.segment)
        self.store = self.rig.store
        self.writer = self.rig.start()

    def assertAllRecorded(self) -> None:
        self.assertEqual(self.rig.counted, self.store.requests)
        self.assertEqual(0, len(self.rig.ledger))

    def on_disk(self) -> list[Batch]:
        data = b"".join((self.folder / name).read_bytes() for name in self.rig.spooled)
        return [found for found, _ in records(data) if isinstance(found, Batch)]


class RoundTests(WriterCase):
    def test_what_was_counted_is_written_in_the_next_round(self) -> None:
        self.rig.count(3)
        self.rig.advance(ROUND_SECONDS * 0.9)
        self.assertEqual([], self.store.calls)
        self.rig.advance(ROUND_SECONDS * 0.1)
        self.assertEqual(1, len(self.store.calls))
        self.assertAllRecorded()
        [one] = self.store.batches.values()
        self.assertEqual(
            ("node", (Row(Kind("alpha", "lpo", "http", "BTC", "median", "shelf", 200, True), START, 3, 30, 10),)),
            (one.node, one.rows),
        )

    def test_nothing_counted_asks_nobody(self) -> None:
        self.rig.advance(5)
        self.assertEqual([], self.store.calls)

    def test_it_is_on_disk_before_the_database_is_asked(self) -> None:
        seen = []
        self.store.before = lambda batches: seen.append((list(batches), self.on_disk()))
        self.rig.count(2)
        self.rig.turn()
        [(asked, on_disk)] = seen
        self.assertEqual(asked, on_disk)

    def test_what_is_settled_leaves_the_disk(self) -> None:
        self.rig.count(2)
        self.rig.turn()
        self.assertEqual([], self.on_disk())
        self.assertEqual((OK, None, 0, 0, 0, 0, "", ""), astuple(self.writer.status))

    def test_many_kinds_make_many_batches(self) -> None:
        self.rig.count_kinds(2_999)
        self.rig.advance(ROUND_SECONDS)
        self.assertEqual([10], list(map(len, self.store.calls)))
        self.assertEqual({300, 299}, {len(one.rows) for one in self.store.batches.values()})
        self.assertAllRecorded()

    def test_very_many_leave_in_parts(self) -> None:
        """So that nobody is kept waiting; but all in the same round."""
        self.rig.count_kinds(10_000)
        self.rig.advance(ROUND_SECONDS)
        self.assertEqual([10, 10, 10, 4], list(map(len, self.store.calls)))
        self.assertAllRecorded()

    def test_each_batch_has_an_id_of_its_own(self) -> None:
        for _ in range(20):
            self.rig.count_kinds(400)
            self.rig.turn()
        self.assertEqual(40, len(self.store.batches))
        self.assertEqual(sorted(self.store.batches), list(self.store.batches))
        self.assertAllRecorded()

    def test_other_rounds_and_batches(self) -> None:
        """As the parameters say, from then on; no batch is larger than a batch may be."""
        self.writer.set_round(1.0)
        self.writer.set_batch_rows(50)
        self.rig.count_kinds(120)
        self.rig.advance(ROUND_SECONDS * 5)
        self.assertEqual([], self.store.calls)
        self.rig.advance(0.5)
        self.assertEqual([50, 50, 20], [len(one.rows) for one in self.store.batches.values()])
        self.writer.set_batch_rows(10_000)
        self.rig.count_kinds(400)
        self.rig.advance(1.0)
        self.assertEqual([300, 100], [len(one.rows) for one in list(self.store.batches.values())[3:]])
        self.assertAllRecorded()

    def test_a_folder_that_another_has(self) -> None:
        self.assertRaises(StateFolderError, self.rig.start)


class AwayTests(WriterCase):
    """The database is away; the journal keeps what it does not take."""

    def test_nothing_is_lost(self) -> None:
        self.store.mode = "away"
        for _ in range(600):
            self.rig.count_kinds(3)
            self.rig.turn()
        self.assertEqual(0, self.store.requests)
        self.assertGreater(self.writer.status.spooled_batches, 590)
        self.assertTrue(self.writer.metered)
        self.store.mode = "up"
        self.rig.advance(11)
        self.assertAllRecorded()
        self.assertEqual([], self.on_disk())
        self.assertEqual(OK, self.writer.status.state)

    def test_in_order(self) -> None:
        self.store.mode = "away"
        for _ in range(50):
            self.rig.count()
            self.rig.turn()
        self.store.mode = "up"
        self.rig.advance(11)
        self.assertEqual(sorted(self.store.batches), list(self.store.batches))

    def test_it_is_asked_ever_less_often(self) -> None:
        self.store.mode = "away"
        self.rig.count()
        waits, asked = [], 0.0
        for _ in range(2_000):
            before = len(self.store.calls)
            self.rig.advance(0.05)
            if len(self.store.calls) > before:
                waits.append(round(self.rig.clock.seconds() - asked, 1))
                asked = self.rig.clock.seconds()
        self.assertEqual([0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0], waits[:8])

    def test_it_is_told_once(self) -> None:
        self.store.mode = "away"
        self.rig.count()
        self.rig.advance(30)
        status = self.writer.status
        self.assertEqual((BEHIND, 1, 1, "away", ""), (status.state, status.under_way, status.spooled_batches,
                                                      status.store_error, status.journal_error))  # fmt: skip
        self.assertAlmostEqual(START + 0.1, status.since or 0.0)
        self.store.mode = "up"
        self.rig.advance(11)
        self.assertEqual(
            ["the database does not take usage, which waits in the journal: away"], self.log.having("does not take")
        )
        self.assertEqual(1, len(self.log.having("the database takes usage again after")))

    def test_only_one_write_at_a_time_tries(self) -> None:
        self.store.mode = "away"
        for _ in range(20):
            self.rig.count_kinds(3_000)
            self.rig.turn()
        self.assertLess(len(self.store.calls), 5)

    def test_a_write_with_an_unknown_outcome(self) -> None:
        """It is asked for again, with the same ids and the same content, and counts once."""
        self.store.mode = "uncertain"
        for _ in range(30):
            self.rig.count_kinds(5)
            self.rig.turn()
        self.store.mode = "up"
        self.rig.advance(11)
        self.assertAllRecorded()

    def test_what_is_too_much_at_a_time_is_sent_in_parts(self) -> None:
        """As when a write of so many rows never ends within the time that a statement has."""
        self.store.mode = "away"
        for _ in range(4):
            self.rig.count_kinds(3_000)
            self.rig.turn()
        sizes: list[int] = []

        def before(batches: Sequence[Batch]) -> None:
            sizes.append(sum(len(one.rows) for one in batches))
            self.store.mode = "away" if sizes[-1] > 1_000 else "up"

        self.store.before = before
        self.rig.advance(60)
        self.assertAllRecorded()
        self.assertLess(min(sizes), 1_000)

    def test_a_slow_database(self) -> None:
        """Two seconds a write: what comes meanwhile goes together, three writes at a time, and memory is bounded."""
        self.store.mode = "slow"
        for _ in range(300):
            self.rig.count_kinds(20)
            self.rig.turn()
            self.assertLessEqual(self.writer.status.under_way, 100)
        self.assertLess(len(self.store.calls), 60)
        self.assertEqual(3, self.store.most_at_once)
        self.assertTrue(self.writer.metered)
        self.rig.advance(10)
        self.assertAllRecorded()


class BoundTests(WriterCase):
    segment = 200_000

    def test_memory_is_bounded_however_long_it_is_away(self) -> None:
        """In batches and in rows; the rest lies on the disk, and comes back in order."""
        self.store.mode = "away"
        most = most_rows = 0
        for step in range(1_500):
            self.rig.count_kinds(200 if step < 400 else 1)
            self.rig.turn() if step % 100 == 0 else self.rig.advance(ROUND_SECONDS)
            most = max(most, self.writer.status.under_way)
            most_rows = max(most_rows, self.writer._drain._waiting_rows + self.writer._drain._flying_rows)
        self.assertGreater(self.writer.status.spooled_batches, 1_490)
        self.assertLessEqual(most, MOST_BATCHES)
        self.assertLessEqual(most_rows, MOST_ROWS)
        self.assertGreater(len(self.rig.spooled), 3)
        self.store.mode = "up"
        self.rig.advance(20)
        self.rig.settle()
        self.assertAllRecorded()
        self.assertEqual(sorted(self.store.batches), list(self.store.batches))
        self.assertEqual(([], 1), (self.on_disk(), len(self.rig.spooled)))

    def test_away_for_ten_minutes_under_load(self) -> None:
        """Every round of them: a batch each, in order on the disk; then all of it is written, and each count once."""
        self.store.mode = "away"
        for _ in range(6_000):
            self.rig.count(3)
            self.rig.advance(ROUND_SECONDS)
        self.assertGreater(self.writer.status.spooled_batches, 5_990)
        self.assertLessEqual(self.writer.status.under_way, MOST_BATCHES)
        self.assertTrue(self.writer.metered)
        self.store.mode = "up"
        self.rig.advance(30)
        self.rig.settle()
        self.assertAllRecorded()
        self.assertEqual((OK, 0), (self.writer.status.state, self.writer.status.spooled_batches))

    def test_many_small_batches(self) -> None:
        self.store.mode = "away"
        for _ in range(1_200):
            self.rig.count()
            self.rig.advance(ROUND_SECONDS)
        self.assertEqual(MOST_BATCHES, self.writer.status.under_way)
        self.assertGreater(self.writer.status.spooled_batches, 1_190)
        self.store.mode = "up"
        self.rig.advance(20)
        self.rig.settle()
        self.assertAllRecorded()

    def test_the_ledger_keeps_to_its_bound(self) -> None:
        self.store.mode = "away"
        self.rig.disk.full = True
        self.rig.ledger._most_kinds = 100
        for _ in range(50):
            self.rig.count_kinds(500)
            self.rig.turn()
            self.assertLessEqual(len(self.rig.ledger), 101 + 500)
        self.assertLessEqual(len(self.rig.ledger), 101)
        self.store.mode, self.rig.disk.full = "up", False
        self.rig.advance(12)
        self.assertAllRecorded()


class RefusalTests(WriterCase):
    def test_refused_rows_are_counted_and_told(self) -> None:
        for _ in range(3):
            self.rig.count_kinds(2)
            self.rig.count(asset="POISON")
            self.rig.turn()
        counters = self.rig.counters
        self.assertEqual((3, 6), (counters.value("usage_rows", "refused"), counters.value("usage_rows", "settled")))
        self.assertEqual(1, len(self.log.having("the database refused 1 rows of usage")))
        self.rig.advance(60)
        self.rig.count(asset="POISON")
        self.rig.turn()
        self.assertEqual(2, len(self.log.having("the database refused 1 rows of usage")))
        self.assertEqual([], self.on_disk())

    def test_a_batch_that_nobody_understands(self) -> None:
        """It is found among the others, and set aside on the disk; they are written."""
        self.store.mode = "away"
        for _ in range(9):
            self.rig.count()
            self.rig.turn()
        bad = self.on_disk()[4]
        self.store.poisoned.add(bad.id)
        self.store.mode = "up"
        self.rig.advance(11)
        self.assertEqual(8, self.store.requests)
        self.assertNotIn(bad.id, self.store.batches)
        self.assertEqual([bad], [found for found, _ in records((self.folder / "usage.refused").read_bytes())])
        self.assertEqual(1, self.rig.counters.value("usage_batches", "set_aside"))
        self.assertEqual(1, len(self.log.having("was set aside in")))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.rig.count()
        self.rig.turn()
        self.assertEqual(9, self.store.requests)

    def test_it_waits_while_it_cannot_be_set_aside(self) -> None:
        self.rig.count()
        self.store.mode = StoreRefusedError("no such thing")
        self.rig.advance(ROUND_SECONDS * 0.9)
        self.rig.disk.full = True
        self.rig.advance(30)
        self.rig.disk.full = False
        self.store.mode = "up"
        self.rig.advance(11)
        self.assertAllRecorded()
        self.assertEqual(b"", (self.folder / "usage.refused").read_bytes())


class UnspooledTests(WriterCase):
    """The journal takes nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.rig.disk.full = True

    def test_it_goes_straight_to_the_database(self) -> None:
        for _ in range(50):
            self.rig.count_kinds(2)
            self.rig.turn()
        self.assertAllRecorded()
        self.assertEqual([], self.on_disk())
        self.assertTrue(self.writer.metered)
        self.assertEqual(1, len(self.log.having("the journal does not take usage, which goes straight")))
        self.assertIn("no space left", self.writer.status.journal_error)
        self.assertGreater(self.rig.counters.value("usage_journal_refusals", "unwritable"), 1)

    def test_and_into_the_journal_when_there_is_room_again(self) -> None:
        self.rig.count()
        self.rig.turn()
        self.rig.disk.full = False
        for _ in range(15):
            self.rig.count()
            self.rig.turn()
        self.assertAllRecorded()
        self.assertEqual("", self.writer.status.journal_error)
        self.assertEqual(1, len(self.log.having("the journal takes usage again")))

    def test_nothing_tried_is_nothing_mended(self) -> None:
        self.rig.count()
        self.rig.advance(10)
        self.assertEqual([], self.log.having("the journal takes usage again"))

    def test_what_waits_for_the_database_is_laid_down_late(self) -> None:
        self.store.mode = "uncertain"
        self.rig.count(5)
        self.rig.turn()
        self.assertEqual(([], 1), (self.on_disk(), self.writer.status.under_way))
        self.rig.disk.full = False
        self.rig.advance(2)
        self.assertEqual([5], [one.requests for one in self.on_disk()])
        self.rig.kill()
        self.store.mode = "up"
        self.rig.start()
        self.rig.turn()
        self.assertAllRecorded()

    def test_late_behind_what_is_unread(self) -> None:
        """What was in memory alone goes to the end of a journal that is still being read."""
        self.rig.disk.full = False
        self.store.mode = "away"
        self.writer._drain._wants_more = lambda: False  # type: ignore[method-assign]
        self.writer._drain.has_room = lambda batches: False  # type: ignore[method-assign]
        self.rig.count()
        self.rig.turn()
        self.assertFalse(self.rig.journal.caught_up)
        del self.writer._drain.has_room
        self.rig.disk.full = True
        self.store.mode = "uncertain"
        self.rig.count(2)
        self.rig.turn()
        self.assertEqual(1, self.writer.status.under_way)
        self.rig.disk.full = False
        self.rig.advance(2)
        self.assertEqual([1, 2], [one.requests for one in self.on_disk()])
        self.assertEqual((0, 2), (self.writer.status.under_way, self.writer.status.spooled_batches))
        del self.writer._drain._wants_more
        self.store.mode = "up"
        self.rig.advance(11)
        self.assertAllRecorded()

    def test_both_fail(self) -> None:
        """Rows stay in the ledger, where they merge; after a while there is an alarm, and an end of it."""
        self.store.mode = "away"
        for _ in range(40):
            self.rig.count_kinds(4)
            self.rig.turn()
        self.assertEqual((True, []), (self.writer.metered, self.log.having("UNMETERED")))
        for _ in range(40):
            self.rig.count_kinds(4)
            self.rig.turn()
        self.assertFalse(self.writer.metered)
        status = self.writer.status
        self.assertEqual((UNMETERED, 4, "away"), (status.state, status.waiting_rows, status.store_error))
        self.assertEqual(1, len(self.log.having("UNMETERED: neither journal nor database takes usage;")))
        self.assertEqual(1, self.rig.counters.value("usage_unmetered"))
        self.assertLess(self.writer.status.under_way, 5)
        self.rig.disk.full = False
        self.rig.advance(1.1)
        self.assertTrue(self.writer.metered)
        self.assertEqual((BEHIND, 1), (self.writer.status.state, len(self.log.having("usage is metered again"))))
        self.store.mode = "up"
        self.rig.advance(11)
        self.assertAllRecorded()

    def test_the_database_is_back_first(self) -> None:
        self.store.mode = "away"
        self.rig.count(5)
        self.rig.advance(8)
        self.assertFalse(self.writer.metered)
        self.store.mode = "up"
        self.rig.advance(11)
        self.assertTrue(self.writer.metered)
        self.assertAllRecorded()

    def test_a_brief_failure_of_both_is_no_alarm(self) -> None:
        self.store.mode = "away"
        self.rig.count(5)
        self.rig.advance(4.5)
        self.rig.disk.full = False
        self.rig.advance(5)
        self.assertTrue(self.writer.metered)
        self.assertEqual([], self.log.having("UNMETERED"))

    def test_what_cannot_be_laid_down_as_it_is(self) -> None:
        """A fault of the journal's own stops nobody."""
        self.rig.disk.full = False

        def append(batches: object, hold: bool) -> None:
            raise TypeError("bytes are no text")

        self.rig.journal.append = append  # type: ignore[method-assign]
        self.rig.count(5)
        self.rig.turn()
        self.assertAllRecorded()
        self.assertEqual(1, len(self.flushLoggedErrors(TypeError)))


class FullTests(WriterCase):
    limit = 2_000
    segment = 500

    def test_the_limit(self) -> None:
        """The oldest is kept on the disk, the newest in memory; when the database is back all of it is written."""
        self.store.mode = "away"
        for _ in range(100):
            self.rig.count(2)
            self.rig.turn()
        self.assertLessEqual(self.writer.status.spooled_bytes, 2_000)
        self.assertGreater(self.writer.status.spooled_batches, 5)
        self.assertFalse(self.writer.metered)
        self.assertIn("limit", self.writer.status.journal_error)
        self.assertGreater(self.rig.counters.value("usage_journal_refusals", "full"), 5)
        self.store.mode = "up"
        self.rig.advance(12)
        self.assertAllRecorded()
        self.assertTrue(self.writer.metered)
        ids = list(self.store.batches)
        self.assertEqual(sorted(ids), ids)


class StopTests(WriterCase):
    def test_nothing_is_left_behind(self) -> None:
        self.rig.count_kinds(7_000)
        stopped = self.rig.stop()
        self.rig.settle()
        self.successResultOf(stopped)
        self.assertAllRecorded()
        self.assertEqual([], os.listdir(self.folder))

    def test_nothing_to_do(self) -> None:
        self.successResultOf(self.rig.stop())
        self.assertEqual([], os.listdir(self.folder))
        self.assertEqual([], self.rig.clock.getDelayedCalls())

    def test_it_waits_for_what_is_under_way(self) -> None:
        self.store.mode = "slow"
        self.rig.count(3)
        self.rig.turn()
        self.rig.count(4)
        stopped = self.rig.stop()
        self.rig.advance(1.5)
        self.assertNoResult(stopped)
        self.rig.advance(1)
        self.successResultOf(stopped)
        self.assertAllRecorded()
        self.assertEqual([], os.listdir(self.folder))

    def test_the_ledger_is_closed_when_it_leaves_for_the_last_time(self) -> None:
        """Not before: what is counted while the stop waits is recorded as well."""
        self.store.mode = "slow"
        self.rig.count(3)
        stopped = self.rig.stop()
        self.rig.advance(1.5)
        self.assertFalse(self.rig.ledger.is_closed)
        self.rig.count(2)
        self.rig.advance(4.5)
        self.successResultOf(stopped)
        self.assertTrue(self.rig.ledger.is_closed)
        self.assertAllRecorded()
        self.rig.start()
        self.assertFalse(self.rig.ledger.is_closed)

    def test_a_backlog_is_written_first(self) -> None:
        self.store.mode = "away"
        for _ in range(60):
            self.rig.count_kinds(30)
            self.rig.turn()
        self.store.mode = "up"
        stopped = self.rig.stop()
        self.rig.advance(1)
        self.successResultOf(stopped)
        self.assertAllRecorded()
        self.assertEqual([], os.listdir(self.folder))

    def test_the_database_is_away(self) -> None:
        """Nobody waits for it: what is in the journal is written by the next process."""
        self.store.mode = "away"
        self.rig.count(3)
        stopped = self.rig.stop()
        self.rig.settle()
        self.successResultOf(stopped)
        self.assertEqual([3], [one.requests for one in self.on_disk()])
        self.assertEqual(1, len(self.log.having("1 batches of usage stay in the journal, for the next start")))
        self.store.mode = "up"
        self.rig.start()
        self.rig.turn()
        self.assertAllRecorded()

    def test_the_database_hangs(self) -> None:
        self.store.mode, self.store.slow_seconds = "slow", 60.0
        self.rig.count(3)
        stopped = self.rig.stop()
        self.rig.advance(7.9)
        self.assertNoResult(stopped)
        self.rig.advance(0.2)
        self.successResultOf(stopped)
        self.assertEqual([3], [one.requests for one in self.on_disk()])
        self.rig.advance(60)  # what it says now changes nothing
        self.assertEqual([3], [one.requests for one in self.on_disk()])
        self.assertEqual([], self.rig.clock.getDelayedCalls())

    def test_nobody_takes_it(self) -> None:
        self.store.mode = "away"
        self.rig.disk.full = True
        self.rig.count(3)
        self.rig.turn()
        self.rig.count(4)
        stopped = self.rig.stop()
        self.rig.advance(7.9)
        self.assertNoResult(stopped)
        self.rig.advance(0.2)
        self.successResultOf(stopped)
        self.assertEqual(7, self.rig.counters.value("usage_lost_requests"))
        self.assertEqual(1, len(self.log.having("7 requests are not recorded")))

    def test_somebody_takes_it_in_time(self) -> None:
        self.store.mode = "away"
        self.rig.disk.full = True
        self.rig.count(3)
        stopped = self.rig.stop()
        self.rig.advance(4)
        self.rig.disk.full = False
        self.rig.advance(1.2)
        self.successResultOf(stopped)
        self.assertEqual([3], [one.requests for one in self.on_disk()])

    def test_a_disk_that_hangs(self) -> None:
        self.store.mode = "away"
        self.rig.in_thread = lambda work: Deferred()
        self.rig.count(3)
        self.rig.advance(3)
        stopped = self.rig.stop()
        self.rig.advance(1.1)
        self.successResultOf(stopped)
        self.assertEqual([3], [one.requests for one in self.on_disk()])


class StartTests(WriterCase):
    def test_what_an_earlier_process_left(self) -> None:
        self.store.mode = "away"
        for _ in range(30):
            self.rig.count_kinds(10)
            self.rig.turn()
        self.rig.kill()
        self.rig.start()
        self.assertEqual(30, self.rig.writer.status.spooled_batches)
        self.rig.count()
        self.rig.turn()
        self.store.mode = "up"
        self.rig.advance(11)
        self.assertAllRecorded()
        self.assertEqual(sorted(self.store.batches), list(self.store.batches))
        self.assertEqual([], self.on_disk())

    def test_what_was_written_when_it_ended(self) -> None:
        """The database had it, and nobody lived to hear of it."""
        self.store.mode = "uncertain"
        self.rig.count(5)
        self.rig.turn()
        self.assertEqual(5, self.store.requests)
        self.rig.kill()
        self.store.mode = "up"
        self.rig.start()
        self.rig.turn()
        self.assertAllRecorded()
        self.assertEqual(2, len(self.store.calls))

    def test_the_clock_has_stepped_back(self) -> None:
        """Between two starts. What was left is written first all the same, and no id is made twice."""
        self.store.mode = "away"
        for _ in range(3):
            self.rig.count()
            self.rig.turn()
        self.rig.kill()
        self.rig.offset -= 86_400
        self.rig.start()
        for _ in range(3):
            self.rig.count()
            self.rig.turn()
        self.store.mode = "up"
        self.rig.advance(11)
        self.assertAllRecorded()
        ids = list(self.store.batches)
        self.assertEqual(6, len(ids))
        self.assertEqual(ids, [*sorted(ids)[3:], *sorted(ids)[:3]])


class TellingTests(WriterCase):
    def test_what_keys_have_used(self) -> None:
        self.rig.count(3)
        self.rig.count(2, key_id="beta")
        self.rig.count(key_id="", status=401, admitted=False)
        self.rig.turn()
        self.assertEqual([{"alpha": ("2026-11", 3), "beta": ("2026-11", 2)}], self.rig.heard)
        december = 1_796_083_200.0
        self.assertEqual([({"alpha": 3, "beta": 2}, "2026-11", december)], self.rig.cache.told)

    def test_the_cache_is_away(self) -> None:
        """The newest is kept for later, and nobody fails."""
        self.rig.cache.away = True
        for _ in range(5):
            self.rig.count()
            self.rig.count(key_id="beta")
            self.rig.turn()
        self.assertAllRecorded()
        self.assertEqual(1, len(self.log.having("the shared cache is not told what keys have used: away")))
        self.assertGreater(self.rig.counters.value("usage_counter_failures"), 3)
        self.rig.cache.away = False
        self.rig.advance(1)
        self.assertEqual([{"alpha": 5, "beta": 5}], [used for used, _, _ in self.rig.cache.told])
        self.assertEqual(1, len(self.log.having("the shared cache is told again")))

    def test_a_slow_cache_is_told_the_newest(self) -> None:
        waiting = self.rig.cache.waiting = []
        for _ in range(5):
            self.rig.count()
            self.rig.turn()
        self.assertEqual([{"alpha": 1}], [used for used, _, _ in self.rig.cache.told])
        waiting[0].callback(None)
        self.rig.advance(1)
        self.assertEqual([{"alpha": 1}, {"alpha": 5}], [used for used, _, _ in self.rig.cache.told])

    def test_a_month_that_is_over(self) -> None:
        self.rig.offset += 30 * 86_400
        self.rig.count()
        self.rig.turn()
        self.assertEqual(([{"alpha": ("2026-11", 1)}], []), (self.rig.heard, self.rig.cache.told))

    def test_a_listener_that_fails(self) -> None:
        class Deaf(list):
            def append(self, _usage: object) -> None:
                raise ValueError("deaf")

        self.rig.heard = Deaf()
        self.rig.count()
        self.rig.turn()
        self.rig.count()
        self.rig.turn()
        self.assertAllRecorded()
        self.assertEqual({"alpha": 2}, self.rig.cache.used)
        self.assertEqual(2, len(self.flushLoggedErrors(ValueError)))


class SyncTests(WriterCase):
    def setUp(self) -> None:
        super().setUp()
        self.store.mode = "away"
        self.synced = 0
        self.fails = False

        def in_thread(work: object) -> Deferred[None]:
            self.synced += 1
            if self.fails:
                return fail(OSError(5, "input/output error"))
            return Deferred.fromCoroutine(self.done(work))

        self.rig.in_thread = in_thread

    async def done(self, work: object) -> None:
        work()  # type: ignore[operator]

    def test_once_a_second_while_there_is_something(self) -> None:
        for _ in range(50):
            self.rig.count()
            self.rig.turn()
        self.assertIn(self.synced, (4, 5, 6))
        self.rig.advance(1)
        synced = self.synced
        self.rig.advance(5)
        self.assertEqual(synced, self.synced)

    def test_a_disk_that_does_not_confirm(self) -> None:
        self.fails = True
        for _ in range(30):
            self.rig.count()
            self.rig.turn()
        self.assertIn(self.synced, (2, 3, 4))
        self.assertEqual(self.synced, self.rig.counters.value("usage_journal_sync_failures"))
        self.assertEqual(1, len(self.log.having("the disk does not confirm what the journal has written")))
        self.assertIn(len(self.rig.spooled), (self.synced, self.synced + 1))
        self.fails = False
        self.rig.count()
        self.rig.advance(1)
        self.assertEqual(1, len(self.log.having("the disk confirms again")))
        self.store.mode = "up"
        self.rig.advance(11)
        self.assertAllRecorded()


happenings = st.lists(
    st.one_of(
        st.tuples(st.just("count"), st.integers(1, 700)),
        st.tuples(st.just("pass"), st.sampled_from([0.05, 0.1, 0.3, 1.0, 3.0, 12.0])),
        st.tuples(st.just("store"), st.sampled_from(["up", "away", "uncertain", "slow"])),
        st.tuples(st.just("disk"), st.booleans()),
        st.tuples(st.sampled_from(["kill", "stop", "clock"]), st.just(0)),
    ),
    max_size=25,
)


class ConservationTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=120)
    @given(happenings, st.sampled_from([3_000, 60_000, 10**8]), st.integers(5, 500))
    def test_whatever_happens(self, happenings: list[tuple], limit: int, most_kinds: int) -> None:
        """What is recorded in the end is what was counted, less what was in memory alone when a process was killed.

        What was counted longer ago than one round is in memory alone only while the journal takes nothing.
        """
        with tempfile.TemporaryDirectory() as folder:
            rig = Rig(Path(folder), self.patch, limit, most_kinds, segment=20_000)
            rig.start()
            lost = lost_in_stops = 0
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
                    unsaved = [one for one in rig.writer._drain.unspooled if one.id not in rig.store.batches]
                    if rig.writer.status.journal_error == "":
                        self.assertEqual([], unsaved)
                    on_the_way = {one.id for batches in rig.store.late.values() for one in batches}
                    lost += sum(one.requests for one in unsaved if one.id not in on_the_way) + rig.ledger.requests
                    rig.kill()
                    rig.start()
                else:
                    stopped = rig.stop()
                    rig.advance(9.5)
                    self.successResultOf(stopped)
                    told = rig.counters.value("usage_lost_requests")
                    lost, lost_in_stops = lost + told - lost_in_stops, told
                    rig.start()
            rig.store.mode, rig.disk.full = "up", False
            rig.advance(30)
            rig.settle()
            rig.advance(1)
            # what a hung stop gave up may have been written after all
            self.assertLessEqual(rig.counted - lost, rig.store.requests)
            self.assertLessEqual(rig.store.requests, rig.counted)
            if not rig.counters.value("usage_lost_requests"):
                self.assertEqual(rig.counted - lost, rig.store.requests, f"{happenings}, {limit}, {most_kinds}")
            self.successResultOf(rig.stop())
            self.assertEqual([], os.listdir(folder))
