"""What a question costs the server, by how many keys ask, how many assets they ask for, over how many connections.

A cost that is flat in these is what lets one node serve many. Cost is the processor time of the processes that serve, a
question, under full load; what the database takes to store the usage is shown beside it (`all us`). The daemon knows
all keys and all assets from the beginning; those in use are drawn at random.

Writes results to benchmarks/out as JSON and plots; tools/bench.py --docs puts them into docs/performance.md.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from askers import MissingError, Shot, compiled, median
from attrs import frozen
from contenders import CONTENDERS, HTTP, LIMITS, UDP, Contender, able, bench
from cores import chosen
from outcomes import OUT, facts, how_quiet, save
from plots import draw_flatness
from progress import Steps
from sidebyside import numbers, print_lines
from turns import loaded, rounds

LEVEL = 64
KEYS = (1, 10, 100, 1_000, 10_000)
ASSETS = (1, 15, 150)
CONNECTIONS = (1, 8, 64, 512, 2_000, 6_000)
SPARE_FILES = 200


@frozen
class Point:
    """One place on one axis.

    @ivar axis: C{keys}, C{assets} or C{connections}: what is varied; C{value}: how many of them.
    """

    protocol: str
    axis: str
    value: int
    keys: int = 1
    assets: int = 1
    level: int = LEVEL

    def __str__(self) -> str:
        return f"{self.protocol}, {self.value} {self.axis}"


def points(keys: Sequence[int], assets: Sequence[int], connections: Sequence[int]) -> list[Point]:
    """All places, in the order in which they are gone through."""
    found = []
    for protocol in (UDP, HTTP):
        found += [Point(protocol, "assets", count, assets=count) for count in assets]
        found += [Point(protocol, "keys", count, keys=count) for count in keys]
    return [*found, *(Point(HTTP, "connections", level, level=level) for level in connections)]


def suits(point: Point, contender: Contender) -> bool:
    """Whether it says anything: a fixed body has neither keys nor assets."""
    return point.protocol in contender.protocols and (
        contender.name not in LIMITS.values() or point.axis == "connections"
    )


def rows(shots: dict[Point, dict[str, list[Shot]]]) -> list[dict]:
    """One row for each point and server."""
    found = []
    for point, by in sorted(shots.items(), key=lambda each: (each[0].protocol, each[0].axis, each[0].value)):
        for name, several in by.items():
            shot = median(several)
            found.append({
                "protocol": point.protocol, "axis": point.axis, "value": point.value, "server": name,
                "title": CONTENDERS[name].title, "rate": shot.rate, "cpu_us": shot.cpu_us,
                "serving_us": shot.serving_us, "bad": shot.bad, "closed": shot.closed, "lost": shot.lost,
                "busy": shot.busy, "others": shot.others,
            })  # fmt: skip
    return found


HEADING = ("load", "varied", "server", "requests/s", "serving us", "all us", "bad/lost", "asker")


def cells(row: dict) -> tuple[str, ...]:
    """A row as texts, in the order of L{HEADING}."""
    return (
        row["protocol"], f"{row['value']:,} {row['axis']}", row["title"], f"{row['rate']:,.0f}",
        f"{row['serving_us']:.2f}", f"{row['cpu_us']:.2f}", str(row["bad"] + row["closed"] + row["lost"]),
        f"{row['busy']:.2f}",
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each load")
    parser.add_argument("--servers", default="native,python,go,nginx", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--keys", type=numbers, default=list(KEYS))
    parser.add_argument("--assets", type=numbers, default=list(ASSETS))
    parser.add_argument("--connections", type=numbers, default=list(CONNECTIONS))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    unknown = [name for name in args.servers.split(",") if name not in CONTENDERS]
    if unknown:
        parser.error(f"no such server: {', '.join(unknown)}")
    try:
        compiled("httpasker")
    except MissingError as missing:
        print(f"left out, all of it: the load needs {missing}, which is not installed")
        return 0
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    few = [level for level in args.connections if level + SPARE_FILES <= files]
    if few != args.connections:
        print(f"left out: more connections than {files - SPARE_FILES:,}, for which this machine opens too few files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # the servers inherit it
    cores = chosen()
    print(cores.told(), flush=True)
    contenders = able(args.servers.split(","), lambda line: print(line, flush=True))
    plan = points(args.keys, args.assets, few)
    began = time.time()
    whole = args.rounds * args.seconds * sum(suits(point, each) for each in contenders for point in plan)
    with bench(cores, max(args.keys, default=1)) as place, Steps(whole) as steps:
        shots, counted, failed = rounds(
            place,
            contenders,
            lambda contender: [point for point in plan if suits(point, contender)],
            lambda running, point: loaded(
                running, place, point.protocol, point.level, args.seconds, keys=point.keys, assets=point.assets
            ),
            lambda _: args.seconds,
            args.rounds,
            steps,
        )
    found = rows(shots)
    print_lines([HEADING, *map(cells, found)], texts=3)
    quiet = how_quiet(found)
    for line in (*counted, *failed, quiet):
        print(line)
    told = {
        **facts(began),
        "cores": cores.told(),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "quiet": quiet,
        "counted": counted,
    }
    save(args.out, "flatness", {**told, "rows": found})
    for path in draw_flatness(found, args.out):
        print(f"plot: {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
