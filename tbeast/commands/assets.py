"""tbeast assets: look at the asset map in the database, and change it.

They work on the database that the daemon's settings name, whether a daemon runs or not; where the tables are still
empty they are filled from the package's first. Nothing is changed that would leave no whole map.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final

import click
from attrs import asdict, fields
from rich.table import Table
from rich.text import Text

from tbeast.adapters.store import assetrows
from tbeast.adapters.store.postgres import Connection
from tbeast.commands.cells import console
from tbeast.commands.storedoor import opened, store_options
from tbeast.domain.assetmap import AssetMap, ListingRow, parse

COLUMNS: Final = tuple(column.name for column in fields(ListingRow))
_BOOLEANS: Final = ("home", "stablecoin", "enabled", "prewarm")
_SAID: Final = {"true": True, "false": False}


@click.group("assets")
def command() -> None:
    """Look at the asset map in the database, and change it.

    Exit status: 0 if it was done; 1 if it was refused; 2 for misuse; 3 if the database cannot be asked.
    """


@command.command("list")
@click.option("--exchange", help="What this exchange lists alone.")
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON on one line.")
@store_options
def list_assets(exchange: str | None, json_wanted: bool, config: str | None, state: str | None) -> None:
    """List the rows: an asset on an exchange each."""
    with _filled(config, state) as connection:
        feeds, listings = assetrows.read_rows(connection)
    rows = [row for row in listings if exchange in (None, row.exchange)]
    if json_wanted:
        click.echo(json.dumps({"feeds": [asdict(feed) for feed in feeds], "listings": [asdict(row) for row in rows]}))
        return
    off = {feed.exchange for feed in feeds if not feed.enabled}
    table = Table("asset", "exchange", "symbol", "name", "category", "is")
    for row in rows:
        words = [word for word, holds in (
            ("home", row.home), ("stablecoin", row.stablecoin), ("off", not row.enabled or row.exchange in off),
            ("REST only", not row.prewarm),
        ) if holds]  # fmt: skip
        cells = (row.asset, row.exchange, row.symbol, row.name, row.category, ", ".join(words))
        table.add_row(*(Text(cell, style="dim" if "off" in words else "") for cell in cells))
    console().print(table)


@command.command("enable")
@click.argument("asset", required=False)
@click.option("--exchange", help="On this exchange alone; without ASSET: the exchange as a whole.")
@store_options
def enable(asset: str | None, exchange: str | None, config: str | None, state: str | None) -> None:
    """Switch an asset or an exchange on."""
    _switch(asset, exchange, True, config, state)


@command.command("disable")
@click.argument("asset", required=False)
@click.option("--exchange", help="On this exchange alone; without ASSET: the exchange as a whole.")
@store_options
def disable(asset: str | None, exchange: str | None, config: str | None, state: str | None) -> None:
    """Switch an asset or an exchange off."""
    _switch(asset, exchange, False, config, state)


@command.command("export")
@store_options
def export(config: str | None, state: str | None) -> None:
    """Write the rows to standard output, as CSV."""
    with _filled(config, state) as connection:
        _, listings = assetrows.read_rows(connection)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in listings:
        writer.writerow(str(value).lower() if isinstance(value, bool) else value for value in asdict(row).values())
    click.echo(out.getvalue(), nl=False)


@command.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@store_options
def import_rows(file: Any, config: str | None, state: str | None) -> None:
    """Put the rows of FILE (as export writes them; - is standard input) in the place of all that are there."""
    with _filled(config, state) as connection:
        feeds, _ = assetrows.read_rows(connection)
        assets = assetrows.replace(connection, feeds, _read(file.read()))
    _tell(assets)


@contextmanager
def _filled(config: str | None, state: str | None) -> Iterator[Connection]:
    with opened(config, state) as (_, connection):
        data = files("tbeast") / "data"
        shipped = parse((data / "assets.csv").read_text("utf-8"), (data / "stablecoins.csv").read_text("utf-8"))
        assetrows.seed(connection, shipped)
        yield connection


def _switch(asset: str | None, exchange: str | None, enabled: bool, config: str | None, state: str | None) -> None:
    if asset is None and exchange is None:
        raise click.UsageError("name an asset, or an exchange by --exchange")
    with _filled(config, state) as connection:
        assets = assetrows.switch(connection, asset and asset.upper(), exchange and exchange.lower(), enabled)
    _tell(assets)


def _read(text: str) -> list[ListingRow]:
    """Read what L{export} wrote.

    @raise ValueError: naming the first line that is at fault.
    """
    reader = csv.DictReader(text.splitlines(), restval=None)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"the first line must be {','.join(COLUMNS)}")
    rows = []
    for raw in reader:
        values: dict[str, Any] = dict(raw)
        try:
            if None in raw or None in raw.values():
                raise ValueError(f"there must be {len(COLUMNS)} cells")
            for name in _BOOLEANS:
                if raw[name] not in _SAID:
                    raise ValueError(f"{name} must be true or false")
                values[name] = _SAID[raw[name]]
            values["position"] = int(raw["position"])
        except ValueError as error:
            raise ValueError(f"line {reader.line_num}: {error}") from None
        rows.append(ListingRow(**values))
    return rows


def _tell(assets: AssetMap) -> None:
    listings = sum(len(asset.symbols) for asset in (*assets.assets.values(), *assets.stablecoins.values()))
    click.echo(
        f"The map has {len(assets.assets)} assets and {len(assets.stablecoins)} stablecoins in {listings} rows now;"
        " every node takes it at its next reading, within a few minutes."
    )
