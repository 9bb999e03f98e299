"""The operator's page and its events: who is told what, and what becomes of those who do not read."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbeast.codecs.problems import Problem
from tbeast.servers.adminpage import (
    HEADERS,
    HEARTBEAT_SECONDS,
    MOST_WATCHERS,
    POLICY,
    UNREAD_SECONDS,
    Watchers,
    operator_pages,
)
from tbeast.servers.site import WebRequest, WebSite, tree
from tbeast.test.servers.rooms import House, Wire, problem_of, question, view_of

KEY = "an-admin-key-of-this-test"
LIFE = "life1"


class Access:
    """Knows one key.

    @ivar is_off: whether nothing is to be seen.
    """

    is_off = False

    def allows(self, request: WebRequest) -> bool | Problem:
        if self.is_off:
            return False
        shown = request.requestHeaders.getRawHeaders(b"x-admin-key", [b""])[0]
        return True if shown == KEY.encode() else Problem("bad_admin_key", "Nobody has this admin key.")


class Told:
    """An overview of what the test says.

    @ivar made: how many snapshots were asked for.
    """

    def __init__(self) -> None:
        self.listeners: list[Callable[[], object]] = []
        self.edition = 1
        self.life = LIFE
        self.made = 0
        self.all: list[list[object]] = [[1, 5.0, "feed okx", "live", "down", "why"]]
        self.padding = ""

    def whole(self) -> Mapping[str, object]:
        return {"life": self.life, "edition": self.edition}

    def snapshot(self) -> Mapping[str, object]:
        self.made += 1
        return {"made": self.made, "padding": self.padding}

    def changes(self, after: int = 0) -> list[list[object]]:
        return [row for row in self.all if isinstance(row[0], int) and row[0] > after]

    def change(self) -> None:
        self.all.append([len(self.all) + 1, 6.0, "feed okx", "down", "live", ""])

    def look(self) -> None:
        for told in list(self.listeners):
            told()


def events_of(text: str) -> list[tuple[str, str, Any]]:
    """Name, id and data of each event."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


