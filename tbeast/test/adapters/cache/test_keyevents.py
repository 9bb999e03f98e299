"""Tests of L{tbeast.adapters.cache.keyevents}."""

from __future__ import annotations

from tbeast.adapters.cache.keyevents import ValkeyKeyEvents
from tbeast.test.adapters.cache.clients import SharedServerCase, until
from tbeast.testing.contracts import KeyEventsContract


class ValkeyKeyEventsTests(SharedServerCase, KeyEventsContract):
    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.events = ValkeyKeyEvents(self.valkey)

    async def test_nodes_hear_one_another(self) -> None:
        other = self.client(self.server.url)
        told: list[object] = []
        ValkeyKeyEvents(other).subscribe(told.append, lambda: None, lambda: told.append("regained"))
        await other.start()  # who subscribed before the start hears as well
        await until(lambda: told)
        await self.events.publish(b"from afar")
        await until(lambda: len(told) == 2)
        self.assertEqual(told, ["regained", b"from afar"])

    async def test_other_channels_are_not_heard(self) -> None:
        told = self.listen()
        await until(lambda: told)
        self.server.command("PUBLISH", "elsewhere", "1")
        self.server.command("PUBLISH", "tbeast:keys", "2")
        await until(lambda: len(told) == 2)
        self.assertEqual(told, ["regained", b"2"])

    async def test_a_subscription_alone_that_dies_is_renewed(self) -> None:
        told = self.listen()
        await until(lambda: told)
        self.server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: told == ["regained", "lost", "regained"])
        self.assertTrue(self.valkey.status.up)
        self.assertEqual(self.valkey.counts["losses"], 0)

    async def test_nothing_is_heard_after_the_stop(self) -> None:
        told = self.listen()
        await until(lambda: told)
        await self.valkey.stop()
        self.assertEqual(self.server.command("PUBLISH", "tbeast:keys", "1"), 0)
        self.assertEqual(told, ["regained"])
        await self.valkey.start()
        await until(lambda: len(told) == 2)
        self.server.command("PUBLISH", "tbeast:keys", "2")
        await until(lambda: len(told) == 3)
        self.assertEqual(told, ["regained", "regained", b"2"])
