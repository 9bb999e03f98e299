"""The hub's side of the line to its workers: what they are told, and what they are answered.

The rules.

 - A worker begins to listen when it has the assets, the state, every account and what each has used. What changes in
   the meantime it is told in between; what it is told is always how things are when it is told, so that nothing older
   comes after something newer.
 - What a worker has counted goes into the hub's own ledger and counters, and is the hub's affair from then on.
 - Towards the shared buckets each worker is a node of its own, and the hub passes on what they say to each other. Of a
   worker that has died the hub says goodbye. The same holds for the list of the connection governors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbeast.codecs import hubwords
from tbeast.codecs.hubwords import LinkError, State, Status, Welcome
from tbeast.codecs.pricequeries import PriceQuery
from tbeast.codecs.problems import Problem
from tbeast.domain.assetmap import AssetMap
from tbeast.domain.counters import FAMILIES, Counters
from tbeast.domain.governor import Report
from tbeast.domain.keys import Account
from tbeast.domain.usage import Ledger
from tbeast.errors import CacheUnavailableError
from tbeast.interfaces import Now
from tbeast.services.governor import NodeList, Overheard
from tbeast.services.limits import SharedLimits
from tbeast.services.workerkeys import KeyWatch
from tbeast.settings import Settings

KEYS_A_MESSAGE: Final = 500


class Line(Protocol):
    """The line to one worker."""

    def ask(self, word: bytes, text: bytes = b"") -> Deferred[bytes]:
        """Say something that is answered; fails with L{LinkError}."""


class Relay(Protocol):
    """Answers what workers cannot answer themselves, as the hub's own surface would."""

    def price(self, query: PriceQuery, asked_at: float) -> Awaitable[tuple[bytes, str, str] | Problem]:
        """The price as JSON, its source, and the tier where it was found; or why there is none."""

    def page(self, name: str, below: bytes) -> hubwords.Page | Problem:
        """The page of that name; C{below} is what stands after it in the path."""


