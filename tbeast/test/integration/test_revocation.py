"""A key that is revoked is refused on every node within five seconds, whatever else is broken.

Three nodes' keyrings in one process, each with connections of its own to one real PostgreSQL and one real Valkey.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tbeast.adapters.cache.keycopies import ValkeyKeyCopies
from tbeast.adapters.cache.keyevents import ValkeyKeyEvents
from tbeast.adapters.cache.publishonce import publish_once
from tbeast.adapters.cache.valkey import ValkeyClient
from tbeast.adapters.cache.valkeytarget import target as valkey_target
from tbeast.adapters.store.keyrows import PostgresKeys
from tbeast.adapters.store.postgres import target
from tbeast.adapters.store.threads import StorePool
from tbeast.commands import keys
from tbeast.domain.admission import ADMITTED
from tbeast.domain.counters import Counters
from tbeast.domain.keys import digest_of
from tbeast.servers.gate import Gate
from tbeast.services.keyrefresh import CACHE, STORE, KeyRefresh
from tbeast.services.keyring import Keyring
from tbeast.settings import SETTINGS
from tbeast.testing import postgres, valkey
from tbeast.testing.logs import listen

WITHIN_SECONDS = 5.0

real_reactor: Any = reactor


class Node:
    """One node, as far as keys are concerned.

    @ivar ahead_seconds: how much its clock is ahead.
    """

    def __init__(self, database: str, cache: str) -> None:
        self.ahead_seconds = 0.0
        self.ring = Keyring()
        self.gate = Gate(self.ring)
        self.pool = StorePool(target(database), real_reactor, size=2)
        self.cache = ValkeyClient(valkey_target(cache), real_reactor, time.time, random.random)
        self.refresh = KeyRefresh(
            self.ring, PostgresKeys(self.pool, os.urandom), real_reactor, self.now, random.random, Counters(),
            ValkeyKeyCopies(self.cache), ValkeyKeyEvents(self.cache),
        )  # fmt: skip

    async def start(self) -> None:
        self.pool.start()
        await self.cache.start()
        await self.refresh.startService()

    async def stop(self) -> None:
        await self.refresh.stopService()
        await self.cache.stop()
        await self.pool.stop()

    def now(self) -> float:
        return time.time() + self.ahead_seconds

    def admits(self, key: str) -> bool:
        """Whether the gate admits a question with this key."""
        return self.gate.admit(key.encode(), time.time()).outcome == ADMITTED


class Case(TestCase):
    """Three nodes."""

    timeout = 120

    def database(self) -> str:
        """Make one; give its URL."""
        return postgres.fresh_database(self)

    async def setUp(self) -> None:  # type: ignore[override]
        self.log = listen(self)
        self.database_url = self.database()
        self.valkey = valkey.Server().start()
        self.addCleanup(self.valkey.stop)
        self.environment: dict[str, str | None] = {
            **dict.fromkeys(SETTINGS), "AURORA_URL": self.database_url, "CACHE_URL": self.valkey.url,
            "TBEAST_STATE": str(Path(self.mktemp()).absolute()),
        }  # fmt: skip
        self.nodes: list[Node] = []
        for _ in range(3):
            await self.node()

    async def node(self) -> Node:
        node = Node(self.database_url, self.valkey.url)
        self.addCleanup(node.stop)
        self.nodes.append(node)
        await node.start()
        return node

    async def command(self, *arguments: str) -> dict[str, Any]:
        """Run C{tbeast keys}, as an operator would."""
        result = await deferToThread(
            lambda: CliRunner().invoke(keys.command, [*arguments, "--json"], env=self.environment)
        )
        self.assertEqual(0, result.exit_code, result.output)
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    async def until(self, true: Callable[[], bool], within_seconds: float = 30.0) -> None:
        """Wait for it, no longer than that."""
        end = real_reactor.seconds() + within_seconds
        while not true():
            if real_reactor.seconds() > end:
                self.fail(f"not within {within_seconds:g} s")
            await deferLater(real_reactor, 0.01)

    async def new_key(self) -> dict[str, Any]:
        """A key that every node takes."""
        made = await self.command("create", "--name", "desk", "--tier", "partner")
        await self.until(lambda: all(node.admits(made["key"]) for node in self.nodes), WITHIN_SECONDS)
        return made

    async def refused_everywhere(self, key: str) -> None:
        """Within five seconds from now."""
        await self.until(lambda: not any(node.admits(key) for node in self.nodes), WITHIN_SECONDS)

    async def never_back(self, key: str) -> None:
        """Mend everything, and let every node hear from the database again; all the while nobody takes the key."""
        await self.mend()
        other = await self.command("create", "--name", "another")
        taken: list[int] = []

        def heard() -> bool:
            taken.extend(place for place, node in enumerate(self.nodes) if node.admits(key))
            return all(node.admits(other["key"]) for node in self.nodes)

        await self.until(heard)
        self.assertEqual([], taken)

    async def mend(self) -> None:
        """Start again what was killed."""
        self.valkey.start()

    def ends(self, node: Node, key: str) -> bool:
        """Whether a node knows when the key ends."""
        record = node.ring.record_of(digest_of(key.encode()))
        return record is not None and record.ends_at is not None

    def copy_of(self, key: str) -> bytes:
        """What lies in the cache for a key."""
        copy = self.valkey.command("GET", f"apikey:{digest_of(key.encode()).hex()}")
        return copy if isinstance(copy, bytes) else b""


class RevocationTests(Case):
    """The database is there."""

    async def test_all_is_well(self) -> None:
        made = await self.new_key()
        await self.command("revoke", made["id"])
        await self.refused_everywhere(made["key"])
        self.assertNotEqual([], self.log.having("was revoked: word of it came"))
        await self.never_back(made["key"])

    async def test_valkey_is_gone(self) -> None:
        made = await self.new_key()
        self.valkey.kill()
        await self.command("revoke", made["id"])
        await self.refused_everywhere(made["key"])
        await self.never_back(made["key"])

    async def test_valkey_hangs(self) -> None:
        made = await self.new_key()
        self.valkey.hang()
        await self.command("revoke", made["id"])
        await self.refused_everywhere(made["key"])
        self.valkey.resume()
        await self.never_back(made["key"])


class WithoutDatabaseTests(Case):
    """With a PostgreSQL of its own, which breaks."""

    def database(self) -> str:
        self.server = postgres.own_server(self)
        return self.server.url()

    async def mend(self) -> None:
        await super().mend()
        if not self.server.running:
            await deferToThread(self.server.start)

    async def test_postgresql_is_gone_after_the_commit(self) -> None:
        """Also for a node that starts then, and has nothing but the copies."""
        made, other = await self.new_key(), await self.new_key()
        await self.until(lambda: b"datagram_secret" in self.copy_of(other["key"]))
        self.before_it_is_told(self.server.kill)
        await self.command("revoke", made["id"])
        await self.refused_everywhere(made["key"])
        for node in self.nodes[:]:
            await self.until(lambda node=node: node.refresh.status.why != "")  # type: ignore[misc]
        await self.until(lambda: b"revoked" in self.copy_of(made["key"]))
        late = await self.node()
        self.assertEqual((CACHE, True, False), (
            late.refresh.status.source, late.admits(other["key"]), late.admits(made["key"])))  # fmt: skip
        await self.never_back(made["key"])
        await self.until(lambda: late.refresh.status.source == STORE)

    async def test_postgresql_hangs_after_the_commit(self) -> None:
        made = await self.new_key()
        self.before_it_is_told(self.server.hang)
        await self.command("revoke", made["id"])
        await self.refused_everywhere(made["key"])
        self.server.resume()
        await self.never_back(made["key"])

    async def test_rotated(self) -> None:
        """Both work for the time of grace; then the old one is out, with nobody's doing and the database away."""
        made = await self.new_key()
        new = await self.command("rotate", made["id"], "--grace", "1h")
        await self.until(lambda: all(node.admits(new["key"]) for node in self.nodes), 3.0)
        self.assertEqual([True] * 3, [node.admits(made["key"]) for node in self.nodes])
        await self.until(lambda: all(self.ends(node, made["key"]) for node in self.nodes))
        self.server.kill()
        self.valkey.kill()
        for node in self.nodes:
            node.ahead_seconds = 3600.0
        await self.refused_everywhere(made["key"])
        self.assertEqual([True] * 3, [node.admits(new["key"]) for node in self.nodes])
        await self.never_back(made["key"])

    def before_it_is_told(self, what: Callable[[], None]) -> None:
        """Do something between a command's commit and its word to the nodes, once."""
        done: list[bool] = []

        def first(*arguments: Any) -> int:
            if not done:
                done.append(True)
                what()
            return publish_once(*arguments)

        self.patch(keys, "publish_once", first)
