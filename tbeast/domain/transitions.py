"""What has changed: the turns of everything that has a state, kept for whoever comes to look.

A thing is a name and its state, with a reason: the feed of an exchange, a listener, a part behind the surface, the
limit of a node. Whoever looks at all of them now and then hands them to L{Transitions.see}; what differs from the look
before is a L{Change}. What is seen at the first look is no change, nor is another reason for the same state. A thing
that comes later turns from nothing, one that is there no more turns into nothing.

So many changes are kept, and of one thing no more than a quarter of them; when there are too many, the oldest goes of
the thing that has the most. So what flaps all night, be it many things at once, does not push out the one turn that
explains it. Changes are numbered from 1 without a gap, so that somebody who has seen some can ask for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from attrs import frozen

MOST: Final = 200
PART: Final = 4
"""Of one thing, this part of all."""

LONGEST_WHY: Final = 200


@frozen
class Change:
    """One turn of one thing.

    @ivar number: counts the changes of this process, from 1.
    @ivar at: when it was seen, in seconds since the epoch.
    @ivar what: which thing.
    @ivar before: its state until then; empty where it was not there.
    @ivar after: its state since; empty where it is gone.
    @ivar why: in few words, at most L{LONGEST_WHY} letters; empty if there is nothing to say.
    """

    number: int
    at: float
    what: str
    before: str
    after: str
    why: str


class Transitions:
    """The last changes.

    @ivar last: the number of the newest; 0 before there is one.
    """

    def __init__(self, most: int = MOST) -> None:
        """Begin without any.

        @param most: how many are kept.
        @raise ValueError: when that is less than L{PART}.
        """
        if most < PART:
            raise ValueError(f"{most} changes are too few to keep")
        self.last = 0
        self._most = most
        self._most_of_one = most // PART
        self._states: dict[str, str] | None = None
        self._kept: dict[int, Change] = {}
        self._of: dict[str, list[int]] = {}

    def see(self, now: float, things: Mapping[str, tuple[str, str]]) -> Sequence[Change]:
        """Look at everything.

        @param things: by name: the state, and why it is in it.
        @return: what has changed since the last look, in the order of C{things}; what is gone comes last.
        """
        before, self._states = self._states, {what: state for what, (state, _) in things.items()}
        if before is None:
            return ()
        turned = [
            self._keep(now, what, before.get(what, ""), state, why)
            for what, (state, why) in things.items()
            if state != before.get(what)
        ]
        gone = [self._keep(now, what, state, "", "") for what, state in before.items() if what not in things]
        return [*turned, *gone]

    def after(self, number: int) -> Sequence[Change]:
        """The changes beyond that number which are still kept, the oldest first; 0 for all."""
        return [change for change in self._kept.values() if change.number > number]

    def _keep(self, now: float, what: str, before: str, after: str, why: str) -> Change:
        self.last += 1
        change = self._kept[self.last] = Change(self.last, now, what, before, after, why[:LONGEST_WHY])
        of_this = self._of.setdefault(what, [])
        of_this.append(self.last)
        if len(of_this) > self._most_of_one:
            self._drop(of_this[0])
        if len(self._kept) > self._most:
            self._drop(max(self._of.values(), key=len)[0])
        return change

    def _drop(self, number: int) -> None:
        what = self._kept.pop(number).what
        self._of[what].remove(number)
        if not self._of[what]:
            del self._of[what]
