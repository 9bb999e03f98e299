"""Limits that hold across nodes: this node's exchanges with the shared buckets.

The law stands in L{tbeast.domain.leases}; here it is given a clock and a line. The rules:

 - Every L{EXCHANGE_SECONDS} one message goes out for all keys that have something to tell or to ask, and at once when a
   lease has run dry. One is under way at a time, so a shared cache that hangs piles up nothing. With nothing to tell or
   to ask one goes every L{GREETING_SECONDS}: it keeps this node among those that share, and tells silence from rest.
 - A message carries at most L{MOST_REPORTS} keys; the others come next, in order.
 - In a silence nothing is told; the node only looks, as often, until it is answered within L{SILENCE_SECONDS}.
 - An answer that comes later than that is not used. Nothing is lost by it: totals are reported, not differences, so
   what the late message has taken out is not taken out again, and a lease that was not renewed took nothing.
 - At the stop all is told, and goodbye said, within L{LAST_WORDS_SECONDS}.

A standing that has nothing to tell or ask is not held here; so this is as large as what was asked for lately.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.domain.counters import Counters
from tbeast.domain.keys import Account
from tbeast.domain.leases import EXCHANGE_SECONDS, LeasedStanding, Line
from tbeast.domain.sharedbuckets import SILENCE_SECONDS, Balance, Contact, Hello, Report
from tbeast.errors import CacheUnavailableError
from tbeast.interfaces import Now

GREETING_SECONDS: Final = 0.25
MOST_REPORTS: Final = 500
LAST_WORDS_SECONDS: Final = 2.0

WORK: Final = "limits"

# what becomes of a message, for the counter
ANSWERED: Final = "answered"
LATE: Final = "late"
FAILED: Final = "failed"


class SharedLimits(Protocol):
    """The buckets that all nodes share: in Valkey, or the twin in memory.

    Everything may fail with L{CacheUnavailableError}; then it may have been carried out or not.
    """

    def look(self, node: str) -> Awaitable[Contact]:
        """Ask how things are, and change nothing."""

    def exchange(self, hello: Hello, reports: Sequence[Report]) -> Awaitable[tuple[Contact, list[Balance]]]:
        """Say hello, and report; the balances are in the order of the reports."""

    def leave(self, node: str) -> Awaitable[None]:
        """Say goodbye."""


@frozen
class LimitsStatus:
    """How it stands.

    @ivar shared: whether limits hold across nodes just now; else this node lives on its share.
    @ivar since: since when, in seconds since the epoch.
    @ivar nodes: how many share.
    @ivar waiting: keys that have something to tell or to ask.
    """

    shared: bool
    since: float
    nodes: int
    waiting: int


class ClusterLimits(Service):
    """See the module. Its L{open_standing} is what the gate is handed."""

    log = Logger()

    def __init__(
        self, shared: SharedLimits, node: str, life: str, nodes: int, clock: IReactorTime, now: Now, counters: Counters
    ) -> None:
        """Set it up.

        @param node: this node's name, another one for each process.
        @param life: names this process among those that bore the name; without spaces.
        @param nodes: how many nodes share at least.
        @param now: what the gate is asked with, too.
        """
        self._shared = shared
        self._clock = clock
        self._now = now
        self._counters = counters
        self._line = Line(node, life, nodes, now())
        self._line.hurry = self._hurry
        self._under_way: Deferred[None] | None = None
        self._asked_at = float("-inf")
        self._again = False
        self._has_contact = False
        self._since = now()
        self._told_silence = False
        self._first: Deferred[None] | None = None
        self._next: IDelayedCall | None = None

    @property
    def status(self) -> LimitsStatus:
        """How it stands just now."""
        return LimitsStatus(self._has_contact, self._since, self._line.nodes, len(self._line.wanted))

    def open_standing(self, account: Account, now: float) -> LeasedStanding:
        """See L{tbeast.domain.admission.OpenStanding}."""
        return LeasedStanding(account, now, self._line)

    def startService(self) -> Deferred[None]:
        """Begin.

        @return: fires when the first look was answered, or has failed, or has taken too long; never fails.
        """
        super().startService()  # type: ignore[no-untyped-call]
        first: Deferred[None] = Deferred()
        self._first = first
        self._plan(0.0)
        limit = self._clock.callLater(SILENCE_SECONDS, self._tell_first)
        return first.addCallback(lambda _: limit.cancel() if limit.active() else None)

    async def stopService(self) -> None:
        """End the exchanges, tell what is left to tell, and say goodbye; does not fail."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._tell_first()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        last = ensureDeferred(self._last_words())
        limit = self._clock.callLater(LAST_WORDS_SECONDS, last.cancel)
        try:
            await last
        except Exception:
            self.log.warn("the last questions that were admitted could not be told to the shared cache")
        finally:
            if limit.active():
                limit.cancel()

    # The rounds.

    def _plan(self, seconds: float) -> None:
        """The next round is in so many seconds, or when it was to be if that is sooner."""
        if self._next is not None:
            if seconds > 0.0:
                return
            self._next.cancel()
        self._next = self._clock.callLater(seconds, self._begin)

    def _hurry(self) -> None:
        self._line.hurried = True
        if self._under_way is not None:
            self._again = True
        elif self.running:
            self._plan(0.0)

    def _begin(self) -> None:
        self._next = None
        self._plan(EXCHANGE_SECONDS)
        try:
            self._round()
        except Exception:
            self._counters.count("service_failures", WORK)
            self.log.failure("a round of the limits failed; the next one comes")

    def _round(self) -> None:
        """Send the next message, if there is reason to and none is under way."""
        now = self._now()
        if now > self._line.until:
            self._note_silence(now)
        if self._under_way is not None or not self.running:
            return
        self._line.hurried = False
        if not self._has_contact:
            if now - self._asked_at >= GREETING_SECONDS:
                self._send(self._shared.look(self._line.node), float("inf"), self._looked)
            return
        chosen = self._choose(now)
        # who waits for tokens waits for the clock of the buckets, which moves by our messages
        if self._line.wanted or now - self._asked_at >= GREETING_SECONDS:
            reports = [standing.report() for standing in chosen]
            if reports:
                self._counters.count("limit_reports", by=len(reports))
            message = self._shared.exchange(self._line.hello(), reports)
            # once the silence has begun, its tokens are in the lease: too late to say what the lease is
            self._send(message, self._line.until, partial(self._exchanged, chosen))

    def _send(self, message: Awaitable[Any], until: float, answered: Callable[[Any, float], None]) -> None:
        self._asked_at = asked_at = self._now()
        under_way = self._under_way = ensureDeferred(_awaited(message))
        under_way.addCallback(self._answered, min(until, asked_at + SILENCE_SECONDS), answered)
        under_way.addErrback(self._failed)
        under_way.addCallback(self._ended)

    def _answered(self, answer: Any, until: float, answered: Callable[[Any, float], None]) -> None:
        now = self._now()
        late = now > until
        self._counters.count("limit_exchanges", LATE if late else ANSWERED)
        if late:
            self._asked_at = float("-inf")  # there is somebody: look at once
            self._again = True
        else:
            answered(answer, now)

    def _failed(self, failure: Failure) -> None:
        self._counters.count("limit_exchanges", FAILED)
        if not isinstance(failure.value, CacheUnavailableError):
            self.log.failure("an exchange about limits failed in an unforeseen way", failure)

    def _ended(self, _: None) -> None:
        self._under_way = None
        self._tell_first()
        if self._again and self.running:
            self._again = False
            self._plan(0.0)

    def _choose(self, now: float) -> list[LeasedStanding]:
        """Who is in the next message; they go to the end of the list."""
        chosen: list[LeasedStanding] = []
        others: list[LeasedStanding] = []
        for standing in self._line.wanted:
            if standing.is_gone:
                continue
            if len(chosen) < MOST_REPORTS and standing.needs(now):
                chosen.append(standing)
            else:
                others.append(standing)
        self._line.wanted = [*others, *chosen]
        return chosen

    def _looked(self, contact: Contact, now: float) -> None:
        stood_still = self._line.regained(contact, now)
        self._has_contact = True
        self._since = now
        for standing in self._line.wanted:
            standing.settle(stood_still, now)
        if self._told_silence:
            self._told_silence = False
            self.log.info("limits hold across {nodes} nodes again", nodes=self._line.nodes)
        self._asked_at = float("-inf")
        self._again = True

    def _exchanged(self, chosen: list[LeasedStanding], answer: tuple[Contact, list[Balance]], now: float) -> None:
        contact, balances = answer
        self._line.heard(contact, now)
        content = {
            id(standing) for standing, balance in zip(chosen, balances, strict=True) if not standing.take(balance, now)
        }
        if content:
            self._line.wanted = [standing for standing in self._line.wanted if id(standing) not in content]

    def _note_silence(self, now: float) -> None:
        if self._has_contact:
            self._has_contact = False
            self._since = now
        if not self._told_silence and now - self._since > SILENCE_SECONDS:
            self._told_silence = True
            self.log.warn(
                "the shared cache does not answer: this node admits 1/{nodes} of each key's rate by itself",
                nodes=self._line.nodes,
            )

    def _tell_first(self) -> None:
        first, self._first = self._first, None
        if first is not None:
            first.callback(None)

    async def _last_words(self) -> None:
        if self._under_way is not None:
            ended: Deferred[None] = Deferred()
            self._under_way.addCallback(ended.callback)
            await ended
        while self._has_contact and self._now() <= self._line.until:
            now = self._now()
            chosen = [standing for standing in self._choose(now) if standing.has_to_tell]
            if not chosen:
                break
            reports = [standing.report() for standing in chosen]
            contact, balances = await self._shared.exchange(self._line.hello(), reports)
            self._exchanged(chosen, (contact, balances), self._now())
        await self._shared.leave(self._line.node)


async def _awaited(message: Awaitable[Any]) -> Any:
    return await message
