"""When questions are due in an open loop: at moments that do not wait for the answers to earlier ones.

Many askers who know nothing of each other make a Poisson process: the waits between arrivals are exponential. The sum
of several such processes is one again, so each generator has a schedule of its own at its share of the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log


def arrivals(rate: float, seconds: float, random: Callable[[], float]) -> Iterator[float]:
    """Give the moments, in seconds from the beginning.

    @param rate: arrivals a second, on average; above 0.
    @param random: gives numbers from 0, and below 1.
    """
    at = 0.0
    while True:
        at -= log(1.0 - random()) / rate
        if at >= seconds:
            return
        yield at
