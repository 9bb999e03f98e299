"""The health port: is this process alive, can it serve, should it be sent questions.

  - C{/live}: 200 for as long as the reactor turns.
  - C{/health}: 200 when it can serve, that is when all its listeners are up, at least one asset has a fresh price (or
    every one is priced only when somebody asks), and no part behind it blocks (see L{tbeast.domain.backing}); else 503
    with the reasons. A restart may mend it.
  - C{/ready}: 200 when it should be sent questions; names every feed and its state. Beside what C{/health} wants, at
    least one feed must live, and after the start it waits until nine tenths of the assets were priced once, or a
    minute is over. It does not fall back later because some assets have no price: every node would lose them at once,
    and none would answer for the others.
  - C{/metrics}: Prometheus.

A node that serves reports alone has no prices, and needs none; but it cannot serve without its database.

Nothing here wants a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.web.resource import Resource

from tbeast.codecs import problems, replies
from tbeast.domain.backing import Backing, PartStatus
from tbeast.domain.board import is_on_demand
from tbeast.domain.feedstatus import LIVE, PAUSED, FeedStatus
from tbeast.interfaces import Now
from tbeast.servers.answers import Answers
from tbeast.servers.lpo import Feeds
from tbeast.servers.metrics import Metrics
from tbeast.servers.site import Page, WebRequest, tree

NEARLY_ALL: Final = 0.9
WARM_UP_SECONDS: Final = 60.0

Listening = Callable[[], Mapping[str, bool]]
"""Every listener by name, and whether it is up."""


class Health:
    """What the pages of the health port have to say.

    @ivar started_at: when this was made, in seconds since the epoch.
    """

    def __init__(
        self, *, answers: Answers, feeds: Feeds, listening: Listening, now: Now, node: str, backing: Backing = tuple,
        has_prices: bool = True,
    ) -> None:  # fmt: skip
        """Set it up.

        @param has_prices: whether the node is there for prices too.
        """
        self._answers = answers
        self._feeds = feeds
        self._listening = listening
        self._backing = backing
        self._now = now
        self._node = node
        self._has_prices = has_prices
        self._warm = not has_prices
        self.started_at = now()

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether it can serve, and why not."""
        priced = self._priced()
        reasons = self._reasons(priced)
        return not reasons, {"status": "failing" if reasons else "ok", "reasons": reasons, **self._about(priced)}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether it should be sent questions, and how each feed is doing."""
        now, priced, feeds = self._now(), self._priced(), self._feeds()
        expected = self._expected()
        reasons = self._reasons(priced)
        wanted = [status for status in feeds if status.symbols and status.state != PAUSED]
        if wanted and not any(status.state == LIVE for status in wanted):
            reasons.append("no feed is live")
        if not self._warm:
            self._warm = priced >= NEARLY_ALL * expected or now - self.started_at >= WARM_UP_SECONDS
            if not self._warm:
                reasons.append(f"warming up: {priced} of {expected} assets have a fresh price")
        return not reasons, {
            "ready": not reasons,
            "reasons": reasons,
            "feeds": [_feed(status) for status in feeds],
            "backing": [_part(part, now) for part in self._backing()],
            **self._about(priced),
        }

    def live(self) -> tuple[bool, dict[str, Any]]:
        """It answers."""
        return True, {"live": True, "node": self._node}

    def _priced(self) -> int:
        now = self._now()
        return sum(now <= reply.fresh_until for reply in self._answers.shelf.replies.values())

    def _expected(self) -> int:
        """How many assets should have a price without anybody asking."""
        if not self._has_prices:
            return 0
        return sum(not is_on_demand(asset) for asset in self._answers.assets.assets.values())

    def _reasons(self, priced: int) -> list[str]:
        reasons = [f"the listener {name} is not up" for name, is_up in self._listening().items() if not is_up]
        if not priced and self._expected():
            reasons.append("no asset has a fresh price")
        reasons += [f"{part.name}: {part.why or part.state}" for part in self._backing() if self._blocks(part)]
        return reasons

    def _blocks(self, part: PartStatus) -> bool:
        return part.blocks or (not self._has_prices and part.name == "database" and part.state != "up")

    def _about(self, priced: int) -> dict[str, Any]:
        about: dict[str, Any] = {
            "node": self._node,
            "uptime_seconds": round(max(self._now() - self.started_at, 0.0), 3),
            "assets": {"total": len(self._answers.assets.assets), "priced": priced},
            "listeners": dict(self._listening()),
        }
        if self._answers.simulated:
            about["simulated"] = True
        return about


class StatusPage(Page):
    """Says yes (200) or no (503) in JSON."""

    def __init__(self, status: Callable[[], tuple[bool, dict[str, Any]]]) -> None:
        super().__init__()
        self._status = status

    def answer(self, request: WebRequest) -> None:
        """Ask, and say it."""
        is_well, body = self._status()
        request.respond(200 if is_well else 503, problems.encode(body), replies.CONTENT_TYPE)


class MetricsPage(Page):
    """C{GET /metrics}."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def answer(self, request: WebRequest) -> None:
        """Measure, and write it down."""
        request.respond(200, self._metrics.exposition(), self._metrics.content_type)


def health_tree(health: Health, metrics: Metrics) -> Resource:
    """Make every page of the health port."""
    return tree(
        {
            b"health": StatusPage(health.health),
            b"live": StatusPage(health.live),
            b"ready": StatusPage(health.ready),
            b"metrics": MetricsPage(metrics),
        }
    )


def _feed(status: FeedStatus) -> dict[str, Any]:
    return {
        "exchange": status.exchange,
        "state": status.state,
        "connections": status.connections,
        "symbols": status.symbols,
        "live_symbols": status.live_symbols,
        "refused": list(status.refused),
        "unacknowledged": list(status.unacknowledged),
        "connected_seconds": _seconds(status.connected_seconds),
        "last_heard_seconds": _seconds(status.last_heard_seconds),
        "why": status.why,
    }


def _part(part: PartStatus, now: float) -> dict[str, Any]:
    for_seconds = None if part.since is None else max(now - part.since, 0.0)
    told = {"part": part.name, "state": part.state, "why": part.why, "for_seconds": _seconds(for_seconds)}
    return {**told, **part.figures}


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
