"""What the tests of the native parts share: the module, lanes with their sockets, and clients of them.

Where the native parts were not built the tests are skipped, and say so. The run of all tests counts that as a failure
wherever they could have been built (tools/test_all.py); L{tbeast.test.native.test_loading} is never skipped.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.admission import Standing
from tbeast.domain.keys import Account, account_of
from tbeast.domain.leases import LeasedStanding, Line
from tbeast.domain.ratelimits import TokenBucket
from tbeast.domain.readyreplies import body
from tbeast.domain.sharedshelf import BYTES, SharedReply, SharedShelf
from tbeast.native.loading import load

MODULE, WHY_NOT = load()
NOT_BUILT: Final = f"native parts not built: {WHY_NOT}" if MODULE is None else None

NOW: Final = 1_776_003_781.25
DATE: Final = b"Sun, 12 Apr 2026 14:23:01 GMT"
SECRET: Final = bytes(range(16))
PATIENCE_SECONDS: Final = 20.0
"""How long something that must come is waited for, on a machine however busy."""

KEY: Final = b"tb_0123456789_abcdefghijklmnopqrstuvwxyz012345"
PARTNER: Final = account_of(KEY.decode(), "partner", "p")
HEAD, TAIL = b'{"asset":"BTC","price":83421.57,"cache_age_seconds":', b',"quote":"USD","quality":"good"}'
REPLY: Final = SharedReply(HEAD, TAIL, NOW - 0.412, NOW + 60.0, "median")


def open_lanes(shelf: Any, budget: float = 0.001, linger: float = 0.0) -> Any:
    """Lanes on this memory."""
    assert MODULE is not None
    return MODULE.Lanes(shelf, SECRET, Standing, TokenBucket, LeasedStanding, Line, budget, linger)


def head(asset: bytes = b"BTC", key: bytes = KEY, more: bytes = b"") -> bytes:
    """A plain question over HTTP."""
    return b"GET /price?asset=%b HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %b\r\n%b\r\n" % (asset, key, more)


def answer_of(reply: SharedReply, now: float, terms: tuple[int, int, int], last: bool = False) -> bytes:
    """What the lanes must send for it over HTTP."""
    text = body(reply, now)  # type: ignore[arg-type]
    return (
        b"HTTP/1.1 200 OK\r\nServer: tbeast\r\nDate: %b\r\nRatelimit-Limit: %d\r\nRatelimit-Remaining: %d\r\n"
        b"Ratelimit-Reset: %d\r\nContent-Type: application/json\r\nContent-Length: %d\r\nCache-Control: no-store\r\n%b"
        b"\r\n%b" % (DATE, *terms, len(text), b"Connection: close\r\n" if last else b"", text)
    )


class NativeCase(SynchronousTestCase):
    """Has the module, or is skipped."""

    skip = NOT_BUILT
    module: Any = MODULE


class LanesCase(NativeCase):
    """Has lanes over a shelf that this process writes.

    @ivar now: what the lanes are told that the time is; it stands still between the turns, and goes on with the
        machine's clock within one.
    """

    linger = 0.0

    def setUp(self) -> None:
        self.memory = memoryview(bytearray(BYTES))
        self.shelf = SharedShelf(self.memory)
        self.lanes = open_lanes(self.memory, linger=self.linger)
        self.addCleanup(self.lanes.close)
        self.now = NOW
        self.left: list[tuple[int, bytes, bytes, Any, int]] = []
        self.others: list[tuple[bytes, tuple[str, int], Any]] = []
        self.addCleanup(self.close_left)

    def close_left(self) -> None:
        for descriptor, *_ in self.left:
            socket.close(descriptor)
        self.left.clear()

    def put(self, asset: str = "BTC", reply: SharedReply = REPLY) -> None:
        self.assertTrue(self.shelf.put(asset, *reply))

    def learn(self, account: Account = PARTNER, key: bytes = KEY, standing: Any = None) -> Any:
        """Tell the lanes of a key, and give how it stands."""
        standing = Standing(account, self.now) if standing is None else standing
        self.lanes.learn(key, account.key_id, standing)
        return standing

    def listen(self, family: socket.AddressFamily = socket.AF_INET, backlog: int = 1024) -> tuple[str, int]:
        """Give the lanes a listening socket."""
        self.port = socket.create_server(("127.0.0.1", 0), family=family, backlog=backlog)
        self.port.setblocking(False)
        self.addCleanup(self.port.close)
        self.lanes.listen(self.port.fileno())
        host, port = self.port.getsockname()[:2]
        return host, port

    def connect(self) -> socket.socket:
        """A connection to it, which nobody has taken yet."""
        client = socket.create_connection(self.port.getsockname()[:2], PATIENCE_SECONDS)
        self.addCleanup(client.close)
        return client

    def client(self) -> socket.socket:
        """A connection to it, taken: what it asks first is served at the very beginning of a turn."""
        before = self.figures("accepted")[0]
        client = self.connect()
        self.turn_until(lambda: self.figures("accepted")[0] > before)
        return client

    def bind(self, host: str = "127.0.0.1") -> socket.socket:
        """Give the lanes a socket of datagrams."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.datagrams = socket.socket(family, socket.SOCK_DGRAM)
        self.datagrams.bind((host, 0))
        self.datagrams.setblocking(False)
        self.addCleanup(self.datagrams.close)
        self.lanes.answer_datagrams(self.datagrams.fileno())
        return self.datagrams

    def asker(self, host: str = "127.0.0.1") -> socket.socket:
        """Somebody who asks in datagrams."""
        asker = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        asker.bind((host, 0))
        asker.settimeout(PATIENCE_SECONDS)
        asker.connect(self.datagrams.getsockname()[:2])
        self.addCleanup(asker.close)
        return asker

    def turn(self, seconds: float = PATIENCE_SECONDS) -> bool:
        """Wait until something is ready, and serve it; false if nothing was."""
        poll = select.poll()
        poll.register(self.lanes.fileno(), select.POLLIN)
        ready = poll.poll(seconds * 1e3)
        found = self.lanes.turn(self.now, DATE)
        if found is not None:
            self.left += found[0]
            self.others += found[1]
        return bool(ready)

    def turn_until(self, is_so: Callable[[], object]) -> None:
        """Serve until something is so, which must come."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            self.assertLess(time.monotonic(), end, "it did not come")
            self.turn(0.01)

    def figures(self, *names: str) -> tuple[int, ...]:
        figures = self.lanes.figures()
        return tuple(figures[name] for name in names)

    def drain(self) -> list[tuple[Any, ...]]:
        """Take out what was counted, and give all rows."""
        drained = self.lanes.drain()
        rows: list[tuple[Any, ...]] = drained.rows(0, len(drained))
        return rows

    def ask(self, client: socket.socket, *requests: bytes) -> bytes:
        """Send requests that are all answered, and give the answers' bytes."""
        before = self.figures("requests")[0]
        client.sendall(b"".join(requests))
        self.turn_until(lambda: self.figures("requests")[0] == before + len(requests))
        return received(client, len(requests))

    def answered(self, client: socket.socket, *requests: bytes) -> list[bytes]:
        """Send requests that are all answered, and give the answers' bodies."""
        return bodies(self.ask(client, *requests))


def received(client: socket.socket, answers: int) -> bytes:
    """Receive so many answers, and no more."""
    text = b""
    while len(bodies(text)) < answers:
        more = client.recv(65_536)
        if not more:
            break
        text += more
    return text


def bodies(text: bytes) -> list[bytes]:
    """The bodies of the whole answers in this text."""
    found = []
    while (end := text.find(b"\r\n\r\n")) >= 0:
        length = int(text[:end].partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        if len(text) < end + 4 + length:
            break
        found.append(text[end + 4 : end + 4 + length])
        text = text[end + 4 + length :]
    return found


def totals(rows: Iterable[tuple[Any, ...]]) -> dict[tuple[str, str, str, str], int]:
    """What was drained: requests by key id, protocol, asset and source."""
    found: dict[tuple[str, str, str, str], int] = {}
    for key_id, protocol, asset, source, _, requests, _, _ in rows:
        kind = key_id, protocol, asset, source
        found[kind] = found.get(kind, 0) + requests
    return found
