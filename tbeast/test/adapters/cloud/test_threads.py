"""Tests of L{tbeast.adapters.cloud.threads}."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tbeast.adapters.cloud.threads import CallThreads
from tbeast.errors import StoreUnavailableError


class CallThreadsTests(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.threads = CallThreads("aws", reactor, 3)
        self.addCleanup(self.threads.stop)

    async def test_what_a_call_gives_comes_back_on_the_reactors_thread(self) -> None:
        where: list[threading.Thread] = []

        def call() -> int:
            where.append(threading.current_thread())
            return 7

        told = self.threads.run(call)
        told.addCallback(lambda result: (result, threading.current_thread()))
        self.assertEqual(await told, (7, threading.current_thread()))
        self.assertTrue(where[0].name.startswith("aws-"))
        self.assertTrue(where[0].daemon)

    async def test_what_it_raises_comes_back_too(self) -> None:
        for error in (ValueError("no"), SystemExit(3), KeyboardInterrupt()):

            def call(error: BaseException = error) -> None:
                raise error

            self.assertIs(await self.assertFailure(self.threads.run(call), type(error)), error)
        self.assertEqual(await self.threads.run(lambda: 1), 1)

    async def test_several_at_a_time_and_no_more(self) -> None:
        gate = threading.Semaphore(0)
        began: list[str] = []

        def call() -> str:
            began.append(threading.current_thread().name)
            gate.acquire()
            return began[-1]

        calls = [self.threads.run(call) for _ in range(5)]
        while len(began) < 3:
            await deferToThread(lambda: None)
        self.assertEqual(len(set(began)), 3)
        for _ in calls:
            gate.release()
        await gatherResults(calls)
        self.assertEqual(len(began), 5)
        self.assertEqual(len(set(began)), 3)

    async def test_no_thread_without_need(self) -> None:
        names = {await self.threads.run(lambda: threading.current_thread().name) for _ in range(5)}
        self.assertEqual(names, {"aws-1"})

    async def test_the_stop_waits_for_what_was_taken(self) -> None:
        gate = threading.Event()
        calls: list[Deferred[Any]] = [self.threads.run(gate.wait) for _ in range(5)]
        stopped = [self.threads.stop(), self.threads.stop()]
        await self.assertFailure(self.threads.run(lambda: 1), StoreUnavailableError)
        self.assertFalse(any(one.called for one in stopped))
        gate.set()
        for one in stopped:
            await one
        self.assertTrue(all(call.called for call in calls))
        await self.threads.stop()

    async def test_its_threads_end(self) -> None:
        thread = await self.threads.run(threading.current_thread)
        await self.threads.stop()
        await deferToThread(thread.join)
        self.assertFalse(thread.is_alive())
