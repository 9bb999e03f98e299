"""One daemon fed by the lab: requests a second over HTTP and UDP, tick to answer, memory.

The daemon and its lab have core 0 where the machine has two cores or more, the asker has core 1. Everything is on
loopback. The rates are bounded by the asker, which is Python too; C{asker_busy} near 1 says that it was the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tbeast.testing.daemonports import free_ports

HERE = Path(__file__).resolve().parent
PORTS = ("TCP_PORT_LPO", "HEALTH_PORT_LPO", "TCP_PORT_LRS", "HEALTH_PORT_LRS", "UDP_PORT_LPO", "UDP_PORT_LRS")


def pinned(core: int) -> list[str]:
    """What goes before a command to keep it on one core; nothing where that is not possible."""
    if len(os.sched_getaffinity(0)) < 2:
        return []
    return [
        sys.executable,
        "-c",
        f"import os,sys; os.sched_setaffinity(0, {{{core}}}); os.execv(sys.argv[1], sys.argv[1:])",
    ]


class Daemon:
    def __init__(self, folder: str, **said: str) -> None:
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        environ = {name: text for name, text in os.environ.items() if not name.startswith("TBEAST_")}
        environ |= {name: str(port) for name, port in self.ports.items()}
        environ |= {"TBEAST_STATE": folder, "TBEAST_LISTEN": "127.0.0.1", "TBEAST_FEEDS": "lab", **said}
        self.process = subprocess.Popen(
            [*pinned(0), sys.executable, "-m", "twisted", "--log-file", str(Path(folder) / "log"), "tbeast"],
            env=environ, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.folder = Path(folder)

    def wait(self, seconds: float = 60.0) -> float:
        """Until it is ready; how long that took."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.process.poll() is not None:
                raise SystemExit("the daemon ended: " + (self.folder / "log").read_text()[-2000:])
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{self.ports['HEALTH_PORT_LPO']}/ready", timeout=1
                ) as answer:
                    if answer.status == 200:
                        return time.monotonic() - began
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit(f"the daemon is not ready after {seconds} s")

    @property
    def key(self) -> str:
        return (self.folder / "demo.key").read_text().strip()

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def load(daemon: Daemon, protocol: str, level: int, seconds: float) -> dict:
    port = daemon.ports["TCP_PORT_LPO" if protocol == "http" else "UDP_PORT_LPO"]
    command = [
        *pinned(1), sys.executable, str(HERE / "load.py"), protocol, "--port", str(port), "--key", daemon.key,
        "--level", str(level), "--seconds", str(seconds),
    ]  # fmt: skip
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def tick_to_answer(rounds: int) -> list[float]:
    """From the moment an exchange's frame is sent to the first answer that has its price, in ms.

    The exchange is a few lines of Autobahn that speak as much of Kraken as is needed for one symbol.
    """
    command = [*pinned(1), sys.executable, str(HERE / "ticktoanswer.py"), str(rounds)]
    found: list[float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--ticks", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        daemon = Daemon(folder)
        try:
            print(f"ready {daemon.wait():.1f} s after its start, with 150 assets live")
            time.sleep(5.0)
            print(f"resident memory {daemon.resident_mb():.0f} MB before the load")
            print(
                f"{'load':>10} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'bad':>4} {'lost':>5} {'asker busy':>11}"
            )
            for protocol in ("http", "udp"):
                for level in (1, 64):
                    shots = [load(daemon, protocol, level, args.seconds) for _ in range(args.rounds)]
                    middle = {name: statistics.median(shot[name] for shot in shots) for name in shots[0]}
                    print(
                        f"{protocol + ' ' + str(level):>10} {middle['rate']:>11,.0f} {middle['p50_ms']:>8.2f}"
                        f" {middle['p99_ms']:>8.2f} {sum(shot['bad'] for shot in shots):>4}"
                        f" {sum(shot['lost'] for shot in shots):>5} {middle['asker_busy']:>11.2f}"
                    )
            print(f"resident memory {daemon.resident_mb():.0f} MB after it")
        finally:
            daemon.stop()
    found = sorted(tick_to_answer(args.ticks))
    print(
        f"tick to answer over {len(found)} ticks: median {statistics.median(found):.1f} ms,"
        f" p99 {found[int(0.99 * (len(found) - 1))]:.1f} ms"
    )


if __name__ == "__main__":
    main()