def unchunked(data: bytes) -> bytes:
    """The body of what came so far, in chunks."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        body, data = body + data[:length], data[length + 2 :]
    return body


class PageCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.house = House()
        self.told = Told()
        self.access = Access()
        self.watchers = Watchers(self.told, self.house.clock)
        pages = operator_pages(
            entrance=lambda _: self.access, watchers=self.watchers, explainer=self.house.answers, now=self.house.now
        )
        self.site: WebSite = self.house.site(tree({b"admin": tree(pages)}))

    def watch(self, **headers: str) -> Wire:
        """Somebody who watches."""
        wire = Wire(self.site)
        said = {"X-Admin-Key": KEY, **{name.replace("_", "-"): value for name, value in headers.items()}}
        wire.channel.dataReceived(question("/admin/events", key=None, headers=list(said.items())))
        return wire

    def events(self, wire: Wire) -> list[tuple[str, str, Any]]:
        """What he was told since this was asked last."""
        sent = wire.transport.value()
        wire.transport.clear()
        if sent.startswith(b"HTTP/1.1"):
            sent = sent.partition(b"\r\n\r\n")[2]
        return events_of(unchunked(sent).decode("ascii"))


class UiTests(PageCase):
    def test_files(self) -> None:
        kinds = {
            "/admin/ui": "text/html", "/admin/ui/": "text/html", "/admin/ui/page.js": "text/javascript",
            "/admin/ui/page.css": "text/css",
        }  # fmt: skip
        for path, kind in kinds.items():
            answer = Wire(self.site).ask(path, key=None)
            self.assertEqual((200, f"{kind}; charset=utf-8"), (answer.status, answer.headers["Content-Type"]), path)
            for header, value in HEADERS.items():
                self.assertEqual(value.decode(), answer.headers[header.decode()])
            answer.body.decode("utf-8")

    def test_policy(self) -> None:
        rules = dict(rule.strip().split(" ", 1) for rule in POLICY.split(";"))
        self.assertEqual("'none'", rules.pop("default-src"))
        self.assertEqual("'self' data:", rules.pop("img-src"))
        self.assertEqual("'script'", rules.pop("require-trusted-types-for"))
        self.assertEqual({"'self'", "'none'"}, set(rules.values()))
        self.assertEqual({"'none'"}, {rules[name] for name in ("frame-ancestors", "base-uri", "form-action")})

    def test_nothing_else(self) -> None:
        for path in ("/admin/ui/page.html", "/admin/ui/x", "/admin/ui/page.js/x", "/admin/ui//page.js", "/admin/ui/..",
                     "/admin/ui/%2e%2e/assets.csv", "/admin/events/x", "/admin/explain/BTC/x"):  # fmt: skip
            self.assertEqual(404, Wire(self.site).ask(path, key=None, headers=[("X-Admin-Key", KEY)]).status, path)

    def test_methods(self) -> None:
        self.assertEqual("GET, HEAD", Wire(self.site).ask("/admin/ui", method="POST").headers["Allow"])
        for method in ("HEAD", "POST"):
            self.assertEqual("GET", Wire(self.site).ask("/admin/events", method=method).headers["Allow"])


class AccessTests(PageCase):
    PATHS = ("/admin/events", "/admin/explain", "/admin/explain/BTC")

    def test_without_the_key(self) -> None:
        for path in self.PATHS:
            for headers in ([], [("X-Admin-Key", "guess")]):
                answer = Wire(self.site).ask(path, headers=headers)
                self.assertEqual((401, "bad_admin_key"), (answer.status, problem_of(answer)["code"]), path)
        self.assertEqual((0, 0), (len(self.watchers), self.told.made))

    def test_off(self) -> None:
        self.access.is_off = True
        for path in self.PATHS:
            answer = Wire(self.site).ask(path, headers=[("X-Admin-Key", KEY)])
            self.assertEqual((404, "not_found"), (answer.status, problem_of(answer)["code"]))


class ExplainTests(PageCase):
    def ask(self, path: str) -> Any:
        return Wire(self.site).ask(path, key=None, headers=[("X-Admin-Key", KEY)])

    def test_an_asset(self) -> None:
        self.house.view.explained["BTC"] = (None, [view_of("kraken")])
        answer = self.ask("/admin/explain/btc")
        self.assertEqual(200, answer.status)
        self.assertEqual(["kraken"], [source["exchange"] for source in answer.json()["sources"]])

    def test_refusals(self) -> None:
        for path, status, code in (
            ("/admin/explain", 404, "not_found"), ("/admin/explain/NOPE", 404, "unknown_asset"),
            ("/admin/explain/%00", 400, "malformed_asset"), ("/admin/explain/%ff", 400, "malformed_asset"),
        ):  # fmt: skip
            answer = self.ask(path)
            self.assertEqual((status, code), (answer.status, problem_of(answer)["code"]), path)


class EventTests(PageCase):
    def test_everything_at_once_then_what_is_new(self) -> None:
        wire = self.watch()
        head = wire.transport.value().partition(b"\r\n\r\n")[0].decode()
        self.assertIn("HTTP/1.1 200 OK", head)
        self.assertIn("Content-Type: text/event-stream", head)
        self.assertIn("Cache-Control: no-store", head)
        ((name, event_id, data),) = self.events(wire)
        self.assertEqual(("whole", f"{LIFE}.1", 1), (name, event_id, data["now"]["made"]))
        self.assertEqual([1], [row[0] for row in data["changes"]])
        self.told.look()
        ((name, event_id, data),) = self.events(wire)
        self.assertEqual(("now", f"{LIFE}.1", []), (name, event_id, data["changes"]))
        self.told.change()
        self.told.look()
        ((name, event_id, data),) = self.events(wire)
        self.assertEqual(("now", f"{LIFE}.2", [2]), (name, event_id, [row[0] for row in data["changes"]]))

    def test_who_comes_back(self) -> None:
        """With the id of an event of this process he is told what came after it; with any other, everything."""
        self.told.change()
        for said, wanted in (
            (f"{LIFE}.1", [2]), (f"{LIFE}.2", []), ("other.1", [1, 2]), (f"{LIFE}.", [1, 2]), ("", [1, 2]),
            (f"{LIFE}.x", [1, 2]), (f"{LIFE}.-1", [1, 2]), ("9" * 9_000, [1, 2]), ("\xe4\xf6", [1, 2]),
        ):  # fmt: skip
            ((name, _, data),) = self.events(self.watch(Last_Event_ID=said))
            self.assertEqual(("whole", wanted), (name, [row[0] for row in data["changes"]]), said)

    def test_written_once_for_all(self) -> None:
        wires = [self.watch() for _ in range(5)]
        for wire in wires:
            self.events(wire)
        made = self.told.made
        self.told.look()
        told = [self.events(wire) for wire in wires]
        self.assertEqual(made + 1, self.told.made)
        self.assertEqual([told[0]] * 5, told)

    def test_another_edition(self) -> None:
        wire = self.watch()
        self.events(wire)
        self.told.edition += 1
        self.told.look()
        ((name, _, data),) = self.events(wire)
        self.assertEqual(("whole", 2), (name, data["edition"]))
        self.told.look()
        self.assertEqual(["now"], [name for name, _, _ in self.events(wire)])

    def test_too_many(self) -> None:
        wires = [self.watch() for _ in range(MOST_WATCHERS)]
        refused = self.watch()
        answer = refused.answer()
        self.assertEqual((503, "too_many_connections"), (answer.status, problem_of(answer)["code"]))
        self.assertEqual("10", answer.headers["Retry-After"])
        wires[3].lose(ConnectionDone())
        self.assertEqual(MOST_WATCHERS - 1, len(self.watchers))
        self.assertEqual(["whole"], [name for name, _, _ in self.events(self.watch())])

    def test_nobody_watches_any_more(self) -> None:
        """Nothing is made, and nothing is planned."""
        wires = [self.watch(), self.watch()]
        for wire in wires:
            wire.lose(ConnectionDone())
        self.assertEqual(([], []), (self.told.listeners, self.house.clock.getDelayedCalls()))

    def test_heartbeat(self) -> None:
        """Only where nothing is told."""
        wire = self.watch()
        wire.transport.clear()
        self.house.clock.pump([1.0] * (int(HEARTBEAT_SECONDS) - 1))
        self.assertEqual(b"", wire.transport.value())
        self.house.clock.pump([1.0] * 5)
        self.assertEqual(b": still here\n\n", unchunked(wire.transport.value()))
        wire.transport.clear()
        for _ in range(60):
            self.told.look()
            self.house.clock.advance(1.0)
        self.assertNotIn(b"still here", wire.transport.value())

    def test_who_does_not_read_is_skipped_and_told_anew(self) -> None:
        slow, quick = self.watch(), self.watch()
        self.events(slow)
        slow.channel.pauseProducing()
        self.told.change()
        self.told.look()
        self.house.clock.pump([1.0] * (int(UNREAD_SECONDS) - 2))
        self.assertEqual(b"", slow.transport.value())
        self.assertEqual(2, len(self.events(quick)))
        slow.channel.resumeProducing()
        self.told.look()
        ((name, _, data),) = self.events(slow)
        self.assertEqual(("whole", [2]), (name, [row[0] for row in data["changes"]]))
        self.house.clock.pump([1.0] * 60)
        self.assertFalse(slow.transport.disconnected)

    def test_who_never_reads_is_cut_off(self) -> None:
        slow, quick = self.watch(), self.watch()
        slow.channel.pauseProducing()
        for _ in range(int(UNREAD_SECONDS) + 5):
            self.told.look()
            self.house.clock.advance(1.0)
        self.assertTrue(slow.transport.disconnected)
        self.assertEqual(1, self.house.counters.value("slow_clients", "lpo", "slow_read"))
        self.assertEqual(int(UNREAD_SECONDS) + 6, len(self.events(quick)))

    def test_stop(self) -> None:
        """Each stream ends in good order, and nobody else is told."""
        wires = [self.watch(), self.watch()]
        self.watchers.stop()
        for wire in wires:
            self.assertTrue(wire.transport.value().endswith(b"0\r\n\r\n"))
            self.assertFalse(wire.is_open)
        self.assertEqual(503, self.watch().answer().status)
        self.assertEqual((0, []), (len(self.watchers), self.told.listeners))

    def test_is_no_request_in_the_books(self) -> None:
        """What is counted as answered is what the ledger records."""
        wire = self.watch()
        for _ in range(5):
            self.told.look()
        wire.lose(ConnectionDone())
        self.assertEqual((0, 0), (self.house.counters.total("requests"), self.house.ledger.requests))
        Wire(self.site).ask("/admin/ui", key=None)
        self.assertEqual((1, 1), (self.house.counters.total("requests"), self.house.ledger.requests))


class Client(Protocol):
    """Reads a stream, or leaves it unread."""

    def __init__(self, reads: bool) -> None:
        self.data = b""
        self.reads = reads
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        if not self.reads:
            self.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # type: ignore[attr-defined]
            self.transport.pauseProducing()  # type: ignore[attr-defined]
        self.transport.write(question("/admin/events", key=None, headers=[("X-Admin-Key", KEY)]))

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.lost.callback(None)


class SocketTests(TestCase):
    """Over real sockets; time is the test's."""

    timeout = 30

    def setUp(self) -> None:
        self.clock = Clock()
        self.house = House()
        self.told = Told()
        self.watchers = Watchers(self.told, self.clock)
        pages = operator_pages(
            entrance=lambda _: Access(), watchers=self.watchers, explainer=self.house.answers, now=self.house.now
        )
        site = WebSite(
            tree({b"admin": tree(pages)}), reactor=self.clock, now=self.house.now, new_id=self.house.new_id,
            counters=self.house.counters, service="lrs",
        )  # fmt: skip
        loop: Any = reactor
        self.port = loop.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.addCleanup(self.watchers.stop)

    async def connect(self, reads: bool = True) -> Client:
        client = Client(reads)
        factory: Any = Factory.forProtocol(lambda: client)
        made: Deferred[None] = Deferred()

        def connected(_: object) -> None:
            made.callback(None)

        TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port).connect(factory).addCallback(connected)
        await made
        self.addCleanup(self.gone, client)
        return client

    def gone(self, client: Client) -> Deferred[None]:
        if not client.lost.called:
            client.transport.abortConnection()  # type: ignore[union-attr]
        return client.lost

    async def until(self, holds: Callable[[], object]) -> None:
        while not holds():
            await deferLater(reactor, 0.005)

    async def test_told_until_he_goes(self) -> None:
        client = await self.connect()
        await self.until(lambda: b"event: whole" in client.data)
        self.told.look()
        await self.until(lambda: b"event: now" in client.data)
        client.transport.loseConnection()  # type: ignore[union-attr]
        while len(self.watchers):  # it shows when something is sent to him
            self.told.look()
            await deferLater(reactor, 0.005)
        self.assertEqual([], self.told.listeners)

    async def test_what_waits_for_one_who_does_not_read_is_bounded(self) -> None:
        """As many events as would be hundreds of megabytes: he is skipped, the other is told, and he is cut off."""
        slow, quick = await self.connect(reads=False), await self.connect()
        await self.until(lambda: len(self.watchers) == 2)
        (unread,) = [
            watcher for watcher in self.watchers._all.values()
            if watcher.request.channel.transport.getPeer().port == slow.transport.getHost().port  # type: ignore[union-attr]
        ]  # fmt: skip
        transport: Any = unread.request.channel.transport
        self.told.padding = "x" * 50_000
        looks = 0
        while unread.unread_since is None:
            self.told.look()
            looks += 1
            await deferLater(reactor, 0)
        self.assertLess(looks * 50_000, 1_000_000)  # of events of 9 KB a second these are two minutes at the most
        for _ in range(50):
            self.told.look()
            await deferLater(reactor, 0)
        waiting = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
        self.assertLess(waiting, 64 * 1024 + 2 * 60_000)
        quick.data = b""
        while b'"made":' not in quick.data:
            self.told.look()
            await deferLater(reactor, 0.005)
        self.clock.pump([5.0] * 5)
        await self.until(lambda: len(self.watchers) == 1)
        self.assertFalse(quick.lost.called)
        self.assertEqual(1, self.house.counters.value("slow_clients", "lrs", "slow_read"))

    async def test_the_end(self) -> None:
        client = await self.connect()
        await self.until(lambda: b"event: whole" in client.data)
        self.watchers.stop()
        await client.lost
        self.assertTrue(client.data.endswith(b"0\r\n\r\n"))


