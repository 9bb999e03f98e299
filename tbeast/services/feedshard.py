"""The part of an exchange's symbols that one connection carries, and the connections that come and go for it.

The rules:

  - After an end the next try waits by L{tbeast.domain.backoff}; only a healthy minute, open and with prices, makes the
    waits short again, and no number of failures ends anything.
  - A connection that will end is replaced before it does: its successor takes over when it has been heard, and not
    before; one that fails leaves the old one in its place. The same is done where other symbols are wanted of it.
  - A quiet market is no dead socket. Whether a connection lives is its codec's word; only where many symbols used to
    bring prices all the time, and all fall silent at once, is a new connection tried without being asked for.
  - The sink is told which symbols a live connection carries and which are halted, and nothing twice. What an ended
    connection said of halts holds until the next one is open, and then only if that says so too.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from tbeast.codecs.exchanges.base import Exchange
from tbeast.domain.backoff import Backoff
from tbeast.domain.counters import Counters
from tbeast.interfaces import Chance, Now, SocketDialer, TickSink
from tbeast.services.feedlink import FeedLink

HEALTHY_SECONDS: Final = 60.0

SUCCESSOR_SETTLES_SECONDS: Final = 5.0
"""How long a successor that has been heard may take for the rest of its symbols before it takes over all the same."""
SUCCESSOR_GIVEN_UP_SECONDS: Final = 30.0
"""How long a successor may be open without being heard."""

LIFETIME_FRACTION: Final = 0.90
LIFETIME_JITTER: Final = 0.05

SILENT_SECONDS: Final = 30.0
SILENT_LEAST_SYMBOLS: Final = 5
SILENT_LEAST_PER_MINUTE: Final = 20.0

NOTHING_ANSWERED_SECONDS: Final = 30.0
"""When a connection on which not one symbol was acknowledged or heard is given up."""

_TOO_MANY = re.compile(r"HTTP 429(?:, retry after (\d+) s)?")


class ShardOwner(Protocol):
    """The exchange's feed, as its parts see it.

    @ivar stopping: no more connections are wanted.
    @ivar why: the last reason for which a connection ended or could not be made.
    """

    exchange: Exchange
    exchange_name: str
    dialer: SocketDialer
    sink: TickSink
    counters: Counters
    clock: IReactorTime
    now: Now
    chance: Chance
    stopping: bool
    why: str

    def dial_wait_seconds(self) -> float:
        """How long the next connection must wait; 0 for not at all."""

    def dialing(self) -> None:
        """A connection is being begun."""

    def hold(self, seconds: float) -> None:
        """Begin no connection for so long."""

    def subscribed(self, symbols: tuple[str, ...]) -> None:
        """A connection for these has come up where there was none for them."""

    def link_ended(self) -> None:
        """A connection is gone."""


class FeedShard:
    """One part of the symbols, and whatever connections carry it: one that serves, perhaps a candidate for its place,
    and retired ones of which only the end is waited for.

    @ivar symbols: the part.
    @ivar out_since: since when none serves, while none does.
    @ivar failed: whether any connection has ended or failed since the start.
    @ivar joins: whether it was made beside others that were there already.
    """

    log = Logger()

    def __init__(self, feed: ShardOwner, symbols: tuple[str, ...], joins: bool = False) -> None:
        self.symbols = symbols
        self.joins = joins
        self.serving: FeedLink | None = None
        self.candidate: FeedLink | None = None
        self.retired: set[FeedLink] = set()
        self.out_since = feed.now()
        self.failed = False
        self.last_tick_at: float | None = None
        self._feed = feed
        self._backoff = Backoff(feed.chance)
        self._timer: IDelayedCall | None = None
        self._replacing = False
        self._replace_at: float | None = None
        self._carried: set[str] = set()
        self._halted: set[str] = set()
        self._found_healthy: FeedLink | None = None
        self._per_minute: float | None = None
        self._minute_began = 0.0
        self._minute_ticks = 0

    def begin(self) -> None:
        """Make the first connection as soon as the exchange permits."""
        self._plan(0.0)

    def stop(self) -> None:
        """End everything."""
        self._cancel_plan()
        for link in self.links():
            link.drop("stopped")

    def close(self, why: str) -> None:
        """End everything in good order, and begin nothing more; what is not over at once is waited for as retired."""
        self._cancel_plan()
        self.symbols = ()
        self._tell_halts("")
        self._tell_sink()
        for link in (self.serving, self.candidate):
            if link is not None:
                self.retired.add(link)
                link.retire(why)
        self.serving = self.candidate = None

    def adopt(self, symbols: tuple[str, ...]) -> None:
        """Carry these from now on: at once, or as soon as a successor of the connection does."""
        before, self.symbols = self.symbols, symbols
        if set(before) == set(symbols):
            return
        self._tell_halts("")
        self._tell_sink()
        self._per_minute = None  # others have another rhythm
        if self.serving is not None:
            self._minute_began, self._minute_ticks = self._feed.now(), self.serving.ticks
            self._replace_if_changed(self.serving)

    def links(self) -> list[FeedLink]:
        """Every connection that has not ended yet."""
        return [link for link in (self.serving, self.candidate, *self.retired) if link is not None]

    def open_links(self) -> list[FeedLink]:
        """Those that carry something."""
        return [link for link in (self.serving, self.candidate) if link is not None and link.is_open]

    def reconnect(self, why: str) -> None:
        """Drop what there is and dial again without waiting."""
        dropped = [link for link in (self.serving, self.candidate) if link is not None]
        for link in dropped:
            link.drop(why, at_once=True)
        if not dropped:
            self._cancel_plan()
            self._plan(0.0)

    def heard_at(self) -> float | None:
        """When the newest price came over any of its connections."""
        times = [self.last_tick_at, *(link.last_tick_at for link in self.open_links())]
        return max((time for time in times if time is not None), default=None)

    def is_new(self, now: float, seconds: float) -> bool:
        """Whether it has joined others so lately that nobody can blame it for not having been heard yet."""
        return self.joins and not self.failed and self.heard_at() is None and now - self.out_since < seconds

    def due(self, now: float) -> None:
        """A second has passed."""
        for one in self.open_links():
            one.due(now)
        if self.candidate is not None and self.candidate.is_open and self.serving is not None:
            self._judge_candidate(self.candidate, now)
        link = self.serving
        if link is None or not link.is_open:
            return
        if link is not self._found_healthy and _healthy(link):
            self._found_healthy = link  # once: failing successors must not be forgiven every second
            self._backoff.reset()
        self._learn_rhythm(link, now)
        if self._replace_at is not None and now >= self._replace_at:
            self._replace_at = None
            self.replacement_wanted(link, "its lifetime is nearly over")
        silent_for = now - (link.last_tick_at or link.opened_at or now)
        if self._is_brisk() and silent_for >= SILENT_SECONDS:
            link.drop(f"no price for {silent_for:.0f} s")
        elif link.unanswered() and silent_for >= NOTHING_ANSWERED_SECONDS:
            link.drop("no answer to the subscription")

    # What the links tell.

    def link_opened(self, link: FeedLink) -> None:
        """See L{tbeast.services.feedlink.LinkOwner}."""
        self._feed.counters.count("feed_connections", self._feed.exchange_name)
        if self.serving is None:
            self._promote(link)
        come = self._tell_sink()
        if come and link.is_open:
            self._feed.subscribed(come)

    def link_closed(self, link: FeedLink, reason: str) -> None:
        """See L{tbeast.services.feedlink.LinkOwner}."""
        now = self._feed.now()
        if link.last_tick_at is not None:
            self.last_tick_at = max(link.last_tick_at, self.last_tick_at or 0.0)
        if link in self.retired:
            self.retired.discard(link)
            self._feed.link_ended()
            return
        was_serving = link is self.serving
        if not was_serving and link is not self.candidate:
            self._feed.link_ended()
            return
        if was_serving:
            self.serving = None
            self.out_since = now
            self._replace_at = None
            if self.candidate is not None and self.candidate.is_open:
                self._promote(self.candidate)
        else:
            self.candidate = None
        self._tell_sink()
        if not self._feed.stopping:
            self._ended(link, reason, was_serving)
        self._feed.link_ended()

    def link_changed(self, link: FeedLink) -> None:
        """See L{tbeast.services.feedlink.LinkOwner}."""
        self._tell_sink()

    def replacement_wanted(self, link: FeedLink, reason: str) -> None:
        """See L{tbeast.services.feedlink.LinkOwner}."""
        if link is not self.serving or self._replacing:
            return
        self._replacing = True
        self.log.info("{exchange}: making a successor: {reason}", exchange=self._feed.exchange_name, reason=reason)
        if self.candidate is None and self._timer is None:
            self._plan(0.0)

    def halt_heard(self, link: FeedLink, reason: str) -> None:
        """See L{tbeast.services.feedlink.LinkOwner}."""
        if link is self.serving:
            self._tell_halts(reason)

    def throttle_heard(self, seconds: float | None) -> None:
        """See L{tbeast.services.feedlink.LinkOwner}."""
        self._feed.hold(self._backoff.throttled(seconds or 0.0))

    # Within.

    def _plan(self, wait_seconds: float) -> None:
        self._timer = self._feed.clock.callLater(wait_seconds, self._try)

    def _cancel_plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _try(self) -> None:
        """Dial, or wait until it is permitted."""
        self._timer = None
        feed = self._feed
        wait = feed.dial_wait_seconds()
        if wait > 0.0:
            self._plan(wait)
            return
        feed.dialing()
        try:
            link = FeedLink(feed.exchange, self.symbols, self, feed.sink, feed.counters, feed.clock, feed.now)
            self.candidate = link
            link.dial(feed.dialer, feed.exchange.facts.websocket_url)
        except Exception:
            self.candidate = None
            feed.counters.count("service_failures", f"feed {feed.exchange_name}")
            self.log.failure("{exchange}: cannot even dial", exchange=feed.exchange_name)
            self.failed = True
            feed.why = "cannot dial"
            self._plan(self._backoff.failed())

    def _ended(self, link: FeedLink, reason: str, was_serving: bool) -> None:
        """Say why, and see to the next try, if one is needed and not on its way."""
        feed = self._feed
        feed.why = reason
        self.failed = True
        too_many = _TOO_MANY.search(reason)
        if link.at_once:
            wait = 0.0
            self._cancel_plan()
        elif too_many:
            wait = self._backoff.throttled(float(too_many[1] or 0))
            feed.hold(wait)
        else:
            wait = self._backoff.failed()
        needed = self.serving is None or self._replacing
        if needed and self.candidate is None and self._timer is None:
            self._plan(wait)
        if was_serving or self._backoff.failures == 1:
            self.log.info(
                "{exchange}: {what}: {reason}; next try in {wait:.1f} s" if needed else "{exchange}: {what}: {reason}",
                exchange=feed.exchange_name,
                what="connection ended" if link.opened_at is not None else "no connection",
                reason=reason,
                wait=wait,
            )

    def _promote(self, link: FeedLink) -> None:
        """From now on this one serves."""
        old, self.serving = self.serving, link
        if link is self.candidate:
            self.candidate = None
        self._replacing = False
        lifetime = self._feed.exchange.facts.lifetime_seconds
        opened_at = link.opened_at or self._feed.now()
        self._replace_at = None
        if lifetime is not None:
            self._replace_at = opened_at + lifetime * (LIFETIME_FRACTION + LIFETIME_JITTER * self._feed.chance())
        self._minute_began = opened_at
        self._minute_ticks = len(self.symbols)  # snapshots say nothing of the rhythm
        if old is not None:
            self.retired.add(old)
            old.retire("replaced")
            self.log.info("{exchange}: connection replaced", exchange=self._feed.exchange_name)
        self._tell_halts("")
        if link.leaving:
            self.replacement_wanted(link, link.leaving)
        self._replace_if_changed(link)

    def _replace_if_changed(self, link: FeedLink) -> None:
        if set(link.symbols) != set(self.symbols):
            self.replacement_wanted(link, "other symbols are wanted")

    def _judge_candidate(self, candidate: FeedLink, now: float) -> None:
        open_for = now - (candidate.opened_at or now)
        if (candidate.settled() and not candidate.silent) or (
            candidate.ticks and open_for >= SUCCESSOR_SETTLES_SECONDS
        ):
            self._promote(candidate)
            self._tell_sink()
        elif open_for >= SUCCESSOR_GIVEN_UP_SECONDS:
            candidate.drop("a successor that says nothing")

    def _learn_rhythm(self, link: FeedLink, now: float) -> None:
        if now - self._minute_began < 60.0:
            return
        came = max(0, link.ticks - self._minute_ticks) * 60.0 / (now - self._minute_began)
        self._per_minute = came if self._per_minute is None else (self._per_minute + came) / 2.0
        self._minute_began, self._minute_ticks = now, link.ticks

    def _is_brisk(self) -> bool:
        return (
            len(self.symbols) >= SILENT_LEAST_SYMBOLS
            and self._per_minute is not None
            and self._per_minute >= SILENT_LEAST_PER_MINUTE
            and not self._halted
        )

    def _tell_halts(self, reason: str) -> None:
        """Let the sink know what the serving connection says of halts, as far as it is news."""
        before, after = self._halted, set() if self.serving is None else self.serving.halted & set(self.symbols)
        self._halted = after
        name = self._feed.exchange_name
        for symbols, halted in ((after - before, True), (before - after, False)):
            if symbols:
                self._feed.sink.halted(name, tuple(sorted(symbols)), halted)
        if bool(before.intersection(self.symbols)) != bool(after):
            says = f"is halted: {reason}" if after else "goes on"
            self.log.warn("{exchange}: trading {says}", exchange=name, says=says)

    def _tell_sink(self) -> tuple[str, ...]:
        """Let the sink know which of the symbols are carried, as far as it is news; give those that are now."""
        feed = self._feed
        carried: set[str] = set()
        for link in self.open_links():
            carried |= link.carries()
        carried.intersection_update(self.symbols)
        before, self._carried = self._carried, carried
        now = feed.now()
        known = dict.fromkeys((*self.symbols, *sorted(before)))
        if gone := tuple(symbol for symbol in known if symbol in before and symbol not in carried):
            feed.sink.disconnected(feed.exchange_name, gone, now)
        come = tuple(symbol for symbol in self.symbols if symbol in carried and symbol not in before)
        if come:
            feed.sink.connected(feed.exchange_name, come, now)
        return come


def _healthy(link: FeedLink) -> bool:
    first, last = link.first_tick_at, link.last_tick_at
    return first is not None and last is not None and last - first >= HEALTHY_SECONDS
