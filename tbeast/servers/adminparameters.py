"""/admin/parameters: parameters are looked at, set, taken back to their defaults, and read again.

A change is in force on this node with the answer; on the others when they read the parameters next, and the answer says
after how long. What is not hot waits for the next start: then C{next_value} is another than C{value}.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from twisted.web.resource import Resource
from twisted.web.server import Request

from tbeast.codecs.adminbodies import nothing, options, parameter_value
from tbeast.codecs.problems import Problem
from tbeast.domain.parameters import PARAMETERS, Change, Parameter, Refused, written
from tbeast.servers.admindoor import AdminDoor, AdminPage, Reply
from tbeast.servers.site import WebRequest


class State(Protocol):
    """One parameter: L{tbeast.services.parameterdesk.ParameterState}."""

    @property
    def parameter(self) -> Parameter:
        """Which one."""

    @property
    def value(self) -> Any:
        """What is in force on this node."""

    @property
    def next_value(self) -> Any:
        """What is from the next start on."""

    @property
    def is_set(self) -> bool:
        """Whether the database says anything."""

    @property
    def default(self) -> Any:
        """What holds if it does not."""

    @property
    def refused(self) -> str:
        """Why what it says is not taken; empty: it is."""


class States(Protocol):
    """All of them."""

    @property
    def parameters(self) -> Sequence[State]:
        """Each."""

    @property
    def unknown(self) -> Sequence[str]:
        """Rows that are no parameter."""

    @property
    def elsewhere_seconds(self) -> float:
        """After how long a change is known on the other nodes."""


class Reading(Protocol):
    """What reading them again brought: L{tbeast.services.parameters.Reloaded}."""

    @property
    def source(self) -> str:
        """Where they were read."""

    @property
    def changes(self) -> Sequence[Change]:
        """What has changed now."""

    @property
    def at_restart(self) -> Sequence[Change]:
        """What changes at the next start."""

    @property
    def refused(self) -> Sequence[Refused]:
        """What was not taken."""

    @property
    def unknown(self) -> Sequence[str]:
        """Rows that are no parameter."""


class ParameterTable(Protocol):
    """The parameters, to be changed: L{tbeast.services.parameterdesk.ParameterDesk}.

    All but C{reload} raise L{tbeast.errors.StoreError} when the database cannot be asked now.
    """

    def states(self) -> Awaitable[States]:
        """How each is set."""

    def put(self, name: str, value: object) -> Awaitable[Reading]:
        """Set one.

        @raise ValueError: when it may not be that; with a sentence for people.
        """

    def remove(self, name: str) -> Awaitable[bool]:
        """Have one be what it is by default; whether it was set."""

    def reload(self) -> Awaitable[Reading]:
        """Read them all again."""


class ParametersPage(AdminPage):
    """C{/admin/parameters}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"GET": "parameters.list"}

    def __init__(self, door: AdminDoor, table: ParameterTable) -> None:
        super().__init__(door)
        self._table = table
        self.putChild(b"reload", ReloadPage(door, table))

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Whatever else stands there is taken as a parameter's name."""
        return ParameterPage(self._door, self._table, path.decode("utf-8", "replace"))

    async def act(self, request: WebRequest) -> Reply | Problem:
        """List them all."""
        if isinstance(given := options(request.query, ()), Problem):
            return given
        states = await self._table.states()
        return Reply(
            {
                "parameters": [_members(state) for state in states.parameters],
                "unknown": list(states.unknown),
                "elsewhere_within_seconds": states.elsewhere_seconds,
            }
        )


class ParameterPage(AdminPage):
    """C{/admin/parameters/<name>}."""

    actions: ClassVar[Mapping[bytes, str]] = {
        b"GET": "parameters.show", b"PUT": "parameters.set", b"DELETE": "parameters.unset",
    }  # fmt: skip

    def __init__(self, door: AdminDoor, table: ParameterTable, name: str) -> None:
        super().__init__(door)
        self._table = table
        self._name = name

    async def act(self, request: WebRequest) -> Reply | Problem:
        """Show it, set it, or take it back to its default."""
        if request.method == b"DELETE":
            return await self._remove(request.content.read())
        if self._name not in PARAMETERS:
            return self._nowhere()
        if request.method != b"PUT":
            return await self._shown("")
        value = parameter_value(request.content.read())
        if isinstance(value, Problem):
            return value
        return await put(self._table, self._name, value) or await self._shown(f" = {value!r:.80}")

    async def _remove(self, body: bytes) -> Reply | Problem:
        if (problem := nothing(body)) is not None:
            return problem
        was_set = "\x00" not in self._name and await self._table.remove(self._name)
        if self._name in PARAMETERS:
            return await self._shown(" to its default", {"was_set": was_set})
        # a row that is no parameter has no effect, but may be cleared away
        return Reply({"name": self._name, "was_set": True}, what=self._name) if was_set else self._nowhere()

    def _nowhere(self) -> Problem:
        return Problem("not_found", f"There is no parameter {self._name[:80]!a}; GET /admin/parameters lists them.")

    async def _shown(self, done: str, more: Mapping[str, object] | None = None) -> Reply | Problem:
        states = await self._table.states()
        (state,) = (state for state in states.parameters if state.parameter.name == self._name)
        members = {**_members(state), "elsewhere_within_seconds": states.elsewhere_seconds, **(more or {})}
        return Reply(members, what=f"{self._name}{done}")


class ReloadPage(AdminPage):
    """C{/admin/parameters/reload}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"POST": "parameters.reload"}

    def __init__(self, door: AdminDoor, table: ParameterTable) -> None:
        super().__init__(door)
        self._table = table

    async def act(self, request: WebRequest) -> Reply | Problem:
        """Have this node read them again."""
        if (problem := nothing(request.content.read())) is not None:
            return problem
        read = await self._table.reload()
        return Reply(
            {
                "source": read.source,
                "changes": [_change(change) for change in read.changes],
                "at_restart": [_change(change) for change in read.at_restart],
                "refused": [{"name": one.name, "why": one.reason} for one in read.refused],
                "unknown": list(read.unknown),
            },
            what=read.source,
        )


async def put(table: ParameterTable, name: str, value: object) -> Problem | None:
    """Set a parameter; why not, if it was not taken."""
    try:
        await table.put(name, value)
    except ValueError as error:
        return Problem("malformed_parameter", f"{error}.")
    return None


def _members(state: State) -> dict[str, Any]:
    parameter = state.parameter
    return {
        "name": parameter.name,
        "value": state.value,
        "next_value": state.next_value,
        "set": state.is_set,
        "default": state.default,
        "hot": parameter.hot,
        "allowed": parameter.kind.allowed,
        "description": parameter.description,
        "refused": state.refused or None,
    }


def _change(change: Change) -> dict[str, str]:
    return {"name": change.name, "before": written(change.before), "after": written(change.after)}
