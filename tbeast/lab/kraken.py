"""Kraken as a server: WebSocket v2 and the public REST.

Its habits: a status frame greets; every symbol has its own ack or refusal, and a refused one leaves the others alone;
snapshots follow the acks; prices are JSON numbers; once something is subscribed a heartbeat comes every second. v2
knows C{BTC/USD} and C{DOGE/USD} and refuses XBT and XDG, while REST answers under its canonical names, whatever
it was asked by, and fails a whole question for one unknown pair, with HTTP status 200.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from attrs import frozen

from tbeast.lab.conversation import Close, Conversation, Price, Said, json_object, json_text, texts_of
from tbeast.lab.limits import Allowance
from tbeast.lab.lines import Line
from tbeast.lab.stamps import rfc3339
from tbeast.lab.venue import Answer, Ask, Venue, habits_with

_CANONICAL: Final = {
    "BTC": ("XXBT", "XBT"), "ETH": ("XETH", "ETH"), "XRP": ("XXRP", "XRP"), "XLM": ("XXLM", "XLM"),
    "LTC": ("XLTC", "LTC"), "ZEC": ("XZEC", "ZEC"), "ETC": ("XETC", "ETC"), "DOGE": ("XXDG", "XDG"),
}  # fmt: skip
_TRIGGERS: Final = ("bbo", "trades")


@frozen
class KrakenHabits:
    """Timings, in seconds.

    @ivar heartbeat_seconds: between two heartbeats.
    @ivar idle_seconds: a connection without a subscription is closed after so long.
    """

    heartbeat_seconds: float = 1.0
    idle_seconds: float = 60.0


@frozen
class Pair:
    """The names of one pair in REST."""

    key: str
    altname: str
    wsname: str
    base: str


def pair_names(symbol: str) -> Pair:
    """The REST names of a v2 symbol, such as C{BTC/USD}."""
    base, _, quote = symbol.partition("/")
    long, short = _CANONICAL.get(base, (base, base))
    # Dogecoin's pair is the exception: its asset has the long name, its pair the short one
    if base == "DOGE" or (long == short and base != "USDT"):
        key = f"{short}{quote}"
    else:
        key = f"{long}Z{quote}"
    return Pair(key, f"{short}{quote}", f"{short}/{quote}", long)


class Kraken(Venue):
    """See the module."""

    name = "kraken"
    share = 0.05
    quoted = False
    pace_seconds = 0.02
    dials = Allowance(150, 600.0, ban_seconds=600.0)
    rest_allowance = Allowance(1, 1.0, burst=15)
    ws_path = "/v2"
    decoys: ClassVar[Mapping[str, tuple[str, float]]] = {
        "BTC/EUR": ("BTC", 0.86), "ETH/EUR": ("ETH", 0.86), "AIO/USD": ("KSM", 0.013), "AIOZ/USD": ("KSM", 0.029),
    }  # fmt: skip
    habits: KrakenHabits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pairs = {symbol: pair_names(symbol) for symbol in (*self.lines, *self.extras)}
        self._aliases: dict[str, str] = {}
        for symbol, pair in self.pairs.items():
            for alias in (pair.key, pair.altname, pair.wsname, symbol, symbol.replace("/", "")):
                self._aliases[alias] = symbol

    def make_habits(self, changes: Mapping[str, float]) -> KrakenHabits:
        """See L{Venue.make_habits}."""
        return habits_with(KrakenHabits(), changes)

    def conversation(self, now: float) -> Conversation:
        """See L{Venue.conversation}."""
        return KrakenConversation(self, now)

    @property
    def system(self) -> str:
        """The state that it announces."""
        fault = self.faults.find("status", self.name)
        return "online" if fault is None else str(fault.params["system"])

    def ticker_row(self, line: Line, now: float) -> str:
        """The one element of C{data}."""
        last, bid, ask = self.tokens(line, now)
        vwap = (line.high + line.low) / 2.0
        return (
            f'{{"symbol":"{line.symbol}","bid":{bid},"bid_qty":{line.bid_size:.8f},"ask":{ask},'
            f'"ask_qty":{line.ask_size:.8f},"last":{last},"volume":{line.volume:.8f},'
            f'"vwap":{self.number(line, vwap)},"low":{self.number(line, line.low)},'
            f'"high":{self.number(line, line.high)},"change":{self.number(line, line.quote.last - line.open)},'
            f'"change_pct":{line.change * 100:.2f},"timestamp":"{rfc3339(now, 6)}"}}'
        )

    # REST

    def too_many(self, wait_seconds: float) -> Answer:
        """See L{Venue.too_many}."""
        return Answer(200, '{"error":["EGeneral:Too many requests"]}')

    def route(self, ask: Ask, now: float) -> Answer:
        """See L{Venue.route}."""
        if ask.path not in ("/0/public/Ticker", "/0/public/AssetPairs", "/0/public/SystemStatus"):
            return Answer(404, '{"error":["EGeneral:Unknown method"]}')
        if ask.path == "/0/public/SystemStatus":
            state = {"status": self.system, "timestamp": rfc3339(now, 0).replace(".0Z", "Z")}
            return Answer(200, json_text({"error": [], "result": state}))
        asked = ask.query.get("pair")
        symbols = list(self.pairs) if asked is None else [self._aliases.get(name, "") for name in asked.split(",")]
        if "" in symbols:
            return Answer(200, '{"error":["EQuery:Unknown asset pair"]}')
        row = self._ticker if ask.path == "/0/public/Ticker" else self._pair
        rows = {symbol: f'"{self.pairs[symbol].key}":{row(self._line_of(symbol), now)}' for symbol in symbols}
        return Answer(200, f'{{"error":[],"result":{{{",".join(rows.values())}}}}}')

    def _line_of(self, symbol: str) -> Line:
        return self.fresh(self.lines.get(symbol) or self.extras[symbol])

    def _ticker(self, line: Line, now: float) -> str:
        decimals = max(5, line.decimals)

        def text(token: str) -> str:
            if token == "null" or token.startswith('"'):
                return token
            whole, point, fraction = token.partition(".")
            return f'"{whole}.{fraction:0<{decimals}}"' if point else f'"{token}"'

        last, bid, ask = (text(token) for token in self.tokens(line, now))
        low, high, opened = (text(self.number(line, value)) for value in (line.low, line.high, line.open))
        vwap = text(self.number(line, (line.high + line.low) / 2.0))
        trades = 1 + int(line.volume) % 90000
        return (
            f'{{"a":[{ask},"{int(line.ask_size) + 1}","{int(line.ask_size) + 1}.000"],'
            f'"b":[{bid},"{int(line.bid_size) + 1}","{int(line.bid_size) + 1}.000"],'
            f'"c":[{last},"{line.last_size:.8f}"],"v":["{line.volume / 3:.8f}","{line.volume:.8f}"],'
            f'"p":[{vwap},{vwap}],"t":[{trades // 3},{trades}],"l":[{low},{low}],"h":[{high},{high}],"o":{opened}}}'
        )

    def _pair(self, line: Line, now: float) -> str:
        pair = self.pairs[line.symbol]
        quote = line.symbol.partition("/")[2]
        return json_text({
            "altname": pair.altname, "wsname": pair.wsname, "aclass_base": "currency", "base": pair.base,
            "aclass_quote": "currency", "quote": f"Z{quote}", "lot": "unit",
            "cost_decimals": 5, "pair_decimals": line.decimals, "lot_decimals": 8, "lot_multiplier": 1,
            "leverage_buy": [], "leverage_sell": [], "fees": [[0, 0.4]], "fees_maker": [[0, 0.25]],
            "fee_volume_currency": "ZUSD", "margin_call": 80, "margin_stop": 40, "ordermin": "0.0001",
            "costmin": "0.5", "tick_size": f"{line.tick:.{line.decimals}f}", "status": "online",
        })  # fmt: skip


class KrakenConversation(Conversation):
    """One v2 connection."""

    venue: Kraken

    def __init__(self, venue: Kraken, now: float) -> None:
        super().__init__(venue, now)
        self._number = venue.random.getrandbits(64) | 1 << 63
        self._triggers: dict[str, str] = {}
        self._beat_at = 0.0
        self._empty_since = now

    def status(self) -> str:
        """The frame that tells the system's state."""
        return (
            f'{{"channel":"status","type":"update","data":[{{"version":"2.0.10","system":"{self.venue.system}",'
            f'"api_version":"v2","connection_id":{self._number},"upcoming_maintenance":[],"emergency":[]}}]}}'
        )

    def on_open(self, now: float) -> Sequence[Said]:
        """See L{Conversation.on_open}."""
        return [self.status()]

    def on_text(self, text: str, now: float) -> Sequence[Said]:
        """See L{Conversation.on_text}."""
        message = json_object(text)
        method = message.get("method") if message is not None else None
        if message is None or method not in ("ping", "subscribe", "unsubscribe"):
            return [json_text({"error": "Malformed request", "method": "error", "success": False, **_taken(now)})]
        numbered = {"req_id": message["req_id"]} if "req_id" in message else {}
        if method == "ping":
            return [json_text({"method": "pong", **numbered, **_taken(now)})]
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        symbols = texts_of(params.get("symbol"))
        trigger = params.get("event_trigger", "trades")
        trouble = ""
        if self.throttled:
            trouble = "Exceeded msg rate"
        elif params.get("channel") != "ticker":
            trouble = "Channel not supported"
        elif not symbols:
            trouble = "Symbol(s) not found"
        elif trigger not in _TRIGGERS:
            trouble = "Event trigger not supported"
        if trouble or symbols is None:
            return [self._refusal(method, trouble, numbered, now)]
        if method == "unsubscribe":
            return self._leave(symbols, numbered, now)
        return self._join(symbols, trigger, params.get("snapshot", True) is not False, numbered, now)

    @staticmethod
    def _refusal(method: str, trouble: str, numbered: dict[str, Any], now: float, symbol: str = "") -> str:
        named = {"symbol": symbol} if symbol else {}
        return json_text({"error": trouble, "method": method, **numbered, "success": False, **named, **_taken(now)})

    def _join(
        self, symbols: list[str], trigger: str, snapshot: bool, numbered: dict[str, Any], now: float
    ) -> Sequence[Said]:
        acks: list[Said] = []
        fresh = []
        for symbol in dict.fromkeys(symbols):
            line = self.venue.find_line(symbol)
            if line is None:
                trouble = f"Currency pair not supported {symbol}"
                acks.append(self._refusal("subscribe", trouble, numbered, now, symbol))
                continue
            result = {"channel": "ticker", "event_trigger": trigger, "snapshot": snapshot, "symbol": symbol}
            acks.append(
                json_text({"method": "subscribe", **numbered, "result": result, "success": True, **_taken(now)})
            )
            self._triggers[symbol] = trigger
            self.subscribe(line)
            fresh.append(line)
        if snapshot and self.venue.system != "maintenance":
            acks += [self._ticker("snapshot", line, now) for line in fresh]
        return acks

    def _leave(self, symbols: list[str], numbered: dict[str, Any], now: float) -> Sequence[Said]:
        acks = []
        for symbol in dict.fromkeys(symbols):
            if symbol in self.subscribed:
                result = {"channel": "ticker", "symbol": symbol}
                acks.append(
                    json_text({"method": "unsubscribe", **numbered, "result": result, "success": True, **_taken(now)})
                )
            else:
                acks.append(self._refusal("unsubscribe", "Subscription Not Found", numbered, now, symbol))
        self.unsubscribe(symbols)
        if not self.subscribed:
            self._empty_since = now
        return acks

    def on_time(self, now: float) -> Sequence[Said]:
        """See L{Conversation.on_time}."""
        habits = self.venue.habits
        if not self.subscribed:
            return [Close(1000, "idle")] if now - self._empty_since >= habits.idle_seconds else ()
        if now - self._beat_at < habits.heartbeat_seconds:
            return ()
        self._beat_at = now
        return ['{"channel":"heartbeat"}']

    def on_prices(self, lines: Sequence[Line], now: float) -> Sequence[Said]:
        """See L{Conversation.on_prices}."""
        if self.venue.system == "maintenance":
            return ()
        triggers = self._triggers
        return [
            self._ticker("update", line, now) for line in lines if line.traded or triggers[line.symbol] == "bbo"
        ]  # fmt: skip

    def _ticker(self, sort: str, line: Line, now: float) -> Price:
        row = self.venue.ticker_row(line, now)
        return Price(f'{{"channel":"ticker","type":"{sort}","data":[{row}]}}', line.asset, line.symbol)


def _taken(now: float) -> dict[str, str]:
    return {"time_in": rfc3339(now, 6), "time_out": rfc3339(now + 24e-6, 6)}
