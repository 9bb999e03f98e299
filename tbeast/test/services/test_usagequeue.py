"""Tests of L{tbeast.services.usagequeue}: with a queue and a store in memory, on a clock."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.usageenvelopes import Delivery, encode
from tbeast.domain.usage import Batch, Kind, Row
from tbeast.errors import MigrationError, StoreRefusedError, StoreUnavailableError
from tbeast.interfaces import RefusedRow, Written
from tbeast.services.usagequeue import (
    FIRST_RETRY_SECONDS,
    HIDDEN_SECONDS,
    LONGEST_RETRY_SECONDS,
    MOST_MESSAGES,
    OUTCOMES,
    PAUSE_SECONDS,
    WAIT_SECONDS,
    UsageQueueReader,
)
from tbeast.testing.logs import listen

KIND = Kind("a1b2c3d4e5", "lpo", "http", "BTC", "median", "shelf", 200, True)


def a_batch(number: int, rows: int = 2) -> Batch:
    made = tuple(Row(KIND, 1790000000.0, number + place + 1, 1, 1) for place in range(rows))
    return Batch(f"{number:024x}", "n1", made)


@define
class Lying:
    """A message on the queue."""

    message_id: str
    body: str
    visible_at: float = 0.0
    times: int = 0
    receipts: list[str] = field(factory=list)


class MemoryQueue:
    """A queue as SQS is one: messages that were handed out are hidden for a time, and deleted by their receipts.

    @ivar away: why it cannot be asked, C{None} while it can.
    @ivar undeletable: how many of the next deletes will not be done.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.lying: dict[str, Lying] = {}
        self.away: str | None = None
        self.undeletable = 0
        self.waiting: list[tuple[Deferred[Any], int, int]] = []
        self.calls: list[str] = []
        self._number = 0

    def put(self, *bodies: str) -> None:
        for body in bodies:
            self._number += 1
            self.lying[f"m{self._number}"] = Lying(f"m{self._number}", body)

    def put_batches(self, *batches: Batch) -> None:
        self.put(*(message.body for batch in batches for message in encode(batch)[0]))

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.away is not None:
            raise StoreUnavailableError(self.away)

    async def receive(self, most: int, wait_seconds: int, hidden_seconds: int) -> Sequence[Delivery]:
        assert 0 < most <= 10
        self._called("receive" if wait_seconds else "receive more")
        found = self._found(most, hidden_seconds)
        if found or not wait_seconds:
            return found
        waited: Deferred[None] = Deferred()
        self._clock.callLater(wait_seconds, waited.callback, None)
        await waited
        self._called("waited")
        return self._found(most, hidden_seconds)

    def _found(self, most: int, hidden_seconds: int) -> list[Delivery]:
        now = self._clock.seconds()
        found = []
        for one in [one for one in self.lying.values() if one.visible_at <= now][:most]:
            one.visible_at = now + hidden_seconds
            one.times += 1
            one.receipts.append(f"{one.message_id}/{one.times}")
            found.append(Delivery(one.receipts[-1], one.message_id, one.body, one.times))
        return found

    async def delete(self, receipts: Sequence[str]) -> dict[int, object]:
        assert 0 < len(receipts) <= 10
        self._called("delete")
        failed: dict[int, object] = {}
        for place, receipt in enumerate(receipts):
            if self.undeletable:
                self.undeletable -= 1
                failed[place] = "no"
            else:
                self.lying.pop(receipt.split("/")[0], None)
        return failed

    async def hide(self, receipts: Sequence[str], seconds: int) -> dict[int, object]:
        assert 0 < len(receipts) <= 10
        self._called(f"hide {seconds}")
        for receipt in receipts:
            self.lying[receipt.split("/")[0]].visible_at = self._clock.seconds() + seconds
        return {}


