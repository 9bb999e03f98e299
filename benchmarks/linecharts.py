"""Line charts as SVG: panels side by side, one legend, on paper or in the dark, whichever the reader has.

Only what our own plots need. Colours come from classes, and a media query turns them for the dark; the card has a
ground of its own, so a reader whose page does not agree with the system's choice can read it as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from attrs import frozen

PANEL_WIDTH = 330.0
PANEL_HEIGHT = 230.0
WIDE_PANEL = 640.0
LEFT, RIGHT, ABOVE, BELOW = 62.0, 18.0, 34.0, 50.0
HEADING = 58.0
ROW = 22.0
LETTER = 6.6
"""About how wide a letter is, for the legend."""

COLOURS: Mapping[str, tuple[str, str]] = {
    "blue": ("#0b63c5", "#6cb4ff"),
    "sky": ("#1591a8", "#5fd4e6"),
    "violet": ("#8540b5", "#cf9bf2"),
    "orange": ("#c2570c", "#ffa45c"),
    "grey": ("#667085", "#a9b4c4"),
}
"""By name: on a light ground, on a dark one."""
MARKS = ("circle", "square", "diamond", "triangle", "cross")
STYLE = """
text{{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:12px;fill:#344054}}
.ground{{fill:#ffffff;stroke:#d0d5dd}}.grid{{stroke:#e4e7ec;stroke-width:1}}.axis{{stroke:#98a2b3;stroke-width:1}}
.title{{font-size:16px;font-weight:600;fill:#101828}}.name{{font-size:13px;font-weight:600;fill:#101828}}
.line{{fill:none;stroke-width:2.2;stroke-linejoin:round}}.broken{{stroke-dasharray:6 4}}
{light}
@media (prefers-color-scheme:dark){{
text{{fill:#c5cdd8}}.ground{{fill:#10151d;stroke:#303a48}}.grid{{stroke:#232c38}}.axis{{stroke:#5d6a7c}}
.title,.name{{fill:#f2f5f9}}
{dark}
}}
"""


@frozen
class Line:
    """One line of a panel.

    @ivar name: what the legend says; lines of one name share their looks.
    @ivar points: from left to right.
    @ivar colour: one of L{COLOURS}.
    @ivar is_broken: for what is a limit rather than a contender.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    is_broken: bool = False


@frozen
class Panel:
    """One pair of axes.

    @ivar across: what the horizontal axis tells, with its unit; C{up}: the other.
    @ivar ticks: the values marked on the horizontal axis, which is logarithmic; named are those that have room.
    @ivar is_log: whether the vertical axis is logarithmic too; otherwise it begins at 0.
    """

    name: str
    across: str
    up: str
    lines: Sequence[Line]
    ticks: Sequence[float]
    is_log: bool = False


def short(value: float) -> str:
    """A number for an axis: 150k, 1.5, 0.02."""
    if value >= 1_000_000:
        return f"{value / 1e6:g}M"
    if value >= 10_000:
        return f"{value / 1e3:g}k"
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def even_ticks(highest: float, wanted: int = 5) -> list[float]:
    """Round values from 0 to at least C{highest}."""
    rough = highest / wanted if highest > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))
    return [place * step for place in range(math.ceil(highest / step - 1e-9) + 1)] if highest > 0 else [0.0, step]


def log_ticks(lowest: float, highest: float) -> list[float]:
    """Values 1, 2 and 5 of each power of ten, or 1 alone if there are many, that hold the range between them."""
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    factors = (1.0, 2.0, 5.0) if len(powers) <= 3 else (1.0,)
    every = [factor * 10.0**power for power in powers for factor in factors]
    first = max((tick for tick in every if tick <= lowest * (1 + 1e-9)), default=every[0])
    last = min((tick for tick in every if tick >= highest * (1 - 1e-9)), default=every[-1])
    return [tick for tick in every if first <= tick <= last]


def _mark(kind: str, x: float, y: float, colour: str) -> str:
    shapes = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6"',
        "square": f'<rect x="{x - 3.3:.1f}" y="{y - 3.3:.1f}" width="6.6" height="6.6"',
        "diamond": f'<path d="M{x:.1f} {y - 4.6:.1f}l4.6 4.6l-4.6 4.6l-4.6 -4.6z"',
        "triangle": f'<path d="M{x:.1f} {y - 4.6:.1f}l4.4 7.8h-8.8z"',
        "cross": f'<path d="M{x - 3.4:.1f} {y - 3.4:.1f}l6.8 6.8m0 -6.8l-6.8 6.8" stroke-width="2"',
    }
    ground = "stroke" if kind == "cross" else "fill"
    return f'{shapes[kind]} class="{ground}-{colour}"/>'


def _scale(lowest: float, highest: float, start: float, end: float, is_log: bool) -> Callable[[float], float]:
    measure: Callable[[float], float] = math.log if is_log else float
    low, high = measure(lowest), measure(highest)
    span = (high - low) or 1.0
    return lambda value: start + (measure(value) - low) / span * (end - start)


def _known(panel: Panel) -> list[tuple[Line, list[tuple[float, float]]]]:
    """Each line with those of its points that can be drawn."""
    return [
        (line, [(x, y) for x, y in line.points if math.isfinite(y) and (y > 0 or not panel.is_log)])
        for line in panel.lines
    ]


def _up_ticks(panels: Sequence[Panel]) -> list[float]:
    heights = [y for panel in panels for _, points in _known(panel) for _, y in points] or [1.0]
    return log_ticks(min(heights), max(heights)) if panels[0].is_log else even_ticks(max(heights))


def _panel(
    panel: Panel, ticks: Sequence[float], marks: Mapping[str, str], left: float, top: float, width: float
) -> Iterator[str]:
    lines = _known(panel)
    x0, x1, y0, y1 = left + LEFT, left + width - RIGHT, top + ABOVE + PANEL_HEIGHT, top + ABOVE
    x_of = _scale(panel.ticks[0], panel.ticks[-1], x0 + 8, x1 - 8, True)
    y_of = _scale(ticks[0], ticks[-1], y0, y1, panel.is_log)
    yield f'<text class="name" x="{x0:.1f}" y="{top + 18:.1f}">{escape(panel.name)}</text>'
    for tick in ticks:
        y = y_of(tick)
        yield f'<line class="grid" x1="{x0:.1f}" x2="{x1:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{x0 - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>'
    free_from = math.inf
    for tick in reversed(panel.ticks):
        x = x_of(tick)
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y0:.1f}" y2="{y0 + 4:.1f}"/>'
        if x + len(short(tick)) * LETTER / 2 < free_from:
            yield f'<text x="{x:.1f}" y="{y0 + 18:.1f}" text-anchor="middle">{short(tick)}</text>'
            free_from = x - len(short(tick)) * LETTER / 2 - 6
    yield f'<line class="axis" x1="{x0:.1f}" x2="{x1:.1f}" y1="{y0:.1f}" y2="{y0:.1f}"/>'
    yield f'<text x="{(x0 + x1) / 2:.1f}" y="{y0 + 38:.1f}" text-anchor="middle">{escape(panel.across)}</text>'
    x, y = left + 14, (y0 + y1) / 2
    up = escape(panel.up)
    yield f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" transform="rotate(-90 {x:.1f} {y:.1f})">{up}</text>'
    for line, points in lines:
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        broken = " broken" if line.is_broken else ""
        yield f'<polyline class="line{broken} stroke-{line.colour}" points="{path}"/>'
        for x, y in points:
            yield _mark(marks[line.name], x_of(x), y_of(y), line.colour)


def _legend(lines: Sequence[Line], marks: Mapping[str, str], width: float, top: float) -> tuple[list[str], float]:
    """What stands in the legend, and how high it is."""
    x, y, parts = 22.0, top, []
    for line in lines:
        wide = 40.0 + len(line.name) * LETTER + 16
        if x + wide > width and x > 22.0:
            x, y = 22.0, y + ROW
        broken = " broken" if line.is_broken else ""
        looks = f"line{broken} stroke-{line.colour}"
        parts.append(f'<line class="{looks}" x1="{x:.1f}" x2="{x + 28:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_mark(marks[line.name], x + 14, y, line.colour))
        parts.append(f'<text x="{x + 36:.1f}" y="{y + 4:.1f}">{escape(line.name)}</text>')
        x += wide
    return parts, y + ROW - top


def draw(title: str, panels: Sequence[Panel], is_one_scale: bool = False) -> str:
    """The SVG of these panels, side by side.

    @param is_one_scale: whether the vertical axes are the same, so that panels can be compared.
    """
    wide = WIDE_PANEL if len(panels) == 1 else PANEL_WIDTH
    width = wide * len(panels) + 16
    shown: dict[str, Line] = {}
    for panel in panels:
        for line in panel.lines:
            shown.setdefault(line.name, line)
    marks = {name: MARKS[place % len(MARKS)] for place, name in enumerate(shown)}
    legend, high = _legend(list(shown.values()), marks, width, HEADING)
    top = HEADING + high - 8
    height = top + ABOVE + PANEL_HEIGHT + BELOW
    light, dark = (
        "".join(f".{how}-{name}{{{how}:{pair[side]}}}" for name, pair in COLOURS.items() for how in ("stroke", "fill"))
        for side in (0, 1)
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE.format(light=light, dark=dark)}</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="8"/>',
        f'<text class="title" x="22" y="32">{escape(title)}</text>',
        *legend,
    ]
    for place, panel in enumerate(panels):
        ticks = _up_ticks(panels if is_one_scale else [panel])
        parts.extend(_panel(panel, ticks, marks, 8 + place * wide, top, wide))
    return "\n".join([*parts, "</svg>", ""])
