"""The daemon at full rate for a long time: what it answered is what it recorded, nothing is lost, and memory is flat.

One core serves, HTTP and UDP at once, with prices changing underneath; many keys ask for all assets. Every second it is
noted how much memory the daemon takes, and every minute a line is printed. In the end the first minute is compared with
the last, and the answers with the table of usage. Exit status 1: something was lost, or bad, or has grown.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from askers import FailedError, MissingError, Shot
from contenders import CONTENDERS, HTTP, UDP, bench, started
from cores import chosen
from outcomes import OUT, facts, how_quiet, save
from turns import Count, loaded

MINUTE_SECONDS = 60.0
MOST_GROWTH = 0.02
WARM_UP_SECONDS = 5.0
LEVELS = {HTTP: 64, UDP: 16}


def resident_mb(pid: int) -> float:
    """How much memory a process has in use."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024.0
    return float("nan")


def growth(samples: Sequence[tuple[float, float]], window: float) -> tuple[float, float]:
    """The median of the first window's samples, and of the last one's; a sample is a time and a size."""
    begin, end = samples[0][0], samples[-1][0]
    first = [size for at, size in samples if at <= begin + window]
    last = [size for at, size in samples if at >= end - window]
    return statistics.median(first), statistics.median(last)


def main() -> int:
    """Run it, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--server", choices=("native", "python", "workers"), default="native")
    parser.add_argument("--keys", type=int, default=100)
    parser.add_argument("--assets", type=int, default=150)
    given = parser.parse_args()
    contender = CONTENDERS[given.server]
    why = contender.why_not()
    if why:
        sys.exit(f"tbeast: {contender.title}: {why}")
    began, seconds = time.time(), given.minutes * MINUTE_SECONDS
    window = min(MINUTE_SECONDS, seconds / 4.0)
    with bench(chosen(), given.keys) as place, started(contender, place) as running, ThreadPoolExecutor(2) as pool:
        print(f"{contender.title}, {place.cores.told()}; {given.minutes:g} minutes, {given.keys} keys", flush=True)
        count = Count(place)
        count.begin(running)

        def load(protocol: str) -> Shot:
            return loaded(running, place, protocol, LEVELS[protocol], seconds, keys=given.keys, assets=given.assets)

        time.sleep(WARM_UP_SECONDS)
        shots = {protocol: pool.submit(load, protocol) for protocol in LEVELS}
        samples: list[tuple[float, float]] = []
        start = time.monotonic()
        told = 0
        while not all(shot.done() for shot in shots.values()):
            time.sleep(1.0)
            at = time.monotonic() - start
            if at >= WARM_UP_SECONDS:  # by then all connections are there
                samples.append((at, resident_mb(running.process.pid)))
            if at // MINUTE_SECONDS > told and samples:
                told = int(at // MINUTE_SECONDS)
                print(f"{told:>3} min  {samples[-1][1]:>7.1f} MB", flush=True)
        done = {protocol: shot.result() for protocol, shot in shots.items()}
        for shot in done.values():
            count.add(shot)
        count.end(running)
    first, last = growth(samples, window)
    for protocol, shot in done.items():
        print(
            f"{protocol:>4}, {LEVELS[protocol]} at a time: {shot.rate:>9,.0f}/s, p99 {shot.latency_ms[99.0]:.2f} ms,"
            f" bad {shot.bad}, closed {shot.closed}, lost {shot.lost}"
        )
    print(count.told(contender.title))
    print(f"memory: {first:.1f} MB in the first {window:.0f} s, {last:.1f} MB in the last: {last / first - 1.0:+.2%}")
    rows = [{"others": shot.others} for shot in done.values()]
    print(how_quiet(rows))
    faults = [shot.bad + shot.closed + shot.lost for shot in done.values()]
    good = not any(faults) and count.heard == count.recorded == count.asked and last / first - 1.0 <= MOST_GROWTH
    save(OUT, "soak", {
        "facts": facts(began), "server": given.server, "seconds": seconds, "first_mb": first, "last_mb": last,
        "asked": count.asked, "heard": count.heard, "recorded": count.recorded, "good": good,
        "rates": {protocol: shot.rate for protocol, shot in done.items()},
        "memory": [[round(at, 1), round(size, 2)] for at, size in samples],
    })  # fmt: skip
    print("nothing was lost, and memory is flat" if good else "NOT AS IT SHOULD BE")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (FailedError, MissingError) as error:
        sys.exit(f"tbeast: {error}")
