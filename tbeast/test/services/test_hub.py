"""The hub's side of the line: what workers are told, in which order, and what they are answered."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs import hubwords
from tbeast.codecs.hubwords import LinkError, Page, Status
from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.problems import Problem
from tbeast.domain.assetmap import AssetMap
from tbeast.domain.governor import CUT_OFF, SHARING, SILENCE_SECONDS, STARTING, Report, Tally
from tbeast.domain.keys import account_of
from tbeast.domain.sharedbuckets import Hello
from tbeast.domain.usage import Kind, Row
from tbeast.errors import CacheUnavailableError
from tbeast.services.hub import KEYS_A_MESSAGE
from tbeast.test.services.hubrig import ASSETS, NOON, Rig, Worker
from tbeast.testing.adaptivecontract import REPORT
from tbeast.testing.leasecontract import PRO


def known(worker: Worker) -> set[str]:
    """The keys that a worker has, by name, when it has heard everything in order."""
    keys: dict[bytes, str] = {}
    for text in worker.texts(hubwords.KEYS):
        news = hubwords.decode_keys(text)
        for digest in news.gone:
            keys.pop(digest, None)
        keys.update({account.digest: account.name for account in news.good})
    return set(keys.values())


class BeginningTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rig = Rig()

    def test_the_welcome(self) -> None:
        _, worker = self.rig.worker()
        welcome = hubwords.decode_welcome(self.successResultOf(worker.says(hubwords.HELLO, hubwords.encode(7))))
        self.assertEqual((NOON, "n/w1a", "life", 2, "n"), (
            welcome.time, welcome.name, welcome.life, welcome.nodes, welcome.settings["CLUSTER_NODE"]))  # fmt: skip
        self.assertEqual([], worker.heard)

    def test_everything_before_it_serves(self) -> None:
        for text in ("key-one", "key-two"):
            self.rig.key(text)
        self.rig.hub.heard_usage({"x": ("2026-04", 7)})
        desk, worker = self.rig.serving()
        self.assertEqual(
            [hubwords.ASSETS, hubwords.STATE, hubwords.KEYS, hubwords.USED, hubwords.SERVE],
            [word for word, _ in worker.heard],
        )
        self.assertEqual(ASSETS, hubwords.decode_assets(worker.texts(hubwords.ASSETS)[0]))
        self.assertEqual(self.rig.state, hubwords.decode_state(worker.texts(hubwords.STATE)[0]))
        self.assertEqual({"key-one", "key-two"}, known(worker))
        self.assertEqual({"x": ("2026-04", 7)}, hubwords.decode_used(worker.texts(hubwords.USED)[0]))
        self.assertTrue(desk.is_serving)
        self.successResultOf(desk.serving)

    def test_many_keys(self) -> None:
        """In several messages, each when the one before was taken; what is revoked meanwhile is not told of as good."""
        names = [f"key-number-{number}" for number in range(KEYS_A_MESSAGE + 3)]
        for name in names:
            self.rig.key(name)
        _, worker = self.rig.worker()
        worker.is_deaf = True
        worker.says(hubwords.HELLO, hubwords.encode(1))
        self.rig.clock.advance(0)
        for _ in range(2):
            worker.waiting.pop().callback(b"")
        self.assertEqual(1, len(worker.texts(hubwords.KEYS)))
        for gone in (names[0], names[-1]):
            account = account_of(gone, "free", gone)
            self.rig.ring.revoke(account.key_id, account.digest, NOON)
        self.rig.key("one-more")
        worker.is_deaf = False
        for answer in worker.waiting:
            answer.callback(b"")
        self.assertEqual({*names[1:-1], "one-more"}, known(worker))
        self.assertEqual(hubwords.SERVE, worker.heard[-1][0])

    def test_one_that_dies(self) -> None:
        desk, worker = self.rig.worker()
        worker.is_deaf = True
        worker.says(hubwords.HELLO, hubwords.encode(1))
        self.rig.clock.advance(0)
        worker.connectionLost(None)
        self.failureResultOf(desk.serving, LinkError)
        self.assertFalse(desk.is_serving)


class NewsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rig = Rig()
        self.rig.key("key-one")
        self.desk, self.worker = self.rig.serving()
        self.worker.heard.clear()

    def test_keys_at_once(self) -> None:
        account = account_of("key-one", "free", "key-one")
        self.rig.ring.revoke(account.key_id, account.digest, NOON)
        self.rig.key("key-two")
        (first, second) = (hubwords.decode_keys(text) for text in self.worker.texts(hubwords.KEYS))
        self.assertEqual(([], [account.digest]), (first.good, first.gone))
        self.assertEqual((["key-two"], []), ([each.name for each in second.good], second.gone))

    def test_the_state_when_it_is_another(self) -> None:
        self.rig.hub.look()
        self.assertEqual([], self.worker.heard)
        self.rig.state = evolve(self.rig.state, is_shut=True)
        for _ in range(3):
            self.rig.hub.look()
        (text,) = self.worker.texts(hubwords.STATE)
        self.assertTrue(hubwords.decode_state(text).is_shut)

    def test_assets(self) -> None:
        others = AssetMap({"ETH": evolve(ASSETS.assets["BTC"], code="ETH")}, {})
        self.rig.hub.adopt(others)
        self.assertEqual(others, hubwords.decode_assets(self.worker.texts(hubwords.ASSETS)[0]))
        _, late = self.rig.serving("n/w2a")
        self.assertEqual(others, hubwords.decode_assets(late.texts(hubwords.ASSETS)[0]))

    def test_usage_only_grows(self) -> None:
        for used in (5, 4, 5, 6):
            self.rig.hub.heard_usage({"x": ("2026-04", used)})
        self.rig.hub.heard_usage({"x": ("2026-05", 1)})
        self.assertEqual(
            [{"x": ("2026-04", 5)}, {"x": ("2026-04", 6)}, {"x": ("2026-05", 1)}],
            [hubwords.decode_used(text) for text in self.worker.texts(hubwords.USED)],
        )

    def test_one_that_has_gone(self) -> None:
        """Is told nothing any more, and has left the shared buckets."""
        hello = hubwords.encode_exchange(Hello("n/w1a", NOON, ""), [])
        self.successResultOf(self.worker.says(hubwords.EXCHANGE, hello))
        self.assertEqual(2, self.rig.leases.buckets.look("another", NOON).nodes)
        self.worker.connectionLost(None)
        self.desk.tell(hubwords.STATE, b"")
        self.successResultOf(Deferred.fromCoroutine(self.desk.gone()))
        self.assertEqual(1, self.rig.leases.buckets.look("another", NOON).nodes)
        self.rig.hub.adopt(ASSETS)
        self.assertEqual([], self.worker.heard)
        self.assertFalse(self.desk.is_serving)


class AnswerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rig = Rig()
        self.desk, self.worker = self.rig.serving()

    def asked(self, word: bytes, text: bytes = b"") -> bytes:
        return self.successResultOf(self.worker.says(word, text))

    def test_the_time(self) -> None:
        self.desk.unheard = 3
        self.rig.clock.advance(5.0)
        status = Status(True, NOON, 2)
        self.assertEqual(NOON + 5.0, hubwords.decode_time(self.asked(hubwords.TIME, hubwords.encode(status))))
        self.assertEqual((status, 0), (self.desk.status, self.desk.unheard))

    def test_counts(self) -> None:
        rows = [Row(Kind("k", "lpo", "http", "BTC", "median", "shelf", 200, True), NOON, 3, 30, 20)]
        counted = {("requests", "lpo", "http", "200"): 3, ("what is this",): 1}
        self.rig.counters.count("requests", "lpo", "http", "200")
        for _ in range(2):
            self.asked(hubwords.COUNT, hubwords.encode_count(rows, counted))
        self.assertEqual([rows[0]._replace(request_count=6, response_us_sum=60)], self.rig.ledger.cut(10))
        self.assertEqual(7, self.rig.counters.value("requests", "lpo", "http", "200"))
        self.assertEqual(1, len(self.rig.counters.counts))

    def test_limits(self) -> None:
        """Each worker is a node."""
        for name in ("n/w1a", "n/w2a"):
            text = hubwords.encode_exchange(Hello(name, NOON, ""), [PRO])
            contact, balances = hubwords.decode_exchanged(self.asked(hubwords.EXCHANGE, text))
            self.assertEqual(20.0, balances[0].tokens)
        self.assertEqual(2, contact.nodes)
        look = hubwords.encode("n/w3a")
        self.assertEqual(3, hubwords.decode_contact(self.asked(hubwords.LOOK, look)).nodes)
        self.asked(hubwords.LEAVE, hubwords.encode("n/w2a"))
        self.assertEqual(2, hubwords.decode_contact(self.asked(hubwords.LOOK, look)).nodes)

    def test_the_list_of_governors(self) -> None:
        """Each worker is a node in it, and the hub takes out the report of one that has gone."""
        mine = evolve(REPORT, node="n/w1a", life="life.7")
        theirs = evolve(REPORT, node="n/w2a", life="life.8")
        for report in (theirs, mine):
            said = self.worker.says(
                hubwords.ADAPTIVE, hubwords.encode_adaptive(report, [evolve(theirs, sequence=9)], Tally(3, 4, 1))
            )
            answer = hubwords.decode_governor_reports(self.successResultOf(said))
        self.assertEqual([theirs, mine], answer)
        self.assertEqual(Tally(6, 8, 2), self.rig.adaptive.tally)
        self.successResultOf(Deferred.fromCoroutine(self.desk.gone()))
        self.assertEqual({"n/w2a"}, self.rig.adaptive.reports.keys())

    def test_what_is_told_of_the_governors(self) -> None:
        """The hub knows what its workers hold, also while nobody can reach the list, and that they cannot."""
        overheard = self.rig.hub.overheard
        self.assertEqual((STARTING, 0, []), (overheard.state, overheard.share, self.rig.hub.governed))
        other = evolve(REPORT, node="m", life="another")
        self.successResultOf(Deferred.fromCoroutine(self.rig.adaptive.exchange(other, [], Tally())))
        mine = evolve(REPORT, node="n/w1a", life="life.7", connections=30, limit=40, health=0.5)
        self.successResultOf(self.worker.says(hubwords.ADAPTIVE, hubwords.encode_adaptive(mine, [], Tally())))
        self.assertEqual(
            (SHARING, 80, 2, self.rig.state.max_connections, [mine]),
            (overheard.state, overheard.share, overheard.known_nodes, overheard.total, self.rig.hub.governed),
        )

        async def fail(*_: object) -> list[Report]:
            raise CacheUnavailableError("cut")

        self.patch(self.rig.adaptive, "exchange", fail)
        self.rig.clock.advance(SILENCE_SECONDS)
        more = evolve(mine, sequence=mine.sequence + 1, connections=39)
        said = self.worker.says(hubwords.ADAPTIVE, hubwords.encode_adaptive(more, [], Tally()))
        self.failureResultOf(said, CacheUnavailableError)
        self.assertEqual((CUT_OFF, [more]), (overheard.state, self.rig.hub.governed))
        self.successResultOf(Deferred.fromCoroutine(self.desk.gone()))
        self.assertEqual([], self.rig.hub.governed)

    def test_a_successor_s_report(self) -> None:
        """It stays when the one before it goes."""
        mine, next_one = (evolve(REPORT, node="n/w1a", life=life) for life in ("life.7", "life.9"))
        self.successResultOf(self.worker.says(hubwords.ADAPTIVE, hubwords.encode_adaptive(mine, [], Tally())))
        self.successResultOf(Deferred.fromCoroutine(self.rig.adaptive.exchange(next_one, [], Tally())))
        self.successResultOf(Deferred.fromCoroutine(self.desk.gone()))
        self.assertEqual({"n/w1a": next_one}, self.rig.adaptive.reports)

    def test_no_list_of_governors(self) -> None:
        self.rig.hub.adaptive = None
        said = self.worker.says(hubwords.ADAPTIVE, hubwords.encode_adaptive(REPORT, [], Tally()))
        self.failureResultOf(said, LinkError)
        self.successResultOf(Deferred.fromCoroutine(self.desk.gone()))

    def test_prices(self) -> None:
        found = self.asked(hubwords.PRICE, hubwords.encode_query(PriceQuery("BTC"), NOON))
        self.assertEqual((b"{}", "kraken-ws", "memory"), hubwords.decode_found(found))
        found = self.asked(hubwords.PRICE, hubwords.encode_query(PriceQuery("NOPE"), NOON))
        self.assertEqual(Problem("unknown_asset", "why"), hubwords.decode_found(found))

    def test_pages(self) -> None:
        page = self.asked(hubwords.PAGE, hubwords.encode(("explain", b"BTC")))
        self.assertEqual(Page(200, b"BTC", b"application/json", "explain"), hubwords.decode_page(page))

    def test_retiring(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.desk.retire(2.5)))
        self.assertEqual([2.5], [hubwords.decode_seconds(text) for text in self.worker.texts(hubwords.RETIRE)])
        self.assertFalse(self.desk.is_serving)
