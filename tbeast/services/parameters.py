"""Holds the parameters, reads them again every few minutes and on command, and tells who wants to know of a change.

At the start the database is asked; if it is away, the copy in the shared cache, and if there is none, the defaults hold
until the database can be asked: nothing here keeps the daemon from starting. What is read from the database is written
to the shared cache each time, which may have lost it. What is refused, unknown or waits for a restart is logged once,
not at every reading.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from tbeast.domain.counters import Counters
from tbeast.domain.parameters import Change, Judgement, Refused, defaults, judge, written
from tbeast.errors import CacheUnavailableError, StoreError

INTERVAL: Final = "application_parameter_interval_minutes"
WORK: Final = "parameters"

AGAIN_SECONDS: Final = 15.0
"""While the database is away it is asked again after so long, or after the interval if that is shorter."""

DATABASE: Final = "database"
CACHE: Final = "cache"
NOWHERE: Final = "nowhere"


class ParameterStore(Protocol):
    """The table of parameters."""

    def read(self) -> Awaitable[Mapping[str, str]]:
        """Every row, raw, by name.

        @raise tbeast.errors.StoreError: when it cannot be read.
        """


class ParameterCopies(Protocol):
    """The copy of that table in the shared cache, C{app:config}."""

    def put(self, rows: Mapping[str, str]) -> Awaitable[None]:
        """Make these the copy.

        @raise tbeast.errors.CacheUnavailableError: when it cannot be asked now; so does the other.
        """

    def read(self) -> Awaitable[Mapping[str, str]]:
        """The copy; empty if there is none."""


@frozen
class Reloaded:
    """What a reading brought.

    @ivar source: C{database}, C{cache}, or C{nowhere}: nothing could be read, and nothing has changed.
    @ivar changes: what has changed now.
    @ivar at_restart: what is another in the database and takes effect at the next start.
    """

    source: str
    changes: tuple[Change, ...] = ()
    at_restart: tuple[Change, ...] = ()
    refused: tuple[Refused, ...] = ()
    unknown: tuple[str, ...] = ()


class Parameters(Service):
    """The parameters in force on this node."""

    log = Logger()

    def __init__(
        self,
        store: ParameterStore,
        copies: ParameterCopies | None,
        clock: IReactorTime,
        counters: Counters,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        """Set them up; until the start the defaults hold.

        @param copies: C{None}: there is no shared cache.
        @param given: the defaults that the settings of this node have instead, by name.
        @raise ValueError: when one of these is no parameter, or may not be that.
        """
        self.setName(WORK)  # type: ignore[no-untyped-call]
        self._store = store
        self._copies = copies
        self._clock = clock
        self._counters = counters
        self._fallback = defaults(given)
        self._values: Mapping[str, Any] = self._fallback
        self._first = True
        self._listeners: dict[str, list[Callable[[Any], object]]] = {}
        self._told: frozenset[str] = frozenset()
        self._away = False
        self._under_way: Deferred[Reloaded] | None = None
        self._next: IDelayedCall | None = None

    def value(self, name: str) -> Any:
        """The value in force.

        @raise KeyError: when there is no such parameter.
        """
        return self._values[name]

    def on_change(self, name: str, call: Callable[[Any], object]) -> None:
        """Have C{call} told each new value of a parameter, also the one that the first reading brings.

        @raise KeyError: when there is no such parameter.
        """
        self._values[name]
        self._listeners.setdefault(name, []).append(call)

    def startService(self) -> Deferred[Reloaded]:
        """Read them, and begin to read them again and again.

        @return: fires when they were read, or could not be; never fails.
        """
        super().startService()  # type: ignore[no-untyped-call]
        return self.reload()

    def stopService(self) -> Deferred[None] | None:
        """Read no more.

        @return: fires when a reading under way has ended.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._under_way is None:
            return None
        done: Deferred[None] = Deferred()
        _also(self._under_way, lambda _: done.callback(None))
        return done

    def reload(self) -> Deferred[Reloaded]:
        """Read them now. Who asks while a reading is under way is told of the one after it.

        @return: fires with what it brought; never fails.
        """
        asked: Deferred[Reloaded] = Deferred()
        if self._under_way is None:
            self._read().addCallback(asked.callback)
        else:
            # what is under way may have read the table before the change that this is about
            _also(self._under_way, lambda _: self.reload().addCallback(asked.callback))
        return asked

    def _due(self) -> None:
        self._next = None
        self._read()

    def _read(self) -> Deferred[Reloaded]:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        reading: Deferred[Reloaded] = Deferred()
        self._under_way = reading
        ensureDeferred(self._reloaded()).addErrback(self._broken).addCallback(self._ended, reading)
        return reading

    def _broken(self, failure: Any) -> Reloaded:
        self._counters.count("service_failures", WORK)
        self.log.failure("the parameters could not be read; those in force stay", failure)
        return Reloaded(NOWHERE)

    def _ended(self, reloaded: Reloaded, reading: Deferred[Reloaded]) -> None:
        self._under_way = None
        if self.running:
            wait = float(self._values[INTERVAL]) * 60.0
            if reloaded.source != DATABASE:
                wait = min(wait, AGAIN_SECONDS)
            self._next = self._clock.callLater(wait, self._due)
        reading.callback(reloaded)

    async def _reloaded(self) -> Reloaded:
        source, rows = DATABASE, await self._rows()
        first, self._first = self._first, False
        if rows is None and first:
            source, rows = CACHE, await self._copy()
        if rows is None:
            return Reloaded(NOWHERE)
        found = judge(rows, self._fallback, None if first else self._values)
        self._take(found)
        if source == DATABASE:
            await self._write_through(rows)
        else:
            self.log.warn("the parameters are those of the shared cache, until the database can be asked")
        return Reloaded(source, found.changes, found.at_restart, found.refused, found.unknown)

    async def _rows(self) -> Mapping[str, str] | None:
        try:
            rows = await self._store.read()
        except StoreError as error:
            self._counters.count("service_failures", WORK)
            if not self._away:
                self._away = True
                self.log.error("the parameters cannot be read from the database: {error}", error=str(error))
            return None
        if self._away:
            self._away = False
            self.log.info("the parameters can be read from the database again")
        return rows

    async def _copy(self) -> Mapping[str, str] | None:
        if self._copies is None:
            return None
        try:
            return await self._copies.read() or None
        except CacheUnavailableError:
            return None

    async def _write_through(self, rows: Mapping[str, str]) -> None:
        if self._copies is None:
            return
        try:
            await self._copies.put(rows)
        except CacheUnavailableError:
            return  # the next reading writes it again

    def _take(self, found: Judgement) -> None:
        self._values = found.values
        self._tell(found)
        for change in found.changes:
            self.log.info(
                "parameter {name}: {before} -> {after}",
                name=change.name, before=written(change.before), after=written(change.after),
            )  # fmt: skip
            for call in self._listeners.get(change.name, ()):
                try:
                    call(change.after)
                except Exception:
                    self._counters.count("service_failures", WORK)
                    self.log.failure("{name} has changed, and who was told of it failed", name=change.name)

    def _tell(self, found: Judgement) -> None:
        """Log, once each, what stays as it is until somebody sees to it."""
        lines = {
            f"parameter {refused.reason}; {written(found.values[refused.name])} stays" for refused in found.refused
        }
        lines |= {
            f"parameter {change.name} is {written(change.after)} in the database: {written(change.before)} holds until"
            " the next start"
            for change in found.at_restart
        }
        lines |= {f"parameter {name!r} stands in the database and is none: it has no effect" for name in found.unknown}
        for line in sorted(lines - self._told):
            self.log.warn("{line}", line=line)
        self._told = frozenset(lines)


def _also(deferred: Deferred[Reloaded], call: Callable[[Reloaded], object]) -> None:
    """Have C{call} told of what others wait for as well."""

    def told(reloaded: Reloaded) -> Reloaded:
        call(reloaded)
        return reloaded

    deferred.addCallback(told)
