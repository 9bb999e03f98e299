"""Changes of state, and how many of them are kept."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.domain.transitions import LONGEST_WHY, PART, Change, Transitions

Things = dict[str, tuple[str, str]]


class ChangeTests(SynchronousTestCase):
    def test_first_look_is_no_change(self) -> None:
        ring = Transitions()
        self.assertEqual([], list(ring.see(1.0, {"feed okx": ("live", "")})))
        self.assertEqual((0, []), (ring.last, list(ring.after(0))))

    def test_a_turn(self) -> None:
        ring = Transitions()
        ring.see(1.0, {"feed okx": ("live", ""), "feed kraken": ("live", "")})
        turned = ring.see(2.0, {"feed okx": ("down", "refused"), "feed kraken": ("live", "")})
        self.assertEqual([Change(1, 2.0, "feed okx", "live", "down", "refused")], list(turned))
        self.assertEqual(turned, ring.after(0))
        self.assertEqual([], list(ring.after(1)))

    def test_another_reason_is_no_turn(self) -> None:
        ring = Transitions()
        ring.see(1.0, {"feed okx": ("down", "refused")})
        self.assertEqual([], list(ring.see(2.0, {"feed okx": ("down", "timed out")})))

    def test_coming_and_going(self) -> None:
        ring = Transitions()
        ring.see(1.0, {"a": ("up", "")})
        turned = ring.see(2.0, {"b": ("up", "new")})
        self.assertEqual(
            [Change(1, 2.0, "b", "", "up", "new"), Change(2, 2.0, "a", "up", "", "")],
            list(turned),
        )

    def test_the_first_look_may_see_nothing(self) -> None:
        ring = Transitions()
        ring.see(1.0, {})
        self.assertEqual(1, len(ring.see(2.0, {"a": ("up", "")})))

    def test_long_reasons_are_cut(self) -> None:
        ring = Transitions()
        ring.see(1.0, {"a": ("up", "")})
        self.assertEqual("x" * LONGEST_WHY, ring.see(2.0, {"a": ("away", "x" * 9_999)})[0].why)

    def test_too_few(self) -> None:
        self.assertRaises(ValueError, Transitions, PART - 1)

    def test_what_flaps_leaves_room(self) -> None:
        """The one turn of the database stays, however often a feed turns after it."""
        ring = Transitions(20)
        ring.see(0.0, {"database": ("up", ""), "feed": ("live", "")})
        for second in range(1, 1_001):
            ring.see(float(second), {"database": ("away", "why"), "feed": ("live" if second % 2 else "late", "")})
        kept = ring.after(0)
        self.assertEqual("database", kept[0].what)
        self.assertEqual(5, sum(change.what == "feed" for change in kept))
        self.assertEqual(ring.last, kept[-1].number)

    def test_many_that_flap_leave_room(self) -> None:
        """A network that comes and goes takes all feeds with it."""
        ring = Transitions(20)
        feeds = [f"feed {number}" for number in range(8)]
        ring.see(0.0, {"database": ("up", ""), **dict.fromkeys(feeds, ("live", ""))})
        for second in range(1, 101):
            feed = ("live" if second % 2 else "late", "")
            ring.see(float(second), {"database": ("away", "why"), **dict.fromkeys(feeds, feed)})
        kept = ring.after(0)
        self.assertEqual("database", kept[0].what)
        self.assertEqual((20, ring.last), (len(kept), kept[-1].number))


looks = st.lists(
    st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.sampled_from(("up", "away", "late")), st.just(""))),
    max_size=40,
)


class RingTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=200)
    @given(looks, st.integers(PART, 30))
    def test_what_is_kept(self, seen: list[Things], most: int) -> None:
        """Bounded, in order, the newest among it; all that were told lead from the first look to the last."""
        ring = Transitions(most)
        states: dict[str, str] = {}
        told: list[Change] = []
        for second, things in enumerate(seen):
            changes = ring.see(float(second), things)
            if second == 0:
                states = {what: state for what, (state, _) in things.items()}
            for change in changes:
                self.assertEqual(states.get(change.what, ""), change.before)
                self.assertNotEqual(change.before, change.after)
                states[change.what] = change.after
            told += changes
            self.assertEqual(
                {what: state for what, (state, _) in things.items()},
                {what: state for what, state in states.items() if state},
            )
        self.assertEqual(list(range(1, len(told) + 1)), [change.number for change in told])
        kept = ring.after(0)
        self.assertLessEqual(len(kept), most)
        self.assertEqual(sorted(change.number for change in kept), [change.number for change in kept])
        self.assertEqual([told[change.number - 1] for change in kept], list(kept))
        for what in {change.what for change in kept}:
            self.assertLessEqual(sum(change.what == what for change in kept), most // PART)
        if told:
            self.assertEqual(told[-1], kept[-1])
