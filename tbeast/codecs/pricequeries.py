"""What is asked: query strings, batch bodies and the spelling of assets.

An asset is 1 to 16 letters and digits in any case, alone (C{btc}) or with the currency wanted after C{-} or C{/}
(C{BTC-USD}, C{btc/usdt}); the currencies are USD, USDT and USDC. C{BTCUSD} is not read as a pair: it could be a code.
A currency asked for twice must be the same.

Query parameters that are not known are ignored; those that are known stand at most once, and malformed is malformed,
whether or not the answer would have needed it. Names and values are percent-decoded, C{+} is a space (and a space is in
no value that is accepted). Nothing here raises for what a client sends.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec
from attrs import frozen

from tbeast.codecs.problems import Problem
from tbeast.domain.assetmap import EXCHANGES, Asset

CURRENCIES: Final = ("USD", "USDT", "USDC")
"""What prices are given in."""

LARGEST_BATCH: Final = 30
"""How many different assets one batch may ask for."""

LONGEST_ASSET: Final = 16

_ASSET: Final = re.compile(rf"([0-9A-Za-z]{{1,{LONGEST_ASSET}}})(?:[-/]([0-9A-Za-z]{{1,{LONGEST_ASSET}}}))?")
_AGE: Final = re.compile(r"[0-9]{1,9}")
_SHOWN: Final = 40


@frozen
class PriceQuery:
    """One price asked for.

    @ivar asset: in upper case; whether there is such an asset is not said.
    @ivar currency: one of L{CURRENCIES}.
    @ivar exchange: the venue whose price alone is wanted; empty: the price of all.
    @ivar max_age_ms: no answer that is older; C{None}: no such wish.
    """

    asset: str
    currency: str = "USD"
    exchange: str = ""
    max_age_ms: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the shelf's reply, as it is, answers this."""
        return self.currency == "USD" and not self.exchange and self.max_age_ms is None


@frozen
class Options:
    """What is asked beside the asset, for one price or for a whole batch; see L{PriceQuery}.

    @ivar currency: C{None} if none was named.
    """

    currency: str | None = None
    exchange: str = ""
    max_age_ms: int | None = None


NO_OPTIONS: Final = Options()

OPTIONS: Final = ("quote", "exchange", "max_age_ms")
"""The names of the options, in query strings and in JSON."""


class JsonOptions(msgspec.Struct):
    """The options as members of a JSON object."""

    quote: str | None = None
    exchange: str | None = None
    max_age_ms: int | None = None


class _BatchBody(JsonOptions, kw_only=True):
    assets: list[str]


def asset_query(text: str) -> PriceQuery | Problem:
    """Read an asset as clients spell it."""
    match = _ASSET.fullmatch(text)
    if match is None:
        return Problem("malformed_asset", f"{_shown(text)} is no asset: letters and digits, as in BTC or BTC-USD.")
    asset, currency = match.groups()
    if currency is None:
        return PriceQuery(asset.upper())
    currency = currency.upper()
    if currency not in CURRENCIES:
        return _unsupported(currency)
    return PriceQuery(asset.upper(), currency)


def price_query(query: bytes) -> PriceQuery | Problem:
    """Read the query string of C{GET /price}."""
    given = _parameters(query, ("asset", *OPTIONS))
    if isinstance(given, Problem):
        return given
    text = given.get("asset", "")
    if not text:
        return Problem("missing_asset", "Name an asset: /price?asset=BTC.")
    if len(given) == 1:
        return asset_query(text)
    options = options_of(given)
    return options if isinstance(options, Problem) else asked_with(text, options)


def batch_query(query: bytes) -> list[PriceQuery | str] | Problem:
    """Read the query string of C{GET /prices}; see L{batch_of}."""
    given = _parameters(query, ("assets", *OPTIONS))
    if isinstance(given, Problem):
        return given
    options = options_of(given)
    if isinstance(options, Problem):
        return options
    return batch_of(given["assets"].split(",") if given.get("assets") else [], options)


