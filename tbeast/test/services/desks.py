"""REST desks for tests: an exchange that answers when told to, one price a question or all at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tbeast.codecs.exchanges.base import (
    Event,
    ExchangeFacts,
    Fault,
    Rate,
    Refused,
    RestRequest,
    SocketCodec,
    Throttled,
)
from tbeast.domain.counters import Counters
from tbeast.domain.ticks import UNKNOWN, Tick
from tbeast.errors import FetchError
from tbeast.interfaces import TickSink
from tbeast.services.fallback import RestDesk

QUICK = Rate(10, 1.0)

Answer = tuple[int, Mapping[str, str], bytes]


class PlainRestCodec:
    """Asks C{/BTC} or, for more than C{bulk} symbols, C{/all}; the answer is a JSON object of symbol to price.

    A price of null refuses the symbol; a key C{next} names symbols to be asked one by one; HTTP 429 throttles.
    """

    def __init__(self, exchange: str, bulk: int) -> None:
        self.exchange = exchange
        self.bulk = bulk

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        if len(symbols) > self.bulk:
            return [RestRequest("/all", tuple(symbols))]
        return [RestRequest("/" + symbol, (symbol,)) for symbol in symbols]

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        if status == 429:
            after = headers.get("retry-after")
            return [Throttled(None if after is None else float(after))]
        if status != 200:
            return [Fault("http_status", str(status))]
        events: list[Event] = []
        for symbol, price in json.loads(body).items():
            if symbol == "next":
                events += [RestRequest("/" + name, (name,)) for name in price]
            elif price is None:
                events.append(Refused(symbol, "unknown"))
            else:
                events.append(Tick(self.exchange, symbol, price, price, price, UNKNOWN, UNKNOWN, now))
        return events


class PlainExchange:
    """An exchange of which only the REST half is there."""

    def __init__(self, name: str, rate: Rate = QUICK, bulk: int = 3) -> None:
        self.facts = ExchangeFacts(
            name, "ws://127.0.0.1/", f"http://{name}", "USD", 100, Rate(1, 1.0), rate, rest_headers={"x-who": "us"}
        )
        self.bulk = bulk

    def socket_codec(self, symbols: Iterable[str]) -> SocketCodec:
        raise AssertionError("no sockets here")

    def rest_codec(self) -> PlainRestCodec:
        return PlainRestCodec(self.facts.name, self.bulk)


class Counter:
    """The far side of the desks: questions wait here until a test answers them.

    @ivar asked: every address asked so far.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.waiting: list[tuple[str, Deferred[Answer]]] = []

    def fetch(self, url: str, headers: Mapping[str, str]) -> Deferred[Answer]:
        self.asked.append(url)
        self.headers.append(headers)
        waiting: Deferred[Answer] = Deferred(lambda d: self.waiting.remove((url, d)))
        self.waiting.append((url, waiting))
        return waiting

    def answer(self, part: str, body: object = None, status: int = 200, **headers: str) -> None:
        """Answer the oldest question whose address contains C{part}."""
        place = next(place for place, (url, _) in enumerate(self.waiting) if part in url)
        _, waiting = self.waiting.pop(place)
        waiting.callback(
            (status, {name.replace("_", "-"): text for name, text in headers.items()}, json.dumps(body).encode())
        )

    def fail(self, part: str, reason: str = "refused") -> None:
        place = next(place for place, (url, _) in enumerate(self.waiting) if part in url)
        self.waiting.pop(place)[1].errback(FetchError(reason))

    def pending(self) -> list[str]:
        return [url for url, _ in self.waiting]


def desk(
    exchange: PlainExchange, counter: Counter, sink: TickSink, counters: Counters, clock: Clock, start: float
) -> RestDesk:
    """A desk whose C{now} runs with C{clock} from C{start}."""
    return RestDesk(exchange, counter, sink, counters, clock, lambda: start + clock.seconds())
