"""What can go wrong at an exchange, told in values: the kinds, their parameters, and which hold at a moment.

The rule: a fault has a kind, an exchange (or all), an asset (or all), a beginning, and an end or none. It acts while
it holds and leaves nothing behind when it ends. A kind of C{once} acts when it begins and is over. Nothing
here touches a socket; the venues ask the board what holds, and the lab carries out what begins and ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any, Final

from attrs import field, frozen

from tbeast.lab.lines import Quote
from tbeast.lab.tables import EXCHANGES

EVERYWHERE: Final = "*"
"""Stands for all exchanges."""


LARGEST_MEGABYTES: Final = 64
"""The largest frame that can be asked for."""


class FaultError(ValueError):
    """A fault was described that there is not; says what is wrong with it."""


@frozen
class Kind:
    """One kind of fault.

    @ivar params: its parameters and what they are when not given.
    @ivar exchanges: those that it makes sense for.
    @ivar per_asset: whether it can be meant for one asset.
    @ivar once: acts when it begins, and is over.
    @ivar choices: allowed values, where a parameter has few.
    """

    does: str
    params: Mapping[str, Any] = field(factory=dict)
    exchanges: tuple[str, ...] = EXCHANGES
    per_asset: bool = False
    once: bool = False
    choices: Mapping[str, tuple[str, ...]] = field(factory=dict)


GARBAGE: Final = ("zero", "negative", "null", "nan", "empty", "infinite", "text")
"""What can stand where a price should; C{mixed} takes one after the other."""

KINDS: Final[Mapping[str, Kind]] = {
    "silence": Kind(
        "the connection stays open and no frame comes", {"keep_heartbeats": False}, per_asset=True,
    ),
    "freeze": Kind("frames go on with the values of the moment it began", per_asset=True),
    "drift": Kind(
        "values move away from the truth by so many basis points a second, and stop at the farthest",
        {"bp_per_second": 10.0, "farthest_bp": 5000.0}, per_asset=True,
    ),
    "price_scale": Kind("values are those of another coin: times this factor", {"factor": 1.5}, per_asset=True),
    "crossed": Kind("the bid stands above the ask by so many per cent", {"percent": 2.0}, per_asset=True),
    "garbage": Kind(
        "where a price should be there is something else",
        {"value": "mixed", "fields": "last,bid,ask"}, per_asset=True, choices={"value": ("mixed", *GARBAGE)},
    ),
    "duplicate": Kind("price frames come twice", per_asset=True),
    "out_of_order": Kind("a symbol's price frames come in swapped pairs, newer before older", per_asset=True),
    "malformed": Kind(
        "price frames cannot be read",
        {"how": "truncated"}, per_asset=True, choices={"how": ("truncated", "not_json", "wrong_shape", "binary")},
    ),
    "huge_frame": Kind("one frame of so many megabytes goes to every connection", {"megabytes": 8.0}, once=True),
    "slow_drip": Kind("bytes leave each connection at this rate", {"bytes_per_second": 400.0}),
    "refuse_symbol": Kind("the symbol is unknown to whoever subscribes", per_asset=True),
    "throttle": Kind(
        "too many requests: REST, new connections and subscriptions are refused", {"retry_after_seconds": 5.0}
    ),
    "disconnect": Kind(
        "all connections are dropped: aborted, or closed with this code", {"code": 0, "reason": ""}, once=True
    ),
    "refuse_connect": Kind(
        "nobody gets in", {"how": "reset"}, choices={"how": ("reset", "http503", "unlisten")}
    ),
    "rest_down": Kind("REST does not work", {"how": "http503"}, choices={"how": ("http503", "reset", "hang")}),
    "upgrade_notice": Kind(
        "notice 64008 goes to every connection, which is closed so many seconds later",
        {"close_after_seconds": 30.0}, exchanges=("okx",), once=True,
    ),
    "status": Kind(
        "the exchange announces this state, and online when it ends; in maintenance no prices come",
        {"system": "maintenance"}, exchanges=("kraken",),
        choices={"system": ("maintenance", "cancel_only", "post_only")},
    ),
    "sequence_gap": Kind(
        "so many sequence numbers are left out on every connection", {"skip": 1}, exchanges=("coinbase",), once=True
    ),
    "depeg": Kind(
        "a stablecoin is worth something else", {"coin": "USDT", "rate": 0.97, "ramp_seconds": 0.0},
        choices={"coin": ("USDT", "USDC")},
    ),
}  # fmt: skip
"""Every kind by its name."""


@frozen
class Fault:
    """A fault as it was described and when it holds.

    @ivar number: names it.
    @ivar exchange: one exchange's name, or L{EVERYWHERE}.
    @ivar asset: an asset code, or C{None} for all.
    @ivar began_at: seconds since the epoch.
    @ivar ends_at: likewise, or C{None}: until it is taken away.
    """

    number: int
    kind: str
    exchange: str
    asset: str | None
    began_at: float
    ends_at: float | None
    params: Mapping[str, Any]

    def meets(self, exchange: str) -> bool:
        """Whether it is meant for this exchange."""
        return self.exchange in (EVERYWHERE, exchange) and exchange in KINDS[self.kind].exchanges

    def described(self) -> dict[str, Any]:
        """It as JSON, in the words in which it can be asked for."""
        return {
            "id": self.number,
            "kind": self.kind,
            "exchange": self.exchange,
            "asset": self.asset,
            "began_at": round(self.began_at, 3),
            "ends_at": None if self.ends_at is None else round(self.ends_at, 3),
            **self.params,
        }


@frozen
class Description:
    """A fault that was asked for and can be had; the parameters that were not given are filled in.

    @ivar seconds: for how long, or C{None}: until it is taken away.
    """

    kind: str
    exchange: str
    asset: str | None
    seconds: float | None
    params: Mapping[str, Any]


def read_fault(body: Mapping[str, Any], known_assets: Iterable[str]) -> Description:
    """Check what is asked for.

    @raise FaultError: when there is no such fault.
    """
    given = dict(body)
    name = given.pop("kind", None)
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(name, str):
        raise FaultError(f"no kind {name!r}; there are {', '.join(KINDS)}")
    exchange = given.pop("exchange", None) or EVERYWHERE
    if exchange != EVERYWHERE and exchange not in EXCHANGES:
        raise FaultError(f"no exchange {exchange!r}; there are {', '.join(EXCHANGES)} and {EVERYWHERE}")
    if exchange != EVERYWHERE and exchange not in kind.exchanges:
        raise FaultError(f"{name} is a fault of {', '.join(kind.exchanges)}, not of {exchange}")
    asset = given.pop("asset", None)
    if asset is not None:
        if not kind.per_asset:
            raise FaultError(f"{name} cannot be meant for one asset")
        if asset not in tuple(known_assets):
            raise FaultError(f"no asset {asset!r}")
    seconds = given.pop("for_seconds", None)
    if seconds is not None and (not _is_number(seconds) or not 0 < seconds < 1e7):
        raise FaultError(f"for_seconds is no time: {seconds!r}")
    params = dict(kind.params)
    for key, value in given.items():
        if key not in params:
            raise FaultError(f"{name} has no parameter {key!r}; it has {', '.join(params) or 'none'}")
        params[key] = _checked(name, key, params[key], value, kind.choices.get(key))
    if "fields" in params and not set(params["fields"].split(",")) <= set(Quote._fields):
        raise FaultError(f"garbage: fields are some of {','.join(Quote._fields)}")
    return Description(name, exchange, asset, None if seconds is None else float(seconds), params)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checked(name: str, key: str, default: Any, value: Any, choices: tuple[str, ...] | None) -> Any:
    if choices is not None:
        if value not in choices:
            raise FaultError(f"{name}: {key} is one of {', '.join(choices)}")
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise FaultError(f"{name}: {key} is true or false")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise FaultError(f"{name}: {key} is a text")
    elif not _is_number(value) or not -1e9 < value < 1e9 or (value < 0 and key != "bp_per_second"):
        raise FaultError(f"{name}: {key} is a number")
    elif key == "code" and value and not 1000 <= value <= 4999:
        raise FaultError(f"{name}: code is 0 or a close code from 1000 to 4999")
    elif key == "rate" and not 0.01 <= value <= 100.0:
        raise FaultError(f"{name}: rate is between 0.01 and 100")
    elif key == "megabytes" and value > LARGEST_MEGABYTES:
        raise FaultError(f"{name}: no more than {LARGEST_MEGABYTES} megabytes")
    elif isinstance(default, int):
        return int(value)
    return value


class FaultBoard:
    """The faults that hold, asked by whoever speaks for an exchange. Cheap to ask while none holds."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._holding: dict[int, Fault] = {}
        self._by_kind: dict[tuple[str, str], tuple[Fault, ...]] = {}
        self._frozen: dict[int, dict[tuple[str, str], Quote]] = {}

    def add(self, asked: Description, now: float) -> Fault:
        """A fault begins. One of a kind of C{once} is numbered and given back, and does not hold."""
        ends_at = None if asked.seconds is None else now + asked.seconds
        fault = Fault(next(self._numbers), asked.kind, asked.exchange, asked.asset, now, ends_at, asked.params)
        if not KINDS[fault.kind].once:
            self._holding[fault.number] = fault
            self._frozen[fault.number] = {}
            self._index()
        return fault

    def remove(self, number: int) -> Fault | None:
        """A fault ends; C{None} when there is no such one."""
        fault = self._holding.pop(number, None)
        if fault is not None:
            del self._frozen[number]
            self._index()
        return fault

    def expired(self, now: float) -> list[Fault]:
        """End those whose time is over, and say which they were."""
        over = [fault for fault in self._holding.values() if fault.ends_at is not None and fault.ends_at <= now]
        for fault in over:
            self.remove(fault.number)
        return over

    def holding(self) -> list[Fault]:
        """All that hold, the oldest first."""
        return list(self._holding.values())

    def _index(self) -> None:
        index: dict[tuple[str, str], tuple[Fault, ...]] = {}
        for fault in self._holding.values():
            for exchange in EXCHANGES:
                if fault.meets(exchange):
                    key = (fault.kind, exchange)
                    index[key] = (*index.get(key, ()), fault)
        self._by_kind = index

    def find(self, kind: str, exchange: str, asset: str | None = None) -> Fault | None:
        """The first fault of this kind that holds for this exchange and asset.

        With C{None} for the asset only a fault that is meant for all assets is found.
        """
        if not self._by_kind:
            return None
        for fault in self._by_kind.get((kind, exchange), ()):
            if fault.asset is None or fault.asset == asset:
                return fault
        return None

    def distorted(self, exchange: str, asset: str, symbol: str, quote: Quote, now: float) -> Quote:
        """What the exchange says when it ought to say C{quote}."""
        if not self._by_kind:
            return quote
        freeze = self.find("freeze", exchange, asset)
        if freeze is not None:
            quote = self._frozen[freeze.number].setdefault((exchange, symbol), quote)
        factor = 1.0
        scale = self.find("price_scale", exchange, asset)
        if scale is not None:
            factor *= scale.params["factor"]
        drift = self.find("drift", exchange, asset)
        if drift is not None:
            farthest = drift.params["farthest_bp"]
            away = drift.params["bp_per_second"] * (now - drift.began_at)
            factor *= max(0.01, 1.0 + max(-farthest, min(farthest, away)) / 1e4)
        if factor != 1.0:
            quote = Quote(*(value * factor for value in quote))
        crossed = self.find("crossed", exchange, asset)
        if crossed is not None:
            half = crossed.params["percent"] / 200.0
            mid = (quote.bid + quote.ask) / 2.0
            quote = Quote(quote.last, mid * (1.0 + half), mid * (1.0 - half))
        return quote

    def garbage(self, exchange: str, asset: str, turn: int) -> tuple[str, tuple[str, ...]] | None:
        """What stands in a price's place, and in which fields; C{turn} moves through the mixed sort."""
        fault = self.find("garbage", exchange, asset)
        if fault is None:
            return None
        value = fault.params["value"]
        return GARBAGE[turn % len(GARBAGE)] if value == "mixed" else value, tuple(fault.params["fields"].split(","))
