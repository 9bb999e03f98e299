"""The shelf: for each asset the answer to the plain question, ready but for its age.

What is put here was rendered when the price changed; a question costs one look-up, one comparison and one
concatenation. A reply past C{fresh_until} is not given out, whatever forgot to take it down.
"""

from __future__ import annotations

from typing import NamedTuple

from tbeast.domain.quotes import Quote


class ReadyReply(NamedTuple):
    """One rendered answer: C{head + age + tail} is the JSON body. A NamedTuple because the question path reads it.

    @ivar head: up to and including C{"cache_age_seconds":}.
    @ivar tail: from the comma after the age to the closing brace.
    @ivar observed_at: the age is counted from here.
    @ivar fresh_until: not to be given out after this.
    @ivar source: for the ledger: C{kraken-ws}, C{median}...
    @ivar quote: what was rendered.
    """

    head: bytes
    tail: bytes
    observed_at: float
    fresh_until: float
    source: str
    quote: Quote


class Shelf:
    """The ready replies by asset, upper case.

    @ivar replies: for the hot path, which reads it directly; only L{put} and L{take_down} change it.
    """

    def __init__(self) -> None:
        self.replies: dict[str, ReadyReply] = {}

    def put(self, asset: str, reply: ReadyReply) -> None:
        """Replace what lies there for C{asset}."""
        self.replies[asset] = reply

    def take_down(self, asset: str) -> None:
        """There is nothing current to say of C{asset}."""
        self.replies.pop(asset, None)

    def find(self, asset: str, now: float) -> ReadyReply | None:
        """The reply for C{asset} (upper case), if there is one that may still be given out."""
        reply = self.replies.get(asset)
        return reply if reply is not None and now <= reply.fresh_until else None


def body(reply: ReadyReply, now: float) -> bytes:
    """The JSON body of C{reply} at C{now}, its age to the millisecond."""
    age = now - reply.observed_at
    return b"%b%.3f%b" % (reply.head, age if age > 0.0 else 0.0, reply.tail)
