"""/admin: what operators may do to a running daemon over HTTP, on the report surface's port.

It is there only where C{ADMIN_KEY} is set; else its paths are like any that are unknown. Reading is GET, changing is
POST, PUT, PATCH and DELETE; bodies and answers are JSON. What is done to keys and parameters is done in the database
and holds for every node; what is done to feeds holds for this node, until it ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol

from twisted.web.resource import Resource
from twisted.web.server import Request

from tbeast.codecs.adminbodies import moment, most_connections, nothing, options, wants_drop, wants_full
from tbeast.codecs.problems import Problem
from tbeast.domain.clusterstats import added_up
from tbeast.domain.feedstatus import PAUSED, FeedStatus
from tbeast.domain.syncplan import Held
from tbeast.interfaces import Now
from tbeast.servers.admindoor import AdminDoor, AdminPage, Reply
from tbeast.servers.adminkeys import InvalidatePage, Keys, KeysPage
from tbeast.servers.adminparameters import ParametersPage, ParameterTable, put
from tbeast.servers.site import WebRequest

MAX_CONNECTIONS: Final = "max_connections"

PLACES: Final = (
    ("GET", "/admin/keys", "Lists keys: cursor, page_size, tier, name, revoked (false, true, all)."),
    ("POST", "/admin/keys", "Makes a key, and shows it for the only time."),
    ("GET", "/admin/keys/{id}", "All that is known of a key."),
    ("PATCH", "/admin/keys/{id}", "Changes its tier, its limits or its add-on."),
    ("POST", "/admin/keys/{id}/revoke", "Revokes it, for good."),
    ("POST", "/admin/keys/{id}/rotate", "Puts a new key in its place, at once or after grace_seconds."),
    ("POST", "/admin/invalidate-key", "Has every node forget a key and read it anew."),
    ("GET", "/admin/parameters", "Lists the parameters."),
    ("GET", "/admin/parameters/{name}", "One of them."),
    ("PUT", "/admin/parameters/{name}", "Sets it."),
    ("DELETE", "/admin/parameters/{name}", "Takes it back to its default."),
    ("POST", "/admin/parameters/reload", "Has this node read them again."),
    ("GET", "/admin/feeds", "How the feed of every exchange is doing on this node."),
    ("GET", "/admin/feeds/{exchange}", "One of them."),
    ("POST", "/admin/feeds/{exchange}/reconnect", "Replaces its connections, without a gap unless drop is true."),
    ("POST", "/admin/feeds/{exchange}/pause", "Takes none of its prices any more, on this node, until it ends."),
    ("POST", "/admin/feeds/{exchange}/resume", "Undoes that."),
    ("GET", "/admin/sync", "How the sync job is doing that was begun here last."),
    ("POST", "/admin/sync", "Begins the sync job."),
    ("GET", "/admin/cluster-stats", "The statistics of every node, and added up."),
    ("GET", "/admin/governor", "The governor of connections."),
    ("POST", "/admin/governor", "Sets max_connections."),
    ("GET", "/admin/ui", "The operator's page, for a browser."),
    ("GET", "/admin/events", "What the page is told, as server-sent events."),
    ("GET", "/admin/explain/{asset}", "How a price comes about."),
)
"""What there is: method, path, and a sentence."""


class Feed(Protocol):
    """One exchange's feed: L{tbeast.services.feeds.ExchangeFeed}."""

    def status(self) -> FeedStatus:
        """How it is doing."""

    def pause(self) -> bool:
        """Take nothing from it any more; whether that is new."""

    def resume(self) -> bool:
        """Undo that; whether it was paused."""

    def renew(self, why: str) -> int:
        """Replace its connections one by one; how many."""

    def reconnect(self, why: str) -> None:
        """Drop them all and dial anew."""


class Feeds(Protocol):
    """The feeds of all exchanges."""

    def status(self) -> Sequence[FeedStatus]:
        """How each is doing."""

    def find(self, exchange: str) -> Feed | None:
        """One of them."""


class SyncState(Protocol):
    """How the job is doing: L{tbeast.services.syncdesk.SyncState}."""

    @property
    def state(self) -> str:
        """In one word."""

    @property
    def began_at(self) -> float | None:
        """In seconds since the epoch."""

    @property
    def ended_at(self) -> float | None:
        """Likewise."""

    @property
    def step(self) -> str:
        """What it does now."""

    @property
    def done(self) -> int:
        """How many rows that is."""

    @property
    def of(self) -> int:
        """Of how many; 0: not known."""

    @property
    def outcome(self) -> str:
        """What it did, or why it failed."""


