"""The daemon beside its peers, in one run on one machine: HTTP and UDP, at rising numbers of questions at a time.

Each server in turn has a core to itself and the load another; the turns go round, and what is shown are medians of the
rounds and ratios of these medians, so that a drift of the machine hits all of them alike. Prices change underneath, and
each key has a bucket, a quota and metering that count. What the daemon has recorded in the end is held against what was
asked of it.

Writes results to benchmarks/out as JSON and plots; tools/bench.py --docs puts them into docs/performance.md.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from askers import MissingError, Shot, compiled, median
from attrs import frozen
from contenders import CONTENDERS, HTTP, LIMITS, PEER, UDP, WORKERS, able, bench
from cores import chosen
from outcomes import OUT, facts, how_quiet, save
from plots import draw_side_by_side
from progress import Steps
from turns import loaded, rounds

HEADLINES = {HTTP: (1, 64, 512), UDP: (4, 64, 256)}
BETWEEN = {HTTP: (4, 16, 128, 256), UDP: (16, 1024)}
"""Levels for the plots alone, with half the time."""


@frozen
class Turn:
    """One load on one server."""

    protocol: str
    level: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.protocol}, {self.level} at a time"


def plan_of(seconds: float, levels: Mapping[str, Sequence[int]]) -> list[Turn]:
    """What each server goes through in a round."""
    return [
        Turn(protocol, level, seconds if level in HEADLINES[protocol] else seconds / 2)
        for protocol, several in levels.items()
        for level in sorted(several)
    ]


def rows(shots: dict[Turn, dict[str, list[Shot]]]) -> list[dict]:
    """One row for each load and server, with the ratios."""
    found = []
    for turn, by in sorted(shots.items(), key=lambda each: (each[0].protocol, each[0].level)):
        protocol, level = turn.protocol, turn.level
        middle = {name: median(several) for name, several in by.items()}
        for name, shot in middle.items():
            found.append({
                "protocol": protocol, "level": level, "server": name, "title": CONTENDERS[name].title,
                "rate": shot.rate, "rates": [each.rate for each in by[name]], "latency_ms": shot.latency_ms,
                "cpu_us": shot.cpu_us, "serving_us": shot.serving_us, "bad": shot.bad, "closed": shot.closed,
                "lost": shot.lost, "busy": shot.busy, "others": shot.others,
                "against_peer": shot.rate / middle[PEER].rate if PEER in middle else math.nan,
                "against_limit": shot.rate / middle[LIMITS[protocol]].rate if LIMITS[protocol] in middle else math.nan,
            })  # fmt: skip
    return found


HEADING = ("load", "server", "requests/s", "p50 ms", "p99 ms", "cpu us", "bad/lost", "of Go", "of limit", "asker")


def cells(row: dict) -> tuple[str, ...]:
    """A row as texts, in the order of L{HEADING}."""

    def number(value: float, form: str) -> str:
        return format(value, form) if math.isfinite(value) else "-"

    return (
        f"{row['protocol']} {row['level']}", row["title"], f"{row['rate']:,.0f}",
        *(number(row["latency_ms"][share], ".2f") for share in (50.0, 99.0)), number(row["cpu_us"], ".1f"),
        str(row["bad"] + row["closed"] + row["lost"]),
        *(number(row[name], ".2f") for name in ("against_peer", "against_limit", "busy")),
    )  # fmt: skip


def print_lines(lines: Sequence[Sequence[str]], texts: int) -> None:
    """A table, of which the first so many columns are texts and the others numbers."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (
            text.ljust(width) if place < texts else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(padded))


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each load that is in the table")
    parser.add_argument("--servers", default=",".join(CONTENDERS), help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--http", type=numbers, help="connections, such as 1,64,512,6000")
    parser.add_argument("--udp", type=numbers, help="datagrams under way, such as 4,64,256; a 0 for none")
    parser.add_argument("--server-cores", type=int, default=1)
    parser.add_argument("--load-cores", type=int, default=1)
    parser.add_argument("--workers", type=int, default=WORKERS, help="of the daemon that has several")
    parser.add_argument("--wrk", action="store_true", help="load HTTP by wrk instead of by our own program")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    unknown = [name for name in args.servers.split(",") if name not in CONTENDERS]
    if unknown:
        parser.error(f"no such server: {', '.join(unknown)}")
    if args.wrk and shutil.which("wrk") is None:
        parser.error("wrk is not installed")
    levels = {
        protocol: [level for level in (HEADLINES[protocol] + BETWEEN[protocol] if given is None else given) if level]
        for protocol, given in ((HTTP, args.http), (UDP, args.udp))
    }
    plan = plan_of(args.seconds, levels)
    cores = chosen(args.server_cores, args.load_cores)
    try:
        compiled("httpasker")
    except MissingError as missing:
        print(f"left out, all of it: the load needs {missing}, which is not installed")
        return 0
    print(cores.told(), flush=True)
    contenders = able(args.servers.split(","), lambda line: print(line, flush=True))
    whole = args.rounds * sum(turn.seconds for each in contenders for turn in plan if turn.protocol in each.protocols)
    began = time.time()
    with bench(cores, keys=1, workers=args.workers) as place, Steps(whole) as steps:
        shots, counted, failed = rounds(
            place,
            contenders,
            lambda contender: [turn for turn in plan if turn.protocol in contender.protocols],
            lambda running, turn: loaded(running, place, turn.protocol, turn.level, turn.seconds, by_wrk=args.wrk),
            lambda turn: turn.seconds,
            args.rounds,
            steps,
        )
    found = rows(shots)
    shown = [row for row in found if row["level"] in HEADLINES[row["protocol"]]] or found
    print_lines([HEADING, *map(cells, shown)], texts=2)
    quiet = how_quiet(found)
    for line in (*([] if args.wrk else counted), *failed, quiet):
        print(line)
    told = {
        **facts(began), "cores": cores.told(), "rounds": args.rounds, "seconds": args.seconds,
        "load": "wrk" if args.wrk else "own",
        "workers": args.workers, "quiet": quiet, "counted": counted,
    }  # fmt: skip
    save(args.out, "sidebyside", {**told, "rows": found})
    for path in draw_side_by_side(found, args.out):
        print(f"plot: {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
