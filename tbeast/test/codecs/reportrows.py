"""Reports for tests: some rows of each, and how to make more."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from attrs import evolve
from hypothesis import strategies as st

from tbeast.codecs.reportcolumns import Opening
from tbeast.codecs.reportformats import writer
from tbeast.codecs.reportqueries import FORMATS, SOURCES
from tbeast.domain.reports import (
    REPORT_SUMMARY,
    REPORT_USAGE,
    REPORTS,
    SUMMARY,
    USAGE,
    ReportKey,
    ReportLine,
    ReportQuery,
    ReportSums,
    UsageKey,
    UsageLine,
    day_of,
    sums_of_usage,
)
from tbeast.domain.syncplan import SECOND
from tbeast.domain.usage import NOBODY

NOW = int(datetime(2026, 11, 22, 21, 40, 1, 250_000, tzinfo=UTC).timestamp() * 1000) * 1000
NOVEMBER = day_of(2026, 11, 1)
ID = "00112233-4455-6677-8899-aabbccddeeff"
KEY = "abcdefghij"
LINE = UsageLine(NOW, ID, KEY, "node-1", "lpo", "http", "BTC", "coinbase-ws", "shelf", 200, True, 1234, 2468, 1500)
REFUSED = LINE._replace(
    at_us=NOW + SECOND, id=ID[:-1] + "0", asset="", source="", cache_tier="", status=429, admitted=False,
    request_count=66, response_us_sum=132, response_us_max=9,
)  # fmt: skip
MADE = ReportLine(NOW, ID, KEY, "node-1", USAGE, "csv", 200, 1_000_000, 12_345_678, '{"from": "2026-11-01", "n": 1.50}')
ROWS: dict[str, list[Any]] = {
    USAGE: [LINE, REFUSED],
    SUMMARY: [
        (UsageKey("BTC", "coinbase-ws", "lpo", "http", True), sums_of_usage([LINE])),
        (UsageKey("", "", "lpo", "http", False), sums_of_usage([REFUSED])),
    ],
    REPORT_USAGE: [MADE],
    REPORT_SUMMARY: [(ReportKey(USAGE, "csv"), ReportSums(3, 1, 2_000_000, 999_999, 500_000, NOVEMBER, NOW))],
}

at = st.integers(0, 253_000_000_000_000_000)
uuids = st.integers(0, 2**128 - 1).map(lambda number: str(UUID(int=number)))
key_ids = st.one_of(st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=10, max_size=10), st.just(NOBODY))
assets = st.one_of(st.text("ABCXYZ0189", min_size=1, max_size=16), st.sampled_from(["*", ""]))
counts = st.integers(0, 2**63 - 1)
ours = st.builds(
    UsageLine,
    at_us=at,
    id=uuids,
    key_id=key_ids,
    node=st.text("abc.-019", min_size=1, max_size=12).filter(lambda name: name[0] != "-"),
    service=st.sampled_from(["lpo", "lrs"]),
    protocol=st.sampled_from(["http", "udp"]),
    asset=assets,
    source=st.sampled_from([*SOURCES, ""]),
    cache_tier=st.sampled_from(["shelf", "memory", "cache", "rest", ""]),
    status=st.integers(100, 599),
    admitted=st.booleans(),
    request_count=st.integers(1, 2**63 - 1),
    response_us_sum=counts,
    response_us_max=counts,
)
any_lines = st.builds(
    UsageLine, at, st.text(), st.text(), st.text(), st.text(), st.text(), st.text(), st.text(), st.text(),
    st.integers(100, 599), st.booleans(), counts, counts, counts,
)  # fmt: skip
any_reports = st.builds(
    ReportLine, at, uuids, key_ids, st.text(), st.sampled_from(REPORTS), st.sampled_from(FORMATS),
    st.integers(100, 599), counts, counts,
    st.one_of(
        st.text(),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
            lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
            max_leaves=6,
        ).map(json.dumps),
        st.sampled_from(["NaN", "[1", '{"a":1}x', "[" * 100_000, "1e999", '"\\ud800"']),
    ),
)  # fmt: skip


def opening(report: str = USAGE, **changes: Any) -> Opening:
    return Opening(evolve(ReportQuery(report, KEY, NOVEMBER, day_of(2026, 12, 1)), **changes), NOW)


def in_pieces(form: str, said: Opening, rows: list, size: int, next_cursor: str = "") -> bytes:
    writes = writer(form, said)
    pieces = [writes.begin(), writes.rows([])]
    pieces += [writes.rows(rows[start : start + size]) for start in range(0, len(rows), size)]
    return b"".join([*pieces, writes.end(next_cursor)])
