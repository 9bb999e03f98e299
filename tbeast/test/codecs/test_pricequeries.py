"""What is asked."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.pricequeries import (
    CURRENCIES,
    LARGEST_BATCH,
    PriceQuery,
    asset_query,
    batch_body,
    batch_query,
    nearest,
    price_query,
)  # fmt: skip
from tbeast.codecs.problems import CODES, Problem
from tbeast.domain.assetmap import EXCHANGES, Asset


def code_of(read: object) -> str:
    assert isinstance(read, Problem), read
    return read.code


class AssetTests(SynchronousTestCase):
    def test_spellings(self) -> None:
        for text, asset, currency in (
            ("btc", "BTC", "USD"), ("BTC-USD", "BTC", "USD"), ("btc/usdt", "BTC", "USDT"),
            ("1inch-UsDc", "1INCH", "USDC"),
            ("BTCUSD", "BTCUSD", "USD"), ("a", "A", "USD"), ("A" * 16, "A" * 16, "USD"),
        ):  # fmt: skip
            self.assertEqual(PriceQuery(asset, currency), asset_query(text))

    def test_refused(self) -> None:
        for text in (
            "",
            " ",
            "BTC ",
            "-USD",
            "BTC-",
            "BTC--USD",
            "BTC-USD-USD",
            "BTC_USD",
            "\u00df",
            "BTC\n",
            "\u0661",
            "A" * 17,
        ):
            self.assertEqual("malformed_asset", code_of(asset_query(text)), text)
        self.assertEqual("unsupported_quote", code_of(asset_query("BTC-EUR")))

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=40))
    def test_any(self, text: str) -> None:
        """What is accepted is plain ASCII, and what is refused is shown without control characters."""
        read = asset_query(text)
        if isinstance(read, Problem):
            self.assertTrue(read.detail.isprintable())
            self.assertLess(len(read.detail), 150)
        else:
            self.assertTrue(read.asset.isascii() and read.asset.isalnum() and read.asset == read.asset.upper())
            self.assertIn(read.currency, CURRENCIES)
            self.assertTrue(read.is_plain or read.currency != "USD")


class PriceQueryTests(SynchronousTestCase):
    def test_options(self) -> None:
        self.assertEqual(PriceQuery("BTC"), price_query(b"asset=btc"))
        self.assertEqual(
            PriceQuery("BTC", "USDT", "kraken", 500),
            price_query(b"max_age_ms=0500&exchange=KRAKEN&x=%ff&&quote=usdt&asset=btc%2dusdt&=&=1"),
        )
        self.assertEqual(PriceQuery("BTC", "USDC"), price_query(b"asset=BTC&quote=USDC"))
        self.assertEqual([True, False, False, False], [
            query.is_plain for query in map(price_query, (b"asset=a", b"asset=a-usdt", b"asset=a&exchange=okx",
                                                          b"asset=a&max_age_ms=0")) if isinstance(query, PriceQuery)
        ])  # fmt: skip

    def test_encoded_names_are_the_same_names(self) -> None:
        self.assertEqual(PriceQuery("BTC"), price_query(b"%61sset=BTC"))
        self.assertEqual("duplicate_parameter", code_of(price_query(b"asset=BTC&%61sset=ETH")))

    def test_pair_and_quote(self) -> None:
        self.assertEqual(PriceQuery("BTC"), price_query(b"asset=BTC-USD&quote=usd"))
        for query in (b"asset=BTC-USD&quote=USDT", b"asset=BTC-USDT&quote=USD"):
            self.assertEqual("malformed_parameter", code_of(price_query(query)))

    @settings(max_examples=300, deadline=None)
    @given(
        st.binary(max_size=60)
        | st.lists(
            st.sampled_from(
                [
                    b"asset=BTC",
                    b"quote=",
                    b"usdt",
                    b"&",
                    b"=",
                    b"exchange=okx",
                    b"max_age_ms=7",
                    b"%",
                    b"+",
                    b"%FF",
                    b"asset",
                ]
            )
        ).map(b"".join)
    )
    def test_any(self, query: bytes) -> None:
        """Nothing raises; what is read is within its bounds."""
        for read in (price_query(query), batch_query(query)):
            if isinstance(read, Problem):
                self.assertIn(read.code, CODES)
                self.assertEqual(400, read.status)
                self.assertTrue(read.detail.isprintable())
        read = price_query(query)
        if isinstance(read, PriceQuery):
            self.assertIn(read.exchange, ("", *EXCHANGES))
            self.assertTrue(read.max_age_ms is None or 0 <= read.max_age_ms < 10**9)


class BatchTests(SynchronousTestCase):
    def test_different(self) -> None:
        """Each price once, in the order of first asking; what is no asset stands as it was written."""
        self.assertEqual(
            [PriceQuery("BTC"), "b d", PriceQuery("BTC", "USDT"), PriceQuery("ETH"), ""],
            batch_body(b'{"assets":["btc","b d","BTC-USDT","BTC/USD","eth","b d",""]}'),
        )
        self.assertEqual([PriceQuery("BTC"), "", PriceQuery("ETH")], batch_query(b"assets=btc,,eth,BTC"))

    def test_how_many(self) -> None:
        names = [f"A{number}" for number in range(LARGEST_BATCH + 1)]
        self.assertEqual("too_many_assets", code_of(batch_body(json.dumps({"assets": names}).encode())))
        asked = batch_body(json.dumps({"assets": names[1:] * 3}).encode())
        self.assertEqual(LARGEST_BATCH, len(asked) if isinstance(asked, list) else 0)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=100) | st.text(max_size=50).map(lambda text: json.dumps({"assets": [text]}).encode()))
    def test_any_body(self, body: bytes) -> None:
        asked = batch_body(body)
        if isinstance(asked, Problem):
            self.assertEqual(400, asked.status)
        else:
            self.assertTrue(0 < len(asked) <= LARGEST_BATCH)


class NearestTests(SynchronousTestCase):
    assets = {
        code: Asset(code, name, "", "okx", {})
        for code, name in (("BTC", "Bitcoin"), ("BCH", "Bitcoin Cash"), ("ETH", "Ethereum"), ("DOGE", "Dogecoin"))
    }

    def test_guesses(self) -> None:
        for text, first in (
            ("btcc", "BTC"),
            ("BITCOIN", "BTC"),
            ("etherium", "ETH"),
            ("doge1", "DOGE"),
            ("dogcoin", "DOGE"),
        ):
            self.assertEqual(first, nearest(text, self.assets)[0], text)

    def test_bounds(self) -> None:
        self.assertEqual([], nearest("ZZZZ", self.assets))
        self.assertEqual([], nearest("", self.assets))
        found = nearest("BTCH", self.assets, most=2)
        self.assertEqual((2, 2), (len(found), len(set(found))))
