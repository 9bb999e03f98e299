"""A crew of generators: real ones, and some that fail."""

from __future__ import annotations

import sys
import time

from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest.crew import COMMAND, Crew, GeneratorError
from tbeast.loadtest.orders import Closed, Gather, Order, Progress, SetUp
from tbeast.test.loadtest.peers import HttpPeer


class CrewTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.heard: list[Progress] = []

    def crew(self, size: int, program: str = "") -> Crew:
        command = [sys.executable, "-c", program] if program else COMMAND
        made = Crew(size, time.monotonic, command)
        self.addCleanup(made.end)
        return made

    def peer(self) -> HttpPeer:
        made = HttpPeer()
        self.addCleanup(made.close)
        return made

    def setup(self, port: int) -> SetUp:
        return SetUp("tcp", "127.0.0.1", port, "localhost", "the-key", ("BTC", "ETH"), 5.0)

    def test_side_by_side_and_some_at_rest(self) -> None:
        peer = self.peer()
        crew = self.crew(3)
        crew.carry_out([self.setup(peer.port)] * 3, 30.0, self.heard.append)
        gathered = crew.carry_out([Gather(4), Gather(3), None], 30.0, self.heard.append)
        self.assertEqual((gathered.connections, gathered.generators), (7, 2))
        tally = crew.carry_out([Closed(0.5), Closed(0.5), None], 30.0, self.heard.append)
        self.assertEqual((tally.errors, tally.generators, tally.asked), ({}, 2, tally.ok))
        self.assertGreater(tally.ok, 20)
        self.assertLessEqual(self.heard[-1].ok, tally.ok)
        self.assertGreater(self.heard[-1].ok, 0)

    def test_it_is_stopped(self) -> None:
        peer = self.peer()
        crew = self.crew(2)
        crew.carry_out([self.setup(peer.port)] * 2, 30.0, self.heard.append)
        crew.carry_out([Gather(2)] * 2, 30.0, self.heard.append)

        def interrupt(progress: Progress) -> None:
            if progress.ok:
                raise KeyboardInterrupt

        self.assertRaises(KeyboardInterrupt, crew.carry_out, [Closed(60.0)] * 2, 90.0, interrupt)
        tally = crew.stop()
        self.assertTrue(tally.interrupted)
        self.assertGreater(tally.ok, 0)

    def test_one_that_dies(self) -> None:
        crew = self.crew(2, "import sys; sys.stdin.readline(); sys.exit(5)")
        error = self.assertRaises(GeneratorError, crew.carry_out, [Gather(1)] * 2, 30.0, self.heard.append)
        self.assertIn("status 5", str(error))

    def test_one_that_is_gone_already(self) -> None:
        crew = self.crew(1, "raise SystemExit(0)")
        orders: list[Order] = [Gather(1)]
        for _ in range(2):
            self.assertRaises(GeneratorError, crew.carry_out, orders, 30.0, self.heard.append)

    def test_one_that_says_nothing(self) -> None:
        times = iter([0.0, 1.0, 100.0])
        made = Crew(1, lambda: next(times), [sys.executable, "-c", "import sys; sys.stdin.read()"])
        self.addCleanup(made.end)
        self.patch(made._selector, "select", lambda _: [])
        error = self.assertRaises(GeneratorError, made.carry_out, [Gather(1)], 30.0, self.heard.append)
        self.assertIn("not answered within 30 s", str(error))

    def test_the_end_is_the_end_of_all(self) -> None:
        crew = self.crew(2)
        processes = [member.process for member in crew._members]
        crew.end()
        self.assertEqual([process.returncode for process in processes], [0, 0])

    def test_one_that_does_not_end_is_killed(self) -> None:
        self.patch(sys.modules["tbeast.loadtest.crew"], "END_SECONDS", 0.05)
        crew = self.crew(1, "import time\nwhile True: time.sleep(60)")
        (member,) = crew._members
        crew.end()
        self.assertEqual(member.process.returncode, -9)

    def test_a_program_that_is_not_there(self) -> None:
        self.assertRaises(FileNotFoundError, Crew, 2, time.monotonic, ["/nowhere/at/all"])
