"""Run the benchmarks: how fast frames are taken in, how fast a daemon on the lab's prices answers, how much it holds.

With --quick each takes a second or so, which shows that they run and says little of the speed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def bench(name: str, *arguments: str) -> None:
    """Run one of them, its output shown."""
    print(f"{name} {' '.join(arguments)}", flush=True)
    program = ROOT / "benchmarks" / f"{name}.py"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, program, *arguments], check=True, cwd=ROOT, env=environ, timeout=600)


def main(arguments: list[str]) -> None:
    """Run them all."""
    quick = "--quick" in arguments
    bench("frames", *(("--frames=2000", "--rounds=1") if quick else ()))
    bench("gate", *(("--questions=2000", "--rounds=1") if quick else ()))
    bench("metering", *(("--counts=10000", "--rounds=1", "--batches", "1") if quick else ()))
    bench("syncing", *(("--rows=2000", "--rounds=1") if quick else ()))
    bench("serving", *(("--rounds=1", "--seconds=1", "--ticks=5") if quick else ()))


if __name__ == "__main__":
    main(sys.argv[1:])
