"""The board: the newest word of every source, and what is known of the source's ways.

The rule of putting: a tick replaces what lies there unless it is older than that by the exchange's own clock, or the
same message once more (a REST answer that came in between does not make it news). An exchange whose clock really went
back (a recording that begins again, a server that was replaced) is believed after L{OLDER_IN_A_ROW} such ticks of one
symbol. A REST answer does not replace what the symbol's own feed said a moment ago, nor does a feed that lags replace
a REST answer with what was said before it.

The board judges nothing; L{tbeast.domain.pricing} does. Whoever must act on news takes the asset codes from L{dirty}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from tbeast.domain.assetmap import STABLECOINS, Asset, AssetMap, quote_currency
from tbeast.domain.freshness import GRACE_SECONDS, LATE_FLOOR_SECONDS, Delay, Limits, Rhythm
from tbeast.domain.ticks import UNKNOWN, Tick, value_of

UNKNOWN_SYMBOL: Final = "unknown_symbol"
OUT_OF_ORDER: Final = "out_of_order"
DUPLICATE: Final = "duplicate"
SUPERSEDED: Final = "superseded"

DROPPED: Final = (UNKNOWN_SYMBOL, OUT_OF_ORDER, DUPLICATE, SUPERSEDED)
"""Every reason for which L{Board.put} takes a tick not."""

OLDER_IN_A_ROW: Final = 5

WS: Final = "ws"
REST: Final = "rest"


class Source:
    """One asset on one exchange.

    @ivar asset: the asset's code; C{symbol} is the exchange's spelling of it.
    @ivar quote_currency: what C{raw}, C{bid} and C{ask} are in.
    @ivar raw: the newest value (L{tbeast.domain.ticks.value_of}); with C{bid}, C{ask}, C{volume} NaN until heard.
    @ivar heard_at: when it was heard; C{None} until then.
    @ivar via: L{WS} or L{REST}; empty until then.
    @ivar changed_at: when price, bid or ask last became another.
    @ivar said: price, bid and ask of the last message of its own feed, if a REST answer lies over it.
    @ivar delay: that of the connection that carries the symbol, shared with the others that it carries.
    @ivar connected: whether a live connection carries the symbol; C{lost_at} is when the last one ended.
    @ivar subscribed_at: when the live connection was opened.
    @ivar halted: whether the exchange says that trading stands still.
    @ivar suspect, expelled, apart_since, agrees_since, anchor: kept by L{tbeast.domain.suspicion}.
    """

    __slots__ = (
        "agrees_since", "anchor", "apart_since", "ask", "asset", "bid", "changed_at", "connected", "delay", "exchange",
        "exchange_time", "expelled", "halted", "heard_at", "home", "lost_at", "older", "older_time", "price",
        "quote_currency", "raw", "rhythm", "said", "subscribed_at", "suspect", "symbol", "via", "volume", "ws_heard_at",
    )  # fmt: skip

    def __init__(self, asset: Asset, exchange: str) -> None:
        self.delay = Delay()
        self.asset = asset.code
        self.exchange = exchange
        self.symbol = asset.symbols[exchange]
        self.home = asset.home == exchange
        self.quote_currency = quote_currency(exchange, asset.code)
        self.price = self.raw = self.bid = self.ask = self.volume = self.exchange_time = UNKNOWN
        self.heard_at: float | None = None
        self.ws_heard_at: float | None = None
        self.via = ""
        self.changed_at = UNKNOWN
        self.said = (UNKNOWN, UNKNOWN, UNKNOWN)
        self.older = 0
        self.older_time = UNKNOWN
        self.rhythm = Rhythm()
        self.connected = False
        self.subscribed_at = UNKNOWN
        self.lost_at = UNKNOWN
        self.halted = False
        self.suspect = False
        self.expelled = False
        self.apart_since: float | None = None
        self.agrees_since: float | None = None
        self.anchor: tuple[float, dict[str, tuple[float, float]]] | None = None

    def late(self, now: float, limits: Limits) -> bool:
        """Whether the symbol's own feed is quiet for longer than its rhythm explains, or lags, or is not there."""
        if not self.connected:
            return not now - self.lost_at < GRACE_SECONDS
        if self.delay.seconds > LATE_FLOOR_SECONDS:
            return True
        since = self.subscribed_at if self.ws_heard_at is None else max(self.ws_heard_at, self.subscribed_at)
        patience = LATE_FLOOR_SECONDS if self.ws_heard_at is None else self.rhythm.late_after(limits)
        return now - since > patience


