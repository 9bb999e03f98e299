"""The feeds: for every exchange, connections that come up, stay up, and come up again.

The rules:

  - The symbols of an exchange are spread over as few connections as it allows; each is looked after on its own, by
    L{tbeast.services.feedshard}.
  - Connections are begun no faster than the exchange permits, and not at all for as long as it has asked us to wait.
  - No exchange holds up another, nor the start: the daemon comes up whether or not any of them answers.
  - When other symbols are wanted, each connection keeps those of its own that still are, and new ones go where room is;
    only the connections whose symbols have changed are replaced, and each serves until its successor does. Connections
    that have become few in symbols are put together only at the next start.
  - An exchange of which nothing is wanted is L{OFF}: it has no connections, and nobody misses them.
  - An exchange that an operator has paused has no connections either, whatever the asset map wants of it, and to the
    sink all of it is halted: its prices have no vote from then on, and REST is not asked in its place. That holds until
    the operator ends it or the daemon does: it is kept nowhere, and no other node knows of it.
  - Connections are renewed, on an operator's word, one after the other, each serving until its successor does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from tbeast.codecs.exchanges.base import Exchange
from tbeast.domain.assetmap import AssetMap
from tbeast.domain.counters import Counters
from tbeast.domain.feedstatus import CONNECTING, DOWN, LATE, LIVE, OFF, PAUSED, FeedStatus
from tbeast.domain.pacing import Pace
from tbeast.domain.shards import shards
from tbeast.interfaces import Chance, Now, SocketDialer, TickSink
from tbeast.services.feedlink import FeedLink
from tbeast.services.feedshard import FeedShard

DUE_EVERY_SECONDS: Final = 1.0
LATE_SECONDS: Final = 30.0
ON_THE_WAY_SECONDS: Final = 10.0

BY_OPERATOR: Final = "paused by the operator"


def moved(parts: Sequence[tuple[str, ...]], symbols: Iterable[str], symbols_per_socket: int) -> list[tuple[str, ...]]:
    """Spread other symbols over connections that there are, and as few new ones as that takes.

    Those that are on one stay there. New ones fill the connections that have to change in any case, then the emptiest.

    @param parts: what each connection carries now.
    @param symbols: all that is wanted, the most important first.
    @return: what each is to carry, in the order of C{parts}; one that has nothing left is empty.
    """
    wanted = tuple(dict.fromkeys(symbols))
    place_of = {symbol: place for place, part in enumerate(parts) for symbol in part}
    planned: list[list[str]] = [[] for _ in parts]
    new = []
    for symbol in wanted:
        if symbol in place_of:
            planned[place_of[symbol]].append(symbol)
        else:
            new.append(symbol)
    order = sorted(range(len(parts)), key=lambda place: (len(planned[place]) == len(parts[place]), len(planned[place])))
    for place in order:
        room = max(0, symbols_per_socket - len(planned[place]))
        planned[place] += new[:room]
        del new[:room]
    return [*map(tuple, planned), *shards(new, symbols_per_socket)]


class ExchangeFeed(Service):
    """One exchange's connections.

    @ivar exchange_name: its name, for logs and labels.
    @ivar why: the last reason for which a connection ended or could not be made.
    @ivar paused: whether an operator has paused it.
    """

    log = Logger()

    def __init__(
        self,
        exchange: Exchange,
        symbols: Iterable[str],
        dialer: SocketDialer,
        sink: TickSink,
        counters: Counters,
        clock: IReactorTime,
        now: Now,
        chance: Chance,
        on_subscribed: Callable[[str, tuple[str, ...]], object] | None = None,
    ) -> None:
        """Set it up; nothing is dialed before the start.

        @param symbols: what to subscribe to, the most important first.
        @param on_subscribed: called with the exchange's name and symbols when these have been subscribed to anew, on an
            exchange that sends no snapshot: someone should ask REST for their prices.
        """
        self.exchange = exchange
        self.exchange_name = exchange.facts.name
        self.symbols = tuple(dict.fromkeys(symbols))
        self.dialer = dialer
        self.sink = sink
        self.counters = counters
        self.clock = clock
        self.now = now
        self.chance = chance
        self.why = ""
        self.stopping = False
        self.paused = False
        self._on_subscribed = on_subscribed
        self._pace = Pace(exchange.facts.dials.count, exchange.facts.dials.seconds)
        self._held_until = 0.0
        self._shards: list[FeedShard] = []
        self._closing: list[FeedShard] = []
        self._renewing: list[tuple[FeedShard, FeedLink]] = []
        self._due: IDelayedCall | None = None
        self._stopped: list[Deferred[None]] = []
        self._state = ""

    def startService(self) -> None:
        """Begin to dial; does not wait for any connection.

        @raise RuntimeError: when the connections of an earlier run have not all ended yet.
        """
        if self.running:
            return
        if self._stopped:
            raise RuntimeError("still stopping")
        super().startService()  # type: ignore[no-untyped-call]
        self.stopping = False
        if not self.paused:
            self.why = ""
            self._begin()
        self._state = self.state(self.now())
        self._due = self.clock.callLater(DUE_EVERY_SECONDS, self._second)

    def stopService(self) -> Deferred[None]:
        """End every connection.

        @return: fires when all have ended.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self.stopping = True
        self._renewing = []
        if self._due is not None:
            self._due.cancel()
            self._due = None
        done: Deferred[None] = Deferred()
        self._stopped.append(done)
        for shard in self._shards:
            shard.stop()
        self.link_ended()
        return done

    def adopt(self, symbols: Iterable[str]) -> None:
        """Carry these symbols from now on, the most important first; see the rules above."""
        before, self.symbols = self.symbols, tuple(dict.fromkeys(symbols))
        if self.paused:
            self._tell_paused()  # the sink may have symbols that it has not been told of
            return
        if not self.running or set(before) == set(self.symbols):
            return
        if not self.symbols:
            self.why = ""
        parts = moved([shard.symbols for shard in self._shards], self.symbols, self.exchange.facts.symbols_per_socket)
        carried, self._shards = self._shards, []
        for shard, part in zip(carried, parts, strict=False):
            if part:
                self._shards.append(shard)
                shard.adopt(part)
            else:
                self._closing.append(shard)
                shard.close("nothing is wanted of it any more")
        for part in parts[len(carried) :]:
            self._shards.append(FeedShard(self, part, joins=True))
            self._shards[-1].begin()
        self._review(self.now())

    def reconnect(self, why: str) -> None:
        """Drop every connection and dial again at once (as fast as the exchange permits)."""
        self.log.info("{exchange}: reconnecting: {why}", exchange=self.exchange_name, why=why)
        if self.running:
            for shard in self._shards:
                shard.reconnect(why)

    def renew(self, why: str) -> int:
        """Have a successor take the place of every connection, one after the other, each serving until it does.

        What has no connection that serves is dialed anew at once.

        @return: how many connections are to be replaced.
        """
        self.log.info("{exchange}: renewing connections: {why}", exchange=self.exchange_name, why=why)
        if not self.running:
            return 0
        self._renewing = []
        for shard in self._shards:
            if shard.serving is None:
                shard.reconnect(why)
            else:
                self._renewing.append((shard, shard.serving))
        count = len(self._renewing)
        self._go_on_renewing()
        return count

    def pause(self) -> bool:
        """End every connection in good order and make none; the sink is told that all of the exchange is halted.

        @return: whether it was not paused before.
        """
        if self.paused:
            return False
        self.paused = True
        self.why = BY_OPERATOR
        self._renewing = []
        closed, self._shards = self._shards, []
        self._closing += closed
        for shard in closed:
            shard.close(BY_OPERATOR)
        self.link_ended()
        self._tell_paused()
        self._review(self.now())
        return True

    def resume(self) -> bool:
        """Undo L{pause}.

        @return: whether it was paused.
        """
        if not self.paused:
            return False
        self.paused = False
        self.why = ""
        self.sink.halted(self.exchange_name, (), False)
        if self.running:
            self._begin()
            self._review(self.now())
        return True

    def status(self) -> FeedStatus:
        """How it is doing just now."""
        now = self.now()
        wanted = set(self.symbols)
        links = [link for shard in self._shards for link in shard.open_links()]
        serving = [shard.serving for shard in self._shards if shard.serving is not None]
        opened = [link.opened_at for link in serving if link.opened_at is not None]
        heard = [time for shard in self._shards if (time := shard.heard_at()) is not None]
        return FeedStatus(
            exchange=self.exchange_name,
            state=self.state(now),
            connections=len(links),
            symbols=len(self.symbols),
            live_symbols=len({symbol for link in links for symbol in link.heard} & wanted),
            refused=tuple(sorted({symbol for link in serving for symbol in link.refused} & wanted)),
            unacknowledged=tuple(sorted({symbol for link in serving for symbol in link.silent} & wanted)),
            connected_seconds=max(0.0, now - max(opened)) if opened else 0.0,
            last_heard_seconds=max(0.0, now - max(heard)) if heard else None,
            why=self.why,
        )

    def state(self, now: float) -> str:
        """One of L{tbeast.domain.feedstatus.STATES}: that of the connection which is worst off."""
        if self.paused:
            return PAUSED
        if not self.symbols:
            return OFF
        if not self.running or not self._shards:
            return DOWN
        judged = [shard for shard in self._shards if not shard.is_new(now, LATE_SECONDS)] or self._shards
        out = [shard for shard in judged if shard.serving is None]
        if out:
            on_the_way = all(not shard.failed or now - shard.out_since < ON_THE_WAY_SECONDS for shard in out)
            return CONNECTING if on_the_way else DOWN
        carrying = [shard for shard in judged if shard.serving is not None and shard.serving.carries()]
        quiet = [shard for shard in carrying if now - (shard.heard_at() or 0.0) > LATE_SECONDS]
        if carrying and not quiet:
            return LIVE
        fresh = all(
            shard.serving is not None and now - (shard.serving.opened_at or 0.0) < ON_THE_WAY_SECONDS for shard in quiet
        )
        return CONNECTING if quiet and fresh else LATE

    # For the shards.

    def dial_wait_seconds(self) -> float:
        """How long the next connection must wait; 0 for not at all."""
        now = self.now()
        wait = max(self._pace.wait_seconds(now), self._held_until - now)
        return wait + 0.001 if wait > 0.0 else 0.0  # never a hair too early

    def dialing(self) -> None:
        """A connection is being begun."""
        self._pace.took(self.now())
        self.counters.count("feed_dials", self.exchange_name)

    def hold(self, seconds: float) -> None:
        """Begin no connection for so long: the exchange has asked for it."""
        self._held_until = max(self._held_until, self.now() + seconds)

    def subscribed(self, symbols: tuple[str, ...]) -> None:
        """A connection for these has come up where there was none."""
        if self._on_subscribed is None or not self.exchange.facts.seeds_from_rest:
            return
        try:
            self._on_subscribed(self.exchange_name, symbols)
        except Exception:
            self.log.failure("{exchange}: asking for first prices failed", exchange=self.exchange_name)

    def link_ended(self) -> None:
        """A connection is gone; when we are stopping and it was the last, say so."""
        self._closing = [shard for shard in self._closing if shard.links()]
        if self.stopping and not self._closing and not any(shard.links() for shard in self._shards):
            stopped, self._stopped = self._stopped, []
            for done in stopped:
                done.callback(None)

    # Within.

    def _begin(self) -> None:
        self._shards = [FeedShard(self, part) for part in shards(self.symbols, self.exchange.facts.symbols_per_socket)]
        for shard in self._shards:
            shard.begin()

    def _tell_paused(self) -> None:
        self.sink.halted(self.exchange_name, (), True)

    def _go_on_renewing(self) -> None:
        """Ask for the next successor, when the one that was asked for before has taken over."""
        while self._renewing:
            shard, link = self._renewing[0]
            if shard in self._shards and shard.serving is link:
                shard.replacement_wanted(link, "renewed")  # nothing happens if it is on its way
                return
            del self._renewing[0]

    def _second(self) -> None:
        self._due = self.clock.callLater(DUE_EVERY_SECONDS, self._second)
        now = self.now()
        for shard in self._shards:
            try:
                shard.due(now)
            except Exception:
                self.counters.count("service_failures", f"feed {self.exchange_name}")
                self.log.failure("{exchange}: looking after a connection failed", exchange=self.exchange_name)
        self._go_on_renewing()
        self._review(now)

    def _review(self, now: float) -> None:
        state = self.state(now)
        if state == self._state:
            return
        before, self._state = self._state, state
        level = self.log.warn if state in (DOWN, LATE) else self.log.info
        level(
            "{exchange} feed is {state} (was {before}) {why}",
            exchange=self.exchange_name,
            state=state,
            before=before,
            why=self.why if state in (DOWN, CONNECTING, PAUSED) else "",
        )


