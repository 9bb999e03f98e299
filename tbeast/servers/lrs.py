"""The report surface over HTTP: C{/reports/usage}, C{/summary}, C{/report-usage} and C{/report-summary}.

A question for a report passes, in this order: who asks (401), the bucket of reports (429), the reading of what is asked
(400), and then what is told in L{tbeast.services.reports}: only there a report is used up. So a question that cannot be
read costs nothing. Who asks is known by his key, as on the price surface; or he is the operator, by C{X-Admin-Key},
which is judged at the door of /admin, and where none is set nobody is. The operator may see everybody's lines, a key
its own. C{RateLimit} headers speak of the month's reports, not of the bucket.

The format is that of C{format=}; without it the one that C{Accept} likes best, and JSON if it says nothing.

C{HEAD} makes no report: it checks who asks and what is asked, and says which format the answer would have. It uses up
a token of the bucket, and nothing else.

A report goes out piece by piece, and a piece is made when the one before has left us. A client that does not take what
there is within the idle timeout is cut off and counted, as any other (L{tbeast.servers.site}). A report that ends
before its end, for whatever reason, ends with its connection cut, over HTTP/1.1 without the last chunk; so a file that
arrived whole is whole.

Each answer is in the ledger once, under the service C{lrs}: as admitted, if a report or a part of one was given. These
are no questions for prices, and do not count against their quota.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from http import HTTPStatus
from math import ceil
from typing import Any, ClassVar, Final, Literal, Protocol
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request
from zope.interface import implementer

from tbeast.codecs.problems import Problem
from tbeast.codecs.reportformats import CONTENT_TYPES
from tbeast.codecs.reportqueries import FORMATS, JSON, Asked, report_query
from tbeast.codecs.signatures import key_of_headers
from tbeast.domain.keys import Account
from tbeast.domain.reportorders import OPERATOR, Allowance
from tbeast.domain.reports import REPORTS
from tbeast.domain.usage import NOBODY
from tbeast.errors import StoreError
from tbeast.interfaces import Now
from tbeast.servers.gate import Gate
from tbeast.servers.site import Page, WebRequest, WebSite

SERVICE: Final = "lrs"

WRITTEN_AT_ONCE: Final = 32 * 1024
"""How many bytes are handed over at a time. Twisted says stop above 64 KiB, so no more than about 96 KiB wait."""

CLIENT: Final = "client"
STOPPING: Final = "stopping"
"""Why a report is broken off."""

KEYS_RETRY_SECONDS: Final = 5

_MEDIA: Final = (
    (b"application", b"json"),
    (b"text", b"csv"),
    (b"text", b"tab-separated-values"),
    (b"text", b"plain"),
)
"""In the order of L{FORMATS}."""


class GivenReport(Protocol):
    """A report that was asked for; see L{tbeast.services.reports.Report}."""

    problem: Problem | None
    retry_after_seconds: float
    allowance: Allowance | None
    headers: list[tuple[bytes, bytes]]
    body: bytes | None

    def pieces(self) -> AsyncIterator[bytes]:
        """The report, in pieces."""

    def wait(self) -> None:
        """The client does not take it just now."""

    def go_on(self) -> None:
        """The client takes it again."""

    def break_off(self, why: str) -> None:
        """It ends before its end, and is closed."""

    def close(self) -> None:
        """Nothing of it is left here."""


class Reports(Protocol):
    """Makes reports; see L{tbeast.services.reports.Reports}."""

    def wait_seconds(self, key_id: str, now: float) -> float:
        """Take a token of a key's bucket: 0, or when to come back."""

    async def begin(self, account: Account | None, asked: Asked, began_at: float, id_json: bytes = b"") -> GivenReport:
        """Make a report, or as much of it as is needed to give it out."""


class Operator(Protocol):
    """Knows the operator; see L{tbeast.servers.admindoor.Entrance}."""

    def allows(self, request: WebRequest) -> Literal[True] | Problem:
        """Whether it is he who asks; why not."""


async def _one(body: bytes) -> AsyncIterator[bytes]:
    yield body


