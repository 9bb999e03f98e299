"""tbeast parameters: look at the parameters in the database, and change them.

They work on the database that the daemon's settings name, whether a daemon runs or not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import click
from rich.table import Column, Table
from rich.text import Text

from tbeast.adapters.store import parameterrows
from tbeast.commands.asking import Barred, printable
from tbeast.commands.cells import console
from tbeast.commands.storedoor import opened, store_options
from tbeast.domain.parameters import PARAMETERS, defaults, judge, written
from tbeast.settings import Settings

INTERVAL: Final = "application_parameter_interval_minutes"


def given_by(settings: Settings) -> dict[str, Any]:
    """What holds on a node with these settings where the database says nothing."""
    return defaults(
        {"max_price_age_seconds": settings.max_price_age_seconds, "when_unmetered": settings.when_unmetered}
    )


@click.group("parameters")
def command() -> None:
    """Look at the parameters in the database, and change them.

    A change of a hot parameter is in force on every node at its next reading of them, after a few minutes; of another
    one, when a node is started again. Exit status: 0 if it was done; 1 if it was refused; 2 for misuse; 3 if the
    database cannot be asked.
    """


@command.command("list")
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON on one line.")
@store_options
def list_parameters(json_wanted: bool, config: str | None, state: str | None) -> None:
    """List every parameter: its value, what it may be, and what it is for."""
    with opened(config, state) as (settings, connection):
        rows = parameterrows.read_rows(connection)
    fallback = given_by(settings)
    found = judge(rows, fallback)
    refused = {one.name: one.reason for one in found.refused}
    if json_wanted:
        listed = [
            {
                "name": name, "value": found.values[name], "set": name in rows, "default": fallback[name],
                "hot": parameter.hot, "allowed": parameter.kind.allowed, "description": parameter.description,
                "refused": refused.get(name),
            }
            for name, parameter in PARAMETERS.items()
        ]  # fmt: skip
        click.echo(json.dumps({"parameters": listed, "unknown": list(found.unknown)}))
        return
    table = Table(Column("parameter", no_wrap=True), "value", "default", "takes effect", "allowed", "what it is for")
    for name, parameter in PARAMETERS.items():
        cells = (
            name, written(found.values[name]), written(fallback[name]), "at once" if parameter.hot else "at a start",
            parameter.kind.allowed, parameter.description,
        )  # fmt: skip
        table.add_row(*(Text(cell, style="bold" if name in rows else "dim", overflow="fold") for cell in cells))
    printer = console()
    printer.print(table)
    for line in (
        *(f"! {reason}; it is as if it were not set" for reason in refused.values()),
        *(f"! {printable(name)}: there is no such parameter; the row has no effect" for name in found.unknown),
    ):
        printer.print(line, soft_wrap=True)


@command.command("set")
@click.argument("name")
@click.argument("value")
@store_options
def set_parameter(name: str, value: str, config: str | None, state: str | None) -> None:
    """Set the parameter NAME to VALUE."""
    with opened(config, state) as (_, connection):
        texts = parameterrows.set_values(connection, {name: value})
        rows = parameterrows.read_rows(connection)
    _tell_set(texts, rows)


@command.command("unset")
@click.argument("name")
@store_options
def unset_parameter(name: str, config: str | None, state: str | None) -> None:
    """Let NAME have its default again. A row that is no parameter can be removed so, too."""
    with opened(config, state) as (settings, connection):
        if not parameterrows.unset(connection, name):
            raise Barred(f"{name} is not set")
        rows = parameterrows.read_rows(connection)
    if name not in PARAMETERS:
        click.echo(f"{name} is removed.")
    else:
        _tell_set({name: written(given_by(settings)[name])}, rows)


@command.group("profile")
def profile() -> None:
    """Named sets of values, applied at once."""


@profile.command("list")
@store_options
def list_profiles(config: str | None, state: str | None) -> None:
    """List the profiles and what they set."""
    with opened(config, state) as (_, connection):
        found = parameterrows.profiles(connection)
    if not found:
        click.echo("There are no profiles.")
    for one in found:
        values = one.parameters.items() if isinstance(one.parameters, Mapping) else ()
        what = ", ".join(f"{name}={value}" for name, value in values)
        about = f" - {one.description}" if one.description else ""
        click.echo(printable(f"{one.name}: {what or 'nothing'}{about}"))


@profile.command("save")
@click.argument("name")
@click.argument("values", nargs=-1, metavar="PARAMETER=VALUE...", required=True)
@click.option("--description", default="", help="What it is for.")
@store_options
def save(name: str, values: tuple[str, ...], description: str, config: str | None, state: str | None) -> None:
    """Make the profile NAME, or make it anew; nothing is set by that."""
    with opened(config, state) as (_, connection):
        parameterrows.save_profile(connection, name, dict(map(_pair, values)), description)
    click.echo(f"The profile {name} is saved.")


@profile.command("apply")
@click.argument("name")
@store_options
def apply(name: str, config: str | None, state: str | None) -> None:
    """Set all that the profile NAME says; other parameters stay as they are."""
    with opened(config, state) as (_, connection):
        texts = parameterrows.apply_profile(connection, name)
        rows = parameterrows.read_rows(connection)
    _tell_set(texts, rows)


@profile.command("remove")
@click.argument("name")
@store_options
def remove(name: str, config: str | None, state: str | None) -> None:
    """Remove the profile NAME; what it has set stays set."""
    with opened(config, state) as (_, connection):
        if not parameterrows.remove_profile(connection, name):
            raise Barred(f"there is no profile {name}")
    click.echo(f"The profile {name} is removed.")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text}: give PARAMETER=VALUE")
    return name, value


def _tell_set(texts: Mapping[str, str], rows: Mapping[str, str]) -> None:
    minutes = written(judge(rows, defaults()).values[INTERVAL])
    for name, text in texts.items():
        when = f"within {minutes} minutes" if PARAMETERS[name].hot else "when it is started again"
        click.echo(f"{name} is {text}, on every node {when}.")
    if not texts:
        click.echo("There was nothing to set.")
