"""tbeast check-config: every setting, its value, and where it comes from; or every fault."""

from __future__ import annotations

import os
import socket
import sys

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tbeast.adapters.settingsource import file_faults, gather
from tbeast.errors import SettingsError
from tbeast.settings import DEFAULT, SETTINGS, Settings, load, shown


@click.command("check-config")
@click.option("-c", "--config", metavar="FILE", help="TOML file with settings.")
@click.option("--feeds", help="As the option of the daemon.")
@click.option("--state", help="As the option of the daemon.")
def command(config: str | None, feeds: str | None, state: str | None) -> None:
    """Check the settings and show where each comes from.

    Reads what the daemon would read: the file, the environment, the options. Exit status 1 if anything is at fault.
    """
    options = {"TBEAST_FEEDS": feeds, "TBEAST_STATE": state}
    try:
        settings = load(*gather(config, os.environ, options, socket.gethostname()))
        faults = file_faults(settings)
        if faults:
            raise SettingsError(faults)
    except SettingsError as error:
        count = len(error.faults)
        click.echo(f"{count} fault{'s' if count > 1 else ''} in the settings:", err=True)
        for fault in error.faults:
            click.echo(f"  {fault}", err=True)
        raise SystemExit(1) from None
    # on a pipe the width is unknown, and nothing may be cut off
    console = Console() if sys.stdout.isatty() else Console(width=200, no_color=True)
    console.print(_table(settings))
    for line in settings.unused_here():
        console.print(f"! {line}", markup=False, highlight=False, soft_wrap=True)
    console.print("The settings are sound.", highlight=False)


def _table(settings: Settings) -> Table:
    table = Table("setting", "value", "from")
    for name in SETTINGS:
        origin = settings.origins[name]
        style = "dim" if origin == DEFAULT else "bold"
        row = (name, shown(name, settings), origin)
        table.add_row(*(Text(cell, style=style, overflow="fold") for cell in row))
    return table
