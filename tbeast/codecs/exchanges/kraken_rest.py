"""Kraken, public REST: prices by names that are not those of its socket.

Rows are headed C{XXBTZUSD} where the socket says C{BTC/USD}, and the one cannot be had from the other by cutting
letters off. So the list of pairs is asked for first, and a row is taken only under a name that the list gives; while
there is no list, under one that can only mean the symbol. One unknown pair fails the whole question, which is then
split until the bad one stands alone. Faults come with HTTP status 200.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import isqrt
from typing import Final
from urllib.parse import quote

import msgspec

from tbeast.codecs.exchanges.base import EXCHANGE_ERROR, MALFORMED, Event, Fault, Refused, RestRequest
from tbeast.codecs.exchanges.parts import (
    DETAIL_LENGTH,
    Reader,
    declined,
    excerpt,
    judged,
    lone,
    parts_of,
    throttled,
    unasked,
)
from tbeast.domain.ticks import NO_PRICE, UNKNOWN

NAME: Final = "kraken"

PAIRS_PATH: Final = "/0/public/AssetPairs"
TICKER_PATH: Final = "/0/public/Ticker"

PAIRS_PER_QUESTION: Final = 100
"""Keeps the address of a question within what every proxy takes."""

SINGLY: Final = 10
"""A failed question about so many pairs or fewer is repeated pair by pair, a larger one in about as many parts as each
has pairs: one bad pair among a hundred is found in two rounds and twenty questions.
"""

_OLD_CODES: Final = {"BTC": "XBT", "DOGE": "XDG"}
_NEW_CODES: Final = {old: new for new, old in _OLD_CODES.items()}
_TOO_MANY: Final = ("rate limit", "too many requests", "temporary lockout", "throttled")
_NAME_IN_AN_ADDRESS: Final = re.compile(r"[A-Za-z0-9._-]{1,40}")


class _Answer(msgspec.Struct, gc=False):
    error: str | list[str] = ""
    result: msgspec.Raw = msgspec.Raw(b"")


class _Pair(msgspec.Struct, gc=False):
    altname: str = ""
    wsname: str = ""


class _Row(msgspec.Struct, gc=False):
    asks: list[float] = msgspec.field(default_factory=list, name="a")
    bids: list[float] = msgspec.field(default_factory=list, name="b")
    lasts: list[float] = msgspec.field(default_factory=list, name="c")
    volumes: list[float] = msgspec.field(default_factory=list, name="v")


_ANSWERS: Final = Reader(_Answer, deciding=("error",))
_PAIRS: Final = Reader(_Pair)
_ROWS: Final = Reader(_Row)


class KrakenRest:
    """Questions and answers over REST; see L{tbeast.codecs.exchanges.base.RestCodec}. Remembers the list of pairs."""

    def __init__(self) -> None:
        self._pairs: dict[str, tuple[str, str]] | None = None  # symbol to (key, altname); None: to be asked for
        self._listed_names: set[str] = set()
        self._doubtful: set[str] = set()  # refused before: asked alone, so that they fail no other

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """Ask for the list of pairs as long as it is not known, else for the tickers."""
        wanted = tuple(dict.fromkeys(symbols))
        if not wanted:
            return []
        return [RestRequest(PAIRS_PATH, wanted)] if self._pairs is None else self._questions(wanted)

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """Read a list of pairs, and ask for the tickers; or read tickers."""
        answer, _ = _ANSWERS.read(body)
        complaints = "" if answer is None else _complaints(answer)
        if status == 429 or any(phrase in complaints.lower() for phrase in _TOO_MANY):
            return throttled(headers, now)
        about_pairs = request.path.startswith(PAIRS_PATH)
        result = None if answer is None else parts_of(answer.result)
        if status == 200 and result is not None and not complaints:
            return self._learned(request, result) if about_pairs else self._priced(request.symbols, result, now)
        if complaints and status == 200:
            events: list[Event] = [Fault(EXCHANGE_ERROR, complaints[:DETAIL_LENGTH], lone(request))]
        elif status != 200:
            events = declined(request, status, complaints or excerpt(body))
        else:
            events = [Fault(MALFORMED, excerpt(body), lone(request))]
        if about_pairs:
            if status == 404:  # there is no such list here, and none to come
                self._pairs = {}
            return [*events, *self._questions(request.symbols)]
        if "asset pair" in complaints.lower():
            return self._narrowed(request.symbols, complaints[:DETAIL_LENGTH])
        return events

    def _questions(self, symbols: Sequence[str]) -> list[RestRequest]:
        """Many pairs to a question; alone those that may not exist, because one such fails the question."""
        pairs = self._pairs or {}
        together = [name for name in symbols if name in pairs or not (pairs or name in self._doubtful)]
        shared = frozenset(together)
        alone = [[name] for name in symbols if name not in shared]
        return [self._question(part) for part in (*_parts(together, PAIRS_PER_QUESTION), *alone)]

    def _question(self, symbols: Sequence[str]) -> RestRequest:
        pairs = self._pairs or {}
        names = [pairs[symbol][1] if symbol in pairs else quote(_guesses(symbol)[0], safe="") for symbol in symbols]
        return RestRequest(f"{TICKER_PATH}?pair={','.join(names)}", tuple(symbols))

    def _learned(self, request: RestRequest, result: Mapping[str, msgspec.Raw]) -> list[Event]:
        renamed: dict[str, tuple[str, str]] = {}
        plain: dict[str, tuple[str, str]] = {}
        for key, raw in result.items():
            pair, _ = _PAIRS.read(raw)
            if pair is None or not (pair.wsname and _NAME_IN_AN_ADDRESS.fullmatch(pair.altname)):
                continue  # a dark pool has no wsname
            base, slash, other = pair.wsname.partition("/")
            plain[pair.wsname] = (key, pair.altname)
            renamed[f"{_NEW_CODES.get(base, base)}{slash}{_NEW_CODES.get(other, other)}"] = (key, pair.altname)
        events: list[Event] = []
        if plain:
            self._pairs = renamed | plain
            self._listed_names = {name for names in self._pairs.values() for name in names}
        else:
            events.append(Fault(MALFORMED, "a list of pairs without pairs"))
        return [*events, *self._questions(request.symbols)]

    def _narrowed(self, symbols: Sequence[str], detail: str) -> list[Event]:
        if len(symbols) > 1:
            size = 1 if len(symbols) <= SINGLY else isqrt(len(symbols) - 1) + 1
            return [self._question(part) for part in _parts(symbols, size)]
        if self._pairs and symbols[0] in self._pairs:  # the list is older than what was just said
            self._listed_names.difference_update(self._pairs.pop(symbols[0]))
        self._doubtful.add(symbols[0])
        return [Refused(symbols[0], detail)]

    def _priced(self, symbols: Sequence[str], result: Mapping[str, msgspec.Raw], now: float) -> list[Event]:
        symbol_of = self._names(symbols)
        unanswered = dict.fromkeys(symbols)
        events: list[Event] = []
        others: list[str] = []
        for key, raw in result.items():
            symbol = symbol_of.get(key)
            if symbol is None:
                others.append(key)
            elif symbol in unanswered:
                del unanswered[symbol]
                self._doubtful.discard(symbol)
                row = _ROWS.read(raw)[0] or _Row()
                price, bid, ask = _at(row.lasts, 0), _at(row.bids, 0), _at(row.asks, 0)
                events.append(judged(NAME, symbol, price, bid, ask, _at(row.volumes, 1), UNKNOWN, now))
        if others:
            events.append(unasked(others[0]))
        return [*events, *(Fault(NO_PRICE, "no row in the answer", symbol) for symbol in unanswered)]

    def _names(self, symbols: Sequence[str]) -> dict[str, str]:
        """Which symbol a row belongs to, by the row's key. A surer name goes before a guessed one, and a name that
        another pair is listed under is nobody's guess.
        """
        pairs = self._pairs or {}
        listed = {name: symbol for symbol in symbols if symbol in pairs for name in pairs[symbol]}
        as_asked: dict[str, str] = {}
        as_headed: dict[str, str] = {}
        for symbol in symbols:
            if symbol not in pairs:
                asked, *headings = _guesses(symbol)
                as_asked[asked] = symbol
                as_headed.update(dict.fromkeys(headings, symbol))
        guessed = {name: symbol for name, symbol in (as_headed | as_asked).items() if name not in self._listed_names}
        return guessed | listed


def _guesses(symbol: str) -> tuple[str, ...]:
    """How a pair that no list names may be called: as asked for, and then as rows of old pairs are headed."""
    base, _, other = symbol.partition("/")
    base, other = _OLD_CODES.get(base, base), _OLD_CODES.get(other, other)
    return (base + other, f"X{base}Z{other}", *(("USDTZUSD",) if symbol == "USDT/USD" else ()))


def _parts(symbols: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (symbols[start : start + size] for start in range(0, len(symbols), size))


def _complaints(answer: _Answer) -> str:
    """The errors of an answer as one text; a W before the kind marks a mere warning."""
    errors = [answer.error] if isinstance(answer.error, str) else answer.error
    return "; ".join(text for text in errors if text and not text.startswith("W"))


def _at(numbers: Sequence[float], index: int) -> float:
    return numbers[index] if len(numbers) > index else UNKNOWN