def batch_body(body: bytes) -> list[PriceQuery | str] | Problem:
    """Read the body of C{POST /prices}; see L{batch_of}."""
    try:
        asked = msgspec.json.decode(body, type=_BatchBody)
    except (ValueError, RecursionError):  # what msgspec raises is a ValueError, as is bad UTF-8
        return Problem("malformed_body", 'The body must be JSON in UTF-8, like {"assets":["BTC","ETH"]}.')
    options = options_of_json(asked)
    return options if isinstance(options, Problem) else batch_of(asked.assets, options)


def batch_of(texts: Iterable[str], options: Options) -> list[PriceQuery | str] | Problem:
    """Read a batch, once for each different price asked for, in the order of asking.

    @return: a query for each; where a text is no asset, the text itself, since one bad name must not fail the others.
    """
    asked = different(texts, options)
    if not asked:
        return Problem("missing_asset", "Name at least one asset.")
    if len(asked) > LARGEST_BATCH:
        return Problem("too_many_assets", f"One question may name {LARGEST_BATCH} assets, this one has {len(asked)}.")
    return asked


def different(texts: Iterable[str], options: Options = NO_OPTIONS) -> list[PriceQuery | str]:
    """Read assets as clients spell them, each price once; a text that is no asset stands as it is."""
    asked: dict[PriceQuery | str, None] = {}
    for text in texts:
        read = asked_with(text, options)
        asked[text if isinstance(read, Problem) else read] = None
    return list(asked)


def options_of(given: Mapping[str, str]) -> Options | Problem:
    """Read options; those that are not given are not among C{given}."""
    currency, exchange, max_age_ms = None, "", None
    if "quote" in given:
        currency = given["quote"].upper()
        if currency not in CURRENCIES:
            return _unsupported(currency)
    if "exchange" in given:
        exchange = given["exchange"].lower()
        if exchange not in EXCHANGES:
            return Problem("unknown_exchange", f"{_shown(exchange)} is none of {', '.join(EXCHANGES)}.")
    if "max_age_ms" in given:
        if _AGE.fullmatch(given["max_age_ms"]) is None:
            return Problem("malformed_parameter", "max_age_ms is a whole number of milliseconds, at most nine digits.")
        max_age_ms = int(given["max_age_ms"])
    return Options(currency, exchange, max_age_ms)


def options_of_json(members: JsonOptions) -> Options | Problem:
    """Read options from JSON, where C{null} is as good as nothing."""
    given = {name: getattr(members, name) for name in OPTIONS}
    return options_of({name: str(value) for name, value in given.items() if value is not None})


def asked_with(text: str, options: Options) -> PriceQuery | Problem:
    """Read an asset, asked for with C{options}."""
    asked = asset_query(text)
    if isinstance(asked, Problem) or options == NO_OPTIONS:
        return asked
    if options.currency is not None and options.currency != asked.currency and not text.isalnum():
        return Problem("malformed_parameter", "The asset names one currency and quote another.")
    return PriceQuery(asked.asset, options.currency or asked.currency, options.exchange, options.max_age_ms)


def nearest(text: str, assets: Mapping[str, Asset], most: int = 3) -> list[str]:
    """Guess which assets were meant by an unknown code: those with a similar code or a similar name."""
    text = text.upper()[:LONGEST_ASSET]
    names = {asset.name.upper(): code for code, asset in assets.items()}
    by_name = [names[name] for name in difflib.get_close_matches(text, names, n=most, cutoff=0.7)]
    by_code = difflib.get_close_matches(text, assets, n=most, cutoff=0.6)
    return list(dict.fromkeys([*by_name, *by_code]))[:most]


def _parameters(query: bytes, known: Iterable[str]) -> dict[str, str] | Problem:
    given: dict[str, str] = {}
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        parameter = _decoded(name)
        if parameter not in known:
            continue
        if parameter in given:
            return Problem("duplicate_parameter", f"The parameter {parameter} stands more than once.")
        given[parameter] = _decoded(value)
    return given


def _decoded(text: bytes) -> str:
    # what is no UTF-8 gets characters that no value has, and fails where values are read
    return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8", "replace")


def _unsupported(currency: str) -> Problem:
    return Problem("unsupported_quote", f"{_shown(currency)} is none of {', '.join(CURRENCIES)}.")


def _shown(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:_SHOWN])
    return f"'{shown}'" if len(text) <= _SHOWN else f"'{shown}...'"
