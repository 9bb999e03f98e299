"""What a worker has counted reaches the hub once, whenever it leaves."""

from __future__ import annotations

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs import hubwords
from tbeast.codecs.hubwords import LinkError
from tbeast.domain.counters import Counters
from tbeast.domain.usage import Ledger
from tbeast.services.workercounts import ROWS_A_MESSAGE, WorkerCounts

NOON = 1_776_003_781.0


class Line:
    """A hub that has what was told when it answers.

    @ivar answers: whether it does at once.
    """

    def __init__(self) -> None:
        self.answers = True
        self.waiting: list[Deferred[bytes]] = []
        self.requests = 0
        self.messages = 0
        self.differences: dict[tuple[str, ...], int] = {}

    def ask(self, word: bytes, text: bytes = b"") -> Deferred[bytes]:
        assert word == hubwords.COUNT
        self.messages += 1
        rows, differences = hubwords.decode_count(text)
        answer: Deferred[bytes] = Deferred()

        def taken(_: bytes) -> bytes:
            self.requests += sum(row.request_count for row in rows)
            for key, number in differences.items():
                self.differences[key] = self.differences.get(key, 0) + number
            return b""

        answer.addCallback(taken)
        if self.answers:
            answer.callback(b"")
        else:
            self.waiting.append(answer)
        return answer


class WorkerCountsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.ledger = Ledger()
        self.counters = Counters()
        self.line = Line()
        self.counts = WorkerCounts(self.line, self.ledger, self.counters, self.clock, 0.05)

    def count(self, asset: str = "BTC", times: int = 1) -> None:
        for _ in range(times):
            self.ledger.count("k", "lpo", "http", asset, "median", "shelf", 200, True, NOON, 5)
            self.counters.count("requests", "lpo", "http", "200")

    def test_every_round(self) -> None:
        self.counts.startService()
        self.count(times=3)
        self.clock.advance(0.05)
        self.count(times=2)
        self.assertEqual(3, self.line.requests)
        self.clock.advance(0.05)
        self.assertEqual(5, self.line.requests)
        self.assertEqual({("requests", "lpo", "http", "200"): 5}, self.line.differences)

    def test_nothing_is_not_told(self) -> None:
        self.counts.startService()
        self.clock.pump([0.05] * 5)
        self.assertEqual(0, self.line.messages)

    def test_one_at_a_time(self) -> None:
        """What is counted while the hub does not answer waits, merged."""
        self.counts.startService()
        self.line.answers = False
        self.count()
        self.clock.pump([0.05] * 3)
        self.count(times=4)
        self.clock.pump([0.05] * 10)
        self.assertEqual(1, self.line.messages)
        self.assertEqual(1, len(self.ledger))
        self.line.answers = True
        self.line.waiting.pop().callback(b"")
        self.clock.advance(0.05)
        self.assertEqual((5, 2), (self.line.requests, self.line.messages))

    def test_another_pace(self) -> None:
        self.counts.startService()
        self.counts.set_every(0.5)
        self.count()
        self.clock.advance(0.4)
        self.assertEqual(0, self.line.messages)
        self.clock.advance(0.1)
        self.assertEqual(1, self.line.messages)

    def test_many_kinds(self) -> None:
        self.counts.startService()
        for number in range(ROWS_A_MESSAGE + 1):
            self.count(f"A{number}")
        self.clock.advance(0.05)
        self.assertEqual((ROWS_A_MESSAGE + 1, 2), (self.line.requests, self.line.messages))

    def test_not_taken(self) -> None:
        """It is told again."""
        self.counts.startService()
        self.line.answers = False
        self.count(times=2)
        self.clock.advance(0.05)
        self.line.waiting.pop().errback(LinkError("no"))
        self.assertEqual(2, self.ledger.requests)
        self.line.answers = True
        self.clock.advance(0.05)
        self.assertEqual(2, self.line.requests)
        # and the failure itself, which is counted too
        self.clock.advance(0.05)
        self.assertEqual(
            {("requests", "lpo", "http", "200"): 2, ("service_failures", "counts"): 1}, self.line.differences
        )
        self.flushLoggedErrors(LinkError)

    def test_the_stop(self) -> None:
        """Waits for what is under way, tells the rest, and closes the ledger."""
        self.counts.startService()
        self.line.answers = False
        self.count()
        self.clock.advance(0.05)
        self.count()
        stopped = ensureDeferred(self.counts.stopService())
        self.assertNoResult(stopped)
        self.assertFalse(self.ledger.is_closed)
        self.line.answers = True
        self.count()
        self.line.waiting.pop().callback(b"")
        self.successResultOf(stopped)
        self.assertEqual(3, self.line.requests)
        self.assertTrue(self.ledger.is_closed)

    def test_the_stop_without_a_hub(self) -> None:
        """The ledger is closed all the same."""
        self.counts.startService()
        self.line.answers = False
        self.count()
        stopped = ensureDeferred(self.counts.stopService())
        self.line.waiting.pop().errback(LinkError("gone"))
        self.failureResultOf(stopped, LinkError)
        self.assertTrue(self.ledger.is_closed)
