"""One connection to Valkey that is made again for ever.

It is ready when the server has taken the password and the database, has answered a PING, and, where a channel is to be
heard, has taken the subscription. Each failure makes the wait before the next attempt longer, up to a limit; only a
connection that held for a while makes it short again, so that a server which takes connections and drops them is not
hammered. A server that turned into a replica (it refuses to write) is left, since its name may lead elsewhere by now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.adapters.cache.resp import Conversation, Limits, RefusedError, Reply, packed, why_not_connected
from tbeast.adapters.cache.valkeytarget import Target
from tbeast.domain.backoff import wait_seconds
from tbeast.errors import CacheUnavailableError
from tbeast.interfaces import Chance


class _One(Factory):
    """Gives one protocol that is there already."""

    noisy = False

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def buildProtocol(self, addr: object) -> Conversation:
        return self._conversation


class Link:
    """See the module.

    @ivar ready: whether it can be asked.
    @ivar why: why it cannot; empty when it can.
    """

    _log = Logger()

    def __init__(
        self,
        target: Target,
        endpoint: IStreamClientEndpoint,
        clock: Any,
        chance: Chance,
        limits: Limits,
        changed: Callable[[Link], None],
        channel: bytes | None = None,
        heard: Callable[[bytes], None] | None = None,
    ) -> None:
        """Set it up.

        @param changed: told after each attempt that failed, and when it has become ready or has ended.
        @param channel: what to subscribe to; then nothing can be asked.
        @param heard: told each message on it.
        """
        self.ready = False
        self.why = "not started"
        self._target = target
        self._endpoint = endpoint
        self._clock = clock
        self._chance = chance
        self._limits = limits
        self._changed = changed
        self._channel = channel
        self._heard = heard
        self._wanted = False
        self._failures = 0
        self._ready_at = 0.0
        self._conversation: Conversation | None = None
        self._closing: set[Conversation] = set()
        self._dialing: Deferred[Any] | None = None
        self._retry: IDelayedCall | None = None
        self._first: list[Deferred[None]] = []

    # What its owner asks.

    @property
    def usable(self) -> bool:
        """Whether a question is likely to be answered soon."""
        conversation = self._conversation
        return (
            self.ready
            and conversation is not None
            and conversation.waiting < self._limits.most_waiting
            and conversation.late_seconds < self._limits.slow_seconds
        )

    @property
    def waiting(self) -> int:
        """How many questions wait on it."""
        return 0 if self._conversation is None else self._conversation.waiting

    def start(self) -> Deferred[None]:
        """Begin to connect.

        @return: fires when the first attempt has come to an end, good or bad; never fails.
        """
        self._wanted = True
        self._failures = 0
        self.why = "not connected yet"
        first: Deferred[None] = Deferred()
        self._first.append(first)
        self._dial()
        return first

    def stop(self) -> Deferred[Any]:
        """End the connection and all attempts.

        @return: fires when nothing is left of it; never fails.
        """
        self._wanted = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._dialing is not None:
            self._dialing.cancel()
        if self._conversation is not None:
            self._conversation.drop("stopped")
        self.why = "stopped"
        self._tell_first()
        return DeferredList([_told_of(conversation.gone) for conversation in self._closing])

    def ask(self, data: bytes, replies: int, bulk: bool = False) -> Deferred[list[Reply]]:
        """See L{Conversation.ask}; to be asked only when it is ready."""
        conversation = self._conversation
        assert conversation is not None
        answer = conversation.ask(data, replies, bulk)
        return answer.addCallback(self._looked_at)

    def _looked_at(self, replies: list[Reply]) -> list[Reply]:
        if any(isinstance(reply, RefusedError) and "READONLY" in str(reply) for reply in replies):
            settled = self._clock.seconds() - self._ready_at >= self._limits.settled_seconds
            if settled and self._conversation is not None:
                self._conversation.drop("it has become a replica, which does not write")
        return replies

    # The way to being ready.

    def _dial(self) -> None:
        self._retry = None
        conversation = Conversation(self._clock, self._limits, self)
        dialing = maybeDeferred(self._endpoint.connect, _One(conversation))
        limit = self._clock.callLater(self._limits.connect_seconds, dialing.cancel)

        def done(result: Any) -> Any:
            self._dialing = None
            if limit.active():
                limit.cancel()
            return result

        self._dialing = dialing
        dialing.addBoth(done)
        dialing.addCallbacks(self._connected, self._not_connected, callbackArgs=(conversation,))
        dialing.addErrback(self._failed_at_it)

    def _connected(self, _protocol: object, conversation: Conversation) -> None:
        self._closing.add(conversation)
        conversation.gone.addCallback(lambda _: self._closing.discard(conversation))
        if not self._wanted:
            conversation.drop("stopped")
            return
        if conversation.over is not None:
            self._failed(conversation.over)
            return
        self._conversation = conversation
        target = self._target
        greeting: list[tuple[bytes, str]] = []
        if target.password is not None:
            user = () if target.username is None else (target.username,)
            greeting.append((packed(b"AUTH", *user, target.password), "the password was refused"))
        if target.database and self._channel is None:
            greeting.append((packed(b"SELECT", target.database), f"database {target.database} was refused"))
        greeting.append((packed(b"PING"), "it is not ready"))
        if self._channel is not None:
            greeting.append((packed(b"SUBSCRIBE", self._channel), "the subscription was refused"))
            conversation.subscribed = True
        said = conversation.ask(b"".join(command for command, _ in greeting), len(greeting))
        said.addCallback(self._greeted, conversation, [refusal for _, refusal in greeting])
        said.addErrback(self._not_greeted)

    def _greeted(self, replies: list[Reply], conversation: Conversation, refusals: list[str]) -> None:
        for reply, refusal in zip(replies, refusals, strict=True):
            if isinstance(reply, RefusedError):
                conversation.drop(f"{refusal}: {reply}")
                return
        self.ready = True
        self.why = ""
        self._ready_at = self._clock.seconds()
        self._tell_first()
        self._changed(self)

    def _not_greeted(self, failure: Failure) -> None:
        if not isinstance(failure.value, CacheUnavailableError):  # that was told through C{ended}
            self._failed_at_it(failure)

    def _not_connected(self, failure: Failure) -> None:
        if isinstance(failure.value, CancelledError | ConnectingCancelledError):
            self._failed(f"not connected within {self._limits.connect_seconds:g} s")
        else:
            self._failed(why_not_connected(failure.value))

    def _failed_at_it(self, failure: Failure) -> None:
        self._log.failure("connecting to the cache failed in an unforeseen way", failure)
        if self._conversation is not None:
            self._conversation.drop("an error of our own")

    # What the conversation tells.

    def ended(self, conversation: Conversation, why: str) -> None:
        """See L{tbeast.adapters.cache.resp.Owner}."""
        if conversation is not self._conversation:
            return  # it was never ours, or is no longer
        self._conversation = None
        was_ready, self.ready = self.ready, False
        if was_ready and self._clock.seconds() - self._ready_at >= self._limits.settled_seconds:
            self._failures = 0
        self._failed(why)

    def pushed(self, message: bytes) -> None:
        """See L{tbeast.adapters.cache.resp.Owner}."""
        if self._heard is None or not self.ready:
            return
        try:
            self._heard(message)
        except Exception:
            self._log.failure("whoever listens to the cache failed at a message")

    def _failed(self, why: str) -> None:
        if not self._wanted:
            return
        self.why = why
        if self._retry is None:
            wait = wait_seconds(
                self._failures, self._chance(), self._limits.first_wait_seconds, self._limits.longest_wait_seconds
            )
            self._failures += 1
            self._retry = self._clock.callLater(wait, self._dial)
        self._tell_first()
        self._changed(self)

    def _tell_first(self) -> None:
        first, self._first = self._first, []
        for waiting in first:
            waiting.callback(None)


def _told_of(work: Deferred[None]) -> Deferred[None]:
    """Another Deferred that fires with C{work}."""
    told: Deferred[None] = Deferred()

    def passed_on(_: None) -> None:
        told.callback(None)

    work.addCallback(passed_on)
    return told
