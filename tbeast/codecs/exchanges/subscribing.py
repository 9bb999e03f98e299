"""How a connection asks for its symbols, and what becomes of each.

The rule: first as many symbols to a frame as the exchange likes. Whatever has stayed silent when patience runs out is
named and asked for again, in frames of ten and at last each alone, so that a symbol that spoils its frame in whatever
way costs nothing but itself; after that there is peace until the next connection. A frame that is refused as a whole is
not waited for: without the symbols that the refusal names, or else symbol by symbol, it goes out again at once.

A price counts as an acknowledgement: some exchanges send it first, and some send nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Final

from tbeast.codecs.exchanges.base import EXCHANGE_ERROR, Acknowledged, Event, Fault, Refused, Unacknowledged
from tbeast.codecs.exchanges.parts import sending

PATIENCE_SECONDS: Final = 10.0
"""For how long a symbol may stay silent after it was asked for."""

SMALLER_FRAMES: Final = (10, 1)
"""How many symbols a frame names the second time, and the third."""

Write = Callable[[int, Sequence[str], float], Mapping[str, object]]
"""Makes the message of this number that asks for these symbols, at this time."""


class Subscriptions:
    """The symbols of one connection: asked for, and then acknowledged, refused or silent.

    @ivar wanted: every symbol still hoped for, in order, the refused ones taken out.
    @ivar missing: those neither acknowledged nor heard so far.
    """

    def __init__(
        self, symbols: Iterable[str], write: Write, most: int, spacing_seconds: float, settling_seconds: float = 0.0
    ) -> None:
        """Ask for nothing yet.

        @param write: how a frame is written.
        @param most: how many symbols the first frames name.
        @param spacing_seconds: from one frame to the next.
        @param settling_seconds: from opening to the first frame.
        """
        self.wanted: dict[str, None] = dict.fromkeys(symbols)
        self.missing: set[str] = set(self.wanted)
        self._write = write
        self._sizes = iter((most, *SMALLER_FRAMES))
        self._spacing_seconds = spacing_seconds
        self._settling_seconds = settling_seconds
        self._numbers = count(1)
        self._unanswered: dict[int, tuple[str, ...]] = {}
        self._asked_at: float | None = None

    def opened(self, now: float) -> list[Event]:
        """Ask for everything."""
        return self.ask(list(self.wanted), next(self._sizes), now, self._settling_seconds)

    def ask(self, symbols: Sequence[str], size: int, now: float, after_seconds: float = 0.0) -> list[Event]:
        """Ask for these, so many to a frame."""
        events: list[Event] = []
        after = after_seconds
        for start in range(0, len(symbols), size):
            part = tuple(symbols[start : start + size])
            number = self.number()
            self._unanswered[number] = part
            after = after_seconds + len(events) * self._spacing_seconds
            events.append(sending(self._write(number, part, now), after))
        if events:
            self._asked_at = now + after
        return events

    def missing_in_order(self) -> list[str]:
        """The missing symbols, in the order of asking."""
        return [symbol for symbol in self.wanted if symbol in self.missing]

    def number(self) -> int:
        """A number that no frame of this connection has had."""
        return next(self._numbers)

    def answered(self, number: int | None, echoed: Sequence[str] = ()) -> tuple[str, ...]:
        """Find the frame that an answer is for, once.

        @param number: the number it gives; C{None}: none, and then what it echoes tells, or else whose turn it is.
        @return: the symbols that the frame named; nothing if there is no such frame, or no longer.
        """
        if number is None:
            same = tuple(echoed)
            turns = (each for each, symbols in self._unanswered.items() if symbols == same or not same)
            number = next(turns, 0)
        return self._unanswered.pop(number, ())

    def acknowledged(self, symbols: Iterable[str]) -> list[Event]:
        """Take these as acknowledged, and say which of them are news."""
        fresh = tuple(symbol for symbol in symbols if symbol in self.missing)
        self.missing.difference_update(fresh)
        return [Acknowledged(fresh)] if fresh else []

    def refused(self, symbol: str, detail: str) -> list[Event]:
        """Take this symbol out; nothing if it was not wanted."""
        if symbol not in self.wanted:
            return []
        del self.wanted[symbol]
        self.missing.discard(symbol)
        return [Refused(symbol, detail)]

    def spoiled(self, asked: Sequence[str], named: Iterable[str], detail: str, now: float) -> list[Event]:
        """A frame was refused as a whole: take out what spoiled it, and ask again for the rest.

        This ends, because what is asked again are fewer symbols, or one by one, and a frame is answered once.

        @param asked: the symbols that the frame named; none if it is not known which frame it was.
        @param named: those of which the refusal speaks; none: each is asked for alone, and refused if it was alone.
        """
        bad = [symbol for symbol in named if symbol in self.wanted]
        if not bad and len(asked) == 1:
            bad = [symbol for symbol in asked if symbol in self.missing]
        events = [event for symbol in bad for event in self.refused(symbol, detail)]
        if events:
            rest = [symbol for symbol in asked or self.missing_in_order() if symbol in self.missing]
            return events + self.ask(rest, len(rest) or 1, now)
        return [Fault(EXCHANGE_ERROR, detail), *self.ask([name for name in asked if name in self.missing], 1, now)]

    def due(self, now: float) -> list[Event]:
        """Name those that stayed silent too long, once for each time of asking, and ask for them again."""
        if self._asked_at is None or not self.missing or now - self._asked_at < PATIENCE_SECONDS:
            return []
        self._asked_at = None
        events: list[Event] = [Unacknowledged(tuple(sorted(self.missing)))]
        size = next(self._sizes, None)
        if size is not None:
            events += self.ask(self.missing_in_order(), size, now)
        return events
