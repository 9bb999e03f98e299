"""The gate."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.admission import (
    ADMITTED,
    BAD_KEY,
    KEYS_UNAVAILABLE,
    QUOTA_EXCEEDED,
    RATE_LIMITED,
    UNMETERED,
    Standing,
    Verdict,
)
from tbeast.domain.keys import Account
from tbeast.domain.plans import PLANS
from tbeast.servers.gate import Gate
from tbeast.test.servers.rooms import FREE, NOON, PARTNER, Ring


class GateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ring = Ring()
        self.gate = Gate(self.ring)

    def outcomes(self, key: str, how_many: int, now: float = NOON) -> list[str]:
        return [self.gate.admit(key.encode(), now).outcome for _ in range(how_many)]

    def test_nobody(self) -> None:
        verdict = self.gate.admit(b"nobody", NOON)
        self.assertEqual((BAD_KEY, None), (verdict.outcome, verdict.account))

    def test_each_key_has_its_own_bucket(self) -> None:
        self.assertEqual([ADMITTED] * 5 + [RATE_LIMITED], self.outcomes(FREE, 6))
        self.assertEqual([ADMITTED] * 6, self.outcomes(PARTNER, 6))

    def test_counts_what_was_admitted(self) -> None:
        self.outcomes(FREE, 7)
        self.outcomes(PARTNER, 3)
        self.assertEqual([5, 3, 0], [self.gate.used(key_id) for key_id in
                                     ("freefreefr", self.ring.accounts[0].key_id, "nobody")])  # fmt: skip

    def test_a_verified_account_shares_its_key_s_bucket(self) -> None:
        """Signed and plain questions draw from one bucket."""
        self.outcomes(FREE, 3)
        outcomes = [self.gate.admit_account(self.ring.accounts[1], NOON).outcome for _ in range(3)]
        self.assertEqual([ADMITTED, ADMITTED, RATE_LIMITED], outcomes)

    def test_another_tier(self) -> None:
        """A key that moves to another tier has that tier's limits at once, and keeps what it used."""
        self.assertEqual([ADMITTED] * 5 + [RATE_LIMITED], self.outcomes(FREE, 6))
        self.ring.accounts[1] = evolve(self.ring.accounts[1], tier="partner", plan=PLANS["partner"])
        self.assertEqual([ADMITTED] * 9, self.outcomes(FREE, 9))
        self.assertEqual(14, self.gate.used("freefreefr"))

    def test_the_same_account_anew(self) -> None:
        """A keyring that was read again and says the same gives nobody a new bucket."""
        self.outcomes(FREE, 5)
        self.ring.accounts[1] = evolve(self.ring.accounts[1])
        self.assertEqual([RATE_LIMITED], self.outcomes(FREE, 1))

    def test_taken_back(self) -> None:
        self.outcomes(PARTNER, 1)
        self.ring.find = lambda key: None  # type: ignore[method-assign]
        self.assertEqual([BAD_KEY], self.outcomes(PARTNER, 1))

    def test_other_standings(self) -> None:
        """Whoever makes the standings decides: the seam for limits of a cluster."""

        class Closed(Standing):
            def admit(self, now: float) -> Verdict:
                return Verdict(RATE_LIMITED, self.account, 1, 0, 1, 1.0)

        made: list[Account] = []

        def open_closed(account: Account, now: float) -> Standing:
            made.append(account)
            return Closed(account, now)

        self.gate = Gate(self.ring, open_closed)
        self.assertEqual([RATE_LIMITED] * 3, self.outcomes(PARTNER, 3))
        self.assertEqual([self.ring.accounts[0]], made)

    def test_the_limits_of_the_key_itself(self) -> None:
        """Not those of its tier, if somebody gave it others."""
        self.ring.accounts[1] = evolve(self.ring.accounts[1], plan=evolve(PLANS["free"], burst=2))
        self.assertEqual([ADMITTED] * 2 + [RATE_LIMITED], self.outcomes(FREE, 3))

    def test_keys_that_are_not_loaded_yet(self) -> None:
        """An unknown key may be good for all we know; a known one is good."""
        self.ring.is_complete = False
        verdict = self.gate.admit(b"nobody", NOON)
        self.assertEqual((KEYS_UNAVAILABLE, None), (verdict.outcome, verdict.account))
        self.assertGreater(verdict.retry_after_seconds, 0)
        self.assertEqual([ADMITTED], self.outcomes(FREE, 1))

    def test_shut(self) -> None:
        """Nothing is admitted, nothing used up; who has no key learns nothing."""
        self.gate.is_shut = True
        self.assertEqual([UNMETERED] * 7, self.outcomes(FREE, 7))
        self.assertEqual([BAD_KEY], self.outcomes("nobody", 1))
        self.gate.is_shut = False
        self.assertEqual([ADMITTED] * 5, self.outcomes(FREE, 5))

    def test_what_other_nodes_have_admitted(self) -> None:
        """Heard before or after the first question here, of this month alone, and never lowered."""
        self.outcomes(FREE, 1)
        self.gate.heard_usage({"freefreefr": ("2026-04", 998)})
        self.gate.heard_usage({"freefreefr": ("2026-04", 7), "nobody": ("2026-04", 3)})
        self.assertEqual([ADMITTED, ADMITTED, QUOTA_EXCEEDED], self.outcomes(FREE, 3))
        gate = Gate(self.ring)
        gate.heard_usage({"freefreefr": ("2026-04", 1000)})
        self.assertEqual(QUOTA_EXCEEDED, gate.admit(FREE.encode(), NOON).outcome)
        gate = Gate(self.ring)
        gate.heard_usage({"freefreefr": ("2026-03", 1000)})
        self.assertEqual(ADMITTED, gate.admit(FREE.encode(), NOON).outcome)
