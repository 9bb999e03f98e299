"""Coinbase as a server: the Advanced Trade WebSocket, and the REST of Exchange and of the market product book.

Its habits: a client that says nothing within five seconds is dropped; acks list all that is subscribed so far; every
frame but an error carries the connection's next sequence number, from 0 on, without a gap; a snapshot comes before the
ack; C{ticker} speaks when a trade happens; an unknown product is left out of the ack and nothing else is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from attrs import frozen

from tbeast.lab.conversation import Close, Conversation, Price, Said, json_object, json_text, texts_of
from tbeast.lab.limits import Allowance, Bucket
from tbeast.lab.lines import Line
from tbeast.lab.stamps import go_text, rfc3339
from tbeast.lab.venue import Answer, Ask, Venue, habits_with

_NUMBER: Final = '"sequence_num":#'
_MALFORMED: Final = '{"type":"error","message":"subscribe or unsubscribe required"}'
_NOT_ALLOWED: Final = '{"type":"error","message":"authentication failure"}'
_TOO_MANY: Final = '{"type":"error","message":"rate limit exceeded"}'
_CHANNELS: Final = ("heartbeats", "ticker", "ticker_batch")


@frozen
class CoinbaseHabits:
    """Timings, in seconds.

    @ivar first_word_seconds: who has said nothing by then is dropped.
    @ivar heartbeat_seconds: between two heartbeats.
    @ivar batch_seconds: between two frames of C{ticker_batch}.
    @ivar idle_seconds: a connection on which nothing was sent for so long is dropped.
    """

    first_word_seconds: float = 5.0
    heartbeat_seconds: float = 1.0
    batch_seconds: float = 5.0
    idle_seconds: float = 90.0


class Coinbase(Venue):
    """See the module."""

    name = "coinbase"
    share = 0.22
    significant = 7
    pace_seconds = 0.05
    trims = True
    dials = Allowance(8, 1.0)
    rest_allowance = Allowance(10, 1.0, burst=15)
    compresses = True
    decoys: ClassVar[Mapping[str, tuple[str, float]]] = {
        "BTC-EUR": ("BTC", 0.86), "ETH-BTC": ("ETH", 0.000012), "BTC-PERP-INTX": ("BTC", 1.0006),
    }  # fmt: skip
    habits: CoinbaseHabits

    def make_habits(self, changes: Mapping[str, float]) -> CoinbaseHabits:
        """See L{Venue.make_habits}."""
        return habits_with(CoinbaseHabits(), changes)

    def conversation(self, now: float) -> Conversation:
        """See L{Venue.conversation}."""
        return CoinbaseConversation(self, now)

    def product(self, name: str) -> Line | None:
        """The line of a product; a product in USDC is another name of the one in USD."""
        return self.find_line(name[:-1] if name.endswith("-USDC") else name)

    def ticker_row(self, line: Line, now: float, batch: bool = False) -> str:
        """One element of C{tickers}."""
        last, bid, ask = self.tokens(line, now)
        row = (
            f'{{"type":"ticker","product_id":"{line.symbol}","price":{last},"volume_24_h":"{self.size(line.volume)}",'
            f'"low_24_h":"{self.number(line, line.low)}","high_24_h":"{self.number(line, line.high)}",'
            f'"low_52_w":"{self.number(line, line.open * 0.55)}","high_52_w":"{self.number(line, line.open * 1.9)}",'
            f'"price_percent_chg_24_h":"{line.change * 100:.14f}"'
        )
        if batch:
            return row + "}"
        return (
            f'{row},"best_bid":{bid},"best_ask":{ask},"best_bid_quantity":"{self.size(line.bid_size)}",'
            f'"best_ask_quantity":"{self.size(line.ask_size)}"}}'
        )

    # REST

    def too_many(self, wait_seconds: float) -> Answer:
        """See L{Venue.too_many}."""
        return Answer(429, '{"message":"Public rate limit exceeded"}')

    def route(self, ask: Ask, now: float) -> Answer:
        """See L{Venue.route}."""
        if not ask.headers.get("user-agent"):
            return Answer(400, '{"message":"User-Agent header is required."}')
        path = ask.path.removeprefix("/api/v3/brokerage")
        if path == "/products/stats":
            return self._stats(now)
        if path == "/market/product_book":
            return self._book(ask.query.get("product_id", ""), now)
        parts = path.strip("/").split("/")
        if len(parts) == 3 and parts[0] == "products" and parts[2] == "ticker":
            return self._ticker(parts[1], now)
        return Answer(404, '{"message":"Route not found"}')

    def _ticker(self, product: str, now: float) -> Answer:
        line = self.product(product)
        if line is None:
            return Answer(404, '{"message":"NotFound"}')
        last, bid, ask = self.tokens(self.fresh(line), now)
        return Answer(
            200,
            f'{{"ask":{ask},"bid":{bid},"volume":"{self.size(line.volume)}","trade_id":{line.trades},"price":{last},'
            f'"size":"{self.size(line.last_size)}","time":"{rfc3339(now, 9)}",'
            f'"rfq_volume":"{self.size(line.volume * 0.008)}"}}',
            {"Cache-Control": "public, max-age=1, s-maxage=1"},
        )

    def _stats(self, now: float) -> Answer:
        rows = []
        for line in (*self.lines.values(), *self.extras.values()):
            last, _, _ = self.tokens(self.fresh(line), now)
            month, day = self.size(line.volume * 30), self.size(line.volume)
            rows.append(
                f'"{line.symbol}":{{"stats_30day":{{"volume":"{month}","rfq_volume":"{self.size(line.volume * 0.2)}"}},'
                f'"stats_24hour":{{"open":"{self.number(line, line.open)}","high":"{self.number(line, line.high)}",'
                f'"low":"{self.number(line, line.low)}","last":{last},"volume":"{day}",'
                f'"rfq_volume":"{self.size(line.volume * 0.008)}"}}}}'
            )
        return Answer(200, f"{{{','.join(rows)}}}", {"Cache-Control": "public, max-age=5, s-maxage=5"})

    def _book(self, product: str, now: float) -> Answer:
        line = self.product(product)
        if line is None:
            return Answer(404, '{"error":"NOT_FOUND","error_details":"valid product_id is required",'
                               '"message":"valid product_id is required"}')  # fmt: skip
        _, bid, ask = self.tokens(self.fresh(line), now)
        quote = self.quote_of(line, now)
        mid = f"{(quote.bid + quote.ask) / 2:.{line.decimals + 1}f}"
        spread = quote.ask - quote.bid
        return Answer(
            200,
            f'{{"pricebook":{{"product_id":"{line.symbol}",'
            f'"bids":[{{"price":{bid},"size":"{self.size(line.bid_size)}"}}],'
            f'"asks":[{{"price":{ask},"size":"{self.size(line.ask_size)}"}}],"time":"{rfc3339(now, 6)}"}},'
            f'"last":"{mid}","mid_market":"{mid}","spread_bps":"{spread / quote.bid * 1e4:.12f}",'
            f'"spread_absolute":"{self.number(line, spread)}"}}',
        )


class CoinbaseConversation(Conversation):
    """One Advanced Trade connection."""

    venue: Coinbase

    def __init__(self, venue: Coinbase, now: float) -> None:
        super().__init__(venue, now)
        self._next_number = 0
        self._channels: dict[str, list[str]] = {}
        self._beat_at = 0.0
        self._batch_at = 0.0
        self._messages = Bucket(Allowance(8, 1.0))
        self._machine_start = now - 41690.0

    def skip(self, numbers: int) -> None:
        """Lose so many sequence numbers."""
        self._next_number += numbers

    def stamped(self, text: str, now: float) -> str:
        """Number it, unless it is an error."""
        if _NUMBER not in text:
            return text
        text = text.replace(_NUMBER, f'"sequence_num":{self._next_number}', 1)
        self._next_number += 1
        return text

    def on_text(self, text: str, now: float) -> Sequence[Said]:
        """See L{Conversation.on_text}."""
        if self.throttled or (self.venue.limited and self._messages.wait(now)):
            return [_TOO_MANY]
        message = json_object(text)
        if message is None or message.get("type") not in ("subscribe", "unsubscribe"):
            return [_MALFORMED]
        channel = message.get("channel")
        products = texts_of(message.get("product_ids", []))
        if products is None:
            return [_MALFORMED]
        if channel not in _CHANNELS:
            return [_NOT_ALLOWED]
        if message["type"] == "unsubscribe":
            return self._leave(channel, products, now)
        return self._join(channel, products, now)

    def _join(self, channel: str, products: list[str], now: float) -> Sequence[Said]:
        if channel == "heartbeats":
            self._channels[channel] = ["heartbeats"]
            return [self._ack(now)]
        wanted = self._channels.setdefault(channel, [])
        fresh: list[Line] = []
        for name in products:
            line = self.venue.product(name)
            if line is not None and line.symbol not in wanted:
                wanted.append(line.symbol)
                self.subscribe(line)
                fresh.append(line)
        if not wanted:
            del self._channels[channel]
        return [*(self._tickers(channel, "snapshot", line, now) for line in fresh), self._ack(now)]

    def _leave(self, channel: str, products: list[str], now: float) -> Sequence[Said]:
        before = self._channels.pop(channel, [])
        left = [symbol for symbol in before if products and symbol not in products]
        if left and channel != "heartbeats":
            self._channels[channel] = left
        kept = {*self._channels.get("ticker", ()), *self._channels.get("ticker_batch", ())}
        self.unsubscribe([symbol for symbol in self.subscribed if symbol not in kept])
        return [self._ack(now)]

    def on_prices(self, lines: Sequence[Line], now: float) -> Sequence[Said]:
        """See L{Conversation.on_prices}."""
        live = self._channels.get("ticker", ())
        return [self._tickers("ticker", "update", line, now) for line in lines if line.traded and line.symbol in live]

    def on_time(self, now: float) -> Sequence[Said]:
        """See L{Conversation.on_time}."""
        habits = self.venue.habits
        if not self.has_spoken_to_us and now - self.opened_at >= habits.first_word_seconds:
            return [Close()]
        if now - max(self.spoken_at, self.opened_at) >= habits.idle_seconds:
            return [Close()]
        said: list[Said] = []
        if "heartbeats" in self._channels and now - self._beat_at >= habits.heartbeat_seconds:
            self._beat_at = now
            running = now - self._machine_start
            beat = {"current_time": go_text(now, running), "heartbeat_counter": int(running)}
            said.append(self._frame("heartbeats", now, json_text([beat])))
        batch = self._channels.get("ticker_batch")
        if batch and now - self._batch_at >= habits.batch_seconds:
            self._batch_at = now
            said += [self._tickers("ticker_batch", "update", self.venue.lines[symbol], now) for symbol in batch]
        return said

    def _frame(self, channel: str, now: float, events: str) -> str:
        return f'{{"channel":"{channel}","timestamp":"{rfc3339(now, 9)}",{_NUMBER},"events":{events}}}'

    def _tickers(self, channel: str, sort: str, line: Line, now: float) -> Price:
        row = self.venue.ticker_row(line, now, batch=channel == "ticker_batch")
        text = self._frame(channel, now, f'[{{"type":"{sort}","tickers":[{row}]}}]')
        return Price(text, line.asset, line.symbol)

    def _ack(self, now: float) -> str:
        standing: dict[str, Any] = {channel: self._channels[channel] for channel in sorted(self._channels)}
        return self._frame("subscriptions", now, json_text([{"subscriptions": standing}]))
