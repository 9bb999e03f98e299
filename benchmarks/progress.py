"""How far a run is: a bar on a terminal, a line now and then elsewhere; on standard error, beside the results."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Steps:
    """Counts seconds of load that are behind us."""

    def __init__(self, seconds: float) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(), TextColumn("{task.description}"),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=seconds)

    def __enter__(self) -> Steps:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def begin(self, text: str) -> None:
        """Something larger begins."""
        if self._console.is_terminal:
            self.say(text)
        else:
            self._console.print(text, highlight=False)

    def say(self, text: str) -> None:
        """What is done now."""
        self._bar.update(self._task, description=text)

    def done(self, seconds: float) -> None:
        """So much of it is behind us."""
        self._bar.advance(self._task, seconds)