class Hub:
    """What all desks have in common.

    @ivar desks: of the workers that have said hello, and have not gone.
    @ivar overheard: how the governors of their connections stand.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        keys: KeyWatch,
        assets: AssetMap,
        ledger: Ledger,
        counters: Counters,
        limits: SharedLimits,
        relay: Relay,
        state: Callable[[], State],
        life: str,
        nodes: int,
        clock: IReactorTime,
        now: Now,
        adaptive: NodeList | None = None,
    ) -> None:
        """Set it up.

        @param state: gives how things are.
        @param life: see L{Welcome}, as for C{nodes}.
        @param adaptive: the list of the connection governors; C{None}: there is none, and each is alone.
        """
        self.desks: set[Desk] = set()
        self.settings = settings
        self.keys = keys
        self.assets = assets
        self.ledger = ledger
        self.counters = counters
        self.limits = limits
        self.relay = relay
        self.state = state
        self.life = life
        self.nodes = nodes
        self.clock = clock
        self.now = now
        self.adaptive = adaptive
        self.overheard = Overheard(lambda: self.governed, lambda: state().max_connections, now)
        self.used: dict[str, tuple[str, int]] = {}
        keys.told = self._keys_changed

    @property
    def governed(self) -> list[Report]:
        """What the governors of the workers have reported last, whether or not the list of all could be reached."""
        return [desk.governed for desk in self.desks if desk.governed is not None]

    def look(self) -> None:
        """See whether the state is another, and tell; to be called again and again."""
        state = self.state()
        for desk in self.desks:
            desk.tell_state(state)

    def adopt(self, assets: AssetMap) -> None:
        """Have the workers know these assets from now on, and no others."""
        self.assets = assets
        text = hubwords.encode_assets(assets)
        for desk in self.desks:
            desk.tell(hubwords.ASSETS, text)

    def heard_usage(self, usage: Mapping[str, tuple[str, int]]) -> None:
        """What keys have used on all nodes; see L{tbeast.servers.gate.Gate.heard_usage}."""
        news = {key_id: used for key_id, used in usage.items() if used > self.used.get(key_id, ("", 0))}
        if not news:
            return
        self.used.update(news)
        text = hubwords.encode(news)
        for desk in self.desks:
            desk.tell(hubwords.USED, text)

    def _keys_changed(self, good: Sequence[Account], gone: Sequence[bytes]) -> None:
        if self.desks:
            text = hubwords.encode_keys(good, gone)
            for desk in self.desks:
                desk.tell(hubwords.KEYS, text)


class Desk:
    """Speaks with one worker.

    @ivar name: of the worker, among the nodes that share limits.
    @ivar words: what to call for each word that it says.
    @ivar line: the line to it.
    @ivar is_serving: whether it listens.
    @ivar status: what it has said of itself last.
    @ivar governed: what the governor of its connections has reported last.
    @ivar unheard: how often L{look} has found that it has said nothing.
    """

    log = Logger()
    line: Line

    def __init__(self, hub: Hub, name: str) -> None:
        self.name = name
        self.is_serving = False
        self.status: Status | None = None
        self.unheard = 0
        self.serving: Deferred[None] = Deferred()
        self.governed: Report | None = None
        self._hub = hub
        self._told_state: State | None = None
        self.words: Mapping[bytes, Callable[[bytes], Awaitable[bytes] | bytes]] = {
            hubwords.HELLO: self._hello,
            hubwords.TIME: self._time,
            hubwords.COUNT: self._count,
            hubwords.LOOK: self._look,
            hubwords.EXCHANGE: self._exchange,
            hubwords.LEAVE: self._leave,
            hubwords.ADAPTIVE: self._adaptive,
            hubwords.PRICE: self._price,
            hubwords.PAGE: self._page,
        }

    def tell(self, word: bytes, text: bytes) -> None:
        """Tell something; whether it is heard shows when the worker speaks again, or dies."""
        self.line.ask(word, text).addErrback(self._not_told, word)

    def tell_state(self, state: State) -> None:
        """Tell the state, unless it is known."""
        if state != self._told_state:
            self._told_state = state
            self.tell(hubwords.STATE, hubwords.encode(state))

    async def retire(self, seconds: float) -> None:
        """Have the worker end: take nothing new, and give connections so long to end by themselves.

        @raise LinkError: when it is gone already.
        """
        self.is_serving = False
        await self.line.ask(hubwords.RETIRE, hubwords.encode(seconds))

    async def gone(self) -> None:
        """The worker has gone, or has died."""
        self.is_serving = False
        self._hub.desks.discard(self)
        if not self.serving.called:
            self.serving.errback(LinkError("it has ended"))
        with suppress(CacheUnavailableError):  # then it is forgotten for its silence
            if self._hub.adaptive is not None and self.governed is not None:
                await self._hub.adaptive.leave(self.name, self.governed.life)
        with suppress(CacheUnavailableError):
            await self._hub.limits.leave(self.name)

    def _not_told(self, failure: Failure, word: bytes) -> None:
        failure.trap(LinkError)  # type: ignore[no-untyped-call]
        self.log.debug("{name} has not taken {word}: {why}", name=self.name, word=word.decode(), why=failure.value)

    # What a worker begins with.

    def _hello(self, text: bytes) -> bytes:
        hub = self._hub
        hub.desks.add(self)
        self._told_state = hub.state()
        # what is told comes after the answer to this
        hub.clock.callLater(0, self._begin)
        settings = hubwords.settings_told(hub.settings)
        return hubwords.encode(Welcome(hub.now(), settings, self.name, hub.life, hub.nodes))

    def _begin(self) -> None:
        Deferred.fromCoroutine(self._open()).addErrback(self._not_opened)

    async def _open(self) -> None:
        hub, ask = self._hub, self.line.ask
        await ask(hubwords.ASSETS, hubwords.encode_assets(hub.assets))
        self._told_state = state = hub.state()
        await ask(hubwords.STATE, hubwords.encode(state))
        digests = hub.keys.digests()
        for start in range(0, len(digests), KEYS_A_MESSAGE):
            found = (hub.keys.account_of(digest) for digest in digests[start : start + KEYS_A_MESSAGE])
            await ask(hubwords.KEYS, hubwords.encode_keys(account for account in found if account is not None))
        ids = list(hub.used)
        for start in range(0, len(ids), KEYS_A_MESSAGE):
            some = {key_id: hub.used[key_id] for key_id in ids[start : start + KEYS_A_MESSAGE]}
            await ask(hubwords.USED, hubwords.encode(some))
        await ask(hubwords.SERVE)
        self.is_serving = True
        self.serving.callback(None)

    def _not_opened(self, failure: Failure) -> None:
        if not self.serving.called:
            self.serving.errback(failure)

    # What a worker says.

    def _time(self, text: bytes) -> bytes:
        self.status = hubwords.decode_status(text)
        self.unheard = 0
        return hubwords.encode(self._hub.now())

    def _count(self, text: bytes) -> bytes:
        rows, differences = hubwords.decode_count(text)
        self._hub.ledger.put_back(rows)
        counts = self._hub.counters.counts
        for key, number in differences.items():
            if key[0] in FAMILIES:
                counts[key] = counts.get(key, 0) + number
        return b""

    async def _look(self, text: bytes) -> bytes:
        return hubwords.encode(await self._hub.limits.look(hubwords.decode_node(text)))

    async def _exchange(self, text: bytes) -> bytes:
        return hubwords.encode(await self._hub.limits.exchange(*hubwords.decode_exchange(text)))

    async def _leave(self, text: bytes) -> bytes:
        await self._hub.limits.leave(hubwords.decode_node(text))
        return b""

    async def _adaptive(self, text: bytes) -> bytes:
        report, gone, tally = hubwords.decode_adaptive(text)
        if self._hub.adaptive is None:
            raise LinkError("there is no list of governors")
        self.governed = report
        reports = await self._hub.adaptive.exchange(report, gone, tally)
        self._hub.overheard.heard(reports)
        return hubwords.encode(reports)

    async def _price(self, text: bytes) -> bytes:
        found: Any = await self._hub.relay.price(*hubwords.decode_query(text))
        return hubwords.encode_not_found(found) if isinstance(found, Problem) else hubwords.encode_found(*found)

    def _page(self, text: bytes) -> bytes:
        return hubwords.encode_page(self._hub.relay.page(*hubwords.decode_page_query(text)))
