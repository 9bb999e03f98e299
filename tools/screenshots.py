"""Take the pictures of the operator's page that docs/ shows: of a real daemon, fed by the lab, with somebody who asks.

Needs a Chromium on PATH and playwright (pip install tbeast[browser]). The pictures go to docs/pictures/operator-*.png,
or to the folder that is named. It takes some two minutes, most of them to have something to show.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, Final

from daemon import KEY, Daemon, DaemonError, running

ROOT = Path(__file__).resolve().parent.parent
ADMIN_KEY = "an-admin-key-for-pictures"
SETTINGS = f'admin_key = "{ADMIN_KEY}"\ncluster_node = "node-1"\n'
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LARGEST_BYTES = 200_000
ASKING_SECONDS = 90.0
PATIENCE_MS = 60_000

DESK: Final[Mapping[str, Any]] = {"viewport": {"width": 1200, "height": 820}}
PHONE: Final[Mapping[str, Any]] = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5}


@contextmanager
def asking(port: int) -> Iterator[None]:
    """Ask over UDP as clients do, now more and now less."""
    over = Event()

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", port))
            client.setblocking(False)
            number, rate = 0, 200.0
            while not over.wait(0.05):
                rate = min(400.0, max(60.0, rate + random.uniform(-20.0, 20.0)))
                for _ in range(int(rate * 0.05)):
                    number += 1
                    client.send(f"{KEY}|{random.choice(('BTC', 'ETH', 'SOL', 'DOGE'))}|{number:040d}".encode())
                try:
                    while client.recv(2048):
                        pass
                except OSError:
                    pass

    thread = Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def fault(daemon: Daemon, exchange: str, kind: str) -> None:
    """Have something go wrong at an exchange of the lab."""
    control = re.search(r"lab: control at (http://[\d.]+:\d+)", daemon.wrote())
    if control is None:
        raise daemon.fail("the daemon does not say where its lab is")
    body = json.dumps({"exchange": exchange, "kind": kind}).encode()
    request = urllib.request.Request(f"{control[1]}/faults", data=body, method="POST")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10):
        pass


class Photographer:
    """Somebody with a browser who watches one daemon."""

    def __init__(self, browser: Any, url: str, folder: Path) -> None:
        self._browser = browser
        self._url = url
        self._folder = folder

    def enter(self, scheme: str, look: Mapping[str, Any], says: str) -> Any:
        """Open the page, and wait until its first words are these."""
        context = self._browser.new_context(color_scheme=scheme, **look)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto(self._url)
        page.fill("#key", ADMIN_KEY)
        page.keyboard.press("Enter")
        page.locator("#verdict", has_text=says).wait_for()
        return page

    def take(self, page: Any, name: str) -> None:
        """Take a picture of what the window shows."""
        page.mouse.move(0, 0)
        path = self._folder / f"operator-{name}.png"
        page.screenshot(path=str(path))
        size = path.stat().st_size
        print(f"{path.name}: {size:,} bytes")
        if size > LARGEST_BYTES:
            raise DaemonError(f"{path.name} is larger than {LARGEST_BYTES:,} bytes")

    def session(self, daemon: Daemon) -> None:
        """Take them all."""
        page = self.enter("light", DESK, "All is well")
        time.sleep(ASKING_SECONDS)
        self.take(page, "light")
        self.take(self.enter("dark", DESK, "All is well"), "dark")
        page.click("#prices .opens >> nth=0")
        page.locator(".opened tbody tr").first.wait_for()
        page.evaluate("document.getElementById('prices-title').scrollIntoView()")
        self.take(page, "votes")
        fault(daemon, "kraken", "refuse_connect")
        fault(daemon, "kraken", "disconnect")
        page.evaluate("scrollTo(0, 0)")
        page.locator("#verdict", has_text="The feed of kraken is down").wait_for()
        self.take(page, "trouble")
        self.take(self.enter("light", PHONE, "The feed of kraken is down"), "phone")


def main(arguments: list[str]) -> int:
    """Take the pictures."""
    folder = Path(arguments[0]) if arguments else ROOT / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        playwright = import_module("playwright.sync_api").sync_playwright
    except ImportError:
        playwright = None
    if found is None or playwright is None:
        print("needs a Chromium on PATH, and playwright: pip install 'tbeast[browser]'", file=sys.stderr)
        return 1
    with TemporaryDirectory() as name:
        place = Path(name)
        (place / "tbeast.toml").write_text(SETTINGS)
        command = (sys.executable, "-m", "twisted", "--log-format=text", "tbeast", "--config", place / "tbeast.toml")
        with running(command, place) as daemon, playwright() as driver:
            daemon.wait_until_healthy()
            browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
            url = f"http://127.0.0.1:{daemon.ports['TCP_PORT_LRS']}/admin/ui"
            with asking(daemon.ports["UDP_PORT_LPO"]):
                Photographer(browser, url, folder).session(daemon)
            browser.close()
            daemon.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
