"""What the command and its generators say to each other: one JSON object a line, through the generator's pipes.

A generator is first told L{SetUp}, then one order at a time; it answers each with L{Done}, and in between with
L{Progress}. L{Stop} ends the order under way before its time. The end of the pipe ends the generator.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from tbeast.loadtest.tally import Tally

Protocol = Literal["tcp", "udp"]


class SetUp(msgspec.Struct, tag=True, frozen=True):
    """Whom to ask, and what.

    @ivar host: a numeric address.
    @ivar authority: what goes into the C{Host} header.
    @ivar timeout_seconds: how long an answer may take, or a connection.
    @ivar sources: local addresses to connect from, in turn; none: whichever the system takes.
    """

    protocol: Protocol
    host: str
    port: int
    authority: str
    key: str
    assets: tuple[str, ...]
    timeout_seconds: float
    sources: tuple[str, ...] = ()


class Gather(msgspec.Struct, tag=True, frozen=True):
    """Have so many askers from now on, sharing so many sockets if they are of UDP."""

    askers: int
    sockets: int = 0


class Closed(msgspec.Struct, tag=True, frozen=True):
    """Have each asker ask again as soon as it was answered."""

    seconds: float


class Steady(msgspec.Struct, tag=True, frozen=True):
    """Ask at this rate, whatever comes back.

    @ivar seed: of the moments.
    """

    rate: float
    seconds: float
    seed: int


class Stop(msgspec.Struct, tag=True, frozen=True):
    """End what is under way."""


class Progress(msgspec.Struct, tag=True, frozen=True):
    """How far the order under way has come."""

    asked: int
    ok: int
    failed: int


class Done(msgspec.Struct, tag=True, frozen=True):
    """The order was carried out."""

    tally: Tally


Order = SetUp | Gather | Closed | Steady | Stop
Event = Progress | Done

order_decoder: Final = msgspec.json.Decoder(Order)
event_decoder: Final = msgspec.json.Decoder(Event)


def line_of(said: Order | Event) -> bytes:
    """Write one."""
    return msgspec.json.encode(said) + b"\n"
