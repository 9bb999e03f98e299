"""The journal: usage on disk until the database has it.

A folder of segments, C{usage-<number>.journal}, each a file of records as in L{tbeast.codecs.usagerecords}, written at
its end only and by the process that made it. The rules:

 - What is appended at one time goes to the disk in one write. If that fails, because the disk is full or broken or the
   folder is gone, the segment is cut back to where it was, and whoever appends is told; the next time is tried anew.
   What comes when the limit is reached is refused: the oldest is kept.
 - A batch is I{held} when somebody has it in memory who will tell when it is settled: it was appended so, or read back.
   What is not held is read back in the order of writing. A batch may be read back that was settled long ago, in an
   earlier process; whoever writes it a second time must let it count once.
 - A segment of which everything was read and settled is deleted, and the one that is open is emptied.
 - A record that was cut off at the end of a segment is cut away. One that is damaged is passed over, and its segment,
   once the rest of it is settled, is not deleted but renamed to C{usage-<number>.damaged}, for a person to look at. So
   is a segment that cannot be read.
 - The order is that of the numbers, never of a clock.
 - One process has the folder, by a lock that dies with it.

Nothing here waits for the disk to have really written; L{Journal.unsynced} gives that to be done in a thread.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from attrs import define
from twisted.logger import Logger

from tbeast.adapters.spool.files import is_at, locked, sync, words, write_all
from tbeast.codecs.usagerecords import Damage, encode, records
from tbeast.domain.counters import Counters
from tbeast.domain.usage import FULL, UNWRITABLE, Batch, NotSpooled
from tbeast.errors import StateFolderError

SEGMENT_BYTES: Final = 4 * 1024 * 1024
READ_BYTES: Final = 256 * 1024

LOCK_NAME: Final = "lock"
REFUSED_NAME: Final = "usage.refused"
_SEGMENT: Final = re.compile(r"usage-(\d{10,})\.(journal|damaged)")

_OPERATORS_MAKING: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
"""Errors of opening the folder that do not pass by themselves."""


@define(eq=False)
class _Segment:
    """One file.

    @ivar size: where its last whole record ends, as far as is known.
    @ivar read_to: how much of it was read back, or never needs to be.
    @ivar held: how many of its batches are held and not settled.
    @ivar unread: how many of its batches are neither; an estimate if an earlier process wrote it.
    @ivar damaged: whether it is to be looked at by a person in the end.
    """

    number: int
    path: Path
    size: int = 0
    read_to: int = 0
    held: int = 0
    unread: int = 0
    damaged: bool = False

    @property
    def done(self) -> bool:
        return self.held == 0 and self.read_to >= self.size


class Journal:
    """The journal in one folder.

    @param limit_bytes: how large all segments together may be.
    @ivar size_bytes: how large they are.
    """

    log = Logger()

    def __init__(self, folder: Path, limit_bytes: int, counters: Counters, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self._limit_bytes = limit_bytes
        self._segment_bytes = segment_bytes
        self._counters = counters
        self._lock: int | None = None
        self._segments: dict[int, _Segment] = {}
        self._held: dict[str, _Segment] = {}
        self._next_number = 1
        self._open: _Segment | None = None
        self._fd = -1
        self._dirty = False
        self._folder_dirty = False
        self._left_unsynced: list[int] = []
        self.size_bytes = 0

    @property
    def batches(self) -> int:
        """How many batches are in it and not settled."""
        return sum(segment.held + segment.unread for segment in self._segments.values())

    @property
    def caught_up(self) -> bool:
        """Whether every batch in it that is not settled is held."""
        return all(segment.read_to >= segment.size for segment in self._segments.values())

    def open(self) -> None:
        """Take the folder, and find what earlier processes have left there.

        @raise StateFolderError: when another process has it, or it cannot be used until somebody mends it.
        """
        try:
            self._take_folder()
        except OSError as error:
            if error.errno in _OPERATORS_MAKING:
                raise StateFolderError(f"{self.folder}: usage cannot be kept here: {words(error)}") from None
            self.log.error("{folder}: usage cannot be kept here: {why}", folder=str(self.folder), why=words(error))

    def append(self, batches: Sequence[Batch], hold: bool) -> NotSpooled | None:
        """Write batches at the end, all of them or none.

        @param hold: whether they are held from now on; only when L{caught_up}.
        @return: C{None} when they are written, else why they are not.
        """
        if hold and not self.caught_up:
            raise ValueError("what comes after unread batches cannot be held")
        data = b"".join(map(encode, batches))
        try:
            self._take_folder()
            if self.size_bytes + len(data) > self._limit_bytes:
                full = f"the limit of {self._limit_bytes} bytes is reached"
                return NotSpooled(FULL, f"{self.folder}: {full}")
            segment = self._segment_for(len(data))
            self._write(segment, data)
        except (OSError, StateFolderError) as error:
            return NotSpooled(UNWRITABLE, str(error) if isinstance(error, StateFolderError) else self._because(error))
        self._resize(segment, segment.size + len(data))
        self._dirty = True
        if hold:
            segment.read_to = segment.size
            segment.held += len(batches)
            self._held.update(dict.fromkeys((batch.id for batch in batches), segment))
        else:
            segment.unread += len(batches)
        return None

    def read(self, most: int) -> list[Batch]:
        """Read back the next batches, in order; they are held from now on."""
        batches: list[Batch] = []
        while len(batches) < most:
            segment = next((segment for segment in self._segments.values() if segment.read_to < segment.size), None)
            if segment is None:
                break
            try:
                self._read(segment, batches, most)
            except OSError as error:
                self._unreadable(segment, error)
            if segment.done:
                self._finish(segment)
        return batches

    def settled(self, batch_ids: Sequence[str]) -> None:
        """The database has them, or they were set aside: they need not be kept. Others than those held are ignored."""
        for batch_id in batch_ids:
            segment = self._held.pop(batch_id, None)
            if segment is not None:
                segment.held -= 1
                if segment.done:
                    self._finish(segment)

    def set_aside(self, batch: Batch, reason: str) -> bool:
        """Keep, in the file C{usage.refused}, a batch that nobody takes.

        @return: whether that worked.
        """
        path = self.folder / REFUSED_NAME
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            size = os.fstat(fd).st_size
            try:
                write_all(fd, encode(batch))
                os.fdatasync(fd)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(fd, size)
                raise
            finally:
                os.close(fd)
        except OSError as error:
            self.log.error("batch {id} could not be set aside: {why}", id=batch.id, why=self._because(error))
            return False
        self.log.error(
            "batch {id} of {rows} rows was set aside in {path}: {reason}",
            id=batch.id, rows=len(batch.rows), path=str(path), reason=reason,
        )  # fmt: skip
        return True

    def unsynced(self) -> Callable[[], None] | None:
        """What has to be done, in a thread, so that a loss of power takes nothing of what is here; C{None}: nothing.

        The call raises C{OSError} when it does not work; what comes next then goes to another segment.
        """
        descriptors, self._left_unsynced = self._left_unsynced, []
        try:
            if self._dirty and self._open is not None and self._open.size:
                descriptors.append(os.dup(self._fd))
            self._dirty = False
            if self._folder_dirty:
                self._folder_dirty = False  # also if the folder is gone: it is so again when it is made again
                descriptors.append(os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            self.log.error("{why}", why=self._because(error))
        return partial(sync, descriptors) if descriptors else None

    def not_synced(self) -> None:
        """A sync has failed: what was written may be lost with the power, and the same file is trusted no more."""
        if self._open is not None:
            self._shut()

    def close(self) -> None:
        """Give the folder up. What is not settled stays for the next process."""
        segment = self._open
        if segment is not None:
            self._shut()
            if segment.done:
                self._remove(segment)
        for fd in self._left_unsynced:
            os.close(fd)
        self._left_unsynced = []
        if self._lock is not None:
            with suppress(OSError):
                if is_at(self._lock, self.folder / LOCK_NAME):
                    os.unlink(self.folder / LOCK_NAME)
            os.close(self._lock)
            self._lock = None
        self._segments.clear()
        self._held.clear()

    # The folder.

    def _take_folder(self) -> None:
        """Lock the folder, if that is not so already, and look at what is in it.

        @raise OSError: when that does not work.
        @raise StateFolderError: when another process has it.
        """
        path = self.folder / LOCK_NAME
        if self._lock is not None:
            if is_at(self._lock, path):
                return
            self.log.error("{folder}: somebody has removed this folder; it is made again", folder=str(self.folder))
            os.close(self._lock)
            self._lock = None
        os.makedirs(self.folder, 0o700, exist_ok=True)
        self._lock = locked(path)
        with suppress(OSError):
            os.chmod(self.folder, 0o700)
        self._folder_dirty = True
        known = len(self._segments)
        for name in sorted(os.listdir(self.folder)):
            found = _SEGMENT.fullmatch(name)
            if found:
                number = int(found[1])
                self._next_number = max(self._next_number, number + 1)
                if found[2] == "journal" and number not in self._segments:
                    self._found(number, self.folder / name)
        if len(self._segments) > known:
            self._segments = dict(sorted(self._segments.items()))
            self.log.info(
                "{folder}: about {batches} batches of usage were left here, and are written now",
                folder=str(self.folder), batches=self.batches,
            )  # fmt: skip

    def _found(self, number: int, path: Path) -> None:
        segment = self._segments[number] = _Segment(number, path)
        try:
            data = path.read_bytes()
        except OSError as error:
            self._unreadable(segment, error)
        else:
            self._resize(segment, len(data))
            segment.unread = data.count(b"\n")
        if segment.done:
            self._finish(segment)

    # Writing.

    def _segment_for(self, length: int) -> _Segment:
        """The segment that is to take so many bytes, open."""
        segment = self._open
        if segment is not None and not is_at(self._fd, segment.path):
            self._lay_down_again(segment)
        if segment is not None and segment.size and segment.size + length > self._segment_bytes:
            self._shut()
            segment = None
        if segment is None:
            number, path, self._fd = self._created()
            segment = self._open = self._segments[number] = _Segment(number, path)
        return segment

    def _lay_down_again(self, segment: _Segment) -> None:
        """Somebody has removed the open segment. It lives on for as long as it is open: its content goes to another."""
        content = os.pread(self._fd, segment.size, 0)
        number, path, fd = self._created()
        try:
            write_all(fd, content)
        except OSError:
            os.close(fd)
            with suppress(OSError):
                os.unlink(path)
            raise
        os.close(self._fd)
        self._fd = fd
        self._dirty = True
        del self._segments[segment.number]
        self._segments[number] = segment
        segment.number, segment.path = number, path

    def _created(self) -> tuple[int, Path, int]:
        """A new file: its number, its path, and its descriptor."""
        while True:
            number = self._next_number
            path = self.folder / f"usage-{number:010d}.journal"
            self._next_number += 1
            with suppress(FileExistsError):
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                fd = os.open(path, flags, 0o600)
                self._folder_dirty = True
                return number, path, fd

    def _resize(self, segment: _Segment, size: int) -> None:
        self.size_bytes += size - segment.size
        segment.size = size

    def _write(self, segment: _Segment, data: bytes) -> None:
        try:
            write_all(self._fd, data)
        except OSError:
            try:
                os.ftruncate(self._fd, segment.size)
            except OSError:
                self._shut()  # what stands there half must be the last thing in its file
            raise

    def _shut(self) -> None:
        """Write no more to the open segment."""
        if self._dirty:
            self._left_unsynced.append(self._fd)
        else:
            os.close(self._fd)
        self._open, self._fd = None, -1

    # Reading.

    def _read(self, segment: _Segment, batches: list[Batch], most: int) -> None:
        """Read records of one segment until there are so many batches, or it ends.

        @raise OSError: when it cannot be read.
        """
        data, whole = _stretch(segment)
        start = segment.read_to
        for found, end in records(data):
            if len(batches) >= most:
                return
            segment.read_to = start + end
            if isinstance(found, Damage):
                segment.damaged = True
                self._counters.count("usage_journal_damaged")
                self.log.error(
                    "{path}: the record at byte {place} is damaged: {why}",
                    path=str(segment.path), place=start + found.start, why=found.why,
                )  # fmt: skip
            else:
                segment.unread = max(0, segment.unread - 1)
                if found.id not in self._held:
                    self._held[found.id] = segment
                    segment.held += 1
                    batches.append(found)
        if whole and segment.read_to < segment.size:
            self._cut_away(segment)
        if segment.read_to >= segment.size:
            segment.unread = 0

    def _cut_away(self, segment: _Segment) -> None:
        """What is left of a segment has no end."""
        self.log.warn(
            "{path}: the last record was cut off after {length} bytes; it is cut away",
            path=str(segment.path), length=segment.size - segment.read_to,
        )  # fmt: skip
        self._counters.count("usage_journal_cut_off")
        self._resize(segment, segment.read_to)
        with suppress(OSError):
            os.truncate(segment.path, segment.size)

    def _unreadable(self, segment: _Segment, error: OSError) -> None:
        self.log.error(
            "{path}: cannot be read, and is passed over with about {batches} batches: {why}",
            path=str(segment.path), batches=segment.unread, why=words(error),
        )  # fmt: skip
        self._counters.count("usage_journal_damaged")
        segment.damaged = True
        segment.unread = 0
        self._resize(segment, segment.read_to)

    # The end of segments.

    def _finish(self, segment: _Segment) -> None:
        """Everything in it was read and settled."""
        if segment is not self._open:
            self._remove(segment)
        elif segment.damaged:
            self._shut()
            self._remove(segment)
        elif segment.size:
            try:
                os.ftruncate(self._fd, 0)
            except OSError as error:
                self.log.error("{why}", why=self._because(error))
                self._shut()
                self._remove(segment)
            else:
                segment.read_to = 0
                self._resize(segment, 0)

    def _remove(self, segment: _Segment) -> None:
        del self._segments[segment.number]
        self._resize(segment, 0)
        try:
            if segment.damaged:
                os.replace(segment.path, segment.path.with_suffix(".damaged"))
            else:
                os.unlink(segment.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.log.error("{why}", why=self._because(error))

    def _because(self, error: OSError) -> str:
        return f"{error.filename or self.folder}: {words(error)}"


def _stretch(segment: _Segment) -> tuple[bytes, bool]:
    """The next bytes of a segment, at least one whole record if there is one, and whether they go to its end."""
    fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        length = READ_BYTES
        while True:
            wanted = min(length, segment.size - segment.read_to)
            data = os.pread(fd, wanted, segment.read_to)
            # fewer than there were: somebody has cut the file
            whole = len(data) < wanted or segment.read_to + len(data) == segment.size
            if whole or b"\n" in data:
                return data, whole
            length *= 2
    finally:
        os.close(fd)
