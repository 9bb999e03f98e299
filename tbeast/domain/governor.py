"""How many TCP connections a node may hold: its share of the cluster's total, and less while it is not well.

B{The list.} Once in L{EXCHANGE_SECONDS} each node writes a L{Report} into a list in the shared cache and then reads
the list of all, its own report among them. A report says what the node holds, what it was asked for, how well it is,
and its B{claim}: the most that it will hold until it has reported again.

B{The division.} All nodes reckon the same shares from the same list (L{divide}). Everybody gets a floor, so that a
new node has something to begin with; then what it was asked for and a quarter more, or as much again if it is
B{pressed} (it refused somebody in the last L{HOLD_SECONDS}); the least demanding first, and those that ask for more
than is there get the same each (max-min fairness, "water-filling"). What is left over is parted evenly, among the
pressed if there are any. One floor stays free as the seat of whoever comes next, but not where one node is alone and
no more are configured. What is asked for counts at once when it rises, sinks by two thirds an exchange at the most, and
is told anew only when it moved by a twentieth: small noise moves nobody's share.

B{Moving.} Whose share has sunk lowers its limit at once: new connections are refused, those that are there stay until
they close. Whose share has risen claims its part of the room that no claim covers, and uses it only when the list,
read after that claim was written, shows that it still fits.

B{The promise.} All connections of the cluster together are never more than the total, except for what these hold:

  1. a node that has had no first answer from the list yet, at most a floor each;
  2. a node that is B{cut off}: it refuses at its limit of then or at an nth of the total, whichever is less, but may
     hold more from before;
  3. both of them afterwards, until they have closed what does not fit;
  4. a process that stood still for longer than it takes to be forgotten, up to its old limit, until its next round;
  5. a node that comes new while the list has just been lost, and cannot see the others before they report again.

The seats that its ports keep for operators (L{tbeast.servers.door}) are not among them.

For a node's connections never exceed its claim in the list: a claim is written before it is used, and lowered after
the limit was. Of two that claim the same room the one that reads last sees the other's claim, since each writes before
it reads, and takes only what fits. A node that was not heard for L{SILENCE_SECONDS} knows it and is cut off; the others
forget it after L{NODE_SECONDS}, which is later. That compares no clocks: each counts by its own since when another's
report has not changed. It asks that an older report never replaces a newer one of the same process, and that each
clock goes evenly for these few seconds; a leap of L{SILENCE_SECONDS} or more is taken for a silence.

B{Health.} Within its share a node's limit is C{share * health}, never under the floor: it falls when answers get slow,
the reactor lags or questions are refused for want of capacity, and rises gently (L{tbeast.domain.nodehealth}). The
share that an unwell node cannot use goes to those that are well.

B{The three counters} over the cluster, to which each node adds its L{Tally}: C{successes} are the questions answered
without trouble, C{throttle} the connections refused here, C{total} all of these and the answers refused for want of
capacity. They decide nothing; C{throttle / total} is what an alarm looks at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from math import inf
from typing import Final, NamedTuple

from attrs import frozen

from tbeast.domain.nodehealth import HOLD_SECONDS, Health

EXCHANGE_SECONDS: Final = 1.0
"""From one exchange to the next."""

SILENCE_SECONDS: Final = 3.0
"""A node that was not heard for so long takes itself for cut off, at its next round."""

NODE_SECONDS: Final = 4.5
"""A node whose report has not changed for so long is gone, and its share is free. More than L{SILENCE_SECONDS} and an
exchange, and no multiple of one, so that it does not hang on trifles which it is."""

TOTAL: Final = 6_000
FLOOR: Final = 50
"""What every node gets, where the total is large enough (L{floor_of})."""

IN_DEMAND: Final = 0.75
"""A node is in demand if it holds this part of its limit, or refused somebody."""

STARTING: Final = "starting"
SHARING: Final = "sharing"
CUT_OFF: Final = "cut off"
SINGLE: Final = "single"
STATES: Final = (STARTING, SHARING, CUT_OFF, SINGLE)
"""No first answer yet; sharing with whoever is there; no answer for too long; without a shared cache."""


@frozen
class Report:
    """What a node tells the others.

    @ivar node: its name.
    @ivar life: names this process among those that bore the name.
    @ivar sequence: counts the reports of this life, from 1.
    @ivar at: when it was made, by the node's own clock, in seconds since the epoch. For operators, and for clearing
        the list of what is long gone; the law compares no clocks.
    @ivar connections: what it holds.
    @ivar demand: what it was asked for: connections, and what was refused since the last round; smoothed.
    @ivar is_pressed: whether it refused somebody lately.
    @ivar health: from L{LEAST_HEALTH} to 1.
    @ivar claim: the most that it will hold until the next report.
    @ivar limit: where it refuses now.
    """

    node: str
    life: str
    sequence: int
    at: float
    connections: int
    demand: int
    is_pressed: bool
    health: float
    claim: int
    limit: int


@frozen
class Tally:
    """What is to be added to the cluster's counters; the head of the module says what they are for."""

    successes: int = 0
    total: int = 0
    throttle: int = 0


