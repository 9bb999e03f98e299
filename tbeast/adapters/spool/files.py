"""What the journal asks of files and folders."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from tbeast.errors import StateFolderError


def words(error: OSError) -> str:
    """What went wrong, for people."""
    return (error.strerror or str(error)).lower()


def write_all(fd: int, data: bytes) -> None:
    """Write all of it: at once, unless the disk is full; then the second write says so."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def is_at(fd: int, path: Path) -> bool:
    """Whether C{path} leads to the file that is open."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)


def locked(path: Path) -> int:
    """Open and lock a file that holds our process id.

    @raise StateFolderError: when another process has locked it.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(fd, path):  # else whoever had it took the file away meanwhile
                with suppress(OSError):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
                return fd
        except BlockingIOError:
            other = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise StateFolderError(
                f"{path.parent}: process {other or 'unknown'} keeps its usage here;"
                " give each daemon a TBEAST_STATE of its own"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def sync(descriptors: list[int]) -> None:
    """Wait until the disk really has what was written to these files, and close them.

    @raise OSError: when that is not so for one of them.
    """
    failed: OSError | None = None
    for fd in descriptors:
        try:
            os.fdatasync(fd)
        except OSError as error:
            failed = error
        os.close(fd)
    if failed is not None:
        raise failed
