"""The sync job: against tables in memory, step by step; and against a real PostgreSQL and Valkey, with faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress as ignoring
from datetime import UTC, datetime, timedelta
from itertools import count
from os import urandom
from typing import Any, TypeVar, cast
from uuid import UUID

import ujson
from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.cache.counters import ValkeyUsageCounters
from tbeast.adapters.cache.keycopies import ValkeyKeyCopies
from tbeast.adapters.cache.memorykeys import MemoryKeyCopies, MemoryUsageCounters
from tbeast.adapters.cache.rebuilding import ValkeyParameterCopies, ValkeyRebuilding
from tbeast.adapters.store import keyrows
from tbeast.adapters.store.parameterrows import PostgresParameters, set_values
from tbeast.adapters.store.postgres import Connection, connect, target
from tbeast.adapters.store.syncrows import PostgresSync
from tbeast.adapters.store.threads import StorePool
from tbeast.adapters.store.usagerows import ensure_partitions
from tbeast.codecs.keycopies import read_copies
from tbeast.domain.counters import Counters
from tbeast.domain.keys import KeyRecord, account_of
from tbeast.domain.syncplan import (
    SECOND,
    WHOLE,
    Building,
    Chunk,
    Grant,
    Held,
    Marks,
    Place,
    ReportRow,
    Survey,
    Tidied,
    Trimmed,
    UsageKind,
    UsageRow,
    Walk,
    read_marks,
)
from tbeast.errors import CacheUnavailableError, StoreUnavailableError
from tbeast.services.nightlysync import NightlySync
from tbeast.services.sync import CacheSide, Progress, Summary, Sync, SyncLostError
from tbeast.test.adapters.cache.clients import SharedServerCase, sleep, until
from tbeast.testing.logs import listen
from tbeast.testing.postgres import fresh_database

NOW = 1_790_000_000
NOW_US = NOW * SECOND
MANY = 10**9
KIND = UsageKind(b"abc", b"n", b"lpo", b"http", b"BTC", b"", b"", b"200", b"1")
T = TypeVar("T")


class MemoryStore:
    """L{tbeast.services.sync.SyncStore} over a list of rows: when written, and number."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int]] = []
        self.reported: list[int] = []
        self.tidying = [Tidied(partitions=2, more=True), Tidied(keys=3)]
        self.holder = ""
        self.finished_at: float | None = None
        self.summary: str | None = None
        self.asked: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.kept = 0

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.faults:
            raise self.faults[what]

    async def take(self, node: str, token: str, seconds: float, not_since: float | None) -> Grant | Held:
        self._ask("take")
        if self.holder:
            return Held(self.holder, False)
        if not_since is not None and self.finished_at is not None and self.finished_at >= not_since:
            return Held(node, True)
        self.holder = token
        return Grant("here", NOW_US)

    async def keep(self, token: str, seconds: float) -> bool:
        self._ask("keep")
        self.kept += 1
        return self.holder == token

    async def give_back(self, token: str, summary: str | None) -> None:
        self._ask("give_back")
        if self.holder == token:
            self.holder, self.summary = "", summary
            if summary is not None:
                self.finished_at = NOW

    async def tidy(self, now_us: int) -> Tidied:
        self._ask("tidy")
        return self.tidying.pop(0) if self.tidying else Tidied()

    async def summarize(self) -> None:
        self._ask("summarize")

    async def estimate(self) -> int:
        return len(self.rows)

    async def usage(self, walk: Walk, now_us: int, limit: int) -> Chunk[UsageRow]:
        self._ask("usage")
        bound = walk.until_us if isinstance(walk, Building) else walk.bound_us
        places = sorted((written, str(UUID(int=number + 1))) for written, number in self.rows)
        found = [place for place in places if walk.after < place and place[0] < bound][:limit]
        rows = [UsageRow(row_id.encode(), b"%d" % at, b"1", b"1", b"1", KIND) for at, row_id in found]
        return Chunk(rows, found[-1] if found else None)

    async def reports(self, after: Place, limit: int) -> Chunk[ReportRow]:
        self._ask("reports")
        places = [(at, str(UUID(int=at))) for at in sorted(self.reported)]
        found = [place for place in places if place > after][:limit]
        return Chunk([ReportRow(row_id.encode(), (b"%d" % at,)) for at, row_id in found], found[-1] if found else None)


