"""Tests of L{tbeast.adapters.cache.valkeytarget}."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.cache.valkeytarget import Target, endpoint, target, trust_root
from tbeast.errors import SettingsError
from tbeast.test.adapters.feeds.certificates import Authority


class TargetTests(SynchronousTestCase):
    def test_what_is_understood(self) -> None:
        for url, expected in {
            "cache": Target("cache"),
            "cache.internal:7000": Target("cache.internal", 7000),
            "127.0.0.1:6379": Target("127.0.0.1"),
            "[::1]:7000": Target("::1", 7000),
            "redis://cache": Target("cache"),
            "redis://cache:7000/3": Target("cache", 7000, database=3),
            "redis://cache/": Target("cache"),
            "redis://:pw@cache": Target("cache", password="pw"),
            "redis://us%40er:p%2Fw%3a@cache:1": Target("cache", 1, username="us@er", password="p/w:"),
            "rediss://user:pw@cache": Target("cache", tls=True, username="user", password="pw"),
            "rediss://[2001:db8::1]:7000/0": Target("2001:db8::1", 7000, True),
            "unix:///run/valkey.sock": Target(path="/run/valkey.sock"),
        }.items():
            self.assertEqual(target(url), expected, url)

    def test_what_is_not(self) -> None:
        for url in (
            "", "redis://", "http://cache", "redis://cache:0", "redis://cache:70000", "redis://:pw@cache:x", "cache:pw",
            "redis://cache/x", "redis://cache/-1", "redis://cache?db=1", "redis://cache#1", "redis://:pw@",
            "unix://run/x", "unix://", "redis://pw@cache", "redis://pw:@cache", "rediss://my_cache", "rediss://a..b",
        ):  # fmt: skip
            with self.assertRaises(SettingsError) as raised:
                target(url)
            self.assertIn("CACHE_URL: ", str(raised.exception), url)
            self.assertNotIn("pw", str(raised.exception), url)

    def test_a_password_is_not_shown(self) -> None:
        shown = target("rediss://user:hunter2@cache:7000/1")
        self.assertEqual(str(shown), "cache:7000 (TLS)")
        self.assertNotIn("hunter2", repr(shown))
        self.assertEqual((str(target("[::1]")), str(target("unix:///a"))), ("[::1]:6379", "/a"))


class EndpointTests(SynchronousTestCase):
    def test_plain_and_tls_and_socket(self) -> None:
        reactor = MemoryReactorClock()
        self.assertIsInstance(endpoint(target("cache"), reactor, 3), HostnameEndpoint)
        self.assertIsInstance(endpoint(target("unix:///a"), reactor, 3), UNIXClientEndpoint)
        self.assertNotIsInstance(endpoint(target("rediss://cache"), reactor, 3), HostnameEndpoint)

    def test_authorities_from_a_file(self) -> None:
        pems = [
            Authority().server("cache").original.to_cryptography().public_bytes(serialization.Encoding.PEM)
            for _ in range(2)
        ]
        self.assertIsNotNone(trust_root(b"words\n" + b"\n".join(pems)))
        with self.assertRaisesRegex(ValueError, "no certificate"):
            trust_root(b"words")
