"""How outcomes are compared when one of two houses lives in moments that are not quite the other's.

What follows from the moment alone (an age, a wait, when a row began) is compared as a number; everything else to the
byte. Response times are not compared.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from attrs import evolve

from tbeast.domain.usage import Row
from tbeast.test.servers.lanes import Outcome


def without_lanes(outcome: Outcome) -> Outcome:
    """Leave out the counters that only a house with native lanes has, and those of response times."""
    left_out = ("lane_connections", "response_times")
    counted = {key: count for key, count in outcome.counted.items() if key[0] not in left_out}
    return evolve(outcome, counted=counted)


_MOMENTS: Final = re.compile(rb'("(?:cache_age_seconds|retry_after_seconds)":)(\d+(?:\.\d+)?)')
_LENGTHS: Final = re.compile(rb"Content-Length: (\d+)\r\n(?=(?:[^\r\n]+\r\n)*\r\n)")


def levelled(text: bytes) -> tuple[bytes, list[float]]:
    """Take out of some answers what follows from the moment alone: the rest, and these numbers."""

    def length(found: re.Match[bytes]) -> bytes:
        whole = int(found[1])
        body_at = text.index(b"\r\n\r\n", found.end() - 2) + 4
        body = text[body_at : body_at + whole]
        if body.startswith(b"{"):
            whole -= sum(len(one[2]) for one in _MOMENTS.finditer(body))
        return b"Content-Length: %d\r\n" % whole

    numbers = [float(one[2]) for one in _MOMENTS.finditer(text)]
    return _MOMENTS.sub(rb"\1-", _LENGTHS.sub(length, text)), numbers


class Level(NamedTuple):
    """An outcome without what follows from the moment alone."""

    sent: bytes
    is_closed: bool
    recorded: list[tuple[Any, int]]
    counted: dict[tuple[str, ...], int]
    used: dict[str, int]


def level_of(outcome: Outcome) -> tuple[Level, list[float]]:
    """The outcome, and the numbers that were taken out of it."""
    sent, numbers = levelled(outcome.sent)
    rows: list[Row] = sorted(outcome.recorded)
    recorded = [(row.kind, row.request_count) for row in rows]
    level = Level(sent, outcome.is_closed, recorded, outcome.counted, outcome.used)
    return level, [*numbers, *(row.at for row in rows)]
