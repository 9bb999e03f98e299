"""Which asset map is in force, and who is told when it is another.

The daemon begins with the tables that the package carries. At the start the database is asked for its own; the start
waits for that only L{PATIENCE_SECONDS}, and where the database is away it is asked again every L{AGAIN_SECONDS} until
it has answered once. From then on it is asked every few minutes, and on command.

A map that differs from the one in force is handed to everybody who wants to know, one after the other, within one turn
of the reactor; what one of them makes of it keeps none of the others from it. A map at fault changes nothing: the log
names its rows, once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from attrs import frozen
from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.domain.assetmap import EXCHANGES, Asset, AssetMap
from tbeast.domain.counters import Counters
from tbeast.errors import AssetMapError, StoreError
from tbeast.services.feedlink import named

WORK: Final = "asset map"

PATIENCE_SECONDS: Final = 3.0
AGAIN_SECONDS: Final = 5.0
READING_SECONDS: Final = 30.0
"""How long one reading may take before it is given up."""

PACKAGE: Final = "package"
DATABASE: Final = "database"

CHANGED: Final = "changed"
SAME: Final = "same"
FAULTY: Final = "faulty"
AWAY: Final = "away"

Adopter = Callable[[AssetMap], object]


class AssetReader(Protocol):
    """Where the asset map of all nodes lies."""

    def read(self) -> Awaitable[AssetMap]:
        """The map as it is now.

        @raise tbeast.errors.AssetMapError: when the rows make none; it names every row that is at fault.
        @raise tbeast.errors.StoreError: when they cannot be read.
        """


@frozen
class MapChange:
    """How one map differs from another. With nothing in it only the order is another.

    @ivar added, removed: the codes of assets that only the one or only the other has.
    @ivar altered: the codes of those with another name, category or home.
    @ivar exchanges: by exchange, what is another there, in words: C{+A/USD}, C{-A/USD}, C{A/USD now B/USD},
        C{A/USD on demand} (no longer asked of the feed), C{A/USD subscribed}.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    exchanges: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def __str__(self) -> str:
        """For the log: everything, long lists cut."""
        parts = [
            f"{what} {named(codes)}"
            for what, codes in (("added", self.added), ("removed", self.removed), ("altered", self.altered))
            if codes
        ]
        parts += [f"{exchange}: {named(words)}" for exchange, words in self.exchanges.items()]
        return "; ".join(parts) or "another order"


@frozen
class Reloaded:
    """What a reading brought.

    @ivar outcome: L{CHANGED}, L{SAME}, L{FAULTY} or L{AWAY}; only the first has changed anything.
    @ivar why: with the last two, what is the matter.
    @ivar change: with the first, what is another.
    """

    outcome: str
    why: str = ""
    change: MapChange | None = None


