"""Where results go, what is said of the machine and the hour beside them, and how they are read again."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUSY = 0.05
OUT = ROOT / "benchmarks" / "out"


def processor() -> str:
    """What the machine calls its processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.machine()


def facts(began: float) -> dict[str, str]:
    """What figures must not be shown without: machine and day."""
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores, {system}",
        "day": time.strftime("%Y-%m-%d", time.gmtime(began)),
        "took_seconds": f"{time.time() - began:.0f}",
    }


def how_quiet(rows: Sequence[dict]) -> str:
    """Whether anything else ran on the cores, from the rows' C{others}: if much did, the figures say little."""
    shares = [row["others"] for row in rows if math.isfinite(row["others"])]
    if not shares:
        return "whether anything else ran is not known"
    middle, most = statistics.median(shares), max(shares)
    words = f"other programs had {100 * middle:.0f} % of these cores (median), {100 * most:.0f} % at most"
    return f"{words}: A BUSY MACHINE, these figures say little" if middle > BUSY else words


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def save(folder: Path, name: str, outcome: dict[str, Any]) -> None:
    """Keep an outcome as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(_plain(outcome), indent=1) + "\n")


def saved(folder: Path, name: str) -> dict[str, Any] | None:
    """An outcome that was kept; C{None}: there is none."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None
