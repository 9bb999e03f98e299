"""Buffers and drops of datagram sockets: real ones, and ones that do not tell."""

from __future__ import annotations

import socket
import struct
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbeast.servers.datagramsockets import KernelDrops, ask_for_buffers
from tbeast.testing.logs import listen

SMALL = 8 * 1024
LEAST_KEPT = 2
SENT = 500


class Told:
    """A socket that says what the test told it to.

    @ivar sizes: by option, what it has; it gives no more than C{most} of it, and tells twice that, as Linux does.
    """

    def __init__(self, most: int = 1 << 30) -> None:
        self.most = most
        self.sizes: dict[int, int] = {}
        self.meminfo: object = b""

    def tell_drops(self, drops: int) -> None:
        self.meminfo = struct.pack("=9I", 1, 2, 3, 4, 5, 6, 7, 8, drops)

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if self.most < 0:
            raise OSError(105, "No buffer space available")
        self.sizes[option] = 2 * min(value, self.most)

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | bytes:
        if not size:
            return self.sizes.get(option, 4096)
        if isinstance(self.meminfo, Exception):
            raise self.meminfo
        assert isinstance(self.meminfo, bytes)
        return self.meminfo


def told(most: int = 1 << 30) -> Any:
    return Told(most)


class BufferTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines = listen(self)

    def test_given(self) -> None:
        """What a real socket has afterwards; nothing is said when it is what was asked for."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
            given = ask_for_buffers(raw, SMALL)
            self.assertEqual({"receive": SMALL, "send": SMALL}, given)
            # socket(7): it has room for the kernel's own use as well, and tells of both
            self.assertEqual(2 * SMALL, raw.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
        self.assertEqual([], self.lines.lines)

    def test_less(self) -> None:
        """No failure, and a line for each direction that says whom to ask."""
        given = ask_for_buffers(told(100 * 1024), 1024 * 1024)
        self.assertEqual({"receive": 100 * 1024, "send": 100 * 1024}, given)
        (line,) = self.lines.having("net.core.rmem_max")
        self.assertIn("receive buffer of 100 KiB instead of 1024", line)
        self.assertEqual(1, len(self.lines.having("net.core.wmem_max")))

    def test_refused(self) -> None:
        self.assertEqual({"receive": 2048, "send": 2048}, ask_for_buffers(told(-1), SMALL))
        self.assertEqual(2, len(self.lines.having("No buffer space")))


class KernelDropsTests(SynchronousTestCase):
    def test_real_overflow(self) -> None:
        """What was sent was read or is counted, exactly; and each is counted once."""
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            raw.bind(("127.0.0.1", 0))
            raw.setblocking(False)
            ask_for_buffers(raw, SMALL)
            drops = KernelDrops(raw)
            self.assertEqual(0, drops.new())
            for _ in range(2):
                for _ in range(SENT):
                    client.sendto(b"key|BTC", raw.getsockname())
                read = 0
                try:
                    while raw.recv(2000):
                        read += 1
                except BlockingIOError:
                    pass
                self.assertGreater(read, LEAST_KEPT)
                self.assertLess(read, SENT)
                self.assertEqual(SENT - read, drops.new())
                self.assertEqual(0, drops.new())

            for _ in range(SENT):
                client.sendto(b"key|BTC", raw.getsockname())
            self.assertEqual(0, KernelDrops(raw).new(), "what was lost before is another's")
            self.assertGreater(drops.new(), 0)

    def test_wraps(self) -> None:
        """The kernel's number has 32 bits."""
        raw = told()
        raw.tell_drops(0xFFFFFFFE)
        drops = KernelDrops(raw)
        raw.tell_drops(3)
        self.assertEqual(5, drops.new())

    def test_not_told(self) -> None:
        """Systems without such a number: nothing is counted, and nothing breaks, whenever it ends."""
        raw = told()
        for answer in (OSError(92, "Protocol not available"), b"", bytes(32)):
            raw.meminfo = answer
            self.assertEqual(0, KernelDrops(raw).new())
        raw.tell_drops(7)
        drops = KernelDrops(raw)
        raw.meminfo = OSError(9, "Bad file descriptor")
        self.assertEqual(0, drops.new())
        raw.tell_drops(9)
        self.assertEqual(2, drops.new())
