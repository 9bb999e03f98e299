"""The reactor's side of the native lanes: one descriptor, behind which are all connections and the datagrams.

The native part answers what is plain (see L{tbeast.codecs.hotrequests} for what that is), at once and out of memory.
Everything else it hands over: a connection with the bytes that were received, which goes on under twisted.web, and is
taken back when it has asked nothing but plain questions for a while; a datagram, which the ordinary protocol answers.

Three things keep the two in step:

 - The gate tells which keys are good when it has admitted them (L{LearningGate}), and is told to forget a key at once
   when anything about it has changed. How a key stands lies in one place, which both read and write.
 - What was answered natively is counted there, beside the ledger, until the ledger's rows leave.
 - What the native part was refused was asked at the gate already, and is not asked again.

How many connections there may be is said by the door (see L{tbeast.servers.door}); there, a connection that moves stays
one.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Final, Protocol, overload

from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tbeast.codecs.datagrams import UNSENDABLE
from tbeast.domain.admission import ADMITTED, OpenStanding, Standing, Verdict
from tbeast.domain.counters import Counters
from tbeast.domain.keys import Account
from tbeast.domain.latencies import BUCKETS, UP_TO_US
from tbeast.domain.latencies import FAMILY as RESPONSE_TIMES
from tbeast.domain.leases import LeasedStanding, Line
from tbeast.domain.ratelimits import TokenBucket
from tbeast.domain.usage import Kind, Ledger, Row
from tbeast.interfaces import Now
from tbeast.servers.answers import SHELF
from tbeast.servers.door import FAMILY as REFUSED_CONNECTIONS
from tbeast.servers.fastlane import PriceSite
from tbeast.servers.gate import Gate, Keyring
from tbeast.servers.site import IDLE

SERVICE: Final = "lpo"
EXPIRE_SECONDS: Final = 1.0
INTERLUDE_SECONDS: Final = 0.0001
"""For so long other work may go on before those who ask have a turn."""
KEPT_DESCRIPTORS: Final = 256


class Lanes(Protocol):
    """What the native module gives; its own words say more."""

    shut: bool

    parting: bool
    highest: int

    room: int
    refusal: bytes

    @property
    def connections(self) -> int:
        """How many there are."""

    @property
    def refused(self) -> int:
        """How many there was no room for."""

    @property
    def rested(self) -> float:
        """For how many seconds there was no turn."""

    def turn(self, now: float, date: bytes, brief: bool = False, /) -> tuple[list[Any], list[Any]] | None:
        """Serve what is ready; give what must be handed over."""

    def learn(self, key: bytes, key_id: str, standing: Standing, /) -> None:
        """This key is good."""

    def forget(self, key_id: str, /) -> None:
        """It may not be any more."""

    @property
    def kinds(self) -> int:
        """How many rows L{drain} would give."""

    def drain(self) -> Drained:
        """Take out what was answered."""

    def tell(self) -> bytes:
        """What was answered since this was asked last, and stays."""

    def expire(self, seconds: float, /) -> int:
        """End idle connections."""

    def listen(self, descriptor: int, /) -> None:
        """Take connections."""

    def take(self, descriptor: int, returns: int, /) -> bool:
        """Go on with a connection that was handed over before, if there is room for it."""

    def answer_datagrams(self, descriptor: int, /) -> None:
        """Take datagrams."""

    def end_accepting(self) -> None:
        """Take no more connections."""

    def end_listening(self) -> None:
        """Take no more connections, and end those that there are."""

    def end_datagrams(self) -> None:
        """Take no more datagrams."""

    def fileno(self) -> int:
        """What the reactor watches."""

    def figures(self) -> dict[str, Any]:
        """Counts."""

    def close(self) -> None:
        """End everything."""


class Drained(Protocol):
    """What was taken out, by kind."""

    def __len__(self) -> int:
        """How many kinds."""

    def rows(self, start: int, stop: int, /) -> list[tuple[str, str, str, str, float, int, int, int]]:
        """Some: key id, protocol, asset, source, when the first was answered, requests, microseconds, longest."""


class Doorkeeper(Protocol):
    """What lanes need of L{tbeast.servers.door.Door}.

    @ivar on_the_way: how many connections have left the lanes and are counted nowhere else yet.
    """

    on_the_way: int

    def take_lanes(self, lanes: Lanes) -> None:
        """Say from now on for how many connections there is room in them."""

    def moved(self) -> None:
        """Connections have come or gone outside of the lanes."""


class DrainedRows(Sequence[Row]):
    """Rows that are made when somebody wants them."""

    def __init__(self, drained: Drained) -> None:
        self._drained = drained

    def __len__(self) -> int:
        """How many there are."""
        return len(self._drained)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        """One of them, or some."""
        if not isinstance(place, slice):
            return self[slice(place, place + 1)][0]
        start, stop, _ = slice(place.start, place.stop).indices(len(self))
        return [
            Row(Kind(key_id, SERVICE, protocol, asset, source, SHELF, 200, True), at, requests, total, longest)
            for key_id, protocol, asset, source, at, requests, total, longest in self._drained.rows(
                start, max(start, stop)
            )
        ]

    def __iter__(self) -> Iterator[Row]:
        """All of them, which are made at once."""
        return iter(self[:])


class LearningGate(Gate):
    """A gate that tells the lanes whom it has admitted.

    @ivar lanes: who is told.
    """

    def __init__(self, keyring: Keyring, lanes: Lanes, open_standing: OpenStanding = Standing) -> None:
        self.lanes = lanes
        self._learned: set[str] = set()
        self._is_shut = False
        super().__init__(keyring, open_standing)

    @property
    def is_shut(self) -> bool:
        """See L{Gate.is_shut}."""
        return self._is_shut

    @is_shut.setter
    def is_shut(self, is_shut: bool) -> None:
        self._is_shut = self.lanes.shut = is_shut

    def admit(self, key: bytes, now: float) -> Verdict:
        """Decide on one question asked with C{key}; an admitted one is counted."""
        verdict = super().admit(key, now)
        account = verdict.account
        if verdict.outcome == ADMITTED and account is not None and account.key_id not in self._learned:
            self._learned.add(account.key_id)
            self.lanes.learn(key, account.key_id, self._standings[account.key_id])
        return verdict

    def forget(self, account: Account) -> None:
        """Whatever is known of this account's key may not hold any more."""
        if account.key_id in self._learned:
            self._learned.remove(account.key_id)
            self.lanes.forget(account.key_id)