@implementer(IPushProducer)
class Outflow:
    """Writes a report to a client, as fast as it is taken."""

    def __init__(self, request: LrsRequest, report: GivenReport) -> None:
        self._request = request
        self._report = report
        self._is_paused = False
        self._why_over = ""
        self._room: Deferred[None] | None = None

    async def run(self) -> bool:
        """Write all of it; C{False}: it ended before its end."""
        request, report = self._request, self._report
        request.registerProducer(self, True)  # type: ignore[no-untyped-call]
        pieces = report.pieces() if report.body is None else _one(report.body)
        try:
            async with aclosing(pieces):  # type: ignore[type-var]  # it is a generator
                async for piece in pieces:
                    for start in range(0, len(piece), WRITTEN_AT_ONCE):
                        if self._is_paused and not self._why_over:
                            await self._wait_for_room()
                        if self._why_over:
                            report.break_off(self._why_over)
                            return False
                        request.write(piece[start : start + WRITTEN_AT_ONCE])  # type: ignore[no-untyped-call]
                    if self._is_paused and not self._why_over:
                        # the next piece is not made before this one has left
                        await self._wait_for_room()
        except StoreError:
            return False  # which was told where it happened
        finally:
            report.close()
            if not request.is_gone:
                request.unregisterProducer()  # type: ignore[no-untyped-call]
        if self._why_over:
            report.break_off(self._why_over)
        return not self._why_over

    async def _wait_for_room(self) -> None:
        self._report.wait()
        self._room = Deferred()
        await self._room
        self._report.go_on()

    def end(self, why: str) -> None:
        """Write no more."""
        if not self._why_over:
            self._why_over = why
            self._go_on()

    def pauseProducing(self) -> None:
        """There is enough to be sent."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """All of it was sent."""
        self._is_paused = False
        self._go_on()

    def stopProducing(self) -> None:
        """The connection is gone."""
        self.end(CLIENT)

    def _go_on(self) -> None:
        if self._room is not None:
            room, self._room = self._room, None
            room.callback(None)


class LrsRequest(WebRequest):
    """One request on the report surface.

    @ivar key_id: who asks, for the ledger.
    @ivar is_given: whether a report, or a part of one, was given.
    """

    site: LrsSite
    key_id = NOBODY
    is_given = False
    _flow: Outflow | None = None

    def give(self, report: GivenReport) -> None:
        """Send a report that can be given."""
        ledger = self.site.ledger
        is_closed = ledger is not None and ledger.is_closed
        if self.site.is_stopping or is_closed or self.is_gone:
            report.break_off(CLIENT if self.is_gone else STOPPING)
            if not is_closed:
                self._record(200)
            if not self.is_gone:
                self.channel.cut()
            return
        headers = self.responseHeaders
        for name, value in report.headers:
            headers.setRawHeaders(name, [value])
        headers.setRawHeaders(b"Cache-Control", [b"no-store"])
        if report.body is not None:
            headers.setRawHeaders(b"Content-Length", [b"%d" % len(report.body)])
        if not self.channel.persistent:
            headers.setRawHeaders(b"Connection", [b"close"])
        self.setResponseCode(200, b"OK")
        self.site.count(200)
        self.wait_for(self._write(report))

    async def _write(self, report: GivenReport) -> None:
        flow = self._flow = Outflow(self, report)
        self.site.flows.add(flow)
        is_whole = False
        try:
            is_whole = await flow.run()
        except Exception:
            self._log.failure("A report broke off by a fault of ours")
        self.site.flows.discard(flow)
        self._record(200)
        if self.is_gone:
            return
        if is_whole:
            self.finish()  # type: ignore[no-untyped-call]
        else:
            self.channel.cut()

    def tell_format(self, form: str) -> None:
        """Answer HEAD: which format the report would have. How long it would be is not known."""
        self._record(200)
        if self.is_gone:
            return
        self.site.count(200)
        self.responseHeaders.setRawHeaders(b"Content-Type", [CONTENT_TYPES[form]])
        self.responseHeaders.setRawHeaders(b"Cache-Control", [b"no-store"])
        self.setResponseCode(200, HTTPStatus.OK.phrase.encode("ascii"))
        self.write(b"")  # type: ignore[no-untyped-call]
        self.finish()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:
        """The client went away."""
        super().connectionLost(reason)
        if self._flow is not None:
            self._flow.end(CLIENT)

    def _record(self, status: int) -> None:
        ledger = self.site.ledger
        if ledger is None or self._is_recorded:
            return
        self._is_recorded = True
        now = self.site.now()
        took = max(int((now - self.began_at) * 1e6), 0)
        ledger.count(self.key_id, self.site.service, "http", "", "", "", status, self.is_given, now, took)


class LrsSite(WebSite):
    """The report surface.

    @ivar flows: the reports that go out just now.
    @ivar is_stopping: whether the port is closed.
    """

    requestFactory = LrsRequest

    def __init__(self, root: Resource, **parts: Any) -> None:
        """Set it up; takes what L{WebSite} takes."""
        super().__init__(root, service=SERVICE, **parts)
        self.flows: set[Outflow] = set()
        self.is_stopping = False

    def startFactory(self) -> None:
        """The port is open."""
        super().startFactory()
        self.is_stopping = False

    def stopFactory(self) -> None:
        """The port is closed: reports that go out are broken off, for nobody would be told of their end."""
        self.is_stopping = True
        for flow in list(self.flows):
            flow.end(STOPPING)
        super().stopFactory()


class ReportsPage(Page):
    """C{/reports}, which is nothing by itself; below it are the reports."""

    def __init__(self, gate: Gate, reports: Reports, now: Now, operator: Operator | None = None) -> None:
        """Set it up.

        @param operator: knows the operator; C{None}: there is none.
        """
        super().__init__()
        self.gate = gate
        self.reports = reports
        self.now = now
        self.operator = operator
        self._pages = {name.encode("ascii"): _ReportPage(self, name) for name in REPORTS}

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Find a report."""
        return self._pages.get(path) or super().getChild(path, request)

    def answer(self, request: WebRequest) -> None:
        """Say what there is."""
        request.refuse(Problem("not_found", f"Name a report: {', '.join(f'/reports/{name}' for name in REPORTS)}."))


