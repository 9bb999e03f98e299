"""Everything that must hold, in one run: style, types, import rules, the tree, the tests, their coverage, the wheel.

Each check counts as one, and each of trial's tests counts as one; a test that was skipped or is expected to fail counts
as failed unless L{EXCUSED} names it with the reason, or it is one of the native parts', which cannot be built here. The
last line is C{N passed, N failed}. With --lint only what needs no test run; names of test modules or cases after that
run trial on them alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from types import MappingProxyType

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "build" / "test"
PYTHON = sys.executable
LIMIT_SECONDS = 3_600.0

INTEGRATION = "tbeast.test.integration"

WITH_WORKERS = ("test_accounts", "test_metering", "test_flood")
"""Those that run once more with two workers, and once more without native parts; all of them can be (tools/ways.py)."""
NOTHING_SAID: Mapping[str, str] = MappingProxyType({})

LEAST_LINES_COVERED = 95.0
"""Per cent, of the lines of tbeast.domain and tbeast.codecs together."""

EXCUSED: dict[str, str] = {}
"""Full name of a test that may be skipped: why."""

NATIVE = (
    "tbeast.test.native.",
    "tbeast.test.servers.test_differential_native.",
    "tbeast.test.servers.test_nativelanes.",
)


def can_build() -> bool:
    """Whether the native parts can be built here, so that there is no reason to skip their tests."""
    compiler = (sysconfig.get_config_var("CC") or "").partition(" ")[0]
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    is_for_us = sys.platform == "linux" and sys.implementation.name == "cpython"
    return is_for_us and shutil.which(os.environ.get("CC") or compiler) is not None and headers.exists()


BROWSING = (
    "tbeast.test.integration.test_operatorpage.PageTests.",
    "tbeast.test.integration.test_operatorpage.DaemonInABrowserTests.",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def can_browse() -> bool:
    """Whether there is a browser to look at the operator's page with, and what drives it."""
    return find_spec("playwright") is not None and any(shutil.which(name) for name in BROWSERS)


def excuse(name: str) -> str | None:
    """Why this test may be skipped; C{None}: it may not."""
    if name.startswith(NATIVE) and not can_build():
        return "the native parts cannot be built here: no C compiler, no Python.h, or not Linux and CPython"
    if name.startswith(BROWSING) and not can_browse():
        return f"there is no browser here to look at the operator's page with: none of {', '.join(BROWSERS)} on PATH"
    return EXCUSED.get(name)


LINTS: dict[str, Sequence[str]] = {
    "style (ruff check)": ("-m", "ruff", "check", "."),
    "format (ruff format)": ("-m", "ruff", "format", "--check", "--quiet", "."),
    "types (mypy)": ("-m", "mypy"),
    "types of the tools (mypy)": ("-m", "mypy", "--strict", "tools"),
    "docstrings (pydoctor)": (
        "-m", "pydoctor", "--quiet", "--html-summary-pages", "--html-output=build/test/docs", "tbeast",
    ),
    "import rules (lint-imports)": ("-c", "from importlinter.cli import lint_imports_command as c; c()"),
    "the tree": ("tools/check_tree.py",),
    "sample settings": ("tools/sample_settings.py", "--check"),
    "statistics page": ("tools/statistics_page.py", "--check"),
    f"monitoring ({'with' if shutil.which('promtool') else 'without'} promtool)": ("tools/check_monitoring.py",),
    "change log (towncrier)": ("-m", "towncrier", "build", "--draft", "--version=next", "--date=today"),
}  # fmt: skip


class Tally:
    """What has passed and what has failed."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.failures: list[str] = []

    def check(self, name: str, good: bool, output: str, seconds: float) -> None:
        """Count one check, and show what it wrote if it failed."""
        print(f"{'ok  ' if good else 'FAIL'}  {name}  ({seconds:.1f} s)", flush=True)
        if good:
            self.passed += 1
            return
        print(output.rstrip(), flush=True)
        self.failed += 1
        self.failures.append(name)


def environ() -> dict[str, str]:
    """The environment of a check: ours, without settings of the daemon, which would get into tests."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("TBEAST_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1"}


