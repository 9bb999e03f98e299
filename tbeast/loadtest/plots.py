"""Line plots over the levels of a run, as SVG that stands in a page.

The horizontal axis is the number of askers, logarithmic. Colours are classes, which the page's style sheet gives them,
so that one picture serves on light and on dark ground. Each point tells its values when it is pointed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Final

from attrs import frozen

WIDTH: Final = 860
HEIGHT: Final = 340
_LEFT: Final = 96
_RIGHT: Final = 18
_TOP: Final = 16
_BOTTOM: Final = 54


@frozen
class Point:
    """One point.

    @ivar x: askers.
    @ivar y: in the unit of the axis.
    @ivar words: what it tells.
    @ivar hollow: whether it is drawn as one that says less about the server.
    """

    x: int
    y: float
    words: str
    hollow: bool = False


@frozen
class Line:
    """Some points, and what they are.

    @ivar style: the class of its colour: C{c1} and so on.
    @ivar dashed: whether it is a line beside the others.
    """

    name: str
    style: str
    points: Sequence[Point]
    dashed: bool = False


@frozen
class Axis:
    """The vertical axis.

    @ivar title: with its unit.
    @ivar low: where it begins; with C{is_log}, above 0.
    @ivar ticks: values with what is written at them.
    @ivar mark: a value at which a line is drawn.
    """

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    is_log: bool = False
    mark: float | None = None


def success_axis(lines: Sequence[Line], goal: float) -> Axis:
    """From 100 per cent down as far as is needed."""
    least = min([goal, *(point.y for line in lines for point in line.points)])
    low = next(floor_ for floor_ in (99.0, 95.0, 90.0, 75.0, 50.0, 0.0) if least >= floor_)
    step = (100.0 - low) / 5.0
    ticks = [(low + step * place, f"{low + step * place:g} %") for place in range(6)]
    return Axis("success, %", low, 100.0, ticks, mark=goal)


def rate_axis(lines: Sequence[Line]) -> Axis:
    """From 0 up to a round number."""
    most = max([1.0, *(point.y for line in lines for point in line.points)])
    step = _round_step(most / 4.0)
    count = max(1, ceil(most / step))
    ticks = [(step * place, f"{step * place:,.10g}") for place in range(count + 1)]
    return Axis("answers a second", 0.0, step * count, ticks)


def latency_axis(lines: Sequence[Line]) -> Axis:
    """Powers of ten around all values, of which a microsecond is the least."""
    values = [max(point.y, 0.001) for line in lines for point in line.points]
    low = floor(log10(min(values, default=1.0)))
    high = max(low + 1, ceil(log10(max(values, default=1.0))))
    ticks = [(10.0**power, milliseconds(10.0**power)) for power in range(low, high + 1)]
    return Axis("latency, logarithmic", 10.0**low, 10.0**high, ticks, is_log=True)


def milliseconds(value: float) -> str:
    """A time as people say it."""
    if value >= 1000.0:
        return f"{value / 1000.0:.4g} s"
    if value >= 1.0:
        return f"{value:.4g} ms"
    return f"{value * 1000.0:.4g} µs"


def plot(title: str, lines: Sequence[Line], axis: Axis) -> str:
    """Draw it.

    @param title: for those who cannot see it.
    """
    askers = sorted({point.x for line in lines for point in line.points})
    if not askers:
        return '<p class="none">Nothing was measured.</p>'
    low, high = log10(askers[0]), log10(askers[-1])
    if high - low < 0.3:
        low, high = low - 0.15, high + 0.15

    def across(x: float) -> float:
        return _LEFT + 14 + (log10(x) - low) / (high - low) * (WIDTH - _LEFT - _RIGHT - 28)

    def up(y: float) -> float:
        if axis.is_log:
            share = log10(max(y, axis.low) / axis.low) / log10(axis.high / axis.low)
        else:
            share = (y - axis.low) / (axis.high - axis.low)
        return HEIGHT - _BOTTOM - min(1.0, max(0.0, share)) * (HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value, words in axis.ticks:
        y = up(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(words)}</text>')
    bottom = HEIGHT - _BOTTOM
    last = -1e9
    for x in askers:
        at = across(x)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 5}"/>')
        # numbers that would touch each other are left out
        if at - last >= 8.0 * len(f"{x:,}") + 6.0:
            parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 19}" text-anchor="middle">{x:,}</text>')
            last = at
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(
        f'<text class="name" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">concurrency:'
        " connections (TCP), questions under way (UDP), logarithmic</text>"
    )
    parts.append(
        f'<text class="name" transform="translate(16 {(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(axis.title)}</text>"
    )
    if axis.mark is not None:
        y = up(axis.mark)
        parts.append(f'<line class="mark" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for line in lines:
        dashed = " dashed" if line.dashed else ""
        places = " ".join(f"{across(point.x):.1f},{up(point.y):.1f}" for point in line.points)
        parts.append(f'<polyline class="line {line.style}{dashed}" points="{places}"/>')
        for point in line.points:
            hollow = " hollow" if point.hollow else ""
            parts.append(
                f'<circle class="dot {line.style}{hollow}" cx="{across(point.x):.1f}" cy="{up(point.y):.1f}" r="4">'
                f"<title>{escape(point.words)}</title></circle>"
            )
    parts.append("</svg>")
    return "".join(parts)


def _round_step(least: float) -> float:
    """The next of 1, 2, 2.5 and 5, times a power of ten."""
    power = 10.0 ** floor(log10(least))
    return next(power * times for times in (1.0, 2.0, 2.5, 5.0, 10.0) if power * times >= least * 0.999999)
