"""OKX as a server: the v5 public WebSocket and the market REST.

Its habits: every argument has its own ack, and an unknown instrument an error that names it only in its words; a
snapshot follows the ack, and then a frame at most every tenth of a second; the client keeps the connection
alive with the bare text C{ping}, answered with the bare text C{pong}. REST tells its errors with HTTP status 200.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from attrs import frozen

from tbeast.lab.conversation import Close, Conversation, Price, Said, json_object, json_text
from tbeast.lab.limits import Allowance
from tbeast.lab.lines import Line
from tbeast.lab.stamps import milliseconds
from tbeast.lab.venue import Answer, Ask, Venue, habits_with

_REFER: Final = "Please use the correct URL, channel and parameters referring to API document."
_LONGEST_REQUEST: Final = 65536


@frozen
class OkxHabits:
    """Timings, in seconds, and a count.

    @ivar idle_seconds: a connection without a subscription, or without any frame either way, ends after so long.
    @ivar requests_per_hour: how many subscribe and unsubscribe requests one connection may make.
    """

    idle_seconds: float = 30.0
    requests_per_hour: float = 480


class Okx(Venue):
    """See the module."""

    name = "okx"
    quote = "USDT"
    share = 0.16
    pace_seconds = 0.1
    trims = True
    dials = Allowance(3, 1.0)
    rest_allowance = Allowance(20, 2.0)
    ws_path = "/ws/v5/public"
    decoys: ClassVar[Mapping[str, tuple[str, float]]] = {
        "BTC-USD": ("BTC", 0.9993), "BTC-USDC": ("BTC", 0.9996), "BTC-EUR": ("BTC", 0.86),
    }  # fmt: skip
    habits: OkxHabits

    def make_habits(self, changes: Mapping[str, float]) -> OkxHabits:
        """See L{Venue.make_habits}."""
        return habits_with(OkxHabits(), changes)

    def conversation(self, now: float) -> Conversation:
        """See L{Venue.conversation}."""
        return OkxConversation(self, now)

    def ticker_row(self, line: Line, now: float) -> str:
        """A ticker object, the same on both halves."""
        last, bid, ask = self.tokens(line, now)
        opened = self.number(line, line.open)
        return (
            f'{{"instType":"SPOT","instId":"{line.symbol}","last":{last},"lastSz":"{self.size(line.last_size)}",'
            f'"askPx":{ask},"askSz":"{self.size(line.ask_size)}","bidPx":{bid},"bidSz":"{self.size(line.bid_size)}",'
            f'"open24h":"{opened}","high24h":"{self.number(line, line.high)}",'
            f'"low24h":"{self.number(line, line.low)}","sodUtc0":"{opened}","sodUtc8":"{opened}",'
            f'"volCcy24h":"{self.size(line.quote_volume)}","vol24h":"{self.size(line.volume)}",'
            f'"ts":"{milliseconds(now)}"}}'
        )

    # REST

    def too_many(self, wait_seconds: float) -> Answer:
        """See L{Venue.too_many}."""
        return _answer("50011", "Too Many Requests")

    def route(self, ask: Ask, now: float) -> Answer:
        """See L{Venue.route}."""
        if ask.path == "/api/v5/market/tickers":
            sort = ask.query.get("instType", "")
            if sort not in ("SPOT", "SWAP", "FUTURES", "OPTION"):
                return _answer("51000", "Parameter instType error")
            lines = [*self.lines.values(), *self.extras.values()] if sort == "SPOT" else []
            return _answer("0", "", ",".join(self.ticker_row(self.fresh(line), now) for line in lines))
        if ask.path == "/api/v5/market/ticker":
            asked = ask.query.get("instId", "")
            line = self.lines.get(asked) or self.extras.get(asked)
            if line is None:
                return _answer("51001", "Instrument ID doesn't exist.")
            return _answer("0", "", self.ticker_row(self.fresh(line), now))
        return Answer(404, '{"code":"404","msg":"Not Found","data":[]}')


def _answer(code: str, message: str, rows: str = "") -> Answer:
    return Answer(200, f'{{"code":"{code}","msg":"{message}","data":[{rows}]}}')


class OkxConversation(Conversation):
    """One v5 public connection."""

    venue: Okx

    def __init__(self, venue: Okx, now: float) -> None:
        super().__init__(venue, now)
        self._number = f"{venue.random.getrandbits(32):08x}"
        self._empty_since = now
        self._requests = 0
        self._ends_at: float | None = None

    def give_notice(self, now: float, close_after_seconds: float) -> str:
        """Announce the end, and hold to it."""
        self._ends_at = now + close_after_seconds
        return json_text({
            "event": "notice",
            "msg": "The connection will soon be closed for a service upgrade. Please reconnect.",
            "code": "64008",
            "connId": self._number,
        })  # fmt: skip

    def on_text(self, text: str, now: float) -> Sequence[Said]:
        """See L{Conversation.on_text}."""
        if text == "ping":
            return ["pong"]
        message = json_object(text)
        operation = message.get("op") if message is not None else None
        arguments = message.get("args") if message is not None else None
        if (
            message is None
            or operation not in ("subscribe", "unsubscribe")
            or not isinstance(arguments, list)
            or len(text) > _LONGEST_REQUEST
        ):
            return [self._error({}, "60012", f"Invalid request: {text[:200]}")]
        named = {"id": message["id"]} if isinstance(message.get("id"), str) else {}
        self._requests += 1
        if self.throttled or (self.venue.limited and self._requests > self.venue.habits.requests_per_hour):
            return [self._error(named, "60014", "Requests too frequent.")]
        said: list[Said] = []
        fresh: list[Line] = []
        for argument in arguments:
            channel, symbol = self._read(argument)
            line = self.venue.find_line(symbol) if channel == "tickers" else None
            if channel != "tickers":
                trouble = f"Subscribe failed, wrong URL or channel:{channel},instId:{symbol} doesn't exist. {_REFER}"
                said.append(self._error(named, "60018", trouble))
            elif line is None:
                trouble = f"Wrong URL or channel:{channel}, instId:{symbol} doesn't exist. {_REFER}"
                said.append(self._error(named, "60018", trouble))
            else:
                ack = {"event": operation, "arg": {"channel": channel, "instId": symbol}, "connId": self._number}
                said.append(json_text({**named, **ack}))
                if operation == "unsubscribe":
                    self.unsubscribe([symbol])
                    self._empty_since = now
                else:
                    self.subscribe(line)
                    fresh.append(line)
        return [*said, *(self._ticker(line, now) for line in fresh)]

    @staticmethod
    def _read(argument: Any) -> tuple[str, str]:
        if not isinstance(argument, dict):
            return "", ""
        return str(argument.get("channel", "")), str(argument.get("instId", ""))

    def _error(self, named: dict[str, Any], code: str, message: str) -> str:
        return json_text({**named, "event": "error", "msg": message, "code": code, "connId": self._number})

    def on_time(self, now: float) -> Sequence[Said]:
        """See L{Conversation.on_time}."""
        idle = self.venue.habits.idle_seconds
        if self._ends_at is not None and now >= self._ends_at:
            return [Close(1001, "service upgrade")]
        since = max(self.heard_at, self.spoken_at) if self.subscribed else self._empty_since
        return [Close(4004, "No data received in 30s.")] if now - since >= idle else ()

    def on_prices(self, lines: Sequence[Line], now: float) -> Sequence[Said]:
        """See L{Conversation.on_prices}."""
        return [self._ticker(line, now) for line in lines]

    def _ticker(self, line: Line, now: float) -> Price:
        row = self.venue.ticker_row(line, now)
        text = f'{{"arg":{{"channel":"tickers","instId":"{line.symbol}"}},"data":[{row}]}}'
        return Price(text, line.asset, line.symbol)
