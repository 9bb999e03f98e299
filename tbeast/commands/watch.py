"""tbeast watch: prices in the terminal, asked for anew every second.

While nobody answers, the last prices stay on the screen, but dim, ageing, and with no quality: they are no prices of
now. An asset that is refused shows the reason, and no price. On a pipe each round is lines of text, one an asset.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from threading import Lock
from time import sleep
from typing import Final, Unpack

import click
from attrs import define, field
from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tbeast.codecs.pricequeries import PriceQuery
from tbeast.commands.asking import (
    UNANSWERED,
    Barred,
    NoAnswer,
    Outcome,
    Where,
    asking_options,
    place_of,
    portions,
    printable,
    queries_of,
    refusals,
    spelled,
)
from tbeast.commands.cells import SIMULATED, age, basis_points, console, judged, price_row, sources, steady
from tbeast.commands.desks import HttpDesk, Round

HANDFUL: Final = ("BTC", "ETH", "SOL", "XRP", "DOGE")
REMEMBERED_SECONDS: Final = 60.0
SPARKS: Final = 20
PATIENCE_SECONDS: Final = 2.0
"""How long a question may be under way before what is on the screen is no longer taken for current."""

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_BLOCKS: Final = "_.:-=+*#"
_COLUMNS: Final = {
    "asset": 0, "price": 0, "": 0, "quality": 0, "source": 78, "used": 62, "spread": 88, "age": 54, "last minute": 110,
}  # fmt: skip
"""Column: the width of the screen from which on it is there."""

_TO_THE_RIGHT: Final = ("price", "used", "spread", "age")
_ARROWS: Final = {1: ("▲", "+", "green"), -1: ("▼", "-", "red"), 0: (" ", " ", "")}


@define
class Row:
    """One asset on the screen.

    @ivar outcome: the newest; C{None} before the first.
    @ivar heard_at: when the newest price came.
    @ivar direction: 1, -1 or 0, as that price compares with the one before.
    @ivar history: moments and prices of the last minute.
    """

    asked: str
    outcome: Outcome | None = None
    heard_at: float = 0.0
    direction: int = 0
    history: deque[tuple[float, float]] = field(factory=deque)

    def take(self, outcome: Outcome, now: float) -> None:
        """Note what came of this round."""
        self.outcome = outcome
        if outcome.price is None:
            self.direction = 0
            return
        price = outcome.price.price
        before = self.history[-1][1] if self.history else price
        self.direction = (price > before) - (price < before)
        self.heard_at = now
        self.history.append((now, price))
        self.forget(now)

    def forget(self, now: float) -> None:
        """Let go of what is older than a minute, but for the newest, which the next is compared with."""
        while len(self.history) > 1 and self.history[0][0] < now - REMEMBERED_SECONDS:
            self.history.popleft()

    def sparkline(self, now: float, blocks: str = _BLOCKS) -> str:
        """The last minute, oldest left: each place is a part of it, with the last price known by its end.

        Before the first price and after the last it is blank.
        """
        step = REMEMBERED_SECONDS / SPARKS
        places: list[float | None] = []
        for place in range(SPARKS):
            end = now - step * (SPARKS - 1 - place)
            known = [price for at, price in self.history if at <= end]
            places.append(known[-1] if known and self.history[-1][0] > end - step else None)
        shown = [price for price in places if price is not None]
        if not shown:
            return ""
        low, high = min(shown), max(shown)
        if high == low:
            return "".join(" " if price is None else blocks[len(blocks) // 2 - 1] for price in places)
        top = len(blocks) - 1
        return "".join(" " if price is None else blocks[round((price - low) / (high - low) * top)] for price in places)


class Screen:
    """What is known, and how it is shown.

    It may be shown from another thread than the one that asks.

    @ivar trouble: why the newest round got no answer; empty if it got one.
    @ivar node: who answered last.
    @ivar simulated: whether the prices are invented.
    """

    def __init__(self, asked: Sequence[str], url: str) -> None:
        self.rows = [Row(name) for name in asked]
        self.url = url
        self.trouble = ""
        self.node = ""
        self.simulated = False
        self._asking_since: float | None = None
        self._heard_at: float | None = None
        self._lock = Lock()

    def asking(self, now: float) -> None:
        """A round begins."""
        self._asking_since = now

    def answered(self, rounds: Sequence[Round], now: float) -> None:
        """Take the answers of one round, which together are for all assets in order."""
        with self._lock:
            self.trouble = ""
            self._asking_since = None
            self._heard_at = now
            outcomes = [outcome for one in rounds for outcome in one.outcomes]
            if all(one.status == 200 for one in rounds):
                self.node = rounds[-1].node
                self.simulated = any(one.simulated for one in rounds)
            for row, outcome in zip(self.rows, outcomes, strict=True):
                row.take(outcome, now)
                self.simulated = self.simulated or (outcome.price is not None and outcome.price.simulated)

    def unanswered(self, why: str) -> None:
        """Nobody answered this round."""
        with self._lock:
            self.trouble = why
            self._asking_since = None

    def shown(self, now: float, width: int, ascii_only: bool = False) -> Group:
        """The whole screen as it is at C{now}; what a narrow one has no room for is left out rather than cut."""
        with self._lock:
            trouble = self.trouble
            if not trouble and self._asking_since is not None and now - self._asking_since > PATIENCE_SECONDS:
                trouble = f"no answer yet from {self.url}"
            return self._shown(trouble, now, width, ascii_only)

    def _shown(self, trouble: str, now: float, width: int, ascii_only: bool) -> Group:
        head = Text("tbeast ", style="bold")
        head.append(f"{printable(self.node) + ' ' if self.node else ''}at {self.url}  ", style="not bold")
        head.append(f"{_utc(now)}  ", style="not bold dim")
        if self.simulated:
            head.append_text(SIMULATED)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        columns = [column for column, least_width in _COLUMNS.items() if width >= least_width]
        for column in columns:
            table.add_column(column, justify="right" if column in _TO_THE_RIGHT else "left", no_wrap=True)
        for row in self.rows:
            row.forget(now)
            cells = _cells(row, bool(trouble), now, ascii_only)
            table.add_row(*(cells.get(column, "") for column in columns), style="dim" if trouble else "")
        if not trouble:
            return Group(head, table)
        last = "" if self._heard_at is None else f"; the last answer is {now - self._heard_at:.0f} s old"
        return Group(head, Text(f"{trouble}{last}; still asking", style="bold red"), table)

    def lines(self, now: float) -> list[str]:
        """The newest round as text: moment, asset, and either the price's columns or the refusal."""
        lines = []
        for row in self.rows:
            if row.outcome is None:
                continue
            if row.outcome.price is None:
                cells = [row.asked, "-", printable(f"{row.outcome.detail} ({row.outcome.code})")]
            else:
                asset, *rest = (cell.plain for cell in price_row(row.outcome.price))
                cells = [asset, *(cell for cell in rest if cell)]
            lines.append("  ".join([_utc(now), *cells]))
        return lines


