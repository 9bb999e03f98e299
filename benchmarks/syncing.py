"""Rows of usage a second that the sync job copies from a real PostgreSQL to a real Valkey or Redis server, in full.

A row is a Hash of 13 fields with its expiry and an entry in three Sorted Sets. Rows are spread over the last days, with
as many keys, assets and nodes as asked for. Each round builds the copy anew. Beside the whole job, its parts alone:
reading the rows, and laying them out as commands. Both servers are started for this and nothing of them stays.
"""

from __future__ import annotations

import argparse
import resource
import secrets
import statistics
import time
from datetime import UTC, datetime, timedelta
from os import urandom
from random import Random
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred, ensureDeferred

from tbeast.adapters.cache.counters import ValkeyUsageCounters
from tbeast.adapters.cache.keycopies import ValkeyKeyCopies
from tbeast.adapters.cache.rebuilding import Layout, ValkeyParameterCopies, ValkeyRebuilding
from tbeast.adapters.cache.valkey import ValkeyClient
from tbeast.adapters.cache.valkeytarget import target as cache_target
from tbeast.adapters.store import syncrows
from tbeast.adapters.store.keyrows import PostgresKeys
from tbeast.adapters.store.parameterrows import PostgresParameters
from tbeast.adapters.store.postgres import connect, target
from tbeast.adapters.store.syncrows import PostgresSync
from tbeast.adapters.store.threads import StorePool
from tbeast.adapters.store.usagerows import ensure_partitions
from tbeast.domain.syncplan import NO_ID, SECOND, Building, next_building
from tbeast.services.sync import CacheSide, Summary, Sync
from tbeast.testing.postgres import fresh_database
from tbeast.testing.valkey import shared_server

DAYS = 30

FILL = """
INSERT INTO usage_logs (at, id, key_id, node, service, protocol, asset, source, cache_tier, status, admitted,
    request_count, response_us_sum, response_us_max, written_at)
SELECT moment, gen_random_uuid(), 'key' || lpad((i::bigint * 7919 %% %(keys)s)::text, 7, '0'), 'node-' || i %% 3, 'lpo',
    CASE i %% 2 WHEN 0 THEN 'http' ELSE 'udp' END, 'A' || i * 31 %% %(assets)s, 'median', 'shelf', 200, true,
    1 + i %% 40, 20 * (i %% 1000), 30 * (i %% 100), moment + interval '1 second'
FROM generate_series(1, %(rows)s) i,
LATERAL (
    SELECT clock_timestamp() - (1 - i / %(rows)s::float8) * %(days)s * interval '1 day' - interval '1 hour'
) m (moment)
"""


def fill(url: str, args: argparse.Namespace) -> None:
    connection = connect(target(url))
    today = datetime.now(UTC).date()
    ensure_partitions(connection, [today - timedelta(days=days) for days in range(DAYS + 2)])
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        cursor.execute(FILL, {"rows": args.rows, "keys": args.keys, "assets": args.assets, "days": DAYS})
    connection.commit()
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE usage_logs")  # as the server does by itself before long
    connection.close()


def parts(url: str, args: argparse.Namespace) -> None:
    connection = connect(target(url))
    now_us = int(time.time()) * SECOND
    walk: Building | None = Building((now_us - 93 * 86_400 * SECOND, NO_ID), now_us)
    layout = Layout()
    reading = laying_out = 0.0
    rows = octets = 0
    while walk is not None:
        began = time.perf_counter()
        chunk = syncrows.usage(connection, walk, now_us, args.chunk)
        reading += time.perf_counter() - began
        began = time.perf_counter()
        for start in range(0, len(chunk.rows), args.slice):
            octets += len(layout.usage(chunk.rows[start : start + args.slice])[0])
        laying_out += time.perf_counter() - began
        rows += len(chunk.rows)
        walk = next_building(walk, chunk, args.chunk)
    connection.close()
    print(f"reading alone     {rows / reading:>10,.0f} rows/s")
    print(f"laying out alone  {rows / laying_out:>10,.0f} rows/s ({octets / rows:,.0f} bytes a row)")


async def whole(reactor: Any, url: str, args: argparse.Namespace) -> None:
    server = shared_server()
    pool = StorePool(target(url), reactor, 2)
    pool.start()
    client = ValkeyClient(cache_target(server.url), reactor, time.time, Random(1).random)
    await client.start()
    side = CacheSide(
        ValkeyRebuilding(client, args.slice), ValkeyKeyCopies(client), ValkeyUsageCounters(client),
        ValkeyParameterCopies(client),
    )  # fmt: skip
    sync = Sync(
        PostgresSync(pool), PostgresKeys(pool, urandom), PostgresParameters(pool), side, reactor, "benchmark",
        lambda: secrets.token_hex(16), args.chunk,
    )  # fmt: skip
    rates = []
    for number in range(args.rounds):
        server.command("FLUSHALL")
        cpu = time.process_time()
        done = await sync.run(full=True)
        assert isinstance(done, Summary)
        if (done.usage, done.index) != (args.rows, args.rows):
            raise SystemExit(f"{done.usage} rows were written, {done.index} are there, {args.rows} should be")
        rates.append(done.usage / done.seconds)
        print(
            f"round {number + 1}: {done.seconds:6.2f} s {rates[-1]:>10,.0f} rows/s"
            f" (this process {time.process_time() - cpu:.2f} s)"
        )
    again = await sync.run()
    assert isinstance(again, Summary)
    await client.stop()
    await pool.stop()
    print(f"the whole job     {statistics.median(rates):>10,.0f} rows/s, the median of {args.rounds} rounds")
    print(f"the next one, with nothing new, {again.seconds:.2f} s")
    print(f"memory of this process at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=300)
    parser.add_argument("--assets", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=10_000, help="rows read at once (the daemon: 2,000)")
    parser.add_argument("--slice", type=int, default=2_000, help="rows written at once (the daemon: 250)")
    args = parser.parse_args()
    url = fresh_database()
    fill(url, args)
    parts(url, args)

    def run(reactor: Any) -> Deferred[None]:
        return ensureDeferred(whole(reactor, url, args))

    task.react(run)


if __name__ == "__main__":
    main()
