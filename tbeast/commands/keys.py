"""tbeast keys: make, list, show, revoke and rotate keys, and set their tier.

They work on the database that the daemon's settings name, whether a daemon runs or not. What was changed is told to
the nodes over Valkey after it is committed; where there is no Valkey, or it is away, they find out by themselves.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypedDict, Unpack

import click

from tbeast.adapters.cache.keyevents import CHANNEL
from tbeast.adapters.cache.publishonce import publish_once
from tbeast.adapters.store import keyrows
from tbeast.codecs.adminbodies import details_members, key_members
from tbeast.codecs.keycopies import encode_change
from tbeast.commands.asking import Barred
from tbeast.commands.keysview import (
    NEVER_AGAIN,
    moment,
    print_details,
    print_key,
    print_new,
    print_table,
    said,
)
from tbeast.commands.storedoor import opened, store_options
from tbeast.domain.keys import CHANGED, CREATED, REVOKED, KeyChange, KeyRecord
from tbeast.errors import CacheUnavailableError, SettingsError
from tbeast.settings import Settings

EVERYWHERE_SECONDS: Final = 5
"""Within so many seconds a change is in force on every node, however they hear of it."""

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Place(TypedDict):
    """The values of L{store_options}."""

    config: str | None
    state: str | None


json_option = click.option("--json", "json_wanted", is_flag=True, help="Print JSON on one line.")


class Duration(click.ParamType[float]):
    """Seconds, minutes, hours or days: 90s, 30m, 24h, 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Give the seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", str(value).strip())
        if not found:
            self.fail("give a number and s, m, h or d: 30m, 24h, 7d", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@click.group("keys")
def command() -> None:
    """Make, list, show, revoke and rotate keys, and set their tier.

    KEY is a key's id; or the beginning of its id, four characters at least, or its name, if that fits one key alone.
    What is changed is in force on every node within 5 seconds.

    Exit status: 0 if it was done; 1 if it was refused; 2 for misuse; 3 if the database cannot be asked.
    """


@command.command("create")
@click.option("--name", required=True, help="What you call it: it stands in lists and reports.")
@click.option("--tier", default="free", show_default=True, help="Its limits are those of this tier.")
@click.option("--email", help="Whose it is; a user with this address is made if there is none.")
@click.option("--lrs-addon", is_flag=True, help="With the add-on of unlimited reports.")
@click.option("--format", "response_format", default="tbc", show_default=True, help="The format of answers.")
@click.option("--lang", "preferred_lang", default="en", show_default=True, help="The language of messages to its user.")
@json_option
@store_options
def create(json_wanted: bool, name: str, tier: str, email: str | None, **rest: Any) -> None:
    """Make a key, and show it for the only time."""
    place = _place(rest)
    with opened(**place) as (settings, connection):
        text, record = keyrows.create(connection, tier, name, email, random_bytes=os.urandom, **rest)
        with _seen():
            if json_wanted:
                _print_json({"key": text, **key_members(record, time.time())})
            else:
                print_key(text)
    _tell(settings, [(CREATED, record)])
    _print_rest(record, json_wanted)


@command.command("list")
@click.option("--tier", help="Keys of this tier alone.")
@click.option("--revoked", "which", flag_value="revoked", help="Revoked keys alone.")
@click.option("--all", "which", flag_value="all", help="Good and revoked keys.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="So many at most.")
@click.option("--after", metavar="ID", help="Those that come after this one: the next page.")
@json_option
@store_options
def list_keys(
    json_wanted: bool, tier: str | None, which: str | None, limit: int, after: str | None, **place: Unpack[Place]
) -> None:
    """List the good keys, in the order of their making."""
    revoked = {"revoked": True, "all": None}.get(which or "", False)
    with opened(**place) as (_, connection):
        records = keyrows.listed(connection, tier, revoked, after, limit + 1)
    now, page = time.time(), records[:limit]
    more = page[-1].account.key_id if len(records) > limit else None
    if json_wanted:
        _print_json({"keys": [key_members(record, now) for record in page], "next": more})
        return
    if page:
        print_table(page, now)
    else:
        click.echo("There are no such keys.")
    if more is not None:
        click.echo(f"There are more: --after {more}")


@command.command("show")
@click.argument("key")
@json_option
@store_options
def show(json_wanted: bool, key: str, **place: Unpack[Place]) -> None:
    """Show all that is known of KEY; the key itself is known to nobody."""
    with opened(**place) as (_, connection):
        details = keyrows.details(connection, keyrows.find(connection, key).account.key_id)
    if json_wanted:
        _print_json(details_members(details, time.time()))
    else:
        print_details(details, time.time())


@command.command("revoke")
@click.argument("key")
@json_option
@store_options
def revoke(json_wanted: bool, key: str, **place: Unpack[Place]) -> None:
    """Revoke KEY, for good."""
    with opened(**place) as (settings, connection):
        record, was_good = keyrows.revoke(connection, keyrows.find(connection, key).account.key_id)
    # told again also if it was revoked before: whoever asks a second time wants it to be sure
    _tell(settings, [(REVOKED, record)])
    if json_wanted:
        _print_json({**key_members(record, time.time()), "was_good": was_good})
    elif was_good:
        click.echo(f"{said(record)} is revoked; every node refuses it within {EVERYWHERE_SECONDS} s.")
    else:
        click.echo(f"{said(record)} was revoked already.")


@command.command("rotate")
@click.argument("key")
@click.option("--grace", type=Duration(), default="0s", help="How long KEY works on beside the new one: 30m, 24h, 7d.")
@json_option
@store_options
def rotate(json_wanted: bool, key: str, grace: float, **place: Unpack[Place]) -> None:
    """Put a new key in the place of KEY, and show it for the only time.

    It has the same user, name, tier and limits, and goes on with what was used of the month. KEY is revoked, at once or
    after the grace.
    """
    with opened(**place) as (settings, connection):
        found = keyrows.find(connection, key)
        rotation = keyrows.rotate(connection, found.account.key_id, grace, random_bytes=os.urandom)
        old, new = rotation.old, rotation.new
        with _seen():
            if json_wanted:
                now = time.time()
                _print_json({"key": rotation.text, **key_members(new, now), "replaces": key_members(old, now)})
            else:
                print_key(rotation.text)
    _tell(settings, [(CREATED, new), (REVOKED if old.revoked else CHANGED, old)])
    _print_rest(new, json_wanted)
    if json_wanted:
        return
    click.echo()
    if old.revoked or old.ends_at is None:
        click.echo(f"{said(old)} is revoked; every node refuses it within {EVERYWHERE_SECONDS} s.")
    else:
        click.echo(f"{said(old)} works until {moment(old.ends_at)}.")


@command.command("set-tier")
@click.argument("key")
@click.argument("tier")
@json_option
@store_options
def set_tier(json_wanted: bool, key: str, tier: str, **place: Unpack[Place]) -> None:
    """Give KEY the limits of TIER; what it has used of the month stays used."""
    with opened(**place) as (settings, connection):
        before = keyrows.find(connection, key)
        record = keyrows.set_tier(connection, before.account.key_id, tier)
    _tell(settings, [(CHANGED, record)])
    if json_wanted:
        _print_json(key_members(record, time.time()))
    else:
        click.echo(f"{said(record)} had the tier {before.account.tier}.")


@contextmanager
def _seen() -> Iterator[None]:
    """Print a new key, and no more, within this: what nobody could see is not committed."""
    if sys.stdout is None:
        raise Barred("standard output is closed: nobody would see the key, so none was made")
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise Barred(f"the key could not be printed ({error.strerror or error}), so none was made") from None


def _print_rest(record: KeyRecord, json_wanted: bool) -> None:
    """Print what goes with a new key; who has read the key alone, as C{head -1} does, need not read it."""
    if json_wanted:
        click.echo(NEVER_AGAIN, err=True)
        return
    try:
        print_new(record)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor is the interpreter to mind at its end


def _place(rest: dict[str, Any]) -> Place:
    return Place(config=rest.pop("config"), state=rest.pop("state"))


def _tell(settings: Settings, changes: Sequence[tuple[str, KeyRecord]]) -> None:
    """Tell the nodes what was committed."""
    if settings.cache_url is None:
        return
    try:
        for what, record in changes:
            message = encode_change(KeyChange(what, record.account.key_id, record.account.digest))
            publish_once(settings.cache_url, CHANNEL, message, settings.cache_ca)
    except (CacheUnavailableError, SettingsError) as error:
        click.echo(
            f"It is done, but the nodes could not be told at once ({error}); those that reach the database find out"
            f" within {EVERYWHERE_SECONDS} s.",
            err=True,
        )


def _print_json(value: dict[str, Any]) -> None:
    # ASCII alone, so that no terminal takes a name for a command
    click.echo(json.dumps(value))
