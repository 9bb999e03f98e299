"""tbeast loadtest: thirteen levels of rising concurrency on a daemon, over HTTP and UDP, and a report with plots."""

from __future__ import annotations

import select
import time
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from tbeast.commands.asking import Ending, reason_of
from tbeast.commands.loadscreen import LoadScreen, print_report
from tbeast.commands.loadtargets import PROTOCOLS, sites_of, surveyed
from tbeast.loadtest import machine
from tbeast.loadtest.crew import Crew
from tbeast.loadtest.levels import (
    LEVELS,
    MOST_GENERATORS,
    LevelsError,
    cut,
    generators_for,
    read_levels,
    uncut,
    usual_generators,
)
from tbeast.loadtest.page import page
from tbeast.loadtest.report import VERSION, Report
from tbeast.loadtest.running import PHASES, Course, Pace, Run
from tbeast.settings import SETTINGS

FAILED: Final = 1
HIGHEST_RATE: Final = 1_000_000.0
LONGEST_SECONDS: Final = 600.0
SEED: Final = 1


@click.command("loadtest")
@click.option(
    "--url",
    metavar="URL",
    help="Where the daemon's HTTP is; else http://127.0.0.1 and the port that"
    f" TCP_PORT_LPO in the environment says, else {SETTINGS['TCP_PORT_LPO'].default}.",
)
@click.option(
    "--udp",
    "udp_at",
    metavar="HOST:PORT",
    help="Where its datagrams go; else the host of --url, and the"
    f" port that UDP_PORT_LPO says, else {SETTINGS['UDP_PORT_LPO'].default}.",
)
@click.option(
    "--protocol", type=click.Choice(["both", *PROTOCOLS]), default="both", show_default=True, help="What to load."
)
@click.option(
    "--key",
    help="The API key, best of a tier without limits. Other users of this machine can see it: prefer --key-file.",
)
@click.option(
    "--key-file",
    metavar="FILE",
    help="A file with the API key, - for standard input. Without both, the"
    " daemon's demo.key in the folder that TBEAST_STATE names, or in ./var.",
)
@click.option(
    "--assets",
    metavar="A,B,...",
    help="What to ask for, in turn; else every asset of the bundled table that the daemon has a price of.",
)
@click.option(
    "--levels", metavar="N,N,...", help=f"Concurrency of each level; else thirteen that rise to {LEVELS[-1]:,}."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, LONGEST_SECONDS),
    default=5.0,
    show_default=True,
    help="How long each of a level's two loops lasts.",
)
@click.option(
    "--load",
    type=click.FloatRange(0.0, 2.0, min_open=True),
    metavar="SHARE",
    help="The open loop's rate, as a share of what the closed loop reached.  [default: 0.5]",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.0, HIGHEST_RATE, min_open=True),
    metavar="N",
    help="The open loop's rate on every level instead, in questions a second.",
)
@click.option(
    "--goal",
    type=click.FloatRange(0.0, 100.0),
    default=99.9,
    show_default=True,
    metavar="PERCENT",
    help="The success that every level must reach.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(0.1, 60.0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="After which a connection or an HTTP answer has failed.",
)
@click.option(
    "--udp-timeout",
    "udp_timeout_seconds",
    type=click.FloatRange(0.1, 60.0),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="After which a datagram is lost.",
)
@click.option(
    "--generators",
    type=click.IntRange(1, MOST_GENERATORS),
    help="Processes that ask; else one for two cores, and more where the connections need them.",
)
@click.option("--out", metavar="NAME", help="Write NAME.json and NAME.html; else loadtest- and the time.")
@click.option("--allow-remote", is_flag=True, help="Load a daemon on another machine. It must be yours.")
def command(
    url: str | None,
    udp_at: str | None,
    protocol: str,
    key: str | None,
    key_file: str | None,
    assets: str | None,
    levels: str | None,
    seconds: float,
    load: float | None,
    rate: float | None,
    goal: float,
    timeout_seconds: float,
    udp_timeout_seconds: float,
    generators: int | None,
    out: str | None,
    allow_remote: bool,
) -> None:
    """Load a daemon on this machine with ever more concurrency, and report how it stood.

    Each level first asks as fast as answers come, then at a set rate, which is what the latencies are of. Ctrl-C
    ends it with what was measured so far. Exit status: 0 if every level reached its goal; 1 if not, or if it was
    ended before; 2 for misuse; 3 if nobody answered at the beginning.
    """  # fmt: skip
    if not hasattr(select, "epoll"):
        raise Ending("tbeast loadtest needs Linux.")
    if load is not None and rate is not None:
        raise click.UsageError("--load and --rate: give one of the two.")
    try:
        wanted = read_levels(levels) if levels is not None else LEVELS
    except LevelsError as error:
        raise click.UsageError(f"--levels: {error}.") from None
    protocols = [name for name in PROTOCOLS if protocol in ("both", name)]
    began_at = time.time()
    names = _names_of_files(out, began_at)
    sites = sites_of(url, udp_at, protocols, key, key_file, allow_remote)
    survey = surveyed(sites, assets)
    for note in survey.notes:
        click.echo(note, err=True)
    highest = wanted[-1]
    room = machine.room_for(sites[0].place.host)
    usual = generators or usual_generators(machine.cores())
    size = generators or generators_for(highest if "tcp" in protocols else 1, room, usual)
    notes = list(survey.notes)
    courses = []
    for site in sites:
        fitting, words = cut(wanted, room, size) if site.protocol == "tcp" else (uncut(wanted), [])
        for line in words:
            click.echo(line, err=True)
        notes += words
        timeout = timeout_seconds if site.protocol == "tcp" else udp_timeout_seconds
        courses.append(Course(site.setup(survey.assets, timeout, highest), fitting))
    screen = LoadScreen(sum(len(course.levels) for course in courses) * PHASES, seconds)
    pace = Pace(seconds, 0.5 if load is None else load, rate, goal, SEED)
    crew = Crew(size, time.monotonic)
    try:
        run = Run(crew, size, usual, room, pace, screen)
        with screen.progress or nullcontext():
            # TCP last: a daemon that has just lost thousands of connections is busy with that
            run.run(courses[::-1])
    finally:
        with suppress(KeyboardInterrupt):
            crew.end()
    measured = sum(len(course.levels) for course in courses)
    report = Report(
        version=VERSION,
        tbeast=version("tbeast"),
        began_at=began_at,
        took_seconds=round(time.time() - began_at, 3),
        targets={site.protocol: site.url for site in sites},
        node=survey.node,
        simulated=survey.simulated,
        machine=machine.description(),
        generators=size,
        assets=survey.assets,
        seconds=seconds,
        load=None if rate is not None else pace.load,
        rate=rate,
        timeouts={course.protocol: course.setup.timeout_seconds for course in courses},
        goal=goal,
        levels=tuple(sorted(run.results, key=lambda result: (result.protocol, result.number))),
        notes=(*notes, *run.notes),
        interrupted=run.interrupted,
        reached=len(run.results) == measured and all(result.reached for result in run.results),
    )
    _write(names, report)
    print_report(report, run.notes)
    click.echo(f"{names[0]} and {names[1].name} hold the whole.")
    if not report.reached:
        raise SystemExit(FAILED)


def _names_of_files(out: str | None, now: float) -> tuple[Path, Path]:
    name = out or f"loadtest-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}"
    names = Path(f"{name}.json"), Path(f"{name}.html")
    for path in names:
        try:
            # seen before the load, not after it
            with path.open("ab"):
                pass
            if not path.stat().st_size:
                path.unlink()
        except OSError as error:
            raise click.UsageError(f"--out: {path}: {reason_of(error)}") from None
    return names


def _write(names: tuple[Path, Path], report: Report) -> None:
    try:
        names[0].write_bytes(report.json())
        names[1].write_text(page(report), "utf-8")
    except OSError as error:
        click.echo(f"The report cannot be written: {reason_of(error)}", err=True)
