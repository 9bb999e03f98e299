"""The reader of the usage queue: what it receives it writes to the store, and what the store has it deletes.

The rules. A message is deleted when the store has settled every row of it (written it, or set it aside with the
reason), and never before. Whoever dies in between leaves the message to come again, and a batch that comes again counts
no second time. So nothing is lost, and nothing counts twice, whatever ends whenever.

A message that tells of no usage is left where it is: it is counted, and told in the log when it comes for the first
time; the queue's redrive policy moves it to the dead letters, where a person can look at it. It is not deleted,
since it may be of a newer version than we are.

While the store is away nothing more is received. What is in hand is tried again and again, and kept hidden from other
readers meanwhile: were it handed out anew every time, the redrive policy would take it for poison. At a stop it is
given back at once.

What cannot be written for another reason is tried message by message, so that one does not hold back the others, and
left to come again.

The queue is asked again and again to wait for a message, each time so briefly that a stop need not wait long.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Final, Protocol, TypeVar

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from tbeast.codecs.usageenvelopes import UNKNOWN_TYPE, UNREADABLE, Delivery, EnvelopeError, decode
from tbeast.domain.backoff import wait_seconds
from tbeast.domain.usage import Batch
from tbeast.errors import StoreError, StoreRefusedError, StoreUnavailableError
from tbeast.interfaces import Chance, UsageStore

T = TypeVar("T")

MOST_A_CALL: Final = 10
WAIT_SECONDS: Final = 2
"""How long the queue is to wait for a first message. A stop may have to wait as long; asking so often costs next to
nothing."""

PAUSE_SECONDS: Final = 0.1
"""After an empty answer, for a queue that does not wait."""

HIDDEN_SECONDS: Final = 120
"""How long messages are kept from other readers. Longer than a write may take, with the time-outs of the store."""

CALLS_AT_A_TIME: Final = 3
"""When there is more than one call can give."""

MOST_ROWS: Final = 6_000
MOST_MESSAGES: Final = 500
"""Gathering for one write ends when one of these is reached, or the queue has no more."""

FIRST_RETRY_SECONDS: Final = 0.5
LONGEST_RETRY_SECONDS: Final = 15.0

ENOUGH_FAILURES: Final = 5
"""When the store fails on so many messages, one by one, and on no other, it is not for the messages' sake."""

RECEIVED: Final = "received"
SETTLED: Final = "settled"
REPEATED: Final = "repeated"
FAILED: Final = "failed"
UNDELETED: Final = "undeleted"
RELEASED: Final = "released"
OUTCOMES: Final = (RECEIVED, SETTLED, REPEATED, FAILED, UNDELETED, RELEASED, UNKNOWN_TYPE, UNREADABLE)
"""What can become of a message. Of those settled some were repeated, and some are not deleted yet."""


class UsageQueue(Protocol):
    """Where usage is received from. Each raises L{StoreUnavailableError} when the queue cannot be asked now."""

    def receive(self, most: int, wait_seconds: int, hidden_seconds: int) -> Awaitable[Sequence[Delivery]]:
        """Receive at most so many messages, waiting so long for the first, and keep them from others for a time."""

    def delete(self, receipts: Sequence[str]) -> Awaitable[Mapping[int, object]]:
        """Delete messages, ten at most; gives the places of those that were not, with the reasons."""

    def hide(self, receipts: Sequence[str], seconds: int) -> Awaitable[Mapping[int, object]]:
        """Keep messages, ten at most, from others for so long from now; 0: give them back."""


class Count(Protocol):
    """Counts what became of messages."""

    def __call__(self, outcome: str, /, *, by: int = 1) -> None:
        """So many have come to this; one of L{OUTCOMES}."""


@frozen
class _Held:
    """A message in hand.

    @ivar batch: what it tells of.
    """

    batch: Batch
    receipt: str


