"""The journal, on a real folder."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.spool import files
from tbeast.adapters.spool import journal as module
from tbeast.adapters.spool.journal import Journal
from tbeast.codecs.usagerecords import encode, records
from tbeast.domain.counters import Counters
from tbeast.domain.usage import FULL, UNWRITABLE, Batch, Kind, Row
from tbeast.errors import StateFolderError
from tbeast.testing.logs import listen

LIMIT = 10_000_000
ROW = Row(Kind("key", "lpo", "http", "BTC", "median", "shelf", 200, True), 1_795_348_800.5, 3, 100, 50)


def batch(number: int) -> Batch:
    return Batch(f"{number:024x}", "node", (ROW,))


def batches(*numbers: int) -> list[Batch]:
    return [batch(number) for number in numbers]


def numbers(found: list[Batch]) -> list[int]:
    return [int(one.id, 16) for one in found]


SIZE = len(encode(batch(1)))


class FaultyOs:
    """The module C{os}, with calls that can be made to go wrong."""

    def __init__(self) -> None:
        self.faults: dict[str, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return self.faults.get(name, getattr(os, name))

    def fails(self, name: str, code: int) -> None:
        def fail(*_args: object, **_kwargs: object) -> None:
            raise OSError(code, os.strerror(code))

        self.faults[name] = fail

    def fills(self, room: int) -> None:
        """Let writes succeed for so many bytes more; then the disk is full."""

        def write(fd: int, data: bytes) -> int:
            nonlocal room
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = os.write(fd, data[:room])
            room -= written
            return written

        self.faults["write"] = write


class JournalCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()) / "spool"
        self.counters = Counters()
        self.log = listen(self)
        self.os = FaultyOs()
        for part in (files, module):
            self.patch(part, "os", self.os)

    def journal(self, limit: int = LIMIT, segment: int = 10 * SIZE) -> Journal:
        """The journal of a process; of those before it, it is as if they were killed."""
        opened = Journal(self.folder, limit, self.counters, segment)
        opened.open()
        return opened

    def killed(self, journal: Journal) -> None:
        """What a SIGKILL does: nothing but close what is open."""
        for fd in (journal._fd, journal._lock):
            if fd is not None and fd >= 0:
                os.close(fd)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name != "lock")

    def content(self, name: str) -> list[int]:
        return numbers([found for found, _ in records((self.folder / name).read_bytes()) if isinstance(found, Batch)])


class LifeTests(JournalCase):
    def test_in_order(self) -> None:
        journal = self.journal()
        self.assertIsNone(journal.append(batches(1, 2), hold=False))
        self.assertIsNone(journal.append(batches(3), hold=False))
        self.assertEqual((3, 3 * SIZE, False), (journal.batches, journal.size_bytes, journal.caught_up))
        self.assertEqual([1, 2], numbers(journal.read(2)))
        self.assertEqual([3], numbers(journal.read(2)))
        self.assertEqual(([], True, 3), (journal.read(2), journal.caught_up, journal.batches))

    def test_what_is_held_is_not_read(self) -> None:
        journal = self.journal()
        journal.append(batches(1), hold=True)
        self.assertTrue(journal.caught_up)
        journal.append(batches(2), hold=False)
        self.assertEqual([2], numbers(journal.read(9)))

    def test_nothing_is_held_after_what_is_unread(self) -> None:
        """It would be written before what came before it, and the reader would pass it over."""
        journal = self.journal()
        journal.append(batches(1), hold=False)
        self.assertRaises(ValueError, journal.append, batches(2), hold=True)

    def test_settled_in_any_order(self) -> None:
        journal = self.journal()
        journal.append(batches(1, 2, 3), hold=True)
        journal.settled([batch(3).id, batch(1).id, "unknown"])
        self.assertEqual((1, 3 * SIZE), (journal.batches, journal.size_bytes))
        journal.settled([batch(2).id, batch(2).id])
        self.assertEqual((0, 0), (journal.batches, journal.size_bytes))

    def test_steady_state_leaves_one_small_file(self) -> None:
        journal = self.journal()
        for number in range(100):
            journal.append(batches(number), hold=True)
            journal.settled([batch(number).id])
        self.assertEqual(["usage-0000000001.journal"], self.files())
        self.assertEqual(0, (self.folder / self.files()[0]).stat().st_size)

    def test_segments_leave_as_they_are_settled(self) -> None:
        journal = self.journal(segment=2 * SIZE)
        for number in range(1, 7):
            journal.append(batches(number), hold=True)
        self.assertEqual([[1, 2], [3, 4], [5, 6]], [self.content(name) for name in self.files()])
        journal.settled([batch(number).id for number in (3, 4, 1)])
        self.assertEqual([[1, 2], [5, 6]], [self.content(name) for name in self.files()])
        journal.settled([batch(number).id for number in (2, 5, 6)])
        self.assertEqual([[]], [self.content(name) for name in self.files()])

    def test_a_clean_end_leaves_nothing(self) -> None:
        journal = self.journal()
        journal.append(batches(1), hold=True)
        journal.settled([batch(1).id])
        journal.close()
        self.assertEqual([], os.listdir(self.folder))

    def test_an_end_before_all_is_settled_leaves_it(self) -> None:
        journal = self.journal()
        journal.append(batches(1, 2), hold=True)
        journal.settled([batch(1).id])
        journal.close()
        journal = self.journal()
        self.assertEqual([1, 2], numbers(journal.read(9)))

    def test_nobody_else_may_read_it(self) -> None:
        self.folder.mkdir(0o755, parents=True)
        self.journal().append(batches(1), hold=True)
        modes = [path.stat().st_mode & 0o777 for path in (self.folder, self.folder / self.files()[0])]
        self.assertEqual([0o700, 0o600], modes)


class ReplayTests(JournalCase):
    def test_earlier_processes_first(self) -> None:
        for number in (1, 2, 3):
            journal = self.journal()
            journal.append(batches(number * 10, number * 10 + 1), hold=not journal.batches)
            self.killed(journal)
        journal = self.journal()
        self.assertEqual((6, False), (journal.batches, journal.caught_up))
        journal.append(batches(40), hold=False)
        found = journal.read(3) + journal.read(99)
        self.assertEqual([10, 11, 20, 21, 30, 31, 40], numbers(found))
        journal.settled([one.id for one in found])
        self.assertEqual([0], [(self.folder / name).stat().st_size for name in self.files()])
        self.assertEqual(1, len(self.log.having("6 batches of usage were left here")))

    def test_what_was_settled_may_come_again_and_nothing_else(self) -> None:
        journal = self.journal()
        journal.append(batches(1, 2), hold=True)
        journal.settled([batch(1).id])
        self.killed(journal)
        self.assertEqual([1, 2], numbers(self.journal().read(9)))

    def test_a_new_segment_is_never_an_old_one(self) -> None:
        """Not even if only damaged ones are left, and whatever the clock said when they were made."""
        self.folder.mkdir(parents=True)
        (self.folder / "usage-0000000041.damaged").write_bytes(b"x")
        self.journal().append(batches(1), hold=True)
        self.assertIn("usage-0000000042.journal", self.files())

    def test_numbers_that_have_grown_long(self) -> None:
        """A file that somebody put here may have the last number of ten digits: what comes after it is found again."""
        self.folder.mkdir(parents=True)
        (self.folder / "usage-9999999999.journal").write_bytes(encode(batch(1)))
        first = self.journal()
        self.assertIsNone(first.append(batches(2), hold=False))
        first.close()
        second = self.journal()
        self.assertEqual([1, 2], numbers(second.read(10)))

    def test_an_empty_one_is_removed(self) -> None:
        journal = self.journal()
        journal.append(batches(1), hold=True)
        journal.settled([batch(1).id])
        self.killed(journal)
        self.assertEqual(1, len(self.files()))
        self.journal()
        self.assertEqual([], self.files())

    def test_a_long_journal_is_read_in_stretches(self) -> None:
        """With one record longer than a stretch in the midst."""
        self.patch(module, "READ_BYTES", 3 * SIZE)
        journal = self.journal(segment=LIMIT)
        long = Batch(f"{50:024x}", "node", (ROW,) * 100)
        journal.append([*batches(*range(50)), long, *batches(*range(51, 100))], hold=False)
        found = []
        while part := journal.read(7):
            self.assertLessEqual(len(part), 7)
            found += part
        self.assertEqual(list(range(100)), numbers(found))
        self.assertEqual(long, found[50])

    def test_the_same_batch_in_two_places(self) -> None:
        """As when somebody copies a segment: it is read once, and both segments leave."""
        journal = self.journal()
        journal.append(batches(1), hold=True)
        self.killed(journal)
        shutil.copy(self.folder / self.files()[0], self.folder / "usage-0000000009.journal")
        journal = self.journal()
        self.assertEqual([1], numbers(journal.read(9)))
        journal.settled([batch(1).id])
        self.assertEqual(([], 0), (self.files(), journal.batches))


class BrokenTests(JournalCase):
    def left(self, *changes: Callable[[bytes], bytes]) -> None:
        """A segment that a process left, and what has become of it."""
        journal = self.journal()
        journal.append(batches(1, 2, 3), hold=True)
        self.killed(journal)
        path = self.folder / self.files()[0]
        for change in changes:
            path.write_bytes(change(path.read_bytes()))

    def test_cut_off(self) -> None:
        self.left(lambda data: data[: -SIZE // 2])
        journal = self.journal()
        self.assertEqual([1, 2], numbers(journal.read(9)))
        self.assertEqual((True, 2), (journal.caught_up, journal.batches))
        self.assertEqual(2 * SIZE, (self.folder / self.files()[0]).stat().st_size)
        self.assertEqual(1, len(self.log.having("the last record was cut off")))
        self.assertEqual(1, self.counters.value("usage_journal_cut_off"))
        journal.settled([batch(1).id, batch(2).id])
        self.assertEqual([], self.files())

    def test_cut_off_before_the_first_record_ended(self) -> None:
        self.left(lambda data: data[:10])
        journal = self.journal()
        self.assertEqual(([], 0, 0), (journal.read(9), journal.batches, journal.size_bytes))
        self.assertEqual([], self.files())

    def test_a_tail_of_zeros(self) -> None:
        """What a loss of power may leave."""
        self.left(lambda data: data + bytes(5000))
        self.assertEqual([1, 2, 3], numbers(self.journal().read(9)))
        self.assertEqual(1, self.counters.value("usage_journal_cut_off"))

    def test_damaged_in_the_middle(self) -> None:
        self.left(lambda data: data[: SIZE + 50] + b"?" + data[SIZE + 51 :])
        journal = self.journal()
        self.assertEqual([1, 3], numbers(journal.read(9)))
        self.assertEqual(1, self.counters.value("usage_journal_damaged"))
        self.assertEqual(1, len(self.log.having(f"the record at byte {SIZE} is damaged: its checksum does not agree")))
        self.assertEqual(2, journal.batches)
        journal.settled([batch(1).id, batch(3).id])
        self.assertEqual(["usage-0000000001.damaged"], self.files())
        self.assertEqual(0, journal.size_bytes)

    def test_nothing_in_it_is_a_record(self) -> None:
        self.left(lambda data: b"hello\nworld\n")
        journal = self.journal()
        self.assertEqual([], journal.read(9))
        self.assertEqual((["usage-0000000001.damaged"], 0), (self.files(), journal.batches))

    def test_damaged_while_we_run(self) -> None:
        journal = self.journal()
        journal.append(batches(1, 2), hold=False)
        path = self.folder / self.files()[0]
        with path.open("r+b") as file:
            file.write(b"?")
        self.assertEqual([2], numbers(journal.read(9)))
        journal.append(batches(3), hold=True)
        journal.settled([batch(2).id, batch(3).id])
        self.assertEqual(["usage-0000000001.damaged"], self.files())
        self.assertIsNone(journal.append(batches(4), hold=True))
        self.assertEqual([4], self.content("usage-0000000002.journal"))

    def test_what_cannot_be_read_is_passed_over(self) -> None:
        self.left()
        os.rename(self.folder / self.files()[0], self.folder / "usage-0000000003.journal")
        (self.folder / "usage-0000000002.journal").mkdir()
        journal = self.journal()
        self.assertEqual([1, 2, 3], numbers(journal.read(9)))
        self.assertEqual(1, len(self.log.having("cannot be read, and is passed over")))
        self.assertEqual(["usage-0000000002.damaged", "usage-0000000003.journal"], self.files())

    def test_a_broken_disk_under_what_is_read(self) -> None:
        self.left()
        journal = self.journal()
        journal.append(batches(4), hold=False)
        read_at = []

        def pread(fd: int, length: int, place: int) -> bytes:
            read_at.append(place)
            if len(read_at) == 1:
                raise OSError(errno.EIO, "input/output error")
            return os.pread(fd, length, place)

        self.os.faults["pread"] = pread
        self.assertEqual([4], numbers(journal.read(9)))
        self.assertEqual(1, len(self.log.having("passed over with about 3 batches: input/output error")))

    def test_somebody_cuts_a_file_that_is_to_be_read(self) -> None:
        self.left()
        journal = self.journal()
        os.truncate(self.folder / self.files()[0], SIZE)
        self.assertEqual([1], numbers(journal.read(9)))
        self.assertTrue(journal.caught_up)


class LimitTests(JournalCase):
    def test_the_oldest_is_kept(self) -> None:
        journal = self.journal(limit=3 * SIZE, segment=SIZE)
        self.assertIsNone(journal.append(batches(1, 2), hold=True))
        refusal = journal.append(batches(3, 4), hold=True)
        assert refusal is not None
        self.assertEqual(FULL, refusal.reason)
        self.assertIn("limit", refusal.detail)
        self.assertIsNone(journal.append(batches(3), hold=True))
        self.assertIsNotNone(journal.append(batches(4), hold=True))
        self.assertEqual([[1, 2], [3]], [self.content(name) for name in self.files()])

    def test_room_again(self) -> None:
        journal = self.journal(limit=2 * SIZE, segment=SIZE)
        journal.append(batches(1), hold=True)
        journal.append(batches(2), hold=True)
        self.assertIsNotNone(journal.append(batches(3), hold=True))
        journal.settled([batch(1).id])
        self.assertIsNone(journal.append(batches(3), hold=True))

    def test_what_others_left_counts(self) -> None:
        journal = self.journal()
        journal.append(batches(1, 2), hold=True)
        self.killed(journal)
        self.assertIsNotNone(self.journal(limit=2 * SIZE).append(batches(3), hold=False))


class FaultTests(JournalCase):
    def unwritable(self, journal: Journal, *added: int) -> str:
        refusal = journal.append(batches(*added), hold=journal.caught_up)
        assert refusal is not None
        self.assertEqual(UNWRITABLE, refusal.reason)
        return refusal.detail

    def test_disk_full_leaves_no_half_record(self) -> None:
        for room in (0, 1, SIZE - 1, SIZE, SIZE + 7):
            journal = self.journal()
            journal.append(batches(1), hold=True)
            self.os.fills(room)
            self.assertIn("no space left", self.unwritable(journal, 2, 3))
            self.assertEqual([SIZE], [(self.folder / name).stat().st_size for name in self.files()])
            self.os.faults.clear()
            self.assertIsNone(journal.append(batches(2, 3), hold=True))
            self.assertEqual([[1, 2, 3]], [self.content(name) for name in self.files()])
            journal.settled([batch(number).id for number in (1, 2, 3)])
            journal.close()

    def test_what_cannot_be_cut_back_ends_its_segment(self) -> None:
        journal = self.journal()
        journal.append(batches(1), hold=False)
        self.os.fills(SIZE // 2)
        self.os.fails("ftruncate", errno.EIO)
        self.unwritable(journal, 2)
        self.os.faults.clear()
        self.assertIsNone(journal.append(batches(2), hold=False))
        self.assertEqual([1, 2], numbers(journal.read(9)))
        self.killed(journal)
        self.assertEqual([1, 2], numbers(self.journal().read(9)))

    def test_a_broken_disk(self) -> None:
        journal = self.journal()
        self.os.fails("write", errno.EIO)
        self.assertIn("input/output error", self.unwritable(journal, 1))
        self.os.faults.clear()
        self.assertIsNone(journal.append(batches(1), hold=True))

    def test_a_disk_that_has_become_read_only(self) -> None:
        journal = self.journal(segment=SIZE)
        journal.append(batches(1), hold=True)
        self.os.fails("open", errno.EROFS)
        self.assertIn("read-only", self.unwritable(journal, 2))
        self.os.faults.clear()
        self.assertIsNone(journal.append(batches(2), hold=True))

    def test_the_folder_is_gone(self) -> None:
        """What was in the open segment is laid down again, with what comes."""
        journal = self.journal()
        journal.append(batches(1, 2), hold=True)
        shutil.rmtree(self.folder)
        self.assertIsNone(journal.append(batches(3), hold=True))
        self.assertEqual([[1, 2, 3]], [self.content(name) for name in self.files()])
        self.assertEqual(1, len(self.log.having("somebody has removed this folder")))
        self.assertRaises(StateFolderError, self.journal)
        journal.settled([batch(number).id for number in (1, 2, 3)])
        journal.close()
        self.assertEqual([], os.listdir(self.folder))

    def test_the_folder_is_gone_with_what_nobody_has_read(self) -> None:
        journal = self.journal(segment=SIZE)
        for number in (1, 2, 3):
            journal.append(batches(number), hold=False)
        shutil.rmtree(self.folder)
        journal.append(batches(4), hold=False)
        self.assertEqual([3, 4], numbers(journal.read(9)))
        self.assertEqual(2, len(self.log.having("passed over with about 1 batches")))

    def test_the_folder_cannot_be_made_again(self) -> None:
        journal = self.journal()
        journal.append(batches(1), hold=True)
        shutil.rmtree(self.folder)
        self.folder.write_text("in the way")
        self.unwritable(journal, 2)
        self.folder.unlink()
        self.assertIsNone(journal.append(batches(2), hold=True))
        self.assertEqual([[1, 2]], [self.content(name) for name in self.files()])

    def test_somebody_takes_the_file_away(self) -> None:
        journal = self.journal()
        journal.append(batches(1), hold=True)
        (self.folder / self.files()[0]).unlink()
        self.assertIsNone(journal.append(batches(2), hold=True))
        self.assertEqual([[1, 2]], [self.content(name) for name in self.files()])

    def test_a_folder_that_cannot_be_used_stops_the_start(self) -> None:
        self.folder.parent.mkdir(parents=True)
        self.folder.write_text("in the way")
        error = self.assertRaises(StateFolderError, self.journal)
        self.assertIn(str(self.folder), str(error))

    def test_a_full_disk_does_not_stop_the_start(self) -> None:
        self.os.fails("makedirs", errno.ENOSPC)
        journal = self.journal()
        self.unwritable(journal, 1)
        self.os.faults.clear()
        self.assertIsNone(journal.append(batches(1), hold=True))

    def test_a_file_that_cannot_be_emptied(self) -> None:
        journal = self.journal()
        journal.append(batches(1), hold=True)
        self.os.fails("ftruncate", errno.EIO)
        journal.settled([batch(1).id])
        self.assertEqual(([], 0), (self.files(), journal.size_bytes))
        self.assertIsNone(journal.append(batches(2), hold=True))

    def test_a_file_that_cannot_be_removed(self) -> None:
        journal = self.journal(segment=SIZE)
        journal.append(batches(1), hold=True)
        journal.append(batches(2), hold=True)
        self.os.fails("unlink", errno.EIO)
        journal.settled([batch(1).id])
        self.assertEqual((1, SIZE), (journal.batches, journal.size_bytes))

    def test_set_aside(self) -> None:
        journal = self.journal()
        self.assertTrue(journal.set_aside(batch(1), "nobody knows it"))
        self.assertTrue(journal.set_aside(batch(2), "nobody knows it"))
        self.assertEqual([1, 2], self.content("usage.refused"))
        self.assertEqual(2, len(self.log.having("nobody knows it")))
        self.os.fills(SIZE // 2)
        self.assertFalse(journal.set_aside(batch(3), "nobody knows it"))
        self.assertEqual(2 * SIZE, (self.folder / "usage.refused").stat().st_size)
        self.assertEqual([], self.journal_after(journal).read(9))

    def journal_after(self, journal: Journal) -> Journal:
        journal.close()
        return self.journal()


class SyncTests(JournalCase):
    def setUp(self) -> None:
        super().setUp()
        self.synced: list[str] = []
        self.os.faults["fdatasync"] = lambda fd: self.synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)

    def sync(self, journal: Journal) -> list[str]:
        work = journal.unsynced()
        if work is not None:
            work()
        synced, self.synced = self.synced, []
        return sorted(synced)

    def test_what_was_written_since(self) -> None:
        journal = self.journal(segment=2 * SIZE)
        self.assertEqual(["spool"], self.sync(journal))
        journal.append(batches(1), hold=True)
        self.assertEqual(["spool", "usage-0000000001.journal"], self.sync(journal))
        self.assertEqual([], self.sync(journal))
        journal.append(batches(2), hold=True)
        self.assertEqual(["usage-0000000001.journal"], self.sync(journal))
        journal.append(batches(3), hold=True)
        journal.append(batches(4, 5), hold=True)
        names = [f"usage-000000000{number}.journal" for number in (2, 3)]
        self.assertEqual(["spool", *names], self.sync(journal))

    def test_nothing_for_what_is_settled(self) -> None:
        journal = self.journal()
        self.sync(journal)
        journal.append(batches(1), hold=True)
        self.sync(journal)
        journal.append(batches(2), hold=True)
        journal.settled([batch(1).id, batch(2).id])
        self.assertEqual([], self.sync(journal))

    def test_a_file_that_the_disk_does_not_confirm_is_left(self) -> None:
        journal = self.journal()
        journal.append(batches(1), hold=True)
        self.os.fails("fdatasync", errno.EIO)
        work = journal.unsynced()
        assert work is not None
        before = len(os.listdir("/proc/self/fd"))
        self.assertRaises(OSError, work)
        self.assertEqual(before - 2, len(os.listdir("/proc/self/fd")))  # the file and the folder
        journal.not_synced()
        journal.append(batches(2), hold=True)
        self.assertEqual([[1], [2]], [self.content(name) for name in self.files()])

    def test_nothing_stays_open(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        journal = self.journal(segment=SIZE)
        for number in range(5):
            journal.append(batches(number), hold=True)
        self.sync(journal)
        journal.append(batches(5, 6), hold=True)
        journal.close()
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))


CHILD = """
import sys
from pathlib import Path
from tbeast.adapters.spool.journal import Journal
from tbeast.domain.counters import Counters
from tbeast.test.adapters.spool.test_journal import batches
journal = Journal(Path(sys.argv[1]), 10_000_000, Counters())
journal.open()
"""
FILLS = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
number = 0
while journal.append(batches(number), hold=True) is None:
    number += 1
refusal = journal.append(batches(number), hold=True)
assert refusal.reason == "unwritable", refusal
print(number, flush=True)
"""
WAITS = """
journal.append(batches(1, 2), hold=True)
print("ready", flush=True)
sys.stdin.read()
"""


