"""A flood of connects against a daemon that is full: how much it slows those inside.

A daemon may hold so many connections, and clients hold them all; they ask without a pause (see askers). In every second
turn somebody connects again and again meanwhile, and is refused each time: connects, reads the 503 to its end, closes.
What is told is the median of the turns with the flood over the median of those without, and how many of the refusals
came whole. The clients begin a moment before the flood, so that they are inside; what they got in that moment, taken to
be as much as in the turn before, is none of what they got in the flood, which goes on to their end. Traffic goes to the
loopback alone, and the connects come from several of its addresses.

On a machine with few cores flood and clients share one, and what the flood takes of that is none of the daemon's doing.
So the flood has the lowest priority there: it makes as many connects, up to its pace (--rate), as the clients leave it
time for, and how many those were is told. C{busy} is how much of its core the daemon used; where that is much less with
the flood than without, the clients were held up and not the daemon, and the turn says little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from askers import FailedError, Shot, ask, compiled
from contenders import HTTP, Running
from cores import Cores, chosen, kept_to

from tbeast.adapters.store import parameterrows
from tbeast.adapters.store.migrations import migrate
from tbeast.adapters.store.postgres import connect, target
from tbeast.test.integration.crashes import lab, start
from tbeast.testing.postgres import Server

KEY = "connect-flood-benchmark"
LEVEL = 64
BEGIN_SECONDS = 0.5
"""The clients are all inside before the flood comes."""


def turn(running: Running, cores: Cores, folder: Path, seconds: float, connects: int, rate: float) -> tuple[Shot, str]:
    """One turn of the clients, with a flood or (of no connects) without; what the flood says."""
    port = running.ports[HTTP]
    with ExitStack() as stack:
        said = ""
        if connects:
            orders = [str(port), str(connects), str(rate), str(BEGIN_SECONDS)]
            command = kept_to(cores.askers, ["nice", "-n", "19", compiled("connecter"), *orders])
            flooding = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.callback(flooding.kill)
            assert flooding.stdout is not None
            flooding.stdout.readline()
        shot = ask(HTTP, port, LEVEL, seconds, folder / "keys", folder / "assets", cores, running.spent)
        if connects:
            flooding.terminate()  # when the clients have gone there is room
            said, _ = flooding.communicate(timeout=20)
    return shot, said


def measure(connects: int, rate: float, rounds: int) -> None:
    cores = chosen()
    print(f"{cores.told()}; {LEVEL} clients inside, {rate:,.0f} connects a second")
    with ExitStack() as stack:
        server = Server()
        server.start()
        stack.callback(server.stop)
        admin = connect(target(server.url("postgres")))
        admin.autocommit = True
        with admin.cursor() as cursor:
            cursor.execute("CREATE DATABASE flood")
        admin.close()
        connection = connect(target(server.url("flood")))
        migrate(connection)
        parameterrows.set_values(connection, {"max_connections": LEVEL})
        connection.commit()
        connection.close()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        (folder / "keys").write_text(KEY + "\n")
        (folder / "assets").write_text("BTC\n")
        addresses = stack.enter_context(lab())
        daemon = start(
            folder, {**addresses, "AURORA_URL": server.url("flood"), "TBEAST_KEYS": KEY, "TBEAST_CLUSTER_NODES": "1"}
        )
        stack.callback(daemon.output.close)
        stack.callback(daemon.kill)
        daemon.wait_until_ready()
        os.sched_setaffinity(daemon.process.pid, cores.servers)
        running = Running(daemon.process, {HTTP: daemon.ports["TCP_PORT_LPO"]}, cores.all)
        each = connects // rounds
        seconds = each / rate + BEGIN_SECONDS
        quiet, flooded, within, told, failed = [], [], [], 0, 0
        turn(running, cores, folder, 2.0, 0, rate)  # to get warm
        for number in range(1, rounds + 1):
            calm, _ = turn(running, cores, folder, seconds, 0, rate)
            busy, said = turn(running, cores, folder, seconds, each + int(rate), rate)
            words = said.split()
            told, failed = told + int(words[0]), failed + int(words[1])
            quiet.append(calm)
            flooded.append(busy)
            within.append((busy.rate * seconds - calm.rate * BEGIN_SECONDS) / (seconds - BEGIN_SECONDS))
            print(
                f"turn {number}: {calm.rate:9,.0f} answers/s without, {within[-1]:9,.0f} within the flood"
                f" ({int(words[0]) + int(words[1]):,} connects in {float(words[2]):.1f} s); p99"
                f" {calm.latency_ms[99.0]:.3f} and {busy.latency_ms[99.0]:.3f} ms;"
                f" busy {calm.busy:.2f} and {busy.busy:.2f}; others {calm.others:.0%} and {busy.others:.0%}",
                flush=True,
            )
    rates = [statistics.median(shot.rate for shot in quiet), statistics.median(within)]
    waits = [statistics.median(shot.latency_ms[50.0] for shot in shots) for shots in (quiet, flooded)]
    print(f"{told:,} of {told + failed:,} were told whole that there is no room; {failed:,} were not")
    print(f"median of {rounds} turns: {rates[0]:,.0f} answers/s without, {rates[1]:,.0f} within the flood; half within"
          f" {waits[0]:.3f} and {waits[1]:.3f} ms")  # fmt: skip
    costs = [statistics.median(shot.serving_us for shot in shots) for shots in (quiet, flooded)]
    others = max(shot.others for shot in (*quiet, *flooded))
    print(
        f"processor time of the daemon for an answer: {costs[0]:.2f} us without, {costs[1]:.2f} with all the refusals"
    )
    print(f"other programs took up to {others:.0%} of these cores")
    print(f"ratio {rates[1] / rates[0]:.3f}")
    bad = sum(shot.bad + shot.closed + shot.lost for shot in flooded)
    if bad:
        raise FailedError(f"{bad} questions inside came to no good answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connects", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=5_000.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if not (0 < args.connects <= 1_000_000 and args.rate > 0 and 0 < args.rounds <= args.connects):
        parser.error("up to a million connects, in rounds that have some each")
    measure(args.connects, args.rate, args.rounds)


if __name__ == "__main__":
    main()
