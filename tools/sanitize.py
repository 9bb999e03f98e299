"""The native parts under the sanitizers of addresses and of undefined behaviour: tests, and seeds of the fuzz targets.

    tools/sanitize.py [TEST ...]

Builds them with gcc (or C{CC}) into build/sanitize, beside a copy of the package, so that what is installed stays as it
is, and runs L{tbeast.test.native} on that. Ends with 1 if a test fails, a sanitizer reports anything, or memory is lost
that was allocated on the way through our own code. (What Python itself does not free at its end is not our affair.)
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "build" / "sanitize"
TREE = PLACE / "tree"
REPORT = PLACE / "report"
NATIVE = ROOT / "tbeast" / "native"
FUZZ = ROOT / "fuzz"
TESTS = "tbeast.test.native"
LEAK_TESTS = [
    f"{TESTS}.{name}"
    for name in (
        "test_batches.PassedOnTests", "test_connections.AnswerTests", "test_connections.EndTests",
        "test_connections.FailureTests", "test_connections.UnreadTests", "test_limits.ArgumentTests",
        "test_limits.OddStandings", "test_references.HeldTests", "test_references.OpeningTests", "test_tallying",
    )
]  # fmt: skip
"""Those that go every way once: to look for lost memory is slow."""

LIMIT_SECONDS = 1_200.0

SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow,float-divide-by-zero"
FLAGS = (
    "-std=gnu11",
    "-g",
    "-O1",
    "-fno-omit-frame-pointer",
    "-Wall",
    "-Wextra",
    SANITIZERS,
    "-fno-sanitize-recover=all",
)
OURS = re.compile(r"\b(?:hotcore|lanes)\.[ch]:\d+")
"""A line of a report that names our own code."""

PLANTED = """
#include <stdlib.h>
int main(int count, char **words) {
    char *text = malloc((size_t)count);
    text[count] = words[0][0];
    return text[count];
}
"""
"""Writes one byte too far; a sanitizer that does not say so is none."""


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, flush=True)


def compiler() -> str:
    """Find the compiler."""
    named = os.environ.get("CC") or (sysconfig.get_config_var("CC") or "").partition(" ")[0]
    for name in (named, "gcc", "cc"):
        if name and shutil.which(name):
            return name
    sys.exit("sanitize: there is no C compiler here; install gcc")


def run(command: Sequence[str | Path], what: str, **more: str) -> None:
    """Run something that must go well; what it writes is shown if it does not."""
    ran = subprocess.run(
        command, cwd=PLACE, env={**os.environ, **more}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", timeout=LIMIT_SECONDS, check=False,
    )  # fmt: skip
    if ran.returncode:
        reports = [report.read_text(errors="replace") for report in sorted(PLACE.glob("report.*"))]
        say("\n".join((ran.stdout[-5_000:], *reports))[-20_000:])
        sys.exit(f"sanitize: {what}")


def options(leaks: bool = False) -> Mapping[str, str]:
    """What the sanitizers are told.

    @param leaks: whether to look for lost memory. At its end Python leaves a lot, so what is ours is told by who called
        for it, and the quick way of looking at that cannot see through Python.
    """
    common = f"log_path={REPORT}:exitcode=99"
    looking = "detect_leaks=1:fast_unwind_on_malloc=0:malloc_context_size=12" if leaks else "detect_leaks=0"
    return {
        "ASAN_OPTIONS": f"{common}:{looking}:strict_string_checks=1:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": f"{common}:print_stacktrace=1",
        "LSAN_OPTIONS": "exitcode=0:max_leaks=100000",
    }


def check_sanitizers(cc: str) -> None:
    """See that they find what was planted."""
    source, program = PLACE / "planted.c", PLACE / "planted"
    source.write_text(PLANTED)
    run(
        (cc, *FLAGS, source, "-o", program),
        "the compiler has no sanitizers (Debian keeps them in the package libgcc-12-dev)",
    )
    found = subprocess.run(
        (program,), env={**os.environ, "ASAN_OPTIONS": "exitcode=99"}, capture_output=True, check=False
    )
    if found.returncode != 99 or b"heap-buffer-overflow" not in found.stderr:
        sys.exit("sanitize: the sanitizers do not find a planted fault here")


def replay_seeds(cc: str) -> None:
    """Run each fuzz target on its seeds."""
    for target in sorted(FUZZ.glob("fuzz_*.c")):
        name = target.stem.removeprefix("fuzz_")
        program = PLACE / target.stem
        command = (cc, *FLAGS, f"-I{NATIVE}", FUZZ / "replay.c", target, NATIVE / "hotcore.c", "-lm", "-o", program)
        run(command, f"the fuzz target {name} could not be built")
        seeds = sorted((FUZZ / "seeds" / name).iterdir())
        run(
            (program, *seeds),
            f"the fuzz target {name} fails on one of its seeds; the last one named above",
            **options(),
        )
        say(f"fuzz target {name}: {len(seeds)} seeds")


def build(cc: str) -> None:
    """Build the module, in a copy of the package."""
    shutil.copytree(ROOT / "tbeast", TREE / "tbeast", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    module = TREE / "tbeast" / "native" / f"_lanes{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = f"-I{sysconfig.get_path('include')}"
    sources = (NATIVE / "hotcore.c", NATIVE / "lanes.c")
    command = (cc, *FLAGS, "-shared", "-fPIC", "-fvisibility=hidden", include, *sources, "-lm", "-o", module)
    run(command, "the module could not be built")


def test(cc: str, names: Sequence[str], leaks: bool) -> None:
    """Run tests on it."""
    found = subprocess.run((cc, "-print-file-name=libasan.so"), capture_output=True, text=True, check=True)
    kept = {name: text for name, text in os.environ.items() if not name.startswith("TBEAST_")}
    environ = {
        **kept, **options(leaks), "LD_PRELOAD": found.stdout.strip(), "PYTHONMALLOC": "malloc", "PYTHONPATH": str(TREE),
    }  # fmt: skip
    where = ("-c", "from tbeast.native import _lanes; print(_lanes.__file__)")
    loaded = subprocess.run(
        (sys.executable, *where), cwd=TREE, env=environ, capture_output=True, text=True, check=False
    )
    if not loaded.stdout.startswith(str(TREE)):
        sys.exit(f"sanitize: Python does not load what was built\n{loaded.stdout}{loaded.stderr}")
    for report in PLACE.glob("report.*"):
        report.unlink()  # of what Python leaves
    trial = (sys.executable, "-m", "twisted.trial", f"--temp-directory={PLACE / 'trial'}", *names)
    tests = subprocess.run(
        trial, cwd=TREE, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        timeout=LIMIT_SECONDS, check=False,
    )  # fmt: skip
    closing = tests.stdout.rstrip().rpartition("\n")[2]
    if tests.returncode or not re.fullmatch(r"PASSED \(successes=\d+\)", closing):
        say("\n".join((tests.stdout[-20_000:], *faults()))[-40_000:])
        sys.exit(f"sanitize: the tests failed, with status {tests.returncode}")
    say(f"tests{', looking for lost memory' if leaks else ''}: {closing}")


def faults() -> Iterator[str]:
    """What the sanitizers reported, but for memory that was lost elsewhere."""
    for report in sorted(PLACE.glob("report.*")):
        for block in re.split(r"\n(?=Direct leak|Indirect leak|==\d+==|SUMMARY)", report.read_text(errors="replace")):
            if re.match(r"(Direct|Indirect) leak", block):
                if OURS.search(block) and "_tracemalloc.c" not in block:
                    yield block
            elif re.search(r"ERROR: (?!LeakSanitizer: detected)|runtime error", block):
                yield block


def main(names: list[str]) -> int:
    """Do all of it."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    cc = compiler()
    check_sanitizers(cc)
    replay_seeds(cc)
    build(cc)
    test(cc, names or [TESTS], leaks=False)
    found = list(faults())
    test(cc, names or LEAK_TESTS, leaks=True)
    found += faults()
    for fault in found[:20]:
        say(fault)
    say(f"{len(found)} reports")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
