"""The `tbeast` command: a list of subcommands, each loaded only when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

SUBCOMMANDS: Final = {
    "assets": ("tbeast.commands.assets", "Look at the asset map in the database, and change it."),
    "consume-usage": ("tbeast.commands.consume", "Write usage from the queue to the database."),
    "keys": ("tbeast.commands.keys", "Make, list, revoke and change API keys."),
    "migrate": ("tbeast.commands.migrate", "Bring the database's schema up to date."),
    "parameters": ("tbeast.commands.parameters", "Look at the parameters in the database, and change them."),
    "psql": ("tbeast.commands.psql", "Open the database with psql."),
    "sync": ("tbeast.commands.sync", "Rebuild the shared cache from the database."),
    "check-config": ("tbeast.commands.checkconfig", "Check the settings and show where each comes from."),
    "explain": ("tbeast.commands.explain", "Tell how a price came about."),
    "lab": ("tbeast.commands.lab", "Run the exchange lab alone."),
    "loadtest": ("tbeast.commands.loadtest", "Load a daemon with ever more concurrency, and report how it stood."),
    "price": ("tbeast.commands.price", "Ask a daemon for prices."),
    "watch": ("tbeast.commands.watch", "Watch prices in the terminal."),
}
"""Name: the module whose C{command} it is, and the line that the list shows."""


class LazyGroup(click.Group):
    """A group that knows its subcommands by name, and imports one when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in order."""
        return sorted(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand, loaded; C{None} if there is none of that name."""
        if cmd_name not in SUBCOMMANDS:
            return None
        command = import_module(SUBCOMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list for the help, without loading anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUBCOMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tbeast", message="%(prog)s %(version)s")
def main() -> None:
    """Look at a tbeast daemon, and at what it would be started with.

    The daemon itself is started by `twist tbeast` or `twistd -n tbeast`.
    """
