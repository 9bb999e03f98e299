"""Where a server's core goes under full load: by parts of the daemon, and beside that the limits.

perf looks at the core some thousand times a second and notes who was at work there: the kernel for the server, its own
code, the interpreter, the lab, the database, or nobody. What is not the kernel and not idle is what a faster daemon
could still save; the rest is the price of a socket.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from askers import FailedError, MissingError
from contenders import CONTENDERS, HTTP, LIMITS, NATIVE, UDP, Bench, Contender, Running, bench, started
from cores import chosen
from outcomes import facts
from turns import loaded

LEVEL = 64
MARGIN_SECONDS = 0.5
LOOKS_A_SECOND = 2_000
PARTS = ("kernel", "own code", "interpreter", "libraries", "lab", "database", "others", "idle")
ROW = re.compile(r"\s*(?P<share>[\d.]+)%\s+(?P<pid>\d+):\S.*?\s{2,}(?P<object>\S.*?)\s*$")


def at_work(core: int, seconds: float) -> Iterator[tuple[float, int, str]]:
    """Who was at work on a core: the share of the time, the process, and the object whose code it was."""
    with tempfile.NamedTemporaryFile(suffix=".perf") as file:
        record = [
            "perf",
            "record",
            "-q",
            "-e",
            "cpu-clock",
            "-F",
            str(LOOKS_A_SECOND),
            "-C",
            str(core),
            "-o",
            file.name,
        ]
        done = subprocess.run([*record, "sleep", f"{seconds:g}"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingError(f"perf that may look at the processor ({done.stderr.strip().splitlines()[-1:]})")
        report = ["perf", "report", "-q", "-i", file.name, "--no-children", "--sort", "pid,dso", "-g", "none"]
        text = subprocess.run(report, capture_output=True, text=True, check=True).stdout
    for line in text.splitlines():
        found = ROW.match(line)
        if found is not None:
            yield float(found["share"]), int(found["pid"]), found["object"]


def part_of(pid: int, code: str, server: int) -> str:
    """Which of L{PARTS} it is."""
    if pid == 0:
        return "idle"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        if not _descends(pid, server):
            return "others"
    except OSError:  # it has ended
        return "others"
    if words.startswith(b"postgres") or b"tbeast.adapters.store.keeper" in words:
        return "database"
    if b"tbeast.lab" in words:
        return "lab"
    if "kernel" in code:
        return "kernel"
    if code.startswith("libpython") or (
        code.startswith(("_", "python")) and not code.startswith(NATIVE.split(".")[-1])
    ):
        return "interpreter"
    return "libraries" if code.startswith(("lib", "[")) else "own code"


def _descends(pid: int, from_pid: int) -> bool:
    while pid > 1 and pid != from_pid:
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
    return pid == from_pid


def measured(contender: Contender, place: Bench, protocol: str, seconds: float) -> tuple[float, Counter[str]]:
    """Load a server; give its rate and the shares of L{PARTS}."""
    with started(contender, place) as running, ThreadPoolExecutor(1) as pool:
        _warm(running, place, protocol)
        load = pool.submit(loaded, running, place, protocol, LEVEL, seconds + 2 * MARGIN_SECONDS)
        time.sleep(MARGIN_SECONDS)
        shares: Counter[str] = Counter()
        for share, pid, code in at_work(place.cores.servers[0], seconds):
            shares[part_of(pid, code, running.process.pid)] += share
        return load.result().rate, shares


def _warm(running: Running, place: Bench, protocol: str) -> None:
    loaded(running, place, protocol, LEVEL, MARGIN_SECONDS)


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    if shutil.which("perf") is None:
        print("left out: there is no perf on this machine")
        return
    began = time.time()
    print(f"{'per cent of the core':>22} {'requests/s':>10} " + " ".join(f"{part:>11}" for part in PARTS))
    for protocol in (HTTP, UDP):
        for name in ("native", "python", LIMITS[protocol]):
            contender = CONTENDERS[name]
            why = contender.why_not()
            if why:
                print(f"{protocol}, {contender.title}: left out: {why}")
                continue
            with bench(chosen(), 1) as place:
                rate, shares = measured(contender, place, protocol, given.seconds)
            title = f"{protocol.upper()} {LEVEL}, {name}"
            print(f"{title:>22} {rate:>10,.0f} " + " ".join(f"{shares[part]:>11.1f}" for part in PARTS), flush=True)
    said = facts(began)
    print(f"{said['day']}; {said['machine']}")


if __name__ == "__main__":
    try:
        main()
    except (FailedError, MissingError) as error:
        sys.exit(f"tbeast: {error}")
