"""Ports that are free just now, for a process that must be told its ports."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import Final

LOWEST: Final = 10_240
HIGHEST: Final = 32_768


def free_ports(count: int) -> list[int]:
    """So many different ports that are free for TCP and for UDP on the loopback address.

    They lie below those that systems give to outgoing connections, and are chosen by chance, so that neither a
    connection nor another process that looks for ports is likely to take one before it is used; nobody holds them after
    this returns.
    """
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = LOWEST + int.from_bytes(os.urandom(4), "big") % (HIGHEST - LOWEST)
            try:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    held.enter_context(socket.socket(socket.AF_INET, kind)).bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found