class AssetMaps(Service):
    """See the module.

    @ivar current: the map in force.
    @ivar source: where it is from: L{PACKAGE}, or L{DATABASE} from when that has answered with a good one.
    @ivar why: why the database's could not be taken the last time; empty if it could.
    """

    name = WORK
    log = Logger()

    def __init__(
        self,
        reader: AssetReader,
        assets: AssetMap,
        adopters: Iterable[Adopter],
        clock: IReactorTime,
        counters: Counters,
        every_minutes: Callable[[], float],
    ) -> None:
        """Set it up.

        @param assets: the map to begin with, which the adopters have already.
        @param adopters: told of every other map, in this order.
        @param every_minutes: asked before each wait how long it is to be.
        """
        self.current = assets
        self.source = PACKAGE
        self.why = ""
        self._reader = reader
        self._adopters = tuple(adopters)
        self._clock = clock
        self._counters = counters
        self._every_minutes = every_minutes
        self._has_answered = False
        self._is_away = False
        self._told = ""
        self._reading: Deferred[Reloaded] | None = None
        self._asked: list[Deferred[Reloaded]] = []
        self._asked_meanwhile: list[Deferred[Reloaded]] = []
        self._next: IDelayedCall | None = None

    def startService(self) -> Deferred[None]:
        """Read the map, and begin to read it again and again.

        @return: fires when it was read or could not be, or has taken too long to be waited for; never fails.
        """
        super().startService()  # type: ignore[no-untyped-call]
        started: Deferred[None] = Deferred()
        patience = self._clock.callLater(PATIENCE_SECONDS, started.callback, None)

        def read(_: Reloaded) -> None:
            if patience.active():
                patience.cancel()
                started.callback(None)

        self.reload().addCallback(read)
        return started

    def stopService(self) -> None:
        """Read no more; a reading under way is given up."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._reading is not None:
            self._reading.cancel()

    def reload(self) -> Deferred[Reloaded]:
        """Read the map now. Who asks while a reading is under way is told of the one after it.

        @return: fires with what it brought; never fails.
        """
        asked: Deferred[Reloaded] = Deferred()
        if self._reading is None:
            self._asked.append(asked)
            self._read()
        else:
            # what is under way may have read the rows before the change that this is about
            self._asked_meanwhile.append(asked)
        return asked

    def _read(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        reading = self._reading = ensureDeferred(self._take(self._reader.read))
        reading.addTimeout(READING_SECONDS, self._clock)
        reading.addErrback(self._not_read).addCallback(self._ended)

    async def _take(self, read: Callable[[], Awaitable[AssetMap]]) -> Reloaded:
        return self._found(await read())

    def _due(self) -> None:
        self._next = None
        self._read()

    def _ended(self, reloaded: Reloaded) -> None:
        self._reading = None
        asked, self._asked, self._asked_meanwhile = self._asked, self._asked_meanwhile, []
        if self.running:
            if self._asked:
                self._read()
            else:
                wait = self._every_minutes() * 60.0 if self._has_answered else AGAIN_SECONDS
                self._next = self._clock.callLater(wait, self._due)
        else:
            asked += self._asked
            self._asked = []
        for each in asked:
            each.callback(reloaded)

    def _not_read(self, failure: Failure) -> Reloaded:
        error = failure.value
        if not self.running:
            return Reloaded(AWAY, "stopped")
        if isinstance(error, AssetMapError):
            return self._faulty(str(error))
        if isinstance(error, StoreError):
            self.why = str(error)
        elif isinstance(error, defer.TimeoutError | CancelledError):
            self.why = f"no answer in {READING_SECONDS:g} s"
        else:
            self.why = "reading it failed"
            self.log.failure("reading the asset map failed", failure)
        self._counters.count("service_failures", WORK)
        if not self._is_away:
            self._is_away = True
            self.log.warn(
                "the asset map cannot be read from the database, that of the {source} stays: {why}",
                source=self.source, why=self.why,
            )  # fmt: skip
        return Reloaded(AWAY, self.why)

    def _faulty(self, why: str) -> Reloaded:
        self._has_answered = True
        self._is_away = False
        self.why = why
        self._counters.count("service_failures", WORK)
        if why != self._told:
            self._told = why
            self.log.error("the asset map in the database is at fault, the one in force stays: {why}", why=why)
        return Reloaded(FAULTY, why)

    def _found(self, assets: AssetMap) -> Reloaded:
        if not self.running:
            return Reloaded(AWAY, "stopped")
        if self._is_away:
            self.log.info("the asset map can be read from the database again")
        elif self._told:
            self.log.info("the asset map in the database is in order again")
        self._has_answered = True
        self._is_away = False
        self.why = self._told = ""
        self.source = DATABASE
        change = difference(self.current, assets)
        if change is None:
            return Reloaded(SAME)
        self.current = assets
        self.log.info(
            "another asset map is in force, {count} assets: {change}", count=len(assets.assets), change=str(change)
        )
        for adopt in self._adopters:
            try:
                adopt(assets)
            except Exception:
                self._counters.count("service_failures", WORK)
                self.log.failure("the asset map has changed, and who was told of it failed")
        return Reloaded(CHANGED, "", change)


def difference(before: AssetMap, after: AssetMap) -> MapChange | None:
    """Say how C{after} differs from C{before}; C{None} if it does not."""
    if _rows(before) == _rows(after):
        return None
    old, new = dict(_rows(before)), dict(_rows(after))
    both = [code for code in new if code in old]
    exchanges = {exchange: tuple(_on(exchange, old, new)) for exchange in EXCHANGES}
    return MapChange(
        added=tuple(code for code in new if code not in old),
        removed=tuple(code for code in old if code not in new),
        altered=tuple(code for code in both if _about(old[code]) != _about(new[code])),
        exchanges={exchange: words for exchange, words in exchanges.items() if words},
    )


def _rows(assets: AssetMap) -> list[tuple[str, Asset]]:
    return [*assets.stablecoins.items(), *assets.assets.items()]


def _about(asset: Asset) -> tuple[str, str, str]:
    return asset.name, asset.category, asset.home


def _on(exchange: str, old: Mapping[str, Asset], new: Mapping[str, Asset]) -> Iterable[str]:
    """What is another on one exchange."""
    for code in dict.fromkeys((*new, *old)):
        before, after = (rows[code].symbols.get(exchange) if code in rows else None for rows in (old, new))
        if after is None:
            if before is not None:
                yield f"-{before}"
            continue
        on_demand = exchange in new[code].unsubscribed
        if before is None:
            yield f"+{after}" + (" on demand" if on_demand else "")
            continue
        if before != after:
            yield f"{before} now {after}"
        if on_demand != (exchange in old[code].unsubscribed):
            yield f"{after} on demand" if on_demand else f"{after} subscribed"
