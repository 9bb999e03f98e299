"""Reports for tests of what is made of them."""

from __future__ import annotations

from typing import Any

from tbeast.loadtest.report import LevelResult, Report, part_of
from tbeast.loadtest.tally import Tally


def tally(ok: int = 1000, latency: float = 0.002, lag: float = 0.00005, busy: float = 0.4, **errors: int) -> Tally:
    """One second of answers that took as long."""
    made = Tally(ok=ok, in_time=ok, asked=ok + sum(errors.values()), elapsed=1.0, waited=1.0 - busy, connections=10)
    made.latency.add([latency] * ok)
    made.lag.add([lag] * made.asked)
    for reason, count in errors.items():
        made.fail(reason.replace("_", " "), count)
    return made


def result(protocol: Any = "tcp", number: int = 1, askers: int = 10, **changes: Any) -> LevelResult:
    """One level, of which all went well."""
    members: dict[str, Any] = {
        "protocol": protocol, "number": number, "wanted": askers, "askers": askers, "sockets": askers,
        "success": 100.0, "reached": True, "connecting": {}, "closed": part_of(tally()),
        "open": part_of(tally(), 1000.0), **changes,
    }  # fmt: skip
    return LevelResult(**members)


def report(*levels: LevelResult, **changes: Any) -> Report:
    """A run of these levels."""
    members: dict[str, Any] = {
        "version": 1, "tbeast": "0.1.0", "began_at": 1_776_000_000.0, "took_seconds": 12.5,
        "targets": {"tcp": "http://127.0.0.1:8080", "udp": "udp://127.0.0.1:2679"}, "node": "falcon",
        "simulated": False, "machine": "2 cores", "generators": 1, "assets": ("BTC", "ETH"), "seconds": 1.0,
        "load": 0.5, "rate": None, "timeouts": {"tcp": 10.0, "udp": 2.0}, "goal": 99.9, "levels": levels,
        "notes": (), "interrupted": False, "reached": all(level.reached for level in levels), **changes,
    }  # fmt: skip
    return Report(**members)
