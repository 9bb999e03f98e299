"""The load: two C programs of ours, built when they are first needed, and what a turn under their load has shown.

Both are closed loops: so many questions are under way, and each answer brings the next question. So they find the most
that a server answers, and the latencies under that very load; what they say of latency at a lesser rate is nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Timer

from attrs import evolve, frozen
from cores import Cores, kept_to

PEERS = Path(__file__).resolve().parent / "peers"
BUILT = Path(__file__).resolve().parent.parent / "build" / "bench"
SOCKETS = 4
"""From how many sockets each core of the load asks over UDP."""
BEYOND_SECONDS = 60.0
"""How much longer than told a load may take before it is ended."""
SHARES = (50.0, 90.0, 99.0, 99.9)
"""Per cent."""


class MissingError(Exception):
    """A program that is needed is not on this machine; the message says which."""


class FailedError(Exception):
    """A server or the load on it did not do as it should; the message says how."""


@frozen
class Shot:
    """What one turn has shown.

    @ivar rate: answers a second.
    @ivar asked: all questions, those before and after the time included; C{heard}: those of them that had an answer.
    @ivar bad: answers that were not what was asked for.
    @ivar closed: connections that the server ended.
    @ivar lost: questions without an answer.
    @ivar busy: of the asker's time, the share in which it was at work: near 1 it may be the limit itself.
    @ivar latency_ms: by share in per cent.
    @ivar cpu_us: processor time a question of the server with all its children; C{nan} if not known.
    @ivar serving_us: of that, without the lab and the database.
    @ivar others: the share of all these cores' time that was neither the server's nor the askers'.
    """

    rate: float
    asked: int
    heard: int
    bad: int
    closed: int
    lost: int
    busy: float
    latency_ms: dict[float, float]
    cpu_us: float = float("nan")
    serving_us: float = float("nan")
    others: float = float("nan")


@frozen
class Spent:
    """Processor time so far, in seconds, at a moment.

    @ivar at: when that was.
    @ivar whole: of the server with all its children; C{serving}: without the lab and the database.
    @ivar cores: of all programs on the cores of server and askers, of which there are C{count}.
    """

    at: float
    whole: float
    serving: float
    cores: float
    count: int


@cache
def compiled(name: str) -> Path:
    """The C program of that name, built.

    @raise MissingError: when there is no compiler.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise MissingError("a C compiler (gcc)")
    BUILT.mkdir(parents=True, exist_ok=True)
    built = BUILT / name
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", built, PEERS / f"{name}.c"], check=True)
    return built


def percentile(latencies: Sequence[tuple[float, int]], share: float) -> float:
    """The latency that so many per cent do not exceed; C{latencies} are values with their counts."""
    ordered = sorted(latencies)
    wanted = share / 100.0 * sum(count for _, count in ordered)
    seen = 0
    for value, count in ordered:
        seen += count
        if seen >= wanted:
            return value
    return float("nan")


def shares_of(total: int, parts: int) -> list[int]:
    """C{total} in at most C{parts} portions that are as equal as can be."""
    return [total // parts + (place < total % parts) for place in range(min(parts, total))]


def ask(
    protocol: str, port: int, level: int, seconds: float, keys: Path, assets: Path, cores: Cores,
    spent: Callable[[], Spent],
) -> Shot:  # fmt: skip
    """Load a server for so long, with so many connections or datagrams under way.

    @param keys: a file with the keys that ask, one a line; C{assets} likewise.
    @raise MissingError: when there is no compiler.
    @raise FailedError: when the load came to no good end.
    """
    program = compiled(f"{protocol}asker")
    sockets = [str(SOCKETS)] if protocol == "udp" else []
    with ExitStack() as stack:
        running = []
        for core, part in zip(cores.askers, shares_of(level, len(cores.askers)), strict=False):
            command = kept_to([core], [program, str(port), str(part), *sockets, str(seconds), keys, assets])
            each = stack.enter_context(Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True))
            stack.callback(each.kill)
            limit = Timer(seconds + BEYOND_SECONDS, each.kill)
            limit.start()
            stack.callback(limit.cancel)
            running.append(each)
        _wait_for("ready", running, protocol, level)
        before = spent()
        for each in running:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        _wait_for("done", running, protocol, level)
        after = spent()
        shot = together([json.loads(line) for line in _wait_for("", running, protocol, level)])
    return costing(shot, before, after, shot.rate * seconds, len(running))