class Board:
    """Every source of every asset.

    @ivar sources: by asset code (the stablecoins included), in the order of trust: the home exchange, then as given.
    @ivar dirty: the codes of assets of which something new is known; whoever acts on them clears them.
    @ivar awaken: called (with no arguments) when L{dirty} was empty and is no longer.
    """

    def __init__(self, assets: AssetMap, limits: Limits, trust: Iterable[str]) -> None:
        self.limits = limits
        self.assets = assets
        self.sources: dict[str, tuple[Source, ...]] = {}
        self.by_symbol: dict[str, dict[str, Source]] = {}
        self.dirty: set[str] = set()
        self.awaken: Callable[[], None] = lambda: None
        trust = tuple(trust)
        for asset in (*assets.stablecoins.values(), *assets.assets.values()):
            order = sorted(asset.symbols, key=lambda name, home=asset.home: (name != home, trust.index(name)))  # type: ignore[misc]
            found = tuple(Source(asset, exchange) for exchange in order)
            self.sources[asset.code] = found
            for source in found:
                self.by_symbol.setdefault(source.exchange, {})[source.symbol] = source

    def put(self, tick: Tick, via: str) -> str | None:
        """Take one tick; see L{tbeast.interfaces.TickSink.put}.

        @return: C{None}, or one of L{DROPPED}.
        """
        exchange, symbol, price, bid, ask, volume, exchange_time, heard_at = tick
        try:
            source = self.by_symbol[exchange][symbol]
        except KeyError:
            return UNKNOWN_SYMBOL
        before = source.heard_at
        if via == WS:
            last = source.exchange_time
            if exchange_time <= last:
                if exchange_time == last:
                    said = (source.price, source.bid, source.ask) if source.via == WS else source.said
                    same_book = (bid, ask) == said[1:] or (bid != bid and said[1] != said[1])
                    if price == said[0] and same_book:
                        return DUPLICATE
                elif not self._clock_went_back(source, exchange_time):
                    return OUT_OF_ORDER
            else:
                source.older = 0
            source.exchange_time = exchange_time
            source.delay.heard(heard_at - exchange_time)
            ws_before = source.ws_heard_at
            if ws_before is not None:
                source.rhythm.heard(heard_at - ws_before)
            source.ws_heard_at = heard_at
            delay = source.delay.seconds
            if delay > LATE_FLOOR_SECONDS and source.via == REST and before is not None and heard_at - delay < before:
                return SUPERSEDED
        elif (
            source.via == WS
            and before is not None
            and source.connected
            and heard_at - before + source.delay.seconds < LATE_FLOOR_SECONDS
        ):
            return SUPERSEDED
        elif source.via == WS:
            source.said = (source.price, source.bid, source.ask)
        if price != source.price or (
            (bid != source.bid or ask != source.ask) and (bid == bid or source.bid == source.bid)
        ):  # to have no book twice is no change
            source.price, source.bid, source.ask = price, bid, ask
            source.raw = value_of(price, bid, ask)
            source.changed_at = heard_at
            source.suspect = False
        source.volume = volume
        source.heard_at = heard_at
        source.via = via
        dirty = self.dirty
        if not dirty:
            dirty.add(source.asset)
            self.awaken()
        else:
            dirty.add(source.asset)
        return None

    def _clock_went_back(self, source: Source, exchange_time: float) -> bool:
        """Whether so many ticks in a row were older than the newest that the newest is the odd one out."""
        in_row = source.older + 1 if source.older and exchange_time >= source.older_time else 1
        source.older, source.older_time = in_row, exchange_time
        if in_row < OLDER_IN_A_ROW:
            return False
        source.older = 0
        source.delay.reset()
        return True

    def turn(self, now: float) -> None:
        """Bring the delays of all connections up to date; about once a second."""
        for delay in {source.delay for sources in self.sources.values() for source in sources}:
            delay.turn(now)

    def connected(self, exchange: str, symbols: tuple[str, ...], now: float) -> None:
        """A live connection carries these symbols; see L{tbeast.interfaces.TickSink.connected}.

        A symbol that joins others on a connection that they are on already learns of its delay from them.
        """
        going_on = {source.delay for source in self.by_symbol.get(exchange, {}).values() if source.connected}
        delay = Delay()
        for source in self._named(exchange, symbols):
            if source.delay not in going_on:
                source.delay = delay
            source.connected = True
            source.subscribed_at = now
            source.exchange_time = UNKNOWN
            source.older = 0
            source.ws_heard_at = None

    def disconnected(self, exchange: str, symbols: tuple[str, ...], now: float) -> None:
        """No live connection carries these symbols any more."""
        for source in self._named(exchange, symbols):
            if source.connected:
                source.connected = False
                source.lost_at = now
                self.dirty.add(source.asset)
        if self.dirty:
            self.awaken()

    def halted(self, exchange: str, symbols: tuple[str, ...], halted: bool) -> None:
        """Trading stands still (or goes on) in these symbols; empty: in all of the exchange's."""
        for source in self._named(exchange, symbols or tuple(self.by_symbol.get(exchange, ()))):
            source.halted = halted
            self.dirty.add(source.asset)
        if self.dirty:
            self.awaken()

    def late(self, exchange: str, now: float) -> list[Source]:
        """The exchange's late sources, the longest unheard first: what REST should be asked for."""
        found = [
            source
            for source in self.by_symbol.get(exchange, {}).values()
            if source.late(now, self.limits) and not source.halted
        ]
        found.sort(key=lambda source: -1.0 if source.heard_at is None else source.heard_at)
        return found

    def codes(self) -> tuple[str, ...]:
        """Every asset code on the board, the stablecoins first: their rates are wanted by the rest."""
        coins = [code for code in STABLECOINS if code in self.sources]
        return (*coins, *self.assets.assets)

    def _named(self, exchange: str, symbols: Iterable[str]) -> list[Source]:
        known = self.by_symbol.get(exchange, {})
        return [known[symbol] for symbol in symbols if symbol in known]
