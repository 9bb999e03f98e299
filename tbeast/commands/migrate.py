"""tbeast migrate: bring the schema of the database up to date, or say whether it is."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial

import click

from tbeast.adapters.cloud.secrets import fetch
from tbeast.adapters.settingsource import gather
from tbeast.adapters.store.embedded import folder_of
from tbeast.adapters.store.migrations import bundled, check, migrate
from tbeast.adapters.store.opening import open_store, store_target
from tbeast.adapters.store.postgres import Credentials
from tbeast.errors import SettingsError, StoreError
from tbeast.settings import Settings, load


@click.command("migrate")
@click.option("-c", "--config", metavar="FILE", help="TOML file with settings.")
@click.option("--state", help="As the option of the daemon.")
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit status 1 if there is something to do.")
def command(config: str | None, state: str | None, only_check: bool) -> None:
    """Bring the schema of the database up to date.

    The database is the one that the settings name, or the embedded one in the state folder. Any number of these may
    run at once, beside daemons or not: each migration is applied once.
    """
    try:
        settings = load(*gather(config, os.environ, {"TBEAST_STATE": state}, socket.gethostname()))
        secret = secret_of(settings)
        if only_check and store_target(settings, secret) is None and not (folder_of(settings.state) / "data").exists():
            raise click.ClickException(f"there is no database in {folder_of(settings.state)} yet: run `tbeast migrate`")
        with open_store(settings, secret, lambda line: click.echo(line, err=True), schema_as_is=True) as connection:
            if only_check:
                problem = check(connection)
                if problem is not None:
                    raise click.ClickException(problem)
                applied = []
            else:
                applied = migrate(connection)
    except (SettingsError, StoreError) as error:
        raise click.ClickException(str(error)) from None
    for title in applied:
        click.echo(f"applied {title}")
    click.echo(f"The schema is up to date: {bundled()[-1].title}.")


def secret_of(settings: Settings) -> Callable[[], Credentials] | None:
    """What asks for the database's credentials; C{None}: the settings name no secret."""
    if settings.db_secret_name is None:
        return None
    return partial(fetch, settings.db_secret_name, settings.aws_region, settings.aurora_url)
