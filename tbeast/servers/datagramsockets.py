"""What the kernel does with datagrams before we read them: the buffers of a socket, and what did not fit.

A datagram that finds the receive buffer full is dropped by the kernel; no program sees it. The kernel counts these for
each socket, and tells the number with L{SO_MEMINFO}. Where it does not, nothing is counted and nothing else changes.
"""

from __future__ import annotations

import struct
import sys
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, socket
from typing import Final

from twisted.logger import Logger

SO_MEMINFO: Final = 55
"""Linux 4.12 and later, C{include/uapi/asm-generic/socket.h}: nine 32-bit numbers in the machine's byte order."""

_MEMINFO: Final = struct.Struct("=9I")
_DROPS: Final = 8
"""The place of C{SK_MEMINFO_DROPS} among them: C{include/uapi/linux/sock_diag.h}. It is the last column of
/proc/net/udp as well."""
_IS_LINUX: Final = sys.platform.startswith("linux")
_TOLD_FOR_ONE: Final = 2 if _IS_LINUX else 1
"""Linux sets aside twice what was asked for, to have room for its own bookkeeping, and tells that (socket(7))."""

_LIMITS: Final = ((SO_RCVBUF, "receive", "net.core.rmem_max"), (SO_SNDBUF, "send", "net.core.wmem_max"))
_log: Final = Logger()


def ask_for_buffers(port: socket, size: int) -> dict[str, int]:
    """Ask the kernel for buffers of C{size} bytes in both directions, and log what it gives if that is less.

    @return: what it gives, in bytes, by direction: C{receive}, C{send}.
    """
    given = {}
    for option, direction, limit in _LIMITS:
        try:
            port.setsockopt(SOL_SOCKET, option, size)
        except OSError as error:  # systems other than Linux refuse what they will not give
            _log.info("the kernel refuses a {direction} buffer: {error}", direction=direction, error=error)
        given[direction] = port.getsockopt(SOL_SOCKET, option) // _TOLD_FOR_ONE
        if given[direction] < size:
            _log.info(
                "datagrams have a {direction} buffer of {given} KiB instead of {size}: see {limit}",
                direction=direction, given=given[direction] // 1024, size=size // 1024, limit=limit,
            )  # fmt: skip
    return given


class KernelDrops:
    """How many datagrams the kernel has dropped because a socket's receive buffer was full.

    Counted is from the making of this on: the socket may be older, and what it lost before was another's.
    """

    def __init__(self, port: socket) -> None:
        self._socket = port
        self._before = self._read()

    def new(self) -> int:
        """How many there were since this was asked last."""
        if self._before is None:
            return 0
        drops = self._read()
        if drops is None:
            return 0
        new = (drops - self._before) & 0xFFFFFFFF  # it begins again after 32 bits
        self._before = drops
        return new

    def _read(self) -> int | None:
        """The kernel's count; C{None}: it has none."""
        if not _IS_LINUX:
            return None
        try:
            told = self._socket.getsockopt(SOL_SOCKET, SO_MEMINFO, _MEMINFO.size)
        except OSError:
            return None
        if len(told) != _MEMINFO.size:
            return None
        drops: int = _MEMINFO.unpack(told)[_DROPS]
        return drops
