"""Each refusal that is ours has its line, but a flood of them does not become one of lines."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.problems import Problem
from tbeast.servers.faultlog import MOST_LINES, WINDOW_SECONDS, FaultLog
from tbeast.testing.logs import listen

NO_PRICE = Problem("no_fresh_price", "There is none.")


class FaultLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines = listen(self).lines
        self.time = 100.0
        self.faults = FaultLog("lpo", lambda: self.time)

    def test_a_line(self) -> None:
        self.faults.note(NO_PRICE, b"/price", "0f")
        self.assertEqual(["lpo: 503 no_fresh_price for /price, request 0f"], self.lines)

    def test_a_flood(self) -> None:
        for number in range(5_000):
            self.faults.note(NO_PRICE, b"/price", str(number))
        self.assertEqual(MOST_LINES, len(self.lines))
        self.time += WINDOW_SECONDS
        self.faults.note(NO_PRICE, b"/price", "last")
        self.faults.note(NO_PRICE, b"/price", "very last")
        self.assertEqual(MOST_LINES + 2, len(self.lines))
        self.assertTrue(self.lines[-2].endswith(f"request last; {5_000 - MOST_LINES} like it before were left out"))
        self.assertTrue(self.lines[-1].endswith("request very last"))

    def test_what_a_client_sends_stays_in_bounds(self) -> None:
        self.faults.note(NO_PRICE, b"/" + b"\n\xff" * 5_000, "0f")
        (line,) = self.lines
        self.assertLess(len(line), 1_000)
        self.assertTrue(line.isascii())