class UsageQueueReader(Service):
    """Reads the queue for as long as it runs.

    @ivar trouble: why nothing moves: the queue gives nothing, or the store takes nothing; empty when all is well.
    """

    name = "usage-queue"
    log = Logger()

    def __init__(self, queue: UsageQueue, store: UsageStore, clock: IReactorTime, chance: Chance, count: Count) -> None:
        self.trouble = ""
        self._queue = queue
        self._store = store
        self._clock = clock
        self._chance = chance
        self._count = count
        self._reading: Deferred[None] | None = None
        self._pause: Deferred[None] | None = None
        self._failures = 0
        self._store_fails = False

    def startService(self) -> None:
        """Begin to read."""
        if self.running:
            return
        super().startService()  # type: ignore[no-untyped-call]
        if self._reading is None:  # else the reading from before the stop goes on
            self._reading = ensureDeferred(self._read())

    def stopService(self) -> Deferred[None]:
        """Stop reading. What is being written now is finished; what else is in hand is given back.

        @return: fires when that is done.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        if self._pause is not None:
            self._pause.cancel()
        if self._reading is None:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._reading.addCallback(lambda _: done.callback(None))
        return done

    async def _read(self) -> None:
        while self.running:
            try:
                held = await self._gathered()
                if held:
                    await self._settle(held)
                else:
                    if not self._store_fails:  # else an empty queue proves nothing
                        self._well()
                    await self._wait(PAUSE_SECONDS)
            except StoreUnavailableError as error:
                await self._troubled(str(error))
            except Exception as error:
                self.log.failure("reading the usage queue failed; it is taken up again")
                await self._troubled(f"{type(error).__name__}: {error}")
        self._reading = None

    async def _gathered(self) -> list[_Held]:
        """Receive what there is to be had, up to the limits."""
        held = self._taken(await self._queue.receive(MOST_A_CALL, WAIT_SECONDS, HIDDEN_SECONDS))
        there_is_more = len(held) == MOST_A_CALL
        while there_is_more and self.running:
            calls = [
                ensureDeferred(_awaited(self._queue.receive(MOST_A_CALL, 0, HIDDEN_SECONDS)))
                for _ in range(CALLS_AT_A_TIME)
            ]
            # a call that failed has given nothing; if it was no accident, the next round will find out
            more = [self._taken(result) for good, result in await DeferredList(calls, consumeErrors=True) if good]
            held += chain.from_iterable(more)
            rows = sum(len(one.batch.rows) for one in held)
            there_is_more = bool(more) and max(map(len, more)) == MOST_A_CALL
            there_is_more = there_is_more and rows < MOST_ROWS and len(held) < MOST_MESSAGES
        return held

    def _taken(self, deliveries: Sequence[Delivery]) -> list[_Held]:
        held = []
        for delivery in deliveries:
            try:
                held.append(_Held(decode(delivery.body, delivery.message_id), delivery.receipt))
            except EnvelopeError as error:
                self._count(error.reason)
                if delivery.times <= 1:
                    self.log.error(
                        "message {message} on the usage queue is left alone: {reason}: {detail}",
                        message=delivery.message_id, reason=error.reason, detail=str(error),
                    )  # fmt: skip
        if deliveries:
            self._count(RECEIVED, by=len(deliveries))
        return held

    async def _settle(self, held: Sequence[_Held]) -> None:
        """Write and delete what is in hand; while the store is away, again and again until the stop."""
        hidden_until = self._clock.seconds() + HIDDEN_SECONDS
        while self.running:
            try:
                await self._write(held)
                return
            except StoreError as error:
                await self._troubled(str(error))
            if self.running and self._clock.seconds() > hidden_until - HIDDEN_SECONDS / 2:
                hidden_until = self._clock.seconds() + HIDDEN_SECONDS
                await self._by_tens(partial(self._queue.hide, seconds=HIDDEN_SECONDS), held)
        await self._by_tens(partial(self._queue.hide, seconds=0), held)
        self._count(RELEASED, by=len(held))

    async def _write(self, held: Sequence[_Held]) -> None:
        """Write what is in hand and delete it.

        @raise StoreError: when the store cannot take anything now; some may have been written.
        """
        try:
            await self._write_together(held)
        except Exception as error:
            if _away(error):
                raise
            self.log.failure("the store failed on {count} messages; trying them one by one", count=len(held))
            if not await self._write_apart(held):
                # not the messages, then, but the store: spare it, and the number of times that they may come
                self._store_fails = True
                await self._troubled(f"the store fails: {type(error).__name__}: {error}")

    async def _write_apart(self, held: Sequence[_Held]) -> bool:
        """Write one by one, and leave those on which the store fails to come again.

        @return: whether any could be written; when the first few cannot, the others are not tried.
        """
        written = 0
        faults: list[tuple[str, Exception]] = []
        for one in held:
            try:
                await self._write_together([one])
                written += 1
            except Exception as error:
                if _away(error):
                    raise
                faults.append((one.batch.id, error))
                if not written and len(faults) == ENOUGH_FAILURES:
                    break
        self._count(FAILED, by=len(faults))
        if written:
            for batch, fault in faults:
                self.log.error("batch {batch} is left on the usage queue: {fault}", batch=batch, fault=fault)
        return written > 0

    async def _write_together(self, held: Sequence[_Held]) -> None:
        # the queue may hand out a message twice, and a sender who heard no answer has sent it twice
        batches: dict[str, Batch] = {}
        also = [one.batch for one in held if batches.setdefault(one.batch.id, one.batch) is not one.batch]
        others = [batch for batch in also if batch != batches[batch.id]]
        written = await self._store.write([*batches.values(), *others])
        self._well()
        if written.refused:
            self.log.error(
                "{count} rows from the usage queue were set aside; one of them: {reason}",
                count=len(written.refused), reason=written.refused[0].reason,
            )  # fmt: skip
        self._count(SETTLED, by=len(held))
        if also:
            self._count(REPEATED, by=len(also))
        undeleted = await self._by_tens(self._queue.delete, held)
        if undeleted:  # they come again, and count no second time
            self._count(UNDELETED, by=undeleted)

    async def _by_tens(
        self, call: Callable[[Sequence[str]], Awaitable[Mapping[int, object]]], held: Sequence[_Held]
    ) -> int:
        """Make a call for everything in hand, ten at a time; for how many it did not succeed."""
        receipts = [one.receipt for one in held]
        tens = [receipts[start : start + MOST_A_CALL] for start in range(0, len(receipts), MOST_A_CALL)]
        outcomes = await DeferredList([ensureDeferred(_awaited(call(ten))) for ten in tens], consumeErrors=True)
        return sum(len(result) if good else len(ten) for ten, (good, result) in zip(tens, outcomes, strict=True))

    async def _troubled(self, why: str) -> None:
        """Nothing moves: tell it once, and wait, longer each time."""
        if not self.trouble:
            self.log.warn("the usage queue is not being emptied: {why}", why=why)
        self.trouble = why
        self._failures += 1
        wait = wait_seconds(self._failures - 1, self._chance(), FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        await self._wait(wait)

    def _well(self) -> None:
        if self.trouble:
            self.log.info("the usage queue is being emptied again")
        self.trouble = ""
        self._failures = 0
        self._store_fails = False

    async def _wait(self, seconds: float) -> None:
        if not self.running:
            return
        self._pause = deferLater(self._clock, seconds)
        with suppress(CancelledError):
            await self._pause
        self._pause = None


def _away(error: Exception) -> bool:
    """Whether it is not for what was to be written that the store failed."""
    return isinstance(error, StoreError) and not isinstance(error, StoreRefusedError)


async def _awaited(answer: Awaitable[T]) -> T:
    return await answer
