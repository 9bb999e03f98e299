"""The ledger, and the laying of rows into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.usage import (
    MOST_ROWS,
    SEVERAL,
    WINDOW_SECONDS,
    Batch,
    Kind,
    Ledger,
    Row,
    batches_of,
    make_batch_id,
)

NOON = 1_795_348_800.0  # the beginning of a clock hour
KIND = Kind("key", "lpo", "http", "BTC", "median", "shelf", 200, True)

Sums = dict[tuple[str, int, bool], tuple[int, int, int]]


def count(ledger: Ledger, kind: Kind, now: float = NOON, response_us: int = 10) -> None:
    ledger.count(*kind, now, response_us)


def kinds(number: int) -> list[Kind]:
    return [KIND._replace(asset=f"A{place}") for place in range(number)]


def sums_of(rows: Iterable[Row]) -> Sums:
    """Requests, time and longest time by what a bill depends on."""
    sums: Sums = {}
    for kind, _, requests, total, longest in rows:
        place = (kind.key_id, kind.status, kind.admitted)
        before = sums.get(place, (0, 0, 0))
        sums[place] = (before[0] + requests, before[1] + total, max(before[2], longest))
    return sums


class LedgerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ledger = Ledger()

    def test_requests_of_a_kind_share_a_row(self) -> None:
        for response_us in (30, 50, 20):
            count(self.ledger, KIND, NOON + response_us, response_us)
        self.assertEqual((1, 3), (len(self.ledger), self.ledger.requests))
        self.assertEqual([Row(KIND, NOON + 30, 3, 100, 50)], self.ledger.cut(10))
        self.assertEqual((0, 0, []), (len(self.ledger), self.ledger.requests, self.ledger.cut(10)))

    def test_how_long_answers_took(self) -> None:
        """By service and binary length; it stays when the rows leave."""
        for response_us in (0, 1, 37, 37, 2**31, 2**40):
            count(self.ledger, KIND, NOON, response_us)
        count(self.ledger, KIND._replace(service="lrs", key_id="", status=401), NOON, 2**40)
        self.ledger.cut(10)
        found = {
            service: {b: each for b, each in enumerate(times) if each} for service, times in self.ledger.times.items()
        }
        self.assertEqual({"lpo": {0: 1, 1: 1, 6: 2, 31: 2}, "lrs": {31: 1}}, found)

    def test_how_long_others_took_is_told_elsewhere(self) -> None:
        """Rows that come back were counted here before, and those of others are in their own counters."""
        self.ledger.put_back([Row(KIND, NOON, 3, 100, 50)])
        self.assertEqual({}, self.ledger.times)

    def test_whatever_differs_parts_them(self) -> None:
        others = [
            KIND._replace(**{name: value})  # type: ignore[arg-type]
            for name, value in zip(Kind._fields, ("k", "lrs", "udp", "ETH", "okx-ws", "rest", 404, False), strict=True)
        ]
        for kind in (KIND, *others):
            count(self.ledger, kind)
        rows = self.ledger.cut(100)
        self.assertEqual([KIND, *others], [row.kind for row in rows])
        self.assertIsInstance(rows[0].kind, Kind)

    def test_a_new_hour_parts_them_too(self) -> None:
        for now in (NOON - 0.001, NOON, NOON + 3599.9, NOON + 3600, NOON - 0.002):
            count(self.ledger, KIND, now)
        self.assertEqual([(NOON - 0.001, 2), (NOON, 2), (NOON + 3600, 1)], [row[1:3] for row in self.ledger.cut(9)])

    def test_the_oldest_leave_first(self) -> None:
        for place, kind in enumerate(kinds(6)):
            count(self.ledger, kind, NOON + place * 1200)
        cuts = [[row.kind.asset for row in self.ledger.cut(most)] for most in (2, 2, 1, 9)]
        self.assertEqual([["A0", "A1"], ["A2", "A3"], ["A4"], ["A5"]], cuts)

    def test_a_cut_leaves_the_ledger_counting(self) -> None:
        for kind in kinds(3):
            count(self.ledger, kind)
        self.ledger.cut(2)
        for kind in kinds(3):
            count(self.ledger, kind)
        self.assertEqual([("A2", 2), ("A0", 1), ("A1", 1)], [(row[0].asset, row[2]) for row in self.ledger.cut(9)])

    def test_what_is_put_back_merges(self) -> None:
        count(self.ledger, KIND, NOON + 1, 10)
        rows = self.ledger.cut(9)
        count(self.ledger, KIND, NOON + 2, 30)
        self.ledger.put_back(rows)
        count(self.ledger, KIND, NOON + 3, 20)
        self.assertEqual([Row(KIND, NOON + 1, 3, 60, 30)], self.ledger.cut(9))

    def test_what_is_put_back_keeps_its_hour(self) -> None:
        count(self.ledger, KIND, NOON - 1)
        rows = self.ledger.cut(9)
        count(self.ledger, KIND, NOON + 1)
        self.ledger.put_back(rows)
        self.ledger.put_back(rows)
        self.assertEqual([(NOON - 1, 2), (NOON + 1, 1)], [row[1:3] for row in self.ledger.cut(9)])

    def test_past_hours_leave_nothing_behind(self) -> None:
        for hour in range(50):
            count(self.ledger, KIND, NOON + hour * 3600)
            self.ledger.cut(9)
        self.assertLessEqual(len(self.ledger._windows), 1)


class BoundTests(SynchronousTestCase):
    """Beyond the bound detail is given up, and never a count."""

    def test_counting(self) -> None:
        ledger = Ledger(most_kinds=10)
        for kind in kinds(1000):
            count(ledger, kind)
        self.assertEqual((11, 1000), (len(ledger), ledger.requests))
        coarse = ledger.cut(100)[-1]
        self.assertEqual((KIND._replace(asset=SEVERAL, source="", cache_tier=""), 990), (coarse.kind, coarse[2]))

    def test_kinds_that_wait_keep_their_detail(self) -> None:
        ledger = Ledger(most_kinds=10)
        for _ in range(3):
            for kind in kinds(12):
                count(ledger, kind)
        self.assertEqual([3] * 10 + [6], [row.request_count for row in ledger.cut(100)])

    def test_putting_back(self) -> None:
        ledger = Ledger(most_kinds=10)
        ledger.put_back(Row(kind, NOON, 2, 5, 3) for kind in kinds(1000))
        self.assertEqual((11, 2000), (len(ledger), ledger.requests))

    def test_putting_back_over_and_over(self) -> None:
        """As when nothing takes usage for long."""
        ledger = Ledger(most_kinds=10)
        for turn in range(300):
            for kind in kinds(7):
                count(ledger, kind._replace(source=f"s{turn}"), NOON + turn)
            ledger.put_back(ledger.cut(5))
            self.assertLessEqual(len(ledger), 11)
        self.assertEqual(2100, ledger.requests)

    def test_keys_and_statuses_are_never_merged(self) -> None:
        ledger = Ledger(most_kinds=2)
        kinds = [KIND._replace(key_id=key, status=status) for key in ("a", "b", "c") for status in (200, 429)]
        for kind in (*kinds, *kinds):
            count(ledger, kind)
        self.assertEqual([2] * 6, [row.request_count for row in ledger.cut(100)])

    def test_room_again(self) -> None:
        ledger = Ledger(most_kinds=2)
        for kind in kinds(5):
            count(ledger, kind)
        ledger.cut(100)
        count(ledger, KIND)
        self.assertEqual([KIND], [row.kind for row in ledger.cut(100)])


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("count"), st.sampled_from("ab"), st.sampled_from(["BTC", "ETH", "XRP"]), st.sampled_from(["", "m"]),
            st.sampled_from([200, 429]), st.booleans(), st.integers(0, 100),
        ),
        st.tuples(st.just("pass"), st.floats(0, 5000)),
        st.tuples(st.just("back"), st.floats(0, 5000)),
        st.tuples(st.just("cut"), st.integers(0, 5)),
        st.tuples(st.just("put_back"), st.integers(0, 5)),
    ),
    max_size=120,
)  # fmt: skip


class ConservationTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=300)
    @given(steps, st.integers(1, 6))
    def test_nothing_is_lost_and_nothing_is_made(self, steps: list[tuple], most_kinds: int) -> None:
        """Whatever comes in whatever order: by key, status and admission the sums stay, and rows keep to their hour."""
        ledger, now = Ledger(most_kinds), NOON
        counted: list[Row] = []
        out: list[Row] = []
        hours: dict[int, int] = {}
        for what, *values in steps:
            if what == "count":
                key, asset, source, status, admitted, took = values
                kind = Kind(key, "lpo", "http", asset, source, "", status, admitted)
                ledger.count(*kind, now, took)
                counted.append(Row(kind, now, 1, took, took))
                hours[int(now // WINDOW_SECONDS)] = hours.get(int(now // WINDOW_SECONDS), 0) + 1
            elif what == "pass":
                now += values[0]
            elif what == "back":
                now -= values[0]
            elif what == "cut":
                rows = ledger.cut(values[0])
                self.assertLessEqual(len(rows), values[0])
                out += rows
            else:
                taken, out = out[: values[0]], out[values[0] :]
                ledger.put_back(taken)
            waiting = [row for window in ledger._windows.values() for row in window]
            self.assertEqual(len(waiting), len(ledger))
            # two keys, two statuses, admitted or not
            self.assertLessEqual(len(ledger), most_kinds + 8 * max(1, len(hours)))
        out += ledger.cut(10_000)
        self.assertEqual(0, len(ledger))
        self.assertEqual(sums_of(counted), sums_of(out))
        by_hour: dict[int, int] = {}
        for row in out:
            by_hour[int(row.at // WINDOW_SECONDS)] = by_hour.get(int(row.at // WINDOW_SECONDS), 0) + row.request_count
        self.assertEqual(hours, by_hour)


def numbered() -> Callable[[int], bytes]:
    numbers = iter(range(1_000_000))
    return lambda length: next(numbers).to_bytes(length, "big")


class BatchTests(SynchronousTestCase):
    def test_rows_are_laid_into_batches(self) -> None:
        rows = [Row(kind, NOON, 2, 1, 1) for kind in kinds(2 * MOST_ROWS + 1)]
        batches = batches_of(rows, "node", NOON, numbered())
        self.assertEqual([MOST_ROWS, MOST_ROWS, 1], [len(batch.rows) for batch in batches])
        self.assertEqual(rows, [row for batch in batches for row in batch.rows])
        self.assertEqual(3, len({batch.id for batch in batches}))
        self.assertEqual(2 * MOST_ROWS, batches[0].requests)
        self.assertEqual([], batches_of([], "node", NOON, numbered()))

    def test_ids_sort_by_time(self) -> None:
        ids = [make_batch_id(now, numbered()) for now in (0.0, NOON, NOON + 0.001, NOON + 1e9)]
        self.assertEqual(ids, sorted(ids))
        self.assertEqual([24] * 4, [len(batch_id) for batch_id in ids])

    def test_row_ids(self) -> None:
        batch = Batch("0123456789abcdef01234567", "node", ())
        self.assertEqual(UUID("01234567-89ab-cdef-0123-4567000000ff"), batch.row_id(255))