@frozen
class Move:
    """A change of the limit.

    @ivar at: in seconds since the epoch.
    @ivar reason: a few words for the operator.
    """

    at: float
    before: int
    after: int
    reason: str


class Part(NamedTuple):
    """A node's part of the total: C{share} if it were well, and what is C{due} to it as it is."""

    share: int
    due: int


def floor_of(total: int, nodes: int) -> int:
    """What everybody gets: L{FLOOR}, but with the free seat no more than a fifth of the total altogether; or one, if
    that is no more than half of it.
    """
    seats = nodes + 1
    return max(min(FLOOR, total // (5 * seats)), min(1, total // (2 * seats)))


def fill(room: int, wants: Mapping[str, int]) -> dict[str, int]:
    """Part C{room} among those that want some: nobody gets more than it wants, and who gets less than that gets no less
    than anybody else, to within one.
    """
    left = max(0, room)
    waiting = sorted(wants, key=wants.__getitem__)
    parts: dict[str, int] = {}
    for number, name in enumerate(waiting):
        if wants[name] * (len(waiting) - number) > left:
            level, over = divmod(left, len(waiting) - number)
            # by name, since how much more they want changes all the time
            parts |= {name: level + (place < over) for place, name in enumerate(sorted(waiting[number:]))}
            break
        parts[name] = wants[name]
        left -= wants[name]
    return parts


def divide(total: int, reports: Iterable[Report], least_nodes: int = 1) -> dict[str, Part]:
    """Divide the total among those that report; the head of the module says how.

    @param least_nodes: how many there should be. It decides on the free seat only.
    @return: by name. What is due to all together is never more than the total.
    """
    by_name = {report.node: report for report in reports}
    floor = floor_of(total, len(by_name))
    room = total - floor if max(len(by_name), least_nodes) > 1 else total
    pressed = {name for name, report in by_name.items() if report.is_pressed}
    wants = {name: max(floor, report.demand * (8 if report.is_pressed else 5) // 4) for name, report in by_name.items()}
    shares = _spread(room, wants, pressed)
    dues = {
        name: _lessened(shares[name], floor, report.health) for name, report in by_name.items() if report.health < 1.0
    }
    rest = room - sum(dues.values())
    dues |= _spread(rest, {name: want for name, want in wants.items() if name not in dues}, pressed)
    return {name: Part(share, dues[name]) for name, share in shares.items()}


def _spread(room: int, wants: Mapping[str, int], pressed: Set[str]) -> dict[str, int]:
    """Like L{fill}, and what is left over is parted evenly, among the pressed if there are any."""
    parts = fill(room, wants)
    over = room - sum(parts.values())
    more = fill(over, dict.fromkeys(pressed & parts.keys() or parts, over))
    return {name: part + more.get(name, 0) for name, part in parts.items()}


def _lessened(share: int, floor: int, health: float) -> int:
    return max(min(floor, share), min(share, int(share * health)))


class _Peer:
    """Another node as we know it: its last report, since when that is known, and whether that is too long."""

    __slots__ = ("is_gone", "report", "seen_at")

    def __init__(self, report: Report, now: float) -> None:
        self.report, self.seen_at, self.is_gone = report, now, False


class Governor:
    """Decides on each new connection of a node; its head is the module's. It does nothing by itself.

    Its owner asks L{admit} for each new connection and says L{released} for each that was admitted and is closed. Once
    in L{EXCHANGE_SECONDS} it calls L{round}, writes the report into the list, reads the list after that, and hands it
    over, by L{hear} at once (which saves up to an exchange) or with the next L{round}. If the node L{claims} more then,
    one exchange may follow at once.

    @ivar node: the node's name.
    @ivar total: for the cluster. May be set; counts from the next round.
    @ivar nodes: how many nodes there should be. May be set as well.
    @ivar connections: how many are admitted and not released.
    @ivar limit: how many there may be.
    @ivar share: how many there might be if the node were well.
    @ivar refused: how many were refused, since the start.
    @ivar state: one of L{STATES}.
    @ivar known_nodes: how many share, as far as is known, this one included.
    @ivar health: how well it is.
    @ivar last_move: the last change of the limit, C{None} if there was none.
    """

    def __init__(
        self, node: str, life: str, now: float, total: int = TOTAL, nodes: int = 1, shared: bool = True
    ) -> None:
        """Set it up.

        @param life: names this process among those that bear C{node}, before and after.
        @param nodes: how many nodes there should be.
        @param shared: whether there is a list to share. Else the node has C{total / nodes} for itself.
        """
        if total < 0 or nodes < 1:
            raise ValueError(f"{total} connections for {nodes} nodes cannot be divided")
        self.node, self.total, self.nodes = node, total, nodes
        self.connections = self.refused = 0
        self.state = STARTING if shared else SINGLE
        self.known_nodes = 1
        self.limit = self.share = floor_of(total, nodes) if shared else total // nodes
        self.health = Health(now)
        self.last_move: Move | None = None
        self._life = life
        self._sequence = 0
        self._peers: dict[str, _Peer] = {}
        self._ask = self.limit
        self._hold_at_cut = 0
        self._published_demand = self._demand = 0
        self._refused_before = 0
        self._pressed_until = -inf
        self._confirmed = False
        self._sent_at = self._confirmed_at = now
        self._window_at = -inf
        self._successes = self._throttle = self._troubled = 0

    # For each connection and each answer.

    def admit(self) -> bool:
        """Decide on a new connection. If it is admitted, L{released} must follow once, when it is closed."""
        if self.connections < self.limit:
            self.connections += 1
            return True
        self.refused += 1
        self._throttle += 1
        return False

    def released(self) -> None:
        """A connection that had been admitted is closed.

        @raise ValueError: if there was none.
        """
        if self.connections < 1:
            raise ValueError("more connections were released than admitted")
        self.connections -= 1

    def note_latency(self, us: float, count: int = 1) -> None:
        """C{count} questions were answered without trouble, in C{us} microseconds each (their mean will do)."""
        self._successes += count
        self.health.note_latency(us, count)

    def note_lag(self, seconds: float) -> None:
        """The reactor came so much later than it should have; to be told several times a second, 0 too."""
        self.health.note_lag(seconds)

    def note_refusal(self) -> None:
        """A question got a 503 for want of capacity. One for want of a fresh price is not meant: fewer connections
        would bring no price.
        """
        self._troubled += 1
        self.health.note_refusal()

    # For the counters of the cluster.

    def tally(self) -> Tally:
        """What has not been told yet."""
        return Tally(self._successes, self._successes + self._troubled + self._throttle, self._throttle)

    def told(self, tally: Tally) -> None:
        """C{tally} was added to the counters."""
        self._successes -= tally.successes
        self._throttle -= tally.throttle
        self._troubled -= tally.total - tally.successes - tally.throttle

    # For the exchange.

    @property
    def claims(self) -> bool:
        """Whether it claims more than its limit: the next exchange will give it, as far as it fits."""
        return self._ask > self.limit

    @property
    def gone(self) -> list[Report]:
        """What those that are gone wrote last, as far as it is still in the list. It may be taken out of it, but only
        if it has not changed meanwhile.
        """
        return [peer.report for peer in self._peers.values() if peer.is_gone]

    @property
    def surplus(self) -> int:
        """How many connections are above the limit. Idle ones among them may be closed to give room sooner."""
        return max(0, self.connections - self.limit)

    def round(self, now: float, heard: Iterable[Report] | None = None) -> Report:
        """Close the round: draw the conclusions, and say what to tell.

        @param heard: the list as it was read after the last report was written, if L{hear} was not told of it. C{None}
            too if there was no answer.
        """
        if heard is not None:
            self.hear(now, heard)
        refused = self.refused - self._refused_before
        self._refused_before = self.refused
        if not self._sequence:
            self._confirmed_at = now
        in_demand = refused > 0 or self.connections >= IN_DEMAND * self.limit
        moved = False
        # the second of two rounds that follow each other at once has seen nothing, and would pass for a good window
        if not 0.0 <= now - self._window_at < EXCHANGE_SECONDS / 2:
            self._window_at = now
            moved = self.health.close_window(now, in_demand, self.connections <= self.limit)
        if refused:
            self._pressed_until = now + HOLD_SECONDS
        self._reckon_demand(self.connections + refused)
        if self.state == SINGLE:
            self.share = self.total // self.nodes
            self._stand_alone(now, self.share, self.health.reason if moved else "the total was set")
        elif now - self._confirmed_at >= SILENCE_SECONDS:
            self._cut_off(now)
        elif self.state == STARTING:  # the total may have become known since the node was made
            self.share = self._ask = floor_of(self.total, self.nodes)
            self._set_limit(now, self.share, "the total was set")
        elif moved:
            due = _lessened(self.share, floor_of(self.total, self.known_nodes), self.health.value)
            if due < self.limit:
                self._set_limit(now, due, self.health.reason)
                self._ask = due
        self._sequence += 1
        self._sent_at = now
        self._confirmed = False
        return Report(
            self.node,
            self._life,
            self._sequence,
            now,
            self.connections,
            self._published_demand,
            now < self._pressed_until,
            self.health.value,
            max(self.connections, self.limit, self._ask),
            self.limit,
        )

    def hear(self, now: float, reports: Iterable[Report]) -> bool:
        """The list was read, after the last report was written.

        @param reports: all of them, our own included.
        @return: whether it counts. It does not if our last report is not in it, or was in one before, or is so old
            that the others may forget us.
        """
        by_name = {report.node: report for report in reports}
        own = by_name.pop(self.node, None)
        if own is None or _stamp(own) != (self._life, self._sequence) or self._confirmed:
            return False
        if now - self._sent_at >= SILENCE_SECONDS:
            return False
        self._confirmed, self._confirmed_at = True, self._sent_at
        comes = self.state != SHARING
        self._look(now, by_name, afresh=comes)
        others = [peer.report for peer in self._peers.values() if not peer.is_gone]
        self.known_nodes = 1 + len(others)
        taken = sum(report.claim for report in others)
        fits = max(0, self.total - taken)
        parts = divide(self.total, [own, *others], least_nodes=self.nodes)
        self.share, due = parts[self.node]
        if comes:
            self.state = SHARING
            self._set_limit(now, min(self.limit, fits, due), f"shares with {len(others)} others")
        else:
            after = min(max(self.limit, min(self._ask, fits)), due)
            self._set_limit(now, after, self._reason(after, due))
        self._ask = max(self.limit, min(due, self._claim_more(parts, others, taken)))
        return True

    def _look(self, now: float, reports: Mapping[str, Report], afresh: bool) -> None:
        """Bring the peers up to date.

        @param afresh: whether we had no contact: whom we do not see may have had none either.
        """
        for name, peer in list(self._peers.items()):
            new = reports.get(name)
            if new is not None and _stamp(new) != _stamp(peer.report):
                self._peers[name] = _Peer(new, now)
            elif peer.is_gone:
                if new is None:
                    del self._peers[name]
            elif afresh:
                peer.seen_at = now
            else:
                peer.is_gone = now - peer.seen_at >= NODE_SECONDS
        for name in reports.keys() - self._peers.keys():
            self._peers[name] = _Peer(reports[name], now)

    def _claim_more(self, parts: Mapping[str, Part], others: Iterable[Report], taken: int) -> int:
        """What to claim: what we hold, and of the free room our part. All reckon the same parts of it."""
        held = max(self.connections, self.limit)
        seat = floor_of(self.total, len(parts)) if max(len(parts), self.nodes) > 1 else 0
        wants = {report.node: max(0, parts[report.node].due - report.claim) for report in others}
        wants[self.node] = max(0, parts[self.node].due - held)
        return held + fill(self.total - seat - taken - held, wants)[self.node]

    def _reason(self, limit: int, due: int) -> str:
        if limit < self.limit and due < self.share:
            return self.health.reason
        return "has room again" if limit > self.limit else "more is asked for elsewhere"

    def _reckon_demand(self, asked: int) -> None:
        self._demand = max(asked, self._demand // 3)
        is_other = abs(self._demand - self._published_demand) > max(1, self._published_demand // 20)
        if is_other or not self._demand:  # nobody keeps a place for a demand that is over
            self._published_demand = self._demand

    def _cut_off(self, now: float) -> None:
        nodes = max(self.nodes, self.known_nodes)
        part = self.total // nodes
        if self.state != CUT_OFF:
            self._hold_at_cut = part if self.state == STARTING else self.limit
            self.state = CUT_OFF
        self.share = min(part, self._hold_at_cut)
        self._stand_alone(now, part, f"cut off: a part of {nodes}")

    def _stand_alone(self, now: float, part: int, why: str) -> None:
        self._set_limit(now, min(self.share, _lessened(part, min(FLOOR, part), self.health.value)), why)
        self._ask = self.limit

    def _set_limit(self, now: float, limit: int, why: str) -> None:
        if limit != self.limit:
            self.last_move = Move(now, self.limit, limit, why)
            self.limit = limit


def _stamp(report: Report) -> tuple[str, int]:
    return report.life, report.sequence