class Sync(Protocol):
    """The sync job: L{tbeast.services.syncdesk.SyncDesk}."""

    @property
    def state(self) -> SyncState:
        """How the job is doing that was begun here last."""

    def begin(self, full: bool = False) -> Awaitable[SyncState | Held]:
        """Begin it; L{Held}: somebody does it."""


class ClusterView(Protocol):
    """What is known of all nodes."""

    @property
    def nodes(self) -> Mapping[str, Mapping[str, int | float]]:
        """By node its statistics."""

    @property
    def complete(self) -> bool:
        """Whether that is all."""

    @property
    def why(self) -> str:
        """Why not."""


class ClusterStats(Protocol):
    """The statistics of all nodes: L{tbeast.services.clusterstats.ClusterStats}."""

    def view(self) -> Awaitable[ClusterView]:
        """What is known of them now; does not fail."""


class Governor(Protocol):
    """The governor of connections."""

    def view(self) -> Mapping[str, Any]:
        """This node and those that it knows."""


class AdminRoot(AdminPage):
    """C{/admin}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"GET": "places"}

    def __init__(self, door: AdminDoor, node: str, now: Now) -> None:
        super().__init__(door)
        self._node = node
        self._now = now

    async def act(self, request: WebRequest) -> Reply | Problem:
        """Say what there is."""
        places = [{"method": method, "path": path, "what": what} for method, path, what in PLACES]
        return Reply({"node": self._node, "time": moment(self._now()), "places": places})


class FeedsPage(AdminPage):
    """C{/admin/feeds}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"GET": "feeds.list"}

    def __init__(self, door: AdminDoor, feeds: Feeds, node: str) -> None:
        super().__init__(door)
        self._feeds = feeds
        self._node = node

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Whatever stands there is taken as an exchange."""
        return FeedPage(self._door, self._feeds, self._node, path.decode("utf-8", "replace"))

    async def act(self, request: WebRequest) -> Reply | Problem:
        """List them all."""
        feeds = [_feed(status) for status in self._feeds.status()]
        paused = [feed["exchange"] for feed in feeds if feed["paused"]]
        return Reply({"node": self._node, "paused": paused, "feeds": feeds})


class FeedPage(AdminPage):
    """C{/admin/feeds/<exchange>}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"GET": "feeds.show"}

    def __init__(self, door: AdminDoor, feeds: Feeds, node: str, exchange: str) -> None:
        super().__init__(door)
        self._feeds = feeds
        self._node = node
        self._exchange = exchange

    def getChild(self, path: bytes, request: Request) -> Resource:
        """What can be done to it."""
        page = {b"reconnect": ReconnectPage, b"pause": PausePage, b"resume": ResumePage}.get(path)
        if page is None:
            return super().getChild(path, request)
        return page(self._door, self._feeds, self._node, self._exchange)

    async def act(self, request: WebRequest) -> Reply | Problem:
        """Find it, and do it."""
        feed = self._feeds.find(self._exchange)
        if feed is None:
            known = ", ".join(status.exchange for status in self._feeds.status())
            return Problem("not_found", f"There is no feed of {self._exchange[:40]!a}; there are {known}.")
        return self.act_on(feed, request)

    def act_on(self, feed: Feed, request: WebRequest) -> Reply | Problem:
        """Show it."""
        return self._said(feed)

    def _said(self, feed: Feed, **more: object) -> Reply:
        members = {"node": self._node, **_feed(feed.status()), **more}
        return Reply(members, what=self._exchange)

    def _done(self, feed: Feed, **more: object) -> Reply:
        return self._said(feed, this_node_only=True, kept_over_restart=False, **more)


class ReconnectPage(FeedPage):
    """C{/admin/feeds/<exchange>/reconnect}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"POST": "feeds.reconnect"}

    def act_on(self, feed: Feed, request: WebRequest) -> Reply | Problem:
        """Replace its connections."""
        drop = wants_drop(request.content.read())
        if isinstance(drop, Problem):
            return drop
        if feed.status().state == PAUSED:
            return Problem("conflict", f"The feed of {self._exchange} is paused; resume it.")
        if drop:
            feed.reconnect("the operator wants it")
            return self._done(feed, dropped=True)
        return self._done(feed, dropped=False, to_be_replaced=feed.renew("the operator wants it"))


class PausePage(FeedPage):
    """C{/admin/feeds/<exchange>/pause}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"POST": "feeds.pause"}

    def act_on(self, feed: Feed, request: WebRequest) -> Reply | Problem:
        """Take nothing from it any more."""
        return nothing(request.content.read()) or self._done(feed, changed=feed.pause())


