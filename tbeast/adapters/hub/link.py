"""One end of the line between a hub and a worker: AMP, in both directions alike.

There is one command: a word, which says what it is about, and a text, which the codec for that word reads and writes.
Either end asks the other, many questions at a time, and each answer finds its question. Texts may be of any length,
where AMP's own values end at 64 KiB. Of one end's messages none overtakes another, answers among them.

An answer that cannot be given does not end the line: the other end hears L{LinkError}, and this end has a line in its
log. Who waits for an answer when the line ends hears the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.amp import AMP, MAX_VALUE_LENGTH, Argument, BinaryBoxProtocol, Command, RemoteAmpError, String
from twisted.python.failure import Failure

from tbeast.codecs.hubwords import LinkError
from tbeast.errors import CacheUnavailableError

Answering = Callable[[bytes], Awaitable[bytes] | bytes]
"""Reads a text, and gives the answer."""


class Text(Argument):
    """Bytes without end: as many of AMP's values as it takes."""

    def toBox(self, name: bytes, strings: dict[bytes, bytes], objects: dict[str, Any], proto: object) -> None:
        """Write it."""
        text = objects.pop(name.decode("ascii"))
        for place, start in enumerate(range(0, len(text) or 1, MAX_VALUE_LENGTH)):
            strings[b"%b%d" % (name, place)] = text[start : start + MAX_VALUE_LENGTH]

    def fromBox(self, name: bytes, strings: dict[bytes, bytes], objects: dict[str, Any], proto: object) -> None:
        """Read it."""
        parts: list[bytes] = []
        while (part := strings.pop(b"%b%d" % (name, len(parts)), None)) is not None:
            parts.append(part)
        objects[name.decode("ascii")] = b"".join(parts)


class Say(Command):
    """The one command."""

    commandName = b"say"
    arguments = [(b"word", String()), (b"text", Text())]  # type: ignore[no-untyped-call]
    response = [(b"text", Text())]  # type: ignore[no-untyped-call]
    errors = {CacheUnavailableError: b"AWAY", LinkError: b"FAILED"}


class Link(AMP):
    """See the module.

    @param words: what is called for each word that the other end says.
    @param lost: called once, when the line has ended.
    """

    _log = Logger()

    def __init__(self, words: Mapping[bytes, Answering], lost: Callable[[], object] = lambda: None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._words = words
        self._lost = lost
        self._is_up = False

    def ask(self, word: bytes, text: bytes = b"") -> Deferred[bytes]:
        """Say something that is answered.

        @return: the answer; fails with L{LinkError}, or with L{CacheUnavailableError} if the other end did.
        """
        if not self._is_up:
            return maybeDeferred(_fail, "the line has ended")
        # another one than AMP's own, which ends the line when nobody has taken a failure from it
        told: Deferred[bytes] = Deferred()
        asked: Deferred[Any] = self.callRemote(Say, word=word, text=text)  # type: ignore[no-untyped-call]
        asked.addCallbacks(_text, _failed).addBoth(told.callback)
        return told

    def hang_up(self) -> None:
        """End the line, when all is written."""
        if self.transport is not None:
            self.transport.loseConnection()

    def makeConnection(self, transport: Any) -> None:
        """The line is up. AMP's own way to say so would be a line in the log for each."""
        self._is_up = True
        BinaryBoxProtocol.makeConnection(self, transport)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The line has ended."""
        self._is_up = False
        BinaryBoxProtocol.connectionLost(self, reason)  # type: ignore[no-untyped-call]
        self.transport = None
        self._lost()

    @Say.responder
    def _said(self, word: bytes, text: bytes) -> Deferred[dict[str, bytes]]:
        answer = maybeDeferred(self._answer, word, text)
        return answer.addCallbacks(lambda said: {"text": said}, self._not_answered, errbackArgs=(word,))

    async def _answer(self, word: bytes, text: bytes) -> bytes:
        answer = self._words[word](text)
        return answer if isinstance(answer, bytes) else await answer

    def _not_answered(self, failure: Failure, word: bytes) -> Failure:
        if isinstance(failure.value, CacheUnavailableError):
            return failure
        self._log.failure("what the other end said could not be answered: {word}", failure, word=word.decode())
        return Failure(LinkError(f"{word.decode()}: {type(failure.value).__name__}"))  # type: ignore[no-untyped-call]


def _fail(why: str) -> bytes:
    raise LinkError(why)


def _text(answer: Mapping[str, bytes]) -> bytes:
    return answer["text"]


def _failed(failure: Failure) -> Failure:
    if isinstance(failure.value, RemoteAmpError | ConnectionClosed):
        return Failure(LinkError(str(failure.value)))  # type: ignore[no-untyped-call]
    return failure
