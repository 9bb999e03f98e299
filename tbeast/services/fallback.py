"""Asking exchanges over REST for what their own feeds are late with.

The rule: a symbol is asked for only while its own feed is late (L{tbeast.domain.freshness}), which is before its price
grows too old, and no more as soon as the feed is back. Each exchange has a desk that keeps to the exchange's rate,
stays shut for a while when the exchange says that it was asked too much or does not answer, and asks for a refused
symbol again only after L{REFUSED_SECONDS}. What no feed is asked for is never late: it is asked for only on demand
(L{tbeast.services.pricelookup}).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    DeferredLock,
    DeferredSemaphore,
    ensureDeferred,
)
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.codecs.exchanges.base import Event, Exchange, Fault, Refused, RestRequest, Throttled
from tbeast.domain.board import REST, Board
from tbeast.domain.counters import Counters
from tbeast.domain.freshness import LATE_FLOOR_SECONDS
from tbeast.domain.pacing import Pace
from tbeast.domain.ticks import Tick
from tbeast.errors import FetchError
from tbeast.interfaces import Now, RestFetcher, TickSink

ASK_AGAIN_SECONDS: Final = 5.0
REFUSED_SECONDS: Final = 600.0
SHUT_SECONDS: Final = (1.0, 30.0)
"""For how long a desk is shut after its first failure, and at the most, doubling in between."""
THROTTLED_SECONDS: Final = 10.0
LONGEST_THROTTLE_SECONDS: Final = 300.0
AT_ONCE: Final = 4
FOLLOW_UPS: Final = 4
"""How many questions may follow one from the other."""
LONGEST_AGE_DIGITS: Final = 9
NEWSWORTHY: Final = 4
"""One in so many symbols late is worth a line in the log."""


class RestDesk:
    """Asks one exchange.

    @ivar exchange: its name.
    @ivar asked_at: when each symbol was last asked for.
    @ivar refused_until: the symbols that the exchange does not know, and until when that is believed.
    """

    def __init__(
        self,
        exchange: Exchange,
        fetcher: RestFetcher,
        sink: TickSink,
        counters: Counters,
        clock: IReactorTime,
        now: Now,
    ) -> None:
        self.exchange = exchange.facts.name
        self.asked_at: dict[str, float] = {}
        self.refused_until: dict[str, float] = {}
        self._exchange = exchange
        self._codec = exchange.rest_codec()
        self._fetcher = fetcher
        self._sink = sink
        self._counters = counters
        self._clock = clock
        self._now = now
        self._pace = Pace(exchange.facts.rest.count, exchange.facts.rest.seconds)
        self._turn = DeferredLock()
        self._places = DeferredSemaphore(AT_ONCE)
        self._shut_until = float("-inf")
        self._failures = 0
        self._waiting = 0

    def shut(self) -> bool:
        """Whether the desk asks nothing just now."""
        return self._now() < self._shut_until

    def may_ask(self, symbol: str) -> bool:
        """Whether it is time to ask for this symbol."""
        now = self._now()
        if now < self.refused_until.get(symbol, now):
            return False
        return now - self.asked_at.get(symbol, float("-inf")) >= ASK_AGAIN_SECONDS

    def room(self) -> int:
        """How many more questions may be lined up, so that the line is served within about a second."""
        rate = self._exchange.facts.rest
        return max(1, int(rate.count / rate.seconds)) - self._waiting

    async def ask(self, symbols: Sequence[str], at_most: int | None = None) -> set[str]:
        """Ask for these symbols; what is heard goes to the board.

        @param at_most: ask no more questions than that, even if it leaves symbols out.
        @return: those that were heard.
        @raise FetchError: when not one of the questions got an answer, or the desk is shut.
        """
        if self.shut():
            raise FetchError("shut", f"{self.exchange} is not asked for a while")
        now = self._now()
        requests = self._codec.requests(symbols)[:at_most]
        for request in requests:
            self.asked_at.update(dict.fromkeys(request.symbols, now))
        heard: set[str] = set()
        await self._ask_all(requests, heard, FOLLOW_UPS)
        return heard

    async def _ask_all(self, requests: Iterable[RestRequest], heard: set[str], follow_ups: int) -> None:
        asked: list[Deferred[object]] = [
            ensureDeferred(self._ask_one(request, heard, follow_ups)) for request in requests
        ]
        outcomes = await DeferredList(asked, consumeErrors=True)
        failures = [got for worked, got in outcomes if not worked and isinstance(got, Failure)]
        for failure in failures:
            if not isinstance(failure.value, FetchError):
                failure.raiseException()
        if failures and len(failures) == len(asked) and not heard:
            failures[0].raiseException()

    async def _ask_one(self, request: RestRequest, heard: set[str], follow_ups: int) -> None:
        self._waiting += 1
        try:
            await self._places.acquire()
            try:
                await self._my_turn()
                events = await self._fetch(request)
            finally:
                self._places.release()
        finally:
            self._waiting -= 1
        next_ones = []
        for event in events:
            if isinstance(event, Tick):
                self._took(event)
                heard.add(event.symbol)
            elif isinstance(event, RestRequest):
                next_ones.append(event)
            elif isinstance(event, Refused):
                self.refused_until[event.symbol] = self._now() + REFUSED_SECONDS
                self._counters.count("feed_refused_symbols", self.exchange)
            elif isinstance(event, Throttled):
                self._throttled(event)
            elif isinstance(event, Fault):
                self._counters.count("feed_faults", self.exchange, event.reason)
        if next_ones and follow_ups:
            await self._ask_all(next_ones, heard, follow_ups - 1)

    async def _my_turn(self) -> None:
        """Wait until the exchange's rate allows one more question."""
        await self._turn.acquire()
        try:
            wait = self._pace.wait_seconds(self._clock.seconds())
            if wait > 0.0:
                await deferLater(self._clock, wait)
            self._pace.took(self._clock.seconds())
        finally:
            self._turn.release()
        if self.shut():
            raise FetchError("shut", f"{self.exchange} is not asked for a while")

    async def _fetch(self, request: RestRequest) -> list[Event]:
        facts = self._exchange.facts
        try:
            status, headers, body = await self._fetcher.fetch(facts.rest_url + request.path, facts.rest_headers)
        except FetchError as error:
            self._failed(error.reason)
            raise
        if status >= 500:
            self._failed("status")
            raise FetchError("status", f"HTTP {status}")
        self._failures = 0
        self._counters.count("rest_requests", self.exchange, "answered")
        return self._codec.responded(request, status, headers, body, self._now() - _held_seconds(headers))

    def _failed(self, reason: str) -> None:
        self._counters.count("rest_requests", self.exchange, reason)
        first, most = SHUT_SECONDS
        self._shut_until = max(self._shut_until, self._now() + min(first * 2**self._failures, most))
        self._failures = min(self._failures + 1, 16)

    def _throttled(self, event: Throttled) -> None:
        self._counters.count("rest_requests", self.exchange, "throttled")
        wait = THROTTLED_SECONDS if event.retry_after_seconds is None else event.retry_after_seconds
        self._shut_until = max(self._shut_until, self._now() + min(wait, LONGEST_THROTTLE_SECONDS))

    def _took(self, tick: Tick) -> None:
        reason = self._sink.put(tick, REST)
        if reason is None:
            self._counters.count("feed_ticks", self.exchange, REST)
        else:
            self._counters.count("feed_dropped_ticks", self.exchange, reason)


