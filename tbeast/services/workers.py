"""The worker processes of a hub: started, watched, replaced.

The rules.

 - Each worker has a place, and each place its own ports, which stay open whoever holds the place. A worker that dies
   while it is wanted is told in the log, with its last words, and another one takes its place: at once the first time,
   then ever more slowly.
 - A worker speaks once a second. One that says nothing for L{SILENT_SECONDS} is ended by SIGKILL, by its process id
   alone: the kernel would give it its share of the connections for ever.
 - A worker ends when the line to the hub ends, so that it goes even when the hub is killed. SIGINT, SIGHUP and SIGUSR2
   are kept from it.
 - To replace all of them while they serve (L{Workers.roll}), each place gets a successor on the same ports; when that
   one listens, the old one takes nothing new, and ends with its last connection, or after L{PATIENCE_SECONDS}. The next
   place comes only then. A successor that does not come up ends this, and the old one stays.
 - At the stop all end at once, each after what is under way.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any, Final, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from tbeast.domain.backing import PartStatus
from tbeast.domain.counters import Counters
from tbeast.interfaces import Now
from tbeast.services.hub import Desk, Hub
from tbeast.services.periodic import Periodic
from tbeast.services.workerprocess import Child, Means, Pair, WorkerError

PATIENCE_SECONDS: Final = 10.0

FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_DELAY_SECONDS: Final = 30.0
SETTLED_SECONDS: Final = 60.0
"""A worker that has served for so long starts the delays anew."""

UP: Final = "up"
FEWER: Final = "fewer"
DOWN: Final = "down"


class PlacePorts(Protocol):
    """The ports of all places."""

    pairs: list[Any]

    async def open(self) -> None:
        """Bind them."""

    def close(self) -> None:
        """Close them."""


class Workers(Service):
    """See the module."""

    name = "workers"
    log = Logger()

    def __init__(
        self,
        *,
        hub: Hub,
        count: int,
        node: str,
        means: Means,
        ports: PlacePorts,
        counters: Counters,
        now: Now,
    ) -> None:
        """Set it up.

        @param count: how many.
        @param node: the name of this node.
        @param means: with what they are started.
        """
        self.hub = hub
        self.means = means
        self.ports = ports
        self.now = now
        self.restarts = 0
        self._node = node
        self._count = count
        self._counters = counters
        self._places: list[Place] = []
        self._watch = Periodic("workers", self._look, 1.0, means.reactor, counters)
        self._since = now()
        self._state = DOWN
        self._rolling = self._asked_to_roll = False

    @property
    def serving(self) -> int:
        """How many places are served."""
        return sum(place.is_served for place in self._places)

    def pids(self) -> list[int]:
        """The process ids of those that hold the places."""
        return [place.holder.pid for place in self._places if place.holder is not None and place.holder.pid]

    def processes(self) -> dict[str, int]:
        """Their process ids, by the number of the place."""
        return {
            str(number): place.holder.pid
            for number, place in enumerate(self._places, 1)
            if place.holder is not None and place.holder.pid
        }

    def listening(self) -> dict[str, bool]:
        """The listeners, and whether anybody listens."""
        return dict.fromkeys(("lpo", "udp"), self.serving > 0)

    def status(self) -> list[PartStatus]:
        """How they are doing, and how they stand with the shared buckets."""
        up, state = self.serving, self._seen()
        why = "" if state == UP else f"{up} of {self._count} serve"
        figures = {"wanted": self._count, "serving": up, "restarts": self.restarts}
        heard = [desk.status for desk in self.hub.desks if desk.is_serving and desk.status is not None]
        alone = [status for status in heard if not status.shares_limits]
        nodes = max((status.nodes for status in heard), default=0)
        since = max((status.limits_since for status in alone or heard), default=None)
        why_alone = f"each of {nodes} workers and nodes admits its share" if alone else ""
        return [
            PartStatus("workers", state, why, self._since, state == DOWN, figures),
            PartStatus("limits", "alone" if alone else "shared", why_alone, since),
        ]

    async def startService(self) -> None:
        """Start them all.

        @raise WorkerError: when one does not come up.
        @raise CannotListenError: when the ports cannot be had.
        """
        super().startService()  # type: ignore[no-untyped-call]
        await self.ports.open()
        self._places = [
            Place(self, number, f"{self._node}/w{number}", pair) for number, pair in enumerate(self.ports.pairs, 1)
        ]
        children = [place.start() for place in self._places]
        await DeferredList([child.up for child in children], consumeErrors=True)
        errors = [child.up_error for child in children if child.up_error is not None]
        if errors and self.running:
            await self.stopService()
            raise errors[0]
        self._seen()
        self._watch.startService()

    async def stopService(self) -> None:
        """End them all; does not fail."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._watch.stopService()
        await DeferredList([Deferred.fromCoroutine(place.stop()) for place in self._places], consumeErrors=True)
        self._places = []
        self.ports.close()

    async def roll(self) -> None:
        """Replace all of them, one after the other, without refusing anybody; does not fail.

        Whoever asks for it meanwhile has it done once more: some were replaced before there was the reason to ask.
        """
        self._asked_to_roll = True
        if self._rolling:
            return
        self._rolling = True
        try:
            while self._asked_to_roll and self.running:
                self._asked_to_roll = False
                self.log.info("replacing the workers, as asked")
                for place in list(self._places):
                    if not self.running:
                        return
                    await place.replace()
                self.log.info("the workers are replaced")
        except WorkerError as error:
            self.log.error("the workers are not replaced any further: {why}", why=error)
        finally:
            self._rolling = False

    def _seen(self) -> str:
        """The state just now, and note when it is another."""
        up = self.serving
        state = UP if up >= self._count else FEWER if up else DOWN
        if state != self._state:
            self._state, self._since = state, self.now()
        return state

    def _look(self) -> None:
        self._seen()
        for place in self._places:
            for child in place.children():
                child.look()


