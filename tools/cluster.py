"""Several daemons, one Valkey and one PostgreSQL from one command, as processes; Ctrl-C ends them all in good order.

What dies is started again on the same ports and with its state. Everything lies in var/cluster: state, logs, keys.

    make cluster                                         three nodes, to look at
    make cluster ARGS="--load 60"                        with somebody who asks, and books that are balanced in the end
    make cluster ARGS="--chaos --seconds 120"            and every ten seconds one of the five is killed

With --load or --chaos the exit status is 0 only if what was answered is what was recorded.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from tbeast.adapters.store import keyrows
from tbeast.adapters.store.postgres import connect, target
from tbeast.domain.keys import key_id_of
from tbeast.errors import TBeastError
from tbeast.testing.books import LOST_AT_MOST_MS, RECORDED_SQL, Asking, Entry, entries
from tbeast.testing.cluster import CACHE, DATABASE, Cluster, Options, Places

ROOT = Path(__file__).resolve().parent.parent
GENTLE_QPS = 60.0
REPORT_SECONDS = 10.0
KNOWN_WITHIN_SECONDS = 30.0
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94, 91)
LINE = re.compile(r"\S+ \[(?P<where>[^#\]]*)#(?P<level>\w+)\] (?P<text>.*)")
WORRIES = ("warn", "error", "critical")
TOLD = ("is up:", "database", "cache", "limits", "usage", "journal", "spool", "cannot")
"""What makes a line worth showing that is no worry."""
KNOWN = ("SIMULATED", "has no effect", "this version does not serve")
"""Worries that the cluster has by its nature."""
PASSED_ON = ("TBEAST_WORKERS", "TBEAST_NATIVE")
"""Settings of ours that the daemons get."""


class Terminal:
    """A line for each thing that happens, with who it is about in front; all that a process writes goes to its log."""

    def __init__(self, folder: Path, names: list[str], show_all: bool) -> None:
        self._width = max(len(name) for name in names)
        coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._colours = dict(zip(names, COLOURS, strict=False)) if coloured else {}
        self._logs: dict[str, IO[str]] = {name: (folder / f"{name}.log").open("a", buffering=1) for name in names}
        self._show_all = show_all

    def say(self, text: str, name: str = "cluster") -> None:
        """Show one line."""
        colour = self._colours.get(name)
        front = f"{name:<{self._width}}"
        if colour is not None:
            front = f"\x1b[{colour}m{front}\x1b[0m"
        print(time.strftime("%H:%M:%S"), front, "|", text, flush=True)

    def tell(self, sentence: str) -> None:
        """Show what became of a process; the sentence begins with its name."""
        name, _, rest = sentence.partition(" ")
        self.say(rest, name)

    def heard(self, name: str, line: str) -> None:
        """A process has written a line."""
        self._logs[name].write(line + "\n")
        found = LINE.fullmatch(line)
        if self._show_all:
            self.say(line, name)
        elif found is not None and self._is_worth_showing(found["level"], found["text"]):
            self.say(found["text"], name)

    def _is_worth_showing(self, level: str, text: str) -> bool:
        if any(word in text for word in KNOWN):
            return False
        return level in WORRIES or any(word in text for word in TOLD)


def own_key(path: Path) -> str:
    """The key that lies there, for its owner's eyes; made the first time."""
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{path.stem}-{secrets.token_hex(16)}\n")
    return path.read_text().strip()


