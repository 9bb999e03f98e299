"""A connection that more than one thread may have to do with: one works on it, another may have to end that work."""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress

import psycopg2

from tbeast.adapters.store.postgres import Connection


class Session:
    """One connection, used by one thread at a time.

    @ivar used_at: when it was last known to work.
    @ivar cut_why: why it was cut; empty if it was not.
    """

    def __init__(self, connection: Connection, now: float) -> None:
        self.connection = connection
        self.used_at = now
        self.cut_why = ""
        # a handle of our own: the driver may close its one at any moment, and the number may then be another file's
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def speaks(self) -> bool:
        """Whether the server has said something that nobody asked for: its last words, as a rule."""
        return bool(self._poll.poll(0))

    def works(self) -> bool:
        """Ask the server."""
        try:
            with self.connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            self.connection.rollback()
        except psycopg2.Error:
            return False
        return True

    def cut(self, why: str) -> None:
        """End whatever waits for the server on it; from any thread."""
        self.cut_why = why
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        with suppress(psycopg2.Error):
            self.connection.close()
        self._socket.close()
