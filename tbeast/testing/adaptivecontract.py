"""What every list of the connection governors must do, as tests to be mixed into a test case that makes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve

from tbeast.domain.governor import Report, Tally
from tbeast.services.governor import NodeList

REPORT: Report = Report(
    node="a", life="first", sequence=1, at=1_776_003_781.25, connections=7, demand=9, is_pressed=False, health=0.95,
    claim=50, limit=40,
)  # fmt: skip


class NodeListContract:
    """Tests of L{NodeList}.

    The test case gives C{nodes}, an empty list, and C{tally()}, what was added up.
    """

    nodes: NodeList
    tally: Callable[[], Tally]
    assertEqual: Callable[..., Any]

    async def say(self, report: Report, *gone: Report, tally: Tally | None = None) -> list[Report]:
        """Exchange; the answer by name."""
        found = await self.nodes.exchange(report, gone, tally or Tally())
        return sorted(found, key=lambda each: each.node)

    async def test_contract_everybody_reads_all(self) -> None:
        """One's own report is among them, as it was just written."""
        other = evolve(REPORT, node="b", is_pressed=True, health=1.0)
        self.assertEqual([REPORT], await self.say(REPORT))
        self.assertEqual([REPORT, other], await self.say(other))
        later = evolve(REPORT, sequence=2, at=REPORT.at + 1.0, connections=8)
        self.assertEqual([later, other], await self.say(later))

    async def test_contract_nothing_older_replaces_something_newer(self) -> None:
        """Of one life the highest number stays, in whatever order they come."""
        later = evolve(REPORT, sequence=10)
        await self.say(later)
        self.assertEqual([later], await self.say(evolve(REPORT, sequence=9)))
        self.assertEqual([later], await self.say(evolve(REPORT, sequence=10, claim=1)))

    async def test_contract_another_life(self) -> None:
        """It begins to count anew, and replaces the one before it, which it reads for the last time."""
        before = evolve(REPORT, sequence=900)
        await self.say(before)
        again, more = evolve(REPORT, life="second"), evolve(REPORT, life="second", sequence=2)
        self.assertEqual([before, again], await self.say(again))
        self.assertEqual([more], await self.say(more))

    async def test_contract_who_is_gone_is_taken_out(self) -> None:
        """But only as it was seen: who has spoken since is there."""
        other, third = evolve(REPORT, node="b"), evolve(REPORT, node="c")
        await self.say(other)
        await self.say(third)
        spoke, anew = evolve(other, sequence=2), evolve(third, life="second")
        await self.say(spoke)
        await self.say(anew)
        self.assertEqual([REPORT, spoke, anew], await self.say(REPORT, other, third))
        self.assertEqual([REPORT], await self.say(REPORT, spoke, anew, evolve(REPORT, node="nobody")))

    async def test_contract_the_tally(self) -> None:
        """It adds up over nodes."""
        await self.say(REPORT, tally=Tally(successes=10, total=13, throttle=2))
        await self.say(evolve(REPORT, node="b"), tally=Tally(successes=1, total=1, throttle=0))
        await self.say(REPORT)
        self.assertEqual(Tally(11, 14, 2), self.tally())

    async def test_contract_leaving(self) -> None:
        """Whoever bears the name meanwhile stays."""
        other = evolve(REPORT, node="b")
        await self.say(REPORT)
        await self.nodes.leave("a", "before")
        self.assertEqual([REPORT, other], await self.say(other))
        await self.nodes.leave("a", REPORT.life)
        await self.nodes.leave("nobody", "ever")
        self.assertEqual([other], await self.say(other))
