"""What metering costs: a count in the ledger, a row laid down in the journal, and rows a second into PostgreSQL.

The database is the embedded one with the settings of production, so everything that is committed was on the disk first.
The ways of inserting are compared with the same rows, indexes and counters: execute_values, one statement with unnest,
JSON, and COPY into a staging table, which is how the writer does it. Then the writer's own path is timed, rows of
distinct kinds only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from random import Random

import msgspec
from psycopg2.extras import execute_values

from tbeast.adapters.spool.journal import Journal
from tbeast.adapters.store.migrations import migrate
from tbeast.adapters.store.postgres import Connection, connect, target
from tbeast.adapters.store.usagerows import ensure_partitions, write
from tbeast.domain.counters import Counters
from tbeast.domain.usage import Batch, Kind, Ledger, Row, batches_of
from tbeast.testing.postgres import Server

KEYS = 500
COLUMNS = (
    "key_id, node, service, protocol, asset, source, cache_tier, status, admitted, request_count, response_us_sum,"
    " response_us_max"
)
TYPES = ["text", "text", "text", "text", "text", "text", "text", "smallint", "boolean", "bigint", "bigint", "bigint"]

Insert = Callable[[Connection, list[tuple]], None]


def ledger_costs(rounds: int, count: int) -> None:
    kinds = [
        (f"key{place % 50}", "lpo", "http", f"A{place % 20}", "median", "shelf", 200, True) for place in range(1000)
    ]

    def empty(*_arguments: object) -> None:
        pass

    def timed(call: Callable[..., None]) -> float:
        began = time.perf_counter()
        for turn in range(count // 1000):
            now = 1.8e9 + turn * 1e-3
            for key_id, service, protocol, asset, source, tier, status, admitted in kinds:
                call(key_id, service, protocol, asset, source, tier, status, admitted, now, 12)
        return (time.perf_counter() - began) / count * 1e6

    costs = [timed(Ledger().count) for _ in range(rounds)]
    bare = [timed(empty) for _ in range(rounds)]
    print(f"{'Ledger.count':>34} {statistics.median(costs):8.3f} us, an empty call {statistics.median(bare):.3f} us")
    new, cut, back = [], [], []
    for _ in range(rounds):
        ledger = Ledger()
        began = time.perf_counter()
        for place in range(50_000):
            ledger.count(f"key{place}", "lpo", "http", "BTC", "median", "shelf", 200, True, 1.8e9, 12)
        new.append((time.perf_counter() - began) / 50_000 * 1e6)
        began = time.perf_counter()
        rows = ledger.cut(50_000)
        cut.append((time.perf_counter() - began) / 50_000 * 1e6)
        began = time.perf_counter()
        ledger.put_back(rows)
        back.append((time.perf_counter() - began) / 50_000 * 1e6)
    for what, costs in (("of a kind not seen before", new), ("cut, a row", cut), ("put back, a row", back)):
        print(f"{what:>34} {statistics.median(costs):8.3f} us")


def batches(count: int, chance: Random) -> list[Batch]:
    """Batches of 300 rows, each of its own kind, from now."""
    made = []
    for _ in range(count):
        now = time.time()
        rows = [
            Row(
                Kind(f"key{chance.randrange(KEYS)}", "lpo", "http", f"A{place}", "median", "shelf", 200, True),
                now - 0.1 + place * 1e-4, chance.randrange(1, 9), 400, 90,
            )
            for place in range(300)
        ]  # fmt: skip
        made += batches_of(rows, "node-1", now, os.urandom)
    return made


def journal_costs(rounds: int, chance: Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), 10**9, Counters())
        journal.open()
        appended, read = [], []
        for _ in range(rounds):
            made = batches(100, chance)
            began = time.perf_counter()
            for place in range(0, 100, 10):
                journal.append(made[place : place + 10], hold=False)
            appended.append((time.perf_counter() - began) / 30_000 * 1e6)
            began = time.perf_counter()
            found = journal.read(100)
            read.append((time.perf_counter() - began) / 30_000 * 1e6)
            journal.settled([one.id for one in found])
        for what, costs in (("append to the journal, a row", appended), ("read it back, a row", read)):
            print(f"{what:>34} {statistics.median(costs):8.3f} us")


def flat(made: Iterable[Batch]) -> list[tuple]:
    return [
        (repr(row.at), f"{one.id}{place:08x}", row.kind[0], one.node, *row.kind[1:], *row[2:])
        for one in made
        for place, row in enumerate(one.rows)
    ]


def insert(source: str) -> str:
    """The statement that all ways share: insert, and add up by key what was inserted."""
    return (
        f"WITH new AS (INSERT INTO usage_logs (at, id, {COLUMNS}) {source} ON CONFLICT DO NOTHING"
        " RETURNING key_id, at, status, admitted, request_count) SELECT key_id, sum(request_count) FILTER (WHERE"
        " admitted), max(at), max(at) FILTER (WHERE status < 400) FROM new GROUP BY key_id"
    )


def by_values(connection: Connection, rows: list[tuple]) -> None:
    with connection.cursor() as cursor:
        template = f"(to_timestamp(%s::float8), %s::uuid, {', '.join(['%s'] * 12)})"
        execute_values(cursor, insert("VALUES %s"), rows, template, page_size=len(rows))


def by_unnest(connection: Connection, rows: list[tuple]) -> None:
    arrays = ["{" + ",".join(f'"{value}"' for value in column) + "}" for column in zip(*rows, strict=True)]
    types = ["float8", "uuid", *TYPES]
    names = f"at, id, {COLUMNS}"
    lists = ", ".join(f"%s::{kind}[]" for kind in types)
    with connection.cursor() as cursor:
        cursor.execute(insert(f"SELECT to_timestamp(at), id, {COLUMNS} FROM unnest({lists}) t ({names})"), arrays)


def by_json(connection: Connection, rows: list[tuple]) -> None:
    names = ["at", "id", *COLUMNS.replace(",", "").split()]
    text = msgspec.json.encode([dict(zip(names, row, strict=True)) for row in rows]).decode()
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, ["float8", "uuid", *TYPES], strict=True))
    source = f"SELECT to_timestamp(at), id, {COLUMNS} FROM json_to_recordset(%s) AS t ({columns})"
    with connection.cursor() as cursor:
        cursor.execute(insert(source), (text,))


def by_copy(connection: Connection, rows: list[tuple]) -> None:
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(COLUMNS.replace(",", "").split(), TYPES, strict=True))
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMP TABLE IF NOT EXISTS staged (at float8, id uuid, {columns}) ON COMMIT DELETE ROWS")
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        cursor.copy_expert("COPY staged FROM STDIN", BytesIO(text.encode()), 1 << 20)
        cursor.execute(insert(f"SELECT to_timestamp(at), id, {COLUMNS} FROM staged"))


WAYS: dict[str, Insert] = {
    "execute_values": by_values, "unnest": by_unnest, "JSON": by_json, "COPY and staging table": by_copy,
}  # fmt: skip


def rates(work: Callable[[list[Batch]], None], count: int, rounds: int, chance: Random) -> tuple[float, float]:
    """Rows a second, and our own time for a row in microseconds, as medians over rounds after a first one."""
    found, costs = [], []
    for turn in range(rounds + 1):
        made = batches(count, chance)
        began, used = time.perf_counter(), time.process_time()
        work(made)
        if turn:
            found.append(count * 300 / (time.perf_counter() - began))
            costs.append((time.process_time() - used) / (count * 300) * 1e6)
    return statistics.median(found), statistics.median(costs)


def database_rates(rounds: int, sizes: list[int], chance: Random) -> None:
    server = Server(settings=())
    server.start()
    try:
        connection = connect(target(server.url()))
        migrate(connection)
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO api_keys (key_id, key_hash, datagram_secret, minimum_wait_seconds) SELECT 'key' || number,"
                " sha256(number::text::bytea), sha256(number::text::bytea), 0 FROM generate_series(0, %s) number",
                (KEYS - 1,),
            )
            cursor.execute("SHOW fsync")
            print(f"PostgreSQL {connection.info.server_version // 10_000}, fsync {cursor.fetchone()}")
        ensure_partitions(connection, [datetime.now(UTC).date()])
        connection.commit()
        print(f"{'':>34} {'batches':>8} {'rows/s':>10} {'our us/row':>10}")

        def show(name: str, size: int, work: Callable[[list[Batch]], None]) -> None:
            rate, cost = rates(work, size, rounds, chance)
            print(f"{name:>34} {size:>8} {rate:>10,.0f} {cost:>10.2f}", flush=True)
            with connection.cursor() as cursor:
                cursor.execute("TRUNCATE usage_logs")
            connection.commit()

        for name, way in WAYS.items():

            def tried(made: list[Batch], way: Insert = way) -> None:
                way(connection, flat(made))
                connection.commit()

            show(name, sizes[len(sizes) // 2], tried)

        def written(made: list[Batch]) -> None:
            if write(connection, made).refused:
                raise SystemExit("rows were refused")
            connection.commit()

        for size in sizes:
            show("the writer's", size, written)
        connection.close()
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 10, 40, 100], help="batches in one transaction")
    args = parser.parse_args()
    chance = Random(1)
    ledger_costs(args.rounds, args.counts)
    journal_costs(args.rounds, chance)
    database_rates(args.rounds, args.batches, chance)


if __name__ == "__main__":
    main()
