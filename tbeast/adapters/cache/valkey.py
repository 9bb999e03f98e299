"""Valkey for everybody in this process: a few connections, and every answer in time or an error at once.

The rules. Whoever asks gets the answer, or L{CacheUnavailableError}, within the time-out; nobody may fail for that
alone. While the server is known to be away, and while it owes answers for longer than a moment, questions fail at once:
nothing queues for a server that does not answer. Connections are made again for ever and by themselves. An answer is
never given to another question (see L{tbeast.adapters.cache.resp}). The log tells when the server goes away, each new
reason once, and when it has been back for a while; the counters tell the rest.

A question goes to the connection with the fewest waiting, so two that were asked one after the other may be carried out
in the other order: who needs an order waits for the first answer, or asks both as one pipeline. Bulk work
(L{ValkeyClient.send_packed}) has a connection of its own, so that nobody waits behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any, Final

from attrs import field, frozen
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from tbeast.adapters.cache.resp import Limits, RefusedError, Reply, Word, carried_out, packed
from tbeast.adapters.cache.valkeylink import Link
from tbeast.adapters.cache.valkeytarget import Target, endpoint
from tbeast.domain.counters import Counters
from tbeast.errors import CacheUnavailableError
from tbeast.interfaces import Chance, Now

__all__ = [
    "CacheStatus", "Limits", "RefusedError", "Reply", "Script", "Subscriber", "ValkeyClient", "Word", "carried_out",
    "packed",
]  # fmt: skip

CONNECTIONS: Final = 2
MOST_REASONS_TOLD: Final = 8


@frozen
class CacheStatus:
    """Whether the server can be asked.

    @ivar since: seconds since the epoch.
    @ivar why: why not, in few words; empty when it can.
    """

    up: bool
    since: float
    why: str = ""


@frozen
class Script:
    """A Lua script, run by its digest; its text is sent only to a server that does not know it (any more)."""

    text: bytes
    digest: bytes = field(init=False)

    @digest.default
    def _sha1(self) -> bytes:
        return sha1(self.text).hexdigest().encode()  # EVALSHA names a script so


Call = tuple[Sequence[Word], Sequence[Word]]
"""One run of a script: its keys and its arguments."""


class ValkeyClient:
    """See the module.

    @ivar counts: what happened, by name: C{asked}, C{refused} (answered with an error), C{failed} (asked in vain),
        C{turned_away} (not asked, the server being away or late), C{losses} (times the server went away).
    """

    _log = Logger()

    def __init__(
        self,
        target: Target,
        reactor: Any,
        now: Now,
        chance: Chance,
        limits: Limits | None = None,
        trust_root: Any = None,
        counters: Counters | None = None,
    ) -> None:
        """Set it up, without connecting.

        @param reactor: gives connections, name look-ups and time.
        @param trust_root: an C{IOpenSSLTrustRoot} to check certificates against instead of the platform's.
        @param counters: where questions are counted as well, under C{cache_questions}.
        """
        self.target = target
        self.counts: dict[str, int] = dict.fromkeys(("asked", "refused", "failed", "turned_away", "losses"), 0)
        self._counters = counters
        self._reactor = reactor
        self._now = now
        self._chance = chance
        self._limits = limits or Limits()
        self._endpoint = endpoint(target, reactor, self._limits.connect_seconds, trust_root)
        self._links = [self._link(self._noted) for _ in range(CONNECTIONS)]
        self._bulk = self._link(lambda _link: None)
        self._subscribers: list[Subscriber] = []
        self._started = False
        self._up = False
        self._why = "not started"
        self._since = now()
        self._told: set[str] = set()
        self._losses_told = 0
        self._back: IDelayedCall | None = None

    # Life.

    def start(self) -> Deferred[None]:
        """Begin to connect, and go on with it for ever.

        @return: fires when the first attempts have ended, good or bad, so in any case soon; never fails.
        @raise RuntimeError: when it runs.
        """
        if self._started:
            raise RuntimeError("the client was started already")
        self._started = True
        self._why = "not connected yet"
        self._since = self._now()
        for subscriber in self._subscribers:
            subscriber.start()
        started = DeferredList([link.start() for link in (*self._links, self._bulk)])
        return started.addCallback(lambda _: None)

    def stop(self) -> Deferred[None]:
        """Close all connections; what waits fails.

        @return: fires when they are closed and nothing is left to happen; never fails.
        """
        self._started = False
        if self._back is not None:
            self._back.cancel()
            self._back = None
        self._up = False
        self._why = "stopped"
        self._since = self._now()
        stopped = [link.stop() for link in (*self._links, self._bulk)]
        stopped += [subscriber.stop() for subscriber in self._subscribers]
        return DeferredList(stopped).addCallback(lambda _: None)

    @property
    def status(self) -> CacheStatus:
        """Whether the server can be asked just now."""
        if not self._up:
            return CacheStatus(False, self._since, self._why)
        if any(link.usable for link in self._links):
            return CacheStatus(True, self._since)
        return CacheStatus(False, self._now(), "its answers are late")

    # Questions.

    def command(self, *words: Word) -> Deferred[Reply]:
        """Ask one thing.

        @return: the reply: bytes, int, C{None} or a list. Fails with L{CacheUnavailableError}, which is a
            L{RefusedError} when the server answered with an error.
        """
        return self._ask(packed(*words), 1).addCallback(_only)

    def pipeline(self, commands: Sequence[Sequence[Word]]) -> Deferred[list[Reply]]:
        """Ask many things in one write, to be carried out one after the other (others may come between them).

        @return: a reply for each, in order; a L{RefusedError} where the server answered with an error. Fails with
            L{CacheUnavailableError} when the answers did not all come; some may have been carried out.
        """
        if not commands:
            return succeed([])
        return self._ask(b"".join([packed(*words) for words in commands]), len(commands))

    def script(self, script: Script, keys: Sequence[Word], arguments: Sequence[Word]) -> Deferred[Reply]:
        """Run a script once; see L{command}."""
        return self.scripts(script, [(keys, arguments)]).addCallback(_only)

    def scripts(self, script: Script, calls: Sequence[Call]) -> Deferred[list[Reply]]:
        """Run a script many times in one write; see L{pipeline}."""
        return ensureDeferred(self._scripts(script, calls))

    def send_packed(self, data: bytes, replies: int) -> Deferred[None]:
        """Send commands that are ready for the wire (L{packed}), on the connection for bulk work.

        Their replies are counted, not kept. Two or three of these under way at a time, each of some hundred KB, keep
        the server busy; more only take memory.

        @param replies: how many commands there are; at least one.
        @return: fires when all are carried out. Fails with L{RefusedError} when some were refused (the message says how
            many, and the first error), with L{CacheUnavailableError} when it is not known which were carried out.
        """
        if not self._bulk.ready:
            return self._turned_away(self._bulk.why or "not connected")
        self._count("asked")
        answer = self._bulk.ask(data, replies, bulk=True).addErrback(self._failed)
        return answer.addCallback(self._raise_if_refused)

    def subscriber(
        self,
        channel: bytes,
        heard: Callable[[bytes], None],
        lost: Callable[[], None],
        regained: Callable[[], None],
    ) -> Subscriber:
        """Hear a channel, on a connection of its own, from now or from the start on until the stop.

        @param lost: called when messages may be missed from now on.
        @param regained: called when the subscription stands, the first time too: messages may have been missed before.
        """
        subscriber = Subscriber(self._link, channel, heard, lost, regained)
        self._subscribers.append(subscriber)
        if self._started:
            subscriber.start()
        return subscriber

    async def _scripts(self, script: Script, calls: Sequence[Call]) -> list[Reply]:
        def command(name: bytes, body: bytes, call: Call) -> tuple[Word, ...]:
            keys, arguments = call
            return (name, body, len(keys), *keys, *arguments)

        replies = await self.pipeline([command(b"EVALSHA", script.digest, call) for call in calls])
        unknown = [place for place, reply in enumerate(replies) if _is_unknown_script(reply)]
        if unknown:
            # none of these was run; the first one teaches the server the script for the others
            first, *others = unknown
            again = [command(b"EVAL", script.text, calls[first])]
            again += [command(b"EVALSHA", script.digest, calls[place]) for place in others]
            for place, reply in zip(unknown, await self.pipeline(again), strict=True):
                replies[place] = reply
        return replies

    def _ask(self, data: bytes, replies: int) -> Deferred[list[Reply]]:
        best: Link | None = None
        for link in self._links:
            if link.usable and (best is None or link.waiting < best.waiting):
                best = link
        if best is None:
            return self._turned_away("its answers are late" if self._up else self._why)
        self._count("asked")
        return best.ask(data, replies).addCallbacks(self._answered, self._failed)

    def _count(self, outcome: str) -> None:
        self.counts[outcome] += 1
        if self._counters is not None:
            self._counters.count("cache_questions", outcome)

    def _answered(self, replies: list[Reply]) -> list[Reply]:
        for reply in replies:
            if isinstance(reply, RefusedError):
                self._count("refused")
        return replies

    def _failed(self, failure: Any) -> Any:
        self._count("failed")
        return failure

    def _raise_if_refused(self, refusals: list[Reply]) -> None:
        carried_out(self._answered(refusals))

    def _turned_away(self, why: str) -> Deferred[Any]:
        self._count("turned_away")
        return fail(CacheUnavailableError(f"the cache at {self.target} cannot be asked: {why}"))

    # The state, and telling of it.

    def _link(
        self,
        changed: Callable[[Link], None],
        channel: bytes | None = None,
        heard: Callable[[bytes], None] | None = None,
    ) -> Link:
        return Link(
            self.target, self._endpoint, self._reactor, self._chance, self._limits, changed, channel, heard
        )  # fmt: skip

    def _noted(self, link: Link) -> None:
        """A connection has become ready, or has failed."""
        if not self._started:
            return
        self._why = link.why or self._why
        up = any(link.ready for link in self._links)
        if up != self._up:
            self._up = up
            self._since = self._now()
            if up:
                self._tell_up()
            else:
                self.counts["losses"] += 1
        if not up:
            self._tell_away()

    def _tell_up(self) -> None:
        if not self._told:
            self._log.info("the cache at {target} is there", target=self.target)
        elif self._back is None:
            self._back = self._reactor.callLater(self._limits.settled_seconds, self._tell_back)

    def _tell_back(self) -> None:
        self._back = None
        lost, self._losses_told = self.counts["losses"] - self._losses_told, self.counts["losses"]
        self._told.clear()
        self._log.info("the cache at {target} is back; times it was lost: {lost}", target=self.target, lost=lost)

    def _tell_away(self) -> None:
        if self._back is not None:
            self._back.cancel()
            self._back = None
        why = self._why
        if why in self._told or len(self._told) >= MOST_REASONS_TOLD:
            return
        self._told.add(why)
        self._log.error(
            "the cache at {target} is away: {why}; going on without it, and trying again for ever",
            target=self.target, why=why,
        )  # fmt: skip


class Subscriber:
    """One channel that is heard.

    @ivar link: its connection.
    @ivar live: whether the subscription stands.
    """

    _log = Logger()

    def __init__(
        self,
        make_link: Callable[[Callable[[Link], None], bytes, Callable[[bytes], None]], Link],
        channel: bytes,
        heard: Callable[[bytes], None],
        lost: Callable[[], None],
        regained: Callable[[], None],
    ) -> None:
        self.link = make_link(self._changed, channel, heard)
        self.live = False
        self._lost = lost
        self._regained = regained

    def start(self) -> None:
        """Begin to connect, and go on with it until the client is stopped."""
        self.link.start()

    def stop(self) -> Deferred[Any]:
        """End it; nothing is told any more. See L{Link.stop}."""
        self.live = False
        return self.link.stop()

    def _changed(self, link: Link) -> None:
        if link.ready == self.live:
            return
        self.live = link.ready
        try:
            (self._regained if self.live else self._lost)()
        except Exception:
            self._log.failure("whoever listens to the cache failed at the news that it came or went")


def _only(replies: list[Reply]) -> Reply:
    (reply,) = replies
    if isinstance(reply, RefusedError):
        raise reply
    return reply


def _is_unknown_script(reply: Reply) -> bool:
    return isinstance(reply, RefusedError) and str(reply).startswith("NOSCRIPT")
