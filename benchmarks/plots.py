"""Which plots there are: throughput, latencies and cost, from the rows that the benchmarks give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from contenders import CONTENDERS, HTTP, LIMITS, UDP
from linecharts import Line, Panel, draw

COLOURS = {"native": "blue", "python": "sky", "workers": "violet", "go": "orange", "nginx": "grey", "c": "grey"}
SHARES = (50.0, 99.0, 99.9)
WORDS = {HTTP: "connections", UDP: "datagrams under way"}


def _lines(rows: Sequence[dict], across: str, up: Callable[[dict], float]) -> list[Line]:
    names = [name for name in CONTENDERS if any(row["server"] == name for row in rows)]
    return [
        Line(
            CONTENDERS[name].title,
            sorted((row[across], up(row)) for row in rows if row["server"] == name),
            COLOURS[name],
            name in LIMITS.values(),
        )
        for name in names
    ]


def _ticks(rows: Iterable[dict], across: str) -> list[float]:
    """The levels that were measured."""
    return sorted({row[across] for row in rows})


def _written(folder: Path, name: str, title: str, panels: Sequence[Panel], is_one_scale: bool = False) -> list[Path]:
    if not panels:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    path.write_text(draw(title, panels, is_one_scale), encoding="utf-8")
    return [path]


def draw_side_by_side(rows: Sequence[dict], folder: Path) -> list[Path]:
    """Throughput of both protocols, and latencies of each; the files that were written."""
    by = {protocol: [row for row in rows if row["protocol"] == protocol] for protocol in (HTTP, UDP)}
    throughput = [
        Panel(protocol.upper(), WORDS[protocol], "requests a second", _lines(found, "level", lambda row: row["rate"]),
              _ticks(found, "level"))
        for protocol, found in by.items() if found
    ]  # fmt: skip
    written = _written(folder, "throughput", "Throughput", throughput)
    for protocol, found in by.items():
        if not found:
            continue
        panels = [
            Panel(f"p{share:g}", WORDS[protocol], "ms",
                  _lines(found, "level", lambda row, share=share: row["latency_ms"][share]),
                  _ticks(found, "level"), is_log=True)
            for share in SHARES
        ]  # fmt: skip
        title = f"Latency over {protocol.upper()} at full load, by {WORDS[protocol]}"
        written += _written(folder, f"latency-{protocol}", title, panels, is_one_scale=True)
    return written


AXES = {
    "keys": "keys in use", "assets": "assets asked for", "connections": "connections",
}  # fmt: skip


def draw_flatness(rows: Sequence[dict], folder: Path) -> list[Path]:
    """Cost by keys, by assets and by connections; the files that were written."""
    written = []
    for protocol in (HTTP, UDP):
        panels = []
        for axis, words in AXES.items():
            found = [row for row in rows if row["protocol"] == protocol and row["axis"] == axis]
            if found:
                lines = _lines(found, "value", lambda row: row["serving_us"])
                panels.append(Panel(f"by {axis}", words, "µs of processor time", lines, _ticks(found, "value")))
        title = f"What a question over {protocol.upper()} costs the server"
        written += _written(folder, f"cost-{protocol}", title, panels, is_one_scale=True)
    return written
