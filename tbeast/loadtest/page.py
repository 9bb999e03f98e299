"""The report of a run as one page of HTML that needs nothing else: no script, no font, no other file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final

from tbeast.loadtest.plots import Line, Point, latency_axis, milliseconds, plot, rate_axis, success_axis
from tbeast.loadtest.report import NAMES, Latency, LevelResult, Part, Report

_PROTOCOLS: Final = (("tcp", "c1"), ("udp", "c2"))
_PERCENTILES: Final = (("p50", "p50", "c3"), ("p90", "p90", "c4"), ("p99", "p99", "c1"), ("p99.9", "p999", "c2"),
    ("max", "greatest", "c5"))  # fmt: skip

_STYLE: Final = """
:root{color-scheme:light dark;--ground:#fff;--ink:#1b1f24;--soft:#5c6570;--rule:#dde1e6;--sheet:#f5f6f8;
--c1:#0b63b5;--c2:#c2480c;--c3:#0f7f5b;--c4:#8f6a00;--c5:#8a3ea8;--c6:#5c6570;--good:#0f7f5b;--bad:#c21f2c}
@media(prefers-color-scheme:dark){:root{--ground:#14171b;--ink:#e7eaee;--soft:#9aa5b1;--rule:#333a43;--sheet:#1d2127;
--c1:#5aa9f5;--c2:#ff9352;--c3:#3fc99a;--c4:#e3b93c;--c5:#cf8bea;--c6:#9aa5b1;--good:#3fc99a;--bad:#ff6b74}}
*{box-sizing:border-box}
body{margin:0 auto;padding:28px 20px 60px;max-width:1000px;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:25px;margin:0 0 4px}h2{font-size:18px;margin:34px 0 6px}p{margin:6px 0}
.verdict{font-size:17px;font-weight:600}.good{color:var(--good)}.bad{color:var(--bad)}.soft,.none{color:var(--soft)}
.banner{display:inline-block;padding:1px 9px;border-radius:4px;background:var(--c5);color:var(--ground);font-weight:600}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;margin:14px 0}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:13px}
th,td{padding:4px 7px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th{color:var(--soft);font-weight:600;vertical-align:bottom}th:first-child,td:first-child{text-align:left}
td.words,th.words{text-align:left;white-space:normal}
.keys{display:flex;flex-wrap:wrap;gap:4px 18px;margin:6px 0 14px;font-size:13.5px;color:var(--soft)}
.keys span{display:inline-flex;align-items:center;gap:7px}
.keys i{width:20px;height:0;border-top:3px solid currentColor}.keys i.dashed{border-top-style:dashed}
.keys i.thin{border-top-width:1px}
.keys i.ring{width:10px;height:10px;border:2px solid currentColor;border-radius:50%}
svg{display:block;width:100%;height:auto;background:var(--sheet);border-radius:8px;margin:8px 0}
svg text{fill:var(--soft);font:12.5px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif}
svg .name{fill:var(--ink)}.grid{stroke:var(--rule)}.axis{stroke:var(--soft)}
.mark{stroke:var(--soft);stroke-dasharray:5 4}.line{fill:none;stroke-width:2.2;stroke-linejoin:round}
.line.dashed{stroke-dasharray:6 5;stroke-width:1.6}.dot{stroke-width:2}
.dot.hollow{fill:var(--sheet)}
""" + "".join(
    f".line.c{number},.dot.c{number}{{stroke:var(--c{number})}}.dot.c{number}:not(.hollow){{fill:var(--c{number})}}"
    f".k{number}{{color:var(--c{number})}}"
    for number in range(1, 7)
)


def page(report: Report) -> str:
    """Write it."""
    body = [
        "<h1>tbeast load test</h1>",
        _verdict(report),
        _facts(report),
        *(f"<p>{escape(note)}</p>" for note in report.notes),
        "<h2>Success by level</h2>",
        *_success(report),
        "<h2>Throughput by level</h2>",
        '<p class="soft">Closed loop: each asker asks again as soon as it was answered; counted from the end of the'
        " first lap on.</p>",
        *_rates(report),
    ]
    for protocol, _ in _PROTOCOLS:
        results = _of(report, protocol)
        if results:
            body += _latencies(protocol, results)
            body += _table(protocol, results)
            body += _errors(protocol, results)
    body += _method(report)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>tbeast load test, {_moment(report.began_at)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _verdict(report: Report) -> str:
    reached = sum(result.reached for result in report.levels)
    words = f"{reached} of {len(report.levels)} levels reached {report.goal:g} % success"
    banner = ' <span class="banner">SIMULATED PRICES</span>' if report.simulated else ""
    return f'<p class="verdict {"good" if report.reached else "bad"}">{escape(words)}{banner}</p>'


def _facts(report: Report) -> str:
    rate = f"{report.rate:,.6g} a second" if report.rate else f"{(report.load or 0.0) * 100:g} % of the closed loop's"
    facts = [
        ("began", _moment(report.began_at)),
        ("took", f"{report.took_seconds:,.0f} s, each loop {report.seconds:g} s"),
        *((NAMES[protocol], target) for protocol, target in report.targets.items()),
        *([("node", report.node)] if report.node else []),
        ("asked from", f"{report.machine}; {_some(report.generators, 'generator')}; tbeast {report.tbeast}"),
        ("open loop's rate", rate),
        ("time-outs", ", ".join(f"{NAMES[name]} {seconds:g} s" for name, seconds in report.timeouts.items())),
    ]
    told = "".join(f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>" for name, words in facts)
    assets = f"<details><summary>{len(report.assets)}, in turn</summary>{escape(', '.join(report.assets))}</details>"
    return f"<dl>{told}<dt>assets</dt><dd>{assets}</dd></dl>"


def _success(report: Report) -> Iterable[str]:
    lines = []
    for protocol, style in _PROTOCOLS:
        points = [
            Point(result.askers, result.success, f"{_place(result)}: {result.success:.5g} %")
            for result in _of(report, protocol)
        ]
        if points:
            lines.append(Line(NAMES[protocol], style, points))
    return plot("Success by level", lines, success_axis(lines, report.goal)), _keys(
        lines, mark=f"goal {report.goal:g} %"
    )


def _rates(report: Report) -> Iterable[str]:
    lines = []
    for protocol, style in _PROTOCOLS:
        points = [
            Point(
                result.askers,
                result.closed.rate,
                f"{_place(result)}: {result.closed.rate:,.0f} answers a second{_aside(result.closed)}",
                hollow=bool(result.closed.generator_limited),
            )
            for result in _of(report, protocol)
            if result.closed is not None
        ]
        if points:
            lines.append(Line(NAMES[protocol], style, points))
    return plot("Throughput by level", lines, rate_axis(lines)), _keys(lines, "the generator was the limit")


def _latencies(protocol: str, results: Sequence[LevelResult]) -> Iterable[str]:
    measured = [(result, result.open) for result in results if result.open is not None and result.open.latency.count]
    lines = [
        Line(
            name,
            style,
            [
                Point(
                    result.askers,
                    getattr(part.latency, field),
                    f"{_place(result)}, {name}: {milliseconds(getattr(part.latency, field))} at"
                    f" {part.rate_asked or 0.0:,.0f} questions a second{_aside(part)}",
                    hollow=bool(part.generator_limited),
                )
                for result, part in measured
            ],
        )
        for name, field, style in reversed(_PERCENTILES)
    ]
    lags = [
        Point(
            result.askers,
            part.lag.p99,
            f"{_place(result)}: the generator itself was late by {milliseconds(part.lag.p99)} (p99)",
        )
        for result, part in measured
        if part.lag is not None and part.lag.p99 > 0.0
    ]
    if lags:
        lines.append(Line("the generator's own lag, p99", "c6", lags, dashed=True))
    lines = [line for line in lines if line.points]
    return (
        f"<h2>{NAMES[protocol]}: latency by level</h2>",
        '<p class="soft">Open loop: counted from the moment when a question was due, of those that were answered.</p>',
        plot(f"{NAMES[protocol]}: latency by level", lines, latency_axis(lines)),
        _keys(lines, "the generator was the limit"),
    )


def _table(protocol: str, results: Sequence[LevelResult]) -> Iterable[str]:
    heads = [
        "level", "connections" if protocol == "tcp" else "under way", "success", "answers/s", "open, asked/s",
        "p50", "p90", "p99", "p99.9", "max", "lag p99", "busy",
    ]  # fmt: skip
    rows = []
    for result in results:
        closed, steady = result.closed, result.open
        cells = [
            str(result.number),
            f"{result.askers:,}" + ("" if result.askers == result.wanted else f" of {result.wanted:,}"),
            f'<span class="{"good" if result.reached else "bad"}">{result.success:.5g} %</span>',
            "" if closed is None else f"{closed.rate:,.0f}",
            "" if steady is None else f"{steady.rate_asked or 0.0:,.0f}",
            *_times(None if steady is None else steady.latency),
            "" if steady is None or steady.lag is None else milliseconds(steady.lag.p99),
            "" if closed is None else f"{closed.generator_busy * 100:.0f} %",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    yield f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    limited = [
        f"<li>Level {result.number}, {where}: {escape(part.generator_limited)}.</li>"
        for result in results
        for where, part in (("closed loop", result.closed), ("open loop", result.open))
        if part is not None and part.generator_limited
    ]
    if limited:
        yield (
            f"<p>Where the generator itself was the limit, the figures say less about the daemon:</p>"
            f"<ul>{''.join(limited)}</ul>"
        )


def _times(latency: Latency | None) -> list[str]:
    if latency is None or not latency.count:
        return [""] * len(_PERCENTILES)
    return [milliseconds(getattr(latency, field)) for _, field, _ in _PERCENTILES]


def _errors(protocol: str, results: Sequence[LevelResult]) -> Iterable[str]:
    rows = []
    for result in results:
        parts = [("opening", result.connecting, 0, 0)]
        for where, part in (("closed loop", result.closed), ("open loop", result.open)):
            if part is not None:
                parts.append((where, part.errors, part.asked, part.late))
        for where, errors, asked, late in parts:
            words = [f"{escape(reason)} {count:,}" for reason, count in errors.items()]
            if late:
                words.append(f"(answered after it was given up: {late:,})")
            if words:
                of = f"{asked:,}" if asked else ""
                rows.append(
                    f'<tr><td>{result.number}</td><td class="words">{where}</td><td>{of}</td>'
                    f'<td class="words">{", ".join(words)}</td></tr>'
                )
    yield f"<h2>{NAMES[protocol]}: what failed</h2>"
    if rows:
        yield (
            '<div class="wide"><table><thead><tr><th>level</th><th class="words">part</th><th>asked</th>'
            f'<th class="words">failures</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        )
    else:
        yield '<p class="soft">Nothing.</p>'


def _method(report: Report) -> Iterable[str]:
    return (
        "<h2>How to read it</h2>",
        "<p>Success is the share of good answers in all that was asked in both loops: status 200, and a price of the"
        " asset asked for. Connections that could not be made count as failures.</p>",
        "<p>The open loop asks at moments that do not wait for answers (a Poisson process), and each latency counts"
        " from the moment when the question was due: while the daemon stalls, whoever would have asked waits too.</p>",
        "<p>The generator's lag is how late it was itself to see that a question was due. It is part of the latencies;"
        " where it is near to them, look for a quieter machine, or more cores. Busy is the share of the closed loop in"
        " which the generator had something to do.</p>",
    )


def _of(report: Report, protocol: str) -> list[LevelResult]:
    return [result for result in report.levels if result.protocol == protocol]


def _place(result: LevelResult) -> str:
    return f"{NAMES[result.protocol]} level {result.number}, {result.askers:,} at once"


def _aside(part: Part) -> str:
    return f"; {part.generator_limited}" if part.generator_limited else ""


def _keys(lines: Sequence[Line], hollow: str = "", mark: str = "") -> str:
    keys = [
        f'<span><i class="k{line.style[1:]}{" dashed" if line.dashed else ""}"></i>{escape(line.name)}</span>'
        for line in lines
    ]
    if any(point.hollow for line in lines for point in line.points):
        keys.append(f'<span><i class="ring"></i>{escape(hollow)}</span>')
    if mark:
        keys.append(f'<span><i class="thin dashed"></i>{escape(mark)}</span>')
    return f'<div class="keys">{"".join(keys)}</div>'


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
