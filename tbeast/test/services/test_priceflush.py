"""The flush of prices into the shared cache."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.cache.memory import MemoryPriceCache
from tbeast.codecs import cachedprices
from tbeast.services.priceflush import PriceFlush
from tbeast.test.servers.rooms import NOON, House, quote_of


class PriceFlushTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House()
        self.cache = MemoryPriceCache(self.house.now)
        self.flush = PriceFlush(self.house.shelf, self.cache, self.house.now)

    def flushed(self) -> int:
        return self.successResultOf(ensureDeferred(self.flush.flush()))

    def cached(self, asset: str) -> bytes | None:
        return self.successResultOf(ensureDeferred(self.cache.get(asset)))

    def test_what_may_be_given_out(self) -> None:
        """And nothing that may not."""
        self.house.put(quote_of("ETH", 1800.5))
        self.house.put(quote_of("SOL", fresh_until=NOON))
        self.assertEqual(2, self.flushed())
        text = self.cached("ETH")
        assert text is not None
        self.assertEqual(quote_of("ETH", 1800.5), cachedprices.decode("ETH", text))
        self.assertIsNone(self.cached("SOL"))

    def test_nothing(self) -> None:
        self.house.pass_time(3600)
        self.assertEqual(0, self.flushed())

    def test_outlives_a_few_periods(self) -> None:
        """So that one flush that fails takes nothing away."""
        self.flushed()
        self.house.pass_time(65)
        self.assertIsNotNone(self.cached("BTC"))
        self.house.pass_time(30)
        self.assertIsNone(self.cached("BTC"))

    def test_the_newest(self) -> None:
        self.flushed()
        newer = evolve(quote_of(), price=83500.0)
        self.house.put(newer)
        self.flushed()
        text = self.cached("BTC")
        assert text is not None
        self.assertEqual(newer, cachedprices.decode("BTC", text))