class Feeds(MultiService):
    """The feeds of all exchanges; none waits for another."""

    log = Logger()

    def __init__(self, feeds: Iterable[ExchangeFeed]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._feeds: dict[str, ExchangeFeed] = {}
        for feed in feeds:
            self._feeds[feed.exchange_name] = feed
            feed.setServiceParent(self)  # type: ignore[no-untyped-call]

    def adopt(self, assets: AssetMap) -> None:
        """Have each subscribe to what another map wants of it."""
        for exchange, feed in self._feeds.items():
            try:
                feed.adopt(assets.subscriptions(exchange))
            except Exception:
                feed.counters.count("service_failures", f"feed {exchange}")
                self.log.failure("{exchange}: cannot go over to another asset map", exchange=exchange)

    def status(self) -> list[FeedStatus]:
        """How each is doing, in the order in which they were given."""
        return [feed.status() for feed in self._feeds.values()]

    def find(self, exchange: str) -> ExchangeFeed | None:
        """The feed of an exchange, if there is such an exchange."""
        return self._feeds.get(exchange)

    def reconnect(self, exchange: str, why: str) -> bool:
        """Make one exchange's connections anew.

        @return: whether there is such an exchange.
        """
        feed = self._feeds.get(exchange)
        if feed is None:
            return False
        feed.reconnect(why)
        return True
