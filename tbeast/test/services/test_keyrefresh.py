"""Keeping the keyring as the store has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.cache.memorykeys import MemoryKeyCopies, MemoryKeyEvents
from tbeast.codecs.keycopies import LIST_AT, copies_of, encode_change, read_copies
from tbeast.domain.counters import Counters
from tbeast.domain.keys import CHANGED, CREATED, REVOKED, KeyChange, KeyRecord, account_of, digest_of
from tbeast.domain.plans import PLANS
from tbeast.errors import CacheUnavailableError, StoreUnavailableError
from tbeast.services.keyrefresh import (
    CACHE,
    COPY_SECONDS,
    LOAD_SECONDS,
    LONGEST_RETRY_SECONDS,
    MOST_AT_ONCE,
    NOTHING,
    PATIENCE_SECONDS,
    POLL_SECONDS,
    REREAD_SECONDS,
    START_SECONDS,
    STORE,
    KeyRefresh,
)
from tbeast.services.keyring import Keyring
from tbeast.testing.logs import listen

BEGINNING = 1_000_000.0

Answer = tuple[Sequence[KeyRecord], float]


class Store:
    """The keys, in memory; answers at once, or when the test says so.

    @ivar asked: the marks.
    @ivar away: why it cannot be asked.
    @ivar slow: whether answers wait in C{under_way}.
    """

    def __init__(self, clock: Clock) -> None:
        self.rows: dict[str, KeyRecord] = {}
        self.asked: list[float | None] = []
        self.away = ""
        self.slow = False
        self.under_way: list[tuple[Deferred[Answer], Answer]] = []
        self._clock = clock

    @property
    def time(self) -> float:
        return BEGINNING + self._clock.seconds()

    def put(self, text: str, **changes: Any) -> KeyRecord:
        record = KeyRecord(account_of(text, "free", text), False, self.time, None, 0, "2026-04", self.time)
        self.rows[text] = evolve(record, **changes)
        return self.rows[text]

    def revoke(self, text: str) -> KeyChange:
        self.rows[text] = evolve(self.rows[text], revoked=True, changed_at=self.time)
        return self.word(REVOKED, text)

    def word(self, what: str, text: str) -> KeyChange:
        account = self.rows[text].account
        return KeyChange(what, account.key_id, account.digest)

    def changed_since(self, mark: float | None) -> Deferred[Answer]:
        self.asked.append(mark)
        if self.away:
            return fail(StoreUnavailableError(self.away))
        rows = [row for row in self.rows.values() if mark is None or row.changed_at >= mark - 60.0]
        answer = (rows, self.time)
        if not self.slow:
            return succeed(answer)
        waiting: Deferred[Answer] = Deferred()
        self.under_way.append((waiting, answer))
        return waiting

    def answer(self) -> None:
        waiting, answer = self.under_way.pop(0)
        waiting.callback(answer)


class Copies(MemoryKeyCopies):
    """Counts what is asked of it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock.seconds)
        self.put: list[set[str]] = []
        self.reads = 0

    async def put_many(self, copies: Any) -> None:
        await super().put_many(copies)
        self.put.append(set(copies))

    async def all(self) -> dict[str, bytes]:
        self.reads += 1
        return await super().all()


class Node:
    """A node's keyring, kept by the service under test.

    @ivar used: what was told of the keys' use.
    """

    def __init__(self, clock: Clock, store: Store, copies: MemoryKeyCopies | None = None, events: Any = None) -> None:
        self.clock = clock
        self.ring = Keyring()
        self.counters = Counters()
        self.used: dict[str, tuple[str, int]] = {}
        self.refresh = KeyRefresh(
            self.ring, store, clock, lambda: BEGINNING + clock.seconds(), lambda: 0.5, self.counters, copies, events,
            self.used.update,
        )  # fmt: skip

    def start(self) -> Deferred[None]:
        return self.refresh.startService()

    def takes(self, *texts: str) -> list[str]:
        """Those of the keys that may ask."""
        found = [text for text in texts if self.ring.find(text.encode())]
        by_id = [text for text in texts if self.ring.find_by_id(account_of(text, "free", "x").key_id)]
        assert found == by_id, (found, by_id)
        return found


class RefreshCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = Store(self.clock)
        self.copies = Copies(self.clock)
        self.events = MemoryKeyEvents(self.clock)
        self.log = listen(self)

    def node(self, start: bool = True, **parts: Any) -> Node:
        parts = {"copies": self.copies, "events": self.events, **parts}
        node = Node(self.clock, self.store, **parts)
        if start:
            self.successResultOf(node.start())
            self.addCleanup(self.stop, node)
            self.pass_seconds(0.0)
        return node

    def stop(self, node: Node) -> None:
        self.successResultOf(node.refresh.stopService())

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass, a little at a time, and a few turns of the reactor at its end."""
        self.clock.pump([0.05] * round(seconds / 0.05))
        self.clock.pump([0.001] * 5)

    def tell(self, change: KeyChange) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.events.publish(encode_change(change))))
        self.clock.advance(0)


class StartTests(RefreshCase):
    def test_from_the_store(self) -> None:
        self.store.put("first-key", current_usage=7)
        node = self.node()
        self.assertEqual((["first-key"], True), (node.takes("first-key", "second-key"), node.ring.is_complete))
        self.assertEqual(
            (STORE, BEGINNING, ""), (node.refresh.status.source, node.refresh.status.since, node.refresh.status.why)
        )
        self.assertEqual({account_of("first-key", "free", "").key_id: ("2026-04", 7)}, node.used)
        self.assertEqual(1, len(self.log.having("1 keys loaded from the database")))

    def test_incomplete_until_then(self) -> None:
        """From the making on, also while the first answer is under way."""
        self.store.slow = True
        node = self.node(start=False)
        self.assertFalse(node.ring.is_complete)
        started = node.start()
        self.addCleanup(self.stop, node)
        self.assertNoResult(started)
        self.assertFalse(node.ring.is_complete)
        self.store.answer()
        self.successResultOf(started)
        self.assertTrue(node.ring.is_complete)

    def test_the_start_does_not_wait_for_ever(self) -> None:
        self.store.slow = True
        self.store.put("first-key")
        node = self.node(start=False, copies=None, events=None)
        started = node.start()
        self.addCleanup(self.stop, node)
        self.pass_seconds(START_SECONDS - 0.1)
        self.assertNoResult(started)
        self.pass_seconds(0.2)
        self.successResultOf(started)
        self.assertEqual((NOTHING, []), (node.refresh.status.source, node.takes("first-key")))
        self.store.answer()
        self.assertEqual((STORE, ["first-key"]), (node.refresh.status.source, node.takes("first-key")))

    def test_store_away_and_no_cache(self) -> None:
        """The start goes on; the store is tried again and again, at least every few seconds."""
        self.store.away = "no such host"
        node = self.node(copies=None, events=None)
        self.assertEqual((NOTHING, "no such host"), (node.refresh.status.source, node.refresh.status.why))
        self.assertFalse(node.ring.is_complete)
        self.pass_seconds(120.0)
        self.assertGreater(len(self.store.asked), 120.0 / LONGEST_RETRY_SECONDS)
        self.assertLess(len(self.store.asked), 60)
        self.assertEqual(1, len(self.log.having("cannot be refreshed: no such host")))
        self.store.away = ""
        self.store.put("first-key")
        self.pass_seconds(LONGEST_RETRY_SECONDS)
        self.assertEqual((["first-key"], True), (node.takes("first-key"), node.ring.is_complete))
        self.assertEqual((STORE, ""), (node.refresh.status.source, node.refresh.status.why))
        self.assertGreater(node.refresh.status.since, BEGINNING + 100.0)

    def test_many(self) -> None:
        """Taken in some at a time, with the reactor's turns between."""
        for number in range(2 * MOST_AT_ONCE + 1):
            self.store.put(f"key-{number}")
        node = self.node(start=False)
        started = node.start()
        self.addCleanup(self.stop, node)
        self.assertEqual((MOST_AT_ONCE, False), (len(node.ring), node.ring.is_complete))
        self.clock.advance(0)
        self.clock.advance(0)
        self.successResultOf(started)
        self.assertEqual((2 * MOST_AT_ONCE + 1, True), (len(node.ring), node.ring.is_complete))
        for _ in range(4):
            self.clock.advance(0)
        self.assertTrue(read_copies(self.successResultOf(Deferred.fromCoroutine(self.copies.all()))).whole)
        self.assertLessEqual(max(map(len, self.copies.put)), MOST_AT_ONCE + 1)

    def test_a_surprise(self) -> None:
        """What nobody foresaw is logged, counted, and the work goes on."""
        node = self.node()
        whole, self.store.changed_since = self.store.changed_since, lambda mark: fail(ValueError("boom"))  # type: ignore[method-assign]
        self.pass_seconds(0.15)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.assertEqual(1, node.counters.value("service_failures", "key poll"))
        self.store.changed_since = whole  # type: ignore[method-assign]
        self.store.put("first-key")
        self.pass_seconds(POLL_SECONDS)
        self.assertEqual(["first-key"], node.takes("first-key"))

    def test_stopped(self) -> None:
        """Nothing is left waiting, whatever was under way, and what comes late changes nothing."""
        self.store.slow = True
        node = self.node(start=False)
        started = node.start()
        self.pass_seconds(PATIENCE_SECONDS + 0.5)
        self.successResultOf(node.refresh.stopService())
        self.successResultOf(started)
        self.assertEqual([], list(self.clock.getDelayedCalls()))
        self.store.put("first-key")
        self.tell(self.store.word(REVOKED, "first-key"))
        self.assertEqual(([], 0), (node.ring.revocations(), len(node.ring)))

    def test_started_again(self) -> None:
        self.store.put("first-key")
        node = self.node()
        self.successResultOf(node.refresh.stopService())
        self.store.revoke("first-key")
        self.store.put("second-key")
        self.successResultOf(node.start())
        self.assertEqual(["second-key"], node.takes("first-key", "second-key"))


