"""The asset table: what makes it whole, and the one that is shipped."""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.assetmap import (
    EXCHANGES,
    QUOTES,
    STABLECOINS,
    AssetMap,
    FeedRow,
    ListingRow,
    from_rows,
    parse,
    quote_currency,
    rows_of,
)
from tbeast.errors import AssetMapError

HEADER = "asset,name,category,home,coinbase,gemini,kraken,gateio,cryptocom,okx"
COIN_HEADER = "asset,coinbase,gemini,kraken,cryptocom,okx,gateio"
BTC = "BTC,Bitcoin,Major Currencies,coinbase,BTC-USD,btcusd,BTC/USD,BTC_USDT,BTC_USD,BTC-USDT"
ZEC = "ZEC,Zcash,Privacy,okx,,,,,,ZEC-USDT"
USDT = "USDT,USDT-USD,usdtusd,USDT/USD,USDT_USD,USDT-USD,"


def table(*rows: str) -> str:
    return "\n".join((HEADER, *rows)) + "\n"


def coins(*rows: str) -> str:
    return "\n".join((COIN_HEADER, *rows)) + "\n"


def shipped() -> AssetMap:
    data = files("tbeast") / "data"
    return parse((data / "assets.csv").read_text("utf-8"), (data / "stablecoins.csv").read_text("utf-8"))


class ParseTests(SynchronousTestCase):
    def test_a_row_becomes_an_asset(self) -> None:
        found = parse(table(BTC, ZEC), coins(USDT))
        self.assertEqual(list(found.assets), ["BTC", "ZEC"])
        btc = found.assets["BTC"]
        self.assertEqual((btc.name, btc.category, btc.home), ("Bitcoin", "Major Currencies", "coinbase"))
        self.assertEqual(list(btc.symbols), list(EXCHANGES))
        self.assertEqual(btc.symbols["kraken"], "BTC/USD")
        self.assertEqual(dict(found.assets["ZEC"].symbols), {"okx": "ZEC-USDT"})
        self.assertEqual(found.stablecoins["USDT"].symbols["cryptocom"], "USDT_USD")
        self.assertNotIn("gateio", found.stablecoins["USDT"].symbols)

    def test_subscriptions_name_rates_first_then_own_then_others(self) -> None:
        found = parse(table(BTC, ZEC), coins(USDT))
        self.assertEqual(list(found.subscriptions("okx").items()), [
            ("USDT-USD", "USDT"), ("ZEC-USDT", "ZEC"), ("BTC-USDT", "BTC"),
        ])  # fmt: skip
        self.assertEqual(found.subscriptions("gateio"), {"BTC_USDT": "BTC"})

    def test_categories_keep_the_order_of_the_table(self) -> None:
        eth = BTC.replace("BTC", "ETH").replace("btc", "eth").replace("Bitcoin", "Ethereum")
        self.assertEqual(
            parse(table(BTC, ZEC, eth), coins()).categories(), {"Major Currencies": ["BTC", "ETH"], "Privacy": ["ZEC"]}
        )

    def test_columns_may_stand_in_any_order_and_others_beside_them(self) -> None:
        header = "note,home,asset,okx,name,category,coinbase,gemini,kraken,gateio,cryptocom"
        text = f"{header}\nx,okx,ZEC,ZEC-USDT,Zcash,P,,,,,\n"
        self.assertEqual(parse(text, coins()).assets["ZEC"].symbols["okx"], "ZEC-USDT")

    def test_a_stablecoin_is_asked_for_in_dollars_everywhere(self) -> None:
        self.assertEqual(quote_currency("okx", "BTC"), "USDT")
        self.assertEqual(quote_currency("okx", "USDT"), "USD")
        self.assertEqual(quote_currency("gateio", "USDC"), "USD")
        self.assertEqual(quote_currency("cryptocom", "BTC"), "USD")

    def test_the_parsed_map_cannot_be_changed(self) -> None:
        found = parse(table(BTC), coins())
        with self.assertRaises(TypeError):
            found.assets["X"] = found.assets["BTC"]  # type: ignore[index]
        with self.assertRaises(TypeError):
            found.assets["BTC"].symbols["okx"] = "X"  # type: ignore[index]


