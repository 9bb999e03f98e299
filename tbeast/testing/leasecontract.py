"""What every keeper of the shared buckets must do, as tests to be mixed into a test case that makes one.

The law itself is tried in the model's own tests, and the script is held to the model digit by digit; here is what a
node counts on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve

from tbeast.domain.sharedbuckets import Balance, Contact, Hello, Report
from tbeast.services.limits import SharedLimits

PRO: Report = Report(
    key_id="contractkey", life="first", qps=10.0, burst=20, min_wait_seconds=0.1, quota=50_000, opening=0.0,
    settled_spent=0, spent=0, settled_granted=0.0, granted=0.0, month="2026-04", month_spent=0, known=0,
    counted=0, counted_in="",
)  # fmt: skip
"""Nothing spent yet, by the only node."""


def after(report: Report, spent: int) -> Report:
    """The report of the same node when it has spent so many in all, none of them settled."""
    return evolve(report, spent=spent, month_spent=spent, known=spent)


class SharedLimitsContract:
    """Tests of L{SharedLimits}.

    The test case gives C{limits}, empty, and C{move_to(seconds)}, which sets the server's time; it begins at C{START}.
    """

    START = 1_776_003_781.25  # 12 April 2026

    limits: SharedLimits
    move_to: Callable[[float], None]
    assertEqual: Callable[..., Any]
    assertAlmostEqual: Callable[..., Any]

    async def say(self, node: str, seconds: float, *reports: Report, epoch: str = "") -> tuple[Contact, list[Balance]]:
        """Exchange so many seconds after the start."""
        self.move_to(self.START + seconds)
        return await self.limits.exchange(Hello(node, self.START + seconds, epoch), reports)

    async def test_contract_a_look_changes_nothing(self) -> None:
        """Nobody has begun, and nobody has by asking."""
        nobody = Contact(self.START, "", 0.0, 1)
        self.assertEqual(await self.limits.look("a"), nobody)
        self.assertEqual(await self.limits.look("b"), nobody)

    async def test_contract_nodes_are_counted(self) -> None:
        """Those of the last ten seconds, and not those that left."""
        counts = [
            (await self.say(node, seconds))[0].nodes for node, seconds in (("a", 0), ("b", 1), ("c", 2), ("a", 3))
        ]
        self.assertEqual(counts, [1, 2, 3, 3])
        self.assertEqual((await self.limits.look("d")).nodes, 4)
        self.assertEqual((await self.say("a", 11.5))[0].nodes, 2)
        await self.limits.leave("c")
        self.assertEqual((await self.limits.look("a")).nodes, 1)

    async def test_contract_spending(self) -> None:
        """What is spent is taken out, comes back with time, and is counted for the month."""
        _, balances = await self.say("a", 0.0, PRO)
        self.assertEqual(balances, [Balance(20.0, 0.0, 0, "2026-04")])
        _, balances = await self.say("a", 0.0, after(PRO, 19), evolve(after(PRO, 3), key_id="another"))
        self.assertEqual(balances, [Balance(1.0, 0.0, 19, "2026-04"), Balance(17.0, 0.0, 3, "2026-04")])
        _, balances = await self.say("a", 0.5, after(PRO, 19))
        self.assertEqual(balances, [Balance(6.0, 0.0, 19, "2026-04")])

    async def test_contract_emptied(self) -> None:
        """An empty bucket says when to come back, and may be in debt."""
        _, balances = await self.say("a", 0.0, after(PRO, 20))
        self.assertEqual(balances, [Balance(0.0, 0.1, 20, "2026-04")])
        _, balances = await self.say("b", 0.0, after(PRO, 5))
        self.assertEqual(balances, [Balance(-5.0, 0.6, 25, "2026-04")])

    async def test_contract_the_same_report_twice(self) -> None:
        """A report whose answer was lost is not taken out again, by this node or another life of it."""
        await self.say("a", 0.0, after(PRO, 7))
        _, balances = await self.say("a", 0.0, after(PRO, 9))
        self.assertEqual(balances, [Balance(11.0, 0.0, 9, "2026-04")])
        _, balances = await self.say("a", 0.0, evolve(after(PRO, 2), life="second"))
        self.assertEqual(balances, [Balance(9.0, 0.0, 11, "2026-04")])

    async def test_contract_plans_with_one_limit(self) -> None:
        """Without a bucket there are no tokens; without a quota nothing is counted."""
        month_alone = evolve(after(PRO, 4), key_id="month", qps=None, burst=None)
        rate_alone = evolve(after(PRO, 4), key_id="rate", quota=None)
        _, balances = await self.say("a", 0.0, month_alone, rate_alone)
        self.assertEqual(balances, [Balance(0.0, 0.0, 4, "2026-04"), Balance(16.0, 0.0, 0, "2026-04")])

    async def test_contract_a_new_month(self) -> None:
        """The count begins anew with what was spent in it."""
        await self.say("a", 0.0, after(PRO, 7))
        to_may = 1_777_593_600.0 - self.START
        report = evolve(after(PRO, 9), settled_spent=7, month="2026-05", month_spent=1, known=1)
        _, balances = await self.say("a", to_may + 1.0, report)
        self.assertEqual(balances[0][2:], (1, "2026-05"))

    async def test_contract_what_is_known_elsewhere(self) -> None:
        """A count begins with what the first node had heard."""
        _, balances = await self.say("a", 0.0, evolve(after(PRO, 2), known=40_000, counted=39_998))
        self.assertEqual(balances[0].used, 40_000)
        _, balances = await self.say("a", 0.0, evolve(after(PRO, 3), known=100, counted=39_998))
        self.assertEqual(balances[0].used, 40_001)
        _, balances = await self.say("b", 0.0, evolve(after(PRO, 1), counted=40_000))
        self.assertEqual(balances[0].used, 40_002)

    async def test_contract_what_is_known_before_it_is_reported(self) -> None:
        """It counts, and is not counted again when it is reported."""
        _, balances = await self.say("a", 0.0, evolve(after(PRO, 2), known=12))
        self.assertEqual(balances[0].used, 12)
        _, balances = await self.say("b", 0.0, after(PRO, 10))
        self.assertEqual(balances[0].used, 12)
        _, balances = await self.say("b", 0.0, after(PRO, 11))
        self.assertEqual(balances[0].used, 13)

    async def test_contract_a_count_that_was_lost(self) -> None:
        """It goes on from the last that any node was told, whichever comes first, and nothing is counted twice."""
        contact, _ = await self.say("new", 0.0, epoch="lost")
        for node, spent, counted, used in (("a", 5, 100, 105), ("b", 7, 140, 152), ("c", 1, 120, 153)):
            report = evolve(after(PRO, spent), known=150, counted=counted, counted_in="lost")
            _, balances = await self.say(node, 0.0, report, epoch=contact.epoch)
            self.assertEqual(balances[0].used, max(used, 150))
        report = evolve(after(PRO, 6), counted=153, counted_in=contact.epoch)
        _, balances = await self.say("a", 0.0, report, epoch=contact.epoch)
        self.assertEqual(balances[0].used, 154)

    async def test_contract_data_that_were_lost(self) -> None:
        """Who knew other data says so, and buckets begin as empty as they may have been."""
        lost = evolve(PRO, opening=-10.0)
        contact, balances = await self.say("a", 0.0, lost, epoch="before")
        self.assertEqual((balances[0].tokens, contact.clock), (-10.0, 0.0))
        for step in range(1, 11):
            contact, balances = await self.say("a", step / 2, evolve(lost, key_id=f"key{step}"), epoch=contact.epoch)
            self.assertAlmostEqual(balances[0].tokens, min(20.0, -10.0 + step * 5.0), 4)
