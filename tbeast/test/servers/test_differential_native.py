"""The native lane and the ordinary way are one and the same to everybody outside.

As L{tbeast.test.servers.test_differential}, over real sockets; see L{tbeast.test.servers.nativedoor} for how.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tbeast.codecs.signatures import mac_of
from tbeast.servers import fastlane
from tbeast.servers.site import AT_A_TIME
from tbeast.servers.udp import PriceDatagrams
from tbeast.test.domain.boards import changed
from tbeast.test.native.parts import NativeCase
from tbeast.test.servers import test_differential as stories
from tbeast.test.servers import test_udp_reading as questions
from tbeast.test.servers.lanes import UNLIMITED, MemoryDoor, Step, answer_lookup, furnished, seen
from tbeast.test.servers.levels import Level, level_of, levelled, without_lanes
from tbeast.test.servers.nativedoor import NativeDesk, NativeDoor, furnish
from tbeast.test.servers.rooms import FREE, PARTNER, House, question, quote_of
from tbeast.test.servers.test_differential import HOT, passes, sends, sends_and_ends
from tbeast.testing.reactors import MemoryDatagramPort

# the counters of the native connections are in it, too
WHOLE = tuple(piece for piece in stories.WHOLE if b"/stats" not in piece)
BROKEN = stories.BROKEN


def asset_goes(door: Any) -> None:
    """It is in no table any more. (The native part names in the ledger what lies on the shelf, and asks no table.)"""
    door.house.adopt("BTC")


# Together they stay below the idle time, of which the native part has a clock of its own.
happenings = st.one_of(
    st.sampled_from([0.25, 1.0, 3.0]).map(passes),
    st.sampled_from([
        answer_lookup, stories.put_on_the_shelf, stories.put_there_from_the_future, stories.taken_from_the_shelf,
        asset_goes, stories.gate_shuts_or_opens, stories.keys_go_or_come, stories.ledger_closes, stories.ends,
        stories.closes,
    ]),
)  # fmt: skip


class AlikeCase(NativeCase):
    def assert_moments(self, wanted: Sequence[float], found: Sequence[float], tolerance: float) -> None:
        """They are the same but for what the turns took."""
        for one, other in zip(wanted, found, strict=True):
            self.assertLessEqual(abs(one - other), tolerance, (one, other))


class NativeDifferentialCase(AlikeCase):
    def assert_same(self, story: Sequence[Step]) -> Level:
        """Each step has the same outcome before both doors; give the last."""
        ordinary, native = MemoryDoor(House), NativeDoor()
        furnish(ordinary.house)
        try:
            for number, step in enumerate(story):
                step(ordinary)
                step(native)
                wanted, moments = level_of(ordinary.outcome())
                found, others = level_of(native.outcome())
                self.assertEqual(wanted, found, f"after step {number}")
                self.assert_moments(moments, others, native.tolerance)
                self.assertEqual(ordinary.is_read, native.is_read, f"after step {number}")
            self.assertEqual([], self.flushLoggedErrors(), "nothing that a client does is a mistake of ours")
            return level_of(native.outcome())[0]
        finally:
            native.shut()


class NativeDifferentialTests(NativeDifferentialCase):
    @settings(max_examples=150, deadline=None)
    @given(stories.stories(happenings, stories.pieces_of(WHOLE)))
    def test_any_story(self, story: list[Step]) -> None:
        self.assert_same(story)

    def test_each_piece(self) -> None:
        """Before it, behind it and in the same bytes stand plain questions."""
        for piece in (*WHOLE, *BROKEN):
            self.assert_same([sends(HOT), sends(piece), sends(HOT), sends(HOT * 3)])
            self.assert_same([sends(HOT + piece + HOT), sends(HOT)])
            self.assert_same([sends(HOT * AT_A_TIME + piece + HOT * AT_A_TIME)])
            self.assert_same([sends(piece * 3), sends(b"\r\n"), sends(HOT)])

    def test_every_cut(self) -> None:
        for data in (HOT + HOT, WHOLE[4] + HOT, b"\r\n" + HOT, b"\r\n\r\n" + HOT, WHOLE[6] + HOT):
            for cut in range(len(data) + 1):
                self.assert_same([sends(data[:cut]), passes(3.0), sends(data[cut:]), passes(3.0), answer_lookup])

    def test_half_closed_at_every_cut(self) -> None:
        for data in (HOT + HOT, HOT * (2 * AT_A_TIME + 1), WHOLE[6] + HOT):
            for cut in range(0, len(data) + 1, max(1, len(data) // 100)):
                self.assert_same([sends_and_ends(data[:cut]), answer_lookup])

    def test_happenings(self) -> None:
        for happening in (
            stories.put_on_the_shelf, stories.put_there_from_the_future, stories.taken_from_the_shelf, asset_goes,
            stories.gate_shuts_or_opens, stories.keys_go_or_come, stories.ledger_closes, stories.ends, stories.closes,
            passes(0.25), passes(3.0),
        ):  # fmt: skip
            self.assert_same([sends(HOT), happening, sends(HOT), sends(HOT * 2)])
            self.assert_same([sends(HOT), sends(HOT[:-1]), happening, sends(HOT[-1:])])

    def test_limits(self) -> None:
        """Nobody is asked twice whether a question may be asked, wherever in the bytes the limit is reached."""
        for key, most in ((FREE, 5), (UNLIMITED, 40)):
            asked = question("/price?asset=BTC", key)
            for together in (1, 3, 8, most - 1, most + 3):
                found = self.assert_same([sends(asked * together)] * (most // together + 2))
                # one was asked before
                self.assertEqual((most - 1, most), (found.sent.count(b" 200 OK"), max(found.used.values())))
        asked = question("/price?asset=BTC", FREE)
        found = self.assert_same([stories.taken_from_the_shelf, sends(asked * 3), sends(asked * 3)])
        self.assertEqual([4, 0, 2], [found.sent.count(code) for code in (b" 503 ", b" 200 OK", b" 429 ")])

    def test_it_is_the_native_lane(self) -> None:
        """What is compared here was answered by it."""
        door = NativeDoor()
        self.addCleanup(door.shut)
        for data in (HOT, question("/price?asset=bTc", UNLIMITED), question("/price?asset=BTC", FREE) * 4):
            door.send(data)
            self.assertTrue(door.is_native)
        self.assertEqual(6, door.house.lanes.figures()["requests"])
        door.send(question("/price?asset=ETH", PARTNER))
        self.assertFalse(door.is_native)


class ReturningTests(NativeDifferentialCase):
    """A connection goes back and forth between the lanes, and nobody can tell."""

    def setUp(self) -> None:
        self.patch(fastlane, "PLAIN_IN_A_ROW", 1)

    @settings(max_examples=150, deadline=None)
    @given(stories.stories(happenings, stories.pieces_of(WHOLE)))
    def test_any_story(self, story: list[Step]) -> None:
        self.assert_same(story)

    def test_each_piece(self) -> None:
        for piece in (*WHOLE, *BROKEN):
            self.assert_same([sends(piece), *[sends(HOT)] * 3, sends(piece + HOT), sends(HOT), sends(HOT * 2)])
            self.assert_same([sends(HOT + piece + HOT), *[sends(HOT)] * 2, sends(HOT + piece)])

    def test_every_cut(self) -> None:
        for cut in range(len(HOT)):
            self.assert_same([sends(HOT[:cut]), sends(HOT[cut:]), sends(HOT), sends(HOT[:cut]), sends(HOT[cut:] + HOT)])

    def test_half_closed_at_every_cut(self) -> None:
        for cut in range(0, len(HOT), 7):
            self.assert_same([sends(WHOLE[6]), sends(HOT), sends_and_ends(HOT + HOT[:cut])])

    def test_happenings(self) -> None:
        for happening in (
            stories.taken_from_the_shelf, stories.gate_shuts_or_opens, stories.keys_go_or_come, stories.ledger_closes,
            stories.closes, passes(3.0),
        ):  # fmt: skip
            self.assert_same(
                [sends(WHOLE[6]), sends(HOT), happening, sends(HOT), sends(HOT * 2), happening, sends(HOT)]
            )
        self.assert_same([sends(WHOLE[6]), sends(HOT), stories.ends])

    def test_it_goes_back_and_forth(self) -> None:
        """What is compared here does so."""
        door = NativeDoor()
        self.addCleanup(door.shut)
        for times in (1, 2, 3):
            door.send(question("/exchanges"))
            self.assertFalse(door.is_native)
            door.send(HOT)
            self.assertTrue(door.is_native)
            self.assertEqual(times, door.house.lanes.figures()["returned"])
            door.send(HOT)
        self.assertEqual((9, 3), (door.sent.count(b" 200 OK"), door.house.lanes.figures()["requests"]))


class MemoryDesk:
    """A house that answers datagrams, the ordinary way."""

    def __init__(self) -> None:
        self.house = house = furnished(House)
        furnish(house)
        protocol = PriceDatagrams(
            gate=house.gate, answers=house.answers, counters=house.counters, now=house.now, ledger=house.ledger
        )
        self._protocol = protocol
        self._port = MemoryDatagramPort(2679, protocol)
        self._port.startListening()

    def ask(self, datagram: bytes) -> list[bytes]:
        """Give what comes back."""
        before = len(self._port.sent)
        self._protocol.datagramReceived(datagram, questions.CLIENT)
        return [answer for answer, _ in self._port.sent[before:]]


EVENTS = st.one_of(
    st.tuples(st.just("pass"), st.sampled_from([0.25, 1.0, 40.0, 3600.0])),
    st.tuples(st.just("shut"), st.booleans()),
    st.tuples(st.just("take down"), st.sampled_from(["BTC", "ETH"])),
    st.tuples(st.just("put"), st.sampled_from(["BTC", "ETH", "SOL"])),
    st.tuples(st.just("go"), st.sampled_from(["BTC", "ETH"])),
    st.tuples(st.just("forget"), st.sampled_from([PARTNER, FREE])),
    st.tuples(st.just("incomplete"), st.booleans()),
    st.tuples(st.just("close"), st.just(True)),
)


class DatagramTests(AlikeCase):
    def assert_same(self, steps: Sequence[Any]) -> NativeDesk:
        """Each datagram has the same answers and leaves the same behind at both desks."""
        ordinary, native = MemoryDesk(), NativeDesk()
        self.addCleanup(native.shut)
        for house in (ordinary.house, native.house):
            house.put(quote_of("DOGE", 0.1, source="okx-ws"))
            house.view.rates["USDT"] = 0.5
        for step in steps:
            if isinstance(step, tuple) and len(step) == 2:
                for house in (ordinary.house, native.house):
                    self.happen(house, *step)
                continue
            datagram = self.signed(ordinary.house, *step) if isinstance(step, tuple) else step
            wanted = ordinary.ask(datagram)
            found = native.ask(datagram, len(wanted))
            self.assert_alike(wanted, found, native)
            outcomes = [level_of(without_lanes(self.seen(house))) for house in (ordinary.house, native.house)]
            self.assertEqual(outcomes[0][0], outcomes[1][0], datagram)
            self.assert_moments(outcomes[0][1], outcomes[1][1], native.tolerance)
        self.assertEqual([], self.flushLoggedErrors())
        # nothing came that was not to come
        native.answering.sendto(b"the end", native.asking.getsockname())
        self.assertEqual(b"the end", native.asking.recv(100))
        native.shut()
        return native

    def assert_alike(self, wanted: Sequence[bytes], found: Sequence[bytes], native: NativeDesk) -> None:
        for one, other in zip(wanted, found, strict=True):
            (text, moments), (other_text, others) = levelled(one), levelled(other)
            self.assertEqual(text, other_text)
            self.assert_moments(moments, others, native.tolerance)

    def seen(self, house: House) -> Any:
        house.counters.gather()
        return seen(house, b"", False)

    def signed(self, house: House, asset: str, id_text: str, seconds: int) -> bytes:
        account: Any = house.gate.keyring.find_by_id("freefreefr")
        text = f"~1|{account.key_id}|{int(house.time + seconds) * 1000}|{asset}|{id_text}".encode()
        return text + b"|" + mac_of(account.datagram_secret, text)

    def happen(self, house: House, event: str, what: Any) -> None:
        ring: Any = house.gate.keyring
        if event == "pass":
            house.time += what
        elif event == "shut":
            house.gate.is_shut = what
        elif event == "take down":
            house.shelf.take_down(what)
        elif event == "put" and what in house.answers.assets.assets:  # of no other anything is published
            house.put(quote_of(what, 7.25, fresh_until=house.time + 60.0, observed_at=house.time))
        elif event == "go":
            house.shelf.take_down(what)
            if what in house.answers.assets.assets:
                house.answers.adopt(changed(house.answers.assets, what))
        elif event == "forget":
            account = ring.keys.pop(what, None)
            forget = getattr(house.gate, "forget", None)
            if account is not None and forget is not None:
                forget(account)
        elif event == "incomplete":
            ring.is_complete = not what
        elif event == "close":
            house.ledger.is_closed = what

    @settings(max_examples=100, deadline=None)
    @given(st.lists(questions.DATAGRAMS | EVENTS, min_size=15, max_size=60))
    def test_any(self, steps: list[Any]) -> None:
        """Whatever comes, and whatever happens meanwhile."""
        self.assert_same(steps)

    def test_every_way_to_write(self) -> None:
        every = [
            questions.text_of(PARTNER, asset, id_text) for asset in questions.WRITTEN for id_text in questions.NUMBERED
        ]
        self.assert_same(every)

    def test_refused(self) -> None:
        """A key over its limit, in questions that are long enough for an answer and not; and what may follow."""
        short, long, partner = f"{FREE}|BTC".encode(), f"{FREE}|BTC|{'1' * 18}".encode(), f"{PARTNER}|BTC".encode()
        for event, answered in (
            (("pass", 0.25), 5), (("forget", FREE), 5), (("shut", True), 4), (("incomplete", True), 5),
            (("close", True), 4),
        ):  # fmt: skip
            native = self.assert_same([short, *[long] * 5, short, event, short, long, partner])
            self.assertEqual(answered, native.house.lanes.figures()["answers"])
