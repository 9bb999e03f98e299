"""/admin in memory: what is behind it is laid out by the test."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred, succeed

from tbeast.domain.adminaccess import AdminAccess
from tbeast.domain.feedstatus import LIVE, PAUSED, FeedStatus
from tbeast.domain.keyorders import Denied, KeyEdit, KeyFilter, MadeKey, NewKey, limited
from tbeast.domain.keys import KeyRecord, account_of
from tbeast.domain.parameters import PARAMETERS, Change, defaults, read
from tbeast.domain.plans import PLANS
from tbeast.domain.syncplan import Held
from tbeast.servers.admin import AdminRoot, admin_page
from tbeast.servers.admindoor import AdminDoor
from tbeast.servers.site import tree
from tbeast.services.parameterdesk import ParameterState, ParameterStates
from tbeast.services.parameters import Reloaded
from tbeast.services.syncdesk import RUNNING, SyncState
from tbeast.settingkinds import Network
from tbeast.test.servers.rooms import House, Response, Wire, feed_of

KEY = "an-admin-key-of-25-letters"


@frozen
class Details:
    """All that is known of a key."""

    record: KeyRecord
    email: str | None = None
    revoked_at: float | None = None
    replaces: str | None = None
    replaced_by: str | None = None


def text_of(number: int) -> str:
    return f"tb_{'k' * 8}{number:02d}_{'s' * 32}"


@define
class Keys:
    """Keys in a dictionary.

    @ivar asked: every call.
    @ivar away: what each call raises, if anything.
    """

    time: float
    details_of: dict[str, Details] = field(factory=dict)
    asked: list[tuple[object, ...]] = field(factory=list)
    away: Exception | None = None

    def add(self, name: str = "desk", tier: str = "free") -> MadeKey:
        text = text_of(len(self.details_of))
        details = Details(KeyRecord(account_of(text, tier, name), False, self.time, None, 0, "2026-04"))
        self.details_of[details.record.account.key_id] = details
        return MadeKey(text, details)

    def _ask(self, *what: object) -> None:
        self.asked.append(what)
        if self.away is not None:
            raise self.away

    def _find(self, key_id: str) -> Details | Denied:
        return self.details_of.get(key_id) or Denied("unknown_key", f"there is no key {key_id}")

    async def listed(self, wanted: KeyFilter) -> tuple[Sequence[KeyRecord], str | None] | Denied:
        self._ask("listed", wanted)
        found = [details.record for details in self.details_of.values()][: wanted.limit]
        return found, found[-1].account.key_id if len(self.details_of) > wanted.limit else None

    async def details(self, key_id: str) -> Details | Denied:
        self._ask("details", key_id)
        return self._find(key_id)

    async def create(self, order: NewKey) -> MadeKey | Denied:
        self._ask("create", order)
        if order.tier not in PLANS:
            return Denied("malformed_parameter", "there is no such tier")
        return self.add(order.name, order.tier)

    async def change(self, key_id: str, edit: KeyEdit) -> Details | Denied:
        self._ask("change", key_id, edit)
        found = self._find(key_id)
        if isinstance(found, Denied):
            return found
        account = found.record.account
        plan = limited(account.plan, edit.limits)
        found = evolve(found, record=evolve(found.record, account=evolve(account, plan=plan)))
        self.details_of[key_id] = found
        return found

    async def revoke(self, key_id: str) -> tuple[Details, bool] | Denied:
        self._ask("revoke", key_id)
        found = self._find(key_id)
        if isinstance(found, Denied):
            return found
        gone = evolve(found, record=evolve(found.record, revoked=True), revoked_at=self.time)
        self.details_of[key_id] = gone
        return gone, not found.record.revoked

    async def rotate(self, key_id: str, grace_seconds: float) -> MadeKey | Denied:
        self._ask("rotate", key_id, grace_seconds)
        found = self._find(key_id)
        if isinstance(found, Denied):
            return found
        if found.record.revoked:
            return Denied("conflict", "the key is revoked; make a new one")
        return evolve(self.add(), replaced=found)

    async def invalidate(self, key_id: str) -> Details | Denied | None:
        self._ask("invalidate", key_id)
        return None if key_id == "vanished" else self._find(key_id)


class Table:
    """Parameters in a dictionary."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.reloads = 0
        self.away: Exception | None = None

    def value(self, name: str) -> Any:
        return self.rows.get(name, defaults()[name])

    async def states(self) -> ParameterStates:
        if self.away is not None:
            raise self.away
        states = tuple(
            ParameterState(parameter, self.value(name), self.value(name), name in self.rows, parameter.default, "")
            for name, parameter in PARAMETERS.items()
        )
        return ParameterStates(states, tuple(self.rows.keys() - PARAMETERS.keys()), 300.0)

    async def put(self, name: str, value: object) -> Reloaded:
        self.rows[name] = read(name, value)
        return await self.reload()

    async def remove(self, name: str) -> bool:
        return self.rows.pop(name, None) is not None

    async def reload(self) -> Reloaded:
        self.reloads += 1
        return Reloaded("database", (Change("sync_hour_utc", 6, 7),))


