"""A hub and its workers, when something comes at the wrong moment: a signal, a start that fails, a stop."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from twisted.internet.defer import Deferred

from tbeast.domain.keys import key_id_of
from tbeast.services.workers import FIRST_DELAY_SECONDS
from tbeast.test.integration.accounts import Asking
from tbeast.test.integration.daemons import sleep
from tbeast.test.integration.test_workers import WorkersCase, is_there, real_reactor
from tbeast.test.services import test_workers as rigged
from tbeast.testing.logs import listen


class SignalTests(WorkersCase):
    async def test_what_is_meant_for_the_daemon(self) -> None:
        """Ends no worker, breaks no connection and loses no count when all of the daemon's processes are sent it."""
        daemon = await self.two()
        before = self.pids(daemon)
        clients = self.clients(daemon, 6)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            for pid in before:
                os.kill(pid, number)
            await sleep(0.3)
        answered = await self.stopped(clients)
        self.assertEqual(before, self.pids(daemon))
        self.assertEqual(0, sum(client.broken for client in clients))
        await self.all_recorded(answered)


class StartTests(WorkersCase):
    async def test_one_that_cannot_be_run_at_once(self) -> None:
        """Is tried again: for want of descriptors or memory a process may not be had for a while."""
        daemon = await self.two()
        spawn: Any = real_reactor.spawnProcess
        tried: list[int] = []

        def refuse(*args: Any, **named: Any) -> Any:
            tried.append(1)
            if len(tried) < 3:
                raise OSError(11, "Resource temporarily unavailable")
            return spawn(*args, **named)

        self.patch(real_reactor, "spawnProcess", refuse)
        os.kill(self.pids(daemon)[0], signal.SIGKILL)
        await self.until(lambda: len(tried) == 3, 20, "it is tried until it works")
        await self.until(lambda: self.serving(daemon) == 2, 20, "another one serves")

    async def test_a_stop_while_one_begins(self) -> None:
        """It ends by itself; nobody has to wait until it is killed."""
        lines = listen(self)
        daemon: Any = await self.two()
        before = self.pids(daemon)
        os.kill(before[0], signal.SIGKILL)
        await self.until(lambda: len(set(self.pids(daemon)) - set(before)) == 1, 20, "another one begins")
        begun = self.pids(daemon)
        self.assertEqual(1, self.serving(daemon))
        await daemon.end()
        self.assertEqual([], lines.having("does not end"))
        self.assertEqual([], lines.having("cannot begin"))
        self.assertEqual([], [pid for pid in begun if is_there(pid)])


class PageTests(WorkersCase):
    async def test_an_asset_without_a_name(self) -> None:
        """Is asked for like any other: whoever has no key learns nothing, and whoever has one is told and has paid."""
        daemon = await self.two()
        before = daemon.count("requests", "lpo", "http")
        self.assertEqual(401, (await daemon.get("/explain/", "tb_nobody"))[0])
        status, problem = await daemon.get("/explain/", self.key_text)
        self.assertEqual((400, "malformed_asset"), (status, problem["code"]))
        self.assertEqual(404, (await daemon.get("/explain", self.key_text))[0])
        await self.until(lambda: daemon.count("requests", "lpo", "http") >= before + 3, 10, "they are counted")
        await self.until(lambda: self.refused(key_id_of(self.key_text)) == {400}, 10, "and recorded")

    def refused(self, key_id: str) -> set[int]:
        found = self.sql("SELECT DISTINCT status FROM usage_logs WHERE key_id = %s AND status >= 400", key_id)
        return {row[0] for row in found} - {404}


class AskingTheHub(Asking):
    """Asks what a worker cannot answer itself."""

    def _ask(self) -> None:
        assert self.transport is not None
        for _ in range(10):
            self.asked += 1
            question = {"api_key": self._key, "asset": "BTC", "exchange": "kraken", "id": self.asked}
            self.transport.write(json.dumps(question).encode(), None)


class RelayedTests(WorkersCase):
    async def test_datagrams_under_way(self) -> None:
        """Are answered before their worker goes, though no connection keeps it."""
        daemon = await self.two()
        asking = [AskingTheHub(daemon.settings.udp_port_lpo, self.key_text).start() for _ in range(4)]
        before = set(self.pids(daemon))
        os.kill(os.getpid(), signal.SIGUSR2)
        await self.until(lambda: not before & set(self.pids(daemon)), 40, "both were replaced")
        await sleep(0.5)
        answered = sum([await each.stop() for each in asking])
        self.assertEqual(sum(each.asked for each in asking), answered)
        await self.all_recorded(answered)


class RollTests(rigged.WorkersCase):
    def setUp(self) -> None:
        super().setUp()
        self.serve()

    def roll(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.workers.roll())

    def passes(self, first: int) -> None:
        """Both places are given to the next two."""
        for old, new in ((first, first + 2), (first + 1, first + 3)):
            self.processes[new].comes_up(self.clock)
            self.processes[old].ends()

    def test_asked_for_in_the_middle(self) -> None:
        """All are replaced once more: what was asked for may be newer than those that were replaced already."""
        rolled = self.roll()
        self.processes[2].comes_up(self.clock)
        self.successResultOf(self.roll())
        self.successResultOf(self.roll())
        self.processes[0].ends()
        self.processes[3].comes_up(self.clock)
        self.processes[1].ends()
        self.assertNoResult(rolled)
        self.passes(2)
        self.successResultOf(rolled)
        self.assertEqual([1004, 1005], self.workers.pids())
        self.assertEqual(2, len(self.lines.having("the workers are replaced")))

    def test_no_two_are_one_node(self) -> None:
        """Not even when one dies while its predecessor still has connections."""
        self.roll()
        self.processes[2].comes_up(self.clock)  # the first has its connections yet
        for _ in range(4):
            self.processes[-1].ends(1)
            self.clock.advance(FIRST_DELAY_SECONDS * 4)
            self.beat(self.processes[1])
            there = [process for process in self.processes if not process.is_gone]
            self.assertEqual(3, len(there))
            self.assertEqual(3, len({process.protocol.desk.name for process in there}))

    def test_one_that_cannot_be_run(self) -> None:
        """Leaves its place to the next try."""
        self.refuse = OSError(24, "Too many open files")
        self.processes[0].ends(1)
        self.clock.advance(0)
        self.assertEqual(1, len(self.lines.having("Too many open files")))
        self.refuse = None
        self.clock.advance(FIRST_DELAY_SECONDS)
        self.processes[2].comes_up(self.clock)
        self.assertEqual(2, self.workers.serving)
