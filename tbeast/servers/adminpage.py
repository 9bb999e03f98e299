"""The operator's page under /admin, and what keeps it up to date.

  - C{/admin/ui}: the page, with C{page.js} and C{page.css} below it. It is the same for everybody and shows nothing but
    a form for the admin key, so nobody is asked for one; its policy (L{POLICY}) lets it load nothing from elsewhere,
    send nothing elsewhere, and make no markup out of text.
  - C{/admin/events}: server-sent events, for who shows the admin key. First C{whole}: everything; then C{now} each
    second: the snapshot, and what has changed since the event before. C{id} is that of the newest change; who comes
    back with it as C{Last-Event-ID} is told of the changes beyond it.
  - C{/admin/explain/<ASSET>}: how a price comes about, as /explain tells it to the holder of a key.

An event is written once and goes to all who watch, L{MOST_WATCHERS} at the most. To somebody who has not read what was
sent nothing more is written; when he reads again he is told everything anew, and when he does not within
L{UNREAD_SECONDS} he is cut off. So what waits for a watcher in our memory is what one connection may have waiting and
one event more; and the kernel, which would take megabytes before we noticed anything, is given L{SEND_BUFFER_BYTES}.
Where nothing is to be told for L{HEARTBEAT_SECONDS}, a comment says that we are there. A stream is no question that was
answered: it is counted where it is let in, and not among the requests, which the ledger records.

The port cannot close while somebody watches: L{Watchers.stop} is to be called before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from math import inf
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any, ClassVar, Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request
from zope.interface import implementer

from tbeast.codecs import problems, replies
from tbeast.codecs.pricequeries import asset_query
from tbeast.codecs.problems import Problem
from tbeast.interfaces import Now
from tbeast.servers.site import SLOW_READ, Page, WebRequest

MOST_WATCHERS: Final = 16
RETRY_AFTER_SECONDS: Final = 10
HEARTBEAT_SECONDS: Final = 15.0
UNREAD_SECONDS: Final = 20.0
LOOK_SECONDS: Final = 5.0
SEND_BUFFER_BYTES: Final = 65_536
LONGEST_ID: Final = 80

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    b"Content-Security-Policy": POLICY.encode("ascii"),
    b"X-Content-Type-Options": b"nosniff",
    b"Referrer-Policy": b"no-referrer",
    b"Cross-Origin-Opener-Policy": b"same-origin",
    b"Cross-Origin-Resource-Policy": b"same-origin",
}

_FILES: Final = {
    b"": ("page.html", b"text/html; charset=utf-8"),
    b"page.js": ("page.js", b"text/javascript; charset=utf-8"),
    b"page.css": ("page.css", b"text/css; charset=utf-8"),
}


class Access(Protocol):
    """Knows who may administer."""

    def allows(self, request: WebRequest) -> bool | Problem:
        """Whether this request may be answered; if not, C{False} where nothing is to be seen, or why not."""


class Overview(Protocol):
    """What is told; see L{tbeast.services.overview.Overview}.

    @ivar listeners: each is called when there is something new.
    @ivar edition: another number whenever L{whole} is to be told anew.
    @ivar life: names the process, in letters and digits.
    """

    listeners: list[Callable[[], object]]
    edition: int
    life: str

    def whole(self) -> Mapping[str, object]:
        """What is to be known beside the snapshot and the changes."""

    def snapshot(self) -> Mapping[str, object]:
        """How everything is."""

    def changes(self, after: int = 0) -> list[list[object]]:
        """The changes beyond that number, each of which begins with its own."""


class Explainer(Protocol):
    """Tells how prices come about."""

    def explain(self, code: str, now: float) -> bytes | Problem:
        """How the price of C{code} comes about, as JSON."""


class FilePage(Page):
    """A file of the package, one of those that make the page."""

    def __init__(self, file: str, content_type: bytes) -> None:
        super().__init__()
        self._content_type = content_type
        self._body = (files("tbeast") / "data" / "ui" / file).read_bytes()

    def answer(self, request: WebRequest) -> None:
        """Give it out."""
        for header, value in HEADERS.items():
            request.responseHeaders.setRawHeaders(header, [value])
        request.respond(200, self._body, self._content_type)


def ui_page() -> Resource:
    """Make the page, with the files that it needs below it."""
    page = FilePage(*_FILES[b""])
    for name, told in _FILES.items():
        page.putChild(name, FilePage(*told))
    return page


class AdminPage(Page):
    """A page for those who administer."""

    methods: ClassVar[tuple[bytes, ...]] = (b"GET",)

    def __init__(self, access: Access) -> None:
        super().__init__()
        self._access = access

    def answer(self, request: WebRequest) -> None:
        """Find out whether they may."""
        allowed = self._access.allows(request)
        if isinstance(allowed, Problem):
            request.refuse(allowed)
        elif not allowed:
            request.refuse(Problem("not_found", "There is nothing at this path."))
        else:
            self.answer_admitted(request)

    def answer_admitted(self, request: WebRequest) -> None:
        """Answer one who may."""
        raise NotImplementedError


class EventsPage(AdminPage):
    """C{GET /admin/events}."""

    def __init__(self, access: Access, watchers: Watchers) -> None:
        super().__init__(access)
        self._watchers = watchers

    def answer_admitted(self, request: WebRequest) -> None:
        """Begin to tell, unless too many are told already."""
        if self._watchers.is_full:
            request.responseHeaders.setRawHeaders(b"Retry-After", [b"%d" % RETRY_AFTER_SECONDS])
            request.refuse(Problem("too_many_connections", f"Not more than {MOST_WATCHERS} can watch at a time."))
        else:
            self._watchers.add(request)


class ExplainPage(AdminPage):
    """C{/admin/explain}, and below it each asset."""

    def __init__(self, access: Access, explainer: Explainer, now: Now, asset: bytes | None = None) -> None:
        super().__init__(access)
        self._explainer = explainer
        self._now = now
        self._asset = asset

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Whatever stands there is taken as an asset."""
        if self._asset is not None:
            return super().getChild(path, request)
        return ExplainPage(self._access, self._explainer, self._now, path)

    def answer_admitted(self, request: WebRequest) -> None:
        """Explain."""
        if self._asset is None:
            request.refuse(Problem("not_found", "Name an asset: /admin/explain/BTC."))
            return
        asked = asset_query(self._asset.decode("utf-8", "replace"))
        told = asked if isinstance(asked, Problem) else self._explainer.explain(asked.asset, self._now())
        if isinstance(told, Problem):
            request.refuse(told)
        else:
            request.respond(200, told, replies.CONTENT_TYPE)


