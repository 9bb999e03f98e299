"""One client's conversation with an emulated exchange, without a socket.

Text, pings and the passing of time go in; what the exchange says comes out, as text frames, protocol pings and closes.
The faults that strike frames act here, between what the exchange would say and what it says, so that they are the
same with and without a socket.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from tbeast.lab.lines import Line

if TYPE_CHECKING:
    from tbeast.lab.venue import Venue


@frozen
class Price:
    """A text frame that carries the price of one symbol."""

    text: str
    asset: str
    symbol: str


@frozen
class Ping:
    """A protocol-level ping."""


@frozen
class Close:
    """The exchange ends the connection: with a close frame, or (C{code} 0) by dropping it."""

    code: int = 0
    reason: str = ""


Said = str | Price | Ping | Close
"""What a conversation wants to say."""

Sent = str | bytes | Ping | Close
"""What goes to the socket: a text frame, a binary frame, a ping, the end."""


def json_text(value: Any) -> str:
    """C{value} as JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


def json_object(text: str) -> dict[str, Any] | None:
    """The object that C{text} holds; C{None} when it holds none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def texts_of(value: Any) -> list[str] | None:
    """C{value} when it is a list of texts, else C{None}."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    return None


class Conversation:
    """One connection, seen from the exchange. Subclasses say what they say; this class lets the faults act on it.

    @ivar opened_at: when the client came in.
    @ivar heard_at: when the client last sent anything, protocol pings included.
    @ivar spoken_at: when the exchange last sent a frame.
    @ivar subscribed: the lines it was promised, by symbol.
    """

    def __init__(self, venue: Venue, now: float) -> None:
        self.venue = venue
        self.opened_at = now
        self.heard_at = now
        self.spoken_at = now
        self.has_spoken_to_us = False
        self.subscribed: dict[str, Line] = {}
        self._held: dict[str, str] = {}
        self._over = False

    # What an exchange defines for itself

    def on_open(self, now: float) -> Sequence[Said]:
        """What is said first."""
        return ()

    def on_text(self, text: str, now: float) -> Sequence[Said]:
        """What is answered to a text frame."""
        raise NotImplementedError

    def on_time(self, now: float) -> Sequence[Said]:
        """What is said because time has passed."""
        return ()

    def on_prices(self, lines: Sequence[Line], now: float) -> Sequence[Said]:
        """The frames about these lines, all of them subscribed."""
        raise NotImplementedError

    def stamped(self, text: str, now: float) -> str:
        """The last touch to a frame that is certain to be sent."""
        return text

    # What the connection calls

    def opened(self, now: float) -> list[Sent]:
        """The handshake is done."""
        return self._sent(self.on_open(now), now)

    def received(self, text: str, now: float) -> list[Sent]:
        """A text frame came in."""
        self.heard_at = now
        self.has_spoken_to_us = True
        self.venue.counts["frames_received"] += 1
        self.venue.heard.append(text[:500])
        return self._sent(self.on_text(text, now), now)

    def pinged(self, now: float) -> None:
        """A protocol ping or pong came in."""
        self.heard_at = now

    def due(self, now: float) -> list[Sent]:
        """Time has passed."""
        return self._sent(self.on_time(now), now)

    def prices(self, lines: Sequence[Line], now: float) -> list[Sent]:
        """These lines have new quotes."""
        mine = [line for line in lines if line.symbol in self.subscribed]
        return self._sent(self.on_prices(mine, now), now) if mine else []

    def announce(self, texts: Sequence[str], now: float) -> list[Sent]:
        """Say something that nobody asked for."""
        return self._sent(texts, now)

    def ended(self) -> None:
        """The connection is gone."""
        if not self._over:
            self._over = True
            self.unsubscribe(list(self.subscribed))
            self.venue.conversations.remove(self)

    # For subclasses

    def subscribe(self, line: Line) -> bool:
        """Promise a line; whether it is a new one."""
        if line.symbol in self.subscribed:
            return False
        self.venue.fresh(line)
        self.subscribed[line.symbol] = line
        line.wanted += 1
        return True

    def unsubscribe(self, symbols: Iterable[str]) -> None:
        """Take promises back."""
        for symbol in symbols:
            line = self.subscribed.pop(symbol, None)
            if line is not None:
                line.wanted -= 1

    @property
    def throttled(self) -> bool:
        """Whether the exchange refuses subscriptions just now."""
        return self.venue.faults.find("throttle", self.venue.name) is not None

    # Between what it wants to say and what it says

    def _sent(self, said: Sequence[Said], now: float) -> list[Sent]:
        if not said:
            return []
        faults, name = self.venue.faults, self.venue.name
        silence = faults.find("silence", name)
        mute = silence is not None and not silence.params["keep_heartbeats"]
        sent: list[Sent] = []
        for item in said:
            if isinstance(item, Ping | Close):
                sent.append(item)
            elif isinstance(item, str):
                if not mute:
                    sent.append(self.stamped(item, now))
            elif faults.find("silence", name, item.asset) is None:
                sent.extend(self._priced(item, now))
        frames = sum(isinstance(item, str | bytes) for item in sent)
        if frames:
            self.spoken_at = now
            self.venue.counts["frames_sent"] += frames
        return sent

    def _priced(self, price: Price, now: float) -> list[Sent]:
        faults, name = self.venue.faults, self.venue.name
        text = self.stamped(price.text, now)
        self.venue.counts["prices_sent"] += 1
        malformed = faults.find("malformed", name, price.asset)
        if malformed is not None:
            return [_MALFORMED[malformed.params["how"]](text)]
        sent: list[Sent] = []
        held = self._held.pop(price.symbol, None)
        swapping = faults.find("out_of_order", name, price.asset) is not None
        if held is not None:
            sent += [text, held] if swapping else [held, text]
        elif swapping:
            self._held[price.symbol] = text
        else:
            sent.append(text)
        return sent * 2 if faults.find("duplicate", name, price.asset) is not None else sent


_MALFORMED: Final[Mapping[str, Callable[[str], str | bytes]]] = {
    "truncated": lambda text: text[: len(text) * 2 // 3],
    "not_json": lambda text: f"<html><body>502 Bad Gateway</body></html><!-- {len(text)} -->",
    "wrong_shape": lambda text: f"[{text},[]]",
    "binary": lambda text: b"\x00\xff\xfe" + text.encode("utf-8")[::-1],
}
