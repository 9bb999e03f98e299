"""The asset map in the database: filled once, read whole, or refused."""

from __future__ import annotations

from importlib.resources import files
from threading import Barrier, Thread
from typing import Any, cast

import psycopg2
from attrs import evolve
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.adapters.store.assetrows import PostgresAssets, read, read_rows, replace, seed, switch
from tbeast.adapters.store.postgres import connect, target
from tbeast.adapters.store.threads import StorePool
from tbeast.domain.assetmap import EXCHANGES, AssetMap, parse, rows_of
from tbeast.errors import AssetMapError
from tbeast.testing.postgres import fresh_connection, fresh_database


def shipped() -> AssetMap:
    data = files("tbeast") / "data"
    return parse((data / "assets.csv").read_text("utf-8"), (data / "stablecoins.csv").read_text("utf-8"))


class AssetRowsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh_connection(self)

    def run_sql(self, query: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(query)

    def count(self, table: str) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {table}")
            found = cursor.fetchone()
        assert found is not None
        return int(found[0])

    def test_the_packages_tables_make_the_way_there_and_back(self) -> None:
        whole = shipped()
        self.assertTrue(seed(self.connection, whole))
        found = read(self.connection)
        self.assertEqual(found, whole)
        self.assertEqual(list(found.assets), list(whole.assets))
        for exchange in EXCHANGES:
            self.assertEqual(list(found.subscriptions(exchange)), list(whole.subscriptions(exchange)))
        listings = sum(len(asset.symbols) for asset in (*whole.assets.values(), *whole.stablecoins.values()))
        self.assertEqual((self.count("exchange_feeds"), self.count("exchange_asset_map")), (6, listings))
        self.assertEqual(read_rows(self.connection)[0], rows_of(whole)[0])

    def test_they_are_filled_once_and_then_the_operators(self) -> None:
        self.assertTrue(seed(self.connection, shipped()))
        self.run_sql("DELETE FROM exchange_asset_map WHERE asset = 'BTC'")
        self.assertFalse(seed(self.connection, shipped()))
        self.assertNotIn("BTC", read(self.connection).assets)

    def test_feeds_that_are_there_already_are_kept(self) -> None:
        self.run_sql("INSERT INTO exchange_feeds VALUES ('okx', false, 5), ('bybit', false, 9)")
        self.assertTrue(seed(self.connection, shipped()))
        self.assertEqual(read(self.connection).subscriptions("okx"), {})

    def test_empty_tables_are_no_map(self) -> None:
        error = self.assertRaises(AssetMapError, read, self.connection)
        self.assertIn("no asset is switched on", str(error))

    def test_several_nodes_fill_them_once(self) -> None:
        url = fresh_database(self)
        ready, filled = Barrier(4), []

        def node() -> None:
            connection = connect(target(url))
            ready.wait(10)
            filled.append(seed(connection, shipped()))
            connection.commit()
            connection.close()

        threads = [Thread(target=node) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        self.assertEqual(sorted(filled), [False, False, False, True])

    def test_what_is_edited_by_hand_is_read(self) -> None:
        seed(self.connection, shipped())
        self.run_sql("UPDATE exchange_asset_map SET enabled = false WHERE asset = 'BTC' AND exchange = 'kraken'")
        self.run_sql("UPDATE exchange_asset_map SET prewarm = false WHERE asset = 'ETH' AND exchange = 'okx'")
        self.run_sql("UPDATE exchange_feeds SET enabled = false WHERE exchange = 'gateio'")
        found = read(self.connection)
        self.assertNotIn("kraken", found.assets["BTC"].symbols)
        self.assertNotIn("ETH-USDT", found.subscriptions("okx"))
        self.assertEqual(found.assets["ETH"].symbols["okx"], "ETH-USDT")
        self.assertEqual(found.subscriptions("gateio"), {})

    def test_a_table_at_fault_is_refused_and_its_rows_are_named(self) -> None:
        seed(self.connection, shipped())
        self.run_sql("UPDATE exchange_asset_map SET home = false WHERE asset IN ('BTC', 'ETH')")
        self.run_sql("UPDATE exchange_asset_map SET exchange_symbol = 'SOL USD' WHERE asset = 'SOL' AND home")
        message = str(self.assertRaises(AssetMapError, read, self.connection))
        for fault in ("BTC: has no home", "ETH: has no home", "SOL: its coinbase symbol 'SOL USD' is none"):
            self.assertIn(fault, message)

    def test_the_schema_itself_keeps_out_the_worst(self) -> None:
        seed(self.connection, shipped())
        self.connection.commit()
        for change in (
            "SET exchange_symbol = 'ETH-USD' WHERE asset = 'BTC' AND exchange = 'coinbase'",
            "SET home = true WHERE asset = 'BTC'",
            "SET asset = 'btc' WHERE asset = 'BTC' AND exchange = 'okx'",
            "SET exchange = 'binance' WHERE asset = 'BTC' AND exchange = 'okx'",
        ):
            with self.assertRaises(psycopg2.IntegrityError):
                self.run_sql(f"UPDATE exchange_asset_map {change}")
            self.connection.rollback()

    def test_switching(self) -> None:
        seed(self.connection, shipped())
        self.assertNotIn("okx", switch(self.connection, "BTC", "okx", False).assets["BTC"].symbols)
        self.assertIn("okx", switch(self.connection, "BTC", None, True).assets["BTC"].symbols)
        self.assertNotIn("BTC", switch(self.connection, "BTC", None, False).assets)
        self.assertEqual(switch(self.connection, None, "okx", False).subscriptions("okx"), {})
        for asset, exchange in (("NOPE", None), ("NOPE", "okx"), (None, "binance")):
            error = self.assertRaises(LookupError, switch, self.connection, asset, exchange, True)
            self.assertIn("there is no row of", str(error))

    def test_replacing(self) -> None:
        seed(self.connection, shipped())
        feeds, listings = rows_of(shipped())
        kept = [row for row in listings if row.asset in ("BTC", "USDT")]
        self.assertEqual(list(replace(self.connection, feeds, kept).assets), ["BTC"])
        self.assertEqual(list(read(self.connection).assets), ["BTC"])
        bad = [evolve(row, home=False) for row in listings]
        self.assertRaises(AssetMapError, replace, self.connection, feeds, bad)
        self.assertEqual(list(read(self.connection).assets), ["BTC"])


class PostgresAssetsTests(TestCase):
    async def test_for_the_daemon(self) -> None:
        pool = StorePool(target(fresh_database(self)), cast(Any, reactor))
        pool.start()
        self.addCleanup(pool.stop)
        assets = PostgresAssets(pool)
        with self.assertRaises(AssetMapError):
            await assets.read()
        self.assertTrue(await assets.seed(shipped()))
        self.assertFalse(await assets.seed(shipped()))
        self.assertEqual(await assets.read(), shipped())
