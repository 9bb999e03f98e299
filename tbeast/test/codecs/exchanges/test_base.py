"""The common tongue of the codecs."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.exchanges.base import FAULTS, ExchangeFacts, ExchangeModule, Liveness, Rate, Reconnect
from tbeast.codecs.exchanges.registry import EXCHANGES
from tbeast.domain.assetmap import EXCHANGES as COLUMNS
from tbeast.domain.assetmap import QUOTES
from tbeast.domain.ticks import TICK_FAULTS


class LivenessTests(SynchronousTestCase):
    def test_silence_counts_from_the_first_sound(self) -> None:
        alive = Liveness(5.0)
        self.assertEqual((alive.silence(1e9), alive.due(1e9)), (0.0, []))
        alive.heard(100.0)
        self.assertEqual(alive.silence(103.5), 3.5)

    def test_dead_only_beyond_the_limit(self) -> None:
        alive = Liveness(5.0)
        alive.heard(100.0)
        self.assertEqual(alive.due(105.0), [])
        self.assertEqual(alive.due(105.6), [Reconnect("silent for 6 s")])
        alive.heard(106.0)
        self.assertEqual(alive.due(107.0), [])


class SomeSocket:
    def __init__(self, symbols: tuple[str, ...]) -> None:
        self.symbols = symbols


class SomeRest:
    pass


class ExchangeModuleTests(SynchronousTestCase):
    def test_each_connection_gets_its_own_codec(self) -> None:
        facts = ExchangeFacts("some", "wss://x", "https://x", "USD", 10, Rate(1, 1.0), Rate(1, 1.0))
        module = ExchangeModule(facts, SomeSocket, SomeRest)
        one, two = module.socket_codec(iter("AB")), module.socket_codec(["C"])
        assert isinstance(one, SomeSocket)
        assert isinstance(two, SomeSocket)
        self.assertEqual((one.symbols, two.symbols), (("A", "B"), ("C",)))
        self.assertIsInstance(module.rest_codec(), SomeRest)
        self.assertIs(module.facts, facts)


class AddressTests(SynchronousTestCase):
    facts = ExchangeFacts("some", "wss://x", "https://x/", "USD", 10, Rate(1, 1.0), Rate(1, 1.0), rest_root="/api/v4")

    def test_the_root_of_every_path_is_not_kept_twice(self) -> None:
        self.assertEqual(self.facts.rest_url, "https://x")
        for said, kept in (
            ("https://relay/a/api/v4", "https://relay/a"),
            ("https://relay/a//api/v4//", "https://relay/a"),
            ("https://relay/api/v4/b", "https://relay/api/v4/b"),
            ("https://relay/api/v40", "https://relay/api/v40"),
        ):
            self.assertEqual(evolve(self.facts, rest_url=said).rest_url, kept)

    def test_without_a_root_only_slashes_go(self) -> None:
        self.assertEqual(evolve(self.facts, rest_url="https://x/v1/", rest_root="").rest_url, "https://x/v1")


class FaultTests(SynchronousTestCase):
    def test_reasons_are_distinct_and_hold_those_of_ticks(self) -> None:
        self.assertEqual(len(set(FAULTS)), len(FAULTS))
        self.assertLessEqual(set(TICK_FAULTS), set(FAULTS))


class RegistryTests(SynchronousTestCase):
    def test_every_exchange_of_the_asset_table_under_its_own_name(self) -> None:
        self.assertEqual(tuple(EXCHANGES), COLUMNS)
        for name, exchange in EXCHANGES.items():
            self.assertEqual((exchange.facts.name, exchange.facts.quote), (name, QUOTES[name]))
