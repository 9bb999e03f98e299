"""Askers over UDP: places that share some sockets, each with one question under way at most.

Every question has an id of its own, and only the answer with that id is its answer. What is not there in time is lost;
if it comes later still, it is counted as late, and stays lost. A word from the system that nobody listens at the port
is taken for the oldest question of the socket that hears it.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from tbeast.loadtest.askers import MALFORMED, WRONG_ANSWER, Askers
from tbeast.loadtest.httpanswers import is_price_of
from tbeast.loadtest.orders import SetUp

LOST: Final = "lost"
REFUSED: Final = "refused"
NOT_SENT: Final = "not sent"
DATAGRAMS_AT_A_TIME: Final = 32
BUFFER_BYTES: Final = 8 << 20
"""Asked for; the system gives what it allows."""

_ID: Final = b'"id":'


class _Said(msgspec.Struct):
    id: int
    error: str = ""


class Wire:
    """One socket.

    @ivar asked: by the id, what is under way: when it was due, when it was sent, and the place of its asset.
    """

    __slots__ = ("asked", "recv", "send", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.recv = sock.recv
        self.send = sock.send
        self.asked: dict[int, tuple[float, float, int]] = {}


class Datagrams(Askers[Wire]):
    """All sockets of one generator."""

    def __init__(self, setup: SetUp, clock: Callable[[], float]) -> None:
        super().__init__(clock, setup.timeout_seconds)
        self._address = (setup.host, setup.port)
        self._family = socket.AF_INET6 if ":" in setup.host else socket.AF_INET
        self._assets = setup.assets
        self._asks = [f"{setup.key}|{asset}|".encode("ascii") for asset in setup.assets]
        self._beginnings = [b'{"asset":"%b",' % asset.encode("ascii") for asset in setup.assets]
        self._next = 0
        self._next_id = 1
        self._by_fd: dict[int, Wire] = {}

    def gather(self, askers: int, sockets: int, until: float) -> None:
        """See L{Askers.gather}."""
        while len(self._by_fd) > sockets:
            _, wire = self._by_fd.popitem()
            wire.sock.close()
        while len(self._by_fd) < sockets:
            sock = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            sock.connect(self._address)
            self._by_fd[sock.fileno()] = Wire(sock)
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        wires = list(self._by_fd.values())
        self.idle.clear()
        self.idle.extend(wires[place % sockets] for place in range(askers))

    def connections(self) -> int:
        """See L{Askers.connections}."""
        return len(self._by_fd)

    def ask(self, asker: Wire, due: float, now: float) -> None:
        """See L{Askers.ask}."""
        place = self._next
        self._next = place + 1 if place + 1 < len(self._asks) else 0
        number = self._next_id
        self._next_id = number + 1
        self.tally.asked += 1
        question = b"%b%d" % (self._asks[place], number)
        for _ in range(2):
            try:
                asker.send(question)
            except ConnectionRefusedError:
                # said of an earlier one; this one has not gone out
                self._refused(asker)
            except OSError:
                break
            else:
                asker.asked[number] = (due, now, place)
                self.under_way += 1
                return
        self.tally.fail(NOT_SENT)
        self.idle.append(asker)

    def turn(self, wait: float) -> None:
        """See L{Askers.turn}."""
        by_fd = self._by_fd
        for fd, _ in self.events(wait):
            wire = by_fd[fd]
            recv = wire.recv
            for _ in range(DATAGRAMS_AT_A_TIME):
                try:
                    data = recv(2048)
                except BlockingIOError:
                    break
                except ConnectionRefusedError:
                    self._refused(wire)
                    continue
                except OSError:
                    break
                self._received(wire, data)

    def tidy(self, now: float) -> None:
        """See L{Askers.tidy}."""
        oldest = now - self.timeout_seconds
        for wire in self._by_fd.values():
            # in the order in which they were sent
            lost = []
            for number, (_, sent_at, _) in wire.asked.items():
                if sent_at >= oldest:
                    break
                lost.append(number)
            for number in lost:
                del wire.asked[number]
                self._failed(wire, LOST)

    def close(self) -> None:
        """See L{Askers.close}."""
        for wire in self._by_fd.values():
            wire.sock.close()
        self._by_fd.clear()
        self.idle.clear()
        super().close()

    def _received(self, wire: Wire, data: bytes) -> None:
        # the id is the last member of a price; whatever has it elsewhere is read with more care
        at = data.rfind(_ID)
        digits = data[at + 5 : -1]
        said = wire.asked.pop(int(digits), None) if at >= 0 and digits.isdigit() else None
        if said is None:
            self._odd(wire, data)
            return
        due, _, place = said
        self.under_way -= 1
        now = self.clock()
        if data.startswith(self._beginnings[place]):
            self.count(due, now)
        else:
            self._judge(data, due, now, place)
        self.free(wire, now)

    def _odd(self, wire: Wire, data: bytes) -> None:
        """What has no id of something under way where it is expected."""
        try:
            number = msgspec.json.decode(data, type=_Said).id
        except (ValueError, RecursionError):
            self.tally.unasked += 1
            return
        said = wire.asked.pop(number, None)
        if said is not None:
            self.under_way -= 1
            now = self.clock()
            self._judge(data, said[0], now, said[2])
            self.free(wire, now)
        elif 0 < number < self._next_id:
            self.tally.late += 1
        else:
            self.tally.unasked += 1

    def _judge(self, data: bytes, due: float, now: float, place: int) -> None:
        """Count an answer that does not look as most do."""
        if is_price_of(self._assets[place], data):
            self.count(due, now)
            return
        try:
            error = msgspec.json.decode(data, type=_Said).error
        except (ValueError, RecursionError):
            self.tally.fail(MALFORMED)
            return
        self.tally.fail(error if error.isidentifier() and len(error) <= 40 else WRONG_ANSWER)

    def _refused(self, wire: Wire) -> None:
        oldest = next(iter(wire.asked), None)
        if oldest is not None:
            del wire.asked[oldest]
            self._failed(wire, REFUSED)

    def _failed(self, wire: Wire, reason: str) -> None:
        self.under_way -= 1
        self.tally.fail(reason)
        self.idle.append(wire)
