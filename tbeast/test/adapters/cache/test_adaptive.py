"""The list of the connection governors in Valkey, and its twin."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.trial.unittest import TestCase

from tbeast.adapters.cache.adaptive import (
    MOST_NODES,
    NODES,
    NODES_KEPT_SECONDS,
    SUCCESSES,
    TALLY_KEPT_SECONDS,
    THROTTLE,
    TOTAL,
    MemoryAdaptive,
    ValkeyAdaptive,
)
from tbeast.codecs.adaptivewords import encode
from tbeast.domain.governor import Tally
from tbeast.errors import CacheUnavailableError
from tbeast.test.adapters.cache.clients import SharedServerCase
from tbeast.testing.adaptivecontract import REPORT, NodeListContract


class MemoryAdaptiveTests(NodeListContract, TestCase):
    def setUp(self) -> None:
        self.nodes = self.memory = MemoryAdaptive()

    def tally(self) -> Tally:
        return self.memory.tally


class ValkeyAdaptiveTests(NodeListContract, SharedServerCase):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.nodes = ValkeyAdaptive(self.valkey)

    def tally(self) -> Tally:
        texts: list[Any] = [self.server.command("GET", key) for key in (SUCCESSES, TOTAL, THROTTLE)]
        return Tally(*(int(text or 0) for text in texts))

    async def test_keys(self) -> None:
        """They are named as the whole house knows them, and are forgotten some day."""
        await self.say(REPORT, tally=Tally(1, 2, 1))
        keys: Any = self.server.command("KEYS", "*")
        names = (b"nodes", b"successes", b"throttle", b"total")
        self.assertEqual([b"{adaptive:lpo}:" + name for name in names], sorted(keys))
        self.assertEqual(
            [NODES_KEPT_SECONDS, TALLY_KEPT_SECONDS, TALLY_KEPT_SECONDS],
            [self.server.command("TTL", key) for key in (NODES, TOTAL, THROTTLE)],
        )

    async def test_nothing_counted(self) -> None:
        """Nothing is written for it."""
        await self.say(REPORT)
        self.assertEqual([NODES.encode()], self.server.command("KEYS", "*"))

    async def test_what_is_no_report(self) -> None:
        """It goes out, whoever wrote it, and stops nobody."""
        texts = {
            "text": b"nonsense", "number": b"7", "other": b'{"node":"other"}', "typed": b'{"life":1,"sequence":"x"}',
            "long": encode(evolve(REPORT, node="long")) + b" " * 2_000, "a": b"[",
        }  # fmt: skip
        for node, text in texts.items():
            self.server.command("HSET", NODES, node, text)
        self.assertEqual([REPORT], await self.say(REPORT))
        self.assertEqual(1, self.server.command("HLEN", NODES))

    async def test_what_cannot_be(self) -> None:
        """A report with numbers that cannot be stays, but is not given out."""
        for node, changed in (("b", b'"health":7.5'), ("c", b'"health":0.95')):
            text = encode(evolve(REPORT, node="b")).replace(b'"health":0.95', changed)
            self.server.command("HSET", NODES, node, text)
        self.assertEqual([REPORT], await self.say(REPORT))

    async def test_types(self) -> None:
        """What is of another type makes room."""
        self.server.command("SET", NODES, "nonsense")
        self.server.command("RPUSH", TOTAL, "nonsense")
        self.server.command("SET", THROTTLE, "nonsense")
        self.assertEqual([REPORT], await self.say(REPORT, tally=Tally(1, 3, 2)))
        self.assertEqual(Tally(1, 3, 2), self.tally())

    async def test_names_without_end(self) -> None:
        """A list that is far too long begins anew."""
        text = encode(evolve(REPORT, node="b"))
        self.server.command("HSET", NODES, *(word for number in range(MOST_NODES) for word in (f"n{number}", text)))
        self.assertEqual([REPORT], await self.say(REPORT))
        self.assertEqual(1, self.server.command("HLEN", NODES))

    async def test_leaving_what_is_no_report(self) -> None:
        self.server.command("HSET", NODES, "a", "nonsense")
        await self.nodes.leave("a", "first")
        self.assertEqual(0, self.server.command("EXISTS", NODES))
        self.server.command("SET", NODES, "nonsense")
        await self.nodes.leave("a", "first")

    async def test_gone(self) -> None:
        await self.cut()
        for asking in (self.nodes.exchange(REPORT, (), Tally()), self.nodes.leave("a", "first")):
            try:
                await asking
            except CacheUnavailableError:
                continue
            self.fail("it was answered")
        await self.mend()
        self.assertEqual([REPORT], await self.say(REPORT))