class RefusalTests(SynchronousTestCase):
    def faults(self, assets: str, stablecoins: str) -> str:
        return str(self.assertRaises(AssetMapError, parse, assets, stablecoins))

    def test_each_fault_is_named(self) -> None:
        for row, fault in (
            ("btc,B,C,okx,,,,,,B-USDT", "'btc': is no asset code"),
            (",B,C,okx,,,,,,B-USDT", "'': is no asset code"),
            ("B-C,B,C,okx,,,,,,B-USDT", "'B-C': is no asset code"),
            ("ÄB,B,C,okx,,,,,,B-USDT", "'ÄB': is no asset code"),
            (ZEC.replace(",okx,", ",kraken,"), "ZEC: its home 'kraken' does not list it"),
            (ZEC.replace(",okx,", ",binance,"), "ZEC: its home 'binance' does not list it"),
            (ZEC.replace(",okx,", ",,"), "ZEC: has no home"),
            ("ZEC,Zcash,Privacy,okx,,,,,,", "ZEC: is listed nowhere"),
            (f"{ZEC},more", "table assets, line 3: more cells than columns"),
            (f"{ZEC}\n{ZEC}", "ZEC: stands twice"),
            ("XBT,Other,C,okx,,,,,,BTC-USDT", "XBT: its okx symbol 'BTC-USDT' belongs to BTC"),
            ("USDT,Tether,C,okx,,,,,,USDT-USDC", "USDT: is in both tables"),
        ):
            self.assertIn(fault, self.faults(table(BTC, row), coins(USDT)), row)

    def test_faults_of_the_stablecoins_are_named_too(self) -> None:
        self.assertIn("DAI: is no stablecoin", self.faults(table(BTC), coins(USDT, "DAI,DAI-USD,,,,,")))
        self.assertIn("USDC: is listed nowhere", self.faults(table(BTC), coins("USDC,,,,,,")))
        self.assertIn("'BTC-USD' belongs to BTC", self.faults(table(BTC), coins("USDT,BTC-USD,,,,,")))

    def test_every_fault_is_named_at_once(self) -> None:
        message = self.faults(table(BTC, "zec,Zcash,P,okx,,,,,,Z-USDT", "NEAR,Near,P,,,,,,,"), coins("DAI,D,,,,,"))
        for fault in (
            "'zec': is no asset code",
            "NEAR: has no home",
            "NEAR: is listed nowhere",
            "DAI: is no stablecoin",
        ):
            self.assertIn(fault, message)

    def test_a_missing_column_is_named_with_its_table(self) -> None:
        self.assertEqual(
            self.faults(table(BTC).replace(",home,", ",house,"), coins(USDT).replace("okx", "okay")),
            "table assets: no column home; table stablecoins: no column okx",
        )

    def test_an_empty_text_is_no_table(self) -> None:
        self.assertIn("table assets: no column asset, name", self.faults("", coins(USDT)))

    def test_a_short_row_is_told_by_what_it_lacks(self) -> None:
        self.assertEqual(self.faults(table("ZEC"), coins()), "ZEC: has no home; ZEC: is listed nowhere")

    @given(st.text(alphabet='ABab,-/_"\n', max_size=120), st.text(alphabet='USDTC,-"\n', max_size=60))
    @settings(deadline=None, max_examples=300)
    def test_any_text_is_a_whole_table_or_refused(self, rows: str, coin_rows: str) -> None:
        try:
            found = parse(f"{HEADER}\n{rows}", f"{COIN_HEADER}\n{coin_rows}")
        except AssetMapError as refusal:
            self.assertTrue(str(refusal))
            return
        for asset in found.assets.values():
            self.assertIn(asset.home, asset.symbols)
        for exchange in EXCHANGES:
            listed = [a for a in (*found.assets.values(), *found.stablecoins.values()) if exchange in a.symbols]
            self.assertEqual(len(found.subscriptions(exchange)), len(listed))


class ShippedTablesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.map = shipped()

    def test_150_assets_25_at_home_on_each_exchange(self) -> None:
        self.assertEqual(len(self.map.assets), 150)
        homes = Counter(asset.home for asset in self.map.assets.values())
        self.assertEqual(homes, dict.fromkeys(EXCHANGES, 25))

    def test_every_asset_has_a_name_and_a_category(self) -> None:
        for asset in self.map.assets.values():
            self.assertTrue(asset.name and asset.category, asset.code)
        self.assertEqual(sum(map(len, self.map.categories().values())), 150)

    def test_each_spelling_is_the_exchanges_own(self) -> None:
        spelling = {
            "coinbase": r"[A-Z0-9]+-USD",
            "gemini": r"[a-z0-9]+usd",
            "kraken": r"[A-Z0-9]+/USD",
            "gateio": r"[A-Z0-9]+_USDT",
            "cryptocom": r"[A-Z0-9]+_USD",
            "okx": r"[A-Z0-9]+-USDT",
        }
        for asset in self.map.assets.values():
            for exchange, symbol in asset.symbols.items():
                self.assertRegex(symbol, f"^{spelling[exchange]}$", asset.code)

    def test_a_spelling_names_its_asset(self) -> None:
        """No row may hold its neighbour's symbol: the spelling begins with the code, or the exception is known."""
        others = {
            (asset.code, exchange, symbol)
            for asset in self.map.assets.values()
            for exchange, symbol in asset.symbols.items()
            if re.sub(r"[-/_]?(USDT|USD)$", "", symbol.upper()) != asset.code
        }
        self.assertEqual(others, {
            ("RENDER", "gemini", "rndrusd"), ("MNT", "coinbase", "MANTLE-USD"), ("CELO", "coinbase", "CGLD-USD"),
            ("JUP", "coinbase", "JUPITER-USD"),
        })  # fmt: skip

    def test_the_rate_of_tether_is_known_from_several_sides(self) -> None:
        self.assertEqual(tuple(self.map.stablecoins), STABLECOINS)
        self.assertGreaterEqual(len(self.map.stablecoins["USDT"].symbols), 3)

    def test_subscriptions_begin_with_the_rates(self) -> None:
        for exchange in EXCHANGES:
            codes = list(self.map.subscriptions(exchange).values())
            rates = [code for code in codes if code in STABLECOINS]
            self.assertEqual(codes[: len(rates)], rates)
            self.assertEqual(len(set(codes)), len(codes))
            own = codes[len(rates) : len(rates) + 25]
            self.assertEqual({self.map.assets[code].home for code in own}, {exchange})

    def test_every_exchange_has_its_quote(self) -> None:
        self.assertEqual(tuple(QUOTES), EXCHANGES)