class MemoryCache:
    """L{tbeast.services.sync.SyncCache} over sets.

    @ivar fuel: how many writes of usage succeed before the cache goes away.
    """

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.ids: set[bytes] = set()
        self.reported: set[bytes] = set()
        self.forgotten = 0
        self.fuel = 10**9
        self.told: list[str] = []
        self.between: Callable[[], object] = lambda: None

    async def marks(self) -> Mapping[str, str]:
        if self.fuel <= 0:
            raise CacheUnavailableError("away")
        return self.fields

    async def set_marks(self, fields: Mapping[str, str]) -> None:
        self.fields = dict(fields)

    async def index_size(self) -> int:
        return len(self.ids)

    async def survey(self, cutoff_us: int) -> Survey:
        return Survey(len(self.ids), len(self.ids), len(self.ids))

    async def forget(self) -> None:
        self.forgotten += 1
        self.ids.clear()

    async def write_usage(self, rows: Sequence[UsageRow]) -> None:
        self.between()
        if self.fuel <= 0:
            self.ids |= {row.id for row in rows[::2]}
            raise CacheUnavailableError("away")
        self.fuel -= 1
        self.ids |= {row.id for row in rows}

    async def write_reports(self, rows: Sequence[ReportRow]) -> None:
        self.reported |= {row.id for row in rows}

    async def trim(self, cutoff_us: int) -> Trimmed:
        self.told.append(self.fields["index"])
        return Trimmed(4, len(self.ids), len(self.ids), len(self.ids))


class Keys:
    """L{tbeast.interfaces.KeyStore}: one answer after the other."""

    def __init__(self) -> None:
        self.answers: list[list[KeyRecord]] = []
        self.asked: list[float | None] = []

    async def changed_since(self, mark: float | None) -> tuple[Sequence[KeyRecord], float]:
        self.asked.append(mark)
        return (self.answers.pop(0) if self.answers else []), 7.0


class Table:
    """The table of parameters and its copy."""

    def __init__(self, rows: Mapping[str, str]) -> None:
        self.rows = rows

    async def read(self) -> Mapping[str, str]:
        return self.rows

    async def put(self, rows: Mapping[str, str]) -> None:
        self.rows = rows


def record(name: str, revoked: bool = False, used: int = 0, month: str = "2026-09") -> KeyRecord:
    return KeyRecord(account_of(f"key-{name}", "free", name), revoked, 0.0, None, used, month)


class SyncCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.store, self.cache, self.keys = MemoryStore(), MemoryCache(), Keys()
        self.copies, self.counts = MemoryKeyCopies(self.clock.seconds), MemoryUsageCounters(self.clock.seconds)
        self.config = Table({})
        self.told: list[Progress] = []
        self.log = listen(self)
        self.tokens = (f"token-{number}" for number in count())
        self.sync = self.make(CacheSide(self.cache, self.copies, self.counts, self.config))

    def make(self, side: CacheSide | None, chunk_rows: int = 3) -> Sync:
        table = Table({"when_unmetered": "refuse"})
        return Sync(self.store, self.keys, table, side, self.clock, "n1", lambda: next(self.tokens), chunk_rows)

    def fill(self, rows: int, since: int = NOW_US - 3600 * SECOND) -> None:
        self.store.rows += [(since + number, len(self.store.rows) + number) for number in range(rows)]

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        found: T = self.successResultOf(ensureDeferred(work))
        return found

    def run_once(self, **options: Any) -> Summary:
        done = self.wait(self.sync.run(told=self.told.append, **options))
        assert isinstance(done, Summary)
        return done


