"""How tbeast loadtest looks in a terminal: while it runs, and what it found."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tbeast.commands.cells import console
from tbeast.loadtest.levels import Level
from tbeast.loadtest.orders import Progress as Heard
from tbeast.loadtest.plots import milliseconds
from tbeast.loadtest.report import NAMES, LevelResult, Report
from tbeast.loadtest.running import CLOSED, OPEN, PHASES


class LoadScreen:
    """Tells how the run goes: a bar in a terminal, and a line for each level that is over.

    @ivar progress: the bar; C{None} where there is no terminal.
    """

    def __init__(self, loops: int, seconds: float) -> None:
        self._out = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._seconds = seconds
        self._done = 0.0
        self._began = 0.0
        self._loop = ""
        self.progress: Progress | None = None
        if sys.stderr.isatty() and not self._out.is_dumb_terminal:
            self.progress = Progress(
                TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
                console=self._out, transient=True,
            )  # fmt: skip
            self._task = self.progress.add_task("starting", total=loops * seconds)

    def began(self, protocol: str, level: Level, phase: str, rate: float | None) -> None:
        """A part of a level begins."""
        self._began = time.monotonic()
        self._loop = phase
        if self.progress is not None:
            at = "" if rate is None else f" at {rate:,.0f}/s"
            noun = "connections" if protocol == "tcp" else "under way"
            self._text = f"{NAMES[protocol]} {level.number}: {level.askers:,} {noun}, {phase}{at}"
            self.progress.update(self._task, description=self._text)

    def heard(self, progress: Heard) -> None:
        """It goes on."""
        if self.progress is None or self._loop not in (CLOSED, OPEN):
            return
        spent = min(self._seconds, time.monotonic() - self._began)
        failed = f", {progress.failed:,} failed" if progress.failed else ""
        before = self._seconds if self._loop == OPEN else 0.0
        self.progress.update(
            self._task, completed=self._done + before + spent,
            description=f"{self._text}: {progress.ok:,} answered{failed}",
        )  # fmt: skip

    def ended(self, result: LevelResult) -> None:
        """A level is over."""
        self._done += PHASES * self._seconds
        if self.progress is not None:
            self.progress.update(self._task, completed=self._done)
        self._out.print(_line_of(result), soft_wrap=True)


def _line_of(result: LevelResult) -> str:
    words = [f"{NAMES[result.protocol]} level {result.number}, {result.askers:,} at once: {result.success:.5g} %"]
    if result.closed is not None:
        words.append(f"{result.closed.rate:,.0f}/s")
    if result.open is not None:
        latency = result.open.latency
        words.append(f"at {result.open.rate_asked or 0.0:,.0f}/s p50 {milliseconds(latency.p50)}")
        words.append(f"p99 {milliseconds(latency.p99)}")
    failures = dict(result.connecting)
    for part in (result.closed, result.open):
        for reason, count in (part.errors if part is not None else {}).items():
            failures[reason] = failures.get(reason, 0) + count
    words += [f"{count:,} {reason}" for reason, count in failures.items()]
    if result.interrupted:
        words.append("interrupted")
    return ", ".join(words)


def print_report(report: Report, ends: Sequence[str]) -> None:
    """Print what was found, and what ended it early."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("", "level", "at once", "success", "answers/s", "asked/s", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    limited = False
    for result in report.levels:
        closed, steady = result.closed, result.open
        latency = None if steady is None or not steady.latency.count else steady.latency
        marks = ["*" if part is not None and part.generator_limited else "" for part in (closed, steady)]
        limited = limited or any(marks)
        times = [] if latency is None else [latency.p50, latency.p90, latency.p99, latency.p999, latency.greatest]
        table.add_row(
            NAMES[result.protocol],
            str(result.number),
            f"{result.askers:,}",
            Text(f"{result.success:.5g} %", style="green" if result.reached else "red"),
            "" if closed is None else f"{closed.rate:,.0f}{marks[0]}",
            "" if steady is None else f"{steady.rate_asked or 0.0:,.0f}{marks[1]}",
            *map(milliseconds, times),
        )
    out = console(cut=False)
    if report.levels:
        out.print(table)
    if limited:
        click.echo("* The generator itself was the limit: the daemon may be better than this. The report says how.")
    for line in ends:
        click.echo(line)
    reached = sum(result.reached for result in report.levels)
    click.echo(f"{reached} of {len(report.levels)} levels reached {report.goal:g} % success.")