class _Adopting:
    """Stands for a factory while one connection is adopted, and keeps the protocol that it made."""

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory
        self.protocol: Any = None

    def buildProtocol(self, addr: Any) -> Any:
        """Make the protocol."""
        self.protocol = self._factory.buildProtocol(addr)
        return self.protocol


@implementer(IReadDescriptor)
class NativeLanes:
    """The lanes of one process.

    @param lanes: the native part.
    @ivar door: says for how many connections there is room; C{None}: there is for any.
    """

    door: Doorkeeper | None = None

    _log = Logger()

    def __init__(self, lanes: Lanes, reactor: Any, now: Now, ledger: Ledger, counters: Counters) -> None:
        self._lanes = lanes
        self._reactor = reactor
        self._now = now
        self._ledger = ledger
        self._counters = counters
        self._site: Any = None
        self._family = socket.AF_INET
        self._protocol: Any = None
        self._users = 0
        self._told: dict[str, int] = {}
        self._times = [0] * BUCKETS
        self._exhausted = 0
        self._is_exhausted = False
        self._expiry: IDelayedCall | None = None
        self._has_connections = False
        self._deferred = False
        self._spare = -1
        ledger.beside = self
        counters.gathered.append(self.count)

    # What the reactor asks.

    def fileno(self) -> int:
        """The descriptor that becomes readable when any of ours does."""
        return self._lanes.fileno()

    def logPrefix(self) -> str:
        """What a log line of ours begins with."""
        return "lanes"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor watches us no more."""

    def doRead(self) -> None:
        """Something is ready."""
        found = self._turn(False)
        if found is not None:
            self._see_to(*found)

    def interlude(self) -> None:
        """Answer whoever waits, in the midst of other work: to be called after every bit of it. It raises nothing.

        What is not plain has to wait for the end of that work.
        """
        if self._deferred or not self._users or self._lanes.rested < INTERLUDE_SECONDS:
            return
        try:
            found = self._turn(True)
        except Exception:
            self._log.failure("an interlude failed")
            return
        if found is not None:
            self._deferred = True  # so there is no more of it than of one turn
            if self.door is not None:
                self.door.on_the_way = len(found[0])
            self._reactor.callLater(0.0, self._see_to_deferred, *found)

    def _see_to_deferred(self, left: list[Any], others: list[Any]) -> None:
        self._deferred = False
        if self.door is not None:
            self.door.on_the_way = 0
        self._see_to(left, others)

    def _turn(self, brief: bool) -> tuple[list[Any], list[Any]] | None:
        if self._ledger.is_closed:
            self._lanes.shut = True  # nobody is answered whose answer could not be recorded
        return self._lanes.turn(self._now(), self._site.date() if self._site is not None else _NO_DATE, brief)

    def _see_to(self, left: list[Any], others: list[Any]) -> None:
        for descriptor, *rest in left:
            if not self._has_connections:  # they have been ended meanwhile
                os.close(descriptor)
                continue
            try:
                self._adopt(descriptor, *rest)
            except Exception:
                self._log.failure("a connection could not be taken over from the native lane")
        for datagram, sender, verdict in others if self._protocol is not None else ():
            try:
                if verdict is None:
                    self._protocol.datagramReceived(datagram, sender)
                else:
                    self._protocol.received_with(verdict, datagram, sender, self._now())
            except Exception:
                self._log.failure("a datagram could not be answered")

    # Connections.

    @property
    def connections(self) -> int:
        """How many there are in the lane."""
        return self._lanes.connections

    def figures(self) -> dict[str, Any]:
        """Counts of the native part."""
        return self._lanes.figures()

    def take_connections(self, port: Any, site: PriceSite) -> None:
        """Serve the connections of a port; those that leave the lane are C{site}'s."""
        self._site = site
        site.take = self._lanes.take
        self._family = port.addressFamily
        port.stopReading()
        # what is accepted has it from the port: no answer waits for an acknowledgement of the one before
        port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lanes.listen(port.fileno())
        self._lanes.highest = highest_descriptor(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        if self.door is not None:
            self.door.take_lanes(self._lanes)
        self._take_spare()
        self._has_connections = True
        self._begin()

    def part(self) -> None:
        """Take no more connections; those that there are end with their next answer."""
        self._lanes.parting = True
        self._lanes.end_accepting()

    def end_connections(self) -> None:
        """Take no more connections, and end those that there are."""
        if not self._has_connections:
            return
        self._has_connections = False
        self._lanes.end_listening()
        self._give_spare_back()
        self._end()

    def _adopt(self, descriptor: int, received: bytes, unsent: bytes, verdict: Verdict | None, returns: int) -> None:
        adopting = _Adopting(self._site)
        # it takes another descriptor until ours is closed, and there may be none left but the spare one
        self._give_spare_back()
        try:
            self._reactor.adoptStreamConnection(descriptor, self._family, adopting)
        except OSError:
            # the client is gone already; or there was no descriptor for what else the connection needs
            if adopting.protocol is not None and adopting.protocol.transport is not None:
                adopting.protocol.transport.abortConnection()
            if self.door is not None:
                self.door.moved()  # its place is free
            return
        finally:
            os.close(descriptor)
            self._take_spare()
        channel = adopting.protocol
        if unsent:
            channel.transport.write(unsent)
            if self._lanes.parting:
                channel.loseConnection()  # as the last answer in it says
        channel.go_on(received, verdict, returns)

    def _take_spare(self) -> None:
        with suppress(OSError):  # if somebody was quicker, there may be one the next time
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _give_spare_back(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def _plan_expiry(self) -> None:
        self._expiry = self._reactor.callLater(EXPIRE_SECONDS, self._expire)

    def _expire(self) -> None:
        self._plan_expiry()
        self._lanes.expire(inf if self._site is None else float(self._site.timeOut))
        before, self._exhausted = self._exhausted, self._lanes.figures()["exhausted"]
        if (self._exhausted > before) != self._is_exhausted:
            self._is_exhausted = not self._is_exhausted
            if self._is_exhausted:
                self._log.error("no descriptors are left for more connections; those that wait are taken when some end")
            else:
                self._log.info("there are descriptors for connections again")
        self.count()

    # Datagrams.

    def take_datagrams(self, port: Any, protocol: Any) -> None:
        """Answer the datagrams of a port; what is not plain is C{protocol}'s."""
        self._protocol = protocol
        port.stopReading()
        self._lanes.answer_datagrams(port.fileno())
        self._begin()

    def end_datagrams(self) -> None:
        """Take no more datagrams."""
        if self._protocol is not None:
            self._protocol = None
            self._lanes.end_datagrams()
            self._end()

    def _begin(self) -> None:
        self._users += 1
        if self._users == 1:
            self._reactor.addReader(self)
            self._plan_expiry()

    def _end(self) -> None:
        self._users -= 1
        if not self._users:
            self._reactor.removeReader(self)
            if self._expiry is not None:
                self._expiry.cancel()
                self._expiry = None

    # Books.

    @property
    def kinds(self) -> int:
        """See L{tbeast.domain.usage.Tallies.kinds}."""
        return self._lanes.kinds

    @property
    def requests(self) -> int:
        """See L{tbeast.domain.usage.Tallies.requests}."""
        waiting: int = self._lanes.figures()["waiting"]
        return waiting

    def drain(self) -> DrainedRows:
        """See L{tbeast.domain.usage.Tallies.drain}."""
        return DrainedRows(self._lanes.drain())

    def tell(self) -> bytes:
        """See L{tbeast.domain.usage.Tallies.tell}."""
        return self._lanes.tell()

    def count(self) -> None:
        """Bring what has happened natively into the counters."""
        figures = self._lanes.figures()
        figures["sent"] = figures["answers"] - figures["unsendable"]
        counts = self._counters.counts
        for name, keys in _COUNTED.items():
            more = figures[name] - self._told.get(name, 0)
            if more:
                self._told[name] = figures[name]
                for key in keys:
                    counts[key] = counts.get(key, 0) + more
        for label, times, known in zip(UP_TO_US, figures["times"], self._times, strict=True):
            if times != known:
                timed = (RESPONSE_TIMES, SERVICE, label)
                counts[timed] = counts.get(timed, 0) + times - known
        self._times = figures["times"]


_COUNTED: Final = {
    "requests": (("requests", SERVICE, "http", "200"), ("lookups", SHELF)),
    "sent": (("requests", SERVICE, "udp", "200"), ("lookups", SHELF)),
    "unsendable": (("udp_dropped", SERVICE, UNSENDABLE), ("lookups", SHELF)),
    "accepted": (("lane_connections", "accepted"),),
    "left": (("lane_connections", "left"),),
    "returned": (("lane_connections", "returned"),),
    "idled": (("lane_connections", "idle"), ("slow_clients", SERVICE, IDLE)),
    "refused": ((REFUSED_CONNECTIONS, SERVICE),),
    "exhausted": (("lane_connections", "no_descriptor"),),
}
"""A figure of the native part: the counters that it adds to."""


def highest_descriptor(limit: int) -> int:
    """The highest descriptor for connections, where a process may have so many; the rest is for feeds, files and such.

    An eighth is kept from them, but no more than L{KEPT_DESCRIPTORS}.
    """
    return limit - min(KEPT_DESCRIPTORS, limit // 8) if limit > 0 else -1


_NO_DATE: Final = b"Thu, 01 Jan 1970 00:00:00 GMT"


def open_lanes(module: Any, shelf: Any, secret: bytes) -> Lanes:
    """Make the native part.

    @param module: as L{tbeast.native.loading.load} gives it.
    @param shelf: the memory of a L{tbeast.domain.sharedshelf.SharedShelf}.
    @param secret: 16 bytes that nobody else has; keys are found by their hash under it.
    """
    lanes: Lanes = module.Lanes(shelf, secret, Standing, TokenBucket, LeasedStanding, Line)
    return lanes
