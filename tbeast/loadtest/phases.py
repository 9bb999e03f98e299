"""The two loops that load a server.

In a closed loop each asker asks again as soon as it was answered: that finds how much the server can do, but says
little of latency, since a server that stalls is then not asked. In an open loop questions are due at moments of their
own, and each latency counts from that moment, whether or not somebody was free to ask: a stall costs all those whose
questions fell into it (no coordinated omission).

A closed loop's rate is counted from the moment when as many questions are over as there are askers, if that comes in
the first half of its time: before, a server with many askers has been asked much and has answered little.

How late the generator itself is to see that a question is due is counted beside: it is part of the latencies, and not
the server's doing. After the time of a loop nothing new is asked, and what is under way is waited for.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from attrs import frozen

from tbeast.loadtest.askers import EVENTS_AT_A_TIME, Askers
from tbeast.loadtest.tally import Tally

TIDY_SECONDS: Final = 0.1
SLACK_SECONDS: Final = 1.0
"""How much longer than the time-out an answer is waited for, so that it is the time-out that ends it."""
MOST_WAITING: Final = 1_000_000
NEVER_SENT: Final = "never sent"

Interrupted = Callable[[float], bool]
"""Called several times a second with the time; whether to end at once."""


@frozen
class _Before:
    """What was counted when the measured part of a loop began."""

    at: float
    ok: int = 0
    waited: float = 0.0


def closed_loop(askers: Askers[Any], seconds: float, interrupted: Interrupted) -> Tally:
    """Have everybody ask again and again."""
    clock = askers.clock
    tally = askers.tally
    with _undisturbed():
        begun = next_tidy = clock()
        end = begun + seconds
        first_lap = len(askers.idle)
        before = _Before(begun)
        askers.again = True
        stopped = False
        while (now := clock()) < end and not stopped:
            if now >= next_tidy:
                next_tidy = now + TIDY_SECONDS
                stopped = _tidied(askers, now, interrupted)
                if before.at == begun and tally.ok + tally.failed >= first_lap and now <= begun + seconds / 2.0:
                    before = _Before(now, tally.ok, tally.waited)
                for _ in range(len(askers.idle)):
                    askers.ask(askers.idle.popleft(), now, now)
                    now = clock()
            askers.turn(min(next_tidy, end) - now)
        askers.again = False
        return _ended(askers, before, stopped, interrupted)


def open_loop(askers: Askers[Any], schedule: Iterator[float], seconds: float, interrupted: Interrupted) -> Tally:
    """Ask at the moments of the schedule, in seconds from now."""
    clock = askers.clock
    idle, backlog = askers.idle, askers.backlog
    lags: list[float] = []
    with _undisturbed():
        begun = next_tidy = clock()
        end = begun + seconds
        stopped = False
        due = begun + next(schedule, seconds)
        while ((now := clock()) < end or due < end) and not stopped:
            if now >= next_tidy:
                next_tidy = now + TIDY_SECONDS
                stopped = _tidied(askers, now, interrupted)
                askers.tally.lag.add(lags)
                lags.clear()
            while backlog and idle:
                askers.ask(idle.popleft(), backlog.popleft(), now)
            for _ in range(EVENTS_AT_A_TIME):
                if due > now or due >= end:
                    break
                lags.append(now - due)
                if idle and not backlog:
                    askers.ask(idle.popleft(), due, now)
                elif len(backlog) < MOST_WAITING:
                    backlog.append(due)
                else:
                    askers.tally.asked += 1
                    askers.tally.fail(NEVER_SENT)
                due = begun + next(schedule, seconds)
                now = clock()
            askers.turn(min(next_tidy, due, end) - now)
        askers.tally.lag.add(lags)
        return _ended(askers, _Before(begun), stopped, interrupted)


def _tidied(askers: Askers[Any], now: float, interrupted: Interrupted) -> bool:
    askers.tidy(now)
    askers.fold()
    return interrupted(now)


def _ended(askers: Askers[Any], before: _Before, stopped: bool, interrupted: Interrupted) -> Tally:
    """Note what was measured, and wait for the rest."""
    clock = askers.clock
    tally = askers.tally
    now = clock()
    tally.in_time, tally.elapsed = tally.ok - before.ok, now - before.at
    waited = min(tally.waited - before.waited, tally.elapsed)
    ask_until = now + askers.timeout_seconds
    until = ask_until + askers.timeout_seconds + SLACK_SECONDS
    while (askers.under_way or askers.backlog) and now < until and not stopped:
        stopped = _tidied(askers, now, interrupted)
        if now >= ask_until:
            _never_sent(askers)
        while askers.backlog and askers.idle:
            askers.ask(askers.idle.popleft(), askers.backlog.popleft(), now)
        askers.turn(TIDY_SECONDS)
        now = clock()
    tally.interrupted = stopped
    tally.waited = waited
    # after an interruption nobody knows what would have become of these
    tally.asked -= askers.under_way
    askers.backlog.clear()
    return askers.take()


def _never_sent(askers: Askers[Any]) -> None:
    """Give up what still waits for somebody idle."""
    if askers.backlog:
        askers.tally.asked += len(askers.backlog)
        askers.tally.fail(NEVER_SENT, len(askers.backlog))
        askers.backlog.clear()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No search for garbage in between: it would be seen as latency."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
