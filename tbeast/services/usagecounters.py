"""Telling what each key has used: this node's gate, and the shared cache.

The database says with every write what the keys in it have used of their month on all nodes. The newest is told on; a
month that is over is not. What the cache does not take now it is told later, by then perhaps with a newer number; there
is one number a key, so what waits is bounded by how many keys there are. Nobody fails for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger

from tbeast.domain.admission import month_end
from tbeast.domain.counters import Counters
from tbeast.interfaces import Now, UsageCounters

HeardUsage = Callable[[Mapping[str, tuple[str, int]]], None]
"""Told, by key id, the month (C{YYYY-MM}) and what was used of it on all nodes."""


class UsageTelling:
    """What is told of usage, and to whom."""

    log = Logger()

    def __init__(self, heard_usage: HeardUsage, shared: UsageCounters, counters: Counters, now: Now) -> None:
        self._heard_usage = heard_usage
        self._shared = shared
        self._counters = counters
        self._now = now
        self._waiting: dict[str, tuple[str, int]] = {}
        self._telling = False
        self._failing = False

    def heard(self, usage: Mapping[str, tuple[str, int]]) -> None:
        """The database has said this."""
        if not usage:
            return
        try:
            self._heard_usage(usage)
        except Exception:
            self._counters.count("service_failures", "usage told")
            self.log.failure("what was used could not be told to the gate")
        self._wait(usage)
        self.tell()

    def tell(self) -> None:
        """Tell the cache what it does not know yet, unless that is being done."""
        if self._waiting and not self._telling:
            ensureDeferred(self._tell())

    async def _tell(self) -> None:
        self._telling = True
        waiting, self._waiting = self._waiting, {}
        months: dict[str, dict[str, int]] = {}
        for key_id, (month, used) in waiting.items():
            months.setdefault(month, {})[key_id] = used
        try:
            for month, used_by_key in months.items():
                over_at = month_end(datetime.strptime(f"{month} +0000", "%Y-%m %z").timestamp())
                if over_at > self._now():
                    await self._shared.raise_to(used_by_key, month, over_at)
        except Exception as error:
            self._counters.count("usage_counter_failures")
            newer, self._waiting = self._waiting, waiting
            self._wait(newer)
            if not self._failing:
                self._failing = True
                self.log.warn("the shared cache is not told what keys have used: {why}", why=error)
        else:
            if self._failing:
                self._failing = False
                self.log.info("the shared cache is told again what keys have used")
        self._telling = False

    def _wait(self, usage: Mapping[str, tuple[str, int]]) -> None:
        # two writes may end in another order than the database did them; within a month usage only grows
        for key_id, told in usage.items():
            self._waiting[key_id] = max(told, self._waiting.get(key_id, told))
