"""What workers answer, and what the hub answers for them: together the same as one process alone would."""

from __future__ import annotations

from collections.abc import Awaitable

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs import hubwords
from tbeast.codecs.hubwords import LinkError, Page
from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.problems import Problem
from tbeast.domain.sharedshelf import BYTES, SharedShelf
from tbeast.servers.lpo import lpo_pages
from tbeast.servers.relay import RELAYED, AnswerRelay
from tbeast.servers.relayed import PATIENCE_SECONDS, RelayedAnswers, relayed_pages
from tbeast.servers.site import tree
from tbeast.test.servers.rooms import FREE, NOON, PARTNER, House, Response, Wire, question, quote_of, stale_quote


class Line:
    """The hub as a worker sees it.

    @ivar is_gone: whether it cannot answer.
    @ivar hangs: whether it does not answer.
    @ivar asked: how many questions came to it.
    """

    def __init__(self, relay: AnswerRelay) -> None:
        self.relay = relay
        self.is_gone = self.hangs = False
        self.asked = 0

    async def price(self, query: PriceQuery, asked_at: float) -> tuple[bytes, str, str] | Problem:
        await self._arrive()
        return await self.relay.price(*hubwords.decode_query(hubwords.encode_query(query, asked_at)))

    async def page(self, name: str, below: bytes) -> Page | Problem:
        await self._arrive()
        return hubwords.decode_page(hubwords.encode_page(self.relay.page(name, below)))

    async def _arrive(self) -> None:
        self.asked += 1
        if self.is_gone:
            raise LinkError("gone")
        if self.hangs:
            await _never()


def _never() -> Awaitable[None]:
    return Deferred()


class Split:
    """A house that is the hub's, and one of a worker with the same things on the shared shelf."""

    def __init__(self) -> None:
        self.hub, self.worker = House(), House()
        hub = self.hub
        pages = lpo_pages(
            gate=hub.gate, answers=hub.answers, counters=hub.counters, feeds=lambda: hub.feeds, now=hub.now,
            node="node-1",
        )  # fmt: skip
        self.line = Line(AnswerRelay(hub.answers, {name: pages[name] for name in RELAYED}, hub.now))
        self.shared = SharedShelf(memoryview(bytearray(BYTES)))
        for asset, reply in hub.shelf.replies.items():
            self.shared.put(asset, *reply[:5])
        worker = self.worker
        self.answers = RelayedAnswers(
            assets=hub.assets, shelf=self.shared, hub=self.line, clock=worker.clock, now=worker.now,
            counters=worker.counters, simulated=False,
        )  # fmt: skip
        own = lpo_pages(
            gate=worker.gate, answers=self.answers, counters=worker.counters, feeds=list, now=worker.now, node="node-1",
        )  # fmt: skip
        instead = relayed_pages(worker.gate, self.answers, self.line, worker.clock, worker.now)
        self.site = worker.site(tree({**own, **instead}))

    def ask(self, path: str, key: str | None = PARTNER, method: str = "GET") -> Response:
        return Wire(self.site).ask(path, key, method)


