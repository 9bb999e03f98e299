"""The parameters, as operators look at them and change them while the daemon runs.

What was written is read back by this node at once; the others read it when they read the parameters next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from tbeast.domain.parameters import PARAMETERS, Parameter, judge
from tbeast.services.parameters import INTERVAL, Parameters, Reloaded


class ParameterRows(Protocol):
    """The table. Every call raises L{tbeast.errors.StoreError} when the database cannot be asked now."""

    def read(self) -> Awaitable[Mapping[str, str]]:
        """Every row, raw, by name."""

    def put(self, name: str, value: object) -> Awaitable[str]:
        """Set one; what was written.

        @raise ValueError: when it is no parameter, or may not be that; with a sentence for people.
        """

    def remove(self, name: str) -> Awaitable[bool]:
        """Remove a row; whether there was one."""


@frozen
class ParameterState:
    """One parameter.

    @ivar value: what is in force on this node.
    @ivar next_value: what it is by the database, if that is in force only from the next start on; else as C{value}.
    @ivar is_set: whether the database says anything.
    @ivar default: what holds if it does not.
    @ivar refused: why what it says is not taken; empty: it is.
    """

    parameter: Parameter
    value: Any
    next_value: Any
    is_set: bool
    default: Any
    refused: str


@frozen
class ParameterStates:
    """All of them.

    @ivar unknown: the names of rows that are no parameter and have no effect.
    @ivar elsewhere_seconds: after how long a change is known on the other nodes.
    """

    parameters: tuple[ParameterState, ...]
    unknown: tuple[str, ...]
    elsewhere_seconds: float


class ParameterDesk:
    """See the module."""

    def __init__(self, rows: ParameterRows, parameters: Parameters, fallback: Mapping[str, Any]) -> None:
        """Set it up.

        @param fallback: what holds where the database says nothing: L{tbeast.domain.parameters.defaults}.
        """
        self._rows = rows
        self._parameters = parameters
        self._fallback = fallback

    async def states(self) -> ParameterStates:
        """How each of them is set.

        @raise tbeast.errors.StoreError: when the database cannot be asked now.
        """
        rows = await self._rows.read()
        found = judge(rows, self._fallback)
        refused = {one.name: one.reason for one in found.refused}
        states = []
        for name, parameter in PARAMETERS.items():
            value = self._parameters.value(name)
            # what is hot and waits for the next reading is in force in a moment; only the others wait for a start
            next_value = value if parameter.hot else found.values[name]
            states.append(
                ParameterState(parameter, value, next_value, name in rows, self._fallback[name], refused.get(name, ""))
            )
        return ParameterStates(tuple(states), found.unknown, self.elsewhere_seconds())

    async def put(self, name: str, value: object) -> Reloaded:
        """Set one, and read them all.

        @raise ValueError: when it is no parameter, or may not be that; with a sentence for people.
        @raise tbeast.errors.StoreError: when the database cannot be asked now.
        """
        await self._rows.put(name, value)
        return await self._parameters.reload()

    async def remove(self, name: str) -> bool:
        """Have one be what it is by default, and read them all; whether it was set."""
        was_set = await self._rows.remove(name)
        await self._parameters.reload()
        return was_set

    def reload(self) -> Deferred[Reloaded]:
        """Read them all."""
        return self._parameters.reload()

    def elsewhere_seconds(self) -> float:
        """After how long a change is known on the other nodes."""
        return float(self._parameters.value(INTERVAL)) * 60.0
