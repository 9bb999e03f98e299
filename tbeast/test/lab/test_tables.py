from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tbeast.lab.starts import start_of
from tbeast.lab.tables import EXCHANGES, bundled_tables, read_tables

ASSETS = "asset,name,category,home,coinbase,gemini,kraken,gateio,cryptocom,okx\nBTC,Bitcoin,x,coinbase,B-U,,B/U,,,\n"
COINS = "asset,coinbase,gemini,kraken,cryptocom,okx,gateio\nUSDT,T-U,,,,,\n"


class TablesTests(SynchronousTestCase):
    def test_listings_are_by_spelling_stablecoins_first(self) -> None:
        tables = read_tables(ASSETS, COINS)
        self.assertEqual((tables.codes, tables.coins), (("BTC",), ("USDT",)))
        self.assertEqual(list(tables.listings["coinbase"].items()), [("T-U", "USDT"), ("B-U", "BTC")])
        self.assertEqual(dict(tables.listings["kraken"]), {"B/U": "BTC"})
        self.assertEqual(dict(tables.listings["okx"]), {})

    def test_missing_column_is_named(self) -> None:
        error = self.assertRaises(ValueError, read_tables, ASSETS.replace("kraken", "krakn"), COINS)
        self.assertIn("kraken", str(error))

    def test_bundled_tables_hold_what_they_promise(self) -> None:
        tables = bundled_tables()
        self.assertEqual(len(tables.codes), 150)
        self.assertEqual(tuple(tables.listings), EXCHANGES)
        self.assertEqual(tables.listings["gemini"]["rndrusd"], "RENDER")
        self.assertEqual(tables.listings["kraken"]["USDC/USD"], "USDC")
        for code in tables.codes:
            places = sum(code in listing.values() for listing in tables.listings.values())
            self.assertGreaterEqual(places, 3, code)


class StartTests(SynchronousTestCase):
    def test_every_asset_has_a_price_and_a_turnover(self) -> None:
        for code in bundled_tables().codes:
            price, turnover = start_of(code)
            self.assertTrue(1e-8 < price < 1e6, code)
            self.assertTrue(1e6 < turnover < 1e11, code)

    def test_unknown_code_has_always_the_same_start(self) -> None:
        price, turnover = start_of("NEVERHEARD")
        self.assertEqual((price, turnover), start_of("NEVERHEARD"))
        self.assertTrue(1e-3 <= price <= 100)
        self.assertTrue(5e6 <= turnover <= 5e7)
        self.assertNotEqual(price, start_of("NEVERSEEN")[0])
