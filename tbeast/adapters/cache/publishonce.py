"""One message to every node from a command, which has no reactor: connect, publish, hang up, within a few seconds.

The address, the password and the checking of the certificate are those of the daemon's connections (see
L{tbeast.adapters.cache.valkeytarget}).
"""

from __future__ import annotations

import socket
import ssl
from contextlib import closing
from typing import IO, Final

from tbeast.adapters.cache.resp import Word, packed
from tbeast.adapters.cache.valkeytarget import Target, target
from tbeast.errors import CacheUnavailableError

TIMEOUT_SECONDS: Final = 3.0
_LONGEST_REPLY: Final = 4_096


def publish_once(url: str, channel: bytes, message: bytes, authorities: str | None = None) -> int:
    """Publish one message.

    @param url: the setting CACHE_URL.
    @param authorities: PEM file of the certificate authorities to trust; C{None}: those of the system.
    @return: how many heard it.
    @raise CacheUnavailableError: when that does not work; the message does not hold the password.
    @raise SettingsError: when C{url} is nothing of the sort.
    """
    where = target(url)
    try:
        with closing(_connected(where, authorities)) as connection, connection.makefile("rb") as replies:
            if where.password is not None:
                user = () if where.username is None else (where.username,)
                _asked(connection, replies, b"AUTH", *user, where.password)
            said = _asked(connection, replies, b"PUBLISH", channel, message)
            return int(said[1:])
    except (OSError, ValueError) as error:
        raise CacheUnavailableError(f"{where}: {error}") from None


def _connected(where: Target, authorities: str | None) -> socket.socket:
    if where.path:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(TIMEOUT_SECONDS)
        try:
            connection.connect(where.path)
        except OSError:
            connection.close()
            raise
        return connection
    connection = socket.create_connection((where.host, where.port), TIMEOUT_SECONDS)
    if not where.tls:
        return connection
    try:
        return ssl.create_default_context(cafile=authorities).wrap_socket(connection, server_hostname=where.host)
    except (OSError, ValueError):
        connection.close()
        raise


def _asked(connection: socket.socket, replies: IO[bytes], *words: Word) -> bytes:
    connection.sendall(packed(*words))
    reply = replies.readline(_LONGEST_REPLY)
    if not reply.endswith(b"\r\n"):
        raise ConnectionResetError("it hung up")
    if reply[:1] not in b"+:":
        raise ValueError(
            "".join(sign if sign.isprintable() else "?" for sign in reply[1:-2].decode("utf-8", "replace"))
        )
    return reply[:-2]