class SameAnswers(SynchronousTestCase):
    """A worker with its hub against one process."""

    def both(self, path: str, key: str | None = PARTNER, method: str = "GET") -> tuple[Response, Split]:
        alone, split = House(), Split()
        for house in (alone, split.hub):
            house.view.rates["USDT"] = 0.999
            house.view.singles["BTC", "kraken"] = quote_of(source="kraken-ws")
            house.view.explained["BTC"] = (quote_of(), [])
            house.lookup.last["ETH"] = stale_quote()
        expected = Wire(alone.site(alone.lpo())).ask(path, key, method)
        found = split.ask(path, key, method)
        self.assertEqual((expected.status, expected.body), (found.status, found.body), path)
        self.assertEqual(sorted(expected.headers.items()), sorted(found.headers.items()), path)
        expected_kinds, kinds = ([row.kind for row in house.ledger.cut(9)] for house in (alone, split.worker))
        self.assertEqual(expected_kinds, kinds, path)
        self.assertEqual([], split.hub.ledger.cut(9))
        return found, split

    def test_from_the_shared_shelf(self) -> None:
        """Without a word to the hub."""
        for path in ("/price?asset=btc", "/prices?assets=BTC", "/asset-categories", "/price?asset=nope", "/price", "/"):
            _, split = self.both(path)
            self.assertEqual(0, split.line.asked, path)

    def test_from_the_hub(self) -> None:
        for path in (
            "/price?asset=btc&exchange=kraken", "/price?asset=btc&quote=USDT", "/price?asset=btc&max_age_ms=1",
            "/price?asset=btc&exchange=okx", "/price?asset=eth", "/prices?assets=BTC,ETH,NOPE&quote=USDT",
            "/explain/BTC", "/explain/nope", "/explain/b%20c", "/explain/BTC-USDT", "/exchanges",
        ):  # fmt: skip
            _, split = self.both(path)
            self.assertGreater(split.line.asked, 0, path)

    def test_without_asking_the_hub(self) -> None:
        """Whoever is refused, or asks for nothing."""
        for path, key, method in (
            ("/explain/BTC", None, "GET"), ("/explain/BTC", "tb_nobody", "GET"), ("/stats", None, "GET"),
            ("/explain", PARTNER, "GET"), ("/exchanges", None, "POST"), ("/stats/x", PARTNER, "GET"),
        ):  # fmt: skip
            _, split = self.both(path, key, method)
            self.assertEqual(0, split.line.asked, path)

    def test_head(self) -> None:
        found, _ = self.both("/exchanges", method="HEAD")
        self.assertEqual(b"", found.body)


class WorkerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.split = Split()

    def test_stats_are_the_hubs(self) -> None:
        self.split.hub.counters.count("publications", by=7)
        self.split.worker.counters.count("publications", by=100)
        stats = self.split.ask("/stats").json()
        self.assertEqual([{"count": 7}], stats["counters"]["publications"])

    def test_the_gate_is_the_workers(self) -> None:
        statuses = [self.split.ask("/stats", FREE).status for _ in range(6)]
        self.assertEqual([200] * 5 + [429], statuses)
        self.assertEqual(5, self.split.line.asked)

    def test_look_ups_are_counted_once(self) -> None:
        self.split.ask("/price?asset=btc")
        self.split.ask("/price?asset=btc&quote=USDT")
        counted = [house.counters.value("lookups", "shelf") for house in (self.split.worker, self.split.hub)]
        self.assertEqual([1, 1], counted)

    def test_a_hub_that_cannot_answer(self) -> None:
        self.split.line.is_gone = True
        for path in ("/price?asset=btc&exchange=kraken", "/explain/BTC", "/exchanges"):
            found = self.split.ask(path)
            self.assertEqual((503, "no_fresh_price"), (found.status, found.json()["code"]))
            self.assertEqual("5", found.headers["Retry-After"])
        self.assertEqual(200, self.split.ask("/price?asset=btc").status)

    def test_a_hub_that_hangs(self) -> None:
        self.split.line.hangs = True
        wire = Wire(self.split.site)
        for path in ("/price?asset=eth", "/exchanges"):
            self.assertEqual(b"", wire.send(question(path)))
            self.split.worker.clock.advance(PATIENCE_SECONDS)
            self.assertEqual(503, wire.answer().status)

    def test_past_its_time(self) -> None:
        """What lies on the shared shelf and is old is the hub's affair."""
        self.split.worker.time = self.split.hub.time = NOON + 3600.0
        self.assertEqual(503, self.split.ask("/price?asset=btc").status)
        self.assertEqual(1, self.split.line.asked)

    def test_an_age_is_never_negative(self) -> None:
        """The clocks of two processes may differ by what a message takes."""
        self.split.worker.time = NOON - 0.001
        self.assertEqual(0.0, self.split.ask("/price?asset=btc").json()["cache_age_seconds"])
