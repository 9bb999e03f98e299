"""Keeps the keyring as the store has it, and copies of it in the shared cache.

The rules. At the start every key is loaded, and again every ten minutes, which also takes out what has vanished. Every
two seconds the store is asked what has changed. A message from another node that a key was made or changed brings that
question forward; a message that a key was revoked takes it out at once, and the store is not asked, so that a
revocation is in force everywhere while the database is away, and, by the question every two seconds, while the cache
is. Loading and asking for changes do not wait for one another, and their answers may come in any order: the keyring
sorts that out (see L{tbeast.services.keyring}).

While the store has never answered, the keys come from the copies in the cache, if there are any. They are good for what
they hold; the ring is complete only if they are all there. The store is tried again, ever less often, but at least
every four seconds.

The copies follow the ring: what changed is written soon after, everything once an hour and when the line to the cache
is back. In place of a revoked key lies a mark, which is written anew at each load, so that a copy which a slower node
wrote over it does not stay. A cache that cannot be asked holds nothing up: what is to be written waits until it can,
and is then written as it is by then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from typing import Final

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.codecs.keycopies import (
    LIST_AT,
    decode_change,
    encode_change,
    encode_copy,
    encode_list,
    encode_mark,
    read_copies,
)
from tbeast.domain.backoff import wait_seconds
from tbeast.domain.counters import Counters
from tbeast.domain.keys import REVOKED, KeyChange, KeyRecord
from tbeast.errors import CacheUnavailableError, StoreError
from tbeast.interfaces import Chance, KeyCopies, KeyEvents, KeyStore, Now
from tbeast.services.keyring import Keyring
from tbeast.services.periodic import Periodic

POLL_SECONDS: Final = 2.0
LOAD_SECONDS: Final = 600.0
EXPIRE_SECONDS: Final = 1.0
SOONEST_SECONDS: Final = 0.1
"""Between two questions that messages brought forward."""

FIRST_RETRY_SECONDS: Final = 0.5
LONGEST_RETRY_SECONDS: Final = 4.0

START_SECONDS: Final = 5.0
"""How long the start waits for the keys; they may come later."""

PATIENCE_SECONDS: Final = 2.0
"""How long the start waits for the store before it looks for copies."""

REREAD_SECONDS: Final = 15.0
"""The least time from one reading of all copies to the next."""

COPY_SECONDS: Final = 3600.0
COPY_AGAIN_SECONDS: Final = 60.0
"""The least time from one writing of all copies to the next, however often the line to the cache breaks."""

REMEMBER_SECONDS: Final = 26 * 3600.0
"""How long a revocation is remembered: longer than any copy of the key lies in the cache."""

MOST_AT_ONCE: Final = 1_000
"""How many keys are taken in, or written to the cache, before others have their turn."""

NOTHING: Final = "nothing"
CACHE: Final = "cache"
STORE: Final = "store"

Usage = Mapping[str, tuple[str, int]]
"""By key id, the month (C{YYYY-MM}) and the questions admitted in it, as far as the store knows."""


@frozen
class KeyringStatus:
    """Where the keys came from.

    @ivar source: L{STORE}, L{CACHE} or L{NOTHING}.
    @ivar since: when they came first, in seconds since the epoch; with L{NOTHING}, when that was looked for.
    @ivar why: why the store cannot be asked now; empty when it can.
    """

    source: str
    since: float
    why: str = ""


class KeyRefresh(Service):
    """See the module.

    @ivar status: where the keys came from.
    @ivar line_up: whether other nodes' messages are heard.
    """

    name = "keyring"
    log = Logger()

    def __init__(
        self,
        keyring: Keyring,
        store: KeyStore,
        clock: IReactorTime,
        now: Now,
        random: Chance,
        counters: Counters,
        copies: KeyCopies | None = None,
        events: KeyEvents | None = None,
        usage: Callable[[Usage], None] = lambda _used: None,
    ) -> None:
        """Set it up. From now on the ring is not complete.

        @param copies: C{None} where there is no shared cache.
        @param events: C{None} where there is no shared cache.
        @param usage: told what each key has used of its month, as far as the store knows, at every answer: it may be
            less than this node knows, and must lower nothing.
        """
        keyring.is_complete = False
        self.status = KeyringStatus(NOTHING, now(), "not asked yet")
        self.line_up = False
        self._keyring = keyring
        self._store = store
        self._clock = clock
        self._now = now
        self._counters = counters
        self._copies = copies
        self._events = events
        self._usage = usage
        self._mark = 0.0
        self._loading = _Rounds("key load", self._load, LOAD_SECONDS, clock, random, counters)
        self._polling = _Rounds("key poll", self._poll, POLL_SECONDS, clock, random, counters)
        self._expiring = Periodic("key expiry", self._expire, EXPIRE_SECONDS, clock, counters)
        self._writing = _Rounds("key copies", self._write, POLL_SECONDS, clock, random, counters)
        self._unwritten: dict[bytes, None] = {}
        self._copied_at = self._reread_at = -COPY_SECONDS
        self._copies_due_at = 0.0
        self._copies_why = ""
        self._reading: Deferred[None] | None = None
        self._subscribed = self._line_broke = False
        self._first: Deferred[None] | None = None

    def startService(self) -> Deferred[None]:
        """Begin.

        @return: fires when the first attempt to get the keys has come to an end, good or bad, or has taken too long.
        """
        super().startService()  # type: ignore[no-untyped-call]
        first: Deferred[None] = Deferred()
        self._first = first
        limits = [
            self._clock.callLater(PATIENCE_SECONDS, self._look_for_copies),
            self._clock.callLater(START_SECONDS, self._tell_first),
        ]

        def told(_result: object) -> None:
            for limit in limits:
                if limit.active():
                    limit.cancel()

        first.addBoth(told)
        if self._events is not None and not self._subscribed:
            self._subscribed = True
            self._events.subscribe(self._heard, self._lost, self._regained)
        self._expiring.startService()
        self._loading.start()
        return first

    def stopService(self) -> Deferred[None]:
        """End.

        @return: fires when nothing is under way any more.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self._tell_first()
        if self._reading is not None:
            self._reading.cancel()
        ends = [rounds.stop() for rounds in (self._loading, self._polling, self._writing)]
        expiring = self._expiring.stopService()
        ended = DeferredList([*ends, *([expiring] if expiring is not None else [])])
        return ended.addCallback(lambda _: None)

    # Other nodes.

    async def announce(self, change: KeyChange) -> bool:
        """Tell this node, and all others, of a change that this node has committed.

        @return: whether the others were told; if not, they find out by themselves.
        """
        message = encode_change(change)
        self._heard(message)
        if self._events is None:
            return False
        try:
            await self._events.publish(message)
        except CacheUnavailableError:
            return False
        return True

    def _heard(self, message: bytes) -> None:
        if not self.running:
            return
        change = decode_change(message)
        if change is None:
            self._counters.count("service_failures", "key message")
        elif change.what == REVOKED:
            if self._keyring.revoke(change.key_id, change.digest, self._now()):
                self.log.info("the key {key_id} was revoked: word of it came", key_id=change.key_id)
                self._to_write([change.digest])
        else:
            self._polling.wake()

    def _lost(self) -> None:
        self.line_up = False
        self._line_broke = True

    def _regained(self) -> None:
        self.line_up = True
        # what was said in the meantime was not heard, and the cache may have come back empty
        self._polling.wake()
        if self._line_broke:
            self._line_broke = False
            self._copies_due_at = min(self._copies_due_at, self._copied_at + COPY_AGAIN_SECONDS)
            self._writing.wake()

    # The store.

    async def _load(self) -> bool:
        try:
            records, mark = await self._store.changed_since(None)
        except StoreError as error:
            self._store_failed(error)
            if self.status.source != STORE:
                await self._load_copies()
            self._tell_first()
            return False
        # what came from copies has nothing to say against the first answer of the store
        as_of = mark if self.status.source == STORE else inf
        news = await self._take(records, as_of)
        now = self._now()
        vanished = self._keyring.keep_only({record.account.key_id for record in records}, as_of)
        self._keyring.forget_revocations(now - REMEMBER_SECONDS)
        self._to_write([*news, *vanished, *(change.digest for change in self._keyring.revocations())])
        self._keyring.is_complete = True
        self._store_worked()
        if self.status.source != STORE:
            self.log.info("{count} keys loaded from the database", count=self._keyring.stored)
            self.status = KeyringStatus(STORE, now)
            self._mark = mark
            self._polling.start(POLL_SECONDS)
            self._writing.start()
        self._tell_first()
        return True

    async def _poll(self) -> bool:
        try:
            records, mark = await self._store.changed_since(self._mark)
        except StoreError as error:
            self._store_failed(error)
            return False
        self._store_worked()
        news = await self._take(records)
        self._mark = mark
        self._to_write(news)
        return True

    async def _take(self, records: Sequence[KeyRecord], as_of: float = -inf) -> list[bytes]:
        news: list[bytes] = []
        for start in range(0, len(records), MOST_AT_ONCE):
            if start:
                await deferLater(self._clock, 0)
            some = records[start : start + MOST_AT_ONCE]
            news += self._keyring.update(some, self._now(), as_of)
            self._tell_usage(some)
        return news

    def _tell_usage(self, records: Sequence[KeyRecord]) -> None:
        self._usage({record.account.key_id: (record.usage_month, record.current_usage) for record in records})

    def _store_failed(self, error: StoreError) -> None:
        why = str(error)
        if self.status.why != why:
            self.log.warn("the keys cannot be refreshed: {why}", why=why)
            self.status = KeyringStatus(self.status.source, self.status.since, why)

    def _store_worked(self) -> None:
        if self.status.why:
            self.status = KeyringStatus(self.status.source, self.status.since)

    def _expire(self) -> None:
        over = self._keyring.expire(self._now())
        if over:
            self._to_write(over)

    def _tell_first(self) -> None:
        first, self._first = self._first, None
        if first is not None and not first.called:
            first.callback(None)

    # The copies.

    def _look_for_copies(self) -> None:
        """The store has not answered yet."""
        reading = self._reading = ensureDeferred(self._load_copies())

        def done(result: object) -> None:
            self._reading = None
            if self.status.source == CACHE:
                self._tell_first()
            if isinstance(result, Failure) and self.running:
                self._counters.count("service_failures", "key copies")
                self.log.failure("reading the copies of the keys failed", result)

        reading.addBoth(done)

    async def _load_copies(self) -> None:
        if self._copies is None or self._keyring.is_complete:
            return
        if self._clock.seconds() < self._reread_at + REREAD_SECONDS:
            return
        self._reread_at = self._clock.seconds()
        try:
            copies = read_copies(await self._copies.all())
        except CacheUnavailableError as error:
            self._cache_failed(error)
            return
        if self.status.source == STORE:
            return
        now = self._now()
        for change in copies.revoked:
            self._keyring.revoke(change.key_id, change.digest, now)
        self._keyring.update(copies.records, now)
        self._tell_usage(copies.records)
        if self.status.source == NOTHING and copies.records:
            self.log.warn(
                "{count} keys taken from their copies in the cache, because the database cannot be asked{all}",
                count=len(copies.records), all="" if copies.whole else "; there may be others",
            )  # fmt: skip
            self.status = KeyringStatus(CACHE, now, self.status.why)
        self._keyring.is_complete = copies.whole

    def _to_write(self, digests: Sequence[bytes]) -> None:
        if self._copies is not None and digests:
            self._unwritten.update(dict.fromkeys(digests))
            self._writing.wake()

    async def _write(self) -> bool:
        """Write to the cache what is to be written, as the ring has it at this moment."""
        if self._copies is None:
            return True
        if self._clock.seconds() >= self._copies_due_at:
            self._unwritten.update(dict.fromkeys(record.account.digest for record in self._keyring.records()))
            self._unwritten.update(dict.fromkeys(change.digest for change in self._keyring.revocations()))
            self._copied_at = self._clock.seconds()
            self._copies_due_at = self._copied_at + COPY_SECONDS
        while self._unwritten:
            some = list(self._unwritten)[:MOST_AT_ONCE]
            for digest in some:
                del self._unwritten[digest]
            try:
                await self._write_some(self._copies, some)
            except BaseException as error:
                self._unwritten.update(dict.fromkeys(some))
                if not isinstance(error, CacheUnavailableError):
                    raise
                self._cache_failed(error)
                return False
            await deferLater(self._clock, 0)
        if self._copies_why:
            self._copies_why = ""
            self.log.info("copies of the keys can be written again")
        return True

    async def _write_some(self, copies: KeyCopies, digests: Sequence[bytes]) -> None:
        ring = self._keyring
        entries: dict[str, bytes] = {}
        gone: list[str] = []
        for digest in digests:
            record, revocation = ring.record_of(digest), ring.revocation_of(digest)
            if revocation is not None:
                entries[digest.hex()] = encode_mark(revocation.key_id)
            elif record is not None:
                entries[digest.hex()] = encode_copy(record)
            else:
                gone.append(digest.hex())
        if ring.is_complete:
            entries[LIST_AT] = encode_list(ring.stored, ring.digests_xor)
        if gone:
            await copies.remove(gone)
        if entries:
            await copies.put_many(entries)

    def _cache_failed(self, error: CacheUnavailableError) -> None:
        why = str(error)
        if self._copies_why != why:
            self._copies_why = why
            self.log.warn("copies of the keys cannot be read or written: {why}", why=why)


