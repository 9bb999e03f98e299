"""tbeast explain: how a price came about, source by source."""

from __future__ import annotations

from typing import Final, Unpack

import click
import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from tbeast.codecs.replies import number
from tbeast.commands.asking import (
    REFUSED,
    Outcome,
    PriceAnswer,
    Where,
    asking_options,
    one_line,
    place_of,
    printable,
    queries_of,
    refusals,
)
from tbeast.commands.cells import SIMULATED, age, console, judged, print_prices
from tbeast.commands.desks import HttpDesk

_WIDE: Final = 120
"""From this width on the reasons stand in the table, else below it."""


class Source(msgspec.Struct, frozen=True):
    """One source's part, as C{/explain} tells it."""

    exchange: str
    symbol: str
    quote: str
    verdict: str
    via: str | None = None
    home: bool = False
    raw: float | None = None
    rate: float | None = None
    value: float | None = None
    age_seconds: float | None = None
    late: bool = False
    why: str = ""
    deviation_bp: float | None = None


class Result(msgspec.Struct, frozen=True):
    """The price that came of it."""

    price: float
    quote: str
    quality: str
    source: str
    used: list[str]
    sources_seen: int
    fresh: bool
    spread_bp: float | None = None
    age_seconds: float | None = None


class Explanation(msgspec.Struct, frozen=True):
    """What C{/explain/<ASSET>} answers."""

    asset: str
    name: str
    home: str
    sources: list[Source]
    result: Result | None = None
    simulated: bool = False


@click.command("explain")
@click.argument("asset")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON of the answer, or of the refusal, on one line.")
@asking_options
def command(asset: str, as_json: bool, **where: Unpack[Where]) -> None:
    """Tell how the price of ASSET came about: what each source said, and what became of it.

    Exit status: 0 if it was answered; 1 if it was refused; 2 for misuse; 3 if nobody answered.
    """
    (query,) = queries_of([asset])
    if query.currency != "USD":
        raise click.UsageError("An explanation is in USD; name the asset alone.")
    desk = HttpDesk(place_of(where))
    try:
        body, explained = desk.explanation(query.asset, Explanation)
    finally:
        desk.close()
    if as_json:
        click.echo(one_line(body))
    elif isinstance(explained, Explanation):
        _print(explained)
    if isinstance(explained, Outcome):
        for line in refusals([explained]):
            click.echo(line, err=True)
        raise SystemExit(REFUSED)


def _print(explained: Explanation) -> None:
    out = console()
    title = Text(f"{printable(explained.asset)} ({printable(explained.name)}), home {printable(explained.home)}")
    if explained.simulated:
        title.append("  ").append_text(SIMULATED)
    out.print(title)
    out.print(sources_table(explained, out.width))
    if out.width < _WIDE:
        for source in explained.sources:
            if reasons := _reasons(source):
                out.print(Text(printable(f"{source.exchange}: {reasons}")))
    out.print()
    result = explained.result
    if result is None:
        out.print(Text(f"{printable(explained.asset)}: no source has given a price yet.", style="red"))
        return
    print_prices([_as_answer(explained, result)])
    if not result.fresh:
        out.print(Text("This is the last price known; it is not fresh, and not given out.", style="red"))


def sources_table(explained: Explanation, width: int) -> Table:
    """Show every source in a line; the reasons in a column of it if that many columns are there."""
    wide = width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0) if wide else 0)
    for name in ("exchange", "symbol", "via"):
        table.add_column(name, overflow="fold")
    for name in ("raw", "quote", "rate", "value USD", "age", "off bp"):
        table.add_column(name, justify="left" if name == "quote" else "right", overflow="fold")
    table.add_column("verdict", overflow="fold")
    if wide:
        table.add_column("why", overflow="fold")
    for source in explained.sources:
        cells = [
            Text(printable(source.exchange), style="bold" if source.home else ""),
            Text(printable(source.symbol)),
            Text(printable(source.via or "-")),
            _number(source.raw),
            Text(printable(source.quote)),
            _number(source.rate),
            _number(source.value),
            Text(age(source.age_seconds), style="yellow" if source.late else ""),
            Text("" if source.deviation_bp is None else f"{source.deviation_bp:+.1f}"),
            judged(source.verdict),
        ]
        table.add_row(*cells, *([Text(_reasons(source))] if wide else []))
    return table


def _reasons(source: Source) -> str:
    late = "late: quiet for longer than its rhythm explains" if source.late else ""
    return printable("; ".join(reason for reason in (source.why, late) if reason))


def _number(value: float | None) -> Text:
    return Text("-" if value is None else number(value))


def _as_answer(explained: Explanation, result: Result) -> PriceAnswer:
    return PriceAnswer(
        explained.asset, result.price, result.source, result.age_seconds or 0.0, result.quote, result.quality,
        len(result.used), result.sources_seen, result.spread_bp, explained.simulated,
    )  # fmt: skip