def costing(shot: Shot, before: Spent, after: Spent, answers: float, askers: int) -> Shot:
    """The shot with what the server spent on so many answers, and what others took from it and the askers."""
    answers = max(1.0, answers)
    whole, serving = after.whole - before.whole, after.serving - before.serving
    time = after.at - before.at
    ours = whole + askers * shot.busy * time
    others = (after.cores - before.cores - ours) / (after.count * time)
    return evolve(shot, cpu_us=1e6 * whole / answers, serving_us=1e6 * serving / answers, others=max(others, 0.0))


def _wait_for(word: str, running: Sequence[Popen[str]], protocol: str, level: int) -> list[str]:
    """The next line of each of them, which is that word, or any if it is empty."""
    lines = []
    for each in running:
        assert each.stdout is not None
        assert each.stderr is not None
        lines.append(each.stdout.readline().strip())
        if not lines[-1] or lines[-1] != (word or lines[-1]):
            raise FailedError(f"the load over {protocol}, {level} at a time, failed: {each.stderr.read().strip()}")
    return lines


def together(parts: Sequence[dict]) -> Shot:
    """One shot of what several askers saw at the same time."""
    latencies = [(value, count) for part in parts for value, count in part["latencies"]]
    return Shot(
        rate=sum(part["answered"] / part["seconds"] for part in parts),
        **{name: sum(part[name] for part in parts) for name in ("asked", "bad", "closed", "lost")},
        heard=sum(part["asked"] - part["lost"] for part in parts),
        busy=max(part["busy"] for part in parts),
        latency_ms={share: percentile(latencies, share) / 1e3 for share in SHARES},
    )


_WRK_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def ask_by_wrk(
    port: int, level: int, seconds: float, key: str, asset: str, cores: Cores, spent: Callable[[], Spent]
) -> Shot:
    """The same over HTTP by wrk, for whoever wants to see that ours agrees with it."""
    threads = min(level, len(cores.askers))
    command = kept_to(cores.askers, [
        "wrk", f"-t{threads}", f"-c{level}", f"-d{max(1, round(seconds))}s", "--latency",
        "-H", f"Authorization: Bearer {key}", f"http://127.0.0.1:{port}/price?asset={asset}",
    ])  # fmt: skip
    before = spent()
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + BEYOND_SECONDS)
    after = spent()
    output = ended.stdout

    def found(pattern: str) -> int:
        number = re.search(pattern, output)
        return int(number[1]) if number else 0

    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if rate is None:
        raise FailedError(f"wrk said: {output}")
    quantiles = {
        float(share): float(value) * _WRK_UNITS[unit]
        for share, value, unit in re.findall(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s)$", output, re.MULTILINE)
    }
    heard = found(r"(\d+) requests in")
    shot = Shot(
        rate=float(rate[1]),
        asked=heard,
        heard=heard,
        bad=found(r"Non-2xx or 3xx responses: (\d+)"),
        closed=0,
        lost=sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", output))),
        busy=float("nan"),
        latency_ms={share: quantiles.get(share, float("nan")) for share in SHARES},
    )
    return costing(shot, before, after, heard, threads)


def median(shots: Iterable[Shot]) -> Shot:
    """The middle of several shots, figure by figure; what went wrong is added up."""
    all_of_them = list(shots)

    def middle(name: str) -> float:
        return statistics.median(getattr(shot, name) for shot in all_of_them)

    sums = ("asked", "heard", "bad", "closed", "lost")
    return evolve(
        all_of_them[0],
        **{name: middle(name) for name in ("rate", "busy", "cpu_us", "serving_us", "others")},
        **{name: sum(getattr(shot, name) for shot in all_of_them) for name in sums},
        latency_ms={share: statistics.median(shot.latency_ms[share] for shot in all_of_them) for share in SHARES},
    )
