"""A timeline of faults, read from JSON and checked before anything starts.

It is a list (or an object whose C{timeline} is one) of steps. A step has C{at_seconds} since the lab's start, and
either C{fault}, described as in the control API, or C{clear}: C{true}, which ends every fault::

    [{"at_seconds": 10, "fault": {"kind": "silence", "exchange": "kraken", "for_seconds": 20}},
     {"at_seconds": 60, "clear": true}]
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from tbeast.lab.faults import FaultError, read_fault


class ScriptError(ValueError):
    """A script cannot be followed; says what is wrong with which steps."""


@frozen
class Step:
    """At so many seconds: begin C{fault}, or (C{None}) end all."""

    at_seconds: float
    fault: Mapping[str, Any] | None


def read_script(text: str, known_assets: Iterable[str]) -> list[Step]:
    """Read and check a script; its steps in the order of time.

    @raise ScriptError: naming every step that is at fault.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ScriptError(f"no JSON: {error}") from None
    rows = value.get("timeline") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise ScriptError("neither a list of steps nor an object with a timeline")
    known = set(known_assets)
    steps, troubles = [], []
    for place, row in enumerate(rows, 1):
        try:
            steps.append(_step(row, known))
        except FaultError as error:
            troubles.append(f"step {place}: {error}")
    if troubles:
        raise ScriptError("; ".join(troubles))
    return sorted(steps, key=lambda step: step.at_seconds)


def _step(row: Any, known: set[str]) -> Step:
    if not isinstance(row, dict):
        raise FaultError("is no object")
    at_seconds = row.get("at_seconds")
    if isinstance(at_seconds, bool) or not isinstance(at_seconds, int | float) or not 0 <= at_seconds < 1e9:
        raise FaultError(f"at_seconds is no time: {at_seconds!r}")
    odd = row.keys() - {"at_seconds", "fault", "clear"}
    if odd or ("fault" in row) == ("clear" in row):
        raise FaultError("has at_seconds and either fault or clear, and nothing else")
    if "clear" in row:
        if row["clear"] is not True:
            raise FaultError("clear is true")
        return Step(float(at_seconds), None)
    if not isinstance(row["fault"], dict):
        raise FaultError("fault is no object")
    read_fault(row["fault"], known)
    return Step(float(at_seconds), row["fault"])


class Timeline:
    """The steps that are still to come."""

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        self._steps = list(steps)

    def due(self, elapsed_seconds: float) -> list[Step]:
        """Those whose time has come, once each."""
        due = [step for step in self._steps if step.at_seconds <= elapsed_seconds]
        self._steps = self._steps[len(due) :]
        return due
