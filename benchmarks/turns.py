"""One load on one server with what it cost, and whether what a daemon answered is what it recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from askers import FailedError, Shot, ask, ask_by_wrk
from attrs import define
from contenders import HTTP, Bench, Contender, Running, started
from progress import Steps

Turn = TypeVar("Turn")

WARM_UP_SECONDS = 0.3


def loaded(
    running: Running, bench: Bench, protocol: str, level: int, seconds: float, *, keys: int = 1, assets: int = 1,
    by_wrk: bool = False,
) -> Shot:  # fmt: skip
    """Load a server, and see what that cost it.

    @param level: connections, or datagrams under way.
    @param keys: so many keys take turns; C{assets} likewise.
    """
    port = running.ports[protocol]
    if by_wrk and protocol == HTTP:
        return ask_by_wrk(port, level, seconds, bench.keys[0], "BTC", bench.cores, running.spent)
    words = bench.words("keys", keys), bench.words("assets", assets)
    return ask(protocol, port, level, seconds, *words, bench.cores, running.spent)


@define
class Count:
    """What was asked of a daemon in all its turns, and what stands in its database."""

    bench: Bench
    asked: int = 0
    heard: int = 0
    recorded: int = 0
    is_kept: bool = False
    _before: int = 0

    def begin(self, running: Running) -> None:
        """It is ready; give it something to warm up."""
        if running.recorded is not None:
            self.is_kept = True
            self._before = running.recorded()
        for protocol in running.ports:
            self.add(loaded(running, self.bench, protocol, 16, WARM_UP_SECONDS))

    def add(self, shot: Shot) -> None:
        """It was loaded."""
        self.asked += shot.asked
        self.heard += shot.heard

    def end(self, running: Running) -> None:
        """Its turn is over."""
        if running.recorded is not None:
            self.recorded += running.recorded() - self._before

    def told(self, title: str) -> str:
        """For people; a datagram that was lost may have been answered or not."""
        verdict = "every answer once" if self.heard <= self.recorded <= self.asked else "NOT THE SAME"
        return f"{title}: asked {self.asked:,}, answered {self.heard:,}, recorded {self.recorded:,}: {verdict}"


def rounds(
    bench: Bench,
    contenders: Iterable[Contender],
    plan: Callable[[Contender], Sequence[Turn]],
    load: Callable[[Running, Turn], Shot],
    seconds: Callable[[Turn], float],
    count: int,
    steps: Steps,
) -> tuple[dict[Turn, dict[str, list[Shot]]], list[str], list[str]]:
    """Let all of them go through their turns, one after the other, so many times.

    Who fails is left out from then on, and what he has shown before is forgotten.

    @param plan: the turns of each; C{load}: does one of them; C{seconds}: how long that takes.
    @return: the shots by turn and contender; for each daemon what it answered and recorded; and who failed, and how.
    """
    shots: dict[Turn, dict[str, list[Shot]]] = {}
    counts: dict[str, Count] = {}
    failed: dict[str, str] = {}
    several = list(contenders)
    for number in range(count):
        for contender in several:
            mine = plan(contender)
            if not mine or contender.name in failed:
                continue
            steps.begin(f"round {number + 1} of {count}: {contender.title}")
            tally = counts.setdefault(contender.name, Count(bench))
            try:
                with started(contender, bench) as running:
                    tally.begin(running)
                    for turn in mine:
                        steps.say(f"{contender.title}: {turn}")
                        shot = load(running, turn)
                        tally.add(shot)
                        shots.setdefault(turn, {}).setdefault(contender.name, []).append(shot)
                        steps.done(seconds(turn))
                    tally.end(running)
            except FailedError as error:
                failed[contender.name] = f"left out: {contender.title} failed: {error}"
    for by in shots.values():
        for name in failed:
            by.pop(name, None)
    told = [
        counts[each.name].told(each.title)
        for each in several
        if each.name in counts and counts[each.name].is_kept and each.name not in failed
    ]
    return shots, told, list(failed.values())
