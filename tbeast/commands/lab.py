"""tbeast lab: the exchange lab in the foreground, for looking at it or for pointing a daemon at it by hand."""

from __future__ import annotations

import click


@click.command(
    "lab",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Run the exchange lab alone; it has its own options: tbeast lab --help."""
    from tbeast.lab.main import run

    raise SystemExit(run(list(arguments)))
