"""How much memory this process may use: what its control group allows it, or else what the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

GROUP_FILES: Final = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux tells the limit, in its control groups of version 2 and 1, as a container sees them."""
OWN_GROUP: Final = "proc/self/cgroup"


def memory_limit(root: Path = Path("/")) -> int | None:
    """In bytes; C{None} if the system does not tell.

    @param root: where the system's files begin.
    """
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        machine = 0
    limits = [limit for path in _places(root) if (limit := _read(path)) is not None]
    limits += [machine] if machine > 0 else []
    # no limit is written as a number as well, one larger than any machine
    return min(limits, default=None)


def _places(root: Path) -> Iterable[Path]:
    yield from (root / name for name in GROUP_FILES)
    try:
        lines = (root / OWN_GROUP).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, group = line.partition("::")  # version 2: the group of all that is limited
        while group.strip("/"):  # what holds for a group holds for those within it
            yield root / "sys/fs/cgroup" / group.strip("/") / "memory.max"
            group = group.rpartition("/")[0]


def _read(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) > 0 else None