VOID = frozenset(("meta", "link", "input", "br"))


class Markup(HTMLParser):
    """Reads a page strictly.

    @ivar open: the elements that were not closed.
    @ivar references: ids that something refers to.
    @ivar tables: by table, the elements in it; C{heads}: the attributes of each C{th}.
    @ivar inline: whatever a strict policy would not let through.
    """

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tables: list[set[str]] = []
        self.heads: list[dict[str, str | None]] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if len(told) != len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        self.inline += [name for name in told if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and not told.get("src")):
            self.inline.append(tag)
        if told.get("id"):
            self.ids.append(told["id"] or "")
        self.references += [told[name] or "" for name in ("for", "aria-labelledby", "aria-controls") if name in told]
        if tag == "table":
            self.tables.append(set())
        elif "table" in self.open:
            self.tables[-1].add(tag)
        if tag == "th":
            self.heads.append(told)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> in line {self.getpos()[0]} closes something else")


class FileTests(SynchronousTestCase):
    """What can be said of the page without a browser."""

    def setUp(self) -> None:
        folder = files("tbeast") / "data" / "ui"
        self.html, self.script, self.style = (
            (folder / name).read_text("utf-8") for name in ("page.html", "page.js", "page.css")
        )

    def test_markup(self) -> None:
        """Every element is closed in its place, ids are unique, and what is referred to by id is there."""
        markup = Markup()
        markup.feed(self.html)
        markup.close()
        self.assertEqual([], markup.open)
        self.assertEqual([], markup.faults)
        self.assertEqual(len(markup.ids), len(set(markup.ids)))
        for reference in markup.references:
            self.assertIn(reference, markup.ids)
        for table in markup.tables:
            self.assertIn("caption", table)
        self.assertEqual([], [th for th in markup.heads if "scope" not in th])
        self.assertEqual([], markup.inline)

    def test_ids_of_the_script(self) -> None:
        """Each id by which the script looks something up stands in the page, and each id of the page is used."""
        markup = Markup()
        markup.feed(self.html)
        used = set(re.findall(r'\$\("([\w-]+)"\)', self.script))
        self.assertGreater(len(used), 30)
        self.assertEqual(set(), used - set(markup.ids))
        lists = re.search(r"for \(const body of \[([^\]]+)\]", self.script)
        fields = re.search(r"for \(const field of \[([^\]]+)\]", self.script)
        assert lists is not None and fields is not None
        self.assertEqual(set(), set(re.findall(r'"([\w-]+)"', lists[1] + fields[1])) - set(markup.ids))
        known = used | set(markup.references) | {"p50", "p90", "p99", "operator"}
        styled = set(re.findall(r"#([a-z][\w-]*)", self.style))
        self.assertEqual(set(), set(markup.ids) - known - styled)

    def test_nothing_from_elsewhere(self) -> None:
        for text in (self.html, self.script, self.style):
            self.assertEqual([], re.findall(r"(?:https?:)?//[\w.-]+\.\w+|@import|url\(", text))
        self.assertEqual(
            {"/admin/ui/page.css", "/admin/ui/page.js", "#main", "data:,"},
            set(re.findall(r'(?:href|src|action)="([^"]*)"', self.html)),
        )
        asked = set(re.findall(r"fetch\([\"`]([^\"`$]*)", self.script))
        self.assertEqual({"/admin/events", "/admin/explain/"}, asked)

    def test_text_is_never_made_markup(self) -> None:
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(",
                     "localStorage", "cookie", "srcdoc", "javascript:", ".style", '"style"'):  # fmt: skip
            self.assertNotIn(word, self.script)

    def test_script_is_well_formed(self) -> None:
        """By node's reader where that is on PATH; by its brackets everywhere."""
        node = shutil.which("node")
        if node is not None:
            checked = subprocess.run(
                [node, "--check", "-"], input=self.script, capture_output=True, text=True, timeout=60, check=False
            )
            self.assertEqual((0, ""), (checked.returncode, checked.stderr))
        bare = re.sub(
            r'"(?:[^"\\\n]|\\.)*"|`[^`]*`|/\*.*?\*/|//[^\n]*|/\^?\[?[^/\n ]+/[a-z]*', "", self.script, flags=re.S
        )
        for one, other in ("()", "[]", "{}"):
            self.assertEqual(bare.count(one), bare.count(other), one)

    def test_for_everybody(self) -> None:
        for query in ("prefers-color-scheme: dark", "prefers-reduced-motion", "max-width: 600px", ":focus-visible"):
            self.assertIn(query, self.style)
        self.assertIn('class="skip" href="#main"', self.html)
        self.assertEqual(["polite"], re.findall(r'"aria-live", "(\w+)"', self.script))
        self.assertNotIn("aria-live", self.html)
