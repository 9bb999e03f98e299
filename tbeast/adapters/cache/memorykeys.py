"""Within this process, what Valkey does for keys and their counters: used where no Valkey is set up, and in tests.

Each keeps to what Valkey would do, and can be made to play a Valkey that is away: C{away} says why, and is empty while
it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tbeast.adapters.cache.keycopies import SECONDS_TO_LIVE
from tbeast.errors import CacheUnavailableError
from tbeast.interfaces import Now


class MemoryKeyEvents:
    """L{tbeast.interfaces.KeyEvents} among the subscribers of this object.

    Nothing is told before C{publish} or C{subscribe} has returned.

    @ivar away: why nobody can be told; see L{cut}.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.away = ""
        self._clock = clock
        self._subscribers: list[tuple[Callable[[bytes], None], Callable[[], None], Callable[[], None]]] = []

    async def publish(self, message: bytes) -> None:
        """See L{tbeast.interfaces.KeyEvents.publish}."""
        if self.away:
            raise CacheUnavailableError(self.away)
        for heard, _lost, _regained in self._subscribers:
            self._later(heard, bytes(message))

    def subscribe(self, heard: Callable[[bytes], None], lost: Callable[[], None], regained: Callable[[], None]) -> None:
        """See L{tbeast.interfaces.KeyEvents.subscribe}."""
        self._subscribers.append((heard, lost, regained))
        if not self.away:
            self._later(regained)

    def cut(self, why: str = "cut") -> None:
        """Play a line that breaks."""
        if not self.away:
            self.away = why
            for _heard, lost, _regained in self._subscribers:
                self._later(lost)

    def mend(self) -> None:
        """Play a line that is up again."""
        if self.away:
            self.away = ""
            for _heard, _lost, regained in self._subscribers:
                self._later(regained)

    def _later(self, tell: Callable[..., None], *what: bytes) -> None:
        self._clock.callLater(0, self._tell, tell, *what)

    def _tell(self, tell: Callable[..., None], *what: bytes) -> None:
        try:
            tell(*what)
        except Exception:
            self._log.failure("whoever listens to the changes of keys failed")


class MemoryKeyCopies:
    """L{tbeast.interfaces.KeyCopies} over one dictionary."""

    def __init__(self, now: Now) -> None:
        self.away = ""
        self._now = now
        self._kept: dict[str, tuple[bytes, float]] = {}

    async def put_many(self, copies: Mapping[str, bytes]) -> None:
        """See L{tbeast.interfaces.KeyCopies.put_many}."""
        _refuse(self.away)
        until = self._now() + SECONDS_TO_LIVE
        for digest, copy in copies.items():
            self._kept[digest] = (bytes(copy), until)

    async def remove(self, digests: Sequence[str]) -> None:
        """See L{tbeast.interfaces.KeyCopies.remove}."""
        _refuse(self.away)
        for digest in digests:
            self._kept.pop(digest, None)

    async def all(self) -> dict[str, bytes]:
        """See L{tbeast.interfaces.KeyCopies.all}."""
        _refuse(self.away)
        now = self._now()
        self._kept = {digest: kept for digest, kept in self._kept.items() if now < kept[1]}
        return {digest: copy for digest, (copy, _until) in self._kept.items()}


class MemoryUsageCounters:
    """L{tbeast.interfaces.UsageCounters} over one dictionary; see L{tbeast.adapters.cache.counters} for the rule."""

    def __init__(self, now: Now) -> None:
        self.away = ""
        self._now = now
        self._kept: dict[str, tuple[str, int, float]] = {}

    async def raise_to(self, used: Mapping[str, int], month: str, expire_at: float) -> None:
        """See L{tbeast.interfaces.UsageCounters.raise_to}."""
        _refuse(self.away)
        self._forget()
        for key_id, count in used.items():
            held = self._kept.get(key_id)
            if held is None or held[0] < month or (held[0] == month and held[1] < count):
                self._kept[key_id] = (month, count, expire_at)
        self._forget()

    async def read(self, key_ids: Sequence[str]) -> dict[str, int]:
        """See L{tbeast.interfaces.UsageCounters.read}."""
        _refuse(self.away)
        self._forget()
        return {key_id: self._kept[key_id][1] for key_id in key_ids if key_id in self._kept}

    def _forget(self) -> None:
        now = self._now()
        for key_id in [key_id for key_id, held in self._kept.items() if now >= held[2]]:
            del self._kept[key_id]


def _refuse(away: str) -> None:
    if away:
        raise CacheUnavailableError(away)
