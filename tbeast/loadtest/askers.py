"""Those who ask: what HTTP connections and UDP places have in common, and how they wait for answers.

An asker has at most one question under way. One that was answered asks again at once in a closed loop; in an open loop
it takes the question that has waited longest, if one waits. One that failed rests until the next tidying, so that a
server which refuses everything is not asked in a tight loop.
"""

from __future__ import annotations

import select
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from tbeast.loadtest.tally import Tally

EVENTS_AT_A_TIME: Final = 64
"""How many answers are read before it is looked again whether a question is due."""

TIMED_OUT: Final = "timed out"
WRONG_ANSWER: Final = "wrong answer"
MALFORMED: Final = "malformed answer"

A = TypeVar("A")


class Askers(ABC, Generic[A]):
    """All askers of one generator.

    @param clock: seconds of a clock that is never set back.
    @ivar idle: those who could ask, the longest idle first.
    @ivar backlog: when the questions were due that wait for somebody idle.
    @ivar again: whether who was answered asks again at once.
    @ivar under_way: how many questions are.
    @ivar tally: what came of them since it was last taken.
    """

    def __init__(self, clock: Callable[[], float], timeout_seconds: float) -> None:
        self.clock = clock
        self.timeout_seconds = timeout_seconds
        self.idle: deque[A] = deque()
        self.backlog: deque[float] = deque()
        self.again = False
        self.under_way = 0
        self.tally = Tally()
        self._latencies: list[float] = []
        self._epoll = select.epoll()

    @abstractmethod
    def gather(self, askers: int, sockets: int, until: float) -> None:
        """Have so many askers from now on, and wait for them until then at the latest."""

    @abstractmethod
    def ask(self, asker: A, due: float, now: float) -> None:
        """Have one who is idle, and was taken off that list, ask what was due then."""

    @abstractmethod
    def turn(self, wait: float) -> None:
        """Take what has come; if nothing has, wait for it, so many seconds at most."""

    @abstractmethod
    def tidy(self, now: float) -> None:
        """Give up what has taken too long, and repair what broke; to be called several times a second."""

    @abstractmethod
    def connections(self) -> int:
        """How many sockets are open."""

    def close(self) -> None:
        """Close everything."""
        self._epoll.close()

    def take(self) -> Tally:
        """Give what was counted, and begin anew."""
        self.fold()
        tally, self.tally = self.tally, Tally()
        tally.connections = self.connections()
        return tally

    def fold(self) -> None:
        """Put the latencies into their histogram, so that they take no room."""
        self.tally.latency.add(self._latencies)
        self._latencies.clear()

    def free(self, asker: A, now: float) -> None:
        """One was answered."""
        if self.again:
            self.ask(asker, now, now)
        elif self.backlog:
            self.ask(asker, self.backlog.popleft(), now)
        else:
            self.idle.append(asker)

    def count(self, due: float, now: float) -> None:
        """A good answer came."""
        self._latencies.append(now - due)
        self.tally.ok += 1

    def events(self, wait: float) -> list[tuple[int, int]]:
        """Which sockets are ready; if none is, the first that become so within C{wait} seconds.

        An epoll waits in whole milliseconds, which is too coarse for a schedule; select on it does not.
        """
        events = self._epoll.poll(0, EVENTS_AT_A_TIME)
        if events or wait <= 0.0:
            return events
        begun = self.clock()
        select.select((self._epoll,), (), (), wait)
        self.tally.waited += self.clock() - begun
        return self._epoll.poll(0, EVENTS_AT_A_TIME)
