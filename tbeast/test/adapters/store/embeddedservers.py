"""Embedded servers for tests: folders for them, and what is asked of them."""

from __future__ import annotations

import select
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.adapters.store import keeper
from tbeast.adapters.store.postgres import connect, target
from tbeast.testing.postgres import Server, quick_folder


def open_folder(case: SynchronousTestCase | TestCase) -> Path:
    """A folder with a short path that everyone may enter, and nobody else write to."""
    folder = Path(tempfile.mkdtemp(prefix="tb-", dir=quick_folder()))
    folder.chmod(0o755)
    case.addCleanup(shutil.rmtree, folder, ignore_errors=True)
    return folder


def life_folder() -> Path:
    """A server's folder that many tests use one after the other: what each of them leaves is data for the next."""
    if not _life_folders:
        _life_folders.append(Server().folder / "postgres")
    return _life_folders[0]


_life_folders: list[Path] = []


def execute(url: str, statement: str) -> Any:
    """The first value that a statement gives, committed."""
    connection = connect(target(url))
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
        connection.commit()
    finally:
        connection.close()
    return row and row[0]


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for other processes; the limit only keeps a failing test from hanging."""
    for _ in range(3_000):
        if condition():
            return
        select.select([], [], [], 0.01)
    raise AssertionError("waited in vain")


class Wish(keeper.Wish):
    """One that only the test ends."""

    def __init__(self, holds: bool = True) -> None:
        self.holds = holds

    def wait(self, seconds: float | None) -> None:
        select.select([], [], [], seconds)