class _ReportPage(Page):
    methods: ClassVar[tuple[bytes, ...]] = (b"GET", b"HEAD")

    def __init__(self, above: ReportsPage, report: str) -> None:
        super().__init__()
        self._above = above
        self._report = report

    def answer(self, request: WebRequest) -> None:
        assert isinstance(request, LrsRequest)
        account = self._account(request)
        if isinstance(account, Problem):
            if account.status == 401:
                known = b', error="invalid_token"' if account.code == "bad_key" else b""
                if account.code != "bad_admin_key":
                    request.responseHeaders.setRawHeaders(b"WWW-Authenticate", [b'Bearer realm="tbeast"' + known])
            elif account.status == 503:
                request.responseHeaders.setRawHeaders(b"Retry-After", [b"%d" % KEYS_RETRY_SECONDS])
            request.refuse(account)
            return
        request.key_id = OPERATOR if account is None else account.key_id
        wait = self._above.reports.wait_seconds(request.key_id, self._above.now())
        if wait > 0.0:
            self._refuse(request, Problem("rate_limited", "Reports are asked for too fast."), wait)
            return
        query = request.query
        if not _names_format(query):
            form = _accepted(request.requestHeaders.getRawHeaders(b"accept"))
            query = query + b"&format=" + form.encode("ascii")
        seen = None if account is None else account.key_id
        asked = report_query(self._report, query, key_id=seen, now_us=int(self._above.now() * 1e6))
        if isinstance(asked, Problem):
            request.refuse(asked)
        elif request.method == b"HEAD":
            request.tell_format(asked.format)
        else:
            request.wait_for(self._make(request, account, asked))

    def _account(self, request: LrsRequest) -> Account | Problem | None:
        """Who asks; C{None}: the operator."""
        headers, gate = request.requestHeaders, self._above.gate
        if headers.hasHeader(b"x-admin-key"):
            operator = self._above.operator
            if operator is None:
                return Problem("bad_admin_key", "There is no operator's key here.")
            allowed = operator.allows(request)
            return None if allowed is True else allowed
        key = key_of_headers(headers.getRawHeaders(b"authorization"), headers.getRawHeaders(b"x-api-key"))
        if isinstance(key, Problem):
            return key
        account = gate.keyring.find(key)
        if account is None:
            if gate.keyring.is_complete:
                return Problem("bad_key", "Nobody has this key, or it was taken back.")
            return Problem("keys_unavailable", "The keys have not been loaded yet. Try again, or ask another node.")
        request.key_id = account.key_id
        if gate.is_shut:
            return Problem("metering_unavailable", "Requests cannot be recorded. Try again, or ask another node.")
        return account

    async def _make(self, request: LrsRequest, account: Account | None, asked: Asked) -> None:
        report = await self._above.reports.begin(account, asked, request.began_at)
        if report.allowance is not None:
            headers = request.responseHeaders
            headers.setRawHeaders(b"RateLimit-Limit", [b"%d" % report.allowance.limit])
            headers.setRawHeaders(b"RateLimit-Remaining", [b"%d" % report.allowance.remaining])
            headers.setRawHeaders(b"RateLimit-Reset", [b"%d" % report.allowance.reset_seconds])
        if report.problem is not None:
            self._refuse(request, report.problem, report.retry_after_seconds)
            return
        request.is_given = True
        request.give(report)

    def _refuse(self, request: LrsRequest, problem: Problem, wait: float) -> None:
        request.responseHeaders.setRawHeaders(b"Retry-After", [b"%d" % max(1, ceil(wait))])
        request.refuse(problem)


def lrs_pages(
    *, gate: Gate, reports: Reports, now: Now, operator: Operator | None = None
) -> Mapping[bytes, Resource]:  # fmt: skip
    """Make the pages of the report surface, by the name they stand under."""
    return {b"reports": ReportsPage(gate, reports, now, operator)}


def _names_format(query: bytes) -> bool:
    return any(unquote_to_bytes(part.partition(b"=")[0]) == b"format" for part in query.split(b"&"))


def _accepted(fields: Sequence[bytes] | None) -> str:
    """The format that an C{Accept} header likes best (RFC 9110, section 12.5.1); what it does not name, it may have."""
    ranges: dict[tuple[bytes, bytes], float] = {}
    for part in b",".join(fields or ()).split(b","):
        name, *parameters = (word.strip().lower() for word in part.split(b";"))
        kind, slash, sort = name.partition(b"/")
        if slash:
            ranges[kind, sort] = _weight(parameters)
    best, most = JSON, 0.0
    for form, (kind, sort) in zip(FORMATS, _MEDIA, strict=True):
        for known in ((kind, sort), (kind, b"*"), (b"*", b"*")):
            if known in ranges:
                if ranges[known] > most:
                    best, most = form, ranges[known]
                break
    return best


def _weight(parameters: Sequence[bytes]) -> float:
    for parameter in parameters:
        if parameter.startswith(b"q="):
            try:
                return min(max(float(parameter[2:]), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
