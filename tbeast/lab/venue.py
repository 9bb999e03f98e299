"""What the six emulated exchanges have in common: symbols with their prices, limits, and a REST half.

An exchange does no I/O. The faults that strike values act here, so that its feed and its REST tell the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from attrs import AttrsInstance, evolve, field, fields, frozen

from tbeast.lab.faults import FaultBoard
from tbeast.lab.limits import Allowance, Bucket
from tbeast.lab.lines import Line, Quote, decimals_for, half_spread_for
from tbeast.lab.market import PEGS, Market

if TYPE_CHECKING:
    from tbeast.lab.conversation import Conversation

STABLE_TURNOVER: Final = 2e8
"""A stablecoin pair's turnover of a day in USD, over all exchanges."""


@frozen
class Answer:
    """An HTTP response."""

    status: int
    body: str
    headers: Mapping[str, str] = field(factory=dict)


@frozen
class Ask:
    """An HTTP request: C{query} has the last value of each name."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


_ODD: Final = {
    "zero": "0", "negative": "-1", "null": "null", "nan": "NaN", "empty": "", "infinite": "Infinity", "text": "n/a",
}  # fmt: skip

Habits = TypeVar("Habits", bound=AttrsInstance)


class Venue:
    """An exchange: its symbols, its prices, its REST half.

    @cvar name: as the daemon names it.
    @cvar quote: what its symbols of the asset table are quoted in.
    @cvar share: of the market's turnover.
    @cvar significant: digits of its prices.
    @cvar pace_seconds: the least time between two frames about one symbol.
    @cvar quoted: whether a price is a JSON string.
    @cvar trims: whether zeros at a price's end are left out.
    @cvar dials: how often connections may be opened, C{None}: any time.
    @cvar rest_allowance: how often REST may be asked.
    @cvar ws_path: where its WebSocket is.
    @cvar compresses: whether it agrees to permessage-deflate.
    """

    name: ClassVar[str]
    quote: ClassVar[str] = "USD"
    share: ClassVar[float] = 0.1
    significant: ClassVar[int] = 6
    pace_seconds: ClassVar[float] = 0.0
    quoted: ClassVar[bool] = True
    trims: ClassVar[bool] = False
    dials: ClassVar[Allowance | None] = None
    rest_allowance: ClassVar[Allowance] = Allowance(10, 1.0)
    ws_path: ClassVar[str] = "/"
    compresses: ClassVar[bool] = False
    decoys: ClassVar[Mapping[str, tuple[str, float]]] = {}
    """Other markets that share the REST lists: symbol to asset code and the factor on its price."""

    def __init__(
        self,
        market: Market,
        listing: Mapping[str, str],
        faults: FaultBoard,
        random: Random,
        habits: Mapping[str, float] | None = None,
        limited: bool = True,
    ) -> None:
        self.market = market
        self.faults = faults
        self.random = random
        self.limited = limited
        self.habits = self.make_habits(habits or {})
        self.lines = {symbol: self._line(symbol, code) for symbol, code in listing.items()}
        self.extras = {
            symbol: self._line(symbol, code, factor)
            for symbol, (code, factor) in self.decoys.items()
            if code in market.mids and symbol not in self.lines
        }
        self.by_code = {line.asset: line for line in self.lines.values()}
        self.conversations: list[Conversation] = []
        self.counts = dict.fromkeys(
            ("connects", "refused_connects", "frames_received", "frames_sent", "prices_sent", "rest_requests"), 0
        )
        self.heard: deque[str] = deque(maxlen=20)
        self._waiting: dict[str, Line] = {}
        self._dial_bucket = Bucket(self.dials) if self.dials is not None else None
        self._rest_bucket = Bucket(self.rest_allowance)
        self._turn = 0

    # What an exchange defines for itself

    def make_habits(self, changes: Mapping[str, float]) -> Any:
        """Its timings, changed where C{changes} says so."""
        raise NotImplementedError

    def conversation(self, now: float) -> Conversation:
        """A new client's conversation."""
        raise NotImplementedError

    def route(self, ask: Ask, now: float) -> Answer:
        """Answer a REST request that nothing speaks against."""
        raise NotImplementedError

    def too_many(self, wait_seconds: float) -> Answer:
        """Answer one too many REST requests."""
        raise NotImplementedError

    # Lines

    def _line(self, symbol: str, code: str, factor: float = 1.0) -> Line:
        stable = code in PEGS
        price = (self.market.price(code) if stable else self.market.price(code, self.quote)) * factor
        turnover = STABLE_TURNOVER if stable else self.market.turnover[code]
        return Line(
            symbol=symbol,
            asset=code,
            decimals=5 if stable else decimals_for(price, self.significant),
            half_spread=1e-5 if stable else half_spread_for(self.market.rank[code]),
            volume=turnover * self.share / price,
            factor=factor,
            stable=stable,
        )

    def find_line(self, symbol: str) -> Line | None:
        """The line that a client means by C{symbol}; C{None} when the exchange does not list it, or says so."""
        line = self.lines.get(symbol)
        if line is None or self.faults.find("refuse_symbol", self.name, line.asset) is not None:
            return None
        return line

    def requote(self, line: Line, traded: bool = True) -> None:
        """Give a line a new quote from the market as it is."""
        quote = "USD" if line.stable else self.quote
        line.requote(self.market.price(line.asset, quote), self.random, traded)

    def fresh(self, line: Line) -> Line:
        """The line, with a quote made for it now if nobody is subscribed to it (else it has the newest)."""
        if not (line.update and line.wanted):
            self.requote(line)
        return line

    def moved(self, codes: Iterable[str], now: float) -> list[Line]:
        """The market moved in these assets: give new quotes to the lines that somebody wants, and name those that
        are to be sent now. A line inside its pace waits and is named later.
        """
        chance = self.random.random
        for code in codes:
            line = self.by_code.get(code)
            if line is not None and line.wanted and chance() < 0.85:
                self._waiting[line.symbol] = line
        if not self._waiting:
            return []
        ripe = [line for line in self._waiting.values() if line.ready_at <= now]
        for line in ripe:
            del self._waiting[line.symbol]
            self.requote(line, chance() < 0.75)
            line.ready_at = now + self.pace_seconds
        return ripe

    # Numbers, as the exchange writes them

    def number(self, line: Line, value: float) -> str:
        """A price of this line, bare."""
        text = line.format % value
        return text.rstrip("0").rstrip(".") if self.trims else text

    def size(self, value: float) -> str:
        """An amount in the base currency, bare."""
        text = f"{value:.8f}"
        return text.rstrip("0").rstrip(".") if self.trims else text

    def quote_of(self, line: Line, now: float) -> Quote:
        """Last, bid and ask as the exchange believes them."""
        return self.faults.distorted(self.name, line.asset, line.symbol, line.quote, now)

    def tokens(self, line: Line, now: float) -> tuple[str, str, str]:
        """Last, bid and ask as JSON, with whatever is the matter with them."""
        quote = self.quote_of(line, now)
        shape = f'"{line.format}"' if self.quoted else line.format
        if self.trims:
            tokens = [f'"{self.number(line, value)}"' for value in quote]
        else:
            tokens = [shape % value for value in quote]
        self._turn += 1
        garbage = self.faults.garbage(self.name, line.asset, self._turn)
        if garbage is not None:
            sort, where = garbage
            odd = _ODD[sort]
            token = f'"{odd}"' if (self.quoted and sort != "null") or sort in ("empty", "text") else odd
            tokens = [token if name in where else sound for name, sound in zip(quote._fields, tokens, strict=True)]
        return tokens[0], tokens[1], tokens[2]

    # Doors

    def refuses_dial(self, host: str, now: float) -> tuple[int, str] | None:
        """Why a client cannot come in now: an HTTP status and a reason; C{None} when it can."""
        if self.faults.find("throttle", self.name) is not None:
            return 429, "Too Many Requests"
        if self.limited and self._dial_bucket is not None and self._dial_bucket.wait(now):
            return 429, "Too Many Requests"
        return None

    def open(self, now: float) -> Conversation:
        """Let a client in."""
        conversation = self.conversation(now)
        self.conversations.append(conversation)
        self.counts["connects"] += 1
        return conversation

    def answer(self, ask: Ask, now: float) -> Answer:
        """Answer a REST request, within the exchange's limit."""
        self.counts["rest_requests"] += 1
        throttle = self.faults.find("throttle", self.name)
        if throttle is not None:
            seconds = throttle.params["retry_after_seconds"]
            answer = self.too_many(seconds)
            return evolve(answer, status=429, headers={**answer.headers, "Retry-After": f"{seconds:.0f}"})
        wait = self._rest_bucket.wait(now) if self.limited else 0.0
        if wait:
            return self.too_many(wait)
        return self.route(ask, now)

    @property
    def rest_left(self) -> int:
        """How many REST requests the exchange would take now."""
        return self._rest_bucket.left


def habits_with(default: Habits, changes: Mapping[str, float]) -> Habits:
    """Timings with some of them changed.

    @raise ValueError: for one that there is not, or that is not above zero.
    """
    names = [attribute.name for attribute in fields(type(default))]
    for name, value in changes.items():
        if name not in names:
            raise ValueError(f"no habit {name!r}; there are {', '.join(names)}")
        if not value > 0:
            raise ValueError(f"habit {name} must be above zero")
    return evolve(default, **changes)  # type: ignore[misc]
