"""The lab as a process: its options, its announcement, and how it ends.

The announcement is one line on standard output, written when everything listens; logs go to standard error. With
C{--parent} the process ends when its standard input closes, so that it does not outlive whoever started it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from attrs import field, frozen
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from zope.interface import implementer

from tbeast.lab.exchangelab import ExchangeLab, NotLoopbackError, check_loopback
from tbeast.lab.market import DEFAULT_STEPS_PER_SECOND
from tbeast.lab.recurring import Recurring
from tbeast.lab.script import ScriptError, read_script
from tbeast.lab.tables import bundled_tables

_FAILED: Final = 1
_MISUSED: Final = 2


@frozen
class Options:
    """How to run the lab.

    @ivar seed: of every price and every chance; the same seed walks the same way.
    @ivar host: a loopback address.
    @ivar port_base: the control port, the exchanges on the six after it; 0: any that are free.
    @ivar rate: steps of the market a second.
    @ivar script: path of a timeline of faults.
    @ivar announce: C{json}, one line; or C{text}, for people.
    @ivar parent: end when standard input closes.
    @ivar limited: refuse clients that ask or connect more often than the exchange allows.
    @ivar habits: changed timings, by exchange.
    """

    seed: int = 1
    host: str = "127.0.0.1"
    port_base: int = 0
    rate: float = DEFAULT_STEPS_PER_SECOND
    script: str | None = None
    announce: str = "json"
    parent: bool = False
    limited: bool = True
    habits: Mapping[str, Mapping[str, float]] = field(factory=dict)


class OptionsError(ValueError):
    """The lab cannot be run so; says why."""


def read_habits(items: Sequence[str]) -> dict[str, dict[str, float]]:
    """Read C{exchange.name=value} items, such as C{cryptocom.heartbeat_seconds=2}.

    @raise OptionsError: for one of another shape.
    """
    habits: dict[str, dict[str, float]] = {}
    for item in items:
        where, equals, value = item.partition("=")
        exchange, point, name = where.partition(".")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not (equals and point and number > 0):
            raise OptionsError(f"a habit is exchange.name=number, not {item!r}")
        habits.setdefault(exchange, {})[name] = number
    return habits


def make_lab(options: Options, reactor: Any) -> ExchangeLab:
    """Build the lab that C{options} ask for; it does not listen yet.

    @raise OptionsError: when they cannot be followed.
    """
    tables = bundled_tables()
    if not 0 <= options.port_base <= 65535 - 6:
        raise OptionsError(f"no port base: {options.port_base}")
    if not 0 < options.rate <= 10000:
        raise OptionsError(f"no rate: {options.rate}")
    try:
        check_loopback(options.host)
        script = ()
        if options.script is not None:
            text = Path(options.script).read_text("utf-8")
            script = tuple(read_script(text, (*tables.codes, *tables.coins)))  # type: ignore[assignment]
        return ExchangeLab(
            reactor,
            time.time,
            seed=options.seed,
            host=options.host,
            port_base=options.port_base,
            steps_per_second=options.rate,
            script=script,
            habits=options.habits,
            limited=options.limited,
            tables=tables,
        )
    except NotLoopbackError as error:
        raise OptionsError(str(error)) from None
    except (ScriptError, OSError) as error:
        raise OptionsError(f"script {options.script}: {error}") from None
    except ValueError as error:
        raise OptionsError(str(error)) from None


def announcement(lab: ExchangeLab, form: str) -> str:
    """What is written when everything listens, with its line end."""
    places = lab.announcement()
    if form == "json":
        return json.dumps(places, separators=(",", ":")) + "\n"
    lines = ["Exchange lab: every price is invented.", f"control   {places['control']}"]
    for name, urls in places["exchanges"].items():
        lines += [f"{name:<9} {urls['ws_url']}", f"{'':<9} {urls['rest_url']}"]
    return "\n".join(lines) + "\n"


@implementer(IReadDescriptor)
class _ParentWatch:
    """Tells when standard input is at its end."""

    def __init__(self, descriptor: int, reactor: Any) -> None:
        self._descriptor = descriptor
        self._reactor = reactor

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "parent"

    def doRead(self) -> None:
        try:
            left = os.read(self._descriptor, 4096)
        except BlockingIOError:
            return
        except OSError:
            left = b""
        if not left:
            self.connectionLost(None)

    def connectionLost(self, reason: Any) -> None:
        self._reactor.removeReader(self)
        _stop(self._reactor)


def serve(options: Options, out: TextIO | None = None) -> int:
    """Run the lab in this process until it is told to end.

    @return: the exit status; 2 when the options cannot be followed, 1 when a port is taken.
    """
    from twisted.internet import reactor

    try:
        lab = make_lab(options, reactor)
    except OptionsError as error:
        print(f"tbeast lab: {error}", file=sys.stderr)  # noqa: T201
        return _MISUSED
    level = LogLevel.warn if options.parent else LogLevel.info  # a parent has a log of its own to keep short
    told = FilteringLogObserver(textFileLogObserver(sys.stderr), [LogLevelFilterPredicate(level)])
    globalLogBeginner.beginLoggingTo([told], redirectStandardIO=False)
    try:
        lab.start()
    except CannotListenError as error:
        print(f"tbeast lab: {error}", file=sys.stderr)  # noqa: T201
        return _FAILED
    reactor.addSystemEventTrigger("before", "shutdown", lab.stop)
    if options.parent:
        born = os.getppid()
        Recurring(reactor, 2.0, lambda: None if os.getppid() == born else _stop(reactor)).start()
        watch = _ParentWatch(sys.stdin.fileno(), reactor)
        reactor.callWhenRunning(_watch_parent, reactor, watch)
    stream = sys.stdout if out is None else out
    # once it runs it also heeds signals: whoever reads the line may end the process in good order
    reactor.callWhenRunning(_announce, stream, announcement(lab, options.announce))
    reactor.run()
    return 0


def _announce(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()


def _stop(reactor: Any) -> None:
    if reactor.running:
        reactor.stop()


def _watch_parent(reactor: Any, watch: _ParentWatch) -> None:
    try:
        reactor.addReader(watch)
    except OSError:
        # a file or /dev/null cannot be watched: there is no parent who could close it
        watch.connectionLost(None)


def _parser() -> ArgumentParser:
    parser = ArgumentParser("tbeast lab", description="Six exchanges emulated on loopback; every price is invented.")
    add = parser.add_argument
    add("--seed", type=int, default=1, help="the same seed walks the same way (1)")
    add("--host", default="127.0.0.1", help="a loopback address (127.0.0.1)")
    add("--port-base", type=int, default=0, help="control port, the exchanges on the next six; 0: any (0)")
    add("--rate", type=float, default=DEFAULT_STEPS_PER_SECOND, help="steps of the market a second (20)")
    add("--script", help="a JSON timeline of faults")
    add("--announce", choices=("json", "text"), default="json", help="how to say where everything is (json)")
    add("--parent", action="store_true", help="end when standard input closes")
    add("--no-limits", dest="limited", action="store_false", help="let clients ask as often as they like")
    add("--habit", action="append", default=[], metavar="EXCHANGE.NAME=NUMBER", help="change one timing")
    return parser


def read_options(argv: Sequence[str]) -> Options:
    """Read the command line.

    @raise OptionsError: for a habit of the wrong shape.
    @raise SystemExit: for what argparse refuses.
    """
    given: Namespace = _parser().parse_args(argv)
    plain = vars(given)
    return Options(habits=read_habits(plain.pop("habit")), **plain)


def run(argv: Sequence[str] | None = None) -> int:
    """The C{tbeast lab} command and C{python -m tbeast.lab}; returns the exit status."""
    try:
        options = read_options(sys.argv[1:] if argv is None else argv)
    except OptionsError as error:
        print(f"tbeast lab: {error}", file=sys.stderr)  # noqa: T201
        return _MISUSED
    return serve(options)
