"""What was answered, laid beside what was recorded."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tbeast.testing.books import LOST_AT_MOST_MS, REMEMBERED, Answers, Asking, Entry, _Http, entries
from tbeast.testing.upkeep import Life


def answers(*at: float, unanswered: int = 0) -> Answers:
    return Answers(asked=len(at) + unanswered, answered=len(at), latest=deque(at, REMEMBERED))


class BooksTests(SynchronousTestCase):
    """A node that was killed after ten seconds and stopped after twenty."""

    def setUp(self) -> None:
        self.lives = {"a": [Life(100.0, 101.0, 110.0, killed=True), Life(110.5, 112.0, 120.0)]}

    def book(self, first: Answers, second: Answers, *rows: tuple[str, float, int]) -> list[Entry]:
        return entries(self.lives, {("a", 1): first, ("a", 2): second}, rows)

    def test_balanced(self) -> None:
        """Rows are laid to the life in which they were counted."""
        first, second = answers(102.0, 109.0, 109.9), answers(113.0)
        book = self.book(first, second, ("a", 102.0, 2), ("a", 109.9, 1), ("a", 113.0, 1))
        self.assertEqual([Entry("a", 1, True, 3, 0, 3), Entry("a", 2, False, 1, 0, 1)], book)
        self.assertEqual(["", ""], [entry.fault for entry in book])

    def test_lost_by_a_kill(self) -> None:
        """As far as the last round goes; the time is that of the earliest answer that may be missing."""
        first, _ = self.book(answers(102.0, 109.7, 109.95), answers(), ("a", 102.0, 1))
        self.assertEqual(2, first.lost)
        self.assertAlmostEqual(300.0, first.lost_ms, places=3)
        self.assertEqual("", first.fault)
        first, _ = self.book(answers(102.0, 109.5, 109.95), answers(), ("a", 102.0, 1))
        self.assertGreater(first.lost_ms, LOST_AT_MOST_MS)
        self.assertIn("2 answers are not recorded", first.fault)

    def test_an_answer_after_the_end(self) -> None:
        """It was on its way when the node was killed."""
        first, _ = self.book(answers(110.01), answers())
        self.assertEqual((1, 0.0, ""), (first.lost, first.lost_ms, first.fault))

    def test_nothing_may_be_lost_without_a_kill(self) -> None:
        _, second = self.book(answers(), answers(113.0, 119.99), ("a", 113.0, 1))
        self.assertEqual("1 answers are not recorded", second.fault)

    def test_recorded_and_never_heard(self) -> None:
        """What was asked may have been recorded without an answer; more than that nobody has asked."""
        first, _ = self.book(answers(102.0, unanswered=2), answers(), ("a", 102.0, 3))
        self.assertEqual("", first.fault)
        first, _ = self.book(answers(102.0, unanswered=2), answers(), ("a", 102.0, 4))
        self.assertEqual("1 were recorded that nobody asked", first.fault)

    def test_counted_twice(self) -> None:
        _, second = self.book(answers(), answers(113.0), ("a", 113.0, 1), ("a", 113.1, 1))
        self.assertEqual("1 were recorded that nobody asked", second.fault)

    def test_rows_of_nobody(self) -> None:
        """Of a node that is none, and from before anybody had started."""
        book = self.book(answers(), answers(), ("b", 113.0, 5), ("a", 99.0, 7))
        faults = {(entry.node, entry.number): entry.fault for entry in book if entry.fault}
        self.assertEqual({("a", 0), ("b", 0)}, set(faults))

    def test_more_lost_than_is_remembered(self) -> None:
        many = Answers(asked=REMEMBERED + 9, answered=REMEMBERED + 9, latest=deque([109.9] * REMEMBERED))
        first, _ = self.book(many, answers(), ("a", 102.0, 1))
        self.assertEqual(float("inf"), first.lost_ms)
        self.assertNotEqual("", first.fault)


class HttpTests(SynchronousTestCase):
    """One connection to a node in its first life."""

    def setUp(self) -> None:
        node: Any = SimpleNamespace(name="a", kept=SimpleNamespace(lives=[Life(100.0)], serving=True))
        cluster: Any = SimpleNamespace(nodes=[node])
        self.asking = Asking(cluster, "key", 1.0, Clock(), lambda: 101.0)
        self.line = self.asking._lines[0]
        self.http = _Http(self.line)
        self.http.makeConnection(StringTransport())

    def hear(self, status: bytes) -> None:
        self.http.dataReceived(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\n{}" % status)

    def test_answered_and_refused(self) -> None:
        for number, status in ((4, b"200 OK"), (5, b"429 Too Many")):
            self.line.ask(number)
            self.hear(status)
        ((_, answers),) = self.asking.answers.items()
        self.assertEqual((2, 1, 1, 0), (answers.asked, answers.answered, answers.refused, answers.unanswered))

    def test_a_connection_that_is_turned_away_answers_nothing(self) -> None:
        """Else fewer questions would seem to be without an answer, and a row of one of these to be of nobody."""
        self.hear(b"503 Service Unavailable")
        self.assertEqual((1, 0, {}), (self.asking.turned_away, self.asking.unanswered, self.asking.refused))
