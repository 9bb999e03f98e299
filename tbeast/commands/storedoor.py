"""What all commands that work on the database share: which one it is, how it is opened, how a failure ends them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import click

from tbeast.adapters.cloud.secrets import fetch
from tbeast.adapters.settingsource import gather
from tbeast.adapters.store.keyrows import KeyRowError
from tbeast.adapters.store.opening import open_store
from tbeast.adapters.store.postgres import Connection, Credentials
from tbeast.commands.asking import UNANSWERED, Barred, Ending
from tbeast.errors import AssetMapError, SettingsError, StoreError, StoreUnavailableError
from tbeast.settings import Settings, load

_Command = TypeVar("_Command", bound=Callable[..., Any])


class StoreAway(Ending):
    """The database cannot be asked now."""

    exit_code = UNANSWERED


def store_options(command: _Command) -> _Command:
    """The options that say which database, as the daemon has them."""
    for option in (
        click.option("-c", "--config", metavar="FILE", help="TOML file with settings."),
        click.option("--state", metavar="FOLDER", help="As the option of the daemon."),
    ):
        command = option(command)
    return command


def settings_of(config: str | None, state: str | None) -> Settings:
    """The settings that a daemon would have.

    @raise SettingsError: when they are at fault.
    """
    return load(*gather(config, os.environ, {"TBEAST_STATE": state}, socket.gethostname()))


def secret_of(settings: Settings) -> Callable[[], Credentials] | None:
    """What reads the secret that the settings name; C{None} if they name none."""
    if settings.db_secret_name is None:
        return None
    return partial(fetch, settings.db_secret_name, settings.aws_region, settings.aurora_url)


def tell(line: str) -> None:
    """Say something beside what the command prints."""
    click.echo(line, err=True)


@contextmanager
def ending_well() -> Iterator[None]:
    """Make of our errors the end of a command, with its exit status and one line."""
    try:
        yield
    except StoreUnavailableError as error:
        raise StoreAway(f"the database cannot be asked: {error}") from None
    except (SettingsError, StoreError, KeyRowError, AssetMapError, LookupError, ValueError) as error:
        raise Barred(str(error)) from None


@contextmanager
def opened(config: str | None, state: str | None) -> Iterator[tuple[Settings, Connection]]:
    """The settings and a connection; what was done is committed at the end, unless it was refused."""
    with ending_well():
        settings = settings_of(config, state)
        with open_store(settings, secret_of(settings), tell) as connection:
            yield settings, connection
