from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.cachedprices import decode, encode
from tbeast.domain.quotes import Quote

QUOTE = Quote(
    asset="BTC", price=83421.57, bid=83421.1, ask=None, volume=12.5, quality="good", source="median",
    used=("coinbase", "kraken", "okx"), seen=4, set_aside=("gateio",), spread_bp=1.8, observed_at=1790000000.25,
    fresh_until=1790000060.25,
)  # fmt: skip


class CachedPriceTests(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        self.assertEqual(decode("BTC", encode(QUOTE)), QUOTE)

    def test_what_is_no_quote_of_that_asset(self) -> None:
        text = encode(QUOTE)
        for asset, stored in [
            ("ETH", text),
            ("BTC", b""),
            ("BTC", b"null"),
            ("BTC", text[:-1]),
            ("BTC", b"[" * 100_000),
            ("BTC", b"\xff\xfe"),
            ("BTC", text.replace(b"83421.57", b"0.0")),
            ("BTC", text.replace(b"83421.57", b"-1.5")),
            ("BTC", text.replace(b"83421.57", b'"83421.57"')),
            ("BTC", text.replace(b'"good"', b'"stale"')),
            ("BTC", text.replace(b'"good"', b'"excellent"')),
            ("BTC", text.replace(b'"observed_at":1790000000.25,', b"")),
            ("BTC", text.replace(b"1790000000.25", b"1e999")),
        ]:
            self.assertIsNone(decode(asset, stored), stored[:80])

    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=200))
    def test_garbage_is_nothing(self, text: bytes) -> None:
        self.assertIsNone(decode("BTC", text))