class MemoryStore:
    """Takes each row once, or fails as it is told.

    @ivar writes: the batches of each write that was asked for.
    @ivar fault: raised by every write, unless it is C{None}.
    @ivar poison: the ids of batches with which no write succeeds.
    @ivar held: a Deferred that each write waits for.
    """

    def __init__(self) -> None:
        self.rows: dict[Any, Row] = {}
        self.writes: list[list[Batch]] = []
        self.fault: Exception | None = None
        self.poison: set[str] = set()
        self.refused: tuple[RefusedRow, ...] = ()
        self.held: Deferred[None] | None = None

    async def write(self, batches: Sequence[Batch]) -> Written:
        self.writes.append(list(batches))
        if self.held is not None:
            await self.held
        if self.fault is not None:
            raise type(self.fault)(*self.fault.args)
        if self.poison.intersection(batch.id for batch in batches):
            raise ValueError("poison")
        for batch in batches:
            for place, row in enumerate(batch.rows):
                self.rows.setdefault(batch.row_id(place), row)
        return Written(self.refused, {})

    @property
    def requests(self) -> int:
        return sum(row.request_count for row in self.rows.values())


class UsageQueueReaderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines = listen(self)
        self.clock = Clock()
        self.queue = MemoryQueue(self.clock)
        self.store = MemoryStore()
        self.counted: Counter[str] = Counter()

        def count(outcome: str, /, *, by: int = 1) -> None:
            self.assertIn(outcome, OUTCOMES)
            self.counted[outcome] += by

        self.reader = UsageQueueReader(self.queue, self.store, self.clock, lambda: 0.0, count)
        self.addCleanup(self.stop)

    def start(self) -> None:
        self.reader.startService()

    def stop(self) -> None:
        stopped = self.reader.stopService()
        self.clock.advance(WAIT_SECONDS)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def pass_seconds(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)

    def test_what_is_received_is_written_and_deleted(self) -> None:
        batches = [a_batch(number) for number in range(5)]
        self.queue.put_batches(*batches)
        self.start()
        self.assertEqual(self.store.writes, [batches])
        self.assertEqual(self.queue.lying, {})
        self.assertEqual(self.counted, {"received": 5, "settled": 5})

    def test_what_comes_while_it_waits(self) -> None:
        self.start()
        self.pass_seconds(1)
        self.queue.put_batches(a_batch(1))
        self.pass_seconds(WAIT_SECONDS)
        self.assertEqual(self.store.requests, a_batch(1).requests)
        self.queue.put_batches(a_batch(10))
        self.pass_seconds(WAIT_SECONDS)
        self.assertEqual(self.store.requests, a_batch(1).requests + a_batch(10).requests)
        self.assertEqual(self.queue.lying, {})

    def test_several_receives_make_one_write(self) -> None:
        batches = [a_batch(number) for number in range(95)]
        self.queue.put_batches(*batches)
        self.start()
        self.assertEqual(self.store.writes, [batches])
        self.assertEqual(self.queue.lying, {})
        self.assertEqual(self.queue.calls.count("receive"), 2)

    def test_one_write_has_its_bounds(self) -> None:
        self.queue.put_batches(*(a_batch(number, rows=1) for number in range(MOST_MESSAGES * 2)))
        self.start()
        self.assertTrue(all(len(batches) <= MOST_MESSAGES + 30 for batches in self.store.writes))
        self.assertEqual(len(self.store.rows), MOST_MESSAGES * 2)
        self.queue.put_batches(*(a_batch(10_000 + number, rows=300) for number in range(100)))
        self.pass_seconds(WAIT_SECONDS + 1)
        self.assertTrue(all(sum(len(batch.rows) for batch in batches) <= 18_000 for batches in self.store.writes))
        self.assertEqual(len(self.store.rows), MOST_MESSAGES * 2 + 30_000)

    def test_a_queue_that_does_not_wait_is_not_asked_without_end(self) -> None:
        async def nothing(most: int, wait_seconds: int, hidden_seconds: int) -> Sequence[Delivery]:
            self.queue.calls.append("receive")
            return []

        self.queue.receive = nothing  # type: ignore[method-assign]
        self.start()
        self.pass_seconds(1)
        self.assertLessEqual(len(self.queue.calls), 1 / PAUSE_SECONDS + 2)

    def test_the_same_message_twice_counts_once(self) -> None:
        self.queue.put_batches(a_batch(1), a_batch(1), a_batch(2), a_batch(1))
        self.start()
        self.assertEqual(self.store.writes, [[a_batch(1), a_batch(2)]])
        self.assertEqual(self.queue.lying, {})
        self.assertEqual(self.counted["repeated"], 2)
        self.queue.put_batches(a_batch(1))
        self.pass_seconds(WAIT_SECONDS)
        self.assertEqual(self.store.requests, a_batch(1).requests + a_batch(2).requests)
        self.assertEqual(self.queue.lying, {})

    def test_two_batches_of_one_id_are_both_shown_to_the_store(self) -> None:
        other = Batch(a_batch(1).id, "n2", a_batch(1, rows=3).rows)
        self.queue.put_batches(a_batch(1), other)
        self.start()
        self.assertEqual(self.store.writes, [[a_batch(1), other]])

    def test_a_message_that_tells_of_no_usage_is_left_alone(self) -> None:
        self.queue.put("hello", json.dumps({"type": "weather"}))
        self.queue.put_batches(a_batch(1))
        self.start()
        self.assertEqual([one.body[:5] for one in self.queue.lying.values()], ["hello", '{"typ'])
        self.assertEqual(self.counted, {"received": 3, "settled": 1, "unreadable": 1, "unknown_type": 1})
        self.assertEqual(len(self.lines.having("is left alone")), 2)
        self.pass_seconds(HIDDEN_SECONDS * 3)
        self.assertEqual(len(self.queue.lying), 2)
        self.assertGreaterEqual(self.counted["unreadable"], 3)
        self.assertEqual(len(self.lines.having("is left alone")), 2)

    def test_while_the_store_is_away_nothing_more_is_received_and_nothing_is_lost(self) -> None:
        batches = [a_batch(number) for number in range(30)]
        self.queue.put_batches(*batches[:4])
        self.store.fault = StoreUnavailableError("the database is away")
        self.start()
        self.queue.put_batches(*batches[4:])
        self.pass_seconds(600)
        self.assertEqual(self.queue.calls.count("receive"), 1)
        self.assertEqual(self.reader.trouble, "the database is away")
        self.assertEqual(len(self.queue.lying), 30)
        # nobody else was handed them meanwhile, so the redrive policy saw one delivery
        self.assertEqual({one.times for one in self.queue.lying.values()}, {0, 1})
        self.assertTrue(
            all(one.visible_at > self.clock.seconds() for one in self.queue.lying.values() if one.times), "still hidden"
        )
        self.store.fault = None
        self.pass_seconds(LONGEST_RETRY_SECONDS + WAIT_SECONDS)
        self.assertEqual(self.queue.lying, {})
        self.assertEqual(self.store.requests, sum(batch.requests for batch in batches))
        self.assertEqual(self.reader.trouble, "")
        self.assertEqual(len(self.lines.having("is not being emptied: the database is away")), 1)
        self.assertEqual(len(self.lines.having("is being emptied again")), 1)

    def test_a_store_that_says_what_is_wrong_with_it_is_away_too(self) -> None:
        self.queue.put_batches(a_batch(1), a_batch(2))
        self.store.fault = MigrationError("the schema is too new")
        self.start()
        self.assertEqual(self.reader.trouble, "the schema is too new")
        self.assertEqual(len(self.store.writes), 1)

    def test_what_the_store_refuses_whole_is_tried_apart(self) -> None:
        self.queue.put_batches(a_batch(1), a_batch(2))
        self.store.fault = StoreRefusedError("no", "23514")
        self.start()
        self.assertEqual([len(batches) for batches in self.store.writes], [2, 1, 1])
        self.assertEqual(len(self.queue.lying), 2)
        self.flushLoggedErrors(StoreRefusedError)

    def test_it_comes_again_ever_more_slowly(self) -> None:
        self.queue.put_batches(a_batch(1))
        self.store.fault = StoreUnavailableError("away")
        self.start()
        self.pass_seconds(FIRST_RETRY_SECONDS)
        self.assertEqual(len(self.store.writes), 2)
        self.pass_seconds(300)
        self.assertLess(len(self.store.writes), 60)

    def test_a_stop_while_the_store_is_away_gives_the_messages_back(self) -> None:
        self.queue.put_batches(*(a_batch(number) for number in range(25)))
        self.store.fault = StoreUnavailableError("away")
        self.start()
        self.pass_seconds(20)
        self.successResultOf(self.reader.stopService())
        self.assertTrue(all(one.visible_at <= self.clock.seconds() for one in self.queue.lying.values()))
        self.assertEqual(self.counted["released"], 25)
        self.assertEqual(len(self.queue.lying), 25)

    def test_a_stop_waits_for_the_write_and_its_deletes(self) -> None:
        self.queue.put_batches(a_batch(1))
        self.store.held = Deferred()
        self.start()
        stopped = self.reader.stopService()
        self.assertNoResult(stopped)
        self.store.held.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.queue.lying, {})
        self.assertEqual(self.store.requests, a_batch(1).requests)

    def test_a_stop_while_it_waits_for_a_message_gives_it_back(self) -> None:
        self.start()
        stopped = self.reader.stopService()
        self.queue.put_batches(a_batch(1))
        self.clock.advance(WAIT_SECONDS)
        self.successResultOf(stopped)
        self.assertEqual(self.store.writes, [])
        self.assertEqual([one.visible_at for one in self.queue.lying.values()], [self.clock.seconds()])

    def test_it_can_be_started_again(self) -> None:
        self.start()
        self.start()
        self.stop()
        self.queue.put_batches(a_batch(1))
        self.start()
        self.assertEqual(self.queue.lying, {})
        self.stop()
        self.successResultOf(self.reader.stopService())

    def test_while_the_queue_is_away_it_is_asked_ever_more_slowly(self) -> None:
        self.queue.away = "no such queue"
        self.start()
        self.pass_seconds(120)
        self.assertLess(len(self.queue.calls), 30)
        self.assertEqual(len(self.lines.having("is not being emptied: no such queue")), 1)
        self.queue.away = None
        self.queue.put_batches(a_batch(1))
        self.pass_seconds(LONGEST_RETRY_SECONDS)
        self.assertEqual(self.queue.lying, {})
        self.assertEqual(len(self.lines.having("is being emptied again")), 1)

    def test_messages_that_could_not_be_deleted_come_again_and_count_once(self) -> None:
        self.queue.put_batches(*(a_batch(number) for number in range(12)))
        self.queue.undeletable = 3
        self.start()
        self.assertEqual(len(self.queue.lying), 3)
        self.assertEqual(self.counted["undeleted"], 3)
        requests = self.store.requests
        self.pass_seconds(HIDDEN_SECONDS + WAIT_SECONDS)
        self.assertEqual(self.queue.lying, {})
        self.assertEqual(self.store.requests, requests)

    def test_the_queue_going_away_before_the_delete(self) -> None:
        self.queue.put_batches(a_batch(1))
        self.store.held = Deferred()
        self.start()
        self.queue.away = "gone"
        self.store.held.callback(None)
        self.assertEqual(self.counted["undeleted"], 1)
        self.queue.away = self.store.held = None
        self.pass_seconds(HIDDEN_SECONDS + LONGEST_RETRY_SECONDS)
        self.assertEqual(self.queue.lying, {})
        self.assertEqual(self.store.requests, a_batch(1).requests)

    def test_a_batch_on_which_the_store_fails_does_not_hold_back_the_others(self) -> None:
        self.queue.put_batches(*(a_batch(number) for number in range(10)))
        self.store.poison = {a_batch(4).id}
        self.start()
        self.assertEqual(len(self.queue.lying), 1)
        self.assertEqual(len(self.store.rows), 9 * 2)
        self.assertEqual((self.counted["failed"], self.counted["settled"]), (1, 9))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(len(self.lines.having(f"batch {a_batch(4).id} is left on the usage queue: poison")), 1)
        self.assertEqual(self.reader.trouble, "")

    def test_a_store_that_fails_on_everything_is_spared(self) -> None:
        self.queue.put_batches(*(a_batch(number) for number in range(1000)))
        self.store.fault = TypeError("a mistake of ours")
        self.start()
        self.pass_seconds(HIDDEN_SECONDS - 1)
        self.assertEqual(len(self.queue.lying), 1000)
        self.assertLess(len(self.store.writes), 20)
        self.assertEqual({one.times for one in self.queue.lying.values()}, {1})
        self.assertEqual(len(self.lines.having("is not being emptied")), 1)
        self.assertIn("a mistake of ours", self.reader.trouble)
        self.store.fault = None
        self.pass_seconds(HIDDEN_SECONDS + LONGEST_RETRY_SECONDS)
        self.assertEqual(self.queue.lying, {})
        self.assertEqual(len(self.lines.having("is being emptied again")), 1)
        self.assertTrue(self.flushLoggedErrors(TypeError))

    def test_an_answer_of_the_queue_that_nobody_expected(self) -> None:
        self.queue.put_batches(a_batch(1))
        sound = self.queue.receive

        async def broken(most: int, wait_seconds: int, hidden_seconds: int) -> Sequence[Delivery]:
            raise KeyError("Messages")

        self.queue.receive = broken  # type: ignore[method-assign]
        self.start()
        self.assertTrue(self.reader.running)
        self.queue.receive = sound  # type: ignore[method-assign]
        self.pass_seconds(LONGEST_RETRY_SECONDS)
        self.assertEqual(self.queue.lying, {})
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_rows_that_were_set_aside_are_told(self) -> None:
        self.store.refused = (RefusedRow(a_batch(1).id, 1, "no such status"),)
        self.queue.put_batches(a_batch(1))
        self.start()
        self.assertEqual(self.queue.lying, {})
        self.assertEqual(len(self.lines.having("1 rows from the usage queue were set aside; one of them: no such")), 1)


class AnyScheduleTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_what_was_put_is_what_is_counted(self, data: st.DataObject) -> None:
        """Whatever fails and whenever it is stopped: each batch once in the store, and nothing left on the queue."""
        clock = Clock()
        queue, store = MemoryQueue(clock), MemoryStore()
        put: set[int] = set()
        reader = UsageQueueReader(queue, store, clock, lambda: 0.5, lambda outcome, *, by=1: None)
        reader.startService()
        for _ in range(data.draw(st.integers(1, 25))):
            step = data.draw(
                st.sampled_from(["put", "put", "wait", "store", "queue", "undeletable", "restart", "another"])
            )
            if step == "put":
                numbers = data.draw(st.lists(st.integers(0, 40), max_size=12))
                put.update(numbers)
                queue.put_batches(*(a_batch(number) for number in numbers))
            elif step == "store":
                store.fault = None if store.fault else StoreUnavailableError("away")
            elif step == "queue":
                queue.away = None if queue.away else "away"
            elif step == "undeletable":
                queue.undeletable = data.draw(st.integers(0, 4))
            elif step == "restart":
                stopped = reader.stopService()
                clock.advance(WAIT_SECONDS)
                self.successResultOf(stopped)
                reader.startService()
            elif step == "another":  # that one has died without a word
                reader.running = False
                for call in clock.getDelayedCalls():
                    call.cancel()
                reader = UsageQueueReader(queue, store, clock, lambda: 0.5, lambda outcome, *, by=1: None)
                reader.startService()
            else:
                clock.pump([0.5] * data.draw(st.integers(0, 300)))
        store.fault = queue.away = None
        queue.undeletable = 0
        clock.pump([0.5] * 2 * (HIDDEN_SECONDS + int(LONGEST_RETRY_SECONDS) + WAIT_SECONDS))
        self.assertEqual(queue.lying, {})
        self.assertEqual(
            sorted(store.rows.items()),
            sorted(
                (a_batch(number).row_id(place), row) for number in put for place, row in enumerate(a_batch(number).rows)
            ),
        )
        stopped = reader.stopService()
        clock.advance(WAIT_SECONDS)
        self.successResultOf(stopped)
