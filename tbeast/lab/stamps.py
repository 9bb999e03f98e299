"""Times as the exchanges write them. All take seconds since the epoch."""

from __future__ import annotations

from functools import lru_cache
from time import gmtime, strftime


@lru_cache(maxsize=8)
def _second(whole: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(whole))


def rfc3339(now: float, digits: int) -> str:
    """C{2026-08-09T21:05:48.228846Z}, with so many digits after the point."""
    whole = int(now)
    fraction = int((now - whole) * 10**digits)
    return f"{_second(whole)}.{fraction:0{digits}d}Z"


def go_text(now: float, running_seconds: float) -> str:
    """The default text of a time in Go, with its monotonic clock: what Coinbase's heartbeats carry."""
    whole = int(now)
    fraction = int((now - whole) * 10**9)
    return f"{_second(whole).replace('T', ' ')}.{fraction:09d} +0000 UTC m=+{running_seconds:.9f}"


def milliseconds(now: float) -> int:
    """Whole milliseconds since the epoch."""
    return int(now * 1000.0)
