"""Tests of L{tbeast.domain.adminaccess}."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.adminaccess import (
    ALLOWED,
    CALLS_AT_ONCE,
    GUESSES,
    GUESSES_BACK_SECONDS,
    GUESSES_OF_ALL,
    GUESSING,
    MISSING,
    MOST_GUESSERS,
    SUSPECT_SECONDS,
    TOO_FAST,
    WRONG,
    AdminAccess,
)

KEY = "a-key-of-the-operators"
RIGHT = KEY.encode()
NOON = 1_776_003_781.0


class AccessCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.access = AdminAccess(KEY, NOON)
        self.now = NOON

    def come(self, shown: bytes | None, address: str = "192.0.2.1") -> str:
        return self.access.judge(shown, address, self.now).outcome


class KeyTests(AccessCase):
    def test_the_right_one(self) -> None:
        self.assertEqual(ALLOWED, self.come(RIGHT))

    def test_others(self) -> None:
        for place, shown in enumerate((b"x", RIGHT[:-1], RIGHT + b"x", RIGHT.upper(), b"\xff" * 22)):
            self.assertEqual(WRONG, self.come(shown, f"192.0.2.{place}"))

    def test_none(self) -> None:
        """It is no guess, however often."""
        self.assertEqual({MISSING}, {self.come(shown) for shown in (None, b"") for _ in range(50)})
        self.assertEqual(ALLOWED, self.come(RIGHT))
        self.assertEqual(0, self.access.guessers)


class GuessingTests(AccessCase):
    def guess(self, address: str = "192.0.2.1") -> str:
        return self.come(b"wrong", address)

    def test_an_address_has_a_few_guesses(self) -> None:
        self.assertEqual([WRONG] * GUESSES + [GUESSING] * 3, [self.guess() for _ in range(GUESSES + 3)])
        entry = self.access.judge(b"wrong", "192.0.2.1", self.now)
        self.assertTrue(0.0 < entry.retry_after_seconds <= GUESSES_BACK_SECONDS + 0.001)
        self.now += entry.retry_after_seconds
        self.assertEqual([WRONG, GUESSING], [self.guess(), self.guess()])

    def test_then_the_right_key_is_not_looked_at(self) -> None:
        """Else the answer to it would show that it is right."""
        for _ in range(GUESSES):
            self.guess()
        self.assertEqual(GUESSING, self.come(RIGHT))
        self.now += GUESSES_BACK_SECONDS
        self.assertEqual(ALLOWED, self.come(RIGHT))

    def test_the_right_key_costs_no_guess(self) -> None:
        """Behind one address there may be the operator and somebody who guesses."""
        self.guess()
        self.assertEqual({ALLOWED}, {self.come(RIGHT) for _ in range(20)})
        self.assertEqual([WRONG] * (GUESSES - 1) + [GUESSING], [self.guess() for _ in range(GUESSES)])

    def test_elsewhere_the_right_key_opens(self) -> None:
        """However many guess, and from however many addresses."""
        for address in range(500):
            for _ in range(3):
                self.guess(f"198.51.{address // 250}.{address % 250}")
        self.assertEqual(ALLOWED, self.come(RIGHT))

    def test_all_together_have_few(self) -> None:
        """Beside the first of each address."""
        addresses = [f"198.51.100.{place}" for place in range(200)]
        for address in addresses:
            self.assertEqual(WRONG, self.guess(address))
        self.assertEqual({GUESSING}, {self.guess(address) for address in addresses})
        self.now += 10.0
        seconds = [self.guess(address) for address in addresses]
        self.assertLessEqual(seconds.count(WRONG), 10 + 1)

    def test_who_has_not_guessed_for_long_is_a_stranger_again(self) -> None:
        self.guess()
        self.now += SUSPECT_SECONDS
        for place in range(2 * GUESSES_OF_ALL):
            self.guess(f"198.51.100.{place}")
        self.assertEqual(ALLOWED, self.come(RIGHT))

    def test_until_then_it_waits_with_the_others(self) -> None:
        self.guess()
        self.now += SUSPECT_SECONDS - 1.0
        for place in range(2 * GUESSES_OF_ALL):
            self.guess(f"198.51.100.{place}")
        self.assertEqual(GUESSING, self.come(RIGHT))

    def test_a_network_of_ipv6_is_one_address(self) -> None:
        found = [self.guess(f"2001:db8:1:2::{place:x}") for place in range(1, GUESSES + 2)]
        self.assertEqual([WRONG] * GUESSES + [GUESSING], found)
        self.assertEqual(WRONG, self.guess("2001:db8:1:3::1"))
        self.assertEqual(2, self.access.guessers)

    def test_memory_is_bounded(self) -> None:
        for place in range(MOST_GUESSERS + 300):
            self.guess(f"10.{place >> 16}.{place >> 8 & 255}.{place & 255}")
        self.assertEqual(MOST_GUESSERS, self.access.guessers)

    def test_who_guesses_on_is_not_forgotten(self) -> None:
        for _ in range(GUESSES):
            self.guess()
        for place in range(MOST_GUESSERS - 1):
            self.guess(f"10.{place >> 16}.{place >> 8 & 255}.{place & 255}")
        self.assertEqual(GUESSING, self.guess())

    def test_the_one_that_was_quiet_for_longest_is(self) -> None:
        for _ in range(GUESSES - 1):
            self.guess()
        for place in range(MOST_GUESSERS - 1):
            self.guess(f"10.{place >> 16}.{place >> 8 & 255}.{place & 255}")
        self.now += GUESSES_OF_ALL  # so that there are guesses for all again, and some for this one
        found = [self.guess() for _ in range(GUESSES)]
        self.assertEqual((WRONG, GUESSING), (found[0], found[-1]))
        self.guess("198.51.100.1")
        self.assertEqual(GUESSING, self.guess())

    def test_an_address_that_is_none(self) -> None:
        self.assertEqual([WRONG] * GUESSES + [GUESSING], [self.guess("unknown") for _ in range(GUESSES + 1)])

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 5.0)), max_size=200))
    def test_an_address_never_has_more_than_its_rate(self, steps: list[tuple[int, float]]) -> None:
        access, now = AdminAccess(KEY, NOON), NOON
        looked_at = dict.fromkeys(range(4), 0)
        for place, seconds in steps:
            now += seconds
            looked_at[place] += access.judge(b"wrong", f"192.0.2.{place}", now).outcome == WRONG
        most = GUESSES + (now - NOON) / GUESSES_BACK_SECONDS + 0.01
        self.assertTrue(all(count <= most for count in looked_at.values()))


class CallsTests(AccessCase):
    def test_the_right_key_has_a_rate(self) -> None:
        found = [self.come(RIGHT, f"192.0.2.{place}") for place in range(CALLS_AT_ONCE + 2)]
        self.assertEqual([ALLOWED] * CALLS_AT_ONCE + [TOO_FAST] * 2, found)
        self.now += 0.1
        self.assertEqual([ALLOWED, ALLOWED, TOO_FAST], [self.come(RIGHT) for _ in range(3)])

    def test_guesses_do_not_use_it_up(self) -> None:
        for place in range(100):
            self.come(b"wrong", f"198.51.100.{place}")
        self.assertEqual({ALLOWED}, {self.come(RIGHT) for _ in range(CALLS_AT_ONCE)})