def _cells(row: Row, troubled: bool, now: float, ascii_only: bool) -> dict[str, Text]:
    """The cells of a row that say something, by column."""
    cells = {
        "asset": Text(row.asked, style="bold"),
        "last minute": Text(row.sparkline(now, _PLAIN_BLOCKS if ascii_only else _BLOCKS), style="cyan"),
    }
    if row.outcome is None:
        return cells
    price = row.outcome.price
    if price is None:
        return cells if troubled else {**cells, "quality": judged(row.outcome.code)}
    arrow, plain_arrow, style = _ARROWS[0 if troubled else row.direction]
    return {
        **cells,
        "price": Text(f"{steady(price.price)} {printable(price.quote)}", style=style),
        "": Text(plain_arrow if ascii_only else arrow, style=style),
        "quality": Text("no answer") if troubled else judged(price.quality),
        "source": Text(printable(price.source)),
        "used": Text(sources(price.sources_used, price.sources_seen)),
        "spread": Text(basis_points(price.spread_bp)),
        "age": Text(age(price.cache_age_seconds + now - row.heard_at)),
    }


@click.command("watch")
@click.argument("assets", nargs=-1, metavar="[ASSET]...")
@click.option("--every", "every_seconds", type=click.FloatRange(0.1, 60.0), default=1.0, show_default=True,
    metavar="SECONDS", help="How often to ask.")  # fmt: skip
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after so many rounds.")
@asking_options
def command(assets: tuple[str, ...], every_seconds: float, count: int | None, **where: Unpack[Where]) -> None:
    """Watch the prices of each ASSET (without any: of a handful), until Ctrl-C.

    In a terminal a table that is refreshed, else a line for each asset and round. A daemon that goes away is waited
    for. Exit status: 0; 1 if the daemon does not accept the key; 2 for misuse; 3 if in --count rounds nobody
    answered once.
    """
    queries = queries_of(assets or HANDFUL)
    desk = HttpDesk(place_of(where))
    screen = Screen([spelled(query) for query in queries], desk.url)
    try:
        answered = _watch(screen, desk, queries, every_seconds, count)
    except KeyboardInterrupt:
        return
    finally:
        desk.close()
    if not answered:
        raise SystemExit(UNANSWERED)


def _watch(
    screen: Screen, desk: HttpDesk, queries: Sequence[PriceQuery], every_seconds: float, count: int | None
) -> bool:
    """Ask round after round; whether there was an answer once."""
    out = console()
    live = None
    if sys.stdout.isatty() and not out.is_dumb_terminal:
        # refreshed between the rounds too, since ages grow while an answer is waited for
        live = Live(
            console=out,
            get_renderable=lambda: screen.shown(time.time(), out.width, out.options.ascii_only),
            refresh_per_second=2,
            vertical_overflow="visible" if count == 1 else "ellipsis",
        )
    answered = False
    done = 0
    with live or nullcontext():
        while True:
            begun = time.monotonic()
            was_silent = bool(screen.trouble)
            screen.asking(time.time())
            try:
                rounds = [desk.prices(portion) for portion in portions(queries)]
            except NoAnswer as error:
                screen.unanswered(error.message)
                if live is None and not was_silent:
                    click.echo(f"{error.message}; still asking", err=True)
            else:
                _give_up_if_barred(rounds)
                answered = True
                screen.answered(rounds, time.time())
                if live is None:
                    if was_silent:
                        click.echo(f"{desk.url} answers again", err=True)
                    for line in screen.lines(time.time()):
                        click.echo(line)
                    sys.stdout.flush()
            if live is not None:
                live.refresh()
            done += 1
            if count is not None and done >= count:
                return answered
            sleep(max(0.0, begun + every_seconds - time.monotonic()))


def _give_up_if_barred(rounds: Sequence[Round]) -> None:
    """End when there is no hope of an answer.

    @raise Barred: then.
    """
    for one in rounds:
        if 400 <= one.status < 500 and one.status != 429:
            raise Barred("\n".join(refusals(one.outcomes)))


def _utc(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
