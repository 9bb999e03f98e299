"""The board: the newest word of every source, and what is known of the source's ways.

The rule of putting: a tick replaces what lies there unless it is older than that by the exchange's own clock, or the
same message once more (a REST answer that came in between does not make it news). An exchange whose clock really went
back (a recording that begins again, a server that was replaced) is believed after L{OLDER_IN_A_ROW} such ticks of one
symbol. A REST answer does not replace what the symbol's own feed said a moment ago, nor does a feed that lags replace
a REST answer with what was said before it.

The board judges nothing; L{tbeast.domain.pricing} does. Whoever must act on news takes the asset codes from L{dirty}.

The rule of another asset map: a source stays what it is while its asset, its exchange and its spelling stay, and
keeps all that is known of it; every other one begins with nothing but the state of its symbol's connection. What was
held against a source holds on, but not what only sources that are gone now had said of it.
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

ON_DEMAND_SECONDS: Final = 5.0
"""When someone asks for an asset that no feed is asked for, and its price is older than this, REST is asked."""


def is_on_demand(asset: Asset) -> bool:
    """Whether no feed is asked for the asset: it has a price only when somebody wants one."""
    return asset.symbols.keys() <= asset.unsubscribed


class Source:
    """One asset on one exchange.

    @ivar asset: the asset's code; C{symbol} is the exchange's spelling of it.
    @ivar home: whether the asset is at home there.
    @ivar subscribed: whether the exchange's feed is asked for it; if not, REST is when somebody asks.
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
        "quote_currency", "raw", "rhythm", "said", "subscribed", "subscribed_at", "suspect", "symbol", "via", "volume",
        "ws_heard_at",
    )  # fmt: skip

    def __init__(self, asset: Asset, exchange: str) -> None:
        self.delay = Delay()
        self.asset = asset.code
        self.exchange = exchange
        self.symbol = asset.symbols[exchange]
        self.home = asset.home == exchange
        self.subscribed = exchange not in asset.unsubscribed
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

    def join(self, other: Source) -> None:
        """Take over the state of the connection from the source whose symbol this one's was."""
        self.delay = other.delay
        self.connected = other.connected
        self.subscribed_at = other.subscribed_at
        self.lost_at = other.lost_at
        self.halted = other.halted

    def late(self, now: float, limits: Limits) -> bool:
        """Whether the symbol's own feed is quiet for longer than its rhythm explains, or lags, or is not there.

        Where there is to be none, nothing is late.
        """
        if not self.subscribed:
            return False
        if not self.connected:
            return not now - self.lost_at < GRACE_SECONDS
        if self.delay.seconds > LATE_FLOOR_SECONDS:
            return True
        since = self.subscribed_at if self.ws_heard_at is None else max(self.ws_heard_at, self.subscribed_at)
        patience = LATE_FLOOR_SECONDS if self.ws_heard_at is None else self.rhythm.late_after(limits)
        return now - since > patience


class Board:
    """Every source of every asset.

    @ivar assets: the asset map in force.
    @ivar sources: by asset code (the stablecoins included), in the order of trust: the home exchange, then as given.
    @ivar on_demand: the codes of the assets that no feed is asked for.
    @ivar dirty: the codes of assets of which something new is known; whoever acts on them clears them.
    @ivar awaken: called (with no arguments) when L{dirty} was empty and is no longer.
    """

    def __init__(self, assets: AssetMap, limits: Limits, trust: Iterable[str]) -> None:
        self.limits = limits
        self.assets = assets
        self.sources: dict[str, tuple[Source, ...]] = {}
        self.by_symbol: dict[str, dict[str, Source]] = {}
        self.on_demand: frozenset[str] = frozenset()
        self.dirty: set[str] = set()
        self.awaken: Callable[[], None] = lambda: None
        self._trust = tuple(trust)
        self._lay_out(assets)

    def adopt(self, assets: AssetMap) -> None:
        """Hold the sources of another map from now on; see the rule above.

        Marks as dirty whatever has other sources than before, and everything when a stablecoin has.
        """
        before = self.sources
        self._lay_out(assets)
        changed = set()
        for code in before.keys() | self.sources.keys():
            old, new = before.get(code, ()), self.sources.get(code, ())
            if old != new:
                changed.add(code)
                _reconsider(new, {source.exchange for source in old if source not in new})
        self.dirty |= changed if changed.isdisjoint(STABLECOINS) else self.sources.keys()
        self.dirty &= self.sources.keys()
        if self.dirty:
            self.awaken()

    def _lay_out(self, assets: AssetMap) -> None:
        sources: dict[str, tuple[Source, ...]] = {}
        by_symbol: dict[str, dict[str, Source]] = {}
        every = (*assets.stablecoins.values(), *assets.assets.values())
        for asset in every:
            order = sorted(asset.symbols, key=lambda name, home=asset.home: (name != home, self._trust.index(name)))  # type: ignore[misc]
            sources[asset.code] = tuple(self._source(asset, exchange) for exchange in order)
            for source in sources[asset.code]:
                by_symbol.setdefault(source.exchange, {})[source.symbol] = source
        for asset in every:  # now that nothing can fail
            for source in sources[asset.code]:
                source.home = asset.home == source.exchange
                source.subscribed = source.exchange not in asset.unsubscribed
        self.assets, self.sources, self.by_symbol = assets, sources, by_symbol
        self.on_demand = frozenset(asset.code for asset in every if is_on_demand(asset))

    def _source(self, asset: Asset, exchange: str) -> Source:
        """The one that there is for this spelling, or another that takes its place."""
        held = self.by_symbol.get(exchange, {}).get(asset.symbols[exchange])
        if held is not None and held.asset == asset.code:
            return held
        source = Source(asset, exchange)
        if held is not None:
            source.join(held)
        return source

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


def _reconsider(sources: tuple[Source, ...], gone: set[str]) -> None:
    """Drop what the sources of an asset on the exchanges C{gone} had said of the others."""
    for source in sources:
        if source.anchor is not None:
            changed_at, values = source.anchor
            source.anchor = (changed_at, {name: value for name, value in values.items() if name not in gone})
    if gone and all(source.expelled for source in sources):
        # by a majority that is no more; and without one they could never be heard again
        for source in sources:
            source.expelled = False