class RowsTests(SynchronousTestCase):
    """The map as rows of a database."""

    def setUp(self) -> None:
        self.map = parse(table(BTC, ZEC), coins(USDT))
        self.feeds, self.listings = rows_of(self.map)

    def change(self, asset: str, exchange: str, /, **values: Any) -> None:
        before = list(self.listings)
        self.listings = [
            evolve(row, **values) if (row.asset, row.exchange) == (asset, exchange) else row for row in before
        ]
        self.assertNotEqual(self.listings, before)

    def switch_off(self, exchange: str) -> None:
        self.feeds = [evolve(feed, enabled=feed.enabled and feed.exchange != exchange) for feed in self.feeds]

    def read(self) -> AssetMap:
        return from_rows(self.feeds, self.listings)

    def fault(self) -> str:
        return str(self.assertRaises(AssetMapError, self.read))

    def test_the_shipped_tables_make_the_way_there_and_back(self) -> None:
        whole = shipped()
        feeds, listings = rows_of(whole)
        found = from_rows(reversed(feeds), reversed(listings))
        self.assertEqual(found, whole)
        self.assertEqual(list(found.assets), list(whole.assets))
        self.assertEqual(list(found.stablecoins), list(whole.stablecoins))
        for exchange in EXCHANGES:
            self.assertEqual(list(found.subscriptions(exchange)), list(whole.subscriptions(exchange)))
        self.assertEqual(sum(row.home for row in listings), 150)

    def test_what_is_switched_off_is_not_there(self) -> None:
        self.change("BTC", "kraken", enabled=False)
        found = self.read()
        self.assertNotIn("kraken", found.assets["BTC"].symbols)
        self.assertEqual(len(found.assets["BTC"].symbols), 5)
        self.assertEqual(found.subscriptions("kraken"), {"USDT/USD": "USDT"})

    def test_an_exchange_is_switched_off_as_a_whole(self) -> None:
        self.switch_off("okx")
        found = self.read()
        self.assertEqual(found.subscriptions("okx"), {})
        self.assertNotIn("ZEC", found.assets)  # listed nowhere else
        self.assertEqual(found.assets["BTC"].home, "coinbase")

    def test_an_asset_whose_home_is_switched_off_moves_to_the_next_exchange(self) -> None:
        self.switch_off("coinbase")
        self.assertEqual(self.read().assets["BTC"].home, "gemini")
        self.feeds = [evolve(feed, position=-feed.position) for feed in self.feeds]
        self.assertEqual(self.read().assets["BTC"].home, "okx")
        self.assertEqual(self.read().assets["BTC"].name, "Bitcoin")

    def test_a_row_that_is_not_prewarmed_is_not_subscribed_to(self) -> None:
        self.change("BTC", "okx", prewarm=False)
        self.change("USDT", "kraken", prewarm=False)
        found = self.read()
        self.assertEqual(found.assets["BTC"].symbols["okx"], "BTC-USDT")
        self.assertEqual(list(found.subscriptions("okx").values()), ["USDT", "ZEC"])
        self.assertEqual(list(found.subscriptions("kraken").values()), ["BTC"])
        self.assertIn("BTC", found.subscriptions("gemini").values())
        self.assertEqual(from_rows(*rows_of(found)), found)

    def test_faults_are_named(self) -> None:
        for asset, exchange, values, fault in (
            ("BTC", "coinbase", {"home": False}, "BTC: has no home"),
            ("BTC", "okx", {"home": True}, "BTC: has several homes"),
            ("BTC", "okx", {"symbol": "ZEC-USDT"}, "ZEC: its okx symbol 'ZEC-USDT' belongs to BTC"),
            ("BTC", "okx", {"symbol": "BTC USDT"}, "BTC: its okx symbol 'BTC USDT' is none"),
            ("BTC", "okx", {"symbol": ""}, "BTC: its okx symbol '' is none"),
            ("BTC", "okx", {"exchange": "kraken"}, "BTC: stands twice"),
            ("ZEC", "okx", {"stablecoin": True}, "ZEC: its rows must not say that it is a stablecoin"),
            ("USDT", "okx", {"stablecoin": False}, "USDT: its rows must all say that it is a stablecoin"),
            ("ZEC", "okx", {"asset": "zec"}, "'zec': is no asset code"),
        ):
            self.setUp()
            self.change(asset, exchange, **values)
            self.assertIn(fault, self.fault(), values)

    def test_every_fault_is_named(self) -> None:
        self.change("BTC", "coinbase", home=False)
        self.change("ZEC", "okx", symbol="Z EC")
        self.feeds.append(FeedRow("binance", True, 9))
        for fault in ("BTC: has no home", "ZEC: its okx symbol", "feed binance: there is no such exchange"):
            self.assertIn(fault, self.fault())

    def test_what_is_switched_off_may_be_at_fault(self) -> None:
        self.feeds.append(FeedRow("bybit", False, 9))
        self.listings.append(ListingRow("zec", "bybit", "", "", "", True, True, True, True, 0))
        self.change("ZEC", "okx", symbol=" ", enabled=False)
        self.assertEqual(list(self.read().assets), ["BTC"])

    def test_nothing_at_all_is_no_map(self) -> None:
        self.assertIn("no asset is switched on", str(self.assertRaises(AssetMapError, from_rows, [], [])))
        for exchange in EXCHANGES:
            self.switch_off(exchange)
        self.assertIn("no asset is switched on", self.fault())

    @given(st.lists(st.tuples(st.integers(0, 7), st.sampled_from(("enabled", "prewarm", "home", "stablecoin")))))
    @settings(deadline=None, max_examples=100)
    def test_whatever_is_switched_the_map_is_whole_or_refused(self, switches: list[tuple[int, str]]) -> None:
        feeds, listings = rows_of(parse(table(BTC, ZEC), coins(USDT)))
        for place, name in switches:
            row = listings[place % len(listings)]
            switched: dict[str, Any] = {name: not getattr(row, name)}
            listings[place % len(listings)] = evolve(row, **switched)
        try:
            found = from_rows(feeds, listings)
        except AssetMapError as refusal:
            self.assertTrue(str(refusal))
            return
        for asset in found.assets.values():
            self.assertIn(asset.home, asset.symbols)
        enabled = {(row.asset, row.exchange) for row in listings if row.enabled}
        for asset in (*found.assets.values(), *found.stablecoins.values()):
            self.assertEqual(
                {(asset.code, exchange) for exchange in asset.symbols}, {one for one in enabled if one[0] == asset.code}
            )
