"""From news on the board to a ready reply on the shelf.

A tick marks its asset; the marked ones are priced together in the reactor's next turn, but at most once in
L{INTERVAL_SECONDS}, so that a burst of ticks of one asset costs one quote. Once a second everything is priced and
reviewed anew, because time alone makes prices old, sources suspect and connections lost. Nothing that answers questions
waits for any of this.

An asset that cannot be priced is taken from the shelf, and keeps none of the others from being priced.

What no feed is asked for lies on the shelf only for L{tbeast.domain.board.ON_DEMAND_SECONDS}: then whoever asks for it
next has it looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from tbeast.domain import quotes
from tbeast.domain.assetmap import AssetMap
from tbeast.domain.board import ON_DEMAND_SECONDS, Board
from tbeast.domain.counters import Counters
from tbeast.domain.pricing import Pricer
from tbeast.domain.quotes import Quote
from tbeast.domain.readyreplies import ReadyReply, Shelf
from tbeast.domain.suspicion import Change
from tbeast.interfaces import Now

INTERVAL_SECONDS: Final = 0.01
SLICES: Final = 10
NAMED: Final = 12
"""How many assets a log line names."""

Render = Callable[[Quote], tuple[bytes, bytes]]
"""Makes of a quote what comes before and after the age."""


class Publishing(Service):
    """Keeps the shelf in step with the board.

    @ivar last: the newest quote of every asset, whatever its quality.
    @ivar interlude: called after each asset, of which there may be many, so that others have a turn; raises nothing.
    """

    log = Logger()

    def __init__(
        self,
        board: Board,
        pricer: Pricer,
        shelf: Shelf,
        render: Render,
        counters: Counters,
        clock: IReactorTime,
        now: Now,
    ) -> None:
        self.last: dict[str, Quote] = {}
        self._board = board
        self._pricer = pricer
        self._shelf = shelf
        self._render = render
        self._counters = counters
        self._clock = clock
        self._now = now
        self._codes = board.codes()
        self._order = {code: place for place, code in enumerate(self._codes)}
        self._slice = 0
        self._planned: IDelayedCall | None = None
        self._flushed_at = float("-inf")
        self._turned: dict[tuple[str, str], list[str]] = {}
        self._failing: set[str] = set()
        self.interlude: Callable[[], object] = lambda: None

    def startService(self) -> None:
        """Begin to listen to the board."""
        super().startService()  # type: ignore[no-untyped-call]
        self._board.awaken = self._awaken
        if self._board.dirty:
            self._awaken()

    def stopService(self) -> None:
        """Publish no more."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._board.awaken = lambda: None
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None

    def adopt(self, assets: AssetMap) -> None:
        """Have board and pricer take another map; nothing of what went is given out any more when this returns."""
        self._board.adopt(assets)
        self._pricer.adopt()
        self._codes = self._board.codes()
        self._order = {code: place for place, code in enumerate(self._codes)}
        for code in self._shelf.replies.keys() - assets.assets.keys():
            self._shelf.take_down(code)
        self.last = {code: quote for code, quote in self.last.items() if code in assets.assets}
        self._failing &= self._order.keys()
        if self.running:
            self.publish()

    def sweep(self) -> None:
        """Bring everything up to date."""
        for _ in range(SLICES):
            self.sweep_slice()
        self._tell_turns()

    def sweep_slice(self) -> None:
        """Bring the next of L{SLICES} parts up to date; to be called so often a second.

        In parts, because nobody's question shall wait for all of it.
        """
        now = self._now()
        if self._slice == 0:
            self._board.turn(now)
            self._tell_turns()
        codes = self._codes[self._slice :: SLICES]
        self._slice = (self._slice + 1) % SLICES
        for code in codes:
            try:
                for change in self._pricer.review(code, now):
                    self._tell(change)
            except Exception:
                self._failed(code)
            self.interlude()
        self._board.dirty.update(codes)
        self.publish()

    def publish(self) -> None:
        """Price the assets of which something new is known, and put them on the shelf."""
        now = self._now()
        dirty = sorted(self._board.dirty, key=self._order.__getitem__)
        self._board.dirty.clear()
        for code in dirty:
            try:
                quote = self._pricer.quote(code, now)
                if code not in self._board.assets.assets:
                    continue
                if quote is None:
                    self._shelf.take_down(code)
                else:
                    self._put(code, quote)
                self._failing.discard(code)
            except Exception:
                self._shelf.take_down(code)
                self._failed(code)
            self.interlude()

    def _failed(self, code: str) -> None:
        self._counters.count("service_failures", "publish")
        if code not in self._failing:
            self._failing.add(code)
            self.log.failure("{asset} cannot be priced; it is tried again with all that is heard of it", asset=code)

    def _put(self, code: str, quote: Quote) -> None:
        before = self.last.get(code)
        self.last[code] = quote
        if before is None or before.quality != quote.quality:
            self._turned.setdefault(("none" if before is None else before.quality, quote.quality), []).append(code)
        if quote.quality in (quotes.STALE, quotes.HALTED):
            self._shelf.take_down(code)
            return
        fresh_until = quote.fresh_until
        if code in self._board.on_demand:
            fresh_until = min(fresh_until, quote.observed_at + ON_DEMAND_SECONDS)
        head, tail = self._render(quote)
        self._shelf.put(code, ReadyReply(head, tail, quote.observed_at, fresh_until, quote.source, quote))
        self._counters.count("publications")

    def _awaken(self) -> None:
        if self._planned is None:
            since = self._clock.seconds() - self._flushed_at
            self._planned = self._clock.callLater(max(0.0, INTERVAL_SECONDS - since), self._flush)

    def _flush(self) -> None:
        self._planned = None
        self._flushed_at = self._clock.seconds()
        self.publish()

    def _tell(self, change: Change) -> None:
        source = change.source
        self.log.warn(
            "{asset}: {exchange} is {what}: {detail}",
            asset=source.asset, exchange=source.exchange, what=change.what, detail=change.detail,
        )  # fmt: skip

    def _tell_turns(self) -> None:
        """One line for each kind of turn since the last sweep; good to degraded and back is no news."""
        for (before, after), codes in self._turned.items():
            grave = {before, after} & {"none", quotes.STALE, quotes.HALTED}
            names = ", ".join(codes[:NAMED]) + (f" and {len(codes) - NAMED} more" if len(codes) > NAMED else "")
            emit = self.log.info if grave else self.log.debug
            emit("{count} prices went from {before} to {after}: {assets}",
                 count=len(codes), before=before, after=after, assets=names)  # fmt: skip
        self._turned.clear()