def run(arguments: Sequence[str], **more: str) -> tuple[int, str, float]:
    """Run Python with these arguments; its status, what it wrote, and how long it took."""
    began = time.monotonic()
    try:
        ran = subprocess.run(
            [PYTHON, *arguments], cwd=ROOT, env={**environ(), **more}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_SECONDS, check=False,
        )  # fmt: skip
        status, output = ran.returncode, ran.stdout
    except subprocess.TimeoutExpired as error:
        status, output = -1, (error.stdout or b"") + f"\nended after {LIMIT_SECONDS:g} s".encode()
    return status, output.decode("utf-8", "replace"), time.monotonic() - began


def lint(tally: Tally) -> None:
    """All checks that only read, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        running = {name: pool.submit(run, arguments) for name, arguments in LINTS.items()}
        for name, outcome in running.items():
            status, output, seconds = outcome.result()
            tally.check(name, status == 0, output, seconds)


def trial(
    tally: Tally, what: str, names: Sequence[str], coverage_file: Path | None, said: Mapping[str, str] = NOTHING_SAID
) -> bool:
    """Run tests; true if they came to an end. C{said} goes into their environment.

    Under coverage as many at a time as there are cores. Without it one after the other: for those that run whole
    daemons against the clock, and need the cores for that.
    """
    began = time.monotonic()
    command, more = [PYTHON], dict(said)
    if coverage_file is not None:
        command += ["-m", "coverage", "run"]
        more["COVERAGE_FILE"] = str(coverage_file)
    command += ["-m", "twisted.trial", f"--temp-directory={SCRATCH / 'trial'}"]
    if coverage_file is not None:
        command += [f"-j{min(4, os.cpu_count() or 1)}"]
    command += names
    process = subprocess.Popen(
        command, cwd=ROOT, env={**environ(), **more}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    assert process.stdout is not None
    limit = Timer(LIMIT_SECONDS, process.kill)
    limit.start()
    lines = []
    shown = Progress()
    try:
        for line in process.stdout:
            lines.append(line)
            shown.line(line)
        status = process.wait()
    finally:
        limit.cancel()
    output = "".join(lines)
    (SCRATCH / f"{what}.log").write_text(output)
    return count_tests(tally, what, output, status, time.monotonic() - began)


class Progress:
    """Shows how far the tests are: each failure as it comes, and a line now and then."""

    EVERY_SECONDS = 10.0

    def __init__(self) -> None:
        self._count = 0
        self._next = time.monotonic() + self.EVERY_SECONDS

    def line(self, line: str) -> None:
        """One line of trial's."""
        if re.search(r" \.\.\. +\[[A-Z!?]+\]$", line.rstrip()):
            self._count += 1
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + self.EVERY_SECONDS
                print(f"      ... {self._count} tests done", flush=True)


def count_tests(tally: Tally, what: str, output: str, status: int, seconds: float) -> bool:
    """Read trial's closing lines, count its tests, and show what went wrong."""
    ran = re.findall(r"^Ran (\d+) tests? in ", output, re.MULTILINE)
    closing = re.findall(r"^(?:PASSED|FAILED)(?: \((.*)\))?$", output, re.MULTILINE)
    if not ran or not closing:
        tally.check(f"{what} came to no end", False, output[-20_000:], seconds)
        return False
    numbers = {word: int(number) for word, number in re.findall(r"(\w+)=(\d+)", closing[-1])}
    wrong = {word: number for word, number in numbers.items() if word != "successes" and number}
    blocks = output.split("=" * 79 + "\n")[1:]
    excused = 0
    for block in blocks:
        named = re.findall(r"^(tbeast\.test\.[\w.]+)$", block, re.MULTILINE)
        if named and block.startswith("[SKIPPED]") and all(excuse(name) for name in named):
            excused += len(named)
            for name in named:
                print(f"      skipped: {name}: {excuse(name)}")
            continue
        print(block.split("-" * 79 + "\nRan ")[0].rstrip()[:8_000])
        tally.failures.extend(named)
    failed = sum(wrong.values()) - excused
    if status and not failed:
        failed = 1
        tally.failures.append(f"trial ended with status {status}")
    tally.passed += numbers.get("successes", 0)
    tally.failed += failed
    print(f"{'FAIL' if failed else 'ok  '}  {what}: {ran[-1]} ran, {failed} wrong  ({seconds:.1f} s)", flush=True)
    return True


