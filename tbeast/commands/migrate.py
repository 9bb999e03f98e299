"""tbeast migrate: bring the schema of the database up to date, or say whether it is."""

from __future__ import annotations

import click

from tbeast.adapters.store.embedded import folder_of
from tbeast.adapters.store.migrations import bundled, check, migrate
from tbeast.adapters.store.opening import open_store, store_target
from tbeast.commands.storedoor import ending_well, secret_of, settings_of, store_options, tell


@click.command("migrate")
@store_options
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit status 1 if there is something to do.")
def command(config: str | None, state: str | None, only_check: bool) -> None:
    """Bring the schema of the database up to date.

    The database is the one that the settings name, or the embedded one in the state folder. Any number of these may
    run at once, beside daemons or not: each migration is applied once.
    """
    with ending_well():
        settings = settings_of(config, state)
        secret = secret_of(settings)
        if only_check and store_target(settings, secret) is None and not (folder_of(settings.state) / "data").exists():
            raise click.ClickException(f"there is no database in {folder_of(settings.state)} yet: run `tbeast migrate`")
        with open_store(settings, secret, tell, schema_as_is=True) as connection:
            if only_check:
                problem = check(connection)
                if problem is not None:
                    raise click.ClickException(problem)
                applied = []
            else:
                applied = migrate(connection)
    for title in applied:
        click.echo(f"applied {title}")
    click.echo(f"The schema is up to date: {bundled()[-1].title}.")