class Place:
    """One place, and who holds it.

    @ivar holder: the one that serves or is to serve; C{None} between two.
    """

    log = Logger()

    def __init__(self, workers: Workers, number: int, name: str, pair: Pair) -> None:
        self.name = f"worker {number}"
        self.pair = pair
        self.holder: Child | None = None
        self._successor: Child | None = None
        self._leaving: set[Child] = set()
        self._workers = workers
        self._node = name
        self._serial = 0
        self._delay = 0.0
        self._restart: IDelayedCall | None = None

    @property
    def is_served(self) -> bool:
        """Whether somebody listens on its ports."""
        return any(child is not None and child.desk.is_serving for child in (self.holder, self._successor))

    def children(self) -> list[Child]:
        """All that belong here."""
        return [child for child in (self.holder, self._successor, *self._leaving) if child is not None]

    def start(self) -> Child:
        """Fill it; give who is to hold it."""
        self.holder = child = self._made()
        child.spawn()
        return child

    async def stop(self) -> None:
        """End whoever is here."""
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        children, self.holder, self._successor = self.children(), None, None
        self._leaving.update(children)
        await DeferredList([Deferred.fromCoroutine(child.end(0.0)) for child in children])

    async def replace(self) -> None:
        """Have another worker take it, and end the old one.

        @raise WorkerError: when the other one does not come up.
        """
        if self.holder is None:
            return  # another one is on its way already
        successor = self._successor = self._made()
        successor.spawn()
        try:
            await successor.up
        finally:
            if self._successor is successor:
                self._successor = None
            elif successor.up_error is None:
                raise WorkerError("stopped")
        old, self.holder = self.holder, successor
        self._delay = 0.0
        if self._restart is not None:  # the old one has died meanwhile
            self._restart.cancel()
            self._restart = None
        if old is not None:
            self._leaving.add(old)
            await old.end(PATIENCE_SECONDS)

    def ended(self, child: Child, how: str) -> None:
        """A child is gone; C{how} continues a sentence that begins with its name."""
        workers = self._workers
        last = f"; last words: {' / '.join(child.last_lines)}" if child.last_lines else ""
        self._leaving.discard(child)
        if child is not self.holder:
            self.log.info("{name} {how}", name=child.name, how=how)
            return
        self.holder = None
        if not workers.running or (child.is_first and child.up_at is None):
            self.log.error("{name} {how}{last}", name=child.name, how=how, last=last)
            return
        if child.up_at is not None and workers.means.reactor.seconds() - child.up_at >= SETTLED_SECONDS:
            self._delay = 0.0
        workers.restarts += 1
        self.log.error(
            "{name} {how}{last}; starting another one in {delay:g} s",
            name=child.name, how=how, last=last, delay=self._delay,
        )  # fmt: skip
        self._restart = workers.means.reactor.callLater(self._delay, self._again)
        self._delay = min(LONGEST_DELAY_SECONDS, max(FIRST_DELAY_SECONDS, self._delay * 2))

    def _again(self) -> None:
        self._restart = None
        self.start().up.addErrback(lambda _: None)  # it has been told already

    def _made(self) -> Child:
        """The next one to come here; whoever spawns it has noted it before, for that may fail at once."""
        # a few names in turn, so that of a place no two are one node, and yet no name is left behind
        used = {child.desk.name for child in self.children()}
        self._serial += 1
        while (name := f"{self._node}{'abcd'[self._serial % 4]}") in used:
            self._serial += 1
        desk = Desk(self._workers.hub, name)
        return Child(self, self._workers.means, desk, is_first=self._serial == 1)


class Rolling(Service):
    """Replaces the workers when the process is sent SIGUSR2, for as long as it runs."""

    name = "rolling restart"

    def __init__(self, workers: Workers, reactor: Any) -> None:
        self._workers = workers
        self._reactor = reactor
        self._before: Any = None

    def startService(self) -> None:
        """Begin to listen."""
        super().startService()  # type: ignore[no-untyped-call]
        self._before = signal.signal(signal.SIGUSR2, self._asked)

    def stopService(self) -> None:
        """Leave the signal to whoever had it before."""
        super().stopService()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGUSR2, self._before)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._roll)

    def _roll(self) -> None:
        Deferred.fromCoroutine(self._workers.roll())


def cores() -> int:
    """On how many cores this process may run."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1