def coverage(tally: Tally, coverage_file: Path) -> None:
    """Report the coverage, and hold the pure floors to their share."""
    began = time.monotonic()
    here = {"COVERAGE_FILE": str(coverage_file)}
    run(("-m", "coverage", "combine", "--quiet"), **here)
    status, output, _ = run(("-m", "coverage", "report", "--format=total"), **here)
    # a process that was killed in the middle leaves a file that cannot be read, which is told above the figure
    share = output.strip().rpartition("\n")[2]
    print(f"      coverage of the whole, lines and branches: {share} %" if status == 0 else output)
    report = SCRATCH / "coverage.json"
    run(("-m", "coverage", "html", "--quiet", f"--directory={SCRATCH / 'coverage'}"), **here)
    status, output, _ = run(
        ("-m", "coverage", "json", "--quiet", "--include=tbeast/domain/*,tbeast/codecs/*", f"-o{report}"), **here
    )
    if status:
        tally.check("coverage of domain and codecs", False, output, time.monotonic() - began)
        return
    measured = json.loads(report.read_text())
    totals = measured["totals"]
    share = 100.0 * totals["covered_lines"] / totals["num_statements"]
    good = share >= LEAST_LINES_COVERED
    missing = [
        f"  {name}: lines {file['missing_lines']}" for name, file in measured["files"].items() if file["missing_lines"]
    ]
    name = f"coverage of domain and codecs: {share:.1f} % of the lines, {LEAST_LINES_COVERED:g} % wanted"
    tally.check(name, good, "\n".join(missing), time.monotonic() - began)


def one(name: str, *arguments: str) -> Callable[[Tally], None]:
    """A check that is one program."""

    def check(tally: Tally) -> None:
        status, output, seconds = run(arguments)
        tally.check(name, status == 0, output, seconds)

    return check


def test_names() -> list[str]:
    """The modules and packages of tests, without the integration tests."""
    folder = ROOT / "tbeast" / "test"
    names = [path.stem for path in folder.glob("test_*.py")] + [
        path.parent.name for path in folder.glob("*/__init__.py")
    ]
    return [f"tbeast.test.{name}" for name in sorted(names) if f"tbeast.test.{name}" != INTEGRATION]


def everything(tally: Tally, arguments: Sequence[str]) -> None:
    """Run what is asked for."""
    names = [argument for argument in arguments if not argument.startswith("-")]
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    if names:
        trial(tally, "tests", names, None)
        return
    lint(tally)
    if "--lint" in arguments:
        return
    coverage_file = SCRATCH / "coverage.data"
    if trial(tally, "tests", test_names(), coverage_file):
        coverage(tally, coverage_file)
    one("the wheel, installed bare", "tools/wheel_test.py")(tally)
    if can_build():
        one("the native parts under the sanitizers", "tools/sanitize.py")(tally)
    one("the benchmarks run", "tools/bench.py", "--quick")(tally)
    trial(tally, "integration tests", [INTEGRATION], None)
    several = [f"{INTEGRATION}.{name}" for name in WITH_WORKERS]
    trial(tally, "integration tests, two workers", several, None, {"TEST_WORKERS": "2"})
    trial(tally, "integration tests, pure Python", several, None, {"TEST_NATIVE": "off"})


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for, and close with the count whatever happens; status 0 if nothing failed."""
    began = time.monotonic()
    tally = Tally()
    try:
        everything(tally, arguments)
    except Exception:
        tally.check("this program", False, traceback.format_exc(), time.monotonic() - began)
    for failure in tally.failures:
        print(f"failed: {failure}")
    print(f"total time {time.monotonic() - began:.0f} s")
    print(f"{tally.passed} passed, {tally.failed} failed", flush=True)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
