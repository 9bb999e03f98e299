"""Crypto.com Exchange as a server: the v1 market WebSocket and REST.

Its habits: a Host header that names port 443 gets HTTP 400; a subscription in the first second is too early; a
channel's first data frame carries the request's id and is its ack, later ones carry -1; a heartbeat must be answered
with its own id, and the third that is not ends the connection with code 1000.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from attrs import frozen

from tbeast.lab.conversation import Close, Conversation, Ping, Price, Said, json_object, json_text, texts_of
from tbeast.lab.limits import Allowance
from tbeast.lab.lines import Line
from tbeast.lab.stamps import milliseconds
from tbeast.lab.venue import Answer, Ask, Venue, habits_with

_BAD_REQUEST: Final = 40001
_UNKNOWN_SYMBOL: Final = 40003
_INVALID_INSTRUMENT: Final = 40004
_TOO_MANY_CHANNELS: Final = 40107
_TOO_FAST: Final = 42901


@frozen
class CryptocomHabits:
    """Timings, in seconds, and a count.

    @ivar quiet_seconds: a subscription before that is too early.
    @ivar heartbeat_seconds: between two heartbeats.
    @ivar ping_seconds: between two protocol pings.
    @ivar answer_seconds: how long an answer to a heartbeat may take.
    @ivar missed_heartbeats: the so-manyth unanswered heartbeat ends the connection.
    @ivar channels: the most subscriptions on one connection.
    """

    quiet_seconds: float = 0.9
    heartbeat_seconds: float = 30.0
    ping_seconds: float = 5.0
    answer_seconds: float = 5.0
    missed_heartbeats: float = 3
    channels: float = 400


class Cryptocom(Venue):
    """See the module."""

    name = "cryptocom"
    share = 0.06
    significant = 7
    pace_seconds = 0.5
    rest_allowance = Allowance(100, 1.0)
    ws_path = "/exchange/v1/market"
    decoys: ClassVar[Mapping[str, tuple[str, float]]] = {
        "BTC_USDT": ("BTC", 1.0007), "BTCUSD-PERP": ("BTC", 1.0011), "BTCUSD-260925": ("BTC", 1.012),
    }  # fmt: skip
    habits: CryptocomHabits

    def make_habits(self, changes: Mapping[str, float]) -> CryptocomHabits:
        """See L{Venue.make_habits}."""
        return habits_with(CryptocomHabits(), changes)

    def conversation(self, now: float) -> Conversation:
        """See L{Venue.conversation}."""
        return CryptocomConversation(self, now)

    def refuses_dial(self, host: str, now: float) -> tuple[int, str] | None:
        """See L{Venue.refuses_dial}."""
        if host.endswith(":443"):
            return 400, "Bad Request"
        return super().refuses_dial(host, now)

    def ticker_row(self, line: Line, now: float, rest: bool = False) -> str:
        """A ticker object: REST leaves out the sizes of the best bid and ask."""
        last, bid, ask = self.tokens(line, now)
        bid_size = "" if rest else f'"bs":"{line.bid_size:.4f}",'
        ask_size = "" if rest else f'"ks":"{line.ask_size:.4f}",'
        return (
            f'{{"h":"{self.number(line, line.high)}","l":"{self.number(line, line.low)}","a":{last},'
            f'"c":"{line.change:.4f}","b":{bid},{bid_size}"k":{ask},{ask_size}"i":"{line.symbol}",'
            f'"v":"{line.volume:.4f}","vv":"{line.quote_volume:.2f}","oi":"0","t":{milliseconds(now)}}}'
        )

    # REST

    def too_many(self, wait_seconds: float) -> Answer:
        """See L{Venue.too_many}."""
        return Answer(429, json_text({"code": _TOO_FAST, "message": "Too many requests"}))

    def route(self, ask: Ask, now: float) -> Answer:
        """See L{Venue.route}."""
        if ask.headers.get("host", "").endswith(":443"):
            return Answer(400, "")
        if ask.path.removeprefix("/exchange/v1") != "/public/get-tickers":
            return Answer(404, json_text({"code": _BAD_REQUEST, "message": "Bad request"}))
        asked = ask.query.get("instrument_name")
        if asked is None:
            lines = [*self.lines.values(), *self.extras.values()]
        else:
            line = self.lines.get(asked) or self.extras.get(asked)
            if line is None:
                return Answer(400, json_text({"code": _INVALID_INSTRUMENT, "message": "Invalid instrument_name"}))
            lines = [line]
        rows = ",".join(self.ticker_row(self.fresh(line), now, rest=True) for line in lines)
        return Answer(200, f'{{"id":-1,"method":"public/get-tickers","code":0,"result":{{"data":[{rows}]}}}}')


class CryptocomConversation(Conversation):
    """One v1 market connection."""

    venue: Cryptocom

    def __init__(self, venue: Cryptocom, now: float) -> None:
        super().__init__(venue, now)
        self._beat_at = now
        self._pinged_at = now
        self._unanswered: list[int] = []

    def on_text(self, text: str, now: float) -> Sequence[Said]:
        """See L{Conversation.on_text}."""
        message = json_object(text)
        if message is None:
            return [json_text({"id": -1, "code": _BAD_REQUEST, "message": "Bad request"})]
        method, number = message.get("method"), message.get("id", -1)
        if method == "public/respond-heartbeat":
            if number in self._unanswered:
                self._unanswered.clear()
            return ()
        params = message.get("params")
        channels = texts_of(params.get("channels")) if isinstance(params, dict) else None
        if method not in ("subscribe", "unsubscribe") or not channels:
            return [_error(number, method, _BAD_REQUEST, "Bad request")]
        if self.throttled or (self.venue.limited and now - self.opened_at < self.venue.habits.quiet_seconds):
            return [_error(number, method, _TOO_FAST, "Too many requests")]
        if method == "unsubscribe":
            self.unsubscribe([channel.removeprefix("ticker.") for channel in channels])
            return [json_text({"id": number, "method": method, "code": 0, "channel": name}) for name in channels]
        return self._join(channels, number, now)

    def _join(self, channels: list[str], number: Any, now: float) -> Sequence[Said]:
        said: list[Said] = []
        fresh = []
        for channel in dict.fromkeys(channels):
            sort, _, symbol = channel.partition(".")
            line = self.venue.find_line(symbol) if sort == "ticker" else None
            if line is None:
                said.append(_error(number, "subscribe", _UNKNOWN_SYMBOL, "Unknown symbol", channel))
            elif symbol not in self.subscribed and len(self.subscribed) >= self.venue.habits.channels:
                said.append(_error(number, "subscribe", _TOO_MANY_CHANNELS, "Maximum subscriptions exceeded"))
            else:
                self.subscribe(line)
                fresh.append(line)
        return [*said, *(self._ticker(line, json_text(number), now) for line in fresh)]

    def on_time(self, now: float) -> Sequence[Said]:
        """See L{Conversation.on_time}."""
        habits = self.venue.habits
        said: list[Said] = []
        if now - self._pinged_at >= habits.ping_seconds:
            self._pinged_at = now
            said.append(Ping())
        if len(self._unanswered) >= habits.missed_heartbeats:
            patience = min(habits.answer_seconds, habits.heartbeat_seconds)
            return [*said, Close(1000, "")] if now - self._beat_at >= patience else said
        if now - self._beat_at >= habits.heartbeat_seconds:
            self._beat_at = now
            number = milliseconds(now)
            self._unanswered.append(number)
            said.append(f'{{"id":{number},"method":"public/heartbeat","code":0}}')
        return said

    def on_prices(self, lines: Sequence[Line], now: float) -> Sequence[Said]:
        """See L{Conversation.on_prices}."""
        return [self._ticker(line, "-1", now) for line in lines]

    def _ticker(self, line: Line, number: str, now: float) -> Price:
        text = (
            f'{{"id":{number},"method":"subscribe","code":0,"result":{{"instrument_name":"{line.symbol}",'
            f'"subscription":"ticker.{line.symbol}","channel":"ticker","data":[{self.venue.ticker_row(line, now)}]}}}}'
        )
        return Price(text, line.asset, line.symbol)


def _error(number: Any, method: Any, code: int, message: str, channel: str = "") -> str:
    named = {"channel": channel} if channel else {}
    return json_text({"id": number, "method": method, "code": code, **named, "message": message})
