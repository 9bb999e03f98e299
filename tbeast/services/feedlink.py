"""One connection to an exchange: its codec's words put into deeds.

What a codec hears goes to the sink, the counters and the log; what it asks for is done: frames are sent, now or later,
and an end or a successor is asked of the owner. Nothing that comes in waits in a queue. A codec (or a sink) that raises
has a defect: that is logged and counted once, this connection ends, and all the others go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from tbeast.codecs.exchanges.base import (
    Acknowledged,
    Event,
    Exchange,
    Fault,
    Halted,
    Reconnect,
    Refused,
    Replace,
    Resumed,
    Send,
    Throttled,
    Unacknowledged,
)
from tbeast.domain.counters import Counters
from tbeast.domain.ticks import Tick
from tbeast.interfaces import Dialing, FrameSocket, Now, SocketDialer, TickSink

SETTLED_AFTER_SECONDS: Final = 15.0
"""When it is said which symbols were acknowledged and which not, at the latest."""

MOST_FRAMES_PER_SECOND: Final = 20_000
"""Far more than the symbols of one connection can honestly bring; it would take the process for itself."""

MOST_SYMBOLS_NAMED: Final = 20
MOST_DETAIL_CHARACTERS: Final = 200


class LinkOwner(Protocol):
    """Whoever made the link and is told what becomes of it."""

    def link_opened(self, link: FeedLink) -> None:
        """It is open, and what the codec wanted to say first has been sent."""

    def link_closed(self, link: FeedLink, reason: str) -> None:
        """It is over, or never came to be; the last that is heard of it."""

    def link_changed(self, link: FeedLink) -> None:
        """It carries other symbols than before."""

    def replacement_wanted(self, link: FeedLink, reason: str) -> None:
        """The exchange will end it soon."""

    def halt_heard(self, link: FeedLink, reason: str) -> None:
        """Its C{halted} has become another."""

    def throttle_heard(self, seconds: float | None) -> None:
        """The exchange wants to be asked less often."""


class FeedLink:
    """A L{tbeast.interfaces.FrameListener} that drives one codec.

    @ivar symbols: what it is to carry.
    @ivar opened_at: when it was opened; C{None} before.
    @ivar over: it is of no more use, and only its C{closed} is waited for.
    @ivar ticks: how many prices came over it.
    @ivar first_tick_at, last_tick_at: when the first and the newest came.
    @ivar heard, acknowledged, refused, silent: symbols; C{silent} are those that were asked for in vain.
    @ivar halted: those of its symbols in which trading stands still.
    @ivar leaving: why the exchange will end it soon; empty if it will not.
    @ivar at_once: whether it was ended by someone who wants the next one without waiting.
    """

    log = Logger()

    def __init__(
        self,
        exchange: Exchange,
        symbols: tuple[str, ...],
        owner: LinkOwner,
        sink: TickSink,
        counters: Counters,
        clock: IReactorTime,
        now: Now,
    ) -> None:
        self.name = exchange.facts.name
        self.symbols = symbols
        self.opened_at: float | None = None
        self.over = False
        self.ticks = 0
        self.first_tick_at: float | None = None
        self.last_tick_at: float | None = None
        self.heard: set[str] = set()
        self.acknowledged: set[str] = set()
        self.refused: dict[str, str] = {}
        self.silent: set[str] = set()
        self.halted: set[str] = set()
        self.leaving = ""
        self.at_once = False
        self._codec = exchange.socket_codec(symbols)
        self._owner = owner
        self._sink = sink
        self._counters = counters
        self._clock = clock
        self._now = now
        self._why: str | None = None
        self._closed = False
        self._dialing: Dialing | None = None
        self._socket: FrameSocket | None = None
        self._later: set[IDelayedCall] = set()
        self._faults_told: set[str] = set()
        self._told: set[str] = set()
        self._frames = 0
        self._frames_seen = 0
        self._seen_at = now()
        # The two counters of the hot path, by their keys.
        self._frames_key: tuple[str, ...] = ("feed_frames", self.name)
        self._ticks_key: tuple[str, ...] = ("feed_ticks", self.name, "ws")

    def dial(self, dialer: SocketDialer, url: str) -> None:
        """Begin."""
        self._dialing = dialer.dial(url, self)

    @property
    def is_open(self) -> bool:
        """Whether it carries anything."""
        return self.opened_at is not None and not self.over

    def carries(self) -> set[str]:
        """The symbols that can be expected to come over it."""
        if not self.is_open:
            return set()
        return {symbol for symbol in self.symbols if symbol not in self.refused and symbol not in self.silent}

    def settled(self) -> bool:
        """Whether of every symbol is known what became of it."""
        known = self.acknowledged | self.heard | self.refused.keys() | self.silent
        return known.issuperset(self.symbols)

    def unanswered(self) -> bool:
        """Whether all that was asked for was asked for in vain."""
        return bool(self.silent) and not (self.ticks or self.acknowledged or self.carries())

    def drop(self, reason: str, at_once: bool = False) -> None:
        """End it without ceremony."""
        if self._finish(reason):
            self.at_once = at_once
            if self._dialing is not None:
                self._dialing.abort()

    def retire(self, reason: str) -> None:
        """Close it in good order; it is no longer needed."""
        if self._finish(reason):
            if self._socket is not None:
                self._socket.close(reason)
            elif self._dialing is not None:
                self._dialing.abort()

    def due(self, now: float) -> None:
        """Time has passed: ask the codec, and look at what it cannot see."""
        if not self.is_open:
            return
        if self._is_flood(now):
            return
        self._seen_at, self._frames_seen = now, self._frames
        try:
            self._take(self._codec.due(now), now)
        except Exception:
            self._broken()
            return
        self._tell_of_symbols(now)

    # What the socket tells.

    def opened(self, socket: FrameSocket) -> None:
        """See L{tbeast.interfaces.FrameListener.opened}."""
        if self.over:
            return
        self._socket = socket
        now = self.opened_at = self._seen_at = self._now()
        try:
            self._take(self._codec.opened(now), now)
        except Exception:
            self._broken()
            return
        if not self.over:
            self._owner.link_opened(self)

    def frame(self, payload: bytes) -> None:
        """See L{tbeast.interfaces.FrameListener.frame}. The way of every price: keep it short."""
        if self.over:
            return
        now = self._now()
        counts = self._counters.counts
        key = self._frames_key
        counts[key] = counts.get(key, 0) + 1
        self._frames += 1
        if self._frames - self._frames_seen > MOST_FRAMES_PER_SECOND and self._is_flood(now):
            return  # found at once: a second of it on many connections could take minutes to work through
        try:
            for event in self._codec.received(payload, now):
                if type(event) is Tick:
                    self._tick(event, now)
                else:
                    self._act(event, now)
                    if not self.is_open:
                        return
        except Exception:
            self._broken()

    def ponged(self) -> None:
        """See L{tbeast.interfaces.FrameListener.ponged}."""
        if self.over:
            return
        try:
            self._codec.ponged(self._now())
        except Exception:
            self._broken()

    def closed(self, reason: str) -> None:
        """See L{tbeast.interfaces.FrameListener.closed}."""
        if self._closed:
            return
        self._closed = True
        self._finish(reason)
        if self.opened_at is not None:
            self._counters.count("feed_disconnects", self.name)
        self._owner.link_closed(self, self._why or reason)

    # What the codec says.

    def _take(self, events: Iterable[Event], now: float) -> None:
        for event in events:
            if type(event) is Tick:
                self._tick(event, now)
            else:
                self._act(event, now)
            if self.over:
                return

    def _tick(self, tick: Tick, now: float) -> None:
        symbol = tick.symbol
        if symbol in self.silent:
            self._speaks_again(symbol)
        fault = self._sink.put(tick, "ws")
        counts = self._counters.counts
        key = self._ticks_key if fault is None else ("feed_dropped_ticks", self.name, fault)
        counts[key] = counts.get(key, 0) + 1
        self.heard.add(symbol)
        self.ticks += 1
        self.last_tick_at = now
        if self.first_tick_at is None:
            self.first_tick_at = now

    def _act(self, event: Event, now: float) -> None:
        match event:
            case Send(text, after_seconds):
                self._send(text, after_seconds)
            case Acknowledged(symbols):
                self.acknowledged.update(symbols)
                for symbol in symbols:
                    if symbol in self.silent:
                        self._speaks_again(symbol)
            case Refused(symbol, detail):
                self._refused(symbol, detail)
            case Unacknowledged(symbols):
                self.silent.update(symbol for symbol in symbols if symbol not in self.heard)
                self._owner.link_changed(self)
                self._tell_of_symbols(now)
            case Fault():
                self._fault(event)
            case Reconnect(reason):
                self.drop(reason)
            case Replace(reason, _):
                self.leaving = reason
                self._owner.replacement_wanted(self, reason)
            case Halted(reason, symbols):
                self.halted.update(symbols or self.symbols)
                self._owner.halt_heard(self, reason)
            case Resumed(symbols):
                self.halted.difference_update(symbols or self.symbols)
                self._owner.halt_heard(self, "")
            case Throttled(seconds):
                self._owner.throttle_heard(seconds)
            case _:  # a question for REST has no place in a socket's conversation
                self.log.warn("{exchange}: cannot do {event} on a socket", exchange=self.name, event=event)

    def _send(self, text: str, after_seconds: float) -> None:
        if after_seconds <= 0.0:
            if self._socket is not None:
                self._socket.send(text)
            return

        def now_due() -> None:
            self._later.discard(call)
            if self._socket is not None:
                self._socket.send(text)

        call = self._clock.callLater(after_seconds, now_due)
        self._later.add(call)

    def _refused(self, symbol: str, detail: str) -> None:
        self._counters.count("feed_refused_symbols", self.name)
        self.refused[symbol] = detail[:MOST_DETAIL_CHARACTERS]
        self.silent.discard(symbol)
        self._owner.link_changed(self)

    def _speaks_again(self, symbol: str) -> None:
        self.silent.discard(symbol)
        self._owner.link_changed(self)

    def _fault(self, fault: Fault) -> None:
        self._counters.count("feed_faults", self.name, fault.reason)
        if fault.reason not in self._faults_told:
            self._faults_told.add(fault.reason)
            self.log.warn(
                "{exchange}: {reason} {symbol} {detail} (more of the kind are only counted)",
                exchange=self.name,
                reason=fault.reason,
                symbol=fault.symbol,
                detail=fault.detail[:MOST_DETAIL_CHARACTERS],
            )

    def _tell_of_symbols(self, now: float) -> None:
        """Say once a connection what became of the subscription, when it is known or has had its time."""
        if self.opened_at is None or not (self.settled() or now - self.opened_at >= SETTLED_AFTER_SECONDS):
            return
        asked = len(self.symbols)
        if "taken" not in self._told:
            self._told.add("taken")
            taken = len((self.acknowledged | self.heard) - self.refused.keys())
            self.log.info("{exchange}: {taken} of {asked} symbols", exchange=self.name, taken=taken, asked=asked)
        if self.refused and "refused" not in self._told:
            self._told.add("refused")
            self.log.warn(
                "{exchange} refuses {symbols}: {detail}",
                exchange=self.name,
                symbols=named(self.refused),
                detail=next(iter(self.refused.values())),
            )
        if self.silent and "silent" not in self._told:
            self._told.add("silent")
            self.log.warn(
                "{exchange} answers nothing to {symbols}", exchange=self.name, symbols=named(sorted(self.silent))
            )

    # Within.

    def _is_flood(self, now: float) -> bool:
        """Drop it if more came since the last second's look than anyone honest would send."""
        seconds = max(1.0, now - self._seen_at)
        frames = self._frames - self._frames_seen
        if frames <= MOST_FRAMES_PER_SECOND * seconds:
            return False
        self.drop(f"flood: {frames} frames in {seconds:.1f} s")
        return True

    def _broken(self) -> None:
        self._counters.count("service_failures", f"feed {self.name}")
        self.log.failure("{exchange}: reading a message failed; dropping the connection", exchange=self.name)
        self.drop("codec failed")

    def _finish(self, reason: str) -> bool:
        if self.over:
            return False
        self.over = True
        self._why = reason
        for call in self._later:
            call.cancel()
        self._later.clear()
        return True


def named(symbols: Iterable[str]) -> str:
    """A list of symbols for a log line, cut when it is long."""
    listed = list(symbols)
    more = len(listed) - MOST_SYMBOLS_NAMED
    return ", ".join(listed[:MOST_SYMBOLS_NAMED]) + (f" and {more} more" if more > 0 else "")
