"""The generators of a run: processes that are started, told what to do side by side, and ended.

They hear of the end from us alone: they are no members of the terminal's group, so Ctrl-C reaches only the command,
and if that is killed, their standard input ends and they with it.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

from tbeast.errors import TBeastError
from tbeast.loadtest.orders import Done, Order, Progress, Stop, event_decoder, line_of
from tbeast.loadtest.tally import Tally, together

COMMAND: Final = (sys.executable, "-m", "tbeast.loadtest")
END_SECONDS: Final = 3.0
STOP_SECONDS: Final = 5.0

Heard = Callable[[Progress], None]


class GeneratorError(TBeastError):
    """A generator has died, or does not answer."""


class _Member:
    """One generator.

    @ivar progress: the newest of the order under way.
    @ivar tally: what came of it; C{None} until it is done.
    @ivar is_asked: whether it takes part in the order under way.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        self.progress = Progress(0, 0, 0)
        self.tally: Tally | None = None
        self.is_asked = False
        self._rest = b""

    def tell(self, order: Order) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line_of(order))
        except OSError:
            raise GeneratorError("a generator has ended") from None

    def hear(self) -> None:
        """Take what it has said."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 1 << 20)
        if not data:
            raise GeneratorError(f"a generator has ended, with status {self.process.wait(END_SECONDS)}")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            event = event_decoder.decode(line)
            if isinstance(event, Done):
                self.tally = event.tally
            else:
                self.progress = event

    def end(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Crew:
    """Generators that work side by side.

    @param clock: seconds of a clock that is never set back.
    """

    def __init__(self, size: int, clock: Callable[[], float], command: Sequence[str] = COMMAND) -> None:
        self._clock = clock
        self._members: list[_Member] = []
        self._selector = selectors.DefaultSelector()
        try:
            for _ in range(size):
                member = _Member(command)
                self._members.append(member)
                assert member.process.stdout is not None
                self._selector.register(member.process.stdout, selectors.EVENT_READ, member)
        except BaseException:
            self.end()
            raise

    def carry_out(self, orders: Sequence[Order | None], within_seconds: float, heard: Heard) -> Tally:
        """Have each generator carry out its order, those without one resting, and wait for all.

        @param heard: told how far they are together.
        @raise GeneratorError: when one of them died, or was not done in time.
        """
        for member, order in zip(self._members, orders, strict=True):
            member.tally = None
            member.progress = Progress(0, 0, 0)
            member.is_asked = order is not None
        for member, order in zip(self._members, orders, strict=True):
            if order is not None:
                member.tell(order)
        return self._gathered(within_seconds, heard)

    def stop(self) -> Tally:
        """End the order under way, and give what came of it so far.

        @raise GeneratorError: as above.
        """
        for member in self._members:
            if member.is_asked and member.tally is None:
                member.tell(Stop())
        return self._gathered(STOP_SECONDS, lambda _: None)

    def end(self) -> None:
        """End all of them."""
        self._selector.close()
        members, self._members = self._members, []
        for member in members:
            if member.process.stdin is not None:
                # all of them hear of it before one is waited for
                member.process.stdin.close()
        for member in members:
            member.end()

    def _gathered(self, within_seconds: float, heard: Heard) -> Tally:
        asked = [member for member in self._members if member.is_asked]
        until = self._clock() + within_seconds
        while any(member.tally is None for member in asked):
            left = until - self._clock()
            if left <= 0.0:
                raise GeneratorError(f"a generator has not answered within {within_seconds:g} s")
            for key, _ in self._selector.select(left):
                member: _Member = key.data
                member.hear()
            said = [member.progress for member in asked]
            heard(
                Progress(sum(one.asked for one in said), sum(one.ok for one in said), sum(one.failed for one in said))
            )
        return together([member.tally for member in asked if member.tally is not None])
