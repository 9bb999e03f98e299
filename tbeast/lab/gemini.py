"""Gemini as a server: C{wss://ws.gemini.com} with its C{bookTicker} and C{trade} streams, and the public REST.

Its habits: one bad stream name refuses the whole frame; no snapshot follows a subscription, so a quiet book says
nothing; data may come before the ack; times are whole nanoseconds; the exchange pings at protocol level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from attrs import frozen

from tbeast.lab.conversation import Conversation, Ping, Price, Said, json_object, json_text, texts_of
from tbeast.lab.limits import Allowance
from tbeast.lab.lines import Line
from tbeast.lab.stamps import milliseconds
from tbeast.lab.venue import Answer, Ask, Venue, habits_with

_STREAMS: Final = ("bookTicker", "trade")


@frozen
class GeminiHabits:
    """Timings, in seconds.

    @ivar ping_seconds: between two protocol pings.
    """

    ping_seconds: float = 20.0


class Gemini(Venue):
    """See the module."""

    name = "gemini"
    share = 0.01
    significant = 7
    pace_seconds = 0.02
    dials = Allowance(300, 300.0, burst=60)
    rest_allowance = Allowance(120, 60.0, burst=6)
    decoys: ClassVar[Mapping[str, tuple[str, float]]] = {
        "btcgusdperp": ("BTC", 1.0005), "btceur": ("BTC", 0.86), "ethbtc": ("ETH", 0.000012),
    }  # fmt: skip
    habits: GeminiHabits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._update = 1764559653000000

    def make_habits(self, changes: Mapping[str, float]) -> GeminiHabits:
        """See L{Venue.make_habits}."""
        return habits_with(GeminiHabits(), changes)

    def conversation(self, now: float) -> Conversation:
        """See L{Venue.conversation}."""
        return GeminiConversation(self, now)

    def next_update(self) -> int:
        """A greater number than any before, not by one."""
        self._update += 1 + int(self.random.random() * 60)
        return self._update

    def size(self, value: float) -> str:
        """See L{Venue.size}."""
        return f"{value:.10f}"

    # REST

    def too_many(self, wait_seconds: float) -> Answer:
        """See L{Venue.too_many}."""
        return Answer(429, '{"result":"error","reason":"RateLimited","message":"Requests were made too frequently"}')

    def route(self, ask: Ask, now: float) -> Answer:
        """See L{Venue.route}."""
        if ask.path == "/v1/pricefeed":
            return self._feed(now)
        parts = ask.path.strip("/").split("/")
        if len(parts) != 3 or parts[:2] not in (["v1", "pubticker"], ["v2", "ticker"]):
            return Answer(404, '{"result":"error","reason":"EndpointNotFound","message":"API entry point not found"}')
        symbol = parts[2].lower()
        line = self.lines.get(symbol) or self.extras.get(symbol)
        if line is None:
            message = f"Supplied value '{parts[2]}' is not a valid symbol.  Please correct your API request"
            return Answer(400, json_text({"result": "error", "reason": "Bad Request", "message": message}))
        self.fresh(line)
        return self._pubticker(line, now) if parts[0] == "v1" else self._ticker(line, now)

    def _pubticker(self, line: Line, now: float) -> Answer:
        last, bid, ask = self.tokens(line, now)
        base = line.symbol.removesuffix("usd").upper()
        window = milliseconds(now) // 300000 * 300000
        return Answer(
            200,
            f'{{"bid":{bid},"ask":{ask},"last":{last},"volume":{{"{base}":"{line.volume:.8f}",'
            f'"USD":"{line.quote_volume:.10f}","timestamp":{window}}}}}',
        )

    def _ticker(self, line: Line, now: float) -> Answer:
        last, bid, ask = self.tokens(line, now)
        hours = [self.number(line, line.quote.last + (line.open - line.quote.last) * hour / 24) for hour in range(24)]
        return Answer(
            200,
            f'{{"symbol":"{line.symbol.upper()}","open":"{self.number(line, line.open)}",'
            f'"high":"{self.number(line, line.high)}","low":"{self.number(line, line.low)}","close":{last},'
            f'"changes":{json_text(hours)},"bid":{bid},"ask":{ask}}}',
        )

    def _feed(self, now: float) -> Answer:
        rows = []
        for line in (*self.lines.values(), *self.extras.values()):
            last, _, _ = self.tokens(self.fresh(line), now)
            rows.append(
                f'{{"pair":"{line.symbol.upper()}","price":{last},"percentChange24h":"{line.change:.4f}"}}'
            )  # fmt: skip
        return Answer(200, f"[{','.join(rows)}]")


class GeminiConversation(Conversation):
    """One connection to the streams."""

    venue: Gemini

    def __init__(self, venue: Gemini, now: float) -> None:
        super().__init__(venue, now)
        self._streams: dict[str, set[str]] = {stream: set() for stream in _STREAMS}
        self._pinged_at = now
        self._acks: list[str] = []

    def on_text(self, text: str, now: float) -> Sequence[Said]:
        """See L{Conversation.on_text}."""
        message = json_object(text) or {}
        number, method = message.get("id"), message.get("method")
        if method == "ping":
            return [json_text({"id": number, "status": 200})]
        if method == "time":
            return [json_text({"id": number, "status": 200, "result": {"serverTime": milliseconds(now)}})]
        if method not in ("subscribe", "unsubscribe"):
            return [self._error(number, 400, -1020, "Unsupported operation")]
        if self.throttled:
            return [self._error(number, 429, -1003, "Too many requests")]
        names = texts_of(message.get("params"))
        if not names:
            return [self._error(number, 400, -1013, "Invalid stream name: ")]
        wanted: list[tuple[Line, str]] = []
        for name in names:
            symbol, _, stream = name.partition("@")
            line = self.venue.find_line(symbol)
            if line is None or stream not in _STREAMS:
                return [self._error(number, 400, -1013, f"Invalid stream name: {name}")]
            wanted.append((line, stream))
        for line, stream in wanted:
            if method == "subscribe":
                self._streams[stream].add(line.symbol)
                self.subscribe(line)
            else:
                self._streams[stream].discard(line.symbol)
        if method == "unsubscribe":
            kept = set().union(*self._streams.values())
            self.unsubscribe([symbol for symbol in self.subscribed if symbol not in kept])
        self._acks.append(json_text({"id": number, "status": 200}))
        return ()

    @staticmethod
    def _error(number: Any, status: int, code: int, text: str) -> str:
        return json_text({"id": number, "status": status, "error": {"code": code, "msg": text}})

    def on_time(self, now: float) -> Sequence[Said]:
        """See L{Conversation.on_time}."""
        said: list[Said] = self._take_acks()
        if now - self._pinged_at >= self.venue.habits.ping_seconds:
            self._pinged_at = now
            said.append(Ping())
        return said

    def _take_acks(self) -> list[Said]:
        # an ack follows the next prices, or comes soon when there are none: prices may come first, as on the real wire
        said: list[Said] = [*self._acks]
        self._acks.clear()
        return said

    def on_prices(self, lines: Sequence[Line], now: float) -> Sequence[Said]:
        """See L{Conversation.on_prices}."""
        books, trades = self._streams["bookTicker"], self._streams["trade"]
        said: list[Said] = []
        for line in lines:
            if line.symbol in books:
                said.append(Price(self._book(line, now), line.asset, line.symbol))
            if line.traded and line.symbol in trades:
                said.append(Price(self._trade(line, now), line.asset, line.symbol))
        return said + self._take_acks()

    def _book(self, line: Line, now: float) -> str:
        venue = self.venue
        last, bid, ask = venue.tokens(line, now)
        return (
            f'{{"u":{venue.next_update()},"E":{_nanoseconds(now, line)},"s":"{line.symbol}","b":{bid},'
            f'"B":"{venue.size(line.bid_size)}","a":{ask},"A":"{venue.size(line.ask_size)}","c":{last},'
            f'"C":"{venue.size(line.last_size)}"}}'
        )

    def _trade(self, line: Line, now: float) -> str:
        last, _, _ = self.venue.tokens(line, now)
        maker = "true" if line.quote.last <= line.quote.bid else "false"
        return (
            f'{{"E":{_nanoseconds(now, line)},"s":"{line.symbol}","t":{2840141000000000 + line.trades},"p":{last},'
            f'"q":"{self.venue.size(line.last_size)}","m":{maker}}}'
        )


def _nanoseconds(now: float, line: Line) -> int:
    # a double holds a time of today to a quarter of a microsecond; the rest is filled so that the digits are not round
    return int(now * 1e6) * 1000 + line.update * 37 % 1000
