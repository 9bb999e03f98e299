"""Which cores the servers get and which the askers, and a program kept to some of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import frozen

TOPOLOGY = Path("/sys/devices/system/cpu")


@frozen
class Cores:
    """Who runs where.

    @ivar servers: the cores of whichever server has its turn.
    @ivar askers: the cores of the load.
    """

    servers: tuple[int, ...]
    askers: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        """All of them."""
        return tuple(sorted({*self.servers, *self.askers}))

    @property
    def are_shared(self) -> bool:
        """Whether a server and the load on it take time from each other."""
        return bool(set(self.servers) & set(self.askers))

    def told(self) -> str:
        """For people."""
        words = f"servers on core {_listed(self.servers)}, load on core {_listed(self.askers)}"
        return f"{words}: they take time from each other" if self.are_shared else words


def _listed(cores: Iterable[int]) -> str:
    return ", ".join(map(str, cores))


def _siblings(core: int) -> set[int]:
    """The cores that are the same piece of silicon as this one, itself included."""
    try:
        text = (TOPOLOGY / f"cpu{core}" / "topology" / "thread_siblings_list").read_text()
        found = set()
        for part in text.strip().split(","):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
        return found
    except (OSError, ValueError):
        return {core}


def chosen(servers: int = 1, askers: int = 1) -> Cores:
    """So many cores for the servers, from the first on, and for the askers, from the last on.

    The askers' are no siblings of the servers', if there are enough others.
    """
    allowed = sorted(os.sched_getaffinity(0))
    first = tuple(allowed[:servers])
    taken = set().union(*map(_siblings, first))
    rest = sorted(allowed, key=lambda core: (core in first, core in taken, -core))
    return Cores(first, tuple(sorted(rest[:askers])))


KEPT_TO = """
import ctypes, os, signal, sys
os.sched_setaffinity(0, {cores})
ctypes.CDLL(None).prctl({death_signal}, int(signal.SIGTERM))
os.execvp(sys.argv[1], sys.argv[1:])
"""
DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG: a benchmark that is killed leaves nothing behind that goes on."""


def kept_to(cores: Sequence[int], command: Sequence[str | Path]) -> list[str]:
    """The command, to be run on these cores alone, and to end when whoever ran it has."""
    program = KEPT_TO.format(cores=set(cores), death_signal=DEATH_SIGNAL)
    return [sys.executable, "-S", "-c", program, *map(str, command)]
