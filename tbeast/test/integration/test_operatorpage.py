"""The operator's page: in a browser, where there is one, and in a whole daemon.

Where no browser can be driven, the tests of L{BrowserCase} are skipped, and say why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from unittest import SkipTest

import treq
from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tbeast.adapters.feeds.rest import HttpFetcher
from tbeast.codecs.problems import Problem
from tbeast.domain.backing import PartStatus
from tbeast.domain.feedstatus import DOWN
from tbeast.domain.usage import OK, MeteringStatus
from tbeast.servers.adminpage import Watchers, operator_pages
from tbeast.servers.site import WebRequest, WebSite, tree
from tbeast.services.overview import About, Overview, Sources
from tbeast.test.integration.browsers import Browser, why_not
from tbeast.test.integration.daemons import Daemon, sleep
from tbeast.test.servers.rooms import House, feed_of, quote_of, view_of

KEY = "an-admin-key-of-this-test"
EVIL = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
PHONE: Mapping[str, Any] = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "has_touch": True}

ROWS = "#prices > tr:not([hidden]):not(.opened)"


class Access:
    def allows(self, request: WebRequest) -> bool | Problem:
        shown = request.requestHeaders.getRawHeaders(b"x-admin-key", [b""])[0]
        return True if shown == KEY.encode() else Problem("bad_admin_key", "Nobody has this admin key.")


class Node:
    """What the page needs of a daemon, in memory, on a port of loopback.

    @ivar url: of the page.
    """

    def __init__(self) -> None:
        self.house = House(simulated=True)
        for code in self.house.assets.assets:
            self.house.put(quote_of(code, fresh_until=1e12))
        self.house.feeds = [feed_of("coinbase"), feed_of("kraken")]
        self.house.view.explained["BTC"] = (None, [view_of("kraken"), view_of("okx", why=EVIL, verdict="suspect")])
        self.parts = [PartStatus("database", "up")]
        self.overview = Overview(
            About("n1", "1.2.3", "life", True, {"workers": "1"}),
            Sources(
                assets=lambda: self.house.answers.assets,
                quotes=lambda: {code: reply.quote for code, reply in self.house.shelf.replies.items()},
                feeds=lambda: self.house.feeds, backing=lambda: self.parts, listening=lambda: {"lrs": True},
                metering=lambda: MeteringStatus(OK, None, 0, 0, 0, 0, "", ""), waiting=lambda: 0,
            ),
            self.house.counters, self.house.now,
        )  # fmt: skip
        loop: Any = reactor
        self.watchers = Watchers(self.overview, loop)
        pages = operator_pages(
            entrance=lambda _: Access(), watchers=self.watchers, explainer=self.house.answers, now=self.house.now
        )
        site = WebSite(
            tree({b"admin": tree(pages)}), reactor=loop, now=self.house.now, new_id=self.house.new_id, service="lrs"
        )
        self._port = loop.listenTCP(0, site, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self._port.getHost().port}/admin/ui"

    def look(self) -> None:
        """A second passes."""
        self.house.pass_time(1.0)
        self.overview.look()

    async def stop(self) -> None:
        self.watchers.stop()
        await self._port.stopListening()


class BrowserCase(TestCase):
    """Has a browser."""

    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        reason = why_not()
        if reason is not None:
            raise SkipTest(reason)
        self.browser = await Browser().start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.browser.stop()))

    async def enter(self, url: str, key: str = KEY, **context: Any) -> Any:
        """Open the page as somebody at the keyboard does."""
        page = await self.browser.page(**context)

        def enter() -> None:
            page.goto(url)
            page.focus("#key")
            page.keyboard.type(key)
            page.keyboard.press("Enter")

        await self.browser.do(enter)
        return page

    async def shows(self, page: Any, *texts: str, of: str = "#verdict") -> None:
        """Wait until a part of the page has these words."""

        def wait() -> None:
            for text in texts:
                page.locator(of, has_text=text).first.wait_for()

        await self.browser.do(wait)

    async def ask(self, page: Any, expression: str) -> Any:
        return await self.browser.do(page.evaluate, expression)


class PageTests(BrowserCase):
    """Of a node in memory, whose time passes when the test says so."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.node = Node()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.node.stop()))
        self.node.look()

    async def test_the_door(self) -> None:
        """A wrong key is told and kept nowhere; the right one is kept in this tab until it is forgotten."""
        page = await self.enter(self.node.url, key="wrong-key")
        await self.shows(page, "Nobody has this admin key.", of="#door-says")
        self.assertEqual(
            [False, None], await self.ask(page, "[document.getElementById('door').hidden, sessionStorage[0] || null]")
        )

        def again() -> None:
            page.fill("#key", KEY)
            page.click("#door button")

        await self.browser.do(again)
        await self.shows(page, "All is well", "2 of 2 feeds live, 4 of 4 assets")
        self.assertEqual([1, 0, ""], await self.ask(
            page, "[sessionStorage.length, localStorage.length, document.getElementById('key').value]"
        ))  # fmt: skip
        await self.browser.do(page.reload)
        await self.shows(page, "All is well")
        await self.browser.do(page.click, "#leave")
        while len(self.node.watchers):  # it shows when something is sent to the page
            self.node.look()
            await sleep(0.02)
        self.assertEqual([0, True, 0], await self.ask(
            page, "[sessionStorage.length, document.getElementById('desk').hidden, "
            "document.querySelectorAll('#prices tr').length]",
        ))  # fmt: skip
        self.assertEqual([], self.browser.complaints)

    async def test_what_it_shows(self) -> None:
        page = await self.enter(self.node.url)
        await self.shows(page, "All is well")
        await self.shows(page, "SIMULATED", of="#simulated")
        await self.shows(page, "83,421.57", "good", "3 of 4", "Bitcoin", of="#prices")
        self.node.house.feeds[1] = evolve(feed_of("kraken", DOWN), why=EVIL)
        self.node.parts[0] = PartStatus("database", "away", "connection refused")
        self.node.look()
        await self.shows(page, "2 things are wrong", "The feed of kraken is down", "The database is away")
        self.assertEqual("warn", await self.ask(page, "document.getElementById('verdict').dataset.level"))
        await self.shows(page, "feed kraken", "part database", "connection refused", of="#changes")
        self.assertEqual("polite", await self.ask(page, "document.getElementById('changes').ariaLive"))
        self.node.parts[0] = PartStatus("database", "up")
        self.node.house.feeds[1] = feed_of("kraken")
        self.node.look()
        await self.shows(page, "All is well")
        self.assertEqual([], self.browser.complaints)

    async def test_markup_is_text(self) -> None:
        """Whatever names and reasons say."""
        bitcoin = self.node.house.answers.assets.assets["BTC"]
        self.node.house.adopt(BTC=evolve(bitcoin, name=EVIL))
        self.node.house.feeds[1] = evolve(feed_of(EVIL, DOWN), why=EVIL)
        page = await self.enter(self.node.url)
        await self.shows(page, EVIL)
        await self.shows(page, EVIL, of="#feeds")
        await self.shows(page, EVIL, of="#prices")
        await self.browser.do(page.click, "#prices .opens >> nth=0")
        await self.shows(page, EVIL, of=".opened")
        self.assertEqual(0, await self.ask(page, "document.querySelectorAll('main img, main script').length"))
        self.assertIn("n1", await self.browser.do(page.title))
        self.assertEqual([], self.browser.complaints)

    async def test_with_the_keyboard(self) -> None:
        """From the skip link through filter and sorting to the votes of a row."""
        page = await self.enter(self.node.url)
        await self.shows(page, "All is well")
        fresh, keys = await self.browser.page(), page.keyboard

        def go() -> list[Any]:
            found = []
            fresh.goto(self.node.url)
            fresh.keyboard.press("Tab")
            found.append(fresh.evaluate("document.activeElement.className"))
            page.focus("#filter")
            keys.type("meme")
            found.append(page.locator(ROWS).count())
            found.append(page.inner_text("#shown"))
            for _ in range(4):
                keys.press("Backspace")
            keys.press("Tab")  # the region that scrolls
            for _ in range(3):
                keys.press("Tab")
            found.append(page.evaluate("document.activeElement.dataset.by"))
            keys.press("Enter")
            found.append(page.get_attribute("th:has([data-by=price])", "aria-sort"))
            page.focus("[data-by=asset]")
            keys.press("Space")
            found.append(page.locator(ROWS).all_inner_texts()[-1].split()[:2])
            page.focus("#prices tr:nth-child(1) .opens")
            keys.press("Enter")
            page.locator(".opened tbody tr").nth(1).wait_for()
            found.append(page.inner_text(".opened tbody tr:nth-child(2)").split()[:2])
            found.append(page.evaluate("document.activeElement.ariaExpanded"))
            keys.press("Enter")
            found.append(page.locator(".opened").count())
            return found

        skip, memes, shown, third, sorted_by, last, vote, is_open, left = await self.browser.do(go)
        self.assertEqual(("skip", 1, "1 of 4", "price", "descending"), (skip, memes, shown, third, sorted_by))
        self.assertEqual(["SOL", "Solana"], last)
        self.assertEqual((["okx", "suspect"], "true", 0), (vote, is_open, left))
        self.assertEqual([], self.browser.complaints)

    async def test_the_line_breaks_and_comes_back(self) -> None:
        """What is shown is plainly not the present any more; then it is again, with what changed meanwhile."""
        page = await self.enter(self.node.url)
        await self.shows(page, "All is well")
        refuses = True
        self.patch(Watchers, "is_full", property(lambda _: refuses))
        for watcher in list(self.node.watchers._all.values()):
            watcher.request.channel.cut()
        await self.shows(page, "This is not the present any more", "The last word came")
        self.assertEqual([True, "stale"], await self.ask(
            page, "[document.getElementById('desk').classList.contains('is-stale'), "
            "document.getElementById('link').dataset.state]",
        ))  # fmt: skip
        self.node.house.feeds[1] = feed_of("kraken", DOWN)
        self.node.look()
        refuses = False
        await self.shows(page, "One thing is wrong")
        await self.shows(page, "feed kraken", of="#changes")
        self.assertEqual("open", await self.ask(page, "document.getElementById('link').dataset.state"))

    async def test_on_a_phone(self) -> None:
        """In one column, with nothing to scroll to the side for, open rows and long reasons included."""
        self.node.house.feeds[1] = evolve(feed_of("kraken", DOWN), why="x" * 200)
        page = await self.enter(self.node.url, **PHONE)
        await self.shows(page, "One thing is wrong")
        await self.browser.do(page.click, "#prices .opens >> nth=0")
        await self.shows(page, "suspect", of=".opened")
        width, columns, ground = await self.ask(
            page,
            "[document.documentElement.scrollWidth, getComputedStyle(document.querySelector('.cards'))"
            ".gridTemplateColumns.split(' ').length, getComputedStyle(document.body).backgroundColor]",
        )
        self.assertEqual((360, 1), (width, columns))
        self.assertLess(sum(map(int, ground[4:-1].split(","))), 150)
        self.assertEqual([], self.browser.complaints)