def taken_ports(places: Places) -> Iterator[int]:
    """The ports that somebody else listens on."""
    for port in (places.valkey, *(port for ports in places.nodes for port in ports)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                yield port


def addresses(cluster: Cluster, folder: Path) -> Iterator[str]:
    """What is where, a line each."""
    yield f"{'':<12}{'prices (HTTP, UDP)':<26}{'health':<34}{'reports (HTTP, UDP)':<26}health of reports"
    for node in cluster.nodes:
        ports = node.ports
        prices, reports = (f"http://127.0.0.1:{ports[name]}" for name in ("TCP_PORT_LPO", "TCP_PORT_LRS"))
        health = f"http://127.0.0.1:{ports['HEALTH_PORT_LPO']}/ready"
        yield f"{node.name:<12}{prices:<26}{health:<34}{reports:<26}http://127.0.0.1:{ports['HEALTH_PORT_LRS']}/health"
    yield f"{'valkey':<12}{cluster.cache_url}"
    yield f"{'postgresql':<12}{cluster.url}"
    yield f"{'keys':<12}{folder / 'demo.key'} is good on all nodes, {folder / 'admin.key'} opens /admin"
    port = cluster.nodes[0].ports["TCP_PORT_LPO"]
    yield f'try: curl -H "Authorization: Bearer $(cat {folder / "demo.key"})" "http://127.0.0.1:{port}/price?asset=btc"'


def make_key(cluster: Cluster) -> str:
    """A key without limits for this run alone; waits."""
    with closing(connect(target(cluster.url))) as connection:
        text, _ = keyrows.create(connection, "partner", "cluster-load", random_bytes=os.urandom)
        connection.commit()
        return text


async def until_known(cluster: Cluster, key: str) -> None:
    """Wait until a key is good on all nodes, and all of them let people in: a page tells it that is about no asset."""
    until = time.monotonic() + KNOWN_WITHIN_SECONDS
    for node in cluster.nodes:
        while (await cluster.get(f"http://127.0.0.1:{node.ports['TCP_PORT_LPO']}/stats", key))[0] != 200:
            if time.monotonic() > until:
                raise TBeastError(f"{node.name} does not know the new key")
            await wait(0.1)


def told(book: list[Entry], kills: int) -> Iterator[str]:
    """The books, for people."""
    yield f"{'node':<8}{'life':>5}{'answered':>12}{'recorded':>12}{'lost':>7}{'unanswered':>12}   ended"
    for entry in book:
        end = "by a kill" if entry.killed else "in good order"
        if entry.lost:
            end += f"; the earliest lost answer came {entry.lost_ms:.0f} ms before it"
        fault = f"   FAULT: {entry.fault}" if entry.fault else ""
        yield (
            f"{entry.node:<8}{entry.number:>5}{entry.answered:>12,}{entry.recorded:>12,}{entry.lost:>7,}"
            f"{entry.unanswered:>12,}   {end}{fault}"
        )
    answered, recorded = sum(entry.answered for entry in book), sum(entry.recorded for entry in book)
    kept = [entry for entry in book if not entry.killed]
    lost = sum(entry.lost for entry in book)
    yield (
        f"lives that were not killed: {sum(entry.answered for entry in kept):,} answered,"
        f" {sum(entry.recorded for entry in kept):,} recorded"
    )
    yield (
        f"all lives, {kills} kills: {answered:,} answered, {recorded:,} recorded; {lost:,} lost with the last"
        f" round of counting of a killed daemon (one every 100 ms; {LOST_AT_MOST_MS:.0f} are let pass), and of"
        f" {sum(entry.unanswered for entry in book):,} without an answer each may be recorded or not"
    )
    if any(entry.fault for entry in book):
        yield "THE BOOKS ARE OUT"
    else:
        yield "served == recorded" if not lost else "served == recorded, but for that"


class Ending:
    """Whether the end was asked for, by a signal.

    @ivar asked: whether it was.
    """

    def __init__(self) -> None:
        self.asked = False
        self._waiting: list[Deferred[None]] = []

    def ask(self) -> None:
        """Ask for it."""
        self.asked = True
        for each in self._waiting:
            if not each.called:
                each.callback(None)

    def before(self, doing: Coroutine[Any, Any, object]) -> Deferred[None]:
        """Wait until something is done, or the end is asked for; then it is broken off."""
        either: Deferred[None] = Deferred()
        self._waiting.append(either)
        under_way = Deferred.fromCoroutine(doing)

        def over(result: object) -> None:
            if not either.called:
                either.errback(result) if isinstance(result, Failure) else either.callback(None)

        def break_off(result: object) -> object:
            under_way.cancel()
            return result

        under_way.addBoth(over)
        either.addBoth(break_off)
        if self.asked and not either.called:
            either.callback(None)
        return either


class Show:
    """One run of the cluster, from its start to the books."""

    def __init__(self, args: argparse.Namespace, folder: Path, places: Places, ending: Ending) -> None:
        names = ["cluster", DATABASE, CACHE, *(f"node{number}" for number in range(1, args.nodes + 1))]
        self._terminal = Terminal(folder, names, args.all)
        options = Options(
            folder, places, own_key(folder / "demo.key"), own_key(folder / "admin.key"),
            settings={name: os.environ[name] for name in PASSED_ON if name in os.environ},
        )  # fmt: skip
        self._cluster = Cluster(options, reactor, time.time, self._terminal.tell, self._terminal.heard)
        self._args = args
        self._folder = folder
        self._ending = ending
        self._asking: Asking | None = None
        self._key = ""
        self._kills = 0

    async def run(self) -> int:
        """Run it to its end; the exit status."""
        args, say, ending = self._args, self._terminal.say, self._ending
        status = 1
        try:
            say(f"starting {args.nodes} nodes, one Valkey and one PostgreSQL; state and logs in {self._folder}")
            await ending.before(self._cluster.start())
            if not ending.asked:
                for line in addresses(self._cluster, self._folder):
                    say(line)
                say("prices are the exchange lab's: invented, and every answer says so")
                say(f"all of them serve; {f'for {args.seconds:g} s, or until' if args.seconds else 'until'} Ctrl-C")
                if args.load:
                    await self._begin_to_ask()
                await self._until_the_end()
            say("ending")
            status = 0 if self._asking is None else await self._balance(self._asking)
        except TBeastError as error:
            say(f"that did not work: {error}")
        finally:
            if self._asking is not None:
                await self._asking.stop()
            await self._cluster.stop()
        say("all of them have ended")
        return status

    async def _begin_to_ask(self) -> None:
        self._key = await self._cluster.in_thread(make_key, self._cluster)
        await until_known(self._cluster, self._key)
        self._asking = Asking(self._cluster, self._key, self._args.load, reactor, time.time)
        self._asking.start()

    async def _until_the_end(self) -> None:
        args = self._args
        until = time.monotonic() + args.seconds if args.seconds else float("inf")
        reports = LoopingCall(self._report)
        reports.start(REPORT_SECONDS, now=False)
        try:
            if args.chaos and self._asking is not None:
                await self._ending.before(self._kill_now_and_then(self._asking, until))
            left = until - time.monotonic()
            if left > 0:
                await self._ending.before(wait(left))
        finally:
            reports.stop()

    def _report(self) -> None:
        if self._asking is not None:
            refused = ", ".join(f"{count} {code}" for code, count in self._asking.refused.items()) or "none"
            self._terminal.say(
                f"answered {self._asking.answered:,}, refused {refused}, questions lost {self._asking.lost_questions},"
                f" connections turned away {self._asking.turned_away}"
            )

    async def _kill_now_and_then(self, asking: Asking, until: float) -> None:
        """Kill each of them once, in an order by chance, and all over again."""
        chance, order = random.Random(self._args.seed), list[str]()
        while time.monotonic() + self._args.every < until:
            await wait(self._args.every)
            if not order:
                order = chance.sample(list(self._cluster.parts), len(self._cluster.parts))
            await self._kill(order.pop(), asking)

    async def _kill(self, name: str, asking: Asking) -> None:
        """Kill it, wait until it serves again, and tell what whoever asked has seen of it."""
        kept = self._cluster.parts[name]
        answered, refused, lost = asking.answered, asking.refused.total(), asking.lost_questions
        asking.longest_silence = 0.0
        lives, began = len(kept.lives), time.monotonic()
        self._terminal.say(f"kill -9 {name}")
        self._cluster.kill(name)
        self._kills += 1
        while len(kept.lives) == lives or not kept.serving:
            if kept.given_up:
                raise TBeastError(f"{name} does not come back")
            await wait(0.02)
        self._terminal.say(
            f"{name} served again {time.monotonic() - began:.1f} s after the kill; meanwhile"
            f" {asking.answered - answered} answers, {asking.refused.total() - refused} refusals,"
            f" {asking.lost_questions - lost} questions lost; the longest time without any"
            f" answer was {asking.longest_silence * 1e3:.0f} ms"
        )

    async def _balance(self, asking: Asking) -> int:
        """Stop the daemons, so that everything is written, and show the books; 1 if they are out."""
        cluster = self._cluster
        await asking.stop()
        await cluster.until_serving()
        await cluster.stop_nodes()
        rows = await cluster.in_thread(cluster.sql, RECORDED_SQL, key_id_of(self._key))
        book = entries({node.name: node.kept.lives for node in cluster.nodes}, asking.answers, rows)
        for line in told(book, self._kills):
            self._terminal.say(line)
        return int(any(entry.fault for entry in book))


async def wait(seconds: float) -> None:
    """Wait; until it is broken off, if it is infinite."""
    await (Deferred() if seconds == float("inf") else deferLater(reactor, seconds))


def main() -> None:
    """Read the command line, and run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3, help="daemons, 1 to 9 (3)")
    parser.add_argument("--base-port", type=int, default=18000, help="Valkey's port; nodes on the next tens (18000)")
    parser.add_argument("--seconds", type=float, default=0.0, help="end after so long")
    parser.add_argument("--load", type=float, default=0.0, metavar="QPS", help="ask so many questions a second")
    parser.add_argument("--chaos", action="store_true", help=f"kill one of them by chance; asks, too ({GENTLE_QPS:g})")
    parser.add_argument("--every", type=float, default=10.0, help="seconds from one kill's end to the next (10)")
    parser.add_argument("--seed", type=int, default=None, help="of the kills")
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "cluster", help="state and logs (var/cluster)")
    parser.add_argument("--all", action="store_true", help="show every line of the logs")
    args = parser.parse_args()
    if args.chaos and not args.load:
        args.load = GENTLE_QPS
    folder: Path = args.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        places = Places.from_base(args.base_port, args.nodes)
    except BlockingIOError:
        sys.exit(f"tbeast: another cluster runs in {folder}; --folder names another place")
    except TBeastError as error:
        sys.exit(f"tbeast: {error}")
    if taken := ", ".join(map(str, taken_ports(places))):
        sys.exit(f"tbeast: somebody listens on {taken} already; --base-port names other ports")
    sys.exit(turn(args, folder, places))


def turn(args: argparse.Namespace, folder: Path, places: Places) -> int:
    """Run the reactor for it; the exit status."""
    ending = Ending()
    statuses = [1]

    def asked_to_end(*_: object) -> None:
        if ending.asked:
            os._exit(1)  # asked twice; where the kernel can be asked, it has the others end
        reactor.callFromThread(ending.ask)  # type: ignore[attr-defined]

    def begin() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, asked_to_end)
        running = Deferred.fromCoroutine(Show(args, folder, places, ending).run())
        running.addCallbacks(statuses.append, lambda failure: print(failure, file=sys.stderr))
        running.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    return statuses[-1]


if __name__ == "__main__":
    main()
