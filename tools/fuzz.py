"""The native parts' sans-IO core under libFuzzer: each target for a while, one after the other.

    tools/fuzz.py [TARGET ...]          FUZZ_SECONDS=600: how long each

The targets are fuzz/fuzz_*.c; what each holds the core to stands at its beginning. They begin with fuzz/seeds and go on
in build/fuzz/corpus, where what was found stays for the next run; inputs that break something lie in build/fuzz/found.
Needs clang. Ends with 1 if anything broke.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUZZ = ROOT / "fuzz"
NATIVE = ROOT / "tbeast" / "native"
PLACE = ROOT / "build" / "fuzz"
SECONDS = 600
FLAGS = (
    "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra",
    "-fsanitize=fuzzer,address,undefined,float-cast-overflow", "-fno-sanitize-recover=all",
)  # fmt: skip
LONGEST = {"head": 17_000, "datagram": 1_400, "shelf": 1_100, "keys": 160, "tally": 600, "answers": 1_100}
"""Longest inputs worth trying, in bytes."""


def targets() -> list[str]:
    """The names of those that there are."""
    return sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.c"))


def build(clang: str, name: str) -> Path:
    """Build one target."""
    program = PLACE / f"fuzz_{name}"
    sources = (FUZZ / f"fuzz_{name}.c", NATIVE / "hotcore.c")
    command = (clang, *FLAGS, f"-I{NATIVE}", *sources, "-lm", "-o", program)
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"fuzz: {name} could not be built (Debian keeps libFuzzer in the package libclang-rt-dev)")
    return program


def fuzz(program: Path, name: str, seconds: int) -> bool:
    """Run one target; whether nothing broke."""
    corpus, found = PLACE / "corpus" / name, PLACE / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    words = FUZZ / f"{name}.dict"
    command = [
        program, f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", f"-artifact_prefix={found}/{name}-",
        f"-max_len={LONGEST.get(name, 4_096)}", "-print_final_stats=1", "-verbosity=1",
        *([f"-dict={words}"] if words.exists() else ()), corpus, FUZZ / "seeds" / name,
    ]  # fmt: skip
    log = PLACE / f"{name}.log"
    with log.open("wb") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    text = log.read_text(errors="replace")
    ran = re.findall(r"stat::number_of_executed_units:\s+(\d+)", text)
    reached = re.findall(r"cov: (\d+) ft: (\d+)", text)
    if status:
        print(text[-6_000:])
        print(f"{name}: BROKEN, see {found} and {log}", flush=True)
        return False
    where = f"{reached[-1][0]} places, {reached[-1][1]} features" if reached else "?"
    print(f"{name}: {int(ran[-1]) if ran else 0:,} inputs in {seconds} s, {where} reached", flush=True)
    return True


def main(names: list[str]) -> int:
    """Run what is asked for, or all."""
    clang = shutil.which(os.environ.get("CLANG", "clang"))
    if clang is None:
        sys.exit("fuzz: there is no clang here, and libFuzzer comes with it (Debian, Ubuntu: apt install clang)")
    unknown = sorted(set(names) - set(targets()))
    if unknown:
        sys.exit(f"fuzz: there is no target {', '.join(unknown)}; there are {', '.join(targets())}")
    seconds = int(os.environ.get("FUZZ_SECONDS") or SECONDS)
    PLACE.mkdir(parents=True, exist_ok=True)
    good = [fuzz(build(clang, name), name, seconds) for name in names or targets()]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
