"""Usage as tests write it, and what the database has of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from itertools import count

from tbeast.adapters.store.postgres import Connection
from tbeast.domain.usage import Batch, Kind, Row

NOW = time.time()
KIND = Kind("alpha", "lpo", "http", "BTC", "median", "shelf", 200, True)

_numbers = count(1)


def row(at: float = NOW, requests: int = 1, **kind: object) -> Row:
    return Row(KIND._replace(**kind), at, requests, requests * 10, 10)  # type: ignore[arg-type]


def batch(*rows: Row, node: str = "node") -> Batch:
    return Batch(f"{next(_numbers):024x}", node, rows)


def make_key(connection: Connection, key_id: str, month: str | None = None, used: int = 0) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO api_keys (key_id, key_hash, datagram_secret, minimum_wait_seconds, current_usage)"
            " VALUES (%s, %s, %s, 0, %s)",
            (key_id, hashlib.sha256(key_id.encode()).digest(), bytes(32), used),
        )
        if month is not None:
            cursor.execute("UPDATE api_keys SET usage_month = %s WHERE key_id = %s", (f"{month}-01", key_id))
    connection.commit()


def ask(connection: Connection, statement: str, *values: object) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        rows = cursor.fetchall()
    connection.commit()
    return rows


def recorded(connection: Connection) -> int:
    """How many requests the database has."""
    return int(ask(connection, "SELECT coalesce(sum(request_count), 0) FROM usage_logs")[0][0])


def requests_of(batches: Iterable[Batch]) -> int:
    return sum(one.requests for one in batches)
