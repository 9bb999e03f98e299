"""What the tests of the lab share: a small market, one venue of it, and the shape of a message."""

from __future__ import annotations

import json
from importlib.resources import files
from random import Random
from typing import Any

from tbeast.lab.conversation import Conversation, Sent
from tbeast.lab.exchangelab import VENUES
from tbeast.lab.faults import FaultBoard, read_fault
from tbeast.lab.market import Market
from tbeast.lab.tables import EXCHANGES, Tables, bundled_tables
from tbeast.lab.venue import Answer, Ask, Venue

NOW = 1_790_000_000.25
TABLES = bundled_tables()
RECORDED = json.loads((files("tbeast") / "test" / "lab" / "recorded.json").read_text("utf-8"))

SYMBOLS = {
    "coinbase": ("BTC-USD", "ETH-USD"),
    "gemini": ("btcusd", "ethusd"),
    "kraken": ("BTC/USD", "ETH/USD"),
    "gateio": ("BTC_USDT", "ETH_USDT"),
    "cryptocom": ("BTC_USD", "ETH_USD"),
    "okx": ("BTC-USDT", "ETH-USDT"),
}


def make_venue(name: str, seed: int = 3, limited: bool = True, **habits: float) -> Venue:
    """A venue with a market and a fault board of its own."""
    market = Market(Random(seed), TABLES.codes)
    return VENUES[name](market, TABLES.listings[name], FaultBoard(), Random(seed + 1), habits, limited)


def small_tables() -> Tables:
    """Two assets and the stablecoins."""
    kept = {"BTC", "ETH", "USDT", "USDC"}
    return Tables(
        codes=("BTC", "ETH"),
        coins=TABLES.coins,
        listings={
            name: {symbol: code for symbol, code in TABLES.listings[name].items() if code in kept} for name in EXCHANGES
        },
    )


def subscribe_text(name: str, symbols: tuple[str, ...] | None = None) -> str:
    """What a client of this exchange sends to subscribe."""
    names = list(SYMBOLS[name] if symbols is None else symbols)
    messages: dict[str, dict[str, Any]] = {
        "coinbase": {"type": "subscribe", "product_ids": names, "channel": "ticker"},
        "gemini": {"id": "1", "method": "subscribe", "params": [f"{symbol}@bookTicker" for symbol in names]},
        "kraken": {
            "method": "subscribe",
            "params": {"channel": "ticker", "symbol": names, "event_trigger": "bbo", "snapshot": True},
            "req_id": 7,
        },
        "gateio": {"time": 1790000000, "channel": "spot.tickers", "event": "subscribe", "payload": names},
        "cryptocom": {"id": 1, "method": "subscribe", "params": {"channels": [f"ticker.{name}" for name in names]}},
        "okx": {"op": "subscribe", "args": [{"channel": "tickers", "instId": symbol} for symbol in names]},
    }
    return json.dumps(messages[name])


def read_price(name: str, text: str) -> dict[str, Any] | None:
    """Symbol, last, bid and ask as the message gives them; C{None} when it carries no price."""
    try:
        message = json.loads(text)
        row: dict[str, Any]
        if name == "coinbase":
            row = message["events"][0]["tickers"][0]
            keys = ("product_id", "price", "best_bid", "best_ask")
        elif name == "gemini":
            row, keys = message, ("s", "c", "b", "a")
        elif name == "kraken":
            row, keys = message["data"][0], ("symbol", "last", "bid", "ask")
        elif name == "gateio":
            row, keys = message["result"], ("currency_pair", "last", "highest_bid", "lowest_ask")
        elif name == "cryptocom":
            row, keys = message["result"]["data"][0], ("i", "a", "b", "k")
        else:
            row, keys = message["data"][0], ("instId", "last", "bidPx", "askPx")
        return {key: row[source] for key, source in zip(("symbol", "last", "bid", "ask"), keys, strict=True)}
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def joined(venue: Venue, now: float = NOW) -> Conversation:
    """A conversation whose subscription has been taken and whose answers have been read."""
    conversation = venue.open(now)
    conversation.opened(now)
    conversation.received(subscribe_text(venue.name), now + 1.0)
    conversation.due(now + 1.0)
    return conversation


def spoken(venue: Venue, conversation: Conversation, now: float) -> list[Sent]:
    """What is said when every subscribed line has traded."""
    lines = list(conversation.subscribed.values())
    for line in lines:
        venue.requote(line)
    return conversation.prices(lines, now)


def prices_in(name: str, sent: list[Sent]) -> list[dict[str, Any]]:
    """The prices among the frames."""
    found = [read_price(name, item) for item in sent if isinstance(item, str)]
    return [price for price in found if price is not None]


def begin(venue: Venue, kind: str, now: float = NOW, **described: Any) -> int:
    """Begin a fault; give its number."""
    body = {"kind": kind, "exchange": venue.name, **described}
    return venue.faults.add(read_fault(body, (*TABLES.codes, *TABLES.coins)), now).number


def get(venue: Venue, path: str, **query: str) -> tuple[Answer, Any]:
    """Ask REST; the answer and its body as JSON."""
    answer = venue.answer(Ask(path, query, {"user-agent": "test", "host": "127.0.0.1"}), NOW)
    return answer, json.loads(answer.body)


def shape(value: Any) -> Any:
    """Keys and kinds of a message: C{number} and C{text that is a number} are told apart, values are not."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return "text"
        return "number in text"
    if isinstance(value, bool) or value is None:
        return value if value is None else "bool"
    return "number"