class SyncTests(SyncCase):
    def test_everything_is_built_from_nothing(self) -> None:
        self.fill(10)
        self.store.reported = [NOW_US - 5, NOW_US - 4, NOW_US - 3, NOW_US - 2]
        self.keys.answers = [[record("a", used=5)]]
        done = self.run_once()
        self.assertEqual(done, Summary(
            why="there are no marks", keys=1, counters=1, parameters=1, usage=10, reports=4, trimmed=4, index=10,
            tidied=Tidied(partitions=2, keys=3),
        ))  # fmt: skip
        self.assertEqual((len(self.cache.ids), len(self.cache.reported)), (10, 4))
        marks = read_marks(self.cache.fields)
        self.assertEqual(marks, Marks(
            WHOLE, "here", NOW_US, marks.at, written_us=NOW_US, reports_us=NOW_US, index=10, by_key=10, by_asset=10
        ))  # fmt: skip
        self.assertEqual(self.config.rows, {"when_unmetered": "refuse"})
        self.assertEqual(self.log.having("built anew"), ["the copy of usage is built anew: there are no marks"])

    def test_the_next_one_reads_what_is_new(self) -> None:
        self.fill(10)
        self.run_once()
        self.fill(2, NOW_US - 2 * SECOND)
        self.store.asked.clear()
        done = self.run_once()
        self.assertEqual((done.why, done.usage, done.index), ("", 2, 12))
        self.assertEqual(self.cache.forgotten, 1)

    def test_a_full_one_begins_with_nothing(self) -> None:
        self.fill(10)
        self.run_once()
        self.cache.ids.add(b"of no row")
        done = self.run_once(full=True)
        self.assertEqual((done.why, done.usage), ("it was asked for", 10))
        self.assertNotIn(b"of no row", self.cache.ids)

    def test_what_was_lost_is_built_anew(self) -> None:
        self.fill(10)
        self.run_once()
        self.cache.ids.pop()
        self.assertEqual(self.run_once().why, "entries are missing in the index: 9 of 10")
        self.assertEqual(len(self.cache.ids), 10)

    def test_trimming_does_not_look_like_a_loss(self) -> None:
        self.fill(4)
        self.run_once()
        self.assertEqual(self.cache.told, ["0"])  # whoever is killed in the middle of it leaves no mark to miss

    def test_a_cache_that_goes_away_in_the_middle(self) -> None:
        self.fill(10)
        self.cache.fuel = 2
        self.failureResultOf(ensureDeferred(self.sync.run()), CacheUnavailableError)
        self.assertEqual(self.store.holder, "")
        self.assertIsNone(self.store.summary)
        self.assertEqual(read_marks(self.cache.fields).index, 6)
        self.cache.fuel = 10**9
        done = self.run_once()
        self.assertEqual((done.why, done.usage), ("the building that was interrupted goes on", 4))
        self.assertEqual((len(self.cache.ids), self.cache.forgotten), (10, 1))

    def test_a_database_that_goes_away_in_the_middle(self) -> None:
        self.fill(10)

        def away() -> None:
            self.store.faults = dict.fromkeys(("usage", "give_back"), StoreUnavailableError("away"))

        self.cache.between = away
        self.failureResultOf(ensureDeferred(self.sync.run()), StoreUnavailableError)
        self.assertEqual(len(self.log.having("could not be given back")), 1)
        self.cache.between, self.store.faults, self.store.holder = (lambda: None), {}, ""
        self.assertEqual(self.run_once().why, "the building that was interrupted goes on")
        self.assertEqual(len(self.cache.ids), 10)

    def test_the_next_chunk_is_read_while_one_is_written(self) -> None:
        self.fill(10)
        readings: list[int] = []
        self.cache.between = lambda: readings.append(self.store.asked.count("usage"))
        self.run_once()
        self.assertEqual(readings[:3], [2, 3, 4])

    def test_the_lease_is_renewed_while_it_goes_on(self) -> None:
        self.fill(10)
        self.cache.between = lambda: self.clock.advance(6)
        self.run_once()
        self.assertEqual(self.store.kept, 2)

    def test_whoever_lost_the_lease_stops(self) -> None:
        self.fill(10)

        def lose() -> None:
            self.clock.advance(60)
            self.store.holder = "another"

        self.cache.between = lose
        error = self.failureResultOf(ensureDeferred(self.sync.run()), SyncLostError)
        self.assertIn("taken over", str(error.value))
        self.assertEqual(self.store.holder, "another")
        self.assertLess(len(self.cache.ids), 10)

    def test_a_stop_ends_it_between_two_chunks(self) -> None:
        self.fill(10)
        self.cache.between = self.sync.stop
        self.failureResultOf(ensureDeferred(self.sync.run()), SyncLostError)
        self.assertEqual((len(self.cache.ids), self.store.holder), (3, ""))
        self.cache.between = lambda: None
        self.sync.start()
        self.assertEqual(self.run_once().index, 10)

    def test_one_at_a_time(self) -> None:
        self.store.holder = "another"
        self.assertEqual(self.wait(self.sync.run()), Held("another", False))
        self.assertEqual(self.store.asked, ["take"])

    def test_without_a_cache_the_databases_part_is_done(self) -> None:
        self.sync = self.make(None)
        self.assertEqual(self.run_once(), Summary(tidied=Tidied(partitions=2, keys=3)))
        self.assertIsNotNone(self.store.summary)

    def test_what_cannot_be_tidied_keeps_nothing_from_being_copied(self) -> None:
        self.fill(10)
        self.store.faults["tidy"] = StoreUnavailableError("locked")
        error = self.failureResultOf(ensureDeferred(self.sync.run()), StoreUnavailableError)
        self.assertEqual(str(error.value), "locked")
        self.assertEqual((len(self.cache.ids), self.store.summary, self.store.holder), (10, None, ""))
        self.store.faults.clear()
        self.assertEqual(self.run_once().tidied, Tidied(partitions=2, keys=3))

    def test_a_cache_that_is_away_keeps_nothing_from_being_tidied(self) -> None:
        self.cache.fuel = 0
        self.failureResultOf(ensureDeferred(self.sync.run()), CacheUnavailableError)
        self.assertEqual(self.store.tidying, [])

    def test_indexes_that_cannot_be_brought_up_to_date_are_no_obstacle(self) -> None:
        self.fill(10)
        self.store.faults["summarize"] = StoreUnavailableError("not the owner")
        self.assertEqual(self.run_once().index, 10)
        self.assertEqual(self.log.having("may take longer"), ["reading new usage may take longer: not the owner"])

    def test_the_summary_is_kept(self) -> None:
        self.fill(2)
        self.cache.between = lambda: self.clock.advance(1.5)
        done = self.run_once()
        assert self.store.summary is not None
        kept = ujson.loads(self.store.summary)
        self.assertEqual((kept["usage"], kept["seconds"], kept["tidied"]["partitions"]), (2, 1.5, 2))
        self.assertEqual(
            done.in_words(),
            "usage rows 2, parameters 1, usage rows trimmed 4, partitions dropped 2, keys begun anew 3; in the copy 2;"
            " 1.5 s (there are no marks)",
        )
        self.assertEqual(Summary().in_words(), "nothing to do; in the copy 0; 0.0 s")

    def test_progress_is_told(self) -> None:
        self.fill(7)
        self.run_once()
        building = [one for one in self.told if one.step == "building the copy of usage"]
        self.assertEqual([(one.done, one.of) for one in building], [(3, 7), (6, 7), (7, 7)])
        self.assertEqual(self.told[-1].step, "trimming")