class ResumePage(FeedPage):
    """C{/admin/feeds/<exchange>/resume}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"POST": "feeds.resume"}

    def act_on(self, feed: Feed, request: WebRequest) -> Reply | Problem:
        """Undo that."""
        return nothing(request.content.read()) or self._done(feed, changed=feed.resume())


class SyncPage(AdminPage):
    """C{/admin/sync}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"GET": "sync.show", b"POST": "sync.begin"}

    def __init__(self, door: AdminDoor, sync: Sync) -> None:
        super().__init__(door)
        self._sync = sync

    async def act(self, request: WebRequest) -> Reply | Problem:
        """Say how it is doing, or begin it."""
        if request.method != b"POST":
            return Reply(_sync(self._sync.state))
        full = wants_full(request.content.read())
        if isinstance(full, Problem):
            return full
        begun = await self._sync.begin(full)
        if isinstance(begun, Held):
            return Problem("conflict", f"The sync job is being done by {begun.node}.", {"node": begun.node})
        headers = {b"Location": b"/admin/sync"}
        return Reply(_sync(begun), 202, "from the beginning" if full else "what is missing", headers)


class ClusterStatsPage(AdminPage):
    """C{/admin/cluster-stats}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"GET": "cluster-stats"}

    def __init__(self, door: AdminDoor, stats: ClusterStats) -> None:
        super().__init__(door)
        self._stats = stats

    async def act(self, request: WebRequest) -> Reply | Problem:
        """Give each node's, and all of them added up."""
        if isinstance(given := options(request.query, ()), Problem):
            return given
        view = await self._stats.view()
        nodes = {node: dict(statistics) for node, statistics in view.nodes.items()}
        return Reply(
            {
                "complete": view.complete, "why": view.why or None, "nodes": nodes,
                "total": dict(added_up(nodes.values())),
            }
        )  # fmt: skip


class GovernorPage(AdminPage):
    """C{/admin/governor}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"GET": "governor.show", b"POST": "governor.set"}

    def __init__(self, door: AdminDoor, governor: Governor, table: ParameterTable) -> None:
        super().__init__(door)
        self._governor = governor
        self._table = table

    async def act(self, request: WebRequest) -> Reply | Problem:
        """Give its view, or set how many connections there may be."""
        if request.method != b"POST":
            return Reply(self._governor.view())
        most = most_connections(request.content.read())
        if isinstance(most, Problem):
            return most
        problem = await put(self._table, MAX_CONNECTIONS, most)
        return problem or Reply({MAX_CONNECTIONS: most, **self._governor.view()}, what=f"{MAX_CONNECTIONS} = {most}")


def admin_page(
    *,
    door: AdminDoor,
    keys: Keys,
    parameters: ParameterTable,
    feeds: Feeds,
    sync: Sync,
    cluster: ClusterStats,
    governor: Governor,
    node: str,
    now: Now,
) -> AdminRoot:
    """Make C{/admin} with all that is below; further pages may be put beside them."""
    root = AdminRoot(door, node, now)
    for name, page in {
        b"keys": KeysPage(door, keys, now),
        b"invalidate-key": InvalidatePage(door, keys, now),
        b"parameters": ParametersPage(door, parameters),
        b"feeds": FeedsPage(door, feeds, node),
        b"sync": SyncPage(door, sync),
        b"cluster-stats": ClusterStatsPage(door, cluster),
        b"governor": GovernorPage(door, governor, parameters),
    }.items():
        root.putChild(name, page)
    return root


def _feed(status: FeedStatus) -> dict[str, Any]:
    heard = status.last_heard_seconds
    return {
        "exchange": status.exchange,
        "state": status.state,
        "paused": status.state == PAUSED,
        "why": status.why,
        "age_seconds": None if heard is None else round(heard, 3),
        "connections": status.connections,
        "connected_seconds": round(status.connected_seconds, 3),
        "symbols": status.symbols,
        "live_symbols": status.live_symbols,
        "refused": list(status.refused),
        "unacknowledged": list(status.unacknowledged),
    }


def _sync(state: SyncState) -> dict[str, Any]:
    return {
        "state": state.state,
        "began_at": moment(state.began_at),
        "ended_at": moment(state.ended_at),
        "step": state.step or None,
        "rows_done": state.done,
        "rows_expected": state.of or None,
        "outcome": state.outcome or None,
    }
