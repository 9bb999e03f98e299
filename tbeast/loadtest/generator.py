"""A process that asks: it does as it is told on standard input, and tells on standard output what came of it.

It ends when its standard input does, and so does not outlive whoever started it.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from typing import Any, Final

from tbeast.loadtest.arrivals import arrivals
from tbeast.loadtest.askers import Askers
from tbeast.loadtest.datagrams import Datagrams
from tbeast.loadtest.orders import Closed, Done, Event, Gather, Order, Progress, SetUp, Steady, Stop, line_of
from tbeast.loadtest.orders import order_decoder as decoder
from tbeast.loadtest.phases import closed_loop, open_loop
from tbeast.loadtest.streams import Streams
from tbeast.loadtest.tally import Tally

TELL_SECONDS: Final = 0.2
GATHER_SECONDS: Final = 60.0
"""How long the connections of a level may take to be opened."""

Chance = Callable[[int], Callable[[], float]]
"""Gives, for a seed, what gives numbers from 0, and below 1."""


class Generator:
    """Carries out orders.

    @param heard: gives the orders that have come; with C{True} it waits for one. Empty once there will be none.
    @param tell: takes what is to be told.
    """

    def __init__(
        self,
        heard: Callable[[bool], list[Order]],
        tell: Callable[[Event], None],
        clock: Callable[[], float],
        chance: Chance,
    ) -> None:
        self._heard = heard
        self._tell = tell
        self._clock = clock
        self._chance = chance
        self._askers: Askers[Any] | None = None
        self._tell_at = 0.0

    def run(self) -> None:
        """Carry out orders until there will be none."""
        while orders := self._heard(True):
            for order in orders:
                if not isinstance(order, Stop):
                    self._tell(Done(self._carry_out(order)))
        if self._askers is not None:
            self._askers.close()

    def _carry_out(self, order: Order) -> Tally:
        if isinstance(order, SetUp):
            if self._askers is not None:
                self._askers.close()
            self._askers = (Streams if order.protocol == "tcp" else Datagrams)(order, self._clock)
            return Tally()
        askers = self._askers
        assert askers is not None, "orders begin with SetUp"
        if isinstance(order, Gather):
            askers.gather(order.askers, order.sockets, self._clock() + GATHER_SECONDS)
            return askers.take()
        if isinstance(order, Closed):
            return closed_loop(askers, order.seconds, self._is_interrupted)
        assert isinstance(order, Steady)
        schedule = arrivals(order.rate, order.seconds, self._chance(order.seed))
        return open_loop(askers, schedule, order.seconds, self._is_interrupted)

    def _is_interrupted(self, now: float) -> bool:
        if now >= self._tell_at:
            self._tell_at = now + TELL_SECONDS
            assert self._askers is not None
            tally = self._askers.tally
            self._tell(Progress(tally.asked, tally.ok, tally.failed))
        return any(isinstance(order, Stop) for order in self._heard(False))


class Pipes:
    """Standard input and output, a line for each order and event."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._rest = b""

    def heard(self, wait: bool) -> list[Order]:
        """Give the orders that have come.

        @raise EOFError: when there will be none, and it was not waited for.
        """
        os.set_blocking(self._source, wait)
        while True:
            try:
                data = os.read(self._source, 65_536)
            except BlockingIOError:
                return []
            if not data:
                if wait:
                    return []
                raise EOFError
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines or not wait:
                return [decoder.decode(line) for line in lines]

    def tell(self, event: Event) -> None:
        """Write one line, whole."""
        data = line_of(event)
        while data:
            data = data[os.write(self._target, data) :]


def open_more_files() -> None:
    """Let this process open as many files as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(clock: Callable[[], float], chance: Chance) -> None:
    """Be a generator."""
    # Ctrl-C in a terminal reaches every process there; this one hears of the end from its standard input alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    open_more_files()
    pipes = Pipes(0, 1)
    try:
        Generator(pipes.heard, pipes.tell, clock, chance).run()
    except (EOFError, BrokenPipeError):
        return
