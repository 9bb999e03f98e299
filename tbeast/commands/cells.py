"""How prices look in the terminal: texts, colours and columns that the commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from math import floor, log10
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tbeast.codecs.replies import number
from tbeast.commands.asking import PriceAnswer, printable
from tbeast.domain.quotes import (
    DEGRADED,
    EXPELLED,
    GOOD,
    HALTED,
    LOST,
    NO_RATE,
    SET_ASIDE,
    SILENT,
    SINGLE_SOURCE,
    STALE,
    SUSPECT,
    USED,
)

SIMULATED: Final = Text("SIMULATED", style="bold magenta")

# a halted or stale source has the same word for a verdict as a halted or stale price for its quality
_STYLES: Final[Mapping[str, str]] = {
    GOOD: "green",
    DEGRADED: "yellow",
    SINGLE_SOURCE: "yellow",
    STALE: "red",
    HALTED: "red",
    USED: "green",
    SET_ASIDE: "yellow",
    SUSPECT: "yellow",
    NO_RATE: "yellow",
    EXPELLED: "red",
    LOST: "red",
    SILENT: "dim",
}

_WIDE: Final = 240
_SHOWN_DIGITS: Final = 7


def console(cut: bool = True) -> Console:
    """Where to print. On a pipe, where the width is unknown unless COLUMNS says it, nothing is to be cut off.

    @param cut: whether to keep within the width; if not, lines that are too long are left to the terminal.
    """
    wide = not cut or (not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdigit())
    return Console(width=_WIDE if wide else None, highlight=False, markup=False, emoji=False)


def judged(word: str) -> Text:
    """A quality or a verdict in its colour."""
    return Text(printable(word), style=_STYLES.get(word, "red"))


def age(seconds: float | None) -> str:
    """An age as people say it."""
    if seconds is None:
        return ""
    if seconds < 10.0:
        return f"{seconds:.2f} s"
    return f"{seconds:.0f} s" if seconds < 180.0 else f"{seconds / 60.0:.0f} min"


def basis_points(value: float | None, signed: bool = False) -> str:
    """Basis points, to a tenth, or nothing."""
    return "" if value is None else f"{value:{'+' if signed else ''}.1f} bp"


def sources(used: int, seen: int) -> str:
    """How many sources made the price, of how many that had something fresh to say."""
    return f"{used}/{seen}"


def steady(price: float) -> str:
    """A price with as many decimals as its size calls for, so that digits stay in their places while it moves."""
    if not price > 0.0:
        return number(price)
    decimals = _SHOWN_DIGITS - 1 - floor(log10(price))
    return f"{price:.{min(max(decimals, 2), 18)}f}"


def price_row(price: PriceAnswer) -> tuple[Text, ...]:
    """One price as it is printed in a line."""
    return (
        Text(printable(price.asset), style="bold"),
        Text(f"{number(price.price)} {printable(price.quote)}"),
        judged(price.quality),
        Text(printable(price.source)),
        Text(f"{sources(price.sources_used, price.sources_seen)} sources"),
        Text(f"age {age(price.cache_age_seconds)}"),
        Text("" if price.spread_bp is None else f"spread {basis_points(price.spread_bp)}"),
        SIMULATED if price.simulated else Text(""),
    )


def print_prices(prices: Iterable[PriceAnswer]) -> None:
    """Print prices, a line each, under one another; where a line is too long, the terminal may break it."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for place in range(8):
        table.add_column(justify="right" if place in (1, 5, 6) else "left", no_wrap=True)
    for price in prices:
        table.add_row(*price_row(price))
    if table.row_count:
        console(cut=False).print(table)