class PollTests(RefreshCase):
    def test_changes(self) -> None:
        """Seen at the next question, which names the time of the last answer."""
        self.store.put("first-key")
        node = self.node(copies=None, events=None)
        self.pass_seconds(POLL_SECONDS)
        self.store.put("second-key", current_usage=3)
        account = evolve(account_of("first-key", "pro", "x"), plan=PLANS["enterprise"])
        self.store.put("first-key", account=account)
        self.pass_seconds(POLL_SECONDS)
        self.assertEqual(["first-key", "second-key"], node.takes("first-key", "second-key"))
        self.assertEqual(account, node.ring.find(b"first-key"))
        self.assertEqual(("2026-04", 3), node.used[account_of("second-key", "free", "").key_id])
        self.store.revoke("first-key")
        self.pass_seconds(POLL_SECONDS)
        self.assertEqual(["second-key"], node.takes("first-key", "second-key"))
        first, *marks = self.store.asked
        self.assertIs(None, first)
        for number, mark in enumerate(marks):
            self.assertEqual(BEGINNING + number * POLL_SECONDS, round(mark or 0.0, 1))

    def test_never_twice_at_once(self) -> None:
        """A store that is slow is asked one thing at a time; and the loading of all does not hold up the changes."""
        self.store.put("first-key")
        node = self.node(copies=None, events=None)
        self.store.slow = True
        self.pass_seconds(10 * POLL_SECONDS)
        self.assertEqual(1, len(self.store.under_way))
        self.pass_seconds(LOAD_SECONDS)
        self.assertEqual(2, len(self.store.under_way))
        self.store.answer()
        self.store.revoke("first-key")
        self.pass_seconds(POLL_SECONDS)
        self.assertEqual([False, True], [mark is not None for mark in self.store.asked[-2:]])
        self.store.under_way.reverse()
        self.store.answer()
        self.assertEqual([], node.takes("first-key"))
        self.store.answer()
        self.assertEqual([], node.takes("first-key"))

    def test_store_away_later(self) -> None:
        """What is known stays known; what is unknown is bad still; the log says it once."""
        self.store.put("first-key")
        node = self.node(copies=None, events=None)
        self.store.away = "gone"
        self.pass_seconds(60.0)
        self.assertEqual((["first-key"], True), (node.takes("first-key"), node.ring.is_complete))
        self.assertEqual((STORE, "gone"), (node.refresh.status.source, node.refresh.status.why))
        self.assertEqual(1, len(self.log.having("cannot be refreshed: gone")))
        self.store.away = ""
        self.store.put("second-key")
        self.pass_seconds(POLL_SECONDS)
        self.assertEqual(["second-key"], node.takes("second-key"))
        self.assertEqual("", node.refresh.status.why)

    def test_vanished(self) -> None:
        """Seen when all are loaded again."""
        self.store.put("first-key")
        self.store.put("second-key")
        node = self.node()
        del self.store.rows["first-key"]
        self.pass_seconds(LOAD_SECONDS - 1.0)
        self.assertEqual(["first-key", "second-key"], node.takes("first-key", "second-key"))
        self.pass_seconds(2.0)
        self.assertEqual(["second-key"], node.takes("first-key", "second-key"))
        self.assertEqual({digest_of(b"second-key").hex(), LIST_AT}, set(self.kept()))

    def test_an_end_that_comes(self) -> None:
        """With nobody's doing, and the store away."""
        self.store.put("first-key", ends_at=BEGINNING + 10.0)
        node = self.node()
        self.store.away = "gone"
        self.pass_seconds(9.5)
        self.assertEqual(["first-key"], node.takes("first-key"))
        self.pass_seconds(1.5)
        self.assertEqual([], node.takes("first-key"))
        (change,) = read_copies(self.kept()).revoked
        self.assertEqual(digest_of(b"first-key"), change.digest)

    def test_unknown_keys_cost_nothing(self) -> None:
        """Ten thousand of them: not one question to the store or to the cache."""
        self.store.put("first-key")
        node = self.node()
        asked, reads = len(self.store.asked), self.copies.reads
        self.assertEqual([None] * 10_000, [node.ring.find(b"no-key-%d" % number) for number in range(10_000)])
        self.clock.advance(0)
        self.assertEqual((asked, reads), (len(self.store.asked), self.copies.reads))

    def kept(self) -> dict[str, bytes]:
        return self.successResultOf(Deferred.fromCoroutine(self.copies.all()))


