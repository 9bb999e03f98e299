"""A run over generators that answer as they are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.trial.unittest import SynchronousTestCase

from tbeast.loadtest.crew import GeneratorError
from tbeast.loadtest.levels import Level, Room, uncut
from tbeast.loadtest.orders import Closed, Gather, Order, Progress, SetUp, Steady
from tbeast.loadtest.report import LevelResult
from tbeast.loadtest.running import CLOSED, OPEN, OPENING, Course, Pace, Run
from tbeast.loadtest.tally import Tally

ROOM = Room(files=1064, ports=28_232, sources=200)


def setup(protocol: str) -> SetUp:
    return SetUp(protocol, "127.0.0.1", 1, "localhost", "the-key", ("BTC",), 5.0)  # type: ignore[arg-type]


class Script:
    """Generators that do what C{answer} says.

    @ivar said: every order of each round, in order.
    """

    def __init__(self) -> None:
        self.said: list[Sequence[Order | None]] = []
        self.answer: Callable[[Order], Tally] = self.good
        self.stopped = 0

    def good(self, order: Order) -> Tally:
        if isinstance(order, Gather):
            return Tally(connections=order.askers)
        if isinstance(order, Closed):
            return Tally(asked=2000, ok=2000, in_time=2000, elapsed=order.seconds, waited=order.seconds / 2)
        return Tally(asked=100, ok=100, in_time=100, elapsed=1.0, waited=0.9)

    def carry_out(
        self, orders: Sequence[Order | None], within_seconds: float, heard: Callable[[Progress], None]
    ) -> Tally:
        self.said.append(orders)
        heard(Progress(1, 1, 0))
        (first, *others) = [order for order in orders if order is not None]
        tally = self.answer(first)
        if isinstance(first, Gather):
            for order in others:
                assert isinstance(order, Gather)
                tally.connections += order.askers if tally.connections else 0
        return tally

    def stop(self) -> Tally:
        self.stopped += 1
        return Tally(asked=5, ok=5, in_time=5, elapsed=1.0, interrupted=True)


class Told:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int, str, float | None]] = []
        self.results: list[LevelResult] = []

    def began(self, protocol: str, level: Level, phase: str, rate: float | None) -> None:
        self.phases.append((protocol, level.number, phase, rate))

    def heard(self, progress: Progress) -> None:
        pass

    def ended(self, result: LevelResult) -> None:
        self.results.append(result)


class RunTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.script = Script()
        self.told = Told()

    def made(self, size: int = 1, rate: float | None = None, goal: float = 99.9) -> Run:
        return Run(self.script, size, 1, ROOM, Pace(2.0, 0.5, rate, goal, 1), self.told)

    def test_the_order_of_things(self) -> None:
        run = self.made()
        run.run([Course(setup("udp"), uncut([4])), Course(setup("tcp"), uncut([4, 8]))])
        self.assertEqual(
            self.told.phases,
            [
                (protocol, number, phase, rate)
                for protocol, number in (("udp", 1), ("tcp", 1), ("tcp", 2))
                for phase, rate in ((OPENING, None), (CLOSED, None), (OPEN, 500.0))
            ],
        )
        self.assertEqual(run.results, self.told.results)
        self.assertTrue(all(result.reached and result.success == 100.0 for result in run.results))
        self.assertEqual((run.notes, run.interrupted), ([], False))
        self.assertEqual([type(orders[0]) for orders in self.script.said][:4], [SetUp, Gather, Closed, Steady])

    def test_a_rate_that_was_given(self) -> None:
        run = self.made(rate=123.0)
        run.run([Course(setup("tcp"), uncut([4]))])
        (result,) = run.results
        assert result.open is not None
        self.assertEqual(result.open.rate_asked, 123.0)

    def test_shares_of_several_generators(self) -> None:
        run = self.made(size=3)
        run.run([Course(setup("tcp"), uncut([1, 1500])), Course(setup("udp"), uncut([1500]))])
        said = iter(self.script.said)
        self.assertEqual(next(said), [setup("tcp")] * 3)
        self.assertEqual(next(said), [Gather(1), Gather(0), Gather(0)])
        self.assertEqual(next(said), [Closed(2.0), None, None])
        next(said)
        self.assertEqual(next(said), [Gather(750), Gather(750), Gather(0)])
        self.assertEqual(next(said), [Closed(2.0), Closed(2.0), None])
        first, second, third = next(said)
        assert isinstance(first, Steady) and isinstance(second, Steady)
        self.assertEqual((first.rate, second.rate, third), (250.0, 250.0, None))
        self.assertNotEqual(first.seed, second.seed)
        next(said)
        self.assertEqual(next(said), [Gather(750, 128), Gather(750, 128), None])

    def test_failures_and_missing_connections(self) -> None:
        def failing(order: Order) -> Tally:
            if isinstance(order, Gather):
                return Tally(connections=order.askers - 1, asked=1, errors={"connecting: refused": 1})
            if isinstance(order, Closed):
                return Tally(asked=1000, ok=998, in_time=998, elapsed=2.0, errors={"status 429": 2})
            return Tally(asked=1000, ok=1000, in_time=1000, elapsed=2.0)

        self.script.answer = failing
        run = self.made(goal=99.8)
        run.run([Course(setup("tcp"), uncut([4])), Course(setup("udp"), uncut([4]))])
        tcp, udp = run.results
        self.assertEqual((tcp.success, tcp.reached, tcp.sockets), (99.85007, False, 3))
        self.assertEqual(tcp.connecting, {"connecting: refused": 1})
        assert tcp.closed is not None
        self.assertEqual(tcp.closed.errors, {"status 429": 2})
        self.assertEqual((udp.success, udp.reached), (99.85007, True))

    def test_nobody_answers(self) -> None:
        self.script.answer = lambda order: (
            self.script.good(order) if isinstance(order, Gather) else Tally(asked=9, elapsed=1.0, errors={"lost": 9})
        )
        run = self.made()
        run.run([Course(setup("udp"), uncut([1, 2, 3])), Course(setup("tcp"), uncut([1]))])
        self.assertEqual([(result.protocol, result.number) for result in run.results], [("udp", 1), ("tcp", 1)])
        self.assertEqual([result.success for result in run.results], [0.0, 0.0])
        self.assertIsNone(run.results[0].open)
        (note,) = run.notes
        self.assertIn("UDP level 1: the levels above it are left out", note)

    def test_nobody_is_there(self) -> None:
        self.script.answer = lambda order: Tally(asked=4, errors={"connecting: refused": 4})
        run = self.made()
        run.run([Course(setup("tcp"), uncut([4, 5]))])
        (result,) = run.results
        self.assertEqual((result.closed, result.open, result.success, result.reached), (None, None, 0.0, False))

    def test_an_interruption_keeps_what_was_measured(self) -> None:
        for at in (Gather, Closed, Steady):
            self.setUp()

            def interrupted(order: Order, at: type[Order] = at) -> Tally:
                if isinstance(order, at) and len(self.told.results) == 1:
                    raise KeyboardInterrupt
                return self.script.good(order)

            self.script.answer = interrupted
            run = self.made()
            run.run([Course(setup("tcp"), uncut([1, 2, 3])), Course(setup("udp"), uncut([1]))])
            self.assertTrue(run.interrupted)
            self.assertEqual(self.script.stopped, 1)
            first, second = run.results
            self.assertEqual((first.reached, second.reached, second.interrupted), (True, False, True))
            self.assertEqual((second.closed is not None, second.open is not None), (at is not Gather, at is Steady))
            self.assertIn("Interrupted on TCP level 2", run.notes[0])

    def test_an_interruption_between_two_orders(self) -> None:
        def ended(result: LevelResult) -> None:
            raise KeyboardInterrupt

        self.told.ended = ended  # type: ignore[method-assign]
        run = self.made()
        run.run([Course(setup("tcp"), uncut([1, 2]))])
        self.assertEqual((run.interrupted, len(run.results), len(run.notes)), (True, 1, 1))

    def test_an_interruption_that_a_generator_does_not_hear(self) -> None:
        def deaf() -> Tally:
            raise GeneratorError("gone")

        def interrupted(order: Order) -> Tally:
            if isinstance(order, Closed):
                raise KeyboardInterrupt
            return self.script.good(order)

        self.script.answer = interrupted
        self.script.stop = deaf  # type: ignore[method-assign]
        run = self.made()
        run.run([Course(setup("tcp"), uncut([1, 2]))])
        self.assertTrue(run.interrupted)
        self.assertEqual([result.success for result in run.results], [0.0])

    def test_a_generator_that_fails_ends_the_run(self) -> None:
        def dying(order: Order) -> Tally:
            if self.told.results:
                raise GeneratorError("a generator has ended")
            return self.script.good(order)

        self.script.answer = dying
        run = self.made()
        run.run([Course(setup("tcp"), uncut([1, 2, 3]))])
        self.assertEqual((len(run.results), run.interrupted), (1, False))
        self.assertIn("not by the daemon's doing: a generator has ended", run.notes[0])
