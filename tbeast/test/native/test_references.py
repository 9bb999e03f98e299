"""What the native parts hold of Python's objects, and that they let go of it."""

from __future__ import annotations

import gc
import socket
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

from attrs import evolve

from tbeast.domain.admission import Standing
from tbeast.domain.keys import Account
from tbeast.domain.leases import LeasedStanding, Line
from tbeast.domain.ratelimits import TokenBucket
from tbeast.domain.sharedbuckets import Contact
from tbeast.domain.sharedshelf import BYTES
from tbeast.test.native.parts import (
    DATE,
    KEY,
    NOW,
    PARTNER,
    SECRET,
    LanesCase,
    NativeCase,
    head,
    open_lanes,
    received,
)

CLASSES = (Standing, TokenBucket, LeasedStanding, Line)


class HeldTests(LanesCase):
    def setUp(self) -> None:
        super().setUp()
        self.put()

    def test_standings_and_ids(self) -> None:
        """A standing is held while its key is known; a key id while anything is counted for it."""
        self.listen()
        standing, key_id = Standing(PARTNER, NOW), "".join(("some", "id"))
        before = sys.getrefcount(standing), sys.getrefcount(key_id)
        self.lanes.learn(KEY, key_id, standing)
        self.assertEqual(before[0] + 1, sys.getrefcount(standing))
        for _ in range(10):
            self.lanes.decide(KEY, NOW)
            self.lanes.learn(KEY, key_id, standing)
        self.assertEqual(before[0] + 1, sys.getrefcount(standing))
        self.ask(self.client(), *[head()] * 50)
        self.lanes.forget(key_id)
        self.assertEqual(before[0], sys.getrefcount(standing))
        self.assertLess(before[1], sys.getrefcount(key_id))
        self.drain()
        self.assertEqual(before, (sys.getrefcount(standing), sys.getrefcount(key_id)))

    def test_one_key_of_two(self) -> None:
        """Who has lost it is let go: the standing at once, the id when what is counted was taken out."""
        first, second, key_id = Standing(PARTNER, NOW), Standing(PARTNER, NOW), "".join(("fi", "rst"))
        before, ids = sys.getrefcount(first), sys.getrefcount(key_id)
        for _ in range(5):
            self.lanes.learn(KEY, key_id, first)
            self.lanes.learn(KEY, "second", second)
        self.assertEqual((before, before + 1), (sys.getrefcount(first), sys.getrefcount(second)))
        self.drain()
        self.assertEqual(ids, sys.getrefcount(key_id))

    def test_fields_of_standings(self) -> None:
        """What the C puts in place of a field's number is held once, and the number before it let go."""
        plan = evolve(PARTNER.plan, qps=1e6, burst=1 << 40, min_wait_seconds=0.5, monthly_quota=1 << 50)
        account, began = evolve(PARTNER, plan=plan), NOW + 0.5
        line = Line("n", "l", 1, began)
        line.heard(Contact(began, "e", 0.0, 1), began)
        for standing in (Standing(account, began), LeasedStanding(account, began, line)):
            self.lanes.learn(KEY, "id", standing)
            for number in range(3_000):
                self.assertIs(tuple, type(self.lanes.decide(KEY, began + number * 1e-6)))
            for owner in (standing, standing._bucket):
                for name in getattr(type(owner), "__slots__", ()):
                    value = getattr(owner, name)
                    if type(value) is float:
                        self.assertLess(sys.getrefcount(value), 100, name)

    def test_refusals(self) -> None:
        """A verdict is the caller's alone."""
        account = evolve(PARTNER, plan=evolve(PARTNER.plan, qps=1.0, burst=1, min_wait_seconds=1.0))
        self.learn(account)
        self.listen()
        self.bind()
        self.lanes.decide(KEY, NOW)
        asker, before = self.asker(), sys.getrefcount(account)
        self.assertEqual(1, sys.getrefcount(self.lanes.decide(KEY, NOW)))
        client = self.client()
        client.sendall(head())
        self.turn_until(lambda: self.left)
        asker.send(KEY + b"|BTC")
        self.turn_until(lambda: self.others)
        self.assertEqual([2, 2], [sys.getrefcount(self.left[0][3]), sys.getrefcount(self.others[0][2])])
        self.close_left()
        self.others.clear()
        self.assertEqual(before, sys.getrefcount(account))

    def test_ended_in_the_middle(self) -> None:
        """Lanes that nobody holds any more let go of everything: keys, counts, connections, memory."""
        memory = bytearray(BYTES)
        standing, classes = Standing(PARTNER, NOW), [sys.getrefcount(one) for one in CLASSES]
        before = sys.getrefcount(standing)
        view = memoryview(memory)
        view[:] = self.memory
        lanes = open_lanes(view)
        port = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(port.close)
        port.setblocking(False)
        lanes.listen(port.fileno())
        lanes.learn(KEY, "id", standing)
        client = socket.create_connection(port.getsockname())
        self.addCleanup(client.close)
        client.settimeout(20.0)
        client.sendall(head())
        while not lanes.figures()["requests"]:
            lanes.turn(NOW, DATE)
        received(client, 1)
        del lanes
        self.assertEqual(b"", client.recv(10))
        self.assertEqual((before, classes), (sys.getrefcount(standing), [sys.getrefcount(one) for one in CLASSES]))
        view.release()
        memory.append(0)  # which it refuses while anybody looks at it


