"""Refusals that are no fault of the client, each a line of the log with its request id.

So who asks why a request was answered 503 can be told. A node that can answer nobody refuses many thousands a second,
so no more than L{MOST_LINES} get a line in each L{WINDOW_SECONDS}; how many were left out stands in the next line. All
of them are counted.
"""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from tbeast.codecs.problems import Problem
from tbeast.interfaces import Now

MOST_LINES: Final = 10
WINDOW_SECONDS: Final = 1.0
LONGEST_PATH: Final = 200


class FaultLog:
    """What one site tells of.

    @param service: what it is called.
    """

    log = Logger()

    def __init__(self, service: str, now: Now) -> None:
        self._service = service
        self._now = now
        self._window_ends = float("-inf")
        self._lines = 0
        self._left_out = 0

    def note(self, problem: Problem, path: bytes, request_id: str) -> None:
        """A request for C{path} was refused."""
        now = self._now()
        if now >= self._window_ends:
            self._window_ends, self._lines = now + WINDOW_SECONDS, 0
        if self._lines >= MOST_LINES:
            self._left_out += 1
            return
        self._lines += 1
        before, self._left_out = self._left_out, 0
        self.log.warn(
            "{service}: {status} {code} for {path}, request {request_id}{more}",
            service=self._service, status=problem.status, code=problem.code, request_id=request_id,
            path=path[:LONGEST_PATH].decode("ascii", "backslashreplace"), left_out=before,
            more=f"; {before} like it before were left out" if before else "",
        )  # fmt: skip
