"""What hub and workers say: whatever is written is read back the same, and no secret of the settings is among it."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs import hubwords
from tbeast.codecs.hubwords import KeyNews, Page, State, Status, Welcome
from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.problems import Problem
from tbeast.domain.assetmap import EXCHANGES, Asset, AssetMap
from tbeast.domain.governor import Tally
from tbeast.domain.keys import account_of
from tbeast.domain.sharedbuckets import Balance, Contact, Hello
from tbeast.domain.usage import Kind, Row
from tbeast.settings import Layer, load
from tbeast.testing.adaptivecontract import REPORT
from tbeast.testing.leasecontract import PRO

times = st.floats(allow_nan=False)
words = st.text(max_size=30)
counts = st.integers(0, 2**62)


class SettingsTests(SynchronousTestCase):
    def test_the_same_to_a_worker(self) -> None:
        said = {
            "TCP_PORT_LPO": "9999", "TBEAST_LISTEN": "::1", "TBEAST_TRUSTED_PROXIES": "10.0.0.0/8,::1/128",
            "TBEAST_MAX_PRICE_AGE_SECONDS": "33.123456789", "CLUSTER_NODE": "a", "TBEAST_WORKERS": "auto",
            "TBEAST_OKX_WS_URL": "ws://x",
        }  # fmt: skip
        given = load([Layer("test", said)])
        read = load([Layer("hub", hubwords.settings_told(given))])
        addresses = given.exchange_addresses
        self.assertEqual(evolve(given, exchange_addresses=addresses), evolve(read, exchange_addresses=addresses))

    def test_no_secret_is_told(self) -> None:
        secrets = {
            "AURORA_URL": "postgresql://u:hush@h/d", "CACHE_URL": "redis://:hush@h", "ADMIN_KEY": "hush" * 5,
            "TBEAST_KEYS": "hushhush",
        }  # fmt: skip
        told = hubwords.settings_told(load([Layer("test", secrets)]))
        self.assertNotIn("hush", str(told))
        self.assertFalse(secrets.keys() & told.keys())


class WordTests(SynchronousTestCase):
    def test_welcome_state_and_status(self) -> None:
        welcome = Welcome(1.5, {"TBEAST_STATE": "x", "TCP_PORT_LPO": 1}, "n/w1a", "life", 4)
        self.assertEqual(welcome, hubwords.decode_welcome(hubwords.encode(welcome)))
        state = State(True, False, 0.05, 60.0)
        self.assertEqual(state, hubwords.decode_state(hubwords.encode(state)))
        self.assertEqual(6_000, state.max_connections)
        state = evolve(state, max_connections=7)
        self.assertEqual(state, hubwords.decode_state(hubwords.encode(state)))
        status = Status(True, 2.5, 3)
        self.assertEqual(status, hubwords.decode_status(hubwords.encode(status)))

    def test_governors(self) -> None:
        gone = [evolve(REPORT, node="b"), evolve(REPORT, node="c", health=1.0, is_pressed=True)]
        said = hubwords.decode_adaptive(hubwords.encode_adaptive(REPORT, gone, Tally(1, 3, 2)))
        self.assertEqual((REPORT, gone, Tally(1, 3, 2)), said)
        self.assertEqual(gone, hubwords.decode_governor_reports(hubwords.encode(gone)))

    def test_assets(self) -> None:
        first = Asset("BTC", "Bitcoin", "Major", "kraken", {"coinbase": "BTC-USD", "kraken": "XBT/USD"})
        second = Asset("ÄTH".replace("Ä", "E"), "Ether", "Major", "okx", {"okx": "ETH-USDT"}, frozenset({"okx"}))
        coin = Asset("USDT", "USDT", "", "", {EXCHANGES[0]: "USDT-USD"})
        assets = AssetMap({"BTC": first, "ETH": second}, {"USDT": coin})
        self.assertEqual(assets, hubwords.decode_assets(hubwords.encode_assets(assets)))

    @settings(deadline=None, max_examples=50)
    @given(st.sampled_from(("free", "unlimited", "partner")), words, st.booleans(), st.lists(st.binary(max_size=32)))
    def test_keys(self, tier: str, name: str, addon: bool, gone: list[bytes]) -> None:
        account = evolve(account_of("some-key", tier, name), lrs_addon=addon)
        news = hubwords.decode_keys(hubwords.encode_keys([account], gone))
        self.assertEqual(KeyNews([account], gone), news)

    @settings(deadline=None, max_examples=50)
    @given(
        st.lists(st.builds(
            Row, st.builds(Kind, words, words, words, words, words, words, st.integers(100, 599), st.booleans()),
            times, counts, counts, counts,
        )),
        st.dictionaries(st.lists(words, min_size=1).map(tuple), counts),
    )  # fmt: skip
    def test_counts(self, rows: list[Row], differences: dict[tuple[str, ...], int]) -> None:
        self.assertEqual((rows, differences), hubwords.decode_count(hubwords.encode_count(rows, differences)))

    def test_limits(self) -> None:
        reports = [PRO, evolve(PRO, qps=None, burst=None, quota=None, key_id="other")]
        hello = Hello("n", 1.5, "e")
        self.assertEqual((hello, reports), hubwords.decode_exchange(hubwords.encode_exchange(hello, reports)))
        contact = Contact(1.5, "e", 2.5, 3)
        self.assertEqual(contact, hubwords.decode_contact(hubwords.encode(contact)))
        answer = (contact, [Balance(1.5, 0.0, 3, "2026-04")])
        self.assertEqual(answer, hubwords.decode_exchanged(hubwords.encode(answer)))

    @settings(deadline=None, max_examples=50)
    @given(words, st.sampled_from(("USD", "USDT")), words, st.none() | counts, times)
    def test_questions(self, asset: str, currency: str, exchange: str, age: int | None, at: float) -> None:
        query = PriceQuery(asset, currency, exchange, age)
        self.assertEqual((query, at), hubwords.decode_query(hubwords.encode_query(query, at)))

    def test_answers(self) -> None:
        self.assertEqual((b"{}", "median", "memory"), hubwords.decode_found(
            hubwords.encode_found(b"{}", "median", "memory")))  # fmt: skip
        problem = Problem("no_fresh_price", "why", {"last_price": 1.5, "nearest": ["A"]})
        self.assertEqual(problem, hubwords.decode_found(hubwords.encode_not_found(problem)))

    def test_pages(self) -> None:
        page = Page(200, b"{}", b"application/json", "BTC")
        problem = Problem("not_found", "why")
        for told in (page, problem):
            self.assertEqual(told, hubwords.decode_page(hubwords.encode_page(told)))

    def test_what_cannot_be_read(self) -> None:
        self.assertRaises(ValueError, hubwords.decode_state, b"\xc1")