class MessageTests(RefreshCase):
    def test_revoked(self) -> None:
        """Out at once, and nobody is asked; not even if the store is away."""
        self.store.put("first-key")
        node = self.node()
        asked = len(self.store.asked)
        word = self.store.revoke("first-key")
        self.store.away = "gone"
        self.tell(word)
        self.assertEqual(([], asked), (node.takes("first-key"), len(self.store.asked)))
        (line,) = self.log.having("was revoked: word of it came")
        self.assertIn(word.key_id, line)

    def test_an_answer_from_before(self) -> None:
        """That was read before the revocation and comes after its message changes nothing."""
        self.store.put("first-key")
        node = self.node()
        self.store.slow = True
        self.pass_seconds(POLL_SECONDS)
        self.tell(self.store.revoke("first-key"))
        self.store.answer()
        self.pass_seconds(0.5)
        self.assertEqual([], node.takes("first-key"))

    def test_announced(self) -> None:
        """By a node that revoked it: in force there at once, and on the others by the message."""
        self.store.put("first-key")
        nodes = [self.node(), self.node()]
        word = self.store.revoke("first-key")
        telling = Deferred.fromCoroutine(nodes[0].refresh.announce(word))
        self.assertEqual([], nodes[0].takes("first-key"))
        self.assertTrue(self.successResultOf(telling))
        self.clock.advance(0)
        self.assertEqual([], nodes[1].takes("first-key"))

    def test_announced_to_nobody(self) -> None:
        """The line being cut, or there being none."""
        self.store.put("first-key")
        nodes = [self.node(), self.node(events=None, copies=None)]
        self.events.cut()
        word = self.store.revoke("first-key")
        for node in nodes:
            self.assertFalse(self.successResultOf(Deferred.fromCoroutine(node.refresh.announce(word))))
            self.assertEqual([], node.takes("first-key"))

    def test_created_and_changed(self) -> None:
        """The store is asked soon, once for many messages."""
        node = self.node()
        self.pass_seconds(0.5)
        asked = len(self.store.asked)
        for number in range(20):
            self.store.put(f"key-{number}")
            self.tell(self.store.word((CREATED, CHANGED)[number % 2], f"key-{number}"))
        self.pass_seconds(0.2)
        self.assertEqual((20, asked + 1), (len(node.ring), len(self.store.asked)))

    def test_while_an_answer_is_under_way(self) -> None:
        """It may have been read too early: the store is asked again."""
        node = self.node()
        self.store.slow = True
        self.pass_seconds(POLL_SECONDS)
        self.store.put("first-key")
        self.tell(self.store.word(CREATED, "first-key"))
        self.store.slow = False
        self.store.answer()
        self.assertEqual([], node.takes("first-key"))
        self.pass_seconds(0.2)
        self.assertEqual(["first-key"], node.takes("first-key"))

    def test_a_flood(self) -> None:
        """Messages without end make no questions without end."""
        self.node()
        asked = len(self.store.asked)
        self.store.put("first-key")
        for _ in range(200):
            self.tell(self.store.word(CHANGED, "first-key"))
            self.clock.advance(0.01)
        self.assertLess(len(self.store.asked) - asked, 25)

    def test_a_flood_while_the_store_is_away(self) -> None:
        self.node()
        self.store.away = "gone"
        self.pass_seconds(POLL_SECONDS)
        asked = len(self.store.asked)
        self.store.put("first-key")
        for _ in range(200):
            self.tell(self.store.word(CHANGED, "first-key"))
            self.clock.advance(0.01)
        self.assertLess(len(self.store.asked) - asked, 5)

    def test_nonsense(self) -> None:
        node = self.node()
        self.successResultOf(Deferred.fromCoroutine(self.events.publish(b"\xffhello")))
        self.clock.advance(0)
        self.assertEqual(1, node.counters.value("service_failures", "key message"))

    def test_the_line(self) -> None:
        """When it is back the store is asked at once for what was not heard."""
        self.store.put("first-key")
        node = self.node()
        self.assertTrue(node.refresh.line_up)
        self.pass_seconds(0.5)
        self.events.cut()
        self.clock.advance(0)
        self.assertFalse(node.refresh.line_up)
        self.store.revoke("first-key")
        self.events.mend()
        self.pass_seconds(0.2)
        self.assertEqual(([], True), (node.takes("first-key"), node.refresh.line_up))


