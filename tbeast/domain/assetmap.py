"""Which assets there are, where each is at home, and how each exchange spells it.

The rule: every asset has one home, and its home lists it; a spelling belongs to one asset on its exchange. A table
that breaks this is refused whole, every row at fault named, because a price under a wrong name is worse than none.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from attrs import frozen

from tbeast.errors import AssetMapError

EXCHANGES: Final = ("coinbase", "gemini", "kraken", "gateio", "cryptocom", "okx")
"""The exchanges, in the order in which they are named everywhere."""

QUOTES: Final[Mapping[str, str]] = MappingProxyType(
    {"coinbase": "USD", "gemini": "USD", "kraken": "USD", "gateio": "USDT", "cryptocom": "USD", "okx": "USDT"}
)
"""The currency in which each exchange's symbols of the asset table are quoted."""

STABLECOINS: Final = ("USDT", "USDC")
"""The assets of the second table: quoted in USD on every exchange, and used to convert."""


@frozen
class Asset:
    """One row: C{symbols} gives the spelling by exchange, in the order of L{EXCHANGES}, where it is listed."""

    code: str
    name: str
    category: str
    home: str
    symbols: Mapping[str, str]


@frozen
class AssetMap:
    """Both tables, checked.

    @ivar assets: by code, in the table's order; the stablecoins are not among them.
    @ivar stablecoins: by code.
    """

    assets: Mapping[str, Asset]
    stablecoins: Mapping[str, Asset]

    def subscriptions(self, exchange: str) -> dict[str, str]:
        """What to subscribe to on C{exchange}: symbol to asset code, stablecoins first, then the exchange's own
        assets, then those that it lets us compare.
        """
        listed = [asset for asset in self.assets.values() if exchange in asset.symbols]
        listed.sort(key=lambda asset: asset.home != exchange)
        rates = [coin for coin in self.stablecoins.values() if exchange in coin.symbols]
        return {asset.symbols[exchange]: asset.code for asset in (*rates, *listed)}

    def categories(self) -> dict[str, list[str]]:
        """Asset codes by category, in the table's order."""
        found: dict[str, list[str]] = {}
        for asset in self.assets.values():
            found.setdefault(asset.category, []).append(asset.code)
        return found


def quote_currency(exchange: str, code: str) -> str:
    """The currency in which C{exchange} quotes C{code}: a stablecoin is always asked for in dollars."""
    return "USD" if code in STABLECOINS else QUOTES[exchange]


def parse(assets: str, stablecoins: str) -> AssetMap:
    """Read both tables (CSV text with a header row) and check them against each other.

    @raise AssetMapError: naming every row that is at fault.
    """
    faults: list[str] = []
    taken: dict[tuple[str, str], str] = {}
    rows = _rows(assets, ("asset", "name", "category", "home", *EXCHANGES), "assets", faults)
    coins = _rows(stablecoins, ("asset", *EXCHANGES), "stablecoins", faults)
    listed = _checked(rows, taken, faults)
    rates = _checked(
        [{"name": row.get("asset", ""), "category": "", "home": "", **row} for row in coins], taken, faults
    )
    faults += [f"{code}: is in both tables" for code in sorted(listed.keys() & rates.keys())]
    known = ", ".join(STABLECOINS)
    faults += [
        f"{code}: is no stablecoin that conversion knows ({known})" for code in sorted(rates.keys() - set(STABLECOINS))
    ]
    if faults:
        raise AssetMapError("; ".join(faults))
    return AssetMap(MappingProxyType(listed), MappingProxyType(rates))


def _rows(text: str, wanted: Iterable[str], table: str, faults: list[str]) -> list[dict[str, str]]:
    reader = csv.DictReader(text.splitlines(), restkey="", restval="")
    missing = [name for name in wanted if name not in (reader.fieldnames or ())]
    if missing:
        faults.append(f"table {table}: no column {', '.join(missing)}")
        return []
    rows = []
    for row in reader:
        if "" in row:
            faults.append(f"table {table}, line {reader.line_num}: more cells than columns")
            del row[""]
        rows.append(row)
    return rows


def _checked(rows: list[dict[str, str]], taken: dict[tuple[str, str], str], faults: list[str]) -> dict[str, Asset]:
    found: dict[str, Asset] = {}
    for row in rows:
        code, home = row["asset"], row["home"]
        symbols = {name: row[name] for name in EXCHANGES if row[name]}
        if not (code and code.isascii() and code.isalnum() and code == code.upper()):
            faults.append(f"{code!r}: is no asset code")
        if code in found:
            faults.append(f"{code}: stands twice")
        if home and home not in symbols:
            faults.append(f"{code}: its home {home!r} does not list it")
        if not home and code not in STABLECOINS:
            faults.append(f"{code}: has no home")
        if not symbols:
            faults.append(f"{code}: is listed nowhere")
        for exchange, symbol in symbols.items():
            other = taken.setdefault((exchange, symbol), code)
            if other != code:
                faults.append(f"{code}: its {exchange} symbol {symbol!r} belongs to {other}")
        found[code] = Asset(code, row["name"], row["category"], home, MappingProxyType(symbols))
    return found
