"""Servers on loopback, each in a thread, that answer as a test wants; for clients that turn without a reactor."""

from __future__ import annotations

import json
import re
import select
import socket
import struct
import threading
from collections.abc import Callable

HttpAnswers = Callable[[str], bytes | None]
"""For the target of a request the bytes to answer: empty to keep silent, C{None} to hang up."""

UdpAnswers = Callable[[str, str], bytes]
"""For an asset and an id the datagram to answer; empty to keep silent."""

_ASSET = re.compile(r"asset=([A-Z]+)")


def price_of(asset: str) -> bytes:
    """A price, as the daemon begins it."""
    return b'{"asset":"%b","price":83421.57,"source":"median"}' % asset.encode("ascii")


def http_answer(status: int = 200, body: bytes = b"{}", *lines: bytes) -> bytes:
    """One whole answer."""
    head = b"\r\n".join([b"HTTP/1.1 %d Said" % status, b"Content-Length: %d" % len(body), *lines])
    return head + b"\r\n\r\n" + body


def good(target: str) -> bytes:
    """The price that was asked for."""
    asset = _ASSET.search(target)
    assert asset is not None, target
    return http_answer(200, price_of(asset[1]))


class _Peer:
    """A thread that serves one port until it is closed.

    @ivar port: where.
    """

    def __init__(self, kind: socket.SocketKind) -> None:
        self._ends, self._end = socket.socketpair()
        self._listening = socket.socket(socket.AF_INET, kind)
        self._listening.bind(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def close(self) -> None:
        """End it."""
        self._end.close()
        self._thread.join(10.0)
        self._ends.close()
        self._listening.close()

    def _serve(self) -> None:
        raise NotImplementedError


class HttpPeer(_Peer):
    """Answers HTTP.

    @ivar answers: how; may be changed at any time.
    @ivar asked: the heads of the requests, in order.
    @ivar sources: the clients' addresses.
    """

    def __init__(self, answers: HttpAnswers = good) -> None:
        super().__init__(socket.SOCK_STREAM)
        self.answers = answers
        self.asked: list[str] = []
        self.sources: list[str] = []
        self._listening.listen(128)
        self._thread.start()

    def _serve(self) -> None:
        clients: dict[socket.socket, bytes] = {}
        while True:
            for ready in select.select([self._ends, self._listening, *clients], [], [])[0]:
                if ready is self._ends:
                    for client in clients:
                        client.close()
                    return
                if ready is self._listening:
                    client, (source, _) = ready.accept()
                    clients[client] = b""
                    self.sources.append(source)
                    continue
                try:
                    data = clients[ready] + ready.recv(65536)
                except ConnectionResetError:
                    data = b""
                if data == clients[ready] or not self._answered(ready, data, clients):
                    del clients[ready]
                    ready.close()

    def _answered(self, client: socket.socket, data: bytes, clients: dict[socket.socket, bytes]) -> bool:
        *requests, clients[client] = data.split(b"\r\n\r\n")
        for request in requests:
            self.asked.append(request.decode("ascii"))
            answer = self.answers(request.split(b" ", 2)[1].decode("ascii"))
            if answer is None:
                return False
            if answer == b"RESET":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            client.sendall(answer)
        return True


class UdpPeer(_Peer):
    """Answers datagrams.

    @ivar answers: how; may be changed at any time.
    @ivar asked: the questions, in order.
    @ivar sources: the ports that they came from.
    """

    def __init__(self, answers: UdpAnswers | None = None) -> None:
        super().__init__(socket.SOCK_DGRAM)
        self.answers = answers or (lambda asset, number: priced(asset, number))
        self.asked: list[str] = []
        self.sources: set[int] = set()
        self._thread.start()

    def _serve(self) -> None:
        while True:
            ready = select.select([self._ends, self._listening], [], [])[0]
            if self._ends in ready:
                return
            data, source = self._listening.recvfrom(2048)
            self.asked.append(data.decode("ascii"))
            self.sources.add(source[1])
            _, asset, number = self.asked[-1].split("|")
            answer = self.answers(asset, number)
            if answer:
                self._listening.sendto(answer, source)


def priced(asset: str, number: str) -> bytes:
    """The price that was asked for, with its id at the end."""
    return price_of(asset)[:-1] + b',"id":%b}' % number.encode("ascii")


def refused(error: str, number: str) -> bytes:
    """A refusal."""
    return json.dumps({"error": error, "id": int(number)}).encode("ascii")


def dead_port(kind: socket.SocketKind) -> int:
    """A port on which nobody listens."""
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
