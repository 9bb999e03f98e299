"""An exchange that speaks plain JSON, for tests of whatever drives codecs.

Its messages are what a codec would say of them: C{{"tick": "A"}} or C{{"tick": ["A", 12.5]}} is a price,
C{{"ack": [...]}}, C{{"refuse": "A"}}, C{{"silent": [...]}}, C{{"fault": "malformed"}}, C{{"reconnect": "why"}},
C{{"replace": seconds}}, C{{"halt": [...]}}, C{{"resume": [...]}}, C{{"throttle": seconds}}, C{{"send": [text, after]}},
and C{{"raise": "words"}} makes the codec break its promise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tbeast.codecs.exchanges.base import (
    Acknowledged,
    Event,
    ExchangeFacts,
    Fault,
    Halted,
    Rate,
    Reconnect,
    Refused,
    Replace,
    RestCodec,
    RestRequest,
    Resumed,
    Send,
    Throttled,
    Unacknowledged,
)
from tbeast.domain.ticks import UNKNOWN, Tick


def facts(name: str = "kraken", **changes: Any) -> ExchangeFacts:
    """Make facts that do not get into the way of a test."""
    wanted: dict[str, Any] = {
        "websocket_url": f"ws://{name}.invalid/",
        "rest_url": f"http://{name}.invalid",
        "quote": "USD",
        "symbols_per_socket": 100,
        "dials": Rate(100, 1.0),
        "rest": Rate(100, 1.0),
        **changes,
    }
    return ExchangeFacts(name=name, **wanted)


class PlainCodec:
    """Reads the messages that the module speaks of.

    @ivar symbols: what this connection is to carry.
    @ivar next_due: events to give out at the next L{due}, once.
    @ivar pongs: how many pongs came.
    """

    def __init__(self, exchange: str, symbols: Iterable[str]) -> None:
        self.exchange = exchange
        self.symbols = tuple(symbols)
        self.next_due: list[Event] = []
        self.pongs = 0

    def opened(self, now: float) -> list[Event]:
        """Subscribe to everything in one frame."""
        return [Send("subscribe " + " ".join(self.symbols))]

    def received(self, frame: bytes, now: float) -> list[Event]:
        """Read one message."""
        return [self._event(word, said, now) for word, said in json.loads(frame).items()]

    def ponged(self, now: float) -> None:
        """Count one pong."""
        self.pongs += 1

    def due(self, now: float) -> list[Event]:
        """Give out what the test has laid ready."""
        events, self.next_due = self.next_due, []
        return events

    def _event(self, word: str, said: Any, now: float) -> Event:
        if word == "tick":
            symbol, price = (said, 1.0) if isinstance(said, str) else said
            return Tick(self.exchange, symbol, price, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, now)
        if word == "raise":
            raise RuntimeError(said)
        return _EVENTS[word](said)


_EVENTS: Mapping[str, Callable[[Any], Event]] = {
    "ack": lambda said: Acknowledged(tuple(said)),
    "refuse": lambda said: Refused(said, "unknown here"),
    "silent": lambda said: Unacknowledged(tuple(said)),
    "fault": Fault,
    "reconnect": Reconnect,
    "replace": lambda said: Replace("going away", said),
    "halt": lambda said: Halted("maintenance", tuple(said)),
    "resume": lambda said: Resumed(tuple(said)),
    "throttle": Throttled,
    "send": lambda said: Send(said[0], said[1]),
}


class PlainRestCodec:
    """Has no questions."""

    def requests(self, symbols: Sequence[str]) -> list[RestRequest]:
        """Nothing to ask."""
        return []

    def responded(
        self, request: RestRequest, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """Nothing to learn."""
        return []


class PlainExchange:
    """L{tbeast.codecs.exchanges.base.Exchange} with the codecs of this module.

    @ivar codecs: every socket codec that was made, in order.
    """

    def __init__(self, name: str = "kraken", **changes: Any) -> None:
        self.facts = facts(name, **changes)
        self.codecs: list[PlainCodec] = []

    def socket_codec(self, symbols: Iterable[str]) -> PlainCodec:
        """See L{tbeast.codecs.exchanges.base.Exchange.socket_codec}."""
        codec = PlainCodec(self.facts.name, symbols)
        self.codecs.append(codec)
        return codec

    def rest_codec(self) -> RestCodec:
        """See L{tbeast.codecs.exchanges.base.Exchange.rest_codec}."""
        return PlainRestCodec()