class Feed:
    """One feed, which does what it is told."""

    def __init__(self, exchange: str) -> None:
        self.kept = feed_of(exchange)
        self.told: list[str] = []

    def status(self) -> FeedStatus:
        return self.kept

    def _become(self, state: str) -> bool:
        changed = self.kept.state != state
        self.kept = evolve(self.kept, state=state)
        return changed

    def pause(self) -> bool:
        return self._become(PAUSED)

    def resume(self) -> bool:
        return self._become(LIVE)

    def renew(self, why: str) -> int:
        self.told.append("renew")
        return 3

    def reconnect(self, why: str) -> None:
        self.told.append("reconnect")


class Feeds:
    def __init__(self) -> None:
        self.feeds = {name: Feed(name) for name in ("coinbase", "kraken")}

    def status(self) -> list[FeedStatus]:
        return [feed.status() for feed in self.feeds.values()]

    def find(self, exchange: str) -> Feed | None:
        return self.feeds.get(exchange)


class Sync:
    def __init__(self) -> None:
        self.state = SyncState("never")
        self.begun: list[bool] = []
        self.busy: str | None = None

    def begin(self, full: bool = False) -> Deferred[SyncState | Held]:
        if self.busy is not None:
            return succeed(Held(self.busy, False))
        self.begun.append(full)
        self.state = SyncState(RUNNING, began_at=1_776_003_781.0, step="copying keys", done=5)
        return succeed(self.state)


@frozen
class View:
    nodes: Mapping[str, Mapping[str, int | float]]
    complete: bool = True
    why: str = ""


class Cluster:
    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, int | float]] = {}

    async def view(self) -> View:
        return View(self.nodes)


class Governor:
    def view(self) -> Mapping[str, Any]:
        return {"state": "single", "limit": 6000}


class AdminRig:
    """The house with /admin in it.

    @ivar address: where the wire's client sits, for all that the server sees.
    """

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self.house = house = House()
        self.keys = Keys(house.time)
        self.table = Table()
        self.feeds = Feeds()
        self.sync = Sync()
        self.cluster = Cluster()
        self.door = AdminDoor(AdminAccess(KEY, house.time), trusted, house.now, house.counters)
        self.root: AdminRoot = admin_page(
            door=self.door, keys=self.keys, parameters=self.table, feeds=self.feeds, sync=self.sync,
            cluster=self.cluster, governor=Governor(), node="n1", now=house.now,
        )  # fmt: skip
        self.site = house.site(tree({b"admin": self.root}))

    def ask(
        self, target: str, method: str = "GET", body: object = None, key: str | None = KEY,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Response:  # fmt: skip
        """Ask on a connection of its own; a body that is not bytes goes as JSON."""
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        shown = [("X-Admin-Key", key)] if key is not None else []
        return Wire(self.site).ask(target, None, method, sent, [*shown, *headers])

    def count(self, action: str, status: int) -> int:
        return self.house.counters.value("admin_requests", action, str(status))
