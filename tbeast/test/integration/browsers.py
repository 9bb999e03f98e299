"""A headless Chromium that a test drives, where there is one: the system's browser, driven by playwright.

Everything that is done with the browser is done in one thread, as its driver wants it; the daemon under test goes on
in the reactor's meanwhile. What a test does in the browser is a plain function that takes a page.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

Result = TypeVar("Result")

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")
"""Without a sandbox, because tests run as root in places, and see no page but ours."""
PATIENCE_MS = 20_000


def why_not() -> str | None:
    """Why no browser can be driven here; C{None}: one can."""
    if find_spec("playwright") is None:
        return "there is no playwright here: pip install tbeast[browser]"
    if found() is None:
        return f"there is no browser here: none of {', '.join(NAMES)} is on PATH"
    return None


def found() -> str | None:
    """The browser."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser, with a profile of its own that is thrown away in the end.

    @ivar complaints: what went wrong in its pages: errors, and whatever the policy did not let through.
    """

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._pool = ThreadPool(1, 1, "browser")
        self._driver: Any = None
        self._browser: Any = None

    async def start(self) -> Browser:
        self._pool.start()
        await self.do(self._start)
        return self

    async def stop(self) -> None:
        try:
            await self.do(self._stop)
        finally:
            self._pool.stop()

    async def do(self, what: Callable[..., Result], *arguments: Any) -> Result:
        """Do something in the browser's thread."""
        loop: Any = reactor
        result: Result = await deferToThreadPool(loop, self._pool, what, *arguments)
        return result

    async def page(self, **context: Any) -> Any:
        """A new page, in a context of its own."""
        return await self.do(self._page, context)

    def _start(self) -> None:
        self._driver = import_module("playwright.sync_api").sync_playwright().start()
        self._browser = self._driver.chromium.launch(executable_path=found(), args=ARGUMENTS)

    def _stop(self) -> None:
        if self._browser is not None:
            self._browser.close()
        if self._driver is not None:
            self._driver.stop()

    def _page(self, said: dict[str, Any]) -> Any:
        context = self._browser.new_context(**said)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._heard)
        return page

    def _heard(self, message: Any) -> None:
        # that an answer was a refusal is no fault of the page
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)