class CopyTests(RefreshCase):
    def kept(self) -> dict[str, bytes]:
        return self.successResultOf(Deferred.fromCoroutine(self.copies.all()))

    def lay(self, records: Iterable[KeyRecord]) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.copies.put_many(copies_of(records))))

    def test_written(self) -> None:
        """All at first, then what changes; a mark in the place of what is revoked; and they are all there are."""
        first, second = self.store.put("first-key"), self.store.put("second-key")
        self.node()
        self.assertEqual(
            ({first, second}, True), (set(read_copies(self.kept()).records), read_copies(self.kept()).whole)
        )
        self.pass_seconds(POLL_SECONDS)
        self.copies.put.clear()
        third = self.store.put("third-key")
        self.pass_seconds(POLL_SECONDS)
        self.assertEqual([{third.account.digest.hex(), LIST_AT}], self.copies.put)
        self.store.revoke("second-key")
        self.pass_seconds(POLL_SECONDS + 0.2)
        copies = read_copies(self.kept())
        self.assertEqual(({first, third}, True), (set(copies.records), copies.whole))
        self.assertEqual([second.account.digest], [change.digest for change in copies.revoked])

    def test_a_mark_at_once(self) -> None:
        """Whoever hears of a revocation writes it down, the store being away too."""
        self.store.put("first-key")
        self.node()
        word = self.store.revoke("first-key")
        self.store.away = "gone"
        self.tell(word)
        self.pass_seconds(0.2)
        self.assertEqual(((), (word,)), (read_copies(self.kept()).records, read_copies(self.kept()).revoked))

    def test_a_copy_that_a_slower_node_wrote_over_the_mark(self) -> None:
        """Is written over again when all are loaded."""
        record = self.store.put("first-key")
        self.node()
        self.store.revoke("first-key")
        self.pass_seconds(POLL_SECONDS + 0.2)
        self.lay([record])
        self.pass_seconds(LOAD_SECONDS)
        self.assertEqual((), read_copies(self.kept()).records)

    def test_they_do_not_run_out(self) -> None:
        """Every hour all are written again, though nothing has changed."""
        self.store.put("first-key")
        self.node(events=None)
        self.pass_seconds(POLL_SECONDS)
        self.copies.put.clear()
        self.clock.pump([1.0] * round(COPY_SECONDS + 2 * POLL_SECONDS))
        self.assertEqual([{digest_of(b"first-key").hex(), LIST_AT}], self.copies.put)

    def test_a_cache_that_came_back_empty(self) -> None:
        """All are written again; but not again and again, though the line breaks all the time."""
        self.store.put("first-key")
        self.node()
        self.pass_seconds(61.0)
        self.copies.put.clear()
        for _ in range(20):
            self.successResultOf(Deferred.fromCoroutine(self.copies.remove(list(self.kept()))))
            self.events.cut()
            self.pass_seconds(0.5)
            self.events.mend()
            self.pass_seconds(0.5)
        self.assertEqual(1, len(self.copies.put))
        self.pass_seconds(65.0)
        self.assertEqual(2, len(self.copies.put))
        self.assertTrue(read_copies(self.kept()).whole)

    def test_a_cache_that_is_away(self) -> None:
        """Holds up nothing; what was to be written is written when it is back, as it is by then."""
        self.store.put("first-key")
        self.copies.away = "cut"
        node = self.node()
        self.assertEqual(["first-key"], node.takes("first-key"))
        self.pass_seconds(10.0)
        self.assertEqual(1, len(self.log.having("copies of the keys cannot be read or written: cut")))
        self.store.revoke("first-key")
        self.store.put("second-key")
        self.pass_seconds(10.0)
        self.assertEqual(["second-key"], node.takes("first-key", "second-key"))
        self.copies.away = ""
        self.pass_seconds(POLL_SECONDS + 0.2)
        copies = read_copies(self.kept())
        self.assertEqual(
            (["second-key"], 1, True),
            ([record.account.name for record in copies.records], len(copies.revoked), copies.whole),
        )
        self.assertEqual(1, len(self.log.having("copies of the keys can be written again")))

    def test_served_from(self) -> None:
        """The store being away at the start. What all nodes wrote together is complete, and said to be the cache's."""
        records = [self.store.put("first-key", current_usage=5), self.store.put("second-key", revoked=True)]
        self.lay(records)
        self.store.away = "gone"
        node = self.node()
        self.assertEqual((["first-key"], True), (node.takes("first-key", "second-key"), node.ring.is_complete))
        self.assertEqual((CACHE, BEGINNING, "gone"), (
            node.refresh.status.source, node.refresh.status.since, node.refresh.status.why))  # fmt: skip
        self.assertEqual(("2026-04", 5), node.used[records[0].account.key_id])
        self.assertEqual(1, len(self.log.having("1 keys taken from their copies in the cache")))
        self.store.away = ""
        self.store.put("third-key")
        self.pass_seconds(LONGEST_RETRY_SECONDS)
        self.assertEqual(STORE, node.refresh.status.source)
        self.assertEqual(["first-key", "third-key"], node.takes("first-key", "second-key", "third-key"))

    def test_served_from_some(self) -> None:
        """Where copies are missing, what is there is served, and an unknown key may be a good one."""
        self.lay([self.store.put("first-key"), self.store.put("second-key")])
        self.successResultOf(Deferred.fromCoroutine(self.copies.remove([digest_of(b"second-key").hex()])))
        self.store.away = "gone"
        node = self.node()
        self.assertEqual((["first-key"], False), (node.takes("first-key", "second-key"), node.ring.is_complete))
        self.assertEqual(1, len(self.log.having("there may be others")))
        self.lay([self.store.rows["first-key"], self.store.rows["second-key"]])
        self.pass_seconds(REREAD_SECONDS + LONGEST_RETRY_SECONDS)
        self.assertEqual(
            (["first-key", "second-key"], True), (node.takes("first-key", "second-key"), node.ring.is_complete)
        )

    def test_not_read_too_often(self) -> None:
        self.store.away = "gone"
        self.node()
        self.pass_seconds(120.0)
        self.assertLess(self.copies.reads, 120.0 / REREAD_SECONDS + 2)
        self.assertGreater(self.copies.reads, 4)

    def test_a_store_that_hangs(self) -> None:
        """The copies are looked for before it has failed."""
        self.lay([self.store.put("first-key")])
        self.store.slow = True
        node = self.node(start=False)
        started = node.start()
        self.addCleanup(self.stop, node)
        self.pass_seconds(PATIENCE_SECONDS - 0.1)
        self.assertNoResult(started)
        self.pass_seconds(0.2)
        self.successResultOf(started)
        self.assertEqual((CACHE, ["first-key"]), (node.refresh.status.source, node.takes("first-key")))
        del self.store.rows["first-key"]
        self.store.under_way.clear()

    def test_the_store_has_the_last_word(self) -> None:
        """Whatever copies said, also in the future: keys that it does not have, and limits that it has otherwise."""
        pro = account_of("first-key", "pro", "x")
        late = self.store.time + 1e6
        forged = [
            evolve(self.store.put("first-key"), account=pro, changed_at=late),
            evolve(self.store.put("forged-key"), changed_at=late),
        ]
        del self.store.rows["forged-key"]
        self.lay(forged)
        self.store.away = "gone"
        node = self.node()
        self.assertEqual((pro, ["forged-key"]), (node.ring.find(b"first-key"), node.takes("forged-key")))
        self.store.away = ""
        self.pass_seconds(LONGEST_RETRY_SECONDS)
        self.assertEqual([], node.takes("forged-key"))
        self.assertEqual(self.store.rows["first-key"].account, node.ring.find(b"first-key"))
        self.assertNotIn(digest_of(b"forged-key").hex(), self.kept())

    def test_revoked_in_the_meantime(self) -> None:
        """A copy is not believed against a message that came before it."""
        self.lay([self.store.put("first-key")])
        self.store.away = "gone"
        self.copies.away = "cut"
        node = self.node()
        self.tell(self.store.word(REVOKED, "first-key"))
        self.copies.away = ""
        self.pass_seconds(REREAD_SECONDS + LONGEST_RETRY_SECONDS)
        self.assertEqual(([], CACHE), (node.takes("first-key"), node.refresh.status.source))

    def test_nobody_at_all(self) -> None:
        """Store and cache away: the start goes on, and says why."""
        self.store.away = "gone"
        self.copies.away = "cut"
        node = self.node()
        self.assertEqual((NOTHING, "gone", False), (
            node.refresh.status.source, node.refresh.status.why, node.ring.is_complete))  # fmt: skip

    def test_reading_fails_in_another_way(self) -> None:
        async def broken() -> dict[str, bytes]:
            raise ValueError("boom")

        self.copies.all = broken  # type: ignore[method-assign]
        self.store.slow = True
        node = self.node(start=False)
        started = node.start()
        self.addCleanup(self.stop, node)
        self.pass_seconds(START_SECONDS + 0.1)
        self.successResultOf(started)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.assertEqual(1, node.counters.value("service_failures", "key copies"))


