"""Notes on disk of usage that waits in memory to merge, so that the end of the process does not take it along.

Where very many kinds of questions are asked in a short time, rows that left at once would be as many as questions. So
they wait, merge, and leave together after a while; until then each round's share of them is noted here, in the file
C{usage-<cycle>.notes} beside the journal. The rules:

 - A cycle has an id, and the batches that its rows leave in have ids made of it. When they are in the journal, or in
   the database, the file is deleted; after the next time that the disk has confirmed what was written.
 - A file that is found at the start belongs to a process that has ended in between. Its rows, merged in the order in
   which they stand, give the batches that process would have made, with the same ids: should it have made them after
   all, they count once.

Nothing here waits for the disk to have really written; L{Notes.unsynced} gives that to be done in a thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from attrs import define
from twisted.logger import Logger

from tbeast.adapters.spool.files import sync, words, write_all
from tbeast.codecs import usagenotes
from tbeast.domain.usage import UNWRITABLE, NotSpooled, Row

_FILE: Final = re.compile(r"usage-([0-9a-f]{24})\.notes")


@define
class _File:
    """The notes of a cycle.

    @ivar is_dirty: whether anything was written since it was last to be synced.
    """

    fd: int
    size: int = 0
    is_dirty: bool = False


class Notes:
    """The notes in one folder, which is the journal's and locked by it."""

    log = Logger()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, _File] = {}
        self._ended: list[Path] = []
        self._syncing: list[Path] = []

    def left(self) -> list[tuple[str, list[Row]]]:
        """The cycles that an earlier process has not ended, and their rows; unreadable ones are told and left alone."""
        found = []
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.folder)):
                match = _FILE.fullmatch(name)
                if match is None:
                    continue
                path = self.folder / name
                try:
                    rows, read = usagenotes.read(path.read_bytes())
                    size = path.stat().st_size
                except OSError as error:
                    self.log.error(
                        "{path}: cannot be read, and is passed over: {why}", path=str(path), why=words(error)
                    )
                    continue
                if read < size:
                    self.log.warn("{path}: {bytes} bytes at its end are no note", path=str(path), bytes=size - read)
                found.append((match[1], rows))
        return found

    def append(self, cycle: str, noted: bytes) -> NotSpooled | None:
        """Note something of a cycle (JSON, with commas between its parts); the first time opens its file.

        @return: C{None} when it is written, else why it is not.
        """
        data = usagenotes.encode(noted)
        file = self._files.get(cycle)
        try:
            if file is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                file = self._files[cycle] = _File(os.open(self._path(cycle), flags, 0o600))
            write_all(file.fd, data)
        except OSError as error:
            with suppress(OSError):
                if file is not None:
                    os.ftruncate(file.fd, file.size)
            return NotSpooled(UNWRITABLE, f"{error.filename or self.folder}: {words(error)}")
        file.size += len(data)
        file.is_dirty = True
        return None

    def end(self, cycle: str) -> None:
        """The rows of a cycle are kept elsewhere now."""
        self._close(cycle)
        self._ended.append(self._path(cycle))

    def unsynced(self) -> Callable[[], None] | None:
        """What has to be done, in a thread, so that a loss of power takes nothing of what is noted; C{None}: nothing.

        The call raises C{OSError} when it does not work. Otherwise L{synced} is to be told.
        """
        self._syncing, self._ended = [*self._syncing, *self._ended], []
        descriptors = []
        for file in self._files.values():
            if not file.is_dirty:
                continue
            file.is_dirty = False
            try:
                descriptors.append(os.dup(file.fd))
            except OSError as error:
                self.log.error("{folder}: {why}", folder=str(self.folder), why=words(error))
        return partial(sync, descriptors) if descriptors else None

    def synced(self) -> None:
        """The disk has what was written, here and in the journal: what had ended before need not be kept."""
        for path in self._syncing:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                self.log.error("{path}: cannot be deleted: {why}", path=str(path), why=words(error))
        self._syncing = []

    def close(self) -> None:
        """Write no more. What has ended is deleted."""
        for cycle in list(self._files):
            self._close(cycle)
        self._syncing, self._ended = [*self._syncing, *self._ended], []
        self.synced()

    def _path(self, cycle: str) -> Path:
        return self.folder / f"usage-{cycle}.notes"

    def _close(self, cycle: str) -> None:
        file = self._files.pop(cycle, None)
        if file is not None:
            os.close(file.fd)
