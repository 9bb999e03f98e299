"""Gate.io as a server: spot v4 over WebSocket and REST.

Its habits: one unknown pair fails the whole frame with code 2 and is named; a pair speaks at most once a second, and
only when something changed; no snapshot follows a subscription; the client must send something now and then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from attrs import evolve, frozen

from tbeast.lab.conversation import Close, Conversation, Price, Said, json_object, json_text, texts_of
from tbeast.lab.limits import Allowance
from tbeast.lab.lines import Line
from tbeast.lab.stamps import milliseconds
from tbeast.lab.venue import Answer, Ask, Venue, habits_with

_BAD_JSON: Final = 1
_BAD_ARGUMENT: Final = 2
_SERVER: Final = 3


@frozen
class GateioHabits:
    """Timings, in seconds.

    @ivar empty_seconds: a connection without a subscription is dropped after so long.
    @ivar idle_seconds: one whose client sent nothing (a protocol ping counts) for so long is dropped as well.
    """

    empty_seconds: float = 30.0
    idle_seconds: float = 60.0


class Gateio(Venue):
    """See the module."""

    name = "gateio"
    quote = "USDT"
    share = 0.12
    pace_seconds = 1.0
    trims = True
    rest_allowance = Allowance(200, 10.0)
    ws_path = "/ws/v4/"
    decoys: ClassVar[Mapping[str, tuple[str, float]]] = {
        "BTC3L_USDT": ("BTC", 0.0000071), "BTC3S_USDT": ("BTC", 0.00000002), "ETH_BTC": ("ETH", 0.000012),
    }  # fmt: skip
    habits: GateioHabits

    def make_habits(self, changes: Mapping[str, float]) -> GateioHabits:
        """See L{Venue.make_habits}."""
        return habits_with(GateioHabits(), changes)

    def conversation(self, now: float) -> Conversation:
        """See L{Venue.conversation}."""
        return GateioConversation(self, now)

    def ticker_row(self, line: Line, now: float, rest: bool = False) -> str:
        """A ticker object: REST adds the sizes of the best ask and bid."""
        last, bid, ask = self.tokens(line, now)
        ask_size = f'"lowest_size":"{self.size(line.ask_size)}",' if rest else ""
        bid_size = f'"highest_size":"{self.size(line.bid_size)}",' if rest else ""
        change = f"{line.change * 100:.2f}" if rest else f"{line.change * 100:.4f}"
        return (
            f'{{"currency_pair":"{line.symbol}","last":{last},"lowest_ask":{ask},{ask_size}"highest_bid":{bid},'
            f'{bid_size}"change_percentage":"{change}","base_volume":"{self.size(line.volume)}",'
            f'"quote_volume":"{line.quote_volume:.6f}","high_24h":"{self.number(line, line.high)}",'
            f'"low_24h":"{self.number(line, line.low)}"}}'
        )

    # REST

    def too_many(self, wait_seconds: float) -> Answer:
        """See L{Venue.too_many}."""
        return Answer(429, '{"label":"TOO_MANY_REQUESTS","message":"Request Rate limit Exceeded"}')

    def route(self, ask: Ask, now: float) -> Answer:
        """See L{Venue.route}."""
        answer = self._tickers(ask, now)
        return evolve(answer, headers={
            "X-Gate-RateLimit-Limit": str(self.rest_allowance.count),
            "X-Gate-RateLimit-Requests-Remain": str(self.rest_left),
            "X-Gate-RateLimit-Reset-Timestamp": str(int(now) + 10),
        })  # fmt: skip

    def _tickers(self, ask: Ask, now: float) -> Answer:
        if ask.path != "/api/v4/spot/tickers":
            return Answer(404, '{"label":"NOT_FOUND","message":"endpoint not found"}')
        asked = ask.query.get("currency_pair")
        if asked is None:
            lines = [*self.lines.values(), *self.extras.values()]
        else:
            line = self.lines.get(asked) or self.extras.get(asked)
            if line is None:
                message = f"Invalid currency pair {asked}"
                return Answer(400, json_text({"label": "INVALID_CURRENCY_PAIR", "message": message}))
            lines = [line]
        return Answer(200, f"[{','.join(self.ticker_row(self.fresh(line), now, rest=True) for line in lines)}]")


class GateioConversation(Conversation):
    """One v4 connection."""

    venue: Gateio

    def __init__(self, venue: Gateio, now: float) -> None:
        super().__init__(venue, now)
        self._number = f"{venue.random.getrandbits(64):016x}"
        self._empty_since = now

    def on_text(self, text: str, now: float) -> Sequence[Said]:
        """See L{Conversation.on_text}."""
        message = json_object(text)
        if message is None:
            error = {"code": _BAD_JSON, "message": "request payload does not follow json schema"}
            return [self._reply(now, {}, error=error, result={"status": "fail"})]
        channel, event = message.get("channel"), message.get("event")
        if channel == "spot.ping":
            return [self._pong(now)]
        pairs = texts_of(message.get("payload"))
        trouble, code = "", _BAD_ARGUMENT
        if channel != "spot.tickers":
            trouble = f"unknown channel {channel}"
        elif event not in ("subscribe", "unsubscribe"):
            trouble = f"unknown event {event}"
        elif not isinstance(message.get("time"), int):
            trouble = "invalid argument: time"
        elif not pairs:
            trouble = "invalid argument: payload"
        elif self.throttled:
            trouble, code = "too many requests", _SERVER
        lines = []
        for pair in pairs or ():
            line = self.venue.find_line(pair)
            if line is None:
                trouble = trouble or f"unknown currency pair: {pair}"
            else:
                lines.append(line)
        if trouble:
            return [self._reply(now, message, error={"code": code, "message": trouble}, result={"status": "fail"})]
        if event == "subscribe":
            for line in lines:
                self.subscribe(line)
        else:
            self.unsubscribe([line.symbol for line in lines])
            self._empty_since = now
        return [self._reply(now, message, result={"status": "success"})]

    def _reply(self, now: float, message: Mapping[str, Any], **said: Any) -> str:
        trace = f"{self.venue.random.getrandbits(128):032x}"
        reply: dict[str, Any] = {"time": int(now), "time_ms": milliseconds(now)}
        if isinstance(message.get("id"), int):
            reply["id"] = message["id"]
        reply |= {
            "conn_id": self._number,
            "trace_id": trace,
            "channel": message.get("channel", ""),
            "event": message.get("event", ""),
        }
        if "payload" in message:
            reply["payload"] = message["payload"]
        return json_text({**reply, **said, "requestId": trace})

    def _pong(self, now: float) -> str:
        return json_text({
            "time": int(now), "time_ms": milliseconds(now), "conn_id": self._number, "channel": "spot.pong",
            "event": "", "result": None, "requestId": f"{self.venue.random.getrandbits(128):032x}",
        })  # fmt: skip

    def on_time(self, now: float) -> Sequence[Said]:
        """See L{Conversation.on_time}."""
        habits = self.venue.habits
        if not self.subscribed and now - self._empty_since >= habits.empty_seconds:
            return [Close()]
        return [Close()] if now - self.heard_at >= habits.idle_seconds else ()

    def on_prices(self, lines: Sequence[Line], now: float) -> Sequence[Said]:
        """See L{Conversation.on_prices}."""
        head = (
            f'{{"time":{int(now)},"time_ms":{milliseconds(now)},"channel":"spot.tickers","event":"update","result":'
        )  # fmt: skip
        return [Price(f"{head}{self.venue.ticker_row(line, now)}}}", line.asset, line.symbol) for line in lines]
