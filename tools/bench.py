"""Run the benchmarks: how fast frames are taken in, and how fast a daemon on the lab's prices answers.

With --quick each takes a second or so, which shows that they run and says little of the speed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from daemon import KEY, running

ROOT = Path(__file__).resolve().parent.parent


def bench(name: str, *arguments: str) -> None:
    """Run one of them, its output shown."""
    print(f"{name} {' '.join(arguments)}".replace(KEY, "..."), flush=True)
    program = ROOT / "benchmarks" / f"{name}.py"
    subprocess.run([sys.executable, program, *arguments], check=True, cwd=ROOT, timeout=600)


def main(arguments: list[str]) -> None:
    """Run them all."""
    quick = "--quick" in arguments
    bench("frames", *(("--frames=2000", "--rounds=1") if quick else ()))
    with TemporaryDirectory(prefix="tbeast-bench-") as name:
        command = [sys.executable, "-m", "twisted", "--log-format=text", "tbeast"]
        with running(command, Path(name)) as daemon:
            daemon.wait_until_healthy()
            for protocol, port in (("http", "TCP_PORT_LPO"), ("udp", "UDP_PORT_LPO")):
                seconds = "1" if quick else "10"
                bench("load", protocol, f"--port={daemon.ports[port]}", f"--key={KEY}", f"--seconds={seconds}")
            daemon.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
