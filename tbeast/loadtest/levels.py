"""Levels of concurrency: how many askers there are, each with at most one question under way.

Over HTTP an asker is a connection, over UDP a place among those that share some sockets. The thirteen levels rise to
21,000, the concurrency that the original system published for its last; the twelve below it are our own choice.

A machine may have no room for a level. What bounds it: how many files one process may have open, and how many local
ports one address has for connections to one server. A level without room is cut to what there is, and said to be; a
level that would then be no higher than the one before it is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import ceil
from typing import Final

from attrs import frozen

LEVELS: Final = (1, 10, 50, 100, 250, 500, 1_000, 2_000, 4_000, 8_000, 12_000, 16_000, 21_000)
HIGHEST: Final = 100_000
MOST: Final = 64
"""Bounds of what may be asked for: askers of one level, and levels."""

SPARE_FILES: Final = 64
"""What a generator opens beside its connections: pipes, modules, the interpreter's own."""
PORTS_IN_USE: Final = 0.8
"""The share of an address's local ports that is counted on; others hold some, and closed connections linger."""
CONNECTIONS_A_SOURCE: Final = 8_000
MOST_SOURCES: Final = 200
MOST_GENERATORS: Final = 64
MOST_SOCKETS: Final = 256
"""How many sockets the UDP askers of one level share at most."""


class LevelsError(ValueError):
    """The levels cannot be read; says why."""


@frozen
class Room:
    """What this machine has for connections to one server.

    @ivar files: how many one process may have open.
    @ivar ports: local ports of one address.
    @ivar sources: how many local addresses there are to connect from.
    """

    files: int
    ports: int
    sources: int

    @property
    def in_a_process(self) -> int:
        """Connections that one generator can hold."""
        return max(1, self.files - SPARE_FILES)

    @property
    def by_ports(self) -> int:
        """Connections that the local addresses can hold."""
        return max(1, int(self.ports * PORTS_IN_USE) * self.sources)


@frozen
class Level:
    """One level.

    @ivar number: from 1 on, as it was asked for.
    @ivar wanted: the askers that were asked for.
    @ivar askers: those that there will be.
    """

    number: int
    wanted: int
    askers: int


def read_levels(text: str) -> tuple[int, ...]:
    """Read C{1,64,512}.

    @raise LevelsError: for anything but a few numbers that rise.
    """
    levels = []
    for part in text.split(","):
        number = part.strip().replace("_", "")
        if not (number.isascii() and number.isdigit() and 0 < int(number) <= HIGHEST):
            raise LevelsError(f"{part.strip() or text!r} is no number from 1 to {HIGHEST:,}")
        levels.append(int(number))
    if len(levels) > MOST:
        raise LevelsError(f"{len(levels)} levels are more than {MOST}")
    if any(after <= before for before, after in pairwise(levels)):
        raise LevelsError("each level must be higher than the one before")
    return tuple(levels)


def usual_generators(cores: int) -> int:
    """How many generators to have where nothing else is said: more than half of the cores would be the daemon's."""
    return min(MOST_GENERATORS, max(1, cores // 2))


def generators_for(highest: int, room: Room, usual: int) -> int:
    """How many generators a run needs: the usual, or as many as it takes to hold the highest level."""
    return min(MOST_GENERATORS, max(usual, ceil(highest / room.in_a_process)))


def cut(levels: Sequence[int], room: Room, generators: int) -> tuple[list[Level], list[str]]:
    """Fit HTTP levels into the room that there is.

    @return: the levels that remain, and what was cut, in words.
    """
    bounds = [
        (
            room.in_a_process * generators,
            f"{_processes(generators)} may open {room.files:,} files{' each' if generators > 1 else ''} (ulimit -Hn)",
        ),
        (
            room.by_ports,
            f"{room.ports:,} local ports at {room.sources} address{'es' if room.sources > 1 else ''} leave no more"
            " (net.ipv4.ip_local_port_range)",
        ),
    ]
    most, why = min(bounds)
    fitting: list[Level] = []
    words: list[str] = []
    for number, wanted in enumerate(levels, 1):
        askers = min(wanted, most)
        if fitting and fitting[-1].askers >= askers:
            words.append(f"Level {number}, {wanted:,} connections, is left out: {why}.")
            continue
        if askers < wanted:
            words.append(f"Level {number}, {wanted:,} connections, is cut to {askers:,}: {why}.")
        fitting.append(Level(number, wanted, askers))
    return fitting, words


def uncut(levels: Sequence[int]) -> list[Level]:
    """UDP levels, which a few sockets hold."""
    return [Level(number, wanted, wanted) for number, wanted in enumerate(levels, 1)]


def shares(askers: int, generators: int, usual: int, most_each: int) -> list[int]:
    """Spread the askers of a level over the usual generators, or over more if these cannot hold them, evenly.

    @return: how many each has; the last may have none.
    """
    used = min(generators, askers, max(usual, ceil(askers / most_each)))
    each, rest = divmod(askers, used)
    return [each + (place < rest) if place < used else 0 for place in range(generators)]


def sources_of(askers: int) -> int:
    """How many loopback addresses to connect from."""
    return min(MOST_SOURCES, max(1, ceil(askers / CONNECTIONS_A_SOURCE)))


def loopback_sources(count: int) -> list[str]:
    """Addresses of our own in 127.0.0.0/8: the usual one, and those after it."""
    return [f"127.0.0.{place + 1}" for place in range(count)]


def highest_of(levels: Iterable[int]) -> int:
    """The highest, 0 for none."""
    return max(levels, default=0)


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"