class KeysTests(SyncCase):
    def copied(self) -> Any:
        return read_copies(self.wait(self.copies.all()))

    def test_copies_of_every_key_and_what_they_have_used(self) -> None:
        good, past, gone = record("a", used=5), record("b", used=7, month="2026-08"), record("c", revoked=True)
        self.keys.answers = [[good, past, gone]]
        done = self.run_once()
        copies = self.copied()
        self.assertTrue(copies.whole)
        self.assertEqual({one.account.key_id for one in copies.records}, {r.account.key_id for r in (good, past)})
        self.assertEqual([one.key_id for one in copies.revoked], [gone.account.key_id])
        self.assertEqual((done.keys, done.keys_removed, done.counters), (2, 0, 1))
        self.assertEqual(
            self.wait(self.counts.read([r.account.key_id for r in (good, past, gone)])), {good.account.key_id: 5}
        )

    def test_a_key_that_has_vanished_leaves_no_copy(self) -> None:
        self.keys.answers = [[record("a"), record("b")], [], [record("a")]]
        self.run_once()
        done = self.run_once()
        self.assertEqual(done.keys_removed, 1)
        copies = self.copied()
        self.assertEqual([one.account.name for one in copies.records], ["a"])
        self.assertTrue(copies.whole)

    def test_a_key_that_is_revoked_meanwhile_is_not_left_good(self) -> None:
        good, same = record("a"), record("b")
        self.keys.answers = [[good, same], [evolve(good, revoked=True), same]]
        self.run_once()
        self.assertEqual(self.keys.asked, [None, 7.0])
        copies = self.copied()
        self.assertEqual([one.account.name for one in copies.records], ["b"])
        self.assertEqual([one.key_id for one in copies.revoked], [good.account.key_id])
        self.assertTrue(copies.whole)

    def test_the_mark_of_a_key_that_was_revoked_long_ago_stays_its_day(self) -> None:
        gone = record("a", revoked=True)
        self.keys.answers = [[gone], [], []]
        self.run_once()
        self.assertEqual(self.run_once().keys_removed, 0)
        self.assertEqual(len(self.copied().revoked), 1)

    def test_what_cannot_be_read_is_taken_away(self) -> None:
        self.wait(self.copies.put_many({"ab" * 32: b"nonsense"}))
        self.assertEqual(self.run_once().keys_removed, 1)