class _Rounds:
    """Work that is done again and again, at its pace or sooner when woken; never twice at once.

    Unlike L{Periodic} it can be woken, and after a failure it is tried again sooner, and then less and less soon.
    """

    log = Logger()

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[bool]],
        every_seconds: float,
        clock: IReactorTime,
        random: Chance,
        counters: Counters,
    ) -> None:
        """Set it up.

        @param work: gives whether it went well.
        """
        self._name = name
        self._work = work
        self._every_seconds = every_seconds
        self._clock = clock
        self._random = random
        self._counters = counters
        self._wanted = False
        self._woken = False
        self._failures = 0
        self._next: IDelayedCall | None = None
        self._round: Deferred[None] | None = None

    def start(self, first_seconds: float = 0.0) -> None:
        """Begin, after so many seconds; nothing if it has begun."""
        if self._wanted:
            return
        self._wanted = True
        self._failures = 0
        if self._round is None:
            if first_seconds:
                self._next = self._clock.callLater(first_seconds, self._begin)
            else:
                self._begin()

    def stop(self) -> Deferred[None]:
        """End; fires when no round is under way any more."""
        self._wanted = self._woken = False
        if self._next is not None:
            self._next.cancel()
            self._next = None
        done: Deferred[None] = Deferred()
        if self._round is None:
            done.callback(None)
        else:
            self._round.addCallback(lambda _: done.callback(None))
            self._round.cancel()
        return done

    def wake(self) -> None:
        """Do it soon. While it fails it is not done sooner for that."""
        if self._next is None or self._failures:
            self._woken = True
        elif self._next.getTime() > self._clock.seconds() + SOONEST_SECONDS:
            self._next.reset(SOONEST_SECONDS)

    def _begin(self) -> None:
        self._next = None
        self._woken = False
        under_way = ensureDeferred(self._once())
        self._round = under_way
        under_way.addErrback(self._surprised)
        under_way.addCallback(self._ended)

    async def _once(self) -> None:
        self._failures = 0 if await self._work() else self._failures + 1

    def _surprised(self, failure: Failure) -> None:
        if isinstance(failure.value, CancelledError) and not self._wanted:
            return
        self._failures += 1
        self._counters.count("service_failures", self._name)
        self.log.failure("{work} failed; it is taken up again", failure, work=self._name)

    def _ended(self, _result: None) -> None:
        self._round = None
        if not self._wanted:
            return
        if self._failures:
            wait = wait_seconds(self._failures - 1, self._random(), FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        else:
            wait = SOONEST_SECONDS if self._woken else self._every_seconds
        self._next = self._clock.callLater(min(wait, self._every_seconds), self._begin)
