"""/admin/keys and /admin/invalidate-key: keys are made, listed, looked at, changed, revoked and rotated.

A new key stands in the answer to the call that made it and nowhere else, so that answer must not be kept by anybody on
its way. If it is lost, revoke the key and make another: its name is in the list.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import ClassVar, Final, Protocol

from twisted.web.resource import Resource
from twisted.web.server import Request

from tbeast.codecs.adminbodies import (
    details_members,
    grace_seconds,
    key_edit,
    key_filter,
    key_id,
    key_members,
    made_members,
    new_key,
    nothing,
)
from tbeast.codecs.problems import Problem
from tbeast.domain.keyorders import Denied, KeyDetails, KeyEdit, KeyFilter, MadeKey, NewKey
from tbeast.domain.keys import KeyRecord
from tbeast.interfaces import Now
from tbeast.servers.admindoor import AdminDoor, AdminPage, Reply
from tbeast.servers.site import WebRequest

EVERYWHERE: Final = {"in_force_everywhere_within_seconds": 5}
"""How long a change may take to the last node; said with every one."""

_ID: Final = re.compile(r"[!-~]{1,64}")


class Keys(Protocol):
    """The keys, to be changed: L{tbeast.services.keydesk.KeyDesk}."""

    def listed(self, wanted: KeyFilter) -> Awaitable[tuple[Sequence[KeyRecord], str | None] | Denied]:
        """One page, and the id to go on after."""

    def details(self, key_id: str) -> Awaitable[KeyDetails | Denied]:
        """All that is known of one."""

    def create(self, order: NewKey) -> Awaitable[MadeKey | Denied]:
        """Make one."""

    def change(self, key_id: str, edit: KeyEdit) -> Awaitable[KeyDetails | Denied]:
        """Change one."""

    def revoke(self, key_id: str) -> Awaitable[tuple[KeyDetails, bool] | Denied]:
        """Revoke one; whether it was good."""

    def rotate(self, key_id: str, grace_seconds: float) -> Awaitable[MadeKey | Denied]:
        """Put one in the place of another."""

    def invalidate(self, key_id: str) -> Awaitable[KeyDetails | Denied | None]:
        """Have every node read one anew; C{None}: it is no more."""


class KeysPage(AdminPage):
    """C{/admin/keys}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"GET": "keys.list", b"POST": "keys.create"}

    def __init__(self, door: AdminDoor, keys: Keys, now: Now) -> None:
        super().__init__(door)
        self._keys = keys
        self._now = now

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Whatever stands there is taken as a key's id."""
        return KeyPage(self._door, self._keys, self._now, path)

    async def act(self, request: WebRequest) -> Reply | Problem:
        """List keys, or make one."""
        if request.method == b"POST":
            return await self._create(request.content.read())
        wanted = key_filter(request.query)
        if isinstance(wanted, Problem):
            return wanted
        found = await self._keys.listed(wanted)
        if isinstance(found, Denied):
            return denied(found)
        page, cursor = found
        now = self._now()
        return Reply({"keys": [key_members(record, now) for record in page], "cursor": cursor}, what=f"{len(page)}")

    async def _create(self, body: bytes) -> Reply | Problem:
        order = new_key(body)
        if isinstance(order, Problem):
            return order
        made = await self._keys.create(order)
        if isinstance(made, Denied):
            return denied(made)
        return _made(made, self._now())


class KeyPage(AdminPage):
    """C{/admin/keys/<id>}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"GET": "keys.show", b"PATCH": "keys.change"}

    def __init__(self, door: AdminDoor, keys: Keys, now: Now, given: bytes) -> None:
        super().__init__(door)
        self._keys = keys
        self._now = now
        text = given.decode("latin-1")
        self._id = text if _ID.fullmatch(text) else None

    def getChild(self, path: bytes, request: Request) -> Resource:
        """What can be done to the key."""
        page = {b"revoke": RevokePage, b"rotate": RotatePage}.get(path)
        if page is None:
            return super().getChild(path, request)
        return page(self._door, self._keys, self._now, (self._id or "").encode("ascii"))

    async def act(self, request: WebRequest) -> Reply | Problem:
        """Refuse what can be no id; else do it."""
        if self._id is None:
            return Problem("unknown_key", "There is no key with such an id.")
        return await self.act_on(self._id, request)

    async def act_on(self, key_id: str, request: WebRequest) -> Reply | Problem:
        """Show it, or change it."""
        if request.method != b"PATCH":
            found = await self._keys.details(key_id)
            return denied(found) if isinstance(found, Denied) else self._shown(found)
        edit = key_edit(request.content.read())
        if isinstance(edit, Problem):
            return edit
        changed = await self._keys.change(key_id, edit)
        if isinstance(changed, Denied):
            return denied(changed)
        set_anew = [*(["tier"] if edit.tier else []), *(["lrs_addon"] if edit.lrs_addon is not None else [])]
        what = f"{key_id}: {', '.join([*set_anew, *edit.limits])}"
        return Reply({**details_members(changed, self._now()), **EVERYWHERE}, what=what)

    def _shown(self, details: KeyDetails) -> Reply:
        return Reply(details_members(details, self._now()), what=details.record.account.key_id)


class RevokePage(KeyPage):
    """C{/admin/keys/<id>/revoke}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"POST": "keys.revoke"}

    async def act_on(self, key_id: str, request: WebRequest) -> Reply | Problem:
        """Revoke it, for good."""
        if (problem := nothing(request.content.read())) is not None:
            return problem
        revoked = await self._keys.revoke(key_id)
        if isinstance(revoked, Denied):
            return denied(revoked)
        details, was_good = revoked
        return Reply({**details_members(details, self._now()), "was_good": was_good, **EVERYWHERE}, what=key_id)


class RotatePage(KeyPage):
    """C{/admin/keys/<id>/rotate}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"POST": "keys.rotate"}

    async def act_on(self, key_id: str, request: WebRequest) -> Reply | Problem:
        """Put a new key in its place."""
        grace = grace_seconds(request.content.read())
        if isinstance(grace, Problem):
            return grace
        made = await self._keys.rotate(key_id, grace)
        return denied(made) if isinstance(made, Denied) else _made(made, self._now(), f"{key_id} by ")


class InvalidatePage(AdminPage):
    """C{/admin/invalidate-key}."""

    actions: ClassVar[Mapping[bytes, str]] = {b"POST": "keys.invalidate"}

    def __init__(self, door: AdminDoor, keys: Keys, now: Now) -> None:
        super().__init__(door)
        self._keys = keys
        self._now = now

    async def act(self, request: WebRequest) -> Reply | Problem:
        """Have every node forget the key, and read it anew."""
        wanted = key_id(request.content.read())
        if isinstance(wanted, Problem):
            return wanted
        if _ID.fullmatch(wanted) is None:
            return Problem("unknown_key", "There is no key with such an id.")
        found = await self._keys.invalidate(wanted)
        if isinstance(found, Denied):
            return denied(found)
        there = found is not None
        members = details_members(found, self._now()) if found is not None else {"id": wanted}
        return Reply({"in_database": there, **members, **EVERYWHERE}, what=wanted)


def denied(why: Denied) -> Problem:
    """A refusal of the desk, as it goes out."""
    return Problem(why.code, f"{why.why[:1].upper()}{why.why[1:]}.")


def _made(made: MadeKey, now: float, before: str = "") -> Reply:
    new_id = made.details.record.account.key_id
    headers = {b"Location": f"/admin/keys/{new_id}".encode("ascii")}
    return Reply({**made_members(made, now), **EVERYWHERE}, 201, f"{before}{new_id}", headers)
