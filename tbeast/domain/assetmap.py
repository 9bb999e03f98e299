"""Which assets there are, where each is at home, and how each exchange spells it.

The rule: every asset has one home, and its home lists it; a spelling belongs to one asset on its exchange. A table
that breaks this is refused whole, every row at fault named, because a price under a wrong name is worse than none.

The package carries the tables as CSV; the database holds the same as rows, one for each asset and exchange, which an
operator may switch off one by one, or with a whole exchange. What is switched off is as if it were not there, whatever
it says. An asset whose home is switched off is at home on the first of the other exchanges that list it; one that no
exchange lists any more is left out.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
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
    """One row: C{symbols} gives the spelling by exchange, in the order of L{EXCHANGES}, where it is listed.

    @ivar unsubscribed: the exchanges whose feed is not asked for it: it is only fetched from them over REST.
    """

    code: str
    name: str
    category: str
    home: str
    symbols: Mapping[str, str]
    unsubscribed: frozenset[str] = frozenset()


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
        listed = [asset for asset in self.assets.values() if _subscribed(asset, exchange)]
        listed.sort(key=lambda asset: asset.home != exchange)
        rates = [coin for coin in self.stablecoins.values() if _subscribed(coin, exchange)]
        return {asset.symbols[exchange]: asset.code for asset in (*rates, *listed)}

    def categories(self) -> dict[str, list[str]]:
        """Asset codes by category, in the table's order."""
        found: dict[str, list[str]] = {}
        for asset in self.assets.values():
            found.setdefault(asset.category, []).append(asset.code)
        return found


@frozen
class FeedRow:
    """An exchange, as the database has it.

    @ivar position: its place in the order in which a home is looked for.
    """

    exchange: str
    enabled: bool
    position: int


@frozen
class ListingRow:
    """An asset on an exchange, as the database has it.

    @ivar home: whether the asset is at home there.
    @ivar stablecoin: whether the asset is one that conversion uses.
    @ivar prewarm: whether the exchange's feed is asked for it; if not, it is only fetched over REST.
    @ivar position: the asset's place in the table; name and category are those of the row of its home.
    """

    asset: str
    exchange: str
    symbol: str
    name: str
    category: str
    home: bool
    stablecoin: bool
    enabled: bool
    prewarm: bool
    position: int


def _subscribed(asset: Asset, exchange: str) -> bool:
    return exchange in asset.symbols and exchange not in asset.unsubscribed


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
    return _whole(listed, rates, faults)


def rows_of(assets: AssetMap) -> tuple[list[FeedRow], list[ListingRow]]:
    """The rows that stand for a map in the database; L{from_rows} makes the same map of them."""
    feeds = [FeedRow(exchange, True, place) for place, exchange in enumerate(EXCHANGES)]
    listings = [
        ListingRow(
            asset.code, exchange, symbol, asset.name, asset.category, exchange == asset.home, stablecoin, True,
            exchange not in asset.unsubscribed, place,
        )
        for stablecoin, table in ((True, assets.stablecoins), (False, assets.assets))
        for place, asset in enumerate(table.values())
        for exchange, symbol in asset.symbols.items()
    ]  # fmt: skip
    return feeds, listings


def from_rows(feeds: Iterable[FeedRow], listings: Iterable[ListingRow]) -> AssetMap:
    """Read the database's rows and check them against each other.

    @raise AssetMapError: naming every row that is at fault.
    """
    faults: list[str] = []
    order = [feed.exchange for feed in sorted(feeds, key=lambda feed: (feed.position, feed.exchange)) if feed.enabled]
    faults += [f"feed {exchange}: there is no such exchange" for exchange in order if exchange not in EXCHANGES]
    by_code: dict[str, list[ListingRow]] = {}
    for listing in sorted(listings, key=lambda listing: (listing.position, listing.asset, listing.exchange)):
        by_code.setdefault(listing.asset, []).append(listing)
    tables: tuple[list[dict[str, str]], list[dict[str, str]]] = ([], [])
    unsubscribed: dict[str, frozenset[str]] = {}
    for code, rows in by_code.items():
        there = [row for row in rows if row.enabled and row.exchange in order]
        if not there:
            continue
        faults += _faults_of(code, there)
        first = next((row for row in rows if row.home), there[0])
        home = first.exchange if first.home else ""
        if home and home not in [row.exchange for row in there]:
            home = min((row.exchange for row in there), key=order.index)
        tables[there[0].stablecoin].append(
            {"asset": code, "name": first.name, "category": first.category, "home": home}
            | dict.fromkeys(EXCHANGES, "")
            | {row.exchange: row.symbol for row in there}
        )
        unsubscribed[code] = frozenset(row.exchange for row in there if not row.prewarm)
    taken: dict[tuple[str, str], str] = {}
    listed, rates = (_checked(table, taken, faults, unsubscribed) for table in tables)
    if not listed:
        faults.append("no asset is switched on")
    return _whole(listed, rates, faults)


_SYMBOL: Final = re.compile(r"[!-~]{1,64}")


def _faults_of(code: str, rows: Sequence[ListingRow]) -> Iterable[str]:
    for row in rows:
        if not _SYMBOL.fullmatch(row.symbol):
            yield f"{code}: its {row.exchange} symbol {row.symbol!r} is none"
    if sum(row.home for row in rows) > 1:
        yield f"{code}: has several homes"
    if len({row.exchange for row in rows}) < len(rows):
        yield f"{code}: stands twice"
    if {row.stablecoin for row in rows} != {code in STABLECOINS}:
        yield f"{code}: its rows must {'all' if code in STABLECOINS else 'not'} say that it is a stablecoin"


def _whole(listed: dict[str, Asset], rates: dict[str, Asset], faults: list[str]) -> AssetMap:
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


def _checked(
    rows: list[dict[str, str]],
    taken: dict[tuple[str, str], str],
    faults: list[str],
    unsubscribed: Mapping[str, frozenset[str]] = MappingProxyType({}),
) -> dict[str, Asset]:
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
        found[code] = Asset(
            code, row["name"], row["category"], home, MappingProxyType(symbols), unsubscribed.get(code, frozenset())
        )
    return found
