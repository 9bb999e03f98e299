"""What this machine allows, asked of the system."""

from __future__ import annotations

import os
import platform
import resource
import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from tbeast.loadtest.levels import MOST_SOURCES, Room

PORT_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_RANGE: Final = (32_768, 60_999)
_ENOUGH_FILES: Final = 1 << 20


def room_for(host: str) -> Room:
    """What there is for connections to this numeric address.

    A loopback address of IPv4 can be connected to from any of 127.0.0.0/8; any other from one address.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    low, high = _USUAL_RANGE
    with suppress(OSError, ValueError):
        low, high = map(int, PORT_RANGE.read_text("ascii").split())
    return Room(files=files, ports=max(1, high - low + 1), sources=MOST_SOURCES if has_many_sources(host) else 1)


def has_many_sources(host: str) -> bool:
    """Whether there are many local addresses to reach this numeric address from."""
    address = ip_address(host)
    return address.version == 4 and address.is_loopback


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def address_of(host: str, port: int, kind: socket.SocketKind) -> str:
    """The numeric address of a host; of IPv4 where it has one.

    @raise OSError: when it has none.
    """
    found = socket.getaddrinfo(host, port, type=kind)
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def is_loopback(host: str) -> bool:
    """Whether this numeric address is of this machine alone."""
    return ip_address(host.partition("%")[0]).is_loopback


def description() -> str:
    """This machine in one line, without its name."""
    count = cores()
    return (
        f"{count} core{'s' if count > 1 else ''}, {platform.machine()}, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}"
    )
