"""Which symbols each emulated exchange lists: the lab's own reading of the package's two CSV tables.

The daemon has its own reader with its own checks. This one is kept apart on purpose: if either of them reads a table
wrongly, the two no longer fit together, and a test sees it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from attrs import frozen

EXCHANGES: Final = ("coinbase", "gemini", "kraken", "gateio", "cryptocom", "okx")
"""The six, in the order in which the lab names them and gives out ports."""


@frozen
class Tables:
    """What is listed where.

    @ivar codes: every asset code of the first table, in its order.
    @ivar coins: every code of the stablecoin table.
    @ivar listings: by exchange, its own spelling to the asset code, stablecoins first.
    """

    codes: tuple[str, ...]
    coins: tuple[str, ...]
    listings: Mapping[str, Mapping[str, str]]


def read_tables(assets: str, stablecoins: str) -> Tables:
    """Read both tables from CSV text with a header row.

    @raise ValueError: when a column is missing.
    """
    listings: dict[str, dict[str, str]] = {exchange: {} for exchange in EXCHANGES}
    seen: list[tuple[str, ...]] = []
    for text in (stablecoins, assets):
        rows = csv.DictReader(text.splitlines())
        missing = {"asset", *EXCHANGES} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        codes = []
        for row in rows:
            codes.append(row["asset"])
            for exchange in EXCHANGES:
                if row[exchange]:
                    listings[exchange][row[exchange]] = row["asset"]
        seen.append(tuple(codes))
    return Tables(codes=seen[1], coins=seen[0], listings=listings)


def bundled_tables() -> Tables:
    """The tables that lie in the package."""
    data = files("tbeast") / "data"
    return read_tables((data / "assets.csv").read_text("utf-8"), (data / "stablecoins.csv").read_text("utf-8"))
