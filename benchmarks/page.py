"""Put what was measured into docs/performance.md: between its marks stand tables and figures of the last runs.

A block of the page begins with the comment C{<!-- NAME -->} and ends with C{<!-- /NAME -->}; what stands between them
is written anew from C{NAME.json} or C{NAME.txt} in benchmarks/out, and left as it is where neither is there. The plots
go to docs/plots.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from outcomes import OUT, ROOT, facts, saved

DOCS = ROOT / "docs"
PLOTS = ("throughput", "latency-http", "latency-udp", "cost-http", "cost-udp")
HEADLINES = {"http": (1, 64, 512), "udp": (4, 64, 256)}
BLOCK = re.compile(r"(?P<begin><!-- (?P<name>[a-z]+) -->\n)(?P<old>.*?)(?P<end><!-- /(?P=name) -->)", re.DOTALL)


def number(value: float | None, form: str) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> Iterator[str]:
    """A table in Markdown, of which the first so many columns are texts."""
    yield f"| {' | '.join(heading)} |"
    yield f"|{'|'.join('---' if place < texts else '---:' for place in range(len(heading)))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def conditions(outcome: dict) -> str:
    """On what, when and how it was measured."""
    rounds = f"{outcome['rounds']} rounds" if outcome["rounds"] != 1 else "one round"
    where = f"{outcome['day']}; {outcome['machine']}; {outcome['cores']}"
    return f"{where}; {rounds} of {outcome['seconds']:g} s a load; {outcome['quiet']}."


def side_by_side(outcome: dict) -> Iterator[str]:
    heading = (
        "load", "server", "requests/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs", "of Go", "of the limit", "asker busy",
        "bad, lost",
    )  # fmt: skip
    rows = [
        (
            f"{row['protocol'].upper()} {row['level']}", row["title"], f"{row['rate']:,.0f}",
            *(number(row["latency_ms"][share], ".2f") for share in ("50.0", "99.0", "99.9")),
            number(row["cpu_us"], ".1f"),
            *(number(row[name], ".2f") for name in ("against_peer", "against_limit", "busy")),
            str(row["bad"] + row["closed"] + row["lost"]),
        )
        for row in outcome["rows"]
        if row["level"] in HEADLINES[row["protocol"]]
    ]  # fmt: skip
    yield from table(heading, rows, 2)
    yield ""
    yield conditions(outcome)
    yield ""
    yield from (f"    {line}" for line in outcome["counted"])


def flatness(outcome: dict) -> Iterator[str]:
    heading = ("over", "with", "server", "requests/s", "serving µs", "all µs", "bad, lost")
    rows = [
        (row["protocol"].upper(), f"{row['value']:,} {row['axis']}", row["title"], f"{row['rate']:,.0f}",
         number(row["serving_us"], ".2f"), number(row["cpu_us"], ".2f"), str(row["bad"] + row["closed"] + row["lost"]))
        for row in outcome["rows"]
    ]  # fmt: skip
    yield from table(heading, rows, 3)
    yield ""
    yield conditions(outcome)
    yield ""
    yield from (f"    {line}" for line in outcome["counted"])


TABLES = {"sidebyside": side_by_side, "flatness": flatness}


def printed(path: Path) -> Iterator[str]:
    """What a program has printed, as it was."""
    yield from (f"    {line}".rstrip() for line in path.read_text(encoding="utf-8").rstrip("\n").splitlines())
    yield ""
    day = time.strftime("%Y-%m-%d", time.gmtime(os.path.getmtime(path)))
    yield f"{day}; {facts(time.time())['machine']}."


def block(name: str, folder: Path) -> str | None:
    """What belongs into the block of that name; C{None}: nothing was measured."""
    if name in TABLES:
        outcome = saved(folder, name)
        return None if outcome is None else "\n".join(TABLES[name](outcome)).rstrip() + "\n"
    path = folder / f"{name}.txt"
    return "\n".join(printed(path)) + "\n" if path.exists() else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    page = DOCS / "performance.md"
    written = []

    def renewed(found: re.Match[str]) -> str:
        new = block(found["name"], args.out)
        if new is None:
            return found[0]
        written.append(found["name"])
        return f"{found['begin']}\n{new}\n{found['end']}"

    page.write_text(BLOCK.sub(renewed, page.read_text(encoding="utf-8")), encoding="utf-8")
    plots = [name for name in PLOTS if (args.out / f"{name}.svg").exists()]
    for name in plots:
        (DOCS / "plots").mkdir(exist_ok=True)
        shutil.copyfile(args.out / f"{name}.svg", DOCS / "plots" / f"{name}.svg")
    print(f"docs/performance.md: {', '.join(written) or 'nothing'}; plots: {', '.join(plots) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