class Cluster(RuleBasedStateMachine):
    """Two nodes, a store that is slow, away and back, a cache and a line that break and mend.

    Whatever happens: a node that has heard of a revocation takes that key no more; and five seconds after a revocation
    nobody takes the key who could hear of it on either way for all of that time.
    """

    texts = tuple(f"key-{number}" for number in range(3))

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.store = Store(self.clock)
        self.copies = Copies(self.clock)
        self.events = MemoryKeyEvents(self.clock)
        self.nodes = [Node(self.clock, self.store, self.copies, self.events) for _ in range(2)]
        for node in self.nodes:
            node.start()
        self.revoked: dict[str, float] = {}
        self.refused: list[set[str]] = [set(), set()]
        self.store_up_since = 0.0

    @rule(text=st.sampled_from(texts))
    def make(self, text: str) -> None:
        if text not in self.store.rows and not self.store.away:
            self.store.put(text)
            self._tell(CREATED, text)

    @rule(text=st.sampled_from(texts))
    def revoke(self, text: str) -> None:
        if text in self.store.rows and text not in self.revoked and not self.store.away:
            self.store.revoke(text)
            self.revoked[text] = self.clock.seconds()
            self._tell(REVOKED, text)

    def _tell(self, what: str, text: str) -> None:
        telling = Deferred.fromCoroutine(self.events.publish(encode_change(self.store.word(what, text))))
        telling.addErrback(lambda failure: failure.trap(CacheUnavailableError) and None)

    @rule(away=st.booleans())
    def store_away(self, away: bool) -> None:
        self.store.away = "gone" if away else ""

    @rule()
    def store_slow(self) -> None:
        self.store.slow = True

    @rule(newest_first=st.booleans())
    def store_answers(self, newest_first: bool) -> None:
        self.store.slow = False
        if newest_first:
            self.store.under_way.reverse()
        while self.store.under_way:
            self.store.answer()

    @rule(up=st.booleans())
    def cache_line(self, up: bool) -> None:
        self.copies.away = "" if up else "cut"
        if up:
            self.events.mend()
        else:
            self.events.cut()

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        """The new life knows what the store or the copies tell it."""
        self.nodes[which].refresh.stopService()
        self.nodes[which] = Node(self.clock, self.store, self.copies, self.events)
        self.nodes[which].start()
        self.refused[which] = set()

    @rule(seconds=st.sampled_from([0.0, 0.125, 1.0, 3.0, 700.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.pump([seconds / 8] * 8 if seconds < 100.0 else [7.0] * 100)

    @rule()
    def five_seconds_in_peace(self) -> None:
        """With the store there, all is heard, whatever the cache does."""
        self.store.away = ""
        self.store_answers(False)
        self.clock.pump([0.25] * 22)
        for node in self.nodes:
            assert node.ring.is_complete
            assert set(node.takes(*self.texts)) == set(self.store.rows) - set(self.revoked)

    @invariant()
    def no_revoked_key_comes_back(self) -> None:
        for node, refused in zip(getattr(self, "nodes", ()), getattr(self, "refused", ()), strict=True):
            taken = set(node.takes(*self.texts))
            assert not taken & refused
            refused |= {text for text in self.texts if node.ring.revocation_of(digest_of(text.encode()))}
            assert not taken & refused

    def teardown(self) -> None:
        for node in getattr(self, "nodes", ()):
            node.refresh.stopService()


class ClusterTests(SynchronousTestCase):
    def test_any_order(self) -> None:
        run_state_machine_as_test(
            Cluster, settings=settings(max_examples=60, stateful_step_count=30, deadline=None, database=None)
        )
