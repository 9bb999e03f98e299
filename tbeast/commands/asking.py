"""What the commands that ask a running daemon share: their options, and how they read what comes back.

That is an L{Outcome} for each price asked for, whether it was answered or refused; only silence, or an answer that no
tbeast daemon gives, is an exception, L{NoAnswer}. The exit statuses of every command that asks: 0, all answered; 1,
something refused; 2, misuse; 3, no answer.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import BadStatusLine, RemoteDisconnected
from typing import Any, Final, TypedDict, TypeVar

import click
import msgspec
from attrs import frozen

from tbeast.codecs.pricequeries import LARGEST_BATCH, PriceQuery, asset_query
from tbeast.codecs.problems import CODES, Problem
from tbeast.codecs.replies import number
from tbeast.domain.keys import LONGEST, is_allowed
from tbeast.settings import SETTINGS

REFUSED: Final = 1
UNANSWERED: Final = 3
"""Exit statuses; click's own for misuse is 2."""

_CONTROLS: Final = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")
_T = TypeVar("_T")
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Ending(click.ClickException):
    """What ends a command: an exit status, and what is said on standard error."""

    def show(self, file: Any = None) -> None:
        """Say it."""
        click.echo(self.message, file=file, err=file is None)


class NoAnswer(Ending):
    """Nobody answered, or nobody who is a tbeast daemon."""

    exit_code = UNANSWERED

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"no answer from {url}: {why}")


class Barred(Ending):
    """The key or the question is refused: unlike a limit or a failure, that does not pass."""

    exit_code = REFUSED


class Where(TypedDict):
    """The values of L{asking_options}."""

    host: str
    port: int | None
    key: str | None
    key_file: str | None
    tls: bool
    ca_file: str | None
    timeout_seconds: float


@frozen
class Place:
    """Where the daemon is, and who asks.

    @ivar tls: how to check the daemon's certificate; C{None}: plain HTTP.
    @ivar timeout_seconds: how long an HTTP answer may take.
    """

    host: str
    port: int
    key: str
    tls: ssl.SSLContext | None
    timeout_seconds: float

    def url(self, scheme: str) -> str:
        """The place as people write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"


class PriceAnswer(msgspec.Struct, frozen=True):
    """A price as the daemon tells it; see L{tbeast.codecs.replies}."""

    asset: str
    price: float
    source: str
    cache_age_seconds: float
    quote: str
    quality: str
    sources_used: int
    sources_seen: int
    spread_bp: float | None = None
    simulated: bool = False


class Refusal(msgspec.Struct):
    """What a problem, a refused entry of a batch and a refusing datagram have in common."""

    code: str = ""
    error: str = ""
    detail: str = ""
    last_price: float | None = None
    last_price_age_seconds: float | None = None


class Batch(msgspec.Struct):
    """What C{/prices} answers, and a datagram with several prices."""

    prices: list[msgspec.Raw]
    node: str = ""
    simulated: bool = False
    left_out: int = 0


@frozen
class Outcome:
    """What became of one price asked for.

    @ivar asked: the asset as it was asked for: C{BTC}, C{BTC-USDT}.
    @ivar raw: the JSON that came back.
    @ivar price: the answer; C{None} if it was refused.
    @ivar code: why it was refused, for programs; C{detail} the same for people.
    """

    asked: str
    raw: bytes
    price: PriceAnswer | None
    code: str = ""
    detail: str = ""


def asking_options(command: _Command) -> _Command:
    """Add the options that say where the daemon is and whose key is used."""
    for option in reversed(
        (
            click.option("--host", default="127.0.0.1", show_default=True, help="Where the daemon is."),
            click.option("--port", type=click.IntRange(1, 65535),
                help="Its port; else as TCP_PORT_LPO (with --udp, UDP_PORT_LPO) in the environment says, else"
                f" {SETTINGS['TCP_PORT_LPO'].default} ({SETTINGS['UDP_PORT_LPO'].default})."),
            click.option("--key", help="The API key. Other users of this machine can see it: prefer --key-file."),
            click.option("--key-file", metavar="FILE",
                help="A file with the API key, - for standard input. Without both, the daemon's demo.key in the folder"
                " that TBEAST_STATE names, or in ./var."),
            click.option("--tls", is_flag=True, help="Ask over HTTPS, and check the certificate."),
            click.option("--ca-file", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
                help="PEM file of the certificates to trust, instead of the system's; implies --tls."),
            click.option("--timeout", "timeout_seconds", type=click.FloatRange(0, min_open=True), default=10.0,
                show_default=True, metavar="SECONDS", help="How long to wait over HTTP."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def place_of(where: Where, udp: bool = False) -> Place:
    """Make out whom to ask, and with which key.

    @raise click.UsageError: when that is not clear.
    """
    secure = where["tls"] or where["ca_file"] is not None
    if udp and secure:
        raise click.UsageError("--tls is of HTTP; over UDP use --signed, which keeps the key at home.")
    port = where["port"] or _port_in_environment("UDP_PORT_LPO" if udp else "TCP_PORT_LPO")
    try:
        tls = ssl.create_default_context(cafile=where["ca_file"]) if secure else None
    except OSError as error:  # ssl.SSLError is one
        raise click.UsageError(f"--ca-file: {where['ca_file']}: {reason_of(error)}") from None
    return Place(where["host"], port, _key(where["key"], where["key_file"]), tls, where["timeout_seconds"])


def queries_of(texts: Iterable[str], currency: str | None = None) -> list[PriceQuery]:
    """Read assets as people spell them, each price once.

    @param currency: what they are to be quoted in, where they do not say it themselves.
    @raise click.UsageError: when one is no asset, or says another currency.
    """
    queries: dict[PriceQuery, None] = {}
    for text in texts:
        query = asset_query(text)
        if isinstance(query, Problem):
            raise click.UsageError(query.detail)
        if currency is not None:
            is_pair = "-" in text or "/" in text
            if is_pair and query.currency != currency:
                raise click.UsageError(f"{text} names one currency and --quote another.")
            query = PriceQuery(query.asset, currency)
        queries[query] = None
    return list(queries)


def spelled(query: PriceQuery) -> str:
    """The asset of a query as it goes over the wire: C{BTC}, C{BTC-USDT}."""
    return query.asset if query.currency == "USD" else f"{query.asset}-{query.currency}"


def portions(queries: Sequence[PriceQuery]) -> Iterator[Sequence[PriceQuery]]:
    """Cut into parts that one question may hold."""
    for start in range(0, len(queries), LARGEST_BATCH):
        yield queries[start : start + LARGEST_BATCH]


def outcome_of(asked: str, raw: bytes, url: str) -> Outcome:
    """Read one price, or its refusal.

    @raise NoAnswer: when it is neither.
    """
    refusal = read_as(raw, Refusal, url)
    code = refusal.code or refusal.error
    if not code:
        return Outcome(asked, raw, read_as(raw, PriceAnswer, url))
    detail = refusal.detail or (CODES[code][1] + "." if code in CODES else "Refused.")
    if refusal.last_price is not None and refusal.last_price_age_seconds is not None:
        detail += f" The last was {number(refusal.last_price)} USD, {refusal.last_price_age_seconds:.0f} s ago."
    return Outcome(asked, raw, None, code, detail)


def refusals(outcomes: Iterable[Outcome]) -> list[str]:
    """What was refused and why, a line for each reason."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome.price is None:
            grouped.setdefault((outcome.code, outcome.detail), []).append(outcome.asked)
    lines = []
    for (code, detail), assets in grouped.items():
        named = len(assets) == 1 and detail.startswith(assets[0])
        lines.append(printable(f"{'' if named else ', '.join(assets) + ': '}{detail} ({code})"))
    return lines


