"""The asset map in the database: C{exchange_feeds} and C{exchange_asset_map}.

Where the tables are empty they are filled from the tables that the package carries; from then on they are the
operator's, and an update of the package changes nothing in them. What is read is checked as a whole.

The functions take a connection and do not commit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import astuple, frozen
from psycopg2.extras import execute_values
from twisted.internet.defer import Deferred

from tbeast.adapters.store.postgres import Connection
from tbeast.adapters.store.threads import StorePool
from tbeast.domain.assetmap import AssetMap, FeedRow, ListingRow, from_rows, rows_of

_COLUMNS: Final = (
    "asset", "exchange", "exchange_symbol", "name", "category", "home", "stablecoin", "enabled", "prewarm", "position",
)  # fmt: skip
_LISTING: Final = ", ".join(_COLUMNS)
_LISTED: Final = ", ".join(f"listed.{column}" for column in _COLUMNS)


def read_rows(connection: Connection) -> tuple[list[FeedRow], list[ListingRow]]:
    """Both tables, as they are at one moment."""
    with connection.cursor() as cursor:
        # in one statement, because somebody may be changing them
        cursor.execute(
            "SELECT exchange_feeds.exchange, exchange_feeds.enabled, exchange_feeds.position,"
            f" {_LISTED} FROM exchange_feeds LEFT JOIN exchange_asset_map AS listed"
            " ON listed.exchange = exchange_feeds.exchange ORDER BY listed.position, listed.asset, 3, 1"
        )
        rows = cursor.fetchall()
    feeds = sorted({row[:3] for row in rows}, key=lambda row: (row[2], row[0]))
    return [FeedRow(*row) for row in feeds], [ListingRow(*row[3:]) for row in rows if row[3] is not None]


def read(connection: Connection) -> AssetMap:
    """The map that the tables make.

    @raise tbeast.errors.AssetMapError: naming every row that is at fault.
    """
    return from_rows(*read_rows(connection))


def seed(connection: Connection, assets: AssetMap) -> bool:
    """Fill the tables if they are empty; C{False}: they were not. Several nodes may try at once."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM exchange_asset_map)")
        if cursor.fetchone() == (True,):
            return False
        cursor.execute("LOCK TABLE exchange_feeds, exchange_asset_map IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute("SELECT EXISTS (SELECT FROM exchange_asset_map)")
        if cursor.fetchone() == (True,):
            return False
    feeds, listings = rows_of(assets)
    _fill(connection, feeds, listings)
    return True


def replace(connection: Connection, feeds: Iterable[FeedRow], listings: Iterable[ListingRow]) -> AssetMap:
    """Put other rows in the place of all that are there.

    @return: the map that they make.
    @raise tbeast.errors.AssetMapError: when they make none; nothing has changed then.
    """
    feeds, listings = list(feeds), list(listings)
    assets = from_rows(feeds, listings)
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE exchange_feeds, exchange_asset_map IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute("DELETE FROM exchange_asset_map")
        cursor.execute("DELETE FROM exchange_feeds")
    _fill(connection, feeds, listings)
    return assets


def switch(connection: Connection, asset: str | None, exchange: str | None, enabled: bool) -> AssetMap:
    """Switch rows on or off.

    @param asset: C{None}: the exchange as a whole.
    @param exchange: C{None}: the asset on every exchange.
    @return: the map as it is now.
    @raise LookupError: when there is no such row, with a sentence for people.
    @raise tbeast.errors.AssetMapError: when what is left makes no map; the caller rolls back then.
    """
    with connection.cursor() as cursor:
        if asset is None:
            cursor.execute("UPDATE exchange_feeds SET enabled = %s WHERE exchange = %s", (enabled, exchange))
        else:
            cursor.execute(
                "UPDATE exchange_asset_map SET enabled = %s WHERE asset = %s AND exchange = coalesce(%s, exchange)",
                (enabled, asset, exchange),
            )
        if not cursor.rowcount:
            raise LookupError(f"there is no row of {' on '.join(name for name in (asset, exchange) if name)}")
    return read(connection)


def _fill(connection: Connection, feeds: Iterable[FeedRow], listings: Iterable[ListingRow]) -> None:
    with connection.cursor() as cursor:
        execute_values(
            cursor,
            "INSERT INTO exchange_feeds (exchange, enabled, position) VALUES %s ON CONFLICT (exchange) DO NOTHING",
            [astuple(feed) for feed in feeds],
        )
        execute_values(
            cursor, f"INSERT INTO exchange_asset_map ({_LISTING}) VALUES %s", [astuple(row) for row in listings]
        )


@frozen
class PostgresAssets:
    """The asset map for the daemon."""

    pool: StorePool

    def seed(self, assets: AssetMap) -> Deferred[bool]:
        """See L{seed}."""
        return self.pool.run(lambda connection: seed(connection, assets))

    def read(self) -> Deferred[AssetMap]:
        """The map as it is now. Fails with L{tbeast.errors.AssetMapError} when the rows make none."""
        return self.pool.run(read)
