"""Clients that would like to hold so many connections to daemons, and count those that they were given.

A connection is given when a question on it was answered; whoever hears a 503 instead has been refused. What is counted
here is never more than what the daemons hold: a connection that was closed here may live on there for a moment.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress

HERE = "127.0.0.1"
AT_A_TIME = 12
PATIENCE_SECONDS = 10.0


class Crowd:
    """All clients of some daemons.

    @ivar wanted: how many each daemon's clients would like to hold, by its name.
    @ivar refused: how many heard a 503, by its name.
    @ivar ended: how many connections that were given were ended by the daemons.
    @ivar most: the most that all held at a time, since L{forget}.
    """

    def __init__(self, ports: Mapping[str, int], key: str) -> None:
        self.wanted = dict.fromkeys(ports, 0)
        self.refused = dict.fromkeys(ports, 0)
        self.refusal = b""
        self.ended = 0
        self.most = 0
        self._ports = ports
        self._held: dict[str, list[socket.socket]] = {name: [] for name in ports}
        self._question = f"GET /price?asset=BTC HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n\r\n".encode()

    def held(self, name: str) -> int:
        """How many connections a daemon has given."""
        return len(self._held[name])

    @property
    def total(self) -> int:
        """How many all have given."""
        return sum(len(held) for held in self._held.values())

    def forget(self) -> None:
        """Begin anew to note the most."""
        self.most = self.total

    def turn(self) -> None:
        """Close what is too many, and try to get some of what is missing; whoever is refused does not try again now."""
        for name, held in self._held.items():
            for one in [one for one in held if _has_ended(one)]:
                held.remove(one)
                one.close()
                self.ended += 1
            while len(held) > self.wanted[name]:
                held.pop().close()
        for name in self._ports:
            self._try(name, min(AT_A_TIME, self.wanted[name] - self.held(name)))

    def lose(self, name: str) -> None:
        """A daemon is gone, and its connections with it."""
        self.wanted[name] = 0
        for one in self._held[name]:
            one.close()
        self._held[name].clear()

    def close(self) -> None:
        """All go."""
        for name in self._ports:
            self.lose(name)

    def _try(self, name: str, count: int) -> None:
        asking = []
        for _ in range(count):
            client = socket.socket()
            client.settimeout(PATIENCE_SECONDS)
            try:
                client.connect((HERE, self._ports[name]))
                asking.append(client)
            except OSError:
                client.close()
        for client in asking:
            with suppress(OSError):
                client.sendall(self._question)
        for client in asking:
            answer = self._answer(client)
            if answer.startswith(b"HTTP/1.1 200 "):
                client.setblocking(False)
                self._held[name].append(client)
                self.most = max(self.most, self.total)
            else:
                client.close()
                if answer.startswith(b"HTTP/1.1 503 "):
                    self.refused[name] += 1
                    self.refusal = answer

    def _answer(self, client: socket.socket) -> bytes:
        """A whole answer; less of it, or nothing, if the connection ends before."""
        text = b""
        try:
            while b"\r\n\r\n" not in text:
                more = client.recv(65_536)
                if not more:
                    return text
                text += more
            head, _, body = text.partition(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            while len(body) < int(length[15:]):
                more = client.recv(65_536)
                if not more:
                    break
                body += more
        except OSError:
            return text
        return head + b"\r\n\r\n" + body


def _has_ended(client: socket.socket) -> bool:
    """Whether the daemon has ended it; on a connection that is held nothing comes."""
    try:
        return not client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
