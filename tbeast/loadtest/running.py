"""A run: level after level, first all of one protocol, then all of the other.

On each level the askers are gathered, then asked in a closed loop, then in an open one at a rate that was given, or
that is a share of what the closed loop reached. A protocol ends early when nothing at all was answered on a level. An
interruption ends everything, and what was measured by then is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

from attrs import evolve, frozen

from tbeast.loadtest.crew import GeneratorError
from tbeast.loadtest.generator import GATHER_SECONDS
from tbeast.loadtest.levels import MOST_SOCKETS, Level, Room, shares
from tbeast.loadtest.orders import Closed, Gather, Order, Progress, SetUp, Steady
from tbeast.loadtest.report import NAMES, LevelResult, part_of, success_of
from tbeast.loadtest.tally import Tally

SLACK_SECONDS: Final = 30.0
"""How much later than it must be a generator may be done, before it is given up."""

PHASES: Final = 2
"""How many loops a level has."""

OPENING: Final = "opening"
CLOSED: Final = "closed loop"
OPEN: Final = "open loop"


class Generators(Protocol):
    """See L{tbeast.loadtest.crew.Crew}."""

    def carry_out(
        self, orders: Sequence[Order | None], within_seconds: float, heard: Callable[[Progress], None]
    ) -> Tally:
        """Have each carry out its order."""

    def stop(self) -> Tally:
        """End the order under way."""


class Audience(Protocol):
    """Is told how the run goes on."""

    def began(self, protocol: str, level: Level, phase: str, rate: float | None) -> None:
        """A part of a level begins."""

    def heard(self, progress: Progress) -> None:
        """It goes on."""

    def ended(self, result: LevelResult) -> None:
        """A level is over."""


@frozen
class Course:
    """One protocol's part of a run.

    @ivar setup: whom to ask; its time-out is of this protocol.
    """

    setup: SetUp
    levels: Sequence[Level]

    @property
    def protocol(self) -> Literal["tcp", "udp"]:
        """C{tcp} or C{udp}."""
        return self.setup.protocol


@frozen
class Pace:
    """How each level is run.

    @ivar seconds: of each loop.
    @ivar load: the open loop's share of the closed loop's rate.
    @ivar rate: the open loop's rate instead; C{None}: by C{load}.
    @ivar goal: the success to reach, in per cent.
    @ivar seed: of the moments of the open loops.
    """

    seconds: float
    load: float
    rate: float | None
    goal: float
    seed: int


class Run:
    """Carries out a plan.

    @param size: how many generators there are.
    @param usual: how many of them work unless a level needs more.
    @ivar results: of the levels that are over, and of one that was interrupted.
    @ivar notes: what ended a protocol early.
    @ivar interrupted: whether the run was.
    """

    def __init__(self, crew: Generators, size: int, usual: int, room: Room, pace: Pace, audience: Audience) -> None:
        self._crew = crew
        self._size = size
        self._usual = usual
        self._room = room
        self._pace = pace
        self._audience = audience
        self.results: list[LevelResult] = []
        self.notes: list[str] = []
        self.interrupted = False
        self._seeds = iter(range(pace.seed, pace.seed + (1 << 40)))

    def run(self, courses: Sequence[Course]) -> None:
        """Run everything; neither an interruption nor a generator that failed is an exception."""
        try:
            self._run(courses)
        except KeyboardInterrupt:
            self.interrupted = True
            self.notes.append("Interrupted: what is missing was not measured.")
        except GeneratorError as error:
            self.notes.append(f"The run ended early, and not by the daemon's doing: {error}.")

    def _run(self, courses: Sequence[Course]) -> None:
        for course in courses:
            self._crew.carry_out([course.setup] * self._size, SLACK_SECONDS, self._audience.heard)
            for level in course.levels:
                result = self._level(course, level)
                self.results.append(result)
                self._audience.ended(result)
                if self.interrupted:
                    self.notes.append(
                        f"Interrupted on {NAMES[course.protocol]} level {level.number}: what comes after it is not"
                        " measured."
                    )
                    return
                if result.success == 0.0 and level is not course.levels[-1]:
                    self.notes.append(
                        f"Nothing was answered on {NAMES[course.protocol]} level {level.number}: the levels above it"
                        " are left out."
                    )
                    break

    def _level(self, course: Course, level: Level) -> LevelResult:
        held = shares(level.askers, self._size, self._usual, self._room.in_a_process)
        wide = sum(map(bool, held))
        seconds = self._pace.seconds
        tallies: list[Tally] = []
        result = LevelResult(course.protocol, level.number, level.wanted, level.askers, 0, 0.0, False, {}, None, None)

        def carry_out(phase: str, orders: Sequence[Order | None], most_seconds: float, rate: float | None) -> Tally:
            self._audience.began(course.protocol, level, phase, rate)
            within = most_seconds + 2.0 * course.setup.timeout_seconds + SLACK_SECONDS
            tally = self._carried_out(orders, within)
            tallies.append(tally)
            return tally

        gathers = [Gather(count, max(1, min(count, MOST_SOCKETS // wide))) if count else None for count in held]
        if course.protocol == "tcp":
            # those without a share give their connections back
            gathers = [Gather(count) for count in held]
        gathered = carry_out(OPENING, gathers, GATHER_SECONDS, None)
        result = evolve(result, sockets=gathered.connections, connecting=dict(sorted(gathered.errors.items())))
        if gathered.connections and not self.interrupted:
            orders = [Closed(seconds) if count else None for count in held]
            tally = carry_out(CLOSED, orders, seconds, None)
            result = evolve(result, closed=part_of(tally))
            rate = self._pace.rate or tally.rate * self._pace.load
            if rate > 0.0 and not self.interrupted:
                steady = [
                    Steady(rate * count / level.askers, seconds, next(self._seeds)) if count else None for count in held
                ]
                result = evolve(result, open=part_of(carry_out(OPEN, steady, seconds, rate), rate))
        success = success_of(tallies)
        reached = success >= self._pace.goal and result.open is not None and not self.interrupted
        missing = course.protocol == "tcp" and gathered.connections < level.askers
        return evolve(result, success=success, reached=reached and not missing, interrupted=self.interrupted)

    def _carried_out(self, orders: Sequence[Order | None], within_seconds: float) -> Tally:
        try:
            return self._crew.carry_out(orders, within_seconds, self._audience.heard)
        except KeyboardInterrupt:
            self.interrupted = True
        try:
            return self._crew.stop()
        except GeneratorError:
            return Tally(interrupted=True)