class ProcessTests(JournalCase):
    """With processes that the kernel limits, and ends."""

    def child(self, code: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD + code, str(self.folder.absolute()), *map(str, arguments)]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)

        def end() -> None:
            child.kill()
            child.communicate()

        self.addCleanup(end)
        return child

    def test_where_the_kernel_writes_no_further(self) -> None:
        self.assertEqual(resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        child = self.child(FILLS, 10 * SIZE + SIZE // 3)
        said, _ = child.communicate(timeout=30)
        self.assertEqual(("10\n", 0), (said, child.returncode))
        self.assertEqual(10 * SIZE, (self.folder / self.files()[0]).stat().st_size)
        self.assertEqual(list(range(10)), numbers(self.journal().read(99)))
        self.assertEqual(0, self.counters.value("usage_journal_cut_off"))

    def test_two_never_share_a_folder(self) -> None:
        child = self.child(WAITS)
        assert child.stdout is not None
        self.assertEqual("ready\n", child.stdout.readline())
        error = self.assertRaises(StateFolderError, self.journal)
        self.assertIn(f"process {child.pid} keeps its usage here", str(error))
        self.assertIn(str(self.folder), str(error))
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        self.assertEqual([1, 2], numbers(self.journal().read(9)))


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("read"), st.integers(1, 5)),
        st.tuples(st.just("settle"), st.integers(0, 10)),
        st.tuples(st.sampled_from(["kill", "torn", "restart", "full", "sync"]), st.integers(0, 200)),
    ),
    max_size=40,
)


class ModelTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=150)
    @given(operations, st.integers(1, 5))
    def test_nothing_is_lost_whatever_happens(self, operations: list[tuple[str, int]], segment: int) -> None:
        """What was taken and is not settled is there, after every end of the process; and in the order of taking."""
        with tempfile.TemporaryDirectory() as folder:
            self.check(Path(folder), operations, segment * SIZE)

    def check(self, folder: Path, operations: list[tuple[str, int]], segment: int) -> None:
        faulty = FaultyOs()
        for part in (files, module):
            self.patch(part, "os", faulty)

        def opened() -> Journal:
            journal = Journal(folder, LIMIT, Counters(), segment)
            journal.open()
            return journal

        journal, number = opened(), 0
        taken: list[int] = []
        settled: set[int] = set()
        held: list[int] = []
        for what, value in operations:
            if what in ("append", "full"):
                added = list(range(number, number + (value if what == "append" else 3)))
                number = added[-1] + 1
                hold = journal.caught_up and value % 2 == 0
                if what == "full":
                    faulty.fills(value)
                if journal.append(batches(*added), hold) is None:
                    taken += added
                    held += added if hold else []
                faulty.faults.clear()
            elif what == "read":
                held += numbers(journal.read(value))
            elif what == "settle" and held:
                one = held.pop(value % len(held))
                settled.add(one)
                journal.settled([batch(one).id])
            elif what == "sync":
                work = journal.unsynced()
                if work is not None:
                    work()
            elif what in ("kill", "torn", "restart"):
                if what == "restart":
                    journal.close()
                else:
                    if what == "torn" and journal._open is not None:
                        os.write(journal._fd, encode(batch(number))[: value % SIZE])
                    for fd in (journal._fd, journal._lock, *journal._left_unsynced):
                        if fd is not None and fd >= 0:
                            os.close(fd)
                journal, held = opened(), []
            self.assertGreaterEqual(journal.batches, len(set(taken) - settled))
        rest = numbers(journal.read(10_000))
        self.assertEqual(sorted(rest), rest)
        held += rest
        missing = set(taken) - settled - set(held)
        self.assertEqual(set(), missing)
        self.assertLessEqual(set(held), set(taken))
        self.assertEqual(len(held), len(set(held)))
        journal.settled([batch(one).id for one in held])
        self.assertEqual((0, 0), (journal.batches, journal.size_bytes))
        journal.close()
        self.assertEqual([], os.listdir(folder))
