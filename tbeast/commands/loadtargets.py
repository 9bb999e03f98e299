"""Whom tbeast loadtest loads: addresses, of this machine unless told otherwise, and what they have prices of."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import click
from attrs import frozen

from tbeast.codecs.pricequeries import PriceQuery
from tbeast.commands.asking import Barred, Outcome, Place, place_of, portions, queries_of, reason_of, refusals
from tbeast.commands.desks import DatagramDesk, HttpDesk
from tbeast.domain.assetmap import parse
from tbeast.loadtest import machine
from tbeast.loadtest.levels import loopback_sources, sources_of
from tbeast.loadtest.orders import SetUp

PROTOCOLS: Final = ("tcp", "udp")


@frozen
class Site:
    """Where one protocol is asked.

    @ivar place: with a numeric address.
    @ivar authority: host and port as they were given.
    """

    protocol: Literal["tcp", "udp"]
    place: Place
    authority: str

    @property
    def url(self) -> str:
        """For people."""
        return f"{'http' if self.protocol == 'tcp' else 'udp'}://{self.authority}"

    def setup(self, assets: tuple[str, ...], timeout_seconds: float, highest: int) -> SetUp:
        """What generators are told of it."""
        host = self.place.host
        count = sources_of(highest)
        many = self.protocol == "tcp" and count > 1 and machine.has_many_sources(host)
        return SetUp(
            protocol=self.protocol,
            host=host,
            port=self.place.port,
            authority=self.authority,
            key=self.place.key,
            assets=assets,
            timeout_seconds=timeout_seconds,
            sources=tuple(loopback_sources(count)) if many else (),
        )


@frozen
class Survey:
    """What the daemon said before the load.

    @ivar assets: those that it has prices of.
    @ivar notes: of those that it has none of.
    """

    assets: tuple[str, ...]
    node: str
    simulated: bool
    notes: tuple[str, ...]


def sites_of(
    url: str | None, udp_at: str | None, protocols: Sequence[str], key: str | None, key_file: str | None, remote: bool
) -> list[Site]:
    """Make out whom to ask.

    @raise click.UsageError: when that is not clear, or not allowed.
    """
    hosts: dict[str, tuple[str, int | None]] = {"tcp": ("127.0.0.1", None), "udp": ("127.0.0.1", None)}
    if url is not None:
        host, port = _parted("--url", url, "http")
        hosts = {"tcp": (host, port or 80), "udp": (host, None)}
    if udp_at is not None:
        host, port = _parted("--udp", f"udp://{udp_at}", "udp")
        if port is None:
            raise click.UsageError(f"--udp: {udp_at!r} names no port.")
        hosts["udp"] = (host, port)
    sites = []
    for protocol in PROTOCOLS:
        if protocol not in protocols:
            continue
        host, port = hosts[protocol]
        where: Any = {"host": host, "port": port, "key": key, "key_file": key_file, "tls": False, "ca_file": None,
            "timeout_seconds": 10.0}  # fmt: skip
        named = place_of(where, protocol == "udp")
        key, key_file = named.key, None  # standard input can be read once
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        try:
            address = machine.address_of(host, named.port, kind)
        except (OSError, UnicodeError) as error:
            raise click.UsageError(f"{host}: {reason_of(error)}") from None
        authority = named.url("").removeprefix("://")
        if not machine.is_loopback(address):
            if not remote:
                raise click.UsageError(
                    f"{host} is not this machine. To load what is not yours is an attack; if it is yours, and nobody"
                    " else depends on it or on the way there, say --allow-remote."
                )
            click.echo(f"WARNING: this loads {authority}, another machine, as hard as it can.", err=True)
        sites.append(Site(protocol, Place(address, named.port, named.key, None, 10.0), authority))
    return sites


def _parted(option: str, text: str, scheme: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise click.UsageError(f"{option}: {text!r}: {error}.") from None
    if parts.scheme == "https":
        raise click.UsageError(f"{option}: TLS is not loaded; give an http:// URL.")
    if parts.scheme != scheme or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        form = "http://HOST:PORT" if scheme == "http" else "HOST:PORT"
        raise click.UsageError(f"{option}: {text.removeprefix('udp://')!r} is not of the form {form}.")
    return parts.hostname, port


def surveyed(sites: Sequence[Site], assets: str | None) -> Survey:
    """Ask once for everything that is to be asked for.

    @raise NoAnswer: when nobody answers.
    @raise Barred: when the key is refused, or something that was named.
    """
    queries = queries_of(assets.split(",")) if assets is not None else _bundled()
    if any(query.currency != "USD" for query in queries):
        raise click.UsageError("--assets: they are asked for in USD; name assets, not pairs.")
    node = ""
    simulated = False
    answered: list[str] = []
    refused: list[Outcome] = []
    for site in sites:
        outcomes: list[Outcome] = []
        if site.protocol == "tcp":
            desk = HttpDesk(site.place)
            try:
                for portion in portions(queries):
                    one = desk.prices(portion)
                    node, simulated = one.node or node, simulated or one.simulated
                    outcomes += one.outcomes
            finally:
                desk.close()
        else:
            outcomes += DatagramDesk(site.place, False).prices(queries)
        answered = [outcome.asked for outcome in outcomes if outcome.price is not None]
        simulated = simulated or any(outcome.price is not None and outcome.price.simulated for outcome in outcomes)
        refused = [outcome for outcome in outcomes if outcome.price is None]
        if refused and (assets is not None or not answered):
            raise Barred("\n".join(refusals(refused)[:5]))
        # of both protocols the same
        queries = queries_of(answered)
    notes = []
    left_out = len(_bundled()) - len(answered) if assets is None else 0
    if left_out:
        notes.append(f"{left_out} of the bundled table's assets have no price there now, and are not asked for.")
    return Survey(tuple(answered), node, simulated, tuple(notes))


def _bundled() -> list[PriceQuery]:
    data = files("tbeast") / "data"
    table = parse((data / "assets.csv").read_text("utf-8"), (data / "stablecoins.csv").read_text("utf-8"))
    return [PriceQuery(code, "USD") for code in table.assets]
