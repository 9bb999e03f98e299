"""tbeast price: ask a daemon for prices, over HTTP or UDP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

import click
from attrs import evolve

from tbeast.codecs.pricequeries import CURRENCIES, PriceQuery
from tbeast.commands.asking import (
    REFUSED,
    NoAnswer,
    Outcome,
    Place,
    Where,
    asking_options,
    one_line,
    place_of,
    portions,
    queries_of,
    refusals,
)
from tbeast.commands.cells import print_prices
from tbeast.commands.desks import DatagramDesk, HttpDesk
from tbeast.domain.assetmap import EXCHANGES


@click.command("price")
@click.argument("assets", nargs=-1, required=True, metavar="ASSET...")
@click.option("--exchange", type=click.Choice(EXCHANGES, case_sensitive=False), help="The price of this venue alone.")
@click.option("--quote", type=click.Choice(CURRENCIES, case_sensitive=False), help="The currency of the prices.")
@click.option("--max-age-ms", type=click.IntRange(0, 999_999_999), metavar="N", help="Refuse what is older.")
@click.option("--udp", is_flag=True, help="Ask in a datagram.")
@click.option("--signed", is_flag=True, help="Ask in a signed datagram, which does not show the key; implies --udp.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON of the answers, refusals too, one a line.")
@asking_options
def command(
    assets: tuple[str, ...],
    exchange: str | None,
    quote: str | None,
    max_age_ms: int | None,
    udp: bool,
    signed: bool,
    as_json: bool,
    **where: Unpack[Where],
) -> None:
    """Ask a running daemon for the price of each ASSET: BTC, or BTC-USDT.

    Several go in one question. Exit status: 0 if all were answered; 1 if something was refused, with the reason on
    standard error; 2 for misuse; 3 if nobody answered.
    """
    udp = udp or signed
    queries = queries_of(assets, quote)
    if udp and (exchange is not None or max_age_ms is not None):
        raise click.UsageError("--exchange and --max-age-ms can be asked for over HTTP only.")
    place = place_of(where, udp)
    queries = [evolve(query, exchange=exchange or "", max_age_ms=max_age_ms) for query in queries]
    outcomes: list[Outcome] = []
    silence: NoAnswer | None = None
    try:
        outcomes.extend(DatagramDesk(place, signed).prices(queries) if udp else _over_http(place, queries))
    except NoAnswer as error:
        # what came before it is worth as much as ever
        silence = error
    if as_json:
        for outcome in outcomes:
            click.echo(one_line(outcome.raw))
    else:
        print_prices(outcome.price for outcome in outcomes if outcome.price is not None)
    refused = refusals(outcomes)
    for line in refused:
        click.echo(line, err=True)
    if silence is not None:
        raise silence
    if refused:
        raise SystemExit(REFUSED)


def _over_http(place: Place, queries: Sequence[PriceQuery]) -> Iterator[Outcome]:
    desk = HttpDesk(place)
    try:
        # a batch knows no options
        if len(queries) == 1 or queries[0].exchange or queries[0].max_age_ms is not None:
            for query in queries:
                yield desk.price(query)
        else:
            for portion in portions(queries):
                yield from desk.prices(portion).outcomes
    finally:
        desk.close()
