"""Run the benchmarks: all of them, or those that are named.

    tools/bench.py                               all, some twelve minutes
    tools/bench.py sidebyside --rounds 5         one, with options of its own; sidebyside --help tells them
    tools/bench.py --docs [NAME ...]             and put the outcome into docs/performance.md
    tools/bench.py page                          put there what was measured before

What each has printed is kept in benchmarks/out. With --quick each takes some seconds, which shows that they run and
says little of the speed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Timer

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "out"
QUICK_OUT = ROOT / "build" / "bench" / "quick"
LIMIT_SECONDS = 3_600.0
PAGE = "page"

QUICKLY: dict[str, Sequence[str]] = {
    "frames": ("--frames=2000", "--rounds=1"),
    "gate": ("--questions=2000", "--rounds=1"),
    "metering": ("--counts=10000", "--rounds=1", "--batches", "1"),
    "syncing": ("--rows=2000", "--rounds=1"),
    "serving": ("--rounds=1", "--seconds=1", "--ticks=5"),
    "shares": ("--seconds=0.3",),
    "sidebyside": (
        "--rounds=1", "--seconds=0.3", "--http=1,64", "--udp=64", "--servers=native,python,go,nginx,c",
        f"--out={QUICK_OUT}",
    ),
    "flatness": (
        "--rounds=1", "--seconds=0.2", "--keys=1,1000", "--assets=150", "--connections=64,512", "--servers=python",
        f"--out={QUICK_OUT}",
    ),
}  # fmt: skip
"""The programs that run when none is named, and what makes each of them quick."""
WHEN_NAMED = ("crashes", PAGE)


def bench(name: str, arguments: Sequence[str], out: Path) -> None:
    """Run one of them; what it prints is shown and kept."""
    print(f"{name} {' '.join(arguments)}".rstrip(), flush=True)
    program = ROOT / "benchmarks" / f"{name}.py"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    lines = []
    with subprocess.Popen(
        [sys.executable, program, *arguments], cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        limit = Timer(LIMIT_SECONDS, process.terminate)
        limit.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                print(line, end="", flush=True)
        finally:
            limit.cancel()
    if process.returncode:
        sys.exit(f"tbeast: the benchmark {name} ended with status {process.returncode}")
    if name != PAGE:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.txt").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Run those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join((*QUICKLY, *WHEN_NAMED))}")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--docs", action="store_true")
    known = {*QUICKLY, *WHEN_NAMED}
    words = sys.argv[1:]
    if words and words[0] in known:  # what comes after one name is its own, but for ours
        ours = [word for word in words if word in known or word in ("--quick", "--docs")]
        args, rest = parser.parse_args(ours), [word for word in words if word not in ours]
    else:
        args, rest = parser.parse_args(words), []
    for name in args.names:
        if name not in known:
            parser.error(f"there is no benchmark {name}")
    if rest and len(args.names) != 1:
        parser.error(f"name one benchmark for {' '.join(rest)}")
    for name in args.names or QUICKLY:
        bench(name, [*(QUICKLY.get(name, ()) if args.quick else ()), *rest], QUICK_OUT if args.quick else OUT)
    if args.docs:
        bench(PAGE, [f"--out={QUICK_OUT if args.quick else OUT}"], OUT)


if __name__ == "__main__":
    main()