class DaemonCase(TestCase):
    timeout = 180

    async def daemon(self, **said: object) -> Daemon:
        daemon = Daemon(self.mktemp(), SERVER_TYPE="ALL_SERVER", **said)
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.stop()))
        return await daemon.start()


class DaemonTests(DaemonCase):
    """Of a whole daemon, without a browser."""

    async def test_from_the_report_port(self) -> None:
        daemon = await self.daemon(ADMIN_KEY=KEY)
        fetcher = HttpFetcher(reactor, "tbeast-test")
        self.addCleanup(lambda: Deferred.fromCoroutine(fetcher.close()))
        base = f"http://127.0.0.1:{daemon.settings.tcp_port_lrs}/admin"
        status, headers, body = await fetcher.fetch(f"{base}/ui", {})
        self.assertEqual(200, status)
        self.assertIn("default-src 'none'", headers["content-security-policy"])
        self.assertIn(b"/admin/ui/page.js", body)
        self.assertEqual(401, (await fetcher.fetch(f"{base}/events", {}))[0])
        await daemon.until(daemon.all_live, 60, "all feeds are live")
        response = await treq.get(f"{base}/events", headers={"X-Admin-Key": KEY}, persistent=False)
        told = bytearray()
        treq.collect(response, told.extend).addErrback(lambda _: None)  # it is cut off at the end
        await daemon.until(lambda: told.count(b"event: now") >= 3, 30, "snapshots come")
        blocks = bytes(told).decode().split("\n\n")
        self.assertIn("event: whole", blocks[0])
        whole = json.loads(blocks[0].rpartition("data: ")[2])
        now = json.loads(blocks[2].rpartition("data: ")[2])
        self.assertEqual((150, True), (len(whole["assets"]), whole["simulated"]))
        self.assertEqual((150, 6), (len(now["prices"]), len(now["feeds"])))
        self.assertIsNotNone(now["governor"])
        self.assertLess(max(map(len, blocks)), 60_000)
        self.assertEqual([], [text for _, text in now["complaints"] if "listener" in text])

    async def test_off_without_an_admin_key(self) -> None:
        daemon = await self.daemon()
        for path in ("/admin/ui", "/admin/ui/page.js", "/admin/events", "/admin/explain/BTC"):
            status, body = await daemon.get(path, port=daemon.settings.tcp_port_lrs)
            self.assertEqual((404, "not_found"), (status, body["code"]), path)

    async def test_the_stop_waits_for_nobody_who_watches(self) -> None:
        daemon = await self.daemon(ADMIN_KEY=KEY)
        url = f"http://127.0.0.1:{daemon.settings.tcp_port_lrs}/admin/events"
        response = await treq.get(url, headers={"X-Admin-Key": KEY}, persistent=False)
        ended = treq.collect(response, lambda _: None)
        await daemon.stop()
        await ended
        self.assertEqual(0, len(daemon.parts.operating.watchers))


class DaemonInABrowserTests(BrowserCase, DaemonCase):
    """Of a whole daemon, whose exchange goes away and comes back."""

    timeout = 240

    async def test_an_exchange_goes_and_comes_back(self) -> None:
        daemon = await self.daemon(ADMIN_KEY=KEY)
        page = await self.enter(f"http://127.0.0.1:{daemon.settings.tcp_port_lrs}/admin/ui")
        await daemon.until(daemon.all_good, 60, "all prices are good")
        await self.shows(page, "All is well", "6 of 6 feeds live, 150 of 150 assets")
        self.assertEqual(150, await self.browser.do(page.locator(ROWS).count))
        await daemon.fault("kraken", "refuse_connect")
        await daemon.fault("kraken", "disconnect")
        await self.shows(page, "The feed of kraken is")
        await self.shows(page, "feed kraken", of="#changes")
        await daemon.heal()
        await daemon.until(daemon.all_live, 60, "all feeds are live")
        await self.shows(page, "All is well")
        for _ in range(5):
            await daemon.get("/price?asset=btc")
        await self.shows(page, "price answers", of="#latency-more")
        self.assertEqual([], self.browser.complaints)
