"""The door of /admin: who comes in, and what is written down of every call.

Nothing below /admin answers without the key in C{X-Admin-Key}, not even that there is no such page; what is decided
there stands in L{tbeast.domain.adminaccess}. Every call gets a request id, which goes out as C{X-Request-Id}, and one
line in the log: who, from where, what, on what, and how it ended. Of calls without the right key there is a line a
second at most, after the first few, and the next one says how many had none: whoever hammers at the door shall not fill
the disk. All of them are counted. No key stands in any line: not the one that was shown, and none that was made; what
looks like one in a path is blotted out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil
from types import MappingProxyType
from typing import ClassVar, Final, Literal
from urllib.parse import unquote_to_bytes

from attrs import frozen
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from tbeast.codecs import problems, replies
from tbeast.codecs.forwarded import Network, asked_from
from tbeast.codecs.problems import Problem
from tbeast.domain.adminaccess import ALLOWED, GUESSING, MISSING, TOO_FAST, AdminAccess, Entry
from tbeast.domain.counters import Counters
from tbeast.domain.ratelimits import TokenBucket
from tbeast.errors import StoreError, StoreRefusedError
from tbeast.interfaces import Now
from tbeast.servers.site import Page, WebRequest

HEADER: Final = b"x-admin-key"
RETRY_AFTER_SECONDS: Final = 5
TURNED_AWAY: Final = "door"
"""What a call is called that did not come in, in counters and lines."""

LINES_A_SECOND: Final = 1.0
LINES_AT_ONCE: Final = 20
_LONGEST_PART: Final = 80
_MOST_PARTS: Final = 8
_LIKE_A_KEY: Final = re.compile(r"tb_[0-9A-Za-z]{1,10}_\w*|[0-9A-Za-z]{25,}")

_NO_HEADERS: Final[Mapping[bytes, bytes]] = MappingProxyType({})
_TWICE: Final = Problem("malformed_authorization", "The X-Admin-Key header stands more than once.")
_NOT_NOW: Final = "The database cannot be asked now. If something was to be changed, look whether it was before you"


@frozen
class Reply:
    """What a page answers.

    @ivar members: the JSON.
    @ivar what: what it was done to, for the log; never a key.
    @ivar headers: more headers.
    """

    members: Mapping[str, object]
    status: int = 200
    what: str = ""
    headers: Mapping[bytes, bytes] = _NO_HEADERS


class AdminDoor:
    """Lets in who has the key, and writes down every call."""

    log = Logger()

    def __init__(self, access: AdminAccess, trusted: Sequence[Network], now: Now, counters: Counters) -> None:
        """Set it up.

        @param trusted: the networks of our own proxies.
        """
        self._access = access
        self._trusted = tuple(trusted)
        self._now = now
        self._counters = counters
        self._lines = TokenBucket(LINES_A_SECOND, LINES_AT_ONCE, 0.0, now())
        self._without_line = 0

    def who(self, request: WebRequest) -> str:
        """The address that a request comes from."""
        address: object = request.getClientAddress()  # type: ignore[no-untyped-call]
        peer = getattr(address, "host", None) or "unknown"
        return asked_from(peer, request.requestHeaders.getRawHeaders(b"x-forwarded-for", ()), self._trusted)

    def refusal(self, request: WebRequest) -> Problem | None:
        """Why a request may not come in, its headers set; C{None}: it may."""
        shown = request.requestHeaders.getRawHeaders(HEADER, ())
        if len(shown) > 1:
            return _TWICE
        entry = self._access.judge(shown[0].strip() if shown else None, self.who(request), self._now())
        return None if entry.outcome == ALLOWED else _refused(request, entry)

    def note(
        self, request: WebRequest, action: str, status: int, request_id: str, *, what: str = "", outcome: str = "done"
    ) -> None:
        """Count a call, and write it down.

        @param action: from a closed set.
        @param what: what it was done to.
        @param outcome: C{done}, or the code of the refusal.
        """
        self._counters.count("admin_requests", action, str(status))
        turned_away = action == TURNED_AWAY
        if turned_away and self._lines.take(self._now()) > 0.0:
            self._without_line += 1
            return
        more = ""
        if turned_away and self._without_line:
            more, self._without_line = f"; {self._without_line} before it have no line", 0
        level = self.log.warn if turned_away or status >= 500 else self.log.info
        level(
            "admin: {who} {method} {path}: {action} {what} -> {status} {outcome} (request {request_id}){more}",
            who=self.who(request), method=_shown(request.method), path=self._path(request), action=action,
            what=_blotted(what), status=status, outcome=outcome, request_id=request_id, more=more,
        )  # fmt: skip

    def _path(self, request: WebRequest) -> str:
        """The path of a request as the log may have it."""
        shown = [
            "(not shown)" if self._access.is_key(unquote_to_bytes(part)) else _shown(part)
            for part in request.path.split(b"/", _MOST_PARTS)[:_MOST_PARTS]
        ]
        return "/".join(shown)

    def entrance(self, action: str) -> Entrance:
        """The door for a page that answers in its own way, such as a stream."""
        return Entrance(self, action)


@frozen
class Entrance:
    """The door, for one kind of call."""

    door: AdminDoor
    action: str

    def allows(self, request: WebRequest) -> Literal[True] | Problem:
        """Whether a request may come in; it is counted and written down either way."""
        problem = self.door.refusal(request)
        request_id = request.site.new_id()
        if problem is None:
            request.responseHeaders.setRawHeaders(b"X-Request-Id", [request_id.encode("ascii")])
            self.door.note(request, self.action, 200, request_id, outcome="let in")
            return True
        self.door.note(request, TURNED_AWAY, problem.status, request_id, outcome=problem.code)
        return problem


class AdminPage(Page):
    """A page below /admin.

    @cvar actions: what each of its methods is called, in counters and in the log.
    """

    actions: ClassVar[Mapping[bytes, str]] = {}
    log = Logger()

    def __init__(self, door: AdminDoor) -> None:
        super().__init__()
        self._door = door

    def getChild(self, path: bytes, request: Request) -> Resource:
        """There is nothing below; who may not come in is not told."""
        return AdminNotFound(self._door)

    def render(self, request: WebRequest) -> int:
        """Look at the key, then at the method, and answer."""
        request_id = request.site.new_id()
        request.responseHeaders.setRawHeaders(b"X-Request-Id", [request_id.encode("ascii")])
        problem = self._door.refusal(request)
        if problem is not None:
            self._refuse(request, TURNED_AWAY, problem, request_id)
            return NOT_DONE_YET
        action = self._action(request.method)
        if action is None:
            allowed = b", ".join([*self.actions, *([b"HEAD"] if b"GET" in self.actions else [])])
            request.responseHeaders.setRawHeaders(b"Allow", [allowed])
            problem = Problem("method_not_allowed", f"Here one can only {allowed.decode('ascii')}.")
            self._refuse(request, "unknown", problem, request_id)
        else:
            request.wait_for(self._run(request, action, request_id))
        return NOT_DONE_YET

    def _action(self, method: bytes) -> str | None:
        return self.actions.get(b"GET" if method == b"HEAD" else method)

    async def act(self, request: WebRequest) -> Reply | Problem:
        """Do what a request with one of the methods asks for.

        @raise tbeast.errors.StoreError: it becomes a refusal.
        """
        raise NotImplementedError

    async def _run(self, request: WebRequest, action: str, request_id: str) -> None:
        try:
            done = await self.act(request)
        except StoreRefusedError as error:
            done = Problem("conflict", f"The database will not have it: {error}.")
        except StoreError as error:
            request.responseHeaders.setRawHeaders(b"Retry-After", [b"%d" % RETRY_AFTER_SECONDS])
            done = Problem("store_unavailable", f"{_NOT_NOW} ask again ({error}).")
        except Exception:
            self.log.failure("Request {request_id}: {action} failed", request_id=request_id, action=action)
            done = Problem("internal_error", "The fault is ours, and was noted under this id.")
        if isinstance(done, Problem):
            self._refuse(request, action, done, request_id)
            return
        self._door.note(request, action, done.status, request_id, what=done.what)
        for name, value in done.headers.items():
            request.responseHeaders.setRawHeaders(name, [value])
        request.respond(done.status, problems.encode(done.members), replies.CONTENT_TYPE)

    def _refuse(self, request: WebRequest, action: str, problem: Problem, request_id: str) -> None:
        self._door.note(request, action, problem.status, request_id, outcome=problem.code)
        request.refuse(problem, request_id)


class AdminNotFound(AdminPage):
    """Where nothing is; it says so to those only who have the key."""

    def _action(self, method: bytes) -> str:
        return "unknown"

    async def act(self, request: WebRequest) -> Problem:
        """Say so."""
        return Problem("not_found", "There is nothing at this path; GET /admin says what there is.")


def _refused(request: WebRequest, entry: Entry) -> Problem:
    headers = request.responseHeaders
    if entry.outcome in (GUESSING, TOO_FAST):
        seconds = max(1, ceil(entry.retry_after_seconds))
        headers.setRawHeaders(b"Retry-After", [b"%d" % seconds])
        what = "Too many wrong keys" if entry.outcome == GUESSING else "Too many calls"
        return Problem("rate_limited", f"{what}; come back in {seconds} s.", {"retry_after_seconds": seconds})
    headers.setRawHeaders(b"WWW-Authenticate", [b'X-Admin-Key realm="tbeast"'])
    if entry.outcome == MISSING:
        return Problem("missing_key", "Send the admin key as X-Admin-Key: KEY.")
    return Problem("bad_admin_key", "This is not the admin key.")


def _shown(text: bytes) -> str:
    """What a client wrote, for one line of a log."""
    return _blotted(text[:_LONGEST_PART].decode("ascii", "backslashreplace"))


def _blotted(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return _LIKE_A_KEY.sub("(not shown)", printable)