def _held_seconds(headers: Mapping[str, str]) -> float:
    """For how long a cache on the way has held the answer: what it says was so much earlier (RFC 9111, section 5.1)."""
    age = headers.get("age", "")
    return float(age) if age.isascii() and age.isdigit() and len(age) <= LONGEST_AGE_DIGITS else 0.0


class Fallback:
    """Looks for late symbols, and asks the desks for them."""

    log = Logger()

    def __init__(self, board: Board, desks: Iterable[RestDesk], now: Now) -> None:
        self.desks = {desk.exchange: desk for desk in desks}
        self._board = board
        self._now = now
        self._began_at = now()
        self._under_way: set[Deferred[None]] = set()
        self._outage = dict.fromkeys(self.desks, False)

    def look(self) -> None:
        """Ask for everything that is late; to be called once a second.

        Feeds that were never connected are given the time of L{LATE_FLOOR_SECONDS} from the start.
        """
        now = self._now()
        if now - self._began_at < LATE_FLOOR_SECONDS:
            return
        for exchange, desk in self.desks.items():
            late = self._board.late(exchange, now)
            self._tell(exchange, len(late))
            if late and not desk.shut():
                wanted = [source.symbol for source in late if desk.may_ask(source.symbol)]
                # Those for which an answer never comes are asked for in turn with the others, not before them.
                wanted.sort(key=lambda symbol, asked=desk.asked_at: asked.get(symbol, float("-inf")))  # type: ignore[misc]
                self._ask(desk, wanted, desk.room())

    def seed(self, exchange: str, symbols: tuple[str, ...]) -> None:
        """A feed that brings no first prices has subscribed to these."""
        desk = self.desks[exchange]
        if not desk.shut():
            self._ask(desk, symbols, None)

    def stop(self) -> Deferred[list[tuple[bool, None]]]:
        """Break off what is under way.

        @return: fires when that is done.
        """
        under_way = list(self._under_way)
        for asking in under_way:
            asking.cancel()
        return DeferredList(under_way)

    def _ask(self, desk: RestDesk, symbols: Sequence[str], at_most: int | None) -> None:
        if not symbols or (at_most is not None and at_most < 1):
            return
        asking = ensureDeferred(desk.ask(symbols, at_most))
        done: Deferred[None] = asking.addCallback(lambda heard: None)
        self._under_way.add(done)
        done.addErrback(self._unanswered, desk.exchange)
        done.addBoth(lambda _: self._under_way.discard(done))

    def _unanswered(self, failure: Failure, exchange: str) -> None:
        if not isinstance(failure.value, FetchError | CancelledError):
            self.log.failure("asking {exchange} over REST failed", failure, exchange=exchange)

    def _tell(self, exchange: str, late: int) -> None:
        """One line when much of an exchange begins to be late, and one when that is over; a few always are."""
        sources = self._board.by_symbol.get(exchange, {}).values()
        outage = late > 0 and late * NEWSWORTHY >= sum(source.subscribed for source in sources)
        before, self._outage[exchange] = self._outage[exchange], outage
        if outage and not before:
            self.log.info("{exchange}: REST is asked for {count} late symbols", exchange=exchange, count=late)
        elif before and not outage:
            self.log.info("{exchange}: REST is needed no more", exchange=exchange)