class NightlyTests(SyncCase):
    """The clock begins on 2026-09-21 at 14:13 UTC."""

    HOUR = 6

    def setUp(self) -> None:
        super().setUp()
        self.hour = self.HOUR
        self.counters = Counters()
        self.service = NightlySync(self.sync, lambda: self.hour, self.clock, self.clock.seconds, self.counters)

    def start(self) -> None:
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def pass_hours(self, hours: int) -> None:
        self.clock.pump([60.0] * (hours * 60))

    @property
    def jobs(self) -> int:
        return len(self.log.having("sync: "))

    def test_a_day_that_was_missed_is_made_up_for(self) -> None:
        self.fill(5)
        self.start()
        self.clock.advance(60)
        self.assertEqual(self.jobs, 1)
        self.assertEqual(len(self.cache.ids), 5)
        self.assertIn("sync: usage rows 5,", self.log.having("sync: ")[0])

    def test_then_once_a_day(self) -> None:
        self.start()
        self.pass_hours(15)
        self.assertEqual(self.jobs, 1)
        self.pass_hours(1)  # it is 6:13
        self.assertEqual(self.jobs, 2)
        self.pass_hours(24)
        self.assertEqual(self.jobs, 3)

    def test_what_another_node_did_is_not_done_again(self) -> None:
        self.store.finished_at = NOW
        self.start()
        self.pass_hours(2)
        self.assertEqual((self.jobs, self.store.asked), (0, ["take"]))

    def test_what_another_node_does_is_waited_for(self) -> None:
        self.store.holder = "another"
        self.start()
        self.pass_hours(1)
        self.assertEqual(self.jobs, 0)
        self.store.holder = ""
        self.clock.advance(60)
        self.assertEqual(self.jobs, 1)

    def test_another_hour_takes_effect_at_once(self) -> None:
        self.start()
        self.pass_hours(1)
        self.hour = 16
        self.pass_hours(1)
        self.assertEqual(self.jobs, 2)  # the one of six o'clock that was missed, and the one of 16 o'clock
        self.pass_hours(1)
        self.assertEqual(self.jobs, 2)

    def test_faults_are_told_once_and_it_is_tried_again(self) -> None:
        lines = listen(self)
        self.cache.fuel = 0
        self.start()
        self.pass_hours(1)
        self.assertEqual(self.counters.value("service_failures", "sync"), 60)
        self.assertEqual(len(lines.having("the sync job is not done")), 1)
        self.cache.fuel = 10
        self.clock.advance(60)
        self.assertEqual(self.jobs, 1)

    def test_a_stop_waits_for_the_step_under_way(self) -> None:
        gate: Deferred[Mapping[str, str]] = Deferred()

        class Slow(Table):
            async def put(self, rows: Mapping[str, str]) -> None:
                await gate

        self.fill(5)
        self.sync = self.make(CacheSide(self.cache, self.copies, self.counts, Slow({})))
        self.service = NightlySync(self.sync, lambda: 6, self.clock, self.clock.seconds, self.counters)
        self.service.startService()
        self.clock.advance(60)
        stopped = self.service.stopService()
        assert stopped is not None
        self.assertNoResult(stopped)
        gate.callback({})
        self.successResultOf(stopped)
        self.assertEqual((self.store.holder, len(self.cache.ids), self.jobs), ("", 0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RealPartsTests(SharedServerCase):
    """Against a real PostgreSQL and a real Valkey."""

    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.url = fresh_database(self)
        self.pool = StorePool(target(self.url), cast(Any, reactor))
        self.pool.start()
        self.addCleanup(self.pool.stop)
        self.store = PostgresSync(self.pool)
        self.numbers = count(1)
        self.sync = self.node("n1")
        self.today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        await self.pool.run(
            lambda connection: ensure_partitions(
                connection, [(self.today - timedelta(days=days)).date() for days in (0, 1, 2, 3, 93)]
            )
        )

    def node(self, name: str, chunk_rows: int = 40) -> Sync:
        side = CacheSide(
            ValkeyRebuilding(self.valkey, 7), ValkeyKeyCopies(self.valkey), ValkeyUsageCounters(self.valkey),
            ValkeyParameterCopies(self.valkey),
        )  # fmt: skip
        keys = keyrows.PostgresKeys(self.pool, urandom)
        return Sync(
            self.store, keys, PostgresParameters(self.pool), side, cast(Any, reactor), name,
            lambda: f"token-{next(self.numbers)}", chunk_rows,
        )  # fmt: skip

    async def run_sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        def work(connection: Connection) -> list[tuple[Any, ...]]:
            with connection.cursor() as cursor:
                cursor.execute(query, parameters)
                return cursor.fetchall() if cursor.description else []

        return await self.pool.run(work)

    async def fill(self, rows: int, written: str = "interval '10 minutes'", at: str = "interval '1 day'") -> None:
        await self.run_sql(
            "INSERT INTO usage_logs (at, id, key_id, node, service, protocol, asset, source, cache_tier, status,"
            " admitted, request_count, response_us_sum, response_us_max, written_at)"
            " SELECT %s::timestamptz - " + at + " + i * interval '1.000001 second', gen_random_uuid(),"
            " CASE i %% 4 WHEN 0 THEN '' ELSE 'key' || i %% 4 END, 'n1', 'lpo', 'udp', CASE i %% 3 WHEN 0 THEN '' ELSE"
            " 'AS' || i %% 3 END, E'\\t' || i, 'shelf', 200 + i %% 3, i %% 2 = 0, i, i * 7, i * 3,"
            " clock_timestamp() - " + written + " - i * interval '1 millisecond' FROM generate_series(1, %s) i",
            self.today, rows,
        )  # fmt: skip

    def words(self, *command: bytes | str | int) -> list[bytes]:
        return cast("list[bytes]", self.server.command(*command))

    def after(self, rows: int, call: Callable[[], object]) -> Callable[[Progress], object]:
        """Have something happen once so many rows are written."""

        def told(progress: Progress) -> None:
            if progress.done >= rows:
                call()

        return told

    async def bulk_is_back(self) -> None:
        """Wait for the connection for bulk work, which may come back a little later than the one for commands."""
        while True:
            with ignoring(CacheUnavailableError):
                return await self.valkey.send_packed(b"*1\r\n$4\r\nPING\r\n", 1)
            await sleep(0.05)

    async def compare(self) -> int:
        """See that the cache holds exactly the rows that the database has; how many those are."""
        rows = await self.run_sql(
            "SELECT id::text, (extract(epoch FROM at) * 1000000)::bigint, request_count, response_us_sum,"
            " response_us_max, key_id, node, service, protocol, asset, source, cache_tier, status, admitted::int"
            " FROM usage_logs WHERE at >= clock_timestamp() - interval '93 days'"
        )
        index: dict[str, set[tuple[str, int]]] = {"usage_logs:index": set()}
        for row_id, at, *rest in rows:
            words = self.words("HGETALL", f"usage_log:{row_id}")
            self.assertEqual(words[1::2], [str(value).encode() for value in (at, *rest)])
            entry = (row_id, at // 1000)
            index["usage_logs:index"].add(entry)
            if rest[3]:
                index.setdefault(f"usage_logs:api_key:{rest[3]}", set()).add(entry)
            if rest[7]:
                index.setdefault(f"usage_logs:asset:{rest[7]}", set()).add(entry)
        names = self.words("KEYS", "usage_logs:*")
        found: dict[str, set[tuple[str, int]]] = {"usage_logs:index": set()}
        for name in names:
            words = self.words("ZRANGE", name, 0, -1, "WITHSCORES")
            entries = zip(words[::2], words[1::2], strict=True)
            found[name.decode()] = {(row_id.decode(), int(score)) for row_id, score in entries}
        self.assertEqual(found, index)
        return len(rows)

    async def test_everything(self) -> None:
        _, record = await self.pool.run(
            lambda connection: keyrows.create(connection, "pro", "shop", random_bytes=urandom)
        )
        await self.run_sql("UPDATE api_keys SET current_usage = 42")
        await self.pool.run(lambda connection: set_values(connection, {"when_unmetered": "refuse"}))
        await self.run_sql(
            "INSERT INTO report_usage_logs (id, at, key_id, node, report, format, status)"
            " SELECT gen_random_uuid(), clock_timestamp() - i * interval '1 hour', 'abc', 'n1', 'usage', 'csv', 200"
            " FROM generate_series(1, 90) i"
        )
        await self.fill(150)
        done = await self.sync.run()
        assert isinstance(done, Summary)
        self.assertEqual(evolve(done, seconds=0.0, tidied=Tidied()), Summary(
            why="there are no marks", keys=1, counters=1, parameters=1, usage=150, reports=90, index=150
        ))  # fmt: skip
        self.assertEqual(await self.compare(), 150)
        copies = read_copies(await ValkeyKeyCopies(self.valkey).all())
        self.assertEqual([one.account for one in copies.records], [record.account])
        self.assertTrue(copies.whole)
        key_id = record.account.key_id
        self.assertEqual(await ValkeyUsageCounters(self.valkey).read([key_id]), {key_id: 42})
        self.assertEqual(self.server.command("HGETALL", "app:config"), [b"when_unmetered", b"refuse"])
        ((report_id, details),) = await self.run_sql("SELECT id::text, details::text FROM report_usage_logs LIMIT 1")
        kept = self.server.command("HMGET", f"report_usage:{report_id}", "format", "details")
        self.assertEqual(kept, [b"csv", details.encode()])

    async def test_new_rows_and_late_ones_follow(self) -> None:
        await self.fill(100)
        await self.sync.run()
        await self.fill(30, "interval '0'", "interval '2 days'")
        await self.fill(20, "interval '4 minutes'", "interval '3 days'")
        done = await self.sync.run()
        assert isinstance(done, Summary)
        self.assertEqual((done.why, done.usage), ("", 50))
        self.assertEqual(await self.compare(), 150)

    async def test_what_is_past_its_time_goes(self) -> None:
        await self.fill(20)
        await self.sync.run()
        old = int((time.time() - 93 * 86_400 - 60) * 1000)
        for name in ("usage_logs:index", "usage_logs:api_key:key1", "usage_logs:asset:GONE"):
            self.server.command("ZADD", name, old, str(UUID(int=1)))
        done = await self.sync.run()
        assert isinstance(done, Summary)
        self.assertEqual((done.why, done.trimmed, done.index), ("", 1, 20))
        self.assertEqual(await self.compare(), 20)

    async def test_a_valkey_that_was_emptied_is_built_anew(self) -> None:
        await self.fill(100)
        await self.sync.run()
        self.server.command("FLUSHALL")
        done = await self.sync.run()
        assert isinstance(done, Summary)
        self.assertEqual((done.why, done.usage), ("there are no marks", 100))
        self.assertEqual(await self.compare(), 100)

    async def test_a_valkey_that_was_half_emptied_is_built_anew(self) -> None:
        await self.fill(100)
        for lost, why in (
            (("DEL", "usage_logs:index"), "entries are missing in the index: 0 of 100"),
            (("ZPOPMIN", "usage_logs:index", 1), "entries are missing in the index: 99 of 100"),
            (("DEL", "usage_logs:api_key:key2"), "entries are missing in the sets of keys: 50 of 75"),
            (("DEL", "usage_logs:asset:AS1"), "entries are missing in the sets of assets: 33 of 67"),
        ):
            await self.sync.run()
            self.server.command(*lost)
            done = await self.sync.run()
            assert isinstance(done, Summary)
            self.assertEqual(done.why, why)
            self.assertEqual(await self.compare(), 100)
        for name in self.words("KEYS", "usage_log:*")[:90]:
            self.server.command("DEL", name)
        done = await self.sync.run()
        assert isinstance(done, Summary)
        self.assertRegex(done.why, r"^rows are missing: [0-9]+ of 30 that were looked for$")
        self.assertEqual(await self.compare(), 100)

    async def test_two_nodes_at_once_do_it_once(self) -> None:
        await self.fill(200)
        one, other = ensureDeferred(self.sync.run()), ensureDeferred(self.node("n2").run())
        found = [await one, await other]
        self.assertEqual(sorted(type(each).__name__ for each in found), ["Held", "Summary"])
        self.assertEqual(await self.compare(), 200)
        not_since = time.time() - 3600
        self.assertIsInstance(await self.node("n3").run(not_since=not_since), Held)

    async def test_valkey_dies_in_the_middle_and_comes_back_empty(self) -> None:
        await self.fill(1500)
        job = ensureDeferred(self.sync.run(told=self.after(200, self.server.kill)))
        with self.assertRaises(CacheUnavailableError):
            await job
        await self.mend()
        await self.bulk_is_back()
        done = await self.sync.run()
        assert isinstance(done, Summary)
        self.assertEqual(done.why, "there are no marks")
        self.assertEqual(await self.compare(), 1500)

    async def test_valkey_hangs_in_the_middle_and_goes_on(self) -> None:
        await self.fill(1500)
        job = ensureDeferred(self.sync.run(told=self.after(200, self.server.hang)))
        self.addCleanup(self.server.resume)
        with self.assertRaises(CacheUnavailableError):
            await job
        self.server.resume()
        await until(lambda: self.valkey.status.up)
        await self.bulk_is_back()
        await self.sync.run()
        done = await self.sync.run()
        assert isinstance(done, Summary)
        self.assertEqual(await self.compare(), 1500)

    async def test_the_database_drops_its_connections_in_the_middle(self) -> None:
        await self.fill(1500)
        admin = connect(target(self.url))
        admin.autocommit = True
        self.addCleanup(admin.close)

        def cut() -> None:
            with admin.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )

        done: Summary | Held | None = None
        for rows in (200, 200, MANY, MANY, MANY):
            await until(lambda: self.pool.status.up)
            with ignoring(StoreUnavailableError):  # where the pool had another connection ready nothing is noticed
                done = await self.sync.run(told=self.after(rows, cut))
            with admin.cursor() as cursor:
                cursor.execute("UPDATE sync_runs SET held_until = NULL")
        assert isinstance(done, Summary)
        self.assertEqual(await self.compare(), 1500)
        self.assertEqual(read_marks(await ValkeyRebuilding(self.valkey).marks()).state, WHOLE)

    async def test_stopped_in_the_middle_it_goes_on(self) -> None:
        await self.fill(500)
        job = ensureDeferred(self.sync.run(told=self.after(200, self.sync.stop)))
        with self.assertRaises(SyncLostError):
            await job
        self.sync.start()
        done = await self.sync.run()
        assert isinstance(done, Summary)
        self.assertEqual(done.why, "the building that was interrupted goes on")
        self.assertLess(done.usage, 500)
        self.assertEqual(await self.compare(), 500)