def printable(text: str) -> str:
    """Take out what a terminal could take for a command."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def one_line(raw: bytes) -> str:
    """JSON on one line, and with nothing in it that a terminal could take for a command.

    Control characters stand in no JSON string as they are; outside of strings they are space.
    """
    return raw.decode("utf-8", "replace").translate(_CONTROLS)


def read_as(raw: bytes, kind: type[_T], url: str) -> _T:
    """Read JSON of one of the daemon's shapes.

    @param url: who said it.
    @raise NoAnswer: when it is not of that shape.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, RecursionError):
        raise NoAnswer(url, "somebody answers, but not in the words of a tbeast daemon") from None


def _port_in_environment(name: str) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        default: int = SETTINGS[name].default
        return default
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 65535):
        raise click.UsageError(f"{name}={text!r} in the environment is no port that can be asked; give --port.")
    return int(text)


def _key(key: str | None, key_file: str | None) -> str:
    if key is not None and key_file is not None:
        raise click.UsageError("--key and --key-file: give one of the two.")
    if key is not None:
        text, place = key, "--key"
    else:
        state = os.environ.get("TBEAST_STATE", "").strip() or SETTINGS["TBEAST_STATE"].default
        place = key_file or os.path.join(state, "demo.key")
        try:
            with click.open_file(place, "rb") as file:
                # one byte more than the longest key with its line end, so that a longer one is seen to be none
                text = file.read(LONGEST + 3).decode("latin-1").strip()
        except OSError as error:
            if key_file:
                raise click.UsageError(f"--key-file: {place}: {reason_of(error)}") from None
            raise click.UsageError(
                f"No key: give --key-file or --key, or go where the daemon keeps its demo key ({place}:"
                f" {reason_of(error)})."
            ) from None
    if not is_allowed(text):
        raise click.UsageError(f"{place}: what is there is no key.")
    return text


def reason_of(error: Exception) -> str:
    """What went wrong with a connection or a file, in few words."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, RemoteDisconnected):
        return "hung up without an answer"
    if isinstance(error, BadStatusLine):
        return "what comes back is not HTTP"
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return printable(text[:1].lower() + text[1:])
