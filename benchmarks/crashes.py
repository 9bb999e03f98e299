"""Kill daemons under load at random moments, and show what of their metering is lost: how many answers, how much time.

See tbeast/test/integration/crashes.py for how it is done; the test there kills a few.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tbeast.adapters.store.postgres import connect, target
from tbeast.test.integration.crashes import trial
from tbeast.testing.postgres import Server

STEP_MS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()

    def shown(number: int) -> None:
        if number % 10 == 0:
            print(f"{number} of {args.kills} killed", file=sys.stderr, flush=True)

    server = Server(("max_connections=60",))
    server.start()
    try:
        with TemporaryDirectory() as folder:
            admin = connect(target(server.url("postgres")))
            admin.autocommit = True
            with admin.cursor() as cursor:
                cursor.execute("CREATE DATABASE crashes")
            admin.close()
            lives = trial(Path(folder), server.url("crashes"), args.kills, Random(args.seed), shown=shown)
    finally:
        server.stop()
    lost_ms = sorted(life.lost_ms for life in lives)
    answered = [len(life.answered) for life in lives]
    print(f"{len(lives)} daemons killed under load, after {statistics.median(answered):,.0f} answers (median)")
    print(f"{sum(answered):,} answers came, {sum(life.lost for life in lives):,} of them are not recorded")
    shares = {share: lost_ms[min(len(lost_ms) - 1, len(lost_ms) * share // 100)] for share in (50, 90, 99)}
    told = ", ".join(f"{share} % within {ms:.0f} ms" for share, ms in shares.items())
    print(f"how long before the end the earliest of these came: {told}, all within {lost_ms[-1]:.0f} ms")
    for floor in range(0, int(lost_ms[-1]) + STEP_MS, STEP_MS):
        count = sum(floor <= each < floor + STEP_MS for each in lost_ms)
        print(f"{floor:5d} to {floor + STEP_MS - 1:4d} ms  {count:4d}  {'#' * count}")


if __name__ == "__main__":
    main()
