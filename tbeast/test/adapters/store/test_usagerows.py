"""Usage in a real PostgreSQL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import ClassVar

import psycopg2
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store import usagerows
from tbeast.adapters.store.postgres import Connection
from tbeast.adapters.store.usagerows import (
    KEPT_DAYS,
    Dropped,
    PostgresUsage,
    drop_old,
    ensure_partitions,
    partitions,
    write,
)
from tbeast.domain.usage import Batch, Ledger, Row, batches_of
from tbeast.errors import StoreRefusedError, StoreUnavailableError
from tbeast.interfaces import RefusedRow, Written
from tbeast.test.adapters.store.usagesamples import KIND, NOW, ask, batch, make_key, recorded, requests_of, row
from tbeast.testing.postgres import fresh_connection, fresh_database

DAY = 86_400.0
TODAY = datetime.fromtimestamp(NOW, UTC).date()
MONTH = f"{TODAY:%Y-%m}"
KEY = "SELECT to_char(usage_month, 'YYYY-MM'), current_usage FROM api_keys WHERE key_id = %s"


def month_before(month: str) -> str:
    return f"{date.fromisoformat(f'{month}-01') - timedelta(days=1):%Y-%m}"


def at_month(month: str) -> float:
    """A moment in a month."""
    return datetime.fromisoformat(f"{month}-28T12:00:00+00:00").timestamp()


class UsageCase(SynchronousTestCase):
    _urls: ClassVar[list[str]] = []

    def setUp(self) -> None:
        # one for all: making a database takes longer than most of these tests
        if not self._urls:
            self._urls.append(fresh_database())
        self.url = self._urls[0]
        self.connection = self.connect()
        drop_old(self.connection, date(9999, 1, 1))
        with self.connection.cursor() as cursor:
            cursor.execute("DELETE FROM api_keys")
        self.connection.commit()

    def connect(self) -> Connection:
        return fresh_connection(self, self.url)

    def write(self, *batches: Batch) -> Written:
        written = write(self.connection, batches)
        self.connection.commit()
        return written


class WritingTests(UsageCase):
    def test_every_field(self) -> None:
        kind = KIND._replace(protocol="udp", source="kraken-ws", cache_tier="memory", status=404, admitted=False)
        one = batch(Row(kind, 1_795_348_800.123457, 7, 900, 400), node="node-7")
        self.patch(usagerows, "KEPT_DAYS", 100_000)
        self.patch(usagerows, "LATEST_AHEAD_SECONDS", 1e12)
        self.write(one)
        columns = (
            "extract(epoch FROM at)::text, id::text, key_id, node, service, protocol, asset, source, cache_tier,"
            " status, admitted, request_count, response_us_sum, response_us_max"
        )
        self.assertEqual(
            [("1795348800.123457", str(one.row_id(0)), "alpha", "node-7", "lpo", "udp", "BTC", "kraken-ws", "memory",
              404, False, 7, 900, 400)],
            ask(self.connection, f"SELECT {columns} FROM usage_logs"),
        )  # fmt: skip

    def test_the_same_batch_twice(self) -> None:
        make_key(self.connection, "alpha")
        one = batch(row(requests=3), row(requests=4, asset="ETH"))
        self.assertEqual({"alpha": (MONTH, 7)}, self.write(one).usage)
        self.assertEqual(Written((), {"alpha": (MONTH, 7)}), self.write(one))
        self.assertEqual(Written((), {"alpha": (MONTH, 7)}), self.write(one, one))
        self.assertEqual(7, recorded(self.connection))

    def test_a_new_one_beside_one_that_is_there(self) -> None:
        make_key(self.connection, "alpha")
        one, two = batch(row(requests=3)), batch(row(requests=4))
        self.write(one)
        self.assertEqual({"alpha": (MONTH, 7)}, self.write(two, one).usage)
        self.assertEqual(7, recorded(self.connection))

    def test_a_batch_cut_short_by_an_earlier_try(self) -> None:
        """Nothing of it stays when the transaction does not end."""
        make_key(self.connection, "alpha")
        one = batch(row(requests=3))
        write(self.connection, [one])
        self.connection.rollback()
        self.assertEqual(0, recorded(self.connection))
        self.assertEqual({"alpha": (MONTH, 3)}, self.write(one).usage)

    def test_twice_in_one_transaction(self) -> None:
        make_key(self.connection, "alpha")
        one = batch(row(requests=3))
        for batches in ([one], [one], [batch(row(requests=4))]):
            written = write(self.connection, batches)
        self.assertEqual({"alpha": (MONTH, 7)}, written.usage)

    def test_nothing_at_all(self) -> None:
        self.assertEqual(Written((), {}), self.write())
        self.assertEqual(Written((), {}), self.write(batch()))

    def test_nobody_and_unknown_keys_are_recorded(self) -> None:
        self.assertEqual({}, self.write(batch(row(key_id="", status=401, admitted=False), row(key_id="gone"))).usage)
        self.assertEqual(2, recorded(self.connection))

    def test_text_that_copy_would_take_for_its_own(self) -> None:
        texts = ["\\N", "\\.", "a\tb", "a\nb", "a\rb", "\\", "", "é€😀"]
        self.write(batch(*(row(asset=text, source=str(place)) for place, text in enumerate(texts))))
        self.assertEqual(
            texts, [text for (text,) in ask(self.connection, "SELECT asset FROM usage_logs ORDER BY source::int")]
        )

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.tuples(st.text(max_size=12), st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=20))
    def test_any_text(self, given: list[tuple[str, int, int]]) -> None:
        """What has no NUL in it is recorded as it is, the rest is set aside, and nothing else happens."""
        before = recorded(self.connection)
        one = batch(*(row(asset=text, key_id="abc"[key], requests=requests) for text, key, requests in given))
        one = evolve(one, id=os.urandom(12).hex())
        written = self.write(one)
        poisoned = [place for place, (text, _, _) in enumerate(given) if "\0" in text]
        self.assertEqual(poisoned, [refused.place for refused in written.refused])
        sound = sum(requests for text, _, requests in given if "\0" not in text)
        self.assertEqual(before + sound, recorded(self.connection))


class CounterTests(UsageCase):
    def key(self, key_id: str = "alpha") -> tuple[str, int]:
        month, used = ask(self.connection, KEY, key_id)[0]
        return month, used

    def test_what_was_admitted_counts(self) -> None:
        make_key(self.connection, "alpha", used=100)
        self.write(batch(row(requests=5), row(requests=7, status=429, admitted=False), row(requests=1, status=503)))
        self.assertEqual((MONTH, 106), self.key())

    def test_reports_are_no_questions(self) -> None:
        """They are recorded, and say when the key was last used, but its quota is not theirs."""
        make_key(self.connection, "alpha")
        self.write(batch(row(requests=2), row(requests=5, service="lrs", asset="")))
        self.assertEqual((MONTH, 2), self.key())
        self.assertEqual(7, recorded(self.connection))
        later = batch(row(at=NOW + 9, requests=5, service="lrs", asset=""))
        self.assertEqual({"alpha": (MONTH, 2)}, self.write(later).usage)
        seen = "SELECT extract(epoch FROM last_used)::int FROM api_keys WHERE key_id = 'alpha'"
        self.assertEqual([(round(NOW + 9),)], ask(self.connection, seen))

    def test_each_key_for_itself(self) -> None:
        for key_id in ("alpha", "beta", "idle"):
            make_key(self.connection, key_id, used=1)
        usage = self.write(batch(row(requests=5), row(requests=7, key_id="beta")), batch(row(key_id="beta"))).usage
        self.assertEqual({"alpha": (MONTH, 6), "beta": (MONTH, 9)}, usage)
        self.assertEqual((MONTH, 1), self.key("idle"))

    def test_a_new_month_starts_anew(self) -> None:
        make_key(self.connection, "alpha", month_before(MONTH), used=900)
        self.assertEqual({"alpha": (MONTH, 2)}, self.write(batch(row(requests=2))).usage)

    def test_a_new_month_starts_with_what_was_refused_too(self) -> None:
        make_key(self.connection, "alpha", month_before(MONTH), used=900)
        self.assertEqual({"alpha": (MONTH, 0)}, self.write(batch(row(status=429, admitted=False))).usage)

    def test_the_month_before_leaves_it_alone(self) -> None:
        make_key(self.connection, "alpha", used=5)
        late = batch(row(at_month(month_before(MONTH)), 50))
        self.assertEqual({"alpha": (MONTH, 5)}, self.write(late).usage)
        self.assertEqual(50, recorded(self.connection))

    def test_months_in_one_write(self) -> None:
        last = month_before(MONTH)
        first = month_before(last)
        for key_id, month in (("old", first), ("older", month_before(first)), ("new", MONTH)):
            make_key(self.connection, key_id, month, used=100)
        rows = [
            row(at, requests, key_id=key_id)
            for key_id in ("old", "older", "new")
            for at, requests in ((at_month(first), 1), (at_month(last), 2), (NOW, 4), (NOW, 8))
        ]
        usage = self.write(batch(*rows)).usage
        self.assertEqual({"old": (MONTH, 12), "older": (MONTH, 12), "new": (MONTH, 112)}, usage)

    def test_only_the_month_before_in_one_write(self) -> None:
        last = month_before(MONTH)
        make_key(self.connection, "alpha", last, used=100)
        usage = self.write(batch(row(at_month(month_before(last)), 1), row(at_month(last), 2))).usage
        self.assertEqual({"alpha": (last, 102)}, usage)

    def test_months_are_those_of_utc(self) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("SET timezone = 'Pacific/Kiritimati'")  # 14 hours ahead
        make_key(self.connection, "alpha", MONTH)
        end_of_last = datetime(TODAY.year, TODAY.month, 1, tzinfo=UTC).timestamp() - 60
        self.write(batch(row(end_of_last, 5)))
        self.assertEqual((MONTH, 0), self.key())
        self.assertIn(datetime.fromtimestamp(end_of_last, UTC).date(), partitions(self.connection))

    def test_when_it_was_last_used(self) -> None:
        make_key(self.connection, "alpha")
        seen = "SELECT extract(epoch FROM last_used)::int, extract(epoch FROM last_success)::int FROM api_keys"
        now = int(NOW)
        for rows, used, success in (
            ([row(now - 50, status=429)], now - 50, None),
            ([row(now - 40), row(now - 30, status=404)], now - 30, now - 40),
            ([row(now - 60)], now - 30, now - 40),
        ):
            self.write(batch(*rows))
            self.assertEqual([(used, success)], ask(self.connection, seen))

    def test_using_a_key_is_no_change_of_it(self) -> None:
        """Else every node would ask for it again every two seconds."""
        make_key(self.connection, "alpha")
        before = ask(self.connection, "SELECT changed_at FROM api_keys")
        self.write(batch(row()))
        self.assertEqual(before, ask(self.connection, "SELECT changed_at FROM api_keys"))


class RefusalTests(UsageCase):
    POISONED = {
        "its asset holds a NUL character": row(asset="a\0b"),
        "its key_id is no text": row(key_id="\ud800"),
        "its source is 201 bytes long": row(source="x" * 201),
        "its cache_tier is 202 bytes long": row(cache_tier="é" * 101),
        "its status is out of range": row(status=70_000),
        "its request_count is out of range": row(requests=0),
        "its response_us_sum is out of range": Row(KIND, NOW, 1, 2**63, 1),
        "its response_us_max is out of range": Row(KIND, NOW, 1, 1, -1),
        'invalid input syntax for type bigint: "1.5"': Row(KIND, NOW, 1, 1, 1.5),  # type: ignore[arg-type]
        "its time lies in the future: inf s since 1970": row(float("inf")),
        "its time is too long ago: nan s since 1970": row(float("nan")),
        "its time is too long ago: 1970-01-01T00:00:00+00:00": row(0.0),
    }

    def set_aside(self) -> list[tuple]:
        return ask(self.connection, "SELECT id::text, node, reason, row FROM usage_refused ORDER BY id")

    def test_the_rest_of_the_batch_is_written(self) -> None:
        make_key(self.connection, "alpha")
        for reason, poisoned in self.POISONED.items():
            before = recorded(self.connection)
            one = batch(row(requests=2), poisoned, row(requests=3))
            written = self.write(one)
            self.assertEqual((RefusedRow(one.id, 1, reason),), written.refused)
            self.assertEqual(before + 5, recorded(self.connection))
            self.assertEqual((str(one.row_id(1)), "node", reason), self.set_aside()[-1][:3])
        self.assertEqual((MONTH, 5 * len(self.POISONED)), ask(self.connection, KEY, "alpha")[0])

    def test_all_at_once(self) -> None:
        sound = [batch(row(requests=1), row(requests=2)) for _ in range(20)]
        bad = batch(*self.POISONED.values())
        written = self.write(*sound[:10], bad, *sound[10:])
        self.assertEqual(set(self.POISONED), {refused.reason for refused in written.refused})
        self.assertEqual(requests_of(sound), recorded(self.connection))
        self.assertEqual(len(self.POISONED), len(self.set_aside()))

    def test_only_poisoned_ones(self) -> None:
        written = self.write(batch(*[Row(KIND, NOW, 1, 1, 1.5)] * 30))  # type: ignore[arg-type]
        self.assertEqual(list(range(30)), [refused.place for refused in written.refused])
        self.assertEqual((0, 30), (recorded(self.connection), len(self.set_aside())))

    def test_a_node_with_a_strange_name(self) -> None:
        one = batch(row(), node="n\0")
        self.assertEqual((RefusedRow(one.id, 0, "its node holds a NUL character"),), self.write(one).refused)
        self.assertEqual("n\\x00", self.set_aside()[0][1])

    def test_what_a_person_finds(self) -> None:
        self.write(batch(Row(KIND._replace(asset="a\0\ud800", status=-5), NOW, 2**70, 1, 1)))
        self.assertEqual(
            {"at": NOW, "key_id": "alpha", "service": "lpo", "protocol": "http", "asset": "a\\x00\\ud800",
             "source": "median", "cache_tier": "shelf", "status": -5, "admitted": True, "request_count": 2**70,
             "response_us_sum": 1, "response_us_max": 1},
            self.set_aside()[0][3],
        )  # fmt: skip

    def test_again(self) -> None:
        """As after a write whose outcome nobody knows."""
        one = batch(row(requests=2), row(asset="\0"))
        first = self.write(one)
        self.assertEqual(first, self.write(one))
        self.assertEqual((2, 1), (recorded(self.connection), len(self.set_aside())))

    def test_for_good(self) -> None:
        """A row whose time lay in the future is not inserted when that has come."""
        one = batch(row(), row(NOW + 1.5 * DAY))
        self.assertEqual([1], [refused.place for refused in self.write(one).refused])
        self.patch(usagerows, "LATEST_AHEAD_SECONDS", 5 * DAY)
        self.write(one, batch(row(NOW + 1.5 * DAY)))
        self.assertEqual(2, recorded(self.connection))

    def test_nothing_is_refused_beforehand_that_the_table_takes(self) -> None:
        """The database itself refuses every row that is not even tried; but for the times, which only it may judge."""
        ensure_partitions(self.connection, [TODAY])
        for reason, poisoned in self.POISONED.items():
            if "its time" in reason:
                continue
            unit = (batch(poisoned), 0, poisoned)
            with self.connection.cursor() as cursor:
                cursor.execute(usagerows._PREPARE)
                self.assertIsNotNone(usagerows._took(cursor, [unit]))
                self.assertEqual([], usagerows._bisected(cursor, [unit], []))
        widest = row(key_id="k" * 200, service="é" * 100, status=599, requests=2**63 - 1)._replace(
            response_us_sum=2**63 - 1, response_us_max=0
        )
        self.assertEqual((), self.write(batch(widest, node="n" * 255)).refused)

    def test_what_is_wrong_with_the_schema_is_no_fault_of_a_row(self) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("ALTER TABLE usage_logs RENAME COLUMN asset TO something")
        self.assertRaises(psycopg2.ProgrammingError, write, self.connection, [batch(row())])
        self.connection.rollback()
        self.assertEqual([], self.set_aside())


class PartitionTests(UsageCase):
    def test_a_day_each(self) -> None:
        midnight = NOW // DAY * DAY
        self.write(batch(row(midnight - 0.000_001), row(midnight), row(midnight - 3 * DAY)))
        self.assertEqual([TODAY - timedelta(days=days) for days in (3, 1, 0)], partitions(self.connection))
        name = f"usage_logs_{TODAY:%Y%m%d}"
        self.assertEqual([(1,)], ask(self.connection, f"SELECT count(*) FROM {name}"))
        indexes = ask(self.connection, "SELECT indexdef FROM pg_indexes WHERE tablename = %s", name)
        self.assertEqual(3, len(indexes))

    def test_a_bad_clock_makes_none(self) -> None:
        self.write(batch(row(NOW + 400 * DAY), row(NOW - 400 * DAY), row(253_402_300_800.0 * 10), row(-1e9)))
        self.assertEqual(([], 0), (partitions(self.connection), recorded(self.connection)))

    def test_the_oldest_day_that_is_kept(self) -> None:
        oldest = (NOW // DAY - KEPT_DAYS) * DAY
        written = self.write(batch(row(oldest), row(oldest - 0.001)))
        self.assertEqual([1], [refused.place for refused in written.refused])
        self.assertEqual((), drop_old(self.connection, partitions(self.connection)[0]).days)

    def test_nodes_that_race(self) -> None:
        """Ten connections that all want the same new days."""
        days = [TODAY - timedelta(days=days) for days in range(4)]

        def work(connection: Connection, number: int) -> None:
            write(connection, [batch(*(row(NOW - place * DAY, key_id=f"k{number}") for place in range(4)))])
            connection.commit()

        self.assertEqual([], together([partial(work, self.connect(), number) for number in range(10)]))
        self.assertEqual((sorted(days), 40), (partitions(self.connection), recorded(self.connection)))

    def test_a_roll_back_takes_the_partition_with_it(self) -> None:
        write(self.connection, [batch(row())])
        self.connection.rollback()
        self.assertEqual([], partitions(self.connection))
        self.write(batch(row()))
        self.assertEqual([TODAY], partitions(self.connection))

    def test_dropping(self) -> None:
        for days in (0, 1, 2, 3):
            self.write(batch(row(NOW - days * DAY), row(asset="\0")))
        with self.connection.cursor() as cursor:
            cursor.execute("UPDATE usage_refused SET refused_at = refused_at - interval '9 days' WHERE row->>'at' < '9'"
                           " AND id = (SELECT min(id::text)::uuid FROM usage_refused)")  # fmt: skip
            for ago in (0, 1, 5):
                cursor.execute(
                    "INSERT INTO report_usage_logs (id, at, key_id, node, report, format, status)"
                    " VALUES (gen_random_uuid(), now() - %s * interval '1 day', 'alpha', 'node', 'usage', 'json', 200)",
                    (ago,),
                )
        before = TODAY - timedelta(days=1)
        dropped = drop_old(self.connection, before)
        self.connection.commit()
        gone = (TODAY - timedelta(days=3), TODAY - timedelta(days=2))
        self.assertEqual(Dropped(gone, 1, 1), dropped)
        self.assertEqual(([before, TODAY], 2), (partitions(self.connection), recorded(self.connection)))
        self.assertEqual(Dropped((), 0, 0), drop_old(self.connection, before))

    def test_a_table_of_another_name_is_not_dropped(self) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("CREATE TABLE usage_logs_20200101 (x int)")
            cursor.execute(
                "CREATE TABLE usage_logs_old PARTITION OF usage_logs FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')"
            )
        self.assertEqual((), drop_old(self.connection, TODAY).days)


def together(works: list[Callable[[], None]]) -> list[BaseException]:
    """Do all of it at the same time, each in a thread; what they raised."""
    raised: list[BaseException] = []
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        try:
            barrier.wait(30)
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised


class ConcurrencyTests(UsageCase):
    def test_the_same_batches_at_the_same_time(self) -> None:
        """A retry while the first try is still under way in the server."""
        make_key(self.connection, "alpha")
        batches = [batch(*(row(asset=f"A{place}") for place in range(50))) for _ in range(6)]

        def work(connection: Connection, turn: int) -> None:
            write(connection, batches[turn:] + batches[:turn])
            connection.commit()

        self.assertEqual([], together([partial(work, self.connect(), turn) for turn in range(6)]))
        self.assertEqual(300, recorded(self.connection))
        self.assertEqual((MONTH, 300), ask(self.connection, KEY, "alpha")[0])

    def test_nodes_that_serve_the_same_keys(self) -> None:
        """Whatever order their rows have, none waits for another in a circle, and no count is lost."""
        keys = [f"key{number}" for number in range(12)]
        for key_id in keys:
            make_key(self.connection, key_id)

        def work(connection: Connection, turn: int) -> None:
            for _ in range(15):
                mine = keys[turn:] + keys[:turn]
                write(connection, [batch(*(row(key_id=key_id, requests=2) for key_id in mine))])
                connection.commit()

        self.assertEqual([], together([partial(work, self.connect(), turn) for turn in (0, 3, 6, 9)]))
        self.assertEqual([(120,)] * 12, ask(self.connection, "SELECT current_usage FROM api_keys"))
        self.assertEqual(12 * 120, recorded(self.connection))


class LedgerToTableTests(UsageCase):
    @settings(deadline=None, max_examples=15)
    @given(
        st.lists(
            st.tuples(st.sampled_from(["alpha", "beta", ""]), st.sampled_from([200, 404, 429]), st.booleans(),
                      st.sampled_from("XYZ"), st.integers(0, 7000)),
            max_size=80,
        ),
        st.integers(1, 20),
    )  # fmt: skip
    def test_what_was_counted_is_what_is_recorded(self, asked: list[tuple], most_kinds: int) -> None:
        """By key, status and admission, through a ledger of any size and batches in any order, some of them twice."""
        connection = self.connect()
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM usage_logs; DELETE FROM api_keys")
        connection.commit()
        for key_id in ("alpha", "beta"):
            make_key(connection, key_id)
        ledger = Ledger(most_kinds)
        sums: dict[tuple[str, int, bool], int] = {}
        noon = NOW // DAY * DAY - DAY + 12 * 3600
        for key_id, status, admitted, asset, later in asked:
            ledger.count(key_id, "lpo", "http", asset, "", "", status, admitted, noon + later, 5)
            sums[key_id, status, admitted] = sums.get((key_id, status, admitted), 0) + 1
        batches = []
        while rows := ledger.cut(7):
            batches += batches_of(rows, "node", NOW, os.urandom)
        write(connection, batches[::-1])
        write(connection, batches[::2])
        connection.commit()
        found = ask(
            connection,
            "SELECT key_id, status, admitted, sum(request_count)::int FROM usage_logs GROUP BY 1, 2, 3",
        )
        self.assertEqual(sums, {(key_id, status, admitted): total for key_id, status, admitted, total in found})
        if datetime.fromtimestamp(noon, UTC).month == TODAY.month:
            for key_id in ("alpha", "beta"):
                admitted = sum(number for (key, _, counts), number in sums.items() if key == key_id and counts)
                self.assertEqual((MONTH, admitted), ask(connection, KEY, key_id)[0])


class PortTests(SynchronousTestCase):
    """L{PostgresUsage} on a pool that does what it is told."""

    def test_written(self) -> None:
        connection = fresh_connection(self)

        class Pool:
            def run(self, work: Callable[[Connection], Written]) -> Deferred[Written]:
                return succeed(work(connection))

        deferred = Deferred.fromCoroutine(PostgresUsage(Pool()).write([batch(row())]))  # type: ignore[arg-type]
        self.assertEqual(Written((), {}), self.successResultOf(deferred))

    def test_what_the_pool_calls_refused_may_pass(self) -> None:
        """Faults of rows never get so far; it is the schema."""

        class Pool:
            def run(self, work: Callable[[Connection], Written]) -> Deferred[Written]:
                return fail(StoreRefusedError("no such column", "42703"))

        deferred = Deferred.fromCoroutine(PostgresUsage(Pool()).write([]))  # type: ignore[arg-type]
        self.failureResultOf(deferred, StoreUnavailableError)