@implementer(IPushProducer)
class Watcher:
    """One who watches.

    @ivar unread_since: since when he has not read what was sent, by the clock; C{None}: he has.
    @ivar edition: of what he was told in whole; -1: he is to be told.
    @ivar seen: the number of the newest change that he was told of.
    """

    def __init__(self, request: WebRequest, clock: IReactorTime, seen: int) -> None:
        self.request = request
        self.unread_since: float | None = None
        self.edition = -1
        self.seen = seen
        self.written_at = clock.seconds()
        self._clock = clock

    def write(self, data: bytes) -> None:
        """Send it."""
        self.written_at = self._clock.seconds()
        self.request.write(data)  # type: ignore[no-untyped-call]

    def pauseProducing(self) -> None:
        """What was sent last still waits."""
        if self.unread_since is None:
            self.unread_since = self._clock.seconds()

    def resumeProducing(self) -> None:
        """It has gone out."""
        self.unread_since = None

    def stopProducing(self) -> None:
        """The connection is gone; that is told elsewhere, too."""

    def end(self) -> None:
        """Tell nothing more."""
        self.request.unregisterProducer()  # type: ignore[no-untyped-call]
        self.request.channel.part()
        self.request.finish()  # type: ignore[no-untyped-call]


class Watchers:
    """All who watch."""

    def __init__(self, overview: Overview, clock: IReactorTime) -> None:
        self._overview = overview
        self._clock = clock
        self._all: dict[WebRequest, Watcher] = {}
        self._next: IDelayedCall | None = None
        self._is_over = False

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all)

    @property
    def is_full(self) -> bool:
        """Whether nobody else can watch."""
        return self._is_over or len(self._all) >= MOST_WATCHERS

    def add(self, request: WebRequest) -> None:
        """Tell one more, from everything on."""
        headers = request.responseHeaders
        headers.setRawHeaders(b"Content-Type", [b"text/event-stream"])
        headers.setRawHeaders(b"Cache-Control", [b"no-store"])
        headers.setRawHeaders(b"X-Accel-Buffering", [b"no"])  # what nginx would keep back would come too late
        headers.setRawHeaders(b"X-Content-Type-Options", [b"nosniff"])
        request.setResponseCode(200)
        watcher = Watcher(request, self._clock, self._seen_by(request))
        request.notifyFinish().addBoth(self._gone, request)
        if not self._all:
            self._overview.listeners.append(self._tell)
            self._next = self._clock.callLater(LOOK_SECONDS, self._look)
        self._all[request] = watcher
        _buffer_little(request.channel.transport)
        request.registerProducer(watcher, True)  # type: ignore[no-untyped-call]
        self._tell_whole(watcher)

    def stop(self) -> None:
        """End with all of them, and take nobody else."""
        self._is_over = True
        for watcher in list(self._all.values()):
            watcher.end()

    def _seen_by(self, request: WebRequest) -> int:
        """The number of the newest change that this client has seen, as far as it was of this process."""
        said = request.requestHeaders.getRawHeaders(b"last-event-id", [b""])[0][:LONGEST_ID]
        life, _, number = said.rpartition(b".")
        return int(number) if life == self._overview.life.encode("ascii") and number.isdigit() else 0

    def _gone(self, _outcome: Failure | None, request: WebRequest) -> None:
        del self._all[request]
        if not self._all:
            self._overview.listeners.remove(self._tell)
            if self._next is not None:
                self._next.cancel()
                self._next = None

    def _tell(self) -> None:
        """There is something new: write it once, and send it to all who have read what they were sent before."""
        events: dict[int, tuple[bytes, int]] = {}
        for watcher in list(self._all.values()):
            if watcher.unread_since is not None:
                watcher.edition = -1
            elif watcher.edition != self._overview.edition:
                self._tell_whole(watcher)
            else:
                if watcher.seen not in events:  # the same for all, unless somebody came a moment ago
                    events[watcher.seen] = self._event("now", watcher.seen, self._overview.snapshot())
                event, watcher.seen = events[watcher.seen]
                watcher.write(event)

    def _tell_whole(self, watcher: Watcher) -> None:
        watcher.edition = self._overview.edition
        told = {**self._overview.whole(), "now": self._overview.snapshot()}
        event, watcher.seen = self._event("whole", watcher.seen, told)
        watcher.write(event)

    def _event(self, name: str, seen: int, told: Mapping[str, object]) -> tuple[bytes, int]:
        """An event, and the number of the newest change that it tells of."""
        changes = self._overview.changes(seen)
        newest = changes[-1][0] if changes else seen
        assert isinstance(newest, int)
        data = problems.encode({**told, "changes": changes})
        event_id = f"{self._overview.life}.{newest}"
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode("ascii"), name.encode("ascii"), data), newest

    def _look(self) -> None:
        """Cut off who does not read, and tell the others that we are there if they were told nothing for long."""
        self._next = self._clock.callLater(LOOK_SECONDS, self._look)
        now = self._clock.seconds()
        for watcher in list(self._all.values()):
            if watcher.unread_since is not None:
                if now - watcher.unread_since >= UNREAD_SECONDS:
                    watcher.request.site.count_slow(SLOW_READ)
                    watcher.unread_since = inf  # once is enough
                    watcher.request.channel.cut()
            elif now - watcher.written_at >= HEARTBEAT_SECONDS:
                watcher.write(b": still here\n\n")


def _buffer_little(transport: Any) -> None:
    tcp = getattr(transport, "transport", transport)  # that of TLS has another beneath it
    handle = getattr(tcp, "getHandle", None)
    if handle is not None:
        handle().setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES)


def operator_pages(
    *, entrance: Callable[[str], Access], watchers: Watchers, explainer: Explainer, now: Now
) -> Mapping[bytes, Resource]:
    """Make the pages, by the name under which they stand below /admin.

    @param entrance: gives who is let in, by what is asked for: C{events} or C{explain}.
    """
    return {
        b"ui": ui_page(),
        b"events": EventsPage(entrance("events"), watchers),
        b"explain": ExplainPage(entrance("explain"), explainer, now),
    }
