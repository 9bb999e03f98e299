"""Whose a question is."""

from __future__ import annotations

import base64
import hashlib
import hmac

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.problems import Problem
from tbeast.codecs.signatures import MAC_LENGTH, VALID_MS, SpentMacs, is_genuine, key_of_headers, mac_of

NOON = 1_776_003_781.0
NOON_MS = 1_776_003_781_000


class HeaderTests(SynchronousTestCase):
    def test_keys(self) -> None:
        for authorization, api_key in (
            ([b"Bearer k"], None), ([b"bEARER   k  "], None), (None, [b"k"]), ([b"Bearer k"], [b" k "]),
            ([b"Basic eA=="], [b"k"]), ([b"Bearer"], [b"k"]), ([b""], [b"k"]), ([b"Bearer k"], [b""]),
        ):  # fmt: skip
            self.assertEqual(b"k", key_of_headers(authorization, api_key), (authorization, api_key))

    def test_refused(self) -> None:
        for authorization, api_key, code in (
            (None, None, "missing_key"), ([b""], [b""], "missing_key"), ([b"Basic eA=="], None, "missing_key"),
            ([b"Bearerk"], None, "missing_key"), ([b"Bearer a"], [b"b"], "bad_key"),
            ([b"Bearer k", b"Bearer k"], None, "malformed_authorization"),
            (None, [b"k", b"k"], "malformed_authorization"),
        ):  # fmt: skip
            problem = key_of_headers(authorization, api_key)
            self.assertEqual(code, problem.code if isinstance(problem, Problem) else problem)


class MacTests(SynchronousTestCase):
    def test_mac(self) -> None:
        """As anybody would compute it from the description."""
        secret, text = b"s" * 32, b"~1|id|1776003781000|BTC|7"
        whole = hmac.new(secret, text, hashlib.sha256).digest()
        mac = mac_of(secret, text)
        self.assertEqual(whole[:16], base64.urlsafe_b64decode(mac + b"=="))
        self.assertEqual(MAC_LENGTH, len(mac))

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=40), st.binary(max_size=40), st.integers(0, MAC_LENGTH - 1), st.integers(1, 255))
    def test_genuine(self, secret: bytes, text: bytes, place: int, change: int) -> None:
        """It is, and with any one byte changed it is not."""
        mac = mac_of(secret, text)
        self.assertTrue(is_genuine(secret, text, mac))
        changed = mac[:place] + bytes([mac[place] ^ change]) + mac[place + 1 :]
        self.assertFalse(is_genuine(secret, text, changed))
        self.assertFalse(is_genuine(secret + b"x", text, mac))
        self.assertFalse(is_genuine(secret, text + b"x", mac))
        self.assertFalse(is_genuine(secret, text, mac + b"=="))


class SpentMacsTests(SynchronousTestCase):
    def test_timely(self) -> None:
        spent = SpentMacs()
        for off, is_timely in (
            (0, True),
            (VALID_MS, True),
            (-VALID_MS, True),
            (VALID_MS + 1, False),
            (-VALID_MS - 1, False),
        ):
            self.assertEqual(is_timely, spent.is_timely(NOON_MS + off, NOON), off)

    def test_remembers_as_long_as_it_is_good(self) -> None:
        spent = SpentMacs()
        for off in (-VALID_MS, 0, VALID_MS):
            self.assertTrue(spent.is_timely(NOON_MS + off, NOON))
            spent.remember(NOON_MS + off, b"mac%d" % off)
        for later in (0.0, 10.0, 29.9, 30.0, 45.0, 60.0):
            for off in (-VALID_MS, 0, VALID_MS):
                if spent.is_timely(NOON_MS + off, NOON + later):
                    self.assertTrue(spent.is_spent(NOON_MS + off, b"mac%d" % off), (later, off))
                    self.assertFalse(spent.is_spent(NOON_MS + off, b"other"))

    def test_forgets(self) -> None:
        """Over an hour of ten a second it holds no more than what may still come again, and a little."""
        spent = SpentMacs()
        most = 0
        for tenth in range(36_000):
            now = NOON + tenth / 10
            at_ms = round(now * 1000)
            self.assertTrue(spent.is_timely(at_ms, now))
            spent.remember(at_ms, b"%d" % tenth)
            most = max(most, len(spent))
        self.assertLess(most, 1000)

    def test_full(self) -> None:
        spent = SpentMacs(capacity=2)
        spent.is_timely(NOON_MS, NOON)
        for mac in (b"a", b"b", b"b"):
            self.assertFalse(spent.is_full and mac == b"a")
            spent.remember(NOON_MS, mac)
        self.assertTrue(spent.is_full)
        self.assertTrue(spent.is_timely(NOON_MS + 100_000, NOON + 100.0))
        self.assertFalse(spent.is_full)
        self.assertEqual(0, len(spent))

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.floats(0.0, 20.0), st.integers(-35_000, 35_000), st.integers(0, 4)), max_size=60))
    def test_each_once(self, steps: list[tuple[float, int, int]]) -> None:
        """No mac is taken twice, however time goes on; a mac has one time, which it proves."""
        spent, now = SpentMacs(), NOON
        taken: set[tuple[int, bytes]] = set()
        for step, off, name in steps:
            now += step
            at_ms = round(now * 1000) + off
            for again in [(at_ms, b"%d|%d" % (at_ms, name)), *taken]:
                if spent.is_timely(again[0], now) and not spent.is_spent(*again):
                    self.assertNotIn(again, taken)
                    spent.remember(*again)
                    taken.add(again)
                    break