class MemoryTests(LanesCase):
    """Over thousands of rounds nothing grows."""

    ROUNDS = 400

    def grows_not(self, act: Callable[[], object]) -> None:
        def rounds(count: int) -> int:
            for _ in range(count):
                act()
            gc.collect()
            sys._clear_type_cache()  # which keeps names that were looked up
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before = rounds(50)
        grown = rounds(self.ROUNDS) - before
        # less than the smallest object there is, a round
        self.assertLess(grown, 16 * self.ROUNDS)

    def test_answering(self) -> None:
        self.listen()
        self.bind()
        self.put()
        self.learn()
        client, asker = self.client(), self.asker()

        def act() -> None:
            client.sendall(head() * 3)
            asker.send(KEY + b"|BTC|1")
            asker.send(b"nobody|BTC|1")
            self.turn_until(lambda: len(self.others) == 1 and sum(row[5] for row in self.drained()) == 4)
            received(client, 3)
            asker.recv(4_096)
            self.others.clear()
            self.rows.clear()

        self.rows: list[Any] = []
        self.grows_not(act)

    def drained(self) -> list[Any]:
        self.rows += self.drain()
        return self.rows

    def test_leaving(self) -> None:
        self.listen()
        self.learn()

        def act() -> None:
            client = socket.create_connection(self.port.getsockname()[:2])
            client.sendall(head(b"NOPE"))
            self.turn_until(lambda: self.left)
            self.close_left()
            client.close()

        self.grows_not(act)

    def test_deciding(self) -> None:
        account = evolve(PARTNER, plan=evolve(PARTNER.plan, qps=5.0, burst=3, min_wait_seconds=0.1, monthly_quota=100))

        def act(account: Account = account) -> None:
            for key_id in ("first", "second"):
                self.lanes.learn(KEY, key_id, Standing(account, NOW))
                for _ in range(5):
                    self.lanes.decide(KEY, NOW)
            self.lanes.forget("second")
            self.assertRaises(TypeError, self.lanes.decide, KEY, "now")
            self.assertRaises(TypeError, self.lanes.forget, [])

        self.grows_not(act)

    def test_opening(self) -> None:
        def act() -> None:
            lanes = open_lanes(self.memory)
            lanes.learn(KEY, "id", Standing(PARTNER, NOW))
            lanes.decide(KEY, NOW)

        self.grows_not(act)


class OpeningTests(NativeCase):
    def open(self, *, shelf: Any = None, secret: Any = SECRET, classes: Any = CLASSES, more: Any = ()) -> Any:
        return self.module.Lanes(memoryview(bytearray(BYTES)) if shelf is None else shelf, secret, *classes, *more)

    def test_wrong(self) -> None:
        """What is wrong is told, and nothing is kept of the rest."""

        class Slotless:
            pass

        class Computed:
            @property
            def _month_ends_at(self) -> float:
                return 1.0

        cases: list[tuple[dict[str, Any], type[Exception]]] = [
            ({"secret": b"short"}, ValueError), ({"secret": SECRET + b"x"}, ValueError), ({"secret": 7}, TypeError),
            ({"shelf": bytearray(BYTES - 1)}, ValueError), ({"shelf": bytearray(BYTES + 8)}, ValueError),
            ({"shelf": memoryview(bytearray(BYTES + 8))[1 : BYTES + 1]}, ValueError), ({"shelf": 7}, TypeError),
            ({"shelf": memoryview(bytearray(2 * BYTES))[::2]}, BufferError),
            ({"classes": (Slotless, *CLASSES[1:])}, AttributeError), ({"classes": (Computed, *CLASSES[1:])}, TypeError),
            ({"classes": CLASSES[::-1]}, AttributeError), ({"classes": (1, *CLASSES[1:])}, TypeError),
            ({"classes": CLASSES[1:]}, TypeError), ({"more": ("budget",)}, TypeError),
        ]  # fmt: skip
        counts = []
        for _ in range(3):
            for given, error in cases:
                self.assertRaises(error, self.open, **given)
            gc.collect()
            counts.append([sys.getrefcount(one) for one in CLASSES])
        self.assertEqual(counts[1], counts[2])

    def test_memory_that_cannot_be_written(self) -> None:
        """A reader needs no more."""
        self.assertIsNone(self.open(shelf=bytes(BYTES)).decide(KEY, NOW))

    def test_what_cannot_be_made(self) -> None:
        lanes = self.open(more=(0.5, 7.0))
        lanes.learn(KEY, "id", Standing(PARTNER, NOW))
        self.assertRaises(TypeError, type, "Other", (type(lanes),), {})
        self.assertRaises(TypeError, setattr, lanes, "shut", 1)
        self.assertRaises(AttributeError, setattr, lanes, "other", 1)
        self.assertEqual((False, False), (lanes.shut, lanes.parting))
