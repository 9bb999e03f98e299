"""Parameters: what an operator may change in the database while the daemon runs, and how rows become values.

The rules. A parameter has one row in the table C{application_parameters}, or none: then its default holds. Every
parameter stands in L{PARAMETERS} with its kind, which holds the bounds. A text that its kind does not read is refused,
and the value that held before holds on. A row that names no parameter has no effect and is left alone. A parameter is
hot (a change takes effect at once) or not: then the value that held at the start holds until the next one.

Nothing here asks a database: rows are handed in, as texts by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final

from attrs import frozen

from tbeast.settingkinds import Kind, number, one_of, whole

LONGEST_SHOWN: Final = 80


@frozen
class Parameter:
    """One row of L{PARAMETERS}.

    @ivar name: as it stands in the database.
    @ivar kind: what it may be.
    @ivar default: what holds when the database says nothing.
    @ivar hot: whether a change takes effect at once; if not, at the next start.
    @ivar description: one sentence or two, for people.
    """

    name: str
    kind: Kind
    default: Any
    hot: bool
    description: str


PARAMETERS: Final[Mapping[str, Parameter]] = MappingProxyType({
    parameter.name: parameter
    for parameter in (
        Parameter("application_parameter_interval_minutes", number(0.1, 1440), 5.0, True,
            "How often each node reads these parameters again, in minutes."),
        Parameter("max_price_age_seconds", number(1, 3600), 60.0, True,
            "A price older than this is never given out as current."),
        Parameter("price_flush_seconds", number(1, 3600), 30.0, True,
            "How often the prices of a node are written to the shared cache."),
        Parameter("usage_log_flush_ms", whole(10, 1000), 100, True,
            "How long a count waits in memory before it goes to the journal: what a kill -9 can lose at most."),
        Parameter("usage_log_batch_rows", whole(1, 300), 300, True,
            "How many rows of usage are written to the database in one batch at most."),
        Parameter("sync_hour_utc", whole(0, 23), 6, True,
            "The hour of the day, in UTC, at which the shared cache is brought in line with the database."),
        Parameter("when_unmetered", one_of(("serve", "refuse")), "serve", True,
            "Whether to answer (and raise the alarm) or to refuse while nothing takes what is to be recorded."),
        Parameter("http_idle_timeout_seconds", whole(5, 3600), 60, False,
            "After so long without a question an HTTP connection is closed."),
        Parameter("max_connections", whole(1, 1_000_000), 6_000, True,
            "How many TCP connections all nodes together hold at most; each has the share that it is asked for."),
    )
})  # fmt: skip
"""Every parameter, by its name."""


@frozen
class Refused:
    """A row whose value was not taken.

    @ivar raw: what stands in the database.
    @ivar reason: a sentence for people, which names the parameter, what was said and what is allowed.
    """

    name: str
    raw: str
    reason: str


@frozen
class Change:
    """A parameter that has another value than before."""

    name: str
    before: Any
    after: Any


@frozen
class Judgement:
    """What rows amount to.

    @ivar values: every parameter's value, as it is in force now.
    @ivar changes: hot parameters whose value in force is another than before.
    @ivar at_restart: parameters that are not hot, where the rows say something else than what is in force.
    @ivar refused: rows that were not taken.
    @ivar unknown: the names of rows that are no parameter.
    """

    values: Mapping[str, Any]
    changes: tuple[Change, ...]
    at_restart: tuple[Change, ...]
    refused: tuple[Refused, ...]
    unknown: tuple[str, ...]


def read(name: str, raw: object) -> Any:
    """Read a value.

    @param raw: text, or what JSON's types give.
    @raise ValueError: when there is no such parameter, or it may not be that; with a sentence for people.
    """
    parameter = PARAMETERS.get(name)
    if parameter is None:
        near = get_close_matches(name.lower(), PARAMETERS, n=1, cutoff=0.6)
        raise ValueError(f"there is no parameter {name}" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        return parameter.kind.read(raw)
    except ValueError:
        said = repr(raw)
        if len(said) > LONGEST_SHOWN:
            said = f"{said[: LONGEST_SHOWN - 3]}..."
        raise ValueError(f"{name} = {said}: must be {parameter.kind.allowed}") from None


def written(value: Any) -> str:
    """A value as the text that stands for it in the database; L{read} gives it back."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def defaults(given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What holds where the database says nothing.

    @param given: the defaults that the settings of this node have instead, by name.
    @raise ValueError: when one of these is no parameter, or may not be that.
    """
    values = {parameter.name: parameter.default for parameter in PARAMETERS.values()}
    for name, value in (given or {}).items():
        values[name] = read(name, value)
    return values


def judge(rows: Mapping[str, str], fallback: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> Judgement:
    """Work out what holds now.

    @param rows: the table, raw texts by name.
    @param fallback: what holds where there is no row: L{defaults}.
    @param before: the values that were in force; C{None} at the start, where whatever the rows say comes into force.
    """
    values: dict[str, Any] = {}
    changes, at_restart, refused = [], [], []
    for name, parameter in PARAMETERS.items():
        held = fallback[name] if before is None else before[name]
        value = fallback[name]
        if name in rows:
            try:
                value = read(name, rows[name])
            except ValueError as error:
                refused.append(Refused(name, rows[name], str(error)))
                value = held
        if value != held:
            if before is None or parameter.hot:
                changes.append(Change(name, held, value))
            else:
                at_restart.append(Change(name, held, value))
                value = held
        values[name] = value
    return Judgement(
        MappingProxyType(values), tuple(changes), tuple(at_restart), tuple(refused),
        tuple(sorted(rows.keys() - PARAMETERS.keys())),
    )  # fmt: skip
